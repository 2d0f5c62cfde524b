//! Walks over many deleted keys, in parts of bounded work.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use shardstore::{Batch, Geometry, Identity, Key, Options, Read, Snapshot, Step, Store};
use support::MemoryDisk;

mod support;

const GEOMETRY: Geometry = Geometry {
    extent_bytes: 256 * 1024,
    payload_bytes_max: 64 * 1024,
};

const KEYS: usize = 3_000;
const WORK: usize = 50;

/// What one look into memory may pass of keys that are newer than the view.
const PAGE: usize = 128;

fn key(number: usize) -> Key {
    Key::with_stem(format!("stem{number:05}"), 4)
}

fn lives(number: usize) -> bool {
    number % 700 == 650
}

fn number_of(key: &[u8]) -> usize {
    std::str::from_utf8(&key[4..]).unwrap().parse().unwrap()
}

fn open() -> Store {
    let disk = MemoryDisk::new(1024 * 1024 + 64 * GEOMETRY.extent_bytes as usize);
    let identity = Identity {
        disk: [3; 16],
        set: [4; 16],
    };
    Store::format(&*disk, identity, GEOMETRY).unwrap();
    let options = Options {
        memtable_bytes: 16 << 20,
        ..Options::default()
    };
    Store::open(Arc::clone(&disk) as Arc<_>, options).unwrap()
}

fn change(store: &Store, numbers: impl Iterator<Item = usize>, op: fn(Batch, Key) -> Batch) {
    for number in numbers {
        store.submit(op(Batch::new(), key(number))).unwrap();
        while number % 100 == 0 && store.pump().unwrap() {}
    }
    while store.pump().unwrap() {}
}

fn put_all(store: &Store) {
    change(store, 0..KEYS, |batch, key| batch.put(key, "v"));
}

fn delete_most(store: &Store) {
    let dead = (0..KEYS).filter(|number| !lives(*number));
    change(store, dead, Batch::delete);
}

/// All numbers that a walk in small parts finds, and how many parts it took.
fn walk(snapshot: &Snapshot, limit: usize) -> (Vec<usize>, usize) {
    let (mut from, mut found, mut parts) = (b"stem".to_vec(), Vec::new(), 0);
    loop {
        let mut work = WORK;
        let page = snapshot.scan_step(&from, b"sten", limit, &mut work, Read::Blocking);
        let page = page.unwrap();
        parts += 1;
        assert!(page.entries.len() <= limit);
        found.extend(page.entries.iter().map(|found| number_of(found.key())));
        let Some(next) = page.next else {
            return (found, parts);
        };
        assert!(next > from, "each part gets on");
        if from.len() > 4 {
            let passed = number_of(&next) - number_of(&from);
            assert!(passed <= WORK + PAGE, "one part passed {passed} keys");
        }
        from = next;
    }
}

fn first(snapshot: &Snapshot) -> (Option<usize>, usize) {
    let (mut from, mut parts) = (b"stem".to_vec(), 0);
    loop {
        parts += 1;
        match snapshot
            .first_step(b"stem", &from, WORK, Read::Blocking)
            .unwrap()
        {
            Step::Done(found) => return (found.map(|found| number_of(found.key())), parts),
            Step::GoOn(next) => {
                assert!(next > from, "each part gets on");
                from = next;
            }
        }
    }
}

fn check(store: &Store) {
    let expected: Vec<usize> = (0..KEYS).filter(|number| lives(*number)).collect();
    let snapshot = store.snapshot();
    for limit in [1, 3, 1000] {
        let (found, parts) = walk(&snapshot, limit);
        assert_eq!(found, expected, "{limit} a page");
        assert!(parts >= KEYS / WORK, "{parts} parts");
        // In one go it is the same.
        let page = snapshot
            .scan(b"stem", b"sten", limit, Read::Blocking)
            .unwrap();
        let numbers = page.entries.iter().map(|found| number_of(found.key()));
        assert!(numbers.eq(expected.iter().copied().take(limit)));
        assert_eq!(page.next.is_some(), limit <= expected.len());
    }
    let (found, parts) = first(&snapshot);
    assert_eq!(found, Some(expected[0]));
    assert!(parts >= expected[0] / WORK, "{parts} parts");
    let found = snapshot.first(b"stem", Read::Blocking).unwrap();
    let found = found.map(|found| number_of(found.key()));
    assert_eq!(found, expected.first().copied());
    assert_eq!(snapshot.first(b"ste", Read::Blocking).unwrap(), None);
}

/// A listing after a mass delete once walked over all tombstones within one call.
#[test]
fn deleted_keys_are_passed_in_parts() {
    let store = open();
    put_all(&store);
    let before = store.snapshot();
    delete_most(&store);
    check(&store);
    assert_eq!(
        walk(&before, 1000).0.len(),
        KEYS,
        "an older view sees them all"
    );
    drop(before);

    store.checkpoint().unwrap();
    check(&store);

    // In tables and in memory.
    change(&store, (0..KEYS).step_by(2), |batch, key| {
        batch.put(key, "w")
    });
    store.checkpoint().unwrap();
    delete_most(&store);
    check(&store);
}

/// What is newer than the view costs work as well.
#[test]
fn keys_that_are_newer_than_the_view_are_passed_in_parts() {
    let store = open();
    change(&store, 0..1, |batch, key| batch.put(key, "v"));
    let before = store.snapshot();
    put_all(&store);
    let (found, parts) = walk(&before, 10);
    assert_eq!(found, [0]);
    assert!(parts >= KEYS / (WORK + PAGE), "{parts} parts");
}
