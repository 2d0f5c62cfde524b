//! Deleting an object.

use crate::change::{Change, Current, Ending};
use crate::put::check_key;
use crate::{AccountId, ETag, Error, Objects, Result};

/// What must hold for a delete to happen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeleteCondition {
    /// Always.
    #[default]
    None,
    /// Only if there is an object (`If-Match: *`).
    IfMatchAny,
    /// Only if the current object has this tag (`If-Match`).
    IfMatch(ETag),
}

impl DeleteCondition {
    /// Whoever names a condition wants to be the one who deletes: that somebody else already
    /// did is a failure, as it is for a put.
    fn check(&self, current: Option<&Current>, bucket: &str, key: &str) -> Result<()> {
        match (self, current.filter(|current| current.is_live())) {
            (DeleteCondition::None, _) | (DeleteCondition::IfMatchAny, Some(_)) => Ok(()),
            (_, None) => Err(Error::NoSuchKey {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
            }),
            (DeleteCondition::IfMatch(etag), Some(current)) => {
                match *etag == current.record.head.etag {
                    true => Ok(()),
                    false => Err(Error::PreconditionFailed {
                        condition: "If-Match",
                    }),
                }
            }
        }
    }
}

/// A delete that was committed, or had nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Whether there was an object.
    pub existed: bool,
}

impl Objects {
    /// Deletes an object; that there is none is no error without a condition. Durable when it returns `Ok`.
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
        let current = inner.current(&*view, &stem).await?;
        drop(view);
        // On a failed disk "nothing" may be an earlier put whose outcome nobody knows: a
        // restart may show it.
        if current.is_none()
            && let Some(reason) = inner.meta.failure(&stem)?
        {
            return Err(Error::DiskFailed(reason));
        }
        condition.check(current.as_ref(), bucket, key)?;
        let Some(current) = current else {
            return Ok(Deleted { existed: false });
        };
        let existed = current.is_live();
        let change = Change {
            slice,
            bucket: record.id,
            stem,
            current: Some(current),
            new: None,
            ending: Ending::Body,
        };
        inner.submit(change, guards)?.durable().await?;
        Ok(Deleted { existed })
    }
}
