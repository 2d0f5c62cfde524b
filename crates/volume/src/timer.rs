//! Waking whoever waits when a time has come, for futures of any runtime: one thread for all of
//! them, begun when the first asks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::limits::ALARMS_MAX;
use crate::volume::lock;

struct Alarm {
    at: Instant,
    waker: Waker,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Alarm) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Alarm) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Alarm) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

#[derive(Default)]
struct Alarms {
    /// The first one first.
    waiting: Mutex<BinaryHeap<Reverse<Alarm>>>,
    changed: Condvar,
}

impl Alarms {
    fn run(&self) {
        let mut waiting = lock(&self.waiting);
        loop {
            let now = Instant::now();
            let mut due = Vec::new();
            while waiting.peek().is_some_and(|next| next.0.at <= now) {
                due.extend(waiting.pop());
            }
            if !due.is_empty() {
                drop(waiting);
                for alarm in due {
                    alarm.0.waker.wake();
                }
                waiting = lock(&self.waiting);
                continue;
            }
            let next = waiting.peek().map(|next| next.0.at);
            waiting = match next {
                None => self
                    .changed
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let waited = self.changed.wait_timeout(waiting, at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// Wakes once at a time, or soon after it. `false`: too many wait already, or there is no thread
/// to be had, and nobody is going to be woken.
pub(crate) fn wake_at(at: Instant, waker: &Waker) -> bool {
    static ALARMS: OnceLock<Option<Arc<Alarms>>> = OnceLock::new();
    let alarms = ALARMS.get_or_init(|| {
        let alarms = Arc::new(Alarms::default());
        let run = alarms.clone();
        let thread = std::thread::Builder::new().name("alarms".to_owned());
        thread.spawn(move || run.run()).ok().map(|_| alarms)
    });
    let Some(alarms) = alarms else {
        return false;
    };
    let mut waiting = lock(&alarms.waiting);
    if waiting.len() >= ALARMS_MAX {
        return false;
    }
    let is_first = waiting.peek().is_none_or(|next| at < next.0.at);
    waiting.push(Reverse(Alarm {
        at,
        waker: waker.clone(),
    }));
    drop(waiting);
    if is_first {
        alarms.changed.notify_one();
    }
    true
}

/// The answer if it comes before a time that is told when it has not come at once; `None`: it may
/// still come. Without an alarm it is waited for as long as it takes.
pub(crate) async fn before<F: Future + Unpin>(
    answer: &mut F,
    until: impl Fn() -> Instant,
) -> Option<F::Output> {
    let mut at = None;
    poll_fn(|context| {
        if let Poll::Ready(answer) = Pin::new(&mut *answer).poll(context) {
            return Poll::Ready(Some(answer));
        }
        let at = *at.get_or_insert_with(&until);
        if Instant::now() >= at {
            return Poll::Ready(None);
        }
        wake_at(at, context.waker());
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block_on;

    #[test]
    fn each_is_woken_when_its_time_has_come() {
        std::thread::scope(|scope| {
            for millis in [30, 5, 20, 0, 10] {
                scope.spawn(move || {
                    let at = Instant::now() + Duration::from_millis(millis);
                    let mut is_set = false;
                    block_on(poll_fn(|context| {
                        if Instant::now() >= at {
                            return Poll::Ready(());
                        }
                        assert!(is_set || wake_at(at, context.waker()));
                        is_set = true;
                        Poll::Pending
                    }));
                });
            }
        });
    }
}
