//! The request's body as the client sends it: small pieces gathered, slow clients noticed, and
//! the reason kept when it breaks off.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::checksums::Watch;
use crate::context::RequestContext;
use crate::limits::{
    BODY_PROGRESS_BYTES_MIN, BODY_PROGRESS_WINDOW, DOCUMENT_PROGRESS_BYTES_MIN, GATHER_BYTES,
    PIECE_BYTES_MIN,
};
use crate::pace::Pace;

/// Why a request's body could not be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFailure {
    /// The client went away, or its framing was wrong.
    BrokenOff,
    /// The client sent too little for too long.
    TooSlow,
    /// The body's SHA-256 is not what `x-amz-content-sha256` says.
    Sha256Mismatch,
    /// A document has a CDATA section, which its parser drops.
    CharacterData,
    /// A document would take too much memory when parsed.
    TooMuchMarkup,
    /// What stands before the file of a form is too long.
    FormTooLarge,
    /// A form puts the file's name into too many places.
    TooManyVariables,
}

impl std::fmt::Display for BodyFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BodyFailure::BrokenOff => "the body ended before its announced end",
            BodyFailure::TooSlow => "the client sent too little for too long",
            BodyFailure::Sha256Mismatch => "the body's SHA-256 is not the announced one",
            BodyFailure::CharacterData => "the document has a CDATA section",
            BodyFailure::TooMuchMarkup => "the document has too many elements",
            BodyFailure::FormTooLarge => "what stands before the file of the form is too long",
            BodyFailure::TooManyVariables => "the form says ${filename} too often",
        })
    }
}

impl std::error::Error for BodyFailure {}

/// Wraps the connection's body.
pub(crate) struct ClientBody<B> {
    inner: B,
    pub(crate) context: Arc<RequestContext>,
    /// Digests of the whole body, for documents that `s3s` reads by itself.
    watch: Option<Watch>,
    gathered: BytesMut,
    /// Hands on what arrives as it arrives.
    is_eager: bool,
    ended: bool,
    pace: Pace,
}

impl<B> ClientBody<B> {
    pub(crate) fn new(inner: B, context: Arc<RequestContext>, watch: Option<Watch>) -> Self {
        let bytes_min = match &watch {
            Some(_) => DOCUMENT_PROGRESS_BYTES_MIN,
            None => BODY_PROGRESS_BYTES_MIN,
        };
        let (gathered, pace) = (BytesMut::new(), Pace::new(BODY_PROGRESS_WINDOW, bytes_min));
        ClientBody {
            inner,
            context,
            watch,
            gathered,
            is_eager: false,
            ended: false,
            pace,
        }
    }

    /// From now on small pieces are gathered, or not.
    pub(crate) fn set_eager(&mut self, is_eager: bool) {
        self.is_eager = is_eager;
    }

    pub(crate) fn fail(&mut self, failure: BodyFailure) -> BodyFailure {
        self.ended = true;
        self.gathered = BytesMut::new();
        self.context.set_body_failure(failure);
        failure
    }

    fn end(&mut self) -> Result<(), BodyFailure> {
        self.ended = true;
        self.context.set_body_unread(false);
        let Some(watch) = self.watch.take() else {
            return Ok(());
        };
        match watch.finish() {
            Ok(digests) => {
                self.context.set_body_digests(digests);
                Ok(())
            }
            Err(failure) => Err(self.fail(failure)),
        }
    }

    fn take_gathered(&mut self) -> Option<Bytes> {
        if self.gathered.is_empty() {
            None
        } else {
            Some(self.gathered.split().freeze())
        }
    }
}

impl<B> ClientBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Takes what arrived; returns it if it is worth passing on by itself.
    fn accept(&mut self, data: Bytes) -> Result<Option<Bytes>, BodyFailure> {
        self.context.add_bytes_in(data.len());
        self.pace.progress(data.len());
        let watched = self.watch.as_mut().map(|watch| watch.update(&data));
        if let Some(Err(failure)) = watched {
            return Err(self.fail(failure));
        }
        // Whoever reads may stop at the last byte, without asking whether there is more.
        let last = self.inner.is_end_stream();
        if last {
            self.end()?;
        }
        let whole = last || self.is_eager || data.len() >= PIECE_BYTES_MIN;
        if self.gathered.is_empty() && whole {
            return Ok(Some(data));
        }
        if self.gathered.capacity() == 0 {
            // No more than what is to come, so that small bodies stay small.
            let rest = self.inner.size_hint().upper().unwrap_or(u64::MAX);
            let rest = usize::try_from(rest).unwrap_or(usize::MAX);
            let room = rest.saturating_add(data.len()).min(GATHER_BYTES);
            self.gathered.reserve(room);
        }
        self.gathered.extend_from_slice(&data);
        let enough = self.gathered.len() >= PIECE_BYTES_MIN;
        Ok(if enough { self.take_gathered() } else { None })
    }
}

impl<B> Body for ClientBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let this = &mut *self;
        while !this.ended {
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers of the HTTP framing carry nothing that S3 knows.
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    if data.is_empty() {
                        continue;
                    }
                    match this.accept(data) {
                        Ok(Some(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                        Ok(None) => {}
                        Err(failure) => return Poll::Ready(Some(Err(failure))),
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Some(Err(this.fail(BodyFailure::BrokenOff))));
                }
                Poll::Ready(None) => {
                    if let Err(failure) = this.end() {
                        return Poll::Ready(Some(Err(failure)));
                    }
                }
                Poll::Pending => {
                    ready!(this.pace.poll_too_slow(cx));
                    return Poll::Ready(Some(Err(this.fail(BodyFailure::TooSlow))));
                }
            }
        }
        Poll::Ready(this.take_gathered().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        // A body that is watched must be polled to its end, so that its digests are finished.
        self.gathered.is_empty()
            && (self.ended || (self.watch.is_none() && self.inner.is_end_stream()))
    }

    fn size_hint(&self) -> SizeHint {
        behind(self.gathered.len(), &self.inner.size_hint())
    }
}

/// What is to come when `held` bytes are handed on before the rest.
pub(crate) fn behind(held: usize, rest: &SizeHint) -> SizeHint {
    let held = held as u64;
    let mut hint = SizeHint::new();
    hint.set_lower(rest.lower() + held);
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper + held);
    }
    hint
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::context::{Observer, RequestSummary};
    use http_body_util::{BodyExt, StreamBody};
    use std::collections::VecDeque;
    use tokio::time::Instant;

    struct Silent;

    impl Observer for Silent {
        fn finished(&self, _: &RequestSummary<'_>) {}
    }

    fn context() -> Arc<RequestContext> {
        let parts = http::Request::new(()).into_parts().0;
        RequestContext::new(&parts, None, None, Arc::new(Silent))
    }

    /// Pieces that arrive at once; `None` is a moment of waiting that never ends.
    pub(crate) struct Script(VecDeque<Option<Bytes>>);

    impl futures_core::Stream for Script {
        type Item = Result<Frame<Bytes>, std::io::Error>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            match self.0.front() {
                Some(None) => Poll::Pending,
                _ => Poll::Ready(
                    self.0
                        .pop_front()
                        .flatten()
                        .map(|data| Ok(Frame::data(data))),
                ),
            }
        }
    }

    pub(crate) fn body(pieces: Vec<Option<Bytes>>) -> ClientBody<StreamBody<Script>> {
        ClientBody::new(StreamBody::new(Script(pieces.into())), context(), None)
    }

    #[tokio::test]
    async fn single_bytes_are_gathered() {
        let pieces = (0..100_000_u32)
            .map(|n| Some(Bytes::from(vec![n as u8])))
            .collect();
        let mut body = body(pieces);
        let mut sizes = Vec::new();
        let mut received = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            sizes.push(data.len());
            received.extend_from_slice(&data);
        }
        assert!(sizes.len() <= 4, "{sizes:?}");
        assert!(
            received
                .iter()
                .enumerate()
                .all(|(n, &byte)| byte == n as u8)
        );
        assert_eq!(received.len(), 100_000);
    }

    #[tokio::test]
    async fn large_pieces_pass_through() {
        let piece = Bytes::from(vec![7; PIECE_BYTES_MIN]);
        let mut body = body(vec![Some(piece.clone())]);
        let received = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(received.as_ptr(), piece.as_ptr());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_noticed() {
        let mut body = body(vec![Some(Bytes::from_static(b"abc")), None]);
        let started = Instant::now();
        let failure = body.frame().await.unwrap().unwrap_err();
        assert_eq!(failure, BodyFailure::TooSlow);
        assert_eq!(started.elapsed(), BODY_PROGRESS_WINDOW);
        assert_eq!(body.context.body_failure(), Some(BodyFailure::TooSlow));
        assert!(body.frame().await.is_none());
    }
}
