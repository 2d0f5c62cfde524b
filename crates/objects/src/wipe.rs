//! Clears away what ended uploads in parts left among the metadata: the parts that no object
//! keeps, and the keys of those that one does.
//!
//! Each end is a note, committed with what ended the upload, so that a crash at any point only
//! means to go on. A note goes when nothing is left that it tells of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use volume::{Key, MetaBatch, MetaEntry};

use crate::garbage::{Garbage, NOTES_SLICE};
use crate::keys::{
    MetaKey, after_prefix, bucket_parts, decode_meta_key, part_prefix, upload_prefix, wipe_range,
};
use crate::limits::{WIPE_BATCH_BYTES, WIPE_ENTRIES};
use crate::meta_store::MetaView;
use crate::objects::Inner;
use crate::record::{EndedRecord, PartRecord};
use crate::scan::Scan;
use crate::{Error, Result};

/// How far it is. Passes over all notes, each of which begins after the last upload ended that
/// the one before did not see.
pub(crate) struct Wipe {
    /// Uploads that have ended; one more for whatever an earlier run left.
    ended: Arc<AtomicU64>,
    pass: Mutex<Pass>,
}

#[derive(Clone)]
struct Pass {
    /// What [`Wipe::ended`] was when the pass began; `None`: there is none.
    ended: Option<u64>,
    /// The uploads that the last pass has seen the end of.
    seen: u64,
    /// The next note at or behind this key.
    from: Vec<u8>,
    /// What it tells of is cleared away up to this key.
    cleared: Vec<u8>,
}

impl Default for Wipe {
    fn default() -> Wipe {
        Wipe {
            ended: Arc::new(AtomicU64::new(1)),
            pass: Mutex::new(Pass {
                ended: None,
                seen: 0,
                from: Vec::new(),
                cleared: Vec::new(),
            }),
        }
    }
}

impl Wipe {
    /// To be dropped when uploads may have ended.
    pub(crate) fn waking(&self) -> Waking {
        Waking(self.ended.clone())
    }

    /// Plain data: whole whatever panicked.
    fn pass(&self) -> MutexGuard<'_, Pass> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the next pass begin when it is dropped. Held until the batch that ends uploads is decided,
/// whether or not somebody waits for that.
pub(crate) struct Waking(Arc<AtomicU64>);

impl Drop for Waking {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What a note tells of: ranges of keys to clear, in the order of the keys.
struct Ended {
    prefixes: Vec<Vec<u8>>,
    kept: EndedRecord,
}

impl Ended {
    fn of(key: &[u8], note: &[u8]) -> Result<Ended> {
        let kept = EndedRecord::decode(note)?;
        let prefixes = match decode_meta_key(key)? {
            MetaKey::EndedUpload {
                bucket,
                key,
                upload,
            } => vec![part_prefix(NOTES_SLICE, bucket, key.as_bytes(), upload)],
            MetaKey::EndedBucket { bucket } => vec![
                bucket_parts(NOTES_SLICE, bucket),
                upload_prefix(NOTES_SLICE, bucket, b""),
            ],
            _ => return Err(Error::Internal("a note of another kind".to_owned())),
        };
        Ok(Ended { prefixes, kept })
    }
}

impl Inner {
    /// One step: a bounded batch. `false`: nothing to do.
    pub(crate) async fn wipe_uploads(&self) -> Result<bool> {
        let wipe = &self.sweep.wipe;
        let mut pass = wipe.pass().clone();
        if pass.ended.is_none() {
            let ended = wipe.ended.load(Ordering::SeqCst);
            if ended == pass.seen {
                return Ok(false);
            }
            pass.ended = Some(ended);
            pass.from = wipe_range(NOTES_SLICE).0;
        }
        if !self.notes().has_room() {
            return Ok(true);
        }
        match self.wipe_step(&mut pass).await {
            // The notes from here on cannot be read: the pass ends, and the next one tries again.
            Err(Error::Corrupt { .. } | Error::Unreadable { .. }) => {
                self.sweep.count_unattributed();
                pass.seen = pass.ended.take().unwrap_or(pass.seen);
                pass.cleared.clear();
            }
            stepped => stepped?,
        }
        *wipe.pass() = pass;
        Ok(true)
    }

    async fn wipe_step(&self, pass: &mut Pass) -> Result<()> {
        let view = self.meta.view();
        let mut notes = Scan::new(&*view, pass.from.clone(), wipe_range(NOTES_SLICE).1, 1);
        let Some(note) = notes.next().await? else {
            pass.seen = pass.ended.take().unwrap_or(pass.seen);
            return Ok(());
        };
        pass.from = note.key.clone();
        // A bucket's note tells of all its uploads, but their own say what an object kept of
        // them, which may still be read after it was deleted: those come first.
        let of_bucket = after_prefix(note.key.clone());
        let mut uploads = Scan::new(&*view, [&note.key[..], &[0]].concat(), of_bucket, 1);
        let wiped = match uploads.next().await? {
            Some(upload) => match self.wipe_note(&*view, &upload, pass).await {
                Ok(through) => {
                    if through {
                        pass.cleared.clear();
                    }
                    Ok(false)
                }
                Err(error) => Err(error),
            },
            None => self.wipe_note(&*view, &note, pass).await,
        };
        let through = match wiped {
            Ok(through) => through,
            // Stays, for a release or a disk that can read it, and so does what it tells of.
            Err(Error::Corrupt { .. } | Error::Unreadable { .. }) => {
                self.sweep.count_unattributed();
                true
            }
            Err(error) => return Err(error),
        };
        if through {
            pass.from.push(0);
            pass.cleared.clear();
        }
        Ok(())
    }

    async fn wipe_note(
        &self,
        view: &dyn MetaView,
        note: &MetaEntry,
        pass: &mut Pass,
    ) -> Result<bool> {
        let ended = Ended::of(&note.key, &note.value)?;
        self.wipe_ended(view, &note.key, &ended, pass).await
    }

    /// Clears the next few keys away, or the note when there are none: whether it did that.
    async fn wipe_ended(
        &self,
        view: &dyn MetaView,
        note: &[u8],
        ended: &Ended,
        pass: &mut Pass,
    ) -> Result<bool> {
        let (mut batch, mut noted) = (MetaBatch::new().frees_space(), Vec::new());
        let (mut bytes, mut entries) = (0, 0);
        for prefix in &ended.prefixes {
            let from = prefix.clone().max(pass.cleared.clone());
            let mut scan = Scan::new(view, from, after_prefix(prefix.clone()), WIPE_ENTRIES);
            while bytes < WIPE_BATCH_BYTES && entries < WIPE_ENTRIES {
                let Some(entry) = scan.next().await? else {
                    break;
                };
                if let Some(garbage) = garbage_of(&entry.key, &entry.value, ended)? {
                    let (with_note, note) = garbage.note(batch, NOTES_SLICE)?;
                    batch = with_note;
                    noted.push(note);
                    bytes += NOTE_BYTES;
                }
                bytes += entry.key.len();
                entries += 1;
                pass.cleared = [&entry.key[..], &[0]].concat();
                batch = batch.delete(&Key::plain(entry.key));
            }
        }
        let through = entries == 0;
        if through {
            batch = batch.delete(&Key::plain(note));
        }
        self.meta.commit_now(batch)?;
        for noted in &noted {
            self.release(noted, Vec::new());
        }
        Ok(through)
    }
}

/// The blob of a part that no object keeps.
fn garbage_of(key: &[u8], value: &[u8], ended: &Ended) -> Result<Option<Garbage>> {
    match decode_meta_key(key)? {
        MetaKey::Part { number, .. } if !ended.kept.keeps(number) => {
            Ok(Some(Garbage::Blob(PartRecord::decode(value)?.blob)))
        }
        _ => Ok(None),
    }
}

/// Bytes of a note of one blob with its key, at most.
const NOTE_BYTES: usize = 128;
