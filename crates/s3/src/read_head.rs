//! The headers of an answer to a read: what GetObject and HeadObject say of an object.

use http::HeaderMap;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE,
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, EXPIRES, HeaderName, HeaderValue,
    LAST_MODIFIED,
};
use objects::{Checksum, Metadata, ObjectInfo};
use s3s::{S3Error, S3Result, s3_error};

use crate::algorithms::{header_of, kind_to_dto, shown};
use crate::query_headers::METADATA;
use crate::view::{View, http_date, to_dto};

/// What S3 says of an object that was put without a type.
pub(crate) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// What a request says that the answer's headers shall be, whatever is stored.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) cache_control: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) expires: Option<String>,
}

/// Takes them out of the input of a GetObject or a HeadObject, which have the same fields and no
/// trait in common.
macro_rules! overrides {
    ($input:expr) => {{
        let input = &mut $input;
        $crate::read_head::Overrides {
            cache_control: input.response_cache_control.take(),
            content_disposition: input.response_content_disposition.take(),
            content_encoding: input.response_content_encoding.take(),
            content_language: input.response_content_language.take(),
            content_type: input.response_content_type.take(),
            expires: input.response_expires.take().map($crate::view::http_date),
        }
    }};
}

pub(crate) use overrides;

/// The headers for the bytes that `view` selects of an object.
pub(crate) fn headers(
    info: &ObjectInfo,
    view: &View,
    overrides: &Overrides,
    with_checksum: bool,
) -> S3Result<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(16);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(view.len()));
    headers.insert(ETAG, value(&format!("\"{}\"", info.etag))?);
    headers.insert(LAST_MODIFIED, value(&http_date(to_dto(info.modified)))?);
    if let Some(range) = &view.content_range {
        headers.insert(CONTENT_RANGE, value(range)?);
    }
    if let Some(parts) = view.parts {
        headers.insert("x-amz-mp-parts-count", HeaderValue::from(parts));
    }
    add_kept(&mut headers, &info.metadata, overrides)?;
    for (name, text) in &info.metadata.user {
        let name = HeaderName::from_bytes(format!("{METADATA}{name}").as_bytes());
        let text = s3s_rfc2047::encode(text).map_err(unfit)?;
        headers.insert(name.map_err(unfit)?, value(&text)?);
    }
    if let Some(checksum) = view.checksum.as_ref().filter(|_| with_checksum) {
        add_checksum(&mut headers, checksum, info.parts)?;
    }
    Ok(headers)
}

/// What was stored with the object, unless the request says otherwise.
fn add_kept(headers: &mut HeaderMap, metadata: &Metadata, overrides: &Overrides) -> S3Result<()> {
    let rows = [
        (
            CACHE_CONTROL,
            &overrides.cache_control,
            &metadata.cache_control,
        ),
        (
            CONTENT_DISPOSITION,
            &overrides.content_disposition,
            &metadata.content_disposition,
        ),
        (
            CONTENT_ENCODING,
            &overrides.content_encoding,
            &metadata.content_encoding,
        ),
        (
            CONTENT_LANGUAGE,
            &overrides.content_language,
            &metadata.content_language,
        ),
        (EXPIRES, &overrides.expires, &metadata.expires),
    ];
    for (name, said, kept) in rows {
        if let Some(text) = said.as_ref().or(kept.as_ref()) {
            headers.insert(name, value(text)?);
        }
    }
    let kind = overrides.content_type.as_ref();
    let kind = match kind.or(metadata.content_type.as_ref()) {
        Some(kind) => value(kind)?,
        None => HeaderValue::from_static(DEFAULT_CONTENT_TYPE),
    };
    headers.insert(CONTENT_TYPE, kind);
    Ok(())
}

fn add_checksum(headers: &mut HeaderMap, checksum: &Checksum, parts: Option<u16>) -> S3Result<()> {
    let shown = value(&shown(checksum, parts))?;
    headers.insert(header_of(checksum.algorithm), shown);
    let kind = value(kind_to_dto(checksum.kind).as_str())?;
    headers.insert("x-amz-checksum-type", kind);
    Ok(())
}

fn value(text: &str) -> S3Result<HeaderValue> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(unfit)
}

/// What was stored was a header once; that it is none now is a fault of the server's.
fn unfit(error: impl std::fmt::Display) -> S3Error {
    s3_error!(
        InternalError,
        "what is stored with the object does not fit into headers: {error}"
    )
}
