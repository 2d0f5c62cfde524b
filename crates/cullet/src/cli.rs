//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::ByteSize;

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
  cullet rescue list ./data            what is on a disk, without a server
  cullet help server                   every option, with examples

Documentation: README.md and docs/ in the source tree.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve S3 over the objects in a data directory.
    Server(ServerArgs),
    /// Read objects from disks without a server, and say what is damaged.
    Rescue(RescueArgs),
}

const SERVER_EXAMPLES: &str = "\
Examples:
  cullet server ./data
      Creates ./data if it is not there, makes credentials and prints them once, and serves S3
      on http://127.0.0.1:9000.

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
      The only access key. Set both or neither: without them a key is made at the first start,
      kept in DISK/cullet.credentials, readable by its owner alone, and printed once.

Pages:
  GET /_cullet/health     200 once requests are accepted
  GET /_cullet/metrics    for Prometheus; from other machines only with a signed request
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

    /// The region that buckets are in and requests must be signed for.
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    pub region: String,

    /// Use at most this much of the disk; without it, all that its file system has. What the
    /// disk has taken it keeps: a lower limit stops its growth.
    #[arg(long, value_name = "SIZE")]
    pub disk_capacity: Option<ByteSize>,

    /// Read and verify everything that is stored once in this many days; 0 turns it off.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub scrub_days: u32,

    /// How log lines look, on standard error and in the access log.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, or a list like `warn,objects=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log: String,

    /// Write one line for every request to this file; `-` is standard output.
    #[arg(long, value_name = "PATH")]
    pub access_log: Option<PathBuf>,

    /// The data directory, or a block device. Created if it is not there.
    #[arg(value_name = "DISK", required = true)]
    pub disks: Vec<PathBuf>,
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
which file is which object, with its metadata.

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
        assert_eq!(args.scrub_days, 30);
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
