//! How a stripe is spread over disks.

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

    /// `None` if no set could hold it.
    pub fn new(k: u8, m: u8) -> Option<Scheme> {
        let width = usize::from(k) + usize::from(m);
        (k >= 1 && width <= DISKS_MAX).then_some(Scheme { k, m })
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
    }
}
