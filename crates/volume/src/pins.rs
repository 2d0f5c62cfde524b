//! Blobs that are being read, and the deletions that wait for their readers.
//!
//! A reader holds no view of the engine, which would keep every extent from being reused for
//! as long as its client takes. It pins the one blob that it reads. The protocol with
//! deletions:
//!
//! - whoever reads pins first, then looks the record up again under a fresh snapshot, and
//!   reads only if that still refers to the blob;
//! - a deletion begins only after the batch that ended the record is persistent, and looks
//!   for pins then.
//!
//! So either the second look shows that the record is gone, or the pin was there before the
//! deletion looked: it is parked until the last reader goes. A crash forgets parked deletions;
//! whoever asked for them has them noted durably.
//!
//! Whoever heals a blob holds it in the same way, but only if no deletion has begun: a shard
//! that came back behind its tombstone would stay for ever.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::deletion::Deletion;
use crate::limits::PINNED_BLOBS_MAX;
use crate::volume::lock;
use crate::{BlobId, BlobReader, BlobRef, Result, Volume, VolumeError};

/// The blobs that are being read.
#[derive(Default)]
pub(crate) struct Pins(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    pinned: HashMap<BlobId, Pinned>,
    /// Blobs whose deletion has begun, or which are being written.
    doomed: HashSet<BlobId>,
}

#[derive(Default)]
struct Pinned {
    readers: usize,
    parked: Vec<Deletion>,
}

impl Pins {
    fn pin(&self, blob: BlobId) -> Result<()> {
        let pins = &mut lock(&self.0).pinned;
        if pins.len() >= PINNED_BLOBS_MAX && !pins.contains_key(&blob) {
            return Err(VolumeError::Busy);
        }
        pins.entry(blob).or_default().readers += 1;
        Ok(())
    }

    /// Pins a blob unless it is being written or deleted.
    pub(crate) fn hold(&self, blob: BlobId) -> bool {
        let mut inner = lock(&self.0);
        if inner.doomed.contains(&blob) {
            return false;
        }
        inner.pinned.entry(blob).or_default().readers += 1;
        true
    }

    /// Nobody may heal the blob from now on: it is being written.
    pub(crate) fn doom(&self, blob: BlobId) {
        lock(&self.0).doomed.insert(blob);
    }

    /// It is there as a whole now, or gone.
    pub(crate) fn settle(&self, blob: BlobId) {
        lock(&self.0).doomed.remove(&blob);
    }

    /// What was parked, if that was the last reader.
    fn unpin(&self, blob: BlobId) -> Vec<Deletion> {
        let pins = &mut lock(&self.0).pinned;
        let Some(pinned) = pins.get_mut(&blob) else {
            return Vec::new();
        };
        pinned.readers = pinned.readers.saturating_sub(1);
        if pinned.readers > 0 {
            return Vec::new();
        }
        pins.remove(&blob)
            .map_or_else(Vec::new, |pinned| pinned.parked)
    }

    /// Leaves a deletion to the blob's last reader. `false`: nobody reads it, and the deletion
    /// begins.
    pub(crate) fn park(&self, blob: BlobId, deletion: &Deletion) -> bool {
        let mut inner = lock(&self.0);
        match inner.pinned.get_mut(&blob) {
            Some(pinned) => {
                if !pinned.parked.iter().any(|parked| parked.is(deletion)) {
                    pinned.parked.push(deletion.clone());
                }
                true
            }
            None => {
                inner.doomed.insert(blob);
                false
            }
        }
    }

    /// Blobs that are being read, and deletions that wait for it.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let pins = &lock(&self.0).pinned;
        let parked: usize = pins.values().map(|pinned| pinned.parked.len()).sum();
        (pins.len() as u64, parked as u64)
    }
}

/// Keeps a blob readable: while this lives, the blob's deletion waits.
pub struct BlobPin {
    volume: Volume,
    blob: BlobRef,
}

impl BlobPin {
    pub(crate) fn new(volume: Volume, blob: BlobRef) -> Result<BlobPin> {
        volume.pins().pin(blob.id)?;
        Ok(BlobPin { volume, blob })
    }

    /// Reads `range` of the blob's plain bytes; what lies past the end is left out.
    pub fn reader(self, range: Range<u64>) -> BlobReader {
        let blob = self.blob.clone();
        BlobReader::new(Arc::new(self), blob, range)
    }

    /// Reads a range of another blob, one that is not deleted before this one is: whoever
    /// deletes it sees to that by [`Volume::await_readers`] of this one.
    pub fn reader_of(self: &Arc<Self>, blob: BlobRef, range: Range<u64>) -> BlobReader {
        BlobReader::new(self.clone(), blob, range)
    }

    /// The blob.
    pub fn blob(&self) -> &BlobRef {
        &self.blob
    }

    /// The set that it is in.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }
}

/// Keeps a blob from being deleted while it is healed.
pub(crate) struct Held {
    volume: Volume,
    blob: BlobId,
}

impl Drop for Held {
    fn drop(&mut self) {
        let parked = self.volume.pins().unpin(self.blob);
        self.volume.unpark(parked);
    }
}

impl Volume {
    /// Keeps a blob from being deleted; `None`: it is being written or deleted.
    pub(crate) fn hold_blob(&self, blob: BlobId) -> Option<Held> {
        let volume = self.clone();
        self.pins().hold(blob).then_some(Held { volume, blob })
    }
}

impl Drop for BlobPin {
    fn drop(&mut self) {
        let parked = self.volume.pins().unpin(self.blob.id);
        self.volume.unpark(parked);
    }
}
