//! Which bucket a `Host` means.
//!
//! Many SDKs say the bucket in the host's name unless they are told otherwise: a PUT of the key
//! `logs/x` in `photos` arrives as `PUT /logs/x` for `photos.s3.example.com`. Under a domain that
//! the server was told of, that is what it means ([`Domains`]).
//!
//! Read by its path, it is another bucket. Of names outside its domains the server cannot tell
//! with certainty a bucket's name from a part of its own. There it refuses what would surprise:
//! a request by a name that begins with an existing bucket's,
//! - whose path begins with none, or
//! - that creates or deletes a bucket.
//!
//! A client that has the bucket in the path is never in the first case, but for a bucket that
//! is not there.

use std::net::IpAddr;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Version};
use objects::{AccountId, Objects};
use s3s::host::{S3Host, VirtualHost};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

use crate::limits::DOMAIN_BYTES_MAX;

/// Most labels at a name's start that are taken for a bucket's name, which may have dots.
const LABELS_MAX: usize = 4;

/// The domains under which the first part of a host's name is a bucket. None of them: every
/// bucket is in the path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Domains(Vec<String>);

impl Domains {
    /// Takes names such as `s3.example.com`, in any case. A sentence, if one is none.
    pub(crate) fn new(names: &[String]) -> Result<Domains, String> {
        let label = |label: &str| {
            let usable = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !label.is_empty() && label.bytes().all(usable)
        };
        let checked = names.iter().map(|name| {
            let address = name.parse::<IpAddr>().is_ok();
            match !address && name.len() <= DOMAIN_BYTES_MAX && name.split('.').all(label) {
                true => Ok(name.to_ascii_lowercase()),
                false => Err(format!(
                    "{name:?} is not a domain: write it like s3.example.com, without a port"
                )),
            }
        });
        checked.collect::<Result<_, _>>().map(Domains)
    }

    /// What stands before the longest domain that `host` is in, in small letters: a bucket's
    /// name, or nothing where it is the domain itself. `None` outside all domains.
    fn prefix(&self, host: &str) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let name = name_of(host).to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let prefixes = self.0.iter().filter_map(|domain| {
            let before = name.strip_suffix(domain.as_str())?;
            match before.strip_suffix('.') {
                Some(bucket) => Some(bucket),
                None => before.is_empty().then_some(""),
            }
        });
        prefixes
            .min_by_key(|bucket| bucket.len())
            .map(str::to_owned)
    }

    /// The bucket that a request's host names.
    pub(crate) fn bucket(&self, request: &Parts) -> Option<String> {
        self.prefix(host_of(request)?)
            .filter(|bucket| !bucket.is_empty())
    }
}

/// Whether every one of `names` is a domain that buckets can be under.
///
/// # Errors
/// A sentence that says which is none.
pub fn check_domains(names: &[String]) -> Result<(), String> {
    Domains::new(names).map(drop)
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let parsed = VirtualHost::new(host);
        Ok(match self.prefix(host) {
            Some(bucket) if !bucket.is_empty() => parsed.with_bucket(bucket),
            _ => parsed,
        })
    }
}

/// The host that a request is for, with its port. HTTP/2 has it in `:authority`.
fn host_of(request: &Parts) -> Option<&str> {
    match request.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        None if request.version == Version::HTTP_2 => {
            request.uri.authority().map(|authority| authority.as_str())
        }
        None => None,
    }
}

/// Writes an HTTP/2 request's `:authority` into its `Host`, so that nothing after has to know
/// two places. False if it has both and they differ: one would be signed, the other served.
pub(crate) fn settle(request: &mut Parts) -> bool {
    let Some(authority) = request.uri.authority() else {
        return true;
    };
    if request.version != Version::HTTP_2 {
        return true;
    }
    match request.headers.get(HOST) {
        Some(host) => host
            .as_bytes()
            .eq_ignore_ascii_case(authority.as_str().as_bytes()),
        None => match HeaderValue::from_str(authority.as_str()) {
            Ok(host) => {
                request.headers.insert(HOST, host);
                true
            }
            Err(_) => false,
        },
    }
}

/// Whether a host cannot be taken for one that names a bucket, but by a domain.
pub(crate) fn is_certain(domains: &Domains, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or("");
    domains.prefix(host).is_some() || bucket_names(host).next().is_none()
}

/// Refuses a request that probably means the bucket in its `Host`.
pub(crate) async fn check(
    domains: &Domains,
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
    let host = host.unwrap_or("");
    if domains.prefix(host).is_some() {
        return Ok(());
    }
    for name in bucket_names(host) {
        if name == in_path || objects.head_bucket(account, name).await.is_err() {
            continue;
        }
        let changes_buckets = matches!(operation, "CreateBucket" | "DeleteBucket");
        if changes_buckets || objects.head_bucket(account, in_path).await.is_err() {
            return Err(s3_error!(
                NotImplemented,
                "The Host begins with the name of the bucket {name}, and is in no domain of this \
                 server: start it with --domain and what follows the bucket, configure the \
                 client to use path-style addressing, or address the server by another name."
            ));
        }
    }
    Ok(())
}

/// What a host's name may begin with that could be a bucket: `photos` and `photos.s3` of
/// `photos.s3.example`. None for an address or a name of one label.
fn bucket_names(host: &str) -> impl Iterator<Item = &str> {
    let name = name_of(host);
    let address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    let name = if address { "" } else { name };
    name.match_indices('.')
        .take(LABELS_MAX)
        .map(|(at, _)| &name[..at])
        .filter(|start| start.len() >= 3)
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    host.rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(names: &[&str]) -> Result<Domains, String> {
        Domains::new(
            &names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_bucket_stands_before_a_domain() {
        let domains = domains(&["S3.example.com", "example.com", "localhost"]).unwrap();
        for (host, expected) in [
            ("photos.s3.example.com", Some("photos")),
            ("Photos.S3.Example.COM:9000", Some("photos")),
            ("my.photos.s3.example.com.", Some("my.photos")),
            ("s3.example.com:9000", Some("")),
            ("photos.example.com", Some("photos")),
            ("photos.localhost:1", Some("photos")),
            ("photoss3.example.org", None),
            ("notexample.com", None),
            ("127.0.0.1:9000", None),
            ("[::1]:9000", None),
            ("", None),
        ] {
            assert_eq!(domains.prefix(host).as_deref(), expected, "{host}");
        }
        assert_eq!(Domains::default().prefix("photos.localhost"), None);
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        let long = "x".repeat(DOMAIN_BYTES_MAX + 1);
        for bad in [
            "", ".", "a..b", ".a", "a.", "a:9000", "a_b", "1.2.3.4", "é", &long,
        ] {
            assert!(domains(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_authority_becomes_the_host_unless_they_differ() {
        let parts = |host: Option<&str>| {
            let mut request = http::Request::get("http://photos.s3.localhost:1/k");
            if let Some(host) = host {
                request = request.header("host", host);
            }
            request
                .version(Version::HTTP_2)
                .body(())
                .unwrap()
                .into_parts()
                .0
        };
        let mut alone = parts(None);
        assert!(settle(&mut alone));
        assert_eq!(alone.headers[HOST], "photos.s3.localhost:1");
        assert!(settle(&mut parts(Some("Photos.s3.localhost:1"))));
        assert!(!settle(&mut parts(Some("other.s3.localhost:1"))));
    }

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
