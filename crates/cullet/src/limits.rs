//! Every size and duration of this crate, in one place, with their relations asserted at
//! compile time.

use std::time::Duration;

/// Least `--memory` that the server works with.
pub const MEMORY_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Least `--disk-capacity`.
pub const DISK_CAPACITY_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Memory that one connection may hold besides bodies: its buffers, a request's head, and the
/// state of one request.
pub const CONNECTION_BYTES: usize = 48 * 1024;

/// Most bytes that a connection reads ahead or queues for its socket. Bounds a request's head.
pub const CONNECTION_BUFFER_BYTES: usize = 32 * 1024;

/// Most headers of a request.
pub const HEADERS_MAX: usize = 128;

/// Connections that wait for a free place; more are refused at once.
pub const CONNECTIONS_WAITING_MAX: usize = 256;

/// How long a connection waits for a free place.
pub const CONNECTION_WAIT: Duration = Duration::from_secs(5);

/// How long a connection may be silent between requests, and a request's head may take.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Least bytes of its answer that a client must take in [`WRITE_WINDOW`] of waiting for it.
pub const WRITE_BYTES_MIN: u64 = 16 * 1024;

/// See [`WRITE_BYTES_MIN`].
pub const WRITE_WINDOW: Duration = Duration::from_secs(30);

/// When a connection is closed while its client still sends: how long to wait for its first
/// byte, for the next ones, and in all. Closing at once would take the answer away from it.
pub const LINGER_FIRST: Duration = Duration::from_millis(50);
/// See [`LINGER_FIRST`].
pub const LINGER_NEXT: Duration = Duration::from_secs(1);
/// See [`LINGER_FIRST`].
pub const LINGER_TOTAL: Duration = Duration::from_secs(5);

/// How long requests may go on after the first signal.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Lines that wait for the access log's writer; more are dropped and counted.
pub const ACCESS_LOG_LINES_MAX: usize = 4_096;

/// Threads for hashing large bodies, at most.
pub const BLOCKING_THREADS_MAX: usize = 16;

/// Threads for reads that must wait for a disk.
pub const IO_THREADS: usize = 4;

/// Files that the process keeps open besides connections.
pub const FILES_RESERVED: u64 = 64;

const _: () = assert!(CONNECTION_BUFFER_BYTES >= 8 * 1024);
const _: () = assert!(CONNECTION_BUFFER_BYTES < CONNECTION_BYTES);
const _: () = assert!(LINGER_FIRST.as_millis() < LINGER_NEXT.as_millis());
const _: () = assert!(LINGER_NEXT.as_millis() < LINGER_TOTAL.as_millis());
