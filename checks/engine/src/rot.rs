//! C7: bits flip, sectors are swapped, overwritten and wiped on a disk at rest. Every answer
//! after it is right or an error; nothing panics; and reclamation and compaction do not give
//! wrong bytes a fresh checksum.

use std::sync::Arc;

use shardstore::{Error, Store};
use simdisk::{Crash, Image, PAGE, Rng, SimDisk};

use crate::case::{Case, Outcome, guarded};
use crate::dump;
use crate::failure::{Failure, Verdict, property, violated};
use crate::generate::Profile;
use crate::keys::KeyPool;
use crate::knobs::{Knobs, set_clock};
use crate::model::{Entry, Observed, State, name};
use crate::ops::{Change, Fill};
use crate::reads::{observe, observe_each};
use crate::reboot::open;
use crate::tally::Tally;
use crate::world::World;

/// Damages that one seed tries.
const DAMAGES: usize = 48;

/// Bits of one part of the exhaustive run.
const BITS_OF_PART: u64 = 512;

/// What is done to an image.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip { offset: u64, bit: u8 },
    Swap { one: u64, two: u64, len: usize },
    Copy { from: u64, to: u64, len: usize },
    Wipe { at: u64, len: usize },
    Noise { at: u64, len: usize, seed: u64 },
}

impl Damage {
    fn draw(rng: &mut Rng, pages: &[usize]) -> Damage {
        let len = *rng.pick(&[512, PAGE]);
        let place = |rng: &mut Rng| {
            let page = *rng.pick(pages) as u64 * PAGE as u64;
            page + rng.below((PAGE / len) as u64) * len as u64
        };
        let (one, two) = (place(rng), place(rng));
        match rng.below(12) {
            0 | 1 => Damage::Swap { one, two, len },
            2..=4 => Damage::Copy {
                from: one,
                to: two,
                len,
            },
            5 => Damage::Wipe { at: one, len },
            6 => Damage::Noise {
                at: one,
                len,
                seed: rng.bits(),
            },
            _ => {
                let page = *rng.pick(pages) as u64 * PAGE as u64;
                // The first bytes of pages are where headers are.
                let within = if rng.one_in(3) {
                    rng.below(160)
                } else {
                    rng.below(PAGE as u64)
                };
                Damage::Flip {
                    offset: page + within,
                    bit: rng.below(8) as u8,
                }
            }
        }
    }

    fn apply(self, image: &mut Image) {
        match self {
            Damage::Flip { offset, bit } => image.flip(offset, bit),
            Damage::Swap { one, two, len } => {
                let (a, b) = (image.read(one, len), image.read(two, len));
                image.write(one, &b);
                image.write(two, &a);
            }
            Damage::Copy { from, to, len } => {
                let bytes = image.read(from, len);
                image.write(to, &bytes);
            }
            Damage::Wipe { at, len } => image.write(at, &vec![0; len]),
            Damage::Noise { at, len, seed } => {
                let mut bytes = vec![0; len];
                Rng::new(seed).fill(&mut bytes);
                image.write(at, &bytes);
            }
        }
    }
}

/// A disk at rest, and what it must answer.
struct Subject {
    image: Image,
    knobs: Knobs,
    pool: KeyPool,
    /// What it must answer; after that, the states without the newest batches of the tail's
    /// newest group, if there is one: when that is damaged it cannot be told from a torn one.
    states: Vec<Arc<State>>,
    /// The same for the two newest groups: a swap may damage both.
    states_of_two: Vec<Arc<State>>,
    tally: Tally,
}

/// A random disk: after a clean close, or with a tail to replay.
fn subject(seed: u64) -> Verdict<Subject> {
    let case = Case::generate(seed, Profile::Conform, 0);
    let mut world = World::new(
        seed,
        case.profile,
        case.knobs.clone(),
        case.pool.clone(),
        None,
    )?;
    for step in &case.steps {
        world.apply(step)?;
    }
    at_rest(world, seed)
}

fn at_rest(mut world: World, seed: u64) -> Verdict<Subject> {
    world.pump(64)?;
    for key in [0, 2] {
        let change = Change::Put {
            key,
            value: 20,
            payload: 300,
            fill: Fill::Unique,
        };
        world.submit(&[change], false, None)?;
        world.pump(64)?;
    }
    if seed.is_multiple_of(2) {
        world.clean_reboot(0, None)?;
    }
    let states = world.book.newest_states(1);
    let states_of_two = world.book.newest_states(2);
    Ok(Subject {
        image: world
            .disk
            .freeze()
            .crash(&mut Rng::new(seed), Crash::LoseAll),
        states,
        states_of_two,
        knobs: world.knobs.clone(),
        pool: world.pool.clone(),
        tally: world.tally.clone(),
    })
}

/// Runs the damages of a seed.
pub fn run(seed: u64, with_log: bool) -> Outcome {
    outcome(with_log, |tally, log| {
        let subject = subject(seed)?;
        tally.add(&subject.tally);
        let mut rng = Rng::new(seed ^ 0xC7);
        let pages = subject.image.present_pages();
        for _ in 0..DAMAGES {
            let damage = Damage::draw(&mut rng, &pages);
            if let Err(failure) = subject.check(damage, tally) {
                log.extend(dump::frames(
                    &subject.image,
                    subject.knobs.geometry.extent_bytes,
                ));
                return Err(failure);
            }
        }
        Ok(())
    })
}

/// How many parts the exhaustive run has: every bit of every page in use of a small image.
pub fn parts() -> u64 {
    let pages = small_subject().map_or(0, |subject| subject.image.present_pages().len() as u64);
    pages * PAGE as u64 * 8 / BITS_OF_PART
}

/// A small disk with a bit of everything: two tables, a tail, a moved frame, dead frames.
fn small_subject() -> Verdict<Subject> {
    let seed = 1;
    let case = crate::enumerate::aged();
    let mut world = World::new(seed, Profile::Conform, case.0, case.1, None)?;
    for step in &case.2 {
        world.apply(step)?;
    }
    at_rest(world, seed)
}

/// Runs one part of the exhaustive run.
pub fn run_part(part: u64, with_log: bool) -> Outcome {
    outcome(with_log, |tally, log| {
        let subject = small_subject()?;
        let pages = subject.image.present_pages();
        for index in part * BITS_OF_PART..(part + 1) * BITS_OF_PART {
            let (byte, bit) = (index / 8, (index % 8) as u8);
            let page = pages[(byte / PAGE as u64) as usize] as u64;
            let damage = Damage::Flip {
                offset: page * PAGE as u64 + byte % PAGE as u64,
                bit,
            };
            if let Err(failure) = subject.check(damage, tally) {
                log.extend(dump::frames(
                    &subject.image,
                    subject.knobs.geometry.extent_bytes,
                ));
                return Err(failure);
            }
        }
        Ok(())
    })
}

fn outcome(with_log: bool, run: impl FnOnce(&mut Tally, &mut Vec<String>) -> Verdict) -> Outcome {
    set_clock(0);
    let whole = || {
        let (mut tally, mut log) = (Tally::default(), Vec::new());
        tally.sequences = 1;
        let failure = run(&mut tally, &mut log).err();
        let log = if with_log { log } else { Vec::new() };
        Outcome {
            failure,
            tally,
            trace: 0,
            log,
        }
    };
    guarded(whole).unwrap_or_else(|detail| Outcome {
        failure: Some(Failure {
            property: property::NO_PANIC,
            detail,
            step: 0,
        }),
        tally: Tally::default(),
        trace: 0,
        log: Vec::new(),
    })
}

impl Subject {
    /// C7: after the damage every answer is right or an error, also after background work,
    /// and after another open.
    fn check(&self, damage: Damage, tally: &mut Tally) -> Verdict {
        tally.images += 1;
        *tally.faults.entry(kind(&damage)).or_default() += 1;
        let checked = guarded_check(|| self.try_damage(damage, tally));
        checked.map_err(|failure| Failure {
            detail: format!("{damage:?}: {}", failure.detail),
            ..failure
        })
    }

    fn try_damage(&self, damage: Damage, tally: &mut Tally) -> Verdict {
        let mut image = self.image.clone();
        damage.apply(&mut image);
        let disk = Arc::new(SimDisk::new(image));
        let permitted = match damage {
            Damage::Swap { .. } => &self.states_of_two,
            _ => &self.states,
        };
        for round in ["after opening", "after opening again"] {
            let store = match open(&disk, &self.knobs.options) {
                Ok(store) => store,
                Err(Error::Damaged { .. } | Error::Corrupt { .. }) => {
                    tally.refused += 1;
                    return Ok(());
                }
                Err(error) => {
                    return violated(property::ROT, format!("{round}: open says: {error}"));
                }
            };
            self.compare(&store, permitted, tally)
                .or_else(|detail| violated(property::ROT, format!("{round}: {detail}")))?;
            work(&store);
            self.compare(&store, permitted, tally).or_else(|detail| {
                violated(
                    property::ROT,
                    format!("{round} and background work: {detail}"),
                )
            })?;
        }
        Ok(())
    }

    /// All that can be read must be as in one of the permitted states.
    fn compare(
        &self,
        store: &Store,
        permitted: &[Arc<State>],
        tally: &mut Tally,
    ) -> Result<(), String> {
        let (observed, unreadable) = observe_each(store, &self.pool);
        tally.refused += unreadable.len() as u64;
        tally.compared += observed.len() as u64;
        let keys = || {
            self.pool
                .all()
                .filter(|key| !unreadable.contains(&key.bytes))
        };
        let explained = |state: &Arc<State>| keys().all(|key| agrees(state, &key.bytes, &observed));
        if !permitted.iter().any(explained) {
            let wrong = keys().find(|key| !agrees(&permitted[0], &key.bytes, &observed));
            return Err(wrong.map_or_else(String::new, |key| {
                let is = describe(&key.bytes, &observed);
                format!(
                    "{is}, it must be {:?}",
                    permitted[0].get(&key.bytes).map(Entry::describe)
                )
            }));
        }
        let Ok(scanned) = observe(store) else {
            return Ok(());
        };
        match self.pool.all().find(|key| {
            !permitted
                .iter()
                .any(|state| agrees(state, &key.bytes, &scanned))
        }) {
            None => Ok(()),
            Some(key) => Err(format!("in a scan {}", describe(&key.bytes, &scanned))),
        }
    }
}

fn agrees(state: &State, key: &[u8], observed: &Observed) -> bool {
    match (state.get(key), observed.get(key)) {
        (None, None) => true,
        (Some(entry), Some(seen)) => entry.value == seen.value && entry.payload == seen.payload,
        _ => false,
    }
}

fn describe(key: &[u8], observed: &Observed) -> String {
    match observed.get(key) {
        None => format!("{} is missing", name(key)),
        Some(seen) => {
            let (value, payload) = (name(&seen.value), name(&seen.payload));
            format!("{} has value {value} payload {payload}", name(key))
        }
    }
}

fn kind(damage: &Damage) -> &'static str {
    match damage {
        Damage::Flip { .. } => "bit flip",
        Damage::Swap { .. } => "sector swap",
        Damage::Copy { .. } => "sector copy",
        Damage::Wipe { .. } => "sector wiped",
        Damage::Noise { .. } => "sector noise",
    }
}

/// All background work, whatever it says.
fn work(store: &Store) {
    for extent in 0..store.extents() {
        let _ = store.reclaim(Some(extent));
    }
    for _ in 0..20 {
        if !matches!(store.compact(), Ok(true)) {
            break;
        }
    }
    let _ = store.checkpoint();
    for extent in 0..store.extents() {
        let _ = store.scrub(extent);
    }
}

/// A panic in one damage is that damage's failure.
fn guarded_check(check: impl FnOnce() -> Verdict) -> Verdict {
    match guarded(check) {
        Ok(verdict) => verdict,
        Err(detail) => violated(property::NO_PANIC, detail),
    }
}
