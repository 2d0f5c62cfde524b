//! What Linux says about a process and the machine, from /proc.

use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time that a process used so far, in user and kernel mode together.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; the fields behind it are numbers.
    let (_, fields) = stat
        .rsplit_once(')')
        .context("/proc/PID/stat has no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<u64>().ok())
    };
    let sum = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let sum = sum.context("/proc/PID/stat has no times")?;
    Ok(Duration::from_millis(sum * 1000 / ticks_per_second))
}

/// A line of /proc/PID/status that is in KiB, such as `VmRSS` or `VmHWM`, in bytes.
pub fn memory(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("/proc/PID/status has no {name}"))? * 1024)
}

/// Bytes that the process had the disk read.
pub fn bytes_read(pid: u32) -> Option<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines()
        .find_map(|line| line.strip_prefix("read_bytes: ")?.parse().ok())
}

/// Writes dirty pages out and empties the page cache; needs root.
pub fn drop_page_cache() -> std::io::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
}

/// Processor, number of them, memory, kernel.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_once(':')
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let cpus = std::thread::available_parallelism().map_or(0, |count| count.get());
    let kib: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .split_whitespace()
        .next()
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    format!(
        "{cpus} CPUs ({}), {:.0} GiB of memory, Linux {}",
        field(&read("/proc/cpuinfo"), "model name"),
        kib as f64 / 1048576.0,
        read("/proc/sys/kernel/osrelease").trim()
    )
}
