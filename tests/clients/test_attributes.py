"""GetObjectAttributes."""

import pytest
from botocore.exceptions import ClientError

import raw
import sums
import uploads
from harness import body, code_of
from uploads import PART

ALL = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]


@pytest.fixture(scope="module")
def bodies():
    return [body(PART, seed=1), body(PART, seed=2), b"the last"]


@pytest.fixture(scope="module")
def multi(s3, bodies):
    s3.create_bucket(Bucket="attributes")
    uploads.whole(s3, "attributes", bodies, "multi", ChecksumAlgorithm="SHA256")
    uploads.whole(s3, "attributes", bodies, "default")
    return {"Bucket": "attributes", "Key": "multi"}


def names(answer):
    return set(answer) - {"ResponseMetadata", "LastModified"}


def test_of_an_object_in_one_piece(s3, bucket):
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"data", ChecksumAlgorithm="SHA1")
    got = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=ALL)
    # Without quotes, unlike everywhere else: so Amazon has it.
    assert got["ETag"] == put["ETag"].strip('"')
    assert got["Checksum"] == {"ChecksumSHA1": sums.checksum("SHA1", b"data"), "ChecksumType": "FULL_OBJECT"}
    assert (got["ObjectSize"], got["StorageClass"]) == (4, "STANDARD")
    assert "ObjectParts" not in got
    assert got["LastModified"] == s3.head_object(Bucket=bucket, Key="k")["LastModified"]


def test_of_an_object_in_parts(s3, multi, bodies):
    got = s3.get_object_attributes(**multi, ObjectAttributes=ALL)
    assert got["ETag"] == sums.etag(bodies).strip('"')
    # The number of parts is no part of it here.
    whole = sums.composite("SHA256", bodies).removesuffix("-3")
    assert got["Checksum"] == {"ChecksumSHA256": whole, "ChecksumType": "COMPOSITE"}
    assert got["ObjectSize"] == sum(map(len, bodies))
    parts = got["ObjectParts"]
    assert (parts["TotalPartsCount"], parts["IsTruncated"], parts["MaxParts"]) == (3, False, 1000)
    assert parts["Parts"] == [
        {"PartNumber": number, "Size": len(data), "ChecksumSHA256": sums.checksum("SHA256", data)}
        for number, data in enumerate(bodies, 1)
    ]


def test_of_parts_without_checksums(s3, multi, bodies):
    got = s3.get_object_attributes(**{**multi, "Key": "default"}, ObjectAttributes=["Checksum", "ObjectParts"])
    assert got["Checksum"]["ChecksumType"] == "FULL_OBJECT"
    assert got["ObjectParts"]["TotalPartsCount"] == 3


@pytest.mark.parametrize("name", ALL)
def test_nothing_but_what_was_asked_for(s3, multi, name):
    assert names(s3.get_object_attributes(**multi, ObjectAttributes=[name])) == {name}


def test_parts_by_pages(s3, multi, bodies):
    seen, marker = [], 0
    for more in (True, True, False):
        got = s3.get_object_attributes(**multi, ObjectAttributes=["ObjectParts"], MaxParts=1, PartNumberMarker=marker)
        parts = got["ObjectParts"]
        assert (parts["PartNumberMarker"], parts["MaxParts"], parts["IsTruncated"]) == (marker, 1, more)
        assert parts["TotalPartsCount"] == 3
        (part,) = parts["Parts"]
        seen.append((part["PartNumber"], part["Size"]))
        marker = parts["NextPartNumberMarker"]
    assert seen == [(number, len(data)) for number, data in enumerate(bodies, 1)]
    for marker in (3, 10_000, 2_000_000_000):
        got = s3.get_object_attributes(**multi, ObjectAttributes=["ObjectParts"], PartNumberMarker=marker)
        assert "Parts" not in got["ObjectParts"] and not got["ObjectParts"]["IsTruncated"], marker
    got = s3.get_object_attributes(**multi, ObjectAttributes=["ObjectParts"], MaxParts=0)
    assert "Parts" not in got["ObjectParts"]


def ask(server, path, headers, query=()):
    return raw.request(server, "GET", path, query=[("attributes", ""), *query], headers=headers)


@pytest.mark.parametrize(
    "header", ["ETag,Checksum", "ETag, Checksum", " ETag ,Checksum "], ids=["SDKs", "spaces", "more spaces"]
)
def test_names_in_one_header(server, multi, header):
    answer = ask(server, "/attributes/multi", {"x-amz-object-attributes": header})
    assert answer.status == 200 and b"<ETag>" in answer.body and b"<Checksum>" in answer.body
    assert b"ObjectSize" not in answer.body


@pytest.mark.parametrize("header", ["", "Tag", "ETag,", "ETag,Other", "etag", "ETag;Checksum"])
def test_names_that_are_none(server, multi, header):
    answer = ask(server, "/attributes/multi", {"x-amz-object-attributes": header})
    assert tuple(answer) == (400, "InvalidArgument")


def test_no_names(server, multi):
    answer = ask(server, "/attributes/multi", {})
    assert answer.status == 400 and answer.code in ("InvalidRequest", "InvalidArgument")


@pytest.mark.parametrize("name, value", [("x-amz-max-parts", "-1"), ("x-amz-max-parts", "x"), ("x-amz-part-number-marker", "-1"), ("x-amz-part-number-marker", "x")])  # fmt: skip
def test_pages_that_cannot_be(server, multi, name, value):
    answer = ask(server, "/attributes/multi", {"x-amz-object-attributes": "ObjectParts", name: value})
    assert tuple(answer) == (400, "InvalidArgument")


def test_of_what_is_not_there(s3, server, bucket):
    for key, name, expected in [("none", bucket, "NoSuchKey"), ("k", "never-was", "NoSuchBucket")]:
        with pytest.raises(ClientError) as error:
            s3.get_object_attributes(Bucket=name, Key=key, ObjectAttributes=["ETag"])
        assert code_of(error) == (404, expected)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    answer = ask(server, f"/{bucket}/k", {"x-amz-object-attributes": "ETag"}, [("versionId", "other")])
    assert tuple(answer) in ((404, "NoSuchVersion"), (400, "InvalidArgument"))
    answer = ask(server, f"/{bucket}/k", {"x-amz-object-attributes": "ETag"}, [("versionId", "null")])
    assert answer.status == 200
