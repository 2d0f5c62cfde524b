//! The newest part of the index, in memory: what the log says since the last checkpoint.
//!
//! Invariant: a version is dropped only when no snapshot can see it, that is, when no live
//! snapshot's lsn lies at or after the version's and before its successor's.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::mutants::{self, Mutant};
use crate::record::Record;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, RwLock, lock, read, write};

/// The lsns of live snapshots, with how often each is held.
#[derive(Debug, Default)]
pub struct SnapshotRegistry {
    live: Mutex<BTreeMap<u64, usize>>,
}

impl SnapshotRegistry {
    pub fn register(&self, lsn: u64) {
        *lock(&self.live).entry(lsn).or_insert(0) += 1;
    }

    pub fn release(&self, lsn: u64) {
        let mut live = lock(&self.live);
        if let Some(count) = live.get_mut(&lsn) {
            *count -= 1;
            if *count == 0 {
                live.remove(&lsn);
            }
        }
    }

    /// The oldest live snapshot's lsn.
    pub fn oldest(&self) -> Option<u64> {
        lock(&self.live).keys().next().copied()
    }

    /// How many snapshots live.
    pub fn count(&self) -> usize {
        lock(&self.live).values().sum()
    }

    fn any_in(&self, from: u64, to: u64) -> bool {
        !mutants::on(Mutant::M13) && lock(&self.live).range(from..to).next().is_some()
    }
}

#[derive(Debug)]
struct Slot {
    lsn: u64,
    newest: Record,
    /// Older versions that a snapshot may need, newest first.
    older: Vec<(u64, Record)>,
}

/// Bytes that a slot costs besides key and value.
const SLOT_OVERHEAD_BYTES: usize = 176;

/// A sorted map from key to its versions.
#[derive(Debug, Default)]
pub struct Memtable {
    slots: RwLock<BTreeMap<Box<[u8]>, Slot>>,
    bytes: AtomicUsize,
}

impl Memtable {
    /// Bytes held, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether nothing was ever inserted.
    pub fn is_empty(&self) -> bool {
        read(&self.slots).is_empty()
    }

    /// Inserts a record that became current with `lsn`.
    pub fn insert(&self, key: &[u8], lsn: u64, record: Record, snapshots: &SnapshotRegistry) {
        let mut slots = write(&self.slots);
        let added = record.heap_bytes();
        let Some(slot) = slots.get_mut(key) else {
            let slot = Slot {
                lsn,
                newest: record,
                older: Vec::new(),
            };
            slots.insert(key.into(), slot);
            let bytes = added + key.len() + SLOT_OVERHEAD_BYTES;
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            return;
        };
        let record = record.over(&slot.newest);
        let added = record.heap_bytes();
        let replaced = std::mem::replace(&mut slot.newest, record);
        let replaced_lsn = std::mem::replace(&mut slot.lsn, lsn);
        if snapshots.any_in(replaced_lsn, lsn) {
            slot.older.insert(0, (replaced_lsn, replaced));
            self.bytes
                .fetch_add(added + SLOT_OVERHEAD_BYTES, Ordering::Relaxed);
        } else {
            self.bytes.fetch_add(added, Ordering::Relaxed);
            self.bytes
                .fetch_sub(replaced.heap_bytes(), Ordering::Relaxed);
        }
    }

    /// The record of `key` that a snapshot at `lsn` sees.
    pub fn get(&self, key: &[u8], lsn: u64) -> Option<Record> {
        read(&self.slots)
            .get(key)
            .and_then(|slot| slot.at(lsn))
            .cloned()
    }

    /// Up to `limit` keys from `from` on, each with the record that a snapshot at `lsn` sees,
    /// and where to go on; `None` when the map is exhausted. A key of which the snapshot sees
    /// nothing is left out, but for the last one of a page that would be empty without it:
    /// `limit` bounds the work too, however many keys are newer than the snapshot.
    pub fn range(
        &self,
        from: Bound<&[u8]>,
        to: Option<&[u8]>,
        lsn: u64,
        limit: usize,
    ) -> MemtablePage {
        let slots = read(&self.slots);
        let mut entries = Vec::new();
        let mut unseen = None;
        let range = slots.range::<[u8], _>((from, Bound::Unbounded));
        for (looked, (key, slot)) in range.enumerate() {
            if to.is_some_and(|to| **key >= *to) {
                break;
            }
            if looked >= limit {
                if let Some(unseen) = unseen.filter(|_| entries.is_empty()) {
                    entries.push((Box::clone(unseen), None));
                }
                let next = Some(key.clone());
                return MemtablePage { entries, next };
            }
            match slot.at(lsn) {
                Some(record) => entries.push((key.clone(), Some(record.clone()))),
                None => unseen = Some(key),
            }
        }
        MemtablePage {
            entries,
            next: None,
        }
    }
}

/// A page of a memtable.
pub struct MemtablePage {
    /// In key order. `None`: the snapshot sees nothing of this key.
    pub entries: Vec<(Box<[u8]>, Option<Record>)>,
    /// Where the next page starts.
    pub next: Option<Box<[u8]>>,
}

impl Slot {
    fn at(&self, lsn: u64) -> Option<&Record> {
        if self.lsn <= lsn {
            return Some(&self.newest);
        }
        self.older
            .iter()
            .find(|(version, _)| *version <= lsn)
            .map(|(_, record)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Content;

    fn put(seq: u64) -> Record {
        let value = vec![seq as u8].into();
        Record {
            stem_len: 1,
            seq,
            oldest: seq,
            content: Content::Put {
                value,
                locator: None,
            },
        }
    }

    #[test]
    fn a_snapshot_keeps_the_version_that_it_sees() {
        let snapshots = SnapshotRegistry::default();
        let memtable = Memtable::default();
        memtable.insert(b"k", 1, put(1), &snapshots);
        snapshots.register(1);
        memtable.insert(b"k", 2, put(2), &snapshots);
        memtable.insert(b"k", 3, put(3), &snapshots);
        assert_eq!(memtable.get(b"k", 1).unwrap().seq, 1);
        assert_eq!(memtable.get(b"k", 9).unwrap().seq, 3);
        assert_eq!(memtable.get(b"k", 0), None);
        // Version 2 was never visible to a live snapshot.
        assert_eq!(memtable.get(b"k", 2).unwrap().seq, 1);
        snapshots.release(1);
        assert_eq!(snapshots.oldest(), None);
    }

    #[test]
    fn ranges_page() {
        let snapshots = SnapshotRegistry::default();
        let memtable = Memtable::default();
        for (lsn, key) in [b"a", b"b", b"c"].iter().enumerate() {
            memtable.insert(*key, lsn as u64 + 1, put(lsn as u64 + 1), &snapshots);
        }
        let page = memtable.range(Bound::Included(b"a"), None, 9, 2);
        assert_eq!(page.entries.len(), 2);
        assert_eq!(page.next.as_deref(), Some(&b"c"[..]));
        let page = memtable.range(Bound::Included(b"b"), Some(b"c"), 9, 2);
        assert_eq!((page.entries.len(), page.next), (1, None));
    }

    /// A snapshot that is older than many keys once walked over all of them in one go.
    #[test]
    fn a_page_looks_at_a_bounded_number_of_keys() {
        let snapshots = SnapshotRegistry::default();
        let memtable = Memtable::default();
        for number in 0..100u8 {
            memtable.insert(&[number], 5, put(5), &snapshots);
        }
        memtable.insert(&[100], 1, put(1), &snapshots);
        let (mut from, mut pages, mut seen) = (vec![0], 0, Vec::new());
        loop {
            let page = memtable.range(Bound::Included(&from), None, 2, 10);
            pages += 1;
            assert!(
                !page.entries.is_empty(),
                "a cursor would take it for the end"
            );
            let visible = page.entries.iter().filter(|(_, record)| record.is_some());
            seen.extend(visible.map(|(key, _)| key[0]));
            match page.next {
                Some(next) => from = next.into(),
                None => break,
            }
        }
        assert_eq!((pages, seen), (11, vec![100]));
    }
}
