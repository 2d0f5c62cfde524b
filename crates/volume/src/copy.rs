//! Making one replica of the metadata what another one is, key by key.
//!
//! Whoever calls this sees to it that nobody changes these keys meanwhile.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use shardstore::{Batch, Engine, Found, Key, View};

use crate::Result;
use crate::limits::{COPY_BATCH_BYTES, COPY_ENTRIES};
use crate::mirror::{ring_keys, ring_range};

/// The keys that may differ after batches were under way: those of the places where two rings
/// differ, and these places themselves, last.
pub(crate) fn ring_differences(truth: &Engine, other: &Engine) -> Result<Vec<Key>> {
    let (ours, theirs) = (truth.view(), other.view());
    let (from, to) = ring_range();
    let (mut keys, mut places) = (BTreeSet::new(), Vec::new());
    side_by_side(&ours, &theirs, (&from, &to), |one, two| {
        let values = [one, two].map(|found| found.map(Found::value));
        if values[0] != values[1] {
            for value in values.into_iter().flatten() {
                // One that cannot be read names nothing: no batch of any release has such.
                keys.extend(ring_keys(value).unwrap_or_default());
            }
            places.extend(one.or(two).map(Found::to_key));
        }
        Ok(())
    })?;
    Ok(keys.into_iter().chain(places).collect())
}

/// The highest number in a disk's ring; 0: there is none.
pub(crate) fn newest_in_ring(engine: &Engine) -> Result<u64> {
    let view = engine.view();
    let (from, to) = ring_range();
    let (mut walk, mut newest) = (Walk::new(&view, &from, &to), 0);
    while let Some(place) = walk.next()? {
        let number = place.value().first_chunk().copied();
        newest = newest.max(number.map_or(0, u64::from_le_bytes));
    }
    Ok(newest)
}

/// Reads all that the ring names.
pub(crate) fn all_of_the_ring(engine: &Engine) -> Result<()> {
    let view = engine.view();
    let (from, to) = ring_range();
    let mut walk = Walk::new(&view, &from, &to);
    while let Some(place) = walk.next()? {
        for key in ring_keys(place.value()).unwrap_or_default() {
            if let Some(found) = view.get(&key)? {
                view.read_payload(&found, 0..found.payload_len())?;
            }
        }
    }
    Ok(())
}

/// Walks over a range of two disks in the order of keys, and shows what each has under one.
fn side_by_side(
    ours: &View,
    theirs: &View,
    (from, to): (&[u8], &[u8]),
    mut show: impl FnMut(Option<&Found>, Option<&Found>) -> Result<()>,
) -> Result<()> {
    let (mut left, mut right) = (Walk::new(ours, from, to), Walk::new(theirs, from, to));
    let (mut one, mut two) = (left.next()?, right.next()?);
    loop {
        let order = match (&one, &two) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(two)) => one.key().cmp(two.key()),
        };
        let shown = (
            one.as_ref().filter(|_| order.is_le()),
            two.as_ref().filter(|_| order.is_ge()),
        );
        show(shown.0, shown.1)?;
        if order.is_le() {
            one = left.next()?;
        }
        if order.is_ge() {
            two = right.next()?;
        }
    }
}

/// Has `other` have what `truth` has under each key; durable when this returns. Says how many
/// differed.
pub(crate) fn copy_keys(truth: &Engine, other: &Engine, keys: &[Key]) -> Result<usize> {
    let (ours, theirs) = (truth.view(), other.view());
    let mut copier = Copier::new(other);
    for key in keys {
        let one = ours.get(key)?;
        let two = theirs.get(key)?;
        copier.settle(&ours, one.as_ref(), two.as_ref())?;
    }
    copier.finish()
}

/// Has `other` have what `truth` has in a range; durable when this returns. Says how many
/// differed.
pub(crate) fn copy_range(truth: &Engine, other: &Engine, from: &[u8], to: &[u8]) -> Result<usize> {
    let (ours, theirs) = (truth.view(), other.view());
    let mut copier = Copier::new(other);
    side_by_side(&ours, &theirs, (from, to), |one, two| {
        copier.settle(&ours, one, two)
    })?;
    copier.finish()
}

/// Where a range of at most so many entries of the truth ends: below `to`, and behind `from`.
pub(crate) fn range_end(truth: &Engine, from: &[u8], to: &[u8]) -> Result<Vec<u8>> {
    let page = truth.view().scan(from, to, COPY_ENTRIES)?;
    Ok(page.next.unwrap_or_else(|| to.to_vec()))
}

/// A walk over a range, a page at a time.
struct Walk<'a> {
    view: &'a View,
    page: std::vec::IntoIter<Found>,
    next: Option<Vec<u8>>,
    to: &'a [u8],
}

impl<'a> Walk<'a> {
    fn new(view: &'a View, from: &[u8], to: &'a [u8]) -> Walk<'a> {
        Walk {
            view,
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
            let page = self.view.scan(&from, self.to, COPY_ENTRIES)?;
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
    fn settle(&mut self, ours: &View, one: Option<&Found>, two: Option<&Found>) -> Result<()> {
        let same = |(one, two): (&Found, &Found)| {
            one.value() == two.value() && one.payload_len() == two.payload_len()
        };
        match (one, two) {
            (None, None) => return Ok(()),
            (Some(one), two) if two.is_some_and(|two| same((one, two))) => return Ok(()),
            (Some(one), _) => {
                let payload = match one.payload_len() {
                    0 => Vec::new(),
                    len => ours.read_payload(one, 0..len)?,
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
        let limit = self.other.store().geometry().batch_bytes_max();
        let limit = limit.min(COPY_BATCH_BYTES);
        if self.count > 0 && (self.bytes + bytes > limit || self.count >= COPY_ENTRIES) {
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
