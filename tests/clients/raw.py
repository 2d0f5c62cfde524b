"""Requests by hand: signed with a signer of our own, sent over a plain connection.

For everything that boto3 would not send: wrong dates, wrong scopes, broken chunks, half
bodies, odd paths.
"""

import dataclasses
import datetime
import hashlib
import hmac
import http.client
import re
import socket
import urllib.parse

import harness

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def code(self):
        found = re.search(rb"<Code>([^<]*)</Code>", self.body)
        return found.group(1).decode() if found else None

    def __iter__(self):
        return iter((self.status, self.code))


def quote(text, safe="-._~"):
    return urllib.parse.quote(text, safe=safe)


def now(shift_seconds=0):
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=shift_seconds)


class Signer:
    def __init__(
        self,
        server,
        access_key=harness.ACCESS_KEY,
        secret_key=harness.SECRET_KEY,
        region=harness.REGION,
        service="s3",
        time=None,
    ):
        self.server = server
        self.access_key = access_key
        self.region = region
        self.time = time or now()
        self.amz_date = self.time.strftime("%Y%m%dT%H%M%SZ")
        self.scope = f"{self.amz_date[:8]}/{region}/{service}/aws4_request"
        key = b"AWS4" + secret_key.encode()
        for part in self.scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        self.key = key

    def signature(self, canonical):
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        return self.sign_string(f"AWS4-HMAC-SHA256\n{self.amz_date}\n{self.scope}\n{hashed}")

    def sign_string(self, text):
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def canonical(self, method, path, query, headers, payload):
        query = "&".join(sorted(f"{quote(name)}={quote(value)}" for name, value in query))
        names = sorted(headers)
        lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
        return f"{method}\n{path}\n{query}\n{lines}\n{';'.join(names)}\n{payload}"

    def headers(self, method, path, query=(), headers=None, payload=UNSIGNED):
        """`path` is encoded already. Signs everything that it is given, and the host."""
        signed = {"host": self.server.address, "x-amz-date": self.amz_date}
        if payload is not None:
            signed["x-amz-content-sha256"] = payload
        signed.update(headers or {})
        self.last = self.signature(
            self.canonical(method, path, query, signed, payload if payload is not None else EMPTY_SHA256)
        )
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{self.scope}, "
            f"SignedHeaders={';'.join(sorted(signed))}, Signature={self.last}"
        )
        return signed

    def presigned(self, method, path, expires, query=()):
        """The query, encoded, with its signature."""
        query = [
            *query,
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", f"{self.access_key}/{self.scope}"),
            ("X-Amz-Date", self.amz_date),
            ("X-Amz-Expires", str(expires)),
            ("X-Amz-SignedHeaders", "host"),
        ]
        canonical = self.canonical(method, path, query, {"host": self.server.address}, UNSIGNED)
        query.append(("X-Amz-Signature", self.signature(canonical)))
        return "&".join(f"{quote(name)}={quote(value)}" for name, value in query)


def send(server, method, target, headers=None, body=b""):
    """Sends exactly this; `target` is not touched."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        headers = dict(headers or {})
        headers.setdefault("host", server.address)
        if body or method in ("PUT", "POST"):
            headers.setdefault("content-length", str(len(body)))
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, names, answer.read())
    finally:
        connection.close()


def request(server, method, path, query=(), headers=None, body=b"", payload=None, signer=None):
    """A signed request; `payload` defaults to the body's SHA-256."""
    signer = signer or Signer(server)
    payload = payload or hashlib.sha256(body).hexdigest()
    signed = signer.headers(method, path, query, headers, payload)
    target = path
    if query:
        target += "?" + "&".join(f"{quote(name)}={quote(value)}" for name, value in query)
    return send(server, method, target, signed, body)


def start_put(server, path, length, headers=None):
    """The head of a PUT over a socket of our own; the body is the caller's to send."""
    extra = dict(headers or {})
    signed = Signer(server).headers("PUT", path, headers=extra, payload=UNSIGNED)
    signed["content-length"] = str(length)
    head = f"PUT {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in signed.items())
    connection = socket.create_connection((server.host, server.port), timeout=30)
    connection.sendall((head + "\r\n").encode())
    return connection


def read_status(connection):
    """The status code of the answer, or None when the server just closed."""
    data = b""
    while b"\r\n" not in data:
        try:
            piece = connection.recv(4096)
        except ConnectionResetError:
            return None
        if not piece:
            return None
        data += piece
    return int(data.split()[1])
