"""Uploads by HTML form, under a policy that its maker signed."""

import base64
import datetime
import hashlib
import hmac
import http.client
import json

import pytest

import harness
import raw
from harness import KIB, MIB, body

BOUNDARY = "form-boundary"


def form(fields, data, filename="f.txt", after=b""):
    lines = []
    for name, value in fields.items():
        lines.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n')
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
    head += "Content-Type: text/plain\r\n\r\n"
    return "".join(lines).encode() + head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode() + after


def post(server, bucket, fields, data=b"hello", **options):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    connection.request("POST", f"/{bucket}", form(fields, data, **options), {"Content-Type": kind})
    response = connection.getresponse()
    answer = raw.Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    connection.close()
    return answer


def sign(policy):
    """The fields of a signed form; `policy` has what varies."""
    time = policy.pop("time", raw.now())
    secret = policy.pop("secret", harness.SECRET_KEY)
    date = time.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{date[:8]}/{policy.pop('region', harness.REGION)}/s3/aws4_request"
    own = {
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{harness.ACCESS_KEY}/{scope}",
        "x-amz-date": date,
    }
    policy["conditions"] = policy["conditions"] + [{name: value} for name, value in own.items()]
    encoded = base64.b64encode(json.dumps(policy).encode()).decode()
    key = ("AWS4" + secret).encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, encoded.encode(), hashlib.sha256).hexdigest()
    return {**own, "policy": encoded, "x-amz-signature": signature}


def until(seconds):
    return raw.now(seconds).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def test_what_boto3_presigns(s3, server, bucket):
    presigned = s3.generate_presigned_post(
        bucket,
        "photos/${filename}",
        Fields={"Content-Type": "text/html", "x-amz-meta-a": "1", "success_action_status": "201"},
        Conditions=[
            {"Content-Type": "text/html"},
            {"x-amz-meta-a": "1"},
            {"success_action_status": "201"},
            ["content-length-range", 1, 10 * KIB],
        ],
    )
    data = body(9 * KIB)
    answer = post(server, bucket, presigned["fields"], data, filename="cat.jpg")
    assert answer.status == 201, answer.body
    etag = hashlib.md5(data).hexdigest()
    assert etag.encode() in answer.body and b"<Key>photos/cat.jpg</Key>" in answer.body
    got = s3.get_object(Bucket=bucket, Key="photos/cat.jpg")
    assert got["Body"].read() == data
    assert (got["ContentType"], got["Metadata"]) == ("text/html", {"a": "1"})


def test_a_large_file_streams(s3, server, bucket):
    presigned = s3.generate_presigned_post(bucket, "large")
    before = server.memory_bytes()
    data = body(48 * MIB)
    answer = post(server, bucket, presigned["fields"], data)
    assert answer.status == 204, answer.body
    assert answer.headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert s3.get_object(Bucket=bucket, Key="large")["Body"].read() == data
    assert server.memory_bytes() < before + 40 * MIB


def test_where_the_browser_goes_next(s3, server, bucket):
    target = "https://example.com/done?x=1"
    presigned = s3.generate_presigned_post(
        bucket, "k", Fields={"success_action_redirect": target}, Conditions=[{"success_action_redirect": target}]
    )
    answer = post(server, bucket, presigned["fields"])
    assert answer.status == 303
    assert answer.headers["location"].startswith(f"{target}&bucket={bucket}&key=k&etag=")


def test_a_policy_lives_until_it_expires(s3, server, bucket):
    """Signed hours ago, it is good for as long as it says: a page with a form is made once."""
    conditions = [{"bucket": bucket}, {"key": "k"}]
    old = {"time": raw.now(-6 * 3600), "expiration": until(60), "conditions": conditions}
    answer = post(server, bucket, {"key": "k", **sign(old)})
    assert answer.status == 204, answer.body
    expired = {"time": raw.now(-60), "expiration": until(-1), "conditions": conditions}
    assert tuple(post(server, bucket, {"key": "other", **sign(expired)})) == (403, "AccessDenied")


REFUSED = {
    "no signature": ({"key": "k"}, {}, b"x", (403, "AccessDenied")),
    "another key": ({"key": "elsewhere"}, {}, b"x", (403, "AccessDenied")),
    "too large": ({}, {"conditions": [["content-length-range", 1, 3]]}, b"four", (400, "EntityTooLarge")),
    "too small": ({}, {"conditions": [["content-length-range", 3, 9]]}, b"x", (400, "EntityTooSmall")),
    "a field that the policy does not name": ({"x-amz-meta-a": "1"}, {}, b"x", (403, "AccessDenied")),
    "a wrong signature": ({}, {"secret": "another/secret/of/some/length/000"}, b"x", (403, "SignatureDoesNotMatch")),
    "another region": ({}, {"region": "eu-west-9"}, b"x", (400, "AuthorizationHeaderMalformed")),
    "open to all": (
        {"x-amz-acl": "public-read"},
        {"conditions": [{"x-amz-acl": "public-read"}]},
        b"x",
        (501, "NotImplemented"),
    ),
    "encryption, which no policy has to name": (
        {"x-amz-server-side-encryption": "AES256"},
        {},
        b"x",
        (501, "NotImplemented"),
    ),
    "a wrong checksum": (
        {"x-amz-checksum-crc32": "AAAAAA=="},
        {"conditions": [{"x-amz-checksum-crc32": "AAAAAA=="}]},
        b"x",
        (400, "BadDigest"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_nothing(s3, server, bucket, case):
    fields, policy, data, expected = REFUSED[case]
    signed = {}
    if case != "no signature":
        policy = dict(policy)
        conditions = [{"bucket": bucket}, ["starts-with", "$key", "k"], *policy.pop("conditions", [])]
        signed = sign({"expiration": until(60), "conditions": conditions, **policy})
    answer = post(server, bucket, {"key": "k", **fields, **signed}, data)
    assert tuple(answer) == expected, answer.body
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_what_a_stranger_may_have_parsed(server, bucket):
    """Before a form's signature is looked at, its fields are parsed and the file's name is put into
    the key. A key that asked for a long name many times once took 38 MB, and fields without values
    2 MB, from anybody."""
    often = {"key": "${filename}" * 1_800}
    assert tuple(post(server, bucket, often, filename="n" * 10 * KIB)) == (400, "MalformedPOSTRequest")
    names = {f"x-ignore-{number}-{'n' * 1_000}": "" for number in range(90)}
    refused = (400, "MaxPostPreDataLengthExceededError")
    assert tuple(post(server, bucket, {"key": "k", **names})) == refused
    for size in (30 * KIB, 300 * KIB):
        assert tuple(post(server, bucket, {"key": "k", "x-ignore-a": "x" * size})) == refused


def test_what_the_file_holds_is_its_own_matter(s3, server, bucket):
    data = b"--form-boundary\n${filename}\n" * 5_000
    presigned = s3.generate_presigned_post(bucket, "templates/${filename}")
    answer = post(server, bucket, presigned["fields"], data)
    assert answer.status == 204, answer.body
    assert s3.get_object(Bucket=bucket, Key="templates/f.txt")["Body"].read() == data


def test_broken_forms(s3, server, bucket):
    conditions = [{"bucket": bucket}, {"key": "k"}]
    fields = {"key": "k", **sign({"expiration": until(60), "conditions": conditions})}
    whole = form(fields, b"hello")
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    for data in (whole[:-30], whole[: len(whole) // 2], b"", b"no form at all"):
        answer = raw.send(server, "POST", f"/{bucket}", {"content-type": kind}, data)
        assert answer.status == 400 or answer.status == 411, answer.body
    # To an object instead of a bucket.
    answer = raw.send(server, "POST", f"/{bucket}/k", {"content-type": kind}, whole)
    assert answer.status == 405, answer.body
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    assert s3.put_object(Bucket=bucket, Key="after", Body=b"x")
