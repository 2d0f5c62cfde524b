//! The store on a disk in memory, stepped by hand and run on threads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shardstore::limits::EXTENTS_MIN;
use shardstore::{Batch, Disk, Engine, Error, Geometry, Identity, Key, Options, Read, Store};
use support::MemoryDisk;

mod support;

const GEOMETRY: Geometry = Geometry {
    extent_bytes: 256 * 1024,
    payload_bytes_max: 64 * 1024,
};

fn small() -> Options {
    Options {
        memtable_bytes: 16 * 1024,
        cache_bytes: 64 * 1024,
        table_bytes: 16 * 1024,
        tail_bytes_max: 512 * 1024,
        ..Options::default()
    }
}

fn open_new(extents: usize) -> (Arc<MemoryDisk>, Store) {
    let disk = MemoryDisk::new(1024 * 1024 + extents * GEOMETRY.extent_bytes as usize);
    let identity = Identity {
        disk: [3; 16],
        set: [4; 16],
    };
    Store::format(&*disk, identity, GEOMETRY).unwrap();
    let store = Store::open(disk.clone(), small()).unwrap();
    (disk, store)
}

fn settle(store: &Store) {
    while store.pump().unwrap() {}
}

fn put(store: &Store, key: &str, value: &str, payload: &[u8]) {
    let batch = Batch::new().put_with_payload(Key::plain(key), value, payload);
    let dependency = store.submit(batch).unwrap();
    settle(store);
    dependency.wait().unwrap();
}

fn get(store: &Store, key: &str) -> Option<(String, Vec<u8>)> {
    let snapshot = store.snapshot();
    let found = snapshot.get(&Key::plain(key), Read::Blocking).unwrap()?;
    let payload = snapshot
        .read_payload(&found, 0..u32::MAX, Read::Blocking)
        .unwrap();
    Some((String::from_utf8(found.value().to_vec()).unwrap(), payload))
}

/// What healing writes nobody reads soon, and it pushed out of memory what was read.
#[test]
fn what_is_cold_is_not_kept_in_memory() {
    let (disk, store) = open_new(16);
    let batch = |key: &str| Batch::new().put_with_payload(Key::plain(key), "v", vec![7; 30_000]);
    let forgotten = || std::mem::take(&mut *disk.forgotten.lock().unwrap());
    let write = |batches: Vec<Batch>| {
        let submit = |batch| store.submit(batch).unwrap();
        let submitted: Vec<_> = batches.into_iter().map(submit).collect();
        settle(&store);
        submitted.iter().for_each(|written| written.wait().unwrap());
    };
    write(vec![batch("hot")]);
    assert_eq!(forgotten(), []);
    write(vec![batch("cold").cold(), batch("too").cold()]);
    let ranges = forgotten();
    assert_eq!(ranges.len(), 1, "one group, one write");
    assert!(ranges[0].end - ranges[0].start >= 60_000, "{ranges:?}");
    // What came with something else is kept as that is.
    write(vec![batch("hot again"), batch("cold again").cold()]);
    assert_eq!(forgotten(), []);
    assert_eq!(get(&store, "cold").unwrap().1, vec![7; 30_000]);
}

/// What the engine's threads read for others must lie in the others' memory: an allocator with a
/// heap for each thread keeps what a thread allocated until it allocates again, and with six disks
/// there are two dozen such threads, most of which sleep. Reads from the disk alone held twice as
/// much memory as a server was allowed.
#[test]
fn what_is_read_lies_in_the_memory_of_whoever_asked() {
    let geometry = Geometry {
        extent_bytes: 4 * 1024 * 1024,
        payload_bytes_max: 512 * 1024,
    };
    let disk = MemoryDisk::new(1024 * 1024 + 20 * geometry.extent_bytes as usize);
    let identity = Identity {
        disk: [3; 16],
        set: [4; 16],
    };
    Store::format(&*disk, identity, geometry).unwrap();
    let store = Store::open(disk, small()).unwrap();
    let payload: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    put(&store, "k", "v", &payload);
    let snapshot = store.snapshot();
    let found = snapshot.get(&Key::plain("k"), Read::Blocking);
    let found = found.unwrap().unwrap();
    for range in [0..300_000, 70_000..290_000, 5..6] {
        let mut buf = shardstore::room_for(&range, found.payload_len());
        let before = buf.as_ptr();
        snapshot
            .read_payload_into(&found, range.clone(), Read::PastCache, &mut buf)
            .unwrap();
        assert_eq!(buf, payload[range.start as usize..range.end as usize]);
        assert_eq!(buf.as_ptr(), before, "{range:?}");
    }
}

#[test]
fn what_was_put_is_there_after_a_restart_with_and_without_a_checkpoint() {
    let (disk, store) = open_new(16);
    put(&store, "a", "one", b"payload");
    store.checkpoint().unwrap();
    put(&store, "b", "two", b"");
    put(&store, "a", "three", &[7; 50_000]);
    drop(store);
    let store = Store::open(disk, small()).unwrap();
    assert_eq!(
        get(&store, "a"),
        Some(("three".to_owned(), vec![7; 50_000]))
    );
    assert_eq!(get(&store, "b"), Some(("two".to_owned(), Vec::new())));
    assert_eq!(get(&store, "c"), None);
}

#[test]
fn a_snapshot_keeps_its_view_through_checkpoints_and_reclamation() {
    let (_, store) = open_new(24);
    put(&store, "k", "old", &[1; 40_000]);
    let snapshot = store.snapshot();
    for round in 0..40u8 {
        put(&store, "k", "new", &[round; 40_000]);
    }
    store.checkpoint().unwrap();
    while store.compact().unwrap() {}
    while store.reclaim(None).unwrap().is_some() {}
    store.checkpoint().unwrap();
    for round in 0..20u8 {
        put(&store, "other", "x", &[round; 40_000]);
    }
    let found = snapshot
        .get(&Key::plain("k"), Read::Blocking)
        .unwrap()
        .unwrap();
    assert_eq!(found.value(), b"old");
    let payload = snapshot
        .read_payload(&found, 0..u32::MAX, Read::Blocking)
        .unwrap();
    assert_eq!(payload, vec![1; 40_000]);
}

/// An extent of small objects was once read into memory whole, written as one group and entered
/// into the memtable, which no checkpoint emptied meanwhile: at 128 MiB the process was killed.
#[test]
fn an_extent_of_small_entries_is_evacuated_in_bounded_memory() {
    let (disk, store) = open_new(24);
    let name = |number: u32| format!("{number:06}{}", "k".repeat(200));
    let numbers = 0..1_200u32;
    for batch in numbers.clone().collect::<Vec<_>>().chunks(40) {
        let batch = batch.iter().fold(Batch::new(), |batch, number| {
            batch.put_with_payload(Key::plain(name(*number)), "v", [*number as u8; 150])
        });
        let dependency = store.submit(batch).unwrap();
        settle(&store);
        dependency.wait().unwrap();
        if store.checkpoint_is_due() {
            store.checkpoint().unwrap();
        }
    }
    store.checkpoint().unwrap();
    let evacuated = store.stats().bytes_evacuated;
    disk.largest_write.store(0, Ordering::Relaxed);
    let mut most = 0;
    for extent in 0..24 {
        store.reclaim(Some(extent)).unwrap();
        most = most.max(store.stats().memtable_bytes);
    }
    let evacuated = store.stats().bytes_evacuated - evacuated;
    assert!(evacuated > 150_000, "{evacuated} bytes were moved");
    let limit = small().memtable_bytes as u64;
    // One frame may come on top: its keys and values, and what the memtable adds to each.
    assert!(most < limit + 64 * 1024, "{most} bytes in the memtable");
    let write = disk.largest_write.load(Ordering::Relaxed);
    assert!(write < 128 * 1024, "{write} bytes written at once");
    for number in numbers {
        let found = get(&store, &name(number)).unwrap();
        assert_eq!(found, ("v".to_owned(), vec![number as u8; 150]));
    }
}

#[test]
fn a_full_disk_still_deletes_and_takes_puts_again() {
    let (_, store) = open_new(14);
    let mut keys = Vec::new();
    let full = loop {
        let key = format!("key{:04}", keys.len());
        let batch = Batch::new().put_with_payload(Key::plain(key.as_str()), "v", vec![9; 30_000]);
        let dependency = store.submit(batch).unwrap();
        settle(&store);
        match dependency.wait() {
            Ok(()) => keys.push(key),
            Err(error) => break error,
        }
        if store.checkpoint_is_due() {
            store.checkpoint().unwrap();
        }
    };
    assert!(matches!(full, Error::OutOfSpace), "{full}");
    // Of fourteen extents seven are the reserve, the index and the manifests have one each, and
    // eight puts fit into an extent.
    assert!(keys.len() >= 40, "only {} puts fitted", keys.len());
    for key in &keys {
        assert!(
            get(&store, key).is_some(),
            "{key} is readable on a full disk"
        );
    }
    for key in &keys {
        let batch = Batch::new().delete(Key::plain(key.as_str())).frees_space();
        let dependency = store.submit(batch).unwrap();
        settle(&store);
        dependency.wait().unwrap();
    }
    while store.reclaim_step().unwrap() {}
    put(&store, "again", "v", &[1; 30_000]);
    assert!(get(&store, "again").is_some());
    let space = store.space();
    assert_eq!(space.live + space.dead + space.free, space.capacity);
}

/// While a reader held what deletes had freed, reclamation used up the space for copies. Without
/// room for another it then gave up before it came to the checkpoint that would have given back
/// what the reader no longer held: the disk stayed full for good.
#[test]
fn a_full_disk_gives_back_what_a_reader_held() {
    let (_, store) = open_new(64);
    let commit = |batch: Batch| {
        let dependency = store.submit(batch).unwrap();
        settle(&store);
        dependency.wait()
    };
    let key = |number: usize| format!("key{number:04}");
    let maintain = || {
        if store.checkpoint_is_due() {
            let _ = store.checkpoint();
        }
        store.reclaim_step().is_ok_and(|worked| worked)
    };
    let mut keys = 0;
    loop {
        let batch = Batch::new().put_with_payload(Key::plain(key(keys)), "v", vec![1; 20_000]);
        match commit(batch) {
            Ok(()) => keys += 1,
            Err(error) => break assert!(matches!(error, Error::OutOfSpace), "{error}"),
        }
        maintain();
    }
    let reader = store.snapshot();
    let delete = |number| commit(Batch::new().delete(Key::plain(key(number))).frees_space());
    let mut deleted = 0;
    while deleted < keys && delete(deleted).is_ok() {
        deleted += 1;
        for _ in 0..20 {
            maintain();
        }
    }
    drop(reader);
    for number in deleted..keys {
        while delete(number).is_err() {
            assert!(maintain(), "{number} of {keys}: nothing comes back");
        }
    }
}

/// Each frame of moved entries once began on a fresh page, in a group of its own, so that copies
/// of entries of 12 KiB took a third more than what they were copies of. On a full disk
/// evacuation then used up the reserve instead of giving space back, and deletes were refused for
/// good.
#[test]
fn what_is_moved_on_a_full_disk_takes_no_more_than_it_did() {
    const EXTENT_BYTES: usize = 68 * 1024;
    let geometry = Geometry {
        extent_bytes: EXTENT_BYTES as u32,
        payload_bytes_max: 17 * 1024,
    };
    let options = Options {
        memtable_bytes: 8 * 1024,
        cache_bytes: 8 * 1024,
        table_bytes: 1024,
        tail_bytes_max: 34 * 1024,
        group_bytes_max: 68 * 1024,
        ..Options::default()
    };
    let key = |number: usize| Key::plain(format!("k{:02}/{number:03}", number / 8));
    for (large, small) in [(2, 43), (2, 47), (3, 45), (20, 15), (0, 50)] {
        let disk = MemoryDisk::new(1024 * 1024 + 16 * EXTENT_BYTES);
        let identity = Identity {
            disk: [3; 16],
            set: [4; 16],
        };
        Store::format(&*disk, identity, geometry).unwrap();
        let store = Store::open(disk, options.clone()).unwrap();
        let payloads = [vec![17_407; large], vec![12_196; small]].concat();
        // Several at a time, so that they are packed as tightly as can be.
        for (number, len) in payloads.into_iter().enumerate() {
            let batch = Batch::new().put_with_payload(key(number), [3; 12], vec![1; len]);
            store.submit(batch).unwrap();
            if number % 5 == 4 {
                settle(&store);
            }
        }
        let maintain = || {
            for _ in 0..30 {
                let _ = store.compact();
                let _ = store.reclaim(None);
                let _ = store.checkpoint();
            }
        };
        maintain();
        let numbers: Vec<usize> = (0..large + small).collect();
        for numbers in numbers.chunks(16) {
            let delete = || {
                let batch = Batch::new().frees_space();
                let batch = numbers.iter().fold(batch, |batch, n| batch.delete(key(*n)));
                let delete = store.submit(batch).unwrap();
                settle(&store);
                delete.wait().is_ok()
            };
            if !delete() {
                maintain();
                assert!(delete(), "{large} and {small}: {:?}", store.space());
            }
        }
    }
}

#[test]
fn random_operations_agree_with_a_map() {
    let (disk, mut store) = open_new(24);
    let mut model: BTreeMap<String, (String, Vec<u8>)> = BTreeMap::new();
    let mut state = 42u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    for step in 0..4000 {
        let key = format!("key{}", random(60));
        match random(12) {
            0..=5 => {
                let value = format!("value{step}");
                let payload = vec![step as u8; random(9000) as usize];
                put(&store, &key, &value, &payload);
                model.insert(key, (value, payload));
            }
            6..=7 => {
                store
                    .submit(Batch::new().delete(Key::plain(key.as_str())))
                    .unwrap();
                settle(&store);
                model.remove(&key);
            }
            8 => store.checkpoint().unwrap(),
            9 => drop(store.compact().unwrap()),
            10 => drop(store.reclaim_step().unwrap()),
            _ if random(10) == 0 => {
                drop(store);
                store = Store::open(disk.clone(), small()).unwrap();
            }
            _ => assert_eq!(
                get(&store, &key),
                model.get(&key).cloned(),
                "step {step}, {key}"
            ),
        }
    }
    let page = store
        .snapshot()
        .scan(b"", b"\xff", 1000, Read::Blocking)
        .unwrap();
    let scanned: Vec<_> = page
        .entries
        .iter()
        .map(|found| found.key().to_vec())
        .collect();
    let expected: Vec<_> = model.keys().map(|key| key.as_bytes().to_vec()).collect();
    assert_eq!(scanned, expected);
    for (key, value) in &model {
        assert_eq!(get(&store, key).as_ref(), Some(value));
    }
}

#[test]
fn threads_commit_maintain_and_read() {
    let (disk, store) = open_new(64);
    let engine = Engine::start(store, 2).unwrap();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let engine = engine.clone();
            std::thread::spawn(move || {
                for round in 0..200 {
                    let key = format!("{writer}/{}", round % 20);
                    let value = round.to_string();
                    let batch =
                        Batch::new().put_with_payload(Key::plain(key), value, vec![1; 9000]);
                    engine.submit(batch).unwrap().wait().unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let found = engine
        .read(|store, how| store.snapshot().get(&Key::plain("2/19"), how))
        .wait()
        .unwrap()
        .unwrap();
    assert_eq!(found.value(), b"199");
    engine.close().unwrap();
    assert!(matches!(
        engine.submit(Batch::new().delete(Key::plain("x"))),
        Err(Error::Closed)
    ));
    drop(engine);
    let store = Store::open(disk, small()).unwrap();
    assert_eq!(get(&store, "0/19").unwrap().0, "199");
}

/// Recovery once looked for the tail only in extents below the capacity it was opened with. A
/// limit that was lowered after a crash so dropped what had been acknowledged beyond it, and
/// the next checkpoint made that final.
#[test]
fn a_lowered_capacity_hides_nothing_that_was_acknowledged() {
    let (disk, store) = open_new(40);
    for key in 0..100 {
        put(&store, &format!("key{key:03}"), "v", &[1; 60_000]);
    }
    drop(store);
    let lowered = Options {
        capacity_bytes: Some(
            1024 * 1024 + u64::from(EXTENTS_MIN) * u64::from(GEOMETRY.extent_bytes),
        ),
        ..small()
    };
    let store = Store::open(disk, lowered).unwrap();
    for key in 0..100 {
        assert!(get(&store, &format!("key{key:03}")).is_some(), "key {key}");
    }
}

/// A limit that was lowered below what is in use once left no room for deletes: the disk was
/// full, and nothing could be done about it but to raise the limit again.
#[test]
fn a_limit_lowered_below_what_is_in_use_leaves_room_for_deletes() {
    let (disk, store) = open_new(40);
    let try_put = |store: &Store, key: &str| {
        let batch = Batch::new().put_with_payload(Key::plain(key), "v", vec![1; 60_000]);
        let dependency = store.submit(batch).unwrap();
        settle(store);
        dependency.wait()
    };
    let mut keys = 0;
    let full = loop {
        match try_put(&store, &key(keys)) {
            Ok(()) => keys += 1,
            Err(error) => break error,
        }
        if store.checkpoint_is_due() {
            store.checkpoint().unwrap();
        }
    };
    assert!(matches!(full, Error::OutOfSpace), "{full}");
    store.close().unwrap();
    drop(store);

    let lowered = || Options {
        capacity_bytes: Some(1024 * 1024 + 20 * u64::from(GEOMETRY.extent_bytes)),
        ..small()
    };
    // More than once: each start may write a little.
    for _ in 0..5 {
        let store = Store::open(disk.clone(), lowered()).unwrap();
        assert!(get(&store, &key(keys - 1)).is_some());
        assert!(matches!(try_put(&store, "new"), Err(Error::OutOfSpace)));
        store.close().unwrap();
    }
    let store = Store::open(disk, lowered()).unwrap();
    for number in 0..keys {
        let batch = Batch::new()
            .delete(Key::plain(key(number).as_str()))
            .frees_space();
        let dependency = store.submit(batch).unwrap();
        settle(&store);
        dependency.wait().unwrap();
        while store.reclaim_step().unwrap() {}
    }
    try_put(&store, "new").unwrap();
}

fn key(number: usize) -> String {
    format!("key{number:03}")
}

/// One copy of the superblock is always whole; that the other could not be read once kept the
/// disk from opening at all.
#[test]
fn one_unreadable_copy_of_the_superblock_is_no_loss() {
    let (disk, store) = open_new(16);
    put(&store, "a", "one", b"payload");
    drop(store);
    for copy in [0, 64 * 1024] {
        *disk.unreadable.lock().unwrap() = Some(copy..copy + 4096);
        let store = Store::open(disk.clone(), small()).unwrap();
        assert!(get(&store, "a").is_some());
    }
}

/// The one copy's last write had gone elsewhere, and the other could not be read: the store once
/// opened from the old one, whose extents had been freed and written again since.
#[test]
fn an_old_copy_of_the_superblock_is_not_taken_for_the_newest() {
    let (disk, store) = open_new(16);
    put(&store, "a", "one", &[1; 30_000]);
    put(&store, "b", "kept", &[2; 30_000]);
    store.checkpoint().unwrap();
    let old = disk.bytes.lock().unwrap()[..128 * 1024].to_vec();
    for extent in 0..16 {
        store.reclaim(Some(extent)).unwrap();
    }
    store.checkpoint().unwrap();
    put(&store, "a", "three", &[4; 30_000]);
    drop(store);
    let new = disk.bytes.lock().unwrap()[..128 * 1024].to_vec();
    for (copy, other) in [(0, 64 * 1024), (64 * 1024, 0)] {
        disk.bytes.lock().unwrap()[..128 * 1024].copy_from_slice(&new);
        disk.bytes.lock().unwrap()[other..other + 4096].copy_from_slice(&old[other..other + 4096]);
        *disk.unreadable.lock().unwrap() = Some(copy as u64..copy as u64 + 4096);
        let opened = Store::open(disk.clone(), small()).map(drop);
        assert!(matches!(opened, Err(Error::Damaged { .. })), "{opened:?}");
    }
    // Once the newest can be read again, nothing is missing.
    disk.bytes.lock().unwrap()[..128 * 1024].copy_from_slice(&new);
    *disk.unreadable.lock().unwrap() = None;
    let store = Store::open(disk, small()).unwrap();
    assert_eq!(get(&store, "a").unwrap().0, "three");
    assert_eq!(get(&store, "b").unwrap().0, "kept");
}

/// A rotten index block once failed every checkpoint that had to look a key up in it: memory
/// filled, and every write waited for ever.
#[test]
fn a_rotten_index_block_does_not_stop_checkpoints() {
    let (disk, store) = open_new(24);
    for key in 0..200 {
        put(&store, &format!("key{key:03}"), "value", b"");
    }
    store.checkpoint().unwrap();
    drop(store);
    // The keys of the first data block stand where the table does: behind the log's extent.
    let bytes = disk.bytes.lock().unwrap().clone();
    let table = (1024 * 1024 + GEOMETRY.extent_bytes as usize..bytes.len())
        .find(|at| bytes[*at..].starts_with(b"key000"))
        .unwrap();
    disk.write(table as u64, &[b"rotten"]).unwrap();
    let store = Store::open(disk, small()).unwrap();
    put(&store, "key000", "new", b"");
    store.checkpoint().unwrap();
    assert_eq!(get(&store, "key000").unwrap().0, "new");
    assert!(store.damage().len() <= 64);
}

/// Closing once stopped the committer while reclamation still waited for a copy to be
/// committed, so that a clean shutdown under load never came to an end.
#[test]
fn closing_ends_the_maintenance_that_is_under_way() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for round in 0..40u64 {
            let (_, store) = open_new(64);
            let engine = Engine::start(store, 1).unwrap();
            for step in 0..60 + round * 4 {
                // Half of what each extent holds dies, so that reclamation has copies to make.
                let key = if step % 2 == 0 { step } else { 1 };
                let batch =
                    Batch::new().put_with_payload(Key::plain(key.to_string()), "", vec![1; 9000]);
                engine.submit(batch).unwrap().wait().unwrap();
            }
            engine.close().unwrap();
        }
        done.send(()).unwrap();
    });
    let waited = is_done.recv_timeout(std::time::Duration::from_secs(60));
    assert!(waited.is_ok(), "closing does not come to an end");
}

/// Live plain keys that a rescue finds, with their payloads.
fn rescued(rescue: &shardstore::rescue::Rescue) -> BTreeMap<Vec<u8>, Vec<u8>> {
    rescue
        .entries()
        .map(|entry| {
            let payload = rescue.read_payload(&entry, 0..u32::MAX).unwrap();
            (entry.key.to_vec(), payload)
        })
        .collect()
}

#[test]
fn rescue_reads_without_superblock_and_manifest() {
    let (disk, store) = open_new(16);
    for round in 0..3u8 {
        for key in 0..30 {
            put(&store, &format!("key{key:02}"), "v", &[round; 5000]);
        }
        store.checkpoint().unwrap();
    }
    for key in 0..10 {
        store
            .submit(Batch::new().delete(Key::plain(format!("key{key:02}"))))
            .unwrap();
    }
    settle(&store);
    drop(store);
    let expected: BTreeMap<Vec<u8>, Vec<u8>> = (10..30)
        .map(|key| (format!("key{key:02}").into_bytes(), vec![2; 5000]))
        .collect();

    let rescue = shardstore::rescue::Rescue::read(disk.clone(), |_, _| {}).unwrap();
    assert_eq!(rescued(&rescue), expected);
    assert_eq!((rescue.damage_count(), rescue.may_be_stale()), (0, false));

    // Both superblocks gone: the frames say whose they are, a manifest is found by looking.
    disk.write(0, &[&vec![0xee; 1024 * 1024]]).unwrap();
    let rescue = shardstore::rescue::Rescue::read(disk.clone(), |_, _| {}).unwrap();
    assert_eq!(rescued(&rescue), expected);
    assert_eq!(rescue.identity().disk, [3; 16]);
    assert!(rescue.damage_count() > 0);
}

#[test]
fn rescue_lists_damage_and_reads_around_it() {
    let (disk, store) = open_new(16);
    for key in 0..20 {
        put(&store, &format!("key{key:02}"), "v", &[1; 5000]);
    }
    store.close().unwrap();
    drop(store);
    // A byte in the first frame's payload.
    disk.write(1024 * 1024 + 1000, &[&[0xff]]).unwrap();
    assert!(matches!(
        Store::open(disk.clone(), small())
            .unwrap()
            .scrub(0)
            .unwrap()[..],
        [Error::Corrupt { .. }]
    ));
    let rescue = shardstore::rescue::Rescue::read(disk, |_, _| {}).unwrap();
    let unreadable = rescue
        .entries()
        .filter(|entry| rescue.read_payload(entry, 0..u32::MAX).is_err())
        .map(|entry| entry.key.to_vec());
    assert_eq!(unreadable.collect::<Vec<_>>(), vec![b"key00".to_vec()]);
    assert_eq!(rescue.entries().count(), 20);
}
