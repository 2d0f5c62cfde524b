//! A disk that is watched: which of its operations is under way for how long, and whether it still
//! reads. For whoever has other disks and can do without one that is dying without saying so.

use std::time::Instant;

use crate::disk::{Disk, DiskError, Read};
use crate::limits::{FAILED_READS_MAX, WATCHED_OPERATIONS};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// An operation that a disk has begun and not ended: its number, counted from 1 for each open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(u64);

/// Passes everything on to a disk.
pub(crate) struct Watched {
    disk: Arc<dyn Disk>,
    /// The numbers of operations that are under way; 0: none.
    under_way: [AtomicU64; WATCHED_OPERATIONS],
    begun: AtomicU64,
    /// How many reads of the medium have failed since one went well.
    failed_reads: AtomicU32,
    /// Since when, and what the last one said.
    failing: Mutex<Option<(Instant, String)>>,
}

impl Watched {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Watched {
        Watched {
            disk,
            under_way: std::array::from_fn(|_| AtomicU64::new(0)),
            begun: AtomicU64::new(0),
            failed_reads: AtomicU32::new(0),
            failing: Mutex::new(None),
        }
    }

    /// The operation that is under way the longest. Of very many at once some are not seen.
    pub(crate) fn oldest(&self) -> Option<OperationId> {
        let numbers = self.under_way.iter();
        let numbers = numbers.map(|number| number.load(Ordering::Relaxed));
        numbers.filter(|number| *number != 0).min().map(OperationId)
    }

    /// Why the disk is no use any more although its operations return: all of its last reads failed.
    pub(crate) fn ailment(&self) -> Option<String> {
        if self.failed_reads.load(Ordering::Relaxed) < FAILED_READS_MAX {
            return self.disk.vanished();
        }
        let failing = lock(&self.failing);
        let (since, error) = failing.as_ref()?;
        let seconds = since.elapsed().as_secs_f64();
        Some(format!(
            "its last {FAILED_READS_MAX} reads failed, within {seconds:.1} s: {error}"
        ))
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
        done
    }

    fn note_read(&self, read: &Result<(), DiskError>) {
        match read {
            Ok(()) => {
                if self.failed_reads.load(Ordering::Relaxed) > 0 {
                    self.failed_reads.store(0, Ordering::Relaxed);
                }
            }
            Err(error) => {
                let mut failing = lock(&self.failing);
                let count = self.failed_reads.fetch_add(1, Ordering::Relaxed);
                let since = match &*failing {
                    Some((since, _)) if count > 0 => *since,
                    _ => Instant::now(),
                };
                *failing = Some((since, error.to_string()));
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
        self.note_read(&read);
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

    fn prepare(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.noted(|| self.disk.prepare(offset, len))
    }
}
