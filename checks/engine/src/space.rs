//! C13 and C14: space is accounted for to the byte, a full disk stays usable, background work
//! comes to an end, and what is deleted and reclaimed is free again.

use shardstore::LiveCount;
use shardstore::limits::EXTENTS_START;

use crate::failure::{Verdict, property, violated};
use crate::generate::Profile;
use crate::ops::{Change, Fill};
use crate::world::World;

/// Extents full of old manifests that may be left when nothing lives.
const OLD_MANIFESTS_MAX: usize = 2;

/// Rounds of background work after which it must have come to an end.
const ROUNDS_MAX: usize = 200;

impl World {
    /// C13: live + dead + free is the capacity, which is the limit or, if more was taken when
    /// that was set, at most the disk.
    pub(crate) fn check_sum(&mut self) -> Verdict {
        let space = self.store().space();
        let sum = space.live + space.dead + space.free;
        let extent_bytes = u64::from(self.knobs.geometry.extent_bytes);
        let disk = u64::from(self.knobs.extents) * extent_bytes;
        let limit = match self.knobs.options.capacity_bytes {
            Some(bytes) => (bytes - EXTENTS_START).min(disk),
            None => disk,
        };
        let is_within = (limit..=disk).contains(&space.capacity);
        if sum != space.capacity || !is_within || space.reserve > space.free {
            return violated(
                property::SUM,
                format!("{space:?}, of {limit} to {disk} bytes"),
            );
        }
        Ok(())
    }

    /// C13: with nothing in memory, the counts that are carried on from checkpoint to checkpoint
    /// are what a walk through the index finds, and that is what the model has.
    pub(crate) fn check_counts(&mut self) -> Verdict {
        let result = self.call(|store| store.audit())?;
        // What honest faults kept a checkpoint from reading stays counted as live.
        let faults = self.profile == Profile::Faults;
        if faults && self.book.damaged() {
            return Ok(());
        }
        let Some(Some(audit)) = self.expect("audit", result)? else {
            return Ok(());
        };
        let extent_bytes = u64::from(self.knobs.geometry.extent_bytes);
        let is_wrong = |count: &&LiveCount| {
            let counted_right =
                count.counted == count.found || faults && count.counted >= count.found;
            let fits = count.found + count.index <= extent_bytes;
            let is_empty = count.found + count.index + count.counted == 0;
            !counted_right || !fits || count.is_free && !is_empty
        };
        if let Some(wrong) = audit.extents.iter().find(is_wrong) {
            return violated(property::COUNTS, format!("{wrong:?}"));
        }
        let payloads = || {
            let entries = self.model.state.entries.values();
            entries.filter(|entry| !entry.payload.is_empty())
        };
        let bytes: u64 = payloads().map(|entry| entry.payload.len() as u64).sum();
        let count = payloads().count() as u64;
        if (audit.payloads, audit.payload_bytes) != (count, bytes) {
            let (is, of) = (audit.payloads, audit.payload_bytes);
            let detail = format!("{is} payloads of {of} bytes live, it must be {count} of {bytes}");
            return violated(property::COUNTS, detail);
        }
        Ok(())
    }

    /// C13: a put is refused for want of space only when no extent is free but the reserve;
    /// what frees space may use part of that. Judged after a pump by hand: other calls free
    /// extents as well, so that afterwards there may be more than when the put was refused.
    pub(crate) fn check_little_room(&mut self, frees_space: bool) -> Verdict {
        let space = self.store().space();
        let extent = u64::from(self.knobs.geometry.extent_bytes);
        let kept = if frees_space {
            3 * extent
        } else {
            space.reserve
        };
        if self.pumping && space.free > kept && self.profile != Profile::Faults {
            return violated(property::ROOM, format!("{space:?}"));
        }
        Ok(())
    }

    /// Puts until the disk is full. C13: the put that finds no space leaves no trace.
    pub(crate) fn fill(&mut self) -> Verdict {
        let hot = self.pool.hot.len();
        let payload = self.knobs.geometry.payload_bytes_max as usize;
        let before = self.tally.out_of_space;
        for index in 0..400 {
            let key = hot + index % self.pool.bulk.len();
            let change = Change::Put {
                key,
                value: 9,
                payload,
                fill: Fill::Unique,
            };
            self.submit(&[change], false, None)?;
            self.pump(1)?;
            // Without power nothing can be read, whatever was refused before.
            if self.disk.is_cut() {
                break;
            }
            if self.tally.out_of_space > before {
                self.get(key, (3, 200), false)?;
                break;
            }
            if self.store().failure().is_some() {
                break;
            }
        }
        Ok(())
    }

    /// C14: background work comes to an end.
    pub(crate) fn quiesce(&mut self) -> Verdict {
        self.snapshots.clear();
        for round in 0..ROUNDS_MAX {
            self.pump(64)?;
            let mut worked = false;
            let compacted = self.call(|store| store.compact())?;
            let compacted = self.expect_background("compact", compacted)? == Some(true);
            let reclaimed = self.call(|store| store.reclaim(None))?;
            let reclaimed = self.expect_background("reclaim", reclaimed)?.flatten();
            worked |= compacted || reclaimed.is_some();
            self.say(|| {
                format!("   round {round}: compacted {compacted}, reclaimed {reclaimed:?}")
            });
            self.checkpoint()?;
            if !worked || self.disk.is_cut() || self.store().failure().is_some() {
                return Ok(());
            }
        }
        let space = self.store().space();
        violated(
            property::QUIESCES,
            format!("not after {ROUNDS_MAX} rounds: {space:?}"),
        )
    }

    /// C14: the steps that threads take come to an end as well. They write checkpoints where
    /// these free something.
    fn quiesce_by_steps(&mut self) -> Verdict {
        for _ in 0..ROUNDS_MAX {
            let compacted = self.call(|store| store.compact())?;
            let compacted = self.expect_background("compact", compacted)? == Some(true);
            let reclaimed = self.call(|store| store.reclaim_step())?;
            let reclaimed = self.expect_background("reclaim", reclaimed)? == Some(true);
            if !compacted && !reclaimed {
                return self.check_counts();
            }
        }
        let space = self.store().space();
        violated(
            property::QUIESCES,
            format!("steps go on after {ROUNDS_MAX}: {space:?}"),
        )
    }

    /// C13: on a full disk deletes and reclamation work, and then puts do.
    pub(crate) fn relieve(&mut self) -> Verdict {
        let hot = self.pool.hot.len();
        let all: Vec<usize> = (hot..hot + self.pool.bulk.len()).collect();
        self.delete_surely(&all)?;
        if self.stopped() {
            return Ok(());
        }
        self.quiesce()?;
        // After a checkpoint that failed there may be none for new data until one succeeds.
        if self.stopped() || self.book.background_failed || self.book.fired_now {
            return Ok(());
        }
        // What is live now are the hot keys: a handful of payloads. On a small disk these
        // may fill what is not reserve; then there is nothing to show.
        let space = self.store().space();
        let change = Change::Put {
            key: hot,
            value: 3,
            payload: 100,
            fill: Fill::Unique,
        };
        if self.submit(&[change], false, None)?.is_none() {
            return Ok(());
        }
        let refused = self.tally.out_of_space;
        self.pump(8)?;
        let is_refused = self.tally.out_of_space > refused && !self.book.explains_no_space();
        if is_refused && space.free > space.reserve {
            return violated(
                property::QUIESCES,
                format!("a put finds no space in {space:?}"),
            );
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.disk.is_cut() || self.store().failure().is_some() || self.disk.is_removed()
    }

    /// C13: deletes that say so find space even on a full disk, if background work runs.
    fn delete_surely(&mut self, keys: &[usize]) -> Verdict {
        for keys in keys.chunks(16) {
            for attempt in 0.. {
                let refused = self.tally.out_of_space;
                let changes: Vec<Change> = keys.iter().map(|&key| Change::Delete { key }).collect();
                self.submit(&changes, true, None)?;
                self.pump(8)?;
                if self.tally.out_of_space == refused || self.stopped() || self.book.damaged() {
                    break;
                }
                if attempt == 2 {
                    let space = self.store().space();
                    return violated(property::DELETES, format!("a delete is refused: {space:?}"));
                }
                self.quiesce()?;
            }
        }
        Ok(())
    }

    /// C13: what is in use is what the streams append to, and what the last checkpoint wrote. A
    /// full extent of old manifests may wait for the next one that has anything to say.
    fn check_all_is_free(&mut self) -> Verdict {
        let result = self.call(|store| store.audit())?;
        let Some(Some(audit)) = self.expect("audit", result)? else {
            return Ok(());
        };
        let is_kept = |count: &&LiveCount| !count.is_free && !count.is_open && count.is_covered;
        let kept: Vec<&LiveCount> = audit.extents.iter().filter(is_kept).collect();
        let is_expected = kept.len() <= OLD_MANIFESTS_MAX && kept.iter().all(|c| c.has_manifests);
        if is_expected {
            return Ok(());
        }
        violated(property::BASELINE, format!("these are in use: {kept:?}"))
    }

    /// C13: with everything deleted, and all background work done that the engine finds by
    /// itself, no more extents are in use than the open ones.
    pub(crate) fn back_to_the_baseline(&mut self) -> Verdict {
        self.snapshots.clear();
        let keys: Vec<usize> = (0..self.pool.hot.len() + self.pool.bulk.len()).collect();
        self.delete_surely(&keys)?;
        self.quiesce()?;
        self.quiesce_by_steps()?;
        self.check_all_is_free()?;
        self.compare_store()?;
        let space = self.store().space();
        let refused = self.tally.out_of_space;
        let change = Change::Put {
            key: 0,
            value: 3,
            payload: 1000,
            fill: Fill::Unique,
        };
        self.submit(&[change], false, None)?;
        self.pump(8)?;
        if self.tally.out_of_space != refused {
            let detail = format!("an empty store refuses a put: {space:?}");
            return violated(property::QUIESCES, detail);
        }
        self.compare_store()
    }
}
