//! A set of six disks against one disk: rates, with disks lost and replaced, with one that is
//! slow, and the tail of reads beside a rebuild and a scrub. All disks are directories of the same
//! file system here, so that a set has no more of a disk than one disk has.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use volume::{Cut, Scheme};

use super::load::{Bench, Figures};
use super::{Args, Row, median, percent, say, start};
use crate::process;
use crate::s3::Client;
use crate::serve::{SLOW_FILE, SLOW_MILLIS};
use crate::server::{Server, credentials};

const DISKS: usize = 6;

const SMALL: &str = "--size 4KiB --objects 2000 --prefix small/";
const MIDDLE: &str = "--size 100KiB --objects 1000 --prefix middle/";
const LARGE: &str = "--size 16MiB --objects 64 --concurrency 8 --prefix large/";

/// What is lost and rebuilt: so many objects of 16 MiB.
const REBUILT: &str = "--size 16MiB --objects 192 --concurrency 8 --prefix rebuilt/";

/// Of the highest rate of reads, for their tail beside other work.
const LOAD: f64 = 0.2;

/// How often a disk is replaced.
const REBUILDS: usize = 3;

/// Pairs of runs without and with a scrub.
const SCRUB_RUNS: usize = 5;

/// How long the codec is measured at a time.
const CODEC_TRY: Duration = Duration::from_millis(300);

const MIB: f64 = 1048576.0;

/// How long a set may take to make up for a disk.
const REST_MAX: Duration = Duration::from_secs(600);

pub fn rows(args: &Args, directory: &Path) -> Result<Vec<Row>> {
    let mut rows = codec();
    rows.extend(rates(args, directory)?);
    rows.extend(lost(args, directory)?);
    rows.push(slow(args, directory)?);
    Ok(rows)
}

/// The codec alone, on one thread, in bytes of data: a stripe cut into all its shards, and its data
/// made of what is left when as many data shards are lost as may be.
fn codec() -> Vec<Row> {
    say("sets: the codec");
    let mut rows = Vec::new();
    for (k, m) in [(3, 2), (4, 2), (8, 4)] {
        let scheme = Scheme { k, m };
        let len = usize::from(k) << 20;
        let stripe: Vec<u8> = (0..len).map(|at| ((at * 31) >> 3) as u8).collect();
        let cut = Cut { scheme, len };
        let cutting = rate_of(len, &mut || {
            let began = Instant::now();
            std::hint::black_box(cut.shards(&stripe));
            began.elapsed()
        });
        let shards = cut.shards(&stripe);
        let rebuilding = rate_of(len, &mut || {
            let is_left = |(number, shard): (usize, &Vec<u8>)| {
                (number >= usize::from(m)).then(|| shard.clone())
            };
            let mut left: Vec<_> = shards.iter().enumerate().map(is_left).collect();
            let began = Instant::now();
            assert!(cut.rebuild(&mut left), "{k} shards are left");
            let took = began.elapsed();
            std::hint::black_box(left);
            took
        });
        rows.push(Row {
            what: format!("codec, {k}+{m}, one thread: cut a stripe; rebuild {m} data shards"),
            cullet: format!("{cutting:.0} MiB/s; {rebuilding:.0} MiB/s"),
            other: "—".to_owned(),
            ratio: "—".to_owned(),
            target: "—",
        });
    }
    rows
}

/// How many MiB/s something does that does so many bytes at a time and says how long that took: the
/// median of several tries.
fn rate_of(bytes: usize, work: &mut dyn FnMut() -> Duration) -> f64 {
    let mut one = || {
        let (mut took, mut done) = (Duration::ZERO, 0);
        while took < CODEC_TRY {
            took += work();
            done += bytes;
        }
        done as f64 / MIB / took.as_secs_f64()
    };
    median((0..5).map(|_| one()).collect())
}

fn paths(directory: &Path, name: &str) -> Vec<PathBuf> {
    let numbered = |number| directory.join(format!("{name}{number}"));
    (0..DISKS).map(numbered).collect()
}

fn start_set(args: &Args, disks: &[PathBuf]) -> Result<(Server, Bench)> {
    let [first, others @ ..] = disks else {
        bail!("a set has disks");
    };
    for disk in others {
        let _ = std::fs::remove_dir_all(disk);
    }
    start(args, first, |launch| launch.more_disks = others.to_vec())
}

fn described(runs: &[Figures], is_large: bool) -> String {
    let rate = median(runs.iter().map(Figures::rate).collect());
    let tail = median(
        runs.iter()
            .map(|run| run.number("/latency_us/p99_9"))
            .collect(),
    ) / 1e3;
    match is_large {
        true => format!("{:.0} MiB/s; p99.9 {tail:.0} ms", rate * 16.0),
        false => format!("{rate:.0}/s; p99.9 {tail:.1} ms"),
    }
}

/// The same load on both, alternating.
fn pair(
    args: &Args,
    what: &str,
    (one, other): (&Bench, &Bench),
    load: &str,
) -> Result<[Vec<Figures>; 2]> {
    let mut runs = [Vec::new(), Vec::new()];
    for run in 1..=args.runs {
        say(&format!("sets: {what}, run {run} of {}", args.runs));
        for (bench, runs) in [one, other].into_iter().zip(&mut runs) {
            runs.push(bench.run(&format!("{load} --duration {}s", args.seconds))?);
        }
    }
    Ok(runs)
}

fn row(
    what: &str,
    [cullet, other]: &[Vec<Figures>; 2],
    is_large: bool,
    target: &'static str,
) -> Row {
    let rate = |runs: &[Figures]| median(runs.iter().map(Figures::rate).collect());
    Row {
        what: what.to_owned(),
        cullet: described(cullet, is_large),
        other: described(other, is_large),
        ratio: percent(rate(cullet), rate(other)),
        target,
    }
}

/// Six disks against one.
fn rates(args: &Args, directory: &Path) -> Result<Vec<Row>> {
    let (one_server, one) = start(args, &directory.join("one"), |_| {})?;
    let (set_server, set) = start_set(args, &paths(directory, "rates"))?;
    let mut rows = Vec::new();
    for (what, load, is_large) in [
        ("PUT 4 KiB, six disks against one", SMALL, false),
        ("PUT 100 KiB, six disks against one", MIDDLE, false),
        ("PUT 16 MiB, six disks against one", LARGE, true),
    ] {
        let runs = pair(args, what, (&set, &one), &format!("--op put {load}"))?;
        rows.push(row(what, &runs, is_large, "—"));
    }
    for (what, load, is_large) in [
        ("GET 4 KiB, six disks against one", SMALL, false),
        ("GET 100 KiB, six disks against one", MIDDLE, false),
        ("GET 16 MiB, six disks against one", LARGE, true),
    ] {
        let keep = format!("--op get {load}");
        for bench in [&set, &one] {
            bench.run(&format!("{keep} --keep --duration 1s"))?;
        }
        let runs = pair(args, what, (&set, &one), &format!("{keep} --prepared"))?;
        rows.push(row(what, &runs, is_large, "—"));
    }
    set_server.stop()?;
    one_server.stop()?;
    Ok(rows)
}

/// Reads without two disks, a disk that is replaced, and the tail of reads meanwhile.
fn lost(args: &Args, directory: &Path) -> Result<Vec<Row>> {
    let disks = paths(directory, "lost");
    let (server, set) = start_set(args, &disks)?;
    let mut rows = Vec::new();
    set.run(&format!("--op get {LARGE} --keep --duration 1s"))?;
    set.run(&format!("--op get {SMALL} --keep --duration 1s"))?;
    set.run(&format!(
        "--op put {REBUILT} --keep --duration {}s",
        2 * args.seconds
    ))?;
    settled(&set, DISKS)?;
    let reads = format!("--op get {LARGE} --prepared --duration {}s", args.seconds);
    let tails = format!(
        "--op get {SMALL} --prepared --duration {}s",
        args.seconds.max(10)
    );
    let all = repeated(args, &set, &reads)?;
    let highest = set.run(&tails)?.rate();
    let open = format!("{tails} --rate {}", (highest * LOAD).round());
    // One, and a new one in its place, and again. Taking turns with reads alone: now and then the
    // machine stands still for a while, which hits either.
    let (mut alone, mut beside, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut was_busy, mut used, mut took) = (true, 0.0, 0.0);
    for round in 1..=REBUILDS {
        say(&format!(
            "sets: a disk is replaced, and reads go on, {round} of {REBUILDS}"
        ));
        alone.push(set.in_real_time().run(&open)?);
        let lost = match round {
            1 => disks[1].clone(),
            _ => directory.join(format!("lost-new{}", round - 1)),
        };
        used = used_bytes(&set, &lost)?;
        std::fs::remove_dir_all(&lost)?;
        let new = directory.join(format!("lost-new{round}"));
        std::fs::create_dir(&new)?;
        await_failure(&set)?;
        ask(&set, "replace", &json!({"disk": lost, "path": new}))?;
        let began = Instant::now();
        beside.push(set.in_real_time().run(&open)?);
        was_busy &= !is_settled(&state(&set)?, DISKS);
        settled(&set, DISKS)?;
        took = began.elapsed().as_secs_f64();
        rates.push(used / MIB / took);
    }
    let (disk, rate) = (disk_rate(directory)?, median(rates));
    rows.push(Row {
        what: "a lost disk is replaced: its bytes, from the command to all stripes whole, with \
               reads at a fifth of their highest rate"
            .to_owned(),
        cullet: format!("{:.0} MiB in {took:.0} s, {rate:.0} MiB/s", used / MIB),
        other: format!("written and flushed in turn: {disk:.0} MiB/s"),
        ratio: percent(rate, disk),
        target: "—",
    });
    let tail = |runs: &[Figures]| {
        median(
            runs.iter()
                .map(|run| run.number("/latency_us/p99_9"))
                .collect(),
        ) / 1e3
    };
    rows.push(tail_row(
        match was_busy {
            true => "GET 4 KiB at a fifth of the highest rate, while a disk is rebuilt",
            false => "GET 4 KiB at a fifth of the highest rate, while a disk is rebuilt (it was done before)",
        },
        tail(&beside),
        tail(&alone),
    ));

    let (mut scrubbed, mut beside_it) = (Vec::new(), Vec::new());
    for run in 1..=SCRUB_RUNS {
        say(&format!(
            "sets: reads without and with a scrub, run {run} of {SCRUB_RUNS}"
        ));
        beside_it.push(set.in_real_time().run(&open)?);
        ask(&set, "scrub", &json!({}))?;
        scrubbed.push(set.in_real_time().run(&open)?);
        if !is_scrubbed(&state(&set)?) {
            say("sets: the scrub ended before the reads");
        }
        let until = Instant::now() + REST_MAX;
        while is_scrubbed(&state(&set)?) {
            if Instant::now() > until {
                bail!("the scrub does not end");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    rows.push(tail_row(
        "GET 4 KiB at a fifth of the highest rate, during a scrub",
        tail(&scrubbed),
        tail(&beside_it),
    ));

    // Two of six.
    std::fs::remove_dir_all(&disks[0])?;
    std::fs::remove_dir_all(&disks[3])?;
    await_failure(&set)?;
    std::thread::sleep(Duration::from_secs(2));
    let degraded = repeated(args, &set, &reads)?;
    let what = "GET 16 MiB without two of six disks, against all there";
    rows.push(row(what, &[degraded, all], true, "—"));
    let peak = process::memory(server.pid(), "VmHWM")? as f64 / MIB;
    rows.push(Row {
        what: "memory during all of it, `--memory 256MiB`".to_owned(),
        cullet: format!("{peak:.0} MiB at its highest"),
        other: "256 MiB".to_owned(),
        ratio: percent(peak, 256.0),
        target: "100 %",
    });
    server.kill()?;
    Ok(rows)
}

fn tail_row(what: &str, beside: f64, quiet: f64) -> Row {
    Row {
        what: what.to_owned(),
        cullet: format!("p99.9 {beside:.2} ms"),
        other: format!("without it p99.9 {quiet:.2} ms"),
        ratio: format!("{:.1}", beside / quiet),
        target: "2",
    }
}

fn repeated(args: &Args, bench: &Bench, load: &str) -> Result<Vec<Figures>> {
    (0..args.runs).map(|_| bench.run(load)).collect()
}

/// One disk of six takes 200 ms more for whatever it does, on the volatile disk of the torture.
fn slow(args: &Args, directory: &Path) -> Result<Row> {
    let disks = paths(directory, "slow");
    let program = std::env::current_exe()?;
    for disk in &disks[1..] {
        let _ = std::fs::remove_dir_all(disk);
    }
    let (server, set) = start(args, &disks[0], |launch| {
        launch.program = program;
        launch.arguments = vec!["--".to_owned()];
        launch.seed = Some(1);
        launch.more_disks = disks[1..].to_vec();
    })?;
    let load = format!("--op get {MIDDLE} --concurrency 8");
    set.run(&format!("{load} --keep --duration 1s"))?;
    settled(&set, DISKS)?;
    let read = format!("{load} --prepared --duration {}s", args.seconds.max(10));
    let quick = repeated(args, &set, &read)?;
    // The one that metadata is read from.
    File::create(disks[0].join(SLOW_FILE))?;
    say(&format!("sets: one disk takes {SLOW_MILLIS} ms more"));
    let slow = repeated(args, &set, &read)?;
    server.kill()?;
    let tail = |runs: &[Figures]| {
        median(
            runs.iter()
                .map(|run| run.number("/latency_us/p99"))
                .collect(),
        ) / 1e3
    };
    Ok(Row {
        what: format!(
            "GET 100 KiB with one of six disks {SLOW_MILLIS} ms slower for each operation"
        ),
        cullet: format!("p99 {:.1} ms", tail(&slow)),
        other: format!("all quick: p99 {:.1} ms", tail(&quick)),
        ratio: format!("{:.1}", tail(&slow) / tail(&quick)),
        target: "2",
    })
}

// What the server says of its disks.

fn ask(bench: &Bench, operation: &str, fields: &Value) -> Result<Value> {
    let mut client = Client::new(bench.address(), &credentials(), Duration::from_secs(60));
    let path = format!("/_cullet/admin/disks/{operation}");
    let answer = client.request("POST", &path, &[], &[], fields.to_string().as_bytes())?;
    let document = serde_json::from_slice(&answer.body)?;
    if answer.status != 200 {
        bail!("disks/{operation} is refused: {document}");
    }
    Ok(document)
}

fn state(bench: &Bench) -> Result<Value> {
    ask(bench, "list", &json!({}))
}

fn is_settled(state: &Value, disks: usize) -> bool {
    let none = Vec::new();
    let all = state["disks"].as_array().unwrap_or(&none);
    let missing = state["stripes"].as_array().unwrap_or(&none);
    let missing: u64 = missing.iter().skip(1).filter_map(Value::as_u64).sum();
    all.len() == disks
        && all.iter().all(|disk| disk["state"] == "live")
        && state["settled"] == true
        && state["tidy"] == true
        && missing == 0
}

/// Whether a scrub that was asked for is under way.
fn is_scrubbed(state: &Value) -> bool {
    let none = Vec::new();
    let disks = state["disks"].as_array().unwrap_or(&none);
    disks.iter().any(|disk| disk["scrub"]["asked"] == true)
}

fn settled(bench: &Bench, disks: usize) -> Result<()> {
    let until = Instant::now() + REST_MAX;
    while !is_settled(&state(bench)?, disks) {
        if Instant::now() > until {
            bail!("the set does not come to rest: {}", state(bench)?);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Waits until the server has noticed that a directory is gone.
fn await_failure(bench: &Bench) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let state = state(bench)?;
        let none = Vec::new();
        let disks = state["disks"].as_array().unwrap_or(&none);
        if disks.iter().any(|disk| disk["state"] == "failed") {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("a disk that is gone is not noticed");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn used_bytes(bench: &Bench, path: &Path) -> Result<f64> {
    let state = state(bench)?;
    let none = Vec::new();
    let disks = state["disks"].as_array().unwrap_or(&none);
    let disk = disks
        .iter()
        .find(|disk| disk["path"] == path.display().to_string());
    disk.and_then(|disk| disk["used_bytes"].as_f64())
        .context("the disk is not in the list")
}

/// What one writer of megabytes, flushed in groups as a commit is, gets from the disk, in MiB/s.
fn disk_rate(directory: &Path) -> Result<f64> {
    const GROUP: usize = 4 << 20;
    let path = directory.join("rate");
    let mut file = File::create(&path)?;
    let group = vec![0xA5; GROUP];
    let began = Instant::now();
    let mut written = 0;
    while began.elapsed() < Duration::from_secs(3) {
        file.write_all(&group)?;
        file.sync_data()?;
        written += GROUP;
    }
    let rate = written as f64 / MIB / began.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(rate)
}
