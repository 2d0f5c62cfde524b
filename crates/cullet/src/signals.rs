//! Signals, from before the disk is touched until the process ends: the first one asks for an
//! orderly end, a second one ends at once, whatever the process is waiting for then. Signals that
//! come with the first are the first: some send theirs to the process and to its group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::tls::Tls;

/// Exit status when a second signal ends the process at once.
const INTERRUPTED: i32 = 1;

/// Signals this soon after the first are the same wish: `timeout` sends its own twice.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// How long saying so may take.
const SAYING_TIMEOUT: Duration = Duration::from_millis(500);

/// Begins to listen on `runtime`'s threads. What is returned turns true at the first signal.
pub(crate) fn listen(
    runtime: &Runtime,
    access_log: Option<AccessLog>,
    tls: Option<Arc<Tls>>,
) -> anyhow::Result<watch::Receiver<bool>> {
    let _entered = runtime.enter();
    let terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let (stop, stopping) = watch::channel(false);
    runtime.spawn(hang_up(hangup, access_log, tls));
    runtime.spawn(end(terminate, interrupt, stop));
    Ok(stopping)
}

async fn end(mut terminate: Signal, mut interrupt: Signal, stop: watch::Sender<bool>) {
    either(&mut terminate, &mut interrupt).await;
    let first = Instant::now();
    stop.send_replace(true);
    loop {
        either(&mut terminate, &mut interrupt).await;
        if first.elapsed() >= SAME_SIGNAL {
            break;
        }
    }
    say_the_end();
    std::process::exit(INTERRUPTED);
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Says why, on a thread of its own: whoever reads standard error may be stuck, and the end does
/// not wait for it.
fn say_the_end() {
    let (said, heard) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().spawn(move || {
        eprintln!(
            "cullet: a second signal: ending at once, with requests unfinished; nothing that was \
             acknowledged is lost"
        );
        let _ = said.send(());
    });
    if thread.is_ok() {
        let _ = heard.recv_timeout(SAYING_TIMEOUT);
    }
}

/// What was rotated is opened anew, what may have been renewed is read again.
async fn hang_up(mut hangup: Signal, access_log: Option<AccessLog>, tls: Option<Arc<Tls>>) {
    while hangup.recv().await.is_some() {
        if let Some(log) = &access_log {
            log.reopen();
        }
        if let Some(tls) = &tls {
            tls.reload_soon();
        }
    }
}
