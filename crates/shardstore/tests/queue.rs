//! What becomes of batches that find the commit queue full.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use shardstore::{
    Batch, Dependency, Disk, DiskError, Engine, Error, Geometry, Identity, Key, Options, Read,
    Store,
};
use support::MemoryDisk;

mod support;

const GEOMETRY: Geometry = Geometry {
    extent_bytes: 256 * 1024,
    payload_bytes_max: 64 * 1024,
};

const WAIT: Duration = Duration::from_millis(300);

/// A disk whose flushes stand still while it is told to.
struct Stalling {
    disk: Arc<MemoryDisk>,
    stalled: Mutex<bool>,
    goes_on: Condvar,
}

impl Stalling {
    fn stall(&self, stalled: bool) {
        *self.stalled.lock().unwrap() = stalled;
        self.goes_on.notify_all();
    }
}

impl Disk for Stalling {
    fn capacity(&self) -> u64 {
        self.disk.capacity()
    }

    fn read(&self, offset: u64, buf: &mut [u8], how: Read) -> Result<(), DiskError> {
        self.disk.read(offset, buf, how)
    }

    fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), DiskError> {
        self.disk.write(offset, bufs)
    }

    fn flush(&self) -> Result<(), DiskError> {
        let stalled = self.stalled.lock().unwrap();
        drop(
            self.goes_on
                .wait_while(stalled, |stalled| *stalled)
                .unwrap(),
        );
        self.disk.flush()
    }

    fn prepare(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.disk.prepare(offset, len)
    }
}

/// An engine on a disk that stands still, whose queue holds about four batches, and outside
/// of which about as many may wait.
fn stalled_engine(queue_wait: Duration) -> (Arc<Stalling>, Engine) {
    let disk = MemoryDisk::new(1024 * 1024 + 64 * GEOMETRY.extent_bytes as usize);
    let identity = Identity {
        disk: [3; 16],
        set: [4; 16],
    };
    Store::format(&*disk, identity, GEOMETRY).unwrap();
    let disk = Arc::new(Stalling {
        disk,
        stalled: Mutex::new(false),
        goes_on: Condvar::new(),
    });
    let options = Options {
        group_bytes_max: 1,
        queue_bytes_max: 48 * 1024,
        waiting_bytes_max: 48 * 1024,
        queue_wait,
        ..Options::default()
    };
    let engine = Engine::start(Store::open(disk.clone(), options).unwrap(), 1).unwrap();
    disk.stall(true);
    // The committer takes this one, so that the queue is empty and stays as it becomes.
    let taken = submit(&engine, 1000).unwrap();
    while engine.store().stats().queue_bytes > 0 {
        std::thread::yield_now();
    }
    assert!(taken.poll_now().is_none());
    (disk, engine)
}

fn submit(engine: &Engine, number: usize) -> Result<Dependency, Error> {
    let key = Key::plain(format!("{number:04}"));
    engine.submit(Batch::new().put_with_payload(key, "v", vec![1; 10_000]))
}

/// Batches up to the first that is refused at once.
fn submit_until_refused(engine: &Engine) -> Vec<Dependency> {
    let mut submitted = Vec::new();
    let refused = loop {
        match submit(engine, submitted.len()) {
            Ok(dependency) => submitted.push(dependency),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Busy), "{refused}");
    submitted
}

/// A full queue once refused writers at once, so that a disk that stood still for a moment was
/// answered with `SlowDown`.
#[test]
fn whoever_finds_the_queue_full_waits_and_gets_through() {
    let (disk, engine) = stalled_engine(Duration::from_secs(60));
    let submitted = submit_until_refused(&engine);
    assert_eq!(submitted.len(), 8, "four in the queue and four that wait");
    assert!(engine.store().stats().waiting_bytes > 0);
    disk.stall(false);
    for dependency in submitted {
        dependency.wait().unwrap();
    }
    let snapshot = engine.snapshot();
    for number in 0..8 {
        let key = Key::plain(format!("{number:04}"));
        assert!(snapshot.get(&key, Read::Blocking).unwrap().is_some());
    }
    let stats = engine.store().stats();
    assert_eq!((stats.queue_bytes, stats.waiting_bytes), (0, 0));
    engine.close().unwrap();
}

#[test]
fn whoever_waits_in_vain_is_told_so_in_time_and_changes_nothing() {
    let (disk, engine) = stalled_engine(WAIT);
    let begun = Instant::now();
    let submitted = submit_until_refused(&engine);
    let (queued, waiting) = submitted.split_at(4);
    for dependency in waiting {
        assert!(matches!(dependency.wait(), Err(Error::Busy)));
    }
    let took = begun.elapsed();
    assert!(WAIT <= took && took < 10 * WAIT, "{took:?}");
    assert!(queued.iter().all(|queued| queued.poll_now().is_none()));
    // There is room to wait again.
    let again = submit(&engine, 100).unwrap();
    disk.stall(false);
    for dependency in queued {
        dependency.wait().unwrap();
    }
    again.wait().unwrap();
    let snapshot = engine.snapshot();
    for number in 4..8 {
        let key = Key::plain(format!("{number:04}"));
        assert!(snapshot.get(&key, Read::Blocking).unwrap().is_none());
    }
    drop(snapshot);
    engine.close().unwrap();
}

/// What waits for room waits for its dependencies as well.
#[test]
fn order_and_dependencies_outlast_the_wait() {
    let (disk, engine) = stalled_engine(Duration::from_secs(60));
    for number in 0..4 {
        submit(&engine, number).unwrap();
    }
    let first = submit(&engine, 4).unwrap();
    let key = Key::plain("0004");
    let batch = Batch::new().put(key.clone(), "second").after(first.clone());
    let second = engine.submit(batch).unwrap();
    disk.stall(false);
    second.wait().unwrap();
    assert!(first.is_persistent());
    let found = engine.snapshot().get(&key, Read::Blocking).unwrap();
    assert_eq!(found.unwrap().value(), b"second");
    engine.close().unwrap();
}
