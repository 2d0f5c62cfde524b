//! CopyObject and UploadPartCopy: bodies that come from another object of this server.
//!
//! A copy reads its source as a GET does and writes as a PUT does, so that it has no body that
//! another object shares. Only an object that is copied onto itself keeps its body: then
//! nothing but what is stored beside it changes.

use std::ops::Range;

use http::HeaderMap;
use objects::{
    AccountId, Checksum, ChecksumAlgorithm, ChecksumKind, ETag, Error, Metadata, ObjectHandle,
    ObjectInfo, PartRequest, PutCondition, PutOutcome, PutRequest, RewriteRequest, UploadRef,
};
use s3s::dto::{
    self, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource,
    UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::algorithms::{DEFAULT_ALGORITHM, by_name, put_sums, sums_of};
use crate::conditions::{ReadConditions, Verdict};
use crate::context::RequestContext;
use crate::digest::DigestLane;
use crate::door::{Door, caller, context};
use crate::errors::{from_lane, from_objects, from_overload};
use crate::limits::{GET_WINDOW_BYTES, INLINE_DIGEST_BYTES_MAX, PUT_BYTES_MAX};
use crate::put::{BodySink, condition, durable, take_metadata, window_bytes};
use crate::upload_part::{begin, kept_algorithm};
use crate::view::{check_version, seconds, to_dto, to_seconds};

/// How often a copy onto itself looks again at an object that changes meanwhile.
const TRIES: usize = 8;

/// The object that is copied.
struct Source {
    bucket: String,
    key: String,
    conditions: ReadConditions,
}

impl Source {
    /// `owner`: whose the source's bucket must be, if the client says so. It can only be the
    /// caller's, because no other bucket can be read.
    fn new(
        source: &CopySource,
        conditions: ReadConditions,
        owner: Option<&str>,
        account: AccountId,
    ) -> S3Result<Source> {
        if owner.is_some_and(|owner| owner != account.to_string()) {
            let message = "The bucket of the source has another owner than expected.";
            return Err(s3_error!(AccessDenied, "{message}"));
        }
        let CopySource::Bucket {
            bucket,
            key,
            version_id,
        } = source
        else {
            let message = "Copies from access points and outposts are not there.";
            return Err(s3_error!(NotImplemented, "{message}"));
        };
        check_version(version_id.as_deref())?;
        Ok(Source {
            bucket: bucket.to_string(),
            key: key.to_string(),
            conditions,
        })
    }

    /// Opens it, if its conditions hold.
    async fn open(&self, door: &Door, account: &AccountId) -> S3Result<ObjectHandle> {
        let handle = door.objects.get(account, &self.bucket, &self.key).await;
        let handle = handle.map_err(from_objects)?;
        let info = handle.info();
        let verdict = self
            .conditions
            .evaluate(info.etag.as_str(), to_seconds(info.modified));
        match verdict {
            Verdict::Proceed => Ok(handle),
            Verdict::NotModified | Verdict::Failed(_) => Err(s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold"
            )),
        }
    }
}

/// Memory for reading and writing so many bytes at a time.
async fn reserve(door: &Door, context: &RequestContext, bytes: u64) -> S3Result<()> {
    // Always in this order, so that copies do not wait for each other in a circle.
    let writing = window_bytes(bytes, &HeaderMap::new());
    let reading = usize::try_from(bytes)
        .unwrap_or(usize::MAX)
        .min(GET_WINDOW_BYTES);
    for (budget, window) in [
        (door.budgets.for_write(writing), writing),
        (door.budgets.for_read(reading), reading),
    ] {
        context.hold(budget.reserve(window).await.map_err(from_overload)?);
    }
    Ok(())
}

/// Whether what was reserved is enough for what the source is by now.
fn check_reserved(bytes: u64, reserved: u64) -> S3Result<()> {
    if bytes > reserved {
        return Err(s3_error!(
            SlowDown,
            "The source was overwritten by a larger object before it could be copied."
        ));
    }
    Ok(())
}

/// Hands a range of an object on to a writer and, unless it is not needed, to a lane.
async fn transfer(
    handle: ObjectHandle,
    range: Range<u64>,
    mut lane: Option<&mut DigestLane>,
    writer: &mut impl BodySink,
) -> S3Result<()> {
    let mut reader = handle.read(range);
    while let Some(piece) = reader.next().await {
        let piece = piece.map_err(from_objects)?;
        if let Some(lane) = &mut lane {
            lane.feed(piece.clone()).await.map_err(from_lane)?;
        }
        writer.write(piece).await.map_err(from_objects)?;
    }
    Ok(())
}

pub(crate) async fn copy_object(
    door: &Door,
    mut req: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let (context, account) = (context(&req)?, caller(&req)?);
    let input = &mut req.input;
    let conditions = ReadConditions {
        if_match: input.copy_source_if_match.take(),
        if_none_match: input.copy_source_if_none_match.take(),
        if_modified_since: input.copy_source_if_modified_since.take().map(seconds),
        if_unmodified_since: input.copy_source_if_unmodified_since.take().map(seconds),
    };
    let owner = input.expected_source_bucket_owner.as_deref();
    let source = Source::new(&input.copy_source, conditions, owner, account)?;
    let replaces = match input.metadata_directive.as_ref().map(|d| d.as_str()) {
        None | Some("COPY") => false,
        Some("REPLACE") => true,
        Some(_) => {
            let message = "Unknown metadata directive.";
            return Err(s3_error!(InvalidArgument, "{message}"));
        }
    };
    let onto_itself = source.bucket == input.bucket && source.key == input.key;
    if onto_itself && !replaces && input.checksum_algorithm.is_none() {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself \
             without changing the object's metadata, storage class, website redirect location or \
             encryption attributes."
        ));
    }
    let mut copy = Copy {
        account,
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        metadata: replaces.then(|| take_metadata!(input, &HeaderMap::new())),
        condition: condition(input.if_match.as_ref(), input.if_none_match.as_ref())?,
        algorithm: algorithm(input.checksum_algorithm.as_ref())?,
    };
    for _ in 0..TRIES {
        let handle = source.open(door, &account).await?;
        let size = handle.info().size;
        if size > PUT_BYTES_MAX {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is larger than the maximum allowable size for a copy \
                 source: {PUT_BYTES_MAX}"
            ));
        }
        if onto_itself && copy.keeps_sum(handle.info()) {
            match copy.rewrite(door, handle.info()).await {
                // Another version came between: look again.
                Err(Error::SlowDown(_)) => continue,
                outcome => return Ok(answer(outcome.map_err(from_objects)?)),
            }
        }
        // Nothing of the disk is held while memory is waited for: what a small object lies in
        // could not be reclaimed meanwhile.
        drop(handle);
        reserve(door, &context, size).await?;
        let handle = source.open(door, &account).await?;
        check_reserved(handle.info().size, size)?;
        return Ok(answer(copy.write(door, handle).await?));
    }
    Err(s3_error!(
        SlowDown,
        "The object is overwritten faster than it can be copied onto itself."
    ))
}

fn algorithm(asked: Option<&dto::ChecksumAlgorithm>) -> S3Result<Option<ChecksumAlgorithm>> {
    let Some(asked) = asked else {
        return Ok(None);
    };
    match by_name(asked.as_str()) {
        Some(algorithm) => Ok(Some(algorithm)),
        None => Err(s3_error!(
            InvalidRequest,
            "x-amz-checksum-algorithm names no checksum of S3"
        )),
    }
}

/// What a copy is to become.
struct Copy {
    account: AccountId,
    bucket: String,
    key: String,
    /// `None`: the source's.
    metadata: Option<Metadata>,
    condition: PutCondition,
    /// The checksum that is asked for.
    algorithm: Option<ChecksumAlgorithm>,
}

impl Copy {
    /// The source's checksum, if it can be the copy's, which is an object in one piece.
    fn kept_sum(&self, source: &ObjectInfo) -> Option<Checksum> {
        let sum = source.checksum.clone()?;
        let wanted = self
            .algorithm
            .is_none_or(|algorithm| algorithm == sum.algorithm);
        (wanted && sum.kind == ChecksumKind::FullObject).then_some(sum)
    }

    /// Whether an object that is copied onto itself keeps its checksum.
    fn keeps_sum(&self, source: &ObjectInfo) -> bool {
        let sum = source.checksum.as_ref();
        self.algorithm
            .is_none_or(|algorithm| sum.is_some_and(|sum| sum.algorithm == algorithm))
    }

    fn take_metadata(&mut self, source: &ObjectInfo) -> Metadata {
        self.metadata
            .take()
            .unwrap_or_else(|| source.metadata.clone())
    }

    async fn rewrite(&self, door: &Door, source: &ObjectInfo) -> objects::Result<PutOutcome> {
        let request = RewriteRequest {
            account: self.account,
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            metadata: self
                .metadata
                .clone()
                .unwrap_or_else(|| source.metadata.clone()),
            version: source.version,
            condition: self.condition.clone(),
        };
        door.objects.rewrite(request).await
    }

    async fn write(&mut self, door: &Door, handle: ObjectHandle) -> S3Result<PutOutcome> {
        let info = handle.info().clone();
        let request = PutRequest {
            account: self.account,
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            metadata: self.take_metadata(&info),
            condition: self.condition.clone(),
            content_length: Some(info.size),
        };
        let writer = door.objects.begin_put(request).await;
        let mut writer = writer.map_err(from_objects)?;
        let kept_sum = self.kept_sum(&info);
        let whole = 0..info.size;
        // The tag of an object in one piece is the MD5 that its copy has as well.
        let (etag, checksum) = match (info.etag.md5(), kept_sum) {
            (Some(_), Some(sum)) => {
                transfer(handle, whole, None, &mut writer).await?;
                (info.etag, Some(sum))
            }
            _ => {
                let sum = info.checksum.as_ref().map(|sum| sum.algorithm);
                let algorithm = self.algorithm.or(sum).unwrap_or(DEFAULT_ALGORITHM);
                let mut lane = new_lane(algorithm, info.size);
                transfer(handle, whole, Some(&mut lane), &mut writer).await?;
                let finished = lane.finish().await.map_err(from_lane)?;
                (ETag::from_md5(finished.md5), finished.checksum(algorithm))
            }
        };
        writer.finish(etag, checksum).await.map_err(from_objects)
    }
}

/// Hashes for a tag and one checksum.
fn new_lane(algorithm: ChecksumAlgorithm, bytes: u64) -> DigestLane {
    let digests = crate::checksums::Declared::default().digests_and(Some(algorithm));
    DigestLane::new(digests, bytes <= INLINE_DIGEST_BYTES_MAX)
}

fn answer(outcome: PutOutcome) -> S3Response<CopyObjectOutput> {
    let mut sums = sums_of(outcome.checksum.as_ref(), None);
    let mut result = CopyObjectResult {
        e_tag: Some(dto::ETag::Strong(outcome.etag.as_str().to_owned())),
        last_modified: Some(to_dto(outcome.modified)),
        checksum_type: sums.checksum_type.take(),
        ..Default::default()
    };
    put_sums!(sums => result);
    let output = CopyObjectOutput {
        copy_object_result: Some(result),
        ..Default::default()
    };
    S3Response::with_headers(output, durable(&outcome.durable))
}

pub(crate) async fn upload_part_copy(
    door: &Door,
    req: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let (context, account) = (context(&req)?, caller(&req)?);
    let input = req.input;
    let conditions = ReadConditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since.map(seconds),
        if_unmodified_since: input.copy_source_if_unmodified_since.map(seconds),
    };
    let owner = input.expected_source_bucket_owner.as_deref();
    let source = Source::new(&input.copy_source, conditions, owner, account)?;
    let handle = source.open(door, &account).await?;
    let range = copy_range(input.copy_source_range.as_deref(), handle.info().size)?;
    let bytes = range.end - range.start;
    if bytes > PUT_BYTES_MAX {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy \
             source: {PUT_BYTES_MAX}"
        ));
    }
    // As in a copy of an object.
    drop(handle);
    reserve(door, &context, bytes).await?;
    let handle = source.open(door, &account).await?;
    let range = copy_range(input.copy_source_range.as_deref(), handle.info().size)?;
    check_reserved(range.end - range.start, bytes)?;
    let request = PartRequest {
        upload: UploadRef {
            account,
            bucket: input.bucket,
            key: input.key,
            upload: input.upload_id,
        },
        number: input.part_number.into(),
        content_length: Some(bytes),
    };
    let mut writer = begin(door, request).await?;
    let kept = kept_algorithm(writer.upload());
    let mut lane = new_lane(kept, bytes);
    transfer(handle, range, Some(&mut lane), &mut writer).await?;
    let finished = lane.finish().await.map_err(from_lane)?;
    let outcome = writer
        .finish(ETag::from_md5(finished.md5), finished.checksum(kept), None)
        .await
        .map_err(from_objects)?;
    let mut result = CopyPartResult {
        e_tag: Some(dto::ETag::Strong(outcome.part.etag.as_str().to_owned())),
        last_modified: Some(to_dto(outcome.part.modified)),
        ..Default::default()
    };
    put_sums!(sums_of(outcome.part.checksum.as_ref(), None) => result);
    let output = UploadPartCopyOutput {
        copy_part_result: Some(result),
        ..Default::default()
    };
    Ok(S3Response::with_headers(output, durable(&outcome.durable)))
}

/// `bytes=FIRST-LAST`, both of which the source must have; all of it without the header.
fn copy_range(header: Option<&str>, size: u64) -> S3Result<Range<u64>> {
    let Some(header) = header else {
        return Ok(0..size);
    };
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    let parsed = header
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .and_then(|(first, last)| Some((number(first)?, number(last)?)));
    match parsed {
        Some((first, last)) if first <= last && last < size => Ok(first..last + 1),
        Some((first, last)) if first <= last => Err(s3_error!(
            InvalidArgument,
            "Range specified is not valid for source object of size: {size}"
        )),
        _ => Err(s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first \
             and last are the zero-based offsets of the first and last bytes to copy"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_source() {
        let parse = |text| copy_range(text, 10).map_err(|error| error.code().as_str().to_owned());
        assert_eq!(parse(None), Ok(0..10));
        assert_eq!(parse(Some("bytes=0-9")), Ok(0..10));
        assert_eq!(parse(Some("bytes=3-3")), Ok(3..4));
        for bad in [
            "bytes=0-10",
            "bytes=5-4",
            "bytes=-5",
            "bytes=5-",
            "0-5",
            "bytes=+1-2",
            "",
        ] {
            assert_eq!(parse(Some(bad)), Err("InvalidArgument".to_owned()), "{bad}");
        }
    }
}
