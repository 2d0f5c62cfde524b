//! What came of requests: latencies, bytes, errors by kind. Kept in histograms of fixed size,
//! so that memory does not grow with the number of requests.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::limits::{ERROR_KINDS_MAX, LATENCY_DIGITS, LATENCY_NS_MAX, LATENCY_NS_MIN};

/// A distribution of latencies, within 0.1 % of each.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        let histogram = Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, LATENCY_DIGITS);
        Latencies(histogram.expect("the bounds in limits.rs are fit for a histogram"))
    }
}

impl Latencies {
    /// One request's, in nanoseconds. What lies outside the bounds counts as the bound.
    pub fn record(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Latencies) {
        let same_bounds = self.0.add(&other.0);
        same_bounds.expect("all histograms have the same bounds");
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency in nanoseconds that this part of the requests (0 to 1) did not exceed; 0
    /// if there are none.
    pub fn quantile_ns(&self, part: f64) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        self.0.value_at_quantile(part).min(self.0.max())
    }

    /// The highest, in nanoseconds.
    pub fn max_ns(&self) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.max() }
    }

    /// The mean, in nanoseconds.
    pub fn mean_ns(&self) -> f64 {
        self.0.mean()
    }
}

/// What came of the requests of one kind.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Of requests that succeeded, and of those that timed out.
    pub latencies: Latencies,
    /// Requests that succeeded.
    pub succeeded: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Bytes of bodies, of requests that succeeded.
    pub bytes: u64,
    /// Whatever else a request is about: keys of a listing.
    pub items: u64,
}

impl Series {
    fn add(&mut self, other: &Series) {
        self.latencies.add(&other.latencies);
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.items += other.items;
    }
}

/// A request that succeeded.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Which of the plan's series it belongs to.
    pub series: usize,
    /// Bytes of its body.
    pub bytes: u64,
    /// Items that it was about.
    pub items: u64,
}

/// A request that failed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Which of the plan's series it belongs to.
    pub series: usize,
    /// A few words that errors are counted by.
    pub kind: String,
    /// Whether it was given up after waiting: then the wait is a latency.
    pub timed_out: bool,
}

/// What one thread has seen.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    pub(crate) series: Vec<Series>,
    /// How long after it was due a request was sent, where a rate says when it is due.
    pub(crate) send_delay: Latencies,
    pub(crate) errors: BTreeMap<String, u64>,
    /// All that ended, also in the warm-up.
    pub(crate) ended: u64,
    /// Highest latency since somebody looked, in nanoseconds.
    pub(crate) latest_max_ns: u64,
    /// When the last one ended, in nanoseconds since the load began.
    pub(crate) last_ns: u64,
}

impl Recorder {
    pub(crate) fn new(series: usize) -> Recorder {
        Recorder {
            series: vec![Series::default(); series],
            send_delay: Latencies::default(),
            errors: BTreeMap::new(),
            ended: 0,
            latest_max_ns: 0,
            last_ns: 0,
        }
    }

    pub(crate) fn done(&mut self, done: Done, latency_ns: u64) {
        let series = &mut self.series[done.series];
        series.latencies.record(latency_ns);
        series.succeeded += 1;
        series.bytes += done.bytes;
        series.items += done.items;
        self.latest_max_ns = self.latest_max_ns.max(latency_ns);
    }

    pub(crate) fn failed(&mut self, failed: Failed, latency_ns: u64) {
        let series = &mut self.series[failed.series];
        series.failed += 1;
        if failed.timed_out {
            series.latencies.record(latency_ns);
            self.latest_max_ns = self.latest_max_ns.max(latency_ns);
        }
        self.error(failed.kind, 1);
    }

    fn error(&mut self, kind: String, count: u64) {
        let known = self.errors.contains_key(&kind) || self.errors.len() < ERROR_KINDS_MAX;
        let kind = if known { kind } else { "other".to_owned() };
        *self.errors.entry(kind).or_default() += count;
    }

    pub(crate) fn add(&mut self, other: &Recorder) {
        for (mine, theirs) in self.series.iter_mut().zip(&other.series) {
            mine.add(theirs);
        }
        self.send_delay.add(&other.send_delay);
        for (kind, count) in &other.errors {
            self.error(kind.clone(), *count);
        }
        self.ended += other.ended;
        self.latest_max_ns = self.latest_max_ns.max(other.latest_max_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let mut latencies = Latencies::default();
        for microsecond in 1..=100_000_u64 {
            latencies.record(microsecond * 1_000);
        }
        assert_eq!(latencies.count(), 100_000);
        for (part, expected_us) in [(0.5, 50_000), (0.99, 99_000), (0.9999, 99_990)] {
            let expected = expected_us as f64 * 1e3;
            let got = latencies.quantile_ns(part) as f64;
            assert!((got / expected - 1.0).abs() < 0.002, "{part}: {got}");
        }
        assert!((latencies.max_ns() as f64 / 1e8 - 1.0).abs() < 0.002);
        assert!(latencies.quantile_ns(1.0) <= latencies.max_ns());
    }

    #[test]
    fn one_slow_request_of_a_thousand_shows_where_it_must() {
        let mut latencies = Latencies::default();
        (0..998).for_each(|_| latencies.record(1_000_000));
        (0..2).for_each(|_| latencies.record(1_000_000_000));
        assert!(latencies.quantile_ns(0.99) < 2_000_000);
        assert!(latencies.quantile_ns(0.999) > 900_000_000);
    }

    #[test]
    fn nothing_and_too_much_are_values() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.quantile_ns(0.5), latencies.max_ns()), (0, 0));
        latencies.record(u64::MAX);
        assert!(latencies.max_ns() >= LATENCY_NS_MAX / 2);
    }

    #[test]
    fn kinds_of_errors_are_bounded_and_none_is_lost() {
        let mut recorder = Recorder::new(1);
        for number in 0..100 {
            let failed = Failed {
                series: 0,
                kind: format!("kind {number}"),
                timed_out: false,
            };
            recorder.failed(failed, 5);
        }
        assert!(recorder.errors.len() <= ERROR_KINDS_MAX + 1);
        assert_eq!(recorder.errors.values().sum::<u64>(), 100);
        assert_eq!(recorder.series[0].latencies.count(), 0);
    }
}
