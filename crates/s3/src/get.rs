//! GetObject.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use objects::ObjectReader;
use s3s::dto::{GetObjectInput, GetObjectOutput, StreamingBlob};
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{Body, S3Request, S3Response, S3Result, StdError, s3_error};

use crate::door::{Door, caller, context};
use crate::errors::{from_objects, from_overload};
use crate::limits::GET_WINDOW_BYTES;
use crate::read_head::{self, overrides};
use crate::view::{ReadInput, View, if_range};

pub(crate) async fn get_object(
    door: &Door,
    mut req: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let wanted = read_input(&mut req.input, if_range(&req.headers));
    let with_checksum = req.input.checksum_mode.is_some();
    let overrides = overrides!(req.input);
    wanted.check()?;
    let (bucket, key) = (&req.input.bucket, &req.input.key);
    let handle = door
        .objects
        .get(&caller(&req)?, bucket, key)
        .await
        .map_err(from_objects)?;
    let view = wanted.view(&handle).await?;
    let headers = read_head::headers(handle.info(), &view, &overrides, with_checksum)?;

    let window = window_bytes(&view);
    let budget = door.budgets.for_read(window);
    context(&req)?.hold(budget.reserve(window).await.map_err(from_overload)?);

    let opened = open(handle.read(view.range.clone()), view.len()).await?;
    let output = GetObjectOutput {
        body: Some(opened.into()),
        // This makes it 206.
        content_range: view.content_range,
        ..Default::default()
    };
    Ok(S3Response::with_headers(output, headers))
}

/// The memory that reading these bytes takes.
pub(crate) fn window_bytes(view: &View) -> usize {
    usize::try_from(view.len())
        .unwrap_or(usize::MAX)
        .min(GET_WINDOW_BYTES)
}

fn read_input(input: &mut GetObjectInput, if_range: Option<String>) -> ReadInput {
    ReadInput {
        if_match: input.if_match.take(),
        if_none_match: input.if_none_match.take(),
        if_modified_since: input.if_modified_since.take(),
        if_unmodified_since: input.if_unmodified_since.take(),
        range: input.range.take(),
        part_number: input.part_number,
        version_id: input.version_id.take(),
        if_range,
    }
}

/// A body whose first piece was read.
pub(crate) enum Opened {
    /// There are no others.
    Whole(Bytes),
    Pieces(Pieces),
}

impl From<Opened> for StreamingBlob {
    fn from(opened: Opened) -> StreamingBlob {
        match opened {
            Opened::Whole(bytes) => StreamingBlob::from_bytes(bytes),
            Opened::Pieces(pieces) => StreamingBlob::new(pieces),
        }
    }
}

impl From<Opened> for Body {
    fn from(opened: Opened) -> Body {
        match opened {
            Opened::Whole(bytes) => Body::from(bytes),
            pieces => Body::from(StreamingBlob::from(pieces)),
        }
    }
}

/// Reads the first piece before anything is answered, so that an object that cannot be read
/// is an error and not a body that breaks off.
pub(crate) async fn open(mut reader: ObjectReader, length: u64) -> S3Result<Opened> {
    reader.probe().await.map_err(from_objects)?;
    let first = match reader.next().await {
        Some(piece) => piece.map_err(from_objects)?,
        None if length == 0 => Bytes::new(),
        None => return Err(s3_error!(InternalError, "the object's body is missing")),
    };
    Ok(match first.len() as u64 == length {
        true => Opened::Whole(first),
        false => Opened::Pieces(Pieces::new(first, reader, length)),
    })
}

/// The future that reads the next piece, and gives the reader back.
type Reading = Pin<Box<dyn Future<Output = (ObjectReader, Option<objects::Result<Bytes>>)> + Send>>;

/// A body in verified pieces. The reader reads ahead by itself, so that one future at a time
/// is enough.
pub(crate) struct Pieces {
    first: Option<Bytes>,
    /// Never locked: it makes shared what only one task uses.
    state: Mutex<State>,
    remaining: u64,
}

enum State {
    Idle(ObjectReader),
    Reading(Reading),
    Ended,
}

impl Pieces {
    fn new(first: Bytes, reader: ObjectReader, length: u64) -> Pieces {
        Pieces {
            first: Some(first),
            state: Mutex::new(State::Idle(reader)),
            remaining: length,
        }
    }

    fn swap(&mut self, state: State) -> State {
        let current = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(current, state)
    }

    fn deliver(&mut self, piece: Bytes) -> Poll<Option<Result<Bytes, StdError>>> {
        self.remaining = self.remaining.saturating_sub(piece.len() as u64);
        if self.remaining == 0 {
            self.swap(State::Ended);
        }
        Poll::Ready(Some(Ok(piece)))
    }
}

impl Stream for Pieces {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return self.deliver(first);
        }
        loop {
            match self.swap(State::Ended) {
                State::Idle(mut reader) => {
                    self.swap(State::Reading(Box::pin(async move {
                        let piece = reader.next().await;
                        (reader, piece)
                    })));
                }
                State::Reading(mut reading) => match reading.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.swap(State::Reading(reading));
                        return Poll::Pending;
                    }
                    Poll::Ready((reader, Some(Ok(piece)))) => {
                        self.swap(State::Idle(reader));
                        return self.deliver(piece);
                    }
                    Poll::Ready((_, Some(Err(error)))) => {
                        return Poll::Ready(Some(Err(Box::new(error))));
                    }
                    // Fewer bytes than the record says: the connection notices by itself.
                    Poll::Ready((_, None)) => return Poll::Ready(None),
                },
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

impl ByteStream for Pieces {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(usize::try_from(self.remaining).unwrap_or(usize::MAX))
    }
}
