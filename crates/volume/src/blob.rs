//! What a blob is called and how it lies on the disks.
//!
//! A blob is cut into stripes of `k * shard_bytes` bytes; the last may be shorter. Shard `s`
//! of stripe `n` is one entry of one disk's engine:
//!
//! ```text
//! key      02 | epoch u64 BE | counter u64 BE | stripe u32 BE | shard u8
//! value    see `ShardValue`
//! payload  the shard's bytes
//! ```
//!
//! No list of shards stands anywhere: the key says it all.

use shardstore::Key;

use crate::limits::{SHARD_BYTES_MAX, SHARD_KEY_BYTES};
use crate::{Result, Scheme, VolumeError};

/// First byte of the keys that hold shards.
pub(crate) const SHARD_PREFIX: u8 = 0x02;

/// Names a blob; never used twice, across restarts as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId {
    /// The volume's epoch when the blob was begun: the number of the run.
    pub epoch: u64,
    /// Counts within the epoch.
    pub counter: u64,
}

impl BlobId {
    /// Sorts before every other.
    pub const FIRST: BlobId = BlobId {
        epoch: 0,
        counter: 0,
    };

    /// Sixteen bytes that sort as the ids do.
    pub fn to_bytes(self) -> [u8; 16] {
        ((u128::from(self.epoch) << 64) | u128::from(self.counter)).to_be_bytes()
    }

    /// The inverse of [`to_bytes`](BlobId::to_bytes).
    pub fn from_bytes(bytes: [u8; 16]) -> BlobId {
        let id = u128::from_be_bytes(bytes);
        BlobId {
            epoch: (id >> 64) as u64,
            counter: id as u64,
        }
    }

    /// The next id in order; `None` after the last.
    pub fn successor(self) -> Option<BlobId> {
        let id = u128::from_be_bytes(self.to_bytes()).checked_add(1)?;
        Some(BlobId::from_bytes(id.to_be_bytes()))
    }
}

impl std::fmt::Display for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{:x}", self.epoch, self.counter)
    }
}

/// The bytes of a shard's key.
pub(crate) fn shard_key_bytes(blob: BlobId, stripe: u32, shard: u8) -> [u8; SHARD_KEY_BYTES] {
    let mut key = [0; SHARD_KEY_BYTES];
    key[0] = SHARD_PREFIX;
    key[1..17].copy_from_slice(&blob.to_bytes());
    key[17..21].copy_from_slice(&stripe.to_be_bytes());
    key[21] = shard;
    key
}

/// A shard's key for a batch.
pub(crate) fn shard_key(blob: BlobId, stripe: u32, shard: u8) -> Key {
    Key::plain(shard_key_bytes(blob, stripe, shard))
}

/// Everything that is needed to read a blob back. Kept in the record that refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRef {
    /// Its name.
    pub id: BlobId,
    /// Bytes as they were written.
    pub plain_len: u64,
    /// Bytes after the transforms; equal to `plain_len` while there are none.
    pub stored_len: u64,
    /// What was done to the bytes before they were cut into stripes, first to last. No
    /// transform exists yet; a blob that has one was written by a newer release.
    pub transforms: Vec<u8>,
    /// How each stripe is spread.
    pub scheme: Scheme,
    /// Bytes of a full shard.
    pub shard_bytes: u32,
}

impl BlobRef {
    /// Bytes of a full stripe.
    pub fn stripe_bytes(&self) -> u64 {
        u64::from(self.scheme.k) * u64::from(self.shard_bytes)
    }

    /// How many stripes it has; an empty blob has one.
    pub fn stripes(&self) -> u32 {
        // `decode` and the writer both refuse a blob of more stripes than a `u32` can count.
        u32::try_from(self.stored_len.div_ceil(self.stripe_bytes()))
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// Appends its bytes: see `docs/format.md`.
    ///
    /// ```text
    /// u8 version = 1 | u64 epoch | u64 counter | u64 plain_len | u64 stored_len
    /// | u8 k | u8 m | u32 shard_bytes | u8 count of transforms | one u8 each
    /// ```
    /// Integers are little-endian.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(1);
        out.extend_from_slice(&self.id.epoch.to_le_bytes());
        out.extend_from_slice(&self.id.counter.to_le_bytes());
        out.extend_from_slice(&self.plain_len.to_le_bytes());
        out.extend_from_slice(&self.stored_len.to_le_bytes());
        out.push(self.scheme.k);
        out.push(self.scheme.m);
        out.extend_from_slice(&self.shard_bytes.to_le_bytes());
        out.push(u8::try_from(self.transforms.len()).unwrap_or(u8::MAX));
        out.extend(self.transforms.iter().take(u8::MAX.into()));
    }

    /// Any bytes become a reference or an error.
    pub fn decode(bytes: &[u8]) -> Result<BlobRef> {
        match bytes.first() {
            Some(1) => {}
            Some(_) => {
                return Err(VolumeError::Newer {
                    what: "a blob reference".to_owned(),
                });
            }
            None => return Err(corrupt("it is empty")),
        }
        let mut take = Take(&bytes[1..]);
        let blob = BlobRef::take_fields(&mut take).ok_or_else(|| corrupt("it is cut short"))?;
        if !take.0.is_empty() {
            return Err(corrupt("bytes follow it"));
        }
        if Scheme::new(blob.scheme.k, blob.scheme.m).is_none() {
            return Err(corrupt("its scheme cannot be"));
        }
        if blob.shard_bytes == 0 || blob.shard_bytes as usize > SHARD_BYTES_MAX {
            return Err(corrupt("its shard size cannot be"));
        }
        if blob.transforms.is_empty() && blob.plain_len != blob.stored_len {
            return Err(corrupt(
                "its lengths differ, although nothing was transformed",
            ));
        }
        if blob.stored_len.div_ceil(blob.stripe_bytes()) > u64::from(u32::MAX) {
            return Err(corrupt("it has more stripes than can be"));
        }
        Ok(blob)
    }

    fn take_fields(take: &mut Take<'_>) -> Option<BlobRef> {
        Some(BlobRef {
            id: BlobId {
                epoch: take.u64()?,
                counter: take.u64()?,
            },
            plain_len: take.u64()?,
            stored_len: take.u64()?,
            scheme: Scheme {
                k: take.u8()?,
                m: take.u8()?,
            },
            shard_bytes: take.u32()?,
            transforms: {
                let count = take.u8()?;
                take.bytes(count.into())?.to_vec()
            },
        })
    }
}

fn corrupt(why: &str) -> VolumeError {
    VolumeError::Corrupt {
        what: "a blob reference".to_owned(),
        why: why.to_owned(),
    }
}

/// Takes little-endian values off the front; `None` when too little is left.
pub(crate) struct Take<'a>(pub(crate) &'a [u8]);

impl<'a> Take<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BlobRef {
        BlobRef {
            id: BlobId {
                epoch: 7,
                counter: u64::MAX,
            },
            plain_len: 3 * 1024 * 1024 + 1,
            stored_len: 3 * 1024 * 1024 + 1,
            transforms: vec![9, 8],
            scheme: Scheme { k: 2, m: 1 },
            shard_bytes: 1024 * 1024,
        }
    }

    #[test]
    fn ids_sort_as_their_bytes() {
        let ids = [(0, 0), (0, u64::MAX), (1, 0), (u64::MAX, 1)];
        let ids = ids.map(|(epoch, counter)| BlobId { epoch, counter });
        assert!(ids.is_sorted());
        assert!(ids.map(BlobId::to_bytes).is_sorted());
        for id in ids {
            assert_eq!(BlobId::from_bytes(id.to_bytes()), id);
        }
        assert_eq!(ids[1].successor(), Some(ids[2]));
        assert_eq!(
            BlobId {
                epoch: u64::MAX,
                counter: u64::MAX
            }
            .successor(),
            None
        );
    }

    #[test]
    fn stripes_are_counted_up() {
        let mut blob = sample();
        assert_eq!((blob.stripe_bytes(), blob.stripes()), (2 * 1024 * 1024, 2));
        blob.stored_len = 4 * 1024 * 1024;
        assert_eq!(blob.stripes(), 2);
        blob.stored_len = 0;
        assert_eq!(blob.stripes(), 1);
    }

    #[test]
    fn a_reference_survives_its_codec_and_nothing_else_does() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        assert_eq!(BlobRef::decode(&bytes).unwrap(), sample());
        for cut in 0..bytes.len() {
            assert!(BlobRef::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            BlobRef::decode(&bytes)
        };
        assert!(matches!(with(0, 2), Err(VolumeError::Newer { .. })));
        assert!(with(33, 0).is_err(), "no data shard");
        assert!(with(34, 200).is_err(), "wider than any set");
        assert!(with(32, 255).is_err(), "more stripes than a u32 counts");
        assert!(with(38, 255).is_err(), "a shard above 1 MiB");
        bytes.push(0);
        assert!(BlobRef::decode(&bytes).is_err(), "bytes behind it");
        let mut untouched = sample();
        untouched.transforms.clear();
        untouched.stored_len -= 1;
        let mut bytes = Vec::new();
        untouched.encode(&mut bytes);
        assert!(BlobRef::decode(&bytes).is_err(), "two lengths of the same");
    }
}
