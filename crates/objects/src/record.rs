//! The values behind the metadata keys: object and bucket records, and a blob's label.
//!
//! Object record (all integers little-endian):
//!
//! ```text
//!  0  u8   version = 1
//!  1  u8   flags: 1 = null version (written while the bucket had no versioning),
//!                 2 = delete marker
//!  2  u64  size of the body in bytes
//! 10  u64  modified, milliseconds since the Unix epoch
//! 18  u64  owner, an account's number
//! 26  u8   kind of entity tag: 0 = text, 1 = MD5
//! 27       text: u8 length, bytes; MD5: 16 bytes
//!     fields (see `codec`): 1 content type, 2 cache control, 3 content disposition,
//!     4 content encoding, 5 content language, 6 expires, 7 user metadata (u16 length, name,
//!     u16 length, value, repeated), 8 checksum (u8 algorithm, u8 kind: 0 = of all bytes,
//!     1 = of the parts' checksums, digest), 128 blob reference (see `volume::BlobRef`),
//!     129 parts (see `parts`)
//! ```
//! Without a blob reference or parts the body is the payload of the record's own entry.
//!
//! Bucket record:
//!
//! ```text
//!  0  u8   version = 1
//!  1  u8   flags, none yet
//!  2  u64  bucket id
//! 10  u64  account
//! 18  u64  created, milliseconds since the Unix epoch
//!     fields: 1 region
//! ```
//!
//! Label in the first frame of a blob:
//!
//! ```text
//! u8 version = 1
//! | u8 kind: 1 = an object's body, 2 = a part of an upload, 3 = the table of an object's parts
//! | u64 bucket id | u8 length, bucket name | u16 length, object key
//! | kinds 2 and 3: u64 upload id | kind 2: u16 part number
//! ```
//! The trailer in a blob's last frame is the object record itself; of a part, the part's record.

use volume::BlobRef;

use crate::codec::{
    CRITICAL, Take, UnknownFields, corrupt, put_field, put_short, put_unknown, take_fields, text,
};
use crate::keys::BucketId;
use crate::limits::ETAG_BYTES_MAX;
use crate::parts::PartsRef;
use crate::upload::UploadId;
use crate::{AccountId, Checksum, ETag, Error, Metadata, Result, Timestamp};

mod upload;

pub use upload::{EndedRecord, PartRecord, UploadRecord};

const VERSION: u8 = 1;
const ETAG_TEXT: u8 = 0;
const ETAG_MD5: u8 = 1;

const FIELD_CONTENT_TYPE: u8 = 1;
const FIELD_CACHE_CONTROL: u8 = 2;
const FIELD_CONTENT_DISPOSITION: u8 = 3;
const FIELD_CONTENT_ENCODING: u8 = 4;
const FIELD_CONTENT_LANGUAGE: u8 = 5;
const FIELD_EXPIRES: u8 = 6;
const FIELD_USER: u8 = 7;
const FIELD_CHECKSUM: u8 = 8;
const FIELD_BLOB: u8 = CRITICAL;
const FIELD_PARTS: u8 = CRITICAL | 1;

const FIELD_REGION: u8 = 1;

const LABEL_OBJECT: u8 = 1;
const LABEL_PART: u8 = 2;
const LABEL_TABLE: u8 = 3;

/// Yes-or-no facts of a version. Bits that this release does not know are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// Written while the bucket had no versioning.
    pub const NULL_VERSION: Flags = Flags(1);
    /// Says that the object is deleted; has no body.
    pub const DELETE_MARKER: Flags = Flags(2);

    /// Whether every bit of `other` is set.
    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The beginning of an object's record: all that a listing shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// Yes-or-no facts.
    pub flags: Flags,
    /// Bytes of the body.
    pub size: u64,
    /// When it was committed, by the server's clock.
    pub modified: Timestamp,
    /// The account that wrote it.
    pub owner: AccountId,
    /// The entity tag.
    pub etag: ETag,
}

/// Where a body is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// In the payload of the record's own entry.
    Inline,
    /// In a blob.
    Blob(BlobRef),
    /// In a blob for each part that it was uploaded in.
    Parts(PartsRef),
}

/// What is kept about one version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRecord {
    /// What a listing shows.
    pub head: ObjectHead,
    /// Where the body is.
    pub body: Body,
    /// What the client stored beside the body.
    pub metadata: Metadata,
    /// The checksum that was verified when the body came.
    pub checksum: Option<Checksum>,
    /// Kept for the release that knows them.
    pub unknown: UnknownFields,
}

impl ObjectHead {
    /// Decodes the beginning of a record and nothing else.
    pub fn decode(value: &[u8]) -> Result<ObjectHead> {
        ObjectHead::take(&mut Take(value))
    }

    fn take(take: &mut Take<'_>) -> Result<ObjectHead> {
        take_version(take, "an object's record")?;
        let head = ObjectHead::take_fields(take);
        head.ok_or_else(|| corrupt("an object's record", "its head is cut short or cannot be"))
    }

    fn take_fields(take: &mut Take<'_>) -> Option<ObjectHead> {
        Some(ObjectHead {
            flags: Flags(take.u8()?),
            size: take.u64()?,
            modified: Timestamp::from_millis(take.u64()?),
            owner: AccountId::from_number(take.u64()?)?,
            etag: take_etag(take)?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&[VERSION, self.flags.0]);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.modified.as_millis().to_le_bytes());
        out.extend_from_slice(&self.owner.number().to_le_bytes());
        put_etag(out, &self.etag)
    }
}

fn put_etag(out: &mut Vec<u8>, etag: &ETag) -> Result<()> {
    if let Some(digest) = etag.md5() {
        out.push(ETAG_MD5);
        out.extend_from_slice(&digest);
        return Ok(());
    }
    let text = etag.as_str().as_bytes();
    let len = u8::try_from(text.len()).map_err(|_| {
        let (is, limit) = (text.len(), ETAG_BYTES_MAX);
        Error::Internal(format!("an entity tag of {is} bytes, the limit is {limit}"))
    })?;
    out.extend_from_slice(&[ETAG_TEXT, len]);
    out.extend_from_slice(text);
    Ok(())
}

pub(crate) fn take_version(take: &mut Take<'_>, what: &str) -> Result<()> {
    match take.u8() {
        Some(VERSION) => Ok(()),
        Some(_) => Err(corrupt(what, "it was written by a newer cullet")),
        None => Err(corrupt(what, "it is empty")),
    }
}

fn take_etag(take: &mut Take<'_>) -> Option<ETag> {
    match take.u8()? {
        ETAG_MD5 => take.array().map(ETag::from_md5),
        ETAG_TEXT => {
            let len = take.u8()?;
            let text = std::str::from_utf8(take.bytes(len.into())?).ok()?;
            Some(ETag::new(text))
        }
        _ => None,
    }
}

impl ObjectRecord {
    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(128);
        self.head.encode(&mut out)?;
        self.metadata.encode(&mut out)?;
        if let Some(checksum) = &self.checksum {
            put_field(&mut out, FIELD_CHECKSUM, &checksum.encode())?;
        }
        match &self.body {
            Body::Inline => {}
            Body::Blob(blob) => put_blob(&mut out, blob)?,
            Body::Parts(parts) => put_field(&mut out, FIELD_PARTS, &parts.encode()?)?,
        }
        put_unknown(&mut out, &self.unknown)?;
        Ok(out)
    }

    /// Any bytes become a record or [`Error::Corrupt`]; a record with a critical field that
    /// this release does not know is refused likewise, naming that reason.
    pub fn decode(value: &[u8]) -> Result<ObjectRecord> {
        let what = "an object's record";
        let mut take = Take(value);
        let head = ObjectHead::take(&mut take)?;
        let (mut body, mut metadata, mut checksum) = (Body::Inline, Metadata::default(), None);
        let unknown = take_fields(what, take, |tag, bytes| {
            match tag {
                // One of an algorithm that this release does not know is kept as it is.
                FIELD_CHECKSUM => match Checksum::decode(bytes) {
                    Some(known) => checksum = Some(known),
                    None => return Ok(false),
                },
                FIELD_BLOB => body = Body::Blob(BlobRef::decode(bytes)?),
                FIELD_PARTS => body = Body::Parts(PartsRef::decode(bytes)?),
                tag => return metadata.take_field(what, tag, bytes),
            }
            Ok(true)
        })?;
        Ok(ObjectRecord {
            head,
            body,
            metadata,
            checksum,
            unknown,
        })
    }
}

/// Appends a blob reference as a field.
fn put_blob(out: &mut Vec<u8>, blob: &BlobRef) -> Result<()> {
    let mut bytes = Vec::with_capacity(64);
    blob.encode(&mut bytes);
    put_field(out, FIELD_BLOB, &bytes)
}

fn take_user(bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let mut take = Take(bytes);
    let mut user = Vec::new();
    let text = |take: &mut Take<'_>| {
        let len = take.u16()?;
        String::from_utf8(take.bytes(len.into())?.to_vec()).ok()
    };
    while !take.0.is_empty() {
        user.push((text(&mut take)?, text(&mut take)?));
    }
    Some(user)
}

impl Metadata {
    /// Appends the fields of what is set.
    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        for (tag, text) in self.system() {
            if let Some(text) = text {
                put_field(out, tag, text.as_bytes())?;
            }
        }
        if self.user.is_empty() {
            return Ok(());
        }
        let mut user = Vec::new();
        for (name, value) in &self.user {
            put_short(&mut user, name.as_bytes())?;
            put_short(&mut user, value.as_bytes())?;
        }
        put_field(out, FIELD_USER, &user)
    }

    /// Takes a field of a record; `false` if it is none of the metadata.
    fn take_field(&mut self, what: &str, tag: u8, bytes: &[u8]) -> Result<bool> {
        let place = match tag {
            FIELD_CONTENT_TYPE => &mut self.content_type,
            FIELD_CACHE_CONTROL => &mut self.cache_control,
            FIELD_CONTENT_DISPOSITION => &mut self.content_disposition,
            FIELD_CONTENT_ENCODING => &mut self.content_encoding,
            FIELD_CONTENT_LANGUAGE => &mut self.content_language,
            FIELD_EXPIRES => &mut self.expires,
            FIELD_USER => {
                self.user = take_user(bytes).ok_or_else(|| corrupt(what, "its user metadata"))?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        *place = Some(text(what, bytes)?);
        Ok(true)
    }

    /// Every header but the user's, with its field's tag.
    fn system(&self) -> [(u8, Option<&String>); 6] {
        [
            (FIELD_CONTENT_TYPE, self.content_type.as_ref()),
            (FIELD_CACHE_CONTROL, self.cache_control.as_ref()),
            (FIELD_CONTENT_DISPOSITION, self.content_disposition.as_ref()),
            (FIELD_CONTENT_ENCODING, self.content_encoding.as_ref()),
            (FIELD_CONTENT_LANGUAGE, self.content_language.as_ref()),
            (FIELD_EXPIRES, self.expires.as_ref()),
        ]
    }

    /// The values of the system's headers that are set.
    pub(crate) fn system_values(&self) -> impl Iterator<Item = &String> {
        self.system().into_iter().filter_map(|(_, value)| value)
    }
}

/// What is kept about a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketRecord {
    /// Names it for ever.
    pub id: BucketId,
    /// The account that owns it.
    pub account: AccountId,
    /// When it was created.
    pub created: Timestamp,
    /// Yes-or-no facts, none yet; kept.
    pub flags: u8,
    /// The region it was created in.
    pub region: String,
    /// Kept for the release that knows them.
    pub unknown: UnknownFields,
}

impl BucketRecord {
    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = vec![VERSION, self.flags];
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.account.number().to_le_bytes());
        out.extend_from_slice(&self.created.as_millis().to_le_bytes());
        put_field(&mut out, FIELD_REGION, self.region.as_bytes())?;
        put_unknown(&mut out, &self.unknown)?;
        Ok(out)
    }

    /// Any bytes become a record or [`Error::Corrupt`].
    pub fn decode(value: &[u8]) -> Result<BucketRecord> {
        let what = "a bucket's record";
        let mut take = Take(value);
        take_version(&mut take, what)?;
        let mut record =
            BucketRecord::take_head(&mut take).ok_or_else(|| corrupt(what, "it is cut short"))?;
        let region = &mut record.region;
        record.unknown = take_fields(what, take, |tag, bytes| {
            if tag == FIELD_REGION {
                *region = text(what, bytes)?;
            }
            Ok(tag == FIELD_REGION)
        })?;
        Ok(record)
    }

    fn take_head(take: &mut Take<'_>) -> Option<BucketRecord> {
        Some(BucketRecord {
            flags: take.u8()?,
            id: BucketId(take.u64()?),
            account: AccountId::from_number(take.u64()?)?,
            created: Timestamp::from_millis(take.u64()?),
            region: String::new(),
            unknown: UnknownFields::new(),
        })
    }
}

/// What a blob holds of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobRole {
    /// The whole body.
    Object,
    /// A part of an upload; of an object's body, once the upload is completed.
    Part {
        /// The upload.
        upload: UploadId,
        /// The part's number, from 1.
        number: u16,
    },
    /// The table of an object's parts.
    Table {
        /// The upload that the object comes from.
        upload: UploadId,
    },
}

/// What a blob says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobLabel {
    /// What it holds.
    pub role: BlobRole,
    /// The bucket, for the sweep.
    pub bucket: BucketId,
    /// The bucket's name when the blob was begun, for rescue.
    pub bucket_name: String,
    /// The object's key.
    pub key: String,
}

impl BlobLabel {
    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let kind = match self.role {
            BlobRole::Object => LABEL_OBJECT,
            BlobRole::Part { .. } => LABEL_PART,
            BlobRole::Table { .. } => LABEL_TABLE,
        };
        let mut out = vec![VERSION, kind];
        out.extend_from_slice(&self.bucket.0.to_le_bytes());
        let name = self.bucket_name.as_bytes();
        let len = u8::try_from(name.len())
            .map_err(|_| Error::Internal(format!("a bucket name of {} bytes", name.len())))?;
        out.push(len);
        out.extend_from_slice(name);
        put_short(&mut out, self.key.as_bytes())?;
        match self.role {
            BlobRole::Object => {}
            BlobRole::Part { upload, number } => {
                out.extend_from_slice(&upload.0.to_le_bytes());
                out.extend_from_slice(&number.to_le_bytes());
            }
            BlobRole::Table { upload } => out.extend_from_slice(&upload.0.to_le_bytes()),
        }
        Ok(out)
    }

    /// Any bytes become a label or [`Error::Corrupt`]; labels of kinds that this release
    /// does not know are refused likewise.
    pub fn decode(bytes: &[u8]) -> Result<BlobLabel> {
        let what = "a blob's label";
        let mut take = Take(bytes);
        take_version(&mut take, what)?;
        let kind = match take.u8() {
            Some(kind @ (LABEL_OBJECT | LABEL_PART | LABEL_TABLE)) => kind,
            _ => {
                let why = "it is of a kind that this release does not know";
                return Err(corrupt(what, why));
            }
        };
        BlobLabel::take_fields(&mut take, kind)
            .filter(|_| take.0.is_empty())
            .ok_or_else(|| corrupt(what, "it is cut short, too long or not text"))
    }

    fn take_fields(take: &mut Take<'_>, kind: u8) -> Option<BlobLabel> {
        let bucket = BucketId(take.u64()?);
        let name_len = take.u8()?;
        let bucket_name = String::from_utf8(take.bytes(name_len.into())?.to_vec()).ok()?;
        let key_len = take.u16()?;
        let key = String::from_utf8(take.bytes(key_len.into())?.to_vec()).ok()?;
        let role = match kind {
            LABEL_PART => BlobRole::Part {
                upload: UploadId(take.u64()?),
                number: take.u16()?,
            },
            LABEL_TABLE => BlobRole::Table {
                upload: UploadId(take.u64()?),
            },
            _ => BlobRole::Object,
        };
        Some(BlobLabel {
            role,
            bucket,
            bucket_name,
            key,
        })
    }
}

#[cfg(test)]
mod tests;
