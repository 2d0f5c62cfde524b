//! Making up for shards that are missing: a walk over all stripes that counts what there is of
//! each, and rebuilds what is not there onto disks that can have it.
//!
//! The indexes of all disks are walked side by side in the order of stripes, so that nothing has
//! to be remembered of what went wrong: whatever is missing is found, and a walk that finds
//! nothing missing is the proof that nothing is. What the walks count is the **ledger**.
//!
//! What must always hold:
//! - a blob that is being deleted is left alone, and one that is healed is not deleted meanwhile
//!   ([`Pins::hold`](crate::pins::Pins::hold)): no shard comes back;
//! - nothing is ever removed here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use shardstore::{Batch, Read};

use crate::blob::{SHARD_PREFIX, shard_key, shard_key_bytes};
use crate::limits::{HEAL_PAGE, HEAL_SHARDS_PER_STEP, SCAN_SHARDS};
use crate::reader::Stripe;
use crate::shard::{RawKey, ShardValue};
use crate::stripe::Cut;
use crate::table::Table;
use crate::{BlobId, Result, Volume, VolumeError, block_on, placement};

/// How many stripes have how much of what they are to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Stripes by how many of their shards are missing: all are there, one is missing, and so on
    /// up to as many as may be.
    pub stripes: [u64; LEDGER_CLASSES],
    /// Stripes of which too few shards are there to read them.
    pub lost: u64,
    /// Bytes of shards that are missing.
    pub bytes_owing: u64,
    /// Whether it is that of a whole walk since which nothing is known to have changed for the
    /// worse.
    pub is_settled: bool,
}

/// Shards that may be missing, and none.
const LEDGER_CLASSES: usize = crate::codec::PARITY_MAX + 1;

impl Ledger {
    /// Stripes that are not as they are to be.
    pub fn owing(&self) -> u64 {
        self.stripes[1..].iter().sum::<u64>() + self.lost
    }
}

/// A walk under way.
pub(crate) struct HealWalk {
    /// Stripes before this are done.
    cursor: Option<(BlobId, u32)>,
    ledger: Ledger,
    /// Whether something was passed over that has to be looked at again.
    left_out: bool,
    /// Whether anything was rebuilt.
    rebuilt: u64,
}

/// What is there of a stripe.
#[derive(Default)]
struct Present {
    /// Where each shard is, by its number.
    shards: BTreeMap<u8, BTreeSet<usize>>,
    value: Option<Vec<u8>>,
}

/// What came of a step.
pub(crate) enum HealStep {
    /// There is more.
    GoOn { rebuilt: usize },
    /// All stripes were looked at. `again`: something was passed over or could not be placed for
    /// now.
    Done {
        ledger: Ledger,
        again: bool,
        rebuilt: usize,
    },
}

impl HealWalk {
    pub(crate) fn new() -> HealWalk {
        HealWalk {
            cursor: None,
            ledger: Ledger::default(),
            left_out: false,
            rebuilt: 0,
        }
    }

    /// Looks at the next stripes, and rebuilds a few shards.
    pub(crate) fn step(&mut self, volume: &Volume) -> Result<HealStep> {
        let table = volume.table();
        let (stripes, end) = next_stripes(&table, self.cursor)?;
        let mut rebuilt = 0;
        let mut next = None;
        for ((blob, number), present) in stripes {
            if rebuilt >= HEAL_SHARDS_PER_STEP {
                next = Some((blob, number));
                break;
            }
            rebuilt += self.stripe(volume, &table, (blob, number), &present)?;
        }
        self.rebuilt += rebuilt as u64;
        self.cursor = next.or(end);
        if self.cursor.is_some() {
            return Ok(HealStep::GoOn { rebuilt });
        }
        let mut ledger = std::mem::take(&mut self.ledger);
        ledger.is_settled = !self.left_out && self.rebuilt == 0;
        Ok(HealStep::Done {
            ledger,
            // What was rebuilt is counted by another walk.
            again: self.left_out || self.rebuilt > 0,
            rebuilt,
        })
    }

    /// Counts one stripe, and rebuilds what is missing where there is a disk for it. Says how
    /// many shards were.
    fn stripe(
        &mut self,
        volume: &Volume,
        table: &Table,
        (blob, number): (BlobId, u32),
        present: &Present,
    ) -> Result<usize> {
        let Some(whole) = needs(present) else {
            // Of a newer release, or damaged: whoever reads it says so.
            self.ledger.lost += 1;
            return Ok(0);
        };
        if whole.missing.is_empty() {
            self.ledger.stripes[0] += 1;
            return Ok(0);
        }
        let Some(_held) = volume.hold_blob(blob) else {
            // Being written or deleted: it is not counted yet. Whoever writes it without all of
            // its shards has it looked at when it is done.
            return Ok(0);
        };
        // Again, now that nothing of it comes or goes any more.
        let present = look_up(table, blob, number)?;
        let Some(Needs {
            value,
            cut,
            missing,
        }) = needs(&present)
        else {
            // Gone.
            return Ok(0);
        };
        if missing.is_empty() {
            self.ledger.stripes[0] += 1;
            return Ok(0);
        }
        if present.shards.len() < usize::from(cut.scheme.k) {
            self.ledger.lost += 1;
            return Ok(0);
        }
        let holders: BTreeSet<usize> = present.shards.values().flatten().copied().collect();
        let order = placement::order(blob, number, &table.places());
        let mut free = order.into_iter().filter(|slot| !holders.contains(slot));
        let placed: Vec<(u8, usize)> = missing.iter().copied().zip(&mut free).collect();
        let owed = missing.len() - placed.len();
        let class = owed.min(LEDGER_CLASSES - 1);
        let owing = |shard: &u8| cut.stored_len(usize::from(*shard)) as u64;
        if placed.is_empty() {
            self.ledger.stripes[class] += 1;
            self.ledger.bytes_owing += missing.iter().map(owing).sum::<u64>();
            return Ok(0);
        }
        let stripe = Stripe {
            volume: volume.clone(),
            blob,
            number,
            cut,
        };
        let bytes = match block_on(stripe.read_whole()) {
            Ok(bytes) => bytes,
            Err(VolumeError::Busy) => {
                self.left_out = true;
                return Ok(0);
            }
            Err(error) => {
                // There is enough of it by the indexes, but it cannot be read.
                self.ledger.lost += 1;
                volume.report_damage(&error);
                return Ok(0);
            }
        };
        let shards = cut.shards(&bytes);
        let encoded = value.encode()?;
        for (shard, slot) in &placed {
            let payload = shards.get(usize::from(*shard)).cloned().unwrap_or_default();
            let key = shard_key(blob, number, *shard);
            let batch = Batch::new().put_with_payload(key, encoded.clone(), payload);
            let submitted = table.engine(*slot)?.submit(batch);
            match submitted.and_then(|dependency| dependency.wait()) {
                Ok(()) => {}
                // Another one will do, or this one later.
                Err(_) => self.left_out = true,
            }
        }
        self.ledger.stripes[class] += 1;
        let left = missing.iter().skip(placed.len());
        self.ledger.bytes_owing += left.map(owing).sum::<u64>();
        Ok(placed.len())
    }
}

/// What a stripe is, and which of its shards are missing.
struct Needs {
    value: ShardValue,
    cut: Cut,
    missing: Vec<u8>,
}

/// `None`: nothing of it can be understood.
fn needs(present: &Present) -> Option<Needs> {
    let value = ShardValue::decode(present.value.as_deref()?).ok()?;
    let cut = Cut {
        scheme: value.scheme,
        len: value.stripe_len as usize,
    };
    let missing = (0..cut.scheme.width())
        .filter(|shard| !present.shards.contains_key(shard))
        .collect();
    Some(Needs {
        value,
        cut,
        missing,
    })
}

/// What all disks have of one stripe, by fresh views of them.
fn look_up(table: &Table, blob: BlobId, number: u32) -> Result<Present> {
    let from = shard_key_bytes(blob, number, 0);
    let mut to = shard_key_bytes(blob, number, u8::MAX).to_vec();
    to.push(0);
    let mut present = Present::default();
    for slot in table.live() {
        let snapshot = table.engine(slot)?.snapshot();
        let page = snapshot.scan(&from, &to, HEAL_PAGE, Read::Blocking)?;
        for found in &page.entries {
            if let RawKey::Shard { shard, .. } = RawKey::decode(found.key()) {
                present.shards.entry(shard).or_default().insert(slot);
                present.value.get_or_insert_with(|| found.value().to_vec());
            }
        }
    }
    Ok(present)
}

type Stripes = BTreeMap<(BlobId, u32), Present>;

/// The stripes from a place on that all disks have been asked for, and where they end; `None`:
/// there are no more.
fn next_stripes(
    table: &Arc<Table>,
    from: Option<(BlobId, u32)>,
) -> Result<(Stripes, Option<(BlobId, u32)>)> {
    let (blob, stripe) = from.unwrap_or((BlobId::FIRST, 0));
    let start = shard_key_bytes(blob, stripe, 0);
    let mut stripes = Stripes::new();
    // The first stripe that some disk may have more of than its page shows.
    let mut horizon: Option<(BlobId, u32)> = None;
    for slot in table.live() {
        let snapshot = table.engine(slot)?.snapshot();
        let page = snapshot.scan(&start, &[SHARD_PREFIX + 1], HEAL_PAGE, Read::Blocking)?;
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
    Ok((stripes, horizon))
}

const _: () = assert!(HEAL_PAGE > crate::limits::DISKS_MAX && HEAL_PAGE <= SCAN_SHARDS);
