//! Running a scenario under many schedules, and saying which seed failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::scenarios::Scenario;

/// Schedules per seed: enough for PCT to learn how long the case is.
const SCHEDULES_PER_SEED: usize = 10;

/// How much longer than planned to go on for the least number of schedules, on a slow machine.
const EXTENSION: Duration = Duration::from_secs(120);

/// A seed whose run did not hold.
#[derive(Debug, Clone)]
pub struct Failure {
    /// It replays the failure.
    pub seed: u64,
    /// Schedules explored until it was found, roughly.
    pub schedules: u64,
    /// What did not hold.
    pub what: String,
}

impl Failure {
    /// For people: what did not hold, and how to see it again.
    pub fn report(&self, scenario: Scenario) -> String {
        let (name, seed) = (scenario.name(), self.seed);
        format!(
            "{name}: {}\n  replay: cargo xtask replay {name} {seed:#x}",
            self.what
        )
    }
}

/// How long to explore.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// The first seed; the others follow it.
    pub first: u64,
    /// When to stop.
    pub budget: Duration,
    /// Schedules before which not to stop for the time alone, within reason.
    pub schedules_min: u64,
    /// Schedules after which to stop.
    pub schedules_max: u64,
    /// Seeds that are explored side by side, each on a thread of its own.
    pub threads: u64,
}

/// Explores seeds until the time is up, the number of schedules reached or something fails.
pub fn explore(scenario: Scenario, effort: Effort) -> (u64, Option<Failure>) {
    let started = Instant::now();
    let next = AtomicU64::new(effort.first);
    let schedules = AtomicU64::new(0);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let has_failed = || {
        let failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some()
    };
    let goes_on = || {
        let (done, elapsed) = (schedules.load(Ordering::Relaxed), started.elapsed());
        let is_short = done < effort.schedules_min && elapsed < effort.budget + EXTENSION;
        done < effort.schedules_max && (elapsed < effort.budget || is_short)
    };
    let work = || {
        while goes_on() && !has_failed() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let result = run_seed(scenario, seed);
            let done = schedules.fetch_add(SCHEDULES_PER_SEED as u64, Ordering::Relaxed);
            if let Err(what) = result {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(Failure {
                    seed,
                    schedules: done + 1,
                    what,
                });
            }
        }
    };
    std::thread::scope(|scope| {
        (0..effort.threads.max(1)).for_each(|_| drop(scope.spawn(work)));
    });
    let failure = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    (schedules.into_inner(), failure)
}

/// Runs all schedules of one seed: random ones, and PCT of depth 2 and 3 (Burckhardt et al.,
/// *A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs*, 2010).
pub fn run_seed(scenario: Scenario, seed: u64) -> Result<(), String> {
    quiet_panics();
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(1_000_000);
    config.stack_size = 512 * 1024;
    let body = move || scenario.run(seed);
    let run = || match seed % 3 {
        0 => {
            let scheduler = RandomScheduler::new_from_seed(seed, SCHEDULES_PER_SEED);
            Runner::new(scheduler, config).run(body)
        }
        rest => {
            let scheduler =
                PctScheduler::new_from_seed(seed, 1 + rest as usize, SCHEDULES_PER_SEED);
            Runner::new(scheduler, config).run(body)
        }
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(_) => Ok(()),
        Err(panic) => Err(message(&*panic)),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// A failing schedule is reported once, by its seed, not by every thread that unwinds.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(scenario: Scenario) {
        let effort = Effort {
            first: 1,
            budget: Duration::from_secs(20),
            schedules_min: 10,
            schedules_max: 300,
            threads: 1,
        };
        let (schedules, failure) = explore(scenario, effort);
        if let Some(failure) = failure {
            // Not by a panic's message: the hook that prints those is silenced.
            eprintln!("{}", failure.report(scenario));
            panic!("a schedule fails");
        }
        assert!(schedules >= 10);
    }

    #[test]
    fn registers_are_linearizable() {
        holds(Scenario::Registers);
    }

    #[test]
    fn snapshots_never_change() {
        holds(Scenario::Snapshots);
    }

    #[test]
    fn evacuation_never_undoes_a_write() {
        holds(Scenario::Evacuation);
    }

    #[test]
    fn maintenance_in_parallel_loses_nothing() {
        holds(Scenario::Maintenance);
    }

    #[test]
    fn the_engines_threads_end_and_lose_nothing() {
        holds(Scenario::Engine);
    }

    #[test]
    fn power_cuts_under_concurrency_lose_nothing() {
        holds(Scenario::PowerCut);
    }
}
