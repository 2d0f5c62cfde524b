//! The process that gives birth to all others: small, so that a copy of it costs little, and the
//! only one that has the rights for it.
//!
//! The server starts it as its own program with another first argument, and talks to it through
//! standard input. It is the first process of a process namespace: when it ends, for whatever
//! reason, the kernel ends all that it started. It ends when the server's end of the socket is gone.
//!
//! Three threads: one carries out what must not wait (a prepared process is told what to become),
//! one does what takes time (preparing, cleaning up), one waits for processes that end.
//!
//! What must always hold:
//! - a place has one process at most, and its next one is born after everything of the last one is
//!   gone.

use std::ffi::CString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, pidfd_send_signal, wait, waitpid};
use rustix::thread::UnshareFlags;

use crate::cgroup::{Cgroup, Cgroups, Limits, Version};
use crate::child::{Command, FAILED, Plan, READY};
use crate::kernel::{self, Forked};
use crate::limits::{
    HOST_UID_FIRST, IDLE_MEMORY_BYTES, INSIDE_GID, INSIDE_UID, MESSAGE_BYTES_MAX, PLACES_MAX,
    PREPARE_MAX,
};
use crate::message::{Reader, Writer, receive, send};
use crate::root;
use crate::seccomp::Filters;
use crate::{Order, Settings, Tiding};

/// Runs as the helper until the server is gone. Never returns but for an error before that.
///
/// # Errors
/// Why it cannot.
pub fn run() -> Result<(), String> {
    let server = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| format!("the server's socket: {error}"))?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let len = receive(&server, &mut buffer, &mut Vec::new());
    let len = len.map_err(|error| format!("the server says nothing: {error}"))?;
    let settings = Settings::decode(&buffer[..len]).ok_or("the server's settings are cut short")?;
    let started = start(&server, &settings);
    if let Err(why) = &started {
        let failed = Tiding::Failed {
            place: None,
            why: why.clone(),
        };
        let _ = send(&server, &failed.encode().0, &[]);
    }
    started
}

fn start(server: &OwnedFd, settings: &Settings) -> Result<(), String> {
    let words = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    // Before its own name for process ids changes, with everything that must be seen of the host.
    let cgroups = Cgroups::open(&settings.name, settings.memory_bytes);
    let cgroups = cgroups.map_err(words("control groups"))?;
    kernel::unshare(UnshareFlags::NEWPID).map_err(words("a process namespace"))?;
    let forked = kernel::fork_alone(0).map_err(words("a first process"))?;
    if let Forked::Parent(pid, _) = forked {
        // Nothing is left to do but to be its parent.
        let _ = waitpid(Some(pid), WaitOptions::empty());
        cgroups.remove_all();
        kernel::exit(0);
    }
    let died = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    died.map_err(|error| format!("its parent: {error}"))?;
    let cgroups = cgroups.held().map_err(words("control groups"))?;
    kernel::unshare(UnshareFlags::NEWNS).map_err(words("a namespace of mounts"))?;
    root::enter(
        Path::new(&settings.code),
        &settings.shown,
        &settings.resolver,
    )?;
    let helper = Helper::new(server, settings, cgroups)?;
    helper.serve(server);
    kernel::exit(0)
}

/// What all threads of the helper share.
struct Helper {
    server: OwnedFd,
    settings: Settings,
    cgroups: Cgroups,
    filters: Filters,
    null: OwnedFd,
    preludes: Vec<Command>,
    places: Mutex<Vec<Option<Place>>>,
    /// Processes that were born and did not end yet.
    alive: Mutex<usize>,
    born: Condvar,
}

/// Where one process after the other may be.
struct Place {
    /// Its network.
    network: OwnedFd,
    process: Option<Process>,
}

/// A process, prepared or running.
struct Process {
    pid: Pid,
    handle: OwnedFd,
    control: OwnedFd,
    cgroup: Cgroup,
    /// Whether code is mounted in its place.
    has_code: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the second thread does.
enum Task {
    Prepare {
        place: usize,
        prelude: Option<usize>,
    },
    Stop {
        place: usize,
    },
    Ended {
        pid: Pid,
        status: WaitStatus,
    },
}

impl Helper {
    fn new(server: &OwnedFd, settings: &Settings, cgroups: Cgroups) -> Result<Arc<Helper>, String> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        // Its own root has no devices but in the programs' root.
        let null = rustix::fs::open("/root/dev/null", flags, Mode::empty());
        let mut preludes = Vec::new();
        for prelude in &settings.preludes {
            let command = Command::new(&prelude.arguments, &prelude.environment);
            preludes.push(command.ok_or("a prelude's command line has a NUL, or is too long")?);
        }
        Ok(Arc::new(Helper {
            server: server.try_clone().map_err(|error| error.to_string())?,
            settings: settings.clone(),
            cgroups,
            filters: Filters::new()?,
            null: null.map_err(|error| format!("/dev/null: {error}"))?,
            preludes,
            places: Mutex::new((0..PLACES_MAX).map(|_| None).collect()),
            alive: Mutex::new(0),
            born: Condvar::new(),
        }))
    }

    /// Does what the server says until it is gone.
    fn serve(self: &Arc<Helper>, server: &OwnedFd) {
        let (tasks, queue) = channel();
        let (worker, waiter, ended) = (self.clone(), self.clone(), tasks.clone());
        std::thread::spawn(move || worker.work(&queue));
        std::thread::spawn(move || waiter.await_ends(&ended));
        self.tell(&Tiding::Up, &[]);
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        loop {
            let len = match receive(server, &mut buffer, &mut Vec::new()) {
                Ok(0) | Err(_) => return,
                Ok(len) => len,
            };
            let task = match Order::decode(&buffer[..len]) {
                Some(Order::Prepare { place, prelude }) => Task::Prepare { place, prelude },
                Some(Order::Stop { place }) => Task::Stop { place },
                Some(Order::Launch {
                    place,
                    code,
                    limits,
                    strings,
                }) => {
                    if let Err(error) = self.launch(place, &code, limits, strings) {
                        self.fail(place, &format!("it cannot be started: {error}"));
                    }
                    continue;
                }
                None => continue,
            };
            if tasks.send(task).is_err() {
                return;
            }
        }
    }

    fn tell(&self, tiding: &Tiding, files: &[std::os::fd::BorrowedFd<'_>]) {
        // If the server is gone, so is this process soon.
        let _ = send(&self.server, &tiding.encode().0, files);
    }

    fn fail(&self, place: usize, why: &str) {
        let place = Some(place);
        let why = why.to_owned();
        self.tell(&Tiding::Failed { place, why }, &[]);
    }

    /// Tells a prepared process what to become.
    fn launch(&self, place: usize, code: &str, limits: Limits, strings: &[u8]) -> io::Result<()> {
        let mut places = lock(&self.places);
        let process = places.get_mut(place).and_then(Option::as_mut);
        let process = process.and_then(|place| place.process.as_mut());
        let process = process.ok_or(io::ErrorKind::NotFound)?;
        process.cgroup.limit(limits)?;
        root::show_code(place, code)?;
        process.has_code = true;
        send(&process.control, strings, &[])
    }

    fn work(&self, queue: &Receiver<Task>) {
        while let Ok(task) = queue.recv() {
            match task {
                Task::Prepare { place, prelude } => {
                    if let Err(why) = self.prepare(place, prelude) {
                        self.fail(place, &why);
                        self.tell(&Tiding::Free { place }, &[]);
                    }
                }
                Task::Stop { place } => self.stop(place),
                Task::Ended { pid, status } => self.clean_up(pid, status),
            }
        }
    }

    /// Has a place, and a process in it that waits for its turn.
    fn prepare(&self, place: usize, prelude: Option<usize>) -> Result<(), String> {
        let words = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        if place >= PLACES_MAX {
            return Err(format!("there is no place {place}"));
        }
        let prelude = match prelude {
            Some(number) => {
                let known = self.preludes.get(number);
                Some(known.ok_or("there is no such prelude")?)
            }
            None => None,
        };
        if lock(&self.places)[place].is_none() {
            self.make_place(place).map_err(words("its place"))?;
        }
        let limits = Limits {
            memory_bytes: IDLE_MEMORY_BYTES,
            cpu_millis: 1_000,
        };
        let cgroup = self.cgroups.make(place, limits);
        let cgroup = cgroup.map_err(words("its control group"))?;
        match self.bear(place, prelude, &cgroup) {
            Ok((pid, handle, control, output)) => {
                let peak = cgroup.peak_file().map_err(words("its peak of memory"))?;
                let freezer = cgroup.freezer_file().map_err(words("its freezer"))?;
                let is_second_version = cgroup.version() == Version::Two;
                if let Some(place) = &mut lock(&self.places)[place] {
                    place.process = Some(Process {
                        pid,
                        handle,
                        control,
                        cgroup,
                        has_code: false,
                    });
                }
                let files = [output.as_fd(), peak.as_fd(), freezer.as_fd()];
                let ready = Tiding::Ready {
                    place,
                    is_second_version,
                };
                self.tell(&ready, &files);
                Ok(())
            }
            Err(why) => {
                cgroup.remove();
                Err(why)
            }
        }
    }

    /// A network of its own with two sockets that listen, and a directory.
    fn make_place(&self, place: usize) -> io::Result<()> {
        root::make_place(place)?;
        // This thread has it until the next place is made, and goes back whenever a process is born.
        kernel::unshare(UnshareFlags::NEWNET)?;
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        kernel::raise_loopback(socket.as_fd())?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let network = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())?;
        let [first, second] = self.settings.ports;
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, first))?;
        let second = TcpListener::bind((Ipv4Addr::LOCALHOST, second))?;
        self.tell(&Tiding::Place { place }, &[first.as_fd(), second.as_fd()]);
        lock(&self.places)[place] = Some(Place {
            network,
            process: None,
        });
        Ok(())
    }

    /// A process in a place. With it come a handle, its socket, and its output.
    fn bear(
        &self,
        place: usize,
        prelude: Option<&Command>,
        cgroup: &Cgroup,
    ) -> Result<(Pid, OwnedFd, OwnedFd, OwnedFd), String> {
        let words = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let pair = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        );
        let (control, its_control) = pair.map_err(|error| format!("its socket: {error}"))?;
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (output, its_output) = pipe.map_err(|error| format!("its output: {error}"))?;
        if let Some(place) = &lock(&self.places)[place] {
            rustix::thread::move_into_link_name_space(place.network.as_fd(), None)
                .map_err(|error| format!("its network: {error}"))?;
        }
        // Within the range that `limits` asserts.
        let user = HOST_UID_FIRST + place as u32;
        let c_string = |text: String| CString::new(text).unwrap_or_default();
        let plan = Plan {
            place: c_string(root::place_directory(place).display().to_string()),
            tmp_options: c_string(format!(
                "mode=1777,size={},nr_inodes=65536",
                self.settings.tmp_bytes
            )),
            user: Uid::from_raw(user),
            group: Gid::from_raw(user),
            uid_map: format!("{INSIDE_UID} {user} 1\n").into_bytes(),
            gid_map: format!("{INSIDE_GID} {user} 1\n").into_bytes(),
            filters: &self.filters,
            control: its_control.as_fd(),
            output: its_output.as_fd(),
            null: self.null.as_fd(),
            prelude,
        };
        let forked = kernel::fork_with(&plan).map_err(words("it cannot be born"))?;
        drop(plan);
        let (pid, handle) = forked;
        *lock(&self.alive) += 1;
        self.born.notify_one();
        drop((its_control, its_output));
        let attached = cgroup.attach(pid);
        // Zero: it is to end.
        let go = [u8::from(attached.is_ok())];
        let told = rustix::io::write(&control, &go);
        attached.map_err(words("its control group"))?;
        told.map_err(|error| format!("it is gone already: {error}"))?;
        let ready = await_ready(&control);
        if let Err(why) = ready {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
            return Err(why);
        }
        Ok((pid, handle, control, output))
    }

    fn stop(&self, place: usize) {
        let places = lock(&self.places);
        let process = places.get(place).and_then(Option::as_ref);
        if let Some(process) = process.and_then(|place| place.process.as_ref()) {
            let _ = pidfd_send_signal(&process.handle, Signal::KILL);
            // One that is stopped ends when it goes on.
            process.cgroup.thaw();
        }
    }

    /// Waits for processes that end, one after the other.
    fn await_ends(&self, tasks: &Sender<Task>) {
        loop {
            {
                let mut alive = lock(&self.alive);
                while *alive == 0 {
                    let woken = self.born.wait(alive);
                    alive = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
            let Ok(Some((pid, status))) = wait(WaitOptions::empty()) else {
                // It was not born when this was asked.
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let mut alive = lock(&self.alive);
            *alive = alive.saturating_sub(1);
            drop(alive);
            if tasks.send(Task::Ended { pid, status }).is_err() {
                return;
            }
        }
    }

    /// What is left of a process goes; then its place is free.
    fn clean_up(&self, pid: Pid, status: WaitStatus) {
        let ended = {
            let mut places = lock(&self.places);
            places.iter_mut().enumerate().find_map(|(number, place)| {
                let place = place.as_mut()?;
                let is_it = place.process.as_ref().is_some_and(|it| it.pid == pid);
                is_it.then(|| (number, place.process.take()))
            })
        };
        // One that failed before it was ready belongs to no place.
        let Some((place, Some(process))) = ended else {
            return;
        };
        let tiding = Tiding::Ended {
            place,
            code: status.exit_status(),
            signal: status.terminating_signal(),
            oom_kills: process.cgroup.oom_kills(),
            why: failure_of(&process.control),
        };
        self.tell(&tiding, &[]);
        if process.has_code {
            root::hide_code(place);
        }
        process.cgroup.remove();
        self.tell(&Tiding::Free { place }, &[]);
    }
}

/// Waits until a process says that it is ready.
fn await_ready(control: &OwnedFd) -> Result<(), String> {
    let until = Timespec {
        tv_sec: PREPARE_MAX.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut wanted = [PollFd::new(control, PollFlags::IN)];
    match poll(&mut wanted, Some(&until)) {
        Ok(0) => return Err(format!("it is not ready after {PREPARE_MAX:?}")),
        Ok(_) => {}
        Err(error) => return Err(format!("waiting for it: {error}")),
    }
    let mut said = [0; 64];
    match rustix::net::recv(control, &mut said, RecvFlags::empty()) {
        Ok((len, _)) if len > 0 && said[0] == READY => Ok(()),
        Ok((len, _)) => {
            Err(in_words(&said[..len]).unwrap_or_else(|| "it ended before it was ready".to_owned()))
        }
        Err(error) => Err(format!("it ended before it was ready: {error}")),
    }
}

/// Why a process could not become what it was told to.
fn failure_of(control: &OwnedFd) -> Option<String> {
    let mut said = [0; 64];
    let (len, _) = rustix::net::recv(control, &mut said, RecvFlags::DONTWAIT).ok()?;
    in_words(&said[..len])
}

fn in_words(said: &[u8]) -> Option<String> {
    let mut reader = Reader(said.strip_prefix(&[FAILED])?);
    let errno = i32::from_le_bytes(*reader.0.first_chunk()?);
    reader.0 = reader.0.get(4..)?;
    let step = std::str::from_utf8(reader.0).ok()?;
    Some(format!("{step}: {}", io::Error::from_raw_os_error(errno)))
}

impl Tiding {
    /// Only the helper says something.
    fn encode(&self) -> Writer {
        let place_of = |place: &Option<usize>| place.map_or(u64::MAX, |place| place as u64);
        match self {
            Tiding::Up => Writer::new(1),
            Tiding::Place { place } => Writer::new(2).number(*place as u64),
            Tiding::Ready {
                place,
                is_second_version,
            } => Writer::new(3)
                .number(*place as u64)
                .number(u64::from(*is_second_version)),
            Tiding::Ended {
                place,
                code,
                signal,
                oom_kills,
                why,
            } => Writer::new(4)
                .number(*place as u64)
                // Both are small and positive.
                .number(code.map_or(u64::MAX, |code| code as u64))
                .number(signal.map_or(u64::MAX, |signal| signal as u64))
                .number(*oom_kills)
                .text(why.as_deref().unwrap_or("")),
            Tiding::Free { place } => Writer::new(5).number(*place as u64),
            Tiding::Failed { place, why } => Writer::new(6).number(place_of(place)).text(why),
        }
    }
}
