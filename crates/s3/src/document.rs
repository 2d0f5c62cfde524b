//! Documents in requests: what they may look like, and the memory that they take.
//!
//! `s3s` reads a document into memory and parses it, so that whatever bounds it has to happen
//! before (the reservation) or while it streams past (the scan).

use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use s3s::dto::ObjectIdentifier;
use s3s::{S3Result, s3_error};

use crate::body_in::BodyFailure;
use crate::framing::is_streaming_payload;
use crate::limits::{DOCUMENT_MARKUP_MAX, GATHER_BYTES, PAGE_ENTRIES_MAX, XML_BODY_BYTES_MAX};

/// `s3s` drops these sections, so that `<Key>a<![CDATA[b]]></Key>` would delete another key.
const CDATA: &[u8] = b"<![CDATA[";

/// Looks at a document as it streams past.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// How much of [`CDATA`] the last bytes are.
    matched: usize,
    /// Each `<` so far. Nothing can be parsed out of a document without them, so that their
    /// number bounds what the parsed form takes.
    markup: usize,
}

impl Scan {
    pub(crate) fn update(&mut self, data: &[u8]) -> Result<(), BodyFailure> {
        for &byte in data {
            if byte == b'<' {
                self.markup += 1;
                if self.markup > DOCUMENT_MARKUP_MAX {
                    return Err(BodyFailure::TooMuchMarkup);
                }
                // The pattern's first byte occurs in it only once.
                self.matched = 1;
            } else if self.matched > 0 {
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

/// The memory for reading and parsing the document that a request brings; `None` if it brings
/// none.
pub(crate) fn bytes_to_read(headers: &HeaderMap) -> S3Result<Option<usize>> {
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
    let entries = (length / ENTRY_TEXT_BYTES_MIN).min(DOCUMENT_MARKUP_MAX / ENTRY_MARKUP_MIN);
    let parsed = entries * ENTRY_BYTES;
    Ok((length > 0).then_some(text + parsed + GATHER_BYTES))
}

/// The shortest entry of a multi-delete, and the markup in it.
const ENTRY_TEXT_BYTES_MIN: usize = "<Object><Key></Key></Object>".len();
const ENTRY_MARKUP_MIN: usize = 4;

const _: () = assert!(PAGE_ENTRIES_MAX * ENTRY_MARKUP_MIN < DOCUMENT_MARKUP_MAX);

/// Memory for one parsed entry, without its strings. Their list grows by doubling: while it does,
/// old and new are there.
const ENTRY_BYTES: usize = 3 * size_of::<ObjectIdentifier>();

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(document: &[u8], piece: usize) -> Result<(), BodyFailure> {
        let mut scan = Scan::default();
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
            scan(&objects(70_000), 4_096),
            Err(BodyFailure::TooMuchMarkup)
        );
        let full = b"<Object><Key>a</Key><VersionId>null</VersionId><ETag>a</ETag>\
                     <Size>1</Size><LastModifiedTime>x</LastModifiedTime></Object>\n";
        assert_eq!(scan(&full.repeat(1_000), 4_096), Ok(()));
    }

    fn bytes(pairs: &[(&'static str, &str)]) -> Result<Option<usize>, String> {
        let headers = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        bytes_to_read(&headers).map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn memory_for_documents() {
        let length = |length: &str| bytes(&[("content-length", length)]);
        assert_eq!(length("0"), Ok(None));
        assert!(length("100").unwrap().unwrap() < 128 * 1024);
        let most = length("2097152").unwrap().unwrap();
        assert!((6 << 20..8 << 20).contains(&most), "{most}");
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
