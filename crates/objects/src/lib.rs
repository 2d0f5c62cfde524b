//! `objects`: what buckets, objects, versions and listings mean, over a volume.
//!
//! What must always hold:
//! - a change of a key is one batch: the new version, the end of the old one, the counters;
//! - the locks that a change holds outlive whoever asked for it, until the change is decided;
//! - a body is durable before the record that refers to it, and deleted only after the batch
//!   that ends its record is durable;
//! - commit sequences grow across restarts and never come from a clock;
//! - bytes from the disks become values or [`Error::Corrupt`], never panics;
//! - a part of an upload is durable before it is acknowledged, and belongs to its upload or to
//!   the object that it became until a durable batch says otherwise.
//!
//! Records, keys and their codecs are described in `record` and `keys`; [`rescue`] reads them
//! without a running store. This crate must not know S3's XML or signatures, and names no
//! async runtime: its futures run on any.

mod account;
mod account_buckets;
mod accounts;
mod body_writer;
mod bucket;
mod census;
mod change;
mod checksum;
mod codec;
mod commit;
mod complete;
mod delete;
mod error;
mod garbage;
mod get;
mod identity;
mod keys;
pub mod limits;
mod list;
mod list_uploads;
mod locks;
mod meta_store;
#[cfg(test)]
mod model;
mod object;
mod objects;
mod parts;
mod put;
#[cfg(test)]
mod random;
mod record;
pub mod rescue;
mod rewrite;
mod scan;
mod sweep;
mod upload;
mod upload_part;
mod wipe;

pub use account::{AccountId, BadAccountId};
pub use accounts::{
    AccountInfo, Accounts, AccountsError, AccountsStats, Denial, Grant, KeyInfo, NewKey, Secret,
    Unseal,
};
pub use bucket::{BucketInfo, BucketPage, BucketSummary, check_bucket_name};
pub use checksum::{Checksum, ChecksumAlgorithm, ChecksumKind};
pub use complete::{ChosenPart, CompleteRequest, PartSums};
pub use delete::{DeleteCondition, Deleted};
pub use error::{Error, Result};
pub use get::{ObjectHandle, ObjectReader, PartInfo};
pub use list::{
    ListEntry, ListPage, ListRequest, ListVersionsPage, ListVersionsRequest, ObjectSummary,
    VersionEntry, VersionSummary,
};
pub use list_uploads::{ListUploadsPage, ListUploadsRequest, UploadEntry};
pub use object::{ETag, Metadata, ObjectInfo, Timestamp};
pub use objects::{Objects, ObjectsOptions, ObjectsStats};
pub use put::{PutCondition, PutOutcome, PutRequest, PutWriter};
pub use rewrite::RewriteRequest;
pub use upload::{CreateUpload, UploadInfo, UploadRef};
pub use upload_part::{PartOutcome, PartPage, PartRequest, PartSummary, PartWriter};
