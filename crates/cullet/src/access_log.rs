//! The access log: one line for every request, written by a thread of its own, so that no
//! request waits for a log.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::SystemTime;

use anyhow::Context as _;
use s3::RequestSummary;

use crate::cli::LogFormat;
use crate::limits::{
    ACCESS_LOG_FLUSH_TIMEOUT, ACCESS_LOG_LINE_OVERHEAD, ACCESS_LOG_PATH_BYTES_MAX,
    ACCESS_LOG_QUEUE_BYTES_MAX,
};
use crate::time_text::rfc3339;

/// Hands lines to the writer. Clones share it.
#[derive(Debug, Clone)]
pub struct AccessLog {
    sender: Sender<Message>,
    format: LogFormat,
    shared: Arc<Shared>,
}

/// What the writer and those who log have in common.
#[derive(Debug, Default)]
struct Shared {
    /// Bytes of lines that wait for the writer: bounds the queue.
    queued: AtomicUsize,
    dropped: AtomicU64,
    /// The file is to be opened anew. A flag beside the queue, so that it is never lost.
    reopen: AtomicBool,
}

#[derive(Debug)]
enum Message {
    Line(String),
    /// Look at the flags.
    Wake,
    Flush(SyncSender<()>),
}

enum Target {
    Output,
    File(PathBuf, BufWriter<File>),
}

impl AccessLog {
    /// Opens the log and starts its writer; `-` is standard output.
    ///
    /// # Errors
    /// A sentence, if the file cannot be opened.
    pub fn start(path: &Path, format: LogFormat) -> anyhow::Result<AccessLog> {
        let target = if path.as_os_str() == "-" {
            Target::Output
        } else {
            Target::File(path.to_owned(), open(path)?)
        };
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared::default());
        let of_writer = shared.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(target, &receiver, &of_writer))
            .context("cannot start the access log's thread")?;
        Ok(AccessLog {
            sender,
            format,
            shared,
        })
    }

    /// Logs one request. Never waits: when the writer is too far behind, the line is dropped
    /// and counted.
    pub fn log(&self, request: &RequestSummary<'_>) {
        let line = match self.format {
            LogFormat::Human => human(SystemTime::now(), request),
            LogFormat::Json => json(SystemTime::now(), request),
        };
        let cost = line_cost(&line);
        let before = self.shared.queued.fetch_add(cost, Ordering::Relaxed);
        let fits = before + cost <= ACCESS_LOG_QUEUE_BYTES_MAX;
        if !fits || self.sender.send(Message::Line(line)).is_err() {
            self.shared.queued.fetch_sub(cost, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Opens the file anew, after it was renamed.
    pub fn reopen(&self) {
        // Only the first to ask wakes the writer, which bounds the queue.
        if !self.shared.reopen.swap(true, Ordering::AcqRel) {
            let _ = self.sender.send(Message::Wake);
        }
    }

    /// Waits until everything so far is written, or the writer is not worth waiting for;
    /// returns whether it was written. For the end of the process.
    pub fn flush(&self) -> bool {
        let (sender, receiver) = sync_channel(1);
        let sent = self.sender.send(Message::Flush(sender)).is_ok();
        sent && receiver.recv_timeout(ACCESS_LOG_FLUSH_TIMEOUT).is_ok()
    }
}

/// What a line costs in the queue.
fn line_cost(line: &String) -> usize {
    line.capacity() + ACCESS_LOG_LINE_OVERHEAD
}

fn open(path: &Path) -> anyhow::Result<BufWriter<File>> {
    // Names of objects are not for everybody.
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).mode(0o640).open(path);
    let file = file.with_context(|| format!("cannot open the access log {}", path.display()))?;
    Ok(BufWriter::new(file))
}

/// Writes until the last sender is gone. Lines are flushed whenever none waits.
fn write_lines(mut target: Target, receiver: &Receiver<Message>, shared: &Shared) {
    while let Ok(first) = receiver.recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            if let Err(error) = target.handle(message, shared) {
                tracing::warn!(%error, "the access log cannot be written");
            }
            next = receiver.try_recv().ok();
        }
        if let Err(error) = target.flush() {
            tracing::warn!(%error, "the access log cannot be written");
        }
    }
}

impl Target {
    fn handle(&mut self, message: Message, shared: &Shared) -> anyhow::Result<()> {
        let reopened = match self {
            Target::File(path, writer) if shared.reopen.swap(false, Ordering::AcqRel) => {
                // What the old file does not take is lost either way.
                let flushed = writer.flush().map_err(anyhow::Error::from);
                open(path).map(|fresh| *writer = fresh).and(flushed)
            }
            _ => Ok(()),
        };
        match message {
            Message::Line(line) => {
                let written = match self {
                    Target::Output => writeln!(std::io::stdout().lock(), "{line}"),
                    Target::File(_, writer) => writeln!(writer, "{line}"),
                };
                shared.queued.fetch_sub(line_cost(&line), Ordering::Relaxed);
                written?;
            }
            Message::Wake => {}
            Message::Flush(done) => {
                self.flush()?;
                let _ = done.send(());
            }
        }
        reopened
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Target::Output => std::io::stdout().flush(),
            Target::File(_, writer) => writer.flush(),
        }
    }
}

/// A path as it is logged: as long as any key can make it, but not as long as a request can.
fn shown(path: &str) -> Cow<'_, str> {
    if path.len() <= ACCESS_LOG_PATH_BYTES_MAX {
        return Cow::Borrowed(path);
    }
    let cut = path.floor_char_boundary(ACCESS_LOG_PATH_BYTES_MAX);
    Cow::Owned(format!("{}…", &path[..cut]))
}

fn human(now: SystemTime, request: &RequestSummary<'_>) -> String {
    let status = request
        .status
        .map_or("-".to_owned(), |status| status.as_str().to_owned());
    let peer = request.peer.map_or("-".to_owned(), |peer| peer.to_string());
    let account = request.account.map_or("-".to_owned(), |id| id.to_string());
    format!(
        "{} {} {} {status} in={} out={} ms={:.3} first={:.3} {peer} {account} {} {} {:?}{}",
        rfc3339(now),
        request.request_id,
        request.operation,
        request.bytes_in,
        request.bytes_out,
        request.duration.as_secs_f64() * 1e3,
        request.first_byte.unwrap_or_default().as_secs_f64() * 1e3,
        request.access_key_id.unwrap_or("-"),
        request.method,
        shown(request.path),
        if request.complete { "" } else { " aborted" },
    )
}

fn json(now: SystemTime, request: &RequestSummary<'_>) -> String {
    let status = request
        .status
        .map_or("null".to_owned(), |status| status.as_str().to_owned());
    let peer = request
        .peer
        .map_or("null".to_owned(), |peer| format!("\"{peer}\""));
    let account = request
        .account
        .map_or("null".to_owned(), |id| format!("\"{id}\""));
    let access_key = request.access_key_id.map_or("null".to_owned(), json_string);
    format!(
        "{{\"time\":\"{}\",\"request_id\":\"{}\",\"operation\":\"{}\",\"status\":{status},\
         \"bytes_in\":{},\"bytes_out\":{},\"duration_us\":{},\"first_byte_us\":{},\
         \"peer\":{peer},\"account\":{account},\"access_key\":{access_key},\"method\":\"{}\",\"path\":{},\"complete\":{}}}",
        rfc3339(now),
        request.request_id,
        request.operation,
        request.bytes_in,
        request.bytes_out,
        request.duration.as_micros(),
        request.first_byte.unwrap_or_default().as_micros(),
        request.method,
        json_string(&shown(request.path)),
        request.complete,
    )
}

/// A JSON string. Paths come percent-encoded, so that little is left to escape.
pub(crate) fn json_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if control.is_control() => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, StatusCode};
    use std::time::{Duration, UNIX_EPOCH};

    fn summary(path: &str) -> RequestSummary<'_> {
        RequestSummary {
            request_id: "0123456789ABCDEF",
            operation: "GetObject",
            method: &Method::GET,
            path,
            peer: Some("127.0.0.1:5555".parse().unwrap()),
            account: Some(objects::AccountId::ROOT),
            access_key_id: Some("AKIA"),
            status: Some(StatusCode::OK),
            bytes_in: 0,
            bytes_out: 4096,
            first_byte: Some(Duration::from_micros(250)),
            duration: Duration::from_micros(1_500),
            complete: true,
        }
    }

    #[test]
    fn lines_for_people_and_for_programs() {
        assert_eq!(
            human(UNIX_EPOCH, &summary("/b/k")),
            "1970-01-01T00:00:00.000Z 0123456789ABCDEF GetObject 200 in=0 out=4096 ms=1.500 \
             first=0.250 127.0.0.1:5555 000000000000 AKIA GET \"/b/k\""
        );
        assert_eq!(
            json(UNIX_EPOCH, &summary("/b/\"k\\")),
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"request_id\":\"0123456789ABCDEF\",\
             \"operation\":\"GetObject\",\"status\":200,\"bytes_in\":0,\"bytes_out\":4096,\
             \"duration_us\":1500,\"first_byte_us\":250,\"peer\":\"127.0.0.1:5555\",\
             \"account\":\"000000000000\",\"access_key\":\"AKIA\",\
             \"method\":\"GET\",\"path\":\"/b/\\\"k\\\\\",\"complete\":true}"
        );
    }

    /// Once the queue was bounded in lines, each as long as a request's head may be; and the
    /// process could not end while nobody read its output.
    #[test]
    fn a_writer_that_stands_still_costs_little_and_holds_nothing_up() {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("cullet-access-fifo-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        // Read and write, so that opening does not wait; nobody ever reads.
        let _end = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let log = AccessLog::start(&path, LogFormat::Json).unwrap();
        let long = format!("/b/{}", "x".repeat(30_000));
        for _ in 0..2_000 {
            log.log(&summary(&long));
        }
        log.reopen();
        assert!(log.dropped() > 0);
        let queued = log.shared.queued.load(Ordering::Relaxed);
        assert!(queued <= ACCESS_LOG_QUEUE_BYTES_MAX, "{queued}");
        let started = std::time::Instant::now();
        assert!(!log.flush());
        assert!(started.elapsed() < 2 * ACCESS_LOG_FLUSH_TIMEOUT);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_file_can_be_rotated() {
        let path = std::env::temp_dir().join(format!("cullet-access-{}", std::process::id()));
        let log = AccessLog::start(&path, LogFormat::Human).unwrap();
        log.log(&summary("/b/first"));
        log.flush();
        let rotated = path.with_extension("1");
        std::fs::rename(&path, &rotated).unwrap();
        log.reopen();
        log.log(&summary("/b/second"));
        log.flush();
        assert!(
            std::fs::read_to_string(&rotated)
                .unwrap()
                .contains("/b/first")
        );
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .contains("/b/second")
        );
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&rotated).unwrap();
    }
}
