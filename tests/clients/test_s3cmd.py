"""s3cmd, as people use it."""

import itertools
import urllib.error
import urllib.request

import pytest

import programs
import trees
from harness import KIB, MIB, body

_numbers = itertools.count(1)

RUN_SECONDS = 120


class S3cmd:
    """As the README configures it."""

    def __init__(self, server, directory):
        self.directory = directory
        self.program = programs.of_pypi("s3cmd")
        self.config = directory / "s3cfg"
        settings = programs.readme(server, "[default]")
        if server.ca_file:
            settings = settings.replace("use_https = False", f"use_https = True\nca_certs_file = {server.ca_file}")
        self.config.write_text(settings)
        self.env = programs.environment()

    def __call__(self, *arguments, fails=False, stdin=b""):
        """Returns standard output, or what it complains of when it is to fail."""
        command = [self.program, "--config", self.config, "--no-progress", *arguments]
        ended = programs.run(command, self.env, self.directory, RUN_SECONDS, fails, stdin)
        return (ended.stderr if fails else ended.stdout).decode()

    def names(self, url):
        """The keys below `url`, relative to it."""
        lines = self("ls", "--recursive", url).splitlines()
        return sorted(line.partition(url)[2] for line in lines)


@pytest.fixture
def s3cmd(logged_server, tmp_path):
    yield S3cmd(logged_server, tmp_path)
    trees.gone(tmp_path)


@pytest.fixture
def url(s3cmd):
    """A bucket of this test's own."""
    name = f"s3://s3cmd-{next(_numbers)}"
    s3cmd("mb", name)
    return name


@pytest.fixture
def requests(logged_server):
    logged_server.requests.take()
    return logged_server.requests


def test_a_first_session(s3cmd, tmp_path):
    (tmp_path / "hello.txt").write_text("hello")
    s3cmd("mb", "s3://session")
    assert "s3://session" in s3cmd("ls").split()
    s3cmd("put", "hello.txt", "s3://session/a/")
    assert s3cmd("ls", "s3://session").split() == ["DIR", "s3://session/a/"]
    assert s3cmd("ls", "s3://session/a/").split()[-2:] == ["5", "s3://session/a/hello.txt"]
    assert "s3://session/a/" in s3cmd("la")
    s3cmd("get", "s3://session/a/hello.txt", "back.txt")
    assert (tmp_path / "back.txt").read_text() == "hello"
    assert s3cmd("get", "s3://session/a/hello.txt", "-") == "hello"
    assert "already exists" in s3cmd("get", "s3://session/a/hello.txt", "back.txt", fails=True)
    assert "BucketNotEmpty" in s3cmd("rb", "s3://session", fails=True)
    s3cmd("del", "s3://session/a/hello.txt")
    assert s3cmd("ls", "--recursive", "s3://session") == ""
    s3cmd("rb", "s3://session")
    assert "s3://session" not in s3cmd("ls").split()
    assert "NoSuchBucket" in s3cmd("ls", "s3://session", fails=True)


@pytest.mark.parametrize(
    "size, flags, parts",
    [
        (0, [], 0),
        (15 * MIB, [], 0),
        (15 * MIB + 1, [], 2),
        (40 * MIB, [], 3),
        (40 * MIB, ["--multipart-chunk-size-mb=5"], 8),
        (40 * MIB, ["--disable-multipart"], 0),
    ],
)
def test_up_and_down(s3cmd, url, requests, tmp_path, size, flags, parts):
    """Above 15 MiB it sends files in parts of that size."""
    (tmp_path / "up").write_bytes(body(size))
    s3cmd("put", *flags, "up", f"{url}/some/where")
    counts = requests.counts()
    assert (counts["UploadPart"], counts["PutObject"]) == ((parts, 0) if parts else (0, 1))
    s3cmd("get", f"{url}/some/where", "down")
    assert (tmp_path / "down").read_bytes() == body(size)
    s3cmd("del", f"{url}/some/where")


def test_from_standard_input(s3cmd, url):
    data = body(17 * MIB)
    s3cmd("put", "-", f"{url}/piped", stdin=data)
    s3cmd("get", f"{url}/piped", "back")
    assert (s3cmd.directory / "back").read_bytes() == data


def test_the_rest_of_a_download(s3cmd, url, tmp_path, requests):
    data = body(3 * MIB)
    (tmp_path / "up").write_bytes(data)
    s3cmd("put", "up", f"{url}/k")
    (tmp_path / "down").write_bytes(data[:MIB])
    requests.take()
    s3cmd("get", "--continue", f"{url}/k", "down")
    assert (tmp_path / "down").read_bytes() == data
    assert [request["bytes_out"] for request in requests.take() if request["operation"] == "GetObject"] == [2 * MIB]


def test_sync(s3cmd, url, requests, tmp_path):
    source = trees.plant(tmp_path / "source")
    trees.write(source / "in parts", body(17 * MIB))
    s3cmd("sync", f"{source}/", f"{url}/tree/")
    assert s3cmd.names(f"{url}/tree/") == sorted([*trees.NAMES, "in parts"])
    requests.take()
    s3cmd("sync", f"{source}/", f"{url}/tree/")
    assert set(requests.counts()) <= {"GetBucketLocation", "HeadObject", "ListObjects"}, "nothing changed, nothing is sent"

    trees.write(source / "plain.txt", b"changed")
    trees.write(source / "new" / "file", b"new")
    (source / "100%").unlink()
    requests.take()
    s3cmd("sync", "--delete-removed", f"{source}/", f"{url}/tree/")
    counts = requests.counts()
    assert (counts["PutObject"], counts["DeleteObject"] + counts["DeleteObjects"]) == (2, 1)

    s3cmd("sync", f"{url}/tree/", f"{tmp_path}/back/")
    trees.same(source, tmp_path / "back")
    kept = {round(time / 10**9) for time in trees.times_ns(tmp_path / "back").values()}
    assert kept == {round(trees.LONG_AGO_NS / 10**9)}, "times are kept, in seconds"
    (tmp_path / "back" / "not there").write_bytes(b"x")
    s3cmd("sync", "--delete-removed", f"{url}/tree/", f"{tmp_path}/back/")
    trees.same(source, tmp_path / "back")

    s3cmd("sync", f"{url}/tree/", f"{url}/other/")
    assert s3cmd.names(f"{url}/other/") == s3cmd.names(f"{url}/tree/")
    s3cmd("del", "--recursive", "--force", url)
    assert s3cmd.names(f"{url}/") == []


def test_copies_and_moves_on_the_server(s3cmd, url, requests, tmp_path):
    data = body(17 * MIB)
    (tmp_path / "up").write_bytes(data)
    s3cmd("put", "--add-header=x-amz-meta-colour:blue", "up", f"{url}/one")
    requests.take()
    s3cmd("cp", f"{url}/one", f"{url}/b c/two+")
    s3cmd("mv", f"{url}/b c/two+", f"{url}/ü")
    s3cmd("modify", "--add-header=x-amz-meta-colour:green", "--mime-type=text/plain", f"{url}/ü")
    counts = requests.counts()
    assert (counts["PutObject"], counts["UploadPart"], counts["GetObject"]) == (0, 0, 0), "no bytes pass the client"
    assert s3cmd.names(f"{url}/") == ["one", "ü"]
    s3cmd("get", f"{url}/ü", "down")
    assert (tmp_path / "down").read_bytes() == data
    info = s3cmd("info", f"{url}/ü")
    assert "x-amz-meta-colour: green" in info and "text/plain" in info
    assert "x-amz-meta-colour: blue" in s3cmd("info", f"{url}/one")
    s3cmd("mb", f"{url}-other")
    s3cmd("cp", "--recursive", f"{url}/", f"{url}-other/all/")
    assert s3cmd.names(f"{url}-other/all/") == ["one", "ü"]


def test_information(s3cmd, url, tmp_path):
    (tmp_path / "up").write_bytes(body(100 * KIB))
    for number in range(3):
        s3cmd("put", "up", f"{url}/d/{number}")
    assert s3cmd("du", url).split()[:2] == [str(300 * KIB), "3"]
    info = s3cmd("info", f"{url}/d/1")
    assert f"File size: {100 * KIB}" in " ".join(info.split())
    assert "mtime" in info
    bucket = " ".join(s3cmd("info", url).split())
    assert "Location: us-east-1" in bucket
    s3cmd("info", f"{url}/none", fails=True)


def test_deletes(s3cmd, url, requests, tmp_path):
    source = trees.plant(tmp_path / "source", sizes=[10])
    s3cmd("sync", f"{source}/", f"{url}/")
    s3cmd("del", f"{url}/100%", f"{url}/日本語/キー")
    s3cmd("del", "--recursive", f"{url}/deep/")
    s3cmd("del", "--recursive", "--force", "--include=*.txt", "--exclude=*", url)
    left = {name for name in trees.NAMES if not name.endswith(".txt")}
    assert s3cmd.names(f"{url}/") == sorted(left - {"100%", "日本語/キー", "deep/er/and/deeper/file"})
    s3cmd("rb", "--recursive", "--force", url)
    assert url not in s3cmd("ls").split()


def test_uploads_that_were_given_up(s3cmd, url, logged_server):
    s3 = logged_server.client()
    bucket = url.removeprefix("s3://")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="given up")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="given up", UploadId=upload, PartNumber=1, Body=body(MIB))
    assert upload in s3cmd("multipart", url)
    assert str(MIB) in s3cmd("listmp", f"{url}/given up", upload)
    s3cmd("abortmp", f"{url}/given up", upload)
    assert upload not in s3cmd("multipart", url)


def test_signed_urls_are_of_a_kind_that_is_refused(s3cmd, url):
    """s3cmd signs URLs with SigV2 whatever it is told; the answer says what is accepted."""
    s3cmd("put", "-", f"{url}/k", stdin=b"x")
    signed = s3cmd("signurl", f"{url}/k", "+60").strip()
    assert "AWSAccessKeyId=" in signed
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(signed)
    assert error.value.code == 400
    assert "AWS4-HMAC-SHA256" in error.value.read().decode()


def test_over_tls(tls_server, tmp_path):
    s3cmd = S3cmd(tls_server, tmp_path)
    source = trees.plant(tmp_path / "source")
    trees.write(source / "in parts", body(17 * MIB))
    s3cmd("mb", "s3://s3cmd-tls")
    s3cmd("sync", f"{source}/", "s3://s3cmd-tls/tree/")
    s3cmd("sync", "s3://s3cmd-tls/tree/", f"{tmp_path}/back/")
    trees.same(source, tmp_path / "back")
    s3cmd.config.write_text(s3cmd.config.read_text().replace("ca_certs_file", "# "))
    s3cmd("ls", fails=True)
    trees.gone(tmp_path)
