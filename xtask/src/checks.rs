//! The programs under checks/, built and handed their arguments.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::dist;
use crate::workspace::{Outcome, build_executable, cargo, run_through};

/// `prove`, `mutants` and `replay`.
pub fn engine(command: &str, args: &[String]) -> Outcome<ExitCode> {
    let mut prove = Command::new(engine_program()?);
    prove.arg(command).args(passed_on(args));
    run_through(&mut prove)
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

/// `figures` of dist/cullet.
pub fn figures(args: &[String]) -> Outcome<ExitCode> {
    let server = dist::build()?;
    let mut command = Command::new(torture_program()?);
    command
        .arg("figures")
        .arg("--server")
        .arg(server)
        .args(passed_on(args));
    run_through(&mut command)
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
