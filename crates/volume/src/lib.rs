//! `volume`: a set of disks that holds blobs and metadata.
//!
//! - A **blob** is a body under a never-reused id, cut into stripes, each spread over disks by
//!   a [`Scheme`]. No list of its shards is kept anywhere: keys on the disks say it all.
//! - **Metadata** is one ordered key space, cut into slices; a batch within a slice is atomic.
//! - A [`VolumeSnapshot`] sees both as they were at one moment. What reads a body holds none:
//!   it pins the blob ([`BlobPin`]), whose deletion then waits.
//!
//! Today a set is one disk with the scheme 1+0; the interface is that of many.
//!
//! What must always hold:
//! - what refers to a blob is submitted after the blob's stripes ([`FinishedBlob`]);
//! - a blob to which nothing came to refer is deleted: by its dropped writer, or, after a
//!   crash, by whoever walks the blobs of earlier epochs;
//! - bytes from the disks become values or [`VolumeError`]s, never panics.
//!
//! This crate must not know object names, HTTP or async runtimes.

mod blob;
mod deletion;
mod error;
pub mod limits;
mod meta;
mod pins;
mod reader;
mod scheme;
mod shard;
mod slices;
mod snapshot;
mod turns;
mod volume;
mod writer;

pub use blob::{BlobId, BlobRef};
pub use deletion::Deletion;
pub use error::{Result, VolumeError};
pub use meta::{Expectation, MetaBatch, MetaEntry, MetaPage};
pub use pins::BlobPin;
pub use reader::BlobReader;
pub use scheme::Scheme;
pub use shard::{RawKey, ShardValue, Trailer};
/// The engine of one disk, for whoever assembles a volume.
pub use shardstore;
pub use shardstore::{Dependency, Identity, Key, Op, Space, Stats as EngineStats};
pub use slices::{SliceId, SliceMap, SliceRange};
pub use snapshot::{BlobFrame, VolumeSnapshot};
pub use volume::{DiskStats, Volume, VolumeOptions, VolumeStats};
pub use writer::{BlobWriter, FinishedBlob};
