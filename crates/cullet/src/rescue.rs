//! `cullet rescue`: objects from disks without a server.
//!
//! A disk is read in three steps: the engine's entries ([`shardstore::rescue`]), what they mean
//! ([`objects::rescue`]), and here what belongs together: records with their bodies, and
//! bodies whose record is lost.

mod export;
mod inventory;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shardstore::file_disk::{FileDisk, OpenError};
use shardstore::rescue::Rescue;

use crate::UsageError;
use crate::cli::{RescueAction, RescueArgs};
use crate::time_text::rfc3339_millis;
use inventory::{Inventory, Item};

/// Runs `cullet rescue`.
///
/// # Errors
/// A sentence that says what went wrong; also if something on the disk is damaged.
pub fn run(args: RescueArgs) -> anyhow::Result<()> {
    match args.action {
        RescueAction::List { quick, disks } => {
            let rescue = read(&disks)?;
            let inventory = Inventory::new(&rescue);
            let damaged = list(&inventory, quick)?;
            eprintln!("{} objects, {damaged} of them damaged", inventory.len());
            conclude(&rescue, &inventory, damaged, 0)
        }
        RescueAction::Export {
            to,
            bucket,
            prefix,
            disks,
        } => {
            let rescue = read(&disks)?;
            let inventory = Inventory::new(&rescue);
            let wanted = |item: &Item<'_>| {
                bucket.as_ref().is_none_or(|bucket| *bucket == item.bucket)
                    && item.key.starts_with(&prefix)
            };
            let exported = export::export(&inventory, &to, wanted);
            if exported.is_err() {
                report_damage(&rescue, &inventory);
            }
            let exported = exported?;
            let found = exported.written + exported.damaged + exported.failed;
            anyhow::ensure!(
                found > 0 || (bucket.is_none() && prefix.is_empty()),
                "nothing on the disk is in such a bucket and begins like that: `cullet rescue \
                 list` shows what there is"
            );
            conclude(&rescue, &inventory, exported.damaged, exported.failed)
        }
    }
}

fn read(disks: &[PathBuf]) -> anyhow::Result<Rescue> {
    let [path] = disks else {
        return Err(UsageError::new(format!(
            "{} disks were named, but sets of several disks are not there yet: name one",
            disks.len()
        ))
        .into());
    };
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

/// Ends what is said of a place where no cullet disk is.
const WHAT_TO_NAME: &str =
    "; name the directory or block device that `cullet server` ran on, or a copy of it";

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

/// Prints every object; returns how many are damaged.
fn list(inventory: &Inventory<'_>, quick: bool) -> anyhow::Result<usize> {
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let mut damaged = 0;
    for item in inventory.items() {
        let state = match if quick {
            item.check()
        } else {
            item.verify(inventory.rescue)
        } {
            Ok(()) => match &item.orphan {
                None => "ok".to_owned(),
                Some(orphan) => format!("{} (body {})", orphan.relation, orphan.blob),
            },
            Err(what) => {
                damaged += 1;
                format!("DAMAGED ({what})")
            }
        };
        let modified = rfc3339_millis(item.record.head.modified.as_millis());
        let size = item.record.head.size;
        writeln!(
            output,
            "{modified} {size:>14} {}/{} {state}",
            item.bucket,
            printable(&item.key)
        )?;
    }
    output.flush()?;
    Ok(damaged)
}

/// A key on one line.
fn printable(key: &str) -> String {
    let mut line = String::with_capacity(key.len());
    for character in key.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

fn report_damage(rescue: &Rescue, inventory: &Inventory<'_>) {
    for damage in rescue
        .damage()
        .iter()
        .map(ToString::to_string)
        .chain(inventory.unreadable())
    {
        eprintln!("damage: {damage}");
    }
    if rescue.may_be_stale() {
        eprintln!(
            "the disk's own list of what counts cannot be read: objects that were deleted or \
             overwritten may show up"
        );
    }
}

/// The summary on standard error, and the verdict.
fn conclude(
    rescue: &Rescue,
    inventory: &Inventory<'_>,
    damaged: usize,
    failed: usize,
) -> anyhow::Result<()> {
    report_damage(rescue, inventory);
    let entries = rescue.damage_count() + inventory.unreadable().count();
    anyhow::ensure!(
        damaged == 0 && entries == 0,
        "{damaged} objects are damaged, and {entries} places of the disk could not be read{}",
        match failed {
            0 => String::new(),
            _ => format!("; {failed} whole objects could not be written"),
        }
    );
    anyhow::ensure!(
        failed == 0,
        "{failed} objects are whole, but could not be written: what is said of each stands above"
    );
    Ok(())
}
