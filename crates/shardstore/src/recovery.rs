//! Opening a disk: the newest checkpoint, then the tail of the log behind it.
//!
//! `B` is the checkpoint's lsn, `M` the highest durable mark that any frame or the superblock
//! carries. Every lsn in `(B, M]` was durable, so its frame must be there: a missing one is
//! damage, and the disk is not opened. A frame above `M` that does not hold was never
//! acknowledged: it is torn, and dropped.
//!
//! All of it is read past the page cache: after a failed flush the cache may show what never
//! reached the medium.
//!
//! Recovery writes a superblock with a new generation, and ends with a checkpoint unless the
//! tail carried no entries; both are durable before anything is served. Until then it changes
//! nothing that the old superblock refers to, so it can be cut off and repeated at any point.

use std::collections::BTreeMap;

use crate::batch::Key;
use crate::cache::BlockCache;
use crate::checksum::filter_hash;
use crate::disk::{Disk, Read};
use crate::error::{Error, Place, Result};
use crate::extents::{Extents, State};
use crate::frame::{FrameRef, HEADER_BYTES, Header, Kind, Stream, decode_entries};
use crate::limits::{EXTENTS_MIN, LOOKAHEAD_BYTES};
use crate::medium::Medium;
use crate::memtable::{Memtable, SnapshotRegistry};
use crate::mutants::{self, Mutant};
use crate::pump::{move_applies, record_of};
use crate::store::{Counters, Index, Log, Options, Plan, Queue, Shared, Store};
use crate::superblock::{Copies, Superblock};
use crate::sync::atomic::AtomicBool;
use crate::sync::{Arc, Condvar, Mutex, RwLock, lock};
use crate::table::TableReader;
use crate::version::{Manifest, Version};
use crate::walk::{Walk, Walked};

/// Free extents in a row without a frame after which no later one can have one: each stream
/// may have opened one and written nothing durable.
const MISSES_MAX: usize = Stream::COUNT + 1;

/// The frames of one extent's tail, in order.
struct TailChain {
    extent: u32,
    is_new: bool,
    frames: Vec<Header>,
}

/// What the scan of the tail found.
#[derive(Default)]
struct Tail {
    chains: Vec<TailChain>,
    durable: u64,
    /// Where the first thing that is no frame stands, per extent.
    stops: Vec<Place>,
    /// Pages behind the end of a chain that cannot be read, one for each extent. Most likely
    /// nothing stood there; but what did would say whether anything before it is missing.
    unreadable: Vec<Place>,
}

pub(crate) fn open(disk: Arc<dyn Disk>, options: Options) -> Result<Store> {
    let Copies {
        newest: superblock,
        order,
        is_sure,
    } = Superblock::load_copies(&*disk)?;
    superblock.refuse_to_write()?;
    let medium = Medium::new(disk, superblock.identity, superblock.geometry);
    let (mut manifest, manifest_lsn) = load_manifest(&medium, &superblock)?;
    let bytes = options.capacity_bytes(&*medium.disk);
    let capacity = medium.extents_below(bytes);
    if capacity < EXTENTS_MIN {
        let least = medium.offset_of(EXTENTS_MIN, 0);
        let what = format!("the disk has {bytes} bytes and needs at least {least}");
        return Err(Error::Geometry { what });
    }
    // A limit that was lowered since must not hide what was written beyond it.
    manifest.extents.set_capacity(medium.geometry.extents_max());
    if !is_sure {
        check_newest(&medium, &manifest.extents)?;
    }
    let known = superblock.checkpoint_lsn.max(manifest_lsn);
    let (mut tail, mut dropped) = read_tail(&medium, &manifest.extents, superblock.floor, known)?;
    if dropped {
        // Before anything is dropped the marks are looked for once more: a read that went astray
        // may have hidden the frame that speaks for it.
        let known = tail.durable;
        (tail, dropped) = read_tail(&medium, &manifest.extents, superblock.floor, known)?;
    }
    check_complete(&tail, &superblock)?;
    let memtable = Memtable::default();
    let last_lsn = replay(&medium, &manifest, &tail, &memtable)?;
    adopt(&mut manifest.extents, &tail);
    let has = medium.extents_below(medium.disk.capacity());
    manifest.extents.open_within(capacity, has);
    let needs_checkpoint = dropped || !memtable.is_empty() || has_holes(&tail, &superblock);
    let state = (superblock, manifest, memtable, last_lsn.max(tail.durable));
    let store = assemble(medium, options, state, (tail.durable, order))?;
    if needs_checkpoint && !mutants::on(Mutant::M6) {
        lock(&store.plan).dirty = true;
        store.checkpoint()?;
    }
    let mut log = lock(&store.log);
    log.mark_is_held = false;
    log.durable_lsn = log.next_lsn - 1;
    drop(log);
    for place in tail.unreadable {
        let what = "behind the end of the log a page cannot be read: should the disk have lost a \
                    write before it, this page alone would say so";
        store.report_damage(&Error::Corrupt {
            place,
            what: what.to_owned(),
        });
    }
    Ok(store)
}

/// The manifest that the superblock names, and the lsn of its last frame.
pub(crate) fn load_manifest(medium: &Medium, superblock: &Superblock) -> Result<(Manifest, u64)> {
    let extent_bytes = medium.geometry.extent_bytes;
    if superblock.roots.is_empty() {
        let extents = Extents::new(extent_bytes, 0);
        return Ok((
            Manifest {
                lsn: 0,
                extents,
                version: Version::default(),
            },
            0,
        ));
    }
    let mut bytes = Vec::new();
    let mut lsn = 0;
    for root in &superblock.roots {
        let (header, payload) = read_root(medium, root)?;
        lsn = lsn.max(header.lsn);
        bytes.extend_from_slice(&payload);
    }
    let manifest = Manifest::decode(&bytes, extent_bytes)
        .filter(|manifest| manifest.lsn == superblock.checkpoint_lsn)
        .ok_or_else(|| Error::Damaged {
            what: "the manifest cannot be decoded".to_owned(),
        })?;
    Ok((manifest, lsn))
}

fn read_root(medium: &Medium, root: &FrameRef) -> Result<(Header, Vec<u8>)> {
    let damaged = |error: Error| match error {
        Error::Corrupt { place, what } => Error::Damaged {
            what: format!("the manifest in {place}: {what}"),
        },
        other => other,
    };
    let (header, _) = medium.read_head(root, Read::PastCache).map_err(damaged)?;
    if header.kind != Kind::Manifest || root.payload_len == 0 {
        return Err(Error::Damaged {
            what: "the superblock names no manifest".to_owned(),
        });
    }
    let all = 0..root.payload_len;
    let payload = medium
        .read_frame_payload(root, all, Read::PastCache)
        .map_err(damaged)?;
    Ok((header, payload))
}

/// The tail without what is torn, and whether anything was. What is `known` to be durable never
/// is.
fn read_tail(medium: &Medium, extents: &Extents, floor: u64, known: u64) -> Result<(Tail, bool)> {
    let mut tail = scan_tail(medium, extents, floor)?;
    tail.durable = tail.durable.max(known);
    let dropped = cut_torn(medium, &mut tail)?;
    Ok((tail, dropped))
}

/// Reads the headers of everything behind the checkpoint.
fn scan_tail(medium: &Medium, extents: &Extents, floor: u64) -> Result<Tail> {
    let mut tail = Tail::default();
    for (number, extent) in extents.used().iter().enumerate() {
        if extent.state == State::Open {
            let start = (number as u32, extent.epoch, extent.end);
            scan_extent(medium, start, (extent.last_lsn, floor), false, &mut tail)?;
        }
    }
    // The recycled extents are opened in their order, then those never used. Only while the
    // checkpoint was being written could the latter be opened before some of the former: the
    // ones that it reset itself, which it lists last. So what was opened is the beginning of
    // the one list and the beginning of the other.
    let used = extents.used().len() as u32;
    let (mut misses, mut virgin) = (0, false);
    for (number, epoch) in extents.free_in_order() {
        if number >= used && !virgin {
            (misses, virgin) = (0, true);
        }
        if misses == MISSES_MAX {
            match virgin {
                true => break,
                false => continue,
            }
        }
        let found = scan_extent(medium, (number, epoch, 0), (0, floor), true, &mut tail)?;
        misses = if found { 0 } else { misses + 1 };
    }
    Ok(tail)
}

fn scan_extent(
    medium: &Medium,
    (extent, epoch, end): (u32, u32, u32),
    (last_lsn, floor): (u64, u64),
    is_new: bool,
    tail: &mut Tail,
) -> Result<bool> {
    let mut walk = Walk::resume(medium, (extent, epoch, end), last_lsn, floor);
    let mut frames = Vec::new();
    let mut chain_end = end;
    let mut is_sure = false;
    loop {
        match walk.step()? {
            Walked::Frame { header, .. } => {
                tail.durable = tail.durable.max(header.durable);
                chain_end = walk.end();
                frames.push(header);
                is_sure = false;
            }
            // Read again before it is believed: a read that went astray must not cost the newest
            // group, for which no later frame speaks.
            Walked::End | Walked::BadBody if !is_sure => {
                walk.retry();
                is_sure = true;
            }
            Walked::End | Walked::BadBody => break,
        }
    }
    tail.stops.push(Place {
        extent,
        offset: chain_end,
    });
    let has_frames = !frames.is_empty();
    let behind = (extent, epoch, chain_end);
    let mut seen_ahead = look_ahead(medium, behind, tail)?;
    if seen_ahead || has_frames || !is_new {
        // And again, before the end of the chain is believed: if a group is missing here, only
        // what stands behind it says so, and a read that went astray may show anything instead.
        seen_ahead |= look_ahead(medium, behind, tail)?;
    }
    let found = has_frames || seen_ahead;
    if has_frames || !is_new {
        tail.chains.push(TailChain {
            extent,
            is_new,
            frames,
        });
    }
    Ok(found)
}

/// Whatever stands behind the end of a chain says at least what was durable when it was written.
/// Whether anything does.
fn look_ahead(
    medium: &Medium,
    (extent, epoch, end): (u32, u32, u32),
    tail: &mut Tail,
) -> Result<bool> {
    let limit = end
        .saturating_add(LOOKAHEAD_BYTES)
        .min(medium.geometry.extent_bytes);
    let mut ahead = Walk::resume(medium, (extent, epoch, end), 0, 0);
    let mut next = match ahead.header_behind(end)? {
        Some(header) => Some(header),
        None => ahead.resync(limit, false)?,
    };
    let is_any = next.is_some();
    while let Some(header) = next {
        tail.durable = tail.durable.max(header.durable);
        ahead.skip_to(header.offset);
        next = ahead.resync(limit, false)?;
    }
    if let Some(offset) = ahead.stepped_over() {
        let place = Place { extent, offset };
        if !tail.unreadable.contains(&place) {
            tail.unreadable.push(place);
        }
    }
    Ok(is_any)
}

/// Drops frames above the durable mark whose payload does not hold, and what follows them in
/// their extent. Whether anything was dropped.
fn cut_torn(medium: &Medium, tail: &mut Tail) -> Result<bool> {
    let mut dropped = false;
    for chain in &mut tail.chains {
        let mut keep = chain.frames.len();
        for (position, header) in chain.frames.iter().enumerate() {
            if header.lsn <= tail.durable || header.payload_len == 0 {
                continue;
            }
            let all = 0..header.payload_len;
            match medium.read_frame_payload(&header.frame_ref(), all, Read::PastCache) {
                Ok(_) => {}
                Err(Error::Corrupt { .. }) => {
                    keep = position;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        dropped |= keep < chain.frames.len();
        chain.frames.truncate(keep);
    }
    Ok(dropped)
}

/// Without one copy of the superblock the other may be an old one, whose last write went
/// elsewhere. Frames that follow what it knows are looked for anyway; but a checkpoint that it
/// does not know may have freed extents, and each that was opened since begins with a frame of a
/// later epoch.
fn check_newest(medium: &Medium, extents: &Extents) -> Result<()> {
    let mut bytes = [0; HEADER_BYTES];
    for (number, extent) in (0..).zip(extents.used()) {
        let place = Place {
            extent: number,
            offset: 0,
        };
        medium.read(place, &mut bytes, Read::PastCache)?;
        let header = Header::decode(&bytes, &medium.identity.disk, &medium.checksummer);
        let is_later = |header: Header| {
            header.epoch > extent.epoch && header.is_at(place, header.epoch, &medium.geometry)
        };
        if header.is_some_and(is_later) {
            let what = format!(
                "one copy of the superblock is unreadable or corrupt, and the other is older than what \
                 extent {number} holds"
            );
            return Err(Error::Damaged { what });
        }
    }
    Ok(())
}

/// Every frame that was durable must be there.
fn check_complete(tail: &Tail, superblock: &Superblock) -> Result<()> {
    let frames = || tail.chains.iter().flat_map(|chain| &chain.frames);
    if let Some(newer) = frames().find(|frame| frame.generation > superblock.generation) {
        let what = format!(
            "the log has frames of generation {}, but the newest valid superblock has {}",
            newer.generation, superblock.generation
        );
        return Err(Error::Damaged { what });
    }
    let mut lsns: Vec<u64> = frames().map(|frame| frame.lsn).collect();
    lsns.sort_unstable();
    let mut expected = superblock.checkpoint_lsn + 1;
    for lsn in lsns.into_iter().take_while(|lsn| *lsn <= tail.durable) {
        if lsn != expected {
            break;
        }
        expected += 1;
    }
    if expected <= tail.durable {
        let stops: Vec<String> = tail.stops.iter().take(8).map(Place::to_string).collect();
        let what = format!(
            "frame {expected} of the log was durable (up to {}) and is missing or corrupt; \
             the log was readable up to {}",
            tail.durable,
            stops.join(", ")
        );
        return Err(Error::Damaged { what });
    }
    Ok(())
}

/// Whether frames above the durable mark are missing between others: the next recovery could
/// not tell them from lost ones, so a checkpoint must cover them.
fn has_holes(tail: &Tail, superblock: &Superblock) -> bool {
    let lsns = || {
        tail.chains
            .iter()
            .flat_map(|chain| &chain.frames)
            .map(|frame| frame.lsn)
    };
    let above = lsns()
        .filter(|lsn| *lsn > superblock.checkpoint_lsn)
        .count() as u64;
    lsns()
        .max()
        .is_some_and(|last| last - superblock.checkpoint_lsn != above)
}

/// Puts the tail's entries into a memtable, in lsn order; returns the last lsn.
fn replay(medium: &Medium, manifest: &Manifest, tail: &Tail, memtable: &Memtable) -> Result<u64> {
    let snapshots = SnapshotRegistry::default();
    let cache = BlockCache::new(1024 * 1024);
    let reader = TableReader {
        medium,
        cache: &cache,
        how: Read::Blocking,
        fill: true,
    };
    let frames: BTreeMap<u64, &Header> = tail
        .chains
        .iter()
        .flat_map(|chain| &chain.frames)
        .map(|header| (header.lsn, header))
        .collect();
    for (lsn, header) in &frames {
        if !matches!(header.kind, Kind::Batch | Kind::Moved) {
            continue;
        }
        let frame = header.frame_ref();
        let (_, body) = medium.read_head(&frame, Read::PastCache)?;
        let entries = decode_entries(header, &body).ok_or_else(|| Error::Damaged {
            what: format!("the batch in {} cannot be decoded", frame.place()),
        })?;
        for (index, entry) in entries.into_iter().enumerate() {
            if index > 0 && header.kind == Kind::Batch && mutants::on(Mutant::M26) {
                break;
            }
            if header.kind == Kind::Moved {
                let now = current(&entry.key, memtable, &manifest.version, &reader)?;
                if !move_applies(now.as_ref(), entry.seq) {
                    continue;
                }
            }
            let record = record_of(&entry, &frame, *lsn);
            memtable.insert(entry.key.as_bytes(), *lsn, record, &snapshots);
        }
    }
    Ok(frames
        .keys()
        .next_back()
        .copied()
        .unwrap_or(0)
        .max(manifest.lsn))
}

fn current(
    key: &Key,
    memtable: &Memtable,
    version: &Version,
    reader: &TableReader<'_>,
) -> Result<Option<crate::record::Record>> {
    match memtable.get(key.as_bytes(), u64::MAX) {
        Some(record) => Ok(Some(record)),
        None => version.get(key.as_bytes(), filter_hash(key.stem()), None, reader),
    }
}

/// Brings the extent table up to the end of the tail.
fn adopt(extents: &mut Extents, tail: &Tail) {
    let mut chains: Vec<&TailChain> = tail
        .chains
        .iter()
        .filter(|chain| !chain.frames.is_empty())
        .collect();
    chains.sort_by_key(|chain| chain.frames[0].lsn);
    for chain in chains {
        let first = &chain.frames[0];
        if chain.is_new {
            extents.open_given(chain.extent, first.stream, first.lsn);
        }
        let last = &chain.frames[chain.frames.len() - 1];
        let entry = extents.get_mut(chain.extent);
        entry.end = last.offset + last.len() as u32;
        entry.last_lsn = last.lsn;
    }
}

/// Builds the store, under a new generation that is durable.
fn assemble(
    medium: Medium,
    options: Options,
    (superblock, manifest, memtable, last_lsn): (Superblock, Manifest, Memtable, u64),
    (durable_lsn, order): (u64, [u64; 2]),
) -> Result<Store> {
    let superblock = Superblock {
        generation: superblock.generation + 1,
        runs: superblock.runs + 1,
        written_at_ms: (options.clock)(),
        ..superblock
    };
    superblock.store(&*medium.disk, order)?;
    let (epoch, generation) = (superblock.runs, superblock.generation);
    let log = Log {
        extents: manifest.extents,
        next_lsn: last_lsn + 1,
        durable_lsn,
        mark_is_held: true,
        superblock,
        tail_bytes: 0,
        deletes_wait_since: None,
        deletes_since_checkpoint: false,
        failure: None,
        closed: false,
    };
    let index = Index {
        active: Arc::new(memtable),
        frozen: Vec::new(),
        version: Arc::new(manifest.version),
        applied_lsn: last_lsn,
    };
    let cache = BlockCache::new(options.cache_bytes);
    let shared = Shared {
        medium,
        cache,
        snapshots: SnapshotRegistry::default(),
    };
    Ok(Store {
        options: options.clamped_to(&shared.medium.geometry),
        shared: Arc::new(shared),
        epoch,
        generation,
        maintenance: Mutex::new(()),
        plan: Mutex::new(Plan::default()),
        pump_turn: Mutex::new(()),
        queue: Mutex::new(Queue::default()),
        committing: Mutex::new(Vec::new()),
        queue_signal: Condvar::new(),
        waiting_signal: Condvar::new(),
        preparing: Mutex::new(()),
        log: Mutex::new(log),
        index: RwLock::new(index),
        counters: Counters::default(),
        pumped: AtomicBool::new(false),
        checkpoint_failure: Mutex::new(None),
        damage: Mutex::new(Default::default()),
        damaged_extents: Mutex::new(Default::default()),
    })
}
