//! Looking after the set: disks that failed are taken out of it, batches that a replica refused
//! are brought to an end, shards are mended and healed. Which disks hold the metadata is seen to in
//! `replicas`.
//!
//! One step at a time ([`Volume::keep`]), so that a thread of its own or a check may take them.
//!
//! What must always hold:
//! - a disk counts as gone only once a generation that says so is durable on all that are left;
//!   what was written without it is acknowledged only after that.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shardstore::Error;

use crate::census::{BeginCensus, CensusWalk};
use crate::gone;
use crate::heal::HealWalk;
use crate::limits::{HEAL_INTERVAL, HEAL_PAUSE, MEND_PAUSE, MEND_TRIES};
use crate::membership::{MemberState, Membership};
use crate::mirror::Refused;
use crate::reader::Stripe;
use crate::replicas::Fill;
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
    pub(crate) copied: AtomicU64,
    /// Shards that were rebuilt since the start.
    healed: AtomicU64,
    /// Shards that were brought to other disks since the start.
    moved: AtomicU64,
    /// Whether all stripes are to be looked at.
    heal_is_due: AtomicBool,
    /// A disk came or went: no walk goes on as it is, and none waits.
    is_urgent: AtomicBool,
    /// A disk came or went, and it is not known yet that nothing of what was deleted without it is
    /// there.
    notes_wait: AtomicBool,
    /// Whether a whole walk was counted.
    is_counted: AtomicBool,
    /// How often it was asked for that shards be brought to where they are to be, and which of
    /// these requests is fulfilled.
    tidying_asked: AtomicU64,
    tidying_done: AtomicU64,
    /// Shards on disks that are to be emptied, for which there is no other disk.
    stuck: AtomicU64,
    ledger: Mutex<Ledger>,
    /// Begins a census, if anybody knows what refers to blobs.
    pub(crate) census: Mutex<Option<Box<BeginCensus>>>,
    /// A census is due, or under way.
    pub(crate) census_is_due: AtomicBool,
    /// Disks came or went since the one that is under way began.
    pub(crate) census_is_old: AtomicBool,
    /// Stripes of which nothing is there, by the last one.
    pub(crate) nowhere: AtomicU64,
    /// Disks that something may have gone with, for the census that is under way.
    pub(crate) losses: AtomicUsize,
    /// The walk that is under way: when it began, and stripes that it looked at.
    walking: Mutex<Option<(Instant, u64)>>,
    /// Shards that could not be read where they are, oldest first.
    repairs: Mutex<VecDeque<Repair>>,
    /// What happened, for whoever keeps a log.
    events: Mutex<VecDeque<Event>>,
}

/// Something that happened to the set, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whether somebody should look after it, and it is not what was to be.
    pub is_trouble: bool,
    text: String,
}

impl std::ops::Deref for Event {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
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
    pub(crate) unfit: Vec<(usize, Instant)>,
    /// Since when a replica has been full or slow.
    pub(crate) unfit_since: Option<Instant>,
    /// The set is being closed.
    pub(crate) is_over: bool,
    /// The highest generation that was ever written to any disk.
    written: u64,
    walk: Option<HealWalk>,
    /// The request that a walk which tidies fulfils.
    tidying: u64,
    /// The census that is under way.
    pub(crate) census: Option<CensusWalk>,
    /// Whether one has come to its end since the start.
    pub(crate) is_counted: bool,
    /// Disks that were gone when they left the set, since everything was whole.
    pub(crate) left_gone: usize,
    /// Whether some disk may know of members that this server has given up again.
    pub(crate) has_told: bool,
    /// Why nothing is changed any more until the server is started again.
    pub(crate) is_undecided: Option<String>,
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
    /// Whether the disk that is added to the only one is to take its place.
    pub(crate) succeeds: bool,
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
    /// Lets go of what walks hold.
    pub(crate) fn forget_walks(&mut self) {
        self.walk = None;
        self.census = None;
        self.is_counted = false;
    }

    /// Has other disks filled for a while.
    pub(crate) fn pass_over(&mut self, slot: usize) {
        self.unfit.push((slot, Instant::now() + UNFIT));
    }
}

pub(crate) fn has_failed(table: &Table, slot: usize) -> bool {
    let disk = table.disk(slot);
    disk.is_some_and(|disk| disk.engine.store().failure().is_some())
}

impl Keeping {
    /// Has all stripes looked at: something is missing, or a disk came or went.
    pub(crate) fn request_heal(&self) {
        lock(&self.ledger).is_settled = false;
        self.heal_is_due.store(true, Ordering::SeqCst);
    }

    pub(crate) fn ledger(&self) -> Ledger {
        let mut ledger = lock(&self.ledger).clone();
        ledger.lost += self.nowhere.load(Ordering::SeqCst);
        ledger.is_settled &= !self.census_is_due.load(Ordering::SeqCst);
        ledger
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
        self.request_census();
        self.look_anew();
        self.notes_wait.store(true, Ordering::SeqCst);
    }

    /// No walk over the stripes goes on as it is.
    fn look_anew(&self) {
        self.request_heal();
        self.request_tidying();
        self.is_urgent.store(true, Ordering::SeqCst);
    }

    /// The set is of one disk from now on, which nobody walks over.
    pub(crate) fn forget_walks(&self, state: &mut State) {
        state.forget_walks();
        *lock(&self.ledger) = Ledger::default();
        *lock(&self.walking) = None;
        self.stuck.store(0, Ordering::Relaxed);
        self.is_counted.store(false, Ordering::SeqCst);
        self.nowhere.store(0, Ordering::SeqCst);
        self.census_is_due.store(false, Ordering::SeqCst);
    }

    /// All notes of what was deleted were looked through.
    pub(crate) fn notes_are_followed(&self) {
        self.notes_wait.store(false, Ordering::SeqCst);
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

    /// Notes what happened and should not have.
    pub(crate) fn say(&self, text: String) {
        self.note(Event {
            is_trouble: true,
            text,
        });
    }

    /// Notes what happened and was to.
    pub(crate) fn tell(&self, text: String) {
        self.note(Event {
            is_trouble: false,
            text,
        });
    }

    /// Of more than anybody takes, the oldest are forgotten.
    fn note(&self, event: Event) {
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
    pub fn take_events(&self) -> Vec<Event> {
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
        if state.is_over || state.is_undecided.is_some() {
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
        let steps: [fn(&Volume, &mut State) -> Result<bool>; 7] = [
            |volume, _| volume.repair(),
            Volume::look_into_damage,
            |volume, state| volume.clear_gone(&mut state.gone),
            Volume::fill,
            Volume::finish_draining,
            Volume::heal,
            Volume::take_census,
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
        self.inner.keeping.tell(event);
        self.install(next);
        Ok(true)
    }

    /// The set stays what it is: it says so first, if a disk may have been told of another one.
    /// Until that is durable, all metadata goes through the mirror as before.
    pub(crate) fn give_up_growth(&self, state: &mut State, slot: usize, why: &str) -> Result<()> {
        self.stop_filling(state);
        let table = self.table();
        if state.has_told {
            let mut next = table.with_disk(slot, None);
            next.membership = self.without_second_disk(&table, slot)?;
            state.write(&table.membership, &mut next)?;
            state.has_told = false;
            let disk = table.disk(slot).cloned();
            self.install(next);
            if let Some(disk) = disk {
                let _ = self.close_engine(&disk.engine);
            }
        } else {
            self.forget(&table, slot);
        }
        let name = table.disk(slot).map_or("a disk", |disk| &disk.name);
        let event = format!("{name} was not added to the set: {why}");
        self.inner.keeping.say(event);
        Ok(())
    }

    /// A step of making a set of several disks out of one.
    fn grow(&self, state: &mut State) -> Result<bool> {
        let table = self.table();
        let Some(slot) = table.candidate() else {
            return Ok(false);
        };
        let failure = |slot: usize| table.disk(slot)?.engine.store().failure();
        if let Some(reason) = failure(table.primary()?) {
            // What waits for the only member is told so; whatever becomes of the other one.
            let given_up = self.give_up_growth(state, slot, &reason);
            let replicas = self.table().replicas();
            self.inner.mirror.set_replicas(replicas, Some(reason));
            return given_up.map(|()| true);
        }
        if let Some(reason) = failure(slot) {
            self.give_up_growth(state, slot, &reason)?;
            return Ok(true);
        }
        if let Some(refused) = self.inner.mirror.refused().into_iter().next() {
            return self.mend(state, refused);
        }
        self.fill(state)
    }

    /// Takes no further steps: the set is being closed. What still needs one fails.
    pub(crate) fn end_keeping(&self) {
        {
            let mut state = lock(&self.inner.keeping.state);
            state.is_over = true;
            state.forget_walks();
        }
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
            // Not the notes of what was deleted: no member came, so that these are not looked
            // through again.
            keeping.look_anew();
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
        // Where nothing may be moved, nothing is waited for.
        let is_tidy = keeping.is_tidy() || walked.waiting > 0 || is_refused;
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
        if ledger.is_settled && ledger.owing() == 0 && self.lacking() == 0 {
            state.left_gone = 0;
        }
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

    /// Whether every shard is where it is to be, as far as there are disks, and none where nothing
    /// is to be.
    pub fn is_tidy(&self) -> bool {
        let keeping = &self.inner.keeping;
        let notes_wait = !self.table().is_single() && keeping.notes_wait.load(Ordering::SeqCst);
        keeping.is_tidy() && !notes_wait
    }

    /// Whether the last walk over all stripes found nothing missing, and nothing has changed
    /// since.
    pub fn is_healed(&self) -> bool {
        let ledger = self.inner.keeping.ledger();
        ledger.is_settled && ledger.owing() == 0
    }
}

/// Until another walk, after one that rebuilt or passed over something.
const HEAL_AGAIN: Duration = Duration::from_millis(500);

/// How many times as long as a walk took no other one begins.
const HEAL_REST_FACTOR: u32 = 4;

/// How many times as long as a step of healing took the next one waits while clients read or write
/// bodies; and for which part of it otherwise.
const HEAL_REST_IN_USE: u32 = 4;
const HEAL_REST_OTHERWISE: u32 = 8;

/// Longest rest after a step of healing.
const HEAL_REST_MAX: Duration = Duration::from_millis(500);

/// How long a disk that works and was given up is left alone.
const READMIT_AFTER: Duration = Duration::from_secs(30);

/// How long a disk is passed over that could not be filled.
const UNFIT: Duration = Duration::from_secs(5);
