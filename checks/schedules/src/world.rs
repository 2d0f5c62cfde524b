//! A small store on a simulated disk, with a thread that pumps, and operations that record
//! what they did.

use std::sync::atomic::{AtomicU64, Ordering};

use shardstore::sync::atomic::AtomicBool;
use shardstore::sync::{Arc, Mutex, lock, thread};
use shardstore::{Batch, Disk, Error, Geometry, Identity, Key, Options, Read, Snapshot, Store};
use simdisk::{Image, Rng, SimDisk};

use crate::history::{Action, Event, State};

/// How many keys there are.
pub const KEYS: usize = 2;

const EXTENTS: u64 = 16;
const GEOMETRY: Geometry = Geometry {
    extent_bytes: 64 * 1024,
    payload_bytes_max: 16 * 1024,
};

/// Shared by the threads of one run.
pub struct World {
    /// The disk under the store.
    pub disk: Arc<SimDisk>,
    /// The store under test.
    pub store: Store,
    recorder: Recorder,
    stop: AtomicBool,
}

/// Records what operations did and when.
#[derive(Default)]
pub struct Recorder {
    events: Mutex<Vec<Event>>,
    clock: AtomicU64,
}

impl Recorder {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn record(&self, action: Action, from: u64, to: u64) {
        lock(&self.events).push(Event { action, from, to });
    }

    /// What was recorded.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// Gives keys values in one batch, which `submit` makes durable (0: deletes).
    pub fn write(
        &self,
        values: Vec<(usize, u32)>,
        submit: impl FnOnce(Batch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let batch = values.iter().fold(Batch::new(), |batch, (key, value)| {
            with_value(batch, *key, *value)
        });
        let from = self.tick();
        let result = submit(batch);
        let to = match &result {
            Ok(()) => self.tick(),
            // It was never issued, so it must not be seen.
            Err(Error::Closed) => return result,
            // Any other error says nothing about whether it happened.
            Err(_) => u64::MAX,
        };
        self.record(Action::Write(values), from, to);
        result
    }

    /// Sees keys' values at one moment, which `look` gives.
    pub fn read(
        &self,
        look: impl FnOnce() -> Result<Vec<(usize, u32)>, Error>,
    ) -> Result<(), Error> {
        let from = self.tick();
        let action = Action::Read(look()?);
        self.record(action, from, self.tick());
        Ok(())
    }
}

/// The knobs that every world draws.
pub fn options(rng: &mut Rng) -> Options {
    Options {
        cache_bytes: *rng.pick(&[0, 4096, 64 * 1024]),
        memtable_bytes: 64 * 1024,
        table_bytes: 4096,
        tail_bytes_max: 1024 * 1024,
        group_bytes_max: *rng.pick(&[1, 8192, 65536]),
        clock: || 0,
        ..Options::default()
    }
}

/// The value of a key in what the engine found: its number, checked against the payload.
pub fn value_of(snapshot: &Snapshot, key: &Key, how: Read) -> Result<u32, Error> {
    let Some(found) = snapshot.get(key, how)? else {
        return Ok(0);
    };
    let payload = snapshot.read_payload(&found, 0..u32::MAX, how)?;
    let value: [u8; 4] = found.value().try_into().expect("values are four bytes");
    let value = u32::from_le_bytes(value);
    assert!(
        payload.iter().all(|byte| *byte == value as u8),
        "another value's payload"
    );
    assert_eq!(payload.len(), payload_len(value), "another value's payload");
    Ok(value)
}

fn payload_len(value: u32) -> usize {
    [700, 5000, 0, 3000][value as usize % 4]
}

fn with_value(batch: Batch, number: usize, value: u32) -> Batch {
    match value {
        0 => batch.delete(key(number)),
        _ => batch.put_with_payload(
            key(number),
            value.to_le_bytes(),
            vec![value as u8; payload_len(value)],
        ),
    }
}

/// The key with this number.
pub fn key(number: usize) -> Key {
    Key::plain(format!("key{number}"))
}

/// A disk with an empty store.
pub fn formatted() -> Arc<SimDisk> {
    let bytes = shardstore::limits::EXTENTS_START + EXTENTS * 64 * 1024;
    let disk = Arc::new(SimDisk::new(Image::blank(bytes, 512)));
    let identity = Identity {
        disk: [5; 16],
        set: [6; 16],
    };
    Store::format(&*disk, identity, GEOMETRY).expect("an honest disk can be formatted");
    disk
}

impl World {
    /// A freshly formatted disk and its store.
    pub fn new(rng: &mut Rng) -> Arc<World> {
        World::open(formatted(), rng).expect("an honest disk opens")
    }

    /// The store on a disk that has one.
    pub fn open(disk: Arc<SimDisk>, rng: &mut Rng) -> Result<Arc<World>, Error> {
        let store = Store::open(disk.clone() as Arc<dyn Disk>, options(rng))?;
        Ok(Arc::new(World {
            disk,
            store,
            recorder: Recorder::default(),
            stop: AtomicBool::new(false),
        }))
    }

    /// What was recorded.
    pub fn events(&self) -> Vec<Event> {
        self.recorder.events()
    }

    /// Writes a value (0: deletes) and waits; records it whatever becomes of it.
    pub fn write(&self, number: usize, value: u32) -> Result<(), Error> {
        self.write_keys(vec![(number, value)])
    }

    /// Writes every key in one batch.
    pub fn write_all(&self, value: u32) -> Result<(), Error> {
        self.write_keys((0..KEYS).map(|key| (key, value)).collect())
    }

    fn write_keys(&self, values: Vec<(usize, u32)>) -> Result<(), Error> {
        let submit = |batch| self.store.submit(batch)?.wait();
        self.recorder.write(values, submit)
    }

    /// Reads a key.
    pub fn read(&self, number: usize) -> Result<u32, Error> {
        let mut value = 0;
        self.recorder.read(|| {
            value = value_of(&self.store.snapshot(), &key(number), Read::Blocking)?;
            Ok(vec![(number, value)])
        })?;
        Ok(value)
    }

    /// Reads all keys at one moment.
    pub fn read_state(&self) -> Result<(), Error> {
        self.recorder.read(|| {
            let state = World::read_all(&self.store.snapshot())?;
            Ok(state.into_iter().enumerate().collect())
        })
    }

    /// Reads every key in a snapshot.
    pub fn read_all(snapshot: &Snapshot) -> Result<State, Error> {
        let mut state = [0; KEYS];
        for (number, value) in state.iter_mut().enumerate() {
            *value = value_of(snapshot, &key(number), Read::Blocking)?;
        }
        Ok(state)
    }

    /// The keys that a scan of a snapshot shows.
    pub fn scan(snapshot: &Snapshot) -> Result<Vec<Vec<u8>>, Error> {
        let page = snapshot.scan(b"k", b"l", 100, Read::Blocking)?;
        Ok(page
            .entries
            .iter()
            .map(|found| found.key().to_vec())
            .collect())
    }

    /// Starts the thread that pumps.
    pub fn start_pump(self: &Arc<World>) -> thread::JoinHandle<()> {
        self.store.set_pumped_by_a_thread(true);
        let world = self.clone();
        thread::spawn(move || {
            while !world.stop.load(Ordering::SeqCst) {
                match world.store.pump() {
                    Ok(true) => {}
                    _ => thread::yield_now(),
                }
            }
        })
    }

    /// Tells the pump to stop when it is idle.
    pub fn stop_pump(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
