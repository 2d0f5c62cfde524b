//! Making one replica of the metadata what another one is, key by key.
//!
//! Whoever calls this sees to it that nobody changes these keys meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use shardstore::{Batch, Engine, Found, Key, Read, Snapshot};

use crate::Result;
use crate::limits::{COPY_BATCH_BYTES, COPY_ENTRIES};
use crate::mirror::{ring_keys, ring_range};

/// The keys that may differ after batches were under way: those of the places where two rings
/// differ, and these places themselves, last.
pub(crate) fn ring_differences(truth: &Engine, other: &Engine) -> Result<Vec<Key>> {
    let (ours, theirs) = (ring_of(truth)?, ring_of(other)?);
    let (mut keys, mut places) = (BTreeSet::new(), Vec::new());
    for place in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let (one, two) = (ours.get(place), theirs.get(place));
        if one == two {
            continue;
        }
        for value in one.into_iter().chain(two) {
            // One that cannot be read names nothing: no batch of any release has such.
            keys.extend(ring_keys(value).unwrap_or_default());
        }
        places.push(Key::plain(place.as_slice()));
    }
    Ok(keys.into_iter().chain(places).collect())
}

fn ring_of(engine: &Engine) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let snapshot = engine.snapshot();
    let (mut from, to) = ring_range();
    let mut ring = BTreeMap::new();
    loop {
        let page = snapshot.scan(&from, &to, COPY_ENTRIES, Read::Blocking)?;
        let entries = page.entries.iter();
        ring.extend(entries.map(|found| (found.key().to_vec(), found.value().to_vec())));
        match page.next {
            Some(next) => from = next,
            None => return Ok(ring),
        }
    }
}

/// Has `other` have what `truth` has under each key; durable when this returns. Says how many
/// differed.
pub(crate) fn copy_keys(truth: &Engine, other: &Engine, keys: &[Key]) -> Result<usize> {
    let (ours, theirs) = (truth.snapshot(), other.snapshot());
    let mut copier = Copier::new(other);
    for key in keys {
        let one = ours.get(key, Read::Blocking)?;
        let two = theirs.get(key, Read::Blocking)?;
        copier.settle(&ours, one.as_ref(), two.as_ref())?;
    }
    copier.finish()
}

/// Has `other` have what `truth` has from a key on, up to a number of entries and below `to`;
/// durable when this returns. Says how many differed, and where it goes on.
pub(crate) fn copy_range(truth: &Engine, other: &Engine, from: &[u8], to: &[u8]) -> Result<usize> {
    let (ours, theirs) = (truth.snapshot(), other.snapshot());
    let (mut left, mut right) = (Walk::new(&ours, from, to), Walk::new(&theirs, from, to));
    let mut copier = Copier::new(other);
    let (mut one, mut two) = (left.next()?, right.next()?);
    loop {
        let order = match (&one, &two) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(one), Some(two)) => one.key().cmp(two.key()),
        };
        let ours_now = one.take_if(|_| order.is_le());
        let theirs_now = two.take_if(|_| order.is_ge());
        copier.settle(&ours, ours_now.as_ref(), theirs_now.as_ref())?;
        if order.is_le() {
            one = left.next()?;
        }
        if order.is_ge() {
            two = right.next()?;
        }
    }
    copier.finish()
}

/// Where a range of at most so many entries of the truth ends: below `to`, and behind `from`.
pub(crate) fn range_end(truth: &Engine, from: &[u8], to: &[u8]) -> Result<Vec<u8>> {
    let page = truth
        .snapshot()
        .scan(from, to, COPY_ENTRIES, Read::Blocking)?;
    Ok(page.next.unwrap_or_else(|| to.to_vec()))
}

/// A walk over a range, a page at a time.
struct Walk<'a> {
    snapshot: &'a Snapshot,
    page: std::vec::IntoIter<Found>,
    next: Option<Vec<u8>>,
    to: &'a [u8],
}

impl<'a> Walk<'a> {
    fn new(snapshot: &'a Snapshot, from: &[u8], to: &'a [u8]) -> Walk<'a> {
        Walk {
            snapshot,
            page: Vec::new().into_iter(),
            next: Some(from.to_vec()),
            to,
        }
    }

    fn next(&mut self) -> Result<Option<Found>> {
        loop {
            if let Some(found) = self.page.next() {
                return Ok(Some(found));
            }
            let Some(from) = self.next.take() else {
                return Ok(None);
            };
            let page = self
                .snapshot
                .scan(&from, self.to, COPY_ENTRIES, Read::Blocking)?;
            (self.page, self.next) = (page.entries.into_iter(), page.next);
        }
    }
}

/// Collects what differs, and writes it in batches.
struct Copier<'a> {
    other: &'a Engine,
    batch: Batch,
    bytes: usize,
    count: usize,
    differed: usize,
}

impl<'a> Copier<'a> {
    fn new(other: &'a Engine) -> Copier<'a> {
        Copier {
            other,
            batch: Batch::new(),
            bytes: 0,
            count: 0,
            differed: 0,
        }
    }

    /// Keys are never put twice with the same value and another payload, so that values and
    /// lengths say enough.
    fn settle(&mut self, ours: &Snapshot, one: Option<&Found>, two: Option<&Found>) -> Result<()> {
        let same = |(one, two): (&Found, &Found)| {
            one.value() == two.value() && one.payload_len() == two.payload_len()
        };
        match (one, two) {
            (None, None) => return Ok(()),
            (Some(one), two) if two.is_some_and(|two| same((one, two))) => return Ok(()),
            (Some(one), _) => {
                let payload = match one.payload_len() {
                    0 => Vec::new(),
                    len => ours.read_payload(one, 0..len, Read::Blocking)?,
                };
                let bytes = one.key().len() + one.value().len() + payload.len();
                self.make_room(bytes)?;
                let batch = std::mem::take(&mut self.batch);
                self.batch = batch.put_with_payload(one.to_key(), one.value(), payload);
            }
            (None, Some(two)) => {
                self.make_room(two.key().len())?;
                self.batch = std::mem::take(&mut self.batch).delete(two.to_key());
            }
        }
        self.count += 1;
        self.differed += 1;
        Ok(())
    }

    fn make_room(&mut self, bytes: usize) -> Result<()> {
        if self.count > 0 && (self.bytes + bytes > COPY_BATCH_BYTES || self.count >= COPY_ENTRIES) {
            self.write()?;
        }
        self.bytes += bytes;
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        (self.bytes, self.count) = (0, 0);
        // As what is there already: on a disk that is full, too.
        Ok(self.other.submit(batch.frees_space())?.wait()?)
    }

    fn finish(mut self) -> Result<usize> {
        if self.count > 0 {
            self.write()?;
        }
        Ok(self.differed)
    }
}
