//! PutObject.

use std::pin::Pin;

use bytes::Bytes;
use futures_core::Stream;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};
use objects::{ETag, PartWriter, PutCondition, PutOutcome, PutRequest, PutWriter};
use s3s::dto::{self, ETagCondition, PutObjectInput, PutObjectOutput, StreamingBlob};
use s3s::{S3Error, S3Request, S3Response, S3Result, TrailingHeaders, s3_error};

use crate::algorithms::{DEFAULT_ALGORITHM, put_sums, sums_of};
use crate::checksums::Declared;
use crate::context::RequestContext;
use crate::digest::DigestLane;
use crate::door::{Door, caller, context};
use crate::errors::{from_lane, from_objects, from_overload, from_stream};
use crate::framing::is_streaming_payload;
use crate::limits::{
    DIGEST_BATCH_BYTES, GATHER_BYTES, INLINE_DIGEST_BYTES_MAX, PUT_BYTES_MAX,
    SIGNED_CHUNK_BYTES_MAX, STRIPE_BYTES_MAX,
};
use crate::query_headers::{METADATA, in_query};

/// Says which failure domains hold the object on stable storage.
const DURABLE_HEADER: &str = "x-cullet-durable";

pub(crate) async fn put_object(
    door: &Door,
    mut req: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let hoisted = in_query("PutObject", &req.uri, &req.headers)?;
    let mut headers = req.headers.clone();
    headers.extend(hoisted.clone());
    let declared = Declared::from_headers(&headers)?;
    let length = content_length(req.input.content_length)?;
    let request = PutRequest {
        account: caller(&req)?,
        condition: condition(
            req.input.if_match.as_ref(),
            req.input.if_none_match.as_ref(),
        )?,
        content_length: Some(length),
        metadata: take_metadata!(req.input, &hoisted),
        bucket: std::mem::take(&mut req.input.bucket),
        key: std::mem::take(&mut req.input.key),
    };
    let upload = Upload {
        window_bytes: window_bytes(length, &req.headers),
        request,
        declared,
        body: req.input.body.take(),
        trailers: req.trailing_headers.clone(),
    };
    Ok(answer(upload.store(door, &*context(&req)?).await?))
}

/// An object that comes in one piece.
pub(crate) struct Upload {
    pub(crate) request: PutRequest,
    pub(crate) declared: Declared,
    pub(crate) body: Option<StreamingBlob>,
    pub(crate) trailers: Option<TrailingHeaders>,
    pub(crate) window_bytes: usize,
}

impl Upload {
    /// Reserves memory, takes the body, verifies it, and commits the object.
    pub(crate) async fn store(self, door: &Door, context: &RequestContext) -> S3Result<PutOutcome> {
        let budget = door.budgets.for_write(self.window_bytes);
        let reserved = budget.reserve(self.window_bytes).await;
        context.hold(reserved.map_err(from_overload)?);
        // What a form held until here is in that.
        context.release_document();
        let length = self.request.content_length.unwrap_or(u64::MAX);
        let writer = door.objects.begin_put(self.request).await;
        let mut writer = writer.map_err(from_objects)?;
        let kept = self.declared.algorithm().unwrap_or(DEFAULT_ALGORITHM);
        let digests = self.declared.digests_and(Some(kept));
        let mut lane = DigestLane::new(digests, length <= INLINE_DIGEST_BYTES_MAX);
        if let Some(body) = self.body {
            copy(body, &mut lane, &mut writer).await?;
        }
        let finished = lane.finish().await.map_err(from_lane)?;
        self.declared.verify(&finished, self.trailers.as_ref())?;
        writer
            .finish(ETag::from_md5(finished.md5), finished.checksum(kept))
            .await
            .map_err(from_objects)
    }
}

/// What takes a body: an object's, or a part's.
pub(crate) trait BodySink: Send {
    /// Appends to the body.
    fn write(&mut self, piece: Bytes) -> impl Future<Output = objects::Result<()>> + Send;
}

impl BodySink for PutWriter {
    fn write(&mut self, piece: Bytes) -> impl Future<Output = objects::Result<()>> + Send {
        PutWriter::write(self, piece)
    }
}

impl BodySink for PartWriter {
    fn write(&mut self, piece: Bytes) -> impl Future<Output = objects::Result<()>> + Send {
        PartWriter::write(self, piece)
    }
}

/// Hands the body on, piece by piece, at the pace of the disks.
pub(crate) async fn copy(
    mut body: StreamingBlob,
    lane: &mut DigestLane,
    writer: &mut impl BodySink,
) -> S3Result<()> {
    while let Some(piece) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
        let piece = piece.map_err(|error| from_stream(error.as_ref()))?;
        lane.feed(piece.clone()).await.map_err(from_lane)?;
        writer.write(piece).await.map_err(from_objects)?;
    }
    Ok(())
}

/// The body's length, as it was signed or framed.
pub(crate) fn content_length(length: Option<i64>) -> S3Result<u64> {
    let Some(length) = length else {
        let message = "You must provide the Content-Length HTTP header.";
        return Err(s3_error!(MissingContentLength, "{message}"));
    };
    match u64::try_from(length) {
        Ok(length) if length <= PUT_BYTES_MAX => Ok(length),
        Ok(_) => Err(s3_error!(EntityTooLarge)),
        Err(_) => Err(s3_error!(
            InvalidArgument,
            "The length of the body is negative."
        )),
    }
}

/// The memory that this put needs.
pub(crate) fn window_bytes(length: u64, headers: &HeaderMap) -> usize {
    let hashed_beside = length > INLINE_DIGEST_BYTES_MAX;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let digests = match hashed_beside {
        true => length.min(2 * DIGEST_BATCH_BYTES),
        false => 0,
    };
    // `s3s` holds a chunk with a signature until its end, also where none has to have one, and
    // before it is compared with the length that was said.
    let chunk = match is_streaming_payload(headers) {
        true => framed_length(headers).min(SIGNED_CHUNK_BYTES_MAX),
        false => 0,
    };
    length.min(STRIPE_BYTES_MAX) + length.min(GATHER_BYTES) + digests + chunk
}

/// How many bytes may come, whatever they mean.
fn framed_length(headers: &HeaderMap) -> usize {
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    length
        .and_then(|length| length.parse().ok())
        .unwrap_or(usize::MAX)
}

pub(crate) fn condition(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<PutCondition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(PutCondition::None),
        (None, Some(ETagCondition::Any)) => Ok(PutCondition::IfNoneMatchAny),
        (Some(ETagCondition::ETag(tag)), None) => Ok(PutCondition::IfMatch(ETag::new(tag.value()))),
        (_, Some(ETagCondition::ETag(_))) => Err(condition_not_there("If-None-Match with a tag")),
        (Some(ETagCondition::Any), _) => Err(condition_not_there("If-Match: *")),
        (Some(_), Some(_)) => Err(condition_not_there("If-Match together with If-None-Match")),
    }
}

fn condition_not_there(what: &str) -> S3Error {
    s3_error!(
        NotImplemented,
        "A header you provided implies functionality that is not implemented: {what}"
    )
}

/// Takes what is stored beside a body out of the input of an operation that stores it; each has
/// a type of its own with the same fields. `hoisted`: headers that a presigner moved into the
/// query.
macro_rules! take_metadata {
    ($input:expr, $hoisted:expr) => {
        objects::Metadata {
            content_type: $input.content_type.take(),
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input
                .content_encoding
                .take()
                .and_then(|value| $crate::put::stored_encoding(&value)),
            content_language: $input.content_language.take(),
            expires: $input.expires.take(),
            user: $crate::put::user_metadata($input.metadata.take(), $hoisted),
        }
    };
}

pub(crate) use take_metadata;

pub(crate) fn user_metadata(
    metadata: Option<dto::Metadata>,
    hoisted: &HeaderMap,
) -> Vec<(String, String)> {
    let mut user: Vec<(String, String)> = metadata.unwrap_or_default().into_iter().collect();
    for (name, value) in hoisted {
        if let Some(name) = name.as_str().strip_prefix(METADATA) {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            user.push((name.to_owned(), value));
        }
    }
    user.sort();
    user
}

/// `aws-chunked` describes the transfer, not the object.
pub(crate) fn stored_encoding(value: &str) -> Option<String> {
    let kept: Vec<&str> = value
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

fn answer(outcome: PutOutcome) -> S3Response<PutObjectOutput> {
    let mut sums = sums_of(outcome.checksum.as_ref(), None);
    let mut output = PutObjectOutput {
        e_tag: Some(dto::ETag::Strong(outcome.etag.as_str().to_owned())),
        checksum_type: sums.checksum_type.take(),
        ..Default::default()
    };
    put_sums!(sums => output);
    S3Response::with_headers(output, durable(&outcome.durable))
}

/// The header that says where the object is.
pub(crate) fn durable(scheme: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(scheme) {
        headers.insert(DURABLE_HEADER, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{PUT_WINDOW_BYTES, SMALL_REQUEST_BYTES_MAX};

    #[test]
    fn the_transfer_encoding_is_not_stored() {
        assert_eq!(stored_encoding("aws-chunked"), None);
        assert_eq!(stored_encoding("aws-chunked,gzip").as_deref(), Some("gzip"));
        assert_eq!(
            stored_encoding("gzip, AWS-CHUNKED").as_deref(),
            Some("gzip")
        );
        assert_eq!(stored_encoding("br, gzip").as_deref(), Some("br,gzip"));
    }

    #[test]
    fn memory_for_bodies() {
        let mut headers = HeaderMap::new();
        assert_eq!(window_bytes(0, &headers), 0);
        assert_eq!(window_bytes(100, &headers), 200);
        assert!(window_bytes(INLINE_DIGEST_BYTES_MAX, &headers) <= SMALL_REQUEST_BYTES_MAX);
        assert_eq!(window_bytes(PUT_BYTES_MAX, &headers), PUT_WINDOW_BYTES);
        // A chunk may be signed although the header says that none is.
        let unsigned = HeaderValue::from_static("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        headers.insert("x-amz-content-sha256", unsigned);
        let streamed = PUT_WINDOW_BYTES + SIGNED_CHUNK_BYTES_MAX;
        assert_eq!(window_bytes(PUT_BYTES_MAX, &headers), streamed);
        // What a client says of the length it may not keep to.
        assert_eq!(window_bytes(1, &headers), 2 + SIGNED_CHUNK_BYTES_MAX);
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("1000"));
        assert_eq!(window_bytes(1, &headers), 2 + 1000);
    }

    #[test]
    fn conditions_that_s3_has() {
        let parse = |if_match: Option<&str>, if_none_match: Option<&str>| {
            let parse = |text: &str| text.parse::<ETagCondition>().unwrap();
            let (if_match, if_none_match) = (if_match.map(parse), if_none_match.map(parse));
            condition(if_match.as_ref(), if_none_match.as_ref())
                .map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(parse(None, None), Ok(PutCondition::None));
        assert_eq!(parse(None, Some("*")), Ok(PutCondition::IfNoneMatchAny));
        assert_eq!(
            parse(Some("\"a\""), None),
            Ok(PutCondition::IfMatch(ETag::new("a")))
        );
        let refused = Err("NotImplemented".to_owned());
        assert_eq!(parse(None, Some("\"a\"")), refused);
        assert_eq!(parse(Some("*"), None), refused);
        assert_eq!(parse(Some("\"a\""), Some("*")), refused);
    }
}
