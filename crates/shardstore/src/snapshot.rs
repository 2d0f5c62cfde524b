//! Reading: a consistent view of the store.
//!
//! Invariant: while a snapshot lives, no extent that it may refer to is reused.

use std::ops::Range;

use crate::batch::Key;
use crate::checksum::filter_hash;
use crate::disk::Read;
use crate::error::Result;
use crate::limits::{SCAN_WORK, SCAN_WORK_FIRST};
use crate::memtable::Memtable;
use crate::merge::{MemtableCursor, Merged, Source, Walked, successor};
use crate::record::{Content, Locator, Record};
use crate::store::{Index, Shared};
use crate::sync::Arc;
use crate::table::TableReader;
use crate::version::Version;

/// A live key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    key: Box<[u8]>,
    stem_len: u16,
    seq: u64,
    value: Arc<[u8]>,
    locator: Option<Locator>,
}

impl Found {
    fn new(key: Box<[u8]>, record: Record) -> Option<Found> {
        let (seq, stem_len) = (record.seq, record.stem_len);
        match record.settled().content {
            Content::Put { value, locator } => Some(Found {
                key,
                stem_len,
                seq,
                value,
                locator,
            }),
            _ => None,
        }
    }

    /// The whole key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The key as it was put, with its stem.
    pub fn to_key(&self) -> Key {
        let stem_len = usize::from(self.stem_len).min(self.key.len());
        Key::with_stem(&self.key[..], stem_len)
    }

    /// The value; of a merged key its counters as little-endian `i64`s.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Bytes of payload.
    pub fn payload_len(&self) -> u32 {
        self.locator.map_or(0, |locator| locator.payload_len)
    }

    /// The extent that its payload lies in, if it has one.
    pub fn extent(&self) -> Option<u32> {
        self.locator.map(|locator| locator.frame.extent)
    }

    /// The sequence under which the entry was committed; reclamation keeps it.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPage {
    /// In key order.
    pub entries: Vec<Found>,
    /// Where the next page starts; `None`: the range is exhausted.
    pub next: Option<Vec<u8>>,
}

/// What a bounded part of the search for a stem's first key came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The search is over.
    Done(Option<Found>),
    /// Only deleted keys so far: it goes on here.
    GoOn(Vec<u8>),
}

/// A consistent view: it sees every batch applied before it was taken, and none after.
///
/// While it lives, no extent that it may refer to is reused, so let go of it within the time
/// that a client needs to read what it points to.
pub struct Snapshot {
    shared: Arc<Shared>,
    lsn: u64,
    /// Newest first.
    memtables: Vec<Arc<Memtable>>,
    version: Arc<Version>,
}

impl Snapshot {
    pub(crate) fn new(shared: &Arc<Shared>, index: &Index) -> Snapshot {
        shared.snapshots.register(index.applied_lsn);
        Snapshot {
            shared: shared.clone(),
            lsn: index.applied_lsn,
            memtables: std::iter::once(&index.active)
                .chain(&index.frozen)
                .cloned()
                .collect(),
            version: index.version.clone(),
        }
    }

    fn reader(&self, how: Read) -> TableReader<'_> {
        TableReader {
            medium: &self.shared.medium,
            cache: &self.shared.cache,
            how,
            fill: true,
        }
    }

    pub(crate) fn record(&self, key: &Key, how: Read) -> Result<Option<Record>> {
        let mut combined: Option<Record> = None;
        for memtable in &self.memtables {
            let Some(record) = memtable.get(key.as_bytes(), self.lsn) else {
                continue;
            };
            let record = match combined {
                None => record,
                Some(newer) => newer.over(&record),
            };
            if !matches!(record.content, Content::Merge(_)) {
                return Ok(Some(record));
            }
            combined = Some(record);
        }
        let hash = filter_hash(key.stem());
        self.version
            .get(key.as_bytes(), hash, combined, &self.reader(how))
    }

    /// What a key has. The key's stem must be the one that it was put with.
    pub fn get(&self, key: &Key, how: Read) -> Result<Option<Found>> {
        Ok(self
            .record(key, how)?
            .and_then(|record| Found::new(key.as_bytes().into(), record)))
    }

    /// The first live key that has this stem.
    pub fn first(&self, stem: &[u8], how: Read) -> Result<Option<Found>> {
        let (mut from, mut work) = (stem.to_vec(), SCAN_WORK_FIRST);
        loop {
            match self.first_step(stem, &from, work, how)? {
                Step::Done(found) => return Ok(found),
                Step::GoOn(next) => from = next,
            }
            work = (work * 2).min(SCAN_WORK);
        }
    }

    /// A part of [`first`](Snapshot::first), which begins at the stem itself: looks at `work`
    /// keys at most (and one at least) from `from` on. Keys that are newer than the view count
    /// less: up to a page of memory as one.
    pub fn first_step(&self, stem: &[u8], from: &[u8], work: usize, how: Read) -> Result<Step> {
        let reader = self.reader(how);
        let to = successor(stem);
        let mut merged = self.merged(from, to.as_deref(), Some(filter_hash(stem)), &reader)?;
        let mut work = work.max(1);
        loop {
            match merged.next_live(to.as_deref(), &mut work, &reader)? {
                // A key that merely begins with the stem's bytes has another stem.
                Walked::Live(key, record) if record.stem_len as usize == stem.len() => {
                    return Ok(Step::Done(Found::new(key, record)));
                }
                Walked::Live(..) => {}
                Walked::Unfinished(next) => return Ok(Step::GoOn(next.into())),
                Walked::End => return Ok(Step::Done(None)),
            }
        }
    }

    /// Live entries with `from <= key < to`, in order, at most `limit` of them; fewer only at
    /// the end. Takes as long as there are deleted keys between them.
    pub fn scan(&self, from: &[u8], to: &[u8], limit: usize, how: Read) -> Result<ScanPage> {
        let mut work = SCAN_WORK_FIRST;
        let mut page = self.scan_step(from, to, limit, &mut work.clone(), how)?;
        while let Some(next) = page.next.take_if(|_| page.entries.len() < limit) {
            work = (work * 2).min(SCAN_WORK);
            let left = limit - page.entries.len();
            let more = self.scan_step(&next, to, left, &mut work.clone(), how)?;
            page.entries.extend(more.entries);
            page.next = more.next;
        }
        Ok(page)
    }

    /// A part of [`scan`](Snapshot::scan): looks at `work` keys at most (and one at least; keys
    /// that are newer than the view count less, up to a page of memory as one), and may so find fewer entries than `limit`, or none, although more follow: `next` says so.
    /// `work` is then what is left of it.
    pub fn scan_step(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        work: &mut usize,
        how: Read,
    ) -> Result<ScanPage> {
        let reader = self.reader(how);
        let mut merged = self.merged(from, Some(to), None, &reader)?;
        *work = (*work).max(1);
        let mut entries: Vec<Found> = Vec::new();
        let next = loop {
            match merged.next_live(Some(to), work, &reader)? {
                Walked::Live(key, _) if entries.len() == limit => break Some(key),
                Walked::Live(key, record) => entries.extend(Found::new(key, record)),
                Walked::Unfinished(next) => break Some(next),
                Walked::End => break None,
            }
        };
        Ok(ScanPage {
            entries,
            next: next.map(Into::into),
        })
    }

    fn merged(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        stem_hash: Option<u64>,
        reader: &TableReader<'_>,
    ) -> Result<Merged> {
        // Of a stem the first key is nearly always the one.
        let first = if stem_hash.is_some() { 1 } else { 4 };
        let memtables = self.memtables.iter().map(|memtable| {
            let memtable = memtable.clone();
            Source::Memtable(MemtableCursor::new(memtable, self.lsn, from, to, first))
        });
        let mut sources: Vec<Source> = memtables.collect();
        sources.extend(self.version.sources(from, to, stem_hash, reader)?);
        Ok(Merged::new(sources))
    }

    /// Verified bytes `range` of what `found` (from this snapshot) has as payload; a range past
    /// its end is cut.
    pub fn read_payload(&self, found: &Found, range: Range<u32>, how: Read) -> Result<Vec<u8>> {
        let mut buf = Vec::new();
        self.read_payload_into(found, range, how, &mut buf)?;
        Ok(buf)
    }

    /// As [`read_payload`](Snapshot::read_payload): the bytes are all that `buf` holds then, in
    /// the memory that it had if that was [enough](crate::room_for).
    pub fn read_payload_into(
        &self,
        found: &Found,
        range: Range<u32>,
        how: Read,
        buf: &mut Vec<u8>,
    ) -> Result<()> {
        match &found.locator {
            None => {
                buf.clear();
                Ok(())
            }
            Some(locator) => self.shared.medium.read_payload(locator, range, how, buf),
        }
    }
}

impl Clone for Snapshot {
    fn clone(&self) -> Self {
        self.shared.snapshots.register(self.lsn);
        Snapshot {
            shared: self.shared.clone(),
            lsn: self.lsn,
            memtables: self.memtables.clone(),
            version: self.version.clone(),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.shared.snapshots.release(self.lsn);
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("lsn", &self.lsn)
            .finish_non_exhaustive()
    }
}
