//! Cutting a stripe into shards, and putting it together again.
//!
//! A stripe of `len` bytes has k data shards of `ceil(len / k)` bytes: the bytes in their order,
//! so that a range of the stripe lies in as few shards as can be. The last ones may be shorter,
//! or empty; parity is computed as if zeros followed. Parity shards are as long as the first.

use std::ops::Range;

use crate::Scheme;
use crate::codec::{Codec, Doubling};

/// How a stripe of some length lies in its shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// How many shards.
    pub scheme: Scheme,
    /// Bytes of the stripe, at most 16 MiB.
    pub len: usize,
}

impl Cut {
    /// Bytes of the first data shard, and of each parity shard.
    pub(crate) fn shard_len(self) -> usize {
        self.len.div_ceil(usize::from(self.scheme.k))
    }

    /// Bytes of a shard as it is stored.
    pub fn stored_len(self, shard: usize) -> usize {
        let full = self.shard_len();
        match shard < usize::from(self.scheme.k) {
            true => self.len.saturating_sub(shard * full).min(full),
            false => full,
        }
    }

    /// Which bytes of a data shard a range of the stripe takes.
    pub(crate) fn part_of(self, shard: usize, range: &Range<usize>) -> Range<usize> {
        let begin = shard * self.shard_len();
        let len = self.stored_len(shard);
        let within = |at: usize| at.saturating_sub(begin).min(len);
        within(range.start)..within(range.end)
    }

    /// All shards of a stripe.
    pub fn shards(self, stripe: &[u8]) -> Vec<Vec<u8>> {
        let (k, m) = (usize::from(self.scheme.k), usize::from(self.scheme.m));
        if k == 1 {
            return vec![stripe.to_vec(); 1 + m];
        }
        let parts = self.parts(stripe);
        let mut parity = vec![Vec::new(); m];
        self.with_whole(&parts, |data| Doubling.encode(data, &mut parity));
        let mut shards: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        shards.extend(parity);
        shards
    }

    /// One shard of a stripe.
    pub fn shard(self, stripe: &[u8], shard: usize) -> Vec<u8> {
        let k = usize::from(self.scheme.k);
        if k == 1 {
            return stripe.to_vec();
        }
        let parts = self.parts(stripe);
        if let Some(part) = parts.get(shard) {
            return part.to_vec();
        }
        let mut parity = Vec::new();
        self.with_whole(&parts, |data| Doubling.parity(data, shard - k, &mut parity));
        parity
    }

    /// The data shards, the last ones short.
    fn parts(self, stripe: &[u8]) -> Vec<&[u8]> {
        let full = self.shard_len();
        let part = |shard: usize| {
            let begin = (shard * full).min(stripe.len());
            &stripe[begin..(begin + full).min(stripe.len())]
        };
        (0..usize::from(self.scheme.k)).map(part).collect()
    }

    /// The data shards, all of the same length.
    fn with_whole(self, parts: &[&[u8]], work: impl FnOnce(&[&[u8]])) {
        let full = self.shard_len();
        let padded: Vec<Vec<u8>> = parts.iter().map(|part| pad(part, full)).collect();
        let whole: Vec<&[u8]> = parts
            .iter()
            .zip(&padded)
            .map(|(part, padded)| match part.len() == full {
                true => *part,
                false => padded.as_slice(),
            })
            .collect();
        work(&whole);
    }

    /// Data shards from any k of all shards, `None` for those that are missing; each holds the same
    /// range of its shard, shorter where the shard ends before. `false`: too few.
    pub fn rebuild(self, shards: &mut [Option<Vec<u8>>]) -> bool {
        let len = shards.iter().flatten().map(Vec::len).max().unwrap_or(0);
        for shard in shards.iter_mut().flatten() {
            shard.resize(len, 0);
        }
        Doubling.rebuild(self.scheme, shards)
    }
}

/// Zeros behind it, where it is short; empty where it is not.
fn pad(shard: &[u8], len: usize) -> Vec<u8> {
    if shard.len() == len {
        return Vec::new();
    }
    let mut padded = shard.to_vec();
    padded.resize(len, 0);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        simdisk::Rng::new(len as u64 + 1).fill(&mut bytes);
        bytes
    }

    /// Every range of stripes of every awkward length comes back from what its shards hold of
    /// it, also with as many shards lost as may be.
    #[test]
    fn ranges_come_back_from_shards() {
        for (k, m) in [(1, 0), (1, 2), (2, 1), (3, 2), (4, 2), (8, 4)] {
            let scheme = Scheme { k, m };
            for len in [0, 1, 2, 7, 8, 9, 64, 100, 1000] {
                let (cut, stripe) = (Cut { scheme, len }, bytes(len));
                let shards = cut.shards(&stripe);
                assert_eq!(shards.len(), usize::from(k + m));
                for (number, shard) in shards.iter().enumerate() {
                    assert_eq!(cut.shard(&stripe, number), *shard, "{scheme} {len}");
                    assert_eq!(shard.len(), cut.stored_len(number), "{scheme} {len}");
                }
                for range in [
                    0..len,
                    0..len.min(1),
                    len / 3..len / 2,
                    len.saturating_sub(2)..len,
                ] {
                    let parts: Vec<u8> = (0..usize::from(k))
                        .flat_map(|shard| shards[shard][cut.part_of(shard, &range)].to_vec())
                        .collect();
                    assert_eq!(parts, stripe[range.clone()], "{scheme} {len} {range:?}");
                }
                let lost = usize::from(m);
                let left =
                    |(number, shard): (usize, &Vec<u8>)| (number >= lost).then(|| shard.clone());
                let mut left: Vec<_> = shards.iter().enumerate().map(left).collect();
                assert!(cut.rebuild(&mut left));
                for shard in 0..usize::from(k) {
                    let rebuilt = left[shard].as_ref().unwrap();
                    assert_eq!(
                        rebuilt[..shards[shard].len()],
                        shards[shard],
                        "{scheme} {len}"
                    );
                }
            }
        }
    }
}
