//! Bodies whose record is gone, and the notes that remember them until their space is given back.
//!
//! A note is committed with the batch that takes the record away, under the id of the body's
//! blob; of a body in parts, of its anchor (see `parts`). It is:
//!
//! ```text
//! 01 …   a blob reference: the blob is to be deleted
//! 80 …   a body in parts, as records have it: once nobody reads it, each part's blob gets a note
//!        of its own, then the table's. The anchor's comes last, and replaces this one
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use volume::{BlobId, BlobRef, Deletion, Dependency, MetaBatch, SliceId, VolumeError};

use crate::codec::corrupt;
use crate::keys::garbage_key;
use crate::limits::{NOTES_MAX, NOTES_PER_BATCH};
use crate::objects::Inner;
use crate::parts::{PartCursor, PartsRef};
use crate::record::Body;
use crate::{Error, Result};

/// Where notes are. A volume with more slices than the first is refused when it opens.
pub(crate) const NOTES_SLICE: SliceId = SliceId::ROOT;

/// First byte of the note of a body in parts.
const PARTS: u8 = 0x80;

/// A body without a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Garbage {
    Blob(BlobRef),
    Parts(PartsRef),
}

/// What a note is of, as long as that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GarbageKind {
    Blob,
    Parts,
}

impl Garbage {
    /// What is left of a body when its record goes; an inline one goes with it.
    pub(crate) fn of(body: Body) -> Option<Garbage> {
        match body {
            Body::Inline => None,
            Body::Blob(blob) => Some(Garbage::Blob(blob)),
            Body::Parts(parts) => Some(Garbage::Parts(parts)),
        }
    }

    /// The blob that names the note, and that readers of the body pin.
    fn noted(&self) -> Result<Noted> {
        Ok(match self {
            Garbage::Blob(blob) => Noted {
                kind: GarbageKind::Blob,
                anchor: blob.clone(),
            },
            Garbage::Parts(parts) => Noted {
                kind: GarbageKind::Parts,
                anchor: parts.anchor()?,
            },
        })
    }

    /// The note's bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut note = Vec::with_capacity(64);
        match self {
            Garbage::Blob(blob) => blob.encode(&mut note),
            Garbage::Parts(parts) => {
                note.push(PARTS);
                note.extend_from_slice(&parts.encode()?);
            }
        }
        Ok(note)
    }

    /// Any bytes become garbage or [`Error::Corrupt`].
    pub(crate) fn decode(note: &[u8]) -> Result<Garbage> {
        match note.split_first() {
            Some((&PARTS, parts)) => Ok(Garbage::Parts(PartsRef::decode(parts)?)),
            _ => Ok(Garbage::Blob(BlobRef::decode(note)?)),
        }
    }

    /// Adds the note to a batch in a slice.
    pub(crate) fn note(&self, batch: MetaBatch, slice: SliceId) -> Result<(MetaBatch, Noted)> {
        let noted = self.noted()?;
        let key = garbage_key(slice, noted.anchor.id);
        Ok((batch.put(&key, self.encode()?, Vec::new()), noted))
    }
}

/// What a note tells of, to be given back.
pub(crate) struct Noted {
    kind: GarbageKind,
    anchor: BlobRef,
}

impl Inner {
    /// Begins to give back what a note tells of, once everything in `after` is persistent and
    /// nobody reads it.
    pub(crate) fn release(&self, noted: &Noted, after: Vec<Dependency>) {
        let Noted { kind, anchor } = noted;
        if self.notes().admit(anchor.id) {
            let deletion = match kind {
                GarbageKind::Blob => self.volume.delete_blob(anchor, after),
                GarbageKind::Parts => self.volume.await_readers(anchor, after),
            };
            self.notes().push(anchor.id, *kind, deletion);
        }
    }

    /// Takes up what a note of an earlier run tells of, or one that was forgotten.
    pub(crate) fn release_again(&self, key: &[u8], note: &[u8]) -> Result<()> {
        let noted = Garbage::decode(note)?.noted()?;
        if key != garbage_key(NOTES_SLICE, noted.anchor.id).as_bytes() {
            return Err(corrupt(
                "a note",
                "it stands under another key than its own",
            ));
        }
        self.release(&noted, Vec::new());
        Ok(())
    }

    /// Takes away notes of settled deletions, and gives notes to the parts of bodies that nobody
    /// reads any more. Says how many.
    pub(crate) async fn clear_notes(&self) -> Result<usize> {
        let Settled { blobs, parts } = self.notes().take_settled();
        let count = blobs.len() + usize::from(parts.is_some());
        let forgotten = self.forget_notes(blobs);
        let Some((anchor, deletion)) = parts else {
            return forgotten.map(|()| count);
        };
        let released = match forgotten {
            Ok(()) => self.release_parts(anchor).await,
            Err(error) => Err(error),
        };
        match &released {
            Ok(()) => {}
            // The note stays, for a release or a disk that can read it.
            Err(Error::Corrupt { .. } | Error::Unreadable { .. }) => {
                self.sweep.count_unattributed();
                self.notes().forget(anchor);
            }
            Err(_) => self.notes().push(anchor, GarbageKind::Parts, deletion),
        }
        released.map(|()| count)
    }

    fn forget_notes(&self, settled: Vec<(BlobId, Deletion)>) -> Result<()> {
        if settled.is_empty() {
            return Ok(());
        }
        let batch = settled
            .iter()
            .fold(MetaBatch::new().frees_space(), |batch, (blob, _)| {
                batch.delete(&garbage_key(NOTES_SLICE, *blob))
            });
        match self.meta.commit_now(batch) {
            Ok(()) => {
                for (blob, _) in settled {
                    self.notes().forget(blob);
                }
                Ok(())
            }
            Err(error) => {
                for (blob, deletion) in settled {
                    self.notes().push(blob, GarbageKind::Blob, deletion);
                }
                Err(error)
            }
        }
    }

    /// Gives a note to each blob of a body that nobody reads. What a crash leaves half done is
    /// done again: deleting a blob that is gone changes nothing.
    async fn release_parts(&self, anchor: BlobId) -> Result<()> {
        let key = garbage_key(NOTES_SLICE, anchor);
        let note = self.meta.view().get(&key).await?;
        let parts = match note
            .map(|entry| Garbage::decode(&entry.value))
            .transpose()?
        {
            Some(Garbage::Parts(parts)) => parts,
            Some(Garbage::Blob(blob)) => {
                let deletion = self.volume.delete_blob(&blob, Vec::new());
                self.notes().push(anchor, GarbageKind::Blob, deletion);
                return Ok(());
            }
            None => {
                self.notes().forget(anchor);
                return Ok(());
            }
        };
        let anchor = parts.anchor()?;
        let pin = Arc::new(self.volume.pin_blob(&anchor)?);
        let mut cursor = PartCursor::new(parts, pin);
        let mut page = Vec::new();
        loop {
            let part = cursor.next().await?;
            let ended = part.is_none();
            let part = part.filter(|part| part.blob.id != anchor.id);
            page.extend(part.map(|part| Garbage::Blob(part.blob)));
            if ended || page.len() == NOTES_PER_BATCH {
                self.note_and_release(std::mem::take(&mut page))?;
            }
            if ended {
                break;
            }
        }
        drop(cursor);
        let last = Garbage::Blob(anchor.clone());
        let (batch, _) = last.note(MetaBatch::new().frees_space(), NOTES_SLICE)?;
        self.meta.commit_now(batch)?;
        let deletion = self.volume.delete_blob(&anchor, Vec::new());
        self.notes().push(anchor.id, GarbageKind::Blob, deletion);
        Ok(())
    }

    /// Commits notes, and begins what they tell of.
    fn note_and_release(&self, garbage: Vec<Garbage>) -> Result<()> {
        if garbage.is_empty() {
            return Ok(());
        }
        let (mut batch, mut noted) = (MetaBatch::new().frees_space(), Vec::new());
        for garbage in &garbage {
            let (with_note, note) = garbage.note(batch, NOTES_SLICE)?;
            batch = with_note;
            noted.push(note);
        }
        self.meta.commit_now(batch)?;
        for noted in &noted {
            self.release(noted, Vec::new());
        }
        Ok(())
    }
}

/// What is being given back. Each has its note among the metadata, so that it is found again:
/// after a restart, and when there is more than is kept here.
#[derive(Default)]
pub(crate) struct Notes {
    list: Mutex<NoteList>,
    /// Some note is on the disks that is not here.
    forgotten: AtomicBool,
}

#[derive(Default)]
struct NoteList {
    queue: VecDeque<(BlobId, GarbageKind, Deletion)>,
    /// The blobs that are in the queue, or on their way into or out of it.
    known: BTreeSet<BlobId>,
}

/// What can be gone on with.
#[derive(Default)]
struct Settled {
    /// Blobs that are deleted.
    blobs: Vec<(BlobId, Deletion)>,
    /// The anchor of a body that nobody reads. One at most: its parts may be many.
    parts: Option<(BlobId, Deletion)>,
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

    /// Adds what was admitted, or could not be taken away after all.
    fn push(&self, blob: BlobId, kind: GarbageKind, deletion: Deletion) {
        self.lock().queue.push_back((blob, kind, deletion));
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

    /// Some whose deletion is durable. Looks at a few at the front, and moves those that are not
    /// behind the others, so that one that waits for its reader is in nobody's way.
    fn take_settled(&self) -> Settled {
        let mut list = self.lock();
        let mut settled = Settled::default();
        for _ in 0..list.queue.len().min(2 * NOTES_PER_BATCH) {
            let Some((blob, kind, deletion)) = list.queue.pop_front() else {
                break;
            };
            let another = kind == GarbageKind::Parts && settled.parts.is_some();
            match deletion.outcome() {
                Some(Ok(())) if !another => match kind {
                    GarbageKind::Blob => settled.blobs.push((blob, deletion)),
                    GarbageKind::Parts => settled.parts = Some((blob, deletion)),
                },
                Some(Ok(())) | None => list.queue.push_back((blob, kind, deletion)),
                Some(Err(error)) => {
                    // It was given up; or the batch that was to take its record away failed,
                    // and there is no note.
                    list.known.remove(&blob);
                    if matches!(error, VolumeError::Busy) {
                        self.forgotten.store(true, Ordering::SeqCst);
                    }
                }
            }
            if settled.blobs.len() == NOTES_PER_BATCH {
                break;
            }
        }
        settled
    }

    /// Its note is gone, or is left to the next start.
    fn forget(&self, blob: BlobId) {
        self.lock().known.remove(&blob);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
