//! Deleting blobs: tombstones for every shard, a bounded batch at a time.
//!
//! A deletion begins when what it comes after is persistent and nobody reads the blob (see
//! `pins`). Stripes go from the last to the first, so that as long as anything of a blob remains, its
//! first frame says what it was.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use shardstore::{Batch, Dependency, Read, Snapshot};

use crate::blob::shard_key;
use crate::limits::{DELETIONS_MAX, DELETIONS_PER_STEP};
use crate::pins::Pins;
use crate::volume::lock;
use crate::{BlobId, Result, Volume, VolumeError, join, placement};

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
    /// Too many were waiting: nothing is going to happen.
    given_up: bool,
    /// Nobody reads the blob, and nothing of it was to be deleted.
    unread: bool,
    /// A disk that fails meanwhile is taken out of the set, and the others go on.
    outlives_disks: bool,
}

/// How far a deletion is.
enum Progress {
    /// A batch can be submitted.
    Ready,
    /// The last batch is under way, or what comes before the first one.
    UnderWay,
    Settled(Result<()>),
}

impl Deletion {
    fn new(
        volume: &Volume,
        blob: BlobId,
        stripes: u32,
        width: u8,
        after: Vec<Dependency>,
    ) -> Deletion {
        Deletion(Arc::new(Mutex::new(State {
            blob,
            width,
            remaining: stripes,
            after,
            last: None,
            before_last: stripes,
            given_up: false,
            unread: false,
            outlives_disks: !volume.table().is_single(),
        })))
    }

    /// `None` while it is not durable; an error if it failed for good, so that the blob stays.
    pub fn outcome(&self) -> Option<Result<()>> {
        match lock(&self.0).progress() {
            Progress::Settled(outcome) => Some(outcome),
            Progress::Ready | Progress::UnderWay => None,
        }
    }

    /// Whether both are the same deletion.
    pub(crate) fn is(&self, other: &Deletion) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Submits one batch if the one before is decided and something remains.
    fn advance(&self, volume: &Volume) -> Result<Advance> {
        let mut state = lock(&self.0);
        // What was begun on several disks outlives one of them, also if one is left.
        state.outlives_disks |= !volume.table().is_single();
        match state.progress() {
            Progress::Ready => {}
            Progress::UnderWay => return Ok(Advance::Later),
            Progress::Settled(outcome) => {
                volume.pins().settle(state.blob);
                let failed = outcome.is_err() && state.is_wanted();
                return Ok(Advance::Settled { failed });
            }
        }
        // Once begun, nobody can come to read the blob: its record was gone before.
        if state.last.is_none() && volume.pins().park(state.blob, self) {
            return Ok(Advance::Parked);
        }
        if state.last.is_none() && state.remaining == 0 {
            volume.pins().settle(state.blob);
            state.unread = true;
            return Ok(Advance::Settled { failed: false });
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
        match submit_tombstones(volume, state.blob, next..state.remaining, state.width) {
            Ok(dependency) => {
                state.last = Some(dependency.clone());
                state.before_last = state.remaining;
                state.remaining = next;
                Ok(Advance::Submitted(dependency))
            }
            Err(VolumeError::Busy) => Ok(Advance::Later),
            Err(error) => Err(error),
        }
    }
}

/// Submits the tombstones of some stripes' shards, to whichever disks may hold any.
fn submit_tombstones(
    volume: &Volume,
    blob: BlobId,
    stripes: Range<u32>,
    width: u8,
) -> Result<Dependency> {
    let table = volume.table();
    if table.is_single() {
        let mut batch = Batch::new().frees_space();
        for stripe in stripes.rev() {
            for shard in 0..width {
                batch = batch.delete(shard_key(blob, stripe, shard));
            }
        }
        return Ok(table.engine(table.primary()?)?.submit(batch)?);
    }
    // What nobody can refer to any more must not go while it is not known whether that is so.
    if table.refusal().is_some() {
        return Err(VolumeError::Busy);
    }
    let places = table.places_here();
    let mut disks: BTreeMap<usize, (Snapshot, Batch)> = BTreeMap::new();
    for slot in table.live() {
        let snapshot = table.engine(slot)?.snapshot();
        disks.insert(slot, (snapshot, Batch::new().frees_space()));
    }
    for stripe in stripes.rev() {
        let order = placement::order(blob, stripe, &places);
        for (shard, at) in (0..width).zip(0..) {
            let key = shard_key(blob, stripe, shard);
            for (slot, (snapshot, batch)) in &mut disks {
                // Where it is expected it is as a rule; elsewhere it is asked, as far as memory
                // knows, because a disk may have been full or away.
                let is_expected = order.get(at) == Some(slot);
                let holds = || !matches!(snapshot.get(&key, Read::Nowait), Ok(None));
                if is_expected || holds() {
                    *batch = std::mem::take(batch).delete(key.clone());
                }
            }
        }
    }
    let mut dependencies: Vec<Dependency> = volume.note_gone(&table, blob)?.into_iter().collect();
    for (slot, (_, batch)) in disks {
        if !batch.entries().is_empty() {
            let submitted = table.engine(slot)?.submit(batch);
            dependencies.push(match submitted {
                Ok(dependency) => dependency,
                // The disk is about to be taken out of the set.
                Err(shardstore::Error::Failed { .. }) => return Err(VolumeError::Busy),
                Err(error) => return Err(error.into()),
            });
        }
    }
    Ok(join::all(dependencies))
}

/// What became of an attempt to go on.
enum Advance {
    Submitted(Dependency),
    /// Left to the blob's last reader.
    Parked,
    /// Nothing can be submitted now.
    Later,
    Settled {
        failed: bool,
    },
}

impl State {
    /// Whether nothing that it comes after has failed. If a batch failed that was to end a
    /// record, the blob stays by right.
    fn is_wanted(&self) -> bool {
        let failed = |after: &Dependency| matches!(after.poll_now(), Some(Err(_)));
        !self.after.iter().any(failed)
    }

    fn progress(&self) -> Progress {
        let failed = |dependency: &Dependency| match dependency.poll_now() {
            Some(Err(error)) => Some(error),
            _ => None,
        };
        if self.given_up {
            return Progress::Settled(Err(VolumeError::Busy));
        }
        if self.unread {
            return Progress::Settled(Ok(()));
        }
        if let Some(error) = self.after.iter().find_map(failed) {
            return Progress::Settled(Err(error.into()));
        }
        if !self.after.iter().all(Dependency::is_persistent) {
            return Progress::UnderWay;
        }
        match self.last.as_ref().map(Dependency::poll_now) {
            Some(None) => Progress::UnderWay,
            // Room for tombstones comes back with reclamation, in the queue with time: once more.
            Some(Some(Err(shardstore::Error::OutOfSpace | shardstore::Error::Busy))) => {
                Progress::Ready
            }
            Some(Some(Err(shardstore::Error::Failed { .. }))) if self.outlives_disks => {
                Progress::Ready
            }
            Some(Some(Err(error))) => Progress::Settled(Err(error.into())),
            Some(Some(Ok(()))) if self.remaining == 0 => Progress::Settled(Ok(())),
            Some(Some(Ok(()))) | None => Progress::Ready,
        }
    }
}

/// The deletions of a volume that are not settled, but for those that are parked.
#[derive(Default)]
pub(crate) struct Deletions {
    list: Mutex<List>,
    /// To be moved to the list. Held only to push and to take, so that whoever decides a
    /// dependency may push whatever locks it holds. At most one for each blob that is being
    /// read or written.
    later: Mutex<Vec<Deletion>>,
}

#[derive(Default)]
struct List {
    unsettled: VecDeque<Deletion>,
    /// Deletions that a step has in its hands.
    in_step: usize,
    failed: u64,
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
        let deletion = Deletion::new(volume, blob, stripes, width, after);
        {
            // In the list before anything is submitted: a deletion that counts nowhere would
            // let a clean end be noted that is none.
            let mut list = lock(&self.list);
            if list.unsettled.len() >= DELETIONS_MAX {
                list.failed += 1;
                lock(&deletion.0).given_up = true;
                return deletion;
            }
            list.unsettled.push_back(deletion.clone());
        }
        // One that comes after something is left to a step. An error is seen again there.
        if lock(&deletion.0).after.is_empty() {
            let _ = deletion.advance(volume);
        }
        deletion
    }

    /// Leaves all of it to a later step. Takes no lock that is held while anything is
    /// submitted.
    pub(crate) fn start_later(
        &self,
        volume: &Volume,
        blob: BlobId,
        stripes: u32,
        width: u8,
        after: Vec<Dependency>,
    ) {
        let deletion = Deletion::new(volume, blob, stripes, width, after);
        lock(&self.later).push(deletion);
    }

    /// Takes deletions up again whose blobs nobody reads any more.
    pub(crate) fn unpark(&self, parked: Vec<Deletion>) {
        if !parked.is_empty() {
            lock(&self.later).extend(parked);
        }
    }

    /// Takes up the oldest deletions, and waits for what it submitted.
    pub(crate) fn step(&self, volume: &Volume) -> Result<bool> {
        let taken: Vec<Deletion> = {
            let mut list = lock(&self.list);
            let later = std::mem::take(&mut *lock(&self.later));
            list.unsettled.extend(later);
            let count = list.unsettled.len().min(DELETIONS_PER_STEP);
            list.in_step += count;
            list.unsettled.drain(..count).collect()
        };
        let (count, mut failed, mut left) = (taken.len(), 0, Vec::new());
        let (mut submitted, mut outcome) = (None, Ok(()));
        for deletion in taken {
            match deletion.advance(volume) {
                Ok(Advance::Submitted(dependency)) => {
                    submitted = Some(dependency);
                    left.push(deletion);
                }
                Ok(Advance::Later) => left.push(deletion),
                Ok(Advance::Parked) => {}
                Ok(Advance::Settled { failed: true }) => failed += 1,
                Ok(Advance::Settled { failed: false }) => {}
                Err(error) => {
                    outcome = Err(error);
                    left.push(deletion);
                }
            }
        }
        {
            let mut list = lock(&self.list);
            list.unsettled.extend(left);
            list.in_step -= count;
            list.failed += failed;
        }
        outcome?;
        // An engine commits in the order of submission: on one disk the last one stands for all.
        // On several it only keeps the steps from running ahead.
        match submitted.map(|submitted| submitted.wait()) {
            None => Ok(false),
            Some(Ok(()) | Err(shardstore::Error::OutOfSpace | shardstore::Error::Busy)) => Ok(true),
            // Looked at again with the next step.
            Some(Err(shardstore::Error::Failed { .. })) if !volume.table().is_single() => Ok(true),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Unsettled ones, and those that failed since the start.
    pub(crate) fn counts(&self, pins: &Pins) -> (u64, u64) {
        let later = lock(&self.later).len();
        let mut list = lock(&self.list);
        // Those at the front only: the list may be long, and this is asked for metrics.
        while let Some(front) = list.unsettled.front() {
            let Some(outcome) = front.outcome() else {
                break;
            };
            let failed = outcome.is_err() && lock(&front.0).is_wanted();
            pins.settle(lock(&front.0).blob);
            list.failed += u64::from(failed);
            list.unsettled.pop_front();
        }
        let unsettled = list.unsettled.len() + list.in_step + later;
        (unsettled as u64, list.failed)
    }
}
