//! A formatted disk: where extents lie on it, and how a frame's bytes are read and believed.

use std::ops::Range;

use crate::checksum::Checksummer;
use crate::disk::{Disk, Read};
use crate::error::{Error, Place, Result};
use crate::frame::{FrameRef, Header, unit_holds};
use crate::limits::{CHECKSUM_UNIT, EXTENTS_START, Geometry};
use crate::mutants::{self, Mutant};
use crate::record::Locator;
use crate::superblock::Identity;
use crate::sync::Arc;
use crate::watch::Watched;

/// Frames up to this size are read whole; of larger ones only the head and the units asked for.
const WHOLE_FRAME_BYTES_MAX: u64 = 192 * 1024;

/// A disk with what its superblock says for ever.
#[derive(Clone)]
pub struct Medium {
    pub disk: Arc<Watched>,
    pub identity: Identity,
    pub geometry: Geometry,
    pub checksummer: Checksummer,
}

impl Medium {
    pub fn new(disk: Arc<dyn Disk>, identity: Identity, geometry: Geometry) -> Medium {
        Medium {
            disk: Arc::new(Watched::new(disk)),
            identity,
            geometry,
            checksummer: Checksummer::new(&identity.disk),
        }
    }

    /// Byte offset on the disk of a place.
    pub fn offset_of(&self, extent: u32, offset: u32) -> u64 {
        EXTENTS_START
            + u64::from(extent) * u64::from(self.geometry.extent_bytes)
            + u64::from(offset)
    }

    /// The extent that a byte of the disk is in.
    pub fn extent_at(&self, offset: u64) -> Option<u32> {
        let within = offset.checked_sub(EXTENTS_START)?;
        u32::try_from(within / u64::from(self.geometry.extent_bytes)).ok()
    }

    /// How many extents fit below `bytes`.
    pub fn extents_below(&self, bytes: u64) -> u32 {
        let extents = bytes.saturating_sub(EXTENTS_START) / u64::from(self.geometry.extent_bytes);
        extents.min(u64::from(self.geometry.extents_max())) as u32
    }

    /// Reads within an extent.
    pub fn read(&self, place: Place, buf: &mut [u8], how: Read) -> Result<()> {
        match self
            .disk
            .read(self.offset_of(place.extent, place.offset), buf, how)
        {
            Err(crate::disk::DiskError::WouldBlock) => Err(Error::WouldBlock),
            other => Ok(other?),
        }
    }

    /// Reads header and body of a frame that the index names, and checks both.
    pub fn read_head(&self, frame: &FrameRef, how: Read) -> Result<(Header, Vec<u8>)> {
        let mut head = vec![0; frame.head_len()];
        self.read(frame.place(), &mut head, how)?;
        let header = self.check_head(frame, &head)?;
        head.drain(..crate::frame::HEADER_BYTES);
        Ok((header, head))
    }

    fn check_head(&self, frame: &FrameRef, head: &[u8]) -> Result<Header> {
        let corrupt = |what: &str| Error::Corrupt {
            place: frame.place(),
            what: what.to_owned(),
        };
        let header = Header::decode(head, &self.identity.disk, &self.checksummer)
            .ok_or_else(|| corrupt("the frame's header does not match its checksum"))?;
        if !header.is_at(frame.place(), frame.epoch, &self.geometry) {
            return Err(corrupt("another frame stands where the index expects one"));
        }
        if (header.body_len, header.payload_len) != (frame.body_len, frame.payload_len) {
            return Err(corrupt("the frame has other lengths than the index says"));
        }
        let body = &head[crate::frame::HEADER_BYTES..];
        if self.checksummer.of(&[body]) != header.body_checksum {
            return Err(corrupt("the frame's body does not match its checksum"));
        }
        Ok(header)
    }

    /// Verified bytes `range` of the payload that `locator` names, in `buf`.
    pub fn read_payload(
        &self,
        locator: &Locator,
        range: Range<u32>,
        how: Read,
        buf: &mut Vec<u8>,
    ) -> Result<()> {
        let range = range.start.min(locator.payload_len)..range.end.min(locator.payload_len);
        if range.is_empty() {
            buf.clear();
            return Ok(());
        }
        let start = locator.payload_offset + range.start;
        let end = locator.payload_offset + range.end;
        self.read_units(&locator.frame, start..end, how, true, buf)
    }

    /// Verified bytes `range` of a frame's payload. `range` lies within it and is not empty.
    pub fn read_frame_payload(
        &self,
        frame: &FrameRef,
        range: Range<u32>,
        how: Read,
    ) -> Result<Vec<u8>> {
        let mut buf = Vec::new();
        self.read_units(frame, range, how, true, &mut buf)?;
        Ok(buf)
    }

    /// As [`read_frame_payload`](Medium::read_frame_payload), for bytes that get a new checksum.
    pub fn read_to_copy(&self, frame: &FrameRef, range: Range<u32>) -> Result<Vec<u8>> {
        let mut buf = Vec::new();
        let verify = !mutants::on(Mutant::M20);
        self.read_units(frame, range, Read::Blocking, verify, &mut buf)?;
        Ok(buf)
    }

    fn read_units(
        &self,
        frame: &FrameRef,
        range: Range<u32>,
        how: Read,
        verify: bool,
        buf: &mut Vec<u8>,
    ) -> Result<()> {
        let head_len = frame.head_len();
        let units = units_of(&range);
        let (from, to) = (units.start, units.end.min(frame.payload_len));
        let wanted = (range.start - from) as usize..(range.end - from) as usize;
        let hold = |body: &[u8], payload: &[u8]| {
            let first = from as usize / CHECKSUM_UNIT;
            let mut units = payload.chunks(CHECKSUM_UNIT).enumerate();
            let broken = units.find(|(unit, bytes)| {
                verify && !unit_holds(&self.checksummer, body, first + unit, bytes)
            });
            match broken {
                None => Ok(()),
                Some((unit, _)) => Err(Error::Corrupt {
                    place: frame.place(),
                    what: format!("payload unit {} does not match its checksum", first + unit),
                }),
            }
        };
        if frame.len() <= WHOLE_FRAME_BYTES_MAX {
            let mut whole = vec![0; head_len + to as usize];
            self.read(frame.place(), &mut whole, how)?;
            let (head, payload) = whole.split_at(head_len);
            self.check_head(frame, head)?;
            let payload = &payload[from as usize..];
            hold(&head[crate::frame::HEADER_BYTES..], payload)?;
            buf.clear();
            buf.extend_from_slice(&payload[wanted]);
            return Ok(());
        }
        let (_, body) = self.read_head(frame, how)?;
        let len = (to - from) as usize;
        match buf.capacity() < len {
            true => *buf = vec![0; len],
            false => buf.resize(len, 0),
        }
        let place = Place {
            offset: frame.offset + head_len as u32 + from,
            ..frame.place()
        };
        self.read(place, buf, how)?;
        hold(&body, buf)?;
        buf.truncate(wanted.end);
        buf.drain(..wanted.start);
        Ok(())
    }
}

/// The bytes of whole checksum units that cover a range.
fn units_of(range: &Range<u32>) -> Range<u32> {
    let unit = CHECKSUM_UNIT as u32;
    range.start / unit * unit..range.end.next_multiple_of(unit)
}

/// Room for reading a range of a payload of some length: made by whoever is going to let go of it.
/// If a thread of the engine made it, the allocator would keep it for that thread, which may sleep
/// for long.
pub fn room_for(range: &Range<u32>, payload_len: u32) -> Vec<u8> {
    if u64::from(payload_len) <= WHOLE_FRAME_BYTES_MAX {
        // It is copied out of its frame.
        return Vec::with_capacity(range.len());
    }
    let units = units_of(range);
    vec![0; (units.end - units.start) as usize]
}
