import concurrent.futures
import re
import urllib.parse

import pytest
from botocore.exceptions import ClientError

import raw
from harness import code_of

NUMBERED = [f"dir{number // 50:02}/file{number:04}" for number in range(2500)]


@pytest.fixture(scope="module")
def many(s3):
    """A bucket with 2,500 keys in 50 directories."""
    name = "many-keys"
    s3.create_bucket(Bucket=name)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket=name, Key=key, Body=key.encode()), NUMBERED))
    return name


def keys_of(page):
    return [entry["Key"] for entry in page.get("Contents", [])]


def prefixes_of(page):
    return [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]


def test_pages_of_a_thousand(s3, many):
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket=many))
    assert [page["KeyCount"] for page in pages] == [1000, 1000, 500]
    assert [page["IsTruncated"] for page in pages] == [True, True, False]
    assert [key for page in pages for key in keys_of(page)] == NUMBERED
    entry = pages[0]["Contents"][0]
    assert (entry["Size"], entry["StorageClass"]) == (len(NUMBERED[0]), "STANDARD")
    assert entry["ETag"].strip('"')


def test_the_first_version_of_the_call(s3, many):
    pages = list(s3.get_paginator("list_objects").paginate(Bucket=many))
    assert [key for page in pages for key in keys_of(page)] == NUMBERED
    assert [len(keys_of(page)) for page in pages] == [1000, 1000, 500]


@pytest.mark.parametrize("size", [1, 7, 333, 999, 2500])
def test_pages_of_other_sizes(s3, many, size):
    found, token = [], {}
    for _ in range(-(-200 // min(size, 1000)) + 1):
        page = s3.list_objects_v2(Bucket=many, Prefix="dir0", MaxKeys=size, **token)
        assert len(keys_of(page)) <= min(size, 1000)
        found += keys_of(page)
        if not page["IsTruncated"]:
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
        if len(found) >= 200:
            break
    expected = [key for key in NUMBERED if key.startswith("dir0")]
    assert found == expected[: len(found)]
    assert len(found) >= 200


def test_no_keys_wanted(s3, many):
    page = s3.list_objects_v2(Bucket=many, MaxKeys=0)
    assert (page["KeyCount"], page["IsTruncated"], keys_of(page)) == (0, False, [])


def test_start_after_and_marker(s3, many):
    page = s3.list_objects_v2(Bucket=many, StartAfter=NUMBERED[1200], MaxKeys=3)
    assert keys_of(page) == NUMBERED[1201:1204]
    page = s3.list_objects_v2(Bucket=many, StartAfter="dir24/file1200x", MaxKeys=3)
    assert keys_of(page) == NUMBERED[1201:1204]
    page = s3.list_objects(Bucket=many, Marker=NUMBERED[1200], MaxKeys=3)
    assert keys_of(page) == NUMBERED[1201:1204]
    assert page["Marker"] == NUMBERED[1200]


def test_prefixes(s3, many):
    page = s3.list_objects_v2(Bucket=many, Prefix="dir07/")
    assert keys_of(page) == NUMBERED[350:400]
    assert keys_of(s3.list_objects_v2(Bucket=many, Prefix="dir07/file0355")) == ["dir07/file0355"]
    assert keys_of(s3.list_objects_v2(Bucket=many, Prefix="nothing")) == []
    assert page["Prefix"] == "dir07/"


def test_delimiter(s3, many):
    page = s3.list_objects_v2(Bucket=many, Delimiter="/")
    assert prefixes_of(page) == [f"dir{number:02}/" for number in range(50)]
    assert keys_of(page) == []
    assert page["KeyCount"] == 50
    page = s3.list_objects_v2(Bucket=many, Prefix="dir03/", Delimiter="/")
    assert keys_of(page) == NUMBERED[150:200]
    assert prefixes_of(page) == []


@pytest.mark.parametrize("operation", ["list_objects_v2", "list_objects", "list_object_versions"])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_delimiter_in_pages(s3, many, operation, size):
    pages = s3.get_paginator(operation).paginate(Bucket=many, Delimiter="/", PaginationConfig={"PageSize": size})
    found = []
    for page in pages:
        assert len(prefixes_of(page)) <= size
        found += prefixes_of(page)
    assert found == [f"dir{number:02}/" for number in range(50)]


def test_keys_and_prefixes_interleaved(s3, bucket):
    keys = ["a", "a/", "a/1", "a/2", "a0", "b", "b//x", "b/c/d", "c"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert keys_of(page) == ["a", "a0", "b", "c"]
    assert prefixes_of(page) == ["a/", "b/"]
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/", Prefix="b/")
    assert prefixes_of(page) == ["b//", "b/c/"]
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/", Prefix="a/")
    assert keys_of(page) == ["a/", "a/1", "a/2"]
    both, token = [], {}
    while True:
        page = s3.list_objects_v2(Bucket=bucket, Delimiter="/", MaxKeys=1, **token)
        both += keys_of(page) + prefixes_of(page)
        if not page["IsTruncated"]:
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    assert both == ["a", "a/", "a0", "b", "b/", "c"]


def test_start_after_inside_a_common_prefix(s3, bucket):
    for key in ["a/1", "a/2", "b"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/", StartAfter="a/1")
    assert (prefixes_of(page), keys_of(page)) == (["a/"], ["b"])
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/", StartAfter="a/2")
    assert (prefixes_of(page), keys_of(page)) == ([], ["b"])


def test_long_delimiters(s3, bucket):
    for key in ["one--two", "one--three", "one-four", "日本--語"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="--")
    assert (prefixes_of(page), keys_of(page)) == (["one--", "日本--"], ["one-four"])
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="本")
    assert prefixes_of(page) == ["日本"]


def test_order_is_that_of_bytes(s3, bucket):
    keys = ["Z", "a", "~", "é", "日", "\uffee", "🦀", "a\x01", "a ", "a/", "a0", "aa", "ab"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    # U+FFEE sorts before the crab in UTF-8, behind it in UTF-16.
    assert keys_of(s3.list_objects_v2(Bucket=bucket)) == sorted(keys, key=str.encode)


def test_encoding_type(server, s3, bucket):
    keys = ["a b+c", "new\nline", "ü/x", "plain/x", "100%"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    query = [("delimiter", "/"), ("encoding-type", "url"), ("list-type", "2"), ("start-after", "\x01 +")]
    answer = raw.request(server, "GET", f"/{bucket}", query=query)
    text = answer.body.decode()
    assert "<EncodingType>url</EncodingType>" in text
    found = re.findall("<Key>([^<]*)</Key>", text)
    assert all(re.fullmatch(r"[A-Za-z0-9%+._/*-]+", key) for key in found)
    assert sorted(urllib.parse.unquote_plus(key) for key in found) == sorted(["a b+c", "new\nline", "100%"])
    prefixes = re.findall("<CommonPrefixes><Prefix>([^<]*)</Prefix>", text)
    assert sorted(urllib.parse.unquote_plus(prefix) for prefix in prefixes) == ["plain/", "ü/"]
    start = re.search("<StartAfter>([^<]*)</StartAfter>", text).group(1)
    assert urllib.parse.unquote_plus(start) == "\x01 +"


def test_markup_in_keys_is_escaped(server, s3, bucket):
    import xml.etree.ElementTree as tree

    s3.put_object(Bucket=bucket, Key="<a>&b]]>", Body=b"")
    answer = raw.request(server, "GET", f"/{bucket}", query=[("list-type", "2")])
    keys = [node.text for node in tree.fromstring(answer.body).iter() if node.tag.endswith("}Key")]
    assert keys == ["<a>&b]]>"]


def test_listings_follow_writes_at_once(s3, bucket):
    present = set()
    for number in range(60):
        key = f"k{number % 20}"
        if key in present:
            s3.delete_object(Bucket=bucket, Key=key)
            present.remove(key)
        else:
            s3.put_object(Bucket=bucket, Key=key, Body=b"")
            present.add(key)
        assert set(keys_of(s3.list_objects_v2(Bucket=bucket))) == present


@pytest.mark.parametrize(
    "query, code",
    [
        ([("list-type", "2"), ("max-keys", "-1")], "InvalidArgument"),
        ([("list-type", "2"), ("max-keys", "many")], "InvalidArgument"),
        ([("list-type", "2"), ("encoding-type", "base64")], "InvalidArgument"),
        ([("list-type", "2"), ("continuation-token", "not one of ours")], "InvalidArgument"),
    ],
)
def test_bad_arguments(server, bucket, query, code):
    assert tuple(raw.request(server, "GET", f"/{bucket}", query=query)) == (400, code)


def test_owners_are_shown_when_asked_for(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert "Owner" not in s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]["Owner"]["ID"]
    assert s3.list_objects(Bucket=bucket)["Contents"][0]["Owner"]["ID"]


def test_versions_of_an_unversioned_bucket(s3, many):
    pages = list(s3.get_paginator("list_object_versions").paginate(Bucket=many, PaginationConfig={"PageSize": 900}))
    versions = [version for page in pages for version in page["Versions"]]
    assert [version["Key"] for version in versions] == NUMBERED
    assert {version["VersionId"] for version in versions} == {"null"}
    assert all(version["IsLatest"] for version in versions)
    assert [page["IsTruncated"] for page in pages] == [True, True, False]


def test_versions_with_a_prefix(s3, many):
    page = s3.list_object_versions(Bucket=many, Prefix="dir49/", MaxKeys=10)
    assert [version["Key"] for version in page["Versions"]] == NUMBERED[2450:2460]
    page = s3.list_object_versions(Bucket=many, Prefix="dir49/", KeyMarker=NUMBERED[2459], VersionIdMarker="null")
    assert [version["Key"] for version in page["Versions"]] == NUMBERED[2460:2500]


def test_the_null_version_by_its_name(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    try:
        assert s3.get_object(Bucket=bucket, Key="k", VersionId="null")["Body"].read() == b"x"
    except ClientError as error:
        assert code_of(error) == (501, "NotImplemented")
    for operation in (s3.get_object, s3.delete_object):
        with pytest.raises(ClientError) as error:
            operation(Bucket=bucket, Key="k", VersionId="3HL4kqtJvjVBH40Nrjfkd")
        assert code_of(error) in ((400, "InvalidArgument"), (404, "NoSuchVersion"), (501, "NotImplemented"))
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
