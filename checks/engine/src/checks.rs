//! The checks: what each shows, and what one number means to it.

use crate::case::{Case, Outcome};
use crate::enumerate;
use crate::generate::Profile;
use crate::model::ModelBug;
use crate::rot;

/// A check that runs numbered sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check {
    /// Conformance, and space (C13).
    C1,
    /// Persistence and forward progress.
    C2,
    /// Small workloads, exhaustively.
    C3,
    /// Recovery is idempotent.
    C5,
    /// Conformance under faults, and liveness after them (C14).
    C6,
    /// Rot, sampled.
    C7,
    /// Every bit flip of a small image.
    C7All,
}

impl Check {
    /// All of them.
    pub const ALL: [Check; 7] = [
        Check::C1,
        Check::C2,
        Check::C3,
        Check::C5,
        Check::C6,
        Check::C7,
        Check::C7All,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Check::C1 => "C1",
            Check::C2 => "C2",
            Check::C3 => "C3",
            Check::C5 => "C5",
            Check::C6 => "C6",
            Check::C7 => "C7",
            Check::C7All => "C7ALL",
        }
    }

    /// The check with this name.
    pub fn from_name(name: &str) -> Option<Check> {
        Check::ALL
            .into_iter()
            .find(|check| check.name().eq_ignore_ascii_case(name))
    }

    /// What it shows.
    pub fn property(self) -> &'static str {
        match self {
            Check::C1 => "conforms to the model; space adds up and comes back (C1, C4, C13)",
            Check::C2 => "what was persistent survives crashes; progress (C2, C4)",
            Check::C3 => "every small workload x crash x subset recovers (C3)",
            Check::C5 => "recovery, interrupted and repeated, is the same (C5, C4)",
            Check::C6 => "under faults right or typed, then all heals (C6, C13, C14)",
            Check::C7 => "rot is never served nor laundered, sampled (C7)",
            Check::C7All => "every bit flip of a small image (C7)",
        }
    }

    /// Its part of the time.
    pub fn share(self) -> u32 {
        match self {
            Check::C1 | Check::C2 => 22,
            Check::C6 => 20,
            Check::C3 | Check::C5 => 12,
            Check::C7 | Check::C7All => 6,
        }
    }

    /// How many sequences there are, if they can be counted. `thorough`: the long run.
    pub fn total(self, thorough: bool) -> Option<u64> {
        match self {
            Check::C3 => Some(enumerate::workloads(if thorough { 3 } else { 2 })),
            Check::C7All => Some(rot::parts()),
            _ => None,
        }
    }

    /// The random case of a seed, for the checks that have one.
    pub fn case(self, seed: u64) -> Option<Case> {
        let (profile, probe_one_in) = match self {
            Check::C1 => (Profile::Conform, 16),
            Check::C2 => (Profile::Crash, 8),
            Check::C5 => (Profile::CrashRecovery, 12),
            Check::C6 => (Profile::Faults, 0),
            Check::C3 | Check::C7 | Check::C7All => return None,
        };
        Some(Case::generate(seed, profile, probe_one_in))
    }

    /// Runs the sequence with this number.
    pub fn run(self, seed: u64, bug: Option<ModelBug>, with_log: bool) -> Outcome {
        if let Some(case) = self.case(seed) {
            return Case { bug, ..case }.run(with_log);
        }
        match self {
            Check::C3 => enumerate::run(seed, with_log),
            Check::C7 => rot::run(seed, with_log),
            _ => rot::run_part(seed, with_log),
        }
    }
}
