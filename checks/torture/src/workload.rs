//! What one client does, and what it checks of every answer.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench::sigv4::hex;
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::findings::{self, Kind};
use crate::history::{Content, Effect, Operation};
use crate::http::Answer;
use crate::random::Random;
use crate::s3::{Client, Failure, Listing};
use crate::server::credentials;
use crate::torture::{ANSWER_TIMEOUT, BUCKET, HOT_KEYS, Shared, count};

/// Sizes at which something in the server changes its mind.
const EDGES: [u64; 5] = [4 << 10, 8 << 10, 64 << 10, 256 << 10, 1 << 20];

/// What a reader got.
#[derive(Debug)]
enum Seen {
    Nothing,
    Object { id: u64, content: Content },
}

/// One client of one round.
pub struct Worker<'a> {
    shared: &'a Shared,
    client: Client,
    seed: u64,
    random: Random,
}

impl<'a> Worker<'a> {
    pub fn new(shared: &'a Shared, address: &str, seed: u64, random: Random) -> Worker<'a> {
        let client = Client::new(address, &credentials(), ANSWER_TIMEOUT);
        Worker {
            shared,
            client,
            seed,
            random,
        }
    }

    /// Loads the server until it goes down.
    pub fn work(&mut self) {
        while !self.shared.is_down() && !self.shared.has_findings() {
            let key = self.choose_key();
            let went_well = match self.random.below(100) {
                0..=44 => self.put(key, false),
                45..=49 => self.put(key, true),
                50..=66 => self.delete(key),
                67..=86 => self.get(key),
                87..=91 => self.get_range(key),
                92..=95 => self.list(),
                _ => self.put_half(key),
            };
            if !went_well {
                return;
            }
        }
    }

    fn choose_key(&mut self) -> usize {
        let all = self.shared.keys.len() as u64;
        let hot = HOT_KEYS as u64;
        let key = if self.random.one_in(4) {
            hot + self.random.below(all - hot)
        } else {
            self.random.below(hot)
        };
        key as usize
    }

    fn choose_size(&mut self) -> u64 {
        match self.random.below(100) {
            0..=4 => 0,
            5..=14 => 1 + self.random.below(64),
            15..=44 => self.random.below(8 << 10),
            45..=54 => {
                let edge = EDGES[self.random.below(EDGES.len() as u64) as usize];
                edge - 1 + self.random.below(3)
            }
            55..=84 => self.random.below(64 << 10),
            85..=96 => self.random.below(1 << 20),
            _ => self.random.below(4 << 20),
        }
    }

    fn body(&self, id: u64, size: u64) -> Vec<u8> {
        let mut body = vec![0; size as usize];
        Random::of(self.seed, id).fill(&mut body);
        body
    }

    fn put(&mut self, key: usize, only_if_absent: bool) -> bool {
        let id = self.shared.history.next_id();
        let size = self.choose_size();
        let body = self.body(id, size);
        let content = content_of(&body);
        let from = self.shared.history.now();
        let effect = Effect::Present(content.clone());
        if only_if_absent {
            self.shared.history.begin_if_absent(key, id, effect);
        } else {
            self.shared.history.begin(key, id, effect);
        }
        let number = id.to_string();
        let mut headers = vec![("x-amz-meta-op", number.as_str())];
        if only_if_absent {
            headers.push(("if-none-match", "*"));
        }
        let name = &self.shared.keys[key];
        let begun = Instant::now();
        let outcome = self.client.put(BUCKET, name, &headers, &body);
        match outcome {
            Ok(etag) => {
                if etag != content.etag {
                    self.shared.finding(
                        Kind::Other,
                        format!(
                            "PUT {name}: ETag {etag}, the body's MD5 is {}",
                            content.etag
                        ),
                    );
                }
                if only_if_absent {
                    self.check(key, from, &Seen::Nothing, "PUT with If-None-Match");
                }
                self.shared.history.acknowledged(key, id);
                if only_if_absent {
                    self.check_winners(key);
                }
                count(&self.shared.counts.puts);
                true
            }
            Err(Failure::Refused { status: 412, .. }) if only_if_absent => {
                self.shared.history.refused(key, id);
                self.check_was_present(key, from);
                true
            }
            Err(failure) => {
                let what = format!(
                    "PUT of {size} bytes{}, after {:?}, to",
                    if only_if_absent { " if absent" } else { "" },
                    begun.elapsed()
                );
                self.failed(key, Some(id), &what, failure)
            }
        }
    }

    fn delete(&mut self, key: usize) -> bool {
        let id = self.shared.history.next_id();
        self.shared.history.begin(key, id, Effect::Absent);
        match self.client.delete(BUCKET, &self.shared.keys[key]) {
            Ok(()) => {
                self.shared.history.acknowledged(key, id);
                count(&self.shared.counts.deletes);
                true
            }
            Err(failure) => self.failed(key, Some(id), "DELETE", failure),
        }
    }

    /// A body that is never sent to its end must never be seen.
    fn put_half(&mut self, key: usize) -> bool {
        let id = self.shared.history.next_id();
        let size = 1 + self.choose_size();
        let body = self.body(id, size);
        let sent = self.random.below(size) as usize;
        let name = &self.shared.keys[key];
        let outcome = self
            .client
            .put_half(BUCKET, name, &id.to_string(), &body, sent);
        count(&self.shared.counts.half_sent);
        // A server may answer and close before it has taken all of it.
        let closed = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            )
        };
        match outcome {
            Err(error) if !closed(&error) => {
                self.failed(key, None, "half a PUT", Failure::Broken(error))
            }
            _ => true,
        }
    }

    fn get(&mut self, key: usize) -> bool {
        match self.read(key, "GET") {
            Ok(_) => {
                count(&self.shared.counts.reads);
                true
            }
            Err(failure) => self.failed(key, None, "GET", failure),
        }
    }

    fn get_range(&mut self, key: usize) -> bool {
        let first = self.random.below(80 << 10);
        let last = first + self.random.below(80 << 10);
        let name = &self.shared.keys[key];
        let from = self.shared.history.now();
        match self
            .client
            .get(BUCKET, name, Some(&format!("bytes={first}-{last}")))
        {
            Ok(Some(answer)) => {
                count(&self.shared.counts.reads);
                self.check_range(key, from, first, &answer);
                true
            }
            Ok(None) => {
                self.check(key, from, &Seen::Nothing, "GET of a range of");
                true
            }
            Err(Failure::Refused { status: 416, .. }) => {
                let to = self.shared.history.now();
                let visible = self.shared.history.visible(key, from, to);
                if !may_be_past_the_end(&visible, first) {
                    self.shared.finding(
                        Kind::Data,
                        format!(
                            "GET of a range of {name}: 416 for byte {first}; possible: {}",
                            described(&visible)
                        ),
                    );
                }
                true
            }
            Err(failure) => self.failed(key, None, "GET of a range", failure),
        }
    }

    /// The bytes of a range are those of the operation that the metadata name, which must be
    /// one that may be seen.
    fn check_range(&self, key: usize, from: u64, first: u64, answer: &Answer) {
        let name = &self.shared.keys[key];
        let to = self.shared.history.now();
        let visible = self.shared.history.visible(key, from, to);
        let total = answer
            .header("content-range")
            .and_then(|range| range.rsplit('/').next())
            .and_then(|total| total.parse().ok());
        let (Some(id), Some(total)) = (operation_of(answer), total) else {
            let text = format!(
                "GET {name}: a range without its operation or length: {:?}",
                answer.headers
            );
            return self.shared.finding(Kind::Other, text);
        };
        if !may_be_read(&visible, id, total) {
            return self.shared.finding(
                Kind::Data,
                format!(
                    "GET of a range of {name}: saw operation {id}, {total} bytes; possible: {}",
                    described(&visible)
                ),
            );
        }
        self.shared
            .history
            .saw(key, from, to, |operation| operation.id == id);
        let body = self.body(id, total);
        let first = first as usize;
        let expected = body.get(first..first + answer.body.len());
        if answer.status != 206 || expected != Some(&answer.body[..]) {
            self.shared.finding(
                Kind::Data,
                format!(
                    "GET {name}: status {} and wrong bytes in {:?} of operation {id}",
                    answer.status,
                    answer.header("content-range")
                ),
            );
        }
    }

    fn list(&mut self) -> bool {
        let prefix = ["", "hot/", "cold/", "cold/3/", "none/"][self.random.below(5) as usize];
        let delimiter = if self.random.one_in(2) { "/" } else { "" };
        let page = 1 + self.random.below(60) as u32;
        match self.check_listing(prefix, delimiter, page) {
            Ok(()) => {
                count(&self.shared.counts.listings);
                true
            }
            Err(failure) => self.failed(0, None, "listing", failure),
        }
    }

    /// After a restart, with nothing else going on: what is seen now is what happened.
    pub fn verify(&mut self, key: usize) {
        let name = &self.shared.keys[key];
        match self.read(key, "GET after the restart,") {
            Ok(seen) => {
                count(&self.shared.counts.verified);
                let id = match seen {
                    Seen::Object { id, content } => {
                        self.shared
                            .counts
                            .verified_bytes
                            .fetch_add(content.size, Ordering::Relaxed);
                        Some(id)
                    }
                    Seen::Nothing => {
                        let now = self.shared.history.now();
                        let visible = self.shared.history.visible(key, now, now);
                        visible
                            .iter()
                            .find(|one| one.effect == Effect::Absent)
                            .map(|one| one.id)
                    }
                };
                if let Some(id) = id.filter(|_| !self.shared.has_findings()) {
                    self.shared.history.settle(key, id);
                }
            }
            Err(failure) => {
                self.shared.finding(
                    findings::of_failure(&failure),
                    format!("GET {name} after the restart: {failure:?}"),
                );
            }
        }
    }

    pub fn verify_listings(&mut self) {
        for (prefix, delimiter, page) in [
            ("", "", 1000),
            ("", "/", 7),
            ("cold/", "/", 2),
            ("cold/", "", 100),
            ("hot/", "", 13),
        ] {
            match self.check_listing(prefix, delimiter, page) {
                Ok(()) => count(&self.shared.counts.listings),
                Err(failure) => self.shared.finding(
                    findings::of_failure(&failure),
                    format!("listing after the restart: {failure:?}"),
                ),
            }
        }
    }

    fn read(&mut self, key: usize, what: &str) -> Result<Seen, Failure> {
        let from = self.shared.history.now();
        let answer = self.client.get(BUCKET, &self.shared.keys[key], None)?;
        let seen = match answer {
            None => Seen::Nothing,
            Some(answer) => {
                let mut content = content_of(&answer.body);
                content.etag = answer
                    .header("etag")
                    .unwrap_or_default()
                    .trim_matches('"')
                    .to_owned();
                Seen::Object {
                    id: operation_of(&answer).unwrap_or(u64::MAX),
                    content,
                }
            }
        };
        self.check(key, from, &seen, what);
        Ok(seen)
    }

    /// What was seen between `from` and now must have been possible.
    fn check(&self, key: usize, from: u64, seen: &Seen, what: &str) {
        let to = self.shared.history.now();
        let visible = self.shared.history.visible(key, from, to);
        let fits = |operation: &Operation| match (seen, &operation.effect) {
            (Seen::Nothing, effect) => *effect == Effect::Absent,
            (Seen::Object { id, content }, Effect::Present(expected)) => {
                operation.id == *id && content == expected
            }
            (Seen::Object { .. }, Effect::Absent) => false,
        };
        if visible.iter().any(fits) {
            self.shared.history.saw(key, from, to, fits);
        } else {
            let name = &self.shared.keys[key];
            let seen = match seen {
                Seen::Nothing => "nothing".to_owned(),
                Seen::Object { id, content } => {
                    format!(
                        "operation {id}, {} bytes, ETag {}",
                        content.size, content.etag
                    )
                }
            };
            self.shared.finding(
                Kind::Data,
                format!(
                    "{what} {name}: saw {seen}; possible: {}",
                    described(&visible)
                ),
            );
        }
    }

    /// Of the writers who were told that nothing had been there, each but the first needs a
    /// delete before it.
    fn check_winners(&self, key: usize) {
        if let Some(winners) = self.shared.history.impossible_winners(key) {
            let name = &self.shared.keys[key];
            self.shared.finding(
                Kind::Data,
                format!(
                    "PUT {name} with If-None-Match succeeded {} times, with too few deletes \
                     between: {}",
                    winners.len(),
                    described(&winners)
                ),
            );
        }
    }

    fn check_was_present(&self, key: usize, from: u64) {
        let visible = self
            .shared
            .history
            .visible(key, from, self.shared.history.now());
        if visible
            .iter()
            .all(|operation| operation.effect == Effect::Absent)
        {
            let name = &self.shared.keys[key];
            self.shared.finding(
                Kind::Data,
                format!("PUT {name} with If-None-Match got 412, but there was nothing"),
            );
        }
    }

    fn check_listing(&mut self, prefix: &str, delimiter: &str, page: u32) -> Result<(), Failure> {
        let from = self.shared.history.now();
        let listing = self.client.list(BUCKET, prefix, delimiter, page)?;
        let to = self.shared.history.now();
        let how = format!("prefix {prefix:?}, delimiter {delimiter:?}, {page} a page");
        if !is_in_order(&listing) {
            self.shared.finding(
                Kind::Other,
                format!("listing ({how}): the keys are not in order, or one stands there twice"),
            );
            return Ok(());
        }
        let wrong = wrong_in_listing(self.shared, prefix, delimiter, &listing, from, to);
        if let Some(wrong) = wrong {
            self.shared
                .finding(Kind::Data, format!("listing ({how}): {wrong}"));
        }
        Ok(())
    }

    /// Sorts out a failure; returns whether the client goes on.
    fn failed(&self, key: usize, id: Option<u64>, what: &str, failure: Failure) -> bool {
        let name = &self.shared.keys[key];
        let kind = findings::of_failure(&failure);
        match failure {
            Failure::Broken(_) if self.shared.is_down() => {
                count(&self.shared.counts.unacknowledged);
                false
            }
            Failure::Broken(error) => {
                self.shared.finding(
                    Kind::Other,
                    format!("{what} {name}: {error}, while the server was up"),
                );
                false
            }
            Failure::Refused { status, code, .. } if status == 503 || status == 507 => {
                let counts = &self.shared.counts;
                count(if status == 503 {
                    &counts.busy
                } else {
                    &counts.full
                });
                if !matches!(code.as_str(), "SlowDown" | "InsufficientStorage") {
                    self.shared.finding(
                        Kind::Other,
                        format!("{what} {name}: {status} with the code {code:?}"),
                    );
                }
                if let Some(id) = id {
                    self.shared.history.refused(key, id);
                    // It may have been the delete that explained them.
                    self.check_winners(key);
                }
                std::thread::sleep(Duration::from_millis(20));
                true
            }
            Failure::Refused {
                status,
                code,
                message,
            } => {
                self.shared
                    .finding(kind, format!("{what} {name}: {status} {code}: {message}"));
                false
            }
        }
    }
}

fn content_of(body: &[u8]) -> Content {
    Content {
        size: body.len() as u64,
        sha256: Sha256::digest(body).into(),
        etag: hex(&Md5::digest(body)),
    }
}

fn operation_of(answer: &Answer) -> Option<u64> {
    answer
        .header("x-amz-meta-op")
        .and_then(|value| value.parse().ok())
}

/// Whether an object of `id` with `total` bytes is one of the possible states.
fn may_be_read(visible: &[Operation], id: u64, total: u64) -> bool {
    visible.iter().any(|operation| {
        operation.id == id
            && matches!(&operation.effect, Effect::Present(content) if content.size == total)
    })
}

/// Whether there may be no byte at `first`.
fn may_be_past_the_end(visible: &[Operation], first: u64) -> bool {
    visible.iter().any(|operation| match &operation.effect {
        Effect::Present(content) => content.size <= first,
        Effect::Absent => true,
    })
}

fn described(operations: &[Operation]) -> String {
    let one = |operation: &Operation| match &operation.effect {
        Effect::Absent => format!("operation {}, nothing", operation.id),
        Effect::Present(content) => format!("operation {}, {} bytes", operation.id, content.size),
    };
    operations.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn is_in_order(listing: &Listing) -> bool {
    let objects = &listing.objects;
    objects.is_sorted_by(|one, next| one.key < next.key)
        && listing.common_prefixes.is_sorted_by(|one, next| one < next)
}

/// The first thing that is wrong with what a listing in order shows, if any: a key or common
/// prefix that must not be there, one that is missing, a wrong size or ETag.
fn wrong_in_listing(
    shared: &Shared,
    prefix: &str,
    delimiter: &str,
    listing: &Listing,
    from: u64,
    to: u64,
) -> Option<String> {
    let mut prefixes_needed = std::collections::BTreeSet::new();
    let mut prefixes_possible = std::collections::BTreeSet::new();
    let mut known = 0;
    for (number, key) in shared.keys.iter().enumerate() {
        let Some(rest) = key.strip_prefix(prefix) else {
            continue;
        };
        let visible = shared.history.visible(number, from, to);
        let absent = visible
            .iter()
            .any(|operation| operation.effect == Effect::Absent);
        let present = visible
            .iter()
            .any(|operation| operation.effect != Effect::Absent);
        if let Some((group, _)) = rest.split_once('/').filter(|_| !delimiter.is_empty()) {
            let common = format!("{prefix}{group}/");
            if present {
                prefixes_possible.insert(common.clone());
            }
            if !absent {
                prefixes_needed.insert(common);
            }
            continue;
        }
        match listing
            .objects
            .binary_search_by(|object| object.key.cmp(key))
        {
            Ok(place) => {
                known += 1;
                let object = &listing.objects[place];
                let fits = visible.iter().any(|operation| match &operation.effect {
                    Effect::Present(content) => {
                        content.size == object.size && content.etag == object.etag
                    }
                    Effect::Absent => false,
                });
                if !fits {
                    return Some(format!("{object:?}; possible: {}", described(&visible)));
                }
            }
            Err(_) if !absent => {
                return Some(format!(
                    "{key} is missing; possible: {}",
                    described(&visible)
                ));
            }
            Err(_) => {}
        }
    }
    if known != listing.objects.len() {
        return Some("there are keys that nobody wrote".to_owned());
    }
    let found: std::collections::BTreeSet<String> =
        listing.common_prefixes.iter().cloned().collect();
    if !found.is_subset(&prefixes_possible) || !prefixes_needed.is_subset(&found) {
        return Some(format!(
            "common prefixes {found:?}, needed {prefixes_needed:?}"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;

    #[test]
    fn a_range_is_judged_by_what_is_visible() {
        let history = History::new(1);
        history.begin(0, 1, Effect::Present(content_of(&[1; 10])));
        history.acknowledged(0, 1);
        history.begin(0, 2, Effect::Present(content_of(&[2; 20])));
        history.acknowledged(0, 2);
        let now = history.now();
        let visible = history.visible(0, now, now);
        assert!(may_be_read(&visible, 2, 20));
        assert!(!may_be_read(&visible, 2, 19), "cut short");
        assert!(!may_be_read(&visible, 1, 10), "overwritten");
        assert!(!may_be_past_the_end(&visible, 19));
        assert!(may_be_past_the_end(&visible, 20));
    }
}
