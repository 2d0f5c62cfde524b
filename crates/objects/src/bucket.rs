//! Buckets: their names, and how they come and go.

use volume::{MetaBatch, SliceId};

use crate::account_buckets;
use crate::codec::counters;
use crate::commit::Commit;
use crate::keys::{
    BucketId, account_bucket_key, account_key, after_prefix, bucket_key, counters_key,
    identity_key, object_prefix, wipe_bucket_key,
};
use crate::limits::{
    BUCKET_NAME_BYTES_MAX, BUCKET_NAME_BYTES_MIN, LIST_ENTRIES_MAX, SCAN_CHUNK_MAX,
};
use crate::meta_store::MetaView;
use crate::objects::Inner;
use crate::record::{BucketRecord, EndedRecord};
use crate::scan::Scan;
use crate::{AccountId, Error, Objects, Result, Timestamp};

/// A bucket as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketInfo {
    /// Unique among all accounts.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// The account that owns it.
    pub owner: AccountId,
    /// The region it was created in.
    pub region: String,
    /// Current objects.
    pub objects: u64,
    /// Bytes of the current objects' bodies.
    pub bytes: u64,
}

/// A bucket as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSummary {
    /// Unique among all accounts.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// The region it was created in.
    pub region: String,
}

/// One page of an account's buckets.
#[derive(Debug, Clone, Default)]
pub struct BucketPage {
    /// In the order of their names.
    pub buckets: Vec<BucketSummary>,
    /// Whether more follow.
    pub more: bool,
}

/// Checks a bucket's name against S3's rules for general-purpose buckets.
pub fn check_bucket_name(name: &str) -> Result<()> {
    let broken = |rule| {
        Err(Error::InvalidBucketName {
            bucket: name.to_owned(),
            rule,
        })
    };
    if !(BUCKET_NAME_BYTES_MIN..=BUCKET_NAME_BYTES_MAX).contains(&name.len()) {
        return broken("it has 3 to 63 characters");
    }
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !name
        .bytes()
        .all(|byte| alphanumeric(byte) || byte == b'-' || byte == b'.')
    {
        return broken("it consists of lower-case letters, digits, dots and hyphens");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.ends_with(|c: char| c.is_ascii_alphanumeric())
    {
        return broken("it begins and ends with a letter or a digit");
    }
    if name.contains("..") {
        return broken("it has no two dots in a row");
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return broken("it does not look like an IP address");
    }
    const PREFIXES: [&str; 3] = ["xn--", "sthree-", "amzn-s3-demo-"];
    const SUFFIXES: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
    if PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
    {
        return broken("it has no prefix or suffix that S3 reserves");
    }
    Ok(())
}

impl Objects {
    /// Creates a bucket. Fails with `InvalidBucketName`, `BucketAlreadyOwnedByYou`,
    /// `BucketAlreadyExists`, `TooManyBuckets`, or `AccessDenied` if there is no such account.
    pub async fn create_bucket(&self, account: &AccountId, name: &str) -> Result<BucketInfo> {
        check_bucket_name(name)?;
        let inner = &self.inner;
        let guards = inner.locks.bucket(name, *account).await;
        inner.check_open()?;
        let view = inner.meta.view();
        match inner.bucket_record(&*view, name).await {
            Err(Error::NoSuchBucket { .. }) => {}
            Err(error) => return Err(error),
            Ok(bucket) if bucket.account == *account => {
                return Err(Error::BucketAlreadyOwnedByYou {
                    bucket: name.to_owned(),
                });
            }
            Ok(_) => {
                return Err(Error::BucketAlreadyExists {
                    bucket: name.to_owned(),
                });
            }
        }
        // Deleted since the request was let in: nobody could ever reach its bucket.
        let of_root = *account == AccountId::ROOT;
        if !of_root && view.get(&identity_key(account.number())).await?.is_none() {
            return Err(Error::AccessDenied);
        }
        let limit = inner.options.buckets_per_account_max;
        let account_key = account_key(account.number());
        let counted = view.get(&account_key).await?;
        let [buckets] = counters(&counted.map(|entry| entry.value).unwrap_or_default());
        if u64::try_from(buckets).unwrap_or(0) >= limit {
            return Err(Error::TooManyBuckets { limit });
        }
        let record = BucketRecord {
            id: BucketId(inner.next_sequence()?),
            account: *account,
            created: Timestamp::now(),
            flags: 0,
            region: inner.options.region.clone(),
            unknown: Vec::new(),
        };
        let key = bucket_key(name);
        let batch = MetaBatch::new()
            .expect(key.as_bytes().to_vec(), None)
            .put(&key, record.encode()?, Vec::new())
            .merge(&account_key, &[1]);
        let batch = account_buckets::add(batch, *account, name);
        let dependency = inner.meta.commit(batch)?;
        Commit::new(dependency, guards, None).durable().await?;
        Ok(info(name, record, [0, 0]))
    }

    /// What a bucket's owner sees of it. Fails with `NoSuchBucket` or `AccessDenied`.
    pub async fn head_bucket(&self, account: &AccountId, name: &str) -> Result<BucketInfo> {
        self.inner.check_open()?;
        let view = self.inner.meta.view();
        let record = self.inner.bucket(&*view, *account, name).await?;
        self.inner.bucket_info(&*view, name, record).await
    }

    /// One page of the account's buckets in the order of their names: those whose name begins
    /// with `prefix` and comes after `after`, at most `max` and at most 1,000.
    pub async fn list_buckets(
        &self,
        account: &AccountId,
        prefix: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<BucketPage> {
        self.inner.check_open()?;
        let view = self.inner.meta.view();
        let key = |name| account_bucket_key(account.number(), name);
        let from = key(prefix).as_bytes().to_vec();
        let to = after_prefix(from.clone());
        let from = after.map_or(from.clone(), |after| {
            from.max([key(after).as_bytes(), &[0]].concat())
        });
        let mut scan = Scan::new(&*view, from, to, SCAN_CHUNK_MAX);
        let mut page = BucketPage::default();
        while let Some(entry) = scan.next().await? {
            let bucket = account_buckets::resolve(&*view, *account, &entry.key).await?;
            let Some((name, record)) = bucket else {
                continue;
            };
            if page.buckets.len() >= max.min(LIST_ENTRIES_MAX) {
                page.more = true;
                break;
            }
            page.buckets.push(BucketSummary {
                name,
                created: record.created,
                region: record.region,
            });
        }
        Ok(page)
    }

    /// Deletes a bucket without objects; uploads in parts that are not completed go with it.
    /// Fails with `NoSuchBucket`, `AccessDenied` or
    /// `BucketNotEmpty`.
    pub async fn delete_bucket(&self, account: &AccountId, name: &str) -> Result<()> {
        let inner = &self.inner;
        let guards = inner.locks.bucket(name, *account).await;
        inner.check_open()?;
        let view = inner.meta.view();
        let record = inner.bucket(&*view, *account, name).await?;
        let key = bucket_key(name);
        // This very record: one of the same name that was created since is another bucket.
        let stored = view.get(&key).await?.map(|entry| entry.value);
        let stored = stored.unwrap_or_default();
        let mut batch = MetaBatch::new().expect_value(&key, stored).delete(&key);
        for slice in inner.meta.slices().slices() {
            let from = object_prefix(slice, record.id, b"");
            let to = after_prefix(from.clone());
            if Scan::new(&*view, from, to, 1).next().await?.is_some() {
                return Err(Error::BucketNotEmpty {
                    bucket: name.to_owned(),
                });
            }
            batch = batch.delete(&counters_key(slice, record.id));
        }
        // With it go its uploads in parts.
        let ended = EndedRecord::default().encode();
        let batch = account_buckets::remove(batch, *account, name)
            .put(
                &wipe_bucket_key(SliceId::ROOT, record.id),
                ended,
                Vec::new(),
            )
            .merge(&account_key(account.number()), &[-1])
            .frees_space();
        let dependency = inner.meta.commit(batch)?;
        drop(view);
        let guards = guards.and_wake(&inner.sweep.wipe);
        Commit::new(dependency, guards, None).durable().await
    }
}

impl Inner {
    /// The bucket's record, whoever asks.
    async fn bucket_record(&self, view: &dyn MetaView, name: &str) -> Result<BucketRecord> {
        // A longer name cannot be a bucket's, and would not be within the key's limit.
        let entry = match name.len() <= BUCKET_NAME_BYTES_MAX {
            true => view.get(&bucket_key(name)).await?,
            false => None,
        };
        match entry {
            Some(entry) => BucketRecord::decode(&entry.value),
            None => Err(Error::NoSuchBucket {
                bucket: name.to_owned(),
            }),
        }
    }

    /// The bucket's record, if it is the account's.
    pub(crate) async fn bucket(
        &self,
        view: &dyn MetaView,
        account: AccountId,
        name: &str,
    ) -> Result<BucketRecord> {
        let record = self.bucket_record(view, name).await?;
        if record.account != account {
            return Err(Error::AccessDenied);
        }
        Ok(record)
    }

    /// With the counters of every slice added up.
    async fn bucket_info(
        &self,
        view: &dyn MetaView,
        name: &str,
        record: BucketRecord,
    ) -> Result<BucketInfo> {
        let mut sums = [0_i64; 2];
        for slice in self.meta.slices().slices() {
            let counted = view.get(&counters_key(slice, record.id)).await?;
            let counted: [i64; 2] = counters(&counted.map(|entry| entry.value).unwrap_or_default());
            sums = std::array::from_fn(|at| sums[at].saturating_add(counted[at]));
        }
        Ok(info(name, record, sums))
    }
}

fn info(name: &str, record: BucketRecord, [objects, bytes]: [i64; 2]) -> BucketInfo {
    BucketInfo {
        name: name.to_owned(),
        created: record.created,
        owner: record.account,
        region: record.region,
        objects: u64::try_from(objects).unwrap_or(0),
        bytes: u64::try_from(bytes).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_the_rules_of_s3() {
        let long = "a".repeat(63);
        for good in [
            "abc",
            "a-b",
            "a.b.c",
            "1-2",
            "192.168.5",
            "my--bucket",
            &long,
        ] {
            assert!(check_bucket_name(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        let bad = [
            "",
            "ab",
            &too_long,
            "Abc",
            "a_b",
            "a b",
            "-ab",
            "ab-",
            ".ab",
            "ab.",
            "a..b",
            "192.168.5.4",
            "xn--a",
            "sthree-a",
            "amzn-s3-demo-a",
            "a-s3alias",
            "a--ol-s3",
            "a.mrap",
            "a--x-s3",
            "a--table-s3",
            "bücket",
            "a/b",
        ];
        for bad in bad {
            let error = check_bucket_name(bad).unwrap_err();
            assert!(matches!(error, Error::InvalidBucketName { .. }), "{bad}");
        }
    }
}
