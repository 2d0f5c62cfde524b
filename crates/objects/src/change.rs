//! What a change of one key is made of: a single batch, so that no part of it can be seen or
//! lost without the others.

use volume::{BlobRef, FinishedBlob, MetaBatch, SliceId};

use crate::keys::{BucketId, counters_key, garbage_key, object_key, stored_object_key};
use crate::record::{Body, Flags, ObjectRecord};

/// The current version of a key, as it was read.
pub(crate) struct Current {
    pub(crate) key: Vec<u8>,
    pub(crate) record: ObjectRecord,
    pub(crate) body_len: u32,
}

impl Current {
    /// Whether there is an object, not a delete marker.
    pub(crate) fn is_live(&self) -> bool {
        !self.record.head.flags.contains(Flags::DELETE_MARKER)
    }
}

/// What becomes a key's current version.
pub(crate) struct NewVersion {
    /// The encoded record.
    pub(crate) record: Vec<u8>,
    /// Bytes of the body.
    pub(crate) size: u64,
    /// The body, if it is inline.
    pub(crate) inline: Vec<u8>,
    /// The body, if it is not.
    pub(crate) blob: Option<FinishedBlob>,
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
}

/// A change as it is submitted.
pub(crate) struct Submission {
    pub(crate) batch: MetaBatch,
    /// To be kept if the batch succeeds.
    pub(crate) new_blob: Option<FinishedBlob>,
    /// To be deleted after the batch.
    pub(crate) old_blob: Option<BlobRef>,
}

impl Change {
    /// The batch, and what goes with it. `sequence` is the new version's.
    pub(crate) fn into_batch(self, sequence: u64) -> Submission {
        let first = self.current.as_ref().map(|current| current.key.clone());
        let mut batch = MetaBatch::new().expect(self.stem.clone(), first);
        let (mut objects, mut bytes) = (0, 0);
        let (mut new_blob, mut old_blob) = (None, None);
        match self.new {
            Some(new) => {
                batch = batch.put(&object_key(&self.stem, sequence), new.record, new.inline);
                for dependency in new.blob.iter().flat_map(FinishedBlob::dependencies) {
                    batch = batch.after(dependency.clone());
                }
                (objects, bytes) = (1, new.size as i64);
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
            if let Body::Blob(blob) = current.record.body {
                let mut note = Vec::new();
                blob.encode(&mut note);
                batch = batch.put(&garbage_key(self.slice, blob.id), note, Vec::new());
                old_blob = Some(blob);
            }
        }
        if (objects, bytes) != (0, 0) {
            batch = batch.merge(&counters_key(self.slice, self.bucket), &[objects, bytes]);
        }
        Submission {
            batch,
            new_blob,
            old_blob,
        }
    }
}

#[cfg(test)]
mod tests {
    use volume::{BlobId, Expectation, Op, Scheme};

    use super::*;
    use crate::keys::object_stem;
    use crate::record::ObjectHead;
    use crate::{AccountId, ETag, Metadata, Timestamp};

    const BUCKET: BucketId = BucketId(1);
    const SLICE: SliceId = SliceId(7);

    fn current(flags: Flags, body: Body) -> Current {
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
        let new = size.map(|size| NewVersion {
            record: b"record".to_vec(),
            size,
            inline: b"body".to_vec(),
            blob: None,
        });
        let stem = object_stem(SLICE, BUCKET, b"key");
        Change {
            slice: SLICE,
            bucket: BUCKET,
            stem,
            current,
            new,
        }
        .into_batch(5)
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
        let inline = || Some(current(Flags::NULL_VERSION, Body::Inline));
        let large = || Some(current(Flags::NULL_VERSION, Body::Blob(blob.clone())));
        let marker = || Some(current(Flags::DELETE_MARKER, Body::Inline));
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
            assert_eq!(submission.old_blob.is_some(), old_blob, "case {at}");
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
