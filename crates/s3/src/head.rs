//! HeadObject.

use s3s::dto::{HeadObjectInput, HeadObjectOutput};
use s3s::{S3Request, S3Response, S3Result};

use crate::door::{Door, caller};
use crate::errors::from_objects;
use crate::read_head::{self, overrides};
use crate::view::{ReadInput, if_range};

pub(crate) async fn head_object(
    door: &Door,
    req: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let caller = caller(&req)?;
    let mut input = req.input;
    let overrides = overrides!(input);
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
    let with_checksum = input.checksum_mode.is_some();
    let headers = read_head::headers(handle.info(), &view, &overrides, with_checksum)?;
    // The front makes it 206 when there is a Content-Range.
    Ok(S3Response::with_headers(
        HeadObjectOutput::default(),
        headers,
    ))
}
