//! Listing a bucket: one ordered walk over a view, which skips what a common prefix stands
//! for instead of walking it.

use volume::SliceId;

use crate::keys::{
    BucketId, MetaKey, SUFFIX_BYTES, after_prefix, decode_meta_key, object_prefix, object_slice,
    object_stem,
};
use crate::limits::{LIST_ENTRIES_MAX, LIST_NAME_BYTES_MAX, SCAN_CHUNK_MIN};
use crate::meta_store::MetaView;
use crate::record::{Flags, ObjectHead};
use crate::scan::Scan;
use crate::{AccountId, ETag, Error, Objects, Result, Timestamp};

/// Which current objects of a bucket to list.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// Who asks; the bucket must be theirs.
    pub account: AccountId,
    /// The bucket's name.
    pub bucket: String,
    /// Only keys that begin with this.
    pub prefix: String,
    /// Keys that contain this behind the prefix are rolled up into one common prefix, which
    /// ends with the first occurrence. An empty one is as none.
    pub delimiter: Option<String>,
    /// Only what comes after this: a key, or a common prefix, all of whose keys are skipped.
    pub start_after: Option<String>,
    /// Most entries of the page; more than 1,000 counts as 1,000. A page of long names may
    /// end earlier.
    pub max_keys: usize,
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// In key order, objects and common prefixes interleaved.
    pub entries: Vec<ListEntry>,
    /// Where the next page starts (its `start_after`); `None`: there is nothing more.
    pub next: Option<String>,
}

/// What a listing consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListEntry {
    /// A current object.
    Object(ObjectSummary),
    /// Stands for every key that begins with it.
    CommonPrefix(String),
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSummary {
    /// Its key.
    pub key: String,
    /// Bytes of the body.
    pub size: u64,
    /// The entity tag.
    pub etag: ETag,
    /// When it was committed, by the server's clock.
    pub modified: Timestamp,
    /// The account that wrote it.
    pub owner: AccountId,
}

/// Which versions of a bucket's objects to list.
#[derive(Debug, Clone)]
pub struct ListVersionsRequest {
    /// Who asks; the bucket must be theirs.
    pub account: AccountId,
    /// The bucket's name.
    pub bucket: String,
    /// Only keys that begin with this.
    pub prefix: String,
    /// As in [`ListRequest`].
    pub delimiter: Option<String>,
    /// Only what comes after this key or common prefix.
    pub key_marker: Option<String>,
    /// With a key marker: only what comes after this version of it. `null` is the only
    /// version that exists today, so that the key marker says all.
    pub version_id_marker: Option<String>,
    /// Most entries of the page; more than 1,000 counts as 1,000. A page of long names may
    /// end earlier.
    pub max_keys: usize,
}

/// One page of a listing of versions.
#[derive(Debug, Clone, Default)]
pub struct ListVersionsPage {
    /// In key order; versions of one key from the newest to the oldest.
    pub entries: Vec<VersionEntry>,
    /// The next page's `key_marker`; `None`: there is nothing more.
    pub next_key_marker: Option<String>,
    /// The next page's `version_id_marker`; `None` after a common prefix.
    pub next_version_id_marker: Option<String>,
}

/// What a listing of versions consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionEntry {
    /// A version with a body.
    Version(VersionSummary),
    /// Stands for every key that begins with it.
    CommonPrefix(String),
}

/// A version as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionSummary {
    /// The object.
    pub object: ObjectSummary,
    /// `null` for a version written while the bucket had no versioning.
    pub version_id: String,
    /// Whether it is the key's current version.
    pub is_latest: bool,
}

impl Objects {
    /// One page of a bucket's current objects. Fails with `NoSuchBucket` or
    /// `AccessDenied`.
    pub async fn list(&self, request: ListRequest) -> Result<ListPage> {
        let (inner, view) = (&self.inner, self.inner.meta.view());
        inner.check_open()?;
        let bucket = inner
            .bucket(&*view, request.account, &request.bucket)
            .await?;
        let walk = Walk {
            slice: object_slice(&inner.meta.slices(), bucket.id, request.prefix.as_bytes()),
            bucket: bucket.id,
            rollup: Rollup {
                prefix: &request.prefix,
                delimiter: request.delimiter.as_deref().filter(|d| !d.is_empty()),
            },
            start_after: request.start_after.as_deref(),
            max: request.max_keys.min(LIST_ENTRIES_MAX),
            versions: false,
        };
        let (items, more) = walk.run(&*view).await?;
        let next = items
            .last()
            .filter(|_| more)
            .map(|item| item.name().to_owned());
        let entries = items.into_iter().map(|item| match item {
            Item::Version { key, head, .. } => ListEntry::Object(summary(key, head)),
            Item::CommonPrefix(prefix) => ListEntry::CommonPrefix(prefix),
        });
        Ok(ListPage {
            entries: entries.collect(),
            next,
        })
    }

    /// One page of the versions of a bucket's objects. Fails with `NoSuchBucket` or
    /// `AccessDenied`.
    pub async fn list_versions(&self, request: ListVersionsRequest) -> Result<ListVersionsPage> {
        let (inner, view) = (&self.inner, self.inner.meta.view());
        inner.check_open()?;
        let bucket = inner
            .bucket(&*view, request.account, &request.bucket)
            .await?;
        let walk = Walk {
            slice: object_slice(&inner.meta.slices(), bucket.id, request.prefix.as_bytes()),
            bucket: bucket.id,
            rollup: Rollup {
                prefix: &request.prefix,
                delimiter: request.delimiter.as_deref().filter(|d| !d.is_empty()),
            },
            start_after: request.key_marker.as_deref(),
            max: request.max_keys.min(LIST_ENTRIES_MAX),
            versions: true,
        };
        let (items, more) = walk.run(&*view).await?;
        let mut page = ListVersionsPage::default();
        if let Some(last) = items.last().filter(|_| more) {
            page.next_key_marker = Some(last.name().to_owned());
            let version = matches!(last, Item::Version { .. });
            page.next_version_id_marker = version.then(|| NULL_VERSION_ID.to_owned());
        }
        page.entries = items.into_iter().map(version_entry).collect();
        Ok(page)
    }
}

/// The id of a version that was written while the bucket had no versioning.
const NULL_VERSION_ID: &str = "null";

fn summary(key: String, head: ObjectHead) -> ObjectSummary {
    let ObjectHead {
        size,
        etag,
        modified,
        owner,
        ..
    } = head;
    ObjectSummary {
        key,
        size,
        etag,
        modified,
        owner,
    }
}

fn version_entry(item: Item) -> VersionEntry {
    match item {
        Item::Version {
            key,
            head,
            is_latest,
        } => VersionEntry::Version(VersionSummary {
            object: summary(key, head),
            version_id: NULL_VERSION_ID.to_owned(),
            is_latest,
        }),
        Item::CommonPrefix(prefix) => VersionEntry::CommonPrefix(prefix),
    }
}

/// What a walk yields.
enum Item {
    Version {
        key: String,
        head: ObjectHead,
        is_latest: bool,
    },
    CommonPrefix(String),
}

impl Item {
    /// Its key or common prefix: where a later page starts.
    fn name(&self) -> &str {
        match self {
            Item::Version { key, .. } => key,
            Item::CommonPrefix(prefix) => prefix,
        }
    }
}

/// One page's walk.
struct Walk<'a> {
    /// Where the prefix begins. A map with several slices is refused when the volume opens,
    /// so that all keys with the prefix are in the same.
    slice: SliceId,
    bucket: BucketId,
    rollup: Rollup<'a>,
    start_after: Option<&'a str>,
    max: usize,
    /// All versions, not only current ones.
    versions: bool,
}

/// How keys are rolled up.
pub(crate) struct Rollup<'a> {
    pub(crate) prefix: &'a str,
    /// Never empty.
    pub(crate) delimiter: Option<&'a str>,
}

impl Rollup<'_> {
    /// The common prefix that a key is rolled up into.
    pub(crate) fn common_prefix<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter?;
        let at = key.strip_prefix(self.prefix)?.find(delimiter)?;
        key.get(..self.prefix.len() + at + delimiter.len())
    }
}

impl Walk<'_> {
    /// Where the walk begins.
    fn from(&self) -> Vec<u8> {
        let begin = object_prefix(self.slice, self.bucket, self.rollup.prefix.as_bytes());
        let Some(after) = self.start_after else {
            return begin;
        };
        let skipped = match self.rollup.common_prefix(after) {
            Some(prefix) if prefix == after => {
                object_prefix(self.slice, self.bucket, after.as_bytes())
            }
            _ => object_stem(self.slice, self.bucket, after.as_bytes()),
        };
        begin.max(after_prefix(skipped))
    }

    /// The page's items, and whether more follow.
    async fn run(&self, view: &dyn MetaView) -> Result<(Vec<Item>, bool)> {
        if self.max == 0 {
            return Ok((Vec::new(), false));
        }
        let to = after_prefix(object_prefix(
            self.slice,
            self.bucket,
            self.rollup.prefix.as_bytes(),
        ));
        let chunk = if self.rollup.delimiter.is_some() {
            2 * SCAN_CHUNK_MIN
        } else {
            self.max + 1
        };
        let mut scan = Scan::new(view, self.from(), to, chunk);
        let (mut items, mut name_bytes) = (Vec::<Item>::new(), 0);
        let mut last_stem = Vec::new();
        while let Some(mut entry) = scan.next().await? {
            let head = ObjectHead::decode(&entry.value)?;
            let decoded = decode_meta_key(&entry.key)?;
            entry
                .key
                .truncate(entry.key.len().saturating_sub(SUFFIX_BYTES));
            let is_latest = entry.key != last_stem;
            last_stem = entry.key;
            let deleted = head.flags.contains(Flags::DELETE_MARKER);
            if deleted || !(is_latest || self.versions) {
                continue;
            }
            name_bytes += items.last().map_or(0, |item| item.name().len());
            if items.len() == self.max || name_bytes >= LIST_NAME_BYTES_MAX {
                return Ok((items, true));
            }
            let MetaKey::Object { key, .. } = decoded else {
                return Err(Error::Internal(
                    "a key that is no object's among objects".to_owned(),
                ));
            };
            match self.rollup.common_prefix(&key) {
                Some(prefix) => {
                    scan.skip_to(after_prefix(object_prefix(
                        self.slice,
                        self.bucket,
                        prefix.as_bytes(),
                    )));
                    items.push(Item::CommonPrefix(prefix.to_owned()));
                }
                None => items.push(Item::Version {
                    key,
                    head,
                    is_latest,
                }),
            }
        }
        Ok((items, false))
    }
}

#[cfg(test)]
mod tests;
