//! The beginning of an upload by HTML form, up to its file: what a stranger may send before
//! anybody has asked who they are.
//!
//! `s3s` parses the fields, and puts the file's name wherever the key says `${filename}`, before
//! it looks at the signature. What must always hold: it never gets more of an unsigned form than
//! [`FORM_HEAD_BYTES_MAX`], nor more places for the name than [`FORM_VARIABLES_MAX`], and it
//! does not wait for them longer than [`FORM_HEAD_WAIT`]. It asks for no more than it needs, so
//! that lines are handed to it one by one: of the file it gets nothing until it is let in.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::body_in::{BodyFailure, ClientBody, behind};
use crate::limits::{FORM_HEAD_BYTES_MAX, FORM_HEAD_WAIT, FORM_LINE_BYTES_MAX, FORM_VARIABLES_MAX};

/// What stands in a key for the name of the file.
const VARIABLE: &[u8] = b"${filename}";

/// Wraps the body of a form.
pub(crate) struct FormBody<B> {
    inner: ClientBody<B>,
    /// Received and not handed on yet.
    held: Bytes,
    /// Bytes handed on before the form was let in.
    passed: usize,
    variables: Occurrences,
    deadline: Pin<Box<Sleep>>,
}

impl<B> FormBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Waits for the first bytes: until then a form needs no memory of its own.
    ///
    /// # Errors
    /// The body's, and that the bytes did not come in time.
    pub(crate) async fn begin(mut inner: ClientBody<B>) -> Result<FormBody<B>, BodyFailure> {
        // The head is short, and may arrive long before the file does.
        inner.set_eager(true);
        let mut form = FormBody {
            inner,
            held: Bytes::new(),
            passed: 0,
            variables: Occurrences::default(),
            deadline: Box::pin(sleep(FORM_HEAD_WAIT)),
        };
        poll_fn(|cx| form.poll_held(cx)).await?;
        Ok(form)
    }

    /// Ready when something is held, or nothing is to come. Not after the deadline.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyFailure>> {
        while self.held.is_empty() {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.held = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(failure))) => return Poll::Ready(Err(failure)),
                Poll::Ready(None) => break,
                Poll::Pending => {
                    ready!(self.deadline.as_mut().poll(cx));
                    return Poll::Ready(Err(self.inner.fail(BodyFailure::TooSlow)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The next line of what is held, or a part of a long one.
    fn next_line(&mut self) -> Result<Bytes, BodyFailure> {
        let window = &self.held[..self.held.len().min(FORM_LINE_BYTES_MAX)];
        let end = window
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(window.len(), |at| at + 1);
        let line = self.held.split_to(end);
        self.passed += line.len();
        self.variables.count(&line);
        if self.passed > FORM_HEAD_BYTES_MAX {
            return Err(BodyFailure::FormTooLarge);
        }
        if self.variables.found > FORM_VARIABLES_MAX {
            return Err(BodyFailure::TooManyVariables);
        }
        Ok(line)
    }
}

impl<B> Body for FormBody<B>
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
        if this.inner.context.is_form_let_in() {
            if !this.held.is_empty() {
                let held = std::mem::take(&mut this.held);
                return Poll::Ready(Some(Ok(Frame::data(held))));
            }
            this.inner.set_eager(false);
            return Pin::new(&mut this.inner).poll_frame(cx);
        }
        ready!(this.poll_held(cx))?;
        if this.held.is_empty() {
            return Poll::Ready(None);
        }
        match this.next_line() {
            Ok(line) => Poll::Ready(Some(Ok(Frame::data(line)))),
            Err(failure) => {
                this.held = Bytes::new();
                Poll::Ready(Some(Err(this.inner.fail(failure))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        behind(self.held.len(), &self.inner.size_hint())
    }
}

/// Counts [`VARIABLE`] in a text that comes in pieces.
#[derive(Default)]
struct Occurrences {
    found: usize,
    /// How much of it the text ends with so far.
    matched: usize,
}

impl Occurrences {
    fn count(&mut self, piece: &[u8]) {
        for byte in piece {
            // Its first byte stands nowhere else in it, so that no part of it begins another.
            self.matched = match VARIABLE.get(self.matched) {
                Some(expected) if expected == byte => self.matched + 1,
                _ => usize::from(*byte == VARIABLE[0]),
            };
            if self.matched == VARIABLE.len() {
                (self.found, self.matched) = (self.found + 1, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body_in::tests::body;
    use http_body_util::BodyExt;
    use tokio::time::Instant;

    type Form = FormBody<http_body_util::StreamBody<crate::body_in::tests::Script>>;

    async fn begin(pieces: Vec<Option<Bytes>>) -> Result<Form, BodyFailure> {
        FormBody::begin(body(pieces)).await
    }

    async fn next(form: &mut Form) -> Result<Vec<u8>, BodyFailure> {
        let frame = form.frame().await.expect("more is to come")?;
        Ok(frame.into_data().expect("data").to_vec())
    }

    #[tokio::test(start_paused = true)]
    async fn lines_come_singly_until_the_form_is_let_in() {
        let text = Bytes::from_static(b"--b\r\n\r\n${filename}${filename}${filename}\nfile");
        let mut form = begin(vec![Some(text)]).await.unwrap();
        assert_eq!(next(&mut form).await.unwrap(), b"--b\r\n");
        assert_eq!(next(&mut form).await.unwrap(), b"\r\n");
        form.inner.context.let_form_in();
        let rest = next(&mut form).await.unwrap();
        assert_eq!(rest, b"${filename}${filename}${filename}\nfile");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_get_so_many_bytes_and_variables_and_so_much_time() {
        let long = Bytes::from(vec![b'x'; FORM_HEAD_BYTES_MAX + 1]);
        let mut form = begin(vec![Some(long)]).await.unwrap();
        let failure = loop {
            match next(&mut form).await {
                Ok(line) => assert!(line.len() <= FORM_LINE_BYTES_MAX),
                Err(failure) => break failure,
            }
        };
        assert_eq!(failure, BodyFailure::FormTooLarge);
        assert!(form.frame().await.is_none());

        let often = Bytes::from("${filename}".repeat(FORM_VARIABLES_MAX + 1));
        let mut form = begin(vec![Some(often)]).await.unwrap();
        let failure = next(&mut form).await.unwrap_err();
        assert_eq!(failure, BodyFailure::TooManyVariables);

        let started = Instant::now();
        let failure = begin(vec![None]).await.err();
        assert_eq!(failure, Some(BodyFailure::TooSlow));
        assert_eq!(started.elapsed(), FORM_HEAD_WAIT);
        let started = Instant::now();
        let mut form = begin(vec![Some(Bytes::from_static(b"--b")), None])
            .await
            .unwrap();
        assert_eq!(next(&mut form).await.unwrap(), b"--b");
        let failure = next(&mut form).await.unwrap_err();
        assert_eq!(failure, BodyFailure::TooSlow);
        assert_eq!(started.elapsed(), FORM_HEAD_WAIT);
    }

    #[test]
    fn occurrences_are_found_across_pieces() {
        let text = b"a${filename}$${filename}${file${filename}${filename";
        for cut in 0..text.len() {
            let mut occurrences = Occurrences::default();
            occurrences.count(&text[..cut]);
            occurrences.count(&text[cut..]);
            assert_eq!(occurrences.found, 3, "cut at {cut}");
        }
    }
}
