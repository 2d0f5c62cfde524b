//! The keys of a case: few, so that operations meet; nasty, so that parsers are tempted.

use simdisk::Rng;

use crate::model::Bytes;

/// A key with its stem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolKey {
    /// The whole key.
    pub bytes: Bytes,
    /// How much of it is the stem.
    pub stem_len: usize,
    /// Whether it holds counters (only merged and deleted) or values (only put and deleted).
    pub counter: bool,
}

impl PoolKey {
    /// As the engine wants it.
    pub fn to_key(&self) -> shardstore::Key {
        shardstore::Key::with_stem(&self.bytes[..], self.stem_len)
    }

    /// The stem.
    pub fn stem(&self) -> &[u8] {
        &self.bytes[..self.stem_len]
    }
}

/// All keys that a case uses.
#[derive(Debug, Clone)]
pub struct KeyPool {
    /// The ones that single operations use.
    pub hot: Vec<PoolKey>,
    /// The ones that bulk operations use.
    pub bulk: Vec<PoolKey>,
}

/// Most keys that bulk operations use.
pub const BULK_KEYS: usize = 96;

/// (key, length of stem): relatives by prefix with different stems, the frame and superblock
/// magics, the empty key, the largest bytes.
const NASTY: [(&[u8], usize); 14] = [
    (b"a", 1),
    (b"a\0", 1),
    (b"a\x01", 1),
    (b"a\xff", 1),
    (b"aa", 2),
    (b"ab", 1),
    (b"b", 1),
    (b"", 0),
    (b"CLTf", 4),
    (b"CLTf\x01\x01\0\0", 4),
    (b"cullet01", 8),
    (b"\0", 1),
    (b"\xff\xff\xff\xff", 4),
    (b"m/1", 2),
];

impl KeyPool {
    /// Draws a pool.
    pub fn generate(rng: &mut Rng) -> KeyPool {
        let count = rng.between(3, 8) as usize;
        let mut hot: Vec<PoolKey> = Vec::new();
        while hot.len() < count {
            let (bytes, stem_len) = *rng.pick(&NASTY);
            let mut bytes = bytes.to_vec();
            if rng.one_in(24) {
                bytes.resize(shardstore::limits::KEY_BYTES_MAX, b'L');
            }
            let key = PoolKey {
                bytes: bytes.into(),
                stem_len,
                counter: rng.one_in(4),
            };
            if hot.iter().all(|other| other.bytes != key.bytes) {
                hot.push(key);
            }
        }
        // At least one of each sort, so that no operation is without a key.
        hot[0].counter = false;
        hot[1].counter = true;
        let bulk = (0..BULK_KEYS)
            .map(|index| PoolKey {
                bytes: format!("k{:02}/{index:03}", index / 8).into_bytes().into(),
                stem_len: 4,
                counter: false,
            })
            .collect();
        KeyPool { hot, bulk }
    }

    /// Every key.
    pub fn all(&self) -> impl Iterator<Item = &PoolKey> {
        self.hot.iter().chain(&self.bulk)
    }

    /// Every stem, once.
    pub fn stems(&self) -> std::collections::BTreeSet<&[u8]> {
        self.all().map(PoolKey::stem).collect()
    }
}
