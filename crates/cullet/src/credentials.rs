//! The root key and the master key: where they come from, and the file they are kept in.
//!
//! The root key is the root account's access key, which alone administers. The master key seals
//! the secrets of all others. Both come from the environment, or from the credentials file,
//! whose lines are shell assignments of the same variables. What is missing is made and kept
//! there. There are no built-in credentials.
//!
//! What must always hold:
//! - the file is never in the data directory: whoever takes the disk takes no key. A file that
//!   an earlier release left there is read, and nothing is written to it;
//! - it is there whole or not at all, and its owner's alone;
//! - whatever can be found wrong is found before the disk is touched.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::FlockOperation;
use s3::Credentials;
use shardstore::file_disk::write_private;
use zeroize::Zeroizing;

use crate::sealing::{MASTER_KEY_DIGITS, MasterKey};
use crate::{UsageError, random};

/// The variables that name the root key, its secret, and the master key.
pub(crate) const KEY_VARIABLE: &str = "CULLET_ACCESS_KEY_ID";
pub(crate) const SECRET_VARIABLE: &str = "CULLET_SECRET_ACCESS_KEY";
const MASTER_VARIABLE: &str = "CULLET_MASTER_KEY";

/// The file that earlier releases kept in the data directory.
const EARLIER_FILE: &str = "cullet.credentials";

/// Where files are that are named after the set of disks, in the user's configuration.
const DIRECTORY: &str = "cullet";
const EXTENSION: &str = "credentials";

/// Shortest key and secret that are accepted; S3 clients refuse shorter ones too.
const KEY_CHARS_MIN: usize = 3;
const SECRET_CHARS_MIN: usize = 8;

/// Where the credentials file is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// This very file.
    File(PathBuf),
    /// A file in this directory, named after the set of disks.
    Directory(PathBuf),
    /// Nowhere, and why.
    Nowhere(String),
}

impl Place {
    /// From the flag or, without it, the user's configuration.
    pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<Place> {
        if let Some(file) = named {
            let file = std::path::absolute(file);
            return Ok(Place::File(file.context("--credentials names no file")?));
        }
        Ok(Place::in_configuration(
            std::env::var_os("XDG_CONFIG_HOME"),
            std::env::var_os("HOME"),
        ))
    }

    fn in_configuration(config: Option<OsString>, home: Option<OsString>) -> Place {
        // The specification of these directories says to ignore relative ones.
        let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
        let config = config.and_then(absolute);
        let config = config.or_else(|| Some(home.and_then(absolute)?.join(".config")));
        match config {
            Some(config) => Place::Directory(config.join(DIRECTORY)),
            None => Place::Nowhere("HOME is not set".to_owned()),
        }
    }

    /// Refuses a place on the disk itself.
    fn outside(self, disk: &Path) -> anyhow::Result<Place> {
        let disk = resolved(disk);
        let inside = |path: &Path| resolved(path).starts_with(&disk);
        match self {
            Place::File(file) if inside(&file) => Err(UsageError::new(format!(
                "--credentials {} lies in the data directory, where whoever takes the disk has \
                 the keys as well: name a file elsewhere",
                file.display()
            ))
            .into()),
            Place::Directory(directory) if inside(&directory) => Ok(Place::Nowhere(format!(
                "{} lies in the data directory",
                directory.display()
            ))),
            place => Ok(place),
        }
    }

    /// The file for a set of disks, or why there is none.
    fn of_set(&self, set: &[u8; 16]) -> Result<PathBuf, String> {
        match self {
            Place::File(file) => Ok(file.clone()),
            Place::Directory(directory) => Ok(directory.join(uuid(set)).with_extension(EXTENSION)),
            Place::Nowhere(why) => Err(why.clone()),
        }
    }
}

/// A UUID as it is usually written.
fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A path without links and dots, as far as it exists; the rest by its words.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut ancestors = path.ancestors();
    let existing = ancestors.find_map(|path| Some((path, path.canonicalize().ok()?)));
    let Some((existing, mut real)) = existing else {
        return path;
    };
    let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
    for component in rest.components() {
        match component {
            Component::ParentDir => drop(real.pop()),
            other => real.push(other),
        }
    }
    real
}

/// What a credentials file holds.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) root: Option<Credentials>,
    master: Option<MasterKey>,
}

impl Kept {
    /// Reads a file; one that is not there holds nothing.
    ///
    /// # Errors
    /// A sentence, if it cannot be read or makes no sense.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Kept> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Zeroizing::new(text),
            // Not a directory: the disk is a device, which holds no files.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(Kept::default());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        for variable in [KEY_VARIABLE, SECRET_VARIABLE, MASTER_VARIABLE] {
            anyhow::ensure!(
                is_unambiguous(&text, variable),
                "{} says {variable}=… more than once, and not the same: take the lines away that \
                 are wrong, but keep a copy, because a master key is not made twice",
                path.display()
            );
        }
        let kept = Kept::parse(&text).with_context(|| {
            format!(
                "{} does not hold {KEY_VARIABLE}=… and {SECRET_VARIABLE}=…, or {MASTER_VARIABLE}=… \
                 with {MASTER_KEY_DIGITS} hexadecimal digits; restore it, or move it away to have \
                 new ones made",
                path.display()
            )
        })?;
        warn_if_readable(path);
        Ok(kept)
    }

    fn parse(text: &str) -> Option<Kept> {
        let value = |variable: &'static str| values_of(text, variable).next();
        let os = |value: &str| OsString::from(value);
        let root = from_variables(value(KEY_VARIABLE).map(os), value(SECRET_VARIABLE).map(os));
        let master = match value(MASTER_VARIABLE) {
            Some(digits) => Some(MasterKey::parse(digits)?),
            None => None,
        };
        let kept = Kept {
            root: root.ok()?,
            master,
        };
        (kept.root.is_some() || kept.master.is_some()).then_some(kept)
    }
}

/// All that a file says of a variable.
fn values_of<'a>(text: &'a str, variable: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().map(str::trim);
    lines.filter_map(move |line| line.strip_prefix(variable)?.strip_prefix('='))
}

/// Which of two that differ is meant, nobody knows.
fn is_unambiguous(text: &str, variable: &str) -> bool {
    let first = values_of(text, variable).next();
    values_of(text, variable).all(|value| Some(value) == first)
}

/// What flags and environment say; to be checked before anything is touched.
pub(crate) struct Given {
    root: Option<Credentials>,
    master: Option<MasterKey>,
    place: Place,
    /// Where an earlier release kept the root key.
    earlier: PathBuf,
}

impl Given {
    /// # Errors
    /// [`UsageError`] for what cannot be used, and a sentence for files that cannot be read.
    pub(crate) fn new(named: Option<&Path>, disks: &[PathBuf]) -> anyhow::Result<Given> {
        let root = from_environment()?;
        let master = match std::env::var_os(MASTER_VARIABLE) {
            Some(digits) => Some(master_from_variable(&digits)?),
            None => None,
        };
        let place = disks
            .iter()
            .try_fold(Place::find(named)?, |place, disk| place.outside(disk))?;
        let given = Given {
            root,
            master,
            place,
            // Of a release that had sets of one disk only.
            earlier: disks
                .first()
                .map_or_else(PathBuf::new, |d| d.join(EARLIER_FILE)),
        };
        let mut kept = given.read_earlier()?.is_some();
        if let Place::File(file) = &given.place {
            kept |= Kept::read(file)?.root.is_some();
        }
        match &given.place {
            Place::Nowhere(why) if given.root.is_none() && !kept => Err(UsageError::new(format!(
                "there is no place for an access key that is made ({why}): set {KEY_VARIABLE} and \
                 {SECRET_VARIABLE}, or --credentials FILE"
            ))
            .into()),
            _ => Ok(given),
        }
    }

    fn read_earlier(&self) -> anyhow::Result<Option<Credentials>> {
        Ok(Kept::read(&self.earlier)?.root)
    }

    /// Looks everything up for a set of disks. `is_new`: no disk of it was in use before.
    ///
    /// # Errors
    /// A sentence for files that cannot be read.
    pub(crate) fn look_up(self, set: &[u8; 16], is_new: bool) -> anyhow::Result<Known> {
        let file = self.place.of_set(set);
        let kept = match &file {
            Ok(file) => Kept::read(file)?,
            Err(_) => Kept::default(),
        };
        if let (Some(given), Some(kept), Ok(file)) = (&self.master, &kept.master, &file)
            && !given.is(kept)
        {
            tracing::warn!(
                "the master key in {} is not used while {MASTER_VARIABLE} is set to another",
                file.display()
            );
        }
        let known = Known {
            earlier: self.read_earlier()?.map(|key| (key, self.earlier)),
            given: self.root,
            master: self.master.or(kept.master),
            kept: kept.root.zip(file.as_ref().ok().cloned()),
            file,
            is_new,
        };
        known.make_place()?;
        Ok(known)
    }
}

/// Everything that was found, before what is missing is made.
pub(crate) struct Known {
    given: Option<Credentials>,
    kept: Option<(Credentials, PathBuf)>,
    earlier: Option<(Credentials, PathBuf)>,
    master: Option<MasterKey>,
    file: Result<PathBuf, String>,
    is_new: bool,
}

/// What the server runs with.
pub(crate) struct Settled {
    pub(crate) root: Credentials,
    /// `None`: made when it is needed first.
    pub(crate) master: Option<MasterKey>,
    /// Where that is to be kept, or why nowhere.
    pub(crate) file: Result<PathBuf, String>,
    /// For standard output: which key is accepted.
    pub(crate) said: String,
}

impl Known {
    /// Decides for a root key, and makes one if there is none; then a master key with it.
    ///
    /// # Errors
    /// A sentence, if what was made cannot be kept.
    pub(crate) fn settle(mut self) -> anyhow::Result<Settled> {
        let (root, said) = if let Some(given) = self.given.take() {
            let said = self.say_given(&given);
            (given, said)
        } else if let Some((kept, file)) = self.kept.take() {
            let mut said = say_kept(&kept, &file);
            if let Some((_, earlier)) = &self.earlier {
                let (earlier, file) = (earlier.display(), file.display());
                said.push_str(&format!("{earlier} is not used, because {file} is there\n"));
            }
            (kept, said)
        } else if let Some((kept, earlier)) = self.earlier.take() {
            self.warn_of_earlier(&earlier);
            let said = say_kept(&kept, &earlier);
            (kept, said)
        } else {
            return self.make();
        };
        Ok(Settled {
            root,
            master: self.master,
            file: self.file,
            said,
        })
    }

    /// If a key is to be made, sees that there is a directory for it, before the disk is touched.
    fn make_place(&self) -> anyhow::Result<()> {
        let found = self.given.is_some() || self.kept.is_some() || self.earlier.is_some();
        match self.file.as_ref().map(|file| file.parent()) {
            Ok(Some(directory)) if !found => make_directory(directory).with_context(|| {
                format!(
                    "there is no place for a new access key: set {KEY_VARIABLE} and \
                     {SECRET_VARIABLE}, or say with --credentials FILE where it can be kept, \
                     because {} cannot be made",
                    directory.display()
                )
            }),
            _ => Ok(()),
        }
    }

    fn make(self) -> anyhow::Result<Settled> {
        let file = self.file.map_err(|why| {
            anyhow::anyhow!("there is no place for a new access key ({why}); set {KEY_VARIABLE}")
        })?;
        let root = Credentials {
            access_key_id: random::access_key_id()?,
            secret_access_key: random::secret()?,
        };
        let (master, made) = match self.master {
            Some(master) => (master, None),
            None => {
                let made = MasterKey::generate()?;
                let line = master_line(&made);
                (made, Some(line))
            }
        };
        let lines = root_lines(&root);
        let made = made.as_ref().map_or("", |line| line.as_str());
        let path = file.display();
        add_lines(&file, |kept| {
            let lines = Zeroizing::new(format!("{lines}{made}"));
            anyhow::ensure!(
                kept.root.is_none() && (made.is_empty() || kept.master.is_none()),
                "another server kept new keys in {path} at the same moment: start this one again"
            );
            Ok(Some(lines))
        })?;
        let before = match self.is_new {
            true => String::new(),
            false => format!(
                "this disk was in use before, and {path} holds no access key for it: if that was \
                 lost, restore it and start again, or go on with the new one\n"
            ),
        };
        let said = format!(
            "{before}a new access key, because {KEY_VARIABLE} is not set. It is kept in {path}, its \
             secret is shown only this once,\nand no other key of the root account is accepted, \
             not even one that was given by the environment before.\nKeep a copy of the file: its \
             master key alone opens the secrets of the keys that `cullet key` makes.\n{lines}"
        );
        Ok(Settled {
            root,
            master: Some(master),
            file: Ok(file),
            said,
        })
    }

    /// Which key is accepted when the environment gave it; a kept one is not, meanwhile.
    fn say_given(&self, given: &Credentials) -> String {
        let id = &given.access_key_id;
        let mut said = format!("access key {id}, from the environment\n");
        for (key, path) in self.kept.iter().chain(&self.earlier) {
            let same = key.access_key_id == *id && key.secret_access_key == given.secret_access_key;
            if !same {
                said.push_str(&format!(
                    "the key in {} is not accepted while {KEY_VARIABLE} is set\n",
                    path.display()
                ));
            }
        }
        said
    }

    fn warn_of_earlier(&self, earlier: &Path) {
        let earlier = std::path::absolute(earlier).unwrap_or_else(|_| earlier.to_owned());
        let from = earlier.display();
        let how = match &self.file {
            Ok(file) if file.exists() => format!(
                "append it to the credentials file: cat '{from}' >> '{to}' && rm '{from}'",
                to = file.display()
            ),
            Ok(file) => format!(
                "move it: mkdir -p -m 700 '{directory}' && mv '{from}' '{to}'",
                directory = file.parent().unwrap_or(Path::new("/")).display(),
                to = file.display()
            ),
            Err(_) => "move it elsewhere, and name it with --credentials FILE".to_owned(),
        };
        tracing::warn!(
            "the access key lies beside the data, where whoever takes the disk has it; {how}"
        );
    }
}

fn say_kept(kept: &Credentials, path: &Path) -> String {
    let id = &kept.access_key_id;
    format!("access key {id}, its secret is in {}\n", path.display())
}

/// The lines of the file, also fit for a shell.
fn root_lines(credentials: &Credentials) -> String {
    format!(
        "{KEY_VARIABLE}={}\n{SECRET_VARIABLE}={}\n",
        credentials.access_key_id, credentials.secret_access_key
    )
}

fn master_line(master: &MasterKey) -> Zeroizing<String> {
    Zeroizing::new(format!("{MASTER_VARIABLE}={}\n", master.digits().as_str()))
}

/// Makes a master key and keeps it: durable when this returns. `false`: the file holds one by
/// now, which this is.
pub(crate) fn make_master(file: &Path) -> anyhow::Result<(MasterKey, bool)> {
    let (mut master, mut made) = (MasterKey::generate()?, true);
    add_lines(file, |kept| match kept.master {
        Some(kept) => {
            (master, made) = (kept, false);
            Ok(None)
        }
        None => Ok(Some(master_line(&master))),
    })?;
    Ok((master, made))
}

/// Adds lines to what the file holds, or begins it. `lines` sees what that is, and no other
/// server changes it meanwhile.
fn add_lines(
    file: &Path,
    lines: impl FnOnce(Kept) -> anyhow::Result<Option<Zeroizing<String>>>,
) -> anyhow::Result<()> {
    let failed = || format!("cannot keep new keys in {}", file.display());
    // A link stays one, and what it leads to is written.
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let directory = file.parent().unwrap_or(Path::new("/"));
    make_directory(directory).with_context(failed)?;
    // The file itself is replaced, so that a lock on it would hold nobody up.
    let lock = std::fs::File::open(directory).with_context(failed)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).with_context(failed)?;
    let Some(lines) = lines(Kept::read(&file)?)? else {
        return Ok(());
    };
    let mut text = match std::fs::read_to_string(&file) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Zeroizing::default(),
        Err(error) => return Err(error).with_context(failed),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&lines);
    write_private(&file, text.as_bytes()).with_context(failed)
}

/// A directory of the owner's alone, and durable, with those that it is in, if it is not there.
fn make_directory(directory: &Path) -> std::io::Result<()> {
    let missing: Vec<&Path> = directory
        .ancestors()
        .take_while(|path| !path.is_dir())
        .collect();
    for path in missing.into_iter().rev() {
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            // By another server that starts at the same time.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        if let Some(parent) = path.parent() {
            std::fs::File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

fn warn_if_readable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let others = |metadata: std::fs::Metadata| metadata.permissions().mode() & 0o077 != 0;
    if std::fs::metadata(path).is_ok_and(others) {
        tracing::warn!(
            path = %path.display(),
            "others than its owner may read the file of the access key; `chmod 600` it"
        );
    }
}

/// The root key that the environment names.
///
/// # Errors
/// [`UsageError`] if only one of the two is set, or one of them cannot be used.
pub(crate) fn from_environment() -> Result<Option<Credentials>, UsageError> {
    from_variables(
        std::env::var_os(KEY_VARIABLE),
        std::env::var_os(SECRET_VARIABLE),
    )
}

/// The credentials files in the user's configuration.
pub(crate) fn files_in_configuration() -> Vec<PathBuf> {
    let Ok(Place::Directory(directory)) = Place::find(None) else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|found| found == EXTENSION))
        .collect();
    files.sort();
    files
}

fn master_from_variable(digits: &std::ffi::OsStr) -> Result<MasterKey, UsageError> {
    let master = digits.to_str().and_then(MasterKey::parse);
    master.ok_or_else(|| {
        UsageError::new(format!(
            "{MASTER_VARIABLE} cannot be used: it is {MASTER_KEY_DIGITS} hexadecimal digits, as \
             from `openssl rand -hex 32`"
        ))
    })
}

fn from_variables(
    key: Option<OsString>,
    secret: Option<OsString>,
) -> Result<Option<Credentials>, UsageError> {
    let (key, secret) = match (key, secret) {
        (None, None) => return Ok(None),
        (Some(key), Some(secret)) => (key, secret),
        (set, _) => {
            let (set, unset) = match set {
                Some(_) => (KEY_VARIABLE, SECRET_VARIABLE),
                None => (SECRET_VARIABLE, KEY_VARIABLE),
            };
            return Err(UsageError::new(format!(
                "{set} is set, but {unset} is not: set both, or neither to have a key made"
            )));
        }
    };
    let key = checked(KEY_VARIABLE, key, KEY_CHARS_MIN)?;
    let secret = checked(SECRET_VARIABLE, secret, SECRET_CHARS_MIN)?;
    Ok(Some(Credentials {
        access_key_id: key,
        secret_access_key: secret,
    }))
}

fn checked(variable: &str, value: OsString, chars_min: usize) -> Result<String, UsageError> {
    let usable = |value: &String| {
        value.len() >= chars_min
            && value.bytes().all(|byte| byte.is_ascii_graphic())
            && (variable != KEY_VARIABLE || !value.contains('/'))
    };
    value.into_string().ok().filter(usable).ok_or_else(|| {
        UsageError::new(format!(
            "{variable} cannot be used: it needs at least {chars_min} printable ASCII characters, \
             without spaces; an access key id, no slashes either"
        ))
    })
}

#[cfg(test)]
mod tests;
