import time

import pytest
from botocore.exceptions import ClientError

import uploads
from harness import MIB, body, code_of


def fill_up(s3, expected, prefix, size):
    """Puts objects until the disk says no."""
    for number in range(1000):
        key, data = f"{prefix}{number:03}", body(size, seed=number)
        try:
            s3.put_object(Bucket="full", Key=key, Body=data)
        except ClientError as error:
            assert code_of(error) == (507, "InsufficientStorage")
            return
        expected[key] = data
    raise AssertionError("the disk never filled up")


def check(s3, expected):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="full")
    assert [entry["Key"] for page in pages for entry in page.get("Contents", [])] == sorted(expected)
    for key, data in expected.items():
        assert s3.get_object(Bucket="full", Key=key)["Body"].read() == data, key


def put_when_there_is_room(s3, key, data, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            s3.put_object(Bucket="full", Key=key, Body=data)
            return
        except ClientError as error:
            assert code_of(error) in ((507, "InsufficientStorage"), (503, "SlowDown"))
            assert time.monotonic() < deadline, f"still full {seconds} s after the deletes"
            time.sleep(0.2)


def small_disk(own_server):
    """A server on a disk that fills up soon, with a bucket; and a client of it."""
    server = own_server("--disk-capacity", "512MiB")
    s3 = server.client()
    s3.create_bucket(Bucket="full")
    return server, s3


@pytest.mark.timeout(200)
def test_uploads_on_a_full_disk(own_server):
    """A part and a copy that find no room leave the upload as it was; given up, it makes room."""
    _, s3 = small_disk(own_server)
    upload = uploads.begin(s3, "full", "upload")
    data = body(8 * MIB)
    for number in range(1, 9):
        uploads.part(s3, "full", upload, number, data, "upload")
    expected = {}
    fill_up(s3, expected, "large-", 4 * MIB)
    fill_up(s3, expected, "small-", 200_000)
    source = {"Bucket": "full", "Key": "large-000"}
    call = {"Bucket": "full", "Key": "upload", "UploadId": upload, "PartNumber": 9}
    for operation, more in (
        (s3.upload_part, {**call, "Body": data}),
        (s3.upload_part_copy, {**call, "CopySource": source}),
        (s3.copy_object, {"Bucket": "full", "Key": "copy", "CopySource": source}),
    ):
        with pytest.raises(ClientError) as error:
            operation(**more)
        assert code_of(error) == (507, "InsufficientStorage"), operation
    assert uploads.numbers(s3, "full", upload, "upload") == list(range(1, 9))
    check(s3, expected)
    s3.abort_multipart_upload(Bucket="full", Key="upload", UploadId=upload)
    expected["new"] = body(16 * MIB)
    put_when_there_is_room(s3, "new", expected["new"])
    check(s3, expected)


@pytest.mark.timeout(400)
def test_a_full_disk_is_not_the_end(own_server):
    _, s3 = small_disk(own_server)
    expected = {}
    fill_up(s3, expected, "large-", 4 * MIB)
    used = sum(len(data) for data in expected.values())
    assert used > 200 * MIB, f"only {used / MIB:.0f} of 512 MiB could be used"
    fill_up(s3, expected, "small-", 200_000)
    check(s3, expected)
    for round_number in range(3):
        for key in sorted(expected)[round_number::2]:
            s3.delete_object(Bucket="full", Key=key)
            del expected[key]
        for number in range(5):
            key, data = f"new-{round_number}-{number}", body(4 * MIB, seed=number)
            put_when_there_is_room(s3, key, data)
            expected[key] = data
        check(s3, expected)
        fill_up(s3, expected, f"again-{round_number}-", 4 * MIB)
        check(s3, expected)


@pytest.mark.timeout(400)
def test_a_full_disk_survives_a_kill(own_server):
    server, s3 = small_disk(own_server)
    expected = {}
    fill_up(s3, expected, "a-", 8 * MIB)
    server.kill()
    server.restart()
    s3 = server.client()
    check(s3, expected)
    objects = [{"Key": key} for key in expected]
    assert "Errors" not in s3.delete_objects(Bucket="full", Delete={"Objects": objects})
    assert s3.list_objects_v2(Bucket="full")["KeyCount"] == 0
    server.kill()
    server.restart()
    s3 = server.client()
    assert s3.list_objects_v2(Bucket="full")["KeyCount"] == 0
    expected = {}
    put_when_there_is_room(s3, "b", body(8 * MIB))
    expected["b"] = body(8 * MIB)
    check(s3, expected)


@pytest.mark.timeout(400)
def test_overwriting_for_ever_fits(own_server):
    """Live data are a tenth of the disk: space must come back as fast as it is used."""
    _, s3 = small_disk(own_server)
    expected = {}
    for number in range(250):
        key, data = f"k{number % 10}", body(4 * MIB, seed=number)
        put_when_there_is_room(s3, key, data, seconds=30)
        expected[key] = data
    check(s3, expected)


@pytest.mark.timeout(400)
def test_a_limit_below_what_is_in_use_leaves_room_for_deletes(own_server):
    """It once left none: the disk was full, and only a higher limit could change that."""
    server, s3 = small_disk(own_server)
    expected = {}
    fill_up(s3, expected, "a-", MIB)
    server.arguments = ("--disk-capacity", "256MiB")
    for _ in range(6):
        server.stop()
        server.restart()
    s3 = server.client()
    check(s3, expected)
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket="full", Key="more", Body=body(4 * MIB))
    assert code_of(refused.value) == (507, "InsufficientStorage")
    for key in sorted(expected):
        s3.delete_object(Bucket="full", Key=key)
    put_when_there_is_room(s3, "more", body(4 * MIB))
