//! What can go wrong with a request, in the words of buckets and objects. The front door maps
//! each variant to a protocol code.

use volume::VolumeError;

/// Why a request did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No bucket has this name.
    #[error("the bucket {bucket} does not exist")]
    NoSuchBucket {
        /// The name asked for.
        bucket: String,
    },
    /// The bucket has no current object under this key.
    #[error("the bucket {bucket} has no object {key:?}")]
    NoSuchKey {
        /// The bucket's name.
        bucket: String,
        /// The key asked for.
        key: String,
    },
    /// No upload in parts has this id: it was completed, aborted, or never begun.
    #[error(
        "there is no upload {upload} of {key:?} in the bucket {bucket}: it was completed or aborted, or never begun"
    )]
    NoSuchUpload {
        /// The bucket's name.
        bucket: String,
        /// The object's key.
        key: String,
        /// The id asked for.
        upload: String,
    },
    /// A part number out of range.
    #[error("part numbers are 1 to {limit}, not {number}")]
    InvalidPartNumber {
        /// The number asked for.
        number: i64,
        /// The largest.
        limit: usize,
    },
    /// The upload has no such part.
    #[error("part {number} {why}")]
    InvalidPart {
        /// The part's number.
        number: u16,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The parts to complete an upload with are not in the order of their numbers.
    #[error("part {number} is not in order: part numbers must ascend")]
    InvalidPartOrder {
        /// The first number that is not above the one before it.
        number: u16,
    },
    /// A part that is not the last is too small.
    #[error("part {number} has {bytes} bytes; all but the last must have at least {limit}")]
    PartTooSmall {
        /// The part's number.
        number: u16,
        /// Its bytes.
        bytes: u64,
        /// The least bytes.
        limit: u64,
    },
    /// An object has another size than was announced for it.
    #[error("the object's parts have {bytes} bytes together, {announced} were announced")]
    SizeMismatch {
        /// `CompleteRequest::size`.
        announced: u64,
        /// Bytes of the parts.
        bytes: u64,
    },
    /// A body's checksum is another than the client said.
    #[error("the {algorithm} that was sent is not that of the object: it is {is}")]
    ChecksumMismatch {
        /// The algorithm's name.
        algorithm: &'static str,
        /// What it is, as the protocol writes it.
        is: String,
    },
    /// The name belongs to another account.
    #[error("the bucket name {bucket} is taken by another account; choose another name")]
    BucketAlreadyExists {
        /// The name asked for.
        bucket: String,
    },
    /// The account has this bucket already.
    #[error("you own the bucket {bucket} already")]
    BucketAlreadyOwnedByYou {
        /// The name asked for.
        bucket: String,
    },
    /// Only an empty bucket can be deleted.
    #[error("the bucket {bucket} is not empty; delete its objects first")]
    BucketNotEmpty {
        /// The bucket's name.
        bucket: String,
    },
    /// The name breaks S3's rules.
    #[error("{bucket:?} is not a bucket name: {rule}")]
    InvalidBucketName {
        /// The name asked for.
        bucket: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The account has as many buckets as it may have.
    #[error("the account has {limit} buckets, which is the limit; delete one first")]
    TooManyBuckets {
        /// Most buckets of an account.
        limit: u64,
    },
    /// The key has too many bytes.
    #[error("the key has {bytes} bytes, the limit is {limit}")]
    KeyTooLong {
        /// Bytes of the key in UTF-8.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The key is empty.
    #[error("a key has at least one byte")]
    InvalidKey,
    /// Metadata past its limit.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    MetadataTooLarge {
        /// `the user metadata` or `the metadata`.
        what: &'static str,
        /// Its size in bytes: names and values.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The body is larger than an object may be.
    #[error("the body has more than {limit} bytes, which is the limit")]
    EntityTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The body ended early, or went on past the length that was announced.
    #[error("the body has {received} bytes, {announced} were announced")]
    IncompleteBody {
        /// `PutRequest::content_length`.
        announced: u64,
        /// Bytes that were written.
        received: u64,
    },
    /// The condition that came with the request does not hold.
    #[error("the precondition {condition} does not hold")]
    PreconditionFailed {
        /// The header's name: `If-Match` or `If-None-Match`.
        condition: &'static str,
    },
    /// The bucket belongs to another account.
    #[error("access denied")]
    AccessDenied,
    /// Too much is waiting for the disks already. Try again shortly.
    #[error("too many requests at once: {0}")]
    SlowDown(String),
    /// No room for new data. Deletes still work.
    #[error("the storage is full; delete something or add capacity")]
    InsufficientStorage,
    /// A disk failed; nothing can be written until it is replaced or reopened.
    #[error("a disk failed: {0}")]
    DiskFailed(String),
    /// Too many disks of the set are missing or have failed, for this object or for writes.
    #[error("too many disks are missing: {0}")]
    DisksMissing(String),
    /// Stored bytes are not what was written, or were written by a newer release.
    #[error("{what} is damaged ({place}); `cullet rescue` reads what is still readable")]
    Corrupt {
        /// What should have been read.
        what: String,
        /// Where it is and what did not hold.
        place: String,
    },
    /// The disk could not read stored bytes; other objects are not affected.
    #[error("{what} cannot be read: {reason}")]
    Unreadable {
        /// What should have been read.
        what: String,
        /// What the disk said.
        reason: String,
    },
    /// The store was shut down.
    #[error("the store is shutting down")]
    Closed,
    /// A bug, or a state that this release does not expect.
    #[error("internal error: {0}")]
    Internal(String),
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl From<VolumeError> for Error {
    fn from(error: VolumeError) -> Error {
        match error {
            VolumeError::OutOfSpace => Error::InsufficientStorage,
            // Another try reads what is there now. Locks see to it that this store's own volume
            // never says so.
            VolumeError::Busy | VolumeError::Conflict => Error::SlowDown(error.to_string()),
            VolumeError::Failed { reason } => Error::DiskFailed(reason),
            VolumeError::NotHere { missing } => Error::DisksMissing(missing),
            VolumeError::Corrupt { what, why } => Error::Corrupt { what, place: why },
            VolumeError::Unreadable { what, reason } => Error::Unreadable { what, reason },
            VolumeError::Newer { what } => Error::Corrupt {
                what,
                place: "it was written by a newer cullet".to_owned(),
            },
            VolumeError::Closed => Error::Closed,
            error @ (VolumeError::Set { .. }
            | VolumeError::Broken
            | VolumeError::TooLarge { .. }
            | VolumeError::NotOneSlice
            | VolumeError::Engine(_)) => Error::Internal(error.to_string()),
        }
    }
}
