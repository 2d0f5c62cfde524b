//! How a request's body is framed, and what is refused for it before anything else is looked at.
//!
//! What must always hold: `s3s` never sees a body whose length is unknown, but the one kind
//! that it streams. It parses the fields of a form before anybody has asked who sent them, so
//! that they are bounded, and their memory is reserved, before it does.

use http::Method;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use s3s::S3ErrorCode;

use crate::refuse::Refusal;

/// The refusal of a body that must not be read, if it is one. `has_body`: bytes follow the head.
/// `in_host`: the host names the bucket, so that the path is all key.
pub(crate) fn refuse(parts: &Parts, has_body: bool, in_host: bool) -> Option<Refusal> {
    let unframed = !parts.headers.contains_key(CONTENT_LENGTH)
        && (has_body || parts.headers.contains_key(TRANSFER_ENCODING));
    // What else the request carries makes no difference: `s3s` looks at the type alone.
    if is_multipart(parts) {
        let other = || {
            let message = "Only multipart/form-data can be posted, as one Content-Type.";
            Refusal::new(S3ErrorCode::NotImplemented, message)
        };
        return match unframed {
            true => Some(length_required()),
            false => (!is_form(parts)).then(other),
        };
    }
    let streams = is_object_body(parts, in_host) && is_aws_chunked(parts);
    (unframed && !streams).then(length_required)
}

/// The refusal of an object whose length nobody said: not even that it is empty. After the
/// credential scope was looked at, because it costs nothing.
pub(crate) fn refuse_unsaid_length(parts: &Parts, in_host: bool) -> Option<Refusal> {
    let said =
        parts.headers.contains_key(CONTENT_LENGTH) || parts.headers.contains_key(TRANSFER_ENCODING);
    (is_object_body(parts, in_host) && !said).then(length_required)
}

/// What `x-amz-content-sha256` may say besides a sum.
const PAYLOADS: [&str; 6] = [
    "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
    "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "UNSIGNED-PAYLOAD",
];

/// The refusal of a signed request whose `x-amz-content-sha256` is none: `s3s` would say that
/// the signature is wrong, and send its sender looking there.
pub(crate) fn refuse_payload(parts: &Parts) -> Option<Refusal> {
    parts.headers.get(AUTHORIZATION)?;
    let value = parts.headers.get("x-amz-content-sha256")?.as_bytes();
    let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_sum = value.len() == 64 && value.iter().all(digit);
    let known = is_sum || PAYLOADS.iter().any(|name| name.as_bytes() == value);
    (!known).then(|| {
        Refusal::new(
            S3ErrorCode::InvalidArgument,
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, \
             STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, \
             STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value in small \
             hexadecimal digits.",
        )
    })
}

/// Whether the body is an object's, which streams, or a document, which `s3s` reads.
/// `in_host`: the host names the bucket, so that the path is all key.
pub(crate) fn is_object_body(parts: &Parts, in_host: bool) -> bool {
    let path = parts.uri.path();
    let has_key = match in_host {
        true => path.len() > 1,
        false => {
            let path = path.trim_start_matches('/');
            path.split_once('/').is_some_and(|(_, key)| !key.is_empty())
        }
    };
    // A copy brings no body.
    let copies = parts.headers.contains_key("x-amz-copy-source");
    parts.method == Method::PUT && !copies && has_key
}

/// Whether the body says its own length in chunks, whose sum stands in a header.
fn is_aws_chunked(parts: &Parts) -> bool {
    is_streaming_payload(&parts.headers)
        && parts.headers.contains_key("x-amz-decoded-content-length")
}

/// Whether `x-amz-content-sha256` announces the `aws-chunked` encoding.
pub(crate) fn is_streaming_payload(headers: &http::HeaderMap) -> bool {
    headers
        .get_all("x-amz-content-sha256")
        .into_iter()
        .any(|value| value.as_bytes().starts_with(b"STREAMING-"))
}

fn begins_like(value: &HeaderValue, kind: &[u8]) -> bool {
    let value = value.as_bytes().trim_ascii_start();
    value
        .get(..kind.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(kind))
}

/// Whether a body of several parts is posted, of whatever kind.
fn is_multipart(parts: &Parts) -> bool {
    let mut types = parts.headers.get_all(CONTENT_TYPE).into_iter();
    parts.method == Method::POST && types.any(|value| begins_like(value, b"multipart/"))
}

/// Whether an object is uploaded by HTML form: signed in its fields, and streamed.
pub(crate) fn is_form(parts: &Parts) -> bool {
    let mut types = parts.headers.get_all(CONTENT_TYPE).into_iter();
    let first = types.next();
    parts.method == Method::POST
        && first.is_some_and(|value| begins_like(value, b"multipart/form-data"))
        && types.next().is_none()
}

fn length_required() -> Refusal {
    Refusal::new(
        S3ErrorCode::MissingContentLength,
        "You must provide the Content-Length HTTP header.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(method: Method, path: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        refuse(&parts, parts.headers.contains_key(TRANSFER_ENCODING), false)
            .map(|refusal| refusal.status.as_u16())
    }

    const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");
    const DECODED: (&str, &str) = ("x-amz-decoded-content-length", "1");
    const STREAMING: (&str, &str) = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");

    /// An invented `Authorization` header once let a form through to a parser that holds 5 GiB
    /// before it asks who is there. With a length the file streams.
    #[test]
    fn a_form_says_its_length_whatever_else_it_says() {
        let authorization = (
            "authorization",
            "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0",
        );
        for (kind, status) in [
            ("multipart/form-data; boundary=b", None),
            ("Multipart/Form-Data;boundary=b", None),
            ("multipart/mixed; boundary=b", Some(501)),
        ] {
            let kind = ("content-type", kind);
            let framed = [kind, authorization, ("content-length", "9")];
            assert_eq!(refused(Method::POST, "/b", &framed), status, "{kind:?}");
            let unframed = [kind, authorization, CHUNKED, DECODED, STREAMING];
            assert_eq!(refused(Method::POST, "/b", &unframed), Some(411));
        }
        let twice = [
            ("content-type", "text/plain"),
            ("content-type", "multipart/form-data; boundary=b"),
            ("content-length", "9"),
        ];
        assert_eq!(refused(Method::POST, "/b", &twice), Some(501));
    }

    #[test]
    fn only_chunks_of_an_object_come_without_a_length() {
        let chunked = [CHUNKED, DECODED, STREAMING];
        assert_eq!(refused(Method::PUT, "/b/k", &chunked), None);
        assert_eq!(refused(Method::PUT, "/b", &chunked), Some(411));
        assert_eq!(refused(Method::POST, "/b?delete", &chunked), Some(411));
        assert_eq!(refused(Method::POST, "/b/k", &chunked), Some(411));
        assert_eq!(refused(Method::PUT, "/b/k", &[CHUNKED, DECODED]), Some(411));
        assert_eq!(
            refused(Method::PUT, "/b/k", &[CHUNKED, STREAMING]),
            Some(411)
        );
        assert_eq!(refused(Method::GET, "/b/k", &[CHUNKED]), Some(411));
        assert_eq!(refused(Method::GET, "/b/k", &[]), None);
    }

    #[test]
    fn with_the_bucket_in_the_host_the_path_is_all_key() {
        let is_object = |method: Method, path: &str| {
            let request = http::Request::builder().method(method).uri(path);
            is_object_body(&request.body(()).unwrap().into_parts().0, true)
        };
        assert!(is_object(Method::PUT, "/key"));
        assert!(is_object(Method::PUT, "//"));
        assert!(!is_object(Method::PUT, "/?acl"));
        assert!(!is_object(Method::POST, "/key"));
    }

    #[test]
    fn an_empty_object_says_so() {
        let unsaid = |method: Method, path: &str, length: Option<&str>| {
            let mut request = http::Request::builder().method(method).uri(path);
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            refuse_unsaid_length(&request.body(()).unwrap().into_parts().0, false).is_some()
        };
        assert!(unsaid(Method::PUT, "/b/k", None));
        assert!(!unsaid(Method::PUT, "/b/k", Some("0")));
        assert!(!unsaid(Method::PUT, "/b", None));
        assert!(!unsaid(Method::GET, "/b/k", None));
    }
}
