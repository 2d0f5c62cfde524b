"""What the front door refuses or treats specially, as only a client of one's own would send it."""

import base64
import hashlib
import socket

import pytest

import raw
from harness import MIB, REGION, body

INVENTED = (
    f"AWS4-HMAC-SHA256 Credential=A/20260101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature=0"
)


def test_a_form_with_an_invented_signature_takes_no_memory(own_server):
    """It used to be parsed, and buffered without end, before anybody asked who sent it."""
    server = own_server()
    before = server.memory_bytes("VmHWM")
    head = (
        f"POST /abc HTTP/1.1\r\nhost: {server.address}\r\nauthorization: {INVENTED}\r\n"
        "content-type: multipart/form-data; boundary=b\r\ntransfer-encoding: chunked\r\n"
        "x-amz-decoded-content-length: 1\r\n\r\n"
    )
    start = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    block = b"%x\r\n" % MIB + bytes(MIB) + b"\r\n"
    connection = socket.create_connection((server.host, server.port), timeout=10)
    connection.sendall(head.encode() + b"%x\r\n" % len(start) + start + b"\r\n")
    assert raw.read_status(connection) == 411
    try:
        for _ in range(64):
            connection.sendall(block)
    except OSError:
        pass
    connection.close()
    assert server.memory_bytes("VmHWM") < before + 8 * MIB

    headers = {"authorization": INVENTED, "content-type": "multipart/form-data; boundary=b"}
    assert raw.send(server, "POST", "/abc", headers, start).status == 400
    whole = start + b"x\r\n--b--\r\n"
    assert tuple(raw.send(server, "POST", "/abc", headers, whole)) == (403, "AccessDenied")


def test_lengths_must_be_said(server, bucket):
    for method, path in (("POST", f"/{bucket}?delete"), ("PUT", f"/{bucket}"), ("PUT", f"/{bucket}/k")):
        signed = raw.Signer(server).headers(method, path.split("?")[0], query=[("delete", "")] if "?" in path else ())
        signed["transfer-encoding"] = "chunked"
        signed["x-amz-decoded-content-length"] = "3"
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        connection = socket.create_connection((server.host, server.port), timeout=10)
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{lines}\r\n3\r\nabc\r\n0\r\n\r\n".encode())
        assert raw.read_status(connection) == 411, path
        connection.close()


def delete_many(server, bucket, document):
    md5 = base64.b64encode(hashlib.md5(document).digest()).decode()
    headers = {"content-md5": md5, "content-type": "application/xml"}
    return raw.request(server, "POST", f"/{bucket}", query=[("delete", "")], headers=headers, body=document)


def test_character_data_deletes_nothing(server, s3, bucket):
    """The parser drops it, so that another key would be deleted."""
    for key in ("logs/", "logs/2026"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    document = b"<Delete><Object><Key>logs/<![CDATA[2026]]></Key></Object></Delete>"
    assert tuple(delete_many(server, bucket, document)) == (400, "MalformedXML")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 2


def test_documents_are_bounded(own_server):
    server = own_server("--memory", "64MiB")
    s3 = server.client()
    s3.create_bucket(Bucket="bounded")
    entry = b"<Object><Key>a</Key></Object>"
    for document in (b"<Delete>" + entry * 20_000 + b"</Delete>", b"<Delete>" + entry * 290_000 + b"</Delete>"):
        answer = delete_many(server, "bounded", document)
        assert answer.status == 400 and answer.code in ("MalformedXML", "MaxMessageLengthExceeded")
    assert server.memory_bytes("VmHWM") <= 64 * MIB
    names = [f"key-{number:0100}" for number in range(1000)]
    answer = s3.delete_objects(Bucket="bounded", Delete={"Objects": [{"Key": name} for name in names]})
    assert len(answer["Deleted"]) == 1000


def test_slow_transfers_leave_listing_and_deleting_alone(own_server):
    server = own_server("--memory", "64MiB")
    s3 = server.client()
    s3.create_bucket(Bucket="busy")
    s3.put_object(Bucket="busy", Key="large", Body=body(16 * MIB))
    connections = []
    for number in range(12):
        connections.append(raw.start_put(server, f"/busy/slow-{number}", 8 * MIB))
        reader = socket.create_connection((server.host, server.port), timeout=30)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        signed = raw.Signer(server).headers("GET", "/busy/large")
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        reader.sendall(f"GET /busy/large HTTP/1.1\r\n{lines}\r\n".encode())
        connections.append(reader)
    try:
        assert s3.list_objects_v2(Bucket="busy")["KeyCount"] == 1
        objects = [{"Key": f"none-{number}"} for number in range(500)]
        assert len(s3.delete_objects(Bucket="busy", Delete={"Objects": objects})["Deleted"]) == 500
    finally:
        for connection in connections:
            connection.close()


def test_a_head_of_a_part_is_206(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    answer = raw.request(server, "HEAD", f"/{bucket}/k", headers={"range": "bytes=2-5"})
    assert answer.status == 206 and answer.body == b""
    assert answer.headers["content-range"] == "bytes 2-5/10" and answer.headers["content-length"] == "4"
    answer = raw.request(server, "HEAD", f"/{bucket}/k", query=[("partNumber", "1")])
    assert answer.status == 206 and answer.headers["content-range"] == "bytes 0-9/10"
    assert raw.request(server, "HEAD", f"/{bucket}/k").status == 200
    expires = "Wed, 21 Oct 2015 07:28:00 GMT"
    answer = raw.request(server, "HEAD", f"/{bucket}/k", query=[("response-expires", expires)])
    assert (answer.status, answer.headers["expires"]) == (200, expires)


def test_a_resumed_download_is_of_one_object(server, s3, bucket):
    old = s3.put_object(Bucket=bucket, Key="k", Body=b"old-old-old")["ETag"]
    part = {"range": "bytes=4-"}
    answer = raw.request(server, "GET", f"/{bucket}/k", headers={**part, "if-range": old})
    assert (answer.status, answer.body) == (206, b"old-old")
    s3.put_object(Bucket=bucket, Key="k", Body=b"new-new-new")
    for validator in (old, "Wed, 21 Oct 2015 07:28:00 GMT", "nonsense"):
        answer = raw.request(server, "GET", f"/{bucket}/k", headers={**part, "if-range": validator})
        assert (answer.status, answer.body) == (200, b"new-new-new"), validator
    modified = answer.headers["last-modified"]
    answer = raw.request(server, "GET", f"/{bucket}/k", headers={**part, "if-range": modified})
    assert (answer.status, answer.body) == (206, b"new-new")


@pytest.mark.parametrize(
    "method, path, query",
    [
        ("GET", "", [("max-keys", "\x01")]),
        ("GET", "", [("list-type", "2"), ("fetch-owner", "\x01")]),
        ("GET", "", [("versions", ""), ("key-marker", "a"), ("version-id-marker", "\x01")]),
        ("GET", "/k", [("partNumber", "\x01")]),
        ("GET", "/k", [("response-expires", "\x01")]),
        ("HEAD", "/k", [("response-content-type", "a\nb")]),
        ("GET", "/\x01", []),
    ],
)
def test_control_characters_are_the_clients_mistake(server, s3, bucket, method, path, query):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    answer = raw.request(server, method, f"/{bucket}" + raw.quote(path, safe="/"), query=query)
    assert 400 <= answer.status < 500, answer
    assert answer.headers["x-amz-request-id"]
    assert raw.request(server, "GET", "/", query=[("prefix", "\x01")]).status == 400


def test_hoisted_headers_are_honoured_or_refused(server, s3, bucket):
    path = f"/{bucket}/hoisted"

    def put(*query):
        presigned = raw.Signer(server).presigned("PUT", path, 60, query=query)
        return raw.send(server, "PUT", f"{path}?{presigned}", body=b"123456789")

    # Presigners that do not know the body yet put the checksum of an empty one there.
    empty = [("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-sdk-checksum-algorithm", "CRC32")]
    assert put(("x-amz-meta-colour", "blue green"), *empty).status == 200
    assert s3.head_object(Bucket=bucket, Key="hoisted")["Metadata"] == {"colour": "blue green"}
    for name, value in [
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-acl", "public-read"),
        ("x-amz-tagging", "a=b"),
    ]:
        answer = put((name, value))
        assert tuple(answer) == (501, "NotImplemented"), name
        assert name.encode() in answer.body
    assert put(("x-amz-acl", "private")).status == 200


class Named:
    """The server under a name, which only the Host says."""

    def __init__(self, server, name):
        self.host, self.port, self.address = server.host, server.port, f"{name}:{server.port}"


def test_a_bucket_in_the_host_is_never_another_bucket(server, s3, bucket):
    s3.create_bucket(Bucket="bystander")
    virtual = Named(server, f"{bucket}.s3.localhost")
    for method, path in [("PUT", "/a-new-one"), ("PUT", "/logs/x"), ("DELETE", "/bystander")]:
        answer = raw.request(virtual, method, path)
        assert tuple(answer) == (501, "NotImplemented"), path
        assert b"path-style" in answer.body
    names = [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
    assert "bystander" in names and "a-new-one" not in names
    # Path-style clients may call the server what they like.
    for named in (virtual, Named(server, "s3.example.com"), Named(server, "localhost")):
        assert raw.request(named, "PUT", f"/{bucket}/k", body=b"x").status == 200
        assert raw.request(named, "GET", f"/{bucket}/k").body == b"x"
    assert raw.request(Named(server, "s3.example.com"), "DELETE", "/bystander").status == 204
