//! Many operations, some at the same time, some cut short by a client that leaves or by the
//! power: what was acknowledged is there, and nothing else is left behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};

use bytes::Bytes;
use common::*;
use objects::{DeleteCondition, Error, PutCondition, PutRequest};
use simdisk::{Event, Rng, SimDisk};

/// Lengths on both sides of what is kept inline.
const LENGTHS: [usize; 5] = [0, 700, 8_192, 8_193, 30_000];

/// Holds flushes back while it is shut, so that commits stay undecided.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn on(disk: &SimDisk) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        let observed = gate.clone();
        disk.observe(Some(Arc::new(move |_, event| {
            if event == Event::Flush {
                let shut = observed.shut.lock().unwrap();
                drop(observed.opened.wait_while(shut, |shut| *shut).unwrap());
            }
        })));
        gate
    }

    fn set(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }
}

/// A client that leaves while its put is being committed must not let the next writer in
/// before that is decided: both versions would stay, and the counters would be wrong.
#[test]
fn a_client_that_leaves_does_not_unlock_its_key() {
    for (first, second) in [(10, 20), (20_000, 30_000), (10, 20_000), (20_000, 10)] {
        let world = World::new();
        let gate = Gate::on(&world.disk);
        world.put("key", &body(0, first)).unwrap();
        let mut writer = block_on(world.objects.begin_put(request("key"))).unwrap();
        block_on(writer.write(Bytes::from(body(1, first)))).unwrap();
        gate.set(true);
        poll_and_drop(writer.finish(etag(b"1"), None), 1);
        let objects = world.objects.clone();
        let next = std::thread::spawn(move || {
            block_on(put(&objects, request("key"), &body(2, second))).unwrap();
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        gate.set(false);
        next.join().unwrap();
        assert_eq!(world.get("key").unwrap(), body(2, second));
        world.audit();
        // A delete that nobody waits for likewise.
        gate.set(true);
        let delete = world
            .objects
            .delete(&ROOT, BUCKET, "key", DeleteCondition::None);
        poll_and_drop(delete, 1);
        gate.set(false);
        world.put("key", &body(3, first)).unwrap();
        assert_eq!(world.get("key").unwrap(), body(3, first));
        world.audit();
    }
}

#[test]
fn one_of_many_creators_wins() {
    let world = World::new();
    for round in 0..20 {
        let key = format!("key-{round}");
        let barrier = Barrier::new(4);
        let won = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for n in 0..4 {
                let (world, key, barrier, won) = (&world, &key, &barrier, &won);
                scope.spawn(move || {
                    let request = PutRequest {
                        condition: PutCondition::IfNoneMatchAny,
                        ..request(key)
                    };
                    let body = body(n, LENGTHS[(round + n as usize) % LENGTHS.len()]);
                    barrier.wait();
                    match block_on(put(&world.objects, request, &body)) {
                        Ok(_) => {
                            won.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(Error::PreconditionFailed { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                });
            }
        });
        assert_eq!(won.load(Ordering::SeqCst), 1);
    }
    world.audit();
}

/// Several writers over a few keys, clients that leave, deletes, and the sweep beside them.
/// (The store itself asserts in debug builds that what a batch expects still holds.)
#[test]
fn writers_of_the_same_keys_leave_no_trace_of_each_other() {
    let world = World::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let world = &world;
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for n in 0..150 {
                    let key = format!("key-{}", rng.below(4));
                    let body = body(n, *rng.pick(&LENGTHS));
                    match rng.below(8) {
                        0 => drop(world.delete(&key).unwrap()),
                        1 => poll_and_drop(put(&world.objects, request(&key), &body), 2),
                        2 => {
                            let gone = DeleteCondition::None;
                            poll_and_drop(world.objects.delete(&ROOT, BUCKET, &key, gone), 1);
                        }
                        3 => match world.get(&key) {
                            Ok(_) | Err(Error::NoSuchKey { .. }) => {}
                            Err(error) => panic!("{error}"),
                        },
                        _ => drop(world.put(&key, &body).unwrap()),
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..300 {
                world.objects.sweep_step().unwrap();
                std::thread::yield_now();
            }
        });
    });
    // Every lock is free again once what was left is decided.
    for key in 0..4 {
        world.put(&format!("key-{key}"), b"last").unwrap();
    }
    world.audit();
}

/// A bucket is deleted while objects are put into it: never both.
#[test]
fn no_object_lands_in_a_bucket_that_is_deleted() {
    let world = World::new();
    for round in 0..30 {
        std::thread::scope(|scope| {
            let put = scope.spawn(|| world.put("key", &body(round, LENGTHS[round as usize % 5])));
            let delete = scope.spawn(|| block_on(world.objects.delete_bucket(&ROOT, BUCKET)));
            match (put.join().unwrap(), delete.join().unwrap()) {
                (Ok(_), Err(Error::BucketNotEmpty { .. })) => assert!(world.delete("key").unwrap()),
                (Err(Error::NoSuchBucket { .. }), Ok(())) => {
                    block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
                }
                other => panic!("{other:?}"),
            }
        });
        assert!(world.list().is_empty());
    }
    world.audit();
}

/// What a key may hold: one body or none, or one of several while an outcome is unknown.
type Allowed = BTreeMap<String, Vec<Option<Vec<u8>>>>;

/// One operation; tells what the key may hold afterwards.
fn step(world: &World, rng: &mut Rng, n: u64, allowed: &mut Allowed) {
    let key = format!("key-{}", rng.below(6));
    let body = body(n, *rng.pick(&LENGTHS));
    let states = allowed.entry(key.clone()).or_insert_with(|| vec![None]);
    let (wanted, outcome) = match rng.below(10) {
        0 | 1 => (None, Some(world.delete(&key).map(|_| ()))),
        2 | 3 => {
            let polls = 1 + rng.index(4);
            poll_and_drop(put(&world.objects, request(&key), &body), polls);
            (Some(body), None)
        }
        4 => {
            // Nothing but stripes, of a blob to which nothing will ever refer.
            let mut writer = match block_on(world.objects.begin_put(request(&key))) {
                Ok(writer) => writer,
                Err(_) => return,
            };
            let _ = block_on(writer.write(Bytes::from(body)));
            if rng.one_in(2) {
                std::mem::forget(writer);
            }
            return;
        }
        _ => {
            let result = world.put(&key, &body).map(|_| ());
            (Some(body), Some(result))
        }
    };
    match outcome {
        Some(Ok(())) => *states = vec![wanted],
        // A failed disk, or a client that left: done or not.
        Some(Err(_)) | None => states.push(wanted),
    }
}

fn check(world: &World, allowed: &mut Allowed, context: &str) {
    for (key, states) in allowed {
        let held = match world.get(key) {
            Ok(body) => Some(body),
            Err(Error::NoSuchKey { .. }) => None,
            Err(error) => panic!("{context}: {key}: {error}"),
        };
        assert!(
            states.contains(&held),
            "{context}: {key} holds {:?} bytes, {} states are allowed",
            held.map(|body| body.len()),
            states.len()
        );
        *states = vec![held];
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_else_stays() {
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let mut world = World::new();
        let mut allowed = Allowed::new();
        let mut n = 0;
        for round in 0..6 {
            if round > 0 {
                world.disk.cut_after(rng.below(120));
            }
            for _ in 0..60 {
                n += 1;
                step(&world, &mut rng, n, &mut allowed);
                if rng.one_in(10) {
                    // It fails once the power is cut, as everything does.
                    let _ = world.objects.sweep_step();
                }
            }
            let context = format!("seed {seed}, round {round}");
            world = world.crash(&mut rng);
            check(&world, &mut allowed, &context);
            if rng.one_in(3) {
                // A sweep that is cut short itself.
                world.disk.cut_after(rng.below(30));
                while matches!(world.objects.sweep_step(), Ok(true)) {}
                world = world.crash(&mut rng);
                check(&world, &mut allowed, &context);
            }
            world.audit();
        }
        world = world.restart();
        check(&world, &mut allowed, "after a clean restart");
        world.audit();
    }
}
