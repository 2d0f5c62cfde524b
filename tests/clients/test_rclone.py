"""rclone, as people use it: as its authors release it now, and as Debian packages it."""

import itertools
import json
import urllib.request

import pytest

import programs
import trees
from harness import KIB, MIB, body

_numbers = itertools.count(1)

LARGE = 100 * MIB
RUN_SECONDS = 120


@pytest.fixture(scope="module", params=["released", "debian"])
def program(request):
    return programs.of_pypi("rclone") if request.param == "released" else programs.of_debian("rclone")


class Rclone:
    """As the README configures it, but that the remote is called `c:`. Without retries, so that a test sees what failed."""

    def __init__(self, program, server, directory, provider="Other"):
        self.program = program
        self.directory = directory
        config = directory / "rclone.conf"
        settings = programs.readme(server, "[cullet]").replace("[cullet]", "[c]").replace("Other", provider)
        config.write_text(settings.replace(f"http://{server.address}", server.url))
        self.env = programs.environment(
            RCLONE_CONFIG=str(config), RCLONE_RETRIES="1", RCLONE_LOW_LEVEL_RETRIES="1", RCLONE_STATS_ONE_LINE="true"
        )
        if server.ca_file:
            self.env["RCLONE_CA_CERT"] = str(server.ca_file)

    def __call__(self, *arguments, fails=False, stdin=b""):
        """Returns standard output, or what it complains of when it is to fail."""
        ended = programs.run([self.program, *arguments], self.env, self.directory, RUN_SECONDS, fails, stdin)
        return ended.stderr.decode() if fails else ended.stdout

    def entries(self, remote):
        """Every object below `remote`, by its name."""
        listed = json.loads(self("lsjson", "--recursive", "--hash", "--files-only", remote))
        return {entry["Path"]: entry for entry in listed}


@pytest.fixture
def rclone(program, logged_server, tmp_path):
    yield Rclone(program, logged_server, tmp_path)
    trees.gone(tmp_path)


@pytest.fixture
def remote():
    """A bucket that is not there yet: rclone makes it."""
    return f"c:rclone-{next(_numbers)}"


@pytest.fixture
def requests(logged_server):
    logged_server.requests.take()
    return logged_server.requests


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    directory = tmp_path_factory.mktemp("large")
    yield trees.write(directory / "large", body(LARGE))
    trees.gone(directory)


def test_copy_sync_and_check(rclone, remote, requests, tmp_path):
    source = trees.plant(tmp_path / "source")
    rclone("copy", source, f"{remote}/tree")
    assert requests.counts()["PutObject"] == len(trees.NAMES)
    rclone("check", source, f"{remote}/tree")
    rclone("check", "--download", source, f"{remote}/tree")

    requests.take()
    for how in ([], ["--checksum"], ["--size-only"]):
        rclone("sync", *how, source, f"{remote}/tree")
    assert set(requests.counts()) == {"HeadObject", "ListObjects"}, "nothing changed, nothing is sent"

    trees.write(source / "plain.txt", b"changed", trees.LONG_AGO_NS + 10**9)
    trees.write(source / "new" / "file", b"new")
    (source / "100%").unlink()
    rclone("check", source, f"{remote}/tree", fails=True)
    requests.take()
    rclone("sync", source, f"{remote}/tree")
    counts = requests.counts()
    assert (counts["PutObject"], counts["DeleteObject"] + counts["DeleteObjects"]) == (2, 1)
    rclone("check", "--checksum", source, f"{remote}/tree")

    rclone("copy", f"{remote}/tree", "back")
    trees.same(source, tmp_path / "back")
    assert trees.times_ns(tmp_path / "back") == trees.times_ns(source)
    (tmp_path / "back" / "not there").write_bytes(b"x")
    rclone("sync", f"{remote}/tree", "back")
    trees.same(source, tmp_path / "back")


def test_modification_times(rclone, remote, requests, logged_server, tmp_path):
    trees.write(tmp_path / "file", body(3 * MIB))
    rclone("copy", "file", f"{remote}/d")
    head = logged_server.client().head_object(Bucket=remote[2:], Key="d/file")
    assert head["Metadata"] == {"mtime": "1577934245.123456789"}
    assert rclone("lsl", remote).decode().split() == [str(3 * MIB), "2020-01-02", "03:04:05.123456789", "d/file"]
    # A new time alone is set by a copy of the object onto itself; the bytes are not sent again.
    trees.write(tmp_path / "file", body(3 * MIB), trees.LONG_AGO_NS + 10**9)
    requests.take()
    rclone("copy", "file", f"{remote}/d")
    counts = requests.counts()
    assert (counts["PutObject"], counts["CopyObject"]) == (0, 1)
    assert b"03:04:06.123456789" in rclone("lsl", remote)
    rclone("touch", "--timestamp", "2021-02-03T04:05:06", f"{remote}/d/file")
    assert b"2021-02-03 04:05:06" in rclone("lsl", remote)
    assert rclone("cat", f"{remote}/d/file") == body(3 * MIB)


@pytest.mark.parametrize(
    "flags, parts",
    [([], 0), (["--s3-upload-cutoff", "20Mi"], 20), (["--s3-upload-cutoff", "20Mi", "--s3-chunk-size", "16Mi"], 7)],
    ids=["as it is", "parts of 5 MiB", "parts of 16 MiB"],
)
def test_a_large_file(rclone, remote, requests, large, tmp_path, flags, parts):
    """Up to 200 MiB rclone sends files whole, without being told otherwise."""
    rclone("copy", *flags, large, remote)
    counts = requests.counts()
    assert (counts["PutObject"], counts["UploadPart"]) == ((0, parts) if parts else (1, 0))
    # It keeps the whole file's MD5 in the metadata of what it sends in parts.
    rclone("check", "--one-way", large.parent, remote)
    assert rclone("md5sum", remote).split() == [rclone("md5sum", large).split()[0], b"large"]
    rclone("copy", remote, "back")
    assert (tmp_path / "back" / "large").read_bytes() == large.read_bytes()
    assert rclone("sync", "-v", large.parent, remote) == b""
    assert requests.counts()["PutObject"] == 0
    rclone("purge", remote)


def test_from_standard_input(rclone, remote, requests):
    """Of a length that is not known before: in parts from 100 KiB on."""
    rclone("rcat", f"{remote}/short", stdin=b"short")
    rclone("rcat", f"{remote}/long", stdin=body(12 * MIB))
    assert requests.counts()["UploadPart"] == 3
    assert rclone("cat", f"{remote}/short") == b"short"
    assert rclone("cat", f"{remote}/long") == body(12 * MIB)


def test_copies_and_moves_on_the_server(rclone, remote, requests, logged_server, tmp_path):
    source = trees.plant(tmp_path / "source")
    trees.write(source / "in parts", body(23 * MIB))
    other = f"{remote}-other"
    rclone("copy", source, f"{remote}/tree")
    requests.take()
    rclone("copy", "--s3-copy-cutoff", "10Mi", f"{remote}/tree", f"{other}/copied")
    rclone("moveto", f"{other}/copied/plain.txt", f"{other}/copied/moved.txt")
    rclone("move", f"{remote}/tree/ünïcødé", f"{other}/moved/ü")
    rclone("copyto", f"{remote}/tree/100%", f"{remote}/one")
    counts = requests.counts()
    assert (counts["PutObject"], counts["UploadPart"], counts["GetObject"]) == (0, 0, 0), "no bytes pass the client"
    assert counts["CopyObject"] == len(trees.NAMES) + 3
    assert counts["UploadPartCopy"] == 3
    assert counts["DeleteObject"] == 2

    assert "ünïcødé/é" not in rclone.entries(f"{remote}/tree")
    rclone("copy", f"{other}/copied", "copied")
    back = trees.contents(tmp_path / "copied")
    back["plain.txt"] = back.pop("moved.txt")
    assert back == trees.contents(source)
    assert rclone("cat", f"{other}/moved/ü/é") == (source / "ünïcødé" / "é").read_bytes()
    assert rclone("cat", f"{remote}/one") == (source / "100%").read_bytes()
    times = set(trees.times_ns(tmp_path / "copied").values())
    assert times == {trees.LONG_AGO_NS}, "times go along"


def test_listings(rclone, remote, tmp_path):
    source = trees.plant(tmp_path / "source")
    rclone("copy", source, f"{remote}/tree")
    names = sorted(trees.NAMES)
    files = [name for name in names if "/" not in name]
    directories = sorted({name.split("/")[0] + "/" for name in names if "/" in name})
    assert sorted(rclone("lsf", f"{remote}/tree").decode().splitlines()) == sorted(files + directories)
    for how in ([], ["--fast-list"], ["--s3-list-version", "2"], ["--s3-list-chunk", "3"]):
        listed = rclone("lsf", "--recursive", "--files-only", *how, f"{remote}/tree").decode().splitlines()
        assert sorted(listed) == names, how
    sizes = {name: len(data) for name, data in trees.contents(source).items()}
    assert {name: entry["Size"] for name, entry in rclone.entries(f"{remote}/tree").items()} == sizes
    assert json.loads(rclone("size", "--json", remote))["bytes"] == sum(sizes.values())
    assert json.loads(rclone("size", "--json", remote))["count"] == len(names)
    assert remote[2:] in rclone("lsd", "c:").decode().split()
    assert rclone("tree", f"{remote}/tree/deep").decode().count("file") >= 1


def test_parts_of_a_file(rclone, remote, requests):
    data = body(3 * MIB)
    rclone("rcat", f"{remote}/k", stdin=data)
    requests.take()
    assert rclone("cat", "--offset", "1000000", "--count", "100000", f"{remote}/k") == data[1_000_000:1_100_000]
    assert rclone("cat", "--head", "10", f"{remote}/k") == data[:10]
    assert rclone("cat", "--tail", "10", f"{remote}/k") == data[-10:]
    answers = [(request["status"], request["bytes_out"]) for request in requests.take() if request["status"] == 206]
    assert (206, 100_000) in answers and (206, 10) in answers, "ranges are asked for, not cut out of the whole"


def test_several_streams_of_one_file(rclone, remote, large, tmp_path):
    """Downloads of large files are ranges of it at the same time."""
    rclone("copy", large, remote)
    rclone("copy", "--multi-thread-cutoff", "10Mi", "--multi-thread-streams", "4", remote, "back")
    assert (tmp_path / "back" / "large").read_bytes() == large.read_bytes()
    rclone("purge", remote)


def test_deletes(rclone, remote, tmp_path):
    source = trees.plant(tmp_path / "source")
    rclone("copy", source, f"{remote}/tree")
    rclone("deletefile", f"{remote}/tree/100%")
    rclone("delete", "--include", "*.txt", f"{remote}/tree")
    left = {name for name in trees.NAMES if not name.endswith(".txt")} - {"100%"}
    assert set(rclone.entries(f"{remote}/tree")) == left
    rclone("rmdir", remote, fails=True)
    rclone("purge", f"{remote}/tree")
    assert rclone.entries(remote) == {}
    rclone("rmdir", remote)
    assert remote[2:] not in rclone("lsd", "c:").decode().split()
    rclone("mkdir", remote)
    rclone("mkdir", remote)
    assert remote[2:] in rclone("lsd", "c:").decode().split()


def test_what_was_given_up_is_cleaned_up(rclone, remote, logged_server):
    s3 = logged_server.client()
    rclone("mkdir", remote)
    upload = s3.create_multipart_upload(Bucket=remote[2:], Key="given up")["UploadId"]
    s3.upload_part(Bucket=remote[2:], Key="given up", UploadId=upload, PartNumber=1, Body=body(100 * KIB))
    assert "given up" in rclone("backend", "list-multipart-uploads", remote).decode()
    rclone("cleanup", remote)
    assert len(s3.list_multipart_uploads(Bucket=remote[2:])["Uploads"]) == 1, "younger than a day"
    rclone("backend", "cleanup", "-o", "max-age=0s", remote)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=remote[2:])


def test_a_link(rclone, remote):
    rclone("rcat", f"{remote}/a b+c", stdin=b"for somebody else")
    url = rclone("link", "--expire", "60s", f"{remote}/a b+c").decode().strip()
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"for somebody else"


@pytest.mark.parametrize("provider", ["Minio", "Ceph"])
def test_as_another_provider(program, logged_server, tmp_path, remote, provider):
    """What it takes a server for decides how it lists, signs and checks."""
    rclone = Rclone(program, logged_server, tmp_path, provider=provider)
    source = trees.plant(tmp_path / "source", sizes=[0, 10 * KIB])
    trees.write(source / "in parts", body(11 * MIB))
    rclone("copy", "--s3-upload-cutoff", "5Mi", source, f"{remote}/tree")
    rclone("check", "--download", source, f"{remote}/tree")
    (source / "100%").unlink()
    rclone("sync", source, f"{remote}/tree")
    assert set(rclone.entries(f"{remote}/tree")) == {*trees.NAMES, "in parts"} - {"100%"}
    trees.gone(tmp_path)


def test_over_tls(program, tls_server, tmp_path, remote):
    rclone = Rclone(program, tls_server, tmp_path)
    source = trees.plant(tmp_path / "source")
    trees.write(source / "in parts", body(11 * MIB))
    rclone("copy", "--s3-upload-cutoff", "5Mi", source, f"{remote}/tree")
    rclone("check", "--download", source, f"{remote}/tree")
    rclone("copy", f"{remote}/tree", "back")
    trees.same(source, tmp_path / "back")
    del rclone.env["RCLONE_CA_CERT"]
    rclone("lsd", "c:", fails=True)
