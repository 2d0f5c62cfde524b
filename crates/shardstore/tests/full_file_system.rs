//! A disk whose file system others fill: the reserve must be there all the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shardstore::{
    Batch, Disk, DiskError, Engine, Error, Geometry, Identity, Key, Options, Read, Store,
};
use support::MemoryDisk;

mod support;

const GEOMETRY: Geometry = Geometry {
    extent_bytes: 256 * 1024,
    payload_bytes_max: 64 * 1024,
};

/// A file that grows on a file system which has so much left.
struct GrowingDisk {
    bytes: Arc<MemoryDisk>,
    len: Mutex<u64>,
    left: AtomicU64,
}

impl Disk for GrowingDisk {
    fn capacity(&self) -> u64 {
        *self.len.lock().unwrap() + self.left.load(Ordering::SeqCst)
    }

    fn read(&self, offset: u64, buf: &mut [u8], how: Read) -> Result<(), DiskError> {
        self.bytes.read(offset, buf, how)
    }

    fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), DiskError> {
        self.bytes.write(offset, bufs)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.bytes.flush()
    }

    fn prepare(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        self.reserve(offset + bytes)
    }

    fn reserve(&self, end: u64) -> Result<(), DiskError> {
        let mut len = self.len.lock().unwrap();
        let more = end.saturating_sub(*len);
        let take = |left: u64| left.checked_sub(more);
        let taken = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        if taken.is_err() {
            let error = std::io::ErrorKind::StorageFull.into();
            return Err(DiskError::from_io("reserve", *len, more, &error));
        }
        *len += more;
        Ok(())
    }
}

fn start() -> (Arc<GrowingDisk>, Engine) {
    let size = 1024 * 1024 + 64 * u64::from(GEOMETRY.extent_bytes);
    let disk = Arc::new(GrowingDisk {
        bytes: MemoryDisk::new(size as usize),
        len: Mutex::new(1024 * 1024),
        left: AtomicU64::new(size - 1024 * 1024),
    });
    let identity = Identity {
        disk: [3; 16],
        set: [4; 16],
    };
    Store::format(&*disk, identity, GEOMETRY).unwrap();
    let options = Options {
        memtable_bytes: 16 * 1024,
        table_bytes: 16 * 1024,
        tail_bytes_max: 512 * 1024,
        ..Options::default()
    };
    let store = Store::open(disk.clone(), options).unwrap();
    let engine = Engine::start(store, 1).unwrap();
    (disk, engine)
}

/// The reserve once was no more than a number: when others had filled the file system, deletes
/// found no extent for themselves, and nothing could free any.
#[test]
fn deletes_find_room_when_others_fill_the_file_system() {
    let (disk, engine) = start();
    let submit = |batch: Batch| engine.submit(batch).unwrap().wait();
    let put =
        |key: &str| submit(Batch::new().put_with_payload(Key::plain(key), "v", vec![1; 20_000]));
    let key = |number: usize| format!("key{number:04}");
    for number in 0..200 {
        put(&key(number)).unwrap();
    }
    // Until what is written ahead is written.
    let mut before = 0;
    while before != disk.capacity() - disk.left.load(Ordering::SeqCst) {
        before = disk.capacity() - disk.left.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(300));
    }

    disk.left.store(0, Ordering::SeqCst);
    let mut number = 200;
    while put(&key(number)).is_ok() {
        number += 1;
    }
    assert!(matches!(put(&key(number)), Err(Error::OutOfSpace)));
    for number in 0..number {
        let batch = Batch::new().delete(Key::plain(key(number).as_str()));
        submit(batch.frees_space()).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(30);
    while let Err(error) = put("again") {
        assert!(matches!(error, Error::OutOfSpace), "{error}");
        assert!(
            Instant::now() < until,
            "still full after everything was deleted"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    engine.close().unwrap();
}

/// Deletes were refused as soon as they had outrun what background work gives back, although it
/// had only to be waited for. Here a reader keeps it from giving back anything.
#[test]
fn deletes_wait_for_room_that_is_about_to_come() {
    let (_disk, engine) = start();
    let submit = |batch: Batch| engine.submit(batch).unwrap().wait();
    let mut keys = 0;
    let key = |number: usize| format!("key{number:04}");
    loop {
        let key = key(keys);
        let batch = Batch::new().put_with_payload(Key::plain(key.as_str()), "v", vec![1; 20_000]);
        if submit(batch).is_err() {
            break;
        }
        keys += 1;
    }
    let reader = engine.snapshot();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            drop(reader);
        });
        for number in 0..keys {
            let batch = Batch::new().delete(Key::plain(key(number).as_str()));
            submit(batch.frees_space()).unwrap();
        }
    });
    engine.close().unwrap();
}
