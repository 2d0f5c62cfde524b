//! Objects: what describes one, and what asks for one.

use crate::limits::{METADATA_BYTES_MAX, METADATA_ENTRY_BYTES, METADATA_USER_BYTES_MAX};
use crate::{AccountId, Checksum, Error, Result};

/// Milliseconds since the Unix epoch. For people; order never depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The wall clock; 0 if it stands before 1970.
    pub fn now() -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    /// From milliseconds since the Unix epoch.
    pub fn from_millis(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> u64 {
        self.0
    }
}

/// An entity tag without quotes: the MD5 of the body in hexadecimal; of a body in parts, the MD5
/// of theirs, a hyphen and their number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag(String);

impl ETag {
    /// From its text without quotes. At most 255 bytes are kept with an object.
    pub fn new(text: impl Into<String>) -> ETag {
        ETag(text.into())
    }

    /// The usual tag: the MD5 of the body.
    pub fn from_md5(digest: [u8; 16]) -> ETag {
        let mut text = String::with_capacity(32);
        for byte in digest {
            text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        ETag(text)
    }

    /// The digest, if the text is one in lower-case hexadecimal.
    pub fn md5(&self) -> Option<[u8; 16]> {
        let text: &[u8; 32] = self.0.as_bytes().try_into().ok()?;
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut digest = [0; 16];
        for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
            *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
        }
        Some(digest)
    }

    /// The text without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ETag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client stores beside the body and gets back with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Expires`, as it was sent.
    pub expires: Option<String>,
    /// `x-amz-meta-*`, names without that prefix, in the order they were sent.
    pub user: Vec<(String, String)>,
}

impl Metadata {
    /// Checks the limits: 2 KiB of user metadata, names and values; 8 KiB of all, counting
    /// four bytes more for each entry.
    pub fn check(&self) -> Result<()> {
        let within = |what, bytes, limit| match bytes <= limit {
            true => Ok(()),
            false => Err(Error::MetadataTooLarge { what, bytes, limit }),
        };
        let user: usize = self
            .user
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        within("the user metadata", user, METADATA_USER_BYTES_MAX)?;
        let system: usize = self
            .system_values()
            .map(|v| v.len() + METADATA_ENTRY_BYTES)
            .sum();
        let all = system + user + self.user.len() * METADATA_ENTRY_BYTES;
        within("the metadata", all, METADATA_BYTES_MAX)
    }
}

/// One version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Bytes of the body.
    pub size: u64,
    /// The entity tag.
    pub etag: ETag,
    /// When it was committed, by the server's clock.
    pub modified: Timestamp,
    /// What the client stored beside the body.
    pub metadata: Metadata,
    /// The checksum that was verified or computed when the body came.
    pub checksum: Option<Checksum>,
    /// How many parts it was uploaded in; `None`: it was put as a whole.
    pub parts: Option<u16>,
    /// The account that wrote it.
    pub owner: AccountId,
    /// The commit sequence: a later version of a key has a larger one.
    pub version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_digest_only_if_it_comes_back_the_same() {
        let digest = [0x0f; 16];
        assert_eq!(ETag::from_md5(digest).as_str(), "0f".repeat(16));
        assert_eq!(ETag::from_md5(digest).md5(), Some(digest));
        for other in ["", "0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F", "0123-2"] {
            assert_eq!(ETag::new(other).md5(), None, "{other}");
        }
        assert_eq!(ETag::new("g".repeat(32)).md5(), None);
    }

    #[test]
    fn metadata_limits() {
        let user = |bytes: usize| Metadata {
            user: vec![("n".to_owned(), "v".repeat(bytes - 1))],
            ..Metadata::default()
        };
        assert!(user(METADATA_USER_BYTES_MAX).check().is_ok());
        assert!(user(METADATA_USER_BYTES_MAX + 1).check().is_err());
        let system = |bytes: usize| Metadata {
            content_type: Some("t".repeat(bytes - METADATA_ENTRY_BYTES)),
            ..Metadata::default()
        };
        assert!(system(METADATA_BYTES_MAX).check().is_ok());
        assert!(system(METADATA_BYTES_MAX + 1).check().is_err());
    }
}
