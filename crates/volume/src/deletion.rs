//! Deleting blobs: tombstones for every shard, a bounded batch at a time.
//!
//! Stripes go from the last to the first, so that as long as anything of a blob remains, its
//! first frame says what it was.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use shardstore::{Batch, Dependency};

use crate::blob::shard_key;
use crate::volume::lock;
use crate::{BlobId, Result, Volume, VolumeError};

/// A blob's deletion that was asked for. Clones share it; dropping it changes nothing.
#[derive(Clone)]
pub struct Deletion(Arc<Mutex<State>>);

struct State {
    blob: BlobId,
    width: u8,
    /// Stripes `0..remaining` have no tombstone submitted yet.
    remaining: u32,
    /// What every batch comes after. If one of these fails, the blob stays.
    after: Vec<Dependency>,
    /// The last batch that was submitted. Batches before it are durable.
    last: Option<Dependency>,
    /// What `remaining` was before it.
    before_last: u32,
}

/// How far a deletion is.
enum Progress {
    /// A batch can be submitted.
    Ready,
    /// The last batch is under way.
    UnderWay,
    Settled(Result<()>),
}

impl Deletion {
    fn new(blob: BlobId, stripes: u32, width: u8, after: Vec<Dependency>) -> Deletion {
        Deletion(Arc::new(Mutex::new(State {
            blob,
            width,
            remaining: stripes,
            after,
            last: None,
            before_last: stripes,
        })))
    }

    /// `None` while it is not durable; an error if it failed for good, so that the blob stays.
    pub fn outcome(&self) -> Option<Result<()>> {
        match lock(&self.0).progress() {
            Progress::Settled(outcome) => Some(outcome),
            Progress::Ready | Progress::UnderWay => None,
        }
    }

    fn is_ready(&self) -> bool {
        matches!(lock(&self.0).progress(), Progress::Ready)
    }

    /// Submits one batch if the one before is decided and something remains.
    /// `false`: nothing could be submitted now.
    fn advance(&self, volume: &Volume) -> Result<bool> {
        let mut state = lock(&self.0);
        if !matches!(state.progress(), Progress::Ready) {
            return Ok(false);
        }
        if state
            .last
            .as_ref()
            .is_some_and(|last| !last.is_persistent())
        {
            state.remaining = state.before_last;
        }
        let stripes = (volume.delete_shards_max() / usize::from(state.width)).max(1);
        // At most DELETE_SHARDS_MAX, so it fits.
        let next = state.remaining.saturating_sub(stripes as u32);
        let mut batch = Batch::new().frees_space();
        for dependency in &state.after {
            batch = batch.after(dependency.clone());
        }
        for stripe in (next..state.remaining).rev() {
            for shard in 0..state.width {
                batch = batch.delete(shard_key(state.blob, stripe, shard));
            }
        }
        let disk = volume.shard_disk(state.blob, next, 0);
        match volume
            .engine(disk)?
            .submit(batch)
            .map_err(VolumeError::from)
        {
            Ok(dependency) => {
                state.last = Some(dependency);
                state.before_last = state.remaining;
                state.remaining = next;
                Ok(true)
            }
            Err(VolumeError::Busy) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl State {
    fn progress(&self) -> Progress {
        let failed = |dependency: &Dependency| match dependency.poll_now() {
            Some(Err(error)) => Some(error),
            _ => None,
        };
        if let Some(error) = self.after.iter().find_map(failed) {
            return Progress::Settled(Err(error.into()));
        }
        match self.last.as_ref().map(Dependency::poll_now) {
            Some(None) => Progress::UnderWay,
            // Room for tombstones comes back with reclamation: once more.
            Some(Some(Err(shardstore::Error::OutOfSpace))) => Progress::Ready,
            Some(Some(Err(error))) => Progress::Settled(Err(error.into())),
            Some(Some(Ok(()))) if self.remaining == 0 => Progress::Settled(Ok(())),
            Some(Some(Ok(()))) | None => Progress::Ready,
        }
    }
}

/// The deletions of a volume that are not settled.
#[derive(Default)]
pub(crate) struct Deletions {
    list: Mutex<List>,
    /// Asked for where nothing could be submitted. Held only to push and to take, so that
    /// whoever decides a dependency may push whatever locks it holds.
    later: Mutex<Vec<Deletion>>,
}

#[derive(Default)]
struct List {
    unsettled: VecDeque<Deletion>,
    failed: u64,
}

impl List {
    /// Forgets settled deletions: those at the front, or all.
    fn forget_settled(&mut self, all: bool) {
        let mut failed = 0;
        let mut keep = |deletion: &Deletion| match deletion.outcome() {
            None => true,
            Some(outcome) => {
                failed += u64::from(outcome.is_err());
                false
            }
        };
        if all {
            self.unsettled.retain(&mut keep);
        } else {
            while self
                .unsettled
                .front()
                .is_some_and(|deletion| !keep(deletion))
            {
                self.unsettled.pop_front();
            }
        }
        self.failed += failed;
    }
}

impl Deletions {
    pub(crate) fn start(
        &self,
        volume: &Volume,
        blob: BlobId,
        stripes: u32,
        width: u8,
        after: Vec<Dependency>,
    ) -> Deletion {
        let deletion = Deletion::new(blob, stripes, width, after);
        // An error is seen again by the step that takes it up.
        let _ = deletion.advance(volume);
        let mut list = lock(&self.list);
        list.forget_settled(false);
        list.unsettled.push_back(deletion.clone());
        deletion
    }

    /// Leaves all of it to a later step. Takes no lock that is held while anything is
    /// submitted.
    pub(crate) fn start_later(&self, blob: BlobId, stripes: u32, width: u8) {
        lock(&self.later).push(Deletion::new(blob, stripes, width, Vec::new()));
    }

    /// Takes up the oldest deletion that has something left to submit, and waits for the
    /// batch.
    pub(crate) fn step(&self, volume: &Volume) -> Result<bool> {
        let next = {
            let later = std::mem::take(&mut *lock(&self.later));
            let mut list = lock(&self.list);
            list.forget_settled(true);
            list.unsettled.extend(later);
            list.unsettled
                .iter()
                .find(|deletion| deletion.is_ready())
                .cloned()
        };
        let Some(deletion) = next else {
            return Ok(false);
        };
        if !deletion.advance(volume)? {
            return Ok(false);
        }
        let submitted = lock(&deletion.0).last.clone();
        match submitted.map_or(Ok(()), |submitted| submitted.wait()) {
            Ok(()) | Err(shardstore::Error::OutOfSpace) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Unsettled, and failed since the start.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let later = lock(&self.later).len();
        let mut list = lock(&self.list);
        list.forget_settled(true);
        ((list.unsettled.len() + later) as u64, list.failed)
    }
}
