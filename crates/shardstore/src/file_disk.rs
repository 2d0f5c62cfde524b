//! A disk in a file: one inode however many objects, locked against a second process.
//!
//! Reads go through the page cache with `preadv2`; [`Read::PastCache`] uses a second
//! descriptor with `O_DIRECT`, or drops the range from the cache first where that is not to
//! be had. Ranges are written ahead with zeros, so that appends change no metadata and a
//! flush is one flush.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FlockOperation, OFlags};
use rustix::io::ReadWriteFlags;

use crate::disk::{Disk, DiskError, Read};
use crate::limits::PAGE;
use crate::sync::{Mutex, lock};

/// The file's name in a data directory.
pub const FILE_NAME: &str = "cullet.disk";

/// Most buffers that one `pwritev` takes.
const IOV_MAX: usize = 1024;

/// Zeros that one write lays down; small, so that a foreground flush never waits for many.
const PREPARE_BYTES: usize = 1024 * 1024;

/// Why a directory cannot be used as a disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{path} is in use: by another process, which has to be stopped first, or by a server that \
         has it as one of its disks already"
    )]
    InUse {
        /// The disk's file.
        path: PathBuf,
    },
    /// The directory holds other things.
    #[error("{path} is not empty and holds no cullet data; name an empty or a new directory")]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// A file stands where a directory is wanted.
    #[error("{path} is a file; name a directory, or a block device")]
    NoDirectory {
        /// The file.
        path: PathBuf,
    },
    /// It must exist already, and does not.
    #[error("{path} holds no cullet data")]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

/// A disk in the file [`FILE_NAME`] of a directory, or on a block device.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    /// For writing ahead. Linux reports a failed writeback once to each open of a file, so this
    /// one must not take the error that belongs to a commit's flush.
    ahead: Option<File>,
    direct: Option<File>,
    /// Of a file that is written to: its path, to see whether it still leads there.
    path: Option<PathBuf>,
    /// Bytes of what cannot grow: a block device, or a disk that is only read.
    fixed_bytes: Option<u64>,
    /// The first failed flush. Held over a flush, so that of two at the same time both fail.
    flush_failure: Mutex<Option<DiskError>>,
}

impl FileDisk {
    /// Opens a disk and locks it. With `create`, an empty or missing directory becomes one.
    ///
    /// # Errors
    /// [`OpenError`] says which path and what to do.
    pub fn open(path: &Path, create: bool) -> Result<FileDisk, OpenError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { what, path, source }
        };
        let is_device = is_block_device(path);
        if path.is_file() {
            return Err(OpenError::NoDirectory {
                path: path.to_owned(),
            });
        }
        let file_path = if is_device {
            path.to_owned()
        } else {
            path.join(FILE_NAME)
        };
        let is_new = !is_device && !file_path.exists();
        if is_new {
            if !create {
                return Err(OpenError::Missing {
                    path: path.to_owned(),
                });
            }
            std::fs::create_dir_all(path).map_err(failed("create", path))?;
            check_empty(path)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let mut own = options.clone();
        own.create(is_new).mode(0o600);
        if is_device {
            // Held against every node of the device, and against whatever has it mounted.
            own.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let file =
            own.open(&file_path).map_err(|source| {
                match rustix::io::Errno::from_io_error(&source) {
                    Some(rustix::io::Errno::BUSY) => OpenError::InUse {
                        path: file_path.clone(),
                    },
                    _ => failed("open", &file_path)(source),
                }
            })?;
        lock_file(&file, &file_path, FlockOperation::NonBlockingLockExclusive)?;
        let ahead = options
            .open(&file_path)
            .map_err(failed("open", &file_path))?;
        if !is_device {
            // The entries that lead to the file must survive as well as its content. At every
            // start, because the one that made them may have been cut off.
            let sync = |path: &Path| File::open(path).and_then(|directory| directory.sync_all());
            sync(path).map_err(failed("flush", path))?;
            let parent = path.canonicalize().ok();
            if let Some(parent) = parent.as_deref().and_then(Path::parent) {
                let synced = sync(parent);
                // Whoever may not read the parent has not made the directory just now.
                if is_new {
                    synced.map_err(failed("flush", parent))?;
                }
            }
        }
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(&file_path)
            .ok();
        let fixed_bytes = match is_device {
            true => {
                use std::io::Seek;
                let size = (&file).seek(std::io::SeekFrom::End(0));
                Some(size.map_err(failed("measure", &file_path))?)
            }
            false => None,
        };
        Ok(FileDisk {
            file,
            ahead: Some(ahead),
            direct,
            path: (!is_device).then_some(file_path),
            fixed_bytes,
            flush_failure: Mutex::new(None),
        })
    }

    /// Opens a disk for reading only. Readers may share it; a server that runs on it keeps them
    /// out, because what is read while it writes is no state that the disk ever had.
    ///
    /// # Errors
    /// [`OpenError`] says which path and what to do.
    pub fn open_read_only(path: &Path) -> Result<FileDisk, OpenError> {
        let file_path = match path.is_dir() {
            true => path.join(FILE_NAME),
            false => path.to_owned(),
        };
        if !file_path.exists() {
            return Err(OpenError::Missing {
                path: path.to_owned(),
            });
        }
        let failed = |source| OpenError::Io {
            what: "open",
            path: file_path.clone(),
            source,
        };
        let file = File::open(&file_path).map_err(failed)?;
        lock_file(&file, &file_path, FlockOperation::NonBlockingLockShared)?;
        use std::io::Seek;
        let len = (&file).seek(std::io::SeekFrom::End(0)).map_err(failed)?;
        Ok(FileDisk {
            file,
            ahead: None,
            direct: None,
            path: None,
            fixed_bytes: Some(len),
            flush_failure: Mutex::new(None),
        })
    }

    fn read_direct(&self, direct: &File, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let start = offset / PAGE as u64 * PAGE as u64;
        let end = (offset + buf.len() as u64).next_multiple_of(PAGE as u64);
        let mut aligned = vec![0u8; (end - start) as usize + PAGE];
        let shift = aligned.as_ptr().align_offset(PAGE);
        let span = &mut aligned[shift..shift + (end - start) as usize];
        let mut filled = 0;
        while filled < span.len() {
            match direct.read_at(&mut span[filled..], start + filled as u64) {
                Ok(0) => break,
                // The file's end is not on a page: what is missing reads as zeros.
                Ok(n) if n % PAGE != 0 => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let from = (offset - start) as usize;
        buf.copy_from_slice(&span[from..from + buf.len()]);
        Ok(())
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8], nowait: bool) -> std::io::Result<()> {
        let flags = if nowait {
            ReadWriteFlags::NOWAIT
        } else {
            ReadWriteFlags::empty()
        };
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset + filled as u64;
            let mut slices = [IoSliceMut::new(&mut buf[filled..])];
            match rustix::io::preadv2(&self.file, &mut slices, at, flags) {
                Ok(0) => {
                    buf[filled..].fill(0);
                    return Ok(());
                }
                Ok(n) => filled += n,
                Err(rustix::io::Errno::INTR) => {}
                // Not every file system knows the flag; then only a thread may read.
                Err(rustix::io::Errno::OPNOTSUPP) if nowait => {
                    return Err(std::io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn is_block_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Whether a directory may become a disk: nothing else is in it.
///
/// # Errors
/// [`OpenError::Foreign`], or what the operating system says.
pub fn check_empty(path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io {
        what: "list",
        path: path.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // A fresh file system has this; cullet's own settings begin with its name.
        let harmless = name == "lost+found" || name.to_string_lossy().starts_with("cullet.");
        if !harmless {
            return Err(OpenError::Foreign {
                path: path.to_owned(),
            });
        }
    }
    Ok(())
}

fn lock_file(file: &File, path: &Path, how: FlockOperation) -> Result<(), OpenError> {
    match rustix::fs::flock(file, how) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse {
            path: path.to_owned(),
        }),
        Err(error) => Err(OpenError::Io {
            what: "lock",
            path: path.to_owned(),
            source: error.into(),
        }),
    }
}

impl FileDisk {
    /// Bytes that the file has, those behind its end included that are reserved.
    fn allocated(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let metadata = self.file.metadata();
        metadata.map_or(0, |has| has.len().max(has.blocks().saturating_mul(512)))
    }
}

impl Disk for FileDisk {
    /// Of a file: what it has, and what the file system could still give it.
    fn capacity(&self) -> u64 {
        self.fixed_bytes.unwrap_or_else(|| {
            let has = self.allocated();
            let free = rustix::fs::fstatvfs(&self.file)
                .map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
            has.saturating_add(free)
        })
    }

    /// The file was deleted or replaced, or its file system was unmounted beneath its path.
    fn vanished(&self) -> Option<String> {
        let path = self.path.as_ref()?;
        let opened = self.file.metadata().ok()?;
        let is_same =
            |found: &std::fs::Metadata| (found.dev(), found.ino()) == (opened.dev(), opened.ino());
        match path.metadata() {
            Ok(found) if is_same(&found) => None,
            Ok(_) => Some(format!("another file stands at {}", path.display())),
            Err(error) => Some(format!("{} is gone: {error}", path.display())),
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8], how: Read) -> Result<(), DiskError> {
        let len = buf.len() as u64;
        let read = match (how, &self.direct) {
            (Read::PastCache, Some(direct)) => self.read_direct(direct, offset, buf),
            (Read::PastCache, None) => {
                // Only clean pages are dropped, and what is verified was flushed before.
                let range = std::num::NonZeroU64::new(len);
                let _ = rustix::fs::fadvise(&self.file, offset, range, Advice::DontNeed);
                self.read_cached(offset, buf, false)
            }
            (how, _) => self.read_cached(offset, buf, how == Read::Nowait),
        };
        read.map_err(|error| DiskError::from_io("read", offset, len, &error))
    }

    fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), DiskError> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let mut at = offset;
        for some in bufs.chunks(IOV_MAX) {
            let mut slices: Vec<IoSlice<'_>> = some.iter().map(|buf| IoSlice::new(buf)).collect();
            let mut slices = &mut slices[..];
            while !slices.is_empty() {
                match rustix::io::pwritev(&self.file, slices, at) {
                    Ok(0) => {
                        let error = std::io::ErrorKind::WriteZero.into();
                        return Err(DiskError::from_io("write", offset, len, &error));
                    }
                    Ok(n) => {
                        at += n as u64;
                        IoSlice::advance_slices(&mut slices, n);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => {
                        return Err(DiskError::from_io("write", offset, len, &error.into()));
                    }
                }
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        let mut failure = lock(&self.flush_failure);
        if let Some(error) = &*failure {
            return Err(error.clone());
        }
        let flushed = self.file.sync_data();
        let flushed = flushed.map_err(|error| DiskError::from_io("flush", 0, 0, &error));
        *failure = flushed.as_ref().err().cloned();
        flushed
    }

    fn reserve(&self, end: u64) -> Result<(), DiskError> {
        use rustix::fs::FallocateFlags;
        // The file's length says what was zeroed, so it must not change.
        let has = self.file.metadata().map_or(0, |metadata| metadata.len());
        if self.fixed_bytes.is_some() || has >= end {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, has, end - has) {
            Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
                let error = std::io::ErrorKind::StorageFull.into();
                Err(DiskError::from_io("reserve", has, end - has, &error))
            }
            // Not every file system can.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn forget(&self, offset: u64, len: u64) {
        if let Some(file) = &self.ahead {
            // Advice: that it is not taken changes nothing.
            let len = std::num::NonZeroU64::new(len);
            let _ = rustix::fs::fadvise(file, offset, len, rustix::fs::Advice::DontNeed);
        }
    }

    fn prepare(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let failed = |error: std::io::Error| DiskError::from_io("prepare", offset, len, &error);
        let Some(file) = &self.ahead else {
            return Err(failed(std::io::ErrorKind::ReadOnlyFilesystem.into()));
        };
        let has = file.metadata().map_err(failed)?.len();
        // The file grows only here and by the superblock's area, so what it has is prepared.
        let mut at = offset.max(has);
        let zeros = vec![0; PREPARE_BYTES];
        while at < offset + len {
            let part = (offset + len - at).min(PREPARE_BYTES as u64) as usize;
            match file.write_at(&zeros[..part], at) {
                Ok(0) => return Err(failed(std::io::ErrorKind::WriteZero.into())),
                Ok(n) => at += n as u64,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
            if let Err(error) = file.sync_data() {
                let error = failed(error);
                lock(&self.flush_failure).get_or_insert(error.clone());
                return Err(error);
            }
        }
        // Zeros that are going to be written over: memory has better uses.
        let from = offset.max(has);
        self.forget(from, (offset + len).saturating_sub(from));
        Ok(())
    }
}

/// Writes a small file so that it is there whole or not at all, readable by its owner alone.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    // What a crash left, with whatever mode it has. A file that cannot be removed is in the way
    // of the next step, which says so.
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
