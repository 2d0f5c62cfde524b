//! The arrows between the rooms, as ARCHITECTURE.md draws them, checked against what cargo
//! itself says.
//!
//! What must hold:
//! - a room depends only on the rooms that [`ROOMS`] allows it;
//! - nothing depends on the checks or on xtask (a room's own tests may use the simulated disk);
//! - protocols and async runtimes stay in the front doors: directly ([`RESERVED`]) and, for
//!   the rooms below, through any dependency ([`ABSENT_BELOW`]);
//! - no room switches on the engine's seeded bugs or its model-checked threads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Each room, top to bottom, and the rooms that it may depend on.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "cullet",
        &["s3", "objects", "volume", "shardstore", "bench"],
    ),
    ("bench", &[]),
    ("sandbox", &[]),
    ("s3", &["objects"]),
    ("objects", &["volume"]),
    ("volume", &["shardstore"]),
    ("shardstore", &[]),
];

/// The only check that a room may use, and only in its tests.
const SIMULATED_DISK: &str = "simdisk";

/// Outside crates that only some rooms may name.
const RESERVED: &[(&str, &[&str])] = &[
    ("s3s", &["s3"]),
    ("tokio", &["s3", "bench", "cullet"]),
    ("tokio-util", &["s3", "cullet"]),
    ("hyper", &["s3", "cullet"]),
    ("hyper-util", &["s3", "cullet"]),
    ("http", &["s3", "cullet"]),
    ("http-body", &["s3", "cullet"]),
    ("http-body-util", &["s3", "cullet"]),
    ("tower", &["s3", "cullet"]),
    ("hdrhistogram", &["bench"]),
    ("httparse", &["bench"]),
    ("clap", &["cullet"]),
    ("anyhow", &["cullet"]),
    ("libc", &["sandbox"]),
    ("seccompiler", &["sandbox"]),
];

/// Rooms that know nothing of protocols, runtimes and serialisation frameworks.
const BELOW: &[&str] = &["objects", "volume", "shardstore"];

/// What must not be reachable from them through any dependency of the built program.
const ABSENT_BELOW: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "futures-executor",
    "serde",
    "hyper",
    "http",
    "s3s",
    "tower",
];

/// Features of the engine that only checks may switch on.
const CHECK_FEATURES: &[&str] = &["mutants", "shuttle"];

struct Package {
    name: String,
    /// Directory below the workspace's root: `crates/s3`.
    home: String,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    /// `normal`, `dev` or `build`.
    kind: String,
    features: Vec<String>,
}

impl Package {
    fn is_room(&self) -> bool {
        self.home.starts_with("crates/")
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(args)
        .output()
        .expect("cargo can be started");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {args:?} failed: {stderr}");
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

fn packages() -> Vec<Package> {
    let text = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata writes JSON");
    let root = metadata["workspace_root"]
        .as_str()
        .expect("a root")
        .to_owned();
    let list = metadata["packages"].as_array().expect("packages");
    list.iter()
        .map(|package| read_package(package, &root))
        .collect()
}

fn read_package(package: &Value, root: &str) -> Package {
    let manifest = string(&package["manifest_path"]);
    let home = manifest
        .strip_prefix(root)
        .unwrap_or(&manifest)
        .trim_start_matches('/');
    let dependencies = package["dependencies"].as_array().expect("dependencies");
    Package {
        name: string(&package["name"]),
        home: home.trim_end_matches("/Cargo.toml").to_owned(),
        dependencies: dependencies
            .iter()
            .map(|dependency| Dependency {
                name: string(&dependency["name"]),
                kind: dependency["kind"].as_str().unwrap_or("normal").to_owned(),
                features: dependency["features"]
                    .as_array()
                    .map(|features| features.iter().map(string).collect())
                    .unwrap_or_default(),
            })
            .collect(),
    }
}

fn string(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// What is wrong with the arrows of one package, given who else lives in the workspace.
fn wrong_arrows(package: &Package, homes: &BTreeMap<&str, &str>) -> Vec<String> {
    let mut wrong = Vec::new();
    let allowed = ROOMS
        .iter()
        .find(|(name, _)| *name == package.name)
        .map(|(_, allowed)| *allowed);
    if package.is_room() && allowed.is_none() {
        wrong.push(format!(
            "{} is a new room: give it a place in ROOMS",
            package.name
        ));
    }
    for dependency in &package.dependencies {
        let arrow = format!(
            "{} -> {} ({})",
            package.name, dependency.name, dependency.kind
        );
        if let Some(home) = homes.get(dependency.name.as_str()) {
            let below = allowed.is_some_and(|allowed| allowed.contains(&dependency.name.as_str()));
            let double = dependency.kind == "dev" && dependency.name == SIMULATED_DISK;
            if package.is_room() && !below && !double {
                wrong.push(format!("{arrow} points the wrong way"));
            }
            if *home == "xtask" || package.home == "xtask" {
                wrong.push(format!(
                    "{arrow}: xtask depends on nothing and nothing on it"
                ));
            }
        }
        let reserved = RESERVED.iter().find(|(name, _)| *name == dependency.name);
        if let Some((name, rooms)) = reserved
            && package.is_room()
            && !rooms.contains(&package.name.as_str())
        {
            wrong.push(format!(
                "{arrow}: {name} belongs to {}",
                rooms.join(" and ")
            ));
        }
        for feature in &dependency.features {
            if package.is_room() && CHECK_FEATURES.contains(&feature.as_str()) {
                wrong.push(format!(
                    "{arrow} switches on `{feature}`, which is for checks only"
                ));
            }
        }
    }
    wrong
}

#[test]
fn arrows_point_down() {
    let packages = packages();
    let homes: BTreeMap<&str, &str> = packages
        .iter()
        .map(|package| (package.name.as_str(), package.home.as_str()))
        .collect();
    for (room, _) in ROOMS {
        assert!(
            homes.contains_key(room),
            "the room `{room}` is gone: mend ROOMS"
        );
    }
    let wrong: Vec<String> = packages
        .iter()
        .flat_map(|package| wrong_arrows(package, &homes))
        .collect();
    assert!(
        wrong.is_empty(),
        "see ARCHITECTURE.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn protocols_and_runtimes_stay_above() {
    for room in BELOW {
        // `cargo tree` resolves features for this one package, as a program that used only
        // this room would have them.
        let tree = cargo(&[
            "tree", "-p", room, "-e", "normal", "--prefix", "none", "-f", "{lib}",
        ]);
        let reachable: BTreeSet<String> = tree
            .lines()
            .map(|line| line.trim().replace('_', "-"))
            .collect();
        assert!(
            reachable.contains(*room),
            "cargo tree did not list `{room}` itself:\n{tree}"
        );
        let found: Vec<&str> = ABSENT_BELOW
            .iter()
            .copied()
            .filter(|name| reachable.contains(*name))
            .collect();
        assert!(
            found.is_empty(),
            "{room} reaches {found:?}; `cargo tree -p {room} -i {}` shows how",
            found.first().unwrap_or(&"")
        );
    }
}

#[test]
fn rooms_below_the_binary_read_no_environment() {
    let mut wrong = Vec::new();
    for (room, _) in ROOMS.iter().filter(|(room, _)| *room != "cullet") {
        for file in rust_files(&root().join("crates").join(room).join("src")) {
            let text = std::fs::read_to_string(&file).expect("a source file can be read");
            for (number, line) in text.lines().enumerate() {
                if line.contains("std::env") || line.contains("env::var") {
                    wrong.push(format!(
                        "{}:{}: {}",
                        file.display(),
                        number + 1,
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "configuration comes from above, as values:\n{}",
        wrong.join("\n")
    );
}

fn rust_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a source directory can be listed") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The test above must be able to fail: these are arrows that it has to refuse.
#[test]
fn wrong_arrows_are_seen() {
    let homes = BTreeMap::from([
        ("s3", "crates/s3"),
        ("volume", "crates/volume"),
        ("shardstore", "crates/shardstore"),
        ("engine-checks", "checks/engine"),
        ("xtask", "xtask"),
    ]);
    let refused = |from: &str, home: &str, to: &str, kind: &str, features: &[&str]| {
        let package = Package {
            name: from.to_owned(),
            home: home.to_owned(),
            dependencies: vec![Dependency {
                name: to.to_owned(),
                kind: kind.to_owned(),
                features: features
                    .iter()
                    .map(|feature| (*feature).to_owned())
                    .collect(),
            }],
        };
        !wrong_arrows(&package, &homes).is_empty()
    };
    assert!(refused("s3", "crates/s3", "shardstore", "normal", &[]));
    assert!(refused("volume", "crates/volume", "s3", "dev", &[]));
    assert!(refused(
        "volume",
        "crates/volume",
        "engine-checks",
        "dev",
        &[]
    ));
    assert!(refused("volume", "crates/volume", "tokio", "dev", &[]));
    assert!(refused(
        "volume",
        "crates/volume",
        "shardstore",
        "normal",
        &["mutants"]
    ));
    assert!(refused("simdisk", "checks/simdisk", "xtask", "normal", &[]));
    assert!(refused(
        "novel",
        "crates/novel",
        "shardstore",
        "normal",
        &[]
    ));
    assert!(!refused(
        "volume",
        "crates/volume",
        "shardstore",
        "normal",
        &[]
    ));
    assert!(!refused(
        "engine-checks",
        "checks/engine",
        "shardstore",
        "normal",
        &["mutants"]
    ));
}
