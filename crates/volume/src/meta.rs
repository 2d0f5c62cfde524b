//! Metadata: an ordered key space, cut into slices by key range.
//!
//! ```text
//! engine key   01 | the caller's key
//! ```
//! A batch is atomic within one slice; today one slice holds everything.

use shardstore::{Batch, Dependency, Found, Key, Op};

/// First byte of the engine keys that hold metadata.
pub(crate) const META_PREFIX: u8 = 0x01;

/// An entry of the metadata key space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaEntry {
    /// The key as the caller gave it.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// Bytes of the body kept beside the value, in bytes; read it with
    /// [`VolumeSnapshot::meta_body`](crate::VolumeSnapshot::meta_body).
    pub body_len: u32,
}

impl From<Found> for MetaEntry {
    fn from(found: Found) -> MetaEntry {
        MetaEntry {
            key: found.key().get(1..).unwrap_or_default().to_vec(),
            value: found.value().to_vec(),
            body_len: found.payload_len(),
        }
    }
}

/// One page of a scan.
#[derive(Debug, Clone, Default)]
pub struct MetaPage {
    /// In key order.
    pub entries: Vec<MetaEntry>,
    /// Where the next page starts; `None`: the range is exhausted.
    pub next: Option<Vec<u8>>,
}

/// What its author read, and what must still be so when the batch commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// A stem.
    pub stem: Vec<u8>,
    /// The first live key of the stem; `None`: there is none.
    pub first: Option<Vec<u8>>,
}

/// Changes to metadata that become durable and visible as one.
#[derive(Debug, Clone, Default)]
pub struct MetaBatch {
    pub(crate) batch: Batch,
    pub(crate) expectations: Vec<Expectation>,
    freeing: bool,
}

/// The engine's form of a key.
pub(crate) fn raw_key(key: &Key) -> Key {
    Key::with_stem(raw_bytes(key.as_bytes()), 1 + key.stem().len())
}

pub(crate) fn raw_bytes(key: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(1 + key.len());
    raw.push(META_PREFIX);
    raw.extend_from_slice(key);
    raw
}

impl MetaBatch {
    /// An empty batch.
    pub fn new() -> MetaBatch {
        MetaBatch::default()
    }

    /// Adds what must hold for the batch to commit. Only a store with several writers needs
    /// to check it: in an embedded one the caller's locks see to it, and debug builds assert
    /// that they do.
    pub fn expect(mut self, stem: Vec<u8>, first: Option<Vec<u8>>) -> MetaBatch {
        self.expectations.push(Expectation { stem, first });
        self
    }

    fn map(mut self, change: impl FnOnce(Batch) -> Batch) -> MetaBatch {
        self.batch = change(self.batch);
        self
    }

    /// Adds a put of a value and a body, which may be empty.
    pub fn put(self, key: &Key, value: Vec<u8>, body: Vec<u8>) -> MetaBatch {
        self.map(|batch| batch.put_with_payload(raw_key(key), value, body))
    }

    /// Adds a delete.
    pub fn delete(self, key: &Key) -> MetaBatch {
        self.map(|batch| batch.delete(raw_key(key)))
    }

    /// Adds to counters, as [`Op::Merge`] says.
    pub fn merge(self, key: &Key, deltas: &[i64]) -> MetaBatch {
        self.map(|batch| batch.merge(raw_key(key), deltas))
    }

    /// The batch is written only after this is persistent.
    pub fn after(self, dependency: Dependency) -> MetaBatch {
        self.map(|batch| batch.after(dependency))
    }

    /// Says that this batch exists to free space, so that it works on a full disk.
    pub fn frees_space(mut self) -> MetaBatch {
        self.freeing = true;
        self.map(Batch::frees_space)
    }

    /// Whether it was said to exist to free space.
    pub fn is_freeing(&self) -> bool {
        self.freeing
    }

    /// The changes in the order they were added: the caller's key, and what happens to it.
    pub fn changes(&self) -> impl Iterator<Item = (&[u8], &Op)> {
        self.batch
            .entries()
            .iter()
            .map(|(key, op)| (&key.as_bytes()[1..], op))
    }

    /// What must hold for the batch to commit.
    pub fn expectations(&self) -> &[Expectation] {
        &self.expectations
    }
}

/// A range of metadata keys, kept on named disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The first key; the slice reaches to the next one's.
    pub from: Vec<u8>,
    /// The disks that each hold all of it, by their number in the set.
    pub disks: Vec<usize>,
}

/// Which slice a key is in. Versioned, so that disks can tell an old map from a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceMap {
    version: u64,
    slices: Vec<Slice>,
}

impl SliceMap {
    /// One slice for all keys, on the first disk.
    pub fn single() -> SliceMap {
        SliceMap {
            version: 1,
            slices: vec![Slice {
                from: Vec::new(),
                disks: vec![0],
            }],
        }
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The slice that a key is in.
    pub fn slice_of(&self, key: &[u8]) -> &Slice {
        let after = self
            .slices
            .partition_point(|slice| slice.from.as_slice() <= key);
        // The first slice starts at the empty key, so one always begins at or before `key`.
        &self.slices[after.saturating_sub(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_the_slice_that_begins_before_it() {
        let slice = |from: &[u8], disk| Slice {
            from: from.to_vec(),
            disks: vec![disk],
        };
        let map = SliceMap {
            version: 2,
            slices: vec![slice(b"", 0), slice(b"m", 1)],
        };
        assert_eq!(map.slice_of(b"").disks, [0]);
        assert_eq!(map.slice_of(b"lzzz").disks, [0]);
        assert_eq!(map.slice_of(b"m").disks, [1]);
        assert_eq!(map.slice_of(b"\xff").disks, [1]);
        assert_eq!(SliceMap::single().slice_of(b"x").disks, [0]);
    }

    #[test]
    fn a_batch_keeps_stems_and_hides_the_prefix() {
        let key = Key::with_stem(*b"stem-suffix", 4);
        let batch = MetaBatch::new()
            .put(&key, b"v".to_vec(), Vec::new())
            .delete(&key);
        assert_eq!(batch.batch.entries()[0].0.stem(), b"\x01stem");
        let keys: Vec<_> = batch.changes().map(|(key, _)| key).collect();
        assert_eq!(keys, [b"stem-suffix", b"stem-suffix"]);
    }
}
