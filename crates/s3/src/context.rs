//! What is known about one request while it is served, and the one report at its end.

use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode};
use objects::AccountId;

use crate::body_in::BodyFailure;
use crate::budget::Reservation;
use crate::digest::Finished;
use crate::names::{fits_xml, percent_decode};

/// Told about each request once, when its answer has been sent or its client is gone.
pub trait Observer: Send + Sync + 'static {
    /// The request is over. Must not block.
    fn finished(&self, request: &RequestSummary<'_>);
}

/// One request, when it is over.
#[derive(Debug, Clone)]
pub struct RequestSummary<'a> {
    /// As in `x-amz-request-id`.
    pub request_id: &'a str,
    /// The operation's S3 name, or `Unknown` for what was refused before it was known.
    pub operation: &'static str,
    /// The HTTP method.
    pub method: &'a Method,
    /// The path as it was sent, with the bucket before it where the host named it.
    pub path: &'a str,
    /// The client's address, if known.
    pub peer: Option<SocketAddr>,
    /// Whose account signed the request; `None` until its signature was verified.
    pub account: Option<AccountId>,
    /// With which access key; `None` likewise.
    pub access_key_id: Option<&'a str>,
    /// The answer's status; `None` if the client left before there was one.
    pub status: Option<StatusCode>,
    /// Bytes of the request's body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were handed to the connection.
    pub bytes_out: u64,
    /// Until the answer's head was ready; `None` if the client left before.
    pub first_byte: Option<Duration>,
    /// Until the answer's end.
    pub duration: Duration,
    /// Whether the whole answer was handed to the connection.
    pub complete: bool,
}

/// One request. Shared between the front, the body it reads, the operation, and the body of
/// its answer; the last of them to go reports.
pub(crate) struct RequestContext {
    pub(crate) id: String,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) peer: Option<SocketAddr>,
    /// Whether path and query are without control characters.
    pub(crate) printable: bool,
    started: Instant,
    operation: OnceLock<&'static str>,
    caller: OnceLock<(AccountId, String)>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    status: AtomicU16,
    first_byte_us: AtomicU64,
    complete: AtomicBool,
    body_unread: AtomicBool,
    form_let_in: AtomicBool,
    bucket_in_host: bool,
    /// The client waits for a `100 Continue`, but has no body to send: it gets none.
    expects_in_vain: bool,
    late: Mutex<Late>,
    observer: Arc<dyn Observer>,
}

/// What is learned on the way.
#[derive(Default)]
struct Late {
    held: Vec<Reservation>,
    document: Option<Reservation>,
    body_failure: Option<BodyFailure>,
    body_digests: Option<Finished>,
}

impl RequestContext {
    pub(crate) fn new(
        request: &http::request::Parts,
        bucket_in_host: Option<&str>,
        peer: Option<SocketAddr>,
        observer: Arc<dyn Observer>,
    ) -> Arc<RequestContext> {
        Arc::new(RequestContext {
            id: new_request_id(),
            method: request.method.clone(),
            path: match bucket_in_host {
                Some(bucket) => format!("/{bucket}{}", request.uri.path()),
                None => request.uri.path().to_owned(),
            },
            peer,
            printable: printable(&request.uri),
            started: Instant::now(),
            operation: OnceLock::new(),
            caller: OnceLock::new(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            status: AtomicU16::new(0),
            first_byte_us: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            body_unread: AtomicBool::new(false),
            form_let_in: AtomicBool::new(false),
            bucket_in_host: bucket_in_host.is_some(),
            expects_in_vain: expects_in_vain(&request.headers),
            late: Mutex::new(Late::default()),
            observer,
        })
    }

    /// Names the operation; the first name stays.
    pub(crate) fn set_operation(&self, name: &'static str) {
        let _ = self.operation.set(name);
    }

    /// Says whose account signed the request, and with which key; the first stays.
    pub(crate) fn set_caller(&self, account: AccountId, access_key_id: &str) {
        let _ = self.caller.set((account, access_key_id.to_owned()));
    }

    pub(crate) fn caller(&self) -> Option<AccountId> {
        self.caller.get().map(|(account, _)| *account)
    }

    pub(crate) fn operation(&self) -> &'static str {
        self.operation.get().copied().unwrap_or("Unknown")
    }

    /// Keeps memory reserved until the request is over.
    pub(crate) fn hold(&self, reservation: Reservation) {
        self.late().held.push(reservation);
    }

    /// Keeps the memory of the request's document until it is over, or less is enough.
    pub(crate) fn hold_document(&self, reservation: Reservation) {
        self.late().document = Some(reservation);
    }

    /// Nothing of the document is left.
    pub(crate) fn release_document(&self) {
        self.late().document = None;
    }

    /// The document was parsed: what is left of it needs this much.
    pub(crate) fn shrink_document(&self, bytes: usize) {
        if let Some(reservation) = &mut self.late().document {
            reservation.shrink_to(bytes);
        }
    }

    pub(crate) fn add_bytes_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_bytes_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The answer's head is ready.
    pub(crate) fn set_answered(&self, status: StatusCode) {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.first_byte_us.store(elapsed, Ordering::Relaxed);
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// The whole answer was handed to the connection.
    pub(crate) fn set_complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    /// Whether a part of the request's body is still to be read.
    pub(crate) fn set_body_unread(&self, unread: bool) {
        self.body_unread.store(unread, Ordering::Relaxed);
    }

    /// The form's signature was verified, and its file is wanted.
    pub(crate) fn let_form_in(&self) {
        self.form_let_in.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_form_let_in(&self) -> bool {
        self.form_let_in.load(Ordering::Relaxed)
    }

    /// Whether the host names the bucket, so that the path is all key.
    pub(crate) fn is_bucket_in_host(&self) -> bool {
        self.bucket_in_host
    }

    /// Whether the connection cannot be trusted with another request. After a final answer
    /// where they waited for `100 Continue`, also to an empty body, botocore before 1.44 and
    /// `aws` with it take the status of the next answer for this one's.
    pub(crate) fn is_body_unread(&self) -> bool {
        self.expects_in_vain || self.body_unread.load(Ordering::Relaxed)
    }

    /// Remembers why reading the body failed; the first reason stays.
    pub(crate) fn set_body_failure(&self, failure: BodyFailure) {
        self.late().body_failure.get_or_insert(failure);
    }

    pub(crate) fn body_failure(&self) -> Option<BodyFailure> {
        self.late().body_failure
    }

    pub(crate) fn set_body_digests(&self, digests: Finished) {
        self.late().body_digests = Some(digests);
    }

    pub(crate) fn take_body_digests(&self) -> Option<Finished> {
        self.late().body_digests.take()
    }

    fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        let status = StatusCode::from_u16(*self.status.get_mut()).ok();
        let first_byte = Duration::from_micros(*self.first_byte_us.get_mut());
        self.observer.finished(&RequestSummary {
            request_id: &self.id,
            operation: self.operation(),
            method: &self.method,
            path: &self.path,
            peer: self.peer,
            account: self.caller(),
            access_key_id: self.caller.get().map(|(_, key)| key.as_str()),
            status,
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            first_byte: status.map(|_| first_byte),
            duration: self.started.elapsed(),
            complete: self.complete.load(Ordering::Relaxed),
        });
    }
}

/// Whether everything that a client sent in path and query can be sent back.
fn printable(uri: &http::Uri) -> bool {
    let text = uri.path_and_query().map_or("", |text| text.as_str());
    if is_plain(text.as_bytes()) {
        return true;
    }
    // What is not UTF-8 is refused before it is shown.
    percent_decode(text).is_none_or(|text| fits_xml(&text) && !text.contains(char::is_control))
}

/// Whether text is printable ASCII, escaped or not: nearly every request's is.
fn is_plain(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        let decoded = match byte {
            b'%' => match (bytes.next(), bytes.next()) {
                // The two halves of each escape up to ~ but for those of control characters.
                (Some(b'2'..=b'6'), Some(_)) => byte,
                (Some(b'7'), Some(low)) if !low.eq_ignore_ascii_case(&b'f') => byte,
                _ => return false,
            },
            byte => byte,
        };
        if !(b' '..=b'~').contains(&decoded) {
            return false;
        }
    }
    true
}

/// Whether a client waits for leave to send a body of no bytes. HTTP lets a server answer that
/// at once, and hyper does.
fn expects_in_vain(headers: &HeaderMap) -> bool {
    let expects = headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let length = headers.get(CONTENT_LENGTH);
    expects
        && !headers.contains_key(TRANSFER_ENCODING)
        && length.is_none_or(|length| length.as_bytes().iter().all(|&digit| digit == b'0'))
}

/// Sixteen characters, unique within a process and, but for chance, among processes.
pub fn new_request_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "{:016X}",
        mix(process_seed() ^ NEXT.fetch_add(1, Ordering::Relaxed))
    )
}

/// Names this process in `x-amz-id-2`.
pub fn host_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| format!("cullet-{:016x}", mix(!process_seed())))
}

fn process_seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        hasher.finish()
    })
}

/// A bijection of 64 bits that spreads neighbours far apart (the finaliser of MurmurHash3).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_sixteen_characters_and_differ() {
        let ids: std::collections::HashSet<String> = (0..1_000).map(|_| new_request_id()).collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| id.len() == 16));
    }
}
