import base64
import concurrent.futures
import datetime
import hashlib
import random
import re

import pytest
from botocore.exceptions import ClientError

import raw
from harness import KIB, MIB, body, code_of

SIZES = [
    0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 65535, 65536, 65537,
    MIB - 1, MIB, MIB + 1, 3 * MIB + 7,
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_round_trip(s3, bucket, size):
    data = body(size)
    put = s3.put_object(Bucket=bucket, Key="k", Body=data)
    assert put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == data
    assert got["ContentLength"] == size
    assert got["ETag"] == put["ETag"]
    assert got["AcceptRanges"] == "bytes"
    assert got["ContentType"] == "binary/octet-stream"
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["ContentLength"], head["ETag"]) == (size, put["ETag"])
    assert head["LastModified"] == got["LastModified"]
    age = datetime.datetime.now(datetime.timezone.utc) - got["LastModified"]
    assert abs(age.total_seconds()) < 60


def test_an_overwrite_replaces_everything(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=body(2 * MIB), ContentType="text/plain", Metadata={"a": "1"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"short")
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"short"
    assert got["Metadata"] == {}
    assert got["ContentType"] == "binary/octet-stream"
    assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["Size"] == 5


def test_a_reader_keeps_the_object_it_opened(s3, bucket):
    old = body(8 * MIB, seed=1)
    s3.put_object(Bucket=bucket, Key="k", Body=old)
    stream = s3.get_object(Bucket=bucket, Key="k")["Body"]
    first = stream.read(64 * KIB)
    s3.put_object(Bucket=bucket, Key="k", Body=body(8 * MIB, seed=2))
    s3.delete_object(Bucket=bucket, Key="k")
    assert first + stream.read() == old


def test_deleting(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    answer = s3.delete_object(Bucket=bucket, Key="k")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="k")
    assert code_of(error) == (404, "NoSuchKey")
    with pytest.raises(ClientError) as error:
        s3.head_object(Bucket=bucket, Key="k")
    assert code_of(error)[0] == 404
    again = s3.delete_object(Bucket=bucket, Key="k")
    assert again["ResponseMetadata"]["HTTPStatusCode"] == 204


# Keys ----------------------------------------------------------------------------------

KEYS = [
    "plain", "with space", " leading and trailing ", "plus+sign", "percent%41", "percent%25%", "new\nline",
    "carriage\rreturn", "tab\there", "quote\"'", "<angle>&amp;", "back\\slash", "question?mark=1", "hash#tag",
    "star*", "colon:semi;comma,", "a=b&c=d", "@!$()[]{}|^`~", "\x01\x1f control", "\x7f delete", "ünïcødé",
    "日本語/キー", "🦀", "\u202eright-to-left", "e\u0301 not composed", "é composed", "\ufffe odd", "/leading", "//",
    "//two//slashes//", "trailing/", "a/b/c", "a//b", "...", "a" * 1024, "é" * 512, "🦀" * 256,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=lambda key: repr(key)[:24])
def test_any_key(s3, bucket, key):
    data = key.encode()
    s3.put_object(Bucket=bucket, Key=key, Body=data)
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == data
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert [entry["Key"] for entry in s3.list_objects(Bucket=bucket)["Contents"]] == [key]
    s3.delete_object(Bucket=bucket, Key=key)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_similar_keys_are_different(s3, bucket):
    keys = ["a", "a/", "a//", "/a", "//a", "A", "a%2F", "a+", "a ", "a%20", "é", "e\u0301"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    for key in keys:
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    listed = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert listed == sorted(keys, key=str.encode)


@pytest.mark.parametrize("path", ["/../escape", "/a/./b", "/a/../../b", "/.", "/.."])
def test_dots_mean_nothing(server, s3, bucket, path):
    key = path[1:]
    target = f"/{bucket}{path}"
    assert raw.request(server, "PUT", target, body=b"dots").status == 200
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert raw.request(server, "GET", target).body == b"dots"


@pytest.mark.parametrize("key", ["a" * 1025, "é" * 513])
def test_too_long_a_key(s3, bucket, key):
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert code_of(error) == (400, "KeyTooLongError")


def test_a_key_that_is_not_utf8(server, bucket):
    answer = raw.request(server, "PUT", f"/{bucket}/%ff%fe", body=b"x")
    assert answer.status == 400
    assert answer.code


# Metadata ------------------------------------------------------------------------------


def test_metadata(s3, bucket):
    expires = datetime.datetime(2031, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    given = {
        "CacheControl": "max-age=60",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentEncoding": "gzip",
        "ContentLanguage": "de, en",
        "ContentType": "text/plain; charset=utf-8",
        "Metadata": {"colour": "blue", "with-dash": "a  b", "empty": ""},
    }
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Expires=expires, **given)
    for answer in (s3.get_object(Bucket=bucket, Key="k"), s3.head_object(Bucket=bucket, Key="k")):
        assert {name: answer[name] for name in given} == given
        assert answer["ResponseMetadata"]["HTTPHeaders"]["expires"] == "Thu, 02 Jan 2031 03:04:05 GMT"


def test_metadata_limit(s3, bucket):
    s3.put_object(Bucket=bucket, Key="fits", Body=b"x", Metadata={"k": "v" * 2047})
    assert len(s3.head_object(Bucket=bucket, Key="fits")["Metadata"]["k"]) == 2047
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="too-much", Body=b"x", Metadata={"k": "v" * 2048})
    assert code_of(error) == (400, "MetadataTooLarge")


def test_aws_chunked_is_not_a_content_encoding_of_the_object(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x" * 100, ChecksumAlgorithm="CRC32")
    headers = s3.head_object(Bucket=bucket, Key="k")["ResponseMetadata"]["HTTPHeaders"]
    assert "aws-chunked" not in headers.get("content-encoding", "")


def test_the_reader_chooses_headers(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain")
    got = s3.get_object(
        Bucket=bucket,
        Key="k",
        ResponseContentType="application/json",
        ResponseContentDisposition="attachment",
        ResponseCacheControl="no-store",
        ResponseContentLanguage="fr",
        ResponseContentEncoding="identity",
    )
    assert got["ContentType"] == "application/json"
    assert got["ContentDisposition"] == "attachment"
    assert got["CacheControl"] == "no-store"
    assert got["ContentLanguage"] == "fr"


# Ranges --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header, expected",
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-100", slice(-100, None)),
        ("bytes=990-5000", slice(990, None)),
        ("bytes=999-999", slice(999, None)),
        ("bytes=-5000", slice(0, None)),
    ],
)
def test_ranges(s3, bucket, header, expected):
    data = body(1000)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    got = s3.get_object(Bucket=bucket, Key="k", Range=header)
    assert got["Body"].read() == data[expected]
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    start, stop, _ = expected.indices(1000)
    assert got["ContentRange"] == f"bytes {start}-{stop - 1}/1000"
    assert got["ContentLength"] == stop - start


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=5000-6000", "bytes=-0"])
def test_ranges_that_select_nothing(s3, bucket, header):
    s3.put_object(Bucket=bucket, Key="k", Body=body(1000))
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="k", Range=header)
    assert code_of(error) == (416, "InvalidRange")


def test_a_range_of_nothing(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="k", Range="bytes=0-10")
    assert code_of(error) == (416, "InvalidRange")


def test_ranges_across_every_boundary(s3, bucket):
    data = body(3 * MIB + 12345)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    edges = [0, 1, 64 * KIB, 128 * KIB, MIB, 2 * MIB, 3 * MIB, len(data) - 1]
    choose = random.Random(4)
    for _ in range(60):
        first = max(0, min(len(data) - 1, choose.choice(edges) + choose.randint(-3, 3)))
        last = min(len(data) - 1, first + choose.choice([0, 1, 4095, 64 * KIB, MIB, 2 * MIB]))
        got = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={first}-{last}")
        assert got["Body"].read() == data[first : last + 1], (first, last)


@pytest.mark.parametrize("header", ["lines=1-2", "bytes=0-1,3-4", "bytes=", "bytes=5-2"])
def test_other_ranges_are_refused(server, s3, bucket, header):
    """Amazon answers these with the whole object; refusing says more clearly what was wrong."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"whole")
    answer = raw.request(server, "GET", f"/{bucket}/k", headers={"range": header})
    if "," in header:
        assert tuple(answer) == (501, "NotImplemented")
        assert b"Several ranges" in answer.body
    else:
        assert tuple(answer) == (400, "InvalidArgument")
        assert b"bytes=0-499" in answer.body
    assert raw.request(server, "HEAD", f"/{bucket}/k", headers={"range": header}).status == answer.status


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=9-"}, {"if-match": '"x"'}, {"range": "bytes=5-2"}])
def test_errors_say_that_they_are_xml(server, s3, bucket, headers):
    """Those with headers of their own, such as Content-Range, once came without a type."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"whole")
    path = f"/{bucket}/k" if headers else f"/{bucket}/none"
    answer = raw.request(server, "GET", path, headers=headers)
    assert answer.status >= 400 and answer.headers["content-type"] == "application/xml"


# DeleteObjects -------------------------------------------------------------------------


def test_delete_objects(s3, bucket):
    keys = ["a", "b & <c>", "new\nline", "é"]
    for key in [*keys, "stays"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    wanted = [{"Key": key} for key in [*keys, "never-was"]]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": wanted})
    assert {entry["Key"] for entry in answer["Deleted"]} == {*keys, "never-was"}
    assert "Errors" not in answer
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["stays"]


def test_delete_objects_quietly(s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}], "Quiet": True})
    assert "Deleted" not in answer
    assert "Errors" not in answer
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_delete_a_thousand_objects(s3, bucket):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        keys = [f"k{number:04}" for number in range(1000)]
        list(pool.map(lambda key: s3.put_object(Bucket=bucket, Key=key, Body=b"x"), keys))
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert len(answer["Deleted"]) == 1000
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def delete_request(server, bucket, document):
    md5 = base64.b64encode(hashlib.md5(document).digest()).decode()
    headers = {"content-md5": md5, "content-type": "application/xml"}
    return raw.request(server, "POST", f"/{bucket}", query=[("delete", "")], headers=headers, body=document)


def test_delete_objects_refuses_what_it_cannot_read(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k0", Body=b"x")
    too_many = b"<Delete>" + b"".join(b"<Object><Key>k%d</Key></Object>" % n for n in range(1001)) + b"</Delete>"
    # An empty body has a code of its own.
    assert tuple(delete_request(server, bucket, b"")) == (400, "MissingRequestBodyError")
    for document in (b"<Delete>", b"not xml", b"<Delete></Delete>", b"<Other/>", too_many):
        assert tuple(delete_request(server, bucket, document)) == (400, "MalformedXML"), document[:40]
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


# Digests -------------------------------------------------------------------------------


def test_content_md5(s3, bucket):
    data = body(100_000)
    good = base64.b64encode(hashlib.md5(data).digest()).decode()
    bad = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    s3.put_object(Bucket=bucket, Key="good", Body=data, ContentMD5=good)
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="bad", Body=data, ContentMD5=bad)
    assert code_of(error) == (400, "BadDigest")
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="bad", Body=data, ContentMD5="not-a-digest")
    assert code_of(error) == (400, "InvalidDigest")
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["good"]


def test_a_wrong_digest_leaves_the_old_object(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    bad = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with pytest.raises(ClientError):
        s3.put_object(Bucket=bucket, Key="k", Body=body(2 * MIB), ContentMD5=bad)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_checksums_are_verified(s3, bucket, algorithm):
    data = body(300_000)
    s3.put_object(Bucket=bucket, Key="good", Body=data, ChecksumAlgorithm=algorithm)
    assert s3.get_object(Bucket=bucket, Key="good")["Body"].read() == data
    length = {"CRC32": 4, "SHA1": 20, "SHA256": 32}[algorithm]
    wrong = base64.b64encode(bytes(length)).decode()
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="bad", Body=data, **{f"Checksum{algorithm}": wrong})
    assert code_of(error) == (400, "BadDigest")
    with pytest.raises(ClientError) as error:
        s3.head_object(Bucket=bucket, Key="bad")
    assert code_of(error)[0] == 404


# Answers -------------------------------------------------------------------------------


def test_every_answer_has_a_request_id(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    answers = [
        raw.request(server, "GET", f"/{bucket}/k"),
        raw.request(server, "HEAD", f"/{bucket}/k"),
        raw.request(server, "GET", f"/{bucket}/missing"),
        raw.request(server, "GET", f"/{bucket}"),
        raw.request(server, "DELETE", f"/{bucket}/k"),
        raw.send(server, "GET", f"/{bucket}/k"),
    ]
    ids = [answer.headers["x-amz-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    error = answers[2]
    assert re.search(rb"<RequestId>([^<]*)</RequestId>", error.body).group(1).decode() == ids[2]


def test_errors_are_proper_xml(server, bucket):
    import xml.etree.ElementTree as tree

    answer = raw.request(server, "GET", f"/{bucket}/there-is-%3Cno%3E-such-key")
    assert answer.status == 404
    assert "xml" in answer.headers["content-type"]
    error = tree.fromstring(answer.body)
    assert error.tag == "Error"
    assert error.findtext("Code") == "NoSuchKey"
    assert error.findtext("Message")
    assert error.findtext("Resource") or error.findtext("Key")
