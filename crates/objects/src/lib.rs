//! `objects`: what buckets, objects, versions and listings mean, over a volume.
//!
//! What must always hold:
//! - a change of a key is one batch: the new version, the end of the old one, the counters;
//! - the locks that a change holds outlive whoever asked for it, until the change is decided;
//! - a body is durable before the record that refers to it, and deleted only after the batch
//!   that ends its record is durable;
//! - commit sequences grow across restarts and never come from a clock;
//! - bytes from the disks become values or [`Error::Corrupt`], never panics.
//!
//! Records, keys and their codecs are described in `record` and `keys`; [`rescue`] reads them
//! without a running store. This crate must not know S3's XML or signatures, and names no
//! async runtime: its futures run on any.

mod account;
mod block_on;
mod bucket;
mod change;
mod codec;
mod commit;
mod delete;
mod error;
mod get;
mod keys;
pub mod limits;
mod list;
mod locks;
mod meta_store;
#[cfg(test)]
mod model;
mod object;
mod objects;
mod put;
#[cfg(test)]
mod random;
mod record;
pub mod rescue;
mod scan;
mod sweep;

pub use account::{AccountId, BadAccountId};
pub use bucket::{BucketInfo, BucketPage, BucketSummary, check_bucket_name};
pub use delete::{DeleteCondition, Deleted};
pub use error::{Error, Result};
pub use get::{ObjectHandle, ObjectReader};
pub use list::{
    ListEntry, ListPage, ListRequest, ListVersionsPage, ListVersionsRequest, ObjectSummary,
    VersionEntry, VersionSummary,
};
pub use object::{ETag, Metadata, ObjectInfo, Timestamp};
pub use objects::{Objects, ObjectsOptions, ObjectsStats};
pub use put::{PutCondition, PutOutcome, PutRequest, PutWriter};
