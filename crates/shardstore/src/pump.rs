//! Group commit: the one place that appends.
//!
//! ```text
//!   take what is ready → place it → write each stream → one flush → apply in lsn order → tell
//! ```
//!
//! Invariants: one group is in flight at a time; a group starts on a fresh page in each
//! stream, so that no page with durable bytes is written again; a stream enters its next
//! extent only with a group of its own, when everything before it is durable; entries are
//! applied, and dependencies told, only after the flush.

use std::time::{Duration, Instant};

use crate::completion::Completion;
use crate::disk::{Disk, DiskError, Read};
use crate::error::{Error, Result};
use crate::extents::Class;
use crate::frame::{Change, FrameEntry, FrameRef, HEADER_BYTES, Header, Kind, Stream, align_page};
use crate::limits::{PAGE, QUEUE_WAIT_MAX};
use crate::mutants::{self, Mutant};
use crate::record::{Content, Locator, Record};
use crate::store::{Append, Counters, Done, Log, Queue, Store};
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, lock, read, thread, write};

/// Extents that were never used and are written ahead.
const PREPARED_AHEAD: u32 = 2;

/// An append with its place.
struct Placed {
    append: Append,
    header: Header,
    header_bytes: [u8; HEADER_BYTES],
}

static ZEROS: [u8; PAGE] = [0; PAGE];

impl Store {
    /// Commits one group. `false`: nothing was ready.
    ///
    /// # Errors
    /// [`Error::Failed`] if a write or flush failed, now or earlier; everything that waited is
    /// told the same.
    pub fn pump(&self) -> Result<bool> {
        let _turn = lock(&self.pump_turn);
        if let Some(reason) = self.failure() {
            let error = Error::Failed { reason };
            self.fail_queue(&error);
            return Err(error);
        }
        let group = self.take_group();
        if group.is_empty() {
            return Ok(false);
        }
        let placed = self.place(group);
        if placed.is_empty() {
            return Ok(true);
        }
        if mutants::on(Mutant::M11) {
            self.apply(&placed)?;
        }
        match self.issue(&placed) {
            Ok(()) => {
                self.finish(placed);
                Ok(true)
            }
            Err(error) => {
                let error = self.fail(&error);
                placed
                    .into_iter()
                    .for_each(|placed| placed.append.fail(error.clone()));
                self.fail_queue(&error);
                Err(error)
            }
        }
    }

    /// Takes what may be issued now: background work first (there is at most one frame per
    /// thread of it), then batches in order, up to the group's size.
    fn take_group(&self) -> Vec<Append> {
        let mut queue = lock(&self.queue);
        let failed = unblock(&mut queue);
        queue.admit_waiting(self.options.queue_bytes_max);
        let mut group: Vec<Append> = queue.background.drain(..).collect();
        let mut bytes: usize = 0;
        while let Some(next) = queue.foreground.front() {
            if bytes > 0 && bytes + next.memory() > self.options.group_bytes_max {
                break;
            }
            bytes += next.memory();
            group.extend(queue.foreground.pop_front());
        }
        queue.bytes -= bytes;
        queue.admit_waiting(self.options.queue_bytes_max);
        // Before anybody can see that they are in no queue.
        *lock(&self.committing) = group.iter().map(Append::waiter).collect();
        drop(queue);
        for (append, error) in failed {
            append.fail(error);
        }
        group
    }

    /// Tells those who waited for room in the queue for long enough that it is busy.
    pub(crate) fn refuse_overdue(&self, now: Instant) {
        let refused: Vec<Append> = {
            let mut queue = lock(&self.queue);
            std::iter::from_fn(|| queue.pop_overdue(now)).collect()
        };
        refused
            .into_iter()
            .for_each(|append| append.fail(Error::Busy));
    }

    pub(crate) fn fail_queue(&self, error: &Error) {
        let mut queue = lock(&self.queue);
        let mut waiting: Vec<Append> = Vec::new();
        waiting.extend(std::iter::from_fn(|| queue.pop_waiting()));
        let Queue {
            background,
            foreground,
            blocked,
            bytes,
            ..
        } = &mut *queue;
        *bytes = 0;
        let queued = background.drain(..).chain(foreground.drain(..));
        waiting.extend(queued.chain(blocked.drain(..)));
        drop(queue);
        waiting
            .into_iter()
            .for_each(|append| append.fail(error.clone()));
    }

    /// Gives lsn and place to as much of the group as can be flushed together; puts the rest
    /// back to the front of the queue.
    fn place(&self, group: Vec<Append>) -> Vec<Placed> {
        let starved = self.starved();
        let mut log = lock(&self.log);
        let mut placed: Vec<Placed> = Vec::with_capacity(group.len());
        let mut in_group = [false; Stream::COUNT];
        let mut group = group.into_iter();
        let mut rest = Vec::new();
        // Told without the log's lock: whoever hears of it may submit something else.
        let mut refused: Vec<(Append, Error)> = Vec::new();
        while let Some(append) = group.next() {
            if append.class == Class::Normal {
                let refusal = match &starved {
                    Some(error) => Some(error.clone()),
                    None if log.extents.may_append(append.class) => None,
                    None => Some(Error::OutOfSpace),
                };
                if let Some(error) = refusal {
                    refused.push((append, error));
                    continue;
                }
            }
            let stream = append.stream;
            let is_first = !in_group[stream as usize];
            let mut fit = log.extents.fit(stream, append.frame_len(), is_first);
            if fit.is_none() && !is_first {
                // The next extent is entered by a group of its own.
                rest.push(append);
                rest.extend(group);
                break;
            }
            if fit.is_none() {
                let opened;
                (log, opened) = self.open_extent(log, &append);
                match opened {
                    Ok(()) => fit = log.extents.fit(stream, append.frame_len(), true),
                    Err(Error::OutOfSpace) if self.may_wait_for_space(&mut log, &append) => {
                        // In order: what came later waits as well.
                        rest.push(append);
                        rest.extend(group);
                        break;
                    }
                    Err(error) => {
                        if mutants::on(Mutant::M23) {
                            self.apply_refused(&log, &append);
                        }
                        refused.push((append, error));
                        continue;
                    }
                }
            }
            let Some((extent, offset)) = fit else {
                refused.push((append, Error::OutOfSpace));
                continue;
            };
            if append.class == Class::FreesSpace {
                log.deletes_wait_since = None;
            }
            in_group[stream as usize] = true;
            placed.push(self.place_at(&mut log, append, extent, offset));
        }
        drop(log);
        self.put_back(rest);
        for (append, error) in refused {
            append.fail(error);
        }
        placed
    }

    /// Whether a batch that frees space waits for an extent: background work has its part of the
    /// reserve in use for a moment, or deletes outran what it gives back.
    fn may_wait_for_space(&self, log: &mut Log, append: &Append) -> bool {
        if append.class != Class::FreesSpace || !self.pumped.load(Ordering::SeqCst) {
            return false;
        }
        log.deletes_wait_since.get_or_insert_with(Instant::now);
        self.waits_for_space(log)
    }

    /// Whether deletes wait for an extent, and still may.
    pub(crate) fn waits_for_space(&self, log: &Log) -> bool {
        let wait = self.options.queue_wait.min(QUEUE_WAIT_MAX);
        let since = log.deletes_wait_since;
        since.is_some_and(|since| since.elapsed() < wait)
    }

    /// Opens the next free extent for an append. Only the pump opens extents, so the log may be
    /// let go of while one is written ahead.
    fn open_extent<'a>(
        &'a self,
        mut log: MutexGuard<'a, Log>,
        append: &Append,
    ) -> (MutexGuard<'a, Log>, Result<()>) {
        loop {
            let next = log.extents.next_free();
            let (true, Some((extent, virgin))) = (log.extents.may_open(append.class), next) else {
                return (log, Err(Error::OutOfSpace));
            };
            if let Some(end) = log.extents.to_reserve(append.class, 0) {
                drop(log);
                let reserved = self.reserve(end);
                log = lock(&self.log);
                match reserved {
                    Ok(()) => continue,
                    Err(error) => return (log, Err(error)),
                }
            }
            if !virgin || extent < log.extents.prepared {
                let lsn = log.next_lsn;
                log.extents.open_next(append.stream, lsn);
                return (log, Ok(()));
            }
            drop(log);
            let prepared = self.prepare_up_to(extent);
            log = lock(&self.log);
            if let Err(error) = prepared {
                return (log, Err(error));
            }
        }
    }

    /// Writes an extent that was never used ahead, unless that is done already.
    fn prepare_up_to(&self, extent: u32) -> Result<()> {
        let _alone = lock(&self.preparing);
        if lock(&self.log).extents.prepared > extent {
            return Ok(());
        }
        let medium = &self.shared.medium;
        let offset = medium.offset_of(extent, 0);
        let len = u64::from(medium.geometry.extent_bytes);
        match medium.disk.prepare(offset, len) {
            Ok(()) => {
                let mut log = lock(&self.log);
                log.extents.prepared = log.extents.prepared.max(extent + 1);
                Ok(())
            }
            Err(DiskError::NoSpace { .. }) => Err(Error::OutOfSpace),
            // It flushes: what else was not durable yet is not known now.
            Err(error) => Err(self.fail(&error.into())),
        }
    }

    /// Has the medium keep room for extents below `end`.
    fn reserve(&self, end: u32) -> Result<()> {
        let medium = &self.shared.medium;
        match medium.disk.reserve(medium.offset_of(end, 0)) {
            Ok(()) => {
                let mut log = lock(&self.log);
                log.extents.reserved = log.extents.reserved.max(end);
                Ok(())
            }
            Err(DiskError::NoSpace { .. }) => Err(Error::OutOfSpace),
            // Else whoever needs room is refused for ever by a disk that seems well.
            Err(error) => Err(self.fail(&error.into())),
        }
    }

    /// Reserves room for new data, and writes ahead the next extent that was never used, so that
    /// opening it costs nothing. `false`: that is done already, or the disk has no room for
    /// another.
    pub fn prepare_ahead(&self) -> Result<bool> {
        let to_reserve = {
            let log = lock(&self.log);
            log.extents.to_reserve(Class::Normal, PREPARED_AHEAD)
        };
        match to_reserve.map(|end| self.reserve(end)) {
            None | Some(Ok(()) | Err(Error::OutOfSpace)) => {}
            Some(Err(error)) => return Err(error),
        }
        let extent = {
            let log = lock(&self.log);
            let used = log.extents.used().len() as u32;
            let next = log.extents.prepared.max(used);
            let wanted = next < used + PREPARED_AHEAD && next < log.extents.count();
            if !wanted || log.failure.is_some() {
                return Ok(false);
            }
            next
        };
        match self.prepare_up_to(extent) {
            Ok(()) => Ok(true),
            Err(Error::OutOfSpace) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn place_at(&self, log: &mut Log, append: Append, extent: u32, offset: u32) -> Placed {
        let entry = log.extents.get_mut(extent);
        let header = Header {
            kind: append.kind,
            stream: append.stream,
            lsn: log.next_lsn,
            generation: log.superblock.generation,
            durable: if mutants::on(Mutant::M8) {
                log.next_lsn
            } else {
                log.durable_lsn
            },
            extent,
            offset,
            epoch: entry.epoch,
            previous_end: entry.end,
            body_len: append.body.len() as u32,
            payload_len: append.payload_len,
            entries: append.entries.len() as u32,
            body_checksum: append.body_checksum,
        };
        entry.end = offset + header.len() as u32;
        entry.last_lsn = header.lsn;
        log.next_lsn += 1;
        log.tail_bytes += header.len();
        log.deletes_since_checkpoint |= append.class == Class::FreesSpace;
        let medium = &self.shared.medium;
        let header_bytes = header.encode(&medium.identity.disk, &medium.checksummer);
        Placed {
            append,
            header,
            header_bytes,
        }
    }

    fn put_back(&self, rest: Vec<Append>) {
        let mut queue = lock(&self.queue);
        for append in rest.into_iter().rev() {
            match append.done {
                Done::Frame(_) => queue.background.push_front(append),
                Done::Batch(_) => {
                    queue.bytes += append.memory();
                    queue.foreground.push_front(append);
                }
            }
        }
    }

    /// Writes the group, stream by stream, and flushes.
    fn issue(&self, placed: &[Placed]) -> Result<()> {
        let medium = &self.shared.medium;
        let mut cold = Vec::new();
        for stream in Stream::ALL {
            let mut frames = placed
                .iter()
                .filter(|placed| placed.append.stream == stream);
            let Some(first) = frames.next() else { continue };
            let start = first.header.offset;
            let mut is_cold = true;
            let mut parts: Vec<&[u8]> = Vec::new();
            let mut end = start;
            for frame in std::iter::once(first).chain(frames) {
                parts.push(&ZEROS[..(frame.header.offset - end) as usize]);
                parts.push(&frame.header_bytes);
                is_cold &= frame.append.is_cold;
                parts.push(&frame.append.body);
                parts.extend(frame.append.payload.iter().map(Vec::as_slice));
                end = frame.header.offset + frame.header.len() as u32;
            }
            // Whole pages, so that the kernel need not read what it writes into.
            parts.push(&ZEROS[..(align_page(end) - end) as usize]);
            parts.retain(|part| !part.is_empty());
            let at = medium.offset_of(first.header.extent, start);
            medium.disk.write(at, &parts)?;
            let written = u64::from(align_page(end) - start);
            if is_cold {
                cold.push((at, written));
            }
            Counters::add(&self.counters.bytes_appended, written);
        }
        if mutants::on(Mutant::M25) {
            return Ok(());
        }
        let started = Instant::now();
        match medium.disk.flush() {
            Err(_) if mutants::on(Mutant::M17) => medium.disk.flush()?,
            other => other?,
        }
        for (at, bytes) in cold {
            medium.disk.forget(at, bytes);
        }
        let took_us = started.elapsed().as_micros() as u64;
        Counters::add(&self.counters.flush_us_total, took_us);
        self.counters
            .flush_us_max
            .fetch_max(took_us, Ordering::Relaxed);
        Ok(())
    }

    /// The group is durable: apply it and tell everybody.
    fn finish(&self, placed: Vec<Placed>) {
        Counters::add(&self.counters.groups, 1);
        Counters::add(&self.counters.frames, placed.len() as u64);
        if let Err(error) = self.apply(&placed) {
            // Only reading the index for a moved entry can fail, and then the move is
            // dropped; nothing else depends on it.
            self.report_damage(&error);
        }
        for Placed { append, header, .. } in placed {
            match append.done {
                Done::Batch(completer) => completer.complete(Ok(())),
                Done::Frame(completer) => completer.complete(Ok(header.frame_ref())),
            }
        }
    }

    fn apply(&self, placed: &[Placed]) -> Result<()> {
        let Some(last) = placed.iter().map(|placed| placed.header.lsn).max() else {
            return Ok(());
        };
        {
            let mut log = lock(&self.log);
            if !log.mark_is_held {
                log.durable_lsn = log.durable_lsn.max(last);
            }
        }
        // What the index says of moved keys may need the disk: look before the lock is taken.
        let mut known = Vec::new();
        let mut failed = Ok(());
        for placed in placed
            .iter()
            .filter(|placed| placed.header.kind == Kind::Moved)
        {
            for entry in &placed.append.entries {
                match self.current(&entry.key) {
                    Ok(record) => known.push(record),
                    Err(error) => {
                        known.push(None);
                        failed = Err(error);
                    }
                }
            }
        }
        let mut known = known.into_iter();
        let mut index = write(&self.index);
        for placed in placed {
            for entry in &placed.append.entries {
                if placed.header.kind == Kind::Moved {
                    let before = known.next().flatten();
                    let now = index.active.get(entry.key.as_bytes(), u64::MAX).or(before);
                    let is_current = now.is_some_and(|record| is_same_put(&record, entry.seq));
                    if !is_current && !mutants::on(Mutant::M16) {
                        continue;
                    }
                }
                let (frame, lsn) = (placed.header.frame_ref(), placed.header.lsn);
                let record = record_of(entry, &frame, lsn);
                let snapshots = &self.shared.snapshots;
                index
                    .active
                    .insert(entry.key.as_bytes(), lsn, record, snapshots);
            }
        }
        index.applied_lsn = index.applied_lsn.max(last);
        failed
    }

    /// Seeded bug: a put that was refused for lack of space is in the index all the same.
    fn apply_refused(&self, log: &Log, append: &Append) {
        let index = write(&self.index);
        let frame = FrameRef {
            extent: 0,
            epoch: 0,
            offset: 0,
            body_len: 0,
            payload_len: u32::MAX,
        };
        for entry in &append.entries {
            let record = record_of(entry, &frame, log.next_lsn);
            let lsn = index.applied_lsn;
            index
                .active
                .insert(entry.key.as_bytes(), lsn, record, &self.shared.snapshots);
        }
    }

    /// Appends a frame of background work and waits until it is durable.
    pub(crate) fn append_and_wait(&self, append: impl FnOnce(Done) -> Append) -> Result<FrameRef> {
        let mut frames = self.append_all_and_wait(std::iter::once(append))?;
        frames.pop().ok_or(Error::Closed)
    }

    /// Appends frames of background work, one behind the other in one group as far as an extent
    /// holds them, and waits until all are durable.
    pub(crate) fn append_all_and_wait(
        &self,
        appends: impl Iterator<Item = impl FnOnce(Done) -> Append>,
    ) -> Result<Vec<FrameRef>> {
        let (mut ready, mut completions, mut bytes) = (Vec::new(), Vec::new(), 0);
        for append in appends {
            let (completer, completion) = Completion::pair();
            let append = append(Done::Frame(completer));
            bytes += append.frame_len();
            ready.push(append);
            completions.push(completion);
        }
        let others_wait = {
            let mut queue = lock(&self.queue);
            if queue.sealed {
                return Err(Error::Closed);
            }
            let others_wait = !queue.background.is_empty() || !queue.foreground.is_empty();
            queue.background.extend(ready);
            others_wait
        };
        self.queue_signal.notify_one();
        let _locked = (others_wait && mutants::on(Mutant::M12)).then(|| lock(&self.log));
        let is_pumped = self.pumped.load(Ordering::SeqCst);
        while !is_pumped && !completions.iter().all(Completion::is_complete) {
            self.pump()?;
        }
        let frames = completions.into_iter().map(Completion::wait);
        // All of them are waited for, also when one fails.
        let frames: Vec<Result<FrameRef>> = frames.collect();
        let frames = frames.into_iter().collect::<Result<Vec<FrameRef>>>()?;
        if is_pumped {
            self.pace(bytes);
        }
        Ok(frames)
    }

    /// Sleeps for as long as background work of `bytes` may take, unless somebody waits for it.
    fn pace(&self, bytes: u64) {
        const TABLES_URGENT: usize = 8;
        // Half of what the log may grow beyond its limit before commits wait for a checkpoint:
        // one that is due waits for the step of compaction that is under way.
        let tail_urgent = self.options.tail_bytes_max.saturating_mul(3) / 2;
        let is_long = lock(&self.log).tail_bytes >= tail_urgent;
        let is_urgent = is_long || {
            let index = read(&self.index);
            let active = index.active.bytes();
            let half_full = active > self.options.memtable_bytes / 2;
            index.version.levels[0].len() > TABLES_URGENT
                || active >= self.options.memtable_bytes
                || (!index.frozen.is_empty() && half_full)
        };
        if !is_urgent && !self.is_short_of_space() && !lock(&self.log).closed {
            let nanos = bytes.saturating_mul(1_000_000_000);
            thread::sleep(Duration::from_nanos(
                nanos / self.options.background_bytes_per_s.max(1),
            ));
        }
    }

    /// Builds a background append.
    pub(crate) fn background(
        &self,
        what: (Kind, Stream, Class),
        entries: Vec<FrameEntry>,
        payload: Vec<Vec<u8>>,
        done: Done,
    ) -> Append {
        self.append(what, entries, payload, Vec::new(), done)
    }

    /// Reads a copy back from stable storage and verifies all of it.
    pub(crate) fn verify_copy(&self, frame: &FrameRef) -> Result<()> {
        let medium = &self.shared.medium;
        if frame.payload_len == 0 {
            return medium.read_head(frame, Read::PastCache).map(|_| ());
        }
        medium
            .read_frame_payload(frame, 0..frame.payload_len, Read::PastCache)
            .map(|_| ())
    }
}

/// Moves blocked appends whose dependencies are decided; returns those of which one failed.
fn unblock(queue: &mut Queue) -> Vec<(Append, Error)> {
    let blocked = std::mem::take(&mut queue.blocked);
    let mut unblocked = Vec::new();
    for mut append in blocked {
        let mut failed = None;
        append
            .after
            .retain(|dependency| match dependency.poll_now() {
                Some(Ok(())) => false,
                Some(Err(error)) => {
                    failed = Some(error);
                    false
                }
                None => !mutants::on(Mutant::M27),
            });
        if let Some(error) = failed {
            queue.bytes -= append.memory();
            unblocked.push((append, error));
        } else if append.after.is_empty() {
            queue.foreground.push_back(append);
        } else {
            queue.blocked.push(append);
        }
    }
    unblocked
}

fn is_same_put(record: &Record, seq: u64) -> bool {
    record.seq == seq && matches!(record.content, Content::Put { .. })
}

/// The index record of an entry in a frame.
pub(crate) fn record_of(entry: &FrameEntry, frame: &FrameRef, lsn: u64) -> Record {
    let content = match &entry.change {
        Change::Put {
            value,
            payload_offset,
            payload_len,
        } => {
            let locator = (*payload_len > 0).then_some(Locator {
                frame: *frame,
                payload_offset: *payload_offset,
                payload_len: *payload_len,
            });
            Content::Put {
                value: value.as_ref().into(),
                locator,
            }
        }
        Change::Delete => Content::Delete,
        Change::Merge(deltas) => Content::Merge(deltas.clone()),
    };
    let seq = if entry.seq == 0 { lsn } else { entry.seq };
    Record {
        stem_len: entry.key.stem_len as u16,
        seq,
        oldest: seq,
        content,
    }
}

/// Whether replay of a moved entry may replace what the index has.
pub(crate) fn move_applies(current: Option<&Record>, seq: u64) -> bool {
    current.is_some_and(|record| is_same_put(record, seq))
}
