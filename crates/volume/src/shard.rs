//! What a shard's entry says about itself besides its bytes, so that a disk alone can be
//! read: how the blob was cut, and in its first and last frames what the blob is.
//!
//! ```text
//! u8 version = 1
//! u8 flags: 1 = a label follows (stripe 0), 2 = a trailer follows (last stripe)
//! u8 k | u8 m | u32 shard_bytes | u32 stripe_len (bytes of the blob in this stripe)
//! [label]    u16 length | bytes
//! [trailer]  u64 plain_len | u64 stored_len | u16 length | bytes
//! ```
//! Integers are little-endian. Label and trailer are the caller's; this crate only keeps them.

use crate::blob::{SHARD_PREFIX, Take};
use crate::limits::{LABEL_BYTES_MAX, SHARD_VALUE_BYTES_FIXED, TRAILER_BYTES_MAX};
use crate::meta::META_PREFIX;
use crate::mirror::OWN_PREFIX;
use crate::{BlobId, Result, Scheme, VolumeError};

const VERSION: u8 = 1;
const FLAG_LABEL: u8 = 1;
const FLAG_TRAILER: u8 = 2;

/// What the last stripe says about the whole blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailer {
    /// Bytes of the blob as they were written.
    pub plain_len: u64,
    /// Bytes after the transforms.
    pub stored_len: u64,
    /// The caller's.
    pub bytes: Vec<u8>,
}

/// The value of a shard's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardValue {
    /// How the stripe is spread.
    pub scheme: Scheme,
    /// Bytes of a full shard.
    pub shard_bytes: u32,
    /// Bytes of the blob in this stripe.
    pub stripe_len: u32,
    /// The caller's label: on every shard of stripe 0.
    pub label: Option<Vec<u8>>,
    /// On every shard of the last stripe.
    pub trailer: Option<Trailer>,
}

impl ShardValue {
    /// Its bytes. Label and trailer must be within their limits.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(SHARD_VALUE_BYTES_FIXED);
        let mut flags = 0;
        flags |= if self.label.is_some() { FLAG_LABEL } else { 0 };
        flags |= if self.trailer.is_some() {
            FLAG_TRAILER
        } else {
            0
        };
        out.extend_from_slice(&[VERSION, flags, self.scheme.k, self.scheme.m]);
        out.extend_from_slice(&self.shard_bytes.to_le_bytes());
        out.extend_from_slice(&self.stripe_len.to_le_bytes());
        if let Some(label) = &self.label {
            put_bytes(&mut out, "a blob's label", label, LABEL_BYTES_MAX)?;
        }
        if let Some(trailer) = &self.trailer {
            out.extend_from_slice(&trailer.plain_len.to_le_bytes());
            out.extend_from_slice(&trailer.stored_len.to_le_bytes());
            put_bytes(
                &mut out,
                "a blob's trailer",
                &trailer.bytes,
                TRAILER_BYTES_MAX,
            )?;
        }
        Ok(out)
    }

    /// Any bytes become a value or an error.
    pub fn decode(bytes: &[u8]) -> Result<ShardValue> {
        let corrupt = |why: &str| VolumeError::Corrupt {
            what: "the value of a shard".to_owned(),
            why: why.to_owned(),
        };
        match bytes.first() {
            Some(&VERSION) => {}
            Some(_) => {
                return Err(VolumeError::Newer {
                    what: "a shard".to_owned(),
                });
            }
            None => return Err(corrupt("it is empty")),
        }
        let mut take = Take(&bytes[1..]);
        let value = ShardValue::take_fields(&mut take).ok_or_else(|| corrupt("it is cut short"))?;
        if !take.0.is_empty() {
            return Err(corrupt("bytes follow it"));
        }
        if Scheme::new(value.scheme.k, value.scheme.m).is_none() {
            return Err(corrupt("its scheme cannot be"));
        }
        Ok(value)
    }

    fn take_fields(take: &mut Take<'_>) -> Option<ShardValue> {
        let flags = take.u8()?;
        let mut value = ShardValue {
            scheme: Scheme {
                k: take.u8()?,
                m: take.u8()?,
            },
            shard_bytes: take.u32()?,
            stripe_len: take.u32()?,
            label: None,
            trailer: None,
        };
        if flags & FLAG_LABEL != 0 {
            value.label = Some(take_bytes(take)?);
        }
        if flags & FLAG_TRAILER != 0 {
            value.trailer = Some(Trailer {
                plain_len: take.u64()?,
                stored_len: take.u64()?,
                bytes: take_bytes(take)?,
            });
        }
        Some(value)
    }
}

fn put_bytes(out: &mut Vec<u8>, what: &'static str, bytes: &[u8], limit: usize) -> Result<()> {
    let is = bytes.len();
    let too_large = VolumeError::TooLarge { what, is, limit };
    let len = u16::try_from(is).map_err(|_| too_large.clone())?;
    if is > limit {
        return Err(too_large);
    }
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn take_bytes(take: &mut Take<'_>) -> Option<Vec<u8>> {
    let len = take.u16()?;
    take.bytes(len.into()).map(<[u8]>::to_vec)
}

/// Whose a raw key of a disk's engine is; for rescue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawKey<'a> {
    /// A metadata key, without its prefix.
    Meta(&'a [u8]),
    /// A shard; its value is a [`ShardValue`].
    Shard {
        /// The blob.
        blob: BlobId,
        /// The stripe's number, from 0.
        stripe: u32,
        /// The shard's number within the stripe: `k` data shards, then `m` of parity.
        shard: u8,
    },
    /// A note that a blob was deleted while some of the set's disks were away, which may still
    /// have shards of it.
    Gone(BlobId),
    /// Not a key of this release.
    Unknown,
}

impl RawKey<'_> {
    /// Any bytes have an answer.
    pub fn decode(key: &[u8]) -> RawKey<'_> {
        match key.split_first() {
            Some((&META_PREFIX, rest)) => RawKey::Meta(rest),
            Some((&SHARD_PREFIX, rest)) => shard_of(rest).unwrap_or(RawKey::Unknown),
            Some((&OWN_PREFIX, _)) => {
                crate::gone::blob_of(key).map_or(RawKey::Unknown, RawKey::Gone)
            }
            _ => RawKey::Unknown,
        }
    }
}

fn shard_of(rest: &[u8]) -> Option<RawKey<'static>> {
    let (blob, rest) = rest.split_first_chunk::<16>()?;
    let (stripe, rest) = rest.split_first_chunk::<4>()?;
    let &[shard] = rest else { return None };
    let (blob, stripe) = (BlobId::from_bytes(*blob), u32::from_be_bytes(*stripe));
    Some(RawKey::Shard {
        blob,
        stripe,
        shard,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::shard_key_bytes;

    fn sample() -> ShardValue {
        ShardValue {
            scheme: Scheme { k: 1, m: 0 },
            shard_bytes: 4096,
            stripe_len: 17,
            label: Some(b"label".to_vec()),
            trailer: Some(Trailer {
                plain_len: 1,
                stored_len: 2,
                bytes: b"etag".to_vec(),
            }),
        }
    }

    #[test]
    fn values_survive_their_codec_and_cuts_do_not() {
        for (label, trailer) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut value = sample();
            value.label = value.label.filter(|_| label);
            value.trailer = value.trailer.filter(|_| trailer);
            let bytes = value.encode().unwrap();
            assert!(bytes.len() <= SHARD_VALUE_BYTES_FIXED + 5 + 4);
            assert_eq!(ShardValue::decode(&bytes).unwrap(), value);
            for cut in 0..bytes.len() {
                assert!(ShardValue::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn limits_hold() {
        let mut value = sample();
        value.label = Some(vec![0; LABEL_BYTES_MAX + 1]);
        assert!(matches!(value.encode(), Err(VolumeError::TooLarge { .. })));
    }

    #[test]
    fn raw_keys_are_told_apart() {
        let blob = BlobId {
            epoch: 3,
            counter: 4,
        };
        let key = shard_key_bytes(blob, 5, 6);
        assert_eq!(
            RawKey::decode(&key),
            RawKey::Shard {
                blob,
                stripe: 5,
                shard: 6
            }
        );
        assert_eq!(RawKey::decode(&key[..21]), RawKey::Unknown);
        let gone = [b"\x04gone".as_slice(), &blob.to_bytes()].concat();
        assert_eq!(RawKey::decode(&gone), RawKey::Gone(blob));
        assert_eq!(RawKey::decode(&gone[..9]), RawKey::Unknown);
        assert_eq!(RawKey::decode(&[1, 2, 3]), RawKey::Meta(&[2, 3]));
        assert_eq!(RawKey::decode(&[]), RawKey::Unknown);
        assert_eq!(RawKey::decode(&[9]), RawKey::Unknown);
    }
}
