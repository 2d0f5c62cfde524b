//! Every size of this crate, in one place, with their relations asserted at compile time.

use std::time::Duration;

use volume::SliceId;
use volume::limits::META_BATCH_ENTRIES_MAX;
use volume::limits::{
    DELETIONS_MAX, LABEL_BYTES_MAX, META_PAGE_BYTES, META_PAGE_ENTRIES, PINNED_BLOBS_MAX,
    SHARD_BYTES_MAX, TRAILER_BYTES_MAX, WINDOW_STRIPES,
};
use volume::shardstore::limits::BATCH_BYTES_MAX;

use crate::parts::CHUNK_ENTRIES;

/// Most bytes of an object's key, in UTF-8.
pub const OBJECT_KEY_BYTES_MAX: usize = 1_024;

/// Most bytes of a bucket's name.
pub const BUCKET_NAME_BYTES_MAX: usize = 63;

/// Fewest bytes of a bucket's name.
pub const BUCKET_NAME_BYTES_MIN: usize = 3;

/// Most bytes of a region's name.
pub const REGION_BYTES_MAX: usize = 64;

/// Bodies up to this many bytes are kept beside their record and commit in one round.
pub const INLINE_BYTES_MAX: usize = 8 * 1024;

/// Most bytes of an object's body.
pub const OBJECT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024 * 1024;

/// Most parts of an upload, and the largest part number.
pub const PARTS_MAX: usize = 10_000;

/// Least bytes of each part but the last.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;

/// Most bytes of a part.
pub const PART_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// Bytes of a table of parts that stands in the object's record; a larger one has a blob of its
/// own. Records stay small, because listings read them.
pub const PART_TABLE_BYTES_INLINE_MAX: usize = 1_024;

/// Locks that uploads share by the hash of their id.
pub const UPLOAD_LOCKS: usize = 256;

/// Bytes of keys and notes in one batch that clears an ended upload away.
pub const WIPE_BATCH_BYTES: usize = 56 * 1024;

/// Parts or uploads that one such batch looks at.
pub const WIPE_ENTRIES: usize = 256;

/// Most bytes of user metadata: names and values.
pub const METADATA_USER_BYTES_MAX: usize = 2 * 1024;

/// Most bytes of all metadata: names and values, and four bytes for each entry.
pub const METADATA_BYTES_MAX: usize = 8 * 1024;

/// What each entry of the metadata counts besides its name and value, in bytes.
pub const METADATA_ENTRY_BYTES: usize = 4;

/// Most bytes of an entity tag.
pub const ETAG_BYTES_MAX: usize = 255;

/// Most buckets of one account, unless the options say otherwise.
pub const BUCKETS_PER_ACCOUNT_MAX: u64 = 10_000;

/// Most accounts and access keys in all. They are held in memory.
pub const IDENTITIES_MAX: usize = 10_000;

/// Bytes of memory that one of them takes at most: its texts twice, as it is copied for a list,
/// and its place in the table, which may be half empty.
pub const IDENTITY_BYTES: usize =
    2 * (ACCESS_KEY_ID_BYTES_MAX + KEY_DESCRIPTION_BYTES_MAX + ACCOUNT_NAME_BYTES_MAX) + 384;

/// Most bytes of an account's name.
pub const ACCOUNT_NAME_BYTES_MAX: usize = 64;

/// Most bytes of an access key id, as at Amazon.
pub const ACCESS_KEY_ID_BYTES_MAX: usize = 128;

/// Most bytes of an access key's description, in UTF-8.
pub const KEY_DESCRIPTION_BYTES_MAX: usize = 128;

/// Most bytes of a sealed secret.
pub const SEALED_BYTES_MAX: usize = 512;

/// Buckets that one batch of the index of accounts' buckets names.
pub(crate) const INDEX_PER_BATCH: usize = 256;

/// Most entries of one page of a listing.
pub const LIST_ENTRIES_MAX: usize = 1_000;

/// Bytes of keys and common prefixes after which a page of a listing ends, whatever number of
/// entries was asked for.
pub const LIST_NAME_BYTES_MAX: usize = 256 * 1024;

/// Most bytes of keys and values that a scan holds while it fetches one chunk and while that
/// is used.
pub const SCAN_BYTES_MAX: usize =
    META_PAGE_BYTES + META_PAGE_ENTRIES * (META_KEY_BYTES_MAX + RECORD_BYTES_MAX);

/// Entries that a scan fetches at once, at most and at first.
pub const SCAN_CHUNK_MAX: usize = 256;

/// Entries that a scan fetches first after it skipped a common prefix.
pub const SCAN_CHUNK_MIN: usize = 8;

/// Locks that keys share by their hash.
pub const KEY_LOCKS: usize = 1_024;

/// Locks that buckets share by the hash of their name.
pub const BUCKET_LOCKS: usize = 256;

/// Blobs that one step of the sweep looks at.
pub const SWEEP_BLOBS: usize = 32;

/// Deletions that the sweep has under way at most.
pub const SWEEP_DELETIONS_MAX: usize = 64;

/// Notes of deleted blobs that one batch takes away, or one page reads.
pub const NOTES_PER_BATCH: usize = 512;

/// Records that one step of a census reads.
pub const CENSUS_RECORDS: usize = 64;

/// Stripes that one step of a census looks for, or those of one blob.
pub const CENSUS_STRIPES: u64 = 256;

/// Notes that are known in memory at most; the others are found again on the disks.
pub const NOTES_MAX: usize = 8 * 1024;

/// Rounds that one step of the sweep goes at most while there is more than a round takes.
pub const SWEEP_ROUNDS: usize = 16;

/// How often a reader looks for a version that is not replaced while it looks.
pub const GET_TRIES: usize = 32;

/// How many lookups may tell whether the disks that are left of a set have all of a body: enough
/// for some gigabytes, done in some milliseconds where memory holds the index.
pub const PROBE_LOOKUPS: usize = 8_192;

/// And how long that may take.
pub const PROBE_TIME: Duration = Duration::from_millis(500);

/// Most bytes that one [`PutWriter`](crate::PutWriter) keeps in memory: a body that may
/// still be inline, a stripe that is being filled, and stripes on their way to the disks.
pub const WRITER_BYTES_MAX: usize =
    INLINE_BYTES_MAX + (1 + WINDOW_STRIPES) * SHARD_BYTES_MAX * SET_DATA_SHARDS;

/// Data shards of a stripe in today's sets.
const SET_DATA_SHARDS: usize = 1;

/// Bytes of an encoded object record at most: head with a tag in its long form, the metadata
/// with each field's head, a blob reference.
pub(crate) const RECORD_BYTES_MAX: usize =
    26 + 2 + ETAG_BYTES_MAX + METADATA_BYTES_MAX + 7 * 3 + CHECKSUM_FIELD_BYTES + BODY_FIELD_BYTES;

/// Bytes of a checksum in a record at most: the longest digest has 64.
const CHECKSUM_FIELD_BYTES: usize = 3 + 2 + 64;

/// Bytes of what says where a body is, at most: a table of parts.
const BODY_FIELD_BYTES: usize = 3 + 13 + PART_TABLE_BYTES_INLINE_MAX;

/// Bytes of a blob's label at most.
pub(crate) const LABEL_BYTES: usize =
    2 + 8 + 1 + BUCKET_NAME_BYTES_MAX + 2 + OBJECT_KEY_BYTES_MAX + 10;

/// Bytes of an object's metadata key at most: each key byte may be escaped.
pub(crate) const META_KEY_BYTES_MAX: usize =
    SliceId::BYTES + 1 + 8 + 2 * OBJECT_KEY_BYTES_MAX + 2 + 8 + 2;

const _: () = assert!(RECORD_BYTES_MAX <= TRAILER_BYTES_MAX);
// A table that is not in the record has the blob reference and one offset for each chunk there.
const _: () =
    assert!(2 + 64 + 8 * PARTS_MAX.div_ceil(CHUNK_ENTRIES) <= PART_TABLE_BYTES_INLINE_MAX);
const _: () = assert!(PARTS_MAX <= u16::MAX as usize);
// One key of the longest kind and one note fit in any case.
// The volume names the keys a second time.
const _: () = assert!(2 * (WIPE_BATCH_BYTES + META_KEY_BYTES_MAX + 256) <= BATCH_BYTES_MAX);
const _: () = assert!(2 * WIPE_ENTRIES <= META_BATCH_ENTRIES_MAX);
// Readers alone never fill the list of notes, nor notes the volume's list of deletions.
const _: () = assert!(PINNED_BLOBS_MAX < NOTES_MAX && NOTES_MAX < DELETIONS_MAX);
const _: () = assert!(NOTES_PER_BATCH <= META_BATCH_ENTRIES_MAX);
const _: () = assert!(INDEX_PER_BATCH < META_BATCH_ENTRIES_MAX);
const _: () = assert!(SliceId::BYTES + 1 + ACCESS_KEY_ID_BYTES_MAX <= META_KEY_BYTES_MAX);
const _: () = assert!(LABEL_BYTES <= LABEL_BYTES_MAX);
// Less by at least one, which is the volume's prefix.
const _: () = assert!(META_KEY_BYTES_MAX < volume::limits::META_KEY_BYTES_MAX);
const _: () = assert!(METADATA_USER_BYTES_MAX <= METADATA_BYTES_MAX);
const _: () = assert!(INLINE_BYTES_MAX <= SHARD_BYTES_MAX);
const _: () = assert!(METADATA_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(SCAN_CHUNK_MIN <= SCAN_CHUNK_MAX);
const _: () = assert!(OBJECT_BYTES_MAX / (SHARD_BYTES_MAX as u64) < u32::MAX as u64);
