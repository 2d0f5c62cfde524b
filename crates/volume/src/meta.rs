//! Metadata: an ordered key space, cut into slices (see `slices`).
//!
//! ```text
//! engine key   01 | u32 BE slice | the caller's key within the slice
//! ```
//! A batch is atomic within one slice. The callers' keys begin with their slice's number.

use shardstore::{Batch, Dependency, Found, Key, Op};

use crate::SliceId;

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
pub enum Expectation {
    /// The first live key of a stem.
    First {
        /// The stem.
        stem: Vec<u8>,
        /// `None`: there is none.
        first: Option<Vec<u8>>,
    },
    /// A key has this value.
    Value {
        /// The key.
        key: Key,
        /// Its value.
        value: Vec<u8>,
    },
}

/// Changes to metadata that become durable and visible as one.
#[derive(Debug, Clone, Default)]
pub struct MetaBatch {
    pub(crate) batch: Batch,
    pub(crate) expectations: Vec<Expectation>,
    freeing: bool,
    pub(crate) after: Vec<Dependency>,
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
        self.expectations.push(Expectation::First { stem, first });
        self
    }

    /// Adds that a key has this very value, as [`expect`](MetaBatch::expect).
    pub fn expect_value(mut self, key: &Key, value: Vec<u8>) -> MetaBatch {
        let key = key.clone();
        self.expectations.push(Expectation::Value { key, value });
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
    pub fn after(mut self, dependency: Dependency) -> MetaBatch {
        self.after.push(dependency);
        self
    }

    /// What must be persistent before the batch is written.
    pub fn comes_after(&self) -> &[Dependency] {
        &self.after
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

    /// The slice that every changed key is in; `None` if they are in several or in none.
    pub fn slice(&self) -> Option<SliceId> {
        let slice_of = |key| SliceId::split(key).map(|(slice, _)| slice);
        let mut slices = self.changes().map(|(key, _)| slice_of(key));
        let first = slices.next()??;
        slices.all(|other| other == Some(first)).then_some(first)
    }

    /// What must hold for the batch to commit.
    pub fn expectations(&self) -> &[Expectation] {
        &self.expectations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
