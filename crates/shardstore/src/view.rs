//! A snapshot that is read on the engine's threads: for work in the background, which has few reads
//! under way and must not hang when a disk does.

use std::ops::Range;

use crate::batch::Key;
use crate::disk::Read;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::medium::room_for;
use crate::snapshot::{Found, ScanPage, Snapshot};
use crate::sync::Arc;

/// As a [`Snapshot`], but each call waits for one of the engine's threads where memory has no answer.
/// When the engine is [abandoned](Engine::abandon), so is the call.
pub struct View {
    engine: Engine,
    snapshot: Arc<Snapshot>,
}

impl View {
    pub(crate) fn new(engine: &Engine) -> View {
        View {
            engine: engine.clone(),
            snapshot: Arc::new(engine.snapshot()),
        }
    }

    /// See [`Snapshot::get`].
    pub fn get(&self, key: &Key) -> Result<Option<Found>> {
        let (snapshot, key) = (self.snapshot.clone(), key.clone());
        self.ask(move |how| snapshot.get(&key, how))
    }

    /// See [`Snapshot::scan`].
    pub fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<ScanPage> {
        let (snapshot, from, to) = (self.snapshot.clone(), from.to_vec(), to.to_vec());
        self.ask(move |how| snapshot.scan(&from, &to, limit, how))
    }

    /// See [`Snapshot::read_payload`].
    pub fn read_payload(&self, found: &Found, range: Range<u32>) -> Result<Vec<u8>> {
        self.read_payload_as(found, range, Ok)
    }

    /// As [`read_payload`](View::read_payload), from the medium itself.
    pub fn read_payload_past_cache(&self, found: &Found, range: Range<u32>) -> Result<Vec<u8>> {
        self.read_payload_as(found, range, |how| match how {
            Read::Nowait => Err(Error::WouldBlock),
            Read::Blocking | Read::PastCache => Ok(Read::PastCache),
        })
    }

    fn read_payload_as(
        &self,
        found: &Found,
        range: Range<u32>,
        how_then: fn(Read) -> Result<Read>,
    ) -> Result<Vec<u8>> {
        let range = range.start..range.end.min(found.payload_len());
        let (snapshot, found) = (self.snapshot.clone(), found.clone());
        let mut buf = room_for(&range, found.payload_len());
        self.ask(move |how| {
            snapshot.read_payload_into(&found, range.clone(), how_then(how)?, &mut buf)?;
            Ok(std::mem::take(&mut buf))
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        mut f: impl FnMut(Read) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.engine.read_in_background(move |_, how| f(how)).wait()
    }
}
