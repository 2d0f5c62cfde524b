//! Latencies, kept one by one, so that percentiles are exact.

use std::time::Duration;

/// Sorted latencies.
#[derive(Debug, Default)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    pub fn new(mut nanoseconds: Vec<u64>) -> Latencies {
        nanoseconds.sort_unstable();
        Latencies(nanoseconds)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency that `percent` of all do not exceed.
    pub fn percentile(&self, percent: f64) -> Duration {
        let rank = (self.0.len() as f64 * percent / 100.0).ceil() as usize;
        let index = rank.clamp(1, self.0.len().max(1)) - 1;
        Duration::from_nanos(self.0.get(index).copied().unwrap_or(0))
    }

    /// `p50 1.20 ms, p99 3.40 ms, p99.9 9.81 ms, p99.99 12.00 ms, max 20.31 ms`.
    pub fn described(&self) -> String {
        let part = |name: &str, percent: f64| {
            format!(
                "{name} {:.2} ms",
                self.percentile(percent).as_secs_f64() * 1000.0
            )
        };
        [
            ("p50", 50.0),
            ("p99", 99.0),
            ("p99.9", 99.9),
            ("p99.99", 99.99),
            ("max", 100.0),
        ]
        .map(|(name, percent)| part(name, percent))
        .join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact() {
        let latencies = Latencies::new((1..=1000).rev().collect());
        assert_eq!(latencies.percentile(50.0), Duration::from_nanos(500));
        assert_eq!(latencies.percentile(99.9), Duration::from_nanos(999));
        assert_eq!(latencies.percentile(100.0), Duration::from_nanos(1000));
        assert_eq!(Latencies::default().percentile(99.0), Duration::ZERO);
    }
}
