//! What a load was like, for people and as one JSON document. The names in the document are
//! stable; units stand at their end.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::limits::BUSY_PART_MAX;
use crate::load::Outcome;
use crate::process::Cost;
use crate::record::Latencies;

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    /// One line that says what was sent where.
    pub title: String,
    /// The same for programs: an object whose fields stand in the document.
    pub settings: Value,
    /// Names of the outcome's series, in their order.
    pub series: Vec<String>,
    /// What the items of requests are, where they are told.
    pub items: Option<String>,
    /// What rate was asked for, in requests per second.
    pub rate: Option<f64>,
    /// What came of the requests.
    pub outcome: Outcome,
    /// What they cost the server, where that was asked for.
    pub server: Option<Cost>,
    /// Sentences that whoever reads the figures should know.
    pub notes: Vec<String>,
}

/// The parts of latencies that are shown, with their names in the text and in the document.
const QUANTILES: [(&str, &str, f64); 5] = [
    ("p50", "p50", 0.5),
    ("p90", "p90", 0.9),
    ("p99", "p99", 0.99),
    ("p99.9", "p99_9", 0.999),
    ("p99.99", "p99_99", 0.9999),
];

const MIB: f64 = 1048576.0;

impl Report {
    /// Requests that failed, in one line; `None` if none did.
    pub fn failure(&self) -> Option<String> {
        let failed = self.outcome.failed();
        if failed == 0 {
            return None;
        }
        let all = failed + self.outcome.succeeded();
        let kinds: Vec<String> = self
            .outcome
            .errors
            .iter()
            .map(|(kind, count)| format!("{count} x {kind}"))
            .collect();
        Some(format!(
            "{failed} of {all} requests failed: {}",
            kinds.join("; ")
        ))
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.title);
        let mut line = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<14} {value}");
        };
        line("loop", &self.loop_described());
        line("requests", &self.requests_described());
        line("rate", &self.rate_described());
        line("latency", &described(&self.outcome.latencies));
        if self.outcome.series.len() > 1 {
            for (name, series) in self.series.iter().zip(&self.outcome.series) {
                let latencies = described(&series.latencies);
                line(
                    &format!("  {name}"),
                    &format!("{} x; {latencies}", series.succeeded),
                );
            }
        }
        if self.rate.is_some() {
            line("sent late by", &described(&self.outcome.send_delay));
        }
        for (kind, count) in &self.outcome.errors {
            line("errors", &format!("{count} x {kind}"));
        }
        if let Some(server) = &self.server {
            line("server CPU", &self.cpu_described(server.cpu));
            line("server memory", &memory_described(server));
        }
        line(
            "client CPU",
            &format!(
                "{}, busiest thread {:.0} %",
                self.cpu_described(self.outcome.client_cpu),
                self.outcome.busiest_thread * 100.0
            ),
        );
        for note in self.all_notes() {
            line("note", &note);
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let outcome = &self.outcome;
        let mut document = self.settings.as_object().cloned().unwrap_or_default();
        let mut put = |name: &str, value: Value| {
            document.insert(name.to_owned(), value);
        };
        put("version", json!(env!("CARGO_PKG_VERSION")));
        put(
            "loop",
            json!(if self.rate.is_some() {
                "open"
            } else {
                "closed"
            }),
        );
        put("stopped_early", json!(outcome.stopped));
        put("elapsed_seconds", json!(outcome.elapsed.as_secs_f64()));
        put("requests_succeeded", json!(outcome.succeeded()));
        put("requests_failed", json!(outcome.failed()));
        put("requests_unsent", json!(outcome.unsent));
        put("requests_abandoned", json!(outcome.abandoned));
        put(
            "requests_per_second",
            json!(self.per_second(outcome.succeeded())),
        );
        put("mib_per_second", json!(self.per_second(self.bytes()) / MIB));
        if let Some(items) = &self.items {
            put(
                &format!("{items}_per_second"),
                json!(self.per_second(self.item_count())),
            );
        }
        put("latency_us", latencies_json(&outcome.latencies));
        let series: Map<String, Value> = self
            .series
            .iter()
            .zip(&outcome.series)
            .map(|(name, series)| {
                let value = json!({
                    "requests_succeeded": series.succeeded,
                    "requests_failed": series.failed,
                    "latency_us": latencies_json(&series.latencies),
                });
                (name.replace(' ', "_"), value)
            })
            .collect();
        put("by_kind", Value::Object(series));
        if self.rate.is_some() {
            put("send_delay_us", latencies_json(&outcome.send_delay));
        }
        let errors = outcome.errors.iter();
        let errors: Map<String, Value> = errors
            .map(|(kind, count)| (kind.clone(), json!(count)))
            .collect();
        put("errors", Value::Object(errors));
        put(
            "client",
            json!({
                "cpu_seconds": outcome.client_cpu.as_secs_f64(),
                "cpu_seconds_per_1000_requests": self.per_thousand(outcome.client_cpu),
                "busiest_thread_percent": outcome.busiest_thread * 100.0,
            }),
        );
        let server = self.server.as_ref().map(|server| {
            json!({
                "pids": server.pids,
                "cpu_seconds": server.cpu.as_secs_f64(),
                "cpu_seconds_per_1000_requests": self.per_thousand(server.cpu),
                "memory_peak_bytes": server.memory_peak_bytes,
                "memory_peak_source": if server.peak_is_exact { "VmHWM" } else { "VmRSS sampled" },
            })
        });
        put("server", json!(server));
        put("notes", json!(self.all_notes()));
        Value::Object(document)
    }

    fn loop_described(&self) -> String {
        match self.rate {
            Some(rate) => {
                format!("open, {rate} requests/s due; latency counts from when a request was due")
            }
            None => "closed: each connection sends when its last answer came, so a server that \
                     stalls is asked less (--rate measures what users would wait)"
                .to_owned(),
        }
    }

    fn requests_described(&self) -> String {
        let outcome = &self.outcome;
        let mut text = format!(
            "{} in {:.2} s",
            outcome.succeeded(),
            outcome.elapsed.as_secs_f64()
        );
        for (count, what) in [
            (outcome.failed(), "failed"),
            (outcome.unsent, "due and not sent before the end"),
            (outcome.abandoned, "not waited for"),
        ] {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        text
    }

    fn rate_described(&self) -> String {
        let mut text = format!("{:.0}/s", self.per_second(self.outcome.succeeded()));
        if self.bytes() > 0 {
            let _ = write!(text, ", {:.1} MiB/s", self.per_second(self.bytes()) / MIB);
        }
        if let Some(items) = &self.items {
            let _ = write!(
                text,
                ", {:.0} {items}/s",
                self.per_second(self.item_count())
            );
        }
        text
    }

    fn cpu_described(&self, cpu: Duration) -> String {
        format!(
            "{:.1} ms per 1,000 requests ({:.2} s)",
            self.per_thousand(cpu) * 1e3,
            cpu.as_secs_f64()
        )
    }

    fn all_notes(&self) -> Vec<String> {
        let outcome = &self.outcome;
        let mut notes = self.notes.clone();
        if outcome.stopped {
            notes.push("stopped early: these are the figures so far".to_owned());
        }
        if outcome.busiest_thread > BUSY_PART_MAX {
            notes.push(
                "the client's busiest thread had no time left: more --threads, or another \
                 machine for the client, would show more of the server"
                    .to_owned(),
            );
        }
        if outcome.unsent > 0 {
            notes.push(
                "requests that were due and not sent count with the time they had waited at the \
                 end; the server, or --concurrency, is too small for the rate"
                    .to_owned(),
            );
        }
        notes
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.outcome.elapsed.as_secs_f64().max(1e-9)
    }

    /// CPU seconds per 1,000 requests, failed ones too.
    fn per_thousand(&self, cpu: Duration) -> f64 {
        let requests = self.outcome.succeeded() + self.outcome.failed();
        cpu.as_secs_f64() * 1e3 / requests.max(1) as f64
    }

    fn bytes(&self) -> u64 {
        self.outcome.series.iter().map(|series| series.bytes).sum()
    }

    fn item_count(&self) -> u64 {
        self.outcome.series.iter().map(|series| series.items).sum()
    }
}

fn described(latencies: &Latencies) -> String {
    if latencies.count() == 0 {
        return "none".to_owned();
    }
    let mut text = String::new();
    for (name, _, part) in QUANTILES {
        let _ = write!(text, "{name} {}, ", time(latencies.quantile_ns(part)));
    }
    text + &format!("max {}", time(latencies.max_ns()))
}

/// With three digits, in the unit that people would use.
fn time(nanoseconds: u64) -> String {
    let microseconds = nanoseconds as f64 / 1e3;
    let (value, unit) = match microseconds {
        below if below < 999.5 => (below, "us"),
        below if below < 999_500.0 => (below / 1e3, "ms"),
        seconds => (seconds / 1e6, "s"),
    };
    let digits = match value {
        below if below < 9.995 => 2,
        below if below < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

fn latencies_json(latencies: &Latencies) -> Value {
    let microseconds = |nanoseconds: u64| json!(nanoseconds as f64 / 1e3);
    let mut values = Map::new();
    for (_, name, part) in QUANTILES {
        values.insert(name.to_owned(), microseconds(latencies.quantile_ns(part)));
    }
    values.insert("max".to_owned(), microseconds(latencies.max_ns()));
    values.insert("mean".to_owned(), json!(latencies.mean_ns() / 1e3));
    Value::Object(values)
}

fn memory_described(server: &Cost) -> String {
    let source = if server.peak_is_exact {
        "the kernel's VmHWM, set back before"
    } else {
        "VmRSS, looked at 10 times a second; setting VmHWM back was not allowed"
    };
    format!(
        "peak {:.1} MiB ({source})",
        server.memory_peak_bytes as f64 / MIB
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (nanoseconds, text) in [
            (1_234, "1.23 us"),
            (56_789, "56.8 us"),
            (999_499, "999 us"),
            (1_500_000, "1.50 ms"),
            (71_800_000, "71.8 ms"),
            (1_600_000_000, "1.60 s"),
        ] {
            assert_eq!(time(nanoseconds), text);
        }
    }
}
