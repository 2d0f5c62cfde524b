//! The built binary as an operator sees it: what it refuses and how it says so, what it prints
//! once, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const KEY: &str = "CULLET_ACCESS_KEY_ID";
const SECRET: &str = "CULLET_SECRET_ACCESS_KEY";

/// A directory of this test's own, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("cullet-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn cullet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cullet"));
    command
        .env_remove(KEY)
        .env_remove(SECRET)
        .env_remove("CULLET_CREDENTIALS_FILE")
        .env_remove("CULLET_MASTER_KEY")
        // Never that of whoever runs the tests.
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .stdin(Stdio::null());
    command
}

fn server(disk: &Path) -> Command {
    let mut command = cullet();
    command.args(["server", "--listen", "127.0.0.1:0", "--memory", "64MiB"]);
    command.args(["--disk-capacity", "256MiB"]).arg(disk);
    command.env("XDG_CONFIG_HOME", disk.with_extension("config"));
    command
}

/// Where the credentials file of a disk's server is.
fn credentials_file(disk: &Path) -> PathBuf {
    let directory = disk.with_extension("config").join("cullet");
    let mut files = std::fs::read_dir(directory).unwrap();
    let file = files.next().expect("one file").unwrap().path();
    assert!(files.next().is_none(), "one file only");
    assert_eq!(file.extension().unwrap(), "credentials");
    file
}

/// A running server, killed at the test's end if it has not ended before.
struct Running {
    child: Child,
    address: SocketAddr,
    /// What it printed before it listened.
    printed: String,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut printed = String::new();
        let address = loop {
            let line = lines
                .next()
                .expect("the server ended before it listened")
                .unwrap();
            if let Some(address) = line.strip_prefix("listening on http://") {
                break address.parse().unwrap();
            }
            printed.push_str(&line);
            printed.push('\n');
        };
        // Keeps the pipe open for what comes later.
        std::thread::spawn(move || lines.for_each(drop));
        Running {
            child,
            address,
            printed,
        }
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).unwrap();
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    /// Sends a signal to this process and no other.
    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    fn wait(&mut self) -> i32 {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("it ended by itself, not by a signal");
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "it does not end"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn assert_refused(output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn wrong_usage_ends_with_status_2() {
    let scratch = Scratch::new("usage");
    let disk = scratch.join("disk");
    let refused = |command: &mut Command, words: &[&str]| {
        assert_refused(&command.output().unwrap(), 2, words);
        assert!(!disk.exists(), "nothing may be touched");
    };
    refused(&mut cullet(), &["Usage"]);
    refused(cullet().arg("server"), &["DISK"]);
    refused(cullet().args(["server", "a", "a"]), &["a is named twice"]);
    refused(
        server(&disk).args(["--memory", "1MiB"]),
        &["cannot be used multiple times"],
    );
    refused(
        cullet().args(["server", "--memory", "1MiB"]).arg(&disk),
        &["at least 64MiB"],
    );
    refused(
        cullet().args(["server", "--memory", "much"]).arg(&disk),
        &["512MiB"],
    );
    refused(
        cullet().args(["server", "--listen", "nowhere"]).arg(&disk),
        &["127.0.0.1:9000"],
    );
    refused(
        cullet()
            .args(["server", "--disk-capacity", "1MiB"])
            .arg(&disk),
        &["at least 64MiB"],
    );
    refused(server(&disk).args(["--log", "x=y"]), &["--log"]);
    // Once these were found only after the disk was formatted and a key was made.
    let long = "r".repeat(65);
    for region in ["EU", "", "a b", &long] {
        refused(server(&disk).args(["--region", region]), &["--region"]);
    }
    refused(server(&disk).env(KEY, "key"), &[SECRET, "is not"]);
    refused(server(&disk).env(SECRET, "secret-secret"), &[KEY, "is not"]);
    refused(
        server(&disk).env(KEY, "key").env(SECRET, "short"),
        &[SECRET, "at least"],
    );
}

#[test]
fn help_and_version_end_with_status_0() {
    for args in [
        &["--version"][..],
        &["help"],
        &["server", "--help"],
        &["rescue", "--help"],
        &["account", "--help"],
        &["key", "--help"],
    ] {
        let output = cullet().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("cullet"),
            "{args:?}"
        );
    }
}

#[test]
fn directories_that_cannot_be_used_are_refused() {
    let scratch = Scratch::new("foreign");
    let foreign = scratch.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
    let output = server(&foreign).output().unwrap();
    assert_refused(&output, 1, &["foreign", "holds no cullet data"]);
    assert_eq!(
        std::fs::read_dir(&foreign).unwrap().count(),
        1,
        "nothing was added"
    );

    // Not even the superuser can make a directory below a file.
    let below_a_file = foreign.join("thesis.txt/disk");
    assert_refused(&server(&below_a_file).output().unwrap(), 1, &["thesis.txt"]);
}

#[test]
fn a_port_in_use_is_named() {
    let scratch = Scratch::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let disk = scratch.join("disk");
    let output = cullet()
        .args(["server", "--listen", &address])
        .arg(&disk)
        .output()
        .unwrap();
    assert_refused(&output, 1, &[&address, "in use", "--listen"]);
    assert!(!disk.exists(), "nothing may be touched");
}

#[test]
fn a_disk_in_use_is_refused_and_a_key_is_shown_once() {
    let scratch = Scratch::new("once");
    let disk = scratch.join("disk");
    let mut first = Running::start(&mut server(&disk));
    let file = credentials_file(&disk);
    assert!(!disk.join("cullet.credentials").exists());
    let kept = std::fs::read_to_string(&file).unwrap();
    let (root, master): (Vec<&str>, Vec<&str>) = kept
        .lines()
        .partition(|line| !line.starts_with("CULLET_MASTER_KEY="));
    assert_eq!((root.len(), master.len()), (2, 1), "{kept}");
    for line in root {
        assert!(first.printed.contains(line), "{}", first.printed);
    }
    assert!(!first.printed.contains(master[0]), "{}", first.printed);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    assert_refused(
        &server(&disk).output().unwrap(),
        1,
        &["in use: by another process"],
    );

    first.signal("TERM");
    assert_eq!(first.wait(), 0);
    let second = Running::start(&mut server(&disk));
    let (id, secret) = kept.split_once('\n').unwrap();
    let id = id.split_once('=').unwrap().1;
    let secret = secret.lines().next().unwrap().split_once('=').unwrap().1;
    assert!(
        second.printed.contains(id) && !second.printed.contains(secret),
        "{}",
        second.printed
    );
}

#[test]
fn keys_from_the_environment_are_not_stored() {
    let scratch = Scratch::new("environment");
    let disk = scratch.join("disk");
    let mut command = server(&disk);
    let server = Running::start(command.env(KEY, "admin").env(SECRET, "secret-secret"));
    assert_eq!(server.printed, "access key admin, from the environment\n");
    assert!(!disk.join("cullet.credentials").exists());
    drop(server);
    // Once nothing said that the key that was made at a later start shuts out the first.
    let second = Running::start(&mut self::server(&disk));
    for words in ["a new access key", KEY, "no other key", "in use before"] {
        assert!(second.printed.contains(words), "{}", second.printed);
    }
}

/// Once a disk whose superblock could not be read was taken for a new one, and formatted: all
/// objects were gone, and so was what a rescue needs.
#[test]
fn a_disk_with_a_damaged_superblock_is_not_formatted() {
    let scratch = Scratch::new("damaged");
    let disk = scratch.join("disk");
    let mut first = Running::start(&mut server(&disk));
    first.signal("INT");
    assert_eq!(first.wait(), 0);
    let path = disk.join("cullet.disk");
    let whole = std::fs::read(&path).unwrap();
    for (from, to, fill) in [(0, 4096, 0xA5), (0, 4096, 0), (8, 64, 0xFF), (0, 64, 0)] {
        let mut bytes = whole.clone();
        for copy in [0, 64 * 1024] {
            bytes[copy + from..copy + to].fill(fill);
        }
        std::fs::write(&path, &bytes).unwrap();
        let output = server(&disk).output().unwrap();
        assert_refused(&output, 1, &["cannot open the disk"]);
        assert!(
            std::fs::read(&path).unwrap() == bytes,
            "{from}..{to} {fill}: it was changed"
        );
    }
}

#[test]
fn pages_answer_and_signals_end_it() {
    let scratch = Scratch::new("pages");
    let log = scratch.join("access.log");
    let mut server = Running::start(server(&scratch.join("disk")).arg("--access-log").arg(&log));
    let (status, answer) = server.get("/_cullet/health");
    assert_eq!((status, answer.ends_with("ok\n")), (200, true), "{answer}");
    let (status, answer) = server.get("/_cullet/metrics");
    assert_eq!(status, 200);
    for name in [
        "cullet_disk_free_bytes",
        "cullet_memory_used_bytes",
        "cullet_engine_flushes",
    ] {
        assert!(answer.contains(name), "{name}");
    }
    assert_eq!(server.get("/_cullet/nothing").0, 404);
    let (status, answer) = server.get("/bucket/key");
    assert_eq!(status, 403);
    assert!(
        answer.contains("x-amz-request-id: ") && answer.contains("AccessDenied"),
        "{answer}"
    );

    // A connection that is open and silent does not hold the end up.
    let _idle = TcpStream::connect(server.address).unwrap();
    server.signal("TERM");
    let started = Instant::now();
    assert_eq!(server.wait(), 0);
    assert!(started.elapsed() < Duration::from_secs(5));
    let lines = std::fs::read_to_string(&log).unwrap();
    for (operation, status, path) in [
        ("Health", "200", "/_cullet/health"),
        ("Metrics", "200", "/_cullet/metrics"),
        ("Unknown", "404", "/_cullet/nothing"),
        ("Unknown", "403", "/bucket/key"),
    ] {
        let start = format!(" {operation} {status} in=0 ");
        let end = format!(" GET \"{path}\"");
        let found = lines
            .lines()
            .any(|line| line.contains(&start) && line.ends_with(&end));
        assert!(found, "{path}: {lines}");
    }
}

#[test]
fn a_damaged_key_file_is_found_before_anything_is_touched() {
    let scratch = Scratch::new("key-file");
    let disk = scratch.join("disk");
    let mut first = Running::start(&mut server(&disk));
    first.signal("TERM");
    assert_eq!(first.wait(), 0);
    let kept = credentials_file(&disk);
    let before = std::fs::read(disk.join("cullet.disk")).unwrap();
    let whole = std::fs::read(&kept).unwrap();
    // Also where earlier releases kept it.
    let earlier = disk.join("cullet.credentials");
    for file in [&kept, &earlier] {
        std::fs::write(file, "nonsense").unwrap();
        let name = file.to_str().unwrap();
        assert_refused(&server(&disk).output().unwrap(), 1, &[name, "restore it"]);
        assert!(std::fs::read(disk.join("cullet.disk")).unwrap() == before);
        std::fs::write(&kept, &whole).unwrap();
    }
}

/// What an earlier release left in the data directory goes on working, with a word on how to
/// move it; after that the key is still the same.
#[test]
fn a_key_file_in_the_data_directory_works_and_can_be_moved() {
    let scratch = Scratch::new("moved");
    let (disk, said) = (scratch.join("disk"), scratch.join("stderr"));
    std::fs::create_dir(&disk).unwrap();
    let earlier = disk.join("cullet.credentials");
    std::fs::write(&earlier, format!("{KEY}=admin\n{SECRET}=secret-secret\n")).unwrap();
    let mut first = start_with_stderr(&mut server(&disk), &said);
    assert!(
        first
            .printed
            .starts_with("access key admin, its secret is in")
    );
    first.signal("TERM");
    assert_eq!(first.wait(), 0);
    let said = std::fs::read_to_string(&said).unwrap();
    let how = said.split("move it: ").nth(1).expect("how to move it");
    let moved = Command::new("sh").arg("-c").arg(how).status().unwrap();
    assert!(moved.success() && !earlier.exists());
    let second = Running::start(&mut server(&disk));
    assert!(
        second
            .printed
            .starts_with("access key admin, its secret is in")
    );
    assert!(
        second
            .printed
            .contains(credentials_file(&disk).to_str().unwrap())
    );
}

/// Whoever takes the disk must not have the keys as well.
#[test]
fn credentials_have_no_place_on_the_disk() {
    let scratch = Scratch::new("place");
    let disk = scratch.join("disk");
    let mut named = server(&disk);
    named.arg("--credentials").arg(disk.join("deep/file"));
    assert_refused(&named.output().unwrap(), 2, &["lies in the data directory"]);
    let mut homeless = server(&disk);
    homeless.env_remove("XDG_CONFIG_HOME").env_remove("HOME");
    assert_refused(
        &homeless.output().unwrap(),
        2,
        &["HOME is not set", KEY, "--credentials FILE"],
    );
    let mut inside = server(&disk);
    inside.env("XDG_CONFIG_HOME", disk.join(".config"));
    assert_refused(
        &inside.output().unwrap(),
        2,
        &["lies in the data directory"],
    );
    let mut master = server(&disk);
    master.env("CULLET_MASTER_KEY", "00");
    assert_refused(&master.output().unwrap(), 2, &["CULLET_MASTER_KEY", "64"]);
    assert!(!disk.exists(), "nothing may be touched");
    let file = scratch.join("named.credentials");
    let mut named = server(&disk);
    let running = Running::start(named.arg("--credentials").arg(&file));
    assert!(running.printed.contains(file.to_str().unwrap()));
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .contains("CULLET_MASTER_KEY=")
    );
}

/// A server whose standard error goes to a file.
fn start_with_stderr(command: &mut Command, file: &Path) -> Running {
    Running::start(command.stderr(std::fs::File::create(file).unwrap()))
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let scratch = Scratch::new("second");
    let said = scratch.join("stderr");
    let mut server = start_with_stderr(&mut server(&scratch.join("disk")), &said);
    // A request that is never finished.
    let mut socket = TcpStream::connect(server.address).unwrap();
    write!(socket, "GET / HTTP/1.1\r\nhost: x\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.signal("TERM");
    std::thread::sleep(Duration::from_millis(1_200));
    assert!(server.child.try_wait().unwrap().is_none());
    server.signal("TERM");
    let started = Instant::now();
    assert_eq!(server.wait(), 1);
    assert!(started.elapsed() < Duration::from_secs(2));
    let said = std::fs::read_to_string(&said).unwrap();
    assert!(said.contains("a second signal"), "{said}");
}

/// Once the two signals that `timeout` sends within a millisecond, to the process and to its
/// group, cut off the requests that the first one was to let finish.
#[test]
fn signals_that_come_together_are_one() {
    let scratch = Scratch::new("together");
    let mut server = Running::start(&mut server(&scratch.join("disk")));
    let mut socket = TcpStream::connect(server.address).unwrap();
    write!(socket, "GET / HTTP/1.1\r\nhost: x\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    for name in ["TERM", "INT", "TERM"] {
        server.signal(name);
        std::thread::sleep(Duration::from_millis(20));
    }
    write!(socket, "connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("AccessDenied"), "{answer}");
    assert_eq!(server.wait(), 0);
}

/// Once signals were waited for only while requests were served: while the disk was closed, or
/// the access log stood still, a second one did nothing.
#[test]
fn a_second_signal_ends_it_at_once_while_it_closes() {
    let scratch = Scratch::new("second-close");
    let fifo = scratch.join("log");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let mut options = std::fs::OpenOptions::new();
    // Opened so that the server's opening does not wait. Nobody ever reads.
    let _end = options.read(true).write(true).open(&fifo).unwrap();
    let start = |disk: &str| {
        let mut command = server(&scratch.join(disk));
        let running = Running::start(command.arg("--access-log").arg(&fifo));
        let path = format!("/{}", "x".repeat(2_000));
        for _ in 0..60 {
            running.get(&path);
        }
        running
    };
    // The log alone does not hold the end up for long.
    let mut patient = start("patient");
    patient.signal("TERM");
    let started = Instant::now();
    assert_eq!(patient.wait(), 0);
    assert!(started.elapsed() < Duration::from_secs(10));
    let mut hasty = start("hasty");
    hasty.signal("TERM");
    std::thread::sleep(Duration::from_millis(1_200));
    assert!(
        hasty.child.try_wait().unwrap().is_none(),
        "it waits for its log"
    );
    hasty.signal("INT");
    let started = Instant::now();
    assert_eq!(hasty.wait(), 1);
    assert!(started.elapsed() < Duration::from_secs(1));
}

/// Once the server's own pages, and whatever was refused before a request was understood, came
/// without a request id.
#[test]
fn every_answer_has_an_id_of_its_own() {
    let scratch = Scratch::new("ids");
    let server = Running::start(&mut server(&scratch.join("disk")));
    let mut ids = std::collections::BTreeSet::new();
    let mut check = |answer: &str| {
        let id = answer.split("x-amz-request-id: ").nth(1).expect(answer);
        assert!(ids.insert(id[..16].to_owned()), "{answer}");
    };
    for path in [
        "/_cullet/health",
        "/_cullet/health",
        "/_cullet/metrics",
        "/_cullet/no",
        "/b/k",
    ] {
        check(&server.get(path).1);
    }
    let many: String = (0..900).map(|number| format!("h{number}: v\r\n")).collect();
    // A head that is none may also follow one that was served.
    for (sent, status) in [
        (
            "GET /b/k HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n".to_owned(),
            "403",
        ),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000)), "4"),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), "431"),
    ] {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.write_all(sent.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        check(&answer);
        assert!(answer.ends_with("</Error>"), "{answer}");
    }
}

/// A proxy on this machine makes every client look local.
#[test]
fn metrics_are_not_for_those_behind_a_proxy() {
    let scratch = Scratch::new("proxy");
    let server = Running::start(&mut server(&scratch.join("disk")));
    for (method, status) in [("GET", "403"), ("HEAD", "403")] {
        let mut socket = TcpStream::connect(server.address).unwrap();
        write!(
            socket,
            "{method} /_cullet/metrics HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.1\r\n\
             connection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(!answer.contains("cullet_memory"), "{answer}");
    }
}

/// Once a few hundred connections with half a head each kept everybody else out for a minute.
#[test]
fn half_heads_keep_nobody_out() {
    let scratch = Scratch::new("half-heads");
    let server = Running::start(&mut server(&scratch.join("disk")));
    let half: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut socket = TcpStream::connect(server.address).unwrap();
            // Some are refused, as there are more than may wait.
            let _ = socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n");
            socket
        })
        .collect();
    let started = Instant::now();
    assert_eq!(server.get("/_cullet/health").0, 200);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    drop(half);
}

#[test]
fn rescue_reads_what_a_server_left() {
    let scratch = Scratch::new("rescue");
    let disk = scratch.join("disk");
    let mut server = Running::start(&mut server(&disk));
    server.signal("TERM");
    assert_eq!(server.wait(), 0);
    let output = cullet()
        .args(["rescue", "list"])
        .arg(&disk)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("0 objects"), "{said}");
    let nothing = scratch.join("nothing");
    let output = cullet()
        .args(["rescue", "list"])
        .arg(&nothing)
        .output()
        .unwrap();
    assert_refused(&output, 1, &["nothing", "does not exist", "cullet server"]);
}

/// Once a foreign disk was only said to have no superblock, and an export into a directory that
/// is not empty ended like a mistyped flag.
#[test]
fn rescue_says_what_is_wrong_with_a_place_and_what_to_do() {
    let scratch = Scratch::new("rescue-places");
    let foreign = scratch.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), [7; 8192]).unwrap();
    for (path, word) in [
        (foreign.clone(), "holds no cullet data"),
        (foreign.join("thesis.txt"), "is no cullet disk"),
    ] {
        let output = cullet().args(["rescue", "list"]).arg(&path).output();
        assert_refused(&output.unwrap(), 1, &[word, "that `cullet server` ran on"]);
    }
    let disk = scratch.join("disk");
    let mut server = Running::start(&mut server(&disk));
    server.signal("TERM");
    assert_eq!(server.wait(), 0);
    let output = cullet()
        .args(["rescue", "export", "--to"])
        .args([&foreign, &disk])
        .output();
    assert_refused(&output.unwrap(), 1, &["foreign", "empty or new"]);
    let output = cullet().args(["rescue", "export"]).arg(&disk).output();
    assert_refused(&output.unwrap(), 2, &["--to"]);
}
