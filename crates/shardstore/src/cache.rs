//! The block cache: decoded index blocks, bounded in bytes.
//!
//! Invariant: a block is found only under the epoch of the extent that it was read from, so
//! nothing read before a reset is served after it.

use quick_cache::Weighter;

use crate::sync::Arc;
use crate::table::Block;

/// Where a block was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockKey {
    pub extent: u32,
    pub epoch: u32,
    pub offset: u32,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<BlockKey, Arc<Block>> for ByBytes {
    fn weight(&self, _: &BlockKey, block: &Arc<Block>) -> u64 {
        // What the entry costs the cache itself.
        const ENTRY_BYTES: usize = 96;
        (block.heap_bytes() + ENTRY_BYTES) as u64
    }
}

/// Blocks by where they were read from.
pub struct BlockCache {
    blocks: Option<quick_cache::sync::Cache<BlockKey, Arc<Block>, ByBytes>>,
}

impl BlockCache {
    /// Holds at most about `bytes`; 0 holds nothing.
    pub fn new(bytes: usize) -> BlockCache {
        const TYPICAL_BLOCK_BYTES: usize = 6 * 1024;
        let items = (bytes / TYPICAL_BLOCK_BYTES).max(8);
        let blocks = (bytes > 0)
            .then(|| quick_cache::sync::Cache::with_weighter(items, bytes as u64, ByBytes));
        BlockCache { blocks }
    }

    pub fn get(&self, key: &BlockKey) -> Option<Arc<Block>> {
        self.blocks.as_ref()?.get(key)
    }

    pub fn insert(&self, key: BlockKey, block: Arc<Block>) {
        if let Some(blocks) = &self.blocks {
            blocks.insert(key, block);
        }
    }

    /// Holds at most about `bytes` from now on. A cache that holds nothing stays one.
    pub fn set_bytes(&self, bytes: usize) {
        if let Some(blocks) = &self.blocks {
            blocks.set_capacity(bytes as u64);
        }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.blocks.as_ref().map_or(0, |blocks| blocks.weight())
    }
}
