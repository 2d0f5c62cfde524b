//! `shardstore`: one disk.
//!
//! An append-only, log-structured key-value store after Bornholt et al., *Using Lightweight
//! Formal Methods to Validate a Key-Value Storage Node in Amazon S3* (SOSP 2021). The log is
//! the data: a put appends one frame that carries key, value and payload; an LSM index maps
//! keys to values and to the places of payloads; reclamation moves what is live and reuses
//! the rest. `docs/format.md` describes every byte.
//!
//! What must always hold:
//! - a [`Dependency`] is persistent only after the flush that covers its frame returned `Ok`;
//! - no page that holds durable data is written again before its extent was reset;
//! - an extent is reset only by a checkpoint that no longer refers to it, and reused only
//!   after that checkpoint is durable;
//! - bytes from the disk are never trusted: they become values or [`Error`]s, never panics.
//!
//! This crate knows one disk. It must not know buckets, HTTP, async runtimes or other disks.

mod audit;
mod batch;
mod cache;
mod checkpoint;
mod checksum;
mod codec;
mod compaction;
mod completion;
mod disk;
mod engine;
mod error;
mod extents;
pub mod file_disk;
mod frame;
pub mod limits;
mod medium;
mod memtable;
mod merge;
pub mod mutants;
mod pump;
mod reclaim;
mod record;
mod recovery;
pub mod rescue;
mod snapshot;
mod store;
mod superblock;
pub mod sync;
mod table;
mod version;
mod view;
mod walk;
mod watch;

pub use audit::{Audit, LiveCount};
pub use batch::{Batch, Key, Op};
pub use completion::{Completer, Completion, Dependency};
pub use disk::{Disk, DiskError, Read};
pub use engine::Engine;
pub use error::{Error, Place, Result};
pub use limits::Geometry;
pub use medium::room_for;
pub use snapshot::{Found, ScanPage, Snapshot, Step};
pub use store::{Options, Space, Stats, Store};
pub use superblock::Identity;
pub use view::View;
pub use watch::{OperationId, UnderWay};
