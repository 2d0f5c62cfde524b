//! A sparse range of bytes in pages that are shared until written.

use std::sync::Arc;

/// Bytes of one page of the simulation: what the engine relies on being written as one.
pub const PAGE: usize = 4096;

type Page = [u8; PAGE];

const ZEROS: Page = [0; PAGE];

/// Sparse bytes. Clones share their pages. Invariant: what was never written is `None` and
/// reads as zeros.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pages: Vec<Option<Arc<Page>>>,
}

impl Pages {
    pub(crate) fn zeroed(bytes: u64) -> Pages {
        Pages {
            pages: vec![None; (bytes as usize).div_ceil(PAGE)],
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.pages.len() * PAGE) as u64
    }

    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) {
        for (page, within, part) in pieces(offset, buf.len()) {
            let into = &mut buf[part];
            match self.pages.get(page).and_then(Option::as_deref) {
                Some(bytes) => into.copy_from_slice(&bytes[within..within + into.len()]),
                None => into.fill(0),
            }
        }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (page, within, part) in pieces(offset, bytes.len()) {
            let from = &bytes[part];
            let slot = &mut self.pages[page];
            if slot.is_none() && *from == ZEROS[..from.len()] {
                continue;
            }
            let shared = slot.get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(shared)[within..within + from.len()].copy_from_slice(from);
        }
    }

    /// Takes a page over from another range, sharing it.
    pub(crate) fn adopt(&mut self, other: &Pages, page: usize) {
        self.pages[page] = other.pages[page].clone();
    }

    pub(crate) fn is_present(&self, page: usize) -> bool {
        self.pages[page].is_some()
    }

    /// The numbers of the pages that hold anything.
    pub(crate) fn present(&self) -> impl Iterator<Item = usize> + '_ {
        self.pages
            .iter()
            .enumerate()
            .filter(|(_, page)| page.is_some())
            .map(|(index, _)| index)
    }
}

/// Cuts a range of bytes at page boundaries: (page, offset within it, range of the buffer).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset as usize + done;
        let within = at % PAGE;
        let take = (PAGE - within).min(len - done);
        let piece = (at / PAGE, within, done..done + take);
        done += take;
        Some(piece)
    })
}

/// What a medium holds, without the disk around it: the state after a power cut.
#[derive(Debug, Clone)]
pub struct Image {
    pub(crate) pages: Pages,
    pub(crate) sector_bytes: usize,
}

impl Image {
    /// A medium that was never written. `sector_bytes` is what a crash keeps or loses as
    /// one: 512 or 4096.
    pub fn blank(capacity_bytes: u64, sector_bytes: usize) -> Image {
        assert!(
            sector_bytes == 512 || sector_bytes == PAGE,
            "a sector has 512 or 4096 bytes"
        );
        Image {
            pages: Pages::zeroed(capacity_bytes),
            sector_bytes,
        }
    }

    /// Bytes of the medium.
    pub fn capacity(&self) -> u64 {
        self.pages.bytes()
    }

    /// Copies bytes out.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.pages.read(offset, &mut bytes);
        bytes
    }

    /// Changes bytes, as rot or a stray write would.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.pages.write(offset, bytes);
    }

    /// Flips one bit.
    pub fn flip(&mut self, offset: u64, bit: u8) {
        let byte = self.read(offset, 1)[0] ^ (1 << bit);
        self.pages.write(offset, &[byte]);
    }

    /// The numbers of the pages that hold anything but never-written zeros.
    pub fn present_pages(&self) -> Vec<usize> {
        self.pages.present().collect()
    }

    /// A hash of all bytes, for comparing images.
    pub fn digest(&self) -> u64 {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut mix = |word: u64| {
            hash = (hash ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(23);
        };
        for page in self.pages.present() {
            mix(page as u64);
            let bytes = self.read((page * PAGE) as u64, PAGE);
            for word in bytes.chunks_exact(8) {
                mix(u64::from_le_bytes(
                    word.try_into().expect("chunks of eight"),
                ));
            }
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_do_not_see_each_others_writes() {
        let mut one = Pages::zeroed(64 * 1024);
        one.write(4090, b"across pages");
        let mut two = one.clone();
        two.write(4090, b"ACROSS");
        let mut bytes = [0; 12];
        one.read(4090, &mut bytes);
        assert_eq!(&bytes, b"across pages");
        two.read(4090, &mut bytes);
        assert_eq!(&bytes, b"ACROSS pages");
    }

    #[test]
    fn never_written_bytes_are_zeros_and_take_no_page() {
        let mut pages = Pages::zeroed(64 * 1024);
        pages.write(8192, &[0; 100]);
        assert_eq!(pages.present().count(), 0);
        let mut bytes = [1; 8];
        pages.read(8190, &mut bytes);
        assert_eq!(bytes, [0; 8]);
    }

    #[test]
    fn digests_tell_images_apart() {
        let mut image = Image::blank(64 * 1024, 512);
        image.write(100, b"x");
        let before = image.digest();
        image.flip(100, 3);
        assert_ne!(image.digest(), before);
        image.flip(100, 3);
        assert_eq!(image.digest(), before);
    }
}
