"""Starting, stopping, killing, and refusing to start."""

import concurrent.futures
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import time

import pytest

import harness
import raw
from harness import BINARY, MIB, body


def run(*arguments, **env_changes):
    """Runs the binary to its end."""
    return subprocess.run(
        [str(word) for word in (BINARY, *arguments)],
        env=harness.environment(**env_changes),
        capture_output=True,
        text=True,
        timeout=30,
    )


def refused(*arguments, status=1, **env_changes):
    """The message with which `server` refused to start."""
    ended = run("server", "--listen", "127.0.0.1:0", *arguments, **env_changes)
    assert ended.returncode == status, ended
    assert "listening on" not in ended.stdout
    assert "panicked" not in ended.stderr
    assert len(ended.stderr.strip()) > 20, "a sentence that helps"
    return ended.stderr


# Stopping ------------------------------------------------------------------------------


def fill(s3):
    s3.create_bucket(Bucket="kept")
    objects = {f"k{number:03}": body(number * 997, seed=number) for number in range(150)}
    objects["large"] = body(5 * MIB)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: s3.put_object(Bucket="kept", Key=item[0], Body=item[1]), objects.items()))
    for key in list(objects)[::3]:
        s3.delete_object(Bucket="kept", Key=key)
        del objects[key]
    s3.put_object(Bucket="kept", Key="k001", Body=b"new", Metadata={"a": "b"})
    objects["k001"] = b"new"
    return objects


def check(s3, objects):
    listed = s3.list_objects_v2(Bucket="kept")["Contents"]
    assert [entry["Key"] for entry in listed] == sorted(objects)
    for key, data in objects.items():
        assert s3.get_object(Bucket="kept", Key=key)["Body"].read() == data
    assert s3.head_object(Bucket="kept", Key="k001")["Metadata"] == {"a": "b"}


def test_kill_loses_nothing(own_server):
    server = own_server()
    objects = fill(server.client())
    for _ in range(3):
        server.kill()
        server.restart()
        check(server.client(), objects)


def test_kill_under_load_loses_nothing_acknowledged(own_server):
    server = own_server()
    server.client().create_bucket(Bucket="load")
    done = {}

    s3 = server.client()

    def write(number):
        try:
            for count in range(10_000):
                data = body(1000 + count, seed=number)
                s3.put_object(Bucket="load", Key=f"{number}/{count}", Body=data)
                done[f"{number}/{count}"] = data
        except Exception:
            return  # The server is gone.

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(write, number)
        time.sleep(2)
        server.kill()
    assert len(done) > 50
    server.restart()
    s3 = server.client()
    for key, data in done.items():
        assert s3.get_object(Bucket="load", Key=key)["Body"].read() == data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_well(own_server, number):
    server = own_server()
    objects = fill(server.client())
    idle = socket.create_connection((server.host, server.port))
    started = time.monotonic()
    assert server.stop(number) == 0
    assert time.monotonic() - started < 15
    idle.close()
    server.restart()
    check(server.client(), objects)
    assert server.stop() == 0


def test_a_signal_lets_requests_finish(own_server):
    server = own_server()
    server.client().create_bucket(Bucket="kept")
    data = body(3 * MIB)
    connection = raw.start_put(server, "/kept/finishing", len(data))
    connection.sendall(data[: 2 * MIB])
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    connection.sendall(data[2 * MIB :])
    assert raw.read_status(connection) == 200
    connection.close()
    assert server.process.wait(15) == 0
    server.restart()
    assert server.client().get_object(Bucket="kept", Key="finishing")["Body"].read() == data


def test_a_stuck_client_does_not_keep_it_alive(own_server):
    server = own_server()
    server.client().create_bucket(Bucket="kept")
    connection = raw.start_put(server, "/kept/stuck", MIB)
    connection.sendall(b"x" * 1000)
    assert server.stop(timeout=60) == 0
    connection.close()


def test_files_do_not_grow_in_number(own_server):
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="files")

    def count():
        return sum(len(files) + len(names) for _, names, files in os.walk(server.disk))

    s3.put_object(Bucket="files", Key="first", Body=body(2 * MIB))
    before = count()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: s3.put_object(Bucket="files", Key=f"k{n}", Body=body(20_000)), range(400)))
    assert count() == before


# Starting ------------------------------------------------------------------------------


def test_the_line_that_tells_the_port(own_server):
    server = own_server()
    lines = [line for line in server.output if "listening on" in line]
    assert len(lines) == 1
    assert re.fullmatch(r"listening on http://127\.0\.0\.1:[1-9][0-9]*", lines[0])


def test_generated_credentials(own_server, tmp_path):
    server = own_server(CULLET_ACCESS_KEY_ID=None, CULLET_SECRET_ACCESS_KEY=None)
    printed = "\n".join(server.output) + server.complaints()
    access = re.search(r"(?i)access[ _]key(?:[ _]id)?\W+([A-Z0-9]{16,})", printed)
    secret = re.search(r"(?i)secret[ _](?:access[ _])?key\W+([A-Za-z0-9/+=_-]{30,})", printed)
    assert access and secret, printed
    s3 = server.client(access.group(1), secret.group(1))
    s3.create_bucket(Bucket="generated")
    stored = [
        path
        for path in pathlib.Path(tmp_path).rglob("*")
        if path.is_file() and path.name != "server.log" and secret.group(1) in path.read_bytes()[:4096].decode("latin-1")
    ]
    assert stored, "the secret is kept somewhere"
    for path in stored:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    server.log.unlink()
    assert server.stop() == 0
    server.restart()
    assert secret.group(1) not in "\n".join(server.output) + server.complaints(), "printed once only"
    again = server.client(access.group(1), secret.group(1))
    assert [bucket["Name"] for bucket in again.list_buckets()["Buckets"]] == ["generated"]


def test_no_default_credentials(own_server):
    server = own_server(CULLET_ACCESS_KEY_ID=None, CULLET_SECRET_ACCESS_KEY=None)
    for name, secret in [("minioadmin", "minioadmin"), ("admin", "admin"), ("", ""), ("root", "root")]:
        if name:
            answer = raw.request(server, "GET", "/", signer=raw.Signer(server, name, secret))
            assert tuple(answer) == (403, "InvalidAccessKeyId")


def test_half_of_the_credentials(tmp_path):
    message = refused(tmp_path / "disk", status=2, CULLET_SECRET_ACCESS_KEY=None)
    assert "CULLET_SECRET_ACCESS_KEY" in message


def test_a_disk_in_use(own_server):
    server = own_server()
    message = refused(server.disk)
    assert str(server.disk) in message
    assert "in use" in message or "another" in message
    assert server.client().list_buckets()["Buckets"] == []


def test_a_port_in_use(own_server, tmp_path):
    server = own_server()
    ended = run("server", "--listen", server.address, tmp_path / "other")
    assert ended.returncode == 1
    assert str(server.port) in ended.stderr
    assert "in use" in ended.stderr.lower()


def test_a_foreign_directory(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"mine")
    message = refused(tmp_path / "photos")
    assert "photos" in message
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]


def test_a_file_where_a_directory_should_be(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    assert "file" in refused(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_directory_that_cannot_be_written():
    assert "/proc" in refused("/proc/cullet")


def test_no_core_dump_takes_secrets_to_a_disk(own_server):
    """A limit of 0 would not count where dumps go through a pipe; 1 stops those as well."""
    limits = pathlib.Path(f"/proc/{own_server().process.pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["1", "1"]


def test_a_directory_whose_data_are_not_ours(own_server):
    server = own_server()
    server.client().create_bucket(Bucket="ours")
    assert server.stop() == 0
    for path in server.disk.rglob("*"):
        if path.is_file() and path.stat().st_size >= MIB:
            with open(path, "r+b") as file:
                for offset in (0, 64 * 1024):
                    file.seek(offset)
                    file.write(b"\x7fsomething else" * 300)
    assert str(server.disk) in refused(server.disk)


def test_a_capacity_that_is_too_small(tmp_path):
    message = refused("--disk-capacity", "1MiB", tmp_path / "disk", status=2)
    assert "capacity" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("server",),
        ("server", "--memory"),
        ("server", "--memory", "lots", "/tmp/x"),
        ("server", "--listen", "nowhere", "/tmp/x"),
        ("server", "--no-such-flag", "/tmp/x"),
        ("server", "help"),
    ],
)
def test_wrong_usage(arguments):
    ended = run(*arguments)
    assert ended.returncode == 2, ended
    assert ended.stderr


def test_help_and_version():
    ended = run("--version")
    assert (ended.returncode, ended.stdout.split()[0]) == (0, "cullet")
    for arguments in (("help",), ("--help",), ("server", "--help")):
        ended = run(*arguments)
        assert ended.returncode == 0
        assert "server" in ended.stdout
    for flag in ("--listen", "--memory", "--region", "--disk-capacity"):
        assert flag in run("server", "--help").stdout
