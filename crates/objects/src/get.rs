//! Reading an object.

use std::ops::Range;

use bytes::Bytes;
use volume::{BlobReader, BlobRef, Key};

use crate::change::Current;
use crate::keys::{MetaKey, decode_meta_key, stored_object_key};
use crate::meta_store::MetaView;
use crate::put::check_key;
use crate::record::Body;
use crate::{AccountId, Error, ObjectInfo, Objects, Result};

/// One version of an object, pinned: its bytes stay readable while the handle or its reader
/// lives, even if the object is overwritten or deleted. The space is not reused as long, so
/// hold it only while a client reads.
pub struct ObjectHandle {
    info: ObjectInfo,
    view: Box<dyn MetaView>,
    source: Source,
}

enum Source {
    /// Beside the record with this key.
    Inline(Key),
    Blob(BlobRef),
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
        let current = inner.current(&*view, &stem).await?;
        match current.filter(Current::is_live) {
            Some(current) => ObjectHandle::new(view, current),
            None => Err(Error::NoSuchKey {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
            }),
        }
    }
}

impl ObjectHandle {
    fn new(view: Box<dyn MetaView>, current: Current) -> Result<ObjectHandle> {
        let MetaKey::Object { key, sequence, .. } = decode_meta_key(&current.key)? else {
            return Err(Error::Internal(
                "an object's key is of another kind".to_owned(),
            ));
        };
        let head = current.record.head;
        let (source, body_len) = match current.record.body {
            Body::Inline => {
                let key = stored_object_key(current.key);
                (Source::Inline(key), u64::from(current.body_len))
            }
            Body::Blob(blob) => {
                let len = blob.plain_len;
                (Source::Blob(blob), len)
            }
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
        Ok(ObjectHandle { info, view, source })
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
            Source::Blob(blob) => State::Blob(self.view.blobs().blob_reader(blob, range)),
            // An inline body is as long as an entry's body says, which is a u32.
            Source::Inline(key) => State::Inline {
                view: self.view,
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
