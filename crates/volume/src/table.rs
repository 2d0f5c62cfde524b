//! The set as it is at a moment: its members, which of them are here, and where metadata lies.
//! Replaced as a whole when anything of it changes.

use std::sync::Arc;

use shardstore::Engine;

use crate::latency::Slots;
use crate::membership::{Member, MemberState, Membership};
use crate::placement::Place;
use crate::slices::SliceMap;
use crate::{Result, Scheme, VolumeError};

/// A disk that is here.
#[derive(Debug, Clone)]
pub struct SetDisk {
    /// What messages and metrics call it: its path.
    pub name: String,
    /// Its engine.
    pub engine: Engine,
}

/// See the file's head.
#[derive(Clone)]
pub(crate) struct Table {
    pub membership: Membership,
    pub slices: Arc<SliceMap>,
    /// The disks that are here, by slot; also those that failed, which are still read.
    pub disks: Vec<Option<SetDisk>>,
    /// What each disk may hold, in bytes, by slot.
    pub capacities: Vec<u64>,
}

impl Table {
    pub(crate) fn new(
        membership: Membership,
        slices: SliceMap,
        disks: Vec<Option<SetDisk>>,
    ) -> Table {
        let capacity = |disk: &Option<SetDisk>| {
            let disk = disk.as_ref();
            disk.map_or(0, |disk| disk.engine.store().capacity_bytes())
        };
        Table {
            capacities: disks.iter().map(capacity).collect(),
            membership,
            slices: Arc::new(slices),
            disks,
        }
    }

    /// Whether the set is of one disk.
    pub(crate) fn is_single(&self) -> bool {
        self.membership.active().count() == 1
    }

    /// Whether metadata goes to one disk and needs no mirror: there is no other one that has it,
    /// or is about to.
    pub(crate) fn is_unmirrored(&self) -> bool {
        self.is_single() && self.disks.iter().flatten().count() < 2
    }

    /// The disk that is going to make a set of several out of one.
    pub(crate) fn candidate(&self) -> Option<usize> {
        let is_no_member = |slot: &usize| self.membership.at(*slot).is_none();
        self.here().find(is_no_member)
    }

    /// Another disk in a slot, or none.
    pub(crate) fn with_disk(&self, slot: usize, disk: Option<SetDisk>) -> Table {
        let mut next = self.clone();
        if next.disks.len() <= slot {
            next.disks.resize(slot + 1, None);
            next.capacities.resize(slot + 1, 0);
        }
        if let Some(disk) = &disk {
            next.capacities[slot] = disk.engine.store().capacity_bytes();
        }
        next.disks[slot] = disk;
        next
    }

    pub(crate) fn disk(&self, slot: usize) -> Option<&SetDisk> {
        self.disks.get(slot)?.as_ref()
    }

    pub(crate) fn engine(&self, slot: usize) -> Result<&Engine> {
        let disk = self.disk(slot);
        let disk = disk.ok_or_else(|| VolumeError::NotHere {
            missing: self.missing(),
        })?;
        Ok(&disk.engine)
    }

    /// Members that are here and live.
    pub(crate) fn live(&self) -> impl Iterator<Item = usize> {
        let slots = self
            .membership
            .live()
            .map(|member| usize::from(member.slot));
        slots.filter(|slot| self.disk(*slot).is_some())
    }

    /// Disks that are here, live or not: all that can be read.
    pub(crate) fn here(&self) -> impl Iterator<Item = usize> + Clone {
        (0..self.disks.len()).filter(|slot| self.disk(*slot).is_some())
    }

    /// The disk that metadata is read from.
    pub(crate) fn primary(&self) -> Result<usize> {
        let first = self.slices.disks().first().copied().map(usize::from);
        first.ok_or(VolumeError::NotOneSlice)
    }

    /// The replicas of the metadata that have everything.
    pub(crate) fn replicas(&self) -> Vec<usize> {
        self.slices
            .disks()
            .iter()
            .copied()
            .map(usize::from)
            .collect()
    }

    /// How many replicas of the metadata there are to be: as many as survive what parity does,
    /// and one more, so that writes go on while that many disks are gone. Where one disk takes the
    /// place of the only other one, both have it until that one leaves.
    pub(crate) fn replicas_wanted(&self) -> usize {
        if self.membership.successor().is_some() {
            return 2;
        }
        let disks = self.membership.staying().count();
        (usize::from(self.membership.scheme().m) + 2).min(disks)
    }

    /// Whether what a disk has goes to the others.
    pub(crate) fn is_draining(&self, slot: usize) -> bool {
        let member = self.membership.at(slot);
        member.is_some_and(|member| member.is_draining)
    }

    /// Disks that new shards may go to now: live, not failed, not full, not drained.
    pub(crate) fn places(&self) -> Vec<Place> {
        let mut places = self.lasting_places();
        places.retain(|place| self.takes_data(place.slot));
        places
    }

    /// Disks that shards are to be on in the long run: those that are full, too.
    pub(crate) fn lasting_places(&self) -> Vec<Place> {
        self.live()
            .filter(|slot| !self.is_draining(*slot))
            .filter_map(|slot| self.place(slot))
            .collect()
    }

    /// As [`places`](Table::places), but none that is slow, if the others are enough for a stripe.
    pub(crate) fn quick_places(&self, slow: Slots) -> Vec<Place> {
        let places = self.places();
        let is_quick = |place: &&Place| slow >> place.slot & 1 == 0;
        let quick: Vec<Place> = places.iter().filter(is_quick).copied().collect();
        match quick.len() >= usize::from(self.scheme().width()) {
            true => quick,
            false => places,
        }
    }

    /// Whether a disk takes new data now.
    pub(crate) fn takes_data(&self, slot: usize) -> bool {
        let disk = self.disk(slot);
        disk.is_some_and(|disk| disk.engine.store().takes_data())
    }

    /// All disks that are here, for whoever looks for a shard.
    pub(crate) fn places_here(&self) -> Vec<Place> {
        self.here().filter_map(|slot| self.place(slot)).collect()
    }

    fn place(&self, slot: usize) -> Option<Place> {
        let member = self.membership.at(slot)?;
        Some(Place {
            slot,
            disk: member.disk,
            weight: self.capacities.get(slot).copied().unwrap_or(1),
        })
    }

    /// The scheme of new blobs when all members are there.
    pub(crate) fn scheme(&self) -> Scheme {
        self.membership.scheme()
    }

    /// Why this set takes no writes as it is; `None`: it takes them.
    pub(crate) fn refusal(&self) -> Option<String> {
        if self.is_single() {
            return None;
        }
        let failed = |slot: &usize| {
            let disk = self.disk(*slot);
            disk.is_some_and(|disk| disk.engine.store().failure().is_some())
        };
        let live = self.live().filter(|slot| !failed(slot)).count();
        let (quorum, of) = (self.membership.quorum(), self.membership.active().count());
        if live < quorum {
            return Some(format!(
                "{live} of {of} disks are there, and writes need {quorum}; missing: {}",
                self.missing()
            ));
        }
        let replicas = self.replicas();
        if replicas.iter().all(failed) {
            return Some(format!(
                "all disks that hold the metadata have failed; missing: {}",
                self.missing()
            ));
        }
        match replicas.len() {
            0 | 1 => Some(
                "the metadata is on one disk only until it is copied to another one".to_owned(),
            ),
            _ => None,
        }
    }

    /// The members that are missing or have failed, by name where it is known.
    pub(crate) fn missing(&self) -> String {
        let name = |member: &Member| {
            let slot = usize::from(member.slot);
            match self.disk(slot) {
                None => Some(describe(member)),
                Some(disk) => {
                    let failure = disk.engine.store().failure();
                    let failure = failure
                        .or_else(|| (member.state == MemberState::Away).then(|| "away".to_owned()));
                    failure.map(|reason| format!("{} ({reason})", disk.name))
                }
            }
        };
        let names: Vec<String> = self.membership.active().filter_map(name).collect();
        match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        }
    }
}

/// A member that is not here.
pub(crate) fn describe(member: &Member) -> String {
    format!("disk {} ({})", member.slot, uuid(&member.disk))
}

/// A UUID as people write it.
pub fn uuid(id: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in id.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
