//! What a program sees of the machine's files, and where it is put together.
//!
//! The helper lives in a root of its own, in memory:
//!
//! ```text
//! /code          the programs' code, as the server keeps it; read-only
//! /places/7      of one place: seen as /var by what runs there. What is mounted below it later
//!                appears there, too
//! /proc          of the helper
//! /root          what every program sees as its root; read-only:
//!   bin etc lib lib64 sbin usr …   of the host, as far as programs need it
//!   dev          null, zero, full, random, urandom
//!   proc tmp var where a process puts its own
//! ```
//! Nothing else of the host is there: whoever got out of a program's root would find this.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};

use crate::kernel::set_mount_attributes;
use crate::limits::{INSIDE_GID, INSIDE_UID};

/// What all of the host's files are mounted with.
const READ_ONLY: u64 = 1;
const NO_SUID: u64 = 2;
const NO_DEVICES: u64 = 4;
const MS_PRIVATE: u64 = 1 << 18;

/// Directories of the host that programs need: what is a link on the host is one here.
const SYSTEM: [&str; 7] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
];

/// Directories and files below `/etc` that programs need and that hold no secrets.
const SETTINGS_SHOWN: [&str; 12] = [
    "alternatives",
    "ca-certificates",
    "fonts",
    "java",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "java-25-openjdk",
    "pki",
    "python3",
    "ssl/certs",
    "crypto-policies",
];
const SETTINGS_COPIED: [&str; 9] = [
    "ld.so.cache",
    "ld.so.conf",
    "localtime",
    "mime.types",
    "os-release",
    "protocols",
    "services",
    "ssl/openssl.cnf",
    "host.conf",
];

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Everything of a place is below this.
pub(crate) fn place_directory(place: usize) -> PathBuf {
    PathBuf::from(format!("/places/{place}"))
}

fn in_words(what: &str) -> impl FnOnce(io::Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}

/// A copy of a part of the tree of mounts, attached nowhere.
fn tree(path: &Path, attributes: u64) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags)?;
    set_mount_attributes(tree.as_fd(), attributes, MS_PRIVATE, true)?;
    Ok(tree)
}

fn attach(tree: &OwnedFd, to: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, "", CWD, to, flags)?)
}

fn memory(to: &Path, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount("tmpfs", to, "tmpfs", flags, options.as_c_str())?)
}

fn directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new()
        .mode(0o755)
        .recursive(true)
        .create(path)
    {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// What of the host is to be seen, taken hold of before its root goes away.
struct Host {
    code: OwnedFd,
    /// At which path in the program's root.
    shown: Vec<(OwnedFd, PathBuf, bool)>,
    links: Vec<(PathBuf, PathBuf)>,
    copied: Vec<(PathBuf, Vec<u8>)>,
}

impl Host {
    fn of(code: &Path, shown: &[PathBuf]) -> Result<Host, String> {
        let mut host = Host {
            code: tree(code, READ_ONLY | NO_SUID | NO_DEVICES)
                .map_err(in_words(&code.display().to_string()))?,
            shown: Vec::new(),
            links: Vec::new(),
            copied: Vec::new(),
        };
        for path in SYSTEM.map(PathBuf::from) {
            match fs::read_link(&path) {
                Ok(target) => host.links.push((path, target)),
                Err(_) => host.show(&path)?,
            }
        }
        let settings = SETTINGS_SHOWN
            .iter()
            .map(|name| Path::new("/etc").join(name));
        for path in settings.chain(shown.iter().cloned()) {
            let is_clean = path.is_absolute()
                && path
                    .components()
                    .all(|part| matches!(part, Component::Normal(_) | Component::RootDir));
            let is_there_already = SYSTEM.iter().any(|system| path.starts_with(system));
            if is_clean && !is_there_already {
                host.show(&path)?;
            }
        }
        for name in SETTINGS_COPIED {
            let path = Path::new("/etc").join(name);
            if let Ok(bytes) = fs::read(&path) {
                host.copied.push((path, bytes));
            }
        }
        for name in DEVICES {
            let path = Path::new("/dev").join(name);
            let device = tree(&path, NO_SUID).map_err(in_words(&path.display().to_string()))?;
            host.shown.push((device, path, false));
        }
        Ok(host)
    }

    /// If it is there.
    fn show(&mut self, path: &Path) -> Result<(), String> {
        let Ok(is) = fs::metadata(path) else {
            return Ok(());
        };
        let shown = tree(path, READ_ONLY | NO_SUID | NO_DEVICES)
            .map_err(in_words(&path.display().to_string()))?;
        self.shown.push((shown, path.to_owned(), is.is_dir()));
        Ok(())
    }
}

/// Moves this process, which has mounts of its own already, into the root that is described above.
pub(crate) fn enter(code: &Path, shown: &[PathBuf], resolver: &str) -> Result<(), String> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|error| format!("/: {error}"))?;
    let host = Host::of(code, shown)?;
    // Over the code, of which a copy is in hand: any directory will do.
    let build = || -> io::Result<()> {
        memory(code, "mode=755,size=16m")?;
        rustix::process::chdir(code)?;
        for name in ["code", "places", "proc", "root"] {
            directory(Path::new(name))?;
        }
        attach(&host.code, Path::new("code"))?;
        memory(Path::new("root"), "mode=755,size=16m")?;
        furnish(&host, resolver)?;
        let root = open_tree(CWD, "root", OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        set_mount_attributes(root.as_fd(), READ_ONLY, 0, false)?;
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "/proc", "proc", flags, None)?;
        Ok(())
    };
    build().map_err(in_words("the root of programs cannot be put together"))
}

fn furnish(host: &Host, resolver: &str) -> io::Result<()> {
    let root = Path::new("root");
    let inside = |path: &Path| match path.strip_prefix("/") {
        Ok(path) => root.join(path),
        Err(_) => root.join(path),
    };
    for name in ["dev", "etc", "opt", "proc", "tmp", "var"] {
        directory(&root.join(name))?;
    }
    for (link, target) in &host.links {
        symlink(target, inside(link))?;
    }
    for (path, bytes) in &host.copied {
        let path = inside(path);
        if let Some(parent) = path.parent() {
            directory(parent)?;
        }
        fs::write(&path, bytes)?;
    }
    for (tree, path, is_directory) in &host.shown {
        let path = inside(path);
        match (is_directory, path.parent()) {
            (true, _) => directory(&path)?,
            (false, Some(parent)) => {
                directory(parent)?;
                fs::write(&path, b"")?;
            }
            (false, None) => {}
        }
        attach(tree, &path)?;
    }
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, root.join("dev").join(link))?;
    }
    let etc = root.join("etc");
    fs::write(
        etc.join("passwd"),
        format!("root:x:0:0::/:/bin/false\nsandbox:x:{INSIDE_UID}:{INSIDE_GID}::/tmp:/bin/false\n"),
    )?;
    fs::write(
        etc.join("group"),
        format!("root:x:0:\nsandbox:x:{INSIDE_GID}:\n"),
    )?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n")?;
    fs::write(etc.join("resolv.conf"), resolver)?;
    fs::write(
        etc.join("nsswitch.conf"),
        "passwd: files\ngroup: files\nhosts: files dns\n",
    )?;
    // Layers are to be in /opt one day: it lies with the rest of a place.
    fs::remove_dir(root.join("opt"))?;
    symlink("var/opt", root.join("opt"))
}

/// Makes the directory of a place, which passes on what is mounted in it.
pub(crate) fn make_place(place: usize) -> io::Result<()> {
    let path = place_directory(place);
    directory(&path)?;
    memory(&path, "mode=755,size=64k,nr_inodes=32")?;
    for name in ["task", "runtime", "opt", "lang"] {
        directory(&path.join(name))?;
    }
    Ok(mount_change(&path, MountPropagationFlags::SHARED)?)
}

/// Shows the code of this name in a place.
pub(crate) fn show_code(place: usize, name: &str) -> io::Result<()> {
    let is_plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    if !is_plain {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    // With the attributes of the mount that it is a part of.
    let tree = open_tree(CWD, Path::new("/code").join(name), flags)?;
    attach(&tree, &place_directory(place).join("task"))
}

/// Takes the code out of a place again.
pub(crate) fn hide_code(place: usize) {
    unmount(place_directory(place).join("task"), UnmountFlags::DETACH).ok();
}
