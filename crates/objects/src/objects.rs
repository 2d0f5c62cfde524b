//! The store of objects: what every operation shares. The operations themselves stand in the
//! files named after them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use volume::{SliceId, Volume, VolumeStats};

use crate::account_buckets;
use crate::change::{Change, Current, Submission};
use crate::commit::Commit;
use crate::garbage::Notes;
use crate::keys::{BucketId, object_slice, object_stem};
use crate::limits::{BUCKETS_PER_ACCOUNT_MAX, PART_BYTES_MIN, REGION_BYTES_MAX};
use crate::locks::{Guards, Locks};
use crate::meta_store::{MetaStore, MetaView};
use crate::record::ObjectRecord;
use crate::sweep::Sweep;
use crate::{Error, Result};
use volume::block_on;

/// Knobs; every one may be chosen anew at each start.
#[derive(Debug, Clone)]
pub struct ObjectsOptions {
    /// The region that new buckets are in, at most 64 bytes.
    pub region: String,
    /// Most buckets of one account.
    pub buckets_per_account_max: u64,
    /// Least bytes of each part of an upload but the last.
    pub part_bytes_min: u64,
}

impl Default for ObjectsOptions {
    fn default() -> Self {
        ObjectsOptions {
            region: "us-east-1".to_owned(),
            buckets_per_account_max: BUCKETS_PER_ACCOUNT_MAX,
            part_bytes_min: PART_BYTES_MIN,
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
        block_on(account_buckets::complete(&*meta))?;
        let sweep = block_on(Sweep::load(&*meta.view()))?;
        let objects = Objects {
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
        };
        objects.offer_census();
        Ok(objects)
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
        let slice = object_slice(&self.meta.slices(), bucket, key.as_bytes());
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
            garbage,
        } = change.into_batch(self.next_sequence()?)?;
        let dependency = self.meta.commit(batch)?;
        if let Some(garbage) = garbage {
            self.release(&garbage, vec![dependency.clone()]);
        }
        Ok(Commit::new(dependency, guards, new_blob))
    }

    pub(crate) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Whether nothing that this run began to delete is left.
    pub(crate) fn nothing_left_over(&self) -> bool {
        self.open_writers.load(Ordering::SeqCst) == 0 && self.volume.deletions_settled()
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
}
