//! Reading a blob: stripes in, verified pieces out.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use shardstore::Completion;

use crate::blob::shard_key;
use crate::limits::READ_AHEAD_STRIPES;
use crate::{BlobPin, BlobRef, Result, VolumeError};

/// What one read of a stripe found.
enum Piece {
    Bytes(Vec<u8>),
    Missing,
    WrongLength(u32),
}

/// Yields a range of a blob, piece by piece. Keeps a pin, and holds at most
/// `1 + READ_AHEAD_STRIPES` stripes. Each stripe is read under a snapshot of its own, so that
/// a client that takes its time keeps nothing of the disk but this blob.
pub struct BlobReader {
    pin: Arc<BlobPin>,
    blob: BlobRef,
    /// What has not been asked for yet, in plain bytes.
    rest: Range<u64>,
    /// Asked for already, in order, with the stripe's number.
    ahead: VecDeque<(u32, Completion<Piece>)>,
    /// Whether the last piece had to wait for the disk. Pieces that memory holds are not
    /// asked for ahead: copying them early would only delay the one that is wanted now.
    cold: bool,
}

impl BlobReader {
    pub(crate) fn new(pin: Arc<BlobPin>, blob: BlobRef, range: Range<u64>) -> BlobReader {
        let end = range.end.min(blob.plain_len);
        let rest = range.start.min(end)..end;
        BlobReader {
            pin,
            blob,
            rest,
            ahead: VecDeque::new(),
            cold: false,
        }
    }

    /// The next piece: verified, never empty, at most one stripe. `None` at the end; after
    /// an error the reader is at its end. A cancelled call loses nothing.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>>> {
        let piece = self.try_next().await;
        if !matches!(piece, Ok(Some(_))) {
            self.rest = 0..0;
            self.ahead.clear();
        }
        piece.transpose()
    }

    async fn try_next(&mut self) -> Result<Option<Vec<u8>>> {
        let blob = &self.blob;
        // This release writes neither transforms nor stripes of several data shards.
        if !blob.transforms.is_empty() || blob.scheme.k > 1 {
            return Err(VolumeError::Newer {
                what: format!("blob {}", blob.id),
            });
        }
        if self.ahead.is_empty() {
            self.ask()?;
        }
        let Some(&(stripe, _)) = self.ahead.front() else {
            return Ok(None);
        };
        let at_once = poll_fn(|context| Poll::Ready(self.poll_front(context))).await;
        self.cold |= at_once.is_pending();
        while self.cold && self.ahead.len() <= READ_AHEAD_STRIPES && self.ask()? {}
        // The piece stays in front until it is there, so that a cancelled call can be repeated.
        let piece = match at_once {
            Poll::Ready(piece) => piece,
            Poll::Pending => poll_fn(|context| self.poll_front(context)).await,
        };
        self.ahead.pop_front();
        let piece = piece.map_err(|error| self.name(stripe, error))?;
        self.check(stripe, piece).map(Some)
    }

    fn poll_front(&mut self, context: &mut Context<'_>) -> Poll<shardstore::Result<Piece>> {
        match self.ahead.front_mut() {
            Some((_, read)) => Pin::new(read).poll(context),
            None => Poll::Ready(Err(shardstore::Error::Closed)),
        }
    }

    /// Asks for the next stripe; `false` if all have been asked for.
    fn ask(&mut self) -> Result<bool> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        let (blob, volume) = (&self.blob, self.pin.volume());
        let stripe_bytes = blob.stripe_bytes();
        let number = self.rest.start / stripe_bytes;
        let begin = number * stripe_bytes;
        let end = (begin + stripe_bytes).min(blob.stored_len);
        let until = self.rest.end.min(end);
        // Both are offsets within one stripe, of at most 16 MiB.
        let range = (self.rest.start - begin) as u32..(until - begin) as u32;
        let expected = (end - begin) as u32;
        let number = number as u32;
        let key = shard_key(blob.id, number, 0);
        let disk = volume.shard_disk(blob.id, number, 0);
        let read = volume.snapshot().on_disk(disk, move |snapshot, how| {
            let Some(found) = snapshot.get(&key, how)? else {
                return Ok(Piece::Missing);
            };
            if found.payload_len() != expected {
                return Ok(Piece::WrongLength(found.payload_len()));
            }
            snapshot
                .read_payload(&found, range.clone(), how)
                .map(Piece::Bytes)
        })?;
        self.rest.start = until;
        self.ahead.push_back((number, read));
        Ok(true)
    }

    /// Says which stripe it was that could not be read.
    fn name(&self, stripe: u32, error: shardstore::Error) -> VolumeError {
        match VolumeError::from(error) {
            VolumeError::Unreadable { reason, .. } => VolumeError::Unreadable {
                what: format!("stripe {stripe} of blob {}", self.blob.id),
                reason,
            },
            error => error,
        }
    }

    fn check(&self, stripe: u32, piece: Piece) -> Result<Vec<u8>> {
        let corrupt = |why: String| {
            let what = format!("stripe {stripe} of blob {}", self.blob.id);
            Err(VolumeError::Corrupt { what, why })
        };
        match piece {
            Piece::Bytes(bytes) => Ok(bytes),
            Piece::Missing => corrupt("it is not on the disk".to_owned()),
            Piece::WrongLength(len) => corrupt(format!("it has a wrong length, {len} bytes")),
        }
    }
}
