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
//! | more than 200 bytes between slashes | pieces of 200 bytes that end in `%-` |
//! | a key that is also the beginning of others, as `a` beside `a/b` | `a%object` |
//!
//! `objects.jsonl` says which file is which object, with its metadata.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::inventory::{Inventory, Item};
use crate::UsageError;
use crate::access_log::json_string;
use crate::time_text::rfc3339_millis;

/// Longest name of a file that is written; file systems take 255 bytes, less what is added.
const NAME_BYTES_MAX: usize = 200;

/// Where bodies without a record go; no bucket can have this name.
const ORPHANS: &str = "_no-record";

/// The list of everything that was exported.
const LIST: &str = "objects.jsonl";

/// Writes every object that is `wanted` below `to`; returns how many are damaged. Those are
/// not written.
pub(super) fn export(
    inventory: &Inventory<'_>,
    to: &Path,
    wanted: impl Fn(&Item<'_>) -> bool,
) -> anyhow::Result<usize> {
    prepare(to)?;
    let list_path = to.join(LIST);
    let list = File::create_new(&list_path);
    let list = list.with_context(|| format!("cannot create {}", list_path.display()))?;
    let mut list = BufWriter::new(list);
    let keys: BTreeSet<(&str, bool, &str)> = inventory.items().map(name_of).collect();
    let (mut written, mut damaged) = (0, 0);
    for item in inventory.items().filter(|item| wanted(item)) {
        let relative = relative_path(item, is_directory_too(&keys, item));
        match write_object(inventory, item, &to.join(&relative)) {
            Ok(()) => {
                writeln!(list, "{}", line(item, &relative))?;
                written += 1;
            }
            Err(Failure::Damaged(what)) => {
                eprintln!(
                    "damage: {}/{} was not written: {what}",
                    item.bucket,
                    item.key.escape_debug()
                );
                damaged += 1;
            }
            Err(Failure::Io(error)) => return Err(error),
        }
    }
    list.flush()?;
    eprintln!("{written} objects were written below {}", to.display());
    Ok(damaged)
}

enum Failure {
    Damaged(String),
    Io(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Io(error)
    }
}

fn prepare(to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut entries = to
        .read_dir()
        .with_context(|| format!("cannot list {}", to.display()))?;
    if entries.next().is_some() {
        let sentence = format!(
            "{} is not empty: export into an empty or new directory",
            to.display()
        );
        return Err(UsageError::new(sentence).into());
    }
    Ok(())
}

/// Reads everything before anything is written, so that no damaged file is left behind; but
/// piece by piece, so that an object's size never matters.
fn write_object(inventory: &Inventory<'_>, item: &Item<'_>, path: &Path) -> Result<(), Failure> {
    item.verify(inventory.rescue).map_err(Failure::Damaged)?;
    let what = || format!("cannot write {}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(what)?;
    }
    let mut file = File::create_new(path).with_context(what)?;
    for piece in item.pieces(inventory.rescue) {
        file.write_all(&piece.map_err(Failure::Damaged)?)
            .with_context(what)?;
    }
    Ok(())
}

fn name_of<'a>(item: &'a Item<'_>) -> (&'a str, bool, &'a str) {
    (item.bucket.as_str(), item.is_orphan, item.key.as_str())
}

/// Whether other keys make a directory of this key's path.
fn is_directory_too(keys: &BTreeSet<(&str, bool, &str)>, item: &Item<'_>) -> bool {
    let below = format!("{}/", item.key);
    let from = (item.bucket.as_str(), item.is_orphan, below.as_str());
    keys.range(from..)
        .next()
        .is_some_and(|(bucket, is_orphan, key)| {
            *bucket == item.bucket && *is_orphan == item.is_orphan && key.starts_with(&below)
        })
}

fn relative_path(item: &Item<'_>, is_directory_too: bool) -> PathBuf {
    let mut path = PathBuf::new();
    if item.is_orphan {
        path.push(ORPHANS);
    }
    path.push(escape(&item.bucket));
    path.push(key_path(&item.key, is_directory_too));
    path
}

fn key_path(key: &str, is_directory_too: bool) -> PathBuf {
    let mut path: PathBuf = key
        .split('/')
        .flat_map(|segment| pieces(&escape(segment)))
        .collect();
    if is_directory_too {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push("%object");
        path.set_file_name(name);
    }
    path
}

fn escape(segment: &str) -> String {
    match segment {
        "" => return "%".to_owned(),
        "." => return "%2E".to_owned(),
        ".." => return "%2E%2E".to_owned(),
        _ => {}
    }
    let mut escaped = String::with_capacity(segment.len());
    for character in segment.chars() {
        if character == '%' || character.is_ascii_control() {
            escaped.push_str(&format!("%{:02X}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Cuts a name that is too long, at characters.
fn pieces(mut name: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    while name.len() > NAME_BYTES_MAX {
        let mut at = NAME_BYTES_MAX;
        while !name.is_char_boundary(at) {
            at -= 1;
        }
        let (head, tail) = name.split_at(at);
        pieces.push(format!("{head}%-"));
        name = tail;
    }
    pieces.push(name.to_owned());
    pieces
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
         \"has_record\":{},\"headers\":{{{}}}}}",
        json_string(&item.bucket),
        json_string(&item.key),
        json_string(&path.to_string_lossy()),
        head.size,
        json_string(head.etag.as_str()),
        rfc3339_millis(head.modified.as_millis()),
        !item.is_orphan,
        headers.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(key: &str) -> String {
        key_path(key, false).to_string_lossy().into_owned()
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
        assert_eq!(key_path("a", true), Path::new("a%object"));
        let long = "ü".repeat(512);
        let cut = path(&long);
        assert!(
            cut.split('/').all(|name| name.len() <= NAME_BYTES_MAX + 2),
            "{cut}"
        );
        assert_eq!(cut.replace("%-/", ""), long);
    }
}
