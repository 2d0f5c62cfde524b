//! The program's entry: parses, runs, and turns failures into sentences and exit statuses.

use std::process::ExitCode;

use clap::Parser;
use cullet::UsageError;
use cullet::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit status for a failure that was explained.
const FAILED: u8 = 1;

/// Exit status for wrong usage.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // Memory is a contract: with huge pages every touched byte would cost two megabytes. Where
    // the kernel knows no such switch, nothing is lost but that.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let result = match Cli::parse().command {
        Command::Server(args) => cullet::server::run(args),
        Command::Account(args) => cullet::manage::account(args),
        Command::Key(args) => cullet::manage::key(args),
        Command::Disk(args) => cullet::manage::disk(args),
        Command::Scrub(args) => cullet::manage::disk(args.into()),
        Command::Rescue(args) => cullet::rescue::run(args),
        Command::Bench(args) => cullet::bench::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cullet: {error:#}");
            let usage = error.downcast_ref::<UsageError>().is_some();
            ExitCode::from(if usage { USAGE } else { FAILED })
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.root_cause().downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
