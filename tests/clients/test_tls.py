"""HTTPS, certificates that change, and HTTP/2."""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import time

import h2.config
import h2.connection
import h2.events
import h2.settings
import httpx
import pytest

import harness
import raw
from certificates import Authority
from harness import MIB, body
from test_process import refused

AWS = pathlib.Path(sys.executable).parent / "aws"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(authority, tmp_path_factory):
    """A server with TLS for the tests that leave it as they found it."""
    certificate, key = authority.write("shared")
    disk = tmp_path_factory.mktemp("secure") / "disk"
    server = harness.Server(disk, "--tls-cert", certificate, "--tls-key", key)
    server.client(verify=str(authority.path)).create_bucket(Bucket="tls")
    yield server
    assert server.process.poll() is None, server.complaints()
    assert server.stop() == 0, server.complaints()


@pytest.fixture
def s3(secure, authority):
    return secure.client(verify=str(authority.path))


def context(authority, *protocols):
    made = ssl.create_default_context(cafile=str(authority.path))
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def connect(server, authority, *protocols):
    plain = socket.create_connection((server.host, server.port), timeout=20)
    return context(authority, *protocols).wrap_socket(plain, server_hostname="127.0.0.1")


def ask(connection, server, target="/_cullet/health"):
    """One request over HTTP/1.1: (status, the rest)."""
    connection.sendall(f"GET {target} HTTP/1.1\r\nhost: {server.address}\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(4096)
        assert piece, data
        data += piece
    return int(data.split()[1]), data


def serial(server, authority):
    """The serial number of the certificate that new connections see."""
    with connect(server, authority) as connection:
        return connection.getpeercert()["serialNumber"]


def wait_for(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


# TLS -----------------------------------------------------------------------------------


def test_boto3_over_https(secure, s3):
    assert secure.url.startswith("https://")
    data = body(7 * MIB)
    s3.put_object(Bucket="tls", Key="k", Body=data)
    assert s3.get_object(Bucket="tls", Key="k")["Body"].read() == data


def test_aws_over_https(secure, authority, tmp_path):
    data = body(3 * MIB)
    (tmp_path / "up").write_bytes(data)
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env.update(
        AWS_ACCESS_KEY_ID=harness.ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY=harness.SECRET_KEY,
        AWS_DEFAULT_REGION=harness.REGION,
        AWS_CA_BUNDLE=str(authority.path),
        AWS_CONFIG_FILE=str(tmp_path / "none"),
        AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "none"),
    )
    for source, target in [("up", "s3://tls/cli"), ("s3://tls/cli", "down")]:
        subprocess.run(
            [AWS, "--endpoint-url", secure.url, "s3", "cp", source, target],
            env=env, cwd=tmp_path, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    assert (tmp_path / "down").read_bytes() == data


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions(secure, authority, version):
    made = context(authority)
    made.minimum_version = made.maximum_version = version
    plain = socket.create_connection((secure.host, secure.port), timeout=20)
    with made.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        assert connection.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert ask(connection, secure)[0] == 200


@pytest.mark.parametrize("kind, form", [("rsa", "PKCS8"), ("rsa", "TraditionalOpenSSL"), ("ec", "TraditionalOpenSSL")])
def test_kinds_of_keys(own_server, authority, kind, form):
    certificate, key = authority.write("kinds", kind=kind, form=form)
    server = own_server("--tls-cert", certificate, "--tls-key", key)
    with connect(server, authority) as connection:
        assert ask(connection, server)[0] == 200


def test_plain_http_is_told_to_use_https(secure):
    answer = raw.send(secure, "GET", "/")
    assert answer.status == 400
    assert b"https://" in answer.body
    assert answer.headers["x-amz-request-id"]


def test_a_stalled_handshake_ends(secure, authority):
    begun = time.monotonic()
    silent = socket.create_connection((secure.host, secure.port), timeout=30)
    half = socket.create_connection((secure.host, secure.port), timeout=30)
    half.sendall(b"\x16\x03\x01\x02\x00\x01")
    for connection in (silent, half):
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(10) == b""
        connection.close()
    assert 5 < time.monotonic() - begun < 20
    with connect(secure, authority) as connection:
        assert ask(connection, secure)[0] == 200


def test_stalled_handshakes_keep_nobody_out(own_server, authority):
    certificate, key = authority.write("stalled")
    server = own_server("--memory", "64MiB", "--tls-cert", certificate, "--tls-key", key)
    stalled = []
    for _ in range(150):
        connection = socket.create_connection((server.host, server.port), timeout=10)
        with contextlib.suppress(OSError):
            connection.sendall(b"\x16\x03\x01\x02\x00\x01")
        stalled.append(connection)
    begun = time.monotonic()
    with connect(server, authority) as connection:
        assert ask(connection, server)[0] == 200
    assert time.monotonic() - begun < 5
    for connection in stalled:
        connection.close()


def test_memory_with_many_tls_connections(own_server, authority):
    """Every place taken by a session that has a large head half sent, and answers nobody takes."""
    certificate, key = authority.write("memory")
    server = own_server("--memory", "64MiB", "--tls-cert", certificate, "--tls-key", key)
    s3 = server.client(verify=str(authority.path))
    s3.create_bucket(Bucket="memory")
    s3.put_object(Bucket="memory", Key="large", Body=body(16 * MIB))
    signed = raw.Signer(server).headers("GET", "/memory/large")
    lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
    whole = f"GET /memory/large HTTP/1.1\r\n{lines}\r\n".encode()
    half = f"GET / HTTP/1.1\r\nhost: {'x' * 15_000}".encode()
    held = []
    for number in range(90):
        with contextlib.suppress(OSError):
            connection = connect(server, authority)
            connection.sendall(whole if number % 2 else half)
            held.append(connection)
    time.sleep(2)
    assert server.process.poll() is None, server.complaints()
    assert server.memory_bytes("VmHWM") <= 64 * MIB
    for connection in held:
        connection.close()


# Certificates --------------------------------------------------------------------------


def test_certificates_that_cannot_be_used(tmp_path, authority):
    certificate, key = authority.write("good")
    _, other = authority.write("other")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    disk = tmp_path / "disk"
    for arguments, word in [
        (("--tls-cert", tmp_path / "none", "--tls-key", key), "none"),
        (("--tls-cert", certificate, "--tls-key", tmp_path), "cannot read --tls-key"),
        (("--tls-cert", empty, "--tls-key", key), "no certificate"),
        (("--tls-cert", certificate, "--tls-key", empty), "no private key"),
        (("--tls-cert", certificate, "--tls-key", other), "does not match"),
    ]:
        assert word in refused(*arguments, disk), arguments
        assert not disk.exists()
    for arguments in [("--tls-cert", certificate), ("--tls-key", key)]:
        assert "--tls-" in refused(*arguments, disk, status=2)


def test_an_expired_certificate_is_said(own_server, authority):
    certificate, key = authority.write("expired", days=-1)
    server = own_server("--tls-cert", certificate, "--tls-key", key)
    assert "expired" in server.complaints()


def test_a_new_certificate_is_used_and_a_broken_one_is_not(own_server, authority):
    certificate, key = authority.write("swap")
    server = own_server("--tls-cert", certificate, "--tls-key", key)
    before = serial(server, authority)
    with connect(server, authority) as old:
        assert ask(old, server)[0] == 200
        # The certificate comes before its key: for a moment they do not match.
        fresh, fresh_key = authority.issue(days=9)
        certificate.write_bytes(fresh)
        time.sleep(4)
        assert serial(server, authority) == before
        key.write_bytes(fresh_key)
        wait_for(lambda: serial(server, authority) != before)
        after = serial(server, authority)
        assert ask(old, server)[0] == 200
        certificate.write_text("broken\n")
        wait_for(lambda: "no certificate" in server.complaints())
        assert serial(server, authority) == after
        assert ask(old, server)[0] == 200
        page = raw_metrics(old, server)
    expires = re.search(r"^cullet_tls_certificate_expiry_timestamp_seconds (\d+)", page, re.M)
    assert abs(int(expires.group(1)) - time.time() - 9 * 86_400) < 600


def raw_metrics(connection, server):
    _, data = ask(connection, server, "/_cullet/metrics")
    length = int(re.search(rb"(?i)content-length: (\d+)", data).group(1))
    page = data.partition(b"\r\n\r\n")[2]
    while len(page) < length:
        page += connection.recv(65_536)
    return page.decode()


def test_a_hangup_reads_it_at_once_through_links(own_server, authority):
    """As Kubernetes swaps them: a link to a directory is renamed over."""
    for name in ("one", "two"):
        (authority.directory / name).mkdir()
        for path, data in zip(("tls.crt", "tls.key"), authority.issue()):
            (authority.directory / name / path).write_bytes(data)
    link = authority.directory / "..data"
    link.symlink_to("one")
    server = own_server("--tls-cert", link / "tls.crt", "--tls-key", link / "tls.key")
    before = serial(server, authority)
    (authority.directory / "fresh").symlink_to("two")
    os.replace(authority.directory / "fresh", link)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: serial(server, authority) != before, 2)


# HTTP/2 --------------------------------------------------------------------------------


def signed(server, method, path, data=b"", **more):
    headers = raw.Signer(server).headers(method, path, **more)
    headers.pop("host")
    return headers


@pytest.mark.parametrize("encrypted", [True, False])
def test_http2(secure, server, authority, encrypted):
    target = secure if encrypted else server
    verify = context(authority)
    data = body(3 * MIB)
    with httpx.Client(http1=False, http2=True, verify=verify, base_url=target.url, timeout=30) as client:
        if not encrypted:
            client.put("/http2", headers=signed(target, "PUT", "/http2"))
        path = "/tls/h2" if encrypted else "/http2/h2"
        answer = client.put(path, headers=signed(target, "PUT", path), content=data)
        assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
        # Many at a time over one connection.
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.get(path, headers=signed(target, "GET", path)), range(16)))
        assert all(answer.content == data for answer in answers)
        assert client.head(path, headers=signed(target, "HEAD", path)).headers["content-length"] == str(len(data))
        assert client.get("/_cullet/health").status_code == 200


class Frames:
    """An HTTP/2 client that does what it should not."""

    def __init__(self, server, window=65_535):
        self.server = server
        self.socket = socket.create_connection((server.host, server.port), timeout=60)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def request(self, method, path, headers=(), end=True):
        stream = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":path", path), (":scheme", "http"), (":authority", self.server.address)]
        self.h2.send_headers(stream, pseudo + list(dict(headers).items()), end_stream=end)
        self.flush()
        return stream

    def events(self, seconds):
        """Everything that happens until then, or until the connection ends."""
        seen, deadline = [], time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self.socket.recv(65_536)
            except (TimeoutError, ConnectionResetError):
                break
            if not data:
                break
            seen += self.h2.receive_data(data)
            with contextlib.suppress(OSError):
                self.flush()
        return seen


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def test_a_body_that_nobody_reads_ends_with_its_stream(server):
    client = Frames(server)
    stream = client.request("PUT", "/some/k", {"content-length": "100000"}, end=False)
    client.h2.send_data(stream, b"x" * 1000)
    client.flush()
    seen = client.events(1)
    headers = dict(of(h2.events.ResponseReceived, seen)[0].headers)
    assert headers[":status"] == "403" and "connection" not in headers
    assert of(h2.events.StreamReset, seen)[0].error_code == 0
    client.request("GET", "/_cullet/health")
    seen = client.events(1)
    assert dict(of(h2.events.ResponseReceived, seen)[0].headers)[":status"] == "200"
    assert not of(h2.events.ConnectionTerminated, seen)


def test_the_server_says_its_bounds(server):
    client = Frames(server)
    client.events(0.5)
    settings = client.h2.remote_settings
    assert settings.max_concurrent_streams == 32
    assert settings.max_header_list_size == 16 * 1024


def test_a_flood_of_resets_ends_the_connection(server):
    client = Frames(server)
    with contextlib.suppress(OSError):
        for _ in range(2_000):
            stream = client.request("GET", "/_cullet/health")
            client.h2.reset_stream(stream)
            client.flush()
    assert of(h2.events.ConnectionTerminated, client.events(5)) or not client.events(1)
    assert raw.send(server, "GET", "/_cullet/health").status == 200


def test_a_large_head_is_refused(server):
    client = Frames(server)
    client.events(0.3)
    client.request("GET", "/_cullet/health", {f"x-filler-{n}": "y" * 1000 for n in range(20)})
    answers = of(h2.events.ResponseReceived, client.events(1))
    assert dict(answers[0].headers)[":status"] == "431"


def test_answers_that_nobody_takes_hold_no_memory(own_server):
    """Streams without a window, on as many connections as there can be."""
    server = own_server("--memory", "64MiB")
    s3 = server.client()
    s3.create_bucket(Bucket="memory")
    s3.put_object(Bucket="memory", Key="large", Body=body(4 * MIB))
    s3.put_object(Bucket="memory", Key="small", Body=body(100_000))
    clients = []
    for number in range(20):
        client = Frames(server, window=1 + 8_000 * (number % 2))
        for which in range(32):
            path = "/memory/" + ("large", "small")[which % 2]
            with contextlib.suppress(OSError):
                client.request("GET", path, signed(server, "GET", path))
        clients.append(client)
    time.sleep(8)
    assert server.process.poll() is None, server.complaints()
    assert server.memory_bytes("VmHWM") <= 64 * MIB
    assert raw.send(server, "GET", "/_cullet/health").status == 200
    for client in clients:
        client.socket.close()


def test_a_stream_that_takes_nothing_is_reset(server, s3_plain):
    s3_plain.create_bucket(Bucket="stuck")
    s3_plain.put_object(Bucket="stuck", Key="k", Body=body(200_000))
    client = Frames(server, window=100)
    stream = client.request("GET", "/stuck/k", signed(server, "GET", "/stuck/k"))
    resets = of(h2.events.StreamReset, client.events(45))
    assert [reset.stream_id for reset in resets] == [stream]
    # The connection is as good as before.
    client.request("GET", "/_cullet/health")
    assert of(h2.events.StreamEnded, client.events(2))


@pytest.fixture
def s3_plain(server):
    return server.client()


def goes_away(connection):
    """Whether the next frames have a farewell among them. The library takes none after one,
    though the protocol wants what was begun finished."""
    connection.settimeout(5)
    with connection.makefile("rb") as frames:
        while head := frames.read(9):
            frames.read(int.from_bytes(head[:3], "big"))
            if head[3] == 7:
                return True
    return False


def test_a_signal_says_farewell_and_lets_requests_finish(own_server):
    server = own_server()
    server.client().create_bucket(Bucket="kept")
    data = body(60_000)
    client = Frames(server)
    client.events(0.3)
    headers = {**signed(server, "PUT", "/kept/k"), "content-length": str(len(data))}
    stream = client.request("PUT", "/kept/k", headers, end=False)
    client.events(0.3)
    server.process.send_signal(signal.SIGTERM)
    assert goes_away(client.socket)
    for at in range(0, len(data), 16_000):
        piece = data[at : at + 16_000]
        last = at + 16_000 >= len(data)
        frame = len(piece).to_bytes(3, "big") + bytes([0, int(last)]) + stream.to_bytes(4, "big") + piece
        client.socket.sendall(frame)
    assert server.process.wait(15) == 0
    server.restart()
    assert server.client().get_object(Bucket="kept", Key="k")["Body"].read() == data


# The commands that are clients --------------------------------------------------------


def commands(url, *more):
    """`cullet bench s3` and `cullet account list`: (status, standard error) of each."""
    bench = ("bench", "s3", "--duration", "200ms", "--warmup", "0s", "--objects", "5")
    for words in (bench, ("account", "list")):
        done = subprocess.run(
            [str(word) for word in (harness.BINARY, *words, "--endpoint", url, *more)],
            env=harness.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        yield done.returncode, done.stderr


def test_commands_over_https(secure, authority):
    for status, said in commands(secure.url, "--ca", authority.path):
        assert status == 0, said
    by_name = secure.url.replace("127.0.0.1", "localhost")
    for status, said in commands(by_name, "--ca", authority.path):
        assert status == 0, said


def test_commands_trust_what_the_system_trusts(secure, authority, monkeypatch):
    for status, said in commands(secure.url):
        assert status == 1 and "--ca FILE" in said and "authority" in said, said
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    for status, said in commands(secure.url):
        assert status == 0, said
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    for status, said in commands(secure.url):
        assert status == 1 and "ca-certificates" in said and "--ca FILE" in said, said


def test_commands_say_what_is_wrong_with_a_certificate(authority, own_server, tmp_path):
    certificate, key = authority.write("expired", days=-1)
    expired = own_server("--tls-cert", certificate, "--tls-key", key)
    for status, said in commands(expired.url, "--ca", authority.path):
        assert status == 1 and "expired" in said, said
    certificate, key = authority.write("for-others", address="127.0.0.2")
    server = own_server("--tls-cert", certificate, "--tls-key", key, disk="others")
    for status, said in commands(server.url, "--ca", authority.path):
        assert status == 1 and "another name" in said, said


def test_commands_say_who_does_not_speak_tls(server, secure, authority):
    for status, said in commands(server.url.replace("http://", "https://"), "--ca", authority.path):
        assert status == 1 and "http://" in said and "does not speak TLS" in said, said
    for status, said in commands(secure.url.replace("https://", "http://")):
        assert status == 1 and "https://" in said, said


def test_authorities_that_are_none(secure, tmp_path):
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "key.pem").write_text("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
    for name, word in [("empty.pem", "no certificate"), ("key.pem", "no PEM"), ("missing.pem", "cannot be read")]:
        for status, said in commands(secure.url, "--ca", tmp_path / name):
            assert status == 1 and word in said and name in said, said
