"""`cullet bench s3`, against the server of the same binary and against one that is none."""

import http.server
import json
import os
import signal
import subprocess
import threading
import time

import pytest

import harness

LATENCIES = {"p50", "p90", "p99", "p99_9", "p99_99", "max", "mean"}


def command(url, *arguments):
    words = [harness.BINARY, "bench", "s3", "--endpoint", url, *arguments]
    return [str(word) for word in words]


def run(url, *arguments, **env_changes):
    return subprocess.run(
        command(url, *arguments),
        env=harness.environment(**env_changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def measured(url, *arguments, **env_changes):
    """The document of a run in which everything succeeded."""
    done = run(url, *arguments, "--json", **env_changes)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "standard error is no terminal: nothing to say"
    return json.loads(done.stdout)


def short(operation, *more):
    # A delete has no warm-up, which would use up its objects.
    warmup = () if operation == "delete" else ("--warmup", "100ms")
    return ("--op", operation, "--duration", "1s", *warmup, "--concurrency", "4",
            "--objects", "200", "--size", "3000", *more)


def check_shape(document):
    assert set(document["latency_us"]) == LATENCIES
    latency = document["latency_us"]
    order = [latency[name] for name in ("p50", "p90", "p99", "p99_9", "p99_99", "max")]
    assert order == sorted(order) and order[0] > 0
    assert document["requests_failed"] == 0 and document["errors"] == {}
    assert document["requests_succeeded"] > 0 and document["requests_per_second"] > 0
    assert document["client"]["cpu_seconds_per_1000_requests"] > 0
    by_kind = document["by_kind"].values()
    assert sum(kind["requests_succeeded"] for kind in by_kind) == document["requests_succeeded"]


def buckets(s3):
    return {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}


@pytest.mark.parametrize("operation", ["put", "get", "mixed", "list", "delete"])
def test_each_operation_is_measured_and_leaves_nothing(server, s3, operation):
    before = buckets(s3)
    document = measured(server.url, *short(operation, "--verify"))
    check_shape(document)
    assert (document["operation"], document["loop"]) == (operation, "closed")
    kinds = {"mixed": {"get", "put"}, "list": {"first_page", "pages_between", "last_page"}}
    assert set(document["by_kind"]) == kinds.get(operation, {operation})
    if operation == "delete":
        assert document["requests_succeeded"] == 200
    if operation == "list":
        assert document["keys_per_second"] == pytest.approx(200 * document["requests_per_second"])
    assert document["server"] is None
    assert buckets(s3) == before


def test_a_listing_is_told_by_first_and_last_page(server):
    options = short("list", "--objects", "2100", "--size", "1")
    kinds = measured(server.url, *options)["by_kind"]
    assert all(kind["requests_succeeded"] > 0 for kind in kinds.values())


def test_the_server_is_measured_apart(server):
    document = measured(server.url, *short("put", "--pid", server.process.pid))
    cost = document["server"]
    assert cost["pids"] == [server.process.pid]
    assert cost["cpu_seconds"] > 0 and cost["cpu_seconds_per_1000_requests"] > 0
    assert 4 * harness.MIB < cost["memory_peak_bytes"] < 512 * harness.MIB
    assert cost["memory_peak_source"] in ("VmHWM", "VmRSS sampled")


def test_a_rate_is_kept_and_said(server):
    document = measured(server.url, *short("get", "--rate", "100", "--warmup", "0"))
    assert (document["loop"], document["rate_target_per_second"]) == ("open", 100)
    assert document["requests_succeeded"] + document["requests_unsent"] == 100
    assert set(document["send_delay_us"]) == LATENCIES


def test_a_given_bucket_keeps_what_was_in_it(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="mine", Body=b"x")
    document = measured(server.url, *short("put", "--bucket", bucket))
    assert document["bucket"] == bucket and document["prefix"].startswith("cullet-bench-")
    listing = s3.list_objects_v2(Bucket=bucket)
    assert [entry["Key"] for entry in listing["Contents"]] == ["mine"]


def test_kept_objects_can_be_read_by_others_and_used_again(server, s3, bucket):
    options = ("--bucket", bucket, "--prefix", "kept objects/")
    done = run(server.url, *short("get", *options, "--keep"))
    assert done.returncode == 0 and "kept:" in done.stderr
    body = s3.get_object(Bucket=bucket, Key="kept objects/00000199")["Body"].read()
    assert len(body) == 3000 and body.startswith(b"0000000000000199")
    document = measured(server.url, *short("get", *options, "--prepared", "--verify"))
    check_shape(document)
    # An object that is not what it was is found.
    s3.put_object(Bucket=bucket, Key="kept objects/00000007", Body=b"y" * 3000)
    done = run(server.url, *short("get", *options, "--prepared", "--verify"))
    assert done.returncode == 1 and "body with wrong bytes" in done.stderr
    assert len(s3.list_objects_v2(Bucket=bucket)["Contents"]) == 200


def test_missing_objects_are_failures_by_kind(server, s3, bucket):
    options = ("--bucket", bucket, "--prefix", "p/")
    assert run(server.url, *short("get", *options, "--keep")).returncode == 0
    s3.delete_object(Bucket=bucket, Key="p/00000003")
    done = run(server.url, *short("get", *options, "--prepared", "--json"))
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["errors"] == {"404 NoSuchKey": document["requests_failed"]}
    assert "404 NoSuchKey" in done.stderr


@pytest.mark.parametrize(
    "options, env, status, words",
    [
        ((), {"CULLET_SECRET_ACCESS_KEY": "another-secret"}, 1, ["SignatureDoesNotMatch", "CULLET_ACCESS_KEY_ID"]),
        ((), {"CULLET_ACCESS_KEY_ID": "ANOTHERKEY"}, 1, ["InvalidAccessKeyId", "CULLET_ACCESS_KEY_ID"]),
        ((), {"CULLET_ACCESS_KEY_ID": None, "CULLET_SECRET_ACCESS_KEY": None}, 2, ["no credentials"]),
        ((), {"CULLET_SECRET_ACCESS_KEY": None}, 2, ["CULLET_SECRET_ACCESS_KEY is not"]),
        (("--anonymous",), {}, 1, ["AccessDenied"]),
        (("--bucket", "not-there"), {}, 1, ["NoSuchBucket", "--bucket"]),
        (("--region", "mars-1"), {}, 1, ["--region"]),
        (("--prepared",), {}, 2, ["--bucket"]),
        (("--concurrency", "0"), {}, 2, ["--concurrency"]),
        (("--pid", "4194305"), {}, 2, ["no such process"]),
        (("--op", "copy"), {}, 2, ["put"]),
    ],
)
def test_what_cannot_be_done_says_why(server, options, env, status, words):
    done = run(server.url, *options, **env)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


def test_aws_variables_are_credentials_too(server):
    document = measured(
        server.url,
        *short("put"),
        CULLET_ACCESS_KEY_ID=None,
        CULLET_SECRET_ACCESS_KEY=None,
        AWS_ACCESS_KEY_ID=harness.ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY=harness.SECRET_KEY,
    )
    check_shape(document)


def test_endpoints_that_are_none_are_told():
    done = run("http://127.0.0.1:1")
    assert done.returncode == 1 and "cannot connect" in done.stderr
    for url in ("127.0.0.1:9000", "ftp://127.0.0.1", "http://127.0.0.1/bucket"):
        done = run(url)
        assert done.returncode == 2 and "http://127.0.0.1:9000" in done.stderr


@pytest.mark.parametrize("operation", ["put", "mixed", "list"])
def test_over_https(tls_server, operation):
    """Large bodies too: they leave in many records."""
    document = measured(tls_server.url, *short(operation, "--size", "300000"), "--ca", tls_server.ca_file, "--verify")
    check_shape(document)
    assert document["endpoint"] == tls_server.url


@pytest.mark.parametrize("after", [0.2, 2.0])
def test_ctrl_c_ends_early_and_cleans_up(server, s3, after):
    before = buckets(s3)
    words = command(server.url, "--op", "put", "--duration", "60s", "--warmup", "1s", "--objects", "1000")
    process = subprocess.Popen(
        words, env=harness.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    deadline = time.monotonic() + 20
    while buckets(s3) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    output, complaints = process.communicate(timeout=30)
    if after < 1:
        assert process.returncode == 1 and "before anything was measured" in complaints
    else:
        assert process.returncode == 0, complaints
        assert "stopped early" in output and "p99.99" in output
    assert buckets(s3) == before


def test_a_server_that_dies_is_told_and_the_run_ends(own_server):
    server = own_server("--disk-capacity", "256MiB")
    words = command(server.url, *short("get", "--duration", "3s", "--json"))
    process = subprocess.Popen(
        words, env=harness.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    time.sleep(2)
    server.kill()
    output, complaints = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot connect" in complaints
    assert json.loads(output)["requests_failed"] > 0


def test_a_server_of_files_can_be_measured_too(tmp_path):
    os.makedirs(tmp_path / "files")
    for number in range(20):
        (tmp_path / "files" / f"{number:08}").write_bytes(harness.body(777, number))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    static = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=static.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{static.server_port}"
    options = ("--bucket", "files", "--prepared", "--anonymous", "--objects", "20",
               "--concurrency", "2", "--duration", "1s", "--warmup", "0")
    no_credentials = {"CULLET_ACCESS_KEY_ID": None, "CULLET_SECRET_ACCESS_KEY": None}
    try:
        document = measured(url, *options, "--size", "777", **no_credentials)
        check_shape(document)
        assert document["signed"] is False
        done = run(url, *options, "--size", "778", **no_credentials)
        assert done.returncode == 1 and "777 bytes instead of 778" in done.stderr
        done = run(url, "--anonymous", "--op", "put", **no_credentials)
        assert done.returncode == 1 and "--prepared --anonymous" in done.stderr
    finally:
        static.shutdown()
