//! What belongs together: records with their bodies, and bodies whose record is lost.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use objects::rescue::{
    BlobLabel, BlobRole, Body, BucketId, EndedRecord, Entry, Flags, ObjectHead, ObjectRecord,
    PartRecord, PartTable, PartsRef, UploadId, decode_entry,
};
use objects::{AccountId, Metadata};
use volume::{BlobId, BlobRef, Cut, Scheme};

use super::disks::{At, Disks};

/// Everything on the disks that makes up objects.
pub(super) struct Inventory<'a> {
    pub(super) disks: &'a Disks,
    items: Vec<Item<'a>>,
    unreadable: Vec<String>,
}

/// An object that can be told from what is on the disks.
pub(super) struct Item<'a> {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) record: ObjectRecord,
    /// `None`: the record is there. Else it is lost or never was, and [`Item::record`] is the
    /// copy in the body's last frame.
    pub(super) orphan: Option<Orphan>,
    pieces: Vec<Piece<'a>>,
}

/// A whole body to which no record refers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Orphan {
    /// The body's name, which no other body has; later bodies have later names.
    pub(super) blob: BlobId,
    pub(super) relation: Relation,
}

/// What an orphan is to the record that its key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Relation {
    /// The key has no record that can be read.
    Alone,
    /// The record was written after the body was.
    Older,
    /// The record was written before the body was: a newer record is likely to be lost.
    Newer,
    /// Nobody can tell which of the two came first: they have no disk in common.
    Beside,
    /// It is a part of an upload that was not completed, or whose object's record is lost.
    Part { upload: UploadId, number: u16 },
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Relation::Alone => "no-record",
            Relation::Older => "no-record, older than the object",
            Relation::Newer => "no-record, newer than the object",
            Relation::Beside => "no-record, beside the object",
            Relation::Part { upload, number } => {
                return write!(f, "no-record, part {number} of upload {upload}");
            }
        })
    }
}

/// A piece of a body: how it was cut, and what is there of it, by the shards' numbers.
struct Piece<'a> {
    cut: Cut,
    shards: Vec<(u8, At<'a>)>,
}

/// What is on the disks of one blob.
#[derive(Default)]
struct Blob<'a> {
    /// When its newest piece was committed on each disk. Only numbers of one disk can be compared.
    seqs: BTreeMap<usize, u64>,
    stripes: BTreeMap<u32, Vec<(u8, At<'a>)>>,
    label: Option<BlobLabel>,
    record: Option<ObjectRecord>,
    part: Option<PartRecord>,
}

/// Entries, sorted by what they are.
#[derive(Default)]
struct Found<'a> {
    buckets: HashMap<BucketId, String>,
    /// The newest version of each key, and where it is.
    objects: BTreeMap<(BucketId, String), (u64, ObjectRecord, Vec<At<'a>>)>,
    blobs: BTreeMap<BlobId, Blob<'a>>,
    /// Bodies whose deletion was decided, though it may not be through.
    deleted: BTreeSet<BlobId>,
    /// Uploads that are over, and what objects keep of them.
    ended: BTreeMap<UploadId, EndedRecord>,
    ended_buckets: BTreeSet<BucketId>,
    unreadable: Vec<String>,
}

/// The keys that have a record, when it was committed on each disk, and the body that it names.
type Known = BTreeMap<(BucketId, String), (BTreeMap<usize, u64>, Option<BlobId>)>;

impl<'a> Found<'a> {
    fn read(disks: &'a Disks) -> Found<'a> {
        let mut found = Found::default();
        for at in disks.entries() {
            match decode_entry(at.rescued.key, at.rescued.value) {
                Ok(entry) => found.add(entry, at),
                Err(error) => found.unreadable.push(error.to_string()),
            }
        }
        found
    }

    fn add(&mut self, entry: Entry, at: At<'a>) {
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
                let newest = newest.or_insert_with(|| (sequence, (*record).clone(), Vec::new()));
                match sequence.cmp(&newest.0) {
                    Ordering::Less => {}
                    Ordering::Equal => newest.2.push(at),
                    Ordering::Greater => *newest = (sequence, *record, vec![at]),
                }
            }
            Entry::Shard {
                blob,
                stripe,
                shard,
                label,
                record,
                part,
                ..
            } => {
                let blob = self.blobs.entry(blob).or_default();
                let seq = blob.seqs.entry(at.disk).or_default();
                *seq = (*seq).max(at.rescued.seq);
                blob.stripes.entry(stripe).or_default().push((shard, at));
                blob.label = label.or(blob.label.take());
                blob.record = record.map(|record| *record).or(blob.record.take());
                blob.part = part.map(|part| *part).or(blob.part.take());
            }
            Entry::Deleted { blob, upload } => {
                self.deleted.insert(blob);
                if let Some(upload) = upload {
                    self.ended.insert(upload, EndedRecord::default());
                }
            }
            Entry::EndedUpload { upload, kept } => {
                self.ended.entry(upload).or_insert(kept);
            }
            Entry::EndedBucket { bucket } => {
                self.ended_buckets.insert(bucket);
            }
            // Its blob says what it is.
            Entry::Part { .. } | Entry::Other => {}
        }
    }
}

/// The pieces of a blob, in order.
fn pieces<'a>(blob: &BlobRef, found: &Blob<'a>) -> Vec<Piece<'a>> {
    let piece = |stripe: u32| {
        let begin = u64::from(stripe) * blob.stripe_bytes();
        let len = blob
            .stored_len
            .saturating_sub(begin)
            .min(blob.stripe_bytes());
        Piece {
            cut: Cut {
                scheme: blob.scheme,
                // At most 16 MiB.
                len: len as usize,
            },
            shards: found.stripes.get(&stripe).cloned().unwrap_or_default(),
        }
    };
    (0..blob.stripes()).map(piece).collect()
}

/// A body beside its record: each disk that has the one has the other.
fn inline<'a>(places: &[At<'a>]) -> Piece<'a> {
    let len = places.iter().map(|at| at.rescued.payload_len()).max();
    Piece {
        cut: Cut {
            scheme: Scheme { k: 1, m: 0 },
            len: len.unwrap_or(0) as usize,
        },
        shards: places.iter().map(|at| (0, *at)).collect(),
    }
}

impl Piece<'_> {
    /// Whether enough of it is there.
    fn is_there(&self) -> bool {
        let is_whole = |(number, at): &&(u8, At<'_>)| {
            at.rescued.payload_len() as usize == self.cut.stored_len(usize::from(*number))
        };
        let whole = self.shards.iter().filter(is_whole);
        let numbers: BTreeSet<u8> = whole.map(|(number, _)| *number).collect();
        numbers.len() >= usize::from(self.cut.scheme.k)
    }

    /// Reads it from what is there and is whole.
    fn read(&self, disks: &Disks) -> Result<Vec<u8>, String> {
        let mut said = None;
        let mut shard = |number: usize| {
            let places = self.shards.iter();
            let mut places = places.filter(|(its, _)| usize::from(*its) == number);
            places.find_map(|(_, at)| match disks.read_payload(at) {
                Ok(bytes) if bytes.len() == self.cut.stored_len(number) => Some(bytes),
                Ok(bytes) => {
                    said = Some(format!("a shard has a wrong length, {} bytes", bytes.len()));
                    None
                }
                Err(error) => {
                    said = Some(error);
                    None
                }
            })
        };
        let Scheme { k, m } = self.cut.scheme;
        let (k, width) = (usize::from(k), usize::from(k) + usize::from(m));
        let mut shards = vec![None; width];
        let mut found = 0;
        for (number, place) in shards.iter_mut().enumerate() {
            if found == k {
                break;
            }
            *place = shard(number);
            found += usize::from(place.is_some());
        }
        let read = match k {
            // Each is a copy of it.
            1 => shards.into_iter().flatten().next(),
            _ => self.cut.rebuild(&mut shards).then(|| {
                let data = shards.iter().take(k).enumerate();
                let data = data.filter_map(|(number, shard)| {
                    shard.as_ref()?.get(..self.cut.stored_len(number))
                });
                data.flatten().copied().collect()
            }),
        };
        read.ok_or_else(|| said.unwrap_or_else(|| "too few of its shards are there".to_owned()))
    }
}

impl<'a> Found<'a> {
    /// The pieces of a blob, which is not looked at again.
    fn take(&mut self, blob: &BlobRef) -> Vec<Piece<'a>> {
        pieces(blob, &self.blobs.remove(&blob.id).unwrap_or_default())
    }

    /// The pieces of a body in parts. If its table cannot be read, the parts themselves say what
    /// they belong to.
    fn take_parts(&mut self, disks: &Disks, parts: &PartsRef) -> Vec<Piece<'a>> {
        let blobs = match self.table(disks, parts) {
            Some(blobs) => blobs,
            None => self.parts_of(parts.upload),
        };
        if let PartTable::Apart { blob, .. } = &parts.table {
            self.blobs.remove(&blob.id);
        }
        blobs.iter().flat_map(|blob| self.take(blob)).collect()
    }

    /// Parts whose deletion was decided, though it may not be through.
    fn forget_ended_uploads(&mut self) {
        let (ended, buckets) = (&self.ended, &self.ended_buckets);
        self.blobs.retain(|_, blob| match &blob.label {
            Some(BlobLabel {
                role: BlobRole::Part { upload, number },
                bucket,
                ..
            }) => {
                let ended = ended.get(upload).is_some_and(|kept| !kept.keeps(*number));
                !(ended || buckets.contains(bucket))
            }
            _ => true,
        });
    }

    fn table(&self, disks: &Disks, parts: &PartsRef) -> Option<Vec<BlobRef>> {
        let entries = match &parts.table {
            PartTable::Here(entries) => entries.clone(),
            PartTable::Apart { blob, .. } => {
                let mut bytes = Vec::new();
                for piece in pieces(blob, self.blobs.get(&blob.id)?) {
                    bytes.extend(piece.read(disks).ok()?);
                }
                bytes
            }
        };
        let mut blobs = Vec::new();
        for chunk in 0..parts.chunks() {
            let range = parts.chunk_bytes(chunk);
            let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
            let chunk = parts.decode_chunk(chunk, entries.get(range)?).ok()?;
            blobs.extend(chunk.into_iter().map(|part| part.blob));
        }
        Some(blobs)
    }

    /// The parts of an upload that are on the disks, in order.
    fn parts_of(&self, upload: UploadId) -> Vec<BlobRef> {
        let mut parts = BTreeMap::new();
        for blob in self.blobs.values() {
            let role = blob.label.as_ref().map(|label| label.role);
            if let (Some(BlobRole::Part { upload: of, number }), Some(part)) = (role, &blob.part)
                && of == upload
            {
                parts.insert(number, part.blob.clone());
            }
        }
        parts.into_values().collect()
    }

    /// Bodies in parts whose table is there, with a copy of the record, but not the record.
    fn tables_without_record(&mut self, disks: &Disks, known: &Known) -> Vec<Item<'a>> {
        let is_table = |blob: &Blob<'_>| {
            let role = blob.label.as_ref().map(|label| label.role);
            matches!(role, Some(BlobRole::Table { .. }))
        };
        let tables = self
            .blobs
            .iter()
            .filter(|(id, blob)| is_table(blob) && !self.deleted.contains(id));
        let tables: Vec<BlobId> = tables.map(|(id, _)| *id).collect();
        let mut items = Vec::new();
        for id in tables {
            let Some(Blob {
                seqs,
                label: Some(label),
                record: Some(record),
                ..
            }) = self.blobs.get(&id)
            else {
                continue;
            };
            let Body::Parts(parts) = record.body.clone() else {
                continue;
            };
            let (seqs, label, record) = (seqs.clone(), label.clone(), record.clone());
            let pieces = self.take_parts(disks, &parts);
            items.push(orphan(id, &seqs, label, record, pieces, known));
        }
        items
    }
}

impl<'a> Inventory<'a> {
    /// Sorts what was read off the disks.
    pub(super) fn new(disks: &'a Disks) -> Inventory<'a> {
        let mut found = Found::read(disks);
        let mut items = Vec::with_capacity(found.objects.len());
        let mut known = Known::new();
        for ((id, key), (_, record, places)) in std::mem::take(&mut found.objects) {
            let (pieces, body) = match &record.body {
                Body::Inline => (vec![inline(&places)], None),
                Body::Blob(blob) => (found.take(blob), Some(blob.id)),
                Body::Parts(parts) => (found.take_parts(disks, parts), None),
            };
            let seqs = places.iter().map(|at| (at.disk, at.rescued.seq));
            known.insert((id, key.clone()), (seqs.collect(), body));
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
                orphan: None,
                pieces,
            });
        }
        items.extend(found.tables_without_record(disks, &known));
        found.forget_ended_uploads();
        items.extend(orphans(found.blobs, &found.deleted, &known));
        let order = |item: &Item<'a>| (item.bucket.clone(), item.key.clone(), item.orphan);
        items.sort_by_cached_key(order);
        Inventory {
            disks,
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

/// Whole bodies to which no record refers, and whose deletion nobody noted. They may come from
/// a put that was never acknowledged; but also from one whose record is damaged while an older
/// record of the key is not, so that a record of the key hides none of them.
fn orphans<'a>(
    blobs: BTreeMap<BlobId, Blob<'a>>,
    deleted: &BTreeSet<BlobId>,
    known: &Known,
) -> Vec<Item<'a>> {
    let mut orphans = Vec::new();
    for (id, blob) in blobs {
        if deleted.contains(&id) {
            continue;
        }
        let Some(label) = blob.label.clone() else {
            continue;
        };
        let record = match label.role {
            BlobRole::Object => blob.record.clone(),
            BlobRole::Part { .. } => blob.part.as_ref().map(record_of_part),
            BlobRole::Table { .. } => None,
        };
        let Some(record) = record else {
            continue;
        };
        let Body::Blob(reference) = &record.body else {
            continue;
        };
        let pieces = pieces(reference, &blob);
        orphans.push(orphan(id, &blob.seqs, label, record, pieces, known));
    }
    orphans
}

/// A part as if it were an object.
fn record_of_part(part: &PartRecord) -> ObjectRecord {
    ObjectRecord {
        head: ObjectHead {
            flags: Flags::NULL_VERSION,
            size: part.size,
            modified: part.modified,
            owner: AccountId::ROOT,
            etag: part.etag.clone(),
        },
        body: Body::Blob(part.blob.clone()),
        metadata: Metadata::default(),
        checksum: part.checksum.clone(),
        unknown: Vec::new(),
    }
}

fn orphan<'a>(
    blob: BlobId,
    seqs: &BTreeMap<usize, u64>,
    label: BlobLabel,
    record: ObjectRecord,
    pieces: Vec<Piece<'a>>,
    known: &Known,
) -> Item<'a> {
    let recorded = known.get(&(label.bucket, label.key.clone()));
    let relation = match (label.role, recorded) {
        (BlobRole::Part { upload, number }, _) => Relation::Part { upload, number },
        (_, None) => Relation::Alone,
        (_, Some((recorded, body))) => {
            let both = recorded.iter().find_map(|(disk, recorded)| {
                let seq = seqs.get(disk)?;
                Some(recorded.cmp(seq))
            });
            // Where they have no disk in common, the bodies' names say it.
            match both.or(body.map(|body| body.cmp(&blob))) {
                Some(Ordering::Greater) => Relation::Older,
                Some(_) => Relation::Newer,
                None => Relation::Beside,
            }
        }
    };
    Item {
        bucket: label.bucket_name,
        key: label.key,
        record,
        orphan: Some(Orphan { blob, relation }),
        pieces,
    }
}

impl Item<'_> {
    /// What a listing shows.
    pub(super) fn head(&self) -> &ObjectHead {
        &self.record.head
    }

    /// Whether every piece is there, without reading them.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(missing) = self.pieces.iter().position(|piece| !piece.is_there()) {
            return Err(format!(
                "piece {missing} of {} is missing",
                self.pieces.len()
            ));
        }
        let bytes: u64 = self.pieces.iter().map(|piece| piece.cut.len as u64).sum();
        if bytes != self.head().size {
            return Err(format!("{bytes} of {} bytes are there", self.head().size));
        }
        Ok(())
    }

    /// Reads and verifies every piece.
    pub(super) fn verify(&self, disks: &Disks) -> Result<(), String> {
        self.check()?;
        self.pieces(disks).try_for_each(|piece| piece.map(drop))
    }

    /// The body, in verified pieces. To be read after [`check`](Item::check).
    pub(super) fn pieces<'s>(
        &'s self,
        disks: &'s Disks,
    ) -> impl Iterator<Item = Result<Vec<u8>, String>> + 's {
        self.pieces.iter().map(|piece| piece.read(disks))
    }
}

#[cfg(test)]
mod tests {
    use objects::{ETag, Timestamp};
    use volume::Scheme;

    use super::*;

    const BUCKET: BucketId = BucketId(1);

    fn blob(counter: u64, seq: u64) -> (BlobId, Blob<'static>) {
        let id = BlobId { epoch: 1, counter };
        let reference = BlobRef {
            id,
            plain_len: 9,
            stored_len: 9,
            transforms: Vec::new(),
            scheme: Scheme { k: 1, m: 0 },
            shard_bytes: 1024,
        };
        let record = ObjectRecord {
            head: ObjectHead {
                flags: Flags::NULL_VERSION,
                size: 9,
                modified: Timestamp::from_millis(1),
                owner: AccountId::ROOT,
                etag: ETag::new("e"),
            },
            body: Body::Blob(reference),
            metadata: Metadata::default(),
            checksum: None,
            unknown: Vec::new(),
        };
        let label = BlobLabel {
            role: BlobRole::Object,
            bucket: BUCKET,
            bucket_name: "b".to_owned(),
            key: "k".to_owned(),
        };
        let blob = Blob {
            seqs: BTreeMap::from([(0, seq)]),
            stripes: BTreeMap::new(),
            label: Some(label),
            record: Some(record),
            part: None,
        };
        (id, blob)
    }

    /// Once a body whose deletion was acknowledged, but was not through, came back.
    #[test]
    fn a_deleted_body_is_no_orphan() {
        let (deleted, _) = blob(1, 10);
        let blobs = || BTreeMap::from([blob(1, 10), blob(2, 20), blob(3, 40)]);
        let recorded = (BTreeMap::from([(0, 30)]), None);
        let known = Known::from([((BUCKET, "k".to_owned()), recorded)]);
        let relations = |deleted: &[BlobId], known: &Known| -> Vec<(u64, Relation)> {
            let deleted = deleted.iter().copied().collect();
            let orphans = orphans(blobs(), &deleted, known);
            let orphans = orphans.iter().filter_map(|item| item.orphan);
            orphans
                .map(|orphan| (orphan.blob.counter, orphan.relation))
                .collect()
        };
        assert_eq!(
            relations(&[deleted], &known),
            [(2, Relation::Older), (3, Relation::Newer)]
        );
        assert_eq!(relations(&[], &Known::new()).len(), 3);
        assert!(
            relations(&[], &Known::new())
                .iter()
                .all(|(_, relation)| *relation == Relation::Alone)
        );
    }
}
