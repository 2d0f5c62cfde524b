//! GetObject.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use objects::{ObjectInfo, ObjectReader};
use s3s::dto::{self, GetObjectInput, GetObjectOutput, StreamingBlob};
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Request, S3Response, S3Result, StdError, s3_error};

use crate::algorithms::{put_sums, sums_of};
use crate::door::{Door, caller, context};
use crate::errors::{from_objects, from_overload};
use crate::limits::GET_WINDOW_BYTES;
use crate::view::{ReadInput, View, if_range, to_dto};

/// What S3 says of an object that was put without a type.
pub(crate) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

pub(crate) async fn get_object(
    door: &Door,
    mut req: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let wanted = read_input(&mut req.input, if_range(&req.headers));
    let with_checksum = req.input.checksum_mode.is_some();
    wanted.check()?;
    let (bucket, key) = (&req.input.bucket, &req.input.key);
    let handle = door
        .objects
        .get(&caller(&req)?, bucket, key)
        .await
        .map_err(from_objects)?;
    let view = wanted.view(&handle).await?;
    let info = handle.info().clone();

    let window = usize::try_from(view.len())
        .unwrap_or(usize::MAX)
        .min(GET_WINDOW_BYTES);
    let budget = door.budgets.for_read(window);
    context(&req)?.hold(budget.reserve(window).await.map_err(from_overload)?);

    let body = body(handle.read(view.range.clone()), view.len()).await?;
    Ok(S3Response::new(answer(info, view, body, with_checksum)?))
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

/// Reads the first piece before anything is answered, so that an object that cannot be read
/// is an error and not a body that breaks off.
async fn body(mut reader: ObjectReader, length: u64) -> S3Result<StreamingBlob> {
    let first = match reader.next().await {
        Some(piece) => piece.map_err(from_objects)?,
        None if length == 0 => return Ok(StreamingBlob::from_bytes(Bytes::new())),
        None => return Err(s3_error!(InternalError, "the object's body is missing")),
    };
    if first.len() as u64 == length {
        return Ok(StreamingBlob::from_bytes(first));
    }
    Ok(StreamingBlob::new(Pieces::new(first, reader, length)))
}

fn answer(
    info: ObjectInfo,
    view: View,
    body: StreamingBlob,
    with_checksum: bool,
) -> S3Result<GetObjectOutput> {
    let mut sums = sums_of(view.checksum.as_ref().filter(|_| with_checksum), info.parts);
    let metadata = info.metadata;
    let mut output = GetObjectOutput {
        checksum_type: sums.checksum_type.take(),
        parts_count: view.parts.map(i32::from),
        accept_ranges: Some("bytes".to_owned()),
        body: Some(body),
        cache_control: metadata.cache_control,
        content_disposition: metadata.content_disposition,
        content_encoding: metadata.content_encoding,
        content_language: metadata.content_language,
        content_length: Some(length_header(view.len())?),
        content_range: view.content_range,
        content_type: Some(
            metadata
                .content_type
                .unwrap_or_else(|| DEFAULT_CONTENT_TYPE.into()),
        ),
        e_tag: Some(dto::ETag::Strong(info.etag.as_str().to_owned())),
        expires: metadata.expires,
        last_modified: Some(to_dto(info.modified)),
        metadata: (!metadata.user.is_empty()).then(|| metadata.user.into_iter().collect()),
        ..Default::default()
    };
    put_sums!(sums => output);
    Ok(output)
}

pub(crate) fn length_header(length: u64) -> S3Result<i64> {
    i64::try_from(length).map_err(|_| s3_error!(InternalError, "the object's size is impossible"))
}

/// The future that reads the next piece, and gives the reader back.
type Reading = Pin<Box<dyn Future<Output = (ObjectReader, Option<objects::Result<Bytes>>)> + Send>>;

/// A body in verified pieces. The reader reads ahead by itself, so that one future at a time
/// is enough.
struct Pieces {
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
