//! Buckets: create, head, list, delete, location.

use objects::limits::SCAN_BYTES_MAX;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::door::{Door, caller, context};
use crate::errors::{from_objects, from_overload};
use crate::limits::{LIST_BUCKET_BYTES, PAGE_ENTRIES_MAX};
use crate::names::{from_token, to_token};
use crate::view::to_dto;

/// The region whose buckets have no location constraint, for historical reasons.
const CLASSIC_REGION: &str = "us-east-1";

pub(crate) async fn create(
    door: &Door,
    req: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    if let Some(configuration) = &req.input.create_bucket_configuration {
        check_configuration(door, configuration)?;
    }
    let bucket = &req.input.bucket;
    door.objects
        .create_bucket(&caller(&req)?, bucket)
        .await
        .map_err(from_objects)?;
    let location = Some(format!("/{bucket}"));
    Ok(S3Response::new(CreateBucketOutput {
        location,
        ..Default::default()
    }))
}

fn check_configuration(door: &Door, configuration: &CreateBucketConfiguration) -> S3Result<()> {
    if configuration.bucket.is_some() || configuration.location.is_some() {
        return Err(s3_error!(
            NotImplemented,
            "Directory buckets are not there."
        ));
    }
    if configuration
        .tags
        .as_ref()
        .is_some_and(|tags| !tags.is_empty())
    {
        return Err(s3_error!(
            NotImplemented,
            "Tags of buckets are not there yet."
        ));
    }
    match configuration
        .location_constraint
        .as_ref()
        .map(BucketLocationConstraint::as_str)
    {
        None | Some("") => Ok(()),
        Some(region) if region == door.region => Ok(()),
        Some(region) => Err(s3_error!(
            IllegalLocationConstraintException,
            "The {} location constraint is incompatible for the region of this server, {}.",
            crate::names::for_xml(region),
            door.region
        )),
    }
}

pub(crate) async fn head(
    door: &Door,
    req: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    let bucket = &req.input.bucket;
    let info = door
        .objects
        .head_bucket(&caller(&req)?, bucket)
        .await
        .map_err(from_objects)?;
    let bucket_region = Some(info.region);
    Ok(S3Response::new(HeadBucketOutput {
        bucket_region,
        ..Default::default()
    }))
}

pub(crate) async fn list(
    door: &Door,
    req: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let (context, caller) = (context(&req)?, caller(&req)?);
    let input = req.input;
    let max = match input.max_buckets {
        None => usize::MAX,
        Some(max @ 1..=10_000) => usize::try_from(max).unwrap_or(usize::MAX),
        Some(_) => {
            return Err(s3_error!(
                InvalidArgument,
                "max-buckets must be 1 to 10000."
            ));
        }
    };
    let after = match input.continuation_token.as_deref().map(from_token) {
        None => None,
        Some(Some(after)) => Some(after),
        Some(None) => return Err(crate::list::bad_token()),
    };
    let prefix = input.prefix.as_deref().unwrap_or("");
    let region = input.bucket_region.as_deref();
    let (mut infos, mut after, mut more) = (Vec::new(), after, true);
    while more && infos.len() < max {
        // A page at a time, so that few buckets need little memory.
        let wanted = (max - infos.len()).min(PAGE_ENTRIES_MAX);
        let bytes = SCAN_BYTES_MAX + wanted * LIST_BUCKET_BYTES;
        let budget = door.budgets.for_listing();
        context.hold(budget.reserve(bytes).await.map_err(from_overload)?);
        let page = door
            .objects
            .list_buckets(&caller, prefix, after.as_deref(), wanted)
            .await
            .map_err(from_objects)?;
        more = page.more;
        after = page.buckets.last().map(|last| last.name.clone());
        let buckets = page.buckets.into_iter();
        infos.extend(buckets.filter(|info| region.is_none_or(|region| info.region == region)));
    }
    let continuation_token = infos
        .last()
        .filter(|_| more)
        .map(|info| to_token(&info.name));
    let buckets = infos
        .into_iter()
        .map(|info| Bucket {
            bucket_region: Some(info.region),
            creation_date: Some(to_dto(info.created)),
            name: Some(info.name),
            ..Default::default()
        })
        .collect();
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        continuation_token,
        owner: Some(door.owner(caller)),
        prefix: input.prefix,
    }))
}

pub(crate) async fn delete(
    door: &Door,
    req: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let bucket = &req.input.bucket;
    door.objects
        .delete_bucket(&caller(&req)?, bucket)
        .await
        .map_err(from_objects)?;
    Ok(S3Response::new(DeleteBucketOutput {}))
}

pub(crate) async fn location(
    door: &Door,
    req: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    let bucket = &req.input.bucket;
    let info = door
        .objects
        .head_bucket(&caller(&req)?, bucket)
        .await
        .map_err(from_objects)?;
    let constraint = (info.region != CLASSIC_REGION).then_some(info.region);
    Ok(S3Response::new(GetBucketLocationOutput {
        location_constraint: constraint.map(BucketLocationConstraint::from),
    }))
}
