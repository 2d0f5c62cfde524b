//! What a change of one key is made of: a single batch, so that no part of it can be seen or
//! lost without the others.

use volume::{FinishedBlob, Key, MetaBatch, SliceId};

use crate::garbage::{Garbage, Noted};
use crate::keys::{
    BucketId, MetaKey, counters_key, decode_meta_key, object_key, stored_object_key,
};
use crate::record::{EndedRecord, Flags, ObjectRecord};
use crate::{Error, Result};

/// The current version of a key, as it was read.
pub(crate) struct Current {
    pub(crate) key: Vec<u8>,
    pub(crate) record: ObjectRecord,
    pub(crate) body_len: u32,
}

impl Current {
    /// Its commit sequence.
    pub(crate) fn sequence(&self) -> Result<u64> {
        match decode_meta_key(&self.key)? {
            MetaKey::Object { sequence, .. } => Ok(sequence),
            _ => Err(Error::Internal(
                "an object's key is of another kind".to_owned(),
            )),
        }
    }

    /// Whether there is an object, not a delete marker.
    pub(crate) fn is_live(&self) -> bool {
        !self.record.head.flags.contains(Flags::DELETE_MARKER)
    }
}

/// What becomes a key's current version.
pub(crate) struct NewVersion {
    pub(crate) record: ObjectRecord,
    /// The body, if it is inline.
    pub(crate) inline: Vec<u8>,
    /// A blob that came with the version: its body, or the table of its parts.
    pub(crate) blob: Option<FinishedBlob>,
}

/// What ends with a change besides the current version.
pub(crate) enum Ending {
    /// Its body.
    Body,
    /// Nothing: the new version has the same body.
    Nothing,
    /// Its body, and the upload that the new version comes from.
    Upload(EndedUpload),
}

/// An upload that ends.
pub(crate) struct EndedUpload {
    /// The key of its record.
    pub(crate) key: Key,
    /// The record as it was read under the upload's lock.
    pub(crate) stored: Vec<u8>,
    /// The key of the note that it has ended.
    pub(crate) note_key: Key,
    /// The parts that an object keeps.
    pub(crate) kept: EndedRecord,
}

impl EndedUpload {
    /// Adds the upload's end to a batch in its slice.
    pub(crate) fn add_to(self, batch: MetaBatch) -> MetaBatch {
        batch
            .expect_value(&self.key, self.stored)
            .delete(&self.key)
            .put(&self.note_key, self.kept.encode(), Vec::new())
    }
}

/// A change of one key's current version.
pub(crate) struct Change {
    /// The object's slice, in which all of the batch is.
    pub(crate) slice: SliceId,
    pub(crate) bucket: BucketId,
    pub(crate) stem: Vec<u8>,
    /// What is replaced, as read under the key's lock.
    pub(crate) current: Option<Current>,
    /// `None`: the object is deleted.
    pub(crate) new: Option<NewVersion>,
    pub(crate) ending: Ending,
}

/// A change as it is submitted.
pub(crate) struct Submission {
    pub(crate) batch: MetaBatch,
    /// To be kept if the batch succeeds.
    pub(crate) new_blob: Option<FinishedBlob>,
    /// To be given back after the batch.
    pub(crate) garbage: Option<Noted>,
}

impl Change {
    /// The batch, and what goes with it. `sequence` is the new version's.
    pub(crate) fn into_batch(self, sequence: u64) -> Result<Submission> {
        let first = self.current.as_ref().map(|current| current.key.clone());
        let mut batch = MetaBatch::new().expect(self.stem.clone(), first);
        let (mut objects, mut bytes) = (0, 0);
        let (mut new_blob, mut garbage) = (None, None);
        match self.new {
            Some(new) => {
                let key = object_key(&self.stem, sequence);
                batch = batch.put(&key, new.record.encode()?, new.inline);
                for dependency in new.blob.iter().flat_map(FinishedBlob::dependencies) {
                    batch = batch.after(dependency.clone());
                }
                (objects, bytes) = (1, new.record.head.size as i64);
                new_blob = new.blob;
            }
            None => batch = batch.frees_space(),
        }
        if let Some(current) = self.current {
            if current.is_live() {
                objects -= 1;
                bytes -= current.record.head.size as i64;
            }
            batch = batch.delete(&stored_object_key(current.key));
            if !matches!(self.ending, Ending::Nothing) {
                garbage = Garbage::of(current.record.body);
            }
        }
        let mut noted = None;
        if let Some(garbage) = garbage {
            let (with_note, note) = garbage.note(batch, self.slice)?;
            (batch, noted) = (with_note, Some(note));
        }
        if let Ending::Upload(upload) = self.ending {
            batch = upload.add_to(batch);
        }
        if (objects, bytes) != (0, 0) {
            batch = batch.merge(&counters_key(self.slice, self.bucket), &[objects, bytes]);
        }
        Ok(Submission {
            batch,
            new_blob,
            garbage: noted,
        })
    }
}

#[cfg(test)]
mod tests {
    use volume::{BlobId, BlobRef, Expectation, Op, Scheme};

    use super::*;
    use crate::keys::object_stem;
    use crate::record::{Body, ObjectHead};
    use crate::{AccountId, ETag, Metadata, Timestamp};

    const BUCKET: BucketId = BucketId(1);
    const SLICE: SliceId = SliceId(7);

    fn current_of(flags: Flags, body: Body) -> Current {
        let head = ObjectHead {
            flags,
            size: 70,
            modified: Timestamp::default(),
            owner: AccountId::ROOT,
            etag: ETag::new("tag"),
        };
        let metadata = Metadata::default();
        let record = ObjectRecord {
            head,
            body,
            metadata,
            checksum: None,
            unknown: Vec::new(),
        };
        let key = object_key(&object_stem(SLICE, BUCKET, b"key"), 4)
            .as_bytes()
            .to_vec();
        Current {
            key,
            record,
            body_len: 70,
        }
    }

    fn submission(current: Option<Current>, size: Option<u64>) -> Submission {
        let new = size.map(|size| {
            let mut record = current_of(Flags::NULL_VERSION, Body::Inline).record;
            record.head.size = size;
            NewVersion {
                record,
                inline: b"body".to_vec(),
                blob: None,
            }
        });
        let stem = object_stem(SLICE, BUCKET, b"key");
        Change {
            slice: SLICE,
            bucket: BUCKET,
            stem,
            current,
            new,
            ending: Ending::Body,
        }
        .into_batch(5)
        .unwrap()
    }

    /// The kinds of keys that a batch changes, in order, deletes in lower case, and the
    /// counters' deltas.
    fn show(submission: &Submission) -> (String, Vec<i64>) {
        let (mut kinds, mut deltas) = (String::new(), Vec::new());
        for (key, op) in submission.batch.changes() {
            let kind = char::from(key[SliceId::BYTES]);
            match op {
                Op::Put { .. } => kinds.push(kind),
                Op::Delete => kinds.push(kind.to_ascii_lowercase()),
                Op::Merge(merged) => deltas.extend(merged),
            }
        }
        (kinds, deltas)
    }

    #[test]
    fn each_change_is_one_batch_of_all_its_parts() {
        let blob = BlobRef {
            id: BlobId {
                epoch: 1,
                counter: 2,
            },
            plain_len: 70,
            stored_len: 70,
            transforms: Vec::new(),
            scheme: Scheme { k: 1, m: 0 },
            shard_bytes: 4096,
        };
        let inline = || Some(current_of(Flags::NULL_VERSION, Body::Inline));
        let large = || Some(current_of(Flags::NULL_VERSION, Body::Blob(blob.clone())));
        let marker = || Some(current_of(Flags::DELETE_MARKER, Body::Inline));
        let cases = [
            (submission(None, Some(7)), "O", vec![1, 7], false),
            (submission(inline(), Some(7)), "Oo", vec![0, -63], false),
            (submission(inline(), Some(70)), "Oo", vec![], false),
            (submission(large(), Some(7)), "OoG", vec![0, -63], true),
            (submission(marker(), Some(7)), "Oo", vec![1, 7], false),
            (submission(inline(), None), "o", vec![-1, -70], false),
            (submission(large(), None), "oG", vec![-1, -70], true),
        ];
        for (at, (submission, kinds, deltas, old_blob)) in cases.into_iter().enumerate() {
            assert_eq!(show(&submission), (kinds.to_owned(), deltas), "case {at}");
            assert_eq!(submission.batch.slice(), Some(SLICE), "case {at}");
            assert_eq!(submission.garbage.is_some(), old_blob, "case {at}");
            // Deletes work on a full disk, and only they take from its reserve.
            assert_eq!(submission.batch.is_freeing(), at >= 5, "case {at}");
            let expected = &submission.batch.expectations()[0];
            let Expectation::First { first, .. } = expected else {
                panic!("case {at}: {expected:?}");
            };
            assert_eq!(first.is_some(), at > 0, "case {at}");
        }
    }
}
