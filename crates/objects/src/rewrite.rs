//! Replacing what is stored beside a body, without touching the body.

use crate::change::{Change, Current, Ending, NewVersion};
use crate::keys::stored_object_key;
use crate::limits::INLINE_BYTES_MAX;
use crate::put::check_key;
use crate::record::Body;
use crate::{AccountId, Error, Metadata, Objects, PutCondition, PutOutcome, Result, Timestamp};

/// A change of an object's metadata.
#[derive(Debug, Clone)]
pub struct RewriteRequest {
    /// Who asks; the bucket must be theirs.
    pub account: AccountId,
    /// The bucket's name.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// What is stored beside the body from now on.
    pub metadata: Metadata,
    /// The version that it is about, as [`ObjectInfo::version`](crate::ObjectInfo::version)
    /// says; another one is not changed.
    pub version: u64,
    /// When it may happen.
    pub condition: PutCondition,
}

impl Objects {
    /// Makes a new version with the body of the current one. Durable when it returns `Ok`.
    /// Fails with `SlowDown` if the object is another version by now: look again.
    pub async fn rewrite(&self, request: RewriteRequest) -> Result<PutOutcome> {
        let RewriteRequest { bucket, key, .. } = &request;
        check_key(key)?;
        request.metadata.check()?;
        let inner = &self.inner;
        let guards = inner.locks.object(bucket, key).await;
        inner.check_open()?;
        let view = inner.meta.view();
        let bucket_record = inner.bucket(&*view, request.account, bucket).await?;
        let (slice, stem) = inner.object_place(bucket_record.id, key);
        let current = inner.current(&*view, &stem).await?;
        request.condition.check(current.as_ref(), bucket, key)?;
        let Some(current) = current.filter(Current::is_live) else {
            return Err(Error::NoSuchKey {
                bucket: bucket.clone(),
                key: key.clone(),
            });
        };
        if current.sequence()? != request.version {
            return Err(Error::SlowDown(format!(
                "the object {key:?} was changed at the same time"
            )));
        }
        let mut inline = Vec::new();
        if current.record.body == Body::Inline && current.body_len > 0 {
            let stored = stored_object_key(current.key.clone());
            let body = view.body(&stored, 0..INLINE_BYTES_MAX as u32).await?;
            inline = body.unwrap_or_default();
            if inline.len() != current.body_len as usize {
                return Err(Error::Corrupt {
                    what: format!("the object {key:?}"),
                    place: "its body is shorter than its record says".to_owned(),
                });
            }
        }
        drop(view);
        let mut record = current.record.clone();
        record.metadata = request.metadata;
        let head = &mut record.head;
        head.modified = head.modified.max(Timestamp::now());
        let mut outcome = PutOutcome {
            etag: head.etag.clone(),
            size: head.size,
            modified: head.modified,
            checksum: record.checksum.clone(),
            durable: String::new(),
        };
        let new = NewVersion {
            record,
            inline,
            blob: None,
        };
        let change = Change {
            slice,
            bucket: bucket_record.id,
            stem,
            current: Some(current),
            new: Some(new),
            ending: Ending::Nothing,
        };
        inner.submit(change, guards)?.durable().await?;
        outcome.durable = inner.volume.metadata_receipt().to_string();
        Ok(outcome)
    }
}
