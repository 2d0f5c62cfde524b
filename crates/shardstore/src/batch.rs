//! What a caller writes: a batch of entries that becomes durable and visible as one.

use crate::completion::Dependency;
use crate::error::{Error, Result};
use crate::limits::{BATCH_ENTRIES_MAX, Geometry, KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// A key: a *stem* followed by a suffix. [`Store::first`](crate::Store::first) finds the
/// first live key of a stem without a scan, because filters are built over stems.
/// A plain key is its own stem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub(crate) bytes: Vec<u8>,
    pub(crate) stem_len: usize,
}

impl Key {
    /// A key without a suffix.
    pub fn plain(bytes: impl Into<Vec<u8>>) -> Key {
        let bytes = bytes.into();
        Key {
            stem_len: bytes.len(),
            bytes,
        }
    }

    /// A key whose first `stem_len` bytes are its stem.
    pub fn with_stem(bytes: impl Into<Vec<u8>>, stem_len: usize) -> Key {
        let bytes = bytes.into();
        assert!(stem_len <= bytes.len(), "a stem is a prefix of its key");
        Key { bytes, stem_len }
    }

    /// The whole key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The stem.
    pub fn stem(&self) -> &[u8] {
        &self.bytes[..self.stem_len]
    }
}

/// What happens to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The key now has this value, and a payload (possibly empty) of its own.
    Put {
        /// Small; kept in the index, returned by scans.
        value: Vec<u8>,
        /// Large; stays where it was appended, read by
        /// [`Store::read_payload`](crate::Store::read_payload).
        payload: Vec<u8>,
    },
    /// The key is gone.
    Delete,
    /// Adds to the counters that the key's value holds: little-endian `i64`s, each added
    /// with wrap-around; a missing counter counts as 0. Commutative, so that
    /// concurrent batches need no lock. A key is either only merged and deleted, or only put
    /// and deleted.
    Merge(Vec<i64>),
}

/// Entries that are committed together in one frame.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(crate) entries: Vec<(Key, Op)>,
    pub(crate) after: Vec<Dependency>,
    pub(crate) frees_space: bool,
    pub(crate) is_cold: bool,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds a put of a value without payload.
    pub fn put(self, key: Key, value: impl Into<Vec<u8>>) -> Batch {
        self.put_with_payload(key, value, Vec::new())
    }

    /// Adds a put.
    pub fn put_with_payload(
        mut self,
        key: Key,
        value: impl Into<Vec<u8>>,
        payload: impl Into<Vec<u8>>,
    ) -> Batch {
        self.entries.push((
            key,
            Op::Put {
                value: value.into(),
                payload: payload.into(),
            },
        ));
        self
    }

    /// Adds a delete.
    pub fn delete(mut self, key: Key) -> Batch {
        self.entries.push((key, Op::Delete));
        self
    }

    /// Adds a merge of counters.
    pub fn merge(mut self, key: Key, deltas: &[i64]) -> Batch {
        self.entries.push((key, Op::Merge(deltas.to_vec())));
        self
    }

    /// The batch is issued to the disk only after `dependency` is persistent; if that fails,
    /// so does the batch.
    pub fn after(mut self, dependency: Dependency) -> Batch {
        self.after.push(dependency);
        self
    }

    /// Says that this batch exists to free space, so that it may use the reserve that keeps
    /// deletes working on a full disk.
    pub fn frees_space(mut self) -> Batch {
        self.frees_space = true;
        self
    }

    /// Nobody is going to read soon what it puts: memory that it takes once it is durable has
    /// better uses.
    #[must_use]
    pub fn cold(mut self) -> Batch {
        self.is_cold = true;
        self
    }

    /// Whether it was said to exist to free space.
    pub fn is_freeing(&self) -> bool {
        self.frees_space
    }

    /// The entries in the order they were added. A later entry of the same key wins.
    pub fn entries(&self) -> &[(Key, Op)] {
        &self.entries
    }

    /// Checks every limit.
    pub(crate) fn validate(&self, geometry: &Geometry) -> Result<()> {
        let check = |what, is, limit| {
            if is > limit {
                Err(Error::TooLarge { what, is, limit })
            } else {
                Ok(())
            }
        };
        check(
            "the number of entries in a batch",
            self.entries.len(),
            BATCH_ENTRIES_MAX,
        )?;
        let mut meta = 0;
        let mut payload_bytes = 0;
        for (key, op) in &self.entries {
            check("a key", key.bytes.len(), KEY_BYTES_MAX)?;
            meta += key.bytes.len();
            match op {
                Op::Put { value, payload } => {
                    check(
                        "a value",
                        value.len(),
                        VALUE_BYTES_MAX.min(geometry.batch_bytes_max()),
                    )?;
                    meta += value.len();
                    payload_bytes += payload.len();
                }
                Op::Delete => {}
                Op::Merge(deltas) => {
                    check("a merge", deltas.len(), 16)?;
                    meta += deltas.len() * 8;
                }
            }
        }
        check(
            "the keys and values of a batch",
            meta,
            geometry.batch_bytes_max(),
        )?;
        check(
            "the payload of a batch",
            payload_bytes,
            geometry.payload_bytes_max as usize,
        )
    }
}
