"""A plain GET or HEAD is answered by a short way of its own, everything else by the long one.
Both must answer alike: each request here is sent twice, and an unsigned header that means nothing
for a read keeps the second from being plain."""

import hashlib

import pytest

import raw
from harness import KIB, MIB, body
from raw import Signer, quote

# It describes a body; nobody reads it of a request that has none.
KEEPS_IT_FROM_BEING_PLAIN = {"content-language": "en"}

# What differs from one request to the next.
OWN = {"x-amz-request-id", "date"}


def both_ways(server, method, target, headers):
    plain = raw.send(server, method, target, headers)
    long = raw.send(server, method, target, {**headers, **KEEPS_IT_FROM_BEING_PLAIN})
    for answer in (plain, long):
        answer.headers = {name: value for name, value in answer.headers.items() if name not in OWN}
    if plain.code:
        # An error names its request.
        assert (plain.status, plain.code) == (long.status, long.code)
    else:
        assert plain == long
    return plain


def signed(server, method, path, headers=None):
    return Signer(server).headers(method, path, headers=headers, payload=raw.EMPTY_SHA256)


OBJECTS = {
    "empty": dict(Body=b""),
    "small": dict(Body=b"small", ChecksumAlgorithm="SHA256"),
    "inline": dict(Body=body(4 * KIB), ContentType="text/plain", CacheControl="max-age=5"),
    "large": dict(Body=body(3 * MIB + 1), ChecksumAlgorithm="SHA1"),
    "with/everything ä+": dict(
        Body=b"x",
        ContentEncoding="gzip",
        ContentLanguage="de",
        ContentDisposition='attachment; filename="x"',
        ContentType="image/png",
        Expires="Wed, 21 Oct 2099 07:28:00 GMT",
        Metadata={"plain": "a b", "umlaut": "=?UTF-8?B?w6Q=?="},
    ),
}


@pytest.fixture(scope="module")
def filled(server):
    client = server.client()
    bucket = "plain-reads"
    client.create_bucket(Bucket=bucket)
    for key, arguments in OBJECTS.items():
        client.put_object(Bucket=bucket, Key=key, **arguments)
    upload = client.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    parts = []
    for number, data in enumerate([body(5 * MIB), b"end"], 1):
        part = client.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=number, Body=data)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    client.complete_multipart_upload(
        Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    return bucket


HEADERS = [
    {},
    {"x-amz-checksum-mode": "ENABLED"},
    {"range": "bytes=0-0"},
    {"range": "bytes=1-"},
    {"range": "bytes=-3"},
    {"range": "bytes=0-99999999", "x-amz-checksum-mode": "ENABLED"},
    {"range": "bytes=99999999-"},
    {"range": "bytes=5-1"},
    {"range": "nonsense"},
    {"range": "bytes=0-0,2-2"},
    {"accept-encoding": "gzip", "cookie": "x=y", "x-forwarded-for": "192.0.2.1"},
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("key", [*OBJECTS, "parts", "missing"])
def test_both_ways_answer_alike(server, filled, method, key):
    path = f"/{filled}/{quote(key, '/-._~')}"
    for headers in HEADERS:
        answer = both_ways(server, method, path, signed(server, method, path, headers))
        presigned = f"{path}?{Signer(server).presigned(method, path, 60)}"
        unsigned = {name: value for name, value in headers.items() if not name.startswith("x-amz-")}
        both_ways(server, method, presigned, unsigned)
        if not headers:
            assert answer.status == (404 if key == "missing" else 200)
            if method == "GET" and key in OBJECTS:
                assert answer.body == OBJECTS[key]["Body"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_both_ways_refuse_alike(server, filled, method):
    path = f"/{filled}/small"
    good = signed(server, method, path)
    wrong = Signer(server, secret_key="wrong").headers(method, path, payload=raw.EMPTY_SHA256)
    nobody = Signer(server, access_key="NOBODYKNOWSTHISKEY00").headers(method, path)
    old = Signer(server, time=raw.now(-3600)).headers(method, path)
    elsewhere = Signer(server, region="eu-west-9").headers(method, path)
    other_body = Signer(server).headers(method, path, payload=hashlib.sha256(b"x").hexdigest())
    more = {**good, "x-amz-checksum-mode": "ENABLED"}
    status = {
        both_ways(server, method, target, headers).status
        for target, headers in [
            (path, wrong),
            (path, nobody),
            (path, old),
            (path, more),
            (path, {}),
            (f"/{filled}/inline", good),
            (f"{path}?{Signer(server, secret_key='wrong').presigned(method, path, 60)}", {}),
            (f"{path}?{Signer(server, time=raw.now(-120)).presigned(method, path, 60)}", {}),
        ]
    }
    assert status == {403}
    assert both_ways(server, method, path, elsewhere).status == 400
    both_ways(server, method, path, other_body)
    assert both_ways(server, method, path, good).status == 200
