//! A disk that is watched: what it has begun and ended, and whether it still reads. It decides
//! nothing: whoever has other disks may do without one that is dying without saying so.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::disk::{Disk, DiskError, Read};
use crate::limits::{
    CHECKSUM_UNIT, FAILED_PARTS_MAX, FAILED_PARTS_OF, FAILED_READS_MAX, FAILED_READS_WITHIN,
    WATCHED_OPERATIONS,
};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// An operation that a disk has begun and not ended: its number, counted from 1 for each open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(u64);

/// What a disk has under way, at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// The operation that has been under way the longest. Of very many at once some are not seen.
    pub oldest: Option<OperationId>,
    /// Operations that have ended since the disk was opened.
    pub ended: u64,
}

/// Passes everything on to a disk.
pub(crate) struct Watched {
    disk: Arc<dyn Disk>,
    /// The numbers of operations that are under way; 0: none.
    under_way: [AtomicU64; WATCHED_OPERATIONS],
    begun: AtomicU64,
    ended: AtomicU64,
    /// Bytes of the parts of the disk that are told apart where reads fail.
    part_bytes: u64,
    /// Whether a read of the medium has failed since one went well.
    is_failing: AtomicBool,
    failing: Mutex<Failing>,
}

/// Reads of the medium that failed, without one between them that went well.
#[derive(Default)]
struct Failing {
    count: u32,
    /// The parts of the disk that they were in, as many as matter.
    parts: BTreeSet<u64>,
    began: Option<Instant>,
    error: String,
}

impl Watched {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Watched {
        let part_bytes = (disk.capacity() / FAILED_PARTS_OF).max(CHECKSUM_UNIT as u64);
        Watched {
            disk,
            under_way: std::array::from_fn(|_| AtomicU64::new(0)),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            part_bytes,
            is_failing: AtomicBool::new(false),
            failing: Mutex::new(Failing::default()),
        }
    }

    pub(crate) fn under_way(&self) -> UnderWay {
        let numbers = self.under_way.iter();
        let numbers = numbers.map(|number| number.load(Ordering::Relaxed));
        UnderWay {
            oldest: numbers.filter(|number| *number != 0).min().map(OperationId),
            ended: self.ended.load(Ordering::Relaxed),
        }
    }

    /// Why the disk is no use any more although its operations return: reads fail one after the
    /// other, in different parts of it. Reads of one bad place are not enough, however often.
    pub(crate) fn unreadable(&self) -> Option<String> {
        if !self.is_failing.load(Ordering::Relaxed) {
            return None;
        }
        let failing = lock(&self.failing);
        let (count, error) = (failing.count, &failing.error);
        let is_bad = count >= FAILED_READS_MAX && failing.parts.len() >= FAILED_PARTS_MAX;
        let seconds = failing.began?.elapsed().as_secs_f64();
        is_bad.then(|| format!("its last {count} reads failed, within {seconds:.1} s: {error}"))
    }

    /// Does what is noted as under way meanwhile.
    fn noted<T>(&self, work: impl FnOnce() -> T) -> T {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let order = Ordering::Relaxed;
        let place = self
            .under_way
            .iter()
            .find(|place| place.compare_exchange(0, number, order, order).is_ok());
        let done = work();
        if let Some(place) = place {
            place.store(0, order);
        }
        self.ended.fetch_add(1, order);
        done
    }

    fn note_read(&self, offset: u64, read: &Result<(), DiskError>) {
        match read {
            Ok(()) => {
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    *lock(&self.failing) = Failing::default();
                }
            }
            Err(error) => {
                let mut failing = lock(&self.failing);
                let now = Instant::now();
                if failing
                    .began
                    .is_none_or(|began| now - began > FAILED_READS_WITHIN)
                {
                    *failing = Failing {
                        began: Some(now),
                        ..Failing::default()
                    };
                }
                failing.count += 1;
                if failing.parts.len() < FAILED_PARTS_MAX {
                    failing.parts.insert(offset / self.part_bytes);
                }
                failing.error = error.to_string();
                self.is_failing.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Disk for Watched {
    fn capacity(&self) -> u64 {
        self.disk.capacity()
    }

    fn read(&self, offset: u64, buf: &mut [u8], how: Read) -> Result<(), DiskError> {
        if how == Read::Nowait {
            // It does not wait for the medium, and says nothing of it.
            return self.disk.read(offset, buf, how);
        }
        let read = self.noted(|| self.disk.read(offset, buf, how));
        self.note_read(offset, &read);
        read
    }

    fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), DiskError> {
        self.noted(|| self.disk.write(offset, bufs))
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.noted(|| self.disk.flush())
    }

    fn vanished(&self) -> Option<String> {
        self.disk.vanished()
    }

    fn reserve(&self, end: u64) -> Result<(), DiskError> {
        self.noted(|| self.disk.reserve(end))
    }

    fn forget(&self, offset: u64, len: u64) {
        self.disk.forget(offset, len);
    }

    fn prepare(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.noted(|| self.disk.prepare(offset, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails reads of some places.
    struct Bad(fn(u64) -> bool);

    impl Disk for Bad {
        fn capacity(&self) -> u64 {
            1 << 30
        }

        fn read(&self, offset: u64, buf: &mut [u8], _: Read) -> Result<(), DiskError> {
            let error = std::io::ErrorKind::Other.into();
            match (self.0)(offset) {
                true => Err(DiskError::from_io("read", offset, buf.len() as u64, &error)),
                false => Ok(()),
            }
        }

        fn write(&self, _: u64, _: &[&[u8]]) -> Result<(), DiskError> {
            Ok(())
        }

        fn flush(&self) -> Result<(), DiskError> {
            Ok(())
        }

        fn prepare(&self, _: u64, _: u64) -> Result<(), DiskError> {
            Ok(())
        }
    }

    fn reads(disk: &Watched, offsets: impl Iterator<Item = u64>) {
        for offset in offsets {
            let _ = disk.read(offset, &mut [0; 16], Read::Blocking);
        }
    }

    /// A client that asks again and again for an object with a bad sector must not fail a disk, nor
    /// a scrub that goes through a bad patch page by page.
    #[test]
    fn a_bad_place_is_no_bad_disk() {
        let disk = Watched::new(Arc::new(Bad(|_| true)));
        reads(&disk, (0..10_000).map(|number| number % 200 * 4096));
        assert_eq!(disk.unreadable(), None);
        reads(&disk, (0..64).map(|number| number * (16 << 20)));
        let why = disk.unreadable().unwrap();
        assert!(why.contains("reads failed, within"), "{why}");

        let half = Watched::new(Arc::new(Bad(|offset| offset % (32 << 20) == 0)));
        reads(&half, (0..10_000).map(|number| number % 64 * (16 << 20)));
        assert_eq!(half.unreadable(), None, "some go well");
    }

    #[test]
    fn the_oldest_operation_is_that_which_does_not_end() {
        let disk = Watched::new(Arc::new(Bad(|_| false)));
        assert_eq!(disk.under_way(), UnderWay::default());
        let (first, second) = disk.noted(|| {
            let first = disk.under_way();
            disk.flush().unwrap();
            (first, disk.under_way())
        });
        assert_eq!((first.oldest, first.ended), (second.oldest, 0));
        assert!(first.oldest.is_some());
        assert_eq!(second.ended, 1);
        assert_eq!(disk.under_way().oldest, None);
    }
}
