"""Health, metrics, logs, and the memory of an idle server."""

import json
import re
import time

import pytest

import harness
import raw
from harness import MIB

LINE = re.compile(
    r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*="(\\.|[^"\\])*",?)*\})? (-?[0-9.e+-]+|NaN|[+-]Inf)'
)


def metrics(server):
    answer = raw.send(server, "GET", "/_cullet/metrics")
    assert answer.status == 200
    assert "text" in answer.headers["content-type"]
    values = {}
    for line in answer.body.decode().splitlines():
        if line and not line.startswith("#"):
            assert LINE.fullmatch(line), line
            name, _, value = line.rpartition(" ")
            values[name] = float(value)
    return values


def test_health(server):
    answer = raw.send(server, "GET", "/_cullet/health")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert raw.send(server, "HEAD", "/_cullet/health").status == 200


def test_metrics_count_requests(server, s3, bucket):
    def total():
        return sum(
            value
            for name, value in metrics(server).items()
            if name.startswith("cullet_") and "requests_total" in name
        )

    before = total()
    for _ in range(5):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert total() >= before + 5


def test_metrics_name_the_disk(server):
    names = " ".join(metrics(server))
    for word in ("capacity", "free", "memory"):
        assert word in names, word


def test_unknown_pages_below_the_reserved_prefix(server):
    answer = raw.send(server, "GET", "/_cullet/nothing-here")
    assert answer.status == 404
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_own_pages_are_counted(server):
    raw.send(server, "GET", "/_cullet/nothing-here")
    counted = metrics(server)
    metrics_name = 'cullet_requests_total{operation="%s",status="%d"}'
    before = counted.get(metrics_name % ("Health", 200), 0)
    assert counted[metrics_name % ("Unknown", 404)] >= 1
    raw.send(server, "GET", "/_cullet/health")
    counted = metrics(server)
    assert counted[metrics_name % ("Health", 200)] == before + 1
    assert counted[metrics_name % ("Metrics", 200)] >= 1


def test_idle_memory(own_server):
    server = own_server()
    time.sleep(2)
    assert server.memory_bytes() <= 20 * MIB, f"{server.memory_bytes() / MIB:.1f} MiB"


def test_quiet_by_default(own_server):
    server = own_server()
    s3 = server.client()
    s3.create_bucket(Bucket="quiet")
    s3.put_object(Bucket="quiet", Key="k", Body=b"x")
    raw.send(server, "GET", "/quiet/k")
    assert server.stop() == 0
    lines = [line for line in server.complaints().splitlines() if line.strip()]
    assert len(lines) <= 5, lines
    assert not re.search("WARN|ERROR", server.complaints())


@pytest.mark.parametrize("format", ["human", "json"])
@pytest.mark.parametrize("levels", ["trace", "trace,s3s=trace"])
def test_secrets_are_not_logged(own_server, levels, format):
    server = own_server("--log", levels, "--log-format", format)
    s3 = server.client()
    s3.create_bucket(Bucket="logged")
    secret = b"a body that must not be seen"
    s3.put_object(Bucket="logged", Key="k", Body=secret, Metadata={"note": "metadata that must not be seen"})
    s3.put_object(Bucket="logged", Key="large", Body=secret * 10_000)
    assert s3.get_object(Bucket="logged", Key="large")["Body"].read() == secret * 10_000
    answer = raw.request(server, "POST", "/logged", [("delete", "")], body=b"<Delete><Object><Key>" + secret)
    assert answer.status == 400
    assert server.stop() == 0
    log = server.log.read_text(errors="replace")
    assert "starting" in log, "below the level that is logged without the flag"
    assert harness.SECRET_KEY not in log
    # s3s shows documents and headers; whoever names it has asked for that.
    if "s3s" in levels:
        assert "s3s" in log
    else:
        assert "must not be seen" not in log


def test_a_proxy_makes_nobody_local(server):
    for name in ("Forwarded", "X-Forwarded-For", "Via"):
        answer = raw.send(server, "GET", "/_cullet/metrics", {name: "for=192.0.2.1"})
        assert tuple(answer) == (403, "AccessDenied")
        assert raw.send(server, "GET", "/_cullet/health", {name: "192.0.2.1"}).body == b"ok\n"
    signed = raw.Signer(server).headers("GET", "/_cullet/metrics", payload=raw.EMPTY_SHA256)
    answer = raw.send(server, "GET", "/_cullet/metrics", {**signed, "X-Forwarded-For": "192.0.2.1"})
    assert answer.status == 200
    assert b"cullet_memory_used_bytes" in answer.body


def test_every_answer_has_an_id(server):
    ids = {
        raw.send(server, "GET", path).headers["x-amz-request-id"]
        for path in ("/_cullet/health", "/_cullet/health", "/_cullet/metrics", "/_cullet/nothing", "/b/k")
    }
    assert len(ids) == 5


def test_logs_as_json(own_server):
    help_text = __import__("subprocess").run(
        [harness.BINARY, "server", "--help"], capture_output=True, text=True
    ).stdout
    flag = re.search(r"--log-format|--log-json|--log\b", help_text)
    if not flag:
        pytest.fail("`server --help` names no flag for JSON logs")
    arguments = {"--log-format": ("--log-format", "json"), "--log-json": ("--log-json",), "--log": ("--log", "json")}
    server = own_server(*arguments[flag.group(0)])
    assert server.stop() == 0
    for line in server.complaints().splitlines():
        json.loads(line)
