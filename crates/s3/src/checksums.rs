//! What a client declares about its body, and whether it holds.
//!
//! `s3s` parses these headers and trailers without verifying them.

use http::HeaderMap;
use objects::ChecksumAlgorithm;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Sha256};
use s3s::{S3ErrorCode, S3Result, TrailingHeaders, s3_error};

use crate::algorithms::{by_header, by_name, enable, from_value, header_of, value_in};
use crate::body_in::BodyFailure;
use crate::digest::{Digests, Finished};
use crate::document::{Kind, Scan};

/// Headers that begin like a checksum and are none.
const NOT_CHECKSUMS: [&str; 3] = [
    "x-amz-checksum-algorithm",
    "x-amz-checksum-mode",
    "x-amz-checksum-type",
];

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
    checksum: Option<(ChecksumAlgorithm, Source)>,
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
            let Some(algorithm) = by_header(name) else {
                return Err(s3_error!(InvalidRequest, "{name} is not a checksum of S3"));
            };
            let value = value.to_str().unwrap_or("");
            check_digest(algorithm, value)?;
            found.push((algorithm, Source::Header(value.to_owned())));
        }
        for name in trailer_names(headers) {
            if let Some(algorithm) = by_header(name) {
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

    /// Only the MD5 of what is sent: the checksums in the headers are of something else.
    pub(crate) fn content_md5(headers: &HeaderMap) -> S3Result<Declared> {
        Ok(Declared {
            content_md5: content_md5(headers)?,
            checksum: None,
        })
    }

    /// `x-amz-sdk-checksum-algorithm` and `x-amz-checksum-type` must say what is there.
    fn check_algorithm(&self, headers: &HeaderMap) -> S3Result<()> {
        for header in ["x-amz-sdk-checksum-algorithm", "x-amz-checksum-algorithm"] {
            let Some(name) = headers.get(header) else {
                continue;
            };
            let algorithm = name.to_str().ok().and_then(by_name);
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

    /// The algorithm that the client chose.
    pub(crate) fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.checksum.as_ref().map(|(algorithm, _)| *algorithm)
    }

    /// What must be computed over the body to verify all this.
    pub(crate) fn digests(&self) -> Digests {
        self.digests_and(None)
    }

    /// The same, and what is to be kept with the body.
    pub(crate) fn digests_and(&self, kept: Option<ChecksumAlgorithm>) -> Digests {
        let mut hasher = ChecksumHasher::default();
        for algorithm in self.algorithm().into_iter().chain(kept) {
            enable(&mut hasher, algorithm);
        }
        Digests::new(hasher)
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
        let header = header_of(*algorithm);
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
        if value_in(&finished.checksums, *algorithm) == Some(declared.as_str()) {
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

fn check_digest(algorithm: ChecksumAlgorithm, value: &str) -> S3Result<()> {
    if from_value(algorithm, value).is_some() {
        return Ok(());
    }
    Err(s3_error!(
        InvalidRequest,
        "Value for {} header is invalid.",
        header_of(algorithm)
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
    pub(crate) fn new(headers: &HeaderMap, document: &'static Kind) -> Watch {
        let declared = Declared::from_headers(headers).unwrap_or_default();
        let length = headers.get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let literal = headers
            .get("x-amz-content-sha256")
            .and_then(|value| hex32(value.as_bytes()));
        Watch {
            digests: declared.digests(),
            sha256: literal.map(|sum| (Sha256::new(), sum)),
            scan: Scan::new(document, length),
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
            let mut watch = Watch::new(
                &headers(&[("x-amz-content-sha256", sum)]),
                Kind::of(&http::Method::POST, &http::Uri::from_static("/")),
            );
            watch.update(body)?;
            watch.finish().map(|finished| finished.md5.len())
        };
        assert_eq!(check(b"123456789"), Ok(16));
        assert_eq!(check(b"12345678"), Err(BodyFailure::Sha256Mismatch));
    }
}
