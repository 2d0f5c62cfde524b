//! What a client declares about its body, and whether it holds.
//!
//! `s3s` parses these headers and trailers without verifying them.

use http::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Sha256};
use s3s::dto::Checksum;
use s3s::{S3ErrorCode, S3Result, TrailingHeaders, s3_error};

use crate::body_in::BodyFailure;
use crate::digest::{Digests, Finished};
use crate::document::Scan;

/// A checksum algorithm of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
    Sha512,
    Md5,
    XxHash64,
    XxHash3,
    XxHash128,
}

/// Every algorithm: its header, its name in `x-amz-sdk-checksum-algorithm`, its digest's bytes.
const ALGORITHMS: [(Algorithm, &str, &str, usize); 10] = [
    (Algorithm::Crc32, "x-amz-checksum-crc32", "CRC32", 4),
    (Algorithm::Crc32c, "x-amz-checksum-crc32c", "CRC32C", 4),
    (
        Algorithm::Crc64Nvme,
        "x-amz-checksum-crc64nvme",
        "CRC64NVME",
        8,
    ),
    (Algorithm::Sha1, "x-amz-checksum-sha1", "SHA1", 20),
    (Algorithm::Sha256, "x-amz-checksum-sha256", "SHA256", 32),
    (Algorithm::Sha512, "x-amz-checksum-sha512", "SHA512", 64),
    (Algorithm::Md5, "x-amz-checksum-md5", "MD5", 16),
    (
        Algorithm::XxHash64,
        "x-amz-checksum-xxhash64",
        "XXHASH64",
        8,
    ),
    (Algorithm::XxHash3, "x-amz-checksum-xxhash3", "XXHASH3", 8),
    (
        Algorithm::XxHash128,
        "x-amz-checksum-xxhash128",
        "XXHASH128",
        16,
    ),
];

/// Headers that begin like a checksum and are none.
const NOT_CHECKSUMS: [&str; 3] = [
    "x-amz-checksum-algorithm",
    "x-amz-checksum-mode",
    "x-amz-checksum-type",
];

impl Algorithm {
    fn header(self) -> &'static str {
        ALGORITHMS
            .iter()
            .find(|row| row.0 == self)
            .map_or("", |row| row.1)
    }

    fn digest_bytes(self) -> usize {
        ALGORITHMS
            .iter()
            .find(|row| row.0 == self)
            .map_or(0, |row| row.3)
    }

    fn by_header(name: &str) -> Option<Algorithm> {
        ALGORITHMS
            .iter()
            .find(|row| row.1.eq_ignore_ascii_case(name))
            .map(|row| row.0)
    }

    fn by_name(name: &str) -> Option<Algorithm> {
        ALGORITHMS
            .iter()
            .find(|row| row.2.eq_ignore_ascii_case(name))
            .map(|row| row.0)
    }

    fn of(self, sums: &Checksum) -> Option<&str> {
        match self {
            Algorithm::Crc32 => sums.checksum_crc32.as_deref(),
            Algorithm::Crc32c => sums.checksum_crc32c.as_deref(),
            Algorithm::Crc64Nvme => sums.checksum_crc64nvme.as_deref(),
            Algorithm::Sha1 => sums.checksum_sha1.as_deref(),
            Algorithm::Sha256 => sums.checksum_sha256.as_deref(),
            Algorithm::Sha512 => sums.checksum_sha512.as_deref(),
            Algorithm::Md5 => sums.checksum_md5.as_deref(),
            Algorithm::XxHash64 => sums.checksum_xxhash64.as_deref(),
            Algorithm::XxHash3 => sums.checksum_xxhash3.as_deref(),
            Algorithm::XxHash128 => sums.checksum_xxhash128.as_deref(),
        }
    }

    fn hasher(self) -> ChecksumHasher {
        let mut hasher = ChecksumHasher::default();
        match self {
            Algorithm::Crc32 => hasher.crc32 = Some(s3s::crypto::Crc32::new()),
            Algorithm::Crc32c => hasher.crc32c = Some(s3s::crypto::Crc32c::new()),
            Algorithm::Crc64Nvme => hasher.crc64nvme = Some(s3s::crypto::Crc64Nvme::new()),
            Algorithm::Sha1 => hasher.sha1 = Some(s3s::crypto::Sha1::new()),
            Algorithm::Sha256 => hasher.sha256 = Some(Sha256::new()),
            Algorithm::Sha512 => hasher.sha512 = Some(s3s::crypto::Sha512::new()),
            Algorithm::Md5 => hasher.md5 = Some(s3s::crypto::Md5::new()),
            Algorithm::XxHash64 => hasher.xxhash64 = Some(s3s::crypto::XxHash64::new()),
            Algorithm::XxHash3 => hasher.xxhash3 = Some(s3s::crypto::XxHash3::new()),
            Algorithm::XxHash128 => hasher.xxhash128 = Some(s3s::crypto::XxHash128::new()),
        }
        hasher
    }
}

/// Where a checksum's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Header(String),
    Trailer,
}

/// What a client declares about its body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Declared {
    content_md5: Option<[u8; 16]>,
    checksum: Option<(Algorithm, Source)>,
}

impl Declared {
    /// Reads the headers; refuses what is malformed, contradictory or not known.
    pub(crate) fn from_headers(headers: &HeaderMap) -> S3Result<Declared> {
        let content_md5 = content_md5(headers)?;
        let mut found = Vec::new();
        for (name, value) in headers {
            let name = name.as_str();
            if !name.starts_with("x-amz-checksum-") || NOT_CHECKSUMS.contains(&name) {
                continue;
            }
            let Some(algorithm) = Algorithm::by_header(name) else {
                return Err(s3_error!(InvalidRequest, "{name} is not a checksum of S3"));
            };
            let value = value.to_str().unwrap_or("");
            check_digest(algorithm, value)?;
            found.push((algorithm, Source::Header(value.to_owned())));
        }
        for name in trailer_names(headers) {
            if let Some(algorithm) = Algorithm::by_header(name) {
                found.push((algorithm, Source::Trailer));
            } else if !name.is_empty() {
                return Err(s3_error!(
                    InvalidRequest,
                    "The value specified in the x-amz-trailer header is not supported: {name} is \
                     not a checksum of S3"
                ));
            }
        }
        if found.len() > 1 {
            let message = "Expecting a single x-amz-checksum- header. \
                           Multiple checksum Types are not allowed.";
            return Err(s3_error!(InvalidRequest, "{message}"));
        }
        let declared = Declared {
            content_md5,
            checksum: found.pop(),
        };
        declared.check_algorithm(headers)?;
        Ok(declared)
    }

    /// `x-amz-sdk-checksum-algorithm` and `x-amz-checksum-type` must say what is there.
    fn check_algorithm(&self, headers: &HeaderMap) -> S3Result<()> {
        for header in ["x-amz-sdk-checksum-algorithm", "x-amz-checksum-algorithm"] {
            let Some(name) = headers.get(header) else {
                continue;
            };
            let algorithm = name.to_str().ok().and_then(Algorithm::by_name);
            match (algorithm, &self.checksum) {
                (None, _) => {
                    return Err(s3_error!(
                        InvalidRequest,
                        "{header} names no checksum of S3"
                    ));
                }
                (Some(named), Some((present, _))) if named == *present => {}
                (Some(_), Some(_)) => {
                    return Err(s3_error!(
                        InvalidRequest,
                        "Value for {header} header is invalid: another checksum came with it."
                    ));
                }
                // S3 accepts a Content-MD5 in place of the announced checksum.
                (Some(_), None) if self.content_md5.is_some() => {}
                (Some(_), None) => {
                    return Err(s3_error!(
                        InvalidRequest,
                        "{header} specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
                    ));
                }
            }
        }
        match headers
            .get("x-amz-checksum-type")
            .map(http::HeaderValue::as_bytes)
        {
            None | Some(b"FULL_OBJECT") => Ok(()),
            Some(_) => Err(s3_error!(
                InvalidRequest,
                "x-amz-checksum-type must be FULL_OBJECT here"
            )),
        }
    }

    /// What must be computed over the body to verify all this.
    pub(crate) fn digests(&self) -> Digests {
        let hasher = self
            .checksum
            .as_ref()
            .map(|(algorithm, _)| algorithm.hasher());
        Digests::new(hasher.unwrap_or_default())
    }

    /// Compares what was declared with what arrived.
    pub(crate) fn verify(
        &self,
        finished: &Finished,
        trailers: Option<&TrailingHeaders>,
    ) -> S3Result<()> {
        if self
            .content_md5
            .is_some_and(|declared| declared != finished.md5)
        {
            let message = "The Content-MD5 you specified did not match what we received.";
            return Err(s3_error!(BadDigest, "{message}"));
        }
        let Some((algorithm, source)) = &self.checksum else {
            return Ok(());
        };
        let header = algorithm.header();
        let declared = match source {
            Source::Header(value) => value.clone(),
            Source::Trailer => {
                let value = trailers.and_then(|trailers| {
                    trailers.read(|map| {
                        map.get(header)
                            .and_then(|v| v.to_str().ok())
                            .map(str::to_owned)
                    })
                });
                let Some(value) = value.flatten() else {
                    return Err(malformed_trailer(header));
                };
                let value = value.trim().to_owned();
                check_digest(*algorithm, &value)?;
                value
            }
        };
        if algorithm.of(&finished.checksums) == Some(declared.as_str()) {
            return Ok(());
        }
        Err(s3_error!(
            BadDigest,
            "The {header} you specified did not match the calculated checksum."
        ))
    }
}

fn malformed_trailer(header: &str) -> s3s::S3Error {
    let mut error = s3s::S3Error::with_message(
        S3ErrorCode::Custom("MalformedTrailerError".into()),
        format!("The request announced the trailer {header}, but did not send it."),
    );
    error.set_status_code(http::StatusCode::BAD_REQUEST);
    error
}

fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let Some(value) = headers.get("content-md5") else {
        return Ok(None);
    };
    let decoded = base64_simd::STANDARD.decode_to_vec(value.as_bytes()).ok();
    match decoded.and_then(|bytes| bytes.try_into().ok()) {
        Some(digest) => Ok(Some(digest)),
        None => Err(s3_error!(
            InvalidDigest,
            "The Content-MD5 you specified is not valid."
        )),
    }
}

fn check_digest(algorithm: Algorithm, value: &str) -> S3Result<()> {
    let bytes = base64_simd::STANDARD
        .decode_to_vec(value.as_bytes())
        .map(|digest| digest.len());
    if bytes.is_ok_and(|bytes| bytes == algorithm.digest_bytes()) {
        return Ok(());
    }
    Err(s3_error!(
        InvalidRequest,
        "Value for {} header is invalid.",
        algorithm.header()
    ))
}

fn trailer_names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all("x-amz-trailer")
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Digests of a document that `s3s` reads by itself before the operation sees it, and the
/// bounds of what it may be.
pub(crate) struct Watch {
    digests: Digests,
    sha256: Option<(Sha256, [u8; 32])>,
    scan: Scan,
}

impl Watch {
    /// Watches for everything that the headers declare. What is malformed there is refused
    /// later, by the operation.
    pub(crate) fn new(headers: &HeaderMap) -> Watch {
        let declared = Declared::from_headers(headers).unwrap_or_default();
        let literal = headers
            .get("x-amz-content-sha256")
            .and_then(|value| hex32(value.as_bytes()));
        Watch {
            digests: declared.digests(),
            sha256: literal.map(|sum| (Sha256::new(), sum)),
            scan: Scan::default(),
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) -> Result<(), BodyFailure> {
        self.digests.update(data);
        if let Some((sha256, _)) = &mut self.sha256 {
            sha256.update(data);
        }
        self.scan.update(data)
    }

    pub(crate) fn finish(self) -> Result<Finished, BodyFailure> {
        if let Some((sha256, literal)) = self.sha256
            && sha256.finalize().as_ref() != literal.as_slice()
        {
            return Err(BodyFailure::Sha256Mismatch);
        }
        Ok(self.digests.finish())
    }
}

fn hex32(text: &[u8]) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut sum = [0; 32];
    for (byte, digits) in sum.iter_mut().zip(text.chunks_exact(2)) {
        let high = char::from(digits[0]).to_digit(16)?;
        let low = char::from(digits[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn verify(pairs: &[(&'static str, &str)], body: &[u8]) -> Result<(), String> {
        let code = |error: s3s::S3Error| error.code().as_str().to_owned();
        let declared = Declared::from_headers(&headers(pairs)).map_err(code)?;
        let mut digests = declared.digests();
        digests.update(body);
        declared.verify(&digests.finish(), None).map_err(code)
    }

    #[test]
    fn right_sums_pass() {
        assert_eq!(verify(&[], b"123456789"), Ok(()));
        for (name, value) in [
            ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="),
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
            (
                "x-amz-checksum-sha256",
                "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
            ),
        ] {
            assert_eq!(verify(&[(name, value)], b"123456789"), Ok(()), "{name}");
        }
    }

    #[test]
    fn wrong_sums_are_bad_digests() {
        for (name, value) in [
            ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="),
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
            (
                "x-amz-checksum-sha256",
                "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
            ),
        ] {
            assert_eq!(
                verify(&[(name, value)], b"123456780"),
                Err("BadDigest".into()),
                "{name}"
            );
        }
    }

    #[test]
    fn malformed_and_contradictory_headers_are_refused() {
        let invalid = || Err("InvalidRequest".to_owned());
        assert_eq!(
            verify(&[("content-md5", "x")], b""),
            Err("InvalidDigest".into())
        );
        assert_eq!(
            verify(&[("content-md5", "y/Q5Jg==")], b""),
            Err("InvalidDigest".into())
        );
        assert_eq!(verify(&[("x-amz-checksum-crc32", "y/Q5")], b""), invalid());
        assert_eq!(
            verify(&[("x-amz-checksum-crc31", "y/Q5Jg==")], b""),
            invalid()
        );
        // Once a trailer that is no checksum was let by, and what it said was lost.
        for trailer in ["x-amz-checksum-crc31", "x-amz-meta-a"] {
            assert_eq!(verify(&[("x-amz-trailer", trailer)], b""), invalid());
        }
        let two = [
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
            ("x-amz-checksum-crc32c", "4waSgw=="),
        ];
        assert_eq!(verify(&two, b""), invalid());
        assert_eq!(
            verify(&[("x-amz-sdk-checksum-algorithm", "CRC32")], b""),
            invalid()
        );
        let other = [
            ("x-amz-sdk-checksum-algorithm", "SHA1"),
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ];
        assert_eq!(verify(&other, b""), invalid());
        let composite = [
            ("x-amz-checksum-type", "COMPOSITE"),
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ];
        assert_eq!(verify(&composite, b""), invalid());
    }

    #[test]
    fn an_announced_trailer_must_come() {
        let announced = [("x-amz-trailer", "x-amz-checksum-crc32")];
        assert_eq!(
            verify(&announced, b"123456789"),
            Err("MalformedTrailerError".into())
        );
    }

    #[test]
    fn a_watch_compares_the_literal_digest() {
        let sum = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        let check = |body: &[u8]| {
            let mut watch = Watch::new(&headers(&[("x-amz-content-sha256", sum)]));
            watch.update(body)?;
            watch.finish().map(|finished| finished.md5.len())
        };
        assert_eq!(check(b"123456789"), Ok(16));
        assert_eq!(check(b"12345678"), Err(BodyFailure::Sha256Mismatch));
    }
}
