//! Which disks hold the metadata: others are filled when there are too few, and those that are
//! full, slow or drained hold it no longer.
//!
//! What must always hold:
//! - a disk becomes a replica only after everything that the others have was copied to it, while
//!   nothing is under way;
//! - replicas of which only some have a batch that was given up are made the same as soon as writes
//!   are taken again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::copy::{copy_range, range_end};
use crate::gone;
use crate::keep::State;
use crate::limits::SLOW_FOR;
use crate::meta::META_PREFIX;
use crate::start;
use crate::table::Table;
use crate::{Result, Volume, VolumeError};

/// A disk that is being made a replica.
pub(crate) struct Fill {
    pub(crate) slot: usize,
    /// Which of [`RANGES`].
    range: usize,
    /// What lies before it is the same on both.
    cursor: Vec<u8>,
}

/// All metadata that is mirrored, but for the ring.
const RANGES: [(&[u8], &[u8]); 2] = [
    (&[META_PREFIX], &[META_PREFIX + 1]),
    (gone::PREFIX, gone::END),
];

impl Volume {
    /// Makes the replicas the same again, if a batch was given up that some of them have.
    pub(crate) fn settle_replicas(&self, state: &mut State) -> Result<bool> {
        let table = self.table();
        if !self.inner.mirror.differ() || table.refusal().is_some() {
            return Ok(false);
        }
        let settled = self.while_quiet(Vec::new(), vec![u8::MAX; 2], || {
            let settled = start::settle_replicas(&table, &table.replicas())?;
            if settled.len() < table.replicas().len() {
                self.keep_metadata_on(state, &settled)?;
            }
            self.inner.mirror.are_the_same();
            Ok(())
        })?;
        if !settled {
            std::thread::sleep(GATE_MAX);
        }
        Ok(true)
    }

    /// Keeps the metadata no longer on disks that are full, or slow, and stay it, if enough others
    /// have it: one full disk would refuse what all others can take, one slow disk would have
    /// everybody wait.
    pub(crate) fn drop_unfit(&self, state: &mut State) -> Result<bool> {
        let table = self.table();
        let is_full = |slot: &usize| {
            let disk = table.disk(*slot);
            disk.is_some_and(|disk| disk.engine.store().is_full())
        };
        let slow = self.slow(&table);
        let why = |slot: &usize| match is_full(slot) {
            true => Some("full"),
            false => (slow >> *slot & 1 == 1).then_some("slow"),
        };
        let (unfit, rest): (Vec<usize>, Vec<usize>) = table
            .replicas()
            .into_iter()
            .partition(|slot| why(slot).is_some());
        // Slow ones stay rather than that what is lost next could be the last.
        let least = match unfit.iter().any(is_full) {
            true => 2,
            false => usize::from(table.scheme().m) + 1,
        };
        if unfit.is_empty() || rest.len() < least.max(2) || table.refusal().is_some() {
            state.unfit_since = None;
            return Ok(false);
        }
        let since = *state.unfit_since.get_or_insert_with(Instant::now);
        let patience = match unfit.iter().any(is_full) {
            true => FULL_FOR,
            false => SLOW_FOR,
        };
        if since.elapsed() < patience {
            return Ok(false);
        }
        state.unfit_since = None;
        self.keep_metadata_on(state, &rest)?;
        for slot in unfit {
            let name = table.disk(slot).map_or("a disk", |disk| &disk.name);
            let why = why(&slot).unwrap_or("unfit");
            let event = format!("{name} is {why}: the metadata is kept on other disks");
            self.inner.keeping.say(event);
            state.unfit.push((slot, Instant::now() + UNFIT_PAUSE));
        }
        Ok(true)
    }

    /// Copies the metadata to another disk while there are too few replicas: a range of it.
    pub(crate) fn fill(&self, state: &mut State) -> Result<bool> {
        let table = self.table();
        let live: Vec<usize> = table.live().collect();
        if live.len() < table.membership.quorum() {
            return Ok(false);
        }
        let may_fill = |slot: usize| live.contains(&slot) || table.candidate() == Some(slot);
        if state.fill.as_ref().is_some_and(|fill| !may_fill(fill.slot)) {
            self.stop_filling(state);
        }
        state.unfit.retain(|(_, until)| Instant::now() < *until);
        if self.inner.mirror.is_spoilt() {
            self.stop_filling(state);
        }
        let fill = match &mut state.fill {
            Some(fill) => fill,
            none => {
                let replicas = table.replicas();
                let (leaving, staying): (Vec<usize>, Vec<usize>) =
                    replicas.iter().partition(|slot| table.is_draining(**slot));
                let candidate = table.candidate().filter(|_| table.is_single());
                // One that another disk takes the place of keeps it until it leaves.
                let succeeds = table.membership.successor().is_some();
                let is_fit = |slot: &&usize| {
                    !replicas.contains(slot)
                        && (succeeds || !table.is_draining(**slot))
                        && !state.unfit.iter().any(|(unfit, _)| unfit == *slot)
                        && table
                            .disk(**slot)
                            .is_some_and(|disk| disk.engine.store().takes_data())
                };
                let slot = match candidate {
                    // Everything goes through the mirror before it begins to be filled.
                    Some(_) if !self.all_is_mirrored() => return Ok(false),
                    Some(slot) => Some(slot).filter(|slot| is_fit(&slot)),
                    None if staying.len() < table.replicas_wanted() => {
                        live.iter().find(is_fit).copied()
                    }
                    None if !leaving.is_empty() => {
                        self.keep_metadata_on(state, &staying)?;
                        return Ok(true);
                    }
                    None => None,
                };
                let Some(slot) = slot else {
                    return Ok(false);
                };
                self.inner.mirror.set_filling(Some(slot));
                none.insert(Fill {
                    slot,
                    range: 0,
                    cursor: RANGES[0].0.to_vec(),
                })
            }
        };
        let end = RANGES[fill.range].1;
        let mirror = &self.inner.mirror;
        let (slot, cursor) = (fill.slot, fill.cursor.clone());
        let mut copied = Ok(false);
        let (mut differed, mut to) = (0, Vec::new());
        // What one replica cannot read another one can.
        for truth in table.replicas() {
            let truth = table.engine(truth)?;
            copied = range_end(truth, &cursor, end).and_then(|range| {
                to = range;
                self.while_quiet(cursor.clone(), to.clone(), || {
                    differed = copy_range(truth, table.engine(slot)?, &cursor, &to)?;
                    Ok(())
                })
            });
            match &copied {
                Err(VolumeError::Corrupt { .. } | VolumeError::Unreadable { .. }) => {}
                _ => break,
            }
        }
        match copied {
            Ok(true) => {}
            Ok(false) => {
                // Something there needs mending first.
                std::thread::sleep(GATE_MAX);
                return Ok(true);
            }
            Err(error) => {
                let slot = fill.slot;
                if table.is_single() {
                    self.give_up_growth(state, slot, &error.to_string())?;
                    return Ok(true);
                }
                state.pass_over(slot);
                self.stop_filling(state);
                return Err(error);
            }
        }
        let keeping = &self.inner.keeping;
        keeping.copied.fetch_add(differed as u64, Ordering::Relaxed);
        if to.as_slice() < end {
            fill.cursor = to;
            return Ok(true);
        }
        if let Some((from, _)) = RANGES.get(fill.range + 1) {
            (fill.range, fill.cursor) = (fill.range + 1, from.to_vec());
            return Ok(true);
        }
        let slot = fill.slot;
        // Nothing is under way while it becomes a replica, so that all or nothing that it took
        // is what the others took.
        mirror.gate(Vec::new(), vec![u8::MAX; 2]);
        let next = mirror.next();
        let added = match self.is_quiet_soon(next) && !mirror.is_spoilt() {
            true => self.add_replica(state, slot),
            false => Ok(()),
        };
        self.inner.mirror.open_gate();
        added?;
        Ok(true)
    }

    /// Does something while nobody changes metadata in a range: what did before is decided, and
    /// what comes waits. `false`: it was not done, because something before is not decided soon.
    pub(crate) fn while_quiet(
        &self,
        from: Vec<u8>,
        to: Vec<u8>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        let mirror = &self.inner.mirror;
        mirror.gate(from, to);
        let next = mirror.next();
        let done = match self.is_quiet_soon(next) {
            true => work().map(|()| true),
            false => Ok(false),
        };
        mirror.open_gate();
        done
    }

    /// Waits a little until what began before is decided.
    fn is_quiet_soon(&self, next: u64) -> bool {
        let mirror = &self.inner.mirror;
        let until = Instant::now() + GATE_MAX;
        while !mirror.is_quiet(next) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(GATE_PAUSE);
        }
        true
    }

    fn add_replica(&self, state: &mut State, slot: usize) -> Result<()> {
        let table = self.table();
        let mut replicas = table.replicas();
        replicas.push(slot);
        let mut next = Table::clone(&table);
        let grows = table.is_single();
        if grows {
            // A member first, and a replica when both know of it: a disk that knew of it alone
            // could be started alone, while the other one went on as if nothing had happened.
            next.membership = self.with_second_disk(&table, slot, state.succeeds)?;
            state.has_told = true;
            state.write(&table.membership, &mut next)?;
        }
        if let Some(successor) = next.membership.successor() {
            // It is read from now on, so that nobody has a view of the other one when that leaves.
            replicas.sort_by_key(|slot| *slot != successor);
            state.next_look = Some(Instant::now() + LEAVING_PAUSE);
        }
        let before = next.membership.clone();
        next.slices = Arc::new(table.slices.with_disks(&replicas));
        state.write(&before, &mut next)?;
        state.fill = None;
        state.has_told = false;
        self.install(next);
        if grows {
            self.say_added(slot);
        }
        Ok(())
    }

    /// Has the metadata on these replicas only.
    fn keep_metadata_on(&self, state: &mut State, replicas: &[usize]) -> Result<()> {
        let table = self.table();
        let mut next = Table::clone(&table);
        next.slices = Arc::new(table.slices.with_disks(replicas));
        state.write(&table.membership, &mut next)?;
        self.install(next);
        Ok(())
    }

    pub(crate) fn stop_filling(&self, state: &mut State) {
        state.fill = None;
        self.inner.mirror.set_filling(None);
    }
}

/// How long batches wait for a gate at most before it is opened again.
const GATE_MAX: Duration = Duration::from_millis(200);

/// How long a disk that another one takes the place of stays at least, empty or not: as long as
/// anybody reads metadata in one go.
const LEAVING_PAUSE: Duration = Duration::from_secs(2);

/// How often it is looked whether those before it are decided.
const GATE_PAUSE: Duration = Duration::from_micros(200);

/// How long a replica is full before others do without it.
const FULL_FOR: Duration = Duration::from_secs(1);

/// How long one that was full or slow is not filled again.
const UNFIT_PAUSE: Duration = Duration::from_secs(600);
