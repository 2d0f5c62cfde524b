//! C3: every workload of a few operations, every crash point, every subset of the pending
//! sectors (up to ten; else 256 samples). Small workloads, exhaustively, find most crash
//! bugs (Mohan et al., OSDI 2018).
//!
//! A workload is a number: its digits choose the operations. Crash points are taken in the
//! last operation and at the end, since those of earlier operations are the crash points of
//! shorter workloads.

use shardstore::limits::EXTENTS_MIN;
use shardstore::{Geometry, Options};
use simdisk::Rng;

use crate::case::{Outcome, guarded};
use crate::failure::{Failure, Verdict, property};
use crate::generate::Profile;
use crate::keys::KeyPool;
use crate::knobs::{Knobs, draw_options, set_clock};
use crate::ops::{Change, Fill, Op, Step};
use crate::tally::{Tally, Trace};
use crate::world::World;

/// How many symbols the alphabet has.
const SYMBOLS: u64 = 9;

/// How many ways there are in which the disk was used before.
const PASTS: u64 = 2;

/// Workloads of at most `depth` operations.
pub fn workloads(depth: u32) -> u64 {
    (1..=depth).map(|length| SYMBOLS.pow(length)).sum::<u64>() * PASTS
}

fn put(key: usize, payload: usize) -> Change {
    Change::Put {
        key,
        value: 8,
        payload,
        fill: Fill::Unique,
    }
}

fn submit(changes: Vec<Change>) -> Op {
    Op::Submit {
        changes,
        frees_space: false,
    }
}

/// What a symbol stands for.
fn symbol(digit: u64) -> Vec<Op> {
    const PUMP: Op = Op::Pump { groups: 1 };
    match digit {
        0 => vec![submit(vec![put(0, 0)]), PUMP],
        1 => vec![submit(vec![put(2, 6000)]), PUMP],
        2 => vec![submit(vec![Change::Delete { key: 0 }]), PUMP],
        // Three frames of one group: a batch of two keys among them.
        3 => vec![
            submit(vec![put(0, 100)]),
            submit(vec![put(2, 0), Change::Delete { key: 3 }]),
            submit(vec![Change::Add {
                key: 1,
                deltas: vec![7],
            }]),
            PUMP,
        ],
        4 => vec![Op::Checkpoint],
        5 => vec![Op::Reclaim { extent: None }],
        6 => vec![Op::Reclaim { extent: Some(0) }, Op::Checkpoint],
        7 => vec![Op::Compact { steps: 1 }],
        _ => vec![Op::CleanReboot {
            knobs: 0,
            cut: None,
        }],
    }
}

/// The disk's past: blank, or used so that there is something to reclaim and to compact.
fn past(which: u64) -> Vec<Op> {
    if which == 0 {
        return Vec::new();
    }
    let delete = |key| submit(vec![Change::Delete { key }]);
    vec![
        submit(vec![put(0, 3000)]),
        submit(vec![put(3, 500)]),
        Op::BulkPut {
            from: 0,
            count: 12,
            payload: 4000,
        },
        Op::Checkpoint,
        Op::BulkDelete { from: 0, count: 10 },
        submit(vec![put(2, 10)]),
        delete(3),
        Op::Pump { groups: 8 },
        Op::Checkpoint,
        Op::BulkPut {
            from: 4,
            count: 3,
            payload: 4000,
        },
        Op::Pump { groups: 8 },
    ]
}

/// The workload with this number.
pub fn decode(number: u64) -> (u64, Vec<u64>) {
    let (which, mut rest) = (number % PASTS, number / PASTS);
    let mut length = 1;
    while rest >= SYMBOLS.pow(length) {
        rest -= SYMBOLS.pow(length);
        length += 1;
    }
    let mut digits = Vec::new();
    for _ in 0..length {
        digits.push(rest % SYMBOLS);
        rest /= SYMBOLS;
    }
    (which, digits)
}

fn knobs() -> Knobs {
    let geometry = Geometry {
        extent_bytes: 64 * 1024,
        payload_bytes_max: 16 * 1024,
    };
    let options = Options {
        memtable_bytes: 2048,
        cache_bytes: 8192,
        tail_bytes_max: 256 * 1024,
        group_bytes_max: 65536,
        queue_bytes_max: 1 << 20,
        table_bytes: 4096,
        capacity_bytes: None,
        ..draw_options(&mut Rng::new(0), &geometry)
    };
    Knobs {
        geometry,
        extents: EXTENTS_MIN,
        sector_bytes: 512,
        options,
        probe_one_in: 0,
    }
}

/// Four keys: one of each sort, and two more.
fn pool() -> KeyPool {
    let mut pool = KeyPool::generate(&mut Rng::new(3));
    pool.hot = [b"a".as_slice(), b"n", b"b", b"c"]
        .iter()
        .map(|bytes| crate::keys::PoolKey {
            bytes: (*bytes).into(),
            stem_len: 1,
            counter: *bytes == b"n",
        })
        .collect();
    pool
}

/// The used disk, for others: its sizes, keys, and how it came to be.
pub fn aged() -> (Knobs, KeyPool, Vec<Step>) {
    let mut ops = past(1);
    ops.push(Op::Reclaim { extent: Some(0) });
    ops.push(submit(vec![
        put(2, 900),
        Change::Add {
            key: 1,
            deltas: vec![3, 4],
        },
    ]));
    ops.push(Op::Pump { groups: 8 });
    let steps = ops
        .into_iter()
        .zip(1..)
        .map(|(op, id)| Step { id, op })
        .collect();
    (knobs(), pool(), steps)
}

/// Runs the workload with this number, and every crash of it.
pub fn run(number: u64, with_log: bool) -> Outcome {
    set_clock(0);
    let (which, digits) = decode(number);
    let run = || {
        let mut tally = Tally::default();
        let mut log = Vec::new();
        let mut trace = 0;
        let failure = explore(which, &digits, with_log, &mut tally, &mut log, &mut trace).err();
        Outcome {
            failure,
            tally,
            trace,
            log,
        }
    };
    guarded(run).unwrap_or_else(|detail| Outcome {
        failure: Some(Failure {
            property: property::NO_PANIC,
            detail,
            step: 0,
        }),
        tally: Tally::default(),
        trace: Trace::default().value(),
        log: Vec::new(),
    })
}

/// C3: a crash at every write, flush and end, keeping any subset of the pending sectors,
/// recovers to a permitted state.
fn explore(
    which: u64,
    digits: &[u64],
    with_log: bool,
    tally: &mut Tally,
    log: &mut Vec<String>,
    trace: &mut u64,
) -> Verdict {
    let mut world = World::new(0, Profile::Conform, knobs(), pool(), None)?;
    world.log = with_log.then(Vec::new);
    let (last, before) = digits.split_last().expect("a workload has an operation");
    let mut ops = past(which);
    ops.extend(before.iter().flat_map(|digit| symbol(*digit)));
    let quiet = ops.len();
    ops.extend(symbol(*last));
    let mut verdict = Ok(());
    for (index, op) in ops.into_iter().enumerate() {
        if index == quiet {
            world.probes.exhaust();
        }
        let step = Step {
            id: index as u32 + 1,
            op,
        };
        verdict = world.apply(&step).map_err(|failure| Failure {
            step: index,
            ..failure
        });
        if verdict.is_err() {
            break;
        }
    }
    if verdict.is_ok() {
        verdict = world.crash_at_the_end();
    }
    world.tally.sequences = 1;
    tally.add(&world.tally);
    log.append(&mut world.log.take().unwrap_or_default());
    *trace = world.trace.value();
    verdict
}

impl World {
    fn crash_at_the_end(&mut self) -> Verdict {
        self.probes.watch(&[]);
        let disk = self.disk.clone();
        self.probes.catch_now(&disk);
        let state = self.model.state.clone();
        self.check_probes(&state, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_another_workload() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..workloads(3) {
            let (which, digits) = decode(number);
            assert!(digits.len() <= 3);
            assert!(seen.insert((which, digits)));
        }
        assert_eq!(seen.len(), 2 * (9 + 81 + 729));
    }
}
