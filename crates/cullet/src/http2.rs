//! HTTP/2: its bounds, and streams whose clients take nothing.
//!
//! What must always hold:
//! - what a connection holds beside its requests is bounded by its window, and reserved before
//!   the first frame is read;
//! - what a request holds is reserved until the last piece of its answer has left ([`Piece`]
//!   keeps the reservation), however long a client's window keeps it waiting;
//! - a stream whose client lets a piece wait for too long is reset, whatever other streams of
//!   the same connection do.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::TokioTimer;
use s3::Reservation;
use tokio::time::{Instant, sleep_until};

use crate::limits::{
    HTTP2_FRAME_BYTES, HTTP2_HEAD_BYTES_MAX, HTTP2_PIECE_BYTES, HTTP2_PING_INTERVAL,
    HTTP2_RESETS_MAX, HTTP2_SEND_BYTES, HTTP2_STREAMS_MAX, HTTP2_WINDOW_BYTES, WRITE_WINDOW,
};

/// How connections are served.
pub(crate) fn builder() -> Builder<Streams> {
    let mut builder = Builder::new(Streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_header_list_size(HTTP2_HEAD_BYTES_MAX)
        .max_send_buf_size(HTTP2_SEND_BYTES)
        .max_pending_accept_reset_streams(HTTP2_RESETS_MAX)
        .max_local_error_reset_streams(HTTP2_RESETS_MAX)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_INTERVAL);
    builder
}

/// Runs each stream as a task, until its client takes nothing for too long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let waiting = Waiting::default();
        tokio::spawn(WAITING.scope(waiting.clone(), async move {
            tokio::select! {
                () = stream => {}
                // Dropping the stream resets it.
                () = waiting.too_long() => tracing::debug!("a client let its answer wait"),
            }
        }));
    }
}

tokio::task_local! {
    /// Of the stream that this task runs.
    static WAITING: Waiting;
}

/// Since when a piece of a stream's answer waits for the client to want the next one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting(Arc<Mutex<Option<Instant>>>);

impl Waiting {
    /// That of the stream which is running; `None` outside of any.
    pub(crate) fn here() -> Option<Waiting> {
        WAITING.try_with(Waiting::clone).ok()
    }

    /// The client wants more, or a piece was handed over and waits from now on.
    pub(crate) fn set(&self, waits: bool) {
        let since = waits.then(Instant::now);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    async fn too_long(&self) {
        loop {
            let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let deadline = since.unwrap_or_else(Instant::now) + WRITE_WINDOW;
            sleep_until(deadline).await;
            let now = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if since.is_some() && now == since {
                return;
            }
        }
    }
}

/// A piece of an answer's body on its way into HTTP/2's buffers.
struct Piece {
    bytes: Box<[u8]>,
    _reserved: Arc<Option<Reservation>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Takes the next piece from `data`: a copy, because a slice would keep all of it alive, which
/// keeps `reserved`.
pub(crate) fn next_piece(data: &mut Bytes, reserved: &Arc<Option<Reservation>>) -> Bytes {
    let bytes = data.split_to(data.len().min(HTTP2_PIECE_BYTES));
    Bytes::from_owner(Piece {
        bytes: Box::from(bytes.as_ref()),
        _reserved: reserved.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3::MemoryBudget;

    #[test]
    fn pieces_keep_the_reservation_and_nothing_else() {
        let budget = MemoryBudget::new("test", 1);
        let reserved = Arc::new(budget.try_reserve(1));
        let mut data = Bytes::from(vec![7; 2 * HTTP2_PIECE_BYTES + 1]);
        let pieces: Vec<Bytes> = (0..3).map(|_| next_piece(&mut data, &reserved)).collect();
        let lengths: Vec<usize> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [HTTP2_PIECE_BYTES, HTTP2_PIECE_BYTES, 1]);
        drop((data, reserved));
        assert!(budget.try_reserve(1).is_none());
        drop(pieces);
        assert!(budget.try_reserve(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_piece_that_waits_too_long_ends_a_stream() {
        let waiting = Waiting::default();
        let idle = tokio::time::timeout(10 * WRITE_WINDOW, waiting.too_long());
        assert!(idle.await.is_err());
        let (slow, started) = (waiting.clone(), Instant::now());
        tokio::spawn(async move {
            for _ in 0..8 {
                slow.set(true);
                tokio::time::sleep(WRITE_WINDOW * 3 / 4).await;
            }
        });
        waiting.too_long().await;
        assert!(started.elapsed() > 6 * WRITE_WINDOW);
    }
}
