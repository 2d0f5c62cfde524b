//! Uploads in parts: what becomes of them, of their parts, and of what they leave behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::*;
use objects::{
    Checksum, ChecksumAlgorithm, ChecksumKind, ChosenPart, CompleteRequest, CreateUpload,
    DeleteCondition, ETag, Error, ListUploadsRequest, Metadata, PartOutcome, PartRequest,
    PartSummary, PartSums, PutCondition, PutOutcome, RewriteRequest, UploadEntry, UploadRef,
};
use simdisk::Rng;

/// Makes a tag of the parts' numbers and sizes.
#[derive(Default)]
struct Sums(String);

impl PartSums for Sums {
    fn add(&mut self, part: &PartSummary) -> Result<(), Error> {
        self.0.push_str(&format!("{}:{},", part.number, part.size));
        Ok(())
    }

    fn finish(&mut self) -> Result<(ETag, Option<Checksum>), Error> {
        let tag = ETag::new(self.0.chars().take(200).collect::<String>());
        Ok((tag, Some(crc(&[1, 2, 3, 4]))))
    }
}

fn crc(digest: &[u8]) -> Checksum {
    Checksum::full_object(ChecksumAlgorithm::Crc32, digest.to_vec()).unwrap()
}

fn upload_ref(key: &str, upload: &str) -> UploadRef {
    UploadRef {
        account: ROOT,
        bucket: BUCKET.to_owned(),
        key: key.to_owned(),
        upload: upload.to_owned(),
    }
}

fn create(world: &World, key: &str) -> UploadRef {
    let request = CreateUpload {
        account: ROOT,
        bucket: BUCKET.to_owned(),
        key: key.to_owned(),
        metadata: Metadata {
            content_type: Some("text/x-parts".to_owned()),
            ..Metadata::default()
        },
        checksum: Some((ChecksumAlgorithm::Crc32, ChecksumKind::FullObject)),
    };
    upload_ref(
        key,
        &block_on(world.objects.create_upload(request)).unwrap(),
    )
}

fn part(world: &World, upload: &UploadRef, number: i64, body: &[u8]) -> Result<PartOutcome, Error> {
    block_on(async {
        let request = PartRequest {
            upload: upload.clone(),
            number,
            content_length: Some(body.len() as u64),
        };
        let mut writer = world.objects.begin_part(request).await?;
        for piece in body.chunks(1000) {
            writer.write(Bytes::copy_from_slice(piece)).await?;
        }
        let digest = (body.len() as u32).to_le_bytes();
        writer.finish(etag(body), Some(crc(&digest)), None).await
    })
}

fn chosen(number: u16, body: &[u8]) -> ChosenPart {
    ChosenPart {
        number,
        etag: etag(body),
        checksum: None,
    }
}

fn complete(
    world: &World,
    upload: &UploadRef,
    parts: Vec<ChosenPart>,
    condition: PutCondition,
) -> Result<PutOutcome, Error> {
    let request = CompleteRequest {
        upload: upload.clone(),
        parts,
        condition,
        size: None,
    };
    block_on(world.objects.complete_upload(request, &mut Sums::default()))
}

/// The numbers of an upload's parts.
fn numbers(world: &World, upload: &UploadRef) -> Result<Vec<u16>, Error> {
    let page = block_on(world.objects.list_parts(upload, 0, 1_000))?;
    Ok(page.parts.iter().map(|part| part.number).collect())
}

fn uploads(world: &World) -> Vec<String> {
    let request = ListUploadsRequest {
        account: ROOT,
        bucket: BUCKET.to_owned(),
        prefix: String::new(),
        delimiter: None,
        key_marker: None,
        upload_id_marker: None,
        max_uploads: 1_000,
    };
    let page = block_on(world.objects.list_uploads(request)).unwrap();
    page.entries.iter().map(|e| e.name().to_owned()).collect()
}

#[test]
fn parts_become_an_object_that_reads_as_one() {
    let world = World::new();
    let upload = create(&world, "o");
    let bodies: BTreeMap<u16, Vec<u8>> = [(2, 5_000), (7, 100), (9, 9_000), (30, 1)]
        .map(|(n, len)| (n, body(n.into(), len)))
        .into();
    // In another order than their numbers'; one is replaced, one is not going to be named.
    part(&world, &upload, 9, b"replaced").unwrap();
    for number in [30, 9, 2, 7] {
        part(&world, &upload, number.into(), &bodies[&number]).unwrap();
    }
    part(&world, &upload, 8, &body(8, 7_000)).unwrap();
    assert_eq!(numbers(&world, &upload).unwrap(), [2, 7, 8, 9, 30]);
    assert_eq!(uploads(&world), ["o"]);
    assert!(matches!(world.get("o"), Err(Error::NoSuchKey { .. })));

    let parts: Vec<_> = bodies.iter().map(|(n, body)| chosen(*n, body)).collect();
    let outcome = complete(&world, &upload, parts.clone(), PutCondition::None).unwrap();
    assert_eq!(outcome.etag.as_str(), "2:5000,7:100,9:9000,30:1,");
    let whole: Vec<u8> = bodies.values().flatten().copied().collect();
    assert_eq!(world.get("o").unwrap(), whole);
    let read_range = |range: std::ops::Range<u64>| {
        block_on(async {
            let handle = world.objects.get(&ROOT, BUCKET, "o").await.unwrap();
            read(handle.read(range)).await.unwrap()
        })
    };
    for (from, to) in [
        (0, 1),
        (4_999, 5_101),
        (5_000, 5_100),
        (5_099, 14_101),
        (14_100, 14_101),
    ] {
        assert_eq!(
            read_range(from..to),
            whole[from as usize..to as usize],
            "{from}..{to}"
        );
    }
    let handle = block_on(world.objects.get(&ROOT, BUCKET, "o")).unwrap();
    let info = handle.info();
    assert_eq!((info.parts, info.size), (Some(4), 14_101));
    assert_eq!(info.metadata.content_type.as_deref(), Some("text/x-parts"));
    assert_eq!(info.checksum, Some(crc(&[1, 2, 3, 4])));
    let third = block_on(handle.part(3)).unwrap().unwrap();
    assert_eq!((third.place, third.range), (3, 5_100..14_100));
    assert_eq!(third.checksum, Some(crc(&9_000_u32.to_le_bytes())));
    assert_eq!(block_on(handle.part(5)).unwrap(), None);
    let behind = block_on(handle.parts_behind(2, 10)).unwrap();
    assert_eq!(behind.iter().map(|p| p.place).collect::<Vec<_>>(), [3, 4]);
    drop(handle);

    assert!(matches!(
        numbers(&world, &upload),
        Err(Error::NoSuchUpload { .. })
    ));
    assert!(uploads(&world).is_empty());
    // Asked again, it says the same; not once the object is another.
    let again = complete(&world, &upload, parts.clone(), PutCondition::None).unwrap();
    assert_eq!(again, outcome);
    world.audit();
    let world = world.restart();
    assert_eq!(world.get("o").unwrap(), whole);
    world.audit();
    world.put("o", b"another").unwrap();
    let gone = complete(&world, &upload, parts, PutCondition::None);
    assert!(matches!(gone, Err(Error::NoSuchUpload { .. })), "{gone:?}");
    world.audit();
}

/// More parts than fit into a record, and than one chunk of a table of its own holds.
#[test]
fn an_object_of_many_parts_is_read_and_deleted_whole() {
    let world = World::empty(64 << 20);
    block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
    let upload = create(&world, "many");
    let (mut parts, mut whole) = (Vec::new(), Vec::new());
    for number in 1..=1_100_u16 {
        let body = body(number.into(), 100 + usize::from(number % 5));
        part(&world, &upload, number.into(), &body).unwrap();
        parts.push(chosen(number, &body));
        whole.extend(body);
    }
    complete(&world, &upload, parts, PutCondition::None).unwrap();
    assert_eq!(world.get("many").unwrap(), whole);
    world.audit();
    let handle = block_on(world.objects.get(&ROOT, BUCKET, "many")).unwrap();
    let last = block_on(handle.part(1_100)).unwrap().unwrap();
    assert_eq!(last.range.end, whole.len() as u64);
    let before = block_on(handle.parts_behind(1_023, 2)).unwrap();
    assert_eq!(
        before.iter().map(|p| p.place).collect::<Vec<_>>(),
        [1_024, 1_025]
    );

    // Its bytes stay for whoever has begun to read, and go then, however many they are.
    let mut reader = handle.read(50_000..u64::MAX);
    let first = block_on(reader.next()).unwrap().unwrap();
    assert_eq!(first, whole[50_000..50_000 + first.len()]);
    assert!(world.delete("many").unwrap());
    for _ in 0..50 {
        world.objects.sweep_step().unwrap();
    }
    let rest = block_on(read(reader)).unwrap();
    assert_eq!(rest, whole[50_000 + first.len()..]);
    world.audit();
    assert!(world.blobs().is_empty());
}

#[test]
fn what_is_not_an_object_yet_can_be_given_up() {
    let world = World::new();
    let (kept, aborted) = (create(&world, "a"), create(&world, "a"));
    for upload in [&kept, &aborted] {
        part(&world, upload, 1, &body(1, 9_000)).unwrap();
        part(&world, upload, 2, &body(2, 100)).unwrap();
    }
    assert_eq!(uploads(&world), ["a", "a"]);
    block_on(world.objects.abort_upload(&aborted)).unwrap();
    assert!(matches!(
        block_on(world.objects.abort_upload(&aborted)),
        Err(Error::NoSuchUpload { .. })
    ));
    assert!(matches!(
        part(&world, &aborted, 3, b"late"),
        Err(Error::NoSuchUpload { .. })
    ));
    assert_eq!(numbers(&world, &kept).unwrap(), [1, 2]);
    world.audit();
    assert_eq!(world.blobs().len(), 2);
    // A part whose body was begun before the end finds out at its commit.
    let request = PartRequest {
        upload: kept.clone(),
        number: 3,
        content_length: None,
    };
    let writer = block_on(world.objects.begin_part(request)).unwrap();
    block_on(world.objects.abort_upload(&kept)).unwrap();
    let late = block_on(writer.finish(etag(b""), None, None));
    assert!(matches!(late, Err(Error::NoSuchUpload { .. })), "{late:?}");
    world.audit();
    assert!(world.blobs().is_empty());
}

/// A bucket with nothing but uploads is empty, and they go with it.
#[test]
fn a_bucket_takes_its_uploads_along() {
    let world = World::new();
    for key in ["a", "b\0", "c/d"] {
        let upload = create(&world, key);
        part(&world, &upload, 1, &body(1, 9_000)).unwrap();
        part(&world, &upload, 10_000, &body(2, 10)).unwrap();
    }
    let late = create(&world, "late");
    block_on(world.objects.delete_bucket(&ROOT, BUCKET)).unwrap();
    block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
    assert!(uploads(&world).is_empty());
    assert!(matches!(
        part(&world, &late, 1, b"x"),
        Err(Error::NoSuchUpload { .. })
    ));
    let world = world.restart();
    world.audit();
    assert!(world.blobs().is_empty());
}

/// An object of so many parts, and its bytes.
fn put_in_parts(world: &World, key: &str, count: u16) -> Vec<u8> {
    let upload = create(world, key);
    let (mut parts, mut whole) = (Vec::new(), Vec::new());
    for number in 1..=count {
        let body = body(number.into(), 5_000);
        part(world, &upload, number.into(), &body).unwrap();
        parts.push(chosen(number, &body));
        whole.extend(body);
    }
    complete(world, &upload, parts, PutCondition::None).unwrap();
    whole
}

fn steps(world: &World, count: usize) {
    for _ in 0..count {
        world.objects.sweep_step().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

/// What an earlier run wrote is walked blob by blob after an unclean end. The parts of an object
/// that was deleted meanwhile looked like nobody's: they were deleted under a reader, and the
/// table before its note was followed, so that what it named was left on the disk for good.
#[test]
fn the_walk_over_earlier_runs_leaves_to_notes_what_is_theirs() {
    // With the table in the record, and in a blob of its own.
    for count in [3, 40] {
        let world = World::empty(64 << 20);
        block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
        let keys = ["a", "b", "c", "d"];
        let whole = keys.map(|key| put_in_parts(&world, key, count));
        let world = world.crash(&mut Rng::new(count.into()));
        let handle = block_on(world.objects.get(&ROOT, BUCKET, "b")).unwrap();
        let mut reader = handle.read(0..u64::MAX);
        let first = block_on(reader.next()).unwrap().unwrap();
        for key in keys {
            assert!(world.delete(key).unwrap());
        }
        steps(&world, 200);
        let rest = block_on(read(reader)).unwrap();
        assert_eq!([&first[..], &rest].concat(), whole[1], "{count} parts");
        world.audit();
        assert!(world.blobs().is_empty());
    }
}

/// A deleted bucket's note tells of all its uploads. Followed before those of the uploads, it
/// took the parts of deleted objects for nobody's, and replaced the notes of their bodies.
#[test]
fn a_deleted_bucket_leaves_to_notes_what_is_theirs() {
    for count in [3, 40] {
        let world = World::empty(64 << 20);
        block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
        world.sweep();
        let keys = ["a", "b", "c"];
        let whole = keys.map(|key| put_in_parts(&world, key, count));
        let handle = block_on(world.objects.get(&ROOT, BUCKET, "b")).unwrap();
        let mut reader = handle.read(0..u64::MAX);
        let first = block_on(reader.next()).unwrap().unwrap();
        for key in keys {
            assert!(world.delete(key).unwrap());
        }
        let unfinished = create(&world, "unfinished");
        part(&world, &unfinished, 1, &body(1, 5_000)).unwrap();
        block_on(world.objects.delete_bucket(&ROOT, BUCKET)).unwrap();
        steps(&world, 200);
        let rest = block_on(read(reader)).unwrap();
        assert_eq!([&first[..], &rest].concat(), whole[1], "{count} parts");
        block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
        world.audit();
        assert!(world.blobs().is_empty());
    }
}

/// A client that left while its upload ended took along the word that there is something to
/// clear away: the parts kept their space until another upload ended.
#[test]
fn what_ends_while_nobody_waits_is_cleared_away() {
    let world = World::new();
    let aborted = create(&world, "aborted");
    part(&world, &aborted, 1, &body(1, 9_000)).unwrap();
    let completed = create(&world, "completed");
    part(&world, &completed, 1, &body(1, 9_000)).unwrap();
    part(&world, &completed, 2, &body(2, 9_000)).unwrap();
    world.audit();
    let gone = |upload: &UploadRef| {
        while block_on(world.objects.upload(upload)).is_ok() {
            std::thread::yield_now();
        }
    };
    poll_and_drop(world.objects.abort_upload(&aborted), 1);
    gone(&aborted);
    world.audit();
    assert_eq!(world.blobs().len(), 2);
    let request = CompleteRequest {
        upload: completed.clone(),
        parts: vec![chosen(1, &body(1, 9_000))],
        condition: PutCondition::None,
        size: None,
    };
    let mut sums = Sums::default();
    poll_and_drop(world.objects.complete_upload(request, &mut sums), 1);
    gone(&completed);
    world.audit();
    assert_eq!(world.blobs().len(), 1);
    let kept = create(&world, "kept");
    part(&world, &kept, 1, &body(1, 9_000)).unwrap();
    world.delete("completed").unwrap();
    world.audit();
    poll_and_drop(world.objects.delete_bucket(&ROOT, BUCKET), 1);
    while block_on(world.objects.head_bucket(&ROOT, BUCKET)).is_ok() {
        std::thread::yield_now();
    }
    block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
    world.audit();
    assert!(world.blobs().is_empty());
}

#[test]
fn an_upload_is_completed_as_asked_or_not_at_all() {
    let world = World::new();
    let upload = create(&world, "k");
    let (small, large) = (body(1, 99), body(2, 5_000));
    part(&world, &upload, 1, &large).unwrap();
    part(&world, &upload, 2, &small).unwrap();
    part(&world, &upload, 3, &large).unwrap();
    let refused = |parts: &[(u16, &[u8])]| {
        let parts = parts.iter().map(|(n, body)| chosen(*n, body)).collect();
        complete(&world, &upload, parts, PutCondition::None).unwrap_err()
    };
    assert!(matches!(refused(&[]), Error::InvalidPart { .. }));
    let order = refused(&[(3, &large), (1, &large)]);
    assert!(
        matches!(order, Error::InvalidPartOrder { number: 1 }),
        "{order}"
    );
    let twice = refused(&[(1, &large), (1, &large)]);
    assert!(
        matches!(twice, Error::InvalidPartOrder { number: 1 }),
        "{twice}"
    );
    let missing = refused(&[(1, &large), (4, &large)]);
    assert!(
        matches!(missing, Error::InvalidPart { number: 4, .. }),
        "{missing}"
    );
    let other = refused(&[(1, &large), (3, &small)]);
    assert!(
        matches!(other, Error::InvalidPart { number: 3, .. }),
        "{other}"
    );
    let too_small = refused(&[(1, &large), (2, &small), (3, &large)]);
    assert!(
        matches!(
            too_small,
            Error::PartTooSmall {
                number: 2,
                bytes: 99,
                limit: PART_MIN
            }
        ),
        "{too_small}"
    );
    let mut parts = vec![chosen(1, &large)];
    parts[0].checksum = Some(crc(&[0, 0, 0, 0]));
    let sum = complete(&world, &upload, parts, PutCondition::None).unwrap_err();
    assert!(matches!(sum, Error::InvalidPart { number: 1, .. }), "{sum}");

    world.put("k", b"there").unwrap();
    let parts = || vec![chosen(1, &large), chosen(2, &small)];
    let failed = complete(&world, &upload, parts(), PutCondition::IfNoneMatchAny).unwrap_err();
    assert!(
        matches!(failed, Error::PreconditionFailed { .. }),
        "{failed}"
    );
    // Nothing of all that touched the upload.
    assert_eq!(numbers(&world, &upload).unwrap(), [1, 2, 3]);
    let condition = PutCondition::IfMatch(etag(b"there"));
    complete(&world, &upload, parts(), condition).unwrap();
    assert_eq!(world.get("k").unwrap(), [large, small].concat());
    world.audit();
}

#[test]
fn uploads_are_listed_by_key_and_age_in_pages() {
    let world = World::new();
    let mut expected = Vec::new();
    for key in ["a", "a", "a/1", "a/2", "b/1", "c"] {
        expected.push((key.to_owned(), create(&world, key).upload));
    }
    for size in 1..=7 {
        let (mut found, mut markers) = (Vec::new(), (None, None));
        loop {
            let request = ListUploadsRequest {
                account: ROOT,
                bucket: BUCKET.to_owned(),
                prefix: String::new(),
                delimiter: None,
                key_marker: markers.0.clone(),
                upload_id_marker: markers.1.clone(),
                max_uploads: size,
            };
            let page = block_on(world.objects.list_uploads(request)).unwrap();
            assert!(page.entries.len() <= size);
            for entry in &page.entries {
                let UploadEntry::Upload { key, id, .. } = entry else {
                    panic!("a common prefix without a delimiter");
                };
                found.push((key.clone(), id.clone()));
                markers = (Some(key.clone()), Some(id.clone()));
            }
            if !page.more {
                break;
            }
        }
        assert_eq!(found, expected, "pages of {size}");
    }
    let request = ListUploadsRequest {
        account: ROOT,
        bucket: BUCKET.to_owned(),
        prefix: String::new(),
        delimiter: Some("/".to_owned()),
        key_marker: Some("a".to_owned()),
        upload_id_marker: None,
        max_uploads: 10,
    };
    let page = block_on(world.objects.list_uploads(request)).unwrap();
    let names: Vec<_> = page.entries.iter().map(UploadEntry::name).collect();
    assert_eq!(names, ["a/", "b/", "c"]);
}

#[test]
fn metadata_is_replaced_without_the_body() {
    let world = World::new();
    let upload = create(&world, "parts");
    part(&world, &upload, 1, &body(1, 9_000)).unwrap();
    complete(
        &world,
        &upload,
        vec![chosen(1, &body(1, 9_000))],
        PutCondition::None,
    )
    .unwrap();
    world.put("blob", &body(2, 9_000)).unwrap();
    world.put("inline", &body(3, 100)).unwrap();
    world.put("empty", b"").unwrap();
    let blobs = world.blobs();
    let before: Vec<_> = ["parts", "blob", "inline", "empty"]
        .map(|key| (key, world.get(key).unwrap()))
        .into();
    for (key, _) in &before {
        let version = block_on(world.objects.get(&ROOT, BUCKET, key))
            .unwrap()
            .info()
            .version;
        let request = |version| RewriteRequest {
            account: ROOT,
            bucket: BUCKET.to_owned(),
            key: (*key).to_owned(),
            metadata: Metadata {
                content_type: Some("text/new".to_owned()),
                ..Metadata::default()
            },
            version,
            condition: PutCondition::None,
        };
        let other = block_on(world.objects.rewrite(request(version + 1)));
        assert!(matches!(other, Err(Error::SlowDown(_))), "{other:?}");
        block_on(world.objects.rewrite(request(version))).unwrap();
    }
    world.audit();
    let world = world.crash(&mut Rng::new(1));
    for (key, body) in before {
        assert_eq!(world.get(key).unwrap(), body, "{key}");
        let handle = block_on(world.objects.get(&ROOT, BUCKET, key)).unwrap();
        assert_eq!(
            handle.info().metadata.content_type.as_deref(),
            Some("text/new")
        );
    }
    assert_eq!(world.blobs(), blobs);
    world.audit();
}

/// What a history of uploads must look like after a cut of the power.
#[derive(Default)]
struct Expected {
    /// Acknowledged parts of uploads that are not ended: by upload, number to body.
    uploads: BTreeMap<String, (UploadRef, BTreeMap<u16, Vec<u8>>)>,
    objects: BTreeMap<String, Vec<u8>>,
}

impl Expected {
    fn check(&self, world: &World) {
        for (id, (upload, parts)) in &self.uploads {
            let there = numbers(world, upload).unwrap();
            let expected: Vec<u16> = parts.keys().copied().collect();
            assert_eq!(there, expected, "parts of upload {id}");
        }
        for (key, body) in &self.objects {
            assert_eq!(&world.get(key).unwrap(), body, "{key}");
        }
        assert_eq!(world.list().len(), self.objects.len());
    }
}

/// Everything that was acknowledged is there after each cut, and nothing else keeps space.
#[test]
fn no_cut_loses_a_part_or_leaves_one_behind() {
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let (mut world, mut expected) = (World::new(), Expected::default());
        for step in 0..60_u64 {
            let key = ["a", "b", "c"][rng.below(3) as usize].to_owned();
            let ids: Vec<String> = expected.uploads.keys().cloned().collect();
            let picked = ids
                .get(rng.below(ids.len().max(1) as u64) as usize)
                .cloned();
            match (rng.below(12), picked) {
                (0..=1, _) | (_, None) => {
                    let upload = create(&world, &key);
                    let id = upload.upload.clone();
                    expected.uploads.insert(id, (upload, BTreeMap::new()));
                }
                (2..=6, Some(id)) => {
                    let (upload, parts) = expected.uploads.get_mut(&id).unwrap();
                    let number = 1 + rng.below(40) as u16;
                    let body = body(step, 100 + rng.below(9_000) as usize);
                    part(&world, upload, number.into(), &body).unwrap();
                    parts.insert(number, body);
                }
                (7..=8, Some(id)) => {
                    let (upload, parts) = &expected.uploads[&id];
                    let kept: Vec<_> = parts.iter().filter(|_| rng.below(4) > 0).collect();
                    if kept.is_empty() {
                        continue;
                    }
                    let whole = kept
                        .iter()
                        .flat_map(|(_, body)| body.iter().copied())
                        .collect();
                    let named = kept.iter().map(|(n, body)| chosen(**n, body)).collect();
                    complete(&world, upload, named, PutCondition::None).unwrap();
                    expected.objects.insert(upload.key.clone(), whole);
                    expected.uploads.remove(&id);
                }
                (9, Some(id)) => {
                    block_on(world.objects.abort_upload(&expected.uploads[&id].0)).unwrap();
                    expected.uploads.remove(&id);
                }
                (10, _) => {
                    let condition = DeleteCondition::None;
                    block_on(world.objects.delete(&ROOT, BUCKET, &key, condition)).unwrap();
                    expected.objects.remove(&key);
                }
                (_, Some(id)) => {
                    // A part that is on its way when the power goes: there or not.
                    let upload = expected.uploads[&id].0.clone();
                    let request = PartRequest {
                        upload,
                        number: 50,
                        content_length: None,
                    };
                    let mut writer = block_on(world.objects.begin_part(request)).unwrap();
                    block_on(writer.write(Bytes::from(body(step, 20_000)))).unwrap();
                    std::mem::forget(writer);
                }
            }
            for _ in 0..rng.below(4) {
                world.objects.sweep_step().unwrap();
            }
            if rng.below(8) == 0 {
                world = world.crash(&mut rng);
                expected.check(&world);
            }
        }
        world = world.crash(&mut rng);
        expected.check(&world);
        world.audit();
        expected.check(&world);
    }
}
