//! Names on the wire: percent-encoding, what XML cannot carry, continuation tokens.

use std::borrow::Cow;

/// The raw pairs of a query string; a name without `=` has an empty value.
pub(crate) fn query_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Decodes `%XX` and `+`; `None` if the result is not UTF-8. A broken escape stays as it is.
pub(crate) fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = (byte == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(hex_byte);
        match (byte, escape) {
            (_, Some(value)) => {
                decoded.push(value);
                at += 3;
            }
            (b'+', None) => {
                decoded.push(b' ');
                at += 1;
            }
            (byte, None) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let high = char::from(*digits.first()?).to_digit(16)?;
    let low = char::from(*digits.get(1)?).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

/// `encoding-type=url` as S3 does it: all but unreserved characters and slashes.
pub(crate) fn url_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => {
                encoded.push('%');
                for digit in [byte >> 4, byte & 15] {
                    let digit = char::from_digit(u32::from(digit), 16).unwrap_or('0');
                    encoded.push(digit.to_ascii_uppercase());
                }
            }
        }
    }
    encoded
}

/// Whether XML 1.0 has a place for every character.
pub(crate) fn fits_xml(text: &str) -> bool {
    let plain = |byte| (b' '..=b'~').contains(&byte);
    text.bytes().all(plain) || !text.chars().any(outside_xml)
}

fn outside_xml(character: char) -> bool {
    matches!(character,
        '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

/// Replaces what XML 1.0 has no place for, for messages.
pub(crate) fn for_xml(text: &str) -> Cow<'_, str> {
    if fits_xml(text) {
        return Cow::Borrowed(text);
    }
    let replace = |character| {
        if outside_xml(character) {
            '\u{fffd}'
        } else {
            character
        }
    };
    Cow::Owned(text.chars().map(replace).collect())
}

/// Escapes text for an XML element.
pub(crate) fn escape_xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in for_xml(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\r' => escaped.push_str("&#xD;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// How long text is in an XML element, at most.
pub(crate) fn escaped_len(text: &str) -> usize {
    let length = |byte| match byte {
        b'&' | b'<' | b'>' | b'"' | b'\'' | b'\r' | b'\n' | b'\t' => "&quot;".len(),
        _ => 1,
    };
    text.bytes().map(length).sum()
}

/// What a continuation token begins with, so that a token of another kind is noticed.
const TOKEN_VERSION: u8 = 1;

/// A continuation token: opaque to clients, safe in XML and URLs.
pub(crate) fn to_token(start_after: &str) -> String {
    let mut bytes = Vec::with_capacity(start_after.len() + 1);
    bytes.push(TOKEN_VERSION);
    bytes.extend_from_slice(start_after.as_bytes());
    base64_simd::URL_SAFE_NO_PAD.encode_to_string(&bytes)
}

/// The place that a continuation token names; `None` if this server did not make it.
pub(crate) fn from_token(token: &str) -> Option<String> {
    let bytes = base64_simd::URL_SAFE_NO_PAD
        .decode_to_vec(token.as_bytes())
        .ok()?;
    let (&version, start_after) = bytes.split_first()?;
    if version != TOKEN_VERSION {
        return None;
    }
    String::from_utf8(start_after.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_s3_decodes() {
        assert_eq!(percent_decode("a%2Fb+c").as_deref(), Some("a/b c"));
        assert_eq!(percent_decode("%61cl").as_deref(), Some("acl"));
        assert_eq!(percent_decode("100%").as_deref(), Some("100%"));
        assert_eq!(percent_decode("%zz").as_deref(), Some("%zz"));
        assert_eq!(percent_decode("%ff"), None);
    }

    #[test]
    fn encodes_as_s3_does() {
        assert_eq!(url_encode("foo+1/bar"), "foo%2B1/bar");
        assert_eq!(url_encode("quux ab/"), "quux%20ab/");
        assert_eq!(url_encode("\u{1}ü"), "%01%C3%BC");
        assert_eq!(
            percent_decode(&url_encode("~a b/%+\n")).as_deref(),
            Some("~a b/%+\n")
        );
    }

    #[test]
    fn knows_what_xml_cannot_carry() {
        assert!(fits_xml("a\tb\nc\rü"));
        assert!(!fits_xml("a\u{1}"));
        assert!(!fits_xml("\u{ffff}"));
        assert_eq!(for_xml("a\u{1}b"), "a\u{fffd}b");
        assert_eq!(
            escape_xml("<a & 'b'>\u{0}"),
            "&lt;a &amp; &apos;b&apos;&gt;\u{fffd}"
        );
    }

    #[test]
    fn escaped_text_is_as_long_as_announced() {
        for text in ["", "plain ü", "<a & \"b\" 'c'>\r\n\t"] {
            assert!(escape_xml(text).len() <= escaped_len(text), "{text:?}");
        }
        assert_eq!(escaped_len("ab"), 2);
    }

    #[test]
    fn tokens_come_back_and_strangers_do_not() {
        for key in ["", "a", "ü/\u{1}", &"x".repeat(1024)] {
            assert_eq!(from_token(&to_token(key)).as_deref(), Some(key));
        }
        for bad in ["", "!", "AA", "Zm9v"] {
            assert_eq!(from_token(bad), None, "{bad}");
        }
    }

    #[test]
    fn splits_queries() {
        let pairs: Vec<_> = query_pairs("acl&a=b=c&&x=").collect();
        assert_eq!(pairs, [("acl", ""), ("a", "b=c"), ("x", "")]);
    }
}
