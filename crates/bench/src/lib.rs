//! Load for a server, and what it was like for those who sent it.
//!
//! ```text
//!   s3            what is sent: buckets, keys, presigned requests, what answers must be
//!    │
//!   load          when it is sent: slots, threads, open and closed loops, warm-up, the end
//!    ├── record   what came of it: latencies, bytes, errors by kind
//!    ├── timer    waits to the microsecond
//!    └── http     one connection: a request out, an answer in, nothing copied
//!   process       what it cost: CPU time and memory of server and client
//!   report        all of it for people, and as JSON
//! ```
//!
//! What must hold:
//! - With a rate, a latency counts from when the request was due, whether or not a slot was
//!   free to send it then. A request that was due and could not be sent counts with its wait.
//! - Everything that is sent again and again was prepared beforehand: the client's own work
//!   does not stand in the server's latency.
//! - Every answer's status and length are checked; a request that failed is never a latency,
//!   except one that timed out, which counts with the time it was waited for.
//! - The crate knows no server's insides, reads no environment, and writes to no terminal.

pub mod endpoint;
mod http;
pub mod limits;
pub mod load;
pub mod process;
mod record;
pub mod report;
pub mod s3;
pub mod sigv4;
mod stop;
mod timer;

pub use record::Latencies;
pub use stop::Stop;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options cannot be used; the sentence says which and what to do.
    #[error("{0}")]
    Usage(String),
    /// The server could not be used; the sentence says what happened and what to do.
    #[error("{0}")]
    Server(String),
    /// Something on this machine failed.
    #[error("{what}: {source}")]
    Local {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Stopped before anything was measured.
    #[error("stopped before anything was measured")]
    Stopped,
}

impl Error {
    pub(crate) fn local(what: impl Into<String>, source: impl Into<std::io::Error>) -> Error {
        Error::Local {
            what: what.into(),
            source: source.into(),
        }
    }
}
