//! Looks up every blob that a record refers to, for the set's ledger: what nothing is left of only
//! the records know of.
//!
//! What must always hold:
//! - a stripe counts only if the record that refers to its blob was there after the stripe was
//!   found nowhere, for a body is deleted after its record. The parts of a body are looked up while
//!   its anchor is pinned (see `parts`).

use std::sync::{Arc, Weak};

use volume::{Key, SliceId, VolumeError, block_on};

use crate::keys::{
    MetaKey, decode_meta_key, object_range, object_slice, part_range, stored_object_key, upload_key,
};
use crate::limits::{CENSUS_PARTS, CENSUS_RECORDS};
use crate::objects::Inner;
use crate::parts::{PartCursor, PartTable, PartsRef};
use crate::record::{Body, ObjectRecord, PartRecord};
use crate::{Objects, Result};

/// One walk. It ends when the store is gone.
struct Census {
    inner: Weak<Inner>,
    /// What is left of the key space: from, to; the last one comes first.
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body whose parts are being looked up.
    parts: Option<PartCursor>,
}

impl Objects {
    /// Has the set count what is referred to here and is nowhere.
    pub(crate) fn offer_census(&self) {
        let inner = Arc::downgrade(&self.inner);
        self.inner
            .volume
            .set_census(move || Box::new(Census::new(inner.clone())));
    }
}

impl volume::Census for Census {
    fn step(&mut self) -> volume::Result<Option<u64>> {
        let Some(inner) = self.inner.upgrade() else {
            return Ok(None);
        };
        block_on(self.look(&inner)).map_err(|error| VolumeError::Unreadable {
            what: "what the records refer to".to_owned(),
            reason: error.to_string(),
        })
    }
}

impl Census {
    fn new(inner: Weak<Inner>) -> Census {
        let slices: Vec<SliceId> = match inner.upgrade() {
            Some(inner) => inner.meta.slices().slices().collect(),
            None => Vec::new(),
        };
        let of = |slice: SliceId| [object_range(slice), part_range(slice)];
        Census {
            inner,
            ranges: slices.into_iter().flat_map(of).collect(),
            parts: None,
        }
    }

    async fn look(&mut self, inner: &Inner) -> Result<Option<u64>> {
        if let Some(parts) = &mut self.parts {
            let mut nowhere = 0;
            for _ in 0..CENSUS_PARTS {
                match parts.next().await {
                    Ok(Some(part)) => nowhere += inner.volume.stripes_nowhere(&part.blob)?,
                    // Of a table that cannot be read, it is the table that is missing.
                    Ok(None) | Err(_) => {
                        self.parts = None;
                        break;
                    }
                }
            }
            return Ok(Some(nowhere));
        }
        let Some((from, to)) = self.ranges.pop() else {
            return Ok(None);
        };
        let page = inner.meta.view().scan(&from, &to, CENSUS_RECORDS).await?;
        let mut nowhere = 0;
        for entry in page.entries {
            // What this release cannot decode is somebody else's business.
            let found = match decode_meta_key(&entry.key) {
                Ok(MetaKey::Object { .. }) => match ObjectRecord::decode(&entry.value) {
                    Ok(record) => Some((stored_object_key(entry.key.clone()), record.body)),
                    Err(_) => None,
                },
                Ok(MetaKey::Part { .. }) => match PartRecord::decode(&entry.value) {
                    Ok(part) => Some((Key::plain(entry.key.clone()), Body::Blob(part.blob))),
                    Err(_) => None,
                },
                _ => None,
            };
            match found {
                None | Some((_, Body::Inline)) => {}
                Some((key, Body::Blob(blob))) => {
                    let missing = inner.volume.stripes_nowhere(&blob)?;
                    if missing > 0 && inner.is_still(&key, &entry.value).await? {
                        nowhere += missing;
                    }
                }
                Some((key, Body::Parts(parts))) => {
                    nowhere += self.begin_parts(inner, &key, &entry.value, parts).await?;
                    if self.parts.is_some() {
                        // The rest of the page is read again after that.
                        self.ranges.push((behind(entry.key), to));
                        return Ok(Some(nowhere));
                    }
                }
            }
        }
        if let Some(next) = page.next {
            self.ranges.push((next, to));
        }
        Ok(Some(nowhere))
    }

    /// Begins to look up the parts of a body; says how much of their table is nowhere.
    async fn begin_parts(
        &mut self,
        inner: &Inner,
        key: &Key,
        value: &[u8],
        parts: PartsRef,
    ) -> Result<u64> {
        let pin = Arc::new(inner.volume.pin_blob(&parts.anchor()?)?);
        if !inner.is_still(key, value).await? {
            return Ok(0);
        }
        let nowhere = match &parts.table {
            PartTable::Here(_) => 0,
            PartTable::Apart { blob, .. } => inner.volume.stripes_nowhere(blob)?,
        };
        self.parts = Some(PartCursor::new(parts, pin));
        Ok(nowhere)
    }
}

impl Inner {
    /// Whether a record is what it was, and means what it did.
    async fn is_still(&self, key: &Key, value: &[u8]) -> Result<bool> {
        let view = self.meta.view();
        let now = view.get(key).await?;
        if now.is_none_or(|now| now.value != value) {
            return Ok(false);
        }
        let MetaKey::Part {
            bucket,
            key,
            upload,
            ..
        } = decode_meta_key(key.as_bytes())?
        else {
            return Ok(true);
        };
        // When its upload has ended, the part is the object's, or nobody's.
        let slice = object_slice(&self.meta.slices(), bucket, key.as_bytes());
        let upload = upload_key(slice, bucket, key.as_bytes(), upload);
        Ok(view.get(&upload).await?.is_some())
    }
}

/// The first key behind another one.
fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}
