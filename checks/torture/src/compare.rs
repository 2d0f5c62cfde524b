//! The comparison of docs/performance.md: the server against the limits of the machine (nginx
//! for reads, fio for durable writes), against a peer (Garage), and within its memory.
//!
//! The load is always `cullet bench s3`, a process of its own, with the same presigned requests
//! for every server. What is compared alternates within one run, and medians count, because
//! machines are noisy and a ratio is not.

mod control_group;
mod load;
mod memory;
mod open_loop;
mod peers;
mod rates;
mod sets;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::process;
use crate::s3::Client;
use crate::server::{Launch, Server, credentials, scratch};
use load::Bench;

/// The bucket of every load.
const BUCKET: &str = "compare";

/// Until a server answers.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Compare with nginx, fio and Garage, and see whether the memory holds.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The binary.
    #[arg(long, default_value = "dist/cullet")]
    server: PathBuf,
    /// Only this; may be repeated. Default: all.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Runs of each measurement, alternating with what it is compared with.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// How long each run is measured, in seconds.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Objects that are listed.
    #[arg(long, default_value_t = 1_000_000)]
    objects: u64,
    /// Garage's binary (`cargo install garage`); without it Garage is left out.
    #[arg(long)]
    garage: Option<PathBuf>,
    /// Where the scratch directory goes (default: the system's); it takes up to 30 GB.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// GET of 4 KiB and of 16 MiB against nginx.
    Get,
    /// PUT of 4 KiB and of 16 MiB against fio.
    Put,
    /// Garage's rates and CPU.
    Garage,
    /// Listing of all objects.
    List,
    /// The tail of reads with everything else at work, against reads alone.
    OpenLoop,
    /// Uploads and listings in a control group that has little more than `--memory`.
    Memory,
    /// Six disks against one; lost, replaced and slow ones.
    Sets,
}

/// A line of the table.
struct Row {
    what: String,
    cullet: String,
    other: String,
    ratio: String,
    target: &'static str,
}

pub fn run(args: &Args) -> Result<()> {
    let directory = scratch(args.dir.as_deref(), "compare")?;
    let outcome = compare(args, &directory);
    let _ = std::fs::remove_dir_all(&directory);
    let rows = outcome?;
    println!("machine: {}", process::machine());
    println!(
        "| medians of {} | cullet | limit or peer | ratio | target |",
        args.runs
    );
    println!("|---|---|---|---|---|");
    for row in rows {
        let Row {
            what,
            cullet,
            other,
            ratio,
            target,
        } = row;
        println!("| {what} | {cullet} | {other} | {ratio} | {target} |");
    }
    Ok(())
}

fn compare(args: &Args, directory: &Path) -> Result<Vec<Row>> {
    let is_wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut rows = Vec::new();
    if is_wanted(Part::Get) {
        rows.extend(rates::get(args, directory)?);
    }
    if is_wanted(Part::Put) {
        rows.extend(rates::put(args, directory)?);
    }
    match &args.garage {
        Some(program) if is_wanted(Part::Garage) => {
            rows.extend(rates::garage(args, program, directory)?);
        }
        None if is_wanted(Part::Garage) => {
            say("Garage is left out: name its binary with --garage (`cargo install garage`)");
        }
        _ => {}
    }
    if is_wanted(Part::List) {
        rows.push(rates::list(args, directory)?);
    }
    if is_wanted(Part::OpenLoop) {
        rows.push(open_loop::row(args, directory)?);
    }
    if is_wanted(Part::Memory) {
        rows.push(memory::row(args, directory)?);
    }
    if is_wanted(Part::Sets) {
        rows.extend(sets::rows(args, directory)?);
    }
    Ok(rows)
}

/// A server with a new disk and a bucket, and the load for it.
fn start(args: &Args, disk: &Path, change: impl FnOnce(&mut Launch)) -> Result<(Server, Bench)> {
    let _ = std::fs::remove_dir_all(disk);
    let mut launch = Launch {
        program: args.server.clone(),
        arguments: vec!["server".to_owned()],
        disk: disk.to_owned(),
        more_disks: Vec::new(),
        memory: "256MiB".to_owned(),
        capacity: None,
        credentials: credentials(),
        log: disk.with_extension("log"),
        seed: None,
        starts: AtomicU64::new(0),
    };
    change(&mut launch);
    let mut server = launch.start()?;
    let (address, _) = server
        .wait_ready(READY_TIMEOUT)
        .with_context(|| format!("its log is {}", launch.log.display()))?;
    let mut client = Client::new(&address, &credentials(), READY_TIMEOUT);
    client
        .create_bucket(BUCKET)
        .map_err(|error| anyhow::anyhow!("cannot create a bucket: {error:?}"))?;
    let bench = Bench::new(&args.server, &address, &credentials(), &[server.pid()]);
    Ok((server, bench))
}

/// What is being done, on standard error.
fn say(what: &str) {
    eprintln!("compare: {what}");
}

/// Half of the values are below it. NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn percent(part: f64, whole: f64) -> String {
    format!("{:.0} %", part / whole * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}
