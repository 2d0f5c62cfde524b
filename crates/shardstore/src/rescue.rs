//! Reading a disk without opening it: whatever still can be read, newest version per key, and
//! what is damaged.
//!
//! Where manifest and tables can be read, they and the frames behind their checkpoint say what
//! counts: what a server would serve. Where something of the index is lost, every frame is
//! taken as well and for a key the highest sequence wins; then a damaged table costs only what
//! stood nowhere else, but what was deleted may show up again ([`Rescue::may_be_stale`]).
//! Without a superblock, a manifest is put together from its frames, and the frames themselves
//! say whose they are and how large extents are.
//!
//! Counters (merged keys) are left out: frames of counters that a table holds already would
//! count twice.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::disk::{Disk, Read};
use crate::error::{Error, Place, Result};
use crate::frame::{
    self, FrameRef, HEADER_BYTES, Header, Kind, MAGIC, checksum_area, decode_entries,
};
use crate::limits::{EXTENTS_START, Geometry, PAGE};
use crate::medium::Medium;
use crate::pump::{move_applies, record_of};
use crate::record::{Content, Record};
use crate::recovery::load_manifest;
use crate::superblock::{Identity, Superblock};
use crate::sync::Arc;
use crate::table::{Table, TableReader};
use crate::version::{Manifest, ManifestPart};
use crate::walk::{Walk, Walked};

/// Most damages that are listed one by one.
const DAMAGE_LISTED_MAX: usize = 1000;

/// What was read off a disk. Holds every key with its value in memory.
pub struct Rescue {
    medium: Medium,
    entries: BTreeMap<Box<[u8]>, Record>,
    damage: Vec<Error>,
    damage_count: usize,
    may_be_stale: bool,
}

/// Which frames count beside the index.
struct Tail {
    /// Only those behind this lsn; `None`: all.
    lsn: Option<u64>,
    /// Those of an earlier generation behind the checkpoint are remains of a crash.
    floor: u64,
}

impl Tail {
    fn counts(&self, header: &Header) -> bool {
        match self.lsn {
            Some(lsn) => header.lsn > lsn && header.generation >= self.floor,
            None => true,
        }
    }
}

/// A live key.
#[derive(Debug, Clone, Copy)]
pub struct Rescued<'a> {
    /// The whole key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// The sequence under which it was committed.
    pub seq: u64,
    record: &'a Record,
}

impl Rescued<'_> {
    /// Bytes of payload.
    pub fn payload_len(&self) -> u32 {
        self.record
            .locator()
            .map_or(0, |locator| locator.payload_len)
    }
}

impl Rescue {
    /// Reads the whole disk. `progress` is called with (extents done, extents in all).
    ///
    /// # Errors
    /// [`Error::NotFormatted`] if neither superblock nor frames are there;
    /// [`Error::NewerFormat`]. Damage is no error: it is listed.
    pub fn read(disk: Arc<dyn Disk>, mut progress: impl FnMut(u32, u32)) -> Result<Rescue> {
        let (medium, superblock, damage) = identify(disk)?;
        let mut rescue = Rescue {
            medium,
            entries: BTreeMap::new(),
            damage: Vec::new(),
            damage_count: 0,
            may_be_stale: false,
        };
        damage.into_iter().for_each(|error| rescue.report(error));
        let (manifest, is_current) = rescue.find_manifest(superblock.as_ref());
        let reported = rescue.damage_count;
        let tables = manifest.iter().flat_map(|m| m.version.tables());
        tables.for_each(|table| rescue.read_table(table));
        let is_whole = manifest.is_some() && rescue.damage_count == reported;
        rescue.may_be_stale = !is_whole || !is_current;
        let from = Tail {
            lsn: manifest.as_ref().filter(|_| is_whole).map(|m| m.lsn),
            floor: superblock.filter(|_| is_current).map_or(0, |s| s.floor),
        };
        let count = rescue.medium.extents_below(rescue.medium.disk.capacity());
        for extent in 0..count {
            let known = manifest
                .as_ref()
                .filter(|_| is_current)
                .map(|manifest| manifest.extents.get(extent).copied());
            let (epoch, end) = match known {
                Some(Some(extent)) => (Some(extent.epoch), extent.end),
                Some(None) => (Some(1), 0),
                None => (None, 0),
            };
            rescue.read_extent(extent, epoch, end, &from);
            progress(extent + 1, count);
        }
        Ok(rescue)
    }

    /// Who the disk is.
    pub fn identity(&self) -> Identity {
        self.medium.identity
    }

    /// Live keys in order.
    pub fn entries(&self) -> impl Iterator<Item = Rescued<'_>> {
        self.entries
            .iter()
            .filter_map(|(key, record)| match &record.content {
                Content::Put { value, .. } => Some(Rescued {
                    key,
                    value,
                    seq: record.seq,
                    record,
                }),
                _ => None,
            })
    }

    /// Live keys with `from <= key < to`, in order.
    pub fn range(&self, from: &[u8], to: &[u8]) -> impl Iterator<Item = Rescued<'_>> {
        let range = self.entries.range::<[u8], _>((
            std::ops::Bound::Included(from),
            std::ops::Bound::Excluded(to),
        ));
        range.filter_map(|(key, record)| match &record.content {
            Content::Put { value, .. } => Some(Rescued {
                key,
                value,
                seq: record.seq,
                record,
            }),
            _ => None,
        })
    }

    /// Verified bytes of an entry's payload.
    pub fn read_payload(&self, entry: &Rescued<'_>, range: Range<u32>) -> Result<Vec<u8>> {
        match entry.record.locator() {
            None => Ok(Vec::new()),
            Some(locator) => {
                let mut buf = Vec::new();
                self.medium
                    .read_payload(locator, range, Read::Blocking, &mut buf)?;
                Ok(buf)
            }
        }
    }

    /// What is damaged, in the order in which it was found; at most 1,000 are listed.
    pub fn damage(&self) -> &[Error] {
        &self.damage
    }

    /// How many damages there are.
    pub fn damage_count(&self) -> usize {
        self.damage_count
    }

    /// Whether deleted or overwritten data may show up as live, because something of the index
    /// could not be read.
    pub fn may_be_stale(&self) -> bool {
        self.may_be_stale
    }

    fn report(&mut self, error: Error) {
        self.damage_count += 1;
        if self.damage.len() < DAMAGE_LISTED_MAX {
            self.damage.push(error);
        }
    }

    /// Takes what a table says. Newer tables come first, and an older one may still name the
    /// place that the same entry was moved away from.
    fn offer_indexed(&mut self, key: &[u8], record: &Record) {
        let known = self.entries.get(key);
        if known.is_none_or(|known| known.seq < record.seq) {
            self.insert(key, record.clone());
        }
    }

    /// Takes what stands in a frame, after the tables: what was seen there is there.
    fn offer_seen(&mut self, key: &[u8], record: Record) {
        let known = self.entries.get(key);
        if known.is_none_or(|known| known.seq <= record.seq) {
            self.insert(key, record);
        }
    }

    fn insert(&mut self, key: &[u8], record: Record) {
        if !matches!(record.content, Content::Merge(_)) {
            self.entries.insert(key.into(), record);
        }
    }

    /// The newest manifest that can be read, and whether it is the one that the superblock names.
    fn find_manifest(&mut self, superblock: Option<&Superblock>) -> (Option<Manifest>, bool) {
        match superblock.map(|superblock| load_manifest(&self.medium, superblock)) {
            Some(Ok((manifest, _))) => return (Some(manifest), true),
            Some(Err(error)) => self.report(error),
            None => {}
        }
        // Any earlier manifest is better than none, the newest best.
        let count = self.medium.extents_below(self.medium.disk.capacity());
        let mut parts: BTreeMap<ManifestPart, FrameRef> = BTreeMap::new();
        for extent in 0..count {
            self.manifest_parts(extent, &mut parts);
        }
        let mut lsns: Vec<u64> = parts.keys().map(|part| part.lsn).collect();
        lsns.dedup();
        let found = lsns.iter().rev().find_map(|lsn| {
            let mut bytes = Vec::new();
            let of_this = parts.iter().filter(|(part, _)| part.lsn == *lsn);
            for (expected, (part, frame)) in (0..).zip(of_this) {
                if part.number != expected {
                    return None;
                }
                bytes.extend(self.whole_payload(frame).ok()?);
            }
            // A part that is missing at the end leaves something that cannot be decoded.
            Manifest::decode(&bytes, self.medium.geometry.extent_bytes)
        });
        (found, false)
    }

    fn whole_payload(&self, frame: &FrameRef) -> Result<Vec<u8>> {
        match frame.payload_len {
            0 => Ok(Vec::new()),
            len => self
                .medium
                .read_frame_payload(frame, 0..len, Read::Blocking),
        }
    }

    fn manifest_parts(&self, extent: u32, parts: &mut BTreeMap<ManifestPart, FrameRef>) {
        let Some(epoch) = self.epoch_of(extent) else {
            return;
        };
        let mut walk = Walk::new(&self.medium, extent, epoch, Read::Blocking);
        let limit = self.medium.geometry.extent_bytes;
        loop {
            // Damage is reported when the extent is read for what is in it.
            match walk.step_or_end(&mut |_| {}) {
                Walked::Frame { header, body } if header.kind == Kind::Manifest => {
                    let rest = body.get(checksum_area(header.payload_len)..);
                    let part = rest.and_then(ManifestPart::decode);
                    parts.extend(part.map(|part| (part, header.frame_ref())));
                }
                Walked::Frame { .. } | Walked::BadBody => {}
                Walked::End => {
                    if !matches!(walk.resync(limit, true), Ok(Some(_))) {
                        return;
                    }
                }
            }
        }
    }

    /// The epoch of the first frame in an extent, for want of anything better.
    fn epoch_of(&self, extent: u32) -> Option<u32> {
        let mut bytes = vec![0; HEADER_BYTES];
        for offset in (0..self.medium.geometry.extent_bytes).step_by(PAGE) {
            let place = Place { extent, offset };
            if self.medium.read(place, &mut bytes, Read::Blocking).is_err() {
                continue;
            }
            let disk = &self.medium.identity.disk;
            let header = Header::decode(&bytes, disk, &self.medium.checksummer);
            if let Some(header) = header.filter(|h| h.extent == extent && h.offset == offset) {
                return Some(header.epoch);
            }
            if offset >= 16 * PAGE as u32 && bytes.iter().all(|byte| *byte == 0) {
                // Nothing was ever written here, as far as sixteen pages tell.
                return None;
            }
        }
        None
    }

    /// Reads one extent's frames; up to `end` all of them should be there.
    fn read_extent(&mut self, extent: u32, epoch: Option<u32>, end: u32, tail: &Tail) {
        let Some(epoch) = epoch.or_else(|| self.epoch_of(extent)) else {
            return;
        };
        let medium = self.medium.clone();
        let limit = medium.geometry.extent_bytes;
        let mut walk = Walk::new(&medium, extent, epoch, Read::Blocking);
        loop {
            let place = Place {
                extent,
                offset: walk.end(),
            };
            let before = self.damage_count;
            match walk.step_or_end(&mut |error| self.report(error)) {
                Walked::Frame { header, body } => self.read_frame(&header, &body, tail),
                Walked::BadBody => self.report(bad(place, "a frame's body is corrupt")),
                Walked::End => {
                    if walk.end() < end && self.damage_count == before {
                        self.report(bad(place, "no valid frame follows the one that ends here"));
                    }
                    match walk.resync(limit, true) {
                        Ok(Some(_)) => {}
                        Ok(None) => return,
                        Err(error) => return self.report(error),
                    }
                }
            }
        }
    }

    fn read_frame(&mut self, header: &Header, body: &[u8], tail: &Tail) {
        if !matches!(header.kind, Kind::Batch | Kind::Moved) || !tail.counts(header) {
            return;
        }
        let frame = header.frame_ref();
        let Some(entries) = decode_entries(header, body) else {
            return self.report(bad(frame.place(), "a batch cannot be decoded"));
        };
        for entry in entries {
            let record = record_of(&entry, &frame, header.lsn);
            // A copy brings nothing back that the index does not have.
            if header.kind == Kind::Moved && tail.lsn.is_some() {
                let known = self.entries.get(entry.key.as_bytes());
                if !move_applies(known, record.seq) {
                    continue;
                }
            }
            self.offer_seen(entry.key.as_bytes(), record);
        }
    }

    fn read_table(&mut self, table: &Arc<Table>) {
        let cache = crate::cache::BlockCache::new(0);
        let medium = self.medium.clone();
        let reader = TableReader {
            medium: &medium,
            cache: &cache,
            how: Read::Blocking,
            fill: false,
        };
        let mut from: Vec<u8> = Vec::new();
        for (last_key, _) in &table.meta.index {
            // Each index block on its own: damage costs what it covers, not the rest.
            let read = (|| {
                let mut cursor = reader.seek(table, &from)?;
                while let Some((key, record)) = cursor.peek() {
                    if *key > **last_key {
                        break;
                    }
                    self.offer_indexed(key, record);
                    cursor.advance(&reader)?;
                }
                Ok(())
            })();
            if let Err(error) = read {
                self.report(error);
            }
            from = [last_key, [0u8].as_slice()].concat();
        }
    }
}

fn bad(place: Place, what: &str) -> Error {
    Error::Corrupt {
        place,
        what: what.to_owned(),
    }
}

/// Who the disk is: from a superblock copy, else from the frames.
fn identify(disk: Arc<dyn Disk>) -> Result<(Medium, Option<Superblock>, Vec<Error>)> {
    match Superblock::load(&*disk) {
        Ok(superblock) => {
            let medium = Medium::new(disk, superblock.identity, superblock.geometry);
            Ok((medium, Some(superblock), Vec::new()))
        }
        Err(error @ Error::NewerFormat { .. }) => Err(error),
        Err(error) => {
            let medium = identify_by_frames(disk)?.ok_or_else(|| error.clone())?;
            Ok((medium, None, vec![error]))
        }
    }
}

/// Two frames of the same disk in different extents give the extent size away.
fn identify_by_frames(disk: Arc<dyn Disk>) -> Result<Option<Medium>> {
    let mut bytes = vec![0; 1024 * 1024];
    let mut at = EXTENTS_START;
    while at < disk.capacity() {
        disk.read(at, &mut bytes, Read::Blocking)?;
        for (page, header) in bytes.chunks_exact(PAGE).enumerate() {
            let Some((named, header)) = believable(header) else {
                continue;
            };
            let position =
                (at + (page * PAGE) as u64 - EXTENTS_START).checked_sub(u64::from(header.offset));
            let Some(position) = position else { continue };
            if header.extent == 0 || !position.is_multiple_of(u64::from(header.extent)) {
                continue;
            }
            let extent_bytes = u32::try_from(position / u64::from(header.extent)).unwrap_or(0);
            let payload_bytes_max = Geometry::DEFAULT.payload_bytes_max.min(extent_bytes / 4);
            let geometry = Geometry {
                extent_bytes,
                payload_bytes_max,
            };
            if geometry.validate().is_ok() {
                let identity = Identity {
                    disk: named,
                    set: [0; 16],
                };
                return Ok(Some(Medium::new(disk, identity, geometry)));
            }
        }
        at += bytes.len() as u64;
    }
    Ok(None)
}

fn believable(bytes: &[u8]) -> Option<([u8; 16], Header)> {
    if bytes[..4] != MAGIC {
        return None;
    }
    let named = frame::disk_of(bytes)?;
    let checksummer = crate::checksum::Checksummer::new(&named);
    Header::decode(bytes, &named, &checksummer).map(|header| (named, header))
}
