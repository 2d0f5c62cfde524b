//! Load for an S3 endpoint: `cullet bench s3`.
//!
//! ```text
//!   names → bucket → fill → measure → clean up → report
//! ```
//!
//! What must hold:
//! - Nothing is deleted that was not made here: a bucket only if it was made here, objects only
//!   below the prefix, by the names that were given to them.
//! - What was made is deleted again, also when a step fails or somebody asks for the end,
//!   unless it is to be kept.
//! - The same requests go to every server: presigned, with `host` as the only signed header,
//!   bodies unsigned (`UNSIGNED-PAYLOAD`).

mod body;
mod exchange;
mod failure;
mod requests;
mod slot;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::endpoint::Endpoint;
use crate::http::Payload;
use crate::limits;
use crate::load::{self, Observer, Outcome, Plan, Progress};
use crate::process::Watched;
use crate::report::Report;
use crate::sigv4::{Credentials, Presigner};
use crate::{Error, Stop};
use body::Body;
use exchange::{Exchange, Expected};
use failure::Failure;
use requests::{Requests, Target};
use slot::{MIXED_READS, Shared, Slot, Task};

/// What kind of requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Writes objects, over and over.
    Put,
    /// Reads objects at random.
    Get,
    /// 70 % reads and 30 % writes.
    Mixed,
    /// Lists all objects, page by page.
    List,
    /// Deletes objects, each once.
    Delete,
}

impl Operation {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Mixed => "mixed",
            Operation::List => "list",
            Operation::Delete => "delete",
        }
    }
}

/// What to do to which server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server.
    pub endpoint: Arc<Endpoint>,
    /// The requests.
    pub operation: Operation,
    /// Size of each object in bytes; at most [`limits::BODY_BYTES_MAX`].
    pub size_bytes: u64,
    /// Distinct keys; 1 to [`limits::OBJECTS_MAX`].
    pub objects: u64,
    /// Requests under way at once, each on a connection of its own; 1 to
    /// [`limits::CONCURRENCY_MAX`].
    pub concurrency: usize,
    /// Threads that send them; 1 to [`limits::THREADS_MAX`].
    pub threads: usize,
    /// The part before the measured one.
    pub warmup: Duration,
    /// The measured part. Deleting ends earlier when all objects are deleted.
    pub duration: Duration,
    /// Requests per second; `None` for a closed loop.
    pub rate: Option<f64>,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// `None` makes a bucket and deletes it at the end.
    pub bucket: Option<String>,
    /// What keys begin with; `None` for one that nobody else uses.
    pub prefix: Option<String>,
    /// `None` sends requests unsigned.
    pub credentials: Option<Credentials>,
    /// Whether the objects are there already: then nothing is made and nothing deleted.
    pub prepared: bool,
    /// Whether what was made stays.
    pub keep: bool,
    /// Whether bodies are compared byte by byte, not only their lengths.
    pub verify: bool,
    /// Processes of the server on this machine, whose cost is measured.
    pub pids: Vec<u32>,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Objects are written for the measured part.
    Prepare,
    /// Requests are measured, or warm up.
    Measure,
    /// What was made is deleted.
    CleanUp,
}

/// Somebody who is told how far it is.
pub trait Teller {
    /// Called about ten times a second; `total` is the number of requests where it is known.
    fn progress(&mut self, phase: Phase, total: Option<u64>, progress: &Progress);

    /// Something that whoever waits should know at once.
    fn note(&mut self, sentence: &str);
}

/// Measures.
///
/// # Errors
/// [`Error`], after what was made has been deleted again. Requests that fail in the measured
/// part are no error: they stand in the report.
pub fn run(options: &Options, stop: &Stop, teller: &mut dyn Teller) -> Result<Report, Error> {
    check(options)?;
    let mut watched = Watched::new(&options.pids)?;
    let bench = Bench::new(options);
    bench.prepare_bucket()?;
    let mut made = 0;
    let measured = bench.measure(stop, teller, &mut watched, &mut made);
    let cleaned = bench.clean_up(made, teller);
    let mut report = measured?;
    if let Err(error) = cleaned {
        report.notes.push(format!("not all was deleted: {error}"));
    }
    Ok(report)
}

fn check(options: &Options) -> Result<(), Error> {
    let wrong = |sentence: &str| Err(Error::Usage(sentence.to_owned()));
    let within = |name: &str, value: f64, least: f64, most: f64| {
        if (least..=most).contains(&value) {
            Ok(())
        } else {
            Err(Error::Usage(format!(
                "{name} must be between {least} and {most}, not {value}"
            )))
        }
    };
    let seconds = |duration: Duration| duration.as_secs_f64();
    let longest = seconds(limits::DURATION_MAX);
    within(
        "--concurrency",
        options.concurrency as f64,
        1.0,
        limits::CONCURRENCY_MAX as f64,
    )?;
    within(
        "--threads",
        options.threads as f64,
        1.0,
        limits::THREADS_MAX as f64,
    )?;
    within(
        "--objects",
        options.objects as f64,
        1.0,
        limits::OBJECTS_MAX as f64,
    )?;
    within(
        "--size",
        options.size_bytes as f64,
        0.0,
        limits::BODY_BYTES_MAX as f64,
    )?;
    within(
        "--rate",
        options.rate.unwrap_or(1.0),
        0.001,
        limits::RATE_MAX,
    )?;
    within(
        "--duration in seconds",
        seconds(options.duration),
        0.001,
        longest,
    )?;
    within("--warmup in seconds", seconds(options.warmup), 0.0, longest)?;
    let (least, most) = (limits::TIMEOUT_MIN, limits::TIMEOUT_MAX);
    within(
        "--timeout in seconds",
        seconds(options.timeout),
        seconds(least),
        seconds(most),
    )?;
    let bucket = options.bucket.as_deref();
    if bucket.is_some_and(|name| {
        name.is_empty() || !name.is_ascii() || name.contains(['/', '?', ' ', '%'])
    }) {
        return wrong("--bucket must be the name of a bucket: letters, digits, dots and hyphens");
    }
    if options
        .prefix
        .as_ref()
        .is_some_and(|prefix| prefix.len() > 1000)
    {
        return wrong("--prefix is longer than 1,000 bytes");
    }
    if options.prepared {
        if bucket.is_none() {
            return wrong("--prepared needs --bucket: which one are the objects in?");
        }
        if !matches!(options.operation, Operation::Get | Operation::List) {
            return wrong("--prepared is for --op get and --op list, which change nothing");
        }
    }
    Ok(())
}

/// One run with its names and its requests.
struct Bench<'a> {
    options: &'a Options,
    target: Arc<Target>,
    body: Arc<Body>,
    /// Whether the bucket is made here.
    own_bucket: bool,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options) -> Bench<'a> {
        let now = SystemTime::now();
        let seconds = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let own_name = format!("cullet-bench-{seconds:x}-{:x}", std::process::id());
        let own_bucket = options.bucket.is_none();
        let prefix = match &options.prefix {
            Some(prefix) => prefix.clone(),
            None if own_bucket || options.prepared => String::new(),
            None => format!("{own_name}/"),
        };
        let host = options.endpoint.host.clone();
        let signer = |credentials| Presigner::new(credentials, &host, now);
        let presigner = options.credentials.as_ref().map(signer);
        let target = Target {
            presigner,
            bucket: options.bucket.clone().unwrap_or(own_name),
            prefix,
            host,
        };
        Bench {
            options,
            target: Arc::new(target),
            body: Arc::new(Body::new(options.size_bytes)),
            own_bucket,
        }
    }

    fn prepare_bucket(&self) -> Result<(), Error> {
        let bucket = &self.target.bucket;
        if self.own_bucket {
            return self.bucket_request("PUT", &[], &format!("cannot make the bucket {bucket}"));
        }
        if self.options.prepared && self.options.operation == Operation::Get {
            // A server of files knows no buckets: an object is looked at instead.
            return Ok(());
        }
        let query = [("list-type", "2"), ("max-keys", "1")];
        self.bucket_request("GET", &query, &format!("cannot use the bucket {bucket}"))
    }

    fn bucket_request(
        &self,
        method: &str,
        query: &[(&str, &str)],
        tried: &str,
    ) -> Result<(), Error> {
        let mut exchange = self.exchange();
        self.target
            .write_bucket_request(method, query, &mut exchange.request);
        let carried = block_on(exchange.carry(Payload::NONE, Expected::Document))?;
        carried
            .map(drop)
            .map_err(|failure| self.explained(&failure, tried))
    }

    /// Looks at one of the objects that should be there.
    fn probe(&self) -> Result<(), Error> {
        let last = self.options.objects - 1;
        let requests = Requests::new(&self.target, "GET", self.options.objects, None);
        let mut exchange = self.exchange();
        requests.write(last, &mut exchange.request);
        let size = Expected::Length(self.options.size_bytes);
        let carried = block_on(exchange.carry(Payload::NONE, size))?;
        let tried = format!(
            "cannot read {}/{}",
            self.target.bucket,
            self.target.key(last)
        );
        carried
            .map(drop)
            .map_err(|failure| self.explained(&failure, &tried))
    }

    fn explained(&self, failure: &Failure, tried: &str) -> Error {
        failure.explained(tried, &self.options.endpoint.url)
    }

    fn exchange(&self) -> Exchange {
        Exchange::new(self.options.endpoint.clone(), self.options.timeout)
    }

    /// Prepares and measures. `made` becomes the number of objects that may be there then.
    fn measure(
        &self,
        stop: &Stop,
        teller: &mut dyn Teller,
        watched: &mut Watched,
        made: &mut u64,
    ) -> Result<Report, Error> {
        let options = self.options;
        if options.prepared && options.operation == Operation::Get {
            self.probe()?;
        } else if !options.prepared && options.operation != Operation::Put {
            *made = options.objects;
            self.fill(stop, teller)?;
        }
        let shared = self.shared(self.task(), false);
        let plan = Plan {
            threads: options.threads,
            warmup: options.warmup,
            duration: Some(options.duration),
            rate: options.rate,
            series: shared.task.series().len(),
            ends_at_failure: false,
        };
        let slots = self.slots(&shared);
        let mut cost = None;
        let mut observer = Measuring {
            watched,
            cost: &mut cost,
            teller,
        };
        let outcome = load::run(&plan, slots, stop, &mut observer)?;
        if options.operation == Operation::Put {
            *made = shared.next.load(Ordering::Relaxed).min(options.objects);
        }
        if outcome.elapsed.is_zero() {
            return Err(Error::Stopped);
        }
        if outcome.succeeded() == 0
            && let Ok(Some(failure)) = shared.first_failure.lock().map(|mut first| first.take())
        {
            return Err(self.explained(&failure, "no request succeeded"));
        }
        Ok(self.report(outcome, cost, shared.task.series()))
    }

    fn task(&self) -> Task {
        let objects = self.options.objects;
        let of = |method| Requests::new(&self.target, method, objects, None);
        let put = || Requests::new(&self.target, "PUT", objects, Some(self.options.size_bytes));
        match self.options.operation {
            Operation::Put => Task::Put(put()),
            Operation::Get => Task::Get(of("GET")),
            Operation::Mixed => Task::Mixed {
                get: of("GET"),
                put: put(),
            },
            Operation::List => Task::List,
            Operation::Delete => Task::Delete(of("DELETE")),
        }
    }

    fn shared(&self, task: Task, persistent: bool) -> Arc<Shared> {
        Arc::new(Shared {
            target: Arc::clone(&self.target),
            task,
            body: Arc::clone(&self.body),
            objects: self.options.objects,
            next: AtomicU64::new(0),
            verify: self.options.verify,
            counts_keys: !self.options.prepared,
            persistent,
            first_failure: Mutex::new(None),
        })
    }

    fn slots(&self, shared: &Arc<Shared>) -> Vec<Slot> {
        (0..self.options.concurrency as u64)
            .map(|number| Slot::new(Arc::clone(shared), self.exchange(), number))
            .collect()
    }

    fn fill(&self, stop: &Stop, teller: &mut dyn Teller) -> Result<(), Error> {
        let (objects, size) = (self.options.objects, self.options.size_bytes);
        let requests = Requests::new(&self.target, "PUT", objects, Some(size));
        let shared = self.shared(Task::Fill(requests), true);
        let outcome = self.once(&shared, Phase::Prepare, objects, stop, teller)?;
        if let Ok(Some(failure)) = shared.first_failure.lock().map(|mut first| first.take()) {
            return Err(self.explained(&failure, "cannot write the objects to work with"));
        }
        if outcome.stopped {
            return Err(Error::Stopped);
        }
        Ok(())
    }

    /// Everything once, without a fixed duration.
    fn once(
        &self,
        shared: &Arc<Shared>,
        phase: Phase,
        total: u64,
        stop: &Stop,
        teller: &mut dyn Teller,
    ) -> Result<Outcome, Error> {
        let plan = Plan {
            threads: self.options.threads,
            warmup: Duration::ZERO,
            duration: None,
            rate: None,
            series: 1,
            ends_at_failure: true,
        };
        let mut telling = Telling {
            phase,
            total,
            teller,
        };
        load::run(&plan, self.slots(shared), stop, &mut telling)
    }

    /// Deletes the first `made` objects, and the bucket if it was made here.
    fn clean_up(&self, made: u64, teller: &mut dyn Teller) -> Result<(), Error> {
        let (bucket, prefix) = (&self.target.bucket, &self.target.prefix);
        if self.options.prepared || self.options.keep {
            if self.options.keep {
                teller.note(&format!("kept: {bucket}/{prefix}, {made} objects"));
            }
            return Ok(());
        }
        let cleaned = self.delete_all(made, teller);
        if cleaned.is_err() {
            teller.note(&format!(
                "what this run made could not be deleted and is still there: {bucket}/{prefix}"
            ));
        }
        cleaned
    }

    fn delete_all(&self, made: u64, teller: &mut dyn Teller) -> Result<(), Error> {
        if made > 0 {
            let requests = Requests::new(&self.target, "DELETE", made, None);
            let mut shared = self.shared(Task::Delete(requests), true);
            if let Some(shared) = Arc::get_mut(&mut shared) {
                shared.objects = made;
            }
            // The wish to end was heard: this is the end. Another one ends the process.
            self.once(&shared, Phase::CleanUp, made, &Stop::new(), teller)?;
            if let Ok(Some(failure)) = shared.first_failure.lock().map(|mut first| first.take()) {
                return Err(self.explained(&failure, "cannot delete objects"));
            }
        }
        if self.own_bucket {
            let tried = format!("cannot delete the bucket {}", self.target.bucket);
            self.bucket_request("DELETE", &[], &tried)?;
        }
        Ok(())
    }

    fn report(
        &self,
        outcome: Outcome,
        server: Option<crate::process::Cost>,
        series: &[&'static str],
    ) -> Report {
        let options = self.options;
        let operation = options.operation;
        let size = options.size_bytes;
        let what = match operation {
            Operation::Put => format!("PUT of {size} B"),
            Operation::Get => format!("GET of {size} B"),
            Operation::Mixed => format!(
                "{MIXED_READS} % GET and {} % PUT of {size} B",
                100 - MIXED_READS
            ),
            Operation::List => format!("ListObjectsV2, pages of {} keys", limits::PAGE_KEYS),
            Operation::Delete => "DELETE".to_owned(),
        };
        let mut notes = Vec::new();
        if !options.pids.is_empty() && server.is_none() {
            notes.push("a process of the server ended meanwhile: no figures of it".to_owned());
        }
        let title = format!(
            "{what}, {} keys, {} connections, {} at {}",
            options.objects,
            options.concurrency,
            if options.credentials.is_some() {
                "presigned"
            } else {
                "unsigned"
            },
            options.endpoint.url
        );
        let settings = json!({
            "benchmark": "s3",
            "endpoint": options.endpoint.url,
            "operation": operation.name(),
            "size_bytes": size,
            "objects": options.objects,
            "concurrency": options.concurrency,
            "threads": options.threads,
            "warmup_seconds": options.warmup.as_secs_f64(),
            "duration_seconds": options.duration.as_secs_f64(),
            "timeout_seconds": options.timeout.as_secs_f64(),
            "rate_target_per_second": options.rate,
            "signed": options.credentials.is_some(),
            "verified": options.verify,
            "bucket": self.target.bucket,
            "prefix": self.target.prefix,
        });
        Report {
            title,
            settings,
            series: series.iter().map(|name| (*name).to_owned()).collect(),
            items: (operation == Operation::List).then(|| "keys".to_owned()),
            rate: options.rate,
            outcome,
            server,
            notes,
        }
    }
}

/// Watches the measured part: the server's cost, and who is told.
struct Measuring<'a> {
    watched: &'a mut Watched,
    cost: &'a mut Option<crate::process::Cost>,
    teller: &'a mut dyn Teller,
}

impl Observer for Measuring<'_> {
    fn begun(&mut self) {
        self.watched.begin();
    }

    fn progress(&mut self, progress: &Progress) {
        if progress.measured.is_some() {
            self.watched.sample();
        }
        self.teller.progress(Phase::Measure, None, progress);
    }

    fn ended(&mut self) {
        *self.cost = self.watched.end();
    }
}

/// Passes progress on.
struct Telling<'a> {
    phase: Phase,
    total: u64,
    teller: &'a mut dyn Teller,
}

impl Observer for Telling<'_> {
    fn progress(&mut self, progress: &Progress) {
        self.teller.progress(self.phase, Some(self.total), progress);
    }
}

fn block_on<F: Future>(future: F) -> Result<F::Output, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::local("cannot start a runtime", error))?;
    Ok(runtime.block_on(future))
}
