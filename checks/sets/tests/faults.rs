//! Disks that die in every way in which disks die, one in a set of six: what a client asks for goes
//! on, and the disk is named with what happened to it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use set_checks::bench::{Ailment, Disks, SHARD, Set, bytes};
use simdisk::Fault;
use volume::{BlobRef, Volume, VolumeOptions};

type Blobs = Vec<(BlobRef, Vec<u8>)>;

fn fill(set: &Set) -> Blobs {
    let one = |seed: u64| {
        let body = bytes([20 * SHARD, 700, 3 * SHARD][seed as usize % 3], seed);
        (set.put(&body).unwrap().0, body)
    };
    set.set_meta("a", b"1").unwrap();
    (0..12).map(one).collect()
}

fn check(set: &Set, blobs: &Blobs) {
    for (blob, body) in blobs {
        assert!(set.read(blob).unwrap() == *body);
    }
    assert_eq!(set.meta("a"), Some(b"1".to_vec()));
}

/// A write is taken in the end; what is under way when a disk fails may be refused.
fn put_in_time(set: &Set, key: &str) -> (BlobRef, Vec<u8>) {
    let body = bytes(20 * SHARD, key.len() as u64);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let put = set.put(&body).and_then(|put| {
            set.set_meta(key, b"there")?;
            Ok(put)
        });
        match put {
            Ok((blob, _)) => return (blob, body),
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A way to die.
struct Way {
    what: &'static str,
    harm: fn(&Disks, usize),
    /// What the disk says then.
    why: &'static str,
}

fn ways() -> Vec<Way> {
    vec![
        Way {
            what: "a flush fails",
            harm: |disks, number| {
                disks.sims[number].inject(Fault::FlushFails {
                    skip: 0,
                    seed: 7,
                    cached: true,
                });
            },
            why: "flush",
        },
        Way {
            what: "a write fails",
            harm: |disks, number| disks.sims[number].inject(Fault::WriteError { skip: 0 }),
            why: "write",
        },
        Way {
            what: "its file system is read-only",
            harm: |disks, number| disks.ails[number].suffer(Ailment::ReadOnly),
            why: "read-only",
        },
        Way {
            what: "it is gone",
            harm: |disks, number| disks.sims[number].inject(Fault::Vanish { skip: 0 }),
            why: "the device is gone",
        },
        Way {
            what: "nothing of it can be read",
            harm: |disks, number| disks.ails[number].suffer(Ailment::Unreadable),
            why: "reads failed, within",
        },
        Way {
            what: "it does not answer",
            harm: |disks, number| disks.ails[number].suffer(Ailment::Silent),
            why: "it has not answered for 1.5 s",
        },
    ]
}

fn options() -> VolumeOptions {
    VolumeOptions {
        silence_max: Duration::from_millis(1_500),
        ..VolumeOptions::default()
    }
}

/// Reads past the caches of all disks, and writes, until the disk counts as failed.
fn use_until_failed(set: &Set, disks: &Disks, blobs: &Blobs, slot: usize, why: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    let mut round = 0;
    loop {
        disks.sims.iter().for_each(|disk| disk.chill());
        check(set, blobs);
        put_in_time(set, &format!("k{round}"));
        let stats = set.volume.stats();
        let disk = stats.disks.iter().find(|disk| disk.slot == slot).unwrap();
        if let Some(failure) = &disk.failure {
            assert!(failure.contains(why), "{failure}");
            break;
        }
        assert!(Instant::now() < until, "{disk:?}");
        round += 1;
    }
}

fn dies(way: &Way, number: usize) {
    let Way { what, harm, why } = way;
    let disks = Disks::new(6);
    let set = disks.open_with(&disks.all(), options()).unwrap();
    let blobs = fill(&set);
    set.wait(|volume| volume.is_healed() && volume.is_tidy());
    harm(&disks, number);
    use_until_failed(&set, &disks, &blobs, number, why);
    // It is taken out, and what it had is made again on the others.
    set.wait(|volume| !volume.is_whole() && volume.is_healed());
    let events = set.volume.take_events();
    let named = format!("/disk/{number} is out of the set: ");
    assert!(
        events
            .iter()
            .any(|e| e.starts_with(&named) && e.contains(why)),
        "{what}: {events:?}"
    );
    let (late, body) = put_in_time(&set, "late");
    check(&set, &blobs);
    // Nobody waits for it in the end either.
    let began = Instant::now();
    set.close();
    assert!(began.elapsed() < Duration::from_secs(20), "{what}");
    disks.ails[number].suffer(Ailment::None);
    let left: Vec<usize> = disks.all().into_iter().filter(|n| *n != number).collect();
    let set = disks.open_with(&left, options()).unwrap();
    check(&set, &blobs);
    assert!(set.read(&late).unwrap() == body, "{what}");
    assert_eq!(set.meta("late"), Some(b"there".to_vec()), "{what}");
    set.close();
}

/// The one that metadata is read from, and one that has none.
#[test]
fn whatever_a_disk_dies_of_the_others_go_on_and_it_is_named() {
    std::thread::scope(|scope| {
        for way in ways() {
            let way = Arc::new(way);
            for number in [0, 5] {
                let way = way.clone();
                scope.spawn(move || dies(&way, number));
            }
        }
    });
}

/// Most disks at once: a controller that stands still, or a machine. Nothing is given up, and all
/// goes on when it does.
#[test]
fn disks_that_are_silent_together_are_waited_for() {
    let disks = Disks::new(6);
    let set = disks.open_with(&disks.all(), options()).unwrap();
    let blobs = fill(&set);
    set.wait(Volume::is_healed);
    for ails in &disks.ails[..6] {
        ails.suffer(Ailment::Silent);
    }
    let (volume, began) = (set.volume.clone(), Instant::now());
    std::thread::scope(|scope| {
        let put = scope.spawn(|| put_in_time(&set, "meanwhile"));
        std::thread::sleep(Duration::from_secs(4));
        assert!(!put.is_finished(), "nothing is acknowledged meanwhile");
        for ails in &disks.ails[..6] {
            ails.suffer(Ailment::None);
        }
        let (blob, body) = put.join().unwrap();
        assert!(set.read(&blob).unwrap() == body);
    });
    assert!(began.elapsed() > Duration::from_secs(4));
    assert!(
        volume
            .stats()
            .disks
            .iter()
            .all(|disk| disk.failure.is_none())
    );
    set.wait(Volume::is_whole);
    check(&set, &blobs);
    set.close();
}

/// Most disks at once cannot be read, for a while: a cable or a controller. None is given up for
/// that.
#[test]
fn disks_that_are_unreadable_together_are_not_given_up() {
    let disks = Disks::new(6);
    let set = disks.open_with(&disks.all(), options()).unwrap();
    let blobs = fill(&set);
    set.wait(Volume::is_healed);
    for ails in &disks.ails[..6] {
        ails.suffer(Ailment::Unreadable);
    }
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        disks.sims.iter().for_each(|disk| disk.chill());
        for (blob, _) in &blobs {
            assert!(set.read(blob).is_err());
        }
    }
    for ails in &disks.ails[..6] {
        ails.suffer(Ailment::None);
    }
    let stats = set.volume.stats();
    assert!(
        stats.disks.iter().all(|disk| disk.failure.is_none()),
        "{stats:?}"
    );
    check(&set, &blobs);
    put_in_time(&set, "later");
    set.close();
}

/// Not only members may hang: neither a disk that comes to a set, nor the one that is to be the
/// second of a set of one, holds up anything for good.
#[test]
fn a_disk_that_hangs_while_it_comes_does_not_come() {
    let disks = Disks::new(5);
    let set = disks.open_with(&[0, 1, 2, 3], options()).unwrap();
    let blobs = fill(&set);
    let disk = disks.disk(4);
    disks.ails[4].suffer(Ailment::Silent);
    let refused = set.volume.add_disk(disk).unwrap_err();
    assert!(
        refused.to_string().contains("has not answered"),
        "{refused}"
    );
    put_in_time(&set, "later");
    check(&set, &blobs);
    set.close();
    disks.ails[4].suffer(Ailment::None);
}

#[test]
fn a_second_disk_that_hangs_leaves_the_first_alone() {
    let disks = Disks::new(2);
    let set = disks.open_with(&[0], options()).unwrap();
    let blobs = fill(&set);
    for number in 0..200 {
        set.set_meta(&format!("filler{number}"), &[7; 900]).unwrap();
    }
    // So that it does not have everything before it hangs.
    disks.delays[1].store(100, Ordering::SeqCst);
    set.volume.add_disk(disks.disk(1)).unwrap();
    disks.ails[1].suffer(Ailment::Silent);
    put_in_time(&set, "meanwhile");
    set.wait(|volume| volume.stats().joining.is_none());
    let events = set.volume.take_events();
    let says = |e: &volume::Event| e.contains("was not added") && e.contains("has not answered");
    assert!(events.iter().any(says), "{events:?}");
    assert!(set.volume.is_single());
    check(&set, &blobs);
    put_in_time(&set, "later");
    set.close();
    disks.ails[1].suffer(Ailment::None);
}
