//! `cullet bench s3` as a process, and what it says.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use bench::sigv4::Credentials;
use serde_json::Value;

use super::BUCKET;
use super::peers::find;

/// The load for one server, in its bucket.
#[derive(Debug, Clone)]
pub struct Bench {
    program: PathBuf,
    address: String,
    credentials: Credentials,
    pids: Vec<u32>,
    is_in_real_time: bool,
}

/// A load that is under way. Dropping it ends it.
#[derive(Debug)]
pub struct Running(Option<Child>);

/// The document of `--json`.
#[derive(Debug)]
pub struct Figures(Value);

impl Bench {
    pub fn new(program: &Path, address: &str, credentials: &Credentials, pids: &[u32]) -> Bench {
        Bench {
            program: program.to_owned(),
            address: address.to_owned(),
            credentials: credentials.clone(),
            pids: pids.to_vec(),
            is_in_real_time: false,
        }
    }

    /// The same with the scheduler's real-time class, where that is possible: on a machine that
    /// it shares with the server, what a client waits for a processor would count as the
    /// server's latency.
    pub fn in_real_time(&self) -> Bench {
        let is_possible = rustix::process::geteuid().is_root() && find("chrt").is_some();
        Bench {
            is_in_real_time: is_possible,
            ..self.clone()
        }
    }

    /// Where the server listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts one with arguments as they stand on a command line, between blanks.
    pub fn start(&self, arguments: &str) -> Result<Running> {
        let mut command = if self.is_in_real_time {
            let mut command = Command::new("chrt");
            command.args(["--fifo", "1"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.args(["bench", "s3", "--json", "--endpoint"]);
        command.arg(format!("http://{}", self.address));
        command.args(["--region", &self.credentials.region, "--bucket", BUCKET]);
        command.args(arguments.split_whitespace());
        for pid in &self.pids {
            command.args(["--pid", &pid.to_string()]);
        }
        command.env("CULLET_ACCESS_KEY_ID", &self.credentials.access_key);
        command.env("CULLET_SECRET_ACCESS_KEY", &self.credentials.secret_key);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", self.program.display()))?;
        Ok(Running(Some(child)))
    }

    /// Runs one; every request must succeed.
    pub fn run(&self, arguments: &str) -> Result<Figures> {
        let (figures, failed) = self.start(arguments)?.wait()?;
        match failed {
            None => Ok(figures),
            Some(failed) => bail!("`cullet bench s3 {arguments}`: {failed}"),
        }
    }
}

impl Running {
    /// What came of it, and what it said if requests failed.
    pub fn wait(mut self) -> Result<(Figures, Option<String>)> {
        let child = self.0.take().context("it is waited for once")?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let figures = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`cullet bench s3` gave no figures: {said}"))?;
        Ok((Figures(figures), (!output.status.success()).then_some(said)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Figures {
    /// A number by its JSON pointer; NaN if there is none.
    pub fn number(&self, pointer: &str) -> f64 {
        let value = self.0.pointer(pointer).and_then(Value::as_f64);
        value.unwrap_or(f64::NAN)
    }

    pub fn rate(&self) -> f64 {
        self.number("/requests_per_second")
    }

    /// User and kernel time of the server for each request, in microseconds.
    pub fn server_cpu_us(&self) -> f64 {
        self.number("/server/cpu_seconds_per_1000_requests") * 1e3
    }

    /// The same of the client.
    pub fn client_cpu_us(&self) -> f64 {
        self.number("/client/cpu_seconds_per_1000_requests") * 1e3
    }

    /// Errors by kind.
    pub fn errors(&self) -> Vec<(String, u64)> {
        let errors = self.0.get("errors").and_then(Value::as_object);
        let errors = errors.into_iter().flatten();
        errors
            .map(|(kind, count)| (kind.clone(), count.as_u64().unwrap_or(0)))
            .collect()
    }
}
