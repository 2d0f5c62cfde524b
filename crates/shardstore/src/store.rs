//! One disk's store: the state that all its parts share, and how callers see it.
//!
//! Locks are taken in this order and never the other way round:
//! `maintenance` → `pump_turn` → `preparing` → `plan` → `queue` | `log` → `index` → the
//! snapshot registry; and `queue` → `committing`. The disk is waited for under the first three
//! only: whoever submits, reads or gives the disk up takes none of them.
//!
//! The steps ([`pump`](Store::pump), [`checkpoint`](Store::checkpoint),
//! [`compact`](Store::compact), [`reclaim`](Store::reclaim), [`scrub`](Store::scrub)) can be
//! called by hand, one after the other, or run on threads by [`Engine`](crate::Engine).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Key};
use crate::cache::BlockCache;
use crate::completion::{Completer, Dependency, Waiter};
use crate::disk::{Disk, DiskError};
use crate::error::{Error, Result};
use crate::extents::{Class, Extents};
use crate::frame::{self, FrameEntry, FrameRef, Kind, Stream};
use crate::limits::{
    GROUP_BYTES_MAX, Geometry, QUEUE_WAIT, QUEUE_WAIT_MAX, QUEUE_WAITING_MAX, SUPERBLOCK_OFFSETS,
};
use crate::medium::Medium;
use crate::memtable::{Memtable, SnapshotRegistry};
use crate::record::Record;
use crate::snapshot::Snapshot;
use crate::superblock::{Identity, Superblock};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Mutex, RwLock, lock, read};
use crate::table::{TableId, TableReader};
use crate::version::Version;
use crate::watch::UnderWay;

/// Knobs. Each may be chosen anew at every open, and every value works, if not well.
#[derive(Clone)]
pub struct Options {
    /// Use at most this many bytes of the disk (`None`: all of it).
    pub capacity_bytes: Option<u64>,
    /// The memtable is written out when it holds this many bytes.
    pub memtable_bytes: usize,
    /// Block cache for the index, in bytes.
    pub cache_bytes: usize,
    /// A checkpoint is due after this many bytes of log; bounds what recovery reads.
    pub tail_bytes_max: u64,
    /// Bytes at which a group commit takes no further batch.
    pub group_bytes_max: usize,
    /// Most bytes queued to be committed. A single batch always goes.
    pub queue_bytes_max: usize,
    /// Most bytes that wait for room in the queue while a thread pumps; more is refused with
    /// [`Error::Busy`] at once. A single batch may always wait.
    pub waiting_bytes_max: usize,
    /// How long a batch waits for room in the queue before it is told [`Error::Busy`], and one
    /// that frees space for an extent before it is told [`Error::OutOfSpace`], while threads
    /// work; at most a minute.
    pub queue_wait: Duration,
    /// Size that index tables aim at, in bytes.
    pub table_bytes: usize,
    /// Bytes per second that background work writes while nothing is urgent, on threads; keeps
    /// it from showing up as a spike in the foreground.
    pub background_bytes_per_s: u64,
    /// Milliseconds since 1970, written to the superblock for people to read.
    pub clock: fn() -> u64,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("capacity_bytes", &self.capacity_bytes)
            .field("memtable_bytes", &self.memtable_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .field("tail_bytes_max", &self.tail_bytes_max)
            .field("group_bytes_max", &self.group_bytes_max)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("waiting_bytes_max", &self.waiting_bytes_max)
            .field("queue_wait", &self.queue_wait)
            .field("table_bytes", &self.table_bytes)
            .field("background_bytes_per_s", &self.background_bytes_per_s)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Bytes of `disk` that may be used now.
    pub(crate) fn capacity_bytes(&self, disk: &dyn Disk) -> u64 {
        self.capacity_bytes.unwrap_or(u64::MAX).min(disk.capacity())
    }

    /// Clamped to what a disk with these sizes can do: what a checkpoint writes of the memtables
    /// must fit into the reserve, and recovery looks for a group no further than it looks.
    pub(crate) fn clamped_to(self, geometry: &Geometry) -> Options {
        Options {
            memtable_bytes: self.memtable_bytes.min(geometry.extent_bytes as usize / 2),
            group_bytes_max: self.group_bytes_max.min(GROUP_BYTES_MAX),
            ..self
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            capacity_bytes: None,
            memtable_bytes: 8 * 1024 * 1024,
            cache_bytes: 32 * 1024 * 1024,
            tail_bytes_max: 64 * 1024 * 1024,
            group_bytes_max: 4 * 1024 * 1024,
            queue_bytes_max: 32 * 1024 * 1024,
            waiting_bytes_max: 4 * 1024 * 1024,
            queue_wait: QUEUE_WAIT,
            table_bytes: 8 * 1024 * 1024,
            background_bytes_per_s: 64 * 1024 * 1024,
            clock: || {
                let now = std::time::SystemTime::now();
                let since = now.duration_since(std::time::UNIX_EPOCH);
                since.map_or(0, |since| since.as_millis() as u64)
            },
        }
    }
}

/// Where the bytes of a disk are: `live + dead + free == capacity`, always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in extents that exist or may exist.
    pub capacity: u64,
    /// Bytes that the index refers to, as of the last checkpoint, and the index itself.
    pub live: u64,
    /// Bytes that reclamation can free, padding and frame overhead included.
    pub dead: u64,
    /// Bytes in free extents.
    pub free: u64,
    /// The part of `free` that only deletes and background work may use.
    pub reserve: u64,
}

/// Counters since the store was opened, and sizes now.
#[derive(Debug, Clone, Default)]
#[allow(
    missing_docs,
    reason = "each is what its name says; units come last in the name"
)]
pub struct Stats {
    pub groups: u64,
    pub frames: u64,
    pub bytes_appended: u64,
    pub flush_us_total: u64,
    pub flush_us_max: u64,
    pub checkpoints: u64,
    pub compactions: u64,
    pub extents_reclaimed: u64,
    pub bytes_evacuated: u64,
    pub scrubbed_bytes: u64,
    pub corruptions: u64,
    pub memtable_bytes: u64,
    pub cache_bytes: u64,
    pub tables: u64,
    pub queue_bytes: u64,
    pub waiting_bytes: u64,
    pub snapshots: u64,
}

/// Counters that several threads add to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub groups: AtomicU64,
    pub frames: AtomicU64,
    pub bytes_appended: AtomicU64,
    pub flush_us_total: AtomicU64,
    pub flush_us_max: AtomicU64,
    pub checkpoints: AtomicU64,
    pub compactions: AtomicU64,
    pub extents_reclaimed: AtomicU64,
    /// Those of them that held frames of keys, not of the index.
    pub data_resets: AtomicU64,
    pub bytes_evacuated: AtomicU64,
    pub scrubbed_bytes: AtomicU64,
    pub corruptions: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }
}

/// What snapshots need of a store after they were taken.
pub(crate) struct Shared {
    pub medium: Medium,
    pub cache: BlockCache,
    pub snapshots: SnapshotRegistry,
}

/// The index at one moment.
pub(crate) struct Index {
    pub active: Arc<Memtable>,
    /// Memtables being written out, newest first.
    pub frozen: Vec<Arc<Memtable>>,
    pub version: Arc<Version>,
    /// Every entry up to this lsn is in it.
    pub applied_lsn: u64,
}

/// The log's end.
pub(crate) struct Log {
    pub extents: Extents,
    pub next_lsn: u64,
    /// The durable mark that frames carry: every frame up to it is on stable storage.
    pub durable_lsn: u64,
    /// Recovery's own frames must not raise the mark before its checkpoint is durable.
    pub mark_is_held: bool,
    pub superblock: Superblock,
    /// Bytes appended since the last checkpoint.
    pub tail_bytes: u64,
    /// Since when deletes find no extent; none of them was placed since. They wait for a while,
    /// and are refused at once after that.
    pub deletes_wait_since: Option<Instant>,
    /// Whether something that frees space was committed since.
    pub deletes_since_checkpoint: bool,
    pub failure: Option<String>,
    pub closed: bool,
}

/// What waits to be committed.
#[derive(Default)]
pub(crate) struct Queue {
    /// From background work; each of its threads waits for one at a time.
    pub background: VecDeque<Append>,
    pub foreground: VecDeque<Append>,
    /// Waits for a dependency.
    pub blocked: Vec<Append>,
    /// Of the foreground and the blocked.
    pub bytes: usize,
    /// Batches that found the queue full, oldest first. All of them wait equally long.
    pub waiting: VecDeque<Waiting>,
    pub waiting_bytes: usize,
    /// Nobody commits any more.
    pub sealed: bool,
}

/// A batch that waits for room in the queue.
pub(crate) struct Waiting {
    append: Append,
    until: Instant,
}

impl Queue {
    fn has_room(&self, append: &Append, bytes_max: usize) -> bool {
        self.bytes == 0 || self.bytes + append.memory() <= bytes_max
    }

    fn admit(&mut self, append: Append) {
        self.bytes += append.memory();
        if append.after.is_empty() {
            self.foreground.push_back(append);
        } else {
            self.blocked.push(append);
        }
    }

    /// Admits what waits for room as far as there is some, in the order in which it came.
    pub fn admit_waiting(&mut self, bytes_max: usize) {
        while let Some(next) = self.waiting.front() {
            if !self.has_room(&next.append, bytes_max) {
                return;
            }
            if let Some(append) = self.pop_waiting() {
                self.admit(append);
            }
        }
    }

    /// Takes a batch out that has waited for long enough.
    pub fn pop_overdue(&mut self, now: Instant) -> Option<Append> {
        let is_overdue = self.waiting.front()?.until <= now;
        is_overdue.then(|| self.pop_waiting()).flatten()
    }

    pub fn pop_waiting(&mut self) -> Option<Append> {
        let append = self.waiting.pop_front()?.append;
        self.waiting_bytes -= append.memory();
        Some(append)
    }

    /// When the first of those that wait has waited for long enough.
    pub fn next_overdue(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.until)
    }

    /// Whether something can be committed, or is known to have failed.
    pub fn has_ready(&self) -> bool {
        let is_decided = |append: &Append| {
            append
                .after
                .iter()
                .all(|dependency| dependency.poll_now().is_some())
        };
        !self.foreground.is_empty()
            || !self.background.is_empty()
            || self.blocked.iter().any(is_decided)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.foreground.is_empty()
            && self.background.is_empty()
            && self.blocked.is_empty()
            && self.waiting.is_empty()
    }
}

/// One frame to be appended.
pub(crate) struct Append {
    pub kind: Kind,
    pub stream: Stream,
    pub class: Class,
    pub entries: Vec<FrameEntry>,
    pub body: Vec<u8>,
    pub body_checksum: u64,
    pub payload: Vec<Vec<u8>>,
    pub payload_len: u32,
    pub after: Vec<Dependency>,
    pub done: Done,
    /// Nobody is going to read it soon.
    pub is_cold: bool,
}

/// Who is told when it is durable.
pub(crate) enum Done {
    Batch(Completer<()>),
    Frame(Completer<FrameRef>),
}

impl Done {
    fn waiter(&self) -> Waiter {
        match self {
            Done::Batch(completer) => completer.waiter(),
            Done::Frame(completer) => completer.waiter(),
        }
    }
}

impl Append {
    pub fn waiter(&self) -> Waiter {
        self.done.waiter()
    }

    pub fn frame_len(&self) -> u64 {
        (frame::HEADER_BYTES + self.body.len()) as u64 + u64::from(self.payload_len)
    }

    pub fn fail(self, error: Error) {
        match self.done {
            Done::Batch(completer) => completer.complete(Err(error)),
            Done::Frame(completer) => completer.complete(Err(error)),
        }
    }
}

/// What background work remembers between its steps.
#[derive(Default)]
pub(crate) struct Plan {
    /// Whether the index changed in a way that the last manifest does not show.
    pub dirty: bool,
    /// Where the next compaction of each level begins.
    pub cursors: [Vec<u8>; crate::version::LEVELS],
    /// Extents with damage, and what lived in them when it was found; tried again when less
    /// lives there.
    pub quarantined: HashMap<u32, u64>,
    /// The extent that is being evacuated. A checkpoint meanwhile does not retire it, however
    /// little is left in it: it is still read.
    pub evacuating: Option<u32>,
    /// For tables whose tombstones could not go yet: how many extents had been reset then.
    pub purge_tried: HashMap<TableId, u64>,
    pub next_table: u32,
}

/// One disk.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    pub(crate) options: Options,
    /// How often the disk was opened.
    pub(crate) epoch: u64,
    /// The superblock's generation when it was opened: frames of this open have it or a later
    /// one.
    pub(crate) generation: u64,
    pub(crate) maintenance: Mutex<()>,
    pub(crate) plan: Mutex<Plan>,
    pub(crate) pump_turn: Mutex<()>,
    pub(crate) queue: Mutex<Queue>,
    /// Whoever waits for the group that is being committed.
    pub(crate) committing: Mutex<Vec<Waiter>>,
    pub(crate) queue_signal: Condvar,
    /// Signalled when the first batch begins to wait for room.
    pub(crate) waiting_signal: Condvar,
    /// Held by whoever writes an extent ahead: zeros must never meet frames.
    pub(crate) preparing: Mutex<()>,
    pub(crate) log: Mutex<Log>,
    pub(crate) index: RwLock<Index>,
    pub(crate) counters: Counters,
    /// Whether a thread pumps; if not, whoever waits for an append pumps itself.
    pub(crate) pumped: AtomicBool,
    /// Why the last checkpoint failed, if it did.
    pub(crate) checkpoint_failure: Mutex<Option<Error>>,
    /// The damage that background work found, oldest first, bounded.
    pub(crate) damage: Mutex<VecDeque<Error>>,
    /// Where damage was found since somebody asked last.
    pub(crate) damaged_extents: Mutex<BTreeSet<u32>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

const DAMAGE_KEPT_MAX: usize = 64;

impl Store {
    /// Writes an empty store onto a disk that holds none.
    ///
    /// # Errors
    /// [`Error::AlreadyFormatted`], [`Error::Geometry`] or what the disk says.
    pub fn format(disk: &dyn Disk, identity: Identity, geometry: Geometry) -> Result<()> {
        geometry.validate()?;
        match Superblock::load(disk) {
            Err(Error::NotFormatted) => {}
            Ok(_) => return Err(Error::AlreadyFormatted),
            Err(error) => return Err(error),
        }
        let superblock = Superblock {
            identity,
            geometry,
            generation: 1,
            checkpoint_lsn: 0,
            floor: 0,
            runs: 0,
            written_at_ms: 0,
            roots: Vec::new(),
            compatible: 0,
            read_only_compatible: 0,
        };
        superblock.store(disk, SUPERBLOCK_OFFSETS)
    }

    /// Recovers and opens. The checkpoint that ends recovery is durable when this returns.
    ///
    /// # Errors
    /// [`Error::NotFormatted`], [`Error::NewerFormat`], [`Error::Damaged`] if what is missing
    /// could make it serve stale data, or what the disk says.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<Store> {
        crate::recovery::open(disk, options)
    }

    /// Who a disk is, read off it without opening it.
    ///
    /// # Errors
    /// [`Error::NotFormatted`], [`Error::NewerFormat`], [`Error::Damaged`], or what the disk says.
    pub fn identity_of(disk: &dyn Disk) -> Result<Identity> {
        Ok(Superblock::load(disk)?.identity)
    }

    /// Who this disk is.
    pub fn identity(&self) -> Identity {
        self.shared.medium.identity
    }

    /// The sizes it was formatted with.
    pub fn geometry(&self) -> Geometry {
        self.shared.medium.geometry
    }

    /// How often this disk was opened, this time included, crashes or not: usable as a fencing
    /// epoch. Nothing else makes it grow, so that it fits into few bits for ever.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Queues a batch. Its entries become visible to snapshots just before the dependency
    /// becomes persistent.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Busy`] when too much waits already, [`Error::Failed`],
    /// [`Error::Closed`]. [`Error::OutOfSpace`] comes through the dependency, and so does
    /// [`Error::Busy`] when the batch found the queue full and waited for room in vain; it
    /// changed nothing then.
    pub fn submit(&self, batch: Batch) -> Result<Dependency> {
        batch.validate(&self.geometry())?;
        self.refuse_if_stopped()?;
        let class = if batch.frees_space {
            Class::FreesSpace
        } else {
            Class::Normal
        };
        let (after, is_cold) = (batch.after, batch.is_cold);
        let (entries, payload) = frame::split_batch(batch.entries);
        let (completer, dependency) = Dependency::pair();
        let mut append = self.append(
            (Kind::Batch, Stream::Log, class),
            entries,
            payload,
            after,
            Done::Batch(completer),
        );
        append.is_cold = is_cold;
        let mut queue = lock(&self.queue);
        if queue.sealed {
            drop(queue);
            self.refuse_if_stopped()?;
            return Err(Error::Closed);
        }
        if queue.waiting.is_empty() && queue.has_room(&append, self.options.queue_bytes_max) {
            queue.admit(append);
            self.queue_signal.notify_one();
        } else {
            self.wait_for_room(&mut queue, append)?;
        }
        Ok(dependency)
    }

    fn wait_for_room(&self, queue: &mut Queue, append: Append) -> Result<()> {
        let bytes = queue.waiting_bytes + append.memory();
        // Without a thread that pumps, only the caller could make room.
        if !self.pumped.load(Ordering::SeqCst)
            || queue.waiting.len() >= QUEUE_WAITING_MAX
            || bytes > self.options.waiting_bytes_max && !queue.waiting.is_empty()
        {
            return Err(Error::Busy);
        }
        queue.waiting_bytes = bytes;
        let until = Instant::now() + self.options.queue_wait.min(QUEUE_WAIT_MAX);
        queue.waiting.push_back(Waiting { append, until });
        if queue.waiting.len() == 1 {
            self.waiting_signal.notify_one();
        }
        Ok(())
    }

    /// Encodes what does not depend on the place.
    pub(crate) fn append(
        &self,
        (kind, stream, class): (Kind, Stream, Class),
        entries: Vec<FrameEntry>,
        payload: Vec<Vec<u8>>,
        after: Vec<Dependency>,
        done: Done,
    ) -> Append {
        let checksummer = &self.shared.medium.checksummer;
        let parts: Vec<&[u8]> = payload.iter().map(Vec::as_slice).collect();
        let mut body = frame::payload_checksums(checksummer, &parts);
        frame::encode_entries(&entries, &mut body);
        Append {
            kind,
            stream,
            class,
            entries,
            body_checksum: checksummer.of(&[&body]),
            body,
            payload_len: parts.iter().map(|part| part.len() as u32).sum(),
            payload,
            after,
            done,
            is_cold: false,
        }
    }

    pub(crate) fn refuse_if_stopped(&self) -> Result<()> {
        let log = lock(&self.log);
        if let Some(reason) = &log.failure {
            return Err(Error::Failed {
                reason: reason.clone(),
            });
        }
        if log.closed {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// A consistent view of everything applied so far.
    pub fn snapshot(&self) -> Snapshot {
        let index = read(&self.index);
        Snapshot::new(&self.shared, &index)
    }

    /// The current record of a key, merges not settled.
    pub(crate) fn current(&self, key: &Key) -> Result<Option<Record>> {
        self.snapshot().record(key, crate::disk::Read::Blocking)
    }

    pub(crate) fn table_reader(&self, how: crate::disk::Read, fill: bool) -> TableReader<'_> {
        TableReader {
            medium: &self.shared.medium,
            cache: &self.shared.cache,
            how,
            fill,
        }
    }

    /// Where the disk's bytes are.
    pub fn space(&self) -> Space {
        let version = read(&self.index).version.clone();
        let index_live: u64 = version
            .tables()
            .flat_map(|table| &table.meta.chunks)
            .map(FrameRef::len)
            .sum();
        let log = lock(&self.log);
        let extent_bytes = u64::from(self.geometry().extent_bytes);
        let capacity = u64::from(log.extents.count()) * extent_bytes;
        let free = u64::from(log.extents.free_count()) * extent_bytes;
        let data_live: u64 = log.extents.used().iter().map(|extent| extent.live).sum();
        let live = (data_live + index_live).min(capacity - free);
        let reserve = (u64::from(log.extents.reserve()) * extent_bytes).min(free);
        Space {
            capacity,
            live,
            dead: capacity - free - live,
            free,
            reserve,
        }
    }

    /// Whether new data may be put on this disk now: it has not failed, and is not full. Cheap.
    pub fn takes_data(&self) -> bool {
        let log = lock(&self.log);
        log.failure.is_none() && !log.closed && log.extents.may_open(Class::Normal)
    }

    /// Whether the disk has room for nothing but what frees space. Cheap.
    pub fn is_full(&self) -> bool {
        !lock(&self.log).extents.may_append(Class::Normal)
    }

    /// Bytes of all extents that the disk may have. Cheap; see [`space`](Store::space).
    pub fn capacity_bytes(&self) -> u64 {
        let extents = lock(&self.log).extents.count();
        u64::from(extents) * u64::from(self.geometry().extent_bytes)
    }

    /// Counters and sizes for metrics.
    pub fn stats(&self) -> Stats {
        let index = read(&self.index);
        let memtables = std::iter::once(&index.active).chain(&index.frozen);
        let memtable_bytes = memtables.map(|memtable| memtable.bytes() as u64).sum();
        let tables = index.version.tables().count() as u64;
        drop(index);
        let (queue_bytes, waiting_bytes) = {
            let queue = lock(&self.queue);
            (queue.bytes as u64, queue.waiting_bytes as u64)
        };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Stats {
            groups: get(&counters.groups),
            frames: get(&counters.frames),
            bytes_appended: get(&counters.bytes_appended),
            flush_us_total: get(&counters.flush_us_total),
            flush_us_max: get(&counters.flush_us_max),
            checkpoints: get(&counters.checkpoints),
            compactions: get(&counters.compactions),
            extents_reclaimed: get(&counters.extents_reclaimed),
            bytes_evacuated: get(&counters.bytes_evacuated),
            scrubbed_bytes: get(&counters.scrubbed_bytes),
            corruptions: get(&counters.corruptions),
            memtable_bytes,
            cache_bytes: self.shared.cache.bytes(),
            tables,
            queue_bytes,
            waiting_bytes,
            snapshots: self.shared.snapshots.count() as u64,
        }
    }

    /// The first failure, if the disk has failed.
    pub fn failure(&self) -> Option<String> {
        lock(&self.log).failure.clone()
    }

    /// Damage that reclamation and scrub found, oldest first; the newest 64 are kept.
    pub fn damage(&self) -> Vec<Error> {
        lock(&self.damage).iter().cloned().collect()
    }

    /// The extents in which background work found damage since this was asked last.
    pub fn take_damaged_extents(&self) -> BTreeSet<u32> {
        std::mem::take(&mut lock(&self.damaged_extents))
    }

    /// Notes damage that somebody came upon who read. Other errors say nothing of that kind.
    pub fn note_damage(&self, error: &Error) {
        let extent = match error {
            Error::Corrupt { place, .. } => Some(place.extent),
            Error::Disk(DiskError::Io { offset, .. }) => self.shared.medium.extent_at(*offset),
            _ => None,
        };
        lock(&self.damaged_extents).extend(extent);
    }

    /// Makes the block cache another size, in bytes.
    pub fn set_cache_bytes(&self, bytes: usize) {
        self.shared.cache.set_bytes(bytes);
    }

    pub(crate) fn report_damage(&self, error: &Error) {
        Counters::add(&self.counters.corruptions, 1);
        if let Error::Corrupt { place, .. } = error {
            lock(&self.damaged_extents).insert(place.extent);
        }
        let mut damage = lock(&self.damage);
        if damage.len() == DAMAGE_KEPT_MAX {
            damage.pop_front();
        }
        damage.push_back(error.clone());
    }

    /// How many extents the disk has; they are numbered from 0.
    pub fn extents(&self) -> u32 {
        lock(&self.log).extents.used().len() as u32
    }

    /// Stops taking batches, commits what is queued and writes a checkpoint.
    pub fn close(&self) -> Result<()> {
        self.stop_taking();
        if !self.pumped.load(Ordering::SeqCst) {
            while self.pump()? {}
        }
        self.checkpoint()
    }

    /// Says whether a thread calls [`pump`](Store::pump) from now on: background work then
    /// waits for it instead of pumping itself.
    pub fn set_pumped_by_a_thread(&self, pumped: bool) {
        self.pumped.store(pumped, Ordering::SeqCst);
    }

    /// Refuses batches from now on.
    pub(crate) fn stop_taking(&self) {
        lock(&self.log).closed = true;
    }

    /// Refuses whatever still waits to be committed, and whatever comes: nobody commits it.
    pub(crate) fn seal_queue(&self, why: &Error) {
        lock(&self.queue).sealed = true;
        self.fail_queue(why);
    }

    /// Takes up what the disk may hold by now: the file system under it is used by others too.
    pub(crate) fn refresh_capacity(&self) {
        let medium = &self.shared.medium;
        let has = medium.disk.capacity();
        let wanted = self.options.capacity_bytes(&*medium.disk);
        let (wanted, has) = (medium.extents_below(wanted), medium.extents_below(has));
        lock(&self.log).extents.limit_to(wanted, has);
    }

    /// Fails the disk for a reason that no read or write has met: nothing is written any more.
    pub fn give_up(&self, reason: &str) {
        let reason = {
            let mut log = lock(&self.log);
            log.failure.get_or_insert_with(|| reason.to_owned()).clone()
        };
        self.fail_queue(&Error::Failed { reason });
    }

    /// Fails the disk although one of its operations may never return: whoever waits for a commit is
    /// told so, even while that is under way. Returns the reason, which may be an earlier one.
    pub(crate) fn abandon(&self, reason: &str) -> String {
        // The reason first: whoever meets the seal is told it.
        self.give_up(reason);
        let reason = self.failure().unwrap_or_else(|| reason.to_owned());
        self.seal_queue(&Error::Failed {
            reason: reason.clone(),
        });
        let waiters = std::mem::take(&mut *lock(&self.committing));
        for waiter in waiters {
            waiter.give_up(Error::Failed {
                reason: reason.clone(),
            });
        }
        reason
    }

    /// What the disk has under way. If that is the same for long, the disk does not answer.
    pub fn under_way(&self) -> UnderWay {
        self.shared.medium.disk.under_way()
    }

    /// Why nothing of the disk can be read, as it seems. The store goes on all the same: whoever
    /// has other disks may [give it up](Store::give_up).
    pub fn unreadable(&self) -> Option<String> {
        self.shared.medium.disk.unreadable()
    }

    /// Fails the disk: nothing is written any more. The first reason stays.
    pub(crate) fn fail(&self, error: &Error) -> Error {
        let mut log = lock(&self.log);
        let reason = log.failure.get_or_insert_with(|| error.to_string()).clone();
        Error::Failed { reason }
    }
}

impl Append {
    /// Bytes that it holds while it waits, roughly.
    pub(crate) fn memory(&self) -> usize {
        const OVERHEAD_BYTES: usize = 256;
        self.body.len() * 2 + self.payload_len as usize + OVERHEAD_BYTES
    }
}
