//! A disk whose SIGKILL is a power cut: writes stay in this process's memory until a flush,
//! and only then go to the file.
//!
//! What must hold, so that a crash of the process is a crash of the disk:
//! - the file never holds a byte of a write that no flush asked for, except a few pages
//!   that are written early and out of order on purpose (a real disk may do that);
//! - a flush writes its pages in random order, so that a kill in the middle of one leaves
//!   any subset behind;
//! - a page is written whole or not at all (the file's pages are the system's).
//!
//! A *lying* disk honours one flush in [`HONEST_ONE_IN`]; at the others it says `Ok` and keeps
//! the pages in memory. The torture must notice; that is how it is known to be able to.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use shardstore::{Disk, DiskError, Read};

use crate::random::Random;

const PAGE: usize = 4096;

/// How often a lying disk does what a flush asks for.
const HONEST_ONE_IN: u64 = 4;

/// `None` is a page of zeros.
type Page = Option<Box<[u8; PAGE]>>;

#[derive(Debug)]
struct State {
    /// Written and not yet asked to be durable.
    dirty: BTreeMap<u64, Page>,
    /// What the flush that runs now is writing.
    flushing: BTreeMap<u64, Page>,
    random: Random,
}

/// See the module.
#[derive(Debug)]
pub struct VolatileDisk {
    file: File,
    capacity: u64,
    lying: bool,
    state: Mutex<State>,
    one_flush: Mutex<()>,
}

impl VolatileDisk {
    /// Opens or creates the file.
    pub fn open(
        path: &Path,
        capacity: u64,
        seed: u64,
        lying: bool,
    ) -> std::io::Result<VolatileDisk> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if file.metadata()?.len() < capacity {
            file.set_len(capacity)?;
        }
        let state = State {
            dirty: BTreeMap::new(),
            flushing: BTreeMap::new(),
            random: Random::new(seed),
        };
        Ok(VolatileDisk {
            file,
            capacity,
            lying,
            state: Mutex::new(state),
            one_flush: Mutex::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread panics while it holds the disk")
    }

    /// One page as a reader sees it now.
    fn page(&self, state: &State, number: u64) -> std::io::Result<Box<[u8; PAGE]>> {
        let mut bytes = Box::new([0; PAGE]);
        match state
            .dirty
            .get(&number)
            .or_else(|| state.flushing.get(&number))
        {
            Some(None) => {}
            Some(Some(page)) => bytes.copy_from_slice(&page[..]),
            None => read_file(&self.file, number * PAGE as u64, &mut bytes[..])?,
        }
        Ok(bytes)
    }

    fn persist(&self, number: u64, page: &Page) -> std::io::Result<()> {
        let zeros = [0; PAGE];
        let bytes: &[u8; PAGE] = page.as_deref().unwrap_or(&zeros);
        self.file.write_all_at(bytes, number * PAGE as u64)
    }

    /// Sometimes a page reaches the file without having been asked to.
    fn leak(&self, state: &mut State) -> std::io::Result<()> {
        if !state.flushing.is_empty() || !state.random.one_in(4) {
            return Ok(());
        }
        let nth = state.random.below(state.dirty.len() as u64) as usize;
        match state.dirty.iter().nth(nth) {
            Some((number, page)) => self.persist(*number, page),
            None => Ok(()),
        }
    }
}

fn read_file(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset)? {
            0 => break,
            count => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
        }
    }
    buffer.fill(0);
    Ok(())
}

impl Disk for VolatileDisk {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn read(&self, offset: u64, buffer: &mut [u8], how: Read) -> Result<(), DiskError> {
        let length = buffer.len() as u64;
        let failed = |error| DiskError::from_io("read", offset, length, &error);
        let mut state = self.state();
        // Half of the reads that must not wait are told that they would.
        if how == Read::Nowait && state.random.one_in(2) {
            return Err(DiskError::WouldBlock);
        }
        let mut at = 0;
        while at < buffer.len() {
            let position = offset + at as u64;
            let within = (position % PAGE as u64) as usize;
            let count = (PAGE - within).min(buffer.len() - at);
            let page = self.page(&state, position / PAGE as u64).map_err(failed)?;
            buffer[at..at + count].copy_from_slice(&page[within..within + count]);
            at += count;
        }
        Ok(())
    }

    fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), DiskError> {
        let bytes = bufs.concat();
        let failed = |error| DiskError::from_io("write", offset, bytes.len() as u64, &error);
        let mut state = self.state();
        let mut at = 0;
        while at < bytes.len() {
            let position = offset + at as u64;
            let number = position / PAGE as u64;
            let within = (position % PAGE as u64) as usize;
            let count = (PAGE - within).min(bytes.len() - at);
            let mut page = self.page(&state, number).map_err(failed)?;
            page[within..within + count].copy_from_slice(&bytes[at..at + count]);
            state.dirty.insert(number, Some(page));
            at += count;
        }
        self.leak(&mut state).map_err(failed)
    }

    fn flush(&self) -> Result<(), DiskError> {
        let _one = self
            .one_flush
            .lock()
            .expect("no thread panics while it flushes");
        let order = {
            let mut state = self.state();
            if self.lying && !state.random.one_in(HONEST_ONE_IN) {
                return Ok(());
            }
            state.flushing = std::mem::take(&mut state.dirty);
            let mut order: Vec<u64> = state.flushing.keys().copied().collect();
            shuffle(&mut order, &mut state.random);
            order
        };
        for number in order {
            // Only this function, of which one runs at a time, changes `flushing`.
            let page = self.state().flushing.get(&number).cloned().flatten();
            self.persist(number, &page).map_err(|error| {
                DiskError::from_io("flush", number * PAGE as u64, PAGE as u64, &error)
            })?;
        }
        self.state().flushing.clear();
        Ok(())
    }

    fn prepare(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let mut state = self.state();
        for number in offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64) {
            state.dirty.insert(number, None);
        }
        Ok(())
    }
}

fn shuffle(order: &mut [u64], random: &mut Random) {
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("torture-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Scratch(path)
        }

        fn open(&self, lying: bool) -> VolatileDisk {
            VolatileDisk::open(&self.0, 1 << 20, 7, lying).expect("a scratch file")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn read(disk: &VolatileDisk, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        disk.read(offset, &mut bytes, Read::Blocking)
            .expect("a read");
        bytes
    }

    #[test]
    fn only_a_flush_outlives_the_process() {
        let scratch = Scratch::new("flush");
        let disk = scratch.open(false);
        disk.write(4000, &[b"kept", &[1; 200]]).expect("a write");
        disk.flush().expect("a flush");
        for page in 10..110 {
            disk.write(page * PAGE as u64, &[&[2; PAGE]])
                .expect("a write");
        }
        assert_eq!(read(&disk, 4000, 5), b"kept\x01");
        assert_eq!(
            read(&disk, 10 * PAGE as u64, 100 * PAGE),
            vec![2; 100 * PAGE]
        );
        // Dropped as a kill would drop it.
        let disk = scratch.open(false);
        assert_eq!(read(&disk, 4000, 5), b"kept\x01");
        let left = (10..110)
            .filter(|page| read(&disk, page * PAGE as u64, 1) == [2])
            .count();
        assert!(
            (1..60).contains(&left),
            "a few pages are early, most are lost: {left}"
        );
    }

    #[test]
    fn prepared_ranges_read_as_zeros_and_are_flushed_as_such() {
        let scratch = Scratch::new("prepare");
        let disk = scratch.open(false);
        disk.write(0, &[&[3; 2 * PAGE]]).expect("a write");
        disk.flush().expect("a flush");
        disk.prepare(PAGE as u64, PAGE as u64).expect("a range");
        assert_eq!(
            read(&disk, 0, 2 * PAGE),
            [vec![3; PAGE], vec![0; PAGE]].concat()
        );
        disk.flush().expect("a flush");
        assert_eq!(read(&scratch.open(false), PAGE as u64, 2), [0, 0]);
    }

    #[test]
    fn a_lying_disk_loses_what_it_said_was_durable() {
        let scratch = Scratch::new("lying");
        let disk = scratch.open(true);
        let lost = (0..200u64).any(|page| {
            disk.write(page * PAGE as u64, &[&[4; PAGE]])
                .expect("a write");
            disk.flush().expect("a flush");
            read(&scratch.open(true), page * PAGE as u64, 1) == [0]
        });
        assert!(lost);
    }
}
