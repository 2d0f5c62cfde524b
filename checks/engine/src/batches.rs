//! From the operations of a case to batches: what the bytes of a put are.

use shardstore::limits::{BATCH_ENTRIES_MAX, EXTENTS_START, KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::model::{self, Batch, Bytes};
use crate::ops::{Change, Fill};
use crate::tally::Trace;
use crate::world::World;

/// Bytes of a frame before its entries: header and one payload checksum; and of one entry
/// before its key. Only used to place embedded frames at an aligned offset.
const FRAME_OVERHEAD: usize = 96 + 8 + 24;

impl World {
    /// The batch as the model sees it.
    pub(crate) fn model_batch(&mut self, changes: &[Change], needs: Option<u64>) -> Batch {
        let version = self.model.next_version();
        let changes = changes
            .iter()
            .enumerate()
            .map(|(index, change)| {
                let key = self.key(change.key());
                let (bytes, stem_len) = (key.bytes.clone(), key.stem_len);
                (
                    bytes.clone(),
                    stem_len,
                    self.model_change(change, version, index, &bytes),
                )
            })
            .collect();
        Batch {
            version,
            changes,
            needs,
        }
    }

    fn model_change(
        &self,
        change: &Change,
        version: u64,
        index: usize,
        key: &[u8],
    ) -> model::Change {
        match change {
            Change::Put {
                value,
                payload,
                fill,
                ..
            } => {
                let stamp = self.stamp(version, index);
                let value_fill = if *fill == Fill::Zeros {
                    Fill::Zeros
                } else {
                    Fill::Unique
                };
                let value = self.content(value_fill, stamp, *value, 0);
                let before = FRAME_OVERHEAD + key.len() + value.len();
                let payload = self.content(*fill, !stamp, *payload, before);
                model::Change::Put(value, payload)
            }
            Change::Delete { .. } => model::Change::Delete,
            Change::Add { deltas, .. } => model::Change::Add(deltas.clone()),
        }
    }

    /// A number that no other put has.
    fn stamp(&self, version: u64, index: usize) -> u64 {
        let mut trace = Trace::default();
        trace.word(u64::from(self.step));
        trace.word(version);
        trace.word(index as u64);
        trace.value()
    }

    /// `before`: bytes of the frame before these, for embedding frames where a scanner that
    /// lost its way would look for them.
    fn content(&self, fill: Fill, stamp: u64, len: usize, before: usize) -> Bytes {
        let mut bytes = vec![0; len];
        match fill {
            Fill::Zeros => {}
            Fill::Unique => {
                let mut word = stamp;
                for chunk in bytes.chunks_mut(8) {
                    chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
                    word = word.rotate_left(9).wrapping_add(0x2545_f491_4f6c_dd1d);
                }
            }
            Fill::Magic => {
                for (index, chunk) in bytes.chunks_mut(4).enumerate() {
                    let word = if index % 3 == 2 {
                        [stamp as u8; 4]
                    } else {
                        *b"CLTf"
                    };
                    chunk.copy_from_slice(&word[..chunk.len()]);
                }
            }
            Fill::Frames(at) => {
                let unit = if stamp & 1 == 0 { 64 } else { 4096 };
                let skip = (unit - before % unit) % unit;
                if skip < len {
                    let medium = self.disk.medium();
                    let data = medium.capacity() - EXTENTS_START;
                    let from = EXTENTS_START + u64::from(at) * 64 % data;
                    bytes[skip..].copy_from_slice(&medium.read(from, len - skip));
                }
            }
        }
        bytes.into()
    }

    /// The batch as the engine gets it.
    pub(crate) fn store_batch(&self, batch: &Batch) -> shardstore::Batch {
        let mut written = shardstore::Batch::new();
        for (key, stem_len, change) in &batch.changes {
            let key = shardstore::Key::with_stem(&key[..], *stem_len);
            written = match change {
                model::Change::Put(value, payload) => {
                    written.put_with_payload(key, &value[..], &payload[..])
                }
                model::Change::Delete => written.delete(key),
                model::Change::Add(deltas) => written.merge(key, deltas),
            };
        }
        written
    }

    /// Whether a batch is past a limit, by the words of the interface.
    pub(crate) fn is_too_large(&self, batch: &Batch) -> bool {
        let geometry = &self.knobs.geometry;
        let (mut meta, mut payloads) = (0, 0);
        for (key, _, change) in &batch.changes {
            if key.len() > KEY_BYTES_MAX {
                return true;
            }
            meta += key.len();
            match change {
                model::Change::Put(value, payload) => {
                    if value.len() > VALUE_BYTES_MAX {
                        return true;
                    }
                    meta += value.len();
                    payloads += payload.len();
                }
                model::Change::Delete => {}
                model::Change::Add(deltas) => meta += deltas.len() * 8,
            }
        }
        batch.changes.len() > BATCH_ENTRIES_MAX
            || meta > geometry.batch_bytes_max()
            || payloads > geometry.payload_bytes_max as usize
    }
}
