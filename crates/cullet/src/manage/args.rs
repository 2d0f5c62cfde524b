//! The command lines of `cullet account`, `cullet key` and `cullet disk`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// How to reach a server, and as whom.
#[derive(Debug, Clone, Args)]
pub struct ServerAccess {
    /// The server to administer: http://HOST:PORT or https://HOST:PORT.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "CULLET_ENDPOINT",
        default_value = "http://127.0.0.1:9000"
    )]
    pub endpoint: String,

    /// For https: trust the authorities in this PEM file, not the system's.
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// The region that the server was started with.
    #[arg(long, global = true, value_name = "NAME", default_value = "us-east-1")]
    pub region: String,

    /// The server's credentials file, if its root key is not in the environment.
    #[arg(long, global = true, value_name = "FILE")]
    pub credentials: Option<PathBuf>,

    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
}

const ROOT_KEY: &str = "\
The server must be running, and the request is signed with its root key. That comes from
  1. --credentials FILE
  2. CULLET_ACCESS_KEY_ID and CULLET_SECRET_ACCESS_KEY
  3. the file that CULLET_CREDENTIALS_FILE names
  4. the only file ~/.config/cullet/*.credentials, where a server keeps the key that it made

Exit status: 0 if it was done, 1 for a failure explained on standard error, 2 for wrong usage.";

const ACCOUNT_EXAMPLES: &str = "\
Each account owns its buckets and sees no others. The root account, 000000000000, is always there.

Examples:
  cullet account create analytics
      Prints the new account's id of twelve digits.

  cullet key create --account analytics --description 'nightly job'
      A key that signs for it. Its secret is shown only this once.

  cullet account disable analytics
      None of its keys is accepted from the next request on. Nothing is deleted.
";

/// The flags of `cullet account`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "More with --help.",
    after_long_help = format!("{ACCOUNT_EXAMPLES}\n{ROOT_KEY}")
)]
pub struct AccountArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: AccountAction,
    /// Where.
    #[command(flatten)]
    pub server: ServerAccess,
}

/// What `cullet account` does.
#[derive(Debug, Clone, Subcommand)]
pub enum AccountAction {
    /// Create an account.
    Create {
        /// 1 to 64 letters, digits and -_.@+; unique.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// List all accounts.
    List,
    /// Accept no key of an account any more, until it is enabled.
    Disable {
        /// Its id or its name.
        #[arg(value_name = "ACCOUNT")]
        account: String,
    },
    /// Accept the keys of an account again.
    Enable {
        /// Its id or its name.
        #[arg(value_name = "ACCOUNT")]
        account: String,
    },
    /// Delete an account that has neither buckets nor keys.
    Delete {
        /// Its id or its name.
        #[arg(value_name = "ACCOUNT")]
        account: String,
    },
}

const KEY_EXAMPLES: &str = "\
A key signs requests for one account. On the disk its secret is sealed with the server's master
key; nobody, the server included, shows it again.

Examples:
  cullet key create --account analytics > analytics.env
      The file is of shell assignments: AWS_ACCESS_KEY_ID=… and AWS_SECRET_ACCESS_KEY=…

  cullet key rotate CULLETABCDEFGHIJKLMN > analytics.env
      Another secret for the same key. The one before is refused from the next request on.

  cullet key list --account analytics
  cullet key disable CULLETABCDEFGHIJKLMN
";

/// The flags of `cullet key`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "More with --help.",
    after_long_help = format!("{KEY_EXAMPLES}\n{ROOT_KEY}")
)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: KeyAction,
    /// Where.
    #[command(flatten)]
    pub server: ServerAccess,
}

/// What `cullet key` does.
#[derive(Debug, Clone, Subcommand)]
pub enum KeyAction {
    /// Create an access key and print it with its secret, this once.
    Create {
        /// Whose: an id or a name.
        #[arg(long, value_name = "ACCOUNT")]
        account: String,
        /// What it is for, for the list; at most 128 bytes.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// List access keys, without their secrets.
    List {
        /// Only those of this account: an id or a name.
        #[arg(long, value_name = "ACCOUNT")]
        account: Option<String>,
    },
    /// Accept a key no more, until it is enabled.
    Disable {
        /// The access key id.
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// Accept a key again.
    Enable {
        /// The access key id.
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// Give a key another secret and print it, this once. The one before is refused at once.
    Rotate {
        /// The access key id.
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// Delete a key.
    Delete {
        /// The access key id.
        #[arg(value_name = "KEY")]
        key: String,
    },
}

const DISK_EXAMPLES: &str = "\
Examples:
  cullet disk list
      Each disk of the set: its number, path, state, size and use, how much damage the server came
      upon since it started, and how far its scrub is. A disk is `live`, `draining`, `joining`, `away`, `failed`
      or `missing`, and may be `slow`.

  cullet disk status
      How many stripes have all of their shards, and how many are short of some; the bytes that
      are owing; whether all were looked at since anything changed.

  cullet disk replace 3 /mnt/new --dry-run
      How much would be written if the empty directory took the place of disk 3. Without
      --dry-run it does: at once if disk 3 is gone; if it is there, it is emptied first. The only
      disk of a set is replaced in the same way.

  cullet disk add /mnt/g
      One more disk, or one back that was away. Beside the only disk of a set, too.

  cullet disk drain /mnt/a
      Brings what is on it to the others; it leaves the set when it is empty.

  cullet disk scrub --now
      Reads and verifies everything, now.

A disk is named by its number, its path on the server, or its id. Everything is done while the
server serves, and goes on after a restart. At the next start the server's command line has to name
the disks that the set has then.
";

/// The flags of `cullet disk`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "More with --help.",
    after_long_help = format!("{DISK_EXAMPLES}\n{ROOT_KEY}")
)]
pub struct DiskArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: DiskAction,
    /// Where.
    #[command(flatten)]
    pub server: ServerAccess,
}

/// What `cullet disk` does.
#[derive(Debug, Clone, Subcommand)]
pub enum DiskAction {
    /// List the disks.
    List,
    /// Say how much of what is stored is there how often.
    Status,
    /// Take one more disk into the set, or one back that was away.
    Add {
        /// The data directory or block device on the server: empty, or a disk of this set.
        #[arg(value_name = "PATH")]
        path: String,
        /// Only say how many bytes would move to it.
        #[arg(long)]
        dry_run: bool,
    },
    /// Put an empty disk in the place of another one, which leaves the set.
    Replace {
        /// The one that leaves: its number, path or id.
        #[arg(value_name = "DISK")]
        disk: String,
        /// The data directory or block device on the server that takes its place: empty.
        #[arg(value_name = "PATH")]
        path: String,
        /// Only say how many bytes would be written.
        #[arg(long)]
        dry_run: bool,
        /// Also if something cannot be read without the disk that leaves, which is lost then.
        #[arg(long)]
        accept_loss: bool,
    },
    /// Bring what is on a disk to the others; it leaves the set when it is empty.
    Drain {
        /// Its number, path or id.
        #[arg(value_name = "DISK")]
        disk: String,
        /// Only say how many bytes would move.
        #[arg(long)]
        dry_run: bool,
        /// End the draining of a disk that has not left yet.
        #[arg(long, conflicts_with = "dry_run")]
        cancel: bool,
    },
    /// Take a disk out of the set that is gone for good.
    Remove {
        /// Its number or id.
        #[arg(value_name = "DISK")]
        disk: String,
        /// Only say how many bytes would be made again on the others.
        #[arg(long)]
        dry_run: bool,
        /// Also if something cannot be read without it, which is lost then.
        #[arg(long)]
        accept_loss: bool,
    },
    /// Read and verify everything on the disks without waiting for its time.
    Scrub(ScrubArgs),
}

/// What is scrubbed.
#[derive(Debug, Clone, Args)]
pub struct ScrubArgs {
    /// Only this one: its number, path or id.
    #[arg(value_name = "DISK")]
    pub disk: Option<String>,
    /// Begin now; `cullet disk list` shows how far it is.
    #[arg(long, required = true)]
    pub now: bool,
}

/// The flags of `cullet scrub`.
#[derive(Debug, Clone, Args)]
pub struct ScrubCommand {
    /// What is scrubbed.
    #[command(flatten)]
    pub scrub: ScrubArgs,
    /// Where.
    #[command(flatten)]
    pub server: ServerAccess,
}

impl From<ScrubCommand> for DiskArgs {
    fn from(command: ScrubCommand) -> DiskArgs {
        DiskArgs {
            action: DiskAction::Scrub(command.scrub),
            server: command.server,
        }
    }
}
