"""`cullet rescue`: what a disk holds, without a server."""

import json
import subprocess

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

import harness
from harness import MIB, body


def rescue(*arguments):
    return subprocess.run(
        [str(word) for word in (harness.BINARY, "rescue", *arguments)], capture_output=True, text=True, timeout=60
    )


KEYS = [
    "plain", "deep/er/still", "a", "a/b", "../../escape", "/absolute", "..", "//", "new\nline", "100%", "ü",
    "n" * 1000, "trailing/",
]  # fmt: skip


@pytest.fixture
def killed(own_server):
    """A server that was killed, and what it held."""
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="saved")
    objects = {}
    for number, key in enumerate(KEYS):
        objects[key] = body(number * 30_000, seed=number)
        s3.put_object(Bucket="saved", Key=key, Body=objects[key], ContentType="text/plain", Metadata={"n": str(number)})
    s3.put_object(Bucket="saved", Key="large", Body=body(5 * MIB))
    objects["large"] = body(5 * MIB)
    s3.put_object(Bucket="saved", Key="overwritten", Body=b"old" * 5000)
    s3.put_object(Bucket="saved", Key="overwritten", Body=b"new")
    objects["overwritten"] = b"new"
    s3.put_object(Bucket="saved", Key="deleted", Body=b"x" * 20_000)
    s3.delete_object(Bucket="saved", Key="deleted")
    server.kill()
    return server, objects


def exported(directory):
    """The exported files by key, from the list that stands beside them."""
    found = {}
    for line in (directory / "objects.jsonl").read_text().splitlines():
        entry = json.loads(line)
        file = entry.get("file") or entry.get("path")
        found[entry["key"]] = (directory / file).read_bytes()
    return found


def test_export_gives_everything_back(killed, tmp_path):
    server, objects = killed
    ended = rescue("export", "--to", tmp_path / "out", server.disk)
    assert ended.returncode == 0, ended.stderr
    assert exported(tmp_path / "out") == objects


@pytest.mark.parametrize("choice", [["--bucket", "nosuch"], ["--prefix", "nosuch"]])
def test_an_export_of_nothing_is_no_success(killed, tmp_path, choice):
    server, objects = killed
    ended = rescue("export", "--to", tmp_path / "out", *choice, server.disk)
    assert ended.returncode == 1
    assert "cullet rescue list" in ended.stderr


def test_nothing_is_written_outside(killed, tmp_path):
    server, objects = killed
    nested = tmp_path / "one" / "two" / "out"
    nested.parent.mkdir(parents=True)
    assert rescue("export", "--to", nested, server.disk).returncode == 0
    outside = [path for path in (tmp_path / "one").rglob("*") if path.is_file() and nested not in path.parents]
    assert outside == []


def test_list_names_everything(killed):
    server, objects = killed
    ended = rescue("list", server.disk)
    assert ended.returncode == 0, ended.stderr
    for key in ("plain", "deep/er/still", "large", "overwritten"):
        assert key in ended.stdout
    # The record is gone for certain; the body behind it may be left when the kill comes first.
    left = [line for line in ended.stdout.splitlines() if "saved/deleted" in line]
    assert all("no-record" in line for line in left), left


def test_reading_changes_nothing(killed, tmp_path):
    server, objects = killed
    rescue("list", server.disk)
    server.restart()
    s3 = server.client()
    for key, data in objects.items():
        assert s3.get_object(Bucket="saved", Key=key)["Body"].read() == data


def test_damage_is_named_and_the_rest_comes_back(killed, tmp_path):
    server, objects = killed
    (image,) = [path for path in server.disk.iterdir() if path.stat().st_size > MIB]
    data = image.read_bytes()
    victim = objects["ü"]
    at = data.find(victim[1000:1100])
    assert at > 0
    with open(image, "r+b") as file:
        file.seek(at)
        file.write(bytes(50))
    ended = rescue("export", "--to", tmp_path / "out", server.disk)
    assert ended.returncode == 1
    assert "ü" in ended.stdout + ended.stderr
    found = exported(tmp_path / "out")
    found.pop("ü", None)
    del objects["ü"]
    assert found == objects


def test_a_disk_in_use_is_not_read(own_server, tmp_path):
    server = own_server()
    ended = rescue("list", server.disk)
    assert ended.returncode == 1
    assert "use" in ended.stderr


def test_a_server_says_what_is_corrupt_and_serves_the_rest(killed):
    server, objects = killed
    # A clean stop first, so that the damage lies below the checkpoint.
    server.restart()
    assert server.stop() == 0
    (image,) = [path for path in server.disk.iterdir() if path.stat().st_size > MIB]
    data = image.read_bytes()
    needle = objects["large"][2 * MIB + 5000 : 2 * MIB + 5100]
    at = data.find(needle)
    assert at > 0
    with open(image, "r+b") as file:
        while at > 0:
            file.seek(at)
            file.write(bytes(50))
            at = data.find(needle, at + 1)
    server.restart()
    s3 = server.client()
    for key, content in objects.items():
        if key != "large":
            assert s3.get_object(Bucket="saved", Key=key)["Body"].read() == content
    # Never wrong bytes: an error, or a body that breaks off.
    with pytest.raises((ClientError, BotoCoreError, HTTPError)):
        s3.get_object(Bucket="saved", Key="large")["Body"].read()
    assert server.process.poll() is None


@pytest.fixture
def killed_set(own_server, tmp_path):
    """Six disks of a server that was killed; the last one was away while half was written and deleted."""
    disks = [tmp_path / f"disk{number}" for number in range(6)]
    server = own_server(disk="disk0", more_disks=disks[1:])
    s3 = server.client()
    s3.create_bucket(Bucket="saved")
    objects = {f"k{number}": body(number * 40_000, seed=number) for number in range(12)}
    for key, data in {**objects, "overwritten": b"old" * 5_000, "deleted": b"x" * 300_000}.items():
        s3.put_object(Bucket="saved", Key=key, Body=data)
    server.kill()
    server.restart(disks=disks[:5])
    s3 = server.client()
    objects["overwritten"] = b"new" * 50_000
    s3.put_object(Bucket="saved", Key="overwritten", Body=objects["overwritten"])
    s3.delete_object(Bucket="saved", Key="deleted")
    upload = s3.create_multipart_upload(Bucket="saved", Key="parts")["UploadId"]
    objects["parts"] = body(5 * MIB, 1) + body(700_000, 2)
    parts = [
        {
            "PartNumber": number,
            "ETag": s3.upload_part(Bucket="saved", Key="parts", UploadId=upload, PartNumber=number, Body=data)["ETag"],
        }
        for number, data in ((1, objects["parts"][: 5 * MIB]), (2, objects["parts"][5 * MIB :]))
    ]
    s3.complete_multipart_upload(Bucket="saved", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    server.kill()
    return disks, objects


def with_record(directory):
    lines = [json.loads(line) for line in (directory / "objects.jsonl").read_text().splitlines()]
    return {line["key"]: (directory / line["path"]).read_bytes() for line in lines if line["has_record"]}


@pytest.mark.parametrize("missing", [(), (5,), (0, 3), (1, 2), (4, 5)])
def test_a_set_comes_back_from_its_disks(killed_set, tmp_path, missing):
    disks, objects = killed_set
    left = [disk for number, disk in enumerate(disks) if number not in missing]
    ended = rescue("export", "--to", tmp_path / "out", *reversed(left))
    # What the disk that was away has of a body that was deleted meanwhile is no damage.
    assert ended.returncode == 0, ended.stderr
    assert with_record(tmp_path / "out") == objects
    assert ("were not named" in ended.stderr) == bool(missing)


def test_too_few_disks_of_a_set_say_what_is_missing(killed_set, tmp_path):
    disks, objects = killed_set
    # The one that was away knows only what was.
    ended = rescue("list", "--quick", disks[5])
    assert ended.returncode == 1
    assert "disks that hold the metadata" in ended.stderr and "may show up" in ended.stderr
    ended = rescue("export", "--to", tmp_path / "out", *disks[:2])
    assert ended.returncode == 1
    found = with_record(tmp_path / "out")
    assert found.items() <= objects.items() and len(found) < len(objects)
    assert "were not named" in ended.stderr and "DAMAGED" not in ended.stdout


def test_rot_on_one_disk_of_a_set_costs_nothing(killed_set, tmp_path):
    disks, objects = killed_set
    hit = 0
    for disk in disks[:5]:
        data = (disk / "cullet.disk").read_bytes()
        at = data.find(objects["k7"][1_000:1_100])
        if at > 0 and hit == 0:
            hit += 1
            with open(disk / "cullet.disk", "r+b") as file:
                file.seek(at)
                file.write(bytes(50))
    assert hit == 1
    ended = rescue("export", "--to", tmp_path / "out", *disks)
    assert with_record(tmp_path / "out") == objects, ended.stderr


def test_a_disk_of_a_set_without_a_superblock_is_read_with_the_others(killed_set, tmp_path):
    disks, objects = killed_set
    with open(disks[1] / "cullet.disk", "r+b") as file:
        for at in (0, 64 * 1024):
            file.seek(at)
            file.write(b"x" * 64)
    # Two others are lost: each shard that is left is needed.
    left = [disk for number, disk in enumerate(disks) if number not in (0, 3)]
    ended = rescue("export", "--to", tmp_path / "out", *left)
    assert with_record(tmp_path / "out") == objects, ended.stderr
    assert "superblock" in ended.stderr


def test_disks_that_are_not_one_set_are_refused(killed_set, own_server, tmp_path):
    disks, _ = killed_set
    other = own_server(disk="other")
    other.kill()
    for named, says in [((disks[0], other.disk), "different sets"), ((disks[0], disks[0]), "copies of one")]:
        ended = rescue("list", *named)
        assert ended.returncode == 1
        assert says in ended.stderr
