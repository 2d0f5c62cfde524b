"""One server process for tests: the built binary, on a free port, with a scratch disk."""

import collections
import http.client
import json
import os
import pathlib
import queue
import signal
import subprocess
import threading
import time

import boto3
import botocore.config

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CULLET_BIN", ROOT / "dist" / "cullet"))

ACCESS_KEY = "TESTACCESSKEY0000000"
SECRET_KEY = "test/secret/key/of/forty/characters/0000"
REGION = "us-east-1"

KIB = 1024
MIB = 1024 * KIB


def environment(**changes):
    """A clean environment for the server: no credentials of whoever runs the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CULLET_", "AWS_"))}
    env.update(CULLET_ACCESS_KEY_ID=ACCESS_KEY, CULLET_SECRET_ACCESS_KEY=SECRET_KEY)
    # Nor their configuration, where servers keep what they make.
    env.update(XDG_CONFIG_HOME="/nonexistent/config")
    env.update({name: value for name, value in changes.items() if value is not None})
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
    return env


class Server:
    """Starts on construction; `stop` ends it with SIGTERM, `kill` with SIGKILL."""

    # The file that clients have to trust when it speaks TLS.
    ca_file = None

    def __init__(self, disk, *arguments, log=None, more_disks=(), **env_changes):
        self.disk = pathlib.Path(disk)
        self.more_disks = more_disks
        self.config = self.disk.parent / "config"
        self.arguments = arguments
        self.env_changes = env_changes
        self.log = pathlib.Path(log) if log else self.disk.parent / "server.log"
        self.start()

    def start(self):
        command = [BINARY, "server", "--listen", "127.0.0.1:0", *self.arguments, self.disk, *self.more_disks]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                env=environment(**{"XDG_CONFIG_HOME": str(self.config), **self.env_changes}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.output = []
        lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, lines), daemon=True).start()
        deadline = time.monotonic() + 30
        while True:
            try:
                line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                self.kill()
                raise AssertionError(f"no `listening on` within 30 s\n{self.complaints()}") from None
            if line is None:
                code = self.process.wait()
                raise AssertionError(f"the server ended with {code}\n{self.complaints()}")
            if line.startswith("listening on "):
                self.url = line.removeprefix("listening on ").strip()
                self.address = self.url.partition("://")[2]
                self.host, port = self.address.rsplit(":", 1)
                self.port = int(port)
                return

    def _read(self, stream, lines):
        for line in stream:
            self.output.append(line.rstrip("\n"))
            lines.put(line)
        lines.put(None)

    def complaints(self):
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def stop(self, signal_number=signal.SIGTERM, timeout=30):
        """Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(timeout)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def restart(self, disks=None):
        """After `stop` or `kill`: the same disks again, or others, on another port."""
        if disks is not None:
            self.disk, *self.more_disks = disks
        self.start()
        return self

    def manage(self, *words, status=0, **env_changes):
        """Runs `cullet account` or `cullet key` against this server, with the root key."""
        env = environment(**{"CULLET_ENDPOINT": self.url, **env_changes})
        ended = subprocess.run(
            [str(word) for word in (BINARY, *words)], env=env, capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == status, ended
        assert "panicked" not in ended.stderr
        return ended

    def client(self, access_key=ACCESS_KEY, secret_key=SECRET_KEY, region=REGION, verify=None, **config):
        return client(self.url, access_key, secret_key, region, verify, **config)

    def memory_bytes(self, name="VmRSS"):
        """`VmRSS` now, `VmHWM` at its highest."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * KIB
        raise AssertionError(f"/proc has no {name}")


class AccessLog:
    """What clients asked a server for that was started with `--access-log PATH --log-format json`."""

    def __init__(self, server, path):
        self.server = server
        self.path = pathlib.Path(path)
        self.seen = 0
        self.marks = 0

    def take(self):
        """The requests since the last call, each as what the log says of it."""
        self.marks += 1
        mark = f"/_cullet/mark-{self.marks}"
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=10)
        connection.request("GET", mark)
        connection.getresponse().read()
        connection.close()
        deadline = time.monotonic() + 10
        while True:
            # Whatever is answered is logged a moment later, by a thread of its own.
            time.sleep(0.05)
            lines = self.path.read_text().splitlines()[self.seen :]
            if any(f'"{mark}"' in line for line in lines):
                break
            assert time.monotonic() < deadline, f"no line for {mark} in the access log"
        self.seen += len(lines)
        requests = [json.loads(line) for line in lines]
        return [request for request in requests if not request["path"].startswith("/_cullet/")]

    def counts(self):
        """How often each operation was asked for since the last look."""
        return collections.Counter(request["operation"] for request in self.take())


def client(url, access_key=ACCESS_KEY, secret_key=SECRET_KEY, region=REGION, verify=None, **config):
    """boto3 without retries, so that tests see every answer. `verify`: a file of authorities."""
    settings = {
        "s3": {"addressing_style": "path"},
        "signature_version": "s3v4",
        "retries": {"max_attempts": 1, "mode": "standard"},
        "connect_timeout": 10,
        "read_timeout": 60,
        "max_pool_connections": 32,
    }
    settings.update(config)
    return boto3.session.Session(
        aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=region
    ).client("s3", endpoint_url=url, verify=verify, config=botocore.config.Config(**settings))


def body(size, seed=0):
    """`size` bytes that look random and repeat with their seed."""
    import random

    return random.Random(size * 1_000_003 + seed).randbytes(size)


def code_of(error):
    """(HTTP status, S3 code) of a botocore ClientError."""
    answer = error.value.response if hasattr(error, "value") else error.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]
