//! Blobs on a real engine over a simulated disk, with stripes small enough to have many.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use simdisk::{Crash, Event, Image, Rng, SimDisk};
use volume::shardstore::{Batch, Disk, Engine, Geometry, Options, Store};
use volume::{
    BlobId, BlobRef, Identity, Key, MetaBatch, SliceMap, Volume, VolumeError, VolumeOptions,
    block_on, limits,
};

/// Bytes of a stripe.
const STRIPE: usize = 1024;
const GEOMETRY: Geometry = Geometry {
    extent_bytes: 64 * 1024,
    payload_bytes_max: 16 * 1024,
};

fn formatted(capacity: u64) -> Arc<SimDisk> {
    formatted_with(capacity, GEOMETRY)
}

fn formatted_with(capacity: u64, geometry: Geometry) -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::new(Image::blank(capacity, 512)));
    let identity = Identity {
        disk: [1; 16],
        set: [2; 16],
    };
    Store::format(&*disk, identity, geometry).unwrap();
    disk
}

fn open(disk: &Arc<SimDisk>) -> Volume {
    let disk: Arc<dyn Disk> = disk.clone();
    let store = Store::open(disk, Options::default()).unwrap();
    let engine = Engine::start(store, 1).unwrap();
    // Room for three stripes, so that writers wait for each other.
    let options = VolumeOptions {
        in_flight_bytes_max: 3 * STRIPE,
        shard_bytes_max: STRIPE as u32,
        ..VolumeOptions::default()
    };
    Volume::with_options(vec![engine], options).unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::new(len as u64).fill(&mut bytes);
    bytes
}

/// Writes a blob in pieces of `piece` bytes, durably.
fn put(volume: &Volume, body: &[u8], piece: usize) -> Result<BlobRef, VolumeError> {
    block_on(async {
        let mut writer = volume.blob_writer(b"label".to_vec(), None)?;
        for piece in body.chunks(piece) {
            writer.write(piece).await?;
        }
        let finished = writer.finish(b"trailer".to_vec()).await?;
        for dependency in finished.dependencies().to_vec() {
            dependency.await?;
        }
        Ok(finished.keep())
    })
}

fn read(volume: &Volume, blob: &BlobRef, range: Range<u64>) -> Result<Vec<u8>, VolumeError> {
    block_on(async {
        let mut reader = volume.pin_blob(blob)?.reader(range);
        let mut body = Vec::new();
        while let Some(piece) = reader.next().await {
            let piece = piece?;
            assert!(!piece.is_empty() && piece.len() <= STRIPE);
            body.extend(piece);
        }
        Ok(body)
    })
}

/// Every blob with a frame on the disk.
fn blobs(volume: &Volume) -> Vec<BlobId> {
    let snapshot = volume.snapshot();
    let mut from = BlobId::FIRST;
    let mut found = Vec::new();
    while let Some(frame) = block_on(snapshot.blob_at_or_after(from)).unwrap() {
        assert_eq!(frame.stripe, 0, "the first frame outlives the others");
        assert_eq!(frame.value.unwrap().label.as_deref(), Some(&b"label"[..]));
        found.push(frame.blob);
        from = frame.blob.successor().unwrap();
    }
    found
}

/// Finishes what dropped writers and deletions left to do.
fn settle(volume: &Volume) {
    for _ in 0..10_000 {
        if !volume.housekeep().unwrap() && volume.stats().deletions_unsettled == 0 {
            return;
        }
        std::thread::yield_now();
    }
    panic!("deletions do not settle: {:?}", volume.stats());
}

#[test]
fn what_is_written_is_read_at_any_size_and_range() {
    let disk = formatted(8 << 20);
    let volume = open(&disk);
    let sizes = [
        0,
        1,
        STRIPE - 1,
        STRIPE,
        STRIPE + 1,
        4 * STRIPE,
        9 * STRIPE + 7,
    ];
    for (size, piece) in sizes.into_iter().zip([1, 1, 100, 5000, 1, 1024, 333]) {
        let body = bytes(size);
        let blob = put(&volume, &body, piece).unwrap();
        assert_eq!(
            (blob.plain_len, blob.stored_len),
            (size as u64, size as u64)
        );
        assert_eq!(blob.stripes() as usize, size.div_ceil(STRIPE).max(1));
        // From memory, and through the I/O threads with read-ahead.
        for cold in [false, true] {
            let edges = [
                0,
                1,
                STRIPE - 1,
                STRIPE,
                STRIPE + 1,
                size / 2,
                size,
                size + 9,
            ];
            for (from, to) in edges.iter().flat_map(|from| edges.map(|to| (*from, to))) {
                if cold {
                    disk.chill();
                }
                let got = read(&volume, &blob, from as u64..to as u64).unwrap();
                let expected = body.get(from..to.min(size)).unwrap_or_default();
                assert_eq!(got, expected, "{size} bytes, {from}..{to}, cold: {cold}");
            }
        }
    }
    volume.close().unwrap();
}

#[test]
fn a_blob_is_there_after_a_power_cut_and_ids_are_not_used_again() {
    let mut disk = formatted(4 << 20);
    let mut ids = Vec::new();
    for round in 0..4 {
        let volume = open(&disk);
        assert_eq!(blobs(&volume), ids);
        let blob = put(&volume, &bytes(3 * STRIPE), 700).unwrap();
        assert!(!ids.contains(&blob.id));
        ids.push(blob.id);
        disk = Arc::new(disk.crash(&mut Rng::new(round), Crash::Sectors));
        let volume = open(&disk);
        let got = read(&volume, &blob, 0..u64::MAX).unwrap();
        assert_eq!(got, bytes(3 * STRIPE));
        volume.close().unwrap();
    }
}

#[test]
fn what_nobody_keeps_is_deleted() {
    let disk = formatted(4 << 20);
    let volume = open(&disk);
    let kept = put(&volume, &bytes(10), 10).unwrap();
    block_on(async {
        let mut dropped = volume.blob_writer(b"label".to_vec(), None).unwrap();
        dropped.write(&bytes(9 * STRIPE)).await.unwrap();
        drop(dropped);
        let mut finished = volume.blob_writer(b"label".to_vec(), None).unwrap();
        finished.write(&bytes(9 * STRIPE)).await.unwrap();
        drop(finished.finish(Vec::new()).await.unwrap());
        let mut later = volume.blob_writer(b"label".to_vec(), None).unwrap();
        later.write(&bytes(9 * STRIPE)).await.unwrap();
        later.finish(Vec::new()).await.unwrap().discard_later();
    });
    assert!(blobs(&volume).len() > 1, "the last is left to housekeeping");
    settle(&volume);
    assert_eq!(blobs(&volume), [kept.id]);
    assert!(volume.deletions_settled());
    volume.close().unwrap();
}

/// A call that was dropped half-way may have taken any part of its bytes.
#[test]
fn a_cancelled_write_cannot_be_finished() {
    let disk = formatted(4 << 20);
    let volume = open(&disk);
    let mut writer = volume.blob_writer(b"label".to_vec(), None).unwrap();
    let body = bytes(32 * STRIPE);
    // No flush ends before the write was cancelled.
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let observed = gate.clone();
    disk.observe(Some(Arc::new(move |_, event| {
        if event == Event::Flush {
            drop(observed.lock().unwrap());
        }
    })));
    let mut context = Context::from_waker(Waker::noop());
    let pending = pin!(writer.write(&body)).as_mut().poll(&mut context);
    assert!(pending.is_pending(), "32 stripes do not fit in flight");
    drop(held);
    assert!(matches!(
        block_on(writer.write(b"more")),
        Err(VolumeError::Broken)
    ));
    assert!(matches!(
        block_on(writer.finish(Vec::new())),
        Err(VolumeError::Broken)
    ));
    settle(&volume);
    assert_eq!(blobs(&volume), []);
    volume.close().unwrap();
}

/// Counts of the first disk's live snapshots.
fn snapshots(volume: &Volume) -> u64 {
    volume.stats().disks[0].stats.snapshots
}

#[test]
fn a_deletion_waits_for_the_last_reader_and_for_nothing_else() {
    let disk = formatted(4 << 20);
    let volume = open(&disk);
    let body = bytes(9 * STRIPE);
    let (blob, other) = (
        put(&volume, &body, STRIPE).unwrap(),
        put(&volume, &body, STRIPE).unwrap(),
    );
    let mut readers: Vec<_> = (0..2)
        .map(|_| volume.pin_blob(&blob).unwrap().reader(0..u64::MAX))
        .collect();
    let first = block_on(readers[0].next()).unwrap().unwrap();
    assert_eq!(snapshots(&volume), 0, "a reader holds no snapshot");
    let deletion = volume.delete_blob(&blob, Vec::new());
    let unread = volume.delete_blob(&other, Vec::new());
    while unread.outcome().is_none() {
        volume.housekeep().unwrap();
    }
    assert!(matches!(unread.outcome(), Some(Ok(()))));
    assert!(deletion.outcome().is_none() && !volume.deletions_settled());
    drop(readers.pop());
    volume.housekeep().unwrap();
    let stats = volume.stats();
    assert_eq!((stats.blobs_pinned, stats.deletions_unsettled), (1, 1));
    disk.chill();
    let mut whole = first;
    while let Some(piece) = block_on(readers[0].next()) {
        whole.extend(piece.unwrap());
    }
    assert_eq!(whole, body);
    drop(readers);
    settle(&volume);
    assert!(matches!(deletion.outcome(), Some(Ok(()))));
    assert!(volume.deletions_settled());
    assert_eq!(blobs(&volume), []);
    let error = read(&volume, &blob, 0..u64::MAX).unwrap_err();
    assert!(
        matches!(&error, VolumeError::Corrupt { what, .. } if what.contains("stripe 0")),
        "{error}"
    );
    volume.close().unwrap();
}

/// A pin that comes before the batch that ends the record is durable still counts.
#[test]
fn a_deletion_looks_for_readers_only_when_its_record_is_gone() {
    let disk = formatted(4 << 20);
    let volume = open(&disk);
    let blob = put(&volume, &bytes(2 * STRIPE), STRIPE).unwrap();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let observed = gate.clone();
    disk.observe(Some(Arc::new(move |_, event| {
        if event == Event::Flush {
            drop(observed.lock().unwrap());
        }
    })));
    let batch = MetaBatch::new().delete(&Key::plain(*b"\0\0\0\0record"));
    let ended = volume.commit(batch).unwrap();
    let deletion = volume.delete_blob(&blob, vec![ended.clone()]);
    assert!(!volume.housekeep().unwrap());
    let pin = volume.pin_blob(&blob).unwrap();
    drop(held);
    ended.wait().unwrap();
    assert!(!volume.housekeep().unwrap(), "it is parked");
    assert!(read(&volume, &blob, 0..u64::MAX).is_ok());
    drop(pin);
    settle(&volume);
    assert!(matches!(deletion.outcome(), Some(Ok(()))));
    assert_eq!(blobs(&volume), []);
    volume.close().unwrap();
}

/// Stripes without the first one could not be attributed after a crash.
#[test]
fn the_second_stripe_waits_for_the_first() {
    let disk = formatted(4 << 20);
    let volume = open(&disk);
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let observed = gate.clone();
    disk.observe(Some(Arc::new(move |_, event| {
        if event == Event::Flush {
            drop(observed.lock().unwrap());
        }
    })));
    let mut writer = volume.blob_writer(b"label".to_vec(), None).unwrap();
    let body = bytes(2 * STRIPE + 1);
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut write = pin!(writer.write(&body));
        assert!(write.as_mut().poll(&mut context).is_pending());
        assert_eq!(volume.stats().in_flight_bytes, STRIPE as u64);
        drop(held);
        block_on(write).unwrap();
    }
    drop(block_on(writer.finish(Vec::new())).unwrap().keep());
    volume.close().unwrap();
}

#[test]
fn too_many_readers_are_told_to_wait() {
    let volume = open(&formatted(4 << 20));
    let mut blob = put(&volume, &bytes(1), 1).unwrap();
    let pins: Vec<_> = (0..volume::limits::PINNED_BLOBS_MAX)
        .map(|at| {
            blob.id.counter = at as u64;
            volume.pin_blob(&blob).unwrap()
        })
        .collect();
    assert!(volume.pin_blob(&blob).is_ok(), "one more of the same");
    blob.id.counter += 1;
    assert!(matches!(volume.pin_blob(&blob), Err(VolumeError::Busy)));
    drop(pins);
    assert!(volume.pin_blob(&blob).is_ok());
    volume.close().unwrap();
}

/// A deletion of several batches, cut by a crash, leaves the blob's beginning, so that what
/// remains still says what it is.
#[test]
fn a_large_blob_is_deleted_from_its_end() {
    let disk = formatted(16 << 20);
    let volume = open(&disk);
    let blob = put(&volume, &bytes(2_000 * STRIPE), 64 * STRIPE).unwrap();
    let deletion = volume.delete_blob(&blob, Vec::new());
    while !volume.housekeep().unwrap() {
        std::thread::yield_now();
    }
    assert!(
        deletion.outcome().is_none(),
        "2,000 shards are several batches"
    );
    let disk = Arc::new(disk.crash(&mut Rng::new(3), Crash::Sectors));
    let volume = open(&disk);
    assert_eq!(blobs(&volume), [blob.id]);
    let snapshot = volume.snapshot();
    let again = block_on(volume.delete_orphan(&snapshot, blob.id)).unwrap();
    settle(&volume);
    assert!(matches!(again.unwrap().outcome(), Some(Ok(()))));
    assert_eq!(blobs(&volume), []);
    let snapshot = volume.snapshot();
    let nothing = block_on(volume.delete_orphan(&snapshot, blob.id)).unwrap();
    assert!(nothing.is_none());
    volume.close().unwrap();
}

/// The deletion that follows a batch does not happen if the batch does not.
#[test]
fn a_deletion_after_a_failed_batch_fails() {
    let volume = open(&formatted(4 << 20));
    let blob = put(&volume, &bytes(STRIPE), STRIPE).unwrap();
    let big = bytes(STRIPE);
    let key = Key::plain(*b"\0\0\0\0fill");
    // Fill the disk until a batch is refused for lack of space.
    let refused = (0..100_000).find_map(|_| {
        let batch = MetaBatch::new().put(&key, Vec::new(), big.clone());
        let fill = volume.blob_writer(b"fill".to_vec(), None).unwrap();
        std::mem::forget(block_on(async {
            let mut fill = fill;
            fill.write(&big).await.ok();
            fill.finish(Vec::new()).await.ok()
        }));
        let dependency = volume.commit(batch).unwrap();
        dependency.wait().is_err().then_some(dependency)
    });
    let refused = refused.expect("the disk is full at some time");
    let deletion = volume.delete_blob(&blob, vec![refused]);
    for _ in 0..1_000 {
        if deletion.outcome().is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(matches!(
        deletion.outcome(),
        Some(Err(VolumeError::OutOfSpace))
    ));
    assert!(read(&volume, &blob, 0..u64::MAX).is_ok());
    // The other way round, on a disk as full as that, it does.
    let deletion = volume.delete_blob(&blob, Vec::new());
    for _ in 0..1_000 {
        if deletion.outcome().is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(matches!(deletion.outcome(), Some(Ok(()))));
    assert!(
        volume.deletions_settled(),
        "what stayed by right is no failure"
    );
    volume.close().unwrap();
}

/// What commits as one belongs in one slice, and in one that there is.
#[test]
fn a_batch_that_spans_slices_is_refused() {
    let volume = open(&formatted(4 << 20));
    let put = |batch: MetaBatch, key: &[u8]| batch.put(&Key::plain(key), Vec::new(), Vec::new());
    let commit = |keys: &[&[u8]]| {
        let batch = keys.iter().copied().fold(MetaBatch::new(), put);
        volume.commit(batch).map(|dependency| dependency.wait())
    };
    assert!(matches!(commit(&[b"\0\0\0\0a", b"\0\0\0\0b"]), Ok(Ok(()))));
    let refused: [&[&[u8]]; 3] = [
        &[b"\0\0\0\0a", b"\0\0\0\x01a"],
        &[b"\0\0\0\x01a"],
        &[b"abc"],
    ];
    for keys in refused {
        let error = commit(keys).unwrap_err();
        assert!(matches!(error, VolumeError::NotOneSlice), "{error}");
    }
    volume.close().unwrap();
}

/// Few large entries fill a page as many small ones do, and pages together are the whole.
#[test]
fn a_page_of_a_scan_is_bounded_by_bytes() {
    let volume = open(&formatted(8 << 20));
    let key = |n: usize| format!("\0\0\0\0{n:04}").into_bytes();
    for n in 0..400 {
        let value = if n < 100 { 8_000 } else { 10 };
        let batch = MetaBatch::new().put(&Key::plain(key(n)), vec![1; value], Vec::new());
        volume.commit(batch).unwrap().wait().unwrap();
    }
    let (mut from, mut seen) = (key(0), 0);
    loop {
        let page = block_on(volume.snapshot().meta_scan(&from, &key(9_999), 250)).unwrap();
        let bytes: usize = page.entries.iter().map(|entry| entry.value.len()).sum();
        assert!(bytes < limits::META_PAGE_BYTES + limits::META_PAGE_ENTRIES * 8_000);
        assert!(!page.entries.is_empty() && page.entries.len() <= 250);
        for entry in page.entries {
            assert_eq!(entry.key, key(seen));
            seen += 1;
        }
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(seen, 400);
    volume.close().unwrap();
}

/// Puts an entry of the engine behind the volume's back.
fn plant(disk: &Arc<SimDisk>, key: &[u8], value: &[u8]) {
    let store = Store::open(disk.clone() as Arc<dyn Disk>, Options::default()).unwrap();
    let batch = Batch::new().put(Key::plain(key), value);
    store.submit(batch).unwrap();
    store.close().unwrap();
}

fn refusal(disk: &Arc<SimDisk>) -> VolumeError {
    let store = Store::open(disk.clone() as Arc<dyn Disk>, Options::default()).unwrap();
    let engine = Engine::start(store, 1).unwrap();
    let refused = Volume::new(vec![engine.clone()]);
    engine.close().unwrap();
    refused.err().unwrap()
}

#[test]
fn the_map_of_slices_is_written_once_and_read_at_every_start() {
    let disk = formatted(4 << 20);
    open(&disk).close().unwrap();
    let volume = open(&disk);
    assert_eq!(*volume.slices(), SliceMap::single());
    volume.close().unwrap();
    let mut newer = SliceMap::single().encode();
    newer[1] += 1;
    plant(&disk, b"\x03slices", &newer);
    assert!(matches!(refusal(&disk), VolumeError::Newer { .. }));
    plant(&disk, b"\x03slices", b"");
    assert!(matches!(refusal(&disk), VolumeError::Corrupt { .. }));
    // Without a map, data cannot be what this release wrote.
    let disk = formatted(4 << 20);
    plant(&disk, b"\x01Bucket", b"");
    let error = refusal(&disk);
    assert!(matches!(error, VolumeError::Corrupt { .. }), "{error}");
}

#[test]
fn a_set_is_of_one_disk() {
    assert!(matches!(
        Volume::new(Vec::new()),
        Err(VolumeError::Set { .. })
    ));
}

/// How often a future lets others go first before it is ready.
fn turns<T>(future: impl Future<Output = T>) -> (T, usize) {
    let mut future = pin!(future);
    let mut turns = 0;
    let output = block_on(std::future::poll_fn(|context| {
        let polled = future.as_mut().poll(context);
        turns += usize::from(polled.is_pending());
        polled
    }));
    (output, turns)
}

/// A walk over many deleted keys in memory once kept its thread from everything else, and
/// could not be cancelled.
#[test]
fn a_walk_over_deleted_keys_lets_others_go_first() {
    const KEYS: usize = 5 * 1024;
    // Large enough extents for all of them to stay in memory.
    let geometry = Geometry {
        extent_bytes: 4 << 20,
        ..GEOMETRY
    };
    let volume = open(&formatted_with(96 << 20, geometry));
    let key = |number: usize| Key::with_stem(format!("\0\0\0\0stem{number:05}"), 8);
    let numbers: Vec<usize> = (0..KEYS).collect();
    for change in [
        |batch: MetaBatch, key: &Key| batch.put(key, b"v".to_vec(), Vec::new()),
        |batch: MetaBatch, key: &Key| batch.delete(key),
    ] {
        for numbers in numbers.chunks(500) {
            let changed = numbers.iter().map(|number| key(*number));
            let batch = changed.fold(MetaBatch::new(), |batch, key| change(batch, &key));
            volume.commit(batch).unwrap().wait().unwrap();
        }
    }
    let last = key(KEYS);
    let batch = MetaBatch::new().put(&last, b"alive".to_vec(), Vec::new());
    volume.commit(batch).unwrap().wait().unwrap();

    let snapshot = volume.snapshot();
    let (first, waited) = turns(snapshot.meta_first(&last.as_bytes()[..8]));
    assert_eq!(first.unwrap().unwrap().key, last.as_bytes());
    assert!(waited >= KEYS / 1024 - 1, "{waited} turns");

    let (found, waited) = turns(async {
        let (mut from, mut found) = (b"\0\0\0\0".to_vec(), Vec::new());
        loop {
            let page = snapshot.meta_scan(&from, b"\0\0\0\x01", 100).await.unwrap();
            found.extend(page.entries.into_iter().map(|entry| entry.key));
            match page.next {
                Some(next) => from = next,
                None => return found,
            }
        }
    });
    assert_eq!(found, [last.as_bytes()]);
    assert!(waited >= KEYS / 1024 - 1, "{waited} turns");
    volume.close().unwrap();
}
