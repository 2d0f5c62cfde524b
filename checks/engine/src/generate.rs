//! Draws a case from a seed: which operations it may use, how often, and with which
//! arguments, biased to keys in use and to sizes near the edges of pages and frames.

use shardstore::Geometry;
use shardstore::limits::{EXTENTS_MIN, EXTENTS_START, SUPERBLOCK_OFFSETS};
use simdisk::{Crash, Fault, PAGE, Rng};

use crate::keys::{BULK_KEYS, KeyPool, PoolKey};
use crate::ops::{Change, Fill, Op, Step};

/// What a check's cases are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// No crashes, no faults.
    Conform,
    /// Crashes.
    Crash,
    /// Crashes, and crashes of the recovery after them.
    CrashRecovery,
    /// Faults and crashes.
    Faults,
}

/// What can be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Draw {
    Get,
    First,
    Scan,
    Snapshot,
    DropSnapshot,
    ReadSnapshot,
    Put,
    Delete,
    Add,
    Batch,
    Chain,
    Pump,
    Checkpoint,
    Compact,
    Reclaim,
    Scrub,
    BulkPut,
    BulkDelete,
    Fill,
    Relieve,
    Chill,
    CleanReboot,
    DirtyReboot,
    CutAfter,
    Fault,
    Rot,
    PrepareAhead,
    Clock,
    Remove,
    Return,
}

/// Weight of each without anything said; (draw, weight, always kept in the subset).
const BASE: [(Draw, u32, bool); 24] = [
    (Draw::Get, 8, false),
    (Draw::First, 3, false),
    (Draw::Scan, 4, false),
    (Draw::Snapshot, 2, false),
    (Draw::DropSnapshot, 2, false),
    (Draw::ReadSnapshot, 2, false),
    (Draw::Put, 12, true),
    (Draw::Delete, 5, false),
    (Draw::Add, 4, false),
    (Draw::Batch, 4, false),
    (Draw::Chain, 2, false),
    (Draw::Pump, 12, true),
    (Draw::Checkpoint, 4, false),
    (Draw::Compact, 3, false),
    (Draw::Reclaim, 5, false),
    (Draw::Scrub, 1, false),
    (Draw::BulkPut, 3, false),
    (Draw::BulkDelete, 2, false),
    (Draw::Fill, 1, false),
    (Draw::Relieve, 1, false),
    (Draw::Chill, 1, false),
    (Draw::PrepareAhead, 1, false),
    (Draw::Clock, 1, false),
    (Draw::CleanReboot, 2, false),
];

/// Draws the steps of a case.
pub struct Generator<'a> {
    rng: Rng,
    pool: &'a KeyPool,
    geometry: &'a Geometry,
    profile: Profile,
    lies: u32,
}

impl<'a> Generator<'a> {
    /// A generator with randomness of its own.
    pub fn new(
        rng: Rng,
        pool: &'a KeyPool,
        geometry: &'a Geometry,
        profile: Profile,
    ) -> Generator<'a> {
        Generator {
            rng,
            pool,
            geometry,
            profile,
            lies: 0,
        }
    }

    /// Draws a whole sequence.
    pub fn steps(mut self) -> Vec<Step> {
        let alphabet = self.alphabet();
        let weights: Vec<u32> = alphabet.iter().map(|(_, weight)| *weight).collect();
        let length = match self.rng.below(4) {
            0 => self.rng.between(1, 8),
            1 | 2 => self.rng.between(6, 30),
            _ => self.rng.between(20, 60),
        };
        let mut ops = Vec::new();
        for _ in 0..length {
            let draw = alphabet[self.rng.weighted(&weights)].0;
            let op = self.op(draw);
            ops.push(op);
        }
        if matches!(self.profile, Profile::Crash | Profile::CrashRecovery) {
            self.not_vacuous(&mut ops);
        }
        ops.into_iter()
            .zip(1..)
            .map(|(op, id)| Step { id, op })
            .collect()
    }

    /// A random part of the alphabet.
    fn alphabet(&mut self) -> Vec<(Draw, u32)> {
        let mut alphabet: Vec<(Draw, u32, bool)> = BASE.to_vec();
        match self.profile {
            Profile::Conform => {}
            Profile::Crash | Profile::CrashRecovery => {
                alphabet.push((Draw::DirtyReboot, 4, true));
                alphabet.push((Draw::CutAfter, 5, true));
            }
            Profile::Faults => {
                alphabet.push((Draw::DirtyReboot, 2, false));
                alphabet.push((Draw::Fault, 6, true));
                alphabet.push((Draw::Rot, 2, false));
                alphabet.push((Draw::Remove, 1, false));
                alphabet.push((Draw::Return, 1, false));
            }
        }
        let keep_of_8 = self.rng.between(3, 8);
        // Filling a disk takes as long as fifty small sequences: not in all of them.
        let heavy = self.rng.one_in(8);
        alphabet
            .into_iter()
            .filter(|(draw, _, _)| heavy || !matches!(draw, Draw::Fill | Draw::Relieve))
            .filter(|(_, _, always)| *always || self.rng.below(8) < keep_of_8)
            .map(|(draw, weight, _)| (draw, weight))
            .collect()
    }

    /// A crash proves nothing if nothing was persistent before it: see to it that a put, a
    /// pump and a crash occur in this order.
    fn not_vacuous(&mut self, ops: &mut Vec<Op>) {
        ops.insert(0, Op::Pump { groups: 8 });
        let change = self.put();
        ops.insert(
            0,
            Op::Submit {
                changes: vec![change],
                frees_space: false,
            },
        );
        // Between two calls everything is flushed, so a crash that is to tear something must
        // strike within one, while it writes.
        for is_cut in [false, true] {
            if is_cut {
                let mut cut = self.op(Draw::CutAfter);
                if let Op::CutAfter { ios, .. } = &mut cut {
                    // The write, if an extent is prepared before it, and else the flush: either
                    // way something is unflushed. The others are free to strike anywhere.
                    *ios = 1;
                }
                ops.push(cut);
            }
            let change = self.put();
            ops.push(Op::Submit {
                changes: vec![change],
                frees_space: false,
            });
            ops.push(Op::Pump { groups: 8 });
        }
        ops.extend([Op::Checkpoint, Op::Reclaim { extent: None }]);
        let crashes = ops.iter().any(|op| matches!(op, Op::DirtyReboot { .. }));
        if !crashes {
            let op = self.op(Draw::DirtyReboot);
            ops.push(op);
        }
    }

    fn op(&mut self, draw: Draw) -> Op {
        match draw {
            Draw::Get => Op::Get {
                key: self.any_key(),
                part: (self.rng.below(256) as u8, self.rng.below(256) as u8),
                nowait: self.rng.one_in(3),
            },
            Draw::First => Op::First {
                key: self.any_key(),
            },
            Draw::Scan => Op::Scan {
                from: (!self.rng.one_in(3)).then(|| self.any_key()),
                to: (!self.rng.one_in(3)).then(|| self.any_key()),
                limit: *self.rng.pick(&[1, 2, 3, 7, 1000]),
            },
            Draw::Snapshot => Op::Snapshot,
            Draw::DropSnapshot => Op::DropSnapshot,
            Draw::ReadSnapshot => Op::ReadSnapshot,
            Draw::Put | Draw::Delete | Draw::Add | Draw::Batch | Draw::Chain => self.write(draw),
            Draw::Pump => Op::Pump {
                groups: *self.rng.pick(&[1, 1, 2, 8]),
            },
            Draw::Checkpoint => Op::Checkpoint,
            Draw::Compact => Op::Compact {
                steps: *self.rng.pick(&[1, 1, 3, 20]),
            },
            Draw::Reclaim => {
                let named = self.rng.one_in(2);
                Op::Reclaim {
                    extent: named.then(|| self.rng.below(16) as u32),
                }
            }
            Draw::Scrub => Op::Scrub {
                extent: self.rng.below(16) as u32,
            },
            Draw::BulkPut => Op::BulkPut {
                from: self.rng.index(BULK_KEYS),
                count: self.rng.between(2, 24) as usize,
                payload: self.payload_size(),
            },
            Draw::BulkDelete => Op::BulkDelete {
                from: self.rng.index(BULK_KEYS),
                count: self.rng.between(2, 48) as usize,
            },
            Draw::Fill => Op::Fill,
            Draw::Relieve => Op::Relieve,
            Draw::Chill => Op::Chill,
            Draw::PrepareAhead => Op::PrepareAhead,
            Draw::Clock => Op::Clock {
                now_ms: self.rng.below(1 << 44),
            },
            _ => self.mishap(draw),
        }
    }

    fn write(&mut self, draw: Draw) -> Op {
        let changes = match draw {
            Draw::Put => vec![self.put()],
            Draw::Delete => vec![self.delete()],
            Draw::Add => vec![self.add()],
            Draw::Batch => self.batch(),
            _ => {
                let mut first = self.put();
                // On a full disk a large first may find no space where the second would.
                if let (Change::Put { payload, .. }, true) = (&mut first, self.rng.one_in(2)) {
                    *payload = self.geometry.payload_bytes_max as usize;
                }
                return Op::Chain {
                    first: vec![first],
                    second: self.batch(),
                };
            }
        };
        Op::Submit {
            changes,
            frees_space: draw == Draw::Delete && self.rng.one_in(2),
        }
    }

    fn mishap(&mut self, draw: Draw) -> Op {
        let seed = self.rng.bits();
        let mode = *self.rng.pick(&Crash::ALL);
        let depth = match (draw, self.profile) {
            (Draw::CutAfter | Draw::DirtyReboot, Profile::CrashRecovery) => self.rng.between(1, 3),
            _ => 0,
        };
        let recovery = (0..depth).map(|_| self.rng.below(12) as u8).collect();
        match draw {
            Draw::CleanReboot => {
                let calm = matches!(self.profile, Profile::Conform | Profile::Faults);
                Op::CleanReboot {
                    knobs: seed,
                    cut: (!calm).then_some(mode),
                }
            }
            Draw::CutAfter => Op::CutAfter {
                ios: self.rng.below(14) as u8,
                seed,
                mode,
                recovery,
            },
            Draw::Fault => Op::Fault(self.fault()),
            Draw::Rot => {
                self.lies += 1;
                match self.lies {
                    0..=2 => Op::Rot {
                        seed,
                        cached: self.rng.one_in(3),
                    },
                    _ => Op::Checkpoint,
                }
            }
            Draw::Remove => Op::DiskRemove,
            Draw::Return => Op::DiskReturn { seed },
            _ => Op::DirtyReboot {
                seed,
                mode,
                recovery,
            },
        }
    }

    /// Mostly honest faults: two lies in a row can add up to what no checksum detects.
    fn fault(&mut self) -> Fault {
        let skip = *self.rng.pick(&[0, 0, 1, 2, 3, 5, 9]);
        let seed = self.rng.bits();
        let cached = self.rng.one_in(2);
        let pages = *self.rng.pick(&[-1, 1, 2, -3, 16, 17, -16]);
        let lie = self.lies < 2 && self.rng.one_in(3);
        if lie {
            self.lies += 1;
            return match self.rng.below(4) {
                0 => Fault::LostWrite { skip, cached },
                1 => Fault::MisdirectedWrite {
                    skip,
                    pages,
                    cached,
                },
                2 => Fault::MisdirectedRead { skip, pages },
                _ => Fault::LyingFlush { skip },
            };
        }
        match self.rng.below(8) {
            0..=2 => Fault::ReadErrors {
                skip,
                times: *self.rng.pick(&[1, 1, 2, 6]),
            },
            3 => Fault::BadPage {
                page: self.bad_page(),
            },
            4 => Fault::WriteError { skip },
            5 => Fault::NoSpace { skip },
            6 => Fault::FlushFails { skip, seed, cached },
            _ => Fault::Vanish { skip: skip * 3 },
        }
    }

    /// A copy of the superblock, or a page of any extent that even the smallest disk has.
    fn bad_page(&mut self) -> u64 {
        if self.rng.one_in(6) {
            return self.rng.pick(&SUPERBLOCK_OFFSETS) / PAGE as u64;
        }
        let extents = *self.rng.pick(&[1, 4, u64::from(EXTENTS_MIN)]);
        let bytes = extents * u64::from(self.geometry.extent_bytes);
        EXTENTS_START / PAGE as u64 + self.rng.below(bytes / PAGE as u64)
    }

    fn batch(&mut self) -> Vec<Change> {
        let count = self.rng.between(2, 5);
        let mut changes: Vec<Change> = (0..count)
            .map(|_| match self.rng.below(4) {
                0 => self.delete(),
                1 => self.add(),
                _ => self.put(),
            })
            .collect();
        // What a batch carries is limited as a whole; mostly keep within that.
        if !self.rng.one_in(20) {
            let mut left = self.geometry.payload_bytes_max as usize;
            for change in &mut changes {
                if let Change::Put { payload, .. } = change {
                    *payload = (*payload).min(left);
                    left -= *payload;
                }
            }
        }
        changes
    }

    fn put(&mut self) -> Change {
        let fill = match self.rng.below(8) {
            0 => Fill::Zeros,
            1 => Fill::Magic,
            2 => Fill::Frames(self.rng.below(16 * 1024) as u32),
            _ => Fill::Unique,
        };
        let key = self.hot_key(|key| !key.counter);
        Change::Put {
            key,
            value: self.value_size(),
            payload: self.payload_size(),
            fill,
        }
    }

    fn delete(&mut self) -> Change {
        Change::Delete {
            key: self.any_key(),
        }
    }

    fn add(&mut self) -> Change {
        let count = *self.rng.pick(&[1, 1, 1, 2, 3, 16]);
        let deltas = (0..count)
            .map(|_| match self.rng.below(4) {
                0 => i64::MAX,
                1 => -1,
                _ => self.rng.below(1000) as i64,
            })
            .collect();
        Change::Add {
            key: self.hot_key(|key| key.counter),
            deltas,
        }
    }

    fn any_key(&mut self) -> usize {
        if self.rng.one_in(5) {
            self.pool.hot.len() + self.rng.index(BULK_KEYS)
        } else {
            self.rng.index(self.pool.hot.len())
        }
    }

    fn hot_key(&mut self, want: impl Fn(&PoolKey) -> bool) -> usize {
        loop {
            let key = self.rng.index(self.pool.hot.len());
            if want(&self.pool.hot[key]) {
                return key;
            }
        }
    }

    fn value_size(&mut self) -> usize {
        match self.rng.below(10) {
            0 => 0,
            1 => 1,
            2 => self.rng.between(200, 1100) as usize,
            3 if self.rng.one_in(4) => self.rng.between(3900, 4200) as usize,
            _ => self.rng.between(4, 40) as usize,
        }
    }

    fn payload_size(&mut self) -> usize {
        let max = self.geometry.payload_bytes_max as usize;
        let size = match self.rng.below(12) {
            0..=2 => 0,
            3 => 1,
            4 => self.rng.between(2, 200) as usize,
            // A frame's end near a page's end: the header, one checksum, one entry.
            5 | 6 => 4096 * self.rng.between(1, 3) as usize - self.rng.between(90, 200) as usize,
            7 => 4095 + self.rng.index(3),
            8 => self.rng.between(200, 4000) as usize,
            9 if self.rng.one_in(20) => max + 1,
            9 => max - self.rng.index(2),
            10 => 65_535 + self.rng.index(3),
            _ => self.rng.index(max + 1),
        };
        if size > max + 1 {
            self.rng.index(max + 1)
        } else {
            size
        }
    }
}
