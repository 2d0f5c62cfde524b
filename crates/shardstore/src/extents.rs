//! The extent table: which extents are free, open, sealed or retired, and what lies in them.
//!
//! ```text
//!   free ──open──▶ open ──seal──▶ sealed ──evacuated──▶ retired ──checkpoint──▶ free, epoch + 1
//! ```
//!
//! Invariants: free extents are opened in the order of `recycled`, then by number, so that
//! recovery finds what was opened since the last checkpoint; a retired extent becomes free
//! only when a checkpoint that counts it as free is durable; `live` is exact as of the last
//! checkpoint.

use std::collections::VecDeque;

use crate::codec::{Put, Reader};
use crate::frame::{Stream, align_frame, align_page};

/// What an extent is for at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Holds nothing; its epoch is the one that its next frames will carry.
    Free,
    /// Takes appends of one stream.
    Open,
    /// Takes no more appends.
    Sealed,
    /// Holds nothing that the index refers to; waits for a checkpoint.
    Retired,
}

/// One extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub state: State,
    pub stream: Stream,
    pub epoch: u32,
    /// End of the last frame.
    pub end: u32,
    /// Lsns of the first and the last frame.
    pub birth_lsn: u64,
    pub last_lsn: u64,
    /// Payload bytes that the index refers to, as of the last checkpoint.
    pub live: u64,
    /// The most that `live` ever was in this epoch.
    pub peak: u64,
    /// Retired: snapshots up to this lsn may still read it.
    pub retired_lsn: u64,
}

impl Extent {
    fn fresh() -> Extent {
        Extent {
            state: State::Free,
            stream: Stream::Log,
            epoch: 1,
            end: 0,
            birth_lsn: 0,
            last_lsn: 0,
            live: 0,
            peak: 0,
            retired_lsn: 0,
        }
    }
}

/// Who wants a free extent; the more vital, the deeper it may reach into the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// New data. What is left to the others is enough to index it and to delete it again.
    Normal,
    /// Deletes.
    FreesSpace,
    /// Compaction.
    Compaction,
    /// Reclamation, which gives back more than it takes.
    Reclamation,
    /// Checkpoints, without which nothing comes back.
    Checkpoint,
}

impl Class {
    /// Free extents that this class leaves alone. A checkpoint may need two: for the index and
    /// for its manifest. New data leaves what deletes may not take, an extent for them, and one
    /// each for the copies, the index and the manifests that come of them.
    fn floor(self) -> u32 {
        match self {
            Class::Normal => 7,
            Class::Compaction => 4,
            Class::FreesSpace => 3,
            Class::Reclamation => 2,
            Class::Checkpoint => 0,
        }
    }
}

/// All extents of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extents {
    extent_bytes: u32,
    /// Every extent that was ever used.
    table: Vec<Extent>,
    recycled: VecDeque<u32>,
    /// How many extents the disk may have.
    capacity: u32,
    /// What it may have in any case: see [`open_within`](Extents::open_within).
    capacity_min: u32,
    /// Extents below this were written ahead.
    pub prepared: u32,
    /// The medium has room for extents below this.
    pub reserved: u32,
    /// Open extent of each stream.
    open: [Option<u32>; Stream::COUNT],
}

impl Extents {
    pub fn new(extent_bytes: u32, capacity: u32) -> Extents {
        Extents {
            extent_bytes,
            table: Vec::new(),
            recycled: VecDeque::new(),
            capacity,
            capacity_min: 0,
            prepared: 0,
            reserved: 0,
            open: [None; Stream::COUNT],
        }
    }

    /// Extents that exist or may exist.
    pub fn count(&self) -> u32 {
        self.capacity.max(self.table.len() as u32)
    }

    pub fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity;
    }

    /// Sets the capacity when the disk is opened. What was ever used stays in use, a limit only
    /// keeps it from growing; but one that was lowered must not take the room away that deletes
    /// and reclamation need: so much stays in any case, short of what new data may take.
    pub fn open_within(&mut self, wanted: u32, has: u32) {
        self.capacity_min = self.in_use_and(Class::Normal.floor() - 1);
        self.limit_to(wanted, has);
    }

    /// Sets the capacity to `wanted`, or to what reclamation needs beyond what is in use if that
    /// is more, but to no more than the disk `has`.
    pub fn limit_to(&mut self, wanted: u32, has: u32) {
        let least = self.in_use_and(Class::Reclamation.floor());
        let least = least.max(self.capacity_min);
        self.capacity = wanted.max(least).min(has.max(wanted));
    }

    /// The capacity with which so many extents are free.
    fn in_use_and(&self, free: u32) -> u32 {
        self.table.len() as u32 + free.saturating_sub(self.recycled.len() as u32)
    }

    /// Extents that were ever used.
    pub fn used(&self) -> &[Extent] {
        &self.table
    }

    pub fn get(&self, extent: u32) -> Option<&Extent> {
        self.table.get(extent as usize)
    }

    /// For an extent that is known to exist.
    pub fn get_mut(&mut self, extent: u32) -> &mut Extent {
        &mut self.table[extent as usize]
    }

    pub fn free_count(&self) -> u32 {
        self.recycled.len() as u32 + self.capacity.saturating_sub(self.table.len() as u32)
    }

    /// Free extents that new data may not take.
    pub fn reserve(&self) -> u32 {
        Class::Normal.floor()
    }

    /// What must be reserved so that the medium has, and does not merely promise, what `class`
    /// leaves alone, an extent for it and `more`: others may fill the file system. `None`: it
    /// is.
    pub fn to_reserve(&self, class: Class, more: u32) -> Option<u32> {
        let used = self.table.len() as u32;
        let wanted = (class.floor() + 1 + more).saturating_sub(self.recycled.len() as u32);
        let end = (used + wanted).min(self.count());
        (end > self.reserved.max(self.prepared)).then_some(end)
    }

    /// Whether `class` may open another extent now.
    pub fn may_open(&self, class: Class) -> bool {
        self.free_count() > class.floor()
    }

    /// Whether `class` may append to an extent that is open. One that was opened out of the
    /// reserve, for deletes say, is not for new data: that would use the reserve up for good.
    pub fn may_append(&self, class: Class) -> bool {
        self.free_count() >= class.floor()
    }

    /// The extent that the next open takes, and whether it was never used.
    pub fn next_free(&self) -> Option<(u32, bool)> {
        match self.recycled.front() {
            Some(extent) => Some((*extent, false)),
            None => {
                let virgin = self.table.len() as u32;
                (virgin < self.capacity).then_some((virgin, true))
            }
        }
    }

    /// Free extents in the order in which they will be opened, with their epochs.
    pub fn free_in_order(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let recycled = self
            .recycled
            .iter()
            .map(|e| (*e, self.table[*e as usize].epoch));
        recycled.chain((self.table.len() as u32..self.capacity).map(|extent| (extent, 1)))
    }

    /// Takes the next free extent for `stream`, sealing the one it has.
    pub fn open_next(&mut self, stream: Stream, lsn: u64) -> Option<u32> {
        let (extent, virgin) = self.next_free()?;
        if virgin {
            self.table.push(Extent::fresh());
        } else {
            self.recycled.pop_front();
        }
        self.mark_open(extent, stream, lsn);
        Some(extent)
    }

    /// Opens a free extent out of order: recovery found frames of a later one before it.
    pub fn open_given(&mut self, extent: u32, stream: Stream, lsn: u64) {
        while extent as usize >= self.table.len() {
            let skipped = self.table.len() as u32;
            self.table.push(Extent::fresh());
            self.recycled.push_back(skipped);
        }
        self.recycled.retain(|free| *free != extent);
        self.mark_open(extent, stream, lsn);
    }

    fn mark_open(&mut self, extent: u32, stream: Stream, lsn: u64) {
        self.seal(stream);
        self.open[stream as usize] = Some(extent);
        let entry = self.get_mut(extent);
        *entry = Extent {
            state: State::Open,
            stream,
            birth_lsn: lsn,
            last_lsn: lsn,
            end: 0,
            live: 0,
            peak: 0,
            ..*entry
        };
    }

    /// Ends appends to a stream's extent.
    pub fn seal(&mut self, stream: Stream) {
        if let Some(extent) = self.open[stream as usize].take() {
            self.get_mut(extent).state = State::Sealed;
        }
    }

    /// Where a frame of `len` bytes goes in the stream's open extent: behind its last frame,
    /// or on a new page if `new_group`. `None`: it does not fit, or none is open.
    pub fn fit(&self, stream: Stream, len: u64, new_group: bool) -> Option<(u32, u32)> {
        let extent = self.open[stream as usize]?;
        let end = self.table[extent as usize].end;
        let offset = if new_group {
            align_page(end)
        } else {
            align_frame(end)
        };
        (u64::from(offset) + len <= u64::from(self.extent_bytes)).then_some((extent, offset))
    }

    /// An evacuated extent; reusable after the next checkpoint that no older snapshot outlives.
    pub fn retire(&mut self, extent: u32, retired_lsn: u64) {
        let entry = self.get_mut(extent);
        assert_eq!(
            entry.state,
            State::Sealed,
            "only sealed extents are evacuated"
        );
        entry.state = State::Retired;
        entry.retired_lsn = retired_lsn;
    }

    /// Retired extents that no snapshot at or before `oldest_snapshot` can read.
    pub fn retired(&self, oldest_snapshot: Option<u64>) -> Vec<u32> {
        let free = |extent: &Extent| {
            extent.state == State::Retired
                && oldest_snapshot.is_none_or(|oldest| extent.retired_lsn < oldest)
        };
        let numbered = self.table.iter().enumerate();
        numbered
            .filter(|(_, extent)| free(extent))
            .map(|(number, _)| number as u32)
            .collect()
    }

    /// How many extents wait for a checkpoint, whoever may still read them.
    pub fn retired_count(&self) -> usize {
        let retired = |extent: &&Extent| extent.state == State::Retired;
        self.table.iter().filter(retired).count()
    }

    /// Makes retired extents free, in the given order.
    pub fn recycle(&mut self, extents: &[u32]) {
        for extent in extents {
            let entry = self.get_mut(*extent);
            assert_eq!(
                entry.state,
                State::Retired,
                "only retired extents are reset"
            );
            let epoch = entry.epoch.wrapping_add(1);
            *entry = Extent {
                epoch,
                ..Extent::fresh()
            };
            self.recycled.push_back(*extent);
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.table.len() as u32);
        for extent in &self.table {
            // To a reopened store a retired extent is a sealed one in which nothing lives.
            let state = match extent.state {
                State::Retired => State::Sealed,
                state => state,
            };
            out.put_u8(state as u8);
            out.put_u8(extent.stream as u8);
            out.put_u32(extent.epoch);
            out.put_u32(extent.end);
            out.put_u64(extent.birth_lsn);
            out.put_u64(extent.last_lsn);
            out.put_u64(extent.live);
            out.put_u64(extent.peak);
        }
        out.put_u32(self.recycled.len() as u32);
        self.recycled.iter().for_each(|extent| out.put_u32(*extent));
    }

    /// `None` if the bytes are no extent table, or one that contradicts itself.
    pub fn decode(reader: &mut Reader<'_>, extent_bytes: u32) -> Option<Extents> {
        let mut extents = Extents::new(extent_bytes, 0);
        let count = reader.u32()?;
        if count as usize > reader.remaining() {
            return None;
        }
        for number in 0..count {
            let extent = decode_extent(reader, extent_bytes)?;
            if extent.state == State::Open {
                let open = &mut extents.open[extent.stream as usize];
                if open.replace(number).is_some() {
                    return None;
                }
            }
            extents.table.push(extent);
        }
        let mut listed = vec![false; count as usize];
        for _ in 0..reader.u32()? {
            let extent = reader.u32()?;
            let is_free = extents.get(extent)?.state == State::Free;
            if !is_free || std::mem::replace(&mut listed[extent as usize], true) {
                return None;
            }
            extents.recycled.push_back(extent);
        }
        let free = extents
            .table
            .iter()
            .filter(|extent| extent.state == State::Free)
            .count();
        (free == extents.recycled.len()).then_some(extents)
    }
}

fn decode_extent(reader: &mut Reader<'_>, extent_bytes: u32) -> Option<Extent> {
    let state = match reader.u8()? {
        0 => State::Free,
        1 => State::Open,
        2 => State::Sealed,
        _ => return None,
    };
    let extent = Extent {
        state,
        stream: Stream::from_u8(reader.u8()?)?,
        epoch: reader.u32()?,
        end: reader.u32()?,
        birth_lsn: reader.u64()?,
        last_lsn: reader.u64()?,
        live: reader.u64()?,
        peak: reader.u64()?,
        retired_lsn: 0,
    };
    (extent.end <= extent_bytes).then_some(extent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_extents_are_opened_in_order_and_come_back_with_a_new_epoch() {
        let mut extents = Extents::new(65536, 8);
        assert_eq!(extents.open_next(Stream::Log, 1), Some(0));
        assert_eq!(extents.open_next(Stream::Log, 2), Some(1));
        extents.retire(0, 5);
        assert_eq!(extents.retired(Some(5)), Vec::<u32>::new());
        assert_eq!(extents.retired(Some(6)), vec![0]);
        extents.recycle(&[0]);
        assert_eq!(extents.free_in_order().next(), Some((0, 2)));
        assert_eq!(extents.free_count(), 7);
        let mut bytes = Vec::new();
        extents.encode(&mut bytes);
        let mut decoded = Extents::decode(&mut Reader::new(&bytes), 65536).unwrap();
        decoded.set_capacity(8);
        assert_eq!(decoded, extents);
        for len in 0..bytes.len() {
            assert_eq!(
                Extents::decode(&mut Reader::new(&bytes[..len]), 65536),
                None
            );
        }
    }

    #[test]
    fn a_reserve_is_kept_for_what_frees_space() {
        let mut extents = Extents::new(65536, 10);
        let mut fill = |class| {
            while extents.may_open(class) {
                extents.open_next(Stream::Log, 1);
            }
            extents.free_count()
        };
        let classes = [
            Class::Normal,
            Class::FreesSpace,
            Class::Reclamation,
            Class::Checkpoint,
        ];
        assert_eq!(classes.map(&mut fill), [7, 3, 2, 0]);
    }
}
