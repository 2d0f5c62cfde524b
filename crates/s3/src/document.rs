//! Documents in requests: what they may look like, and the memory that they take.
//!
//! `s3s` reads a document into memory and parses it, so that whatever bounds it has to happen
//! before (the reservation) or while it streams past (the scan).

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Uri};
use objects::limits::PARTS_MAX;
use s3s::dto::{CompletedPart, ObjectIdentifier};
use s3s::{S3Result, s3_error};

use crate::body_in::BodyFailure;
use crate::framing::is_streaming_payload;
use crate::limits::{
    COMPLETION_MARKUP_MAX, DOCUMENT_MARKUP_MAX, GATHER_BYTES, PAGE_ENTRIES_MAX, XML_BODY_BYTES_MAX,
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
}

impl Scan {
    pub(crate) fn new(kind: &'static Kind) -> Scan {
        Scan {
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
                if self.entries > self.kind.entries_max {
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
    /// Bytes of the shortest entry.
    entry_text_bytes_min: usize,
    /// Most entries, and most markup in the whole document.
    entries_max: usize,
    markup_max: usize,
    /// Memory for one parsed entry, without its strings. Their list grows by doubling: while it
    /// does, old and new are there.
    entry_bytes: usize,
}

/// A multi-delete, and every document that is no list.
static DELETES: Kind = Kind {
    entry: b"<Object",
    entry_text_bytes_min: "<Object><Key></Key></Object>".len(),
    // One more than is allowed, so that the operation says by itself what is wrong.
    entries_max: PAGE_ENTRIES_MAX + 1,
    markup_max: DOCUMENT_MARKUP_MAX,
    entry_bytes: 3 * size_of::<ObjectIdentifier>(),
};

/// The completion of an upload.
static PARTS: Kind = Kind {
    entry: b"<Part",
    entry_text_bytes_min: "<Part><PartNumber>1</PartNumber></Part>".len(),
    entries_max: PARTS_MAX + 1,
    markup_max: COMPLETION_MARKUP_MAX,
    entry_bytes: 3 * size_of::<CompletedPart>(),
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
        None => XML_BODY_BYTES_MAX,
        Some(length) => length
            .to_str()
            .ok()
            .and_then(|length| length.parse().ok())
            .unwrap_or(usize::MAX),
    };
    if length > XML_BODY_BYTES_MAX {
        let message = "The request's XML document may have at most 2 MiB.";
        return Err(s3_error!(MaxMessageLengthExceeded, "{message}"));
    }
    // Its pieces, the whole that they are put together to, and the strings in it.
    let text = 3 * length;
    let entries = (length / kind.entry_text_bytes_min).min(kind.entries_max);
    let parsed = entries * kind.entry_bytes;
    Ok((length > 0).then_some(text + parsed + GATHER_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(document: &[u8], piece: usize) -> Result<(), BodyFailure> {
        let mut scan = Scan::new(&DELETES);
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
            let mut scan = Scan::new(&PARTS);
            let document = parts(count);
            let found = document.chunks(7).try_for_each(|piece| scan.update(piece));
            assert_eq!(found, expected, "{count} parts");
        }
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
        assert!((6 << 20..7 << 20).contains(&most), "{most}");
        assert_eq!(bytes(&[]), Ok(Some(most)));
        for long in ["2097153", "99999999999999999999999"] {
            assert_eq!(length(long), Err("MaxMessageLengthExceeded".into()));
        }
        let streaming = [
            ("content-length", "100"),
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ];
        assert_eq!(bytes(&streaming), Err("NotImplemented".into()));
    }
}
