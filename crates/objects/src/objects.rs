//! The store of objects: what every operation shares. The operations themselves stand in the
//! files named after them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use volume::{BlobId, BlobRef, Deletion, Dependency, SliceId, Volume, VolumeError, VolumeStats};

use crate::block_on::block_on;
use crate::change::{Change, Current, Submission};
use crate::commit::Commit;
use crate::keys::{BucketId, object_slice, object_stem};
use crate::limits::{BUCKETS_PER_ACCOUNT_MAX, NOTES_MAX, NOTES_PER_BATCH, REGION_BYTES_MAX};
use crate::locks::{Guards, Locks};
use crate::meta_store::{MetaStore, MetaView};
use crate::record::ObjectRecord;
use crate::sweep::Sweep;
use crate::{Error, Result};

/// Knobs; every one may be chosen anew at each start.
#[derive(Debug, Clone)]
pub struct ObjectsOptions {
    /// The region that new buckets are in, at most 64 bytes.
    pub region: String,
    /// Most buckets of one account.
    pub buckets_per_account_max: u64,
}

impl Default for ObjectsOptions {
    fn default() -> Self {
        ObjectsOptions {
            region: "us-east-1".to_owned(),
            buckets_per_account_max: BUCKETS_PER_ACCOUNT_MAX,
        }
    }
}

/// The store, for metrics.
#[derive(Debug, Clone, Default)]
pub struct ObjectsStats {
    /// Puts whose body is being written.
    pub open_writers: u64,
    /// Replaced or deleted bodies whose space is not given back yet.
    pub pending_deletes: u64,
    /// Blobs of earlier runs that the sweep found without a record and deleted.
    pub swept_blobs: u64,
    /// Blobs of earlier runs that the sweep could not attribute and kept.
    pub unattributed_blobs: u64,
    /// Whether the sweep of earlier runs is through.
    pub sweep_done: bool,
    /// The disks.
    pub volume: VolumeStats,
}

/// The store of objects. Clones share it.
///
/// Every async function may be dropped at any point: a change that was submitted still
/// happens as a whole, one that was not leaves nothing behind.
#[derive(Clone)]
pub struct Objects {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) meta: Arc<dyn MetaStore>,
    pub(crate) volume: Volume,
    pub(crate) options: ObjectsOptions,
    pub(crate) locks: Locks,
    pub(crate) open_writers: AtomicU64,
    pub(crate) sweep: Sweep,
    next_sequence: AtomicU64,
    closed: AtomicBool,
    notes: Notes,
}

/// Bits of a commit sequence that count within one run; the others are the epoch, the number
/// of the run.
const SEQUENCE_BITS: u32 = 40;

/// Commit sequences are never from a clock: each run begins a new range above all earlier
/// ones, because the volume's epoch, which counts runs, has grown. 24 bits are a start every
/// minute for thirty years.
fn first_sequence(epoch: u64) -> Result<u64> {
    if epoch >> (u64::BITS - SEQUENCE_BITS) != 0 {
        return Err(Error::Internal(format!(
            "the disks are in their run number {epoch}, and commit sequences count {} runs",
            1_u64 << (u64::BITS - SEQUENCE_BITS)
        )));
    }
    Ok(epoch << SEQUENCE_BITS)
}

impl Objects {
    /// The store on a volume. Blocks for a few reads.
    pub fn open(volume: Volume, options: ObjectsOptions) -> Result<Objects> {
        if options.region.len() > REGION_BYTES_MAX {
            let region = &options.region;
            return Err(Error::Internal(format!(
                "the region {region:?} has too long a name"
            )));
        }
        let next_sequence = AtomicU64::new(first_sequence(volume.epoch())?);
        let meta: Arc<dyn MetaStore> = Arc::new(volume.clone());
        let sweep = block_on(Sweep::load(&*meta.view()))?;
        Ok(Objects {
            inner: Arc::new(Inner {
                meta,
                volume,
                options,
                locks: Locks::new(),
                open_writers: AtomicU64::new(0),
                sweep,
                next_sequence,
                closed: AtomicBool::new(false),
                notes: Notes::default(),
            }),
        })
    }

    /// Refuses new requests, waits for the changes that were submitted, checkpoints, and
    /// closes the disks. Blocks; puts whose body is still being written fail.
    pub fn close(&self) -> Result<()> {
        self.inner.closed.store(true, Ordering::SeqCst);
        block_on(self.inner.locks.drain());
        self.inner.note_clean_close();
        Ok(self.inner.volume.close()?)
    }

    /// For metrics.
    pub fn stats(&self) -> ObjectsStats {
        ObjectsStats {
            open_writers: self.inner.open_writers.load(Ordering::Relaxed),
            pending_deletes: self.inner.notes.len(),
            swept_blobs: self.inner.sweep.swept(),
            unattributed_blobs: self.inner.sweep.unattributed(),
            sweep_done: self.inner.sweep.is_done(),
            volume: self.inner.volume.stats(),
        }
    }

    /// The first failure of a disk, if one has failed.
    pub fn failure(&self) -> Option<String> {
        self.inner.volume.failure()
    }
}

impl Inner {
    pub(crate) fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(Error::Closed),
        }
    }

    /// A commit sequence above all before. Taken under the lock of the key it is for, so
    /// that a key's versions are in the order of their commits.
    pub(crate) fn next_sequence(&self) -> Result<u64> {
        let sequence = self.next_sequence.fetch_add(1, Ordering::Relaxed);
        if sequence >> SEQUENCE_BITS != self.volume.epoch() {
            return Err(Error::Internal(
                "no commit sequence is left in this run".to_owned(),
            ));
        }
        Ok(sequence)
    }

    /// The slice and the stem of an object.
    pub(crate) fn object_place(&self, bucket: BucketId, key: &str) -> (SliceId, Vec<u8>) {
        let slice = object_slice(self.meta.slices(), bucket, key.as_bytes());
        (slice, object_stem(slice, bucket, key.as_bytes()))
    }

    /// The first version of a stem.
    pub(crate) async fn current(
        &self,
        view: &dyn MetaView,
        stem: &[u8],
    ) -> Result<Option<Current>> {
        let Some(entry) = view.first(stem).await? else {
            return Ok(None);
        };
        let record = ObjectRecord::decode(&entry.value)?;
        Ok(Some(Current {
            key: entry.key,
            record,
            body_len: entry.body_len,
        }))
    }

    /// Submits a change. The caller holds the key's lock in `guards` since before it read
    /// `change.current`. Does not wait, so that there is no point at which a caller that goes
    /// away leaves half a change.
    pub(crate) fn submit(&self, change: Change, guards: Guards) -> Result<Commit> {
        let Submission {
            batch,
            new_blob,
            old_blob,
        } = change.into_batch(self.next_sequence()?);
        let dependency = self.meta.commit(batch)?;
        if let Some(blob) = old_blob {
            self.delete_noted(&blob, vec![dependency.clone()]);
        }
        Ok(Commit::new(dependency, guards, new_blob))
    }

    /// Deletes a blob of which a note tells, once everything in `after` is persistent.
    pub(crate) fn delete_noted(&self, blob: &BlobRef, after: Vec<Dependency>) {
        if self.notes.admit(blob.id) {
            self.notes
                .push(blob.id, self.volume.delete_blob(blob, after));
        }
    }

    pub(crate) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Whether nothing that this run began to delete is left.
    pub(crate) fn nothing_left_over(&self) -> bool {
        self.open_writers.load(Ordering::SeqCst) == 0 && self.volume.deletions_settled()
    }
}

/// Blobs whose record is gone, and whose own deletion is under way. Each has a note among the
/// metadata, committed with the batch that took its record away, so that it is found again:
/// after a restart, and when there are more than are kept here. The sweep takes the notes of
/// settled deletions away.
#[derive(Default)]
pub(crate) struct Notes {
    list: Mutex<NoteList>,
    /// Some note is on the disks that is not here.
    forgotten: AtomicBool,
}

#[derive(Default)]
struct NoteList {
    queue: VecDeque<(BlobId, Deletion)>,
    /// The blobs that are in the queue, or on their way into or out of it.
    known: BTreeSet<BlobId>,
}

impl Notes {
    fn lock(&self) -> MutexGuard<'_, NoteList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the blob's deletion is to be begun: it is not under way, and there is room.
    fn admit(&self, blob: BlobId) -> bool {
        let mut list = self.lock();
        if list.known.len() >= NOTES_MAX && !list.known.contains(&blob) {
            self.forgotten.store(true, Ordering::SeqCst);
            return false;
        }
        list.known.insert(blob)
    }

    /// Adds what was admitted.
    fn push(&self, blob: BlobId, deletion: Deletion) {
        self.lock().queue.push_back((blob, deletion));
    }

    pub(crate) fn len(&self) -> u64 {
        self.lock().known.len() as u64
    }

    /// Whether there is room for a page of notes.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().known.len() + NOTES_PER_BATCH <= NOTES_MAX
    }

    /// Whether some note was forgotten since this was asked last.
    pub(crate) fn take_forgotten(&self) -> bool {
        self.forgotten.swap(false, Ordering::SeqCst)
    }

    /// Some blobs whose deletion is durable. Looks at a few at the front, and moves those
    /// that are not behind the others, so that one that waits for its reader is in nobody's
    /// way.
    pub(crate) fn take_settled(&self) -> Vec<(BlobId, Deletion)> {
        let mut list = self.lock();
        let mut settled = Vec::new();
        for _ in 0..list.queue.len().min(2 * NOTES_PER_BATCH) {
            let Some((blob, deletion)) = list.queue.pop_front() else {
                break;
            };
            match deletion.outcome() {
                Some(Ok(())) => settled.push((blob, deletion)),
                None => list.queue.push_back((blob, deletion)),
                Some(Err(error)) => {
                    // It was given up; or the batch that was to take its record away failed,
                    // and there is no note.
                    list.known.remove(&blob);
                    if matches!(error, VolumeError::Busy) {
                        self.forgotten.store(true, Ordering::SeqCst);
                    }
                }
            }
            if settled.len() == NOTES_PER_BATCH {
                break;
            }
        }
        settled
    }

    /// Their notes are gone.
    pub(crate) fn forget(&self, settled: &[(BlobId, Deletion)]) {
        let mut list = self.lock();
        for (blob, _) in settled {
            list.known.remove(blob);
        }
    }

    /// What could not be taken away after all.
    pub(crate) fn put_back(&self, settled: Vec<(BlobId, Deletion)>) {
        self.lock().queue.extend(settled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_of_a_later_run_are_larger() {
        assert!(first_sequence(2).unwrap() > first_sequence(1).unwrap() + (1 << 39));
        assert!(first_sequence((1 << 24) - 1).is_ok());
        assert!(first_sequence(1 << 24).is_err());
    }

    /// What there is no room for is found again by a scan, which is asked for.
    #[test]
    fn notes_are_bounded() {
        let notes = Notes::default();
        let blob = |counter| BlobId { epoch: 1, counter };
        assert!(notes.admit(blob(0)));
        assert!(!notes.admit(blob(0)), "it is under way");
        assert!((1..NOTES_MAX as u64).all(|counter| notes.admit(blob(counter))));
        assert!(!notes.take_forgotten());
        assert!(!notes.admit(blob(NOTES_MAX as u64)));
        assert!(notes.take_forgotten() && !notes.take_forgotten());
        assert!(!notes.has_room());
    }
}
