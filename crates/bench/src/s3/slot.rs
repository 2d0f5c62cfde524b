//! What one slot sends, request after request, and what each answer must be.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::http::Payload;
use crate::limits::{ATTEMPT_PAUSE, ATTEMPTS_MAX, PAGE_KEYS};
use crate::load::{Step, Work};
use crate::record::{Done, Failed};
use crate::s3::body::{Body, Random};
use crate::s3::exchange::{Exchange, Expected};
use crate::s3::failure::{Failure, element};
use crate::s3::requests::{Requests, Target};

/// What all slots of a load do together.
pub(crate) enum Task {
    /// Writes every object once.
    Fill(Requests),
    /// Writes objects in order, over and over.
    Put(Requests),
    /// Reads objects at random.
    Get(Requests),
    /// Reads and writes objects at random, at a fixed ratio.
    Mixed { get: Requests, put: Requests },
    /// Deletes every object once.
    Delete(Requests),
    /// Walks over the whole key space, page after page.
    List,
}

/// Of 100 requests of a mixed load, how many read.
pub(crate) const MIXED_READS: u64 = 70;

impl Task {
    /// Names of the kinds of requests that are told apart.
    pub(crate) fn series(&self) -> &'static [&'static str] {
        match self {
            Task::Fill(_) | Task::Put(_) => &["put"],
            Task::Get(_) => &["get"],
            Task::Mixed { .. } => &["get", "put"],
            Task::Delete(_) => &["delete"],
            Task::List => &["first page", "pages between", "last page"],
        }
    }
}

/// What the slots share.
pub(crate) struct Shared {
    pub(crate) target: Arc<Target>,
    pub(crate) task: Task,
    pub(crate) body: Arc<Body>,
    /// Objects are numbered below this.
    pub(crate) objects: u64,
    /// The next object of tasks that go in order.
    pub(crate) next: AtomicU64,
    /// Whether bytes are compared.
    pub(crate) verify: bool,
    /// Whether a walk must find exactly the objects.
    pub(crate) counts_keys: bool,
    /// Whether what the server could not take now is tried again.
    pub(crate) persistent: bool,
    /// The first failure, for its explanation.
    pub(crate) first_failure: Mutex<Option<Failure>>,
}

/// One slot.
pub(crate) struct Slot {
    shared: Arc<Shared>,
    exchange: Exchange,
    random: Random,
    walk: Walk,
}

/// How far a walk over the key space is.
#[derive(Default)]
struct Walk {
    token: Option<String>,
    keys: u64,
}

impl Slot {
    pub(crate) fn new(shared: Arc<Shared>, exchange: Exchange, number: u64) -> Slot {
        Slot {
            shared,
            exchange,
            random: Random::new(number),
            walk: Walk::default(),
        }
    }

    async fn put(&mut self, requests: &Requests, number: u64) -> Result<u64, Failure> {
        let body = Arc::clone(&self.shared.body);
        requests.write(number, &mut self.exchange.request);
        body.write_stamp(number, &mut self.exchange.request);
        let payload = body.payload();
        self.exchange.carry(payload, Expected::Anything).await?;
        Ok(body.size())
    }

    async fn get(&mut self, requests: &Requests, number: u64) -> Result<u64, Failure> {
        let body = Arc::clone(&self.shared.body);
        requests.write(number, &mut self.exchange.request);
        let expected = if self.shared.verify {
            Expected::Object(&body, number)
        } else {
            Expected::Length(body.size())
        };
        self.exchange.carry(Payload::NONE, expected).await
    }

    async fn delete(&mut self, requests: &Requests, number: u64) -> Result<u64, Failure> {
        requests.write(number, &mut self.exchange.request);
        let carried = self.exchange.carry(Payload::NONE, Expected::Anything);
        carried.await.map(|_| 0)
    }

    /// Puts or deletes one object, again if the server could not take it now.
    async fn change(
        &mut self,
        requests: &Requests,
        number: u64,
        delete: bool,
    ) -> Result<u64, Failure> {
        let mut pause = ATTEMPT_PAUSE;
        for _ in 1..ATTEMPTS_MAX {
            let result = if delete {
                self.delete(requests, number).await
            } else {
                self.put(requests, number).await
            };
            match result {
                Err(failure) if self.shared.persistent && failure.is_passing() => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
        if delete {
            self.delete(requests, number).await
        } else {
            self.put(requests, number).await
        }
    }

    /// The next page. Returns which part of the walk it was, and its bytes and keys.
    async fn page(&mut self) -> (usize, Result<(u64, u64), Failure>) {
        let shared = Arc::clone(&self.shared);
        let mut query = vec![("list-type", "2"), ("max-keys", PAGE_KEYS_TEXT)];
        if !shared.target.prefix.is_empty() {
            query.push(("prefix", &shared.target.prefix));
        }
        let first = self.walk.token.is_none();
        if let Some(token) = &self.walk.token {
            query.push(("continuation-token", token));
        }
        // The token of a page is not known before: this request alone is signed as it is sent,
        // which takes microseconds where a page takes hundreds.
        let request = &mut self.exchange.request;
        shared.target.write_bucket_request("GET", &query, request);
        let carried = self.exchange.carry(Payload::NONE, Expected::Document);
        let bytes = match carried.await {
            Ok(bytes) => bytes,
            Err(failure) => {
                self.walk = Walk::default();
                return (if first { 0 } else { 1 }, Err(failure));
            }
        };
        let page = Page::read(&self.exchange.document);
        self.walk.keys += page.keys;
        let last = page.next.is_none();
        let series = match (first, last) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        self.walk.token = page.next;
        let mut result = Ok((bytes, page.keys));
        if page.keys == 0 && !last {
            result = Err(Failure::Listing("a page without keys".to_owned()));
        } else if last {
            let found = std::mem::take(&mut self.walk).keys;
            if shared.counts_keys && found != shared.objects {
                result = Err(Failure::Listing(format!(
                    "a listing of {found} keys instead of {}",
                    shared.objects
                )));
            }
        }
        if result.is_err() {
            self.walk = Walk::default();
        }
        (series, result)
    }
}

impl Work for Slot {
    async fn open(&mut self) {
        self.exchange.open().await;
    }

    async fn perform(&mut self) -> Step {
        let shared = Arc::clone(&self.shared);
        let objects = shared.objects;
        let mut series = 0;
        let mut items = 1;
        let result = match &shared.task {
            Task::Fill(requests) | Task::Delete(requests) => {
                let number = shared.next.fetch_add(1, Ordering::Relaxed);
                if number >= objects {
                    return Step::Exhausted;
                }
                let delete = matches!(shared.task, Task::Delete(_));
                self.change(requests, number, delete).await
            }
            Task::Put(requests) => {
                let number = shared.next.fetch_add(1, Ordering::Relaxed);
                self.put(requests, number % objects).await
            }
            Task::Get(requests) => {
                let number = self.random.below(objects);
                self.get(requests, number).await
            }
            Task::Mixed { get, put } => {
                let number = self.random.below(objects);
                if self.random.below(100) < MIXED_READS {
                    self.get(get, number).await
                } else {
                    series = 1;
                    self.put(put, number).await
                }
            }
            Task::List => {
                let (part, result) = self.page().await;
                series = part;
                result.map(|(bytes, keys)| {
                    items = keys;
                    bytes
                })
            }
        };
        match result {
            Ok(bytes) => Step::Done(Done {
                series,
                bytes,
                items,
            }),
            Err(failure) => {
                let step = Step::Failed(Failed {
                    series,
                    kind: failure.kind(),
                    timed_out: matches!(failure, Failure::TimedOut),
                });
                if let Ok(mut first) = shared.first_failure.lock() {
                    first.get_or_insert(failure);
                }
                step
            }
        }
    }
}

const PAGE_KEYS_TEXT: &str = "1000";
const _: () = assert!(PAGE_KEYS == 1_000);

/// What a page of a listing says.
struct Page {
    keys: u64,
    /// Where the next one goes on; `None` if there is none.
    next: Option<String>,
}

impl Page {
    fn read(document: &[u8]) -> Page {
        let keys = memchr::memmem::find_iter(document, b"<Key>").count() as u64;
        let find = |tag: &[u8]| memchr::memmem::find(document, tag);
        let next = find(b"<IsTruncated>true<")
            .and_then(|_| find(b"<NextContinuationToken>"))
            .and_then(|at| {
                let text = String::from_utf8_lossy(&document[at..]);
                element(&text, "NextContinuationToken")
            });
        Page { keys, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read() {
        let page = Page::read(
            b"<L><IsTruncated>true</IsTruncated><Contents><Key>a</Key></Contents><Contents><Key>b</Key>\
              </Contents><NextContinuationToken>x&amp;y=</NextContinuationToken></L>",
        );
        assert_eq!((page.keys, page.next.as_deref()), (2, Some("x&y=")));
        let page = Page::read(b"<L><IsTruncated>false</IsTruncated></L>");
        assert_eq!((page.keys, page.next), (0, None));
    }
}
