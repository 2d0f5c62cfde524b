//! From a data directory to objects: disk, store, engine, volume.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use objects::{Objects, ObjectsOptions};
use shardstore::file_disk::FileDisk;
use shardstore::limits::{EXTENTS_START, PAGE};
use shardstore::{Disk, Engine, Error, Geometry, Identity, Options, Read, Store};
use volume::{Volume, VolumeOptions};

use crate::ByteSize;
use crate::limits::IO_THREADS;
use crate::memory::{MemorySplit, as_usize};
use crate::random;

/// Opens the disk in a directory.
pub type OpenDisk = dyn Fn(&Path) -> anyhow::Result<Arc<dyn Disk>>;

/// What the server runs on.
pub(crate) struct Storage {
    pub(crate) engine: Engine,
    pub(crate) objects: Objects,
}

/// Files and block devices: what `cullet server` runs on.
///
/// # Errors
/// A sentence that says why the directory cannot be used.
pub(crate) fn open_file_disk(path: &Path) -> anyhow::Result<Arc<dyn Disk>> {
    Ok(Arc::new(FileDisk::open(path, true)?))
}

/// The set that a disk belongs to, and whether it is a new one, which formatting will give it.
/// Nothing is written.
pub(crate) fn set_of(path: &Path, disk: &dyn Disk) -> anyhow::Result<([u8; 16], bool)> {
    match Store::identity_of(disk) {
        Ok(identity) => Ok((identity.set, false)),
        Err(Error::NotFormatted) => Ok((random_id()?, true)),
        Err(error) => {
            Err(error).with_context(|| format!("cannot open the disk {}", path.display()))
        }
    }
}

/// Opens everything above a disk, formatting the disk as one of `set` if it is new.
pub(crate) fn open(
    path: &Path,
    disk: Arc<dyn Disk>,
    set: [u8; 16],
    capacity: Option<ByteSize>,
    region: &str,
    memory: &MemorySplit,
) -> anyhow::Result<Storage> {
    let options = Options {
        capacity_bytes: capacity.map(|size| size.0),
        memtable_bytes: as_usize(memory.memtable),
        cache_bytes: as_usize(memory.cache),
        group_bytes_max: as_usize(memory.group),
        queue_bytes_max: as_usize(memory.queue),
        waiting_bytes_max: as_usize(memory.waiting),
        table_bytes: as_usize(memory.table),
        ..Options::default()
    };
    let store = open_store(disk, set, options)
        .with_context(|| format!("cannot open the disk {}", path.display()))?;
    for damage in store.damage() {
        tracing::error!(disk = %path.display(), "{damage}");
    }
    let engine = Engine::start(store, IO_THREADS).context("cannot start the engine")?;
    let volume_options = VolumeOptions {
        in_flight_bytes_max: as_usize(memory.in_flight),
        ..VolumeOptions::default()
    };
    let volume = Volume::with_options(vec![engine.clone()], volume_options)
        .context("cannot open the set of disks")?;
    let objects_options = ObjectsOptions {
        region: region.to_owned(),
        ..Default::default()
    };
    let objects = Objects::open(volume, objects_options).context("cannot open the objects")?;
    Ok(Storage { engine, objects })
}

fn open_store(disk: Arc<dyn Disk>, set: [u8; 16], options: Options) -> anyhow::Result<Store> {
    match Store::open(disk.clone(), options.clone()) {
        Err(Error::NotFormatted) => {
            anyhow::ensure!(
                is_blank(disk.as_ref())?,
                "no cullet superblock, but the disk is not empty; `cullet rescue list` reads what \
                 is left of a damaged disk; to begin anew, empty it first"
            );
            let identity = Identity {
                disk: random_id()?,
                set,
            };
            let limit = options.capacity_bytes.unwrap_or(u64::MAX);
            let geometry = Geometry::for_capacity(disk.capacity().min(limit));
            Store::format(disk.as_ref(), identity, geometry)?;
            Ok(Store::open(disk, options)?)
        }
        opened => Ok(opened?),
    }
}

/// Whether nothing was ever written where a store begins: formatting must not make a damaged
/// disk an empty one. Looks at all of the superblock's area, and at where extents begin.
fn is_blank(disk: &dyn Disk) -> anyhow::Result<bool> {
    let is_zero = |offset: u64, bytes: &mut [u8]| -> anyhow::Result<bool> {
        disk.read(offset, bytes, Read::Blocking)?;
        Ok(bytes.iter().all(|&byte| byte == 0))
    };
    let head_bytes = usize::try_from(EXTENTS_START).context("the superblock's area is huge")?;
    if !is_zero(0, &mut vec![0; head_bytes])? {
        return Ok(false);
    }
    let mut page = [0; PAGE];
    let end = disk
        .capacity()
        .min(EXTENTS_START + BLANK_EXTENTS * EXTENT_STEP);
    let mut offset = EXTENTS_START;
    while offset < end {
        if !is_zero(offset, &mut page)? {
            return Ok(false);
        }
        offset += EXTENT_STEP;
    }
    Ok(true)
}

/// Extents begin at multiples of this behind the superblock's area, whatever their size.
const EXTENT_STEP: u64 = 1024 * 1024;

/// How many such places are looked at. The first extent is the first to be written.
const BLANK_EXTENTS: u64 = 256;

/// A random (version 4) UUID.
fn random_id() -> anyhow::Result<[u8; 16]> {
    let mut id = [0; 16];
    random::fill(&mut id)?;
    id[6] = (id[6] & 0x0F) | 0x40;
    id[8] = (id[8] & 0x3F) | 0x80;
    Ok(id)
}
