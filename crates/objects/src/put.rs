//! Writing an object.
//!
//! A small body commits with its record in one round. A larger one goes to a blob as it
//! comes; its record's batch is ordered after the blob's stripes, without waiting for them
//! in between.

use bytes::Bytes;
use volume::{BlobRef, FinishedBlob, SliceId};

use crate::body_writer::{BodyLimits, BodyWriter, OpenWriter};
use crate::change::{Change, Current, Ending, NewVersion};
use crate::keys::BucketId;
use crate::limits::{INLINE_BYTES_MAX, OBJECT_BYTES_MAX, OBJECT_KEY_BYTES_MAX};
use crate::locks::Guards;
use crate::objects::Inner;
use crate::record::{BlobLabel, BlobRole, Body, Flags, ObjectHead, ObjectRecord};
use crate::{AccountId, Checksum, ETag, Error, Metadata, Objects, Result, Timestamp};

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
    /// The checksum that is kept with it.
    pub checksum: Option<Checksum>,
    /// The scheme that holds it on stable storage, such as `1+0`.
    pub durable: String,
}

/// A put whose body is being written. Dropped before [`finish`](PutWriter::finish), it
/// leaves nothing behind. Holds at most
/// [`WRITER_BYTES_MAX`](crate::limits::WRITER_BYTES_MAX) bytes of the body.
pub struct PutWriter {
    request: PutRequest,
    bucket: BucketId,
    slice: SliceId,
    stem: Vec<u8>,
    body: BodyWriter,
}

impl PutCondition {
    pub(crate) fn check(&self, current: Option<&Current>, bucket: &str, key: &str) -> Result<()> {
        match (self, current.filter(|current| current.is_live())) {
            (PutCondition::None, _) | (PutCondition::IfNoneMatchAny, None) => Ok(()),
            (PutCondition::IfNoneMatchAny, Some(_)) => Err(Error::PreconditionFailed {
                condition: "If-None-Match",
            }),
            (PutCondition::IfMatch(_), None) => Err(Error::NoSuchKey {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
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
        let open = OpenWriter::new(inner.clone());
        inner.check_open()?;
        check_key(&request.key)?;
        request.metadata.check()?;
        let view = inner.meta.view();
        let bucket = inner
            .bucket(&*view, request.account, &request.bucket)
            .await?;
        let (slice, stem) = inner.object_place(bucket.id, &request.key);
        if request.condition != PutCondition::None {
            let current = inner.current(&*view, &stem).await?;
            let (condition, key) = (&request.condition, &request.key);
            condition.check(current.as_ref(), &request.bucket, key)?;
        }
        let label = BlobLabel {
            role: BlobRole::Object,
            bucket: bucket.id,
            bucket_name: request.bucket.clone(),
            key: request.key.clone(),
        };
        let limits = BodyLimits {
            announced: request.content_length,
            bytes_max: OBJECT_BYTES_MAX,
            inline_bytes_max: INLINE_BYTES_MAX,
        };
        Ok(PutWriter {
            bucket: bucket.id,
            slice,
            stem,
            body: BodyWriter::new(open, label, limits)?,
            request,
        })
    }
}

impl PutWriter {
    /// Appends to the body; waits while too many bytes are on their way to the disks. If it
    /// fails or its future is dropped half-way, the put cannot be finished any more.
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        self.body.write(data).await
    }

    /// Commits the object. It is durable and visible when this returns `Ok`. An error of
    /// the disk leaves open whether it was committed; every other error means that it was
    /// not.
    pub async fn finish(mut self, etag: ETag, checksum: Option<Checksum>) -> Result<PutOutcome> {
        self.body.check_length()?;
        let (record, blob) = self.finish_body(etag, checksum).await?;
        let inner = self.body.inner().clone();
        let request = &self.request;
        let guards = inner.locks.object(&request.bucket, &request.key).await;
        let new = NewVersion {
            record,
            inline: self.body.take_inline(),
            blob,
        };
        let target = Target {
            account: request.account,
            bucket_name: &request.bucket,
            bucket: self.bucket,
            key: &request.key,
            slice: self.slice,
            stem: self.stem,
        };
        inner
            .commit_version(guards, target, &request.condition, new, Ending::Body)
            .await
    }

    /// The record as it is so far, and the blob. The blob's last frame carries the record too.
    async fn finish_body(
        &mut self,
        etag: ETag,
        checksum: Option<Checksum>,
    ) -> Result<(ObjectRecord, Option<FinishedBlob>)> {
        let mut record = ObjectRecord {
            head: ObjectHead {
                flags: Flags::NULL_VERSION,
                size: self.body.size(),
                modified: Timestamp::now(),
                owner: self.request.account,
                etag,
            },
            body: Body::Inline,
            metadata: std::mem::take(&mut self.request.metadata),
            checksum,
            unknown: Vec::new(),
        };
        let trailer = |blob: &BlobRef| {
            record.body = Body::Blob(blob.clone());
            record.encode()
        };
        let blob = self.body.finish_blob(trailer).await?;
        Ok((record, blob))
    }
}

/// The object that a version is for.
pub(crate) struct Target<'a> {
    pub(crate) account: AccountId,
    pub(crate) bucket_name: &'a str,
    /// The bucket as it was when the body was begun.
    pub(crate) bucket: BucketId,
    pub(crate) key: &'a str,
    pub(crate) slice: SliceId,
    pub(crate) stem: Vec<u8>,
}

impl Inner {
    /// Makes a version the current one, if the condition holds. The caller holds the key's
    /// lock in `guards`.
    pub(crate) async fn commit_version(
        &self,
        // First, so that they go last: a blob that is given up goes before who waits for that.
        guards: Guards,
        target: Target<'_>,
        condition: &PutCondition,
        mut new: NewVersion,
        ending: Ending,
    ) -> Result<PutOutcome> {
        self.check_open()?;
        let view = self.meta.view();
        let bucket = self
            .bucket(&*view, target.account, target.bucket_name)
            .await?;
        if bucket.id != target.bucket {
            // Deleted and created again while the body came.
            return Err(Error::NoSuchBucket {
                bucket: target.bucket_name.to_owned(),
            });
        }
        let current = self.current(&*view, &target.stem).await?;
        drop(view);
        condition.check(current.as_ref(), target.bucket_name, target.key)?;
        // Never before the version that it replaces, whatever the clock did: clients ask for
        // what was modified since.
        let head = &mut new.record.head;
        if let Some(current) = &current {
            head.modified = head.modified.max(current.record.head.modified);
        }
        let mut outcome = PutOutcome {
            etag: head.etag.clone(),
            size: head.size,
            modified: head.modified,
            checksum: new.record.checksum.clone(),
            durable: String::new(),
        };
        let receipt = new.blob.as_ref().map(FinishedBlob::receipt);
        let change = Change {
            slice: target.slice,
            bucket: target.bucket,
            stem: target.stem,
            current,
            new: Some(new),
            ending,
        };
        self.submit(change, guards)?.durable().await?;
        // What is with its record is on the disks that hold the metadata now: one that failed
        // meanwhile does not count.
        let receipt = receipt.unwrap_or_else(|| self.volume.metadata_receipt());
        outcome.durable = receipt.to_string();
        Ok(outcome)
    }
}
