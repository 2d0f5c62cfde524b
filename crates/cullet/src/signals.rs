//! Signals, from before the disk is touched until the process ends: the first one asks for an
//! orderly end, a second one ends at once, whatever the process is waiting for then.

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::access_log::AccessLog;

/// Exit status when a second signal ends the process at once.
const INTERRUPTED: i32 = 1;

/// Begins to listen on `runtime`'s threads. What is returned turns true at the first signal.
pub(crate) fn listen(
    runtime: &Runtime,
    access_log: Option<AccessLog>,
) -> anyhow::Result<watch::Receiver<bool>> {
    let _entered = runtime.enter();
    let terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let (stop, stopping) = watch::channel(false);
    runtime.spawn(rotate(hangup, access_log));
    runtime.spawn(end(terminate, interrupt, stop));
    Ok(stopping)
}

async fn end(mut terminate: Signal, mut interrupt: Signal, stop: watch::Sender<bool>) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: finishing what was begun");
    stop.send_replace(true);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    eprintln!(
        "cullet: a second signal: ending at once, with requests unfinished; nothing that was \
         acknowledged is lost"
    );
    std::process::exit(INTERRUPTED);
}

async fn rotate(mut hangup: Signal, access_log: Option<AccessLog>) {
    while hangup.recv().await.is_some() {
        if let Some(log) = &access_log {
            log.reopen();
        }
    }
}
