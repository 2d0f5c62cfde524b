//! The release binary.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::elf;
use crate::workspace::{Outcome, build_executable, cargo, host_triple, root};

/// Builds dist/cullet and returns its path.
pub fn build() -> Outcome<PathBuf> {
    let built = static_build("cullet", "cullet")?;
    let image = std::fs::read(&built)
        .map_err(|error| format!("cannot read {}: {error}", built.display()))?;
    if has_seeded_bugs(&image) {
        return Err(format!(
            "{} was built with the engine's seeded bugs (feature `mutants`)",
            built.display()
        ));
    }
    if cfg!(target_os = "linux") {
        elf::verify_static(&image)
            .map_err(|what| format!("{} is not statically linked: {what}", built.display()))?;
    }
    let dist = root().join("dist");
    let target = dist.join("cullet");
    // Renamed into place: a server that runs from the old file keeps it.
    let fresh = dist.join(format!(".cullet.{}", std::process::id()));
    std::fs::create_dir_all(&dist)
        .and_then(|()| std::fs::copy(&built, &fresh))
        .and_then(|_| std::fs::rename(&fresh, &target))
        .map_err(|error| format!("cannot write {}: {error}", target.display()))?;
    eprintln!(
        "built {} ({:.1} MiB, static)",
        target.display(),
        image.len() as f64 / 1048576.0
    );
    Ok(target)
}

/// Whether the engine's feature `mutants` was built in: it carries this text.
pub fn has_seeded_bugs(image: &[u8]) -> bool {
    let marker = b"shardstore-mutant:";
    image.windows(marker.len()).any(|window| window == marker)
}

/// Builds `package` for release, linked statically. An explicit `--target` keeps the flags
/// from build scripts and procedural macros, which must be dynamic.
pub fn static_build(package: &str, name: &str) -> Outcome<PathBuf> {
    let host = host_triple()?;
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" -C target-feature=+crt-static");
    let mut command = cargo("build")?;
    command.args([
        "--release",
        "--package",
        package,
        "--bin",
        name,
        "--target",
        &host,
    ]);
    command.env("RUSTFLAGS", flags.trim());
    build_executable(&mut command, name)
}

/// Builds and becomes dist/cullet.
pub fn run(args: &[String]) -> Outcome<ExitCode> {
    let args = match args.split_first() {
        Some((first, rest)) if first == "--" => rest,
        Some((first, _)) => {
            return Err(format!(
                "what comes after `--` goes to cullet; `{first}` stands before it"
            ));
        }
        None => args,
    };
    let binary = build()?;
    let mut command = Command::new(binary);
    command.args(args);
    #[cfg(unix)]
    {
        // The signals of the terminal and of service managers reach the server itself.
        use std::os::unix::process::CommandExt;
        Err(format!("cannot start dist/cullet: {}", command.exec()))
    }
    #[cfg(not(unix))]
    crate::workspace::run_through(&mut command)
}
