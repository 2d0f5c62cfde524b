//! Objects as files.
//!
//! A key becomes a path: its slashes separate directories. What a file system cannot take is
//! written with a `%`, which in keys itself becomes `%25`, so that no two keys meet:
//!
//! | in the key | in the path |
//! |---|---|
//! | control characters, `%` | `%XX` |
//! | nothing between two slashes, or before the first | `%` |
//! | `.` and `..` between slashes | `%2E`, `%2E%2E` |
//! | more than 200 bytes between slashes | pieces of 200 bytes at most; all but the last end in `%-` |
//! | a key that is also the beginning of others, as `a` beside `a/b` | `a%object` |
//! | a body without a record, of which one key may have many | `_no-record/BUCKET/KEY%body-NAME` |
//!
//! `objects.jsonl` says which file is which object, with its metadata. What goes wrong with one
//! file (its path is too long for the target, say) is that file's: it is told and counted, and
//! the export goes on. Only when the target takes nothing more does it end.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::inventory::{Inventory, Item};
use crate::access_log::json_string;
use crate::time_text::rfc3339_millis;

/// Longest name of a file that is written; file systems take 255 bytes, less what is added.
const NAME_BYTES_MAX: usize = 200;

/// Where bodies without a record go; no bucket can have this name.
const ORPHANS: &str = "_no-record";

/// The list of everything that was exported.
const LIST: &str = "objects.jsonl";

/// What became of an export.
pub(super) struct Exported {
    /// Objects that are damaged. They are not written.
    pub(super) damaged: usize,
    /// Whole objects that could not be written.
    pub(super) failed: usize,
    /// Objects that were written.
    pub(super) written: usize,
}

/// Writes every object that is `wanted` below `to`.
///
/// # Errors
/// A sentence, if the target cannot be used or takes nothing more.
pub(super) fn export(
    inventory: &Inventory<'_>,
    to: &Path,
    wanted: impl Fn(&Item<'_>) -> bool,
) -> anyhow::Result<Exported> {
    prepare(to)?;
    let list_path = to.join(LIST);
    let list = File::create_new(&list_path);
    let list = list.with_context(|| format!("cannot create {}", list_path.display()))?;
    let mut list = BufWriter::new(list);
    let keys: BTreeSet<(&str, &str)> = inventory
        .items()
        .filter(|item| item.orphan.is_none())
        .map(|item| (item.bucket.as_str(), item.key.as_str()))
        .collect();
    let mut exported = Exported {
        damaged: 0,
        failed: 0,
        written: 0,
    };
    for item in inventory.items().filter(|item| wanted(item)) {
        let relative = relative_path(item, is_directory_too(&keys, item));
        let name = || format!("{}/{}", item.bucket, item.key.escape_debug());
        match write_object(inventory, item, &to.join(&relative)) {
            Ok(()) => {
                writeln!(list, "{}", line(item, &relative))
                    .with_context(|| gave_up(&list_path, exported.written))?;
                exported.written += 1;
            }
            Err(Failure::Damaged(what)) => {
                eprintln!("damage: {} was not written: {what}", name());
                exported.damaged += 1;
            }
            Err(Failure::Io(error)) if ends_everything(&error) => {
                // What was written is of use only with its list.
                let _ = list.flush();
                return Err(error).with_context(|| gave_up(&to.join(&relative), exported.written));
            }
            Err(Failure::Io(error)) => {
                eprintln!("{} is whole, but was not written: {error}", name());
                exported.failed += 1;
            }
        }
    }
    let written = exported.written;
    list.flush().with_context(|| gave_up(&list_path, written))?;
    eprintln!(
        "{written} of {} objects were written below {}",
        inventory.len(),
        to.display()
    );
    Ok(exported)
}

fn gave_up(path: &Path, written: usize) -> String {
    format!(
        "the export ended after {written} objects, because {} cannot be written; make room, and \
         export again into an empty directory (--bucket and --prefix choose a part)",
        path.display()
    )
}

/// Whether every further file would meet the same error.
fn ends_everything(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
    )
}

enum Failure {
    Damaged(String),
    Io(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Io(error)
    }
}

fn prepare(to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut entries = to
        .read_dir()
        .with_context(|| format!("cannot list {}", to.display()))?;
    if entries.next().is_some() {
        anyhow::bail!(
            "{} is not empty: export into an empty or new directory",
            to.display()
        );
    }
    Ok(())
}

/// Reads everything before anything is written, so that no damaged file is left behind; but
/// piece by piece, so that an object's size never matters.
fn write_object(inventory: &Inventory<'_>, item: &Item<'_>, path: &Path) -> Result<(), Failure> {
    item.verify(inventory.disks).map_err(Failure::Damaged)?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut file = File::create_new(path)?;
    let written = write_pieces(inventory, item, &mut file);
    if written.is_err() {
        // Half a file would look like a whole one. Should removing it fail, the object is not
        // in the list all the same.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn write_pieces(
    inventory: &Inventory<'_>,
    item: &Item<'_>,
    file: &mut File,
) -> Result<(), Failure> {
    for piece in item.pieces(inventory.disks) {
        file.write_all(&piece.map_err(Failure::Damaged)?)?;
    }
    Ok(())
}

/// Whether other keys make a directory of this key's path. Orphans have names of their own.
fn is_directory_too(keys: &BTreeSet<(&str, &str)>, item: &Item<'_>) -> bool {
    if item.orphan.is_some() {
        return false;
    }
    let below = format!("{}/", item.key);
    keys.range((item.bucket.as_str(), below.as_str())..)
        .next()
        .is_some_and(|(bucket, key)| *bucket == item.bucket && key.starts_with(&below))
}

fn relative_path(item: &Item<'_>, is_directory_too: bool) -> PathBuf {
    let bucket: PathBuf = names(&item.bucket).into_iter().collect();
    match &item.orphan {
        None => bucket.join(key_path(
            &item.key,
            if is_directory_too { "%object" } else { "" },
        )),
        Some(orphan) => Path::new(ORPHANS)
            .join(bucket)
            .join(key_path(&item.key, &format!("%body-{}", orphan.blob))),
    }
}

/// The path of a key; `suffix` is added to its last name.
fn key_path(key: &str, suffix: &str) -> PathBuf {
    let mut path: Vec<String> = key.split('/').flat_map(names).collect();
    if let Some(last) = path.last_mut() {
        last.push_str(suffix);
    }
    path.into_iter().collect()
}

/// The names that stand for what is between two slashes: first cut, then escaped, so that no
/// piece is `.` or `..` because of where the cut fell.
fn names(segment: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = String::new();
    for character in segment.chars() {
        let mut bytes = [0; 4];
        let escaped = match character {
            '%' | '/' => format!("%{:02X}", u32::from(character)),
            control if control.is_ascii_control() => format!("%{:02X}", u32::from(control)),
            other => other.encode_utf8(&mut bytes).to_owned(),
        };
        if name.len() + escaped.len() > NAME_BYTES_MAX {
            names.push(std::mem::take(&mut name) + "%-");
        }
        name.push_str(&escaped);
    }
    names.push(match name.as_str() {
        "" => "%".to_owned(),
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => name,
    });
    names
}

fn line(item: &Item<'_>, path: &Path) -> String {
    let head = item.head();
    let metadata = &item.record.metadata;
    let system = [
        ("content-type", &metadata.content_type),
        ("cache-control", &metadata.cache_control),
        ("content-disposition", &metadata.content_disposition),
        ("content-encoding", &metadata.content_encoding),
        ("content-language", &metadata.content_language),
        ("expires", &metadata.expires),
    ];
    let system = system.iter().filter_map(|(name, value)| {
        value
            .as_ref()
            .map(|value| ((*name).to_owned(), value.clone()))
    });
    let user = metadata
        .user
        .iter()
        .map(|(name, value)| (format!("x-amz-meta-{name}"), value.clone()));
    let headers: Vec<String> = system
        .chain(user)
        .map(|(name, value)| format!("{}:{}", json_string(&name), json_string(&value)))
        .collect();
    format!(
        "{{\"bucket\":{},\"key\":{},\"path\":{},\"size\":{},\"etag\":{},\"modified\":\"{}\",\
         \"has_record\":{},{}\"headers\":{{{}}}}}",
        json_string(&item.bucket),
        json_string(&item.key),
        json_string(&path.to_string_lossy()),
        head.size,
        json_string(head.etag.as_str()),
        rfc3339_millis(head.modified.as_millis()),
        item.orphan.is_none(),
        item.orphan.map_or(String::new(), |orphan| format!(
            "\"body\":\"{}\",\"state\":\"{}\",",
            orphan.blob, orphan.relation
        )),
        headers.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(key: &str) -> String {
        key_path(key, "").to_string_lossy().into_owned()
    }

    #[test]
    fn every_key_has_a_path_of_its_own_below_the_target() {
        for (key, expected) in [
            ("a/b", "a/b"),
            ("/a", "%/a"),
            ("a//b", "a/%/b"),
            ("a/", "a/%"),
            ("../a", "%2E%2E/a"),
            ("./a", "%2E/a"),
            ("a%b", "a%25b"),
            ("a\nb\0", "a%0Ab%00"),
            ("ü", "ü"),
        ] {
            assert_eq!(path(key), expected, "{key:?}");
            assert!(Path::new(&path(key)).is_relative());
        }
        assert_eq!(key_path("a", "%object"), Path::new("a%object"));
        let long = "ü".repeat(512);
        let cut = path(&long);
        assert!(
            cut.split('/').all(|name| name.len() <= NAME_BYTES_MAX + 2),
            "{cut}"
        );
        assert_eq!(cut.replace("%-/", ""), long);
    }

    /// Once names were escaped first and cut then, so that a cut before `..` made a path that
    /// led back: two objects met in one path, and the whole export ended there.
    #[test]
    fn no_cut_makes_a_name_that_leads_elsewhere() {
        let long = "x".repeat(NAME_BYTES_MAX);
        for (tail, expected) in [(".", "%2E"), ("..", "%2E%2E"), ("../y", "%2E%2E/y")] {
            assert_eq!(
                path(&format!("{long}{tail}")),
                format!("{long}%-/{expected}")
            );
        }
        let mut seen = BTreeSet::new();
        for alphabet in [".", "%", "\n", "2E", "é"] {
            for len in NAME_BYTES_MAX - 4..NAME_BYTES_MAX + 4 {
                for tail in ["", ".", "..", "%2E", "%", "/", "/."] {
                    let key = format!("{}{tail}", alphabet.repeat(len));
                    seen.insert((path(&key), key));
                }
            }
        }
        let paths: BTreeSet<&String> = seen.iter().map(|(path, _)| path).collect();
        let keys: BTreeSet<&String> = seen.iter().map(|(_, key)| key).collect();
        assert_eq!(paths.len(), keys.len());
    }

    #[test]
    fn only_a_target_that_takes_nothing_more_ends_an_export() {
        assert!(ends_everything(&ErrorKind::StorageFull.into()));
        for one in [
            ErrorKind::AlreadyExists,
            ErrorKind::InvalidFilename,
            ErrorKind::NotADirectory,
        ] {
            assert!(!ends_everything(&one.into()), "{one:?}");
        }
    }
}
