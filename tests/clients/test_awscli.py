"""The `aws` command line, as people use it."""

import base64
import hashlib
import itertools
import json
import os
import urllib.error
import urllib.request

import pytest

import harness
import programs
import trees
from harness import KIB, MIB, body

_numbers = itertools.count(1)

RUN_SECONDS = 120


def aws_of(server, tmp_path):
    """A function that calls it. Without retries, so that a test sees what failed."""
    program = programs.of_pypi("aws")
    config = tmp_path / "config"
    # The setting is for presigned URLs: without it this version signs them with SigV2.
    config.write_text("[default]\nregion = us-east-1\ns3 =\n  signature_version = s3v4\n")
    env = programs.environment(
        AWS_ACCESS_KEY_ID=harness.ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY=harness.SECRET_KEY,
        AWS_ENDPOINT_URL=server.url,
        AWS_CONFIG_FILE=str(config),
        AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "none"),
        AWS_MAX_ATTEMPTS="1",
        AWS_PAGER="",
    )
    if server.ca_file:
        env["AWS_CA_BUNDLE"] = str(server.ca_file)

    def run(*arguments, fails=False, input=b"", **changes):
        changed = {name: value for name, value in {**env, **changes}.items() if value is not None}
        ended = programs.run([program, *arguments], changed, tmp_path, RUN_SECONDS, fails, input)
        return (ended.stderr if fails else ended.stdout).decode()

    return run


@pytest.fixture
def aws(server, tmp_path):
    return aws_of(server, tmp_path)


@pytest.fixture
def logged_aws(logged_server, tmp_path):
    logged_server.requests.take()
    yield aws_of(logged_server, tmp_path)
    trees.gone(tmp_path)


@pytest.fixture
def requests(logged_server):
    return logged_server.requests


@pytest.fixture
def url(logged_aws, requests):
    """A bucket of this test's own on the server that logs."""
    name = f"s3://aws-{next(_numbers)}"
    logged_aws("s3", "mb", name)
    requests.take()
    return name


@pytest.mark.parametrize("size, parts", [(0, 0), (1000, 0), (5 * MIB, 0), (8 * MIB, 1), (30 * MIB, 4)])
def test_up_and_down(logged_aws, url, requests, tmp_path, size, parts):
    """From 8 MiB on it sends files in parts of that size, and fetches them in such ranges."""
    aws = logged_aws
    (tmp_path / "up").write_bytes(body(size))
    aws("s3", "cp", "up", f"{url}/some/where")
    counts = requests.counts()
    assert (counts["UploadPart"], counts["PutObject"]) == ((parts, 0) if parts else (0, 1))
    aws("s3", "cp", f"{url}/some/where", "down")
    assert (tmp_path / "down").read_bytes() == body(size)
    assert requests.counts()["GetObject"] == max(1, parts)
    aws("s3", "rm", f"{url}/some/where")


def test_a_first_session(aws, tmp_path):
    aws("s3", "mb", "s3://session")
    assert "session" in aws("s3", "ls")
    (tmp_path / "hello.txt").write_text("hello")
    aws("s3", "cp", "hello.txt", "s3://session/")
    assert aws("s3", "ls", "s3://session/").split()[-2:] == ["5", "hello.txt"]
    assert aws("s3", "cp", "s3://session/hello.txt", "-") == "hello"
    assert "BucketNotEmpty" in aws("s3", "rb", "s3://session", fails=True)
    aws("s3", "rm", "s3://session/hello.txt")
    assert aws("s3", "ls", "s3://session/") == ""
    aws("s3", "rb", "s3://session")
    assert "session" not in aws("s3", "ls")


def test_directories(aws, bucket, tmp_path):
    source = tmp_path / "source"
    for number in range(30):
        trees.write(source / f"d{number % 3}" / f"a b+{number}.txt", str(number).encode())
    aws("s3", "cp", "--recursive", source, f"s3://{bucket}/tree")
    listed = aws("s3", "ls", f"s3://{bucket}/tree/").split()
    assert listed == ["PRE", "d0/", "PRE", "d1/", "PRE", "d2/"]
    assert len(aws("s3", "ls", "--recursive", f"s3://{bucket}/tree").splitlines()) == 30
    summary = aws("s3", "ls", "--recursive", "--summarize", "--human-readable", f"s3://{bucket}/tree")
    assert "Total Objects: 30" in summary and "Total Size: 50 Bytes" in summary
    aws("s3", "cp", "--recursive", f"s3://{bucket}/tree", "back")
    trees.same(source, tmp_path / "back")
    aws("s3", "cp", "--recursive", "--exclude", "*", "--include", "d1/*", f"s3://{bucket}/tree", "some")
    assert len(trees.contents(tmp_path / "some")) == 10
    aws("s3", "rm", "--recursive", "--exclude", "*1.txt", f"s3://{bucket}/tree")
    assert len(aws("s3", "ls", "--recursive", f"s3://{bucket}").splitlines()) == 3
    aws("s3", "rm", "--recursive", f"s3://{bucket}/tree")
    assert aws("s3", "ls", "--recursive", f"s3://{bucket}") == ""


def test_odd_names(aws, bucket, tmp_path):
    source = trees.plant(tmp_path / "source")
    aws("s3", "cp", "--recursive", source, f"s3://{bucket}/tree")
    aws("s3", "cp", "--recursive", f"s3://{bucket}/tree", "back")
    trees.same(source, tmp_path / "back")
    trees.gone(tmp_path)


def test_sync(logged_aws, url, requests, tmp_path):
    aws = logged_aws
    source = trees.plant(tmp_path / "source", trees.NAMES[:12])
    trees.write(source / "in parts", body(9 * MIB))
    aws("s3", "sync", source, f"{url}/tree")
    counts = requests.counts()
    assert (counts["PutObject"], counts["UploadPart"]) == (12, 2)
    assert aws("s3", "sync", source, f"{url}/tree") == "", "nothing changed, nothing is sent"
    assert aws("s3", "sync", "--delete", source, f"{url}/tree") == ""
    assert set(requests.counts()) == {"ListObjectsV2"}

    # Of another length, of another time, new, and gone.
    trees.write(source / "plain.txt", b"changed")
    (source / "plus+sign").touch()
    os.utime(source / "plus+sign", (2_000_000_000, 2_000_000_000))
    trees.write(source / "new" / "file", b"new")
    (source / "100%").unlink()
    aws("s3", "sync", source, f"{url}/tree")
    counts = requests.counts()
    assert (counts["PutObject"], counts["DeleteObject"] + counts["DeleteObjects"]) == (3, 0)
    aws("s3", "sync", "--delete", source, f"{url}/tree")
    counts = requests.counts()
    assert counts["DeleteObject"] + counts["DeleteObjects"] == 1

    aws("s3", "sync", f"{url}/tree", "back")
    trees.same(source, tmp_path / "back")
    requests.take()
    assert aws("s3", "sync", f"{url}/tree", "back") == ""
    assert requests.counts()["GetObject"] == 0
    (tmp_path / "back" / "not there").write_bytes(b"x")
    aws("s3", "sync", "--delete", f"{url}/tree", "back")
    trees.same(source, tmp_path / "back")

    # From bucket to bucket, without the bytes passing here.
    aws("s3", "mb", f"{url}-other")
    requests.take()
    aws("s3", "sync", f"{url}/tree", f"{url}-other")
    counts = requests.counts()
    assert (counts["CopyObject"], counts["UploadPartCopy"], counts["GetObject"]) == (12, 2, 0)
    aws("s3", "cp", "--recursive", f"{url}-other", "again")
    trees.same(source, tmp_path / "again")


def test_copies_and_moves_on_the_server(logged_aws, url, requests, tmp_path):
    aws = logged_aws
    small, large = body(100 * KIB), body(20 * MIB)
    (tmp_path / "small").write_bytes(small)
    (tmp_path / "large").write_bytes(large)
    for name in ("small", "large"):
        aws("s3", "cp", "--metadata", "colour=blue", "--content-type", "text/x-odd", name, f"{url}/{name}")
    aws("s3", "mb", f"{url}-other")
    requests.take()
    for name in ("small", "large"):
        aws("s3", "cp", f"{url}/{name}", f"{url}-other/a b+ü/{name}")
        aws("s3", "mv", f"{url}-other/a b+ü/{name}", f"{url}-other/moved/{name}")
    counts = requests.counts()
    assert (counts["CopyObject"], counts["UploadPartCopy"], counts["DeleteObject"]) == (2, 6, 2)
    assert counts["GetObject"] == 0, "no bytes pass the client"
    assert aws("s3", "ls", "--recursive", f"{url}-other").split()[3::4] == ["moved/large", "moved/small"]
    for name, data in (("small", small), ("large", large)):
        aws("s3", "mv", f"{url}-other/moved/{name}", f"back-{name}")
        assert (tmp_path / f"back-{name}").read_bytes() == data
        bucket = url.removeprefix("s3://")
        head = json.loads(aws("s3api", "head-object", "--bucket", bucket, "--key", name))
        assert (head["Metadata"], head["ContentType"]) == ({"colour": "blue"}, "text/x-odd")
    aws("s3", "rb", f"{url}-other")


def test_a_bucket_with_all_that_is_in_it(aws, tmp_path):
    trees.plant(tmp_path / "source", sizes=[10])
    aws("s3", "mb", "s3://with-force")
    aws("s3", "cp", "--recursive", "source", "s3://with-force")
    assert "BucketNotEmpty" in aws("s3", "rb", "s3://with-force", fails=True)
    aws("s3", "rb", "--force", "s3://with-force")
    assert "with-force" not in aws("s3", "ls")
    assert "NoSuchBucket" in aws("s3", "ls", "s3://with-force", fails=True)
    assert "NoSuchBucket" in aws("s3", "cp", "source/plain.txt", "s3://with-force", fails=True)


@pytest.mark.parametrize("text", ["through a pipe", "as much as needs parts " * MIB], ids=["short", "long"])
def test_from_standard_input(aws, bucket, text):
    aws("s3", "cp", "-", f"s3://{bucket}/piped", input=text.encode())
    assert aws("s3", "cp", f"s3://{bucket}/piped", "-") == text


def test_single_calls(aws, bucket, tmp_path):
    (tmp_path / "f").write_bytes(body(100 * KIB))
    put = json.loads(aws("s3api", "put-object", "--bucket", bucket, "--key", "k", "--body", "f", "--metadata", "a=b"))
    head = json.loads(aws("s3api", "head-object", "--bucket", bucket, "--key", "k"))
    assert (head["ETag"], head["ContentLength"], head["Metadata"]) == (put["ETag"], 100 * KIB, {"a": "b"})
    aws("s3api", "get-object", "--bucket", bucket, "--key", "k", "--range", "bytes=5-9", "part")
    assert (tmp_path / "part").read_bytes() == body(100 * KIB)[5:10]
    listed = json.loads(aws("s3api", "list-objects-v2", "--bucket", bucket))
    assert [entry["Key"] for entry in listed["Contents"]] == ["k"]
    deletion = json.dumps({"Objects": [{"Key": "k"}, {"Key": "other"}]})
    deleted = json.loads(aws("s3api", "delete-objects", "--bucket", bucket, "--delete", deletion))
    assert len(deleted["Deleted"]) == 2
    assert "404" in aws("s3api", "head-object", "--bucket", bucket, "--key", "k", fails=True)
    assert "PreconditionFailed" not in aws("s3api", "put-object", "--bucket", bucket, "--key", "k", "--if-none-match", "*")
    again = aws("s3api", "put-object", "--bucket", bucket, "--key", "k", "--if-none-match", "*", fails=True)
    assert "PreconditionFailed" in again


def test_presigned(aws, bucket, tmp_path):
    (tmp_path / "f").write_text("signed")
    aws("s3", "cp", "f", f"s3://{bucket}/k")
    url = aws("s3", "presign", f"s3://{bucket}/k", "--expires-in", "60").strip()
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"signed"


def test_in_parts(aws, bucket, tmp_path):
    """As it comes: files above 8 MB go up and down in parts, and copies happen on the server."""
    (tmp_path / "config").write_text("[default]\nregion = us-east-1\n")
    (tmp_path / "large").write_bytes(body(19 * MIB))
    aws("s3", "cp", "large", f"s3://{bucket}/large")
    head = json.loads(aws("s3api", "head-object", "--bucket", bucket, "--key", "large"))
    assert head["ETag"].endswith('-3"')
    aws("s3", "cp", f"s3://{bucket}/large", "down")
    assert (tmp_path / "down").read_bytes() == body(19 * MIB)
    aws("s3", "cp", f"s3://{bucket}/large", f"s3://{bucket}/a copy+1")
    aws("s3", "mv", f"s3://{bucket}/a copy+1", f"s3://{bucket}/moved")
    listed = aws("s3", "ls", f"s3://{bucket}/").split()
    assert listed[3::4] == ["large", "moved"]
    aws("s3", "cp", f"s3://{bucket}/moved", "down")
    assert (tmp_path / "down").read_bytes() == body(19 * MIB)
    aws("s3", "cp", "-", f"s3://{bucket}/piped", input=body(9 * MIB))
    parts = aws("s3api", "get-object-attributes", "--bucket", bucket, "--key", "piped", "--object-attributes", "ObjectParts", "ObjectSize")  # fmt: skip
    assert json.loads(parts)["ObjectSize"] == 9 * MIB


def test_uploads_by_single_calls(aws, bucket, tmp_path):
    (tmp_path / "part").write_bytes(body(100))
    call = ("--bucket", bucket, "--key", "k")
    upload = json.loads(aws("s3api", "create-multipart-upload", *call, "--checksum-algorithm", "SHA256"))["UploadId"]
    call += ("--upload-id", upload)
    algorithm = ("--checksum-algorithm", "SHA256")
    part = json.loads(aws("s3api", "upload-part", *call, "--part-number", 1, "--body", "part", *algorithm))
    listed = json.loads(aws("s3api", "list-parts", *call))
    assert listed["Parts"][0]["ETag"] == part["ETag"]
    named = {"ETag": part["ETag"], "PartNumber": 1, "ChecksumSHA256": part["ChecksumSHA256"]}
    (tmp_path / "parts.json").write_text(json.dumps({"Parts": [named]}))
    done = json.loads(aws("s3api", "complete-multipart-upload", *call, "--multipart-upload", "file://parts.json"))
    assert done["ChecksumSHA256"].endswith("-1")
    assert "NoSuchUpload" in aws("s3api", "abort-multipart-upload", *call, fails=True)


@pytest.mark.parametrize("region", [None, "us-east-1"])
def test_without_any_settings(aws, tmp_path, region):
    """As one who has just installed it has it: no file of settings at all."""
    config = tmp_path / "config"
    config.unlink() if region is None else config.write_text(f"[default]\nregion = {region}\n")
    bucket = f"plain-{region or 'none'}"
    (tmp_path / "hello.txt").write_text("hello")
    aws("s3", "mb", f"s3://{bucket}")
    aws("s3", "cp", "hello.txt", f"s3://{bucket}/a/hello.txt")
    assert aws("s3", "ls", f"s3://{bucket}").split() == ["PRE", "a/"]
    assert aws("s3", "cp", f"s3://{bucket}/a/hello.txt", "-") == "hello"
    url = aws("s3", "presign", f"s3://{bucket}/a/hello.txt").strip()
    # Version 1 presigns with SigV2 for an endpoint of one's own; the answer says what to set.
    assert "AWSAccessKeyId=" in url
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(url)
    assert error.value.code == 400
    setting = "aws configure set default.s3.signature_version s3v4"
    assert setting in error.value.read().decode()
    aws(*setting.split()[1:])
    url = aws("s3", "presign", f"s3://{bucket}/a/hello.txt", "--region", "us-east-1").strip()
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"hello"
    aws("s3", "rm", f"s3://{bucket}/a/hello.txt")
    aws("s3", "rb", f"s3://{bucket}")


def test_an_upload_by_single_calls(aws, bucket, tmp_path):
    place = ["--bucket", bucket, "--key", "a b/in parts"]

    def call(operation, *arguments):
        return json.loads(aws("s3api", operation, *place, *arguments))

    upload = ["--upload-id", call("create-multipart-upload", "--metadata", "a=b")["UploadId"]]
    data = [body(5 * MIB), body(1 * MIB)]
    parts = []
    for number, part in enumerate(data, 1):
        (tmp_path / "part").write_bytes(part)
        sent = call("upload-part", *upload, "--part-number", number, "--body", "part")
        assert sent["ETag"] == f'"{hashlib.md5(part).hexdigest()}"'
        parts.append({"ETag": sent["ETag"], "PartNumber": number})
    listed = call("list-parts", *upload)
    assert [(part["PartNumber"], part["Size"]) for part in listed["Parts"]] == [(1, 5 * MIB), (2, MIB)]
    uploads = json.loads(aws("s3api", "list-multipart-uploads", "--bucket", bucket))["Uploads"]
    assert [one["UploadId"] for one in uploads] == upload[1:]
    done = call("complete-multipart-upload", *upload, "--multipart-upload", json.dumps({"Parts": parts}))
    of_all = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in data)).hexdigest()
    assert done["ETag"] == f'"{of_all}-2"'
    head = call("head-object", "--part-number", "2")
    assert (head["ContentLength"], head["PartsCount"], head["Metadata"]) == (MIB, 2, {"a": "b"})
    aws("s3api", "get-object", *place, "whole")
    assert (tmp_path / "whole").read_bytes() == b"".join(data)
    given_up = ["--upload-id", call("create-multipart-upload")["UploadId"]]
    aws("s3api", "abort-multipart-upload", *place, *given_up)
    assert "NoSuchUpload" in aws("s3api", "list-parts", *place, *given_up, fails=True)
    assert aws("s3api", "list-multipart-uploads", "--bucket", bucket).find("UploadId") == -1


def test_more_single_calls(aws, bucket, tmp_path):
    (tmp_path / "f").write_bytes(body(100 * KIB))
    place = ["--bucket", bucket, "--key", "k"]
    sum256 = base64.b64encode(hashlib.sha256(body(100 * KIB)).digest()).decode()
    put = json.loads(aws("s3api", "put-object", *place, "--body", "f", "--checksum-algorithm", "SHA256"))
    assert put["ChecksumSHA256"] == sum256
    head = json.loads(aws("s3api", "head-object", *place, "--checksum-mode", "ENABLED"))
    assert head["ChecksumSHA256"] == sum256
    wanted = ["--object-attributes", "ETag", "ObjectSize", "Checksum"]
    attributes = json.loads(aws("s3api", "get-object-attributes", *place, *wanted))
    assert (attributes["ObjectSize"], attributes["Checksum"]["ChecksumSHA256"]) == (100 * KIB, sum256)
    aws("s3api", "copy-object", "--copy-source", f"{bucket}/k", "--bucket", bucket, "--key", "copy")
    aws("s3api", "get-object", "--bucket", bucket, "--key", "copy", "back")
    assert (tmp_path / "back").read_bytes() == body(100 * KIB)
    versions = json.loads(aws("s3api", "list-object-versions", "--bucket", bucket))["Versions"]
    assert [(one["Key"], one["VersionId"], one["IsLatest"]) for one in versions] == [
        ("copy", "null", True),
        ("k", "null", True),
    ]
    assert json.loads(aws("s3api", "get-bucket-location", "--bucket", bucket))["LocationConstraint"] is None
    aws("s3api", "head-bucket", "--bucket", bucket)
    aws("s3api", "wait", "object-exists", *place)
    listed = json.loads(aws("s3api", "list-objects-v2", "--bucket", bucket, "--page-size", "1"))["Contents"]
    assert [entry["Key"] for entry in listed] == ["copy", "k"]
    assert "PreconditionFailed" in aws("s3api", "get-object", *place, "--if-match", "other", "none", fails=True)


def test_over_tls(tls_server, tmp_path):
    aws = aws_of(tls_server, tmp_path)
    source = trees.plant(tmp_path / "source", trees.NAMES[:8])
    trees.write(source / "in parts", body(20 * MIB))
    aws("s3", "mb", "s3://aws-tls")
    aws("s3", "sync", source, "s3://aws-tls/tree")
    aws("s3", "sync", "s3://aws-tls/tree", "back")
    trees.same(source, tmp_path / "back")
    assert "SSL" in aws("s3", "ls", fails=True, AWS_CA_BUNDLE=None)
    trees.gone(tmp_path)
