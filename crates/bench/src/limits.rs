//! Every size and duration of this crate, in one place, with their relations asserted at
//! compile time.

use std::time::Duration;

/// Most requests under way at once.
pub const CONCURRENCY_MAX: usize = 4_096;

/// Most threads that send requests.
pub const THREADS_MAX: usize = 64;

/// Most distinct keys. Each costs a signature of 32 bytes per kind of request.
pub const OBJECTS_MAX: u64 = 1_000_000;

/// Largest body: what S3 takes in one PUT.
pub const BODY_BYTES_MAX: u64 = 5 << 30;

/// Bytes that are made up for bodies; larger ones repeat them.
pub const BODY_BLOCK_BYTES: u64 = 4 << 20;

/// Bytes at the beginning of a body that name its object.
pub const STAMP_BYTES: usize = 16;

/// Highest rate that can be asked for, in requests per second.
pub const RATE_MAX: f64 = 10_000_000.0;

/// Longest measured part, and longest warm-up.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

/// Longest and shortest wait for an answer that can be asked for.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// See [`TIMEOUT_MAX`].
pub const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// What a connection reads at once; bounds the head of an answer and a line between chunks.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Headers of an answer.
pub const HEADERS_MAX: usize = 64;

/// What is kept of an answer that says no.
pub const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// What a page of a listing may take: 1,000 keys of 1,024 bytes, escaped, with all around them.
pub const PAGE_BYTES_MAX: usize = 16 << 20;

/// Keys of a page of a listing.
pub const PAGE_KEYS: usize = 1_000;

/// Kinds of errors that are counted apart; further ones are counted as `other`.
pub const ERROR_KINDS_MAX: usize = 32;

/// Latencies below are kept as this, in nanoseconds.
pub const LATENCY_NS_MIN: u64 = 1_000;

/// Latencies above are kept as this, in nanoseconds.
pub const LATENCY_NS_MAX: u64 = 2 * TIMEOUT_MAX.as_secs() * 1_000_000_000;

/// Digits to which latencies are kept: within 0.1 %.
pub const LATENCY_DIGITS: u8 = 3;

/// Requests of an open loop that were not sent before the end and whose wait is counted one by
/// one; of more, only their number is told.
pub const UNSENT_RECORDED_MAX: u64 = 20_000_000;

/// How long a connection that could not be opened keeps its slot from trying again.
pub const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// How often preparing and cleaning up try a request that the server could not take now.
pub const ATTEMPTS_MAX: u32 = 6;

/// The first pause between such attempts; each next one is twice as long.
pub const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests that are under way are waited for after Ctrl-C.
pub const INTERRUPTED_GRACE: Duration = Duration::from_secs(2);

/// How often progress is told, and the end looked for.
pub const TICK: Duration = Duration::from_millis(100);

/// A client thread that is busy for more than this part of the time is the bottleneck.
pub const BUSY_PART_MAX: f64 = 0.85;

/// Clocks of client and server that differ by more make signatures invalid.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(15 * 60);

const _: () = assert!(
    DURATION_MAX.as_secs() < 7 * 24 * 3600,
    "signatures outlive every run"
);
const _: () = assert!(BODY_BLOCK_BYTES > STAMP_BYTES as u64);
const _: () = assert!(REFUSAL_BYTES_MAX <= PAGE_BYTES_MAX);
const _: () = assert!(THREADS_MAX <= CONCURRENCY_MAX);
