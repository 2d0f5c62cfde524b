//! `sets`: check C15 for many seeds; see [`set_checks::case`].
#![allow(clippy::print_stdout, reason = "a program that prints what it found")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const HELP: &str = "\
sets [--seeds N] [--seed S] [--steps N] [--threads N]

Runs check C15 for N seeds (50), from S on (drawn), each in so many steps (40), so many at a time
(16). A seed gives the same plan, but threads run as they like: a failure may need several tries.";

struct Request {
    seeds: u64,
    seed: u64,
    steps: u32,
    threads: usize,
}

fn request() -> Result<Request, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut request = Request {
        seeds: 50,
        seed: now.map_or(1, |now| now.as_nanos() as u64) >> 8,
        steps: 40,
        threads: 16,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--help" {
            return Err(HELP.to_owned());
        }
        let value = args
            .next()
            .ok_or_else(|| format!("{flag} needs a value\n{HELP}"))?;
        let number = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        let number = number.map_err(|_| format!("{flag}: {value} is no number"))?;
        match flag.as_str() {
            "--seeds" => request.seeds = number,
            "--seed" => request.seed = number,
            "--steps" => request.steps = u32::try_from(number).unwrap_or(u32::MAX),
            "--threads" => request.threads = (number as usize).clamp(1, 64),
            _ => return Err(format!("{flag} is not known\n{HELP}")),
        }
    }
    Ok(request)
}

fn main() -> ExitCode {
    let request = match request() {
        Ok(request) => request,
        Err(why) => {
            println!("{why}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let failures: Mutex<Vec<(u64, String)>> = Mutex::default();
    let totals: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let running: Arc<Mutex<BTreeMap<u64, Instant>>> = Arc::default();
    let watched = running.clone();
    std::thread::spawn(move || watch(&watched));
    std::thread::scope(|scope| {
        for _ in 0..request.threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= request.seeds {
                        return;
                    }
                    let seed = request.seed.wrapping_add(number);
                    if let Ok(mut running) = running.lock() {
                        running.insert(seed, Instant::now());
                    }
                    let run =
                        std::panic::catch_unwind(|| set_checks::case::run(seed, request.steps));
                    match run {
                        Ok(Ok(counts)) => {
                            if let Ok(mut totals) = totals.lock() {
                                for (what, count) in counts.steps {
                                    *totals.entry(what).or_default() += count;
                                }
                            }
                        }
                        Ok(Err(why)) => fail(&failures, seed, why),
                        Err(_) => fail(&failures, seed, "it panicked, see above".to_owned()),
                    }
                    if let Ok(mut running) = running.lock() {
                        running.remove(&seed);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    let totals = totals.into_inner().unwrap_or_default();
    println!(
        "C15: {} seeds of {} steps in {:.0} s, {} failed",
        request.seeds,
        request.steps,
        began.elapsed().as_secs_f64(),
        failures.len()
    );
    let totals: Vec<String> = totals
        .iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    println!("    {}", totals.join(", "));
    match failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// A history that hangs ends all of them.
fn watch(running: &Mutex<BTreeMap<u64, Instant>>) {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let Ok(running) = running.lock() else {
            return;
        };
        let hung = running.iter().find(|(_, since)| since.elapsed() > HANG);
        if let Some((seed, _)) = hung {
            println!("C15 hangs for seed {seed:#x}");
            std::process::abort();
        }
    }
}

/// No history takes so long.
const HANG: Duration = Duration::from_secs(150);

fn fail(failures: &Mutex<Vec<(u64, String)>>, seed: u64, why: String) {
    println!(
        "C15 does not hold for seed {seed:#x}: {why}\nonce more: cargo xtask sets --seeds 1 --seed \
         {seed:#x}"
    );
    if let Ok(mut failures) = failures.lock() {
        failures.push((seed, why));
    }
}
