//! Rounds of: start, verify everything, load, kill.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::findings::{self, Finding, Findings, Kind};
use crate::harm::Disks;
use crate::history::History;
use crate::random::Random;
use crate::s3::{Client, Failure};
use crate::server::{Launch, Server, credentials, scratch};
use crate::workload::Worker;

pub const BUCKET: &str = "torture";

/// Keys that are written all the time, and keys that are written rarely and so grow old.
pub const HOT_KEYS: usize = 48;
pub const COLD_KEYS: usize = 400;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DiskKind {
    /// Unflushed writes stay in the server's memory: SIGKILL is a power cut.
    Volatile,
    /// Files, as users have them: SIGKILL keeps the system's page cache.
    File,
}

/// Kill the server over and over under load; nothing acknowledged may be lost.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Disks of the set: with several, directories are removed, taken away, cut short and
    /// overwritten meanwhile, as many at a time as there is parity, and replaced.
    #[arg(long, default_value_t = 1)]
    disks: usize,
    /// What the server keeps its data on.
    #[arg(long, value_enum, default_value = "volatile")]
    disk: DiskKind,
    /// Everything but timing repeats with the same seed; drawn when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// The binary for `--disk file`.
    #[arg(long, default_value = "dist/cullet")]
    server: PathBuf,
    /// Connections at once.
    #[arg(long, default_value_t = 8)]
    clients: u64,
    /// The server's --disk-capacity: small, so that space is reclaimed all the time.
    #[arg(long, default_value = "1GiB")]
    capacity: String,
    /// The server's --memory.
    #[arg(long, default_value = "256MiB")]
    memory: String,
    /// Where the scratch directory goes (default: the system's).
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The volatile disk forgets about some flushes: the run must end with a finding, which
    /// shows that it is able to have one.
    #[arg(long)]
    lying: bool,
}

/// What all threads of a run share.
pub struct Shared {
    pub history: History,
    pub keys: Vec<String>,
    /// The server is being killed: broken connections are expected.
    pub down: AtomicBool,
    pub counts: Counts,
    findings: Findings,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub puts: AtomicU64,
    pub deletes: AtomicU64,
    pub reads: AtomicU64,
    pub listings: AtomicU64,
    pub half_sent: AtomicU64,
    pub unacknowledged: AtomicU64,
    pub busy: AtomicU64,
    pub full: AtomicU64,
    pub verified: AtomicU64,
    pub verified_bytes: AtomicU64,
}

pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    fn new() -> Shared {
        let hot = (0..HOT_KEYS).map(|number| format!("hot/{number:03}"));
        let cold = (0..COLD_KEYS).map(|number| format!("cold/{}/{number:03}", number % 7));
        Shared {
            history: History::new(HOT_KEYS + COLD_KEYS),
            keys: hot.chain(cold).collect(),
            down: AtomicBool::new(false),
            counts: Counts::default(),
            findings: Findings::default(),
        }
    }

    /// Something that must not be.
    pub fn finding(&self, kind: Kind, text: String) {
        self.findings.add(kind, text);
    }

    pub fn has_findings(&self) -> bool {
        !self.findings.is_empty()
    }

    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::SeqCst)
    }
}

/// Figures of the rounds themselves.
#[derive(Debug, Default)]
struct Rounds {
    kills: u64,
    kills_while_starting: u64,
    slowest_start: Duration,
}

pub fn run(args: &Args) -> Result<()> {
    let seed = args.seed.unwrap_or_else(drawn_seed);
    let directory = scratch(args.dir.as_deref(), "torture")?;
    let mut launch = launch(args, seed, directory.clone())?;
    let mut disks = Disks::new(&directory, args.disks, seed);
    let kind = if args.disk == DiskKind::File {
        "file"
    } else {
        "volatile"
    };
    println!(
        "torture: {} × disk {kind}{}, seed {seed}, {} s, {} clients, {} keys, capacity {}",
        args.disks,
        if args.lying {
            " that lies about flushes"
        } else {
            ""
        },
        args.seconds,
        args.clients,
        HOT_KEYS + COLD_KEYS,
        args.capacity
    );
    let shared = Shared::new();
    let mut rounds = Rounds::default();
    let outcome = play(args, seed, (&mut launch, &mut disks), &shared, &mut rounds);
    if let Err(error) = outcome {
        let text = format!("{error:#}");
        shared.finding(findings::of_failed_start(&text), text);
    }
    print_counts(&shared, &rounds);
    print_harm(&disks);
    let findings = shared.findings.into_list();
    for finding in findings.iter().take(20) {
        println!("  {}", finding.text);
    }
    // A run that did too little shows nothing, on whichever disk.
    let (kills, puts) = (rounds.kills, get(&shared.counts.puts));
    let verified = get(&shared.counts.verified);
    let too_little = too_little(args, kills, puts, verified);
    if let Some(what) = too_little.filter(|_| args.lying || findings.is_empty()) {
        bail!("that shows nothing: {what} (seed {seed})");
    }
    if args.lying {
        if let Some(why) = lies_unnoticed(&findings) {
            bail!("the disk lied about flushes and {why} (seed {seed})");
        }
        println!("result: the lies were noticed, as they must be");
    } else if !findings.is_empty() {
        println!("kept for a look: {}", directory.display());
        println!(
            "again: cargo xtask torture --disks {} --disk {kind} --seconds {} --seed {seed} \
             --clients {} --capacity {} --memory {}",
            args.disks, args.seconds, args.clients, args.capacity, args.memory
        );
        bail!("{} findings", findings.len());
    } else {
        println!("result: nothing acknowledged was lost, nothing deleted came back");
    }
    let _ = std::fs::remove_dir_all(&directory);
    Ok(())
}

/// What a run did too little of, if anything; one on a lying disk ends with its first finding.
fn too_little(args: &Args, kills: u64, puts: u64, verified: u64) -> Option<String> {
    let (kills_min, puts_min) = if args.lying {
        (1, 1)
    } else {
        ((args.seconds / 15).max(1), 100)
    };
    [
        ("kills", kills, kills_min),
        ("acknowledged puts", puts, puts_min),
        ("verified keys", verified, 1),
    ]
    .into_iter()
    .find(|(_, count, least)| count < least)
    .map(|(what, count, least)| format!("{count} {what}, at least {least} are needed"))
}

/// Why the findings do not show that lies are noticed, if they do not.
fn lies_unnoticed(findings: &[Finding]) -> Option<&'static str> {
    if findings.is_empty() {
        Some("nothing was noticed")
    } else if findings.iter().all(|finding| finding.kind == Kind::Other) {
        Some("nothing was noticed that a lie can bring about")
    } else {
        None
    }
}

fn drawn_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs()) % 1_000_000
}

fn launch(args: &Args, seed: u64, directory: PathBuf) -> Result<Launch> {
    let (program, arguments, seed) = match args.disk {
        DiskKind::File => (args.server.clone(), vec!["server".to_owned()], None),
        DiskKind::Volatile => {
            let mut arguments = Vec::new();
            if args.lying {
                arguments.push("--lying".to_owned());
            }
            arguments.push("--".to_owned());
            (std::env::current_exe()?, arguments, Some(seed))
        }
    };
    Ok(Launch {
        program,
        arguments,
        disk: directory.join("disk"),
        more_disks: Vec::new(),
        memory: args.memory.clone(),
        capacity: Some(args.capacity.clone()),
        credentials: credentials(),
        log: directory.join("server.log"),
        seed,
        starts: AtomicU64::new(0),
    })
}

fn play(
    args: &Args,
    seed: u64,
    (launch, disks): (&mut Launch, &mut Disks),
    shared: &Shared,
    rounds: &mut Rounds,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    let mut random = Random::of(seed, u64::MAX);
    let mut next_report = Instant::now() + Duration::from_secs(10);
    for round in 0.. {
        if round > 0 && args.disks > 1 {
            disks.return_some()?;
            if random.one_in(3) {
                disks.harm(false)?;
            }
        }
        name(launch, disks);
        if round > 0 && random.one_in(4) {
            let server = launch.start()?;
            std::thread::sleep(Duration::from_micros(random.below(300_000)));
            server.kill()?;
            rounds.kills_while_starting += 1;
        }
        let (mut server, address) = start(launch, disks, rounds)?;
        if round == 0 {
            create_bucket(&address)?;
        }
        verify(args, seed, &address, shared);
        if args.disks > 1 && !shared.has_findings() {
            disks.mend(&address)?;
        }
        let ended = Instant::now() > deadline || shared.has_findings();
        if ended {
            return finish(
                args,
                seed,
                (server, &address),
                (launch, disks),
                shared,
                rounds,
            );
        }
        // Mostly short, to be killed often; sometimes long enough for the log to wrap.
        let longest = if random.one_in(4) { 6_000 } else { 1_200 };
        let load = Duration::from_millis(50 + random.below(longest));
        let harm = (args.disks > 1 && random.one_in(3)).then_some(&mut *disks);
        load_until_kill(
            args,
            (seed, round),
            &address,
            &mut server,
            (load, harm),
            shared,
        );
        server.kill()?;
        rounds.kills += 1;
        shared.down.store(false, Ordering::SeqCst);
        if Instant::now() > next_report {
            println!(
                "  {} kills, {} objects verified",
                rounds.kills,
                get(&shared.counts.verified)
            );
            next_report += Duration::from_secs(10);
        }
    }
    Ok(())
}

/// A clean stop loses nothing either.
fn finish(
    args: &Args,
    seed: u64,
    (server, address): (Server, &str),
    (launch, disks): (&mut Launch, &mut Disks),
    shared: &Shared,
    rounds: &mut Rounds,
) -> Result<()> {
    if shared.has_findings() {
        return server.kill();
    }
    if args.disks > 1 {
        disks.settle(address)?;
    }
    server.stop()?;
    name(launch, disks);
    let (server, address) = start(launch, disks, rounds)?;
    verify(args, seed, &address, shared);
    server.stop()
}

/// Tells the server's command line which disks there are.
fn name(launch: &mut Launch, disks: &Disks) {
    let mut named = disks.named().into_iter();
    if let Some(first) = named.next() {
        launch.disk = first;
    }
    launch.more_disks = named.collect();
}

fn start(launch: &mut Launch, disks: &mut Disks, rounds: &mut Rounds) -> Result<(Server, String)> {
    loop {
        match start_once(launch, rounds) {
            Err(error) if disks.has_left(&format!("{error:#}")) => name(launch, disks),
            started => return started,
        }
    }
}

fn start_once(launch: &Launch, rounds: &mut Rounds) -> Result<(Server, String)> {
    let log_before = std::fs::metadata(&launch.log).map_or(0, |metadata| metadata.len());
    let mut server = launch.start()?;
    match server.wait_ready(READY_TIMEOUT) {
        Ok((address, took)) => {
            rounds.slowest_start = rounds.slowest_start.max(took);
            Ok((server, address))
        }
        Err(error) => {
            let _ = server.kill();
            let log = std::fs::read(&launch.log).unwrap_or_default();
            let log = String::from_utf8_lossy(log.get(log_before as usize..).unwrap_or_default());
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            bail!(
                "{error}; its last words: {}",
                last.into_iter().rev().collect::<Vec<_>>().join(" | ")
            )
        }
    }
}

fn create_bucket(address: &str) -> Result<()> {
    let mut client = Client::new(address, &credentials(), ANSWER_TIMEOUT);
    match client.create_bucket(BUCKET) {
        Ok(()) => Ok(()),
        Err(Failure::Broken(error)) => bail!("cannot create the bucket: {error}"),
        Err(Failure::Refused {
            status,
            code,
            message,
        }) => {
            bail!("cannot create the bucket: {status} {code}: {message}")
        }
    }
}

fn verify(args: &Args, seed: u64, address: &str, shared: &Shared) {
    std::thread::scope(|scope| {
        for client in 0..args.clients {
            scope.spawn(move || {
                let mut worker = Worker::new(shared, address, seed, Random::new(seed));
                let step = args.clients as usize;
                for key in (client as usize..shared.keys.len()).step_by(step) {
                    worker.verify(key);
                }
            });
        }
    });
    if !shared.has_findings() {
        Worker::new(shared, address, seed, Random::new(seed)).verify_listings();
    }
}

fn load_until_kill(
    args: &Args,
    (seed, round): (u64, u64),
    address: &str,
    server: &mut Server,
    (load, mut harm): (Duration, Option<&mut Disks>),
    shared: &Shared,
) {
    std::thread::scope(|scope| {
        for client in 0..args.clients {
            let random = Random::of(seed, round * args.clients + client);
            scope.spawn(move || Worker::new(shared, address, seed, random).work());
        }
        let deadline = Instant::now() + load;
        let middle = Instant::now() + load / 3;
        while Instant::now() < deadline && !shared.has_findings() {
            std::thread::sleep(Duration::from_millis(1));
            if let Some(disks) = harm.take_if(|_| Instant::now() > middle)
                && let Err(error) = disks.harm(true)
            {
                shared.finding(Kind::Other, format!("{error:#}"));
            }
            if let Some(status) = server.ended() {
                let text = format!("the server ended by itself: {status}");
                shared.finding(Kind::Other, text);
            }
        }
        shared.down.store(true, Ordering::SeqCst);
        // The clients are in the middle of something: this is the moment.
        if let Err(error) = kill_now(server) {
            shared.finding(Kind::Other, format!("{error:#}"));
        }
    });
}

fn kill_now(server: &Server) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid())?);
    let Some(pid) = pid else {
        bail!("the server has no process id")
    };
    Ok(rustix::process::kill_process(
        pid,
        rustix::process::Signal::KILL,
    )?)
}

fn print_harm(disks: &Disks) {
    let counts: Vec<String> = disks
        .counts
        .iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    if !counts.is_empty() {
        println!("disks       {}", counts.join(", "));
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn print_counts(shared: &Shared, rounds: &Rounds) {
    let counts = &shared.counts;
    println!(
        "kills       {} under load, {} while starting; slowest start {:.2} s",
        rounds.kills,
        rounds.kills_while_starting,
        rounds.slowest_start.as_secs_f64()
    );
    println!(
        "operations  {} puts, {} deletes, {} reads, {} listings, {} half-sent; {} in flight at a kill, {} told to slow down, {} refused by a full disk",
        get(&counts.puts),
        get(&counts.deletes),
        get(&counts.reads),
        get(&counts.listings),
        get(&counts.half_sent),
        get(&counts.unacknowledged),
        get(&counts.busy),
        get(&counts.full)
    );
    println!(
        "verified    {} keys after restarts, {:.1} MiB of bodies",
        get(&counts.verified),
        get(&counts.verified_bytes) as f64 / 1048576.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        Line::parse_from(std::iter::once(&"torture").chain(words)).args
    }

    #[test]
    fn a_run_that_did_too_little_shows_nothing() {
        let honest = args(&["--seconds", "30"]);
        assert_eq!(too_little(&honest, 2, 100, 1), None);
        assert!(too_little(&honest, 1, 100, 1).is_some_and(|text| text.contains("kills")));
        assert!(too_little(&honest, 2, 99, 1).is_some_and(|text| text.contains("puts")));
        assert!(too_little(&honest, 2, 100, 0).is_some_and(|text| text.contains("verified")));
        let lying = args(&["--lying"]);
        assert_eq!(too_little(&lying, 1, 1, 1), None);
        assert!(too_little(&lying, 0, 1, 1).is_some());
        assert!(too_little(&lying, 1, 0, 1).is_some());
    }

    #[test]
    fn only_what_a_lie_can_bring_about_shows_that_lies_are_noticed() {
        let of = |kind| Finding {
            kind,
            text: String::new(),
        };
        assert!(lies_unnoticed(&[]).is_some());
        assert!(lies_unnoticed(&[of(Kind::Other), of(Kind::Other)]).is_some());
        assert!(lies_unnoticed(&[of(Kind::Other), of(Kind::Data)]).is_none());
        assert!(lies_unnoticed(&[of(Kind::RefusedToOpen)]).is_none());
    }
}
