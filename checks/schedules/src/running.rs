//! The engine with its own threads: what commits, maintains and reads in a server.
//!
//! Clients write and read while others close it, now and then on a disk whose power goes, or which
//! is given up as one that does not answer. What must hold: every call returns, and closing ends;
//! what was acknowledged is on stable storage when closing has returned; what was refused because
//! the engine is closed never happened; the engine's threads end.
//!
//! No thread here looks again and again whether it may go on, and the engine's do so only while
//! they wait for something of each other. So if it hangs, soon nobody can run, and the model
//! checker says so.

use shardstore::sync::{Arc, thread};
use shardstore::{Batch, Disk, Engine, Error, Options, Read, Store};
use simdisk::{Crash, Rng, SimDisk};

use crate::scenarios::check_after_cut;
use crate::world::{self, KEYS, Recorder};

/// What a client does.
#[derive(Debug, Clone, Copy)]
enum Act {
    Write(usize, u32),
    WriteAll(u32),
    /// Two batches, the second after the first.
    Chain(usize, u32),
    Read(usize),
}

struct Running {
    disk: Arc<SimDisk>,
    engine: Engine,
    recorder: Recorder,
}

/// Small memtables and tails, so that a few writes make maintenance do everything it does, and
/// make the committer wait for it.
fn options(rng: &mut Rng) -> Options {
    Options {
        memtable_bytes: *rng.pick(&[1, 300, 64 * 1024]),
        tail_bytes_max: *rng.pick(&[4096, 32 * 1024, 1024 * 1024]),
        ..world::options(rng)
    }
}

impl Running {
    fn start(rng: &mut Rng) -> Arc<Running> {
        let disk = world::formatted();
        let store = Store::open(disk.clone() as Arc<dyn Disk>, options(rng));
        let store = store.expect("an honest disk opens");
        let io_threads = rng.between(1, 2) as usize;
        Arc::new(Running {
            disk,
            engine: Engine::start(store, io_threads).expect("threads can be started"),
            recorder: Recorder::default(),
        })
    }

    fn act(&self, act: Act) -> Result<(), Error> {
        let submit = |batch| self.engine.submit(batch)?.wait();
        match act {
            Act::Write(key, value) => self.recorder.write(vec![(key, value)], submit),
            Act::WriteAll(value) => {
                let values = (0..KEYS).map(|key| (key, value)).collect();
                self.recorder.write(values, submit)
            }
            Act::Chain(key, value) => {
                let chain = |batch: Batch| {
                    let filler = Batch::new().delete(shardstore::Key::plain("filler"));
                    let first = self.engine.submit(filler)?;
                    self.engine.submit(batch.after(first))?.wait()
                };
                self.recorder.write(vec![(key, value)], chain)
            }
            Act::Read(key) => self.recorder.read(|| {
                let look = move |store: &Store, how: Read| {
                    world::value_of(&store.snapshot(), &world::key(key), how)
                };
                Ok(vec![(key, self.engine.read(look).wait()?)])
            }),
        }
    }
}

fn acts(rng: &mut Rng, client: u32) -> Vec<Act> {
    (1..=3)
        .map(|step| {
            let key = rng.index(KEYS);
            let value = client * 10 + step;
            match rng.below(8) {
                0..=2 => Act::Write(key, value),
                3 => Act::WriteAll(value),
                4 => Act::Chain(key, value),
                5 => Act::Write(key, 0),
                _ => Act::Read(key),
            }
        })
        .collect()
}

/// One run of the case that `rng` decides. Panics when something does not hold.
pub fn run(rng: &mut Rng) {
    let running = Running::start(rng);
    if rng.one_in(2) {
        running.disk.chill();
    }
    if rng.one_in(2) {
        running.disk.slow_down(rng.between(1, 4));
    }
    let is_honest = !rng.one_in(3);
    if !is_honest {
        running.disk.cut_after(rng.below(20));
    }
    let is_abandoned = rng.one_in(4);
    let is_well = is_honest && !is_abandoned;
    let mut threads = Vec::new();
    for client in 1..=2 {
        let acts = acts(rng, client);
        let running = running.clone();
        threads.push(thread::spawn(move || client_acts(&running, acts, is_well)));
    }
    if is_abandoned {
        let running = running.clone();
        threads.push(thread::spawn(move || {
            running.engine.abandon("it has not answered for long");
        }));
    }
    for _ in 0..rng.between(1, 2) {
        let running = running.clone();
        threads.push(thread::spawn(move || {
            let closed = running.engine.close();
            assert!(closed.is_ok() || !is_well, "closing fails: {closed:?}");
        }));
    }
    for thread in threads {
        thread.join().expect("a thread that fails has said why");
    }
    let late = running.engine.submit(Batch::new().delete(world::key(0)));
    assert!(late.is_err(), "a batch was taken after the end");
    let mode = *rng.pick(&Crash::ALL);
    let history = ([0; KEYS], running.recorder.events());
    check_after_cut(&running.disk, history, mode, rng);
}

fn client_acts(running: &Running, acts: Vec<Act>, is_well: bool) {
    for act in acts {
        match running.act(act) {
            Ok(()) => {}
            Err(Error::Closed) => return,
            Err(error) => assert!(!is_well, "{act:?} fails: {error}"),
        }
    }
}
