//! C6: what is permitted while the disk misbehaves.
//!
//! - An *honest* fault reports an error. The call that met it may fail; a failed write or
//!   flush fails the store until it is reopened. Nothing is lost: once the faults are over
//!   and the store is reopened, every persistent batch is there.
//! - A *lie* (rot, lost, misdirected, a flush that does nothing) may destroy what it hits.
//!   From then on a read of any key may fail, until the key is next written; it may never
//!   return anything else than the key's entry. What the format cannot tell from a torn tail
//!   is the newest group of frames: only frames at or below a later frame's durable mark are
//!   known to have been durable. So after a lie a reboot may lose the newest groups, one for
//!   each lie; everything older is there or its absence is an error. They are lost from the
//!   end: nothing survives that came after something persistent that is lost.
//! - A read that goes *astray* while the disk is opened is wrong once and does no harm by itself:
//!   what recovery does not find it looks for twice. Two of them in one opening, or one beside
//!   a lie, can hide the newest groups and whatever speaks for them. That is beyond the
//!   promise: such a case ends, and is counted.

use std::collections::BTreeSet;
use std::sync::Arc;

use shardstore::Error;
use shardstore::limits::EXTENTS_START;
use simdisk::{Fault, PAGE, Rng};

use crate::generate::Profile;
use crate::model::{Batch, Bytes, Change, Fate, State};
use crate::world::World;

/// What the faults so far excuse.
#[derive(Debug, Default)]
pub struct FaultBook {
    /// A fault struck in the call that is being judged.
    pub(crate) fired_now: bool,
    /// A call that may write checkpoints failed, and none has succeeded since.
    pub(crate) background_failed: bool,
    /// What is read is a snapshot: a key that was written since has another entry there.
    pub(crate) old_view: bool,
    /// How many faults of the disk are in the book.
    seen: usize,
    /// Any write, flush or device fault since the store was opened.
    write_faults: bool,
    /// Groups that lies may have hit since the last reboot.
    lies: usize,
    /// Of them, reads that went astray while the disk was opened.
    astray: usize,
    /// The medium holds damage.
    hurt: bool,
    /// Pages cannot be read, for as long as honest faults last.
    bad_pages: bool,
    /// Keys whose reads may fail.
    tainted: BTreeSet<Bytes>,
    /// The state of the last checkpoint, and what became persistent since, by group.
    base: Arc<State>,
    recent: Vec<(u64, Batch)>,
    group: u64,
}

impl FaultBook {
    /// Whether a write or background call may fail like this.
    pub(crate) fn permits(&self, error: &Error) -> bool {
        match error {
            Error::Disk(_) | Error::Corrupt { .. } | Error::Damaged { .. } => self.damaged(),
            Error::Failed { .. } => self.write_faults,
            // A file system without room under the disk.
            Error::OutOfSpace => self.fired_now,
            _ => false,
        }
    }

    /// Whether the file system may have said that it has no room for what the count says is
    /// there.
    pub(crate) fn explains_no_space(&self) -> bool {
        self.write_faults
    }

    /// Whether a batch may be refused like this: after a checkpoint failed, and while memory is
    /// full, the store says why it takes no more.
    pub(crate) fn explains_refusal(&self, error: &Error) -> bool {
        self.background_failed && matches!(error, Error::Disk(_) | Error::Corrupt { .. })
    }

    /// Whether a read of a key may fail like this; `None`: of any key.
    pub(crate) fn permits_read(&self, key: Option<&[u8]>, error: &Error) -> bool {
        let typed = matches!(error, Error::Disk(_) | Error::Corrupt { .. });
        let excused = match key {
            _ if self.bad_pages => true,
            _ if self.old_view => self.hurt,
            Some(key) => self.tainted.contains(key),
            // A range is read from every table that meets it, whatever superseded its entries, and
            // a table with a damaged block is never compacted away.
            None => self.hurt,
        };
        typed && (self.fired_now || excused)
    }

    /// Whether any read may fail.
    pub(crate) fn excuses_reads(&self) -> bool {
        self.fired_now || self.bad_pages || !self.tainted.is_empty()
    }

    /// Whether scrub may find something, and open may refuse.
    pub(crate) fn damaged(&self) -> bool {
        self.hurt || self.bad_pages || self.fired_now
    }

    /// Whether the disk lied since the last full check.
    pub(crate) fn lied(&self) -> bool {
        self.lies > 0
    }

    /// Whether more went wrong in one opening than recovery promises to stand.
    pub(crate) fn is_beyond_promise(&self) -> bool {
        self.astray > 1 || self.astray == 1 && (self.lies > self.astray || self.hurt)
    }

    /// A batch became persistent: its keys are readable again, unless a fault struck in the
    /// same call and hit the batch itself.
    pub(crate) fn persisted(&mut self, batch: &Batch) {
        self.recent.push((self.group, batch.clone()));
        if self.fired_now {
            return;
        }
        for (key, _, change) in &batch.changes {
            // A merge still needs what was there before.
            if !matches!(change, Change::Add(_)) {
                self.tainted.remove(key);
            }
        }
    }

    /// A call into the engine is over: what persists from now on is another group.
    pub(crate) fn next_group(&mut self) {
        self.group += 1;
    }

    /// A checkpoint holds what was persistent before the call that wrote it; what became
    /// persistent in that call may have come after its cut.
    pub(crate) fn checkpointed(&mut self, before: &Arc<State>) {
        self.base = before.clone();
        let group = self.group;
        self.recent.retain(|(of, _)| *of == group);
    }

    /// What a reboot may find: the state of the last checkpoint and, in order, what came
    /// after it.
    pub(crate) fn history(&self) -> (Arc<State>, Vec<(Batch, Fate)>) {
        let mut groups: Vec<u64> = self.recent.iter().map(|(group, _)| *group).collect();
        groups.dedup();
        let certain = groups.len().saturating_sub(self.lies);
        let first_open = groups.get(certain).copied().unwrap_or(u64::MAX);
        let log = self.recent.iter().map(|(group, batch)| {
            let fate = if *group >= first_open {
                Fate::Exposed
            } else {
                Fate::Certain
            };
            (batch.clone(), fate)
        });
        (self.base.clone(), log.collect())
    }

    /// The state now, and the states without the newest batches, one after the other, back to
    /// before the `groups` newest groups since the last checkpoint. Damage in a group that no
    /// later frame speaks for costs the frame that it hits and those behind it.
    pub(crate) fn newest_states(&self, groups: usize) -> Vec<Arc<State>> {
        let mut numbers: Vec<u64> = self.recent.iter().map(|(group, _)| *group).collect();
        numbers.dedup();
        let first = numbers.len().saturating_sub(groups);
        let first = numbers.get(first).copied().unwrap_or(u64::MAX);
        let kept = self.recent.partition_point(|(group, _)| *group < first);
        let mut state = State::clone(&self.base);
        self.recent[..kept]
            .iter()
            .for_each(|(_, batch)| state.apply(batch));
        let mut states = vec![Arc::new(state.clone())];
        for (_, batch) in &self.recent[kept..] {
            state.apply(batch);
            states.push(Arc::new(state.clone()));
        }
        states.reverse();
        states
    }

    /// The store was reopened and shows `state`.
    pub(crate) fn reopened(&mut self, state: &Arc<State>) {
        self.write_faults = false;
        self.background_failed = false;
        // Recovery ends with a checkpoint; what a lie made unreadable stays so.
        self.lies = 0;
        self.astray = 0;
        self.base = state.clone();
        self.recent.clear();
    }

    /// Honest faults are over.
    pub(crate) fn calmed(&mut self) {
        self.fired_now = false;
        self.bad_pages = false;
    }
}

impl World {
    /// Enters the faults that struck since the last look into the book.
    pub(crate) fn note_faults(&mut self) {
        if self.profile != Profile::Faults {
            return;
        }
        let fired = self.disk.fired();
        self.book.fired_now = fired.len() > self.book.seen || self.disk.is_removed();
        self.book.write_faults |= self.disk.is_removed();
        for strike in &fired[self.book.seen..] {
            let fault = strike.fault;
            self.tally.note_fault(&fault, self.kind);
            self.say(|| format!("   struck: {fault:?}"));
            match fault {
                Fault::ReadErrors { .. } => {}
                Fault::WriteError { .. }
                | Fault::NoSpace { .. }
                | Fault::FlushFails { .. }
                | Fault::Vanish { .. } => self.book.write_faults = true,
                // Wrong once, and no harm to the medium; only recovery decides by what is not there.
                Fault::MisdirectedRead { .. } => {
                    let in_open = usize::from(self.store.is_none());
                    self.book.astray += in_open;
                    self.book.lies += in_open;
                }
                Fault::BadPage { .. } => self.book.bad_pages = true,
                // Each page that it hits may have been the newest group's.
                Fault::MisdirectedWrite { .. } => {
                    self.book.lies += 1 + strike.len.div_ceil(PAGE as u64) as usize;
                    self.taint();
                }
                Fault::BitFlip { .. } | Fault::LostWrite { .. } | Fault::LyingFlush { .. } => {
                    self.book.lies += 1;
                    self.taint();
                }
            }
        }
        self.book.seen = fired.len();
    }

    /// Any key's frames may be unreadable from now on, until it is written again.
    fn taint(&mut self) {
        self.book.hurt = true;
        self.book.tainted = self.pool.all().map(|key| key.bytes.clone()).collect();
    }

    /// The disk was replaced by its successor, whose list of struck faults is empty.
    pub(crate) fn new_disk_in_book(&mut self) {
        self.book.seen = 0;
    }

    /// Every fault is over, the device is back.
    pub(crate) fn calm(&mut self) {
        self.disk.calm();
        if self.disk.is_removed() {
            let mut rng = self.rng.fork();
            self.disk.give_back(&mut rng);
        }
        self.book.calmed();
    }

    /// Flips a bit where the disk holds something.
    pub(crate) fn rot(&mut self, seed: u64, cached: bool) {
        let mut rng = Rng::new(seed);
        let pages = self.disk.medium().present_pages();
        let data: Vec<usize> = pages
            .iter()
            .copied()
            .filter(|page| *page as u64 * PAGE as u64 >= EXTENTS_START)
            .collect();
        let pages = if data.is_empty() || rng.one_in(8) {
            &pages
        } else {
            &data
        };
        if pages.is_empty() {
            return;
        }
        let page = *rng.pick(pages);
        let offset = (page * PAGE + rng.index(PAGE)) as u64;
        self.disk.inject(Fault::BitFlip {
            offset,
            bit: rng.below(8) as u8,
            cached,
        });
        self.note_faults();
    }
}
