//! Sockets in: accepting, the limit of connections, HTTP on each, and the orderly end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3::{Front, FrontBody, MemoryBudget};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};

use crate::limits::{CONNECTION_BUFFER_BYTES, CONNECTION_BYTES, HEAD_TIMEOUT, HEADERS_MAX};
use crate::pace::Paced;
use crate::pages::{Page, Pages};

/// How long to wait after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client is told for whom there is no place. Written by hand, because it must not
/// need what is lacking.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\
content-type: application/xml\r\nretry-after: 1\r\nx-amz-request-id: 0000000000000000\r\n\
content-length: 173\r\n\r\n<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
<Error><Code>SlowDown</Code><Message>Too many connections; try again shortly.</Message>\
<RequestId>0000000000000000</RequestId></Error>";

/// What serves requests.
pub(crate) struct App {
    pub(crate) front: Front,
    pub(crate) pages: Pages,
    /// Each connection reserves [`CONNECTION_BYTES`].
    pub(crate) connections: MemoryBudget,
    /// Tells the connection that is open for the longest time to end with its next answer, or
    /// at once if it is idle: somebody else waits for its place.
    pub(crate) pressure: Notify,
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
    drop(listener);
    drop(alive);
    app.pages.stopping.store(true, Ordering::Relaxed);
    tokio::time::timeout(drain, ended.recv()).await.is_ok()
}

/// Serves a connection once there is a place for it.
async fn admit(
    mut socket: TcpStream,
    peer: SocketAddr,
    app: Arc<App>,
    stop: watch::Receiver<bool>,
    alive: mpsc::Sender<Infallible>,
) {
    let place = match app.connections.try_reserve(CONNECTION_BYTES) {
        Some(place) => Ok(place),
        None => {
            app.pressure.notify_one();
            app.connections.reserve(CONNECTION_BYTES).await
        }
    };
    match place {
        Ok(_place) => serve_connection(socket, peer, &app, stop).await,
        Err(overloaded) => {
            tracing::debug!(%peer, %overloaded, "a connection was refused");
            let _ = socket.write_all(REFUSAL).await;
            let _ = Paced::new(socket).shutdown().await;
        }
    }
    drop(alive);
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
    let service = service_fn(|request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(answer(&app, request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Also ends connections that are silent between requests.
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Paced::new(socket)), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = ended(&mut stop, &app.pressure) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection broke off");
    }
}

/// Waits until the server stops or another connection needs this one's place.
async fn ended(stop: &mut watch::Receiver<bool>, pressure: &Notify) {
    tokio::select! {
        // An error means that the sender is gone, which is the end as well.
        _ = stop.wait_for(|stopping| *stopping) => {}
        () = pressure.notified() => {}
    }
}

async fn answer(
    app: &App,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<Either<FrontBody, Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    match app.pages.serve(&parts, peer) {
        Page::Answer(response) => response.map(Either::Right),
        Page::Elsewhere => {
            let request = Request::from_parts(parts, body);
            app.front.call(request, Some(peer)).await.map(Either::Left)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_has_the_length_that_it_says() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
    }
}
