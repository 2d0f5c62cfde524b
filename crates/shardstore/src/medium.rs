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

/// Frames up to this size are read whole; of larger ones only the head and the units asked for.
const WHOLE_FRAME_BYTES_MAX: u64 = 192 * 1024;

/// A disk with what its superblock says for ever.
#[derive(Clone)]
pub struct Medium {
    pub disk: Arc<dyn Disk>,
    pub identity: Identity,
    pub geometry: Geometry,
    pub checksummer: Checksummer,
}

impl Medium {
    pub fn new(disk: Arc<dyn Disk>, identity: Identity, geometry: Geometry) -> Medium {
        Medium {
            disk,
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

    /// Verified bytes `range` of the payload that `locator` names.
    pub fn read_payload(&self, locator: &Locator, range: Range<u32>, how: Read) -> Result<Vec<u8>> {
        let range = range.start.min(locator.payload_len)..range.end.min(locator.payload_len);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let start = locator.payload_offset + range.start;
        let end = locator.payload_offset + range.end;
        self.read_frame_payload(&locator.frame, start..end, how)
    }

    /// Verified bytes `range` of a frame's payload. `range` lies within it and is not empty.
    pub fn read_frame_payload(
        &self,
        frame: &FrameRef,
        range: Range<u32>,
        how: Read,
    ) -> Result<Vec<u8>> {
        self.read_units(frame, range, how, true)
    }

    /// As [`read_frame_payload`](Medium::read_frame_payload), for bytes that get a new checksum.
    pub fn read_to_copy(&self, frame: &FrameRef, range: Range<u32>) -> Result<Vec<u8>> {
        self.read_units(frame, range, Read::Blocking, !mutants::on(Mutant::M20))
    }

    fn read_units(
        &self,
        frame: &FrameRef,
        range: Range<u32>,
        how: Read,
        verify: bool,
    ) -> Result<Vec<u8>> {
        let head_len = frame.head_len();
        let unit_bytes = CHECKSUM_UNIT as u32;
        let units = (range.start / unit_bytes)..range.end.div_ceil(unit_bytes);
        let from = units.start * unit_bytes;
        let to = (units.end * unit_bytes).min(frame.payload_len);
        let (body, mut payload) = if frame.len() <= WHOLE_FRAME_BYTES_MAX {
            let mut whole = vec![0; head_len + to as usize];
            self.read(frame.place(), &mut whole, how)?;
            self.check_head(frame, &whole[..head_len])?;
            let payload = whole.split_off(head_len + from as usize);
            (whole.split_off(crate::frame::HEADER_BYTES), payload)
        } else {
            let (_, body) = self.read_head(frame, how)?;
            let mut payload = vec![0; (to - from) as usize];
            let place = Place {
                offset: frame.offset + head_len as u32 + from,
                ..frame.place()
            };
            self.read(place, &mut payload, how)?;
            (body, payload)
        };
        for (unit, bytes) in units.zip(payload.chunks(CHECKSUM_UNIT)) {
            if verify && !unit_holds(&self.checksummer, &body, unit as usize, bytes) {
                let what = format!("payload unit {unit} does not match its checksum");
                return Err(Error::Corrupt {
                    place: frame.place(),
                    what,
                });
            }
        }
        payload.truncate((range.end - from) as usize);
        payload.drain(..(range.start - from) as usize);
        Ok(payload)
    }
}
