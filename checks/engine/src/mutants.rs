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
pub const TARGETS: [Target; 24] = [
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
    engine("M26", Mutant::M26, &[Check::C2]),
    engine("M27", Mutant::M27, &[Check::C2]),
    engine("M28", Mutant::M28, &[Check::C1]),
    engine("M29", Mutant::M29, &[Check::C7]),
    engine("M31", Mutant::M31, &[Check::C1]),
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
    /// Why the hunt shows nothing: a sequence fails without the bug as well, or a process
    /// ended without saying whether it found anything.
    pub trouble: Option<String>,
}

/// What ends a process that takes too much: an allocation that fails aborts, and so does an
/// overflow of the stack; the machine itself kills.
const DEADLY_SIGNALS: [i32; 2] = [6, 9];

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

/// Looks for one bug on one seed, in this process, and tells `say`: first `started`, then
/// `killed SEQUENCES CHECK NUMBER PROPERTY` and `shrunk STEPS`, or `survived`.
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
    say("started".to_owned());
    let deadline = Instant::now() + effort.budget;
    let found = with_bug(target.bug, |bug| {
        target.checks.iter().any(|&check| {
            let budget = deadline.saturating_duration_since(Instant::now());
            let base = base_of(seed);
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

/// Where the sequences of a seed begin, with a bug and without.
fn base_of(seed: u64) -> u64 {
    0xB0_0000 + seed
}

/// How a process that hunted ended, and what it said.
#[derive(Debug)]
pub struct Said {
    /// What it printed.
    pub text: String,
    /// How it ended.
    pub end: End,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With status 0.
    Well,
    /// Killed by this signal.
    Signal(i32),
    /// In any other way, or it never began.
    Badly,
}

/// The checks that hunt for these, each once.
fn killers(targets: &[Target]) -> Vec<Check> {
    let mut checks: Vec<Check> = targets
        .iter()
        .flat_map(|target| target.checks)
        .copied()
        .collect();
    checks.sort_by_key(|check| check.name());
    checks.dedup();
    checks
}

/// Part of a hunt's time that the control gets, for each check.
const CONTROL_PART: u32 = 6;

/// The same seeds without any bug: every check that hunts must find nothing. Returns how many
/// sequences there were, or what was found.
pub fn control(
    targets: &[Target],
    effort: Effort,
    on_hang: fn(Check, u64) -> !,
) -> Result<u64, String> {
    let mut sequences = 0;
    for check in killers(targets) {
        for seed in 0..effort.seeds {
            let plan = Plan {
                base: base_of(seed),
                budget: effort.budget / CONTROL_PART,
                threads: effort.threads,
                total: check.total(false),
                bug: None,
                survey: false,
                on_hang,
            };
            let report = prove::run(check, &plan);
            if let Some((number, failure)) = report.failures.first() {
                return Err(prove::explain(check, *number, failure, None));
            }
            if report.sequences() == 0 {
                return Err(format!("{} did not run a single sequence", check.name()));
            }
            sequences += report.sequences();
        }
    }
    Ok(sequences)
}

/// Looks for one bug on every seed. `hunt_seed` runs [`hunt_here`] in another process and
/// returns what it said.
pub fn hunt(target: Target, effort: Effort, hunt_seed: impl Fn(u64) -> Said) -> Kill {
    let mut kill = Kill {
        target,
        killed: 0,
        seeds: 0,
        sequences: Vec::new(),
        shrunk: None,
        property: String::new(),
        trouble: None,
    };
    for seed in 0..effort.seeds {
        kill.seeds += 1;
        kill.enter(&hunt_seed(seed));
    }
    kill
}

impl Kill {
    /// Enters what a hunt said. Only two things are a kill: a process that says so, and one
    /// that the bug made take so much memory, or stack, that it was ended after it had begun.
    fn enter(&mut self, said: &Said) {
        let (mut started, mut property) = (false, None);
        for line in said.text.lines() {
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            match words[..] {
                ["started"] => started = true,
                ["survived"] if said.end == End::Well => return,
                ["shrunk", steps] => {
                    let steps = steps.parse().ok();
                    self.shrunk = [self.shrunk, steps].into_iter().flatten().min();
                }
                ["killed", sequences, check, number, what] => {
                    if self.fails_without(check, number) {
                        return;
                    }
                    property = Some(what.to_owned());
                    self.sequences.extend(sequences.parse::<u64>());
                }
                _ => {}
            }
        }
        if started && DEADLY_SIGNALS.map(End::Signal).contains(&said.end) {
            property.get_or_insert_with(|| "the process died (memory)".to_owned());
        }
        let Some(property) = property else {
            let text = said.text.replace('\n', " ");
            self.trouble = Some(format!("a hunt ended with {:?} and said: {text}", said.end));
            return;
        };
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
            self.trouble = Some(format!("{} {number:#x}: {}", check.name(), failure.detail));
        }
        failure.is_some()
    }

    /// Whether it was found on at least nine of ten seeds, and not by a false alarm.
    pub fn is_good(&self) -> bool {
        self.seeds > 0 && self.killed * 10 >= self.seeds * 9 && self.trouble.is_none()
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
            self.trouble.as_ref().unwrap_or(&self.property),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(text: &str, end: End) -> Kill {
        hunt(TARGETS[0], EFFORT, |_| Said {
            text: text.to_owned(),
            end,
        })
    }

    const EFFORT: Effort = Effort {
        seeds: 1,
        budget: Duration::ZERO,
        threads: 1,
    };

    #[test]
    fn only_a_find_or_a_death_after_the_start_is_a_kill() {
        assert!(entered("started\nkilled 3 C1 0x1 it\n", End::Well).is_good());
        assert!(entered("started\n", End::Signal(6)).is_good());
        for (text, end) in [
            ("", End::Badly),
            ("", End::Signal(6)),
            ("started\n", End::Badly),
            ("started\n", End::Well),
            ("no such command\n", End::Well),
        ] {
            let kill = entered(text, end);
            assert!(!kill.is_good() && kill.trouble.is_some(), "{text} {end:?}");
        }
        let survived = entered("started\nsurvived\n", End::Well);
        assert!(!survived.is_good() && survived.trouble.is_none());
        let none = hunt(
            TARGETS[0],
            Effort { seeds: 0, ..EFFORT },
            |_| unreachable!(),
        );
        assert!(!none.is_good(), "no seed shows nothing");
    }
}
