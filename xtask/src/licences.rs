//! `cargo deny`, from the machine or from target/tools.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::workspace::{self, Outcome, in_ci, root, run_through};

/// Held here so that the check means the same everywhere.
const VERSION: &str = "0.20.2";

const MISSING: &str = "cargo-deny is not installed. Either of these brings it:
  cargo install --locked cargo-deny
  cargo xtask licences --install        (into target/tools)";

fn check(program: &Path) -> Outcome<ExitCode> {
    let mut command = Command::new(program);
    command.current_dir(root());
    command.args([
        "--workspace",
        "--all-features",
        "check",
        "licenses",
        "bans",
        "sources",
    ]);
    run_through(&mut command)
}

pub fn run(args: &[String]) -> Outcome<ExitCode> {
    if let Some(unknown) = args.iter().find(|arg| *arg != "--install") {
        return Err(format!(
            "there is no option `{unknown}`; see `cargo xtask licences --help`"
        ));
    }
    let own = root().join("target/tools/bin/cargo-deny");
    let found = [PathBuf::from("cargo-deny"), own.clone()]
        .into_iter()
        .find(|path| {
            Command::new(path)
                .arg("--version")
                .output()
                .is_ok_and(|output| output.status.success())
        });
    match found {
        Some(program) => check(&program),
        None if in_ci() || !args.is_empty() => {
            install()?;
            check(&own)
        }
        None => Err(MISSING.to_owned()),
    }
}

fn install() -> Outcome<()> {
    println!("building cargo-deny {VERSION} into target/tools (about two minutes)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    workspace::run(
        Command::new(cargo)
            .current_dir(root())
            .args([
                "install",
                "--quiet",
                "--locked",
                "cargo-deny",
                "--version",
                VERSION,
                "--root",
            ])
            .arg(root().join("target/tools")),
    )
}
