//! Check C15: a random history of one set, drawn from a seed.
//!
//! The property, in a sentence: whatever happens to as many disks at a time as the scheme has
//! parity, and whenever the power fails, every key has the value that was acknowledged last, or
//! one that was being written, and no other; and when all is made up for, each shard of each blob
//! is on a disk of its own and nothing of a deleted blob is anywhere, as the ledger says.
//!
//! Threads run as they like, so that the same seed gives the same plan and not the same schedule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use simdisk::{Fault, Rng};
use volume::{BlobRef, Deletion, MetaBatch, Scheme, Volume, VolumeError, VolumeOptions, block_on};

use crate::audit::{self, Id};
use crate::bench::{CAPACITY, Disks, SHARD, Set, bytes, formatted, kill, meta_key};
use crate::model::{Model, Value};

/// How long a set may take to make up for everything.
const REST_MAX: Duration = Duration::from_secs(40);

/// Keys that the histories are about.
const KEYS: u64 = 12;

/// Most disks of a set, and most that a history uses in all.
const MEMBERS_MAX: usize = 8;
const DISKS_MAX: usize = 30;

/// What was counted of a history.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// By what happened.
    pub steps: BTreeMap<&'static str, u64>,
}

impl Counts {
    fn add(&mut self, what: &'static str) {
        *self.steps.entry(what).or_default() += 1;
    }
}

struct Case {
    rng: Rng,
    disks: Disks,
    set: Option<Set>,
    /// Numbers of the disks that belong to the set.
    members: BTreeSet<usize>,
    /// Members that are gone for good, or rotten.
    dead: BTreeSet<usize>,
    /// Members that failed, or were left out of a start, since all was made up for.
    impaired: BTreeSet<usize>,
    /// Losses since then, of disks that may have been replaced since.
    losses: usize,
    /// What the set can lose until then.
    budget: usize,
    /// Disks that are to come and to go.
    coming: BTreeSet<usize>,
    leaving: BTreeSet<usize>,
    model: Model,
    deletions: Vec<(Id, Deletion)>,
    /// Blobs whose deletion is durable.
    gone: BTreeSet<Id>,
    /// Batches that were counted for certain, and those that may have been.
    sum: (u64, u64),
    counts: Counts,
    trace: Vec<String>,
}

/// Runs the history of a seed, in so many steps.
///
/// # Errors
/// What did not hold, and what had happened before.
pub fn run(seed: u64, steps: u32) -> Result<Counts, String> {
    let mut rng = Rng::new(seed);
    let disks = 1 + rng.below(7) as usize;
    let mut case = Case {
        rng,
        disks: Disks::new(disks),
        set: None,
        members: (0..disks).collect(),
        dead: BTreeSet::new(),
        impaired: BTreeSet::new(),
        losses: 0,
        budget: 0,
        coming: BTreeSet::new(),
        leaving: BTreeSet::new(),
        model: Model::default(),
        deletions: Vec::new(),
        gone: BTreeSet::new(),
        sum: (0, 0),
        counts: Counts::default(),
        trace: Vec::new(),
    };
    let outcome = case.history(steps);
    if let Some(set) = case.set.take() {
        set.close();
    }
    outcome.map_err(|why| {
        let mut said = format!("{why}\nbefore it:\n");
        for line in case.trace.iter().rev().take(40).rev() {
            let _ = writeln!(said, "  {line}");
        }
        said
    })?;
    Ok(case.counts)
}

fn id_of(blob: &BlobRef) -> Id {
    blob.id.to_bytes()
}

impl Case {
    fn say(&mut self, line: impl Into<String>) {
        self.trace.push(line.into());
    }

    fn set(&self) -> Result<&Set, String> {
        self.set
            .as_ref()
            .ok_or_else(|| "the set is closed".to_owned())
    }

    fn pick(&mut self, of: &[usize]) -> Option<usize> {
        let at = self.rng.below(of.len().max(1) as u64) as usize;
        of.get(at).copied()
    }

    fn history(&mut self, steps: u32) -> Result<(), String> {
        self.open(BTreeSet::new())?;
        self.settle()?;
        for _ in 0..steps {
            match self.rng.below(100) {
                0..45 => self.operate()?,
                45..60 => self.impair()?,
                60..66 => self.restart(false)?,
                66..76 => self.restart(true)?,
                76..84 => self.mend()?,
                84..88 => self.grow()?,
                88..92 => self.shrink()?,
                92..95 => self.scrub()?,
                _ => self.settle()?,
            }
        }
        self.settle()
    }

    // What clients do.

    fn operate(&mut self) -> Result<(), String> {
        self.counts.add("bursts");
        for _ in 0..2 + self.rng.below(8) {
            let key = format!("k{}", self.rng.below(KEYS));
            match self.rng.below(10) {
                0..5 => drop(self.put(&key)),
                5..7 => self.delete(&key),
                _ => self.check(&key)?,
            }
        }
        Ok(())
    }

    /// Puts a value; whether it was acknowledged.
    fn put(&mut self, key: &str) -> bool {
        let sizes = [0, 1, 300, 900, 3 * SHARD, 5 * SHARD + 1, 20 * SHARD];
        let at = self.rng.below(sizes.len() as u64) as usize;
        let value = Value {
            len: sizes[at],
            seed: self.rng.bits(),
        };
        let is_inline = value.len < 1_000 && self.rng.below(2) == 0;
        self.write(key, Some((value, is_inline)))
    }

    fn delete(&mut self, key: &str) {
        self.write(key, None);
    }

    fn write(&mut self, key: &str, value: Option<(Value, bool)>) -> bool {
        let Ok(set) = self.set() else {
            return false;
        };
        let before = find(&set.volume, key).ok().flatten();
        let written = write(set, key, value);
        let value = value.map(|(value, _)| value);
        self.say(format!(
            "{key} = {:?}: {}",
            value.map(|value| value.len),
            match &written {
                Ok(()) => "ok".to_owned(),
                Err(error) => error.to_string(),
            }
        ));
        match written {
            Ok(()) => {
                self.model.acknowledge(key, value);
                self.sum.0 += 1;
                self.counts.add("acknowledged writes");
                if let Some((_, Some(blob))) = before
                    && let Some(set) = &self.set
                {
                    let deletion = set.volume.delete_blob(&blob, Vec::new());
                    self.deletions.push((id_of(&blob), deletion));
                }
                true
            }
            Err(_) => {
                self.model.suspect(key, value);
                self.sum.1 += 1;
                self.counts.add("refused writes");
                false
            }
        }
    }

    /// A key has a value that is permitted, and its bytes.
    fn check(&mut self, key: &str) -> Result<(), String> {
        self.look(key).map(drop)
    }

    fn look(&mut self, key: &str) -> Result<Option<Value>, String> {
        let set = self.set()?;
        let found =
            find(&set.volume, key).map_err(|error| format!("{key} cannot be read: {error}"))?;
        let found_value = found.as_ref().map(|(value, _)| *value);
        if !self.model.permits(key, found_value) {
            return Err(format!(
                "{key} is {found_value:?}, and the model has {:?}",
                self.model
            ));
        }
        if let Some((value, blob)) = found {
            let body = match &blob {
                Some(blob) => set.read(blob),
                None => body_beside(set, key),
            };
            let body = body.map_err(|error| format!("{key}: {error}"))?;
            if body != bytes(value.len, value.seed) {
                return Err(format!("{key} has wrong bytes, of {}", value.len));
            }
        }
        self.counts.add("values compared");
        Ok(found_value)
    }

    /// All keys are as they may be, and stay so.
    fn check_all(&mut self) -> Result<(), String> {
        for key in self.model.keys() {
            let found = self.look(&key)?;
            self.model.settle(&key, found);
        }
        let sum = sum(self.set()?).map_err(|error| format!("the sum: {error}"))?;
        let (least, more) = self.sum;
        if sum < least || sum > least + more {
            return Err(format!("the sum is {sum}, not {least} to {}", least + more));
        }
        self.sum = (sum, 0);
        Ok(())
    }

    // What happens to disks.

    /// Members that are here and were not impaired.
    fn sound(&self) -> Vec<usize> {
        let is_sound = |number: &usize| !self.impaired.contains(number);
        self.members.iter().copied().filter(is_sound).collect()
    }

    fn may_lose(&self) -> usize {
        self.budget.saturating_sub(self.losses)
    }

    fn lose(&mut self, number: usize) {
        if self.impaired.insert(number) {
            self.losses += 1;
        }
    }

    fn impair(&mut self) -> Result<(), String> {
        if self.may_lose() == 0 {
            return self.operate();
        }
        let sound = self.sound();
        let Some(number) = self.pick(&sound) else {
            return Ok(());
        };
        let skip = self.rng.below(6) as u32;
        let (seed, cached) = (self.rng.bits(), self.rng.below(2) == 0);
        let (what, fault) = match self.rng.below(7) {
            0 => ("flush fails", Fault::FlushFails { skip, seed, cached }),
            1 => ("write error", Fault::WriteError { skip }),
            2 => ("no space", Fault::NoSpace { skip }),
            3 => ("vanish", Fault::Vanish { skip }),
            4 => {
                let times = 1 + self.rng.below(30) as u32;
                ("read errors", Fault::ReadErrors { skip, times })
            }
            5 => {
                self.rot(number);
                return self.operate();
            }
            _ => {
                self.dead.insert(number);
                ("gone for good", Fault::Vanish { skip })
            }
        };
        self.say(format!("disk {number}: {what}"));
        self.counts.add(what);
        self.lose(number);
        self.disks.sims[number].inject(fault);
        self.operate()
    }

    /// Bits flip on one disk, in what was written.
    fn rot(&mut self, number: usize) {
        self.say(format!("disk {number}: rot"));
        self.counts.add("rot");
        self.lose(number);
        self.dead.insert(number);
        let disk = self.disks.sims[number].clone();
        let medium = disk.medium();
        let mut flipped = 0;
        for _ in 0..2_000 {
            // Behind the superblock's area: without that the disk is merely missing.
            let begin = CAPACITY / 4;
            let offset = begin + self.rng.below(CAPACITY - begin);
            if medium.read(offset, 1) != [0] && flipped < 40 {
                flipped += 1;
                let bit = self.rng.below(8) as u8;
                disk.inject(Fault::BitFlip {
                    offset,
                    bit,
                    cached: false,
                });
            }
        }
        disk.chill();
    }

    /// The set stops, in good order or by a power cut, and starts again, perhaps without some
    /// disks.
    fn restart(&mut self, power_cut: bool) -> Result<(), String> {
        let mut absent: BTreeSet<usize> = self.dead.iter().copied().collect();
        for number in self.sound() {
            if absent.difference(&self.impaired).count() < self.may_lose() && self.rng.below(3) == 0
            {
                absent.insert(number);
            }
        }
        for number in self.impaired.clone() {
            if self.rng.below(2) == 0 {
                absent.insert(number);
            }
        }
        if power_cut {
            self.counts.add("power cuts");
            self.cut()?;
        } else {
            self.counts.add("clean restarts");
            if let Some(set) = self.set.take() {
                set.close();
            }
            self.say("closed");
        }
        self.deletions.clear();
        self.open(absent)?;
        self.check_all()
    }

    /// The power fails while something is written.
    fn cut(&mut self) -> Result<(), String> {
        let micros = self.rng.below(20_000);
        let (power, seed) = (self.disks.power.clone(), self.rng.bits());
        let cutter = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(micros));
            power.store(false, Ordering::SeqCst);
        });
        while self.disks.power.load(Ordering::SeqCst) {
            let key = format!("k{}", self.rng.below(KEYS));
            match self.rng.below(4) {
                0 => self.delete(&key),
                _ => drop(self.put(&key)),
            }
        }
        if cutter.join().is_err() {
            return Err("the power could not be cut".to_owned());
        }
        if let Some(set) = self.set.take() {
            kill(set, &mut self.disks, seed);
        }
        self.disks.power.store(true, Ordering::SeqCst);
        self.say("power cut");
        Ok(())
    }

    /// Opens the set without some disks.
    fn open(&mut self, absent: BTreeSet<usize>) -> Result<(), String> {
        for number in self.impaired.clone() {
            self.bring_back(number);
        }
        let (mut absent, mut forced) = (absent, false);
        let until = Instant::now() + REST_MAX;
        loop {
            let named: Vec<usize> = self
                .members
                .iter()
                .chain(&self.coming)
                .copied()
                .filter(|number| !absent.contains(number))
                .collect();
            self.say(format!("opens {named:?} of {:?}", self.members));
            let usable: Vec<usize> = named
                .iter()
                .copied()
                .filter(|n| self.can_open(*n))
                .collect();
            for number in named.iter().filter(|number| !usable.contains(number)) {
                // Its own description is damaged: it is like one that is gone.
                if !self.impaired.contains(number) {
                    return Err(format!(
                        "disk {number} cannot be opened, and nothing befell it"
                    ));
                }
                self.dead.insert(*number);
                absent.insert(*number);
            }
            let options = VolumeOptions {
                start_degraded: forced,
                ..VolumeOptions::default()
            };
            match self.disks.open_with(&usable, options) {
                Ok(set) => {
                    for number in &absent {
                        if self.members.contains(number) {
                            self.lose(*number);
                        }
                    }
                    let volume = set.volume.clone();
                    set.refer_to(move || all_blobs(&volume));
                    self.set = Some(set);
                    return self.take_members();
                }
                Err(VolumeError::Set { why }) if why.contains("left the set") => {
                    let left = usable.iter().copied().find(|number| {
                        why.contains(&format!("/disk/{number} ")) && self.leaving.contains(number)
                    });
                    let Some(left) = left else {
                        return Err(format!("a disk was told that it left the set: {why}"));
                    };
                    self.say(format!("disk {left} has left"));
                    self.members.remove(&left);
                    self.leaving.remove(&left);
                    self.impaired.remove(&left);
                }
                // Half of the disks cannot know what the other half did: they all come back.
                Err(VolumeError::Set { why })
                    if why.contains("--start-degraded")
                        && 2 * absent.len() >= self.members.len() =>
                {
                    self.counts.add("refused starts");
                    self.say(format!("refused: {why}"));
                    let back: Vec<usize> = absent.difference(&self.dead).copied().collect();
                    // Those that are lost for good: nobody else has gone on without these.
                    forced = back.is_empty();
                    absent.retain(|number| !back.contains(number));
                }
                Err(error) => return Err(format!("the set does not open: {error}")),
            }
            if Instant::now() > until {
                return Err("the set does not open for long".to_owned());
            }
        }
    }

    /// A disk that vanished is there again, and nothing more befalls it.
    fn bring_back(&mut self, number: usize) {
        let disk = &self.disks.sims[number];
        disk.calm();
        if disk.is_removed() {
            disk.give_back(&mut self.rng);
        }
    }

    /// Whether a disk's store opens at all.
    fn can_open(&self, number: usize) -> bool {
        let disk = self.disks.sims[number].clone();
        volume::shardstore::Store::open(disk, volume::shardstore::Options::default()).is_ok()
    }

    /// Who belongs to the set, by what it says itself.
    fn take_members(&mut self) -> Result<(), String> {
        let stats = self.set()?.volume.stats();
        let here = stats.disks.iter().map(|disk| disk.identity.disk);
        let absent = stats.absent.iter().map(|member| member.disk);
        let ids: BTreeSet<[u8; 16]> = here.chain(absent).collect();
        let numbers = (0..self.disks.sims.len()).filter(|number| ids.contains(&id(*number)));
        self.members = numbers.collect();
        self.coming.retain(|number| !self.members.contains(number));
        self.leaving.retain(|number| self.members.contains(number));
        self.impaired.retain(|number| self.members.contains(number));
        self.dead.retain(|number| self.members.contains(number));
        Ok(())
    }

    fn slot_of(&self, number: usize) -> Result<Option<usize>, String> {
        let stats = self.set()?.volume.stats();
        let here = stats
            .disks
            .iter()
            .map(|disk| (disk.identity.disk, disk.slot));
        let absent = stats.absent.iter();
        let absent = absent.map(|member| (member.disk, usize::from(member.slot)));
        let found = here.chain(absent).find(|(disk, _)| *disk == id(number));
        Ok(found.map(|(_, slot)| slot))
    }

    /// A member that is gone is replaced, or one that is back is added again.
    fn mend(&mut self) -> Result<(), String> {
        let impaired: Vec<usize> = self.impaired.iter().copied().collect();
        let Some(number) = self.pick(&impaired) else {
            return self.operate();
        };
        self.mend_one(number)?;
        self.operate()
    }

    fn mend_one(&mut self, number: usize) -> Result<(), String> {
        let Some(slot) = self.slot_of(number)? else {
            return Ok(());
        };
        self.let_go(number)?;
        let set = self.set()?;
        let is_live = set.volume.stats().disks.iter().any(|disk| {
            disk.slot == slot && disk.failure.is_none() && disk.state == volume::MemberState::Live
        });
        if self.leaving.contains(&number) && is_live {
            return Ok(());
        }
        if !self.dead.contains(&number) {
            if is_live {
                // What was to befall it did not, or did no harm.
                self.disks.sims[number].calm();
                return Ok(());
            }
            self.bring_back(number);
            if !self.can_open(number) {
                self.dead.insert(number);
                return Ok(());
            }
            let added = self.set()?.volume.add_disk(self.disks.disk(number));
            self.say(format!("disk {number} is back: {added:?}"));
            self.counts.add("disks back");
            return Ok(());
        }
        if self.disks.sims.len() >= DISKS_MAX {
            return Ok(());
        }
        let new = self.new_disk();
        let replaced = self
            .set()?
            .volume
            .replace_disk(slot, self.disks.disk(new), false);
        self.say(format!("disk {new} for disk {number}: {replaced:?}"));
        if matches!(replaced, Err(VolumeError::Set { .. })) {
            // Nothing was written anywhere: the disk is there for the next attempt.
            self.disks.sims.pop();
        }
        if replaced.is_ok() {
            self.counts.add("disks replaced");
            self.coming.insert(new);
            if is_live {
                self.leaving.insert(number);
            }
        }
        self.take_members()
    }

    /// A disk that failed, and was taken out, is closed.
    fn let_go(&mut self, number: usize) -> Result<(), String> {
        let set = self.set()?;
        for disk in set.volume.disks() {
            let store = disk.engine.store();
            if store.identity().disk == id(number) && store.failure().is_some() {
                set.volume.let_go(&disk);
            }
        }
        Ok(())
    }

    fn new_disk(&mut self) -> usize {
        let new = self.disks.sims.len();
        self.disks.sims.push(formatted(id(new), [2; 16]));
        new
    }

    fn grow(&mut self) -> Result<(), String> {
        let is_quiet = self.impaired.is_empty() && self.losses == 0;
        let fits = self.members.len() < MEMBERS_MAX && self.disks.sims.len() < DISKS_MAX;
        if !is_quiet || !fits || !self.coming.is_empty() || !self.leaving.is_empty() {
            return self.operate();
        }
        let new = self.new_disk();
        let replaces = self.rng.one_in(2);
        let volume = &self.set()?.volume;
        let only = volume.stats().disks.first().map(|disk| disk.slot);
        if let Some(slot) = only.filter(|_| volume.is_single() && self.members.len() == 1)
            && replaces
        {
            let added = volume.replace_disk(slot, self.disks.disk(new), false);
            let added = added.map_err(|error| format!("disk {new} is not taken: {error}"))?;
            self.say(format!(
                "disk {new} takes the place of the only one: {added:?}"
            ));
            self.counts.add("only disks replaced");
            let only: Vec<usize> = self.members.iter().copied().collect();
            self.leaving.extend(only);
            self.coming.insert(new);
            self.take_members()?;
            self.narrow_budget()?;
            return self.operate();
        }
        let added = volume.add_disk(self.disks.disk(new));
        let added = added.map_err(|error| format!("disk {new} is not taken: {error}"))?;
        self.say(format!("disk {new} is added: {added:?}"));
        self.counts.add("disks added");
        self.coming.insert(new);
        self.take_members()?;
        self.narrow_budget()?;
        self.operate()
    }

    fn shrink(&mut self) -> Result<(), String> {
        let is_quiet = self.impaired.is_empty() && self.losses == 0;
        if !is_quiet
            || self.members.len() < 3
            || !self.coming.is_empty()
            || !self.leaving.is_empty()
        {
            return self.operate();
        }
        let members: Vec<usize> = self.members.iter().copied().collect();
        let Some(number) = self.pick(&members) else {
            return Ok(());
        };
        let Some(slot) = self.slot_of(number)? else {
            return Ok(());
        };
        let set = self.set()?;
        let movement = set.volume.measure(volume::Change::Drain { slot });
        let movement = movement.map_err(|error| format!("draining cannot be measured: {error}"))?;
        if movement.stuck > 0 {
            self.counts.add("drains refused");
            return self.operate();
        }
        let drained = set.volume.drain_disk(slot, true);
        drained.map_err(|error| format!("disk {number} cannot be drained: {error}"))?;
        self.say(format!("disk {number} is drained"));
        self.counts.add("disks drained");
        self.leaving.insert(number);
        self.narrow_budget()?;
        self.operate()
    }

    fn scrub(&mut self) -> Result<(), String> {
        self.counts.add("scrubs");
        let set = self.set()?;
        for disk in set.volume.stats().disks {
            let _ = set.volume.ask_for_scrub(disk.slot);
        }
        let until = Instant::now() + Duration::from_secs(2);
        while set
            .volume
            .stats()
            .disks
            .iter()
            .any(|disk| disk.scrub.is_asked)
            && Instant::now() < until
        {
            set.volume.scrub(Duration::ZERO);
        }
        Ok(())
    }

    fn narrow_budget(&mut self) -> Result<(), String> {
        self.budget = self.budget.min(self.what_may_be_lost()?);
        Ok(())
    }

    // What must be so in the end.

    /// All disks are brought back or replaced; waits until everything is made up for, and looks
    /// whether it is.
    fn settle(&mut self) -> Result<(), String> {
        let until = Instant::now() + REST_MAX;
        let mut next_try = Instant::now();
        loop {
            if Instant::now() >= next_try {
                next_try = Instant::now() + Duration::from_millis(300);
                for number in self.impaired.clone() {
                    self.mend_one(number)?;
                }
                for number in self.coming.clone() {
                    let is_joining = self.set()?.volume.stats().joining.is_some();
                    if self.slot_of(number)?.is_none() && !is_joining && self.can_open(number) {
                        let disk = self.disks.disk(number);
                        let volume = &self.set()?.volume;
                        // The only one is to leave: another one takes its place.
                        let leaves = volume.is_single() && !self.leaving.is_empty();
                        let only = volume.stats().disks.first().map(|disk| disk.slot);
                        let added = match only.filter(|_| leaves) {
                            Some(slot) => volume.replace_disk(slot, disk, false),
                            None => volume.add_disk(disk),
                        };
                        self.say(format!("disk {number} is added again: {added:?}"));
                    }
                }
                self.take_members()?;
                self.sweep()?;
            }
            let set = self.set()?;
            let _ = set.volume.housekeep();
            let stats = set.volume.stats();
            let is_at_rest = self.coming.is_empty()
                && self.leaving.is_empty()
                && self.dead.is_empty()
                && stats.joining.is_none()
                && set.volume.deletions_settled();
            let is_whole = set.volume.is_single()
                || (set.volume.is_healed() && set.volume.is_whole() && stats.is_tidy);
            if is_at_rest && is_whole {
                break;
            }
            if Instant::now() > until {
                let volume = &set.volume;
                let disks: Vec<_> = stats
                    .disks
                    .iter()
                    .map(|disk| (&disk.name, disk.state, &disk.failure, disk.space.free))
                    .collect();
                return Err(format!(
                    "it does not come to rest: coming {:?}, leaving {:?}, dead {:?}, impaired \
                     {:?}; healed {}, whole {}, tidy {}, deletions {}; metadata on {:?}, refused \
                     {:?}, {:?}, disks {disks:?}, events {:?}, \
                     failure {:?}",
                    self.coming,
                    self.leaving,
                    self.dead,
                    self.impaired,
                    volume.is_healed(),
                    volume.is_whole(),
                    stats.is_tidy,
                    volume.deletions_settled(),
                    volume.metadata_receipt().to_string(),
                    stats.refusal,
                    stats.ledger,
                    volume.take_events(),
                    set.failure
                ));
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        for (blob, deletion) in std::mem::take(&mut self.deletions) {
            if matches!(deletion.outcome(), Some(Ok(()))) {
                self.gone.insert(blob);
            }
        }
        self.say("at rest");
        self.counts.add("at rest");
        // What has not happened yet may still happen.
        let sims = &self.disks.sims;
        self.impaired
            .retain(|number| sims[*number].armed() > 0 || sims[*number].is_removed());
        self.losses = self.impaired.len();
        self.budget = self.what_may_be_lost()?;
        let key = format!("k{}", self.rng.below(KEYS));
        if !self.put(&key) && self.impaired.is_empty() {
            return Err("nothing is wrong, and a write is refused".to_owned());
        }
        self.check_all()?;
        self.audit()
    }

    /// As many disks as have parity, of what is written today and of what was written when the set
    /// was another one.
    fn what_may_be_lost(&self) -> Result<usize, String> {
        let set = self.set()?;
        let mut least = set.volume.scheme().m;
        for key in self.model.keys() {
            let found = find(&set.volume, &key).map_err(|error| format!("{key}: {error}"))?;
            if let Some(blob) = found
                .and_then(|(_, blob)| blob)
                .filter(|blob| blob.scheme.k > 1)
            {
                least = least.min(blob.scheme.m);
            }
        }
        Ok(usize::from(least))
    }

    /// Deletes what crashes left of blobs that nothing came to refer to, as the room above does.
    fn sweep(&mut self) -> Result<(), String> {
        let set = self.set()?;
        let mut referred = BTreeSet::new();
        for key in self.model.keys() {
            let found = find(&set.volume, &key).map_err(|error| format!("{key}: {error}"))?;
            referred.extend(found.and_then(|(_, blob)| blob).map(|blob| blob.id));
        }
        let mut next = Some(volume::BlobId::FIRST);
        while let Some(from) = next {
            let snapshot = set.volume.snapshot();
            let found = block_on(snapshot.blob_at_or_after(from));
            let Some(frame) = found.map_err(|error| format!("the sweep: {error}"))? else {
                break;
            };
            if frame.blob.epoch < set.volume.epoch() && !referred.contains(&frame.blob) {
                let deleted = block_on(set.volume.delete_orphan(&snapshot, frame.blob));
                deleted.map_err(|error| format!("the sweep: {error}"))?;
            }
            next = frame.blob.successor();
        }
        Ok(())
    }

    /// Looks at the disks themselves.
    fn audit(&mut self) -> Result<(), String> {
        // The write before it, and what it replaced.
        let until = Instant::now() + REST_MAX;
        while !self.set()?.volume.deletions_settled() {
            let _ = self.set()?.volume.housekeep();
            if Instant::now() > until {
                return Err("a deletion does not end".to_owned());
            }
        }
        let set = self.set()?;
        let engines: Vec<_> = set
            .volume
            .disks()
            .into_iter()
            .enumerate()
            .map(|(at, disk)| (at, disk.engine))
            .collect();
        let shards = audit::shards(&engines)?;
        let scheme: Scheme = set.volume.scheme();
        for key in self.model.keys() {
            let found = find(&set.volume, &key).map_err(|error| error.to_string())?;
            let Some((_, Some(blob))) = found else {
                continue;
            };
            let Some(of) = shards.get(&id_of(&blob)) else {
                return Err(format!("{key}: there is nothing of blob {}", blob.id));
            };
            let copies = usize::from(scheme.m.max(blob.scheme.m)) + 1;
            let copies = copies.min(engines.len());
            audit::check(of, blob.stripes(), (blob.scheme.k, blob.scheme.m), copies)
                .map_err(|why| format!("{key}, blob {}, of {}: {why}", blob.id, blob.scheme))?;
        }
        if let Some(back) = self.gone.iter().find(|blob| shards.contains_key(*blob)) {
            return Err(format!(
                "blob {} was deleted, and is there: {:?}",
                volume::BlobId::from_bytes(*back),
                shards[back]
            ));
        }
        let ledger = set.volume.stats().ledger;
        if ledger.owing() != 0 || ledger.bytes_owing != 0 {
            return Err(format!("nothing is owing, and the ledger says {ledger:?}"));
        }
        Ok(())
    }
}

/// The UUID of a disk.
fn id(number: usize) -> [u8; 16] {
    [number as u8 + 1; 16]
}

/// A value, and its blob, as a record says it.
type Found = Option<(Value, Option<BlobRef>)>;

fn find(volume: &Volume, key: &str) -> Result<Found, VolumeError> {
    let found = block_on(volume.snapshot().meta_get(&meta_key(key)))?;
    let Some(entry) = found else {
        return Ok(None);
    };
    let word = |at: usize| {
        let word = entry
            .value
            .get(at..at + 8)
            .and_then(|word| word.first_chunk());
        word.map_or(0, |word| u64::from_le_bytes(*word))
    };
    let value = Value {
        len: word(0) as usize,
        seed: word(8),
    };
    let blob = entry.value.get(16..).filter(|blob| !blob.is_empty());
    Ok(Some((value, blob.map(BlobRef::decode).transpose()?)))
}

/// What the records refer to.
fn all_blobs(volume: &Volume) -> Vec<BlobRef> {
    let keys = (0..KEYS).map(|number| format!("k{number}"));
    let found = keys.filter_map(|key| find(volume, &key).ok()??.1);
    found.collect()
}

fn body_beside(set: &Set, key: &str) -> Result<Vec<u8>, VolumeError> {
    let body = set.volume.snapshot();
    let body = block_on(body.meta_body(&meta_key(key), 0..u32::MAX))?;
    Ok(body.unwrap_or_default())
}

fn sum(set: &Set) -> Result<u64, VolumeError> {
    let found = block_on(set.volume.snapshot().meta_get(&meta_key("sum")))?;
    let word = found.as_ref().and_then(|entry| entry.value.first_chunk());
    Ok(word.map_or(0, |word| u64::from_le_bytes(*word)))
}

/// Writes a value as the room above does: the blob first, then the record that refers to it.
fn write(set: &Set, key: &str, value: Option<(Value, bool)>) -> Result<(), VolumeError> {
    let batch = MetaBatch::new().merge(&meta_key("sum"), &[1]);
    let Some((value, is_inline)) = value else {
        let batch = batch.delete(&meta_key(key));
        return Ok(block_on(set.volume.commit(batch)?)?);
    };
    let mut record = (value.len as u64).to_le_bytes().to_vec();
    record.extend_from_slice(&value.seed.to_le_bytes());
    let body = bytes(value.len, value.seed);
    if is_inline {
        let batch = batch.put(&meta_key(key), record, body);
        return Ok(block_on(set.volume.commit(batch)?)?);
    }
    block_on(async {
        let mut writer = set.volume.blob_writer(b"label".to_vec(), None)?;
        for piece in body.chunks(1_500) {
            writer.write(piece).await?;
        }
        let finished = writer.finish(Vec::new()).await?;
        finished.blob().encode(&mut record);
        let mut batch = batch.put(&meta_key(key), record, Vec::new());
        for dependency in finished.dependencies() {
            batch = batch.after(dependency.clone());
        }
        let committed = set.volume.commit(batch)?;
        // Something refers to it, or may.
        finished.keep();
        Ok(committed.await?)
    })
}
