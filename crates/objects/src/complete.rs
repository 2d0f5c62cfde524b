//! Completing an upload: its parts become an object, in one batch that ends the upload.

use volume::FinishedBlob;

use crate::change::{Ending, NewVersion};
use crate::keys::{after_prefix, part_prefix};
use crate::limits::{OBJECT_BYTES_MAX, PARTS_MAX, SCAN_CHUNK_MAX};
use crate::meta_store::MetaView;
use crate::objects::Inner;
use crate::parts::{PartsRef, TableBuilder};
use crate::put::Target;
use crate::record::{
    BlobLabel, BlobRole, Body, EndedRecord, Flags, ObjectHead, ObjectRecord, PartRecord,
};
use crate::scan::Scan;
use crate::upload::{FoundUpload, UploadRef};
use crate::upload_part::{PartSummary, part_number};
use crate::{
    Checksum, ChecksumAlgorithm, ETag, Error, Objects, PutCondition, PutOutcome, Result, Timestamp,
};

/// A part that an object is to consist of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenPart {
    /// Its number.
    pub number: u16,
    /// The tag that it must have.
    pub etag: ETag,
    /// The checksum that it must have, if any. In an upload that was begun without an algorithm
    /// one that neither is kept nor came with the part says nothing: the tag names the bytes.
    pub checksum: Option<Checksum>,
}

/// An upload to complete.
#[derive(Debug, Clone)]
pub struct CompleteRequest {
    /// Which.
    pub upload: UploadRef,
    /// The parts of the object, in the order of their numbers. Those that are not named are
    /// given up.
    pub parts: Vec<ChosenPart>,
    /// When it may happen.
    pub condition: PutCondition,
    /// Bytes that the object must have, if the client says so.
    pub size: Option<u64>,
}

/// Computes what describes a whole body from what describes its parts. Protocols know how.
pub trait PartSums: Send {
    /// The next part.
    fn add(&mut self, part: &PartSummary) -> Result<()>;

    /// The body's tag and checksum; refuses what the client declared otherwise.
    fn finish(&mut self) -> Result<(ETag, Option<Checksum>)>;
}

impl Objects {
    /// Makes an object of an upload's parts. It is durable and visible when this returns `Ok`.
    /// Asked again for an upload that became the current object of its key, it answers as the
    /// first time. Fails with `NoSuchUpload`, `InvalidPart`, `InvalidPartOrder`, `PartTooSmall`,
    /// or as a put does; the upload is as it was then.
    pub async fn complete_upload(
        &self,
        request: CompleteRequest,
        sums: &mut dyn PartSums,
    ) -> Result<PutOutcome> {
        let inner = &self.inner;
        check_order(&request.parts)?;
        let upload = &request.upload;
        let guards = inner.locks.upload(&upload.bucket, upload.id()?).await;
        inner.check_open()?;
        let view = inner.meta.view();
        let found = match inner.find_upload(&*view, upload).await {
            Err(Error::NoSuchUpload { .. }) => return inner.completed(&*view, upload).await,
            found => found?,
        };
        let (table, kept) = inner.choose(&*view, &found, &request, sums).await?;
        drop(view);
        if request.size.is_some_and(|size| size != table.size()) {
            return Err(Error::SizeMismatch {
                announced: request.size.unwrap_or(0),
                bytes: table.size(),
            });
        }
        let (etag, checksum) = sums.finish()?;
        let head = ObjectHead {
            flags: Flags::NULL_VERSION,
            size: table.size(),
            modified: Timestamp::now(),
            owner: found.record.owner,
            etag,
        };
        let record = ObjectRecord {
            head,
            body: Body::Inline,
            metadata: found.record.metadata.clone(),
            checksum,
            unknown: Vec::new(),
        };
        let new = inner.write_table(upload, &found, table, record).await?;
        let guards = inner
            .locks
            .and_object(guards, &upload.bucket, &upload.key)
            .await;
        let target = Target {
            account: upload.account,
            bucket_name: &upload.bucket,
            bucket: found.bucket,
            key: &upload.key,
            slice: found.slice,
            stem: inner.object_place(found.bucket, &upload.key).1,
        };
        let ending = Ending::Upload(found.end(&upload.key, kept));
        let guards = guards.and_wake(&inner.sweep.wipe);
        inner
            .commit_version(guards, target, &request.condition, new, ending)
            .await
    }
}

/// Part numbers must ascend; there is at least one part.
fn check_order(parts: &[ChosenPart]) -> Result<()> {
    if parts.is_empty() || parts.len() > PARTS_MAX {
        return Err(Error::InvalidPart {
            number: 1,
            why: "is not named: an upload is completed with 1 to 10000 parts",
        });
    }
    match parts.windows(2).find(|two| two[0].number >= two[1].number) {
        Some(two) => Err(Error::InvalidPartOrder {
            number: two[1].number,
        }),
        None => Ok(()),
    }
}

impl Inner {
    /// What completing an upload that became the current object answered.
    async fn completed(&self, view: &dyn MetaView, upload: &UploadRef) -> Result<PutOutcome> {
        let bucket = self.bucket(view, upload.account, &upload.bucket).await?;
        let (_, stem) = self.object_place(bucket.id, &upload.key);
        let id = upload.id()?;
        match self.current(view, &stem).await? {
            Some(current) if matches!(&current.record.body, Body::Parts(parts) if parts.upload == id) =>
            {
                let head = current.record.head;
                Ok(PutOutcome {
                    etag: head.etag,
                    size: head.size,
                    modified: head.modified,
                    checksum: current.record.checksum,
                    durable: self.volume.metadata_receipt().to_string(),
                })
            }
            _ => Err(upload.missing()),
        }
    }

    /// The table of the chosen parts, and their numbers. Walks over the parts that are there
    /// beside those that are asked for.
    async fn choose(
        &self,
        view: &dyn MetaView,
        found: &FoundUpload,
        request: &CompleteRequest,
        sums: &mut dyn PartSums,
    ) -> Result<(TableBuilder, EndedRecord)> {
        let algorithm = found.record.checksum.map(|(algorithm, _)| algorithm);
        let (mut table, mut kept) = (
            TableBuilder::new(algorithm, request.parts.len()),
            EndedRecord::default(),
        );
        let key = request.upload.key.as_bytes();
        let prefix = part_prefix(found.slice, found.bucket, key, found.id);
        let to = after_prefix(prefix.clone());
        let mut there = Scan::new(view, prefix, to, SCAN_CHUNK_MAX);
        let mut chosen = request.parts.iter().peekable();
        while let Some(wanted) = chosen.next() {
            let record = part_of(&mut there, wanted.number).await?;
            let bytes_min = match chosen.peek() {
                Some(_) => self.options.part_bytes_min,
                None => 0,
            };
            check_part(wanted, &record, algorithm, bytes_min)?;
            sums.add(&PartSummary::of(wanted.number, &record))?;
            let digest = match (algorithm, &record.checksum) {
                (None, _) => &[],
                (Some(algorithm), Some(sum)) if sum.algorithm == algorithm => &sum.digest[..],
                (Some(_), _) => {
                    return Err(Error::InvalidPart {
                        number: wanted.number,
                        why: "has no checksum of the upload's algorithm",
                    });
                }
            };
            table.push(wanted.number, &record.blob, digest)?;
            if table.size() > OBJECT_BYTES_MAX {
                return Err(Error::EntityTooLarge {
                    limit: OBJECT_BYTES_MAX,
                });
            }
            kept.keep(wanted.number);
        }
        Ok((table, kept))
    }

    /// The new version: with the table in its record, or in a blob beside it.
    async fn write_table(
        &self,
        upload: &UploadRef,
        found: &FoundUpload,
        table: TableBuilder,
        mut record: ObjectRecord,
    ) -> Result<NewVersion> {
        let id = found.id;
        let mut blob: Option<FinishedBlob> = None;
        if table.is_small() {
            record.body = Body::Parts(table.finish(id, None));
        } else {
            let label = BlobLabel {
                role: BlobRole::Table { upload: id },
                bucket: found.bucket,
                bucket_name: upload.bucket.clone(),
                key: upload.key.clone(),
            };
            let bytes = table.entries().len() as u64;
            let mut writer = self.volume.blob_writer(label.encode()?, Some(bytes))?;
            writer.write(table.entries()).await?;
            let parts: PartsRef = table.finish(id, Some(writer.blob()));
            record.body = Body::Parts(parts);
            blob = Some(writer.finish(record.encode()?).await?);
        }
        Ok(NewVersion {
            record,
            inline: Vec::new(),
            blob,
        })
    }
}

/// The part with a number, by a walk that is not past it.
async fn part_of(there: &mut Scan<'_>, wanted: u16) -> Result<PartRecord> {
    while let Some(entry) = there.next().await? {
        let number = part_number(&entry.key)?;
        if number == wanted {
            return PartRecord::decode(&entry.value);
        }
        if number > wanted {
            break;
        }
    }
    Err(Error::InvalidPart {
        number: wanted,
        why: "was never uploaded",
    })
}

fn check_part(
    wanted: &ChosenPart,
    record: &PartRecord,
    algorithm: Option<ChecksumAlgorithm>,
    bytes_min: u64,
) -> Result<()> {
    let number = wanted.number;
    let invalid = |why| Err(Error::InvalidPart { number, why });
    if wanted.etag != record.etag {
        return invalid("has another ETag: it was uploaded again since");
    }
    let known = [&record.checksum, &record.sent];
    let is_wrong = |named: &Checksum| {
        let mut known = known.into_iter().flatten();
        match known.find(|sum| sum.algorithm == named.algorithm) {
            Some(sum) => sum != named,
            None => algorithm.is_some(),
        }
    };
    if wanted.checksum.as_ref().is_some_and(is_wrong) {
        return invalid("has another checksum than the one that was named");
    }
    if record.size < bytes_min {
        return Err(Error::PartTooSmall {
            number,
            bytes: record.size,
            limit: bytes_min,
        });
    }
    Ok(())
}
