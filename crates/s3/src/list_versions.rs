//! ListObjectVersions.

use objects::{ListVersionsRequest, VersionEntry, VersionSummary};
use s3s::dto::{
    self, ListObjectVersionsInput, ListObjectVersionsOutput, ObjectVersion,
    ObjectVersionStorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::door::{Door, caller, context};
use crate::errors::from_objects;
use crate::list::{Encoding, common_prefix, max_keys, reserve_page, shown_max_keys};
use crate::view::to_dto;

pub(crate) async fn list_object_versions(
    door: &Door,
    req: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let (context, caller) = (context(&req)?, caller(&req)?);
    let input = req.input;
    let max_keys = max_keys(input.max_keys)?;
    let key_marker = input.key_marker.clone().filter(|marker| !marker.is_empty());
    let version_id_marker = input
        .version_id_marker
        .clone()
        .filter(|marker| !marker.is_empty());
    if version_id_marker.is_some() && key_marker.is_none() {
        let message = "A version-id marker cannot be specified without a key marker.";
        return Err(s3_error!(InvalidArgument, "{message}"));
    }
    reserve_page(door, &context, max_keys).await?;
    let request = ListVersionsRequest {
        account: caller,
        bucket: input.bucket.clone(),
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input
            .delimiter
            .clone()
            .filter(|delimiter| !delimiter.is_empty()),
        key_marker,
        version_id_marker,
        max_keys,
    };
    let page = door
        .objects
        .list_versions(request)
        .await
        .map_err(from_objects)?;
    let names = page.entries.iter().map(|entry| match entry {
        VersionEntry::Version(version) => version.object.key.as_str(),
        VersionEntry::CommonPrefix(prefix) => prefix.as_str(),
    });
    let asked = [
        input.prefix.as_deref(),
        input.delimiter.as_deref(),
        input.key_marker.as_deref(),
    ];
    let encoding = Encoding::choose(input.encoding_type, &asked, names)?;
    let (mut versions, mut common_prefixes) = (Vec::new(), Vec::new());
    for entry in page.entries {
        match entry {
            VersionEntry::Version(summary) => versions.push(version(door, summary, encoding)),
            VersionEntry::CommonPrefix(text) => {
                common_prefixes.push(common_prefix(&text, &encoding))
            }
        }
    }
    Ok(S3Response::new(ListObjectVersionsOutput {
        common_prefixes: Some(common_prefixes),
        delimiter: input.delimiter.as_deref().map(|text| encoding.apply(text)),
        encoding_type: encoding.shown(),
        is_truncated: Some(page.next_key_marker.is_some()),
        key_marker: Some(encoding.apply(input.key_marker.as_deref().unwrap_or(""))),
        max_keys: Some(shown_max_keys(max_keys)),
        name: Some(input.bucket),
        next_key_marker: page
            .next_key_marker
            .as_deref()
            .map(|text| encoding.apply(text)),
        next_version_id_marker: page.next_version_id_marker,
        prefix: Some(encoding.apply(input.prefix.as_deref().unwrap_or(""))),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        versions: Some(versions),
        ..Default::default()
    }))
}

fn version(door: &Door, summary: VersionSummary, encoding: Encoding) -> ObjectVersion {
    let object = summary.object;
    ObjectVersion {
        e_tag: Some(dto::ETag::Strong(object.etag.as_str().to_owned())),
        is_latest: Some(summary.is_latest),
        key: Some(encoding.apply(&object.key)),
        last_modified: Some(to_dto(object.modified)),
        owner: Some(door.owner(object.owner)),
        size: i64::try_from(object.size).ok(),
        storage_class: Some(ObjectVersionStorageClass::from_static(
            ObjectVersionStorageClass::STANDARD,
        )),
        version_id: Some(summary.version_id),
        ..Default::default()
    }
}
