//! Writing an object.
//!
//! A small body commits with its record in one round. A larger one goes to a blob as it
//! comes; its record's batch is ordered after the blob's stripes, without waiting for them
//! in between.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use volume::{BlobWriter, FinishedBlob, SliceId};

use crate::change::{Change, Current, NewVersion};
use crate::keys::BucketId;
use crate::limits::{ETAG_BYTES_MAX, INLINE_BYTES_MAX, OBJECT_BYTES_MAX, OBJECT_KEY_BYTES_MAX};
use crate::objects::Inner;
use crate::record::{BlobLabel, Body, Flags, ObjectHead, ObjectRecord};
use crate::{AccountId, ETag, Error, Metadata, Objects, Result, Timestamp};

/// What must hold for a put to happen. Checked when the put begins, to spare the body, and
/// again in one step with the commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PutCondition {
    /// Always.
    #[default]
    None,
    /// Only if the key has no current object (`If-None-Match: *`).
    IfNoneMatchAny,
    /// Only if the current object has this tag (`If-Match`).
    IfMatch(ETag),
}

/// A put, all but its body.
#[derive(Debug, Clone)]
pub struct PutRequest {
    /// Who asks; the bucket must be theirs.
    pub account: AccountId,
    /// The bucket's name.
    pub bucket: String,
    /// The key, 1 to 1,024 bytes.
    pub key: String,
    /// What is stored beside the body.
    pub metadata: Metadata,
    /// When the put may happen.
    pub condition: PutCondition,
    /// Bytes that the body will have, if known; a body of another size is refused.
    pub content_length: Option<u64>,
}

/// A put that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutOutcome {
    /// The tag given to [`PutWriter::finish`].
    pub etag: ETag,
    /// Bytes of the body.
    pub size: u64,
    /// When it was committed, by the server's clock.
    pub modified: Timestamp,
    /// The scheme that holds it on stable storage, such as `1+0`.
    pub durable: String,
}

/// A put whose body is being written. Dropped before [`finish`](PutWriter::finish), it
/// leaves nothing behind. Holds at most
/// [`WRITER_BYTES_MAX`](crate::limits::WRITER_BYTES_MAX) bytes of the body.
pub struct PutWriter {
    inner: Arc<Inner>,
    request: PutRequest,
    bucket: BucketId,
    slice: SliceId,
    stem: Vec<u8>,
    size: u64,
    /// The body while it may still be inline; empty once there is a blob.
    inline: Vec<u8>,
    blob: Option<BlobWriter>,
    /// Dropped last: whoever counts no writer finds the deletions that their blobs asked for.
    _open: OpenWriter,
}

/// Counts itself.
struct OpenWriter(Arc<Inner>);

impl OpenWriter {
    fn new(inner: Arc<Inner>) -> OpenWriter {
        inner.open_writers.fetch_add(1, Ordering::SeqCst);
        OpenWriter(inner)
    }
}

impl Drop for OpenWriter {
    fn drop(&mut self) {
        self.0.open_writers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PutCondition {
    fn check(&self, current: Option<&Current>, request: &PutRequest) -> Result<()> {
        match (self, current.filter(|current| current.is_live())) {
            (PutCondition::None, _) | (PutCondition::IfNoneMatchAny, None) => Ok(()),
            (PutCondition::IfNoneMatchAny, Some(_)) => Err(Error::PreconditionFailed {
                condition: "If-None-Match",
            }),
            (PutCondition::IfMatch(_), None) => Err(Error::NoSuchKey {
                bucket: request.bucket.clone(),
                key: request.key.clone(),
            }),
            (PutCondition::IfMatch(etag), Some(current)) => {
                match *etag == current.record.head.etag {
                    true => Ok(()),
                    false => Err(Error::PreconditionFailed {
                        condition: "If-Match",
                    }),
                }
            }
        }
    }
}

/// A key has 1 to 1,024 bytes.
pub(crate) fn check_key(key: &str) -> Result<()> {
    match key.len() {
        0 => Err(Error::InvalidKey),
        bytes if bytes > OBJECT_KEY_BYTES_MAX => Err(Error::KeyTooLong {
            bytes,
            limit: OBJECT_KEY_BYTES_MAX,
        }),
        _ => Ok(()),
    }
}

impl Objects {
    /// Begins a put: checks the request's limits, the bucket, and the condition as it
    /// stands now.
    pub async fn begin_put(&self, request: PutRequest) -> Result<PutWriter> {
        let inner = &self.inner;
        // Counted before it looks whether the store is open: a close that does not see the
        // writer is seen by it.
        let open = OpenWriter::new(inner.clone());
        inner.check_open()?;
        check_key(&request.key)?;
        request.metadata.check()?;
        if request
            .content_length
            .is_some_and(|len| len > OBJECT_BYTES_MAX)
        {
            return Err(Error::EntityTooLarge {
                limit: OBJECT_BYTES_MAX,
            });
        }
        let view = inner.meta.view();
        let bucket = inner
            .bucket(&*view, request.account, &request.bucket)
            .await?;
        let (slice, stem) = inner.object_place(bucket.id, &request.key);
        if request.condition != PutCondition::None {
            let current = inner.current(&*view, &stem).await?;
            request.condition.check(current.as_ref(), &request)?;
        }
        Ok(PutWriter {
            inner: inner.clone(),
            bucket: bucket.id,
            slice,
            stem,
            size: 0,
            inline: Vec::new(),
            blob: None,
            request,
            _open: open,
        })
    }
}

impl PutWriter {
    /// Appends to the body; waits while too many bytes are on their way to the disks. If it
    /// fails or its future is dropped half-way, the put cannot be finished any more.
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        self.size = self.size.saturating_add(data.len() as u64);
        if self.size > OBJECT_BYTES_MAX {
            return Err(Error::EntityTooLarge {
                limit: OBJECT_BYTES_MAX,
            });
        }
        if self
            .request
            .content_length
            .is_some_and(|announced| self.size > announced)
        {
            return self.check_length();
        }
        if self.blob.is_none() && self.inline.len() + data.len() <= INLINE_BYTES_MAX {
            self.inline.extend_from_slice(&data);
            return Ok(());
        }
        let inline = std::mem::take(&mut self.inline);
        let blob = match &mut self.blob {
            Some(blob) => blob,
            none => {
                let label = BlobLabel {
                    bucket: self.bucket,
                    bucket_name: self.request.bucket.clone(),
                    key: self.request.key.clone(),
                };
                let hint = self.request.content_length;
                none.insert(self.inner.volume.blob_writer(label.encode()?, hint)?)
            }
        };
        blob.write(&inline).await?;
        blob.write(&data).await?;
        Ok(())
    }

    fn check_length(&self) -> Result<()> {
        match self.request.content_length {
            Some(announced) if announced != self.size => Err(Error::IncompleteBody {
                announced,
                received: self.size,
            }),
            _ => Ok(()),
        }
    }

    /// Commits the object. It is durable and visible when this returns `Ok`. An error of
    /// the disk leaves open whether it was committed; every other error means that it was
    /// not.
    pub async fn finish(mut self, etag: ETag) -> Result<PutOutcome> {
        self.check_length()?;
        if etag.as_str().len() > ETAG_BYTES_MAX {
            return Err(Error::Internal(format!(
                "an entity tag above {ETAG_BYTES_MAX} bytes"
            )));
        }
        let (mut record, blob) = self.finish_body(etag.clone()).await?;
        let (inner, request) = (&self.inner, &self.request);
        let guards = inner.locks.object(&request.bucket, &request.key).await;
        inner.check_open()?;
        let view = inner.meta.view();
        let bucket = inner
            .bucket(&*view, request.account, &request.bucket)
            .await?;
        if bucket.id != self.bucket {
            // Deleted and created again while the body came.
            return Err(Error::NoSuchBucket {
                bucket: request.bucket.clone(),
            });
        }
        let current = inner.current(&*view, &self.stem).await?;
        drop(view);
        request.condition.check(current.as_ref(), request)?;
        // Never before the version that it replaces, whatever the clock did: clients ask for
        // what was modified since.
        let replaced = current.as_ref().map(|current| current.record.head.modified);
        let modified = replaced.map_or(record.head.modified, |at| at.max(record.head.modified));
        record.head.modified = modified;
        let new = NewVersion {
            record: record.encode()?,
            size: self.size,
            inline: std::mem::take(&mut self.inline),
            blob,
        };
        let stem = std::mem::take(&mut self.stem);
        let change = Change {
            slice: self.slice,
            bucket: self.bucket,
            stem,
            current,
            new: Some(new),
        };
        self.inner.submit(change, guards)?.durable().await?;
        let durable = self.inner.volume.scheme().to_string();
        Ok(PutOutcome {
            etag,
            size: self.size,
            modified,
            durable,
        })
    }

    /// The record as it is so far, and the blob. The blob's last frame carries the record too.
    async fn finish_body(&mut self, etag: ETag) -> Result<(ObjectRecord, Option<FinishedBlob>)> {
        let blob = self.blob.take();
        let record = ObjectRecord {
            head: ObjectHead {
                flags: Flags::NULL_VERSION,
                size: self.size,
                modified: Timestamp::now(),
                owner: self.request.account,
                etag,
            },
            body: blob
                .as_ref()
                .map_or(Body::Inline, |blob| Body::Blob(blob.blob().clone())),
            metadata: std::mem::take(&mut self.request.metadata),
            unknown: Vec::new(),
        };
        let blob = match blob {
            Some(blob) => Some(blob.finish(record.encode()?).await?),
            None => None,
        };
        Ok((record, blob))
    }
}
