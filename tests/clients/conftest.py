import contextlib
import itertools
import shutil

import pytest

import certificates
import harness
import programs

_numbers = itertools.count(1)


def pytest_configure(config):
    if not harness.BINARY.exists():
        raise pytest.UsageError(f"{harness.BINARY} does not exist; `cargo xtask build` makes it")


@contextlib.contextmanager
def running(directory, *arguments):
    """A server for several tests, which leave it running and as they found it."""
    server = harness.Server(directory / "disk", *arguments)
    yield server
    assert server.process.poll() is None, f"the server ended during the tests\n{server.complaints()}"
    assert server.stop() == 0
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture(scope="module")
def logged_server(tmp_path_factory):
    """One server for a client's tests, with a disk of their own and `requests`, what it was asked for."""
    directory = tmp_path_factory.mktemp("logged")
    log = directory / "access.log"
    with running(directory, "--log-format", "json", "--access-log", log) as server:
        server.requests = harness.AccessLog(server, log)
        yield server


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory):
    """One server that speaks TLS, under a certificate that only `ca_file` vouches for."""
    directory = tmp_path_factory.mktemp("tls")
    authority = certificates.Authority(directory)
    certificate, key = authority.write()
    with running(directory, "--tls-cert", certificate, "--tls-key", key) as server:
        assert server.url.startswith("https://")
        server.ca_file = authority.path
        yield server


def pytest_terminal_summary(terminalreporter):
    for label, version in sorted(programs.used.items()):
        terminalreporter.write_line(f"tested with {label}: {version}")


@pytest.fixture
def own_server(tmp_path):
    """A function that starts servers for one test alone."""
    running = []

    def start(*arguments, disk="disk", **env_changes):
        one = harness.Server(tmp_path / disk, *arguments, **env_changes)
        running.append(one)
        return one

    yield start
    for one in running:
        one.kill()
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="session")
def s3(server):
    return server.client()


@pytest.fixture
def bucket(s3):
    """A bucket of this test's own."""
    name = f"bucket-{next(_numbers)}"
    s3.create_bucket(Bucket=name)
    return name
