//! ListObjects and ListObjectsV2.

use objects::limits::{LIST_NAME_BYTES_MAX, OBJECT_KEY_BYTES_MAX, SCAN_BYTES_MAX};
use objects::{ListEntry, ListPage, ListRequest, ObjectSummary};
use s3s::dto::{
    self, CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object, ObjectStorageClass,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use crate::context::RequestContext;
use crate::door::{Door, caller, context};
use crate::errors::{from_objects, from_overload};
use crate::limits::{LIST_ENTRY_BYTES, LIST_NAME_COPIES, PAGE_ENTRIES_MAX};
use crate::names::{fits_xml, from_token, to_token, url_encode};
use crate::view::to_dto;

pub(crate) async fn list_objects(
    door: &Door,
    req: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let (context, caller) = (context(&req)?, caller(&req)?);
    let input = req.input;
    let max_keys = max_keys(input.max_keys)?;
    let request = ListRequest {
        account: caller,
        bucket: input.bucket.clone(),
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input
            .delimiter
            .clone()
            .filter(|delimiter| !delimiter.is_empty()),
        start_after: input.marker.clone().filter(|marker| !marker.is_empty()),
        max_keys,
    };
    let page = page(door, &context, request).await?;
    let asked = [
        input.prefix.as_deref(),
        input.delimiter.as_deref(),
        input.marker.as_deref(),
    ];
    let encoding = Encoding::choose(input.encoding_type, &asked, page_names(&page))?;
    // Without a delimiter S3 names no next marker: the last key is the next marker.
    let next_marker = page.next.as_deref().map(|next| encoding.apply(next));
    let is_truncated = page.next.is_some();
    let (contents, common_prefixes) = split(page, &encoding, Some(door));
    Ok(S3Response::new(ListObjectsOutput {
        common_prefixes: Some(common_prefixes),
        contents: Some(contents),
        delimiter: input.delimiter.as_deref().map(|text| encoding.apply(text)),
        encoding_type: encoding.shown(),
        is_truncated: Some(is_truncated),
        marker: Some(encoding.apply(input.marker.as_deref().unwrap_or(""))),
        max_keys: Some(shown_max_keys(max_keys)),
        name: Some(input.bucket),
        next_marker,
        prefix: Some(encoding.apply(input.prefix.as_deref().unwrap_or(""))),
        request_charged: None,
    }))
}

pub(crate) async fn list_objects_v2(
    door: &Door,
    req: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let (context, caller) = (context(&req)?, caller(&req)?);
    let input = req.input;
    let max_keys = max_keys(input.max_keys)?;
    let start_after = match input.continuation_token.as_deref().map(from_token) {
        Some(Some(after)) => Some(after),
        Some(None) => return Err(bad_token()),
        None => input.start_after.clone().filter(|after| !after.is_empty()),
    };
    let request = ListRequest {
        account: caller,
        bucket: input.bucket.clone(),
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input
            .delimiter
            .clone()
            .filter(|delimiter| !delimiter.is_empty()),
        start_after,
        max_keys,
    };
    let page = page(door, &context, request).await?;
    let asked = [
        input.prefix.as_deref(),
        input.delimiter.as_deref(),
        input.start_after.as_deref(),
    ];
    let encoding = Encoding::choose(input.encoding_type, &asked, page_names(&page))?;
    let next_continuation_token = page.next.as_deref().map(to_token);
    let key_count = page.entries.len();
    let owner = input.fetch_owner.unwrap_or(false).then_some(door);
    let (contents, common_prefixes) = split(page, &encoding, owner);
    Ok(S3Response::new(ListObjectsV2Output {
        common_prefixes: Some(common_prefixes),
        contents: Some(contents),
        continuation_token: input.continuation_token,
        delimiter: input.delimiter.as_deref().map(|text| encoding.apply(text)),
        encoding_type: encoding.shown(),
        is_truncated: Some(next_continuation_token.is_some()),
        key_count: Some(shown_max_keys(key_count)),
        max_keys: Some(shown_max_keys(max_keys)),
        name: Some(input.bucket),
        next_continuation_token,
        prefix: Some(encoding.apply(input.prefix.as_deref().unwrap_or(""))),
        request_charged: None,
        start_after: input
            .start_after
            .as_deref()
            .map(|text| encoding.apply(text)),
    }))
}

/// Reserves memory for a page and fetches it.
async fn page(door: &Door, context: &RequestContext, request: ListRequest) -> S3Result<ListPage> {
    reserve_page(door, context, request.max_keys).await?;
    door.objects.list(request).await.map_err(from_objects)
}

pub(crate) async fn reserve_page(
    door: &Door,
    context: &RequestContext,
    max_keys: usize,
) -> S3Result<()> {
    let names = (max_keys * OBJECT_KEY_BYTES_MAX).min(LIST_NAME_BYTES_MAX + OBJECT_KEY_BYTES_MAX);
    let bytes = SCAN_BYTES_MAX + max_keys * LIST_ENTRY_BYTES + names * LIST_NAME_COPIES;
    let budget = door.budgets.for_listing();
    context.hold(budget.reserve(bytes).await.map_err(from_overload)?);
    Ok(())
}

pub(crate) fn bad_token() -> S3Error {
    s3_error!(
        InvalidArgument,
        "The continuation token provided is incorrect"
    )
}

/// The page size that was asked for, within S3's limits.
pub(crate) fn max_keys(asked: Option<i32>) -> S3Result<usize> {
    match asked {
        None => Ok(PAGE_ENTRIES_MAX),
        Some(asked) => usize::try_from(asked)
            .map(|asked| asked.min(PAGE_ENTRIES_MAX))
            .map_err(|_| {
                s3_error!(
                    InvalidArgument,
                    "Argument max-keys must be an integer between 0 and 2147483647"
                )
            }),
    }
}

pub(crate) fn shown_max_keys(max_keys: usize) -> i32 {
    i32::try_from(max_keys).unwrap_or(i32::MAX)
}

fn page_names(page: &ListPage) -> impl Iterator<Item = &str> {
    page.entries.iter().map(|entry| match entry {
        ListEntry::Object(object) => object.key.as_str(),
        ListEntry::CommonPrefix(prefix) => prefix.as_str(),
    })
}

/// Objects and common prefixes apart, as the XML has them. `owner`: show whose they are.
fn split(
    page: ListPage,
    encoding: &Encoding,
    owner: Option<&Door>,
) -> (Vec<Object>, Vec<CommonPrefix>) {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for entry in page.entries {
        match entry {
            ListEntry::Object(summary) => objects.push(object(summary, encoding, owner)),
            ListEntry::CommonPrefix(prefix) => prefixes.push(common_prefix(&prefix, encoding)),
        }
    }
    (objects, prefixes)
}

fn object(summary: ObjectSummary, encoding: &Encoding, owner: Option<&Door>) -> Object {
    Object {
        e_tag: Some(dto::ETag::Strong(summary.etag.as_str().to_owned())),
        key: Some(encoding.apply(&summary.key)),
        last_modified: Some(to_dto(summary.modified)),
        owner: owner.map(|door| door.owner(summary.owner)),
        size: i64::try_from(summary.size).ok(),
        storage_class: Some(ObjectStorageClass::from_static(
            ObjectStorageClass::STANDARD,
        )),
        ..Default::default()
    }
}

pub(crate) fn common_prefix(prefix: &str, encoding: &Encoding) -> CommonPrefix {
    CommonPrefix {
        prefix: Some(encoding.apply(prefix)),
    }
}

/// How names stand in the XML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Url,
}

impl Encoding {
    /// What was asked for; but a page with a name that XML has no place for is encoded in any
    /// case, and says so, because the alternative is a document that nobody can parse.
    pub(crate) fn choose<'a>(
        asked: Option<EncodingType>,
        parameters: &[Option<&str>],
        mut names: impl Iterator<Item = &'a str>,
    ) -> S3Result<Encoding> {
        match asked.as_ref().map(EncodingType::as_str) {
            Some("url") => return Ok(Encoding::Url),
            None | Some("") => {}
            Some(_) => {
                let message = "Invalid Encoding Method specified in Request";
                return Err(s3_error!(InvalidArgument, "{message}"));
            }
        }
        let fits = names.all(fits_xml) && parameters.iter().flatten().all(|text| fits_xml(text));
        Ok(if fits { Encoding::Plain } else { Encoding::Url })
    }

    pub(crate) fn apply(self, text: &str) -> String {
        match self {
            Encoding::Plain => text.to_owned(),
            Encoding::Url => url_encode(text),
        }
    }

    pub(crate) fn shown(self) -> Option<EncodingType> {
        match self {
            Encoding::Plain => None,
            Encoding::Url => Some(EncodingType::from_static(EncodingType::URL)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes() {
        assert_eq!(max_keys(None).unwrap(), 1_000);
        assert_eq!(max_keys(Some(0)).unwrap(), 0);
        assert_eq!(max_keys(Some(7)).unwrap(), 7);
        assert_eq!(max_keys(Some(100_000)).unwrap(), 1_000);
        assert!(max_keys(Some(-1)).is_err());
    }

    #[test]
    fn names_that_xml_cannot_carry_are_encoded() {
        let url = || Some(EncodingType::from_static(EncodingType::URL));
        let choose = |asked, names: &[&'static str]| {
            Encoding::choose(asked, &[Some("p")], names.iter().copied()).unwrap()
        };
        assert_eq!(choose(None, &["a b", "ü"]), Encoding::Plain);
        assert_eq!(choose(url(), &["a"]), Encoding::Url);
        assert_eq!(choose(None, &["a", "b\u{1}"]), Encoding::Url);
        let wrong = Some(EncodingType::from("base64".to_owned()));
        assert!(Encoding::choose(wrong, &[], std::iter::empty()).is_err());
    }
}
