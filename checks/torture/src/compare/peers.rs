//! The programs that the server is compared with. Each is ended when its value is dropped.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench::sigv4::Credentials;
use serde_json::Value;

use super::BUCKET;

const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// A process that serves; killed when it is dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    pub address: String,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx's master takes its workers along only when it is asked.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    /// The process and its children.
    pub fn pids(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        std::iter::once(pid).chain(children).collect()
    }

    fn wait_ready(&mut self, log: &Path) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while std::net::TcpStream::connect(&self.address).is_err() {
            if Instant::now() > deadline || self.child.try_wait()?.is_some() {
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("it does not listen on {}: {said}", self.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Where a program is, or `None`; also where distributions put servers.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places
        .map(|place| place.join(name))
        .find(|path| path.is_file())
}

/// nginx with `documents` below its root, set up as one who wants it fast would.
pub fn nginx(program: &Path, documents: &Path, directory: &Path) -> Result<Peer> {
    let directory = directory.join("nginx");
    fs::create_dir_all(&directory)?;
    // Its workers change to another user when it is started as root.
    for open in documents.ancestors().take(2) {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
    }
    let address = free_address()?;
    let here = directory.display();
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let settings = format!(
        "daemon off; {user} worker_processes 2; pid {here}/pid; error_log {here}/log;
         events {{ worker_connections 1024; }}
         http {{
             access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
             keepalive_requests 1000000000; keepalive_timeout 600;
             open_file_cache max=100000 inactive=600s; open_file_cache_valid 600s;
             client_body_temp_path {here}/1; proxy_temp_path {here}/2; fastcgi_temp_path {here}/3;
             uwsgi_temp_path {here}/4; scgi_temp_path {here}/5;
             server {{ listen {address}; root {}; }}
         }}",
        documents.display()
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, settings)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(&directory).arg("-c").arg(&file);
    let mut peer = spawn(&mut command, &directory.join("said"), address)?;
    peer.wait_ready(&directory.join("said")).context("nginx")?;
    Ok(peer)
}

/// Garage on one node, with everything it writes flushed; and what to sign with.
pub fn garage(program: &Path, directory: &Path) -> Result<(Peer, Credentials)> {
    let directory = directory.join("garage");
    fs::create_dir_all(&directory)?;
    let (s3, rpc) = (free_address()?, free_address()?);
    let here = directory.display();
    let settings = format!(
        "metadata_dir = '{here}/meta'
         data_dir = '{here}/data'
         metadata_fsync = true
         data_fsync = true
         replication_factor = 1
         rpc_bind_addr = '{rpc}'
         rpc_public_addr = '{rpc}'
         rpc_secret = '{}'
         [s3_api]
         api_bind_addr = '{s3}'
         s3_region = 'us-east-1'",
        "5e".repeat(32)
    );
    let file = directory.join("garage.toml");
    fs::write(&file, settings)?;
    let garage = |arguments: &str| {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(&file)
            .args(arguments.split_whitespace());
        command.env("RUST_LOG", "warn");
        command
    };
    let log = directory.join("log");
    let mut peer = spawn(&mut garage("server"), &log, s3)?;
    peer.wait_ready(&log).context("garage")?;
    let node = said(&mut garage("node id -q"))?;
    let node = node.trim().split('@').next().unwrap_or_default().to_owned();
    let credentials = Credentials {
        access_key: format!("GK{}", "0123456789ab".repeat(2)),
        secret_key: "ab".repeat(32),
        region: "us-east-1".to_owned(),
    };
    let key = &credentials.access_key;
    for arguments in [
        format!("layout assign -z one -c 20G {node}"),
        "layout apply --version 1".to_owned(),
        format!(
            "key import --yes -n compare {key} {}",
            credentials.secret_key
        ),
        format!("bucket create {BUCKET}"),
        format!("bucket allow --read --write --owner {BUCKET} --key {key}"),
    ] {
        said(&mut garage(&arguments))?;
    }
    Ok((peer, credentials))
}

/// Requests and bytes per second that fio's writers get, each waiting for its own fdatasync.
pub struct Written {
    pub per_second: f64,
    pub bytes_per_second: f64,
}

/// `writers` append pieces of `size` bytes to parts of one file and flush after each.
pub fn fio(
    program: &Path,
    directory: &Path,
    size: u64,
    writers: u64,
    seconds: u64,
) -> Result<Written> {
    const PIECES_EACH: u64 = 4096;
    let file = directory.join("fio");
    let each = (size * PIECES_EACH).min(256 << 20);
    let mut command = Command::new(program);
    command.args([
        "--name=p",
        "--rw=write",
        "--fdatasync=1",
        "--time_based",
        "--group_reporting",
    ]);
    command.arg(format!("--filename={}", file.display()));
    command.arg(format!("--size={}", each * writers));
    command.arg(format!("--bs={size}"));
    command.arg(format!("--numjobs={writers}"));
    command.arg(format!("--offset_increment={each}"));
    command.arg(format!("--io_size={each}"));
    command.arg(format!("--runtime={seconds}"));
    command.arg("--output-format=json");
    let output = said(&mut command);
    let _ = fs::remove_file(file);
    let output = output?;
    // Notes may stand before the document.
    let document = output.find('{').map_or("", |at| &output[at..]);
    let document: Value = serde_json::from_str(document).context("fio's output is no JSON")?;
    let number = |name: &str| {
        let value = document.pointer(&format!("/jobs/0/write/{name}"));
        value
            .and_then(Value::as_f64)
            .with_context(|| format!("fio does not tell {name}"))
    };
    Ok(Written {
        per_second: number("iops")?,
        bytes_per_second: number("bw_bytes")?,
    })
}

fn spawn(command: &mut Command, log: &Path, address: String) -> Result<Peer> {
    let output = fs::File::create(log)?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let child = command.spawn();
    let child = child.with_context(|| format!("cannot start {:?}", command.get_program()))?;
    Ok(Peer { child, address })
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A port that was free a moment ago.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
