//! Reading an object.

use std::ops::Range;

use bytes::Bytes;
use volume::{BlobPin, BlobReader, Key};

use crate::change::Current;
use crate::keys::{MetaKey, decode_meta_key, stored_object_key};
use crate::limits::GET_TRIES;
use crate::meta_store::MetaView;
use crate::put::check_key;
use crate::record::Body;
use crate::{AccountId, Error, ObjectInfo, Objects, Result};

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
    End,
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
            let Body::Blob(blob) = &current.record.body else {
                let key = stored_object_key(current.key.clone());
                return ObjectHandle::new(current, Source::Inline(view, key));
            };
            // Pinned first, looked up again then: a blob whose record is still there is not
            // being deleted, and will not be while it is pinned.
            let pin = inner.volume.pin_blob(blob)?;
            view = inner.meta.view();
            let again = live(inner.current(&*view, &stem).await?)?;
            if again.key == current.key {
                return ObjectHandle::new(again, Source::Blob(pin));
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
        let head = current.record.head;
        let body_len = match &source {
            Source::Inline(..) => u64::from(current.body_len),
            Source::Blob(pin) => pin.blob().plain_len,
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
            owner: head.owner,
            version: sequence,
        };
        Ok(ObjectHandle { info, source })
    }

    /// What describes it.
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    /// Reads a range of bytes; what lies past the end is left out.
    pub fn read(self, range: Range<u64>) -> ObjectReader {
        let end = range.end.min(self.info.size);
        let range = range.start.min(end)..end;
        ObjectReader(match self.source {
            _ if range.is_empty() => State::End,
            Source::Blob(pin) => State::Blob(pin.reader(range)),
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
    /// The next piece: verified against its checksum, never empty, at most 1 MiB.
    /// `None` at the end; after an error the reader is at its end. A cancelled call loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        let piece = match &mut self.0 {
            State::End => return None,
            State::Blob(reader) => {
                return Some(reader.next().await?.map(Bytes::from).map_err(Error::from));
            }
            State::Inline { view, key, range } => inline(&**view, key, range.clone()).await,
        };
        self.0 = State::End;
        Some(piece)
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
