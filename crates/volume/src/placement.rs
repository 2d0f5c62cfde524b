//! Which disks a stripe's shards go to.
//!
//! Rendezvous hashing (D. Thaler and C. Ravishankar, 1998), weighted by the disks' capacities
//! as J. Resch showed (2015): each disk draws a score for the stripe, and the shards go to the
//! disks with the highest ones. When a disk comes or goes, only its own shards have another
//! place. Nobody relies on a shard being where this says: who reads asks the other disks too,
//! because a disk may have been full or away when the shard was written, or it was healed onto
//! another.

use crate::BlobId;

/// A disk that shards may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its number in the set.
    pub slot: usize,
    /// Its UUID.
    pub disk: [u8; 16],
    /// Its capacity, in any unit that all have.
    pub weight: u64,
}

/// The slots in the order in which a stripe prefers them.
pub(crate) fn order(blob: BlobId, stripe: u32, places: &[Place]) -> Vec<usize> {
    let mut scored: Vec<(f64, usize)> = places
        .iter()
        .map(|place| (score(blob, stripe, place), place.slot))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.into_iter().map(|(_, slot)| slot).collect()
}

fn score(blob: BlobId, stripe: u32, place: &Place) -> f64 {
    let half = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    let words = [
        half(&place.disk[..8]),
        half(&place.disk[8..]),
        blob.epoch,
        blob.counter,
        u64::from(stripe),
    ];
    let hash = words.into_iter().fold(0, |hash, word| mix(hash ^ word));
    // 53 bits, between 0 and 1 and never either.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    place.weight.max(1) as f64 / -uniform.ln()
}

/// The finalizer of SplitMix64 (G. Steele, D. Lea and C. Flood, 2014).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(weights: &[u64]) -> Vec<Place> {
        let place = |(slot, weight): (usize, &u64)| Place {
            slot,
            disk: [slot as u8 + 1; 16],
            weight: *weight,
        };
        weights.iter().enumerate().map(place).collect()
    }

    fn blob(counter: u64) -> BlobId {
        BlobId { epoch: 3, counter }
    }

    #[test]
    fn shards_are_spread_by_capacity() {
        let places = places(&[100, 100, 200, 400]);
        let mut firsts = [0_u32; 4];
        for stripe in 0..8_000 {
            firsts[order(blob(u64::from(stripe / 7)), stripe, &places)[0]] += 1;
        }
        for (count, expected) in firsts.into_iter().zip([1_000, 1_000, 2_000, 4_000]) {
            assert!(count.abs_diff(expected) < expected / 8, "{firsts:?}");
        }
    }

    #[test]
    fn a_disk_that_goes_moves_nothing_but_its_own() {
        let all = places(&[1; 6]);
        for counter in 0..200 {
            let before = order(blob(counter), 0, &all);
            let after = order(blob(counter), 0, &all[..5]);
            let kept: Vec<usize> = before.into_iter().filter(|slot| *slot != 5).collect();
            assert_eq!(after, kept);
        }
    }
}
