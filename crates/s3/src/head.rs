//! HeadObject.

use s3s::dto::{self, HeadObjectInput, HeadObjectOutput};
use s3s::{S3Request, S3Response, S3Result};

use crate::algorithms::{put_sums, sums_of};
use crate::door::{Door, caller};
use crate::errors::from_objects;
use crate::get::{DEFAULT_CONTENT_TYPE, length_header};
use crate::view::{ReadInput, http_date, if_range, to_dto};

pub(crate) async fn head_object(
    door: &Door,
    req: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let caller = caller(&req)?;
    let input = req.input;
    let wanted = ReadInput {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
        range: input.range,
        part_number: input.part_number,
        version_id: input.version_id,
        if_range: if_range(&req.headers),
    };
    wanted.check()?;
    let handle = door.objects.get(&caller, &input.bucket, &input.key).await;
    let handle = handle.map_err(from_objects)?;
    let view = wanted.view(&handle).await?;
    let info = handle.info().clone();
    let with_checksum = input.checksum_mode.is_some();
    let mut sums = sums_of(view.checksum.as_ref().filter(|_| with_checksum), info.parts);
    let metadata = info.metadata;
    let content_type = metadata
        .content_type
        .unwrap_or_else(|| DEFAULT_CONTENT_TYPE.into());
    let mut output = HeadObjectOutput {
        checksum_type: sums.checksum_type.take(),
        parts_count: view.parts.map(i32::from),
        accept_ranges: Some("bytes".to_owned()),
        cache_control: input.response_cache_control.or(metadata.cache_control),
        content_disposition: input
            .response_content_disposition
            .or(metadata.content_disposition),
        content_encoding: input
            .response_content_encoding
            .or(metadata.content_encoding),
        content_language: input
            .response_content_language
            .or(metadata.content_language),
        content_length: Some(length_header(view.len())?),
        content_range: view.content_range,
        content_type: Some(input.response_content_type.unwrap_or(content_type)),
        e_tag: Some(dto::ETag::Strong(info.etag.as_str().to_owned())),
        expires: input.response_expires.map(http_date).or(metadata.expires),
        last_modified: Some(to_dto(info.modified)),
        metadata: (!metadata.user.is_empty()).then(|| metadata.user.into_iter().collect()),
        ..Default::default()
    };
    put_sums!(sums => output);
    // The front makes it 206 when there is a Content-Range.
    Ok(S3Response::new(output))
}
