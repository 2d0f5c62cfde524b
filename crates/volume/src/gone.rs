//! Blobs that were deleted while members of the set were away: what these have of them is deleted
//! when they are back, and until then it is noted.
//!
//! ```text
//! engine key   04 | "gone" | 16 bytes of the blob's id, on the replicas of the metadata
//! value        u16 LE: a bit for each slot whose disk has not heard of it
//! ```
//! What must always hold: a deletion counts as done only when its note is durable.

use std::time::{Duration, Instant};

use shardstore::{Batch, Key};

use crate::blob::shard_key_bytes;
use crate::limits::{DELETE_SHARDS_MAX, SCAN_SHARDS};
use crate::table::Table;
use crate::{BlobId, Dependency, Result, Volume, VolumeError};

/// What the keys begin with, and what is behind all of them.
pub(crate) const PREFIX: &[u8] = b"\x04gone";
pub(crate) const END: &[u8] = b"\x04gonf";

/// Notes that one step looks at.
const NOTES_PER_STEP: usize = 64;

/// How far the notes were looked through, for the members that are here now.
#[derive(Default)]
pub(crate) struct Walk {
    /// The generation that they were, or are being, looked through for.
    generation: u64,
    /// The next note; `None`: all were seen.
    next: Option<Vec<u8>>,
    /// Deletions were under way when it began: one may have noted that a member is away that was
    /// back before the note could be seen. Another walk follows, from then on.
    again_at: Option<Instant>,
}

/// How soon another walk follows.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

fn key_of(blob: BlobId) -> Key {
    Key::plain([PREFIX, &blob.to_bytes()].concat())
}

pub(crate) fn blob_of(key: &[u8]) -> Option<BlobId> {
    let id = key.strip_prefix(PREFIX)?.first_chunk()?;
    Some(BlobId::from_bytes(*id))
}

/// A bit for each member that is not live.
fn away(table: &Table) -> u16 {
    let live: Vec<usize> = table.live().collect();
    let slots = table
        .membership
        .active()
        .map(|member| usize::from(member.slot));
    let absent = slots.filter(|slot| !live.contains(slot));
    absent.fold(0, |bits, slot| bits | 1 << slot)
}

impl Volume {
    /// Notes a blob's deletion for the members that are away; `None`: nobody is.
    pub(crate) fn note_gone(&self, table: &Table, blob: BlobId) -> Result<Option<Dependency>> {
        let away = away(table);
        if away == 0 {
            return Ok(None);
        }
        // A part of it may have been deleted while others were away.
        let engine = table.engine(table.primary()?)?;
        let known = engine.view().get(&key_of(blob))?;
        let known = known.as_ref().and_then(|note| note.value().first_chunk());
        let bits = away | known.map_or(0, |bits| u16::from_le_bytes(*bits));
        let note = Batch::new().put(key_of(blob), bits.to_le_bytes());
        Ok(Some(
            self.inner.mirror.commit(note.frees_space(), Vec::new()),
        ))
    }

    /// Whether a blob was deleted, and some member may not have heard of it yet: what there is of
    /// it is not to be made up for. It is looked for again then.
    pub(crate) fn is_gone(&self, table: &Table, blob: BlobId) -> Result<bool> {
        let engine = table.engine(table.primary()?)?;
        let note = engine.view().get(&key_of(blob))?;
        Ok(note.is_some())
    }

    /// Deletes from the members that are here what was deleted while they were away: a few blobs
    /// of it. `false`: there is nothing of that kind.
    pub(crate) fn clear_gone(&self, walk: &mut Walk) -> Result<bool> {
        let table = self.table();
        if table.refusal().is_some() {
            return Ok(false);
        }
        if walk.generation != table.membership.generation {
            *walk = self.begin_to_clear(&table);
        }
        let Some(from) = walk.next.clone() else {
            if walk.again_at.is_some_and(|at| Instant::now() >= at) {
                *walk = self.begin_to_clear(&table);
                return Ok(true);
            }
            return Ok(false);
        };
        let engine = table.engine(table.primary()?)?;
        let page = engine.view().scan(&from, END, NOTES_PER_STEP)?;
        let still_away = away(&table);
        for found in &page.entries {
            let Some(blob) = blob_of(found.key()) else {
                continue;
            };
            // A deletion that is under way adds to the note itself. It is come upon again by whoever
            // heals, or with the next generation.
            let Some(_held) = self.hold_blob(blob) else {
                continue;
            };
            let note = engine.view().get(&found.to_key())?;
            let bits = note.as_ref().and_then(|note| note.value().first_chunk());
            let Some(bits) = bits.map(|bits| u16::from_le_bytes(*bits)) else {
                continue;
            };
            let mut is_done = true;
            for slot in table.live().filter(|slot| bits >> slot & 1 == 1) {
                match delete_from(&table, slot, blob) {
                    Ok(()) => {}
                    // Nothing of that disk is read by its index; the note stays.
                    Err(VolumeError::Corrupt { .. } | VolumeError::Unreadable { .. }) => {
                        is_done = false;
                    }
                    Err(error) => return Err(error),
                }
            }
            if !is_done {
                continue;
            }
            let members = table
                .membership
                .active()
                .fold(0, |all, member| all | 1 << member.slot);
            let left: u16 = bits & still_away & members;
            let note = match left {
                0 => Batch::new().delete(found.to_key()),
                left if left == bits => continue,
                left => Batch::new().put(found.to_key(), left.to_le_bytes()),
            };
            // Not waited for: if a replica refuses it, that is mended by another step. A note that
            // stays is looked at again in the next generation.
            drop(self.inner.mirror.commit(note.frees_space(), Vec::new()));
        }
        walk.next = page.next;
        if walk.next.is_none() && walk.again_at.is_none() {
            self.inner.keeping.notes_are_followed();
        }
        Ok(true)
    }

    fn begin_to_clear(&self, table: &Table) -> Walk {
        let is_final = !self.deletes_now();
        Walk {
            generation: table.membership.generation,
            next: Some(PREFIX.to_vec()),
            again_at: (!is_final).then(|| Instant::now() + AGAIN_AFTER),
        }
    }
}

/// Deletes all that one disk has of a blob; durable when this returns.
fn delete_from(table: &Table, slot: usize, blob: BlobId) -> Result<()> {
    let engine = table.engine(slot)?;
    let view = engine.view();
    let mut from = shard_key_bytes(blob, 0, 0).to_vec();
    let mut to = shard_key_bytes(blob, u32::MAX, u8::MAX).to_vec();
    to.push(0);
    loop {
        let page = view.scan(&from, &to, SCAN_SHARDS)?;
        let keys = page.entries.iter().map(|found| found.to_key());
        let batch = keys.fold(Batch::new().frees_space(), Batch::delete);
        if !batch.entries().is_empty() {
            engine.submit(batch)?.wait()?;
        }
        match page.next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

const _: () = assert!(SCAN_SHARDS <= DELETE_SHARDS_MAX);
const _: () = assert!(crate::limits::DISKS_MAX <= 16);
