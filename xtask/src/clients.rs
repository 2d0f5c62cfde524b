//! The Python side of the tests: a virtual environment at the repository's root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace::{Outcome, root, run};

/// Why the clients cannot be used here, when that is the machine's fault and not a failure.
pub enum Clients {
    /// The virtual environment's directory of programs.
    Ready(PathBuf),
    /// What is missing and how to get it.
    Missing(String),
}

/// Creates or updates `.venv` so that it holds what tests/clients/requirements.txt names.
pub fn prepare() -> Outcome<Clients> {
    let venv = root().join(".venv");
    let programs = venv.join("bin");
    let wanted_path = root().join("tests/clients/requirements.txt");
    let wanted = std::fs::read_to_string(&wanted_path)
        .map_err(|error| format!("cannot read {}: {error}", wanted_path.display()))?;
    let stamp = venv.join("requirements.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(Clients::Ready(programs));
    }
    if let Some(what) = python_lacks() {
        return Ok(Clients::Missing(what));
    }
    println!("installing the clients into {}", venv.display());
    if let Err(what) = install(&venv, &wanted_path) {
        return Ok(Clients::Missing(format!(
            "the clients could not be installed ({what}); this needs PyPI or a copy of it"
        )));
    }
    std::fs::write(&stamp, wanted)
        .map_err(|error| format!("cannot write {}: {error}", stamp.display()))?;
    Ok(Clients::Ready(programs))
}

fn python_lacks() -> Option<String> {
    let check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))";
    let output = match Command::new("python3").args(["-c", check]).output() {
        Err(error) => {
            return Some(format!(
                "python3 cannot be started ({error}); install Python 3.9 or later"
            ));
        }
        Ok(output) => output,
    };
    if output.status.success() {
        None
    } else if output.stderr.is_empty() {
        Some("python3 is older than 3.9".to_owned())
    } else {
        Some("python3 has no venv module (on Debian: apt-get install python3-venv)".to_owned())
    }
}

fn install(venv: &Path, requirements: &Path) -> Outcome<()> {
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(venv))?;
    run(Command::new(venv.join("bin/python"))
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ])
        .arg(requirements))
}
