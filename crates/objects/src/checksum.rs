//! Checksums that are kept with a body. Nothing here computes one: whoever has the bytes does.

/// An algorithm of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
    /// MD5.
    Md5,
    /// XXH64.
    XxHash64,
    /// XXH3, 64 bits.
    XxHash3,
    /// XXH3, 128 bits.
    XxHash128,
}

use ChecksumAlgorithm as A;

/// Every algorithm with its number on the disks, which never changes, and its digest's bytes.
const ALGORITHMS: [(ChecksumAlgorithm, u8, usize); 10] = [
    (A::Crc32, 1, 4),
    (A::Crc32c, 2, 4),
    (A::Crc64Nvme, 3, 8),
    (A::Sha1, 4, 20),
    (A::Sha256, 5, 32),
    (A::Sha512, 6, 64),
    (A::Md5, 7, 16),
    (A::XxHash64, 8, 8),
    (A::XxHash3, 9, 8),
    (A::XxHash128, 10, 16),
];

impl ChecksumAlgorithm {
    /// Bytes of a digest.
    pub fn digest_bytes(self) -> usize {
        let row = ALGORITHMS.iter().find(|row| row.0 == self);
        row.map_or(0, |row| row.2)
    }

    /// Its number on the disks; never 0.
    pub(crate) fn number(self) -> u8 {
        let row = ALGORITHMS.iter().find(|row| row.0 == self);
        row.map_or(0, |row| row.1)
    }

    pub(crate) fn from_number(number: u8) -> Option<ChecksumAlgorithm> {
        let row = ALGORITHMS.iter().find(|row| row.1 == number);
        row.map(|row| row.0)
    }
}

/// What the checksum of a body in parts is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumKind {
    /// All bytes of the body.
    FullObject,
    /// The checksums of its parts, one behind the other.
    Composite,
}

impl ChecksumKind {
    pub(crate) fn number(self) -> u8 {
        match self {
            ChecksumKind::FullObject => 0,
            ChecksumKind::Composite => 1,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<ChecksumKind> {
        match number {
            0 => Some(ChecksumKind::FullObject),
            1 => Some(ChecksumKind::Composite),
            _ => None,
        }
    }
}

/// A checksum that was verified, or computed, while the body came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Checksum {
    /// How it was computed.
    pub algorithm: ChecksumAlgorithm,
    /// Over what.
    pub kind: ChecksumKind,
    /// As many bytes as the algorithm's digests have.
    pub digest: Vec<u8>,
}

impl Checksum {
    /// A checksum of all bytes; `None` if the digest has not the algorithm's length.
    pub fn full_object(algorithm: ChecksumAlgorithm, digest: Vec<u8>) -> Option<Checksum> {
        (digest.len() == algorithm.digest_bytes()).then_some(Checksum {
            algorithm,
            kind: ChecksumKind::FullObject,
            digest,
        })
    }

    /// Its bytes in a record: u8 algorithm, u8 kind, the digest.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.algorithm.number(), self.kind.number()];
        bytes.extend_from_slice(&self.digest);
        bytes
    }

    /// `None` for one of a newer release, or no checksum at all.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Checksum> {
        let (&[algorithm, kind], digest) = bytes.split_first_chunk::<2>()?;
        let algorithm = ChecksumAlgorithm::from_number(algorithm)?;
        let kind = ChecksumKind::from_number(kind)?;
        (digest.len() == algorithm.digest_bytes()).then(|| Checksum {
            algorithm,
            kind,
            digest: digest.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_a_number_of_its_own_and_comes_back() {
        for (algorithm, number, bytes) in ALGORITHMS {
            assert_eq!(ChecksumAlgorithm::from_number(number), Some(algorithm));
            for kind in [ChecksumKind::FullObject, ChecksumKind::Composite] {
                let digest = vec![number; bytes];
                let checksum = Checksum {
                    algorithm,
                    kind,
                    digest,
                };
                assert_eq!(Checksum::decode(&checksum.encode()), Some(checksum));
            }
        }
        assert_eq!(ChecksumAlgorithm::from_number(0), None);
        assert_eq!(
            Checksum::decode(&[1, 0, 1, 2, 3]),
            None,
            "a digest too short"
        );
        assert_eq!(Checksum::decode(&[1, 2, 1, 2, 3, 4]), None, "no such kind");
    }
}
