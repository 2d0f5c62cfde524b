//! Which buckets an account owns: an entry for each, committed with the bucket's record, so
//! that a listing of one account's buckets walks over no other's.
//!
//! Disks written before there were such entries have a bucket and no mark that says that all
//! are there: opening them adds what is missing. The mark is set with the first bucket.

use volume::MetaBatch;

use crate::keys::{
    account_bucket_key, account_bucket_name, bucket_key, bucket_name, bucket_range, setting_key,
};
use crate::limits::{INDEX_PER_BATCH, SCAN_CHUNK_MAX, SCAN_CHUNK_MIN};
use crate::meta_store::{MetaStore, MetaView};
use crate::record::BucketRecord;
use crate::scan::Scan;
use crate::{AccountId, Result};

/// The setting that says that every bucket has its entry.
const INDEXED: &str = "account-buckets";

/// Adds a bucket's entry to the batch that creates it.
pub(crate) fn add(batch: MetaBatch, account: AccountId, bucket: &str) -> MetaBatch {
    let entry = account_bucket_key(account.number(), bucket);
    batch
        .put(&entry, Vec::new(), Vec::new())
        .put(&setting_key(INDEXED), vec![1], Vec::new())
}

/// Takes a bucket's entry away in the batch that deletes it.
pub(crate) fn remove(batch: MetaBatch, account: AccountId, bucket: &str) -> MetaBatch {
    batch.delete(&account_bucket_key(account.number(), bucket))
}

/// The bucket that an entry names, with its record; `None` if that is gone or another's.
pub(crate) async fn resolve(
    view: &dyn MetaView,
    account: AccountId,
    entry: &[u8],
) -> Result<Option<(String, BucketRecord)>> {
    let name = account_bucket_name(entry)?;
    let Some(found) = view.get(&bucket_key(&name)).await? else {
        return Ok(None);
    };
    let record = BucketRecord::decode(&found.value)?;
    Ok((record.account == account).then_some((name, record)))
}

/// Adds the entries that a disk of an earlier release has not. A few reads otherwise.
pub(crate) async fn complete(meta: &dyn MetaStore) -> Result<()> {
    let view = meta.view();
    let (from, to) = bucket_range();
    let first = Scan::new(&*view, from.clone(), to.clone(), SCAN_CHUNK_MIN)
        .next()
        .await?;
    if first.is_none() || view.get(&setting_key(INDEXED)).await?.is_some() {
        return Ok(());
    }
    let mut scan = Scan::new(&*view, from, to, SCAN_CHUNK_MAX);
    let (mut batch, mut entries) = (MetaBatch::new().frees_space(), 0);
    while let Some(found) = scan.next().await? {
        let Ok(record) = BucketRecord::decode(&found.value) else {
            // Nobody can use this bucket, and it must not keep the others from being listed.
            continue;
        };
        let entry = account_bucket_key(record.account.number(), &bucket_name(&found.key)?);
        batch = batch.put(&entry, Vec::new(), Vec::new());
        entries += 1;
        if entries == INDEX_PER_BATCH {
            meta.commit_now(std::mem::take(&mut batch).frees_space())?;
            entries = 0;
        }
    }
    // Last: until it is there, all of this is done again.
    let mark = setting_key(INDEXED);
    meta.commit_now(batch.put(&mark, vec![1], Vec::new()).frees_space())
}
