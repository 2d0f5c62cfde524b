//! Sockets in: accepting, the limit of connections, TLS and HTTP on each, and the orderly end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONNECTION;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use s3::{Front, FrontBody, MemoryBudget, Observer as _, Overloaded, RequestSummary, Reservation};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::http2::{self, Waiting};
use crate::limits::{
    CONNECTION_BUFFER_BYTES, CONNECTION_BYTES, HANDSHAKE_TIMEOUT, HEAD_COST_INCLUDED,
    HEADER_COPIES, HEADER_STATE_BYTES, HEADERS_MAX, HTTP2_BYTES, HTTP2_GOODBYE, HTTP2_STREAM_BYTES,
    IDLE_TIMEOUT, MAKE_ROOM_PAUSE, PATH_COPIES, REFUSED_MAX, TLS_BUFFER_BYTES, TLS_BYTES,
};
use crate::pace::Paced;
use crate::pages::{self, Page, Pages};
use crate::places::{End, Occupant, Places};
use crate::refusals;
use crate::stream::{Rewound, Stream, is_http2};
use crate::tls::Tls;

/// How long to wait after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What serves requests.
pub(crate) struct App {
    pub(crate) front: Front,
    pub(crate) pages: Pages,
    /// Each connection reserves [`connection_bytes`], and more while it serves a request with a
    /// large head, or speaks HTTP/2.
    pub(crate) connections: MemoryBudget,
    /// The certificate; without one, nothing is encrypted.
    pub(crate) tls: Option<Arc<Tls>>,
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

/// What every connection reserves, with or without TLS.
pub(crate) const fn connection_bytes(tls: bool) -> usize {
    CONNECTION_BYTES + if tls { TLS_BYTES } else { 0 }
}

/// Serves a connection once there is a place for it.
async fn admit(
    socket: TcpStream,
    peer: SocketAddr,
    app: Arc<App>,
    stop: watch::Receiver<bool>,
    alive: mpsc::Sender<Infallible>,
) {
    match reserve(&app, connection_bytes(app.tls.is_some())).await {
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
    if app.tls.is_some() {
        // A handshake is what there is no memory for; without one nobody would understand.
        return;
    }
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
    let occupant = &place.occupant;
    let begun = tokio::select! {
        begun = begin(socket, app, occupant) => begun,
        _ = ended(&mut stop, occupant) => Ok(None),
    };
    let result = match begun {
        Ok(None) => Ok(()),
        Ok(Some((true, stream))) => serve_http2(stream, peer, app, occupant, stop).await,
        Ok(Some((false, stream))) => serve_http1(stream, peer, app, occupant, stop).await,
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection broke off before its first request");
            Ok(())
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection broke off");
    }
}

/// A connection that is ready for requests.
type Begun = Rewound<Paced<Stream>>;

/// Shakes hands where that has to be, and learns whether the client speaks HTTP/2. `None` if it
/// was answered, or left.
async fn begin(
    socket: TcpStream,
    app: &App,
    occupant: &Arc<Occupant>,
) -> io::Result<Option<(bool, Begun)>> {
    let stream = match &app.tls {
        None => Stream::Plain(socket),
        Some(tls) => {
            let shaking = shake_hands(socket, tls.config(), occupant);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking).await?? {
                Some(stream) => stream,
                None => return Ok(None),
            }
        }
    };
    let opening = is_http2(Paced::new(stream, occupant.clone()));
    Ok(Some(tokio::time::timeout(IDLE_TIMEOUT, opening).await??))
}

/// What the first byte of every TLS connection says: a record of a handshake.
const HANDSHAKE_RECORD: u8 = 22;

/// A TLS handshake. A client that begins otherwise is told so in its own language.
async fn shake_hands(
    mut socket: TcpStream,
    config: Arc<ServerConfig>,
    occupant: &Arc<Occupant>,
) -> io::Result<Option<Stream>> {
    let mut first = [0];
    let read = socket.peek(&mut first).await?;
    if read == 0 {
        return Ok(None);
    }
    occupant.received();
    if first[0] != HANDSHAKE_RECORD {
        socket.write_all(&refusals::speaks_tls()).await?;
        Paced::new(socket, occupant.clone()).shutdown().await?;
        return Ok(None);
    }
    let accepted = TlsAcceptor::from(config)
        .accept_with(socket, |session| {
            session.set_buffer_limit(Some(TLS_BUFFER_BYTES))
        })
        .await?;
    occupant.shook_hands();
    Ok(Some(Stream::Tls(Box::new(accepted))))
}

async fn serve_http1(
    stream: Begun,
    peer: SocketAddr,
    app: &Arc<App>,
    occupant: &Arc<Occupant>,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let service = service_fn(|request| {
        // Before it is polled: hyper reads on once more, and the head is whole.
        let (app, busy) = (app.clone(), Busy::begin(occupant.clone()));
        async move { Ok::<_, Infallible>(answer(&app, request, peer, busy).await) }
    });
    // Time is kept by `Paced`, for heads, and by the occupant, for the silence between them:
    // with a timer for each request hyper would do it dearer.
    let connection = http1::Builder::new()
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut drain = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => return result,
            end = ended(&mut stop, occupant), if !drain => {
                if end == End::Now {
                    tracing::debug!(%peer, "a connection made room before its request was whole");
                    return Ok(());
                }
            }
            () = occupant.silent_for(IDLE_TIMEOUT), if !drain => {}
        }
        drain = true;
        connection.as_mut().graceful_shutdown();
    }
}

async fn serve_http2(
    stream: Begun,
    peer: SocketAddr,
    app: &Arc<App>,
    occupant: &Arc<Occupant>,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()> {
    occupant.set_http2();
    let Ok(_reserved) = reserve(app, HTTP2_BYTES).await else {
        tracing::debug!(%peer, "there is no memory for HTTP/2");
        return Ok(());
    };
    let service = service_fn(|request| {
        // Before it is polled: hyper reads on once more, and the head is whole.
        let (app, busy) = (app.clone(), Busy::begin(occupant.clone()));
        async move { Ok::<_, Infallible>(answer(&app, request, peer, busy).await) }
    });
    let connection = http2::builder().serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut drain = false;
    loop {
        let silence = if drain { HTTP2_GOODBYE } else { IDLE_TIMEOUT };
        tokio::select! {
            result = connection.as_mut() => return result,
            end = ended(&mut stop, occupant), if !drain => {
                if end == End::Now {
                    tracing::debug!(%peer, "a connection made room before its first request");
                    return Ok(());
                }
                drain = true;
                connection.as_mut().graceful_shutdown();
            }
            // A client may never take note of a farewell.
            () = occupant.silent_for(silence) => {
                if drain {
                    return Ok(());
                }
                drain = true;
                connection.as_mut().graceful_shutdown();
            }
        }
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
    busy: Busy,
) -> Response<Answer> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let http2 = parts.version == Version::HTTP_2;
    let in_host = app.front.is_bucket_in_host(&parts);
    let mut reserved = None;
    let mut response = match reserve_request(app, head_cost(&parts), http2).await {
        Err(overloaded) => {
            let response = refusals::slow_down(&overloaded.to_string());
            report(app, &parts, "Unknown", peer, started, &response);
            response.map(Either::Right)
        }
        Ok(request_reserved) => {
            reserved = request_reserved;
            let page = match in_host {
                true => Page::Elsewhere,
                false => app.pages.serve(&parts, peer),
            };
            match page {
                Page::Answer(response) => {
                    let operation = pages::operation(parts.uri.path());
                    report(app, &parts, operation, peer, started, &response);
                    response.map(Either::Right)
                }
                Page::Elsewhere => {
                    let request = Request::from_parts(parts, body);
                    app.front.call(request, Some(peer)).await.map(Either::Left)
                }
            }
        }
    };
    if http2 {
        // Not a word of its language. A body that nobody reads ends with its stream.
        response.headers_mut().remove(CONNECTION);
    }
    response.map(|body| Answer::new(body, busy, reserved, http2))
}

/// Counts and logs an answer that the front did not give. It is small and there as a whole, so
/// that this needs not wait for its end.
fn report(
    app: &App,
    request: &Parts,
    operation: &'static str,
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
        operation,
        method: &request.method,
        path: request.uri.path(),
        peer: Some(peer),
        account: None,
        access_key_id: None,
        status: Some(response.status()),
        bytes_in: 0,
        bytes_out,
        first_byte: Some(duration),
        duration,
        complete: true,
    });
}

/// Reserves what a request costs beyond what its connection has reserved: of its head what is
/// unusual, and with HTTP/2 everything, because there are many at a time.
async fn reserve_request(
    app: &App,
    head_cost: usize,
    http2: bool,
) -> Result<Option<Reservation>, Overloaded> {
    let stream = if http2 { HTTP2_STREAM_BYTES } else { 0 };
    match head_cost.saturating_sub(HEAD_COST_INCLUDED) + stream {
        0 => Ok(None),
        more => reserve(app, more).await.map(Some),
    }
}

/// A request that is being answered, until it is dropped.
struct Busy(Arc<Occupant>);

impl Busy {
    fn begin(occupant: Arc<Occupant>) -> Busy {
        occupant.begun();
        Busy(occupant)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// An answer's body; when it was handed over, its request is over.
struct Answer {
    body: Either<FrontBody, Full<Bytes>>,
    reserved: Arc<Option<Reservation>>,
    /// With HTTP/2: what is left of the piece that the body gave last, and who watches whether
    /// the client takes it.
    rest: Bytes,
    waiting: Option<Waiting>,
    _busy: Busy,
}

impl Answer {
    fn new(
        body: Either<FrontBody, Full<Bytes>>,
        busy: Busy,
        reserved: Option<Reservation>,
        http2: bool,
    ) -> Answer {
        let waiting = Waiting::here().filter(|_| http2);
        if let Some(waiting) = &waiting {
            // Until it is asked for its first piece.
            waiting.set(true);
        }
        Answer {
            body,
            reserved: Arc::new(reserved),
            rest: Bytes::new(),
            waiting,
            _busy: busy,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = <Either<FrontBody, Full<Bytes>> as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(waiting) = &this.waiting else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        waiting.set(false);
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()? {
                None => return Poll::Ready(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
            }
        }
        waiting.set(true);
        let piece = http2::next_piece(&mut this.rest, &this.reserved);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
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
