//! Documents in requests: what they may look like, and the memory that they take.
//!
//! `s3s` reads a document into memory and parses it, so that whatever bounds it has to happen
//! before (the reservation) or while it streams past (the scan).

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Uri};
use objects::ChosenPart;
use objects::limits::PARTS_MAX;
use s3s::dto::{CompletedPart, ObjectIdentifier};
use s3s::{S3Result, s3_error};

use crate::body_in::BodyFailure;
use crate::framing::is_streaming_payload;
use crate::limits::{
    COMPLETION_BODY_BYTES_MAX, COMPLETION_BYTES, COMPLETION_MARKUP_MAX, COMPLETION_PART_BYTES,
    DOCUMENT_MARKUP_MAX, GATHER_BYTES, PAGE_ENTRIES_MAX, XML_BODY_BYTES_MAX,
};
use crate::names::query_pairs;

/// `s3s` drops these sections, so that `<Key>a<![CDATA[b]]></Key>` would delete another key.
const CDATA: &[u8] = b"<![CDATA[";

/// Looks at a document as it streams past.
#[derive(Debug)]
pub(crate) struct Scan {
    kind: &'static Kind,
    /// How much of [`CDATA`] the last bytes are.
    matched: usize,
    /// How much of the name of an entry's element.
    named: usize,
    /// Each `<` so far. Nothing can be parsed out of a document without them, so that their
    /// number bounds what the parsed form takes.
    markup: usize,
    entries: usize,
    /// No more entries than memory was reserved for.
    entries_max: usize,
}

impl Scan {
    /// `length`: of the document, if it is known.
    pub(crate) fn new(kind: &'static Kind, length: Option<usize>) -> Scan {
        Scan {
            entries_max: kind.entries_in(length.unwrap_or(usize::MAX)),
            kind,
            matched: 0,
            named: 0,
            markup: 0,
            entries: 0,
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) -> Result<(), BodyFailure> {
        let name = self.kind.entry;
        for &byte in data {
            if byte == b'<' {
                self.markup += 1;
                if self.markup > self.kind.markup_max {
                    return Err(BodyFailure::TooMuchMarkup);
                }
                // The patterns' first byte occurs in them only once.
                (self.matched, self.named) = (1, 1);
                continue;
            }
            if self.named == name.len() {
                self.entries += usize::from(!byte.is_ascii_alphanumeric());
                self.named = 0;
                if self.entries > self.entries_max {
                    return Err(BodyFailure::TooMuchMarkup);
                }
            } else if self.named > 0 {
                let more = name[self.named] == byte;
                self.named = if more { self.named + 1 } else { 0 };
            }
            if self.matched > 0 {
                self.matched = match CDATA[self.matched] == byte {
                    true => self.matched + 1,
                    false => 0,
                };
                if self.matched == CDATA.len() {
                    return Err(BodyFailure::CharacterData);
                }
            }
        }
        Ok(())
    }
}

/// What a document is a list of: bounds what its parsed form may take.
#[derive(Debug)]
pub(crate) struct Kind {
    /// How an entry's element begins.
    entry: &'static [u8],
    /// Most bytes of the document.
    bytes_max: usize,
    /// Bytes of the shortest entry.
    entry_text_bytes_min: usize,
    /// Most entries, and most markup in the whole document.
    entries_max: usize,
    markup_max: usize,
    /// Memory for one parsed entry, without its strings.
    entry_bytes: usize,
    /// What the operation needs when the document was parsed, beside its entries: it is reserved
    /// with the document, so that nobody who holds memory waits for more.
    then_bytes: usize,
}

/// A multi-delete, and every document that is no list.
static DELETES: Kind = Kind {
    entry: b"<Object",
    bytes_max: XML_BODY_BYTES_MAX,
    entry_text_bytes_min: "<Object><Key></Key></Object>".len(),
    // One more than is allowed, so that the operation says by itself what is wrong.
    entries_max: PAGE_ENTRIES_MAX + 1,
    markup_max: DOCUMENT_MARKUP_MAX,
    entry_bytes: size_of::<ObjectIdentifier>(),
    then_bytes: 0,
};

/// The completion of an upload.
static PARTS: Kind = Kind {
    entry: b"<Part",
    bytes_max: COMPLETION_BODY_BYTES_MAX,
    entry_text_bytes_min: "<Part><ETag>x</ETag><PartNumber>1</PartNumber></Part>".len(),
    entries_max: PARTS_MAX + 1,
    markup_max: COMPLETION_MARKUP_MAX,
    entry_bytes: size_of::<CompletedPart>(),
    then_bytes: COMPLETION_BYTES,
};

impl Kind {
    /// Of the document in a request, before its operation is known.
    pub(crate) fn of(method: &Method, uri: &Uri) -> &'static Kind {
        let mut pairs = query_pairs(uri.query().unwrap_or(""));
        match *method == Method::POST && pairs.any(|(name, _)| name == "uploadId") {
            true => &PARTS,
            false => &DELETES,
        }
    }

    /// Most entries of a document with so many bytes.
    fn entries_in(&self, length: usize) -> usize {
        (length / self.entry_text_bytes_min).min(self.entries_max)
    }

    fn of_operation(operation: &str) -> &'static Kind {
        match operation {
            "CompleteMultipartUpload" => &PARTS,
            _ => &DELETES,
        }
    }
}

/// The memory for reading and parsing the document that a request brings; `None` if it brings
/// none.
pub(crate) fn bytes_to_read(operation: &str, headers: &HeaderMap) -> S3Result<Option<usize>> {
    let kind = Kind::of_operation(operation);
    if is_streaming_payload(headers) {
        let message = "A document in the aws-chunked encoding is not there yet.";
        return Err(s3_error!(NotImplemented, "{message}"));
    }
    let length = match headers.get(CONTENT_LENGTH) {
        // A body of unknown length was refused before; should one come, it may be the largest.
        None => kind.bytes_max,
        Some(length) => length
            .to_str()
            .ok()
            .and_then(|length| length.parse().ok())
            .unwrap_or(usize::MAX),
    };
    if length > kind.bytes_max {
        return Err(s3_error!(
            MaxMessageLengthExceeded,
            "The request's XML document may have at most {} MiB.",
            kind.bytes_max >> 20
        ));
    }
    if length == 0 {
        return Ok(None);
    }
    // Its pieces and the whole that they are put together to; then the whole and the strings in
    // it, each of which takes some room of its own.
    let entries = kind.entries_in(length);
    let text = 2 * length + entries * STRING_BYTES_MIN + GATHER_BYTES;
    // Their list grows by doubling: while it does, old and new are there.
    let list = entries.next_power_of_two();
    let parsed = (list + list / 2) * kind.entry_bytes;
    let then = parts_bytes(entries) + kind.then_bytes;
    Ok(Some(match kind.then_bytes {
        0 => text + parsed,
        _ => (text + parsed).max(then),
    }))
}

/// Memory for the strings of an entry, whatever is in them.
const STRING_BYTES_MIN: usize = 2 * 32;

/// Memory for so many parts that an object is to have: their tags and checksums, and what they
/// become.
pub(crate) fn parts_bytes(parts: usize) -> usize {
    parts * (size_of::<ChosenPart>() + 2 * STRING_BYTES_MIN + COMPLETION_PART_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(document: &[u8], piece: usize) -> Result<(), BodyFailure> {
        let mut scan = Scan::new(&DELETES, None);
        document
            .chunks(piece)
            .try_for_each(|piece| scan.update(piece))
    }

    #[test]
    fn character_data_is_found_wherever_pieces_end() {
        for piece in 1..30 {
            let found = scan(b"<Key>logs/<![CDATA[2026]]></Key>", piece);
            assert_eq!(found, Err(BodyFailure::CharacterData));
            assert_eq!(
                scan(b"<<![CDATA[x]]>", piece),
                Err(BodyFailure::CharacterData)
            );
            assert_eq!(scan(b"<Key>![CDATA[</Key><![CDAT>", piece), Ok(()));
        }
    }

    #[test]
    fn markup_is_bounded() {
        let objects = |count| b"<Object><Key>a</Key></Object>".repeat(count);
        assert_eq!(scan(&objects(1_001), 4_096), Ok(()));
        assert_eq!(
            scan(&b"<a>".repeat(14_000), 4_096),
            Err(BodyFailure::TooMuchMarkup)
        );
        let full = b"<Object><Key>a</Key><VersionId>null</VersionId><ETag>a</ETag>\
                     <Size>1</Size><LastModifiedTime>x</LastModifiedTime></Object>\n";
        assert_eq!(scan(&full.repeat(1_000), 4_096), Ok(()));
        assert_eq!(scan(&objects(1_002), 5), Err(BodyFailure::TooMuchMarkup));
    }

    #[test]
    fn entries_are_counted_by_their_name() {
        let parts = |count| b"<Part><PartNumber>1</PartNumber></Part >".repeat(count);
        for (count, expected) in [(10_001, Ok(())), (10_002, Err(BodyFailure::TooMuchMarkup))] {
            let mut scan = Scan::new(&PARTS, None);
            let document = parts(count);
            let found = document.chunks(7).try_for_each(|piece| scan.update(piece));
            assert_eq!(found, expected, "{count} parts");
        }
    }

    /// Empty parts once took far more memory than was reserved for them.
    #[test]
    fn there_are_no_more_entries_than_the_length_allows() {
        let scan = |document: &[u8]| Scan::new(&PARTS, Some(document.len())).update(document);
        let whole = b"<Part><ETag>x</ETag><PartNumber>1</PartNumber></Part>";
        assert_eq!(scan(&whole.repeat(500)), Ok(()));
        assert_eq!(scan(b""), Ok(()));
        let bare = b"<Part/>".repeat(500);
        assert_eq!(scan(&bare), Err(BodyFailure::TooMuchMarkup));
    }

    fn bytes(pairs: &[(&'static str, &str)]) -> Result<Option<usize>, String> {
        let headers = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        bytes_to_read("DeleteObjects", &headers).map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn memory_for_documents() {
        let length = |length: &str| bytes(&[("content-length", length)]);
        assert_eq!(length("0"), Ok(None));
        assert!(length("100").unwrap().unwrap() < 128 * 1024);
        let most = length("2097152").unwrap().unwrap();
        assert!((4 << 20..5 << 20).contains(&most), "{most}");
        assert_eq!(bytes(&[]), Ok(Some(most)));
        for long in ["2097153", "99999999999999999999999"] {
            assert_eq!(length(long), Err("MaxMessageLengthExceeded".into()));
        }
        for (length, there) in [("3145728", true), ("3145729", false)] {
            let headers = [(CONTENT_LENGTH, length.parse().unwrap())].into_iter();
            let bytes = bytes_to_read("CompleteMultipartUpload", &headers.collect());
            // What the process has by default for documents and listings.
            let fits = bytes.is_ok_and(|bytes| bytes.is_some_and(|bytes| bytes < 14 << 20));
            assert_eq!(fits, there, "{length}");
        }
        let streaming = [
            ("content-length", "100"),
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ];
        assert_eq!(bytes(&streaming), Err("NotImplemented".into()));
    }
}
