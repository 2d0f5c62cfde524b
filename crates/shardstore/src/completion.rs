//! How a caller learns that something happened: without blocking, by blocking, or as a
//! [`Future`] of any runtime.
//!
//! A [`Completion`] is set once and its result taken once: whoever gives up on somebody who was to
//! set it may do so instead ([`Waiter`]), and what comes after that is not heard. A [`Dependency`] is a completion of durability; it
//! says `Ok` only after the flush that made its frame durable has returned. Whoever sets one
//! wakes whoever waits, on its own thread, and holds no lock that submitting takes.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};
use crate::sync::{Arc, Condvar, Mutex, Weak, lock};

#[derive(Debug)]
struct State<T> {
    result: Option<Result<T>>,
    /// Whether there was a result: the first one counts.
    is_set: bool,
    wakers: VecDeque<Waker>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    done: Condvar,
}

impl<T> Shared<T> {
    fn new() -> Arc<Shared<T>> {
        Arc::new(Shared {
            state: Mutex::new(State {
                result: None,
                is_set: false,
                wakers: VecDeque::new(),
            }),
            done: Condvar::new(),
        })
    }

    fn wait_until<R>(&self, mut look: impl FnMut(&mut Option<Result<T>>) -> Option<R>) -> R {
        let mut state = lock(&self.state);
        loop {
            if let Some(result) = look(&mut state.result) {
                return result;
            }
            state = self
                .done
                .wait(state)
                .expect("no thread panics while it holds a lock");
        }
    }

    fn poll_with<R>(
        &self,
        context: &mut Context<'_>,
        look: impl FnOnce(&mut Option<Result<T>>) -> Option<R>,
    ) -> Poll<R> {
        let mut state = lock(&self.state);
        if let Some(result) = look(&mut state.result) {
            return Poll::Ready(result);
        }
        if !state
            .wakers
            .iter()
            .any(|waker| waker.will_wake(context.waker()))
        {
            state.wakers.push_back(context.waker().clone());
        }
        Poll::Pending
    }
}

/// A result that arrives later, or is there already, and is taken once.
#[derive(Debug)]
pub struct Completion<T>(Inner<T>);

#[derive(Debug)]
enum Inner<T> {
    /// Most reads are answered at once, and cost nothing to hand over then. `None` once taken.
    Ready(Option<Result<T>>),
    Later(Arc<Shared<T>>),
}

/// Results are moved, never pinned.
impl<T> Unpin for Completion<T> {}

/// The side that provides the result. Dropped unused, it completes with [`Error::Closed`].
#[derive(Debug)]
pub struct Completer<T>(Option<Arc<Shared<T>>>);

impl<T> Completion<T> {
    /// A completion and the side that sets it.
    pub fn pair() -> (Completer<T>, Completion<T>) {
        let shared = Shared::new();
        let later = Inner::Later(shared.clone());
        (Completer(Some(shared)), Completion(later))
    }

    /// A completion that is complete already.
    pub fn ready(result: Result<T>) -> Completion<T> {
        Completion(Inner::Ready(Some(result)))
    }

    /// Whether the result is there.
    pub fn is_complete(&self) -> bool {
        match &self.0 {
            Inner::Ready(result) => result.is_some(),
            Inner::Later(shared) => lock(&shared.state).result.is_some(),
        }
    }

    /// Blocks the calling thread until the result is there, and takes it.
    pub fn wait(self) -> Result<T> {
        match self.0 {
            Inner::Ready(result) => result.unwrap_or(Err(Error::Closed)),
            Inner::Later(shared) => shared.wait_until(Option::take),
        }
    }
}

/// Must not be polled again after it was ready.
impl<T> Future for Completion<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        match &mut self.0 {
            Inner::Ready(result) => result.take().map_or(Poll::Pending, Poll::Ready),
            Inner::Later(shared) => shared.poll_with(context, Option::take),
        }
    }
}

impl<T> Completer<T> {
    /// Sets the result and wakes everybody who waits.
    pub fn complete(mut self, result: Result<T>) {
        if let Some(shared) = self.0.take() {
            set(&shared, result);
        }
    }
}

/// Somebody who waits for a result, for whoever may have to tell them that none will come.
pub(crate) struct Waiter(Weak<dyn GiveUp>);

trait GiveUp: Send + Sync {
    fn give_up(&self, error: Error);
}

impl<T: Send> GiveUp for Shared<T> {
    fn give_up(&self, error: Error) {
        set(self, Err(error));
    }
}

impl Waiter {
    /// Tells whoever still waits.
    pub(crate) fn give_up(&self, error: Error) {
        if let Some(waits) = self.0.upgrade() {
            waits.give_up(error);
        }
    }

    /// Whether nobody waits any more, and nobody is going to set a result.
    pub(crate) fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl<T: Send + 'static> Completer<T> {
    /// Whoever waits for what this sets.
    pub(crate) fn waiter(&self) -> Waiter {
        match &self.0 {
            Some(shared) => Waiter(Arc::downgrade(&(shared.clone() as Arc<dyn GiveUp>))),
            None => Waiter(Weak::<Shared<T>>::new()),
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            set(&shared, Err(Error::Closed));
        }
    }
}

fn set<T>(shared: &Shared<T>, result: Result<T>) {
    let wakers = {
        let mut state = lock(&shared.state);
        if state.is_set {
            return;
        }
        state.is_set = true;
        state.result = Some(result);
        shared.done.notify_all();
        std::mem::take(&mut state.wakers)
    };
    for waker in wakers {
        waker.wake();
    }
}

/// The durability of one append. Clones share it.
#[derive(Debug, Clone)]
pub struct Dependency(Arc<Shared<()>>);

impl Dependency {
    /// A dependency and the side that makes it persistent.
    pub fn pair() -> (Completer<()>, Dependency) {
        let shared = Shared::new();
        (Completer(Some(shared.clone())), Dependency(shared))
    }

    /// What is persistent already.
    pub fn persistent() -> Dependency {
        let (completer, dependency) = Dependency::pair();
        completer.complete(Ok(()));
        dependency
    }

    /// What has failed already.
    pub fn failed(error: Error) -> Dependency {
        let (completer, dependency) = Dependency::pair();
        completer.complete(Err(error));
        dependency
    }

    /// Whether the append has reached stable storage.
    pub fn is_persistent(&self) -> bool {
        matches!(self.poll_now(), Some(Ok(())))
    }

    /// `None` while undecided.
    pub fn poll_now(&self) -> Option<Result<()>> {
        lock(&self.0.state).result.clone()
    }

    /// Blocks the calling thread until it is decided.
    pub fn wait(&self) -> Result<()> {
        self.0.wait_until(|result| result.clone())
    }
}

impl Future for Dependency {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.poll_with(context, |result| result.clone())
    }
}
