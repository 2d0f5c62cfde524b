//! The reference model: what a store must answer, in as few words as possible. It knows
//! nothing of extents, frames or tables.
//!
//! - Without crashes a store is a sorted map, changed by whole batches in the order in which
//!   they became persistent.
//! - After a crash it is the map of all persistent batches, plus any subset of the others:
//!   each of those is there as a whole or not at all ([`explain`]).

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

/// Shared bytes.
pub type Bytes = Arc<[u8]>;

/// What a key has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Length of the key's stem.
    pub stem_len: usize,
    /// The value.
    pub value: Bytes,
    /// The payload, possibly empty.
    pub payload: Bytes,
    /// The batch that wrote it last.
    pub version: u64,
}

/// What happens to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has this value and payload.
    Put(Bytes, Bytes),
    /// It is gone.
    Delete,
    /// Its counters grow; a missing key or counter counts from 0.
    Add(Vec<i64>),
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Unique, in the order of submission.
    pub version: u64,
    /// Key, length of its stem, and what happens, in order.
    pub changes: Vec<(Bytes, usize, Change)>,
    /// The batch that must be persistent before this one is issued.
    pub needs: Option<u64>,
}

/// A sorted map from key to entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The live keys.
    pub entries: BTreeMap<Bytes, Entry>,
}

impl State {
    /// The state after a batch.
    pub fn apply(&mut self, batch: &Batch) {
        for (key, stem_len, change) in &batch.changes {
            let (value, payload) = match change {
                Change::Put(value, payload) => (value.clone(), payload.clone()),
                Change::Delete => {
                    self.entries.remove(key);
                    continue;
                }
                Change::Add(deltas) => {
                    let base = self.entries.get(key).map(|entry| entry.value.clone());
                    (
                        add(base.as_deref().unwrap_or_default(), deltas),
                        Bytes::default(),
                    )
                }
            };
            let entry = Entry {
                stem_len: *stem_len,
                value,
                payload,
                version: batch.version,
            };
            self.entries.insert(key.clone(), entry);
        }
    }

    /// The entry of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The first live key that has this stem.
    pub fn first(&self, stem: &[u8]) -> Option<(&Bytes, &Entry)> {
        self.entries
            .range::<[u8], _>((Bound::Included(stem), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(stem))
            .find(|(_, entry)| entry.stem_len == stem.len())
    }

    /// The live keys of a range, in order.
    pub fn scan(&self, range: Range<&[u8]>) -> Vec<(&Bytes, &Entry)> {
        if range.start >= range.end {
            return Vec::new();
        }
        let bounds = (Bound::Included(range.start), Bound::Excluded(range.end));
        self.entries.range::<[u8], _>(bounds).collect()
    }
}

fn add(base: &[u8], deltas: &[i64]) -> Bytes {
    let count = deltas.len().max(base.len() / 8);
    let counter = |index: usize| {
        base.get(index * 8..index * 8 + 8).map_or(0, |bytes| {
            i64::from_le_bytes(bytes.try_into().expect("eight bytes"))
        })
    };
    (0..count)
        .flat_map(|index| {
            let delta = deltas.get(index).copied().unwrap_or(0);
            counter(index).wrapping_add(delta).to_le_bytes()
        })
        .collect()
}

/// What was read of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The value.
    pub value: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// The engine's sequence of the entry.
    pub seq: u64,
}

/// All that was read of a store.
pub type Observed = BTreeMap<Bytes, Seen>;

/// Whether a batch is certain to be there after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was persistent.
    Certain,
    /// It was persistent, but the disk lied: it may be lost, and then all that came after it.
    Exposed,
    /// It was not: all of it is there, or nothing.
    Open,
}

/// Most batches whose fate may be open at once; the generator keeps below it.
pub const OPEN_MAX: usize = 14;

/// Finds out which batches survived a crash. `log` holds what was submitted since `base`, in
/// the order of commitment. Returns the state that `observed` shows, and which batches of
/// `log` are in it; or the reason why no permitted state looks like this.
pub fn explain(
    base: &State,
    log: &[(Batch, Fate)],
    observed: &Observed,
) -> Result<(State, Vec<bool>), String> {
    let open: Vec<usize> = (0..log.len())
        .filter(|&i| log[i].1 != Fate::Certain)
        .collect();
    assert!(
        open.len() <= OPEN_MAX,
        "the generator keeps the number of open batches small"
    );
    let everything = (1u32 << open.len()) - 1;
    for guess in (0..=everything).rev() {
        let survives: Vec<bool> = (0..log.len())
            .map(|index| match open.iter().position(|&at| at == index) {
                Some(bit) => guess >> bit & 1 == 1,
                None => true,
            })
            .collect();
        if !needs_are_met(log, &survives) || !is_lost_from_the_end(log, &survives) {
            continue;
        }
        let mut state = base.clone();
        for ((batch, _), _) in log.iter().zip(&survives).filter(|(_, survives)| **survives) {
            state.apply(batch);
        }
        if first_difference(&state, observed).is_none() {
            return Ok((state, survives));
        }
    }
    let mut certain = base.clone();
    for (batch, _) in log.iter().filter(|(_, fate)| *fate == Fate::Certain) {
        certain.apply(batch);
    }
    let difference = first_difference(&certain, observed).unwrap_or_default();
    Err(format!(
        "with none of the {} open batches: {difference}",
        open.len()
    ))
}

/// A batch that survives had what it depends on persistent before it was issued.
fn needs_are_met(log: &[(Batch, Fate)], survives: &[bool]) -> bool {
    log.iter()
        .zip(survives)
        .filter(|(_, survives)| **survives)
        .all(|((batch, _), _)| {
            batch.needs.is_none_or(|needed| {
                log.iter()
                    .zip(survives)
                    .all(|((other, _), there)| other.version != needed || *there)
            })
        })
}

/// Frames say what was durable before them: what was persistent cannot be lost without all that
/// came after it, or that would speak for it.
fn is_lost_from_the_end(log: &[(Batch, Fate)], survives: &[bool]) -> bool {
    let is_lost = |index: &usize| log[*index].1 == Fate::Exposed && !survives[*index];
    (0..log.len())
        .find(is_lost)
        .is_none_or(|first| !survives[first..].contains(&true))
}

/// The first key about which state and store disagree.
pub fn first_difference(state: &State, observed: &Observed) -> Option<String> {
    let missing = state
        .entries
        .iter()
        .find_map(|(key, entry)| match observed.get(key) {
            None => Some(format!(
                "{} is lost, it must be {}",
                name(key),
                entry.describe()
            )),
            Some(seen) if seen.value != entry.value => Some(format!(
                "{} has the value {}, it must be {}",
                name(key),
                name(&seen.value),
                entry.describe()
            )),
            Some(seen) if seen.payload != entry.payload => Some(format!(
                "{} has the payload {}, it must be {}",
                name(key),
                name(&seen.payload),
                entry.describe()
            )),
            Some(_) => None,
        });
    missing.or_else(|| {
        let extra = observed
            .iter()
            .find(|(key, _)| !state.entries.contains_key(*key))?;
        Some(format!(
            "{} is there with {}, it must not be",
            name(extra.0),
            name(&extra.1.value)
        ))
    })
}

impl Entry {
    /// For people.
    pub fn describe(&self) -> String {
        let (value, payload) = (name(&self.value), name(&self.payload));
        format!("value {value} payload {payload} (version {})", self.version)
    }
}

/// Bytes for people: their start, and how many there are.
pub fn name(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(12)];
    format!("\"{}\"[{}]", shown.escape_ascii(), bytes.len())
}

/// Bugs seeded into the model instead of the engine: the checks must notice these as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelBug {
    /// M9: after a crash in a reclamation the model keeps what it knew when that began.
    StaleAfterReclaim,
    /// M15: the model gives a version's number to another version again.
    ReusesVersions,
}

/// The model of a running store.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// What snapshots see now.
    pub state: Arc<State>,
    versions: u64,
    bug: Option<ModelBug>,
    at_reclaim: Option<Arc<State>>,
}

impl Model {
    /// An empty store's model, possibly with a seeded bug.
    pub fn new(bug: Option<ModelBug>) -> Model {
        Model {
            bug,
            ..Model::default()
        }
    }

    /// A version for the next batch.
    pub fn next_version(&mut self) -> u64 {
        self.versions += 1;
        if self.bug == Some(ModelBug::ReusesVersions) {
            let used = |v: u64| self.state.entries.values().any(|entry| entry.version == v);
            return (1..self.versions)
                .find(|&v| !used(v))
                .unwrap_or(self.versions);
        }
        self.versions
    }

    /// A batch became persistent, and with that visible.
    pub fn persist(&mut self, batch: &Batch) {
        Arc::make_mut(&mut self.state).apply(batch);
    }

    /// A reclamation began.
    pub fn note_reclaim(&mut self) {
        if self.bug == Some(ModelBug::StaleAfterReclaim) {
            self.at_reclaim.get_or_insert_with(|| self.state.clone());
        }
    }

    /// A checkpoint completed a reclamation.
    pub fn note_checkpoint(&mut self) {
        self.at_reclaim = None;
    }

    /// The store was reopened and shows this state.
    pub fn reopen(&mut self, state: State) {
        self.state = self.at_reclaim.take().unwrap_or_else(|| Arc::new(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        text.as_bytes().into()
    }

    fn put(version: u64, key: &str, value: &str) -> Batch {
        let change = Change::Put(bytes(value), Bytes::default());
        Batch {
            version,
            changes: vec![(bytes(key), key.len(), change)],
            needs: None,
        }
    }

    fn observed(entries: &[(&str, &str)]) -> Observed {
        let seen = |value| Seen {
            value: bytes(value),
            payload: Bytes::default(),
            seq: 0,
        };
        entries
            .iter()
            .map(|(key, value)| (bytes(key), seen(value)))
            .collect()
    }

    #[test]
    fn counters_add_with_wrap_around_and_restart_after_a_delete() {
        let batch = |change| Batch {
            version: 1,
            changes: vec![(bytes("n"), 1, change)],
            needs: None,
        };
        let mut state = State::default();
        state.apply(&batch(Change::Add(vec![i64::MAX])));
        state.apply(&batch(Change::Add(vec![1, 7])));
        let expected = [i64::MIN.to_le_bytes(), 7i64.to_le_bytes()].concat();
        assert_eq!(&*state.get(b"n").unwrap().value, expected);
        state.apply(&batch(Change::Delete));
        state.apply(&batch(Change::Add(vec![2])));
        assert_eq!(&*state.get(b"n").unwrap().value, 2i64.to_le_bytes());
    }

    #[test]
    fn first_looks_at_stems_not_at_prefixes() {
        let mut state = State::default();
        let mut batch = put(1, "ab", "plain");
        batch.changes.push((bytes("ax"), 1, Change::Delete));
        state.apply(&batch);
        assert!(state.first(b"a").is_none());
        batch.changes[1].2 = Change::Put(bytes("v"), Bytes::default());
        state.apply(&batch);
        assert_eq!(&**state.first(b"a").unwrap().0, b"ax");
    }

    #[test]
    fn certain_batches_must_be_there_and_open_ones_may() {
        let log = [
            (put(1, "a", "1"), Fate::Certain),
            (put(2, "a", "2"), Fate::Open),
        ];
        let base = State::default();
        assert_eq!(
            explain(&base, &log, &observed(&[("a", "1")])).unwrap().1,
            [true, false]
        );
        assert_eq!(
            explain(&base, &log, &observed(&[("a", "2")])).unwrap().1,
            [true, true]
        );
        assert!(explain(&base, &log, &observed(&[])).is_err());
        assert!(explain(&base, &log, &observed(&[("a", "1"), ("b", "2")])).is_err());
    }

    #[test]
    fn what_was_persistent_is_lost_only_from_the_end() {
        let log = [
            (put(1, "a", "1"), Fate::Exposed),
            (put(2, "b", "2"), Fate::Exposed),
            (put(3, "c", "3"), Fate::Open),
        ];
        let base = State::default();
        assert!(explain(&base, &log, &observed(&[("a", "1")])).is_ok());
        assert!(explain(&base, &log, &observed(&[])).is_ok());
        assert!(explain(&base, &log, &observed(&[("b", "2")])).is_err());
        assert!(explain(&base, &log, &observed(&[("a", "1"), ("c", "3")])).is_err());
    }

    #[test]
    fn half_a_batch_is_no_permitted_state() {
        let mut both = put(1, "a", "1");
        both.changes.extend(put(1, "b", "1").changes);
        let log = [(both, Fate::Open)];
        let base = State::default();
        assert!(explain(&base, &log, &observed(&[("a", "1")])).is_err());
        assert!(explain(&base, &log, &observed(&[("a", "1"), ("b", "1")])).is_ok());
        assert!(explain(&base, &log, &observed(&[])).is_ok());
    }

    #[test]
    fn a_batch_does_not_survive_what_it_depends_on() {
        let mut second = put(2, "b", "2");
        second.needs = Some(1);
        let log = [(put(1, "a", "1"), Fate::Open), (second, Fate::Open)];
        let base = State::default();
        assert!(explain(&base, &log, &observed(&[("b", "2")])).is_err());
        assert!(explain(&base, &log, &observed(&[("a", "1")])).is_ok());
    }
}
