//! Disks that die in every way in which disks die, one in a set of six: what a client asks for goes
//! on, and the disk is named with what happened to it.

use std::sync::Arc;
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

/// Ways to die, and what the disk says then.
fn ways() -> Vec<(&'static str, fn(&Disks, usize), &'static str)> {
    vec![
        (
            "a flush fails",
            |disks, number| {
                disks.sims[number].inject(Fault::FlushFails {
                    skip: 0,
                    seed: 7,
                    cached: true,
                });
            },
            "flush",
        ),
        (
            "a write fails",
            |disks, number| disks.sims[number].inject(Fault::WriteError { skip: 0 }),
            "write",
        ),
        (
            "its file system is read-only",
            |disks, number| disks.ails[number].suffer(Ailment::ReadOnly),
            "read-only",
        ),
        (
            "it is gone",
            |disks, number| disks.sims[number].inject(Fault::Vanish { skip: 0 }),
            "",
        ),
        (
            "nothing of it can be read",
            |disks, number| disks.ails[number].suffer(Ailment::Unreadable),
            "its last 64 reads failed",
        ),
        (
            "it does not answer",
            |disks, number| disks.ails[number].suffer(Ailment::Silent),
            "it has not answered for 1.5 s",
        ),
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

fn dies(way: &(&'static str, fn(&Disks, usize), &'static str), number: usize) {
    let (what, harm, why) = way;
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
