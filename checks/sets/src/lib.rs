//! Sets of disks, and what is checked of them.
//!
//! [`bench`](mod@bench) puts a set on simulated disks, with the thread that looks after it. The
//! tests beside it tell a story each. [`case`] is check C15: a random history of one set, and
//! whether everything holds that a set promises.
#![allow(
    clippy::unwrap_used,
    reason = "a check fails by panicking, and says which seed it was"
)]

pub mod audit;
pub mod bench;
pub mod case;
pub mod model;

pub use bench::{
    CAPACITY, Disks, GEOMETRY, SHARD, SIZES, Set, bytes, engine, formatted, formatted_with, kill,
    meta_key,
};
