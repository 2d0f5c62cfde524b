//! The one place that names threads, locks and atomics, so that a model checker can swap
//! them (feature `shuttle`).

use std::time::Duration;

#[cfg(not(feature = "shuttle"))]
mod imp {
    pub use std::sync::atomic;
    pub use std::sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
    };
    pub use std::thread;
}

#[cfg(feature = "shuttle")]
mod imp {
    pub use shuttle::sync::atomic;
    pub use shuttle::sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
    };
    pub use shuttle::thread;
}

pub use imp::*;

/// Locks a mutex. A poisoned lock means that a thread panicked while it held the lock, which
/// is a bug; going on could acknowledge what was never written.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("no thread panics while it holds a lock")
}

/// Takes a lock shared; see [`lock`] for poisoning.
pub fn read<T>(lock: &RwLock<T>) -> imp::RwLockReadGuard<'_, T> {
    lock.read().expect("no thread panics while it holds a lock")
}

/// Takes a lock exclusively; see [`lock`] for poisoning.
pub fn write<T>(lock: &RwLock<T>) -> imp::RwLockWriteGuard<'_, T> {
    lock.write()
        .expect("no thread panics while it holds a lock")
}

/// Pauses from this on are for what may come late, not for what must come: nothing may wait for
/// their end. The model checker never ends them, and so finds out who does.
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// Waits for a signal, for at most a while; may return early for no reason.
pub fn wait_at_most<'a, T>(
    signal: &Condvar,
    mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    pause: Duration,
) -> MutexGuard<'a, T> {
    // The model checker knows no time: its waits never end by themselves.
    if cfg!(feature = "shuttle") && pause < LONG_PAUSE {
        drop(guard);
        thread::yield_now();
        return lock(mutex);
    }
    let waited = signal.wait_timeout(guard, pause);
    waited.expect("no thread panics while it holds a lock").0
}
