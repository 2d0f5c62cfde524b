//! `cullet rescue` on disks as a crash or damage leaves them: bodies without records, several
//! of one key, and keys that make difficult paths.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use objects::rescue::{
    BlobLabel, BlobRole, Body, BucketId, Entry, Flags, ObjectHead, ObjectRecord, decode_entry,
};
use objects::{
    AccountId, Checksum, ChosenPart, CompleteRequest, CreateUpload, ETag, Metadata, Objects,
    ObjectsOptions, PartRequest, PartSummary, PartSums, PutCondition, PutRequest, Timestamp,
    UploadRef,
};
use shardstore::file_disk::FileDisk;
use shardstore::rescue::Rescue;
use shardstore::{Engine, Geometry, Identity, Options, Store};
use volume::Volume;

const MIB: u64 = 1024 * 1024;

/// A disk's lock lives until the last process that has the file closes it; and a process that
/// one test starts has the files of all tests, until it becomes another program.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Scratch {
    path: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Scratch {
    fn new(name: &str) -> Scratch {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let path =
            std::env::temp_dir().join(format!("cullet-rescue-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch {
            path,
            _alone: guard,
        }
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A store, filled without a server.
struct Filled {
    runtime: tokio::runtime::Runtime,
    volume: Volume,
    objects: Objects,
}

/// A small disk.
fn limited() -> Options {
    Options {
        capacity_bytes: Some(128 * MIB),
        ..Options::default()
    }
}

impl Filled {
    fn format(directory: &Path) -> Filled {
        let disk = FileDisk::open(directory, true).unwrap();
        let identity = Identity {
            disk: [1; 16],
            set: [2; 16],
        };
        Store::format(&disk, identity, Geometry::for_capacity(128 * MIB)).unwrap();
        drop(disk);
        Filled::open(directory)
    }

    fn open(directory: &Path) -> Filled {
        let disk = FileDisk::open(directory, false).unwrap();
        let store = Store::open(Arc::new(disk), limited()).unwrap();
        let engine = Engine::start(store, 1).unwrap();
        let volume = Volume::new(vec![engine]).unwrap();
        let options = ObjectsOptions {
            part_bytes_min: 1,
            ..ObjectsOptions::default()
        };
        let objects = Objects::open(volume.clone(), options).unwrap();
        Filled {
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
            volume,
            objects,
        }
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn bucket(&self, name: &str) {
        self.run(self.objects.create_bucket(&AccountId::ROOT, name))
            .unwrap();
    }

    fn put(&self, key: &str, body: &[u8]) {
        self.run(async {
            let mut writer = self
                .objects
                .begin_put(PutRequest {
                    account: AccountId::ROOT,
                    bucket: "bucket".to_owned(),
                    key: key.to_owned(),
                    metadata: Metadata::default(),
                    condition: PutCondition::None,
                    content_length: None,
                })
                .await
                .unwrap();
            writer.write(body.to_vec().into()).await.unwrap();
            writer.finish(ETag::new("e"), None).await.unwrap();
        });
    }

    /// A body as a crash leaves it before its record is written; returns its name.
    fn orphan(&self, bucket: BucketId, key: &str, body: &[u8]) -> String {
        let label = BlobLabel {
            role: BlobRole::Object,
            bucket,
            bucket_name: "bucket".to_owned(),
            key: key.to_owned(),
        };
        self.run(async {
            let mut writer = self
                .volume
                .blob_writer(label.encode().unwrap(), None)
                .unwrap();
            writer.write(body).await.unwrap();
            let record = ObjectRecord {
                head: ObjectHead {
                    flags: Flags::NULL_VERSION,
                    size: body.len() as u64,
                    modified: Timestamp::now(),
                    owner: AccountId::ROOT,
                    etag: ETag::new("e"),
                },
                body: Body::Blob(writer.blob().clone()),
                metadata: Metadata::default(),
                checksum: None,
                unknown: Vec::new(),
            };
            let finished = writer.finish(record.encode().unwrap()).await.unwrap();
            finished.keep().id.to_string()
        })
    }

    fn close(self) {
        self.objects.close().unwrap();
    }
}

/// The id of the only bucket on a disk.
fn bucket_id(directory: &Path) -> BucketId {
    let disk = FileDisk::open_read_only(directory).unwrap();
    let rescue = Rescue::read(Arc::new(disk), |_, _| {}).unwrap();
    let found =
        rescue.entries().find_map(
            |entry| match decode_entry(entry.key, entry.value).unwrap() {
                Entry::Bucket { record, .. } => Some(record.id),
                _ => None,
            },
        );
    found.unwrap()
}

fn rescue(action: &str, arguments: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cullet"));
    command.args(["rescue", action]).args(arguments);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Once an export ended at the first path that could not be made: at the second body without a
/// record of one key, as two power cuts leave them, or at a key that anyone who may put can
/// choose. Whatever came after it in the order of keys was not rescued.
#[test]
fn no_path_ends_an_export() {
    let scratch = Scratch::new("paths");
    let disk = scratch.join("disk");
    let filled = Filled::format(&disk);
    filled.bucket("bucket");
    let long = "x".repeat(200);
    let planted = [
        format!("{long}.."),
        format!("{long}../z"),
        format!("{long}/.."),
        "z".to_owned(),
    ];
    for key in &planted {
        filled.put(key, key.as_bytes());
    }
    filled.close();
    let bucket = bucket_id(&disk);
    let filled = Filled::open(&disk);
    let bodies = [vec![1; 20_000], vec![2; 30_000], vec![3; 3_000_000]];
    let names: Vec<String> = bodies
        .iter()
        .map(|body| filled.orphan(bucket, "lost/k", body))
        .collect();
    // The bucket was deleted and made again.
    let other = filled.orphan(BucketId(bucket.0 + 1000), "lost/k", &bodies[0]);
    filled.close();

    let to = scratch.join("out");
    let output = rescue("export", &[Path::new("--to"), &to, &disk]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let list = std::fs::read_to_string(to.join("objects.jsonl")).unwrap();
    assert_eq!(list.lines().count(), planted.len() + 4, "{list}");
    for key in &planted {
        let line = list
            .lines()
            .find(|line| line.contains(&format!("\"key\":\"{key}\"")))
            .unwrap();
        let path = line
            .split("\"path\":\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        assert_eq!(
            std::fs::read_to_string(to.join(path)).unwrap(),
            *key,
            "{line}"
        );
    }
    for (name, body) in names.iter().zip(&bodies).chain([(&other, &bodies[0])]) {
        let path = format!("_no-record/bucket/lost/k%body-{name}");
        assert!(std::fs::read(to.join(&path)).unwrap() == *body, "{path}");
    }
    let listed = text(&rescue("list", &[&disk]).stdout);
    let order: Vec<usize> = names
        .iter()
        .map(|name| listed.find(&format!("(body {name})")).unwrap())
        .collect();
    assert!(order.is_sorted(), "the oldest first: {listed}");
}

/// What one file meets is that file's: the rest is written, and the exit status says that not
/// everything was.
#[test]
fn a_file_that_cannot_be_written_is_told_and_the_rest_is() {
    let scratch = Scratch::new("one-file");
    let disk = scratch.join("disk");
    let filled = Filled::format(&disk);
    filled.bucket("bucket");
    filled.put("a", b"first");
    // Longer than any file system takes a path, once it is escaped, below a long directory.
    filled.put(&"\u{1}".repeat(1024), b"second");
    filled.put("z", b"third");
    filled.close();
    let to = scratch.join(&format!("{}out", "deep-down-in-here/".repeat(60)));
    let output = rescue("export", &[Path::new("--to"), &to, &disk]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("is whole, but was not written") && said.contains("1 objects"),
        "{said}"
    );
    assert_eq!(std::fs::read(to.join("bucket/a")).unwrap(), b"first");
    assert_eq!(std::fs::read(to.join("bucket/z")).unwrap(), b"third");
}

/// Once a body was not shown if its key had any record: when the newest record of a key was
/// damaged and an older one was not, the acknowledged body was whole and was not exported.
#[test]
fn a_record_hides_no_newer_body() {
    let scratch = Scratch::new("newer");
    let disk = scratch.join("disk");
    let filled = Filled::format(&disk);
    filled.bucket("bucket");
    filled.put("k", b"old");
    filled.close();
    let bucket = bucket_id(&disk);
    let filled = Filled::open(&disk);
    let newer = filled.orphan(bucket, "k", &[7; 20_000]);
    let older = filled.orphan(bucket, "j", &[8; 20_000]);
    filled.put("j", b"new");
    filled.close();
    let output = rescue("list", &[&disk]);
    let listed = text(&output.stdout);
    let states: Vec<&str> = listed
        .lines()
        .map(|line| line.split("bucket/").nth(1).unwrap())
        .collect();
    let expected = [
        "j ok".to_owned(),
        format!("j no-record, older than the object (body {older})"),
        "k ok".to_owned(),
        format!("k no-record, newer than the object (body {newer})"),
    ];
    assert_eq!(states, expected, "{listed}");
    let to = scratch.join("out");
    assert_eq!(
        rescue("export", &[Path::new("--to"), &to, &disk])
            .status
            .code(),
        Some(0)
    );
    let path = to.join(format!("_no-record/bucket/k%body-{newer}"));
    assert_eq!(std::fs::read(path).unwrap(), [7; 20_000]);
    assert_eq!(std::fs::read(to.join("bucket/k")).unwrap(), b"old");
}

/// Sums that nobody looks at.
struct NoSums;

impl PartSums for NoSums {
    fn add(&mut self, _: &PartSummary) -> objects::Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> objects::Result<(ETag, Option<Checksum>)> {
        Ok((ETag::new("e-2"), None))
    }
}

/// An object that was uploaded in parts comes back whole, with a table in its record and with one
/// in a blob; and so does each part of an upload that was never completed.
#[test]
fn objects_in_parts_are_rescued() {
    let scratch = Scratch::new("parts");
    let disk = scratch.join("disk");
    let filled = Filled::format(&disk);
    filled.bucket("bucket");
    let upload = |key: &str, count: u16, complete: bool| {
        filled.run(async {
            let request = CreateUpload {
                account: AccountId::ROOT,
                bucket: "bucket".to_owned(),
                key: key.to_owned(),
                metadata: Metadata::default(),
                checksum: None,
            };
            let upload = UploadRef {
                account: AccountId::ROOT,
                bucket: "bucket".to_owned(),
                key: key.to_owned(),
                upload: filled.objects.create_upload(request).await.unwrap(),
            };
            let (mut parts, mut body) = (Vec::new(), Vec::new());
            for number in 1..=count {
                let piece = format!("{key} {number};").into_bytes();
                let request = PartRequest {
                    upload: upload.clone(),
                    number: number.into(),
                    content_length: None,
                };
                let mut writer = filled.objects.begin_part(request).await.unwrap();
                writer.write(piece.clone().into()).await.unwrap();
                let etag = ETag::new(format!("tag-{number}"));
                writer.finish(etag.clone(), None, None).await.unwrap();
                body.extend(piece);
                parts.push(ChosenPart {
                    number,
                    etag,
                    checksum: None,
                });
            }
            if complete {
                let request = CompleteRequest {
                    upload,
                    parts,
                    condition: PutCondition::None,
                    size: None,
                };
                let sums = &mut NoSums;
                let completed = filled.objects.complete_upload(request, sums).await;
                completed.unwrap();
            }
            body
        })
    };
    let few = upload("few", 3, true);
    let many = upload("many", 100, true);
    upload("begun", 2, false);
    filled.close();
    let target = scratch.join("out");
    let output = rescue("export", &[Path::new("--to"), &target, &disk]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(std::fs::read(target.join("bucket/few")).unwrap(), few);
    assert_eq!(std::fs::read(target.join("bucket/many")).unwrap(), many);
    let mut parts: Vec<String> = std::fs::read_dir(target.join("_no-record/bucket"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    parts.sort();
    assert_eq!(parts, ["begun 1;", "begun 2;"]);
    let listed = text(&rescue("list", &[&disk]).stdout);
    assert!(
        listed.contains("bucket/begun no-record, part 1 of upload"),
        "{listed}"
    );
    assert_eq!(listed.lines().count(), 4, "{listed}");
}
