//! What files a process may touch, whatever its mounts and permissions say: everything that it
//! sees may be read and run, `/tmp` may be written, and of `/dev` the harmless files. And it can
//! reach no local socket and signal no process beyond its own.
//!
//! See `Documentation/userspace-api/landlock.rst` of Linux. What the kernel is too old to restrict
//! is left out; [`crate::missing`] says what is needed.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

use crate::kernel::{
    RulesetAttr, landlock_allow, landlock_restrict, landlock_ruleset, landlock_version,
};

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// Devices are not made, not even in `/tmp`.
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
/// Version 1 knows 13 rights, version 2 one more, version 3 another, version 5 the 16th.
const RIGHTS: [(u32, u64); 4] = [(1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15)];

const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// The oldest version that isolates as it is to be: abstract sockets and signals need it.
pub(crate) const VERSION_WANTED: u32 = 6;

/// Restricts this process, and all that it becomes and starts.
pub(crate) fn restrict() -> io::Result<()> {
    let version = landlock_version()?;
    let known = RIGHTS.iter().filter(|(since, _)| *since <= version);
    let all = known.fold(0, |all, (_, rights)| all | rights);
    let scoped = match version >= VERSION_WANTED {
        true => SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
        false => 0,
    };
    let attributes = RulesetAttr {
        handled_access_fs: all,
        handled_access_net: 0,
        scoped,
    };
    // What an older version does not know must not be there.
    let bytes = match version {
        0..4 => 8,
        4..6 => 16,
        _ => size_of::<RulesetAttr>(),
    };
    let ruleset = landlock_ruleset(&attributes, bytes)?;
    let allow = |path: &std::ffi::CStr, access: u64| -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let beneath = rustix::fs::open(path, flags, Mode::empty())?;
        landlock_allow(ruleset.as_fd(), beneath.as_fd(), access & all)
    };
    allow(c"/", EXECUTE | READ_FILE | READ_DIR)?;
    allow(c"/tmp", all & !(MAKE_CHAR | MAKE_BLOCK | (1 << 15)))?;
    allow(c"/dev", READ_FILE | READ_DIR | WRITE_FILE)?;
    landlock_restrict(ruleset.as_fd())
}
