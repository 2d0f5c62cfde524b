//! Frames: every byte in an extent belongs to one, and each names itself.
//!
//! ```text
//!  header, 96 bytes
//!    0 magic "CLTf"   4    32 durable mark   8    64 entries          4
//!    4 version        1    40 extent         4    68 (reserved)       4
//!    5 kind           1    44 offset         4    72 body checksum    8
//!    6 stream         1    48 epoch          4    80 disk, second     8
//!    7 (reserved)     1    52 previous end   4    88 header checksum  8
//!    8 disk, first    8    56 body length    4
//!   16 lsn            8    60 payload length 4
//!   24 generation     8
//!  body:    one checksum (8) per 64 KiB of payload, then what the kind says
//!  payload
//! ```
//!
//! Invariants: a frame is believed only where its header says it is, in the epoch that the
//! extent has; lengths are used only after the header's checksum held; a frame's lsn and
//! generation are not smaller than those of any frame before it in its extent.

use crate::batch::{Key, Op};
use crate::checksum::Checksummer;
use crate::codec::{Put, Reader};
use crate::error::Place;
use crate::limits::{
    BATCH_ENTRIES_MAX, CHECKSUM_UNIT, FRAME_ALIGN, Geometry, KEY_BYTES_MAX, PAGE, VALUE_BYTES_MAX,
};
use crate::mutants::{self, Mutant};

/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"CLTf";
const VERSION: u8 = 1;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 96;

/// Longest body that a header may claim; what a kind needs is far less.
pub const BODY_BYTES_MAX: usize = 512 * 1024;

const ENTRY_BYTES: usize = 24;

const _: () = assert!(HEADER_BYTES <= PAGE);
const _: () = assert!(
    crate::limits::BATCH_BYTES_MAX + BATCH_ENTRIES_MAX * ENTRY_BYTES + 16 * 8 <= BODY_BYTES_MAX
);
const _: () = assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX + ENTRY_BYTES <= BODY_BYTES_MAX);

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A caller's batch.
    Batch = 1,
    /// Entries that reclamation moved; they keep their sequence.
    Moved = 2,
    /// A chunk of an index table.
    Table = 3,
    /// A part of a checkpoint's manifest.
    Manifest = 4,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Kind> {
        [Kind::Batch, Kind::Moved, Kind::Table, Kind::Manifest]
            .into_iter()
            .find(|kind| *kind as u8 == value)
    }
}

/// Which sequence of extents a frame is appended to, so that data of one lifetime shares
/// extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// What callers write.
    Log = 0,
    /// What reclamation moves.
    Moved = 1,
    /// The index's tables.
    Index = 2,
    /// Manifests: each lives only until the next, so their extents need no copying.
    Manifest = 3,
}

impl Stream {
    /// All of them.
    pub const ALL: [Stream; 4] = [Stream::Log, Stream::Moved, Stream::Index, Stream::Manifest];

    /// How many there are.
    pub const COUNT: usize = Stream::ALL.len();

    /// The stream with this number.
    pub fn from_u8(value: u8) -> Option<Stream> {
        Stream::ALL
            .into_iter()
            .find(|stream| *stream as u8 == value)
    }

    /// Whether its frames carry entries of keys.
    pub fn has_entries(self) -> bool {
        matches!(self, Stream::Log | Stream::Moved)
    }
}

/// The fixed part of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub stream: Stream,
    pub lsn: u64,
    pub generation: u64,
    pub durable: u64,
    pub extent: u32,
    pub offset: u32,
    pub epoch: u32,
    pub previous_end: u32,
    pub body_len: u32,
    pub payload_len: u32,
    pub entries: u32,
    pub body_checksum: u64,
}

impl Header {
    /// The header's bytes for the disk with this UUID.
    pub fn encode(&self, disk: &[u8; 16], checksummer: &Checksummer) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.put_u8(VERSION);
        out.put_u8(self.kind as u8);
        out.put_u8(self.stream as u8);
        out.put_u8(0);
        out.extend_from_slice(&disk[..8]);
        out.put_u64(self.lsn);
        out.put_u64(self.generation);
        out.put_u64(self.durable);
        out.put_u32(self.extent);
        out.put_u32(self.offset);
        out.put_u32(self.epoch);
        out.put_u32(self.previous_end);
        out.put_u32(self.body_len);
        out.put_u32(self.payload_len);
        out.put_u32(self.entries);
        out.put_u32(0);
        out.put_u64(self.body_checksum);
        out.extend_from_slice(&disk[8..]);
        let checksum = checksummer.of(&[&out]);
        out.put_u64(checksum);
        out.try_into().expect("the fields above are 96 bytes")
    }

    /// Reads a header and checks everything that it says of itself, but not where it stands.
    pub fn decode(bytes: &[u8], disk: &[u8; 16], checksummer: &Checksummer) -> Option<Header> {
        let fixed = bytes.get(..HEADER_BYTES)?;
        let mut reader = Reader::new(fixed);
        if reader.array()? != MAGIC || reader.u8()? != VERSION {
            return None;
        }
        let stored = u64::from_le_bytes(fixed[88..].try_into().ok()?);
        if !mutants::on(Mutant::M10) && checksummer.of(&[&fixed[..88]]) != stored {
            return None;
        }
        let kind = Kind::from_u8(reader.u8()?)?;
        let stream = Stream::from_u8(reader.u8()?)?;
        reader.u8()?;
        let named = disk_of(fixed)?;
        reader.bytes(8)?;
        if named != *disk && !mutants::on(Mutant::M19) {
            return None;
        }
        let header = Header {
            kind,
            stream,
            lsn: reader.u64()?,
            generation: reader.u64()?,
            durable: reader.u64()?,
            extent: reader.u32()?,
            offset: reader.u32()?,
            epoch: reader.u32()?,
            previous_end: reader.u32()?,
            body_len: reader.u32()?,
            payload_len: reader.u32()?,
            entries: {
                let entries = reader.u32()?;
                reader.u32()?;
                entries
            },
            body_checksum: reader.u64()?,
        };
        (header.previous_end <= header.offset
            && header.body_len as usize <= BODY_BYTES_MAX
            && header.body_len as usize >= checksum_area(header.payload_len))
        .then_some(header)
    }

    /// Whether the header stands where it says it stands.
    pub fn is_at(&self, place: Place, epoch: u32, geometry: &Geometry) -> bool {
        let here = mutants::on(Mutant::M19)
            || (self.extent == place.extent && self.offset == place.offset && self.epoch == epoch);
        here && u64::from(place.offset) + self.len() <= u64::from(geometry.extent_bytes)
    }

    /// Bytes of the whole frame, padding not counted.
    pub fn len(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.body_len) + u64::from(self.payload_len)
    }

    /// What the index needs to find the frame again.
    pub fn frame_ref(&self) -> FrameRef {
        FrameRef {
            extent: self.extent,
            epoch: self.epoch,
            offset: self.offset,
            body_len: self.body_len,
            payload_len: self.payload_len,
        }
    }
}

/// The disk that a header names, unverified.
pub fn disk_of(header: &[u8]) -> Option<[u8; 16]> {
    let (first, second) = (header.get(8..16)?, header.get(80..88)?);
    [first, second].concat().try_into().ok()
}

/// Bytes of payload checksums at the front of a body.
pub fn checksum_area(payload_len: u32) -> usize {
    (payload_len as usize).div_ceil(CHECKSUM_UNIT) * 8
}

/// Where a frame is and how long its parts are. Twenty bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRef {
    pub extent: u32,
    pub epoch: u32,
    pub offset: u32,
    pub body_len: u32,
    pub payload_len: u32,
}

impl FrameRef {
    /// Encoded size.
    pub const BYTES: usize = 20;

    pub fn encode(&self, out: &mut Vec<u8>) {
        for field in [
            self.extent,
            self.epoch,
            self.offset,
            self.body_len,
            self.payload_len,
        ] {
            out.put_u32(field);
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Option<FrameRef> {
        Some(FrameRef {
            extent: reader.u32()?,
            epoch: reader.u32()?,
            offset: reader.u32()?,
            body_len: reader.u32()?,
            payload_len: reader.u32()?,
        })
    }

    pub fn place(&self) -> Place {
        Place {
            extent: self.extent,
            offset: self.offset,
        }
    }

    /// Bytes of the whole frame.
    pub fn len(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.body_len) + u64::from(self.payload_len)
    }

    /// Bytes before the payload.
    pub fn head_len(&self) -> usize {
        HEADER_BYTES + self.body_len as usize
    }
}

/// The checksums of a payload's units.
pub fn payload_checksums(checksummer: &Checksummer, parts: &[&[u8]]) -> Vec<u8> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(total.div_ceil(CHECKSUM_UNIT) * 8);
    let mut unit: Vec<&[u8]> = Vec::new();
    let mut unit_len = 0;
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(CHECKSUM_UNIT - unit_len));
            unit.push(now);
            unit_len += now.len();
            rest = later;
            if unit_len == CHECKSUM_UNIT {
                out.put_u64(checksummer.of(&unit));
                unit.clear();
                unit_len = 0;
            }
        }
    }
    if unit_len > 0 {
        out.put_u64(checksummer.of(&unit));
    }
    out
}

/// Whether unit `index` of a payload matches the checksum that the body holds for it.
pub fn unit_holds(checksummer: &Checksummer, body: &[u8], index: usize, unit: &[u8]) -> bool {
    body.get(index * 8..index * 8 + 8)
        .is_some_and(|stored| checksummer.of(&[unit]).to_le_bytes() == stored)
}

/// One entry of a batch as it stands in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameEntry {
    pub key: Key,
    /// 0 in a caller's batch: the sequence is the frame's lsn.
    pub seq: u64,
    pub change: Change,
}

/// What happens to a key; payloads by their place in the frame's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put {
        value: Box<[u8]>,
        payload_offset: u32,
        payload_len: u32,
    },
    Delete,
    Merge(Box<[i64]>),
}

/// Turns a caller's operations into entries and the list of their payloads.
pub fn split_batch(entries: Vec<(Key, Op)>) -> (Vec<FrameEntry>, Vec<Vec<u8>>) {
    let mut payloads = Vec::new();
    let mut offset = 0;
    let entries = entries
        .into_iter()
        .map(|(key, op)| {
            let change = match op {
                Op::Put { value, payload } => {
                    let payload_len = payload.len() as u32;
                    let change = Change::Put {
                        value: value.into_boxed_slice(),
                        payload_offset: offset,
                        payload_len,
                    };
                    offset += payload_len;
                    if payload_len > 0 {
                        payloads.push(payload);
                    }
                    change
                }
                Op::Delete => Change::Delete,
                Op::Merge(deltas) => Change::Merge(deltas.into_boxed_slice()),
            };
            FrameEntry {
                key,
                seq: 0,
                change,
            }
        })
        .collect();
    (entries, payloads)
}

/// Encodes entries behind the payload checksums that `body` begins with.
pub fn encode_entries(entries: &[FrameEntry], body: &mut Vec<u8>) {
    for entry in entries {
        let (op, value_len, payload_len) = match &entry.change {
            Change::Put {
                value, payload_len, ..
            } => (1, value.len(), *payload_len),
            Change::Delete => (2, 0, 0),
            Change::Merge(deltas) => (3, deltas.len() * 8, 0),
        };
        body.put_u8(op);
        body.put_u8(0);
        body.put_u16(entry.key.bytes.len() as u16);
        body.put_u16(entry.key.stem_len as u16);
        body.put_u16(0);
        body.put_u32(value_len as u32);
        body.put_u32(payload_len);
        body.put_u64(entry.seq);
        body.extend_from_slice(&entry.key.bytes);
        match &entry.change {
            Change::Put { value, .. } => body.extend_from_slice(value),
            Change::Delete => {}
            Change::Merge(deltas) => {
                for delta in deltas {
                    body.extend_from_slice(&delta.to_le_bytes());
                }
            }
        }
    }
}

/// Decodes the entries of a batch or moved frame; `None` if the bytes are none.
pub fn decode_entries(header: &Header, body: &[u8]) -> Option<Vec<FrameEntry>> {
    let mut reader = Reader::new(body.get(checksum_area(header.payload_len)..)?);
    if header.entries as usize > BATCH_ENTRIES_MAX {
        return None;
    }
    let mut entries = Vec::with_capacity(header.entries as usize);
    let mut payload_offset = 0u32;
    for _ in 0..header.entries {
        let op = reader.u8()?;
        reader.u8()?;
        let key_len = reader.u16()? as usize;
        let stem_len = reader.u16()? as usize;
        reader.u16()?;
        let value_len = reader.u32()? as usize;
        let payload_len = reader.u32()?;
        let seq = reader.u64()?;
        if stem_len > key_len || key_len > KEY_BYTES_MAX || value_len > VALUE_BYTES_MAX {
            return None;
        }
        let key = Key::with_stem(reader.bytes(key_len)?, stem_len);
        let value = reader.bytes(value_len)?;
        let change = match op {
            1 => Change::Put {
                value: value.into(),
                payload_offset,
                payload_len,
            },
            2 => Change::Delete,
            3 => Change::Merge(decode_deltas(value)?),
            _ => return None,
        };
        payload_offset = payload_offset.checked_add(payload_len)?;
        entries.push(FrameEntry { key, seq, change });
    }
    (reader.is_empty() && payload_offset == header.payload_len).then_some(entries)
}

/// Counters from their bytes.
pub fn decode_deltas(value: &[u8]) -> Option<Box<[i64]>> {
    let (chunks, rest) = value.as_chunks::<8>();
    rest.is_empty().then(|| {
        chunks
            .iter()
            .map(|chunk| i64::from_le_bytes(*chunk))
            .collect()
    })
}

/// Where the frame after one that ends at `end` begins when it shares the group.
pub fn align_frame(end: u32) -> u32 {
    end.next_multiple_of(FRAME_ALIGN as u32)
}

/// Where the first frame of the next group begins.
pub fn align_page(end: u32) -> u32 {
    end.next_multiple_of(PAGE as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Batch,
            stream: Stream::Log,
            lsn: 11,
            generation: 3,
            durable: 10,
            extent: 5,
            offset: 4096,
            epoch: 2,
            previous_end: 4000,
            body_len: 80,
            payload_len: 7,
            entries: 1,
            body_checksum: 77,
        }
    }

    #[test]
    fn a_header_round_trips_and_no_flipped_bit_passes() {
        let disk = [9; 16];
        let checksummer = Checksummer::new(&disk);
        let bytes = header().encode(&disk, &checksummer);
        assert_eq!(Header::decode(&bytes, &disk, &checksummer), Some(header()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                Header::decode(&flipped, &disk, &checksummer),
                None,
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_header_is_believed_only_in_its_place() {
        let geometry = Geometry::DEFAULT;
        let here = Place {
            extent: 5,
            offset: 4096,
        };
        assert!(header().is_at(here, 2, &geometry));
        assert!(!header().is_at(here, 3, &geometry));
        assert!(!header().is_at(Place { extent: 6, ..here }, 2, &geometry));
        assert!(!header().is_at(Place { offset: 0, ..here }, 2, &geometry));
    }

    #[test]
    fn entries_round_trip_and_any_truncation_is_refused() {
        let entries = vec![
            FrameEntry {
                key: Key::with_stem(*b"stem/suffix", 5),
                seq: 4,
                change: Change::Put {
                    value: b"value".as_slice().into(),
                    payload_offset: 0,
                    payload_len: 7,
                },
            },
            FrameEntry {
                key: Key::plain(*b"gone"),
                seq: 0,
                change: Change::Delete,
            },
            FrameEntry {
                key: Key::plain(*b"n"),
                seq: 0,
                change: Change::Merge(vec![1, -2].into()),
            },
        ];
        let mut body = vec![0; 8];
        encode_entries(&entries, &mut body);
        let header = Header {
            entries: 3,
            body_len: body.len() as u32,
            ..header()
        };
        assert_eq!(decode_entries(&header, &body), Some(entries));
        for len in 0..body.len() {
            assert_eq!(decode_entries(&header, &body[..len]), None);
        }
    }

    #[test]
    fn payload_units_span_parts() {
        let checksummer = Checksummer::new(&[1; 16]);
        let payload: Vec<u8> = (0..CHECKSUM_UNIT + 10).map(|i| i as u8).collect();
        let (a, b) = payload.split_at(1000);
        let split = payload_checksums(&checksummer, &[a, b]);
        assert_eq!(split, payload_checksums(&checksummer, &[&payload]));
        assert_eq!(split.len(), 16);
        assert!(unit_holds(
            &checksummer,
            &split,
            1,
            &payload[CHECKSUM_UNIT..]
        ));
        assert!(!unit_holds(
            &checksummer,
            &split,
            0,
            &payload[CHECKSUM_UNIT..]
        ));
    }
}
