//! One server process: started, awaited, killed.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench::sigv4::Credentials;
use rustix::process::Signal;

/// How a server is started, again and again.
#[derive(Debug)]
pub struct Launch {
    pub program: PathBuf,
    /// Before the server's own arguments.
    pub arguments: Vec<String>,
    pub disk: PathBuf,
    /// The others of a set.
    pub more_disks: Vec<PathBuf>,
    pub memory: String,
    pub capacity: Option<String>,
    pub credentials: Credentials,
    /// Standard error is appended here.
    pub log: PathBuf,
    /// For a server on the volatile disk, which draws from a seed of its own at each start.
    pub seed: Option<u64>,
    /// How often it was started.
    pub starts: AtomicU64,
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    child: Child,
    started: Instant,
    ready: mpsc::Receiver<String>,
}

impl Launch {
    pub fn start(&self) -> Result<Server> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        if let Some(seed) = self.seed {
            let start = self.starts.fetch_add(1, Ordering::Relaxed);
            let seed = seed ^ start.rotate_right(16);
            command.args(["serve", "--seed", &seed.to_string()]);
        }
        command.args(&self.arguments);
        command.args(["--listen", "127.0.0.1:0", "--memory", &self.memory]);
        if let Some(capacity) = &self.capacity {
            command.args(["--disk-capacity", capacity]);
        }
        command.arg(&self.disk).args(&self.more_disks);
        command.env("CULLET_ACCESS_KEY_ID", &self.credentials.access_key);
        command.env("CULLET_SECRET_ACCESS_KEY", &self.credentials.secret_key);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let stdout = child.stdout.take().context("the output was piped")?;
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("listening on http://") {
                    let _ = sender.send(address.trim().to_owned());
                }
            }
        });
        Ok(Server {
            child,
            started,
            ready,
        })
    }
}

impl Server {
    /// The address, once requests are accepted, and how long that took.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<(String, Duration)> {
        let deadline = self.started + timeout;
        loop {
            match self.ready.recv_timeout(Duration::from_millis(1)) {
                Ok(address) => return Ok((address, self.started.elapsed())),
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    bail!("the server was not ready after {timeout:?}");
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("the server ended by itself before it was ready: {status}");
                }
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ended without having been told to.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).context("cannot signal the server")
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("cannot kill the server")?;
        self.child.wait().context("cannot wait for the server")?;
        Ok(())
    }

    /// SIGTERM; the exit status must be success.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.child.wait().context("cannot wait for the server")?;
        if !status.success() {
            bail!("after SIGTERM the server ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A scratch directory below `base`.
pub fn scratch(base: Option<&Path>, name: &str) -> Result<PathBuf> {
    let base = base.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let path = base.join(format!("cullet-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

/// What all runs sign with.
pub fn credentials() -> Credentials {
    Credentials {
        access_key: "TORTUREACCESSKEY".to_owned(),
        secret_key: "torture/secret/key/of/forty/characters00".to_owned(),
        region: "us-east-1".to_owned(),
    }
}
