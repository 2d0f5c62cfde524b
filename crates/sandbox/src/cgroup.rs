//! Control groups: how much memory, processor time and how many processes a place may have; its
//! peak of memory; stopping it between two pieces of work.
//!
//! Linux has two interfaces. With version 2 there is one directory for a place; with version 1, or
//! where both are mounted and version 2 has no controllers, one below each controller. All are
//! below a group named after the server, so that what an earlier run left is found.
//!
//! What must always hold:
//! - limits are set before a process is in the group.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Pid;

use crate::limits::{CPU_PERIOD_US, REMOVE_MAX, TASKS_MAX};

const ROOT: &str = "/sys/fs/cgroup";

/// Which interface the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// The controllers, as version 1 names their directories.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "freezer"];

/// What a program may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, `/tmp` included.
    pub memory_bytes: u64,
    /// Thousandths of a core: its share where processor time is short.
    pub cpu_millis: u64,
}

/// All groups of a server.
#[derive(Debug)]
pub(crate) struct Cgroups {
    version: Version,
    /// Their directories: one, or one for each controller, in their order.
    bases: Vec<PathBuf>,
    /// What keeps them within reach where the machine's file systems are not.
    #[expect(dead_code, reason = "it is held")]
    held: Vec<fs::File>,
}

/// The group of one place.
#[derive(Debug)]
pub(crate) struct Cgroup {
    version: Version,
    /// One directory, or one for each controller, in their order.
    directories: Vec<PathBuf>,
    limits: Limits,
}

/// Which interface can be used here; else what is missing.
pub(crate) fn version() -> Result<Version, String> {
    let root = Path::new(ROOT);
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let has = |wanted: &str| controllers.split_whitespace().any(|name| name == wanted);
    if ["memory", "cpu", "pids"].iter().all(|wanted| has(wanted)) {
        return Ok(Version::Two);
    }
    let missing: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|name| !root.join(name).join("cgroup.procs").exists())
        .collect();
    match missing.is_empty() {
        true => Ok(Version::One),
        false => Err(format!(
            "control groups: below {ROOT} there is neither version 2 with memory, cpu and pids, \
             nor version 1 with {}",
            missing.join(", ")
        )),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // Not created: on a file system that is none of cgroups that would hide that nothing is limited.
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

impl Cgroups {
    /// The groups of the server of this name: made, with what an earlier run left removed.
    pub(crate) fn open(name: &str, memory_bytes: u64) -> io::Result<Cgroups> {
        let version = version().map_err(io::Error::other)?;
        // A group for the server, and one in it for this run: what the helper of an earlier one
        // does at its end is nothing to this one.
        let run = std::process::id().to_string();
        let root = Path::new(ROOT);
        let bases = match version {
            Version::Two => vec![root.join(name).join(&run)],
            Version::One => {
                let base = |controller: &&str| root.join(controller).join(name).join(&run);
                CONTROLLERS.iter().map(base).collect()
            }
        };
        let cgroups = Cgroups {
            version,
            bases,
            held: Vec::new(),
        };
        cgroups.remove_runs_before();
        for directory in &cgroups.bases {
            fs::create_dir_all(directory)?;
        }
        match version {
            Version::Two => {
                let controllers = "+memory +cpu +pids";
                let base = root.join(name).join(&run);
                for directory in [root, &root.join(name), &base] {
                    write(&directory.join("cgroup.subtree_control"), controllers)?;
                }
                write(&base.join("memory.max"), &memory_bytes.to_string())?;
            }
            Version::One => {
                let base = root.join("memory").join(name).join(&run);
                write(&base.join("memory.use_hierarchy"), "1").ok();
                write(
                    &base.join("memory.limit_in_bytes"),
                    &memory_bytes.to_string(),
                )?;
            }
        }
        Ok(cgroups)
    }

    /// The same for a process that is about to have another root: it finds them through its
    /// descriptors, which are in its own `/proc`.
    pub(crate) fn held(&self) -> io::Result<Cgroups> {
        let open = |base: &PathBuf| {
            let mut options = fs::OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_PATH);
            options.read(true).open(base)
        };
        let held = self
            .bases
            .iter()
            .map(open)
            .collect::<io::Result<Vec<_>>>()?;
        let path = |file: &fs::File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Cgroups {
            version: self.version,
            bases: held.iter().map(path).collect(),
            held,
        })
    }

    /// Ends what earlier runs of this server left behind: what is beside its own groups. Nobody
    /// else's are there.
    fn remove_runs_before(&self) {
        let all: Vec<&Path> = self.bases.iter().filter_map(|base| base.parent()).collect();
        let runs = all.iter().flat_map(|all| directories_in(all));
        let names: std::collections::BTreeSet<_> = runs
            .filter(|run| !self.bases.contains(run))
            .filter_map(|run| Some(run.file_name()?.to_owned()))
            .collect();
        for name in names {
            let run = Cgroups {
                version: self.version,
                bases: all.iter().map(|all| all.join(&name)).collect(),
                held: Vec::new(),
            };
            run.remove_all();
        }
    }

    /// Ends all that is in them, and removes them.
    pub(crate) fn remove_all(&self) {
        // The freezer's come last, and what is frozen does not end: so all first.
        for base in self.bases.iter().rev() {
            directories_in(base)
                .iter()
                .for_each(|place| kill_all(place));
        }
        for base in &self.bases {
            directories_in(base).iter().for_each(|place| remove(place));
            remove(base);
            // The server's goes with its last run; another run's keep it.
            let _ = base.parent().map(fs::remove_dir);
        }
    }

    /// Makes the group of a place.
    pub(crate) fn make(&self, place: usize, limits: Limits) -> io::Result<Cgroup> {
        let directories: Vec<PathBuf> = self
            .bases
            .iter()
            .map(|base| base.join(place.to_string()))
            .collect();
        for directory in &directories {
            match fs::create_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
        let mut cgroup = Cgroup {
            version: self.version,
            directories,
            limits,
        };
        write(&cgroup.file("pids", "pids.max"), &TASKS_MAX.to_string())?;
        cgroup.write_limits(limits)?;
        Ok(cgroup)
    }
}

impl Cgroup {
    /// A file of a controller.
    fn file(&self, controller: &str, name: &str) -> PathBuf {
        let at = match self.version {
            Version::Two => 0,
            Version::One => {
                let known = CONTROLLERS.iter().position(|known| *known == controller);
                known.unwrap_or(0)
            }
        };
        self.directories[at].join(name)
    }

    /// Puts a process into it.
    pub(crate) fn attach(&self, pid: Pid) -> io::Result<()> {
        for directory in &self.directories {
            write(
                &directory.join("cgroup.procs"),
                &pid.as_raw_nonzero().to_string(),
            )?;
        }
        Ok(())
    }

    /// Other limits from now on.
    pub(crate) fn limit(&mut self, limits: Limits) -> io::Result<()> {
        if limits == self.limits {
            return Ok(());
        }
        self.write_limits(limits)
    }

    fn write_limits(&mut self, limits: Limits) -> io::Result<()> {
        let Limits {
            memory_bytes,
            cpu_millis,
        } = limits;
        // Never less than one core where nobody else wants it: a share of less would only make
        // whoever waits wait longer.
        let quota = CPU_PERIOD_US * cpu_millis.max(1_000) / 1_000;
        match self.version {
            Version::Two => {
                write(
                    &self.file("memory", "memory.max"),
                    &memory_bytes.to_string(),
                )?;
                // Memory that is on a disk is slow in ways that nobody can explain.
                write(&self.file("memory", "memory.swap.max"), "0").ok();
                write(&self.file("memory", "memory.oom.group"), "1").ok();
                let weight = (cpu_millis / 10).clamp(1, 10_000);
                write(&self.file("cpu", "cpu.weight"), &weight.to_string())?;
                write(
                    &self.file("cpu", "cpu.max"),
                    &format!("{quota} {CPU_PERIOD_US}"),
                )?;
            }
            Version::One => {
                write(
                    &self.file("memory", "memory.limit_in_bytes"),
                    &memory_bytes.to_string(),
                )?;
                write(&self.file("memory", "memory.swappiness"), "0").ok();
                let shares = (cpu_millis * 1_024 / 1_000).max(2);
                write(&self.file("cpu", "cpu.shares"), &shares.to_string())?;
                write(&self.file("cpu", "cpu.cfs_quota_us"), &quota.to_string()).ok();
            }
        }
        self.limits = limits;
        Ok(())
    }

    /// The file that says the peak of memory, and that is written to begin anew.
    pub(crate) fn peak_file(&self) -> io::Result<fs::File> {
        let name = match self.version {
            Version::Two => "memory.peak",
            Version::One => "memory.max_usage_in_bytes",
        };
        let path = self.file("memory", name);
        let both = fs::OpenOptions::new().read(true).write(true).open(&path);
        both.or_else(|_| fs::File::open(&path))
    }

    /// The file that stops everything in the group, and lets it go on.
    pub(crate) fn freezer_file(&self) -> io::Result<fs::File> {
        let name = match self.version {
            Version::Two => "cgroup.freeze",
            Version::One => "freezer.state",
        };
        fs::OpenOptions::new()
            .write(true)
            .open(self.file("freezer", name))
    }

    /// Lets everything go on, so that it can end.
    pub(crate) fn thaw(&self) {
        let (name, word) = match self.version {
            Version::Two => ("cgroup.freeze", "0"),
            Version::One => ("freezer.state", "THAWED"),
        };
        write(&self.file("freezer", name), word).ok();
    }

    /// How often the kernel ended a process here because memory ran out.
    pub(crate) fn oom_kills(&self) -> u64 {
        let name = match self.version {
            Version::Two => "memory.events",
            Version::One => "memory.oom_control",
        };
        let text = fs::read_to_string(self.file("memory", name)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Removes it, when nothing is in it any more.
    pub(crate) fn remove(self) {
        for directory in &self.directories {
            remove(directory);
        }
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }
}

fn directories_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}

/// Ends every process in a directory's group.
fn kill_all(directory: &Path) {
    if write(&directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    write(&directory.join("freezer.state"), "THAWED").ok();
    let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        if let Some(pid) = Pid::from_raw(pid) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
    }
}

/// Removes a group; the kernel may need a moment for what was in it.
fn remove(directory: &Path) {
    let until = Instant::now() + REMOVE_MAX;
    while let Err(error) = fs::remove_dir(directory) {
        let is_busy = error.raw_os_error() == Some(libc::EBUSY);
        if !is_busy || Instant::now() > until {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
