import base64
import concurrent.futures
import datetime
import hashlib
import threading

import pytest
from botocore.exceptions import ClientError

import raw
from harness import MIB, body, code_of

HOUR = datetime.timedelta(hours=1)
OTHER = '"00000000000000000000000000000000"'


def read(operation, **arguments):
    """The HTTP status that a conditional read came to."""
    try:
        return operation(**arguments)["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as error:
        return code_of(error)[0]


@pytest.mark.parametrize("name", ["get_object", "head_object"])
def test_conditional_reads(s3, bucket, name):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    for condition, status in [
        ({"IfMatch": etag}, 200),
        ({"IfMatch": etag.strip('"')}, 200),
        ({"IfMatch": "*"}, 200),
        ({"IfMatch": OTHER}, 412),
        ({"IfNoneMatch": OTHER}, 200),
        ({"IfNoneMatch": etag}, 304),
        ({"IfNoneMatch": "*"}, 304),
        ({"IfModifiedSince": modified - HOUR}, 200),
        ({"IfModifiedSince": modified}, 304),
        ({"IfUnmodifiedSince": modified}, 200),
        ({"IfUnmodifiedSince": modified - HOUR}, 412),
        # RFC 9110: an entity tag decides before a date does.
        ({"IfMatch": etag, "IfUnmodifiedSince": modified - HOUR}, 200),
        ({"IfNoneMatch": etag, "IfModifiedSince": modified - HOUR}, 304),
        ({"IfNoneMatch": OTHER, "IfModifiedSince": modified}, 200),
    ]:
        got = read(getattr(s3, name), Bucket=bucket, Key="k", **condition)
        assert got == status, condition


def test_a_304_has_the_etag_and_no_body(server, s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    answer = raw.request(server, "GET", f"/{bucket}/k", headers={"if-none-match": etag})
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)


def test_create_only(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="k", Body=b"second", IfNoneMatch="*")
    assert code_of(error) == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"first"
    s3.delete_object(Bucket=bucket, Key="k")
    s3.put_object(Bucket=bucket, Key="k", Body=b"third", IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"third"


def test_replace_only(s3, bucket):
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", IfMatch=OTHER)
    assert code_of(error) == (404, "NoSuchKey")
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"first")["ETag"]
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="k", Body=b"second", IfMatch=OTHER)
    assert code_of(error) == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"first"
    s3.put_object(Bucket=bucket, Key="k", Body=b"third", IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"third"


@pytest.mark.parametrize("size", [10, 2 * MIB])
def test_exactly_one_of_many_creates(s3, bucket, size):
    writers = 12
    for attempt in range(8 if size < MIB else 3):
        key = f"race-{attempt}"
        together = threading.Barrier(writers)

        def create(number, key=key, together=together):
            data = body(size, seed=number)
            together.wait()
            try:
                s3.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                return data
            except ClientError as error:
                assert code_of(error) in ((412, "PreconditionFailed"), (409, "ConditionalRequestConflict"))
                return None

        with concurrent.futures.ThreadPoolExecutor(writers) as pool:
            written = [data for data in pool.map(create, range(writers)) if data is not None]
        assert len(written) == 1
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == written[0]


def test_compare_and_swap_counts_right(s3, bucket):
    s3.put_object(Bucket=bucket, Key="counter", Body=b"0")
    workers, each = 6, 8

    def work(_):
        for _ in range(each):
            while True:
                got = s3.get_object(Bucket=bucket, Key="counter")
                # The ETag is the body's MD5, so equal values would be equal tags: count up only.
                value = int(got["Body"].read()) + 1
                try:
                    s3.put_object(Bucket=bucket, Key="counter", Body=str(value).encode(), IfMatch=got["ETag"])
                    break
                except ClientError as error:
                    assert code_of(error)[0] in (409, 412)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    assert int(s3.get_object(Bucket=bucket, Key="counter")["Body"].read()) == workers * each


def test_a_condition_on_a_delete_is_never_ignored(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with pytest.raises(ClientError) as error:
        s3.delete_object(Bucket=bucket, Key="k", IfMatch=OTHER)
    assert code_of(error) in ((412, "PreconditionFailed"), (501, "NotImplemented"))
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


@pytest.mark.parametrize("tag", [OTHER, "*"])
def test_a_conditional_delete_of_nothing_fails(s3, bucket, tag):
    """Whoever releases a lock by its tag must hear that it was not there any more."""
    with pytest.raises(ClientError) as error:
        s3.delete_object(Bucket=bucket, Key="gone", IfMatch=tag)
    assert code_of(error) == (404, "NoSuchKey")


def test_conditional_deletes_in_bulk(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="same", Body=b"x")["ETag"]
    s3.put_object(Bucket=bucket, Key="other", Body=b"x")
    objects = [{"Key": "same", "ETag": etag}, {"Key": "other", "ETag": OTHER}, {"Key": "gone", "ETag": OTHER}]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    assert [entry["Key"] for entry in answer["Deleted"]] == ["same"]
    errors = {entry["Key"]: entry["Code"] for entry in answer["Errors"]}
    assert errors == {"other": "PreconditionFailed", "gone": "NoSuchKey"}


def test_reads_follow_writes_at_once(s3, bucket):
    for number in range(50):
        data = str(number).encode()
        s3.put_object(Bucket=bucket, Key="k", Body=data)
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
        listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
        assert [entry["Size"] for entry in listed] == [len(data)]


@pytest.mark.parametrize(
    "method, header, value, status",
    [
        ("DELETE", "if-none-match", "*", 501),
        ("DELETE", "if-unmodified-since", "Wed, 21 Oct 2015 07:28:00 GMT", 501),
        ("DELETE", "if-match", "", 400),
        ("PUT", "if-match", "", 400),
        ("PUT", "if-none-match", "", 400),
        ("PUT", "if-match", "W/{etag}", 412),
        ("DELETE", "if-match", "W/{etag}", 412),
    ],
)
def test_no_write_against_its_condition(server, s3, bucket, method, header, value, status):
    """These were once carried out, as if nothing had been asked."""
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"kept")["ETag"]
    headers = {header: value.format(etag=etag)}
    answer = raw.request(server, method, f"/{bucket}/k", headers=headers, body=b"lost" if method == "PUT" else b"")
    assert answer.status == status
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"


def test_no_multi_delete_of_a_weak_tag(server, s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"kept")["ETag"]
    document = f"<Delete><Object><Key>k</Key><ETag>W/{etag}</ETag></Object></Delete>".encode()
    md5 = base64.b64encode(hashlib.md5(document).digest()).decode()
    answer = raw.request(
        server, "POST", f"/{bucket}", query=[("delete", "")], headers={"content-md5": md5}, body=document
    )
    assert (answer.status, answer.code) == (200, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"
