//! Looks up every blob that a record refers to, for the set's ledger: what nothing is left of only
//! the records know of.
//!
//! What must always hold:
//! - a stripe counts only if the record that refers to its blob was there after the stripe was
//!   found nowhere, for a body is deleted after its record. The parts of a body are looked up while
//!   its anchor is pinned (see `parts`).

use std::sync::{Arc, Weak};

use volume::{BlobRef, Key, MetaEntry, SliceId, VolumeError, block_on};

use crate::keys::{
    MetaKey, decode_meta_key, object_range, object_slice, part_range, stored_object_key, upload_key,
};
use crate::limits::{CENSUS_RECORDS, CENSUS_STRIPES};
use crate::objects::Inner;
use crate::parts::{PartCursor, PartTable};
use crate::record::{Body, ObjectRecord, PartRecord};
use crate::{Error, Objects, Result};

/// One walk. It ends when the store is gone.
struct Census {
    inner: Weak<Inner>,
    /// What is left of the key space: from, to; the last one comes first.
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body whose parts are being looked up, and the next of them.
    parts: Option<PartCursor>,
    part: Option<BlobRef>,
    /// Stripes that were found nowhere, and not told yet.
    found: u64,
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
        let looked = block_on(self.look(&inner)).map_err(|error| VolumeError::Unreadable {
            what: "what the records refer to".to_owned(),
            reason: error.to_string(),
        });
        Ok(looked?.then(|| std::mem::take(&mut self.found)))
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
            part: None,
            found: 0,
        }
    }

    /// `false`: there is no more. After an error it goes on where it was.
    async fn look(&mut self, inner: &Inner) -> Result<bool> {
        if self.parts.is_some() {
            self.look_at_parts(inner).await?;
            return Ok(true);
        }
        let Some((from, to)) = self.ranges.last().cloned() else {
            return Ok(false);
        };
        let page = inner.meta.view().scan(&from, &to, CENSUS_RECORDS).await?;
        let mut stripes = 0;
        for entry in page.entries {
            let next = behind(entry.key.clone());
            stripes += self.look_at(inner, &entry).await?;
            if let Some((from, _)) = self.ranges.last_mut() {
                *from = next;
            }
            if self.parts.is_some() || stripes >= CENSUS_STRIPES {
                return Ok(true);
            }
        }
        match (page.next, self.ranges.last_mut()) {
            (Some(next), Some((from, _))) => *from = next,
            _ => drop(self.ranges.pop()),
        }
        Ok(true)
    }

    /// Looks up what a record refers to, or begins to; says how many stripes it looked for.
    async fn look_at(&mut self, inner: &Inner, entry: &MetaEntry) -> Result<u64> {
        // What this release cannot decode is somebody else's business.
        let found = match decode_meta_key(&entry.key) {
            Ok(MetaKey::Object { .. }) => ObjectRecord::decode(&entry.value)
                .ok()
                .map(|record| (stored_object_key(entry.key.clone()), record.body)),
            Ok(MetaKey::Part { .. }) => PartRecord::decode(&entry.value)
                .ok()
                .map(|part| (Key::plain(entry.key.clone()), Body::Blob(part.blob))),
            _ => None,
        };
        match found {
            None | Some((_, Body::Inline)) => Ok(0),
            Some((key, Body::Blob(blob))) => {
                let missing = inner.volume.stripes_nowhere(&blob)?;
                if missing > 0 && inner.is_still(&key, &entry.value).await? {
                    self.found += missing;
                }
                Ok(blob.stripes().into())
            }
            Some((key, Body::Parts(parts))) => {
                let anchor = parts.anchor()?;
                let pin = Arc::new(inner.volume.pin_blob(&anchor)?);
                if !inner.is_still(&key, &entry.value).await? {
                    return Ok(0);
                }
                self.part = match &parts.table {
                    PartTable::Here(_) => None,
                    PartTable::Apart { blob, .. } => Some(blob.clone()),
                };
                self.parts = Some(PartCursor::new(parts, pin));
                Ok(0)
            }
        }
    }

    /// Looks up some more parts of a body.
    async fn look_at_parts(&mut self, inner: &Inner) -> Result<()> {
        let mut stripes = 0;
        while stripes < CENSUS_STRIPES {
            if self.part.is_none()
                && let Some(parts) = &mut self.parts
            {
                self.part = match parts.next().await {
                    Ok(part) => part.map(|part| part.blob),
                    // Of a table that cannot be read, it is the table that is missing.
                    Err(
                        Error::Corrupt { .. } | Error::Unreadable { .. } | Error::DisksMissing(_),
                    ) => None,
                    Err(error) => return Err(error),
                };
            }
            let Some(blob) = &self.part else {
                self.parts = None;
                return Ok(());
            };
            self.found += inner.volume.stripes_nowhere(blob)?;
            stripes += u64::from(blob.stripes());
            self.part = None;
        }
        Ok(())
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
