//! A connection's socket: ends clients that do not take their answer, and lets an answer
//! arrive before the connection is closed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use s3::Pace;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits::{LINGER_FIRST, LINGER_NEXT, LINGER_TOTAL, WRITE_BYTES_MIN, WRITE_WINDOW};

/// Bytes that are read and thrown away in one step while a connection lingers.
const DISCARD_BYTES: usize = 16 * 1024;

/// Wraps a socket.
pub(crate) struct Paced<S> {
    inner: S,
    pace: Pace,
    closing: Closing,
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
    pub(crate) fn new(inner: S) -> Paced<S> {
        Paced {
            inner,
            pace: Pace::new(WRITE_WINDOW, WRITE_BYTES_MIN),
            closing: Closing::No,
        }
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
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_flush(cx) {
            Poll::Pending => self.wait(cx).map(Err),
            ready => ready,
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_ended() {
        let (server, _client) = duplex(4);
        let mut server = Paced::new(server);
        let started = Instant::now();
        let error = server.write_all(b"too much").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), WRITE_WINDOW);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_not() {
        let (server, mut client) = duplex(1024);
        let mut server = Paced::new(server);
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
        let mut server = Paced::new(server);
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
        let mut server = Paced::new(server);
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
        Paced::new(server).shutdown().await.unwrap();
        assert_eq!(started.elapsed(), LINGER_FIRST);
    }
}
