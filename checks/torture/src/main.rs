//! The built server from the outside: killed over and over under load (`torture`), and
//! measured (`figures`). `cargo xtask torture` and `cargo xtask figures` start it.

#![allow(clippy::print_stdout, reason = "a command's output is its purpose")]

mod figures;
mod findings;
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

use clap::Parser;

#[derive(Debug, Parser)]
#[command(about = "The server under load, killed over and over; and its figures")]
enum Command {
    Torture(torture::Args),
    Figures(figures::Args),
    Serve(serve::Args),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Torture(args) => torture::run(&args),
        Command::Figures(args) => figures::run(&args),
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
