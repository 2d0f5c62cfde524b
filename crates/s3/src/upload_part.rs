//! UploadPart.

use objects::{Checksum, ETag, PartOutcome, PartRequest, PartWriter, UploadInfo, UploadRef};
use s3s::dto::{self, UploadPartInput, UploadPartOutput};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::algorithms::{DEFAULT_ALGORITHM, name_of, put_sums, sums_of};
use crate::checksums::Declared;
use crate::digest::DigestLane;
use crate::door::{Door, caller, context};
use crate::errors::{from_lane, from_objects, from_overload};
use crate::limits::INLINE_DIGEST_BYTES_MAX;
use crate::put::{content_length, copy, durable, window_bytes};

pub(crate) async fn upload_part(
    door: &Door,
    mut req: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let declared = Declared::from_headers(&req.headers)?;
    let length = content_length(req.input.content_length)?;
    let body = req.input.body.take();

    let window = window_bytes(length, &req.headers);
    let budget = door.budgets.for_write(window);
    context(&req)?.hold(budget.reserve(window).await.map_err(from_overload)?);

    let request = PartRequest {
        upload: UploadRef {
            account: caller(&req)?,
            bucket: req.input.bucket,
            key: req.input.key,
            upload: req.input.upload_id,
        },
        number: req.input.part_number.into(),
        content_length: Some(length),
    };
    let mut writer = begin(door, request).await?;
    let kept = kept_algorithm(writer.upload());
    check_algorithm(&declared, writer.upload())?;
    let digests = declared.digests_and(Some(kept));
    let mut lane = DigestLane::new(digests, length <= INLINE_DIGEST_BYTES_MAX);
    if let Some(body) = body {
        copy(body, &mut lane, &mut writer).await?;
    }
    let finished = lane.finish().await.map_err(from_lane)?;
    declared.verify(&finished, req.trailing_headers.as_ref())?;
    // What the upload was begun with; else what the client knows, which may be nothing.
    let shown = match writer.upload().checksum {
        Some(_) => Some(kept),
        None => declared.algorithm(),
    };
    let shown = shown.and_then(|algorithm| finished.checksum(algorithm));
    let sent = declared.algorithm().filter(|sent| *sent != kept);
    let sent = sent.and_then(|algorithm| finished.checksum(algorithm));
    let outcome = writer
        .finish(ETag::from_md5(finished.md5), finished.checksum(kept), sent)
        .await
        .map_err(from_objects)?;
    Ok(answer(outcome, shown.as_ref()))
}

pub(crate) async fn begin(door: &Door, request: PartRequest) -> S3Result<PartWriter> {
    let writer = door.objects.begin_part(request).await;
    writer.map_err(from_objects)
}

/// The checksum that is kept of each part, so that the object's can be made of them.
pub(crate) fn kept_algorithm(upload: &UploadInfo) -> objects::ChecksumAlgorithm {
    upload
        .checksum
        .map_or(DEFAULT_ALGORITHM, |(algorithm, _)| algorithm)
}

/// An upload that was begun with an algorithm has parts with that one.
fn check_algorithm(declared: &Declared, upload: &UploadInfo) -> S3Result<()> {
    match (declared.algorithm(), upload.checksum) {
        (Some(sent), Some((wanted, _))) if sent != wanted => Err(s3_error!(
            InvalidRequest,
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            name_of(wanted).to_lowercase(),
            name_of(sent).to_lowercase()
        )),
        _ => Ok(()),
    }
}

fn answer(outcome: PartOutcome, checksum: Option<&Checksum>) -> S3Response<UploadPartOutput> {
    let mut output = UploadPartOutput {
        e_tag: Some(dto::ETag::Strong(outcome.part.etag.as_str().to_owned())),
        ..Default::default()
    };
    put_sums!(sums_of(checksum, None) => output);
    S3Response::with_headers(output, durable(&outcome.durable))
}
