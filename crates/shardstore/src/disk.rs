//! The seam under the engine: a flat range of bytes that can be read, written and flushed.
//!
//! What an implementation must hold, and all that the engine relies on:
//! - a `write` is durable only after a later `flush` has returned `Ok`; until then a crash
//!   may keep, lose or reorder it page by page;
//! - a `flush` covers every write that returned before the flush began;
//! - bytes never written read as zeros;
//! - after a failed `flush` nothing is known about the writes it covered, and a later
//!   successful flush does not change that; of two flushes at the same time that cover a
//!   write that failed, both fail.

use std::io;

/// How a read may get its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Read {
    /// Only from memory; [`DiskError::WouldBlock`] when that is not possible.
    Nowait,
    /// From wherever they are.
    Blocking,
    /// From the medium itself, not from a cache in memory, as far as the platform can.
    PastCache,
}

/// What a disk reports.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiskError {
    /// The bytes are not in memory ([`Read::Nowait`]).
    #[error("the read would wait for the disk")]
    WouldBlock,
    /// The file system under the disk has no room left.
    #[error("no space left under the disk ({operation} of {len} bytes at {offset})")]
    NoSpace {
        /// `write` or `prepare`.
        operation: &'static str,
        /// Byte offset on the disk.
        offset: u64,
        /// Bytes asked for.
        len: u64,
    },
    /// The operating system reported an error.
    #[error("{operation} of {len} bytes at {offset} failed: {reason}")]
    Io {
        /// `read`, `write`, `flush`, `prepare`.
        operation: &'static str,
        /// Byte offset on the disk.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// The system's words.
        reason: String,
    },
}

impl DiskError {
    /// Wraps what the operating system said about one operation.
    pub fn from_io(operation: &'static str, offset: u64, len: u64, error: &io::Error) -> DiskError {
        match error.kind() {
            io::ErrorKind::WouldBlock => DiskError::WouldBlock,
            // The last one: the file cannot grow any more.
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => DiskError::NoSpace {
                operation,
                offset,
                len,
            },
            _ => DiskError::Io {
                operation,
                offset,
                len,
                reason: error.to_string(),
            },
        }
    }
}

/// One disk. Calls may come from several threads at once; writes to overlapping ranges
/// never overlap in time.
pub trait Disk: Send + Sync + 'static {
    /// Bytes that the disk may hold in all, the superblock's area included.
    fn capacity(&self) -> u64;

    /// Fills `buf` from `offset`. Bytes past the end or never written are zeros.
    fn read(&self, offset: u64, buf: &mut [u8], how: Read) -> Result<(), DiskError>;

    /// Writes `bufs` one behind the other at `offset`. Not durable before [`flush`](Disk::flush).
    fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), DiskError>;

    /// Makes every write that has returned durable.
    fn flush(&self) -> Result<(), DiskError>;

    /// Why what was opened is not reached by its name any more, although it still can be read and
    /// written: whatever is written to it would not be found again.
    fn vanished(&self) -> Option<String> {
        None
    }

    /// Nobody is going to read a range soon that was written and flushed: it need not be kept in
    /// memory.
    fn forget(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// Makes sure that the medium has room for everything below `end`, without writing it, as far
    /// as it can promise that.
    fn reserve(&self, end: u64) -> Result<(), DiskError> {
        let _ = end;
        Ok(())
    }

    /// Allocates and zeroes a range ahead of its first use, so that appends to it do not
    /// change file-system metadata. Called only for ranges that hold no data.
    fn prepare(&self, offset: u64, len: u64) -> Result<(), DiskError>;
}
