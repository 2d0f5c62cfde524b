//! Sets of several disks on real engines over simulated disks: what survives when disks go.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use set_checks::{
    CAPACITY, Disks, SHARD, SIZES, audit, bytes, formatted, formatted_with, kill, meta_key,
};
use simdisk::{Fault, Rng, SimDisk};
use volume::{BlobRef, MetaBatch, Volume, VolumeError, VolumeOptions, block_on};

#[test]
fn everything_is_read_without_any_m_disks() {
    for (count, lost) in [(2, 1), (3, 1), (4, 2), (6, 2), (8, 3)] {
        let disks = Disks::new(count);
        let set = disks.open(&disks.all()).unwrap();
        let scheme = set.volume.scheme();
        assert_eq!(usize::from(scheme.m), lost);
        let blobs: Vec<_> = SIZES
            .iter()
            .map(|size| {
                let body = bytes(*size, *size as u64);
                let (blob, durable) = set.put(&body).unwrap();
                assert_eq!(durable, blob.scheme.to_string());
                (blob, body)
            })
            .collect();
        set.set_meta("a", b"1").unwrap();
        set.close();
        // Each choice of so many disks, rotated.
        for first in 0..count {
            let left: Vec<usize> = (0..count - lost).map(|n| (first + n) % count).collect();
            let set = match disks.open(&left) {
                Ok(set) => set,
                // Half of the disks cannot know what the other half did.
                Err(VolumeError::Set { why }) => {
                    assert!(count % 2 == 0 && count <= 4, "{why}");
                    assert!(why.contains("--start-degraded"), "{why}");
                    continue;
                }
                Err(error) => panic!("{left:?} of {count}: {error}"),
            };
            for (blob, body) in &blobs {
                let read = set.read(blob).unwrap();
                assert!(read == *body, "{left:?} of {count}, {} bytes", body.len());
            }
            assert_eq!(set.meta("a"), Some(b"1".to_vec()));
            set.close();
            // The whole set, so that the next choice is not made of stale disks.
            let set = disks.open(&disks.all()).unwrap();
            set.wait(Volume::is_whole);
            set.close();
        }
    }
}

#[test]
fn too_few_disks_say_which_are_missing() {
    let disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    let (blob, _) = set.put(&bytes(40 * SHARD, 1)).unwrap();
    set.close();
    let set = disks.open(&[0, 1, 2, 3]).unwrap();
    set.close();
    let set = disks.open_with(
        &[0, 1],
        VolumeOptions {
            start_degraded: true,
            ..VolumeOptions::default()
        },
    );
    let set = set.unwrap();
    assert_eq!(
        set.volume.warnings().len(),
        5,
        "{:?}",
        set.volume.warnings()
    );
    let error = set.read(&blob).unwrap_err();
    assert!(matches!(error, VolumeError::NotHere { .. }), "{error}");
    assert!(error.to_string().contains("disk 5"), "{error}");
    let refused = set.put(b"x").unwrap_err();
    assert!(matches!(refused, VolumeError::NotHere { .. }), "{refused}");
    assert!(set.set_meta("a", b"2").is_err());
    // The ledger says so, although nothing can be done.
    set.wait(|volume| volume.stats().ledger.is_settled && volume.stats().ledger.lost > 0);
    set.close();
}

/// A disk's file that was cut short looks as if its end was never written. It was the one that the
/// others were made like, and what had been acknowledged was gone.
#[test]
fn a_disk_that_lost_its_end_is_not_believed() {
    for batches in [3, 50, 5_000_u64] {
        let mut disks = Disks::new(6);
        let set = disks.open(&disks.all()).unwrap();
        set.set_meta("a", b"old").unwrap();
        let (before, epoch) = (disks.sims[0].medium(), set.volume.epoch());
        for number in 0..batches {
            set.set_meta(&format!("k{}", number % 7), &number.to_le_bytes())
                .unwrap();
        }
        set.set_meta("a", b"new").unwrap();
        assert_eq!(set.volume.epoch(), epoch);
        set.close();
        disks.sims[0] = Arc::new(disks.sims[0].successor(before));
        let set = disks.open(&disks.all()).unwrap();
        assert_eq!(set.meta("a"), Some(b"new".to_vec()), "{batches}");
        set.wait(|volume| volume.is_whole() && volume.is_healed());
        set.close();
        // Nor is anything missing on it.
        let set = disks.open(&[0, 4, 5]).unwrap();
        assert_eq!(set.meta("a"), Some(b"new".to_vec()), "{batches}");
        let last = (0..batches).rev().find(|number| number % 7 == 2).unwrap();
        assert_eq!(set.meta("k2"), Some(last.to_le_bytes().to_vec()));
        set.close();
    }
}

/// Of what was only on disks that are missing nothing is left to be counted, and it is counted.
#[test]
fn what_nothing_is_left_of_is_lost_by_the_ledger() {
    let disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    let sizes = [1, 300, SHARD, 3 * SHARD, 40 * SHARD];
    let put = |seed: u64| {
        set.put(&bytes(sizes[seed as usize % sizes.len()], seed))
            .unwrap()
            .0
    };
    let blobs: Vec<BlobRef> = (0..40).map(put).collect();
    let engines = disks.all().into_iter().map(|n| {
        let here = set.volume.disks().remove(n);
        (n, here.engine)
    });
    let held = audit::shards(&engines.collect::<Vec<_>>()).unwrap();
    set.close();
    let mut vanished = 0;
    for present in [[0, 1, 2], [0, 2, 4], [1, 3, 5], [3, 4, 5]] {
        let (mut lost, mut nowhere) = (0, 0);
        for blob in &blobs {
            for stripe in 0..blob.stripes() {
                let of = held[&blob.id.to_bytes()].range((stripe, 0)..=(stripe, u8::MAX));
                let here = |(_, (on, _)): &(_, &(BTreeSet<usize>, u32))| {
                    on.iter().any(|disk| present.contains(disk))
                };
                let count = of.filter(here).count();
                lost += u64::from(count < usize::from(blob.scheme.k));
                nowhere += u64::from(count == 0);
            }
        }
        let set = disks.open(&present).unwrap();
        let known = blobs.clone();
        set.refer_to(move || known.clone());
        set.wait(|volume| {
            let ledger = volume.stats().ledger;
            ledger.is_settled && ledger.lost == lost
        });
        let unread = blobs.iter().filter(|blob| set.read(blob).is_err()).count();
        assert!(unread as u64 <= lost && (lost == 0 || unread > 0));
        vanished += nowhere;
        set.close();
    }
    assert!(vanished > 0, "nothing was put to the test");
}

#[test]
fn disks_come_in_any_order_and_strangers_do_not_come_in() {
    let mut disks = Disks::new(3);
    let set = disks.open(&[0, 1, 2]).unwrap();
    let body = bytes(9 * SHARD, 3);
    let (blob, _) = set.put(&body).unwrap();
    set.close();
    let set = disks.open(&[2, 0, 1]).unwrap();
    assert_eq!(set.read(&blob).unwrap(), body);
    set.close();
    disks.sims.push(formatted([9; 16], [2; 16]));
    disks.sims.push(formatted([9; 16], [3; 16]));
    disks
        .sims
        .push(Arc::new(SimDisk::new(disks.sims[1].medium())));
    // One that was made for the set, and not taken into it, is not used yet.
    let set = disks.open(&[0, 1, 2, 3]).unwrap();
    let warnings = set.volume.warnings().to_vec();
    assert!(
        warnings[0].contains("/disk/3 is not a disk of the set yet"),
        "{warnings:?}"
    );
    set.close();
    // Alone it begins a set of its own.
    disks.open(&[3]).unwrap().close();
    for (slots, says) in [
        (vec![0, 1, 2, 3], "not a member"),
        (vec![0, 1, 2, 4], "one set only"),
        (vec![0, 1, 2, 5], "the same disk"),
        (vec![0], "--start-degraded"),
    ] {
        let refused = disks.open(&slots).map(drop).unwrap_err().to_string();
        assert!(refused.contains(says), "{slots:?}: {refused}");
    }
}

#[test]
fn a_disk_that_fails_is_taken_out_and_writes_go_on() {
    for (count, scheme) in [(3, "1+1"), (4, "2+1"), (6, "3+2"), (7, "4+2")] {
        let disks = Disks::new(count);
        let set = disks.open(&disks.all()).unwrap();
        let before = bytes(40 * SHARD, 1);
        let (first, _) = set.put(&before).unwrap();
        disks.sims[1].inject(Fault::FlushFails {
            skip: 0,
            seed: 1,
            cached: false,
        });
        // Whatever is under way when it fails is acknowledged by the others, or fails.
        let _ = set.put(&bytes(40 * SHARD, 2));
        set.set_meta("b", b"2").unwrap();
        set.wait(|volume| !volume.is_whole());
        let body = bytes(40 * SHARD, 3);
        let (blob, durable) = set.put(&body).unwrap();
        assert_eq!(durable, scheme, "of {count} disks");
        assert_eq!(set.read(&blob).unwrap(), body);
        assert_eq!(set.read(&first).unwrap(), before);
        set.close();
        // What came after it is there without it.
        let left: Vec<usize> = disks.all().into_iter().filter(|slot| *slot != 1).collect();
        let set = disks.open(&left).unwrap();
        assert_eq!(set.read(&blob).unwrap(), body);
        assert_eq!(set.meta("b"), Some(b"2".to_vec()));
        set.close();
    }
}

#[test]
fn a_disk_that_was_away_never_serves_what_is_old() {
    let disks = Disks::new(4);
    let set = disks.open(&disks.all()).unwrap();
    set.set_meta("a", b"old").unwrap();
    set.close();
    // The primary of the metadata is away while the others go on.
    let set = disks.open(&[1, 2, 3]).unwrap();
    set.set_meta("a", b"new").unwrap();
    set.set_meta("c", b"more").unwrap();
    set.close();
    let set = disks.open(&disks.all()).unwrap();
    assert_eq!(set.meta("a"), Some(b"new".to_vec()));
    set.wait(Volume::is_whole);
    set.close();
    // It has caught up: it may be the only one of them left with another.
    let set = disks.open(&[0, 1, 2]).unwrap();
    assert_eq!(set.meta("a"), Some(b"new".to_vec()));
    set.close();
    let set = disks.open(&[0, 3, 1]).unwrap();
    assert_eq!(set.meta("c"), Some(b"more".to_vec()));
    set.close();
}

/// The power fails at a start with a disk that was away, when all others have the new generation
/// and this one not yet. That generation was one whose live members did not all know of it, and
/// the one before it was on no disk any more: the oldest was taken for the newest, in which the
/// disk that had been away counted, and its old metadata was served and copied over the others'.
#[test]
fn a_start_that_is_cut_off_does_not_make_what_is_old_new() {
    let mut disks = Disks::new(4);
    let set = disks.open(&disks.all()).unwrap();
    set.set_meta("a", b"old").unwrap();
    set.close();
    let set = disks.open(&[1, 2, 3]).unwrap();
    set.set_meta("a", b"new").unwrap();
    set.close();
    let opened: Vec<_> = disks.all().iter().map(|slot| disks.disk(*slot)).collect();
    let flushes = |disk: &SimDisk| disk.counters().flushes;
    let others: Vec<_> = disks.sims[1..]
        .iter()
        .map(|disk| (disk.clone(), flushes(disk)))
        .collect();
    let cut: Vec<_> = disks.sims.clone();
    disks.sims[0].observe(Some(Arc::new(move |_, _| {
        let until = Instant::now() + Duration::from_millis(200);
        let is_behind = |(disk, before): &(Arc<SimDisk>, u64)| flushes(disk) == *before;
        while others.iter().any(is_behind) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        for disk in &cut {
            disk.cut_after(0);
        }
    })));
    let volume = Volume::open(opened, VolumeOptions::default());
    disks.sims[0].observe(None);
    if let Ok(volume) = volume {
        let _ = volume.close();
    }
    disks.crash(1);
    let set = disks.open(&disks.all()).unwrap();
    assert_eq!(set.meta("a"), Some(b"new".to_vec()));
    set.close();
}

/// Power cuts in the middle of metadata batches: what was acknowledged is there, on whichever
/// disks are left, and all replicas agree on the rest.
#[test]
fn replicas_agree_after_power_cuts() {
    for seed in 0..12 {
        let mut disks = Disks::new(4);
        let mut acknowledged: BTreeMap<String, u32> = BTreeMap::new();
        let mut tried = acknowledged.clone();
        for round in 0..3_u64 {
            let set = disks.open(&disks.all()).unwrap();
            let mut rng = Rng::new(seed * 100 + round);
            let mut under_way = Vec::new();
            for number in 0..60 {
                let key = format!("k{}", rng.below(8));
                let value = (round as u32) * 1000 + number;
                let batch = MetaBatch::new()
                    .put(&meta_key(&key), value.to_le_bytes().to_vec(), Vec::new())
                    .merge(&meta_key("sum"), &[1]);
                // One at a time for each key, as the locks above see to it.
                under_way.retain(|(k, v, dependency): &(String, u32, volume::Dependency)| {
                    match *k == key {
                        true => {
                            dependency.wait().unwrap();
                            acknowledged.insert(k.clone(), *v);
                            false
                        }
                        false => true,
                    }
                });
                tried.insert(key.clone(), value);
                under_way.push((key, value, set.volume.commit(batch).unwrap()));
            }
            for (key, value, dependency) in under_way {
                if matches!(dependency.poll_now(), Some(Ok(()))) {
                    acknowledged.insert(key, value);
                }
            }
            kill(set, &mut disks, seed * 10 + round);
            let mut views: Vec<BTreeMap<String, Vec<u8>>> = Vec::new();
            for left in [
                vec![0, 1, 2, 3],
                vec![1, 2, 3],
                vec![0, 2, 3],
                vec![0, 1, 2, 3],
            ] {
                let set = disks.open(&left).unwrap();
                set.wait(|volume| volume.is_whole() || left.len() < 4);
                let keys = (0..8).map(|k| format!("k{k}")).chain(["sum".to_owned()]);
                let view = keys.filter_map(|key| Some((key.clone(), set.meta(&key)?)));
                views.push(view.collect());
                set.close();
            }
            assert!(views.windows(2).all(|two| two[0] == two[1]), "{views:?}");
            for (key, value) in &acknowledged {
                let found = &views[0][key];
                let found = u32::from_le_bytes(found[..].try_into().unwrap());
                assert!(
                    found == *value || found == tried[key],
                    "{key} of seed {seed}"
                );
            }
            for (key, value) in &views[0] {
                if key != "sum" {
                    let value = u32::from_le_bytes(value[..].try_into().unwrap());
                    acknowledged.insert(key.clone(), value);
                    tried.insert(key.clone(), value);
                }
            }
        }
    }
}

#[test]
fn what_a_lost_disk_had_is_made_up_for_on_the_others() {
    let disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    let blobs: Vec<_> = SIZES
        .iter()
        .map(|size| {
            let body = bytes(*size, *size as u64 + 1);
            (set.put(&body).unwrap().0, body)
        })
        .collect();
    set.set_meta("a", b"1").unwrap();
    set.wait(Volume::is_healed);
    assert_eq!(set.volume.stats().shards_healed, 0);
    set.close();
    // Without waiting for the disk: a stripe is five shards wide.
    let set = disks.open(&[1, 2, 3, 4, 5]).unwrap();
    set.wait(Volume::is_healed);
    let stats = set.volume.stats();
    assert!(stats.shards_healed > 0);
    assert_eq!((stats.ledger.owing(), stats.ledger.bytes_owing), (0, 0));
    set.close();
    let set = disks.open(&[3, 4, 5]).unwrap();
    for (blob, body) in &blobs {
        assert_eq!(set.read(blob).unwrap(), *body);
    }
    assert_eq!(set.meta("a"), Some(b"1".to_vec()));
    set.close();
}

#[test]
fn what_was_written_without_a_disk_is_made_up_for_when_it_is_back() {
    let disks = Disks::new(4);
    disks.open(&disks.all()).unwrap().close();
    let set = disks.open(&[0, 1, 3]).unwrap();
    let body = bytes(30 * SHARD, 5);
    let (blob, durable) = set.put(&body).unwrap();
    assert_eq!(durable, "2+1");
    set.wait(|volume| {
        let ledger = volume.stats().ledger;
        ledger.is_settled && ledger.stripes[1] > 0
    });
    let ledger = set.volume.stats().ledger;
    assert!(
        !set.volume.is_healed() && ledger.bytes_owing > 0,
        "{ledger:?}"
    );
    set.close();
    let set = disks.open(&disks.all()).unwrap();
    set.wait(Volume::is_healed);
    set.wait(Volume::is_whole);
    set.close();
    let set = disks.open(&[2, 0, 1]).unwrap();
    set.close();
    let degraded = VolumeOptions {
        start_degraded: true,
        ..VolumeOptions::default()
    };
    let set = disks.open_with(&[2, 3], degraded).unwrap();
    assert_eq!(set.read(&blob).unwrap(), body);
    set.close();
}

#[test]
fn rot_is_read_past_and_mended() {
    let disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    let body = bytes(3 * SHARD, 9);
    let (blob, _) = set.put(&body).unwrap();
    set.wait(Volume::is_healed);
    let mut found = 0;
    for disk in &disks.sims {
        let medium = disk.medium().read(0, CAPACITY as usize);
        // The middle of a data shard, wherever it lies.
        for at in [SHARD / 2, SHARD + SHARD / 2] {
            let part = &body[at..at + 64];
            if let Some(offset) = medium.windows(64).position(|window| window == part) {
                found += 1;
                let offset = offset as u64;
                disk.inject(Fault::BitFlip {
                    offset,
                    bit: 3,
                    cached: false,
                });
            }
        }
        disk.chill();
    }
    assert_eq!(found, 2, "two data shards are damaged");
    assert_eq!(set.read(&blob).unwrap(), body);
    set.wait(|volume| volume.stats().shards_healed == 2);
    let events = set.volume.take_events();
    assert!(
        events.iter().any(|event| event.contains("/disk/")),
        "{events:?}"
    );
    for disk in &disks.sims {
        disk.chill();
    }
    assert_eq!(set.read(&blob).unwrap(), body);
    assert_eq!(set.volume.stats().shards_healed, 2);
    set.close();
}

#[test]
fn what_is_deleted_stays_deleted_while_disks_heal() {
    let disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    let blobs: Vec<BlobRef> = (0..12)
        .map(|n| set.put(&bytes(30 * SHARD, n)).unwrap().0)
        .collect();
    set.close();
    let set = disks.open(&[0, 1, 2, 3, 4]).unwrap();
    // While it heals.
    let deletions: Vec<_> = blobs
        .iter()
        .map(|blob| set.volume.delete_blob(blob, Vec::new()))
        .collect();
    set.wait(|volume| {
        let _ = volume.housekeep();
        volume.deletions_settled()
    });
    for deletion in deletions {
        deletion.outcome().unwrap().unwrap();
    }
    set.wait(Volume::is_healed);
    let left = block_on(
        set.volume
            .snapshot()
            .blob_at_or_after(volume::BlobId::FIRST),
    );
    assert_eq!(left.unwrap(), None);
    set.close();
}

#[test]
fn what_was_deleted_while_a_disk_was_away_is_deleted_there_when_it_is_back() {
    let disks = Disks::new(4);
    let set = disks.open(&disks.all()).unwrap();
    let blobs: Vec<BlobRef> = (0..6)
        .map(|n| set.put(&bytes(20 * SHARD, n)).unwrap().0)
        .collect();
    set.close();
    let set = disks.open(&[0, 1, 2]).unwrap();
    for blob in &blobs[1..] {
        set.volume.delete_blob(blob, Vec::new());
    }
    set.wait(|volume| {
        let _ = volume.housekeep();
        volume.deletions_settled()
    });
    set.close();
    let set = disks.open(&disks.all()).unwrap();
    set.wait(Volume::is_healed);
    assert_eq!(set.volume.stats().ledger.lost, 0);
    let first = block_on(
        set.volume
            .snapshot()
            .blob_at_or_after(volume::BlobId::FIRST),
    );
    assert_eq!(first.unwrap().map(|frame| frame.blob), Some(blobs[0].id));
    let next = blobs[0].id.successor().unwrap();
    let next = block_on(set.volume.snapshot().blob_at_or_after(next));
    assert_eq!(next.unwrap(), None);
    set.close();
}

/// A start that was cut off left its generation on one disk alone, numbered as the one that the
/// others began without that disk, or higher. It was once taken for the newest: what the others
/// had acknowledged was gone, or none of the replicas counted and the set did not start at all.
#[test]
fn a_generation_that_was_cut_off_never_counts() {
    for starts in 1..3 {
        for order in [vec![0, 1, 2], vec![1, 2, 0]] {
            let mut disks = Disks::new(3);
            let set = disks.open(&disks.all()).unwrap();
            set.set_meta("a", b"old").unwrap();
            set.close();
            let before: Vec<_> = disks.sims.iter().map(|disk| disk.medium()).collect();
            for _ in 0..starts {
                disks.open(&disks.all()).unwrap().close();
            }
            // As if only the first disk had taken what these starts wrote.
            for slot in [1, 2] {
                disks.sims[slot] = Arc::new(SimDisk::new(before[slot].clone()));
            }
            let whole = disks.open(&order).unwrap();
            assert!(whole.volume.is_whole(), "{:?}", whole.volume.stats());
            assert_eq!(whole.meta("a"), Some(b"old".to_vec()));
            whole.close();
            for slot in [1, 2] {
                disks.sims[slot] = Arc::new(SimDisk::new(before[slot].clone()));
            }
            let set = disks.open(&[1, 2]).unwrap();
            set.set_meta("a", b"new").unwrap();
            set.close();
            let set = disks.open(&order).unwrap();
            assert_eq!(set.meta("a"), Some(b"new".to_vec()), "{starts}, {order:?}");
            set.close();
        }
    }
}

/// A disk that is full refuses metadata that all others can take: they go on without it.
#[test]
fn one_full_disk_among_many_is_avoided() {
    let mut disks = Disks::new(4);
    disks.sims[0] = formatted_with([1; 16], [2; 16], 3 << 20);
    let set = disks.open(&disks.all()).unwrap();
    let body = bytes(8 * 1024, 1);
    let mut refused = 0;
    for number in 0..400 {
        let key = format!("k{number}");
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let batch = MetaBatch::new().put(&meta_key(&key), b"v".to_vec(), body.clone());
            match block_on(set.volume.commit(batch).unwrap()) {
                Ok(()) => break,
                Err(error) => {
                    refused += 1;
                    assert!(Instant::now() < until, "{key}: {error}");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
    assert!(refused > 0, "the small disk was never full");
    let events = set.volume.take_events();
    assert!(
        events.iter().any(|event| event.contains("/disk/0 is full")),
        "{events:?}"
    );
    let (blob, durable) = set.put(&bytes(40 * SHARD, 2)).unwrap();
    assert_eq!(durable, "2+1");
    set.close();
    let set = disks.open(&[1, 2, 3]).unwrap();
    assert_eq!(set.meta("k399"), Some(b"v".to_vec()));
    assert_eq!(set.read(&blob).unwrap(), bytes(40 * SHARD, 2));
    set.close();
}

/// One disk that takes 1.5 seconds for whatever it does is read past, then avoided, and metadata
/// is kept without it; when it is quick again, it is used again.
#[test]
fn a_slow_disk_is_not_waited_for() {
    const PATIENCE: Duration = Duration::from_secs(1);
    let disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    let blobs: Vec<_> = (0..30_u64)
        .map(|seed| {
            let body = bytes([20 * SHARD, 700][seed as usize % 2], seed);
            (set.put(&body).unwrap().0, body)
        })
        .collect();
    set.set_meta("a", &[7; 4000]).unwrap();
    set.wait(|volume| volume.is_healed() && volume.is_tidy());
    // The one that metadata is read from.
    disks.delays[0].store(1_500, Ordering::SeqCst);
    let within = |what: &str, work: &dyn Fn()| {
        let began = Instant::now();
        work();
        assert!(began.elapsed() < PATIENCE, "{what}: {:?}", began.elapsed());
    };
    for round in 0..3 {
        for (blob, body) in &blobs {
            within("a read", &|| assert_eq!(set.read(blob).unwrap(), *body));
        }
        within("metadata", &|| {
            assert_eq!(set.meta("a"), Some(vec![7; 4000]), "{round}");
        });
    }
    assert!(set.volume.stats().reads_hedged > 0);
    set.wait(|volume| volume.stats().disks[0].is_slow);
    within("a write", &|| {
        assert_eq!(set.put(&bytes(20 * SHARD, 99)).unwrap().1, "3+2");
    });
    let mut events = Vec::new();
    while !events
        .iter()
        .any(|e: &volume::Event| e.contains("/disk/0 is slow"))
    {
        std::thread::sleep(Duration::from_millis(50));
        events.extend(set.volume.take_events());
    }
    // Who the replicas are is written to all disks, this one too.
    set.wait(Volume::is_whole);
    within("metadata that is written", &|| {
        set.set_meta("b", b"2").unwrap()
    });
    disks.delays[0].store(0, Ordering::SeqCst);
    // What a probe says counts after a while.
    let until = Instant::now() + Duration::from_secs(60);
    while set.volume.stats().disks[0].is_slow {
        assert!(Instant::now() < until);
        for (blob, body) in &blobs {
            disks.sims.iter().for_each(|disk| disk.chill());
            assert_eq!(set.read(blob).unwrap(), *body);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    set.close();
}

/// A disk was told of a generation without another one, and the power failed before anybody else
/// was. A start without it began a generation of the same number. When both were there again
/// without the third disk, the order on the command line decided which one counted.
#[test]
fn of_two_generations_with_one_number_the_later_one_counts() {
    for order in [[0, 2], [2, 0]] {
        let mut disks = Disks::new(3);
        let set = disks.open(&disks.all()).unwrap();
        set.set_meta("a", b"old").unwrap();
        set.close();
        let set = disks.open(&disks.all()).unwrap();
        let before: Vec<_> = disks.sims.iter().map(|disk| disk.medium()).collect();
        // Disk 2 fails, and the others are told so; as if only disk 0 had heard it.
        disks.sims[2].inject(Fault::FlushFails {
            skip: 0,
            seed: 1,
            cached: false,
        });
        let _ = set.set_meta("b", b"1");
        set.wait(|volume| !volume.is_whole());
        set.close();
        for slot in [1, 2] {
            disks.sims[slot] = Arc::new(SimDisk::new(before[slot].clone()));
        }
        let set = disks.open(&[1, 2]).unwrap();
        set.set_meta("a", b"new").unwrap();
        set.close();
        let set = disks.open(&order).unwrap();
        assert_eq!(set.meta("a"), Some(b"new".to_vec()), "{order:?}");
        set.close();
    }
}

/// A stripe that is beyond repair: mending the one shard asked for the other one to be mended, which
/// asked for the first, and nothing else was done for the set any more.
#[test]
fn what_cannot_be_mended_holds_nothing_up() {
    let disks = Disks::new(3);
    let set = disks.open(&disks.all()).unwrap();
    let body = bytes(SHARD * 2 - 10, 9);
    let (blob, _) = set.put(&body).unwrap();
    set.wait(|volume| volume.is_healed() && volume.is_tidy());
    for at in [SHARD / 4, SHARD + SHARD / 4] {
        let part = &body[at..at + 64];
        for disk in &disks.sims {
            let medium = disk.medium().read(0, CAPACITY as usize);
            if let Some(offset) = medium.windows(64).position(|window| window == part) {
                let offset = offset as u64;
                disk.inject(Fault::BitFlip {
                    offset,
                    bit: 3,
                    cached: false,
                });
            }
            disk.chill();
        }
    }
    assert!(set.read(&blob).is_err());
    set.sleep_a_little();
    let events = set.volume.take_events();
    assert!(
        events.iter().any(|event| event.contains("is not mended")),
        "{events:?}"
    );
    set.sleep_a_little();
    let events = set.volume.take_events();
    assert!(events.len() < 8, "{events:?}");
    set.close();
}

/// A disk went while a blob was written. Nobody heals what is being written, and when it was
/// finished nobody looked at it again.
#[test]
fn what_was_written_while_a_disk_went_is_made_up_for() {
    let disks = Disks::new(6);
    let set = disks.open(&disks.all()).unwrap();
    set.wait(|volume| volume.is_healed() && volume.is_tidy());
    let body = bytes(60 * SHARD, 4);
    let blob = block_on(async {
        let mut writer = set.volume.blob_writer(b"label".to_vec(), None).unwrap();
        writer.write(&body[..30 * SHARD]).await.unwrap();
        disks.sims[1].inject(Fault::Vanish { skip: 0 });
        let _ = set.set_meta("a", b"1");
        set.wait(|volume| volume.is_healed() && !volume.is_whole());
        writer.write(&body[30 * SHARD..]).await.unwrap();
        let finished = writer.finish(Vec::new()).await.unwrap();
        for dependency in finished.dependencies().to_vec() {
            dependency.await.unwrap();
        }
        finished.keep()
    });
    set.wait(Volume::is_healed);
    assert!(set.volume.stats().shards_healed > 0);
    set.close();
    // Two more may go.
    let set = disks.open_with(
        &[0, 2, 3],
        VolumeOptions {
            start_degraded: true,
            ..VolumeOptions::default()
        },
    );
    let set = set.unwrap();
    assert_eq!(set.read(&blob).unwrap(), body);
    set.close();
}
