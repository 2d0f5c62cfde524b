//! The programs under checks/, built and handed their arguments.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::dist;
use crate::workspace::{Outcome, build_executable, cargo, run_through};

/// Of each minute of `prove`, the seconds that go to schedules.
const SCHEDULES_SECONDS: f64 = 15.0;

/// From so many minutes on, `prove` is the long run.
const LONG_MINUTES: f64 = 30.0;

/// From so many minutes on, each scenario must have been tried in a thousand schedules.
const CI_MINUTES: f64 = 5.0;

/// `prove`, `mutants` and `replay`: two programs, because the one for schedules is built with
/// other threads and locks.
pub fn engine(command: &str, args: &[String]) -> Outcome<ExitCode> {
    let mut args = passed_on(args);
    if command == "prove" && !args.iter().any(|arg| arg == "--minutes") {
        args.extend(["--minutes".to_owned(), "1".to_owned()]);
    }
    let value = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1).map(|value| value.to_ascii_uppercase())
    };
    let (sequences, schedules) = match command {
        "replay" => {
            let first = args.first().map(String::as_str).unwrap_or_default();
            let is_check = first.starts_with(['c', 'C']) && first[1..].starts_with(DIGITS);
            (is_check, !is_check)
        }
        "prove" => {
            let named = value("--check").map(|check| ["C8", "C9"].contains(&check.as_str()));
            (named != Some(true), named != Some(false))
        }
        _ => {
            let named = value("--only").map(|bug| CONCURRENT_BUGS.contains(&bug.as_str()));
            (named != Some(true), named != Some(false))
        }
    };
    let minutes: f64 = match value("--minutes") {
        None => 0.0,
        Some(text) => text
            .parse()
            .map_err(|_| format!("--minutes: `{text}` is no number"))?,
    };
    let both = sequences && schedules;
    // By the whole, of which each program gets a part.
    let is_long = command == "prove" && minutes >= LONG_MINUTES;
    let is_ci_length = command == "prove" && both && minutes >= CI_MINUTES;
    let mut result = ExitCode::SUCCESS;
    if sequences {
        let share = if both {
            1.0 - SCHEDULES_SECONDS / 60.0
        } else {
            1.0
        };
        let mut program = Command::new(engine_program()?);
        program.arg(command);
        program.args(replaced(&args, "--minutes", "--minutes", minutes * share));
        if is_long && !args.iter().any(|arg| arg == "--thorough") {
            program.arg("--thorough");
        }
        let code = run_through(&mut program)?;
        if code != ExitCode::SUCCESS {
            result = code;
        }
    }
    if schedules {
        let share = if both { SCHEDULES_SECONDS } else { 60.0 };
        let mut program = Command::new(schedules_program()?);
        program.arg(command);
        let seconds = (minutes * share).ceil();
        program.args(replaced(&args, "--minutes", "--seconds", seconds));
        if is_ci_length && !args.iter().any(|arg| arg == "--schedules-min") {
            program.args(["--schedules-min", "1000"]);
        }
        let code = run_through(&mut program)?;
        if code != ExitCode::SUCCESS {
            result = code;
        }
    }
    Ok(result)
}

/// The seeded bugs that only the program for schedules knows.
const CONCURRENT_BUGS: [&str; 6] = ["M11", "M12", "M13", "M14", "M16", "M30"];

const DIGITS: [char; 10] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'];

/// The arguments with another value, under another name, for one flag.
fn replaced(args: &[String], flag: &str, name: &str, value: f64) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == flag {
            args.next();
            out.extend([name.to_owned(), value.to_string()]);
        } else {
            out.push(arg.clone());
        }
    }
    out
}

/// Builds the program of checks/engine.
pub fn engine_program() -> Outcome<PathBuf> {
    let mut build = cargo("build")?;
    build.args([
        "--profile",
        "checks",
        "--package",
        "engine-checks",
        "--bin",
        "prove",
    ]);
    build_executable(&mut build, "prove")
}

/// Builds the program of checks/schedules.
fn schedules_program() -> Outcome<PathBuf> {
    let mut build = cargo("build")?;
    build.args(["--profile", "checks", "--package", "schedules"]);
    build.args(["--features", "explore", "--bin", "schedules"]);
    build_executable(&mut build, "schedules")
}

/// `sets`.
pub fn sets(args: &[String]) -> Outcome<ExitCode> {
    let mut build = cargo("build")?;
    build.args(["--profile", "checks", "--package", "set-checks"]);
    build.args(["--bin", "sets"]);
    let program = build_executable(&mut build, "sets")?;
    run_through(Command::new(program).args(passed_on(args)))
}

/// `torture`; needs dist/cullet only for the file disk.
pub fn torture(args: &[String]) -> Outcome<ExitCode> {
    let on_files = args.windows(2).any(|pair| pair == ["--disk", "file"])
        || args.iter().any(|arg| arg == "--disk=file");
    let mut command = Command::new(torture_program()?);
    command.arg("torture").args(passed_on(args));
    if on_files {
        command.arg("--server").arg(dist::build()?);
    }
    run_through(&mut command)
}

/// `figures` and `compare` of dist/cullet.
pub fn measure(command: &str, args: &[String]) -> Outcome<ExitCode> {
    let server = dist::build()?;
    let mut program = Command::new(torture_program()?);
    program
        .arg(command)
        .arg("--server")
        .arg(server)
        .args(passed_on(args));
    run_through(&mut program)
}

/// Builds the program of checks/torture the way dist/cullet is built, so that the two share
/// their dependencies.
pub fn torture_program() -> Outcome<PathBuf> {
    dist::static_build("torture", "torture")
}

/// `--help-all` asks the program itself; a leading `--` may be written and means nothing.
fn passed_on(args: &[String]) -> Vec<String> {
    let args = args.strip_prefix(&["--".to_owned()]).unwrap_or(args);
    args.iter()
        .map(|arg| {
            if arg == "--help-all" {
                "--help".to_owned()
            } else {
                arg.clone()
            }
        })
        .collect()
}
