//! `cullet account`, `cullet key` and `cullet disk`: ask a running server to change its accounts
//! and access keys, or about its disks, and show what it answers.

pub mod args;
mod client;

use std::io::Write;
use std::path::Path;

use s3::Credentials;
use serde_json::{Value, json};

use crate::credentials::{self, KEY_VARIABLE, Kept, SECRET_VARIABLE};
use crate::{ByteSize, trust};
use args::{AccountAction, AccountArgs, DiskAction, DiskArgs, KeyAction, KeyArgs, ServerAccess};
use client::Client;

/// The variable that names a credentials file.
const FILE_VARIABLE: &str = "CULLET_CREDENTIALS_FILE";

/// Runs `cullet account`.
///
/// # Errors
/// A sentence that says what went wrong, and what to do.
pub fn account(args: AccountArgs) -> anyhow::Result<()> {
    let (server, client) = (&args.server, reach(&args.server)?);
    let (operation, fields) = match args.action {
        AccountAction::List => return list(server, &client, "accounts", None),
        AccountAction::Create { name } => ("accounts/create", json!({"name": name})),
        AccountAction::Disable { account } => ("accounts/disable", json!({"account": account})),
        AccountAction::Enable { account } => ("accounts/enable", json!({"account": account})),
        AccountAction::Delete { account } => ("accounts/delete", json!({"account": account})),
    };
    let answer = client.ask(operation, &fields)?;
    if server.json {
        return print_json(&answer);
    }
    let account = &answer["account"];
    print(&match operation {
        "accounts/create" => format!("{}\n", text(&account["id"])),
        _ => {
            let (id, name) = (text(&account["id"]), text(&account["name"]));
            format!("the account {id} ({name}) is {}\n", done(operation))
        }
    })
}

/// Runs `cullet key`.
///
/// # Errors
/// As [`account`].
pub fn key(args: KeyArgs) -> anyhow::Result<()> {
    let (server, client) = (&args.server, reach(&args.server)?);
    let (operation, fields) = match args.action {
        KeyAction::List { account } => return list(server, &client, "keys", account),
        KeyAction::Create {
            account,
            description,
        } => (
            "keys/create",
            json!({"account": account, "description": description}),
        ),
        KeyAction::Disable { key } => ("keys/disable", json!({"key": key})),
        KeyAction::Enable { key } => ("keys/enable", json!({"key": key})),
        KeyAction::Rotate { key } => ("keys/rotate", json!({"key": key})),
        KeyAction::Delete { key } => ("keys/delete", json!({"key": key})),
    };
    let answer = client.ask(operation, &fields)?;
    if let Some(note) = answer["note"].as_str() {
        eprintln!("cullet: {note}");
    }
    if server.json {
        return print_json(&answer);
    }
    let key = &answer["key"];
    let id = text(&key["id"]);
    match key["secret"].as_str() {
        Some(secret) => {
            let (account, name) = (text(&key["account"]), text(&key["account_name"]));
            eprintln!(
                "cullet: a key of the account {account} ({name}), whose secret is shown only this \
                 once"
            );
            print(&format!(
                "AWS_ACCESS_KEY_ID={id}\nAWS_SECRET_ACCESS_KEY={secret}\n"
            ))
        }
        None => print(&format!("the access key {id} is {}\n", done(operation))),
    }
}

/// Runs `cullet disk`.
///
/// # Errors
/// As [`account`].
pub fn disk(args: DiskArgs) -> anyhow::Result<()> {
    let client = reach(&args.server)?;
    let (operation, fields) = match &args.action {
        DiskAction::List | DiskAction::Status => ("disks/list", json!({})),
        DiskAction::Add { path, dry_run } => {
            let path = on_this_machine(path);
            ("disks/add", json!({"path": path, "dry_run": dry_run}))
        }
        DiskAction::Replace {
            disk,
            path,
            dry_run,
            accept_loss,
        } => {
            let path = on_this_machine(path);
            let mut fields = json!({"disk": named(disk), "path": path, "dry_run": dry_run});
            fields["accept_loss"] = (*accept_loss).into();
            ("disks/replace", fields)
        }
        DiskAction::Drain {
            disk,
            dry_run,
            cancel,
        } => {
            let disk = named(disk);
            let fields = json!({"disk": disk, "dry_run": dry_run, "cancel": cancel});
            ("disks/drain", fields)
        }
        DiskAction::Remove {
            disk,
            dry_run,
            accept_loss,
        } => {
            let disk = named(disk);
            let fields = json!({"disk": disk, "dry_run": dry_run, "accept_loss": accept_loss});
            ("disks/remove", fields)
        }
        DiskAction::Scrub(scrub) => (
            "disks/scrub",
            json!({"disk": scrub.disk.as_deref().map(named)}),
        ),
    };
    let answer = client.ask(operation, &fields)?;
    if args.server.json {
        return print_json(&answer);
    }
    if fields["dry_run"] == true {
        return print(&movement(&answer));
    }
    let none = Vec::new();
    let disks = answer["disks"].as_array().unwrap_or(&none);
    print(&match args.action {
        DiskAction::List => table(&DISK_HEADS, disks.iter().map(disk_row).collect()),
        DiskAction::Status => status(&answer, disks),
        DiskAction::Add { .. } | DiskAction::Replace { .. } => added(&answer, &fields),
        DiskAction::Drain { cancel: true, .. } => format!("disk {} stays\n", answer["slot"]),
        DiskAction::Drain { .. } => format!(
            "disk {} is being drained: `cullet disk list` no longer shows it when it is empty and \
             has left the set. Take it off the server's command line then: with it the next start \
             is refused\n",
            answer["slot"]
        ),
        DiskAction::Remove { .. } => format!(
            "disk {} is out of the set: what it had is made again on the others as far as there are \
             disks for it, which `cullet disk status` says. Take it off the server's command line\n",
            answer["slot"]
        ),
        DiskAction::Scrub(_) => "the scrub has begun: `cullet disk list` shows how far it \
                                     is\n"
            .to_owned(),
    })
}

/// A disk's number or id as it is, its path as the server finds it.
fn named(disk: &str) -> String {
    match disk.contains('/') || disk.starts_with('.') {
        true => on_this_machine(disk),
        false => disk.to_owned(),
    }
}

/// The server may run in another directory.
fn on_this_machine(path: &str) -> String {
    let absolute = std::path::absolute(path);
    absolute.map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

/// What a change would make the disks write.
fn movement(answer: &Value) -> String {
    let size = |name: &str| ByteSize(answer[name].as_u64().unwrap_or(0)).rough();
    let mut said = format!(
        "{} in {} would be written to other disks, and {} of metadata\n",
        size("bytes"),
        counted(answer["shards"].as_u64().unwrap_or(0), "shard"),
        size("metadata_bytes")
    );
    if answer["stuck"].as_u64().unwrap_or(0) > 0 {
        said += &format!(
            "no disk could take {}: their stripes are wider than the set would be\n",
            counted(answer["stuck"].as_u64().unwrap_or(0), "shard")
        );
    }
    said
}

/// What became of a disk that was added.
fn added(answer: &Value, fields: &Value) -> String {
    let path = text(&answer["path"]);
    match answer["added"].as_str() {
        Some("second") => format!(
            "{path} becomes the second disk of the set when it has all metadata: `cullet disk \
             list` shows it. Name it on the server's command line from then on\n"
        ),
        Some("successor") => format!(
            "{path} takes the place of {}, which leaves when everything is on {path}: `cullet disk \
             list` shows it. Name {path} alone on the server's command line from then on; until \
             then, both\n",
            text(&fields["disk"])
        ),
        Some("back") => format!("{path} is disk {} again, and catches up\n", answer["slot"]),
        _ => {
            let instead = match fields["disk"].as_str() {
                Some(old) => format!(", in the place of {old}, which leaves"),
                None => String::new(),
            };
            format!(
                "{path} is disk {} of the set now{instead}. Name it on the server's command line \
                 from now on\n",
                answer["slot"]
            )
        }
    }
}

const DISK_HEADS: [&str; 8] = [
    "DISK", "PATH", "STATE", "SIZE", "USED", "DAMAGE", "SCRUB", "ID",
];

fn disk_row(disk: &Value) -> Vec<String> {
    let size = |value: &Value| {
        value
            .as_u64()
            .map_or("-".to_owned(), |b| ByteSize(b).rough())
    };
    let state = match disk["failure"].as_str() {
        Some(_) => format!("failed: {}", text(&disk["failure"])),
        None if disk["slow"] == true => format!("{}, slow", text(&disk["state"])),
        None => text(&disk["state"]),
    };
    vec![
        disk["slot"]
            .as_u64()
            .map_or("-".to_owned(), |slot| slot.to_string()),
        text(&disk["path"]),
        state,
        size(&disk["capacity_bytes"]),
        size(&disk["used_bytes"]),
        disk["damage_found"]
            .as_u64()
            .map_or("-".to_owned(), |n| n.to_string()),
        scrub(&disk["scrub"]),
        text(&disk["id"]),
    ]
}

/// How far a scrub is, or when the last one ended.
fn scrub(scrub: &Value) -> String {
    let number = |name: &str| scrub[name].as_u64().unwrap_or(0);
    let found = |damage: u64| match damage {
        0 => String::new(),
        damage => format!(", {damage} damaged"),
    };
    if scrub["asked"] == true || number("began_ms") > 0 {
        let done = number("extent") * 100 / number("extents").max(1);
        return format!("{}%{}", done.min(100), found(number("damage")));
    }
    match scrub["ended"].as_str() {
        Some(_) => format!("{}{}", day(&scrub["ended"]), found(number("damage_last"))),
        None => "-".to_owned(),
    }
}

/// What a person woken at night wants to know first.
fn status(answer: &Value, disks: &[Value]) -> String {
    let is_live = |disk: &&Value| disk["state"] == "live" || disk["state"] == "draining";
    let live = disks.iter().filter(is_live).count();
    let members = disks
        .iter()
        .filter(|disk| disk["state"] != "joining")
        .count();
    let mut said = format!("{live} of {members} disks are live\n");
    said += &match answer["refuses_writes"].as_str() {
        None => "writes are taken\n".to_owned(),
        Some(_) => format!("writes are refused: {}\n", text(&answer["refuses_writes"])),
    };
    if members < 2 {
        return said
            + "a set of one disk keeps nothing twice: `cullet disk add` makes it a larger one\n";
    }
    let scheme = text(&answer["scheme"]);
    if let Some((data, parity)) = scheme.split_once('+') {
        let kept = match (data, parity.parse::<u64>().unwrap_or(0)) {
            ("1", parity) => format!("kept in {} copies", parity + 1),
            (data, parity) => format!("kept as {data}+{parity} shards, small ones in copies"),
        };
        said += &match live == members {
            _ if parity == "0" => {
                "one disk takes the place of the other, and new objects are on that one only\n"
                    .to_owned()
            }
            true => format!(
                "new objects are {kept}, which survive the loss of any {parity} disks; older ones \
                 are as the set was when they were written\n"
            ),
            false => format!("when all disks are live, new objects are {kept}\n"),
        };
    }
    let none = Vec::new();
    let stripes = answer["stripes"].as_array().unwrap_or(&none);
    for (missing, count) in stripes.iter().enumerate() {
        match (missing, count.as_u64().unwrap_or(0)) {
            (0, 1) => said += "1 stripe has all of its shards\n",
            (0, count) => said += &format!("{count} stripes have all of their shards\n"),
            (_, 0) => {}
            (missing, 1) => said += &format!("1 stripe is short of {missing}\n"),
            (missing, count) => said += &format!("{count} stripes are short of {missing}\n"),
        }
    }
    let lost = answer["stripes_lost"].as_u64().unwrap_or(0);
    if lost > 0 {
        said += &format!(
            "{} cannot be read with the disks that are there\n",
            counted(lost, "stripe")
        );
    }
    let owing = answer["bytes_owing"].as_u64().unwrap_or(0);
    if owing > 0 {
        said += &format!("{} are owing\n", ByteSize(owing).rough());
    }
    let stuck = answer["shards_stuck"].as_u64().unwrap_or(0);
    if stuck > 0 {
        said += &format!(
            "no other disk can take {} of the disks that are drained: add one, or end it with \
             `cullet disk drain --cancel`\n",
            counted(stuck, "shard")
        );
    }
    let healing = &answer["healing"];
    if let (Some(done), Some(all)) = (
        healing["stripes_done"].as_u64(),
        healing["stripes"].as_u64(),
    ) {
        let left = match healing["seconds_left"].as_f64() {
            Some(left) => format!(", about {left:.0} s left"),
            None => String::new(),
        };
        said += &format!(
            "healing: {done} of {} looked at{left}\n",
            counted(all, "stripe")
        );
    }
    said + match answer["settled"] {
        Value::Bool(true) if answer["refuses_writes"].is_string() => {
            "all stripes were looked at; nothing is rebuilt or moved\n"
        }
        Value::Bool(true) if answer["tidy"] == false => {
            "some shards are still to be brought to other disks: this goes on\n"
        }
        Value::Bool(true) => {
            "all stripes were looked at since anything changed; what was written since is counted \
             the next time\n"
        }
        _ => "not all stripes were looked at since something changed: this goes on\n",
    }
}

/// So many of something, whose plural has an s.
fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// What an operation has made of its object.
fn done(operation: &str) -> &'static str {
    match operation.rsplit('/').next() {
        Some("enable") => "enabled",
        Some("disable") => "disabled",
        _ => "deleted",
    }
}

fn reach(server: &ServerAccess) -> anyhow::Result<Client> {
    let credentials = root_key(server.credentials.as_deref())?;
    let endpoint = trust::endpoint(&server.endpoint, server.ca.as_deref())?;
    Ok(Client::new(endpoint, &server.region, &credentials))
}

/// The key to sign with: from a file that was named, the environment, or the file of the only
/// server that keeps one here.
fn root_key(named: Option<&Path>) -> anyhow::Result<Credentials> {
    if let Some(file) = named {
        return root_key_in(file);
    }
    if let Some(credentials) = credentials::from_environment()? {
        return Ok(credentials);
    }
    if let Some(file) = std::env::var_os(FILE_VARIABLE).filter(|file| !file.is_empty()) {
        return root_key_in(Path::new(&file));
    }
    match credentials::files_in_configuration().as_slice() {
        [file] => root_key_in(file),
        [] => anyhow::bail!(
            "no root key was found: set {KEY_VARIABLE} and {SECRET_VARIABLE}, or name the \
             server's file with --credentials FILE"
        ),
        files => {
            let names: Vec<String> = files
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            anyhow::bail!(
                "there are credentials of several servers: name one with --credentials FILE, of {}",
                names.join(", ")
            )
        }
    }
}

/// The root key of the only server that keeps one here.
pub(crate) fn kept_root_key() -> Option<Credentials> {
    match credentials::files_in_configuration().as_slice() {
        [file] => root_key_in(file).ok(),
        _ => None,
    }
}

fn root_key_in(file: &Path) -> anyhow::Result<Credentials> {
    anyhow::ensure!(file.exists(), "{} does not exist", file.display());
    Kept::read(file)?.root.ok_or_else(|| {
        anyhow::anyhow!(
            "{} holds no access key: set {KEY_VARIABLE} and {SECRET_VARIABLE}",
            file.display()
        )
    })
}

/// Fetches a list page by page, and prints it.
fn list(
    server: &ServerAccess,
    client: &Client,
    what: &str,
    account: Option<String>,
) -> anyhow::Result<()> {
    let mut all = Vec::new();
    let mut after = Value::Null;
    loop {
        let mut fields = json!({"after": after});
        if let Some(account) = &account {
            fields["account"] = account.as_str().into();
        }
        let mut page = client.ask(&format!("{what}/list"), &fields)?;
        if let Value::Array(entries) = page[what].take() {
            all.extend(entries);
        }
        let next = page["next"].take();
        // A server that goes round in circles is not followed.
        if next.is_null() || next == after {
            break;
        }
        after = next;
    }
    if server.json {
        return print_json(&json!({what: all}));
    }
    print(&match what {
        "accounts" => table(&ACCOUNT_HEADS, all.iter().map(account_row).collect()),
        _ => {
            all.sort_by_key(|key| (text(&key["account"]), text(&key["created"])));
            table(&KEY_HEADS, all.iter().map(key_row).collect())
        }
    })
}

const ACCOUNT_HEADS: [&str; 5] = ["ACCOUNT", "NAME", "STATE", "KEYS", "CREATED"];

const KEY_HEADS: [&str; 7] = [
    "KEY",
    "ACCOUNT",
    "NAME",
    "STATE",
    "CREATED",
    "SECRET SINCE",
    "DESCRIPTION",
];

fn account_row(account: &Value) -> Vec<String> {
    vec![
        text(&account["id"]),
        text(&account["name"]),
        state(account).to_owned(),
        account["keys"].to_string(),
        day(&account["created"]),
    ]
}

fn key_row(key: &Value) -> Vec<String> {
    let state = match key["readable"] {
        Value::Bool(false) => "sealed with another master key",
        _ => state(key),
    };
    vec![
        text(&key["id"]),
        text(&key["account"]),
        text(&key["account_name"]),
        state.to_owned(),
        day(&key["created"]),
        day(&key["rotated"]),
        text(&key["description"]),
    ]
}

fn state(of: &Value) -> &'static str {
    match of["enabled"] {
        Value::Bool(true) => "enabled",
        _ => "disabled",
    }
}

/// A text of an answer on one line, whatever the server sent.
fn text(value: &Value) -> String {
    let text = value.as_str().unwrap_or("-");
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Days are enough for people.
fn day(value: &Value) -> String {
    text(value).split('T').next().unwrap_or("-").to_owned()
}

/// Columns as wide as their widest cell, two blanks between them.
fn table(heads: &[&str], rows: Vec<Vec<String>>) -> String {
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let widths: Vec<usize> = (0..all[0].len())
        .map(|column| {
            let cells = all.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", line.join("  ").trim_end())
    };
    all.iter().map(line).collect()
}

fn print_json(document: &Value) -> anyhow::Result<()> {
    print(&format!("{document:#}\n"))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_on_their_lines() {
        let key = json!({
            "id": "K1", "account": "123456789012", "account_name": "a", "enabled": true,
            "readable": false, "created": "2026-01-02T03:04:05.678Z", "description": "x\ny",
        });
        assert_eq!(
            table(&KEY_HEADS, vec![key_row(&key)]),
            "KEY  ACCOUNT       NAME  STATE                           CREATED     SECRET SINCE  \
             DESCRIPTION\n\
             K1   123456789012  a     sealed with another master key  2026-01-02  -             xy\n"
        );
    }
}
