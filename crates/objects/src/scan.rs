//! Walks over a range of a view in bounded chunks, and can skip ahead.

use std::collections::VecDeque;

use volume::MetaEntry;

use crate::Result;
use crate::limits::{SCAN_CHUNK_MAX, SCAN_CHUNK_MIN};
use crate::meta_store::MetaView;

/// A walk. Holds at most one chunk: twice as many entries as the last time when all of it
/// was wanted, few again after a skip, so that skipping costs little.
pub(crate) struct Scan<'a> {
    view: &'a dyn MetaView,
    /// Where the next chunk starts; `None`: there is none.
    from: Option<Vec<u8>>,
    to: Vec<u8>,
    fetched: VecDeque<MetaEntry>,
    chunk: usize,
}

impl<'a> Scan<'a> {
    /// Entries with `from <= key < to`, `chunk` of them at first.
    pub(crate) fn new(
        view: &'a dyn MetaView,
        from: Vec<u8>,
        to: Vec<u8>,
        chunk: usize,
    ) -> Scan<'a> {
        let chunk = chunk.clamp(1, SCAN_CHUNK_MAX);
        Scan {
            view,
            from: Some(from),
            to,
            fetched: VecDeque::new(),
            chunk,
        }
    }

    /// The next entry.
    pub(crate) async fn next(&mut self) -> Result<Option<MetaEntry>> {
        while self.fetched.is_empty() {
            let Some(from) = self.from.take().filter(|from| *from < self.to) else {
                return Ok(None);
            };
            let page = self.view.scan(&from, &self.to, self.chunk).await?;
            self.fetched = page.entries.into();
            self.from = page.next;
            self.chunk = (self.chunk * 2).min(SCAN_CHUNK_MAX);
        }
        Ok(self.fetched.pop_front())
    }

    /// Goes on at the first entry at or behind `key`.
    pub(crate) fn skip_to(&mut self, key: Vec<u8>) {
        let passed = self.fetched.partition_point(|entry| entry.key < key);
        self.fetched.drain(..passed);
        let behind = |from: &Vec<u8>| *from < key;
        if self.fetched.is_empty() && self.from.as_ref().is_some_and(behind) {
            self.from = Some(key);
            self.chunk = SCAN_CHUNK_MIN;
        }
    }
}
