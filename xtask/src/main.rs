//! `cargo xtask`: everything that is done with this repository, as commands.
//!
//! Plain std, so that it is built in seconds. Each module holds one kind of command; this
//! file holds only the texts that teach them and the dispatch.

#![allow(clippy::print_stdout, reason = "a command's output is its purpose")]

mod checks;
mod clients;
mod dist;
mod elf;
mod licences;
mod report;
mod test;
mod workspace;

use std::process::ExitCode;

use workspace::Outcome;

const HELP: &str = "\
cargo xtask COMMAND: everything that is done with this repository

  run -- ARGS      build the release and start it: cargo xtask run -- server ./data
  build            the statically linked release binary, at dist/cullet
  test             install what the tests need, then run all of them
  prove            search for sequences of operations, crashes and faults that break the engine
  mutants          plant each known bug and show that the checks find it
  replay           run one seed of `prove` or `mutants` again
  sets             random histories of whole sets of disks
  torture          kill the server over and over under load; nothing acknowledged may be lost
  figures          measure latency, CPU, memory and restart time
  compare          against nginx, fio and Garage, and within its memory
  licences         licences, bans and sources of all dependencies, against deny.toml

`cargo xtask COMMAND --help` says more about one of them.
";

const RUN: &str = "\
cargo xtask run -- ARGS

Builds dist/cullet (see `cargo xtask build --help`) and replaces itself with it.

  cargo xtask run -- server ./data       serve S3 on http://127.0.0.1:9000
  cargo xtask run -- help                what else the binary can do
";

const BUILD: &str = "\
cargo xtask build

Builds the release, linked statically, and copies it to dist/cullet. Before that it verifies
in the ELF headers that the file needs no dynamic loader and no shared library, and that none
of the engine's seeded bugs was compiled in.
";

const TEST: &str = "\
cargo xtask test [--minutes N] [--seconds N] [--only SECTION]... [--list] [-- PYTEST ARGS]

Runs everything, in sections, and ends with one summary:

  crates      unit and integration tests of all crates but the two below
  engine      the tests of checks/engine; apart, because they compile the seeded bugs in
  schedules   the engine under a model checker's threads; apart, because it swaps std's locks
  release     dist/cullet is static and holds no seeded bug; the checks' program holds them
  clients     boto3, aws, rclone, s3cmd and restic against dist/cullet (Python, in .venv)
  prove       a short run of `cargo xtask prove`
  mutants     `cargo xtask mutants`, one seed of each and briefly
  sets        50 seeds of `cargo xtask sets`
  torture     short runs of `cargo xtask torture`: on a disk that lies, to see that it is
              noticed, on the volatile disk, on the file disk, and on six of these

  --minutes N     of `prove` (default: 5 when CI=true, otherwise 1; or CULLET_PROVE_MINUTES)
  --seconds N     of each `torture` (default 60; or CULLET_TORTURE_SECONDS)
  --only SECTION  only this section; may be repeated
  --list          print the sections and stop
  -- ARGS         handed to pytest, for example: -- -k listing -x

Python 3.9 or later with the venv module is needed for `clients`. Where it is missing, that
section is skipped and the summary says so; with CI=true nothing may be skipped.
";

const PROVE: &str = "\
cargo xtask prove [--minutes N] [--seed S] [ARGS]
cargo xtask mutants [ARGS]
cargo xtask replay ARGS

`prove` generates sequences of operations, crashes and disk faults and compares the engine
with a model of it. It prints one line per property: what was checked, how often, under how
many faults, and the result. A failure prints the shrunk sequence and the one command that
replays it. `mutants` runs the same checks against deliberately broken builds of the engine;
each must be found. docs/validation.md explains both.

All arguments go to the checks' own program; `cargo xtask prove --help-all` shows its help.
";

const SETS: &str = "\
cargo xtask sets [--seeds N] [--seed S] [--steps N] [--threads N]

Random histories of whole sets of disks: objects are written, deleted and read while disks fail in
every way, rot, vanish, come back, are replaced, added and drained, and the power fails. Whatever
befalls as many disks at a time as there is parity, nothing that was acknowledged may be lost,
nothing that was deleted may be back, and in the end every shard must be on a disk of its own.

  --seeds N     how many histories (default 50)
  --seed S      the first one's seed (default: drawn)
  --steps N     how long each is (default 40)
  --threads N   how many run at a time (default 16)
";

const TORTURE: &str = "\
cargo xtask torture [--seconds N] [--disk volatile|file] [--disks N] [--seed S] [ARGS]

Clients write, overwrite, delete, list and read objects through S3 and record what was
acknowledged. The server is killed with SIGKILL at random moments and started again. After
each start everything acknowledged must be there byte for byte, nothing deleted may be back,
and an operation in flight at the kill must have happened wholly or not at all.

  --disk volatile   (default) a test server whose disk keeps unflushed writes in the process's
                    memory, so that SIGKILL is a power cut: it loses or reorders them
  --disk file       dist/cullet itself; SIGKILL keeps the system's page cache
  --disks N         a set of so many disks (default 1): meanwhile directories are removed, taken
                    away, cut short and overwritten, as many at a time as there is parity, and
                    replaced; in the end everything must be made up for
  --seconds N       how long (default 60)
  --seed S          everything but timing repeats with the same seed

`cargo xtask torture --help-all` shows all arguments.
";

const FIGURES: &str = "\
cargo xtask figures [--objects N] [ARGS]

Measures dist/cullet and prints the tables of docs/performance.md: durable PUT and GET of
4 KiB over 32 connections, server CPU per request, idle memory, and the time from start to
ready after SIGKILL with a million objects and a cold page cache.

Run it as root, so that the page cache can be dropped, and on a machine that is otherwise
idle. `cargo xtask figures --help-all` shows all arguments.
";

const COMPARE: &str = "\
cargo xtask compare [--only PART]... [--garage PATH] [ARGS]

Measures dist/cullet with `cullet bench s3` against the limits of the machine and a peer, and
prints the second table of docs/performance.md:

  get         GET of 4 KiB and 16 MiB; nginx serving the same bytes is the limit
  put         durable PUT of 4 KiB and 16 MiB; as many of fio's writers are the limit
  garage      rates and CPU of Garage, whose binary --garage names (`cargo install garage`)
  list        ListObjectsV2 over a million keys
  open-loop   the tail of reads at a fifth of the highest rate, with writes, compaction,
              reclamation and scrub at work, against reads alone
  memory      64 PUTs of 64 MiB at a time beside listings, in a control group that has 32 MiB
              more than --memory

Run it as root (for the control group), with nginx and fio installed, on a machine that is
otherwise idle: it takes a quarter of an hour. `cargo xtask compare --help-all` shows all
arguments.
";

const LICENCES: &str = "\
cargo xtask licences [--install]

Runs `cargo deny check licenses bans sources` against deny.toml.

  --install   build cargo-deny into target/tools when it is not there (about two minutes);
              done without asking when CI=true
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    if matches!(command, "help" | "--help" | "-h") {
        let topic = rest.first().map(String::as_str).and_then(help_for);
        print!("{}", topic.unwrap_or(HELP));
        return ExitCode::SUCCESS;
    }
    let Some(help) = help_for(command) else {
        eprint!("xtask: there is no command `{command}`\n\n{HELP}");
        return ExitCode::from(2);
    };
    let before_dashes = rest.iter().take_while(|arg| *arg != "--");
    if before_dashes
        .into_iter()
        .any(|arg| arg == "--help" || arg == "-h")
    {
        print!("{help}");
        return ExitCode::SUCCESS;
    }
    match dispatch(command, rest) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("xtask {command}: {message}");
            ExitCode::FAILURE
        }
    }
}

fn help_for(command: &str) -> Option<&'static str> {
    Some(match command {
        "run" => RUN,
        "build" => BUILD,
        "test" => TEST,
        "prove" | "mutants" | "replay" => PROVE,
        "sets" => SETS,
        "torture" => TORTURE,
        "figures" => FIGURES,
        "compare" => COMPARE,
        "licences" | "licenses" => LICENCES,
        _ => return None,
    })
}

fn dispatch(command: &str, rest: &[String]) -> Outcome<ExitCode> {
    match command {
        "run" => dist::run(rest),
        "build" => dist::build().map(|_| ExitCode::SUCCESS),
        "test" => test::run(rest),
        "prove" | "mutants" | "replay" => checks::engine(command, rest),
        "sets" => checks::sets(rest),
        "torture" => checks::torture(rest),
        "figures" | "compare" => checks::measure(command, rest),
        _ => licences::run(rest),
    }
}
