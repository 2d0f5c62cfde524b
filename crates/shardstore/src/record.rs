//! What the index holds for a key, and how a newer record combines with an older one.

use crate::codec::{Put, Reader};
use crate::frame::{FrameRef, decode_deltas};
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::sync::Arc;

/// Where a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locator {
    /// The frame that carries it.
    pub frame: FrameRef,
    /// Where it begins in the frame's payload.
    pub payload_offset: u32,
    /// Its length in bytes, never 0.
    pub payload_len: u32,
}

/// What a key has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A value, and a payload if it has one.
    Put {
        /// Kept in the index.
        value: Arc<[u8]>,
        /// `None`: the payload is empty.
        locator: Option<Locator>,
    },
    /// Nothing; hides older records.
    Delete,
    /// Added to what older records say.
    Merge(Box<[i64]>),
}

/// A key's record in memtable or table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Length of the key's stem.
    pub stem_len: u16,
    /// The sequence under which it was committed.
    pub seq: u64,
    /// No frame of this key older than this sequence can be on the disk any more. A
    /// tombstone goes only when no extent can hold a frame between here and its own sequence.
    pub oldest: u64,
    /// What the key has.
    pub content: Content,
}

impl Record {
    /// The locator of its payload.
    pub fn locator(&self) -> Option<&Locator> {
        match &self.content {
            Content::Put { locator, .. } => locator.as_ref(),
            _ => None,
        }
    }

    /// Bytes that this record holds in memory, roughly.
    pub fn heap_bytes(&self) -> usize {
        match &self.content {
            Content::Put { value, .. } => value.len() + 16,
            Content::Delete => 0,
            Content::Merge(deltas) => deltas.len() * 8,
        }
    }

    /// This record over an older one of the same key.
    pub fn over(self, older: &Record) -> Record {
        let content = match (self.content, &older.content) {
            (Content::Merge(deltas), Content::Merge(base)) => Content::Merge(add(&deltas, base)),
            (Content::Merge(deltas), Content::Delete) => counters(&deltas),
            (Content::Merge(deltas), Content::Put { value, .. }) => {
                counters(&add(&deltas, &decode_deltas(value).unwrap_or_default()))
            }
            (content, _) => content,
        };
        Record {
            content,
            oldest: self.oldest.min(older.oldest),
            ..self
        }
    }

    /// The value that a reader sees: a merge without anything below it counts from 0.
    pub fn settled(self) -> Record {
        let content = match self.content {
            Content::Merge(deltas) => counters(&deltas),
            content => content,
        };
        Record { content, ..self }
    }

    /// Appends the record, without its key, to a table block.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (op, value): (u8, &[u8]) = match &self.content {
            Content::Put {
                value,
                locator: None,
            } => (1, value),
            Content::Put {
                value,
                locator: Some(_),
            } => (2, value),
            Content::Delete => (3, &[]),
            Content::Merge(_) => (4, &[]),
        };
        out.put_u8(op);
        out.put_varint(u64::from(self.stem_len));
        out.put_varint(self.seq);
        out.put_varint(self.seq.saturating_sub(self.oldest));
        match &self.content {
            Content::Merge(deltas) => {
                out.put_varint(deltas.len() as u64 * 8);
                deltas
                    .iter()
                    .for_each(|delta| out.extend_from_slice(&delta.to_le_bytes()));
            }
            _ => out.put_counted_bytes(value),
        }
        if let Some(locator) = self.locator() {
            locator.frame.encode(out);
            out.put_u32(locator.payload_offset);
            out.put_u32(locator.payload_len);
        }
    }

    /// Reads what [`encode`](Record::encode) wrote; `None` if the bytes are no record.
    pub fn decode(reader: &mut Reader<'_>) -> Option<Record> {
        let op = reader.u8()?;
        let stem_len = u16::try_from(reader.varint()?).ok()?;
        if stem_len as usize > KEY_BYTES_MAX {
            return None;
        }
        let seq = reader.varint()?;
        let oldest = seq.checked_sub(reader.varint()?)?;
        let value = reader.counted_bytes()?;
        if value.len() > VALUE_BYTES_MAX {
            return None;
        }
        let content = match op {
            1 => Content::Put {
                value: value.into(),
                locator: None,
            },
            2 => {
                let frame = FrameRef::decode(reader)?;
                let payload_offset = reader.u32()?;
                let payload_len = reader.u32()?;
                let end = payload_offset.checked_add(payload_len)?;
                if payload_len == 0 || end > frame.payload_len {
                    return None;
                }
                let locator = Locator {
                    frame,
                    payload_offset,
                    payload_len,
                };
                Content::Put {
                    value: value.into(),
                    locator: Some(locator),
                }
            }
            3 => Content::Delete,
            4 => Content::Merge(decode_deltas(value)?),
            _ => return None,
        };
        Some(Record {
            stem_len,
            seq,
            oldest,
            content,
        })
    }
}

fn counters(deltas: &[i64]) -> Content {
    let value: Vec<u8> = deltas
        .iter()
        .flat_map(|delta| delta.to_le_bytes())
        .collect();
    Content::Put {
        value: value.into(),
        locator: None,
    }
}

fn add(a: &[i64], b: &[i64]) -> Box<[i64]> {
    (0..a.len().max(b.len()))
        .map(|i| {
            let [a, b] = [a, b].map(|side| side.get(i).copied().unwrap_or(0));
            a.wrapping_add(b)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64, content: Content) -> Record {
        Record {
            stem_len: 0,
            seq,
            oldest: seq,
            content,
        }
    }

    #[test]
    fn merges_fold_from_newest_to_oldest() {
        let older = record(1, Content::Merge(vec![1, 10].into()));
        let newer = record(2, Content::Merge(vec![5].into()));
        let both = newer.clone().over(&older);
        assert_eq!(both.content, Content::Merge(vec![6, 10].into()));
        assert_eq!((both.seq, both.oldest), (2, 1));
        let after_delete = newer.over(&record(1, Content::Delete));
        assert_eq!(after_delete.content, counters(&[5]));
        // A merge after that adds to the counters that start at the delete.
        let third = record(3, Content::Merge(vec![1].into())).over(&after_delete);
        assert_eq!(third.content, counters(&[6]));
    }

    #[test]
    fn records_round_trip_and_truncations_are_refused() {
        let frame = FrameRef {
            extent: 1,
            epoch: 2,
            offset: 3,
            body_len: 4,
            payload_len: 50,
        };
        let locator = Locator {
            frame,
            payload_offset: 6,
            payload_len: 7,
        };
        for content in [
            Content::Put {
                value: b"v".as_slice().into(),
                locator: None,
            },
            Content::Put {
                value: b"".as_slice().into(),
                locator: Some(locator),
            },
            Content::Delete,
            Content::Merge(vec![-1].into()),
        ] {
            let record = Record {
                stem_len: 3,
                seq: 300,
                oldest: 7,
                content,
            };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(Record::decode(&mut Reader::new(&bytes)), Some(record));
            for len in 0..bytes.len() {
                assert_eq!(Record::decode(&mut Reader::new(&bytes[..len])), None);
            }
        }
    }
}
