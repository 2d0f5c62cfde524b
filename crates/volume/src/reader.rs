//! Reading a blob: stripes in, verified pieces out, from as few disks as have it, and from others
//! where one cannot be read, or takes too long.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use shardstore::{Batch, Completion, room_for};

use crate::blob::shard_key;
use crate::keep::has_failed;
use crate::latency::Slots;
use crate::limits::READ_AHEAD_STRIPES;
use crate::placement;
use crate::stripe::Cut;
use crate::table::Table;
use crate::timer::before;
use crate::volume::lock;
use crate::{BlobId, BlobPin, BlobRef, Result, Volume, VolumeError};

/// What one read of a shard found.
enum Piece {
    Bytes(Vec<u8>),
    Missing,
    WrongLength(u32),
}

/// Bytes of a shard, once they are there.
type Part = Option<Vec<u8>>;

type Read = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send>>;

/// Yields a range of a blob, piece by piece. Keeps a pin, and holds at most
/// `1 + READ_AHEAD_STRIPES` stripes. Each shard is read under a snapshot of its own, so that
/// a client that takes its time keeps nothing of the disk but this blob.
pub struct BlobReader {
    pin: Arc<BlobPin>,
    blob: BlobRef,
    /// What has not been asked for yet, in plain bytes.
    rest: Range<u64>,
    /// Asked for already, in order.
    ahead: VecDeque<Read>,
    /// Whether the last piece had to wait for the disk. Pieces that memory holds are not
    /// asked for ahead: copying them early would only delay the one that is wanted now.
    cold: bool,
}

impl BlobReader {
    pub(crate) fn new(pin: Arc<BlobPin>, blob: BlobRef, range: Range<u64>) -> BlobReader {
        let end = range.end.min(blob.plain_len);
        let rest = range.start.min(end)..end;
        BlobReader {
            pin,
            blob,
            rest,
            ahead: VecDeque::new(),
            cold: false,
        }
    }

    /// The next piece: verified, never empty, at most one stripe. `None` at the end; after
    /// an error the reader is at its end. A cancelled call loses nothing.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>>> {
        let piece = self.try_next().await;
        if !matches!(piece, Ok(Some(_))) {
            self.rest = 0..0;
            self.ahead.clear();
        }
        piece.transpose()
    }

    /// Whether the disks that are here have what is going to be read, before anybody is promised
    /// it. Costs next to nothing while no more disks are missing than a stripe can lose. Else each
    /// stripe is looked up, until `left` is used up: of what is behind that, nothing is known.
    ///
    /// # Errors
    /// [`VolumeError::NotHere`] says which disks are missing for it.
    pub async fn probe(&mut self, left: &mut ProbeBudget) -> Result<()> {
        if self.pin.volume().lacking() <= usize::from(self.blob.scheme.m) {
            return Ok(());
        }
        let mut at = self.rest.start;
        while at < self.rest.end {
            let (stripe, end) = self.stripe_at(at);
            // A shard that is brought to another disk meanwhile is missed only once.
            let is_there = match stripe.is_there(left).await {
                Some(false) => stripe.is_there(left).await,
                other => other,
            };
            match is_there {
                Some(true) => at = end,
                Some(false) => return Err(stripe.too_few(&[])),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// The stripe that has a byte of the blob, and where it ends there.
    fn stripe_at(&self, at: u64) -> (Stripe, u64) {
        let blob = &self.blob;
        let stripe_bytes = blob.stripe_bytes();
        let number = at / stripe_bytes;
        let begin = number * stripe_bytes;
        let end = (begin + stripe_bytes).min(blob.stored_len);
        let stripe = Stripe {
            volume: self.pin.volume().clone(),
            reports: true,
            blob: blob.id,
            // As many as a `u32` counts, of at most 16 MiB each.
            number: number as u32,
            cut: Cut {
                scheme: blob.scheme,
                len: (end - begin) as usize,
            },
        };
        (stripe, end)
    }

    async fn try_next(&mut self) -> Result<Option<Vec<u8>>> {
        // This release writes no transforms.
        if !self.blob.transforms.is_empty() {
            return Err(VolumeError::Newer {
                what: format!("blob {}", self.blob.id),
            });
        }
        if self.ahead.is_empty() && !self.ask()? {
            return Ok(None);
        }
        let at_once = poll_fn(|context| Poll::Ready(self.poll_front(context))).await;
        self.cold |= at_once.is_pending();
        while self.cold && self.ahead.len() <= READ_AHEAD_STRIPES && self.ask()? {}
        // The piece stays in front until it is there, so that a cancelled call can be repeated.
        let piece = match at_once {
            Poll::Ready(piece) => piece,
            Poll::Pending => poll_fn(|context| self.poll_front(context)).await,
        };
        self.ahead.pop_front();
        piece.map(Some)
    }

    fn poll_front(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>>> {
        match self.ahead.front_mut() {
            Some(read) => read.as_mut().poll(context),
            None => Poll::Ready(Err(VolumeError::Closed)),
        }
    }

    /// Asks for the next stripe; `false` if all have been asked for.
    fn ask(&mut self) -> Result<bool> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        let (stripe, end) = self.stripe_at(self.rest.start);
        let begin = end - stripe.cut.len as u64;
        let until = self.rest.end.min(end);
        let range = (self.rest.start - begin) as usize..(until - begin) as usize;
        self.rest.start = until;
        self.ahead.push_back(stripe.read(range)?);
        Ok(true)
    }
}

/// What looking up whether a body is there may cost.
#[derive(Debug, Clone, Copy)]
pub struct ProbeBudget {
    /// Lookups.
    pub lookups: usize,
    /// None takes longer than until then.
    pub until: Instant,
}

/// A stripe that is read.
pub(crate) struct Stripe {
    pub volume: Volume,
    /// Whether damage that is come upon is to be mended: not for whoever mends.
    pub reports: bool,
    pub blob: BlobId,
    pub number: u32,
    pub cut: Cut,
}

/// A part of a data shard that is wanted.
struct Wanted {
    shard: usize,
    part: Range<usize>,
    bytes: Part,
    /// Whether it was not where it is expected.
    is_elsewhere: bool,
}

/// A part that was asked for.
struct Asked {
    /// Which of those that are wanted.
    at: usize,
    slot: usize,
    answer: Reading,
}

/// A read of a shard that is under way. Dropped, it gives back the memory that it was to fill, and
/// is not begun if it has not been: a disk that does not answer must not hold what requests had
/// that are gone.
struct Reading {
    answer: Completion<Piece>,
    _room: Arc<Mutex<Vec<u8>>>,
}

impl Future for Reading {
    type Output = shardstore::Result<Piece>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context)
    }
}

/// What is special about a read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Plain,
    /// Of what is on the medium, not what memory has of it.
    PastCache,
    /// It is done although nobody waits for it, to see how long it takes.
    Probe,
}

impl Stripe {
    /// Reads a range of the stripe: from the data shards where they are expected, which are
    /// asked before this returns; from wherever they or others are, if one cannot be had, or not
    /// soon.
    fn read(self, range: Range<usize>) -> Result<Read> {
        let table = self.volume.table();
        let order = self.order(&table);
        let k = usize::from(self.cut.scheme.k);
        let slow = self.volume.slow(&table);
        let (mut wanted, mut asked) = (Vec::new(), Vec::new());
        let mut lost = Vec::new();
        for shard in 0..k {
            let part = self.cut.part_of(shard, &range);
            if part.is_empty() {
                continue;
            }
            let at = wanted.len();
            wanted.push(Wanted {
                shard,
                part: part.clone(),
                bytes: None,
                is_elsewhere: false,
            });
            // A disk that cannot be asked is like one that has nothing.
            let Some(slot) = order.get(shard).copied() else {
                lost.push(self.is_missing());
                continue;
            };
            if slow >> slot & 1 == 1 {
                if self.volume.latencies().may_probe(slot) {
                    // Nobody waits for it.
                    drop(self.ask_as(slot, shard, &part, Manner::Probe));
                }
                continue;
            }
            match self.ask(slot, shard, &part) {
                Ok(answer) => asked.push(Asked { at, slot, answer }),
                Err(error) => lost.push(error),
            }
        }
        Ok(Box::pin(async move {
            let late = self
                .await_soon(&mut wanted, asked, &mut lost, order.len() > 1)
                .await;
            if wanted.iter().any(|wanted| wanted.bytes.is_none()) {
                let late_slots = late.iter().fold(0, |bits, asked| bits | 1 << asked.slot);
                let recovered = self
                    .recover(&order, &mut wanted, &lost, slow | late_slots)
                    .await;
                if recovered.is_err() && order.len() > 1 {
                    // Those that take their time are better than none.
                    for asked in late {
                        let answer = asked.answer.await;
                        self.take(&mut wanted[asked.at], asked.slot, answer, &mut lost);
                    }
                    // A shard that is brought to another disk is missed by whoever looks there
                    // before it comes, and here after it went: once more.
                    let order = self.order(&self.volume.table());
                    self.recover(&order, &mut wanted, &lost, 0).await?;
                } else {
                    recovered?;
                }
            }
            if wanted.len() == 1 {
                // All of it is in one shard as a rule: nothing is copied then.
                return Ok(wanted.pop().and_then(|only| only.bytes).unwrap_or_default());
            }
            let mut bytes = Vec::new();
            for wanted in &mut wanted {
                bytes.append(&mut wanted.bytes.take().unwrap_or_default());
            }
            Ok(bytes)
        }))
    }

    /// Whether enough of its shards are on the disks that are here. `None`: there is no telling
    /// within what is left of the budget.
    async fn is_there(&self, left: &mut ProbeBudget) -> Option<bool> {
        let order = self.order(&self.volume.table());
        let mut missing = usize::from(self.cut.scheme.m) + 1;
        for shard in 0..self.cut.scheme.width() {
            // Where it is expected first.
            let (others, expected) = order.split_at(usize::from(shard).min(order.len()));
            let mut is_here = false;
            for slot in expected.iter().chain(others) {
                left.lookups = left.lookups.checked_sub(1)?;
                let key = shard_key(self.blob, self.number, shard);
                let asked = self
                    .volume
                    .read_disk(*slot, move |snapshot, how| snapshot.get(&key, how));
                let found = match asked {
                    Ok(mut asked) => before(&mut asked, || left.until).await?,
                    Err(_) => continue,
                };
                match found {
                    Ok(found) => is_here = found.is_some(),
                    // Many others read, which says nothing of what is there.
                    Err(shardstore::Error::Busy) => return None,
                    Err(_) => {}
                }
                if is_here {
                    break;
                }
            }
            missing -= usize::from(!is_here);
            if missing == 0 {
                return Some(false);
            }
        }
        Some(true)
    }

    /// Takes what was asked for as it comes; returns what has not come for so long that others are
    /// to be asked.
    async fn await_soon(
        &self,
        wanted: &mut [Wanted],
        asked: Vec<Asked>,
        lost: &mut Vec<VolumeError>,
        may_ask_others: bool,
    ) -> Vec<Asked> {
        let mut late = Vec::new();
        let until = OnceLock::new();
        for mut asked in asked {
            // The same for all of them: they were asked at the same time.
            let until = || {
                let patience = self.volume.latencies().patience(asked.slot);
                *until.get_or_init(|| Instant::now() + patience)
            };
            let answer = match may_ask_others {
                true => before(&mut asked.answer, until).await,
                false => Some((&mut asked.answer).await),
            };
            match answer {
                Some(answer) => self.take(&mut wanted[asked.at], asked.slot, answer, lost),
                None => {
                    self.volume.count_hedged();
                    self.volume.latencies().note_late(asked.slot);
                    late.push(asked);
                }
            }
        }
        late
    }

    /// Takes a disk's answer.
    fn take(
        &self,
        wanted: &mut Wanted,
        slot: usize,
        answer: shardstore::Result<Piece>,
        lost: &mut Vec<VolumeError>,
    ) {
        match self.check((wanted.shard, slot), answer) {
            Ok(Some(bytes)) => wanted.bytes = Some(bytes),
            Ok(None) => {
                wanted.is_elsewhere = true;
                lost.push(self.is_missing());
            }
            Err(error) => lost.push(error),
        }
    }

    fn is_missing(&self) -> VolumeError {
        VolumeError::Corrupt {
            what: self.name(),
            why: "a shard is not where it was put".to_owned(),
        }
    }

    /// The disks that are here, in the order in which the stripe prefers them.
    fn order(&self, table: &Table) -> Vec<usize> {
        if table.is_single() {
            return table.primary().into_iter().collect();
        }
        placement::order(self.blob, self.number, &table.places_here())
    }

    /// Asks one disk for a part of a shard.
    fn ask(&self, slot: usize, shard: usize, part: &Range<usize>) -> Result<Reading> {
        self.ask_as(slot, shard, part, Manner::Plain)
    }

    fn ask_as(
        &self,
        slot: usize,
        shard: usize,
        part: &Range<usize>,
        manner: Manner,
    ) -> Result<Reading> {
        // Shards are counted in a byte, their bytes in a `u32`.
        let key = shard_key(self.blob, self.number, shard as u8);
        let expected = self.cut.stored_len(shard) as u32;
        let range = part.start as u32..part.end as u32;
        let room = Arc::new(Mutex::new(room_for(&range, expected)));
        let (wanted, kept) = (
            Arc::downgrade(&room),
            (manner == Manner::Probe).then(|| room.clone()),
        );
        let answer = self.volume.read_disk(slot, move |snapshot, how| {
            let Some(room) = kept.clone().or_else(|| wanted.upgrade()) else {
                // Nobody hears of it.
                return Err(shardstore::Error::Closed);
            };
            let Some(found) = snapshot.get(&key, how)? else {
                return Ok(Piece::Missing);
            };
            if found.payload_len() != expected {
                return Ok(Piece::WrongLength(found.payload_len()));
            }
            let how = match (manner == Manner::PastCache, how) {
                (true, shardstore::Read::Nowait) => return Err(shardstore::Error::WouldBlock),
                (true, _) => shardstore::Read::PastCache,
                (false, how) => how,
            };
            let mut buf = lock(&room);
            snapshot.read_payload_into(&found, range.clone(), how, &mut buf)?;
            Ok(Piece::Bytes(std::mem::take(&mut *buf)))
        })?;
        Ok(Reading {
            answer,
            _room: room,
        })
    }

    /// What a disk answered. A shard that is damaged there is going to be written again.
    fn check(
        &self,
        (shard, slot): (usize, usize),
        read: shardstore::Result<Piece>,
    ) -> Result<Option<Vec<u8>>> {
        let checked = self.understand(shard, read);
        if let Err(error @ (VolumeError::Corrupt { .. } | VolumeError::Unreadable { .. })) =
            &checked
            && self.reports
        {
            self.volume.request_repair(self, shard, slot, error);
        }
        checked
    }

    fn understand(&self, shard: usize, read: shardstore::Result<Piece>) -> Result<Option<Vec<u8>>> {
        match read {
            Ok(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Ok(Piece::Missing) => Ok(None),
            Ok(Piece::WrongLength(len)) => Err(VolumeError::Corrupt {
                what: self.name(),
                why: format!("shard {shard} has a wrong length, {len} bytes"),
            }),
            Err(error) => match VolumeError::from(error) {
                VolumeError::Unreadable { reason, .. } => Err(VolumeError::Unreadable {
                    what: self.name(),
                    reason,
                }),
                error => Err(error),
            },
        }
    }

    /// All of the stripe.
    pub(crate) async fn read_whole(self) -> Result<Vec<u8>> {
        let len = self.cut.len;
        self.read(0..len)?.await
    }

    /// A shard as it is on one disk; `None`: it cannot be had there.
    pub(crate) async fn read_shard(self, shard: u8, slot: usize) -> Option<Vec<u8>> {
        let shard = usize::from(shard);
        let len = self.cut.stored_len(shard);
        let asked = self.ask(slot, shard, &(0..len)).ok()?;
        self.check((shard, slot), asked.await).ok().flatten()
    }

    /// Writes a shard again to a disk that has it, from the others. `false`: it is not there any
    /// more.
    pub(crate) async fn write_again(self, shard: u8, slot: usize) -> Result<bool> {
        let (volume, cut) = (self.volume.clone(), self.cut);
        let key = shard_key(self.blob, self.number, shard);
        let wanted = key.clone();
        let found = volume.read_disk(slot, move |snapshot, how| snapshot.get(&wanted, how))?;
        let Some(found) = found.await? else {
            return Ok(false);
        };
        let number = usize::from(shard);
        let all = 0..cut.stored_len(number);
        let again = self.ask_as(slot, number, &all, Manner::PastCache)?;
        if matches!(self.understand(number, again.await), Ok(Some(_))) {
            // Written again since, or it was the read that went wrong.
            return Ok(false);
        }
        let bytes = self.read_whole().await?;
        let payload = cut.shard(&bytes, number);
        let batch = Batch::new().put_with_payload(key, found.value(), payload);
        let table = volume.table();
        table.engine(slot)?.submit(batch)?.await?;
        Ok(true)
    }

    pub(crate) fn name(&self) -> String {
        format!("stripe {} of blob {}", self.number, self.blob)
    }

    /// Fetches what is wanted and not there: from other disks that have the shard, or from other
    /// shards, but from no disk in `avoid`. `lost` says why it is not there.
    async fn recover(
        &self,
        order: &[usize],
        wanted: &mut [Wanted],
        lost: &[VolumeError],
        avoid: Slots,
    ) -> Result<()> {
        // Nobody knows better: no disk was reached at all.
        if let Some(error @ (VolumeError::Busy | VolumeError::Closed)) = lost.first()
            && (order.len() < 2 || matches!(error, VolumeError::Closed))
        {
            return Err(error.clone());
        }
        let is_left = |slot: &usize| avoid >> *slot & 1 == 0;
        let left: Vec<usize> = order.iter().copied().filter(is_left).collect();
        if order.len() > 1 {
            for wanted in wanted.iter_mut().filter(|wanted| wanted.is_elsewhere) {
                if wanted.bytes.is_none() {
                    wanted.bytes = self.seek(&left, wanted.shard, &wanted.part).await;
                }
            }
        }
        let missing = || wanted.iter().filter(|wanted| wanted.bytes.is_none());
        let Some(from) = missing().map(|wanted| wanted.part.start).min() else {
            return Ok(());
        };
        let to = missing()
            .map(|wanted| wanted.part.end)
            .max()
            .unwrap_or(from);
        let (k, width) = (
            usize::from(self.cut.scheme.k),
            usize::from(self.cut.scheme.width()),
        );
        let missing: Vec<usize> = missing().map(|wanted| wanted.shard).collect();
        let mut shards: Vec<Option<Vec<u8>>> = vec![None; width];
        let part_of = |shard: usize| {
            let len = self.cut.stored_len(shard);
            from.min(len)..to.min(len)
        };
        for wanted in wanted.iter() {
            let (part, has) = (part_of(wanted.shard), &wanted.part);
            if let Some(bytes) = &wanted.bytes
                && has.start <= part.start
                && part.end <= has.end
            {
                let within = part.start - has.start..part.end - has.start;
                shards[wanted.shard] = bytes.get(within).map(<[u8]>::to_vec);
            }
        }
        for shard in (0..width).filter(|shard| !missing.contains(shard)) {
            // Behind the end of a short shard there are zeros, which no disk has to say.
            if part_of(shard).is_empty() {
                shards[shard] = Some(Vec::new());
            }
        }
        self.gather(order, avoid, &missing, &mut shards, part_of)
            .await;
        // Of copies each is as good as the one that is wanted.
        let candidates = (0..width).filter(|shard| k == 1 || !missing.contains(shard));
        for shard in candidates {
            if shards.iter().flatten().count() >= k {
                break;
            }
            if shards[shard].is_none() {
                shards[shard] = self.seek(&left, shard, &part_of(shard)).await;
            }
        }
        // The last resort: they may be anywhere.
        for shard in missing {
            if shards.iter().flatten().count() < k && shards[shard].is_none() {
                shards[shard] = self.seek(&left, shard, &part_of(shard)).await;
            }
        }
        // The lengths differ where a shard is short; the longest is that of all.
        if let Some(shard) = shards.iter_mut().flatten().next() {
            shard.resize(shard.len().max(to - from), 0);
        }
        if !self.cut.rebuild(&mut shards) {
            return Err(self.too_few(lost));
        }
        for wanted in wanted.iter_mut().filter(|wanted| wanted.bytes.is_none()) {
            let rebuilt = shards[wanted.shard].as_deref().unwrap_or_default();
            let within = wanted.part.start - from..wanted.part.end - from;
            wanted.bytes = rebuilt.get(within).map(<[u8]>::to_vec);
        }
        match wanted.iter().all(|wanted| wanted.bytes.is_some()) {
            true => Ok(()),
            false => Err(self.too_few(lost)),
        }
    }

    /// Asks for as many other shards as are needed where they are expected, all at once.
    async fn gather(
        &self,
        order: &[usize],
        avoid: Slots,
        missing: &[usize],
        shards: &mut [Option<Vec<u8>>],
        part_of: impl Fn(usize) -> Range<usize>,
    ) {
        let needed = usize::from(self.cut.scheme.k).saturating_sub(shards.iter().flatten().count());
        let expected = (0..shards.len())
            .filter(|shard| !missing.contains(shard) && shards[*shard].is_none())
            .filter_map(|shard| Some((shard, *order.get(shard)?)))
            .filter(|(_, slot)| avoid >> slot & 1 == 0)
            .take(needed);
        let ask = |(shard, slot): (usize, usize)| {
            let asked = self.ask(slot, shard, &part_of(shard)).ok()?;
            Some((shard, slot, asked))
        };
        let asked: Vec<_> = expected.filter_map(ask).collect();
        for (shard, slot, answer) in asked {
            if let Ok(bytes) = self.check((shard, slot), answer.await) {
                shards[shard] = bytes;
            }
        }
    }

    /// A part of a shard from whichever disk has it, the likeliest first.
    async fn seek(&self, slots: &[usize], shard: usize, part: &Range<usize>) -> Option<Vec<u8>> {
        for slot in slots {
            if let Ok(asked) = self.ask(*slot, shard, part)
                && let Ok(Some(bytes)) = self.check((shard, *slot), asked.await)
            {
                return Some(bytes);
            }
        }
        None
    }

    /// Why a stripe cannot be read: disks are missing, or what they have is damaged.
    fn too_few(&self, lost: &[VolumeError]) -> VolumeError {
        let table = self.volume.table();
        let is_whole = table.here().count() == table.membership.active().count();
        let failed = |slot: usize| has_failed(&table, slot);
        if table.is_single() || (is_whole && !table.here().any(failed)) {
            return lost.first().cloned().unwrap_or_else(|| self.is_missing());
        }
        VolumeError::NotHere {
            missing: table.missing(),
        }
    }
}
