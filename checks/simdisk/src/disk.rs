//! The disk itself: cache, medium, unflushed writes, faults.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use shardstore::sync::{Mutex, lock};
use shardstore::{Disk, DiskError, Read};

use crate::crash::{Crash, Frozen, PendingWrite};
use crate::fault::{Fault, Fired, IoKind};
use crate::pages::{Image, PAGE, Pages};
use crate::rng::Rng;

/// What is about to be issued, told to an [`Observer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A write of so many bytes at an offset (a `prepare` counts as one).
    Write {
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// A flush.
    Flush,
}

/// Called just before each write and flush, without any lock held; it may take
/// [`SimDisk::freeze`] to try crashes at this moment.
pub type Observer = std::sync::Arc<dyn Fn(&SimDisk, Event) + Send + Sync>;

/// How many I/Os were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads.
    pub reads: u64,
    /// Writes, `prepare` included.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
}

struct State {
    /// What survives a power cut for certain, apart from `pending`.
    medium: Pages,
    /// What reads see.
    cache: Pages,
    /// Pages where the cache does not show what the medium will hold after a flush.
    diverged: BTreeSet<usize>,
    /// Ordered by their serial numbers.
    pending: Vec<std::sync::Arc<PendingWrite>>,
    /// The serial number of the next write.
    next_serial: u64,
    /// How often unflushed writes met a fate other than being flushed.
    upsets: u64,
    armed: Vec<Fault>,
    fired: Vec<Fired>,
    bad_pages: BTreeSet<u64>,
    /// Pages that a [`Read::Nowait`] does not find in memory.
    cold: BTreeSet<u64>,
    vanished: bool,
    /// Writes and flushes until the power is cut.
    cut_after: Option<u64>,
    cut: bool,
    counters: Counters,
    observer: Option<Observer>,
}

/// A simulated disk. See the crate's documentation for what it promises.
pub struct SimDisk {
    capacity: u64,
    sector_bytes: usize,
    state: Mutex<State>,
    /// Every so many-th I/O takes long; 0: none does. Not the model checker's, because it adds
    /// nothing that threads could do.
    slow_every: AtomicU64,
    /// I/Os counted for that.
    ios: AtomicU64,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDisk")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl SimDisk {
    /// A disk with this medium, nothing unflushed, no faults.
    pub fn new(image: Image) -> SimDisk {
        let Image {
            pages,
            sector_bytes,
        } = image;
        let state = State {
            cache: pages.clone(),
            diverged: BTreeSet::new(),
            pending: Vec::new(),
            next_serial: 0,
            upsets: 0,
            armed: Vec::new(),
            fired: Vec::new(),
            bad_pages: BTreeSet::new(),
            cold: BTreeSet::new(),
            vanished: false,
            cut_after: None,
            cut: false,
            counters: Counters::default(),
            observer: None,
            medium: pages,
        };
        SimDisk {
            capacity: state.medium.bytes(),
            sector_bytes,
            state: Mutex::new(state),
            slow_every: AtomicU64::new(0),
            ios: AtomicU64::new(0),
        }
    }

    /// Cuts the power: this handle answers nothing but errors from now on, and the disk that
    /// is returned holds what the cut left. Faults that have not struck yet stay scheduled,
    /// bad pages stay bad; a device that had vanished is back.
    pub fn crash(&self, rng: &mut Rng, mode: Crash) -> SimDisk {
        let image = self.freeze().crash(rng, mode);
        self.successor(image)
    }

    /// As [`SimDisk::crash`], with a medium of the caller's choice.
    pub fn successor(&self, image: Image) -> SimDisk {
        let next = SimDisk::new(image);
        let mut old = lock(&self.state);
        old.cut = true;
        old.observer = None;
        let mut new = lock(&next.state);
        new.armed = std::mem::take(&mut old.armed);
        new.bad_pages = std::mem::take(&mut old.bad_pages);
        drop(new);
        next
    }

    /// The state from which crashes can be tried.
    pub fn freeze(&self) -> Frozen {
        let state = lock(&self.state);
        Frozen {
            medium: state.medium.clone(),
            pending: state.pending.clone(),
            sector_bytes: self.sector_bytes,
        }
    }

    /// Whether some write is unflushed, so that a crash decides about it.
    pub fn has_pending(&self) -> bool {
        !lock(&self.state).pending.is_empty()
    }

    /// The durable bytes alone.
    pub fn medium(&self) -> Image {
        let pages = lock(&self.state).medium.clone();
        Image {
            pages,
            sector_bytes: self.sector_bytes,
        }
    }

    /// Schedules a fault.
    pub fn inject(&self, fault: Fault) {
        let mut state = lock(&self.state);
        match fault {
            Fault::BitFlip {
                offset,
                bit,
                cached,
            } => {
                state.flip(offset, bit, cached);
                state.note(fault, 1);
            }
            Fault::BadPage { page } => {
                state.bad_pages.insert(page);
                state.note(fault, PAGE as u64);
            }
            _ => state.armed.push(fault),
        }
    }

    /// Withdraws every fault that has not struck, and repairs bad pages.
    pub fn calm(&self) {
        let mut state = lock(&self.state);
        state.armed.clear();
        state.bad_pages.clear();
    }

    /// What has struck so far.
    pub fn fired(&self) -> Vec<Fired> {
        lock(&self.state).fired.clone()
    }

    /// How many faults are scheduled and have not struck.
    pub fn armed(&self) -> usize {
        lock(&self.state).armed.len()
    }

    /// Whether some page is unreadable.
    pub fn has_bad_pages(&self) -> bool {
        !lock(&self.state).bad_pages.is_empty()
    }

    /// The device is gone.
    pub fn remove(&self) {
        lock(&self.state).vanished = true;
    }

    /// Whether the device is gone.
    pub fn is_removed(&self) -> bool {
        lock(&self.state).vanished
    }

    /// The device is back. What was unflushed met the fate of a power cut.
    pub fn give_back(&self, rng: &mut Rng) {
        let mode = torn(rng);
        let image = self.freeze().crash(rng, mode);
        let mut state = lock(&self.state);
        state.vanished = false;
        state.replace_medium(image.pages, false);
    }

    /// Cuts the power at the write or flush after the next `ios` ones. That I/O is issued
    /// (a crash may keep it) and not acknowledged. [`SimDisk::crash`] then gives the disk
    /// that is left.
    pub fn cut_after(&self, ios: u64) {
        lock(&self.state).cut_after = Some(ios);
    }

    /// Takes a scheduled power cut back.
    pub fn cancel_cut(&self) {
        lock(&self.state).cut_after = None;
    }

    /// Whether the power is cut.
    pub fn is_cut(&self) -> bool {
        lock(&self.state).cut
    }

    /// Makes every `nth` I/O take long: other threads do much between its effect and its return.
    /// Only where threads are the model checker's.
    pub fn slow_down(&self, nth: u64) {
        self.slow_every.store(nth, Ordering::Relaxed);
    }

    fn dawdle(&self) {
        let nth = self.slow_every.load(Ordering::Relaxed);
        let number = self.ios.fetch_add(1, Ordering::Relaxed);
        if nth > 0 && number.is_multiple_of(nth) {
            (0..SLOW_YIELDS).for_each(|_| pause());
        }
    }

    /// Makes every [`Read::Nowait`] fail until the page was read from the medium.
    pub fn chill(&self) {
        let pages = self.capacity / PAGE as u64;
        lock(&self.state).cold = (0..pages).collect();
    }

    /// I/Os so far.
    pub fn counters(&self) -> Counters {
        lock(&self.state).counters
    }

    /// Sets who is told before each write and flush.
    pub fn observe(&self, observer: Option<Observer>) {
        lock(&self.state).observer = observer;
    }

    fn tell(&self, event: Event) {
        let observer = lock(&self.state).observer.clone();
        if let Some(observer) = observer {
            observer(self, event);
        }
    }
}

impl Disk for SimDisk {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn read(&self, offset: u64, buf: &mut [u8], how: Read) -> Result<(), DiskError> {
        let done = self.read_bytes(offset, buf, how);
        if how != Read::Nowait {
            self.dawdle();
        }
        done
    }

    fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), DiskError> {
        let bytes = bufs.concat();
        let done = self.write_bytes("write", offset, bytes);
        self.dawdle();
        done
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.tell(Event::Flush);
        let done = match self.begin_flush()? {
            Some(flush) => self.finish_flush(flush),
            None => Ok(()),
        };
        self.dawdle();
        done
    }

    fn prepare(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        // Most of the range was never written: there is nothing to change in it then.
        let holds_data = {
            let state = lock(&self.state);
            let mut pages = page_range(offset, len).map(|page| page as usize);
            pages.any(|page| state.cache.is_present(page) || state.medium.is_present(page))
        };
        let bytes = if holds_data { len } else { 0 };
        self.write_bytes("prepare", offset, vec![0; bytes as usize])
    }
}

/// A flush that has begun.
struct Flush {
    /// It covers the writes with a smaller serial number.
    covers_below: u64,
    /// Upsets when it began.
    upsets: u64,
}

impl SimDisk {
    fn read_bytes(&self, offset: u64, buf: &mut [u8], how: Read) -> Result<(), DiskError> {
        let len = buf.len() as u64;
        let mut state = lock(&self.state);
        let pages = page_range(offset, len);
        if how == Read::Nowait && pages.clone().any(|page| state.cold.contains(&page)) {
            return Err(DiskError::WouldBlock);
        }
        state.counters.reads += 1;
        state.check_present("read", offset, len)?;
        let mut from = offset;
        match state.struck(IoKind::Read, len) {
            Some(Fault::MisdirectedRead { pages, .. }) => from = self.elsewhere(offset, len, pages),
            Some(_) => return Err(io_error("read", offset, len, "injected read error")),
            None => {}
        }
        if !state.bad_pages.is_empty() && pages.clone().any(|page| state.bad_pages.contains(&page))
        {
            return Err(io_error("read", offset, len, "injected bad page"));
        }
        if !state.cold.is_empty() {
            for page in pages {
                state.cold.remove(&page);
            }
        }
        state.view(from, buf, how);
        Ok(())
    }

    /// Decides what a flush covers: what is pending now. `None`: it is over, and a lie.
    fn begin_flush(&self) -> Result<Option<Flush>, DiskError> {
        let mut state = lock(&self.state);
        state.counters.flushes += 1;
        state.check_present("flush", 0, 0)?;
        if state.power_fails() {
            return Err(io_error("flush", 0, 0, "the power is cut"));
        }
        match state.struck(IoKind::Flush, 0) {
            Some(Fault::LyingFlush { .. }) => Ok(None),
            Some(Fault::FlushFails { seed, cached, .. }) => {
                let frozen = Frozen {
                    medium: state.medium.clone(),
                    pending: state.pending.clone(),
                    sector_bytes: self.sector_bytes,
                };
                let rng = &mut Rng::new(seed);
                let mode = torn(rng);
                let image = frozen.crash(rng, mode);
                state.replace_medium(image.pages, cached);
                Err(io_error("flush", 0, 0, "injected flush error"))
            }
            Some(_) => Err(io_error("flush", 0, 0, "the device is gone")),
            None => Ok(Some(Flush {
                covers_below: state.next_serial,
                upsets: state.upsets,
            })),
        }
    }

    /// Writes back what the flush covers. Under the model checker one write at a time, with
    /// whatever other threads do in between: they write, flush as well, or cut the power. Taking
    /// the lock lets them; yielding in addition would make this thread the last to go on in
    /// schedules by priority, and hide what needs a quick flush.
    fn finish_flush(&self, flush: Flush) -> Result<(), DiskError> {
        loop {
            let mut state = lock(&self.state);
            state.check_present("flush", 0, 0)?;
            if state.upsets != flush.upsets {
                return Err(io_error("flush", 0, 0, "what it covered may be lost"));
            }
            let at_once = if IS_EXPLORED { 1 } else { usize::MAX };
            if !state.write_back(flush.covers_below, at_once) {
                return Ok(());
            }
        }
    }

    fn write_bytes(
        &self,
        operation: &'static str,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<(), DiskError> {
        let len = bytes.len() as u64;
        assert!(
            offset
                .checked_add(len)
                .is_some_and(|end| end <= self.capacity),
            "{operation} of {len} bytes at {offset} is past the disk's {} bytes",
            self.capacity
        );
        self.tell(Event::Write { offset, len });
        let mut state = lock(&self.state);
        state.counters.writes += 1;
        state.check_present(operation, offset, len)?;
        if state.power_fails() {
            state.queue(offset, bytes);
            return Err(io_error(operation, offset, len, "the power is cut"));
        }
        let struck = state.struck(IoKind::Write, len);
        for page in page_range(offset, len) {
            state.cold.remove(&page);
            if struck.is_none() {
                state.bad_pages.remove(&page);
            }
        }
        match struck {
            None => {
                state.cache.write(offset, &bytes);
                state.queue(offset, bytes);
            }
            Some(Fault::LostWrite { cached, .. }) => {
                if cached {
                    state.cache.write(offset, &bytes);
                    state.diverge(offset, len);
                }
            }
            Some(Fault::MisdirectedWrite { pages, cached, .. }) => {
                let to = self.elsewhere(offset, len, pages);
                if cached {
                    state.cache.write(offset, &bytes);
                    state.diverge(offset, len);
                    state.diverge(to, len);
                } else {
                    state.cache.write(to, &bytes);
                }
                state.queue(to, bytes);
            }
            Some(Fault::NoSpace { .. }) => {
                state.write_part(offset, &bytes);
                return Err(DiskError::NoSpace {
                    operation,
                    offset,
                    len,
                });
            }
            Some(Fault::WriteError { .. }) => {
                state.write_part(offset, &bytes);
                return Err(io_error(operation, offset, len, "injected write error"));
            }
            Some(_) => return Err(io_error(operation, offset, len, "the device is gone")),
        }
        Ok(())
    }

    /// Where a misdirected I/O goes: `pages` away, wrapped so that it fits on the disk.
    fn elsewhere(&self, offset: u64, len: u64, pages: i32) -> u64 {
        let page_bytes = PAGE as u64;
        let within = offset % page_bytes;
        let on_disk = (self.capacity / page_bytes) as i64;
        let page = ((offset / page_bytes) as i64 + i64::from(pages)).rem_euclid(on_disk) as u64;
        let last = (self.capacity - len - within) / page_bytes;
        page.min(last) * page_bytes + within
    }
}

impl State {
    /// An error if the device does not answer.
    fn check_present(
        &mut self,
        operation: &'static str,
        offset: u64,
        len: u64,
    ) -> Result<(), DiskError> {
        if self.cut {
            return Err(io_error(operation, offset, len, "the power is cut"));
        }
        if self.vanished {
            return Err(io_error(operation, offset, len, "the device is gone"));
        }
        Ok(())
    }

    /// Counts one write or flush against a scheduled power cut.
    fn power_fails(&mut self) -> bool {
        match &mut self.cut_after {
            Some(0) => {
                self.cut = true;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// The first fault that strikes this I/O; it is used up, transient read errors excepted.
    fn struck(&mut self, kind: IoKind, len: u64) -> Option<Fault> {
        let mut index = 0;
        let mut first = None;
        while index < self.armed.len() {
            if first.is_some() || !self.armed[index].strikes(kind) {
                index += 1;
                continue;
            }
            let fault = self.armed[index];
            first = Some(fault);
            match &mut self.armed[index] {
                Fault::ReadErrors { times, .. } if *times > 1 => {
                    *times -= 1;
                    index += 1;
                }
                _ => {
                    self.armed.remove(index);
                }
            }
            if let Fault::Vanish { .. } = fault {
                self.vanished = true;
            }
            self.note(fault, len);
        }
        first
    }

    fn note(&mut self, fault: Fault, len: u64) {
        self.fired.push(Fired { fault, len });
    }

    fn queue(&mut self, offset: u64, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            let serial = self.next_serial;
            self.next_serial += 1;
            self.pending.push(std::sync::Arc::new(PendingWrite {
                serial,
                offset,
                bytes,
            }));
        }
    }

    /// A write that fails: some of its pages are written all the same. Which, is decided by what
    /// the write is, so that the same steps leave the same.
    fn write_part(&mut self, offset: u64, bytes: &[u8]) {
        let mut rng = Rng::new(offset ^ self.counters.writes.rotate_left(32));
        let likely_of_8 = rng.below(9);
        for page in page_range(offset, bytes.len() as u64) {
            let from = (page * PAGE as u64).max(offset);
            let to = ((page + 1) * PAGE as u64).min(offset + bytes.len() as u64);
            if rng.below(8) < likely_of_8 {
                let part = &bytes[(from - offset) as usize..(to - offset) as usize];
                self.cache.write(from, part);
                self.queue(from, part.to_vec());
            }
        }
    }

    fn diverge(&mut self, offset: u64, len: u64) {
        self.diverged
            .extend(page_range(offset, len).map(|page| page as usize));
    }

    /// Brings to the medium the oldest `at_most` of the pending writes with a smaller serial
    /// number. Whether some of these are left.
    fn write_back(&mut self, covers_below: u64, at_most: usize) -> bool {
        let covered = self
            .pending
            .partition_point(|write| write.serial < covers_below);
        let done = covered.min(at_most);
        // Without later writes the cache's page is what the medium gets.
        let is_all = done == self.pending.len();
        for write in self.pending.drain(..done) {
            let pages = page_range(write.offset, write.bytes.len() as u64);
            let is_diverged = |page: u64| self.diverged.contains(&(page as usize));
            if is_all && !pages.clone().any(is_diverged) {
                for page in pages {
                    self.medium.adopt(&self.cache, page as usize);
                }
            } else {
                self.medium.write(write.offset, &write.bytes);
            }
        }
        done < covered
    }

    /// The unflushed writes are decided: the medium is `pages` now. With `keep_cache`, reads
    /// go on seeing what was written.
    fn replace_medium(&mut self, pages: Pages, keep_cache: bool) {
        let pending = std::mem::take(&mut self.pending);
        self.upsets += 1;
        self.medium = pages;
        if keep_cache {
            for write in &pending {
                self.diverge(write.offset, write.bytes.len() as u64);
            }
        } else {
            self.cache = self.medium.clone();
            self.diverged.clear();
        }
    }

    fn flip(&mut self, offset: u64, bit: u8, cached: bool) {
        let mut byte = [0];
        self.medium.read(offset, &mut byte);
        let rotten = [byte[0] ^ (1 << bit)];
        self.medium.write(offset, &rotten);
        // An unflushed write over the byte hides the rot, and will overwrite it.
        let covered = self
            .pending
            .iter()
            .any(|write| (write.offset..write.offset + write.bytes.len() as u64).contains(&offset));
        if cached {
            self.diverge(offset, 1);
        } else if !covered {
            self.cache.write(offset, &rotten);
        }
    }

    /// The bytes that a read sees.
    fn view(&self, offset: u64, buf: &mut [u8], how: Read) {
        self.cache.read(offset, buf);
        if how != Read::PastCache || self.diverged.is_empty() {
            return;
        }
        let len = buf.len() as u64;
        if page_range(offset, len).all(|page| !self.diverged.contains(&(page as usize))) {
            return;
        }
        // Reading past the cache writes dirty pages back first, so it sees what a flush
        // would leave.
        self.medium.read(offset, buf);
        for write in &self.pending {
            let start = write.offset.max(offset);
            let end = (write.offset + write.bytes.len() as u64).min(offset + len);
            if start < end {
                let from =
                    &write.bytes[(start - write.offset) as usize..][..(end - start) as usize];
                buf[(start - offset) as usize..(end - offset) as usize].copy_from_slice(from);
            }
        }
    }
}

/// Whether threads are the model checker's, which tries what they may do in between.
const IS_EXPLORED: bool = cfg!(feature = "shuttle");

/// How often an I/O that takes long lets other threads go on.
const SLOW_YIELDS: usize = 20;

/// Lets other threads go on, if they are the model checker's.
fn pause() {
    if IS_EXPLORED {
        shardstore::sync::thread::yield_now();
    }
}

/// What an interrupted write-back leaves: sectors as a whole, or torn.
fn torn(rng: &mut Rng) -> Crash {
    *rng.pick(&[Crash::Sectors, Crash::Hostile])
}

fn page_range(offset: u64, len: u64) -> std::ops::Range<u64> {
    if len == 0 {
        return 0..0;
    }
    offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64)
}

fn io_error(operation: &'static str, offset: u64, len: u64, reason: &str) -> DiskError {
    DiskError::Io {
        operation,
        offset,
        len,
        reason: reason.to_owned(),
    }
}
