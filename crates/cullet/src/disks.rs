//! What a running server does for `cullet disk`: opens disks that come to the set, finds those
//! that are named, and finds the memory for them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use s3::{MemoryBudget, Reservation};
use serde_json::{Value, json};
use shardstore::file_disk::check_empty;
use shardstore::{Disk, Engine, Error, Options, Store};
use volume::{Added, Change, MemberState, Movement, SetDisk, Volume, VolumeError};

use crate::ByteSize;
use crate::limits::IO_THREADS;
use crate::memory::{MemorySplit, as_usize};
use crate::storage::{OpenDisk, open_store, store_options};

const MIB: u64 = 1024 * 1024;

/// Opens and finds disks for a set that is served.
pub(crate) struct Disks {
    volume: Volume,
    open: Arc<OpenDisk>,
    /// Most bytes of each disk.
    capacity: Option<ByteSize>,
    set: [u8; 16],
    room: Mutex<Room>,
}

/// The memory of the engines.
struct Room {
    /// `--memory`.
    total: ByteSize,
    /// What all engines together may have of their own.
    engines: u64,
    /// What each disk's engine has besides its cache, by the disk's UUID.
    fixed: BTreeMap<[u8; 16], u64>,
    /// Bodies of requests have given these up for engines.
    budgets: [MemoryBudget; 2],
    reserved: Vec<(Reservation, u64)>,
}

/// Something that is asked for cannot be, and why.
pub(crate) type Refusal = anyhow::Error;

impl Disks {
    /// For the disks of `volume`, which were opened with the shares of `memory`; for more,
    /// `budgets` give some of theirs up.
    pub(crate) fn new(
        volume: Volume,
        open: Arc<OpenDisk>,
        capacity: Option<ByteSize>,
        set: [u8; 16],
        (total, memory): (ByteSize, &MemorySplit),
        budgets: [MemoryBudget; 2],
    ) -> Disks {
        let ids = volume.disks();
        let ids = ids.iter().map(|disk| disk.engine.store().identity().disk);
        let room = Room {
            total,
            engines: memory.disks * memory.disk(),
            fixed: ids.map(|id| (id, memory.disk() - memory.cache)).collect(),
            budgets,
            reserved: Vec::new(),
        };
        Disks {
            volume,
            open,
            capacity,
            set,
            room: Mutex::new(room),
        }
    }

    /// Adds the disk at a path, or puts it in the place of another one.
    pub(crate) fn add(
        &self,
        path: &Path,
        instead_of: Option<&str>,
        accept_loss: bool,
    ) -> Result<Value, Refusal> {
        let slot = instead_of.map(|named| self.find(named)).transpose()?;
        // Before a disk that can still be read is let go.
        self.check_usable(path)?;
        let options = self.make_room()?;
        self.close_failed(path);
        let engine = self.open(path, options)?;
        let disk = SetDisk {
            name: path.display().to_string(),
            engine,
        };
        let added = match slot {
            Some(slot) => self.volume.replace_disk(slot, disk, accept_loss)?,
            None => self.volume.add_disk(disk)?,
        };
        let (slot, what) = match added {
            Added::Member(slot) => (Some(slot), "member"),
            Added::Back(slot) => (Some(slot), "back"),
            Added::Second => (None, "second"),
            Added::Successor => (None, "successor"),
        };
        Ok(json!({"added": what, "slot": slot, "path": path.display().to_string()}))
    }

    /// What adding would come to.
    pub(crate) fn measure_add(
        &self,
        path: &Path,
        instead_of: Option<&str>,
    ) -> Result<Value, Refusal> {
        let slot = instead_of.map(|named| self.find(named)).transpose()?;
        self.check_usable(path)?;
        let capacity = self.capacity_at(path)?;
        let change = match slot {
            Some(slot) => Change::Replace { slot, capacity },
            None => Change::Add { capacity },
        };
        Ok(movement(&self.volume.measure(change)?))
    }

    /// Drains a disk, or ends that.
    pub(crate) fn drain(&self, named: &str, is_draining: bool) -> Result<Value, Refusal> {
        let slot = self.find(named)?;
        if is_draining {
            let stuck = self.volume.measure(Change::Drain { slot })?.stuck;
            anyhow::ensure!(
                stuck == 0,
                "{stuck} shards would have no other disk: their stripes are as wide as the set is \
                 now. Add a disk first, or replace this one with `cullet disk replace`"
            );
        }
        self.volume.drain_disk(slot, is_draining)?;
        Ok(json!({"slot": slot}))
    }

    /// What draining or removing would come to.
    pub(crate) fn measure(
        &self,
        named: &str,
        change: fn(usize) -> Change,
    ) -> Result<Value, Refusal> {
        let slot = self.find(named)?;
        Ok(movement(&self.volume.measure(change(slot))?))
    }

    /// Takes a disk out that is gone.
    pub(crate) fn remove(&self, named: &str, accept_loss: bool) -> Result<Value, Refusal> {
        let slot = self.find(named)?;
        self.volume.remove_disk(slot, accept_loss)?;
        Ok(json!({"slot": slot}))
    }

    /// Has one disk read and verified from now on, or all.
    pub(crate) fn scrub(&self, named: Option<&str>) -> Result<Value, Refusal> {
        let slots = match named {
            Some(named) => vec![self.find(named)?],
            None => {
                let disks = self.volume.stats().disks;
                disks
                    .into_iter()
                    .filter(|disk| disk.failure.is_none())
                    .map(|disk| disk.slot)
                    .collect()
            }
        };
        for slot in &slots {
            self.volume.ask_for_scrub(*slot)?;
        }
        Ok(json!({"slots": slots}))
    }

    /// The number of the disk that is named by its number, its path or its UUID.
    fn find(&self, named: &str) -> Result<usize, Refusal> {
        let stats = self.volume.stats();
        let here = stats.disks.iter().map(|disk| {
            let id = volume::uuid(&disk.identity.disk);
            (disk.slot, Some(disk.name.as_str()), id)
        });
        let absent = stats.absent.iter();
        let absent = absent.map(|member| (member.slot.into(), None, volume::uuid(&member.disk)));
        let same_path = |path: &str| is_same_path(path, Path::new(named));
        let is_named = |(slot, path, id): &(usize, Option<&str>, String)| {
            slot.to_string() == named || id == named || path.is_some_and(same_path)
        };
        let found = here.chain(absent).find(is_named);
        found.map(|(slot, ..)| slot).with_context(|| {
            format!(
                "there is no disk {named:?} in the set: name one by its number, its path or its id, \
                 as `cullet disk list` shows them"
            )
        })
    }

    /// A disk that failed is opened again: its file has to be free.
    fn close_failed(&self, path: &Path) {
        for disk in self.volume.disks() {
            // Only what is not live is let go.
            if is_same_path(&disk.name, path) {
                self.volume.let_go(&disk);
            }
        }
    }

    fn capacity_at(&self, path: &Path) -> Result<u64, Refusal> {
        let limit = self.capacity.map_or(u64::MAX, |capacity| capacity.0);
        let of = rustix::fs::statvfs(path)
            .with_context(|| format!("cannot tell how large {} is", path.display()))?;
        Ok(limit.min(of.f_blocks.saturating_mul(of.f_frsize)))
    }

    /// Opens the disk at a path, formatted for this set if it is empty, within the memory.
    fn open(&self, path: &Path, options: Options) -> Result<Engine, Refusal> {
        let cannot = || format!("cannot open the disk {}", path.display());
        let disk = (self.open)(path, true)?.with_context(cannot)?;
        self.check_set(path, disk.as_ref())?;
        let store = open_store(disk, self.set, options).with_context(cannot)?;
        let id = store.identity().disk;
        let engine = Engine::start(store, IO_THREADS).context("cannot start the engine")?;
        self.furnish(id, &engine);
        Ok(engine)
    }

    /// Whether a disk can come to the set from a path, as far as that can be told without doing it.
    fn check_usable(&self, path: &Path) -> Result<(), Refusal> {
        check_exists(path)?;
        let disks = self.volume.stats().disks;
        if let Some(disk) = disks.iter().find(|disk| is_same_path(&disk.name, path)) {
            anyhow::ensure!(
                disk.failure.is_some() || disk.state != MemberState::Live,
                "{} is disk {} of this set already",
                path.display(),
                disk.slot
            );
            // It is let go of first, which is not done here.
            return Ok(());
        }
        match (self.open)(path, false)? {
            Some(disk) => self.check_set(path, disk.as_ref()),
            None => Ok(check_empty(path)?),
        }
    }

    /// Whether a disk is new, or of this set.
    fn check_set(&self, path: &Path, disk: &dyn Disk) -> Result<(), Refusal> {
        match Store::identity_of(disk) {
            Ok(identity) if identity.set != self.set => anyhow::bail!(
                "{} belongs to another set, {}: empty it first if nothing on it is needed",
                path.display(),
                volume::uuid(&identity.set)
            ),
            Ok(_) | Err(Error::NotFormatted) => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot open the disk {}", path.display()))
            }
        }
    }

    /// How one more engine is to be opened, once there is memory for it.
    fn make_room(&self) -> Result<Options, Refusal> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let disks = self.volume.disks();
        let here = |id: &[u8; 16]| {
            disks
                .iter()
                .any(|disk| disk.engine.store().identity().disk == *id)
        };
        room.fixed.retain(|id, _| here(id));
        let count = room.fixed.len() as u64 + 1;
        let share = MemorySplit::new(room.total, as_usize(count))?;
        let fixed = room.fixed.values().sum::<u64>() + share.disk() - share.cache;
        let lacking = (fixed + count * MIB).saturating_sub(room.engines);
        let has: u64 = room.reserved.iter().map(|(_, bytes)| bytes).sum();
        let half = lacking.saturating_sub(has).div_ceil(2);
        let mut reserved = Vec::new();
        for budget in &room.budgets {
            // As much again stays for bodies.
            let can_hold = budget.can_hold(as_usize(lacking));
            let taken = budget.try_reserve(as_usize(half)).filter(|_| can_hold);
            let taken = taken.with_context(|| {
                format!(
                    "there is not memory enough for {count} disks while requests need theirs: try \
                     again, or start the server anew with the new disk on its command line, or \
                     with more than --memory {}",
                    room.total
                )
            })?;
            reserved.push((taken, half));
        }
        room.reserved.extend(reserved);
        Ok(Options {
            cache_bytes: as_usize(MIB),
            ..store_options(self.capacity, &share)
        })
    }

    /// Shares the caches anew, now that there is one more engine.
    fn furnish(&self, id: [u8; 16], engine: &Engine) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let count = room.fixed.len() + 1;
        if let Ok(share) = MemorySplit::new(room.total, count) {
            room.fixed.insert(id, share.disk() - share.cache);
        }
        let fixed = room.fixed.values().sum::<u64>();
        let caches = room.engines.saturating_sub(fixed) / count as u64;
        let caches = as_usize(caches.max(MIB));
        for disk in self.volume.disks() {
            disk.engine.store().set_cache_bytes(caches);
        }
        engine.store().set_cache_bytes(caches);
    }
}

fn movement(movement: &Movement) -> Value {
    json!({
        "shards": movement.shards,
        "bytes": movement.bytes,
        "metadata_entries": movement.metadata_entries,
        "metadata_bytes": movement.metadata_bytes,
        "stuck": movement.stuck,
    })
}

/// A server that starts makes the directory of a disk. Here somebody has typed a path, and a
/// directory that is made by mistake lies on whatever disk is beneath.
fn check_exists(path: &Path) -> Result<(), Refusal> {
    anyhow::ensure!(
        path.exists(),
        "{} does not exist: is its file system mounted? If it is to be a new directory, make it \
         first",
        path.display()
    );
    Ok(())
}

/// Whether two paths lead to the same place; also if there is nothing any more.
fn is_same_path(one: &str, other: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| absolute(path));
    let one = Path::new(one);
    absolute(one) == absolute(other) || real(one) == real(other)
}

/// Whether it is the request that is at fault, and not the server.
pub(crate) fn is_refusal(error: &anyhow::Error) -> bool {
    !matches!(
        error.downcast_ref::<VolumeError>(),
        Some(VolumeError::Failed { .. } | VolumeError::Engine(_) | VolumeError::Corrupt { .. })
    )
}
