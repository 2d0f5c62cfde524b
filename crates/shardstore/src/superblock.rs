//! The superblock: who the disk is, which format it has, and where the newest checkpoint lies.
//!
//! ```text
//!  0 magic "cullet01"        8   40 disk uuid      16    96 geometry: extent bytes   4
//!  8 checksum of 16..4096    8   56 set uuid       16   100 payload limit            4
//! 16 compatible features     8   72 generation      8   104 runs                     8
//! 24 read-only-compatible    8   80 checkpoint lsn  8   112 written at, ms           8
//! 32 incompatible features   8   88 floor           8   120 roots: count             4
//!                                                       124 count x place of a manifest frame
//! ```
//!
//! Invariants: the two copies are never written under one flush; a copy is valid only as a
//! whole; the valid copy with the higher generation is the one that counts, never the clock.

use crate::checksum::Checksummer;
use crate::codec::{Put, Reader};
use crate::disk::{Disk, Read};
use crate::error::{Error, Result};
use crate::frame::FrameRef;
use crate::limits::{Geometry, MANIFEST_PARTS_MAX, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS};
use crate::mutants::{self, Mutant};

const MAGIC: &[u8; 8] = b"cullet01";

const _: () = assert!(124 + MANIFEST_PARTS_MAX * FrameRef::BYTES <= SUPERBLOCK_BYTES);

/// The copies as they were read.
pub(crate) struct Copies {
    /// The one that counts.
    pub newest: Superblock,
    /// In which order they are to be written next: the one that counts last, so that one whole
    /// copy is there at any moment.
    pub order: [u64; 2],
    /// Whether both could be read, so that none that is newer is missing.
    pub is_sure: bool,
}

/// Who a disk is. Chosen by whoever formats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The disk's UUID.
    pub disk: [u8; 16],
    /// The UUID of the set that it belongs to.
    pub set: [u8; 16],
}

/// One copy's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    pub identity: Identity,
    pub geometry: Geometry,
    pub generation: u64,
    /// Everything up to this log sequence number is in the checkpoint.
    pub checkpoint_lsn: u64,
    /// Frames behind the checkpoint whose generation is smaller are what a crash before the
    /// checkpoint left of a group that was dropped: they are no part of the log.
    pub floor: u64,
    /// How often the disk was opened. It grows with every open and with nothing else.
    pub runs: u64,
    /// For people only; nothing decides by it.
    pub written_at_ms: u64,
    /// The manifest's frames, in order; empty before the first checkpoint.
    pub roots: Vec<FrameRef>,
    /// Feature bits that an older release may ignore; kept when not known.
    pub compatible: u64,
    /// Feature bits that an older release may ignore when it only reads; kept when not known.
    pub read_only_compatible: u64,
}

impl Superblock {
    /// The bytes of one copy.
    pub fn encode(&self) -> Vec<u8> {
        assert!(
            self.roots.len() <= MANIFEST_PARTS_MAX,
            "a checkpoint refuses more roots"
        );
        let mut out = Vec::with_capacity(SUPERBLOCK_BYTES);
        out.extend_from_slice(MAGIC);
        out.put_u64(0);
        out.put_u64(self.compatible);
        out.put_u64(self.read_only_compatible);
        out.put_u64(0);
        out.extend_from_slice(&self.identity.disk);
        out.extend_from_slice(&self.identity.set);
        out.put_u64(self.generation);
        out.put_u64(self.checkpoint_lsn);
        out.put_u64(self.floor);
        out.put_u32(self.geometry.extent_bytes);
        out.put_u32(self.geometry.payload_bytes_max);
        out.put_u64(self.runs);
        out.put_u64(self.written_at_ms);
        out.put_u32(self.roots.len() as u32);
        for root in &self.roots {
            root.encode(&mut out);
        }
        out.resize(SUPERBLOCK_BYTES, 0);
        let checksum = Checksummer::new(&self.identity.disk).of(&[&out[16..]]);
        out[8..16].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// `Ok(None)`: these bytes are no valid copy.
    pub fn decode(bytes: &[u8]) -> Result<Option<Superblock>> {
        Ok(match Self::decode_fields(bytes) {
            Some(Ok(superblock)) => {
                superblock.geometry.validate()?;
                Some(superblock)
            }
            Some(Err(incompatible)) => {
                return Err(Error::NewerFormat {
                    what: format!("incompatible feature bits {incompatible:#x}"),
                });
            }
            None => None,
        })
    }

    /// `None`: no valid copy. `Err`: a valid one with incompatible features, these.
    fn decode_fields(bytes: &[u8]) -> Option<std::result::Result<Superblock, u64>> {
        let mut reader = Reader::new(bytes.get(..SUPERBLOCK_BYTES)?);
        if reader.bytes(8)? != MAGIC {
            return None;
        }
        let checksum = reader.u64()?;
        let compatible = reader.u64()?;
        let read_only_compatible = reader.u64()?;
        let incompatible = reader.u64()?;
        let disk = reader.array()?;
        if Checksummer::new(&disk).of(&[&bytes[16..SUPERBLOCK_BYTES]]) != checksum {
            return None;
        }
        if incompatible != 0 {
            // What stands behind it may mean anything.
            return Some(Err(incompatible));
        }
        let set = reader.array()?;
        let generation = reader.u64()?;
        let checkpoint_lsn = reader.u64()?;
        let floor = reader.u64()?;
        let geometry = Geometry {
            extent_bytes: reader.u32()?,
            payload_bytes_max: reader.u32()?,
        };
        let runs = reader.u64()?;
        let written_at_ms = reader.u64()?;
        let count = reader.u32()? as usize;
        if count > MANIFEST_PARTS_MAX {
            return None;
        }
        let roots = (0..count)
            .map(|_| FrameRef::decode(&mut reader))
            .collect::<Option<_>>()?;
        let superblock = Superblock {
            identity: Identity { disk, set },
            geometry,
            generation,
            checkpoint_lsn,
            floor,
            runs,
            written_at_ms,
            roots,
            compatible,
            read_only_compatible,
        };
        Some(Ok(superblock))
    }

    /// Whoever does not know a read-only-compatible feature may read the disk, not write it.
    ///
    /// # Errors
    /// [`Error::NewerFormat`]
    pub fn refuse_to_write(&self) -> Result<()> {
        match self.read_only_compatible {
            0 => Ok(()),
            bits => Err(Error::NewerFormat {
                what: format!("read-only-compatible feature bits {bits:#x}"),
            }),
        }
    }

    /// Reads both copies, past any cache, and returns the one that counts.
    pub fn load(disk: &dyn Disk) -> Result<Superblock> {
        Self::load_copies(disk).map(|copies| copies.newest)
    }

    /// As [`load`](Superblock::load), and what is to be known of the copies.
    pub fn load_copies(disk: &dyn Disk) -> Result<Copies> {
        let mut best: Option<(Superblock, u64)> = None;
        let mut is_sure = true;
        let mut magic_seen = false;
        let mut unreadable = None;
        for offset in SUPERBLOCK_OFFSETS {
            let copy = match read_copy(disk, offset, &mut magic_seen) {
                Ok(Some(copy)) => copy,
                Ok(None) => {
                    is_sure = false;
                    continue;
                }
                // The other copy will do.
                Err(Error::Disk(error)) => {
                    unreadable = Some(Error::Disk(error));
                    is_sure = false;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let newer = best.as_ref().is_none_or(|(best, _)| {
                if mutants::on(Mutant::M22) {
                    copy.written_at_ms > best.written_at_ms
                } else {
                    copy.generation > best.generation
                }
            });
            if newer {
                best = Some((copy, offset));
            }
        }
        let (newest, offset) = best.ok_or_else(|| match unreadable {
            Some(error) => error,
            None if magic_seen => Error::Damaged {
                what: "both copies of the superblock are corrupt".to_owned(),
            },
            None => Error::NotFormatted,
        })?;
        let [a, b] = SUPERBLOCK_OFFSETS;
        let order = if offset == a { [b, a] } else { [a, b] };
        Ok(Copies {
            newest,
            order,
            is_sure,
        })
    }

    /// Writes one copy, flushes, writes the other, flushes: whatever tears, one is whole. After
    /// it both copies are the same, so the next order may be any.
    pub fn store(&self, disk: &dyn Disk, order: [u64; 2]) -> Result<()> {
        let bytes = self.encode();
        disk.write(order[0], &[&bytes])?;
        if !mutants::on(Mutant::M18) {
            disk.flush()?;
        }
        if mutants::on(Mutant::M22) {
            return Ok(());
        }
        disk.write(order[1], &[&bytes])?;
        disk.flush()?;
        Ok(())
    }
}

/// One copy; `None` if it does not hold. A read that failed, or that brought something else,
/// is tried once more: it may have been the read that went astray, and to take a store for no
/// store is the worst of mistakes. For the same reason a copy that failed to be read once and then
/// brought nothing counts as unreadable, not as missing.
fn read_copy(disk: &dyn Disk, offset: u64, magic_seen: &mut bool) -> Result<Option<Superblock>> {
    let mut read = || {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        disk.read(offset, &mut bytes, Read::PastCache)?;
        *magic_seen |= bytes.starts_with(MAGIC);
        Superblock::decode(&bytes)
    };
    match read() {
        Ok(None) => read(),
        Err(error @ Error::Disk(_)) => read()?.map_or(Err(error), |copy| Ok(Some(copy))),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            identity: Identity {
                disk: [7; 16],
                set: [8; 16],
            },
            geometry: Geometry::DEFAULT,
            generation: 3,
            checkpoint_lsn: 99,
            floor: 2,
            runs: 4,
            written_at_ms: 5,
            roots: vec![FrameRef {
                extent: 1,
                epoch: 2,
                offset: 64,
                body_len: 8,
                payload_len: 9,
            }],
            compatible: 1,
            read_only_compatible: 2,
        }
    }

    #[test]
    fn round_trips_and_rejects_any_flipped_bit() {
        let bytes = sample().encode();
        assert_eq!(Superblock::decode(&bytes).unwrap(), Some(sample()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Superblock::decode(&flipped).unwrap(), None, "bit {bit}");
        }
    }

    #[test]
    fn an_unknown_incompatible_feature_is_a_newer_format() {
        let mut bytes = sample().encode();
        bytes[32] = 1;
        let checksum = Checksummer::new(&[7; 16]).of(&[&bytes[16..]]);
        bytes[8..16].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(
            Superblock::decode(&bytes),
            Err(Error::NewerFormat { .. })
        ));
    }
}
