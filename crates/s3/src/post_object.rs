//! PostObject: uploads by HTML form, under a policy that its maker signed.
//!
//! `s3s` verifies the signature, and that the form is what the policy allows, before the file is
//! read. What a form asks for beside that stands in its fields, where the gate does not look.

use http::header::{ETAG, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue};
use objects::{PutCondition, PutRequest};
use s3s::dto::{self, PostObjectInput, PostObjectOutput};
use s3s::stream::ByteStream;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::checksums::Declared;
use crate::door::{Door, caller, context};
use crate::limits::FORM_FIELDS_BYTES;
use crate::names::url_encode;
use crate::put::{Upload, content_length, durable, take_metadata, window_bytes};
use crate::unsupported::check_headers;

pub(crate) async fn post_object(
    door: &Door,
    mut req: S3Request<PostObjectInput>,
) -> S3Result<S3Response<PostObjectOutput>> {
    let (context, account) = (context(&req)?, caller(&req)?);
    context.let_form_in();
    let input = &mut req.input;
    let redirect = input.success_action_redirect.take();
    let fields = fields(input)?;
    check_headers("PutObject", &fields)?;
    let declared = Declared::from_headers(&fields)?;
    let body = input.body.take();
    let length = body
        .as_ref()
        .and_then(|body| body.remaining_length().exact());
    let length = content_length(length.and_then(|length| i64::try_from(length).ok()))?;
    let upload = Upload {
        request: PutRequest {
            account,
            condition: PutCondition::None,
            content_length: Some(length),
            metadata: take_metadata!(input, &HeaderMap::new()),
            bucket: std::mem::take(&mut input.bucket),
            key: std::mem::take(&mut input.key),
        },
        declared,
        body,
        trailers: None,
        // Here, so that forms that nobody let in yet do not wait for files.
        window_bytes: FORM_FIELDS_BYTES + window_bytes(length, &HeaderMap::new()),
    };
    let location = format!(
        "/{}/{}",
        upload.request.bucket,
        url_encode(&upload.request.key)
    );
    let outcome = upload.store(door, &context).await?;
    let output = PostObjectOutput {
        e_tag: Some(dto::ETag::Strong(outcome.etag.as_str().to_owned())),
        ..Default::default()
    };
    // An answer without a document says these in headers.
    let mut headers = durable(&outcome.durable);
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", outcome.etag)) {
        headers.insert(ETAG, etag);
    }
    if let (None, Ok(location)) = (&redirect, HeaderValue::from_str(&location)) {
        headers.insert(LOCATION, location);
    }
    Ok(S3Response::with_headers(output, headers))
}

/// The fields that ask for something, as the headers that they stand for.
fn fields(input: &mut PostObjectInput) -> S3Result<HeaderMap> {
    let text = [
        ("content-md5", input.content_md5.take()),
        (
            "x-amz-acl",
            input.acl.take().map(|value| value.as_str().to_owned()),
        ),
        ("x-amz-checksum-crc32", input.checksum_crc32.take()),
        ("x-amz-checksum-crc32c", input.checksum_crc32c.take()),
        ("x-amz-checksum-crc64nvme", input.checksum_crc64nvme.take()),
        ("x-amz-checksum-sha1", input.checksum_sha1.take()),
        ("x-amz-checksum-sha256", input.checksum_sha256.take()),
        ("x-amz-grant-full-control", input.grant_full_control.take()),
        ("x-amz-grant-read", input.grant_read.take()),
        ("x-amz-grant-read-acp", input.grant_read_acp.take()),
        ("x-amz-grant-write-acp", input.grant_write_acp.take()),
        (
            "x-amz-object-lock-legal-hold",
            input
                .object_lock_legal_hold_status
                .take()
                .map(|value| value.as_str().to_owned()),
        ),
        (
            "x-amz-object-lock-mode",
            input
                .object_lock_mode
                .take()
                .map(|value| value.as_str().to_owned()),
        ),
        (
            "x-amz-server-side-encryption",
            input
                .server_side_encryption
                .take()
                .map(|value| value.as_str().to_owned()),
        ),
        (
            "x-amz-server-side-encryption-aws-kms-key-id",
            input.ssekms_key_id.take(),
        ),
        (
            "x-amz-server-side-encryption-customer-algorithm",
            input.sse_customer_algorithm.take(),
        ),
        (
            "x-amz-storage-class",
            input
                .storage_class
                .take()
                .map(|value| value.as_str().to_owned()),
        ),
        ("x-amz-tagging", input.tagging.take()),
        (
            "x-amz-website-redirect-location",
            input.website_redirect_location.take(),
        ),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in text {
        let Some(value) = value else {
            continue;
        };
        let value = HeaderValue::from_str(&value);
        let value =
            value.map_err(|_| s3_error!(InvalidArgument, "The field {name} is no text."))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}
