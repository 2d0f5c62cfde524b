//! Sockets in: accepting, the limit of connections, HTTP on each, and the orderly end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3::{Front, FrontBody, MemoryBudget, Observer as _, Overloaded, RequestSummary, Reservation};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::limits::{
    CONNECTION_BUFFER_BYTES, CONNECTION_BYTES, HEAD_COST_INCLUDED, HEADER_COPIES,
    HEADER_STATE_BYTES, HEADERS_MAX, IDLE_TIMEOUT, MAKE_ROOM_PAUSE, PATH_COPIES, REFUSED_MAX,
};
use crate::pace::Paced;
use crate::pages::{self, Page, Pages};
use crate::places::{End, Occupant, Places};
use crate::refusals;

/// How long to wait after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What serves requests.
pub(crate) struct App {
    pub(crate) front: Front,
    pub(crate) pages: Pages,
    /// Each connection reserves [`CONNECTION_BYTES`], and more while it serves a request with a
    /// large head.
    pub(crate) connections: MemoryBudget,
    pub(crate) places: Places,
    /// Connections that are refused and not closed yet.
    pub(crate) refused: AtomicUsize,
}

/// Accepts connections until `stop` says so, then waits for those that are open.
/// Returns whether all of them ended within `drain`.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    mut stop: watch::Receiver<bool>,
    drain: Duration,
) -> bool {
    // Every connection holds a sender: when the last is gone, all have ended.
    let (alive, mut ended) = mpsc::channel::<Infallible>(1);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    tokio::spawn(admit(socket, peer, app.clone(), stop.clone(), alive.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = stop.changed() => break,
        }
    }
    tracing::info!("stopping: finishing what was begun");
    drop(listener);
    drop(alive);
    app.pages.stopping.store(true, Ordering::Relaxed);
    tokio::time::timeout(drain, ended.recv()).await.is_ok()
}

/// Serves a connection once there is a place for it.
async fn admit(
    socket: TcpStream,
    peer: SocketAddr,
    app: Arc<App>,
    stop: watch::Receiver<bool>,
    alive: mpsc::Sender<Infallible>,
) {
    match reserve(&app, CONNECTION_BYTES).await {
        // In a box, because many tasks wait and few serve.
        Ok(_reserved) => Box::pin(serve_connection(socket, peer, &app, stop)).await,
        Err(overloaded) => {
            tracing::debug!(%peer, %overloaded, "a connection was refused");
            refuse(socket, &app).await;
        }
    }
    drop(alive);
}

/// Reserves of what connections may need, and has others make room while that takes time.
async fn reserve(app: &App, bytes: usize) -> Result<Reservation, Overloaded> {
    if let Some(reserved) = app.connections.try_reserve(bytes) {
        return Ok(reserved);
    }
    let mut reserved = std::pin::pin!(app.connections.reserve(bytes));
    loop {
        app.places.make_room(app.connections.waiting().max(1));
        tokio::select! {
            reserved = &mut reserved => return reserved,
            () = tokio::time::sleep(MAKE_ROOM_PAUSE) => {}
        }
    }
}

/// Says that there is no place, unless too many are being told already.
async fn refuse(mut socket: TcpStream, app: &App) {
    if app.refused.fetch_add(1, Ordering::Relaxed) < REFUSED_MAX {
        let answer = refusals::raw(StatusCode::SERVICE_UNAVAILABLE);
        // The buffer of a new socket takes it at once, or the client is gone.
        let _ = socket.write_all(&answer).await;
        let _ = Paced::new(socket, Arc::new(Occupant::new()))
            .shutdown()
            .await;
    }
    app.refused.fetch_sub(1, Ordering::Relaxed);
}

async fn serve_connection(
    socket: TcpStream,
    peer: SocketAddr,
    app: &Arc<App>,
    mut stop: watch::Receiver<bool>,
) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY cannot be set");
    }
    let place = app.places.take();
    let occupant = place.occupant.clone();
    let service = service_fn(|request| {
        let (app, occupant) = (app.clone(), occupant.clone());
        async move { Ok::<_, Infallible>(answer(&app, request, peer, occupant).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // For silence between requests; a head's own time is shorter, see `Paced`.
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Paced::new(socket, occupant.clone())), service);
    let mut connection = std::pin::pin!(connection);
    let mut drain = false;
    let result = loop {
        tokio::select! {
            result = connection.as_mut() => break result,
            end = ended(&mut stop, &occupant), if !drain => {
                if end == End::Now {
                    tracing::debug!(%peer, "a connection made room before its request was whole");
                    break Ok(());
                }
                drain = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection broke off");
    }
}

/// Waits until the server stops or another connection needs this one's place.
async fn ended(stop: &mut watch::Receiver<bool>, occupant: &Occupant) -> End {
    tokio::select! {
        // An error means that the sender is gone, which is the end as well.
        _ = stop.wait_for(|stopping| *stopping) => End::Gracefully,
        end = occupant.told() => end,
    }
}

/// What a request's head costs, in all the forms in which it is held until the answer's end.
fn head_cost(parts: &Parts) -> usize {
    let uri = parts
        .uri
        .path_and_query()
        .map_or(0, |uri| uri.as_str().len());
    let headers: usize = parts
        .headers
        .iter()
        .map(|(name, value)| {
            HEADER_COPIES * (name.as_str().len() + value.len()) + HEADER_STATE_BYTES
        })
        .sum();
    PATH_COPIES * uri + headers
}

async fn answer(
    app: &App,
    request: Request<Incoming>,
    peer: SocketAddr,
    occupant: Arc<Occupant>,
) -> Response<Answer> {
    occupant.begun();
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let mut reserved = None;
    let page = match app.front.is_bucket_in_host(&parts) {
        true => Page::Elsewhere,
        false => app.pages.serve(&parts, peer),
    };
    let response = match page {
        Page::Answer(response) => {
            report(app, &parts, peer, started, &response);
            response.map(Either::Right)
        }
        Page::Elsewhere => match reserve_head(app, head_cost(&parts)).await {
            Ok(head) => {
                reserved = head;
                let request = Request::from_parts(parts, body);
                app.front.call(request, Some(peer)).await.map(Either::Left)
            }
            Err(overloaded) => {
                let response = refusals::slow_down(&overloaded.to_string());
                report(app, &parts, peer, started, &response);
                response.map(Either::Right)
            }
        },
    };
    response.map(|body| Answer {
        body,
        occupant,
        _reserved: reserved,
    })
}

/// Counts and logs an answer that the front did not give. It is small and there as a whole, so
/// that this needs not wait for its end.
fn report(
    app: &App,
    request: &Parts,
    peer: SocketAddr,
    started: Instant,
    response: &Response<Full<Bytes>>,
) {
    let id = response.headers().get("x-amz-request-id");
    let duration = started.elapsed();
    let bytes_out = match request.method {
        Method::HEAD => 0,
        _ => response.body().size_hint().lower(),
    };
    app.pages.metrics.finished(&RequestSummary {
        request_id: id.and_then(|id| id.to_str().ok()).unwrap_or("-"),
        operation: pages::operation(request.uri.path()),
        method: &request.method,
        path: request.uri.path(),
        peer: Some(peer),
        status: Some(response.status()),
        bytes_in: 0,
        bytes_out,
        first_byte: Some(duration),
        duration,
        complete: true,
    });
}

/// Reserves what a head costs beyond what every connection has reserved for it.
async fn reserve_head(app: &App, cost: usize) -> Result<Option<Reservation>, Overloaded> {
    match cost.saturating_sub(HEAD_COST_INCLUDED) {
        0 => Ok(None),
        more => reserve(app, more).await.map(Some),
    }
}

/// An answer's body; when it was handed over, its connection is between requests.
struct Answer {
    body: Either<FrontBody, Full<Bytes>>,
    occupant: Arc<Occupant>,
    _reserved: Option<Reservation>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = <Either<FrontBody, Full<Bytes>> as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.occupant.answered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_heads_cost_nothing_more_and_large_ones_do() {
        let usual = Request::get(format!("/bucket/{}", "k".repeat(100)))
            .header("authorization", "x".repeat(300))
            .header("x-amz-content-sha256", "x".repeat(64));
        let (usual, ()) = usual.body(()).unwrap().into_parts();
        assert!(head_cost(&usual) < HEAD_COST_INCLUDED);
        let mut large = Request::get(format!("/bucket/{}", "k".repeat(3_000)));
        for number in 0..500 {
            large = large.header(format!("x-amz-meta-{number}"), "v");
        }
        let (large, ()) = large.body(()).unwrap().into_parts();
        assert!(head_cost(&large) > 6 * HEAD_COST_INCLUDED);
    }
}
