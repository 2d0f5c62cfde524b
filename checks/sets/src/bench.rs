//! Sets of disks on real engines over simulated disks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use simdisk::{Crash, Image, Rng, SimDisk};
use volume::shardstore::{Disk, DiskError, Engine, Geometry, Options, Read, Store};
use volume::{
    BlobRef, Census, Identity, Key, MetaBatch, ProbeBudget, SetDisk, SliceId, Volume, VolumeError,
    VolumeOptions, block_on,
};

/// Small, so that little is much.
pub const GEOMETRY: Geometry = Geometry {
    extent_bytes: 64 * 1024,
    payload_bytes_max: 16 * 1024,
};

/// Bytes of a full shard.
pub const SHARD: usize = 1024;

/// Bytes of a disk.
pub const CAPACITY: u64 = 8 << 20;

/// So many bytes that look random.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::new(seed).fill(&mut bytes);
    bytes
}

/// Disks, which outlive the volumes that use them.
pub struct Disks {
    /// By their numbers, which say nothing of their slots in a set.
    pub sims: Vec<Arc<SimDisk>>,
    /// Milliseconds that each I/O of a disk takes longer.
    pub delays: [Arc<AtomicU64>; 32],
    /// What each of them suffers from.
    pub ails: [Arc<Ails>; 32],
    /// Whether all disks have power.
    pub power: Arc<AtomicBool>,
    /// Those that were opened last, by the disks' numbers.
    engines: Mutex<BTreeMap<usize, Engine>>,
}

/// What a disk may suffer from until it is told otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ailment {
    /// Nothing.
    #[default]
    None,
    /// Its file system lets nobody write.
    ReadOnly,
    /// Each read of the medium fails.
    Unreadable,
    /// No operation returns.
    Silent,
}

/// An ailment that changes.
#[derive(Default)]
pub struct Ails {
    now: Mutex<Ailment>,
    changed: Condvar,
}

impl Ails {
    /// Suffers from this from now on. What hangs goes on if it is not [`Ailment::Silent`].
    pub fn suffer(&self, ailment: Ailment) {
        *self.now.lock().unwrap() = ailment;
        self.changed.notify_all();
    }

    fn now(&self) -> Ailment {
        *self.now.lock().unwrap()
    }

    /// What it is when it answers.
    fn answer(&self) -> Ailment {
        let now = self.now.lock().unwrap();
        let silent = |now: &mut Ailment| *now == Ailment::Silent;
        *self.changed.wait_while(now, silent).unwrap()
    }

    fn refuse_write(&self, operation: &'static str, offset: u64) -> Result<(), DiskError> {
        match self.answer() {
            Ailment::ReadOnly => {
                let error = std::io::ErrorKind::ReadOnlyFilesystem.into();
                Err(DiskError::from_io(operation, offset, 0, &error))
            }
            _ => Ok(()),
        }
    }
}

/// A disk of which each I/O may take longer or fail, and which shares its power with others.
struct AilingDisk {
    disk: Arc<SimDisk>,
    millis: Arc<AtomicU64>,
    ails: Arc<Ails>,
    power: Arc<AtomicBool>,
}

impl AilingDisk {
    fn dawdle(&self) {
        let millis = self.millis.load(Ordering::SeqCst);
        if millis > 0 {
            std::thread::sleep(Duration::from_millis(millis));
        }
    }

    /// Without power nothing is done, and nobody is told what was.
    fn powered<T>(&self, work: impl FnOnce() -> Result<T, DiskError>) -> Result<T, DiskError> {
        let is_on = || match self.power.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(DiskError::Io {
                operation: "any",
                offset: 0,
                len: 0,
                reason: "the power is cut".to_owned(),
            }),
        };
        is_on()?;
        let done = work();
        is_on()?;
        done
    }
}

impl Disk for AilingDisk {
    fn capacity(&self) -> u64 {
        self.disk.capacity()
    }

    fn read(&self, offset: u64, buf: &mut [u8], how: Read) -> Result<(), DiskError> {
        if how == Read::Nowait {
            let is_quick = self.millis.load(Ordering::SeqCst) == 0;
            let waits = matches!(self.ails.now(), Ailment::Silent | Ailment::Unreadable);
            if waits || !is_quick {
                return Err(DiskError::WouldBlock);
            }
        } else if self.ails.answer() == Ailment::Unreadable {
            let error = std::io::Error::from_raw_os_error(5);
            return Err(DiskError::from_io("read", offset, buf.len() as u64, &error));
        }
        self.dawdle();
        self.powered(|| self.disk.read(offset, buf, how))
    }

    fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), DiskError> {
        self.ails.refuse_write("write", offset)?;
        self.dawdle();
        self.powered(|| self.disk.write(offset, bufs))
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.ails.answer();
        self.dawdle();
        self.powered(|| self.disk.flush())
    }

    fn prepare(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.ails.refuse_write("prepare", offset)?;
        self.powered(|| self.disk.prepare(offset, len))
    }

    fn reserve(&self, end: u64) -> Result<(), DiskError> {
        self.ails.answer();
        self.powered(|| self.disk.reserve(end))
    }

    fn vanished(&self) -> Option<String> {
        self.disk.vanished()
    }
}

/// A volume and the thread that looks after it.
pub struct Set {
    /// The set.
    pub volume: Volume,
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
    /// What looking after the disks failed with last.
    pub failure: Arc<Mutex<Option<String>>>,
}

impl Disks {
    /// New disks of one set, numbered from 0.
    pub fn new(count: usize) -> Disks {
        let disk = |number: usize| formatted([number as u8 + 1; 16], [2; 16]);
        Disks {
            sims: (0..count).map(disk).collect(),
            delays: Default::default(),
            ails: Default::default(),
            power: Arc::new(AtomicBool::new(true)),
            engines: Mutex::default(),
        }
    }

    /// What a power cut leaves of all of them.
    pub fn crash(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        for disk in &mut self.sims {
            *disk = Arc::new(disk.crash(&mut rng, Crash::Sectors));
        }
    }

    /// A set of the disks with these numbers.
    ///
    /// # Errors
    /// What the volume says.
    pub fn open(&self, slots: &[usize]) -> Result<Set, VolumeError> {
        self.open_with(slots, VolumeOptions::default())
    }

    /// As [`open`](Disks::open), with options.
    ///
    /// # Errors
    /// What the volume says.
    pub fn open_with(&self, slots: &[usize], options: VolumeOptions) -> Result<Set, VolumeError> {
        let disks = slots.iter().map(|slot| self.disk(*slot));
        let options = VolumeOptions {
            shard_bytes_max: SHARD as u32,
            ..options
        };
        let disks: Vec<SetDisk> = disks.collect();
        let engines: Vec<Engine> = disks.iter().map(|disk| disk.engine.clone()).collect();
        let volume = match Volume::open(disks, options) {
            Ok(volume) => volume,
            Err(error) => {
                for engine in engines {
                    let _ = engine.close();
                }
                return Err(error);
            }
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (volume.clone(), stop.clone());
        let failure = Arc::new(Mutex::new(None));
        let failing = failure.clone();
        let keeper = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
                while !stopped.load(Ordering::SeqCst) {
                    match kept.keep() {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => {
                            *failing.lock().unwrap() = Some(error.to_string());
                            break;
                        }
                    }
                }
            }
        });
        Ok(Set {
            volume,
            stop,
            keeper: Some(keeper),
            failure,
        })
    }

    /// A disk's engine, for whoever uses it without a set.
    pub fn engine(&self, number: usize) -> Engine {
        engine(Arc::new(AilingDisk {
            disk: self.sims[number].clone(),
            millis: self.delays[number].clone(),
            ails: self.ails[number].clone(),
            power: self.power.clone(),
        }))
    }

    /// A disk for a set that is open already.
    pub fn disk(&self, number: usize) -> SetDisk {
        let engine = self.engine(number);
        self.engines.lock().unwrap().insert(number, engine.clone());
        SetDisk {
            name: format!("/disk/{number}"),
            engine,
        }
    }

    /// Shards on a disk that is in use.
    pub fn shards_on(&self, number: usize) -> usize {
        let engine = self.engines.lock().unwrap()[&number].clone();
        let snapshot = engine.snapshot();
        let (mut from, mut count) = (vec![2], 0);
        loop {
            let page = snapshot.scan(&from, &[3], 64, Read::Blocking).unwrap();
            count += page.entries.len();
            match page.next {
                Some(next) => from = next,
                None => return count,
            }
        }
    }

    /// All numbers.
    pub fn all(&self) -> Vec<usize> {
        (0..self.sims.len()).collect()
    }
}

/// A disk that holds nothing.
pub fn formatted(disk: [u8; 16], set: [u8; 16]) -> Arc<SimDisk> {
    formatted_with(disk, set, CAPACITY)
}

/// As [`formatted`], of so many bytes.
pub fn formatted_with(disk: [u8; 16], set: [u8; 16], capacity: u64) -> Arc<SimDisk> {
    let image = Arc::new(SimDisk::new(Image::blank(capacity, 512)));
    Store::format(&*image, Identity { disk, set }, GEOMETRY).unwrap();
    image
}

/// Opens a disk and starts its engine.
pub fn engine(disk: Arc<dyn Disk>) -> Engine {
    let store = Store::open(disk, Options::default()).unwrap();
    Engine::start(store, 4).unwrap()
}

/// A census of blobs that somebody has a list of.
struct Roll {
    volume: Volume,
    left: Vec<BlobRef>,
    referred: Box<dyn Fn() -> Vec<BlobRef> + Send>,
}

impl Census for Roll {
    fn step(&mut self) -> Result<Option<u64>, VolumeError> {
        let Some(blob) = self.left.pop() else {
            return Ok(None);
        };
        let nowhere = self.volume.stripes_nowhere(&blob)?;
        let is_still = nowhere == 0 || (self.referred)().contains(&blob);
        Ok(Some(if is_still { nowhere } else { 0 }))
    }
}

impl Set {
    /// Writes a blob; says how it is kept.
    ///
    /// # Errors
    /// What the volume says.
    pub fn put(&self, body: &[u8]) -> Result<(BlobRef, String), VolumeError> {
        block_on(async {
            let mut writer = self.volume.blob_writer(b"label".to_vec(), None)?;
            for piece in body.chunks(700) {
                writer.write(piece).await?;
            }
            // What a record says of the blob is written before the blob is finished.
            let promised = writer.blob();
            let finished = writer.finish(b"trailer".to_vec()).await?;
            assert_eq!(*finished.blob(), promised);
            for dependency in finished.dependencies().to_vec() {
                dependency.await?;
            }
            let durable = finished.receipt().to_string();
            Ok((finished.keep(), durable))
        })
    }

    /// Reads a blob.
    ///
    /// # Errors
    /// What the volume says.
    pub fn read(&self, blob: &BlobRef) -> Result<Vec<u8>, VolumeError> {
        block_on(async {
            let mut reader = self.volume.pin_blob(blob)?.reader(0..u64::MAX);
            // As whoever serves a body does.
            let mut left = ProbeBudget {
                lookups: 10_000,
                until: Instant::now() + Duration::from_secs(1),
            };
            reader.probe(&mut left).await?;
            let mut body = Vec::new();
            while let Some(piece) = reader.next().await {
                body.extend(piece?);
            }
            Ok(body)
        })
    }

    /// Puts an entry of metadata.
    ///
    /// # Errors
    /// What the volume says.
    pub fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), VolumeError> {
        let batch = MetaBatch::new().put(&meta_key(key), value.to_vec(), Vec::new());
        Ok(block_on(self.volume.commit(batch)?)?)
    }

    /// An entry of metadata.
    pub fn meta(&self, key: &str) -> Option<Vec<u8>> {
        let found = block_on(self.volume.snapshot().meta_get(&meta_key(key)));
        found.unwrap().map(|entry| entry.value)
    }

    /// Has the ledger count what there is to be: what `referred` says at a moment.
    pub fn refer_to(&self, referred: impl Fn() -> Vec<BlobRef> + Clone + Send + Sync + 'static) {
        let volume = self.volume.clone();
        self.volume.set_census(move || {
            Box::new(Roll {
                volume: volume.clone(),
                left: referred(),
                referred: Box::new(referred.clone()),
            })
        });
    }

    /// As long as a few steps of looking after the disks take.
    pub fn sleep_a_little(&self) {
        std::thread::sleep(Duration::from_millis(60));
    }

    /// Waits until everything is as it is to be, or not.
    pub fn wait(&self, what: impl Fn(&Volume) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !what(&self.volume) {
            let failure = self.failure.lock().unwrap().clone();
            assert!(
                Instant::now() < until,
                "{:?}, {failure:?}",
                self.volume.stats()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops it in good order.
    pub fn close(mut self) {
        self.end_keeper();
        let _ = self.volume.close();
    }

    /// Nobody looks after the disks any more.
    pub fn end_keeper(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(keeper) = self.keeper.take() {
            keeper.join().unwrap();
        }
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        self.end_keeper();
    }
}

/// A key of the metadata.
pub fn meta_key(key: &str) -> Key {
    let mut bytes = SliceId::ROOT.to_bytes().to_vec();
    bytes.extend_from_slice(key.as_bytes());
    Key::plain(bytes)
}

/// Stops an engine as a kill does: nothing of it reaches the disk any more.
pub fn kill(set: Set, disks: &mut Disks, seed: u64) {
    for disk in &disks.sims {
        disk.cut_after(0);
    }
    set.close();
    disks.crash(seed);
}

/// Of blobs: in copies, within a stripe, in several.
pub const SIZES: [usize; 7] = [
    0,
    1,
    500,
    3 * SHARD,
    4 * SHARD + 1,
    11 * SHARD + 7,
    40 * SHARD,
];
