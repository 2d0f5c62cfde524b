//! Checkpoints: memtables become tables, the manifest names them, the superblock names the
//! manifest; then, and only then, evacuated extents are free and the log's tail begins anew.

use std::collections::HashMap;

use crate::checksum::filter_hash;
use crate::codec::Put;
use crate::disk::{Disk, Read};
use crate::error::{Error, Result};
use crate::extents::{Class, Extents};
use crate::frame::{FrameRef, Kind, Stream, align_frame};
use crate::limits::{MANIFEST_PARTS_MAX, SUPERBLOCK_OFFSETS};
use crate::memtable::Memtable;
use crate::merge::{MemtableCursor, Merged, Source};
use crate::mutants::{self, Mutant};
use crate::record::{Locator, Record};
use crate::store::{Append, Counters, Done, Index, Log, Plan, Store};
use crate::superblock::Superblock;
use crate::sync::{Arc, lock, read, write};
use crate::table::{ChunkSink, Table, TableBuilder, TableId, TableMeta};
use crate::version::{Manifest, ManifestPart, Version};

/// The state at a group boundary that a checkpoint persists.
struct Frozen {
    lsn: u64,
    extents: Extents,
    /// Oldest first.
    memtables: Vec<Arc<Memtable>>,
    tail_bytes: u64,
    has_deletes: bool,
}

/// Payload bytes that live or no longer live in each extent.
type LiveChanges = HashMap<u32, i64>;

impl Store {
    /// Writes a checkpoint if anything happened since the last one.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`] if not even the reserve has room; the store goes on and the next
    /// call tries again. [`Error::Failed`] if the disk failed.
    pub fn checkpoint(&self) -> Result<()> {
        let _alone = lock(&self.maintenance);
        self.checkpoint_locked()
    }

    /// Whether a checkpoint is due by the options' limits, or because the last one failed.
    pub fn checkpoint_is_due(&self) -> bool {
        {
            let index = read(&self.index);
            if index.active.bytes() >= self.options.memtable_bytes || !index.frozen.is_empty() {
                return true;
            }
        }
        lock(&self.log).tail_bytes >= self.options.tail_bytes_max
    }

    /// Writes a checkpoint if one is due. `false`: none was.
    pub(crate) fn checkpoint_step(&self) -> Result<bool> {
        let is_due = self.checkpoint_is_due();
        if is_due {
            self.checkpoint()?;
        }
        Ok(is_due)
    }

    /// Why no new data is taken until a checkpoint succeeds, if that is so: the last one found no
    /// space, or it failed otherwise and memory holds as much as it may.
    pub(crate) fn starved(&self) -> Option<Error> {
        let failure = lock(&self.checkpoint_failure).clone()?;
        let is_full = matches!(failure, Error::OutOfSpace);
        (is_full || self.checkpoint_is_overdue()).then_some(failure)
    }

    /// Whether commits should wait until a checkpoint has caught up: memory holds two memtables'
    /// worth, or recovery would have to read twice the tail that it may.
    pub fn checkpoint_is_overdue(&self) -> bool {
        let held = {
            let index = read(&self.index);
            let frozen: usize = index.frozen.iter().map(|memtable| memtable.bytes()).sum();
            index.active.bytes() + frozen
        };
        // A tail without anything in memory is background work's, and no checkpoint shortens it.
        held >= self.options.memtable_bytes.saturating_mul(2)
            || held > 0
                && lock(&self.log).tail_bytes >= self.options.tail_bytes_max.saturating_mul(2)
    }

    pub(crate) fn checkpoint_locked(&self) -> Result<()> {
        if let Some(reason) = self.failure() {
            return Err(Error::Failed { reason });
        }
        self.retire_dead()?;
        let Some(frozen) = self.freeze() else {
            return Ok(());
        };
        let written = self.write_checkpoint(&frozen);
        if written.is_err() {
            lock(&self.log).deletes_since_checkpoint |= frozen.has_deletes;
        }
        *lock(&self.checkpoint_failure) = written.as_ref().err().cloned();
        written
    }

    fn write_checkpoint(&self, frozen: &Frozen) -> Result<()> {
        let (version, changes) = self.write_memtables(frozen)?;
        self.install_tables(frozen, version.clone(), &changes);
        let mut extents = frozen.extents.clone();
        apply_changes(&mut extents, &changes);
        let reset = extents.retired(self.shared.snapshots.oldest());
        extents.recycle(&reset);
        let manifest = Manifest {
            lsn: frozen.lsn,
            extents,
            version: (*version).clone(),
        };
        let roots = self.write_manifest(frozen.lsn, &manifest.encode())?;
        self.write_superblock(frozen.lsn, roots, !reset.is_empty())?;
        let mut log = lock(&self.log);
        let is_data = |extent: &&u32| {
            log.extents
                .get(**extent)
                .is_some_and(|extent| extent.stream.has_entries())
        };
        let data_resets = reset.iter().filter(is_data).count() as u64;
        log.extents.recycle(&reset);
        log.tail_bytes -= frozen.tail_bytes;
        drop(log);
        Counters::add(&self.counters.checkpoints, 1);
        Counters::add(&self.counters.extents_reclaimed, reset.len() as u64);
        Counters::add(&self.counters.data_resets, data_resets);
        Ok(())
    }

    /// Cuts the log at a group boundary. `None`: there is nothing to persist.
    fn freeze(&self) -> Option<Frozen> {
        let _turn = lock(&self.pump_turn);
        let mut plan = lock(&self.plan);
        let mut log = lock(&self.log);
        let mut index = write(&self.index);
        if !self.has_changes(&plan, &log, &index) {
            return None;
        }
        plan.dirty = true;
        // Deletes that come while this is written are not covered by it.
        let has_deletes = std::mem::take(&mut log.deletes_since_checkpoint);
        if !index.active.is_empty() {
            let active = std::mem::take(&mut index.active);
            index.frozen.insert(0, active);
        }
        Some(Frozen {
            lsn: log.next_lsn - 1,
            extents: log.extents.clone(),
            memtables: index.frozen.iter().rev().cloned().collect(),
            tail_bytes: log.tail_bytes,
            has_deletes,
        })
    }

    /// Whether there is anything that the current checkpoint does not say.
    pub(crate) fn has_changes(&self, plan: &Plan, log: &Log, index: &Index) -> bool {
        !index.active.is_empty()
            || !index.frozen.is_empty()
            || !log
                .extents
                .retired(self.shared.snapshots.oldest())
                .is_empty()
            || plan.dirty
            || log.superblock.roots.is_empty()
    }

    fn write_memtables(&self, frozen: &Frozen) -> Result<(Arc<Version>, LiveChanges)> {
        let mut version = (*read(&self.index).version).clone();
        let mut changes = LiveChanges::new();
        for memtable in &frozen.memtables {
            let tables = self.write_memtable(memtable, &version, &mut changes)?;
            for table in tables {
                version.levels[0].insert(0, Arc::new(Table { meta: table }));
            }
        }
        Ok((Arc::new(version), changes))
    }

    /// Writes one memtable; disjoint tables if it needs more than one.
    fn write_memtable(
        &self,
        memtable: &Arc<Memtable>,
        version: &Version,
        changes: &mut LiveChanges,
    ) -> Result<Vec<TableMeta>> {
        let cursor = MemtableCursor::new(memtable.clone(), u64::MAX, &[], None, 128);
        let mut merged = Merged::new(vec![Source::Memtable(cursor)]);
        // Keys come in order, so what is read for one serves the next.
        let reader = self.table_reader(Read::Blocking, true);
        let mut writer = TablesWriter::new(self, Class::Checkpoint);
        while let Some((key, mut record)) = merged.next(None, &reader)? {
            let stem = &key[..record.stem_len as usize];
            match version.get(&key, filter_hash(stem), None, &reader) {
                Ok(prior) => {
                    let forgotten = mutants::on(Mutant::M28) && record.locator().is_some();
                    let dead = prior.as_ref().and_then(Record::locator);
                    count_live(changes, dead.filter(|_| !forgotten), -1);
                    record.oldest = record.oldest.min(prior.map_or(u64::MAX, |p| p.oldest));
                }
                // The index is damaged there. What the key was before stays counted as live,
                // and how old its frames are is not known; without this checkpoint nothing
                // would be taken any more.
                Err(error @ (Error::Corrupt { .. } | Error::Disk(_))) => {
                    self.report_damage(&error);
                    record.oldest = 0;
                }
                Err(error) => return Err(error),
            }
            count_live(changes, record.locator(), 1);
            writer.add(&key, &record)?;
        }
        writer.finish()
    }

    fn install_tables(&self, frozen: &Frozen, version: Arc<Version>, changes: &LiveChanges) {
        let mut log = lock(&self.log);
        let mut index = write(&self.index);
        index.version = version;
        index
            .frozen
            .retain(|kept| !frozen.memtables.iter().any(|done| Arc::ptr_eq(kept, done)));
        apply_changes(&mut log.extents, changes);
    }

    fn write_manifest(&self, lsn: u64, bytes: &[u8]) -> Result<Vec<FrameRef>> {
        let part_bytes = self.geometry().payload_bytes_max as usize;
        if bytes.len().div_ceil(part_bytes) > MANIFEST_PARTS_MAX {
            return Err(Error::TooLarge {
                what: "the manifest",
                is: bytes.len(),
                limit: part_bytes * MANIFEST_PARTS_MAX,
            });
        }
        let mut roots = Vec::new();
        let count = bytes.len().div_ceil(part_bytes) as u32;
        for (number, part) in (0..).zip(bytes.chunks(part_bytes)) {
            let part_of = ManifestPart { lsn, number, count };
            roots.push(self.append_and_wait(|done| {
                let payload = vec![part.to_vec()];
                let what = (Kind::Manifest, Stream::Manifest, Class::Checkpoint);
                let mut append = self.background(what, Vec::new(), payload, done);
                part_of.encode(&mut append.body);
                append.body_checksum = self.shared.medium.checksummer.of(&[&append.body]);
                append
            })?);
        }
        roots.iter().try_for_each(|root| self.verify_copy(root))?;
        Ok(roots)
    }

    /// Makes a manifest the current one; `resets`: it says that extents are free again.
    fn write_superblock(&self, lsn: u64, roots: Vec<FrameRef>, resets: bool) -> Result<()> {
        let superblock = {
            let log = lock(&self.log);
            Superblock {
                generation: log.superblock.generation + 1,
                checkpoint_lsn: lsn,
                // Whatever an earlier open wrote behind this lsn was dropped by recovery.
                floor: self.generation,
                written_at_ms: (self.options.clock)(),
                roots,
                ..log.superblock.clone()
            }
        };
        let disk = &*self.shared.medium.disk;
        let stored = if resets && mutants::on(Mutant::M3) {
            disk.write(SUPERBLOCK_OFFSETS[0], &[&superblock.encode()])
                .map_err(Error::from)
        } else {
            superblock.store(disk, SUPERBLOCK_OFFSETS)
        };
        stored.map_err(|error| self.fail(&error))?;
        lock(&self.log).superblock = superblock;
        lock(&self.plan).dirty = false;
        Ok(())
    }

    /// A table id that no table on this disk ever had: the number of this open, and one of the
    /// table.
    pub(crate) fn next_table_id(&self) -> TableId {
        let mut plan = lock(&self.plan);
        plan.next_table = plan.next_table.wrapping_add(1);
        (self.epoch << 32) | u64::from(plan.next_table)
    }

    /// Appends a table chunk.
    pub(crate) fn append_chunk(
        &self,
        table: TableId,
        chunk: u32,
        payload: Vec<u8>,
        class: Class,
    ) -> Result<FrameRef> {
        self.append_and_wait(|done| self.chunk_append((table, chunk, class), payload, done))
    }

    fn chunk_append(
        &self,
        (table, chunk, class): (TableId, u32, Class),
        payload: Vec<u8>,
        done: Done,
    ) -> Append {
        let mut append = self.background(
            (Kind::Table, Stream::Index, class),
            Vec::new(),
            vec![payload],
            done,
        );
        append.body.put_u64(table);
        append.body.put_u32(chunk);
        append.body_checksum = self.shared.medium.checksummer.of(&[&append.body]);
        append
    }
}

/// Cuts a sorted sequence of records into tables and verifies each on stable storage.
pub(crate) struct TablesWriter<'a> {
    store: &'a Store,
    class: Class,
    /// Records of the table that is being built; written out when it is full, so that one
    /// builder's borrow of the sink stays within a call.
    pending: Vec<(Box<[u8]>, Record)>,
    pending_bytes: u64,
    tables: Vec<TableMeta>,
}

struct Sink<'a>(&'a Store, Class);

impl ChunkSink for Sink<'_> {
    fn append(&mut self, table: TableId, chunk: u32, payload: Vec<u8>) -> Result<FrameRef> {
        self.0.append_chunk(table, chunk, payload, self.1)
    }
}

impl<'a> TablesWriter<'a> {
    pub fn new(store: &'a Store, class: Class) -> TablesWriter<'a> {
        TablesWriter {
            store,
            class,
            pending: Vec::new(),
            pending_bytes: 0,
            tables: Vec::new(),
        }
    }

    pub fn add(&mut self, key: &[u8], record: &Record) -> Result<()> {
        self.pending_bytes += (key.len() + record.heap_bytes() + 32) as u64;
        self.pending.push((key.into(), record.clone()));
        if self.pending_bytes >= self.store.options.table_bytes as u64 {
            self.end_table()?;
        }
        Ok(())
    }

    fn end_table(&mut self) -> Result<()> {
        let records = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let mut rest = records.iter().peekable();
        while rest.peek().is_some() {
            let mut sink = Sink(self.store, self.class);
            let id = self.store.next_table_id();
            let mut builder = TableBuilder::new(&self.store.shared.medium, id, &mut sink);
            while !builder.is_full() {
                let Some((key, record)) = rest.next() else {
                    break;
                };
                builder.add(key, record)?;
            }
            let Some(table) = builder.finish()? else {
                continue;
            };
            table
                .chunks
                .iter()
                .try_for_each(|chunk| self.store.verify_copy(chunk))?;
            self.tables.push(table);
        }
        Ok(())
    }

    /// The tables, in key order.
    pub fn finish(mut self) -> Result<Vec<TableMeta>> {
        self.end_table()?;
        Ok(self.tables)
    }
}

/// Bytes of an extent that a payload keeps alive: its frame, if nothing else is in there.
pub(crate) fn live_bytes(locator: &Locator) -> u64 {
    if locator.payload_len == locator.frame.payload_len {
        u64::from(align_frame(locator.frame.len() as u32))
    } else {
        u64::from(locator.payload_len)
    }
}

fn count_live(changes: &mut LiveChanges, locator: Option<&Locator>, sign: i64) {
    if let Some(locator) = locator {
        *changes.entry(locator.frame.extent).or_insert(0) += sign * live_bytes(locator) as i64;
    }
}

fn apply_changes(extents: &mut Extents, changes: &LiveChanges) {
    for (extent, change) in changes {
        if extents.get(*extent).is_some() {
            let entry = extents.get_mut(*extent);
            entry.live = entry.live.saturating_add_signed(*change);
            entry.peak = entry.peak.max(entry.live);
        }
    }
}
