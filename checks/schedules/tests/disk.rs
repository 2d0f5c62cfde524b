//! What the simulated disk promises to threads: a flush covers exactly the writes that returned
//! before it began, and power that goes in its middle leaves some of them.
#![cfg(feature = "explore")]

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use shardstore::Disk;
use shardstore::sync::atomic::{AtomicBool, Ordering};
use shardstore::sync::{Arc, thread};
use shuttle::Runner;
use shuttle::scheduler::RandomScheduler;
use simdisk::{Image, PAGE, SimDisk};

const SCHEDULES: usize = 2000;

fn disk() -> Arc<SimDisk> {
    Arc::new(SimDisk::new(Image::blank(64 * 1024, 512)))
}

fn is_durable(disk: &SimDisk, page: u64) -> bool {
    disk.medium().read(page * PAGE as u64, 1) == b"x"
}

fn write(disk: &SimDisk, page: u64) -> bool {
    disk.write(page * PAGE as u64, &[b"x"]).is_ok()
}

/// Every outcome of a scenario over many schedules.
fn outcomes<T: Ord + Send + 'static>(
    scenario: impl Fn() -> T + Send + Sync + 'static,
) -> BTreeSet<T> {
    let seen = std::sync::Arc::new(Mutex::new(BTreeSet::new()));
    let into = seen.clone();
    let scheduler = RandomScheduler::new_from_seed(1, SCHEDULES);
    Runner::new(scheduler, shuttle::Config::new()).run(move || {
        let outcome = scenario();
        let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(outcome);
    });
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *seen)
}

#[test]
fn a_flush_covers_what_returned_before_it_began_and_nothing_later() {
    let seen = outcomes(|| {
        let disk = disk();
        assert!(write(&disk, 0) && write(&disk, 1));
        let other = disk.clone();
        let writer = thread::spawn(move || {
            assert!(write(&other, 2));
            // Whether a flush has done one half and not the other.
            is_durable(&other, 0) && !is_durable(&other, 1)
        });
        disk.flush().expect("an honest disk");
        let durable = [0, 1, 2].map(|page| is_durable(&disk, page));
        assert_eq!(durable[..2], [true, true], "written before the flush");
        let is_meanwhile = writer.join().expect("the writer says why");
        disk.flush().expect("an honest disk");
        assert!(is_durable(&disk, 2), "the next flush covers it");
        (is_meanwhile, durable[2])
    });
    assert!(seen.contains(&(true, false)), "{seen:?}");
    assert!(seen.contains(&(false, true)), "{seen:?}");
}

#[test]
fn power_that_goes_during_a_flush_leaves_part_of_it_and_no_acknowledgement() {
    let seen = outcomes(|| {
        let disk = disk();
        assert!(write(&disk, 0) && write(&disk, 1));
        let other = disk.clone();
        // The next write or flush but one.
        disk.cut_after(1);
        let flusher = thread::spawn(move || other.flush().is_ok());
        let is_acknowledged = write(&disk, 2);
        let flushed = flusher.join().expect("the flusher says why");
        let durable = [0, 1].map(|page| is_durable(&disk, page));
        assert!(
            !flushed || durable == [true, true],
            "acknowledged too early"
        );
        (is_acknowledged, flushed, durable)
    });
    assert!(seen.contains(&(false, false, [true, false])), "{seen:?}");
    assert!(seen.contains(&(false, true, [true, true])), "{seen:?}");
}

#[test]
fn of_two_flushes_at_once_that_cover_a_lost_write_both_fail() {
    let seen = outcomes(|| {
        let disk = disk();
        assert!(write(&disk, 0));
        disk.inject(simdisk::Fault::FlushFails {
            skip: 1,
            seed: 7,
            cached: false,
        });
        let other = disk.clone();
        let flusher = thread::spawn(move || other.flush().is_ok());
        let flushed = disk.flush().is_ok();
        let flushed_too = flusher.join().expect("the flusher says why");
        let is_safe = !(flushed || flushed_too) || is_durable(&disk, 0);
        assert!(
            is_safe,
            "a flush that lost what it covered was acknowledged"
        );
        [flushed, flushed_too]
    });
    assert!(seen.contains(&[false, false]), "{seen:?}");
    assert!(seen.contains(&[true, false]), "{seen:?}");
}

#[test]
fn while_a_slow_write_returns_others_see_it_and_go_on() {
    let seen = outcomes(|| {
        let disk = disk();
        disk.slow_down(1000);
        let (other, has_returned) = (disk.clone(), Arc::new(AtomicBool::new(false)));
        let flag = has_returned.clone();
        let writer = thread::spawn(move || {
            assert!(write(&other, 0));
            flag.store(true, Ordering::SeqCst);
        });
        while !disk.has_pending() {
            thread::yield_now();
        }
        let looks = std::iter::repeat_with(|| has_returned.load(Ordering::SeqCst));
        let before = looks.take_while(|returned| !returned).count();
        writer.join().expect("the writer says why");
        before
    });
    assert!(!seen.contains(&0), "it returned at once: {seen:?}");
}
