//! Uploads in parts: how they begin and are given up, and what is shared by everything about
//! them.
//!
//! What must always hold:
//! - a part is only committed while its upload's record is there, under the upload's lock;
//! - what ends an upload takes its record away and leaves a note (see `wipe`) in one batch.

use std::fmt;

use volume::{MetaBatch, SliceId};

use crate::change::EndedUpload;
use crate::checksum::{ChecksumAlgorithm, ChecksumKind};
use crate::commit::Commit;
use crate::keys::{BucketId, upload_key, wipe_key};
use crate::limits::PARTS_MAX;
use crate::meta_store::MetaView;
use crate::objects::Inner;
use crate::put::check_key;
use crate::record::{EndedRecord, UploadRecord};
use crate::{AccountId, Error, Metadata, Objects, Result, Timestamp};

/// Names an upload for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub u64);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl UploadId {
    /// The inverse of `Display`; `None` for text that it never makes.
    pub(crate) fn parse(text: &str) -> Option<UploadId> {
        let digits = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(digits) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(UploadId)
    }
}

/// An upload to begin.
#[derive(Debug, Clone)]
pub struct CreateUpload {
    /// Who asks; the bucket must be theirs.
    pub account: AccountId,
    /// The bucket's name.
    pub bucket: String,
    /// The key, 1 to 1,024 bytes.
    pub key: String,
    /// What is stored beside the body.
    pub metadata: Metadata,
    /// The checksum that each part is to have, and what the object's is to be of.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// Says which upload is meant.
#[derive(Debug, Clone)]
pub struct UploadRef {
    /// Who asks; the bucket must be theirs.
    pub account: AccountId,
    /// The bucket's name.
    pub bucket: String,
    /// The key that the object is to have.
    pub key: String,
    /// The id that [`Objects::create_upload`] gave, as text.
    pub upload: String,
}

impl UploadRef {
    pub(crate) fn missing(&self) -> Error {
        Error::NoSuchUpload {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            // What a client made up may be long.
            upload: self.upload.chars().take(64).collect(),
        }
    }

    /// The id, if it can be one.
    pub(crate) fn id(&self) -> Result<UploadId> {
        check_key(&self.key)?;
        UploadId::parse(&self.upload).ok_or_else(|| self.missing())
    }
}

/// An upload as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    /// When it was begun, by the server's clock.
    pub initiated: Timestamp,
    /// The account that began it.
    pub owner: AccountId,
    /// The checksum that each part is to have, and what the object's is to be of.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

impl From<&UploadRecord> for UploadInfo {
    fn from(record: &UploadRecord) -> UploadInfo {
        UploadInfo {
            initiated: record.initiated,
            owner: record.owner,
            checksum: record.checksum,
        }
    }
}

/// An upload that was found.
pub(crate) struct FoundUpload {
    pub(crate) id: UploadId,
    pub(crate) bucket: BucketId,
    pub(crate) slice: SliceId,
    pub(crate) record: UploadRecord,
    /// The record's bytes.
    pub(crate) stored: Vec<u8>,
}

impl FoundUpload {
    /// How it ends, if an object keeps these parts.
    pub(crate) fn end(&self, key: &str, kept: EndedRecord) -> EndedUpload {
        let (bucket, key) = (self.bucket, key.as_bytes());
        EndedUpload {
            key: upload_key(self.slice, bucket, key, self.id),
            stored: self.stored.clone(),
            note_key: wipe_key(self.slice, bucket, key, self.id),
            kept,
        }
    }
}

/// A part number is 1 to 10,000.
pub(crate) fn check_part_number(number: i64) -> Result<u16> {
    let within = u16::try_from(number).ok();
    within
        .filter(|number| (1..=PARTS_MAX).contains(&usize::from(*number)))
        .ok_or(Error::InvalidPartNumber {
            number,
            limit: PARTS_MAX,
        })
}

impl Objects {
    /// Begins an upload in parts. Durable when it returns `Ok`: its id, as text.
    pub async fn create_upload(&self, request: CreateUpload) -> Result<String> {
        check_key(&request.key)?;
        request.metadata.check()?;
        let inner = &self.inner;
        let guards = inner.locks.new_upload(&request.bucket).await;
        inner.check_open()?;
        let view = inner.meta.view();
        let bucket = inner
            .bucket(&*view, request.account, &request.bucket)
            .await?;
        let (slice, _) = inner.object_place(bucket.id, &request.key);
        let id = UploadId(inner.next_sequence()?);
        let record = UploadRecord {
            initiated: Timestamp::now(),
            owner: request.account,
            metadata: request.metadata,
            checksum: request.checksum,
            unknown: Vec::new(),
        };
        let key = upload_key(slice, bucket.id, request.key.as_bytes(), id);
        let batch = MetaBatch::new().put(&key, record.encode()?, Vec::new());
        drop(view);
        let dependency = inner.meta.commit(batch)?;
        Commit::new(dependency, guards, None).durable().await?;
        Ok(id.to_string())
    }

    /// What is known of an upload. Fails with `NoSuchBucket`, `AccessDenied` or
    /// `NoSuchUpload`.
    pub async fn upload(&self, upload: &UploadRef) -> Result<UploadInfo> {
        self.inner.check_open()?;
        let view = self.inner.meta.view();
        let found = self.inner.find_upload(&*view, upload).await?;
        Ok(UploadInfo::from(&found.record))
    }

    /// Gives an upload up with all its parts. Durable when it returns `Ok`. Works on a full
    /// disk.
    pub async fn abort_upload(&self, upload: &UploadRef) -> Result<()> {
        let inner = &self.inner;
        let guards = inner.locks.upload(&upload.bucket, upload.id()?).await;
        inner.check_open()?;
        let view = inner.meta.view();
        let found = inner.find_upload(&*view, upload).await?;
        drop(view);
        let end = found.end(&upload.key, EndedRecord::default());
        let batch = end.add_to(MetaBatch::new().frees_space());
        let dependency = inner.meta.commit(batch)?;
        let guards = guards.and_wake(&inner.sweep.wipe);
        Commit::new(dependency, guards, None).durable().await
    }
}

impl Inner {
    /// The upload, if the bucket is the account's.
    pub(crate) async fn find_upload(
        &self,
        view: &dyn MetaView,
        upload: &UploadRef,
    ) -> Result<FoundUpload> {
        let id = upload.id()?;
        let bucket = self.bucket(view, upload.account, &upload.bucket).await?;
        let (slice, _) = self.object_place(bucket.id, &upload.key);
        let key = upload_key(slice, bucket.id, upload.key.as_bytes(), id);
        let entry = view.get(&key).await?.ok_or_else(|| upload.missing())?;
        Ok(FoundUpload {
            id,
            bucket: bucket.id,
            slice,
            record: UploadRecord::decode(&entry.value)?,
            stored: entry.value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_text_of_one_form() {
        let id = UploadId(0x0123_4567_89ab_cdef);
        assert_eq!(UploadId::parse(&id.to_string()), Some(id));
        for text in [
            "",
            "0123456789ABCDEF",
            "+123456789abcdef",
            "0123456789abcdef0",
        ] {
            assert_eq!(UploadId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn part_numbers_have_limits() {
        assert_eq!(check_part_number(1).unwrap(), 1);
        assert_eq!(check_part_number(10_000).unwrap(), 10_000);
        for number in [-1, 0, 10_001, i64::MAX] {
            assert!(check_part_number(number).is_err(), "{number}");
        }
    }
}
