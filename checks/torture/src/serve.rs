//! `cullet server` in everything but its disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use cullet::cli::ServerArgs;
use shardstore::{Disk, DiskError, Read};

use crate::volatile::VolatileDisk;

/// Size of the disk when `--disk-capacity` is not given, in bytes.
const CAPACITY_BYTES: u64 = 1 << 30;

/// The server on a disk that keeps unflushed writes in this process's memory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Decides which pages reach the file early, and the order within a flush.
    #[arg(long)]
    seed: u64,
    /// Forget about some flushes.
    #[arg(long)]
    lying: bool,
    /// The arguments of `cullet server`.
    #[arg(last = true)]
    server: Vec<String>,
}

#[derive(Debug, Parser)]
struct ServerCommand {
    #[command(flatten)]
    args: ServerArgs,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let words = std::iter::once("torture serve --".to_owned()).chain(args.server);
    let server = ServerCommand::parse_from(words);
    let (seed, lying) = (args.seed, args.lying);
    let capacity = server
        .args
        .disk_capacity
        .map_or(CAPACITY_BYTES, |size| size.0);
    cullet::server::run_with(
        server.args,
        Arc::new(move |directory: &Path, create| {
            let path = directory.join("volatile.disk");
            if !create && !path.exists() {
                return Ok(None);
            }
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            let disk = VolatileDisk::open(&path, capacity, seed, lying);
            let disk = disk.with_context(|| format!("cannot open {}", path.display()))?;
            Ok(Some(Arc::new(SlowDisk {
                disk,
                slow_if: directory.join(SLOW_FILE),
            }) as Arc<dyn Disk>))
        }),
    )
}

/// While a file of this name is in a disk's directory, each of its operations takes so much longer.
pub const SLOW_FILE: &str = "slow";
pub const SLOW_MILLIS: u64 = 200;

/// A disk that can be made slow.
struct SlowDisk {
    disk: VolatileDisk,
    slow_if: PathBuf,
}

impl SlowDisk {
    fn dawdle(&self) {
        if self.slow_if.exists() {
            std::thread::sleep(Duration::from_millis(SLOW_MILLIS));
        }
    }
}

impl Disk for SlowDisk {
    fn capacity(&self) -> u64 {
        self.disk.capacity()
    }

    fn read(&self, offset: u64, buf: &mut [u8], how: Read) -> Result<(), DiskError> {
        if how == Read::Nowait && self.slow_if.exists() {
            return Err(DiskError::WouldBlock);
        }
        self.dawdle();
        self.disk.read(offset, buf, how)
    }

    fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), DiskError> {
        self.dawdle();
        self.disk.write(offset, bufs)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.dawdle();
        self.disk.flush()
    }

    fn prepare(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.disk.prepare(offset, len)
    }
}
