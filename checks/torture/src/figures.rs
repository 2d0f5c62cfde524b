//! The figures of docs/performance.md.
//!
//! Requests are signed before the clock starts, so that the client's work does not stand in
//! the server's latency. Client and server share the machine all the same, and the output
//! says what the machine and its disk are.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http::Connection;
use crate::latency::Latencies;
use crate::process;
use crate::s3::{Client, head};
use crate::server::{Launch, Server, credentials, scratch};

const BUCKET: &str = "figures";
const READY_TIMEOUT: Duration = Duration::from_secs(600);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

const PAGE: usize = 4096;

/// The file of the loaded disk: what does not fit into it overwrites its beginning.
const LOADED_FILE_BYTES: usize = 1 << 30;

/// Zeros that are written ahead and flushed at once, as the server does it.
const AHEAD_BYTES: usize = 1 << 20;

/// Requests of one phase that are signed beforehand, per connection.
const SIGNED_PER_CONNECTION: usize = 2_000;

/// Measure latency, CPU, memory and restart time.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The binary.
    #[arg(long, default_value = "dist/cullet")]
    server: PathBuf,
    /// Connections at once.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Size of a body in bytes.
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// How long each phase is measured, in seconds, after one second that is not.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Objects on the disk for the restart; 0 leaves it out.
    #[arg(long, default_value_t = 1_000_000)]
    objects: u64,
    /// Size of each of those objects in bytes.
    #[arg(long, default_value_t = 128)]
    object_size: usize,
    /// The server's --memory.
    #[arg(long, default_value = "256MiB")]
    memory: String,
    /// Where the scratch directory goes (default: the system's).
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    let directory = scratch(args.dir.as_deref(), "figures")?;
    let outcome = measure_all(args, &directory);
    let _ = std::fs::remove_dir_all(&directory);
    outcome
}

fn measure_all(args: &Args, directory: &Path) -> Result<()> {
    println!("machine      {}", process::machine());
    println!(
        "disk         4 KiB append and fdatasync: {}",
        flush_latency(directory)?.described()
    );
    let (rate, latencies) = loaded_flush_latency(args, directory)?;
    println!(
        "             appends of {} x {} B and fdatasync, written ahead: {rate:.0}/s; {}",
        args.connections,
        args.size,
        latencies.described()
    );
    println!("server       --memory {}", args.memory);
    let launch = launch(args, directory.join("disk"), directory);
    let (server, address) = start(&launch)?;
    let mut client = Client::new(&address, &credentials(), ANSWER_TIMEOUT);
    let answer = client.request("PUT", &format!("/{BUCKET}"), &[], &[], b"")?;
    if answer.status != 200 {
        bail!("cannot create the bucket: {}", answer.status);
    }
    thread::sleep(Duration::from_secs(3));
    println!(
        "idle memory  {}",
        mib(process::memory(server.pid(), "VmRSS")?)
    );
    let mut keys = SIGNED_PER_CONNECTION;
    for method in ["PUT", "GET"] {
        let phase = measure(args, &address, &server, method, keys)?;
        // The GETs read only what every connection has written.
        keys = phase.keys_reached;
        println!("{method} {} B, {} connections", args.size, args.connections);
        println!("  rate       {:.0}/s", phase.rate);
        println!("  latency    {}", phase.latencies.described());
        println!(
            "  server CPU {:.1} us per request",
            phase.cpu_per_request.as_secs_f64() * 1e6
        );
    }
    println!(
        "memory after {} (peak {})",
        mib(process::memory(server.pid(), "VmRSS")?),
        mib(process::memory(server.pid(), "VmHWM")?)
    );
    server.stop()?;
    if args.objects > 0 {
        restart(args, directory)?;
    }
    Ok(())
}

fn launch(args: &Args, disk: PathBuf, directory: &Path) -> Launch {
    Launch {
        program: args.server.clone(),
        arguments: vec!["server".to_owned()],
        disk,
        more_disks: Vec::new(),
        memory: args.memory.clone(),
        capacity: None,
        credentials: credentials(),
        log: directory.join("server.log"),
        seed: None,
        starts: std::sync::atomic::AtomicU64::new(0),
    }
}

fn start(launch: &Launch) -> Result<(Server, String)> {
    let mut server = launch.start()?;
    let (address, _) = server.wait_ready(READY_TIMEOUT)?;
    Ok((server, address))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1048576.0)
}

/// What the disk itself needs for the smallest durable write: the floor of a lone PUT.
fn flush_latency(directory: &Path) -> Result<Latencies> {
    let path = directory.join("flush");
    let mut file = File::create(&path)?;
    file.set_len(4 << 20)?;
    file.write_all(&vec![1; 4 << 20])?;
    file.sync_all()?;
    let mut latencies = Vec::new();
    for page in 0..500 {
        let begun = Instant::now();
        file.write_all_at(&[2; 4096], page * 4096)?;
        file.sync_data()?;
        latencies.push(begun.elapsed().as_nanos() as u64);
    }
    std::fs::remove_file(path)?;
    Ok(Latencies::new(latencies))
}

/// What the disk does under the load of durable PUTs without a server: groups of as many
/// bodies as there are connections are appended to a file and flushed, one after the other,
/// while another thread writes the file ahead.
fn loaded_flush_latency(args: &Args, directory: &Path) -> Result<(f64, Latencies)> {
    let path = directory.join("loaded");
    let file = File::create(&path)?;
    let ahead = File::options().write(true).open(&path)?;
    // A page for what stands around each body.
    let group = vec![2_u8; args.connections * (args.size + PAGE)];
    let groups = (LOADED_FILE_BYTES / group.len()).max(1);
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let written_ahead = AtomicU64::new(0);
    let flushed = thread::scope(|scope| {
        let ahead = scope.spawn(|| -> Result<()> {
            let zeros = vec![0; AHEAD_BYTES];
            for piece in 0..LOADED_FILE_BYTES.div_ceil(AHEAD_BYTES) as u64 {
                if Instant::now() >= end {
                    break;
                }
                ahead.write_all_at(&zeros, piece * AHEAD_BYTES as u64)?;
                ahead.sync_data()?;
                written_ahead.store((piece + 1) * AHEAD_BYTES as u64, Ordering::Release);
            }
            Ok(())
        });
        let mut latencies = Vec::new();
        for number in 0.. {
            let at = (number % groups * group.len()) as u64;
            let until = at + group.len() as u64;
            while written_ahead.load(Ordering::Acquire) < until && !ahead.is_finished() {
                thread::yield_now();
            }
            let begun = Instant::now();
            if begun >= end {
                break;
            }
            file.write_all_at(&group, at)?;
            file.sync_data()?;
            latencies.push(begun.elapsed().as_nanos() as u64);
        }
        ahead
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that writes ahead panicked"))??;
        anyhow::Ok(latencies)
    })?;
    std::fs::remove_file(path)?;
    let rate = flushed.len() as f64 / args.seconds as f64;
    Ok((rate, Latencies::new(flushed)))
}

struct Phase {
    rate: f64,
    latencies: Latencies,
    cpu_per_request: Duration,
    /// Keys per connection that were used at least once.
    keys_reached: usize,
}

fn measure(
    args: &Args,
    address: &str,
    server: &Server,
    method: &str,
    keys: usize,
) -> Result<Phase> {
    let body = vec![b'x'; args.size];
    let sent: &[u8] = if method == "PUT" { &body } else { b"" };
    let heads: Vec<Vec<Vec<u8>>> = (0..args.connections)
        .map(|connection| {
            let key = |number| format!("/{BUCKET}/small/{connection:02}/{number:05}");
            (0..keys)
                .map(|number| {
                    head(
                        &credentials(),
                        address,
                        method,
                        &key(number),
                        &[],
                        &[],
                        sent,
                    )
                })
                .collect()
        })
        .collect();
    let start = Instant::now() + Duration::from_secs(1);
    let end = start + Duration::from_secs(args.seconds);
    thread::scope(|scope| {
        let clients: Vec<_> = heads
            .iter()
            .map(|heads| {
                let expected = if method == "GET" { args.size } else { 0 };
                scope.spawn(move || one_connection(address, heads, sent, expected, start, end))
            })
            .collect();
        thread::sleep(start.saturating_duration_since(Instant::now()));
        let cpu_before = process::cpu_time(server.pid())?;
        thread::sleep(end.saturating_duration_since(Instant::now()));
        let cpu = process::cpu_time(server.pid())? - cpu_before;
        let mut all = Vec::new();
        let mut keys_reached = keys;
        for client in clients {
            let Ok(outcome) = client.join() else {
                bail!("a client panicked")
            };
            let (latencies, requests) = outcome?;
            all.extend(latencies);
            keys_reached = keys_reached.min(requests);
        }
        let latencies = Latencies::new(all);
        let requests = latencies.count().max(1);
        Ok(Phase {
            rate: requests as f64 / args.seconds as f64,
            cpu_per_request: cpu.div_f64(requests as f64),
            latencies,
            keys_reached,
        })
    })
}

/// Sends the signed requests round and round; returns the latencies of those that began and
/// ended within the measured time, and the number of all.
fn one_connection(
    address: &str,
    heads: &[Vec<u8>],
    body: &[u8],
    expected: usize,
    start: Instant,
    end: Instant,
) -> Result<(Vec<u64>, usize)> {
    let mut connection = Connection::open(address, ANSWER_TIMEOUT)?;
    let mut latencies = Vec::with_capacity(1 << 16);
    let mut requests = 0;
    for head in heads.iter().cycle() {
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        connection.send(&[head, body])?;
        let answer = connection.receive(false)?;
        let done = Instant::now();
        if answer.status != 200 || answer.body.len() != expected {
            let body = String::from_utf8_lossy(&answer.body);
            bail!(
                "status {} and {} bytes: {body}",
                answer.status,
                answer.body.len()
            );
        }
        requests += 1;
        if begun >= start && done <= end {
            latencies.push((done - begun).as_nanos() as u64);
        }
    }
    Ok((latencies, requests))
}

fn restart(args: &Args, directory: &Path) -> Result<()> {
    let launch = launch(args, directory.join("many"), directory);
    let (server, address) = start(&launch)?;
    let begun = Instant::now();
    load(args, &address)?;
    let took = begun.elapsed().as_secs_f64();
    let rate = args.objects as f64 / took;
    println!(
        "loaded       {} objects of {} B in {took:.0} s ({rate:.0}/s)",
        args.objects, args.object_size
    );
    println!(
        "  memory     {}",
        mib(process::memory(server.pid(), "VmRSS")?)
    );
    let tail = write_until_checkpoint_is_near(args, &address)?;
    server.kill()?;
    let cache = match process::drop_page_cache() {
        Ok(()) => "a cold page cache".to_owned(),
        Err(error) => format!("a warm page cache (it could not be dropped: {error})"),
    };
    let mut server = launch.start()?;
    let (address, ready) = server.wait_ready(READY_TIMEOUT)?;
    let read = process::bytes_read(server.pid()).map_or("?".to_owned(), mib);
    let mut client = Client::new(&address, &credentials(), ANSWER_TIMEOUT);
    let first = Instant::now();
    let path = format!("/{BUCKET}/{}", many_key(args.objects / 2));
    let answer = client.request("GET", &path, &[], &[], b"")?;
    if answer.status != 200 || answer.body.len() != args.object_size {
        bail!(
            "after the restart an object is not there: status {}",
            answer.status
        );
    }
    println!("restart      after SIGKILL, {tail}, with {cache}");
    println!("  ready      in {:.2} s, {read} read", ready.as_secs_f64());
    println!(
        "  first GET  {:.2} ms",
        first.elapsed().as_secs_f64() * 1000.0
    );
    println!(
        "  memory     {}",
        mib(process::memory(server.pid(), "VmRSS")?)
    );
    server.stop()
}

/// Overwrites objects until the log since the last checkpoint is nearly as long as it was at
/// the checkpoints before: a kill then is the worst one for the restart. Says how long it is.
fn write_until_checkpoint_is_near(args: &Args, address: &str) -> Result<String> {
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        for first in 0..args.connections as u64 {
            let enough = &enough;
            scope.spawn(move || {
                let mut client = Client::new(address, &credentials(), ANSWER_TIMEOUT);
                // Larger ones than those loaded: the log, not the memtable, is to be the limit.
                let body = vec![b'z'; args.size];
                let step = args.connections;
                for number in (first..args.objects).step_by(step).cycle() {
                    let path = format!("/{BUCKET}/{}", many_key(number));
                    if enough.load(Ordering::Relaxed)
                        || client.request("PUT", &path, &[], &[], &body).is_err()
                    {
                        return;
                    }
                }
            });
        }
        let tail = watch_checkpoints(address);
        enough.store(true, Ordering::Relaxed);
        tail
    })
}

fn watch_checkpoints(address: &str) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(180);
    let (mut last, mut start) = engine_counters(address)?;
    let mut shortest = None;
    while Instant::now() < deadline {
        let (checkpoints, appended) = engine_counters(address)?;
        let since = appended.saturating_sub(start);
        if checkpoints != last {
            // The first interval began before we looked.
            if last != 0 {
                shortest = Some(shortest.map_or(since, |shortest: u64| shortest.min(since)));
            }
            (last, start) = (checkpoints, appended);
        } else if let Some(shortest) = shortest
            && since >= shortest / 100 * 95
        {
            return Ok(format!(
                "{} into the log since the last checkpoint",
                mib(since)
            ));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok("at no particular moment".to_owned())
}

/// Checkpoints, and bytes appended, since the server started.
fn engine_counters(address: &str) -> Result<(u64, u64)> {
    let mut client = Client::new(address, &credentials(), ANSWER_TIMEOUT);
    let answer = client.request("GET", "/_cullet/metrics", &[], &[], b"")?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
    };
    let both =
        value("cullet_engine_checkpoints_total").zip(value("cullet_engine_appended_bytes_total"));
    both.context("the metrics have no cullet_engine_checkpoints_total")
}

fn many_key(number: u64) -> String {
    format!("many/{:03}/{number:08}", number % 1000)
}

fn load(args: &Args, address: &str) -> Result<()> {
    let next = AtomicU64::new(0);
    let body = vec![b'y'; args.object_size];
    let mut client = Client::new(address, &credentials(), ANSWER_TIMEOUT);
    client.request("PUT", &format!("/{BUCKET}"), &[], &[], b"")?;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..args.connections)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut client = Client::new(address, &credentials(), ANSWER_TIMEOUT);
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= args.objects {
                            return Ok(());
                        }
                        let path = format!("/{BUCKET}/{}", many_key(number));
                        let answer = client.request("PUT", &path, &[], &[], &body)?;
                        if answer.status != 200 {
                            bail!("PUT {path}: {}", answer.status);
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("a loader panicked"))?
                .context("while loading")?;
        }
        Ok(())
    })
}
