//! AbortMultipartUpload, ListParts and ListMultipartUploads.

use objects::limits::SCAN_BYTES_MAX;
use objects::{ListUploadsRequest, PartSummary, UploadEntry, UploadInfo, UploadRef};
use s3s::dto::{
    self, AbortMultipartUploadInput, AbortMultipartUploadOutput, Initiator,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput,
    MultipartUpload, Part, StorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::algorithms::{kind_to_dto, put_sums, sums_of, to_dto};
use crate::door::{Door, caller, context};
use crate::errors::{from_objects, from_overload};
use crate::limits::{LIST_ENTRY_BYTES, PAGE_ENTRIES_MAX};
use crate::list::{Encoding, common_prefix, reserve_page, shown_max_keys};
use crate::names::for_xml;
use crate::view::to_dto as time_to_dto;

pub(crate) async fn abort(
    door: &Door,
    req: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let upload = UploadRef {
        account: caller(&req)?,
        bucket: req.input.bucket,
        key: req.input.key,
        upload: req.input.upload_id,
    };
    let aborted = door.objects.abort_upload(&upload).await;
    aborted.map_err(from_objects)?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

/// A page size within S3's limits.
fn page_size(asked: Option<i32>, name: &str) -> S3Result<usize> {
    match asked.map(usize::try_from) {
        None => Ok(PAGE_ENTRIES_MAX),
        Some(Ok(asked)) => Ok(asked.min(PAGE_ENTRIES_MAX)),
        Some(Err(_)) => Err(s3_error!(
            InvalidArgument,
            "Argument {name} must be an integer between 0 and 2147483647"
        )),
    }
}

pub(crate) async fn list_parts(
    door: &Door,
    req: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let (context, account) = (context(&req)?, caller(&req)?);
    let input = req.input;
    let max = page_size(input.max_parts, "max-parts")?;
    let after = part_marker(input.part_number_marker)?;
    let bytes = SCAN_BYTES_MAX + max * LIST_ENTRY_BYTES;
    let budget = door.budgets.for_listing();
    context.hold(budget.reserve(bytes).await.map_err(from_overload)?);
    let upload = UploadRef {
        account,
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        upload: input.upload_id.clone(),
    };
    let page = door.objects.list_parts(&upload, after, max).await;
    let page = page.map_err(from_objects)?;
    let last = page.parts.last().map_or(after, |part| part.number);
    let (algorithm, kind) = page.upload.checksum.unzip();
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: algorithm.map(to_dto),
        checksum_type: kind.map(kind_to_dto),
        initiator: Some(initiator(&page.upload)),
        is_truncated: Some(page.more),
        key: Some(for_xml(&input.key).into_owned()),
        max_parts: Some(shown_max_keys(max)),
        next_part_number_marker: Some(last.into()),
        owner: Some(door.owner(page.upload.owner)),
        part_number_marker: Some(after.into()),
        parts: Some(page.parts.into_iter().map(part).collect()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(input.upload_id),
        ..Default::default()
    }))
}

/// Where a listing of parts goes on.
pub(crate) fn part_marker(marker: Option<i32>) -> S3Result<u16> {
    match marker {
        None => Ok(0),
        // Behind the last number there can be.
        Some(marker) if marker > i32::from(u16::MAX) => Ok(u16::MAX),
        Some(marker) => u16::try_from(marker).map_err(|_| {
            s3_error!(
                InvalidArgument,
                "Argument part-number-marker must be an integer between 0 and 2147483647"
            )
        }),
    }
}

fn part(summary: PartSummary) -> Part {
    let mut part = Part {
        e_tag: Some(dto::ETag::Strong(summary.etag.as_str().to_owned())),
        last_modified: Some(time_to_dto(summary.modified)),
        part_number: Some(summary.number.into()),
        size: i64::try_from(summary.size).ok(),
        ..Default::default()
    };
    put_sums!(sums_of(summary.checksum.as_ref(), None) => part);
    part
}

fn initiator(upload: &UploadInfo) -> Initiator {
    Initiator {
        display_name: None,
        id: Some(upload.owner.to_string()),
    }
}

pub(crate) async fn list_uploads(
    door: &Door,
    req: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let (context, account) = (context(&req)?, caller(&req)?);
    let input = req.input;
    let max = page_size(input.max_uploads, "max-uploads")?;
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    reserve_page(door, &context, max).await?;
    let request = ListUploadsRequest {
        account,
        bucket: input.bucket.clone(),
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: given(&input.delimiter),
        key_marker: given(&input.key_marker),
        upload_id_marker: given(&input.upload_id_marker),
        max_uploads: max,
    };
    let page = door.objects.list_uploads(request).await;
    let page = page.map_err(from_objects)?;
    let asked = [
        input.prefix.as_deref(),
        input.delimiter.as_deref(),
        input.key_marker.as_deref(),
    ];
    let names = page.entries.iter().map(UploadEntry::name);
    let encoding = Encoding::choose(input.encoding_type, &asked, names)?;
    let last = page.entries.last().filter(|_| page.more);
    let next_key_marker = last.map(|entry| encoding.apply(entry.name()));
    let next_upload_id_marker = last.map(|entry| match entry {
        UploadEntry::Upload { id, .. } => id.clone(),
        UploadEntry::CommonPrefix(_) => String::new(),
    });
    let (mut uploads, mut common_prefixes) = (Vec::new(), Vec::new());
    for entry in page.entries {
        match entry {
            UploadEntry::Upload { key, id, info } => {
                uploads.push(upload(door, encoding.apply(&key), id, &info));
            }
            UploadEntry::CommonPrefix(prefix) => {
                common_prefixes.push(common_prefix(&prefix, &encoding));
            }
        }
    }
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: Some(common_prefixes),
        delimiter: input.delimiter.as_deref().map(|text| encoding.apply(text)),
        encoding_type: encoding.shown(),
        is_truncated: Some(page.more),
        key_marker: Some(encoding.apply(input.key_marker.as_deref().unwrap_or(""))),
        max_uploads: Some(shown_max_keys(max)),
        next_key_marker,
        next_upload_id_marker,
        prefix: Some(encoding.apply(input.prefix.as_deref().unwrap_or(""))),
        upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        uploads: Some(uploads),
        ..Default::default()
    }))
}

fn upload(door: &Door, key: String, id: String, info: &UploadInfo) -> MultipartUpload {
    let (algorithm, kind) = info.checksum.unzip();
    MultipartUpload {
        checksum_algorithm: algorithm.map(to_dto),
        checksum_type: kind.map(kind_to_dto),
        initiated: Some(time_to_dto(info.initiated)),
        initiator: Some(initiator(info)),
        key: Some(key),
        owner: Some(door.owner(info.owner)),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(id),
    }
}
