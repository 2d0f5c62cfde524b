//! Each promise of the simulated disk, by a test that fails if the promise is broken: a
//! check is worth no more than the disk under it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use shardstore::{Disk, DiskError, Read};
use simdisk::{Crash, Event, Fault, Image, PAGE, PendingSector, Rng, SimDisk};

const CAPACITY: u64 = 256 * 1024;

fn disk() -> SimDisk {
    SimDisk::new(Image::blank(CAPACITY, 512))
}

fn read(disk: &SimDisk, offset: u64, len: usize) -> Vec<u8> {
    read_as(disk, offset, len, Read::Blocking)
}

fn read_as(disk: &SimDisk, offset: u64, len: usize, how: Read) -> Vec<u8> {
    let mut bytes = vec![0xEE; len];
    disk.read(offset, &mut bytes, how)
        .expect("the disk answers");
    bytes
}

#[test]
fn bytes_never_written_read_as_zeros() {
    assert_eq!(read(&disk(), 12_345, 100), vec![0; 100]);
}

#[test]
fn a_write_is_seen_at_once_and_across_pages() {
    let disk = disk();
    disk.write(PAGE as u64 - 3, &[b"abc", b"", b"defgh"])
        .unwrap();
    assert_eq!(read(&disk, PAGE as u64 - 3, 8), b"abcdefgh");
}

#[test]
fn an_unflushed_write_may_be_lost_or_kept() {
    let disk = disk();
    disk.write(0, &[b"x"]).unwrap();
    let frozen = disk.freeze();
    let mut rng = Rng::new(1);
    assert_eq!(frozen.crash(&mut rng, Crash::LoseAll).read(0, 1), b"\0");
    assert_eq!(frozen.crash(&mut rng, Crash::KeepAll).read(0, 1), b"x");
}

#[test]
fn a_flushed_write_survives_every_crash() {
    let disk = disk();
    disk.write(500, &[&[7; 5000]]).unwrap();
    disk.flush().unwrap();
    for mode in Crash::ALL {
        for seed in 0..20 {
            let after = disk.freeze().crash(&mut Rng::new(seed), mode);
            assert_eq!(after.read(500, 5000), vec![7; 5000], "{mode:?}");
        }
    }
}

#[test]
fn sectors_survive_independently_of_each_other_and_of_the_order() {
    let disk = disk();
    disk.write(0, &[b"1"]).unwrap();
    disk.write(512, &[b"2"]).unwrap();
    let frozen = disk.freeze();
    let outcomes: BTreeSet<(u8, u8)> = (0..200)
        .map(|seed| {
            let image = frozen.crash(&mut Rng::new(seed), Crash::Sectors);
            (image.read(0, 1)[0], image.read(512, 1)[0])
        })
        .collect();
    assert_eq!(
        outcomes.len(),
        4,
        "every subset occurs, the later write alone included"
    );
}

#[test]
fn a_sector_may_keep_any_of_its_versions() {
    let disk = disk();
    for version in [b"1", b"2", b"3"] {
        disk.write(10, &[version]).unwrap();
    }
    let frozen = disk.freeze();
    assert_eq!(
        frozen.pending_sectors(),
        [PendingSector {
            sector: 0,
            versions: 3
        }]
    );
    let outcomes: BTreeSet<u8> = (0..200)
        .map(|seed| {
            frozen
                .crash(&mut Rng::new(seed), Crash::Sectors)
                .read(10, 1)[0]
        })
        .collect();
    assert_eq!(outcomes, BTreeSet::from([0, b'1', b'2', b'3']));
    assert_eq!(frozen.image_keeping(|_| 2).read(10, 1), b"2");
}

#[test]
fn an_ordered_crash_keeps_a_prefix() {
    let disk = disk();
    for index in 0..8u64 {
        disk.write(index * 512, &[b"x"]).unwrap();
    }
    let mut lengths = BTreeSet::new();
    for seed in 0..200 {
        let image = disk.freeze().crash(&mut Rng::new(seed), Crash::Ordered);
        let kept: Vec<bool> = (0..8)
            .map(|index| image.read(index * 512, 1) == b"x")
            .collect();
        assert!(
            kept.is_sorted_by(|earlier, later| earlier >= later),
            "{kept:?}"
        );
        lengths.insert(kept.iter().filter(|&&kept| kept).count());
    }
    assert_eq!(lengths.len(), 9);
}

#[test]
fn a_hostile_crash_tears_inside_a_sector_but_not_outside_of_pending_pages() {
    let disk = disk();
    disk.write(0, &[&[1; PAGE]]).unwrap();
    disk.flush().unwrap();
    disk.write(PAGE as u64, &[&[2; 512]]).unwrap();
    let mut torn = 0;
    for seed in 0..300 {
        let image = disk.freeze().crash(&mut Rng::new(seed), Crash::Hostile);
        assert_eq!(
            image.read(0, PAGE),
            vec![1; PAGE],
            "a page at rest is never touched"
        );
        let sector: BTreeSet<u8> = image.read(PAGE as u64, 512).into_iter().collect();
        torn += usize::from(sector.len() > 1);
    }
    assert!(torn > 50, "only {torn} of 300 crashes tore the sector");
}

#[test]
fn the_same_seed_gives_the_same_crash() {
    let disk = disk();
    disk.write(0, &[&[3; 20_000]]).unwrap();
    let digest = |seed| {
        disk.freeze()
            .crash(&mut Rng::new(seed), Crash::Hostile)
            .digest()
    };
    assert_eq!(digest(5), digest(5));
    assert_ne!(digest(5), digest(6));
}

#[test]
fn after_a_crash_the_old_handle_is_dead_and_the_new_one_works() {
    let disk = disk();
    disk.write(0, &[b"x"]).unwrap();
    let next = disk.crash(&mut Rng::new(0), Crash::KeepAll);
    assert!(disk.write(0, &[b"y"]).is_err());
    assert!(disk.flush().is_err());
    assert_eq!(read(&next, 0, 1), b"x");
}

#[test]
fn a_scheduled_cut_issues_its_write_without_acknowledging_it() {
    let disk = disk();
    disk.cut_after(1);
    disk.write(0, &[b"1"]).unwrap();
    assert!(disk.write(512, &[b"2"]).is_err());
    assert!(disk.flush().is_err());
    assert!(disk.is_cut());
    let kept = disk.freeze().crash(&mut Rng::new(0), Crash::KeepAll);
    assert_eq!(
        (kept.read(0, 1), kept.read(512, 1)),
        (b"1".to_vec(), b"2".to_vec())
    );
}

#[test]
fn a_cut_in_a_flush_leaves_its_writes_unflushed() {
    let disk = disk();
    disk.cut_after(1);
    disk.write(0, &[b"1"]).unwrap();
    assert!(disk.flush().is_err());
    assert_eq!(
        disk.freeze()
            .crash(&mut Rng::new(0), Crash::LoseAll)
            .read(0, 1),
        b"\0"
    );
}

#[test]
fn a_failed_flush_loses_its_writes_for_good() {
    for cached in [false, true] {
        let mut lost = 0;
        for seed in 0..50 {
            let disk = disk();
            disk.inject(Fault::FlushFails {
                skip: 0,
                seed,
                cached,
            });
            disk.write(0, &[b"x"]).unwrap();
            assert!(disk.flush().is_err());
            disk.flush()
                .expect("the next flush says Ok, as real ones do");
            let medium = disk.medium().read(0, 1);
            lost += usize::from(medium == b"\0");
            let seen = read(&disk, 0, 1);
            assert_eq!(seen, if cached { b"x".to_vec() } else { medium });
        }
        assert!(
            (5..45).contains(&lost),
            "{lost} of 50 failed flushes lost the write"
        );
    }
}

#[test]
fn transient_read_errors_end_and_bad_pages_last_until_written() {
    let disk = disk();
    disk.inject(Fault::ReadErrors { skip: 1, times: 2 });
    let mut byte = [0];
    let results: Vec<bool> = (0..5)
        .map(|_| disk.read(0, &mut byte, Read::Blocking).is_ok())
        .collect();
    assert_eq!(results, [true, false, false, true, true]);
    disk.inject(Fault::BadPage { page: 2 });
    assert!((0..5).all(|_| {
        disk.read(2 * PAGE as u64, &mut byte, Read::Blocking)
            .is_err()
    }));
    disk.read(0, &mut byte, Read::Blocking).unwrap();
    disk.write(2 * PAGE as u64, &[b"x"]).unwrap();
    disk.read(2 * PAGE as u64, &mut byte, Read::Blocking)
        .unwrap();
}

#[test]
fn a_write_that_fails_is_reported_and_leaves_some_of_its_pages() {
    let mut outcomes = BTreeSet::new();
    for writes_before in 0..100u64 {
        for fault in [Fault::WriteError { skip: 0 }, Fault::NoSpace { skip: 0 }] {
            let disk = disk();
            for _ in 0..writes_before {
                disk.write(10 * PAGE as u64, &[b"-"]).unwrap();
            }
            disk.flush().unwrap();
            disk.inject(fault);
            let error = disk.write(100, &[&[b'x'; 2 * PAGE]]).unwrap_err();
            let is_no_space = matches!(error, DiskError::NoSpace { .. });
            assert_eq!(is_no_space, fault == Fault::NoSpace { skip: 0 });
            assert_eq!(disk.fired().len(), 1);
            assert_eq!(read(&disk, 0, 100), vec![0; 100], "outside of the write");
            let pages = [100, PAGE as u64, 2 * PAGE as u64 + 99];
            let seen = pages.map(|at| read(&disk, at, 1)[0]);
            assert_eq!(disk.medium().read(100, 2 * PAGE), vec![0; 2 * PAGE]);
            disk.flush().unwrap();
            let durable = disk.medium();
            assert_eq!(seen, pages.map(|at| durable.read(at, 1)[0]));
            outcomes.insert(seen);
        }
    }
    assert_eq!(outcomes.len(), 8, "every subset of the pages occurs");
}

#[test]
fn a_lost_write_is_gone_and_only_the_cache_may_hide_it() {
    for cached in [false, true] {
        let disk = disk();
        disk.inject(Fault::LostWrite { skip: 0, cached });
        disk.write(0, &[b"x"]).unwrap();
        disk.flush().unwrap();
        assert_eq!(read(&disk, 0, 1) == b"x", cached);
        assert_eq!(
            read_as(&disk, 0, 1, Read::PastCache),
            b"\0",
            "the medium never had it"
        );
        let next = disk.crash(&mut Rng::new(0), Crash::KeepAll);
        assert_eq!(read(&next, 0, 1), b"\0");
    }
}

#[test]
fn a_misdirected_write_lands_elsewhere() {
    for cached in [false, true] {
        let disk = disk();
        disk.inject(Fault::MisdirectedWrite {
            skip: 0,
            pages: 3,
            cached,
        });
        disk.write(100, &[b"x"]).unwrap();
        disk.flush().unwrap();
        assert_eq!(read(&disk, 100, 1) == b"x", cached);
        assert_eq!(disk.medium().read(100, 1), b"\0");
        assert_eq!(disk.medium().read(100 + 3 * PAGE as u64, 1), b"x");
    }
}

#[test]
fn a_misdirected_read_returns_another_place_once() {
    let disk = disk();
    disk.write(PAGE as u64, &[b"there"]).unwrap();
    disk.inject(Fault::MisdirectedRead { skip: 0, pages: 1 });
    assert_eq!(read(&disk, 0, 5), b"there");
    assert_eq!(read(&disk, 0, 5), vec![0; 5]);
}

#[test]
fn a_lying_flush_makes_nothing_durable() {
    let disk = disk();
    disk.inject(Fault::LyingFlush { skip: 0 });
    disk.write(0, &[b"x"]).unwrap();
    disk.flush().unwrap();
    assert_eq!(disk.medium().read(0, 1), b"\0");
    disk.flush().unwrap();
    assert_eq!(
        disk.medium().read(0, 1),
        b"x",
        "the next honest flush covers it"
    );
}

#[test]
fn a_flipped_bit_stays_flipped_and_only_the_cache_may_hide_it() {
    for cached in [false, true] {
        let disk = disk();
        disk.write(9, &[&[0b1000]]).unwrap();
        disk.flush().unwrap();
        disk.inject(Fault::BitFlip {
            offset: 9,
            bit: 0,
            cached,
        });
        assert_eq!(read(&disk, 9, 1), [if cached { 0b1000 } else { 0b1001 }]);
        assert_eq!(read_as(&disk, 9, 1, Read::PastCache), [0b1001]);
        assert_eq!(disk.medium().read(9, 1), [0b1001]);
    }
}

#[test]
fn a_failed_flush_and_a_vanished_device_may_tear_inside_a_sector() {
    let is_torn = |disk: &SimDisk| {
        let sector: BTreeSet<u8> = disk.medium().read(0, 512).into_iter().collect();
        usize::from(sector.len() > 1)
    };
    let (mut by_flush, mut by_vanishing) = (0, 0);
    for seed in 0..100 {
        let disk = disk();
        disk.inject(Fault::FlushFails {
            skip: 0,
            seed,
            cached: false,
        });
        disk.write(0, &[&[b'x'; 512]]).unwrap();
        assert!(disk.flush().is_err());
        by_flush += is_torn(&disk);
        disk.write(0, &[&[0; 512]]).unwrap();
        disk.flush().unwrap();
        disk.write(0, &[&[b'x'; 512]]).unwrap();
        disk.remove();
        disk.give_back(&mut Rng::new(seed));
        by_vanishing += is_torn(&disk);
    }
    let counts = [by_flush, by_vanishing];
    assert!(
        counts.iter().all(|count| (10..90).contains(count)),
        "{counts:?} of 100 were torn"
    );
}

#[test]
fn a_vanished_device_fails_everything_until_it_is_back_without_its_unflushed_writes() {
    let mut kept = 0;
    for seed in 0..50 {
        let disk = disk();
        disk.write(0, &[b"x"]).unwrap();
        disk.inject(Fault::Vanish { skip: 0 });
        assert!(disk.flush().is_err());
        assert!(disk.read(0, &mut [0], Read::Blocking).is_err());
        disk.give_back(&mut Rng::new(seed));
        let seen = read(&disk, 0, 1);
        assert_eq!(seen, disk.medium().read(0, 1));
        kept += usize::from(seen == b"x");
    }
    assert!(
        (5..50).contains(&kept),
        "{kept} of 50 kept the unflushed write"
    );
}

#[test]
fn only_what_was_read_before_is_in_memory_after_a_chill() {
    let disk = disk();
    disk.chill();
    let mut byte = [0];
    assert!(matches!(
        disk.read(0, &mut byte, Read::Nowait),
        Err(DiskError::WouldBlock)
    ));
    disk.read(0, &mut byte, Read::Blocking).unwrap();
    disk.read(0, &mut byte, Read::Nowait).unwrap();
}

#[test]
fn the_observer_sees_every_write_and_flush_before_it_happens() {
    let disk = disk();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    disk.observe(Some(Arc::new(move |disk: &SimDisk, event| {
        log.lock()
            .unwrap()
            .push((event, disk.freeze().pending_sectors().len()));
    })));
    disk.write(0, &[b"x"]).unwrap();
    disk.flush().unwrap();
    let expected = [(Event::Write { offset: 0, len: 1 }, 0), (Event::Flush, 1)];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
#[should_panic(expected = "past the disk's")]
fn writing_past_the_end_is_a_programmers_error() {
    let _ = disk().write(CAPACITY - 1, &[b"xy"]);
}
