//! CRC-64/NVME, seeded with the disk's UUID, so that bytes of another disk never pass.

use crc_fast::{CrcAlgorithm, Digest};

/// Seeds and computes the checksums of one disk.
#[derive(Debug, Clone, Copy)]
pub struct Checksummer {
    seeded: Digest,
}

impl Checksummer {
    /// For the disk with this UUID.
    pub fn new(disk: &[u8; 16]) -> Checksummer {
        let mut seeded = Digest::new(CrcAlgorithm::Crc64Nvme);
        seeded.update(disk);
        Checksummer { seeded }
    }

    /// The checksum of `parts`, one behind the other.
    pub fn of(&self, parts: &[&[u8]]) -> u64 {
        let mut digest = self.seeded;
        for part in parts {
            digest.update(part);
        }
        digest.finalize()
    }
}

/// A 64-bit hash for filters. Part of the on-disk format: CRC-64/NVME, unseeded, then the
/// finaliser of SplitMix64 (Steele, Lea, Flood, 2014) to spread its linear structure.
pub fn filter_hash(bytes: &[u8]) -> u64 {
    let mut hash = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes);
    hash ^= hash >> 30;
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 27;
    hash = hash.wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_disk_has_other_checksums() {
        let one = Checksummer::new(&[1; 16]);
        let two = Checksummer::new(&[2; 16]);
        assert_ne!(one.of(&[b"same"]), two.of(&[b"same"]));
        assert_eq!(one.of(&[b"sa", b"me"]), one.of(&[b"same"]));
    }
}
