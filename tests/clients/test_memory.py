"""`--memory` is a contract: whatever clients send and however slowly they take their answers,
the process stays below it. Here at the least that the server takes."""

import concurrent.futures
import contextlib
import hashlib
import socket
import time

import pytest
from botocore.exceptions import ClientError

import harness
import raw
from harness import KIB, MIB, body, code_of

MEMORY = 64 * MIB


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A server with a thousand keys of 1,024 bytes that grow when they are encoded."""
    server = harness.Server(tmp_path_factory.mktemp("least") / "disk", "--memory", "64MiB")
    s3 = server.client()
    s3.create_bucket(Bucket="memory")

    def fill(number):
        s3.put_object(Bucket="memory", Key=long_key(number), Body=b"x", Metadata={"m": "v" * 1_900})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, range(1_000)))
    s3.put_object(Bucket="memory", Key="large", Body=body(16 * MIB))
    assert server.stop() == 0
    yield server
    server.kill()


@pytest.fixture
def least(filled):
    """Started anew, so that each test has a peak of its own."""
    filled.kill()
    return filled.restart()


def long_key(number):
    return f"{number:04}" + "é" * 510


@contextlib.contextmanager
def within_memory(server):
    yield
    highest = server.memory_bytes("VmHWM")
    assert server.process.poll() is None, server.complaints()
    assert highest <= MEMORY, f"{highest / MIB:.1f} MiB at the peak"


def send_slowly(server, method, path, query=(), headers=None, data=b"", lines=""):
    """Sends a signed request and leaves its answer in the socket."""
    signed = raw.Signer(server).headers(method, path, query, headers, hashlib.sha256(data).hexdigest())
    if data:
        signed["content-length"] = str(len(data))
    target = path
    if query:
        target += "?" + "&".join(f"{raw.quote(name)}={raw.quote(value)}" for name, value in query)
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in signed.items()) + lines + "\r\n"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
    connection.settimeout(10)
    connection.connect((server.host, server.port))
    connection.sendall(head.encode() + data)
    return connection


def close_all(connections):
    for connection in connections:
        connection.close()


def test_listings_of_long_keys_that_nobody_takes(least):
    queries = [
        [("list-type", "2"), ("encoding-type", "url")],
        [("list-type", "2")],
        [("versions", ""), ("encoding-type", "url")],
    ]
    with within_memory(least):
        slow = [send_slowly(least, "GET", "/memory", sorted(queries[n % 3])) for n in range(30)]
        time.sleep(1.5)
        close_all(slow)


def test_large_documents(least):
    small = b"<Object><Key>a</Key></Object>"
    long = b"<Object><Key>" + long_key(0).encode() + b"</Key></Object>"
    documents = [small * 60_000, small * 1_000, long * 1_000, b"<a>" * 300_000, small * 250_000]

    def delete(number):
        data = b"<Delete>" + documents[number % len(documents)] + b"</Delete>"
        with contextlib.suppress(OSError):
            raw.request(least, "POST", "/memory", [("delete", "")], body=data)

    with within_memory(least), concurrent.futures.ThreadPoolExecutor(10) as pool:
        list(pool.map(delete, range(20)))


def test_large_heads(least):
    """As large as heads may be, while each waits for the body that never comes."""
    waiting = []
    with within_memory(least):
        for number in range(90):
            headers = {f"x-amz-meta-{number}": "v" for number in range(90)}
            path = f"/memory/{raw.quote('é' * 500)}"
            signed = raw.Signer(least).headers("PUT", path, headers=headers)
            signed["content-length"] = str(MIB)
            lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
            lines += "".join(f"h{number}: {'w' * 8}\r\n" for number in range(300))
            connection = socket.create_connection((least.host, least.port), timeout=10)
            with contextlib.suppress(OSError):
                connection.sendall(f"PUT {path} HTTP/1.1\r\n{lines}\r\n".encode() + b"x" * 1000)
            waiting.append(connection)
        # Half a head each, up to the limit.
        for _ in range(60):
            connection = socket.create_connection((least.host, least.port), timeout=10)
            with contextlib.suppress(OSError):
                connection.sendall(b"GET / HTTP/1.1\r\nhost: " + b"x" * 16_000)
            waiting.append(connection)
        time.sleep(2)
        close_all(waiting)


def test_slow_readers_while_others_write(least):
    """Readers that began at different times hold on to what they read, and to nothing else."""
    s3 = least.client()

    def put(number):
        try:
            s3.put_object(Bucket="memory", Key=f"churn{number}", Body=b"y" * 3_000, Metadata={"m": "v" * 1_900})
        except ClientError as error:
            assert code_of(error) == (503, "SlowDown")

    slow = []
    with within_memory(least), concurrent.futures.ThreadPoolExecutor(8) as pool:
        for round_number in range(6):
            slow += [send_slowly(least, "GET", "/memory/large", headers={"range": f"bytes={n}-"}) for n in range(2)]
            list(pool.map(put, range(round_number * 300, round_number * 300 + 300)))
        close_all(slow)


def test_half_heads_keep_nobody_out(least):
    half = []
    for _ in range(200):
        connection = socket.create_connection((least.host, least.port), timeout=10)
        with contextlib.suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: ")
        half.append(connection)
    started = time.monotonic()
    with within_memory(least):
        assert raw.send(least, "GET", "/_cullet/health").status == 200
    assert time.monotonic() - started < 5
    close_all(half)
