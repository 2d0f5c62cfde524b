//! How long a certificate is valid: the one thing of it that the TLS library does not tell.
//!
//! ```text
//!   Certificate ::= SEQUENCE { tbsCertificate, .. }
//!   tbsCertificate ::= SEQUENCE { [0] version?, serial, signature, issuer,
//!                                 validity SEQUENCE { notBefore, notAfter }, .. }
//! ```
//! Bytes of a file: whatever they are, reading ends with a value or with `None`.

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When a DER certificate's validity begins and ends, in seconds since 1970.
pub(crate) fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (SEQUENCE, certificate, _) = element(der)? else {
        return None;
    };
    let (SEQUENCE, mut fields, _) = element(certificate)? else {
        return None;
    };
    if let (VERSION, _, rest) = element(fields)? {
        fields = rest;
    }
    for _serial_signature_issuer in 0..3 {
        fields = element(fields)?.2;
    }
    let (SEQUENCE, times, _) = element(fields)? else {
        return None;
    };
    let (begin_kind, begin, rest) = element(times)?;
    let (end_kind, end, _) = element(rest)?;
    Some((time(begin_kind, begin)?, time(end_kind, end)?))
}

/// The first element: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        // Up to three bytes of length: more than any file that is read here.
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            let length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, as RFC 5280 restricts them.
fn time(kind: u8, text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (year, rest) = match (kind, digits.len()) {
        (UTC_TIME, 12) => digits.split_at(2),
        (GENERALIZED_TIME, 14) => digits.split_at(4),
        _ => return None,
    };
    let number = |digits: &[u8]| digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0'));
    let year = match (kind, number(year)) {
        (UTC_TIME, year @ 0..50) => year + 2000,
        (UTC_TIME, year) => year + 1900,
        (_, year) => year,
    };
    let part = |at: usize| number(&rest[2 * at..2 * at + 2]);
    let (month, day) = (part(0), part(1));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = part(2) * 3_600 + part(3) * 60 + part(4);
    Some(days_since_1970(year, month, day) * 86_400 + seconds)
}

/// Days from 1970-01-01 in the Gregorian calendar, with years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let utc = |text: &str| time(UTC_TIME, text.as_bytes());
        let general = |text: &str| time(GENERALIZED_TIME, text.as_bytes());
        assert_eq!(utc("700101000000Z"), Some(0));
        assert_eq!(general("19700101000000Z"), Some(0));
        assert_eq!(utc("000229123456Z"), Some(951_827_696));
        assert_eq!(general("20500101000000Z"), Some(2_524_608_000));
        assert_eq!(utc("500101000000Z"), Some(-631_152_000));
        for bad in [
            "",
            "Z",
            "7001010000Z",
            "700101000000",
            "701301000000Z",
            "x00101000000Z",
        ] {
            assert_eq!(utc(bad), None, "{bad}");
        }
    }

    #[test]
    fn validity_is_found_and_nonsense_is_not() {
        let sequence = |content: &[u8]| [&[SEQUENCE, content.len() as u8], content].concat();
        let at = |text: &str| [&[UTC_TIME, 13], text.as_bytes()].concat();
        let times = [at("700101000001Z"), at("700101000002Z")].concat();
        let version = [VERSION, 3, 2, 1, 2].as_slice();
        let (serial, empty) = ([2, 1, 9], sequence(&[]));
        let inner = [version, &serial, &empty, &empty, &sequence(&times)].concat();
        let whole = sequence(&sequence(&inner));
        assert_eq!(validity(&whole), Some((1, 2)));
        for cut in 0..whole.len() {
            assert_eq!(validity(&whole[..cut]), None);
        }
        assert_eq!(validity(&[0xFF; 64]), None);
    }
}
