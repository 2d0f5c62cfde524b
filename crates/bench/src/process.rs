//! What a load cost, from `/proc`: CPU time and memory of the server's processes, and the
//! client's own CPU time.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::Error;

/// The processes of a server, looked at from the beginning of the measured part to its end.
#[derive(Debug)]
pub struct Watched {
    processes: Vec<Process>,
    cpu_before: Duration,
}

#[derive(Debug)]
struct Process {
    pid: u32,
    /// Whether the kernel's own high-water mark was set back at the beginning.
    peak_was_reset: bool,
    peak_sampled_bytes: u64,
}

/// What a server cost.
#[derive(Debug, Clone)]
pub struct Cost {
    /// The processes that were looked at.
    pub pids: Vec<u32>,
    /// User and system time of all their threads.
    pub cpu: Duration,
    /// Highest resident memory, added up over the processes, in bytes.
    pub memory_peak_bytes: u64,
    /// Whether the peak is the kernel's (`VmHWM`, set back at the beginning), or the highest
    /// that was seen every tenth of a second (`VmRSS`), because setting back was not allowed.
    pub peak_is_exact: bool,
}

impl Watched {
    /// Looks whether the processes are there and can be read.
    ///
    /// # Errors
    /// [`Error::Usage`] if one is not.
    pub fn new(pids: &[u32]) -> Result<Watched, Error> {
        for pid in pids {
            cpu_time(*pid).and_then(|_| memory_bytes(*pid, "VmRSS")).map_err(|error| {
                Error::Usage(format!(
                    "--pid {pid}: there is no such process on this machine, or it cannot be read: {error}"
                ))
            })?;
        }
        let processes = pids.iter().map(|pid| Process {
            pid: *pid,
            peak_was_reset: false,
            peak_sampled_bytes: 0,
        });
        Ok(Watched {
            processes: processes.collect(),
            cpu_before: Duration::ZERO,
        })
    }

    /// The measured part begins.
    pub fn begin(&mut self) {
        for process in &mut self.processes {
            // 5: "reset the peak resident set size to the current value" (proc(5)).
            let reset = fs::write(format!("/proc/{}/clear_refs", process.pid), "5");
            process.peak_was_reset = reset.is_ok();
        }
        self.sample();
        self.cpu_before = self.cpu();
    }

    /// Looks at memory; to be called often.
    pub fn sample(&mut self) {
        for process in &mut self.processes {
            let now = memory_bytes(process.pid, "VmRSS").unwrap_or(0);
            process.peak_sampled_bytes = process.peak_sampled_bytes.max(now);
        }
    }

    /// The measured part is over. `None` if a process ended meanwhile, or none was named.
    pub fn end(&mut self) -> Option<Cost> {
        let cpu = self.cpu();
        self.sample();
        let alive = |process: &Process| memory_bytes(process.pid, "VmRSS").is_ok();
        if self.processes.is_empty() || !self.processes.iter().all(alive) {
            return None;
        }
        let peak = |process: &Process| match memory_bytes(process.pid, "VmHWM") {
            Ok(peak) if process.peak_was_reset => peak,
            _ => process.peak_sampled_bytes,
        };
        Some(Cost {
            pids: self.processes.iter().map(|process| process.pid).collect(),
            cpu: cpu.saturating_sub(self.cpu_before),
            memory_peak_bytes: self.processes.iter().map(peak).sum(),
            peak_is_exact: self.processes.iter().all(|process| process.peak_was_reset),
        })
    }

    fn cpu(&self) -> Duration {
        let times = self.processes.iter().map(|process| cpu_time(process.pid));
        times.filter_map(Result::ok).sum()
    }
}

/// User and system time of a process with all its threads, also those that ended.
fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks =
        cpu_ticks(&stat).ok_or_else(|| io::Error::other("/proc/PID/stat is not as known"))?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Fields 14 and 15. The second one is a name that may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let mut fields = behind_name.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn memory_bytes(pid: u32, name: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other(format!("/proc/PID/status has no {name}")))
}

/// CPU time of this process.
pub(crate) fn own_cpu() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// CPU time of this thread.
pub(crate) fn thread_cpu() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 25 17 0 0 20 0 4 0 99";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (a"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let mut watched = Watched::new(&[std::process::id()]).expect("it runs");
        watched.begin();
        let before = own_cpu();
        while own_cpu() - before < Duration::from_millis(40) {}
        let cost = watched.end().expect("it still runs");
        assert!(cost.cpu >= Duration::from_millis(20), "{cost:?}");
        assert!(cost.memory_peak_bytes > 100_000, "{cost:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_wrong_usage() {
        // Above the highest that Linux gives.
        assert!(matches!(Watched::new(&[4_194_305]), Err(Error::Usage(_))));
    }
}
