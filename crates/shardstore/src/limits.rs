//! Every size of this crate, in one place, with their relations asserted at compile time.
//!
//! The defaults are for real disks. Checks run with far smaller ones, so whatever is a
//! [`Geometry`] field or an [`Options`](crate::Options) field must work at any value that
//! [`Geometry::validate`] lets through.

use std::time::Duration;

use crate::error::Error;

/// A disk is unreadable when so many reads of the medium have failed one after the other, without
/// one between them that went well.
pub const FAILED_READS_MAX: u32 = 64;

/// In so many parts of it at least: reads of one bad place say nothing of the others.
pub const FAILED_PARTS_MAX: usize = 4;

/// Of so many parts that a disk is thought to have.
pub const FAILED_PARTS_OF: u64 = 1024;

/// Failures that are further apart are counted anew.
pub const FAILED_READS_WITHIN: Duration = Duration::from_secs(600);

/// Operations of a disk whose age is watched at the same time.
pub const WATCHED_OPERATIONS: usize = 32;

/// The unit that a disk writes as one: no byte of a page that holds durable data is ever
/// written again before the extent's reset, so that a torn write cannot reach back.
pub const PAGE: usize = 4096;

/// Frames begin at multiples of this within an extent.
pub const FRAME_ALIGN: usize = 64;

/// Payload bytes that one checksum covers. A range read verifies whole units.
pub const CHECKSUM_UNIT: usize = 64 * 1024;

/// Largest payload of a frame in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// Largest key in bytes: an escaped 1,024-byte object key with its bucket and suffix.
pub const KEY_BYTES_MAX: usize = 2_304;

/// Largest value (what the index itself holds for a key) in bytes.
pub const VALUE_BYTES_MAX: usize = 12 * 1024;

/// Largest sum of keys and values in one batch, in bytes.
pub const BATCH_BYTES_MAX: usize = 128 * 1024;

/// Most bytes that one group commit may take, batches past it aside: recovery looks for frames
/// of the newest group this far and more.
pub const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How far behind a chain's end recovery looks for later frames: past the largest group.
pub const LOOKAHEAD_BYTES: u32 = 16 * 1024 * 1024;

/// Most entries in one batch.
pub const BATCH_ENTRIES_MAX: usize = 1_024;

/// Where extents begin on the disk, in bytes; before it lie the superblock's two copies.
pub const EXTENTS_START: u64 = 1024 * 1024;

/// Bytes of one superblock copy.
pub const SUPERBLOCK_BYTES: usize = PAGE;

/// Offsets of the superblock's copies on the disk.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, 64 * 1024];

/// Most extents on one disk (with 64 MiB extents: 128 TiB).
pub const EXTENTS_MAX: u32 = 2 * 1024 * 1024;

/// Fewest extents that a disk can work with: the reserve, one that is open for each stream, and
/// what the last checkpoint wrote.
pub const EXTENTS_MIN: u32 = 14;

/// Most parts of a manifest, each one payload.
pub const MANIFEST_PARTS_MAX: usize = 160;

/// Most batches that wait for room in the commit queue.
pub const QUEUE_WAITING_MAX: usize = 1_024;

/// How long a batch waits for room in the commit queue, unless
/// [`Options`](crate::Options) says otherwise.
pub const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// Longest that a batch may wait for room in the commit queue.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Keys that a reader looks at in one go, deleted ones included, before it lets others go first.
pub const SCAN_WORK: usize = 1_024;

/// The same for the first part of a walk that is asked for as a whole; each next one gets twice
/// as much. So little that the checks, with their few keys, see walks go on.
pub const SCAN_WORK_FIRST: usize = 4;

/// Bytes of an extent in a manifest.
pub const MANIFEST_EXTENT_BYTES: usize = 42;

const _: () = assert!(0 < SCAN_WORK_FIRST && SCAN_WORK_FIRST <= SCAN_WORK);
const _: () = assert!(PAGE.is_multiple_of(FRAME_ALIGN));
const _: () = assert!(
    GROUP_BYTES_MAX + 4 * (PAYLOAD_BYTES_MAX + BATCH_BYTES_MAX) <= LOOKAHEAD_BYTES as usize
);
// Two thirds of a manifest may be extents; the rest is for the tables.
const _: () = assert!(
    EXTENTS_MAX as usize * MANIFEST_EXTENT_BYTES / 2 * 3 <= MANIFEST_PARTS_MAX * PAYLOAD_BYTES_MAX
);
const _: () = assert!(CHECKSUM_UNIT.is_multiple_of(PAGE));
const _: () = assert!(PAYLOAD_BYTES_MAX.is_multiple_of(CHECKSUM_UNIT));
const _: () = assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(SUPERBLOCK_OFFSETS[1] + SUPERBLOCK_BYTES as u64 <= EXTENTS_START);
const _: () = assert!(EXTENTS_START.is_multiple_of(PAGE as u64));

/// The sizes that a disk is formatted with and keeps for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of one extent, a multiple of [`PAGE`]; at most 1 GiB.
    pub extent_bytes: u32,
    /// Largest payload of one frame on this disk, in bytes.
    pub payload_bytes_max: u32,
}

impl Geometry {
    /// 64 MiB extents, 1 MiB payloads.
    pub const DEFAULT: Geometry = Geometry {
        extent_bytes: 64 * 1024 * 1024,
        payload_bytes_max: PAYLOAD_BYTES_MAX as u32,
    };

    /// The largest extents, up to 64 MiB, of which a disk of `bytes` holds at least 128; for
    /// small disks, so that the reserve and the open extents are a small part of them.
    pub fn for_capacity(bytes: u64) -> Geometry {
        const EXTENTS_WANTED: u64 = 128;
        const SMALLEST: u32 = 1024 * 1024;
        let mut extent_bytes = Geometry::DEFAULT.extent_bytes;
        while extent_bytes > SMALLEST && bytes / u64::from(extent_bytes) < EXTENTS_WANTED {
            extent_bytes /= 2;
        }
        let payload_bytes_max = Geometry::DEFAULT.payload_bytes_max.min(extent_bytes / 4);
        Geometry {
            extent_bytes,
            payload_bytes_max,
        }
    }

    /// Says what is wrong with a geometry that could not work.
    pub fn validate(&self) -> Result<(), Error> {
        let bad = |what: &str| {
            Err(Error::Geometry {
                what: what.to_owned(),
            })
        };
        if !(self.extent_bytes as usize).is_multiple_of(PAGE) {
            return bad("the extent size is not a multiple of 4096");
        }
        if self.extent_bytes < 64 * 1024 || self.extent_bytes > 1024 * 1024 * 1024 {
            return bad("the extent size is not between 64 KiB and 1 GiB");
        }
        if self.payload_bytes_max as usize > PAYLOAD_BYTES_MAX {
            return bad("the payload limit is above 1 MiB");
        }
        if self.payload_bytes_max < 16 * 1024 || self.payload_bytes_max > self.extent_bytes / 4 {
            return bad("the payload limit is not between 16 KiB and a quarter of an extent");
        }
        Ok(())
    }

    /// Most extents that a disk with these sizes may have, so that a manifest has room for them.
    pub fn extents_max(&self) -> u32 {
        let manifest_bytes = MANIFEST_PARTS_MAX * self.payload_bytes_max as usize;
        let extents = manifest_bytes / 3 * 2 / MANIFEST_EXTENT_BYTES;
        EXTENTS_MAX.min(extents as u32)
    }

    /// Most bytes of keys and values that one batch may carry on this disk.
    pub fn batch_bytes_max(&self) -> usize {
        BATCH_BYTES_MAX.min(self.extent_bytes as usize / 4)
    }
}

impl Default for Geometry {
    fn default() -> Self {
        Geometry::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_disks_get_small_extents() {
        assert_eq!(Geometry::for_capacity(u64::MAX), Geometry::DEFAULT);
        let small = Geometry::for_capacity(256 * 1024 * 1024);
        assert_eq!(
            (small.extent_bytes, small.payload_bytes_max),
            (2 << 20, 512 * 1024)
        );
        let tiny = Geometry::for_capacity(1);
        assert_eq!(
            (tiny.extent_bytes, tiny.payload_bytes_max),
            (1 << 20, 256 * 1024)
        );
        assert!(tiny.validate().is_ok());
    }
}
