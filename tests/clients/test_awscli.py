"""The `aws` command line, as people use it."""

import json
import os
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

import harness
from harness import KIB, MIB, body

AWS = pathlib.Path(sys.executable).parent / "aws"


@pytest.fixture
def aws(server, tmp_path):
    config = tmp_path / "config"
    config.write_text("[default]\nregion = us-east-1\ns3 =\n  multipart_threshold = 256MB\n  addressing_style = path\n  signature_version = s3v4\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env.update(
        AWS_ACCESS_KEY_ID=harness.ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY=harness.SECRET_KEY,
        AWS_CONFIG_FILE=str(config),
        AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "none"),
        AWS_MAX_ATTEMPTS="1",
        AWS_PAGER="",
    )

    def run(*arguments, fails=False, **more):
        ended = subprocess.run(
            [str(AWS), "--endpoint-url", server.url, *(str(word) for word in arguments)],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            timeout=120,
            **more,
        )
        assert (ended.returncode != 0) == fails, ended.stdout.decode() + ended.stderr.decode()
        return (ended.stderr if fails else ended.stdout).decode()

    return run


@pytest.mark.parametrize("size", [0, 1000, 5 * MIB, 20 * MIB])
def test_up_and_down(aws, bucket, tmp_path, size):
    (tmp_path / "up").write_bytes(body(size))
    aws("s3", "cp", "up", f"s3://{bucket}/some/where")
    aws("s3", "cp", f"s3://{bucket}/some/where", "down")
    assert (tmp_path / "down").read_bytes() == body(size)


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
        path = source / f"d{number % 3}" / f"a b+{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
        os.utime(path, (1_700_000_000, 1_700_000_000))  # Older than anything in the bucket.
    aws("s3", "sync", source, f"s3://{bucket}/tree")
    listed = aws("s3", "ls", f"s3://{bucket}/tree/").split()
    assert listed == ["PRE", "d0/", "PRE", "d1/", "PRE", "d2/"]
    assert len(aws("s3", "ls", "--recursive", f"s3://{bucket}/tree").splitlines()) == 30
    assert aws("s3", "sync", source, f"s3://{bucket}/tree") == "", "nothing changed, nothing is sent"
    aws("s3", "sync", f"s3://{bucket}/tree", "back")
    assert {p.name: p.read_text() for p in (tmp_path / "back").rglob("*.txt")} == {
        p.name: p.read_text() for p in source.rglob("*.txt")
    }
    aws("s3", "rm", "--recursive", f"s3://{bucket}/tree")
    assert aws("s3", "ls", "--recursive", f"s3://{bucket}") == ""


def test_from_standard_input(aws, bucket):
    aws("s3", "cp", "-", f"s3://{bucket}/piped", input=b"through a pipe")
    assert aws("s3", "cp", f"s3://{bucket}/piped", "-") == "through a pipe"


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
