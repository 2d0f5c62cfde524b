//! How a stripe is spread over disks.

use crate::codec::PARITY_MAX;
use crate::limits::DISKS_MAX;

/// `k` data shards and `m` parity shards, each on a disk of its own: any `m` of the disks
/// may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// Data shards, at least 1.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
}

impl Scheme {
    /// The scheme for new blobs on a set of this many disks; `None` if there can be no such
    /// set. From five disks on the width is less than the set, so that a lost disk heals
    /// onto the others without waiting for its replacement.
    pub const fn for_disks(disks: usize) -> Option<Scheme> {
        let (k, m) = match disks {
            1 => (1, 0),
            2 => (1, 1),
            3 => (2, 1),
            4 | 5 => (2, 2),
            6 => (3, 2),
            7 => (4, 2),
            8 => (4, 3),
            9 => (5, 3),
            10 => (6, 3),
            11 => (7, 3),
            12 => (7, 4),
            13..=DISKS_MAX => (8, 4),
            _ => return None,
        };
        Some(Scheme { k, m })
    }

    /// The scheme for new blobs on a set of this many disks, with `parity` shards of parity in
    /// place of the default: as wide, with fewer data shards or more. `None` if there can be no
    /// such set: several disks have parity, and one data shard at least.
    pub fn for_set(disks: usize, parity: Option<u8>) -> Option<Scheme> {
        let scheme = Scheme::for_disks(disks)?;
        let Some(m) = parity else {
            return Some(scheme);
        };
        let k = scheme.width().checked_sub(m)?;
        Scheme::new(k, m).filter(|_| (m > 0) == (disks > 1))
    }

    /// `None` if no set could hold it.
    pub fn new(k: u8, m: u8) -> Option<Scheme> {
        let width = usize::from(k) + usize::from(m);
        let possible = k >= 1 && usize::from(m) <= PARITY_MAX && width <= DISKS_MAX;
        possible.then_some(Scheme { k, m })
    }

    /// Copies that survive the loss of as many disks.
    pub(crate) fn copies(self) -> Scheme {
        Scheme { k: 1, m: self.m }
    }

    /// Shards of one stripe.
    pub fn width(self) -> u8 {
        self.k + self.m
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_schemes_fit_their_set_and_leave_room_to_heal() {
        assert_eq!(Scheme::for_disks(0), None);
        assert_eq!(Scheme::for_disks(DISKS_MAX + 1), None);
        for disks in 1..=DISKS_MAX {
            let scheme = Scheme::for_disks(disks).unwrap();
            let width = usize::from(scheme.width());
            assert!(width <= disks, "{scheme} on {disks}");
            assert_eq!(width < disks, disks >= 5, "{scheme} on {disks}");
            assert_eq!(scheme.m == 0, disks == 1, "{scheme} on {disks}");
            assert_eq!(Scheme::new(scheme.k, scheme.m), Some(scheme));
        }
        assert_eq!(Scheme::new(0, 1), None);
        assert_eq!(Scheme::new(255, 255), None);
        assert_eq!(Scheme::new(2, 5), None);
    }

    #[test]
    fn parity_can_be_chosen_within_the_width() {
        let scheme = |disks, parity| Scheme::for_set(disks, Some(parity)).map(|s| (s.k, s.m));
        assert_eq!(scheme(6, 1), Some((4, 1)));
        assert_eq!(scheme(6, 3), Some((2, 3)));
        assert_eq!(scheme(6, 4), Some((1, 4)));
        assert_eq!(scheme(2, 1), Some((1, 1)));
        assert_eq!(scheme(6, 0), None, "several disks without parity");
        assert_eq!(scheme(6, 5), None, "no data");
        assert_eq!(scheme(1, 1), None, "parity without a disk for it");
        assert_eq!(scheme(1, 0), Some((1, 0)));
    }
}
