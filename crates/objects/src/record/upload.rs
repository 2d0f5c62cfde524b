//! The records of uploads in parts, while they are not completed.
//!
//! ```text
//! upload   u8 version = 1 | u8 flags, none yet | u64 initiated, milliseconds since the Unix
//!          epoch | u64 owner, an account's number
//!          fields: 1 to 7 the object's metadata, 8 checksum that its parts are to have
//!          (u8 algorithm, u8 kind)
//! part     u8 version = 1 | u8 flags, none yet | u64 size | u64 modified
//!          | entity tag as in an object's record
//!          fields: 8 checksum as in an object's record, 9 the one that came with the part, if it
//!          is by another algorithm, 128 blob reference
//! ended    u8 version = 1 | the numbers of parts that the object keeps, as bits: number 1 is
//!          the lowest bit of the first byte
//! ```

use super::{FIELD_BLOB, FIELD_CHECKSUM, VERSION, put_blob, put_etag, take_etag, take_version};
use crate::checksum::{ChecksumAlgorithm, ChecksumKind};
use crate::codec::{Take, UnknownFields, corrupt, put_field, put_unknown, take_fields};
use crate::{AccountId, Checksum, ETag, Metadata, Result, Timestamp};
use volume::BlobRef;

/// What is kept about an upload that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRecord {
    /// When it was begun, by the server's clock.
    pub initiated: Timestamp,
    /// The account that began it.
    pub owner: AccountId,
    /// What is going to be stored beside the body.
    pub metadata: Metadata,
    /// The checksum that each part is to have, and what the object's is of.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    /// Kept for the release that knows them.
    pub unknown: UnknownFields,
}

impl UploadRecord {
    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = vec![VERSION, 0];
        out.extend_from_slice(&self.initiated.as_millis().to_le_bytes());
        out.extend_from_slice(&self.owner.number().to_le_bytes());
        self.metadata.encode(&mut out)?;
        if let Some((algorithm, kind)) = self.checksum {
            put_field(
                &mut out,
                FIELD_CHECKSUM,
                &[algorithm.number(), kind.number()],
            )?;
        }
        put_unknown(&mut out, &self.unknown)?;
        Ok(out)
    }

    /// Any bytes become a record or [`Error::Corrupt`](crate::Error::Corrupt).
    pub fn decode(value: &[u8]) -> Result<UploadRecord> {
        let what = "an upload's record";
        let mut take = Take(value);
        take_version(&mut take, what)?;
        let mut record =
            UploadRecord::take_head(&mut take).ok_or_else(|| corrupt(what, "it is cut short"))?;
        let (metadata, checksum) = (&mut record.metadata, &mut record.checksum);
        record.unknown = take_fields(what, take, |tag, bytes| {
            match (tag, bytes) {
                (FIELD_CHECKSUM, &[algorithm, kind]) => {
                    // What the parts must have cannot be left out.
                    let algorithm = ChecksumAlgorithm::from_number(algorithm);
                    let known = algorithm.zip(ChecksumKind::from_number(kind));
                    *checksum =
                        Some(known.ok_or_else(|| corrupt(what, "its checksum is unknown"))?);
                    Ok(true)
                }
                _ => metadata.take_field(what, tag, bytes),
            }
        })?;
        Ok(record)
    }

    fn take_head(take: &mut Take<'_>) -> Option<UploadRecord> {
        let _flags = take.u8()?;
        Some(UploadRecord {
            initiated: Timestamp::from_millis(take.u64()?),
            owner: AccountId::from_number(take.u64()?)?,
            metadata: Metadata::default(),
            checksum: None,
            unknown: UnknownFields::new(),
        })
    }
}

/// A part's second checksum.
const FIELD_SENT: u8 = 9;

/// What is kept about a part of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRecord {
    /// Bytes of the part.
    pub size: u64,
    /// When it was committed, by the server's clock.
    pub modified: Timestamp,
    /// Its entity tag.
    pub etag: ETag,
    /// Its checksum.
    pub checksum: Option<Checksum>,
    /// The checksum that it came with, if that is by another algorithm.
    pub sent: Option<Checksum>,
    /// Its bytes.
    pub blob: BlobRef,
    /// Kept for the release that knows them.
    pub unknown: UnknownFields,
}

impl PartRecord {
    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = vec![VERSION, 0];
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.modified.as_millis().to_le_bytes());
        put_etag(&mut out, &self.etag)?;
        if let Some(checksum) = &self.checksum {
            put_field(&mut out, FIELD_CHECKSUM, &checksum.encode())?;
        }
        if let Some(sent) = &self.sent {
            put_field(&mut out, FIELD_SENT, &sent.encode())?;
        }
        put_blob(&mut out, &self.blob)?;
        put_unknown(&mut out, &self.unknown)?;
        Ok(out)
    }

    /// Any bytes become a record or [`Error::Corrupt`](crate::Error::Corrupt).
    pub fn decode(value: &[u8]) -> Result<PartRecord> {
        let what = "the record of a part";
        let mut take = Take(value);
        take_version(&mut take, what)?;
        let head = PartRecord::take_head(&mut take);
        let (size, modified, etag) = head.ok_or_else(|| corrupt(what, "it is cut short"))?;
        let (mut checksum, mut sent, mut blob) = (None, None, None);
        let unknown = take_fields(what, take, |tag, bytes| {
            match tag {
                FIELD_CHECKSUM => checksum = Checksum::decode(bytes),
                FIELD_SENT => sent = Checksum::decode(bytes),
                FIELD_BLOB => blob = Some(BlobRef::decode(bytes)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let blob = blob.ok_or_else(|| corrupt(what, "it names no blob"))?;
        if blob.plain_len != size {
            return Err(corrupt(what, "its size is not its blob's"));
        }
        Ok(PartRecord {
            size,
            modified,
            etag,
            checksum,
            sent,
            blob,
            unknown,
        })
    }

    fn take_head(take: &mut Take<'_>) -> Option<(u64, Timestamp, ETag)> {
        let _flags = take.u8()?;
        let size = take.u64()?;
        let modified = Timestamp::from_millis(take.u64()?);
        Some((size, modified, take_etag(take)?))
    }
}

/// Says which parts of an ended upload an object keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndedRecord {
    kept: Vec<u8>,
}

impl EndedRecord {
    /// The object keeps this part.
    pub fn keep(&mut self, number: u16) {
        let bit = usize::from(number.saturating_sub(1));
        if self.kept.len() <= bit / 8 {
            self.kept.resize(bit / 8 + 1, 0);
        }
        self.kept[bit / 8] |= 1 << (bit % 8);
    }

    /// Whether the object keeps a part.
    pub fn keeps(&self, number: u16) -> bool {
        let bit = usize::from(number.saturating_sub(1));
        self.kept
            .get(bit / 8)
            .is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        [&[VERSION], self.kept.as_slice()].concat()
    }

    /// Any bytes become a note or [`Error::Corrupt`](crate::Error::Corrupt).
    pub fn decode(value: &[u8]) -> Result<EndedRecord> {
        let mut take = Take(value);
        take_version(&mut take, "the note of an ended upload")?;
        Ok(EndedRecord {
            kept: take.0.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use volume::{BlobId, Scheme};

    fn upload() -> UploadRecord {
        UploadRecord {
            initiated: Timestamp::from_millis(5),
            owner: AccountId::ROOT,
            metadata: Metadata {
                content_type: Some("text/plain".to_owned()),
                user: vec![("a".to_owned(), "b".to_owned())],
                ..Metadata::default()
            },
            checksum: Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite)),
            unknown: vec![(99, vec![1, 2])],
        }
    }

    fn part() -> PartRecord {
        PartRecord {
            size: 3,
            modified: Timestamp::from_millis(6),
            etag: ETag::from_md5([1; 16]),
            checksum: Checksum::full_object(ChecksumAlgorithm::Crc32, vec![1, 2, 3, 4]),
            sent: Checksum::full_object(ChecksumAlgorithm::Crc32c, vec![5, 6, 7, 8]),
            blob: BlobRef {
                id: BlobId {
                    epoch: 1,
                    counter: 2,
                },
                plain_len: 3,
                stored_len: 3,
                transforms: Vec::new(),
                scheme: Scheme { k: 1, m: 0 },
                shard_bytes: 1024,
            },
            unknown: vec![(98, vec![])],
        }
    }

    #[test]
    fn records_come_back_as_they_were() {
        let bytes = upload().encode().unwrap();
        assert_eq!(UploadRecord::decode(&bytes).unwrap(), upload());
        let bytes = part().encode().unwrap();
        assert_eq!(PartRecord::decode(&bytes).unwrap(), part());
        let mut ended = EndedRecord::default();
        ended.keep(1);
        ended.keep(10_000);
        let ended = EndedRecord::decode(&ended.encode()).unwrap();
        let kept: Vec<u16> = (1..=10_001).filter(|n| ended.keeps(*n)).collect();
        assert_eq!(kept, [1, 10_000]);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic() {
        let mut random = Random::new(6);
        for good in [upload().encode().unwrap(), part().encode().unwrap()] {
            for _ in 0..20_000 {
                let mut bytes = good.clone();
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
                bytes.truncate(random.below(good.len() + 1));
                let _ = UploadRecord::decode(&bytes);
                let _ = PartRecord::decode(&bytes);
                let _ = EndedRecord::decode(&bytes);
            }
        }
    }
}
