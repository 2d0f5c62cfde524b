//! Work that no request waits for: giving back the space of deleted bodies, and the scrub.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use objects::Objects;
use volume::Volume;

use crate::storage::Storage;

/// Pause between two steps of the sweep while there is something to do.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// Pause of the sweep while there is nothing to do.
const SWEEP_IDLE: Duration = Duration::from_secs(1);

/// How often the disks of a set are looked at while nothing is due.
const KEEP_IDLE: Duration = Duration::from_millis(50);

/// How often it is looked whether a set of one disk is about to grow.
const KEEP_NOTHING: Duration = Duration::from_secs(1);

/// Pause after a failure to look after them; requests may wait for it.
const KEEP_FAILURE_PAUSE: Duration = Duration::from_millis(200);

/// Pause after a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);

/// What a thread adds to its niceness that gives way to all others.
const NICE_MAX: i32 = 19;

/// Longest pause of the scrub, so that one that is asked for begins soon.
const SCRUB_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The background threads. Dropping this stops and joins them.
pub(crate) struct Background {
    threads: Vec<(Sender<()>, JoinHandle<()>)>,
}

impl Background {
    /// Starts the sweep, and the scrub: of everything once in an interval; if that is 0, only when
    /// it is asked for.
    pub(crate) fn start(storage: &Storage, scrub_interval: Duration) -> anyhow::Result<Background> {
        let mut background = Background {
            threads: Vec::new(),
        };
        let (objects, volume) = (storage.objects.clone(), storage.volume.clone());
        background.spawn("sweep", move |stop| sweep(&objects, stop))?;
        background.spawn("scrub", move |stop| scrub(&volume, scrub_interval, stop))?;
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
            match event.is_trouble {
                true => tracing::error!("{}", &*event),
                // Somebody may have waited for it, or has to do something now.
                false => tracing::warn!("{}", &*event),
            }
        }
        next = match kept {
            Ok(true) => Duration::ZERO,
            Ok(false) if volume.needs_no_keeping() => KEEP_NOTHING,
            Ok(false) => KEEP_IDLE,
            Err(error) => {
                tracing::warn!(%error, "looking after the disks was interrupted");
                KEEP_FAILURE_PAUSE
            }
        };
    }
}

/// Reads and verifies one extent after the other, spread evenly over the interval.
fn scrub(volume: &Volume, interval: Duration, stop: &Receiver<()>) {
    // Checksums take a processor for a while: whoever serves requests comes first. Where that is
    // not to be had, it is merely less polite.
    let _ = rustix::process::nice(NICE_MAX);
    let mut next = Duration::ZERO;
    while pause(stop, next.min(SCRUB_PAUSE_MAX)) {
        let (wait, found) = volume.scrub(interval);
        for damage in found {
            tracing::error!("{damage}");
        }
        next = wait;
    }
}
