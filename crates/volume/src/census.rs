//! What is referred to and is nowhere: the part of the ledger that no disk's index can tell.
//!
//! The walk over the indexes counts each stripe of which anything is there. Of one whose disks are
//! all gone only whoever refers to its blob knows; so these are asked for their blobs, and each is
//! looked up.
//!
//! What must always hold:
//! - a stripe counts as lost only if its blob was referred to after the stripe was found nowhere:
//!   else it may have been deleted in between.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::blob::{SHARD_PREFIX, shard_key_bytes};
use crate::heal::scan_readable;
use crate::keep::{Keeping, State};
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
    /// What cannot be read now. The next step goes on at the same place.
    fn step(&mut self) -> Result<Option<u64>>;
}

/// Begins such a walk.
pub(crate) type BeginCensus = dyn Fn() -> Box<dyn Census> + Send + Sync;

/// One that is under way.
pub(crate) struct CensusWalk {
    census: Box<dyn Census>,
    nowhere: u64,
    failures: u32,
    /// Before this no other step is taken.
    rest_until: Option<Instant>,
}

/// How often a step that fails is tried again, and how long after.
const FAILURES_MAX: u32 = 8;
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Longest rest between two steps.
const REST_MAX: Duration = Duration::from_millis(500);

/// Stripes that are looked for at once.
const STRIPES_AT_ONCE: u32 = 16 * 1_024;

impl Keeping {
    /// Disks came or went.
    pub(crate) fn request_census(&self) {
        if lock(&self.census).is_some() {
            self.census_is_due.store(true, Ordering::SeqCst);
            self.census_is_old.store(true, Ordering::SeqCst);
        }
    }
}

impl Volume {
    /// Names whoever refers to blobs. Without it the ledger counts only stripes of which anything
    /// is there.
    pub fn set_census(&self, begin: impl Fn() -> Box<dyn Census> + Send + Sync + 'static) {
        *lock(&self.inner.keeping.census) = Some(Box::new(begin));
        if !self.is_single() {
            self.inner.keeping.request_census();
        }
    }

    /// A step of a census, if one is due.
    pub(crate) fn take_census(&self, state: &mut State) -> Result<bool> {
        let keeping = &self.inner.keeping;
        if !keeping.census_is_due.load(Ordering::SeqCst) {
            return Ok(false);
        }
        if keeping.census_is_old.swap(false, Ordering::SeqCst) {
            state.census = None;
        }
        if state.census.is_none() {
            let was_lost = keeping.nowhere.load(Ordering::SeqCst) > 0;
            let losses = self.lacking() + state.left_gone;
            let may_be_lost = was_lost || !state.is_counted || losses > 0;
            let losses = match was_lost || !state.is_counted {
                true => usize::MAX,
                false => losses,
            };
            keeping.losses.store(losses, Ordering::SeqCst);
            let begin = lock(&keeping.census);
            let begin = begin.as_ref().filter(|_| may_be_lost);
            state.census = begin.map(|begin| CensusWalk {
                census: begin(),
                nowhere: 0,
                failures: 0,
                rest_until: None,
            });
        }
        let Some(walk) = &mut state.census else {
            keeping.census_is_due.store(false, Ordering::SeqCst);
            return Ok(false);
        };
        if walk.rest_until.is_some_and(|until| Instant::now() < until) {
            return Ok(false);
        }
        let began = Instant::now();
        match walk.census.step() {
            Ok(Some(nowhere)) => {
                walk.nowhere += nowhere;
                walk.failures = 0;
                // Whoever reads or writes meanwhile comes first.
                let rest = began.elapsed() * if self.is_in_use() { 4 } else { 0 };
                walk.rest_until = Some(Instant::now() + rest.min(REST_MAX));
                return Ok(true);
            }
            Ok(None) => {}
            Err(error) if walk.failures < FAILURES_MAX => {
                walk.failures += 1;
                walk.rest_until = Some(Instant::now() + FAILURE_PAUSE);
                return Err(error);
            }
            // What it found until then is so all the same.
            Err(error) => {
                let event = format!("not all of what is stored was looked for: {error}");
                keeping.say(event);
            }
        }
        keeping.nowhere.store(walk.nowhere, Ordering::SeqCst);
        state.is_counted = true;
        state.census = None;
        let is_old = keeping.census_is_old.load(Ordering::SeqCst);
        keeping.census_is_due.store(is_old, Ordering::SeqCst);
        Ok(true)
    }

    /// How many stripes of a blob no disk has anything of. Blocks while it reads. Within a census
    /// it says 0 at once of what so few disks cannot have been alone with.
    ///
    /// # Errors
    /// What keeps a disk from saying.
    pub fn stripes_nowhere(&self, blob: &BlobRef) -> Result<u64> {
        // What counts as written is on one disk more than it takes to read it.
        let losses = self.inner.keeping.losses.load(Ordering::SeqCst);
        if blob.scheme.width() > 1 && losses <= usize::from(blob.scheme.k) {
            return Ok(0);
        }
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
