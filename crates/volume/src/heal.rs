//! Making up for shards that are missing: a walk over all stripes that counts what there is of
//! each, rebuilds what is not there onto disks that can have it, and brings what is not where it
//! is to be to other disks ([`plan`](mod@crate::plan)).
//!
//! The indexes of all disks are walked side by side in the order of stripes, so that nothing has
//! to be remembered of what went wrong: whatever is missing is found, and a walk that finds
//! nothing missing is the proof that nothing is. What the walks count is the **ledger**. What they
//! cannot see, because nothing is left of it, is added by [`census`](mod@crate::census).
//!
//! What must always hold:
//! - a blob that is being deleted is left alone, and one that is healed is not deleted meanwhile
//!   ([`Pins::hold`](crate::pins::Pins::hold)): no shard comes back;
//! - a shard is removed only after another disk's was read back from its medium.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use shardstore::{Batch, Dependency, Error, Key, ScanPage};

use crate::blob::{SHARD_PREFIX, shard_key, shard_key_bytes};
use crate::limits::{HEAL_BYTES_PER_STEP, HEAL_PAGE, HEAL_SHARDS_PER_STEP, SCAN_SHARDS};
use crate::pins::Held;
use crate::placement::Place;
use crate::plan::{Holders, Outlook, plan};
use crate::reader::Stripe;
use crate::shard::{RawKey, ShardValue};
use crate::stripe::Cut;
use crate::table::Table;
use crate::{BlobId, Result, Volume, VolumeError, block_on};

/// How many stripes have how much of what they are to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Stripes by how many of their shards are missing: all are there, one is missing, and so on
    /// up to as many as may be.
    pub stripes: [u64; LEDGER_CLASSES],
    /// Stripes of which too few shards are there to read them, or none.
    pub lost: u64,
    /// Bytes of shards that are missing.
    pub bytes_owing: u64,
    /// Whether it is that of a whole walk since which nothing is known to have changed for the
    /// worse.
    pub is_settled: bool,
}

/// Shards that may be missing, and none.
const LEDGER_CLASSES: usize = crate::codec::PARITY_MAX + 1;

/// How far a walk over all stripes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealProgress {
    /// Stripes that were looked at, and made up for where there is a disk for it.
    pub stripes_done: u64,
    /// Stripes that there are, by the walk before it.
    pub stripes: u64,
    /// How long the rest is going to take at this pace; `None`: nobody can tell yet.
    pub left: Option<Duration>,
}

impl Ledger {
    /// All stripes that were counted.
    pub fn total(&self) -> u64 {
        self.stripes.iter().sum::<u64>() + self.lost
    }

    /// Stripes that are not as they are to be.
    pub fn owing(&self) -> u64 {
        self.stripes[1..].iter().sum::<u64>() + self.lost
    }
}

/// A walk under way.
pub(crate) struct HealWalk {
    /// Whether shards are brought to where they are to be, too, and not only made where they are
    /// missing.
    tidies: bool,
    /// Whether nothing is written: too few disks are there.
    only_counts: bool,
    /// Stripes before this are done.
    cursor: Option<(BlobId, u32)>,
    ledger: Ledger,
    /// Whether something was passed over that has to be looked at again.
    left_out: bool,
    /// Whether some blob was come upon that was deleted without all disks having heard of it.
    pub(crate) notes_are_due: bool,
    /// Shards that were made, moved or removed.
    changed: u64,
    /// Shards on disks that are to be emptied, for which there is no other disk.
    stuck: u64,
    /// Shards on such disks that wait until another one has room.
    waiting: u64,
    /// Stripes that were looked at.
    seen: u64,
}

/// What is there of a stripe.
#[derive(Default)]
pub(crate) struct Present {
    /// Where each shard is, by its number.
    pub shards: Holders,
    value: Option<Vec<u8>>,
}

/// What came of a step.
pub(crate) struct HealStep {
    /// Shards that were rebuilt.
    pub rebuilt: usize,
    /// Shards that were brought to another disk.
    pub moved: usize,
    /// All stripes were looked at.
    pub done: Option<Walked>,
}

/// What a whole walk came to.
pub(crate) struct Walked {
    pub ledger: Ledger,
    /// Whether it did what only a walk that tidies does.
    pub tidied: bool,
    /// Something was passed over, or changed, and has to be counted again.
    pub again: bool,
    pub stuck: u64,
    pub waiting: u64,
}

/// A shard on its way to a disk.
struct Job {
    _held: Arc<Held>,
    key: Key,
    to: usize,
    dependency: Dependency,
    /// Where it is to go from, once it is there.
    from: Option<usize>,
    /// Bytes that the stripe owes if this fails.
    bytes: u64,
}

/// A shard that is to go, because another disk has it.
struct Surplus {
    _held: Arc<Held>,
    key: Key,
    slot: usize,
    /// Who else has it, and under which key.
    kept: (usize, Key),
}

/// What a step is about to do.
#[derive(Default)]
struct Work {
    jobs: Vec<Job>,
    surplus: Vec<Surplus>,
    bytes: usize,
}

impl Work {
    fn is_enough(&self) -> bool {
        self.jobs.len() + self.surplus.len() >= HEAL_SHARDS_PER_STEP
            || self.bytes >= HEAL_BYTES_PER_STEP
    }
}

impl HealWalk {
    pub(crate) fn new(tidies: bool, only_counts: bool) -> HealWalk {
        HealWalk {
            tidies: tidies && !only_counts,
            only_counts,
            cursor: None,
            ledger: Ledger::default(),
            left_out: false,
            notes_are_due: false,
            changed: 0,
            stuck: 0,
            waiting: 0,
            seen: 0,
        }
    }

    /// Stripes that were looked at.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Looks at the next stripes, and makes or moves a few shards.
    pub(crate) fn step(&mut self, volume: &Volume) -> Result<HealStep> {
        let table = volume.table();
        let (stripes, end, skipped) = next_stripes(&table, self.cursor)?;
        self.left_out |= skipped;
        let lasting = table.lasting_places();
        let mut work = Work::default();
        let mut next = None;
        for ((blob, number), present) in stripes {
            if work.is_enough() {
                next = Some((blob, number));
                break;
            }
            self.stripe(
                volume,
                (&table, &lasting),
                (blob, number),
                &present,
                &mut work,
            )?;
            self.seen += 1;
        }
        let (rebuilt, moved) = self.carry_out(volume, &table, work);
        self.cursor = next.or(end);
        let mut step = HealStep {
            rebuilt,
            moved,
            done: None,
        };
        if self.cursor.is_none() {
            let mut ledger = std::mem::take(&mut self.ledger);
            // What was changed is counted by another walk.
            let again = self.left_out || self.changed > 0;
            ledger.is_settled = !again;
            step.done = Some(Walked {
                ledger,
                tidied: self.tidies,
                again,
                stuck: self.stuck,
                waiting: self.waiting,
            });
        }
        Ok(step)
    }

    /// Counts one stripe, and begins to do what is to be done for it.
    fn stripe(
        &mut self,
        volume: &Volume,
        (table, lasting): (&Table, &[Place]),
        (blob, number): (BlobId, u32),
        present: &Present,
        work: &mut Work,
    ) -> Result<()> {
        let planned = |present: &Present| {
            let needs = needs(present)?;
            let scheme = needs.cut.scheme;
            let outlook = Outlook {
                lasting,
                takes_data: &|slot| table.takes_data(slot),
                copies: table.membership.copies_of(scheme),
            };
            let mut plan = plan((blob, number), scheme, &present.shards, &outlook);
            if !self.tidies {
                plan.moves.clear();
                plan.surplus.clear();
            }
            Some((needs, plan))
        };
        let Some((known, plan)) = planned(present) else {
            // Of a newer release, or damaged: whoever reads it says so.
            self.ledger.lost += 1;
            return Ok(());
        };
        if plan.is_done() {
            self.ledger.stripes[0] += 1;
            self.stuck += plan.stuck as u64;
            self.waiting += plan.waiting as u64;
            return Ok(());
        }
        if self.only_counts {
            self.count(known.cut, present, &plan.missing);
            return Ok(());
        }
        let Some(held) = volume.hold_blob(blob) else {
            // Being written or deleted: it is not counted yet. Whoever writes it has it looked at
            // when it is done, if not all of it is where it is to be.
            return Ok(());
        };
        // Again, now that nothing of it comes or goes any more.
        let present = look_up(table, blob, number)?;
        let Some((Needs { value, cut }, plan)) = planned(&present) else {
            // Gone.
            return Ok(());
        };
        self.waiting += plan.waiting as u64;
        if plan.is_done() {
            self.stuck += plan.stuck as u64;
            self.ledger.stripes[0] += 1;
            return Ok(());
        }
        if volume.is_gone(table, blob)? {
            // A disk that was away when it was deleted has it still: nothing of it is made again.
            self.notes_are_due = true;
            self.left_out = true;
            return Ok(());
        }
        self.stuck += plan.stuck as u64;
        let left = plan.missing.get(plan.make.len()..).unwrap_or_default();
        if !self.count(cut, &present, left) {
            return Ok(());
        }

        let held = Arc::new(held);
        let stripe = || Stripe {
            volume: volume.clone(),
            reports: true,
            blob,
            number,
            cut,
        };
        let mut whole = None;
        let targets = plan.make.iter().map(|(shard, to)| (*shard, None, *to));
        let moves = plan.moves.iter().map(|m| (m.shard, Some(m.from), m.to));
        for (shard, from, to) in targets.chain(moves) {
            // As it is where it is, if it can be read there.
            let copied = match from {
                Some(from) => block_on(stripe().read_shard(shard, from)),
                None => None,
            };
            let payload = match copied {
                Some(payload) => payload,
                None => {
                    if whole.is_none() {
                        match block_on(stripe().read_whole()) {
                            Ok(bytes) => whole = Some(bytes),
                            Err(VolumeError::Busy) => {
                                self.left_out = true;
                                return Ok(());
                            }
                            Err(error) => {
                                // There is enough of it by the indexes, but it cannot be read.
                                self.ledger.stripes[left.len().min(LEDGER_CLASSES - 1)] -= 1;
                                self.ledger.lost += 1;
                                volume.report_damage(&error);
                                return Ok(());
                            }
                        }
                    }
                    let whole = whole.as_deref().unwrap_or_default();
                    cut.shard(whole, usize::from(shard))
                }
            };
            work.bytes += payload.len();
            let bytes = payload.len() as u64;
            let key = shard_key(blob, number, shard);
            // Whoever reads the stripe has it from the others as a rule.
            let batch = Batch::new().put_with_payload(key.clone(), value.encode()?, payload);
            let batch = batch.cold();
            match table.engine(to)?.submit(batch) {
                Ok(dependency) => work.jobs.push(Job {
                    _held: held.clone(),
                    key,
                    to,
                    dependency,
                    from,
                    bytes,
                }),
                // Another one will do, or this one later.
                Err(_) => self.left_out = true,
            }
        }
        for (shard, slot) in &plan.surplus {
            let same = |other: &u8| cut.scheme.k == 1 || other == shard;
            let others = present.shards.iter().filter(|(other, _)| same(other));
            let kept = others
                .flat_map(|(other, slots)| slots.iter().map(|slot| (*other, *slot)))
                .find(|(other, at)| !plan.surplus.contains(&(*other, *at)));
            if let Some((other, at)) = kept {
                work.surplus.push(Surplus {
                    _held: held.clone(),
                    key: shard_key(blob, number, *shard),
                    slot: *slot,
                    kept: (at, shard_key(blob, number, other)),
                });
            }
        }
        Ok(())
    }

    /// Counts a stripe that is going to lack the shards in `left`. `false`: it cannot be read.
    fn count(&mut self, cut: Cut, present: &Present, left: &[u8]) -> bool {
        if present.shards.len() < usize::from(cut.scheme.k) {
            self.ledger.lost += 1;
            return false;
        }
        let owing = |shard: &u8| cut.stored_len(usize::from(*shard)) as u64;
        self.ledger.stripes[left.len().min(LEDGER_CLASSES - 1)] += 1;
        self.ledger.bytes_owing += left.iter().map(owing).sum::<u64>();
        true
    }

    /// Waits for what was submitted, and removes what is elsewhere by then: only after it was
    /// read there from the medium. Says how many shards were made, and how many were moved.
    fn carry_out(&mut self, volume: &Volume, table: &Table, work: Work) -> (usize, usize) {
        let (mut rebuilt, mut moved) = (0, 0);
        let mut gone: BTreeMap<usize, Batch> = BTreeMap::new();
        let mut remove = |slot: usize, key: &Key| {
            let batch = gone
                .entry(slot)
                .or_insert_with(|| Batch::new().frees_space());
            *batch = std::mem::take(batch).delete(key.clone());
        };
        for job in &work.jobs {
            if job.dependency.wait().is_err() {
                if job.from.is_none() {
                    self.ledger.bytes_owing += job.bytes;
                }
                self.left_out = true;
                continue;
            }
            self.changed += 1;
            let Some(from) = job.from else {
                rebuilt += 1;
                continue;
            };
            match read_back(table, job.to, &job.key) {
                Ok(()) => {
                    moved += 1;
                    remove(from, &job.key);
                }
                Err(error) => {
                    self.left_out = true;
                    volume.report_damage(&error);
                }
            }
        }
        for surplus in &work.surplus {
            match read_back(table, surplus.kept.0, &surplus.kept.1) {
                Ok(()) => {
                    self.changed += 1;
                    remove(surplus.slot, &surplus.key);
                }
                Err(error) => volume.report_damage(&error),
            }
        }
        for (slot, batch) in gone {
            let submitted = table.engine(slot).map(|engine| engine.submit(batch));
            if !matches!(submitted, Ok(Ok(dependency)) if dependency.wait().is_ok()) {
                self.left_out = true;
            }
        }
        (rebuilt, moved)
    }
}

/// Reads a shard from the medium of a disk, and says whether it is what was written there.
fn read_back(table: &Table, slot: usize, key: &Key) -> Result<()> {
    let view = table.engine(slot)?.view();
    let found = view.get(key)?;
    let found = found.ok_or_else(|| VolumeError::Corrupt {
        what: "a shard that was copied".to_owned(),
        why: "it is not where it was put".to_owned(),
    })?;
    view.read_payload_past_cache(&found, 0..found.payload_len())?;
    Ok(())
}

/// What a stripe is.
pub(crate) struct Needs {
    value: ShardValue,
    pub cut: Cut,
}

/// `None`: nothing of it can be understood.
pub(crate) fn needs(present: &Present) -> Option<Needs> {
    let value = ShardValue::decode(present.value.as_deref()?).ok()?;
    let cut = Cut {
        scheme: value.scheme,
        len: value.stripe_len as usize,
    };
    Some(Needs { value, cut })
}

/// What all disks have of one stripe, by fresh views of them.
fn look_up(table: &Table, blob: BlobId, number: u32) -> Result<Present> {
    let from = shard_key_bytes(blob, number, 0);
    let mut to = shard_key_bytes(blob, number, u8::MAX).to_vec();
    to.push(0);
    let mut present = Present::default();
    for slot in table.live() {
        let Some(page) = scan_readable(table, slot, (&from, &to))? else {
            continue;
        };
        for found in &page.entries {
            if let RawKey::Shard { shard, .. } = RawKey::decode(found.key()) {
                present.shards.entry(shard).or_default().insert(slot);
                present.value.get_or_insert_with(|| found.value().to_vec());
            }
        }
    }
    Ok(present)
}

pub(crate) type Stripes = BTreeMap<(BlobId, u32), Present>;

/// A page of a disk's shards. `None`: its index cannot be read there, which is looked into.
pub(crate) fn scan_readable(
    table: &Table,
    slot: usize,
    (from, to): (&[u8], &[u8]),
) -> Result<Option<ScanPage>> {
    let engine = table.engine(slot)?;
    match engine.view().scan(from, to, HEAL_PAGE) {
        Ok(page) => Ok(Some(page)),
        Err(error @ (Error::Corrupt { .. } | Error::Disk(_))) => {
            engine.store().note_damage(&error);
            Ok(None)
        }
        // It is about to be taken out.
        Err(Error::Failed { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Stripes, the place behind them, and whether a disk could not be asked.
type NextStripes = (Stripes, Option<(BlobId, u32)>, bool);

/// The stripes from a place on that all disks have been asked for, and where they end; `None`:
/// there are no more.
pub(crate) fn next_stripes(table: &Arc<Table>, from: Option<(BlobId, u32)>) -> Result<NextStripes> {
    let mut skipped = false;
    let (blob, stripe) = from.unwrap_or((BlobId::FIRST, 0));
    let start = shard_key_bytes(blob, stripe, 0);
    let mut stripes = Stripes::new();
    // The first stripe that some disk may have more of than its page shows.
    let mut horizon: Option<(BlobId, u32)> = None;
    for slot in table.live() {
        let Some(page) = scan_readable(table, slot, (&start, &[SHARD_PREFIX + 1]))? else {
            skipped = true;
            continue;
        };
        for found in &page.entries {
            let RawKey::Shard {
                blob,
                stripe,
                shard,
            } = RawKey::decode(found.key())
            else {
                continue;
            };
            let present = stripes.entry((blob, stripe)).or_default();
            present.shards.entry(shard).or_default().insert(slot);
            present.value.get_or_insert_with(|| found.value().to_vec());
        }
        if let (Some(next), Some(last)) = (page.next, page.entries.last()) {
            let at = match RawKey::decode(&next) {
                RawKey::Shard { blob, stripe, .. } => (blob, stripe),
                // Somewhere behind the last one that was found.
                _ => match RawKey::decode(last.key()) {
                    RawKey::Shard { blob, stripe, .. } => (blob, stripe),
                    _ => continue,
                },
            };
            horizon = Some(horizon.map_or(at, |horizon| horizon.min(at)));
        }
    }
    if let Some(horizon) = horizon {
        // A page holds more entries than a stripe has shards on one disk, so that some stripe
        // is always whole.
        let behind = (Bound::Included(horizon), Bound::Unbounded);
        let behind: Vec<_> = stripes.range(behind).map(|(key, _)| *key).collect();
        for key in behind {
            stripes.remove(&key);
        }
    }
    Ok((stripes, horizon, skipped))
}

const _: () = assert!(HEAL_PAGE > crate::limits::DISKS_MAX && HEAL_PAGE <= SCAN_SHARDS);
