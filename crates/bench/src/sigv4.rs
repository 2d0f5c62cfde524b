//! AWS Signature Version 4 for S3, by header and in the query. Written apart from the
//! server's, so that the two agree because both follow the specification.

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What a client signs with.
#[derive(Clone)]
pub struct Credentials {
    /// The access key's id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The region that stands in the scope of signatures.
    pub region: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// A request before it is signed.
#[derive(Debug)]
pub struct Unsigned<'a> {
    /// In capitals.
    pub method: &'a str,
    /// As in the `Host` header.
    pub host: &'a str,
    /// Not encoded yet; begins with `/`.
    pub path: &'a str,
    /// Not encoded yet.
    pub query: &'a [(&'a str, &'a str)],
    /// `x-amz-*` headers beside the date and the body's hash; names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
    /// In hexadecimal digits, or one of S3's words for it.
    pub body_sha256: &'a str,
}

/// The request line's target and the headers, ready to be sent.
#[derive(Debug)]
pub struct Signed {
    /// Path and query, encoded.
    pub target: String,
    /// Those that have to be sent, `host` among them; names in lower case.
    pub headers: Vec<(String, String)>,
}

/// Signs a request as of now.
pub fn sign(request: &Unsigned<'_>, credentials: &Credentials) -> Signed {
    sign_at(request, credentials, SystemTime::now())
}

fn sign_at(request: &Unsigned<'_>, credentials: &Credentials, now: SystemTime) -> Signed {
    let timestamp = timestamp(now);
    let day = &timestamp[..8];
    let mut headers: Vec<(String, String)> = vec![
        ("host".to_owned(), request.host.to_owned()),
        (
            "x-amz-content-sha256".to_owned(),
            request.body_sha256.to_owned(),
        ),
        ("x-amz-date".to_owned(), timestamp.clone()),
    ];
    headers.extend(
        request
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    headers.sort();
    let signed_names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let signed_names = signed_names.join(";");

    let path = encoded(request.path, true);
    let query = canonical_query(request.query);
    let header_lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{}\n", value.trim()))
        .collect();
    let canonical = format!(
        "{}\n{path}\n{query}\n{header_lines}\n{signed_names}\n{}",
        request.method, request.body_sha256
    );
    let scope = format!("{day}/{}/s3/aws4_request", credentials.region);
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{}",
        hex(&Sha256::digest(canonical))
    );
    let key = signing_key(credentials, day);
    let signature = hex(&hmac(&key, to_sign.as_bytes()));
    headers.push((
        "authorization".to_owned(),
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed_names}, Signature={signature}",
            credentials.access_key
        ),
    ));
    let target = if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    };
    Signed { target, headers }
}

fn signing_key(credentials: &Credentials, day: &str) -> Vec<u8> {
    let secret = format!("AWS4{}", credentials.secret_key);
    [day, &credentials.region, "s3", "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| hmac(&key, part.as_bytes()))
}

/// Signs requests in their query (presigned), all as of one moment: the query of each differs
/// in its signature alone, which comes last. Bodies are not signed (`UNSIGNED-PAYLOAD`).
#[derive(Debug)]
pub struct Presigner {
    key: Vec<u8>,
    scope: String,
    timestamp: String,
    host: String,
    access_key: String,
}

/// How long a presigned request is valid, in seconds: the longest that S3 allows.
const PRESIGNED_SECONDS: u32 = 604_800;

impl Presigner {
    /// As of `now`, for requests to `host` as the `Host` header has it.
    pub fn new(credentials: &Credentials, host: &str, now: SystemTime) -> Presigner {
        let timestamp = timestamp(now);
        let day = &timestamp[..8];
        Presigner {
            key: signing_key(credentials, day),
            scope: format!("{day}/{}/s3/aws4_request", credentials.region),
            host: host.to_owned(),
            access_key: credentials.access_key.clone(),
            timestamp,
        }
    }

    /// The canonical query without its signature: what stands in every request, and `query`
    /// (not encoded yet).
    pub fn query(&self, query: &[(&str, &str)]) -> String {
        let credential = format!("{}/{}", self.access_key, self.scope);
        let expires = PRESIGNED_SECONDS.to_string();
        let mut all = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &self.timestamp),
            ("X-Amz-Expires", &expires),
            ("X-Amz-SignedHeaders", "host"),
        ];
        all.extend_from_slice(query);
        canonical_query(&all)
    }

    /// The signature of a request whose path is encoded and whose query [`Self::query`] made.
    pub fn signature(&self, method: &str, encoded_path: &str, query: &str) -> [u8; 32] {
        let canonical = format!(
            "{method}\n{encoded_path}\n{query}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
            self.host
        );
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{}\n{}\n{}",
            self.timestamp,
            self.scope,
            hex(&Sha256::digest(canonical))
        );
        let mut signature = [0; 32];
        signature.copy_from_slice(&hmac(&self.key, to_sign.as_bytes()));
        signature
    }

    /// Path and query of a request, signed. The path is not encoded yet.
    pub fn target(&self, method: &str, path: &str, query: &[(&str, &str)]) -> String {
        let path = encoded(path, true);
        let query = self.query(query);
        let signature = hex(&self.signature(method, &path, &query));
        format!("{path}?{query}&X-Amz-Signature={signature}")
    }
}

/// Names and values encoded and in order, as they are signed.
pub fn canonical_query(query: &[(&str, &str)]) -> String {
    let mut pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name, false), encoded(value, false)))
        .collect();
    pairs.sort();
    pairs.join("&")
}

/// Percent-encoded as S3 signs it.
pub fn encoded(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if keep_slashes => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20261123T235959Z`.
fn timestamp(now: SystemTime) -> String {
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// The date that lies `days` after 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The GET Object example of Amazon's "Authenticating Requests: Using the Authorization
    /// Header", with its Range header left to `headers`.
    #[test]
    fn signs_amazons_example() {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            region: "us-east-1".to_owned(),
        };
        let empty = hex(&Sha256::digest([]));
        let request = Unsigned {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            query: &[],
            headers: &[("range", "bytes=0-9")],
            body_sha256: &empty,
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        assert_eq!(timestamp(now), "20130524T000000Z");
        let signed = sign_at(&request, &credentials, now);
        let (_, authorization) = signed.headers.last().expect("headers");
        assert!(
            authorization
                .ends_with("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
            "{authorization}"
        );
    }

    /// Against a signature that botocore's signer made of the same request.
    #[test]
    fn signs_bodies_as_botocore_does() {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            region: "us-east-1".to_owned(),
        };
        let request = Unsigned {
            method: "POST",
            host: "127.0.0.1:9000",
            path: "/_cullet/admin/accounts/create",
            query: &[],
            headers: &[],
            body_sha256: &hex(&Sha256::digest(b"{\"name\":\"analytics\"}")),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let signed = sign_at(&request, &credentials, now);
        let (_, authorization) = signed.headers.last().expect("headers");
        assert!(
            authorization
                .ends_with("7099cbcb50d6a022179d202ddbf8f75bc8d699bea55ce9acdc7d41942b296419"),
            "{authorization}"
        );
    }

    /// The example of Amazon's "Authenticating Requests: Using Query Parameters", which is valid
    /// for a day instead of a week.
    #[test]
    fn presigns_amazons_example() {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            region: "us-east-1".to_owned(),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let presigner = Presigner::new(&credentials, "examplebucket.s3.amazonaws.com", now);
        let query = presigner.query(&[]).replace("604800", "86400");
        assert_eq!(
            hex(&presigner.signature("GET", "/test.txt", &query)),
            "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    #[test]
    fn dates_of_leap_years() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_780), (2026, 11, 23));
    }
}
