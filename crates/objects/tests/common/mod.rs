//! A store of objects on a real engine over a simulated disk, and an audit of what is on it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use objects::rescue::{Body, Entry, PartTable, PartsRef, decode_entry};
use objects::{
    AccountId, Accounts, ETag, Error, ListEntry, ListRequest, Metadata, Objects, ObjectsOptions,
    PutCondition, PutOutcome, PutRequest, Secret, Unseal,
};
use simdisk::{Crash, Image, Rng, SimDisk};
use volume::shardstore::{Batch, Disk, Engine, Geometry, Identity, Key, Options, Read, Store};
use volume::{BlobId, RawKey, Volume, VolumeOptions};

/// Bytes of a stripe: small, so that small bodies have many.
pub const STRIPE: usize = 4096;
/// Least bytes of a part but the last.
pub const PART_MIN: u64 = 100;
pub const ROOT: AccountId = AccountId::ROOT;
pub const BUCKET: &str = "bucket";

/// Reverses what it seals and puts a byte and the name of the key in front: enough to tell
/// whether the right thing is unsealed with the right seal.
pub struct Seal(pub u8);

/// The seal of [`World::accounts`].
pub const SEAL: u8 = 7;

pub fn sealed(id: &str, account: AccountId, secret: &str) -> Vec<u8> {
    let text: String = secret.chars().rev().collect();
    format!("{}{id}{account}:{text}", char::from(SEAL)).into_bytes()
}

impl Unseal for Seal {
    fn unseal(&self, id: &str, account: AccountId, sealed: &[u8]) -> Option<Secret> {
        let start = format!("{}{id}{account}:", char::from(self.0));
        let text = sealed.strip_prefix(start.as_bytes())?;
        let text: String = std::str::from_utf8(text).ok()?.chars().rev().collect();
        Some(Secret::new(text))
    }
}

pub use volume::block_on;

/// Polls a future a few times and drops it, as a server does whose client went away.
pub fn poll_and_drop<T>(future: impl Future<Output = T>, polls: usize) {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        if polled.is_ready() {
            return;
        }
        std::thread::yield_now();
    }
}

/// A disk, and the store on it.
pub struct World {
    pub disk: Arc<SimDisk>,
    pub engine: Engine,
    pub objects: Objects,
}

impl World {
    /// On a new disk of so many bytes, without buckets.
    pub fn empty(capacity: u64) -> World {
        let disk = Arc::new(SimDisk::new(Image::blank(capacity, 512)));
        let geometry = Geometry {
            extent_bytes: 128 * 1024,
            payload_bytes_max: 32 * 1024,
        };
        let identity = Identity {
            disk: [1; 16],
            set: [2; 16],
        };
        Store::format(&*disk, identity, geometry).unwrap();
        World::on(disk).unwrap()
    }

    /// On a new disk of 16 MiB, with one bucket.
    pub fn new() -> World {
        let world = World::empty(16 << 20);
        block_on(world.objects.create_bucket(&ROOT, BUCKET)).unwrap();
        world
    }

    pub fn on(disk: Arc<SimDisk>) -> Result<World, volume::shardstore::Error> {
        let options = Options {
            memtable_bytes: 64 * 1024,
            tail_bytes_max: 512 * 1024,
            ..Options::default()
        };
        let store = Store::open(disk.clone() as Arc<dyn Disk>, options)?;
        let engine = Engine::start(store, 2)?;
        let options = VolumeOptions {
            in_flight_bytes_max: 8 * STRIPE,
            shard_bytes_max: STRIPE as u32,
            ..VolumeOptions::default()
        };
        let volume = Volume::with_options(vec![engine.clone()], options).unwrap();
        let options = ObjectsOptions {
            buckets_per_account_max: 5,
            part_bytes_min: PART_MIN,
            ..ObjectsOptions::default()
        };
        let objects = Objects::open(volume, options).unwrap();
        Ok(World {
            disk,
            engine,
            objects,
        })
    }

    /// Accounts, and keys whose secrets are sealed with the usual seal.
    pub fn accounts(&self) -> Accounts {
        Accounts::open(&self.objects, Arc::new(Seal(SEAL))).unwrap()
    }

    /// Cuts the power and starts again.
    pub fn crash(self, rng: &mut Rng) -> World {
        let disk = Arc::new(self.disk.crash(rng, Crash::Sectors));
        World::on(disk).unwrap()
    }

    /// Shuts down and starts again.
    pub fn restart(self) -> World {
        self.objects.close().unwrap();
        World::on(self.disk).unwrap()
    }

    pub fn put(&self, key: &str, body: &[u8]) -> Result<PutOutcome, Error> {
        block_on(put(&self.objects, request(key), body))
    }

    pub fn get(&self, key: &str) -> Result<Vec<u8>, Error> {
        block_on(async {
            let handle = self.objects.get(&ROOT, BUCKET, key).await?;
            read(handle.read(0..u64::MAX)).await
        })
    }

    pub fn delete(&self, key: &str) -> Result<bool, Error> {
        let condition = objects::DeleteCondition::None;
        let deleted = block_on(self.objects.delete(&ROOT, BUCKET, key, condition))?;
        Ok(deleted.existed)
    }

    /// Every key of the bucket with its size, through pages of three.
    pub fn list(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        let mut start_after = None;
        loop {
            let page = block_on(self.objects.list(ListRequest {
                account: ROOT,
                bucket: BUCKET.to_owned(),
                prefix: String::new(),
                delimiter: None,
                start_after,
                max_keys: 3,
            }))
            .unwrap();
            for entry in page.entries {
                let ListEntry::Object(object) = entry else {
                    panic!("a common prefix without a delimiter");
                };
                assert!(all.insert(object.key, object.size).is_none());
            }
            match page.next {
                Some(next) => start_after = Some(next),
                None => return all,
            }
        }
    }

    /// Runs the sweep until nothing is left to do.
    pub fn sweep(&self) {
        for _ in 0..20_000 {
            let worked = match self.objects.sweep_step() {
                Err(Error::InsufficientStorage) => true,
                worked => worked.unwrap(),
            };
            let stats = self.objects.stats();
            let settled = stats.volume.deletions_unsettled == 0;
            if !worked && stats.pending_deletes == 0 && settled && stats.sweep_done {
                return;
            }
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
        panic!("the sweep does not end: {:?}", self.objects.stats());
    }

    /// Sweeps, and checks that nothing is on the disk but what the listing shows.
    pub fn audit(&self) {
        self.sweep();
        let listed = self.list();
        let info = block_on(self.objects.head_bucket(&ROOT, BUCKET)).unwrap();
        assert_eq!(info.objects, listed.len() as u64, "the count of objects");
        assert_eq!(
            info.bytes,
            listed.values().sum::<u64>(),
            "the count of bytes"
        );
        let (mut keys, mut stored) = (Vec::new(), BTreeSet::new());
        let mut referred = Vec::new();
        for (key, value) in self.entries() {
            match decode_entry(&key, &value).unwrap() {
                Entry::Object { key, record, .. } => {
                    keys.push(key);
                    match record.body {
                        Body::Inline => {}
                        Body::Blob(blob) => referred.push(blob.id),
                        Body::Parts(parts) => referred.extend(self.blobs_of(&parts)),
                    }
                }
                Entry::Part { record, .. } => referred.push(record.blob.id),
                Entry::Shard { blob, .. } => {
                    stored.insert(blob);
                }
                Entry::Bucket { .. } => {}
                Entry::Deleted { blob, .. } => {
                    panic!("a note of the deletion of {blob}, which is done")
                }
                ended @ (Entry::EndedUpload { .. } | Entry::EndedBucket { .. }) => {
                    panic!("a note that was not followed: {ended:?}")
                }
                Entry::Other => {}
            }
        }
        assert_eq!(
            keys,
            listed.into_keys().collect::<Vec<_>>(),
            "hidden versions"
        );
        let once: BTreeSet<_> = referred.iter().copied().collect();
        assert_eq!(once.len(), referred.len(), "a blob is referred to twice");
        assert_eq!(stored, once, "blobs on the disk, and in records");
    }

    /// The blobs of a body in parts, its table's included.
    fn blobs_of(&self, parts: &PartsRef) -> Vec<BlobId> {
        let mut blobs = Vec::new();
        let entries = match &parts.table {
            PartTable::Here(entries) => entries.clone(),
            PartTable::Apart { blob, .. } => {
                blobs.push(blob.id);
                self.payload(blob.id)
            }
        };
        for chunk in 0..parts.chunks() {
            let range = parts.chunk_bytes(chunk);
            let bytes = &entries[range.start as usize..range.end as usize];
            let chunk = parts.decode_chunk(chunk, bytes).unwrap();
            blobs.extend(chunk.iter().map(|part| part.blob.id));
        }
        blobs
    }

    /// All bytes of a blob.
    fn payload(&self, blob: BlobId) -> Vec<u8> {
        let snapshot = self.engine.snapshot();
        let page = snapshot.scan(&[0], &[0xff], usize::MAX, Read::Blocking);
        let mut bytes = Vec::new();
        for found in &page.unwrap().entries {
            let shard = RawKey::decode(found.key());
            if matches!(shard, RawKey::Shard { blob: of, .. } if of == blob) {
                let range = 0..found.payload_len();
                bytes.extend(snapshot.read_payload(found, range, Read::Blocking).unwrap());
            }
        }
        bytes
    }

    /// Every entry of the engine: key and value.
    pub fn entries(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let page = self
            .engine
            .snapshot()
            .scan(&[0], &[0xff], usize::MAX, Read::Blocking)
            .unwrap();
        let pair =
            |found: &volume::shardstore::Found| (found.key().to_vec(), found.value().to_vec());
        page.entries.iter().map(pair).collect()
    }

    /// Puts an entry of the engine past the store, or deletes it.
    pub fn write_raw(&self, key: &[u8], value: Option<&[u8]>) {
        let batch = match value {
            Some(value) => Batch::new().put(Key::plain(key), value),
            None => Batch::new().delete(Key::plain(key)),
        };
        self.engine.submit(batch).unwrap().wait().unwrap();
    }

    pub fn blobs(&self) -> BTreeSet<BlobId> {
        let entries = self.entries();
        let decoded = entries
            .iter()
            .map(|(key, value)| decode_entry(key, value).unwrap());
        decoded
            .filter_map(|entry| match entry {
                Entry::Shard { blob, .. } => Some(blob),
                _ => None,
            })
            .collect()
    }
}

pub fn request(key: &str) -> PutRequest {
    PutRequest {
        account: ROOT,
        bucket: BUCKET.to_owned(),
        key: key.to_owned(),
        metadata: Metadata::default(),
        condition: PutCondition::None,
        content_length: None,
    }
}

/// A tag that tells bodies apart; not an MD5, which this crate does not compute.
pub fn etag(body: &[u8]) -> ETag {
    let mut digest = [0; 16];
    for (at, byte) in body.iter().enumerate() {
        digest[at % 16] ^= byte.rotate_left(at as u32 / 16 % 8);
    }
    digest[0] ^= body.len() as u8;
    ETag::from_md5(digest)
}

pub async fn put(objects: &Objects, request: PutRequest, body: &[u8]) -> Result<PutOutcome, Error> {
    let mut writer = objects.begin_put(request).await?;
    for piece in body.chunks(1000) {
        writer.write(Bytes::copy_from_slice(piece)).await?;
    }
    writer.finish(etag(body), None).await
}

pub async fn read(mut reader: objects::ObjectReader) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(piece) = reader.next().await {
        let piece = piece?;
        assert!(!piece.is_empty() && piece.len() <= 1 << 20);
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// A body of so many bytes that no other length and seed has.
pub fn body(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::new(seed ^ ((len as u64) << 32)).fill(&mut bytes);
    bytes
}
