//! A connection's socket: ends clients that do not finish a request's head or do not take their
//! answer, gives what hyper answers to a head that is none the shape of S3's errors, and
//! lets an answer arrive before the connection is closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::StatusCode;
use s3::Pace;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::places::Occupant;
use crate::refusals;

use crate::limits::{LINGER_FIRST, LINGER_NEXT, LINGER_TOTAL, WRITE_BYTES_MIN, WRITE_WINDOW};

/// Bytes that are read and thrown away in one step while a connection lingers.
const DISCARD_BYTES: usize = 16 * 1024;

/// Wraps a socket.
pub(crate) struct Paced<S> {
    inner: S,
    pace: Pace,
    closing: Closing,
    occupant: Arc<Occupant>,
    /// Runs while half a head is there.
    head_timer: Option<Pin<Box<Sleep>>>,
    /// What is sent instead of hyper's answer to a head that is none.
    replacement: Option<Bytes>,
}

/// How far closing is.
enum Closing {
    No,
    /// Our side is closed; what the client still sends is thrown away, because a socket that
    /// is closed over unread bytes is reset, and a reset takes the answer away.
    Lingering {
        quiet: Pin<Box<Sleep>>,
        end: Instant,
    },
    Done,
}

impl<S> Paced<S> {
    pub(crate) fn new(inner: S, occupant: Arc<Occupant>) -> Paced<S> {
        Paced {
            inner,
            pace: Pace::new(WRITE_WINDOW, WRITE_BYTES_MIN),
            closing: Closing::No,
            occupant,
            head_timer: None,
            replacement: None,
        }
    }

    /// Turns waiting into an error once a head has been coming for too long.
    fn wait_for_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = self.occupant.head_deadline() else {
            self.head_timer = None;
            return Poll::Pending;
        };
        let timer = self
            .head_timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(cx));
        let message = "the client took too long to send a request's head";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }

    /// Whether these bytes are hyper's own answer to a head that is none. It begins where nothing
    /// is left of an operation's answer: hyper flushes a socket only when it has written all.
    fn is_protocol_error(&self, bytes: &[u8]) -> bool {
        self.replacement.is_some()
            || (bytes.starts_with(b"HTTP/1.1 4")
                && !self.occupant.is_answering()
                && !self.occupant.is_http2())
    }

    /// Turns waiting into an error once the client took too little for too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.pace.poll_too_slow(cx));
        let message = "the client took too little of its answer for too long";
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(bytes)) => {
                self.pace.progress(bytes);
                result
            }
            Poll::Ready(Err(_)) => result,
            Poll::Pending => self.wait(cx).map(Err),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_pending() {
            return self.wait_for_head(cx);
        }
        if buf.filled().len() > before {
            self.occupant.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> Paced<S> {
    /// Sends a whole answer instead of `bytes`, which are then taken for written.
    fn poll_replace(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let replacement = self
            .replacement
            .get_or_insert_with(|| refusals::raw(status_of(bytes)));
        while !replacement.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, replacement))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            replacement.advance(written);
        }
        Poll::Ready(Ok(bytes.len()))
    }
}

/// The status of an answer's head.
fn status_of(head: &[u8]) -> StatusCode {
    let digits = head.get(9..12).unwrap_or_default();
    StatusCode::from_bytes(digits).unwrap_or(StatusCode::BAD_REQUEST)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = if self.is_protocol_error(buf) {
            self.poll_replace(cx, buf)
        } else {
            Pin::new(&mut self.inner).poll_write(cx, buf)
        };
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty());
        let result = match first {
            Some(first) if self.is_protocol_error(first) => self.poll_replace(cx, first),
            _ => Pin::new(&mut self.inner).poll_write_vectored(cx, bufs),
        };
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_flush(cx) {
            Poll::Pending => self.wait(cx).map(Err),
            ready => {
                self.occupant.flushed();
                ready
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Closing::No = this.closing {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            let now = Instant::now();
            let quiet = Box::pin(sleep_until(now + LINGER_FIRST));
            this.closing = Closing::Lingering {
                quiet,
                end: now + LINGER_TOTAL,
            };
        }
        if let Closing::Lingering { quiet, end } = &mut this.closing {
            let mut bytes = [0; DISCARD_BYTES];
            loop {
                let mut buf = ReadBuf::new(&mut bytes);
                match Pin::new(&mut this.inner).poll_read(cx, &mut buf) {
                    Poll::Ready(Ok(())) if !buf.filled().is_empty() && Instant::now() < *end => {
                        quiet
                            .as_mut()
                            .reset((Instant::now() + LINGER_NEXT).min(*end));
                    }
                    // The client closed its side, or is not worth waiting for.
                    Poll::Ready(_) => break,
                    Poll::Pending => {
                        ready!(quiet.as_mut().poll(cx));
                        break;
                    }
                }
            }
        }
        this.closing = Closing::Done;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::HEAD_TIMEOUT;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn paced<S>(inner: S) -> Paced<S> {
        Paced::new(inner, Arc::new(Occupant::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_ends_in_time_and_silence_does_not() {
        let (server, mut client) = duplex(1024);
        let mut server = paced(server);
        let mut bytes = [0; 64];
        let silent = tokio::time::timeout(3 * HEAD_TIMEOUT, server.read(&mut bytes));
        assert!(silent.await.is_err());
        client.write_all(b"GET /").await.unwrap();
        assert_eq!(server.read(&mut bytes).await.unwrap(), 5);
        let started = Instant::now();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(HEAD_TIMEOUT / 4).await;
                if client.write_all(b"x").await.is_err() {
                    break;
                }
            }
        });
        let error = loop {
            if let Err(error) = server.read(&mut bytes).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), HEAD_TIMEOUT);
    }

    #[tokio::test]
    async fn only_what_no_operation_answered_is_replaced() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        // A head complete, its answer handed over, and all of it written: how far it came.
        for (steps, replaced) in [(0, true), (1, false), (2, false), (3, true)] {
            let (server, mut client) = duplex(4096);
            let mut server = paced(server);
            if steps >= 1 {
                server.occupant.begun();
                server.flush().await.unwrap();
            }
            if steps >= 2 {
                server.occupant.answered();
            }
            if steps >= 3 {
                server.flush().await.unwrap();
            }
            server.write_all(bare).await.unwrap();
            server.shutdown().await.unwrap();
            drop(server);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
            assert_eq!(answer.contains("RequestHeaderSectionTooLarge"), replaced);
            assert_eq!(answer.contains("x-amz-request-id: "), replaced);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_ended() {
        let (server, _client) = duplex(4);
        let mut server = paced(server);
        let started = Instant::now();
        let error = server.write_all(b"too much").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), WRITE_WINDOW);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_not() {
        let (server, mut client) = duplex(1024);
        let mut server = paced(server);
        let reader = tokio::spawn(async move {
            let mut taken = 0;
            let mut bytes = [0; 1024];
            loop {
                match client.read(&mut bytes).await.unwrap() {
                    0 => return taken,
                    some => taken += some,
                }
                tokio::time::sleep(WRITE_WINDOW / 20).await;
            }
        });
        server.write_all(&[7; 100_000]).await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        assert_eq!(reader.await.unwrap(), 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_byte_now_and_then_is_ended() {
        let (server, mut client) = duplex(4);
        let mut server = paced(server);
        let reader = tokio::spawn(async move {
            let mut byte = [0];
            while client.read(&mut byte).await.is_ok_and(|read| read == 1) {
                tokio::time::sleep(WRITE_WINDOW / 2).await;
            }
        });
        let error = server.write_all(&[7; 1024]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(server);
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_client_still_sends_is_thrown_away() {
        let (server, mut client) = duplex(64);
        let mut server = paced(server);
        let sender = tokio::spawn(async move {
            for _ in 0..100 {
                client.write_all(&[7; 64]).await.unwrap();
            }
            client
        });
        server.shutdown().await.unwrap();
        drop(sender.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn closing_an_idle_connection_is_quick() {
        let (server, _client) = duplex(64);
        let started = Instant::now();
        paced(server).shutdown().await.unwrap();
        assert_eq!(started.elapsed(), LINGER_FIRST);
    }
}
