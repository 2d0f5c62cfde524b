//! The threads around a store: one commits, one maintains, one ends the wait of batches for
//! which the queue has no room, a bounded pool reads.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::completion::{Completer, Completion, Dependency, Waiter};
use crate::disk::{Disk, Read};
use crate::error::{Error, Result};
use crate::limits::{PAGE, SUPERBLOCK_OFFSETS};
use crate::mutants::{self, Mutant};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Condvar, Mutex, lock, thread, wait_at_most};
use crate::view::View;

/// Reads that may wait for an I/O thread; more are refused with [`Error::Busy`].
const READS_WAITING_MAX: usize = 4096;

/// How often maintenance looks whether something is due, unless it is woken.
const MAINTENANCE_PAUSE: Duration = Duration::from_secs(1);

/// How long maintenance waits after a step failed.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// How long the committer waits for a dependency on something else before it looks again.
const BLOCKED_PAUSE: Duration = Duration::from_millis(1);

/// How long the committer waits for a checkpoint before it looks whether maintenance waits for a
/// commit.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(1);

/// How often closing looks whether everything is committed, unless it is told.
const DRAIN_PAUSE: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce(&Store) + Send>;

/// A kind of maintenance; `false`: nothing was due.
type Step = fn(&Store) -> Result<bool>;

struct Inner {
    store: Store,
    /// Maintenance stops first: whatever it is in the middle of still needs the committer.
    maintenance_stopping: AtomicBool,
    stopping: AtomicBool,
    reads: Mutex<VecDeque<Job>>,
    reads_signal: Condvar,
    maintenance_due: Mutex<bool>,
    maintenance_signal: Condvar,
    /// Signalled when a checkpoint has caught up.
    caught_up: Condvar,
    /// Signalled, for the store's queue, when something was taken from it.
    committed: Condvar,
    /// Whoever waits for a read, or for work on a thread of its own.
    waiters: Mutex<Waiters>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    maintainer: Mutex<Option<thread::JoinHandle<()>>>,
    /// How closing went, once it was done; held meanwhile.
    closed: Mutex<Option<Result<()>>>,
}

/// Whoever may have to be told that no answer will come.
#[derive(Default)]
struct Waiters {
    all: Vec<Waiter>,
    /// Nobody is waited for any more.
    abandoned: bool,
}

impl Waiters {
    /// Remembers one, and forgets, now and then, whose waiting is over.
    fn add(&mut self, waiter: Waiter) {
        if self.all.len() == self.all.capacity() {
            self.all.retain(|waiter| !waiter.is_over());
            // So that it is seldom looked for.
            self.all.reserve(self.all.len() + WAITERS_MIN);
        }
        self.all.push(waiter);
    }
}

/// Room for so many more waiters at least before those are forgotten whose waiting is over.
const WAITERS_MIN: usize = 64;

/// A store with its threads. Clones share it; [`close`](Engine::close) stops it.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Engine").field(&self.inner.store).finish()
    }
}

impl Engine {
    /// Starts the threads: three, and `io_threads` (at least one) for reads.
    pub fn start(store: Store, io_threads: usize) -> Result<Engine> {
        store.set_pumped_by_a_thread(true);
        let inner = Arc::new(Inner {
            store,
            maintenance_stopping: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            reads: Mutex::new(VecDeque::new()),
            reads_signal: Condvar::new(),
            maintenance_due: Mutex::new(false),
            maintenance_signal: Condvar::new(),
            caught_up: Condvar::new(),
            committed: Condvar::new(),
            waiters: Mutex::new(Waiters::default()),
            threads: Mutex::new(Vec::new()),
            maintainer: Mutex::new(None),
            closed: Mutex::new(None),
        });
        let engine = Engine { inner };
        let mut threads = vec![
            engine.spawn("commit", Inner::commit)?,
            engine.spawn("queue", Inner::watch_queue)?,
        ];
        for _ in 0..io_threads.max(1) {
            threads.push(engine.spawn("read", Inner::serve_reads)?);
        }
        *lock(&engine.inner.threads) = threads;
        *lock(&engine.inner.maintainer) = Some(engine.spawn("maintain", Inner::maintain)?);
        Ok(engine)
    }

    fn spawn(&self, name: &str, body: fn(&Inner)) -> Result<thread::JoinHandle<()>> {
        let inner = self.inner.clone();
        thread::Builder::new()
            .name(format!("shard-{name}"))
            .spawn(move || {
                let _guard = AbortOnPanic;
                body(&inner);
            })
            .map_err(|error| no_thread(&error))
    }

    /// The store itself.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// See [`Store::submit`].
    pub fn submit(&self, batch: Batch) -> Result<Dependency> {
        self.inner.store.submit(batch)
    }

    /// See [`Store::snapshot`].
    pub fn snapshot(&self) -> Snapshot {
        self.inner.store.snapshot()
    }

    /// Runs `f` at once with [`Read::Nowait`]; if it says [`Error::WouldBlock`], again with
    /// [`Read::Blocking`] on an I/O thread.
    pub fn read<T: Send + 'static>(
        &self,
        f: impl FnMut(&Store, Read) -> Result<T> + Send + 'static,
    ) -> Completion<T> {
        self.read_unless(READS_WAITING_MAX, f)
    }

    /// As [`read`](Engine::read), however many wait already: for whoever has few under way.
    pub(crate) fn read_in_background<T: Send + 'static>(
        &self,
        f: impl FnMut(&Store, Read) -> Result<T> + Send + 'static,
    ) -> Completion<T> {
        self.read_unless(usize::MAX, f)
    }

    fn read_unless<T: Send + 'static>(
        &self,
        waiting_max: usize,
        mut f: impl FnMut(&Store, Read) -> Result<T> + Send + 'static,
    ) -> Completion<T> {
        match f(&self.inner.store, Read::Nowait) {
            Err(Error::WouldBlock) => {}
            done => return Completion::ready(done),
        }
        let (completer, completion) = Completion::pair();
        if let Err(error) = self.inner.expect(&completer) {
            return Completion::ready(Err(error));
        }
        let mut reads = lock(&self.inner.reads);
        if self.inner.stopping.load(Ordering::SeqCst) {
            drop(reads);
            return Completion::ready(Err(self.inner.ended()));
        }
        if reads.len() >= waiting_max {
            return Completion::ready(Err(Error::Busy));
        }
        reads.push_back(Box::new(move |store| {
            completer.complete(f(store, Read::Blocking))
        }));
        self.inner.reads_signal.notify_one();
        completion
    }

    /// A consistent view, read on the engine's threads.
    pub fn view(&self) -> View {
        View::new(self)
    }

    /// Reads a page of the medium itself, to see whether the disk answers.
    pub fn ping(&self) -> Completion<()> {
        self.read_in_background(|store, how| match how {
            Read::Nowait => Err(Error::WouldBlock),
            _ => {
                let mut page = [0; PAGE];
                let disk = &store.shared.medium.disk;
                Ok(disk.read(SUPERBLOCK_OFFSETS[0], &mut page, Read::PastCache)?)
            }
        })
    }

    /// Does something long on a thread of its own.
    pub fn apart<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
    ) -> Completion<T> {
        let (completer, completion) = Completion::pair();
        if let Err(error) = self.inner.expect(&completer) {
            return Completion::ready(Err(error));
        }
        let engine = self.clone();
        let thread = thread::Builder::new().name("shard-apart".to_owned());
        let spawned = thread.spawn(move || {
            let _guard = AbortOnPanic;
            let done = f(&engine);
            // Whoever waits may be about to open the disk anew.
            drop(engine);
            completer.complete(done);
        });
        match spawned {
            Ok(_) => completion,
            Err(error) => Completion::ready(Err(no_thread(&error))),
        }
    }

    /// The disk does not answer, and is not waited for any more: it fails, and whoever waits for
    /// it is told so, whatever its operations come to later. The threads that hang end when the
    /// operations do.
    pub fn abandon(&self, reason: &str) {
        let inner = &self.inner;
        let reason = inner.store.abandon(reason);
        let waiters = {
            let mut waiters = lock(&inner.waiters);
            waiters.abandoned = true;
            std::mem::take(&mut waiters.all)
        };
        inner.maintenance_stopping.store(true, Ordering::SeqCst);
        inner.stopping.store(true, Ordering::SeqCst);
        for waiter in waiters {
            waiter.give_up(Error::Failed {
                reason: reason.clone(),
            });
        }
        // Those that were told already.
        let reads = std::mem::take(&mut *lock(&inner.reads));
        drop(reads);
        inner.request_maintenance();
        inner.wake_all();
    }

    /// Commits what is queued, ends the step of maintenance that is under way, writes a
    /// checkpoint and stops the threads. Once only: whoever calls it again, or meanwhile, gets
    /// the same answer when that is done.
    pub fn close(&self) -> Result<()> {
        let mut closed = lock(&self.inner.closed);
        // Apart, so that whoever closes a disk that does not answer is told when it is abandoned.
        let close = || self.apart(Engine::close_once).wait();
        closed.get_or_insert_with(close).clone()
    }

    fn close_once(&self) -> Result<()> {
        let inner = &self.inner;
        inner.store.stop_taking();
        inner.wait_until_drained();
        if !mutants::on(Mutant::M30) {
            inner.end_maintenance();
        }
        let result = inner.store.checkpoint();
        inner.end_commits_and_reads();
        if mutants::on(Mutant::M30) {
            inner.end_maintenance();
        }
        // What was submitted while the committer ended.
        inner.store.seal_queue(&Error::Closed);
        result
    }
}

/// A thread of the engine that panicked leaves locks poisoned and callers waiting for ever. A
/// process that ends instead loses nothing that was acknowledged, and can be started again.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        // The model checker's threads unwind when a schedule failed.
        if cfg!(not(feature = "shuttle")) && thread::panicking() {
            std::process::abort();
        }
    }
}

fn no_thread(error: &std::io::Error) -> Error {
    Error::Failed {
        reason: format!("cannot start a thread: {error}"),
    }
}

impl Inner {
    /// Whoever waits for this is told when the disk is abandoned.
    fn expect<T: Send + 'static>(&self, completer: &Completer<T>) -> Result<()> {
        let mut waiters = lock(&self.waiters);
        if waiters.abandoned {
            drop(waiters);
            return Err(self.ended());
        }
        waiters.add(completer.waiter());
        Ok(())
    }

    /// What whoever comes too late is told.
    fn ended(&self) -> Error {
        match self.store.failure() {
            Some(reason) => Error::Failed { reason },
            None => Error::Closed,
        }
    }

    fn end_maintenance(&self) {
        self.maintenance_stopping.store(true, Ordering::SeqCst);
        self.request_maintenance();
        if let Some(thread) = lock(&self.maintainer).take() {
            // A thread that panicked has printed why; there is nothing more to save.
            let _ = thread.join();
        }
    }

    fn end_commits_and_reads(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake_all();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            let _ = thread.join();
        }
    }

    fn wake_all(&self) {
        drop(lock(&self.reads));
        self.reads_signal.notify_all();
        self.caught_up.notify_all();
        drop(lock(&self.store.queue));
        self.store.queue_signal.notify_all();
        self.store.waiting_signal.notify_all();
        // Whoever closes it waits for the queue, which nobody takes from any more.
        self.committed.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn maintenance_is_stopping(&self) -> bool {
        self.maintenance_stopping.load(Ordering::SeqCst)
    }

    /// Blocks until nothing waits to be committed. On a failed disk too: the committer refuses
    /// what waits then.
    fn wait_until_drained(&self) {
        loop {
            let mut queue = lock(&self.store.queue);
            while !queue.is_empty() {
                queue = wait_at_most(&self.committed, &self.store.queue, queue, DRAIN_PAUSE);
            }
            drop(queue);
            // Between groups: while one is placed, what does not fit into it is in no queue.
            let _turn = lock(&self.store.pump_turn);
            if lock(&self.store.queue).is_empty() {
                return;
            }
        }
    }

    fn commit(&self) {
        while self.wait_for_work() {
            self.wait_for_maintenance();
            // A failed disk has told everybody who waited; there is nobody else to tell.
            let committed = self.store.pump();
            self.committed.notify_all();
            if self.store.waits_for_space(&lock(&self.store.log)) {
                self.catch_up();
            }
            let is_due = || self.store.checkpoint_is_due() || self.store.is_short_of_space();
            if matches!(committed, Ok(true)) && is_due() {
                self.request_maintenance();
            }
        }
    }

    /// Refuses what has waited for room for long enough. A thread of its own, because all the
    /// others may be waiting for a disk that stands still.
    fn watch_queue(&self) {
        while self.wait_for_overdue() {
            self.store.refuse_overdue(Instant::now());
            self.committed.notify_all();
        }
    }

    /// Blocks until some batch has waited for long enough. `false`: stop.
    fn wait_for_overdue(&self) -> bool {
        let stated = "no thread panics while it holds a lock";
        let signal = &self.store.waiting_signal;
        let mut queue = lock(&self.store.queue);
        loop {
            if self.is_stopping() {
                return false;
            }
            let left = queue
                .next_overdue()
                .map(|until| until.saturating_duration_since(Instant::now()));
            queue = match left {
                None => signal.wait(queue).expect(stated),
                Some(Duration::ZERO) => return true,
                Some(left) => wait_at_most(signal, &self.store.queue, queue, left),
            };
        }
    }

    /// Blocks until something may be committed. `false`: stop.
    fn wait_for_work(&self) -> bool {
        let mut queue = lock(&self.store.queue);
        loop {
            if queue.has_ready() {
                return true;
            }
            if self.is_stopping() {
                return false;
            }
            let signal = &self.store.queue_signal;
            if queue.blocked.is_empty() {
                let waited = signal.wait(queue);
                queue = waited.expect("no thread panics while it holds a lock");
            } else {
                drop(wait_at_most(
                    signal,
                    &self.store.queue,
                    queue,
                    BLOCKED_PAUSE,
                ));
                return true;
            }
        }
    }

    /// Lets maintenance catch up when memory holds two memtables' worth already, unless what
    /// waits is maintenance's own.
    fn wait_for_maintenance(&self) {
        while self.store.checkpoint_is_overdue()
            && self.store.starved().is_none()
            && lock(&self.store.queue).background.is_empty()
            && self.store.failure().is_none()
            && !self.is_stopping()
        {
            self.catch_up();
        }
    }

    /// Lets maintenance come further, for a moment: it may itself wait for a commit.
    fn catch_up(&self) {
        self.request_maintenance();
        let due = lock(&self.maintenance_due);
        drop(wait_at_most(
            &self.caught_up,
            &self.maintenance_due,
            due,
            CATCH_UP_PAUSE,
        ));
    }

    fn request_maintenance(&self) {
        *lock(&self.maintenance_due) = true;
        self.maintenance_signal.notify_one();
    }

    fn maintain(&self) {
        while !self.maintenance_is_stopping() {
            {
                let mut due = lock(&self.maintenance_due);
                if !*due {
                    let (signal, mutex) = (&self.maintenance_signal, &self.maintenance_due);
                    due = wait_at_most(signal, mutex, due, MAINTENANCE_PAUSE);
                }
                *due = false;
            }
            let mut went_well = true;
            while !self.maintenance_is_stopping() {
                match self.maintain_once() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => {
                        went_well = false;
                        break;
                    }
                }
            }
            self.caught_up.notify_all();
            if !went_well {
                self.pause_after_error();
            }
        }
    }

    /// Out of space resolves itself when something is deleted, a failed disk has said so, and
    /// damage is kept in the store's list: in each case a later round tries again, not at once.
    fn pause_after_error(&self) {
        let due = lock(&self.maintenance_due);
        // Looked at under the lock: closing signals only once.
        if self.maintenance_is_stopping() {
            return;
        }
        let (signal, mutex) = (&self.maintenance_signal, &self.maintenance_due);
        drop(wait_at_most(signal, mutex, due, ERROR_PAUSE));
    }

    /// A round of maintenance: each kind of work in its turn, so that none keeps the others from
    /// theirs, and a checkpoint that is due before each. `false`: nothing is due.
    ///
    /// A step that fails does not keep the later ones from running: reclamation above all must
    /// go on when there is no space for a checkpoint or for compaction.
    fn maintain_once(&self) -> Result<bool> {
        let store = &self.store;
        if store.failure().is_some() {
            return Ok(false);
        }
        if let Some(reason) = store.shared.medium.disk.vanished() {
            store.give_up(&reason);
            return Ok(false);
        }
        store.refresh_capacity();
        let reclaim_first: [Step; 3] = [Store::reclaim_step, Store::prepare_ahead, Store::compact];
        let compact_first: [Step; 3] = [Store::prepare_ahead, Store::compact, Store::reclaim_step];
        let steps = if store.is_short_of_space() {
            reclaim_first
        } else {
            compact_first
        };
        let mut worked = false;
        let mut failed = None;
        for step in steps {
            for step in [Store::checkpoint_step, step] {
                if self.maintenance_is_stopping() {
                    return Ok(false);
                }
                match step(store) {
                    Ok(did) => worked |= did,
                    Err(error) => failed = Some(error),
                }
                self.caught_up.notify_all();
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(worked),
        }
    }

    fn serve_reads(&self) {
        loop {
            let job = {
                let mut reads = lock(&self.reads);
                loop {
                    if let Some(job) = reads.pop_front() {
                        break job;
                    }
                    if self.is_stopping() {
                        return;
                    }
                    let waited = self.reads_signal.wait(reads);
                    reads = waited.expect("no thread panics while it holds a lock");
                }
            };
            job(&self.store);
        }
    }
}
