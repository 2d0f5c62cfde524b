//! Every size and time of this crate.

use std::time::Duration;

/// Places that one helper has: each may hold one process, prepared or running. A process that is
/// prepared copies all mounts of its helper, of which each place has two.
pub const PLACES_MAX: usize = 1_024;

/// Bytes of one message between server, helper and process: a command line and an environment.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Strings in a command line and an environment.
pub const STRINGS_MAX: usize = 1_024;

/// How long a process may take until it is prepared.
pub const PREPARE_MAX: Duration = Duration::from_secs(10);

/// Processes and threads of one place.
pub const TASKS_MAX: u64 = 1_024;

/// Files that a process may have open.
pub const FILES_MAX: u64 = 1_024;

/// Memory of a place while nothing runs in it, in bytes.
pub const IDLE_MEMORY_BYTES: u64 = 128 * 1024 * 1024;

/// The user and the group that a program is, as it sees it itself.
pub const INSIDE_UID: u32 = 993;
/// See [`INSIDE_UID`].
pub const INSIDE_GID: u32 = 990;

/// The first user of the host that a program is; each place has its own. No distribution gives
/// these out: they are above what systemd and containers use.
pub const HOST_UID_FIRST: u32 = 2_000_000_000;

/// A core's time in one period, and the period, in microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;

/// How long removing a control group is tried: the kernel may still be busy with its processes.
pub const REMOVE_MAX: Duration = Duration::from_secs(10);

const _: () = assert!(HOST_UID_FIRST as u64 + (PLACES_MAX as u64) < u32::MAX as u64);
