//! The tail of reads at a fifth of the highest rate: with nothing else, and with writes,
//! compaction, reclamation and a scrub at work.
//!
//! Two servers take turns, so that whatever else this machine does meets both. A pair counts
//! only if all of that was seen to happen in it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::load::{Bench, Figures};
use super::{Args, Row, median, say, start};
use crate::http::Connection;

/// The part of the highest rate that is sent.
const LOAD: f64 = 0.2;

/// Objects that are read.
const READ: &str = "--size 4KiB --objects 10000 --prefix read/ --concurrency 32";

/// Writes: small ones over old ones, which is work for the compaction, and large ones over old
/// ones, which is work for the reclamation.
const SMALL_WRITES: &str = "--op put --size 4KiB --objects 50000 --concurrency 16";
const LARGE_WRITES: &str = "--op put --size 1MiB --objects 500 --concurrency 4";

/// How many of each a second.
const SMALL_RATE: f64 = 1000.0;
const LARGE_RATE: f64 = 10.0;

/// Everything is read and verified once in so many days: about 40 seconds.
const SCRUB_DAYS: &str = "0.0005";

/// Little enough that overwriting makes reclamation necessary.
const CAPACITY: &str = "6GiB";

/// How long the writes go on before reads are measured.
const AHEAD: Duration = Duration::from_secs(15);

/// Each measurement, unless `--seconds` is longer: a p99.9 needs many requests.
const SECONDS_MIN: u64 = 15;

/// What must be at work: metrics of the server.
const AT_WORK: [&str; 3] = [
    "cullet_engine_compactions_total",
    "cullet_engine_evacuated_bytes_total",
    "cullet_engine_scrubbed_bytes_total",
];

pub fn row(args: &Args, directory: &Path) -> Result<Row> {
    let seconds = args.seconds.max(SECONDS_MIN);
    let (quiet_server, quiet) = start(args, &directory.join("quiet"), |launch| {
        launch
            .arguments
            .extend(["--scrub-days".to_owned(), "0".to_owned()]);
    })?;
    let (busy_server, busy) = start(args, &directory.join("busy"), |launch| {
        launch
            .arguments
            .extend(["--scrub-days".to_owned(), SCRUB_DAYS.to_owned()]);
        launch.capacity = Some(CAPACITY.to_owned());
    })?;
    say("open loop: the highest rate of reads");
    for bench in [&quiet, &busy] {
        bench.run(&format!("--op get {READ} --keep --duration 1s"))?;
    }
    let read = format!("--op get {READ} --prepared");
    let highest = quiet
        .run(&format!("{read} --duration {}s", args.seconds))?
        .rate();
    let rate = (highest * LOAD).round();
    let open = format!("{read} --rate {rate} --duration {seconds}s");

    // A little longer than the reads, which begin after they made their connections.
    let whole = AHEAD.as_secs() + seconds + 3;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for run in 1..=args.runs {
        say(&format!("open loop: {rate}/s, run {run} of {}", args.runs));
        // Nothing else runs on this machine, not even what is left of the writes' work.
        busy_server.signal(Signal::STOP)?;
        alone.push(quiet.in_real_time().run(&open)?);
        busy_server.signal(Signal::CONT)?;
        let writers =
            [(SMALL_WRITES, SMALL_RATE), (LARGE_WRITES, LARGE_RATE)].map(|(writes, rate)| {
                busy.start(&format!("{writes} --rate {rate} --duration {whole}s"))
            });
        let writers = writers.into_iter().collect::<Result<Vec<_>>>()?;
        std::thread::sleep(AHEAD);
        let before = at_work(&busy)?;
        beside.push(busy.in_real_time().run(&open)?);
        for ((name, before), (_, after)) in before.iter().zip(at_work(&busy)?) {
            say(&format!("open loop: {name} {before} -> {after}"));
            if after <= *before {
                bail!("{name} did not move from {before}: nothing to measure beside");
            }
        }
        for (writer, rate) in writers.into_iter().zip([SMALL_RATE, LARGE_RATE]) {
            let (figures, failed) = writer.wait()?;
            if let Some(failed) = failed {
                bail!("the writes beside the reads failed: {failed}");
            }
            if figures.rate() < 0.95 * rate {
                bail!("{}/s were written instead of {rate}/s", figures.rate());
            }
        }
    }
    quiet_server.stop()?;
    busy_server.stop()?;
    let tail = |run: &Figures| run.number("/latency_us/p99_9") / 1e3;
    let ratios = alone
        .iter()
        .zip(&beside)
        .map(|(alone, beside)| tail(beside) / tail(alone));
    let ratios: Vec<f64> = ratios.collect();
    let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.1}")).collect();
    let described = |runs: &[Figures]| {
        format!(
            "p99.9 {:.2} ms (the client sent late by {:.2} ms)",
            median(runs.iter().map(tail).collect()),
            median(
                runs.iter()
                    .map(|run| run.number("/send_delay_us/p99_9") / 1e3)
                    .collect()
            )
        )
    };
    Ok(Row {
        what: format!(
            "GET 4 KiB at {rate:.0}/s, a fifth of the highest rate, with {:.0} PUTs/s, \
             compaction, reclamation and scrub",
            SMALL_RATE + LARGE_RATE
        ),
        cullet: described(&beside),
        other: format!("without them {}", described(&alone)),
        ratio: format!("{:.1} ({})", median(ratios), each.join(", ")),
        target: "2",
    })
}

/// How far what must be at work has come.
fn at_work(bench: &Bench) -> Result<Vec<(&'static str, f64)>> {
    let address = bench.address();
    let mut connection = Connection::open(address, Duration::from_secs(10))?;
    let head = format!("GET /_cullet/metrics HTTP/1.1\r\nhost: {address}\r\n\r\n");
    connection.send(&[head.as_bytes()])?;
    let page = connection.receive(false)?.body;
    let page = String::from_utf8_lossy(&page);
    // A metric's name, its labels in braces if it has any, and its value.
    let value = |name: &'static str| {
        let is_it = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        let line = page.lines().find(is_it);
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        value
            .map(|value| (name, value))
            .with_context(|| format!("no metric {name}"))
    };
    AT_WORK.into_iter().map(value).collect()
}
