//! How the metadata key space is cut into slices, and the map that says so.
//!
//! ```text
//! metadata key   u32 BE slice | the caller's key within the slice
//! ```
//! A slice is kept whole on the disks that the map names; a batch is atomic within one slice.
//! A key says which slice it is in, so that moving a range to another slice never changes what
//! a key means: whoever makes a key for something asks the map for the slice of its *route*,
//! bytes that sort as the things do.
//!
//! The map stands under one engine key of its own, on every disk of the set:
//!
//! ```text
//! engine key   03 | "slices"
//! value        u8 layout = 1 | u64 version of the map | u16 ranges, each:
//!              u16 length, first route | u32 slice | u8 disks, one u8 each
//! ```
//! Integers are little-endian, except in keys. The first range begins with the empty route;
//! each reaches to the next one's first route, and the last has no end.

use shardstore::{Batch, Engine, Key};

use crate::blob::Take;
use crate::limits::DISKS_MAX;
use crate::meta::META_PREFIX;
use crate::{Result, VolumeError};

/// First byte of the engine keys that hold what belongs to the set itself.
pub(crate) const SET_PREFIX: u8 = 0x03;

/// The layout of the map's value.
const LAYOUT: u8 = 1;

/// Names a slice of the metadata for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceId(pub u32);

impl SliceId {
    /// The slice that exists from the first start.
    pub const ROOT: SliceId = SliceId(0);

    /// Bytes of a slice's number in front of a key.
    pub const BYTES: usize = 4;

    /// What every key of the slice begins with.
    pub fn to_bytes(self) -> [u8; SliceId::BYTES] {
        self.0.to_be_bytes()
    }

    /// The slice that a metadata key says it is in, and the key within it.
    pub fn split(key: &[u8]) -> Option<(SliceId, &[u8])> {
        let (id, rest) = key.split_first_chunk()?;
        Some((SliceId(u32::from_be_bytes(*id)), rest))
    }
}

/// The routes from one on that are in a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceRange {
    /// The first route; the range reaches to the next one's.
    pub from: Vec<u8>,
    /// The slice.
    pub slice: SliceId,
    /// The disks that each hold all of the slice, by their number in the set.
    pub disks: Vec<u8>,
}

/// Which slice a route is in. Versioned, so that an old map can be told from a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceMap {
    version: u64,
    ranges: Vec<SliceRange>,
}

impl SliceMap {
    /// One slice for everything, on the first disk.
    pub fn single() -> SliceMap {
        SliceMap {
            version: 1,
            ranges: vec![SliceRange {
                from: Vec::new(),
                slice: SliceId::ROOT,
                disks: vec![0],
            }],
        }
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The slice of what has this route.
    pub fn slice_of(&self, route: &[u8]) -> SliceId {
        let behind = self
            .ranges
            .partition_point(|range| range.from.as_slice() <= route);
        // The first range begins with the empty route, so one always begins at or before it.
        self.ranges[behind.saturating_sub(1)].slice
    }

    /// Every slice.
    pub fn slices(&self) -> impl Iterator<Item = SliceId> {
        let ids: std::collections::BTreeSet<_> = self.ranges.iter().map(|r| r.slice).collect();
        ids.into_iter()
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Whoever makes a map keeps it within these counts.
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
        let mut out = vec![LAYOUT];
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&short(self.ranges.len()));
        for range in &self.ranges {
            out.extend_from_slice(&short(range.from.len()));
            out.extend_from_slice(&range.from);
            out.extend_from_slice(&range.slice.0.to_le_bytes());
            out.push(u8::try_from(range.disks.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(&range.disks);
        }
        out
    }

    /// Any bytes become a map or an error.
    pub fn decode(bytes: &[u8]) -> Result<SliceMap> {
        match bytes.first() {
            Some(&LAYOUT) => {}
            Some(0) | None => return Err(corrupt("its layout is none that ever was")),
            Some(_) => return Err(newer()),
        }
        let mut take = Take(&bytes[1..]);
        let map = SliceMap::take_fields(&mut take).ok_or_else(|| corrupt("it is cut short"))?;
        if !take.0.is_empty() {
            return Err(corrupt("bytes follow it"));
        }
        let starts = map.ranges.iter().map(|range| range.from.as_slice());
        if !starts.clone().is_sorted_by(|a, b| a < b) || starts.clone().next() != Some(&[]) {
            return Err(corrupt("its ranges do not cover everything once"));
        }
        let placed = |range: &SliceRange| {
            !range.disks.is_empty() && range.disks.iter().all(|disk| (*disk as usize) < DISKS_MAX)
        };
        if !map.ranges.iter().all(placed) {
            return Err(corrupt("it names disks that no set has"));
        }
        Ok(map)
    }

    fn take_fields(take: &mut Take<'_>) -> Option<SliceMap> {
        let version = take.u64()?;
        let count = take.u16()?;
        let mut ranges = Vec::new();
        for _ in 0..count {
            let from_len = take.u16()?;
            let from = take.bytes(from_len.into())?.to_vec();
            let slice = SliceId(take.u32()?);
            let disks_len = take.u8()?;
            let disks = take.bytes(disks_len.into())?.to_vec();
            ranges.push(SliceRange { from, slice, disks });
        }
        Some(SliceMap { version, ranges })
    }

    /// The disks that each hold all of the metadata, the one that is read first; for the sets of
    /// this release, which have one slice.
    pub(crate) fn disks(&self) -> &[u8] {
        self.ranges.first().map_or(&[], |range| &range.disks)
    }

    /// The next version, with the metadata on these disks.
    pub(crate) fn with_disks(&self, disks: &[usize]) -> SliceMap {
        let mut next = SliceMap::single();
        next.version = self.version + 1;
        // Slots are below `DISKS_MAX`.
        next.ranges[0].disks = disks.iter().map(|disk| *disk as u8).collect();
        next
    }

    /// Says why this release cannot work with a map that it can read.
    fn check_usable(&self) -> Result<()> {
        match self.ranges.as_slice() {
            [only] if only.slice == SliceId::ROOT && self.version > 0 => Ok(()),
            _ => Err(newer()),
        }
    }

    /// The map that stands on a disk; `None`: the disk holds none, and nothing else.
    pub(crate) fn read(engine: &Engine) -> Result<Option<SliceMap>> {
        let view = engine.view();
        match view.get(&map_key())? {
            Some(found) => {
                let map = SliceMap::decode(found.value())?;
                map.check_usable()?;
                Ok(Some(map))
            }
            None => {
                let held = view.scan(&[META_PREFIX], &[SET_PREFIX], 1)?;
                match held.entries.is_empty() {
                    true => Ok(None),
                    false => Err(corrupt("it is not there, although other data is")),
                }
            }
        }
    }

    /// Whether there is a map on a disk.
    pub(crate) fn is_on(engine: &Engine) -> Result<bool> {
        let found = engine.view().get(&map_key())?;
        Ok(found.is_some())
    }

    /// Adds the map to a batch.
    pub(crate) fn add_to(&self, batch: Batch) -> Batch {
        batch.put(map_key(), self.encode())
    }
}

fn map_key() -> Key {
    Key::plain(crate::rescue::SLICES_KEY)
}

/// The engine key of something that belongs to the set itself.
pub(crate) fn set_key(name: &[u8]) -> Key {
    Key::plain([&[SET_PREFIX], name].concat())
}

fn corrupt(why: &str) -> VolumeError {
    VolumeError::Corrupt {
        what: "the map of metadata slices".to_owned(),
        why: why.to_owned(),
    }
}

fn newer() -> VolumeError {
    VolumeError::Newer {
        what: "the map of metadata slices".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(version: u64, ranges: &[(&[u8], u32, &[u8])]) -> SliceMap {
        let ranges = ranges.iter().map(|(from, slice, disks)| SliceRange {
            from: from.to_vec(),
            slice: SliceId(*slice),
            disks: disks.to_vec(),
        });
        SliceMap {
            version,
            ranges: ranges.collect(),
        }
    }

    #[test]
    fn a_route_is_in_the_range_that_begins_before_it() {
        let map = map(2, &[(b"", 0, &[0]), (b"m", 7, &[1, 2]), (b"t", 0, &[0])]);
        assert_eq!(map.slice_of(b""), SliceId(0));
        assert_eq!(map.slice_of(b"lzzz"), SliceId(0));
        assert_eq!(map.slice_of(b"m"), SliceId(7));
        assert_eq!(map.slice_of(b"\xff"), SliceId(0));
        assert_eq!(map.slices().collect::<Vec<_>>(), [SliceId(0), SliceId(7)]);
    }

    #[test]
    fn a_map_survives_its_codec_and_nothing_else_does() {
        let map = map(9, &[(b"", 0, &[0]), (b"m", 7, &[1, 2])]);
        let bytes = map.encode();
        assert_eq!(SliceMap::decode(&bytes).unwrap(), map);
        for cut in 0..bytes.len() {
            assert!(SliceMap::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(SliceMap::decode(&longer).is_err());
        let refused = |ranges: &[(&[u8], u32, &[u8])]| {
            let bytes = super::tests::map(1, ranges).encode();
            assert!(SliceMap::decode(&bytes).is_err(), "{ranges:?}");
        };
        refused(&[]);
        refused(&[(b"a", 0, &[0])]);
        refused(&[(b"", 0, &[0]), (b"b", 1, &[1]), (b"a", 2, &[1])]);
        refused(&[(b"", 0, &[])]);
        refused(&[(b"", 0, &[16])]);
    }

    #[test]
    fn other_maps_are_refused_by_name() {
        assert!(SliceMap::single().check_usable().is_ok());
        let moved = SliceMap::single().with_disks(&[2, 5]);
        assert!(moved.check_usable().is_ok());
        assert_eq!((moved.version(), moved.disks()), (2, [2, 5].as_slice()));
        let several = map(2, &[(b"", 0, &[0]), (b"m", 7, &[1])]);
        for newer in [
            several,
            map(0, &[(b"", 0, &[0])]),
            map(1, &[(b"", 3, &[0])]),
        ] {
            let refused = newer.check_usable();
            assert!(
                matches!(refused, Err(VolumeError::Newer { .. })),
                "{newer:?}"
            );
        }
        let mut bytes = SliceMap::single().encode();
        bytes[0] = 2;
        assert!(matches!(
            SliceMap::decode(&bytes),
            Err(VolumeError::Newer { .. })
        ));
    }
}
