//! A case: what one seed means, and how it is run.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use simdisk::Rng;

use crate::failure::{Failure, property};
use crate::generate::{Generator, Profile};
use crate::keys::KeyPool;
use crate::knobs::{Knobs, set_clock};
use crate::model::ModelBug;
use crate::ops::Step;
use crate::tally::{Tally, Trace};
use crate::world::World;

/// Everything that a seed decides.
#[derive(Debug, Clone)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// What it is made of.
    pub profile: Profile,
    /// The sizes.
    pub knobs: Knobs,
    /// The keys.
    pub pool: KeyPool,
    /// The operations.
    pub steps: Vec<Step>,
    /// A bug seeded into the model.
    pub bug: Option<ModelBug>,
}

/// What came of a case.
#[derive(Debug)]
pub struct Outcome {
    /// The violated property, if there is one.
    pub failure: Option<Failure>,
    /// What was done.
    pub tally: Tally,
    /// The hash of all that was seen.
    pub trace: u64,
    /// The story, if it was asked for.
    pub log: Vec<String>,
}

impl Case {
    /// Draws the case of a seed. `probe_one_in`: see [`Knobs`].
    pub fn generate(seed: u64, profile: Profile, probe_one_in: u64) -> Case {
        let mut rng = Rng::new(seed);
        let mut knobs = Knobs::generate(&mut rng);
        knobs.probe_one_in = probe_one_in;
        let pool = KeyPool::generate(&mut rng);
        let steps = Generator::new(rng, &pool, &knobs.geometry, profile).steps();
        Case {
            seed,
            profile,
            knobs,
            pool,
            steps,
            bug: None,
        }
    }

    /// Runs it. A panic is a violated property as well.
    pub fn run(&self, with_log: bool) -> Outcome {
        set_clock(0);
        let run = || {
            let (knobs, pool) = (self.knobs.clone(), self.pool.clone());
            let mut world = match World::new(self.seed, self.profile, knobs, pool, self.bug) {
                Ok(world) => world,
                Err(failure) => {
                    let (tally, trace) = (Tally::default(), Trace::default().value());
                    return Outcome {
                        failure: Some(failure),
                        tally,
                        trace,
                        log: Vec::new(),
                    };
                }
            };
            world.log = with_log.then(Vec::new);
            let failure = world.run(&self.steps).err();
            Outcome {
                failure,
                tally: std::mem::take(&mut world.tally),
                trace: world.trace.value(),
                log: world.log.take().unwrap_or_default(),
            }
        };
        guarded(run).unwrap_or_else(|detail| Outcome {
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
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static GUARDED: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs something; a panic becomes its message and place. Panics of other threads, and
/// outside of this function, are reported as always.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDED.with(|guarded| *guarded.borrow()) {
                PANIC.with(|panic| *panic.borrow_mut() = Some(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
    let outer = GUARDED.with(|guarded| guarded.replace(true));
    let result = catch_unwind(AssertUnwindSafe(run));
    GUARDED.with(|guarded| *guarded.borrow_mut() = outer);
    result.map_err(|_| {
        let text = PANIC.with(|panic| panic.borrow_mut().take());
        text.unwrap_or_else(|| "a panic without a message".to_owned())
            .replace('\n', " ")
    })
}
