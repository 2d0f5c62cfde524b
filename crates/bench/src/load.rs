//! When requests are sent: slots that each send one request after the other, on a few threads.
//!
//! - **Closed loop** (no rate): a slot sends its next request when its last one ended. A server
//!   that stalls is then sent less, and the latencies say only what each request took.
//! - **Open loop** (a rate): requests are due at fixed times, whatever the server does. A free
//!   slot takes the next one and waits until it is due. Its latency counts from then, also when
//!   all slots were busy and it was sent late. Requests that were due before the end and not
//!   sent count with the time they had waited by then (no coordinated omission).
//!
//! What must hold:
//! - Only requests that were due (open loop) or begun (closed loop) after the warm-up count.
//! - No request is begun after the end; those under way then are waited for.
//! - Threads share nothing but the clock and the number of the next request.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::Error;
use crate::Stop;
use crate::limits::{INTERRUPTED_GRACE, TICK, UNSENT_RECORDED_MAX};
use crate::process;
use crate::record::{Done, Failed, Latencies, Recorder, Series};
use crate::timer::Timer;

/// How requests are sent.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Threads that the slots are spread over.
    pub threads: usize,
    /// What comes before the measured part.
    pub warmup: Duration,
    /// The measured part; `None` if it lasts until the work is exhausted.
    pub duration: Option<Duration>,
    /// Requests per second; `None` for a closed loop.
    pub rate: Option<f64>,
    /// Into how many series requests are told apart.
    pub series: usize,
    /// Whether the first request that fails is the end.
    pub ends_at_failure: bool,
}

/// What one slot does.
pub trait Work: Send + 'static {
    /// Before the load begins: opens a connection. Failures show in the first request.
    fn open(&mut self) -> impl Future<Output = ()> + Send;

    /// One request and its answer.
    fn perform(&mut self) -> impl Future<Output = Step> + Send;
}

/// What came of one request.
#[derive(Debug)]
pub enum Step {
    /// It succeeded.
    Done(Done),
    /// It failed.
    Failed(Failed),
    /// There was nothing left to do.
    Exhausted,
}

/// Somebody who watches.
pub trait Observer {
    /// The warm-up is over.
    fn begun(&mut self) {}

    /// Called about every [`TICK`].
    fn progress(&mut self, progress: &Progress) {
        let _ = progress;
    }

    /// All requests have ended.
    fn ended(&mut self) {}
}

/// How far a load is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Since the warm-up ended; `None` within it.
    pub measured: Option<Duration>,
    /// Of the measured part, where it has a fixed one.
    pub duration: Option<Duration>,
    /// Requests that ended since the load began, in the warm-up too.
    pub ended: u64,
    /// Requests that failed in the measured part.
    pub failed: u64,
    /// Highest latency since the last call.
    pub latest_max: Duration,
}

/// What came of a load.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// By kind of request, as the plan tells them apart.
    pub series: Vec<Series>,
    /// All requests, also those that were due and never sent.
    pub latencies: Latencies,
    /// Open loop: from when a request was due until it was sent.
    pub send_delay: Latencies,
    /// Failed requests by kind.
    pub errors: Vec<(String, u64)>,
    /// Open loop: requests that were due and could not be sent before the end.
    pub unsent: u64,
    /// Requests that were under way when the load was stopped, and not waited for.
    pub abandoned: u64,
    /// From the end of the warm-up until the last answer.
    pub elapsed: Duration,
    /// Whether somebody asked for an early end.
    pub stopped: bool,
    /// CPU time of this process in that time.
    pub client_cpu: Duration,
    /// The part of that time (0 to 1) for which the busiest thread was busy.
    pub busiest_thread: f64,
}

impl Outcome {
    /// Requests that succeeded.
    pub fn succeeded(&self) -> u64 {
        self.series.iter().map(|series| series.succeeded).sum()
    }

    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.series.iter().map(|series| series.failed).sum()
    }
}

/// What the threads share. Times are nanoseconds since the load began.
struct Shared {
    /// When the load began; set once all slots are ready.
    origin: OnceLock<Instant>,
    begin_ns: u64,
    end_ns: AtomicU64,
    /// Between two requests that are due, for an open loop.
    interval_ns: Option<f64>,
    /// The next request of an open loop.
    next: AtomicU64,
    /// Requests of an open loop that were sent.
    sent: AtomicU64,
    exhausted: AtomicBool,
    ends_at_failure: bool,
    /// Set to true when requests under way are not waited for any longer.
    abandon: watch::Sender<bool>,
}

impl Shared {
    fn origin(&self) -> Instant {
        *self.origin.get_or_init(Instant::now)
    }

    fn now_ns(&self) -> u64 {
        nanoseconds(self.origin().elapsed())
    }

    fn end_ns(&self) -> u64 {
        self.end_ns.load(Ordering::Acquire)
    }

    fn end_now(&self) {
        self.end_ns.fetch_min(self.now_ns(), Ordering::AcqRel);
    }

    /// When the request of this number is due.
    fn due_ns(&self, number: u64, interval_ns: f64) -> u64 {
        (number as f64 * interval_ns) as u64
    }
}

/// What a thread writes down, and who else may look.
struct Desk {
    recorder: Mutex<Recorder>,
    under_way: AtomicU64,
    busy: Mutex<Duration>,
}

impl Desk {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        lock(&self.recorder)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Numbers stay numbers, whatever happened to who wrote them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Sends requests from as many slots as there is `work`, until the plan's end, the work's, or
/// until somebody asks `stop` for it.
///
/// # Errors
/// [`Error::Local`] if threads or timers cannot be made.
pub fn run<W: Work>(
    plan: &Plan,
    work: Vec<W>,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    let begin_ns = nanoseconds(plan.warmup);
    let end_ns = plan.duration.map_or(u64::MAX, |duration| {
        begin_ns.saturating_add(nanoseconds(duration))
    });
    let shared = Arc::new(Shared {
        origin: OnceLock::new(),
        begin_ns,
        end_ns: AtomicU64::new(end_ns),
        interval_ns: plan.rate.map(|rate| 1e9 / rate),
        next: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        exhausted: AtomicBool::new(false),
        ends_at_failure: plan.ends_at_failure,
        abandon: watch::channel(false).0,
    });
    let threads = plan.threads.clamp(1, work.len().max(1));
    let ready = Arc::new(Barrier::new(threads + 1));
    let mut hands: Vec<Vec<W>> = (0..threads).map(|_| Vec::new()).collect();
    for (number, one) in work.into_iter().enumerate() {
        hands[number % threads].push(one);
    }
    let mut desks = Vec::new();
    let mut running = Vec::new();
    for slots in hands {
        let desk = Arc::new(Desk {
            recorder: Mutex::new(Recorder::new(plan.series)),
            under_way: AtomicU64::new(0),
            busy: Mutex::new(Duration::ZERO),
        });
        // Made here, where a failure can be told before anybody waits for anybody.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::local("cannot start a runtime", error))?;
        desks.push(Arc::clone(&desk));
        running.push((runtime, slots, desk));
    }
    let threads: Vec<_> = running
        .into_iter()
        .map(|(runtime, slots, desk)| {
            let (shared, ready) = (Arc::clone(&shared), Arc::clone(&ready));
            thread::spawn(move || one_thread(&runtime, slots, &shared, &desk, &ready))
        })
        .collect();
    ready.wait();
    let watching = watch_over(&shared, &desks, &threads, plan, stop, observer);
    for thread in threads {
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .map_err(|error| Error::local("cannot make a timer", error))?;
    }
    Ok(conclude(&shared, &desks, watching))
}

/// What the watching thread has measured.
struct Watching {
    stopped: bool,
    client_cpu: Duration,
}

fn watch_over(
    shared: &Shared,
    desks: &[Arc<Desk>],
    threads: &[thread::JoinHandle<std::io::Result<()>>],
    plan: &Plan,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Watching {
    let mut cpu_before = process::own_cpu();
    let mut begun = false;
    let mut stopped_at = None;
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        let now_ns = shared.now_ns();
        if !begun && now_ns >= shared.begin_ns {
            begun = true;
            cpu_before = process::own_cpu();
            observer.begun();
        }
        if stop.asked() {
            let since = *stopped_at.get_or_insert_with(|| {
                shared.end_now();
                Instant::now()
            });
            if since.elapsed() >= INTERRUPTED_GRACE {
                shared.abandon.send_replace(true);
            }
        }
        observer.progress(&progress(shared, desks, plan));
        let pause = if begun {
            TICK
        } else {
            TICK.min(Duration::from_nanos(shared.begin_ns.saturating_sub(now_ns)))
        };
        pause_unless_finished(pause, threads);
    }
    let client_cpu = process::own_cpu().saturating_sub(cpu_before);
    observer.ended();
    Watching {
        stopped: stopped_at.is_some(),
        client_cpu,
    }
}

/// Sleeps, but not long past the end: what the load cost is looked at right behind it.
fn pause_unless_finished(pause: Duration, threads: &[thread::JoinHandle<std::io::Result<()>>]) {
    const STEP: Duration = Duration::from_millis(10);
    let until = Instant::now() + pause;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || threads.iter().all(thread::JoinHandle::is_finished) {
            return;
        }
        thread::sleep(left.min(STEP));
    }
}

fn progress(shared: &Shared, desks: &[Arc<Desk>], plan: &Plan) -> Progress {
    let now_ns = shared.now_ns();
    let mut progress = Progress {
        measured: now_ns
            .checked_sub(shared.begin_ns)
            .map(Duration::from_nanos),
        duration: plan.duration,
        ended: 0,
        failed: 0,
        latest_max: Duration::ZERO,
    };
    for desk in desks {
        let mut recorder = desk.recorder();
        progress.ended += recorder.ended;
        progress.failed += recorder.errors.values().sum::<u64>();
        let latest_max = Duration::from_nanos(std::mem::take(&mut recorder.latest_max_ns));
        progress.latest_max = progress.latest_max.max(latest_max);
    }
    progress
}

fn one_thread<W: Work>(
    runtime: &tokio::runtime::Runtime,
    slots: Vec<W>,
    shared: &Arc<Shared>,
    desk: &Arc<Desk>,
    ready: &Barrier,
) -> std::io::Result<()> {
    let mut opened = Vec::new();
    runtime.block_on(async {
        let opening: Vec<_> = slots
            .into_iter()
            .map(|mut slot| {
                tokio::spawn(async move {
                    slot.open().await;
                    slot
                })
            })
            .collect();
        for slot in opening {
            if let Ok(slot) = slot.await {
                opened.push(slot);
            }
        }
    });
    ready.wait();
    let result = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for slot in opened {
            tasks.spawn(one_slot(slot, Arc::clone(shared), Arc::clone(desk)));
        }
        tasks.spawn(busy_from_begin(Arc::clone(shared), Arc::clone(desk)));
        let mut abandon = shared.abandon.subscribe();
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    None => return Ok(()),
                    Some(Ok(result)) => result?,
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                },
                _ = abandon.wait_for(|abandon| *abandon) => return Ok(()),
            }
        }
    });
    let mut busy = lock(&desk.busy);
    *busy = process::thread_cpu().saturating_sub(*busy);
    result
}

/// Notes this thread's CPU time when the measured part begins.
async fn busy_from_begin(shared: Arc<Shared>, desk: Arc<Desk>) -> std::io::Result<()> {
    *lock(&desk.busy) = process::thread_cpu();
    let begin = Duration::from_nanos(shared.begin_ns);
    if !begin.is_zero() {
        tokio::time::sleep_until((shared.origin() + begin).into()).await;
        *lock(&desk.busy) = process::thread_cpu();
    }
    Ok(())
}

async fn one_slot<W: Work>(
    mut work: W,
    shared: Arc<Shared>,
    desk: Arc<Desk>,
) -> std::io::Result<()> {
    let timer = match shared.interval_ns {
        Some(_) => Some(Timer::new()?),
        None => None,
    };
    loop {
        let mut started_ns = shared.now_ns();
        let mut due_ns = started_ns;
        if let (Some(timer), Some(interval_ns)) = (&timer, shared.interval_ns) {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            due_ns = shared.due_ns(number, interval_ns);
            if due_ns >= shared.end_ns() {
                return Ok(());
            }
            timer
                .wait(Duration::from_nanos(due_ns.saturating_sub(started_ns)))
                .await?;
            started_ns = shared.now_ns();
        }
        if started_ns >= shared.end_ns() {
            return Ok(());
        }
        shared
            .sent
            .fetch_add(u64::from(shared.interval_ns.is_some()), Ordering::Relaxed);
        desk.under_way.fetch_add(1, Ordering::Relaxed);
        let step = work.perform().await;
        desk.under_way.fetch_sub(1, Ordering::Relaxed);
        let ended_ns = shared.now_ns();
        let counts = due_ns >= shared.begin_ns;
        if shared.ends_at_failure && matches!(step, Step::Failed(_)) {
            shared.end_now();
        }
        let mut recorder = desk.recorder();
        recorder.ended += 1;
        let latency_ns = ended_ns.saturating_sub(due_ns);
        match step {
            Step::Exhausted => {
                recorder.ended -= 1;
                shared.exhausted.store(true, Ordering::Release);
                return Ok(());
            }
            Step::Done(done) if counts => recorder.done(done, latency_ns),
            Step::Failed(failed) if counts => recorder.failed(failed, latency_ns),
            Step::Done(_) | Step::Failed(_) => continue,
        }
        if shared.interval_ns.is_some() {
            recorder
                .send_delay
                .record(started_ns.saturating_sub(due_ns));
        }
        recorder.last_ns = ended_ns;
    }
}

fn conclude(shared: &Shared, desks: &[Arc<Desk>], watching: Watching) -> Outcome {
    let series = desks[0].recorder().series.len();
    let mut total = Recorder::new(series);
    let mut under_way = 0;
    let mut busiest = Duration::ZERO;
    for desk in desks {
        total.add(&desk.recorder());
        under_way += desk.under_way.load(Ordering::Relaxed);
        busiest = busiest.max(*lock(&desk.busy));
    }
    let mut latencies = Latencies::default();
    for series in &total.series {
        latencies.add(&series.latencies);
    }
    let exhausted = shared.exhausted.load(Ordering::Acquire);
    let end_ns = shared.end_ns();
    let elapsed_ns = if exhausted || end_ns == u64::MAX {
        total.last_ns
    } else {
        total.last_ns.max(end_ns)
    };
    let elapsed = Duration::from_nanos(elapsed_ns.saturating_sub(shared.begin_ns));
    let unsent = if exhausted {
        0
    } else {
        unsent(shared, end_ns, &mut latencies)
    };
    Outcome {
        series: total.series,
        latencies,
        send_delay: total.send_delay,
        errors: total.errors.into_iter().collect(),
        unsent,
        abandoned: under_way,
        elapsed,
        stopped: watching.stopped,
        client_cpu: watching.client_cpu,
        busiest_thread: busiest.as_secs_f64() / elapsed.as_secs_f64().max(1e-9),
    }
}

/// Counts what was due before the end and never sent, with the time it had waited by then.
/// Requests are sent in the order in which they are due, so these are the last ones.
fn unsent(shared: &Shared, end_ns: u64, latencies: &mut Latencies) -> u64 {
    let Some(interval_ns) = shared.interval_ns else {
        return 0;
    };
    let first = shared.sent.load(Ordering::Relaxed);
    let mut count = 0;
    for number in first.. {
        let due_ns = shared.due_ns(number, interval_ns);
        if due_ns >= end_ns {
            break;
        }
        if due_ns < shared.begin_ns {
            continue;
        }
        count += 1;
        if count <= UNSENT_RECORDED_MAX {
            latencies.record(end_ns - due_ns);
        }
    }
    count
}

#[cfg(test)]
mod tests;
