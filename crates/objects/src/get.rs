//! Reading an object.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use volume::{BlobPin, BlobReader, Key, ProbeBudget};

use crate::change::Current;
use crate::keys::{MetaKey, decode_meta_key, stored_object_key};
use crate::limits::{GET_TRIES, PROBE_LOOKUPS, PROBE_TIME};
use crate::meta_store::MetaView;
use crate::parts::{CHUNK_ENTRIES, PartCursor, PartsRef};
use crate::put::check_key;
use crate::record::Body;
use crate::{AccountId, Checksum, Error, ObjectInfo, Objects, Result};

/// One version of an object: its bytes stay readable while the handle or its reader lives,
/// even if the object is overwritten or deleted. A small body is read from a view, so begin
/// soon; a larger one is pinned by itself, and holds nothing back but its own deletion.
pub struct ObjectHandle {
    info: ObjectInfo,
    source: Source,
}

enum Source {
    /// Beside the record with this key.
    Inline(Box<dyn MetaView>, Key),
    Blob(BlobPin),
    /// With the anchor pinned.
    Parts(PartsRef, Arc<BlobPin>),
}

/// One part of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInfo {
    /// Its place among the parts, from 1. The numbers that they were uploaded under may have
    /// gaps.
    pub place: u16,
    /// Its bytes in the body.
    pub range: Range<u64>,
    /// Its checksum, of all its bytes.
    pub checksum: Option<Checksum>,
}

/// Yields a range of a body in pieces.
pub struct ObjectReader(State);

enum State {
    Inline {
        view: Box<dyn MetaView>,
        key: Key,
        range: Range<u32>,
    },
    Blob(BlobReader),
    Parts(Box<PartsReader>),
    End,
}

/// Reads one part after the other.
struct PartsReader {
    cursor: PartCursor,
    /// What is still to be read of the body.
    rest: Range<u64>,
    /// The part that is being read.
    part: Option<BlobReader>,
}

impl Objects {
    /// The current object of a key. Fails with `NoSuchBucket`, `NoSuchKey` or
    /// `AccessDenied`.
    pub async fn get(&self, account: &AccountId, bucket: &str, key: &str) -> Result<ObjectHandle> {
        let inner = &self.inner;
        inner.check_open()?;
        check_key(key)?;
        let view = inner.meta.view();
        let record = inner.bucket(&*view, *account, bucket).await?;
        let (_, stem) = inner.object_place(record.id, key);
        let live = |current: Option<Current>| {
            current
                .filter(Current::is_live)
                .ok_or_else(|| Error::NoSuchKey {
                    bucket: bucket.to_owned(),
                    key: key.to_owned(),
                })
        };
        let mut current = live(inner.current(&*view, &stem).await?)?;
        let mut view = view;
        for _ in 0..GET_TRIES {
            let anchor = match &current.record.body {
                Body::Inline => {
                    let key = stored_object_key(current.key.clone());
                    return ObjectHandle::new(current, Source::Inline(view, key));
                }
                Body::Blob(blob) => blob.clone(),
                Body::Parts(parts) => parts.anchor()?,
            };
            // Pinned first, looked up again then: a blob whose record is still there is not
            // being deleted, and will not be while it is pinned.
            let pin = inner.volume.pin_blob(&anchor)?;
            view = inner.meta.view();
            let again = live(inner.current(&*view, &stem).await?)?;
            if again.key == current.key {
                let source = match &again.record.body {
                    Body::Parts(parts) => Source::Parts(parts.clone(), Arc::new(pin)),
                    _ => Source::Blob(pin),
                };
                return ObjectHandle::new(again, source);
            }
            current = again;
        }
        Err(Error::SlowDown(format!(
            "the object {key:?} is overwritten faster than it can be opened"
        )))
    }
}

impl ObjectHandle {
    fn new(current: Current, source: Source) -> Result<ObjectHandle> {
        let MetaKey::Object { key, sequence, .. } = decode_meta_key(&current.key)? else {
            return Err(Error::Internal(
                "an object's key is of another kind".to_owned(),
            ));
        };
        let parts = match &source {
            Source::Parts(parts, _) => Some(parts.count),
            _ => None,
        };
        let head = current.record.head;
        let body_len = match &source {
            Source::Inline(..) => u64::from(current.body_len),
            Source::Blob(pin) => pin.blob().plain_len,
            Source::Parts(parts, _) => parts.size()?,
        };
        if body_len != head.size {
            return Err(Error::Corrupt {
                what: format!("the object {key:?}"),
                place: format!(
                    "its record says {} bytes, its body has {body_len}",
                    head.size
                ),
            });
        }
        let info = ObjectInfo {
            key,
            size: head.size,
            etag: head.etag,
            modified: head.modified,
            metadata: current.record.metadata,
            checksum: current.record.checksum,
            parts,
            owner: head.owner,
            version: sequence,
        };
        Ok(ObjectHandle { info, source })
    }

    /// What describes it.
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    /// A part of the body by its place, from 1: the third of parts 1, 5 and 9 is 9. `None`: there
    /// are fewer, or the body was not uploaded in parts.
    pub async fn part(&self, place: u16) -> Result<Option<PartInfo>> {
        let Some(before) = place.checked_sub(1) else {
            return Ok(None);
        };
        let parts = self.parts_behind(before, 1).await?;
        Ok(parts.into_iter().next())
    }

    /// Up to `max` parts of the body behind the first `skip`; none if it was not uploaded in
    /// parts.
    pub async fn parts_behind(&self, skip: u16, max: usize) -> Result<Vec<PartInfo>> {
        let Source::Parts(parts, pin) = &self.source else {
            return Ok(Vec::new());
        };
        let algorithm = parts.algorithm;
        let mut cursor = PartCursor::new(parts.clone(), pin.clone());
        cursor.skip_entries(skip.into());
        let mut infos = Vec::new();
        let skipped_in_chunk = usize::from(skip) % CHUNK_ENTRIES;
        for _ in 0..skipped_in_chunk {
            cursor.next().await?;
        }
        while infos.len() < max {
            let Some(part) = cursor.next().await? else {
                break;
            };
            infos.push(PartInfo {
                place: skip.saturating_add(infos.len() as u16 + 1),
                range: part.range,
                checksum: algorithm.and_then(|a| Checksum::full_object(a, part.digest)),
            });
        }
        Ok(infos)
    }

    /// Reads a range of bytes; what lies past the end is left out.
    pub fn read(self, range: Range<u64>) -> ObjectReader {
        let end = range.end.min(self.info.size);
        let range = range.start.min(end)..end;
        ObjectReader(match self.source {
            _ if range.is_empty() => State::End,
            Source::Blob(pin) => State::Blob(pin.reader(range)),
            Source::Parts(parts, pin) => {
                let mut cursor = PartCursor::new(parts, pin);
                cursor.skip_to(range.start);
                State::Parts(Box::new(PartsReader {
                    cursor,
                    rest: range,
                    part: None,
                }))
            }
            // An inline body is as long as an entry's body says, which is a u32.
            Source::Inline(view, key) => State::Inline {
                view,
                key,
                range: range.start as u32..end as u32,
            },
        })
    }
}

impl ObjectReader {
    /// Whether the disks that are here have all that is going to be read, as far as some thousand
    /// lookups tell in a bounded time; without any while none or few of them are missing. So that a body that cannot
    /// be read to its end is an error before it begins.
    pub async fn probe(&mut self) -> Result<()> {
        let mut left = ProbeBudget {
            lookups: PROBE_LOOKUPS,
            until: Instant::now() + PROBE_TIME,
        };
        match &mut self.0 {
            State::Blob(reader) => Ok(reader.probe(&mut left).await?),
            State::Parts(reader) => reader.probe(&mut left).await,
            State::Inline { .. } | State::End => Ok(()),
        }
    }

    /// The next piece: verified against its checksum, never empty, at most 1 MiB.
    /// `None` at the end; after an error the reader is at its end. A cancelled call loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        let piece = match &mut self.0 {
            State::End => return None,
            State::Blob(reader) => {
                return Some(reader.next().await?.map(Bytes::from).map_err(Error::from));
            }
            State::Parts(reader) => {
                let piece = reader.next().await;
                if !matches!(piece, Ok(Some(_))) {
                    self.0 = State::End;
                }
                return piece.transpose();
            }
            State::Inline { view, key, range } => inline(&**view, key, range.clone()).await,
        };
        self.0 = State::End;
        Some(piece)
    }
}

impl PartsReader {
    /// See [`ObjectReader::probe`]; of parts that were not begun to be read.
    async fn probe(&mut self, left: &mut ProbeBudget) -> Result<()> {
        if self.cursor.pin().volume().lacking() == 0 {
            return Ok(());
        }
        let mut cursor = self.cursor.beyond();
        while left.lookups > 0
            && Instant::now() < left.until
            && let Some(part) = cursor.next().await?
            && part.range.start < self.rest.end
        {
            // As many at least as there are parts: the walk is bounded, too.
            left.lookups -= 1;
            let start = self.rest.start.max(part.range.start) - part.range.start;
            let end = self.rest.end.min(part.range.end) - part.range.start;
            if start < end {
                let mut reader = cursor.pin().reader_of(part.blob, start..end);
                reader.probe(left).await?;
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(part) = &mut self.part {
                match part.next().await {
                    Some(piece) => {
                        let piece = Bytes::from(piece?);
                        self.rest.start += piece.len() as u64;
                        return Ok(Some(piece));
                    }
                    None => self.part = None,
                }
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            let Some(part) = self.cursor.next().await? else {
                return Err(Error::Corrupt {
                    what: "the body of an object in parts".to_owned(),
                    place: "its parts are shorter than its record says".to_owned(),
                });
            };
            let end = self.rest.end.min(part.range.end);
            if self.rest.start < end {
                let range = self.rest.start - part.range.start..end - part.range.start;
                self.part = Some(self.cursor.pin().reader_of(part.blob, range));
            }
        }
    }
}

async fn inline(view: &dyn MetaView, key: &Key, range: Range<u32>) -> Result<Bytes> {
    let wanted = range.len();
    match view.body(key, range).await? {
        Some(body) if body.len() == wanted => Ok(Bytes::from(body)),
        _ => Err(Error::Corrupt {
            what: "an inline body".to_owned(),
            place: "it is shorter than its record says".to_owned(),
        }),
    }
}
