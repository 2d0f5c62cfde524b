//! The set of disks: hands out writers, readers and snapshots, and admits what goes to disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shardstore::limits::BATCH_ENTRIES_MAX;
use shardstore::{Batch, Dependency, Engine, Identity, Space, Stats};

use crate::deletion::Deletions;
use crate::limits::{IN_FLIGHT_BYTES_DEFAULT, SHARD_BYTES_MAX};
use crate::meta::MetaBatch;
use crate::pins::{BlobPin, Pins};
use crate::slices::{SliceId, SliceMap};
use crate::{BlobId, BlobRef, BlobWriter, Deletion, Result, Scheme, VolumeError, VolumeSnapshot};

/// Knobs; every one may be chosen anew at each start.
#[derive(Debug, Clone)]
pub struct VolumeOptions {
    /// Most bytes of stripes that all writers together have on their way to the disks; a
    /// single stripe always goes. The engines' queues must hold this and the metadata
    /// batches besides, else writers wait and then get [`VolumeError::Busy`].
    pub in_flight_bytes_max: usize,
    /// Bytes of a full shard of new blobs; less where a disk allows less, never above 1 MiB.
    pub shard_bytes_max: u32,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        VolumeOptions {
            in_flight_bytes_max: IN_FLIGHT_BYTES_DEFAULT,
            shard_bytes_max: SHARD_BYTES_MAX as u32,
        }
    }
}

/// A set of disks. Clones share it.
#[derive(Clone)]
pub struct Volume {
    inner: Arc<Inner>,
}

struct Inner {
    engines: Vec<Engine>,
    slices: SliceMap,
    scheme: Scheme,
    shard_bytes: u32,
    epoch: u64,
    next_blob: AtomicU64,
    in_flight_bytes_max: usize,
    in_flight: Mutex<InFlight>,
    deletions: Deletions,
    pins: Pins,
}

/// Stripes handed to an engine, oldest first. They settle nearly in this order.
#[derive(Default)]
struct InFlight {
    stripes: VecDeque<(Dependency, usize)>,
    bytes: usize,
}

impl InFlight {
    fn forget_settled(&mut self) {
        while let Some((dependency, bytes)) = self.stripes.front() {
            if dependency.poll_now().is_none() {
                return;
            }
            self.bytes -= bytes;
            self.stripes.pop_front();
        }
    }
}

/// One disk of the set, for metrics.
#[derive(Debug, Clone)]
pub struct DiskStats {
    /// Who it is.
    pub identity: Identity,
    /// How full it is, in bytes.
    pub space: Space,
    /// What it did since it was opened.
    pub stats: Stats,
    /// The first failure, if it has failed.
    pub failure: Option<String>,
}

/// The set, for metrics.
#[derive(Debug, Clone, Default)]
pub struct VolumeStats {
    /// By their number in the set.
    pub disks: Vec<DiskStats>,
    /// Bytes of stripes on their way to the disks.
    pub in_flight_bytes: u64,
    /// Blobs that are being read.
    pub blobs_pinned: u64,
    /// Blobs whose deletion is not durable yet.
    pub deletions_unsettled: u64,
    /// Blobs whose deletion failed since the start.
    pub deletions_failed: u64,
}

/// Locks a mutex of plain data. No code panics while it holds one, and if it did, the data
/// would still be whole: each critical section ends in a consistent state.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Volume {
    /// A set of these disks, with default options. Today exactly one.
    pub fn new(engines: Vec<Engine>) -> Result<Volume> {
        Volume::with_options(engines, VolumeOptions::default())
    }

    /// A set of these disks. Today exactly one; another number is [`VolumeError::Disks`].
    /// Blocks while the map of slices is read, or, on a set that holds nothing yet, written.
    pub fn with_options(engines: Vec<Engine>, options: VolumeOptions) -> Result<Volume> {
        let disks = engines.len();
        let (Some(scheme), 1) = (Scheme::for_disks(disks), disks) else {
            return Err(VolumeError::Disks { disks });
        };
        let payload_bytes = engines
            .iter()
            .map(|e| e.store().geometry().payload_bytes_max);
        let wanted = options.shard_bytes_max.clamp(1, SHARD_BYTES_MAX as u32);
        let shard_bytes = payload_bytes.fold(wanted, u32::min);
        // A disk's epoch counts the runs in which it was opened, so that the largest has never
        // been seen before. It belongs to the set: with several disks it is made durable on
        // each of them before anything is served, else the loss of the disk that was opened
        // most often would take it back, and blob ids and commit sequences with it.
        let epoch = engines.iter().map(|e| e.store().epoch()).fold(0, u64::max);
        let slices = SliceMap::load(&engines)?;
        Ok(Volume {
            inner: Arc::new(Inner {
                engines,
                slices,
                scheme,
                shard_bytes,
                epoch,
                next_blob: AtomicU64::new(0),
                in_flight_bytes_max: options.in_flight_bytes_max,
                in_flight: Mutex::default(),
                deletions: Deletions::default(),
                pins: Pins::default(),
            }),
        })
    }

    /// The number of this run: grows with every start, crash or not, and with nothing else.
    /// It is the set's: the largest of its disks', durable on all of them before anything is
    /// served.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// The scheme that new blobs are written with.
    pub fn scheme(&self) -> Scheme {
        self.inner.scheme
    }

    /// Bytes of a full shard of new blobs.
    pub fn shard_bytes(&self) -> u32 {
        self.inner.shard_bytes
    }

    /// A consistent view of metadata and blobs.
    pub fn snapshot(&self) -> VolumeSnapshot {
        let snapshots = self.inner.engines.iter().map(Engine::snapshot).collect();
        VolumeSnapshot::new(self.clone(), snapshots)
    }

    /// Begins a blob. `label` stands in its first frame, for rescue and for the sweep of
    /// what a crash left behind; at most 1,536 bytes. `size_hint`: bytes to come, if known.
    pub fn blob_writer(&self, label: Vec<u8>, size_hint: Option<u64>) -> Result<BlobWriter> {
        let counter = self.inner.next_blob.fetch_add(1, Ordering::Relaxed);
        BlobWriter::new(
            self.clone(),
            BlobId {
                epoch: self.inner.epoch,
                counter,
            },
            label,
            size_hint,
        )
    }

    /// Keeps a blob readable from now on. Fails with [`VolumeError::Busy`] when too many are
    /// read already. Look the record that refers to the blob up again afterwards, under a
    /// fresh snapshot: only if it still does, is the blob there to stay.
    pub fn pin_blob(&self, blob: &BlobRef) -> Result<BlobPin> {
        BlobPin::new(self.clone(), blob.clone())
    }

    pub(crate) fn pins(&self) -> &Pins {
        &self.inner.pins
    }

    /// Takes deletions up again whose blobs nobody reads any more.
    pub(crate) fn unpark(&self, parked: Vec<Deletion>) {
        self.inner.deletions.unpark(parked);
    }

    /// Deletes a blob once everything in `after` is persistent and nobody reads it; if one of
    /// these fails, the blob stays. `after` holds the batch that ends the record which refers
    /// to the blob, unless that is persistent. Never waits: what cannot be submitted now is
    /// left to [`housekeep`](Volume::housekeep). The answer tells how far it is.
    pub fn delete_blob(&self, blob: &BlobRef, after: Vec<Dependency>) -> Deletion {
        self.delete_stripes(blob.id, blob.stripes(), blob.scheme.width(), after)
    }

    /// Settles once everything in `after` is persistent and nobody reads the blob, which stays.
    /// For whoever deletes what is only read by readers of this blob.
    pub fn await_readers(&self, blob: &BlobRef, after: Vec<Dependency>) -> Deletion {
        self.delete_stripes(blob.id, 0, blob.scheme.width(), after)
    }

    pub(crate) fn delete_stripes(
        &self,
        blob: BlobId,
        stripes: u32,
        width: u8,
        after: Vec<Dependency>,
    ) -> Deletion {
        self.inner
            .deletions
            .start(self, blob, stripes, width, after)
    }

    /// Leaves a blob's deletion to [`housekeep`](Volume::housekeep) altogether.
    pub(crate) fn delete_blob_later(&self, blob: &BlobRef) {
        let width = blob.scheme.width();
        self.inner
            .deletions
            .start_later(blob.id, blob.stripes(), width);
    }

    /// Deletes a blob of which only the id is known. `None`: no frame of it is there.
    pub async fn delete_orphan(
        &self,
        snapshot: &VolumeSnapshot,
        blob: BlobId,
    ) -> Result<Option<Deletion>> {
        let Some((stripes, width)) = snapshot.extent_of(blob).await? else {
            return Ok(None);
        };
        Ok(Some(self.delete_stripes(blob, stripes, width, Vec::new())))
    }

    /// One step of the deletions that were not submitted at once: a bounded number of them.
    /// Blocks while they become durable, in one flush as a rule; run it on a thread of its
    /// own. `false`: nothing to do.
    pub fn housekeep(&self) -> Result<bool> {
        self.inner.deletions.step(self)
    }

    /// Whether no deletion is outstanding and none has failed since the start.
    pub fn deletions_settled(&self) -> bool {
        // A deletion may move from one table to the other in between, so the first is looked
        // at twice.
        let nobody_waits = || self.inner.pins.counts().1 == 0;
        nobody_waits() && self.inner.deletions.counts() == (0, 0) && nobody_waits()
    }

    /// Which slice a metadata key is to be in.
    pub fn slices(&self) -> &SliceMap {
        &self.inner.slices
    }

    /// Queues a batch of metadata, all of whose keys are in one slice. Its entries are visible
    /// to snapshots once the dependency is persistent. With too much before it, it waits for a
    /// bounded time and is then told to come again, through the dependency.
    pub fn commit(&self, batch: MetaBatch) -> Result<Dependency> {
        let slice = batch.slice().ok_or(VolumeError::NotOneSlice)?;
        let disk = self.inner.slices.disk_of(slice);
        let disk = disk.ok_or(VolumeError::NotOneSlice)?;
        Ok(self.engine(disk)?.submit(batch.batch)?)
    }

    /// The disk that holds a metadata key.
    pub(crate) fn meta_disk(&self, key: &[u8]) -> Result<usize> {
        let slice = SliceId::split(key).and_then(|(slice, _)| self.inner.slices.disk_of(slice));
        slice.ok_or(VolumeError::NotOneSlice)
    }

    /// The disk that holds a shard. One disk holds all.
    pub(crate) fn shard_disk(&self, _blob: BlobId, _stripe: u32, _shard: u8) -> usize {
        0
    }

    pub(crate) fn engine(&self, disk: usize) -> Result<&Engine> {
        let disks = self.inner.engines.len();
        self.inner
            .engines
            .get(disk)
            .ok_or(VolumeError::Disks { disks })
    }

    /// Most shards of one deleting batch.
    pub(crate) fn delete_shards_max(&self) -> usize {
        let bytes = self
            .inner
            .engines
            .iter()
            .map(|e| e.store().geometry().batch_bytes_max());
        let bytes = bytes.fold(usize::MAX, usize::min);
        let by_bytes = bytes / crate::limits::SHARD_KEY_BYTES;
        by_bytes
            .min(crate::limits::DELETE_SHARDS_MAX)
            .clamp(1, BATCH_ENTRIES_MAX)
    }

    /// Submits a stripe's batch when the bytes in flight allow it.
    pub(crate) async fn submit_admitted(
        &self,
        disk: usize,
        batch: Batch,
        bytes: usize,
    ) -> Result<Dependency> {
        let mut batch = Some(batch);
        loop {
            let oldest = {
                let mut in_flight = lock(&self.inner.in_flight);
                in_flight.forget_settled();
                let fits = in_flight.bytes + bytes <= self.inner.in_flight_bytes_max;
                let oldest = in_flight
                    .stripes
                    .front()
                    .map(|(dependency, _)| dependency.clone());
                match oldest.filter(|_| !fits) {
                    Some(oldest) => oldest,
                    None => {
                        let batch = batch.take().unwrap_or_default();
                        let dependency = self.engine(disk)?.submit(batch)?;
                        in_flight.stripes.push_back((dependency.clone(), bytes));
                        in_flight.bytes += bytes;
                        return Ok(dependency);
                    }
                }
            };
            // Whether it succeeded is its own writer's business.
            let _ = oldest.await;
        }
    }

    /// For metrics and health.
    pub fn stats(&self) -> VolumeStats {
        let disks = self.inner.engines.iter().map(|engine| DiskStats {
            identity: engine.store().identity(),
            space: engine.store().space(),
            stats: engine.store().stats(),
            failure: engine.store().failure(),
        });
        let in_flight_bytes = {
            let mut in_flight = lock(&self.inner.in_flight);
            in_flight.forget_settled();
            in_flight.bytes as u64
        };
        let (pinned, parked) = self.inner.pins.counts();
        let (unsettled, failed) = self.inner.deletions.counts();
        VolumeStats {
            disks: disks.collect(),
            in_flight_bytes,
            blobs_pinned: pinned,
            deletions_unsettled: unsettled + parked,
            deletions_failed: failed,
        }
    }

    /// The first failure of a disk, if one has failed.
    pub fn failure(&self) -> Option<String> {
        self.inner
            .engines
            .iter()
            .find_map(|engine| engine.store().failure())
    }

    /// The failure of the disk that holds a metadata key, if it has failed.
    pub fn meta_failure(&self, key: &[u8]) -> Result<Option<String>> {
        Ok(self.engine(self.meta_disk(key)?)?.store().failure())
    }

    /// Commits what is queued, checkpoints, and stops the engines.
    pub fn close(&self) -> Result<()> {
        self.inner
            .engines
            .iter()
            .try_for_each(|engine| engine.close().map_err(VolumeError::from))
    }
}
