//! Every size of this crate, in one place, with their relations asserted at compile time.

use std::time::Duration;

use shardstore::limits::{BATCH_ENTRIES_MAX, KEY_BYTES_MAX, PAYLOAD_BYTES_MAX, VALUE_BYTES_MAX};

/// Most disks of a set.
pub const DISKS_MAX: usize = 16;

/// Disks that left the set and are remembered, so that they are refused by name.
pub const RETIRED_KEPT_MAX: usize = 64;

/// Bytes of a blob that one shard of a stripe holds; a stripe holds `k` times as many. Less
/// on a disk that was formatted with a smaller payload limit.
pub const SHARD_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a stripe, at most, unless its data shards would be shorter than
/// [`SHARD_BYTES_MIN`]: with many data shards they are shorter, so that a writer holds as much
/// on a large set as on a small one.
pub const STRIPE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a full shard, at least: what one read of a disk is worth.
pub const SHARD_BYTES_MIN: usize = 128 * 1024;

/// Blobs of at most so many bytes are kept as copies, not cut into shards, so that one disk has
/// all of one.
pub const SMALL_BLOB_BYTES: usize = 64 * 1024;

/// Stripes that one writer may have on their way to the disks.
pub const WINDOW_STRIPES: usize = 4;

/// Stripes that a reader asks for ahead, when they come from the disk and not from memory.
pub const READ_AHEAD_STRIPES: usize = 2;

/// Bytes of stripes that all writers together may have on their way to the disks, unless
/// [`VolumeOptions`](crate::VolumeOptions) says otherwise.
pub const IN_FLIGHT_BYTES_DEFAULT: usize = 16 * 1024 * 1024;

/// Most bytes of the label in a blob's first frame.
pub const LABEL_BYTES_MAX: usize = 1_536;

/// Most bytes of the trailer in a blob's last frame.
pub const TRAILER_BYTES_MAX: usize = 10_240;

/// Bytes of a shard's value besides label and trailer, at most.
pub const SHARD_VALUE_BYTES_FIXED: usize = 12 + 2 + 8 + 8 + 2;

/// Bytes of a shard's key: prefix, blob, stripe, shard.
pub const SHARD_KEY_BYTES: usize = 1 + 16 + 4 + 1;

/// Most shards that one batch deletes.
pub const DELETE_SHARDS_MAX: usize = 1_024;

/// Deletions that one step of housekeeping takes up: they share a flush.
pub const DELETIONS_PER_STEP: usize = 512;

/// Most deletions that wait to be submitted. One more is given up: its blob stays until
/// somebody asks again, or until the next start.
pub const DELETIONS_MAX: usize = 16 * 1024;

/// Most blobs that are read at a time.
pub const PINNED_BLOBS_MAX: usize = 4 * 1024;

/// Most shards that one page of a scan over shards returns.
pub const SCAN_SHARDS: usize = 256;

// A blob of one stripe has label and trailer in one value.
const _: () =
    assert!(SHARD_VALUE_BYTES_FIXED + LABEL_BYTES_MAX + TRAILER_BYTES_MAX <= VALUE_BYTES_MAX);
const _: () = assert!(SHARD_BYTES_MAX <= PAYLOAD_BYTES_MAX);
const _: () = assert!(SHARD_KEY_BYTES <= KEY_BYTES_MAX);
const _: () = assert!(DELETE_SHARDS_MAX <= BATCH_ENTRIES_MAX);
const _: () = assert!(PINNED_BLOBS_MAX + DELETIONS_PER_STEP <= DELETIONS_MAX);
const _: () = assert!(SHARD_BYTES_MIN <= STRIPE_BYTES_MAX && STRIPE_BYTES_MAX <= SHARD_BYTES_MAX);
const _: () = assert!(WINDOW_STRIPES * SHARD_BYTES_MAX <= IN_FLIGHT_BYTES_DEFAULT);

/// Most bytes of a metadata key with its one-byte prefix.
pub const META_KEY_BYTES_MAX: usize = KEY_BYTES_MAX;

/// Bytes of keys and values after which a page of a scan over metadata ends.
pub const META_PAGE_BYTES: usize = 128 * 1024;

/// Entries that such a page fetches at once; it may pass its bytes by as many.
pub const META_PAGE_ENTRIES: usize = 16;

/// Batches of metadata that may be under way at a time on a set of several disks, roughly: one
/// that changes many keys counts several times.
pub const RING_PLACES: usize = 4_096;

/// Bytes of batches of metadata that may be under way at a time on a set of several disks.
pub const MIRROR_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of keys that one place of the ring names; one more key may pass it.
pub const RING_ENTRY_BYTES: usize = 8 * 1024;

/// Entries of a batch of metadata; the ring's come besides.
pub const META_BATCH_ENTRIES_MAX: usize = BATCH_ENTRIES_MAX - 24;

/// Entries that are looked at, and written, at a time when metadata is copied between disks.
pub const COPY_ENTRIES: usize = 256;

/// Bytes that are written at a time then.
pub const COPY_BATCH_BYTES: usize = 64 * 1024;

/// Shards of one disk that one step of healing looks at.
pub const HEAL_PAGE: usize = 64;

/// Shards that one step of healing makes or moves, about; they share a flush.
pub const HEAL_SHARDS_PER_STEP: usize = 32;

/// Bytes of them, about: a stripe may pass it.
pub const HEAL_BYTES_PER_STEP: usize = 2 * 1024 * 1024;

/// How often all stripes are looked at while nothing is known to be missing.
pub const HEAL_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Between two walks, while something cannot be made up for yet.
pub const HEAL_PAUSE: Duration = Duration::from_secs(30);

/// A disk whose reads take less on average is not slow, whatever the others do.
pub const SLOW_MIN: Duration = Duration::from_millis(20);

/// How many times as long as the disk in the middle a slow one takes.
pub const SLOW_FACTOR: u32 = 4;

/// How long a replica of the metadata is slow before others do without it.
pub const SLOW_FOR: Duration = Duration::from_secs(5);

/// How often a slow disk is asked although nobody waits for it.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Before others are asked, too, a disk has eight times as long as it takes on average, but this
/// at least.
pub const HEDGE_MIN: Duration = Duration::from_millis(20);

/// And this at most.
pub const HEDGE_MAX: Duration = Duration::from_millis(100);

/// How long an operation of a disk may take before the disk counts as failed, in a set that can do
/// without it: about what an operating system gives a drive before it resets it.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often it is looked meanwhile.
pub const SILENCE_TICKS: u32 = 30;

/// One operation may take so many times as long, if others of the disk end meanwhile.
pub const SILENCE_FACTOR: u32 = 4;

/// Reads that wait for others to be asked, too; one more does not.
pub const ALARMS_MAX: usize = 16 * 1024;

/// How often a replica that refused what another one has is asked again before it is given up.
pub const MEND_TRIES: u32 = 50;

/// Between two such attempts.
pub const MEND_PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(RING_PLACES <= 1 << 16);
const _: () = assert!(2 + RING_ENTRY_BYTES + KEY_BYTES_MAX + 16 <= VALUE_BYTES_MAX);
const _: () = assert!(COPY_ENTRIES <= BATCH_ENTRIES_MAX);
