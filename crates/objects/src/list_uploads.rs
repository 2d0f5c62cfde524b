//! Listing the uploads of a bucket that are not completed.

use crate::keys::{
    MetaKey, after_prefix, decode_meta_key, object_slice, object_uploads, upload_key, upload_prefix,
};
use crate::limits::{LIST_ENTRIES_MAX, LIST_NAME_BYTES_MAX, SCAN_CHUNK_MIN};
use crate::list::Rollup;
use crate::record::UploadRecord;
use crate::scan::Scan;
use crate::upload::{UploadId, UploadInfo};
use crate::{AccountId, Error, Objects, Result};

/// Which uploads of a bucket to list.
#[derive(Debug, Clone)]
pub struct ListUploadsRequest {
    /// Who asks; the bucket must be theirs.
    pub account: AccountId,
    /// The bucket's name.
    pub bucket: String,
    /// Only keys that begin with this.
    pub prefix: String,
    /// As in [`ListRequest`](crate::ListRequest).
    pub delimiter: Option<String>,
    /// Only what comes after this key or common prefix; of this key itself, with an upload id
    /// marker, the later uploads.
    pub key_marker: Option<String>,
    /// With a key marker: only uploads of that key that come after this one.
    pub upload_id_marker: Option<String>,
    /// Most entries of the page; more than 1,000 counts as 1,000. A page of long names may
    /// end earlier.
    pub max_uploads: usize,
}

/// One page of a bucket's uploads.
#[derive(Debug, Clone, Default)]
pub struct ListUploadsPage {
    /// In key order; uploads of one key from the oldest to the newest.
    pub entries: Vec<UploadEntry>,
    /// Whether more follow: the last entry is the next page's marker.
    pub more: bool,
}

/// What a listing of uploads consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadEntry {
    /// An upload.
    Upload {
        /// The key that the object is to have.
        key: String,
        /// The upload's id.
        id: String,
        /// What is known of it.
        info: UploadInfo,
    },
    /// Stands for every key that begins with it.
    CommonPrefix(String),
}

impl UploadEntry {
    /// Its key or common prefix.
    pub fn name(&self) -> &str {
        match self {
            UploadEntry::Upload { key, .. } => key,
            UploadEntry::CommonPrefix(prefix) => prefix,
        }
    }
}

impl Objects {
    /// One page of a bucket's uploads. Fails with `NoSuchBucket` or `AccessDenied`.
    pub async fn list_uploads(&self, request: ListUploadsRequest) -> Result<ListUploadsPage> {
        let (inner, view) = (&self.inner, self.inner.meta.view());
        inner.check_open()?;
        let bucket = inner
            .bucket(&*view, request.account, &request.bucket)
            .await?
            .id;
        let prefix = request.prefix.as_bytes();
        let slice = object_slice(&inner.meta.slices(), bucket, prefix);
        let rollup = Rollup {
            prefix: &request.prefix,
            delimiter: request.delimiter.as_deref().filter(|d| !d.is_empty()),
        };
        let begin = upload_prefix(slice, bucket, prefix);
        let to = after_prefix(begin.clone());
        let from = match request.key_marker.as_deref() {
            None => begin,
            Some(after) => {
                let id = request
                    .upload_id_marker
                    .as_deref()
                    .and_then(UploadId::parse);
                let skipped = match (rollup.common_prefix(after), id) {
                    (Some(common), _) if common == after => {
                        after_prefix(upload_prefix(slice, bucket, after.as_bytes()))
                    }
                    (_, Some(id)) => {
                        let key = upload_key(slice, bucket, after.as_bytes(), id);
                        [key.as_bytes(), &[0]].concat()
                    }
                    (_, None) => after_prefix(object_uploads(slice, bucket, after.as_bytes())),
                };
                begin.max(skipped)
            }
        };
        let max = request.max_uploads.min(LIST_ENTRIES_MAX);
        let mut page = ListUploadsPage::default();
        if max == 0 {
            return Ok(page);
        }
        let mut name_bytes = 0;
        let mut scan = Scan::new(&*view, from, to, (max + 1).max(SCAN_CHUNK_MIN));
        while let Some(entry) = scan.next().await? {
            name_bytes += page.entries.last().map_or(0, |entry| entry.name().len());
            if page.entries.len() == max || name_bytes >= LIST_NAME_BYTES_MAX {
                page.more = true;
                break;
            }
            let MetaKey::Upload { key, upload, .. } = decode_meta_key(&entry.key)? else {
                return Err(Error::Internal(
                    "a key that is no upload's among uploads".to_owned(),
                ));
            };
            if let Some(common) = rollup.common_prefix(&key) {
                scan.skip_to(after_prefix(upload_prefix(
                    slice,
                    bucket,
                    common.as_bytes(),
                )));
                page.entries
                    .push(UploadEntry::CommonPrefix(common.to_owned()));
                continue;
            }
            page.entries.push(UploadEntry::Upload {
                key,
                id: upload.to_string(),
                info: UploadInfo::from(&UploadRecord::decode(&entry.value)?),
            });
        }
        Ok(page)
    }
}
