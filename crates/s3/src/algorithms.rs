//! Checksum algorithms as S3 spells them: headers, names, the fields of documents.

use objects::{Checksum, ChecksumAlgorithm, ChecksumKind};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum as _;
use s3s::dto;

use ChecksumAlgorithm as A;

/// Every algorithm: its header, and its name in other headers and in documents.
const ALGORITHMS: [(ChecksumAlgorithm, &str, &str); 10] = [
    (A::Crc32, "x-amz-checksum-crc32", "CRC32"),
    (A::Crc32c, "x-amz-checksum-crc32c", "CRC32C"),
    (A::Crc64Nvme, "x-amz-checksum-crc64nvme", "CRC64NVME"),
    (A::Sha1, "x-amz-checksum-sha1", "SHA1"),
    (A::Sha256, "x-amz-checksum-sha256", "SHA256"),
    (A::Sha512, "x-amz-checksum-sha512", "SHA512"),
    (A::Md5, "x-amz-checksum-md5", "MD5"),
    (A::XxHash64, "x-amz-checksum-xxhash64", "XXHASH64"),
    (A::XxHash3, "x-amz-checksum-xxhash3", "XXHASH3"),
    (A::XxHash128, "x-amz-checksum-xxhash128", "XXHASH128"),
];

/// What is kept of a body for which the client named no algorithm, as Amazon does it.
pub(crate) const DEFAULT_ALGORITHM: ChecksumAlgorithm = A::Crc64Nvme;

pub(crate) fn header_of(algorithm: ChecksumAlgorithm) -> &'static str {
    let row = ALGORITHMS.iter().find(|row| row.0 == algorithm);
    row.map_or("", |row| row.1)
}

pub(crate) fn name_of(algorithm: ChecksumAlgorithm) -> &'static str {
    let row = ALGORITHMS.iter().find(|row| row.0 == algorithm);
    row.map_or("", |row| row.2)
}

pub(crate) fn by_header(name: &str) -> Option<ChecksumAlgorithm> {
    let mut rows = ALGORITHMS.iter();
    rows.find(|row| row.1.eq_ignore_ascii_case(name))
        .map(|row| row.0)
}

pub(crate) fn by_name(name: &str) -> Option<ChecksumAlgorithm> {
    let mut rows = ALGORITHMS.iter();
    rows.find(|row| row.2.eq_ignore_ascii_case(name))
        .map(|row| row.0)
}

/// The algorithm as `s3s` has it.
pub(crate) fn to_dto(algorithm: ChecksumAlgorithm) -> dto::ChecksumAlgorithm {
    dto::ChecksumAlgorithm::from_static(name_of(algorithm))
}

/// `FULL_OBJECT` or `COMPOSITE`.
pub(crate) fn kind_to_dto(kind: ChecksumKind) -> dto::ChecksumType {
    dto::ChecksumType::from_static(match kind {
        ChecksumKind::FullObject => dto::ChecksumType::FULL_OBJECT,
        ChecksumKind::Composite => dto::ChecksumType::COMPOSITE,
    })
}

/// Switches an algorithm of a hasher on.
pub(crate) fn enable(hasher: &mut ChecksumHasher, algorithm: ChecksumAlgorithm) {
    use s3s::crypto as c;
    match algorithm {
        A::Crc32 => hasher.crc32 = Some(c::Crc32::new()),
        A::Crc32c => hasher.crc32c = Some(c::Crc32c::new()),
        A::Crc64Nvme => hasher.crc64nvme = Some(c::Crc64Nvme::new()),
        A::Sha1 => hasher.sha1 = Some(c::Sha1::new()),
        A::Sha256 => hasher.sha256 = Some(c::Sha256::new()),
        A::Sha512 => hasher.sha512 = Some(c::Sha512::new()),
        A::Md5 => hasher.md5 = Some(c::Md5::new()),
        A::XxHash64 => hasher.xxhash64 = Some(c::XxHash64::new()),
        A::XxHash3 => hasher.xxhash3 = Some(c::XxHash3::new()),
        A::XxHash128 => hasher.xxhash128 = Some(c::XxHash128::new()),
    }
}

/// The digest of a few bytes.
pub(crate) fn digest_of(algorithm: ChecksumAlgorithm, data: &[u8]) -> Vec<u8> {
    let mut hasher = ChecksumHasher::default();
    enable(&mut hasher, algorithm);
    hasher.update(data);
    let sums = hasher.finalize();
    value_in(&sums, algorithm).map_or_else(Vec::new, |value| decode(value).unwrap_or_default())
}

/// The value of one algorithm, in base64.
pub(crate) fn value_in(sums: &dto::Checksum, algorithm: ChecksumAlgorithm) -> Option<&str> {
    match algorithm {
        A::Crc32 => sums.checksum_crc32.as_deref(),
        A::Crc32c => sums.checksum_crc32c.as_deref(),
        A::Crc64Nvme => sums.checksum_crc64nvme.as_deref(),
        A::Sha1 => sums.checksum_sha1.as_deref(),
        A::Sha256 => sums.checksum_sha256.as_deref(),
        A::Sha512 => sums.checksum_sha512.as_deref(),
        A::Md5 => sums.checksum_md5.as_deref(),
        A::XxHash64 => sums.checksum_xxhash64.as_deref(),
        A::XxHash3 => sums.checksum_xxhash3.as_deref(),
        A::XxHash128 => sums.checksum_xxhash128.as_deref(),
    }
}

/// A checksum of all bytes from its value in base64; `None` if it is none of the algorithm's.
pub(crate) fn from_value(algorithm: ChecksumAlgorithm, value: &str) -> Option<Checksum> {
    Checksum::full_object(algorithm, decode(value)?)
}

pub(crate) fn decode(value: &str) -> Option<Vec<u8>> {
    base64_simd::STANDARD.decode_to_vec(value.as_bytes()).ok()
}

/// The one checksum among those of a request or a document. `Err`: there are several, or one
/// that is not well-formed.
pub(crate) fn only_one(sums: &dto::Checksum) -> Result<Option<Checksum>, ()> {
    let mut found = ALGORITHMS
        .iter()
        .filter_map(|row| value_in(sums, row.0).map(|value| (row.0, value)));
    let Some((algorithm, value)) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() {
        return Err(());
    }
    from_value(algorithm, value).map(Some).ok_or(())
}

/// How a checksum is shown: in base64, a composite one with the number of parts behind it.
pub(crate) fn shown(checksum: &Checksum, parts: Option<u16>) -> String {
    let value = base64_simd::STANDARD.encode_to_string(&checksum.digest);
    match (checksum.kind, parts) {
        (ChecksumKind::Composite, Some(parts)) => format!("{value}-{parts}"),
        _ => value,
    }
}

/// A checksum as answers have it. `parts`: how many the object has.
pub(crate) fn sums_of(checksum: Option<&Checksum>, parts: Option<u16>) -> dto::Checksum {
    let mut sums = dto::Checksum::default();
    let Some(checksum) = checksum else {
        return sums;
    };
    let value = Some(shown(checksum, parts));
    match checksum.algorithm {
        A::Crc32 => sums.checksum_crc32 = value,
        A::Crc32c => sums.checksum_crc32c = value,
        A::Crc64Nvme => sums.checksum_crc64nvme = value,
        A::Sha1 => sums.checksum_sha1 = value,
        A::Sha256 => sums.checksum_sha256 = value,
        A::Sha512 => sums.checksum_sha512 = value,
        A::Md5 => sums.checksum_md5 = value,
        A::XxHash64 => sums.checksum_xxhash64 = value,
        A::XxHash3 => sums.checksum_xxhash3 = value,
        A::XxHash128 => sums.checksum_xxhash128 = value,
    }
    sums.checksum_type = Some(kind_to_dto(checksum.kind));
    sums
}

/// Moves the ten values of a [`dto::Checksum`] into another of `s3s`'s types, which each have
/// the same fields and no trait in common.
macro_rules! put_sums {
    ($sums:expr => $target:expr) => {{
        let (sums, target) = ($sums, &mut $target);
        target.checksum_crc32 = sums.checksum_crc32;
        target.checksum_crc32c = sums.checksum_crc32c;
        target.checksum_crc64nvme = sums.checksum_crc64nvme;
        target.checksum_md5 = sums.checksum_md5;
        target.checksum_sha1 = sums.checksum_sha1;
        target.checksum_sha256 = sums.checksum_sha256;
        target.checksum_sha512 = sums.checksum_sha512;
        target.checksum_xxhash128 = sums.checksum_xxhash128;
        target.checksum_xxhash3 = sums.checksum_xxhash3;
        target.checksum_xxhash64 = sums.checksum_xxhash64;
    }};
}

pub(crate) use put_sums;

/// What is computed over a whole body in parts from the checksums of its parts.
pub(crate) struct Combined {
    algorithm: ChecksumAlgorithm,
    kind: ChecksumKind,
    /// Composite: the digests so far.
    digests: Vec<u8>,
    /// Of all bytes: the CRC so far, as a number.
    crc: Option<u64>,
}

impl Combined {
    /// `None`: this algorithm cannot be combined so.
    pub(crate) fn new(algorithm: ChecksumAlgorithm, kind: ChecksumKind) -> Option<Combined> {
        let combines = kind == ChecksumKind::Composite || crc(algorithm).is_some();
        combines.then_some(Combined {
            algorithm,
            kind,
            digests: Vec::new(),
            crc: None,
        })
    }

    /// The next part's checksum, and its bytes.
    pub(crate) fn add(&mut self, checksum: &Checksum, bytes: u64) {
        match (self.kind, crc(self.algorithm)) {
            (ChecksumKind::FullObject, Some(crc)) => {
                let sum = number(&checksum.digest);
                self.crc = Some(match self.crc {
                    None => sum,
                    Some(before) => crc_fast::checksum_combine(crc, before, sum, bytes),
                });
            }
            _ => self.digests.extend_from_slice(&checksum.digest),
        }
    }

    pub(crate) fn finish(self) -> Checksum {
        let bytes = self.algorithm.digest_bytes();
        let digest = match self.crc {
            Some(crc) => crc.to_be_bytes()[8 - bytes.min(8)..].to_vec(),
            None => digest_of(self.algorithm, &self.digests),
        };
        Checksum {
            algorithm: self.algorithm,
            kind: self.kind,
            digest,
        }
    }
}

/// The CRC that an algorithm is, which combines.
fn crc(algorithm: ChecksumAlgorithm) -> Option<crc_fast::CrcAlgorithm> {
    match algorithm {
        A::Crc32 => Some(crc_fast::CrcAlgorithm::Crc32IsoHdlc),
        A::Crc32c => Some(crc_fast::CrcAlgorithm::Crc32Iscsi),
        A::Crc64Nvme => Some(crc_fast::CrcAlgorithm::Crc64Nvme),
        _ => None,
    }
}

/// Up to eight bytes, big-endian.
fn number(digest: &[u8]) -> u64 {
    digest
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &[u8] = b"the quick brown fox jumps over the lazy dog";

    /// What S3 calls a full-object checksum is the one of all bytes, however they were cut.
    #[test]
    fn crcs_of_parts_combine_to_that_of_the_whole() {
        for algorithm in [A::Crc32, A::Crc32c, A::Crc64Nvme] {
            for cut in [0, 1, 20, DATA.len()] {
                let mut combined = Combined::new(algorithm, ChecksumKind::FullObject).unwrap();
                for part in [&DATA[..cut], &DATA[cut..]] {
                    let digest = digest_of(algorithm, part);
                    let sum = Checksum::full_object(algorithm, digest).unwrap();
                    combined.add(&sum, part.len() as u64);
                }
                let whole = Checksum::full_object(algorithm, digest_of(algorithm, DATA));
                assert_eq!(Some(combined.finish()), whole, "{algorithm:?} cut at {cut}");
            }
        }
        assert!(Combined::new(A::Sha256, ChecksumKind::FullObject).is_none());
    }

    #[test]
    fn a_composite_is_the_digest_of_digests() {
        let mut combined = Combined::new(A::Sha256, ChecksumKind::Composite).unwrap();
        let mut digests = Vec::new();
        for part in [&DATA[..9], &DATA[9..]] {
            let digest = digest_of(A::Sha256, part);
            digests.extend_from_slice(&digest);
            combined.add(&Checksum::full_object(A::Sha256, digest).unwrap(), 9);
        }
        let checksum = combined.finish();
        assert_eq!(checksum.digest, digest_of(A::Sha256, &digests));
        assert!(shown(&checksum, Some(2)).ends_with("=-2"));
    }

    #[test]
    fn every_algorithm_is_found_by_its_names() {
        for (algorithm, header, name) in ALGORITHMS {
            assert_eq!(by_header(header), Some(algorithm));
            assert_eq!(by_name(&name.to_lowercase()), Some(algorithm));
            let digest = digest_of(algorithm, DATA);
            assert_eq!(digest.len(), algorithm.digest_bytes());
            let checksum = Checksum::full_object(algorithm, digest).unwrap();
            let sums = sums_of(Some(&checksum), None);
            assert_eq!(only_one(&sums), Ok(Some(checksum)));
        }
    }
}
