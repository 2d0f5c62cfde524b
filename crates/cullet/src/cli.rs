//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::ByteSize;
use crate::bench::duration;
use crate::manage::args::{AccountArgs, DiskArgs, KeyArgs, ScrubCommand};

/// Object storage that speaks the S3 API, in one program and one data directory.
#[derive(Debug, Parser)]
#[command(name = "cullet", version, max_term_width = 100, after_help = TOP_EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const TOP_EXAMPLES: &str = "\
Examples:
  cullet server ./data                 serve S3 on http://127.0.0.1:9000
  cullet account create analytics      another account, with buckets of its own
  cullet key create --account analytics
  cullet rescue list ./data            what is on a disk, without a server
  cullet bench s3 --endpoint http://127.0.0.1:9000
                                       how fast that server is
  cullet help server                   every option, with examples

Documentation: README.md and docs/ in the source tree.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve S3 over the objects in a data directory.
    Server(ServerArgs),
    /// Create, list, disable and delete accounts of a running server.
    Account(AccountArgs),
    /// Create, list, rotate, disable and delete access keys of a running server.
    Key(KeyArgs),
    /// Show and change the disks of a running server's set, and say how safe what they hold is.
    Disk(DiskArgs),
    /// Have a running server read and verify everything on its disks: `cullet disk scrub`.
    Scrub(ScrubCommand),
    /// Read objects from disks without a server, and say what is damaged.
    Rescue(RescueArgs),
    /// Send load to a server, this one or another, and measure it.
    Bench(BenchArgs),
}

const SERVER_EXAMPLES: &str = "\
Examples:
  cullet server ./data
      Creates ./data if it is not there, makes a root key and prints it once, and serves S3 on
      http://127.0.0.1:9000.

  CULLET_ACCESS_KEY_ID=admin CULLET_SECRET_ACCESS_KEY=... cullet server --listen 0.0.0.0:9000 /srv/cullet
      Serves every network interface, with credentials of your own.

  cullet server --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem --domain s3.example.com /srv/cullet
      HTTPS, with buckets in the host's name: https://photos.s3.example.com/cat.jpg. The
      certificate has to name s3.example.com and *.s3.example.com.

  cullet server --memory 1GiB --disk-capacity 500GiB --access-log - /srv/cullet
      More memory for caches and clients, at most 500 GiB of the file system, and a line for
      every request on standard output.

First steps with the aws CLI:
  export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... AWS_DEFAULT_REGION=us-east-1
  aws --endpoint-url http://127.0.0.1:9000 s3 mb s3://photos
  aws --endpoint-url http://127.0.0.1:9000 s3 cp cat.jpg s3://photos/

Environment:
  CULLET_ACCESS_KEY_ID, CULLET_SECRET_ACCESS_KEY
      The root key: the root account's access key, with which `cullet account` and `cullet key`
      make others. Set both or neither: without them one is made at the first start, kept in the
      credentials file, and printed once.
  CULLET_MASTER_KEY
      64 hexadecimal digits (openssl rand -hex 32) that the secrets of all other keys are sealed
      with on the disk. Without it one is made, and kept in the credentials file. Keep a copy:
      without the master key those secrets are lost.

The credentials file:
  --credentials FILE, or else ~/.config/cullet/UUID.credentials, with the UUID of the set of
  disks (in $XDG_CONFIG_HOME/cullet/ if that is set). It holds these three variables as shell
  assignments, is its owner's alone, and never lies in the data directory.

Pages:
  GET /_cullet/health     200 once requests are accepted
  GET /_cullet/metrics    for Prometheus; from other machines only signed with the root key
  GET /_cullet/redundancy how many stripes have how much of what they are to have; from this
                          machine only
  POST /_cullet/admin/…   what `cullet account`, `cullet key` and `cullet disk` use, signed with
                          the root key
  Where the Host names a bucket (see --domain), these are keys like any other.
  Behind a proxy on the same machine, let it add X-Forwarded-For, as most do, or keep /_cullet/
  from the outside: without it every client looks local.

Signals:
  SIGTERM, SIGINT         finish what was begun (at most 30 seconds), then stop; another
                          one, a second or more later, stops at once. Nothing that was
                          acknowledged is ever lost.
  SIGHUP                  open the access log anew, for log rotation, and read the certificate
                          and its key again, which also happens by itself when they change

Exit status: 0 after a signal, 1 for a failure explained on standard error, 2 for wrong usage.";

/// The flags of `cullet server`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = SERVER_EXAMPLES, after_help = "More with --help.")]
pub struct ServerArgs {
    /// Address and port to listen on; port 0 picks a free one, shown on standard output.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9000")]
    pub listen: String,

    /// Serve HTTPS with the certificates in this PEM file, the server's own first. Read again
    /// when it changes.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key, as PEM: PKCS#8, PKCS#1 or SEC1, without a passphrase.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Take `BUCKET.NAME` in a request's Host for the bucket (virtual-hosted style). May be given
    /// several times. All other hosts, and NAME itself, have the bucket in the path.
    #[arg(long, value_name = "NAME")]
    pub domain: Vec<String>,

    /// Memory of the whole process. Past it requests wait, then get 503 SlowDown.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub memory: ByteSize,

    /// Keep the root key and the master key in this file, if they are not in the environment;
    /// see Environment below. Not in the data directory.
    #[arg(long, value_name = "FILE", env = "CULLET_CREDENTIALS_FILE")]
    pub credentials: Option<PathBuf>,

    /// The region that buckets are in and requests must be signed for.
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    pub region: String,

    /// Use at most this much of the disk; without it, all that its file system has. What the
    /// disk has taken it keeps: a lower limit stops its growth.
    #[arg(long, value_name = "SIZE")]
    pub disk_capacity: Option<ByteSize>,

    /// Read and verify everything that is stored once in this many days, such as 30 or 0.5; 0
    /// turns it off.
    #[arg(long, value_name = "DAYS", default_value = "30", value_parser = scrub_interval)]
    pub scrub_days: Duration,

    /// How log lines look, on standard error and in the access log.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, or a list like `warn,objects=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log: String,

    /// Write one line for every request to this file; `-` is standard output. It tells time, id,
    /// operation, status, bytes in and out, milliseconds to the end and to the first byte, the
    /// client, its account and access key once the signature was verified, method and path.
    #[arg(long, value_name = "PATH")]
    pub access_log: Option<PathBuf>,

    /// Parity shards of each stripe of a new set of several disks: as many disks may be lost.
    /// By default 1 on two or three disks, 2 on four to seven, 3 on eight to eleven, then 4.
    #[arg(long, value_name = "M")]
    pub parity: Option<u8>,

    /// Start although so many disks are missing that the others may have taken writes without
    /// these. What only they have is gone then; use it when they are lost for good.
    #[arg(long)]
    pub start_degraded: bool,

    /// The data directories, or block devices, of one set: 1 to 16, in any order. All of them
    /// new, they are created; otherwise those that are there are used.
    #[arg(value_name = "DISK", required = true)]
    pub disks: Vec<PathBuf>,
}

/// The time for one scrub of everything, from days on the command line.
fn scrub_interval(text: &str) -> Result<Duration, String> {
    const SECONDS_PER_DAY: f64 = 24.0 * 60.0 * 60.0;
    let days = text.parse::<f64>().ok();
    days.and_then(|days| Duration::try_from_secs_f64(days * SECONDS_PER_DAY).ok())
        .ok_or_else(|| format!("{text:?} is not a number of days; write it like 30 or 0.5"))
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

const RESCUE_EXAMPLES: &str = "\
Examples:
  cullet rescue list ./data
      Every object that can be read, and everything that is damaged.

  cullet rescue export --to ./rescued ./data
      Writes the objects as files: ./rescued/BUCKET/KEY. Whole bodies whose record is lost go to
      ./rescued/_no-record; ./rescued/objects.jsonl says what each file is.

  cullet rescue export --to ./rescued --bucket photos --prefix 2026/ ./data
      Only what begins like that. The target must be empty or new each time.

  cullet rescue export --to ./rescued /mnt/a /mnt/b /mnt/d
      From the disks of a set that are left, in any order: each object of which enough is there.

The disks are only read. The server must not run on them meanwhile.

Exit status: 0 if everything could be read (and written), 1 if something is damaged or could not be
done, which is explained on standard error, 2 for wrong usage.";

const LIST_EXAMPLES: &str = "\
Each line is an object: when it was put, its size, BUCKET/KEY, and `ok`, `DAMAGED (why)`, or
`no-record` for a whole body that nothing names any more.

Examples:
  cullet rescue list ./data
  cullet rescue list --quick /dev/sdx | grep DAMAGED

Exit status: 0 if everything could be read, 1 if something is damaged or could not be done, which
is explained on standard error, 2 for wrong usage.";

const EXPORT_EXAMPLES: &str = "\
Damaged objects are named on standard error and not written; the rest is. DIR/objects.jsonl says
which file is which object, with its metadata. What a file's name cannot hold stands in it as %XX,
and % itself as %25.

Examples:
  cullet rescue export --to ./rescued ./data
  cullet rescue export --to ./rescued --bucket photos --prefix 2026/ ./data

Exit status: 0 if everything was written, 1 if something is damaged or could not be written, which
is explained on standard error, 2 for wrong usage.";

/// The flags of `cullet rescue`.
#[derive(Debug, Clone, Args)]
#[command(after_help = RESCUE_EXAMPLES)]
pub struct RescueArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: RescueAction,
}

/// What `cullet rescue` does.
#[derive(Debug, Clone, Subcommand)]
pub enum RescueAction {
    /// List every object that can be read, and say what is damaged.
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Do not read and verify the bodies, only see whether they are there.
        #[arg(long)]
        quick: bool,
        /// Data directories or block devices.
        #[arg(value_name = "DISK", required = true)]
        disks: Vec<PathBuf>,
    },
    /// Write the objects that can be read into a directory, and say what is damaged.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export {
        /// The directory to write to; it must be empty or new.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Only this bucket.
        #[arg(long, value_name = "NAME")]
        bucket: Option<String>,
        /// Only keys that begin with this.
        #[arg(long, value_name = "PREFIX", default_value = "")]
        prefix: String,
        /// Data directories or block devices.
        #[arg(value_name = "DISK", required = true)]
        disks: Vec<PathBuf>,
    },
}

/// The flags of `cullet bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub action: BenchAction,
}

/// What `cullet bench` measures.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchAction {
    /// Requests to any S3 endpoint, or GETs of any server of files.
    S3(BenchS3Args),
}

const BENCH_S3_EXAMPLES: &str = "\
Examples:
  export CULLET_ACCESS_KEY_ID=... CULLET_SECRET_ACCESS_KEY=...
  cullet bench s3 --endpoint http://127.0.0.1:9000
      Reads objects of 4 KiB over 32 connections for 10 seconds. Makes a bucket, fills it,
      measures, and deletes it again.

  cullet bench s3 --endpoint http://127.0.0.1:9000 --op put --pid $(pidof minio)
      Writes, and also says what CPU time and memory the server took.

  cullet bench s3 --endpoint http://127.0.0.1:9000 --op mixed --rate 5000 --duration 1m
      5,000 requests a second, 70 % reads and 30 % writes, whether the server keeps up or not.

  for i in $(seq -w 0 00000999); do head -c 4096 /dev/urandom > /srv/www/bench/$i; done
  cullet bench s3 --endpoint http://127.0.0.1:8080 --bucket bench --objects 1000 \\
      --anonymous --prepared --pid 4711 --pid 4712
      nginx, serving files, for comparison: each worker's process is named.

How it measures:
  Requests are presigned before the clock starts and are the same for every server; bodies are
  made once, random, and different for every object. Keys are PREFIX followed by eight digits:
  00000000, 00000001 and so on. A page of a listing is signed as it is sent, because it needs the
  token of the page before it.
  put     writes N keys in order, and again from the first one
  get     reads N prepared objects at random
  mixed   70 % get and 30 % put, at random
  list    each connection walks over all N keys in pages of 1,000
  delete  deletes N prepared objects, each once; ends when none is left

  Without --rate a connection sends its next request when its last answer came (closed loop):
  that finds the highest rate, but a server that stalls is asked less meanwhile, so latencies look
  better than users would find them. With --rate requests are due at fixed times (open loop), and
  latency counts from then, also while all connections are busy. Latencies are of requests that
  succeeded or timed out. Percentiles are within 0.1 %.

Output for programs (--json): one document; fields end in their units. Latencies in microseconds
stand in latency_us, by kind of request in by_kind: p50, p90, p99, p99_9, p99_99, max, mean. Also
requests_succeeded, _failed, _unsent (due, not sent before the end), _abandoned and _per_second,
mib_per_second, keys_per_second (list), elapsed_seconds, errors (by kind), client and server with
cpu_seconds_per_1000_requests, and memory_peak_bytes with memory_peak_source. server is null
without --pid.

Environment:
  CULLET_ACCESS_KEY_ID, CULLET_SECRET_ACCESS_KEY or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY;
  without them, what the only server keeps that has its credentials file in ~/.config/cullet

Ctrl-C ends the run early, shows the figures so far and deletes what was made; a second one ends at
once.

Exit status: 0 if every request succeeded, 1 if some failed or nothing could be measured, which is
explained on standard error, 2 for wrong usage.";

/// The flags of `cullet bench s3`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = BENCH_S3_EXAMPLES, after_help = "More with --help.")]
// Of a flag that is there twice the last counts, so that a script can be given others.
#[command(args_override_self = true)]
pub struct BenchS3Args {
    /// The server: http://HOST:PORT or https://HOST:PORT.
    #[arg(long, value_name = "URL", env = "CULLET_ENDPOINT")]
    pub endpoint: String,

    /// For https: trust the authorities in this PEM file, not the system's.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// What is sent.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = BenchOperation::Get)]
    pub op: BenchOperation,

    /// Size of each object.
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    pub size: ByteSize,

    /// Requests under way at once, each on a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub concurrency: usize,

    /// How long is measured.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,

    /// Send that many requests per second, whether the server keeps up or not.
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,

    /// Send load for so long before measuring. Default: 1s; none with `--op delete`.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub warmup: Option<Duration>,

    /// Also measure this process of the server, on this machine; more than once for several.
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,

    /// Write the result as one JSON document.
    #[arg(long)]
    pub json: bool,

    /// Distinct keys. Default: 10000; 100000 with `--op put` and `--op delete`.
    #[arg(long, value_name = "N")]
    pub objects: Option<u64>,

    /// Use this bucket and delete only the objects that were made. Without it, a bucket
    /// `cullet-bench-…` is made and deleted at the end.
    #[arg(long, value_name = "NAME")]
    pub bucket: Option<String>,

    /// What keys begin with. Objects of the same names are overwritten and deleted. Default: one
    /// of this run's own in a given bucket, else none.
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,

    /// The objects are there already: make and delete nothing. For `get` and `list`.
    #[arg(long)]
    pub prepared: bool,

    /// Do not delete what was made.
    #[arg(long)]
    pub keep: bool,

    /// Compare the bytes of every body, not only its length.
    #[arg(long)]
    pub verify: bool,

    /// Send requests without a signature.
    #[arg(long)]
    pub anonymous: bool,

    /// The region that requests are signed for.
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    pub region: String,

    /// How long an answer is waited for.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,

    /// Threads that send requests. Default: half of the processors, at most 8.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// What `cullet bench s3` sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchOperation {
    /// PutObject.
    Put,
    /// GetObject.
    Get,
    /// 70 % get and 30 % put.
    Mixed,
    /// ListObjectsV2 over the whole key space.
    List,
    /// DeleteObject.
    Delete,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_as_documented() {
        let cli = Cli::try_parse_from(["cullet", "server", "./data"]).unwrap();
        let Command::Server(args) = cli.command else {
            panic!("server was asked for")
        };
        assert_eq!(args.listen, "127.0.0.1:9000");
        assert_eq!(args.memory, ByteSize(256 * 1024 * 1024));
        assert_eq!(
            (args.region.as_str(), args.log.as_str()),
            ("us-east-1", "warn")
        );
        assert_eq!(args.scrub_days, Duration::from_secs(30 * 24 * 60 * 60));
    }

    #[test]
    fn a_certificate_and_its_key_go_together() {
        let parse = |flags: &[&str]| {
            let words = ["cullet", "server"].iter().chain(flags).chain(&["./data"]);
            Cli::try_parse_from(words).is_ok()
        };
        assert!(parse(&["--tls-cert", "c", "--tls-key", "k"]));
        assert!(!parse(&["--tls-cert", "c"]));
        assert!(!parse(&["--tls-key", "k"]));
    }
}
