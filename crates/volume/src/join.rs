//! Waiting for several dependencies at once, of one engine or of several, without a thread.
//!
//! What runs when the last one is decided runs on the thread that decided it. It may submit, but
//! must not wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use shardstore::Dependency;

use crate::volume::lock;

type Results = Vec<shardstore::Result<()>>;

/// Dependencies, and what happens when all of them are decided.
struct Join {
    waiting: Mutex<Option<Waiting>>,
}

struct Waiting {
    parts: Vec<Dependency>,
    then: Box<dyn FnOnce(Results) + Send>,
}

impl Wake for Join {
    fn wake(self: Arc<Self>) {
        let decided = {
            let mut waiting = lock(&self.waiting);
            let waker = Waker::from(self.clone());
            let mut context = Context::from_waker(&waker);
            let is_decided =
                |part: &mut Dependency| matches!(Pin::new(part).poll(&mut context), Poll::Ready(_));
            // Asks them one after the other: the first that is not decided calls again.
            let parts = waiting.as_mut().map(|waiting| waiting.parts.iter_mut());
            match parts.is_some_and(|mut parts| parts.all(is_decided)) {
                true => waiting.take(),
                false => None,
            }
        };
        if let Some(Waiting { parts, then }) = decided {
            let result = |part: &Dependency| part.poll_now();
            then(parts.iter().filter_map(result).collect());
        }
    }
}

/// Calls `then` with the results of all parts, in their order, once the last is decided: at
/// once if that is so already.
pub(crate) fn when_decided(parts: Vec<Dependency>, then: impl FnOnce(Results) + Send + 'static) {
    let then = Box::new(then);
    let join = Join {
        waiting: Mutex::new(Some(Waiting { parts, then })),
    };
    Arc::new(join).wake();
}

/// Persistent once all parts are; fails with the first failure in their order, when all are
/// decided.
pub(crate) fn all(mut parts: Vec<Dependency>) -> Dependency {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return only;
    }
    let (completer, dependency) = Dependency::pair();
    when_decided(parts, |results| {
        completer.complete(results.into_iter().collect());
    });
    dependency
}

/// Persistent once all parts are decided, whatever came of them.
pub(crate) fn decided(parts: Vec<Dependency>) -> Dependency {
    let (completer, dependency) = Dependency::pair();
    when_decided(parts, |_| completer.complete(Ok(())));
    dependency
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use shardstore::Error;

    use super::*;

    #[test]
    fn the_last_decides_in_whatever_order_they_come() {
        for last in 0..3 {
            let (mut completers, parts): (Vec<_>, Vec<_>) = (0..3)
                .map(|_| Dependency::pair())
                .map(|(completer, dependency)| (Some(completer), dependency))
                .unzip();
            let joined = all(parts);
            for part in (0..3).filter(|part| *part != last) {
                completers[part].take().unwrap().complete(Ok(()));
                assert!(joined.poll_now().is_none());
            }
            completers[last].take().unwrap().complete(Ok(()));
            assert!(joined.is_persistent());
        }
    }

    #[test]
    fn a_failure_counts_when_all_are_decided() {
        let (first, a) = Dependency::pair();
        let (second, b) = Dependency::pair();
        let joined = all(vec![a, b, Dependency::persistent()]);
        first.complete(Err(Error::Busy));
        assert!(joined.poll_now().is_none());
        second.complete(Err(Error::OutOfSpace));
        assert!(matches!(joined.poll_now(), Some(Err(Error::Busy))));
    }

    /// Parts that are decided by several threads at the same time.
    #[test]
    fn it_happens_exactly_once() {
        for _ in 0..200 {
            let count = Arc::new(AtomicUsize::new(0));
            let (completers, parts): (Vec<_>, Vec<_>) = (0..8).map(|_| Dependency::pair()).unzip();
            let counter = count.clone();
            when_decided(parts, move |results| {
                assert_eq!(results.len(), 8);
                counter.fetch_add(1, Ordering::SeqCst);
            });
            std::thread::scope(|scope| {
                for completer in completers {
                    scope.spawn(|| completer.complete(Ok(())));
                }
            });
            assert_eq!(count.load(Ordering::SeqCst), 1);
        }
    }
}
