//! How buckets and objects are laid out in the metadata key space.
//!
//! Every key begins with the number of its slice (4 bytes, big-endian). Behind it:
//!
//! ```text
//! A | account u64 BE | name of a bucket             the account owns this bucket
//! B | name                                          a bucket's record
//! C | bucket id u64 BE                              counters: objects, bytes
//! G | blob id (16 bytes)                            note: a blob that is to be deleted
//! I | account u64 BE                                an account's record
//! K | access key id                                 an access key's record
//! N | account u64 BE                                counters: buckets
//! O | bucket id u64 BE | escaped key | 00 00        an object's stem, followed by
//!   | inverted commit sequence u64 BE               its version: the newest sorts first
//! P | bucket id u64 BE | escaped key | 00 00        a part of an upload that is not completed
//!   | upload id u64 BE | part number u16 BE
//! S | name                                          a setting
//! U | bucket id u64 BE | escaped key | 00 00        an upload in parts that was begun
//!   | upload id u64 BE
//! W | bucket id u64 BE | escaped key | 00 00        note: the parts of an ended upload are
//!   | upload id u64 BE                              to be cleared away
//! W | bucket id u64 BE                              note: so are all uploads of a bucket
//!                                                   that is gone
//! ```
//! Escaping writes each byte 00 of a key as 00 FF, so that the terminator 00 00 sorts before
//! everything a longer key may continue with: escaped keys sort as the keys do, and a
//! prefix of keys is a prefix of escaped keys.
//!
//! Which slice an object is in says the volume's map, by the object's *route*: the bucket id
//! (big-endian) and the escaped key. What commits with an object is in the same slice: its
//! share of the bucket's counters, so that a bucket has counters in each slice and readers add
//! them up; the note of its body's deletion; and its uploads with their parts and notes. Buckets, accounts and settings are in the
//! root slice.

use volume::{BlobId, Key, SliceId, SliceMap};

use crate::upload::UploadId;
use crate::{Error, Result};

const ACCOUNT_BUCKET: u8 = b'A';
const BUCKET: u8 = b'B';
const COUNTERS: u8 = b'C';
const GARBAGE: u8 = b'G';
const IDENTITY: u8 = b'I';
const ACCESS_KEY: u8 = b'K';
const ACCOUNT: u8 = b'N';
const OBJECT: u8 = b'O';
const PART: u8 = b'P';
const SETTING: u8 = b'S';
const UPLOAD: u8 = b'U';
const WIPE: u8 = b'W';

/// Bytes of the inverted commit sequence behind a stem.
pub(crate) const SUFFIX_BYTES: usize = 8;

/// Names a bucket for ever, whatever becomes of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketId(pub u64);

impl std::fmt::Display for BucketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

fn tagged(slice: SliceId, tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(SliceId::BYTES + 1 + rest.len());
    key.extend_from_slice(&slice.to_bytes());
    key.push(tag);
    key.extend_from_slice(rest);
    key
}

/// All keys of a kind in a slice: from, to.
fn tagged_range(slice: SliceId, tag: u8) -> (Vec<u8>, Vec<u8>) {
    (tagged(slice, tag, &[]), tagged(slice, tag + 1, &[]))
}

pub(crate) fn bucket_key(name: &str) -> Key {
    Key::plain(tagged(SliceId::ROOT, BUCKET, name.as_bytes()))
}

/// The name in the key of a bucket's record.
pub(crate) fn bucket_name(key: &[u8]) -> Result<String> {
    match decode_meta_key(key)? {
        MetaKey::Bucket { name } => Ok(name),
        _ => Err(Error::Internal("a key that is no bucket's".to_owned())),
    }
}

/// A slice's share of a bucket's counters.
pub(crate) fn counters_key(slice: SliceId, bucket: BucketId) -> Key {
    Key::plain(tagged(slice, COUNTERS, &bucket.0.to_be_bytes()))
}

pub(crate) fn account_key(account: u64) -> Key {
    Key::plain(tagged(SliceId::ROOT, ACCOUNT, &account.to_be_bytes()))
}

/// Says that an account owns a bucket. `prefix` may be the beginning of its name.
pub(crate) fn account_bucket_key(account: u64, prefix: &str) -> Key {
    let rest = [&account.to_be_bytes()[..], prefix.as_bytes()].concat();
    Key::plain(tagged(SliceId::ROOT, ACCOUNT_BUCKET, &rest))
}

/// The bucket's name in such a key.
pub(crate) fn account_bucket_name(key: &[u8]) -> Result<String> {
    match decode_meta_key(key)? {
        MetaKey::AccountBucket { name, .. } => Ok(name),
        _ => Err(Error::Internal("a key that names no bucket".to_owned())),
    }
}

/// All records of buckets: from, to.
pub(crate) fn bucket_range() -> (Vec<u8>, Vec<u8>) {
    tagged_range(SliceId::ROOT, BUCKET)
}

/// An account's record.
pub(crate) fn identity_key(account: u64) -> Key {
    Key::plain(tagged(SliceId::ROOT, IDENTITY, &account.to_be_bytes()))
}

/// All records of accounts: from, to.
pub(crate) fn identity_range() -> (Vec<u8>, Vec<u8>) {
    tagged_range(SliceId::ROOT, IDENTITY)
}

/// An access key's record.
pub(crate) fn access_key(id: &str) -> Key {
    Key::plain(tagged(SliceId::ROOT, ACCESS_KEY, id.as_bytes()))
}

/// All records of access keys: from, to.
pub(crate) fn access_key_range() -> (Vec<u8>, Vec<u8>) {
    tagged_range(SliceId::ROOT, ACCESS_KEY)
}

pub(crate) fn garbage_key(slice: SliceId, blob: BlobId) -> Key {
    Key::plain(tagged(slice, GARBAGE, &blob.to_bytes()))
}

/// All notes of a slice: from, to.
pub(crate) fn garbage_range(slice: SliceId) -> (Vec<u8>, Vec<u8>) {
    tagged_range(slice, GARBAGE)
}

pub(crate) fn setting_key(name: &str) -> Key {
    Key::plain(tagged(SliceId::ROOT, SETTING, name.as_bytes()))
}

/// What the routes of all objects begin with whose key begins with `prefix`.
fn route(bucket: BucketId, prefix: &[u8]) -> Vec<u8> {
    let mut route = Vec::with_capacity(8 + prefix.len() + 2 + SUFFIX_BYTES);
    route.extend_from_slice(&bucket.0.to_be_bytes());
    for &byte in prefix {
        route.push(byte);
        if byte == 0 {
            route.push(0xff);
        }
    }
    route
}

/// The slice of an object.
pub(crate) fn object_slice(map: &SliceMap, bucket: BucketId, key: &[u8]) -> SliceId {
    map.slice_of(&route(bucket, key))
}

/// What the keys of all objects of a slice begin with whose key begins with `prefix`.
pub(crate) fn object_prefix(slice: SliceId, bucket: BucketId, prefix: &[u8]) -> Vec<u8> {
    tagged(slice, OBJECT, &route(bucket, prefix))
}

/// What the keys of all versions of an object begin with.
pub(crate) fn object_stem(slice: SliceId, bucket: BucketId, key: &[u8]) -> Vec<u8> {
    let mut stem = object_prefix(slice, bucket, key);
    stem.extend_from_slice(&[0, 0]);
    stem
}

/// What a key of an object's upload begins with, but for the upload's id.
fn upload_stem(tag: u8, slice: SliceId, bucket: BucketId, key: &[u8]) -> Vec<u8> {
    let mut stem = tagged(slice, tag, &route(bucket, key));
    stem.extend_from_slice(&[0, 0]);
    stem
}

fn upload_bytes(
    tag: u8,
    slice: SliceId,
    bucket: BucketId,
    key: &[u8],
    upload: UploadId,
) -> Vec<u8> {
    let mut bytes = upload_stem(tag, slice, bucket, key);
    bytes.extend_from_slice(&upload.0.to_be_bytes());
    bytes
}

/// The key of an upload's record.
pub(crate) fn upload_key(slice: SliceId, bucket: BucketId, key: &[u8], upload: UploadId) -> Key {
    Key::plain(upload_bytes(UPLOAD, slice, bucket, key, upload))
}

/// What the keys of all uploads of a slice begin with whose object's key begins with `prefix`.
pub(crate) fn upload_prefix(slice: SliceId, bucket: BucketId, prefix: &[u8]) -> Vec<u8> {
    tagged(slice, UPLOAD, &route(bucket, prefix))
}

/// What the keys of all uploads of one object begin with.
pub(crate) fn object_uploads(slice: SliceId, bucket: BucketId, key: &[u8]) -> Vec<u8> {
    upload_stem(UPLOAD, slice, bucket, key)
}

/// The key of a part.
pub(crate) fn part_key(
    slice: SliceId,
    bucket: BucketId,
    key: &[u8],
    upload: UploadId,
    number: u16,
) -> Key {
    let mut bytes = upload_bytes(PART, slice, bucket, key, upload);
    bytes.extend_from_slice(&number.to_be_bytes());
    Key::plain(bytes)
}

/// What the keys of all parts of an upload begin with.
pub(crate) fn part_prefix(
    slice: SliceId,
    bucket: BucketId,
    key: &[u8],
    upload: UploadId,
) -> Vec<u8> {
    upload_bytes(PART, slice, bucket, key, upload)
}

/// What the keys of all parts of a bucket's uploads begin with.
pub(crate) fn bucket_parts(slice: SliceId, bucket: BucketId) -> Vec<u8> {
    tagged(slice, PART, &bucket.0.to_be_bytes())
}

/// The key of the note that an upload has ended.
pub(crate) fn wipe_key(slice: SliceId, bucket: BucketId, key: &[u8], upload: UploadId) -> Key {
    Key::plain(upload_bytes(WIPE, slice, bucket, key, upload))
}

/// The key of the note that a bucket with all its uploads is gone.
pub(crate) fn wipe_bucket_key(slice: SliceId, bucket: BucketId) -> Key {
    Key::plain(tagged(slice, WIPE, &bucket.0.to_be_bytes()))
}

/// All notes of ended uploads of a slice: from, to.
pub(crate) fn wipe_range(slice: SliceId) -> (Vec<u8>, Vec<u8>) {
    tagged_range(slice, WIPE)
}

/// All versions of all objects of a slice: from, to.
pub(crate) fn object_range(slice: SliceId) -> (Vec<u8>, Vec<u8>) {
    tagged_range(slice, OBJECT)
}

/// All parts of uploads of a slice: from, to.
pub(crate) fn part_range(slice: SliceId) -> (Vec<u8>, Vec<u8>) {
    tagged_range(slice, PART)
}

/// The key of one version.
pub(crate) fn object_key(stem: &[u8], sequence: u64) -> Key {
    let mut key = Vec::with_capacity(stem.len() + SUFFIX_BYTES);
    key.extend_from_slice(stem);
    key.extend_from_slice(&(!sequence).to_be_bytes());
    Key::with_stem(key, stem.len())
}

/// The stored key of a version that was read, for a batch.
pub(crate) fn stored_object_key(key: Vec<u8>) -> Key {
    let stem_len = key.len().saturating_sub(SUFFIX_BYTES);
    Key::with_stem(key, stem_len)
}

/// The first key behind every key that begins with `prefix`, which has a tag below FF behind
/// its slice, so that there always is one.
pub(crate) fn after_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if let Some(next) = last.checked_add(1) {
            prefix.push(next);
            break;
        }
    }
    prefix
}

/// A key of the metadata space, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetaKey {
    /// A bucket's record.
    Bucket {
        /// The bucket's name.
        name: String,
    },
    /// A slice's share of a bucket's counters: objects, bytes.
    BucketCounters {
        /// Whose.
        bucket: BucketId,
    },
    /// A note that a blob is to be deleted.
    Garbage {
        /// Which.
        blob: BlobId,
    },
    /// An account's counters: buckets.
    AccountCounters {
        /// The account's number.
        account: u64,
    },
    /// An account owns a bucket.
    AccountBucket {
        /// The account's number.
        account: u64,
        /// The bucket's name.
        name: String,
    },
    /// An account's record.
    Account {
        /// The account's number.
        account: u64,
    },
    /// An access key's record.
    AccessKey {
        /// The access key id.
        id: String,
    },
    /// A version of an object.
    Object {
        /// The bucket it is in.
        bucket: BucketId,
        /// The object's key.
        key: String,
        /// The commit sequence.
        sequence: u64,
    },
    /// An upload in parts.
    Upload {
        /// The bucket it is in.
        bucket: BucketId,
        /// The object's key.
        key: String,
        /// The upload.
        upload: UploadId,
    },
    /// A part of an upload that is not completed.
    Part {
        /// The bucket it is in.
        bucket: BucketId,
        /// The object's key.
        key: String,
        /// The upload.
        upload: UploadId,
        /// The part's number, from 1.
        number: u16,
    },
    /// A note that the parts of an ended upload are to be cleared away.
    EndedUpload {
        /// The bucket it was in.
        bucket: BucketId,
        /// The object's key.
        key: String,
        /// The upload.
        upload: UploadId,
    },
    /// A note that a bucket is gone and all its uploads are to be cleared away.
    EndedBucket {
        /// The bucket.
        bucket: BucketId,
    },
    /// A setting.
    Setting {
        /// Its name.
        name: String,
    },
    /// Of a kind that this release does not know.
    Unknown,
}

/// Any bytes become a key or [`Error::Corrupt`].
pub fn decode_meta_key(key: &[u8]) -> Result<MetaKey> {
    let (_, in_slice) = SliceId::split(key).unwrap_or((SliceId::ROOT, &[]));
    let Some((&tag, rest)) = in_slice.split_first() else {
        return Ok(MetaKey::Unknown);
    };
    let decoded = match tag {
        BUCKET => text(rest).map(|name| MetaKey::Bucket { name }),
        COUNTERS => number(rest).map(|id| MetaKey::BucketCounters {
            bucket: BucketId(id),
        }),
        ACCOUNT => number(rest).map(|account| MetaKey::AccountCounters { account }),
        SETTING => text(rest).map(|name| MetaKey::Setting { name }),
        ACCOUNT_BUCKET => decode_account_bucket(rest),
        IDENTITY => number(rest).map(|account| MetaKey::Account { account }),
        ACCESS_KEY => text(rest).map(|id| MetaKey::AccessKey { id }),
        GARBAGE => rest.try_into().ok().map(|id| MetaKey::Garbage {
            blob: BlobId::from_bytes(id),
        }),
        OBJECT => decode_object(rest),
        UPLOAD => decode_upload(rest).map(|(bucket, key, upload)| MetaKey::Upload {
            bucket,
            key,
            upload,
        }),
        PART => decode_part(rest),
        WIPE => match number(rest) {
            Some(bucket) => Some(MetaKey::EndedBucket {
                bucket: BucketId(bucket),
            }),
            None => decode_upload(rest).map(|(bucket, key, upload)| MetaKey::EndedUpload {
                bucket,
                key,
                upload,
            }),
        },
        _ => Some(MetaKey::Unknown),
    };
    decoded.ok_or_else(|| Error::Corrupt {
        what: "a metadata key".to_owned(),
        place: format!("{} bytes of kind {:?}", key.len(), char::from(tag)),
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn decode_account_bucket(rest: &[u8]) -> Option<MetaKey> {
    let (account, name) = rest.split_first_chunk::<8>()?;
    Some(MetaKey::AccountBucket {
        account: u64::from_be_bytes(*account),
        name: text(name)?,
    })
}

/// A bucket, the key in a stem, and the eight bytes behind it.
fn decode_stem(rest: &[u8]) -> Option<(BucketId, String, u64)> {
    let (bucket, rest) = rest.split_first_chunk::<8>()?;
    let (escaped, suffix) = rest.split_last_chunk::<8>()?;
    let key = unescape(escaped.strip_suffix(&[0, 0])?)?;
    let bucket = BucketId(u64::from_be_bytes(*bucket));
    Some((
        bucket,
        String::from_utf8(key).ok()?,
        u64::from_be_bytes(*suffix),
    ))
}

fn decode_object(rest: &[u8]) -> Option<MetaKey> {
    let (bucket, key, inverted) = decode_stem(rest)?;
    Some(MetaKey::Object {
        bucket,
        key,
        sequence: !inverted,
    })
}

fn decode_upload(rest: &[u8]) -> Option<(BucketId, String, UploadId)> {
    decode_stem(rest).map(|(bucket, key, upload)| (bucket, key, UploadId(upload)))
}

fn decode_part(rest: &[u8]) -> Option<MetaKey> {
    let (rest, number) = rest.split_last_chunk::<2>()?;
    let (bucket, key, upload) = decode_upload(rest)?;
    Some(MetaKey::Part {
        bucket,
        key,
        upload,
        number: u16::from_be_bytes(*number),
    })
}

fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        if byte == 0 && bytes.next() != Some(&0xff) {
            return None;
        }
        key.push(byte);
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const BUCKET_ID: BucketId = BucketId(0x0102);
    const SLICE: SliceId = SliceId(0xff02);

    /// Short keys over an alphabet in which escaping matters.
    fn random_key(random: &mut Random) -> String {
        let alphabet = ['\0', '\u{1}', 'a', '/', '\u{7f}', 'é', '\u{10ffff}'];
        let len = random.below(5);
        (0..len)
            .map(|_| alphabet[random.below(alphabet.len())])
            .collect()
    }

    #[test]
    fn keys_sort_as_their_stems_and_versions_from_the_newest() {
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let (a, b) = (random_key(&mut random), random_key(&mut random));
            let (sa, sb) = (random.next() >> 3, random.next() >> 3);
            let [ka, kb] = [(&a, sa), (&b, sb)]
                .map(|(k, s)| object_key(&object_stem(SLICE, BUCKET_ID, k.as_bytes()), s));
            let expected = a.as_bytes().cmp(b.as_bytes()).then(sb.cmp(&sa));
            assert_eq!(ka.as_bytes().cmp(kb.as_bytes()), expected, "{a:?} {b:?}");
            assert_eq!(ka.stem() == kb.stem(), a == b);
        }
    }

    #[test]
    fn a_prefix_covers_what_begins_with_it_and_nothing_else() {
        let mut random = Random::new(2);
        for _ in 0..20_000 {
            let (prefix, key) = (random_key(&mut random), random_key(&mut random));
            let from = object_prefix(SLICE, BUCKET_ID, prefix.as_bytes());
            let to = after_prefix(from.clone());
            let stem = object_stem(SLICE, BUCKET_ID, key.as_bytes());
            let stored = object_key(&stem, random.next()).as_bytes().to_vec();
            assert_eq!(from <= stored && stored < to, key.starts_with(&prefix));
            assert!(
                stored < after_prefix(stem),
                "every version is before the stem's end"
            );
        }
    }

    /// What commits as one is in one slice, and slices do not interleave.
    #[test]
    fn what_belongs_to_an_object_is_in_its_slice() {
        let blob = BlobId {
            epoch: 1,
            counter: 2,
        };
        for slice in [SliceId::ROOT, SLICE] {
            let keys = [
                object_key(&object_stem(slice, BUCKET_ID, b"a"), 5),
                counters_key(slice, BUCKET_ID),
                garbage_key(slice, blob),
            ];
            for key in keys {
                let found = SliceId::split(key.as_bytes()).map(|(slice, _)| slice);
                assert_eq!(found, Some(slice));
            }
        }
        // The route sorts as the object's keys do within a slice.
        let key = object_stem(SLICE, BUCKET_ID, b"a\0b");
        assert!(key.ends_with(&[&route(BUCKET_ID, b"a\0b")[..], &[0, 0]].concat()));
    }

    #[test]
    fn after_prefix_carries() {
        assert_eq!(after_prefix(vec![1, 0xff, 0xff]), [2]);
        assert_eq!(after_prefix(vec![1, 2]), [1, 3]);
    }

    #[test]
    fn every_key_decodes_to_what_it_was() {
        let mut random = Random::new(3);
        for _ in 0..10_000 {
            let (key, sequence) = (random_key(&mut random), random.next());
            let stored = object_key(&object_stem(SLICE, BUCKET_ID, key.as_bytes()), sequence);
            let decoded = decode_meta_key(stored.as_bytes()).unwrap();
            assert_eq!(
                decoded,
                MetaKey::Object {
                    bucket: BUCKET_ID,
                    key,
                    sequence
                }
            );
        }
        let blob = BlobId {
            epoch: 1,
            counter: 2,
        };
        let cases = [
            (
                bucket_key("name"),
                MetaKey::Bucket {
                    name: "name".to_owned(),
                },
            ),
            (
                counters_key(SLICE, BUCKET_ID),
                MetaKey::BucketCounters { bucket: BUCKET_ID },
            ),
            (account_key(7), MetaKey::AccountCounters { account: 7 }),
            (garbage_key(SLICE, blob), MetaKey::Garbage { blob }),
            (
                upload_key(SLICE, BUCKET_ID, b"a\0b", UploadId(7)),
                MetaKey::Upload {
                    bucket: BUCKET_ID,
                    key: "a\0b".to_owned(),
                    upload: UploadId(7),
                },
            ),
            (
                part_key(SLICE, BUCKET_ID, b"a\0b", UploadId(7), 10_000),
                MetaKey::Part {
                    bucket: BUCKET_ID,
                    key: "a\0b".to_owned(),
                    upload: UploadId(7),
                    number: 10_000,
                },
            ),
            (
                wipe_key(SLICE, BUCKET_ID, b"", UploadId(7)),
                MetaKey::EndedUpload {
                    bucket: BUCKET_ID,
                    key: String::new(),
                    upload: UploadId(7),
                },
            ),
            (
                wipe_bucket_key(SLICE, BUCKET_ID),
                MetaKey::EndedBucket { bucket: BUCKET_ID },
            ),
            (
                account_bucket_key(7, "name"),
                MetaKey::AccountBucket {
                    account: 7,
                    name: "name".to_owned(),
                },
            ),
            (identity_key(7), MetaKey::Account { account: 7 }),
            (
                access_key("AKIA"),
                MetaKey::AccessKey {
                    id: "AKIA".to_owned(),
                },
            ),
            (
                setting_key("swept"),
                MetaKey::Setting {
                    name: "swept".to_owned(),
                },
            ),
            (Key::plain(*b"0000zzz"), MetaKey::Unknown),
        ];
        for (key, expected) in cases {
            assert_eq!(decode_meta_key(key.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let mut random = Random::new(4);
        for _ in 0..50_000 {
            let mut bytes = random.bytes(40);
            if let Some(first) = bytes.get_mut(SliceId::BYTES) {
                *first = b"ABCGIKNOPSUW"[random.below(12)];
            }
            let _ = decode_meta_key(&bytes);
        }
        for bad in [
            &b"0000O"[..],
            b"0000Oxxxxxxxxa\0\0",
            b"0000Oxxxxxxxx\0\x01\0\0yyyyyyyy",
            b"0000C123",
        ] {
            assert!(
                matches!(decode_meta_key(bad), Err(Error::Corrupt { .. })),
                "{bad:?}"
            );
        }
    }
}
