//! What can go wrong with one disk, and what the person who reads it can do.

use crate::disk::DiskError;

/// The place of a frame on a disk, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The extent's number.
    pub extent: u32,
    /// Byte offset of the frame within the extent.
    pub offset: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "extent {} at byte {}", self.extent, self.offset)
    }
}

/// Why an operation on a store did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The answer is not in memory; ask again with [`Read::Blocking`](crate::Read).
    #[error("the answer needs a read from the disk")]
    WouldBlock,
    /// Stored bytes do not match their checksum.
    #[error("corrupt data in {place}: {what}")]
    Corrupt {
        /// Where.
        place: Place,
        /// What did not hold.
        what: String,
    },
    /// The disk's own description (superblock, checkpoint or log) is damaged so that
    /// opening it could serve stale data.
    #[error(
        "the disk cannot be opened safely: {what}; `cullet rescue` reads what is still readable"
    )]
    Damaged {
        /// What is damaged, and where.
        what: String,
    },
    /// No superblock: the disk was never formatted by cullet.
    #[error("no cullet superblock on this disk")]
    NotFormatted,
    /// Formatting would overwrite a store.
    #[error("the disk already holds a cullet store")]
    AlreadyFormatted,
    /// The disk was written by a newer release.
    #[error(
        "the disk uses features this release does not know ({what}); open it with a newer cullet"
    )]
    NewerFormat {
        /// Which feature bits, or which version.
        what: String,
    },
    /// Sizes that cannot work.
    #[error("unusable sizes: {what}")]
    Geometry {
        /// Which relation is broken.
        what: String,
    },
    /// A batch, key, value or payload past its limit. A programmer's error one floor up.
    #[error("{what} is {is}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        is: usize,
        /// The limit, in the same unit.
        limit: usize,
    },
    /// No free extent is left for new data. Deletes still work; space comes back after them.
    #[error("the disk is full: delete something and wait for reclamation, or add capacity")]
    OutOfSpace,
    /// Too much is waiting for the disk already. Try again shortly.
    #[error("too many requests are waiting for the disk")]
    Busy,
    /// A write or flush failed earlier: the disk takes no more writes until it is reopened.
    #[error("the disk failed and takes no more writes: {reason}")]
    Failed {
        /// The first failure.
        reason: String,
    },
    /// The store was shut down.
    #[error("the store is closed")]
    Closed,
    /// The disk itself reported an error.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;
