//! The body of an object that was uploaded in parts: a table of blobs.
//!
//! What must always hold:
//! - a table never changes once a record names it;
//! - entries are in the order of their part numbers, which is the order of their bytes;
//! - whoever reads any part, or the table, pins the table's *anchor*: the blob that holds the
//!   table, or, where the table stands in the record itself, the blob of the first part. No blob
//!   of the body is deleted while its anchor is read.
//!
//! ```text
//! parts      u8 layout = 1 | u64 upload id | u8 checksum algorithm of the parts, 0: none
//!            | u16 count | u8 where: 0 = the entries follow, 1 = in a blob:
//!            u16 length, blob reference (see `volume::BlobRef`)
//!            | u64 for each 1,024 entries: the offset in the body where they end
//! entry      u64 offset in the body where the part ends | u16 part number
//!            | u64 epoch, u64 counter: the blob | u8 k | u8 m | u32 shard bytes
//!            | digest, as long as the algorithm's
//! ```
//! Integers are little-endian. All entries have the same size, so that the one that holds an
//! offset is found by reading one chunk of the table.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use volume::{BlobId, BlobPin, BlobRef, Scheme};

use crate::checksum::ChecksumAlgorithm;
use crate::codec::{Take, corrupt, put_short};
use crate::limits::{PART_TABLE_BYTES_INLINE_MAX, PARTS_MAX};
use crate::upload::UploadId;
use crate::{Error, Result};

const LAYOUT: u8 = 1;
const HERE: u8 = 0;
const APART: u8 = 1;

/// Entries that are read at once, and that one offset of the directory stands for.
pub(crate) const CHUNK_ENTRIES: usize = 1_024;

/// Bytes of an entry besides its digest.
pub(crate) const ENTRY_BYTES_FIXED: usize = 8 + 2 + 16 + 6;

/// A body in parts, as its record holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartsRef {
    /// The upload that the body comes from.
    pub upload: UploadId,
    /// The algorithm of the parts' own checksums.
    pub algorithm: Option<ChecksumAlgorithm>,
    /// How many parts there are, at least one.
    pub count: u16,
    /// Where they stand.
    pub table: PartTable,
}

/// Where the entries stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartTable {
    /// In the record itself.
    Here(Vec<u8>),
    /// In a blob of their own.
    Apart {
        /// The blob.
        blob: BlobRef,
        /// Where in the body the parts of each chunk of the table end.
        chunk_ends: Vec<u64>,
    },
}

/// One part of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartEntry {
    /// Its number, 1 to 10,000; numbers may be left out.
    pub number: u16,
    /// Its bytes in the body.
    pub range: Range<u64>,
    /// Where they are.
    pub blob: BlobRef,
    /// Its checksum by the table's algorithm; empty if it has none.
    pub digest: Vec<u8>,
}

impl PartsRef {
    /// The blob that is pinned while any part of the body is read, and deleted last.
    pub fn anchor(&self) -> Result<BlobRef> {
        match &self.table {
            PartTable::Apart { blob, .. } => Ok(blob.clone()),
            PartTable::Here(_) => match self.decode_chunk(0, self.here())?.pop_front() {
                Some(first) => Ok(first.blob),
                None => Err(damaged("it is empty")),
            },
        }
    }

    fn here(&self) -> &[u8] {
        match &self.table {
            PartTable::Here(entries) => entries,
            PartTable::Apart { .. } => &[],
        }
    }

    fn entry_bytes(&self) -> usize {
        ENTRY_BYTES_FIXED + self.algorithm.map_or(0, ChecksumAlgorithm::digest_bytes)
    }

    /// How many chunks the table has.
    pub fn chunks(&self) -> usize {
        usize::from(self.count).div_ceil(CHUNK_ENTRIES)
    }

    /// The entries of a chunk.
    fn chunk(&self, number: usize) -> Range<usize> {
        let from = number * CHUNK_ENTRIES;
        from..(from + CHUNK_ENTRIES).min(self.count.into())
    }

    /// Where a chunk's bytes are in the table's blob.
    pub fn chunk_bytes(&self, number: usize) -> Range<u64> {
        let Range { start, end } = self.chunk(number);
        let bytes = self.entry_bytes();
        (start * bytes) as u64..(end * bytes) as u64
    }

    /// The chunk that holds an offset of the body.
    fn chunk_at(&self, offset: u64) -> usize {
        match &self.table {
            PartTable::Here(_) => 0,
            PartTable::Apart { chunk_ends, .. } => chunk_ends.partition_point(|end| *end <= offset),
        }
    }

    /// Decodes the bytes of a chunk.
    pub fn decode_chunk(&self, number: usize, bytes: &[u8]) -> Result<VecDeque<PartEntry>> {
        let wanted = self.chunk(number).len();
        if bytes.len() != wanted * self.entry_bytes() {
            return Err(damaged("it has another length than its record says"));
        }
        let mut start = match (&self.table, number.checked_sub(1)) {
            (PartTable::Apart { chunk_ends, .. }, Some(before)) => {
                chunk_ends.get(before).copied().unwrap_or(0)
            }
            _ => 0,
        };
        let mut entries: VecDeque<PartEntry> = VecDeque::with_capacity(wanted);
        for bytes in bytes.chunks_exact(self.entry_bytes()) {
            let entry = take_entry(bytes, start).ok_or_else(|| damaged("an entry cannot be"))?;
            if entries
                .back()
                .is_some_and(|last| last.number >= entry.number)
            {
                return Err(damaged("its parts are not in order"));
            }
            start = entry.range.end;
            entries.push_back(entry);
        }
        Ok(entries)
    }

    /// Bytes of the whole body, so far as the record itself says.
    pub fn size(&self) -> Result<u64> {
        match &self.table {
            PartTable::Apart { chunk_ends, .. } => Ok(chunk_ends.last().copied().unwrap_or(0)),
            PartTable::Here(entries) => {
                let last = self.decode_chunk(0, entries)?.pop_back();
                Ok(last.map_or(0, |last| last.range.end))
            }
        }
    }

    /// Its bytes in a record.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = vec![LAYOUT];
        out.extend_from_slice(&self.upload.0.to_le_bytes());
        out.push(self.algorithm.map_or(0, ChecksumAlgorithm::number));
        out.extend_from_slice(&self.count.to_le_bytes());
        match &self.table {
            PartTable::Here(entries) => {
                out.push(HERE);
                out.extend_from_slice(entries);
            }
            PartTable::Apart { blob, chunk_ends } => {
                out.push(APART);
                let mut bytes = Vec::with_capacity(64);
                blob.encode(&mut bytes);
                put_short(&mut out, &bytes)?;
                for end in chunk_ends {
                    out.extend_from_slice(&end.to_le_bytes());
                }
            }
        }
        Ok(out)
    }

    /// Any bytes become a body or [`Error::Corrupt`].
    pub fn decode(bytes: &[u8]) -> Result<PartsRef> {
        let mut take = Take(bytes);
        match take.u8() {
            Some(LAYOUT) => {}
            Some(0) | None => return Err(damaged("its layout is none that ever was")),
            Some(_) => return Err(damaged("it was written by a newer cullet")),
        }
        let parts =
            PartsRef::take_fields(&mut take).ok_or_else(|| damaged("it is cut short"))??;
        if parts.count == 0 || usize::from(parts.count) > PARTS_MAX {
            return Err(damaged("its number of parts cannot be"));
        }
        match &parts.table {
            PartTable::Here(entries) => drop(parts.decode_chunk(0, entries)?),
            PartTable::Apart { blob, chunk_ends } => {
                let bytes = usize::from(parts.count) * parts.entry_bytes();
                let ascend = chunk_ends.is_sorted_by(|a, b| a <= b);
                if chunk_ends.len() != parts.chunks() || !ascend || blob.plain_len != bytes as u64 {
                    return Err(damaged("its table has another size than its record says"));
                }
            }
        }
        Ok(parts)
    }

    fn take_fields(take: &mut Take<'_>) -> Option<Result<PartsRef>> {
        let upload = UploadId(take.u64()?);
        let algorithm = match take.u8()? {
            0 => None,
            number => match ChecksumAlgorithm::from_number(number) {
                Some(algorithm) => Some(algorithm),
                None => return Some(Err(damaged("its checksums are of a newer cullet"))),
            },
        };
        let count = take.u16()?;
        let table = match take.u8()? {
            HERE => PartTable::Here(std::mem::take(&mut take.0).to_vec()),
            APART => {
                let len = take.u16()?;
                let blob = match BlobRef::decode(take.bytes(len.into())?) {
                    Ok(blob) => blob,
                    Err(error) => return Some(Err(error.into())),
                };
                let mut chunk_ends = Vec::new();
                while !take.0.is_empty() {
                    chunk_ends.push(take.u64()?);
                }
                PartTable::Apart { blob, chunk_ends }
            }
            _ => return None,
        };
        Some(Ok(PartsRef {
            upload,
            algorithm,
            count,
            table,
        }))
    }
}

fn damaged(why: &str) -> Error {
    corrupt("the table of an object's parts", why)
}

/// An entry, whose part begins where the one before it ends.
fn take_entry(bytes: &[u8], start: u64) -> Option<PartEntry> {
    let mut take = Take(bytes);
    let end = take.u64()?;
    let number = take.u16()?;
    let id = BlobId {
        epoch: take.u64()?,
        counter: take.u64()?,
    };
    let scheme = Scheme::new(take.u8()?, take.u8()?)?;
    let shard_bytes = u32::from_le_bytes(take.array()?);
    let len = end.checked_sub(start)?;
    let blob = BlobRef {
        id,
        plain_len: len,
        stored_len: len,
        transforms: Vec::new(),
        scheme,
        shard_bytes,
    };
    // What cannot be is found by the blob's own codec.
    let mut encoded = Vec::with_capacity(64);
    blob.encode(&mut encoded);
    BlobRef::decode(&encoded).ok()?;
    (number > 0).then(|| PartEntry {
        number,
        range: start..end,
        blob,
        digest: take.0.to_vec(),
    })
}

/// Makes a table, part by part.
pub(crate) struct TableBuilder {
    algorithm: Option<ChecksumAlgorithm>,
    entries: Vec<u8>,
    chunk_ends: Vec<u64>,
    count: u16,
    end: u64,
}

impl TableBuilder {
    /// For so many parts.
    pub(crate) fn new(algorithm: Option<ChecksumAlgorithm>, parts: usize) -> TableBuilder {
        let digest_bytes = algorithm.map_or(0, ChecksumAlgorithm::digest_bytes);
        TableBuilder {
            algorithm,
            entries: Vec::with_capacity(parts * (ENTRY_BYTES_FIXED + digest_bytes)),
            chunk_ends: Vec::new(),
            count: 0,
            end: 0,
        }
    }

    /// Adds a part, whose number is above those before it. `digest` has the algorithm's length.
    pub(crate) fn push(&mut self, number: u16, blob: &BlobRef, digest: &[u8]) -> Result<()> {
        let digest_bytes = self.algorithm.map_or(0, ChecksumAlgorithm::digest_bytes);
        if digest.len() != digest_bytes || !blob.transforms.is_empty() {
            return Err(Error::Internal(format!(
                "part {number} does not fit into a table of parts"
            )));
        }
        if usize::from(self.count).is_multiple_of(CHUNK_ENTRIES) {
            self.chunk_ends.push(self.end);
        }
        self.end = self.end.saturating_add(blob.plain_len);
        if let Some(end) = self.chunk_ends.last_mut() {
            *end = self.end;
        }
        self.count += 1;
        self.entries.extend_from_slice(&self.end.to_le_bytes());
        self.entries.extend_from_slice(&number.to_le_bytes());
        self.entries.extend_from_slice(&blob.id.epoch.to_le_bytes());
        self.entries
            .extend_from_slice(&blob.id.counter.to_le_bytes());
        self.entries
            .extend_from_slice(&[blob.scheme.k, blob.scheme.m]);
        self.entries
            .extend_from_slice(&blob.shard_bytes.to_le_bytes());
        self.entries.extend_from_slice(digest);
        Ok(())
    }

    /// Bytes of the body so far.
    pub(crate) fn size(&self) -> u64 {
        self.end
    }

    /// Whether the table is to stand in the record itself.
    pub(crate) fn is_small(&self) -> bool {
        self.entries.len() <= PART_TABLE_BYTES_INLINE_MAX
    }

    /// The entries.
    pub(crate) fn entries(&self) -> &[u8] {
        &self.entries
    }

    /// The body. `blob` holds the entries unless they are few.
    pub(crate) fn finish(self, upload: UploadId, blob: Option<BlobRef>) -> PartsRef {
        let table = match blob {
            None => PartTable::Here(self.entries),
            Some(blob) => PartTable::Apart {
                blob,
                chunk_ends: self.chunk_ends,
            },
        };
        PartsRef {
            upload,
            algorithm: self.algorithm,
            count: self.count,
            table,
        }
    }
}

/// Walks over the parts of a body, a chunk of the table at a time.
pub(crate) struct PartCursor {
    parts: PartsRef,
    /// Of the anchor.
    pin: Arc<BlobPin>,
    fetched: VecDeque<PartEntry>,
    next_chunk: usize,
}

impl PartCursor {
    /// All parts. `pin`: of the anchor.
    pub(crate) fn new(parts: PartsRef, pin: Arc<BlobPin>) -> PartCursor {
        PartCursor {
            parts,
            pin,
            fetched: VecDeque::new(),
            next_chunk: 0,
        }
    }

    /// Another walk over what this one has not come to.
    pub(crate) fn beyond(&self) -> PartCursor {
        PartCursor {
            parts: self.parts.clone(),
            pin: self.pin.clone(),
            fetched: self.fetched.clone(),
            next_chunk: self.next_chunk,
        }
    }

    /// Skips chunks that end at or before an offset of the body.
    pub(crate) fn skip_to(&mut self, offset: u64) {
        self.fetched.clear();
        self.next_chunk = self.parts.chunk_at(offset);
    }

    /// Skips the chunks before the one that holds an entry.
    pub(crate) fn skip_entries(&mut self, entries: usize) {
        self.fetched.clear();
        self.next_chunk = entries / CHUNK_ENTRIES;
    }

    /// The next part. A cancelled call loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<PartEntry>> {
        while self.fetched.is_empty() {
            if self.next_chunk >= self.parts.chunks() {
                return Ok(None);
            }
            self.fetched = self.fetch(self.next_chunk).await?;
            self.next_chunk += 1;
        }
        Ok(self.fetched.pop_front())
    }

    /// The part with this number, wherever the walk is; it ends somewhere else.
    pub(crate) async fn find(&mut self, number: u16) -> Result<Option<PartEntry>> {
        // There are at most as many parts before it as numbers, and mostly just as many.
        let before = usize::from(number.saturating_sub(1)).min(usize::from(self.parts.count) - 1);
        let mut chunk = before / CHUNK_ENTRIES;
        loop {
            let mut entries = self.fetch(chunk).await?;
            let begins_behind = entries.front().is_none_or(|first| first.number > number);
            if begins_behind && chunk > 0 {
                chunk -= 1;
                continue;
            }
            let at = entries.binary_search_by_key(&number, |entry| entry.number);
            return Ok(at.ok().and_then(|at| entries.swap_remove_back(at)));
        }
    }

    async fn fetch(&self, chunk: usize) -> Result<VecDeque<PartEntry>> {
        match &self.parts.table {
            PartTable::Here(entries) => self.parts.decode_chunk(chunk, entries),
            PartTable::Apart { blob, .. } => {
                let range = self.parts.chunk_bytes(chunk);
                let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
                let mut reader = self.pin.reader_of(blob.clone(), range);
                while let Some(piece) = reader.next().await {
                    bytes.extend_from_slice(&piece?);
                }
                self.parts.decode_chunk(chunk, &bytes)
            }
        }
    }

    pub(crate) fn pin(&self) -> &Arc<BlobPin> {
        &self.pin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn blob(counter: u64, len: u64) -> BlobRef {
        BlobRef {
            id: BlobId { epoch: 3, counter },
            plain_len: len,
            stored_len: len,
            transforms: Vec::new(),
            scheme: Scheme { k: 1, m: 0 },
            shard_bytes: 1024,
        }
    }

    /// A table of parts with the lengths, numbered 1, 3, 5 and so on.
    fn table(algorithm: Option<ChecksumAlgorithm>, lengths: &[u64]) -> (PartsRef, Vec<u8>) {
        let mut builder = TableBuilder::new(algorithm, lengths.len());
        let digest = vec![7; algorithm.map_or(0, ChecksumAlgorithm::digest_bytes)];
        for (at, len) in lengths.iter().enumerate() {
            let number = (2 * at + 1) as u16;
            builder
                .push(number, &blob(at as u64, *len), &digest)
                .unwrap();
        }
        let entries = builder.entries().to_vec();
        let apart = (!builder.is_small()).then(|| blob(u64::MAX, entries.len() as u64));
        (builder.finish(UploadId(9), apart), entries)
    }

    #[test]
    fn a_table_says_where_each_part_is() {
        let (parts, entries) = table(Some(ChecksumAlgorithm::Sha256), &[10, 0, 5]);
        assert!(matches!(parts.table, PartTable::Here(_)));
        let decoded = parts.decode_chunk(0, &entries).unwrap();
        let shown: Vec<_> = decoded
            .iter()
            .map(|p| (p.number, p.range.clone()))
            .collect();
        assert_eq!(shown, [(1, 0..10), (3, 10..10), (5, 10..15)]);
        assert_eq!(decoded[2].blob, blob(2, 5));
        assert_eq!(decoded[2].digest, [7; 32]);
        assert_eq!(parts.size().unwrap(), 15);
        assert_eq!(parts.anchor().unwrap(), blob(0, 10));
        assert_eq!(PartsRef::decode(&parts.encode().unwrap()).unwrap(), parts);
    }

    #[test]
    fn a_large_table_is_found_by_chunks() {
        let lengths: Vec<u64> = (0..2_500).map(|at| at % 7).collect();
        let (parts, entries) = table(None, &lengths);
        assert_eq!(PartsRef::decode(&parts.encode().unwrap()).unwrap(), parts);
        assert_eq!(parts.chunks(), 3);
        assert_eq!(parts.size().unwrap(), lengths.iter().sum::<u64>());
        let mut all = Vec::new();
        for chunk in 0..parts.chunks() {
            let bytes = parts.chunk_bytes(chunk);
            let bytes = &entries[bytes.start as usize..bytes.end as usize];
            all.extend(parts.decode_chunk(chunk, bytes).unwrap());
        }
        let found: Vec<u64> = all.iter().map(|p| p.range.end - p.range.start).collect();
        assert_eq!(found, lengths);
        for (at, part) in all.iter().enumerate().filter(|(_, p)| !p.range.is_empty()) {
            let chunk = parts.chunk_at(part.range.start);
            assert_eq!(chunk, at / CHUNK_ENTRIES, "byte {}", part.range.start);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let mut random = Random::new(5);
        let (parts, _) = table(Some(ChecksumAlgorithm::Crc32), &[1, 2, 3]);
        let good = parts.encode().unwrap();
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
            bytes.truncate(random.below(good.len() + 1));
            if let Ok(parts) = PartsRef::decode(&bytes) {
                let _ = (parts.anchor(), parts.size());
            }
        }
        for cut in 0..good.len() {
            assert!(PartsRef::decode(&good[..cut]).is_err(), "cut at {cut}");
        }
    }
}
