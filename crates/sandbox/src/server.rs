//! The server's end: gives orders, and hears what has come to pass.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, socketpair};

use crate::cgroup::{self, Limits};
use crate::kernel::landlock_version;
use crate::landlock::VERSION_WANTED;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::message::{receive, send, strings};
use crate::{Error, Order, Settings, Tiding};

/// What is lacking on this machine for programs to be isolated, in sentences; empty: nothing.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing
            .push("the server does not run as root, who alone can make namespaces for them".into());
    }
    if let Err(why) = cgroup::version() {
        missing.push(why);
    }
    match landlock_version() {
        Ok(version) if version >= VERSION_WANTED => {}
        Ok(version) => missing.push(format!(
            "the kernel has version {version} of Landlock, and {VERSION_WANTED} is needed (Linux 6.12)"
        )),
        Err(_) => missing.push(
            "the kernel has no Landlock, or it is not switched on (`lsm=landlock,…` on its command \
             line)"
                .into(),
        ),
    }
    let users = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    if users.is_ok_and(|max| max.trim() == "0") {
        missing.push("user namespaces are switched off (sysctl user.max_user_namespaces)".into());
    }
    missing
}

/// Hears what has come to pass, on a thread of its own.
pub trait Tidings: Send + 'static {
    /// A place was made, with the sockets that listen in it.
    fn place(&mut self, place: usize, listeners: [TcpListener; 2]);
    /// A process waits there for its turn.
    fn ready(&mut self, place: usize, files: Files);
    /// Something else.
    fn other(&mut self, tiding: Tiding);
    /// The helper is gone, and all processes with it.
    fn gone(&mut self);
}

/// What the server has of a process.
#[derive(Debug)]
pub struct Files {
    /// All that it writes to standard output and standard error.
    pub output: File,
    peak: Mutex<File>,
    freezer: Mutex<File>,
    is_second_version: bool,
}

impl Files {
    /// The most bytes of memory that it had since it was born, or since [`Files::reset_peak`].
    pub fn peak_bytes(&self) -> u64 {
        let mut file = self.peak.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = [0; 32];
        let read = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.read(&mut text));
        let text = std::str::from_utf8(&text[..read.unwrap_or(0)]).unwrap_or("");
        text.trim().parse().unwrap_or(0)
    }

    /// Begins to measure anew, where the kernel can.
    pub fn reset_peak(&self) {
        let mut file = self.peak.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write(b"0");
    }

    /// Stops everything in the place (`true`), or lets it go on.
    ///
    /// # Errors
    /// What the kernel says: above all that it has ended.
    pub fn freeze(&self, is_frozen: bool) -> std::io::Result<()> {
        let word: &[u8] = match (self.is_second_version, is_frozen) {
            (true, true) => b"1",
            (true, false) => b"0",
            (false, true) => b"FROZEN",
            (false, false) => b"THAWED",
        };
        let mut file = self.freezer.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(0))?;
        file.write_all(word)
    }
}

/// All places of a server. When this goes, so do all processes.
pub struct Sandboxes {
    socket: OwnedFd,
    helper: Mutex<Child>,
}

impl Sandboxes {
    /// Starts the helper: `helper` is a command that ends up in [`crate::run_helper`].
    ///
    /// # Errors
    /// [`Error::Helper`]. What goes wrong later comes as a tiding.
    pub fn start(
        mut helper: Command,
        settings: &Settings,
        tidings: impl Tidings,
    ) -> Result<Sandboxes, Error> {
        let pair = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        );
        let (socket, its_socket) = pair.map_err(|error| Error::Helper(error.into()))?;
        send(&socket, &settings.encode().0, &[]).map_err(Error::Helper)?;
        let child = helper
            .stdin(Stdio::from(its_socket))
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::Helper)?;
        let heard = socket.try_clone().map_err(Error::Helper)?;
        std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || hear(&heard, tidings))
            .map_err(Error::Helper)?;
        Ok(Sandboxes {
            socket,
            helper: Mutex::new(child),
        })
    }

    fn order(&self, order: &Order<'_>) -> Result<(), Error> {
        send(&self.socket, &order.encode().0, &[]).map_err(|_| Error::Gone)
    }

    /// Has a process prepared in a place that is free, or was never used; of the prelude with this
    /// number, if any.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn prepare(&self, place: usize, prelude: Option<usize>) -> Result<(), Error> {
        self.order(&Order::Prepare { place, prelude })
    }

    /// Has the process that waits in a place become a program. `code` names a directory below
    /// [`Settings::code`], which it sees as `/var/task`; `arguments` begin with the program's path.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::Gone`]. Whether it could, shows as [`Tiding::Ended`] or
    /// [`Tiding::Failed`].
    pub fn launch(
        &self,
        place: usize,
        code: &str,
        limits: Limits,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Result<(), Error> {
        let strings = strings(arguments, environment).ok_or(Error::TooLarge)?;
        self.order(&Order::Launch {
            place,
            code: code.to_owned(),
            limits,
            strings: &strings,
        })
    }

    /// Ends whatever is in a place. [`Tiding::Ended`] follows.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn stop(&self, place: usize) -> Result<(), Error> {
        self.order(&Order::Stop { place })
    }
}

impl Drop for Sandboxes {
    fn drop(&mut self) {
        // The helper ends when nobody speaks to it any more, and everything with it.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        let helper = self
            .helper
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let _ = helper.wait();
    }
}

fn hear(socket: &OwnedFd, mut tidings: impl Tidings) {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let mut files = Vec::new();
        let len = match receive(socket, &mut buffer, &mut files) {
            Ok(0) | Err(_) => return tidings.gone(),
            Ok(len) => len,
        };
        let mut files = files.into_iter();
        match Tiding::decode(&buffer[..len]) {
            Some(Tiding::Place { place }) => {
                if let (Some(first), Some(second)) = (files.next(), files.next()) {
                    tidings.place(place, [first.into(), second.into()]);
                }
            }
            Some(Tiding::Ready {
                place,
                is_second_version,
            }) => {
                if let (Some(output), Some(peak), Some(freezer)) =
                    (files.next(), files.next(), files.next())
                {
                    let files = Files {
                        output: output.into(),
                        peak: Mutex::new(peak.into()),
                        freezer: Mutex::new(freezer.into()),
                        is_second_version,
                    };
                    tidings.ready(place, files);
                }
            }
            Some(tiding) => tidings.other(tiding),
            None => {}
        }
    }
}
