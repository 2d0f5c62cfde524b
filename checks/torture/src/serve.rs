//! `cullet server` in everything but its disk.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use cullet::cli::ServerArgs;
use shardstore::Disk;

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
            Ok(Some(Arc::new(disk) as Arc<dyn Disk>))
        }),
    )
}
