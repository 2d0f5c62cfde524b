//! Where the repository is, and how cargo is called in it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::OnceLock;

/// What commands return: an explanation is printed as it is.
pub type Outcome<T> = Result<T, String>;

/// The repository's root.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Cargo sets the variable for `cargo run`; the compiled-in path serves a bare call.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
        let mut path = PathBuf::from(manifest);
        path.pop();
        path
    })
}

/// Whether this is an automatic run, in which nothing may be left out.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// `cargo SUBCOMMAND` in the repository, with `--ignore-rust-version` where the compiler is
/// older than what the workspace declares.
pub fn cargo(subcommand: &str) -> Outcome<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).arg(subcommand);
    // What `cargo run` tells this process about the xtask crate is not for other builds.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    if compiler_is_older()? {
        command.arg("--ignore-rust-version");
    }
    Ok(command)
}

fn compiler_is_older() -> Outcome<bool> {
    static OLDER: OnceLock<Outcome<bool>> = OnceLock::new();
    OLDER
        .get_or_init(|| {
            let manifest = std::fs::read_to_string(root().join("Cargo.toml"))
                .map_err(|error| format!("cannot read the workspace's Cargo.toml: {error}"))?;
            let wanted = manifest
                .lines()
                .find_map(|line| line.strip_prefix("rust-version = "))
                .and_then(|value| version(value.trim_matches('"')))
                .ok_or("the workspace's Cargo.toml has no rust-version")?;
            let release = rustc_field("release: ")?;
            let found = version(&release)
                .ok_or_else(|| format!("cannot make sense of rustc's version `{release}`"))?;
            Ok(found < wanted)
        })
        .clone()
}

/// The target triple of this machine.
pub fn host_triple() -> Outcome<String> {
    rustc_field("host: ")
}

fn rustc_field(name: &str) -> Outcome<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .map_err(|error| format!("cannot start rustc: {error}"))?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::to_owned)
        .ok_or_else(|| format!("`rustc -vV` does not say `{name}`"))
}

/// `1.96`, `1.95.0` or `1.97.0-nightly` as numbers.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text
        .split('-')
        .next()?
        .split('.')
        .map(|part| part.trim().parse().ok());
    let major = numbers.next()??;
    let minor = numbers.next()??;
    let patch = numbers.next().unwrap_or(Some(0))?;
    Some((major, minor, patch))
}

/// Runs to the end; says which command failed when it did.
pub fn run(command: &mut Command) -> Outcome<()> {
    let status = status(command)?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{}` ended with {status}", shown(command)))
    }
}

/// Runs to the end and hands its exit code through.
pub fn run_through(command: &mut Command) -> Outcome<ExitCode> {
    let status = status(command)?;
    Ok(match status.code() {
        Some(0) => ExitCode::SUCCESS,
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => return Err(format!("`{}` ended with {status}", shown(command))),
    })
}

fn status(command: &mut Command) -> Outcome<ExitStatus> {
    command
        .status()
        .map_err(|error| format!("cannot start `{}`: {error}", shown(command)))
}

/// Runs to the end, prints each line of its output and shows it to `look` as well.
pub fn run_watched(command: &mut Command, mut look: impl FnMut(&str)) -> Outcome<ExitStatus> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start `{}`: {error}", shown(command)))?;
    let stdout = child.stdout.take().expect("the output was piped");
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.map_err(|error| format!("cannot read its output: {error}"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        look(&line);
    }
    child
        .wait()
        .map_err(|error| format!("cannot wait for `{}`: {error}", shown(command)))
}

/// Builds with `command` (a `cargo build`) and returns the path of the one executable.
pub fn build_executable(command: &mut Command, name: &str) -> Outcome<PathBuf> {
    command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start `{}`: {error}", shown(command)))?;
    if !output.status.success() {
        return Err(format!("`{}` ended with {}", shown(command), output.status));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(executable)
        .find(|path| path.file_name().is_some_and(|file| file == name))
        .ok_or_else(|| format!("`{}` built no executable `{name}`", shown(command)))
}

/// The `executable` field of one of cargo's JSON messages.
fn executable(message: &str) -> Option<PathBuf> {
    let (_, rest) = message.split_once("\"executable\":\"")?;
    let (path, _) = rest.split_once('"')?;
    Some(PathBuf::from(path.replace("\\\\", "\\")))
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version("1.95.0") < version("1.96"));
        assert!(version("1.100.0") > version("1.96"));
        assert_eq!(version("1.97.0-nightly"), Some((1, 97, 0)));
        assert_eq!(version("one"), None);
    }

    #[test]
    fn finds_the_executable_in_a_message() {
        let message =
            r#"{"reason":"compiler-artifact","executable":"/t/release/cullet","fresh":true}"#;
        assert_eq!(
            executable(message),
            Some(PathBuf::from("/t/release/cullet"))
        );
        assert_eq!(executable(r#"{"executable":null}"#), None);
    }
}
