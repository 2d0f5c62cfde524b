//! A control group that limits the memory of one process, without swap. Needs root, and the
//! memory controller of version 1 or 2 where distributions mount it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const VERSION_1: &str = "/sys/fs/cgroup/memory";
const VERSION_2: &str = "/sys/fs/cgroup";

/// The group; removed when it is dropped, when its process has ended.
#[derive(Debug)]
pub struct ControlGroup {
    path: PathBuf,
    is_version_2: bool,
}

impl ControlGroup {
    /// A group whose processes together have at most so many bytes, page cache and sockets
    /// included.
    pub fn new(bytes: u64) -> Result<ControlGroup> {
        let name = format!("cullet-compare-{}", std::process::id());
        let is_version_2 = Path::new(VERSION_2).join("cgroup.controllers").exists();
        let root = if is_version_2 { VERSION_2 } else { VERSION_1 };
        let group = ControlGroup {
            path: Path::new(root).join(name),
            is_version_2,
        };
        if !Path::new(root).exists() {
            bail!("there is no memory controller at {root}");
        }
        if is_version_2 {
            // It may be on already, and only the limit below tells whether it is.
            let _ = fs::write(Path::new(root).join("cgroup.subtree_control"), "+memory");
        }
        fs::create_dir(&group.path)
            .with_context(|| format!("cannot make {} (as root?)", group.path.display()))?;
        let (limit, swap, no_swap) = if is_version_2 {
            ("memory.max", "memory.swap.max", "0".to_owned())
        } else {
            (
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                bytes.to_string(),
            )
        };
        fs::write(group.path.join(limit), bytes.to_string())
            .with_context(|| format!("cannot limit the memory of {}", group.path.display()))?;
        // Not there where the kernel counts no swap; then there must be none.
        if fs::write(group.path.join(swap), no_swap).is_err() && has_swap() {
            bail!("the kernel cannot limit swap (swapaccount=1), and there is some: swapoff -a");
        }
        Ok(group)
    }

    /// Arguments of `/bin/sh` in front of a command's, so that it runs in the group from its
    /// first page on.
    pub fn enter(&self) -> [String; 4] {
        [
            "-c".to_owned(),
            r#"echo $$ > "$1/cgroup.procs" && shift && exec "$@""#.to_owned(),
            "sh".to_owned(),
            self.path.display().to_string(),
        ]
    }

    /// The most that was used so far, in bytes; caches are part of it.
    pub fn peak_bytes(&self) -> Option<u64> {
        let name = if self.is_version_2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        fs::read_to_string(self.path.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

fn has_swap() -> bool {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    swaps.lines().count() > 1
}
