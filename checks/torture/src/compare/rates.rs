//! Rates and CPU of reads, writes and listings, against the limits of the machine and a peer.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use md5::{Digest, Md5};

use super::load::{Bench, Figures};
use super::{Args, BUCKET, Row, median, peers, percent, say, start};
use crate::server::credentials;

const SMALL: u64 = 4096;
const LARGE: u64 = 16 << 20;
const SMALL_FILES: u64 = 1_000;
const LARGE_FILES: u64 = 16;
const MIB: f64 = 1048576.0;

/// Bytes of one piece that MD5 is timed with, and pieces.
const DIGESTED: (usize, usize) = (1 << 20, 256);

/// Reads against nginx, which serves the same bytes as files.
pub fn get(args: &Args, directory: &Path) -> Result<Vec<Row>> {
    let (server, bench) = start(args, &directory.join("get"), |_| {})?;
    let documents = directory.join("files");
    let nginx = match peers::find("nginx") {
        Some(program) => Some(peers::nginx(
            &program,
            &documents_in(&documents)?,
            directory,
        )?),
        None => {
            say("nginx is left out: it is not installed");
            None
        }
    };
    let files = nginx
        .as_ref()
        .map(|nginx| Bench::new(&args.server, &nginx.address, &credentials(), &nginx.pids()));
    let mut rows = Vec::new();
    for (name, size, count, connections, target) in [
        (
            "GET 4 KiB, 32 connections",
            SMALL,
            SMALL_FILES,
            32,
            "50 %, 40 µs",
        ),
        ("GET 16 MiB, 4 connections", LARGE, LARGE_FILES, 4, "70 %"),
    ] {
        let load = format!(
            "--op get --size {size} --objects {count} --concurrency {connections} --prefix \
             {size}/ --prepared --duration {}s",
            args.seconds
        );
        // The bytes are put once and stay.
        bench.run(&format!(
            "{} --keep --duration 1s",
            load.replace("--prepared", "")
        ))?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for run in 1..=args.runs {
            say(&format!("{name}, run {run} of {}", args.runs));
            ours.push(bench.run(&load)?);
            if let Some(files) = &files {
                theirs.push(files.run(&format!("{load} --anonymous"))?);
            }
        }
        let (rate, limit) = (of(&ours, Figures::rate), of(&theirs, Figures::rate));
        rows.push(Row {
            what: name.to_owned(),
            cullet: described(&ours, size),
            other: format!("nginx {}", described(&theirs, size)),
            ratio: percent(rate, limit),
            target,
        });
    }
    drop(nginx);
    server.stop()?;
    Ok(rows)
}

/// The files that nginx serves: the names that the load asks for, random bytes.
fn documents_in(directory: &Path) -> Result<std::path::PathBuf> {
    for (size, count) in [(SMALL, SMALL_FILES), (LARGE, LARGE_FILES)] {
        let directory = directory.join(BUCKET).join(size.to_string());
        std::fs::create_dir_all(&directory)?;
        for number in 0..count {
            let mut random = std::io::Read::take(std::fs::File::open("/dev/urandom")?, size);
            let mut file = std::fs::File::create(directory.join(format!("{number:08}")))?;
            std::io::copy(&mut random, &mut file)?;
        }
    }
    Ok(directory.to_owned())
}

/// Durable writes against as many of fio's writers that share flushes.
pub fn put(args: &Args, directory: &Path) -> Result<Vec<Row>> {
    let Some(fio) = peers::find("fio") else {
        say("PUT is left out: fio is not installed");
        return Ok(Vec::new());
    };
    let (server, bench) = start(args, &directory.join("put"), |_| {})?;
    let mut rows = Vec::new();
    for (name, size, objects, writers, target) in [
        (
            "PUT 4 KiB, durable, 32 connections",
            SMALL,
            100_000,
            32,
            "50 %, 100 µs",
        ),
        ("PUT 16 MiB, durable, 4 connections", LARGE, 64, 4, "60 %"),
    ] {
        let (mut ours, mut limits, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        for run in 1..=args.runs {
            say(&format!("{name}, run {run} of {}", args.runs));
            ours.push(bench.run(&format!(
                "--op put --size {size} --objects {objects} --concurrency {writers} --duration {}s",
                args.seconds
            ))?);
            limits.push(peers::fio(&fio, directory, size, writers, args.seconds)?);
            digests.push(md5_bytes_per_second());
        }
        let rate = of(&ours, Figures::rate);
        let (other, ratio) = if size == SMALL {
            let limit = median(limits.iter().map(|limit| limit.per_second).collect());
            (format!("fio {limit:.0}/s"), percent(rate, limit))
        } else {
            let disk = median(limits.iter().map(|limit| limit.bytes_per_second).collect());
            let md5 = median(digests);
            let other = format!(
                "fio {:.0} MiB/s; MD5 on one core {:.0} MiB/s",
                disk / MIB,
                md5 / MIB
            );
            (other, percent(rate * size as f64, disk.min(md5)))
        };
        rows.push(Row {
            what: name.to_owned(),
            cullet: described(&ours, size),
            other,
            ratio,
            target,
        });
    }
    server.stop()?;
    Ok(rows)
}

/// What one core does: a PUT's ETag needs the MD5 of its body.
fn md5_bytes_per_second() -> f64 {
    let (size, pieces) = DIGESTED;
    let piece = vec![7; size];
    let mut digest = Md5::new();
    let begun = Instant::now();
    (0..pieces).for_each(|_| digest.update(&piece));
    std::hint::black_box(digest.finalize());
    (size * pieces) as f64 / begun.elapsed().as_secs_f64()
}

/// The same load on the server and on Garage.
pub fn garage(args: &Args, program: &Path, directory: &Path) -> Result<Vec<Row>> {
    let (server, ours) = start(args, &directory.join("peer"), |_| {})?;
    let (garage, credentials) = peers::garage(program, directory)?;
    let theirs = Bench::new(&args.server, &garage.address, &credentials, &garage.pids());
    let mut rows = Vec::new();
    for (name, op) in [("GET", "get"), ("PUT", "put")] {
        let load = format!(
            "--op {op} --size {SMALL} --objects {SMALL_FILES} --concurrency 32 --duration {}s",
            args.seconds
        );
        let (mut cullet, mut peer) = (Vec::new(), Vec::new());
        for run in 1..=args.runs {
            say(&format!(
                "{name} 4 KiB on Garage, run {run} of {}",
                args.runs
            ));
            cullet.push(ours.run(&load)?);
            peer.push(theirs.run(&load)?);
        }
        rows.push(Row {
            what: format!("server CPU per {name} of 4 KiB"),
            cullet: described(&cullet, SMALL),
            other: format!("Garage {}", described(&peer, SMALL)),
            ratio: percent(
                of(&cullet, Figures::server_cpu_us),
                of(&peer, Figures::server_cpu_us),
            ),
            target: "10 %",
        });
    }
    drop(garage);
    server.stop()?;
    Ok(rows)
}

/// Pages of 1,000 over all objects, and the first page against the last.
pub fn list(args: &Args, directory: &Path) -> Result<Row> {
    let (server, bench) = start(args, &directory.join("list"), |_| {})?;
    let load = format!(
        "--op list --size 128 --objects {} --prefix listed/",
        args.objects
    );
    say(&format!("writing {} objects to list", args.objects));
    bench.run(&format!("{load} --keep --duration 1s"))?;
    let mut runs = Vec::new();
    for run in 1..=args.runs {
        say(&format!("listing, run {run} of {}", args.runs));
        runs.push(bench.run(&format!(
            "{load} --prepared --concurrency 4 --duration {}s",
            args.seconds
        ))?);
    }
    server.stop()?;
    let page = |kind: &str| {
        let pointer = format!("/by_kind/{kind}/latency_us/p50");
        of(&runs, |run| run.number(&pointer)) / 1e3
    };
    Ok(Row {
        what: format!("ListObjectsV2 over {} keys", args.objects),
        cullet: format!(
            "{:.0} keys/s; first page {:.1} ms, last {:.1} ms",
            of(&runs, |run| run.number("/keys_per_second")),
            page("first_page"),
            page("last_page")
        ),
        other: String::new(),
        ratio: String::new(),
        target: "250,000 keys/s, the last page as fast as the first",
    })
}

fn of(runs: &[Figures], figure: impl Fn(&Figures) -> f64) -> f64 {
    median(runs.iter().map(figure).collect())
}

/// Rate, tail, and CPU of both sides.
fn described(runs: &[Figures], size: u64) -> String {
    if runs.is_empty() {
        return "left out".to_owned();
    }
    let rate = of(runs, Figures::rate);
    let rate = if size == LARGE {
        format!("{:.0} MiB/s", rate * size as f64 / MIB)
    } else {
        format!("{rate:.0}/s")
    };
    format!(
        "{rate}, p99.9 {:.1} ms, {:.0} µs of CPU (client {:.0})",
        of(runs, |run| run.number("/latency_us/p99_9")) / 1e3,
        of(runs, Figures::server_cpu_us),
        of(runs, Figures::client_cpu_us)
    )
}
