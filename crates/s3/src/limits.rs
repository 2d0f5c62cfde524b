//! Every size and duration of this crate, in one place, with their relations asserted at
//! compile time.

use std::time::Duration;

/// Largest XML body that is read into memory, as S3 has it for a multi-delete.
pub const XML_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The same for the completion of an upload: room for every part with its longest checksum.
pub const COMPLETION_BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Most `<` in a document. A multi-delete of all that S3 allows has twelve for each key.
pub const DOCUMENT_MARKUP_MAX: usize = 13 * PAGE_ENTRIES_MAX;

/// Most `<` in the completion of an upload: a part has ten with its checksum, and may have a
/// comment or two.
pub const COMPLETION_MARKUP_MAX: usize = 13 * objects::limits::PARTS_MAX;

/// Memory for one chunk of the table of an object's parts, read and decoded: 1,024 of them.
pub const PART_TABLE_CHUNK_BYTES: usize = 256 * 1024;

/// Memory for completing an upload, beside its document: pages of its parts.
pub const COMPLETION_BYTES: usize = objects::limits::SCAN_BYTES_MAX + 128 * 1024;

/// The same for each part: its entry in the table, once more in the stripe that is written of it,
/// and its digest among all, which grow by doubling.
pub const COMPLETION_PART_BYTES: usize = 2 * (32 + 64) + 2 * 64;

/// Memory for one entry of an answer to a multi-delete, beside its names.
pub const ANSWER_ENTRY_BYTES: usize = 512;

/// Most fields of a form.
pub const FORM_FIELDS_MAX: usize = 100;

/// Most bytes of a form before its file begins: the 20 KB of fields that S3 takes, with their
/// names and headers.
pub const FORM_HEAD_BYTES_MAX: usize = 28 * 1024;

/// Most bytes of that which are handed on at a time.
pub const FORM_LINE_BYTES_MAX: usize = 1024;

/// How often a form may say `${filename}`, which grows to the file's name.
pub const FORM_VARIABLES_MAX: usize = 2;

/// How long a form may take until its file begins.
pub const FORM_HEAD_WAIT: Duration = Duration::from_secs(10);

/// Memory for parsing a form before anybody knows whether it is signed: the parser's, the fields,
/// the policy decoded, and the key with the file's name in it.
pub const FORM_BYTES: usize = (3 + FORM_VARIABLES_MAX) * FORM_HEAD_BYTES_MAX;

/// What is held of a form while its file is taken: what the fields said.
pub const FORM_FIELDS_BYTES: usize = (1 + FORM_VARIABLES_MAX) * FORM_HEAD_BYTES_MAX;

/// Largest chunk of a signed `aws-chunked` body: it must be held in full before its signature
/// can be checked. The SDKs send 64 KiB to 1 MiB.
pub const SIGNED_CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// Largest body of one PUT, as in S3.
pub const PUT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// Body pieces smaller than this are gathered, so that a client that sends single bytes costs
/// no more memory than one that sends buffers.
pub const PIECE_BYTES_MIN: usize = 32 * 1024;

/// What small pieces are gathered into.
pub const GATHER_BYTES: usize = 64 * 1024;

/// Bodies up to this size are hashed where they are; larger ones beside the write.
pub const INLINE_DIGEST_BYTES_MAX: u64 = 128 * 1024;

/// Bytes that are hashed in one step beside the write. At most two such steps are held.
pub const DIGEST_BATCH_BYTES: usize = 256 * 1024;

/// Largest piece that the layer below fills before it sends it to the disks.
pub const STRIPE_BYTES_MAX: usize = 1024 * 1024;

/// Memory that one large PUT holds: gathered pieces, two digest batches, and a stripe that is
/// being filled. Stripes on their way to the disks are counted by the layer below.
pub const PUT_WINDOW_BYTES: usize = GATHER_BYTES + 2 * DIGEST_BATCH_BYTES + STRIPE_BYTES_MAX;

/// Memory that one large GET holds: the reader's read-ahead and what waits for the socket.
pub const GET_WINDOW_BYTES: usize = 3 * 1024 * 1024;

/// Requests that need at most this much memory draw on a budget of their own, so that large
/// transfers cannot starve small ones.
pub const SMALL_REQUEST_BYTES_MAX: usize = 192 * 1024;

/// Memory that one entry of a listing may need besides its name, from the record to the XML.
pub const LIST_ENTRY_BYTES: usize = 1_024;

/// How often a name of a listing is in memory at most: as it was read, encoded for the answer
/// at three bytes for one, and once more in the document.
pub const LIST_NAME_COPIES: usize = 7;

/// Memory that one bucket may need in a listing of buckets, its name included.
pub const LIST_BUCKET_BYTES: usize = 1_024;

/// Least bytes a client must send in [`BODY_PROGRESS_WINDOW`], or its request ends.
pub const BODY_PROGRESS_BYTES_MIN: u64 = 16 * 1024;

/// The same for documents: they are small, and what they hold others wait for.
pub const DOCUMENT_PROGRESS_BYTES_MIN: u64 = 32 * 1024;

/// See [`BODY_PROGRESS_BYTES_MIN`].
pub const BODY_PROGRESS_WINDOW: Duration = Duration::from_secs(30);

/// How long a request waits for memory before it is answered with `SlowDown`.
pub const BUDGET_WAIT: Duration = Duration::from_secs(5);

/// Most requests that wait for one budget at a time; one more is refused at once.
pub const BUDGET_WAITERS_MAX: usize = 1_024;

/// Most entries on a page of a listing, and most keys of one multi-delete.
pub const PAGE_ENTRIES_MAX: usize = 1_000;

/// Most bytes of a request to administer accounts and keys.
pub const ADMIN_BODY_BYTES_MAX: usize = 16 * 1024;

/// Most bytes of the answer to one.
pub const ADMIN_ANSWER_BYTES_MAX: usize = 512 * 1024;

/// Memory for one: its body, and its answer as values, as text and on its way.
pub const ADMIN_BYTES: usize = ADMIN_BODY_BYTES_MAX + 3 * ADMIN_ANSWER_BYTES_MAX;

/// Most clock difference between client and server, in seconds.
pub const CLOCK_SKEW_SECONDS_MAX: u32 = 15 * 60;

/// Longest life of a presigned URL, in seconds.
pub const PRESIGNED_SECONDS_MAX: u32 = 7 * 24 * 60 * 60;

/// Most access keys whose signing key is kept for the day: half a kilobyte each.
pub const SIGNING_KEYS_MAX: usize = 1_024;

/// Longest domain that buckets can be under; with a bucket's name of 63 bytes and a dot before
/// it, it has to fit into what DNS takes.
pub const DOMAIN_BYTES_MAX: usize = 253 - 64;

const _: () = assert!(PIECE_BYTES_MIN <= GATHER_BYTES);
const _: () = assert!(COMPLETION_BODY_BYTES_MAX / objects::limits::PARTS_MAX >= 300);
const _: () = assert!(XML_BODY_BYTES_MAX <= COMPLETION_BODY_BYTES_MAX);
const _: () = assert!(INLINE_DIGEST_BYTES_MAX as usize + GATHER_BYTES <= SMALL_REQUEST_BYTES_MAX);
const _: () = assert!(SMALL_REQUEST_BYTES_MAX < PUT_WINDOW_BYTES);
const _: () = assert!(SMALL_REQUEST_BYTES_MAX < GET_WINDOW_BYTES);
