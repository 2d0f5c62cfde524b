//! How long the disks take to answer, and which of them is slow: whoever reads does without one
//! that is, as long as the others have enough.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::limits::{DISKS_MAX, HEDGE_MAX, HEDGE_MIN, PROBE_INTERVAL, SLOW_FACTOR, SLOW_MIN};

/// Of all disks of a set, by slot.
pub(crate) struct Latencies {
    began: Instant,
    disks: [Latency; DISKS_MAX],
}

#[derive(Default)]
struct Latency {
    /// Moving average of what reads took that had to wait for the disk, in microseconds; 0: none
    /// has.
    average_us: AtomicU64,
    /// When it is asked again although it is slow, in milliseconds since the beginning.
    probe_at_ms: AtomicU64,
}

/// Slots of disks that are slow: a bit for each.
pub(crate) type Slots = u16;

/// What a read of a disk takes that nothing is known of: a slow one's.
const USUAL: Duration = Duration::from_millis(10);

/// Each read counts for this part of the average.
const WEIGHT: u64 = 8;

impl Latencies {
    pub(crate) fn new() -> Latencies {
        Latencies {
            began: Instant::now(),
            disks: Default::default(),
        }
    }

    /// A read had to wait for a disk, and took so long.
    pub(crate) fn note(&self, slot: usize, took: Duration) {
        let Some(disk) = self.disks.get(slot) else {
            return;
        };
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let average = disk.average_us.load(Ordering::Relaxed);
        let next = match average {
            0 => took,
            // One that was slow is asked seldom: what it says counts for more then.
            average if took < average / 4 => (average + took) / 2,
            // Of notes at the same time one may be lost.
            average => average - average / WEIGHT + took / WEIGHT,
        };
        disk.average_us.store(next.max(1), Ordering::Relaxed);
    }

    /// A read has not come for as long as one is waited for. One that never comes is slow, too.
    pub(crate) fn note_late(&self, slot: usize) {
        let patience = self.patience(slot);
        if patience > self.average(slot) {
            self.note(slot, patience);
        }
    }

    fn average(&self, slot: usize) -> Duration {
        let disk = self.disks.get(slot);
        Duration::from_micros(disk.map_or(0, |disk| disk.average_us.load(Ordering::Relaxed)))
    }

    /// Which of these disks take far longer than the others.
    pub(crate) fn slow(&self, slots: impl Iterator<Item = usize> + Clone) -> Slots {
        let may_be = |slot: &usize| self.average(*slot) > SLOW_MIN;
        if slots.clone().filter(may_be).count() == 0 {
            return 0;
        }
        // Of one that was not read, because memory had all that was wanted, the usual is assumed.
        let assumed = |average: Duration| match average.is_zero() {
            true => USUAL,
            false => average,
        };
        let averages = slots.clone().map(|slot| assumed(self.average(slot)));
        let mut averages: Vec<Duration> = averages.collect();
        averages.sort_unstable();
        // The lower one of two in the middle: of two disks one may be slow.
        let median = averages[(averages.len() - 1) / 2];
        let is_slow = |slot: &usize| may_be(slot) && self.average(*slot) > median * SLOW_FACTOR;
        slots.filter(is_slow).fold(0, |bits, slot| bits | 1 << slot)
    }

    /// How long to wait for a disk before others are asked, too.
    pub(crate) fn patience(&self, slot: usize) -> Duration {
        // Not what a slow one takes.
        (self.average(slot).min(USUAL) * 8).clamp(HEDGE_MIN, HEDGE_MAX)
    }

    /// Whether a slow disk is to be asked although nobody waits for it, to see whether it still is.
    pub(crate) fn may_probe(&self, slot: usize) -> bool {
        let Some(disk) = self.disks.get(slot) else {
            return false;
        };
        let now = self.began.elapsed().as_millis() as u64;
        let at = disk.probe_at_ms.load(Ordering::Relaxed);
        let next = now + PROBE_INTERVAL.as_millis() as u64;
        let order = Ordering::Relaxed;
        now >= at
            && disk
                .probe_at_ms
                .compare_exchange(at, next, order, order)
                .is_ok()
    }
}

const _: () = assert!(DISKS_MAX <= Slots::BITS as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_slow_beside_others_only() {
        let latencies = Latencies::new();
        let millis = Duration::from_millis;
        assert_eq!(latencies.slow(0..4), 0);
        for slot in 0..4 {
            latencies.note(slot, millis(1));
        }
        latencies.note(2, millis(400));
        assert_eq!(latencies.slow(0..4), 1 << 2);
        assert_eq!(latencies.slow([2].into_iter()), 0, "alone");
        assert_eq!(latencies.slow([1, 2].into_iter()), 1 << 2, "of two");
        for _ in 0..8 {
            latencies.note(2, millis(1));
        }
        assert_eq!(latencies.slow(0..4), 0, "no longer");
        for slot in 0..4 {
            (0..40).for_each(|_| latencies.note(slot, millis(60)));
        }
        assert_eq!(latencies.slow(0..4), 0, "all are the same");
        assert!(latencies.may_probe(1) && !latencies.may_probe(1));
    }
}
