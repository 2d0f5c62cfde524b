//! Scrub: everything on a disk is read and verified, one extent after the other; and what becomes
//! of damage, whoever finds it.
//!
//! ```text
//! engine key   03 | "scrub", on each disk
//! value        u8 layout = 1 | u32 next extent | u64 pass began | u64 pass ended
//!              | u64 damage in this pass | u64 damage in the last one
//! ```
//! Integers are little-endian; times are milliseconds since 1970, 0: never. So a pass goes on
//! where it was when the server starts again.
//!
//! Damage is in frames. Which entries it hits the index tells: those that lie in the same extent
//! are read, past the cache. A shard that cannot be is made again from the others, metadata is
//! copied from another replica.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shardstore::{Batch, Engine, Error, Found, Key};

use crate::blob::{SHARD_PREFIX, Take};
use crate::keep::State;
use crate::limits::SCAN_SHARDS;
use crate::mirror::OWN_PREFIX;
use crate::reader::Stripe;
use crate::shard::{RawKey, ShardValue};
use crate::slices::{SET_PREFIX, set_key};
use crate::stripe::Cut;
use crate::table::Table;
use crate::volume::lock;
use crate::{Result, Volume, VolumeError};

const LAYOUT: u8 = 1;

/// How far the scrub of a disk is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// The extent that is read next; those before it were.
    pub extent: u32,
    /// Extents that the disk has now.
    pub extents: u32,
    /// When this pass began, in milliseconds since 1970; 0: none did.
    pub began_ms: u64,
    /// When the last one ended; 0: none did.
    pub ended_ms: u64,
    /// Damage that this pass has found.
    pub damage: u64,
    /// Damage that the last one found.
    pub damage_last: u64,
    /// Somebody asked for it: it does not wait for its time.
    pub is_asked: bool,
}

/// The scrubs of all disks, by their UUIDs.
#[derive(Default)]
pub(crate) struct Scrubs(Mutex<BTreeMap<[u8; 16], Scrub>>);

#[derive(Default, Clone, Copy)]
struct Scrub {
    progress: ScrubProgress,
    next: Option<Instant>,
}

/// Extents with damage, and the entry that is looked at next.
#[derive(Default)]
pub(crate) struct Damaged {
    queue: VecDeque<(usize, u32)>,
    from: Option<Vec<u8>>,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn key() -> Key {
    set_key(b"scrub")
}

impl ScrubProgress {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![LAYOUT];
        out.extend_from_slice(&self.extent.to_le_bytes());
        for word in [self.began_ms, self.ended_ms, self.damage, self.damage_last] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// Anything that is not understood is a scrub that never was: it begins anew.
    fn decode(bytes: &[u8]) -> Option<ScrubProgress> {
        let mut take = Take(bytes.strip_prefix(&[LAYOUT])?);
        Some(ScrubProgress {
            extent: take.u32()?,
            began_ms: take.u64()?,
            ended_ms: take.u64()?,
            damage: take.u64()?,
            damage_last: take.u64()?,
            ..ScrubProgress::default()
        })
    }

    fn load(engine: &Engine) -> ScrubProgress {
        let found = engine.view().get(&key());
        let found = found.ok().flatten();
        found
            .and_then(|found| ScrubProgress::decode(found.value()))
            .unwrap_or_default()
    }
}

impl Scrubs {
    pub(crate) fn progress(&self, engine: &Engine) -> ScrubProgress {
        let store = engine.store();
        let known = lock(&self.0).get(&store.identity().disk).copied();
        ScrubProgress {
            extents: store.extents(),
            ..known.unwrap_or_default().progress
        }
    }
}

impl Volume {
    /// Reads and verifies one extent of each disk whose turn it is: all of a disk once in
    /// `interval`, or, if it was asked for, one extent after the other. Blocks meanwhile; run it on
    /// a thread of its own. Says how long nothing is due, and describes the damage.
    ///
    /// An extent is read in pieces, with a rest after each: as long as reading it took, and several
    /// times as long while clients read or write.
    pub fn scrub(&self, interval: Duration) -> (Duration, Vec<String>) {
        let mut found = Vec::new();
        let mut wait = Duration::MAX;
        let disks = self.table().disks.clone();
        for disk in disks.iter().flatten() {
            let store = disk.engine.store();
            if store.failure().is_some() {
                continue;
            }
            let id = store.identity().disk;
            let known = lock(&self.inner.scrubs.0).get(&id).copied();
            let mut scrub = known.unwrap_or_else(|| Scrub {
                progress: ScrubProgress::load(&disk.engine),
                next: None,
            });
            let now = Instant::now();
            let pace = interval / store.extents().max(1);
            let first = now + pace.min(FIRST_PAUSE_MAX);
            let next = *scrub.next.get_or_insert(first);
            let is_due = scrub.progress.is_asked || (!interval.is_zero() && now >= next);
            if is_due {
                let progress = &mut scrub.progress;
                found.extend(self.scrub_extent(&disk.name, &disk.engine, progress));
                let pause = match progress.is_asked {
                    true => Duration::ZERO,
                    false => pace,
                };
                scrub.next = Some(Instant::now() + pause);
                wait = wait.min(pause);
            } else if !interval.is_zero() {
                wait = wait.min(next - now);
            }
            let mut all = lock(&self.inner.scrubs.0);
            let asked_before = known.is_some_and(|known| known.progress.is_asked);
            let asked_now = all.get(&id).is_some_and(|now| now.progress.is_asked);
            // Asked for meanwhile: that begins anew.
            if asked_before || !asked_now {
                all.insert(id, scrub);
            }
        }
        (wait, found)
    }

    /// Has everything on a disk read and verified from now on, from the beginning.
    ///
    /// # Errors
    /// [`VolumeError::Set`] if there is no such disk here.
    pub fn ask_for_scrub(&self, slot: usize) -> Result<()> {
        let table = self.table();
        let disk = table.disk(slot).ok_or_else(|| VolumeError::Set {
            why: format!("disk {slot} is not here"),
        })?;
        let id = disk.engine.store().identity().disk;
        let mut scrubs = lock(&self.inner.scrubs.0);
        let scrub = scrubs.entry(id).or_insert_with(|| Scrub {
            progress: ScrubProgress::load(&disk.engine),
            next: None,
        });
        scrub.progress = ScrubProgress {
            extent: 0,
            began_ms: 0,
            damage: 0,
            is_asked: true,
            ..scrub.progress
        };
        Ok(())
    }

    /// A step of finding out what damage has hit, and of having that made again. `false`: there
    /// is none.
    pub(crate) fn look_into_damage(&self, state: &mut State) -> Result<bool> {
        let table = self.table();
        let damaged = &mut state.damaged;
        for slot in table.live() {
            let store = table.engine(slot)?.store();
            for extent in store.take_damaged_extents() {
                if !damaged.queue.contains(&(slot, extent)) {
                    damaged.queue.push_back((slot, extent));
                }
            }
        }
        let Some((slot, extent)) = damaged.queue.front().copied() else {
            return Ok(false);
        };
        let from = damaged.from.take().unwrap_or_default();
        let is_live = table.live().any(|live| live == slot);
        let next = match is_live {
            true => self.look_into_extent(&table, slot, extent, &from),
            false => Ok(None),
        };
        match next {
            Ok(Some(next)) => damaged.from = Some(next),
            Ok(None) => drop(damaged.queue.pop_front()),
            Err(error) => {
                damaged.queue.pop_front();
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Looks at some entries of a disk that lie in an extent with damage; says where to go on.
    fn look_into_extent(
        &self,
        table: &Table,
        slot: usize,
        extent: u32,
        from: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        let engine = table.engine(slot)?;
        let view = engine.view();
        let page = match view.scan(from, &[SET_PREFIX + 2], SCAN_SHARDS) {
            Ok(page) => page,
            Err(error @ (Error::Corrupt { .. } | Error::Disk(_))) => {
                self.do_without(table, slot, &error);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        for found in page
            .entries
            .iter()
            .filter(|found| found.extent() == Some(extent))
        {
            let len = found.payload_len();
            match view.read_payload_past_cache(found, 0..len) {
                Ok(_) => {}
                Err(error @ (Error::Corrupt { .. } | Error::Disk(_))) => {
                    self.mend_entry(table, slot, found, &error)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(page.next)
    }

    /// The index of a disk cannot be read, and so nothing on it be found: the set is better off
    /// without it, if it can do without.
    fn do_without(&self, table: &Table, slot: usize, error: &Error) {
        let name = table.disk(slot).map_or("a disk", |disk| &disk.name);
        let reason = format!("its index is damaged: {error}");
        if table.live().count() > table.membership.quorum()
            && let Ok(engine) = table.engine(slot)
        {
            engine.store().give_up(&reason);
        }
        self.inner.keeping.say(format!(
            "{name}: {reason}. Replace the disk, or empty it and add it again"
        ));
    }

    /// Has an entry made again that cannot be read where it is.
    fn mend_entry(&self, table: &Table, slot: usize, found: &Found, error: &Error) -> Result<()> {
        if let RawKey::Shard {
            blob,
            stripe,
            shard,
        } = RawKey::decode(found.key())
        {
            let value = ShardValue::decode(found.value())?;
            let stripe = Stripe {
                volume: self.clone(),
                reports: true,
                blob,
                number: stripe,
                cut: Cut {
                    scheme: value.scheme,
                    len: value.stripe_len as usize,
                },
            };
            self.request_repair(&stripe, shard.into(), slot, &error.clone().into());
            return Ok(());
        }
        let name = table.disk(slot).map_or("a disk", |disk| &disk.name);
        let is_mirrored = found
            .key()
            .first()
            .is_some_and(|prefix| *prefix < SHARD_PREFIX || *prefix == OWN_PREFIX);
        if !is_mirrored {
            return Ok(());
        }
        let replicas = table.replicas();
        let other = replicas.iter().find(|other| **other != slot);
        let Some(other) = other.filter(|_| replicas.contains(&slot)) else {
            // Old metadata, which nobody reads.
            return Ok(());
        };
        let (from, mut to) = (found.key().to_vec(), found.key().to_vec());
        to.push(0);
        let copied = self.while_quiet(from, to, || {
            let engine = table.engine(*other)?;
            let view = engine.view();
            let Some(theirs) = view.get(&found.to_key())? else {
                return Ok(());
            };
            let payload = view.read_payload(&theirs, 0..theirs.payload_len())?;
            let batch = Batch::new().put_with_payload(theirs.to_key(), theirs.value(), payload);
            table.engine(slot)?.submit(batch.frees_space())?.wait()?;
            Ok(())
        });
        match copied {
            Ok(true) => self.inner.keeping.tell(format!(
                "{name}: metadata that was damaged there was copied from another disk: {error}"
            )),
            // Looked at again with the next scrub.
            Ok(false) => {}
            Err(other) => self.inner.keeping.say(format!(
                "{name}: metadata is damaged there ({error}), and on another disk, too: {other}"
            )),
        }
        Ok(())
    }
}

impl Volume {
    /// Reads and verifies an extent; says what is damaged in it.
    fn scrub_extent(
        &self,
        name: &str,
        engine: &Engine,
        progress: &mut ScrubProgress,
    ) -> Vec<String> {
        let store = engine.store();
        if progress.began_ms == 0 {
            progress.began_ms = now_ms();
        }
        let (volume, extent) = (self.clone(), progress.extent);
        let rest = move |took: Duration| {
            std::thread::sleep(match volume.is_in_use() {
                true => took * REST_IN_USE,
                false => took,
            });
        };
        // Apart, so that it ends when the disk is abandoned, although a read never does.
        let scrubbed =
            engine.apart(move |engine| engine.store().scrub_gently(extent, &mut { rest }));
        let said = match scrubbed.wait() {
            Ok(damage) => {
                progress.damage += damage.len() as u64;
                let said = |damage| format!("{name}: the scrub found damage: {damage}");
                damage.iter().map(said).collect()
            }
            // Another disk's turn.
            Err(Error::Failed { .. } | Error::Closed) => return Vec::new(),
            Err(error) => {
                progress.damage += 1;
                vec![format!(
                    "{name}: the scrub could not read extent {}: {error}",
                    progress.extent
                )]
            }
        };
        progress.extent += 1;
        if progress.extent >= store.extents() {
            *progress = ScrubProgress {
                ended_ms: now_ms(),
                damage_last: progress.damage,
                ..ScrubProgress::default()
            };
        }
        // If it is not kept, a pass is repeated from where it was kept last.
        let kept = Batch::new().put(key(), progress.encode()).frees_space();
        if let Ok(dependency) = engine.submit(kept) {
            let _ = dependency.wait();
        }
        said
    }
}

/// How many times as long as reading a piece took a scrub rests while clients read or write bodies.
const REST_IN_USE: u32 = 3;

/// Longest time from the start to the first extent of a scrub.
const FIRST_PAUSE_MAX: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_survives_its_codec_and_nothing_else_does() {
        let progress = ScrubProgress {
            extent: 7,
            began_ms: 1,
            ended_ms: 2,
            damage: 3,
            damage_last: 4,
            ..ScrubProgress::default()
        };
        let bytes = progress.encode();
        assert_eq!(ScrubProgress::decode(&bytes), Some(progress));
        for cut in 0..bytes.len() {
            assert_eq!(ScrubProgress::decode(&bytes[..cut]), None);
        }
    }
}
