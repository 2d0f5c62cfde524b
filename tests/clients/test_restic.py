"""restic: backups into a repository on the server, and what comes out of it again."""

import itertools
import json

import pytest

import harness
import programs
import trees
from harness import MIB, body

_numbers = itertools.count(1)

RUN_SECONDS = 120


class Restic:
    """One repository. Its cache is not used: what is read comes from the server."""

    def __init__(self, server, directory, bucket):
        self.directory = directory
        self.program = programs.of_debian("restic")
        self.flags = ["--no-cache"]
        if server.ca_file:
            self.flags += ["--cacert", server.ca_file]
        self.env = programs.environment(
            AWS_ACCESS_KEY_ID=harness.ACCESS_KEY,
            AWS_SECRET_ACCESS_KEY=harness.SECRET_KEY,
            RESTIC_REPOSITORY=f"s3:{server.url}/{bucket}/backups",
            RESTIC_PASSWORD="a password",
        )

    def __call__(self, *arguments, fails=False, **env):
        """Returns standard output, or what it complains of when it is to fail."""
        command = [self.program, *self.flags, *arguments]
        ended = programs.run(command, {**self.env, **env}, self.directory, RUN_SECONDS, fails)
        return (ended.stderr if fails else ended.stdout).decode()

    def backup(self, source):
        """Returns what the backup says of itself at its end."""
        said = self("backup", "--json", source)
        return json.loads(said.splitlines()[-1])

    def restore(self, snapshot, source, target):
        """Restores below `target`; returns where the backed up directory lies there."""
        self("restore", snapshot, "--target", target)
        return self.directory / target / source.relative_to("/")


@pytest.fixture
def restic(logged_server, tmp_path):
    yield Restic(logged_server, tmp_path, f"restic-{next(_numbers)}")
    trees.gone(tmp_path)


@pytest.fixture
def source(tmp_path):
    trees.plant(tmp_path / "source")
    trees.write(tmp_path / "source" / "large", body(40 * MIB))
    return tmp_path / "source"


def test_backups_and_their_restores(restic, source, logged_server, tmp_path):
    restic("init")
    logged_server.requests.take()
    first = restic.backup(source)
    assert first["files_new"] == len(trees.NAMES) + 1
    sent = sum(request["bytes_in"] for request in logged_server.requests.take())
    assert sent >= 40 * MIB
    was = trees.contents(source)

    # The second one sends what is new, not what is there.
    trees.write(source / "new", body(2 * MIB, seed=1))
    trees.write(source / "plain.txt", b"changed", trees.LONG_AGO_NS + 10**9)
    (source / "100%").unlink()
    second = restic.backup(source)
    assert (second["files_new"], second["files_changed"]) == (1, 1)
    requests = logged_server.requests.take()
    assert 2 * MIB <= sum(request["bytes_in"] for request in requests) < 4 * MIB
    assert {request["status"] for request in requests} <= {200, 204, 206, 404}

    assert "no errors were found" in restic("check", "--read-data")
    snapshots = json.loads(restic("snapshots", "--json"))
    assert [snapshot["short_id"] for snapshot in snapshots] == [first["snapshot_id"][:8], second["snapshot_id"][:8]]

    older = restic.restore(first["snapshot_id"], source, "older")
    assert trees.contents(older) == was
    newest = restic.restore("latest", source, "newest")
    trees.same(newest, source)
    assert trees.times_ns(newest) == trees.times_ns(source)
    assert restic("dump", "latest", str(source / "plain.txt")) == "changed"
    trees.gone(older, newest)

    # Without the first snapshot its own data goes, and nothing else.
    logged_server.requests.take()
    restic("forget", "--keep-last", "1", "--prune", "--max-unused", "0")
    assert logged_server.requests.counts()["DeleteObject"] >= 2
    assert len(json.loads(restic("snapshots", "--json"))) == 1
    assert "no errors were found" in restic("check", "--read-data")
    trees.same(restic.restore("latest", source, "after"), source)


def test_a_repository_that_is_there(restic, source, logged_server):
    restic("init")
    assert "already" in restic("init", fails=True)
    assert "wrong password" in restic("snapshots", fails=True, RESTIC_PASSWORD="another")
    restic.backup(source)
    # A pack that is damaged in the store is found, and named.
    s3 = logged_server.client()
    bucket = restic.env["RESTIC_REPOSITORY"].split("/")[3]
    packs = s3.list_objects_v2(Bucket=bucket, Prefix="backups/data/")["Contents"]
    pack = max(packs, key=lambda entry: entry["Size"])
    data = bytearray(s3.get_object(Bucket=bucket, Key=pack["Key"])["Body"].read())
    data[len(data) // 2] ^= 1
    s3.put_object(Bucket=bucket, Key=pack["Key"], Body=bytes(data))
    assert pack["Key"].rpartition("/")[2][:8] in restic("check", "--read-data", fails=True)


def test_two_at_once(restic, source, tmp_path):
    """Locks are objects: two backups at a time are fine, and each sees the other's."""
    import concurrent.futures

    restic("init")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(restic.backup, [source, source / "deep"]))
    listed = {snapshot["short_id"] for snapshot in json.loads(restic("snapshots", "--json"))}
    assert listed == {one["snapshot_id"][:8] for one in ended}
    assert restic("list", "locks").strip() == ""
    assert "no errors were found" in restic("check", "--read-data")


def test_over_tls(tls_server, source, tmp_path):
    restic = Restic(tls_server, tmp_path, "restic-tls")
    restic("init")
    restic.backup(source)
    assert "no errors were found" in restic("check", "--read-data")
    trees.same(restic.restore("latest", source, "back"), source)
    restic.flags = ["--no-cache"]
    assert "certificate" in restic("snapshots", fails=True)
    trees.gone(tmp_path)
