//! The set of disks: hands out writers, readers and snapshots, and admits what goes to disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use shardstore::limits::BATCH_ENTRIES_MAX;
use shardstore::{Batch, Dependency, Engine, Identity, Read, Snapshot, Space, Stats, Store};

use crate::deletion::Deletions;
use crate::join::when_decided;
use crate::keep::{Keeping, has_failed};
use crate::latency::{Latencies, Slots};
use crate::limits::{
    IN_FLIGHT_BYTES_DEFAULT, SHARD_BYTES_MAX, SHARD_BYTES_MIN, SILENCE_MAX, STRIPE_BYTES_MAX,
};
use crate::membership::{Member, MemberState};
use crate::meta::MetaBatch;
use crate::mirror::Mirror;
use crate::pins::{BlobPin, Pins};
use crate::placement::Place;
use crate::scrub::{ScrubProgress, Scrubs};
use crate::slices::SliceMap;
use crate::start::{Started, start};
use crate::table::{SetDisk, Table};
use crate::watch::Guests;
use crate::{
    BlobId, BlobRef, BlobWriter, Deletion, HealProgress, Ledger, Receipt, Result, Scheme,
    VolumeError, VolumeSnapshot,
};

/// Knobs; every one may be chosen anew at each start.
#[derive(Debug, Clone)]
pub struct VolumeOptions {
    /// Most bytes of stripes that all writers together have on their way to the disks; a
    /// single stripe always goes. The engines' queues must hold this and the metadata
    /// batches besides, else writers wait and then get [`VolumeError::Busy`].
    pub in_flight_bytes_max: usize,
    /// Bytes of a full shard of new blobs; less where a disk allows less, never above 1 MiB.
    pub shard_bytes_max: u32,
    /// Parity shards of each stripe of a new set of several disks, if not by default.
    pub parity: Option<u8>,
    /// Start although disks are missing that may know better. What only they have is gone then.
    pub start_degraded: bool,
    /// How long a disk that has something to do may end nothing of it before it counts as failed,
    /// in a set that can do without it. It is looked thirty times meanwhile.
    pub silence_max: Duration,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        VolumeOptions {
            in_flight_bytes_max: IN_FLIGHT_BYTES_DEFAULT,
            shard_bytes_max: SHARD_BYTES_MAX as u32,
            parity: None,
            start_degraded: false,
            silence_max: SILENCE_MAX,
        }
    }
}

/// A set of disks. Clones share it.
#[derive(Clone)]
pub struct Volume {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    table: Arc<RwLock<Arc<Table>>>,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) keeping: Arc<Keeping>,
    shard_bytes_max: u32,
    warnings: Vec<String>,
    /// Too few disks were there at the start to write anything: the replicas of the metadata were not
    /// made the same.
    pub(crate) is_read_only: bool,
    pub(crate) epoch: u64,
    next_blob: AtomicU64,
    in_flight_bytes_max: usize,
    in_flight: Mutex<InFlight>,
    /// Batches of metadata under way that went to the only disk of the set.
    unmirrored: Arc<AtomicUsize>,
    pub(crate) scrubs: Scrubs,
    latencies: Latencies,
    pub(crate) silence_max: Duration,
    /// Engines that are watched beside the members'.
    pub(crate) guests: Mutex<Guests>,
    /// Set once a thread watches the disks.
    pub(crate) watched: OnceLock<()>,
    /// Reads of shards that others were asked for, because a disk took too long.
    hedged: AtomicU64,
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

/// One disk of the set that is here, for metrics.
#[derive(Debug, Clone)]
pub struct DiskStats {
    /// Its path.
    pub name: String,
    /// Its number in the set.
    pub slot: usize,
    /// What it is in the set.
    pub state: MemberState,
    /// What it has goes to the others, and it leaves then.
    pub is_draining: bool,
    /// It takes far longer to answer than the others, which are asked instead.
    pub is_slow: bool,
    /// Who it is.
    pub identity: Identity,
    /// How full it is, in bytes.
    pub space: Space,
    /// What it did since it was opened.
    pub stats: Stats,
    /// The first failure, if it has failed.
    pub failure: Option<String>,
    /// How far its scrub is.
    pub scrub: ScrubProgress,
}

/// The set, for metrics.
#[derive(Debug, Clone, Default)]
pub struct VolumeStats {
    /// Those that are here, by their number in the set.
    pub disks: Vec<DiskStats>,
    /// Disks that belong to the set, here or not.
    pub members: usize,
    /// Those that are not here.
    pub absent: Vec<Member>,
    /// What new blobs are cut into when all disks are there.
    pub scheme: Option<Scheme>,
    /// Why nothing is written, if that is so.
    pub refusal: Option<String>,
    /// What the last walk over all stripes counted; of a set of several disks.
    pub ledger: Ledger,
    /// The walk over all stripes that is under way.
    pub healing: Option<HealProgress>,
    /// Shards that were rebuilt since the start.
    pub shards_healed: u64,
    /// Entries of metadata that were copied to another disk since the start.
    pub metadata_copied: u64,
    /// Shards that were brought to another disk since the start.
    pub shards_moved: u64,
    /// Whether every shard is where it is to be, as far as there are disks.
    pub is_tidy: bool,
    /// Shards on disks that are drained, for which there is no other disk: their stripes are wider
    /// than the set without it.
    pub shards_stuck: u64,
    /// The disk that is going to make a set of several out of one, if it has a name.
    pub joining: Option<String>,
    /// Reads for which others were asked, because a disk took too long.
    pub reads_hedged: u64,
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
    /// A set of these disks, with default options and without names.
    pub fn new(engines: Vec<Engine>) -> Result<Volume> {
        Volume::with_options(engines, VolumeOptions::default())
    }

    /// A set of these disks, named by their numbers.
    pub fn with_options(engines: Vec<Engine>, options: VolumeOptions) -> Result<Volume> {
        let named = |(number, engine)| SetDisk {
            name: format!("disk {number}"),
            engine,
        };
        let disks = engines.into_iter().enumerate().map(named).collect();
        Volume::open(disks, options)
    }

    /// Makes a set of disks usable: a new one of disks that hold nothing, or one that was there
    /// before, of which disks may be missing. Blocks while a few records are read and written.
    ///
    /// # Errors
    /// [`VolumeError::Set`] says why these disks are no set that can be used, and what to do.
    pub fn open(disks: Vec<SetDisk>, options: VolumeOptions) -> Result<Volume> {
        let engines: Vec<Engine> = disks.iter().map(|disk| disk.engine.clone()).collect();
        let Started {
            table,
            epoch,
            is_read_only,
            warnings,
        } = start(disks, &options)?;
        let used = |engine: &Engine| {
            let id = engine.store().identity().disk;
            let mut disks = table.disks.iter().flatten();
            disks.any(|disk| disk.engine.store().identity().disk == id)
        };
        for engine in engines.iter().filter(|engine| !used(engine)) {
            // It is no disk of the set, whatever it says.
            let _ = engine.close();
        }
        let (replicas, refusal) = (table.replicas(), table.refusal());
        let table = Arc::new(RwLock::new(Arc::new(table)));
        let keeping = Arc::new(Keeping::default());
        let engines = table.clone();
        let mirror = Arc::new(Mirror::new(
            epoch,
            replicas.clone(),
            Box::new(move |slot| Some(current(&engines).engine(slot).ok()?.clone())),
        ));
        mirror.set_replicas(replicas, refusal);
        let volume = Volume {
            inner: Arc::new(Inner {
                table,
                mirror,
                keeping,
                shard_bytes_max: options.shard_bytes_max.clamp(1, SHARD_BYTES_MAX as u32),
                warnings,
                is_read_only,
                epoch,
                next_blob: AtomicU64::new(0),
                in_flight_bytes_max: options.in_flight_bytes_max,
                in_flight: Mutex::default(),
                unmirrored: Arc::default(),
                scrubs: Scrubs::default(),
                latencies: Latencies::new(),
                silence_max: options.silence_max,
                guests: Mutex::default(),
                watched: OnceLock::new(),
                hedged: AtomicU64::new(0),
                deletions: Deletions::default(),
                pins: Pins::default(),
            }),
        };
        volume.ensure_watched();
        Ok(volume)
    }

    /// The disks that are here, by their number in the set.
    pub fn disks(&self) -> Vec<SetDisk> {
        self.table().disks.iter().flatten().cloned().collect()
    }

    /// Whether the set is of one disk, which nobody has to look after.
    pub fn is_single(&self) -> bool {
        self.table().is_single()
    }

    /// Whether nobody has to look after the set as it is: it is of one disk, and no other one is
    /// being added.
    pub fn needs_no_keeping(&self) -> bool {
        self.table().is_unmirrored()
    }

    /// How many disks of the set are not here, or have failed.
    pub fn lacking(&self) -> usize {
        let table = self.table();
        if table.is_single() {
            return 0;
        }
        let works = |member: &&Member| {
            let slot = usize::from(member.slot);
            table.disk(slot).is_some() && !has_failed(&table, slot)
        };
        let active = || table.membership.active();
        active().count() - active().filter(works).count()
    }

    /// What whoever runs the set should know of its start.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// The set as it is now.
    pub(crate) fn table(&self) -> Arc<Table> {
        current(&self.inner.table)
    }

    /// Replaces the table, and says so to whoever commits metadata.
    pub(crate) fn install(&self, table: Table) {
        let (replicas, refusal) = (table.replicas(), table.refusal());
        *self
            .inner
            .table
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.inner.mirror.set_replicas(replicas, refusal);
        self.inner.keeping.begin_anew();
        self.ensure_watched();
    }

    /// The number of this run: grows with every start, crash or not, and with nothing else.
    /// On a set of several disks it is durable on all that are here before anything is served.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// The scheme that new blobs are written with when all disks are there.
    pub fn scheme(&self) -> Scheme {
        self.table().scheme()
    }

    /// Bytes of a full shard of a new blob.
    pub(crate) fn shard_bytes(&self, scheme: Scheme) -> u32 {
        let engines = self.table();
        let engines = engines.disks.iter().flatten().map(|disk| &disk.engine);
        let payload = engines.map(|engine| engine.store().geometry().payload_bytes_max);
        let share = STRIPE_BYTES_MAX / usize::from(scheme.k);
        let share = share.next_multiple_of(SHARD_BYTES_MIN).min(SHARD_BYTES_MAX);
        // At most `SHARD_BYTES_MAX`.
        payload.fold(self.inner.shard_bytes_max.min(share as u32), u32::min)
    }

    /// A consistent view of metadata and blobs.
    pub fn snapshot(&self) -> VolumeSnapshot {
        VolumeSnapshot::new(self.clone(), self.table())
    }

    /// Runs `f` on a fresh snapshot of one disk: at once if memory has the answer, else on one
    /// of the disk's threads. The read is under way when this returns.
    pub(crate) fn read_disk<T: Send + 'static>(
        &self,
        slot: usize,
        mut f: impl FnMut(&Snapshot, Read) -> shardstore::Result<T> + Send + 'static,
    ) -> Result<shardstore::Completion<T>> {
        let table = self.table();
        let engine = table.engine(slot)?;
        let snapshot = engine.snapshot();
        if table.is_single() {
            return Ok(engine.read(move |_, how| f(&snapshot, how)));
        }
        Ok(engine.read(self.timed(slot, move |how| f(&snapshot, how))))
    }

    /// A read of a disk that also notes how long it takes, if it has to wait for the disk.
    pub(crate) fn timed<T>(
        &self,
        slot: usize,
        mut f: impl FnMut(Read) -> shardstore::Result<T> + Send + 'static,
    ) -> impl FnMut(&Store, Read) -> shardstore::Result<T> + Send + 'static {
        let (inner, mut asked) = (self.inner.clone(), None);
        move |_, how| {
            let read = f(how);
            match how {
                Read::Nowait => asked = Some(Instant::now()),
                // Also when nobody waits for it any more.
                Read::Blocking | Read::PastCache => {
                    let took = asked.map_or(Duration::ZERO, |asked| asked.elapsed());
                    inner.latencies.note(slot, took);
                }
            }
            read
        }
    }

    pub(crate) fn latencies(&self) -> &Latencies {
        &self.inner.latencies
    }

    /// Disks that take far longer than the others, if the others are enough.
    pub(crate) fn slow(&self, table: &Table) -> Slots {
        match table.is_single() {
            true => 0,
            false => self.inner.latencies.slow(table.here()),
        }
    }

    /// Whether anybody reads or writes bodies now.
    pub(crate) fn is_in_use(&self) -> bool {
        let is_written = {
            let mut in_flight = lock(&self.inner.in_flight);
            in_flight.forget_settled();
            in_flight.bytes > 0
        };
        is_written || self.inner.pins.counts().0 > 1
    }

    /// Another disk was asked because one took too long.
    pub(crate) fn count_hedged(&self) {
        self.inner.hedged.fetch_add(1, Ordering::Relaxed);
    }

    /// The scheme of a new blob: that of the whole set if the disks that are there can hold it
    /// with all of its parity but one shard missing; else as many copies as it would survive
    /// losses.
    pub(crate) fn plan(&self) -> Result<Scheme> {
        let table = self.table();
        let scheme = table.scheme();
        if table.is_single() {
            // The engine says itself whether it has room.
            return Ok(scheme);
        }
        let places = self.places()?.len();
        Ok(match places > usize::from(scheme.k) {
            true => scheme,
            false => scheme.copies(),
        })
    }

    /// The disks that shards may go to now.
    pub(crate) fn places(&self) -> Result<Vec<Place>> {
        let table = self.table();
        if table.is_single() {
            return Ok(table.places_here());
        }
        if table.refusal().is_some() {
            return Err(VolumeError::NotHere {
                missing: table.missing(),
            });
        }
        Ok(table.quick_places(self.slow(&table)))
    }

    /// How metadata is on stable storage: in copies.
    pub fn metadata_receipt(&self) -> Receipt {
        let copies = self.table().slices.disks().len();
        // As many as a set has disks.
        let m = u8::try_from(copies.saturating_sub(1)).unwrap_or(u8::MAX);
        Receipt::whole(Scheme { k: 1, m })
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
    pub(crate) fn delete_blob_later(&self, blob: &BlobRef, after: Vec<Dependency>) {
        let width = blob.scheme.width();
        self.inner
            .deletions
            .start_later(self, blob.id, blob.stripes(), width, after);
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
        nobody_waits() && self.inner.deletions.counts(&self.inner.pins) == (0, 0) && nobody_waits()
    }

    /// Whether deletions are under way that wait for no reader.
    pub(crate) fn deletes_now(&self) -> bool {
        self.inner.deletions.counts(&self.inner.pins).0 > 0
    }

    /// Which slice a metadata key is to be in.
    pub fn slices(&self) -> Arc<SliceMap> {
        self.table().slices.clone()
    }

    /// Queues a batch of metadata, all of whose keys are in one slice. Its entries are visible
    /// to snapshots once the dependency is persistent. With too much before it, it waits for a
    /// bounded time and is then told to come again, through the dependency.
    pub fn commit(&self, batch: MetaBatch) -> Result<Dependency> {
        let slice = batch.slice().ok_or(VolumeError::NotOneSlice)?;
        let table = self.table();
        if table.slices.slices().all(|known| known != slice) {
            return Err(VolumeError::NotOneSlice);
        }
        let MetaBatch { batch, after, .. } = batch;
        if !table.is_unmirrored() {
            return Ok(self.inner.mirror.commit(batch, after));
        }
        // Under the table's lock, so that whoever begins to mirror knows of every batch that was
        // submitted without it.
        let held = shared(&self.inner.table);
        if !held.is_unmirrored() {
            drop(held);
            return Ok(self.inner.mirror.commit(batch, after));
        }
        let batch = after.into_iter().fold(batch, Batch::after);
        let engine = held.engine(held.primary()?)?;
        let under_way = self.inner.unmirrored.clone();
        under_way.fetch_add(1, Ordering::SeqCst);
        let submitted = engine.submit(batch).inspect_err(|_| {
            under_way.fetch_sub(1, Ordering::SeqCst);
        })?;
        drop(held);
        when_decided(vec![submitted.clone()], move |_| {
            under_way.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(submitted)
    }

    /// Whether no batch is under way that was submitted to the only disk and not mirrored.
    pub(crate) fn all_is_mirrored(&self) -> bool {
        self.inner.unmirrored.load(Ordering::SeqCst) == 0
    }

    /// Most shards of one deleting batch.
    pub(crate) fn delete_shards_max(&self) -> usize {
        let table = self.table();
        let disks = table.disks.iter().flatten();
        let bytes = disks.map(|disk| disk.engine.store().geometry().batch_bytes_max());
        let bytes = bytes.fold(usize::MAX, usize::min);
        let by_bytes = bytes / crate::limits::SHARD_KEY_BYTES;
        by_bytes
            .min(crate::limits::DELETE_SHARDS_MAX)
            .clamp(1, BATCH_ENTRIES_MAX)
    }

    /// Submits a stripe's batch when the bytes in flight allow it.
    pub(crate) async fn submit_admitted(
        &self,
        slot: usize,
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
                        // Under the table's lock: once a table says that a disk is drained,
                        // nothing is submitted to it any more.
                        let table = shared(&self.inner.table);
                        let slot = match table.membership.successor() {
                            // There is no other one that it could be on.
                            Some(successor) => successor,
                            None if table.is_draining(slot) => {
                                return Err(VolumeError::Failed {
                                    reason: "the disk is being drained".to_owned(),
                                });
                            }
                            None => slot,
                        };
                        let dependency = table.engine(slot)?.submit(batch)?;
                        drop(table);
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
        let table = self.table();
        let slow = self.slow(&table);
        let stats = |slot: usize| {
            let disk = table.disk(slot)?;
            let store = disk.engine.store();
            Some(DiskStats {
                name: disk.name.clone(),
                slot,
                state: table.membership.at(slot)?.state,
                is_draining: table.is_draining(slot),
                is_slow: slow >> slot & 1 == 1,
                identity: store.identity(),
                space: store.space(),
                stats: store.stats(),
                failure: store.failure(),
                scrub: self.inner.scrubs.progress(&disk.engine),
            })
        };
        let in_flight_bytes = {
            let mut in_flight = lock(&self.inner.in_flight);
            in_flight.forget_settled();
            in_flight.bytes as u64
        };
        let (pinned, parked) = self.inner.pins.counts();
        let (unsettled, failed) = self.inner.deletions.counts(&self.inner.pins);
        VolumeStats {
            disks: table.here().filter_map(stats).collect(),
            members: table.membership.active().count(),
            absent: {
                let is_absent = |member: &&Member| table.disk(usize::from(member.slot)).is_none();
                table
                    .membership
                    .active()
                    .filter(is_absent)
                    .cloned()
                    .collect()
            },
            scheme: Some(table.scheme()),
            refusal: table.refusal(),
            ledger: self.inner.keeping.ledger(),
            healing: self.inner.keeping.progress(),
            shards_healed: self.inner.keeping.healed(),
            metadata_copied: self.inner.keeping.copied(),
            shards_moved: self.inner.keeping.moved(),
            is_tidy: table.is_single() || self.is_tidy(),
            shards_stuck: self.inner.keeping.stuck(),
            joining: {
                let candidate = table.candidate().and_then(|slot| table.disk(slot));
                candidate.map(|disk| disk.name.clone())
            },
            reads_hedged: self.inner.hedged.load(Ordering::Relaxed),
            in_flight_bytes,
            blobs_pinned: pinned,
            deletions_unsettled: unsettled + parked,
            deletions_failed: failed,
        }
    }

    /// Why nothing can be written, if that is so: the only disk has failed, or too many have.
    pub fn failure(&self) -> Option<String> {
        let table = self.table();
        if !table.is_single() {
            return table.refusal();
        }
        let mut disks = table.disks.iter().flatten();
        disks.find_map(|disk| disk.engine.store().failure())
    }

    /// Whether every disk that belongs to the set is here and live, so that nothing of it can be
    /// somewhere else.
    pub fn is_complete(&self) -> bool {
        let table = self.table();
        table.live().count() == table.membership.active().count()
    }

    /// Commits what is queued, checkpoints, and stops the engines. What failed before does not
    /// keep the others from it.
    pub fn close(&self) -> Result<()> {
        let table = self.table();
        if !table.is_unmirrored() {
            self.end_keeping();
        }
        let close = |disk: &SetDisk| self.close_engine(&disk.engine);
        let closed: Vec<_> = table.disks.iter().flatten().map(close).collect();
        if table.is_single() || table.refusal().is_some() {
            return Ok(closed.into_iter().collect::<shardstore::Result<()>>()?);
        }
        Ok(())
    }
}

fn shared(table: &RwLock<Arc<Table>>) -> RwLockReadGuard<'_, Arc<Table>> {
    table.read().unwrap_or_else(PoisonError::into_inner)
}

fn current(table: &RwLock<Arc<Table>>) -> Arc<Table> {
    shared(table).clone()
}
