//! Every size and duration of this crate, in one place, with their relations asserted at
//! compile time.

use std::time::Duration;

/// Least `--memory` that the server works with.
pub const MEMORY_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// What each disk of a set but the first adds to that.
pub const DISK_MEMORY_BYTES_MIN: u64 = 20 * 1024 * 1024;

/// Least `--disk-capacity`.
pub const DISK_CAPACITY_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Most bytes that a connection reads ahead or queues for its socket. Bounds a request's head:
/// the longest that S3 has are listings whose prefix, marker and token are all long keys.
pub const CONNECTION_BUFFER_BYTES: usize = 16 * 1024;

/// What hyper keeps per connection for the heads of answers.
const ANSWER_HEAD_BYTES: usize = 8 * 1024;

/// Tasks, timers, sockets and what is known about a request.
const CONNECTION_STATE_BYTES: usize = 8 * 1024;

/// A request whose head costs no more than this needs no reservation of its own.
pub const HEAD_COST_INCLUDED: usize = 16 * 1024;

/// Memory that one connection may hold besides bodies: the buffer that a head is in and stays
/// in, the next one with a piece of the body, its answer's head, and the state of a request.
pub const CONNECTION_BYTES: usize = 64 * 1024;

/// Plaintext that a TLS session queues before it is encrypted and written.
pub const TLS_BUFFER_BYTES: usize = 16 * 1024;

/// One TLS record as it comes, and one as it goes; a handshake's messages fit into as much.
const TLS_RECORD_BYTES: usize = 18 * 1024;

/// Keys, the state of a handshake, and what the library keeps for a session.
const TLS_STATE_BYTES: usize = 12 * 1024;

/// Memory that TLS adds to a connection: what is queued, then encrypted, and what came and was
/// decrypted. Measured: 4 KiB on an idle connection, 75 KiB on one whose client takes nothing.
pub const TLS_BYTES: usize = 96 * 1024;

/// How long a TLS handshake may take, from the connection's begin.
pub const HANDSHAKE_TIMEOUT: Duration = HEAD_TIMEOUT;

/// TLS sessions that are remembered, so that clients who come back need no whole handshake.
pub const TLS_SESSIONS_MAX: usize = 256;

/// How often the files of the certificate and its key are read to see whether they changed.
pub const TLS_POLL: Duration = Duration::from_secs(3);

/// Largest file of certificates, and of a key.
pub const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Bytes of requests' bodies that an HTTP/2 client may send before they are read, for each
/// stream and for all streams of its connection.
pub const HTTP2_WINDOW_BYTES: u32 = 128 * 1024;

/// Most requests that one HTTP/2 connection may have at a time.
pub const HTTP2_STREAMS_MAX: u32 = 32;

/// Largest head of an HTTP/2 request, unpacked, counted as the protocol does.
pub const HTTP2_HEAD_BYTES_MAX: u32 = CONNECTION_BUFFER_BYTES as u32;

/// Largest HTTP/2 frame; it is read as a whole.
pub const HTTP2_FRAME_BYTES: u32 = 16 * 1024;

/// Bytes of an answer that wait for its client to want more of it, besides the piece below.
pub const HTTP2_SEND_BYTES: usize = 16 * 1024;

/// An answer's body goes to HTTP/2 in copies of at most this size: a slice that waits there
/// would keep alive the large piece that it is of.
pub const HTTP2_PIECE_BYTES: usize = 16 * 1024;

/// Streams that a client may reset before they were looked at, and that the server resets for a
/// client's errors, before the connection ends.
pub const HTTP2_RESETS_MAX: usize = 64;

/// Memory that HTTP/2 adds to a connection: bodies in the window, a frame in each direction, the
/// tables that pack heads.
pub const HTTP2_BYTES: usize = 192 * 1024;

/// Memory of one request over HTTP/2: its head, and its answer's pieces that wait. Measured:
/// 54 KiB with an answer that nobody takes; 67 KiB with a head of 90 headers, whose excess over
/// [`HEAD_COST_INCLUDED`] is reserved besides.
pub const HTTP2_STREAM_BYTES: usize = 64 * 1024;

/// How often an HTTP/2 client is asked for a sign of life, and how long it has to give one.
pub const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long an HTTP/2 connection without requests stays after it was told to end, if its client
/// does not answer to that: time for the last pieces of answers to leave.
pub const HTTP2_GOODBYE: Duration = Duration::from_secs(4);

/// How many times a request's path and query are held: as they came, for the log, decoded, and
/// as the names that the operation works with.
pub const PATH_COPIES: usize = 5;

/// How many times a header's text is held.
pub const HEADER_COPIES: usize = 3;

/// What a header costs besides its text.
pub const HEADER_STATE_BYTES: usize = 192;

/// Most headers of a request; more than the 2 KiB of metadata that S3 allows can make, so that
/// it is S3's own error that a client with too much of it gets.
pub const HEADERS_MAX: usize = 700;

/// Connections that wait for a free place; more are refused at once.
pub const CONNECTIONS_WAITING_MAX: usize = 256;

/// How long a connection waits for a free place.
pub const CONNECTION_WAIT: Duration = Duration::from_secs(5);

/// How long a connection may be silent between requests.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a request's head may take from its first byte.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection without a whole head is spared when others wait for its place.
pub const HEAD_GRACE: Duration = Duration::from_secs(1);

/// How often those that wait for a place look for one that can be made.
pub const MAKE_ROOM_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are refused and not closed yet; more are closed without an answer.
pub const REFUSED_MAX: usize = 64;

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

/// Bytes of lines that wait for the access log's writer; what is more is dropped and counted.
pub const ACCESS_LOG_QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// What a line in that queue costs besides its text.
pub const ACCESS_LOG_LINE_OVERHEAD: usize = 64;

/// Longest path in the access log: a bucket, and a key with every byte percent-encoded.
pub const ACCESS_LOG_PATH_BYTES_MAX: usize = 64 + 3 * 1024 + 8;

/// How long the end of the process waits for the access log's writer.
pub const ACCESS_LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest name of a region; every bucket's record keeps it.
pub const REGION_BYTES_MAX: usize = 64;

/// Threads for hashing large bodies, at most.
pub const BLOCKING_THREADS_MAX: usize = 16;

/// Threads for reads that must wait for a disk.
pub const IO_THREADS: usize = 4;

/// Files that the process keeps open besides connections that are served: its own, and those
/// of connections that wait or are refused.
pub const FILES_RESERVED: u64 = 64 + CONNECTIONS_WAITING_MAX as u64 + REFUSED_MAX as u64;

/// Most accounts or access keys in one answer to a listing of them.
pub const ADMIN_PAGE_ENTRIES: usize = 500;

/// What one of them takes in the answer at most, with its names escaped.
const ADMIN_ENTRY_BYTES: usize = 1_024;

/// Longest answer that `cullet account` and `cullet key` read.
pub const ADMIN_ANSWER_BYTES_MAX: usize = s3::limits::ADMIN_ANSWER_BYTES_MAX + 16 * 1024;

/// How long they wait for a connection.
pub const ADMIN_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long they wait for the next bytes of an answer.
pub const ADMIN_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

const _: () = assert!(ADMIN_PAGE_ENTRIES * ADMIN_ENTRY_BYTES <= s3::limits::ADMIN_ANSWER_BYTES_MAX);
const _: () = assert!(CONNECTION_BUFFER_BYTES >= 8 * 1024);
const _: () = assert!(
    2 * CONNECTION_BUFFER_BYTES + ANSWER_HEAD_BYTES + CONNECTION_STATE_BYTES + HEAD_COST_INCLUDED
        <= CONNECTION_BYTES
);
const _: () = assert!(2 * TLS_BUFFER_BYTES + 2 * TLS_RECORD_BYTES + TLS_STATE_BYTES <= TLS_BYTES);
const _: () = assert!(HTTP2_WINDOW_BYTES as usize + 3 * HTTP2_FRAME_BYTES as usize <= HTTP2_BYTES);
const _: () = assert!(
    HEAD_COST_INCLUDED + HTTP2_SEND_BYTES + HTTP2_PIECE_BYTES + ANSWER_HEAD_BYTES
        <= HTTP2_STREAM_BYTES
);
// One frame of the largest size must fit into the smallest window that the protocol has.
const _: () = assert!(HTTP2_FRAME_BYTES < 65_535 && HTTP2_WINDOW_BYTES >= 65_535);
const _: () = assert!(HTTP2_GOODBYE.as_millis() < CONNECTION_WAIT.as_millis());
const _: () = assert!(HTTP2_PIECE_BYTES as u64 >= WRITE_BYTES_MIN);
// The smallest server has 6 MiB for connections.
const _: () =
    assert!(CONNECTION_BYTES + TLS_BYTES + HTTP2_BYTES + HTTP2_STREAM_BYTES < 1024 * 1024);
const _: () = assert!(HEAD_GRACE.as_millis() < HEAD_TIMEOUT.as_millis());
const _: () = assert!(HEAD_GRACE.as_millis() < CONNECTION_WAIT.as_millis());
const _: () = assert!(ACCESS_LOG_PATH_BYTES_MAX * 8 < ACCESS_LOG_QUEUE_BYTES_MAX);
const _: () = assert!(LINGER_FIRST.as_millis() < LINGER_NEXT.as_millis());
const _: () = assert!(LINGER_NEXT.as_millis() < LINGER_TOTAL.as_millis());
