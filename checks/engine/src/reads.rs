//! Comparing what a store answers with what the model answers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use shardstore::{Error, Found, Read, Snapshot, Store};

use crate::failure::{Failure, Verdict, property, violated};
use crate::keys::{KeyPool, PoolKey};
use crate::model::{Bytes, Entry, Observed, Seen, State, name};
use crate::world::World;

/// Past every key.
pub(crate) const END: [u8; 8] = [0xff; 8];

/// Reads all that a store holds. Any error ends it.
pub fn observe(store: &Store) -> Result<Observed, Error> {
    let view = store.snapshot();
    let mut observed = Observed::new();
    let mut from = Vec::new();
    loop {
        let page = view.scan(&from, &END, 16, Read::Blocking)?;
        for found in &page.entries {
            observed.insert(found.key().into(), see(&view, found)?);
        }
        match page.next {
            Some(next) => from = next,
            None => return Ok(observed),
        }
    }
}

/// Reads every key of a pool on its own. Returns what could be read, and for each other key
/// the error that the store reported.
pub fn observe_each(store: &Store, pool: &KeyPool) -> (Observed, BTreeMap<Bytes, Error>) {
    let view = store.snapshot();
    let mut observed = Observed::new();
    let mut unreadable = BTreeMap::new();
    for key in pool.all() {
        let seen = match view.get(&key.to_key(), Read::Blocking) {
            Ok(None) => continue,
            Ok(Some(found)) => see(&view, &found),
            Err(error) => Err(error),
        };
        match seen {
            Ok(seen) => drop(observed.insert(key.bytes.clone(), seen)),
            Err(error) => drop(unreadable.insert(key.bytes.clone(), error)),
        }
    }
    (observed, unreadable)
}

fn see(view: &Snapshot, found: &Found) -> Result<Seen, Error> {
    let payload = match found.payload_len() {
        0 => Vec::new(),
        len => view.read_payload(found, 0..len, Read::Blocking)?,
    };
    Ok(Seen {
        value: found.value().into(),
        payload: payload.into(),
        seq: found.seq(),
    })
}

impl World {
    pub(crate) fn get(&mut self, key: usize, part: (u8, u8), nowait: bool) -> Verdict {
        let key = self.key(key).clone();
        let view = self.store().snapshot();
        let state = self.model.state.clone();
        let how = if nowait { Read::Nowait } else { Read::Blocking };
        self.compare_key(&view, &state, &key, part, how)
    }

    /// C1: a get answers as the model does; under faults (C6) it may fail, typed.
    fn compare_key(
        &mut self,
        view: &Snapshot,
        state: &State,
        key: &PoolKey,
        part: (u8, u8),
        how: Read,
    ) -> Verdict {
        let found = match retry(how, |how| view.get(&key.to_key(), how)) {
            Ok(found) => found,
            Err(error) => return self.read_failed(Some(&key.bytes), &error),
        };
        self.compare_found(view, state.get(&key.bytes), &key.bytes, found, part, how)
    }

    fn compare_found(
        &mut self,
        view: &Snapshot,
        expected: Option<&Entry>,
        key: &[u8],
        found: Option<Found>,
        part: (u8, u8),
        how: Read,
    ) -> Verdict {
        self.tally.compared += 1;
        let (expected, found) = match (expected, found) {
            (None, None) => return Ok(()),
            (Some(_), None) => {
                return violated(property::CONFORMS, format!("{} is lost", name(key)));
            }
            (None, Some(_)) => {
                return violated(
                    property::CONFORMS,
                    format!("{} must not be there", name(key)),
                );
            }
            (Some(expected), Some(found)) => (expected, found),
        };
        self.compare_entry(key, expected, &found)?;
        self.trace.bytes(&expected.value);
        let len = expected.payload.len() as u32;
        let at = |of_256: u8| (u64::from(of_256) * u64::from(len) / 255) as u32;
        let middle = at(part.0.min(part.1))..at(part.0.max(part.1));
        for range in [0..len, middle] {
            let read = retry(how, |how| view.read_payload(&found, range.clone(), how));
            match read {
                Ok(bytes) => compare_payload(key, &expected.payload, range, &bytes)?,
                Err(error) => self.read_failed(Some(key), &error)?,
            }
        }
        Ok(())
    }

    /// What a get and a scan return of an entry without reading its payload.
    fn compare_entry(&mut self, key: &[u8], expected: &Entry, found: &Found) -> Verdict {
        let wrong = if found.key() != key {
            format!("{} came back as {}", name(key), name(found.key()))
        } else if found.value() != &*expected.value {
            let (is, must) = (name(found.value()), name(&expected.value));
            format!("{} has the value {is}, it must be {must}", name(key))
        } else if found.payload_len() as usize != expected.payload.len() {
            let (is, must) = (found.payload_len(), expected.payload.len());
            format!(
                "{} has a payload of {is} bytes, it must be {must}",
                name(key)
            )
        } else {
            return self.compare_seq(key, expected.version, found.seq());
        };
        violated(property::CONFORMS, wrong)
    }

    /// An entry keeps its sequence through compaction and reclamation, and a later entry of
    /// the key has a larger one.
    fn compare_seq(&mut self, key: &[u8], version: u64, seq: u64) -> Verdict {
        let seen = self.seqs.entry(key.into()).or_default();
        let known = *seen.entry(version).or_insert(seq);
        let before = seen.range(..version).next_back();
        let after = seen.range(version + 1..).next();
        let ordered = before.is_none_or(|(_, other)| *other < seq)
            && after.is_none_or(|(_, other)| *other > seq);
        if known == seq && ordered {
            return Ok(());
        }
        let detail = format!("{} version {version}: {seq}, known {seen:?}", name(key));
        violated(property::SEQUENCE, detail)
    }

    /// A read failed: permitted only if faults excuse it for this key.
    fn read_failed(&mut self, key: Option<&[u8]>, error: &Error) -> Verdict {
        self.note_faults();
        if self.book.permits_read(key, error) {
            self.tally.refused += 1;
            return Ok(());
        }
        let key = key.map_or_else(|| "a range".to_owned(), name);
        let property = if self.book.damaged() {
            property::TYPED
        } else {
            property::NO_ERROR
        };
        violated(property, format!("reading {key}: {error}"))
    }

    pub(crate) fn first(&mut self, key: usize) -> Verdict {
        let stem = self.key(key).stem().to_vec();
        let view = self.store().snapshot();
        let state = self.model.state.clone();
        self.compare_first(&view, &state, &stem)
    }

    /// C1: the first live key of a stem is the model's.
    fn compare_first(&mut self, view: &Snapshot, state: &State, stem: &[u8]) -> Verdict {
        let found = match view.first(stem, Read::Blocking) {
            Ok(found) => found,
            Err(error) => return self.read_failed(None, &error),
        };
        self.tally.compared += 1;
        match (state.first(stem), found) {
            (None, None) => Ok(()),
            (Some((key, entry)), Some(found)) => self.compare_entry(key, entry, &found),
            (expected, found) => {
                let is = found.map_or_else(|| "nothing".to_owned(), |found| name(found.key()));
                let must = expected.map_or_else(|| "nothing".to_owned(), |(key, _)| name(key));
                let detail = format!("the first of {} is {is}, it must be {must}", name(stem));
                violated(property::CONFORMS, detail)
            }
        }
    }

    pub(crate) fn scan(&mut self, from: Option<usize>, to: Option<usize>, limit: usize) -> Verdict {
        let bytes = |key: Option<usize>| key.map(|key| self.key(key).bytes.to_vec());
        let from = bytes(from).unwrap_or_default();
        let to = bytes(to).unwrap_or_else(|| END.to_vec());
        let view = self.store().snapshot();
        let state = self.model.state.clone();
        self.compare_scan(&view, &state, &from..&to, limit)
    }

    /// C1: paging through a range gives the model's entries, in order, and ends.
    fn compare_scan(
        &mut self,
        view: &Snapshot,
        state: &State,
        range: Range<&Vec<u8>>,
        limit: usize,
    ) -> Verdict {
        let mut expected = state.scan(range.start..range.end).into_iter();
        let mut from = range.start.clone();
        loop {
            let page = match view.scan(&from, range.end, limit, Read::Blocking) {
                Ok(page) => page,
                Err(error) => return self.read_failed(None, &error),
            };
            if page.entries.len() > limit {
                return violated(property::CONFORMS, "a page of a scan is past its limit");
            }
            for found in &page.entries {
                self.tally.compared += 1;
                let Some((key, entry)) = expected.next() else {
                    let key = name(found.key());
                    return violated(property::CONFORMS, format!("a scan returns {key} as well"));
                };
                self.compare_entry(key, entry, found)?;
            }
            match page.next {
                Some(next) if next <= from && !page.entries.is_empty() => {
                    return violated(property::CONFORMS, "a scan does not get on");
                }
                Some(next) if page.entries.is_empty() && next <= from => {
                    return violated(property::CONFORMS, "a scan stands still");
                }
                Some(next) => from = next,
                None => break,
            }
        }
        match expected.next() {
            None => Ok(()),
            Some((key, _)) => violated(
                property::CONFORMS,
                format!("a scan ends before {}", name(key)),
            ),
        }
    }

    pub(crate) fn take_snapshot(&mut self) -> Verdict {
        if self.snapshots.len() < 3 {
            let view = self.store().snapshot();
            self.snapshots.push_back((view, self.model.state.clone()));
        }
        Ok(())
    }

    /// C1: a snapshot goes on answering from the moment at which it was taken.
    pub(crate) fn read_snapshot(&mut self) -> Verdict {
        let Some((view, state)) = self.snapshots.front().cloned() else {
            return Ok(());
        };
        self.book.old_view = true;
        let verdict = self.compare_all(&view, &state);
        self.book.old_view = false;
        verdict.map_err(|failure| Failure {
            property: match failure.property {
                property::CONFORMS => property::SNAPSHOT,
                other => other,
            },
            ..failure
        })
    }

    /// Compares everything that a snapshot can be asked.
    fn compare_all(&mut self, view: &Snapshot, state: &Arc<State>) -> Verdict {
        let limit = *self.rng.pick(&[1, 3, 1000]);
        self.compare_scan(view, state, &Vec::new()..&END.to_vec(), limit)?;
        let mut keys: Vec<PoolKey> = self.pool.hot.clone();
        for _ in 0..6 {
            keys.push(self.rng.pick(&self.pool.bulk).clone());
        }
        for key in &keys {
            self.compare_key(view, state, key, (0, 128), Read::Blocking)?;
            self.compare_first(view, state, key.stem())?;
        }
        // Every payload as well, by way of the keys that are there.
        for (key, entry) in &state.entries {
            if entry.payload.is_empty() {
                continue;
            }
            let whole = shardstore::Key::with_stem(&key[..], entry.stem_len);
            match view.get(&whole, Read::Blocking) {
                Ok(found) => {
                    self.compare_found(view, Some(entry), key, found, (9, 200), Read::Blocking)?;
                }
                Err(error) => self.read_failed(Some(key), &error)?,
            }
        }
        Ok(())
    }

    /// Compares everything that the store can be asked now.
    pub(crate) fn compare_store(&mut self) -> Verdict {
        let view = self.store().snapshot();
        let state = self.model.state.clone();
        self.compare_all(&view, &state)
    }
}

/// Tries from memory first if so asked; a `WouldBlock` is followed by a blocking read.
fn retry<T>(how: Read, mut read: impl FnMut(Read) -> Result<T, Error>) -> Result<T, Error> {
    match read(how) {
        Err(Error::WouldBlock) if how == Read::Nowait => read(Read::Blocking),
        other => other,
    }
}

fn compare_payload(key: &[u8], expected: &[u8], range: Range<u32>, bytes: &[u8]) -> Verdict {
    if bytes == &expected[range.start as usize..range.end as usize] {
        return Ok(());
    }
    let detail = format!(
        "bytes {range:?} of the payload of {} are {}",
        name(key),
        name(bytes)
    );
    violated(property::CONFORMS, detail)
}
