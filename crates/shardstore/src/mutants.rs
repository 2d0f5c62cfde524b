//! Seeded bugs. A checks build (feature `mutants`) can switch one of them on per thread; the
//! checks must then fail. Without the feature every switch is the constant `false`, and the
//! compiler removes what stands behind it.

/// The seeded bugs, numbered as in `docs/validation.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is described by `describe`")]
pub enum Mutant {
    M1,
    M2,
    M3,
    M5,
    M6,
    M7,
    M8,
    M10,
    M11,
    M12,
    M13,
    M14,
    M16,
    M17,
    M18,
    M19,
    M20,
    M21,
    M22,
    M23,
    M24,
    M25,
    M26,
    M27,
    M28,
    M29,
    M30,
    M31,
}

impl Mutant {
    /// Every mutant of the engine.
    pub const ALL: [Mutant; 28] = [
        Mutant::M1,
        Mutant::M2,
        Mutant::M3,
        Mutant::M5,
        Mutant::M6,
        Mutant::M7,
        Mutant::M8,
        Mutant::M10,
        Mutant::M11,
        Mutant::M12,
        Mutant::M13,
        Mutant::M14,
        Mutant::M16,
        Mutant::M17,
        Mutant::M18,
        Mutant::M19,
        Mutant::M20,
        Mutant::M21,
        Mutant::M22,
        Mutant::M23,
        Mutant::M24,
        Mutant::M25,
        Mutant::M26,
        Mutant::M27,
        Mutant::M28,
        Mutant::M29,
        Mutant::M30,
        Mutant::M31,
    ];

    /// What is wrong in it.
    pub fn describe(self) -> &'static str {
        match self {
            Mutant::M1 => "a scan's end test includes the end key",
            Mutant::M2 => "the cache is not keyed by epoch, so a reset keeps cached pages",
            Mutant::M3 => "a checkpoint that frees extents does not flush the superblock",
            Mutant::M5 => "a read error while scanning is taken as the end of the extent",
            Mutant::M6 => "what recovery found counts as persistent without a checkpoint",
            Mutant::M7 => "an evacuated extent is reused before a checkpoint covers its reset",
            Mutant::M8 => "a frame says that the frames of its own group are durable",
            Mutant::M10 => "the scanner trusts lengths that no checksum confirms",
            Mutant::M11 => "entries are visible before their place is durable",
            Mutant::M12 => "the log is locked while an append waits behind others for its group",
            Mutant::M13 => "memory drops versions that a snapshot still needs",
            Mutant::M14 => "compaction does not keep reclamation away from its output",
            Mutant::M16 => "evacuation checks that an entry is current, then acts without a lock",
            Mutant::M17 => "a flush error is swallowed and the retry counts as persistent",
            Mutant::M18 => "both superblock copies are written under one flush",
            Mutant::M19 => "a frame's checksum leaves out disk, extent, offset and epoch",
            Mutant::M20 => "evacuation writes a new checksum without verifying the old one",
            Mutant::M21 => "compaction drops a tombstone above the bottom level",
            Mutant::M22 => "the superblock is chosen by wall clock, and one copy is written",
            Mutant::M23 => "a put that finds no space leaves an index entry",
            Mutant::M24 => "a cache miss returns the neighbouring block",
            Mutant::M25 => "a dependency is persistent after the write, before the flush",
            Mutant::M26 => "recovery replays only the first entry of a batch",
            Mutant::M27 => "a batch is issued without waiting for what it depends on",
            Mutant::M28 => "the count of what lives forgets payloads that are overwritten",
            Mutant::M29 => "scrub looks at headers only",
            Mutant::M30 => "closing stops the committer while maintenance waits for it",
            Mutant::M31 => "a checkpoint amid an evacuation frees the extent that is being read",
        }
    }
}

#[cfg(feature = "mutants")]
mod switch {
    use super::Mutant;
    use std::sync::atomic::{AtomicU32, Ordering};

    // One process-wide switch: mutant runs are single-purpose, and shuttle's threads must
    // all see it.
    static ACTIVE: AtomicU32 = AtomicU32::new(u32::MAX);

    /// What a test looks for in a binary to know that this module was built in.
    pub static MARKER: &str = "shardstore-mutant: seeded bugs can be switched on in this build";

    /// Switches one mutant on, or all off.
    pub fn set(mutant: Option<Mutant>) {
        // Keeps the marker in the binary.
        std::hint::black_box(MARKER);
        ACTIVE.store(mutant.map_or(u32::MAX, |m| m as u32), Ordering::SeqCst);
    }

    pub(crate) fn on(mutant: Mutant) -> bool {
        ACTIVE.load(Ordering::Relaxed) == mutant as u32
    }
}

#[cfg(not(feature = "mutants"))]
mod switch {
    #[inline(always)]
    pub(crate) fn on(_: super::Mutant) -> bool {
        false
    }
}

pub(crate) use switch::on;
#[cfg(feature = "mutants")]
pub use switch::{MARKER, set};
