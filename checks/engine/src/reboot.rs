//! Closing, crashing, recovering, and finding out what survived.

use std::sync::Arc;

use shardstore::{Disk, Error, Options, Store};
use simdisk::{Crash, Rng, SimDisk};

use crate::failure::{Verdict, property, violated};
use crate::generate::Profile;
use crate::knobs::draw_options;
use crate::model::{Batch, Fate, OPEN_MAX, Observed, State, explain, first_difference};
use crate::reads::{observe, observe_each};
use crate::world::World;

/// Opens a store on a simulated disk.
pub fn open(disk: &Arc<SimDisk>, options: &Options) -> Result<Store, Error> {
    let disk: Arc<dyn Disk> = disk.clone();
    Store::open(disk, options.clone())
}

impl World {
    /// The first open: nothing can go wrong.
    pub(crate) fn open_clean(&mut self) -> Verdict {
        self.probes.watch(&[]);
        self.probes.attach(&self.disk);
        match open(&self.disk, &self.knobs.options) {
            Ok(store) => {
                self.store = Some(store);
                Ok(())
            }
            Err(error) => violated(property::NO_ERROR, format!("open: {error}")),
        }
    }

    /// C2, forward progress: a close that succeeds leaves no dependency undecided.
    fn close(&mut self) -> Verdict {
        let result = self.call(|store| store.close())?;
        if self.expect("close", result)?.is_some() {
            if let Some(item) = self.inflight.first() {
                let detail = format!("batch {} is, after close", item.batch.version);
                return violated(property::PROGRESS, detail);
            }
            self.model.note_checkpoint();
            // It commits what is queued before its checkpoint, so that covers everything.
            let state = self.model.state.clone();
            self.book.reopened(&state);
        }
        Ok(())
    }

    /// Closes and opens again; with `cut`, after a power cut.
    pub(crate) fn clean_reboot(&mut self, knobs: u64, cut: Option<Crash>) -> Verdict {
        self.close()?;
        if self.disk.is_cut() {
            return Ok(());
        }
        self.redraw_options(knobs);
        if let Some(mode) = cut {
            return self.crash(knobs, mode, &[]);
        }
        self.snapshots.clear();
        self.store = None;
        self.disk.cancel_cut();
        if self.profile == Profile::Faults {
            return self.reopen_under_faults();
        }
        self.open_clean()?;
        let state = self.model.state.clone();
        self.book.reopened(&state);
        self.check_recovery_probes()?;
        self.compare_store()
    }

    /// C4, during recovery: a crash at any of its writes and flushes recovers to the same
    /// state.
    fn check_recovery_probes(&mut self) -> Verdict {
        let state = self.model.state.clone();
        self.check_probes(&state, &[])
    }

    fn redraw_options(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        if rng.one_in(2) {
            self.knobs.options = draw_options(&mut rng, &self.knobs.geometry);
        }
    }

    /// A power cut, recoveries that are cut as well, and one that is not.
    pub(crate) fn crash(&mut self, seed: u64, mode: Crash, recovery: &[u8]) -> Verdict {
        let torn = self.note_crash();
        self.crashed_with_data |= torn && !self.model.state.entries.is_empty();
        self.cut = None;
        let mut rng = Rng::new(seed);
        let next = Arc::new(self.disk.crash(&mut rng, mode));
        // Only now: whatever these do when they are dropped, the disk is dead.
        self.snapshots.clear();
        self.store = None;
        self.disk = next;
        self.new_disk_in_book();
        self.redraw_options(seed);
        if self.profile == Profile::Faults {
            return self.reopen_under_faults();
        }
        let uninterrupted = self.recover_aside(!recovery.is_empty())?;
        for ios in recovery {
            if self.recover_interrupted(u64::from(*ios), &mut rng)? {
                break;
            }
        }
        if self.store.is_none() {
            self.open_clean()?;
        }
        let observed = self.observe_now()?;
        if let Some(expected) = uninterrupted {
            self.compare_recoveries(&expected, &observed)?;
        }
        self.explain_crash(&observed)
    }

    /// Counts a crash; whether it decides about unflushed writes.
    fn note_crash(&mut self) -> bool {
        let torn = self.disk.has_pending();
        self.tally.crashes += 1;
        self.tally.torn += u64::from(torn);
        torn
    }

    /// What an undisturbed recovery of the same medium shows.
    fn recover_aside(&mut self, wanted: bool) -> Verdict<Option<Observed>> {
        if !wanted {
            return Ok(None);
        }
        let aside = Arc::new(SimDisk::new(self.disk.medium()));
        match open(&aside, &self.knobs.options).and_then(|store| observe(&store)) {
            Ok(observed) => Ok(Some(observed)),
            Err(error) => violated(property::PERSISTENCE, format!("recovery: {error}")),
        }
    }

    /// One attempt to recover that the power cut ends; true if it was done before that.
    fn recover_interrupted(&mut self, ios: u64, rng: &mut Rng) -> Verdict<bool> {
        self.probes.attach(&self.disk);
        self.disk.cut_after(ios);
        let result = open(&self.disk, &self.knobs.options);
        if !self.disk.is_cut() {
            self.disk.cancel_cut();
            return match result {
                Ok(store) => {
                    self.store = Some(store);
                    Ok(true)
                }
                Err(error) => violated(property::IDEMPOTENT, format!("recovery: {error}")),
            };
        }
        if result.is_ok() {
            let detail = "open succeeded although the power was cut before its end";
            return violated(property::IDEMPOTENT, detail);
        }
        self.note_crash();
        let mode = *rng.pick(&Crash::ALL);
        self.say(|| format!("   recovery is cut after {ios} I/Os; {mode:?}"));
        self.disk = Arc::new(self.disk.crash(rng, mode));
        Ok(false)
    }

    fn observe_now(&mut self) -> Verdict<Observed> {
        match observe(self.store()) {
            Ok(observed) => Ok(observed),
            Err(error) => violated(
                property::PERSISTENCE,
                format!("reading everything: {error}"),
            ),
        }
    }

    /// C5: recovery that was interrupted and repeated shows what an undisturbed one shows.
    fn compare_recoveries(&mut self, expected: &Observed, observed: &Observed) -> Verdict {
        if expected == observed {
            return Ok(());
        }
        let key = expected
            .iter()
            .find(|(key, seen)| observed.get(*key) != Some(seen))
            .or_else(|| {
                observed
                    .iter()
                    .find(|(key, seen)| expected.get(*key) != Some(seen))
            })
            .map(|(key, _)| crate::model::name(key));
        violated(
            property::IDEMPOTENT,
            format!("they differ in {}", key.unwrap_or_default()),
        )
    }

    /// C2, persistence: what was persistent is there; every other batch is there as a whole
    /// or not at all.
    fn explain_crash(&mut self, observed: &Observed) -> Verdict {
        let log: Vec<(Batch, Fate)> = self
            .take_open_batches()
            .into_iter()
            .map(|batch| (batch, Fate::Open))
            .collect();
        let (state, survives) = match explain(&self.model.state, &log, observed) {
            Ok(explained) => explained,
            Err(detail) => return violated(property::PERSISTENCE, detail),
        };
        self.say(|| format!("   survivors among the open batches: {survives:?}"));
        self.model.reopen(state);
        let state = self.model.state.clone();
        self.book.reopened(&state);
        self.learn_seqs(observed);
        if let Some(difference) = first_difference(&state, observed) {
            return violated(property::PERSISTENCE, difference);
        }
        self.check_recovery_probes()?;
        self.compare_store()
    }

    /// Which of several batches without a difference survived cannot be told, so what is
    /// known of sequences begins anew with what is seen now.
    fn learn_seqs(&mut self, observed: &Observed) {
        self.seqs.clear();
        for (key, seen) in observed {
            if let Some(entry) = self.model.state.get(key) {
                self.seqs
                    .insert(key.clone(), [(entry.version, seen.seq)].into());
            }
        }
    }

    /// Everything submitted that was not persistent, in order.
    fn take_open_batches(&mut self) -> Vec<Batch> {
        let mut open = std::mem::take(&mut self.doubtful);
        open.extend(
            std::mem::take(&mut self.inflight)
                .into_iter()
                .map(|item| item.batch),
        );
        open
    }

    /// C6: a reboot of a disk that may be damaged or still misbehave.
    fn reopen_under_faults(&mut self) -> Verdict {
        let lied = self.book.lied();
        let mut result = open(&self.disk, &self.knobs.options);
        self.note_faults();
        let mut attempts = 0;
        while let Err(error) = &result {
            let detail = format!("open: {error}");
            let typed = matches!(
                error,
                Error::Disk(_)
                    | Error::Corrupt { .. }
                    | Error::Damaged { .. }
                    | Error::Failed { .. }
            );
            // No room under the disk is an honest fault as well.
            let typed = typed || matches!(error, Error::OutOfSpace) && self.book.permits(error);
            // A flush that lied between the two copies of the superblock, and one that failed
            // behind them, may leave neither whole. Whoever formats disks looks whether anything
            // else stands on them.
            let has_lost_both = self.book.lied() && self.book.damaged();
            let typed = typed || matches!(error, Error::NotFormatted) && has_lost_both;
            self.say(|| format!("   {detail}"));
            if !typed {
                return violated(property::TYPED, detail);
            }
            if attempts == 1 {
                if lied || self.book.lied() || self.book.damaged() {
                    // The damage was detected; that is all that is promised.
                    self.tally.refused += 1;
                    self.end_early("the disk was refused");
                    return Ok(());
                }
                return violated(property::HONEST, detail);
            }
            attempts += 1;
            self.calm();
            result = open(&self.disk, &self.knobs.options);
            self.note_faults();
        }
        self.store = result.ok();
        self.explain_under_faults()
    }

    /// C6: as [`World::explain_crash`], but reads may fail, and lies may cost the newest
    /// groups.
    fn explain_under_faults(&mut self) -> Verdict {
        let (mut observed, unreadable) = observe_each(self.store(), &self.pool);
        self.note_faults();
        if !unreadable.is_empty() && !self.book.excuses_reads() {
            let key = unreadable
                .first_key_value()
                .map(|(key, error)| format!("{}: {error}", crate::model::name(key)))
                .unwrap_or_default();
            return violated(property::HONEST, format!("it cannot be read: {key}"));
        }
        if self.book.is_beyond_promise() {
            self.end_early("reads went astray beside other faults in one opening");
            return Ok(());
        }
        let (base, mut log) = self.book.history();
        log.extend(
            self.take_open_batches()
                .into_iter()
                .map(|batch| (batch, Fate::Open)),
        );
        let undecided = log.iter().filter(|(_, fate)| *fate != Fate::Certain);
        if undecided.count() > OPEN_MAX {
            self.end_early("too many batches are undecided");
            return Ok(());
        }
        let blind = |state: &State| {
            let mut state = state.clone();
            state.entries.retain(|key, _| !unreadable.contains_key(key));
            state
        };
        observed.retain(|key, _| !unreadable.contains_key(key));
        let touches = |batch: &Batch| {
            batch
                .changes
                .iter()
                .any(|(k, ..)| unreadable.contains_key(k))
        };
        if log
            .iter()
            .any(|(batch, fate)| *fate != Fate::Certain && touches(batch))
        {
            // What such a key has cannot be known: the damage was reported, that is all.
            self.end_early("an undecided key cannot be read");
            return Ok(());
        }
        let readable: Vec<(Batch, Fate)> = log
            .iter()
            .map(|(batch, fate)| {
                let mut batch = batch.clone();
                batch
                    .changes
                    .retain(|(key, _, _)| !unreadable.contains_key(key));
                (batch, *fate)
            })
            .collect();
        let survives = match explain(&blind(&base), &readable, &observed) {
            Ok((_, survives)) => survives,
            Err(detail) => {
                let lied = self.book.lied() || self.book.damaged();
                if lied && !self.store().damage().is_empty() {
                    self.end_early("it was said that a page behind the log cannot be read");
                    return Ok(());
                }
                let property = if lied {
                    property::DETECTS
                } else {
                    property::HONEST
                };
                return violated(property, detail);
            }
        };
        let mut state = State::clone(&base);
        for ((batch, _), _) in log.iter().zip(&survives).filter(|(_, survives)| **survives) {
            state.apply(batch);
        }
        self.seqs.clear();
        self.model.reopen(state);
        let state = self.model.state.clone();
        self.book.reopened(&state);
        self.compare_store()
    }

    fn end_early(&mut self, reason: &'static str) {
        self.over = true;
        *self.tally.ended.entry(reason).or_default() += 1;
    }

    /// What is checked after the last step.
    pub(crate) fn finish(&mut self) -> Verdict {
        if self.over {
            return Ok(());
        }
        self.disk.cancel_cut();
        self.cut = None;
        match self.profile {
            Profile::Conform => {
                self.pump(64)?;
                self.compare_store()?;
                while !self.snapshots.is_empty() {
                    self.read_snapshot()?;
                    self.snapshots.pop_front();
                }
                if self.seed.is_multiple_of(8) || self.filled || self.tally.out_of_space > 0 {
                    self.back_to_the_baseline()
                } else {
                    Ok(())
                }
            }
            Profile::Crash | Profile::CrashRecovery => {
                self.pump(64)?;
                self.clean_reboot(self.seed, Some(Crash::LoseAll))
            }
            Profile::Faults => self.finish_after_faults(),
        }
    }

    /// C6 and C14: once the faults are over, a reboot brings everything back, background work
    /// comes to an end, and writes work.
    fn finish_after_faults(&mut self) -> Verdict {
        self.calm();
        self.crash(self.seed, Crash::Sectors, &[])?;
        if self.over {
            return Ok(());
        }
        self.quiesce()?;
        self.compare_store()?;
        self.relieve()
    }
}
