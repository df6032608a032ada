"""Fixtures of the store tests: an empty place on each kind of store, and an S3 server that gives chosen answers."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from empty_places import EmptyPlace, in_bucket
from faulty import Proxy
from loopback import Handler, Server
from real_server import RGW_VERSIONED, Endpoint, RealServer
from server_buckets import Bucket

from scrapy_state.stores.s3_client import S3Options, get_client

_numbers = count(1)
DAMAGED = "<damaged>"


@pytest.fixture
def local_place(tmp_path: Path) -> EmptyPlace:
    place = EmptyPlace(f"{tmp_path}/", {})
    place.everything = lambda: sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir())
    return place


@pytest.fixture
def s3_place(bucket: str, s3_settings: dict[str, str], s3_client: Any) -> EmptyPlace:
    place = EmptyPlace(f"s3://{bucket}/a/place/", s3_settings)
    place.everything = lambda: in_bucket(s3_client, bucket, place.key)
    return place


@pytest.fixture
def ceph(s3_endpoint: str) -> Iterator[Proxy]:
    with Proxy(s3_endpoint, ceph=True) as proxy:
        yield proxy


@pytest.fixture
def ceph_place(bucket: str, s3_settings: dict[str, str], s3_client: Any, ceph: Proxy) -> EmptyPlace:
    place = EmptyPlace(f"s3://{bucket}/a/place/", {**s3_settings, "AWS_ENDPOINT_URL": ceph.url})
    place.everything = lambda: in_bucket(s3_client, bucket, place.key)
    return place


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Callable[[Endpoint], Endpoint]:
    """Sets the environment variables that boto3 needs to reach an endpoint. One endpoint at a time."""

    def set_environment(endpoint: Endpoint) -> Endpoint:
        for name, value in endpoint.environment.items():
            monkeypatch.delenv(name, raising=False)
            if value:
                monkeypatch.setenv(name, value)
        return endpoint

    return set_environment


@pytest.fixture
def swift_place(swift_server: RealServer, reach: Callable[[Endpoint], Endpoint]) -> EmptyPlace:
    """A whole bucket: its keys have no common prefix."""
    return _in_bucket(reach(swift_server.http))


@pytest.fixture
def swift_https_place(swift_server: RealServer, reach: Callable[[Endpoint], Endpoint]) -> EmptyPlace:
    """The same over https, where boto sends its checksums as trailers."""
    return _in_bucket(reach(swift_server.https))


@pytest.fixture
def rgw_place(rgw_server: RealServer, reach: Callable[[Endpoint], Endpoint]) -> EmptyPlace:
    return _in_bucket(reach(rgw_server.http))


@pytest.fixture
def rgw_https_place(rgw_server: RealServer, reach: Callable[[Endpoint], Endpoint]) -> EmptyPlace:
    return _in_bucket(reach(rgw_server.https))


def _in_bucket(endpoint: Endpoint) -> EmptyPlace:
    settings, bucket = endpoint.settings, f"contract-{next(_numbers)}"
    client = get_client(S3Options.from_settings(settings, ""), writes=True)
    client.create_bucket(Bucket=bucket)
    place = EmptyPlace(f"s3://{bucket}/", settings)
    place.everything = lambda: in_bucket(client, bucket, "")
    return place


@pytest.fixture
def sqlite_place(tmp_path: Path) -> EmptyPlace:
    settings = {"STATE_STORES": {"sqlite": "sqlite_store.SQLiteStore"}, "SQLITE_FOLDER": str(tmp_path)}
    place = EmptyPlace("sqlite://states/", settings)
    place.everything = lambda: sorted(place.names())
    return place


@pytest.fixture(
    params=[
        pytest.param("swift", marks=pytest.mark.long),
        *(pytest.param(each, marks=pytest.mark.campaign) for each in ("rgw", "rgw_versioned")),
    ],
    scope="module",
)
def server(request: pytest.FixtureRequest) -> RealServer:
    """A real S3 server, whose buckets are versioned or not."""
    name, _, versioned = request.param.partition("_")
    found: RealServer = request.getfixturevalue(f"{name}_server")
    return replace(found, differences=RGW_VERSIONED) if versioned else found


@pytest.fixture
def bucket_at(server: RealServer, reach: Callable[[Endpoint], Endpoint]) -> Iterator[Callable[[str], Bucket]]:
    """Makes a bucket, given "http" or "https". Only one of them at a time: they need other environment variables."""
    made: list[Bucket] = []

    def make(scheme: str) -> Bucket:
        made.append(Bucket(reach(getattr(server, scheme)), server.differences.versioned))
        return made[-1]

    yield make
    for each in made:
        each.client.close()


class Answering(Handler):
    """Answers each request with the next of the server's *answers*, the last of them again and again."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(f"{self.command} {self.headers.get('If-None-Match', '')}".strip())
        answers = self.server.answers
        status, code = answers.pop(0) if len(answers) > 1 else answers[0]
        body = code if code.startswith("<") else f"<Error><Code>{code}</Code></Error>" if code else ""
        damaged = {"x-amz-checksum-crc32": base64.b64encode(bytes(4)).decode()} if body == DAMAGED else {}
        self.reply(status, body, {**damaged, **self.server.headers})

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT


@pytest.fixture(scope="module")
def answering_server() -> Iterator[Any]:
    """One server for all tests: a client for each would take most of their time."""
    with Server(Answering) as server:
        yield server


@pytest.fixture
def answering(answering_server: Any) -> Any:
    answering_server.answers, answering_server.seen, answering_server.headers = [], [], {}
    return answering_server
