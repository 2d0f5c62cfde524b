//! A consistent view of the set.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shardstore::limits::SCAN_WORK;
use shardstore::{Engine, Found, Key, Read, ScanPage, Snapshot, Step};

use crate::blob::{SHARD_PREFIX, shard_key_bytes};
use crate::limits::{META_PAGE_BYTES, META_PAGE_ENTRIES, SCAN_SHARDS};
use crate::meta::{META_PREFIX, MetaEntry, MetaPage, raw_bytes, raw_key};
use crate::shard::{RawKey, ShardValue};
use crate::slices::SET_PREFIX;
use crate::table::Table;
use crate::timer::before;
use crate::turns::let_others_go_first;
use crate::{BlobId, Result, Volume, VolumeError};

/// Sees every batch that was persistent when it was taken, and none submitted later unless the disk
/// that is read first cannot answer, or not soon: then another one shows what it has now. While it
/// lives, no space at all is reused: hold it for the time of a few reads. Clones share it.
#[derive(Clone)]
pub struct VolumeSnapshot {
    volume: Volume,
    view: Arc<View>,
}

struct View {
    table: Arc<Table>,
    /// Where metadata is read, and the view of it; `None`: that disk is not here.
    primary: Option<(Engine, Snapshot)>,
}

/// A shard that a scan over blobs came upon: the first of its blob that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobFrame {
    /// The blob.
    pub blob: BlobId,
    /// The stripe: 0 unless the blob's beginning is missing.
    pub stripe: u32,
    /// The shard's number within the stripe.
    pub shard: u8,
    /// Says what the blob is, if `stripe` is 0. `None`: this release cannot decode it.
    pub value: Option<ShardValue>,
}

impl VolumeSnapshot {
    pub(crate) fn new(volume: Volume, table: Arc<Table>) -> VolumeSnapshot {
        let engine = table.primary().and_then(|slot| table.engine(slot)).ok();
        let primary = engine.map(|engine| (engine.clone(), engine.snapshot()));
        let view = Arc::new(View { table, primary });
        VolumeSnapshot { volume, view }
    }

    /// Runs `f` on a view of the metadata: of the disk that is read first; if that cannot read
    /// what is asked for, or not soon, of another one that has it too, if that `is_enough`. That
    /// one's view is taken then: it shows what was acknowledged when this was taken, and may show
    /// more.
    async fn on_metadata<T: Send + 'static>(
        &self,
        f: impl FnMut(&Snapshot, Read) -> shardstore::Result<T> + Clone + Send + 'static,
        is_enough: fn(&T) -> bool,
    ) -> Result<T> {
        let others = self.view.table.slices.disks();
        let others = others.get(1..).unwrap_or_default();
        let again = (!others.is_empty()).then(|| f.clone());
        let mut late = None;
        let first = match &self.view.primary {
            Some((engine, _)) => {
                let (view, mut f) = (self.view.clone(), f);
                let read = move |how| match &view.primary {
                    Some((_, snapshot)) => f(snapshot, how),
                    None => Err(shardstore::Error::Closed),
                };
                let slot = self.view.table.primary()?;
                let mut asked = engine.read(self.volume.timed(slot, read));
                let patience = || {
                    let slow = self.volume.slow(&self.view.table) >> slot & 1 == 1;
                    let patience = self.volume.latencies().patience(slot);
                    Instant::now() + if slow { Duration::ZERO } else { patience }
                };
                let answer = match others.is_empty() {
                    true => Some(asked.await),
                    false => {
                        let answer = before(&mut asked, patience).await;
                        late = answer.is_none().then_some(asked);
                        answer
                    }
                };
                match answer {
                    Some(Ok(read)) => return Ok(read),
                    Some(Err(error)) => {
                        engine.store().note_damage(&error);
                        VolumeError::from(error)
                    }
                    None => {
                        self.volume.count_hedged();
                        self.volume.latencies().note_late(slot);
                        VolumeError::Busy
                    }
                }
            }
            None => VolumeError::NotHere {
                missing: self.view.table.missing(),
            },
        };
        if others.is_empty() || matches!(first, VolumeError::Closed) {
            return Err(first);
        }
        // Those of then that are replicas still.
        let now = self.volume.table();
        for slot in others
            .iter()
            .filter(|slot| now.slices.disks().contains(slot))
        {
            if let Some(again) = again.clone()
                && let Ok(read) = self.volume.read_disk(usize::from(*slot), again)
                && let Ok(read) = read.await
                && is_enough(&read)
            {
                return Ok(read);
            }
        }
        match late {
            Some(late) => Ok(late.await?),
            None => Err(first),
        }
    }

    /// The entry of a metadata key, whose stem is the one that it was put with.
    pub async fn meta_get(&self, key: &Key) -> Result<Option<MetaEntry>> {
        let raw = raw_key(key);
        let found = self.on_metadata(move |snapshot, how| snapshot.get(&raw, how), |_| true);
        Ok(found.await?.map(MetaEntry::from))
    }

    /// The entry of the first live metadata key that has this stem.
    pub async fn meta_first(&self, stem: &[u8]) -> Result<Option<MetaEntry>> {
        let raw = raw_bytes(stem);
        let mut from = raw.clone();
        loop {
            let stem = raw.clone();
            let step = self.on_metadata(
                move |snapshot, how| snapshot.first_step(&stem, &from, SCAN_WORK, how),
                |_| true,
            );
            match step.await? {
                Step::Done(found) => return Ok(found.map(MetaEntry::from)),
                Step::GoOn(next) => from = next,
            }
            let_others_go_first().await;
        }
    }

    /// Metadata entries with `from <= key < to`, both in one slice, in order, at most `limit`
    /// and not many more than [`META_PAGE_BYTES`] bytes. A page may hold fewer, or none,
    /// although more follow: `next` says so. What was deleted counts as work, of which one page
    /// is given a bounded amount.
    pub async fn meta_scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<MetaPage> {
        let (raw_from, raw_to) = (raw_bytes(from), raw_bytes(to));
        let page = self.on_metadata(
            move |snapshot, how| scan_bounded(snapshot, &raw_from, &raw_to, limit, how),
            |_| true,
        );
        let (page, work_left) = page.await?;
        if work_left == 0 {
            let_others_go_first().await;
        }
        Ok(page)
    }

    /// Verified bytes of the body beside a metadata entry; what lies past the end is left
    /// out. `None`: no such entry.
    pub async fn meta_body(&self, key: &Key, range: Range<u32>) -> Result<Option<Vec<u8>>> {
        let raw = raw_key(key);
        // In another one's view, which is of now, it may be gone already.
        let read = self.on_metadata(
            move |snapshot, how| {
                let Some(found) = snapshot.get(&raw, how)? else {
                    return Ok(None);
                };
                snapshot.read_payload(&found, range.clone(), how).map(Some)
            },
            Option::is_some,
        );
        read.await
    }

    /// The first shard on the disks at or behind `from`, in the order of blob ids: walks
    /// over all blobs, for the sweep. Ask again from the next id.
    pub async fn blob_at_or_after(&self, from: BlobId) -> Result<Option<BlobFrame>> {
        let mut first: Option<BlobFrame> = None;
        for slot in self.view.table.here() {
            let mut from = shard_key_bytes(from, 0, 0).to_vec();
            let found = loop {
                let page = self.scan_disk(slot, move |snapshot, how| {
                    snapshot.scan_step(&from, &[SHARD_PREFIX + 1], 1, &mut { SCAN_WORK }, how)
                });
                let Some(page) = page.await? else {
                    break None;
                };
                match (page.entries.first(), page.next) {
                    (Some(found), _) => break Some(frame_of(found)?),
                    (None, Some(next)) => from = next,
                    (None, None) => break None,
                }
                let_others_go_first().await;
            };
            let place = |frame: &BlobFrame| (frame.blob, frame.stripe, frame.shard);
            if let Some(found) = found
                && first
                    .as_ref()
                    .is_none_or(|first| place(&found) < place(first))
            {
                first = Some(found);
            }
        }
        Ok(first)
    }

    /// A page of one disk's shards. `None`: the disk cannot say, and others may.
    async fn scan_disk(
        &self,
        slot: usize,
        f: impl FnMut(&Snapshot, Read) -> shardstore::Result<ScanPage> + Send + 'static,
    ) -> Result<Option<ScanPage>> {
        let asked = match self.volume.read_disk(slot, f) {
            Ok(asked) => asked,
            // It has left the set since.
            Err(VolumeError::NotHere { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let error = match asked.await {
            Ok(page) => return Ok(Some(page)),
            Err(error) => error,
        };
        if let Some(disk) = self.view.table.disk(slot) {
            disk.engine.store().note_damage(&error);
        }
        match error {
            shardstore::Error::Corrupt { .. } | shardstore::Error::Disk(_)
                if !self.view.table.is_single() =>
            {
                Ok(None)
            }
            error => Err(error.into()),
        }
    }

    /// How many stripes reach from 0 to the last one on the disks, and shards per stripe.
    pub(crate) async fn extent_of(&self, blob: BlobId) -> Result<Option<(u32, u8)>> {
        let end = match blob.successor() {
            Some(next) => shard_key_bytes(next, 0, 0).to_vec(),
            None => vec![SHARD_PREFIX + 1],
        };
        let (mut stripes, mut width) = (0, 0);
        for slot in self.view.table.here() {
            let mut from = shard_key_bytes(blob, 0, 0).to_vec();
            loop {
                let to = end.clone();
                let page = self.scan_disk(slot, move |snapshot, how| {
                    snapshot.scan_step(&from, &to, SCAN_SHARDS, &mut { SCAN_WORK }, how)
                });
                let Some(page) = page.await? else {
                    break;
                };
                for found in &page.entries {
                    let frame = frame_of(found)?;
                    stripes = frame.stripe.saturating_add(1).max(stripes);
                    width = width.max(frame.shard.saturating_add(1));
                }
                match page.next {
                    Some(next) => from = next,
                    None => break,
                }
                let_others_go_first().await;
            }
        }
        Ok((stripes > 0).then_some((stripes, width)))
    }
}

/// The engine bounds a page by entries and by work, so it is asked for a few at a time. Says
/// how much work was left.
fn scan_bounded(
    snapshot: &Snapshot,
    from: &[u8],
    to: &[u8],
    limit: usize,
    how: Read,
) -> shardstore::Result<(MetaPage, usize)> {
    let mut work = SCAN_WORK;
    let (mut entries, mut bytes): (Vec<MetaEntry>, usize) = (Vec::new(), 0);
    let mut next = Some(from.to_vec());
    while let Some(from) = next.take() {
        let count = (limit - entries.len()).min(META_PAGE_ENTRIES);
        let page = snapshot.scan_step(&from, to, count, &mut work, how)?;
        for found in page.entries {
            bytes += found.key().len() + found.value().len();
            entries.push(found.into());
        }
        next = page.next;
        if bytes >= META_PAGE_BYTES || entries.len() >= limit || work == 0 {
            break;
        }
    }
    let page = MetaPage {
        entries,
        next: next.map(|key| key.get(1..).unwrap_or_default().to_vec()),
    };
    Ok((page, work))
}

fn frame_of(found: &Found) -> Result<BlobFrame> {
    let RawKey::Shard {
        blob,
        stripe,
        shard,
    } = RawKey::decode(found.key())
    else {
        return Err(VolumeError::Corrupt {
            what: "the key of a shard".to_owned(),
            why: format!("{} bytes that are no shard's key", found.key().len()),
        });
    };
    let value = ShardValue::decode(found.value()).ok();
    Ok(BlobFrame {
        blob,
        stripe,
        shard,
        value,
    })
}

const _: () = assert!(META_PREFIX < SHARD_PREFIX && SHARD_PREFIX < SET_PREFIX);
