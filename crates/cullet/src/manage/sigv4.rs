//! AWS Signature Version 4 by header, as much as administration needs: a POST to a plain path
//! without a query. Written apart from the server's, so that the two agree because both follow
//! the specification.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use s3::Credentials;

use crate::time_text::rfc3339;

/// A request before it is signed.
pub(crate) struct Unsigned<'a> {
    pub(crate) host: &'a str,
    /// Needs no encoding.
    pub(crate) path: &'a str,
    pub(crate) region: &'a str,
    pub(crate) body: &'a [u8],
}

/// The headers to be sent beside `host`, ready made.
pub(crate) fn sign(
    request: &Unsigned<'_>,
    credentials: &Credentials,
    now: SystemTime,
) -> Vec<(&'static str, String)> {
    const NAMES: &str = "host;x-amz-content-sha256;x-amz-date";
    let timestamp = timestamp(now);
    let day = &timestamp[..8];
    let sum = sha256(request.body);
    let canonical = format!(
        "POST\n{}\n\nhost:{}\nx-amz-content-sha256:{sum}\nx-amz-date:{timestamp}\n\n{NAMES}\n{sum}",
        request.path, request.host
    );
    let scope = format!("{day}/{}/s3/aws4_request", request.region);
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{}",
        sha256(canonical.as_bytes())
    );
    let secret = format!("AWS4{}", credentials.secret_access_key);
    let key = [day, request.region, "s3", "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| mac(&key, part.as_bytes()));
    let signature = hex(&mac(&key, to_sign.as_bytes()));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={NAMES}, Signature={signature}",
        credentials.access_key_id
    );
    vec![
        ("x-amz-content-sha256", sum),
        ("x-amz-date", timestamp),
        ("authorization", authorization),
    ]
}

/// `20261123T235959Z`.
fn timestamp(now: SystemTime) -> String {
    // A clock before 1970 is refused by the server, which says so.
    let now = now.max(UNIX_EPOCH);
    let digits = rfc3339(now);
    let seconds = digits.split('.').next().unwrap_or_default();
    let kept = seconds.chars().filter(|c| !matches!(c, '-' | ':'));
    kept.chain(['Z']).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Against a signature that botocore's signer made of the same request.
    #[test]
    fn signs_as_botocore_does() {
        let now = UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        assert_eq!(timestamp(now), "20130524T000000Z");
        let credentials = Credentials {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        };
        let request = Unsigned {
            host: "127.0.0.1:9000",
            path: "/_cullet/admin/accounts/create",
            region: "us-east-1",
            body: b"{\"name\":\"analytics\"}",
        };
        let signed = sign(&request, &credentials, now);
        let (_, authorization) = signed.last().unwrap();
        assert!(authorization.ends_with(BOTOCORE), "{authorization}");
    }

    const BOTOCORE: &str = "7099cbcb50d6a022179d202ddbf8f75bc8d699bea55ce9acdc7d41942b296419";
}
