//! C7: bits flip, sectors are swapped, overwritten and wiped on a disk at rest. Every answer
//! after it is right or an error; nothing panics; and reclamation and compaction do not give
//! wrong bytes a fresh checksum.

use std::sync::Arc;

use shardstore::limits::{EXTENTS_START, SUPERBLOCK_OFFSETS};
use shardstore::{Error, Store};
use simdisk::{Crash, Image, PAGE, Rng, SimDisk};

use crate::case::{Case, Outcome, guarded};
use crate::dump::{self, Frame};
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

/// Kinds of frames.
const MOVED: u8 = 2;
const CHUNK: u8 = 3;
const MANIFEST: u8 = 4;

/// Seeds that leave a tail, and that close.
const WITH_TAIL: u64 = 1;
const CLOSED: u64 = 2;

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

    /// The bytes that it may change: offset and length.
    fn ranges(self) -> Vec<(u64, u64)> {
        match self {
            Damage::Flip { offset, .. } => vec![(offset, 1)],
            Damage::Swap { one, two, len } => vec![(one, len as u64), (two, len as u64)],
            Damage::Copy { to: at, len, .. }
            | Damage::Wipe { at, len }
            | Damage::Noise { at, len, .. } => vec![(at, len as u64)],
        }
    }

    fn hits(self, start: u64, len: u64) -> bool {
        let meets = |(from, of): &(u64, u64)| *from < start + len && start < from + of;
        self.ranges().iter().any(meets)
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
    frames: Vec<Frame>,
    /// What recovery reads: frames behind the checkpoint.
    tail: Vec<Frame>,
    /// Up to where frames or the superblock say that the log is durable.
    durable: u64,
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
    let image = world
        .disk
        .freeze()
        .crash(&mut Rng::new(seed), Crash::LoseAll);
    let frames = dump::parse(&image, world.knobs.geometry.extent_bytes);
    let checkpoint = dump::checkpoint_lsn(&image);
    let behind = |frame: &&Frame| frame.lsn > checkpoint;
    let tail: Vec<Frame> = frames.iter().filter(behind).copied().collect();
    // Manifests are named by a superblock only when they are durable.
    let speaks = |frame: &Frame| match frame.kind {
        MANIFEST => frame.lsn.max(frame.durable),
        _ => frame.durable,
    };
    Ok(Subject {
        states: world.book.newest_states(1),
        states_of_two: world.book.newest_states(2),
        durable: tail.iter().map(speaks).fold(checkpoint, u64::max),
        knobs: world.knobs.clone(),
        pool: world.pool.clone(),
        tally: world.tally.clone(),
        image,
        frames,
        tail,
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

/// How many parts the exhaustive run has: every bit of every page in use of two small images,
/// one with a tail and one that was closed.
pub fn parts() -> u64 {
    [WITH_TAIL, CLOSED].map(parts_of).iter().sum()
}

fn parts_of(seed: u64) -> u64 {
    let subject = small_subject(seed);
    let pages = subject.map_or(0, |subject| subject.image.present_pages().len() as u64);
    pages * PAGE as u64 * 8 / BITS_OF_PART
}

/// A small disk with a bit of everything: two tables, a tail, a moved frame, dead frames.
fn small_subject(seed: u64) -> Verdict<Subject> {
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
        let of_tail = parts_of(WITH_TAIL);
        let (subject, part) = match part < of_tail {
            true => (small_subject(WITH_TAIL)?, part),
            false => (small_subject(CLOSED)?, part - of_tail),
        };
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
        let permitted = self.permitted(damage);
        for round in ["after opening", "after opening again"] {
            let store = match open(&disk, &self.knobs.options) {
                Ok(store) => store,
                Err(error @ (Error::Damaged { .. } | Error::Corrupt { .. })) => {
                    tally.refused += 1;
                    if self.is_needed(damage) {
                        return Ok(());
                    }
                    let detail = format!("{round}: open needs nothing of that and says: {error}");
                    return violated(property::ROT, detail);
                }
                Err(error) => {
                    return violated(property::ROT, format!("{round}: open says: {error}"));
                }
            };
            self.compare(&store, damage, permitted, tally)
                .or_else(|detail| violated(property::ROT, format!("{round}: {detail}")))?;
            work(&store);
            self.compare(&store, damage, permitted, tally)
                .or_else(|detail| {
                    violated(
                        property::ROT,
                        format!("{round} and background work: {detail}"),
                    )
                })?;
        }
        Ok(())
    }

    /// What a store may show: all; and without the newest group, if that is what is damaged.
    fn permitted(&self, damage: Damage) -> &[Arc<State>] {
        let is_hit = |frame: &Frame| damage.hits(frame.start, frame.len);
        let mut newest = self.tail.iter().filter(|frame| frame.lsn > self.durable);
        match damage {
            _ if !newest.any(is_hit) => &self.states[..1],
            Damage::Swap { .. } => &self.states_of_two,
            _ => &self.states,
        }
    }

    /// Whether a disk with this damage may be refused: both copies of the superblock are hit, the
    /// manifest, or the head of a frame that recovery reads; or the index, which it needs where
    /// it finds moved entries.
    fn is_needed(&self, damage: Damage) -> bool {
        let superblocks = SUPERBLOCK_OFFSETS.map(|at| damage.hits(at, PAGE as u64));
        let has_moved = self.tail.iter().any(|frame| frame.kind == MOVED);
        let of_tail = self.tail.iter().any(|frame| {
            let len = match frame.kind {
                MANIFEST => frame.len,
                _ => frame.head_len,
            };
            damage.hits(frame.start, len)
        });
        let mut chunks = self.frames.iter().filter(|frame| frame.kind == CHUNK);
        let of_index = has_moved && chunks.any(|chunk| damage.hits(chunk.start, chunk.len));
        superblocks == [true, true] || of_tail || of_index
    }

    /// C7: a read may say only that what was damaged is corrupt, and scrub must say so too.
    fn judge_error(&self, store: &Store, damage: Damage, error: &Error) -> Result<(), String> {
        let Error::Corrupt { place, .. } = error else {
            return Err(format!("a read says: {error}"));
        };
        let extent_bytes = u64::from(self.knobs.geometry.extent_bytes);
        let at = EXTENTS_START + u64::from(place.extent) * extent_bytes + u64::from(place.offset);
        let is_of = |frame: &&Frame| frame.start <= at && at < frame.start + frame.len;
        let mut frames = self.frames.iter().filter(is_of);
        if !frames.any(|frame| damage.hits(frame.start, frame.len)) {
            return Err(format!(
                "nothing was damaged there, but a read says: {error}"
            ));
        }
        let found = store
            .scrub(place.extent)
            .map_err(|error| error.to_string())?;
        if found.is_empty() {
            return Err(format!("scrub finds nothing, but a read says: {error}"));
        }
        Ok(())
    }

    /// All that can be read must be as in one of the permitted states.
    fn compare(
        &self,
        store: &Store,
        damage: Damage,
        permitted: &[Arc<State>],
        tally: &mut Tally,
    ) -> Result<(), String> {
        let (observed, unreadable) = observe_each(store, &self.pool);
        tally.refused += unreadable.len() as u64;
        for error in unreadable.values() {
            self.judge_error(store, damage, error)?;
        }
        tally.compared += observed.len() as u64;
        let keys = || {
            self.pool
                .all()
                .filter(|key| !unreadable.contains_key(&key.bytes))
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
        let scanned = match observe(store) {
            Ok(scanned) => scanned,
            Err(error) => return self.judge_error(store, damage, &error),
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
