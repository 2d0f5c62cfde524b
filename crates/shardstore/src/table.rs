//! Index tables: immutable sorted runs of records, cut into blocks, the blocks packed into
//! chunks, each chunk the payload of one frame.
//!
//! ```text
//! block    content, checksum (8) over table id, chunk, offset and content
//! data     per entry: varint shared, varint length and bytes of the key's rest, record
//! index    per data block: varint length and bytes of its last key, block reference
//! filter   descriptor (20), fingerprints: binary fuse filter over hashes of stems
//! ```
//!
//! Invariant: a block is used only after its checksum, which names its table, chunk and
//! offset, held; so a neighbour's or a predecessor's block never passes.

use xorf::{BinaryFuse8, DmaSerializable, Filter, FilterRef};

use crate::cache::{BlockCache, BlockKey};
use crate::checksum::{Checksummer, filter_hash};
use crate::codec::{Put, Reader};
use crate::disk::Read;
use crate::error::{Error, Place, Result};
use crate::frame::FrameRef;
use crate::limits::{KEY_BYTES_MAX, PAGE};
use crate::medium::Medium;
use crate::mutants::{self, Mutant};
use crate::record::Record;
use crate::sync::Arc;

const TRAILER_BYTES: usize = 8;
const DATA_BLOCK_BYTES: usize = PAGE - TRAILER_BYTES;
const INDEX_BLOCK_BYTES: usize = 4 * PAGE - TRAILER_BYTES - KEY_BYTES_MAX - 64;
const FILTER_STEMS_MIN: usize = 16;

/// A table's id: never used twice on a disk, not even after a crash.
pub type TableId = u64;

/// Where a block lies in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRef {
    /// Index into the table's chunks.
    pub chunk: u32,
    /// Byte offset in the chunk.
    pub offset: u32,
    /// Bytes, trailer included.
    pub len: u32,
}

impl BlockRef {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(u64::from(self.chunk));
        out.put_varint(u64::from(self.offset));
        out.put_varint(u64::from(self.len));
    }

    fn decode(reader: &mut Reader<'_>) -> Option<BlockRef> {
        let mut field = || u32::try_from(reader.varint()?).ok();
        Some(BlockRef {
            chunk: field()?,
            offset: field()?,
            len: field()?,
        })
    }
}

/// What the manifest says of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMeta {
    pub id: TableId,
    pub entries: u64,
    pub tombstones: u64,
    pub bytes: u64,
    pub smallest: Box<[u8]>,
    pub largest: Box<[u8]>,
    pub chunks: Vec<FrameRef>,
    /// Last key that each index block covers, and the block.
    pub index: Vec<(Box<[u8]>, BlockRef)>,
    pub filter: Option<BlockRef>,
}

impl TableMeta {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.id);
        out.put_varint(self.entries);
        out.put_varint(self.tombstones);
        out.put_varint(self.bytes);
        out.put_counted_bytes(&self.smallest);
        out.put_counted_bytes(&self.largest);
        out.put_varint(self.chunks.len() as u64);
        self.chunks.iter().for_each(|chunk| chunk.encode(out));
        out.put_varint(self.index.len() as u64);
        for (key, block) in &self.index {
            out.put_counted_bytes(key);
            block.encode(out);
        }
        out.put_u8(u8::from(self.filter.is_some()));
        if let Some(filter) = &self.filter {
            filter.encode(out);
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Option<TableMeta> {
        let id = reader.u64()?;
        let entries = reader.varint()?;
        let tombstones = reader.varint()?;
        let bytes = reader.varint()?;
        let smallest = reader.counted_bytes()?.into();
        let largest = reader.counted_bytes()?.into();
        let chunks = (0..reader.varint()?)
            .map(|_| FrameRef::decode(reader))
            .collect::<Option<Vec<_>>>()?;
        let index = (0..reader.varint()?)
            .map(|_| Some((reader.counted_bytes()?.into(), BlockRef::decode(reader)?)))
            .collect::<Option<Vec<_>>>()?;
        let filter = match reader.u8()? {
            0 => None,
            1 => Some(BlockRef::decode(reader)?),
            _ => return None,
        };
        let meta = TableMeta {
            id,
            entries,
            tombstones,
            bytes,
            smallest,
            largest,
            chunks,
            index,
            filter,
        };
        let fits = |block: &BlockRef| {
            meta.chunks.get(block.chunk as usize).is_some_and(|chunk| {
                u64::from(block.offset) + u64::from(block.len) <= u64::from(chunk.payload_len)
                    && block.len as usize >= TRAILER_BYTES
            })
        };
        let valid = meta.index.iter().all(|(_, block)| fits(block))
            && meta.filter.as_ref().is_none_or(fits)
            && !meta.index.is_empty();
        valid.then_some(meta)
    }
}

/// A decoded block, as the cache holds it.
#[derive(Debug)]
pub enum Block {
    Data(Box<[u8]>),
    Index(Vec<(Box<[u8]>, BlockRef)>),
    Filter {
        descriptor: [u8; 20],
        fingerprints: Box<[u8]>,
    },
}

impl Block {
    pub fn heap_bytes(&self) -> usize {
        match self {
            Block::Data(bytes) => bytes.len(),
            Block::Index(entries) => entries.iter().map(|(key, _)| key.len() + 48).sum(),
            Block::Filter { fingerprints, .. } => fingerprints.len() + 20,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum BlockKind {
    Data,
    Index,
    Filter,
}

/// Where a table's chunks go.
pub trait ChunkSink {
    /// Appends one chunk; returns where it is.
    fn append(&mut self, table: TableId, chunk: u32, payload: Vec<u8>) -> Result<FrameRef>;
}

/// Writes one table. Keys come in order, each once.
pub struct TableBuilder<'a> {
    checksummer: Checksummer,
    sink: &'a mut dyn ChunkSink,
    chunk_bytes_max: usize,
    meta: TableMeta,
    chunk: Vec<u8>,
    block: Vec<u8>,
    last_key: Vec<u8>,
    index_block: Vec<u8>,
    index_blocks: Vec<(Box<[u8]>, Vec<u8>)>,
    stems: Vec<u64>,
}

impl<'a> TableBuilder<'a> {
    pub fn new(medium: &Medium, id: TableId, sink: &'a mut dyn ChunkSink) -> TableBuilder<'a> {
        const CHUNK_BYTES: usize = 256 * 1024;
        TableBuilder {
            checksummer: medium.checksummer,
            sink,
            chunk_bytes_max: CHUNK_BYTES.min(medium.geometry.payload_bytes_max as usize),
            meta: TableMeta {
                id,
                entries: 0,
                tombstones: 0,
                bytes: 0,
                smallest: Box::default(),
                largest: Box::default(),
                chunks: Vec::new(),
                index: Vec::new(),
                filter: None,
            },
            chunk: Vec::new(),
            block: Vec::new(),
            last_key: Vec::new(),
            index_block: Vec::new(),
            index_blocks: Vec::new(),
            stems: Vec::new(),
        }
    }

    /// Whether the filter has no room for more stems (it must fit in one chunk).
    pub fn is_full(&self) -> bool {
        self.stems.len() >= self.chunk_bytes_max / 2
    }

    pub fn add(&mut self, key: &[u8], record: &Record) -> Result<()> {
        let shared = common_prefix(&self.last_key, key);
        let mut entry = Vec::with_capacity(key.len() + 64);
        entry.put_varint(shared as u64);
        entry.put_counted_bytes(&key[shared..]);
        record.encode(&mut entry);
        if !self.block.is_empty() && self.block.len() + entry.len() > DATA_BLOCK_BYTES {
            self.end_data_block()?;
            return self.add(key, record);
        }
        self.block.extend_from_slice(&entry);
        if self.meta.entries == 0 {
            self.meta.smallest = key.into();
        }
        self.meta.entries += 1;
        self.meta.tombstones += u64::from(matches!(record.content, crate::record::Content::Delete));
        self.stems
            .push(filter_hash(&key[..record.stem_len as usize]));
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        Ok(())
    }

    fn end_data_block(&mut self) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        let reference = self.place_block(block)?;
        let last_key = std::mem::take(&mut self.last_key);
        self.index_block.put_counted_bytes(&last_key);
        reference.encode(&mut self.index_block);
        self.meta.largest = last_key.as_slice().into();
        if self.index_block.len() > INDEX_BLOCK_BYTES {
            self.end_index_block();
        }
        Ok(())
    }

    fn end_index_block(&mut self) {
        if !self.index_block.is_empty() {
            let block = std::mem::take(&mut self.index_block);
            self.index_blocks.push((self.meta.largest.clone(), block));
        }
    }

    /// Puts a block into the current chunk, or the next one if it does not fit.
    fn place_block(&mut self, mut block: Vec<u8>) -> Result<BlockRef> {
        let len = block.len() + TRAILER_BYTES;
        assert!(
            len <= self.chunk_bytes_max,
            "a chunk holds the largest block"
        );
        if self.chunk.len() + len > self.chunk_bytes_max {
            self.end_chunk()?;
        }
        let chunk = self.meta.chunks.len() as u32;
        let offset = self.chunk.len() as u32;
        let checksum = block_checksum(&self.checksummer, self.meta.id, chunk, offset, &block);
        block.put_u64(checksum);
        self.chunk.extend_from_slice(&block);
        Ok(BlockRef {
            chunk,
            offset,
            len: len as u32,
        })
    }

    fn end_chunk(&mut self) -> Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        let number = self.meta.chunks.len() as u32;
        let frame = self.sink.append(self.meta.id, number, chunk)?;
        self.meta.bytes += frame.len();
        self.meta.chunks.push(frame);
        Ok(())
    }

    /// Ends the table; `None` if nothing was added.
    pub fn finish(mut self) -> Result<Option<TableMeta>> {
        if self.meta.entries == 0 {
            return Ok(None);
        }
        self.end_data_block()?;
        self.end_index_block();
        for (last_key, block) in std::mem::take(&mut self.index_blocks) {
            let reference = self.place_block(block)?;
            self.meta.index.push((last_key, reference));
        }
        if let Some(filter) = build_filter(&mut self.stems) {
            self.meta.filter = Some(self.place_block(filter)?);
        }
        self.end_chunk()?;
        Ok(Some(self.meta))
    }
}

fn build_filter(stems: &mut Vec<u64>) -> Option<Vec<u8>> {
    stems.sort_unstable();
    stems.dedup();
    if stems.len() < FILTER_STEMS_MIN {
        return None;
    }
    // Construction fails only by bad luck over many tries; a table without filter is correct.
    let filter = BinaryFuse8::try_from(&*stems).ok()?;
    let mut block = vec![0; BinaryFuse8::DESCRIPTOR_LEN];
    filter.dma_copy_descriptor_to(&mut block);
    block.extend_from_slice(&filter.fingerprints);
    Some(block)
}

const _: () = assert!(BinaryFuse8::DESCRIPTOR_LEN == 20);

fn block_checksum(sums: &Checksummer, id: TableId, chunk: u32, offset: u32, block: &[u8]) -> u64 {
    sums.of(&[
        &id.to_le_bytes(),
        &chunk.to_le_bytes(),
        &offset.to_le_bytes(),
        block,
    ])
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A table that the index uses.
#[derive(Debug)]
pub struct Table {
    pub meta: TableMeta,
}

/// What a lookup in tables needs.
#[derive(Clone, Copy)]
pub struct TableReader<'a> {
    pub medium: &'a Medium,
    pub cache: &'a BlockCache,
    pub how: Read,
    /// Whether blocks that were read are kept; background work leaves the cache alone.
    pub fill: bool,
}

impl TableReader<'_> {
    fn block(&self, table: &Table, at: BlockRef, kind: BlockKind) -> Result<Arc<Block>> {
        let chunk = table.meta.chunks[at.chunk as usize];
        let offset = chunk.offset + chunk.head_len() as u32 + at.offset;
        let epoch = if mutants::on(Mutant::M2) {
            0
        } else {
            chunk.epoch
        };
        let key = BlockKey {
            extent: chunk.extent,
            epoch,
            offset,
        };
        if let Some(block) = self.cache.get(&key) {
            return Ok(block);
        }
        let block = Arc::new(self.load(
            table,
            at,
            kind,
            Place {
                extent: key.extent,
                offset,
            },
        )?);
        if self.fill {
            self.cache.insert(key, block.clone());
        }
        Ok(block)
    }

    fn is_cached(&self, table: &Table, at: BlockRef) -> bool {
        let chunk = table.meta.chunks[at.chunk as usize];
        let offset = chunk.offset + chunk.head_len() as u32 + at.offset;
        self.cache
            .get(&BlockKey {
                extent: chunk.extent,
                epoch: chunk.epoch,
                offset,
            })
            .is_some()
    }

    fn load(&self, table: &Table, at: BlockRef, kind: BlockKind, place: Place) -> Result<Block> {
        let mut bytes = vec![0; at.len as usize];
        self.medium.read(place, &mut bytes, self.how)?;
        let corrupt = |what: &str| Error::Corrupt {
            place,
            what: what.to_owned(),
        };
        let content_len = bytes.len() - TRAILER_BYTES;
        let sums = &self.medium.checksummer;
        let (content, stored) = bytes.split_at(content_len);
        let checksum = block_checksum(sums, table.meta.id, at.chunk, at.offset, content);
        if checksum.to_le_bytes() != *stored {
            return Err(corrupt("an index block does not match its checksum"));
        }
        bytes.truncate(content_len);
        match kind {
            BlockKind::Data => Some(Block::Data(bytes.into_boxed_slice())),
            BlockKind::Index => decode_index(&bytes, &table.meta).map(Block::Index),
            BlockKind::Filter => decode_filter(&bytes),
        }
        .ok_or_else(|| corrupt("an index block cannot be decoded"))
    }

    /// Whether the table may hold a key with this stem.
    pub fn may_hold(&self, table: &Table, stem_hash: u64) -> Result<bool> {
        let Some(at) = table.meta.filter else {
            return Ok(true);
        };
        match &*self.block(table, at, BlockKind::Filter)? {
            Block::Filter {
                descriptor,
                fingerprints,
            } => {
                let filter = xorf::BinaryFuse8Ref::from_dma(descriptor, fingerprints);
                Ok(filter.contains(&stem_hash))
            }
            _ => Ok(true),
        }
    }

    /// A cursor that stands at the first key at or after `from`.
    pub fn seek(&self, table: &Arc<Table>, from: &[u8]) -> Result<TableCursor> {
        let index_position = table
            .meta
            .index
            .partition_point(|(last_key, _)| **last_key < *from);
        let mut cursor = TableCursor {
            table: table.clone(),
            index_position,
            index: None,
            block_position: 0,
            block: None,
            offset: 0,
            key: Vec::new(),
            record: None,
        };
        if let Some((_, at)) = table.meta.index.get(index_position) {
            let index = self.block(table, *at, BlockKind::Index)?;
            if let Block::Index(blocks) = &*index {
                cursor.block_position = blocks.partition_point(|(last_key, _)| **last_key < *from);
            }
            cursor.index = Some(index);
        }
        cursor.advance(self)?;
        while cursor.peek().is_some_and(|(key, _)| key < from) {
            cursor.advance(self)?;
        }
        Ok(cursor)
    }

    /// The record of `key`.
    pub fn get(&self, table: &Arc<Table>, key: &[u8], stem_hash: u64) -> Result<Option<Record>> {
        if *key < *table.meta.smallest || *key > *table.meta.largest {
            return Ok(None);
        }
        if !self.may_hold(table, stem_hash)? {
            return Ok(None);
        }
        let cursor = self.seek(table, key)?;
        Ok(cursor.record.filter(|_| cursor.key == key))
    }
}

fn decode_index(bytes: &[u8], meta: &TableMeta) -> Option<Vec<(Box<[u8]>, BlockRef)>> {
    let mut reader = Reader::new(bytes);
    let mut blocks = Vec::new();
    while !reader.is_empty() {
        let key = reader.counted_bytes()?;
        let block = BlockRef::decode(&mut reader)?;
        let chunk = meta.chunks.get(block.chunk as usize)?;
        let end = u64::from(block.offset) + u64::from(block.len);
        if end > u64::from(chunk.payload_len) || (block.len as usize) < TRAILER_BYTES {
            return None;
        }
        blocks.push((key.into(), block));
    }
    Some(blocks)
}

fn decode_filter(bytes: &[u8]) -> Option<Block> {
    let (descriptor, fingerprints) = bytes.split_first_chunk::<20>()?;
    // What the filter's arithmetic relies on, so that no bytes can make it index outside.
    let mut reader = Reader::new(&descriptor[8..]);
    let segment_length = reader.u32()?;
    let mask = reader.u32()?;
    let segment_count_length = reader.u32()?;
    let reach = u64::from(segment_count_length) + 2 * u64::from(segment_length);
    let sound = segment_length.is_power_of_two()
        && mask == segment_length - 1
        && reach <= fingerprints.len() as u64;
    sound.then(|| Block::Filter {
        descriptor: *descriptor,
        fingerprints: fingerprints.into(),
    })
}

/// A position in a table.
pub struct TableCursor {
    table: Arc<Table>,
    index_position: usize,
    index: Option<Arc<Block>>,
    block_position: usize,
    block: Option<Arc<Block>>,
    offset: usize,
    key: Vec<u8>,
    record: Option<Record>,
}

impl TableCursor {
    /// The entry it stands on; `None` behind the last one.
    pub fn peek(&self) -> Option<(&[u8], &Record)> {
        self.record
            .as_ref()
            .map(|record| (self.key.as_slice(), record))
    }

    /// Takes the entry and moves on.
    pub fn take(&mut self, reader: &TableReader<'_>) -> Result<Option<(Vec<u8>, Record)>> {
        let Some(record) = self.record.take() else {
            return Ok(None);
        };
        let key = self.key.clone();
        self.advance(reader)?;
        Ok(Some((key, record)))
    }

    /// Moves to the next entry.
    pub fn advance(&mut self, reader: &TableReader<'_>) -> Result<()> {
        loop {
            if let Some(block) = &self.block
                && let Block::Data(bytes) = &**block
                && self.offset < bytes.len()
            {
                return self.decode_entry();
            }
            self.record = None;
            if !self.next_block(reader)? {
                return Ok(());
            }
        }
    }

    fn decode_entry(&mut self) -> Result<()> {
        let Some(Block::Data(bytes)) = self.block.as_deref() else {
            return Ok(());
        };
        let mut fields = Reader::new(&bytes[self.offset..]);
        let decoded = (|| {
            let shared = usize::try_from(fields.varint()?).ok()?;
            let rest = fields.counted_bytes()?;
            if shared > self.key.len() || shared + rest.len() > KEY_BYTES_MAX {
                return None;
            }
            self.key.truncate(shared);
            self.key.extend_from_slice(rest);
            Record::decode(&mut fields).filter(|r| r.stem_len as usize <= self.key.len())
        })();
        let Some(record) = decoded else {
            let place = Place {
                extent: self.table.meta.chunks[0].extent,
                offset: 0,
            };
            let what = format!(
                "an entry of index table {} cannot be decoded",
                self.table.meta.id
            );
            return Err(Error::Corrupt { place, what });
        };
        self.offset = bytes.len() - fields.remaining();
        self.record = Some(record);
        Ok(())
    }

    /// Loads the data block at the cursor's position and steps the position past it.
    fn next_block(&mut self, reader: &TableReader<'_>) -> Result<bool> {
        loop {
            if self.index.is_none() {
                let Some((_, at)) = self.table.meta.index.get(self.index_position) else {
                    return Ok(false);
                };
                self.index = Some(reader.block(&self.table, *at, BlockKind::Index)?);
                self.block_position = 0;
            }
            let block_at = |position: usize| match self.index.as_deref() {
                Some(Block::Index(blocks)) => blocks.get(position).map(|(_, at)| *at),
                _ => None,
            };
            let mut at = block_at(self.block_position);
            if mutants::on(Mutant::M24) && at.is_some_and(|at| !reader.is_cached(&self.table, at)) {
                at = block_at(self.block_position + 1).or(at);
            }
            let Some(at) = at else {
                self.index = None;
                self.index_position += 1;
                continue;
            };
            self.block = Some(reader.block(&self.table, at, BlockKind::Data)?);
            self.block_position += 1;
            self.offset = 0;
            self.key.clear();
            return Ok(true);
        }
    }
}
