//! Disks that come to a set and leave it while it serves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use set_checks::{Disks, SHARD, SIZES, Set, bytes, formatted, formatted_with, kill};
use simdisk::{Fault, Rng};
use volume::{Added, BlobRef, Change, Volume, VolumeError};

type Blobs = Vec<(BlobRef, Vec<u8>)>;

fn fill(set: &Set, seed: u64) -> Blobs {
    let sizes = SIZES.iter().zip(seed..);
    let put = |(size, seed): (&usize, u64)| {
        let body = bytes(*size, seed);
        (set.put(&body).unwrap().0, body)
    };
    set.set_meta("a", &seed.to_le_bytes()).unwrap();
    sizes.map(put).collect()
}

fn check(set: &Set, blobs: &Blobs) {
    for (blob, body) in blobs {
        assert!(set.read(blob).unwrap() == *body, "{} bytes", body.len());
    }
}

/// All is where it is to be.
fn settled(volume: &Volume) -> bool {
    volume.is_healed() && volume.is_whole() && volume.is_tidy()
}

#[test]
fn one_disk_grows_into_many() {
    let mut disks = Disks::new(1);
    let set = disks.open(&[0]).unwrap();
    let mut blobs = fill(&set, 1);
    assert_eq!(blobs[6].0.scheme.to_string(), "1+0");
    for slot in 1..4 {
        disks.sims.push(formatted([slot as u8 + 1; 16], [2; 16]));
        let movement = set.volume.measure(Change::Add { capacity: 8 << 20 });
        assert!(slot > 1 || movement.unwrap().metadata_entries > 0);
        let added = set.volume.add_disk(disks.disk(slot)).unwrap();
        let second = (slot == 1).then_some(Added::Second);
        assert_eq!(added, second.unwrap_or(Added::Member(slot)));
        // It goes on meanwhile.
        check(&set, &blobs);
        blobs.extend(fill(&set, slot as u64 * 10));
        set.wait(|volume| volume.stats().members == slot + 1 && settled(volume));
        check(&set, &blobs);
    }
    // What was alone is so no longer, and what comes is spread.
    let (blob, durable) = set.put(&bytes(40 * SHARD, 99)).unwrap();
    assert_eq!(durable, "2+2");
    blobs.push((blob, bytes(40 * SHARD, 99)));
    assert_eq!(set.volume.stats().ledger.owing(), 0);
    set.close();
    for left in [vec![2, 3, 1], vec![0, 2, 3]] {
        let set = disks.open(&left).unwrap();
        check(&set, &blobs);
        assert_eq!(set.meta("a"), Some(30_u64.to_le_bytes().to_vec()));
        set.close();
        disks.open(&disks.all()).unwrap().close();
    }
}

/// Whenever the growth of a set is cut off, it is a set of one disk with all that it had, or one
/// of two.
#[test]
fn a_growth_that_is_cut_off_loses_nothing() {
    let mut ends = [0, 0];
    for seed in 0..24_u64 {
        let mut disks = Disks::new(1);
        let set = disks.open(&[0]).unwrap();
        let blobs = fill(&set, 7);
        for number in 0..40 {
            set.set_meta(&format!("k{number}"), &[number; 300]).unwrap();
        }
        disks.sims.push(formatted([2; 16], [2; 16]));
        set.volume.add_disk(disks.disk(1)).unwrap();
        for disk in &disks.sims {
            disk.cut_after(seed * 2);
        }
        set.sleep_a_little();
        kill(set, &mut disks, seed);
        let set = disks.open(&[0, 1]).unwrap();
        let members = set.volume.stats().members;
        ends[members - 1] += 1;
        check(&set, &blobs);
        assert_eq!(set.meta("k39"), Some(vec![39; 300]));
        if members == 1 {
            assert!(
                set.volume.warnings()[0].contains("not a disk of the set yet"),
                "{:?}",
                set.volume.warnings()
            );
            set.volume.add_disk(disks.disk(1)).unwrap();
        }
        set.wait(|volume| volume.stats().members == 2 && settled(volume));
        set.close();
    }
    assert!(ends.iter().all(|count| *count > 0), "{ends:?}");
}

#[test]
fn a_new_disk_gets_its_share() {
    let mut disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    let mut blobs: Blobs = (0..6).flat_map(|n| fill(&set, n * 10)).collect();
    set.wait(settled);
    disks.sims.push(formatted([7; 16], [2; 16]));
    let expected = set
        .volume
        .measure(Change::Add { capacity: 8 << 20 })
        .unwrap();
    assert_eq!(expected.stuck, 0);
    assert_eq!(
        set.volume.add_disk(disks.disk(6)).unwrap(),
        Added::Member(6)
    );
    blobs.extend(fill(&set, 100));
    set.wait(settled);
    check(&set, &blobs);
    let shards: Vec<usize> = (0..7).map(|number| disks.shards_on(number)).collect();
    let mean = shards.iter().sum::<usize>() / 7;
    assert!(shards[6] > mean / 2, "{shards:?}");
    let moved = set.volume.stats().shards_moved;
    // Its UUID says which, and that was not known.
    assert!(
        moved > 0 && moved.abs_diff(expected.shards) <= expected.shards / 2 + 4,
        "{moved} for {expected:?}"
    );
    set.close();
    let set = disks.open(&disks.all()).unwrap();
    set.wait(settled);
    check(&set, &blobs);
    assert_eq!(set.volume.stats().shards_moved, 0, "it has come to rest");
    set.close();
    let set = disks.open(&[0, 1, 2, 3, 6]).unwrap();
    check(&set, &blobs);
    set.close();
}

#[test]
fn a_drained_disk_is_empty_and_leaves() {
    let disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    let mut blobs: Blobs = (0..4).flat_map(|n| fill(&set, n * 10)).collect();
    set.wait(settled);
    let on_it = disks.shards_on(1) as u64;
    let expected = set.volume.measure(Change::Drain { slot: 1 }).unwrap();
    assert_eq!((expected.shards, expected.stuck), (on_it, 0));
    assert!(expected.bytes > 0 && expected.metadata_entries > 0);
    set.volume.drain_disk(1, true).unwrap();
    blobs.extend(fill(&set, 100));
    set.wait(|volume| volume.stats().members == 5 && settled(volume));
    check(&set, &blobs);
    assert!(
        set.volume
            .take_events()
            .iter()
            .any(|e| e.contains("has left the set"))
    );
    set.close();
    // It holds nothing, and does not come back.
    let refused = disks.open(&disks.all()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("left the set"), "{refused}");
    let alone = disks.engine(1);
    let page = alone
        .snapshot()
        .scan(&[1], &[3], 10, volume::shardstore::Read::Blocking)
        .unwrap();
    assert!(page.entries.is_empty());
    alone.close().unwrap();
    let set = disks.open(&[0, 2, 3, 4, 5]).unwrap();
    let refused = set.volume.add_disk(disks.disk(1)).unwrap_err().to_string();
    assert!(refused.contains("Empty it"), "{refused}");
    check(&set, &blobs);
    set.close();
    // The others are a set whose disks may be lost.
    let set = disks.open(&[3, 4, 5]).unwrap();
    check(&set, &blobs);
    set.close();
}

#[test]
fn draining_goes_on_after_power_cuts_and_can_be_ended() {
    for seed in 0..6 {
        let mut disks = Disks::new(4);
        let set = disks.open(&disks.all()).unwrap();
        let blobs: Blobs = (0..3)
            .map(|n| (set.put(&bytes(500, n)).unwrap().0, bytes(500, n)))
            .collect();
        set.set_meta("a", b"1").unwrap();
        set.volume.drain_disk(0, true).unwrap();
        for disk in &disks.sims {
            disk.cut_after(10 + seed * 5);
        }
        set.sleep_a_little();
        kill(set, &mut disks, seed);
        let left = match disks.open(&disks.all()) {
            Ok(set) => {
                set.wait(|volume| volume.stats().members == 3 && settled(volume));
                set.close();
                vec![1, 2, 3]
            }
            Err(VolumeError::Set { why }) => {
                assert!(why.contains("left the set"), "{why}");
                vec![1, 2, 3]
            }
            Err(error) => panic!("{error}"),
        };
        let set = disks.open(&left).unwrap();
        check(&set, &blobs);
        assert_eq!(set.meta("a"), Some(b"1".to_vec()));
        set.close();
    }
    let disks = Disks::new(4);
    let set = disks.open(&disks.all()).unwrap();
    // Four shards each: they have no place on three disks.
    let (blob, durable) = set.put(&bytes(40 * SHARD, 1)).unwrap();
    assert_eq!(durable, "2+2");
    assert!(set.volume.measure(Change::Drain { slot: 2 }).unwrap().stuck > 0);
    set.volume.drain_disk(2, true).unwrap();
    set.wait(|volume| volume.stats().shards_stuck > 0);
    assert_eq!(set.volume.stats().members, 4);
    set.volume.drain_disk(2, false).unwrap();
    set.wait(|volume| settled(volume) && volume.stats().shards_stuck == 0);
    assert_eq!(set.read(&blob).unwrap(), bytes(40 * SHARD, 1));
    set.close();
}

#[test]
fn lost_disks_are_replaced() {
    let mut disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    let mut blobs: Blobs = (0..4).flat_map(|n| fill(&set, n * 10)).collect();
    set.close();
    let set = disks.open(&[0, 1, 2, 3]).unwrap();
    blobs.extend(fill(&set, 50));
    for (slot, new) in [(4, 6), (5, 7)] {
        disks.sims.push(formatted([new as u8 + 1; 16], [2; 16]));
        let added = set
            .volume
            .replace_disk(slot, disks.disk(new), false)
            .unwrap();
        // It takes over the number of the one that is gone.
        assert_eq!(added, Added::Member(slot));
    }
    blobs.extend(fill(&set, 60));
    set.wait(settled);
    check(&set, &blobs);
    assert_eq!(set.volume.stats().members, 6);
    set.close();
    // The old ones are known and refused, and two others may go now.
    let refused = disks.open(&[0, 1, 2, 3, 4, 6, 7]).map(drop).unwrap_err();
    assert!(refused.to_string().contains("left the set"), "{refused}");
    let set = disks.open(&[2, 3, 6, 7]).unwrap();
    check(&set, &blobs);
    assert_eq!(set.meta("a"), Some(60_u64.to_le_bytes().to_vec()));
    set.close();
}

#[test]
fn a_disk_that_works_is_replaced_by_a_larger_one() {
    let mut disks = Disks::new(3);
    let set = disks.open(&disks.all()).unwrap();
    let mut blobs: Blobs = (0..3).flat_map(|n| fill(&set, n * 10)).collect();
    disks.sims.push(formatted_with([9; 16], [2; 16], 16 << 20));
    set.volume.replace_disk(0, disks.disk(3), false).unwrap();
    blobs.extend(fill(&set, 50));
    set.wait(|volume| volume.stats().members == 3 && settled(volume));
    check(&set, &blobs);
    let slots: Vec<usize> = set
        .volume
        .stats()
        .disks
        .iter()
        .map(|disk| disk.slot)
        .collect();
    assert_eq!(slots, [1, 2, 3]);
    set.close();
    let set = disks.open(&[1, 3]).unwrap();
    check(&set, &blobs);
    assert_eq!(set.meta("a"), Some(50_u64.to_le_bytes().to_vec()));
    set.close();
}

/// The set is of one disk before and after, and of both meanwhile; whatever number that has.
#[test]
fn the_only_disk_is_replaced_while_it_serves() {
    let mut disks = Disks::new(1);
    let mut set = disks.open(&[0]).unwrap();
    let mut blobs = fill(&set, 1);
    for new in 1..4 {
        let old = new - 1;
        disks.sims.push(formatted([new as u8 + 1; 16], [2; 16]));
        let slot = set.volume.stats().disks[0].slot;
        let change = Change::Replace {
            slot,
            capacity: 8 << 20,
        };
        let movement = set.volume.measure(change).unwrap();
        assert!(movement.shards > 0 && movement.metadata_entries > 0);
        let added = set.volume.replace_disk(slot, disks.disk(new), false);
        assert_eq!(added.unwrap(), Added::Successor);
        check(&set, &blobs);
        blobs.extend(fill(&set, new as u64 * 20));
        let is_large = |(_, body): &(BlobRef, Vec<u8>)| body.len() > 9 * SHARD;
        let gone = blobs.remove(blobs.iter().position(is_large).unwrap());
        set.volume.delete_blob(&gone.0, Vec::new());
        set.wait(|volume| volume.is_single() && volume.needs_no_keeping());
        check(&set, &blobs);
        let alone = set.volume.stats();
        assert_eq!((alone.members, alone.disks.len()), (1, 1));
        assert_eq!(alone.disks[0].identity.disk, [new as u8 + 1; 16]);
        blobs.extend(fill(&set, new as u64 * 20 + 10));
        set.wait(|volume| {
            let _ = volume.housekeep();
            volume.deletions_settled()
        });
        assert!(set.read(&gone.0).is_err());
        set.close();
        for with in [vec![old], vec![old, new]] {
            let refused = disks.open(&with).map(drop).unwrap_err().to_string();
            assert!(refused.contains("left the set"), "{refused}");
        }
        set = disks.open(&[new]).unwrap();
        check(&set, &blobs);
        let last = (new as u64 * 20 + 10).to_le_bytes();
        assert_eq!(set.meta("a"), Some(last.to_vec()));
    }
    // It grows like any other.
    disks.sims.push(formatted([77; 16], [2; 16]));
    assert_eq!(set.volume.add_disk(disks.disk(4)).unwrap(), Added::Second);
    set.wait(|volume| volume.stats().members == 2 && settled(volume));
    blobs.extend(fill(&set, 90));
    set.close();
    let set = disks.open(&[4, 3]).unwrap();
    check(&set, &blobs);
    assert_eq!(set.meta("a"), Some(90_u64.to_le_bytes().to_vec()));
    set.close();
}

/// Wherever it is cut off, it is the set of the old disk, of both, or of the new one, and goes on.
#[test]
fn a_replacement_of_the_only_disk_that_is_cut_off_loses_nothing() {
    for seed in 0..24 {
        let mut disks = Disks::new(1);
        let set = disks.open(&[0]).unwrap();
        let blobs = fill(&set, 3);
        disks.sims.push(formatted([2; 16], [2; 16]));
        let added = set.volume.replace_disk(0, disks.disk(1), false);
        assert_eq!(added.unwrap(), Added::Successor);
        for (at, disk) in disks.sims.iter().enumerate() {
            disk.cut_after(5 + seed * 7 + at as u64);
        }
        set.sleep_a_little();
        kill(set, &mut disks, seed);
        let (set, last) = match disks.open(&disks.all()) {
            Ok(set) if set.volume.is_single() => (set, 0),
            Ok(set) => {
                set.wait(|volume| volume.is_single());
                (set, 1)
            }
            Err(VolumeError::Set { why }) => {
                assert!(why.contains("left the set"), "{why}");
                let left = usize::from(why.contains("/disk/0 "));
                (disks.open(&[left]).unwrap(), left)
            }
            Err(error) => panic!("{error}"),
        };
        check(&set, &blobs);
        assert_eq!(set.meta("a"), Some(3_u64.to_le_bytes().to_vec()));
        set.close();
        let set = disks.open(&[last]).unwrap();
        check(&set, &blobs);
        set.close();
    }
}

/// Wherever the new disk fails, whatever was acknowledged before and after is there when both are
/// started again.
#[test]
fn a_replacement_of_the_only_disk_that_fails_loses_nothing() {
    let mut ends = [0, 0, 0];
    for skip in (0..16).map(|n| n * n * 2) {
        let mut disks = Disks::new(1);
        let set = disks.open(&[0]).unwrap();
        let mut blobs = fill(&set, 3);
        let new = formatted([2; 16], [2; 16]);
        disks.sims.push(new.clone());
        let disk = disks.disk(1);
        new.inject(match skip % 3 {
            0 => Fault::WriteError { skip },
            _ => Fault::FlushFails {
                skip,
                seed: skip.into(),
                cached: skip % 3 == 1,
            },
        });
        let mut last = (3, 3);
        // Where it fails at once, it is not taken.
        if set.volume.replace_disk(0, disk, false).is_ok() {
            for value in 4..40_u64 {
                last.1 = value;
                if set.set_meta("a", &value.to_le_bytes()).is_ok() {
                    last.0 = value;
                }
                let body = bytes(5 * SHARD, value);
                if value % 6 == 0
                    && let Ok((blob, _)) = set.put(&body)
                {
                    blobs.push((blob, body));
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let failed = |volume: &Volume| volume.failure().is_some();
            set.wait(|volume| {
                let is_at_rest = volume.is_single() && volume.stats().joining.is_none();
                is_at_rest || failed(volume)
            });
            ends[match (failed(&set.volume), set.volume.stats().disks[0].slot) {
                (true, _) => 0,
                (false, 0) => 1,
                (false, _) => 2,
            }] += 1;
        }
        set.close();
        new.calm();
        let set = match disks.open(&disks.all()) {
            Ok(set) => set,
            Err(VolumeError::Set { why }) => {
                assert!(why.contains("left the set"), "{why}");
                let left = usize::from(why.contains("/disk/0 "));
                disks.open(&[left]).unwrap()
            }
            Err(error) => panic!("{error}"),
        };
        set.wait(|volume| volume.is_single() && volume.needs_no_keeping());
        check(&set, &blobs);
        let found = set.meta("a").unwrap();
        let found = u64::from_le_bytes(found.try_into().unwrap());
        assert!(
            (last.0..=last.1).contains(&found),
            "{found} {last:?} {skip}"
        );
        set.close();
    }
    assert!(ends.iter().all(|count| *count > 0), "{ends:?}");
}

/// The old disk drops out for a moment, and comes back: it goes on.
#[test]
fn a_replacement_of_the_only_disk_goes_on_when_the_old_one_is_back() {
    let mut disks = Disks::new(1);
    let set = disks.open(&[0]).unwrap();
    let mut blobs = Blobs::new();
    for seed in 0..8 {
        blobs.extend(fill(&set, seed * 10));
    }
    disks.sims.push(formatted([2; 16], [2; 16]));
    set.volume.replace_disk(0, disks.disk(1), false).unwrap();
    set.wait(|volume| volume.stats().members == 2);
    disks.sims[0].remove();
    let _ = set.set_meta("b", b"0");
    set.wait(|volume| volume.failure().is_some());
    set.close();
    disks.sims[0].give_back(&mut Rng::new(1));
    let set = disks.open(&[0, 1]).unwrap();
    set.wait(|volume| volume.is_single());
    check(&set, &blobs);
    set.set_meta("b", b"1").unwrap();
    set.close();
}

/// The new disk is not wanted after all: the old one stays, alone if the new one is gone.
#[test]
fn a_replacement_of_the_only_disk_can_be_given_up() {
    let mut disks = Disks::new(1);
    let set = disks.open(&[0]).unwrap();
    let blobs = fill(&set, 1);
    disks.sims.push(formatted([2; 16], [2; 16]));
    set.volume.replace_disk(0, disks.disk(1), false).unwrap();
    set.wait(|volume| volume.stats().members == 2);
    disks.sims[1].remove();
    let _ = set.set_meta("b", b"0");
    set.wait(|volume| volume.failure().is_some());
    set.volume.remove_disk(1, true).unwrap();
    assert!(set.volume.is_single());
    set.set_meta("b", b"1").unwrap();
    let wrong = |(blob, body): &(BlobRef, Vec<u8>)| set.read(blob).is_ok_and(|read| read != *body);
    assert!(!blobs.iter().any(wrong));
    // At once, it is one more disk and nothing else.
    disks.sims.push(formatted([3; 16], [2; 16]));
    set.volume.replace_disk(0, disks.disk(2), false).unwrap();
    set.volume.drain_disk(0, false).unwrap();
    set.wait(|volume| volume.stats().members == 2 && settled(volume));
    set.set_meta("b", b"2").unwrap();
    set.close();
    let set = disks.open(&[2, 0]).unwrap();
    assert_eq!(set.meta("b"), Some(b"2".to_vec()));
    set.close();
}

/// The new disk dies before all is there: what it had is lost, as with any only disk, and the
/// replacement begins again with another one.
#[test]
fn a_replacement_of_the_only_disk_survives_the_new_one() {
    let mut disks = Disks::new(1);
    let set = disks.open(&[0]).unwrap();
    let blobs = fill(&set, 1);
    let change = Change::Replace {
        slot: 0,
        capacity: 10_000,
    };
    let only = set.volume.disks().remove(0);
    only.engine.store().checkpoint().unwrap();
    let refused = set.volume.measure(change).unwrap_err().to_string();
    assert!(refused.contains("too small"), "{refused}");
    disks.sims.push(formatted([2; 16], [2; 16]));
    set.volume.replace_disk(0, disks.disk(1), false).unwrap();
    set.wait(|volume| volume.stats().members == 2);
    // What was not moved yet is read from the old one.
    disks.sims[1].remove();
    // Whether the old one has this is for it to say.
    let _ = set.set_meta("b", b"0");
    set.wait(|volume| volume.failure().is_some());
    assert!(set.set_meta("b", b"1").is_err());
    disks.sims.push(formatted([3; 16], [2; 16]));
    set.volume.replace_disk(1, disks.disk(2), true).unwrap();
    set.wait(|volume| volume.is_single());
    set.set_meta("b", b"1").unwrap();
    let (blob, _) = set.put(&bytes(9 * SHARD, 70)).unwrap();
    assert_eq!(set.meta("a"), Some(1_u64.to_le_bytes().to_vec()));
    set.close();
    let set = disks.open(&[2]).unwrap();
    assert_eq!(set.read(&blob).unwrap(), bytes(9 * SHARD, 70));
    // What had not been moved yet is there.
    let wrong = |(blob, body): &(BlobRef, Vec<u8>)| set.read(blob).is_ok_and(|read| read != *body);
    assert!(!blobs.iter().any(wrong));
    set.close();
}

#[test]
fn a_lost_disk_is_taken_out_only_if_nothing_needs_it() {
    let disks = Disks::new(5);
    let set = disks.open(&disks.all()).unwrap();
    let blobs = fill(&set, 1);
    let refused = set.volume.remove_disk(4, false).unwrap_err().to_string();
    assert!(refused.contains("drain it"), "{refused}");
    set.close();
    let set = disks.open(&[0, 1, 2, 3]).unwrap();
    set.wait(|volume| volume.is_healed() && volume.is_tidy());
    set.volume.remove_disk(4, false).unwrap();
    set.wait(settled);
    check(&set, &blobs);
    assert!(set.volume.remove_disk(4, false).is_err(), "it is gone");
    set.close();
    let refused = disks.open(&disks.all()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("left the set"), "{refused}");
    let set = disks.open(&[0, 3, 2]).unwrap();
    check(&set, &blobs);
    set.close();
}

/// A disk that failed and is there again catches up without a restart of the server.
#[test]
fn a_disk_comes_back_while_it_serves() {
    let disks = Disks::new(4);
    let set = disks.open(&disks.all()).unwrap();
    let mut blobs = fill(&set, 1);
    set.close();
    let set = disks.open(&[0, 1, 3]).unwrap();
    blobs.extend(fill(&set, 20));
    let gone = blobs.remove(5);
    set.volume.delete_blob(&gone.0, Vec::new());
    set.wait(|volume| {
        let _ = volume.housekeep();
        volume.deletions_settled()
    });
    assert_eq!(set.volume.add_disk(disks.disk(2)).unwrap(), Added::Back(2));
    let twice = set.volume.add_disk(disks.disk(2)).unwrap_err().to_string();
    assert!(twice.contains("already"), "{twice}");
    blobs.extend(fill(&set, 40));
    set.wait(settled);
    check(&set, &blobs);
    set.close();
    let set = disks.open(&[2, 3, 0]).unwrap();
    check(&set, &blobs);
    assert_eq!(set.meta("a"), Some(40_u64.to_le_bytes().to_vec()));
    set.close();
}

#[test]
fn foreign_disks_are_refused_by_name() {
    let mut disks = Disks::new(2);
    let set = disks.open(&[0, 1]).unwrap();
    disks.sims.push(formatted([7; 16], [3; 16]));
    let refused = set.volume.add_disk(disks.disk(2)).unwrap_err().to_string();
    assert!(
        refused.contains("/disk/2 belongs to another set"),
        "{refused}"
    );
    // One of a set of its own, by the same number.
    disks.sims[2] = formatted([7; 16], [2; 16]);
    let other = disks.open(&[2]).unwrap();
    fill(&other, 1);
    other.close();
    let refused = set.volume.add_disk(disks.disk(2)).unwrap_err().to_string();
    assert!(refused.contains("/disk/2 is not empty"), "{refused}");
    let refused = set.volume.drain_disk(1, true).unwrap_err().to_string();
    assert!(refused.contains("keeps two"), "{refused}");
    let refused = set.volume.drain_disk(9, true).unwrap_err().to_string();
    assert!(refused.contains("no disk 9"), "{refused}");
    set.close();
}

/// A set that was opened with too few disks has not made its metadata the same on those that are
/// there: it does not become one that takes writes by adding a disk.
#[test]
fn a_set_that_is_only_read_stays_it() {
    let disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    let blobs = fill(&set, 3);
    set.close();
    let set = disks.open(&[0, 1, 2]).unwrap();
    assert!(set.set_meta("b", b"1").is_err());
    let refused = set.volume.add_disk(disks.disk(3)).unwrap_err().to_string();
    assert!(refused.contains("start it again"), "{refused}");
    set.close();
    let set = disks.open(&[0, 1, 2, 3]).unwrap();
    check(&set, &blobs);
    set.set_meta("b", b"1").unwrap();
    assert_eq!(set.volume.add_disk(disks.disk(4)).unwrap(), Added::Back(4));
    set.close();
}
