//! Disks that come to a set and leave it, while it serves.
//!
//! What must always hold:
//! - the next generation is durable on all of its live members before it counts, and on a quorum
//!   of the members before it;
//! - a disk that is drained leaves only when it holds nothing; what it held was read back from the
//!   others' media before it was removed from this one;
//! - a set of one disk becomes one of several only when the second disk has all of its metadata:
//!   until then it is what it was, also after a crash;
//! - a disk that takes the place of the only one makes a set of two of it, of which the old one is
//!   drained; and the metadata stays on both until it has left.

use std::time::{Duration, Instant};

use shardstore::{Batch, Engine};

use crate::blob::SHARD_PREFIX;
use crate::heal::{needs, next_stripes};
use crate::keep::{State, has_failed};
use crate::limits::COPY_ENTRIES;
use crate::membership::{MemberState, Membership};
use crate::meta::META_PREFIX;
use crate::mirror::OWN_PREFIX;
use crate::placement::Place;
use crate::plan::{Outlook, plan};
use crate::start::{holds_nothing, is_addable, read_membership, tell};
use crate::table::{SetDisk, Table, describe, uuid};
use crate::volume::lock;
use crate::{Result, Scheme, Volume, VolumeError};

/// A disk that comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A new disk, of so many bytes.
    Add {
        /// Its capacity.
        capacity: u64,
    },
    /// The disk in a slot is emptied, and leaves.
    Drain {
        /// Its number in the set.
        slot: usize,
    },
    /// A new disk takes the place of the one in a slot.
    Replace {
        /// Its number in the set.
        slot: usize,
        /// The new one's capacity, in bytes.
        capacity: u64,
    },
    /// The disk in a slot, which is gone, does not come back.
    Remove {
        /// Its number in the set.
        slot: usize,
    },
}

/// What a change makes the disks write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Movement {
    /// Shards that are written to another disk.
    pub shards: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries of metadata that are copied to another disk.
    pub metadata_entries: u64,
    /// Their bytes.
    pub metadata_bytes: u64,
    /// Shards for which no disk would be left: their stripes are wider than the set would be.
    pub stuck: u64,
}

/// What became of a disk that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is a new member.
    Member(usize),
    /// It was one before, and catches up.
    Back(usize),
    /// It becomes the second disk of the set as soon as it has all metadata.
    Second,
    /// As the second, and the first one is emptied then, and leaves.
    Successor,
}

fn refused<T>(why: String) -> Result<T> {
    Err(VolumeError::Set { why })
}

/// Stands for a disk that has no UUID yet.
const UNKNOWN: [u8; 16] = [0xFF; 16];

/// How often it is looked whether a disk that is drained is empty.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

impl Volume {
    /// Takes another disk into the set: a new one, or a member that was away. Blocks while a few
    /// records are written; what the disk is to hold comes to it afterwards.
    ///
    /// # Errors
    /// [`VolumeError::Set`] says why not, and what to do. The disk's engine is stopped then.
    pub fn add_disk(&self, disk: SetDisk) -> Result<Added> {
        let engine = disk.engine.clone();
        let added = self.try_add(disk, None, false);
        if added.is_err() {
            // What it says does not matter any more.
            let _ = self.close_engine(&engine);
        }
        added
    }

    /// Has a new disk take the place of a member: of one that is gone at once, of one that is
    /// there by draining it. One that is gone although something cannot be read without it is
    /// replaced only with `accept_loss`. As [`add_disk`](Volume::add_disk).
    ///
    /// # Errors
    /// As [`add_disk`](Volume::add_disk).
    pub fn replace_disk(&self, slot: usize, disk: SetDisk, accept_loss: bool) -> Result<Added> {
        let engine = disk.engine.clone();
        let added = self.try_add(disk, Some(slot), accept_loss);
        if added.is_err() {
            let _ = self.close_engine(&engine);
        }
        added
    }

    /// Closes a disk that failed and was taken out of the live ones, so that it can be opened again.
    pub fn let_go(&self, disk: &SetDisk) {
        let mut state = lock(&self.inner.keeping.state);
        let table = self.table();
        let id = disk.engine.store().identity().disk;
        let is_it = |slot: &usize| {
            let here = table.disk(*slot);
            here.is_some_and(|here| here.engine.store().identity().disk == id)
        };
        let slot = table.here().find(is_it);
        if let Some(slot) = slot.filter(|slot| !table.live().any(|live| live == *slot)) {
            if state.fill.as_ref().is_some_and(|fill| fill.slot == slot) {
                self.stop_filling(&mut state);
            }
            self.install(table.with_disk(slot, None));
            let _ = self.close_engine(&disk.engine);
        }
    }

    fn try_add(
        &self,
        disk: SetDisk,
        instead_of: Option<usize>,
        accept_loss: bool,
    ) -> Result<Added> {
        // Before the lock: whoever closes the set must not wait for a disk that never answers.
        let engine = disk.engine.clone();
        let _guest = self.watch_guest(&engine);
        let mut state = lock(&self.inner.keeping.state);
        let table = self.table();
        let identity = disk.engine.store().identity();
        let set = table.disks.iter().flatten().next();
        let set = set.map(|disk| disk.engine.store().identity().set);
        if set.is_some_and(|set| set != identity.set) {
            return refused(format!(
                "{} belongs to another set, {}: empty it first if nothing on it is needed",
                disk.name,
                uuid(&identity.set)
            ));
        }
        let old = instead_of.map(|slot| member_at(&table, slot)).transpose()?;
        match table.membership.of(&identity.disk) {
            Some(member) if member.state == MemberState::Retired => {
                return refused(format!(
                    "{} left the set: it was removed or replaced. Empty it to use it again",
                    disk.name
                ));
            }
            Some(_) if instead_of.is_some() => {
                return refused(format!(
                    "{} belongs to the set already: a disk is replaced by an empty one",
                    disk.name
                ));
            }
            Some(member) => {
                let slot = usize::from(member.slot);
                return self.rejoin(&mut state, &table, slot, disk);
            }
            None => {}
        }
        let members = table.membership.active().map(|member| member.disk);
        if !is_addable(&disk.engine, &members.collect::<Vec<_>>())? {
            return refused(format!(
                "{} is not empty: it is, or was, in use by itself or by other disks. Empty it \
                 first if nothing on it is needed",
                disk.name
            ));
        }
        // What an attempt that was cut off left behind.
        wipe(&disk.engine)?;
        let payload = disk.engine.store().geometry().payload_bytes_max;
        if payload < self.shard_bytes(Scheme { k: 1, m: 0 }) {
            return refused(format!(
                "{} is too small for the shards of this set, of up to {} bytes",
                disk.name,
                self.shard_bytes(Scheme { k: 1, m: 0 })
            ));
        }
        if table.is_single() {
            return self.begin_growth(&mut state, &table, disk, instead_of);
        }
        self.may_change(&state)?;
        let gone = old.filter(|old| !is_there(&table, *old));
        let ledger = self.inner.keeping.ledger();
        let lost = ledger.lost;
        let may_have_lost = self.lacking() > usize::from(table.scheme().m);
        if gone.is_some() && may_have_lost && !ledger.is_settled && !accept_loss {
            return refused(
                "more disks are missing than there is parity, and not all stripes were looked at \
                 since: wait until `cullet disk status` says so, or use --accept-loss"
                    .to_owned(),
            );
        }
        if gone.is_some() && lost > 0 && !accept_loss {
            // It may be what a crash left of something that nothing refers to, and be gone soon.
            self.look_for_missing_shards();
            return refused(format!(
                "{lost} stripes cannot be read without the disks that are missing: bring this one \
                 back. If it is lost for good, --accept-loss replaces it all the same"
            ));
        }
        let mut membership = table.membership.clone();
        if let Some(gone) = gone {
            membership = membership.with_retired(gone);
            state.left_gone += 1;
        }
        let Some((added, slot)) = membership.with_added(identity.disk) else {
            return refused(format!(
                "a set has at most {} disks: drain one first",
                crate::limits::DISKS_MAX
            ));
        };
        membership = added;
        if let Some(old) = old.filter(|_| gone.is_none()) {
            membership = membership.with_draining(old, true);
        }
        // It may have the number of the one that is gone.
        let leaves = gone.and_then(|gone| table.disk(gone)).cloned();
        let mut next = Table::clone(&table);
        if let Some(gone) = gone {
            next = next.with_disk(gone, None);
            next.slices = without(&table, gone);
        }
        next = next.with_disk(slot, Some(disk));
        next.membership = membership;
        self.make(&mut state, &table, next)?;
        if let Some(left) = leaves {
            let _ = self.close_engine(&left.engine);
        }
        self.say_added(slot);
        Ok(Added::Member(slot))
    }

    /// A member that was away is there again: it catches up on what it missed.
    fn rejoin(
        &self,
        state: &mut State,
        table: &Table,
        slot: usize,
        disk: SetDisk,
    ) -> Result<Added> {
        if is_there(table, slot) {
            return refused(format!(
                "{} is in the set already, as disk {slot}: this one, or what it is a copy of",
                disk.name
            ));
        }
        let known = read_membership(&disk.engine)?;
        // A generation that a live disk which is here does not know of never counted.
        let never_counted = |known: &Membership| {
            let mut live = known.live();
            live.any(|member| {
                let here = table.live().filter_map(|slot| table.membership.at(slot));
                here.into_iter().any(|here| here.disk == member.disk)
            })
        };
        let may_return = known.is_some_and(|known| {
            let is_older = known.age() <= (table.membership.epoch, state.newest(table));
            let may = is_older || never_counted(&known);
            state.pass(known.generation);
            may
        });
        if !may_return {
            return refused(format!(
                "{} knows of members that this server does not: stop the server, and start it \
                 with all disks",
                disk.name
            ));
        }
        let mut live: Vec<usize> = table.live().collect();
        live.push(slot);
        let mut next = table.with_disk(slot, Some(disk));
        next.slices = without(&next, slot);
        next.membership = table.membership.with_live(&live);
        let before = table.disk(slot).cloned();
        self.make(state, table, next)?;
        if let Some(before) = before {
            let _ = self.close_engine(&before.engine);
        }
        Ok(Added::Back(slot))
    }

    /// Whether the set can be another one at all before a restart.
    fn may_change(&self, state: &State) -> Result<()> {
        if let Some(why) = &state.is_undecided {
            return refused(why.clone());
        }
        if self.inner.is_read_only {
            return refused(
                "too few disks were there when the server started, so that nothing may be \
                 written: start it again with more of them. What can be read can be copied out \
                 meanwhile"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Has the members and the map of a table be those of the next generation.
    fn make(&self, state: &mut State, table: &Table, mut next: Table) -> Result<()> {
        self.may_change(state)?;
        if next.replicas().is_empty() {
            return refused("no other disk has the metadata".to_owned());
        }
        let live: Vec<usize> = next
            .live()
            .filter(|slot| !has_failed(&next, *slot))
            .collect();
        if let Err(why) = table.membership.check_next(&next.membership, &live) {
            return refused(why);
        }
        next.membership = next.membership.with_live(&live);
        state.write(&table.membership, &mut next)?;
        let is_single = next.is_single();
        self.install(next);
        if is_single {
            self.inner.keeping.forget_walks(state);
        }
        Ok(())
    }

    /// The second disk of a set that has one; it may be there to take that one's place.
    fn begin_growth(
        &self,
        state: &mut State,
        table: &Table,
        disk: SetDisk,
        instead_of: Option<usize>,
    ) -> Result<Added> {
        if table.candidate().is_some() {
            return refused("another disk is being added: wait until it is in the set".to_owned());
        }
        if let Some(old) = instead_of {
            let space = disk.engine.store().space();
            has_room_for(table, old, space.capacity - space.reserve)?;
        }
        let (_, slot) = table
            .membership
            .with_added(disk.engine.store().identity().disk)
            .ok_or(VolumeError::NotOneSlice)?;
        state.succeeds = instead_of.is_some();
        self.install(table.with_disk(slot, Some(disk)));
        Ok(match state.succeeds {
            true => Added::Successor,
            false => Added::Second,
        })
    }

    /// The members of a set that was of one disk, which the second one adds to or takes the place
    /// of.
    pub(crate) fn with_second_disk(
        &self,
        table: &Table,
        slot: usize,
        succeeds: bool,
    ) -> Result<Membership> {
        let id = table.engine(slot)?.store().identity().disk;
        let grown = table.membership.with_added(id);
        let grown = grown.filter(|(_, its)| *its == slot);
        let (mut grown, _) = grown.ok_or(VolumeError::NotOneSlice)?;
        if succeeds {
            grown = grown.with_draining(table.primary()?, true);
        }
        grown.epoch = self.inner.epoch;
        Ok(grown)
    }

    /// The members of the set after a second disk was not taken that may think it was.
    pub(crate) fn without_second_disk(&self, table: &Table, slot: usize) -> Result<Membership> {
        let grown = self.with_second_disk(table, slot, false)?;
        Ok(grown.with_retired(slot))
    }

    pub(crate) fn say_added(&self, slot: usize) {
        let table = self.table();
        let name = table.disk(slot).map_or("a disk", |disk| &disk.name);
        let event = format!("{name} is disk {slot} of the set now");
        self.inner.keeping.tell(event);
    }

    /// Takes a disk out that is no member.
    pub(crate) fn forget(&self, table: &Table, slot: usize) {
        let disk = table.disk(slot).cloned();
        self.install(table.with_disk(slot, None));
        if let Some(disk) = disk {
            let _ = self.close_engine(&disk.engine);
        }
    }

    /// Puts nothing new on a disk from now on, brings what it has to the others, and has it leave
    /// the set when it is empty; or ends that (`false`).
    ///
    /// # Errors
    /// [`VolumeError::Set`] says why not, and what to do.
    pub fn drain_disk(&self, slot: usize, is_draining: bool) -> Result<()> {
        let mut state = lock(&self.inner.keeping.state);
        let table = self.table();
        let slot = member_at(&table, slot)?;
        if table.is_single() && table.candidate().is_some() && !is_draining {
            // It is not drained yet, and is not going to be.
            state.succeeds = false;
            return Ok(());
        }
        if is_draining && !is_there(&table, slot) {
            return refused(
                "this disk is not there, so that nothing can be brought from it to the others: \
                 bring it back, or take it out with `cullet disk remove`"
                    .to_owned(),
            );
        }
        if table.is_draining(slot) == is_draining {
            return Ok(());
        }
        let mut next = Table::clone(&table);
        next.membership = table.membership.with_draining(slot, is_draining);
        self.make(&mut state, &table, next)
    }

    /// Takes a disk out of the set that is gone. With `accept_loss` also if something cannot be
    /// read without it.
    ///
    /// # Errors
    /// [`VolumeError::Set`] says why not, and what to do.
    pub fn remove_disk(&self, slot: usize, accept_loss: bool) -> Result<()> {
        let mut state = lock(&self.inner.keeping.state);
        let table = self.table();
        let slot = member_at(&table, slot)?;
        if is_there(&table, slot) {
            return refused(
                "this disk is there: drain it, and it leaves the set when it is empty".to_owned(),
            );
        }
        self.may_change(&state)?;
        let ledger = self.inner.keeping.ledger();
        if !accept_loss && ledger.lost > 0 {
            self.look_for_missing_shards();
            return refused(format!(
                "{} stripes cannot be read without the disks that are missing: bring this one \
                 back. If it is lost for good, --accept-loss takes it out all the same",
                ledger.lost
            ));
        }
        if !accept_loss && !ledger.is_settled {
            return refused(
                "not all stripes were looked at since a disk went: wait until `cullet disk status` \
                 says so, or use --accept-loss"
                    .to_owned(),
            );
        }
        let mut next = Table::clone(&table);
        next.membership = table.membership.with_retired(slot);
        if table.membership.successor() == Some(slot) {
            // The one whose place it was to take stays after all.
            for other in table.live() {
                next.membership = next.membership.with_draining(other, false);
            }
        }
        next.slices = without(&next, slot);
        state.left_gone += 1;
        let left = next.disks.get_mut(slot).and_then(Option::take);
        self.make(&mut state, &table, next)?;
        if let Some(left) = left {
            let _ = self.close_engine(&left.engine);
        }
        Ok(())
    }

    /// One look whether a disk that is drained is empty; it leaves the set then.
    pub(crate) fn finish_draining(&self, state: &mut State) -> Result<bool> {
        let table = self.table();
        let now = Instant::now();
        if state.next_look.is_some_and(|at| now < at) {
            return Ok(false);
        }
        state.next_look = Some(now + LOOK_PAUSE);
        let replicas = table.replicas();
        if let Some(successor) = table.membership.successor() {
            return match replicas.contains(&successor) {
                true => self.hand_over(state, successor),
                false => Ok(false),
            };
        }
        let filled = state.fill.as_ref().map(|fill| fill.slot);
        let may_leave = |slot: &usize| {
            table.is_draining(*slot) && !replicas.contains(slot) && filled != Some(*slot)
        };
        let leaving: Vec<usize> = table.live().filter(may_leave).collect();
        for slot in leaving {
            if self.leave_if_empty(state, slot)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn leave_if_empty(&self, state: &mut State, slot: usize) -> Result<bool> {
        let table = self.table();
        let engine = table.engine(slot)?;
        if !has_no_shards(&table, engine)? {
            return Ok(false);
        }
        wipe(engine)?;
        let mut next = table.with_disk(slot, None);
        next.membership = table.membership.with_retired(slot);
        self.make(state, &table, next)?;
        self.see_off(&table, slot, engine);
        Ok(true)
    }

    /// Leaves the set to the disk that takes the place of the only other one, if that one holds
    /// nothing but the metadata, which both have.
    fn hand_over(&self, state: &mut State, successor: usize) -> Result<bool> {
        let table = self.table();
        let old = table.live().find(|slot| *slot != successor);
        let Some(old) = old.filter(|_| table.live().any(|slot| slot == successor)) else {
            return Ok(false);
        };
        let engine = table.engine(old)?;
        if !has_no_shards(&table, engine)? {
            return Ok(false);
        }
        let (mut is_done, mut failure) = (false, None);
        // What is under way is on both, or on none, when this is done.
        self.while_quiet(Vec::new(), vec![u8::MAX; 2], || {
            if self.inner.mirror.differ() || self.inner.mirror.is_spoilt() {
                return Ok(());
            }
            let mut next = table.with_disk(old, None);
            next.membership = table.membership.with_retired(old);
            next.slices = without(&next, old);
            match self.make(state, &table, next) {
                Ok(()) => is_done = true,
                Err(error) => failure = Some(error),
            }
            Ok(())
        })?;
        if let Some(error) = failure {
            if has_failed(&table, successor) {
                self.leave_undecided(state, &table, &error);
            }
            return Err(error);
        }
        if is_done {
            self.see_off(&table, old, engine);
        }
        Ok(is_done)
    }

    /// Nobody knows whether the disk that is to go on alone has been told so. If the other one
    /// went on alone, too, there would be two sets.
    fn leave_undecided(&self, state: &mut State, table: &Table, error: &VolumeError) {
        let why = format!(
            "one disk was about to leave the set to the other one, which failed then ({error}): \
             start the server again with both, and it goes on from what that one knows"
        );
        self.inner.keeping.say(why.clone());
        let replicas = table.replicas();
        self.inner.mirror.set_replicas(replicas, Some(why.clone()));
        state.is_undecided = Some(why);
    }

    /// A disk has left the set: it is told so, and nothing is left on it.
    fn see_off(&self, table: &Table, slot: usize, engine: &Engine) {
        // It is in no table any more, and may hang all the same.
        let _guest = self.watch_guest(engine);
        tell(&self.table(), engine);
        // What it says does not matter any more.
        let _ = wipe(engine);
        let name = table.disk(slot).map_or("a disk", |disk| &disk.name);
        self.inner.keeping.tell(format!(
            "{name} is empty and has left the set: take it off the server's command line"
        ));
        let _ = engine.close();
    }

    /// What a change would make the disks write. Walks over all stripes, which takes a while on a
    /// large set.
    ///
    /// # Errors
    /// [`VolumeError::Set`] if the change cannot be, or what a disk says.
    pub fn measure(&self, change: Change) -> Result<Movement> {
        let table = self.table();
        let mut membership = table.membership.clone();
        let mut new = None;
        match change {
            Change::Add { capacity } | Change::Replace { capacity, .. } => {
                let (added, slot) =
                    membership
                        .with_added(UNKNOWN)
                        .ok_or_else(|| VolumeError::Set {
                            why: format!("a set has at most {} disks", crate::limits::DISKS_MAX),
                        })?;
                membership = added;
                new = Some(Place {
                    slot,
                    disk: UNKNOWN,
                    weight: capacity,
                });
            }
            Change::Drain { .. } | Change::Remove { .. } => {}
        }
        if let Change::Drain { slot } | Change::Remove { slot } | Change::Replace { slot, .. } =
            change
        {
            let slot = member_at(&table, slot)?;
            if let Change::Replace { capacity, .. } = change
                && table.is_single()
            {
                has_room_for(&table, slot, capacity)?;
            }
            membership = match is_there(&table, slot) {
                true => membership.with_draining(slot, true),
                false => membership.with_retired(slot),
            };
        }
        let staying: Vec<usize> = membership
            .staying()
            .map(|member| usize::from(member.slot))
            .collect();
        let mut lasting = table.lasting_places();
        lasting.retain(|place| staying.contains(&place.slot));
        lasting.extend(new);
        let mut after = Table::clone(&table);
        after.membership = membership;
        let mut movement = self.measure_stripes(&table, &after, &lasting)?;
        let kept = table.replicas().into_iter();
        let kept = kept.filter(|slot| staying.contains(slot)).count();
        let copies = after.replicas_wanted().min(staying.len());
        let copies = copies.saturating_sub(kept) as u64;
        if copies > 0 {
            let (entries, bytes) = metadata_of(table.engine(table.primary()?)?)?;
            movement.metadata_entries = copies * entries;
            movement.metadata_bytes = copies * bytes;
        }
        Ok(movement)
    }

    fn measure_stripes(
        &self,
        table: &std::sync::Arc<Table>,
        after: &Table,
        lasting: &[Place],
    ) -> Result<Movement> {
        let mut movement = Movement::default();
        let mut from = None;
        loop {
            let (stripes, next, _) = next_stripes(table, from)?;
            for (key, present) in stripes {
                let Some(needs) = needs(&present) else {
                    continue;
                };
                let scheme = needs.cut.scheme;
                let outlook = Outlook {
                    lasting,
                    takes_data: &|_| true,
                    copies: after.membership.copies_of(scheme),
                };
                let plan = plan(key, scheme, &present.shards, &outlook);
                let made = plan.make.iter().map(|(shard, _)| *shard);
                for shard in made.chain(plan.moves.iter().map(|m| m.shard)) {
                    movement.shards += 1;
                    movement.bytes += needs.cut.stored_len(usize::from(shard)) as u64;
                }
                movement.stuck += (plan.stuck + plan.missing.len() - plan.make.len()) as u64;
            }
            from = next;
            if from.is_none() {
                return Ok(movement);
            }
        }
    }
}

/// The map without a disk that has no metadata any more, or old one.
fn without(table: &Table, slot: usize) -> std::sync::Arc<crate::SliceMap> {
    let replicas = table.replicas();
    if !replicas.contains(&slot) {
        return table.slices.clone();
    }
    let left: Vec<usize> = replicas
        .into_iter()
        .filter(|other| *other != slot)
        .collect();
    std::sync::Arc::new(table.slices.with_disks(&left))
}

/// A slot that a member has.
fn member_at(table: &Table, slot: usize) -> Result<usize> {
    match table.membership.at(slot) {
        Some(_) => Ok(slot),
        None => {
            let members: Vec<String> = table.membership.active().map(describe).collect();
            refused(format!(
                "the set has no disk {slot}; it has {}",
                members.join(", ")
            ))
        }
    }
}

/// Whether no shard is on a disk that is drained, nor on its way there.
fn has_no_shards(table: &Table, engine: &Engine) -> Result<bool> {
    if !holds_nothing(engine, SHARD_PREFIX)? {
        return Ok(false);
    }
    // What was submitted before it was drained is committed when this is.
    tell(table, engine);
    holds_nothing(engine, SHARD_PREFIX)
}

/// Whether what the only disk of a set holds has room on another one of so many bytes.
fn has_room_for(table: &Table, old: usize, bytes: u64) -> Result<()> {
    let live = table.engine(old)?.store().space().live;
    if live > bytes {
        return refused(format!(
            "the disk is too small: {live} bytes are in use on the one that it is to take the \
             place of, and it has room for {bytes}"
        ));
    }
    Ok(())
}

/// Whether a member is live, and works.
fn is_there(table: &Table, slot: usize) -> bool {
    table.live().any(|live| live == slot) && !has_failed(table, slot)
}

/// Removes all metadata from a disk that is no replica; durable when this returns.
fn wipe(engine: &Engine) -> Result<()> {
    for prefix in [META_PREFIX, OWN_PREFIX] {
        loop {
            let page = engine.view().scan(&[prefix], &[prefix + 1], COPY_ENTRIES)?;
            let keys = page.entries.iter().map(|found| found.to_key());
            let batch = keys.fold(Batch::new().frees_space(), Batch::delete);
            if !batch.entries().is_empty() {
                engine.submit(batch)?.wait()?;
            } else if page.next.is_none() {
                break;
            }
        }
    }
    Ok(())
}

/// Entries of metadata on a disk, and their bytes.
fn metadata_of(engine: &Engine) -> Result<(u64, u64)> {
    let (mut entries, mut bytes) = (0, 0);
    let view = engine.view();
    let mut from = vec![META_PREFIX];
    loop {
        let page = view.scan(&from, &[META_PREFIX + 1], COPY_ENTRIES)?;
        for found in &page.entries {
            entries += 1;
            bytes += (found.key().len() + found.value().len()) as u64;
            bytes += u64::from(found.payload_len());
        }
        match page.next {
            Some(next) => from = next,
            None => return Ok((entries, bytes)),
        }
    }
}
