"""Sets of several disks: what clients see when disks go."""

import json
import shutil
import time
import urllib.request

import pytest
from botocore.exceptions import ClientError

from harness import KIB, MIB, body, code_of

SIZES = [0, 1, 100, 8 * KIB, 8 * KIB + 1, 20_000, 64 * KIB, 70_000, MIB, 3 * MIB + 1]


@pytest.fixture
def new_set(own_server, tmp_path):
    """A function that starts a server on so many new disks; `server.disks` are their directories."""

    def start(count, *arguments, capacity="1GiB"):
        disks = [tmp_path / f"disk{number}" for number in range(count)]
        server = own_server("--disk-capacity", capacity, *arguments, disk="disk0", more_disks=disks[1:])
        server.disks = disks
        return server

    return start


def fill(s3, count=20, bucket="saved"):
    s3.create_bucket(Bucket=bucket)
    objects = {f"k{number}": body(SIZES[number % len(SIZES)], number) for number in range(count)}
    for key, data in objects.items():
        s3.put_object(Bucket=bucket, Key=key, Body=data)
    return objects


def check(s3, objects, bucket="saved"):
    for key, data in objects.items():
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == data, key
    listed = {entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket).get("Contents", [])}
    assert listed == set(objects)


def durable(answer):
    return answer["ResponseMetadata"]["HTTPHeaders"]["x-cullet-durable"]


def metric(server, name):
    page = urllib.request.urlopen(f"{server.url}/_cullet/metrics", timeout=10).read().decode()
    return {
        line.split(" ")[0].partition("{")[2]: float(line.split(" ")[1])
        for line in page.splitlines()
        if line.startswith(name) and line[len(name)] in "{ "
    }


def wait_until_live(server, count):
    deadline = time.monotonic() + 20
    while sum(metric(server, "cullet_disk_live").values()) != count:
        assert time.monotonic() < deadline, server.complaints()
        time.sleep(0.1)


def redundancy(server):
    return json.load(urllib.request.urlopen(f"{server.url}/_cullet/redundancy", timeout=10))


def wait_until_healed(server):
    """Every stripe is as it is to be, as far as there are disks for it."""
    deadline = time.monotonic() + 60
    while True:
        ledger = redundancy(server)
        if ledger["settled"] and sum(ledger["stripes"][1:]) + ledger["stripes_lost"] == 0:
            return ledger
        assert time.monotonic() < deadline, ledger
        time.sleep(0.1)


def test_answers_say_how_they_are_kept(new_set):
    s3 = new_set(6).client()
    s3.create_bucket(Bucket="saved")
    assert durable(s3.put_object(Bucket="saved", Key="inline", Body=b"x" * 100)) == "1+3"
    assert durable(s3.put_object(Bucket="saved", Key="small", Body=b"x" * 20_000)) == "1+2"
    assert durable(s3.put_object(Bucket="saved", Key="large", Body=b"x" * 200_000)) == "3+2"


def test_parity_can_be_chosen(new_set):
    s3 = new_set(4, "--parity", "1").client()
    s3.create_bucket(Bucket="saved")
    assert durable(s3.put_object(Bucket="saved", Key="large", Body=b"x" * 200_000)) == "3+1"


def test_everything_reads_back_without_two_of_six(new_set):
    server = new_set(6)
    objects = fill(server.client())
    server.kill()
    for lost in [(0, 1), (2, 3), (4, 5)]:
        for number in lost:
            server.disks[number].rename(f"{server.disks[number]}.away")
        server.restart()
        s3 = server.client()
        check(s3, objects)
        key = f"after-{lost[0]}"
        objects[key] = body(300_000, lost[0])
        assert durable(s3.put_object(Bucket="saved", Key=key, Body=objects[key])) == "3+1"
        s3.delete_object(Bucket="saved", Key="k9")
        objects.pop("k9", None)
        check(s3, objects)
        assert server.stop() == 0
        # All of them: what was written without them is made up for before others go.
        for number in lost:
            shutil.rmtree(server.disks[number], ignore_errors=True)
            server.disks[number].with_name(server.disks[number].name + ".away").rename(server.disks[number])
        server.restart()
        check(server.client(), objects)
        wait_until_healed(server)
        server.kill()
    server.restart()
    check(server.client(), objects)


def test_two_disks_vanish_while_it_serves(new_set):
    server = new_set(6)
    s3 = server.client()
    objects = fill(s3)
    shutil.rmtree(server.disks[0])
    shutil.rmtree(server.disks[3])
    wait_until_live(server, 4)
    check(s3, objects)
    objects["later"] = body(MIB, 77)
    assert durable(s3.put_object(Bucket="saved", Key="later", Body=objects["later"])) == "3+1"
    check(s3, objects)
    server.kill()
    server.restart()
    check(server.client(), objects)
    assert "does not exist: is it mounted?" in server.complaints()


def test_the_ledger_counts_what_nothing_is_left_of(new_set):
    server = new_set(6)
    s3 = server.client()
    sizes = [100, 20_000, 50_000, 64 * KIB, 300_000, 5 * MIB + 1]
    objects = {f"k{number}": body(sizes[number % len(sizes)], number) for number in range(60)}
    s3.create_bucket(Bucket="saved")
    for key, data in objects.items():
        s3.put_object(Bucket="saved", Key=key, Body=data)
    # Of uploads in parts, one is completed, and one under way; of one all is gone again.
    for key in ("whole", "begun", "aborted"):
        upload = s3.create_multipart_upload(Bucket="saved", Key=key)["UploadId"]
        part = {"Bucket": "saved", "Key": key, "UploadId": upload}
        bodies = [body(5 * MIB, 1), body(30_000, 2)] if key == "whole" else [body(30_000, n) for n in range(14)]
        tags = [s3.upload_part(**part, PartNumber=n, Body=data)["ETag"] for n, data in enumerate(bodies, 1)]
        if key == "whole":
            parts = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]
            s3.complete_multipart_upload(**part, MultipartUpload={"Parts": parts})
            objects[key] = body(5 * MIB, 1) + body(30_000, 2)
        elif key == "aborted":
            s3.abort_multipart_upload(**part)
    wait_until_healed(server)
    server.kill()
    lost = 0
    for present in [(0, 1, 2), (3, 4, 5), (0, 2, 4), (1, 2, 5)]:
        server.restart(disks=[server.disks[number] for number in present])
        s3 = server.client()
        deadline = time.monotonic() + 60
        while not (ledger := redundancy(server))["settled"]:
            assert time.monotonic() < deadline, ledger
            time.sleep(0.1)
        # A stripe of 3+2 is 3 MiB; a part begins a stripe of its own.
        unread = 0
        for key, data in objects.items():
            starts = [start for start in (0, 3 * MIB) if start < len(data)] + [5 * MIB] * (key == "whole")
            for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
                try:
                    piece = s3.get_object(Bucket="saved", Key=key, Range=f"bytes={start}-{end - 1}")
                    assert piece["Body"].read() == data[start:end]
                except ClientError as error:
                    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503
                    unread += 1
        # Those of the upload that is under way cannot be read by anybody.
        assert unread <= ledger["stripes_lost"] <= unread + 14, (unread, ledger)
        lost += unread
        assert metric(server, "cullet_stripes")['missing="too_many"}'] == ledger["stripes_lost"]
        server.kill()
    assert lost > 0
    server.restart(disks=server.disks)
    wait_until_healed(server)


def test_a_truncated_disk_serves_nothing_wrong(new_set):
    server = new_set(6)
    objects = fill(server.client(), 40)
    wait_until_healed(server)
    file = server.disks[1] / "cullet.disk"
    with file.open("r+b") as medium:
        medium.truncate(3 * MIB)
    # What is behind the end reads as nothing, and that matches no checksum.
    check(server.client(), objects)
    server.manage("scrub", "--now", str(server.disks[1]))
    deadline = time.monotonic() + 60
    while f"{server.disks[1]}: the scrub found damage" not in server.log.read_text():
        assert time.monotonic() < deadline, server.complaints()
        time.sleep(0.1)
    damage = metric(server, "cullet_engine_corruptions_total")
    assert [disk.partition(",")[0] for disk, count in damage.items() if count > 0] == ['disk="1"']
    server.kill()
    server.restart()
    check(server.client(), objects)
    # The others do without what it had, whatever is left of it.
    server.kill()
    server.restart(disks=[disk for disk in server.disks if disk != server.disks[1]])
    check(server.client(), objects)


def test_a_large_object_of_which_a_part_is_missing_is_an_error_from_the_start(new_set):
    server = new_set(7)
    s3 = server.client()
    s3.create_bucket(Bucket="saved")
    # Stripes of 4+2 on seven disks: each leaves one out. Without three disks those can be read
    # that left one of these out.
    data = body(64 * MIB, 1)
    s3.put_object(Bucket="saved", Key="large", Body=data)
    upload = s3.create_multipart_upload(Bucket="saved", Key="parts")["UploadId"]
    parts = [
        {
            "PartNumber": number,
            "ETag": s3.upload_part(
                Bucket="saved", Key="parts", UploadId=upload, PartNumber=number, Body=data[: 16 * MIB]
            )["ETag"],
        }
        for number in (1, 2, 3)
    ]
    s3.complete_multipart_upload(
        Bucket="saved", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    wait_until_healed(server)
    server.kill()
    server.restart(disks=server.disks[:4])
    s3 = server.client()
    for key in ("large", "parts"):
        with pytest.raises(ClientError) as refused:
            s3.get_object(Bucket="saved", Key=key)
        assert code_of(refused) == (503, "ServiceUnavailable")
        assert "disk 5" in str(refused.value)
    # What can be read is read: some stripe of 4 MiB is whole.
    whole = 0
    for start in range(0, 64 * MIB, 4 * MIB):
        try:
            part = s3.get_object(Bucket="saved", Key="large", Range=f"bytes={start}-{start + MIB - 1}")
            assert part["Body"].read() == data[start : start + MIB]
            whole += 1
        except ClientError as refused:
            assert refused.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert 0 < whole < 16


def test_a_third_one_is_one_too_many_for_writes(new_set):
    server = new_set(6)
    s3 = server.client()
    objects = fill(s3)
    for number in (1, 2):
        shutil.rmtree(server.disks[number])
    wait_until_live(server, 4)
    shutil.rmtree(server.disks[5])
    deadline = time.monotonic() + 20
    while metric(server, "cullet_set_refuses_writes") != {"": 1.0}:
        assert time.monotonic() < deadline, server.complaints()
        time.sleep(0.1)
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket="saved", Key="more", Body=b"x" * 100_000)
    assert code_of(refused) == (503, "ServiceUnavailable")
    assert str(server.disks[5]) in str(refused.value)
    # What one disk has, as it is, can be read as long as that one is there.
    assert s3.get_object(Bucket="saved", Key="k2")["Body"].read() == objects["k2"]


def test_a_set_that_may_be_old_is_refused(new_set):
    server = new_set(4)
    objects = fill(server.client(), 6)
    assert server.stop() == 0
    for number in (0, 1):
        server.disks[number].rename(f"{server.disks[number]}.away")
    with pytest.raises(AssertionError) as refused:
        server.restart()
    assert "--start-degraded" in str(refused.value)
    for number in (0, 1):
        shutil.rmtree(server.disks[number], ignore_errors=True)
        server.disks[number].with_name(server.disks[number].name + ".away").rename(server.disks[number])
    server.restart()
    check(server.client(), objects)


def test_the_disks_are_shown(new_set):
    server = new_set(6)
    fill(server.client(), 10)
    wait_until_healed(server)
    table = server.manage("disk", "list").stdout.splitlines()
    assert [row.split()[0] for row in table] == ["DISK", "0", "1", "2", "3", "4", "5"]
    assert all(" live " in row for row in table[1:])
    said = server.manage("disk", "status").stdout
    assert "6 of 6 disks are live" in said and "writes are taken" in said
    assert "all stripes were looked at" in said and "short of" not in said
    assert redundancy(server)["seconds_to_safety"] == 0
    shutil.rmtree(server.disks[2])
    wait_until_live(server, 5)
    # It is made up for on the others; two fewer is one too many for that.
    wait_until_healed(server)
    assert metric(server, "cullet_time_to_safety_seconds") == {"": 0.0}
    shutil.rmtree(server.disks[4])
    wait_until_live(server, 4)
    deadline = time.monotonic() + 30
    while not (redundancy(server)["settled"] and sum(redundancy(server)["stripes"][1:]) > 0):
        assert time.monotonic() < deadline, redundancy(server)
        time.sleep(0.1)
    assert "are owing" in server.manage("disk", "status").stdout
    assert redundancy(server)["seconds_to_safety"] is None
    assert metric(server, "cullet_time_to_safety_seconds") == {"": -1.0}
    rows = [row for row in server.manage("disk", "list").stdout.splitlines() if str(server.disks[2]) in row]
    assert len(rows) == 1 and "failed:" in rows[0] and "is gone" in rows[0]
    assert "4 of 6 disks are live" in server.manage("disk", "status").stdout
    server.kill()
    server.restart()
    document = json.loads(server.manage("disk", "list", "--json").stdout)
    assert [disk["state"] for disk in document["disks"]].count("missing") == 2


@pytest.mark.timeout(200)
def test_a_full_set_reads_deletes_heals_and_takes_writes_again(new_set):
    server = new_set(4, capacity="256MiB")
    s3 = server.client()
    s3.create_bucket(Bucket="saved")
    objects = {}
    for number in range(1000):
        data = body(2 * MIB, number)
        try:
            s3.put_object(Bucket="saved", Key=f"k{number}", Body=data)
        except ClientError as error:
            assert code_of(error) == (507, "InsufficientStorage")
            assert "add capacity" in str(error)
            break
        objects[f"k{number}"] = data
    assert len(objects) > 50
    check(s3, objects)
    # A disk is lost, and back: what was deleted without it is deleted there, too.
    away = server.disks[3].with_name("away")
    server.disks[3].rename(away)
    wait_until_live(server, 3)
    for number in range(0, len(objects) - 10, 2):
        s3.delete_object(Bucket="saved", Key=f"k{number}")
        del objects[f"k{number}"]
    check(s3, objects)
    away.rename(server.disks[3])
    server.manage("disk", "add", str(server.disks[3]))
    deadline = time.monotonic() + 100
    while True:
        try:
            if durable(s3.put_object(Bucket="saved", Key="again", Body=body(MIB, 5))) == "2+2":
                break
        except ClientError as error:
            assert code_of(error)[1] in ("InsufficientStorage", "SlowDown", "ServiceUnavailable"), error
        finally:
            assert time.monotonic() < deadline, server.complaints()
            time.sleep(0.3)
    objects["again"] = body(MIB, 5)
    wait_until_healed(server)
    check(s3, objects)
