//! `cullet`: command line, configuration, assembly and signals; nothing else.
//!
//! ```text
//!   main ──► cli ──► server ──► storage      disk → engine → volume → objects
//!                      │   ├──► memory       --memory, split
//!                      │   ├──► credentials  root key and master key, given or made once
//!                      │   ├──► keyring      opens and seals the secrets of access keys
//!                      │   ├──► admin        what `account` and `key` ask for
//!                      │   ├──► background   sweep and scrub
//!                      │   ├──► signals      the orderly end, and the other
//!                      │   ├──► tls          the certificate, read again when it changes
//!                      │   └──► connections  sockets in, hyper, slow clients, draining
//!                      │             ├──► stream  plain or TLS, HTTP/1.1 or HTTP/2
//!                      │             ├──► places  who makes room when there is none
//!                      │             └──► pages   /_cullet/health and /_cullet/metrics
//!                      ├──► manage       accounts and keys of a running server
//!                      ├──► rescue       disks without a server
//!                      └──► bench        load for any server
//! ```
//!
//! A library so that a test can run the same server on a disk of its own
//! ([`server::run_with`]).

pub mod access_log;
mod admin;
mod background;
pub mod bench;
mod certificate;
pub mod cli;
mod connections;
mod credentials;
mod disks;
mod http2;
mod keyring;
pub mod limits;
mod logging;
pub mod manage;
pub mod memory;
mod metrics;
mod pace;
mod pages;
mod places;
mod random;
mod redundancy;
mod refusals;
pub mod rescue;
mod sealing;
pub mod server;
mod signals;
mod size;
mod storage;
mod stream;
mod time_text;
mod tls;
mod trust;

pub use size::ByteSize;

/// A mistake in how the program was called: it ends with exit status 2, not 1.
#[derive(Debug)]
pub struct UsageError(String);

impl UsageError {
    /// An error with a sentence that says what to do.
    pub fn new(sentence: impl Into<String>) -> UsageError {
        UsageError(sentence.into())
    }
}

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}
