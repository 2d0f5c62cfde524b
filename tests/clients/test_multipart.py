"""Uploads in parts: what they become, what is refused, and what is left of them."""

import base64
import concurrent.futures
import hashlib
import io
import socket
import time
import zlib

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

import raw
import sums
import uploads
from harness import KIB, MIB, body, code_of
from uploads import PART

UNKNOWN = "00000000deadbeef"
OTHER_ETAG = '"00000000000000000000000000000000"'


def refused(operation, **arguments):
    """(HTTP status, code) of a call that must fail."""
    with pytest.raises(ClientError) as error:
        operation(**arguments)
    return code_of(error)


# What they become ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def bodies():
    return [body(PART, seed=1), body(PART + 12_345, seed=2), body(777, seed=3)]


@pytest.fixture(scope="module")
def multi(s3, bodies):
    """(bucket, key) of one object of three parts, for tests that read only."""
    s3.create_bucket(Bucket="multi")
    uploads.whole(
        s3, "multi", bodies, "object", ContentType="text/plain", Metadata={"a": "b"}, CacheControl="max-age=9"
    )
    return {"Bucket": "multi", "Key": "object"}


def test_parts_become_an_object(s3, multi, bodies):
    whole = b"".join(bodies)
    got = s3.get_object(**multi)
    assert got["Body"].read() == whole
    assert got["ETag"] == sums.etag(bodies)
    assert (got["ContentLength"], got["ContentType"]) == (len(whole), "text/plain")
    assert (got["Metadata"], got["CacheControl"]) == ({"a": "b"}, "max-age=9")
    assert "PartsCount" not in got
    (entry,) = s3.list_objects_v2(Bucket="multi")["Contents"]
    assert (entry["Size"], entry["ETag"]) == (len(whole), got["ETag"])


def test_ranges_across_parts(s3, multi, bodies):
    whole = b"".join(bodies)
    first, second = PART, len(bodies[0] + bodies[1])
    for start, end in [
        (0, 0),
        (first - 1, first - 1),
        (first, first),
        (first - 5, first + 5),
        (first - 100_000, first + 200_000),
        (second - 1, second),
        (first - 1, second),
        (second, len(whole) - 1),
        (len(whole) - 1, len(whole) - 1),
        (0, len(whole) - 1),
        (5, len(whole) + 500),
    ]:
        got = s3.get_object(**multi, Range=f"bytes={start}-{end}")
        assert got["Body"].read() == whole[start : end + 1], (start, end)
        assert got["ContentRange"] == f"bytes {start}-{min(end, len(whole) - 1)}/{len(whole)}"
    assert s3.get_object(**multi, Range="bytes=-1000")["Body"].read() == whole[-1000:]
    assert refused(s3.get_object, **multi, Range=f"bytes={len(whole)}-") == (416, "InvalidRange")


def test_one_part_of_an_object(s3, multi, bodies):
    size, start = sum(map(len, bodies)), 0
    for number, data in enumerate(bodies, 1):
        shown = f"bytes {start}-{start + len(data) - 1}/{size}"
        got = s3.get_object(**multi, PartNumber=number)
        assert got["Body"].read() == data
        for answer in (got, s3.head_object(**multi, PartNumber=number)):
            assert (answer["PartsCount"], answer["ContentLength"]) == (3, len(data))
            assert answer["ResponseMetadata"]["HTTPHeaders"]["content-range"] == shown
            assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
            assert answer["ETag"] == sums.etag(bodies)
        start += len(data)


@pytest.mark.parametrize(
    "number, expected",
    [(4, (416, "InvalidPartNumber")), (10_000, (416, "InvalidPartNumber")), (0, (400, "InvalidArgument")),
     (10_001, (400, "InvalidArgument")), (-1, (400, "InvalidArgument"))],
)  # fmt: skip
def test_a_part_that_is_not_there(s3, multi, number, expected):
    assert refused(s3.get_object, **multi, PartNumber=number) == expected
    assert refused(s3.head_object, **multi, PartNumber=number)[0] == expected[0]


def test_a_part_and_a_range_at_once(s3, multi):
    asked = {**multi, "PartNumber": 1, "Range": "bytes=0-1"}
    assert refused(s3.get_object, **asked) == (400, "InvalidRequest")


@pytest.mark.parametrize("number", ["", "x", "1.5", "99999999999999999999", "%31x"])
def test_part_numbers_that_are_none(server, multi, bucket, s3, number):
    answer = raw.request(server, "GET", "/multi/object", query=[("partNumber", number)])
    assert tuple(answer) == (400, "InvalidArgument")
    upload = uploads.begin(s3, bucket)
    query = [("partNumber", number), ("uploadId", upload)]
    answer = raw.request(server, "PUT", f"/{bucket}/k", query=query, body=b"x")
    assert tuple(answer) == (400, "InvalidArgument")
    assert uploads.numbers(s3, bucket, upload) == []


def test_a_part_under_conditions(s3, multi, bodies):
    tag = sums.etag(bodies)
    assert s3.get_object(**multi, PartNumber=2, IfMatch=tag)["Body"].read() == bodies[1]
    assert refused(s3.get_object, **multi, PartNumber=2, IfMatch=OTHER_ETAG) == (412, "PreconditionFailed")
    assert refused(s3.get_object, **multi, PartNumber=2, IfNoneMatch=tag)[0] == 304


def test_the_only_part_of_a_plain_object(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"whole")
    got = s3.get_object(Bucket=bucket, Key="k", PartNumber=1)
    assert (got["Body"].read(), got["ContentRange"]) == (b"whole", "bytes 0-4/5")
    assert "PartsCount" not in got
    assert refused(s3.get_object, Bucket=bucket, Key="k", PartNumber=2) == (416, "InvalidPartNumber")


def test_the_reader_chooses_headers_of_a_get_and_a_head(s3, multi):
    chosen = {
        "ResponseContentType": "application/json",
        "ResponseContentDisposition": 'attachment; filename="ü.txt"',
        "ResponseCacheControl": "no-store",
        "ResponseContentLanguage": "fr",
        "ResponseContentEncoding": "identity",
        "ResponseExpires": "Thu, 02 Jan 2031 03:04:05 GMT",
    }
    for operation in (s3.get_object, s3.head_object):
        for part in ({}, {"PartNumber": 3}):
            headers = operation(**multi, **chosen, **part)["ResponseMetadata"]["HTTPHeaders"]
            assert headers["content-type"] == "application/json"
            assert headers["content-disposition"].encode("latin-1").decode() == 'attachment; filename="ü.txt"'
            assert headers["cache-control"] == "no-store"
            assert headers["content-language"] == "fr"
            assert headers["content-encoding"] == "identity"
            assert headers["expires"] == "Thu, 02 Jan 2031 03:04:05 GMT"


def test_numbers_with_gaps(s3, bucket):
    """An object's parts are counted from 1, whatever numbers they were uploaded under."""
    bodies = [body(PART, seed=1), body(PART, seed=2), b"end"]
    upload = uploads.begin(s3, bucket)
    # Out of order, as they arrive from several threads.
    parts = [uploads.part(s3, bucket, upload, number, data) for number, data in zip((10_000, 2, 77), (bodies[2], bodies[0], bodies[1]))]  # fmt: skip
    assert uploads.numbers(s3, bucket, upload) == [2, 77, 10_000]
    uploads.complete(s3, bucket, upload, [parts[1], parts[2], parts[0]])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"".join(bodies)
    assert s3.get_object(Bucket=bucket, Key="k", PartNumber=3)["Body"].read() == b"end"
    assert refused(s3.get_object, Bucket=bucket, Key="k", PartNumber=77) == (416, "InvalidPartNumber")


@pytest.mark.parametrize("size", [0, 1, 8192, 8193, MIB])
def test_a_single_part_may_be_small(s3, bucket, size):
    data = body(size)
    answer = uploads.whole(s3, bucket, [data])
    assert answer["ETag"] == sums.etag([data])
    assert (answer["Bucket"], answer["Key"]) == (bucket, "k")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
    head = s3.head_object(Bucket=bucket, Key="k", PartNumber=1)
    assert (head["PartsCount"], head["ContentLength"]) == (1, size)


def test_the_newest_of_a_part_counts(s3, bucket):
    upload = uploads.begin(s3, bucket)
    old = uploads.part(s3, bucket, upload, 1, b"old")
    new = uploads.part(s3, bucket, upload, 1, b"newer")
    (entry,) = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)["Parts"]
    assert (entry["Size"], entry["ETag"]) == (5, new["ETag"])
    with pytest.raises(ClientError) as error:
        uploads.complete(s3, bucket, upload, [old])
    assert code_of(error) == (400, "InvalidPart")
    uploads.complete(s3, bucket, upload, [new])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"newer"


def test_parts_that_are_not_named_are_left_out(s3, bucket):
    upload = uploads.begin(s3, bucket)
    uploads.part(s3, bucket, upload, 1, b"no")
    wanted = uploads.part(s3, bucket, upload, 2, b"yes")
    uploads.part(s3, bucket, upload, 3, b"no")
    uploads.complete(s3, bucket, upload, [wanted])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"yes"


def test_an_upload_shows_nothing_before_its_end(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    upload = uploads.begin(s3, bucket)
    part = uploads.part(s3, bucket, upload, 1, b"new")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"
    uploads.complete(s3, bucket, upload, [part])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"new"
    assert uploads.pending(s3, bucket) == []


def test_a_reader_keeps_the_parts_that_it_opened(s3, bucket):
    bodies = [body(PART, seed=4), body(PART, seed=5), body(PART, seed=6)]
    uploads.whole(s3, bucket, bodies)
    stream = s3.get_object(Bucket=bucket, Key="k")["Body"]
    first = stream.read(64 * KIB)
    s3.put_object(Bucket=bucket, Key="k", Body=b"short")
    s3.delete_object(Bucket=bucket, Key="k")
    time.sleep(1)
    assert first + stream.read() == b"".join(bodies)


def test_the_transfer_manager(s3, bucket, tmp_path):
    data = body(17 * MIB + 3)
    (tmp_path / "up").write_bytes(data)
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
    s3.upload_file(str(tmp_path / "up"), bucket, "k", Config=config)
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"].endswith('-4"')
    s3.download_file(bucket, "k", str(tmp_path / "down"), Config=config)
    assert (tmp_path / "down").read_bytes() == data
    s3.upload_fileobj(io.BytesIO(data), bucket, "again", Config=config)
    assert s3.get_object(Bucket=bucket, Key="again")["Body"].read() == data


KEYS = ["with space", "plus+sign", "percent%25", "ünïcødé/日本語", "🦀", "//two//", "/leading", "a&b<c>\"'", "new\nline", "a?b=c#d"]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_any_key(s3, bucket, key):
    upload = uploads.begin(s3, bucket, key)
    assert uploads.pending(s3, bucket) == [(key, upload)]
    parts = [uploads.part(s3, bucket, upload, 1, key.encode(), key)]
    listed = s3.list_parts(Bucket=bucket, Key=key, UploadId=upload)
    assert (listed["Key"], len(listed["Parts"])) == (key, 1)
    assert uploads.complete(s3, bucket, upload, parts, key)["Key"] == key
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()


def test_a_key_that_xml_has_no_place_for(s3, bucket):
    """Such a key could be put, but the answer to whoever began an upload could not be parsed."""
    upload = uploads.begin(s3, bucket, "\x01")
    parts = [uploads.part(s3, bucket, upload, 1, b"x", "\x01")]
    listed = s3.list_parts(Bucket=bucket, Key="\x01", UploadId=upload)
    assert (listed["Key"], len(listed["Parts"])) == ("\ufffd", 1)
    uploads.complete(s3, bucket, upload, parts, "\x01")
    assert s3.get_object(Bucket=bucket, Key="\x01")["Body"].read() == b"x"


# Completing ----------------------------------------------------------------------------


def test_completing_again_answers_the_same(s3, bucket):
    upload = uploads.begin(s3, bucket)
    parts = [uploads.part(s3, bucket, upload, 1, b"once")]
    first = uploads.complete(s3, bucket, upload, parts, IfNoneMatch="*")
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    again = uploads.complete(s3, bucket, upload, parts, IfNoneMatch="*")
    for name in ("ETag", "Location", "Bucket", "Key", "ChecksumCRC64NVME", "ChecksumType"):
        assert first[name] == again[name], name
    assert s3.head_object(Bucket=bucket, Key="k")["LastModified"] == modified
    s3.put_object(Bucket=bucket, Key="k", Body=b"another")
    with pytest.raises(ClientError) as error:
        uploads.complete(s3, bucket, upload, parts)
    assert code_of(error) == (404, "NoSuchUpload")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"another"


def test_many_complete_at_once(s3, bucket):
    upload = uploads.begin(s3, bucket)
    parts = [uploads.part(s3, bucket, upload, 1, b"once")]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(uploads.complete, s3, bucket, upload, parts) for _ in range(16)]
    assert {one.result()["ETag"] for one in tries} == {sums.etag([b"once"])}


def test_a_race_of_create_only(s3, bucket):
    """Of several uploads of one key with If-None-Match, one becomes the object."""
    begun = []
    for number in range(8):
        upload = uploads.begin(s3, bucket)
        begun.append((upload, [uploads.part(s3, bucket, upload, 1, b"%d" % number)]))

    def finish(one):
        try:
            return uploads.complete(s3, bucket, *one, IfNoneMatch="*")["ETag"]
        except ClientError as error:
            return code_of(error)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(finish, begun))
    assert outcomes.count((412, "PreconditionFailed")) == 7, outcomes
    # Those that lost go on: the client may drop the condition, or abort.
    assert len(uploads.pending(s3, bucket)) == 7


def test_conditions_on_completing(s3, bucket):
    upload = uploads.begin(s3, bucket)
    parts = [uploads.part(s3, bucket, upload, 1, b"new")]
    call = {"s3": s3, "bucket": bucket, "upload": upload, "parts": parts}
    assert refused(uploads.complete, **call, IfMatch=OTHER_ETAG) == (404, "NoSuchKey")
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"old")["ETag"]
    assert refused(uploads.complete, **call, IfMatch=OTHER_ETAG) == (412, "PreconditionFailed")
    assert refused(uploads.complete, **call, IfNoneMatch="*") == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"
    assert uploads.numbers(s3, bucket, upload) == [1]
    uploads.complete(**call, IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"new"


def test_parts_too_small(s3, bucket):
    upload = uploads.begin(s3, bucket)
    parts = [uploads.part(s3, bucket, upload, number, data) for number, data in ((1, body(PART - 1)), (2, b"end"))]
    with pytest.raises(ClientError) as error:
        uploads.complete(s3, bucket, upload, parts)
    assert code_of(error) == (400, "EntityTooSmall")
    parts[0] = uploads.part(s3, bucket, upload, 1, body(PART))
    uploads.complete(s3, bucket, upload, parts)
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == PART + 3


def test_the_size_that_an_object_must_have(s3, bucket):
    upload = uploads.begin(s3, bucket)
    parts = [uploads.part(s3, bucket, upload, 1, b"four")]
    for size in (3, 5, 0, -1, 1 << 60):
        with pytest.raises(ClientError) as error:
            uploads.complete(s3, bucket, upload, parts, MpuObjectSize=size)
        assert code_of(error) == (400, "InvalidRequest"), size
    uploads.complete(s3, bucket, upload, parts, MpuObjectSize=4)


@pytest.fixture
def begun(s3, bucket):
    """An upload of two parts, the second of which is not the last that could be."""
    upload = uploads.begin(s3, bucket)
    return upload, [uploads.part(s3, bucket, upload, number, b"%d" % number) for number in (1, 2)]


def test_parts_that_cannot_be_completed(s3, bucket, begun):
    upload, (one, two) = begun
    third = {"PartNumber": 3, "ETag": one["ETag"]}
    for parts, expected in [
        ([two, one], "InvalidPartOrder"),
        ([one, one], "InvalidPartOrder"),
        ([third], "InvalidPart"),
        ([{**one, "ETag": OTHER_ETAG}], "InvalidPart"),
        ([{**one, "ETag": two["ETag"]}], "InvalidPart"),
        ([{**one, "ETag": "x" * 2000}], "InvalidPart"),
        ([one, two], "EntityTooSmall"),
        ([{**one, "PartNumber": 0}], "InvalidArgument"),
        ([{**one, "PartNumber": 10_001}], "InvalidArgument"),
        ([{**one, "PartNumber": -1}], "InvalidArgument"),
        ([{**one, "PartNumber": 65_537}], "InvalidArgument"),
        ([], "MalformedXML"),
    ]:
        with pytest.raises(ClientError) as error:
            uploads.complete(s3, bucket, upload, parts)
        assert code_of(error) == (400, expected), parts
    assert uploads.numbers(s3, bucket, upload) == [1, 2], "nothing was lost"
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    # The quotes are not part of a tag.
    uploads.complete(s3, bucket, upload, [{**one, "ETag": one["ETag"].strip('"')}])


PART_ONE = "<Part><PartNumber>1</PartNumber><ETag>%s</ETag></Part>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not xml",
        "<",
        "<CompleteMultipartUpload>",
        "<CompleteMultipartUpload/>",
        "<CompleteMultipartUpload></CompleteMultipartUpload>",
        "<Other>" + PART_ONE + "</Other>",
        "<CompleteMultipartUpload>" + PART_ONE,
        "<CompleteMultipartUpload><Part></CompleteMultipartUpload>",
        "<CompleteMultipartUpload><Part/></CompleteMultipartUpload>",
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>",
        "<CompleteMultipartUpload><Part><ETag>%s</ETag></Part></CompleteMultipartUpload>",
        "<CompleteMultipartUpload>" + PART_ONE.replace(">1<", ">one<") + "</CompleteMultipartUpload>",
        "<CompleteMultipartUpload>" + PART_ONE.replace(">1<", "><") + "</CompleteMultipartUpload>",
        "<CompleteMultipartUpload>" + PART_ONE.replace(">1<", ">1<!--") + "</CompleteMultipartUpload>",
        "<CompleteMultipartUpload>" + PART_ONE.replace("%s", "&nope;") + "</CompleteMultipartUpload>",
        "<CompleteMultipartUpload>" + PART_ONE.replace("%s", "<![CDATA[%s]]>") + "</CompleteMultipartUpload>",
        "<CompleteMultipartUpload>" + PART_ONE + "</CompleteMultipartUpload><x>",
        '<!DOCTYPE a [<!ENTITY x "y">]><CompleteMultipartUpload>' + PART_ONE.replace("%s", "&x;") + "</CompleteMultipartUpload>",
        "<CompleteMultipartUpload>" + PART_ONE.replace("<ETag>", "<ChecksumCRC32>!</ChecksumCRC32><ETag>") + "</CompleteMultipartUpload>",
        "<CompleteMultipartUpload>" + "<Part/>" * 9_000 + "</CompleteMultipartUpload>",
        "<CompleteMultipartUpload>" + "<Part>" * 50_000 + "</CompleteMultipartUpload>",
    ],
)  # fmt: skip
def test_documents_that_are_none(server, s3, bucket, begun, text):
    upload, (one, _) = begun
    document = text.replace("%s", one["ETag"]).encode()
    answer = uploads.raw_complete(server, bucket, upload, document)
    assert tuple(answer) == (400, "MalformedXML")
    assert uploads.numbers(s3, bucket, upload) == [1, 2]
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_bytes_that_are_no_document(server, bucket, begun):
    for document in (b"\xff\xfe<\x00", b"\x00" * 100, b"\xff" * 1000, b"<CompleteMultipartUpload>\xff</CompleteMultipartUpload>"):  # fmt: skip
        assert tuple(uploads.raw_complete(server, bucket, begun[0], document)) == (400, "MalformedXML")


def test_a_document_with_a_name_space(server, s3, bucket, begun):
    upload, (one, _) = begun
    tag = one["ETag"].replace('"', "&quot;")
    document = uploads.document((1, tag)).replace(
        b"Upload>", b'Upload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">', 1
    )
    answer = uploads.raw_complete(server, bucket, upload, b'<?xml version="1.0" encoding="UTF-8"?>\n' + document)
    assert answer.status == 200, answer
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"


def test_a_document_with_a_wrong_digest(server, s3, bucket, begun):
    upload, (one, _) = begun
    document = uploads.document((1, one["ETag"]))
    md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    answer = uploads.raw_complete(server, bucket, upload, document, headers={"content-md5": md5})
    assert tuple(answer) == (400, "BadDigest")
    answer = uploads.raw_complete(server, bucket, upload, document, headers={"content-md5": "x"})
    assert tuple(answer) == (400, "InvalidDigest")
    answer = uploads.raw_complete(server, bucket, upload, document, payload=hashlib.sha256(b"other").hexdigest())
    assert tuple(answer) == (400, "XAmzContentSHA256Mismatch")
    assert uploads.numbers(s3, bucket, upload) == [1, 2]
    md5 = base64.b64encode(hashlib.md5(document).digest()).decode()
    assert uploads.raw_complete(server, bucket, upload, document, headers={"content-md5": md5}).status == 200


def ten_thousand(etag, algorithm="SHA256", count=10_000):
    """A completion of as many parts as there can be, as the SDKs write it, checksums and all."""
    name, value = f"Checksum{algorithm}", sums.checksum(algorithm, b"1")
    tag = etag.replace('"', "&#34;")
    inner = "".join(
        f"<Part><{name}>{value}</{name}><ETag>{tag}</ETag><PartNumber>{number}</PartNumber></Part>"
        for number in range(1, count + 1)
    )
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    return f"<CompleteMultipartUpload {space}>{inner}</CompleteMultipartUpload>".encode()


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256", "SHA512"])
def test_ten_thousand_parts_named(server, s3, bucket, algorithm):
    """The longest document there can be is read and refused for what is in it, in bounded time."""
    upload = uploads.begin(s3, bucket)
    one = uploads.part(s3, bucket, upload, 1, b"1")
    before, started = server.memory_bytes(), time.monotonic()
    answer = uploads.raw_complete(server, bucket, upload, ten_thousand(one["ETag"], algorithm))
    assert tuple(answer) == (400, "EntityTooSmall")
    answer = uploads.raw_complete(server, bucket, upload, ten_thousand(one["ETag"], algorithm, 10_001))
    assert answer.status == 400 and answer.code in ("MalformedXML", "InvalidArgument")
    answer = uploads.raw_complete(server, bucket, upload, ten_thousand(one["ETag"], "CRC32", 11_000))
    assert tuple(answer) == (400, "MalformedXML")
    assert time.monotonic() - started < 4
    assert server.memory_bytes() - before < 64 * MIB
    assert uploads.numbers(s3, bucket, upload) == [1]


def test_many_long_completions_at_once(own_server):
    """They take turns with the memory for documents. Once each held some while it asked for more,
    which was never there: an upload of so many parts could not be completed at all."""
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="many")
    upload = uploads.begin(s3, "many")
    document = ten_thousand(uploads.part(s3, "many", upload, 1, b"1")["ETag"])
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda _: uploads.raw_complete(server, "many", upload, document), range(24)))
    assert {tuple(answer) for answer in answers} <= {(400, "EntityTooSmall"), (503, "SlowDown")}
    assert [tuple(answer) for answer in answers].count((400, "EntityTooSmall")) >= 12
    assert time.monotonic() - started < 12
    assert server.memory_bytes("VmHWM") <= 256 * MIB


def test_a_completion_that_never_fits(own_server):
    """A small server says what helps, and takes shorter ones."""
    server = own_server("--memory", "96MiB")
    s3 = server.client()
    s3.create_bucket(Bucket="small")
    upload = uploads.begin(s3, "small")
    one = uploads.part(s3, "small", upload, 1, b"1")
    answer = uploads.raw_complete(server, "small", upload, ten_thousand(one["ETag"]))
    assert tuple(answer) == (400, "MaxMessageLengthExceeded") and b"--memory" in answer.body
    answer = uploads.raw_complete(server, "small", upload, ten_thousand(one["ETag"], count=1_200))
    assert tuple(answer) == (400, "EntityTooSmall")
    uploads.complete(s3, "small", upload, [one])


def test_a_document_past_its_limit(server, bucket, begun):
    upload, (one, _) = begun
    document = uploads.document((1, one["ETag"])) + b" " * (3 * MIB)
    answer = uploads.raw_complete(server, bucket, upload, document)
    assert tuple(answer) == (400, "MaxMessageLengthExceeded")


# Listing -------------------------------------------------------------------------------


def test_listing_parts_by_pages(s3, bucket):
    upload = uploads.begin(s3, bucket)
    parts = {number: uploads.part(s3, bucket, upload, number, body(number)) for number in (1, 5, 6, 300, 10_000)}
    seen, marker = [], 0
    while True:
        page = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload, MaxParts=2, PartNumberMarker=marker)
        assert (page["MaxParts"], page["PartNumberMarker"]) == (2, marker)
        seen += page["Parts"]
        if not page["IsTruncated"]:
            break
        marker = page["NextPartNumberMarker"]
        assert marker == seen[-1]["PartNumber"]
    assert [(entry["PartNumber"], entry["Size"], entry["ETag"]) for entry in seen] == [
        (number, number, parts[number]["ETag"]) for number in parts
    ]
    page = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload, PartNumberMarker=10_000)
    assert "Parts" not in page and not page["IsTruncated"]
    assert (page["Bucket"], page["Key"], page["UploadId"], page["StorageClass"]) == (bucket, "k", upload, "STANDARD")


def test_listing_uploads(s3, bucket):
    begun = {}
    for key in ("a/1", "a/2", "b", "c/x/1", "c/x/2", "d"):
        begun[key] = [uploads.begin(s3, bucket, key) for _ in range(2)]
    everything = [(key, upload) for key, ids in begun.items() for upload in ids]
    assert uploads.pending(s3, bucket) == everything
    # Page by page, also between two uploads of one key.
    for size in (1, 3, 5):
        pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, PaginationConfig={"PageSize": size})
        found = [(entry["Key"], entry["UploadId"]) for page in pages for entry in page.get("Uploads", [])]
        assert found == everything, size
    listed = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [entry["Prefix"] for entry in listed["CommonPrefixes"]] == ["a/", "c/"]
    assert [entry["Key"] for entry in listed["Uploads"]] == ["b", "b", "d", "d"]
    listed = s3.list_multipart_uploads(Bucket=bucket, Prefix="c/", Delimiter="/")
    assert [entry["Prefix"] for entry in listed["CommonPrefixes"]] == ["c/x/"]
    listed = s3.list_multipart_uploads(Bucket=bucket, KeyMarker="b")
    assert [entry["Key"] for entry in listed["Uploads"]] == ["c/x/1"] * 2 + ["c/x/2"] * 2 + ["d"] * 2
    listed = s3.list_multipart_uploads(Bucket=bucket, KeyMarker="b", UploadIdMarker=begun["b"][0])
    assert listed["Uploads"][0]["UploadId"] == begun["b"][1]
    seen, marker = [], {}
    while True:
        page = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/", MaxUploads=1, **marker)
        seen += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
        seen += [entry["Key"] for entry in page.get("Uploads", [])]
        if not page["IsTruncated"]:
            break
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}
    assert seen == ["a/", "b", "b", "c/", "d", "d"]
    (entry,) = s3.list_multipart_uploads(Bucket=bucket, Prefix="d", MaxUploads=1)["Uploads"]
    assert entry["StorageClass"] == "STANDARD" and entry["Owner"]["ID"] == entry["Initiator"]["ID"]


@pytest.mark.parametrize("name, value", [("max-parts", "-1"), ("max-parts", "x"), ("part-number-marker", "-1"), ("part-number-marker", "x")])  # fmt: skip
def test_pages_of_parts_that_cannot_be(server, s3, bucket, name, value):
    upload = uploads.begin(s3, bucket)
    answer = raw.request(server, "GET", f"/{bucket}/k", query=[("uploadId", upload), (name, value)])
    assert tuple(answer) == (400, "InvalidArgument")


@pytest.mark.parametrize("name, value", [("max-uploads", "-1"), ("max-uploads", "x"), ("encoding-type", "base64")])
def test_pages_of_uploads_that_cannot_be(server, bucket, name, value):
    answer = raw.request(server, "GET", f"/{bucket}", query=[("uploads", ""), (name, value)])
    assert tuple(answer) == (400, "InvalidArgument")


# What is not there ---------------------------------------------------------------------

IDS = [UNKNOWN, "x", "../../etc", "0" * 3000, "ü", "0000000000000000", "FFFFFFFFFFFFFFFF"]


@pytest.mark.parametrize("upload", IDS, ids=lambda text: text[:20])
def test_uploads_that_are_not_there(s3, bucket, upload):
    s3.put_object(Bucket=bucket, Key="source", Body=b"x")
    call = {"Bucket": bucket, "Key": "k", "UploadId": upload}
    missing = (404, "NoSuchUpload")
    assert refused(s3.upload_part, **call, PartNumber=1, Body=b"x") == missing
    assert refused(s3.upload_part_copy, **call, PartNumber=1, CopySource=f"{bucket}/source") == missing
    assert refused(s3.list_parts, **call) == missing
    assert refused(s3.abort_multipart_upload, **call) == missing
    parts = {"Parts": [{"PartNumber": 1, "ETag": OTHER_ETAG}]}
    assert refused(s3.complete_multipart_upload, **call, MultipartUpload=parts) == missing
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_an_empty_upload_id(server, bucket):
    for method, more in (("PUT", [("partNumber", "1")]), ("DELETE", []), ("GET", [])):
        answer = raw.request(server, method, f"/{bucket}/k", query=[("uploadId", ""), *more], body=b"x" * (method == "PUT"))
        assert answer.status in (400, 404) and answer.code in ("NoSuchUpload", "InvalidArgument"), method


def test_an_upload_is_of_one_key_and_bucket(s3, bucket):
    upload = uploads.begin(s3, bucket)
    uploads.part(s3, bucket, upload, 1, b"x")
    s3.create_bucket(Bucket=f"{bucket}-other")
    for other, key in ((bucket, "k2"), (f"{bucket}-other", "k")):
        call = {"Bucket": other, "Key": key, "UploadId": upload}
        assert refused(s3.upload_part, **call, PartNumber=1, Body=b"x") == (404, "NoSuchUpload")
        assert refused(s3.abort_multipart_upload, **call) == (404, "NoSuchUpload")
        parts = {"Parts": [{"PartNumber": 1, "ETag": OTHER_ETAG}]}
        assert refused(s3.complete_multipart_upload, **call, MultipartUpload=parts) == (404, "NoSuchUpload")
    assert uploads.numbers(s3, bucket, upload) == [1]


def test_in_a_bucket_that_is_not_there(s3):
    call = {"Bucket": "never-was", "Key": "k"}
    missing = (404, "NoSuchBucket")
    assert refused(s3.create_multipart_upload, **call) == missing
    assert refused(s3.upload_part, **call, UploadId=UNKNOWN, PartNumber=1, Body=b"x") == missing
    assert refused(s3.list_parts, **call, UploadId=UNKNOWN) == missing
    assert refused(s3.abort_multipart_upload, **call, UploadId=UNKNOWN) == missing
    assert refused(s3.list_multipart_uploads, Bucket="never-was") == missing


def test_what_was_aborted_is_gone(s3, bucket):
    upload = uploads.begin(s3, bucket)
    parts = [uploads.part(s3, bucket, upload, 1, b"x")]
    answer = s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert uploads.pending(s3, bucket) == []
    call = {"Bucket": bucket, "Key": "k", "UploadId": upload}
    assert refused(s3.abort_multipart_upload, **call) == (404, "NoSuchUpload")
    assert refused(s3.upload_part, **call, PartNumber=1, Body=b"x") == (404, "NoSuchUpload")
    assert refused(s3.complete_multipart_upload, **call, MultipartUpload={"Parts": parts}) == (404, "NoSuchUpload")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("number", [0, -1, 10_001, 70_000])
def test_part_numbers_past_their_limits(s3, bucket, number):
    upload = uploads.begin(s3, bucket)
    call = {"Bucket": bucket, "Key": "k", "UploadId": upload, "PartNumber": number}
    s3.put_object(Bucket=bucket, Key="source", Body=b"x")
    assert refused(s3.upload_part, **call, Body=b"x") == (400, "InvalidArgument")
    assert refused(s3.upload_part_copy, **call, CopySource=f"{bucket}/source") == (400, "InvalidArgument")
    assert uploads.numbers(s3, bucket, upload) == []


@pytest.mark.parametrize("more, expected", [
    ({"Metadata": {"k": "v" * 2048}}, (400, "MetadataTooLarge")),
    ({"StorageClass": "GLACIER"}, (400, "InvalidStorageClass")),
    ({"ServerSideEncryption": "AES256"}, (501, "NotImplemented")),
    ({"Tagging": "a=b"}, (501, "NotImplemented")),
    ({"ACL": "public-read"}, (501, "NotImplemented")),
    ({"WebsiteRedirectLocation": "/x"}, (501, "NotImplemented")),
    ({"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": "2031-01-01T00:00:00Z"}, (501, "NotImplemented")),
])  # fmt: skip
def test_uploads_that_are_not_begun(s3, bucket, more, expected):
    assert refused(s3.create_multipart_upload, Bucket=bucket, Key="k", **more) == expected
    assert uploads.pending(s3, bucket) == []


def test_a_key_that_is_too_long(s3, bucket):
    assert refused(s3.create_multipart_upload, Bucket=bucket, Key="a" * 1025) == (400, "KeyTooLongError")


def test_a_part_past_its_limit(server, s3, bucket):
    upload = uploads.begin(s3, bucket)
    query = [("partNumber", "1"), ("uploadId", upload)]
    signed = raw.Signer(server).headers("PUT", f"/{bucket}/k", query)
    signed["content-length"] = str((5 << 30) + 1)
    target = f"/{bucket}/k?partNumber=1&uploadId={upload}"
    head = f"PUT {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in signed.items()) + "\r\n"
    connection = socket.create_connection((server.host, server.port), timeout=10)
    connection.sendall(head.encode())
    answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"EntityTooLarge" in answer
    connection.close()


# Bodies of parts -----------------------------------------------------------------------


@pytest.fixture
def place(server, s3, bucket):
    """(path, query, check) of a part; `check` says that nothing came of it."""
    upload = uploads.begin(s3, bucket)
    kept = uploads.part(s3, bucket, upload, 1, b"kept")

    def check():
        (entry,) = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)["Parts"]
        assert (entry["PartNumber"], entry["ETag"], entry["Size"]) == (1, kept["ETag"], 4)

    return f"/{bucket}/k", [("partNumber", "1"), ("uploadId", upload)], check


def test_a_part_with_a_wrong_digest(server, place):
    path, query, check = place
    data = body(300_000)
    other = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    for headers, payload, expected in [
        ({"content-md5": other}, None, "BadDigest"),
        ({"content-md5": "x"}, None, "InvalidDigest"),
        ({}, hashlib.sha256(b"other").hexdigest(), "XAmzContentSHA256Mismatch"),
        ({"x-amz-checksum-crc32": sums.checksum("CRC32", b"other")}, None, "BadDigest"),
        ({"x-amz-checksum-sha256": "short"}, None, "InvalidRequest"),
        ({"x-amz-checksum-crc31": "AAAAAA=="}, None, "InvalidRequest"),
        ({"x-amz-sdk-checksum-algorithm": "CRC32"}, None, "InvalidRequest"),
    ]:
        answer = raw.request(server, "PUT", path, query=query, headers=headers, body=data, payload=payload)
        assert tuple(answer) == (400, expected), headers
    check()


@pytest.mark.parametrize("sent", [0, 1, 70_000, MIB + 5, 4 * MIB - 1])
def test_half_a_part_leaves_nothing(server, place, sent):
    path, query, check = place
    for closing in (True, False):
        signed = raw.Signer(server).headers("PUT", path, query)
        signed["content-length"] = str(4 * MIB)
        target = path + "?" + "&".join(f"{name}={value}" for name, value in query)
        head = f"PUT {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in signed.items()) + "\r\n"
        connection = socket.create_connection((server.host, server.port), timeout=10)
        connection.sendall(head.encode() + body(4 * MIB)[:sent])
        if not closing:
            connection.shutdown(socket.SHUT_WR)
            assert raw.read_status(connection) in (None, 400)
        connection.close()
    time.sleep(0.1)
    check()


def chunked(server, place, wire, length, trailer=None, payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER"):
    path, query, _ = place
    headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(length)}
    if trailer:
        headers["x-amz-trailer"] = trailer
    return raw.request(server, "PUT", path, query=query, headers=headers, body=wire, payload=payload)


CRC = "x-amz-checksum-crc32"


def framed(data, end=None):
    end = f"{CRC}:{sums.checksum('CRC32', data)}".encode() if end is None else end
    return b"%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(data), data, end)


def test_a_part_in_chunks(server, s3, bucket, place):
    data = body(200_000)
    answer = chunked(server, place, framed(data), len(data), CRC)
    assert answer.status == 200
    assert answer.headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"'


@pytest.mark.parametrize(
    "wire, expected",
    [
        (framed(b"abc", b"x-amz-checksum-crc32:AAAAAA=="), "BadDigest"),
        (framed(b"abc", b"x-amz-checksum-crc32:!"), "InvalidRequest"),
        (framed(b"abc", b"x-amz-checksum-sha1:AAAA"), "MalformedTrailerError"),
        (b"3\r\nabc\r\n0\r\n\r\n", "MalformedTrailerError"),
        (b"3\r\nabc", None),
        (b"3\r\nabc\r\n", None),
        (b"3\r\nab", None),
        (b"", None),
        (b"zz\r\nabc\r\n0\r\n\r\n", None),
        (b"-3\r\nabc\r\n0\r\n\r\n", None),
        (b"3;\xff\xfe\r\nabc\r\n0\r\n\r\n", None),
        (b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n", None),
        (b"3\nabc\n0\n\n", None),
        (b"4\r\nabcd\r\n0\r\n" + CRC.encode() + b":7YLNEQ==\r\n\r\n", None),
        (b"2\r\nab\r\n0\r\n" + CRC.encode() + b":nlHKRw==\r\n\r\n", None),
        (b"abc", None),
        (b"3\r\nabc\r\n0\r\n" + b"x-amz-meta-a: b\r\n" * 5000 + b"\r\n", None),
    ],
)
def test_chunks_of_a_part_that_are_none(server, place, wire, expected):
    status, code = chunked(server, place, wire, 3, CRC)
    assert status == 400
    assert code == expected if expected else code in ("IncompleteBody", "MalformedTrailerError", "InvalidRequest")
    place[2]()


def test_signed_chunks_of_a_part(server, s3, bucket, place):
    path, query, check = place
    data = body(70_000)
    for spoil, status in (("wrong", 403), ("none", 400), (None, 200)):
        signer = raw.Signer(server)
        headers = signer.headers(
            "PUT",
            path,
            query,
            headers={"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(data))},
            payload="STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        )
        wire, previous = b"", signer.last
        for piece in (data[:65536], data[65536:], b""):
            digest = hashlib.sha256(piece).hexdigest()
            previous = signer.sign_string(
                f"AWS4-HMAC-SHA256-PAYLOAD\n{signer.amz_date}\n{signer.scope}\n{previous}\n{raw.EMPTY_SHA256}\n{digest}"
            )
            shown = previous[::-1] if spoil == "wrong" else previous
            mark = b"" if spoil == "none" else f";chunk-signature={shown}".encode()
            wire += b"%x" % len(piece) + mark + b"\r\n" + piece + b"\r\n"
        headers["content-length"] = str(len(wire))
        target = path + "?" + "&".join(f"{name}={value}" for name, value in query)
        answer = raw.send(server, "PUT", target, headers, wire)
        if status == 200:
            assert answer.headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"'
        elif status == 403:
            assert tuple(answer) == (403, "SignatureDoesNotMatch")
            check()
        else:
            assert answer.status in (400, 403) and answer.code
            check()


# Who may -------------------------------------------------------------------------------

REQUESTS = {
    "CreateMultipartUpload": ("POST", [("uploads", "")]),
    "UploadPart": ("PUT", [("partNumber", "1"), ("uploadId", "ID")]),
    "CompleteMultipartUpload": ("POST", [("uploadId", "ID")]),
    "AbortMultipartUpload": ("DELETE", [("uploadId", "ID")]),
    "ListParts": ("GET", [("uploadId", "ID")]),
    "GetObjectAttributes": ("GET", [("attributes", "")]),
    "part of an object": ("GET", [("partNumber", "1")]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_without_a_right_signature(server, s3, bucket, name):
    upload = uploads.begin(s3, bucket)
    kept = uploads.part(s3, bucket, upload, 1, b"kept")
    s3.put_object(Bucket=bucket, Key="k", Body=b"object")
    method, query = REQUESTS[name]
    query = [(field, upload if value == "ID" else value) for field, value in query]
    body = uploads.document((1, kept["ETag"])) if name.startswith("Complete") else b"x" * (method == "PUT")
    target = f"/{bucket}/k?" + "&".join(f"{field}={value}" for field, value in query)

    def ask(**signer):
        return tuple(
            raw.request(server, method, f"/{bucket}/k", query=query, body=body, signer=raw.Signer(server, **signer))
        )

    assert ask(secret_key="wrong") == (403, "SignatureDoesNotMatch")
    assert ask(access_key="UNKNOWN") == (403, "InvalidAccessKeyId")
    assert ask(time=raw.now(-3600)) == (403, "RequestTimeTooSkewed")
    assert ask(time=raw.now(+3600)) == (403, "RequestTimeTooSkewed")
    assert tuple(raw.send(server, method, target, body=body)) == (403, "AccessDenied")
    # A signature that was right for something else.
    signed = raw.Signer(server).headers(method, f"/{bucket}/other", query)
    assert tuple(raw.send(server, method, target, signed, body)) == (403, "SignatureDoesNotMatch")
    expired = raw.Signer(server, time=raw.now(-100)).presigned(method, f"/{bucket}/k", 10, query)
    assert tuple(raw.send(server, method, f"/{bucket}/k?{expired}", body=body)) == (403, "AccessDenied")
    assert uploads.pending(s3, bucket) == [("k", upload)]
    (entry,) = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)["Parts"]
    assert entry["ETag"] == kept["ETag"]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"object"


def test_a_replayed_signature_is_for_one_part_and_body(server, s3, bucket):
    upload = uploads.begin(s3, bucket)
    query = [("partNumber", "1"), ("uploadId", upload)]
    payload = hashlib.sha256(b"mine").hexdigest()
    signed = raw.Signer(server).headers("PUT", f"/{bucket}/k", query, payload=payload)
    target = f"/{bucket}/k?partNumber=%d&uploadId={upload}"
    assert raw.send(server, "PUT", target % 1, signed, b"mine").status == 200
    assert tuple(raw.send(server, "PUT", target % 1, signed, b"evil")) == (400, "XAmzContentSHA256Mismatch")
    assert tuple(raw.send(server, "PUT", target % 2, signed, b"mine")) == (403, "SignatureDoesNotMatch")
    # Without the query it would be a put of the whole object.
    assert tuple(raw.send(server, "PUT", f"/{bucket}/k", signed, b"mine")) == (403, "SignatureDoesNotMatch")
    assert uploads.numbers(s3, bucket, upload) == [1]
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_presigned_parts(server, s3, bucket):
    """As browsers upload: each URL is good for one part."""
    upload = uploads.begin(s3, bucket)
    parts = []
    for number, data in ((1, body(PART)), (2, b"end")):
        call = {"Bucket": bucket, "Key": "k", "UploadId": upload, "PartNumber": number}
        url = s3.generate_presigned_url("upload_part", call)
        answer = raw.send(server, "PUT", url.removeprefix(server.url), body=data)
        assert answer.status == 200, answer
        parts.append({"PartNumber": number, "ETag": answer.headers["etag"]})
    uploads.complete(s3, bucket, upload, parts)
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == PART + 3


@pytest.mark.parametrize(
    "headers, expected",
    [
        ({"x-amz-meta-a": "v" * 2048}, {(400, "MetadataTooLarge")}),
        ({"x-amz-meta-a": "v" * 6_000}, {(400, "MetadataTooLarge")}),
        ({"content-disposition": "v" * 9_000}, {(400, "MetadataTooLarge")}),
        # HTTP's own answer, before there is anything of S3.
        ({f"x-amz-meta-{number}": "v" for number in range(600)}, {(431, "RequestHeaderSectionTooLarge")}),
        ({"x-amz-meta-a": "v" * 1_000_000}, {(431, "RequestHeaderSectionTooLarge")}),
    ],
    ids=["one too many", "long", "system", "many", "a megabyte"],
)
def test_headers_past_their_limits(server, s3, bucket, headers, expected):
    try:
        answer = tuple(raw.request(server, "POST", f"/{bucket}/k", query=[("uploads", "")], headers=headers))
    except (BrokenPipeError, ConnectionResetError):
        answer = (431, "RequestHeaderSectionTooLarge")  # Closed on us while we were still sending.
    assert answer in expected
    assert uploads.pending(s3, bucket) == []


# Crashes, and what is left -------------------------------------------------------------


def test_a_crash_loses_no_acknowledged_part(own_server):
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="crash")
    bodies = [body(PART, seed=number) for number in range(3)]
    upload = uploads.begin(s3, "crash", ContentType="text/plain", Metadata={"a": "b"})
    parts = []
    for number, data in enumerate(bodies, 1):
        parts.append(uploads.part(s3, "crash", upload, number, data))
        if number < 3:
            server.kill()
            s3 = server.restart().client()
            assert uploads.pending(s3, "crash") == [("k", upload)]
            assert uploads.numbers(s3, "crash", upload) == list(range(1, number + 1))
    first = uploads.complete(s3, "crash", upload, parts)
    server.kill()
    s3 = server.restart().client()
    assert uploads.pending(s3, "crash") == []
    got = s3.get_object(Bucket="crash", Key="k")
    assert got["Body"].read() == b"".join(bodies)
    assert (got["ContentType"], got["Metadata"]) == ("text/plain", {"a": "b"})
    # Whoever did not hear the answer asks again.
    assert uploads.complete(s3, "crash", upload, parts)["ETag"] == first["ETag"]


def test_nothing_is_left_of_what_ended(own_server):
    """Replaced, unnamed, aborted, overwritten and deleted parts, and what a crash left of each."""
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="left")
    data = body(300_000)
    upload = uploads.begin(s3, "left", "unnamed")
    parts = [uploads.part(s3, "left", upload, number, data, "unnamed") for number in (1, 2, 2, 3)]
    uploads.complete(s3, "left", upload, parts[-1:], "unnamed")
    aborted = uploads.begin(s3, "left", "aborted")
    for number in range(1, 20):
        uploads.part(s3, "left", aborted, number, data, "aborted")
    s3.abort_multipart_upload(Bucket="left", Key="aborted", UploadId=aborted)
    s3 = uploads.settle(server, expected=1)
    assert s3.get_object(Bucket="left", Key="unnamed")["Body"].read() == data
    going_on = uploads.begin(s3, "left", "going on")
    uploads.part(s3, "left", going_on, 1, data, "going on")
    uploads.whole(s3, "left", [data], "unnamed")
    server.kill()
    server.restart()
    s3 = uploads.settle(server, expected=2)
    s3.delete_object(Bucket="left", Key="unnamed")
    s3.abort_multipart_upload(Bucket="left", Key="going on", UploadId=going_on)
    server.kill()
    server.restart()
    s3 = uploads.settle(server, expected=0)
    assert uploads.pending(s3, "left") == []
    assert s3.list_objects_v2(Bucket="left")["KeyCount"] == 0


def test_broken_parts_leave_nothing(own_server):
    """Wrong digests, and connections that break off: of none is anything left on the disk."""
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="left")
    upload = uploads.begin(s3, "left")
    query = [("partNumber", "1"), ("uploadId", upload)]
    data = body(3 * MIB)
    for _ in range(3):
        headers = {"x-amz-checksum-crc32": sums.checksum("CRC32", b"other")}
        answer = raw.request(server, "PUT", "/left/k", query=query, headers=headers, body=data)
        assert tuple(answer) == (400, "BadDigest")
        signed = raw.Signer(server).headers("PUT", "/left/k", query)
        signed["content-length"] = str(len(data))
        head = f"PUT /left/k?partNumber=1&uploadId={upload} HTTP/1.1\r\n"
        head += "".join(f"{n}: {v}\r\n" for n, v in signed.items()) + "\r\n"
        connection = socket.create_connection((server.host, server.port), timeout=10)
        connection.sendall(head.encode() + data[: 2 * MIB])
        connection.close()
    # One that is being written when the power goes.
    connection = socket.create_connection((server.host, server.port), timeout=10)
    connection.sendall(head.encode() + data[: 2 * MIB])
    time.sleep(0.2)
    server.kill()
    connection.close()
    server.restart()
    s3 = uploads.settle(server, expected=0)
    assert uploads.numbers(s3, "left", upload) == []


def test_parts_race_the_end_of_their_upload(own_server):
    """Whoever comes too late is told so, an object is whole, and nothing is left."""
    server = own_server()
    s3 = server.client(max_pool_connections=40)
    s3.create_bucket(Bucket="race")
    old, new = body(200_000, seed=1), body(200_000, seed=2)

    def attempt(operation, *words, **more):
        try:
            operation(*words, **more)
            return True
        except ClientError as error:
            assert code_of(error) in ((404, "NoSuchUpload"), (400, "InvalidPart")), error
            return False

    def race(number):
        key = f"k{number:02}"
        upload = uploads.begin(s3, "race", key)
        parts = [uploads.part(s3, "race", upload, 1, old, key)]
        call = {"Bucket": "race", "Key": key, "UploadId": upload}
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            completed = pool.submit(attempt, uploads.complete, s3, "race", upload, parts, key)
            others = [pool.submit(attempt, s3.upload_part, **call, PartNumber=at, Body=new) for at in (1, 2)]
            aborted = pool.submit(attempt, s3.abort_multipart_upload, **call)
            for other in others:
                other.result()
        # Of part 1 there may have been another by then, so that neither ended it.
        if not completed.result() and not aborted.result():
            assert attempt(s3.abort_multipart_upload, **call)
        return key if completed.result() else None

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        keys = sorted(key for key in pool.map(race, range(30)) if key)
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket="race").get("Contents", [])] == keys
    for key in keys:
        assert s3.get_object(Bucket="race", Key=key)["Body"].read() == old
    assert uploads.pending(s3, "race") == []
    uploads.settle(server, expected=len(keys))


def test_deleting_a_bucket_ends_its_uploads(own_server):
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="left")
    for number in range(5):
        upload = uploads.begin(s3, "left", f"k{number}")
        uploads.part(s3, "left", upload, 1, body(100_000), f"k{number}")
    s3.delete_bucket(Bucket="left")
    s3.create_bucket(Bucket="left")
    assert uploads.pending(s3, "left") == []
    call = {"Bucket": "left", "Key": "k4", "UploadId": upload}
    assert refused(s3.upload_part, **call, PartNumber=1, Body=b"x") == (404, "NoSuchUpload")
    server.kill()
    server.restart()
    uploads.settle(server, expected=0)


def test_ten_thousand_parts(own_server):
    """As many as there can be: of every part but the last S3 wants 5 MiB, which would be 49 GiB, so
    that here they are uploaded small, listed, refused, given up, and nothing is left of them."""
    server = own_server()
    s3 = server.client(max_pool_connections=16)
    s3.create_bucket(Bucket="many")
    upload = uploads.begin(s3, "many")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        send = lambda number: uploads.part(s3, "many", upload, number, b"%d" % number)  # noqa: E731
        parts = list(pool.map(send, range(1, 10_001)))
    before = server.memory_bytes()
    pages = s3.get_paginator("list_parts").paginate(Bucket="many", Key="k", UploadId=upload)
    assert [entry["PartNumber"] for page in pages for entry in page["Parts"]] == list(range(1, 10_001))
    started = time.monotonic()
    with pytest.raises(ClientError) as error:
        uploads.complete(s3, "many", upload, parts)
    assert code_of(error) == (400, "EntityTooSmall")
    assert time.monotonic() - started < 10
    assert server.memory_bytes() - before < 64 * MIB
    # The last one alone is an object; the others are swept away.
    uploads.complete(s3, "many", upload, parts[-1:])
    s3 = uploads.settle(server, expected=1)
    assert s3.get_object(Bucket="many", Key="k")["Body"].read() == b"10000"


def test_a_checksum_named_at_the_end_is_the_one_that_came(server, bucket):
    """Also if the upload was begun without an algorithm, so that another one is kept."""
    s3 = server.client(request_checksum_calculation="when_required")
    upload = uploads.begin(s3, bucket)
    data = b"one part, and its checksum"
    crc = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    sent = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=data, ChecksumCRC32=crc)
    assert sent["ChecksumCRC32"] == crc

    def complete(named):
        part = {"PartNumber": 1, "ETag": sent["ETag"], "ChecksumCRC32": named}
        return s3.complete_multipart_upload(
            Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": [part]}
        )

    assert refused(complete, named="AAAAAA==") == (400, "InvalidPart")
    complete(crc)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
