//! The disks that are read: one, or several of a set. Shards count wherever they are, for they
//! never change; metadata only on the disks of which the newest generation says that it is theirs,
//! because others may have been away for long.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shardstore::file_disk::{FileDisk, OpenError};
use shardstore::rescue::{Rescue, Rescued};
use volume::rescue::{MEMBERSHIP_KEY, SLICES_KEY, Said, SetOnDisks, set_of};

/// What was read off all disks.
pub(super) struct Disks {
    all: Vec<(PathBuf, Rescue)>,
    /// Those whose metadata counts.
    metadata: Vec<usize>,
    /// What may be missing or old, in sentences.
    warnings: Vec<String>,
}

/// An entry and the disk that it is on.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) disk: usize,
    pub(super) rescued: Rescued<'a>,
}

/// Ends what is said of a place where no cullet disk is.
const WHAT_TO_NAME: &str =
    "; name the directory or block device that `cullet server` ran on, or a copy of it";

/// What stands for a set that is not known.
const NO_SET: [u8; 16] = [0; 16];

const MAY_SHOW_UP: &str = "objects that were deleted or overwritten may show up";

impl Disks {
    /// Reads them all.
    ///
    /// # Errors
    /// A sentence, if one of them cannot be read at all, or they are not of one set.
    pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Disks> {
        let mut all: Vec<(PathBuf, Rescue)> = Vec::new();
        for path in paths {
            let rescue = read(path)?;
            let identity = rescue.identity();
            for (other, known) in &all {
                let known = known.identity();
                // A disk without a superblock does not say which set it is of.
                let is_known = known.set != NO_SET && identity.set != NO_SET;
                anyhow::ensure!(
                    !is_known || known.set == identity.set,
                    "{} and {} are of different sets: name the disks of one",
                    other.display(),
                    path.display()
                );
                anyhow::ensure!(
                    known.disk != identity.disk,
                    "{} and {} are the same disk, or copies of one: name one of them",
                    other.display(),
                    path.display()
                );
            }
            all.push((path.clone(), rescue));
        }
        let said: Vec<Said> = all.iter().map(|(_, rescue)| said_of_set(rescue)).collect();
        let mut disks = Disks {
            metadata: (0..all.len()).collect(),
            all,
            warnings: Vec::new(),
        };
        if let Some(set) = set_of(&said) {
            disks.choose_metadata(&set);
        } else if disks.all.len() > 1 {
            disks.warnings.push(format!(
                "no disk says which of them hold the metadata now: {MAY_SHOW_UP}"
            ));
        }
        disks.warn_of_stale();
        Ok(disks)
    }

    fn choose_metadata(&mut self, set: &SetOnDisks) {
        let id = |at: usize| self.all[at].1.identity().disk;
        let missing: Vec<String> = set
            .members
            .iter()
            .filter(|member| !(0..self.all.len()).any(|at| id(at) == **member))
            .map(volume::uuid)
            .collect();
        if !missing.is_empty() {
            self.warnings.push(format!(
                "the set has {} disks, and {} of them were not named ({}): what too few of the \
                 others have is said to be damaged",
                set.members.len(),
                missing.len(),
                missing.join(", ")
            ));
        }
        for at in 0..self.all.len() {
            let (path, rescue) = &self.all[at];
            if rescue.identity().set == NO_SET && !set.members.contains(&id(at)) {
                self.warnings.push(format!(
                    "{} has no superblock, and the others do not know it: what is on it may be of \
                     another set",
                    path.display()
                ));
            }
        }
        let current: Vec<usize> = (0..self.all.len())
            .filter(|at| set.metadata.contains(&id(*at)))
            .collect();
        if current.is_empty() {
            self.warnings.push(format!(
                "none of the disks that hold the metadata was named; others have what was some \
                 time ago: {MAY_SHOW_UP}, and new ones are missing"
            ));
            return;
        }
        // One whose index is whole knows what was deleted.
        let is_whole = |at: &usize| !self.all[*at].1.may_be_stale();
        self.metadata = match current.iter().any(is_whole) {
            true => current.into_iter().filter(is_whole).collect(),
            false => current,
        };
    }

    fn warn_of_stale(&mut self) {
        for at in 0..self.all.len() {
            let (path, rescue) = &self.all[at];
            if !rescue.may_be_stale() {
                continue;
            }
            let what = match self.metadata.contains(&at) {
                true => MAY_SHOW_UP,
                false => "bodies that were deleted may show up",
            };
            self.warnings.push(format!(
                "{}: the disk's own list of what counts cannot be read: {what}",
                path.display()
            ));
        }
    }

    /// All entries of all disks; those that are no shards only of the disks whose count.
    pub(super) fn entries(&self) -> impl Iterator<Item = At<'_>> {
        let all = self.all.iter().enumerate();
        all.flat_map(move |(disk, (_, rescue))| {
            let counts = self.metadata.contains(&disk);
            let entries = rescue.entries().filter(move |rescued| {
                let key = volume::RawKey::decode(rescued.key);
                counts || matches!(key, volume::RawKey::Shard { .. })
            });
            entries.map(move |rescued| At { disk, rescued })
        })
    }

    /// Everything that an entry has as payload, verified.
    pub(super) fn read_payload(&self, at: &At<'_>) -> Result<Vec<u8>, String> {
        let (path, rescue) = &self.all[at.disk];
        let read = rescue.read_payload(&at.rescued, 0..at.rescued.payload_len());
        read.map_err(|error| match self.all.len() {
            1 => error.to_string(),
            _ => format!("{}: {error}", path.display()),
        })
    }

    /// Where disks are damaged, as far as it is listed.
    pub(super) fn damage(&self) -> impl Iterator<Item = String> {
        let count = self.all.len();
        self.all.iter().flat_map(move |(path, rescue)| {
            let damage = rescue.damage().iter();
            damage.map(move |error| match count {
                1 => error.to_string(),
                _ => format!("{}: {error}", path.display()),
            })
        })
    }

    /// How many places are damaged.
    pub(super) fn damage_count(&self) -> usize {
        self.all
            .iter()
            .map(|(_, rescue)| rescue.damage_count())
            .sum()
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn said_of_set(rescue: &Rescue) -> Said {
    let value = |key: &[u8]| {
        let mut behind = key.to_vec();
        behind.push(0);
        let found = rescue.range(key, &behind).next();
        found.map(|found| found.value.to_vec())
    };
    Said {
        membership: value(MEMBERSHIP_KEY),
        slices: value(SLICES_KEY),
    }
}

fn read(path: &Path) -> anyhow::Result<Rescue> {
    anyhow::ensure!(
        path.try_exists().unwrap_or(true),
        "{} does not exist{WHAT_TO_NAME}",
        path.display()
    );
    let disk = FileDisk::open_read_only(path).map_err(|error| match error {
        OpenError::Missing { .. } => anyhow::anyhow!("{error}{WHAT_TO_NAME}"),
        other => other.into(),
    })?;
    let mut progress = Progress::new(path);
    let rescue = Rescue::read(Arc::new(disk), |done, total| progress.show(done, total));
    progress.end();
    rescue.map_err(|error| match error {
        shardstore::Error::NotFormatted => anyhow::anyhow!(
            "{} is no cullet disk, or nothing is left of one: it has neither a superblock nor a \
             frame{WHAT_TO_NAME}",
            path.display()
        ),
        other => {
            anyhow::Error::new(other).context(format!("nothing on {} can be read", path.display()))
        }
    })
}

/// Says on a terminal how far reading is.
struct Progress<'a> {
    path: &'a Path,
    shown: bool,
}

impl Progress<'_> {
    fn new(path: &Path) -> Progress<'_> {
        Progress {
            path,
            shown: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, done: u32, total: u32) {
        if self.shown {
            eprint!(
                "\rreading {}: {done} of {total} extents",
                self.path.display()
            );
        }
    }

    fn end(&self) {
        if self.shown {
            eprintln!();
        }
    }
}
