//! Writing the body of an object or of a part: beside its record while it is small, else into
//! a blob as it comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use volume::{BlobRef, BlobWriter, FinishedBlob};

use crate::objects::Inner;
use crate::record::BlobLabel;
use crate::{Error, Result};

/// A body that is being written. Dropped, it leaves nothing behind.
pub(crate) struct BodyWriter {
    inner: Arc<Inner>,
    label: BlobLabel,
    /// Bytes that the body will have, if known.
    announced: Option<u64>,
    /// Most bytes that it may have.
    bytes_max: u64,
    /// Most bytes that are kept beside a record.
    inline_bytes_max: usize,
    size: u64,
    /// The body while it may still be inline; empty once there is a blob.
    inline: Vec<u8>,
    blob: Option<BlobWriter>,
    /// Dropped last: whoever counts no writer finds the deletions that their blobs asked for.
    _open: OpenWriter,
}

/// Counts itself.
pub(crate) struct OpenWriter(Arc<Inner>);

impl OpenWriter {
    /// To be counted before its owner looks whether the store is open: a close that does not
    /// see the writer is seen by it.
    pub(crate) fn new(inner: Arc<Inner>) -> OpenWriter {
        inner.open_writers.fetch_add(1, Ordering::SeqCst);
        OpenWriter(inner)
    }
}

impl Drop for OpenWriter {
    fn drop(&mut self) {
        self.0.open_writers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What bounds a body.
pub(crate) struct BodyLimits {
    /// Bytes that the body will have, if known; another size is refused.
    pub(crate) announced: Option<u64>,
    /// Most bytes that it may have.
    pub(crate) bytes_max: u64,
    /// Most bytes that are kept beside a record.
    pub(crate) inline_bytes_max: usize,
}

impl BodyWriter {
    /// Fails with `EntityTooLarge` if more is announced than there may be.
    pub(crate) fn new(
        open: OpenWriter,
        label: BlobLabel,
        limits: BodyLimits,
    ) -> Result<BodyWriter> {
        let limit = limits.bytes_max;
        if limits.announced.is_some_and(|len| len > limit) {
            return Err(Error::EntityTooLarge { limit });
        }
        Ok(BodyWriter {
            inner: open.0.clone(),
            label,
            announced: limits.announced,
            bytes_max: limit,
            inline_bytes_max: limits.inline_bytes_max,
            size: 0,
            inline: Vec::new(),
            blob: None,
            _open: open,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Appends to the body; waits while too many bytes are on their way to the disks. If it
    /// fails or its future is dropped half-way, the body cannot be finished any more.
    pub(crate) async fn write(&mut self, data: Bytes) -> Result<()> {
        self.size = self.size.saturating_add(data.len() as u64);
        if self.size > self.bytes_max {
            return Err(Error::EntityTooLarge {
                limit: self.bytes_max,
            });
        }
        if self
            .announced
            .is_some_and(|announced| self.size > announced)
        {
            return self.check_length();
        }
        if self.blob.is_none() && self.inline.len() + data.len() <= self.inline_bytes_max {
            self.inline.extend_from_slice(&data);
            return Ok(());
        }
        let inline = std::mem::take(&mut self.inline);
        let blob = self.blob()?;
        blob.write(&inline).await?;
        blob.write(&data).await?;
        Ok(())
    }

    fn blob(&mut self) -> Result<&mut BlobWriter> {
        match &mut self.blob {
            Some(blob) => Ok(blob),
            none => {
                let label = self.label.encode()?;
                let blob = self.inner.volume.blob_writer(label, self.announced)?;
                Ok(none.insert(blob))
            }
        }
    }

    /// Fails with `IncompleteBody` if another length was announced.
    pub(crate) fn check_length(&self) -> Result<()> {
        match self.announced {
            Some(announced) if announced != self.size => Err(Error::IncompleteBody {
                announced,
                received: self.size,
            }),
            _ => Ok(()),
        }
    }

    /// Takes the body if it is to be kept beside its record; of a larger one nothing is left.
    pub(crate) fn take_inline(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.inline)
    }

    /// Submits the last of the body's blob, if it has one; `trailer` makes what its last frame
    /// carries from what the blob is.
    pub(crate) async fn finish_blob(
        &mut self,
        trailer: impl FnOnce(&BlobRef) -> Result<Vec<u8>>,
    ) -> Result<Option<FinishedBlob>> {
        match self.blob.take() {
            None => Ok(None),
            Some(blob) => {
                let trailer = trailer(&blob.blob())?;
                Ok(Some(blob.finish(trailer).await?))
            }
        }
    }

    /// The same for a body that is always in a blob, be it empty.
    pub(crate) async fn finish_as_blob(
        &mut self,
        trailer: impl FnOnce(&BlobRef) -> Result<Vec<u8>>,
    ) -> Result<FinishedBlob> {
        self.blob()?;
        let finished = self.finish_blob(trailer).await?;
        finished.ok_or_else(|| Error::Internal("a blob that was begun is not there".to_owned()))
    }
}
