//! A program that tries to get out. `hostile WAY [ARGUMENT]…` prints `held`, or `OUT: ` and how;
//! some ways end it.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ptr::{null, null_mut};
use std::time::Duration;

type Outcome = Result<(), String>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let way = arguments.first().map_or("", String::as_str);
    let rest = arguments.get(1..).unwrap_or_default();
    let outcome = try_way(way, rest);
    match outcome {
        Ok(()) => println!("held"),
        Err(how) => println!("OUT: {how}"),
    }
}

fn try_way(way: &str, rest: &[String]) -> Outcome {
    let argument = |at: usize| rest.get(at).cloned().unwrap_or_default();
    match way {
        "idle" => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        "mark" => {
            fs::write("/tmp/mark", argument(0)).map_err(|error| error.to_string())?;
            println!("marked");
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        "processes" => processes(),
        "host files" => host_files(rest),
        "files by handle" => refused_call("open_by_handle_at", || unsafe {
            let mut handle = [0_u8; 64];
            libc::syscall(
                libc::SYS_open_by_handle_at,
                libc::AT_FDCWD,
                handle.as_mut_ptr(),
                0,
            )
        }),
        "tmp of another" => nothing_but("/tmp", &[]),
        "code of another" => nothing_but("/var/task", &["bootstrap", &argument(0)]),
        "raw sockets" => raw_sockets(),
        "abstract sockets" => abstract_socket(&argument(0)),
        "ptrace" => refused_call("ptrace", || unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, null_mut::<u8>(), null_mut::<u8>())
        }),
        "memory of another" => refused_call("process_vm_readv", || unsafe {
            libc::process_vm_readv(1, null(), 0, null(), 0, 0) as libc::c_long
        }),
        "mount" => mounts(),
        "user namespaces" => user_namespaces(),
        "joining namespaces" => joining(),
        "chroot" => refused_call("chroot", || unsafe {
            libc::chroot(c"/tmp".as_ptr()).into()
        }),
        "keyring" => keyring(),
        "kernel modules" => modules(),
        "bpf" => refused_call("bpf", || unsafe {
            libc::syscall(libc::SYS_bpf, 0, null::<u8>(), 0)
        }),
        "perf" => refused_call("perf_event_open", || unsafe {
            libc::syscall(libc::SYS_perf_event_open, null::<u8>(), 0, -1, -1, 0)
        }),
        "io_uring" => refused_call("io_uring_setup", || unsafe {
            libc::syscall(libc::SYS_io_uring_setup, 8, null_mut::<u8>())
        }),
        "userfaultfd" => refused_call("userfaultfd", || unsafe {
            libc::syscall(libc::SYS_userfaultfd, 0)
        }),
        "proc writes" => unwritable(&[
            "/proc/sys/kernel/hostname",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sysrq-trigger",
            "/proc/self/oom_score_adj",
            "/proc/self/uid_map",
            "/proc/1/mem",
        ]),
        "sys" => match fs::read_dir("/sys") {
            Ok(_) => Err("/sys is there".to_owned()),
            Err(_) => Ok(()),
        },
        "root writes" => unwritable(&[
            "/x",
            "/etc/passwd",
            "/etc/x",
            "/usr/x",
            "/usr/lib/x",
            "/var/x",
            "/var/task/x",
            "/var/task/bootstrap",
            "/dev/x",
            "/bin/sh",
            "/lib/x",
        ]),
        "devices" => devices(),
        "becoming root" => becoming_root(),
        "clock and name" => clock_and_name(),
        "terminal" => refused_call("TIOCSTI", || unsafe {
            libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()).into()
        }),
        "leaked descriptors" => descriptors(),
        "environment of the server" => environment(&argument(0)),
        "ports of the server" => ports(&argument(0)),
        "limits" => limits(),
        "fork bomb" => fork_bomb(),
        "memory bomb" => memory_bomb(),
        "filling tmp" => fill_tmp(),
        "flooding logs" => flood(),
        "its own runtime" => own_runtime(&argument(0)),
        _ => Err(format!("there is no way {way:?}")),
    }
}

/// A call that has to fail.
fn refused_call(name: &str, call: impl FnOnce() -> libc::c_long) -> Outcome {
    match call() {
        -1 => match io::Error::last_os_error().raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS) => Ok(()),
            // It came as far as looking at its arguments.
            _ => Err(format!("{name}: {}", io::Error::last_os_error())),
        },
        value => Err(format!("{name} is {value}")),
    }
}

fn processes() -> Outcome {
    let own = std::process::id();
    if own != 1 {
        return Err(format!("it is process {own}, not the first"));
    }
    for entry in fs::read_dir("/proc").map_err(|error| error.to_string())? {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        let pid = name.to_string_lossy().parse::<u32>();
        if pid.is_ok_and(|pid| pid != own) {
            return Err(format!("it sees process {}", name.to_string_lossy()));
        }
    }
    // Nobody but itself can hear it.
    for pid in [2, 100, 1_000, 30_000] {
        if unsafe { libc::kill(pid, 0) } == 0 {
            return Err(format!("it may send a signal to process {pid}"));
        }
    }
    Ok(())
}

fn host_files(paths: &[String]) -> Outcome {
    let known = [
        "/etc/shadow",
        "/root",
        "/home",
        "/code",
        "/places",
        "/boot",
        "/run",
        "/proc/1/root/code",
        "/proc/1/cwd/../../places",
        "/../../places",
        "/sys/fs/cgroup",
    ];
    for path in known
        .iter()
        .map(|path| (*path).to_owned())
        .chain(paths.iter().cloned())
    {
        if fs::metadata(&path).is_ok() && (fs::read_dir(&path).is_ok() || fs::read(&path).is_ok()) {
            return Err(format!("it reads {path}"));
        }
    }
    Ok(())
}

fn nothing_but(directory: &str, known: &[&str]) -> Outcome {
    for entry in fs::read_dir(directory).map_err(|error| error.to_string())? {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        if !known.contains(&&*name.to_string_lossy()) {
            return Err(format!("{directory} has {}", name.to_string_lossy()));
        }
    }
    Ok(())
}

fn raw_sockets() -> Outcome {
    let families = [
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW),
        (libc::AF_PACKET, libc::SOCK_RAW, 0x0300),
        (
            libc::AF_NETLINK,
            libc::SOCK_RAW,
            libc::NETLINK_KOBJECT_UEVENT,
        ),
        (libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        (libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
    ];
    for (family, kind, protocol) in families {
        if unsafe { libc::socket(family, kind, protocol) } >= 0 {
            return Err(format!(
                "a socket of family {family} and protocol {protocol}"
            ));
        }
    }
    Ok(())
}

fn abstract_socket(name: &str) -> Outcome {
    unsafe {
        let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as u16;
        for (to, from) in address.sun_path[1..].iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let len = size_of::<libc::sa_family_t>() + 1 + name.len();
        match libc::connect(socket, (&raw const address).cast(), len as u32) {
            0 => Err("it reached the host's abstract socket".to_owned()),
            _ => Ok(()),
        }
    }
}

fn mounts() -> Outcome {
    refused_call("mount", || unsafe {
        libc::mount(
            c"x".as_ptr(),
            c"/tmp".as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            null(),
        )
        .into()
    })?;
    refused_call("umount", || unsafe {
        libc::umount2(c"/var".as_ptr(), 2).into()
    })?;
    refused_call("open_tree", || unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), 1)
    })?;
    refused_call("fsopen", || unsafe {
        libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0)
    })
}

fn user_namespaces() -> Outcome {
    for flags in [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWUSER | libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
    ] {
        refused_call("unshare", || unsafe { libc::unshare(flags).into() })?;
        let cloned = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
        match cloned {
            0 => unsafe { libc::_exit(0) },
            -1 => {}
            _ => return Err(format!("a process in new namespaces {flags:x}")),
        }
    }
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_NEWUSER as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    refused_call("clone3", || unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    })
}

fn joining() -> Outcome {
    for name in ["user", "net", "mnt", "pid"] {
        let Ok(file) = File::open(format!("/proc/self/ns/{name}")) else {
            continue;
        };
        use std::os::fd::AsRawFd;
        refused_call("setns", || unsafe {
            libc::setns(file.as_raw_fd(), 0).into()
        })?;
    }
    Ok(())
}

fn keyring() -> Outcome {
    refused_call("add_key", || unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            c"x".as_ptr(),
            c"y".as_ptr(),
            1,
            -3,
        )
    })?;
    refused_call("keyctl", || unsafe {
        libc::syscall(libc::SYS_keyctl, 0, -3, 1)
    })
}

fn modules() -> Outcome {
    refused_call("init_module", || unsafe {
        libc::syscall(libc::SYS_init_module, null::<u8>(), 0, c"".as_ptr())
    })?;
    refused_call("finit_module", || unsafe {
        libc::syscall(libc::SYS_finit_module, 0, c"".as_ptr(), 0)
    })?;
    refused_call("kexec_load", || unsafe {
        libc::syscall(libc::SYS_kexec_load, 0, 0, null::<u8>(), 0)
    })
}

fn unwritable(paths: &[&str]) -> Outcome {
    for path in paths {
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        if let Ok(mut file) = opened
            && file.write(b"0").is_ok()
        {
            return Err(format!("it writes {path}"));
        }
    }
    Ok(())
}

fn devices() -> Outcome {
    for (name, mode, device) in [
        ("/tmp/mem", libc::S_IFCHR, libc::makedev(1, 1)),
        ("/tmp/disk", libc::S_IFBLK, libc::makedev(254, 0)),
    ] {
        let path = CString::new(name).map_err(|error| error.to_string())?;
        if unsafe { libc::mknod(path.as_ptr(), mode | 0o666, device) } == 0 {
            return Err(format!("it made the device {name}"));
        }
    }
    let harmless = [
        "null", "zero", "full", "random", "urandom", "fd", "stdin", "stdout", "stderr",
    ];
    nothing_but("/dev", &harmless)
}

fn becoming_root() -> Outcome {
    for id in [0, 1_000, 65_534] {
        if unsafe { libc::setuid(id) } == 0 || unsafe { libc::setgid(id) } == 0 {
            return Err(format!("it became user {id}"));
        }
    }
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("").trim_start_matches(':').trim().to_owned()
    };
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if !field(name).trim_start_matches('0').is_empty() {
            return Err(format!("{name} is {}", field(name)));
        }
    }
    for (name, wanted) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        if field(name) != wanted {
            return Err(format!("{name} is {}", field(name)));
        }
    }
    Ok(())
}

fn clock_and_name() -> Outcome {
    let time = libc::timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    refused_call("clock_settime", || unsafe {
        libc::clock_settime(0, &raw const time).into()
    })?;
    refused_call("sethostname", || unsafe {
        libc::sethostname(c"x".as_ptr(), 1).into()
    })?;
    refused_call("reboot", || unsafe { libc::reboot(0).into() })?;
    refused_call("swapon", || unsafe {
        libc::swapon(c"/tmp/x".as_ptr(), 0).into()
    })
}

fn descriptors() -> Outcome {
    let mut open = Vec::new();
    for fd in 0..4_096 {
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0 {
            open.push(fd);
        }
    }
    match open == [0, 1, 2] {
        true => Ok(()),
        false => Err(format!("open are {open:?}")),
    }
}

fn environment(secret: &str) -> Outcome {
    let names: Vec<String> = std::env::vars()
        .map(|(name, value)| name + &value)
        .collect();
    let all = fs::read("/proc/self/environ").unwrap_or_default();
    let all = String::from_utf8_lossy(&all);
    match names.iter().any(|text| text.contains(secret)) || all.contains(secret) {
        true => Err("it has the server's environment".to_owned()),
        false => Ok(()),
    }
}

fn ports(address: &str) -> Outcome {
    let port = address.rsplit(':').next().unwrap_or("");
    for host in ["127.0.0.1", "10.0.0.1", "192.168.0.1", "169.254.169.254"] {
        let Ok(address) = format!("{host}:{port}").parse() else {
            continue;
        };
        if TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok() {
            return Err(format!("it reached {address}"));
        }
    }
    match address.parse() {
        Ok(address) => match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            Ok(_) => Err(format!("it reached {address}")),
            Err(_) => Ok(()),
        },
        Err(_) => Err("no address was given".to_owned()),
    }
}

fn limits() -> Outcome {
    let limit = |resource| {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        unsafe { libc::getrlimit(resource, &raw mut limit) };
        (limit.rlim_cur, limit.rlim_max)
    };
    if limit(libc::RLIMIT_CORE) != (0, 0) {
        return Err("it may dump core".to_owned());
    }
    if limit(libc::RLIMIT_NOFILE).1 > 1_024 {
        return Err("it may open more than 1,024 files".to_owned());
    }
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
        if files.len() > 2_000 {
            return Err("it opened 2,000 files".to_owned());
        }
    }
    Ok(())
}

fn fork_bomb() -> Outcome {
    let mut children = 0_u32;
    loop {
        match unsafe { libc::fork() } {
            0 => loop {
                std::thread::sleep(Duration::from_secs(100));
            },
            -1 => break,
            _ => children += 1,
        }
        if children > 5_000 {
            return Err("it has 5,000 children".to_owned());
        }
    }
    match children {
        0 => Err("not one child".to_owned()),
        _ => Ok(()),
    }
}

fn memory_bomb() -> Outcome {
    let mut all = Vec::new();
    for _ in 0..4_096 {
        all.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&all);
    }
    Err("it has 4 GiB".to_owned())
}

fn fill_tmp() -> Outcome {
    let mut file = File::create("/tmp/large").map_err(|error| error.to_string())?;
    let mut bytes = 0;
    loop {
        match file.write(&[1; 65_536]) {
            Ok(written) => bytes += written,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => break,
            Err(error) => return Err(error.to_string()),
        }
        if bytes > 1 << 30 {
            return Err("/tmp holds a gigabyte".to_owned());
        }
    }
    // And with nothing but names.
    for name in 0..1_000_000 {
        if File::create(format!("/tmp/{name}")).is_err() {
            return Ok(());
        }
    }
    Err("/tmp holds a million files".to_owned())
}

fn flood() -> Outcome {
    let line = [b'x'; 1_023];
    for _ in 0..64 * 1_024 {
        let _ = io::stdout().write_all(&line);
        let _ = io::stdout().write_all(b"\n");
    }
    Ok(())
}

/// What it says on the port of its runtime comes to its own runtime, and to no other.
fn own_runtime(port: &str) -> Outcome {
    let mut stream =
        TcpStream::connect(format!("127.0.0.1:{port}")).map_err(|error| error.to_string())?;
    let mut said = String::new();
    stream
        .read_to_string(&mut said)
        .map_err(|error| error.to_string())?;
    println!("runtime: {said}");
    Ok(())
}
