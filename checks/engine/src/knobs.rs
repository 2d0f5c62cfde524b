//! The sizes of a case. Small ones find more: a cache that holds everything hides every bug
//! behind it.

use std::cell::Cell;

use shardstore::limits::{EXTENTS_MIN, EXTENTS_START};
use shardstore::{Geometry, Options};
use simdisk::{Image, Rng};

/// Extents of the largest disk.
const EXTENTS_MOST: u32 = 20;

/// Every size that a case draws.
#[derive(Debug, Clone)]
pub struct Knobs {
    /// What the disk is formatted with.
    pub geometry: Geometry,
    /// How many extents it has.
    pub extents: u32,
    /// What a crash keeps or loses as one.
    pub sector_bytes: usize,
    /// What the store is first opened with.
    pub options: Options,
    /// One in so many writes and flushes is tried as a crash (C4); 0: none.
    pub probe_one_in: u64,
}

impl Knobs {
    /// Draws the sizes.
    pub fn generate(rng: &mut Rng) -> Knobs {
        let geometry = draw_geometry(rng);
        Knobs {
            geometry,
            extents: rng.between(u64::from(EXTENTS_MIN), u64::from(EXTENTS_MOST)) as u32,
            sector_bytes: *rng.pick(&[512, 4096]),
            options: draw_options(rng, &geometry),
            probe_one_in: 0,
        }
    }

    /// A blank medium of this size.
    pub fn blank(&self) -> Image {
        let data = u64::from(self.extents) * u64::from(self.geometry.extent_bytes);
        Image::blank(shardstore::limits::EXTENTS_START + data, self.sector_bytes)
    }

    /// In one line.
    pub fn describe(&self) -> String {
        let options = &self.options;
        format!(
            "{} extents of {} KiB, payload <= {}, sector {}, memtable {}, cache {}, tail {}, \
             group {}, queue {}, table {}",
            self.extents,
            self.geometry.extent_bytes / 1024,
            self.geometry.payload_bytes_max,
            self.sector_bytes,
            options.memtable_bytes,
            options.cache_bytes,
            options.tail_bytes_max,
            options.group_bytes_max,
            options.queue_bytes_max,
            options.table_bytes,
        )
    }
}

fn draw_geometry(rng: &mut Rng) -> Geometry {
    // The largest is there for payloads of more than one checksum unit.
    let (extent_kib, payload_kib) = *rng.pick(&[
        (64, 16),
        (64, 16),
        (64, 16),
        (64, 16),
        (68, 17),
        (96, 16),
        (128, 32),
        (320, 68),
    ]);
    let (extent_bytes, payload_bytes_max) = (extent_kib * 1024, payload_kib * 1024);
    Geometry {
        extent_bytes,
        payload_bytes_max,
    }
}

/// Draws what may change at every open.
pub fn draw_options(rng: &mut Rng, geometry: &Geometry) -> Options {
    let extent = geometry.extent_bytes as usize;
    Options {
        capacity_bytes: draw_limit(rng, geometry),
        memtable_bytes: *rng.pick(&[512, 2048, 8192, 65536]),
        cache_bytes: *rng.pick(&[0, 4096, 8192, 16384, 1 << 20]),
        tail_bytes_max: *rng.pick(&[extent as u64 / 2, extent as u64, 4 * extent as u64]),
        group_bytes_max: *rng.pick(&[4096, 16384, extent / 2, extent]),
        queue_bytes_max: *rng.pick(&[1 << 16, 1 << 18, 1 << 20, 1 << 20]),
        table_bytes: *rng.pick(&[1024, 4096, 16384]),
        clock,
        ..Options::default()
    }
}

/// Now and then a limit, which may be lower than what is in use or higher than the disk.
fn draw_limit(rng: &mut Rng, geometry: &Geometry) -> Option<u64> {
    if !rng.one_in(4) {
        return None;
    }
    let extents = rng.between(u64::from(EXTENTS_MIN), u64::from(EXTENTS_MOST) + 1);
    Some(EXTENTS_START + extents * u64::from(geometry.extent_bytes))
}

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(0) };
}

/// The wall clock of the simulation. It stands still until it is set; every case has its own,
/// because a case is run by one thread.
fn clock() -> u64 {
    NOW_MS.get()
}

/// Sets the wall clock of the case that this thread runs.
pub fn set_clock(now_ms: u64) {
    NOW_MS.set(now_ms);
}
