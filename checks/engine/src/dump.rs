//! What stands on an image, for people who look at a failure. Reads the format by itself,
//! as `docs/format.md` describes it, so that a bug of the engine's decoder does not hide.

use shardstore::limits::{EXTENTS_START, FRAME_ALIGN, SUPERBLOCK_OFFSETS};
use simdisk::Image;

/// One line for each superblock copy and for every frame that stands where it says.
pub fn frames(image: &Image, extent_bytes: u32) -> Vec<String> {
    let mut lines = Vec::new();
    for offset in SUPERBLOCK_OFFSETS {
        let bytes = image.read(offset, 128);
        lines.push(format!(
            "superblock at {offset}: generation {} checkpoint lsn {}",
            u64_at(&bytes, 72),
            u64_at(&bytes, 80)
        ));
    }
    for page in image.present_pages() {
        let start = page as u64 * 4096;
        if start < EXTENTS_START {
            continue;
        }
        for offset in (start..start + 4096).step_by(FRAME_ALIGN) {
            let bytes = image.read(offset, 96);
            if bytes.starts_with(b"CLTf") {
                lines.extend(describe(&bytes, offset, extent_bytes));
            }
        }
    }
    lines
}

/// A frame that stands where it says, by its header alone.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Byte offset on the disk.
    pub start: u64,
    /// Bytes of header and body.
    pub head_len: u64,
    /// Bytes of all of it.
    pub len: u64,
    /// What it is: 1 batch, 2 moved entries, 3 table chunk, 4 manifest part.
    pub kind: u8,
    /// Its number in the log.
    pub lsn: u64,
    /// Up to where the log was durable when it was written.
    pub durable: u64,
}

/// Every frame on an image, and what in payloads looks like one.
pub fn parse(image: &Image, extent_bytes: u32) -> Vec<Frame> {
    let data = image
        .present_pages()
        .into_iter()
        .map(|page| page as u64 * 4096);
    data.filter(|start| *start >= EXTENTS_START)
        .flat_map(|start| (start..start + 4096).step_by(FRAME_ALIGN))
        .filter_map(|start| {
            let bytes = image.read(start, 96);
            let is_frame = bytes.starts_with(b"CLTf");
            let is_here = is_frame && describe(&bytes, start, extent_bytes).is_some();
            is_here.then(|| {
                let head_len = 96 + u64::from(u32_at(&bytes, 56));
                Frame {
                    start,
                    head_len,
                    len: head_len + u64::from(u32_at(&bytes, 60)),
                    kind: bytes[5],
                    lsn: u64_at(&bytes, 16),
                    durable: u64_at(&bytes, 32),
                }
            })
        })
        .collect()
}

/// The checkpoint's lsn, by the newer of two whole copies of the superblock.
pub fn checkpoint_lsn(image: &Image) -> u64 {
    let copies = SUPERBLOCK_OFFSETS.map(|offset| image.read(offset, 128));
    let newest = copies.iter().max_by_key(|bytes| u64_at(bytes, 72));
    newest.map_or(0, |bytes| u64_at(bytes, 80))
}

fn describe(bytes: &[u8], offset: u64, extent_bytes: u32) -> Option<String> {
    let extent = (offset - EXTENTS_START) / u64::from(extent_bytes);
    let within = (offset - EXTENTS_START) % u64::from(extent_bytes);
    let here = u64::from(u32_at(bytes, 40)) == extent && u64::from(u32_at(bytes, 44)) == within;
    here.then(|| {
        format!(
            "{offset} = {extent}:{within} kind {} stream {} lsn {} generation {} durable {} epoch {} \
             after {} body {} payload {} entries {}",
            bytes[5],
            bytes[6],
            u64_at(bytes, 16),
            u64_at(bytes, 24),
            u64_at(bytes, 32),
            u32_at(bytes, 48),
            u32_at(bytes, 52),
            u32_at(bytes, 56),
            u32_at(bytes, 60),
            u32_at(bytes, 64),
        )
    })
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
