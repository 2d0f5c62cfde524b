//! What can go wrong with a set of disks.

use shardstore::DiskError;

/// Why an operation on a volume did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VolumeError {
    /// These disks are no set that can be used. Says why, and what to do.
    #[error("{why}")]
    Set {
        /// A sentence, or several.
        why: String,
    },
    /// What is asked for is on disks that are not here.
    #[error("too many disks are missing: {missing}")]
    NotHere {
        /// Which disks are missing or have failed.
        missing: String,
    },
    /// No room for new data. Deletes still work.
    #[error("the disks are full: delete something and wait for reclamation, or add capacity")]
    OutOfSpace,
    /// Too much is waiting for the disks already. Try again shortly.
    #[error("too many requests are waiting for the disks")]
    Busy,
    /// The disk could not read what is stored in one place.
    #[error("{what} cannot be read: {reason}")]
    Unreadable {
        /// What should have been read: a stripe of a blob, stored data.
        what: String,
        /// What the disk said.
        reason: String,
    },
    /// A disk failed.
    #[error("a disk failed: {reason}")]
    Failed {
        /// The first failure.
        reason: String,
    },
    /// Stored bytes are not what was written.
    #[error("{what} is damaged: {why}")]
    Corrupt {
        /// What should have been read: a stripe of a blob, a metadata entry.
        what: String,
        /// Where it is and what did not hold.
        why: String,
    },
    /// What is stored needs a newer release to read it.
    #[error("{what} was written by a newer cullet; use that release to read it")]
    Newer {
        /// What it is.
        what: String,
    },
    /// A writer was used after a call that failed or was cancelled half-way.
    #[error("the blob's writer broke off earlier; begin a new one")]
    Broken,
    /// Past a limit. A programmer's error one floor up.
    #[error("{what} is {is}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        is: usize,
        /// The limit, in the same unit.
        limit: usize,
    },
    /// A batch of metadata is not within one slice, or names one that is not there. A
    /// programmer's error one floor up.
    #[error("a batch of metadata is not within one slice that the set has")]
    NotOneSlice,
    /// What a batch expects does not hold any more: another writer came between.
    #[error("somebody else changed the same thing at the same time")]
    Conflict,
    /// The volume was shut down.
    #[error("the volume is closed")]
    Closed,
    /// An engine's error that should not have come this far.
    #[error("unexpected answer from the engine: {0}")]
    Engine(shardstore::Error),
}

impl From<shardstore::Error> for VolumeError {
    fn from(error: shardstore::Error) -> VolumeError {
        use shardstore::Error as E;
        match error {
            E::OutOfSpace | E::Disk(DiskError::NoSpace { .. }) => VolumeError::OutOfSpace,
            E::Busy => VolumeError::Busy,
            E::Failed { reason } => VolumeError::Failed { reason },
            // An engine takes reads while it lives: one sector that cannot be read is not the
            // failure of a disk.
            E::Disk(
                error @ DiskError::Io {
                    operation: "read", ..
                },
            ) => VolumeError::Unreadable {
                what: "stored data".to_owned(),
                reason: error.to_string(),
            },
            E::Disk(error @ DiskError::Io { .. }) => VolumeError::Failed {
                reason: error.to_string(),
            },
            E::Corrupt { place, what } => VolumeError::Corrupt {
                what: format!("data in {place}"),
                why: what,
            },
            E::Damaged { what } => VolumeError::Corrupt {
                what: "the disk".to_owned(),
                why: what,
            },
            E::TooLarge { what, is, limit } => VolumeError::TooLarge { what, is, limit },
            E::Closed => VolumeError::Closed,
            error => VolumeError::Engine(error),
        }
    }
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, VolumeError>;

#[cfg(test)]
mod tests {
    use super::*;

    /// One sector that cannot be read is one object's matter; a write that fails is the disk's.
    #[test]
    fn what_cannot_be_read_is_not_a_failed_disk() {
        let error = |operation| {
            VolumeError::from(shardstore::Error::Disk(DiskError::Io {
                operation,
                offset: 0,
                len: 1,
                reason: "Input/output error".to_owned(),
            }))
        };
        assert!(matches!(error("read"), VolumeError::Unreadable { .. }));
        for operation in ["write", "flush", "prepare"] {
            assert!(matches!(error(operation), VolumeError::Failed { .. }));
        }
    }
}
