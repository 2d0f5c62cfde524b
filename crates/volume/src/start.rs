//! From disks to a set: who they are, whether they may be used, and what is written before they
//! are.
//!
//! What must always hold:
//! - nothing is served before the new generation is durable on every disk that is here;
//! - a disk that is no member, or that was replaced, is refused by name, and nothing is written
//!   to any of the disks then;
//! - metadata is read from a replica that was one in the newest generation.

use std::collections::BTreeSet;
use std::sync::Arc;

use shardstore::{Batch, Engine, Key};

use crate::blob::SHARD_PREFIX;
use crate::copy::{all_of_the_ring, copy_keys, newest_in_ring, ring_differences};
use crate::limits::{DISKS_MAX, RING_PLACES};
use crate::membership::{Member, MemberState, Membership};
use crate::meta::META_PREFIX;
use crate::mirror::{NUMBER_BITS, OWN_PREFIX};
use crate::slices::SliceMap;
use crate::table::{SetDisk, Table, describe, uuid};
use crate::volume::VolumeOptions;
use crate::{Result, Scheme, VolumeError};

/// What a start came to.
pub(crate) struct Started {
    pub table: Table,
    pub epoch: u64,
    /// Whether too few disks were there to write anything.
    pub is_read_only: bool,
    /// What whoever runs the set should know.
    pub warnings: Vec<String>,
}

fn refused<T>(why: String) -> Result<T> {
    Err(VolumeError::Set { why })
}

/// Makes a set of disks usable. Blocks while a few records are read and written.
pub(crate) fn start(disks: Vec<SetDisk>, options: &VolumeOptions) -> Result<Started> {
    check_identities(&disks)?;
    let (mut left, mut warnings) = (disks, Vec::new());
    loop {
        let started = attempt(left.clone(), options);
        // One that fails while it is written to is one that is missing.
        let failed = |disk: &SetDisk| disk.engine.store().failure();
        let has_new_failure = left.iter().any(|disk| failed(disk).is_some());
        match started {
            Err(_) if has_new_failure && left.len() > 1 => {
                for disk in left.iter().filter(|disk| failed(disk).is_some()) {
                    let reason = failed(disk).unwrap_or_default();
                    warnings.push(format!("{} is not used: {reason}", disk.name));
                }
                left.retain(|disk| failed(disk).is_none());
                if left.is_empty() {
                    return started;
                }
            }
            Ok(mut started) => {
                started.warnings.splice(0..0, warnings);
                return Ok(started);
            }
            Err(error) => return Err(error),
        }
    }
}

fn attempt(disks: Vec<SetDisk>, options: &VolumeOptions) -> Result<Started> {
    let (is_only, mut unreadable) = (disks.len() == 1, Vec::new());
    let mut found: Vec<Found> = Vec::new();
    for disk in disks {
        match read_membership(&disk.engine) {
            Ok(membership) => found.push(Found { disk, membership }),
            Err(error) if is_only => return Err(error),
            Err(error @ VolumeError::Newer { .. }) => return Err(error),
            Err(error) => unreadable.push(format!("{} is not used: {error}", disk.name)),
        }
    }
    leave_out_unmade(&mut found, &mut unreadable)?;
    let mut started = if found.iter().any(|found| found.membership.is_some()) {
        several(found, options)?
    } else {
        let disks: Vec<SetDisk> = found.into_iter().map(|found| found.disk).collect();
        match <[SetDisk; 1]>::try_from(disks) {
            Ok([only]) => single(only)?,
            Err(disks) => create(disks, options)?,
        }
    };
    started.warnings.splice(0..0, unreadable);
    Ok(started)
}

/// Beside disks that are in use, one that was to be taken into the set, and was not, waits for
/// that: it was formatted for it, and may have been told of it before anybody else was.
fn leave_out_unmade(found: &mut Vec<Found>, said: &mut Vec<String>) -> Result<()> {
    let newest = newest(found);
    let single: Vec<bool> = found
        .iter()
        .map(|found| Ok(found.membership.is_none() && SliceMap::is_on(&found.disk.engine)?))
        .collect::<Result<_>>()?;
    let members: Vec<[u8; 16]> = match &newest {
        Some(newest) => newest.active().map(|member| member.disk).collect(),
        None => {
            let singles = found.iter().zip(&single).filter(|(_, is)| **is);
            singles.map(|(found, _)| found.id()).collect()
        }
    };
    if newest.is_none() && members.len() != 1 {
        return Ok(());
    }
    let mut left = Vec::new();
    for found in std::mem::take(found) {
        let id = found.id();
        let is_retired = newest.as_ref().is_some_and(|set| set.of(&id).is_some());
        if members.contains(&id) || is_retired || !is_addable(&found.disk.engine, &members)? {
            left.push(found);
            continue;
        }
        said.push(format!(
            "{0} is not a disk of the set yet: `cullet disk add {0}` makes it one",
            found.disk.name
        ));
    }
    *found = left;
    Ok(())
}

/// Whether a disk that is no member may become one: it holds no data, and knows of no set, or only
/// that it was to be added to these members.
pub(crate) fn is_addable(engine: &Engine, members: &[[u8; 16]]) -> Result<bool> {
    if !holds_nothing(engine, SHARD_PREFIX)? {
        return Ok(false);
    }
    let Some(known) = read_membership(engine)? else {
        return Ok(!SliceMap::is_on(engine)?);
    };
    Ok(members.iter().all(|member| known.of(member).is_some()))
}

/// A disk, and the members that it knows of.
struct Found {
    disk: SetDisk,
    membership: Option<Membership>,
}

impl Found {
    fn id(&self) -> [u8; 16] {
        self.disk.engine.store().identity().disk
    }

    fn generation(&self) -> u64 {
        self.membership.as_ref().map_or(0, |known| known.generation)
    }

    fn age(&self) -> (u64, u64) {
        self.membership.as_ref().map_or((0, 0), Membership::age)
    }
}

/// The newest generation that may have been served. One that a live member which is here does
/// not know of was cut off before it was durable on all of them, and never counted. That member
/// knows of it if it holds it, or a later one: of a later run, or of the same run with a higher
/// number. Of two with the same number the one of the earlier run was cut off.
fn newest(found: &[Found]) -> Option<Membership> {
    let mut known: Vec<&Membership> = found.iter().filter_map(|f| f.membership.as_ref()).collect();
    known.sort_by_key(|membership| std::cmp::Reverse(membership.age()));
    let knows_of = |found: &Found, candidate: &Membership| {
        found.membership.as_ref() == Some(candidate) || found.age() > candidate.age()
    };
    let is_whole = |candidate: &&&Membership| {
        candidate.live().all(|member| {
            let here = found.iter().find(|found| found.id() == member.disk);
            here.is_none_or(|found| knows_of(found, candidate))
        })
    };
    known.iter().find(is_whole).map(|newest| (*newest).clone())
}

/// All disks are of one set, and none is there twice.
fn check_identities(disks: &[SetDisk]) -> Result<()> {
    let (Some(first), 1..=DISKS_MAX) = (disks.first(), disks.len()) else {
        return refused(format!("{} disks: a set has 1 to {DISKS_MAX}", disks.len()));
    };
    let set = first.engine.store().identity().set;
    for (at, disk) in disks.iter().enumerate() {
        let identity = disk.engine.store().identity();
        if identity.set != set {
            return refused(format!(
                "{} belongs to the set {}, and {} to the set {}: name the disks of one set only",
                first.name,
                uuid(&set),
                disk.name,
                uuid(&identity.set)
            ));
        }
        let same = |other: &&SetDisk| other.engine.store().identity().disk == identity.disk;
        if let Some(twin) = disks[..at].iter().find(same) {
            return refused(format!(
                "{} and {} are the same disk, {}: one is a copy of the other. Start without the \
                 copy, and empty it before it is used for anything else",
                twin.name,
                disk.name,
                uuid(&identity.disk)
            ));
        }
    }
    Ok(())
}

fn membership_key() -> Key {
    Key::plain(crate::rescue::MEMBERSHIP_KEY)
}

pub(crate) fn read_membership(engine: &Engine) -> Result<Option<Membership>> {
    let found = engine.view().get(&membership_key())?;
    found
        .map(|found| Membership::decode(found.value()))
        .transpose()
}

/// Whether a disk was formatted and never used: the set that it is for was not made, or it was
/// not taken into it.
pub fn is_unmade(engine: &Engine) -> Result<bool> {
    let is_member = read_membership(engine)?.is_some();
    Ok(!is_member && !SliceMap::is_on(engine)? && holds_nothing(engine, SHARD_PREFIX)?)
}

/// Whether a disk holds nothing but what belongs to the set itself.
fn is_empty(engine: &Engine) -> Result<bool> {
    for prefix in [META_PREFIX, SHARD_PREFIX, OWN_PREFIX] {
        if !holds_nothing(engine, prefix)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a disk has no key that begins so.
pub(crate) fn holds_nothing(engine: &Engine, prefix: u8) -> Result<bool> {
    let view = engine.view();
    let mut from = vec![prefix];
    loop {
        let page = view.scan(&from, &[prefix + 1], 1)?;
        match (page.entries.is_empty(), page.next) {
            (false, _) => return Ok(false),
            (true, None) => return Ok(true),
            (true, Some(next)) => from = next,
        }
    }
}

/// A set of one disk, which needs no list of members.
fn single(disk: SetDisk) -> Result<Started> {
    let slices = match SliceMap::read(&disk.engine)? {
        Some(slices) => slices,
        None => {
            let slices = SliceMap::single();
            disk.engine.submit(slices.add_to(Batch::new()))?.wait()?;
            slices
        }
    };
    if slices != SliceMap::single() {
        return Err(VolumeError::Newer {
            what: "the map of metadata slices".to_owned(),
        });
    }
    let id = disk.engine.store().identity().disk;
    let epoch = disk.engine.store().epoch();
    let table = Table::new(Membership::first(&[id], None), slices, vec![Some(disk)]);
    Ok(Started {
        table,
        epoch,
        is_read_only: false,
        warnings: Vec::new(),
    })
}

/// A new set of disks that hold nothing.
fn create(disks: Vec<SetDisk>, options: &VolumeOptions) -> Result<Started> {
    for disk in &disks {
        if !is_empty(&disk.engine)? {
            return refused(format!(
                "{} is a set of its own, of one disk, and holds data: a set of several begins with \
                 empty disks. Start it alone",
                disk.name
            ));
        }
    }
    let count = disks.len();
    if Scheme::for_set(count, options.parity).is_none() {
        return refused(format!(
            "--parity {} cannot be had with {count} disks, of which a stripe takes {}",
            options.parity.unwrap_or(0),
            Scheme::for_disks(count).map_or(0, Scheme::width)
        ));
    }
    let ids: Vec<[u8; 16]> = disks
        .iter()
        .map(|disk| disk.engine.store().identity().disk)
        .collect();
    let membership = Membership::first(&ids, options.parity);
    let mut table = Table::new(
        membership,
        SliceMap::single(),
        disks.into_iter().map(Some).collect(),
    );
    let replicas: Vec<usize> = (0..table.replicas_wanted()).collect();
    table.slices = Arc::new(table.slices.with_disks(&replicas));
    let epoch = next_epoch(&table, 0);
    table.membership.epoch = epoch;
    write(None, &table)?;
    Ok(Started {
        table,
        epoch,
        is_read_only: false,
        warnings: Vec::new(),
    })
}

/// Above every epoch that any of the disks was in.
fn next_epoch(table: &Table, known: u64) -> u64 {
    let disks = table.disks.iter().flatten();
    disks
        .map(|disk| disk.engine.store().epoch())
        .fold(known + 1, u64::max)
}

/// A set that was there before.
fn several(found: Vec<Found>, options: &VolumeOptions) -> Result<Started> {
    let Some(newest) = newest(&found) else {
        // Made, but not on all disks: nothing was ever served.
        let mut empty = true;
        for found in &found {
            empty &= is_empty(&found.disk.engine)?;
        }
        let disks: Vec<SetDisk> = found.into_iter().map(|found| found.disk).collect();
        return match empty {
            true => create(disks, options),
            false => refused("no list of the set's members is whole on the disks here".to_owned()),
        };
    };
    check_members(&found, &newest)?;
    let highest = found
        .iter()
        .map(Found::generation)
        .fold(newest.generation, u64::max);
    let known = found.iter().filter_map(|found| found.membership.as_ref());
    let known_epoch = known.map(|known| known.epoch).fold(newest.epoch, u64::max);
    let slots = newest
        .active()
        .map(|member| usize::from(member.slot) + 1)
        .max();
    let mut disks: Vec<Option<SetDisk>> = vec![None; slots.unwrap_or(0)];
    // Those that were live in the newest generation: what they hold is not old.
    let mut current = BTreeSet::new();
    let mut slices = None;
    for found in found {
        let Some(member) = newest.of(&found.id()) else {
            continue;
        };
        let slot = usize::from(member.slot);
        if slices.is_none() && found.membership.as_ref() == Some(&newest) {
            slices = match SliceMap::read(&found.disk.engine) {
                // Another disk has it, too.
                Err(VolumeError::Corrupt { .. } | VolumeError::Unreadable { .. }) => None,
                read => read?,
            };
        }
        if member.state == MemberState::Live {
            current.insert(slot);
        }
        disks[slot] = Some(found.disk);
    }
    let here: Vec<usize> = (0..disks.len())
        .filter(|slot| disks[*slot].is_some())
        .collect();
    let mut warnings = Vec::new();
    let mut is_forced = false;
    if let Err(absent) = newest.check_newest(&here) {
        is_forced = force(&newest, &absent, options, &mut warnings)?;
    }
    let Some(slices) = slices else {
        return refused("the map of metadata slices is gone from the newest disks".to_owned());
    };
    let listed = slices.disks().to_vec();
    let replicas: Vec<usize> = listed
        .iter()
        .map(|slot| usize::from(*slot))
        .filter(|slot| current.contains(slot))
        .collect();
    if replicas.is_empty() {
        let holder = |slot: &u8| newest.at(usize::from(*slot)).map(describe);
        let holders: Vec<String> = listed.iter().filter_map(holder).collect();
        return refused(format!(
            "none of the disks that hold the metadata is here; any one of these will do: {}",
            holders.join(", ")
        ));
    }
    let mut table = Table::new(newest.clone(), slices.with_disks(&replicas), disks);
    for member in newest
        .active()
        .filter(|m| !here.contains(&usize::from(m.slot)))
    {
        warnings.push(format!("{} is not here", describe(member)));
    }
    let mut epoch = next_epoch(&table, known_epoch);
    let mask = here.iter().fold(0_u64, |mask, slot| mask | 1 << slot);
    if is_forced {
        // Far above all that the others can have been in, even if they were forced as well: what
        // they wrote has other names.
        epoch += FORCED_EPOCHS + mask;
    }
    if here.len() >= newest.deciders() {
        let settled = settle_replicas(&table, &replicas)?;
        for slot in replicas.iter().filter(|slot| !settled.contains(slot)) {
            let name = table.disk(*slot).map_or("a disk", |disk| &disk.name);
            warnings.push(format!(
                "{name}: metadata is damaged there, and copied again"
            ));
        }
        table.slices = Arc::new(table.slices.with_disks(&settled));
        table.membership = newest.with_live(&here);
        table.membership.generation = highest + 1;
        if is_forced {
            table.membership.generation = (((highest >> FORCED_BITS) + 1) << FORCED_BITS) + mask;
        }
        table.membership.epoch = epoch;
        write(Some(&newest), &table)?;
    }
    // Else read only: nothing may be written, because others may be live without these.
    Ok(Started {
        is_read_only: here.len() < newest.deciders(),
        table,
        epoch,
        warnings,
    })
}

/// Epochs that a forced start leaves out. Commit sequences have 24 bits for them.
const FORCED_EPOCHS: u64 = 1 << DISKS_MAX;

/// A start that was forced begins a generation above all that anybody can have come to without
/// it, so that disks which come back later are the old ones.
const FORCED_BITS: u32 = 32;

/// Every disk is a member that was not replaced.
fn check_members(found: &[Found], newest: &Membership) -> Result<()> {
    for found in found {
        let (disk, id) = (&found.disk, found.id());
        match newest.of(&id).map(|member| member.state) {
            Some(MemberState::Live | MemberState::Away) => {}
            Some(MemberState::Retired) => {
                return refused(format!(
                    "{} (disk {}) left the set: it was removed or replaced. Start without it",
                    disk.name,
                    uuid(&id)
                ));
            }
            None => {
                return refused(format!(
                    "{} (disk {}) is not a member of the set. Start without it",
                    disk.name,
                    uuid(&id)
                ));
            }
        }
    }
    Ok(())
}

/// Others may have gone on without these disks: whether to start all the same.
fn force(
    newest: &Membership,
    absent: &[Member],
    options: &VolumeOptions,
    warnings: &mut Vec<String>,
) -> Result<bool> {
    let names: Vec<String> = absent.iter().map(describe).collect();
    if !options.start_degraded {
        return refused(format!(
            "these disks are not here: {}. They are enough to have taken writes without the \
             others, so that what is here may be old. Bring back as many that fewer than {} of \
             {} are missing; or, if they are lost for good, start once with --start-degraded, \
             and what they alone took is gone",
            names.join(", "),
            newest.deciders(),
            newest.active().count()
        ));
    }
    warnings.push(format!(
        "started degraded: whatever was written while only these disks were there is missing, \
         and what it replaced or deleted is back: {}",
        names.join(", ")
    ));
    Ok(true)
}

/// Makes all replicas the same again: they differ in what was under way when the set stopped. Says
/// which are; one that cannot be read is none any more.
pub(crate) fn settle_replicas(table: &Table, replicas: &[usize]) -> Result<Vec<usize>> {
    let mut left = with_the_newest_first(table, replicas)?;
    while let Some((first, others)) = left.split_first() {
        let truth = table.engine(*first)?;
        let mut settled = vec![*first];
        let mut failure = None;
        for other in others {
            let settling = table.engine(*other).and_then(|other| {
                let keys = ring_differences(truth, other)?;
                copy_keys(truth, other, &keys)
            });
            match settling {
                Ok(_) => settled.push(*other),
                Err(error @ (VolumeError::Corrupt { .. } | VolumeError::Unreadable { .. })) => {
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failure {
            None => return Ok(settled),
            // Of two one cannot be read; if all that it was compared with are like that, it is the
            // first.
            Some(_) if settled.len() > 1 => return Ok(settled),
            Some(_) if others.len() > 1 => left = others.to_vec(),
            Some(error) => match all_of_the_ring(truth).is_ok() {
                true => return Ok(settled),
                false if others.is_empty() => return Err(error),
                false => left = others.to_vec(),
            },
        }
    }
    Ok(left)
}

/// What was acknowledged is on all replicas; so the one that has the newest batch has all of it,
/// unless it lost something in the middle. One that has lost its end (a file that was cut short looks
/// like one that was never written so far) must not be what the others are made like. If it lacks
/// more than the ring can name, it is none any more.
fn with_the_newest_first(table: &Table, replicas: &[usize]) -> Result<Vec<usize>> {
    let mut newest = Vec::new();
    for slot in replicas {
        let number = match newest_in_ring(table.engine(*slot)?) {
            Ok(number) => number,
            // Whoever compares it comes upon that again.
            Err(VolumeError::Corrupt { .. } | VolumeError::Unreadable { .. }) => 0,
            Err(error) => return Err(error),
        };
        newest.push((number, *slot));
    }
    newest.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let highest = newest.first().map_or(0, |(number, _)| *number);
    let can_follow = |(number, _): &&(u64, usize)| {
        let lacks = match highest >> NUMBER_BITS == number >> NUMBER_BITS {
            true => highest - number,
            // All of the last run, and of those before what nobody can tell.
            false => highest & ((1 << NUMBER_BITS) - 1),
        };
        lacks < RING_PLACES as u64
    };
    Ok(newest
        .iter()
        .filter(can_follow)
        .map(|(_, slot)| *slot)
        .collect())
}

/// What says who the members are, and where metadata is.
fn tidings(table: &Table) -> Batch {
    let batch = Batch::new().put(membership_key(), table.membership.encode());
    table.slices.add_to(batch).frees_space()
}

/// Tells a disk that left the set so, if it still takes it.
pub(crate) fn tell(table: &Table, engine: &Engine) {
    if let Ok(dependency) = engine.submit(tidings(table)) {
        let _ = dependency.wait();
    }
}

/// Writes members and map to every disk that is live; durable on all of them when this returns.
/// Disks that were not live in the generation before come first, alone: until they know the new
/// one, all others have the one before, so that a power cut leaves one of both whole.
pub(crate) fn write(before: Option<&Membership>, table: &Table) -> Result<()> {
    let was_live = |slot: &usize| {
        let id = table.membership.at(*slot).map(|member| member.disk);
        before.is_none_or(|before| before.live().any(|member| Some(member.disk) == id))
    };
    let (known, new): (Vec<usize>, Vec<usize>) = table.live().partition(was_live);
    for slots in [new, known] {
        let mut dependencies = Vec::new();
        for slot in slots {
            let submitted = table.engine(slot)?.submit(tidings(table));
            dependencies.push((slot, submitted));
        }
        for (slot, submitted) in dependencies {
            let written = submitted.and_then(|dependency| dependency.wait());
            if let Err(error) = written {
                let name = table.disk(slot).map_or("", |disk| &disk.name);
                return Err(VolumeError::Failed {
                    reason: format!("{name}: {error}"),
                });
            }
        }
    }
    Ok(())
}
