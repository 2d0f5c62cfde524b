//! The built server from the outside: killed over and over under load (`torture`),
//! measured (`figures`), and compared with others (`compare`). `cargo xtask` starts each.

#![allow(clippy::print_stdout, reason = "a command's output is its purpose")]

mod compare;
mod figures;
mod findings;
mod harm;
mod history;
mod http;
mod latency;
mod process;
mod random;
mod s3;
mod serve;
mod server;
mod torture;
mod volatile;
mod workload;

use std::process::ExitCode;

/// The server's, so that what is measured in this process is as in that one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(
    about = "The server under load, killed over and over; and its figures, alone and against others"
)]
enum Command {
    Torture(torture::Args),
    Figures(figures::Args),
    Compare(compare::Args),
    Serve(serve::Args),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Torture(args) => torture::run(&args),
        Command::Figures(args) => figures::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Serve(args) => serve::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}
