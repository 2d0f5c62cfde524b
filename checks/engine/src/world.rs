//! Runs a case: a store on a simulated disk, the model beside it, and the properties that
//! hold after every single call.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use shardstore::{Dependency, Error, Identity, Snapshot, Store};
use simdisk::{Crash, Rng, SimDisk};

use crate::failure::{Failure, Verdict, property, violated};
use crate::faults::FaultBook;
use crate::generate::Profile;
use crate::keys::{KeyPool, PoolKey};
use crate::knobs::{Knobs, set_clock};
use crate::model::{Batch, Bytes, Model, ModelBug, OPEN_MAX, State};
use crate::ops::{Change, Op, Step};
use crate::probes::Probes;
use crate::tally::{Tally, Trace};

/// Who every simulated disk is.
pub const IDENTITY: Identity = Identity {
    disk: *b"a simulated disk",
    set: *b"the only set....",
};

/// A submitted batch that is not decided yet.
pub(crate) struct InFlight {
    pub(crate) batch: Batch,
    pub(crate) dependency: Dependency,
    pub(crate) frees_space: bool,
}

/// A store, its disk and its model.
pub struct World {
    pub(crate) seed: u64,
    pub(crate) profile: Profile,
    pub(crate) knobs: Knobs,
    pub(crate) pool: KeyPool,
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) store: Option<Store>,
    pub(crate) model: Model,
    /// Queued, in the order of submission.
    pub(crate) inflight: Vec<InFlight>,
    /// Failed together with the disk: a crash decides what became of them.
    pub(crate) doubtful: Vec<Batch>,
    /// Batches that became persistent, by version.
    pub(crate) persisted: BTreeSet<u64>,
    pub(crate) snapshots: VecDeque<(Snapshot, Arc<State>)>,
    /// For each key the engine's sequence of each version that was seen.
    pub(crate) seqs: BTreeMap<Bytes, BTreeMap<u64, u64>>,
    pub(crate) book: FaultBook,
    pub(crate) probes: Probes,
    /// What a scheduled power cut leaves.
    pub(crate) cut: Option<(u64, Crash, Vec<u8>)>,
    /// The case is at its end: the disk's damage was detected.
    pub(crate) over: bool,
    pub(crate) rng: Rng,
    pub(crate) step: u32,
    pub(crate) kind: usize,
    /// The call is a pump by hand, during which extents are only taken.
    pub(crate) pumping: bool,
    pub(crate) crashed_with_data: bool,
    /// Something was done that fills the disk.
    pub(crate) filled: bool,
    /// What was done so far.
    pub tally: Tally,
    /// What was seen so far.
    pub trace: Trace,
    /// The story for people, if somebody wants it.
    pub log: Option<Vec<String>>,
}

impl World {
    /// Formats a disk and opens the store on it.
    pub fn new(
        seed: u64,
        profile: Profile,
        knobs: Knobs,
        pool: KeyPool,
        bug: Option<ModelBug>,
    ) -> Verdict<World> {
        let disk = Arc::new(SimDisk::new(knobs.blank()));
        if let Err(error) = Store::format(&*disk, IDENTITY, knobs.geometry) {
            return violated(property::NO_ERROR, format!("format: {error}"));
        }
        let probes = Probes::new(seed, knobs.probe_one_in);
        let mut world = World {
            seed,
            profile,
            pool,
            disk,
            store: None,
            model: Model::new(bug),
            inflight: Vec::new(),
            doubtful: Vec::new(),
            persisted: BTreeSet::new(),
            snapshots: VecDeque::new(),
            seqs: BTreeMap::new(),
            book: FaultBook::default(),
            probes,
            cut: None,
            over: false,
            rng: Rng::new(seed),
            step: 0,
            kind: 0,
            pumping: false,
            crashed_with_data: false,
            filled: false,
            tally: Tally::default(),
            trace: Trace::default(),
            log: None,
            knobs,
        };
        world.open_clean()?;
        Ok(world)
    }

    /// Runs all steps, then what is checked at the end.
    pub fn run(&mut self, steps: &[Step]) -> Verdict {
        self.tally.sequences += 1;
        let mut before = None;
        for (index, step) in steps.iter().enumerate() {
            if self.over {
                break;
            }
            self.tally.note_pair(before, step.op.kind());
            before = Some(step.op.kind());
            self.apply(step).map_err(|failure| Failure {
                step: index,
                ..failure
            })?;
        }
        self.finish().map_err(|failure| Failure {
            step: steps.len(),
            ..failure
        })?;
        let crashing = matches!(self.profile, Profile::Crash | Profile::CrashRecovery);
        self.tally.vacuous += u64::from(crashing && !self.crashed_with_data);
        Ok(())
    }

    /// Runs one step, and the reboot if it ended in a power cut.
    pub fn apply(&mut self, step: &Step) -> Verdict {
        self.step = step.id;
        self.kind = step.op.kind();
        // What a step draws depends on its own number alone, so that removing another step
        // does not change it.
        self.rng = Rng::new(self.seed ^ u64::from(step.id).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.trace.word(u64::from(step.id));
        self.say(|| step.to_string());
        self.perform(&step.op)?;
        if self.disk.is_cut() {
            let cut = self.cut.take();
            let (seed, mode, recovery) =
                cut.unwrap_or_else(|| (self.seed, Crash::Sectors, Vec::new()));
            self.say(|| format!("   the power is cut; {mode:?}"));
            self.crash(seed, mode, &recovery)?;
        }
        let counters = self.disk.counters();
        self.trace.word(counters.writes);
        self.trace.word(counters.flushes);
        Ok(())
    }

    fn perform(&mut self, op: &Op) -> Verdict {
        match op {
            Op::Get { key, part, nowait } => self.get(*key, *part, *nowait),
            Op::First { key } => self.first(*key),
            Op::Scan { from, to, limit } => self.scan(*from, *to, *limit),
            Op::Snapshot => self.take_snapshot(),
            Op::DropSnapshot => {
                self.snapshots.pop_front();
                Ok(())
            }
            Op::ReadSnapshot => self.read_snapshot(),
            Op::Submit {
                changes,
                frees_space,
            } => self.submit(changes, *frees_space, None).map(|_| ()),
            Op::Chain { first, second } => self.chain(first, second),
            Op::Pump { groups } => self.pump(*groups),
            Op::Checkpoint => self.checkpoint(),
            Op::Compact { steps } => self.compact(*steps),
            Op::Reclaim { extent } => self.reclaim(*extent),
            Op::Scrub { extent } => self.scrub(*extent),
            Op::BulkPut {
                from,
                count,
                payload,
            } => self.bulk_put(*from, *count, *payload),
            Op::BulkDelete { from, count } => self.bulk_delete(*from, *count),
            Op::Fill => self.fill(),
            Op::Relieve => self.relieve(),
            Op::Chill => {
                self.disk.chill();
                Ok(())
            }
            Op::CleanReboot { knobs, cut } => self.clean_reboot(*knobs, *cut),
            Op::DirtyReboot {
                seed,
                mode,
                recovery,
            } => self.crash(*seed, *mode, recovery),
            Op::CutAfter {
                ios,
                seed,
                mode,
                recovery,
            } => {
                self.cut = Some((*seed, *mode, recovery.clone()));
                self.disk.cut_after(u64::from(*ios));
                Ok(())
            }
            Op::Fault(fault) => {
                self.disk.inject(*fault);
                self.note_faults();
                Ok(())
            }
            Op::Rot { seed, cached } => {
                self.rot(*seed, *cached);
                Ok(())
            }
            Op::PrepareAhead => {
                let result = self.call(|store| store.prepare_ahead())?;
                self.expect("prepare ahead", result).map(|_| ())
            }
            Op::Clock { now_ms } => {
                set_clock(*now_ms);
                Ok(())
            }
            Op::DiskRemove => {
                self.disk.remove();
                self.book.fired_now = true;
                Ok(())
            }
            Op::DiskReturn { seed } => {
                if self.disk.is_removed() {
                    self.disk.give_back(&mut Rng::new(*seed));
                }
                Ok(())
            }
        }
    }

    /// The open store.
    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("a store is open between steps")
    }

    /// Adds to the story.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(line());
        }
    }

    /// The key with this index: hot ones first, then bulk ones.
    pub(crate) fn key(&self, index: usize) -> &PoolKey {
        let hot = self.pool.hot.len();
        if index < hot {
            &self.pool.hot[index]
        } else {
            &self.pool.bulk[(index - hot) % self.pool.bulk.len()]
        }
    }

    /// Calls the engine, then checks what must hold after every call.
    pub(crate) fn call<T>(
        &mut self,
        call: impl FnOnce(&Store) -> shardstore::Result<T>,
    ) -> Verdict<shardstore::Result<T>> {
        let failed_before = self.store().failure().is_some();
        let state_before = self.model.state.clone();
        self.probes.watch(&self.inflight);
        let result = call(self.store());
        self.note_faults();
        self.book.next_group();
        self.trace.word(u64::from(result.is_ok()));
        let outcome: Vec<(Batch, Option<Error>)> = self.settle(failed_before)?;
        self.check_probes(&state_before, &outcome)?;
        if !self.disk.is_cut() {
            self.check_sum()?;
        }
        Ok(result)
    }

    /// Looks at every undecided batch. Returns all batches that were in flight, with the
    /// error if they failed.
    fn settle(&mut self, failed_before: bool) -> Verdict<Vec<(Batch, Option<Error>)>> {
        let mut outcome = Vec::with_capacity(self.inflight.len());
        for item in std::mem::take(&mut self.inflight) {
            let decided = item.dependency.poll_now();
            self.trace.word(
                decided
                    .as_ref()
                    .map_or(2, |result| u64::from(result.is_ok())),
            );
            let error = match decided {
                None => {
                    outcome.push((item.batch.clone(), None));
                    self.inflight.push(item);
                    continue;
                }
                Some(Ok(())) => {
                    if failed_before {
                        let version = item.batch.version;
                        return violated(property::STICKY, format!("batch {version} did"));
                    }
                    if item
                        .batch
                        .needs
                        .is_some_and(|needed| !self.persisted.contains(&needed))
                    {
                        let version = item.batch.version;
                        return violated(property::ORDER, format!("batch {version} is before"));
                    }
                    self.persisted.insert(item.batch.version);
                    self.model.persist(&item.batch);
                    self.book.persisted(&item.batch);
                    outcome.push((item.batch, None));
                    continue;
                }
                Some(Err(error)) => error,
            };
            match &error {
                Error::OutOfSpace => {
                    self.tally.out_of_space += 1;
                    self.check_little_room(item.frees_space)?;
                }
                // With what it depends on, a batch fails as well; it was never issued.
                _ if item
                    .batch
                    .needs
                    .is_some_and(|needed| self.is_doubtful(needed)) =>
                {
                    self.doubtful.push(item.batch.clone());
                }
                _ if self.may_fail(&error) || self.book.explains_refusal(&error) => {
                    self.doubtful.push(item.batch.clone());
                }
                _ => return violated(property::NO_ERROR, format!("a batch failed: {error}")),
            }
            outcome.push((item.batch, Some(error)));
        }
        Ok(outcome)
    }

    fn is_doubtful(&self, version: u64) -> bool {
        self.doubtful.iter().any(|batch| batch.version == version)
    }

    /// Whether an error is permitted here: the power is cut, or faults explain it.
    pub(crate) fn may_fail(&self, error: &Error) -> bool {
        self.disk.is_cut() || self.book.permits(error) || self.disk.is_removed()
    }

    /// Takes the value out of a call's result; an error must be a permitted one (`None`).
    pub(crate) fn expect<T>(
        &mut self,
        what: &str,
        result: shardstore::Result<T>,
    ) -> Verdict<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.may_fail(&error) => {
                self.tally.refused += 1;
                self.book.background_failed |= what != "pump";
                self.say(|| format!("   {what}: {error}"));
                Ok(None)
            }
            Err(error) => violated(property::NO_ERROR, format!("{what}: {error}")),
        }
    }

    /// Submits a batch. Returns its version and dependency if it was taken.
    pub(crate) fn submit(
        &mut self,
        changes: &[Change],
        frees_space: bool,
        after: Option<(u64, Dependency)>,
    ) -> Verdict<Option<(u64, Dependency)>> {
        if self.inflight.len() + self.doubtful.len() >= OPEN_MAX - 1 {
            self.pump(8)?;
            if self.doubtful.len() + self.inflight.len() >= OPEN_MAX - 1 {
                return Ok(None);
            }
        }
        let batch = self.model_batch(changes, after.as_ref().map(|(version, _)| *version));
        let mut written = self.store_batch(&batch);
        if frees_space {
            written = written.frees_space();
        }
        if let Some((_, dependency)) = after {
            written = written.after(dependency);
        }
        let too_large = self.is_too_large(&batch);
        let version = batch.version;
        match self.call(|store| store.submit(written))? {
            Ok(_) if too_large => violated(property::LIMITS, format!("batch {version} was taken")),
            Ok(dependency) => {
                let item = InFlight {
                    batch,
                    dependency: dependency.clone(),
                    frees_space,
                };
                self.inflight.push(item);
                Ok(Some((version, dependency)))
            }
            Err(Error::TooLarge { .. }) if too_large => Ok(None),
            Err(Error::Busy) if self.queue_is_busy() => Ok(None),
            Err(error) => self.expect("submit", Err(error)),
        }
    }

    fn queue_is_busy(&self) -> bool {
        // Busy is for a queue that holds something already.
        !self.inflight.is_empty()
    }

    /// Two batches of which the second waits for the first. Nothing else is submitted until
    /// both are decided, so that the order of commitment stays the order of submission.
    fn chain(&mut self, first: &[Change], second: &[Change]) -> Verdict {
        let Some(first) = self.submit(first, false, None)? else {
            return Ok(());
        };
        self.submit(second, false, Some(first))?;
        // More groups than the queue can hold.
        self.pump(64)
    }

    /// Commits up to so many groups.
    pub(crate) fn pump(&mut self, groups: u8) -> Verdict {
        for _ in 0..groups {
            self.pumping = true;
            let result = self.call(|store| store.pump());
            self.pumping = false;
            let result = result?;
            match self.expect("pump", result)? {
                Some(true) => {}
                Some(false) => {
                    if let Some(item) = self.inflight.first() {
                        let version = item.batch.version;
                        let detail = format!("pump has nothing to do, batch {version} waits");
                        return violated(property::PROGRESS, detail);
                    }
                    break;
                }
                None => break,
            }
        }
        Ok(())
    }

    pub(crate) fn checkpoint(&mut self) -> Verdict {
        let before = self.model.state.clone();
        let result = self.call(|store| store.checkpoint())?;
        if self.expect("checkpoint", result)?.is_some() {
            self.model.note_checkpoint();
            self.book.background_failed = false;
            self.book.checkpointed(&before);
            self.check_counts()?;
        }
        Ok(())
    }

    fn compact(&mut self, steps: u8) -> Verdict {
        for _ in 0..steps {
            let result = self.call(|store| store.compact())?;
            if self.expect_background("compact", result)? != Some(true) {
                break;
            }
        }
        Ok(())
    }

    /// As [`World::expect`]; compaction and reclamation may also find no room, as long as
    /// only the reserve is free.
    pub(crate) fn expect_background<T>(
        &mut self,
        what: &str,
        result: shardstore::Result<T>,
    ) -> Verdict<Option<T>> {
        let space = self.store().space();
        match result {
            Err(Error::OutOfSpace) if space.free <= space.reserve => Ok(None),
            other => self.expect(what, other),
        }
    }

    fn reclaim(&mut self, extent: Option<u32>) -> Verdict {
        self.model.note_reclaim();
        let used = self.store().extents().max(1);
        let extent = extent.map(|extent| extent % used);
        let result = self.call(|store| store.reclaim(extent))?;
        let taken = self.expect_background("reclaim", result)?;
        self.say(|| format!("   reclaimed {taken:?}"));
        Ok(())
    }

    fn scrub(&mut self, extent: u32) -> Verdict {
        let extent = extent % self.store().extents().max(1);
        let result = self.call(|store| store.scrub(extent))?;
        match self.expect("scrub", result)? {
            Some(damage) if !damage.is_empty() && !self.book.damaged() => {
                violated(property::NO_ERROR, format!("scrub found {}", damage[0]))
            }
            _ => Ok(()),
        }
    }

    fn bulk_put(&mut self, from: usize, count: usize, payload: usize) -> Verdict {
        self.filled = true;
        let hot = self.pool.hot.len();
        let payload = payload.min(self.knobs.geometry.payload_bytes_max as usize);
        for index in 0..count {
            let key = hot + (from + index) % self.pool.bulk.len();
            let fill = crate::ops::Fill::Unique;
            self.submit(
                &[Change::Put {
                    key,
                    value: 12,
                    payload,
                    fill,
                }],
                false,
                None,
            )?;
            if index % 5 == 4 {
                self.pump(2)?;
            }
            if self.disk.is_cut() {
                break;
            }
        }
        Ok(())
    }

    fn bulk_delete(&mut self, from: usize, count: usize) -> Verdict {
        let hot = self.pool.hot.len();
        for index in (0..count).step_by(3) {
            let changes: Vec<Change> = (index..count.min(index + 3))
                .map(|index| hot + (from + index) % self.pool.bulk.len())
                .map(|key| Change::Delete { key })
                .collect();
            self.submit(&changes, false, None)?;
            if index % 2 == 0 {
                self.pump(2)?;
            }
            if self.disk.is_cut() {
                break;
            }
        }
        Ok(())
    }
}
