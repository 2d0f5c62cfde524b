"""CopyObject and UploadPartCopy."""

import concurrent.futures
import datetime
import hashlib
import time

import pytest
from botocore.exceptions import ClientError

import raw
import sums
import uploads
from harness import KIB, MIB, body, code_of
from uploads import PART

HOUR = datetime.timedelta(hours=1)
OTHER_ETAG = '"00000000000000000000000000000000"'


def refused(operation, **arguments):
    with pytest.raises(ClientError) as error:
        operation(**arguments)
    return code_of(error)


def source(bucket, key="source"):
    return {"Bucket": bucket, "Key": key}


@pytest.fixture
def put(s3, bucket):
    """An object with metadata, small enough to stay beside its record."""
    return s3.put_object(
        Bucket=bucket,
        Key="source",
        Body=b"data",
        ContentType="text/plain",
        CacheControl="max-age=1",
        ContentDisposition="inline",
        Metadata={"a": "b"},
    )


# Whole objects -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 8192, 8193, MIB, 3 * MIB + 5])
def test_a_copy_is_an_object_of_its_own(s3, bucket, size):
    data = body(size)
    put = s3.put_object(Bucket=bucket, Key="source", Body=data)
    answer = s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))
    assert answer["CopyObjectResult"]["ETag"] == put["ETag"]
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == data
    s3.delete_object(Bucket=bucket, Key="source")
    time.sleep(0.2)
    got = s3.get_object(Bucket=bucket, Key="copy")
    assert got["Body"].read() == data
    modified = answer["CopyObjectResult"]["LastModified"].replace(microsecond=0)
    assert (got["ETag"], got["LastModified"]) == (put["ETag"], modified)


def test_metadata_is_copied(s3, bucket, put):
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))
    # What comes with the request counts only if it is to replace.
    s3.copy_object(Bucket=bucket, Key="said", CopySource=source(bucket), MetadataDirective="COPY")
    s3.copy_object(Bucket=bucket, Key="more", CopySource=source(bucket), ContentType="x/y", Metadata={"c": "d"})
    for key in ("copy", "said", "more"):
        head = s3.head_object(Bucket=bucket, Key=key)
        assert (head["ContentType"], head["CacheControl"], head["ContentDisposition"], head["Metadata"]) == (
            "text/plain", "max-age=1", "inline", {"a": "b"},
        ), key  # fmt: skip


def test_metadata_is_replaced(s3, bucket, put):
    call = {"Bucket": bucket, "CopySource": source(bucket), "MetadataDirective": "REPLACE"}
    s3.copy_object(Key="new", ContentType="x/y", ContentLanguage="de", Metadata={"c": "d"}, **call)
    head = s3.head_object(Bucket=bucket, Key="new")
    assert (head["ContentType"], head["ContentLanguage"], head["Metadata"]) == ("x/y", "de", {"c": "d"})
    assert "CacheControl" not in head and "ContentDisposition" not in head
    s3.copy_object(Key="bare", **call)
    head = s3.head_object(Bucket=bucket, Key="bare")
    assert (head["ContentType"], head["Metadata"]) == ("binary/octet-stream", {})
    assert refused(s3.copy_object, Key="much", Metadata={"k": "v" * 2048}, **call) == (400, "MetadataTooLarge")
    assert refused(s3.copy_object, Key="odd", **{**call, "MetadataDirective": "KEEP"}) == (400, "InvalidArgument")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 3


@pytest.mark.parametrize("size", [0, 4, 8193, 2 * MIB])
def test_onto_itself(s3, bucket, size):
    data = body(size)
    put = s3.put_object(Bucket=bucket, Key="k", Body=data, Metadata={"old": "1"}, ChecksumAlgorithm="SHA256")
    call = {"Bucket": bucket, "Key": "k", "CopySource": source(bucket, "k")}
    assert refused(s3.copy_object, **call) == (400, "InvalidRequest")
    assert refused(s3.copy_object, **call, MetadataDirective="COPY") == (400, "InvalidRequest")
    answer = s3.copy_object(**call, MetadataDirective="REPLACE", Metadata={"new": "2"}, ContentType="x/y")
    assert answer["CopyObjectResult"]["ETag"] == put["ETag"]
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == data
    assert (got["Metadata"], got["ContentType"]) == ({"new": "2"}, "x/y")
    assert got["ChecksumSHA256"] == put["ChecksumSHA256"]
    # Another checksum is a change as well; then the body is read once.
    answer = s3.copy_object(**call, ChecksumAlgorithm="SHA1")
    assert answer["CopyObjectResult"]["ChecksumSHA1"] == sums.checksum("SHA1", data)
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (got["Body"].read(), got["Metadata"]) == (data, {"new": "2"})
    assert got["ChecksumSHA1"] == sums.checksum("SHA1", data) and "ChecksumSHA256" not in got
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_onto_itself_while_it_is_read_and_written(s3, bucket):
    """Metadata is replaced under readers; a writer that comes between is never undone."""
    datas = [body(300_000, seed=number) for number in range(6)]
    tags = {f'"{hashlib.md5(data).hexdigest()}"' for data in datas}
    s3.put_object(Bucket=bucket, Key="k", Body=datas[0])
    call = {"Bucket": bucket, "Key": "k", "CopySource": source(bucket, "k"), "MetadataDirective": "REPLACE"}

    def copy(number):
        try:
            return s3.copy_object(**call, Metadata={"n": str(number)})["CopyObjectResult"]["ETag"]
        except ClientError as error:
            assert code_of(error) == (503, "SlowDown")

    def read(_):
        got = s3.get_object(Bucket=bucket, Key="k")
        return got["ETag"] == f'"{hashlib.md5(got["Body"].read()).hexdigest()}"'

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        copies = [pool.submit(copy, number) for number in range(40)]
        reads = [pool.submit(read, number) for number in range(40)]
        puts = [pool.submit(s3.put_object, Bucket=bucket, Key="k", Body=data) for data in datas * 3]
        assert all(one.result() for one in reads)
        assert {one.result() for one in copies} - {None} <= tags
        for one in puts:
            one.result()
    last = s3.put_object(Bucket=bucket, Key="k", Body=b"last")["ETag"]
    s3.copy_object(**call)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"last"
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"] == last


def test_between_buckets(s3, bucket, put):
    s3.create_bucket(Bucket=f"{bucket}-to")
    s3.copy_object(Bucket=f"{bucket}-to", Key="source", CopySource=source(bucket))
    got = s3.get_object(Bucket=f"{bucket}-to", Key="source")
    assert (got["Body"].read(), got["Metadata"]) == (b"data", {"a": "b"})
    s3.delete_object(Bucket=bucket, Key="source")
    assert s3.get_object(Bucket=f"{bucket}-to", Key="source")["Body"].read() == b"data"


def test_an_object_in_parts(s3, bucket):
    bodies = [body(PART), b"end"]
    uploads.whole(s3, bucket, bodies, "source", Metadata={"a": "b"})
    answer = s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))
    plain = f'"{hashlib.md5(b"".join(bodies)).hexdigest()}"'
    assert answer["CopyObjectResult"]["ETag"] == plain
    got = s3.get_object(Bucket=bucket, Key="copy", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"".join(bodies)
    assert (got["ETag"], got["Metadata"], got["ChecksumType"]) == (plain, {"a": "b"}, "FULL_OBJECT")
    assert "PartsCount" not in s3.head_object(Bucket=bucket, Key="copy", PartNumber=1)
    # Onto itself it keeps its parts; nothing but what is said of it changes.
    s3.copy_object(
        Bucket=bucket, Key="source", CopySource=source(bucket), MetadataDirective="REPLACE", Metadata={"c": "d"}
    )
    got = s3.get_object(Bucket=bucket, Key="source")
    assert (got["Body"].read(), got["Metadata"]) == (b"".join(bodies), {"c": "d"})
    assert s3.get_object(Bucket=bucket, Key="source", PartNumber=2)["Body"].read() == b"end"


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_checksums_of_copies(s3, bucket, algorithm):
    data = body(100_000)
    s3.put_object(Bucket=bucket, Key="source", Body=data, ChecksumAlgorithm="CRC32")
    kept = s3.copy_object(Bucket=bucket, Key="kept", CopySource=source(bucket))
    assert kept["CopyObjectResult"]["ChecksumCRC32"] == sums.checksum("CRC32", data)
    other = s3.copy_object(Bucket=bucket, Key="other", CopySource=source(bucket), ChecksumAlgorithm=algorithm)
    assert other["CopyObjectResult"][f"Checksum{algorithm}"] == sums.checksum(algorithm, data)
    got = s3.get_object(Bucket=bucket, Key="other", ChecksumMode="ENABLED")
    assert got["Body"].read() == data
    assert got[f"Checksum{algorithm}"] == sums.checksum(algorithm, data)


def test_a_composite_checksum_becomes_one_of_all_bytes(s3, bucket):
    bodies = [body(PART), b"end"]
    uploads.whole(s3, bucket, bodies, "source", ChecksumAlgorithm="SHA256")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))
    head = s3.head_object(Bucket=bucket, Key="copy", ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == sums.checksum("SHA256", b"".join(bodies))
    assert head["ChecksumType"] == "FULL_OBJECT"


KEYS = [
    "with space", " edges ", "plus+sign", "percent%41", "percent%25%", "question?versionId=1", "hash#a", "a&b=c",
    "ünïcødé", "日本語/キー", "🦀", "//two//slashes//", "/leading", "trailing/", "quote\"'", "<xml>&amp;", "back\\slash",
    "new\nline", "\x01 control", "é" * 512, "..", "a/../b", "arn:aws:s3:x", "tilde~star*",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=lambda key: repr(key)[:24])
def test_any_key(s3, bucket, key):
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket, key))
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == key.encode()
    s3.create_bucket(Bucket=f"{bucket}-to")
    s3.copy_object(Bucket=f"{bucket}-to", Key=key, CopySource=source(bucket, "copy"))
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=f"{bucket}-to")["Contents"]] == [key]
    upload = uploads.begin(s3, bucket, "parts")
    s3.upload_part_copy(
        Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, CopySource=source(bucket, key)
    )  # fmt: skip
    assert uploads.numbers(s3, bucket, upload, "parts") == [1]


@pytest.mark.parametrize("form", ["{b}/a%20b%2Bc", "/{b}/a%20b%2Bc", "{b}%2Fa%20b%2Bc", "%2F{b}%2Fa%20b%2bc", "{b}/a%20b+c", "{b}/a b+c", "{b}/a%20b%2Bc?versionId=null"])  # fmt: skip
def test_forms_of_a_source(server, s3, bucket, form):
    s3.put_object(Bucket=bucket, Key="a b+c", Body=b"x")
    answer = raw.request(server, "PUT", f"/{bucket}/copy", headers={"x-amz-copy-source": form.format(b=bucket)})
    assert answer.status == 200, answer
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == b"x"


@pytest.mark.parametrize(
    "form, expected",
    [
        ("", (400, "InvalidRequest")),
        ("x", (400, "InvalidArgument")),
        ("/", (400, "InvalidArgument")),
        ("{b}", (400, "InvalidArgument")),
        ("{b}/", (400, "InvalidArgument")),
        ("/{b}/", (400, "InvalidArgument")),
        ("//{b}/source", (400, "InvalidArgument")),
        ("{b}/%ff%fe", (400, "InvalidArgument")),
        ("{b}/source?versionId=other", (404, "NoSuchVersion")),
        ("{b}/source?versionId=", (400, "InvalidArgument")),
        ("B_A_D/source", (400, "InvalidArgument")),
        ("never-was/source", (404, "NoSuchBucket")),
        ("{b}/none", (404, "NoSuchKey")),
        ("{b}/" + "a" * 1025, (400, "InvalidArgument")),
        ("arn:aws:s3:us-east-1:000000000000:accesspoint/ap1/object/k", (501, "NotImplemented")),
        ("arn:aws:s3:::x", (400, "InvalidArgument")),
    ],
)
def test_sources_that_are_none(server, s3, bucket, put, form, expected):
    headers = {"x-amz-copy-source": form.format(b=bucket)}
    answer = raw.request(server, "PUT", f"/{bucket}/copy", headers=headers)
    assert tuple(answer) == expected
    upload = uploads.begin(s3, bucket)
    query = [("partNumber", "1"), ("uploadId", upload)]
    answer = raw.request(server, "PUT", f"/{bucket}/k", query=query, headers=headers)
    assert tuple(answer) == expected
    assert uploads.numbers(s3, bucket, upload) == []
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_into_what_is_not_there(s3, bucket, put):
    assert refused(s3.copy_object, Bucket="never-was", Key="k", CopySource=source(bucket)) == (404, "NoSuchBucket")
    call = {"Bucket": bucket, "CopySource": source(bucket)}
    assert refused(s3.copy_object, Key="a" * 1025, **call) == (400, "KeyTooLongError")


def conditions(etag, modified):
    """Of a source: (arguments, whether they hold)."""
    return [
        ({"CopySourceIfMatch": etag}, True),
        ({"CopySourceIfMatch": "*"}, True),
        ({"CopySourceIfMatch": OTHER_ETAG}, False),
        ({"CopySourceIfNoneMatch": OTHER_ETAG}, True),
        ({"CopySourceIfNoneMatch": etag}, False),
        ({"CopySourceIfModifiedSince": modified - HOUR}, True),
        ({"CopySourceIfModifiedSince": modified}, False),
        ({"CopySourceIfUnmodifiedSince": modified}, True),
        ({"CopySourceIfUnmodifiedSince": modified - HOUR}, False),
        # The pairs that Amazon's documentation names.
        ({"CopySourceIfMatch": etag, "CopySourceIfUnmodifiedSince": modified - HOUR}, True),
        ({"CopySourceIfNoneMatch": etag, "CopySourceIfModifiedSince": modified - HOUR}, False),
    ]


def test_conditions_on_the_source(s3, bucket, put):
    modified = s3.head_object(Bucket=bucket, Key="source")["LastModified"]
    upload = uploads.begin(s3, bucket)
    part = {"Bucket": bucket, "Key": "k", "UploadId": upload, "CopySource": source(bucket)}
    for number, (asked, holds) in enumerate(conditions(put["ETag"], modified), 1):
        copy = {"Bucket": bucket, "Key": f"copy-{number}", "CopySource": source(bucket)}
        if holds:
            s3.copy_object(**copy, **asked)
            s3.upload_part_copy(**part, PartNumber=number, **asked)
        else:
            assert refused(s3.copy_object, **copy, **asked) == (412, "PreconditionFailed"), asked
            assert refused(s3.upload_part_copy, **part, PartNumber=number, **asked) == (412, "PreconditionFailed")
    done = [number for number, (_, holds) in enumerate(conditions("", modified), 1) if holds]
    assert uploads.numbers(s3, bucket, upload) == done
    assert s3.list_objects_v2(Bucket=bucket, Prefix="copy-")["KeyCount"] == len(done)


def test_conditions_on_the_copy(s3, bucket, put):
    call = {"Bucket": bucket, "Key": "copy", "CopySource": source(bucket)}
    assert refused(s3.copy_object, **call, IfMatch=OTHER_ETAG) == (404, "NoSuchKey")
    s3.copy_object(**call, IfNoneMatch="*")
    assert refused(s3.copy_object, **call, IfNoneMatch="*") == (412, "PreconditionFailed")
    assert refused(s3.copy_object, **call, IfMatch=OTHER_ETAG) == (412, "PreconditionFailed")
    s3.copy_object(**call, IfMatch=put["ETag"])
    onto = {"Bucket": bucket, "Key": "source", "CopySource": source(bucket), "MetadataDirective": "REPLACE"}
    assert refused(s3.copy_object, **onto, IfMatch=OTHER_ETAG) == (412, "PreconditionFailed")
    s3.copy_object(**onto, IfMatch=put["ETag"])


@pytest.mark.parametrize("more, expected", [
    ({"ServerSideEncryption": "AES256"}, (501, "NotImplemented")),
    ({"Tagging": "a=b", "TaggingDirective": "REPLACE"}, (501, "NotImplemented")),
    ({"ACL": "public-read"}, (501, "NotImplemented")),
    ({"StorageClass": "GLACIER"}, (400, "InvalidStorageClass")),
    ({"ObjectLockLegalHoldStatus": "ON"}, (501, "NotImplemented")),
    ({"ChecksumAlgorithm": "CRC16"}, (400, "InvalidRequest")),
    ({"ExpectedBucketOwner": "999999999999"}, (403, "AccessDenied")),
    ({"ExpectedSourceBucketOwner": "999999999999"}, (403, "AccessDenied")),
])  # fmt: skip
def test_copies_that_ask_for_more(s3, bucket, put, more, expected):
    assert refused(s3.copy_object, Bucket=bucket, Key="copy", CopySource=source(bucket), **more) == expected
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_the_owners_that_were_expected(s3, bucket, put):
    owner = s3.list_buckets()["Owner"]["ID"]
    expected = {"ExpectedBucketOwner": owner, "ExpectedSourceBucketOwner": owner}
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket), **expected)


def test_a_copy_with_a_body(server, s3, bucket, put):
    """A copy brings none; one that comes anyway must not become the object."""
    headers = {"x-amz-copy-source": f"{bucket}/source"}
    answer = raw.request(server, "PUT", f"/{bucket}/copy", headers=headers, body=b"evil" * 1000)
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == b"data"


@pytest.mark.parametrize("name", ["copy", "part"])
def test_without_a_right_signature(server, s3, bucket, put, name):
    upload = uploads.begin(s3, bucket)
    query = [("partNumber", "1"), ("uploadId", upload)] if name == "part" else []
    path, headers = f"/{bucket}/k", {"x-amz-copy-source": f"{bucket}/source"}

    def ask(headers=headers, **signer):
        return tuple(raw.request(server, "PUT", path, query=query, headers=headers, signer=raw.Signer(server, **signer)))

    assert ask(secret_key="wrong") == (403, "SignatureDoesNotMatch")
    assert ask(time=raw.now(-3600)) == (403, "RequestTimeTooSkewed")
    # A signature of another source, and one of none.
    target = path + ("?" if query else "") + "&".join(f"{field}={value}" for field, value in query)
    signed = raw.Signer(server).headers("PUT", path, query, headers=headers)
    assert tuple(raw.send(server, "PUT", target, {**signed, "x-amz-copy-source": f"{bucket}/other"}))[0] == 403
    signed = raw.Signer(server).headers("PUT", path, query)
    assert tuple(raw.send(server, "PUT", target, {**signed, **headers}))[0] == 403
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    assert uploads.numbers(s3, bucket, upload) == []


# Parts ---------------------------------------------------------------------------------


def test_parts_from_other_objects(s3, bucket):
    """As large objects are copied: by ranges."""
    data = body(3 * PART + 77)
    s3.put_object(Bucket=bucket, Key="source", Body=data)
    upload = uploads.begin(s3, bucket)
    parts = []
    for number, start in enumerate(range(0, len(data), PART), 1):
        end = min(len(data), start + PART) - 1
        answer = s3.upload_part_copy(
            Bucket=bucket,
            Key="k",
            UploadId=upload,
            PartNumber=number,
            CopySource=source(bucket),
            CopySourceRange=f"bytes={start}-{end}",
        )
        result = answer["CopyPartResult"]
        assert result["ETag"] == f'"{hashlib.md5(data[start : end + 1]).hexdigest()}"'
        parts.append({"PartNumber": number, "ETag": result["ETag"]})
    s3.delete_object(Bucket=bucket, Key="source")
    uploads.complete(s3, bucket, upload, parts)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data


def test_a_part_from_an_object_in_parts(s3, bucket):
    bodies = [body(PART, seed=1), body(PART, seed=2), b"end"]
    whole = b"".join(bodies)
    uploads.whole(s3, bucket, bodies, "source")
    upload = uploads.begin(s3, bucket, ChecksumAlgorithm="SHA256")
    call = {"Bucket": bucket, "Key": "k", "UploadId": upload, "CopySource": source(bucket)}
    ranges = [(PART - 10, 2 * PART), (0, 0), (len(whole) - 5, len(whole) - 1)]
    parts = []
    for number, (start, end) in enumerate(ranges, 1):
        answer = s3.upload_part_copy(**call, PartNumber=number, CopySourceRange=f"bytes={start}-{end}")
        result = answer["CopyPartResult"]
        assert result["ChecksumSHA256"] == sums.checksum("SHA256", whole[start : end + 1])
        parts.append({"PartNumber": number, "ETag": result["ETag"], "ChecksumSHA256": result["ChecksumSHA256"]})
    uploads.complete(s3, bucket, upload, parts[:1])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == whole[PART - 10 : 2 * PART + 1]
    assert "PartNumber" not in s3.head_object(Bucket=bucket, Key="k")


def test_a_part_of_the_object_that_it_becomes(s3, bucket):
    """An object grows by a copy of itself."""
    old = body(PART)
    s3.put_object(Bucket=bucket, Key="k", Body=old)
    upload = uploads.begin(s3, bucket)
    first = s3.upload_part_copy(
        Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, CopySource=source(bucket, "k")
    )["CopyPartResult"]["ETag"]  # fmt: skip
    parts = [{"PartNumber": 1, "ETag": first}, uploads.part(s3, bucket, upload, 2, b"more")]
    uploads.complete(s3, bucket, upload, parts)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == old + b"more"


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-4", "bytes=4-4", "bytes=3-2", "bytes=-2", "bytes=2-", "bytes=", "0-3", "bytes=0-1,2-3", "lines=0-1",
     "bytes=a-b", "bytes=0-99999999999999999999", "bytes=-1-2", "bytes= 0-1", "bytes=0x0-0x1", "bytes=0-3 x"],
)  # fmt: skip
def test_ranges_that_cannot_be(s3, bucket, put, asked):
    upload = uploads.begin(s3, bucket)
    call = {"Bucket": bucket, "Key": "k", "UploadId": upload, "CopySource": source(bucket), "PartNumber": 1}
    assert refused(s3.upload_part_copy, **call, CopySourceRange=asked) == (400, "InvalidArgument")
    assert uploads.numbers(s3, bucket, upload) == []
    s3.upload_part_copy(**call, CopySourceRange="bytes=0-3")


def test_the_transfer_manager(s3, bucket):
    from boto3.s3.transfer import TransferConfig

    data = body(2 * PART + 1)
    s3.put_object(Bucket=bucket, Key="source", Body=data, Metadata={"a": "b"})
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)
    s3.copy(source(bucket), bucket, "copy", Config=config)
    got = s3.get_object(Bucket=bucket, Key="copy")
    assert got["Body"].read() == data
    assert got["ETag"].endswith('-3"')


# Space ---------------------------------------------------------------------------------


def test_a_copy_that_is_cut_off_leaves_nothing(own_server):
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="left")
    s3.put_object(Bucket="left", Key="source", Body=body(48 * MIB))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        copying = pool.submit(s3.copy_object, Bucket="left", Key="copy", CopySource=source("left"))
        time.sleep(0.05)
        server.kill()
        copied = copying.exception() is None
    server.restart()
    s3 = uploads.settle(server, expected=1 + copied)
    assert s3.list_objects_v2(Bucket="left")["KeyCount"] == 1 + copied


def test_onto_itself_leaves_one_body(own_server):
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="left")
    data = body(300 * KIB)
    s3.put_object(Bucket="left", Key="k", Body=data)
    uploads.whole(s3, "left", [data], "multi")
    for number in range(5):
        for key in ("k", "multi"):
            more = {"MetadataDirective": "REPLACE", "Metadata": {"n": str(number)}}
            s3.copy_object(Bucket="left", Key=key, CopySource=source("left", key), **more)
    server.kill()
    server.restart()
    s3 = uploads.settle(server, expected=2)
    for key in ("k", "multi"):
        got = s3.get_object(Bucket="left", Key=key)
        assert (got["Body"].read(), got["Metadata"]) == (data, {"n": "4"})
        s3.delete_object(Bucket="left", Key=key)
    uploads.settle(server, expected=0)
