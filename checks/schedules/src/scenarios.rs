//! What the threads do, each scenario with the property that it shows.

use std::sync::atomic::{AtomicU64, Ordering};

use shardstore::Error;
use shardstore::sync::{Arc, thread};
use simdisk::{Crash, Rng, SimDisk};

use crate::history::{Action, Event, State, is_linearizable};
use crate::running;
use crate::world::{KEYS, World};

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Reads and writes of each key are linearizable while background work runs.
    Registers,
    /// A snapshot shows the same again and again, and a batch as a whole.
    Snapshots,
    /// Reclamation never undoes a write that overtakes it.
    Evacuation,
    /// Checkpoint, compaction and reclamation at once lose nothing and do not deadlock.
    Maintenance,
    /// The engine's own threads: every call returns, also when it is closed meanwhile, and what
    /// was acknowledged is persistent.
    Engine,
    /// After a power cut under concurrency, what was acknowledged is there, and the rest
    /// happened as a whole or not at all.
    PowerCut,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Scenario; 6] = [
        Scenario::Registers,
        Scenario::Snapshots,
        Scenario::Evacuation,
        Scenario::Maintenance,
        Scenario::Engine,
        Scenario::PowerCut,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Registers => "registers",
            Scenario::Snapshots => "snapshots",
            Scenario::Evacuation => "evacuation",
            Scenario::Maintenance => "maintenance",
            Scenario::Engine => "engine",
            Scenario::PowerCut => "power-cut",
        }
    }

    /// The check that it is part of.
    pub fn check(self) -> &'static str {
        match self {
            Scenario::PowerCut => "C9",
            _ => "C8",
        }
    }

    /// What it shows.
    pub fn property(self) -> &'static str {
        match self {
            Scenario::Registers => "reads and writes are linearizable",
            Scenario::Snapshots => "a snapshot never changes, batches are whole",
            Scenario::Evacuation => "evacuation never undoes a write",
            Scenario::Maintenance => "background work in parallel loses nothing, no deadlock",
            Scenario::Engine => "the engine's threads end when it is closed, and lose nothing",
            Scenario::PowerCut => "a power cut under concurrency: persistent survives, else whole",
        }
    }

    /// The scenario with this name.
    pub fn from_name(name: &str) -> Option<Scenario> {
        Scenario::ALL
            .into_iter()
            .find(|scenario| scenario.name() == name)
    }

    /// One run of the case that the seed decides. Panics when the property does not hold.
    pub fn run(self, seed: u64) {
        let mut rng = Rng::new(seed);
        match self {
            Scenario::Registers => registers(&mut rng),
            Scenario::Snapshots => snapshots(&mut rng),
            Scenario::Evacuation => evacuation(&mut rng),
            Scenario::Maintenance => maintenance(&mut rng),
            Scenario::Engine => running::run(&mut rng),
            Scenario::PowerCut => power_cut(&mut rng),
        }
    }
}

/// Runs in which the power went while something was being written, since the last call: one
/// that ends before its cut crashes a disk on which all is flushed.
static CUTS: AtomicU64 = AtomicU64::new(0);

/// How many runs since the last call had their power cut in the middle.
pub fn crashes_that_cut() -> u64 {
    CUTS.swap(0, Ordering::Relaxed)
}

/// What a client thread does.
#[derive(Debug, Clone, Copy)]
enum Act {
    Write(usize, u32),
    WriteAll(u32),
    Read(usize),
}

/// What a background thread does; out of space is an answer like any other.
#[derive(Debug, Clone, Copy)]
enum Chore {
    Checkpoint,
    Compact,
    Reclaim,
    ReclaimGiven(u32),
    Scrub(u32),
}

fn acts(rng: &mut Rng, thread: u32, count: usize) -> Vec<Act> {
    (0..count as u32)
        .map(|step| {
            let key = rng.index(KEYS);
            let value = thread * 10 + step + 1;
            match rng.below(10) {
                0..=4 => Act::Write(key, value),
                5 => Act::Write(key, 0),
                6 => Act::WriteAll(value),
                _ => Act::Read(key),
            }
        })
        .collect()
}

fn chores(rng: &mut Rng, count: usize) -> Vec<Chore> {
    (0..count)
        .map(|_| match rng.below(8) {
            0..=2 => Chore::Checkpoint,
            3 => Chore::Compact,
            4 => Chore::Reclaim,
            5..=6 => Chore::ReclaimGiven(rng.below(4) as u32),
            _ => Chore::Scrub(rng.below(4) as u32),
        })
        .collect()
}

fn act(world: &World, act: Act) -> Result<(), Error> {
    match act {
        Act::Write(key, value) => world.write(key, value),
        Act::WriteAll(value) => world.write_all(value),
        Act::Read(key) => world.read(key).map(|_| ()),
    }
}

fn chore(world: &World, chore: Chore) -> Result<(), Error> {
    let store = &world.store;
    let done = match chore {
        Chore::Checkpoint => store.checkpoint(),
        Chore::Compact => store.compact().map(|_| ()),
        Chore::Reclaim => store.reclaim(None).map(|_| ()),
        Chore::ReclaimGiven(extent) => store.reclaim(Some(extent)).map(|_| ()),
        Chore::Scrub(extent) => store.scrub(extent).map(|damage| {
            // Once the power is cut nothing can be read.
            let is_rot = |error: &Error| !matches!(error, Error::Disk(_));
            assert!(!damage.iter().any(is_rot), "{damage:?}");
        }),
    };
    match done {
        Err(Error::OutOfSpace) => Ok(()),
        other => other,
    }
}

/// What one thread does in a world.
type Body = Box<dyn FnOnce(&World) + Send>;

/// Runs each body on a thread, with the pump, until all are done.
fn together(world: &Arc<World>, bodies: Vec<Body>) {
    let pump = world.start_pump();
    let threads: Vec<_> = bodies
        .into_iter()
        .map(|body| {
            let world = world.clone();
            thread::spawn(move || body(&world))
        })
        .collect();
    for thread in threads {
        thread.join().expect("a thread that fails has said why");
    }
    world.stop_pump();
    pump.join().expect("the pump returns errors");
    world.store.set_pumped_by_a_thread(false);
}

fn clients(rng: &mut Rng, threads: u32, count: usize) -> Vec<Body> {
    (1..=threads)
        .map(|thread| {
            let acts = acts(rng, thread, count);
            let body = move |world: &World| {
                for one in acts {
                    act(world, one).expect("an honest disk takes every operation");
                }
            };
            Box::new(body) as Body
        })
        .collect()
}

fn background(rng: &mut Rng, count: usize) -> Body {
    let chores = chores(rng, count);
    Box::new(move |world| {
        for one in chores {
            chore(world, one).expect("background work succeeds on an honest disk");
        }
    })
}

/// Something for background work to work on.
fn prefill(world: &World, rng: &mut Rng) -> State {
    let mut last = [0; KEYS];
    for round in 0..rng.below(3) as u32 {
        for (key, last) in last.iter_mut().enumerate() {
            *last = 100 + round * 10 + key as u32;
            submit_and_pump(world, key, *last);
        }
        world
            .store
            .checkpoint()
            .expect("an honest disk takes a checkpoint");
    }
    last
}

fn submit_and_pump(world: &World, key: usize, value: u32) {
    let payload = vec![value as u8; [700, 5000, 0, 3000][value as usize % 4]];
    let batch = shardstore::Batch::new().put_with_payload(
        crate::world::key(key),
        value.to_le_bytes(),
        payload,
    );
    let dependency = world.store.submit(batch).expect("the queue is empty");
    while world.store.pump().expect("an honest disk takes a group") {}
    assert!(dependency.is_persistent());
}

fn registers(rng: &mut Rng) {
    let world = World::new(rng);
    let initial = prefill(&world, rng);
    let mut bodies = clients(rng, 2, 3);
    bodies.push(background(rng, 3));
    together(&world, bodies);
    check_linearizable(&world, initial);
}

fn check_linearizable(world: &World, initial: State) {
    world.read_state().expect("an honest disk reads");
    let events = world.events();
    assert!(
        is_linearizable(initial, &events),
        "no order explains, from {initial:?}: {events:?}"
    );
}

fn snapshots(rng: &mut Rng) {
    let world = World::new(rng);
    let initial = prefill(&world, rng);
    let reader = move |world: &World| {
        let snapshot = world.store.snapshot();
        let first = World::read_all(&snapshot).expect("an honest disk reads");
        let keys = World::scan(&snapshot).expect("an honest disk scans");
        for _ in 0..3 {
            thread::yield_now();
            assert_eq!(World::read_all(&snapshot).expect("it read before"), first);
            assert_eq!(World::scan(&snapshot).expect("it scanned before"), keys);
        }
        // Every batch writes all keys.
        let whole = first == initial || first == [first[0]; KEYS];
        assert!(whole, "half a batch is visible: {first:?}");
    };
    let values: Vec<u32> = (0..3).map(|_| if rng.one_in(3) { 0 } else { 1 }).collect();
    let writer = move |world: &World| {
        for (step, kind) in values.into_iter().enumerate() {
            let value = if kind == 0 { 0 } else { step as u32 + 1 };
            world
                .write_all(value)
                .expect("an honest disk takes every operation");
        }
    };
    let bodies: Vec<Body> = vec![
        Box::new(writer),
        Box::new(reader),
        Box::new(reader),
        background(rng, 2),
    ];
    together(&world, bodies);
}

fn evacuation(rng: &mut Rng) {
    let world = World::new(rng);
    let initial: State = std::array::from_fn(|key| 101 + 2 * key as u32);
    for (key, value) in initial.iter().enumerate() {
        submit_and_pump(&world, key, *value);
    }
    world
        .store
        .checkpoint()
        .expect("an honest disk takes a checkpoint");
    let mut bodies = clients(rng, 1, 3);
    bodies.push(Box::new(|world| {
        for extent in 0..2 {
            chore(world, Chore::ReclaimGiven(extent)).expect("reclamation succeeds");
        }
        chore(world, Chore::Checkpoint).expect("a checkpoint succeeds");
    }));
    together(&world, bodies);
    check_linearizable(&world, initial);
}

fn maintenance(rng: &mut Rng) {
    let world = World::new(rng);
    let mut initial = [0; KEYS];
    // Enough level-0 tables that compaction has something to do, and its output is now and
    // then the last that fits in the index's extent.
    for round in 0..4 + rng.below(6) as u32 {
        for (key, last) in initial.iter_mut().enumerate() {
            *last = 100 + round * 10 + key as u32;
            submit_and_pump(&world, key, *last);
        }
        world
            .store
            .checkpoint()
            .expect("an honest disk takes a checkpoint");
    }
    let extents = world.store.extents();
    let mut bodies = clients(rng, 1, 2);
    bodies.push(Box::new(|world| {
        chore(world, Chore::Compact).expect("compaction succeeds");
        chore(world, Chore::Checkpoint).expect("a checkpoint succeeds");
    }));
    bodies.push(Box::new(move |world| {
        chore(world, Chore::Checkpoint).expect("a checkpoint succeeds");
        for extent in 0..extents {
            chore(world, Chore::ReclaimGiven(extent)).expect("reclamation succeeds");
        }
        chore(world, Chore::Checkpoint).expect("a checkpoint succeeds");
        for round in 0..3 {
            world
                .write(0, 50 + round)
                .expect("an honest disk takes every operation");
        }
    }));
    together(&world, bodies);
    // Let whatever became free be used again.
    for _ in 0..16 {
        let filler = shardstore::Batch::new().put_with_payload(
            shardstore::Key::plain("filler"),
            [0; 4],
            vec![0xaa; 15_000],
        );
        world.store.submit(filler).expect("the queue is empty");
        while world.store.pump().expect("an honest disk takes a group") {}
    }
    check_linearizable(&world, initial);
    while world.store.compact().expect("compaction succeeds") {}
    world.store.close().expect("an honest disk closes");
    let reopened = World::open(world.disk.clone(), rng).expect("what was closed opens");
    for key in 0..KEYS {
        let before = world.read(key).expect("it read before");
        assert_eq!(reopened.read(key).expect("an honest disk reads"), before);
    }
}

fn power_cut(rng: &mut Rng) {
    let world = World::new(rng);
    let initial = prefill(&world, rng);
    let cut_after = rng.below(20);
    let mode = *rng.pick(&Crash::ALL);
    let mut bodies: Vec<Body> = Vec::new();
    for thread in 1..=2 {
        let acts = acts(rng, thread, 3);
        // After the cut every operation fails.
        bodies.push(Box::new(move |world| {
            for one in acts {
                if act(world, one).is_err() {
                    break;
                }
            }
        }));
    }
    let chores = chores(rng, 3);
    bodies.push(Box::new(move |world| {
        for one in chores {
            if chore(world, one).is_err() {
                break;
            }
        }
    }));
    if rng.one_in(4) {
        world.disk.slow_down(rng.between(1, 4));
    }
    world.disk.cut_after(cut_after);
    together(&world, bodies);
    if world.disk.is_cut() {
        CUTS.fetch_add(1, Ordering::Relaxed);
    }
    check_after_cut(&world.disk, (initial, world.events()), mode, rng);
}

/// Crashes the disk, and compares what is left with what was acknowledged: a reading after the
/// cut comes after everything. A write that was never known to have happened may have happened,
/// as a whole; one that was known must have.
pub(crate) fn check_after_cut(
    disk: &SimDisk,
    (initial, mut events): (State, Vec<Event>),
    mode: Crash,
    rng: &mut Rng,
) {
    let disk = Arc::new(disk.crash(rng, mode));
    let after = World::open(disk, rng).expect("a power cut leaves a disk that opens");
    let state = World::read_all(&after.store.snapshot()).expect("what is there can be read");
    let from = 1 << 40;
    events.push(Event {
        action: Action::Read(state.into_iter().enumerate().collect()),
        from,
        to: from + 1,
    });
    assert!(
        is_linearizable(initial, &events),
        "after a {mode:?} cut there is {state:?}; from {initial:?}: {events:?}"
    );
}
