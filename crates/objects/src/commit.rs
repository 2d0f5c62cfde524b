//! From a batch that was submitted to its outcome, whatever becomes of whoever waits.
//!
//! A client may go away while its batch is on its way to the disk. The locks of the keys
//! that the batch changes must outlive that: released early, the next writer would read a
//! current version that is about to be replaced.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use volume::{Dependency, FinishedBlob};

use crate::Result;
use crate::locks::Guards;

/// A batch that was submitted.
pub(crate) struct Commit {
    dependency: Dependency,
    held: Option<Held>,
}

/// What is kept until the batch is decided.
struct Held {
    _guards: Guards,
    /// The blob that the batch refers to: stays if the batch succeeds, else is deleted.
    blob: Option<FinishedBlob>,
}

impl Held {
    fn decided(mut self, succeeded: bool) {
        match self.blob.take() {
            Some(blob) if succeeded => drop(blob.keep()),
            // Who calls this may be the engine's own thread with a lock in its hands.
            Some(blob) => blob.discard_later(),
            None => {}
        }
    }
}

impl Commit {
    pub(crate) fn new(
        dependency: Dependency,
        guards: Guards,
        blob: Option<FinishedBlob>,
    ) -> Commit {
        Commit {
            dependency,
            held: Some(Held {
                _guards: guards,
                blob,
            }),
        }
    }

    /// Waits until the batch is persistent. Dropped before, everything still happens.
    pub(crate) async fn durable(mut self) -> Result<()> {
        let outcome = self.dependency.clone().await;
        if let Some(held) = self.held.take() {
            held.decided(outcome.is_ok());
        }
        Ok(outcome.map_err(volume::VolumeError::from)?)
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            let held = Mutex::new(Some(held));
            Arc::new(Abandoned {
                dependency: self.dependency.clone(),
                held,
            })
            .wake();
        }
    }
}

/// A commit for which nobody waits any more. It is woken by whoever decides the dependency,
/// which keeps it alive until then.
struct Abandoned {
    dependency: Dependency,
    held: Mutex<Option<Held>>,
}

impl Wake for Abandoned {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        let dependency = pin!(self.dependency.clone());
        if let Poll::Ready(outcome) = dependency.poll(&mut Context::from_waker(&waker)) {
            let held = self
                .held
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(held) = held {
                held.decided(outcome.is_ok());
            }
        }
    }
}
