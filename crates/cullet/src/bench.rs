//! `cullet bench`: load for any server, this one or another. What is on the command line and
//! in the environment becomes options here; progress and results are shown here. All else is
//! in the crate `bench`.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::load::Progress;
use bench::s3::{Operation, Options, Phase, Teller};
use bench::sigv4::Credentials;
use bench::{Error, Stop};

use crate::cli::{BenchAction, BenchArgs, BenchOperation, BenchS3Args};
use crate::{UsageError, manage, trust};

/// Pairs of variables that name an access key and its secret; the first that is set is used.
const CREDENTIALS: [(&str, &str); 2] = [
    ("CULLET_ACCESS_KEY_ID", "CULLET_SECRET_ACCESS_KEY"),
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
];

/// Distinct keys where none are asked for. Puts and deletes use each key once, as far as there
/// are enough of them.
const OBJECTS: u64 = 10_000;
const OBJECTS_USED_ONCE: u64 = 100_000;

/// The warm-up where none is asked for. Deleting has none: it would use up the objects.
const WARMUP: Duration = Duration::from_secs(1);

/// Exit status when a second signal ends the process at once.
const INTERRUPTED: i32 = 1;

/// How often the line of progress is written anew.
const SHOWN_EVERY: Duration = Duration::from_millis(500);

/// Runs `cullet bench`.
///
/// # Errors
/// A sentence that says what went wrong; also if requests failed.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    match args.action {
        BenchAction::S3(args) => s3(&args),
    }
}

fn s3(args: &BenchS3Args) -> anyhow::Result<()> {
    let options = options(args)?;
    let stop = Stop::new();
    listen_for_signals(&stop)?;
    let mut line = Line::new();
    let result = bench::s3::run(&options, &stop, &mut line);
    line.clear();
    let report = result.map_err(|error| match error {
        Error::Usage(sentence) => UsageError::new(sentence).into(),
        other => anyhow::Error::new(other),
    })?;
    let text = if args.json {
        format!("{:#}\n", report.json())
    } else {
        report.text()
    };
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    match report.failure() {
        None => Ok(()),
        Some(failure) => Err(anyhow::anyhow!("{failure}")),
    }
}

fn options(args: &BenchS3Args) -> anyhow::Result<Options> {
    let operation = match args.op {
        BenchOperation::Put => Operation::Put,
        BenchOperation::Get => Operation::Get,
        BenchOperation::Mixed => Operation::Mixed,
        BenchOperation::List => Operation::List,
        BenchOperation::Delete => Operation::Delete,
    };
    let once = matches!(operation, Operation::Put | Operation::Delete);
    let warmup = if operation == Operation::Delete {
        Duration::ZERO
    } else {
        WARMUP
    };
    let credentials = if args.anonymous {
        None
    } else {
        Some(credentials(&args.region)?)
    };
    Ok(Options {
        endpoint: Arc::new(trust::endpoint(&args.endpoint, args.ca.as_deref())?),
        operation,
        size_bytes: args.size.0,
        objects: args
            .objects
            .unwrap_or(if once { OBJECTS_USED_ONCE } else { OBJECTS }),
        concurrency: args.concurrency,
        threads: args.threads.unwrap_or_else(threads),
        warmup: args.warmup.unwrap_or(warmup),
        duration: args.duration,
        rate: args.rate,
        timeout: args.timeout,
        bucket: args.bucket.clone(),
        prefix: args.prefix.clone(),
        credentials,
        prepared: args.prepared,
        keep: args.keep,
        verify: args.verify,
        pids: args.pid.clone(),
    })
}

/// Half of the processors, so that a server on the same machine has the other half.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, 8)
}

fn credentials(region: &str) -> Result<Credentials, UsageError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    for (key, secret) in CREDENTIALS {
        match (variable(key), variable(secret)) {
            (Some(access_key), Some(secret_key)) => {
                return Ok(Credentials {
                    access_key,
                    secret_key,
                    region: region.to_owned(),
                });
            }
            (None, None) => {}
            (Some(_), None) => {
                return Err(UsageError::new(format!(
                    "{key} is set, but {secret} is not"
                )));
            }
            (None, Some(_)) => {
                return Err(UsageError::new(format!(
                    "{secret} is set, but {key} is not"
                )));
            }
        }
    }
    if let Some(kept) = manage::kept_root_key() {
        return Ok(Credentials {
            access_key: kept.access_key_id,
            secret_key: kept.secret_access_key,
            region: region.to_owned(),
        });
    }
    Err(UsageError::new(
        "no credentials: set CULLET_ACCESS_KEY_ID and CULLET_SECRET_ACCESS_KEY, or \
         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, to the server's; --anonymous sends \
         requests unsigned",
    ))
}

/// A duration on the command line: `500ms`, `10s`, `2m`, `1h`; a number alone is seconds.
///
/// # Errors
/// A sentence, if it is written otherwise.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "" | "s" => Some(1.0),
        "ms" => Some(0.001),
        "m" | "min" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let number = number.parse::<f64>().ok();
    number
        .zip(seconds)
        .and_then(|(number, seconds)| Duration::try_from_secs_f64(number * seconds).ok())
        .ok_or_else(|| format!("{text:?} is not a duration; write it like 10s, 500ms or 2m"))
}

/// The first SIGINT or SIGTERM asks for the end; another one ends the process.
fn listen_for_signals(stop: &Stop) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let (mut interrupt, mut terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _entered = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        (interrupt, terminate)
    };
    let stop = stop.clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            for number in 0.. {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if number == 0 {
                    stop.ask();
                    continue;
                }
                eprintln!(
                    "\ncullet: ending at once; a bucket `cullet-bench-...` or objects below such a \
                     prefix may be left"
                );
                std::process::exit(INTERRUPTED);
            }
        });
    });
    Ok(())
}

/// One line on the terminal that is written anew; nothing where standard error is none.
struct Line {
    shown: bool,
    written: bool,
    last: Option<(Phase, Instant, u64)>,
    latest_max: Duration,
}

impl Line {
    fn new() -> Line {
        Line {
            shown: std::io::stderr().is_terminal(),
            written: false,
            last: None,
            latest_max: Duration::ZERO,
        }
    }

    fn clear(&mut self) {
        if self.written {
            eprint!("\r\x1b[K");
            self.written = false;
        }
    }
}

impl Teller for Line {
    fn progress(&mut self, phase: Phase, total: Option<u64>, progress: &Progress) {
        if !self.shown {
            return;
        }
        self.latest_max = self.latest_max.max(progress.latest_max);
        let now = Instant::now();
        let (since, before) = match self.last {
            Some((known, since, before)) if known == phase => (since, before),
            _ => {
                self.last = Some((phase, now, progress.ended));
                return;
            }
        };
        let elapsed = now - since;
        if elapsed < SHOWN_EVERY {
            return;
        }
        let rate = progress.ended.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        self.last = Some((phase, now, progress.ended));
        let worst = std::mem::take(&mut self.latest_max).as_secs_f64() * 1e3;
        let ended = progress.ended;
        let of = total.map_or(String::new(), |total| format!(" of {total}"));
        let text = match (phase, progress.measured, progress.duration) {
            (Phase::Prepare, ..) => format!("writing objects: {ended}{of}, {rate:.0}/s"),
            (Phase::CleanUp, ..) => format!("deleting objects: {ended}{of}, {rate:.0}/s"),
            (Phase::Measure, Some(measured), Some(duration)) => format!(
                "{:.0} of {:.0} s: {rate:.0}/s, slowest now {worst:.1} ms, {} failed",
                measured.as_secs_f64().min(duration.as_secs_f64()),
                duration.as_secs_f64(),
                progress.failed
            ),
            (Phase::Measure, ..) => format!("warming up: {rate:.0}/s"),
        };
        eprint!("\r\x1b[K{text}");
        self.written = true;
    }

    fn note(&mut self, sentence: &str) {
        self.clear();
        eprintln!("cullet: {sentence}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, milliseconds) in [
            ("10s", 10_000),
            ("10", 10_000),
            ("500ms", 500),
            ("0.5s", 500),
            ("2m", 120_000),
            ("1 h", 3_600_000),
        ] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in ["", "s", "-1s", "1d", "1.2.3s", "1e9h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
