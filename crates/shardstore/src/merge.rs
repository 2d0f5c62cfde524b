//! Reading several sorted sources as one: newest source first, merges folded, tombstones
//! skipped.

use std::collections::VecDeque;
use std::ops::Bound;

use crate::error::Result;
use crate::memtable::Memtable;
use crate::mutants::{self, Mutant};
use crate::record::{Content, Record};
use crate::sync::Arc;
use crate::table::{Table, TableCursor, TableReader};

/// A sorted source of records.
pub enum Source {
    Memtable(MemtableCursor),
    Level(LevelCursor),
}

impl Source {
    fn peek(&self) -> Option<&[u8]> {
        match self {
            Source::Memtable(cursor) => cursor.buffer.front().map(|(key, _)| &**key),
            Source::Level(cursor) => {
                let entry = cursor.current.as_ref().and_then(TableCursor::peek);
                entry.map(|(key, _)| key)
            }
        }
    }

    fn take(&mut self, reader: &TableReader<'_>) -> Result<Option<Record>> {
        match self {
            Source::Memtable(cursor) => Ok(cursor.take()),
            Source::Level(cursor) => cursor.take(reader),
        }
    }
}

/// Reads a memtable in pages, as a snapshot at one lsn sees it.
pub struct MemtableCursor {
    memtable: Arc<Memtable>,
    lsn: u64,
    to: Option<Box<[u8]>>,
    /// Empty only at the end.
    buffer: VecDeque<(Box<[u8]>, Option<Record>)>,
    next: Option<Box<[u8]>>,
}

impl MemtableCursor {
    const PAGE: usize = 128;

    /// `first`: how many entries are probably wanted.
    pub fn new(
        memtable: Arc<Memtable>,
        lsn: u64,
        from: &[u8],
        to: Option<&[u8]>,
        first: usize,
    ) -> Self {
        let to = to.filter(|_| !mutants::on(Mutant::M1)).map(Into::into);
        let mut cursor = MemtableCursor {
            memtable,
            lsn,
            to,
            buffer: VecDeque::new(),
            next: None,
        };
        cursor.fill(from, first);
        cursor
    }

    fn fill(&mut self, from: &[u8], limit: usize) {
        let from = Bound::Included(from);
        let page = self
            .memtable
            .range(from, self.to.as_deref(), self.lsn, limit);
        self.buffer = page.entries.into();
        self.next = page.next;
    }

    fn take(&mut self) -> Option<Record> {
        let (_, record) = self.buffer.pop_front()?;
        if self.buffer.is_empty()
            && let Some(next) = self.next.take()
        {
            self.fill(&next, Self::PAGE);
        }
        record
    }
}

/// Reads tables that follow each other in key order.
pub struct LevelCursor {
    rest: VecDeque<Arc<Table>>,
    current: Option<TableCursor>,
}

impl LevelCursor {
    /// Over `tables`, which are in key order and disjoint, from `from` on.
    pub fn new(
        tables: impl IntoIterator<Item = Arc<Table>>,
        from: &[u8],
        reader: &TableReader<'_>,
    ) -> Result<LevelCursor> {
        let mut cursor = LevelCursor {
            rest: tables.into_iter().collect(),
            current: None,
        };
        cursor.settle(from, reader)?;
        Ok(cursor)
    }

    fn settle(&mut self, from: &[u8], reader: &TableReader<'_>) -> Result<()> {
        while self
            .current
            .as_ref()
            .is_none_or(|cursor| cursor.peek().is_none())
        {
            let Some(table) = self.rest.pop_front() else {
                self.current = None;
                return Ok(());
            };
            self.current = Some(reader.seek(&table, from)?);
        }
        Ok(())
    }

    fn take(&mut self, reader: &TableReader<'_>) -> Result<Option<Record>> {
        let Some(cursor) = &mut self.current else {
            return Ok(None);
        };
        let taken = cursor.take(reader)?;
        self.settle(&[], reader)?;
        Ok(taken.map(|(_, record)| record))
    }
}

/// The merged view of several sources.
pub struct Merged {
    /// Newest first.
    sources: Vec<Source>,
}

/// What the next key of a merged view is.
enum Step {
    Entry(Box<[u8]>, Record),
    /// No source sees anything of it.
    Unseen,
    End,
}

/// What a walk with a bounded amount of work came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Walked {
    /// A live key with its record, merges settled.
    Live(Box<[u8]>, Record),
    /// The work is used up; the walk goes on at this key.
    Unfinished(Box<[u8]>),
    End,
}

impl Merged {
    pub fn new(sources: Vec<Source>) -> Merged {
        Merged { sources }
    }

    /// The first key that was not taken yet; `to` is exclusive.
    fn peek(&self, to: Option<&[u8]>) -> Option<&[u8]> {
        let key = self.sources.iter().filter_map(Source::peek).min()?;
        let past_end = |to: &[u8]| {
            if mutants::on(Mutant::M1) {
                key > to
            } else {
                key >= to
            }
        };
        (!to.is_some_and(past_end)).then_some(key)
    }

    fn step(&mut self, to: Option<&[u8]>, reader: &TableReader<'_>) -> Result<Step> {
        let Some(key) = self.peek(to) else {
            return Ok(Step::End);
        };
        let key: Box<[u8]> = key.into();
        let mut combined: Option<Record> = None;
        for source in &mut self.sources {
            if source.peek().is_none_or(|candidate| *candidate != *key) {
                continue;
            }
            let Some(record) = source.take(reader)? else {
                continue;
            };
            combined = Some(match combined {
                None => record,
                Some(newer) => newer.over(&record),
            });
        }
        Ok(combined.map_or(Step::Unseen, |record| Step::Entry(key, record)))
    }

    /// The next key with its combined record, tombstones included; `to` is exclusive.
    pub fn next(
        &mut self,
        to: Option<&[u8]>,
        reader: &TableReader<'_>,
    ) -> Result<Option<(Box<[u8]>, Record)>> {
        loop {
            match self.step(to, reader)? {
                Step::Entry(key, record) => return Ok(Some((key, record))),
                Step::Unseen => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// The next key that lives. Takes one unit of `work` for each key that it looks at, a
    /// page's worth for a page of a memtable of which nothing is seen, and ends when there is
    /// none left: tombstones may be many.
    pub fn next_live(
        &mut self,
        to: Option<&[u8]>,
        work: &mut usize,
        reader: &TableReader<'_>,
    ) -> Result<Walked> {
        while *work > 0 {
            let cost = match self.step(to, reader)? {
                Step::Entry(_, record) if matches!(record.content, Content::Delete) => 1,
                Step::Entry(key, record) => {
                    *work -= 1;
                    return Ok(Walked::Live(key, record.settled()));
                }
                Step::Unseen => MemtableCursor::PAGE,
                Step::End => return Ok(Walked::End),
            };
            *work = work.saturating_sub(cost);
        }
        let next = self.peek(to).map(Into::into);
        Ok(next.map_or(Walked::End, Walked::Unfinished))
    }
}

/// The smallest byte string greater than every one that begins with `prefix`; `None` if there
/// is none.
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut out = prefix[..=last].to_vec();
    out[last] += 1;
    Some(out)
}
