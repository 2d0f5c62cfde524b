//! `s3`: the S3 protocol over [`objects`]. Protocol in, protocol out.
//!
//! ```text
//!   hyper ──► Front ──► s3s ──► Gate ──► Door ──► objects
//!             │         │       │        └ one file per verb
//!             │         │       └ after the signature: session tokens, what is not there yet,
//!             │         │         memory for XML bodies
//!             │         └ signatures, routing, XML
//!             └ before the signature: request id, credential scope, refusals, body limits;
//!               after the answer: ids on every error, counts, one report per request;
//!               a plain read goes from here to objects by itself (`plain_read`)
//! ```
//!
//! What must always hold:
//! - no request reaches an operation without a verified SigV4 signature;
//! - a request that asks for something that is not there yet is refused, never half done;
//! - whatever a client declares about its body (length, MD5, SHA-256, checksums) is verified
//!   before the object is committed;
//! - the memory that a body needs is reserved from a [`MemoryBudget`] before the first byte of
//!   it is read, and given back when the answer has been sent or the client is gone.
//!
//! The types of `s3s` stay inside this crate. It must not know disks.

mod access;
mod algorithms;
mod attributes;
mod body_in;
mod body_out;
mod buckets;
mod budget;
mod checksums;
mod complete_upload;
mod conditions;
mod context;
mod copy;
mod create_upload;
mod delete;
mod delete_many;
mod digest;
mod document;
mod door;
mod errors;
mod form_head;
mod framing;
mod front;
mod get;
mod head;
mod host;
pub mod limits;
mod list;
mod list_versions;
mod missing;
mod names;
mod pace;
mod plain_read;
mod post_object;
mod put;
mod query_headers;
mod read_head;
mod refuse;
mod routes;
mod scope;
mod settings;
mod signing_keys;
mod unsupported;
mod upload_part;
mod uploads;
mod view;

pub use body_out::FrontBody;
pub use budget::{MemoryBudget, Overloaded, Reservation};
pub use context::{Observer, RequestSummary, host_id, new_request_id};
pub use front::{Budgets, Credentials, Front, FrontOptions};
pub use host::check_domains;
pub use pace::Pace;
pub use routes::{Admin, AdminAnswer, AdminRequest};
