//! The parts that records are made of: fixed little-endian values first, then fields.
//!
//! ```text
//! field    u8 tag | u16 length LE | bytes
//! ```
//! A reader that does not know a tag keeps the field and writes it back; tags from 128 on are
//! critical: a reader that does not know one must not use the record.

use crate::{Error, Result};

/// Fields with this bit in their tag must be understood.
pub(crate) const CRITICAL: u8 = 0x80;

/// Fields that this release does not know, in the order they were found.
pub type UnknownFields = Vec<(u8, Vec<u8>)>;

/// Takes little-endian values off the front; `None` when too little is left.
pub(crate) struct Take<'a>(pub(crate) &'a [u8]);

impl<'a> Take<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A field: tag and bytes.
    pub(crate) fn field(&mut self) -> Option<(u8, &'a [u8])> {
        let tag = self.u8()?;
        let len = self.u16()?;
        Some((tag, self.bytes(len.into())?))
    }
}

/// Appends a field. Limits above keep every field far below 64 KiB.
pub(crate) fn put_field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) -> Result<()> {
    out.push(tag);
    put_short(out, bytes)
}

/// Appends the fields that were kept for the release that knows them.
pub(crate) fn put_unknown(out: &mut Vec<u8>, unknown: &UnknownFields) -> Result<()> {
    for (tag, bytes) in unknown {
        put_field(out, *tag, bytes)?;
    }
    Ok(())
}

/// Hands each field of the record `what` to `known`, and keeps what that does not take
/// (`false`). Refuses what is critical and not taken.
pub(crate) fn take_fields(
    what: &str,
    mut take: Take<'_>,
    mut known: impl FnMut(u8, &[u8]) -> Result<bool>,
) -> Result<UnknownFields> {
    let mut unknown = UnknownFields::new();
    while !take.0.is_empty() {
        let (tag, bytes) = take
            .field()
            .ok_or_else(|| corrupt(what, "a field is cut short"))?;
        if known(tag, bytes)? {
            continue;
        }
        if tag & CRITICAL != 0 {
            return Err(corrupt(what, &format!("field {tag} is of a newer cullet")));
        }
        unknown.push((tag, bytes.to_vec()));
    }
    Ok(unknown)
}

/// The text of a field.
pub(crate) fn text(what: &str, bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| corrupt(what, "a field is not text"))
}

/// Appends a u16 length and the bytes.
pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    let len = u16::try_from(bytes.len())
        .map_err(|_| Error::Internal(format!("a field of {} bytes", bytes.len())))?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// What every decoder says about bytes that it cannot make sense of.
pub(crate) fn corrupt(what: &str, why: &str) -> Error {
    Error::Corrupt {
        what: what.to_owned(),
        place: why.to_owned(),
    }
}

/// Little-endian `i64` counters as merges leave them; a missing one counts 0.
pub(crate) fn counters<const N: usize>(value: &[u8]) -> [i64; N] {
    let mut take = Take(value);
    std::array::from_fn(|_| take.array().map_or(0, i64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_padded_with_zeros() {
        let mut value = (-1_i64).to_le_bytes().to_vec();
        value.extend_from_slice(&[1, 2, 3]);
        assert_eq!(counters(&value), [-1, 0]);
        assert_eq!(counters(&[]), [0]);
    }

    #[test]
    fn a_field_never_reaches_past_the_end() {
        assert_eq!(Take(&[1, 2, 0, 8, 9]).field(), Some((1, &[8, 9][..])));
        assert_eq!(Take(&[1, 3, 0, 8, 9]).field(), None);
        assert_eq!(Take(&[1, 3]).field(), None);
        assert!(put_field(&mut Vec::new(), 1, &vec![0; 65_536]).is_err());
    }
}
