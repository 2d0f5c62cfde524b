//! Memory as a contract: bytes are reserved before they are allocated, and whoever cannot
//! reserve waits a bounded time in a bounded queue and is then told to slow down.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{BUDGET_WAIT, BUDGET_WAITERS_MAX};

/// What one permit of the semaphore stands for, in bytes.
const UNIT_BYTES: usize = 1024;

/// A fixed number of bytes that is handed out in reservations. Clones share it.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Inner>);

struct Inner {
    name: &'static str,
    units: u32,
    semaphore: Arc<Semaphore>,
    wait: Duration,
    waiters_max: usize,
    waiting: AtomicUsize,
    refused: AtomicU64,
}

/// Bytes that are reserved until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// Gives back what exceeds `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self
            .permit
            .num_permits()
            .saturating_sub(units(bytes) as usize);
        drop(self.permit.split(excess));
    }
}

/// The budget is exhausted, and waiting did not help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overloaded {
    budget: &'static str,
}

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the memory for {} is in use; try again shortly, or start the server with more --memory",
            self.budget
        )
    }
}

impl std::error::Error for Overloaded {}

/// Counts a waiter for as long as it lives, also when the waiting future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MemoryBudget {
    /// A budget of `bytes`, named for messages: "the memory for {name} is in use".
    pub fn new(name: &'static str, bytes: usize) -> MemoryBudget {
        MemoryBudget::with_waiting(name, bytes, BUDGET_WAIT, BUDGET_WAITERS_MAX)
    }

    /// A budget that makes requests wait for at most `wait`, and at most `waiters_max` of them.
    pub fn with_waiting(
        name: &'static str,
        bytes: usize,
        wait: Duration,
        waiters_max: usize,
    ) -> MemoryBudget {
        let units = units(bytes);
        MemoryBudget(Arc::new(Inner {
            name,
            units,
            semaphore: Arc::new(Semaphore::new(units as usize)),
            wait,
            waiters_max,
            waiting: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Reserves `bytes`, waiting for others to give theirs back. More than the whole budget
    /// counts as the whole budget.
    ///
    /// # Errors
    /// [`Overloaded`] when too many wait already or the wait was in vain.
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation, Overloaded> {
        if let Some(reservation) = self.try_reserve(bytes) {
            return Ok(reservation);
        }
        let inner = &self.0;
        let wanted = units(bytes).min(inner.units);
        let waiting_before = inner.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&inner.waiting);
        if waiting_before >= inner.waiters_max {
            return Err(self.overloaded());
        }
        let acquire = inner.semaphore.clone().acquire_many_owned(wanted);
        match tokio::time::timeout(inner.wait, acquire).await {
            Ok(Ok(permit)) => Ok(Reservation { permit }),
            // The semaphore is never closed, so that only the time can have run out.
            Ok(Err(_)) | Err(_) => Err(self.overloaded()),
        }
    }

    /// Reserves `bytes` if that is possible at once.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let inner = &self.0;
        let wanted = units(bytes).min(inner.units);
        let permit = inner
            .semaphore
            .clone()
            .try_acquire_many_owned(wanted)
            .ok()?;
        Some(Reservation { permit })
    }

    /// Whether `bytes` can be reserved at all.
    pub fn can_hold(&self, bytes: usize) -> bool {
        units(bytes) <= self.0.units
    }

    /// The whole budget in bytes.
    pub fn total_bytes(&self) -> u64 {
        u64::from(self.0.units) * UNIT_BYTES as u64
    }

    /// Bytes that are reserved now.
    pub fn used_bytes(&self) -> u64 {
        let free = self.0.semaphore.available_permits() as u64 * UNIT_BYTES as u64;
        self.total_bytes().saturating_sub(free)
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Requests that were refused since the start.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// The budget's name.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    fn overloaded(&self) -> Overloaded {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        Overloaded {
            budget: self.0.name,
        }
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("name", &self.0.name)
            .field("total_bytes", &self.total_bytes())
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}

/// At least one unit, so that every request counts.
fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(bytes: usize, waiters_max: usize) -> MemoryBudget {
        MemoryBudget::with_waiting("tests", bytes, Duration::from_secs(5), waiters_max)
    }

    #[tokio::test(start_paused = true)]
    async fn waits_until_bytes_come_back() {
        let budget = budget(8 * 1024, 8);
        let held = budget.reserve(8 * 1024).await.unwrap();
        assert_eq!(budget.used_bytes(), 8 * 1024);
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(4 * 1024).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(budget.waiting(), 1);
        drop(held);
        assert_eq!(waiter.await.unwrap(), Ok(()));
        assert_eq!(
            (budget.used_bytes(), budget.waiting(), budget.refused()),
            (0, 0, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_after_the_wait() {
        let budget = budget(8 * 1024, 8);
        let _held = budget.reserve(8 * 1024).await.unwrap();
        assert!(budget.reserve(1).await.is_err());
        assert_eq!((budget.waiting(), budget.refused()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_at_once_when_too_many_wait() {
        let budget = budget(8 * 1024, 1);
        let _held = budget.reserve(8 * 1024).await.unwrap();
        let first = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(1).await.map(drop) }
        });
        tokio::task::yield_now().await;
        let started = tokio::time::Instant::now();
        assert!(budget.reserve(1).await.is_err());
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(first.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn what_is_not_needed_comes_back() {
        let budget = budget(8 * 1024, 8);
        let mut held = budget.reserve(8 * 1024).await.unwrap();
        held.shrink_to(3 * 1024);
        assert_eq!(budget.used_bytes(), 3 * 1024);
        held.shrink_to(8 * 1024);
        assert_eq!(budget.used_bytes(), 3 * 1024);
        drop(held);
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.can_hold(8 * 1024) && !budget.can_hold(8 * 1024 + 1));
    }

    #[tokio::test]
    async fn more_than_everything_is_everything() {
        let budget = budget(8 * 1024, 8);
        let held = budget.reserve(usize::MAX / 2).await.unwrap();
        assert_eq!(budget.used_bytes(), budget.total_bytes());
        drop(held);
        assert_eq!(budget.used_bytes(), 0);
    }
}
