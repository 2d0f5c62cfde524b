//! What befalls the disks of a set between and under loads: directories vanish, files are cut
//! short or overwritten here and there; and how that is made good, through the server.
//!
//! What must hold: at no time more disks are harmed than the set has parity, until the server
//! itself says that everything is made up for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::random::Random;
use crate::s3::Client;
use crate::server::credentials;
use crate::torture::ANSWER_TIMEOUT;

/// How long a set may take to make up for what was lost, at the end of a run.
const REST_MAX: Duration = Duration::from_secs(180);

/// What is overwritten at a time, in bytes.
const SCRATCH_BYTES: usize = 4096;

/// What happened to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// Its directory is somewhere else, and comes back.
    Away,
    /// It is to be replaced.
    Lost,
}

/// The disks of a set, and what befell them.
#[derive(Debug)]
pub struct Disks {
    directory: PathBuf,
    /// Where the members are.
    pub paths: Vec<PathBuf>,
    parity: usize,
    harmed: BTreeMap<PathBuf, Harm>,
    /// Disks that were replaced while they were live, until they are empty.
    leaving: Vec<PathBuf>,
    /// Disks that were to be replaced by others when the server was killed: it may have begun.
    doubtful: Vec<(PathBuf, PathBuf)>,
    /// Losses since all was made up for, of disks that were replaced since as well.
    losses: usize,
    made: usize,
    random: Random,
    pub counts: BTreeMap<&'static str, u64>,
}

impl Disks {
    /// So many disks below a directory, made by the server.
    pub fn new(directory: &Path, count: usize, seed: u64) -> Disks {
        let parity = match count {
            0..=1 => 0,
            2..=3 => 1,
            4..=7 => 2,
            8..=11 => 3,
            _ => 4,
        };
        let mut disks = Disks {
            directory: directory.to_owned(),
            paths: Vec::new(),
            parity,
            harmed: BTreeMap::new(),
            leaving: Vec::new(),
            doubtful: Vec::new(),
            losses: 0,
            made: 0,
            random: Random::of(seed, u64::MAX / 3),
            counts: BTreeMap::new(),
        };
        for _ in 0..count {
            let path = disks.next_path();
            disks.paths.push(path);
        }
        disks
    }

    fn next_path(&mut self) -> PathBuf {
        self.made += 1;
        self.directory.join(format!("disk{}", self.made))
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Harms a disk if one more may be, while the server runs (`is_up`) or between two runs.
    pub fn harm(&mut self, is_up: bool) -> Result<()> {
        let sound: Vec<PathBuf> = self
            .paths
            .iter()
            .filter(|path| !self.harmed.contains_key(*path))
            .cloned()
            .collect();
        if self.losses >= self.parity || sound.is_empty() {
            return Ok(());
        }
        let path = sound[self.random.below(sound.len() as u64) as usize].clone();
        self.losses += 1;
        // A file that the server has open is not cut short under it on some machines; between
        // runs everything happens.
        let harm = match self.random.below(4) {
            0 => {
                self.count("disks that vanished and came back");
                fs::rename(&path, away(&path)).context("cannot take a disk away")?;
                Harm::Away
            }
            1 => {
                self.count("disks removed");
                fs::remove_dir_all(&path).context("cannot remove a disk")?;
                Harm::Lost
            }
            2 if !is_up => {
                self.count("disks cut short");
                let file = disk_file(&path)?;
                let len = file.metadata()?.len();
                file.set_len(self.random.below(len.max(1)))?;
                Harm::Lost
            }
            _ => {
                self.count("disks overwritten in places");
                self.scratch(&path)?;
                Harm::Lost
            }
        };
        self.harmed.insert(path, harm);
        Ok(())
    }

    /// Overwrites pages of what is in use.
    fn scratch(&mut self, path: &Path) -> Result<()> {
        let file = disk_file(path)?;
        let len = file.metadata()?.len();
        let mut page = [0; SCRATCH_BYTES];
        let mut left = 20;
        for _ in 0..5_000 {
            let at = self.random.below(len / SCRATCH_BYTES as u64) * SCRATCH_BYTES as u64;
            if left == 0
                || file.read_at(&mut page, at)? < SCRATCH_BYTES
                || page == [0; SCRATCH_BYTES]
            {
                continue;
            }
            left -= 1;
            for byte in &mut page {
                *byte ^= self.random.below(256) as u8;
            }
            file.write_all_at(&page, at)?;
        }
        Ok(())
    }

    /// Between two runs: disks that were taken away are there again.
    pub fn return_some(&mut self) -> Result<()> {
        for (path, harm) in self.harmed.clone() {
            if harm == Harm::Away && self.random.one_in(2) {
                self.bring_back(&path)?;
            }
        }
        Ok(())
    }

    fn bring_back(&mut self, path: &Path) -> Result<()> {
        // The server may have made a directory where it found none.
        let _ = fs::remove_dir_all(path);
        fs::rename(away(path), path).context("cannot bring a disk back")?;
        self.harmed.remove(path);
        Ok(())
    }

    /// What to name to the server: those that are gone as well, as a person would.
    pub fn named(&self) -> Vec<PathBuf> {
        self.paths.iter().chain(&self.leaving).cloned().collect()
    }

    /// A start was refused because a disk has left: not when, but that it would, was known.
    pub fn has_left(&mut self, words: &str) -> bool {
        let is_it = |path: &PathBuf| {
            words.contains("left the set") && words.contains(&format!("{} (", path.display()))
        };
        if let Some(at) = self.doubtful.iter().position(|(old, _)| is_it(old)) {
            let (old, new) = self.doubtful.swap_remove(at);
            self.harmed.remove(&old);
            self.paths.retain(|path| *path != old);
            self.paths.push(new);
            return true;
        }
        let before = self.leaving.len();
        self.leaving.retain(|path| !is_it(path));
        self.leaving.len() < before
    }

    /// Has lost disks replaced, and says whether the server says that everything is made up for.
    pub fn mend(&mut self, address: &str) -> Result<bool> {
        let state = self.state(address)?;
        for (path, harm) in self.harmed.clone() {
            if harm == Harm::Lost {
                self.replace(address, &state, &path)?;
            }
        }
        if !self.harmed.is_empty() {
            return Ok(false);
        }
        let state = self.state(address)?;
        let disks = state["disks"].as_array().cloned().unwrap_or_default();
        let is_named = |path: &PathBuf| {
            disks
                .iter()
                .any(|disk| disk["path"] == path.display().to_string())
        };
        self.leaving.retain(is_named);
        for disk in disks.iter().filter(|disk| disk["state"] == "failed") {
            // It failed while it was away, and is there again.
            let _ = self.ask(address, "add", &json!({"path": disk["path"]}));
        }
        let all_live = self.leaving.is_empty()
            && disks.len() == self.paths.len()
            && disks.iter().all(|disk| disk["state"] == "live");
        let missing = state["stripes"].as_array().cloned().unwrap_or_default();
        let missing: u64 = missing.iter().skip(1).filter_map(Value::as_u64).sum();
        let is_whole = all_live
            && state["settled"] == true
            && state["tidy"] == true
            && missing + state["stripes_lost"].as_u64().unwrap_or(1) == 0;
        if is_whole && self.losses > 0 {
            self.losses = 0;
            self.count("times everything was made up for");
        }
        Ok(is_whole)
    }

    /// At the end all disks are brought back or replaced, and everything is made up for.
    pub fn settle(&mut self, address: &str) -> Result<()> {
        for (path, harm) in self.harmed.clone() {
            if harm == Harm::Away {
                self.bring_back(&path)?;
                let _ = self.ask(address, "add", &json!({"path": path}));
            }
        }
        let until = Instant::now() + REST_MAX;
        while !self.mend(address)? {
            if Instant::now() > until {
                let state = self.state(address)?;
                bail!("the set does not make up for what was lost: {state:#}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn replace(&mut self, address: &str, state: &Value, path: &Path) -> Result<()> {
        let none = Vec::new();
        let disks = state["disks"].as_array().unwrap_or(&none);
        let here = disks
            .iter()
            .find(|disk| disk["path"] == path.display().to_string());
        // One that could not be opened has no path: any that is missing and was not moved away.
        let is_away = self.harmed.values().any(|harm| *harm == Harm::Away);
        let missing = disks
            .iter()
            .find(|disk| disk["state"] == "missing" && !is_away);
        let Some(old) = here.or(missing) else {
            return Ok(());
        };
        let new = self.next_path();
        std::fs::create_dir_all(&new)?;
        let replaced = self.ask(
            address,
            "replace",
            // By its id: a number may be another disk's by now.
            &json!({"disk": old["id"], "path": new}),
        );
        if let Err(error) = replaced {
            // Too few are live for now, or it is on its way out already.
            println!("  {} is not replaced yet: {error:#}", path.display());
            self.doubtful.push((path.to_owned(), new));
            return Ok(());
        }
        self.count("disks replaced");
        self.harmed.remove(path);
        self.paths.retain(|other| other != path);
        if old["state"] == "live" || old["state"] == "draining" {
            self.leaving.push(path.to_owned());
        }
        self.paths.push(new);
        Ok(())
    }

    fn state(&self, address: &str) -> Result<Value> {
        self.ask(address, "list", &json!({}))
    }

    fn ask(&self, address: &str, operation: &str, fields: &Value) -> Result<Value> {
        let mut client = Client::new(address, &credentials(), ANSWER_TIMEOUT);
        let path = format!("/_cullet/admin/disks/{operation}");
        let body = fields.to_string();
        let answer = client.request("POST", &path, &[], &[], body.as_bytes())?;
        let document: Value = serde_json::from_slice(&answer.body)
            .with_context(|| format!("no JSON answers disks/{operation}"))?;
        if answer.status != 200 {
            bail!("disks/{operation} is refused: {document}");
        }
        Ok(document)
    }
}

fn away(path: &Path) -> PathBuf {
    path.with_extension("away")
}

/// The file of a disk, whichever kind it is of.
fn disk_file(path: &Path) -> Result<File> {
    let mut files = fs::read_dir(path)?.filter_map(|entry| Some(entry.ok()?.path()));
    let file = files.find(|file| {
        file.extension()
            .is_some_and(|extension| extension == "disk")
    });
    let file = file.with_context(|| format!("{} holds no disk", path.display()))?;
    Ok(File::options().read(true).write(true).open(file)?)
}
