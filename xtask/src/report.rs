//! Headings, durations, and one tally over very different kinds of tests.

use std::time::{Duration, Instant};

use crate::workspace::Outcome;

/// How many tests of a section ended how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Tally {
    pub const ONE_PASSED: Tally = Tally {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub const ONE_SKIPPED: Tally = Tally {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    pub fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Adds what a line of libtest's output says: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    pub fn add_libtest_line(&mut self, line: &str) {
        if let Some((_, counts)) = line.split_once("test result: ") {
            self.passed += count_before(counts, " passed");
            self.failed += count_before(counts, " failed");
            self.skipped += count_before(counts, " ignored");
        }
    }

    /// Adds what pytest's last line says: `=== 3 failed, 85 passed, 1 skipped in 30.1s ===`.
    pub fn add_pytest_line(&mut self, line: &str) {
        let ends_a_run = line.contains(" in ")
            && [" passed", " failed", " skipped", " error"]
                .iter()
                .any(|word| line.contains(word))
            && line
                .trim_matches(|c| c == '=' || c == ' ')
                .starts_with(|c: char| c.is_ascii_digit());
        if ends_a_run {
            self.passed += count_before(line, " passed") + count_before(line, " xfailed");
            self.failed += count_before(line, " failed") + count_before(line, " error");
            self.skipped += count_before(line, " skipped");
        }
    }
}

/// The number that stands right before `word`, or 0.
fn count_before(text: &str, word: &str) -> u64 {
    let Some((before, _)) = text.split_once(word) else {
        return 0;
    };
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

struct Line {
    name: String,
    duration: Duration,
    tally: Tally,
    remark: String,
}

/// The sections that ran so far.
pub struct Report {
    start: Instant,
    lines: Vec<Line>,
}

impl Report {
    pub fn new() -> Report {
        Report {
            start: Instant::now(),
            lines: Vec::new(),
        }
    }

    /// Runs one section under a heading. An error counts as one failed test and does not
    /// keep the sections behind it from running.
    pub fn section(&mut self, name: &str, body: impl FnOnce(&mut Tally) -> Outcome<String>) {
        println!(
            "\n==== {name} {}",
            "=".repeat(70usize.saturating_sub(name.len()))
        );
        let start = Instant::now();
        let mut tally = Tally::default();
        let remark = match body(&mut tally) {
            Ok(remark) => remark,
            Err(message) => {
                println!("{name}: {message}");
                tally.failed = tally.failed.max(1);
                message
            }
        };
        let duration = start.elapsed();
        println!("---- {name}: {}", described(&tally, duration));
        self.lines.push(Line {
            name: name.to_owned(),
            duration,
            tally,
            remark,
        });
    }

    /// Prints the summary; returns whether everything is well.
    pub fn finish(self, skips_allowed: bool) -> bool {
        println!("\n==== summary {}", "=".repeat(63));
        let mut sum = Tally::default();
        for line in &self.lines {
            let mark = if line.tally.failed > 0 {
                "FAILED"
            } else {
                "ok"
            };
            let text = described(&line.tally, line.duration);
            println!("{mark:>6}  {:<16} {text}", line.name);
            if !line.remark.is_empty() {
                println!("{:25}{}", "", line.remark);
            }
            sum.add(line.tally);
        }
        let refused = sum.skipped > 0 && !skips_allowed;
        if refused {
            println!("with CI=true nothing may be skipped");
        }
        println!("total time {}", seconds(self.start.elapsed()));
        println!(
            "{} passed, {} failed, {} skipped",
            sum.passed, sum.failed, sum.skipped
        );
        sum.failed == 0 && !refused
    }
}

fn described(tally: &Tally, duration: Duration) -> String {
    let counts = format!(
        "{:>5} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    format!("{counts:<36} {:>8}", seconds(duration))
}

fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole >= 60 {
        format!("{} m {:02} s", whole / 60, whole % 60)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_lines_are_summed() {
        let mut tally = Tally::default();
        tally.add_libtest_line(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out",
        );
        tally.add_libtest_line("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured");
        tally.add_libtest_line("test wire::reads ... ok");
        assert_eq!(
            tally,
            Tally {
                passed: 13,
                failed: 2,
                skipped: 1
            }
        );
    }

    #[test]
    fn pytest_lines_are_summed() {
        let mut tally = Tally::default();
        tally.add_pytest_line("tests/clients/test_a.py::test_one PASSED in time");
        tally.add_pytest_line("=========== 2 failed, 85 passed, 1 skipped in 30.12s ===========");
        assert_eq!(
            tally,
            Tally {
                passed: 85,
                failed: 2,
                skipped: 1
            }
        );
        let mut quiet = Tally::default();
        quiet.add_pytest_line("7 passed, 1 error in 0.31s");
        assert_eq!(
            quiet,
            Tally {
                passed: 7,
                failed: 1,
                skipped: 0
            }
        );
    }
}
