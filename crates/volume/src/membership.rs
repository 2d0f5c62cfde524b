//! Who belongs to a set, who was there last, and when a set may be used.
//!
//! ```text
//! engine key   03 | "set", on every disk of a set of several
//! value        u8 layout = 1 | u64 generation | u64 epoch | u8 parity, 255: by default
//!              | u8 members, each: u8 slot | 16 bytes UUID of the disk | u8 state | u8 flags
//! state        0 live, 1 away, 2 retired
//! flags        1 draining: nothing new is put on it, and what it has goes to the others
//! ```
//! Integers are little-endian. A set of one disk that never was larger has no such value.
//!
//! A **generation** says which members were live: what is acknowledged under it is on these. It
//! is durable on all of them before the first such acknowledgement. What must always hold:
//!
//! - only a generation with at least a *quorum* of live members takes writes;
//! - when members come or go, the next generation is live on a quorum of the members before it,
//!   too;
//! - a set is used only if no later generation than the newest one seen can exist: if all of
//!   that one's live members are here, or if fewer are not here than it takes to make one.
//!
//! A quorum is all members but m, because with m of them gone writes go on, and at least two,
//! because a write has to survive one further loss. With an even number of disks and half of
//! them parity, the two halves of a set are both a quorum: whichever is started alone cannot
//! know what the other one did meanwhile, and is refused. One disk of two takes no writes, but it
//! may say that the other one is gone, and have it replaced; so that the other one, started alone,
//! cannot know either.

use crate::blob::Take;
use crate::codec::PARITY_MAX;
use crate::limits::{DISKS_MAX, RETIRED_KEPT_MAX};
use crate::{Result, Scheme, VolumeError};

/// The layout of the value.
const LAYOUT: u8 = 1;

/// The parity of a set that goes by the default schemes.
const PARITY_DEFAULT: u8 = 255;

/// What a member was in a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// It was there, and everything that was acknowledged since is on it too.
    Live,
    /// It was missing or had failed: what it holds may be old.
    Away,
    /// It belongs to the set no longer, and must not come back.
    Retired,
}

/// A disk of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number in the set, which no other disk ever has while it belongs to it.
    pub slot: u8,
    /// The disk's UUID.
    pub disk: [u8; 16],
    /// What it was in this generation.
    pub state: MemberState,
    /// Nothing new is put on it, and what it has goes to the others.
    pub is_draining: bool,
}

/// The members in one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Grows with every change.
    pub generation: u64,
    /// The number of the run: grows with every start of the set.
    pub epoch: u64,
    /// Parity shards of new stripes, if not by default.
    pub parity: Option<u8>,
    /// In the order of their slots; then what is retired, oldest first.
    pub members: Vec<Member>,
}

impl Membership {
    /// A new set of these disks.
    pub(crate) fn first(disks: &[[u8; 16]], parity: Option<u8>) -> Membership {
        let member = |(slot, disk): (usize, &[u8; 16])| Member {
            slot: slot as u8,
            disk: *disk,
            state: MemberState::Live,
            is_draining: false,
        };
        Membership {
            generation: 1,
            epoch: 0,
            parity,
            members: disks.iter().enumerate().map(member).collect(),
        }
    }

    /// Later ones are greater: first by the run, then by the generation within it.
    pub(crate) fn age(&self) -> (u64, u64) {
        (self.epoch, self.generation)
    }

    /// Members that belong to the set, here or not.
    pub(crate) fn active(&self) -> impl Iterator<Item = &Member> {
        let members = self.members.iter();
        members.filter(|member| member.state != MemberState::Retired)
    }

    /// Members that everything acknowledged in this generation is on.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(|member| member.state == MemberState::Live)
    }

    /// The member in a slot.
    pub(crate) fn at(&self, slot: usize) -> Option<&Member> {
        self.active()
            .find(|member| usize::from(member.slot) == slot)
    }

    /// The member with a UUID, retired or not.
    pub(crate) fn of(&self, disk: &[u8; 16]) -> Option<&Member> {
        let active = self.active().find(|member| member.disk == *disk);
        active.or_else(|| self.members.iter().find(|member| member.disk == *disk))
    }

    /// The next generation, in which exactly the members in `live` are live.
    pub(crate) fn with_live(&self, live: &[usize]) -> Membership {
        let mut next = self.clone();
        next.generation += 1;
        for member in &mut next.members {
            if member.state != MemberState::Retired {
                member.state = match live.contains(&usize::from(member.slot)) {
                    true => MemberState::Live,
                    false => MemberState::Away,
                };
            }
        }
        next
    }

    /// The next generation, with another member, which is live. `None`: the set is full.
    pub(crate) fn with_added(&self, disk: [u8; 16]) -> Option<(Membership, usize)> {
        let is_free = |slot: &u8| self.at(usize::from(*slot)).is_none();
        // Within `DISKS_MAX`.
        let slot = (0..DISKS_MAX as u8).find(is_free)?;
        let mut next = self.clone();
        next.generation += 1;
        let at = self.active().filter(|member| member.slot < slot).count();
        let member = Member {
            slot,
            disk,
            state: MemberState::Live,
            is_draining: false,
        };
        next.members.insert(at, member);
        Some((next, usize::from(slot)))
    }

    /// The next generation, in which a member is drained, or no longer.
    pub(crate) fn with_draining(&self, slot: usize, is_draining: bool) -> Membership {
        let mut next = self.clone();
        next.generation += 1;
        let active = |member: &&mut Member| member.state != MemberState::Retired;
        let mut active = next.members.iter_mut().filter(active);
        if let Some(member) = active.find(|member| usize::from(member.slot) == slot) {
            member.is_draining = is_draining;
        }
        next
    }

    /// The next generation, to which a member belongs no longer. Of those that left, the last
    /// ones are remembered.
    pub(crate) fn with_retired(&self, slot: usize) -> Membership {
        let mut next = self.clone();
        next.generation += 1;
        let is_it = |member: &Member| {
            member.state != MemberState::Retired && usize::from(member.slot) == slot
        };
        if let Some(at) = next.members.iter().position(is_it) {
            let member = next.members.remove(at);
            next.members.push(Member {
                state: MemberState::Retired,
                is_draining: false,
                ..member
            });
        }
        let active = next.active().count();
        let forgotten = (next.members.len() - active).saturating_sub(RETIRED_KEPT_MAX);
        next.members.drain(active..active + forgotten);
        next
    }

    /// Members that new shards may go to, here or not.
    pub(crate) fn staying(&self) -> impl Iterator<Item = &Member> {
        self.active().filter(|member| !member.is_draining)
    }

    /// The member that takes the place of the only other one: both belong to the set until that one
    /// is empty.
    pub(crate) fn successor(&self) -> Option<usize> {
        let mut staying = self.staying().map(|member| usize::from(member.slot));
        let only = staying.next().filter(|_| staying.next().is_none())?;
        (self.active().count() > 1).then_some(only)
    }

    /// The scheme of new blobs when all members are there.
    pub(crate) fn scheme(&self) -> Scheme {
        let disks = self.staying().count();
        // Whoever makes or reads a membership has seen to it that there is one.
        Scheme::for_set(disks, self.parity).unwrap_or(Scheme { k: 1, m: 0 })
    }

    /// How many copies of something there are to be that has this scheme and is kept in copies: as
    /// many as of what is written today, or as it was written, as far as there are disks.
    pub(crate) fn copies_of(&self, scheme: Scheme) -> usize {
        let copies = usize::from(self.scheme().m.max(scheme.m)) + 1;
        copies.min(self.staying().count())
    }

    /// How many members must be live for writes.
    pub(crate) fn quorum(&self) -> usize {
        let disks = self.active().count();
        match Scheme::for_set(disks, self.parity) {
            Some(scheme) if disks > 1 => (disks - usize::from(scheme.m)).max(2),
            _ => disks,
        }
    }

    /// How many members it takes to say who is live, and who belongs to the set: as many as writes
    /// need. Of two, one can: else it could never be told that the other one is gone for good.
    pub(crate) fn deciders(&self) -> usize {
        match self.active().count() {
            2 => 1,
            _ => self.quorum(),
        }
    }

    /// Whether a set may become `next` while the members in `live` are there and stay it. Else:
    /// why not.
    pub(crate) fn check_next(
        &self,
        next: &Membership,
        live: &[usize],
    ) -> std::result::Result<(), String> {
        let known = |slot: &&usize| {
            let (one, two) = (self.at(**slot), next.at(**slot));
            one.zip(two).is_some_and(|(one, two)| one.disk == two.disk)
        };
        let both = live.iter().filter(known).count();
        let of_next = live.iter().filter(|slot| next.at(**slot).is_some()).count();
        let disks = next.staying().count();
        if Scheme::for_set(disks, self.parity).is_none() {
            return Err(match self.parity {
                Some(parity) => format!(
                    "{disks} disks are too few for a set that was made with --parity {parity}"
                ),
                None => format!("a set has 1 to {DISKS_MAX} disks"),
            });
        }
        // Unless all that it has is on its way from one disk to another as it is.
        if disks < 2 && self.staying().count() > 1 {
            return Err("a set of several disks keeps two at least".to_owned());
        }
        if both < self.deciders() || of_next < next.deciders() {
            return Err(format!(
                "only {both} of {} disks are live, and such a change needs {}",
                self.active().count(),
                self.deciders().max(next.deciders())
            ));
        }
        Ok(())
    }

    /// Whether no later generation than this one, the newest that was seen, can exist, with the
    /// disks in `present` here. If it can: the members that are not here.
    pub(crate) fn check_newest(&self, present: &[usize]) -> std::result::Result<(), Vec<Member>> {
        let is_here = |member: &&Member| present.contains(&usize::from(member.slot));
        let absent: Vec<Member> = self.active().filter(|m| !is_here(m)).cloned().collect();
        if self.live().all(|member| is_here(&member)) || absent.len() < self.deciders() {
            return Ok(());
        }
        Err(absent)
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![LAYOUT];
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.push(self.parity.unwrap_or(PARITY_DEFAULT));
        // Within `DISKS_MAX` and `RETIRED_KEPT_MAX`.
        out.push(u8::try_from(self.members.len()).unwrap_or(u8::MAX));
        for member in self.members.iter().take(u8::MAX.into()) {
            out.push(member.slot);
            out.extend_from_slice(&member.disk);
            out.push(match member.state {
                MemberState::Live => 0,
                MemberState::Away => 1,
                MemberState::Retired => 2,
            });
            out.push(u8::from(member.is_draining));
        }
        out
    }

    /// Any bytes become a membership or an error.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Membership> {
        match bytes.first() {
            Some(&LAYOUT) => {}
            Some(0) | None => return Err(corrupt("its layout is none that ever was")),
            Some(_) => return Err(newer()),
        }
        let mut take = Take(&bytes[1..]);
        let read = Membership::take_fields(&mut take).ok_or_else(|| corrupt("it is cut short"))?;
        // A state or a flag that is not known may mean anything.
        let membership = read.ok_or_else(newer)?;
        if !take.0.is_empty() {
            return Err(corrupt("bytes follow it"));
        }
        let slots: Vec<u8> = membership.active().map(|member| member.slot).collect();
        let disks = slots.len();
        let is_sane = slots.iter().all(|slot| usize::from(*slot) < DISKS_MAX)
            && slots.is_sorted_by(|a, b| a < b)
            && membership.members.len() <= DISKS_MAX + RETIRED_KEPT_MAX
            && Scheme::for_set(disks, membership.parity).is_some();
        match is_sane {
            true => Ok(membership),
            false => Err(corrupt("its members cannot be a set")),
        }
    }

    /// `Some(None)`: something in it is not known.
    fn take_fields(take: &mut Take<'_>) -> Option<Option<Membership>> {
        let (generation, epoch) = (take.u64()?, take.u64()?);
        let parity = Some(take.u8()?).filter(|parity| *parity != PARITY_DEFAULT);
        let count = take.u8()?;
        let mut members = Vec::new();
        for _ in 0..count {
            let slot = take.u8()?;
            let disk = *take.bytes(16)?.first_chunk()?;
            let (state, flags) = (take.u8()?, take.u8()?);
            let (state, is_draining) = match (state, flags) {
                (0, 0 | 1) => (MemberState::Live, flags == 1),
                (1, 0 | 1) => (MemberState::Away, flags == 1),
                (2, 0) => (MemberState::Retired, false),
                _ => return Some(None),
            };
            members.push(Member {
                slot,
                disk,
                state,
                is_draining,
            });
        }
        Some(Some(Membership {
            generation,
            epoch,
            parity,
            members,
        }))
    }
}

fn corrupt(why: &str) -> VolumeError {
    VolumeError::Corrupt {
        what: "the list of the set's members".to_owned(),
        why: why.to_owned(),
    }
}

fn newer() -> VolumeError {
    VolumeError::Newer {
        what: "the list of the set's members".to_owned(),
    }
}

const _: () = assert!(DISKS_MAX + RETIRED_KEPT_MAX < PARITY_DEFAULT as usize);
const _: () = assert!(PARITY_MAX < PARITY_DEFAULT as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn set(disks: usize) -> Membership {
        let ids: Vec<[u8; 16]> = (0..disks).map(|disk| [disk as u8; 16]).collect();
        Membership::first(&ids, None)
    }

    #[test]
    fn a_membership_survives_its_codec_and_nothing_else_does() {
        let mut members = set(3).with_live(&[0, 2]);
        members.parity = Some(1);
        members.members.push(Member {
            slot: 1,
            disk: [9; 16],
            state: MemberState::Retired,
            is_draining: false,
        });
        let bytes = members.encode();
        assert_eq!(Membership::decode(&bytes).unwrap(), members);
        for cut in 0..bytes.len() {
            assert!(Membership::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Membership::decode(&[&bytes[..], &[0]].concat()).is_err());
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            Membership::decode(&bytes)
        };
        assert!(matches!(with(0, 2), Err(VolumeError::Newer { .. })));
        assert!(
            matches!(with(36, 9), Err(VolumeError::Newer { .. })),
            "state"
        );
        assert!(with(37, 1).unwrap().members[0].is_draining);
        assert!(
            matches!(with(37, 2), Err(VolumeError::Newer { .. })),
            "flag"
        );
        assert!(with(17, 3).is_err(), "no data shard is left");
        assert!(with(19, 2).is_err(), "two members in one slot");
        assert!(with(19, 16).is_err(), "a slot that no set has");
    }

    #[test]
    fn quorums_survive_a_loss() {
        let quorum = |disks| set(disks).quorum();
        let quorums: Vec<usize> = (1..=8).map(quorum).collect();
        assert_eq!(quorums, [1, 2, 2, 2, 3, 4, 5, 5]);
    }

    /// Whatever subset of the disks is here: if a later generation can have taken writes on the
    /// others, the set is refused; otherwise it is not.
    #[test]
    fn a_set_is_refused_exactly_if_others_may_know_better() {
        for disks in 1..=9_usize {
            let whole = set(disks);
            for here in 1_u32..1 << disks {
                let present: Vec<usize> = (0..disks).filter(|d| here >> d & 1 == 1).collect();
                let others = disks - present.len();
                let may_know_better = others > 0 && others >= whole.deciders();
                assert_eq!(
                    whole.check_newest(&present).is_err(),
                    may_know_better,
                    "{present:?} of {disks}"
                );
            }
        }
    }

    #[test]
    fn the_live_members_of_the_last_generation_are_enough() {
        // Four disks, two of them parity: with two gone, the others went on.
        let later = set(4).with_live(&[0, 1]);
        assert!(later.check_newest(&[0, 1]).is_ok());
        assert_eq!(later.generation, 2);
        // One of the live ones and one that was away: the other live one may have gone on, but
        // not alone.
        assert!(later.check_newest(&[0, 2, 3]).is_ok());
        // Neither of them: both may have.
        let absent = set(4).check_newest(&[2, 3]).unwrap_err();
        assert_eq!(absent.iter().map(|m| m.slot).collect::<Vec<_>>(), [0, 1]);
    }

    /// Members come and go only with so many of the old ones that whoever finds the others knows
    /// of it.
    #[test]
    fn members_come_and_go_with_a_quorum_of_those_before() {
        for disks in 2..=9_usize {
            let before = set(disks);
            let (added, slot) = before.with_added([77; 16]).unwrap();
            assert_eq!(slot, disks);
            assert_eq!(added.with_retired(0).quorum(), before.quorum());
            for next in [
                added.clone(),
                before.with_draining(0, true),
                added.with_retired(0),
            ] {
                for here in 1_u32..1 << (disks + 1) {
                    let live: Vec<usize> = (0..=disks).filter(|d| here >> d & 1 == 1).collect();
                    if before.check_next(&next, &live).is_err() {
                        continue;
                    }
                    // Whoever has none of those that took it must see that it may be there.
                    let others: Vec<usize> = (0..disks).filter(|d| !live.contains(d)).collect();
                    assert!(before.check_newest(&others).is_err(), "{live:?} of {disks}");
                }
            }
        }
        assert!(
            set(2)
                .check_next(&set(2).with_draining(0, true), &[0, 1])
                .is_err()
        );
    }

    #[test]
    fn slots_are_used_again_and_the_retired_are_remembered() {
        let mut members = set(3);
        for number in 0..RETIRED_KEPT_MAX as u8 + 5 {
            let (added, slot) = members.with_added([100 + number; 16]).unwrap();
            assert_eq!(slot, if number == 0 { 3 } else { 1 });
            members = added.with_retired(if number == 0 { 1 } else { slot });
            members = Membership::decode(&members.encode()).unwrap();
        }
        assert_eq!(members.active().count(), 3);
        assert_eq!(members.members.len(), 3 + RETIRED_KEPT_MAX);
        let state = |id| members.of(&[id; 16]).map(|member| member.state);
        assert_eq!(
            state(100 + RETIRED_KEPT_MAX as u8),
            Some(MemberState::Retired)
        );
        assert_eq!(state(101), None, "the oldest are forgotten");
    }
}
