//! The answer's body: counts what is sent and keeps the request's memory until the end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::context::RequestContext;

/// The body of an answer. Dropping it ends the request: its memory is given back and its
/// observer is told.
pub struct FrontBody {
    inner: s3s::Body,
    context: Arc<RequestContext>,
}

impl FrontBody {
    pub(crate) fn new(inner: s3s::Body, context: Arc<RequestContext>) -> FrontBody {
        if inner.is_end_stream() {
            context.set_complete();
        }
        FrontBody { inner, context }
    }
}

impl std::fmt::Debug for FrontBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontBody")
            .field("request_id", &self.context.id)
            .finish_non_exhaustive()
    }
}

impl Body for FrontBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                self.context
                    .add_bytes_out(frame.data_ref().map_or(0, Bytes::len));
                if self.inner.is_end_stream() {
                    self.context.set_complete();
                }
            }
            Some(Err(error)) => {
                // The head is on its way: all that is left is to break off.
                let request_id = self.context.id.as_str();
                tracing::error!(request_id, %error, "the answer's body broke off");
            }
            None => self.context.set_complete(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
