//! Who may change what at the same time.
//!
//! Two rows of striped locks: of buckets (by name), held shared by object writes and
//! exclusively by what creates or deletes a bucket; and of keys, held exclusively from the
//! read of the current version until the batch that replaces it is persistent. A bucket's
//! lock is always taken before a key's, and never two of a row, so nobody waits in a circle.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use async_lock::{Mutex, MutexGuardArc, RwLock, RwLockReadGuardArc, RwLockWriteGuardArc};

use crate::AccountId;
use crate::limits::{BUCKET_LOCKS, KEY_LOCKS};

/// Every lock.
pub(crate) struct Locks {
    buckets: Vec<Arc<RwLock<()>>>,
    keys: Vec<Arc<Mutex<()>>>,
    /// Seeded at random, so that nobody can choose keys that share a lock.
    hasher: RandomState,
}

/// What a change holds until it is decided.
#[derive(Default)]
pub(crate) struct Guards {
    _bucket_shared: Option<RwLockReadGuardArc<()>>,
    _bucket_exclusive: Option<RwLockWriteGuardArc<()>>,
    _key: Option<MutexGuardArc<()>>,
}

impl Locks {
    pub(crate) fn new() -> Locks {
        Locks {
            buckets: (0..BUCKET_LOCKS).map(|_| Arc::default()).collect(),
            keys: (0..KEY_LOCKS).map(|_| Arc::default()).collect(),
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
            _bucket_exclusive: None,
            _key: Some(self.pick(&self.keys, (bucket, key)).lock_arc().await),
        }
    }

    /// For the creation or deletion of a bucket, and a change of its account's counters.
    pub(crate) async fn bucket(&self, bucket: &str, account: AccountId) -> Guards {
        Guards {
            _bucket_shared: None,
            _bucket_exclusive: Some(self.pick(&self.buckets, bucket).write_arc().await),
            _key: Some(self.pick(&self.keys, account).lock_arc().await),
        }
    }

    /// Waits until every change that holds a lock is decided. Whoever comes later has to see
    /// by other means that he comes too late.
    pub(crate) async fn drain(&self) {
        for bucket in &self.buckets {
            drop(bucket.write().await);
        }
    }
}
