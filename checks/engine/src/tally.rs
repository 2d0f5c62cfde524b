//! What a check has done so far, so that a clean result says what was tried.

use std::collections::BTreeMap;

use simdisk::Fault;

use crate::ops::{KIND_NAMES, KINDS};

/// Counts. Tallies of cases add up to the tally of a check.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Sequences.
    pub sequences: u64,
    /// Operations.
    pub operations: u64,
    /// Crashes of the store under test.
    pub crashes: u64,
    /// Those that decided about unflushed writes.
    pub torn: u64,
    /// Crash images that were recovered on the side (C3, C4, C7).
    pub images: u64,
    /// Sequences of which no crash could both lose something persistent and decide about
    /// unflushed writes.
    pub vacuous: u64,
    /// Answers that were compared with the model's.
    pub compared: u64,
    /// Answers that were a permitted error.
    pub refused: u64,
    /// Times that a batch found no space.
    pub out_of_space: u64,
    /// Cases that could not go on, by reason.
    pub ended: BTreeMap<&'static str, u64>,
    /// Faults that struck, by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often a kind of operation followed another.
    pairs: Vec<u32>,
    /// How often a fault struck in a kind of operation.
    struck: BTreeMap<(&'static str, usize), u64>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            sequences: 0,
            operations: 0,
            crashes: 0,
            torn: 0,
            images: 0,
            vacuous: 0,
            compared: 0,
            refused: 0,
            out_of_space: 0,
            ended: BTreeMap::new(),
            faults: BTreeMap::new(),
            pairs: vec![0; KINDS * KINDS],
            struck: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// Counts one operation after another.
    pub fn note_pair(&mut self, before: Option<usize>, kind: usize) {
        self.operations += 1;
        if let Some(before) = before {
            self.pairs[before * KINDS + kind] += 1;
        }
    }

    /// Counts a fault that struck in an operation.
    pub fn note_fault(&mut self, fault: &Fault, kind: usize) {
        *self.faults.entry(fault.name()).or_default() += 1;
        *self.struck.entry((fault.name(), kind)).or_default() += 1;
    }

    /// Cases that ended before their last step was judged.
    pub fn ended_total(&self) -> u64 {
        self.ended.values().sum()
    }

    /// How many faults struck.
    pub fn faults_total(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Tally) {
        self.sequences += other.sequences;
        self.operations += other.operations;
        self.crashes += other.crashes;
        self.torn += other.torn;
        self.images += other.images;
        self.vacuous += other.vacuous;
        self.compared += other.compared;
        self.refused += other.refused;
        self.out_of_space += other.out_of_space;
        for (reason, count) in &other.ended {
            *self.ended.entry(reason).or_default() += count;
        }
        for (name, count) in &other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (sum, count) in self.pairs.iter_mut().zip(&other.pairs) {
            *sum = sum.saturating_add(*count);
        }
        for (pair, count) in &other.struck {
            *self.struck.entry(*pair).or_default() += count;
        }
    }

    /// Which pairs of the operations that occur have never followed each other.
    pub fn missing_pairs(&self) -> Vec<(&'static str, &'static str)> {
        let occurs = |kind: usize| {
            (0..KINDS).any(|o| self.pairs[kind * KINDS + o] + self.pairs[o * KINDS + kind] > 0)
        };
        let kinds: Vec<usize> = (0..KINDS).filter(|&kind| occurs(kind)).collect();
        let mut missing = Vec::new();
        for &before in &kinds {
            for &after in &kinds {
                if self.pairs[before * KINDS + after] == 0 {
                    missing.push((KIND_NAMES[before], KIND_NAMES[after]));
                }
            }
        }
        missing
    }

    /// How many different pairs of fault and operation met.
    pub fn fault_pairs(&self) -> usize {
        self.struck.len()
    }
}

/// A running hash of everything that a case saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace(u64);

impl Default for Trace {
    fn default() -> Trace {
        Trace(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    /// Takes a number in.
    pub fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(29);
    }

    /// Takes bytes in.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    /// The hash.
    pub fn value(&self) -> u64 {
        self.0
    }
}
