//! What a connection is made of: bytes as they came or through TLS, and whether they are
//! HTTP/2, which its clients say with their first bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// How every HTTP/2 client begins.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's connection.
pub(crate) enum Stream {
    Plain(TcpStream),
    /// In a box: a session is large, and most of a task would be room for it.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Does the same with either.
macro_rules! either {
    ($stream:expr, $inner:ident => $result:expr) => {
        match $stream {
            Stream::Plain($inner) => $result,
            Stream::Tls($inner) => $result,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }
}

/// A stream of which the first bytes were read already; they are read again first.
pub(crate) struct Rewound<S> {
    read: Bytes,
    inner: S,
}

/// Reads until it is certain whether the client speaks HTTP/2.
///
/// # Errors
/// Whatever reading says.
pub(crate) async fn is_http2<S>(mut inner: S) -> io::Result<(bool, Rewound<S>)>
where
    S: AsyncRead + Unpin,
{
    let mut start = [0; PREFACE.len()];
    let mut filled = 0;
    loop {
        let read = inner.read(&mut start[filled..]).await?;
        filled += read;
        let begins = PREFACE.starts_with(&start[..filled]);
        if read == 0 || !begins || filled == start.len() {
            let http2 = begins && filled == start.len();
            let read = Bytes::copy_from_slice(&start[..filled]);
            return Ok((http2, Rewound { read, inner }));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let bytes = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..bytes]);
        self.read.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, duplex};

    #[tokio::test]
    async fn the_first_bytes_decide_and_are_read_again() {
        let preface = PREFACE.as_slice();
        let longer = [preface, b"more"].concat();
        for (sent, expected) in [
            (preface, true),
            (&longer, true),
            (b"PRI * HTTP/1.1\r\n\r\n".as_slice(), false),
            (b"PUT /k HTTP/1.1\r\n\r\n", false),
            (b"PRI * HTTP", false),
            (b"", false),
        ] {
            let (server, mut client) = duplex(64);
            client.write_all(sent).await.unwrap();
            drop(client);
            let (http2, mut rewound) = is_http2(server).await.unwrap();
            let mut read = Vec::new();
            rewound.read_to_end(&mut read).await.unwrap();
            assert_eq!((http2, read.as_slice()), (expected, sent));
        }
    }
}
