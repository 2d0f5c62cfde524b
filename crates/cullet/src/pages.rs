//! The server's own pages under `/_cullet/`, which no bucket can be named like.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use objects::Objects;

use crate::metrics::Metrics;

/// What all pages begin with.
const PREFIX: &str = "/_cullet/";

/// For load balancers: 200 while requests are accepted.
const HEALTH: &str = "/_cullet/health";

/// For Prometheus.
pub(crate) const METRICS: &str = "/_cullet/metrics";

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
        if !path.starts_with(PREFIX) {
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
            HEALTH => Page::Answer(self.health()),
            METRICS if peer.ip().to_canonical().is_loopback() => {
                Page::Answer(text(StatusCode::OK, self.metrics.render()))
            }
            METRICS => Page::Elsewhere,
            _ => Page::Answer(text(
                StatusCode::NOT_FOUND,
                "there is no such page\n".to_owned(),
            )),
        }
    }

    fn health(&self) -> Response<Full<Bytes>> {
        if self.stopping.load(Ordering::Relaxed) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
        }
        let disks = self.objects.stats().volume.disks;
        match disks.iter().find_map(|disk| disk.failure.as_deref()) {
            None => text(StatusCode::OK, "ok\n".to_owned()),
            Some(reason) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("a disk failed: {reason}\n"),
            ),
        }
    }
}

fn text(status: StatusCode, page: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
