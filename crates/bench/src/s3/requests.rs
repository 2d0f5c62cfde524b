//! Requests as bytes, ready to be sent. What is sent again and again is signed beforehand: all
//! requests of a kind share their text, but for the key's number and the signature.

use crate::s3::body::write_digits;
use crate::sigv4::{Presigner, canonical_query, encoded};

/// Digits of an object's number in its key.
const KEY_DIGITS: usize = 8;

/// Where requests go, and who signs them.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) bucket: String,
    pub(crate) prefix: String,
    /// `None` sends them unsigned.
    pub(crate) presigner: Option<Presigner>,
}

impl Target {
    /// The key of object `number`.
    pub(crate) fn key(&self, number: u64) -> String {
        let mut digits = [0; KEY_DIGITS];
        write_digits(number, &mut digits);
        format!("{}{}", self.prefix, String::from_utf8_lossy(&digits))
    }

    /// Writes a request without a body for the bucket itself.
    pub(crate) fn write_bucket_request(
        &self,
        method: &str,
        query: &[(&str, &str)],
        out: &mut Vec<u8>,
    ) {
        let path = format!("/{}", self.bucket);
        let target = match &self.presigner {
            Some(presigner) => presigner.target(method, &path, query),
            None if query.is_empty() => path,
            None => format!("{path}?{}", canonical_query(query)),
        };
        let length = if method == "PUT" {
            "content-length: 0\r\n"
        } else {
            ""
        };
        let host = &self.host;
        let text = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n{length}\r\n");
        out.clear();
        out.extend_from_slice(text.as_bytes());
    }
}

/// One request for each object.
#[derive(Debug)]
pub(crate) struct Requests {
    before_number: Vec<u8>,
    /// Up to the signature, where there is one.
    behind_number: Vec<u8>,
    /// One per object; none if requests are not signed.
    signatures: Vec<[u8; 32]>,
    end: Vec<u8>,
}

impl Requests {
    /// Signs one request for each of the first `objects`; `body_bytes` is what a PUT announces.
    pub(crate) fn new(
        target: &Target,
        method: &str,
        objects: u64,
        body_bytes: Option<u64>,
    ) -> Requests {
        let before_path = encoded(&format!("/{}/{}", target.bucket, target.prefix), true);
        let length = body_bytes.map_or(String::new(), |bytes| {
            format!("content-length: {bytes}\r\n")
        });
        let mut behind_number = String::new();
        let mut signatures = Vec::new();
        if let Some(presigner) = &target.presigner {
            let query = presigner.query(&[]);
            let sign = |number| {
                let path = encoded(&format!("/{}/{}", target.bucket, target.key(number)), true);
                presigner.signature(method, &path, &query)
            };
            signatures = (0..objects).map(sign).collect();
            behind_number = format!("?{query}&X-Amz-Signature=");
        }
        Requests {
            before_number: format!("{method} {before_path}").into_bytes(),
            behind_number: behind_number.into_bytes(),
            signatures,
            end: format!(" HTTP/1.1\r\nhost: {}\r\n{length}\r\n", target.host).into_bytes(),
        }
    }

    /// Writes the request for object `number` in place of what `out` held.
    pub(crate) fn write(&self, number: u64, out: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        out.clear();
        out.extend_from_slice(&self.before_number);
        let mut digits = [0; KEY_DIGITS];
        write_digits(number, &mut digits);
        out.extend_from_slice(&digits);
        out.extend_from_slice(&self.behind_number);
        if let Some(signature) = self.signatures.get(number as usize) {
            let mut digits = [0; 64];
            for (pair, byte) in digits.chunks_exact_mut(2).zip(signature) {
                pair[0] = HEX[usize::from(byte >> 4)];
                pair[1] = HEX[usize::from(byte & 15)];
            }
            out.extend_from_slice(&digits);
        }
        out.extend_from_slice(&self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::OBJECTS_MAX;
    use crate::sigv4::Credentials;
    use std::time::SystemTime;

    const _: () = assert!(OBJECTS_MAX <= 10_u64.pow(KEY_DIGITS as u32));

    fn target(signed: bool) -> Target {
        let credentials = Credentials {
            access_key: "KEY".to_owned(),
            secret_key: "SECRET".to_owned(),
            region: "us-east-1".to_owned(),
        };
        let host = "127.0.0.1:9000".to_owned();
        let now = SystemTime::now();
        Target {
            presigner: signed.then(|| Presigner::new(&credentials, &host, now)),
            host,
            bucket: "bench".to_owned(),
            prefix: "a b/".to_owned(),
        }
    }

    #[test]
    fn prepared_requests_are_those_that_would_be_signed_one_by_one() {
        let target = target(true);
        let requests = Requests::new(&target, "PUT", 3, Some(17));
        let mut bytes = Vec::new();
        requests.write(2, &mut bytes);
        let presigner = target.presigner.as_ref().expect("signed");
        let expected = format!(
            "PUT {} HTTP/1.1\r\nhost: 127.0.0.1:9000\r\ncontent-length: 17\r\n\r\n",
            presigner.target("PUT", "/bench/a b/00000002", &[])
        );
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    #[test]
    fn unsigned_requests_carry_no_query() {
        let requests = Requests::new(&target(false), "GET", 3, None);
        let mut bytes = b"rubbish".to_vec();
        requests.write(1, &mut bytes);
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            "GET /bench/a%20b/00000001 HTTP/1.1\r\nhost: 127.0.0.1:9000\r\n\r\n"
        );
    }
}
