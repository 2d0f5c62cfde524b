//! Counting again what the store keeps count of: how many bytes live in each extent. For the
//! checks; nothing decides by it.
//!
//! The counts of payload bytes are carried on from checkpoint to checkpoint, so they say the
//! truth about the index only while memory holds nothing.

use std::collections::BTreeMap;

use crate::checkpoint::live_bytes;
use crate::disk::Read;
use crate::error::Result;
use crate::extents::State;
use crate::frame::Stream;
use crate::merge::Merged;
use crate::store::Store;
use crate::sync::{lock, read};

/// One extent's live bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveCount {
    /// The extent's number.
    pub extent: u32,
    /// Whether it is free, so that nothing may live in it.
    pub is_free: bool,
    /// Whether it takes appends.
    pub is_open: bool,
    /// Whether the last checkpoint covers all of it. What that wrote itself it does not cover.
    pub is_covered: bool,
    /// Whether it holds manifests, of which a new one replaces the old one.
    pub has_manifests: bool,
    /// Bytes of payloads by the count that is carried on.
    pub counted: u64,
    /// Bytes of payloads by a walk through the whole index.
    pub found: u64,
    /// Bytes of index chunks.
    pub index: u64,
}

/// What a walk through the whole index finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// Every extent that was ever used, in order.
    pub extents: Vec<LiveCount>,
    /// Living keys that have a payload.
    pub payloads: u64,
    /// Bytes of these payloads.
    pub payload_bytes: u64,
}

impl Store {
    /// Walks the index and counts. `None`: something was committed since the last checkpoint, so
    /// that the counts are not meant to be exact.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn audit(&self) -> Result<Option<Audit>> {
        let _alone = lock(&self.maintenance);
        let _turn = lock(&self.pump_turn);
        let version = {
            let index = read(&self.index);
            if !index.active.is_empty() || !index.frozen.is_empty() {
                return Ok(None);
            }
            index.version.clone()
        };
        let mut audit = Audit::default();
        let reader = self.table_reader(Read::Blocking, false);
        let mut merged = Merged::new(version.sources(&[], None, None, &reader)?);
        let mut found: BTreeMap<u32, u64> = BTreeMap::new();
        while let Some((_, record)) = merged.next(None, &reader)? {
            let Some(locator) = record.locator() else {
                continue;
            };
            *found.entry(locator.frame.extent).or_default() += live_bytes(locator);
            audit.payloads += 1;
            audit.payload_bytes += u64::from(locator.payload_len);
        }
        let mut chunks: BTreeMap<u32, u64> = BTreeMap::new();
        for chunk in version.tables().flat_map(|table| &table.meta.chunks) {
            *chunks.entry(chunk.extent).or_default() += chunk.len();
        }
        let log = lock(&self.log);
        let numbered = (0..).zip(log.extents.used());
        audit.extents = numbered
            .map(|(extent, entry)| LiveCount {
                extent,
                is_free: entry.state == State::Free,
                is_open: entry.state == State::Open,
                is_covered: entry.last_lsn <= log.superblock.checkpoint_lsn,
                has_manifests: entry.stream == Stream::Manifest,
                counted: entry.live,
                found: found.remove(&extent).unwrap_or(0),
                index: chunks.remove(&extent).unwrap_or(0),
            })
            .collect();
        Ok(Some(audit))
    }
}
