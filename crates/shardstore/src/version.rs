//! The tables of the index by level, as one immutable value, and the manifest that persists it.
//!
//! Level 0 holds what memtables became, newest first, overlapping. Every deeper level holds
//! disjoint tables in key order, each level larger than the one above.

use crate::codec::{Put, Reader};
use crate::error::Result;
use crate::extents::Extents;
use crate::merge::{LevelCursor, Source};
use crate::record::{Content, Record};
use crate::sync::Arc;
use crate::table::{Table, TableMeta, TableReader};

/// Deepest level, counted from 0. With 4 tables in level 0 and ten times as much per level
/// this is past any disk.
pub const LEVELS: usize = 7;

/// The tables by level.
#[derive(Debug, Clone, Default)]
pub struct Version {
    pub levels: [Vec<Arc<Table>>; LEVELS],
}

impl Version {
    /// Every table.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.levels.iter().flatten()
    }

    /// The record of `key`, merges folded but not settled.
    pub fn get(
        &self,
        key: &[u8],
        stem_hash: u64,
        newer: Option<Record>,
        reader: &TableReader<'_>,
    ) -> Result<Option<Record>> {
        let mut combined = newer;
        let is_final = |record: &Option<Record>| {
            record
                .as_ref()
                .is_some_and(|record| !matches!(record.content, Content::Merge(_)))
        };
        for table in self.levels.iter().enumerate().flat_map(|(level, tables)| {
            let one = (level > 0).then(|| table_of(tables, key)).flatten();
            let all = if level == 0 { tables.as_slice() } else { &[] };
            all.iter().chain(one)
        }) {
            if is_final(&combined) {
                break;
            }
            let Some(record) = reader.get(table, key, stem_hash)? else {
                continue;
            };
            combined = Some(match combined {
                None => record,
                Some(newer) => newer.over(&record),
            });
        }
        Ok(combined)
    }

    /// Sources from `from` on, newest first. With a stem hash, only tables whose filter says
    /// that they may hold the stem.
    pub fn sources(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        stem_hash: Option<u64>,
        reader: &TableReader<'_>,
    ) -> Result<Vec<Source>> {
        let mut sources = Vec::new();
        for (level, tables) in self.levels.iter().enumerate() {
            let mut wanted = Vec::new();
            let start = match level {
                0 => 0,
                _ => tables.partition_point(|table| *table.meta.largest < *from),
            };
            for table in &tables[start..] {
                let after = to.is_some_and(|to| *table.meta.smallest > *to);
                if after && level > 0 {
                    break;
                }
                if after || *table.meta.largest < *from {
                    continue;
                }
                if let Some(hash) = stem_hash
                    && !reader.may_hold(table, hash)?
                {
                    continue;
                }
                wanted.push(table.clone());
            }
            if level == 0 {
                for table in wanted {
                    sources.push(Source::Level(LevelCursor::new([table], from, reader)?));
                }
            } else if !wanted.is_empty() {
                sources.push(Source::Level(LevelCursor::new(wanted, from, reader)?));
            }
        }
        Ok(sources)
    }

    /// Whether any table below `level` overlaps the key range.
    pub fn overlaps_below(&self, level: usize, smallest: &[u8], largest: &[u8]) -> bool {
        self.levels[(level + 1).min(LEVELS)..]
            .iter()
            .any(|tables| !overlapping(tables, smallest, largest).is_empty())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for tables in &self.levels {
            out.put_u32(tables.len() as u32);
            tables.iter().for_each(|table| table.meta.encode(out));
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Version> {
        let mut version = Version::default();
        for (level, tables) in version.levels.iter_mut().enumerate() {
            for _ in 0..reader.u32()? {
                let meta = TableMeta::decode(reader)?;
                let previous: Option<&Arc<Table>> = tables.last();
                if level > 0 && previous.is_some_and(|table| table.meta.largest >= meta.smallest) {
                    return None;
                }
                tables.push(Arc::new(Table { meta }));
            }
        }
        Some(version)
    }
}

/// The table of a disjoint level that may hold `key`.
fn table_of<'a>(tables: &'a [Arc<Table>], key: &[u8]) -> Option<&'a Arc<Table>> {
    let position = tables.partition_point(|table| *table.meta.largest < *key);
    tables
        .get(position)
        .filter(|table| *table.meta.smallest <= *key)
}

/// The tables of a disjoint level that overlap a key range, both ends included.
pub fn overlapping<'a>(
    tables: &'a [Arc<Table>],
    smallest: &[u8],
    largest: &[u8],
) -> &'a [Arc<Table>] {
    let start = tables.partition_point(|table| *table.meta.largest < *smallest);
    let rest = &tables[start..];
    let len = rest.partition_point(|table| *table.meta.smallest <= *largest);
    &rest[..len]
}

/// What a checkpoint writes besides the tables themselves.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Every frame up to this lsn is covered.
    pub lsn: u64,
    pub extents: Extents,
    pub version: Version,
}

impl Manifest {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64(self.lsn);
        self.extents.encode(&mut out);
        self.version.encode(&mut out);
        out
    }

    /// `None` if the bytes are no manifest.
    pub fn decode(bytes: &[u8], extent_bytes: u32) -> Option<Manifest> {
        let mut reader = Reader::new(bytes);
        let lsn = reader.u64()?;
        let extents = Extents::decode(&mut reader, extent_bytes)?;
        let version = Version::decode(&mut reader)?;
        let known = |frame: &crate::frame::FrameRef| {
            let end = u64::from(frame.offset) + frame.len();
            end <= u64::from(extent_bytes)
                && frame.body_len as usize <= crate::frame::BODY_BYTES_MAX
        };
        let sound = version
            .tables()
            .flat_map(|table| &table.meta.chunks)
            .all(known);
        (reader.is_empty() && sound).then_some(Manifest {
            lsn,
            extents,
            version,
        })
    }
}

/// Which part of which manifest a frame carries; stands in the frame's body behind the
/// checksums, so that a manifest can be put together without a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestPart {
    /// The manifest's checkpoint lsn.
    pub lsn: u64,
    /// Counted from 0.
    pub number: u32,
    pub count: u32,
}

impl ManifestPart {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.lsn);
        out.put_u32(self.number);
        out.put_u32(self.count);
    }

    /// From what stands behind the checksums in a frame's body.
    pub fn decode(bytes: &[u8]) -> Option<ManifestPart> {
        let mut reader = Reader::new(bytes);
        let part = ManifestPart {
            lsn: reader.u64()?,
            number: reader.u32()?,
            count: reader.u32()?,
        };
        (reader.is_empty() && part.number < part.count).then_some(part)
    }
}
