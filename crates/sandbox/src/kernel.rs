//! What neither the standard library nor rustix offers in a safe form. Nothing else in this room
//! is unsafe.
//!
//! What must always hold:
//! - whoever runs between [`fork`] and [`exec`] in the new process allocates nothing and takes no
//!   lock: the thread that would give it back does not exist there.
#![allow(
    unsafe_code,
    reason = "namespaces, seccomp, Landlock and keyrings have no safe interface"
)]

use std::ffi::{CStr, c_char, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::child::{self, Plan};
use crate::limits::STRINGS_MAX;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// What [`fork`] came to.
pub(crate) enum Forked {
    /// In the process that called it: the new one, and a handle on it.
    Parent(Pid, OwnedFd),
    /// In the new process.
    Child,
}

/// Makes a copy of this process, with this thread alone, in namespaces of its own.
///
/// # Safety
/// The child allocates nothing and takes no lock before [`exec`] or [`exit`].
unsafe fn fork(namespaces: i32) -> io::Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all zero is a valid value of this struct of integers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    // The flags are positive.
    arguments.flags = (namespaces | libc::CLONE_PIDFD) as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: the arguments are valid for the size that is named, and without CLONE_VM the child
    // has a copy of all memory, this stack included.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // The kernel's process ids fit, and are positive.
    let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Forked::Parent(pid, pidfd))
}

/// A copy of this process, which has one thread.
pub(crate) fn fork_alone(namespaces: i32) -> io::Result<Forked> {
    // SAFETY: no other thread holds a lock, so that the child may do what this process may.
    unsafe { fork(namespaces) }
}

/// Gives birth to a process that carries out a plan in namespaces of its own.
pub(crate) fn fork_with(plan: &Plan<'_>) -> io::Result<(Pid, OwnedFd)> {
    const OWN: i32 =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: see the head of `child`.
    match unsafe { fork(OWN) }? {
        Forked::Child => child::run(plan),
        Forked::Parent(pid, handle) => Ok((pid, handle)),
    }
}

/// Ends this process at once, and runs nothing of what usually runs then.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: `_exit` touches no memory.
    unsafe { libc::_exit(status) }
}

/// Pointers to strings that end with NUL; null behind the last one.
pub(crate) type Pointers<'a> = [Option<&'a CStr>; STRINGS_MAX + 1];

/// Replaces this process by a program. Returns only why it could not.
pub(crate) fn exec(path: &CStr, arguments: &Pointers<'_>, environment: &Pointers<'_>) -> io::Error {
    let pointers = |strings: &Pointers<'_>| {
        let mut pointers = [std::ptr::null::<c_char>(); STRINGS_MAX + 1];
        // The last one stays null, whatever is said.
        for (to, from) in pointers.iter_mut().zip(&strings[..STRINGS_MAX]) {
            *to = from.map_or(std::ptr::null(), CStr::as_ptr);
        }
        pointers
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: each list ends with a null pointer, and what is before it are strings that live.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// The socket to the helper, where [`redirect`] has put it.
pub(crate) fn inherited_control() -> BorrowedFd<'static> {
    // SAFETY: it stays open until the process is another program.
    unsafe { BorrowedFd::borrow_raw(3) }
}

/// Moves this thread into new namespaces. Not for `FILES`, which would need care.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the table of descriptors stays shared.
    unsafe { rustix::thread::unshare_unsafe(flags)? };
    Ok(())
}

/// What mounts are to be: see `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes of a mount, or of a tree of mounts, and how it passes mounts on.
pub(crate) fn set_mount_attributes(
    tree: BorrowedFd<'_>,
    set: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attributes = MountAttr {
        attr_set: set,
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string, the struct is as large as is said.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Switches the loopback interface of this network namespace on.
pub(crate) fn raise_loopback(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all zero is a valid value of this struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is of the type that this call takes.
    check(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into()
    })?;
    Ok(())
}

/// Leaves the keyring of whoever started this process for a new one that is empty.
pub(crate) fn leave_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name makes an anonymous one.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<c_void>(),
        )
    })?;
    Ok(())
}

/// Has all threads of this process go through a filter of system calls from now on.
pub(crate) fn filter_calls(program: &[seccompiler::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        // It is only read.
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program outlives the call, which copies it. Both structs of an instruction are
    // the kernel's: u16, u8, u8, u32.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })?;
    Ok(())
}

/// The attributes of a Landlock ruleset: see `landlock_create_ruleset(2)`.
#[repr(C)]
pub(crate) struct RulesetAttr {
    pub handled_access_fs: u64,
    pub handled_access_net: u64,
    pub scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// The version of Landlock that the kernel has.
pub(crate) fn landlock_version() -> io::Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: asks for nothing but the version.
    let version = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    })?;
    u32::try_from(version).map_err(|_| io::ErrorKind::InvalidData.into())
}

pub(crate) fn landlock_ruleset(attributes: &RulesetAttr, bytes: usize) -> io::Result<OwnedFd> {
    assert!(bytes <= size_of::<RulesetAttr>());
    // SAFETY: so many bytes of the struct are there.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(attributes),
            bytes,
            0_u32,
        )
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

pub(crate) fn landlock_allow(
    ruleset: BorrowedFd<'_>,
    beneath: BorrowedFd<'_>,
    access: u64,
) -> io::Result<()> {
    const LANDLOCK_RULE_PATH_BENEATH: libc::c_int = 1;
    let rule = PathBeneathAttr {
        allowed_access: access,
        parent_fd: beneath.as_raw_fd(),
    };
    // SAFETY: the rule is of the type that is named.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            LANDLOCK_RULE_PATH_BENEATH,
            &raw const rule,
            0_u32,
        )
    })?;
    Ok(())
}

pub(crate) fn landlock_restrict(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a descriptor and no flags.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) })?;
    Ok(())
}

/// Makes a descriptor the standard input, output or error of this process.
pub(crate) fn redirect(from: BorrowedFd<'_>, to: i32) -> io::Result<()> {
    assert!((0..=3).contains(&to));
    // SAFETY: descriptors are numbers; whoever had this one is not run any more in a child.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }.into())?;
    Ok(())
}

/// Closes all descriptors from a number on.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: in a child that is about to become another program nobody uses them any more.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0_u32) })?;
    Ok(())
}
