//! Which bucket a `Host` may mean.
//!
//! Many SDKs say the bucket in the host's name unless they are told otherwise: a PUT of the key
//! `logs/x` in `photos` arrives as `PUT /logs/x` for `photos.s3.example.com`. Read by its path,
//! that is another bucket. The server does not know its own names, so that it cannot tell a
//! bucket's name from a part of its own with certainty. It refuses what would surprise:
//! a request by a name that begins with an existing bucket's,
//! - whose path begins with none, or
//! - that creates or deletes a bucket.
//!
//! A client that has the bucket in the path is never in the first case, but for a bucket that
//! is not there.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::HOST;
use objects::{AccountId, Objects};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

/// Most labels at a name's start that are taken for a bucket's name, which may have dots.
const LABELS_MAX: usize = 4;

/// Refuses a request that probably means the bucket in its `Host`.
pub(crate) async fn check(
    objects: &Objects,
    account: &AccountId,
    operation: &str,
    path: &S3Path,
    headers: &HeaderMap,
) -> S3Result<()> {
    let in_path = match path {
        S3Path::Root => return Ok(()),
        S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } => &**bucket,
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    for name in bucket_names(host.unwrap_or("")) {
        if name == in_path || objects.head_bucket(account, name).await.is_err() {
            continue;
        }
        let changes_buckets = matches!(operation, "CreateBucket" | "DeleteBucket");
        if changes_buckets || objects.head_bucket(account, in_path).await.is_err() {
            return Err(s3_error!(
                NotImplemented,
                "The Host begins with the name of the bucket {name}, and virtual-hosted requests \
                 are not there yet: configure the client to use path-style addressing, or address \
                 the server by another name."
            ));
        }
    }
    Ok(())
}

/// What a host's name may begin with that could be a bucket: `photos` and `photos.s3` of
/// `photos.s3.example`. None for an address or a name of one label.
fn bucket_names(host: &str) -> impl Iterator<Item = &str> {
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    let name = if address { "" } else { name };
    name.match_indices('.')
        .take(LABELS_MAX)
        .map(|(at, _)| &name[..at])
        .filter(|start| start.len() >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_host() {
        let names = |host| bucket_names(host).collect::<Vec<_>>();
        assert_eq!(names("photos.localhost:9000"), ["photos"]);
        assert_eq!(
            names("my.photos.s3.example.com"),
            ["my.photos", "my.photos.s3", "my.photos.s3.example"]
        );
        for none in [
            "",
            "localhost:9000",
            "127.0.0.1:9000",
            "127.0.0.1",
            "[::1]:9000",
            "::1",
            "s3.localhost",
        ] {
            assert_eq!(names(none), [""; 0], "{none}");
        }
    }
}
