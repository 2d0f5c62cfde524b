//! `MetaStore`: the seam between objects and whatever keeps their records.
//!
//! Narrow on purpose: a consistent view with get, first, scan and body; and an atomic batch
//! that names what it expects. Embedded today (the volume itself), a distributed SQL engine
//! later. Answers are plain futures: no runtime's name, no thread of one's own.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use volume::{
    Dependency, Key, MetaBatch, MetaEntry, MetaPage, SliceMap, Volume, VolumeError, VolumeSnapshot,
};

use crate::Result;

/// An answer that arrives later.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// An ordered key space with atomic batches.
pub(crate) trait MetaStore: Send + Sync + 'static {
    /// A consistent view: sees every batch that was persistent when it was taken.
    fn view(&self) -> Box<dyn MetaView>;

    /// Which slice each key is to be in. A batch stays within one.
    fn slices(&self) -> Arc<SliceMap>;

    /// Queues a batch; durable and visible once the dependency is persistent. Never waits. The
    /// batch is not written before everything in [`MetaBatch::comes_after`] is persistent. A
    /// store with several writers fails with [`volume::VolumeError::Conflict`] at once, or
    /// completes the dependency with [`volume::shardstore::Error::Busy`] later, if an
    /// expectation does not hold: nothing was changed then, and both become `SlowDown`.
    fn commit(&self, batch: MetaBatch) -> Result<Dependency>;

    /// Commits a batch and blocks until it is durable.
    fn commit_now(&self, batch: MetaBatch) -> Result<()> {
        let dependency = self.commit(batch)?;
        Ok(dependency.wait().map_err(VolumeError::from)?)
    }

    /// Why what holds this key takes no more batches, if that is so.
    fn failure(&self, key: &[u8]) -> Result<Option<String>>;
}

/// A consistent view. Keep it for the time of a few reads.
pub(crate) trait MetaView: Send + Sync {
    /// The entry of a key, whose stem is the one that it was put with.
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<MetaEntry>>;

    /// The entry of the first live key with this stem.
    fn first<'a>(&'a self, stem: &'a [u8]) -> Answer<'a, Option<MetaEntry>>;

    /// Entries with `from <= key < to`, both in one slice, in order, at most `limit`; fewer do not mean that the
    /// range is exhausted, `next` says so.
    fn scan<'a>(&'a self, from: &'a [u8], to: &'a [u8], limit: usize) -> Answer<'a, MetaPage>;

    /// A range of the body beside an entry; what lies past the end is left out.
    fn body<'a>(&'a self, key: &'a Key, range: Range<u32>) -> Answer<'a, Option<Vec<u8>>>;
}

impl MetaStore for Volume {
    fn view(&self) -> Box<dyn MetaView> {
        Box::new(self.snapshot())
    }

    fn slices(&self) -> Arc<SliceMap> {
        Volume::slices(self)
    }

    fn commit(&self, batch: MetaBatch) -> Result<Dependency> {
        // This process is the only writer, and its locks are held from the read that the
        // batch expects until it is persistent.
        #[cfg(debug_assertions)]
        assert_expectations(self, &batch);
        Ok(Volume::commit(self, batch)?)
    }

    fn failure(&self, _key: &[u8]) -> Result<Option<String>> {
        Ok(Volume::failure(self))
    }
}

/// Checks the expectations that memory can answer.
#[cfg(debug_assertions)]
fn assert_expectations(volume: &Volume, batch: &MetaBatch) {
    use std::task::{Context, Poll, Waker};

    use volume::Expectation;

    let snapshot = volume.snapshot();
    let now = |expected: &Expectation| -> Option<bool> {
        let mut holds = std::pin::pin!(async {
            match expected {
                Expectation::First { stem, first } => {
                    let found = snapshot.meta_first(stem).await.ok()?;
                    Some(found.map(|entry| entry.key) == *first)
                }
                Expectation::Value { key, value } => {
                    let found = snapshot.meta_get(key).await.ok()?;
                    Some(found.is_some_and(|entry| entry.value == *value))
                }
            }
        });
        let mut context = Context::from_waker(Waker::noop());
        match holds.as_mut().poll(&mut context) {
            Poll::Ready(holds) => holds,
            Poll::Pending => None,
        }
    };
    for expected in batch.expectations() {
        let holds = now(expected).unwrap_or(true);
        assert!(holds, "another writer came between read and commit");
    }
}

impl MetaView for VolumeSnapshot {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<MetaEntry>> {
        Box::pin(async move { Ok(self.meta_get(key).await?) })
    }

    fn first<'a>(&'a self, stem: &'a [u8]) -> Answer<'a, Option<MetaEntry>> {
        Box::pin(async move { Ok(self.meta_first(stem).await?) })
    }

    fn scan<'a>(&'a self, from: &'a [u8], to: &'a [u8], limit: usize) -> Answer<'a, MetaPage> {
        Box::pin(async move { Ok(self.meta_scan(from, to, limit).await?) })
    }

    fn body<'a>(&'a self, key: &'a Key, range: Range<u32>) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move { Ok(self.meta_body(key, range).await?) })
    }
}
