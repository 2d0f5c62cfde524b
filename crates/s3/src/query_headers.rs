//! `x-amz-*` parameters in the query: headers that a presigner moved there.
//!
//! SDKs hoist headers into presigned URLs, where the signature covers them and the client that
//! uses the URL need not know them. `s3s` looks at headers only. Those that mean something here
//! are treated as if they were headers; the rest is refused by name. Checksums are the exception:
//! presigners put the checksum of an empty body there, because they know no other, and Amazon
//! takes no notice of it. In real headers and trailers they are verified.

use std::borrow::Cow;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};
use s3s::{S3Error, S3Result, s3_error};

use crate::names::{for_xml, percent_decode, query_pairs};

/// What SigV4 itself has in the query, and what says nothing about the request.
const IGNORED: [&str; 8] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
    "x-amz-user-agent",
];

/// Headers that mean the same, or nothing, in the query of any operation. What they may say is
/// checked as it is for headers.
const ANYWHERE: [&str; 4] = [
    "x-amz-checksum-mode",
    "x-amz-expected-bucket-owner",
    "x-amz-optional-object-attributes",
    "x-amz-request-payer",
];

/// Headers that operations which store metadata honour in the query.
const ON_PUT: [&str; 2] = ["x-amz-acl", "x-amz-storage-class"];

/// What a PutObject and an UploadPart take no notice of in the query: what the presigner knew of
/// the body.
const UNNOTICED_ON_PUT: [&str; 8] = [
    "x-amz-checksum-algorithm",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-checksum-type",
    "x-amz-sdk-checksum-algorithm",
];

/// Headers that a CreateMultipartUpload honours in the query besides.
const ON_CREATE: [&str; 2] = ["x-amz-checksum-algorithm", "x-amz-checksum-type"];

/// What all these begin with.
const PREFIX: &str = "x-amz-";

/// What user metadata begins with.
pub(crate) const METADATA: &str = "x-amz-meta-";

/// The headers that stand in the query. Fails if there is one that would be ignored, or that
/// is there twice.
pub(crate) fn in_query(operation: &str, uri: &Uri, headers: &HeaderMap) -> S3Result<HeaderMap> {
    let mut found = HeaderMap::new();
    for (name, value) in query_pairs(uri.query().unwrap_or("")) {
        let Some(name) = percent_decode(name) else {
            continue;
        };
        let prefix = name.as_bytes().get(..PREFIX.len());
        if !prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX.as_bytes())) {
            continue;
        }
        let name = name.to_ascii_lowercase();
        if IGNORED.contains(&name.as_str()) {
            continue;
        }
        let value = percent_decode(value).unwrap_or_default();
        // Some presigners name the payload, which is always this one.
        if name == "x-amz-content-sha256" && value == "UNSIGNED-PAYLOAD" {
            continue;
        }
        let has_body = matches!(operation, "PutObject" | "UploadPart");
        if has_body && UNNOTICED_ON_PUT.contains(&name.as_str()) {
            continue;
        }
        let honoured = ANYWHERE.contains(&name.as_str())
            || (matches!(operation, "PutObject" | "CreateMultipartUpload")
                && (ON_PUT.contains(&name.as_str()) || name.starts_with(METADATA)))
            || (operation == "CreateMultipartUpload" && ON_CREATE.contains(&name.as_str()));
        if !honoured {
            return Err(s3_error!(
                NotImplemented,
                "{operation} with ?{} is not there yet.",
                for_xml(&name)
            ));
        }
        let (Ok(header), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value.as_bytes()),
        ) else {
            return Err(invalid("is not a header", &name));
        };
        if headers.contains_key(&header) || found.insert(header, value).is_some() {
            return Err(invalid("is there twice", &name));
        }
    }
    Ok(found)
}

/// The headers with those in the query beside them.
pub(crate) fn merged<'a>(
    operation: &str,
    uri: &Uri,
    headers: &'a HeaderMap,
) -> S3Result<Cow<'a, HeaderMap>> {
    let found = in_query(operation, uri, headers)?;
    if found.is_empty() {
        return Ok(Cow::Borrowed(headers));
    }
    let mut all = headers.clone();
    all.extend(found);
    Ok(Cow::Owned(all))
}

fn invalid(what: &str, name: &str) -> S3Error {
    s3_error!(
        InvalidArgument,
        "The query parameter {} {what}.",
        for_xml(name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(operation: &str, query: &str) -> Result<Vec<(String, String)>, String> {
        let uri: Uri = format!("/b/k?{query}").parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-meta-there", HeaderValue::from_static("a"));
        let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
        in_query(operation, &uri, &headers)
            .map(|map| {
                map.iter()
                    .map(|(name, value)| (name.to_string(), text(value)))
                    .collect()
            })
            .map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn what_means_something_is_a_header() {
        let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        assert_eq!(
            found("PutObject", "X-Amz-Meta-A=b%20%C3%BC&x-id=PutObject"),
            Ok(pair("x-amz-meta-a", "b ü"))
        );
        assert_eq!(
            found("PutObject", "x-amz-checksum-crc32=AAAAAA%3D%3D"),
            Ok(Vec::new())
        );
        assert_eq!(
            found("GetObject", "x-amz-checksum-mode=ENABLED"),
            Ok(pair("x-amz-checksum-mode", "ENABLED"))
        );
        let signature = "X-Amz-Algorithm=a&X-Amz-Credential=a&X-Amz-Date=a&X-Amz-Expires=1\
                         &X-Amz-SignedHeaders=host&X-Amz-Signature=0&x-amz-user-agent=a\
                         &X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&versionId=null";
        assert_eq!(found("GetObject", signature), Ok(Vec::new()));
    }

    #[test]
    fn the_rest_is_refused() {
        for (operation, query) in [
            ("PutObject", "x-amz-object-lock-mode=GOVERNANCE"),
            ("PutObject", "X-AMZ-Server-Side-Encryption=AES256"),
            ("PutObject", "x-amz-tagging=a%3Db"),
            ("PutObject", "x-amz-trailer=x"),
            ("PutObject", "x-amz-copy-source=a%2Fb"),
            ("PutObject", "x-amz-content-sha256=00"),
            ("GetObject", "x-amz-meta-a=b"),
            ("DeleteObject", "x-amz-mfa=1"),
        ] {
            assert_eq!(
                found(operation, query),
                Err("NotImplemented".into()),
                "{query}"
            );
        }
        for query in [
            "x-amz-meta-a=1&x-amz-meta-a=2",
            "x-amz-meta-there=a",
            "x-amz-meta-a=%0A",
            "x-amz-meta-a%20b=1",
        ] {
            assert_eq!(
                found("PutObject", query),
                Err("InvalidArgument".into()),
                "{query}"
            );
        }
    }
}
