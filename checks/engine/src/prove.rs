//! Runs checks for a time, on all cores, and says what was tried.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use simdisk::Rng;

use crate::case::Outcome;
use crate::checks::Check;
use crate::failure::Failure;
use crate::model::ModelBug;
use crate::shrink::shrink;
use crate::tally::Tally;

/// How long a failing case is shrunk.
const SHRINK_BUDGET: Duration = Duration::from_secs(30);

/// Of sequences with crashes, the part that may show nothing.
const VACUOUS_PERCENT: u64 = 5;

/// Of sequences with faults, the part that may end early; judged from a thousand on.
const ENDED_PERCENT: u64 = 10;
const ENDED_JUDGED_FROM: u64 = 1000;

/// From so many sequences on, every kind of operation must have followed every other.
const PAIRS_JUDGED_FROM: u64 = 100_000;

const HOLDS: &str = "holds";

/// What came of a check.
#[derive(Debug)]
pub struct Report {
    /// Which.
    pub check: Check,
    /// What was tried.
    pub tally: Tally,
    /// How many sequences there are, if that is known.
    pub total: Option<u64>,
    /// Violations: the number and what it was. The first, or in a survey the first of each
    /// sort.
    pub failures: Vec<(u64, Failure)>,
    /// How long it ran.
    pub took: Duration,
}

/// The sequence number of the `index`-th run of a check.
fn number(check: Check, base: u64, index: u64) -> u64 {
    let mut rng =
        Rng::new(base ^ (check as u64 + 1) << 56 ^ index.wrapping_mul(0x0000_0100_0000_01b3));
    rng.bits()
}

/// Every number below `total` once, in an order that depends on the base: what there is no time
/// for must not always be the same.
fn permuted(base: u64, index: u64, total: u64) -> u64 {
    let is_coprime = |step: &u64| {
        let (mut a, mut b) = (*step, total);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let step = (total / 2 + base % total.max(1)..).find(is_coprime);
    let at = u128::from(index) * u128::from(step.unwrap_or(1)) + u128::from(base);
    (at % u128::from(total.max(1))) as u64
}

/// How to run a check.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Decides all sequence numbers.
    pub base: u64,
    /// When to stop.
    pub budget: Duration,
    /// Threads.
    pub threads: usize,
    /// How many sequences there are, if that is known.
    pub total: Option<u64>,
    /// A bug seeded into the model.
    pub bug: Option<ModelBug>,
    /// Whether to go on after a violation, and collect one of each sort.
    pub survey: bool,
    /// What to do about a sequence that does not end. It must not return: the thread cannot
    /// be stopped.
    pub on_hang: fn(Check, u64) -> !,
}

/// How long a sequence may take, on a machine that does other things as well.
const SEQUENCE_MAX: Duration = Duration::from_secs(90);

/// Which sequence a thread runs, and since when.
type Slot = Mutex<Option<(u64, Instant)>>;

/// Looks after the threads until `done`.
fn watch(check: Check, slots: &[Slot], done: &AtomicBool, on_hang: fn(Check, u64) -> !) {
    while !done.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        for slot in slots {
            let running = *slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((number, since)) = running
                && since.elapsed() > SEQUENCE_MAX
            {
                on_hang(check, number);
            }
        }
    }
}

/// Violations by sort: the index of the sequence, its number, what it was.
type Found = BTreeMap<String, (u64, u64, Failure)>;

/// Runs one check until the time is over, everything is done, or something fails.
pub fn run(check: Check, plan: &Plan) -> Report {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new((Tally::default(), Found::new()));
    let slots: Vec<Slot> = (0..plan.threads.max(1)).map(|_| Mutex::new(None)).collect();
    let done = AtomicBool::new(false);
    let work = |slot: &Slot| {
        let enter_slot = |running| *slot.lock().unwrap_or_else(PoisonError::into_inner) = running;
        let mut tally = Tally::default();
        while !stop.load(Ordering::Relaxed) && started.elapsed() < plan.budget {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if plan.total.is_some_and(|total| index >= total) {
                break;
            }
            let number = plan.total.map_or_else(
                || number(check, plan.base, index),
                |total| permuted(plan.base, index, total),
            );
            enter_slot(Some((number, Instant::now())));
            let Outcome {
                failure,
                tally: more,
                ..
            } = check.run(number, plan.bug, false);
            enter_slot(None);
            tally.add(&more);
            if let Some(failure) = failure {
                stop.store(!plan.survey, Ordering::Relaxed);
                let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                enter(&mut sum.1, plan.survey, (index, number, failure));
            }
        }
        sum.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .add(&tally);
    };
    std::thread::scope(|scope| {
        let watchdog = scope.spawn(|| watch(check, &slots, &done, plan.on_hang));
        let workers: Vec<_> = slots
            .iter()
            .map(|slot| scope.spawn(|| work(slot)))
            .collect();
        for worker in workers {
            worker.join().expect("a check's panics are caught");
        }
        done.store(true, Ordering::Relaxed);
        drop(watchdog);
    });
    let (tally, found) = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut failures: Vec<_> = found.into_values().collect();
    failures.sort_by_key(|(index, _, _)| *index);
    Report {
        check,
        tally,
        total: plan.total,
        failures: failures
            .into_iter()
            .map(|(_, number, failure)| (number, failure))
            .collect(),
        took: started.elapsed(),
    }
}

/// Keeps the first violation in the order of numbers, whichever thread was faster; in a
/// survey the first of each sort, which is told by its words without the numbers in them.
fn enter(found: &mut Found, survey: bool, failure: (u64, u64, Failure)) {
    let mut sort = String::new();
    if survey {
        let words = failure
            .2
            .detail
            .chars()
            .filter(|c| c.is_ascii_alphabetic() || *c == ' ');
        sort = format!(
            "{}: {}",
            failure.2.property,
            words.take(60).collect::<String>()
        );
    }
    match found.get(&sort) {
        Some(first) if first.0 < failure.0 => {}
        _ => drop(found.insert(sort, failure)),
    }
}

impl Report {
    /// Sequences that were run.
    pub fn sequences(&self) -> u64 {
        self.tally.sequences
    }

    /// In a word or two: whether it holds, and whether enough was tried to say so.
    pub fn result(&self) -> &'static str {
        let is_vacuous = matches!(self.check, Check::C2 | Check::C5)
            && self.tally.vacuous * 100 >= self.tally.sequences * VACUOUS_PERCENT;
        let is_cut_short = self.tally.sequences >= ENDED_JUDGED_FROM
            && self.tally.ended_total() * 100 >= self.tally.sequences * ENDED_PERCENT;
        let misses_pairs = self.tally.sequences >= PAIRS_JUDGED_FROM
            && matches!(self.check, Check::C1 | Check::C2 | Check::C5 | Check::C6)
            && !self.tally.missing_pairs().is_empty();
        if !self.failures.is_empty() {
            "VIOLATED"
        } else if self.tally.sequences == 0 {
            "NOT RUN"
        } else if is_vacuous {
            "VACUOUS"
        } else if is_cut_short {
            "CUT SHORT"
        } else if misses_pairs {
            "PAIRS MISSING"
        } else {
            HOLDS
        }
    }

    /// Whether it holds, and enough was tried.
    pub fn is_good(&self) -> bool {
        self.result() == HOLDS
    }

    /// One line of the table.
    pub fn line(&self) -> String {
        let tally = &self.tally;
        let sequences = match self.total {
            Some(total) => format!("{}/{total}", tally.sequences),
            None => tally.sequences.to_string(),
        };
        let result = self.result();
        format!(
            "| {:5} | {:62} | {sequences:>12} | {:>10} | {:>9} | {:>9} | {:>6} | {result} |",
            self.check.name(),
            self.check.property(),
            tally.operations,
            tally.crashes,
            tally.images,
            tally.faults_total(),
        )
    }

    /// What the table has no room for.
    pub fn notes(&self) -> String {
        let tally = &self.tally;
        let mut out = String::new();
        let seconds = self.took.as_secs_f64();
        let name = self.check.name();
        let _ = write!(
            out,
            "{name}: {:.0} sequences/s; {} answers compared, {} permitted errors, {} times out of \
             space",
            tally.sequences as f64 / seconds.max(0.001),
            tally.compared,
            tally.refused,
            tally.out_of_space,
        );
        if matches!(self.check, Check::C2 | Check::C5) {
            let share = tally.vacuous as f64 * 100.0 / tally.sequences.max(1) as f64;
            let torn = tally.torn;
            let _ = write!(
                out,
                "; {torn} crashes with unflushed writes; {share:.2} % vacuous"
            );
        }
        if !tally.ended.is_empty() {
            let _ = write!(out, "\n    ended early: {:?}", tally.ended);
        }
        if !tally.faults.is_empty() {
            let _ = write!(out, "\n    faults: {:?}", tally.faults);
        }
        if self.check == Check::C6 {
            let pairs = tally.fault_pairs();
            let _ = write!(out, "\n    {pairs} pairs of fault and operation met");
        }
        if matches!(self.check, Check::C1 | Check::C2 | Check::C5 | Check::C6) {
            let missing = tally.missing_pairs();
            let _ = write!(
                out,
                "\n    pairs of operations never seen: {}",
                missing.len()
            );
            if !missing.is_empty() && missing.len() <= 12 {
                let _ = write!(out, " {missing:?}");
            }
        }
        out
    }
}

/// The head of the table.
pub fn header() -> String {
    format!(
        "| {:5} | {:62} | {:>12} | {:>10} | {:>9} | {:>9} | {:>6} | result |\n\
         |-------|{}|-------------:|-----------:|----------:|----------:|-------:|--------|",
        "check",
        "property",
        "sequences",
        "operations",
        "crashes",
        "images",
        "faults",
        "-".repeat(64),
    )
}

/// Everything about a violation that helps: the property, the shrunk case, the replay.
pub fn explain(check: Check, number: u64, failure: &Failure, bug: Option<ModelBug>) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} is violated: {}", check.name(), failure.property);
    let _ = writeln!(out, "  {}", failure.detail);
    let _ = writeln!(
        out,
        "  replay: cargo xtask replay {} {number:#x}",
        check.name()
    );
    let Some(case) = check.case(number) else {
        let outcome = check.run(number, bug, true);
        list(&mut out, &outcome.log);
        return out;
    };
    let case = crate::case::Case { bug, ..case };
    let steps = case.steps.len();
    let shrunk = shrink(&case, failure.clone(), SHRINK_BUDGET);
    let _ = writeln!(
        out,
        "  shrunk from {steps} to {} steps ({} cases tried): {}",
        shrunk.case.steps.len(),
        shrunk.tried,
        shrunk.failure.detail
    );
    let _ = writeln!(out, "  {}", shrunk.case.knobs.describe());
    let keys: Vec<String> = shrunk
        .case
        .pool
        .hot
        .iter()
        .map(|key| format!("{}/{}", crate::model::name(&key.bytes), key.stem_len))
        .collect();
    let _ = writeln!(out, "  keys: {}", keys.join(" "));
    let outcome = shrunk.case.run(true);
    list(&mut out, &outcome.log);
    if outcome.log.is_empty() {
        list(&mut out, &shrunk.case.steps);
    }
    out
}

fn list(out: &mut String, lines: &[impl std::fmt::Display]) {
    for line in lines {
        let _ = writeln!(out, "    {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permuted_order_visits_every_number_once() {
        for (base, total) in [(0, 1), (3, 18), (u64::MAX, 180), (77, 1638)] {
            let mut seen: Vec<u64> = (0..total).map(|i| permuted(base, i, total)).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..total), "{base} {total}");
        }
    }
}
