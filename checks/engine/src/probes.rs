//! C4: at writes and flushes that the engine issues, the disk is frozen, and a crash at that
//! moment is recovered on the side.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shardstore::{Dependency, Error, Store};
use simdisk::{Crash, Frozen, Image, Observer, Rng, SimDisk};

use crate::failure::{Verdict, property, violated};
use crate::model::{Batch, Bytes, Fate, Observed, Seen, State, explain};
use crate::reads::{observe, observe_each};
use crate::reboot::open;
use crate::world::{InFlight, World};

/// A moment at which the power might have been cut.
struct Caught {
    frozen: Frozen,
    /// Which of the watched dependencies said that they were persistent.
    persistent: Vec<bool>,
}

struct Watch {
    one_in: u64,
    rng: Rng,
    dependencies: Vec<Dependency>,
    caught: Vec<Caught>,
}

/// One in so many images is read key by key as well, and one in so many written to.
const EACH_ONE_IN: u64 = 4;
const ON_ONE_IN: u64 = 4;

/// What is written to a recovered image.
const ON: &[u8] = b"and goes on";

/// Catches moments.
pub struct Probes {
    watch: Arc<Mutex<Watch>>,
    /// Try every subset of pending sectors, not one (C3).
    exhaustive: bool,
}

/// Most pending sectors of which all subsets are tried.
const SECTORS_MAX: usize = 10;
/// Most images for which they are all tried, since a sector may have several versions.
const IMAGES_MAX: usize = 4096;
/// How many are sampled if there are more.
const SAMPLES: usize = 256;

impl Probes {
    /// Catches one write or flush in `one_in`; none if that is 0.
    pub fn new(seed: u64, one_in: u64) -> Probes {
        let rng = Rng::new(seed ^ 0xC4);
        let watch = Watch {
            one_in,
            rng,
            dependencies: Vec::new(),
            caught: Vec::new(),
        };
        Probes {
            watch: Arc::new(Mutex::new(watch)),
            exhaustive: false,
        }
    }

    /// From now on: every write and flush, every subset.
    pub fn exhaust(&mut self) {
        self.exhaustive = true;
        self.lock().one_in = 1;
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a disk from now on.
    pub fn attach(&self, disk: &SimDisk) {
        let watch = self.watch.clone();
        let observer: Observer = Arc::new(move |disk, _| {
            let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
            let one_in = watch.one_in;
            if one_in > 0 && !disk.is_cut() && watch.rng.one_in(one_in) {
                watch.catch(disk);
            }
        });
        disk.observe(Some(observer));
    }

    /// The batches whose dependencies are asked at each moment of the next call.
    pub(crate) fn watch(&mut self, inflight: &[InFlight]) {
        let mut watch = self.lock();
        if watch.one_in > 0 {
            watch.dependencies = inflight
                .iter()
                .map(|item| item.dependency.clone())
                .collect();
            watch.caught.clear();
        }
    }

    /// Catches this moment, whatever the odds.
    pub(crate) fn catch_now(&mut self, disk: &SimDisk) {
        self.lock().catch(disk);
    }

    fn take(&mut self) -> Vec<(Caught, Rng)> {
        let mut watch = self.lock();
        let caught = std::mem::take(&mut watch.caught);
        caught
            .into_iter()
            .map(|caught| (caught, watch.rng.fork()))
            .collect()
    }

    /// The media that a crash at this moment is tried with.
    fn images(&self, frozen: &Frozen, rng: &mut Rng) -> Vec<Image> {
        if !self.exhaustive {
            let mode = *rng.pick(&Crash::ALL);
            return vec![frozen.crash(rng, mode)];
        }
        let sectors = frozen.pending_sectors();
        let images: usize = sectors.iter().map(|sector| sector.versions + 1).product();
        if sectors.len() > SECTORS_MAX || images > IMAGES_MAX {
            return (0..SAMPLES)
                .map(|_| frozen.crash(rng, Crash::Hostile))
                .collect();
        }
        let every = (0..images).map(|choice| {
            let mut left = choice;
            frozen.image_keeping(|sector| {
                let keep = left % (sector.versions + 1);
                left /= sector.versions + 1;
                keep
            })
        });
        every.collect()
    }
}

impl Watch {
    fn catch(&mut self, disk: &SimDisk) {
        let persistent = self
            .dependencies
            .iter()
            .map(Dependency::is_persistent)
            .collect();
        self.caught.push(Caught {
            frozen: disk.freeze(),
            persistent,
        });
    }
}

impl World {
    /// C4: a crash at each caught moment recovers to a state in which every batch that said
    /// so was persistent, and the others are there as a whole or not at all.
    pub(crate) fn check_probes(
        &mut self,
        before: &Arc<State>,
        outcome: &[(Batch, Option<Error>)],
    ) -> Verdict {
        for (caught, mut rng) in self.probes.take() {
            // A batch that was refused for want of space was never written: it must be absent.
            let log: Vec<(Batch, Fate)> = outcome
                .iter()
                .zip(&caught.persistent)
                .filter(|((_, error), _)| !matches!(error, Some(Error::OutOfSpace)))
                .map(|((batch, _), persistent)| {
                    (
                        batch.clone(),
                        if *persistent {
                            Fate::Certain
                        } else {
                            Fate::Open
                        },
                    )
                })
                .collect();
            let images = self.probes.images(&caught.frozen, &mut rng);
            for image in images {
                self.tally.images += 1;
                if let Err(detail) = self.recovers(image, before, &log, &mut rng) {
                    return violated(property::EVERY_MOMENT, detail);
                }
            }
        }
        Ok(())
    }

    fn recovers(
        &self,
        image: Image,
        base: &State,
        log: &[(Batch, Fate)],
        rng: &mut Rng,
    ) -> Result<(), String> {
        let disk = Arc::new(SimDisk::new(image));
        let (store, observed) = self.recover(&disk)?;
        explain(base, log, &observed)?;
        if rng.one_in(EACH_ONE_IN) {
            let (each, unreadable) = observe_each(&store, &self.pool);
            if !unreadable.is_empty() || each != observed {
                return Err("keys on their own have something else than a scan shows".to_owned());
            }
        }
        if rng.one_in(ON_ONE_IN) {
            self.goes_on(&disk, &store, observed)?;
        }
        Ok(())
    }

    fn recover(&self, disk: &Arc<SimDisk>) -> Result<(Store, Observed), String> {
        let recovered = open(disk, &self.knobs.options).and_then(|store| {
            let observed = observe(&store)?;
            Ok((store, observed))
        });
        recovered.map_err(|error| format!("recovery: {error}"))
    }

    /// What recovery left can be written to: a put before a checkpoint and one behind it survive
    /// the next power cut, with all else.
    fn goes_on(
        &self,
        disk: &Arc<SimDisk>,
        store: &Store,
        mut expected: Observed,
    ) -> Result<(), String> {
        let mut keys = self.pool.all();
        for key in [keys.next(), keys.next()].into_iter().flatten() {
            let batch = shardstore::Batch::new().put(key.to_key(), ON);
            let taken = store.submit(batch).and_then(|dependency| {
                while store.pump()? {}
                Ok(dependency.poll_now())
            });
            match taken {
                Ok(Some(Ok(()))) => {
                    let seen = Seen {
                        value: ON.into(),
                        payload: Bytes::default(),
                        seq: 0,
                    };
                    expected.insert(key.bytes.clone(), seen);
                }
                Ok(Some(Err(Error::OutOfSpace))) => {}
                other => return Err(format!("a put after recovery: {other:?}")),
            }
            match store.checkpoint() {
                Ok(()) | Err(Error::OutOfSpace) => {}
                Err(error) => return Err(format!("a checkpoint after recovery: {error}")),
            }
        }
        let next = Arc::new(SimDisk::new(disk.medium()));
        let (_, observed) = self.recover(&next)?;
        let content = |observed: &Observed| -> Vec<(Bytes, Bytes, Bytes)> {
            let seen = observed.iter();
            seen.map(|(key, seen)| (key.clone(), seen.value.clone(), seen.payload.clone()))
                .collect()
        };
        if content(&observed) != content(&expected) {
            return Err(
                "after recovery, puts and another power cut something else is there".into(),
            );
        }
        Ok(())
    }
}
