//! Compaction: levelled, a table at a time, so that each step is small.
//!
//! Invariants: inputs are given up only after the outputs were read back from stable storage;
//! a tombstone goes only at the bottom, and only when no extent can still hold an older frame
//! of its key.

use crate::checkpoint::TablesWriter;
use crate::disk::Read;
use crate::error::Result;
use crate::extents::{Class, Extents, State};
use crate::merge::{LevelCursor, Merged, Source};
use crate::mutants::{self, Mutant};
use crate::record::{Content, Record};
use crate::store::{Counters, Store};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, lock, read, write};
use crate::table::Table;
use crate::version::{LEVELS, Version, overlapping};

/// Tables in level 0 at which they are merged into level 1.
const LEVEL0_TABLES: usize = 4;
/// How much larger each level is than the one above.
const LEVEL_FACTOR: u64 = 10;

/// One step: `upper` (newest first) and what they overlap below go into `level`.
struct Job {
    upper_level: usize,
    upper: Vec<Arc<Table>>,
    level: usize,
    lower: Vec<Arc<Table>>,
}

impl Store {
    /// One step of compaction. `false`: none is due.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`](crate::Error::OutOfSpace) if the reserve has no room for the
    /// outputs; nothing was given up then.
    pub fn compact(&self) -> Result<bool> {
        let _alone = (!mutants::on(Mutant::M14)).then(|| lock(&self.maintenance));
        let version = read(&self.index).version.clone();
        let Some(job) = self.pick(&version) else {
            return Ok(false);
        };
        self.run(&version, &job)?;
        Counters::add(&self.counters.compactions, 1);
        Ok(true)
    }

    fn pick(&self, version: &Version) -> Option<Job> {
        if version.levels[0].len() >= LEVEL0_TABLES {
            return Some(level0_job(version));
        }
        let mut target = self.options.table_bytes as u64 * LEVEL0_TABLES as u64;
        for level in 1..LEVELS - 1 {
            let tables = &version.levels[level];
            let bytes: u64 = tables.iter().map(|table| table.meta.bytes).sum();
            if bytes > target {
                return Some(self.next_of(version, level));
            }
            target = target.saturating_mul(LEVEL_FACTOR);
        }
        self.pick_purge(version)
    }

    fn next_of(&self, version: &Version, level: usize) -> Job {
        let tables = &version.levels[level];
        let mut plan = lock(&self.plan);
        let cursor = &plan.cursors[level];
        let next = tables.iter().find(|table| *table.meta.smallest > **cursor);
        let table = next.unwrap_or(&tables[0]).clone();
        plan.cursors[level] = table.meta.largest.to_vec();
        down_job(version, level, table)
    }

    /// A table that is mostly tombstones, to get rid of them, if extents with frames of keys
    /// have been reset since the last try: nothing else can let one go, and purging itself
    /// fills and empties extents of the index.
    fn pick_purge(&self, version: &Version) -> Option<Job> {
        let resets = self.counters.data_resets.load(Ordering::Relaxed);
        let mut plan = lock(&self.plan);
        let mut due = |table: &Arc<Table>| {
            let meta = &table.meta;
            let mostly = meta.tombstones * 2 > meta.entries;
            let tried = plan.purge_tried.get(&meta.id);
            let due = mostly && tried.is_none_or(|tried| *tried < resets);
            if due {
                plan.purge_tried.insert(meta.id, resets);
            }
            due
        };
        for (level, tables) in version.levels.iter().enumerate() {
            let Some(table) = tables.iter().find(|table| due(table)) else {
                continue;
            };
            let live: Vec<_> = version.tables().map(|table| table.meta.id).collect();
            plan.purge_tried.retain(|id, _| live.contains(id));
            return Some(match level {
                0 => level0_job(version),
                _ => down_job(version, level, table.clone()),
            });
        }
        None
    }

    fn run(&self, version: &Arc<Version>, job: &Job) -> Result<()> {
        let reader = self.table_reader(Read::Blocking, false);
        let mut sources = Vec::new();
        for table in &job.upper {
            sources.push(Source::Level(LevelCursor::new(
                [table.clone()],
                &[],
                &reader,
            )?));
        }
        sources.push(Source::Level(LevelCursor::new(
            job.lower.iter().cloned(),
            &[],
            &reader,
        )?));
        let mut merged = Merged::new(sources);
        let held = FramesHeld::new(&lock(&self.log).extents);
        let mut writer = TablesWriter::new(self, Class::Compaction);
        while let Some((key, record)) = merged.next(None, &reader)? {
            if self.is_spent(version, job, &key, &record, &held) {
                continue;
            }
            writer.add(&key, &record)?;
        }
        let outputs: Vec<_> = writer
            .finish()?
            .into_iter()
            .map(|meta| Arc::new(Table { meta }))
            .collect();
        // Tombstones that stayed now stand in new tables; they need not be tried again before
        // another extent was reset.
        let resets = self.counters.data_resets.load(Ordering::Relaxed);
        let mut plan = lock(&self.plan);
        plan.purge_tried
            .extend(outputs.iter().map(|table| (table.meta.id, resets)));
        plan.dirty = true;
        drop(plan);
        self.install_outputs(job, outputs);
        Ok(())
    }

    fn is_spent(
        &self,
        version: &Version,
        job: &Job,
        key: &[u8],
        record: &Record,
        held: &FramesHeld,
    ) -> bool {
        if !matches!(record.content, Content::Delete) {
            return false;
        }
        if mutants::on(Mutant::M21) {
            return true;
        }
        !version.overlaps_below(job.level, key, key) && !held.any(record.oldest, record.seq)
    }

    /// Replaces a job's inputs by its outputs. Tables that came since stay.
    fn install_outputs(&self, job: &Job, outputs: Vec<Arc<Table>>) {
        let is_input = |table: &Arc<Table>| {
            job.upper
                .iter()
                .chain(&job.lower)
                .any(|input| input.meta.id == table.meta.id)
        };
        let mut index = write(&self.index);
        let mut version = (*index.version).clone();
        for level in [job.upper_level, job.level] {
            version.levels[level].retain(|table| !is_input(table));
        }
        let level = &mut version.levels[job.level];
        level.extend(outputs);
        level.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
        index.version = Arc::new(version);
    }
}

/// All of level 0 and what it overlaps in level 1.
fn level0_job(version: &Version) -> Job {
    let upper = version.levels[0].clone();
    let smallest = upper.iter().map(|table| &table.meta.smallest).min();
    let largest = upper.iter().map(|table| &table.meta.largest).max();
    let lower = match (smallest, largest) {
        (Some(smallest), Some(largest)) => {
            overlapping(&version.levels[1], smallest, largest).to_vec()
        }
        _ => Vec::new(),
    };
    Job {
        upper_level: 0,
        upper,
        level: 1,
        lower,
    }
}

/// One table and what it overlaps in the next level; into its own level if that is the last.
fn down_job(version: &Version, level: usize, table: Arc<Table>) -> Job {
    let (smallest, largest) = (&table.meta.smallest, &table.meta.largest);
    let below = (level + 1).min(LEVELS - 1);
    let lower = match below == level {
        true => Vec::new(),
        false => overlapping(&version.levels[below], smallest, largest).to_vec(),
    };
    Job {
        upper_level: level,
        upper: vec![table],
        level: below,
        lower,
    }
}

/// Which log sequence numbers frames on the disk may have, reset extents aside.
struct FramesHeld {
    /// (first lsn, largest last lsn of this and all earlier ones), by first lsn.
    ranges: Vec<(u64, u64)>,
}

impl FramesHeld {
    fn new(extents: &Extents) -> FramesHeld {
        let mut ranges: Vec<(u64, u64)> = extents
            .used()
            .iter()
            .filter(|extent| extent.state != State::Free && extent.stream.has_entries())
            .map(|extent| (extent.birth_lsn, extent.last_lsn))
            .collect();
        ranges.sort_unstable();
        let mut last = 0;
        for range in &mut ranges {
            last = last.max(range.1);
            range.1 = last;
        }
        FramesHeld { ranges }
    }

    /// Whether a frame with `oldest <= lsn < seq` may be on the disk.
    fn any(&self, oldest: u64, seq: u64) -> bool {
        let before = self.ranges.partition_point(|(birth, _)| *birth < seq);
        before > 0 && self.ranges[before - 1].1 >= oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Stream;

    #[test]
    fn a_tombstone_waits_for_every_extent_that_may_hold_an_older_frame() {
        let mut extents = Extents::new(65536, 8);
        extents.open_next(Stream::Log, 10);
        extents.get_mut(0).last_lsn = 20;
        extents.open_next(Stream::Log, 21);
        extents.get_mut(1).last_lsn = 40;
        let held = FramesHeld::new(&extents);
        assert!(held.any(15, 30), "extent 0 may hold it");
        assert!(held.any(25, 30), "extent 1 may hold it");
        assert!(!held.any(5, 10), "nothing that old is there");
        assert!(!held.any(41, 50), "nothing that new is there");
        extents.retire(0, 40);
        extents.recycle(&[0]);
        assert!(!FramesHeld::new(&extents).any(15, 21));
    }
}
