//! The credential scope of a request, read before any signature is verified: it says which
//! service and region the client meant, so that the answer to a mistake can say so.

use http::request::Parts;

use crate::limits::PRESIGNED_SECONDS_MAX;
use crate::names::{percent_decode, query_pairs};

/// How a request says who it is from. Nothing here is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// No signature at all.
    Anonymous,
    /// SigV4 in the `Authorization` header.
    Header(Credential),
    /// SigV4 in the query: a presigned URL.
    Query(Credential),
    /// Both at once, which S3 refuses.
    Both,
    /// SigV2, or another mechanism that S3 has given up.
    Outdated,
    /// A SigV4 `Authorization` header that cannot be read.
    MalformedHeader,
    /// SigV4 query parameters that cannot be read.
    MalformedQuery,
    /// A presigned URL whose `X-Amz-Expires` cannot be accepted, and why.
    BadExpiry(&'static str),
}

/// What a credential names beside the access key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) region: String,
    pub(crate) service: String,
}

impl Scope {
    /// Reads the scope of a request.
    pub(crate) fn of(request: &Parts) -> Scope {
        let query = request.uri.query().unwrap_or("");
        let mut signature = false;
        let mut outdated = false;
        let mut credential = None;
        let mut expires = None;
        for (name, value) in query_pairs(query) {
            match percent_decode(name).as_deref() {
                Some("X-Amz-Signature" | "X-Amz-Algorithm") => signature = true,
                Some("X-Amz-Credential") => credential = percent_decode(value),
                Some("X-Amz-Expires") => expires = percent_decode(value),
                Some("Signature" | "AWSAccessKeyId") => outdated = true,
                _ => {}
            }
        }
        let in_query = signature || credential.is_some();
        match request.headers.get(http::header::AUTHORIZATION) {
            Some(_) if in_query || outdated => Scope::Both,
            Some(value) => Scope::of_header(value.as_bytes()),
            None if outdated => Scope::Outdated,
            None if in_query => match credential.as_deref().and_then(Credential::parse) {
                Some(credential) => match expires.as_deref().and_then(bad_expiry) {
                    Some(message) => Scope::BadExpiry(message),
                    None => Scope::Query(credential),
                },
                None => Scope::MalformedQuery,
            },
            None => Scope::Anonymous,
        }
    }

    fn of_header(value: &[u8]) -> Scope {
        let Ok(value) = std::str::from_utf8(value) else {
            return Scope::MalformedHeader;
        };
        let value = value.trim();
        if value.is_empty() {
            return Scope::Anonymous;
        }
        if !value.starts_with("AWS4-") {
            return Scope::Outdated;
        }
        let credential = value
            .split([' ', ','])
            .find_map(|part| part.strip_prefix("Credential="))
            .and_then(Credential::parse);
        match credential {
            Some(credential)
                if value.contains("SignedHeaders=") && value.contains("Signature=") =>
            {
                Scope::Header(credential)
            }
            _ => Scope::MalformedHeader,
        }
    }
}

/// What is wrong with the life that a presigned URL is given, and what to do.
fn bad_expiry(seconds: &str) -> Option<&'static str> {
    const _: () = assert!(PRESIGNED_SECONDS_MAX == 604_800);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.strip_prefix('-').is_some_and(digits) {
        return Some("X-Amz-Expires must be non-negative");
    }
    if !digits(seconds) {
        return Some("X-Amz-Expires should be a number");
    }
    let fits = seconds
        .parse()
        .is_ok_and(|seconds: u32| seconds <= PRESIGNED_SECONDS_MAX);
    (!fits).then_some(
        "X-Amz-Expires must be at most 604800 seconds, which is a week: presign the URL anew with \
         a shorter life",
    )
}

impl Credential {
    /// `KEY/20260101/region/service/aws4_request`; the key may contain slashes.
    fn parse(text: &str) -> Option<Credential> {
        let mut parts = text.rsplitn(5, '/');
        let end = parts.next()?;
        let service = parts.next()?;
        let region = parts.next()?;
        let date = parts.next()?;
        let key = parts.next()?;
        let date_ok = date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit());
        if end != "aws4_request" || !date_ok || key.is_empty() || service.is_empty() {
            return None;
        }
        Some(Credential {
            region: region.to_owned(),
            service: service.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(uri: &str, authorization: Option<&str>) -> Scope {
        let mut request = http::Request::builder().uri(uri);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        Scope::of(&request.body(()).unwrap().into_parts().0)
    }

    fn credential(region: &str, service: &str) -> Credential {
        Credential {
            region: region.to_owned(),
            service: service.to_owned(),
        }
    }

    #[test]
    fn a_header_names_region_and_service() {
        let header = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-central-1/lambda/aws4_request, \
                      SignedHeaders=host;x-amz-date, Signature=00";
        assert_eq!(
            scope("/", Some(header)),
            Scope::Header(credential("eu-central-1", "lambda"))
        );
        let slash = "AWS4-HMAC-SHA256 Credential=A/B/20260101/us-east-1/s3/aws4_request,\
                     SignedHeaders=host,Signature=00";
        assert_eq!(
            scope("/", Some(slash)),
            Scope::Header(credential("us-east-1", "s3"))
        );
    }

    #[test]
    fn a_presigned_url_names_region_and_service() {
        let uri = "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256\
                   &X-Amz-Credential=AKIA%2F20260101%2Fus-east-1%2Fs3%2Faws4_request\
                   &X-Amz-Signature=00";
        assert_eq!(
            scope(uri, None),
            Scope::Query(credential("us-east-1", "s3"))
        );
        assert_eq!(scope(uri, Some("AWS4-HMAC-SHA256 x")), Scope::Both);
        assert_eq!(scope("/b?X-Amz-Signature=00", None), Scope::MalformedQuery);
    }

    #[test]
    fn a_presigned_url_lives_seven_days_at_most() {
        let with = |expires: &str| {
            let credential = "AKIA%2F20260101%2Fus-east-1%2Fs3%2Faws4_request";
            let uri = format!(
                "/b/k?X-Amz-Credential={credential}&X-Amz-Signature=00&X-Amz-Expires={expires}"
            );
            match scope(&uri, None) {
                Scope::BadExpiry(message) => Some(message),
                _ => None,
            }
        };
        for good in ["0", "1", "604800"] {
            assert_eq!(with(good), None, "{good}");
        }
        for long in ["604801", "99999999999999999999"] {
            assert!(with(long).unwrap().contains("604800 seconds"), "{long}");
        }
        assert!(with("-1").unwrap().contains("non-negative"));
        for bad in ["", "-", "x", "1.5", "+5"] {
            assert!(with(bad).unwrap().contains("a number"), "{bad}");
        }
    }

    #[test]
    fn everything_else_is_told_apart() {
        assert_eq!(scope("/b/k", None), Scope::Anonymous);
        assert_eq!(scope("/b/k", Some("AWS key:sig")), Scope::Outdated);
        assert_eq!(
            scope("/b/k?AWSAccessKeyId=a&Signature=b&Expires=1", None),
            Scope::Outdated
        );
        for bad in [
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=a/b/c",
            "AWS4-HMAC-SHA256 Credential=K/20260101/r/s3/aws4_request",
            "AWS4-HMAC-SHA256 Credential=K/2026x101/r/s3/aws4_request, SignedHeaders=h, Signature=0",
        ] {
            assert_eq!(scope("/", Some(bad)), Scope::MalformedHeader, "{bad}");
        }
    }
}
