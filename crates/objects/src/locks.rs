//! Who may change what at the same time.
//!
//! Three rows of striped locks: of buckets (by name), held shared by object writes and
//! exclusively by what creates or deletes a bucket; of uploads in parts, held shared while a part
//! is committed and exclusively by what ends the upload; and of keys (and of parts), held
//! exclusively from the read of the current version until the batch that replaces it is
//! persistent. A bucket's lock is always taken before an upload's, an upload's before a key's,
//! and never two of a row, so nobody waits in a circle.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, PoisonError};

use async_lock::{Mutex, MutexGuardArc, RwLock, RwLockReadGuardArc, RwLockWriteGuardArc};

use crate::AccountId;
use crate::limits::{BUCKET_LOCKS, KEY_LOCKS, UPLOAD_LOCKS};
use crate::upload::UploadId;
use crate::wipe::{Waking, Wipe};

/// Every lock.
pub(crate) struct Locks {
    buckets: Vec<Arc<RwLock<()>>>,
    uploads: Vec<Arc<RwLock<()>>>,
    keys: Vec<Arc<Mutex<()>>>,
    /// Changes of accounts and access keys. Blocks, as they do, and is taken before a key's.
    accounts: std::sync::Mutex<()>,
    /// Seeded at random, so that nobody can choose keys that share a lock.
    hasher: RandomState,
}

/// What a change holds until it is decided.
#[derive(Default)]
pub(crate) struct Guards {
    _bucket_shared: Option<RwLockReadGuardArc<()>>,
    _bucket_exclusive: Option<RwLockWriteGuardArc<()>>,
    _upload_shared: Option<RwLockReadGuardArc<()>>,
    _upload_exclusive: Option<RwLockWriteGuardArc<()>>,
    _key: Option<MutexGuardArc<()>>,
    _waking: Option<Waking>,
}

impl Guards {
    /// Wakes what clears ended uploads away, too, when all is decided.
    pub(crate) fn and_wake(self, wipe: &Wipe) -> Guards {
        Guards {
            _waking: Some(wipe.waking()),
            ..self
        }
    }
}

impl Locks {
    pub(crate) fn new() -> Locks {
        Locks {
            buckets: (0..BUCKET_LOCKS).map(|_| Arc::default()).collect(),
            uploads: (0..UPLOAD_LOCKS).map(|_| Arc::default()).collect(),
            keys: (0..KEY_LOCKS).map(|_| Arc::default()).collect(),
            accounts: std::sync::Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    fn pick<'a, T>(&self, row: &'a [Arc<T>], of: impl Hash) -> &'a Arc<T> {
        &row[(self.hasher.hash_one(of) % row.len() as u64) as usize]
    }

    /// For a change of one object.
    pub(crate) async fn object(&self, bucket: &str, key: &str) -> Guards {
        Guards {
            _bucket_shared: Some(self.pick(&self.buckets, bucket).read_arc().await),
            _key: Some(self.pick(&self.keys, (bucket, key)).lock_arc().await),
            ..Guards::default()
        }
    }

    /// For the beginning of an upload in parts.
    pub(crate) async fn new_upload(&self, bucket: &str) -> Guards {
        Guards {
            _bucket_shared: Some(self.pick(&self.buckets, bucket).read_arc().await),
            ..Guards::default()
        }
    }

    /// For a change of one part.
    pub(crate) async fn part(&self, bucket: &str, upload: UploadId, number: u16) -> Guards {
        Guards {
            _bucket_shared: Some(self.pick(&self.buckets, bucket).read_arc().await),
            _upload_shared: Some(self.pick(&self.uploads, upload).read_arc().await),
            _key: Some(self.pick(&self.keys, (upload, number)).lock_arc().await),
            ..Guards::default()
        }
    }

    /// For the end of an upload.
    pub(crate) async fn upload(&self, bucket: &str, upload: UploadId) -> Guards {
        Guards {
            _bucket_shared: Some(self.pick(&self.buckets, bucket).read_arc().await),
            _upload_exclusive: Some(self.pick(&self.uploads, upload).write_arc().await),
            ..Guards::default()
        }
    }

    /// For the end of an upload that becomes an object: adds the object's lock.
    pub(crate) async fn and_object(&self, guards: Guards, bucket: &str, key: &str) -> Guards {
        Guards {
            _key: Some(self.pick(&self.keys, (bucket, key)).lock_arc().await),
            ..guards
        }
    }

    /// For the creation or deletion of a bucket, and a change of its account's counters.
    pub(crate) async fn bucket(&self, bucket: &str, account: AccountId) -> Guards {
        Guards {
            _bucket_exclusive: Some(self.pick(&self.buckets, bucket).write_arc().await),
            _key: Some(self.pick(&self.keys, account).lock_arc().await),
            ..Guards::default()
        }
    }

    /// For a change of accounts and access keys, one at a time. Blocks.
    pub(crate) fn accounts(&self) -> std::sync::MutexGuard<'_, ()> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an account's buckets from coming and going.
    pub(crate) async fn account(&self, account: AccountId) -> Guards {
        Guards {
            _key: Some(self.pick(&self.keys, account).lock_arc().await),
            ..Guards::default()
        }
    }

    /// Waits until every change that holds a lock is decided. Whoever comes later has to see
    /// by other means that he comes too late.
    pub(crate) async fn drain(&self) {
        for bucket in &self.buckets {
            drop(bucket.write().await);
        }
        drop(self.accounts());
    }
}
