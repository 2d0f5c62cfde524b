//! Runs programs that nobody trusts, each in a place of its own, and starts them fast: everything
//! that does not depend on the program is done ahead.
//!
//! ```text
//!   server ──orders──► helper ──born into──► place 0: [ prepared, waiting ]
//!      ▲                 │                   place 1: [ a program that runs ]
//!      └────tidings──────┘                   place 2: (free)
//! ```
//! A **place** is a directory, a network of its own with two sockets on which the server listens,
//! a user of the host that nobody else is, and a control group. A process is born into it, gives
//! up everything (`child.rs`) and waits. [`Sandboxes::launch`] has the code mounted and tells it
//! what to become. When it has ended and everything of it is gone, the place is free again.
//!
//! This room knows nothing of what the programs are for.

mod cgroup;
mod child;
mod helper;
mod kernel;
mod landlock;
pub mod limits;
mod message;
mod root;
mod seccomp;
mod server;

use std::path::PathBuf;

pub use cgroup::Limits;
pub use helper::run as run_helper;
pub use server::{Files, Sandboxes, Tidings, missing};

use message::{Reader, Writer};

/// Why nothing can be run, or something could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The helper could not be started.
    #[error("the helper that starts programs cannot be started: {0}")]
    Helper(#[source] std::io::Error),
    /// It is gone.
    #[error("the helper that starts programs is gone")]
    Gone,
    /// A command line and its environment have a NUL, or are more than can be passed on.
    #[error(
        "a command line and its environment have at most {} bytes and {} strings, and no NUL",
        limits::MESSAGE_BYTES_MAX - 256,
        limits::STRINGS_MAX
    )]
    TooLarge,
}

/// A program that a process becomes when it is prepared, rather than when its turn comes. It is
/// isolated already, without code; it finds a socket as descriptor 3, writes one byte 01 there when
/// it is ready, and reads what it is told to become: `u32` arguments, `u32` variables (little-endian), then
/// the arguments and `NAME=value`, each ending with NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prelude {
    /// The program's path and its arguments.
    pub arguments: Vec<String>,
    /// Its environment.
    pub environment: Vec<(String, String)>,
}

/// How programs are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Names the control groups: one for each server on a machine.
    pub name: String,
    /// The directory whose subdirectories are the programs' code.
    pub code: PathBuf,
    /// Files and directories of the host that programs see, read-only, beside the system's: where
    /// interpreters are.
    pub shown: Vec<PathBuf>,
    /// What `/etc/resolv.conf` says to programs.
    pub resolver: String,
    /// How large `/tmp` is, in bytes. It is memory.
    pub tmp_bytes: u64,
    /// Memory of all programs together, in bytes.
    pub memory_bytes: u64,
    /// The ports on 127.0.0.1 on which the server listens in each place.
    pub ports: [u16; 2],
    /// See [`Prelude`].
    pub preludes: Vec<Prelude>,
}

/// What the server tells the helper.
pub(crate) enum Order<'a> {
    Prepare {
        place: usize,
        prelude: Option<usize>,
    },
    Launch {
        place: usize,
        code: String,
        limits: Limits,
        strings: &'a [u8],
    },
    Stop {
        place: usize,
    },
}

/// What has come to pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tiding {
    /// The helper takes orders.
    Up,
    /// A place was made; with it come the two sockets that listen in it.
    Place {
        /// Its number.
        place: usize,
    },
    /// A process waits for its turn there; with it come [`Files`].
    Ready {
        /// Where.
        place: usize,
        /// Whether the files are those of version 2 of control groups.
        is_second_version: bool,
    },
    /// A process has ended.
    Ended {
        /// Where.
        place: usize,
        /// What it said, if it ended by itself.
        code: Option<i32>,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
        /// How often the kernel ended something there because memory ran out.
        oom_kills: u64,
        /// Why it could not become the program that it was told to become.
        why: Option<String>,
    },
    /// All that was left is gone: another process may be prepared there.
    Free {
        /// Where.
        place: usize,
    },
    /// Something was not done.
    Failed {
        /// Where; `None`: the helper cannot do anything.
        place: Option<usize>,
        /// Why.
        why: String,
    },
}

impl Settings {
    fn encode(&self) -> Writer {
        let pairs = |writer: Writer, pairs: &[(String, String)]| {
            let counted = writer.number(pairs.len() as u64);
            pairs.iter().fold(counted, |writer, (name, value)| {
                writer.text(name).text(value)
            })
        };
        let shown: Vec<String> = self
            .shown
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let writer = Writer::default()
            .text(&self.name)
            .text(&self.code.display().to_string())
            .texts(&shown)
            .text(&self.resolver)
            .number(self.tmp_bytes)
            .number(self.memory_bytes)
            .number(self.ports[0].into())
            .number(self.ports[1].into())
            .number(self.preludes.len() as u64);
        self.preludes.iter().fold(writer, |writer, prelude| {
            pairs(writer.texts(&prelude.arguments), &prelude.environment)
        })
    }

    fn decode(bytes: &[u8]) -> Option<Settings> {
        let mut reader = Reader(bytes);
        let mut settings = Settings {
            name: reader.text()?,
            code: reader.text()?.into(),
            shown: reader.texts()?.into_iter().map(PathBuf::from).collect(),
            resolver: reader.text()?,
            tmp_bytes: reader.number()?,
            memory_bytes: reader.number()?,
            ports: [
                u16::try_from(reader.number()?).ok()?,
                u16::try_from(reader.number()?).ok()?,
            ],
            preludes: Vec::new(),
        };
        for _ in 0..reader.size()? {
            let arguments = reader.texts()?;
            let mut environment = Vec::new();
            for _ in 0..reader.size()? {
                environment.push((reader.text()?, reader.text()?));
            }
            settings.preludes.push(Prelude {
                arguments,
                environment,
            });
        }
        Some(settings)
    }
}

impl Order<'_> {
    fn encode(&self) -> Writer {
        match self {
            Order::Prepare { place, prelude } => Writer::new(1)
                .number(*place as u64)
                .number(prelude.map_or(u64::MAX, |number| number as u64)),
            Order::Launch {
                place,
                code,
                limits,
                strings,
            } => {
                let mut writer = Writer::new(2)
                    .number(*place as u64)
                    .text(code)
                    .number(limits.memory_bytes)
                    .number(limits.cpu_millis);
                writer.0.extend_from_slice(strings);
                writer
            }
            Order::Stop { place } => Writer::new(3).number(*place as u64),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Order<'_>> {
        let mut reader = Reader(bytes);
        match reader.byte()? {
            1 => Some(Order::Prepare {
                place: reader.size()?,
                prelude: Some(reader.number()?)
                    .filter(|number| *number != u64::MAX)
                    .map(|number| number as usize),
            }),
            2 => Some(Order::Launch {
                place: reader.size()?,
                code: reader.text()?,
                limits: Limits {
                    memory_bytes: reader.number()?,
                    cpu_millis: reader.number()?,
                },
                strings: reader.0,
            }),
            3 => Some(Order::Stop {
                place: reader.size()?,
            }),
            _ => None,
        }
    }
}

impl Tiding {
    fn decode(bytes: &[u8]) -> Option<Tiding> {
        let mut reader = Reader(bytes);
        let small = |number: u64| i32::try_from(number).ok();
        match reader.byte()? {
            1 => Some(Tiding::Up),
            2 => Some(Tiding::Place {
                place: reader.size()?,
            }),
            3 => Some(Tiding::Ready {
                place: reader.size()?,
                is_second_version: reader.number()? == 1,
            }),
            4 => Some(Tiding::Ended {
                place: reader.size()?,
                code: small(reader.number()?),
                signal: small(reader.number()?),
                oom_kills: reader.number()?,
                why: Some(reader.text()?).filter(|why| !why.is_empty()),
            }),
            5 => Some(Tiding::Free {
                place: reader.size()?,
            }),
            6 => Some(Tiding::Failed {
                place: Some(reader.number()?)
                    .filter(|number| *number != u64::MAX)
                    .map(|number| number as usize),
                why: reader.text()?,
            }),
            _ => None,
        }
    }
}
