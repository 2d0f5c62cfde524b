//! GetObjectAttributes.

use objects::{ObjectHandle, ObjectInfo, PartInfo};
use s3s::dto::{
    self, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts,
    ObjectAttributes, ObjectPart, StorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::algorithms::{put_sums, sums_of};
use crate::door::{Door, caller, context};
use crate::errors::{from_objects, from_overload};
use crate::limits::{LIST_ENTRY_BYTES, PAGE_ENTRIES_MAX, PART_TABLE_CHUNK_BYTES};
use crate::list::shown_max_keys;
use crate::uploads::part_marker;
use crate::view::{check_version, to_dto};

const KNOWN: [&str; 5] = [
    ObjectAttributes::CHECKSUM,
    ObjectAttributes::ETAG,
    ObjectAttributes::OBJECT_PARTS,
    ObjectAttributes::OBJECT_SIZE,
    ObjectAttributes::STORAGE_CLASS,
];

pub(crate) async fn get_object_attributes(
    door: &Door,
    req: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let (context, account) = (context(&req)?, caller(&req)?);
    let input = req.input;
    check_version(input.version_id.as_deref())?;
    // `s3s` takes the header's commas for a part of one name.
    let asked: Vec<&str> = input
        .object_attributes
        .iter()
        .flat_map(|names| names.as_str().split(','))
        .map(str::trim)
        .collect();
    if asked.is_empty() || asked.iter().any(|name| !KNOWN.contains(name)) {
        return Err(s3_error!(
            InvalidArgument,
            "x-amz-object-attributes must name one or more of ETag, Checksum, ObjectParts, \
             StorageClass and ObjectSize."
        ));
    }
    let wants = |name| asked.contains(&name);
    let handle = door.objects.get(&account, &input.bucket, &input.key).await;
    let handle = handle.map_err(from_objects)?;
    let mut object_parts = None;
    if wants(ObjectAttributes::OBJECT_PARTS)
        && let Some(total) = handle.info().parts
    {
        let max = match input.max_parts.map(usize::try_from) {
            None => PAGE_ENTRIES_MAX,
            Some(Ok(max)) => max.min(PAGE_ENTRIES_MAX),
            Some(Err(_)) => {
                let message = "x-amz-max-parts must be an integer between 0 and 2147483647";
                return Err(s3_error!(InvalidArgument, "{message}"));
            }
        };
        let after = part_marker(input.part_number_marker)?;
        let bytes = PART_TABLE_CHUNK_BYTES + max * LIST_ENTRY_BYTES;
        let budget = door.budgets.for_listing();
        context.hold(budget.reserve(bytes).await.map_err(from_overload)?);
        object_parts = Some(page_of_parts(&handle, total, after, max).await?);
    }
    let info = handle.info();
    Ok(S3Response::new(GetObjectAttributesOutput {
        // Here Amazon shows a composite one without the number of parts, and the tag without
        // quotes, which `s3s` leaves away by itself.
        checksum: wants(ObjectAttributes::CHECKSUM).then(|| sums_of(info.checksum.as_ref(), None)),
        e_tag: wants(ObjectAttributes::ETAG).then(|| etag(info)),
        last_modified: Some(to_dto(info.modified)),
        object_parts,
        object_size: wants(ObjectAttributes::OBJECT_SIZE)
            .then(|| i64::try_from(info.size).unwrap_or(i64::MAX)),
        storage_class: wants(ObjectAttributes::STORAGE_CLASS)
            .then(|| StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }))
}

fn etag(info: &ObjectInfo) -> dto::ETag {
    dto::ETag::Strong(info.etag.as_str().to_owned())
}

async fn page_of_parts(
    handle: &ObjectHandle,
    total: u16,
    after: u16,
    max: usize,
) -> S3Result<GetObjectAttributesParts> {
    let parts = handle.parts_behind(after, max).await;
    let parts = parts.map_err(from_objects)?;
    let last = parts.last().map_or(after, |part| part.place);
    Ok(GetObjectAttributesParts {
        is_truncated: Some(last < total && max > 0),
        max_parts: Some(shown_max_keys(max)),
        next_part_number_marker: Some(last.into()),
        part_number_marker: Some(after.into()),
        parts: Some(parts.into_iter().map(object_part).collect()),
        total_parts_count: Some(total.into()),
    })
}

fn object_part(part: PartInfo) -> ObjectPart {
    let mut shown = ObjectPart {
        part_number: Some(part.place.into()),
        size: i64::try_from(part.range.end - part.range.start).ok(),
        ..Default::default()
    };
    put_sums!(sums_of(part.checksum.as_ref(), None) => shown);
    shown
}
