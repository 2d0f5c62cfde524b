//! Programs that try to get out of their place, and what those who look on see.
//!
//! Needs what isolation needs: root, Landlock, control groups. Where something is lacking the test
//! says so and fails: a server would not run programs there either.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use sandbox::{Files, Limits, Prelude, Sandboxes, Settings, Tiding, Tidings};

const MIB: u64 = 1 << 20;
const TMP_BYTES: u64 = 64 * MIB;
const LIMITS: Limits = Limits {
    memory_bytes: 128 * MIB,
    cpu_millis: 1_000,
};
const PORTS: [u16; 2] = [9001, 9000];

/// What has come to pass in each place.
#[derive(Default)]
struct Seen {
    is_up: bool,
    listeners: BTreeMap<usize, [TcpListener; 2]>,
    ready: BTreeMap<usize, Files>,
    ended: BTreeMap<usize, Tiding>,
    free: Vec<usize>,
    failed: Vec<(Option<usize>, String)>,
    is_gone: bool,
}

#[derive(Clone, Default)]
struct Watcher(Arc<(Mutex<Seen>, Condvar)>);

impl Watcher {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn wait<T>(&self, what: &str, mut found: impl FnMut(&mut Seen) -> Option<T>) -> T {
        let until = Instant::now() + Duration::from_secs(60);
        let mut seen = self.0.0.lock().unwrap();
        loop {
            if let Some(found) = found(&mut seen) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{what}: {:?} {:?}",
                seen.failed,
                seen.ended
            );
            seen = self.0.1.wait_timeout(seen, left).unwrap().0;
        }
    }
}

impl Tidings for Watcher {
    fn place(&mut self, place: usize, listeners: [TcpListener; 2]) {
        self.note(|seen| drop(seen.listeners.insert(place, listeners)));
    }

    fn ready(&mut self, place: usize, files: Files) {
        self.note(|seen| drop(seen.ready.insert(place, files)));
    }

    fn other(&mut self, tiding: Tiding) {
        self.note(|seen| match tiding {
            Tiding::Up => seen.is_up = true,
            Tiding::Ended { place, .. } => drop(seen.ended.insert(place, tiding)),
            Tiding::Free { place } => seen.free.push(place),
            Tiding::Failed { place, why } => seen.failed.push((place, why)),
            Tiding::Place { .. } | Tiding::Ready { .. } => {}
        });
    }

    fn gone(&mut self) {
        self.note(|seen| seen.is_gone = true);
    }
}

/// A server that runs nothing but what the tests say.
struct Bench {
    name: String,
    directory: PathBuf,
    sandboxes: Option<Sandboxes>,
    watcher: Watcher,
}

impl Bench {
    fn new(preludes: Vec<Prelude>) -> Bench {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let missing = sandbox::missing();
        assert!(
            missing.is_empty(),
            "programs cannot be isolated here: {missing:?}"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cullet-test-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        let code = directory.join("code");
        std::fs::create_dir_all(&code).unwrap();
        std::fs::write(directory.join("secret.txt"), "of the host").unwrap();
        for program in ["one", "two"] {
            let path = code.join(program);
            std::fs::create_dir(&path).unwrap();
            let bootstrap = path.join("bootstrap");
            std::fs::copy(env!("CARGO_BIN_EXE_hostile"), &bootstrap).unwrap();
            std::fs::set_permissions(&bootstrap, PermissionsExt::from_mode(0o755)).unwrap();
            std::fs::write(path.join(format!("only-{program}")), program).unwrap();
        }
        let settings = Settings {
            name: name.clone(),
            code,
            shown: Vec::new(),
            resolver: String::new(),
            tmp_bytes: TMP_BYTES,
            memory_bytes: 1024 * MIB,
            ports: PORTS,
            preludes,
        };
        let mut helper = Command::new(env!("CARGO_BIN_EXE_helper"));
        helper.env("SECRET_OF_THE_SERVER", "hunter2");
        let watcher = Watcher::default();
        let sandboxes = Sandboxes::start(helper, &settings, watcher.clone()).unwrap();
        watcher.wait("the helper", |seen| {
            assert!(seen.failed.is_empty(), "{:?}", seen.failed);
            seen.is_up.then_some(())
        });
        Bench {
            name,
            directory,
            sandboxes: Some(sandboxes),
            watcher,
        }
    }

    fn sandboxes(&self) -> &Sandboxes {
        self.sandboxes.as_ref().unwrap()
    }

    /// A process that waits in a place.
    fn prepare(&self, place: usize) -> Files {
        self.sandboxes().prepare(place, None).unwrap();
        self.watcher.wait("a process that waits", |seen| {
            let failed = seen.failed.iter().find(|(at, _)| *at == Some(place));
            assert!(failed.is_none(), "{failed:?}");
            seen.ready.remove(&place)
        })
    }

    fn launch(&self, place: usize, program: &str, limits: Limits, words: &[&str]) {
        let mut arguments = vec!["/var/task/bootstrap".to_owned()];
        arguments.extend(words.iter().map(|word| (*word).to_owned()));
        let environment = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        self.sandboxes()
            .launch(place, program, limits, &arguments, &environment)
            .unwrap();
    }

    fn await_end(&self, place: usize) -> Tiding {
        self.watcher
            .wait("its end", |seen| seen.ended.remove(&place))
    }

    fn await_free(&self, place: usize) {
        self.watcher.wait("a free place", |seen| {
            let at = seen.free.iter().position(|free| *free == place)?;
            Some(seen.free.remove(at))
        });
    }

    /// Runs a program to its end: what it said, and how it ended.
    fn run(&self, place: usize, words: &[&str]) -> (String, Tiding) {
        let mut files = self.prepare(place);
        self.launch(place, "one", LIMITS, words);
        let mut said = String::new();
        files.output.read_to_string(&mut said).unwrap();
        let end = self.await_end(place);
        self.await_free(place);
        (said, end)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.sandboxes = None;
        let _ = std::fs::remove_dir_all(&self.directory);
        // Nothing is left of it anywhere.
        let left: Vec<PathBuf> = groups(&self.name);
        if !std::thread::panicking() {
            assert!(left.is_empty(), "{left:?}");
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(&self.name), "{mounts}");
        }
    }
}

/// Control groups of a server, under whichever controller.
fn groups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut candidates = vec![root.join(name)];
    for entry in std::fs::read_dir(root).unwrap().flatten() {
        candidates.push(entry.path().join(name));
    }
    candidates.retain(|path| path.exists());
    candidates
}

/// Every way that ends by itself and needs nobody to look on.
#[test]
fn no_way_leads_out() {
    let bench = Bench::new(Vec::new());
    let secret = bench.directory.join("secret.txt").display().to_string();
    let address = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = address.local_addr().unwrap().to_string();
    let name = format!("{}-abstract", bench.name);
    let named = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&named).unwrap();
    let ways: [&[&str]; 30] = [
        &["processes"],
        &["host files", &secret],
        &["files by handle"],
        &["tmp of another"],
        &["code of another", "only-one"],
        &["raw sockets"],
        &["abstract sockets", &name],
        &["ptrace"],
        &["memory of another"],
        &["mount"],
        &["user namespaces"],
        &["joining namespaces"],
        &["chroot"],
        &["keyring"],
        &["kernel modules"],
        &["bpf"],
        &["perf"],
        &["io_uring"],
        &["userfaultfd"],
        &["proc writes"],
        &["sys"],
        &["root writes"],
        &["devices"],
        &["becoming root"],
        &["clock and name"],
        &["terminal"],
        &["leaked descriptors"],
        &["environment of the server", "hunter2"],
        &["ports of the server", &port],
        &["limits"],
    ];
    // Somebody else is there, and has left something.
    let _other = bench.prepare(1);
    bench.launch(1, "two", LIMITS, &["mark", "of another"]);
    let mut out = Vec::new();
    for words in ways {
        let (said, end) = bench.run(0, words);
        if said != "held\n" {
            out.push(format!("{words:?}: {said:?} {end:?}"));
        }
    }
    assert!(out.is_empty(), "{out:#?}");
    bench.sandboxes().stop(1).unwrap();
    bench.await_end(1);
}

/// What one program does to itself no other one feels.
#[test]
fn bombs_go_off_in_their_place() {
    let bench = Bench::new(Vec::new());
    let (said, end) = bench.run(0, &["fork bomb"]);
    assert_eq!(said, "held\n", "{end:?}");

    let (said, end) = bench.run(0, &["memory bomb"]);
    assert_eq!(said, "");
    let Tiding::Ended {
        signal, oom_kills, ..
    } = end
    else {
        panic!("{end:?}");
    };
    assert!(signal == Some(9) && oom_kills > 0, "{signal:?} {oom_kills}");

    let (said, end) = bench.run(0, &["filling tmp"]);
    assert_eq!(said, "held\n", "{end:?}");

    // Whoever does not read is not hurt: the program waits.
    let mut files = bench.prepare(0);
    bench.launch(0, "one", LIMITS, &["flooding logs"]);
    std::thread::sleep(Duration::from_millis(100));
    let mut all = 0;
    let mut piece = [0; 65_536];
    while let Ok(len @ 1..) = files.output.read(&mut piece) {
        all += len;
    }
    assert_eq!(all, 64 * 1024 * 1024 + "held\n".len());
    assert!(files.peak_bytes() < 64 * MIB, "{}", files.peak_bytes());
    bench.await_end(0);
    bench.await_free(0);

    // And all of it again, in the same place.
    let (said, end) = bench.run(0, &["processes"]);
    assert_eq!(said, "held\n", "{end:?}");
}

/// Each place has ports of its own, with the same numbers.
#[test]
fn everybody_has_a_runtime_of_their_own() {
    let bench = Bench::new(Vec::new());
    let mut outputs = Vec::new();
    for place in 0..3 {
        outputs.push(bench.prepare(place));
    }
    let listeners = bench.watcher.wait("listeners", |seen| {
        (seen.listeners.len() == 3).then(|| std::mem::take(&mut seen.listeners))
    });
    let answering = listeners.into_iter().map(|(place, [runtime, _])| {
        std::thread::spawn(move || {
            let (mut stream, peer) = runtime.accept().unwrap();
            assert!(peer.ip().is_loopback());
            write!(stream, "place {place}").unwrap();
        })
    });
    let answering: Vec<_> = answering.collect();
    for place in 0..3 {
        bench.launch(place, "one", LIMITS, &["its own runtime", "9001"]);
    }
    for (place, files) in outputs.iter_mut().enumerate() {
        let mut said = String::new();
        files.output.read_to_string(&mut said).unwrap();
        assert_eq!(said, format!("runtime: place {place}\nheld\n"));
        bench.await_end(place);
    }
    for thread in answering {
        thread.join().unwrap();
    }
}

#[test]
fn what_is_frozen_waits_and_can_be_ended() {
    let bench = Bench::new(Vec::new());
    let files = bench.prepare(0);
    bench.launch(0, "one", LIMITS, &["idle"]);
    files.freeze(true).unwrap();
    files.freeze(false).unwrap();
    files.freeze(true).unwrap();
    bench.sandboxes().stop(0).unwrap();
    let end = bench.await_end(0);
    let signal = match end {
        Tiding::Ended { signal, .. } => signal,
        _ => None,
    };
    assert_eq!(signal, Some(9));
    bench.await_free(0);
}

#[test]
fn what_cannot_be_started_says_why() {
    let bench = Bench::new(Vec::new());
    let _files = bench.prepare(0);
    let arguments = ["/var/task/absent".to_owned()];
    bench
        .sandboxes()
        .launch(0, "one", LIMITS, &arguments, &[])
        .unwrap();
    let end = bench.await_end(0);
    let Tiding::Ended { code, why, .. } = end else {
        panic!("{end:?}");
    };
    assert_eq!(code, Some(127));
    assert!(why.unwrap().contains("No such file"));
    bench.await_free(0);
    // Code that is not there, and names that lead elsewhere.
    for name in ["absent", "../code", "", ".."] {
        let _files = bench.prepare(0);
        bench
            .sandboxes()
            .launch(0, name, LIMITS, &arguments, &[])
            .unwrap();
        bench.watcher.wait("a refusal", |seen| seen.failed.pop());
        bench.sandboxes().stop(0).unwrap();
        bench.await_end(0);
        bench.await_free(0);
    }
    let many: Vec<String> = vec!["x".repeat(1_000); 100];
    let refused = bench.sandboxes().launch(0, "one", LIMITS, &many, &[]);
    assert!(refused.unwrap_err().to_string().contains("at most"));
}

/// An interpreter is isolated first, and hears later what it is for.
#[test]
fn interpreters_are_started_before_anybody_needs_them() {
    let script = r#"
import os, struct
os.write(3, b"\x01")
told = os.read(3, 65536)
arguments, variables = struct.unpack_from("<II", told)
strings = told[8:].split(b"\0")
os.close(3)
print(os.listdir("/var/task"), strings[:arguments + variables])
try:
    os.unshare(0x10000000)
except Exception as error:
    print(type(error).__name__)
"#;
    let prelude = Prelude {
        arguments: ["/usr/bin/python3", "-S", "-c", script]
            .map(str::to_owned)
            .to_vec(),
        environment: Vec::new(),
    };
    if !Path::new("/usr/bin/python3").exists() {
        eprintln!("there is no /usr/bin/python3");
        return;
    }
    let bench = Bench::new(vec![prelude]);
    bench.sandboxes().prepare(0, Some(0)).unwrap();
    let mut files = bench.watcher.wait("an interpreter", |seen| {
        assert!(seen.failed.is_empty(), "{:?}", seen.failed);
        seen.ready.remove(&0)
    });
    bench.launch(0, "two", LIMITS, &["a", "b"]);
    let mut said = String::new();
    files.output.read_to_string(&mut said).unwrap();
    assert!(
        said.contains("only-two") && said.contains("b'PATH=/usr/bin:/bin'"),
        "{said}"
    );
    assert!(said.contains("Error"), "{said}");
    bench.await_end(0);
}

/// When the server is gone, so is all that it started.
#[test]
fn nothing_outlives_the_server() {
    let mut bench = Bench::new(Vec::new());
    let mut outputs = Vec::new();
    for place in 0..8 {
        outputs.push(bench.prepare(place));
        bench.launch(place, "one", LIMITS, &["idle"]);
    }
    assert!(!groups(&bench.name).is_empty());
    bench.sandboxes = None;
    bench
        .watcher
        .wait("the end", |seen| seen.is_gone.then_some(()));
    for files in &mut outputs {
        // Nobody holds the other end any more.
        assert_eq!(files.output.read(&mut [0; 64]).unwrap(), 0);
    }
}
