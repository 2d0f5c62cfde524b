//! Sizes on the command line.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, written like `64MiB`, `2GB` or `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Units, each with its number of bytes; the first of a kind is what sizes are shown in.
const UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim();
        let bytes = UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let size = number.parse::<u64>().ok().zip(bytes);
        match size.and_then(|(number, (_, bytes))| number.checked_mul(*bytes)) {
            Some(size) => Ok(ByteSize(size)),
            None => Err(format!(
                "{text:?} is not a size; write it like 512MiB, 2GiB or 10GB"
            )),
        }
    }
}

impl ByteSize {
    /// For people: three digits, in the largest unit that it fills.
    pub(crate) fn rough(self) -> String {
        let fills = |(_, bytes): &&(&str, u64)| self.0 >= *bytes;
        match UNITS[2..6].iter().rev().find(fills) {
            None => format!("{}B", self.0),
            Some((name, bytes)) => {
                let size = self.0 as f64 / *bytes as f64;
                let digits = usize::from(size < 100.0);
                format!("{size:.digits$}{name}")
            }
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |bytes: &u64| self.0 >= *bytes && self.0.is_multiple_of(*bytes);
        let unit = UNITS[1..6].iter().rev().find(|(_, bytes)| fits(bytes));
        let (name, bytes) = unit.copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_shown_three_digits() {
        let sizes = [0, 1023, 1024, 1536, 300 << 20, 9_765_625 << 10, 3 << 40];
        let shown = sizes.map(|size| ByteSize(size).rough());
        let expected = [
            "0B", "1023B", "1.0KiB", "1.5KiB", "300MiB", "9.3GiB", "3.0TiB",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("256MiB", 256 << 20, "256MiB"),
            ("1 GiB", 1 << 30, "1GiB"),
            ("2g", 2 << 30, "2GiB"),
            ("10GB", 10_000_000_000, "9765625KiB"),
            ("1000", 1_000, "1000B"),
            ("0", 0, "0B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(
                (size.0, size.to_string().as_str()),
                (bytes, shown),
                "{text}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "MiB", "1.5GiB", "-1", "1 XB", "99999999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
