//! Every failure, in S3's own codes.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderValue, StatusCode};
use objects::{Error, Timestamp};
use s3s::stream::aws_chunked_stream::AwsChunkedStreamError;
use s3s::stream::upload_stream::UploadStreamError;
use s3s::{BodySizeLimitExceeded, S3Error, S3ErrorCode};

use crate::body_in::BodyFailure;
use crate::budget::Overloaded;
use crate::digest::LaneLost;
use crate::limits::FORM_VARIABLES_MAX;
use crate::names::for_xml;

/// An error from the layer below as S3 says it.
pub(crate) fn from_objects(error: Error) -> S3Error {
    log(&error);
    let message = for_xml(&error.to_string()).into_owned();
    let code = match &error {
        Error::NoSuchBucket { .. } => S3ErrorCode::NoSuchBucket,
        Error::NoSuchKey { .. } => S3ErrorCode::NoSuchKey,
        Error::NoSuchUpload { .. } => S3ErrorCode::NoSuchUpload,
        Error::InvalidPartNumber { .. } => S3ErrorCode::InvalidArgument,
        Error::InvalidPart { .. } => S3ErrorCode::InvalidPart,
        Error::InvalidPartOrder { .. } => S3ErrorCode::InvalidPartOrder,
        Error::PartTooSmall { .. } => S3ErrorCode::EntityTooSmall,
        Error::SizeMismatch { .. } => S3ErrorCode::InvalidRequest,
        Error::ChecksumMismatch { .. } => S3ErrorCode::BadDigest,
        Error::BucketAlreadyExists { .. } => S3ErrorCode::BucketAlreadyExists,
        Error::BucketAlreadyOwnedByYou { .. } => S3ErrorCode::BucketAlreadyOwnedByYou,
        Error::BucketNotEmpty { .. } => S3ErrorCode::BucketNotEmpty,
        Error::InvalidBucketName { .. } => S3ErrorCode::InvalidBucketName,
        Error::TooManyBuckets { .. } => S3ErrorCode::TooManyBuckets,
        Error::KeyTooLong { .. } => S3ErrorCode::KeyTooLongError,
        Error::InvalidKey => S3ErrorCode::InvalidArgument,
        Error::MetadataTooLarge { .. } => S3ErrorCode::MetadataTooLarge,
        Error::EntityTooLarge { .. } => S3ErrorCode::EntityTooLarge,
        Error::IncompleteBody { .. } => S3ErrorCode::IncompleteBody,
        Error::PreconditionFailed { .. } => S3ErrorCode::PreconditionFailed,
        Error::AccessDenied => S3ErrorCode::AccessDenied,
        Error::SlowDown(_) => S3ErrorCode::SlowDown,
        Error::InsufficientStorage => return insufficient_storage(message),
        Error::DiskFailed(_) | Error::DisksMissing(_) | Error::Closed => {
            S3ErrorCode::ServiceUnavailable
        }
        Error::Corrupt { .. } | Error::Unreadable { .. } | Error::Internal(_) => {
            S3ErrorCode::InternalError
        }
    };
    S3Error::with_message(code, message)
}

/// What the operator must hear of; of a state that fails every request, once in a while.
fn log(error: &Error) {
    static LAST_SAID: AtomicU64 = AtomicU64::new(0);
    match error {
        Error::Corrupt { .. } | Error::Unreadable { .. } | Error::Internal(_) => {
            tracing::error!(%error, "a request failed")
        }
        Error::DiskFailed(_) | Error::DisksMissing(_) | Error::InsufficientStorage => {
            let now = Timestamp::now().as_millis() / SAID_AGAIN_AFTER_MS;
            if LAST_SAID.swap(now, Ordering::Relaxed) != now {
                tracing::error!(%error, "requests fail");
            }
        }
        _ => tracing::debug!(%error, "a request was refused"),
    }
}

/// How often the log repeats a state that fails every request.
pub(crate) const SAID_AGAIN_AFTER_MS: u64 = 10_000;

/// S3 has no code for a full disk; this is the one that others answer with.
fn insufficient_storage(message: String) -> S3Error {
    let code = S3ErrorCode::Custom("InsufficientStorage".into());
    let mut error = S3Error::with_message(code, message);
    error.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
    error
}

/// An error with a code that `s3s` has no name for.
pub(crate) fn custom(code: &'static str, status: StatusCode, message: &'static str) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(status);
    error
}

/// Memory ran out, and waiting did not help.
pub(crate) fn from_overload(overloaded: Overloaded) -> S3Error {
    S3Error::with_message(S3ErrorCode::SlowDown, overloaded.to_string())
}

/// The thread that hashed a body is gone.
pub(crate) fn from_lane(_: LaneLost) -> S3Error {
    tracing::error!("the digests of a body could not be computed: their thread is gone");
    S3Error::with_message(
        S3ErrorCode::InternalError,
        "the body's digests could not be computed",
    )
}

/// Why a body could not be read.
pub(crate) fn from_failure(failure: BodyFailure) -> S3Error {
    match failure {
        BodyFailure::BrokenOff => S3Error::with_message(
            S3ErrorCode::IncompleteBody,
            "You did not provide the number of bytes specified by the Content-Length HTTP header.",
        ),
        BodyFailure::TooSlow => S3Error::with_message(
            S3ErrorCode::RequestTimeout,
            "Your socket connection to the server was not read from or written to within the \
             timeout period. Idle connections will be closed.",
        ),
        BodyFailure::Sha256Mismatch => sha256_mismatch(),
        BodyFailure::CharacterData => S3Error::with_message(
            S3ErrorCode::MalformedXML,
            "CDATA sections are not supported: escape the text instead.",
        ),
        BodyFailure::FormTooLarge => S3Error::with_message(
            S3ErrorCode::MaxPostPreDataLengthExceededError,
            "Your POST request fields preceding the upload file were too large.",
        ),
        BodyFailure::TooManyVariables => S3Error::with_message(
            S3ErrorCode::MalformedPOSTRequest,
            format!("The form may say ${{filename}} at most {FORM_VARIABLES_MAX} times."),
        ),
        BodyFailure::TooMuchMarkup => S3Error::with_message(
            S3ErrorCode::MalformedXML,
            "The document has more elements than any that S3 knows: a multi-delete names 1 to \
             1000 keys, a completed upload has 1 to 10000 parts.",
        ),
    }
}

fn sha256_mismatch() -> S3Error {
    custom(
        "XAmzContentSHA256Mismatch",
        StatusCode::BAD_REQUEST,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    )
}

/// An error of the stream that an operation reads its body from: one of `s3s`'s verifying
/// streams, or what they wrap.
pub(crate) fn from_stream(error: &(dyn std::error::Error + Send + Sync + 'static)) -> S3Error {
    if let Some(failure) = error.downcast_ref::<BodyFailure>() {
        return from_failure(*failure);
    }
    if let Some(error) = error.downcast_ref::<UploadStreamError>() {
        return match error {
            UploadStreamError::Underlying(inner) => from_stream(inner.as_ref()),
            UploadStreamError::Sha256Mismatch => sha256_mismatch(),
            UploadStreamError::LengthMismatch | UploadStreamError::Incomplete => {
                from_failure(BodyFailure::BrokenOff)
            }
        };
    }
    if let Some(error) = error.downcast_ref::<AwsChunkedStreamError>() {
        return from_chunks(error);
    }
    if error.is::<BodySizeLimitExceeded>() {
        return S3ErrorCode::EntityTooLarge.into();
    }
    tracing::error!(%error, "a body broke off for a reason that is not known");
    from_failure(BodyFailure::BrokenOff)
}

fn from_chunks(error: &AwsChunkedStreamError) -> S3Error {
    let message = match error {
        AwsChunkedStreamError::Underlying(inner) => return from_stream(inner.as_ref()),
        AwsChunkedStreamError::SignatureMismatch => {
            return S3ErrorCode::SignatureDoesNotMatch.into();
        }
        AwsChunkedStreamError::FormatError => "The aws-chunked encoding of the body is malformed.",
        AwsChunkedStreamError::Incomplete => {
            "The body ended before the length in x-amz-decoded-content-length."
        }
        AwsChunkedStreamError::LengthMismatch => {
            "The body is longer than the length in x-amz-decoded-content-length."
        }
        AwsChunkedStreamError::TrailersTooLarge(..)
        | AwsChunkedStreamError::TooManyTrailerHeaders(..) => "The body's trailers are too large.",
        AwsChunkedStreamError::ChunkMetaTooLarge(..)
        | AwsChunkedStreamError::ChunkDataTooLarge(..) => {
            return S3Error::with_message(
                S3ErrorCode::EntityTooLarge,
                "A signed chunk of the body is too large; send chunks of at most 1 MiB.",
            );
        }
    };
    S3Error::with_message(S3ErrorCode::IncompleteBody, message)
}

/// Adds a header to the answer.
pub(crate) fn with_header(mut error: S3Error, name: &'static str, value: &str) -> S3Error {
    let mut headers = error.headers().cloned().unwrap_or_else(HeaderMap::new);
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
    error.set_headers(headers);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SIGNED_CHUNK_BYTES_MAX;

    fn mapped(error: Error) -> (u16, String) {
        let error = from_objects(error);
        (
            error.status_code().unwrap().as_u16(),
            error.code().as_str().to_owned(),
        )
    }

    #[test]
    fn errors_have_s3s_codes() {
        let bucket = || "b".to_owned();
        let key = || "k".to_owned();
        let cases = [
            (
                Error::NoSuchBucket { bucket: bucket() },
                404,
                "NoSuchBucket",
            ),
            (
                Error::NoSuchKey {
                    bucket: bucket(),
                    key: key(),
                },
                404,
                "NoSuchKey",
            ),
            (
                Error::BucketAlreadyExists { bucket: bucket() },
                409,
                "BucketAlreadyExists",
            ),
            (
                Error::BucketAlreadyOwnedByYou { bucket: bucket() },
                409,
                "BucketAlreadyOwnedByYou",
            ),
            (
                Error::BucketNotEmpty { bucket: bucket() },
                409,
                "BucketNotEmpty",
            ),
            (Error::TooManyBuckets { limit: 1 }, 400, "TooManyBuckets"),
            (
                Error::KeyTooLong { bytes: 2, limit: 1 },
                400,
                "KeyTooLongError",
            ),
            (Error::EntityTooLarge { limit: 1 }, 400, "EntityTooLarge"),
            (
                Error::IncompleteBody {
                    announced: 2,
                    received: 1,
                },
                400,
                "IncompleteBody",
            ),
            (
                Error::PreconditionFailed {
                    condition: "If-Match",
                },
                412,
                "PreconditionFailed",
            ),
            (Error::AccessDenied, 403, "AccessDenied"),
            (Error::SlowDown("x".into()), 503, "SlowDown"),
            (Error::InsufficientStorage, 507, "InsufficientStorage"),
            (Error::DiskFailed("x".into()), 503, "ServiceUnavailable"),
            (Error::DisksMissing("x".into()), 503, "ServiceUnavailable"),
            (Error::Closed, 503, "ServiceUnavailable"),
            (Error::Internal("x".into()), 500, "InternalError"),
        ];
        for (error, status, code) in cases {
            assert_eq!(mapped(error), (status, code.to_owned()));
        }
        let corrupt = Error::Corrupt {
            what: "the body".into(),
            place: "extent 1".into(),
        };
        assert_eq!(mapped(corrupt), (500, "InternalError".to_owned()));
    }

    #[test]
    fn messages_fit_into_xml() {
        let error = from_objects(Error::Internal("a\u{1}b".into()));
        assert!(error.message().unwrap().ends_with("a\u{fffd}b"));
    }

    #[test]
    fn streams_are_unwrapped_to_their_cause() {
        let code = |error: S3Error| error.code().as_str().to_owned();
        let nested = UploadStreamError::Underlying(Box::new(BodyFailure::TooSlow));
        assert_eq!(code(from_stream(&nested)), "RequestTimeout");
        let nested = AwsChunkedStreamError::Underlying(Box::new(nested));
        assert_eq!(code(from_stream(&nested)), "RequestTimeout");
        assert_eq!(
            code(from_stream(&UploadStreamError::Sha256Mismatch)),
            "XAmzContentSHA256Mismatch"
        );
        assert_eq!(
            code(from_stream(&UploadStreamError::Incomplete)),
            "IncompleteBody"
        );
        let chunks = AwsChunkedStreamError::SignatureMismatch;
        assert_eq!(code(from_stream(&chunks)), "SignatureDoesNotMatch");
    }

    #[test]
    fn the_message_on_chunks_names_the_limit() {
        assert_eq!(SIGNED_CHUNK_BYTES_MAX, 1024 * 1024);
    }
}
