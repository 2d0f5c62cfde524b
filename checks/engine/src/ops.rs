//! The alphabet: everything that a case can do to a store.

use std::fmt;

use simdisk::{Crash, Fault};

/// Where a put's bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fill {
    /// A pattern that begins with the step's number, so that every put is different.
    Unique,
    /// Zeros, as of bytes never written.
    Zeros,
    /// Frame magics, at every alignment.
    Magic,
    /// A copy of what the disk holds at this distance (in 64-byte steps) into its extents:
    /// whole frames, valid where they came from.
    Frames(u32),
}

/// One entry of a batch. Keys are indices into the pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// A put of so many bytes.
    Put {
        /// The key.
        key: usize,
        /// Bytes of the value.
        value: usize,
        /// Bytes of the payload.
        payload: usize,
        /// Where they come from.
        fill: Fill,
    },
    /// A delete.
    Delete {
        /// The key.
        key: usize,
    },
    /// A merge of counters.
    Add {
        /// The key.
        key: usize,
        /// What is added.
        deltas: Vec<i64>,
    },
}

impl Change {
    /// Its key's index.
    pub fn key(&self) -> usize {
        match self {
            Change::Put { key, .. } | Change::Delete { key } | Change::Add { key, .. } => *key,
        }
    }
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// Reads a key and, if it has one, its payload; of the payload also a part.
    Get {
        /// The key.
        key: usize,
        /// Which part, in 256ths of its length.
        part: (u8, u8),
        /// Whether to try from memory first.
        nowait: bool,
    },
    /// The first key of a stem.
    First {
        /// A key that has the stem.
        key: usize,
    },
    /// Pages through a range between two keys.
    Scan {
        /// The first key; `None`: from the start.
        from: Option<usize>,
        /// The end; `None`: to the end.
        to: Option<usize>,
        /// Entries of a page.
        limit: usize,
    },
    /// Takes a snapshot and keeps it.
    Snapshot,
    /// Drops the oldest snapshot.
    DropSnapshot,
    /// Reads everything from the oldest snapshot.
    ReadSnapshot,
    /// Submits a batch.
    Submit {
        /// What is in it.
        changes: Vec<Change>,
        /// Whether it says that it frees space.
        frees_space: bool,
    },
    /// Submits two batches, the second after the first.
    Chain {
        /// The first.
        first: Vec<Change>,
        /// The second.
        second: Vec<Change>,
    },
    /// Commits up to so many groups.
    Pump {
        /// Groups.
        groups: u8,
    },
    /// A checkpoint.
    Checkpoint,
    /// So many steps of compaction.
    Compact {
        /// Steps.
        steps: u8,
    },
    /// Evacuates an extent.
    Reclaim {
        /// Which (modulo their number); `None`: the engine chooses.
        extent: Option<u32>,
    },
    /// Verifies an extent.
    Scrub {
        /// Which (modulo their number).
        extent: u32,
    },
    /// Puts many keys, pumping after every few.
    BulkPut {
        /// The first of the bulk keys.
        from: usize,
        /// How many.
        count: usize,
        /// Bytes of each payload.
        payload: usize,
    },
    /// Deletes many keys.
    BulkDelete {
        /// The first of the bulk keys.
        from: usize,
        /// How many.
        count: usize,
    },
    /// Puts until the disk is full.
    Fill,
    /// Deletes the bulk keys, does all background work, and puts again.
    Relieve,
    /// Forgets what a `Nowait` read finds in memory.
    Chill,
    /// Closes and opens again, with other knobs.
    CleanReboot {
        /// Draws the knobs.
        knobs: u64,
        /// A power cut in between.
        cut: Option<Crash>,
    },
    /// A power cut, now.
    DirtyReboot {
        /// Draws what survives, and the knobs after it.
        seed: u64,
        /// How the disk treats unflushed writes.
        mode: Crash,
        /// After how many writes and flushes each attempt to recover is cut as well.
        recovery: Vec<u8>,
    },
    /// A power cut at the write or flush after the next `ios`.
    CutAfter {
        /// Writes and flushes that still go well.
        ios: u8,
        /// Draws what survives.
        seed: u64,
        /// How the disk treats unflushed writes.
        mode: Crash,
        /// After how many writes and flushes each attempt to recover is cut as well.
        recovery: Vec<u8>,
    },
    /// Schedules a fault.
    Fault(Fault),
    /// Flips a bit of a page that holds something: the page's index among them, the bit.
    Rot {
        /// Draws the place.
        seed: u64,
        /// Whether the cache hides it.
        cached: bool,
    },
    /// Writes ahead an extent that was never used.
    PrepareAhead,
    /// The wall clock jumps, to anywhere.
    Clock {
        /// Milliseconds since 1970 from now on.
        now_ms: u64,
    },
    /// The device is gone.
    DiskRemove,
    /// The device is back.
    DiskReturn {
        /// Draws the fate of what was unflushed.
        seed: u64,
    },
}

/// How many kinds of operations there are.
pub const KINDS: usize = 27;

/// Their names, for tables.
pub const KIND_NAMES: [&str; KINDS] = [
    "get",
    "first",
    "scan",
    "snapshot",
    "drop snapshot",
    "read snapshot",
    "put",
    "delete",
    "merge",
    "batch",
    "chain",
    "pump",
    "checkpoint",
    "compact",
    "reclaim",
    "scrub",
    "bulk put",
    "bulk delete",
    "fill",
    "relieve",
    "chill",
    "clean reboot",
    "crash",
    "cut after",
    "fault",
    "prepare ahead",
    "clock",
];

impl Op {
    /// Its number in [`KIND_NAMES`].
    pub fn kind(&self) -> usize {
        match self {
            Op::Get { .. } => 0,
            Op::First { .. } => 1,
            Op::Scan { .. } => 2,
            Op::Snapshot => 3,
            Op::DropSnapshot => 4,
            Op::ReadSnapshot => 5,
            Op::Submit { changes, .. } => match &changes[..] {
                [Change::Put { .. }] => 6,
                [Change::Delete { .. }] => 7,
                [Change::Add { .. }] => 8,
                _ => 9,
            },
            Op::Chain { .. } => 10,
            Op::Pump { .. } => 11,
            Op::Checkpoint => 12,
            Op::Compact { .. } => 13,
            Op::Reclaim { .. } => 14,
            Op::Scrub { .. } => 15,
            Op::BulkPut { .. } => 16,
            Op::BulkDelete { .. } => 17,
            Op::Fill => 18,
            Op::Relieve => 19,
            Op::Chill => 20,
            Op::CleanReboot { .. } => 21,
            Op::DirtyReboot { .. } => 22,
            Op::CutAfter { .. } => 23,
            Op::Fault(_) | Op::Rot { .. } | Op::DiskRemove | Op::DiskReturn { .. } => 24,
            Op::PrepareAhead => 25,
            Op::Clock { .. } => 26,
        }
    }
}

/// An operation with a number of its own: what it draws and writes depends on the number,
/// not on the place in the sequence, so that shrinking does not change it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Step {
    /// The number.
    pub id: u32,
    /// The operation.
    pub op: Op,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {:?}", self.id, self.op)
    }
}
