//! What belongs together: records with their bodies, and bodies whose record is lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use objects::rescue::{
    BlobLabel, Body, BucketId, Entry, Flags, ObjectHead, ObjectRecord, decode_entry,
};
use shardstore::rescue::{Rescue, Rescued};
use volume::BlobId;

/// Everything on a disk that makes up objects.
pub(super) struct Inventory<'a> {
    pub(super) rescue: &'a Rescue,
    items: Vec<Item<'a>>,
    unreadable: Vec<String>,
}

/// An object that can be told from what is on the disk.
pub(super) struct Item<'a> {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) record: ObjectRecord,
    /// The record is lost; this is the copy in the body's last frame.
    pub(super) is_orphan: bool,
    parts: Vec<Part<'a>>,
}

/// A piece of a body, in order; `None`: it is not there.
type Part<'a> = Option<Rescued<'a>>;

/// What is on the disk of one blob.
#[derive(Default)]
struct Blob<'a> {
    stripes: BTreeMap<u32, Rescued<'a>>,
    label: Option<BlobLabel>,
    record: Option<ObjectRecord>,
}

/// Entries, sorted by what they are.
#[derive(Default)]
struct Found<'a> {
    buckets: HashMap<BucketId, String>,
    /// The newest version of each key.
    objects: BTreeMap<(BucketId, String), (u64, ObjectRecord, Rescued<'a>)>,
    blobs: BTreeMap<BlobId, Blob<'a>>,
    unreadable: Vec<String>,
}

impl<'a> Found<'a> {
    fn read(rescue: &'a Rescue) -> Found<'a> {
        let mut found = Found::default();
        for rescued in rescue.entries() {
            match decode_entry(rescued.key, rescued.value) {
                Ok(entry) => found.add(entry, rescued),
                Err(error) => found.unreadable.push(error.to_string()),
            }
        }
        found
    }

    fn add(&mut self, entry: Entry, rescued: Rescued<'a>) {
        match entry {
            Entry::Bucket { name, record } => {
                self.buckets.insert(record.id, name);
            }
            Entry::Object {
                bucket,
                key,
                sequence,
                record,
            } => {
                let newest = self.objects.entry((bucket, key));
                let newest = newest.or_insert_with(|| (sequence, record.clone(), rescued));
                if sequence > newest.0 {
                    *newest = (sequence, record, rescued);
                }
            }
            // A set of one disk has one shard per stripe.
            Entry::Shard {
                blob,
                stripe,
                label,
                record,
                ..
            } => {
                let blob = self.blobs.entry(blob).or_default();
                blob.stripes.insert(stripe, rescued);
                blob.label = label.or(blob.label.take());
                blob.record = record.or(blob.record.take());
            }
            Entry::Other => {}
        }
    }
}

impl<'a> Inventory<'a> {
    /// Sorts what was read off a disk.
    pub(super) fn new(rescue: &'a Rescue) -> Inventory<'a> {
        let mut found = Found::read(rescue);
        let mut items = Vec::with_capacity(found.objects.len());
        let mut known = BTreeSet::new();
        for ((id, key), (_, record, rescued)) in std::mem::take(&mut found.objects) {
            let parts = match &record.body {
                Body::Inline => vec![Some(rescued)],
                Body::Blob(blob) => {
                    let stripes = found.blobs.remove(&blob.id).unwrap_or_default().stripes;
                    (0..blob.stripes())
                        .map(|stripe| stripes.get(&stripe).copied())
                        .collect()
                }
            };
            known.insert((id, key.clone()));
            if record.head.flags.contains(Flags::DELETE_MARKER) {
                continue;
            }
            let bucket = found
                .buckets
                .get(&id)
                .cloned()
                .unwrap_or_else(|| format!("_bucket-{id}"));
            items.push(Item {
                bucket,
                key,
                record,
                is_orphan: false,
                parts,
            });
        }
        items.extend(orphans(found.blobs, &known));
        items.sort_by(|a, b| (&a.bucket, &a.key).cmp(&(&b.bucket, &b.key)));
        Inventory {
            rescue,
            items,
            unreadable: found.unreadable,
        }
    }

    /// Every object, by bucket and key.
    pub(super) fn items(&self) -> impl Iterator<Item = &Item<'a>> {
        self.items.iter()
    }

    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Entries that were read, but make no sense.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = String> {
        self.unreadable.iter().cloned()
    }
}

/// Whole bodies to which no record refers, and whose key has no other record. They may also
/// come from a put that was never acknowledged.
fn orphans<'a>(
    blobs: BTreeMap<BlobId, Blob<'a>>,
    known: &BTreeSet<(BucketId, String)>,
) -> Vec<Item<'a>> {
    let mut orphans = Vec::new();
    for blob in blobs.into_values() {
        let (Some(label), Some(record)) = (blob.label, blob.record) else {
            continue;
        };
        let Body::Blob(reference) = &record.body else {
            continue;
        };
        if known.contains(&(label.bucket, label.key.clone())) {
            continue;
        }
        let stripes = 0..reference.stripes();
        let parts = stripes
            .map(|stripe| blob.stripes.get(&stripe).copied())
            .collect();
        let (bucket, key) = (label.bucket_name, label.key);
        orphans.push(Item {
            bucket,
            key,
            record,
            is_orphan: true,
            parts,
        });
    }
    orphans
}

impl Item<'_> {
    /// What a listing shows.
    pub(super) fn head(&self) -> &ObjectHead {
        &self.record.head
    }

    /// Whether every piece is there, without reading them.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(missing) = self.parts.iter().position(Option::is_none) {
            return Err(format!(
                "piece {missing} of {} is missing",
                self.parts.len()
            ));
        }
        let bytes: u64 = self
            .parts
            .iter()
            .flatten()
            .map(|part| u64::from(part.payload_len()))
            .sum();
        if bytes != self.head().size {
            return Err(format!("{bytes} of {} bytes are there", self.head().size));
        }
        Ok(())
    }

    /// Reads and verifies every piece.
    pub(super) fn verify(&self, rescue: &Rescue) -> Result<(), String> {
        self.check()?;
        self.pieces(rescue).try_for_each(|piece| piece.map(drop))
    }

    /// The body, in verified pieces. To be read after [`check`](Item::check).
    pub(super) fn pieces<'s>(
        &'s self,
        rescue: &'s Rescue,
    ) -> impl Iterator<Item = Result<Vec<u8>, String>> + 's {
        self.parts.iter().flatten().map(|part| {
            rescue
                .read_payload(part, 0..part.payload_len())
                .map_err(|error| error.to_string())
        })
    }
}
