//! C13 and C14: space is accounted for to the byte, a full disk stays usable, background work
//! comes to an end, and what is deleted and reclaimed is free again.

use crate::failure::{Verdict, property, violated};
use crate::ops::{Change, Fill};
use crate::world::World;

/// Rounds of background work after which it must have come to an end.
const ROUNDS_MAX: usize = 200;

impl World {
    /// C13: live + dead + free is the capacity.
    pub(crate) fn check_sum(&mut self) -> Verdict {
        let space = self.store().space();
        let sum = space.live + space.dead + space.free;
        let capacity = u64::from(self.knobs.extents) * u64::from(self.knobs.geometry.extent_bytes);
        if sum != space.capacity || space.capacity != capacity || space.reserve > space.free {
            return violated(property::SUM, format!("{space:?}, of {capacity} bytes"));
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
        if self.pumping && space.free > kept && self.profile != crate::generate::Profile::Faults {
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
            if self.tally.out_of_space > before {
                self.get(key, (3, 200), false)?;
                break;
            }
            if self.disk.is_cut() || self.store().failure().is_some() {
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

    /// C13: on a full disk deletes and reclamation work, and then puts do.
    pub(crate) fn relieve(&mut self) -> Verdict {
        let hot = self.pool.hot.len();
        let all: Vec<usize> = (hot..hot + self.pool.bulk.len()).collect();
        self.delete_surely(&all)?;
        if self.stopped() {
            return Ok(());
        }
        self.quiesce()?;
        if self.stopped() || self.book.damaged() {
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
        if self.tally.out_of_space > refused && space.free > space.reserve {
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

    /// C13: with everything deleted, and all background work done, no more extents are in
    /// use than the empty store used, apart from one open extent for each stream and what a
    /// checkpoint needs.
    pub(crate) fn back_to_the_baseline(&mut self) -> Verdict {
        self.snapshots.clear();
        let keys: Vec<usize> = (0..self.pool.hot.len() + self.pool.bulk.len()).collect();
        self.delete_surely(&keys)?;
        self.quiesce()?;
        let extent = u64::from(self.knobs.geometry.extent_bytes);
        // Naming an extent seals and evacuates it even if it is open, so after this only
        // what the last steps themselves wrote is left.
        for extent in 0..self.store().extents() {
            let result = self.call(|store| store.reclaim(Some(extent)))?;
            self.expect_background("reclaim", result)?;
        }
        self.quiesce()?;
        let space = self.store().space();
        if space.free + 3 * extent < self.free_at_first {
            let detail = format!("{space:?}, at first {} were free", self.free_at_first);
            return violated(property::BASELINE, detail);
        }
        self.compare_store()?;
        let change = Change::Put {
            key: 0,
            value: 3,
            payload: 1000,
            fill: Fill::Unique,
        };
        self.submit(&[change], false, None)?;
        let refused = self.tally.out_of_space;
        self.pump(8)?;
        if self.tally.out_of_space > refused {
            return violated(property::QUIESCES, "an empty store refuses a put");
        }
        self.compare_store()
    }
}
