import itertools
import shutil

import pytest

import harness

_numbers = itertools.count(1)


def pytest_configure(config):
    if not harness.BINARY.exists():
        raise pytest.UsageError(f"{harness.BINARY} does not exist; `cargo xtask build` makes it")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for all tests that leave it as they found it."""
    directory = tmp_path_factory.mktemp("shared")
    running = harness.Server(directory / "disk")
    yield running
    assert running.process.poll() is None, f"the server ended during the tests\n{running.complaints()}"
    assert running.stop() == 0
    shutil.rmtree(directory, ignore_errors=True)


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
