import base64
import hashlib
import http.client
import time
import urllib.error
import urllib.request
import zlib

import pytest
from botocore.exceptions import ClientError

import harness
import raw
from harness import KIB, body, code_of
from raw import Signer, quote


@pytest.fixture
def key(s3, bucket):
    """The path of an object that nobody may read, replace or delete in these tests."""
    s3.put_object(Bucket=bucket, Key="secret", Body=b"secret")
    yield f"/{bucket}/secret"
    assert s3.get_object(Bucket=bucket, Key="secret")["Body"].read() == b"secret"


def fetch(url, method="GET", data=None, headers=None):
    """(status, S3 code, body) of a presigned URL, as any HTTP client would use it."""
    request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, None, answer.read()
    except urllib.error.HTTPError as error:
        answer = raw.Answer(error.code, dict(error.headers), error.read())
        return answer.status, answer.code, answer.body


# By header -----------------------------------------------------------------------------


@pytest.mark.parametrize("method, more", [("GET", {}), ("PUT", {"body": b"x"}), ("DELETE", {})])
def test_anonymous_requests_are_refused(server, key, method, more):
    assert tuple(raw.send(server, method, key, **more)) == (403, "AccessDenied")


def test_anonymous_listings_are_refused(server, bucket):
    for target in ("/", f"/{bucket}", f"/{bucket}?list-type=2"):
        assert tuple(raw.send(server, "GET", target)) == (403, "AccessDenied")


def test_a_wrong_secret(server, key):
    signer = Signer(server, secret_key=harness.SECRET_KEY[::-1])
    for method in ("GET", "DELETE"):
        assert tuple(raw.request(server, method, key, signer=signer)) == (403, "SignatureDoesNotMatch")


def test_an_unknown_access_key(server, key):
    signer = Signer(server, access_key="NOBODYKNOWSTHISKEY00")
    assert tuple(raw.request(server, "GET", key, signer=signer)) == (403, "InvalidAccessKeyId")


def test_a_wrong_region(server, key):
    signer = Signer(server, region="eu-west-1")
    assert tuple(raw.request(server, "GET", key, signer=signer)) == (400, "AuthorizationHeaderMalformed")


@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_clock_that_is_off(server, key, minutes):
    signer = Signer(server, time=raw.now(minutes * 60))
    assert tuple(raw.request(server, "GET", key, signer=signer)) == (403, "RequestTimeTooSkewed")


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_clock_that_is_nearly_right(server, key, minutes):
    assert raw.request(server, "GET", key, signer=Signer(server, time=raw.now(minutes * 60))).status == 200


def test_a_changed_method_path_query_or_header(server, key):
    signed = Signer(server).headers("GET", key, payload=raw.EMPTY_SHA256)
    assert raw.send(server, "GET", key, signed).status == 200
    assert tuple(raw.send(server, "DELETE", key, signed)) == (403, "SignatureDoesNotMatch")
    assert tuple(raw.send(server, "GET", key + "2", signed)) == (403, "SignatureDoesNotMatch")
    assert tuple(raw.send(server, "GET", key + "?versionId=null", signed)) == (403, "SignatureDoesNotMatch")
    signed["x-amz-date"] = Signer(server, time=raw.now(60)).amz_date
    assert tuple(raw.send(server, "GET", key, signed)) == (403, "SignatureDoesNotMatch")


def test_a_changed_body(server, key):
    signed = Signer(server).headers("PUT", key, payload=hashlib.sha256(b"good").hexdigest())
    answer = raw.send(server, "PUT", key, signed, b"evil")
    assert tuple(answer) == (400, "XAmzContentSHA256Mismatch")
    large = body(3 << 20)
    signed = Signer(server).headers("PUT", key, payload=hashlib.sha256(large).hexdigest())
    answer = raw.send(server, "PUT", key, signed, large[:-1] + b"!")
    assert tuple(answer) == (400, "XAmzContentSHA256Mismatch")


def test_no_hash_of_the_body(server, key):
    signed = Signer(server).headers("PUT", key, payload=None)
    answer = raw.send(server, "PUT", key, signed, b"x")
    assert answer.status in (400, 403)
    assert answer.code


def test_unsigned_amz_headers_are_refused(server, s3, bucket, key):
    for name, value in [
        ("x-amz-copy-source", key),
        ("x-amz-meta-colour", "blue"),
        ("x-amz-acl", "public-read"),
        ("x-amz-security-token", "token"),
    ]:
        signed = Signer(server).headers("PUT", f"/{bucket}/new")
        signed[name] = value
        answer = raw.send(server, "PUT", f"/{bucket}/new", signed, b"x")
        assert answer.status in (400, 403), name
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["secret"]


def test_a_session_token_nobody_issued(server, key):
    headers = {"x-amz-security-token": "FwoGZXIvYXdzEXAMPLE"}
    answer = raw.request(server, "GET", key, headers=headers)
    assert tuple(answer) in ((400, "InvalidToken"), (403, "InvalidToken"))


def test_the_second_signature_version_is_refused(server, key):
    headers = {"authorization": f"AWS {harness.ACCESS_KEY}:bm90IGEgc2lnbmF0dXJl"}
    headers["date"] = raw.now().strftime("%a, %d %b %Y %H:%M:%S GMT")
    answer = raw.send(server, "GET", key, headers)
    assert answer.status in (400, 403)
    query = f"?AWSAccessKeyId={harness.ACCESS_KEY}&Expires=4102444800&Signature=bm90"
    assert raw.send(server, "GET", key + query).status in (400, 403)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=, Signature=",
        "AWS4-HMAC-SHA256 Credential=, SignedHeaders=host, Signature=00",
        "Basic dXNlcjpwYXNz",
        "AWS4-HMAC-SHA512 " + "x" * 2000,
    ],
)
def test_authorizations_that_are_none(server, key, authorization):
    headers = {"authorization": authorization, "x-amz-date": Signer(server).amz_date}
    headers["x-amz-content-sha256"] = raw.EMPTY_SHA256
    answer = raw.send(server, "GET", key, headers)
    assert answer.status in (400, 403)
    assert answer.code


def test_clients_with_wrong_credentials(server):
    with pytest.raises(ClientError) as error:
        server.client(secret_key="wrong").list_buckets()
    assert code_of(error) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("payload", ["nonsense", "STREAMING-NOPE", "E3B0" * 16, "a" * 63])
def test_a_payload_that_is_none(server, key, payload):
    """It was once called a wrong signature."""
    answer = raw.request(server, "GET", key, payload=payload)
    assert tuple(answer) == (400, "InvalidArgument")
    assert b"x-amz-content-sha256 must be" in answer.body


# Presigned -----------------------------------------------------------------------------


def test_presigned_get_and_put(s3, bucket):
    data = body(100_000)
    put = s3.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "a b+ü"}, ExpiresIn=60)
    assert fetch(put, "PUT", data)[0] == 200
    get = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "a b+ü"}, ExpiresIn=60)
    assert fetch(get) == (200, None, data)
    delete = s3.generate_presigned_url("delete_object", {"Bucket": bucket, "Key": "a b+ü"}, ExpiresIn=60)
    assert fetch(delete, "DELETE")[0] == 204
    assert fetch(get)[:2] == (404, "NoSuchKey")


def test_presigned_for_another_method_or_key(s3, bucket, key):
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "secret"}, ExpiresIn=60)
    assert fetch(url, "PUT", b"evil")[:2] == (403, "SignatureDoesNotMatch")
    assert fetch(url, "DELETE")[:2] == (403, "SignatureDoesNotMatch")
    other = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "other"}, ExpiresIn=60)
    assert fetch(other.replace("/other?", "/secret?"))[:2] == (403, "SignatureDoesNotMatch")


def test_presigned_and_expired(server, key):
    signer = Signer(server, time=raw.now(-120))
    assert raw.send(server, "GET", f"{key}?{signer.presigned('GET', key, 300)}").status == 200
    assert tuple(raw.send(server, "GET", f"{key}?{signer.presigned('GET', key, 60)}")) == (403, "AccessDenied")


def test_presigned_expires_on_time(s3, bucket, key):
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "secret"}, ExpiresIn=1)
    time.sleep(2.5)
    assert fetch(url)[:2] == (403, "AccessDenied")


def test_presigned_for_a_week_at_most(server, key):
    week = 7 * 24 * 3600
    signer = Signer(server)
    assert raw.send(server, "GET", f"{key}?{signer.presigned('GET', key, week)}").status == 200
    for seconds in (week + 1, 10**9, -1):
        answer = raw.send(server, "GET", f"{key}?{signer.presigned('GET', key, seconds)}")
        assert tuple(answer) == (400, "AuthorizationQueryParametersError"), seconds
        assert (b"non-negative" if seconds < 0 else b"at most 604800 seconds") in answer.body


def test_presigned_from_the_future(server, key):
    signer = Signer(server, time=raw.now(3600))
    answer = raw.send(server, "GET", f"{key}?{signer.presigned('GET', key, 60)}")
    assert answer.status == 403


def test_presigned_put_cannot_be_turned_into_a_copy(server, s3, bucket, key):
    url = s3.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "new"}, ExpiresIn=60)
    status, code, _ = fetch(url, "PUT", b"", {"x-amz-copy-source": key})
    assert status in (400, 403, 501) and code
    with pytest.raises(ClientError) as error:
        s3.head_object(Bucket=bucket, Key="new")
    assert code_of(error)[0] == 404


def test_presigned_for_another_region(server, key):
    query = Signer(server, region="eu-west-1").presigned("GET", key, 60)
    assert raw.send(server, "GET", f"{key}?{query}").status in (400, 403)


# Streamed in chunks --------------------------------------------------------------------

CHUNK = 64 * KIB


def signed_chunks(server, path, data, spoil=None, cut=None, chunk=CHUNK):
    """A PUT with STREAMING-AWS4-HMAC-SHA256-PAYLOAD; `spoil` is the chunk to sign wrongly,
    `cut` the chunk to end at without the last, empty one."""
    signer = Signer(server)
    pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)] + [b""]
    headers = signer.headers(
        "PUT",
        path,
        headers={"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(data))},
        payload="STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    )
    wire, previous = b"", signer.last
    for number, piece in enumerate(pieces):
        if cut == number:
            break
        text = (
            f"AWS4-HMAC-SHA256-PAYLOAD\n{signer.amz_date}\n{signer.scope}\n{previous}\n"
            f"{raw.EMPTY_SHA256}\n{hashlib.sha256(piece).hexdigest()}"
        )
        previous = signer.sign_string(text)
        shown = previous[::-1] if spoil == number else previous
        wire += f"{len(piece):x};chunk-signature={shown}\r\n".encode() + piece + b"\r\n"
    headers["content-length"] = str(len(wire))
    return raw.send(server, "PUT", path, headers, wire)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 5 * CHUNK + 17])
def test_signed_chunks(server, s3, bucket, size):
    data = body(size)
    answer = signed_chunks(server, f"/{bucket}/k", data)
    assert answer.status == 200, answer
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == data
    assert "aws-chunked" not in got.get("ContentEncoding", "")


@pytest.mark.parametrize("spoil", [0, 3, 5])
def test_a_chunk_with_a_wrong_signature(server, key, spoil):
    answer = signed_chunks(server, key, body(5 * CHUNK), spoil=spoil)
    assert tuple(answer) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("cut", [0, 2, 4])
def test_chunks_that_stop_early(server, key, cut):
    answer = signed_chunks(server, key, body(5 * CHUNK), cut=cut)
    assert answer.status == 400
    assert answer.code


def test_chunks_without_the_last_empty_one(server, s3, bucket):
    """All bytes came and each was signed, so taking them is right; refusing would be too."""
    data = body(5 * CHUNK)
    answer = signed_chunks(server, f"/{bucket}/k", data, cut=5)
    if answer.status == 200:
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
    else:
        assert answer.status == 400
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def trailing(server, path, data, checksum, length=None, end=None):
    """A PUT with STREAMING-UNSIGNED-PAYLOAD-TRAILER, as the SDKs send it; `end` replaces the
    last chunk and the trailer."""
    headers = Signer(server).headers(
        "PUT",
        path,
        headers={
            "content-encoding": "aws-chunked",
            "x-amz-decoded-content-length": str(len(data) if length is None else length),
            "x-amz-trailer": "x-amz-checksum-crc32",
        },
        payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    )
    wire = b"".join(
        f"{len(data[at : at + CHUNK]):x}\r\n".encode() + data[at : at + CHUNK] + b"\r\n"
        for at in range(0, len(data), CHUNK)
    )
    wire += f"0\r\nx-amz-checksum-crc32:{checksum}\r\n\r\n".encode() if end is None else end
    return raw.send(server, "PUT", path, headers, wire)


def crc32(data):
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def test_trailing_checksums(server, s3, bucket, key):
    data = body(200_000)
    answer = trailing(server, f"/{bucket}/k", data, crc32(data))
    assert answer.status == 200, answer
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data
    s3.delete_object(Bucket=bucket, Key="k")
    assert tuple(trailing(server, key, data, crc32(b"other"))) == (400, "BadDigest")


@pytest.mark.parametrize("end", [b"", b"0\r\n", b"0\r\n\r\n", b"0\r\nx-amz-checksum-sha256:AAAA\r\n\r\n"])
def test_a_trailer_that_never_comes(server, key, end):
    """Whoever announces a checksum and does not send it did not get its body through."""
    data = body(100_000)
    answer = trailing(server, key, data, crc32(data), end=end)
    assert answer.status == 400
    assert answer.code


def test_a_decoded_length_that_is_wrong(server, key):
    data = body(100_000)
    for length in (len(data) - 1, len(data) + 1):
        answer = trailing(server, key, data, crc32(data), length)
        assert answer.status == 400
        assert answer.code


@pytest.mark.parametrize("wire", [b"zz\r\nabc\r\n0\r\n\r\n", b"-1\r\n\r\n", b"ffffffffffffffffff\r\n", b"3\r\nabcdef"])
def test_chunks_that_are_none(server, key, wire):
    headers = Signer(server).headers(
        "PUT",
        key,
        headers={"content-encoding": "aws-chunked", "x-amz-decoded-content-length": "3"},
        payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    )
    answer = raw.send(server, "PUT", key, headers, wire)
    assert answer.status == 400


def test_a_chunk_of_half_a_gigabyte_is_not_buffered(server, key):
    """A signed chunk may be announced with any size; the server must refuse, not wait for it."""
    signer = Signer(server)
    length = 512 << 20
    headers = signer.headers(
        "PUT",
        key,
        headers={"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(length)},
        payload="STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    )
    headers["content-length"] = str(length + 200)
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        connection.putrequest("PUT", key, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(f"{length:x};chunk-signature={'0' * 64}\r\n".encode())
        piece = bytes(1 << 20)
        try:
            for _ in range(64):
                connection.send(piece)
            answer = connection.getresponse()
            assert answer.status in (400, 403, 413)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Closed on us, which is as good.
    finally:
        connection.close()
    assert server.memory_bytes() < 256 << 20


def test_paths_are_not_decoded_twice(server, s3, bucket):
    path = f"/{bucket}/{quote('a%2Fb')}"
    assert raw.request(server, "PUT", path, body=b"x").status == 200
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["a%2Fb"]
