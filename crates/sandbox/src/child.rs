//! What a process does between its birth and the program that it becomes: it moves into the
//! program's root, gives up everything, says that it is ready, and waits for its turn.
//!
//! What must always hold:
//! - nothing here allocates or takes a lock: see [`kernel`](crate::kernel);
//! - namespaces for mounts, processes, networks and so on belong to the machine's own user
//!   namespace: whoever gained every right in the program's user namespace would still have none
//!   over them;
//! - when it says that it is ready, nothing is left to be given up but descriptors.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, UnshareFlags};

use crate::kernel::{self, Pointers};
use crate::landlock;
use crate::limits::{FILES_MAX, MESSAGE_BYTES_MAX, STRINGS_MAX};
use crate::seccomp::Filters;

/// First bytes of what a process says.
pub(crate) const READY: u8 = 1;
pub(crate) const FAILED: u8 = 2;

/// What a process needs to know; made before it is born.
pub(crate) struct Plan<'a> {
    /// The directory of its place.
    pub place: CString,
    /// How large `/tmp` is, as options of tmpfs.
    pub tmp_options: CString,
    /// The host's user that it is.
    pub user: rustix::fs::Uid,
    pub group: rustix::fs::Gid,
    /// Lines for `/proc/self/uid_map` and `gid_map`.
    pub uid_map: Vec<u8>,
    pub gid_map: Vec<u8>,
    pub filters: &'a Filters,
    /// Its end of the socket to the helper.
    pub control: BorrowedFd<'a>,
    /// Where its output goes.
    pub output: BorrowedFd<'a>,
    /// `/dev/null`.
    pub null: BorrowedFd<'a>,
    /// What it becomes at once, instead of waiting: it finds the socket as descriptor 3, and reads
    /// there what it is told.
    pub prelude: Option<&'a Command>,
}

/// A program with its arguments and its environment, ready to be started.
pub(crate) struct Command {
    path: CString,
    strings: Vec<CString>,
    arguments: usize,
}

impl Command {
    /// `None`: a string has a NUL, or there are too many.
    pub(crate) fn new(arguments: &[String], environment: &[(String, String)]) -> Option<Command> {
        let mut strings = Vec::new();
        for argument in arguments {
            strings.push(CString::new(argument.as_str()).ok()?);
        }
        for (name, value) in environment {
            strings.push(CString::new(format!("{name}={value}")).ok()?);
        }
        let path = strings.first()?.clone();
        (strings.len() <= STRINGS_MAX).then_some(Command {
            path,
            strings,
            arguments: arguments.len(),
        })
    }
}

/// Runs a process to its end, or to another program.
pub(crate) fn run(plan: &Plan<'_>) -> ! {
    match prepare(plan) {
        Ok(()) => {
            let (step, error) = become_program(plan);
            say_failure(kernel::inherited_control(), step, &error);
        }
        // The socket may be where it was, or be the inherited one already.
        Err((step, error)) => {
            say_failure(plan.control, step, &error);
            say_failure(kernel::inherited_control(), step, &error);
        }
    }
    kernel::exit(127)
}

type Step = &'static str;

/// Says which step failed: `FAILED`, the error's number, the step.
fn say_failure(control: BorrowedFd<'_>, step: Step, error: &io::Error) {
    let mut said = [0; 64];
    said[0] = FAILED;
    said[1..5].copy_from_slice(&error.raw_os_error().unwrap_or(0).to_le_bytes());
    let len = step.len().min(said.len() - 5);
    said[5..5 + len].copy_from_slice(&step.as_bytes()[..len]);
    let _ = rustix::io::write(control, &said[..5 + len]);
}

fn at<T, E: Into<io::Error>>(step: Step, done: Result<T, E>) -> Result<T, (Step, io::Error)> {
    done.map_err(|error| (step, error.into()))
}

fn prepare(plan: &Plan<'_>) -> Result<(), (Step, io::Error)> {
    // Until it is in its control group.
    let mut go = [0];
    at(
        "waiting for the control group",
        rustix::io::read(plan.control, &mut go),
    )?;
    if go[0] == 0 {
        kernel::exit(0);
    }
    at(
        "its signal",
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
    )?;
    at("a session of its own", rustix::process::setsid())?;
    at(
        "a view of its control group",
        kernel::unshare(UnshareFlags::NEWCGROUP),
    )?;
    enter_root(plan)?;
    at("its name", rustix::system::sethostname(b"sandbox"))?;
    at("its limits", limit_resources())?;
    at("its keyring", kernel::leave_keyring())?;
    change_user(plan)?;
    at("its rights", give_up_rights())?;
    at("Landlock", landlock::restrict())?;
    at("its output", redirect_output(plan))?;
    let [allows, refuses] = &plan.filters.0;
    at("seccomp", kernel::filter_calls(allows))?;
    at("seccomp", kernel::filter_calls(refuses))
}

/// Its own mounts, and nothing else of the helper's.
fn enter_root(plan: &Plan<'_>) -> Result<(), (Step, io::Error)> {
    // What is mounted for its place later comes here, and nothing goes back.
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    at("its mounts", mount_change(c"/", downstream))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    at(
        "/proc",
        mount(
            c"proc",
            c"/root/proc",
            c"proc",
            flags | MountFlags::NOEXEC,
            None,
        ),
    )?;
    let options = plan.tmp_options.as_c_str();
    at(
        "/tmp",
        mount(c"tmpfs", c"/root/tmp", c"tmpfs", flags, options),
    )?;
    at("/var", mount_bind(plan.place.as_c_str(), c"/root/var"))?;
    at("its root", rustix::process::chdir(c"/root"))?;
    at("its root", rustix::process::pivot_root(c".", c"."))?;
    at("the helper's root", unmount(c".", UnmountFlags::DETACH))?;
    at("its root", rustix::process::chdir(c"/"))
}

fn limit_resources() -> io::Result<()> {
    let limit = |resource, value| {
        rustix::process::setrlimit(
            resource,
            Rlimit {
                current: Some(value),
                maximum: Some(value),
            },
        )
    };
    limit(Resource::Nofile, FILES_MAX)?;
    limit(Resource::Core, 0)?;
    // Memory that cannot be swapped, message queues and signals that wait: from the kernel's own.
    limit(Resource::Memlock, 64 * 1024)?;
    limit(Resource::Msgqueue, 0)?;
    Ok(limit(Resource::Sigpending, 4_096)?)
}

/// Becomes a user that nobody else is, and then somebody else in a namespace of its own.
fn change_user(plan: &Plan<'_>) -> Result<(), (Step, io::Error)> {
    at("its groups", rustix::thread::set_thread_groups(&[]))?;
    let (group, user) = (plan.group, plan.user);
    at(
        "its group",
        rustix::thread::set_thread_res_gid(group, group, group),
    )?;
    at(
        "its user",
        rustix::thread::set_thread_res_uid(user, user, user),
    )?;
    // Else it could not write its own maps.
    let dumpable = DumpableBehavior::Dumpable;
    at("its user", rustix::process::set_dumpable_behavior(dumpable))?;
    at("a user namespace", kernel::unshare(UnshareFlags::NEWUSER))?;
    at("its groups", write(c"/proc/self/setgroups", b"deny"))?;
    at(
        "the map of its user",
        write(c"/proc/self/uid_map", &plan.uid_map),
    )?;
    at(
        "the map of its group",
        write(c"/proc/self/gid_map", &plan.gid_map),
    )?;
    // Forgotten when the user changed.
    at(
        "its signal",
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
    )
}

fn write(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, bytes)?;
    Ok(())
}

fn give_up_rights() -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        // Those that this kernel does not know are nobody's.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    rustix::thread::set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    )?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// The socket becomes descriptor 3, and nothing else is open.
fn redirect_output(plan: &Plan<'_>) -> io::Result<()> {
    kernel::redirect(plan.null, 0)?;
    kernel::redirect(plan.output, 1)?;
    kernel::redirect(plan.output, 2)?;
    kernel::redirect(plan.control, 3)?;
    kernel::close_from(4)
}

/// Waits to be told what to become. Returns only if that could not be.
fn become_program(plan: &Plan<'_>) -> (Step, io::Error) {
    // It was put there by `redirect_output`.
    let control = kernel::inherited_control();
    if let Some(command) = plan.prelude {
        let mut arguments: Pointers<'_> = [None; STRINGS_MAX + 1];
        let mut environment: Pointers<'_> = [None; STRINGS_MAX + 1];
        for (at, string) in command.strings.iter().enumerate() {
            match at.checked_sub(command.arguments) {
                None => arguments[at] = Some(string),
                Some(at) => environment[at] = Some(string),
            }
        }
        // It says itself when it is ready.
        return (
            "the interpreter",
            kernel::exec(&command.path, &arguments, &environment),
        );
    }
    if let Err(error) = rustix::io::write(control, &[READY]) {
        return ("saying that it is ready", error.into());
    }
    let mut told = [0_u8; MESSAGE_BYTES_MAX];
    let len = match rustix::io::read(control, &mut told) {
        // Nobody needs it any more.
        Ok(0) => kernel::exit(0),
        Ok(len) => len,
        Err(error) => return ("waiting for its turn", error.into()),
    };
    let _ = rustix::io::fcntl_setfd(control, FdFlags::CLOEXEC);
    match exec_told(&told[..len]) {
        Ok(never) => never,
        Err(failure) => failure,
    }
}

/// Becomes what a message says: see [`strings`](crate::message::strings).
fn exec_told(told: &[u8]) -> Result<(Step, io::Error), (Step, io::Error)> {
    let cut_short = || ("what it was told", io::ErrorKind::InvalidData.into());
    let (count, rest) = told.split_first_chunk::<4>().ok_or_else(cut_short)?;
    let (variables, mut rest) = rest.split_first_chunk::<4>().ok_or_else(cut_short)?;
    let count = u32::from_le_bytes(*count) as usize;
    let variables = u32::from_le_bytes(*variables) as usize;
    if count == 0 || count.saturating_add(variables) > STRINGS_MAX {
        return Err(cut_short());
    }
    let mut arguments: Pointers<'_> = [None; STRINGS_MAX + 1];
    let mut environment: Pointers<'_> = [None; STRINGS_MAX + 1];
    let mut path = None;
    let places = arguments.iter_mut().take(count);
    for place in places.chain(environment.iter_mut().take(variables)) {
        let string = CStr::from_bytes_until_nul(rest).map_err(|_| cut_short())?;
        rest = &rest[string.count_bytes() + 1..];
        path.get_or_insert(string);
        *place = Some(string);
    }
    let path = path.ok_or_else(cut_short)?;
    at("its directory", rustix::process::chdir(c"/var/task"))?;
    Ok(("the program", kernel::exec(path, &arguments, &environment)))
}
