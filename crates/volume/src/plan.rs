//! What is to become of a stripe whose shards are not all where they are to be.
//!
//! Each shard is to be on a disk of its own, and in the long run on one of the disks that
//! [`placement`] names first. Of a stripe with one data shard all shards are the same bytes, so
//! that any of them counts, and there may be more of them than its scheme says: as many as the
//! set makes of what is written today.

use std::collections::{BTreeMap, BTreeSet};

use crate::placement::Place;
use crate::{BlobId, Scheme, placement};

/// Where each shard of a stripe is, by its number.
pub(crate) type Holders = BTreeMap<u8, BTreeSet<usize>>;

/// What the disks are like.
pub(crate) struct Outlook<'a> {
    /// Those that shards are to be on.
    pub lasting: &'a [Place],
    /// Whether one of them takes new data now.
    pub takes_data: &'a dyn Fn(usize) -> bool,
    /// Copies of what is kept in copies.
    pub copies: usize,
}

/// A shard that is to be on another disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    pub shard: u8,
    pub from: usize,
    pub to: usize,
}

/// See the file's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Shards that are nowhere.
    pub missing: Vec<u8>,
    /// Those of them for which there is a disk, and which.
    pub make: Vec<(u8, usize)>,
    pub moves: Vec<Move>,
    /// Shards that are to go, because another disk has them, too.
    pub surplus: Vec<(u8, usize)>,
    /// Shards on disks that are to be emptied, for which no disk is left at all.
    pub stuck: usize,
    /// Such shards that wait until another disk has room.
    pub waiting: usize,
}

impl Plan {
    pub(crate) fn is_done(&self) -> bool {
        self.missing.is_empty() && self.moves.is_empty() && self.surplus.is_empty()
    }
}

/// What is to become of a stripe.
pub(crate) fn plan(
    (blob, stripe): (BlobId, u32),
    scheme: Scheme,
    holders: &Holders,
    outlook: &Outlook<'_>,
) -> Plan {
    let order = placement::order(blob, stripe, outlook.lasting);
    let rank = |slot: usize| order.iter().position(|other| *other == slot);
    let mut plan = Plan::default();
    // Which disk each shard is taken to be on.
    let mut kept: Vec<(u8, usize)> = Vec::new();
    let is_used = |kept: &[(u8, usize)], slot: usize| kept.iter().any(|(_, used)| *used == slot);
    let best = |slots: &mut Vec<usize>| {
        slots.sort_by_key(|slot| (rank(*slot).unwrap_or(usize::MAX), *slot));
    };
    if scheme.k == 1 {
        let copies: BTreeMap<usize, u8> = holders
            .iter()
            .flat_map(|(shard, slots)| slots.iter().map(|slot| (*slot, *shard)))
            .collect();
        let mut slots: Vec<usize> = copies.keys().copied().collect();
        best(&mut slots);
        let wanted = outlook.copies.max(1);
        for (at, slot) in slots.into_iter().enumerate() {
            match at < wanted {
                true => kept.push((copies[&slot], slot)),
                false => plan.surplus.push((copies[&slot], slot)),
            }
        }
        let unused = (0..scheme.width()).filter(|shard| !holders.contains_key(shard));
        let numbers = unused.chain(std::iter::repeat(0));
        plan.missing
            .extend(numbers.take(wanted.saturating_sub(kept.len())));
    } else {
        for shard in 0..scheme.width() {
            let mut slots: Vec<usize> = match holders.get(&shard) {
                Some(slots) => slots.iter().copied().collect(),
                None => {
                    plan.missing.push(shard);
                    continue;
                }
            };
            best(&mut slots);
            // One that has another shard of the stripe counts only if there is no other.
            let at = slots.iter().position(|slot| !is_used(&kept, *slot));
            let slot = slots.remove(at.unwrap_or(0));
            kept.push((shard, slot));
            plan.surplus
                .extend(slots.into_iter().map(|slot| (shard, slot)));
        }
    }
    let has_any: BTreeSet<usize> = holders.values().flatten().copied().collect();
    let mut free = order
        .iter()
        .copied()
        .filter(|slot| !has_any.contains(slot) && (outlook.takes_data)(*slot));
    plan.make = plan.missing.iter().copied().zip(&mut free).collect();
    let mut free: Vec<usize> = free.rev().collect();
    let room = order.iter().filter(|slot| !has_any.contains(slot)).count();
    let mut room = room.saturating_sub(plan.missing.len());
    for (shard, from) in kept.iter().copied() {
        let is_leaving = rank(from).is_none();
        if !is_leaving {
            continue;
        }
        if room == 0 {
            plan.stuck += 1;
            continue;
        }
        room -= 1;
        match free.pop() {
            Some(to) => plan.moves.push(Move { shard, from, to }),
            None => plan.waiting += 1,
        }
    }
    if !plan.missing.is_empty() {
        // What is there twice stays for now, unless its disk is needed.
        if plan.make.len() == plan.missing.len() {
            plan.surplus.clear();
        }
        return plan;
    }
    // Those that are to be elsewhere in the long run, to where they are to be.
    let width = kept.len();
    for (shard, from) in kept {
        if rank(from).is_some_and(|rank| rank >= width)
            && let Some(to) = free.pop_if(|to| rank(*to).is_some_and(|rank| rank < width))
        {
            plan.moves.push(Move { shard, from, to });
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRIPE: (BlobId, u32) = (BlobId::FIRST, 0);

    fn places(slots: &[usize]) -> Vec<Place> {
        let place = |slot: &usize| Place {
            slot: *slot,
            disk: [*slot as u8 + 1; 16],
            weight: 1,
        };
        slots.iter().map(place).collect()
    }

    fn planned(scheme: Scheme, holders: &[(u8, usize)], lasting: &[usize], copies: usize) -> Plan {
        let mut map = Holders::new();
        for (shard, slot) in holders {
            map.entry(*shard).or_default().insert(*slot);
        }
        let lasting = places(lasting);
        let outlook = Outlook {
            lasting: &lasting,
            takes_data: &|_| true,
            copies,
        };
        plan(STRIPE, scheme, &map, &outlook)
    }

    /// What carrying a plan out makes of a stripe.
    fn carried_out(holders: &mut Vec<(u8, usize)>, plan: &Plan) {
        holders.extend(&plan.make);
        for Move { shard, from, to } in &plan.moves {
            holders.retain(|holder| holder != &(*shard, *from));
            holders.push((*shard, *to));
        }
        holders.retain(|holder| !plan.surplus.contains(holder));
    }

    /// From whatever there is of a stripe, within a few steps each shard is on a disk of its own,
    /// on those that are preferred, and then nothing is moved any more. Nothing that is nowhere
    /// else is ever given up.
    #[test]
    fn every_stripe_comes_to_rest() {
        let mut rng = simdisk::Rng::new(5);
        for _ in 0..4_000 {
            let disks = 2 + rng.below(7) as usize;
            let scheme = Scheme::for_disks(disks).unwrap();
            let scheme = match rng.below(3) {
                0 => scheme.copies(),
                _ => scheme,
            };
            let copies = usize::from(scheme.width());
            let leaving = (disks > usize::from(scheme.width())).then(|| rng.below(disks as u64));
            let lasting: Vec<usize> = (0..disks)
                .filter(|slot| Some(*slot as u64) != leaving)
                .collect();
            let mut holders: Vec<(u8, usize)> = Vec::new();
            for shard in 0..scheme.width() {
                for _ in 0..rng.below(3) {
                    let slot = rng.below(disks as u64) as usize;
                    if holders.iter().all(|(_, used)| *used != slot) {
                        holders.push((shard, slot));
                    }
                }
            }
            let before: BTreeSet<u8> = holders.iter().map(|(shard, _)| *shard).collect();
            if before.is_empty() {
                continue;
            }
            for step in 0.. {
                let plan = planned(scheme, &holders, &lasting, copies);
                if plan.is_done() {
                    break;
                }
                assert!(step < 4, "{holders:?} {plan:?}");
                carried_out(&mut holders, &plan);
                let now: BTreeSet<u8> = holders.iter().map(|(shard, _)| *shard).collect();
                assert!(scheme.k == 1 || now.is_superset(&before), "{holders:?}");
            }
            let order = placement::order(STRIPE.0, STRIPE.1, &places(&lasting));
            let mut slots: Vec<usize> = holders.iter().map(|(_, slot)| *slot).collect();
            let mut preferred = order[..copies].to_vec();
            slots.sort_unstable();
            preferred.sort_unstable();
            assert_eq!(slots, preferred, "{scheme} on {disks}: {holders:?}");
        }
    }

    #[test]
    fn a_set_that_became_narrow_keeps_what_it_cannot_move() {
        let scheme = Scheme { k: 2, m: 2 };
        let holders = [(0, 0), (1, 1), (2, 2), (3, 3)];
        let plan = planned(scheme, &holders, &[0, 1, 2], 2);
        assert_eq!((plan.stuck, plan.moves.len()), (1, 0));
        assert!(plan.missing.is_empty());
        // Copies are no more than there are disks.
        let plan = planned(scheme.copies(), &holders[..3], &[0, 1], 2);
        assert_eq!((plan.stuck, plan.surplus.clone()), (0, vec![(2, 2)]));
    }

    #[test]
    fn what_was_alone_gets_copies() {
        let plan = planned(Scheme { k: 1, m: 0 }, &[(0, 0)], &[0, 1, 2], 2);
        assert_eq!(plan.missing, [0]);
        assert!(matches!(plan.make[..], [(0, 1 | 2)]));
    }
}
