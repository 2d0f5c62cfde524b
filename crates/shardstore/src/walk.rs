//! Walking an extent frame by frame, without the index: for recovery, reclamation, scrub and
//! rescue.
//!
//! The successor of a frame that ends at `E` stands at the next page boundary or, in the same
//! group, at the next 64-byte boundary; it names `E` as its predecessor's end, and its lsn and
//! generation are larger. The page boundary is looked at first: a frame there that names `E`
//! was written by somebody to whom `E` was the end, so whatever stands between is what a
//! crash left of a group that was never acknowledged.

use crate::disk::Read;
use crate::error::{Error, Place, Result};
use crate::frame::{HEADER_BYTES, Header, MAGIC, align_frame, align_page};
use crate::limits::PAGE;
use crate::medium::Medium;
use crate::mutants::{self, Mutant};

/// Read at once while frames are followed: what follows a large one is read anew.
const WINDOW_BYTES: usize = 256 * 1024;
/// Read at once while page after page is looked at.
const RESYNC_WINDOW_BYTES: usize = 1024 * 1024;

/// What stands next in an extent.
#[derive(Debug)]
pub enum Walked {
    /// A frame whose header and body hold. The payload was not looked at.
    Frame { header: Header, body: Vec<u8> },
    /// A frame whose header holds and whose body does not.
    BadBody,
    /// No frame names the last one as its predecessor.
    End,
}

/// A position in an extent.
pub struct Walk<'a> {
    medium: &'a Medium,
    extent: u32,
    epoch: u32,
    /// End of the last frame.
    end: u32,
    lsn: u64,
    generation: u64,
    how: Read,
    window_start: u32,
    window: Vec<u8>,
    /// How much is read at once.
    window_bytes: usize,
    /// A page before this cannot be read: only what is wanted is read until behind it.
    narrow_until: u32,
    /// End, lsn and generation before the last step.
    before: (u32, u64, u64),
    /// The first page that [`resync`](Walk::resync) could not read and stepped over.
    stepped_over: Option<u32>,
}

impl<'a> Walk<'a> {
    /// From the beginning of an extent in the given epoch.
    pub fn new(medium: &'a Medium, extent: u32, epoch: u32, how: Read) -> Walk<'a> {
        Walk {
            medium,
            extent,
            epoch,
            end: 0,
            lsn: 0,
            generation: 0,
            how,
            window_start: 0,
            window: Vec::new(),
            window_bytes: WINDOW_BYTES,
            narrow_until: 0,
            before: (0, 0, 0),
            stepped_over: None,
        }
    }

    /// From behind the frame that ends at `end` and has `lsn`; frames of a generation below
    /// `floor` do not count.
    pub fn resume(
        medium: &'a Medium,
        (extent, epoch, end): (u32, u32, u32),
        lsn: u64,
        floor: u64,
    ) -> Walk<'a> {
        let walk = Walk::new(medium, extent, epoch, Read::PastCache);
        Walk {
            end,
            lsn,
            generation: floor,
            ..walk
        }
    }

    /// End of the last frame that was returned.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The next frame.
    pub fn step(&mut self) -> Result<Walked> {
        self.before = (self.end, self.lsn, self.generation);
        self.window_bytes = WINDOW_BYTES;
        let page = align_page(self.end);
        let near = align_frame(self.end);
        for offset in [Some(page), (near != page).then_some(near)]
            .into_iter()
            .flatten()
        {
            let Some(header) = self.header_at(offset)? else {
                continue;
            };
            let follows = header.previous_end == self.end
                && header.generation >= self.generation
                && header.lsn > self.lsn;
            if follows {
                return self.take(header);
            }
        }
        Ok(Walked::End)
    }

    fn take(&mut self, header: Header) -> Result<Walked> {
        // First, so that a walk gets past a frame whose body cannot be read.
        self.end = header.offset + header.len() as u32;
        self.lsn = header.lsn;
        self.generation = header.generation;
        let body = self.bytes(
            header.offset + HEADER_BYTES as u32,
            header.body_len as usize,
        )?;
        let body = body.to_vec();
        let holds = self.medium.checksummer.of(&[&body]) == header.body_checksum;
        if !holds && !mutants::on(Mutant::M10) {
            return Ok(Walked::BadBody);
        }
        Ok(Walked::Frame { header, body })
    }

    /// The first page boundary behind the last frame at which a frame of this epoch stands,
    /// whatever it names as its predecessor; its header. Pages that cannot be read are stepped
    /// over. The walk goes on from that frame when `jump` is set.
    pub fn resync(&mut self, limit: u32, jump: bool) -> Result<Option<Header>> {
        self.window_bytes = RESYNC_WINDOW_BYTES;
        let mut offset = align_page(self.end.saturating_add(1));
        while offset.saturating_add(HEADER_BYTES as u32) <= limit {
            let header = match self.header_at(offset) {
                Err(Error::Disk(_)) => {
                    self.stepped_over.get_or_insert(offset);
                    None
                }
                other => other?,
            };
            if let Some(header) = header {
                if jump {
                    self.end = header.previous_end;
                    self.lsn = header.lsn.saturating_sub(1);
                    self.generation = header.generation;
                }
                return Ok(Some(header));
            }
            offset += PAGE as u32;
        }
        Ok(None)
    }

    /// Lets the next step take the last one again, from bytes that are read anew.
    pub fn retry(&mut self) {
        (self.end, self.lsn, self.generation) = self.before;
        self.window.clear();
    }

    /// As [`step`](Walk::step), but what cannot be read is the end of what follows, or a bad
    /// body.
    pub fn step_or_end(&mut self, report: &mut dyn FnMut(Error)) -> Walked {
        self.step().unwrap_or_else(|error| {
            report(error);
            if self.end == self.before.0 {
                Walked::End
            } else {
                Walked::BadBody
            }
        })
    }

    /// The first page that [`resync`](Walk::resync) could not read and stepped over.
    pub fn stepped_over(&self) -> Option<u32> {
        self.stepped_over
    }

    /// Lets a following [`resync`](Walk::resync) begin behind `offset`.
    pub fn skip_to(&mut self, offset: u32) {
        self.end = offset;
    }

    /// A frame of this epoch at the first page boundary at or behind `offset`, whatever it
    /// names as its predecessor.
    pub fn header_behind(&mut self, offset: u32) -> Result<Option<Header>> {
        self.header_at(align_page(offset))
    }

    fn header_at(&mut self, offset: u32) -> Result<Option<Header>> {
        let extent_bytes = self.medium.geometry.extent_bytes;
        if offset
            .checked_add(HEADER_BYTES as u32)
            .is_none_or(|end| end > extent_bytes)
        {
            return Ok(None);
        }
        let place = Place {
            extent: self.extent,
            offset,
        };
        let (disk, checksummer) = (self.medium.identity.disk, self.medium.checksummer);
        let (epoch, geometry) = (self.epoch, self.medium.geometry);
        let bytes = match self.bytes(offset, HEADER_BYTES) {
            Err(Error::Disk(_)) if mutants::on(Mutant::M5) => return Ok(None),
            other => other?,
        };
        if bytes[..4] != MAGIC {
            return Ok(None);
        }
        Ok(Header::decode(bytes, &disk, &checksummer)
            .filter(|header| header.is_at(place, epoch, &geometry)))
    }

    fn bytes(&mut self, offset: u32, len: usize) -> Result<&[u8]> {
        let held = self.window_start as usize..self.window_start as usize + self.window.len();
        let wanted = offset as usize..offset as usize + len;
        if wanted.start < held.start || wanted.end > held.end {
            let rest = self.medium.geometry.extent_bytes as usize - wanted.start;
            let ahead = if offset < self.narrow_until {
                len
            } else {
                self.window_bytes.max(len)
            };
            self.window.resize(rest.min(ahead), 0);
            self.window_start = offset;
            let place = Place {
                extent: self.extent,
                offset,
            };
            let mut read = self.medium.read(place, &mut self.window, self.how);
            if read.is_err() && self.window.len() > len {
                // A page further on may be what cannot be read; nothing may ever have been there.
                self.narrow_until = offset + self.window.len() as u32;
                self.window.truncate(len);
                read = self.medium.read(place, &mut self.window, self.how);
            }
            if let Err(error) = read {
                self.window.clear();
                return Err(error);
            }
        }
        let start = wanted.start - self.window_start as usize;
        Ok(&self.window[start..start + len])
    }
}
