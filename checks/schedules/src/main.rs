//! Explores the engine's schedules: `schedules [prove|mutants|replay] …`.
#![allow(clippy::print_stdout, reason = "this program prints its findings")]

use std::process::ExitCode;
use std::time::Duration;

use schedules::explore::{explore, run_seed};
use schedules::scenarios::Scenario;
use shardstore::mutants::{self, Mutant};

const USAGE: &str = "\
usage: schedules prove [--seconds N] [--seed S]    explore every scenario
       schedules mutants [--seeds K]               let seeded bugs be found
       schedules replay SCENARIO SEED [MUTANT]     run one seed again";

/// Which scenario finds which seeded bug.
const KILLERS: [(Mutant, Scenario); 6] = [
    (Mutant::M11, Scenario::Registers),
    (Mutant::M12, Scenario::Maintenance),
    (Mutant::M13, Scenario::Snapshots),
    (Mutant::M14, Scenario::Maintenance),
    (Mutant::M16, Scenario::Evacuation),
    (Mutant::M25, Scenario::PowerCut),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |name: &str, default: u64| {
        let at = words.iter().position(|word| *word == name);
        at.and_then(|at| words.get(at + 1))
            .and_then(|word| parse(word))
            .unwrap_or(default)
    };
    match words.first() {
        Some(&"prove") => prove(number("--seconds", 60), number("--seed", 1)),
        Some(&"mutants") => kill(number("--seeds", 10)),
        Some(&"replay") if words.len() >= 3 => replay(&words[1..]),
        _ => {
            println!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

fn prove(seconds: u64, seed: u64) -> ExitCode {
    let each = Duration::from_secs(seconds) / Scenario::ALL.len() as u32;
    let mut failed = false;
    println!("{:<52} {:>10}  result", "property", "schedules");
    for scenario in Scenario::ALL {
        let (schedules, failure) = explore(scenario, seed, each, u64::MAX);
        let result = match &failure {
            None => "holds".to_owned(),
            Some(failure) => {
                failed = true;
                format!(
                    "FAILS: {}\n  replay: cargo xtask replay {} {:#x}",
                    failure.what,
                    scenario.name(),
                    failure.seed
                )
            }
        };
        println!("{:<52} {schedules:>10}  {result}", scenario.property());
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn kill(seeds: u64) -> ExitCode {
    const SCHEDULES_MAX: u64 = 20_000;
    let budget = Duration::from_secs(60);
    let mut survived = false;
    println!(
        "{:<7} {:<12} {:>10} {:>8}  what it is",
        "mutant", "killer", "schedules", "killed"
    );
    for (mutant, scenario) in KILLERS {
        let mut needed = Vec::new();
        for round in 0..seeds {
            mutants::set(Some(mutant));
            let (_, failure) = explore(scenario, 1 + round * 1_000_000, budget, SCHEDULES_MAX);
            mutants::set(None);
            needed.extend(failure.map(|failure| failure.schedules));
        }
        needed.sort_unstable();
        let median = needed.get(needed.len() / 2).copied().unwrap_or(0);
        let killed = format!("{}/{seeds}", needed.len());
        survived |= (needed.len() as u64) * 10 < seeds * 9;
        let (name, what) = (format!("{mutant:?}"), mutant.describe());
        println!(
            "{name:<7} {:<12} {median:>10} {killed:>8}  {what}",
            scenario.name()
        );
    }
    if survived {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn replay(words: &[&str]) -> ExitCode {
    let (Some(scenario), Some(seed)) = (Scenario::from_name(words[0]), parse(words[1])) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    let named = |name: &&str| Mutant::ALL.into_iter().find(|m| format!("{m:?}") == **name);
    mutants::set(words.get(2).and_then(named));
    match run_seed(scenario, seed) {
        Ok(()) => {
            println!("seed {seed:#x} of {} holds", scenario.name());
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("seed {seed:#x} of {} fails: {what}", scenario.name());
            ExitCode::FAILURE
        }
    }
}
