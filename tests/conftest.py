"""Fixtures that many tests share: S3 servers (moto, Swift, RGW), a redis-server, sites to crawl, what crawls leave behind."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import hypothesis
import pytest
from crawls import crawl
from faulty import Proxy
from faulty_crawls import PageSite, World, checkpoint_bytes
from histories import History
from loopback import Server
from moto.server import ThreadedMotoServer
from numbered_site import Pages
from page_crawls import Place
from page_crawls import place as page_place
from real_server import CannotStart, NotInstalled, RealServer
from redis_server import NO_SERVER, redis_server
from rgw_server import rgw
from swift_server import swift

pytest.register_assert_rewrite("scrapy_state.testing")

hypothesis.settings.register_profile("tests", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("tests")

#: An environment variable. If it is set, tests fail if a real S3 server can't start; otherwise they are skipped.
SERVERS_REQUIRED = "SERVERS_REQUIRED"
_numbers = count(1)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server, one per pytest-xdist worker."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3_settings(s3_endpoint: str) -> dict[str, str]:
    """Scrapy's settings to reach it."""
    return {
        "AWS_ACCESS_KEY_ID": "the-access-key",
        "AWS_SECRET_ACCESS_KEY": "the-secret-key",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_REGION_NAME": "us-east-1",
    }


@pytest.fixture(scope="session")
def s3_client(s3_settings: dict[str, str]) -> Any:
    """A client to look at what is stored, or to tamper with it."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=s3_settings["AWS_ENDPOINT_URL"],
        region_name=s3_settings["AWS_REGION_NAME"],
        aws_access_key_id=s3_settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3_settings["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture
def bucket(s3_client: Any) -> str:
    """The name of an empty bucket."""
    name = f"bucket-{next(_numbers)}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def numbered_site() -> Iterator[Any]:
    """A site of numbered pages: its ``url``, and what it was ``asked``."""
    with Server(Pages, asked=[]) as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, bucket: str, s3_client: Any, s3_settings: dict[str, str]) -> Iterator[World]:
    """A bucket behind a proxy that can fail, with one checkpoint in it, and a site to crawl."""
    s3_client.put_object(Bucket=bucket, Key="data/numbers/state/0000000001.json", Body=checkpoint_bytes(1))
    with Server(PageSite, asked=[], page_seconds=0.0) as site, Proxy(s3_settings["AWS_ENDPOINT_URL"]) as proxy:
        yield World(tmp_path, bucket, s3_client, s3_settings, proxy, site)


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project that has run twice, for tests that only read it."""
    folder = tmp_path_factory.mktemp("production")
    assert crawl(folder).code == 0
    assert crawl(folder).code == 0
    return folder


@pytest.fixture
def history(tmp_path: Path) -> History:
    """A spider's data on the disk."""
    return History(str(tmp_path / "data"))


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, history: History) -> History:
    """A spider's data on each kind of store."""
    if request.param == "local":
        return history
    return History(f"s3://{request.getfixturevalue('bucket')}/data", request.getfixturevalue("s3_settings"))


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A Swift server, one per pytest-xdist worker that needs it."""
    yield from _started(swift, tmp_path_factory.mktemp("swift"))


@pytest.fixture(scope="session")
def rgw_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A Ceph RGW, one per pytest-xdist worker that needs it."""
    yield from _started(rgw, tmp_path_factory.mktemp("rgw"))


def _started(server: Callable[[Path], AbstractContextManager[RealServer]], folder: Path) -> Iterator[RealServer]:
    started = server(folder)
    try:
        found = started.__enter__()
    except CannotStart as error:
        if os.environ.get(SERVERS_REQUIRED) and not isinstance(error, NotInstalled):
            raise
        pytest.skip(f"no real S3 server: {error}")
    yield found
    started.__exit__(None, None, None)


def pytest_report_teststatus(report: pytest.TestReport | pytest.CollectReport) -> tuple[str, str, str] | None:
    """Count the tests that need a server which is not installed, in the last line, instead of naming each."""
    for reason, server in ((NO_SERVER, "redis-server"), ("Ceph is not installed", "Ceph")):
        if report.skipped and reason in str(report.longrepr):
            return f"skipped without {server}", "s", "SKIPPED"
    return None


@pytest.fixture(scope="session")
def redis_process() -> Iterator[Any]:
    """A redis-server, one per pytest-xdist worker."""

    with redis_server() as server:
        yield server


@pytest.fixture
def server(redis_process: Any) -> Any:
    """An empty redis-server."""
    redis_process.client().flushall()
    return redis_process


@pytest.fixture(scope="session")
def site() -> Iterator[Any]:
    """A site of 60 pages (chaos_redis.Site)."""
    from chaos_redis import Site

    found = Site(60)
    yield found
    found.close()


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Place]:
    """An empty folder for a spider's data, and a site whose pages answer with their own path."""
    with page_place(tmp_path) as found:
        yield found
