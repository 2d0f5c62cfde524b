"""Checksums of every algorithm: sent, verified, kept, and given back."""

import hashlib
import io

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

import raw
import sums
import uploads
from harness import MIB, body, code_of
from uploads import PART

DATA = body(9_000)
# What the SDK computes without its compiled extension.
SDK = ["CRC32", "SHA1", "SHA256"]


def get_headers(s3, bucket, key="k", mode=True, **more):
    """Checksum headers of a GET and of a HEAD, which must be the same."""
    more.update({"ChecksumMode": "ENABLED"} if mode else {})
    found = []
    for operation in (s3.get_object, s3.head_object):
        headers = operation(Bucket=bucket, Key=key, **more)["ResponseMetadata"]["HTTPHeaders"]
        found.append({name: value for name, value in headers.items() if name.startswith("x-amz-checksum-")})
    assert found[0] == found[1]
    return found[0]


@pytest.fixture(scope="session")
def plain(server):
    """A client that verifies nothing itself, so that wrong sums would be seen."""
    return server.client(response_checksum_validation="when_required", request_checksum_calculation="when_required")


# One PUT -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 8192, 8193, 200_000])
@pytest.mark.parametrize("algorithm", sums.DIGESTS)
def test_a_checksum_in_a_header(server, plain, bucket, algorithm, size):
    data, name = body(size), sums.header(algorithm)
    right = sums.checksum(algorithm, data)
    answer = raw.request(server, "PUT", f"/{bucket}/k", headers={name: right}, body=data)
    assert answer.status == 200, answer
    assert (answer.headers[name], answer.headers["x-amz-checksum-type"]) == (right, "FULL_OBJECT")
    assert get_headers(plain, bucket) == {name: right, "x-amz-checksum-type": "FULL_OBJECT"}
    assert get_headers(plain, bucket, mode=False) == {}
    wrong = sums.checksum(algorithm, b"other")
    answer = raw.request(server, "PUT", f"/{bucket}/k", headers={name: wrong}, body=data)
    assert tuple(answer) == (400, "BadDigest")
    assert get_headers(plain, bucket)[name] == right, "the old object is still there"


@pytest.mark.parametrize("algorithm", sums.OF_NOTHING)
def test_a_checksum_of_the_newest_algorithms(server, plain, bucket, algorithm):
    name, right = sums.header(algorithm), sums.encode(bytes.fromhex(sums.OF_NOTHING[algorithm]))
    assert raw.request(server, "PUT", f"/{bucket}/k", headers={name: right}).status == 200
    assert get_headers(plain, bucket)[name] == right
    answer = raw.request(server, "PUT", f"/{bucket}/k", headers={name: right}, body=b"x")
    assert tuple(answer) == (400, "BadDigest")


def in_trailer(server, path, data, name, value, query=(), announced=None):
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(data)),
        "x-amz-trailer": announced or name,
    }
    wire = b"%x\r\n%s\r\n" % (len(data), data) if data else b""
    wire += f"0\r\n{name}:{value}\r\n\r\n".encode()
    payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    return raw.request(server, "PUT", path, query=query, headers=headers, body=wire, payload=payload)


@pytest.mark.parametrize("algorithm", sums.DIGESTS)
def test_a_checksum_in_a_trailer(server, plain, bucket, algorithm):
    name, right = sums.header(algorithm), sums.checksum(algorithm, DATA)
    answer = in_trailer(server, f"/{bucket}/k", DATA, name, right)
    assert answer.status == 200, answer
    assert answer.headers[name] == right
    assert get_headers(plain, bucket)[name] == right
    wrong = sums.checksum(algorithm, b"other")
    assert tuple(in_trailer(server, f"/{bucket}/no", DATA, name, wrong)) == (400, "BadDigest")
    assert tuple(in_trailer(server, f"/{bucket}/no", DATA, name, "AA==")) == (400, "InvalidRequest")
    assert plain.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


@pytest.mark.parametrize("algorithm", SDK)
def test_checksums_of_the_sdk(s3, plain, bucket, algorithm):
    answer = s3.put_object(Bucket=bucket, Key="k", Body=DATA, ChecksumAlgorithm=algorithm)
    assert answer[f"Checksum{algorithm}"] == sums.checksum(algorithm, DATA)
    assert answer["ChecksumType"] == "FULL_OBJECT"
    # This client verifies what it reads.
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == DATA
    assert got[f"Checksum{algorithm}"] == sums.checksum(algorithm, DATA)


def test_the_default_checksum(plain, bucket):
    """Of an object that came without one Amazon keeps a CRC64NVME, and so does this server."""
    answer = plain.put_object(Bucket=bucket, Key="k", Body=DATA)
    assert answer["ChecksumCRC64NVME"] == sums.checksum("CRC64NVME", DATA)
    assert get_headers(plain, bucket)["x-amz-checksum-crc64nvme"] == sums.checksum("CRC64NVME", DATA)


def test_never_on_ranges(plain, bucket):
    plain.put_object(Bucket=bucket, Key="k", Body=DATA)
    for asked in ("bytes=0-10", "bytes=5-", "bytes=-3"):
        assert get_headers(plain, bucket, Range=asked) == {}, asked


def test_a_checksum_outlives_a_restart(own_server):
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="sums")
    bodies = [body(1000)]
    s3.put_object(Bucket="sums", Key="k", Body=DATA, ChecksumAlgorithm="SHA256")
    uploads.whole(s3, "sums", bodies, "multi", ChecksumAlgorithm="SHA1")
    server.kill()
    s3 = server.restart().client()
    assert get_headers(s3, "sums")["x-amz-checksum-sha256"] == sums.checksum("SHA256", DATA)
    assert get_headers(s3, "sums", "multi")["x-amz-checksum-sha1"] == sums.composite("SHA1", bodies)


CRC = sums.checksum("CRC32", DATA)


@pytest.mark.parametrize(
    "headers, expected",
    [
        ({"x-amz-checksum-crc32": ""}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "!!!!"}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "AAAA"}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": sums.checksum("SHA256", DATA)}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": CRC + "-1"}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": CRC, "x-amz-checksum-sha1": sums.checksum("SHA1", DATA)}, "InvalidRequest"),
        ({"x-amz-checksum-crc16": "AAA="}, "InvalidRequest"),
        ({"x-amz-sdk-checksum-algorithm": "CRC32"}, "InvalidRequest"),
        ({"x-amz-sdk-checksum-algorithm": "SHA1", "x-amz-checksum-crc32": CRC}, "InvalidRequest"),
        ({"x-amz-sdk-checksum-algorithm": "CRC16", "x-amz-checksum-crc32": CRC}, "InvalidRequest"),
        ({"x-amz-checksum-type": "COMPOSITE", "x-amz-checksum-crc32": CRC}, "InvalidRequest"),
        ({"x-amz-trailer": "x-amz-checksum-crc16"}, "InvalidRequest"),
    ],
    ids=str,
)
def test_checksums_that_are_none(server, s3, bucket, headers, expected):
    upload = uploads.begin(s3, bucket)
    answer = raw.request(server, "PUT", f"/{bucket}/k", headers=headers, body=DATA)
    assert tuple(answer) == (400, expected)
    query = [("partNumber", "1"), ("uploadId", upload)]
    answer = raw.request(server, "PUT", f"/{bucket}/k", query=query, headers=headers, body=DATA)
    assert tuple(answer) == (400, expected)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert uploads.numbers(s3, bucket, upload) == []


def test_checksum_mode_has_one_value(server, bucket, plain):
    plain.put_object(Bucket=bucket, Key="k", Body=DATA)
    answer = raw.request(server, "GET", f"/{bucket}/k", headers={"x-amz-checksum-mode": "ENABLED"})
    assert answer.headers["x-amz-checksum-crc64nvme"] == sums.checksum("CRC64NVME", DATA)


# Parts ---------------------------------------------------------------------------------


def raw_part(server, bucket, upload, number, data, algorithm, value=None):
    """A part with its checksum, as a completion names it, and the answer."""
    value = value or sums.checksum(algorithm, data)
    query = [("partNumber", str(number)), ("uploadId", upload)]
    headers = {sums.header(algorithm): value}
    answer = raw.request(server, "PUT", f"/{bucket}/k", query=query, headers=headers, body=data)
    part = {"PartNumber": number, "ETag": answer.headers.get("etag"), f"Checksum{algorithm}": value}
    return part, answer


@pytest.mark.parametrize("kind", ["COMPOSITE", "FULL_OBJECT"])
@pytest.mark.parametrize("algorithm", sums.DIGESTS)
def test_a_multipart_object(server, plain, bucket, algorithm, kind):
    """Two parts, for each algorithm and type that Amazon allows."""
    possible = sums.FULL_OBJECT if kind == "FULL_OBJECT" else [name for name in sums.DIGESTS if name != "CRC64NVME"]
    create = {"Bucket": bucket, "Key": "k", "ChecksumAlgorithm": algorithm, "ChecksumType": kind}
    if algorithm not in possible:
        with pytest.raises(ClientError) as error:
            plain.create_multipart_upload(**create)
        assert code_of(error) == (400, "InvalidRequest")
        return
    begun = plain.create_multipart_upload(**create)
    assert (begun["ChecksumAlgorithm"], begun["ChecksumType"]) == (algorithm, kind)
    upload = begun["UploadId"]
    # Zeroes, so that the tables of this test are quick: one of them is 5 MiB.
    bodies = [bytes(PART), body(500)]
    parts = []
    for number, data in enumerate(bodies, 1):
        part, answer = raw_part(server, bucket, upload, number, data, algorithm)
        assert answer.status == 200, answer
        assert answer.headers[sums.header(algorithm)] == part[f"Checksum{algorithm}"]
        parts.append(part)
    _, answer = raw_part(server, bucket, upload, 1, b"x", algorithm, sums.checksum(algorithm, b"other"))
    assert tuple(answer) == (400, "BadDigest")
    listed = plain.list_parts(Bucket=bucket, Key="k", UploadId=upload)
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == (algorithm, kind)
    assert [entry[f"Checksum{algorithm}"] for entry in listed["Parts"]] == [p[f"Checksum{algorithm}"] for p in parts]
    (entry,) = plain.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert (entry["ChecksumAlgorithm"], entry["ChecksumType"]) == (algorithm, kind)

    expected = sums.composite(algorithm, bodies)
    if kind == "FULL_OBJECT":
        expected = sums.checksum(algorithm, b"".join(bodies))
    # A wrong sum of one part, then of the object, then another type.
    spoiled = [{**parts[0], f"Checksum{algorithm}": sums.checksum(algorithm, b"other")}, parts[1]]
    with pytest.raises(ClientError) as error:
        uploads.complete(plain, bucket, upload, spoiled)
    assert code_of(error) == (400, "InvalidPart")
    with pytest.raises(ClientError) as error:
        uploads.complete(plain, bucket, upload, parts, **{f"Checksum{algorithm}": sums.checksum(algorithm, b"other")})
    assert code_of(error) == (400, "BadDigest")
    other_kind = "COMPOSITE" if kind == "FULL_OBJECT" else "FULL_OBJECT"
    with pytest.raises(ClientError) as error:
        uploads.complete(plain, bucket, upload, parts, ChecksumType=other_kind)
    assert code_of(error) == (400, "InvalidRequest")
    assert uploads.numbers(plain, bucket, upload) == [1, 2]

    right = {f"Checksum{algorithm}": expected, "ChecksumType": kind, "MpuObjectSize": PART + 500}
    for _ in range(2):  # Asked again, it answers the same.
        answer = uploads.complete(plain, bucket, upload, parts, **right)
        assert (answer[f"Checksum{algorithm}"], answer["ChecksumType"]) == (expected, kind)
    name = sums.header(algorithm)
    assert get_headers(plain, bucket) == {name: expected, "x-amz-checksum-type": kind}
    assert get_headers(plain, bucket, PartNumber=2)[name] == sums.checksum(algorithm, bodies[1])
    assert get_headers(plain, bucket, Range="bytes=0-9") == {}


@pytest.mark.parametrize("algorithm", sums.ALGORITHMS)
def test_parts_with_trailers(server, plain, bucket, algorithm):
    upload = uploads.begin(plain, bucket, ChecksumAlgorithm=algorithm)
    query, name = [("partNumber", "1"), ("uploadId", upload)], sums.header(algorithm)
    right = sums.checksum(algorithm, DATA)
    wrong = sums.checksum(algorithm, b"other")
    answer = in_trailer(server, f"/{bucket}/k", DATA, name, wrong, query)
    assert tuple(answer) == (400, "BadDigest")
    assert uploads.numbers(plain, bucket, upload) == []
    answer = in_trailer(server, f"/{bucket}/k", DATA, name, right, query)
    assert (answer.status, answer.headers[name]) == (200, right)


def test_parts_have_the_algorithm_of_their_upload(server, plain, bucket):
    upload = uploads.begin(plain, bucket, ChecksumAlgorithm="SHA256")
    _, answer = raw_part(server, bucket, upload, 1, DATA, "CRC32")
    assert tuple(answer) == (400, "InvalidRequest")
    assert uploads.numbers(plain, bucket, upload) == []
    # Without any the server computes it.
    answer = plain.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=DATA)
    assert answer["ChecksumSHA256"] == sums.checksum("SHA256", DATA)


def test_an_upload_without_an_algorithm(s3, plain, bucket):
    """What the SDKs do when nobody asks for anything: they send a CRC32 with each part, and name
    it when they complete. Once the answer had another checksum, and the one named was refused."""
    upload = uploads.begin(s3, bucket)
    answer = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=DATA)
    assert answer["ChecksumCRC32"] == sums.checksum("CRC32", DATA)
    part = {"PartNumber": 1, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]}
    uploads.complete(s3, bucket, upload, [part])
    assert get_headers(plain, bucket)["x-amz-checksum-crc64nvme"] == sums.checksum("CRC64NVME", DATA)
    # And one that sends none hears of none.
    upload = uploads.begin(plain, bucket)
    answer = plain.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=DATA)
    assert not [name for name in answer if name.startswith("Checksum")]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-algorithm": "CRC16"},
        {"x-amz-checksum-algorithm": ""},
        {"x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "HALF"},
        {"x-amz-checksum-algorithm": "SHA1", "x-amz-checksum-type": "FULL_OBJECT"},
        {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "COMPOSITE"},
    ],
    ids=str,
)
def test_uploads_with_checksums_that_cannot_be(server, s3, bucket, headers):
    answer = raw.request(server, "POST", f"/{bucket}/k", query=[("uploads", "")], headers=headers)
    assert tuple(answer) == (400, "InvalidRequest")
    assert uploads.pending(s3, bucket) == []


def test_sums_of_an_object_that_are_none(server, plain, bucket):
    upload = uploads.begin(plain, bucket, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    part = uploads.part(plain, bucket, upload, 1, DATA)
    document = uploads.document((1, part["ETag"]))
    right = sums.checksum("CRC32", DATA)
    for headers, expected in [
        ({"x-amz-checksum-crc32": "!"}, ("BadDigest", "InvalidRequest")),
        ({"x-amz-checksum-sha1": sums.checksum("SHA1", DATA)}, ("InvalidRequest", "BadDigest")),
        ({"x-amz-checksum-crc32": right, "x-amz-checksum-crc32c": "AAAAAA=="}, ("InvalidRequest",)),
        ({"x-amz-checksum-crc32": right + "-1"}, ("BadDigest", "InvalidRequest")),
        ({"x-amz-checksum-type": "HALF"}, ("InvalidRequest",)),
        ({"x-amz-mp-object-size": "x"}, ("InvalidRequest", "InvalidArgument")),
    ]:
        answer = uploads.raw_complete(server, bucket, upload, document, headers=headers)
        assert answer.status == 400 and answer.code in expected, (headers, answer)
    assert uploads.numbers(plain, bucket, upload) == [1]


@pytest.mark.parametrize("algorithm", SDK)
def test_the_transfer_manager(s3, bucket, tmp_path, algorithm):
    data = body(PART + 2 * MIB)
    (tmp_path / "f").write_bytes(data)
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)
    extra = {"ChecksumAlgorithm": algorithm}
    s3.upload_file(str(tmp_path / "f"), bucket, "k", ExtraArgs=extra, Config=config)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    kind = head["ChecksumType"]
    if kind == "COMPOSITE":
        expected = sums.composite(algorithm, [data[:PART], data[PART:]])
    else:
        expected = sums.checksum(algorithm, data)
    assert head[f"Checksum{algorithm}"] == expected
    out = io.BytesIO()
    s3.download_fileobj(bucket, "k", out, Config=config, ExtraArgs={"ChecksumMode": "ENABLED"})
    assert hashlib.sha256(out.getvalue()).digest() == hashlib.sha256(data).digest()


def test_presigned_create_with_an_algorithm(server, plain, bucket):
    """Some presigners move the header into the query."""
    asked = [("uploads", ""), ("x-amz-checksum-algorithm", "SHA256"), ("x-amz-meta-a", "b")]
    query = raw.Signer(server).presigned("POST", f"/{bucket}/k", 60, asked)
    answer = raw.send(server, "POST", f"/{bucket}/k?{query}")
    assert answer.status == 200, answer
    ((_, upload),) = uploads.pending(plain, bucket)
    # And the values of an empty body, which a presigner of parts puts there, mean nothing.
    asked = [("partNumber", "1"), ("uploadId", upload), ("x-amz-checksum-sha256", sums.checksum("SHA256", b""))]
    query = raw.Signer(server).presigned("PUT", f"/{bucket}/k", 60, asked)
    answer = raw.send(server, "PUT", f"/{bucket}/k?{query}", body=DATA)
    assert answer.headers["x-amz-checksum-sha256"] == sums.checksum("SHA256", DATA)
    uploads.complete(plain, bucket, upload, [{"PartNumber": 1, "ETag": answer.headers["etag"]}])
    assert get_headers(plain, bucket)["x-amz-checksum-sha256"] == sums.composite("SHA256", [DATA])
    assert plain.head_object(Bucket=bucket, Key="k")["Metadata"] == {"a": "b"}
