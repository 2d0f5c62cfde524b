//! Metadata on several disks: every batch on all replicas, and what to do when one of them
//! fails to take it.
//!
//! A batch is submitted to all replicas at once and is durable when it is on all of them. Each
//! carries an entry of the **ring**, which names the keys that it changes:
//!
//! ```text
//! engine key   04 | "ring" | u16 BE place
//! value        u64 number | u16 keys, each: u16 length | u16 length of the stem | bytes
//! ```
//! Numbers count batches, across restarts as well, and the place is the number modulo the
//! ring's size. (Integers are little-endian, except in keys. A batch that changes many keys
//! takes several places.) After a crash replicas differ in nothing but batches that were under
//! way, and these still stand in the ring of whoever has them: so the keys of places where two
//! rings differ are all that must be compared.
//!
//! What must always hold:
//! - at most a ring's worth of numbers is under way, so that no place is taken twice;
//! - a batch that some replicas have and others refused is not forgotten: it is submitted
//!   again until they have it, or they are replicas no longer;
//! - while a range of keys is copied to a replica that is being filled, batches that change
//!   one of them wait ([`Mirror::gate`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use shardstore::{Batch, Completer, Dependency, Engine, Error, Key, Op};

use crate::blob::Take;
use crate::join::when_decided;
use crate::limits::{MIRROR_BYTES_MAX, RING_ENTRY_BYTES, RING_PLACES};
use crate::volume::lock;

/// First byte of the engine keys that hold the volume's own metadata, mirrored like its users':
/// the ring, and notes of what was deleted (see `gone`).
pub(crate) const OWN_PREFIX: u8 = 0x04;

const RING: &[u8] = b"\x04ring";

/// Bits of a batch's number that count within one run; the others are the epoch.
pub(crate) const NUMBER_BITS: u32 = 40;

/// The key of a place in the ring.
pub(crate) fn ring_key(place: u16) -> Key {
    let mut key = RING.to_vec();
    key.extend_from_slice(&place.to_be_bytes());
    Key::plain(key)
}

/// Every key of the ring is at or above the first and below the second.
pub(crate) fn ring_range() -> (Vec<u8>, Vec<u8>) {
    let mut end = RING.to_vec();
    end.push(0xFF);
    end.push(0xFF);
    end.push(0xFF);
    (RING.to_vec(), end)
}

/// The keys that a place of the ring names; `None`: it is no such value.
pub(crate) fn ring_keys(value: &[u8]) -> Option<Vec<Key>> {
    let mut take = Take(value);
    let _number = take.u64()?;
    let count = take.u16()?;
    let mut keys = Vec::new();
    for _ in 0..count {
        let (len, stem_len) = (take.u16()?, take.u16()?);
        let bytes = take.bytes(len.into())?;
        if stem_len > len {
            return None;
        }
        keys.push(Key::with_stem(bytes, stem_len.into()));
    }
    Some(keys)
}

/// The values of the places that a batch with these keys takes; one at least.
fn ring_values(keys: &[&Key], first: u64) -> Vec<Vec<u8>> {
    let mut parts: Vec<(u16, Vec<u8>)> = vec![(0, Vec::new())];
    for key in keys {
        let bytes = key.as_bytes();
        let is_full = |(_, part): &(u16, Vec<u8>)| part.len() + bytes.len() > RING_ENTRY_BYTES;
        if parts.last().is_some_and(|part| part.0 > 0 && is_full(part)) {
            parts.push((0, Vec::new()));
        }
        if let Some((count, part)) = parts.last_mut() {
            // Keys and their stems are within the engine's limit of a few thousand bytes.
            let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
            part.extend_from_slice(&short(bytes.len()));
            part.extend_from_slice(&short(key.stem().len()));
            part.extend_from_slice(bytes);
            *count += 1;
        }
    }
    let value = |(number, (count, part)): (u64, (u16, Vec<u8>))| {
        let mut value = number.to_le_bytes().to_vec();
        value.extend_from_slice(&count.to_le_bytes());
        value.extend_from_slice(&part);
        value
    };
    (first..).zip(parts).map(value).collect()
}

/// The disk of a slot.
pub(crate) type EngineOf = dyn Fn(usize) -> Option<Engine> + Send + Sync;

/// All replicas of the metadata.
pub(crate) struct Mirror {
    state: Mutex<State>,
    engine_of: Box<EngineOf>,
}

struct State {
    /// The number of the next batch.
    next: u64,
    /// Replicas that have everything; the first is read.
    replicas: Vec<usize>,
    /// A disk that is being filled: it gets every batch too, and nobody waits for it.
    filling: Option<usize>,
    /// Whether the disk that is being filled took what no replica did: it is filled anew then.
    is_spoilt: bool,
    /// Whether a batch was given up that some replicas have and others do not.
    differ: bool,
    /// Bytes of the batches below.
    bytes: usize,
    /// Why no batch is taken.
    refusal: Option<String>,
    /// Batches that are not on all replicas yet, by their first number.
    under_way: BTreeMap<u64, Arc<Commit>>,
    gate: Option<(Vec<u8>, Vec<u8>)>,
    /// Batches that wait for the gate.
    gated: VecDeque<(Batch, Completer<()>)>,
}

/// A batch that is under way.
struct Commit {
    first: u64,
    bytes: usize,
    /// With its entries of the ring.
    batch: Batch,
    parts: Mutex<Parts>,
}

struct Parts {
    parts: Vec<Part>,
    completer: Option<Completer<()>>,
    /// Some replicas have it and others refused it.
    needs_mending: bool,
}

struct Part {
    slot: usize,
    result: Option<shardstore::Result<()>>,
}

/// A part of a batch that a replica refused while another one took it.
pub(crate) struct Refused {
    /// The batch's first number.
    pub number: u64,
    /// The replica.
    pub slot: usize,
    /// What it said.
    pub error: Error,
}

impl Mirror {
    /// Batches are numbered above those of every earlier `epoch`.
    pub(crate) fn new(epoch: u64, replicas: Vec<usize>, engine_of: Box<EngineOf>) -> Mirror {
        Mirror {
            state: Mutex::new(State {
                next: epoch << NUMBER_BITS,
                replicas,
                filling: None,
                is_spoilt: false,
                differ: false,
                bytes: 0,
                refusal: None,
                under_way: BTreeMap::new(),
                gate: None,
                gated: VecDeque::new(),
            }),
            engine_of,
        }
    }

    /// Submits a batch to all replicas once all of `after` is persistent.
    pub(crate) fn commit(self: &Arc<Self>, batch: Batch, after: Vec<Dependency>) -> Dependency {
        let (completer, dependency) = Dependency::pair();
        if after.iter().all(Dependency::is_persistent) {
            self.launch(batch, completer);
            return dependency;
        }
        let mirror = self.clone();
        when_decided(after, move |results| {
            match results.into_iter().collect::<Result<(), _>>() {
                Ok(()) => mirror.launch(batch, completer),
                Err(error) => completer.complete(Err(error)),
            }
        });
        dependency
    }

    fn launch(self: &Arc<Self>, mut batch: Batch, completer: Completer<()>) {
        let mut state = lock(&self.state);
        if let Some(reason) = &state.refusal {
            let reason = reason.clone();
            drop(state);
            completer.complete(Err(Error::Failed { reason }));
            return;
        }
        if state.bytes >= MIRROR_BYTES_MAX {
            drop(state);
            completer.complete(Err(Error::Busy));
            return;
        }
        if state
            .gate
            .as_ref()
            .is_some_and(|gate| touches(&batch, gate))
        {
            state.bytes += bytes_of(&batch);
            state.gated.push_back((batch, completer));
            return;
        }
        // A replica that is full would be the only one to refuse it.
        if !batch.is_freeing() {
            let is_full = |slot: &usize| {
                let engine = (self.engine_of)(*slot);
                engine.is_some_and(|engine| engine.store().is_full())
            };
            if state.replicas.iter().any(is_full) {
                drop(state);
                completer.complete(Err(Error::OutOfSpace));
                return;
            }
        }
        let first = state.next;
        let keys: Vec<&Key> = batch.entries().iter().map(|(key, _)| key).collect();
        let values = ring_values(&keys, first);
        let next = first + values.len() as u64;
        let oldest = state.under_way.keys().next().copied().unwrap_or(first);
        if next - oldest > RING_PLACES as u64 {
            drop(state);
            completer.complete(Err(Error::Busy));
            return;
        }
        for (number, value) in (first..).zip(values) {
            batch = batch.put(ring_key((number % RING_PLACES as u64) as u16), value);
        }
        state.next = next;
        let slots: Vec<usize> = state
            .replicas
            .iter()
            .chain(&state.filling)
            .copied()
            .collect();
        let part = |slot: &usize| Part {
            slot: *slot,
            result: None,
        };
        let bytes = bytes_of(&batch);
        state.bytes += bytes;
        let commit = Arc::new(Commit {
            first,
            bytes,
            batch,
            parts: Mutex::new(Parts {
                parts: slots.iter().map(part).collect(),
                completer: Some(completer),
                needs_mending: false,
            }),
        });
        state.under_way.insert(first, commit.clone());
        // Submitted under the lock, so that the replica that is being filled gets all batches in
        // the order of their numbers, and none that came before it began to be filled.
        let submitted = slots.iter().map(|slot| self.submit(*slot, &commit.batch));
        let dependencies: Vec<Dependency> = submitted.collect();
        drop(state);
        let mirror = self.clone();
        when_decided(dependencies, move |results| mirror.settle(&commit, results));
    }

    /// What comes back at once comes as a dependency, too.
    fn submit(&self, slot: usize, batch: &Batch) -> Dependency {
        let submitted = match (self.engine_of)(slot) {
            Some(engine) => engine.submit(batch.clone()),
            None => Err(Error::Closed),
        };
        submitted.unwrap_or_else(|error| {
            let (completer, dependency) = Dependency::pair();
            completer.complete(Err(error));
            dependency
        })
    }

    /// All replicas have said something.
    fn settle(&self, commit: &Arc<Commit>, results: Vec<shardstore::Result<()>>) {
        {
            let mut parts = lock(&commit.parts);
            for (part, result) in parts.parts.iter_mut().zip(results) {
                part.result = Some(result);
            }
        }
        self.conclude(commit);
    }

    /// Tells the caller, if all replicas of now have the batch or none has.
    fn conclude(&self, commit: &Arc<Commit>) {
        let (replicas, filling, refusal) = {
            let state = lock(&self.state);
            (state.replicas.clone(), state.filling, state.refusal.clone())
        };
        let gives_up;
        let outcome = {
            let mut parts = lock(&commit.parts);
            // Whoever was given up meanwhile counts no longer; whoever is being filled counts
            // only as long as it is.
            parts
                .parts
                .retain(|part| replicas.contains(&part.slot) || filling == Some(part.slot));
            let counting = parts
                .parts
                .iter()
                .filter(|part| replicas.contains(&part.slot));
            let results: Vec<_> = counting.filter_map(|part| part.result.clone()).collect();
            // Of one that failed nobody knows whether it has the batch, until it is no replica
            // any more.
            let is_refusal = |result: &shardstore::Result<()>| matches!(result, Err(error) if !matches!(error, Error::Failed { .. }));
            // Unless there is no other one, and nobody who would ask again.
            let is_alone = replicas.len() == 1 && filling.is_none();
            let has_none = results
                .iter()
                .all(|result| is_refusal(result) || (is_alone && result.is_err()));
            let has_all = results.iter().all(Result::is_ok) && !results.is_empty();
            let filling_has = parts
                .parts
                .iter()
                .all(|part| filling != Some(part.slot) || matches!(part.result, Some(Ok(()))));
            gives_up = !has_all && !has_none;
            match refusal {
                Some(reason) if !has_all => Err(Error::Failed { reason }),
                _ if has_all && filling_has => Ok(()),
                _ if has_none => match results.into_iter().find_map(Result::err) {
                    Some(error) => Err(error),
                    None => Err(Error::Closed),
                },
                _ => {
                    parts.needs_mending = true;
                    return;
                }
            }
        };
        let has_filling = {
            let is_ok = |part: &Part| part.result.as_ref().is_some_and(Result::is_ok);
            let parts = lock(&commit.parts);
            filling.is_some_and(|slot| parts.parts.iter().any(|p| p.slot == slot && is_ok(p)))
        };
        {
            let mut state = lock(&self.state);
            if state.under_way.remove(&commit.first).is_some() {
                state.bytes -= commit.bytes;
            }
            state.is_spoilt |= outcome.is_err() && has_filling;
            state.differ |= gives_up;
        }
        let completer = lock(&commit.parts).completer.take();
        if let Some(completer) = completer {
            completer.complete(outcome);
        }
    }

    /// Which replicas refused what others took.
    pub(crate) fn refused(&self) -> Vec<Refused> {
        let commits: Vec<_> = lock(&self.state).under_way.values().cloned().collect();
        let mut refused = Vec::new();
        for commit in commits {
            let parts = lock(&commit.parts);
            for part in parts.parts.iter().filter(|_| parts.needs_mending) {
                if let Some(Err(error)) = &part.result {
                    refused.push(Refused {
                        number: commit.first,
                        slot: part.slot,
                        error: error.clone(),
                    });
                }
            }
        }
        refused
    }

    /// Submits a batch again to a replica that refused it, now with a part in the reserve of a
    /// full disk; blocks until that is decided.
    pub(crate) fn submit_again(&self, number: u64, slot: usize) -> shardstore::Result<()> {
        let Some(commit) = lock(&self.state).under_way.get(&number).cloned() else {
            return Ok(());
        };
        let batch = commit.batch.clone().frees_space();
        let result = self.submit(slot, &batch).wait();
        if result.is_ok() {
            let mut parts = lock(&commit.parts);
            for part in parts.parts.iter_mut().filter(|part| part.slot == slot) {
                part.result = Some(Ok(()));
            }
            drop(parts);
            self.conclude(&commit);
        }
        result
    }

    /// The replicas that have everything, from now on; and why no batch is taken, if none is.
    pub(crate) fn set_replicas(&self, replicas: Vec<usize>, refusal: Option<String>) {
        let commits: Vec<_> = {
            let mut state = lock(&self.state);
            state.filling = state.filling.filter(|slot| !replicas.contains(slot));
            state.replicas = replicas;
            state.refusal = refusal;
            state.under_way.values().cloned().collect()
        };
        self.conclude_again(commits);
    }

    /// From now on a disk gets every batch too, or no longer.
    pub(crate) fn set_filling(&self, filling: Option<usize>) {
        let commits: Vec<_> = {
            let mut state = lock(&self.state);
            state.filling = filling;
            state.is_spoilt = false;
            state.under_way.values().cloned().collect()
        };
        self.conclude_again(commits);
    }

    /// Looks at batches again that were waiting for a replica which may be none any more.
    fn conclude_again(&self, commits: Vec<Arc<Commit>>) {
        for commit in commits {
            let is_decided = |part: &Part| part.result.is_some();
            if lock(&commit.parts).parts.iter().all(is_decided) {
                self.conclude(&commit);
            }
        }
    }

    /// Has batches that change a key in `from..to` wait from now on.
    pub(crate) fn gate(&self, from: Vec<u8>, to: Vec<u8>) {
        lock(&self.state).gate = Some((from, to));
    }

    /// Whether nothing with a number below `before` is under way that changes a key behind the
    /// gate; without a gate, nothing at all.
    pub(crate) fn is_quiet(&self, before: u64) -> bool {
        let state = lock(&self.state);
        let disturbs = |commit: &Arc<Commit>| match &state.gate {
            Some(gate) => touches(&commit.batch, gate),
            None => true,
        };
        !state
            .under_way
            .range(..before)
            .any(|(_, commit)| disturbs(commit))
    }

    /// Whether the disk that is being filled has to be filled anew.
    pub(crate) fn is_spoilt(&self) -> bool {
        lock(&self.state).is_spoilt
    }

    /// Whether replicas may differ for good.
    pub(crate) fn differ(&self) -> bool {
        lock(&self.state).differ
    }

    /// They were made the same.
    pub(crate) fn are_the_same(&self) {
        lock(&self.state).differ = false;
    }

    /// The number of the next batch.
    pub(crate) fn next(&self) -> u64 {
        lock(&self.state).next
    }

    /// Lets what waits for the gate go on.
    pub(crate) fn open_gate(self: &Arc<Self>) {
        let gated = {
            let mut state = lock(&self.state);
            state.gate = None;
            let gated = std::mem::take(&mut state.gated);
            let bytes: usize = gated.iter().map(|(batch, _)| bytes_of(batch)).sum();
            state.bytes -= bytes;
            gated
        };
        for (batch, completer) in gated {
            self.launch(batch, completer);
        }
    }
}

/// What a batch holds in memory, about.
fn bytes_of(batch: &Batch) -> usize {
    let bytes = |(key, op): &(Key, Op)| {
        64 + key.as_bytes().len()
            + match op {
                Op::Put { value, payload } => value.len() + payload.len(),
                Op::Delete => 0,
                Op::Merge(deltas) => deltas.len() * 8,
            }
    };
    batch.entries().iter().map(bytes).sum()
}

/// Whether a batch changes a key of a range, besides the ring's.
fn touches(batch: &Batch, (from, to): &(Vec<u8>, Vec<u8>)) -> bool {
    let within = |(key, _): &(Key, Op)| {
        let key = key.as_bytes();
        key >= from.as_slice() && key < to.as_slice()
    };
    batch.entries().iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_names_keys_with_their_stems() {
        let keys: Vec<Key> = (0..40)
            .map(|number| Key::with_stem(vec![number; 900], 17))
            .collect();
        let values = ring_values(&keys.iter().collect::<Vec<_>>(), 7);
        assert!(values.len() > 1, "more than one place");
        assert!(
            values
                .iter()
                .all(|value| value.len() <= RING_ENTRY_BYTES + 1024)
        );
        let read: Vec<Key> = values.iter().flat_map(|v| ring_keys(v).unwrap()).collect();
        assert_eq!(read, keys);
        let value = &values[0];
        assert_eq!(value[..8], 7_u64.to_le_bytes());
        for cut in 0..value.len() {
            assert!(ring_keys(&value[..cut]).is_none(), "cut at {cut}");
        }
        assert_eq!(ring_values(&[], 7).len(), 1);
        let (from, to) = ring_range();
        for place in [0, 255, 256, RING_PLACES as u16 - 1] {
            let key = ring_key(place);
            assert!(key.as_bytes() >= from.as_slice() && key.as_bytes() < to.as_slice());
        }
    }
}
