//! Deleting an object.

use crate::change::Change;
use crate::put::check_key;
use crate::{AccountId, ETag, Error, Objects, Result};

/// What must hold for a delete to happen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeleteCondition {
    /// Always.
    #[default]
    None,
    /// Only if the current object has this tag, or there is none (`If-Match`).
    IfMatch(ETag),
}

/// A delete that was committed, or had nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Whether there was an object.
    pub existed: bool,
}

impl Objects {
    /// Deletes an object; that there is none is no error. Durable when it returns `Ok`.
    /// Works on a full disk.
    pub async fn delete(
        &self,
        account: &AccountId,
        bucket: &str,
        key: &str,
        condition: DeleteCondition,
    ) -> Result<Deleted> {
        check_key(key)?;
        let inner = &self.inner;
        let guards = inner.locks.object(bucket, key).await;
        inner.check_open()?;
        let view = inner.meta.view();
        let record = inner.bucket(&*view, *account, bucket).await?;
        let (slice, stem) = inner.object_place(record.id, key);
        let Some(current) = inner.current(&*view, &stem).await? else {
            // On a failed disk "nothing" may be an earlier put whose outcome nobody knows: a
            // restart may show it.
            return match inner.meta.failure(&stem)? {
                Some(reason) => Err(Error::DiskFailed(reason)),
                None => Ok(Deleted { existed: false }),
            };
        };
        drop(view);
        if let DeleteCondition::IfMatch(etag) = condition
            && etag != current.record.head.etag
        {
            return Err(Error::PreconditionFailed {
                condition: "If-Match",
            });
        }
        let existed = current.is_live();
        let change = Change {
            slice,
            bucket: record.id,
            stem,
            current: Some(current),
            new: None,
        };
        inner.submit(change, guards)?.durable().await?;
        Ok(Deleted { existed })
    }
}
