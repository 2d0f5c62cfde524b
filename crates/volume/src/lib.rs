//! `volume`: a set of disks that holds blobs and metadata.
//!
//! - A **blob** is a body under a never-reused id, cut into stripes, each spread over disks by
//!   a [`Scheme`]. No list of its shards is kept anywhere: keys on the disks say it all.
//! - **Metadata** is one ordered key space, cut into slices; a batch within a slice is atomic.
//!   It is kept whole on several disks, its replicas.
//! - A [`VolumeSnapshot`] sees both as they were at one moment. What reads a body holds none:
//!   it pins the blob ([`BlobPin`]), whose deletion then waits.
//!
//! What must always hold:
//! - what refers to a blob is submitted after the blob's stripes ([`FinishedBlob`]);
//! - a blob to which nothing came to refer is deleted: by its dropped writer, or, after a
//!   crash, by whoever walks the blobs of earlier epochs;
//! - what is acknowledged on a set of several disks survives the loss of one more disk, and is
//!   on all disks that the newest generation of its members says were live;
//! - bytes from the disks become values or [`VolumeError`]s, never panics.
//!
//! This crate must not know object names, HTTP or async runtimes.

mod blob;
mod block_on;
mod census;
mod change;
mod codec;
mod copy;
mod deletion;
mod error;
mod gone;
mod heal;
mod join;
mod keep;
mod latency;
pub mod limits;
mod membership;
mod meta;
mod mirror;
mod pins;
mod placement;
mod plan;
mod reader;
mod replicas;
pub mod rescue;
mod scheme;
mod scrub;
mod shard;
mod slices;
mod snapshot;
mod start;
mod stripe;
mod table;
mod timer;
mod turns;
mod volume;
mod watch;
mod writer;

pub use blob::{BlobId, BlobRef};
pub use block_on::block_on;
pub use census::Census;
pub use change::{Added, Change, Movement};
pub use codec::PARITY_MAX;
pub use deletion::Deletion;
pub use error::{Result, VolumeError};
pub use heal::{HealProgress, Ledger};
pub use keep::Event;
pub use membership::{Member, MemberState};
pub use meta::{Expectation, MetaBatch, MetaEntry, MetaPage};
pub use pins::BlobPin;
pub use reader::{BlobReader, ProbeBudget};
pub use scheme::Scheme;
pub use scrub::ScrubProgress;
pub use shard::{RawKey, ShardValue, Trailer};
/// The engine of one disk, for whoever assembles a volume.
pub use shardstore;
pub use shardstore::{Dependency, Identity, Key, Op, Space, Stats as EngineStats};
pub use slices::{SliceId, SliceMap, SliceRange};
pub use snapshot::{BlobFrame, VolumeSnapshot};
pub use start::is_unmade;
pub use stripe::Cut;
pub use table::{SetDisk, uuid};
pub use volume::{DiskStats, Volume, VolumeOptions, VolumeStats};
pub use writer::{BlobWriter, FinishedBlob, Receipt};
