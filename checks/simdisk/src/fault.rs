//! What can go wrong with a disk, as values that a check schedules.

/// One scheduled fault. `skip` counts the I/Os of its kind that still go well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// After `skip` reads, the next `times` reads fail; then it is over.
    ReadErrors {
        /// Reads that still go well.
        skip: u32,
        /// Reads that fail.
        times: u32,
    },
    /// Reads of this page fail until it is written again, as a drive's unreadable sector.
    BadPage {
        /// The page's number.
        page: u64,
    },
    /// One write fails; some of its pages are written all the same.
    WriteError {
        /// Writes that still go well.
        skip: u32,
    },
    /// One write finds no space under the disk for some of its pages.
    NoSpace {
        /// Writes that still go well.
        skip: u32,
    },
    /// One flush fails. Of what it covered, a random part (by `seed`) is durable, the rest is
    /// gone or torn, and a later flush does not bring it back; with `cached`, reads still show it
    /// until a crash (ext4 and XFS mark such pages clean).
    FlushFails {
        /// Flushes that still go well.
        skip: u32,
        /// Chooses what is kept.
        seed: u64,
        /// Whether reads go on showing what was lost.
        cached: bool,
    },
    /// The device is gone after `skip` I/Os of any kind, until
    /// [`SimDisk::give_back`](crate::SimDisk::give_back).
    Vanish {
        /// I/Os that still go well.
        skip: u32,
    },
    /// A bit of the medium flips, now.
    BitFlip {
        /// The byte's offset.
        offset: u64,
        /// Which of its bits.
        bit: u8,
        /// Whether reads still see the old bit until a crash drops the cache.
        cached: bool,
    },
    /// One write is acknowledged and never reaches the medium.
    LostWrite {
        /// Writes that still go well.
        skip: u32,
        /// Whether reads see it until a crash drops the cache.
        cached: bool,
    },
    /// One write lands `pages` away from where it belongs.
    MisdirectedWrite {
        /// Writes that still go well.
        skip: u32,
        /// Distance in pages, not 0.
        pages: i32,
        /// Whether reads see it in its place until a crash drops the cache.
        cached: bool,
    },
    /// One read returns the bytes of another place.
    MisdirectedRead {
        /// Reads that still go well.
        skip: u32,
        /// Distance in pages, not 0.
        pages: i32,
    },
    /// One flush says `Ok` and does nothing.
    LyingFlush {
        /// Flushes that still go well.
        skip: u32,
    },
}

impl Fault {
    /// Whether the disk says `Ok` and does otherwise. An honest fault is reported as an
    /// error by the call that meets it.
    pub fn is_lie(&self) -> bool {
        match self {
            Fault::ReadErrors { .. }
            | Fault::BadPage { .. }
            | Fault::WriteError { .. }
            | Fault::NoSpace { .. }
            | Fault::FlushFails { .. }
            | Fault::Vanish { .. } => false,
            Fault::BitFlip { .. }
            | Fault::LostWrite { .. }
            | Fault::MisdirectedWrite { .. }
            | Fault::MisdirectedRead { .. }
            | Fault::LyingFlush { .. } => true,
        }
    }

    /// A short name for tables.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::ReadErrors { .. } => "read errors",
            Fault::BadPage { .. } => "bad page",
            Fault::WriteError { .. } => "write error",
            Fault::NoSpace { .. } => "no space",
            Fault::FlushFails { .. } => "flush fails",
            Fault::Vanish { .. } => "vanish",
            Fault::BitFlip { .. } => "bit flip",
            Fault::LostWrite { .. } => "lost write",
            Fault::MisdirectedWrite { .. } => "misdirected write",
            Fault::MisdirectedRead { .. } => "misdirected read",
            Fault::LyingFlush { .. } => "lying flush",
        }
    }
}

/// A fault that has struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fired {
    /// Which.
    pub fault: Fault,
    /// Bytes of the I/O that it struck.
    pub len: u64,
}

/// What an I/O is, for the counting of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IoKind {
    Read,
    Write,
    Flush,
}

impl Fault {
    /// Counts one I/O against this fault: true if it strikes now.
    pub(crate) fn strikes(&mut self, kind: IoKind) -> bool {
        let (counted, skip) = match self {
            Fault::ReadErrors { skip, .. } | Fault::MisdirectedRead { skip, .. } => {
                (kind == IoKind::Read, skip)
            }
            Fault::WriteError { skip }
            | Fault::NoSpace { skip }
            | Fault::LostWrite { skip, .. }
            | Fault::MisdirectedWrite { skip, .. } => (kind == IoKind::Write, skip),
            Fault::FlushFails { skip, .. } | Fault::LyingFlush { skip } => {
                (kind == IoKind::Flush, skip)
            }
            Fault::Vanish { skip } => (true, skip),
            Fault::BadPage { .. } | Fault::BitFlip { .. } => return false,
        };
        if !counted {
            return false;
        }
        if *skip == 0 {
            return true;
        }
        *skip -= 1;
        false
    }
}
