//! What part of an object a GET or HEAD is about.

use std::ops::Range;

use http::StatusCode;
use objects::{Checksum, ObjectHandle, ObjectInfo, PartInfo, Timestamp};
use s3s::dto::{self, ETagCondition};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::conditions::{ReadConditions, Verdict};
use crate::errors::{custom, from_objects, with_header};

/// The part of a read's input that GET and HEAD share.
#[derive(Default)]
pub(crate) struct ReadInput {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<dto::Timestamp>,
    pub(crate) if_unmodified_since: Option<dto::Timestamp>,
    pub(crate) range: Option<dto::Range>,
    pub(crate) part_number: Option<i32>,
    pub(crate) version_id: Option<String>,
    /// `s3s` does not know this header.
    pub(crate) if_range: Option<String>,
}

/// The bytes that the answer is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) range: Range<u64>,
    /// `Content-Range`, when the answer is 206.
    pub(crate) content_range: Option<String>,
    /// The checksum of just these bytes, if one is known.
    pub(crate) checksum: Option<Checksum>,
    /// How many parts the object has, if one of them was asked for.
    pub(crate) parts: Option<u16>,
}

impl View {
    pub(crate) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl ReadInput {
    /// What can be said before the object is looked up.
    pub(crate) fn check(&self) -> S3Result<()> {
        check_version(self.version_id.as_deref())?;
        if self.part_number.is_some() && self.range.is_some() {
            let message = "Cannot specify both Range header and partNumber query parameter";
            return Err(s3_error!(InvalidRequest, "{message}"));
        }
        if self
            .part_number
            .is_some_and(|number| !(1..=10_000).contains(&number))
        {
            let message = "Part number must be an integer between 1 and 10000, inclusive";
            return Err(s3_error!(InvalidArgument, "{message}"));
        }
        Ok(())
    }

    /// Evaluates conditions, then the range or the part.
    pub(crate) async fn view(self, handle: &ObjectHandle) -> S3Result<View> {
        let part = match self.part_number.map(u16::try_from) {
            Some(Ok(number)) if handle.info().parts.is_some() => {
                let part = handle.part(number).await.map_err(from_objects)?;
                Some(part.ok_or_else(no_such_part)?)
            }
            _ => None,
        };
        self.view_of(handle.info(), part)
    }

    fn view_of(self, info: &ObjectInfo, part: Option<PartInfo>) -> S3Result<View> {
        let modified = to_seconds(info.modified);
        // A range is for whoever has the rest of this very object; others get it whole.
        let same = |validator: &str| is_current(validator, info.etag.as_str(), modified);
        let range = self
            .range
            .filter(|_| self.if_range.as_deref().is_none_or(same));
        let part_number = self.part_number;
        let conditions = ReadConditions {
            if_match: self.if_match,
            if_none_match: self.if_none_match,
            if_modified_since: self.if_modified_since.map(seconds),
            if_unmodified_since: self.if_unmodified_since.map(seconds),
        };
        match conditions.evaluate(info.etag.as_str(), modified) {
            Verdict::Proceed => match part {
                Some(part) => Ok(view_of_part(part, info)),
                None => {
                    let mut view = select(range, part_number, info.size)?;
                    if view.range == (0..info.size) {
                        view.checksum = info.checksum.clone();
                    }
                    Ok(view)
                }
            },
            Verdict::NotModified => Err(not_modified(info)),
            Verdict::Failed(header) => Err(s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold: {header}"
            )),
        }
    }
}

/// The header `If-Range`; one that cannot be read matches nothing.
pub(crate) fn if_range(headers: &http::HeaderMap) -> Option<String> {
    let value = headers.get(http::header::IF_RANGE)?;
    Some(value.to_str().unwrap_or("").trim().to_owned())
}

/// Whether a validator is this object's: its strong tag, or exactly its date.
fn is_current(validator: &str, etag: &str, modified_seconds: i64) -> bool {
    let tag = validator
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    match tag {
        Some(tag) => tag == etag,
        None if validator == etag => true,
        None => dto::Timestamp::parse(dto::TimestampFormat::HttpDate, validator)
            .is_ok_and(|date| seconds(date) == modified_seconds),
    }
}

/// The only version is the null version.
pub(crate) fn check_version(version_id: Option<&str>) -> S3Result<()> {
    match version_id {
        None | Some("null") => Ok(()),
        Some("") => Err(s3_error!(
            InvalidArgument,
            "Version id cannot be the empty string"
        )),
        Some(_) => Err(s3_error!(
            NoSuchVersion,
            "The specified version does not exist."
        )),
    }
}

/// One part of an object that was uploaded in parts.
fn view_of_part(part: PartInfo, info: &ObjectInfo) -> View {
    // An empty part has no place in a Content-Range.
    let content_range = (!part.range.is_empty()).then(|| content_range(&part.range, info.size));
    View {
        content_range,
        range: part.range,
        checksum: part.checksum,
        parts: info.parts,
    }
}

fn no_such_part() -> S3Error {
    custom(
        "InvalidPartNumber",
        StatusCode::RANGE_NOT_SATISFIABLE,
        "The requested partnumber is not satisfiable",
    )
}

fn select(range: Option<dto::Range>, part_number: Option<i32>, size: u64) -> S3Result<View> {
    if let Some(range) = range {
        let selected = match range.check(size) {
            Ok(selected) if !selected.is_empty() => selected,
            _ => return Err(not_satisfiable(size)),
        };
        let content_range = Some(content_range(&selected, size));
        return Ok(View {
            checksum: None,
            range: selected,
            content_range,
            parts: None,
        });
    }
    match part_number {
        // An object that was put in one piece is its own and only part.
        None | Some(1) => {
            let partial = part_number.is_some() && size > 0;
            Ok(View {
                range: 0..size,
                content_range: partial.then(|| content_range(&(0..size), size)),
                checksum: None,
                parts: None,
            })
        }
        Some(_) => Err(no_such_part()),
    }
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

fn not_satisfiable(size: u64) -> S3Error {
    let error = S3Error::new(S3ErrorCode::InvalidRange);
    with_header(error, "content-range", &format!("bytes */{size}"))
}

fn not_modified(info: &ObjectInfo) -> S3Error {
    let error = S3Error::new(S3ErrorCode::NotModified);
    let error = with_header(error, "etag", &format!("\"{}\"", info.etag));
    let mut error = with_header(error, "last-modified", &http_date(to_dto(info.modified)));
    // A cache refreshes what it has with these.
    let metadata = &info.metadata;
    let kept = [
        ("cache-control", &metadata.cache_control),
        ("expires", &metadata.expires),
    ];
    for (name, value) in kept {
        if let Some(value) = value {
            error = with_header(error, name, value);
        }
    }
    error
}

/// As headers have it.
pub(crate) fn http_date(timestamp: dto::Timestamp) -> String {
    let mut text = Vec::with_capacity(32);
    // Writing to memory cannot fail; a date past the year 9999 has no HTTP form.
    let _ = timestamp.format(dto::TimestampFormat::HttpDate, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// A time as `s3s` has it.
pub(crate) fn to_dto(timestamp: Timestamp) -> dto::Timestamp {
    let since = std::time::Duration::from_millis(timestamp.as_millis());
    let time = std::time::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(std::time::UNIX_EPOCH);
    dto::Timestamp::from(time)
}

/// Whole seconds, rounded down, as `Last-Modified` shows them.
pub(crate) fn to_seconds(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.as_millis() / 1_000).unwrap_or(i64::MAX)
}

pub(crate) fn seconds(timestamp: dto::Timestamp) -> i64 {
    let mut text = Vec::with_capacity(32);
    let written = timestamp.format(dto::TimestampFormat::EpochSeconds, &mut text);
    let text = written
        .ok()
        .and_then(|()| String::from_utf8(text).ok())
        .unwrap_or_default();
    text.split('.')
        .next()
        .and_then(|whole| whole.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(range: &str, size: u64) -> Result<(Range<u64>, Option<String>), String> {
        let range = dto::Range::parse(range).unwrap();
        select(Some(range), None, size)
            .map(|view| (view.range, view.content_range))
            .map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn ranges() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(selected("bytes=0-0", 5), Ok((0..1, some("bytes 0-0/5"))));
        assert_eq!(selected("bytes=1-", 5), Ok((1..5, some("bytes 1-4/5"))));
        assert_eq!(selected("bytes=1-99", 5), Ok((1..5, some("bytes 1-4/5"))));
        assert_eq!(selected("bytes=-2", 5), Ok((3..5, some("bytes 3-4/5"))));
        assert_eq!(selected("bytes=-99", 5), Ok((0..5, some("bytes 0-4/5"))));
        for (range, size) in [
            ("bytes=5-", 5),
            ("bytes=-0", 5),
            ("bytes=0-", 0),
            ("bytes=-1", 0),
        ] {
            assert_eq!(
                selected(range, size),
                Err("InvalidRange".into()),
                "{range} of {size}"
            );
        }
    }

    #[test]
    fn parts_of_an_object_put_in_one_piece() {
        let part = |number, size| select(None, Some(number), size).map(|view| view.content_range);
        assert_eq!(part(1, 5).unwrap().as_deref(), Some("bytes 0-4/5"));
        assert_eq!(part(1, 0).unwrap(), None);
        assert_eq!(part(2, 5).unwrap_err().code().as_str(), "InvalidPartNumber");
    }

    #[test]
    fn a_range_is_for_the_same_object() {
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        for (validator, same) in [
            ("\"abc\"", true),
            ("abc", true),
            (date, true),
            ("\"abd\"", false),
            ("W/\"abc\"", false),
            ("Wed, 21 Oct 2015 07:28:01 GMT", false),
            ("yesterday", false),
            ("", false),
        ] {
            let current = is_current(validator, "abc", 1_445_412_480);
            assert_eq!(current, same, "{validator}");
        }
    }

    #[test]
    fn times_round_down_to_seconds() {
        let timestamp = Timestamp::from_millis(1_445_412_480_999);
        assert_eq!(seconds(to_dto(timestamp)), to_seconds(timestamp));
        assert_eq!(
            http_date(to_dto(timestamp)),
            "Wed, 21 Oct 2015 07:28:00 GMT"
        );
        let parsed = dto::Timestamp::parse(
            dto::TimestampFormat::HttpDate,
            "Wed, 21 Oct 2015 07:28:00 GMT",
        );
        assert_eq!(seconds(parsed.unwrap()), to_seconds(timestamp));
    }
}
