//! Every check, briefly: what `cargo xtask prove` runs for minutes and hours. A failure here
//! prints the number with which it replays.

use engine_checks::checks::Check;
use engine_checks::mutants::{self, Bug};
use engine_checks::prove;
use simdisk::Rng;

fn holds(check: Check, count: u64) {
    let mut rng = Rng::new(check as u64);
    for index in 0..count {
        let number = if check.total(false).is_some() {
            index
        } else {
            rng.bits()
        };
        if let Some(failure) = check.run(number, None, false).failure {
            panic!("{}", prove::explain(check, number, &failure, None));
        }
    }
}

#[test]
fn c1_every_answer_is_the_models() {
    holds(Check::C1, 200);
}

#[test]
fn c2_what_was_persistent_survives_crashes() {
    holds(Check::C2, 150);
}

#[test]
fn c3_every_crash_of_small_workloads_recovers() {
    holds(Check::C3, 18);
}

#[test]
fn c5_recovery_is_idempotent() {
    holds(Check::C5, 100);
}

#[test]
fn c6_under_faults_answers_are_right_or_typed_errors() {
    holds(Check::C6, 200);
}

#[test]
fn c7_rot_is_never_served() {
    holds(Check::C7, 3);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for check in [Check::C1, Check::C2, Check::C3, Check::C5, Check::C6] {
        let mut different = 0;
        for number in 0..6 {
            let first = check.run(number, None, false);
            let again = check.run(number, None, false);
            assert_eq!(first.trace, again.trace, "{} {number:#x}", check.name());
            let other = check.run(number + 6, None, false);
            different += u32::from(other.trace != first.trace);
        }
        assert!(different > 0, "the trace of {} says nothing", check.name());
    }
}

/// The model's seeded bugs can be tried here because they do not switch the engine, which
/// other tests of this process use.
#[test]
fn bugs_in_the_model_are_noticed() {
    for (name, check) in [("M9", Check::C2), ("M15", Check::C1)] {
        let target = mutants::find(name).expect("it is in the table");
        let Bug::Model(bug) = target.bug else {
            panic!("{name} is a bug of the model")
        };
        let found = (0..2000).any(|number| check.run(number, Some(bug), false).failure.is_some());
        assert!(found, "{name} survives {}", check.name());
    }
}
