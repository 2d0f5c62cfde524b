//! What a power cut leaves: from the medium and the unflushed writes to a new medium.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::pages::{Image, PAGE, Pages};
use crate::rng::Rng;

/// A write that no flush has covered yet.
#[derive(Debug)]
pub(crate) struct PendingWrite {
    /// Later writes have larger ones.
    pub(crate) serial: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// How a power cut treats the unflushed writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Crash {
    /// All are lost.
    LoseAll,
    /// All are kept.
    KeepAll,
    /// A prefix, in the order of writing, is kept.
    Ordered,
    /// Each sector on its own keeps any of its versions.
    Sectors,
    /// As `Sectors`; in addition sectors tear at any byte, and now and then a page that was
    /// being written is left as noise. Whole pages are affected, because the engine relies
    /// on nothing smaller.
    Hostile,
}

impl Crash {
    /// Every mode.
    pub const ALL: [Crash; 5] = [
        Crash::LoseAll,
        Crash::KeepAll,
        Crash::Ordered,
        Crash::Sectors,
        Crash::Hostile,
    ];
}

/// A sector that unflushed writes touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingSector {
    /// The sector's number.
    pub sector: u64,
    /// How many unflushed writes touch it: it may hold any of `0..=versions`.
    pub versions: usize,
}

/// The state of a disk at one moment, from which power cuts are tried without disturbing
/// the disk.
#[derive(Debug, Clone)]
pub struct Frozen {
    pub(crate) medium: Pages,
    pub(crate) pending: Vec<Arc<PendingWrite>>,
    pub(crate) sector_bytes: usize,
}

/// For each sector the unflushed writes that touch it: (index of the write, bytes of it).
type Versions = BTreeMap<u64, Vec<(usize, Range<usize>)>>;

impl Frozen {
    fn versions(&self) -> Versions {
        let mut versions = Versions::new();
        let unit = self.sector_bytes as u64;
        for (index, write) in self.pending.iter().enumerate() {
            let mut at = 0;
            while at < write.bytes.len() {
                let offset = write.offset + at as u64;
                let take = ((unit - offset % unit) as usize).min(write.bytes.len() - at);
                versions
                    .entry(offset / unit)
                    .or_default()
                    .push((index, at..at + take));
                at += take;
            }
        }
        versions
    }

    /// The sectors about which a crash decides, in ascending order.
    pub fn pending_sectors(&self) -> Vec<PendingSector> {
        self.versions()
            .iter()
            .map(|(&sector, touching)| PendingSector {
                sector,
                versions: touching.len(),
            })
            .collect()
    }

    /// The medium if each pending sector keeps the first `keep(sector)` of its versions.
    pub fn image_keeping(&self, mut keep: impl FnMut(PendingSector) -> usize) -> Image {
        let mut pages = self.medium.clone();
        for (&sector, touching) in &self.versions() {
            let kept = keep(PendingSector {
                sector,
                versions: touching.len(),
            });
            for (index, range) in &touching[..kept] {
                let write = &self.pending[*index];
                pages.write(
                    write.offset + range.start as u64,
                    &write.bytes[range.clone()],
                );
            }
        }
        Image {
            pages,
            sector_bytes: self.sector_bytes,
        }
    }

    /// The medium after a power cut, chosen by `rng`.
    pub fn crash(&self, rng: &mut Rng, mode: Crash) -> Image {
        match mode {
            Crash::LoseAll => Image {
                pages: self.medium.clone(),
                sector_bytes: self.sector_bytes,
            },
            Crash::KeepAll => self.prefix(self.pending.len()),
            Crash::Ordered => self.prefix(rng.index(self.pending.len() + 1)),
            Crash::Sectors => {
                // How likely a write is kept varies from crash to crash: a fair coin for each
                // sector would hardly ever keep or lose a long run as a whole.
                let likely = rng.between(1, 7);
                self.image_keeping(|sector| choose(rng, sector.versions, likely))
            }
            Crash::Hostile => {
                let likely = rng.between(1, 7);
                let mut image = self.image_keeping(|sector| choose(rng, sector.versions, likely));
                self.tear(rng, &mut image);
                image
            }
        }
    }

    fn prefix(&self, writes: usize) -> Image {
        let mut pages = self.medium.clone();
        for write in &self.pending[..writes] {
            pages.write(write.offset, &write.bytes);
        }
        Image {
            pages,
            sector_bytes: self.sector_bytes,
        }
    }

    /// Tears inside sectors, and turns pages that were being written into noise.
    fn tear(&self, rng: &mut Rng, image: &mut Image) {
        for (&sector, touching) in &self.versions() {
            if rng.one_in(2) {
                continue;
            }
            let (index, range) = rng.pick(touching);
            let bytes = &self.pending[*index].bytes[range.clone()];
            let (from, to) = torn_range(rng, bytes.len());
            let at = self.pending[*index].offset + (range.start + from) as u64;
            image.pages.write(at, &bytes[from..to]);
            if rng.one_in(16) {
                let page = sector * self.sector_bytes as u64 / PAGE as u64;
                let mut noise = [0; PAGE];
                rng.fill(&mut noise);
                image.pages.write(page * PAGE as u64, &noise);
            }
        }
    }
}

/// Which bytes of a sector a torn write reaches: any range, or, because that is where the
/// headers are and hardware tears at words, its first few words.
fn torn_range(rng: &mut Rng, len: usize) -> (usize, usize) {
    if rng.one_in(2) {
        return (0, (8 * rng.between(1, 16) as usize).min(len));
    }
    let from = rng.index(len);
    (from, from + 1 + rng.index(len - from))
}

fn choose(rng: &mut Rng, versions: usize, likely_of_8: u64) -> usize {
    if rng.below(8) >= likely_of_8 {
        return rng.index(versions);
    }
    versions
}
