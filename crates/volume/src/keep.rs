//! Looking after the set: disks that failed are taken out of it, batches that a replica refused
//! are brought to an end, and missing replicas of the metadata are made up for.
//!
//! One step at a time ([`Volume::keep`]), so that a thread of its own or a check may take them.
//!
//! What must always hold:
//! - a disk counts as gone only once a generation that says so is durable on all that are left;
//!   what was written without it is acknowledged only after that;
//! - a disk becomes a replica only after everything that the others have was copied to it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shardstore::Error;

use crate::copy::{copy_range, range_end};
use crate::gone;
use crate::heal::HealWalk;
use crate::limits::{HEAL_INTERVAL, HEAL_PAUSE, MEND_PAUSE, MEND_TRIES, SLOW_FOR};
use crate::membership::{MemberState, Membership};
use crate::meta::META_PREFIX;
use crate::mirror::Refused;
use crate::reader::Stripe;
use crate::scrub::Damaged;
use crate::start;
use crate::stripe::Cut;
use crate::table::Table;
use crate::volume::lock;
use crate::{BlobId, HealProgress, Ledger, Result, Volume, VolumeError, block_on};

/// What the steps remember.
#[derive(Default)]
pub(crate) struct Keeping {
    /// Held by whoever takes a step.
    pub(crate) state: Mutex<State>,
    /// Entries of metadata that were copied since the start.
    copied: AtomicU64,
    /// Shards that were rebuilt since the start.
    healed: AtomicU64,
    /// Shards that were brought to other disks since the start.
    moved: AtomicU64,
    /// Whether all stripes are to be looked at.
    heal_is_due: AtomicBool,
    /// A disk came or went: no walk goes on as it is, and none waits.
    is_urgent: AtomicBool,
    /// Whether a whole walk was counted.
    is_counted: AtomicBool,
    /// How often it was asked for that shards be brought to where they are to be, and which of
    /// these requests is fulfilled.
    tidying_asked: AtomicU64,
    tidying_done: AtomicU64,
    /// Shards on disks that are to be emptied, for which there is no other disk.
    stuck: AtomicU64,
    ledger: Mutex<Ledger>,
    /// The walk that is under way: when it began, and stripes that it looked at.
    walking: Mutex<Option<(Instant, u64)>>,
    /// Shards that could not be read where they are, oldest first.
    repairs: Mutex<VecDeque<Repair>>,
    /// What happened, for whoever keeps a log.
    events: Mutex<VecDeque<String>>,
}

/// A shard to be written again where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Repair {
    blob: BlobId,
    stripe: u32,
    cut: Cut,
    shard: u8,
    slot: usize,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) fill: Option<Fill>,
    /// Which part of which batch was submitted again last, and how often.
    mended: Option<(u64, usize, u32)>,
    /// Disks that could not be filled, and until when others are tried.
    unfit: Vec<(usize, Instant)>,
    /// Since when a replica has been full or slow.
    unfit_since: Option<Instant>,
    /// The set is being closed.
    pub(crate) is_over: bool,
    /// The highest generation that was ever written to any disk.
    written: u64,
    walk: Option<HealWalk>,
    /// The request that a walk which tidies fulfils.
    tidying: u64,
    /// Whether the last walk tidied.
    has_tidied: bool,
    /// Whether writes were refused when it was looked last.
    is_refused: bool,
    /// Which of the steps comes first, so that none keeps the others from theirs.
    turn: usize,
    /// Since when a disk that works is not live.
    away_since: Option<Instant>,
    /// Extents with damage.
    pub(crate) damaged: Damaged,
    /// When it is looked again whether a disk that is drained is empty.
    pub(crate) next_look: Option<Instant>,
    /// Where the walk over notes of deleted blobs is.
    gone: gone::Walk,
    walk_began: Option<Instant>,
    /// Before this no other walk begins.
    rest_until: Option<Instant>,
    /// When all stripes are looked at again, if nobody asks before.
    next_walk: Option<Instant>,
}

impl State {
    /// Makes a table the next generation. What an attempt left on some disks that failed must
    /// never be taken for another one's: each has a number of its own.
    pub(crate) fn write(&mut self, before: &Membership, next: &mut Table) -> Result<()> {
        self.written = self.written.max(next.membership.generation) + 1;
        next.membership.generation = self.written;
        start::write(Some(before), next)
    }

    /// A disk has this generation, which never counted: the next one is above it.
    pub(crate) fn pass(&mut self, generation: u64) {
        self.written = self.written.max(generation);
    }

    /// The highest generation that any disk can have got from this server.
    pub(crate) fn newest(&self, table: &Table) -> u64 {
        self.written.max(table.membership.generation)
    }
}

impl State {
    /// Has other disks filled for a while.
    fn pass_over(&mut self, slot: usize) {
        self.unfit.push((slot, Instant::now() + UNFIT));
    }
}

pub(crate) fn has_failed(table: &Table, slot: usize) -> bool {
    let disk = table.disk(slot);
    disk.is_some_and(|disk| disk.engine.store().failure().is_some())
}

/// A disk that is being made a replica.
pub(crate) struct Fill {
    pub(crate) slot: usize,

    range: usize,
    /// What lies before it is the same on both.
    cursor: Vec<u8>,
}

/// All metadata that is mirrored, but for the ring.
const RANGES: [(&[u8], &[u8]); 2] = [
    (&[META_PREFIX], &[META_PREFIX + 1]),
    (gone::PREFIX, gone::END),
];

impl Keeping {
    /// Has all stripes looked at: something is missing, or a disk came or went.
    pub(crate) fn request_heal(&self) {
        lock(&self.ledger).is_settled = false;
        self.heal_is_due.store(true, Ordering::SeqCst);
    }

    pub(crate) fn ledger(&self) -> Ledger {
        lock(&self.ledger).clone()
    }

    pub(crate) fn progress(&self) -> Option<HealProgress> {
        let (began, done) = (*lock(&self.walking))?;
        let stripes = lock(&self.ledger).total().max(done);
        // Too little was seen to tell from.
        let is_telling = self.is_counted.load(Ordering::SeqCst) && done * 50 >= stripes && done > 0;
        let elapsed = began.elapsed().as_secs_f64();
        let left = is_telling.then(|| elapsed * (stripes - done) as f64 / done as f64);
        Some(HealProgress {
            stripes_done: done,
            stripes,
            left: left.map(Duration::from_secs_f64),
        })
    }

    pub(crate) fn healed(&self) -> u64 {
        self.healed.load(Ordering::Relaxed)
    }

    /// Shards may be on other disks than they are to be: members came or went.
    pub(crate) fn request_tidying(&self) {
        self.tidying_asked.fetch_add(1, Ordering::SeqCst);
    }

    /// Members came or went.
    pub(crate) fn begin_anew(&self) {
        self.request_heal();
        self.request_tidying();
        self.is_urgent.store(true, Ordering::SeqCst);
    }

    pub(crate) fn count_moved(&self, shards: usize) {
        self.moved.fetch_add(shards as u64, Ordering::Relaxed);
    }

    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    pub(crate) fn stuck(&self) -> u64 {
        self.stuck.load(Ordering::Relaxed)
    }

    pub(crate) fn is_tidy(&self) -> bool {
        self.tidying_done.load(Ordering::SeqCst) > self.tidying_asked.load(Ordering::SeqCst)
    }

    pub(crate) fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    pub(crate) fn count_healed(&self, shards: usize) {
        self.healed.fetch_add(shards as u64, Ordering::Relaxed);
    }

    /// Notes what happened. Of more than anybody takes, the oldest are forgotten.
    pub(crate) fn say(&self, event: String) {
        let mut events = lock(&self.events);
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
    }
}

/// Events that nobody has taken yet, and shards that wait to be written again.
const EVENTS_MAX: usize = 256;
const REPAIRS_MAX: usize = 1_024;

impl Volume {
    /// Shards may be missing somewhere.
    pub(crate) fn look_for_missing_shards(&self) {
        self.inner.keeping.request_heal();
    }

    /// Disks came or went while a blob was written, which nobody looked at meanwhile.
    pub(crate) fn disks_changed_meanwhile(&self) {
        if !self.table().is_single() {
            self.inner.keeping.request_heal();
            self.inner.keeping.request_tidying();
        }
    }

    /// The generation of the members now.
    pub(crate) fn generation(&self) -> u64 {
        self.table().membership.generation
    }

    /// A shard cannot be read where it is: it is to be written again from the others.
    pub(crate) fn request_repair(
        &self,
        stripe: &Stripe,
        shard: usize,
        slot: usize,
        why: &VolumeError,
    ) {
        if self.table().is_single() {
            return;
        }
        let keeping = &self.inner.keeping;
        let repair = Repair {
            blob: stripe.blob,
            stripe: stripe.number,
            cut: stripe.cut,
            // Shards are counted in a byte.
            shard: shard as u8,
            slot,
        };
        let mut repairs = lock(&keeping.repairs);
        if repairs.len() < REPAIRS_MAX && !repairs.contains(&repair) {
            repairs.push_back(repair);
            drop(repairs);
            let table = self.table();
            let name = table.disk(slot).map_or("a disk", |disk| &disk.name);
            keeping.say(format!("{name}: shard {shard} of {}: {why}", stripe.name()));
        }
    }

    /// Damage that healing came upon.
    pub(crate) fn report_damage(&self, error: &VolumeError) {
        self.inner.keeping.say(error.to_string());
    }

    /// What happened to the set since this was asked last, in words.
    pub fn take_events(&self) -> Vec<String> {
        lock(&self.inner.keeping.events).drain(..).collect()
    }

    /// One step of looking after the disks of a set; blocks while it reads and writes. Run it on
    /// a thread of its own, or by hand. `false`: nothing was due.
    ///
    /// # Errors
    /// What a disk said. The next step tries again.
    pub fn keep(&self) -> Result<bool> {
        if self.table().is_unmirrored() {
            return Ok(false);
        }
        let mut state = lock(&self.inner.keeping.state);
        if state.is_over {
            return Ok(false);
        }
        if self.table().is_single() {
            return self.grow(&mut state);
        }
        if let Some(slot) = self.failed_disk() {
            self.retire(&mut state, slot)?;
            return Ok(true);
        }
        if let Some(refused) = self.inner.mirror.refused().into_iter().next() {
            return self.mend(&mut state, refused);
        }
        if self.settle_replicas(&mut state)? {
            return Ok(true);
        }
        if self.drop_unfit(&mut state)? || self.readmit(&mut state)? {
            return Ok(true);
        }
        // In turn, so that none that always has something to do, or that fails, keeps the others
        // from theirs.
        let steps: [fn(&Volume, &mut State) -> Result<bool>; 6] = [
            |volume, _| volume.repair(),
            Volume::look_into_damage,
            |volume, state| volume.clear_gone(&mut state.gone),
            Volume::fill,
            Volume::finish_draining,
            Volume::heal,
        ];
        let mut failure = None;
        for at in 0..steps.len() {
            let at = (state.turn + at) % steps.len();
            match steps[at](self, &mut state) {
                Ok(true) => {
                    state.turn = at + 1;
                    return Ok(true);
                }
                Ok(false) => {}
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(false),
        }
    }

    /// Takes a disk back that works and is not live: it could not take something in time, and was
    /// given up.
    fn readmit(&self, state: &mut State) -> Result<bool> {
        let table = self.table();
        let is_live = |slot: &usize| table.live().any(|live| live == *slot);
        let is_back = |slot: &usize| {
            !is_live(slot) && !has_failed(&table, *slot) && table.membership.at(*slot).is_some()
        };
        let Some(slot) = table.here().find(is_back) else {
            state.away_since = None;
            return Ok(false);
        };
        let since = *state.away_since.get_or_insert_with(Instant::now);
        if since.elapsed() < READMIT_AFTER || table.refusal().is_some() {
            return Ok(false);
        }
        state.away_since = None;
        let mut live: Vec<usize> = table.live().collect();
        live.push(slot);
        let mut next = Table::clone(&table);
        next.membership = table.membership.with_live(&live);
        state.write(&table.membership, &mut next)?;
        let name = table.disk(slot).map_or("a disk", |disk| &disk.name);
        let event = format!("{name} takes part again");
        self.inner.keeping.say(event);
        self.install(next);
        Ok(true)
    }

    /// The set stays what it is.
    fn give_up_growth(&self, state: &mut State, slot: usize, why: &str) {
        self.stop_filling(state);
        let table = self.table();
        let name = table.disk(slot).map_or("a disk", |disk| &disk.name);
        let event = format!("{name} was not added to the set: {why}");
        self.inner.keeping.say(event);
        self.forget(&table, slot);
    }

    /// A step of making a set of several disks out of one.
    fn grow(&self, state: &mut State) -> Result<bool> {
        let table = self.table();
        let Some(slot) = table.candidate() else {
            return Ok(false);
        };
        let failure = |slot: usize| table.disk(slot)?.engine.store().failure();
        if let Some(reason) = failure(table.primary()?) {
            self.give_up_growth(state, slot, &reason);
            // What waits for the only member is told so.
            let replicas = self.table().replicas();
            self.inner.mirror.set_replicas(replicas, Some(reason));
            return Ok(true);
        }
        if let Some(reason) = failure(slot) {
            self.give_up_growth(state, slot, &reason);
            return Ok(true);
        }
        if let Some(refused) = self.inner.mirror.refused().into_iter().next() {
            return self.mend(state, refused);
        }
        self.fill(state)
    }

    /// Makes the replicas the same again, if a batch was given up that some of them have.
    fn settle_replicas(&self, state: &mut State) -> Result<bool> {
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

    /// Takes no further steps: the set is being closed. What still needs one fails.
    pub(crate) fn end_keeping(&self) {
        lock(&self.inner.keeping.state).is_over = true;
        let why = "the set is being closed".to_owned();
        let replicas = self.table().replicas();
        self.inner.mirror.set_replicas(replicas, Some(why));
    }

    /// Writes one shard again that could not be read.
    fn repair(&self) -> Result<bool> {
        // It stays in the queue meanwhile, so that reading it does not ask for it again.
        let Some(repair) = lock(&self.inner.keeping.repairs).front().cloned() else {
            return Ok(false);
        };
        if let Err(error) = self.repair_shard(&repair) {
            // Whoever comes upon it next asks again.
            let stripe = format!("stripe {} of blob {}", repair.stripe, repair.blob);
            let event = format!("shard {} of {stripe} is not mended: {error}", repair.shard);
            self.inner.keeping.say(event);
        }
        lock(&self.inner.keeping.repairs).pop_front();
        Ok(true)
    }

    fn repair_shard(&self, repair: &Repair) -> Result<()> {
        let Some(_held) = self.hold_blob(repair.blob) else {
            return Ok(());
        };
        let stripe = Stripe {
            volume: self.clone(),
            reports: false,
            blob: repair.blob,
            number: repair.stripe,
            cut: repair.cut,
        };
        let table = self.table();
        let is_live = table.live().any(|slot| slot == repair.slot);
        if is_live && block_on(stripe.write_again(repair.shard, repair.slot))? {
            self.inner.keeping.count_healed(1);
        }
        Ok(())
    }

    /// Looks at the next stripes, if all are to be looked at.
    fn heal(&self, state: &mut State) -> Result<bool> {
        let keeping = &self.inner.keeping;
        let table = self.table();
        let is_refused = table.refusal().is_some();
        if is_refused != state.is_refused {
            // What is there is counted, also when nothing can be done for it.
            state.is_refused = is_refused;
            keeping.begin_anew();
        }
        if keeping.is_urgent.swap(false, Ordering::SeqCst) {
            state.walk = None;
            *lock(&keeping.walking) = None;
            state.rest_until = None;
        }
        let walk = match &mut state.walk {
            Some(walk) => walk,
            none => {
                let now = Instant::now();
                let may_begin = state.rest_until.is_none_or(|until| now >= until);
                let is_asked = keeping.heal_is_due.load(Ordering::SeqCst);
                let is_time = state.next_walk.is_none_or(|at| now >= at);
                if !may_begin || (!is_asked && !is_time) {
                    return Ok(false);
                }
                // What is missing first; then what is elsewhere.
                keeping.heal_is_due.store(false, Ordering::SeqCst);
                // Where something is missing all the time, every other walk.
                let tidies = !keeping.is_tidy() && (!is_asked || !state.has_tidied);
                state.has_tidied = tidies;
                state.tidying = keeping.tidying_asked.load(Ordering::SeqCst) + 1;
                state.walk_began = Some(now);
                none.insert(HealWalk::new(tidies, is_refused))
            }
        };
        let started = Instant::now();
        let step = match walk.step(self) {
            Ok(step) => step,
            Err(error) => {
                state.walk = None;
                *lock(&keeping.walking) = None;
                state.next_walk = Some(Instant::now() + HEAL_AGAIN);
                return Err(error);
            }
        };
        if std::mem::take(&mut walk.notes_are_due) {
            // Written when the disk was away, and the notes were looked through before.
            state.gone = gone::Walk::default();
        }
        keeping.count_healed(step.rebuilt);
        keeping.count_moved(step.moved);
        let began = state.walk_began.unwrap_or(started);
        *lock(&keeping.walking) = Some((began, walk.seen()));
        let Some(walked) = step.done else {
            if step.rebuilt + step.moved > 0 {
                let took = started.elapsed();
                // Whoever reads or writes meanwhile comes first.
                let rest = match self.is_in_use() {
                    true => took * HEAL_REST_IN_USE,
                    false => took / HEAL_REST_OTHERWISE,
                };
                std::thread::sleep(rest.min(HEAL_REST_MAX));
            }
            return Ok(true);
        };
        state.walk = None;
        *lock(&keeping.walking) = None;
        if walked.tidied {
            keeping.stuck.store(walked.stuck, Ordering::Relaxed);
            if !walked.again && walked.waiting == 0 {
                // What was asked for meanwhile is not.
                keeping.tidying_done.store(state.tidying, Ordering::SeqCst);
            }
        }
        keeping.is_counted.store(true, Ordering::SeqCst);
        let is_tidy = keeping.is_tidy() || walked.waiting > 0;
        let pause = match (walked.again || !is_tidy, walked.ledger.owing()) {
            (true, _) => HEAL_AGAIN,
            (false, 0) if walked.waiting == 0 => HEAL_INTERVAL,
            (false, _) => HEAL_PAUSE,
        };
        let now = Instant::now();
        // Most of the time no walk is under way, however often one is asked for.
        let took = state.walk_began.map_or(Duration::ZERO, |began| now - began);
        state.rest_until = Some(now + took * HEAL_REST_FACTOR);
        state.next_walk = Some(now + pause);
        let mut ledger = walked.ledger;
        ledger.is_settled &= !keeping.heal_is_due.load(Ordering::SeqCst);
        *lock(&keeping.ledger) = ledger;
        Ok(true)
    }

    /// A live disk that takes no writes any more, if that can be noted.
    fn failed_disk(&self) -> Option<usize> {
        let table = self.table();
        let failed = table.live().find(|slot| has_failed(&table, *slot))?;
        // With too few left nothing may be written, and nothing is: the disks stay what they
        // were.
        let left = table
            .live()
            .filter(|slot| !has_failed(&table, *slot))
            .count();
        if left < table.membership.deciders() {
            self.inner
                .mirror
                .set_replicas(table.replicas(), table.refusal());
            return None;
        }
        Some(failed)
    }

    /// Takes a disk out of the live ones, and out of the replicas.
    fn retire(&self, state: &mut State, slot: usize) -> Result<()> {
        let table = self.table();
        // All that have failed at once: the others must take what says so.
        let is_left = |other: &usize| *other != slot && !has_failed(&table, *other);
        let live: Vec<usize> = table.live().filter(is_left).collect();
        let replicas: Vec<usize> = table.replicas().into_iter().filter(is_left).collect();
        if replicas.is_empty() || live.len() < table.membership.deciders() {
            // Nothing may be noted by so few, and nothing is acknowledged any more.
            let missing = table.missing();
            let why = format!("too few disks take writes; missing: {missing}");
            self.inner.mirror.set_replicas(table.replicas(), Some(why));
            return Err(VolumeError::NotHere { missing });
        }
        if state.fill.as_ref().is_some_and(|fill| fill.slot == slot) {
            self.stop_filling(state);
        }
        let mut next = Table::clone(&table);
        next.membership = table.membership.with_live(&live);
        next.slices = Arc::new(table.slices.with_disks(&replicas));
        state.write(&table.membership, &mut next)?;
        for gone in table.live().filter(|slot| !live.contains(slot)) {
            let disk = table.disk(gone);
            let name = disk.map_or("a disk", |disk| &disk.name);
            let why = disk.and_then(|disk| disk.engine.store().failure());
            let why = why.unwrap_or_else(|| "it refused what the others took".to_owned());
            let event = format!("{name} is out of the set: {why}");
            self.inner.keeping.say(event);
        }
        self.install(next);
        Ok(())
    }

    /// Submits a batch again that some replicas have and one refused; gives that one up if it
    /// cannot take it.
    fn mend(&self, state: &mut State, refused: Refused) -> Result<bool> {
        let Refused {
            number,
            slot,
            error,
        } = refused;
        let tries = match &state.mended {
            Some((n, s, tries)) if (*n, *s) == (number, slot) => *tries,
            _ => 0,
        };
        let is_final = matches!(
            error,
            Error::Failed { .. } | Error::Closed | Error::TooLarge { .. }
        );
        if is_final || tries >= MEND_TRIES {
            if state.fill.as_ref().is_some_and(|fill| fill.slot == slot) {
                state.pass_over(slot);
                self.stop_filling(state);
            } else if self.table().is_single() {
                // The only member; what the candidate took alone is filled over.
                return Ok(false);
            } else {
                self.retire(state, slot)?;
            }
            return Ok(true);
        }
        if tries > 0 {
            std::thread::sleep(MEND_PAUSE);
        }
        state.mended = Some((number, slot, tries + 1));
        // What it says now is seen in the next step.
        let _ = self.inner.mirror.submit_again(number, slot);
        Ok(true)
    }

    /// Keeps the metadata no longer on disks that are full, or slow, and stay it, if enough others
    /// have it: one full disk would refuse what all others can take, one slow disk would have
    /// everybody wait.
    fn drop_unfit(&self, state: &mut State) -> Result<bool> {
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
    fn fill(&self, state: &mut State) -> Result<bool> {
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
                let is_fit = |slot: &&usize| {
                    !replicas.contains(slot)
                        && !table.is_draining(**slot)
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
                    self.give_up_growth(state, slot, &error.to_string());
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
            next.membership = self.with_second_disk(&table, slot)?;
            state.write(&table.membership, &mut next)?;
        }
        let before = next.membership.clone();
        next.slices = Arc::new(table.slices.with_disks(&replicas));
        state.write(&before, &mut next)?;
        state.fill = None;
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

    /// Whether each disk that belongs to the set is here and live, and metadata is on as many
    /// as it is to be.
    pub fn is_whole(&self) -> bool {
        let table = self.table();
        let members = table.membership.active();
        let all_live = members.fold(true, |all, member| {
            all && member.state == MemberState::Live
                && table.disk(usize::from(member.slot)).is_some()
        });
        let is_mirrored = table.replicas().len() >= table.replicas_wanted();
        all_live && is_mirrored && !self.inner.mirror.differ()
    }

    /// Whether every shard is where it is to be, as far as there are disks.
    pub fn is_tidy(&self) -> bool {
        self.inner.keeping.is_tidy()
    }

    /// Whether the last walk over all stripes found nothing missing, and nothing has changed
    /// since.
    pub fn is_healed(&self) -> bool {
        let ledger = self.inner.keeping.ledger();
        ledger.is_settled && ledger.owing() == 0
    }
}

/// How long batches wait for a gate at most before it is opened again.
const GATE_MAX: Duration = Duration::from_millis(200);

/// Until another walk, after one that rebuilt or passed over something.
const HEAL_AGAIN: Duration = Duration::from_millis(500);

/// How many times as long as a walk took no other one begins.
const HEAL_REST_FACTOR: u32 = 4;

/// How many times as long as a step of healing took the next one waits while clients read or write
/// bodies; and for which part of it otherwise.
const HEAL_REST_IN_USE: u32 = 2;
const HEAL_REST_OTHERWISE: u32 = 8;

/// Longest rest after a step of healing.
const HEAL_REST_MAX: Duration = Duration::from_millis(500);

/// How long a disk that works and was given up is left alone.
const READMIT_AFTER: Duration = Duration::from_secs(30);

/// How long a replica is full before others do without it.
const FULL_FOR: Duration = Duration::from_secs(1);

/// How long one that was full or slow is not filled again.
const UNFIT_PAUSE: Duration = Duration::from_secs(600);

/// How long a disk is passed over that could not be filled.
const UNFIT: Duration = Duration::from_secs(5);

/// How often it is looked whether those before it are decided.
const GATE_PAUSE: Duration = Duration::from_micros(200);
