//! Reclamation: evacuate what lives in an extent, verify the copies on stable storage, retire
//! the extent; the next checkpoint makes it free. And scrub: read everything, report damage.
//!
//! The order evacuate → index → retire → checkpoint is carried by types: an extent can be
//! retired only with an [`Evacuated`], which only a verified evacuation makes.

use std::collections::HashMap;

use crate::batch::Key;
use crate::codec::Reader;
use crate::disk::Read;
use crate::error::{Error, Place, Result};
use crate::extents::{Class, Extent, Extents, State};
use crate::frame::{
    self, Change, FrameEntry, FrameRef, Header, Kind, Stream, checksum_area, decode_entries,
};
use crate::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, CHECKSUM_UNIT, PAGE};
use crate::mutants::{self, Mutant};
use crate::record::{Content, Locator};
use crate::store::{Counters, Store};
use crate::sync::{Arc, lock, read, write};
use crate::table::{Table, TableId};
use crate::version::Version;
use crate::walk::{Walk, Walked};

/// Payload bytes that are moved in one frame, if the payload limit allows it.
const MOVE_BYTES: usize = 256 * 1024;

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

/// What lives in an extent.
#[derive(Default)]
struct Living {
    entries: Vec<(Key, u64, Arc<[u8]>, Locator)>,
    chunks: Vec<(TableId, u32, FrameRef)>,
    has_manifest: bool,
}

impl Living {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.chunks.is_empty() && !self.has_manifest
    }
}

impl Store {
    /// Evacuates one extent: the given one, or the one that is most worth it. It is free after
    /// the next checkpoint. `None`: nothing is worth it, or the given extent cannot be
    /// evacuated now (it is free, or its newest frames are not in a checkpoint yet).
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the extent has damage in something that lives; it stays as it is.
    /// [`Error::OutOfSpace`] if there is no room for the copies. Also what the checkpoint said
    /// that an evacuation may begin with; the extent may be evacuated all the same.
    pub fn reclaim(&self, extent: Option<u32>) -> Result<Option<u32>> {
        let _alone = lock(&self.maintenance);
        // Evacuation goes on when this fails: what it gives back may be what the checkpoint needs.
        let mut shortened = Ok(());
        let picked = match extent {
            Some(extent) => self.pick_given(extent),
            None => {
                shortened = self.shorten_log();
                self.pick_worthwhile()
            }
        };
        let Some((number, extent)) = picked else {
            return shortened.map(|()| None);
        };
        match self.evacuate(number, &extent) {
            Ok(Some(evacuated)) => {
                self.retire(&evacuated);
                shortened.map(|()| Some(number))
            }
            Ok(None) => shortened.map(|()| None),
            Err(error) => {
                if is_damage(&error) {
                    let live = self.live_in(number, extent.live);
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
        let reclaimed = self.reclaim(None)?.is_some();
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
        Ok(reclaimed)
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
            match self.find_living(number, &extent, &version) {
                Ok(living) if living.is_empty() => self.retire(&Evacuated { extent: number }),
                Ok(_) => {}
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

    /// An evacuation under load takes as long as it takes to fill half of the log, and a checkpoint
    /// that comes due meanwhile waits for it, until commits wait for the checkpoint. So it
    /// begins with a short log, unless space is short.
    fn shorten_log(&self) -> Result<()> {
        let is_long = lock(&self.log).tail_bytes >= self.options.tail_bytes_max / 2;
        if !is_long || self.is_short_of_space() || self.pick_worthwhile().is_none() {
            return Ok(());
        }
        self.checkpoint_locked()
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

    fn evacuate(&self, number: u32, extent: &Extent) -> Result<Option<Evacuated>> {
        let version = read(&self.index).version.clone();
        let mut living = self.find_living(number, extent, &version)?;
        if living.has_manifest {
            // The current manifest lies here: write it anew elsewhere, then look again.
            lock(&self.plan).dirty = true;
            self.checkpoint_locked()?;
            let version = read(&self.index).version.clone();
            living = self.find_living(number, extent, &version)?;
            if living.has_manifest {
                return Ok(None);
            }
        }
        let copies = self.copy_entries(&living)?;
        copies.iter().try_for_each(|copy| self.verify_copy(copy))?;
        self.move_chunks(&living)?;
        for (key, ..) in &living.entries {
            let now = self.current(key)?;
            if now.is_some_and(|r| r.locator().is_some_and(|l| l.frame.extent == number)) {
                return Ok(None);
            }
        }
        Ok(Some(Evacuated { extent: number }))
    }

    /// Walks the extent and looks every entry up.
    fn find_living(&self, number: u32, extent: &Extent, version: &Version) -> Result<Living> {
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
        let mut living = Living::default();
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
            match header.kind {
                Kind::Batch | Kind::Moved => self.find_entries(&header, &body, &mut living)?,
                Kind::Table => {
                    if let Some((table, chunk)) = chunks.get(&(number, header.offset)) {
                        living.chunks.push((*table, *chunk, header.frame_ref()));
                    }
                }
                Kind::Manifest => {
                    living.has_manifest |= roots.contains(&header.frame_ref());
                }
            }
        }
        Ok(living)
    }

    fn find_entries(&self, header: &Header, body: &[u8], living: &mut Living) -> Result<()> {
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
            if now == locator {
                living
                    .entries
                    .push((entry.key, current.seq, value, locator));
            }
        }
        Ok(())
    }

    /// Copies living entries, several to a frame; returns the copies.
    fn copy_entries(&self, living: &Living) -> Result<Vec<FrameRef>> {
        let payload_max = MOVE_BYTES.min(self.geometry().payload_bytes_max as usize);
        let body_max = BATCH_BYTES_MAX.min(self.geometry().batch_bytes_max());
        let mut copies = Vec::new();
        let mut entries: Vec<FrameEntry> = Vec::new();
        let mut payloads: Vec<Vec<u8>> = Vec::new();
        let (mut payload_len, mut body_len) = (0, 0);
        for (key, seq, value, locator) in &living.entries {
            let len = locator.payload_len as usize;
            let meta = key.as_bytes().len() + value.len();
            let full = payload_len + len > payload_max
                || body_len + meta > body_max
                || entries.len() == BATCH_ENTRIES_MAX;
            if full && !entries.is_empty() {
                let (entries, payloads) =
                    (std::mem::take(&mut entries), std::mem::take(&mut payloads));
                copies.push(self.append_moved(entries, payloads)?);
                (payload_len, body_len) = (0, 0);
            }
            let from = locator.payload_offset;
            let range = from..from + locator.payload_len;
            let payload = self.shared.medium.read_to_copy(&locator.frame, range)?;
            let change = Change::Put {
                value: value.as_ref().into(),
                payload_offset: payload_len as u32,
                payload_len: locator.payload_len,
            };
            entries.push(FrameEntry {
                key: key.clone(),
                seq: *seq,
                change,
            });
            payloads.push(payload);
            payload_len += len;
            body_len += meta;
        }
        if !entries.is_empty() {
            copies.push(self.append_moved(entries, payloads)?);
        }
        Ok(copies)
    }

    fn append_moved(&self, entries: Vec<FrameEntry>, payloads: Vec<Vec<u8>>) -> Result<FrameRef> {
        let bytes: usize = payloads.iter().map(Vec::len).sum();
        Counters::add(&self.counters.bytes_evacuated, bytes as u64);
        self.append_and_wait(|done| {
            let what = (Kind::Moved, Stream::Moved, Class::Reclamation);
            self.background(what, entries, payloads, done)
        })
    }

    /// Copies living table chunks and makes the index refer to the copies.
    fn move_chunks(&self, living: &Living) -> Result<()> {
        let mut moved: HashMap<(TableId, u32), FrameRef> = HashMap::new();
        for (table, chunk, frame) in &living.chunks {
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
        let found = {
            let log = lock(&self.log);
            log.extents
                .get(number)
                .copied()
                .map(|extent| (extent, log.superblock.checkpoint_lsn))
        };
        let Some((extent, checkpoint_lsn)) = found else {
            return Ok(Vec::new());
        };
        // A group in flight may have a place but no bytes yet: look only at what a checkpoint
        // covers.
        let stays = matches!(extent.state, State::Sealed | State::Open);
        if !stays || extent.last_lsn > checkpoint_lsn {
            return Ok(Vec::new());
        }
        let damage = self.scrub_frames(number, &extent)?;
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

    fn scrub_frames(&self, number: u32, extent: &Extent) -> Result<Vec<Error>> {
        let medium = &self.shared.medium;
        let mut damage = Vec::new();
        let mut walk = Walk::new(medium, number, extent.epoch, Read::PastCache);
        while walk.end() < extent.end {
            let place = Place {
                extent: number,
                offset: walk.end(),
            };
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
