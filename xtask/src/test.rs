//! `cargo xtask test`: all tests in sections, then one summary.

use std::process::{Command, ExitCode};

use crate::checks::{self, engine_program, torture_program};
use crate::clients::{self, Clients};
use crate::dist;
use crate::report::{Report, Tally};
use crate::workspace::{self, Outcome, cargo, in_ci, root, run_watched};

const SECTIONS: [&str; 9] = [
    "crates",
    "engine",
    "schedules",
    "release",
    "clients",
    "prove",
    "mutants",
    "sets",
    "torture",
];

struct Request {
    only: Vec<String>,
    prove_minutes: String,
    torture_seconds: String,
    pytest: Vec<String>,
}

fn run_all(request: &Request) -> ExitCode {
    let wanted =
        |name: &str| request.only.is_empty() || request.only.iter().any(|only| only == name);
    let mut report = Report::new();
    if wanted("crates") {
        // Apart from the two below, whose features of the engine must not leak into these.
        let args = [
            "--workspace",
            "--exclude",
            "schedules",
            "--exclude",
            "engine-checks",
        ];
        report.section("crates", |tally| cargo_test(&args, tally));
    }
    if wanted("engine") {
        let args = ["--profile", "checks", "--package", "engine-checks"];
        report.section("engine", |tally| cargo_test(&args, tally));
    }
    if wanted("schedules") {
        let args = [
            "--profile",
            "checks",
            "--package",
            "schedules",
            "--features",
            "explore",
        ];
        report.section("schedules", |tally| cargo_test(&args, tally));
    }
    if wanted("release") {
        report.section("release", release);
    }
    if wanted("clients") {
        report.section("clients", |tally| python_clients(&request.pytest, tally));
    }
    if wanted("prove") {
        report.section("prove", |tally| {
            let minutes = ["--minutes".to_owned(), request.prove_minutes.clone()];
            if checks::engine("prove", &minutes)? != ExitCode::SUCCESS {
                return Err("a property is violated; the replay command stands above".to_owned());
            }
            tally.add(Tally::ONE_PASSED);
            Ok(String::new())
        });
    }
    if wanted("mutants") {
        // One seed each, briefly: enough to notice a check that has gone blind.
        report.section("mutants", |tally| {
            let args = ["--seeds", "1", "--budget", "60"].map(str::to_owned);
            if checks::engine("mutants", &args)? != ExitCode::SUCCESS {
                return Err("a seeded bug was not found, or the hunt itself failed".to_owned());
            }
            tally.add(Tally::ONE_PASSED);
            Ok(String::new())
        });
    }
    if wanted("sets") {
        report.section("sets", |tally| {
            if checks::sets(&[])? != ExitCode::SUCCESS {
                return Err("a set lost or brought back something; see above".to_owned());
            }
            tally.add(Tally::ONE_PASSED);
            Ok(String::new())
        });
    }
    if wanted("torture") {
        report.section("torture lying", |tally| {
            let mut torture = Command::new(torture_program()?);
            workspace::run(torture.args(["torture", "--lying", "--seconds", "15"]))?;
            tally.add(Tally::ONE_PASSED);
            Ok(String::new())
        });
        for (disk, disks) in [("volatile", "1"), ("file", "1"), ("file", "6")] {
            report.section(&format!("torture {disk} {disks}"), |tally| {
                let mut torture = Command::new(torture_program()?);
                torture.args(["torture", "--disk", disk, "--disks", disks]);
                torture.args(["--seconds", &request.torture_seconds]);
                if disk == "file" {
                    torture.arg("--server").arg(dist::build()?);
                }
                workspace::run(&mut torture)?;
                tally.add(Tally::ONE_PASSED);
                Ok(String::new())
            });
        }
    }
    if report.finish(!in_ci()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn cargo_test(args: &[&str], tally: &mut Tally) -> Outcome<String> {
    let mut command = cargo("test")?;
    command.args(["--no-fail-fast"]).args(args);
    let status = run_watched(&mut command, |line| tally.add_libtest_line(line))?;
    if status.success() {
        Ok(String::new())
    } else {
        Err(format!("cargo test ended with {status}"))
    }
}

/// The release is static and holds no seeded bug, both verified by its build; and the search
/// for seeded bugs finds them where they are.
fn release(tally: &mut Tally) -> Outcome<String> {
    dist::build()?;
    tally.add(Tally::ONE_PASSED);
    let checks = engine_program()?;
    let image = std::fs::read(&checks)
        .map_err(|error| format!("cannot read {}: {error}", checks.display()))?;
    if !dist::has_seeded_bugs(&image) {
        return Err(format!(
            "the search for seeded bugs is blind: {} has them",
            checks.display()
        ));
    }
    tally.add(Tally::ONE_PASSED);
    Ok(String::new())
}

fn python_clients(pytest: &[String], tally: &mut Tally) -> Outcome<String> {
    let server = dist::build()?;
    let programs = match clients::prepare()? {
        Clients::Ready(programs) => programs,
        Clients::Missing(what) => {
            tally.add(Tally::ONE_SKIPPED);
            return Ok(format!("skipped: {what}"));
        }
    };
    let mut command = Command::new(programs.join("python"));
    command.current_dir(root()).env("CULLET_BIN", server);
    command
        .args(["-m", "pytest", "-ra", "--durations=5", "tests/clients"])
        .args(pytest);
    let status = run_watched(&mut command, |line| tally.add_pytest_line(line))?;
    if status.success() {
        Ok(String::new())
    } else {
        Err(format!("pytest ended with {status}"))
    }
}

pub fn run(args: &[String]) -> Outcome<ExitCode> {
    let default_minutes = if in_ci() { "5" } else { "1" };
    let from_environment =
        |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let mut request = Request {
        only: Vec::new(),
        prove_minutes: from_environment("CULLET_PROVE_MINUTES", default_minutes),
        torture_seconds: from_environment("CULLET_TORTURE_SECONDS", "60"),
        pytest: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || {
            args.next()
                .cloned()
                .ok_or_else(|| format!("`{arg}` needs a value"))
        };
        match arg.as_str() {
            "--minutes" => request.prove_minutes = value()?,
            "--seconds" => request.torture_seconds = value()?,
            "--only" => request.only.push(known_section(value()?)?),
            "--list" => {
                SECTIONS.iter().for_each(|section| println!("{section}"));
                return Ok(ExitCode::SUCCESS);
            }
            "--" => {
                request.pytest = args.cloned().collect();
                break;
            }
            _ => {
                return Err(format!(
                    "there is no option `{arg}`; see `cargo xtask test --help`"
                ));
            }
        }
    }
    Ok(run_all(&request))
}

fn known_section(name: String) -> Outcome<String> {
    if SECTIONS.contains(&name.as_str()) {
        Ok(name)
    } else {
        Err(format!(
            "there is no section `{name}`; there are {}",
            SECTIONS.join(", ")
        ))
    }
}
