//! `cullet server`: assembly, from flags to a listening socket and back to a closed disk.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use anyhow::Context as _;
use objects::Accounts;
use s3::{Budgets, Credentials, Front, FrontOptions, MemoryBudget};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use volume::limits::DISKS_MAX;

use crate::access_log::AccessLog;
use crate::admin::{ADMIN, Administration};
use crate::background::Background;
pub use crate::cli::ServerArgs;
use crate::connections::{App, connection_bytes, serve};
use crate::credentials::Given;
use crate::disks::Disks;
use crate::keyring::Keyring;
use crate::limits::{
    BLOCKING_THREADS_MAX, CONNECTION_WAIT, CONNECTIONS_WAITING_MAX, DISK_CAPACITY_BYTES_MIN,
    DRAIN_TIMEOUT, FILES_RESERVED, REGION_BYTES_MAX,
};
use crate::memory::{MemorySplit, as_usize};
use crate::metrics::Metrics;
use crate::pages::{METRICS, Pages};
use crate::places::Places;
pub use crate::storage::OpenDisk;
use crate::storage::{SetOptions, Storage, open_file_disk};
use crate::tls::Tls;
use crate::{ByteSize, UsageError, logging, signals, storage};

/// Runs the server on files or block devices, until a signal ends it.
///
/// # Errors
/// A sentence that says what went wrong, and what to do; [`UsageError`] for wrong usage.
pub fn run(args: ServerArgs) -> anyhow::Result<()> {
    run_with(args, Arc::new(open_file_disk))
}

/// Runs the server on disks that `open` opens.
///
/// # Errors
/// As [`run`], and whatever `open` says.
pub fn run_with(args: ServerArgs, open: Arc<OpenDisk>) -> anyhow::Result<()> {
    let plan = Plan::new(&args)?;
    logging::start(args.log_format, plan.log.clone());
    forbid_core_dumps();
    tracing::info!(memory = %plan.memory, "starting");
    warn_of_memory(args.memory);
    if let Some(tls) = &plan.tls {
        tls.warn_if_invalid();
    }
    let access_log = match &args.access_log {
        Some(path) => Some(AccessLog::start(path, args.log_format)?),
        None => None,
    };

    let runtime = runtime()?;
    let tls = plan.tls.clone();
    let stopping = signals::listen(&runtime, access_log.clone(), tls.clone())?;
    // Before the disk, so that a port in use is noticed before anything is touched.
    let listener = runtime.block_on(bind(&plan.addresses, &args.listen))?;
    let found = storage::find(&args.disks, &*open)?;
    let known = plan.given.look_up(&found.set, found.is_new)?;
    let wanted = SetOptions {
        capacity: args.disk_capacity,
        parity: args.parity,
        start_degraded: args.start_degraded,
    };
    let storage = storage::open(found, &*open, &wanted, &args.region, &plan.memory)?;
    let mut settled = known.settle()?;
    let keyring = Arc::new(Keyring::new(&mut settled));
    let accounts = open_accounts(&storage, keyring.clone())?;
    say(&settled.said)?;
    let background = Background::start(&storage, args.scrub_days)?;

    let identity = Identity {
        root: settled.root,
        accounts,
        keyring,
    };
    let memory = &plan.memory;
    let app = assemble(
        &args,
        memory,
        (&storage, open),
        identity,
        access_log.clone(),
        tls,
    )?;
    let served = runtime.block_on(serve_until_signal(listener, app, stopping));

    drop(background);
    // Also when serving failed: what was acknowledged is safe, but a checkpoint saves time.
    let closed = storage
        .objects
        .close()
        .context("cannot close the disk in good order");
    if let Some(log) = access_log
        && !log.flush()
    {
        tracing::warn!("the access log takes no lines; what waited for it is lost");
    }
    // Last, because the signals are waited for on it.
    runtime.shutdown_background();
    served?;
    closed
}

/// The limit is a promise that this machine may be unable to keep.
fn warn_of_memory(limit: ByteSize) {
    let system = rustix::system::sysinfo();
    let has = system.totalram.saturating_mul(u64::from(system.mem_unit));
    if limit.0 > has {
        tracing::warn!(
            "--memory {limit} is more than the {} that this machine has",
            ByteSize(has)
        );
    }
}

/// What the flags and the environment come to, checked before anything is touched.
struct Plan {
    log: tracing_subscriber::filter::Targets,
    memory: MemorySplit,
    given: Given,
    addresses: Vec<SocketAddr>,
    tls: Option<Arc<Tls>>,
}

impl Plan {
    fn new(args: &ServerArgs) -> anyhow::Result<Plan> {
        let log = logging::filter(&args.log)?;
        check_disks(args)?;
        let memory = MemorySplit::new(args.memory, args.disks.len())?;
        check_region(&args.region)?;
        s3::check_domains(&args.domain)
            .map_err(|sentence| UsageError::new(format!("--domain {sentence}")))?;
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
        let tls = match (&args.tls_cert, &args.tls_key) {
            (Some(certificate), Some(key)) => Some(Arc::new(Tls::load(certificate, key)?)),
            // The command line takes both or neither.
            _ => None,
        };
        let given = Given::new(args.credentials.as_deref(), &args.disks)?;
        Ok(Plan {
            log,
            memory,
            given,
            addresses,
            tls,
        })
    }
}

/// Signatures name the region, and each bucket's record keeps it.
fn check_region(region: &str) -> Result<(), UsageError> {
    let usable = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !region.is_empty() && region.len() <= REGION_BYTES_MAX && region.bytes().all(usable) {
        return Ok(());
    }
    Err(UsageError::new(format!(
        "--region {region:?} is not a region's name: use small letters, digits and hyphens, at \
         most {REGION_BYTES_MAX}"
    )))
}

/// A set has as many disks as it can have, each of them once.
fn check_disks(args: &ServerArgs) -> Result<(), UsageError> {
    let disks = &args.disks;
    if disks.len() > DISKS_MAX {
        return Err(UsageError::new(format!(
            "{} disks were named: a set has at most {DISKS_MAX}",
            disks.len()
        )));
    }
    for (at, disk) in disks.iter().enumerate() {
        if disk.as_os_str() == "help" && !disk.exists() {
            return Err(UsageError::new(
                "`cullet help server` shows the options; for a data directory of the name help, \
                 write ./help",
            ));
        }
        if disks[..at].contains(disk) {
            return Err(UsageError::new(format!(
                "{} is named twice: each disk is one directory or device of its own",
                disk.display()
            )));
        }
    }
    if let Some(parity) = args.parity
        && volume::Scheme::for_set(disks.len(), Some(parity)).is_none()
    {
        let width = volume::Scheme::for_disks(disks.len()).map_or(1, volume::Scheme::width);
        return Err(UsageError::new(format!(
            "--parity {parity} cannot be had on {} disks: a stripe takes {width} of them, and \
             one at least holds data",
            disks.len()
        )));
    }
    Ok(())
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

/// Who may ask.
struct Identity {
    root: Credentials,
    accounts: Accounts,
    keyring: Arc<Keyring>,
}

/// Loads accounts and keys, and says which cannot be used.
fn open_accounts(storage: &Storage, keyring: Arc<Keyring>) -> anyhow::Result<Accounts> {
    let accounts = Accounts::open(&storage.objects, keyring);
    let accounts = accounts.context("cannot read accounts and access keys")?;
    for damage in accounts.damage() {
        tracing::error!("an account or access key cannot be used: {damage}");
    }
    let stats = accounts.stats();
    if stats.unreadable_keys > 0 {
        tracing::error!(
            "{} of {} access keys are refused: their secrets are sealed with another master key \
             than CULLET_MASTER_KEY or the credentials file has, or there is none. Restore it and \
             start again; or `cullet key list` names them, and `cullet key rotate` gives them \
             other secrets",
            stats.unreadable_keys,
            stats.keys
        );
    }
    Ok(accounts)
}

/// Which root key is accepted. One that was made just now is shown with its secret, this once.
fn say(sentences: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    output
        .write_all(sentences.as_bytes())
        .and_then(|()| output.flush())
        .context("cannot write to standard output")
}

fn assemble(
    args: &ServerArgs,
    memory: &MemorySplit,
    (storage, open): (&Storage, Arc<OpenDisk>),
    identity: Identity,
    access_log: Option<AccessLog>,
    tls: Option<Arc<Tls>>,
) -> anyhow::Result<Arc<App>> {
    let budgets = Budgets::split(as_usize(memory.requests));
    let connection_bytes = connection_bytes(tls.is_some());
    let connections = MemoryBudget::with_waiting(
        "connections",
        connections_max(memory, connection_bytes)? * connection_bytes,
        CONNECTION_WAIT,
        CONNECTIONS_WAITING_MAX,
    );
    let all = vec![
        connections.clone(),
        budgets.small.clone(),
        budgets.forms.clone(),
        budgets.documents.clone(),
        budgets.reads.clone(),
        budgets.writes.clone(),
    ];
    let objects = storage.objects.clone();
    let metrics = Metrics::new(
        objects.clone(),
        identity.accounts.clone(),
        all,
        access_log,
        tls.clone(),
    );
    let render = metrics.clone();
    let disks = Disks::new(
        storage.volume.clone(),
        open,
        args.disk_capacity,
        storage.set,
        (args.memory, memory),
        [budgets.writes.clone(), budgets.reads.clone()],
    );
    let admin = Administration::new(
        objects.clone(),
        identity.accounts.clone(),
        identity.keyring,
        disks,
    );
    let options = FrontOptions {
        credentials: identity.root,
        accounts: identity.accounts,
        region: args.region.clone(),
        budgets,
        observer: metrics.clone(),
        metrics: Arc::new(move || render.render()),
        metrics_path: METRICS,
        admin: Arc::new(admin),
        admin_path: ADMIN,
        domains: args.domain.clone(),
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
        tls,
        places: Places::default(),
        refused: AtomicUsize::new(0),
    }))
}

/// Memory holds secrets in the clear, and a core dump would put them onto a disk. Where dumps go
/// through a pipe, a limit of 0 does not count; Linux takes a limit of one byte for no dump of
/// either kind. Where the limit is below that already and cannot be raised, the process is made
/// one that is not dumped, at the price that only root can look into it.
fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let one_byte = Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    let forbidden = setrlimit(Resource::Core, one_byte)
        .or_else(|_| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = forbidden {
        tracing::warn!(%error, "core dumps cannot be turned off: one would hold secrets");
    }
}

/// As many connections as memory and open files allow.
fn connections_max(memory: &MemorySplit, connection_bytes: usize) -> anyhow::Result<usize> {
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
    let files = files.unwrap_or(u64::MAX);
    // Where few files may be open, half of them are for clients that are served.
    let files = files.saturating_sub(FILES_RESERVED.min(files / 2));
    let connections = memory
        .connections_max(connection_bytes)
        .min(as_usize(files));
    anyhow::ensure!(
        connections > 0,
        "the limit of open files is too low for a single connection; raise it with `ulimit -n`"
    );
    Ok(connections)
}

async fn serve_until_signal(
    listener: TcpListener,
    app: Arc<App>,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    if *stopping.borrow() {
        return Ok(());
    }
    let address = listener
        .local_addr()
        .context("cannot tell the listening address")?;
    let scheme = match &app.tls {
        Some(tls) => {
            tokio::spawn(tls.clone().watch());
            "https"
        }
        None => "http",
    };
    let serving = tokio::spawn(serve(listener, app, stopping, DRAIN_TIMEOUT));
    announce(scheme, address)?;
    if !serving.await.context("serving ended in a panic")? {
        tracing::warn!("some clients were still busy and were cut off");
    }
    Ok(())
}

fn announce(scheme: &str, address: SocketAddr) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "listening on {scheme}://{address}")
        .and_then(|()| output.flush())
        .context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_cannot_be_signed_for_are_refused() {
        for region in ["us-east-1", "x", &"r".repeat(REGION_BYTES_MAX)] {
            assert!(check_region(region).is_ok(), "{region}");
        }
        for region in [
            "",
            "EU",
            "a b",
            "a/b",
            "ü",
            &"r".repeat(REGION_BYTES_MAX + 1),
        ] {
            assert!(check_region(region).is_err(), "{region}");
        }
    }
}
