//! What the tests of this crate share.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use shardstore::{Disk, DiskError, Read};

/// A disk in memory that loses nothing.
#[derive(Default)]
pub struct MemoryDisk {
    pub bytes: Mutex<Vec<u8>>,
    /// A range that reads fail in.
    pub unreadable: Mutex<Option<Range<u64>>>,
    /// Bytes of the largest write so far.
    pub largest_write: AtomicUsize,
    /// What need not be kept in memory.
    pub forgotten: Mutex<Vec<Range<u64>>>,
}

impl MemoryDisk {
    pub fn new(bytes: usize) -> Arc<MemoryDisk> {
        Arc::new(MemoryDisk {
            bytes: Mutex::new(vec![0; bytes]),
            ..MemoryDisk::default()
        })
    }
}

impl Disk for MemoryDisk {
    fn capacity(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn read(&self, offset: u64, buf: &mut [u8], _: Read) -> Result<(), DiskError> {
        let end = offset + buf.len() as u64;
        let unreadable = self.unreadable.lock().unwrap().clone();
        if unreadable.is_some_and(|bad| offset < bad.end && bad.start < end) {
            let error = std::io::Error::other("a bad page");
            return Err(DiskError::from_io("read", offset, buf.len() as u64, &error));
        }
        let bytes = self.bytes.lock().unwrap();
        let start = (offset as usize).min(bytes.len());
        let end = (start + buf.len()).min(bytes.len());
        buf[..end - start].copy_from_slice(&bytes[start..end]);
        buf[end - start..].fill(0);
        Ok(())
    }

    fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), DiskError> {
        let mut bytes = self.bytes.lock().unwrap();
        let mut at = offset as usize;
        for buf in bufs {
            bytes[at..at + buf.len()].copy_from_slice(buf);
            at += buf.len();
        }
        self.largest_write
            .fetch_max(at - offset as usize, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn forget(&self, offset: u64, len: u64) {
        let range = offset..offset + len;
        self.forgotten.lock().unwrap().push(range);
    }

    fn prepare(&self, _: u64, _: u64) -> Result<(), DiskError> {
        Ok(())
    }
}
