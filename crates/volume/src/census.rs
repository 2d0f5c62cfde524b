//! What is referred to and is nowhere: the part of the ledger that no disk's index can tell.
//!
//! The walk over the indexes counts each stripe of which anything is there. Of one whose disks are
//! all gone only whoever refers to its blob knows; so these are asked for their blobs, and each is
//! looked up.
//!
//! What must always hold:
//! - a stripe counts as lost only if its blob was referred to after the stripe was found nowhere:
//!   else it may have been deleted in between.

use crate::blob::{SHARD_PREFIX, shard_key_bytes};
use crate::heal::scan_readable;
use crate::shard::RawKey;
use crate::table::Table;
use crate::volume::lock;
use crate::{BlobRef, Result, Volume, VolumeError};

/// A walk over everything that refers to blobs.
pub trait Census: Send {
    /// Looks at some more, and says how many stripes of it are nowhere, by
    /// [`Volume::stripes_nowhere`]. `None`: there is no more. Blocks while it reads.
    ///
    /// # Errors
    /// What cannot be read. The walk is begun anew later.
    fn step(&mut self) -> Result<Option<u64>>;
}

/// Begins such a walk.
pub(crate) type BeginCensus = dyn Fn() -> Box<dyn Census> + Send + Sync;

/// Stripes that are looked for at once.
const STRIPES_AT_ONCE: u32 = 16 * 1_024;

impl Volume {
    /// Names whoever refers to blobs. Without it the ledger counts only stripes of which anything
    /// is there.
    pub fn set_census(&self, begin: impl Fn() -> Box<dyn Census> + Send + Sync + 'static) {
        *lock(&self.inner.keeping.census) = Some(Box::new(begin));
        if !self.is_single() {
            self.look_for_missing_shards();
        }
    }

    /// How many stripes of a blob no disk has anything of. Blocks while it reads.
    ///
    /// # Errors
    /// What keeps a disk from saying.
    pub fn stripes_nowhere(&self, blob: &BlobRef) -> Result<u64> {
        let table = self.table();
        let (mut nowhere, mut from) = (0, 0);
        while from < blob.stripes() {
            let to = blob.stripes().min(from.saturating_add(STRIPES_AT_ONCE));
            // Twice: a shard that is brought to another disk meanwhile is missed only once.
            let mut missed = not_found(&table, blob, from..to)?;
            if missed > 0 {
                missed = not_found(&table, blob, from..to)?;
            }
            nowhere += missed;
            from = to;
        }
        Ok(nowhere)
    }
}

/// How many of some stripes no disk has anything of.
fn not_found(table: &Table, blob: &BlobRef, stripes: std::ops::Range<u32>) -> Result<u64> {
    let mut found = vec![false; (stripes.end - stripes.start) as usize];
    let mut left = found.len();
    let end = match stripes.end.checked_add(1) {
        Some(_) => shard_key_bytes(blob.id, stripes.end, 0).to_vec(),
        None => vec![SHARD_PREFIX + 1],
    };
    // Where the first stripe is to be: most blobs have no other one.
    let first = crate::placement::order(blob.id, stripes.start, &table.places_here());
    for slot in first
        .into_iter()
        .filter(|slot| table.live().any(|live| live == *slot))
    {
        let mut from = Some(shard_key_bytes(blob.id, stripes.start, 0).to_vec());
        while let Some(start) = from.filter(|_| left > 0) {
            let page = scan_readable(table, slot, (&start, &end))?;
            let page = page.ok_or_else(|| VolumeError::NotHere {
                missing: table.missing(),
            })?;
            for entry in &page.entries {
                let RawKey::Shard { stripe, .. } = RawKey::decode(entry.key()) else {
                    continue;
                };
                let at = stripe.checked_sub(stripes.start).map(|at| at as usize);
                if let Some(seen) = at.and_then(|at| found.get_mut(at))
                    && !std::mem::replace(seen, true)
                {
                    left -= 1;
                }
            }
            from = page.next;
        }
    }
    Ok(left as u64)
}
