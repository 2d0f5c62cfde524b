//! Bodies: made up once, shared by all requests, and yet different for every object, so that
//! neither compression nor deduplication helps a server, and a mix-up of objects is seen.

use crate::http::Payload;
use crate::limits::{BODY_BLOCK_BYTES, STAMP_BYTES};

/// The bodies of all objects: a stamp that names the object, then a block that repeats.
#[derive(Debug)]
pub(crate) struct Body {
    block: Vec<u8>,
    size: u64,
}

impl Body {
    pub(crate) fn new(size: u64) -> Body {
        let length = size.clamp(1, BODY_BLOCK_BYTES) as usize;
        let mut random = Random::new(0);
        let mut block = Vec::with_capacity(length + 8);
        while block.len() < length {
            block.extend_from_slice(&random.next().to_le_bytes());
        }
        block.truncate(length);
        Body { block, size }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The bytes that the body of object `number` begins with.
    pub(crate) fn write_stamp(&self, number: u64, out: &mut Vec<u8>) {
        let digits = stamp(number);
        out.extend_from_slice(&digits[..self.stamp_bytes()]);
    }

    /// The rest of it.
    pub(crate) fn payload(&self) -> Payload<'_> {
        Payload {
            block: &self.block,
            from: self.stamp_bytes() as u64,
            until: self.size,
        }
    }

    fn stamp_bytes(&self) -> usize {
        self.size.min(STAMP_BYTES as u64) as usize
    }

    /// Whether these are the bytes of object `number` from `position` on.
    pub(crate) fn matches(&self, number: u64, position: u64, bytes: &[u8]) -> bool {
        let (mut position, mut bytes) = (position, bytes);
        let stamp = stamp(number);
        if position < self.stamp_bytes() as u64 {
            let expected = &stamp[position as usize..self.stamp_bytes()];
            let count = expected.len().min(bytes.len());
            if bytes[..count] != expected[..count] {
                return false;
            }
            (position, bytes) = (position + count as u64, &bytes[count..]);
        }
        while !bytes.is_empty() {
            let offset = (position % self.block.len() as u64) as usize;
            let expected = &self.block[offset..];
            let count = expected.len().min(bytes.len());
            if bytes[..count] != expected[..count] {
                return false;
            }
            (position, bytes) = (position + count as u64, &bytes[count..]);
        }
        true
    }
}

fn stamp(number: u64) -> [u8; STAMP_BYTES] {
    let mut digits = [b'0'; STAMP_BYTES];
    write_digits(number, &mut digits);
    digits
}

/// Writes a number in decimal digits to the end of `digits`.
pub(crate) fn write_digits(number: u64, digits: &mut [u8]) {
    let mut left = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
}

/// Marsaglia's xorshift, with a multiplication behind it: the same numbers for the same seed.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &Body, number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        body.write_stamp(number, &mut bytes);
        let payload = body.payload();
        bytes.extend(
            (payload.from..payload.until)
                .map(|at| body.block[(at % body.block.len() as u64) as usize]),
        );
        bytes
    }

    #[test]
    fn bodies_are_recognised_in_any_pieces() {
        for size in [0, 1, 15, 16, 17, 5000, BODY_BLOCK_BYTES + 33] {
            let body = Body::new(size);
            let mut bytes = whole(&body, 42);
            assert_eq!(bytes.len() as u64, size);
            let mut position = 0;
            for piece in bytes.chunks(7_777) {
                assert!(body.matches(42, position, piece), "{size}");
                position += piece.len() as u64;
            }
            if size >= 16 {
                assert!(!body.matches(43, 0, &bytes), "another object's body");
            }
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
                assert!(!body.matches(42, 0, &bytes), "a flipped bit in {size}");
            }
        }
    }
}
