//! Disks that do not answer: an operation that never returns says nothing by itself, and everybody
//! waits. A thread of its own looks how long the oldest operation of each disk has been under way,
//! and gives a disk up that is silent for too long.
//!
//! What must always hold:
//! - time counts only while this thread is awake at its times: a machine that stood still gives up
//!   nothing;
//! - a disk is given up only while enough others answer. When most are silent, something else is
//!   wrong (a controller, a network), and all of them are waited for.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use shardstore::OperationId;

use crate::Volume;
use crate::keep::has_failed;
use crate::limits::{DISKS_MAX, SILENCE_TICKS};
use crate::table::Table;
use crate::volume::Inner;

/// What was seen of the disks, by their slots.
struct Watch {
    interval: Duration,
    looked_at: Instant,
    seen: [Seen; DISKS_MAX],
}

/// The oldest operation of a disk, and how often it was the oldest when it was looked.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    disk: [u8; 16],
    operation: Option<OperationId>,
    ticks: u32,
}

impl Volume {
    /// Begins to watch the disks, once there are several.
    pub(crate) fn ensure_watched(&self) {
        if self.table().is_single() {
            return;
        }
        self.inner.watched.get_or_init(|| {
            let (inner, silence) = (Arc::downgrade(&self.inner), self.inner.silence_max);
            let thread = std::thread::Builder::new().name("watch".to_owned());
            // Without it the set works as before; it waits for a disk that hangs, that is all.
            if let Err(error) = thread.spawn(move || watch(&inner, silence)) {
                let event = format!("disks that do not answer are not noticed: {error}");
                self.inner.keeping.say(event);
            }
        });
    }
}

fn watch(inner: &Weak<Inner>, silence: Duration) {
    let mut watch = Watch::new(silence);
    loop {
        std::thread::sleep(watch.interval);
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let table = Volume { inner }.table();
        for slot in watch.look(&table, Instant::now()) {
            if let Ok(engine) = table.engine(slot) {
                let seconds = silence.as_secs_f64();
                engine.abandon(&format!("it has not answered for {seconds} s"));
            }
        }
    }
}

impl Watch {
    fn new(silence: Duration) -> Watch {
        Watch {
            interval: silence / SILENCE_TICKS,
            looked_at: Instant::now(),
            seen: [Seen::default(); DISKS_MAX],
        }
    }

    /// Looks at all disks; says which are to be given up.
    fn look(&mut self, table: &Table, now: Instant) -> Vec<usize> {
        let is_late = now - self.looked_at > self.interval * 2;
        self.looked_at = now;
        let works = |slot: &usize| !has_failed(table, *slot);
        let here: Vec<usize> = table.here().filter(works).collect();
        for slot in &here {
            let Ok(engine) = table.engine(*slot) else {
                continue;
            };
            let store = engine.store();
            let oldest = store.oldest_operation();
            self.seen[*slot].note(store.identity().disk, oldest, is_late);
        }
        let ticks = |slot: &usize| self.seen[*slot].ticks;
        let silent = here.iter().filter(|slot| ticks(slot) >= SILENCE_TICKS);
        // Those that only look as if they were about to follow are not counted upon.
        let well = table.live().filter(works);
        let well = well.filter(|slot| ticks(slot) < SILENCE_TICKS / 2).count();
        match well >= table.membership.deciders() {
            true => silent.copied().collect(),
            false => Vec::new(),
        }
    }
}

impl Seen {
    fn note(&mut self, disk: [u8; 16], operation: Option<OperationId>, is_late: bool) {
        if operation.is_none() || (self.disk, self.operation) != (disk, operation) {
            *self = Seen {
                disk,
                operation,
                ticks: 0,
            };
        } else if !is_late {
            self.ticks += 1;
        }
    }
}
