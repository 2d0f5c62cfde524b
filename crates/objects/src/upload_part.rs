//! A part of an upload: writing it, and listing those that are there.

use bytes::Bytes;
use volume::{MetaBatch, SliceId};

use crate::body_writer::{BodyLimits, BodyWriter, OpenWriter};
use crate::commit::Commit;
use crate::garbage::Garbage;
use crate::keys::{BucketId, MetaKey, after_prefix, decode_meta_key, part_key, part_prefix};
use crate::limits::{LIST_ENTRIES_MAX, PART_BYTES_MAX};
use crate::record::{BlobLabel, BlobRole, PartRecord};
use crate::scan::Scan;
use crate::upload::{UploadId, UploadInfo, UploadRef, check_part_number};
use crate::{Checksum, ETag, Error, Objects, Result, Timestamp};

/// A part to write, all but its body.
#[derive(Debug, Clone)]
pub struct PartRequest {
    /// Of which upload.
    pub upload: UploadRef,
    /// Its number, 1 to 10,000. A part that has it already is replaced.
    pub number: i64,
    /// Bytes that the body will have, if known; a body of another size is refused.
    pub content_length: Option<u64>,
}

/// A part as its upload has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSummary {
    /// Its number.
    pub number: u16,
    /// Bytes of its body.
    pub size: u64,
    /// When it was committed, by the server's clock.
    pub modified: Timestamp,
    /// Its entity tag.
    pub etag: ETag,
    /// Its checksum.
    pub checksum: Option<Checksum>,
}

impl PartSummary {
    pub(crate) fn of(number: u16, record: &PartRecord) -> PartSummary {
        PartSummary {
            number,
            size: record.size,
            modified: record.modified,
            etag: record.etag.clone(),
            checksum: record.checksum.clone(),
        }
    }
}

/// A part that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartOutcome {
    /// The part.
    pub part: PartSummary,
    /// The scheme that holds it on stable storage, such as `1+0`.
    pub durable: String,
}

/// One page of an upload's parts.
#[derive(Debug, Clone)]
pub struct PartPage {
    /// The upload.
    pub upload: UploadInfo,
    /// In the order of their numbers.
    pub parts: Vec<PartSummary>,
    /// Whether more follow.
    pub more: bool,
}

/// A part whose body is being written. Dropped before [`finish`](PartWriter::finish), it leaves
/// nothing behind. Holds as much memory as a [`PutWriter`](crate::PutWriter).
pub struct PartWriter {
    upload: UploadRef,
    info: UploadInfo,
    id: UploadId,
    bucket: BucketId,
    slice: SliceId,
    number: u16,
    body: BodyWriter,
}

impl Objects {
    /// Begins to write a part: checks the request's limits, and that the upload is there.
    pub async fn begin_part(&self, request: PartRequest) -> Result<PartWriter> {
        let inner = &self.inner;
        let open = OpenWriter::new(inner.clone());
        inner.check_open()?;
        let number = check_part_number(request.number)?;
        let found = inner
            .find_upload(&*inner.meta.view(), &request.upload)
            .await?;
        let role = BlobRole::Part {
            upload: found.id,
            number,
        };
        let label = BlobLabel {
            role,
            bucket: found.bucket,
            bucket_name: request.upload.bucket.clone(),
            key: request.upload.key.clone(),
        };
        let limits = BodyLimits {
            announced: request.content_length,
            bytes_max: PART_BYTES_MAX,
            inline_bytes_max: 0,
        };
        Ok(PartWriter {
            info: UploadInfo::from(&found.record),
            id: found.id,
            bucket: found.bucket,
            slice: found.slice,
            number,
            body: BodyWriter::new(open, label, limits)?,
            upload: request.upload,
        })
    }

    /// One page of an upload's parts: those whose number is above `after`, at most `max` and
    /// at most 1,000.
    pub async fn list_parts(&self, upload: &UploadRef, after: u16, max: usize) -> Result<PartPage> {
        let inner = &self.inner;
        inner.check_open()?;
        let view = inner.meta.view();
        let found = inner.find_upload(&*view, upload).await?;
        let (slice, bucket, key) = (found.slice, found.bucket, upload.key.as_bytes());
        let mut page = PartPage {
            upload: UploadInfo::from(&found.record),
            parts: Vec::new(),
            more: false,
        };
        let max = max.min(LIST_ENTRIES_MAX);
        let Some(first) = after.checked_add(1) else {
            return Ok(page);
        };
        let from = part_key(slice, bucket, key, found.id, first);
        let to = after_prefix(part_prefix(slice, bucket, key, found.id));
        let mut scan = Scan::new(&*view, from.as_bytes().to_vec(), to, max + 1);
        while let Some(entry) = scan.next().await? {
            if page.parts.len() == max {
                page.more = max > 0;
                break;
            }
            let number = part_number(&entry.key)?;
            let record = PartRecord::decode(&entry.value)?;
            page.parts.push(PartSummary::of(number, &record));
        }
        Ok(page)
    }
}

/// The number in a part's key.
pub(crate) fn part_number(key: &[u8]) -> Result<u16> {
    match decode_meta_key(key)? {
        MetaKey::Part { number, .. } => Ok(number),
        _ => Err(Error::Internal(
            "a key that is no part's among parts".to_owned(),
        )),
    }
}

impl PartWriter {
    /// The upload, as it was when the part was begun.
    pub fn upload(&self) -> &UploadInfo {
        &self.info
    }

    /// Appends to the body; waits while too many bytes are on their way to the disks. If it
    /// fails or its future is dropped half-way, the part cannot be finished any more.
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        self.body.write(data).await
    }

    /// Commits the part. It is durable and can be listed when this returns `Ok`. An error of
    /// the disk leaves open whether it was committed; every other error means that it was not.
    /// `sent`: the checksum that the client sent, if that is not `checksum`.
    pub async fn finish(
        mut self,
        etag: ETag,
        checksum: Option<Checksum>,
        sent: Option<Checksum>,
    ) -> Result<PartOutcome> {
        self.body.check_length()?;
        let size = self.body.size();
        let mut record = None;
        let trailer = |blob: &volume::BlobRef| {
            let part = PartRecord {
                size,
                modified: Timestamp::now(),
                etag,
                checksum,
                sent,
                blob: blob.clone(),
                unknown: Vec::new(),
            };
            let bytes = part.encode();
            record = Some(part);
            bytes
        };
        let blob = self.body.finish_as_blob(trailer).await?;
        let record = record.ok_or_else(|| Error::Internal("a part without a record".to_owned()))?;
        let inner = self.body.inner().clone();
        let (bucket, number) = (&self.upload.bucket, self.number);
        let guards = inner.locks.part(bucket, self.id, number).await;
        inner.check_open()?;
        let view = inner.meta.view();
        let found = inner.find_upload(&*view, &self.upload).await?;
        if found.bucket != self.bucket {
            return Err(self.upload.missing());
        }
        let object_key = self.upload.key.as_bytes();
        let key = part_key(self.slice, self.bucket, object_key, self.id, number);
        let replaced = view.get(&key).await?;
        drop(view);
        let mut batch = MetaBatch::new().put(&key, record.encode()?, Vec::new());
        for dependency in blob.dependencies() {
            batch = batch.after(dependency.clone());
        }
        let mut noted = None;
        if let Some(replaced) = replaced {
            batch = batch.expect_value(&key, replaced.value.clone());
            let garbage = Garbage::Blob(PartRecord::decode(&replaced.value)?.blob);
            let (with_note, note) = garbage.note(batch, self.slice)?;
            (batch, noted) = (with_note, Some(note));
        }
        let dependency = inner.meta.commit(batch)?;
        if let Some(noted) = noted {
            inner.release(&noted, vec![dependency.clone()]);
        }
        let receipt = blob.receipt();
        Commit::new(dependency, guards, Some(blob))
            .durable()
            .await?;
        Ok(PartOutcome {
            part: PartSummary::of(number, &record),
            durable: receipt.to_string(),
        })
    }
}
