//! `--memory`, split. Everything that grows with use draws on one of these parts, so that
//! their sum bounds the process.
//!
//! | part | what it bounds | share |
//! |---|---|---|
//! | base | code, stacks, the runtime, what the allocator keeps | 20 MiB + 1/8 |
//! | connections | buffers, TLS, and the state of one request each; HTTP/2's streams | 1/6 of the rest |
//! | engine | memtables, block cache, commit queue, maintenance | 9/20 of the rest |
//! | requests | bodies on their way in and out, listings, documents | what remains |

use std::fmt;

use objects::limits::{IDENTITIES_MAX, IDENTITY_BYTES};

use crate::ByteSize;
use crate::UsageError;
use crate::limits::{DISK_MEMORY_BYTES_MIN, MEMORY_BYTES_MIN};

const MIB: u64 = 1024 * 1024;

/// Memory for the process itself.
const BASE_BYTES: u64 = 20 * MIB;

// Accounts and access keys are a part of the process itself.
const _: () = assert!((IDENTITIES_MAX * IDENTITY_BYTES) as u64 <= BASE_BYTES / 2);

/// A memtable costs this many times its own size while it is written out: itself, the next
/// one, and the table that it becomes.
const MEMTABLE_COPIES: u64 = 4;

/// What each part of the server may use, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySplit {
    /// Disks of the set. Each has of its own what is said of the engine below, but for the
    /// stripes.
    pub disks: u64,
    /// The process itself.
    pub base: u64,
    /// All connections.
    pub connections: u64,
    /// Bodies, listings and documents of requests.
    pub requests: u64,
    /// One memtable of the engine; [`MEMTABLE_COPIES`] of them count.
    pub memtable: u64,
    /// The engine's block cache.
    pub cache: u64,
    /// Stripes on their way to the disks.
    pub in_flight: u64,
    /// The engine's commit queue, which holds the stripes and the metadata.
    pub queue: u64,
    /// Batches that wait for room in the commit queue.
    pub waiting: u64,
    /// One group commit.
    pub group: u64,
    /// One index table, while compaction writes it.
    pub table: u64,
}

impl MemorySplit {
    /// Splits `total`, for a set of so many disks.
    ///
    /// # Errors
    /// [`UsageError`] if it is too little to work with.
    pub fn new(total: ByteSize, disks: usize) -> Result<MemorySplit, UsageError> {
        let (total, disks) = (total.0, disks.max(1) as u64);
        let least = MEMORY_BYTES_MIN + (disks - 1) * DISK_MEMORY_BYTES_MIN;
        if total < least {
            return Err(UsageError::new(format!(
                "--memory {} is too little: with {disks} disks the server needs at least {}",
                ByteSize(total),
                ByteSize(least)
            )));
        }
        let base = BASE_BYTES + total / 8;
        let rest = total - base;
        let connections = rest / 6;
        let engine = rest * 9 / 20;
        // Stripes are on their way to all disks together; all else each disk has for itself.
        let in_flight = (engine / 5).clamp(4 * MIB, 64 * MIB);
        let own = (engine - in_flight) / disks;
        let memtable = (own * 5 / 16 / MEMTABLE_COPIES).clamp(MIB, 64 * MIB);
        let metadata = (own / 8).clamp(MIB, 32 * MIB);
        let waiting = (own / 16).clamp(MIB, 8 * MIB);
        let group = (own / 16).clamp(MIB, 4 * MIB);
        let table = (own / 16).clamp(MIB, 8 * MIB);
        let fixed = memtable * MEMTABLE_COPIES + metadata + waiting + group + table;
        let cache = own.saturating_sub(fixed).max(MIB);
        let engines = in_flight + disks * (fixed + cache);
        let requests = rest.saturating_sub(connections + engine.max(engines));
        Ok(MemorySplit {
            disks,
            base,
            connections,
            requests,
            memtable,
            cache,
            in_flight,
            queue: in_flight + metadata,
            waiting,
            group,
            table,
        })
    }

    /// Most connections at a time, if each takes this much.
    pub fn connections_max(&self, connection_bytes: usize) -> usize {
        as_usize(self.connections) / connection_bytes
    }

    /// All parts together.
    pub fn sum(&self) -> u64 {
        self.base + self.connections + self.requests + self.in_flight + self.disks * self.disk()
    }

    /// What one disk has of its own.
    pub(crate) fn disk(&self) -> u64 {
        self.memtable * MEMTABLE_COPIES
            + self.cache
            + (self.queue - self.in_flight)
            + self.waiting
            + self.group
            + self.table
    }
}

impl fmt::Display for MemorySplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes / MIB;
        write!(
            f,
            "base {} MiB, connections {} MiB, requests {} MiB, stripes {} MiB, and for each of {} \
             disks: memtables {} MiB, cache {} MiB, queue {} MiB, group {} MiB, table {} MiB",
            mib(self.base),
            mib(self.connections),
            mib(self.requests),
            mib(self.in_flight),
            self.disks,
            mib(self.memtable * MEMTABLE_COPIES),
            mib(self.cache),
            mib(self.queue - self.in_flight + self.waiting),
            mib(self.group),
            mib(self.table)
        )
    }
}

/// Sizes of this program fit into the address space that they describe.
pub(crate) fn as_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{CONNECTION_BYTES, TLS_BYTES};

    #[test]
    fn the_parts_never_exceed_the_whole() {
        let sizes = [64, 65, 96, 128, 200, 256, 512, 1_024, 4_096, 65_536];
        let sizes = sizes
            .into_iter()
            .flat_map(|mib| [1, 2, 6, 16].map(|disks| (mib, disks)));
        for (mib, disks) in sizes {
            let total = mib * MIB;
            let least = MEMORY_BYTES_MIN + (disks as u64 - 1) * DISK_MEMORY_BYTES_MIN;
            let Ok(split) = MemorySplit::new(ByteSize(total), disks) else {
                assert!(total < least, "{mib} MiB, {disks} disks");
                continue;
            };
            assert!(split.sum() <= total, "{mib} MiB: {split}");
            assert!(split.requests >= 8 * MIB, "{mib} MiB: {split}");
            assert!(
                split.connections_max(CONNECTION_BYTES) >= 64,
                "{mib} MiB: {split}"
            );
            let with_tls = split.connections_max(CONNECTION_BYTES + TLS_BYTES);
            assert!(with_tls >= 32, "{mib} MiB: {split}");
            assert!(split.queue > split.in_flight, "{mib} MiB: {split}");
        }
    }

    #[test]
    fn too_little_is_refused() {
        let error = MemorySplit::new(ByteSize(63 * MIB), 1).unwrap_err();
        assert!(error.to_string().contains("64MiB"), "{error}");
    }
}
