//! DeleteObject.

use objects::{DeleteCondition, ETag};
use s3s::dto::{DeleteObjectInput, DeleteObjectOutput, ETagCondition};
use s3s::{S3Request, S3Response, S3Result};

use crate::door::{Door, caller};
use crate::errors::from_objects;
use crate::view::check_version;

pub(crate) async fn delete_object(
    door: &Door,
    req: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let caller = caller(&req)?;
    let input = req.input;
    check_version(input.version_id.as_deref())?;
    let condition = match &input.if_match {
        None => DeleteCondition::None,
        Some(ETagCondition::Any) => DeleteCondition::IfMatchAny,
        Some(ETagCondition::ETag(tag)) => DeleteCondition::IfMatch(ETag::new(tag.value())),
    };
    let deleted = door
        .objects
        .delete(&caller, &input.bucket, &input.key, condition);
    deleted.await.map_err(from_objects)?;
    Ok(S3Response::new(DeleteObjectOutput {
        version_id: input.version_id,
        ..Default::default()
    }))
}
