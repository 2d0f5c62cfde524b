"""Disks that come to a set and leave it while clients use it."""

import json
import shutil
import time

import pytest

from harness import KIB, MIB, body
from test_sets import (
    check,
    durable,
    fill,
    metric,
    new_set,  # noqa: F401: a fixture
    redundancy,
    wait_until_healed,
    wait_until_live,
)


def wait_until_settled(server, disks, timeout=120):
    """Every shard is where it is to be, on so many disks."""
    deadline = time.monotonic() + timeout
    while True:
        state = redundancy(server)
        live = [disk for disk in state["disks"] if disk["state"] == "live"]
        owing = sum(state["stripes"][1:]) + state["stripes_lost"]
        if len(live) == len(state["disks"]) == disks and state["settled"] and state["tidy"] and owing == 0:
            return state
        assert time.monotonic() < deadline, (state, server.complaints())
        time.sleep(0.1)


def slot_of(server, path):
    (disk,) = [disk for disk in redundancy(server)["disks"] if disk["path"] == str(path)]
    return disk["slot"]


def sizes(count):
    """From nothing to 64 MiB, most of them small."""
    ladder = [0, 1, 700, 8 * KIB, 8 * KIB + 1, 40_000, 64 * KIB, 64 * KIB + 1, 300_000, MIB, 2 * MIB + 7]
    chosen = [ladder[number % len(ladder)] for number in range(count - 3)]
    return [*chosen, 8 * MIB, 24 * MIB + 3, 64 * MIB]


def test_two_disks_are_lost_and_replaced_and_then_two_others(new_set, tmp_path):  # noqa: F811
    server = new_set(6)
    s3 = server.client()
    s3.create_bucket(Bucket="saved")
    objects = {}
    for number, size in enumerate(sizes(200)):
        objects[f"k{number}"] = body(size, number)
        s3.put_object(Bucket="saved", Key=f"k{number}", Body=objects[f"k{number}"])
        if number == 150:
            for lost in (1, 4):
                shutil.rmtree(server.disks[lost])
    wait_until_live(server, 4)
    check(s3, objects)
    for lost in (1, 4):
        new = tmp_path / f"new{lost}"
        new.mkdir()
        said = server.manage("disk", "replace", str(server.disks[lost]), str(new), "--dry-run").stdout
        assert "would be written to other disks" in said
        said = server.manage("disk", "replace", str(server.disks[lost]), str(new)).stdout
        assert f"{new} is disk" in said and "leaves" in said
        server.disks[lost] = new
    state = wait_until_settled(server, 6)
    assert state["stripes"][0] > 200
    for lost in (0, 3):
        shutil.rmtree(server.disks[lost])
    wait_until_live(server, 4)
    check(s3, objects)
    said = server.manage("disk", "status").stdout
    assert "4 of 6 disks are live" in said and "writes are taken" in said
    # Also after a kill, on those that are left.
    server.kill()
    left = [server.disks[number] for number in (1, 2, 4, 5)]
    server.restart(disks=left)
    check(server.client(), objects)


def test_one_disk_becomes_three(new_set, tmp_path):  # noqa: F811
    server = new_set(1)
    s3 = server.client()
    objects = fill(s3)
    upload = s3.create_multipart_upload(Bucket="saved", Key="parts")["UploadId"]
    first = s3.upload_part(Bucket="saved", Key="parts", UploadId=upload, PartNumber=1, Body=body(5 * MIB, 1))
    assert "a set of one disk keeps nothing twice" in server.manage("disk", "status").stdout
    for number in (1, 2):
        disk = tmp_path / f"more{number}"
        disk.mkdir()
        said = server.manage("disk", "add", str(disk), "--dry-run").stdout
        assert "would be written" in said and not list(disk.iterdir())
        server.manage("disk", "add", str(disk))
        server.disks.append(disk)
        objects[f"later{number}"] = body(400_000, number)
        s3.put_object(Bucket="saved", Key=f"later{number}", Body=objects[f"later{number}"])
        wait_until_settled(server, number + 1)
        check(s3, objects)
    objects["spread"] = body(MIB, 5)
    assert durable(s3.put_object(Bucket="saved", Key="spread", Body=objects["spread"])) == "2+1"
    # The first disk is not special.
    server.kill()
    shutil.rmtree(server.disks[0])
    server.restart(disks=server.disks[1:])
    s3 = server.client()
    check(s3, objects)
    second = s3.upload_part(Bucket="saved", Key="parts", UploadId=upload, PartNumber=2, Body=b"end")
    parts = [{"PartNumber": n, "ETag": part["ETag"]} for n, part in ((1, first), (2, second))]
    s3.complete_multipart_upload(
        Bucket="saved", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    assert s3.get_object(Bucket="saved", Key="parts")["Body"].read() == body(5 * MIB, 1) + b"end"


def test_a_drained_disk_is_empty_and_leaves(new_set):  # noqa: F811
    server = new_set(6)
    s3 = server.client()
    objects = fill(s3, 40)
    wait_until_settled(server, 6)
    said = server.manage("disk", "drain", "2", "--dry-run").stdout
    assert "would be written" in said and "no disk could take" not in said
    assert redundancy(server)["disks"][2]["state"] == "live"
    server.manage("disk", "drain", str(server.disks[2]))
    wait_until_settled(server, 5)
    check(s3, objects)
    assert "is empty and has left the set" in server.complaints()
    gone = server.disks.pop(2)
    # It is refused by name with the others, and the others do without it.
    server.kill()
    with pytest.raises(AssertionError) as refused:
        server.restart(disks=[*server.disks, gone])
    refused = str(refused.value)
    assert str(gone) in refused and "left the set" in refused and "Start without it" in refused
    shutil.rmtree(gone)
    server.restart(disks=server.disks)
    wait_until_settled(server, 5)
    check(server.client(), objects)


def test_the_only_disk_is_replaced_while_it_serves(new_set, tmp_path):  # noqa: F811
    server = new_set(1)
    s3 = server.client()
    objects = fill(s3, 40)
    upload = s3.create_multipart_upload(Bucket="saved", Key="parts")["UploadId"]
    first = s3.upload_part(Bucket="saved", Key="parts", UploadId=upload, PartNumber=1, Body=body(5 * MIB, 1))
    old, new = server.disks[0], tmp_path / "new"
    new.mkdir()
    said = server.manage("disk", "replace", str(old), str(new), "--dry-run").stdout
    assert "would be written" in said
    said = server.manage("disk", "replace", str(old), str(new)).stdout
    assert f"{new} takes the place of {old}" in said
    number = 0
    while [disk["path"] for disk in redundancy(server)["disks"]] != [str(new)]:
        assert number < 2_000, redundancy(server)
        objects[f"meanwhile/{number}"] = body(number * 977 % 100_000, number)
        s3.put_object(Bucket="saved", Key=f"meanwhile/{number}", Body=objects[f"meanwhile/{number}"])
        number += 1
        time.sleep(0.01)
    assert number > 0
    deadline = time.monotonic() + 30
    while "is empty and has left the set" not in server.complaints():
        assert time.monotonic() < deadline, server.complaints()
        time.sleep(0.05)
    check(s3, objects)
    status = server.manage("disk", "status").stdout
    assert "1 of 1 disks are live" in status and "keeps nothing twice" in status
    server.kill()
    with pytest.raises(AssertionError) as refused:
        server.restart(disks=[old])
    assert "left the set" in str(refused.value)
    server.restart(disks=[new])
    s3 = server.client()
    check(s3, objects)
    parts = {"Parts": [{"PartNumber": 1, "ETag": first["ETag"]}]}
    s3.complete_multipart_upload(Bucket="saved", Key="parts", UploadId=upload, MultipartUpload=parts)
    assert s3.get_object(Bucket="saved", Key="parts")["Body"].read() == body(5 * MIB, 1)


def test_what_cannot_be_is_refused_with_advice(new_set, tmp_path):  # noqa: F811
    server = new_set(2)
    fill(server.client(), 4)
    for words, says in [
        (("drain", "0"), "keeps two at least"),
        (("remove", "0"), "drain it"),
        (("drain", "7"), "cullet disk list"),
        (("add", str(server.disks[0])), "is disk 0 of this set already"),
        (("replace", "0", str(server.disks[1])), "is disk 1 of this set already"),
    ]:
        refused = server.manage("disk", *words, status=1)
        assert says in refused.stderr, (words, refused.stderr)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    for place, says in [
        (tmp_path / "full", "empty"),
        (tmp_path / "mistyped", "does not exist"),
        (server.disks[1], "of this set already"),
    ]:
        for flags in [(), ("--dry-run",)]:
            refused = server.manage("disk", "add", str(place), *flags, status=1)
            assert says in refused.stderr, refused.stderr
    assert [entry.name for entry in (tmp_path / "full").iterdir()] == ["letter.txt"]
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"
    assert not (tmp_path / "mistyped").exists()


def test_an_unmounted_disk_comes_back_while_it_serves(new_set):  # noqa: F811
    server = new_set(4)
    s3 = server.client()
    objects = fill(s3)
    away = server.disks[1].with_name("away")
    server.disks[1].rename(away)
    wait_until_live(server, 3)
    objects["without"] = body(200_000, 3)
    assert durable(s3.put_object(Bucket="saved", Key="without", Body=objects["without"])) == "2+1"
    away.rename(server.disks[1])
    assert "catches up" in server.manage("disk", "add", str(server.disks[1])).stdout
    wait_until_settled(server, 4)
    check(s3, objects)


def test_the_scrub_finds_rot_and_it_is_mended(new_set):  # noqa: F811
    server = new_set(3)
    s3 = server.client()
    bodies = {"cut": body(600_000, 1), "inline": body(5_000, 2)}
    s3.create_bucket(Bucket="saved")
    for key, data in bodies.items():
        s3.put_object(Bucket="saved", Key=key, Body=data)
    wait_until_healed(server)
    assert server.stop() == 0
    # A data shard of the one, and one disk's copy of the other.
    hit = set()
    for disk in server.disks:
        file = disk / "cullet.disk"
        bytes_ = file.read_bytes()
        for key, data in bodies.items():
            found = bytes_.find(data[1_000:1_064])
            if found >= 0 and key not in hit:
                hit.add(key)
                with file.open("r+b") as medium:
                    medium.seek(found + 5)
                    medium.write(bytes([bytes_[found + 5] ^ 0x10]))
    assert hit == set(bodies)
    server.restart()
    assert "the scrub has begun" in server.manage("scrub", "--now").stdout
    deadline = time.monotonic() + 60
    while True:
        disks = json.loads(server.manage("disk", "list", "--json").stdout)["disks"]
        if all(disk["scrub"]["ended_ms"] > 0 and not disk["scrub"]["asked"] for disk in disks):
            break
        assert time.monotonic() < deadline, disks
        time.sleep(0.2)
    assert sum(disk["scrub"]["damage_last"] for disk in disks) == 2, disks
    rows = server.manage("disk", "list").stdout
    assert "damaged" in rows and "SCRUB" in rows
    assert sum(metric(server, "cullet_disk_scrub_damage").values()) == 2
    while metric(server, "cullet_healed_shards_total") != {"": 1.0} or (
        "metadata that was damaged there was copied" not in server.complaints()
    ):
        assert time.monotonic() < deadline, server.complaints()
        time.sleep(0.1)
    # Each is whole on all disks again: any of them may go.
    for lost in range(3):
        server.kill()
        server.restart(disks=[disk for number, disk in enumerate(server.disks) if number != lost])
        check(server.client(), bodies)
        server.kill()
        server.restart(disks=server.disks)
        wait_until_settled(server, 3)
