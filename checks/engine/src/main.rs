//! `prove`: runs the checks of the engine.
//!
//! ```text
//! prove prove --minutes N [--seed S] [--check C2] [--threads T] [--thorough] [--survey]
//! prove mutants [--seeds K] [--budget SECONDS] [--only M7] [--threads T]
//! prove replay CHECK NUMBER [--mutant M7]
//! ```
//! `--survey` goes on after a violation and shows one of each sort.
//! Exit status 0: everything holds; 1: something does not; 2: wrong usage.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::time::Duration;

use engine_checks::checks::Check;
use engine_checks::mutants::{self, Bug, Effort, End, Said, Target};
use engine_checks::prove::{self, Plan};
use rustix::process::{Resource, Rlimit, setrlimit};

const USAGE: &str = "usage:
  prove prove --minutes N [--seed S] [--check C2] [--threads T] [--thorough] [--survey]
  prove mutants [--seeds K] [--budget SECONDS] [--only M7] [--threads T]
  prove replay CHECK NUMBER [--mutant M7]";

/// Flags by name, and what is no flag.
struct Arguments {
    flags: Vec<(String, String)>,
    words: Vec<String>,
}

impl Arguments {
    fn parse() -> Option<Arguments> {
        let (mut flags, mut words) = (Vec::new(), Vec::new());
        let mut left = std::env::args().skip(1);
        while let Some(argument) = left.next() {
            match argument.strip_prefix("--") {
                Some(switch @ ("thorough" | "survey")) => {
                    flags.push((switch.to_owned(), String::new()));
                }
                Some(flag) => flags.push((flag.to_owned(), left.next()?)),
                None => words.push(argument),
            }
        }
        Some(Arguments { flags, words })
    }

    fn text(&self, flag: &str) -> Option<&str> {
        self.flags
            .iter()
            .find(|(name, _)| name == flag)
            .map(|(_, value)| value.as_str())
    }

    /// `Err` if it is there and no number.
    fn number(&self, flag: &str, default: u64) -> Result<u64, String> {
        match self.text(flag) {
            None => Ok(default),
            Some(text) => number(text).ok_or_else(|| format!("--{flag}: {text} is no number")),
        }
    }
}

/// Decimal, or hexadecimal after `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Bytes of memory that a run may take: a check that needs more has lost its way, and must
/// not take the machine with it.
const MEMORY_BYTES_MAX: u64 = 3 << 30;

fn main() -> ExitCode {
    let limit = Rlimit {
        current: Some(MEMORY_BYTES_MAX),
        maximum: Some(MEMORY_BYTES_MAX),
    };
    if let Err(error) = setrlimit(Resource::As, limit) {
        eprintln!("memory is not limited: {error}");
    }
    let Some(arguments) = Arguments::parse() else {
        return usage("a flag has no value");
    };
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["prove"] => prove_all(&arguments),
        ["mutants"] => run_mutants(&arguments),
        ["hunt", mutant, seed] => hunt(&arguments, mutant, seed),
        ["replay", check, number] => replay(&arguments, check, number),
        _ => Err("no such command".to_owned()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => usage(&reason),
    }
}

fn usage(reason: &str) -> ExitCode {
    eprintln!("{reason}\n{USAGE}");
    ExitCode::from(2)
}

fn threads(arguments: &Arguments) -> Result<usize, String> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    Ok(arguments.number("threads", cores)? as usize)
}

fn prove_all(arguments: &Arguments) -> Result<bool, String> {
    let minutes = arguments.text("minutes").unwrap_or("1");
    let minutes: f64 = minutes
        .parse()
        .map_err(|_| format!("--minutes: {minutes}"))?;
    let base = arguments.number("seed", drawn_seed())?;
    println!("base seed {base:#x}");
    let threads = threads(arguments)?;
    let thorough = arguments.text("thorough").is_some();
    let survey = arguments.text("survey").is_some();
    let checks: Vec<Check> = match arguments.text("check") {
        None => Check::ALL.to_vec(),
        Some(name) => vec![Check::from_name(name).ok_or(format!("no check {name}"))?],
    };
    // What can be counted first: time that it leaves goes to the others.
    let (finite, random): (Vec<Check>, Vec<Check>) = checks
        .iter()
        .partition(|check| check.total(thorough).is_some());
    let mut shares: u32 = checks.iter().map(|check| check.share()).sum();
    let mut left = Duration::from_secs_f64(minutes * 60.0);
    let mut reports = Vec::new();
    for check in finite.into_iter().chain(random) {
        let budget = left.mul_f64(f64::from(check.share()) / f64::from(shares));
        eprintln!(
            "{}: {}, up to {} s",
            check.name(),
            check.property(),
            budget.as_secs()
        );
        let total = check.total(thorough);
        let report = prove::run(
            check,
            &Plan {
                base,
                budget,
                threads,
                total,
                bug: None,
                survey,
                on_hang,
            },
        );
        for (number, failure) in &report.failures {
            println!("{}", prove::explain(check, *number, failure, None));
        }
        eprintln!("{}", report.notes());
        left = left.saturating_sub(report.took);
        shares -= check.share();
        reports.push(report);
    }
    reports.sort_by_key(|report| report.check.name());
    println!("{}", prove::header());
    reports
        .iter()
        .for_each(|report| println!("{}", report.line()));
    println!();
    reports
        .iter()
        .for_each(|report| println!("{}", report.notes()));
    Ok(reports.iter().all(prove::Report::is_good))
}

fn drawn_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| since.as_nanos() as u64)
}

fn on_hang(check: Check, number: u64) -> ! {
    println!("{} {number:#x} does not come to an end", check.name());
    println!("  replay: cargo xtask replay {} {number:#x}", check.name());
    std::process::exit(1)
}

/// For [`hunt`]: to loop without end is to be found.
fn found_by_hanging(check: Check, number: u64) -> ! {
    println!(
        "killed ? {} {number:#x} it does not come to an end",
        check.name()
    );
    std::process::exit(0)
}

/// Looks for one mutant on one seed; for [`run_mutants`], which starts it.
fn hunt(arguments: &Arguments, mutant: &str, seed: &str) -> Result<bool, String> {
    let target = mutants::find(mutant).ok_or(format!("no mutant {mutant}"))?;
    let seed = number(seed).ok_or(format!("{seed} is no number"))?;
    let budget = Duration::from_secs(arguments.number("budget", 60)?);
    let effort = Effort {
        seeds: 1,
        budget,
        threads: threads(arguments)?,
    };
    mutants::hunt_here(target, seed, effort, found_by_hanging, |line| {
        println!("{line}")
    });
    Ok(true)
}

fn hunt_in_child(mutant: &str, seed: u64, effort: Effort) -> Said {
    let numbers = [effort.budget.as_secs(), effort.threads as u64].map(|n| n.to_string());
    let said = std::env::current_exe().and_then(|me| {
        std::process::Command::new(me)
            .args(["hunt", mutant, &seed.to_string(), "--budget", &numbers[0]])
            .args(["--threads", &numbers[1]])
            .stderr(std::process::Stdio::null())
            .output()
    });
    match said {
        Err(error) => Said {
            text: format!("no process: {error}"),
            end: End::Badly,
        },
        Ok(output) => Said {
            text: String::from_utf8_lossy(&output.stdout).into_owned(),
            end: match (output.status.success(), output.status.signal()) {
                (true, _) => End::Well,
                (false, Some(signal)) => End::Signal(signal),
                (false, None) => End::Badly,
            },
        },
    }
}

fn run_mutants(arguments: &Arguments) -> Result<bool, String> {
    let effort = Effort {
        seeds: arguments.number("seeds", 10)?,
        budget: Duration::from_secs(arguments.number("budget", 60)?),
        threads: threads(arguments)?,
    };
    if effort.seeds == 0 {
        return Err("--seeds 0 looks for nothing".to_owned());
    }
    let only = arguments.text("only");
    let is_wanted =
        |target: &Target| only.is_none_or(|only| only.eq_ignore_ascii_case(target.name));
    let targets: Vec<Target> = mutants::TARGETS.into_iter().filter(is_wanted).collect();
    if targets.is_empty() {
        return Err("no such mutant".to_owned());
    }
    let mut good = true;
    match mutants::control(&targets, effort, on_hang) {
        Ok(sequences) => println!("without a bug {sequences} sequences of the same seeds hold"),
        Err(found) => {
            println!("without a bug: {found}");
            good = false;
        }
    }
    println!("{}", mutants::header());
    for target in targets {
        let kill = mutants::hunt(target, effort, |seed| {
            hunt_in_child(target.name, seed, effort)
        });
        println!("{}", kill.line());
        good &= kill.is_good();
    }
    Ok(good)
}

fn replay(arguments: &Arguments, check: &str, text: &str) -> Result<bool, String> {
    let check = Check::from_name(check).ok_or(format!("no check {check}"))?;
    let number = number(text).ok_or(format!("{text} is no number"))?;
    let target = match arguments.text("mutant") {
        None => None,
        Some(name) => Some(mutants::find(name).ok_or(format!("no mutant {name}"))?),
    };
    let run = |bug| {
        let outcome = check.run(number, bug, false);
        println!("trace {:#018x}", outcome.trace);
        match outcome.failure {
            None => {
                println!("{} {number:#x} holds", check.name());
                true
            }
            Some(failure) => {
                println!("{}", prove::explain(check, number, &failure, bug));
                false
            }
        }
    };
    Ok(match target.map(|target| target.bug) {
        None => run(None),
        Some(bug @ (Bug::Engine(_) | Bug::Model(_))) => mutants::with_bug(bug, run),
    })
}
