//! Reads raw entries of a disk's engine without a running store, so that whoever holds the
//! disks can list and export what is on them (`cullet rescue`).
//!
//! Two ways lead to an object: its record (an [`Entry::Object`]), which names the blob or has
//! the body as the entry's own payload; and, should the record be lost, the blob's own
//! frames: the first names bucket and key, the last holds a copy of the record.

use volume::{BlobId, RawKey, ShardValue};

use crate::Result;
pub use crate::codec::UnknownFields;
use crate::garbage::Garbage;
pub use crate::keys::{BucketId, MetaKey, decode_meta_key};
pub use crate::parts::{PartEntry, PartTable, PartsRef};
pub use crate::record::{
    BlobLabel, BlobRole, Body, BucketRecord, EndedRecord, Flags, ObjectHead, ObjectRecord,
    PartRecord,
};
pub use crate::upload::UploadId;

/// What an entry of a disk's engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A bucket.
    Bucket {
        /// Its name.
        name: String,
        /// What is kept about it; its id is what objects name.
        record: BucketRecord,
    },
    /// A version of an object. With [`Body::Inline`] the entry's payload is the body.
    Object {
        /// The bucket it is in.
        bucket: BucketId,
        /// Its key.
        key: String,
        /// The commit sequence: the largest of a key is the current version.
        sequence: u64,
        /// What is kept about it.
        record: Box<ObjectRecord>,
    },
    /// A part of a blob; the entry's payload is the shard's bytes.
    Shard {
        /// The blob.
        blob: BlobId,
        /// The stripe's number, from 0.
        stripe: u32,
        /// The shard's number within the stripe.
        shard: u8,
        /// How the blob was cut.
        value: ShardValue,
        /// Stripe 0: what the blob is the body of.
        label: Option<BlobLabel>,
        /// The last stripe: a copy of the object's record.
        record: Option<Box<ObjectRecord>>,
        /// The last stripe of a part: a copy of the part's record. Which of the two it is, says
        /// the label alone with certainty.
        part: Option<Box<PartRecord>>,
    },
    /// A note that a blob is deleted, whose parts may still be there.
    Deleted {
        /// The blob.
        blob: BlobId,
        /// A body in parts is deleted, all that came from this upload; the blob is one of it.
        upload: Option<UploadId>,
    },
    /// A note that an upload has ended: the parts that no object keeps are deleted.
    EndedUpload {
        /// The upload.
        upload: UploadId,
        /// What an object keeps.
        kept: EndedRecord,
    },
    /// A note that a bucket is gone with all its uploads.
    EndedBucket {
        /// The bucket.
        bucket: BucketId,
    },
    /// A part of an upload that is not completed, or not cleared away yet.
    Part {
        /// The bucket it is in.
        bucket: BucketId,
        /// The object's key.
        key: String,
        /// The upload.
        upload: UploadId,
        /// The part's number.
        number: u16,
        /// What is kept about it.
        record: Box<PartRecord>,
    },
    /// Counters and settings, uploads, or of a newer release: nothing to export.
    Other,
}

/// Decodes an entry. Any bytes become an entry or [`Error::Corrupt`](crate::Error).
pub fn decode_entry(key: &[u8], value: &[u8]) -> Result<Entry> {
    match RawKey::decode(key) {
        RawKey::Meta(key) => match decode_meta_key(key)? {
            MetaKey::Bucket { name } => Ok(Entry::Bucket {
                name,
                record: BucketRecord::decode(value)?,
            }),
            MetaKey::Object {
                bucket,
                key,
                sequence,
            } => {
                let record = Box::new(ObjectRecord::decode(value)?);
                Ok(Entry::Object {
                    bucket,
                    key,
                    sequence,
                    record,
                })
            }
            MetaKey::Garbage { blob } => {
                let upload = match Garbage::decode(value)? {
                    Garbage::Blob(_) => None,
                    Garbage::Parts(parts) => Some(parts.upload),
                };
                Ok(Entry::Deleted { blob, upload })
            }
            MetaKey::EndedUpload { upload, .. } => {
                let kept = EndedRecord::decode(value)?;
                Ok(Entry::EndedUpload { upload, kept })
            }
            MetaKey::EndedBucket { bucket } => Ok(Entry::EndedBucket { bucket }),
            MetaKey::Part {
                bucket,
                key,
                upload,
                number,
            } => {
                let record = Box::new(PartRecord::decode(value)?);
                Ok(Entry::Part {
                    bucket,
                    key,
                    upload,
                    number,
                    record,
                })
            }
            _ => Ok(Entry::Other),
        },
        RawKey::Shard {
            blob,
            stripe,
            shard,
        } => {
            let value = ShardValue::decode(value)?;
            // A label or trailer that does not decode leaves the bytes as good as they are.
            let label = value
                .label
                .as_deref()
                .and_then(|label| BlobLabel::decode(label).ok());
            let trailer = value.trailer.as_ref();
            let record = trailer.and_then(|trailer| ObjectRecord::decode(&trailer.bytes).ok());
            let record = record.map(Box::new);
            let part = trailer.and_then(|trailer| PartRecord::decode(&trailer.bytes).ok());
            let part = part.map(Box::new);
            Ok(Entry::Shard {
                blob,
                stripe,
                shard,
                value,
                label,
                record,
                part,
            })
        }
        RawKey::Gone(blob) => Ok(Entry::Deleted { blob, upload: None }),
        RawKey::Unknown => Ok(Entry::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{bucket_key, object_key, object_stem};
    use crate::{AccountId, Timestamp};

    #[test]
    fn entries_are_told_apart_by_their_raw_keys() {
        let record = BucketRecord {
            id: BucketId(7),
            account: AccountId::ROOT,
            created: Timestamp::from_millis(1),
            flags: 0,
            region: "r".to_owned(),
            unknown: Vec::new(),
        };
        let raw = |key: &[u8]| [&[1], key].concat();
        let key = raw(bucket_key("name").as_bytes());
        let entry = decode_entry(&key, &record.encode().unwrap()).unwrap();
        assert_eq!(
            entry,
            Entry::Bucket {
                name: "name".to_owned(),
                record
            }
        );
        let key =
            raw(object_key(&object_stem(volume::SliceId::ROOT, BucketId(7), b"k"), 9).as_bytes());
        assert!(decode_entry(&key, b"not a record").is_err());
        assert_eq!(decode_entry(b"\x09whatever", b"").unwrap(), Entry::Other);
    }
}
