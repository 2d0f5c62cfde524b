"""Large, slow and broken bodies, and what they cost the server."""

import concurrent.futures
import hashlib
import io
import socket
import time

import pytest
from botocore.exceptions import ClientError

import raw
from harness import KIB, MIB, body, code_of

MEMORY = 128 * MIB


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server that may use 128 MiB, with one bucket."""
    import harness

    running = harness.Server(tmp_path_factory.mktemp("small") / "disk", "--memory", "128MiB")
    running.client().create_bucket(Bucket="streams")
    yield running
    highest = running.memory_bytes("VmHWM")
    assert running.stop() == 0
    assert highest <= MEMORY, f"{highest / MIB:.1f} MiB at the peak"


class Stream(io.RawIOBase):
    """A body that is made while it is read, so that the test itself stays small."""

    def __init__(self, size):
        self.size, self.at, self.block = size, 0, body(MIB)
        self.md5 = hashlib.md5()

    def readable(self):
        return True

    def seekable(self):
        return False

    def __len__(self):
        return self.size

    def readinto(self, buffer):
        start = self.at % MIB
        count = min(len(buffer), self.size - self.at, MIB - start)
        buffer[:count] = self.block[start : start + count]
        self.md5.update(buffer[:count])
        self.at += count
        return count


def put_stream(server, key, size):
    import http.client

    stream = Stream(size)
    connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
    path = f"/streams/{key}"
    headers = raw.Signer(server).headers("PUT", path)
    headers["content-length"] = str(size)
    connection.request("PUT", path, body=io.BufferedReader(stream, 256 * KIB), headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    assert answer.headers["etag"] == f'"{stream.md5.hexdigest()}"'
    connection.close()
    return stream.md5.hexdigest()


def get_md5(s3, key):
    md5, size = hashlib.md5(), 0
    for piece in s3.get_object(Bucket="streams", Key=key)["Body"].iter_chunks(256 * KIB):
        md5.update(piece)
        size += len(piece)
    return md5.hexdigest(), size


def test_an_object_larger_than_the_memory(small):
    size = 200 * MIB
    digest = put_stream(small, "large", size)
    assert get_md5(small.client(), "large") == (digest, size)
    assert small.memory_bytes("VmHWM") <= MEMORY
    small.client().delete_object(Bucket="streams", Key="large")


def test_many_large_objects_at_once(small):
    size = 24 * MIB
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        digests = list(pool.map(lambda n: put_stream(small, f"many-{n}", size), range(12)))
        s3 = small.client()
        assert list(pool.map(lambda n: get_md5(s3, f"many-{n}"), range(12))) == [(d, size) for d in digests]
    assert small.memory_bytes("VmHWM") <= MEMORY


@pytest.mark.parametrize("sent", [0, 1, 5000, 70_000, MIB + 5, 4 * MIB - 1])
def test_half_a_body_leaves_nothing(small, sent):
    s3 = small.client()
    s3.put_object(Bucket="streams", Key="half", Body=b"old")
    connection = raw.start_put(small, "/streams/half", 4 * MIB)
    connection.sendall(body(4 * MIB)[:sent])
    connection.close()
    new = raw.start_put(small, "/streams/half-new", 4 * MIB)
    new.sendall(body(4 * MIB)[:sent])
    new.shutdown(socket.SHUT_WR)
    assert raw.read_status(new) in (None, 400)
    new.close()
    time.sleep(0.2)
    assert s3.get_object(Bucket="streams", Key="half")["Body"].read() == b"old"
    assert s3.list_objects_v2(Bucket="streams", Prefix="half")["KeyCount"] == 1


def test_half_bodies_again_and_again_cost_nothing(small):
    piece = body(900 * KIB)
    for _ in range(150):
        connection = raw.start_put(small, "/streams/never", 8 * MIB)
        connection.sendall(piece)
        connection.close()
    assert small.memory_bytes("VmHWM") <= MEMORY
    assert small.client().list_objects_v2(Bucket="streams", Prefix="never")["KeyCount"] == 0


def test_slow_writers_hold_nobody_up(small):
    s3 = small.client()
    data = body(64 * KIB)
    slow = [raw.start_put(small, f"/streams/slow-{number}", len(data)) for number in range(20)]
    for connection in slow:
        connection.sendall(data[:100])
    started = time.monotonic()
    for number in range(50):
        s3.put_object(Bucket="streams", Key="quick", Body=b"%d" % number)
        assert s3.get_object(Bucket="streams", Key="quick")["Body"].read() == b"%d" % number
    assert time.monotonic() - started < 10
    for connection in slow:
        connection.sendall(data[100:])
        assert raw.read_status(connection) == 200
        connection.close()
    for number in range(20):
        assert s3.get_object(Bucket="streams", Key=f"slow-{number}")["Body"].read() == data


def test_slow_readers_hold_nobody_up(small):
    s3 = small.client()
    data = body(8 * MIB)
    s3.put_object(Bucket="streams", Key="read-slowly", Body=data)
    slow = []
    for _ in range(12):
        try:
            slow.append(s3.get_object(Bucket="streams", Key="read-slowly")["Body"])
            slow[-1].read(1)
        except ClientError as error:
            assert code_of(error) == (503, "SlowDown")
            break
    assert len(slow) >= 4
    started = time.monotonic()
    for number in range(50):
        s3.put_object(Bucket="streams", Key="quick", Body=b"%d" % number)
        assert s3.get_object(Bucket="streams", Key="quick")["Body"].read() == b"%d" % number
    assert time.monotonic() - started < 10
    assert small.memory_bytes("VmHWM") <= MEMORY
    for stream in slow:
        assert stream.read() == data[1:]


def test_readers_that_leave(small):
    s3 = small.client()
    s3.put_object(Bucket="streams", Key="left", Body=body(8 * MIB))
    for _ in range(100):
        signed = raw.Signer(small).headers("GET", "/streams/left", payload=raw.EMPTY_SHA256)
        head = "GET /streams/left HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in signed.items()) + "\r\n"
        connection = socket.create_connection((small.host, small.port))
        connection.sendall(head.encode())
        connection.recv(1000)
        connection.close()
    assert small.memory_bytes("VmHWM") <= MEMORY
    assert hashlib.md5(s3.get_object(Bucket="streams", Key="left")["Body"].read()).digest()


def serves(server):
    s3 = server.client()
    s3.put_object(Bucket="streams", Key="idle", Body=b"x")
    return s3.get_object(Bucket="streams", Key="idle")["Body"].read() == b"x"


def test_idle_connections(small):
    idle = [socket.create_connection((small.host, small.port)) for _ in range(100)]
    try:
        for connection in idle[:50]:
            connection.sendall(b"GET /streams HT")
        assert serves(small)
    finally:
        for connection in idle:
            connection.close()


def test_more_connections_than_there_is_room_for(small):
    """The process does not grow, and whoever only sits there keeps nobody else out."""
    idle = [socket.create_connection((small.host, small.port)) for _ in range(600)]
    try:
        time.sleep(1)
        assert serves(small)
        assert small.memory_bytes("VmHWM") <= MEMORY
    finally:
        for connection in idle:
            connection.close()
    assert serves(small)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PUT /streams/k HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"PUT /streams/k HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"PUT /streams/k HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /%zz HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 300_000 + b"\r\n\r\n",
        bytes(range(256)) * 40,
    ],
    ids=lambda garbage: repr(garbage[:16]),
)
def test_garbage(small, garbage):
    connection = socket.create_connection((small.host, small.port), timeout=10)
    try:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        status = raw.read_status(connection)
    except (BrokenPipeError, ConnectionResetError):
        status = None
    connection.close()
    assert status is None or 400 <= status < 500 or status == 505
    assert small.process.poll() is None


def test_a_body_without_a_length(small):
    signed = raw.Signer(small).headers("PUT", "/streams/unknown")
    signed["transfer-encoding"] = "chunked"
    head = "PUT /streams/unknown HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in signed.items()) + "\r\n"
    connection = socket.create_connection((small.host, small.port), timeout=10)
    connection.sendall(head.encode() + b"3\r\nabc\r\n0\r\n\r\n")
    assert raw.read_status(connection) == 411
    connection.close()


def test_a_form_without_a_length(small):
    connection = socket.create_connection((small.host, small.port), timeout=10)
    head = b"POST /streams HTTP/1.1\r\nhost: %s\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    head += b"transfer-encoding: chunked\r\n\r\n"
    connection.sendall(head % small.address.encode() + b"3\r\n--b\r\n")
    assert raw.read_status(connection) == 411
    connection.close()


def test_more_than_one_put_may_hold(small):
    path = "/streams/too-large"
    signed = raw.Signer(small).headers("PUT", path)
    signed["content-length"] = str(6 << 40)
    head = f"PUT {path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in signed.items()) + "\r\n"
    connection = socket.create_connection((small.host, small.port), timeout=10)
    connection.sendall(head.encode())
    assert raw.read_status(connection) == 400
    connection.close()


def test_a_flood_gets_slow_down_or_service(small):
    """Past the memory requests wait or get 503; the process does not grow, and goes on."""
    data = body(2 * MIB)
    s3 = small.client(read_timeout=120, max_pool_connections=80)

    def put(number):
        try:
            s3.put_object(Bucket="streams", Key=f"flood-{number}", Body=data)
            return True
        except ClientError as error:
            assert code_of(error) == (503, "SlowDown")
            return False

    with concurrent.futures.ThreadPoolExecutor(80) as pool:
        served = [number for number, well in enumerate(pool.map(put, range(160))) if well]
    assert served
    assert small.memory_bytes("VmHWM") <= MEMORY
    assert s3.list_objects_v2(Bucket="streams", Prefix="flood-")["KeyCount"] == len(served)
    for number in served[:5]:
        assert s3.get_object(Bucket="streams", Key=f"flood-{number}")["Body"].read() == data
