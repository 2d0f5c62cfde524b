//! Work that no request waits for: giving back the space of deleted bodies, and the scrub.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use objects::Objects;
use shardstore::Engine;
use volume::Volume;

/// Pause between two steps of the sweep while there is something to do.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// Pause of the sweep while there is nothing to do.
const SWEEP_IDLE: Duration = Duration::from_secs(1);

/// How often the disks of a set are looked at while nothing is due.
const KEEP_IDLE: Duration = Duration::from_millis(50);

/// Pause of whoever has nothing to do at all.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Pause after a failure to look after them; requests may wait for it.
const KEEP_FAILURE_PAUSE: Duration = Duration::from_millis(200);

/// Pause after a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);

/// Longest pause of the scrub, so that extents added meanwhile are noticed.
const SCRUB_PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// The background threads. Dropping this stops and joins them.
pub(crate) struct Background {
    threads: Vec<(Sender<()>, JoinHandle<()>)>,
}

impl Background {
    /// Starts the sweep, and the scrub unless `scrub_interval` is 0.
    pub(crate) fn start(
        objects: Objects,
        engines: &[(String, Engine)],
        scrub_interval: Duration,
    ) -> anyhow::Result<Background> {
        let mut background = Background {
            threads: Vec::new(),
        };
        background.spawn("sweep", move |stop| sweep(&objects, stop))?;
        for (name, engine) in engines.iter().filter(|_| !scrub_interval.is_zero()) {
            let (name, engine) = (name.clone(), engine.clone());
            background.spawn("scrub", move |stop| {
                scrub(&name, &engine, scrub_interval, stop);
            })?;
        }
        Ok(background)
    }

    /// Starts looking after the disks of a set.
    pub(crate) fn keeper(volume: &Volume) -> anyhow::Result<Background> {
        let mut background = Background {
            threads: Vec::new(),
        };
        let volume = volume.clone();
        background.spawn("keep", move |stop| keep(&volume, stop))?;
        Ok(background)
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce(&Receiver<()>) + Send + 'static,
    ) -> anyhow::Result<()> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&stopped))
            .with_context(|| format!("cannot start the thread {name}"))?;
        self.threads.push((stop, thread));
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        for (stop, thread) in self.threads.drain(..) {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("a background thread ended in a panic");
            }
        }
    }
}

/// Waits; `false` when it is time to stop.
fn pause(stop: &Receiver<()>, duration: Duration) -> bool {
    stop.recv_timeout(duration) == Err(RecvTimeoutError::Timeout)
}

fn sweep(objects: &Objects, stop: &Receiver<()>) {
    let mut next = SWEEP_PAUSE;
    while pause(stop, next) {
        next = match objects.sweep_step() {
            Ok(true) => SWEEP_PAUSE,
            Ok(false) => SWEEP_IDLE,
            Err(error) => {
                tracing::warn!(%error, "the sweep of deleted bodies was interrupted");
                FAILURE_PAUSE
            }
        };
    }
}

/// Looks after the disks of a set.
fn keep(volume: &Volume, stop: &Receiver<()>) {
    let mut next = Duration::ZERO;
    while pause(stop, next) {
        let kept = volume.keep();
        for event in volume.take_events() {
            tracing::error!("{event}");
        }
        next = match kept {
            Ok(true) => Duration::ZERO,
            Ok(false) if volume.is_single() => NEVER,
            Ok(false) => KEEP_IDLE,
            Err(error) => {
                tracing::warn!(%error, "looking after the disks was interrupted");
                KEEP_FAILURE_PAUSE
            }
        };
    }
}

/// Reads and verifies one extent after the other, spread evenly over the interval.
fn scrub(name: &str, engine: &Engine, interval: Duration, stop: &Receiver<()>) {
    let mut extent = 0;
    loop {
        let extents = engine.store().extents().max(1);
        let step = (interval / extents).min(SCRUB_PAUSE_MAX);
        if !pause(stop, step) {
            return;
        }
        // More than the longest pause per extent: several pauses make one step.
        let steps = u32::try_from((interval / extents).as_nanos() / step.as_nanos().max(1));
        for _ in 1..steps.unwrap_or(1) {
            if !pause(stop, step) {
                return;
            }
        }
        extent = if extent + 1 < extents { extent + 1 } else { 0 };
        match engine.store().scrub(extent) {
            Ok(damage) => damage.iter().for_each(|damage| {
                tracing::error!(disk = name, extent, %damage, "the scrub found damage");
            }),
            Err(error) => {
                tracing::warn!(disk = name, extent, %error, "the scrub could not read an extent");
            }
        }
    }
}
