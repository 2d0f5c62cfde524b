//! An ordered map in memory that answers as a view does, for tests of what walks over views.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use volume::{Key, MetaEntry, MetaPage, SliceId};

use crate::keys::{BucketId, object_key, object_stem};
use crate::meta_store::{Answer, MetaView};
use crate::record::{Body, Flags, ObjectHead, ObjectRecord};
use crate::{AccountId, ETag, Metadata, Timestamp};

/// The map. Its scans return short pages now and then, as a store may.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Pages that were fetched.
    pub(crate) scans: AtomicUsize,
}

impl Model {
    pub(crate) fn put_object(&mut self, bucket: BucketId, key: &str, sequence: u64, flags: Flags) {
        let record = ObjectRecord {
            head: ObjectHead {
                flags,
                size: sequence,
                modified: Timestamp::default(),
                owner: AccountId::ROOT,
                etag: ETag::from_md5([sequence as u8; 16]),
            },
            body: Body::Inline,
            metadata: Metadata::default(),
            checksum: None,
            unknown: Vec::new(),
        };
        let key = object_key(
            &object_stem(SliceId::ROOT, bucket, key.as_bytes()),
            sequence,
        );
        self.entries
            .insert(key.as_bytes().to_vec(), record.encode().unwrap());
    }
}

fn entry((key, value): (&Vec<u8>, &Vec<u8>)) -> MetaEntry {
    MetaEntry {
        key: key.clone(),
        value: value.clone(),
        body_len: 0,
    }
}

impl MetaView for Model {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<MetaEntry>> {
        Box::pin(async move { Ok(self.entries.get_key_value(key.as_bytes()).map(entry)) })
    }

    fn first<'a>(&'a self, stem: &'a [u8]) -> Answer<'a, Option<MetaEntry>> {
        Box::pin(async move {
            let first = self.entries.range(stem.to_vec()..).next();
            Ok(first.filter(|(key, _)| key.starts_with(stem)).map(entry))
        })
    }

    fn scan<'a>(&'a self, from: &'a [u8], to: &'a [u8], limit: usize) -> Answer<'a, MetaPage> {
        Box::pin(async move {
            let count = self.scans.fetch_add(1, Ordering::Relaxed);
            let limit = if count % 5 == 4 {
                limit.div_ceil(2)
            } else {
                limit
            };
            let mut range = self.entries.range(from.to_vec()..to.to_vec());
            let entries = range.by_ref().take(limit).map(entry).collect();
            Ok(MetaPage {
                entries,
                next: range.next().map(|(key, _)| key.clone()),
            })
        })
    }

    fn body<'a>(&'a self, _key: &'a Key, _range: Range<u32>) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async { Ok(None) })
    }
}
