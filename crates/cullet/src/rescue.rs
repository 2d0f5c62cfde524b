//! `cullet rescue`: objects from disks without a server.
//!
//! Disks are read in three steps: the engines' entries ([`shardstore::rescue`]), what they mean
//! ([`objects::rescue`]), and here what belongs together: the disks of a set, records with their
//! bodies, and bodies whose record is lost.

mod disks;
mod export;
mod inventory;

use std::io::Write;

use crate::cli::{RescueAction, RescueArgs};
use crate::time_text::rfc3339_millis;
use disks::Disks;
use inventory::{Inventory, Item};

/// Runs `cullet rescue`.
///
/// # Errors
/// A sentence that says what went wrong; also if something on the disk is damaged.
pub fn run(args: RescueArgs) -> anyhow::Result<()> {
    match args.action {
        RescueAction::List { quick, disks } => {
            let disks = Disks::read(&disks)?;
            let inventory = Inventory::new(&disks);
            let damaged = list(&inventory, quick)?;
            eprintln!("{} objects, {damaged} of them damaged", inventory.len());
            conclude(&inventory, damaged, 0)
        }
        RescueAction::Export {
            to,
            bucket,
            prefix,
            disks,
        } => {
            let disks = Disks::read(&disks)?;
            let inventory = Inventory::new(&disks);
            let wanted = |item: &Item<'_>| {
                bucket.as_ref().is_none_or(|bucket| *bucket == item.bucket)
                    && item.key.starts_with(&prefix)
            };
            let exported = export::export(&inventory, &to, wanted);
            if exported.is_err() {
                report_damage(&inventory);
            }
            let exported = exported?;
            let found = exported.written + exported.damaged + exported.failed;
            anyhow::ensure!(
                found > 0 || (bucket.is_none() && prefix.is_empty()),
                "nothing that was read is in such a bucket and begins like that: `cullet rescue \
                 list` shows what there is"
            );
            conclude(&inventory, exported.damaged, exported.failed)
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
            item.verify(inventory.disks)
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

fn report_damage(inventory: &Inventory<'_>) {
    for damage in inventory.disks.damage().chain(inventory.unreadable()) {
        eprintln!("damage: {damage}");
    }
    for warning in inventory.disks.warnings() {
        eprintln!("{warning}");
    }
}

/// The summary on standard error, and the verdict.
fn conclude(inventory: &Inventory<'_>, damaged: usize, failed: usize) -> anyhow::Result<()> {
    report_damage(inventory);
    let entries = inventory.disks.damage_count() + inventory.unreadable().count();
    anyhow::ensure!(
        damaged == 0 && entries == 0,
        "{damaged} objects are damaged, and {entries} places could not be read{}",
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
