//! The server's own pages under `/_cullet/`, which no bucket can be named like. Where the host
//! names the bucket, that is a key like any other, and not asked for here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;
use objects::Objects;
use s3::new_request_id;

use crate::admin::ADMIN;
use crate::metrics::Metrics;
use crate::redundancy;
use crate::refusals::add_ids;

/// What all pages begin with.
const PREFIX: &str = "/_cullet/";

/// For load balancers: 200 while requests are accepted.
const HEALTH: &str = "/_cullet/health";

/// For Prometheus.
pub(crate) const METRICS: &str = "/_cullet/metrics";

/// How much of what is stored is there how often, as JSON.
pub(crate) const REDUNDANCY: &str = "/_cullet/redundancy";

/// Prometheus' text format.
const METRICS_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a page's path is called in reports.
pub(crate) fn operation(path: &str) -> &'static str {
    match path {
        HEALTH => "Health",
        METRICS => "Metrics",
        REDUNDANCY => "Redundancy",
        path if path.starts_with(ADMIN) => "Admin",
        _ => "Unknown",
    }
}

/// The pages.
pub(crate) struct Pages {
    pub(crate) objects: Objects,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stopping: AtomicBool,
}

/// What becomes of a request.
pub(crate) enum Page {
    /// This is its answer.
    Answer(Response<Full<Bytes>>),
    /// It is not for a page, or its signature must be verified first.
    Elsewhere,
}

impl Pages {
    /// Answers a request for a page.
    pub(crate) fn serve(&self, request: &Parts, peer: SocketAddr) -> Page {
        let path = request.uri.path();
        if !path.starts_with(PREFIX) || path.starts_with(ADMIN) {
            return Page::Elsewhere;
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Page::Answer(response);
        }
        match path {
            HEALTH => {
                let (status, page) = self.health(is_local(&request.headers, peer));
                Page::Answer(text(status, page))
            }
            METRICS if is_local(&request.headers, peer) => {
                let mut response = text(StatusCode::OK, self.metrics.render());
                let format = HeaderValue::from_static(METRICS_FORMAT);
                response.headers_mut().insert(CONTENT_TYPE, format);
                Page::Answer(response)
            }
            REDUNDANCY if is_local(&request.headers, peer) => {
                let mut response = text(StatusCode::OK, self.redundancy());
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                Page::Answer(response)
            }
            // Only GET can be signed for.
            METRICS if request.method == Method::HEAD => {
                Page::Answer(text(StatusCode::FORBIDDEN, String::new()))
            }
            METRICS => Page::Elsewhere,
            _ => Page::Answer(text(
                StatusCode::NOT_FOUND,
                "there is no such page\n".to_owned(),
            )),
        }
    }

    fn redundancy(&self) -> String {
        let document = redundancy::document(&self.objects.stats().volume);
        format!("{document:#}\n")
    }

    fn health(&self, is_local: bool) -> (StatusCode, String) {
        let failure = self.objects.failure();
        let is_stopping = self.stopping.load(Ordering::Relaxed);
        health(is_stopping, failure.as_deref(), is_local)
    }
}

/// What fails, and how, is for this machine only.
fn health(stopping: bool, failure: Option<&str>, is_local: bool) -> (StatusCode, String) {
    match failure {
        _ if stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()),
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) if is_local => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("failed: {reason}\n"),
        ),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "failed\n".to_owned()),
    }
}

/// Whether a request comes from this machine, and was not handed on for another: a proxy on
/// this machine makes every client look like it. One that adds none of these headers cannot be
/// told; it must keep `/_cullet/` to itself.
fn is_local(headers: &HeaderMap, peer: SocketAddr) -> bool {
    const HANDED_ON: [&str; 6] = [
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
    ];
    let handed_on = HANDED_ON.iter().any(|name| headers.contains_key(*name));
    peer.ip().to_canonical().is_loopback() && !handed_on
}

fn text(status: StatusCode, page: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    add_ids(headers, &new_request_id());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_for_this_machine_only() {
        let (status, page) = health(false, Some("EIO on /dev/sdx"), true);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(page.contains("EIO"), "{page}");
        let (status, page) = health(false, Some("EIO on /dev/sdx"), false);
        assert_eq!(
            (status, page.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "failed\n")
        );
        assert_eq!(health(false, None, false).0, StatusCode::OK);
        assert_eq!(health(true, None, true).1, "stopping\n");
    }

    #[test]
    fn what_a_proxy_hands_on_is_not_local() {
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        let none = HeaderMap::new();
        assert!(is_local(&none, at("127.0.0.1:5")));
        assert!(is_local(&none, at("[::1]:5")));
        assert!(is_local(&none, at("[::ffff:127.0.0.1]:5")));
        assert!(!is_local(&none, at("192.0.2.1:5")));
        for name in ["forwarded", "x-forwarded-for", "via"] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static("192.0.2.1"));
            assert!(!is_local(&headers, at("127.0.0.1:5")), "{name}");
        }
    }
}
