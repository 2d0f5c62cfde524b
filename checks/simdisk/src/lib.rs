//! `simdisk`: a disk in memory that crashes, tears, lies and rots, the same way for the same
//! seed.
//!
//! It promises exactly what [`shardstore::Disk`] asks for, and nothing more:
//! - a write is seen at once by later reads, and is durable only after a `flush` that began
//!   after it returned; `flush` is the only barrier, and under the model checker it takes its
//!   time: what is written meanwhile stays unflushed;
//! - a crash chooses for each sector on its own how many of its unflushed writes are kept,
//!   so any subset in any order may survive; [`Crash::Hostile`] also tears inside a sector
//!   and scrambles pages that were being written;
//! - bytes never written read as zeros.
//!
//! ```text
//!   write ──► cache (what reads see) ──► pending (unflushed writes, in order)
//!                                           │ flush          │ crash
//!                                           ▼                ▼ any version per sector
//!                                        medium (durable)   a new medium
//! ```
//!
//! Cache and medium are kept apart because they differ in the interesting cases: a lost
//! write, rot under a warm cache, a failed flush. [`shardstore::Read::PastCache`] looks at
//! the medium.
//!
//! Faults are values ([`Fault`]), scheduled by counting I/Os, so that they shrink with the
//! operations around them. Each says whether the disk is *honest* about it
//! ([`Fault::is_lie`]): against a lying disk the engine promises detection, not persistence.
//!
//! Pages are shared and copied on write: a clone of a disk of a few MiB costs about a
//! microsecond, so that checks may take an image at every single I/O.

mod crash;
mod disk;
mod fault;
mod pages;
mod rng;

pub use crash::{Crash, Frozen, PendingSector};
pub use disk::{Counters, Event, Observer, SimDisk};
pub use fault::{Fault, Fired};
pub use pages::{Image, PAGE};
pub use rng::Rng;
