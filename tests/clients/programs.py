"""Clients that are programs: where they are, which version they are, and how they are called.

Those of PyPI stand in requirements.txt and lie beside the Python that runs the tests. Those that
only Debian packages are taken from PATH, else out of their package: fetched with `apt-get
download` and unpacked with `dpkg-deb -x` below target/, where they stay for the next run. That
needs no root and changes nothing outside of the repository. A program that cannot be had skips
its tests with a sentence that says what to install; with CI=true it fails them.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

import harness
from harness import ROOT

UNPACKED = ROOT / "target" / "clients"
FETCH_SECONDS = 150

# Program by program, the version that the tests met; shown at their end.
used = {}
_missing = {}


def of_pypi(name):
    """A program that requirements.txt installs."""
    program = pathlib.Path(sys.executable).parent / name
    if not program.exists():
        _absent(f"{name}: not beside {sys.executable}; `cargo xtask test --only clients` installs requirements.txt")
    return _noted(f"{name} of PyPI", program)


def of_debian(name):
    """A program on PATH, else the one in Debian's package of the same name."""
    on_path = shutil.which(name)
    if on_path:
        return _noted(f"{name} on PATH", pathlib.Path(on_path))
    unpacked = UNPACKED / name
    program = unpacked / "usr" / "bin" / name
    if not program.exists():
        # Asked for by every test of the program: one failed attempt is enough.
        if name not in _missing:
            _missing[name] = _fetch(name, unpacked)
        if _missing[name]:
            _absent(f"{name} is not on PATH, and {_missing[name]}; install {name} (on Debian: apt-get install {name})")
    return _noted(f"{name} of Debian", program)


def _absent(sentence):
    if os.environ.get("CI") in ("true", "1"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def _noted(label, program):
    if label not in used:
        for argument in ("version", "--version"):
            said = subprocess.run([program, argument], capture_output=True, text=True, timeout=30, env=environment())
            if said.returncode == 0:
                break
        used[label] = (said.stdout or said.stderr).splitlines()[0]
    return program


def _fetch(name, unpacked):
    """Unpacks Debian's package; returns None, or why that could not be done."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return "there is no apt-get here to fetch it with"
    deadline = time.monotonic() + FETCH_SECONDS
    UNPACKED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=UNPACKED, prefix=f"{name}-") as scratch:
        scratch = pathlib.Path(scratch)
        problem = _apt(["download", name], scratch, deadline)
        if problem:
            # This machine may never have fetched its package lists. Lists of our own need no
            # root. A source that cannot be reached is no matter if the package comes from another.
            lists = scratch / "lists"
            (lists / "partial").mkdir(parents=True)
            own = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={scratch / 'cache'}"]
            _apt([*own, "update"], scratch, deadline)
            problem = _apt([*own, "download", name], scratch, deadline)
        if problem:
            return f"Debian's package of it could not be fetched: {problem}"
        package = next(scratch.glob("*.deb"))
        whole = scratch / "unpacked"
        ended = subprocess.run(["dpkg-deb", "-x", package, whole], capture_output=True, text=True, timeout=60)
        if ended.returncode != 0:
            return f"{package.name} could not be unpacked: {ended.stderr.strip()}"
        # In one step, so that another run at the same time sees all of it or nothing.
        try:
            whole.rename(unpacked)
        except OSError:
            if not (unpacked / "usr" / "bin" / name).exists():
                raise
    return None


def _apt(arguments, directory, deadline):
    """Returns None, or what it complained about."""
    seconds = deadline - time.monotonic()
    if seconds < 1:
        return f"nothing came within {FETCH_SECONDS} s"
    # apt drops root for the download to a user who cannot write here, and warns of it.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", *arguments]
    try:
        ended = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"`apt-get {arguments[-1]}` did not end within {FETCH_SECONDS} s"
    if ended.returncode == 0:
        return None
    return " ".join(ended.stderr.split()) or f"`apt-get` ended with {ended.returncode}"


def readme(server, begins):
    """The README's block that begins so, for this server: what it tells people is what is tested."""
    blocks = re.findall(r"```\w+\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    block = next(block for block in blocks if block.startswith(begins))
    block = block.replace("127.0.0.1:9000", server.address)
    return block.replace("admin", harness.ACCESS_KEY).replace("choose-a-long-one", harness.SECRET_KEY)


def environment(**more):
    """Without settings of whoever runs the tests: keys, endpoints, proxies, CA files."""
    own = ("AWS_", "RCLONE_", "RESTIC_", "CULLET_", "S3CMD_")
    ca_files = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPLIB2_CA_CERTS")
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(own) and name not in ca_files and not name.lower().endswith("_proxy")
    }
    # Names of files in UTF-8, whatever the machine is set to.
    env.update(LC_ALL="C.UTF-8", **more)
    return env


def run(command, env, cwd, timeout=60, fails=False, stdin=b""):
    """Runs to the end within `timeout` seconds; returns what it wrote, both streams, as bytes."""
    ended = subprocess.run(
        [str(word) for word in command], env=env, cwd=cwd, input=stdin, capture_output=True, timeout=timeout
    )
    said = (ended.stdout + ended.stderr).decode(errors="replace")
    assert (ended.returncode != 0) == fails, f"{command} ended with {ended.returncode}\n{said}"
    return ended
