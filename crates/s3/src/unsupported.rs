//! What S3 has and this server does not have yet: refused by name, never silently ignored.

use http::HeaderMap;
use http::header::{HeaderValue, IF_MATCH, IF_NONE_MATCH, RANGE};
use s3s::dto::Range;
use s3s::{S3Error, S3Result, s3_error};

use crate::missing;
use crate::names::{fits_xml, for_xml, percent_decode, query_pairs};

/// Query parameters that turn a plain operation into another one, sorted.
const SUBRESOURCES: [&str; 55] = [
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "annotation",
    "annotationName",
    "append",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "events",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "list-type",
    "location",
    "logging",
    "metadataAnnotationTable",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "partNumber",
    "policy",
    "policyStatus",
    "position",
    "publicAccessBlock",
    "renameObject",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "retention",
    "select",
    "select-type",
    "session",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// Which of them an operation that is there knows.
fn expected(operation: &str) -> &'static [&'static str] {
    match operation {
        "GetObject" | "HeadObject" => &[
            "partNumber",
            "response-cache-control",
            "response-content-disposition",
            "response-content-encoding",
            "response-content-language",
            "response-content-type",
            "response-expires",
            "versionId",
        ],
        "AbortMultipartUpload" | "CompleteMultipartUpload" | "ListParts" => &["uploadId"],
        "CreateMultipartUpload" | "ListMultipartUploads" => &["uploads"],
        "UploadPart" | "UploadPartCopy" => &["partNumber", "uploadId"],
        "GetObjectAttributes" => &["attributes", "versionId"],
        "DeleteObject" => &["versionId"],
        "DeleteObjects" => &["delete"],
        "GetBucketLocation" => &["location"],
        "DeleteBucketCors" | "GetBucketCors" => &["cors"],
        "DeleteBucketEncryption" | "GetBucketEncryption" => &["encryption"],
        "DeleteBucketLifecycle" | "GetBucketLifecycleConfiguration" => &["lifecycle"],
        "DeleteBucketPolicy" | "GetBucketPolicy" => &["policy"],
        "DeleteBucketReplication" | "GetBucketReplication" => &["replication"],
        "DeleteBucketTagging" | "GetBucketTagging" => &["tagging"],
        "DeleteBucketWebsite" | "GetBucketWebsite" => &["website"],
        "DeletePublicAccessBlock" | "GetPublicAccessBlock" => &["publicAccessBlock"],
        "DeleteObjectTagging" | "GetObjectTagging" => &["tagging", "versionId"],
        "GetBucketAccelerateConfiguration" => &["accelerate"],
        "GetBucketAcl" | "PutBucketAcl" => &["acl"],
        "GetBucketLogging" => &["logging"],
        "GetBucketNotificationConfiguration" => &["notification"],
        "GetBucketOwnershipControls" => &["ownershipControls"],
        "GetBucketPolicyStatus" => &["policyStatus"],
        "GetBucketRequestPayment" => &["requestPayment"],
        "GetBucketVersioning" => &["versioning"],
        "GetObjectAcl" | "PutObjectAcl" => &["acl", "versionId"],
        "GetObjectLockConfiguration" => &["object-lock"],
        "ListObjects" | "ListObjectsV2" => &["list-type"],
        "ListObjectVersions" => &["versions"],
        _ => &[],
    }
}

/// The operations that are there.
pub(crate) const OPERATIONS: [&str; 55] = [
    ADMIN_OPERATION,
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "CopyObject",
    "CreateBucket",
    "CreateMultipartUpload",
    "DeleteBucket",
    "DeleteBucketCors",
    "DeleteBucketEncryption",
    "DeleteBucketLifecycle",
    "DeleteBucketPolicy",
    "DeleteBucketReplication",
    "DeleteBucketTagging",
    "DeleteBucketWebsite",
    "DeleteObject",
    "DeleteObjectTagging",
    "DeleteObjects",
    "DeletePublicAccessBlock",
    "GetBucketAccelerateConfiguration",
    "GetBucketAcl",
    "GetBucketCors",
    "GetBucketEncryption",
    "GetBucketLifecycleConfiguration",
    "GetBucketLocation",
    "GetBucketLogging",
    "GetBucketNotificationConfiguration",
    "GetBucketOwnershipControls",
    "GetBucketPolicy",
    "GetBucketPolicyStatus",
    "GetBucketReplication",
    "GetBucketRequestPayment",
    "GetBucketTagging",
    "GetBucketVersioning",
    "GetBucketWebsite",
    "GetObject",
    "GetObjectAcl",
    "GetObjectAttributes",
    "GetObjectLockConfiguration",
    "GetObjectTagging",
    "GetPublicAccessBlock",
    "HeadBucket",
    "HeadObject",
    "ListBuckets",
    "ListMultipartUploads",
    "ListObjectVersions",
    "ListObjects",
    "ListObjectsV2",
    "ListParts",
    "PostObject",
    "PutBucketAcl",
    "PutObject",
    "PutObjectAcl",
    "UploadPart",
    "UploadPartCopy",
    METRICS_OPERATION,
];

/// What accounts and keys are administered with, named like an operation.
pub(crate) const ADMIN_OPERATION: &str = "Admin";

/// The server's own page, named like an operation.
pub(crate) const METRICS_OPERATION: &str = "Metrics";

/// The operation's name for reports.
pub(crate) fn canonical_name(operation: &str) -> &'static str {
    OPERATIONS
        .iter()
        .copied()
        .find(|name| *name == operation)
        .unwrap_or_else(|| missing::kept_name(operation))
}

/// Refuses operations and subresources that are not there, so that none of them is taken for
/// a plain operation.
pub(crate) fn check_query(operation: &str, query: &str) -> S3Result<()> {
    if !OPERATIONS.contains(&operation) {
        return Err(missing::refuse(operation));
    }
    let expected = expected(operation);
    for (name, value) in query_pairs(query) {
        let Some(name) = percent_decode(name) else {
            return Err(s3_error!(InvalidURI, "The query is not UTF-8."));
        };
        let subresource = SUBRESOURCES.binary_search(&&*name).is_ok();
        if subresource && !expected.contains(&&*name) {
            return Err(s3_error!(
                NotImplemented,
                "{operation} with ?{name} is not there yet."
            ));
        }
        check_characters(operation, &name, value)?;
        // Said twice, it is taken for none.
        if name == "list-type" && (value != "2" || operation != "ListObjectsV2") {
            return Err(s3_error!(
                InvalidArgument,
                "list-type must be 2, once, or left out."
            ));
        }
    }
    Ok(())
}

/// Parameters of listings that are encoded in the answer when they have to be.
const ENCODED: [&str; 5] = ["delimiter", "key-marker", "marker", "prefix", "start-after"];

/// Refuses values that would stand in an answer which has no place for them.
fn check_characters(operation: &str, name: &str, value: &str) -> S3Result<()> {
    let encoded = ENCODED.contains(&name) && operation.starts_with("ListObject");
    let fits = match percent_decode(value) {
        _ if encoded => true,
        None => false,
        Some(value) if name.starts_with("response-") => !value.contains(char::is_control),
        Some(value) => fits_xml(&value),
    };
    match fits {
        true => Ok(()),
        false => Err(s3_error!(
            InvalidArgument,
            "The value of the query parameter {} has characters that it cannot have.",
            for_xml(name)
        )),
    }
}

/// What a header that would change the outcome may say.
enum Rule {
    /// Nothing: the feature is not there.
    Never,
    /// Only what is true anyway.
    Only(&'static [&'static str]),
}

/// Headers that ask for something. Names that end in `*` stand for all that begin like them.
const HEADERS: [(&str, Rule); 18] = [
    (
        "x-amz-acl",
        Rule::Only(&["private", "bucket-owner-full-control"]),
    ),
    ("x-amz-bucket-namespace", Rule::Only(&["global"])),
    (
        "x-amz-bucket-object-lock-enabled",
        Rule::Only(&["false", "False"]),
    ),
    (
        "x-amz-bypass-governance-retention",
        Rule::Only(&["false", "False"]),
    ),
    ("x-amz-copy-source-server-side-encryption-*", Rule::Never),
    ("x-amz-grant-*", Rule::Never),
    ("x-amz-if-match-initiated-time", Rule::Never),
    ("x-amz-if-match-last-modified-time", Rule::Never),
    ("x-amz-if-match-size", Rule::Never),
    ("x-amz-mfa", Rule::Never),
    ("x-amz-object-lock-*", Rule::Never),
    (
        "x-amz-object-ownership",
        Rule::Only(&["BucketOwnerEnforced"]),
    ),
    ("x-amz-rename-source*", Rule::Never),
    ("x-amz-server-side-encryption*", Rule::Never),
    ("x-amz-tagging", Rule::Never),
    ("x-amz-tagging-directive", Rule::Only(&["COPY", "REPLACE"])),
    ("x-amz-website-redirect-location", Rule::Never),
    ("x-amz-write-offset-bytes", Rule::Never),
];

/// Refuses headers that ask for what is not there.
pub(crate) fn check_headers(operation: &str, headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("x-amz-") {
            continue;
        }
        let value = value.to_str().unwrap_or("");
        let copies = matches!(operation, "CopyObject" | "UploadPartCopy");
        if name.starts_with("x-amz-copy-source") && !copies {
            return Err(not_there(name));
        }
        if name == "x-amz-storage-class" && value != "STANDARD" {
            return Err(s3_error!(
                InvalidStorageClass,
                "The storage class is STANDARD."
            ));
        }
        for (pattern, rule) in &HEADERS {
            let hit = match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == *pattern,
            };
            let allowed = matches!(rule, Rule::Only(values) if values.contains(&value));
            if hit && !allowed {
                return Err(not_there(name));
            }
        }
    }
    if operation == "GetObject" || operation == "HeadObject" {
        check_range(headers)?;
    }
    match operation {
        "PutObject" | "CopyObject" | "CompleteMultipartUpload" => {
            check_conditions(&["if-modified-since", "if-unmodified-since"], headers)
        }
        "DeleteObject" => check_conditions(
            &["if-modified-since", "if-none-match", "if-unmodified-since"],
            headers,
        ),
        _ => Ok(()),
    }
}

/// Refuses a write under a condition that is not there, and one that cannot hold or be read:
/// whoever sends one must not find out later that it was carried out anyway.
fn check_conditions(missing: &[&str], headers: &HeaderMap) -> S3Result<()> {
    if let Some(name) = missing.iter().find(|name| headers.contains_key(**name)) {
        return Err(not_there(name));
    }
    for name in [IF_MATCH, IF_NONE_MATCH] {
        let empty = |value: &HeaderValue| value.as_bytes().trim_ascii().is_empty();
        if headers.get_all(&name).into_iter().any(empty) {
            return Err(s3_error!(
                InvalidArgument,
                "The header {name} is empty: give it an ETag, or leave it out."
            ));
        }
    }
    let weak = |value: &HeaderValue| value.as_bytes().trim_ascii().starts_with(b"W/");
    if headers.get_all(IF_MATCH).into_iter().any(weak) {
        return Err(s3_error!(
            PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold: If-Match, because a \
             weak ETag matches nothing"
        ));
    }
    Ok(())
}

/// Refuses a `Range` that asks for more than one part, or for none that can be told. HTTP lets a
/// server ignore the header; but a client that wants two bytes is not helped by gigabytes.
fn check_range(headers: &HeaderMap) -> S3Result<()> {
    let mut ranges = headers.get_all(RANGE).into_iter();
    let Some(range) = ranges.next() else {
        return Ok(());
    };
    let range = range.to_str().unwrap_or("");
    if range.contains(',') || ranges.next().is_some() {
        return Err(s3_error!(
            NotImplemented,
            "Several ranges in one request are not there yet: ask for each in a request of its own."
        ));
    }
    match Range::parse(range) {
        Ok(_) => Ok(()),
        Err(_) if range.is_empty() => Ok(()),
        Err(_) => Err(s3_error!(
            InvalidArgument,
            "The Range header cannot be read: write it like bytes=0-499, bytes=500- or bytes=-500."
        )),
    }
}

fn not_there(header: &str) -> S3Error {
    s3_error!(
        NotImplemented,
        "A header you provided implies functionality that is not implemented: {header}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(operation: &str, query: &str) -> Option<String> {
        check_query(operation, query)
            .err()
            .map(|error| error.code().as_str().to_owned())
    }

    fn header(name: &'static str, value: &'static str) -> Option<String> {
        let headers = [(name.parse().unwrap(), value.parse().unwrap())]
            .into_iter()
            .collect();
        check_headers("PutObject", &headers)
            .err()
            .map(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn subresources_can_be_found() {
        assert!(SUBRESOURCES.is_sorted());
    }

    #[test]
    fn a_subresource_is_never_a_plain_operation() {
        let refused = Some("NotImplemented".to_owned());
        for (operation, text) in [
            ("PutObject", "tagging"),
            ("PutObject", "partNumber=1"),
            ("PutObject", "%61cl"),
            ("GetObject", "acl="),
            ("GetObject", "uploads"),
            ("HeadBucket", "versioning"),
            ("DeleteObject", "acl"),
            ("DeleteBucket", "delete"),
            ("ListObjects", "location"),
            ("UploadPart", "partNumber=1&uploadId=x&acl"),
            ("CopyObject", "uploadId=x"),
            ("PutBucketPolicy", "policy"),
        ] {
            assert_eq!(query(operation, text), refused, "{operation} ?{text}");
        }
        for (operation, text) in [
            (
                "GetObject",
                "versionId=null&response-content-type=a%2Fb&x-id=GetObject",
            ),
            ("ListObjectsV2", "list-type=2&prefix=acl&delimiter=%2F"),
            ("ListObjectVersions", "versions"),
            ("PutObject", "X-Amz-Signature=00&x-id=PutObject"),
            ("UploadPart", "partNumber=1&uploadId=x"),
            ("GetObjectAttributes", "attributes"),
        ] {
            assert_eq!(query(operation, text), None, "{operation} ?{text}");
        }
        for twice in ["list-type=1", "list-type=2&list-type=2"] {
            assert_eq!(
                query("ListObjects", twice),
                Some("InvalidArgument".into()),
                "{twice}"
            );
        }
    }

    #[test]
    fn values_can_be_sent_back() {
        let refused = Some("InvalidArgument".to_owned());
        for (operation, text) in [
            ("ListObjectsV2", "max-keys=%01"),
            ("ListObjectsV2", "continuation-token=%00"),
            ("ListObjectVersions", "key-marker=a&version-id-marker=%01"),
            ("ListBuckets", "prefix=%01"),
            ("GetObject", "partNumber=%01"),
            ("HeadObject", "response-content-type=a%0Ab"),
            ("HeadObject", "response-expires=%01"),
        ] {
            assert_eq!(query(operation, text), refused, "{operation} ?{text}");
        }
        for (operation, text) in [
            ("ListObjectsV2", "prefix=%01&delimiter=%0A&start-after=%02"),
            ("ListObjectVersions", "versions&key-marker=%01"),
            ("GetObject", "response-content-type=text%2Fplain"),
        ] {
            assert_eq!(query(operation, text), None, "{operation} ?{text}");
        }
    }

    /// Once a delete under a condition that S3 has not for it was carried out, and a put under an
    /// empty or a weak tag was as well.
    #[test]
    fn a_write_is_never_carried_out_against_its_condition() {
        let checked = |operation: &str, name: &'static str, value: &'static str| {
            let headers = [(name.parse().unwrap(), value.parse().unwrap())]
                .into_iter()
                .collect();
            let error = check_headers(operation, &headers).err()?;
            Some(error.code().as_str().to_owned())
        };
        for operation in [
            "PutObject",
            "DeleteObject",
            "CopyObject",
            "CompleteMultipartUpload",
        ] {
            for (name, value, code) in [
                ("if-match", "\"a\"", None),
                ("if-match", "", Some("InvalidArgument")),
                ("if-match", "W/\"a\"", Some("PreconditionFailed")),
                ("if-unmodified-since", "x", Some("NotImplemented")),
            ] {
                let found = checked(operation, name, value);
                assert_eq!(found.as_deref(), code, "{operation} {name}: {value}");
            }
        }
        let refused = |code: &str| Some(code.to_owned());
        assert_eq!(checked("PutObject", "if-none-match", "*"), None);
        assert_eq!(
            checked("PutObject", "if-none-match", ""),
            refused("InvalidArgument")
        );
        assert_eq!(
            checked("DeleteObject", "if-none-match", "*"),
            refused("NotImplemented")
        );
        assert_eq!(checked("GetObject", "if-match", ""), None);
    }

    #[test]
    fn one_range_at_a_time() {
        let checked = |ranges: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for range in ranges {
                headers.append(RANGE, range.parse().unwrap());
            }
            let error = check_headers("GetObject", &headers).err()?;
            Some(error.code().as_str().to_owned())
        };
        for one in ["bytes=0-1", "bytes=5-", "bytes=-5", ""] {
            assert_eq!(checked(&[one]), None, "{one}");
        }
        let several = Some("NotImplemented".to_owned());
        assert_eq!(checked(&["bytes=0-1,4-5"]), several);
        assert_eq!(checked(&["bytes=0-1", "bytes=4-5"]), several);
        for none in ["bytes=5-2", "items=0-1", "bytes=x", "0-1"] {
            assert_eq!(checked(&[none]), Some("InvalidArgument".into()), "{none}");
        }
    }

    #[test]
    fn headers_are_not_ignored() {
        let refused = Some("NotImplemented".to_owned());
        for (name, value) in [
            ("x-amz-acl", "public-read"),
            ("x-amz-grant-read", "id=1"),
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-server-side-encryption-customer-key", "x"),
            ("x-amz-object-lock-mode", "GOVERNANCE"),
            ("x-amz-tagging", "a=b"),
            ("x-amz-website-redirect-location", "/"),
            ("x-amz-copy-source", "a/b"),
            ("if-unmodified-since", "x"),
        ] {
            assert_eq!(header(name, value), refused, "{name}");
        }
        assert_eq!(
            header("x-amz-storage-class", "GLACIER"),
            Some("InvalidStorageClass".into())
        );
        for (name, value) in [
            ("x-amz-acl", "private"),
            ("x-amz-storage-class", "STANDARD"),
            ("x-amz-meta-acl", "public-read"),
            ("x-amz-request-payer", "requester"),
        ] {
            assert_eq!(header(name, value), None, "{name}");
        }
    }
}
