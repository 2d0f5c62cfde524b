//! Stories of what the checks found, each told once more in as few steps as it takes.

use std::sync::Arc;

use shardstore::rescue::Rescue;
use shardstore::{Batch, Disk, Error, Geometry, Key, Read, Store, limits};
use simdisk::{Crash, Fault, Image, Rng, SimDisk};

use engine_checks::world::IDENTITY;

const GEOMETRY: Geometry = Geometry {
    extent_bytes: 320 * 1024,
    payload_bytes_max: 68 * 1024,
};

fn formatted() -> Arc<SimDisk> {
    let capacity =
        limits::EXTENTS_START + u64::from(limits::EXTENTS_MIN) * u64::from(GEOMETRY.extent_bytes);
    let disk = Arc::new(SimDisk::new(Image::blank(capacity, 4096)));
    Store::format(&*disk, IDENTITY, GEOMETRY).expect("a blank disk can be formatted");
    disk
}

fn open(disk: &Arc<SimDisk>) -> Result<Store, Error> {
    let disk: Arc<dyn Disk> = disk.clone();
    Store::open(disk, shardstore::Options::default())
}

fn put(store: &Store, key: &[u8]) {
    let batch = Batch::new().put_with_payload(Key::plain(key), *b"value", [7; 5000]);
    let dependency = store.submit(batch).expect("it is taken");
    while store.pump().expect("the disk reports no error") {}
    assert!(dependency.is_persistent());
}

fn holds(store: &Store, key: &[u8]) -> bool {
    let found = store.snapshot().get(&Key::plain(key), Read::Blocking);
    found.expect("the index is readable").is_some()
}

/// Each copy of the superblock was read twice, because a read may fail or go astray. When the
/// first attempt failed and the second went astray, for both of them, the disk looked as if it
/// had never been formatted, and could have been formatted again.
#[test]
fn a_superblock_that_cannot_be_read_is_no_missing_one() {
    let disk = formatted();
    let be_unlucky = || {
        for pages in [1, -3] {
            disk.inject(Fault::ReadErrors { skip: 0, times: 1 });
            disk.inject(Fault::MisdirectedRead { skip: 0, pages });
        }
    };
    be_unlucky();
    let opened = open(&disk).map(|_| ());
    assert!(matches!(opened, Err(Error::Disk(_))), "{opened:?}");
    be_unlucky();
    let formatted = Store::format(&*disk, IDENTITY, GEOMETRY);
    assert!(matches!(formatted, Err(Error::Disk(_))), "{formatted:?}");
    open(&disk).expect("the faults are over");
}

/// A group was written elsewhere, and the log went on behind the gap. Only the frames behind it
/// told of it; a single read that went astray there hid them all, and the disk was opened without
/// any of them.
#[test]
fn what_stands_behind_a_gap_is_looked_for_twice() {
    for skip in 0..60 {
        let disk = formatted();
        let store = open(&disk).expect("the disk is whole");
        put(&store, b"before");
        disk.inject(Fault::MisdirectedWrite {
            skip: 0,
            pages: 16,
            cached: true,
        });
        put(&store, b"elsewhere");
        put(&store, b"behind");
        put(&store, b"behind that");
        let disk = Arc::new(disk.crash(&mut Rng::new(1), Crash::LoseAll));
        disk.inject(Fault::MisdirectedRead { skip, pages: 16 });
        if let Ok(store) = open(&disk) {
            assert!(holds(&store, b"behind that"), "lost by read {skip}");
        }
    }
}

/// A page in the middle of a frame's body could not be read. Whoever walked the extent looked for
/// the next frame from behind the one before it, found the same one again, and so for ever, with
/// a longer list of damage each time.
#[test]
fn a_body_that_cannot_be_read_does_not_stop_a_walk() {
    let disk = formatted();
    let store = open(&disk).expect("the disk is whole");
    put(&store, b"before");
    let before = disk.medium().present_pages();
    let batch = Batch::new().put(Key::plain(*b"large"), vec![b'v'; 3 * 4096]);
    let dependency = store.submit(batch).expect("it is taken");
    while store.pump().expect("the disk reports no error") {}
    assert!(dependency.is_persistent());
    put(&store, b"behind");
    let log = disk.medium().present_pages();
    let first = log.iter().find(|page| !before.contains(page));
    let first = *first.expect("something was written");
    store.checkpoint().expect("there is room");
    disk.inject(Fault::BadPage {
        page: first as u64 + 2,
    });
    let damage: Vec<Error> = (0..limits::EXTENTS_MIN)
        .flat_map(|extent| store.scrub(extent).expect("the disk goes on"))
        .collect();
    assert!(!damage.is_empty());
    let rescue = Rescue::read(disk, |_, _| {}).expect("the superblock is whole");
    assert!(rescue.damage_count() > 0);
    let mut keys = rescue.entries().map(|entry| entry.key);
    assert!(keys.any(|key| key == b"behind"));
}

/// A write was lost, and the only frame behind it, which alone could tell, lay in a page that
/// could not be read: the disk was opened without either, and without a word.
#[test]
fn an_unreadable_page_behind_the_log_is_said() {
    let disk = formatted();
    let store = open(&disk).expect("the disk is whole");
    put(&store, b"before");
    disk.inject(Fault::LostWrite {
        skip: 0,
        cached: false,
    });
    put(&store, b"lost");
    let known = disk.medium().present_pages();
    put(&store, b"behind");
    let pages = disk.medium().present_pages();
    let page = pages.iter().find(|page| !known.contains(page));
    let page = *page.expect("something was written") as u64;
    let disk = Arc::new(disk.crash(&mut Rng::new(1), Crash::LoseAll));
    disk.inject(Fault::BadPage { page });
    if let Ok(store) = open(&disk) {
        assert!(!holds(&store, b"behind"));
        assert!(!store.damage().is_empty());
    }
}
