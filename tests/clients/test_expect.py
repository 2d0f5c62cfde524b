"""`Expect: 100-continue`: clients ask before they send a body, and wait for the answer."""

import hashlib
import http.client
import socket
import time

import pytest

import raw
import trees
from test_awscli import aws_of


def head_of_put(server, target, length, expect="100-continue"):
    """Sends the head of a PUT and returns the connection, to be read from."""
    payload = hashlib.sha256(b"x" * length).hexdigest()
    headers = raw.Signer(server).headers("PUT", target, payload=payload)
    headers = {name.lower(): value for name, value in headers.items()}
    headers |= {"host": server.address, "content-length": str(length), "expect": expect}
    lines = [f"PUT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    connection = socket.create_connection((server.host, server.port), timeout=10)
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def answer(connection):
    response = http.client.HTTPResponse(connection, method="PUT")
    response.begin()
    response.read()
    return response


def test_leave_is_given_to_send_a_body(server, bucket):
    connection = head_of_put(server, f"/{bucket}/k", 3)
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"xxx")
    response = answer(connection)
    assert (response.status, response.headers["connection"]) == (200, None)


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
def test_a_final_answer_instead_ends_the_connection(server, bucket, expect):
    """For the answer that the client was waiting for will not come, and what it does next is unclear.

    So it is with an empty body: botocore before 1.44, and every `aws` so far, take the status of
    this answer for the next one's on the same connection, then wait a minute for the rest of it.
    `aws s3 cp --recursive` of a directory with an empty file took more than a minute so, and a
    refusal would have been taken for a success.
    """
    for target, length, status in ((f"/{bucket}/k", 0, 200), ("/no-such-bucket/k", 3, 404), ("/no-such-bucket/k", 0, 404)):
        connection = head_of_put(server, target, length, expect)
        response = answer(connection)
        assert (response.status, response.headers["connection"]) == (status, "close")
        assert connection.recv(1) == b""


def test_nothing_else_ends_the_connection(server, bucket):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    for body in (b"", b"x", b""):
        payload = hashlib.sha256(body).hexdigest()
        headers = raw.Signer(server).headers("PUT", f"/{bucket}/k", payload=payload)
        connection.request("PUT", f"/{bucket}/k", body, headers)
        response = connection.getresponse()
        response.read()
        assert (response.status, response.headers["connection"]) == (200, None)


def test_empty_files_among_others(server, bucket, tmp_path):
    aws = aws_of(server, tmp_path)
    aws("configure", "set", "default.s3.max_concurrent_requests", "1")
    for number in range(6):
        trees.write(tmp_path / "source" / str(number), b"x" * (number % 2))
    started = time.monotonic()
    aws("s3", "cp", "--recursive", "source", f"s3://{bucket}")
    assert time.monotonic() - started < 30
    aws("s3", "cp", "--recursive", f"s3://{bucket}", "back")
    trees.same(tmp_path / "source", tmp_path / "back")
