//! `cullet server`: assembly, from flags to a listening socket and back to a closed disk.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use objects::AccountId;
use s3::{Budgets, Credentials, Front, FrontOptions, MemoryBudget};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::access_log::AccessLog;
use crate::background::Background;
pub use crate::cli::ServerArgs;
use crate::connections::{App, serve};
use crate::credentials;
use crate::limits::{
    BLOCKING_THREADS_MAX, CONNECTION_BYTES, CONNECTION_WAIT, CONNECTIONS_WAITING_MAX,
    DISK_CAPACITY_BYTES_MIN, DRAIN_TIMEOUT, FILES_RESERVED,
};
use crate::memory::{MemorySplit, as_usize};
use crate::metrics::Metrics;
use crate::pages::{METRICS, Pages};
pub use crate::storage::OpenDisk;
use crate::storage::{Storage, open_file_disk};
use crate::{ByteSize, UsageError, logging, storage};

/// Exit status when a second signal ends the process at once.
const INTERRUPTED: i32 = 1;

/// Runs the server on files or block devices, until a signal ends it.
///
/// # Errors
/// A sentence that says what went wrong, and what to do; [`UsageError`] for wrong usage.
pub fn run(args: ServerArgs) -> anyhow::Result<()> {
    run_with(args, &open_file_disk)
}

/// Runs the server on disks that `open` opens.
///
/// # Errors
/// As [`run`], and whatever `open` says.
pub fn run_with(args: ServerArgs, open: &OpenDisk) -> anyhow::Result<()> {
    let plan = Plan::new(&args)?;
    logging::start(args.log_format, plan.log.clone());
    tracing::info!(memory = %plan.memory, "starting");
    let disk_path = only_disk(&args)?;
    let access_log = match &args.access_log {
        Some(path) => Some(AccessLog::start(path, args.log_format)?),
        None => None,
    };

    let runtime = runtime()?;
    // Before the disk, so that a port in use is noticed before anything is touched.
    let listener = runtime.block_on(bind(&plan.addresses, &args.listen))?;
    let disk = open(disk_path, args.disk_capacity.map(|size| size.0))?;
    let storage = storage::open(
        disk_path,
        disk,
        args.disk_capacity,
        &args.region,
        &plan.memory,
    )?;
    let credentials = access_key(plan.credentials.clone(), disk_path)?;
    let background = Background::start(
        storage.objects.clone(),
        storage.engine.clone(),
        args.scrub_days,
    )?;

    let app = assemble(&args, &plan, &storage, credentials, access_log.clone())?;
    let served = runtime.block_on(serve_until_signal(listener, app, access_log.clone()));

    drop(background);
    // Also when serving failed: what was acknowledged is safe, but a checkpoint saves time.
    let closed = storage
        .objects
        .close()
        .context("cannot close the disk in good order");
    runtime.shutdown_background();
    if let Some(log) = access_log {
        log.flush();
    }
    served?;
    closed
}

/// What the flags and the environment come to, checked before anything is touched.
struct Plan {
    log: tracing_subscriber::filter::Targets,
    memory: MemorySplit,
    credentials: Option<Credentials>,
    addresses: Vec<SocketAddr>,
}

impl Plan {
    fn new(args: &ServerArgs) -> anyhow::Result<Plan> {
        let log = logging::filter(&args.log)?;
        let memory = MemorySplit::new(args.memory)?;
        only_disk(args)?;
        let smallest = ByteSize(DISK_CAPACITY_BYTES_MIN);
        if let Some(capacity) = args.disk_capacity
            && capacity < smallest
        {
            return Err(UsageError::new(format!(
                "--disk-capacity {capacity} is too little: a disk needs at least {smallest}"
            ))
            .into());
        }
        let addresses: Vec<SocketAddr> = match args.listen.to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                return Err(UsageError::new(format!(
                    "--listen {:?} is no address ({error}): write it like 127.0.0.1:9000",
                    args.listen
                ))
                .into());
            }
        };
        Ok(Plan {
            log,
            memory,
            credentials: credentials::from_environment()?,
            addresses,
        })
    }
}

fn only_disk(args: &ServerArgs) -> Result<&Path, UsageError> {
    match args.disks.as_slice() {
        [disk] => Ok(disk),
        disks => Err(UsageError::new(format!(
            "{} disks were named, but sets of several disks are not there yet: name one",
            disks.len()
        ))),
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("serve")
        .enable_all()
        .build()
        .context("cannot start the threads that serve requests")
}

async fn bind(addresses: &[SocketAddr], listen: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addresses).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{listen} is in use by another program; stop that one, or choose another port with --listen"
        ),
        std::io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("no permission to listen on {listen}; choose a port above 1023")
        }
        _ => anyhow::anyhow!("cannot listen on {listen}: {error}"),
    })
}

/// The access key; one that was made just now is shown, this once.
fn access_key(given: Option<Credentials>, disk: &Path) -> anyhow::Result<Credentials> {
    if let Some(credentials) = given {
        return Ok(credentials);
    }
    if !disk.is_dir() {
        return Err(UsageError::new(
            "a block device has no place for a generated access key: set CULLET_ACCESS_KEY_ID \
             and CULLET_SECRET_ACCESS_KEY",
        )
        .into());
    }
    let found = credentials::load_or_make(disk)?;
    if let Some(path) = &found.made_in {
        let mut output = std::io::stdout().lock();
        write!(
            output,
            "a new access key, shown only this once and kept in {}:\n{}",
            path.display(),
            credentials::render(&found.credentials)
        )?;
        output.flush()?;
    }
    Ok(found.credentials)
}

fn assemble(
    args: &ServerArgs,
    plan: &Plan,
    storage: &Storage,
    credentials: Credentials,
    access_log: Option<AccessLog>,
) -> anyhow::Result<Arc<App>> {
    let budgets = Budgets::split(as_usize(plan.memory.requests));
    let connections = MemoryBudget::with_waiting(
        "connections",
        connections_max(&plan.memory)? * CONNECTION_BYTES,
        CONNECTION_WAIT,
        CONNECTIONS_WAITING_MAX,
    );
    let all = vec![
        connections.clone(),
        budgets.small.clone(),
        budgets.reads.clone(),
        budgets.writes.clone(),
    ];
    let objects = storage.objects.clone();
    let metrics = Metrics::new(objects.clone(), all, access_log);
    let render = metrics.clone();
    let options = FrontOptions {
        credentials,
        account: AccountId::ROOT,
        region: args.region.clone(),
        budgets,
        observer: metrics.clone(),
        metrics: Arc::new(move || render.render()),
        metrics_path: METRICS,
    };
    let front = Front::new(objects.clone(), options).map_err(UsageError::new)?;
    let pages = Pages {
        objects,
        metrics,
        stopping: AtomicBool::new(false),
    };
    Ok(Arc::new(App {
        front,
        pages,
        connections,
        pressure: Notify::new(),
    }))
}

/// As many connections as memory and open files allow.
fn connections_max(memory: &MemorySplit) -> anyhow::Result<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let files = files.unwrap_or(u64::MAX).saturating_sub(FILES_RESERVED);
    let connections = memory.connections_max().min(as_usize(files));
    anyhow::ensure!(
        connections > 0,
        "the limit of open files is too low for a single connection; raise it with `ulimit -n`"
    );
    Ok(connections)
}

async fn serve_until_signal(
    listener: TcpListener,
    app: Arc<App>,
    access_log: Option<AccessLog>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    tokio::spawn(rotate(hangup, access_log));

    let address = listener
        .local_addr()
        .context("cannot tell the listening address")?;
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve(listener, app, stopping, DRAIN_TIMEOUT));
    announce(address)?;

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: finishing what was begun");
    stop.send_replace(true);
    tokio::select! {
        drained = serving => {
            if !drained.context("serving ended in a panic")? {
                tracing::warn!("some clients were still busy and were cut off");
            }
            Ok(())
        }
        _ = terminate.recv() => std::process::exit(INTERRUPTED),
        _ = interrupt.recv() => std::process::exit(INTERRUPTED),
    }
}

fn announce(address: SocketAddr) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "listening on http://{address}")
        .and_then(|()| output.flush())
        .context("cannot write to standard output")
}

async fn rotate(mut hangup: Signal, access_log: Option<AccessLog>) {
    while hangup.recv().await.is_some() {
        if let Some(log) = &access_log {
            log.reopen();
        }
    }
}
