//! Gives back the space of bodies that nothing refers to any more. No request waits for it.
//!
//! Four sources, each of which gets its share of every step: deletions of this run; notes of
//! deletions that an earlier run began, or that this one has no room for in memory; uploads in
//! parts that have ended (see `wipe`); and blobs of earlier runs that were written but never
//! committed. The last are found by walking the blobs of every run that ended without
//! leaving a clean mark: a blob is deleted only if its run is over, its label names an object,
//! and neither a version of that object, nor a part of an upload, nor a note refers to it. What
//! cannot be attributed is kept.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use volume::{BlobFrame, BlobId, Deletion, MetaBatch};

use crate::garbage::{Garbage, NOTES_SLICE};
use crate::keys::{after_prefix, garbage_key, garbage_range, part_key, setting_key};
use crate::limits::{
    NOTES_PER_BATCH, SCAN_CHUNK_MAX, SCAN_CHUNK_MIN, SWEEP_BLOBS, SWEEP_DELETIONS_MAX, SWEEP_ROUNDS,
};
use crate::meta_store::MetaView;
use crate::objects::Inner;
use crate::parts::{PartCursor, PartsRef};
use crate::record::{BlobLabel, BlobRole, Body, ObjectRecord, PartRecord};
use crate::scan::Scan;
use crate::upload::UploadId;
use crate::wipe::Wipe;
use crate::{Error, Objects, Result};
use volume::block_on;

/// Holds the last epoch whose blobs need no walk any more: u64, little-endian.
const SWEPT: &str = "swept";

/// How far the sweep of earlier runs is.
pub(crate) struct Sweep {
    progress: Mutex<Progress>,
    done: AtomicBool,
    swept: AtomicU64,
    unattributed: AtomicU64,
    pub(crate) wipe: Wipe,
}

struct Progress {
    stage: Stage,
    /// Where the walk over blobs begins: earlier runs were swept before.
    first_blob: BlobId,
    /// Deletions of swept blobs that are not known to be durable.
    deletions: Vec<Deletion>,
}

#[derive(Clone)]
enum Stage {
    /// The notes of earlier runs, from this key on.
    Notes(Vec<u8>),
    /// The blobs of earlier runs, from this id on.
    Blobs(BlobId),
    /// All walked: deletions are awaited, then the mark is set.
    Mark,
    Done,
}

impl Sweep {
    /// Reads the mark that the last sweep left.
    pub(crate) async fn load(view: &dyn MetaView) -> Result<Sweep> {
        let first_epoch = match view.get(&setting_key(SWEPT)).await {
            Ok(None) | Err(Error::Corrupt { .. } | Error::Unreadable { .. }) => 0,
            Err(error) => return Err(error),
            Ok(Some(entry)) => match entry.value.as_slice().try_into() {
                Ok(bytes) => u64::from_le_bytes(bytes).saturating_add(1),
                // Only a hint, as is one that cannot be read: everything is walked then.
                Err(_) => 0,
            },
        };
        Ok(Sweep {
            progress: Mutex::new(Progress {
                stage: Stage::Notes(garbage_range(NOTES_SLICE).0),
                first_blob: BlobId {
                    epoch: first_epoch,
                    counter: 0,
                },
                deletions: Vec::new(),
            }),
            done: AtomicBool::new(false),
            swept: AtomicU64::new(0),
            unattributed: AtomicU64::new(0),
            wipe: Wipe::default(),
        })
    }

    pub(crate) fn swept(&self) -> u64 {
        self.swept.load(Ordering::Relaxed)
    }

    pub(crate) fn unattributed(&self) -> u64 {
        self.unattributed.load(Ordering::Relaxed)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    pub(crate) fn count_unattributed(&self) {
        self.unattributed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Objects {
    /// One step of work that no request waits for: gives back the space of bodies that
    /// nothing refers to any more. Blocks while a batch becomes durable; run it on one thread
    /// of its own for the life of the server, pausing about 5 ms after each `true`, about a
    /// second after `false` (nothing to do for now), and longer after an error.
    pub fn sweep_step(&self) -> Result<bool> {
        let inner = &self.inner;
        inner.check_open()?;
        let mut progress = match inner.sweep.progress.try_lock() {
            Ok(progress) => progress,
            // Each stage is repeatable, so what a panic left half-way is harmless.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        let mut worked = false;
        for _ in 0..SWEEP_ROUNDS {
            // Each source gets its share of every round, whatever becomes of the others: none
            // of them ends under load.
            let deleted = inner.volume.housekeep().map_err(Error::from);
            let cleared = block_on(inner.clear_notes());
            let wiped = block_on(inner.wipe_uploads());
            let swept = block_on(inner.sweep_on(&mut progress));
            let (deleted, cleared, wiped, swept) = (deleted?, cleared?, wiped?, swept?);
            worked |= deleted || cleared > 0 || wiped || swept;
            if cleared < NOTES_PER_BATCH {
                break;
            }
        }
        Ok(worked)
    }
}

impl Inner {
    async fn sweep_on(&self, progress: &mut Progress) -> Result<bool> {
        match progress.stage.clone() {
            Stage::Notes(from) => {
                let next = self.sweep_notes(from).await?;
                progress.stage = match next {
                    Some(next) => Stage::Notes(next),
                    None if self.sweep.is_done() => Stage::Done,
                    None => Stage::Blobs(progress.first_blob),
                };
                Ok(true)
            }
            Stage::Blobs(from) => {
                self.await_deletions(progress)?;
                if progress.deletions.len() < SWEEP_DELETIONS_MAX {
                    progress.stage = self.sweep_blobs(from, &mut progress.deletions).await?;
                }
                Ok(true)
            }
            Stage::Mark => {
                self.await_deletions(progress)?;
                if progress.deletions.is_empty() {
                    // What an absent disk holds was not looked at.
                    let last = self.volume.epoch().checked_sub(1);
                    if let Some(last) = last.filter(|_| self.volume.is_complete()) {
                        self.mark(last)?;
                    }
                    progress.stage = Stage::Done;
                    self.sweep.done.store(true, Ordering::SeqCst);
                }
                Ok(true)
            }
            Stage::Done if self.notes().take_forgotten() => {
                progress.stage = Stage::Notes(garbage_range(NOTES_SLICE).0);
                Ok(true)
            }
            Stage::Done => Ok(false),
        }
    }

    /// Forgets settled deletions. If one failed, its blob is still there: all is walked again.
    fn await_deletions(&self, progress: &mut Progress) -> Result<()> {
        let mut failed = Ok(());
        progress
            .deletions
            .retain(|deletion| match deletion.outcome() {
                None => true,
                Some(outcome) => {
                    if outcome.is_err() {
                        failed = outcome;
                    }
                    false
                }
            });
        if failed.is_err() {
            progress.stage = Stage::Blobs(progress.first_blob);
        }
        Ok(failed?)
    }

    /// Repeats the deletions that notes tell of, but for those that are under way. Says where
    /// to go on.
    async fn sweep_notes(&self, from: Vec<u8>) -> Result<Option<Vec<u8>>> {
        if !self.notes().has_room() {
            return Ok(Some(from));
        }
        let view = self.meta.view();
        let page = view
            .scan(&from, &garbage_range(NOTES_SLICE).1, NOTES_PER_BATCH)
            .await;
        let page = match page {
            // The rest stays, for a disk that can read it.
            Err(Error::Corrupt { .. } | Error::Unreadable { .. }) => {
                self.sweep.count_unattributed();
                return Ok(None);
            }
            page => page?,
        };
        for entry in page.entries {
            if self.release_again(&entry.key, &entry.value).is_err() {
                self.sweep.count_unattributed();
            }
        }
        Ok(page.next)
    }

    /// Walks over some blobs of earlier runs.
    async fn sweep_blobs(&self, mut from: BlobId, deletions: &mut Vec<Deletion>) -> Result<Stage> {
        let (view, blobs) = (self.meta.view(), self.volume.snapshot());
        let mut garbage = Vec::new();
        let mut next = Stage::Mark;
        for _ in 0..SWEEP_BLOBS {
            let frame = blobs.blob_at_or_after(from).await?;
            let Some(frame) = frame.filter(|frame| frame.blob.epoch < self.volume.epoch()) else {
                next = Stage::Mark;
                break;
            };
            garbage.extend(self.unreferred(&*view, &frame).await?);
            let Some(successor) = frame.blob.successor() else {
                next = Stage::Mark;
                break;
            };
            from = successor;
            next = Stage::Blobs(from);
        }
        for blob in self.without_notes(&*view, garbage).await? {
            let deletion = self.volume.delete_orphan(&blobs, blob).await?;
            deletions.extend(deletion);
            self.sweep.swept.fetch_add(1, Ordering::Relaxed);
        }
        Ok(next)
    }

    /// The blob of an earlier run, and the upload it is of, if no record refers to it. None can
    /// come to later: only the run that wrote it could have committed its record.
    async fn unreferred(
        &self,
        view: &dyn MetaView,
        frame: &BlobFrame,
    ) -> Result<Option<(BlobId, Option<UploadId>)>> {
        let value = frame.value.as_ref();
        let label = value
            .and_then(|value| value.label.as_deref())
            .map(BlobLabel::decode);
        let Some(Ok(label)) = label else {
            self.sweep.count_unattributed();
            return Ok(None);
        };
        let upload = match label.role {
            BlobRole::Object => None,
            BlobRole::Part { upload, .. } | BlobRole::Table { upload } => Some(upload),
        };
        match self.is_referred_to(view, &label, frame.blob).await {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some((frame.blob, upload))),
            // A record that cannot be read may refer to anything.
            Err(Error::Corrupt { .. } | Error::Unreadable { .. }) => {
                self.sweep.count_unattributed();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Leaves out what a note tells of: it is given back in the note's own time, once nobody
    /// reads the body that it belongs to. Of a body in parts the note stands at the anchor alone,
    /// so that all have to be looked through.
    async fn without_notes(
        &self,
        view: &dyn MetaView,
        mut garbage: Vec<(BlobId, Option<UploadId>)>,
    ) -> Result<Vec<BlobId>> {
        let (from, to) = garbage_range(NOTES_SLICE);
        let mut notes = Scan::new(view, from, to, SCAN_CHUNK_MAX);
        while !garbage.is_empty() {
            let note = match notes.next().await {
                Ok(Some(note)) => note,
                Ok(None) => break,
                // What cannot be read may tell of anything.
                Err(Error::Corrupt { .. } | Error::Unreadable { .. }) => {
                    self.sweep.count_unattributed();
                    return Ok(Vec::new());
                }
                Err(error) => return Err(error),
            };
            let parts_of = match Garbage::decode(&note.value) {
                Ok(Garbage::Parts(parts)) => Some(parts.upload),
                Ok(Garbage::Blob(_)) => None,
                Err(_) => {
                    self.sweep.count_unattributed();
                    return Ok(Vec::new());
                }
            };
            garbage.retain(|(blob, upload)| {
                let told_of = parts_of.is_some() && *upload == parts_of;
                !told_of && note.key != garbage_key(NOTES_SLICE, *blob).as_bytes()
            });
        }
        Ok(garbage.into_iter().map(|(blob, _)| blob).collect())
    }

    /// Whether a version of the object that a blob says it belongs to refers to the blob, or the
    /// upload whose part it is.
    async fn is_referred_to(
        &self,
        view: &dyn MetaView,
        label: &BlobLabel,
        blob: BlobId,
    ) -> Result<bool> {
        let (slice, from) = self.object_place(label.bucket, &label.key);
        if let BlobRole::Part { upload, number } = label.role {
            let key = part_key(slice, label.bucket, label.key.as_bytes(), upload, number);
            if let Some(part) = view.get(&key).await?
                && PartRecord::decode(&part.value)?.blob.id == blob
            {
                return Ok(true);
            }
        }
        let to = after_prefix(from.clone());
        let mut versions = Scan::new(view, from, to, SCAN_CHUNK_MIN);
        while let Some(version) = versions.next().await? {
            let referred = match (ObjectRecord::decode(&version.value)?.body, label.role) {
                (Body::Inline, _) => false,
                (Body::Blob(body), _) => body.id == blob,
                (Body::Parts(parts), BlobRole::Part { upload, number }) => {
                    parts.upload == upload && self.has_part(parts, number, blob).await?
                }
                (Body::Parts(parts), _) => parts.anchor()?.id == blob,
            };
            if referred {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a body in parts has this blob under this number.
    async fn has_part(&self, parts: PartsRef, number: u16, blob: BlobId) -> Result<bool> {
        let pin = Arc::new(self.volume.pin_blob(&parts.anchor()?)?);
        let mut cursor = PartCursor::new(parts, pin);
        let part = cursor.find(number).await?;
        Ok(part.is_some_and(|part| part.blob.id == blob))
    }

    fn mark(&self, epoch: u64) -> Result<()> {
        let key = setting_key(SWEPT);
        // On a full disk this must not hold up what gives space back.
        let batch =
            MetaBatch::new()
                .frees_space()
                .put(&key, epoch.to_le_bytes().to_vec(), Vec::new());
        self.meta.commit_now(batch)
    }

    /// After a clean end nothing of this run needs a sweep: says so. Without the mark the
    /// next start only walks more, so an error changes nothing.
    pub(crate) fn note_clean_close(&self) {
        let is_all_seen = self.sweep.is_done() && self.volume.is_complete();
        if is_all_seen && self.nothing_left_over() {
            let _ = self.mark(self.volume.epoch());
        }
    }
}
