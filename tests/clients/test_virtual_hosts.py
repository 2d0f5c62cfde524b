"""Buckets in the host's name, under the domains that the server was told of."""

import socket
import urllib.request

import httpx
import pytest
from botocore.exceptions import ClientError

import harness
import raw
from harness import MIB, body, code_of
from test_front_door import Named
from test_signatures import crc32

DOMAIN = "s3.localhost"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("virtual")
    log = directory / "access.log"
    running = harness.Server(
        directory / "disk", "--domain", "S3.localhost", "--domain", "other.example.com", "--access-log", log
    )
    running.access_log = log
    yield running
    assert running.process.poll() is None, running.complaints()
    assert running.stop() == 0, running.complaints()


@pytest.fixture(scope="module")
def path_style(server):
    return server.client()


@pytest.fixture
def virtual(server, monkeypatch):
    """boto3 with the bucket in the host; whatever is under the domain is this machine."""
    resolve = socket.getaddrinfo

    def here(host, *arguments, **more):
        name = host.decode() if isinstance(host, bytes) else host
        return resolve("127.0.0.1" if name.endswith(DOMAIN) else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    return harness.client(f"http://{DOMAIN}:{server.port}", s3={"addressing_style": "virtual"})


def named(server, name):
    return Named(server, name)


def test_boto3_with_the_bucket_in_the_host(server, virtual, path_style):
    hosts = []
    virtual.meta.events.register("before-send.s3", lambda request, **_: hosts.append(request.url))
    virtual.create_bucket(Bucket="photos")
    data = body(3 * MIB)
    for key in ("cat.jpg", "2026/cat.jpg", "//", "a//b", "/leading", "ümläut +%", "_cullet/health", "_cullet/metrics"):
        virtual.put_object(Bucket="photos", Key=key, Body=data[: len(key)])
        assert virtual.get_object(Bucket="photos", Key=key)["Body"].read() == data[: len(key)]
        assert path_style.get_object(Bucket="photos", Key=key)["Body"].read() == data[: len(key)], key
    assert f"http://photos.{DOMAIN}:{server.port}/2026/cat.jpg" in hosts
    virtual.put_object(Bucket="photos", Key="large", Body=data)
    assert virtual.get_object(Bucket="photos", Key="large")["Body"].read() == data
    listed = [entry["Key"] for entry in virtual.list_objects_v2(Bucket="photos")["Contents"]]
    assert "//" in listed and "/leading" in listed
    objects = [{"Key": key} for key in listed]
    assert len(virtual.delete_objects(Bucket="photos", Delete={"Objects": objects})["Deleted"]) == len(objects)
    virtual.delete_bucket(Bucket="photos")
    with pytest.raises(ClientError) as error:
        virtual.head_bucket(Bucket="photos")
    assert code_of(error)[0] == 404


def test_a_bucket_with_dots(server, path_style):
    host = named(server, f"my.own.photos.{DOMAIN}")
    assert raw.request(host, "PUT", "/").status == 200
    assert raw.request(host, "PUT", "/k", body=b"dotted").status == 200
    assert path_style.get_object(Bucket="my.own.photos", Key="k")["Body"].read() == b"dotted"


def test_names_of_any_case_with_and_without_a_port(server, path_style):
    path_style.create_bucket(Bucket="cased")
    path_style.put_object(Bucket="cased", Key="k", Body=b"x")
    for host in (f"Cased.S3.LocalHost:{server.port}", "cased.s3.localhost", "cased.s3.localhost.", "cased.OTHER.example.com:80"):
        like = named(server, "")
        like.address = host
        assert raw.request(like, "GET", "/k").body == b"x", host


def test_other_hosts_have_the_bucket_in_the_path(server, path_style):
    path_style.create_bucket(Bucket="in-path")
    path_style.put_object(Bucket="in-path", Key="k", Body=b"x")
    for host in (DOMAIN, "other.example.com", "localhost", "127.0.0.1", "elsewhere.example.org"):
        assert raw.request(named(server, host), "GET", "/in-path/k").body == b"x", host
        assert raw.send(named(server, host), "GET", "/_cullet/health").status == 200


def test_hosts_outside_the_domains_are_still_looked_at(server, path_style):
    path_style.create_bucket(Bucket="outside")
    answer = raw.request(named(server, "outside.example.org"), "PUT", "/new")
    assert tuple(answer) == (501, "NotImplemented")
    assert b"--domain" in answer.body


def test_a_name_that_no_bucket_can_have(server):
    answer = raw.request(named(server, f"x.{DOMAIN}"), "GET", "/k")
    assert tuple(answer) == (400, "InvalidBucketName")


def test_pages_are_keys_where_the_host_names_a_bucket(server, path_style):
    path_style.create_bucket(Bucket="paged")
    host = named(server, f"paged.{DOMAIN}")
    for path in ("/_cullet/health", "/_cullet/metrics", "/_cullet/x"):
        assert raw.send(host, "GET", path).code == "AccessDenied"
        assert tuple(raw.request(host, "GET", path)) == (404, "NoSuchKey")
        assert raw.request(host, "PUT", path, body=b"mine").status == 200
        assert raw.request(host, "GET", path).body == b"mine"


def test_the_host_is_signed(server, path_style):
    for name in ("mine", "theirs"):
        path_style.create_bucket(Bucket=name + "-bucket")
        path_style.put_object(Bucket=name + "-bucket", Key="k", Body=name.encode())
    mine, theirs = (named(server, f"{name}-bucket.{DOMAIN}") for name in ("mine", "theirs"))
    presigned = raw.Signer(mine).presigned("GET", "/k", 60)
    assert raw.send(mine, "GET", f"/k?{presigned}").body == b"mine"
    assert tuple(raw.send(theirs, "GET", f"/k?{presigned}")) == (403, "SignatureDoesNotMatch")


def test_a_presigned_url(server, virtual):
    virtual.create_bucket(Bucket="presigned")
    url = virtual.generate_presigned_url("put_object", Params={"Bucket": "presigned", "Key": "a b/c"})
    assert url.startswith(f"http://presigned.{DOMAIN}")
    urllib.request.urlopen(urllib.request.Request(url, b"by url", method="PUT")).close()
    url = virtual.generate_presigned_url("get_object", Params={"Bucket": "presigned", "Key": "a b/c"})
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"by url"


def test_chunks_without_a_length(server, path_style):
    """Only an object's body may come so; with the bucket in the host, `/k` is one."""
    path_style.create_bucket(Bucket="chunked")
    host = named(server, f"chunked.{DOMAIN}")
    data = f"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:{crc32(b'hello')}\r\n\r\n".encode()
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-trailer": "x-amz-checksum-crc32",
        "x-amz-decoded-content-length": "5",
    }
    payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    signed = raw.Signer(host).headers("PUT", "/k", headers=headers, payload=payload)
    head = "PUT /k HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in signed.items())
    head += "transfer-encoding: chunked\r\n"
    with socket.create_connection((server.host, server.port), timeout=20) as connection:
        connection.sendall(head.encode() + b"\r\n%x\r\n" % len(data) + data + b"\r\n0\r\n\r\n")
        assert raw.read_status(connection) == 200
    assert path_style.get_object(Bucket="chunked", Key="k")["Body"].read() == b"hello"


def test_http2_has_it_in_its_authority(server, virtual):
    virtual.create_bucket(Bucket="modern")
    host = named(server, f"modern.{DOMAIN}")
    with httpx.Client(http1=False, http2=True) as client:
        url = f"http://{host.address}/k"
        for method, data in [("PUT", b"two"), ("GET", None)]:
            headers = raw.Signer(host).headers(method, "/k")
            headers.pop("host")
            answer = client.request(method, url, headers=headers, content=data)
            assert (answer.http_version, answer.status_code) == ("HTTP/2", 200), answer.text
        assert answer.content == b"two"


def test_the_access_log_names_the_bucket(server, path_style):
    path_style.create_bucket(Bucket="logged")
    raw.request(named(server, f"logged.{DOMAIN}"), "PUT", "/a-key", body=b"x")
    assert "/logged/a-key" in server.access_log.read_text()


@pytest.mark.parametrize("name", ["1.2.3.4", "a..b", "s3.example.com:9000", ""])
def test_what_is_no_domain(tmp_path, name):
    from test_process import refused

    assert "domain" in refused("--domain", name, tmp_path / "disk", status=2)
