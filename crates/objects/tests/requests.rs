//! What each request does and refuses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::*;
use objects::{
    AccountId, DeleteCondition, ETag, Error, ListEntry, ListRequest, ListVersionsRequest, Metadata,
    PutCondition, PutRequest, VersionEntry, limits,
};
use simdisk::{Fault, Rng};

#[test]
fn bodies_of_every_size_come_back_whole_and_in_ranges() {
    let world = World::new();
    let inline = limits::INLINE_BYTES_MAX;
    for len in [
        0,
        1,
        inline - 1,
        inline,
        inline + 1,
        3 * STRIPE,
        9 * STRIPE + 5,
    ] {
        let (key, body) = (format!("key-{len}"), body(1, len));
        let outcome = world.put(&key, &body).unwrap();
        assert_eq!(
            (outcome.size, outcome.durable.as_str()),
            (len as u64, "1+0")
        );
        assert!(world.get(&key).unwrap() == body, "{len} bytes");
        for (from, to) in [
            (0, 0),
            (0, 1),
            (len / 2, len),
            (len, len + 5),
            (3, 2),
            (5, usize::MAX),
        ] {
            world.disk.chill();
            let handle = block_on(world.objects.get(&ROOT, BUCKET, &key)).unwrap();
            assert_eq!(handle.info().size, len as u64);
            let got = block_on(read(handle.read(from as u64..to as u64))).unwrap();
            let expected = body.get(from..to.min(len)).unwrap_or_default();
            assert!(got == expected, "{len} bytes, {from}..{to}");
        }
    }
    let blobs = world.blobs().len();
    assert_eq!(
        blobs, 3,
        "only what is larger than {inline} bytes is a blob"
    );
    world.audit();
}

#[test]
fn what_is_stored_beside_a_body_comes_back() {
    let world = World::new();
    let metadata = Metadata {
        content_type: Some("text/plain".to_owned()),
        expires: Some("tomorrow".to_owned()),
        user: vec![("Colour".to_owned(), "grün".to_owned())],
        ..Metadata::default()
    };
    for (key, len) in [("small", 10), ("large", 20_000)] {
        let body = body(2, len);
        let request = PutRequest {
            metadata: metadata.clone(),
            ..request(key)
        };
        let outcome = block_on(put(&world.objects, request, &body)).unwrap();
        let handle = block_on(world.objects.get(&ROOT, BUCKET, key)).unwrap();
        let info = handle.info();
        assert_eq!(info.metadata, metadata);
        assert_eq!(
            (&info.etag, info.modified),
            (&outcome.etag, outcome.modified)
        );
        assert_eq!((info.key.as_str(), info.owner), (key, ROOT));
        assert_eq!(info.etag, etag(&body));
    }
}

#[test]
fn an_overwrite_replaces_and_a_delete_removes() {
    let mut world = World::new();
    let mut version = 0;
    for (round, len) in [10, 20_000, 30_000, 5].into_iter().enumerate() {
        let body = body(round as u64, len);
        world.put("key", &body).unwrap();
        let handle = block_on(world.objects.get(&ROOT, BUCKET, "key")).unwrap();
        assert!(
            handle.info().version > version,
            "versions grow, restarts included"
        );
        version = handle.info().version;
        drop(handle);
        world.audit();
        world = world.restart();
        assert_eq!(world.get("key").unwrap(), body);
    }
    world.put("key", &body(9, 50_000)).unwrap();
    assert!(world.delete("key").unwrap());
    assert!(
        !world.delete("key").unwrap(),
        "to delete nothing is no error"
    );
    assert!(matches!(world.get("key"), Err(Error::NoSuchKey { .. })));
    world.audit();
    assert!(world.list().is_empty());
}

#[test]
fn a_reader_keeps_the_version_that_it_began_with() {
    let world = World::new();
    for len in [100, 10 * STRIPE] {
        let old = body(3, len);
        world.put("key", &old).unwrap();
        let overwritten = block_on(world.objects.get(&ROOT, BUCKET, "key")).unwrap();
        let deleted = block_on(world.objects.get(&ROOT, BUCKET, "key")).unwrap();
        world.put("key", &body(4, 2 * len)).unwrap();
        assert_eq!(block_on(read(overwritten.read(0..u64::MAX))).unwrap(), old);
        world.delete("key").unwrap();
        while world.objects.sweep_step().unwrap() {}
        assert_eq!(block_on(read(deleted.read(0..u64::MAX))).unwrap(), old);
    }
    world.audit();
}

/// A slow client holds back the deletion of what it reads, and nothing else of the disk.
#[test]
fn a_reader_held_open_keeps_no_snapshot() {
    let world = World::new();
    let old = body(3, 10 * STRIPE);
    world.put("key", &old).unwrap();
    let handle = block_on(world.objects.get(&ROOT, BUCKET, "key")).unwrap();
    let mut reader = handle.read(0..u64::MAX);
    let first = block_on(reader.next()).unwrap().unwrap();
    assert_eq!(world.engine.store().stats().snapshots, 0);
    // Much more than the disk holds, so that what was deleted is reused while it reads.
    for round in 0..60 {
        // Reclamation works on a thread of its own: give it the time that a busy machine needs.
        let patience = std::time::Instant::now();
        while let Err(error) = world.put("key", &body(round, 100 * STRIPE)) {
            let full = matches!(error, Error::InsufficientStorage);
            let waited = patience.elapsed();
            assert!(full && waited.as_secs() < 30, "{error}, {waited:?}");
            while world.objects.sweep_step().unwrap() {}
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        while world.objects.sweep_step().unwrap() {}
    }
    while world.objects.stats().pending_deletes > 1 {
        world.objects.sweep_step().unwrap();
    }
    let mut whole = first.to_vec();
    world.disk.chill();
    whole.extend(block_on(read(reader)).unwrap());
    assert!(whole == old);
    world.audit();
}

/// Readers that open what others replace and delete at the same time.
#[test]
fn a_reader_is_never_disturbed() {
    let world = World::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    match world.get("key") {
                        Ok(got) => assert!(got == body(got.len() as u64, got.len())),
                        Err(Error::NoSuchKey { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        let sweeper = scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                world.objects.sweep_step().unwrap();
            }
        });
        for round in 0..150 {
            let len = 10_000 + 4_000 * (round % 7);
            world.put("key", &body(len as u64, len)).unwrap();
            if round % 5 == 0 {
                world.delete("key").unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        sweeper.join().unwrap();
    });
    world.audit();
}

/// The sweep's mark is a hint: one that makes no sense costs a walk, not the store.
#[test]
fn a_bad_mark_of_the_sweep_is_no_mark() {
    let world = World::new();
    world.put("key", &body(1, 20_000)).unwrap();
    let key = volume::Key::plain(*b"\x01\0\0\0\0Sswept");
    let batch = volume::shardstore::Batch::new().put(key, *b"bad");
    world.engine.submit(batch).unwrap().wait().unwrap();
    let world = world.crash(&mut Rng::new(1));
    assert_eq!(world.get("key").unwrap(), body(1, 20_000));
    world.audit();
}

fn put_if(world: &World, key: &str, condition: PutCondition) -> Result<(), Error> {
    let request = PutRequest {
        condition,
        ..request(key)
    };
    block_on(put(&world.objects, request, b"new")).map(|_| ())
}

#[test]
fn conditions_hold_or_refuse() {
    let world = World::new();
    let old = world.put("key", b"old").unwrap().etag;
    let refused = |result: Result<(), Error>, expected: &str| match result {
        Err(Error::PreconditionFailed { condition }) => assert_eq!(condition, expected),
        other => panic!("{other:?}"),
    };
    refused(
        put_if(&world, "key", PutCondition::IfNoneMatchAny),
        "If-None-Match",
    );
    let other = PutCondition::IfMatch(ETag::new("other"));
    refused(put_if(&world, "key", other.clone()), "If-Match");
    assert!(matches!(
        put_if(&world, "none", other),
        Err(Error::NoSuchKey { .. })
    ));
    assert_eq!(world.get("key").unwrap(), b"old");
    put_if(&world, "key", PutCondition::IfMatch(old.clone())).unwrap();
    put_if(&world, "fresh", PutCondition::IfNoneMatchAny).unwrap();
    let delete_if = |key: &str, condition: DeleteCondition| {
        block_on(world.objects.delete(&ROOT, BUCKET, key, condition)).map(|d| d.existed)
    };
    let delete = |key: &str, etag: ETag| delete_if(key, DeleteCondition::IfMatch(etag));
    assert!(matches!(
        delete("key", old.clone()),
        Err(Error::PreconditionFailed { .. })
    ));
    assert!(delete("key", etag(b"new")).unwrap());
    // Somebody else's delete is not this one's success.
    for condition in [DeleteCondition::IfMatch(old), DeleteCondition::IfMatchAny] {
        assert!(matches!(
            delete_if("key", condition),
            Err(Error::NoSuchKey { .. })
        ));
    }
    assert!(!delete_if("key", DeleteCondition::None).unwrap());
    world.put("key", b"again").unwrap();
    assert!(delete_if("key", DeleteCondition::IfMatchAny).unwrap());
    world.audit();
}

/// The condition is checked with the commit, not only when the put begins.
#[test]
fn a_condition_that_ceases_to_hold_refuses_the_commit() {
    let world = World::new();
    for len in [10, 20_000] {
        let condition = PutCondition::IfNoneMatchAny;
        let request = PutRequest {
            condition,
            ..request("key")
        };
        let mut writer = block_on(world.objects.begin_put(request)).unwrap();
        block_on(writer.write(Bytes::from(body(5, len)))).unwrap();
        world.put("key", b"first").unwrap();
        let error = block_on(writer.finish(etag(b""), None)).unwrap_err();
        assert!(matches!(error, Error::PreconditionFailed { .. }), "{error}");
        assert_eq!(world.get("key").unwrap(), b"first");
        world.delete("key").unwrap();
    }
    world.audit();
}

#[test]
fn a_bucket_that_goes_away_takes_unfinished_puts_with_it() {
    let world = World::new();
    for again in [false, true] {
        let mut writer = block_on(world.objects.begin_put(request("key"))).unwrap();
        block_on(writer.write(Bytes::from(body(6, 20_000)))).unwrap();
        block_on(world.objects.delete_bucket(&ROOT, BUCKET)).unwrap();
        if again {
            block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
        }
        let error = block_on(writer.finish(etag(b""), None)).unwrap_err();
        assert!(matches!(error, Error::NoSuchBucket { .. }), "{error}");
        if !again {
            block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
        }
    }
    world.audit();
    assert!(world.list().is_empty());
}

#[test]
fn buckets_come_and_go_by_the_rules() {
    let world = World::empty(8 << 20);
    let objects = &world.objects;
    let other = AccountId::from_number(7).unwrap();
    world.accounts().create_account(other, "other").unwrap();
    let create = |account: AccountId, name: &str| block_on(objects.create_bucket(&account, name));
    assert!(matches!(
        create(ROOT, "A"),
        Err(Error::InvalidBucketName { .. })
    ));
    let info = create(ROOT, BUCKET).unwrap();
    assert_eq!((info.region.as_str(), info.objects), ("us-east-1", 0));
    assert!(matches!(
        create(ROOT, BUCKET),
        Err(Error::BucketAlreadyOwnedByYou { .. })
    ));
    assert!(matches!(
        create(other, BUCKET),
        Err(Error::BucketAlreadyExists { .. })
    ));
    let head = block_on(objects.head_bucket(&ROOT, BUCKET)).unwrap();
    assert_eq!(head, info);
    let denied = block_on(objects.head_bucket(&other, BUCKET)).unwrap_err();
    assert!(matches!(denied, Error::AccessDenied));
    assert!(matches!(
        block_on(objects.get(&other, BUCKET, "key")),
        Err(Error::AccessDenied)
    ));
    for name in ["zzz", "aaa", "mmm", "nnn"] {
        create(ROOT, name).unwrap();
    }
    assert!(matches!(
        create(ROOT, "one-more"),
        Err(Error::TooManyBuckets { limit: 5 })
    ));
    create(other, "of-another").unwrap();
    let names = |account| {
        let (mut names, mut after) = (Vec::<String>::new(), None);
        loop {
            let page = objects.list_buckets(&account, "", after.as_deref(), 2);
            let page = block_on(page).unwrap();
            assert!(page.buckets.len() <= 2);
            names.extend(page.buckets.into_iter().map(|bucket| bucket.name));
            if !page.more {
                return names;
            }
            after = names.last().cloned();
        }
    };
    assert_eq!(names(ROOT), ["aaa", BUCKET, "mmm", "nnn", "zzz"]);
    assert_eq!(names(other), ["of-another"]);
    let page = block_on(objects.list_buckets(&ROOT, "m", Some("a"), 9)).unwrap();
    assert_eq!((page.buckets[0].name.as_str(), page.more), ("mmm", false));
    world.put("key", b"1").unwrap();
    assert!(matches!(
        block_on(objects.delete_bucket(&ROOT, BUCKET)),
        Err(Error::BucketNotEmpty { .. })
    ));
    world.delete("key").unwrap();
    block_on(objects.delete_bucket(&ROOT, BUCKET)).unwrap();
    assert!(matches!(
        block_on(objects.delete_bucket(&ROOT, BUCKET)),
        Err(Error::NoSuchBucket { .. })
    ));
    create(other, BUCKET).unwrap();
    create(ROOT, "one-more").unwrap();
    assert!(matches!(world.put("key", b"1"), Err(Error::AccessDenied)));
}

#[test]
fn limits_are_kept() {
    let world = World::new();
    assert!(matches!(world.put("", b"1"), Err(Error::InvalidKey)));
    let longest = "é".repeat(512);
    world.put(&longest, b"1").unwrap();
    assert_eq!(world.get(&longest).unwrap(), b"1");
    let zeros = "\0".repeat(1024);
    world.put(&zeros, &body(7, 20_000)).unwrap();
    assert_eq!(world.get(&zeros).unwrap(), body(7, 20_000));
    assert!(matches!(
        world.put(&format!("{longest}x"), b"1"),
        Err(Error::KeyTooLong {
            bytes: 1025,
            limit: 1024
        })
    ));
    let with = |change: &dyn Fn(&mut PutRequest)| {
        let mut request = request("key");
        change(&mut request);
        block_on(put(&world.objects, request, b"12345")).map(|_| ())
    };
    let huge = with(&|r| r.content_length = Some(limits::OBJECT_BYTES_MAX + 1));
    assert!(matches!(huge, Err(Error::EntityTooLarge { .. })));
    for announced in [4, 6] {
        let wrong = with(&|r| r.content_length = Some(announced));
        assert!(
            matches!(wrong, Err(Error::IncompleteBody { .. })),
            "{announced}"
        );
    }
    with(&|r| r.content_length = Some(5)).unwrap();
    let user = with(&|r| r.metadata.user = vec![("n".to_owned(), "v".repeat(2048))]);
    assert!(matches!(user, Err(Error::MetadataTooLarge { .. })));
    let largest = with(&|r| {
        r.metadata.user = vec![("n".to_owned(), "v".repeat(2047))];
        r.metadata.content_type = Some("t".repeat(8192 - 2048 - 8));
    });
    largest.unwrap();
    let gone = with(&|r| r.bucket = "none".to_owned());
    assert!(matches!(gone, Err(Error::NoSuchBucket { .. })));
    let long = with(&|r| r.bucket = "n".repeat(5_000));
    assert!(matches!(long, Err(Error::NoSuchBucket { .. })));
    world.audit();
}

#[test]
fn listings_show_what_is_there() {
    let world = World::new();
    for key in ["a", "b/1", "b/2", "b/c/3", "d", "e/"] {
        world.put(key, key.as_bytes()).unwrap();
    }
    world.put("d", b"replaced").unwrap();
    world.delete("a").unwrap();
    let request = |delimiter: Option<&str>, start_after: Option<&str>, max_keys| ListRequest {
        account: ROOT,
        bucket: BUCKET.to_owned(),
        prefix: String::new(),
        delimiter: delimiter.map(str::to_owned),
        start_after: start_after.map(str::to_owned),
        max_keys,
    };
    let show = |request| {
        let page = block_on(world.objects.list(request)).unwrap();
        let entries = page.entries.into_iter().map(|entry| match entry {
            ListEntry::Object(object) => format!("{}:{}", object.key, object.size),
            ListEntry::CommonPrefix(prefix) => prefix,
        });
        (entries.collect::<Vec<_>>(), page.next)
    };
    let (all, next) = show(request(None, None, 1000));
    assert_eq!(all, ["b/1:3", "b/2:3", "b/c/3:5", "d:8", "e/:2"]);
    assert_eq!(next, None);
    let (page, next) = show(request(Some("/"), None, 1));
    assert_eq!((page, next.as_deref()), (vec!["b/".to_owned()], Some("b/")));
    let (page, next) = show(request(Some("/"), Some("b/"), 5));
    assert_eq!(
        (page, next),
        (vec!["d:8".to_owned(), "e/".to_owned()], None)
    );
    assert_eq!(show(request(Some("/"), None, 0)), (Vec::new(), None));
    // Memory has nothing: every read goes through the I/O threads.
    let (all, _) = show(request(Some(""), None, 5000));
    world.disk.chill();
    assert_eq!(show(request(None, None, 1000)).0, all);

    let page = block_on(world.objects.list_versions(ListVersionsRequest {
        account: ROOT,
        bucket: BUCKET.to_owned(),
        prefix: String::new(),
        delimiter: Some("/".to_owned()),
        key_marker: None,
        version_id_marker: None,
        max_keys: 2,
    }))
    .unwrap();
    assert_eq!(page.entries.len(), 2);
    let VersionEntry::Version(version) = &page.entries[1] else {
        panic!("{page:?}");
    };
    assert_eq!(
        (version.object.key.as_str(), version.version_id.as_str()),
        ("d", "null")
    );
    assert!(version.is_latest);
    assert_eq!(page.next_key_marker.as_deref(), Some("d"));
    assert_eq!(page.next_version_id_marker.as_deref(), Some("null"));
}

/// In every copy that is on the disk.
fn flip_a_bit_of(world: &World, pattern: &[u8]) {
    let image = world.disk.medium();
    let bytes = image.read(0, image.capacity() as usize);
    let windows = bytes.windows(pattern.len()).enumerate();
    for (at, _) in windows.filter(|(_, window)| *window == pattern) {
        world.disk.inject(Fault::BitFlip {
            offset: at as u64 + 7,
            bit: 3,
            cached: false,
        });
    }
}

#[test]
fn rot_is_reported_and_stays_where_it_is() {
    let world = World::new();
    let (small, large) = (body(8, 5_000), body(9, 30_000));
    world.put("small", &small).unwrap();
    world.put("large", &large).unwrap();
    world.put("other", &body(10, 30_000)).unwrap();
    for (key, body) in [("small", &small), ("large", &large)] {
        // Reclamation may have moved the body between the look and the flip.
        let error = (0..100).find_map(|_| {
            flip_a_bit_of(&world, &body[..64]);
            world.get(key).err()
        });
        assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
    }
    assert_eq!(world.get("other").unwrap(), body(10, 30_000));
    let world = world.crash(&mut Rng::new(1));
    world.put("small", b"again").unwrap();
    world.delete("large").unwrap();
    assert_eq!(world.get("small").unwrap(), b"again");
    world.audit();
}

#[test]
fn a_full_disk_refuses_puts_and_takes_deletes() {
    let world = World::empty(4 << 20);
    block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
    // Down to the last page, so that not even a delete fits without the reserve.
    for len in [40_000, 4_000, 1] {
        let refused =
            (0..4_000).find_map(|n| world.put(&format!("{len}-{n}"), &body(n, len)).err());
        assert!(
            matches!(refused, Some(Error::InsufficientStorage)),
            "{refused:?}"
        );
    }
    let stored = world.list();
    assert!(stored.len() > 10);
    // The reserve is for deletes. Background work takes from it too, so that they may outrun
    // reclamation on a disk as small as this: never for long, and not at once.
    for (at, key) in stored.keys().enumerate() {
        let tries = if at == 0 { 4 } else { 1_000 };
        let deleted = (0..tries).any(|_| match world.delete(key) {
            Ok(existed) => existed,
            Err(Error::InsufficientStorage) => {
                std::thread::sleep(std::time::Duration::from_millis(5));
                false
            }
            Err(error) => panic!("{error}"),
        });
        assert!(deleted, "{key}: {:?}", world.objects.stats().volume);
    }
    assert!(world.list().is_empty());
    // The space comes back.
    let again = (0..500).any(|n| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let _ = world.objects.sweep_step();
        world.put("again", &body(n, 40_000)).is_ok()
    });
    assert!(again, "{:?}", world.objects.stats());
    world.audit();
}

#[test]
fn a_closed_store_refuses() {
    let world = World::new();
    let mut writer = block_on(world.objects.begin_put(request("key"))).unwrap();
    block_on(writer.write(Bytes::from_static(b"late"))).unwrap();
    world.objects.close().unwrap();
    assert!(matches!(
        block_on(writer.finish(etag(b"late"), None)),
        Err(Error::Closed)
    ));
    assert!(matches!(world.put("key", b"1"), Err(Error::Closed)));
    assert!(matches!(world.get("key"), Err(Error::Closed)));
    let world = World::on(world.disk).unwrap();
    assert!(matches!(world.get("key"), Err(Error::NoSuchKey { .. })));
    world.audit();
}
