//! C18: the checks can fail. Each seeded bug must be found by its named check, on nearly
//! every seed, while the same sequences find nothing without it.

use std::time::{Duration, Instant};

use shardstore::mutants::{Mutant, set};

use crate::checks::Check;
use crate::model::ModelBug;
use crate::prove::{self, Plan};
use crate::shrink::shrink;

/// A seeded bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// In the engine.
    Engine(Mutant),
    /// In the model.
    Model(ModelBug),
}

/// A seeded bug with the checks that must find it, in the order in which they are asked.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its number in `docs/validation.md`.
    pub name: &'static str,
    /// The bug.
    pub bug: Bug,
    /// What finds it.
    pub checks: &'static [Check],
}

const fn engine(name: &'static str, mutant: Mutant, checks: &'static [Check]) -> Target {
    Target {
        name,
        bug: Bug::Engine(mutant),
        checks,
    }
}

const fn model(name: &'static str, bug: ModelBug, checks: &'static [Check]) -> Target {
    Target {
        name,
        bug: Bug::Model(bug),
        checks,
    }
}

/// The seeded bugs that need no concurrency. M4 needs several disks; M11 to M14 and M16 are
/// for the model checker for schedules (`checks/schedules`).
pub const TARGETS: [Target; 19] = [
    engine("M1", Mutant::M1, &[Check::C1]),
    engine("M2", Mutant::M2, &[Check::C1]),
    engine("M3", Mutant::M3, &[Check::C2]),
    engine("M5", Mutant::M5, &[Check::C6]),
    engine("M6", Mutant::M6, &[Check::C2]),
    engine("M7", Mutant::M7, &[Check::C2]),
    engine("M8", Mutant::M8, &[Check::C2]),
    model("M9", ModelBug::StaleAfterReclaim, &[Check::C2]),
    engine("M10", Mutant::M10, &[Check::C2]),
    model("M15", ModelBug::ReusesVersions, &[Check::C1]),
    engine("M17", Mutant::M17, &[Check::C6]),
    engine("M18", Mutant::M18, &[Check::C2]),
    engine("M19", Mutant::M19, &[Check::C7]),
    engine("M20", Mutant::M20, &[Check::C7]),
    engine("M21", Mutant::M21, &[Check::C1]),
    engine("M22", Mutant::M22, &[Check::C2]),
    engine("M23", Mutant::M23, &[Check::C1]),
    engine("M24", Mutant::M24, &[Check::C1]),
    engine("M25", Mutant::M25, &[Check::C2]),
];

/// What is wrong in it.
pub fn describe(bug: Bug) -> &'static str {
    match bug {
        Bug::Engine(mutant) => mutant.describe(),
        Bug::Model(ModelBug::StaleAfterReclaim) => {
            "the model keeps what it knew before a crash in a reclamation"
        }
        Bug::Model(ModelBug::ReusesVersions) => "the model gives a version's number again",
    }
}

/// How hard to look.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Seeds of each mutant.
    pub seeds: u64,
    /// Time for each seed.
    pub budget: Duration,
    /// Threads.
    pub threads: usize,
}

/// What came of one mutant.
#[derive(Debug)]
pub struct Kill {
    /// Which.
    pub target: Target,
    /// On how many seeds it was found.
    pub killed: u64,
    /// On how many it was looked for.
    pub seeds: u64,
    /// Sequences until it was found, for each seed on which that is known.
    pub sequences: Vec<u64>,
    /// Steps of the smallest shrunk case, if the killer has steps.
    pub shrunk: Option<usize>,
    /// The first violated property.
    pub property: String,
    /// The sequences on which the bug was found fail without it as well.
    pub false_alarm: Option<String>,
}

/// Switches a bug on, for as long as it lives.
struct Switched;

impl Switched {
    fn on(bug: Bug) -> (Switched, Option<ModelBug>) {
        match bug {
            Bug::Engine(mutant) => {
                set(Some(mutant));
                (Switched, None)
            }
            Bug::Model(bug) => (Switched, Some(bug)),
        }
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        set(None);
    }
}

/// The bug with this name, for a replay under it.
pub fn find(name: &str) -> Option<Target> {
    TARGETS
        .into_iter()
        .find(|target| target.name.eq_ignore_ascii_case(name))
}

/// Runs something with a bug switched on.
pub fn with_bug<T>(bug: Bug, run: impl FnOnce(Option<ModelBug>) -> T) -> T {
    let (switched, model_bug) = Switched::on(bug);
    let result = run(model_bug);
    drop(switched);
    result
}

/// Looks for one bug on one seed, in this process, and tells `say`: first
/// `killed SEQUENCES CHECK NUMBER PROPERTY`, then `shrunk STEPS`; or nothing.
///
/// A seeded bug may make the engine loop or allocate without end, so this runs in a process
/// of its own, which limits its memory and is ended by `on_hang`.
pub fn hunt_here(
    target: Target,
    seed: u64,
    effort: Effort,
    on_hang: fn(Check, u64) -> !,
    say: impl Fn(String),
) {
    let deadline = Instant::now() + effort.budget;
    let found = with_bug(target.bug, |bug| {
        target.checks.iter().any(|&check| {
            let budget = deadline.saturating_duration_since(Instant::now());
            let base = 0xB0_0000 + seed;
            let (threads, total) = (effort.threads, check.total(false));
            let plan = Plan {
                base,
                budget,
                threads,
                total,
                bug,
                survey: false,
                on_hang,
            };
            let report = prove::run(check, &plan);
            let Some((number, failure)) = report.failures.first() else {
                return false;
            };
            let (name, sequences) = (check.name(), report.sequences());
            say(format!(
                "killed {sequences} {name} {number:#x} {}",
                failure.property
            ));
            if let Some(case) = check.case(*number) {
                let case = crate::case::Case { bug, ..case };
                let shrunk = shrink(&case, failure.clone(), Duration::from_secs(4));
                say(format!("shrunk {}", shrunk.case.steps.len()));
            }
            true
        })
    });
    if !found {
        say("survived".to_owned());
    }
}

/// Looks for one bug on every seed. `hunt_seed` runs [`hunt_here`] in another process and
/// returns what it said.
pub fn hunt(target: Target, effort: Effort, hunt_seed: impl Fn(u64) -> String) -> Kill {
    let mut kill = Kill {
        target,
        killed: 0,
        seeds: 0,
        sequences: Vec::new(),
        shrunk: None,
        property: String::new(),
        false_alarm: None,
    };
    for seed in 0..effort.seeds {
        kill.seeds += 1;
        kill.enter(&hunt_seed(seed));
    }
    kill
}

impl Kill {
    /// Enters what a hunt said.
    fn enter(&mut self, said: &str) {
        let mut property = "the process died (memory)".to_owned();
        for line in said.lines() {
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            match words[..] {
                ["survived"] => return,
                ["shrunk", steps] => {
                    let steps = steps.parse().ok();
                    self.shrunk = [self.shrunk, steps].into_iter().flatten().min();
                }
                ["killed", sequences, check, number, what] => {
                    if self.fails_without(check, number) {
                        return;
                    }
                    property = what.to_owned();
                    self.sequences.extend(sequences.parse::<u64>());
                }
                _ => {}
            }
        }
        self.killed += 1;
        if self.property.is_empty() {
            self.property = property;
        }
    }

    /// Runs the sequence that found the bug without the bug.
    fn fails_without(&mut self, check: &str, number: &str) -> bool {
        let number = number
            .strip_prefix("0x")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let (Some(check), Some(number)) = (Check::from_name(check), number) else {
            return true;
        };
        let failure = check.run(number, None, false).failure;
        if let Some(failure) = &failure {
            self.false_alarm = Some(format!("{} {number:#x}: {}", check.name(), failure.detail));
        }
        failure.is_some()
    }

    /// Whether it was found on at least nine of ten seeds, and not by a false alarm.
    pub fn is_good(&self) -> bool {
        self.killed * 10 >= self.seeds * 9 && self.false_alarm.is_none()
    }

    /// One line of the table.
    pub fn line(&self) -> String {
        let checks = self.target.checks.iter().map(|check| check.name());
        let killer = checks.collect::<Vec<_>>().join(", ");
        let (median, worst) = self.median_and_worst();
        let shrunk = self
            .shrunk
            .map_or_else(|| "-".to_owned(), |steps| steps.to_string());
        let seeds = format!("{}/{}", self.killed, self.seeds);
        format!(
            "| {:4} | {:70} | {killer:6} | {median:>9} | {worst:>9} | {shrunk:>6} | {seeds:>7} | \
             {} |",
            self.target.name,
            describe(self.target.bug),
            self.false_alarm.as_ref().unwrap_or(&self.property),
        )
    }

    fn median_and_worst(&self) -> (String, String) {
        let mut sorted = self.sequences.clone();
        sorted.sort_unstable();
        match sorted.last() {
            None => ("-".to_owned(), "-".to_owned()),
            Some(worst) => (sorted[sorted.len() / 2].to_string(), worst.to_string()),
        }
    }
}

/// The head of the table.
pub fn header() -> String {
    format!(
        "| {:4} | {:70} | {:6} | {:>9} | {:>9} | {:>6} | {:>7} | property |\n\
         |------|{}|--------|----------:|----------:|-------:|--------:|----------|",
        "bug",
        "what is wrong",
        "killer",
        "sequences",
        "at worst",
        "shrunk",
        "seeds",
        "-".repeat(72),
    )
}
