//! From data directories to objects: disks, stores, engines, a volume.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use objects::{Objects, ObjectsOptions};
use shardstore::file_disk::{FileDisk, OpenError};
use shardstore::limits::{EXTENTS_START, PAGE};
use shardstore::{Disk, Engine, Error, Geometry, Identity, Options, Read, Store};
use volume::{SetDisk, Volume, VolumeOptions};

use crate::ByteSize;
use crate::background::Background;
use crate::limits::IO_THREADS;
use crate::memory::{MemorySplit, as_usize};
use crate::random;

/// Opens the disk in a directory; the second argument says whether to make one of an empty or
/// missing directory. `None`: there is none.
pub type OpenDisk = dyn Fn(&Path, bool) -> anyhow::Result<Option<Arc<dyn Disk>>> + Send + Sync;

/// What the server runs on.
pub(crate) struct Storage {
    pub(crate) objects: Objects,
    pub(crate) volume: Volume,
    /// The set that the disks belong to.
    pub(crate) set: [u8; 16],
    /// Looks after the disks until all of this goes.
    _keeper: Background,
}

/// Files and block devices: what `cullet server` runs on.
///
/// # Errors
/// A sentence that says why the directory cannot be used.
pub(crate) fn open_file_disk(path: &Path, create: bool) -> anyhow::Result<Option<Arc<dyn Disk>>> {
    match FileDisk::open(path, create) {
        Ok(disk) => Ok(Some(Arc::new(disk))),
        Err(OpenError::Missing { .. }) if !create => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Disks that were found, before anything is written to any.
pub(crate) struct FoundDisks {
    disks: Vec<(PathBuf, Arc<dyn Disk>)>,
    /// Named, and empty, beside others that are not.
    blank: Vec<PathBuf>,
    /// The set that they belong to, or are going to.
    pub(crate) set: [u8; 16],
    /// Whether none of them was in use before.
    pub(crate) is_new: bool,
}

/// Looks at every disk that was named. Empty ones become disks only if none was in use before:
/// beside others an empty directory is most likely one that is not mounted.
///
/// # Errors
/// A sentence that says which path cannot be used. Of several disks, one that cannot be read
/// counts as missing.
pub(crate) fn find(paths: &[PathBuf], open: &OpenDisk) -> anyhow::Result<FoundDisks> {
    let is_only = paths.len() == 1;
    let (mut used, mut blank, mut set) = (Vec::new(), Vec::new(), None);
    for path in paths {
        let cannot_open = || format!("cannot open the disk {}", path.display());
        let disk = match open(path, false) {
            Ok(disk) => disk,
            Err(error) if !is_only && is_unreadable(&error) => {
                tracing::error!("{error:#}: going on without {}", path.display());
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(disk) = disk else {
            blank.push(path.clone());
            continue;
        };
        match Store::identity_of(disk.as_ref()) {
            Ok(identity) => {
                set.get_or_insert(identity.set);
                used.push((path.clone(), disk));
            }
            Err(Error::NotFormatted) => blank.push(path.clone()),
            Err(error) if is_only => return Err(error).with_context(cannot_open),
            Err(error) => {
                tracing::error!("{}: {error}: going on without it", cannot_open());
            }
        }
    }
    if let Some(set) = set {
        return Ok(FoundDisks {
            disks: used,
            blank,
            set,
            is_new: false,
        });
    }
    anyhow::ensure!(
        blank.len() == paths.len(),
        "no disk that was named can be read, and to begin anew all of them have to be empty"
    );
    let mut disks = Vec::new();
    for path in blank {
        let disk = open(&path, true)?;
        let disk = disk.with_context(|| format!("cannot make a disk of {}", path.display()))?;
        disks.push((path, disk));
    }
    Ok(FoundDisks {
        disks,
        blank: Vec::new(),
        set: random_id()?,
        is_new: true,
    })
}

/// Whether the system could not read what is there, as opposed to what should not be named.
fn is_unreadable(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(OpenError::Io { .. }))
}

/// How the set is to be opened.
pub(crate) struct SetOptions {
    /// Most bytes of each disk.
    pub(crate) capacity: Option<ByteSize>,
    /// Parity shards of a new set.
    pub(crate) parity: Option<u8>,
    /// Start without disks that may know better.
    pub(crate) start_degraded: bool,
}

/// How a disk's store is opened.
pub(crate) fn store_options(capacity: Option<ByteSize>, memory: &MemorySplit) -> Options {
    Options {
        capacity_bytes: capacity.map(|size| size.0),
        memtable_bytes: as_usize(memory.memtable),
        cache_bytes: as_usize(memory.cache),
        group_bytes_max: as_usize(memory.group),
        queue_bytes_max: as_usize(memory.queue),
        waiting_bytes_max: as_usize(memory.waiting),
        table_bytes: as_usize(memory.table),
        ..Options::default()
    }
}

/// Opens everything above the disks, formatting them if they are new.
pub(crate) fn open(
    mut found: FoundDisks,
    open_disk: &OpenDisk,
    wanted: &SetOptions,
    region: &str,
    memory: &MemorySplit,
) -> anyhow::Result<Storage> {
    let options = store_options(wanted.capacity, memory);
    let (set, blank) = (found.set, std::mem::take(&mut found.blank));
    // A new set is made of all its disks or not at all.
    let needs_all = found.is_new || found.disks.len() + blank.len() == 1;
    let mut engines = start_engines(found.disks, set, needs_all, &options)?;
    if !blank.is_empty() {
        let unmade = |(_, engine): &(String, Engine)| volume::is_unmade(engine);
        let is_unmade = engines.iter().map(unmade).collect::<Result<Vec<bool>, _>>();
        if is_unmade.context("cannot read the disks")?.contains(&false) {
            for path in &blank {
                let how = match path.exists() {
                    true => "is empty",
                    false => "does not exist",
                };
                tracing::error!(
                    "{} {how}: is it mounted? Going on without it",
                    path.display()
                );
            }
        } else {
            // The start that was to make the set was cut off.
            let mut rest = Vec::new();
            for path in blank {
                let disk = open_disk(&path, true)?;
                let cannot = || format!("cannot make a disk of {}", path.display());
                rest.push((path.clone(), disk.with_context(cannot)?));
            }
            engines.extend(start_engines(rest, set, true, &options)?);
        }
    }
    let volume_options = VolumeOptions {
        in_flight_bytes_max: as_usize(memory.in_flight),
        parity: wanted.parity,
        start_degraded: wanted.start_degraded,
        ..VolumeOptions::default()
    };
    let disks = engines
        .into_iter()
        .map(|(name, engine)| SetDisk { name, engine });
    let volume =
        Volume::open(disks.collect(), volume_options).context("cannot open the set of disks")?;
    for warning in volume.warnings() {
        tracing::error!("{warning}");
    }
    // Before anything is committed, because it is what ends a commit that a disk refuses.
    let keeper = Background::keeper(&volume)?;
    let objects_options = ObjectsOptions {
        region: region.to_owned(),
        ..Default::default()
    };
    let objects =
        Objects::open(volume.clone(), objects_options).context("cannot open the objects")?;
    Ok(Storage {
        objects,
        volume,
        set,
        _keeper: keeper,
    })
}

/// Opens disks and starts their engines. Unless all are needed, one that cannot be opened counts
/// as missing.
fn start_engines(
    disks: Vec<(PathBuf, Arc<dyn Disk>)>,
    set: [u8; 16],
    needs_all: bool,
    options: &Options,
) -> anyhow::Result<Vec<(String, Engine)>> {
    let mut engines = Vec::new();
    for (path, store) in open_stores(disks, set, options) {
        let store = store.with_context(|| format!("cannot open the disk {}", path.display()));
        let store = match store {
            Ok(store) => store,
            Err(error) if needs_all => return Err(error),
            Err(error) => {
                tracing::error!("{error:#}: going on without it");
                continue;
            }
        };
        for damage in store.damage() {
            tracing::error!(disk = %path.display(), "{damage}");
        }
        let engine = Engine::start(store, IO_THREADS).context("cannot start the engine")?;
        engines.push((path.display().to_string(), engine));
    }
    Ok(engines)
}

/// Opens the stores of all disks at the same time: each may have to recover.
fn open_stores(
    disks: Vec<(PathBuf, Arc<dyn Disk>)>,
    set: [u8; 16],
    options: &Options,
) -> Vec<(PathBuf, anyhow::Result<Store>)> {
    std::thread::scope(|scope| {
        let opening: Vec<_> = disks
            .into_iter()
            .map(|(path, disk)| {
                let opening = scope.spawn(move || open_store(disk, set, options.clone()));
                (path, opening)
            })
            .collect();
        let opened = opening.into_iter().map(|(path, opening)| {
            let store = opening.join();
            let panicked = |_| Err(anyhow::anyhow!("recovery ended in a panic"));
            (path, store.unwrap_or_else(panicked))
        });
        opened.collect()
    })
}

pub(crate) fn open_store(
    disk: Arc<dyn Disk>,
    set: [u8; 16],
    options: Options,
) -> anyhow::Result<Store> {
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
