//! Writing a blob: bytes in, stripes out, a bounded number of them on their way.
//!
//! A stripe is sent when the next byte comes, not when it is full, because only the last
//! stripe's frame may carry the trailer. Memory per writer: one stripe being filled, and
//! up to `WINDOW_STRIPES` on their way to the disks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use shardstore::{Batch, Dependency};

use crate::blob::shard_key;
use crate::join::{self, when_decided};
use crate::limits::{LABEL_BYTES_MAX, SMALL_BLOB_BYTES, WINDOW_STRIPES};
use crate::placement;
use crate::shard::{ShardValue, Trailer};
use crate::stripe::Cut;
use crate::{BlobId, BlobRef, Result, Scheme, Volume, VolumeError};

/// A blob that is being written. Dropped before [`finish`](BlobWriter::finish) has
/// returned, it deletes what it wrote.
pub struct BlobWriter {
    volume: Volume,
    /// What the blob is so far: its lengths grow.
    blob: BlobRef,
    label: Option<Vec<u8>>,
    /// The stripe that is being filled.
    stripe: Vec<u8>,
    size_hint: Option<u64>,
    /// Stripes that were submitted.
    submitted: u32,
    /// Those of them that may not be durable yet, oldest first.
    window: VecDeque<Dependency>,
    receipt: Receipt,
    /// Whether there were not disks enough for all shards.
    owes: bool,
    /// The generation in which it was begun.
    generation: u64,
    /// Set while a call is under way: a call that failed or was cancelled leaves it set.
    broken: bool,
}

/// A blob whose stripes are all submitted, but to which nothing refers yet. Dropped, it is
/// deleted; [`keep`](FinishedBlob::keep) it once the batch that refers to it is submitted.
pub struct FinishedBlob {
    volume: Volume,
    blob: BlobRef,
    dependencies: Vec<Dependency>,
    receipt: Receipt,
    owes: bool,
    generation: u64,
    kept: bool,
}

/// How something came to be on stable storage, once its dependencies are persistent: as data
/// and parity shards, `4+2`, or as copies, `1+2`.
#[derive(Debug, Clone)]
pub struct Receipt {
    scheme: Scheme,
    /// Shards that the weakest stripe has.
    shards: Arc<AtomicU8>,
}

impl Receipt {
    /// For what has a scheme, until something is found missing.
    pub(crate) fn whole(scheme: Scheme) -> Receipt {
        Receipt {
            scheme,
            shards: Arc::new(AtomicU8::new(u8::MAX)),
        }
    }

    /// Whether some stripe is known to lack a shard.
    fn lacks(&self) -> bool {
        self.shards.load(Ordering::SeqCst) < self.scheme.width()
    }

    fn note(&self, shards: usize) {
        let shards = u8::try_from(shards).unwrap_or(u8::MAX);
        self.shards.fetch_min(shards, Ordering::SeqCst);
    }
}

impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shards = self.shards.load(Ordering::SeqCst).min(self.scheme.width());
        let scheme = Scheme {
            k: self.scheme.k,
            m: shards.saturating_sub(self.scheme.k),
        };
        scheme.fmt(f)
    }
}

impl BlobWriter {
    pub(crate) fn new(
        volume: Volume,
        id: BlobId,
        label: Vec<u8>,
        size_hint: Option<u64>,
    ) -> Result<BlobWriter> {
        if label.len() > LABEL_BYTES_MAX {
            let (what, is) = ("a blob's label", label.len());
            return Err(VolumeError::TooLarge {
                what,
                is,
                limit: LABEL_BYTES_MAX,
            });
        }
        let scheme = volume.plan()?;
        let blob = BlobRef {
            id,
            plain_len: 0,
            stored_len: 0,
            transforms: Vec::new(),
            scheme,
            shard_bytes: volume.shard_bytes(scheme),
        };
        let generation = volume.generation();
        Ok(BlobWriter {
            volume,
            blob,
            label: Some(label),
            stripe: Vec::new(),
            size_hint,
            submitted: 0,
            window: VecDeque::new(),
            receipt: Receipt::whole(scheme),
            owes: false,
            generation,
            broken: false,
        })
    }

    /// What the blob would be if it were finished now. A small one is kept as copies, so that one
    /// disk has all of it.
    pub fn blob(&self) -> BlobRef {
        let mut blob = self.blob.clone();
        if self.submitted == 0 {
            let copies = blob.scheme.copies();
            let shard_bytes = self.volume.shard_bytes(copies);
            let limit = (SMALL_BLOB_BYTES as u64).min(u64::from(shard_bytes));
            if blob.stored_len <= limit {
                (blob.scheme, blob.shard_bytes) = (copies, shard_bytes);
            }
        }
        blob
    }

    /// Appends bytes; waits while too many are on their way to the disks. If the future is
    /// dropped before it is done, the writer takes no more.
    pub async fn write(&mut self, mut data: &[u8]) -> Result<()> {
        self.begin()?;
        let stripe_bytes = self.blob.stripe_bytes() as usize;
        while !data.is_empty() {
            if self.stripe.len() == stripe_bytes {
                self.submit(None).await?;
            }
            if self.stripe.capacity() == 0 {
                self.stripe = self.new_stripe(data.len());
            }
            let (now, later) = data.split_at(data.len().min(stripe_bytes - self.stripe.len()));
            self.stripe.extend_from_slice(now);
            self.blob.plain_len += now.len() as u64;
            self.blob.stored_len += now.len() as u64;
            data = later;
        }
        self.broken = false;
        Ok(())
    }

    /// Submits the last stripe, with `trailer` (at most 10,240 bytes) in its frame.
    pub async fn finish(mut self, trailer: Vec<u8>) -> Result<FinishedBlob> {
        self.begin()?;
        self.submit(Some(trailer)).await?;
        // From here on the finished blob deletes what was written, not this writer.
        self.submitted = 0;
        Ok(FinishedBlob {
            volume: self.volume.clone(),
            blob: self.blob.clone(),
            dependencies: std::mem::take(&mut self.window).into(),
            receipt: self.receipt.clone(),
            owes: self.owes,
            generation: self.generation,
            kept: false,
        })
    }

    fn begin(&mut self) -> Result<()> {
        if self.broken {
            return Err(VolumeError::Broken);
        }
        self.broken = true;
        Ok(())
    }

    /// Room for a whole stripe if that much is coming, so that it is not copied as it grows.
    fn new_stripe(&self, at_hand: usize) -> Vec<u8> {
        let coming = self.size_hint.map_or(at_hand as u64, |hint| {
            hint.saturating_sub(self.blob.plain_len).max(at_hand as u64)
        });
        Vec::with_capacity(coming.min(self.blob.stripe_bytes()) as usize)
    }

    async fn submit(&mut self, trailer: Option<Vec<u8>>) -> Result<()> {
        // The first stripe says what the blob is: without it nobody could tell whose the others
        // are, if a crash left them. So the second is not submitted before the first is durable.
        let first_is_durable = self.submitted != 1;
        while let Some(oldest) = self.window.front() {
            let room = first_is_durable && self.window.len() < WINDOW_STRIPES;
            match (oldest.poll_now(), room) {
                (Some(result), _) => result?,
                (None, true) => break,
                (None, false) => oldest.clone().await?,
            }
            self.window.pop_front();
        }
        let places = self.volume.places()?;
        if self.submitted == 0 && trailer.is_some() {
            self.blob = self.blob();
            self.receipt = Receipt::whole(self.blob.scheme);
        }

        let number = self.submitted;
        let Some(count) = number.checked_add(1) else {
            let (what, limit) = ("the number of stripes of a blob", u32::MAX as usize);
            return Err(VolumeError::TooLarge {
                what,
                is: limit,
                limit,
            });
        };
        let value = ShardValue {
            scheme: self.blob.scheme,
            shard_bytes: self.blob.shard_bytes,
            // A stripe is at most 16 shards of at most 1 MiB.
            stripe_len: self.stripe.len() as u32,
            label: self.label.take(),
            trailer: trailer.map(|bytes| Trailer {
                plain_len: self.blob.plain_len,
                stored_len: self.blob.stored_len,
                bytes,
            }),
        };
        let value = value.encode()?;
        let stripe = std::mem::take(&mut self.stripe);
        let cut = Cut {
            scheme: self.blob.scheme,
            len: stripe.len(),
        };
        let shards = match self.blob.scheme.width() {
            1 => vec![stripe],
            _ => cut.shards(&stripe),
        };
        let slots = placement::order(self.blob.id, number, &places);
        // One shard beyond those that are needed, so that a loss can follow.
        let least = match shards.len() {
            1 => 1,
            _ => usize::from(self.blob.scheme.k) + 1,
        };
        if slots.len() < least {
            return Err(VolumeError::OutOfSpace);
        }
        self.owes |= slots.len() < shards.len();
        if self.submitted == 0 && self.blob.scheme.width() > 1 {
            // Nobody heals it before it is finished.
            self.volume.pins().doom(self.blob.id);
        }
        let mut parts = Vec::with_capacity(shards.len());
        for ((shard, payload), slot) in (0..).zip(shards).zip(slots) {
            let bytes = payload.len();
            let key = shard_key(self.blob.id, number, shard);
            let batch = Batch::new().put_with_payload(key, value.clone(), payload);
            // From here on something of the stripe may be on a disk.
            self.submitted = count;
            let submitted = self.volume.submit_admitted(slot, batch, bytes).await;
            parts.push(match submitted {
                Ok(dependency) => dependency,
                Err(VolumeError::Busy) => {
                    // What was submitted before it is waited for by whoever deletes it.
                    self.window.push_back(join::decided(parts));
                    return Err(VolumeError::Busy);
                }
                Err(error) => Dependency::failed(shardstore::Error::Failed {
                    reason: error.to_string(),
                }),
            });
        }
        let dependency = self.enough_of(parts, least);
        self.submitted = count;
        self.window.push_back(dependency);
        Ok(())
    }
}

impl BlobWriter {
    /// Persistent once all shards are decided and at least `least` of them are persistent.
    fn enough_of(&self, mut parts: Vec<Dependency>, least: usize) -> Dependency {
        if least == 1
            && let Some(only) = parts.pop()
        {
            return only;
        }
        let (completer, dependency) = Dependency::pair();
        let (receipt, volume) = (self.receipt.clone(), self.volume.clone());
        when_decided(parts, move |results| {
            let durable = results.iter().filter(|result| result.is_ok()).count();
            receipt.note(durable);
            let failed = results.into_iter().find_map(|result| result.err());
            match failed {
                Some(error) if durable < least => completer.complete(Err(error)),
                failed => {
                    if failed.is_some() {
                        volume.look_for_missing_shards();
                    }
                    completer.complete(Ok(()));
                }
            }
        });
        dependency
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.submitted > 0 {
            let width = self.blob.scheme.width();
            let window = std::mem::take(&mut self.window);
            let after = on_their_way(&self.volume, window.into());
            self.volume
                .delete_stripes(self.blob.id, self.submitted, width, after);
        }
    }
}

/// What a deletion of a blob comes after that may still be on its way to the disks: which disk
/// takes a shard shows only when it has. On one disk they are deleted in the order of their
/// submission.
fn on_their_way(volume: &Volume, stripes: Vec<Dependency>) -> Vec<Dependency> {
    match volume.is_single() {
        true => Vec::new(),
        false => vec![join::decided(stripes)],
    }
}

impl FinishedBlob {
    /// What a record needs to refer to it.
    pub fn blob(&self) -> &BlobRef {
        &self.blob
    }

    /// What the referring batch must come after: together they cover every stripe that may
    /// not be durable yet.
    pub fn dependencies(&self) -> &[Dependency] {
        &self.dependencies
    }

    /// How the blob is on stable storage, once its dependencies are persistent.
    pub fn receipt(&self) -> Receipt {
        self.receipt.clone()
    }

    /// Something refers to the blob now: it stays.
    pub fn keep(mut self) -> BlobRef {
        self.kept = true;
        self.volume.pins().settle(self.blob.id);
        // Nobody healed it while it was written. What is found missing from now on is looked for
        // by whoever finds it.
        if self.owes || self.receipt.lacks() {
            self.volume.look_for_missing_shards();
        }
        if self.volume.generation() != self.generation {
            self.volume.disks_changed_meanwhile();
        }
        self.blob.clone()
    }

    /// Nothing came to refer to the blob: it is deleted by
    /// [`Volume::housekeep`], not at once. Unlike dropping it, this may be called by whoever
    /// decides a dependency.
    pub fn discard_later(mut self) {
        self.kept = true;
        let after = on_their_way(&self.volume, std::mem::take(&mut self.dependencies));
        self.volume.delete_blob_later(&self.blob, after);
    }
}

impl Drop for FinishedBlob {
    fn drop(&mut self) {
        if !self.kept {
            let after = on_their_way(&self.volume, std::mem::take(&mut self.dependencies));
            self.volume.delete_blob(&self.blob, after);
        }
    }
}
