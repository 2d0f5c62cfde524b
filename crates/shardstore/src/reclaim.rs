//! Reclamation: evacuate what lives in an extent, verify the copies on stable storage, retire
//! the extent; the next checkpoint makes it free. And scrub: read everything, report damage.
//!
//! The order evacuate → index → retire → checkpoint is carried by types: an extent can be
//! retired only with an [`Evacuated`], which only a verified evacuation makes.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::batch::Key;
use crate::codec::Reader;
use crate::disk::Read;
use crate::error::{Error, Place, Result};
use crate::extents::{Class, Extent, Extents, State};
use crate::frame::{
    self, Change, FrameEntry, FrameRef, Header, Kind, Stream, checksum_area, decode_entries,
};
use crate::limits::{BATCH_ENTRIES_MAX, CHECKSUM_UNIT, PAGE};
use crate::mutants::{self, Mutant};
use crate::record::{Content, Locator, Record};
use crate::store::{Counters, Store};
use crate::sync::{Arc, lock, read, write};
use crate::table::{Table, TableId};
use crate::version::Version;
use crate::walk::{Walk, Walked};

/// Payload bytes, and bytes of keys and values, that are moved in one frame if its limits allow
/// it. Whoever reads one of its entries reads the whole frame, or one unit and all of the body:
/// many small entries together would make each of them a large one.
const MOVE_BYTES: usize = 16 * 1024;
const MOVE_BODY_BYTES: usize = 4 * 1024;

/// Bytes that a scrub reads in one go, and then rests: so few that whoever waits for the disk or for
/// a processor meanwhile hardly notices.
const SCRUB_PIECE_BYTES: u32 = 512 * 1024;

/// Bytes that are copied together, in several frames one behind the other: only the first begins
/// on a fresh page, so that copies are packed about as tightly as what they are of. More would
/// make a foreground batch wait that shares the flush, and take more of the memtable at a time.
const MOVE_GROUP_BYTES: usize = 64 * 1024;

/// Extents without anything alive that one checkpoint looks through, while there is no hurry,
/// and while new data may wait for them: then each checkpoint must give back far more than it
/// takes.
const DEAD_AT_ONCE_MAX: usize = 4;
const DEAD_AT_ONCE_SHORT_MAX: usize = 32;

/// Extents that are evacuated before a checkpoint makes them free, while there is no hurry.
const RETIRED_MAX: usize = 8;

/// Proof that nothing in an extent is referred to any more.
struct Evacuated {
    extent: u32,
}

/// Something in an extent that lives.
enum Living {
    Entry(LivingEntry),
    /// A chunk of an index table.
    Chunk(TableId, u32, FrameRef),
    /// A part of the current manifest.
    Manifest,
}

/// An entry whose payload lives.
struct LivingEntry {
    key: Key,
    seq: u64,
    value: Arc<[u8]>,
    locator: Locator,
}

/// Living entries that are copied together, in one frame.
#[derive(Default)]
struct Part {
    entries: Vec<LivingEntry>,
    payload_len: usize,
    body_len: usize,
}

/// An evacuation under way.
#[derive(Default)]
struct Evacuation {
    /// The frame that is being filled, and those before it that are not written yet.
    part: Part,
    full: Vec<Part>,
    full_bytes: usize,
    chunks: Vec<(TableId, u32, FrameRef)>,
    has_manifest: bool,
    /// Whether something refers to the extent in spite of its copy.
    is_referred_to: bool,
    /// Whether it was given up before the extent's end.
    is_cut_short: bool,
    /// Why a checkpoint meanwhile failed.
    checkpoint_failure: Option<Error>,
}

impl LivingEntry {
    /// What it takes of a frame's body, about.
    fn body_len(&self) -> usize {
        self.key.as_bytes().len() + self.value.len()
    }
}

impl Evacuation {
    /// The next entry begins another frame.
    fn end_part(&mut self) {
        let part = std::mem::take(&mut self.part);
        if !part.entries.is_empty() {
            self.full_bytes += part.payload_len + part.body_len;
            self.full.push(part);
        }
    }
}

impl Part {
    fn push(&mut self, entry: LivingEntry) {
        self.payload_len += entry.locator.payload_len as usize;
        self.body_len += entry.body_len();
        self.entries.push(entry);
    }
}

impl Store {
    /// Evacuates one extent: the given one, or the one that is most worth it. It is free after
    /// the next checkpoint. `None`: nothing is worth it, or the given extent cannot be
    /// evacuated now (it is free, or its newest frames are not in a checkpoint yet).
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the extent has damage in something that lives; it stays as it is.
    /// [`Error::OutOfSpace`] if there is no room for the copies. Also what a checkpoint said that
    /// came due meanwhile; the extent may be evacuated all the same.
    pub fn reclaim(&self, extent: Option<u32>) -> Result<Option<u32>> {
        let _alone = lock(&self.maintenance);
        let picked = match extent {
            Some(extent) => self.pick_given(extent),
            None => self.pick_worthwhile(),
        };
        let Some((number, extent)) = picked else {
            return Ok(None);
        };
        lock(&self.plan).evacuating = Some(number);
        let evacuated = self.evacuate(number, &extent);
        lock(&self.plan).evacuating = None;
        match evacuated {
            Ok((evacuated, checkpoint)) => {
                if let Some(evacuated) = &evacuated {
                    self.retire(evacuated);
                }
                match checkpoint {
                    Some(error) => Err(error),
                    None => Ok(evacuated.map(|evacuated| evacuated.extent)),
                }
            }
            Err(error) => {
                if is_damage(&error) {
                    // A part of it may have been moved by now.
                    let now = lock(&self.log)
                        .extents
                        .get(number)
                        .map(|extent| extent.live);
                    let live = self.live_in(number, now.unwrap_or(extent.live));
                    lock(&self.plan).quarantined.insert(number, live);
                    self.report_damage(&error);
                }
                Err(error)
            }
        }
    }

    /// Whether the next extent that is opened may be one of the last for new data.
    pub(crate) fn is_short_of_space(&self) -> bool {
        is_short(&lock(&self.log).extents)
    }

    /// One step of reclamation as a thread runs it: evacuates what is worth it, and writes a
    /// checkpoint when that makes extents free. `false`: nothing to do.
    pub fn reclaim_step(&self) -> Result<bool> {
        // Where there is no room for copies, a checkpoint may have some to give back.
        let (reclaimed, full) = match self.reclaim(None) {
            Err(Error::OutOfSpace) => (false, true),
            reclaimed => (reclaimed?.is_some(), false),
        };
        let is_short = self.is_short_of_space();
        // Dead manifests alone are no reason: the checkpoint would write the next one.
        let dead = self.find_dead();
        let dead = dead
            .iter()
            .filter(|(_, extent)| extent.stream != Stream::Manifest)
            .count();
        let waiting = dead
            + lock(&self.log)
                .extents
                .retired(self.shared.snapshots.oldest())
                .len();
        // What the memtable says is not counted as dead before a checkpoint. Under pressure one
        // is worth it after deletes, or after enough was written that may have overwritten.
        let may_hide_dead = is_short && {
            let log = lock(&self.log);
            log.deletes_since_checkpoint
                || log.tail_bytes >= u64::from(self.geometry().extent_bytes) / 4
        };
        let may_hide_dead = may_hide_dead && !read(&self.index).active.is_empty();
        let enough = if reclaimed && !is_short {
            RETIRED_MAX
        } else {
            1
        };
        if waiting >= enough || (!reclaimed && may_hide_dead) {
            self.checkpoint()?;
            return Ok(true);
        }
        match full {
            true => Err(Error::OutOfSpace),
            false => Ok(reclaimed),
        }
    }

    /// Retires sealed extents in which nothing lives, by the counts and by a look at every
    /// frame. Needs no space, so that a checkpoint always gives back what earlier ones used.
    pub(crate) fn retire_dead(&self) -> Result<()> {
        let changed = {
            let plan = lock(&self.plan);
            let log = lock(&self.log);
            self.has_changes(&plan, &log, &read(&self.index))
        };
        let version = read(&self.index).version.clone();
        let at_once = if self.is_short_of_space() {
            DEAD_AT_ONCE_SHORT_MAX
        } else {
            DEAD_AT_ONCE_MAX
        };
        for (number, extent) in self.find_dead().into_iter().take(at_once) {
            if extent.stream == Stream::Manifest && !changed {
                continue;
            }
            let mut lives = false;
            let walked = self.each_living(number, &extent, &version, &mut |_| {
                lives = true;
                Ok(ControlFlow::Break(()))
            });
            match walked {
                Ok(()) if lives => {}
                Ok(()) => self.retire(&Evacuated { extent: number }),
                Err(error) if is_damage(&error) => {
                    lock(&self.plan).quarantined.insert(number, 0);
                    self.report_damage(&error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sealed extents in which nothing lives, by the counts.
    fn find_dead(&self) -> Vec<(u32, Extent)> {
        let index_live = self.index_live();
        let plan = lock(&self.plan);
        let log = lock(&self.log);
        let superblock = &log.superblock;
        let is_dead = |number: &u32, extent: &Extent| {
            extent.state == State::Sealed
                && extent.last_lsn <= superblock.checkpoint_lsn
                && extent.live == 0
                && !index_live.contains_key(number)
                && !superblock.roots.iter().any(|root| root.extent == *number)
                && !plan.quarantined.contains_key(number)
                && (plan.evacuating != Some(*number) || mutants::on(Mutant::M31))
        };
        let numbered = (0..).zip(log.extents.used().iter().copied());
        numbered
            .filter(|(number, extent)| is_dead(number, extent))
            .collect()
    }

    fn pick_given(&self, number: u32) -> Option<(u32, Extent)> {
        // Between groups, so that no group in flight has a place in the extent.
        let _turn = lock(&self.pump_turn);
        let mut log = lock(&self.log);
        let extent = *log.extents.get(number)?;
        if extent.last_lsn > log.superblock.checkpoint_lsn {
            return None;
        }
        if extent.state == State::Open {
            log.extents.seal(extent.stream);
        }
        let extent = *log.extents.get(number)?;
        (extent.state == State::Sealed).then_some((number, extent))
    }

    fn pick_worthwhile(&self) -> Option<(u32, Extent)> {
        let index_live = self.index_live();
        let plan = lock(&self.plan);
        let log = lock(&self.log);
        let extent_bytes = u64::from(self.geometry().extent_bytes);
        let is_short = is_short(&log.extents);
        // What waits for old snapshots to end is copied already: more would only use up the
        // space that it cannot give back yet.
        if log.extents.retired_count() >= RETIRED_MAX {
            return None;
        }
        let candidates = log
            .extents
            .used()
            .iter()
            .enumerate()
            .filter_map(|(number, extent)| {
                let number = number as u32;
                let covered = extent.last_lsn <= log.superblock.checkpoint_lsn;
                if extent.state != State::Sealed || !covered {
                    return None;
                }
                let live = extent.live + index_live.get(&number).copied().unwrap_or(0);
                let stuck = plan
                    .quarantined
                    .get(&number)
                    .is_some_and(|then| live >= *then);
                // What a copy of everything that lives would take, at most: a frame's overhead
                // and padding are there in the copy as well.
                let dense = match extent.stream {
                    Stream::Log => extent_bytes,
                    Stream::Moved => extent.peak,
                    Stream::Index => u64::from(extent.end),
                    Stream::Manifest => 0,
                };
                // An eighth must come back; under pressure a sixteenth will do.
                let worth = if is_short {
                    dense - dense / 16
                } else {
                    dense - dense / 8
                };
                // In which nothing lives, checkpoints find by themselves.
                let is_worth = live < worth && live > 0;
                (!stuck && is_worth).then_some((live, extent.last_lsn, number, *extent))
            });
        let best = candidates.min_by_key(|(live, last_lsn, ..)| (*live, *last_lsn))?;
        Some((best.2, best.3))
    }

    /// Bytes of table chunks in each extent, with the padding to the next group.
    fn index_live(&self) -> HashMap<u32, u64> {
        let version = read(&self.index).version.clone();
        let mut live = HashMap::new();
        for chunk in version.tables().flat_map(|table| &table.meta.chunks) {
            let padded = chunk.len().next_multiple_of(PAGE as u64);
            *live.entry(chunk.extent).or_insert(0) += padded;
        }
        live
    }

    fn live_in(&self, number: u32, data: u64) -> u64 {
        data + self.index_live().get(&number).copied().unwrap_or(0)
    }

    /// Copies what lives in the extent, entries part by part, so that memory holds one part at a
    /// time, and writes the checkpoints that come due meanwhile: commits would wait for them.
    /// Returns why one of those failed: the next one may succeed when this extent can be retired
    /// with it, so that evacuation goes on as long as memory does not hold more than it may.
    fn evacuate(&self, number: u32, extent: &Extent) -> Result<(Option<Evacuated>, Option<Error>)> {
        let mut evacuation = self.move_living(number, extent)?;
        if evacuation.has_manifest {
            // The current manifest lies here: write it anew elsewhere, then look again.
            lock(&self.plan).dirty = true;
            self.checkpoint_locked()?;
            evacuation = self.move_living(number, extent)?;
        }
        let Evacuation {
            has_manifest,
            is_referred_to,
            is_cut_short,
            ..
        } = evacuation;
        let is_done = !has_manifest && !is_referred_to && !is_cut_short;
        let evacuated = is_done.then_some(Evacuated { extent: number });
        Ok((evacuated, evacuation.checkpoint_failure))
    }

    fn move_living(&self, number: u32, extent: &Extent) -> Result<Evacuation> {
        let version = read(&self.index).version.clone();
        let mut evacuation = Evacuation::default();
        self.each_living(number, extent, &version, &mut |living| {
            match living {
                Living::Entry(entry) => {
                    if !self.has_room(&evacuation.part, &entry) {
                        evacuation.end_part();
                        let next = entry.locator.payload_len as usize + entry.body_len();
                        if evacuation.full_bytes + next > self.move_group_bytes() {
                            self.move_parts(&mut evacuation)?;
                        }
                        if evacuation.is_cut_short {
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                    evacuation.part.push(entry);
                }
                Living::Chunk(table, chunk, frame) => {
                    evacuation.chunks.push((table, chunk, frame));
                }
                Living::Manifest => evacuation.has_manifest = true,
            }
            Ok(ControlFlow::Continue(()))
        })?;
        evacuation.end_part();
        self.move_parts(&mut evacuation)?;
        self.move_chunks(&evacuation.chunks)?;
        Ok(evacuation)
    }

    /// Of a small extent a part, so that checkpoints come between parts there as well.
    fn move_group_bytes(&self) -> usize {
        if mutants::on(Mutant::M31) {
            // What this bug breaks is between groups: extents as small as those of the checks
            // have too few of them to meet it soon.
            return 0;
        }
        MOVE_GROUP_BYTES.min(self.geometry().extent_bytes as usize / 5 * 3)
    }

    /// Whether one frame can carry another entry.
    fn has_room(&self, part: &Part, entry: &LivingEntry) -> bool {
        let payload_max = MOVE_BYTES.min(self.geometry().payload_bytes_max as usize);
        let body_max = MOVE_BODY_BYTES.min(self.geometry().batch_bytes_max());
        part.payload_len + entry.locator.payload_len as usize <= payload_max
            && part.body_len + entry.body_len() <= body_max
            && part.entries.len() < BATCH_ENTRIES_MAX
    }

    /// Copies the entries at hand and verifies the copies on stable storage.
    fn move_parts(&self, evacuation: &mut Evacuation) -> Result<()> {
        let parts = std::mem::take(&mut evacuation.full);
        evacuation.full_bytes = 0;
        if parts.is_empty() {
            return Ok(());
        }
        for copy in self.copy_parts(&parts)? {
            self.verify_copy(&copy)?;
        }
        let moved = parts.iter().flat_map(|part| &part.entries);
        for LivingEntry { key, locator, .. } in moved {
            let now = self.current(key)?;
            let now = now.as_ref().and_then(Record::locator);
            evacuation.is_referred_to |=
                now.is_some_and(|now| now.frame.extent == locator.frame.extent);
        }
        match &evacuation.checkpoint_failure {
            None if self.checkpoint_is_due() => {
                evacuation.checkpoint_failure = self.checkpoint_locked().err();
            }
            // What was moved so far stays moved, and the extent is looked through again.
            Some(_) => evacuation.is_cut_short = self.checkpoint_is_overdue(),
            None => {}
        }
        Ok(())
    }

    /// Walks the extent, looks everything in it up, and hands on what lives, until told to stop.
    fn each_living(
        &self,
        number: u32,
        extent: &Extent,
        version: &Version,
        found: &mut dyn FnMut(Living) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let chunks: HashMap<(u32, u32), (TableId, u32)> = version
            .tables()
            .flat_map(|table| {
                let id = table.meta.id;
                let numbered = table.meta.chunks.iter().enumerate();
                numbered.map(move |(chunk, at)| ((at.extent, at.offset), (id, chunk as u32)))
            })
            .filter(|((extent, _), _)| *extent == number)
            .collect();
        let roots = lock(&self.log).superblock.roots.clone();
        let mut walk = Walk::new(&self.shared.medium, number, extent.epoch, Read::Blocking);
        while walk.end() < extent.end {
            let place = Place {
                extent: number,
                offset: walk.end(),
            };
            let (header, body) = match walk.step()? {
                Walked::Frame { header, body } => (header, body),
                Walked::BadBody | Walked::End => return Err(unreadable(place)),
            };
            let flow = match header.kind {
                Kind::Batch | Kind::Moved => self.living_entries(&header, &body, found)?,
                Kind::Table => match chunks.get(&(number, header.offset)) {
                    Some((table, chunk)) => {
                        found(Living::Chunk(*table, *chunk, header.frame_ref()))?
                    }
                    None => ControlFlow::Continue(()),
                },
                Kind::Manifest if roots.contains(&header.frame_ref()) => found(Living::Manifest)?,
                Kind::Manifest => ControlFlow::Continue(()),
            };
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn living_entries(
        &self,
        header: &Header,
        body: &[u8],
        found: &mut dyn FnMut(Living) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let place = Place {
            extent: header.extent,
            offset: header.offset,
        };
        let entries = decode_entries(header, body).ok_or_else(|| unreadable(place))?;
        for entry in entries {
            let Change::Put {
                payload_offset,
                payload_len,
                ..
            } = entry.change
            else {
                continue;
            };
            if payload_len == 0 {
                continue;
            }
            let locator = Locator {
                frame: header.frame_ref(),
                payload_offset,
                payload_len,
            };
            let Some(current) = self.current(&entry.key)? else {
                continue;
            };
            let Content::Put {
                value,
                locator: Some(now),
            } = current.content
            else {
                continue;
            };
            if now != locator {
                continue;
            }
            let living = LivingEntry {
                key: entry.key,
                seq: current.seq,
                value,
                locator,
            };
            if found(Living::Entry(living))?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Copies entries, each part into a frame of its own.
    fn copy_parts(&self, parts: &[Part]) -> Result<Vec<FrameRef>> {
        let mut frames = Vec::with_capacity(parts.len());
        for part in parts {
            frames.push(self.read_part(part)?);
        }
        self.append_all_and_wait(frames.into_iter().map(|(entries, payloads)| {
            move |done| {
                let what = (Kind::Moved, Stream::Moved, Class::Reclamation);
                self.background(what, entries, payloads, done)
            }
        }))
    }

    /// The entries of a part as they are to stand in its frame, and their payloads.
    fn read_part(&self, part: &Part) -> Result<(Vec<FrameEntry>, Vec<Vec<u8>>)> {
        let mut entries = Vec::with_capacity(part.entries.len());
        let mut payloads = Vec::with_capacity(part.entries.len());
        let mut payload_offset = 0;
        for entry in &part.entries {
            let Locator {
                frame,
                payload_offset: from,
                payload_len,
            } = entry.locator;
            let payload = self
                .shared
                .medium
                .read_to_copy(&frame, from..from + payload_len)?;
            let change = Change::Put {
                value: entry.value.as_ref().into(),
                payload_offset,
                payload_len,
            };
            entries.push(FrameEntry {
                key: entry.key.clone(),
                seq: entry.seq,
                change,
            });
            payloads.push(payload);
            payload_offset += payload_len;
        }
        Counters::add(&self.counters.bytes_evacuated, u64::from(payload_offset));
        Ok((entries, payloads))
    }

    /// Copies living table chunks and makes the index refer to the copies.
    fn move_chunks(&self, living: &[(TableId, u32, FrameRef)]) -> Result<()> {
        let mut moved: HashMap<(TableId, u32), FrameRef> = HashMap::new();
        for (table, chunk, frame) in living {
            let all = 0..frame.payload_len;
            let payload = self.shared.medium.read_to_copy(frame, all)?;
            Counters::add(&self.counters.bytes_evacuated, payload.len() as u64);
            let copy = self.append_chunk(*table, *chunk, payload, Class::Reclamation)?;
            self.verify_copy(&copy)?;
            moved.insert((*table, *chunk), copy);
        }
        if moved.is_empty() {
            return Ok(());
        }
        lock(&self.plan).dirty = true;
        let mut index = write(&self.index);
        let mut version = (*index.version).clone();
        for table in version.levels.iter_mut().flatten() {
            let mut meta = table.meta.clone();
            let mut changed = false;
            for (chunk, at) in meta.chunks.iter_mut().enumerate() {
                if let Some(copy) = moved.get(&(meta.id, chunk as u32)) {
                    *at = *copy;
                    changed = true;
                }
            }
            if changed {
                *table = Arc::new(Table { meta });
            }
        }
        index.version = Arc::new(version);
        Ok(())
    }

    fn retire(&self, evacuated: &Evacuated) {
        let mut log = lock(&self.log);
        let applied = read(&self.index).applied_lsn;
        log.extents.retire(evacuated.extent, applied);
        if mutants::on(Mutant::M7) {
            log.extents.recycle(&[evacuated.extent]);
        }
        drop(log);
        lock(&self.plan).quarantined.remove(&evacuated.extent);
    }

    /// Reads and verifies every frame of one extent; returns the damage, and keeps it for
    /// [`damage`](Store::damage).
    pub fn scrub(&self, number: u32) -> Result<Vec<Error>> {
        self.scrub_gently(number, &mut |_| {})
    }

    /// As [`scrub`](Store::scrub). `rest` is called each time that a piece was read, half
    /// a megabyte long or a little more, with what that took; reading goes on when it returns. No lock is
    /// held meanwhile.
    pub fn scrub_gently(&self, number: u32, rest: &mut dyn FnMut(Duration)) -> Result<Vec<Error>> {
        let found = {
            // Between groups: what has a place has its bytes, and they are durable.
            let _turn = lock(&self.pump_turn);
            let log = lock(&self.log);
            // Unless that failed: then only of what a checkpoint covers.
            let covered = match &log.failure {
                Some(_) => log.superblock.checkpoint_lsn,
                None => u64::MAX,
            };
            let is_whole = |extent: &Extent| extent.last_lsn <= covered;
            log.extents.get(number).copied().filter(is_whole)
        };
        let stays = |extent: &Extent| matches!(extent.state, State::Sealed | State::Open);
        let Some(extent) = found.filter(stays) else {
            return Ok(Vec::new());
        };
        let damage = self.scrub_frames(number, &extent, rest)?;
        let now = lock(&self.log)
            .extents
            .get(number)
            .map(|extent| extent.epoch);
        if now != Some(extent.epoch) {
            // It was reset meanwhile; what was read there says nothing.
            return Ok(Vec::new());
        }
        damage.iter().for_each(|error| self.report_damage(error));
        Ok(damage)
    }

    fn scrub_frames(
        &self,
        number: u32,
        extent: &Extent,
        rest: &mut dyn FnMut(Duration),
    ) -> Result<Vec<Error>> {
        let medium = &self.shared.medium;
        let mut damage = Vec::new();
        let (mut began, mut rested_at) = (Instant::now(), 0);
        let mut walk = Walk::new(medium, number, extent.epoch, Read::PastCache);
        while walk.end() < extent.end {
            let place = Place {
                extent: number,
                offset: walk.end(),
            };
            if place.offset.saturating_sub(rested_at) >= SCRUB_PIECE_BYTES {
                rested_at = place.offset;
                rest(began.elapsed());
                // It is on its way to be closed, or is of no use any more.
                self.refuse_if_stopped()?;
                began = Instant::now();
            }
            let before = damage.len();
            match walk.step_or_end(&mut |error| damage.push(error)) {
                Walked::Frame { header, body } => {
                    Counters::add(&self.counters.scrubbed_bytes, header.len());
                    if !mutants::on(Mutant::M29) {
                        damage.extend(self.scrub_payload(&header, &body));
                    }
                }
                Walked::BadBody => damage.push(unreadable(place)),
                Walked::End => {
                    if damage.len() == before {
                        damage.push(unreadable(place));
                    }
                    if walk.resync(extent.end, true)?.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(damage)
    }

    fn scrub_payload(&self, header: &Header, body: &[u8]) -> Option<Error> {
        let medium = &self.shared.medium;
        let frame = header.frame_ref();
        let mut unit = vec![0; CHECKSUM_UNIT.min(frame.payload_len as usize)];
        for (number, start) in (0..frame.payload_len).step_by(CHECKSUM_UNIT).enumerate() {
            let len = (frame.payload_len - start).min(CHECKSUM_UNIT as u32) as usize;
            let offset = frame.offset + frame.head_len() as u32 + start;
            let place = Place {
                offset,
                ..frame.place()
            };
            if let Err(error) = medium.read(place, &mut unit[..len], Read::PastCache) {
                return Some(error);
            }
            if !frame::unit_holds(&medium.checksummer, body, number, &unit[..len]) {
                return Some(Error::Corrupt {
                    place: frame.place(),
                    what: format!(
                        "payload unit {number} does not match its checksum ({})",
                        describe(header, body)
                    ),
                });
            }
        }
        None
    }
}

fn is_short(extents: &Extents) -> bool {
    extents.free_count() <= extents.reserve() + 1
}

/// Whether the medium is why: what stands there is wrong, or cannot be read.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Disk(_))
}

/// What a frame carries, for messages.
fn describe(header: &Header, body: &[u8]) -> String {
    match header.kind {
        Kind::Batch | Kind::Moved => match decode_entries(header, body) {
            Some(entries) => {
                let keys = entries
                    .iter()
                    .take(3)
                    .map(|e| e.key.as_bytes().escape_ascii());
                let keys: Vec<String> = keys.map(|key| key.to_string()).collect();
                format!("{} entries, keys {}", entries.len(), keys.join(", "))
            }
            None => "a batch".to_owned(),
        },
        Kind::Table => {
            let rest = body
                .get(checksum_area(header.payload_len)..)
                .unwrap_or_default();
            let table = Reader::new(rest).u64().unwrap_or_default();
            format!("a chunk of index table {table:#x}")
        }
        Kind::Manifest => "a part of a manifest".to_owned(),
    }
}

fn unreadable(place: Place) -> Error {
    Error::Corrupt {
        place,
        what: "no valid frame follows the one that ends here".to_owned(),
    }
}
