"""What a user sees if a crawl can't start: one line that names the setting and the URI, exit code 1, no request."""

import re
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from crawls import FEEDS, ITEMS, SPIDER, STATE_OPTIONS, STATES, Crawl, crawl
from loopback import Handler, Server

pytestmark = pytest.mark.long

SECRET = "the-s3cr3t/+"
CRAWL = ("crawl", "numbers")
START_SECONDS = 15
#: bucket -> what S3 answers to every request there
ANSWERS = {
    "wrong-key": (403, "InvalidAccessKeyId"),
    "wrong-secret": (403, "SignatureDoesNotMatch"),
    "no-such-bucket": (404, "NoSuchBucket"),
    "wrong-region": (400, "AuthorizationHeaderMalformed"),
    "moved": (301, "PermanentRedirect"),
    "expired": (400, "ExpiredToken"),
    "forbidden": (403, "AccessDenied"),
}
KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
REMEDIES = {
    "wrong-key": KEYS,
    "wrong-secret": KEYS,
    "no-such-bucket": "check the bucket's name in the URI, and AWS_ENDPOINT_URL",
    "wrong-region": "check AWS_REGION_NAME",
    "expired": "the credentials have expired: check AWS_SESSION_TOKEN, and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}


class Answering(Handler):
    def do_any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        bucket = self.path.lstrip("/").partition("/")[0].partition("?")[0]
        server = self.server
        server.seen.append(f"{self.command} {self.path}")
        if bucket == "unsteady" and len(server.seen) <= 1:
            self._answer(503, "SlowDown")
        elif bucket in ("silent", "unsteady"):
            server.silent_since = server.silent_since or time.monotonic()
            while not server.closing.is_set() and not select.select([self.connection], [], [], 0.05)[0]:
                pass
            self.close_connection = True
        else:
            self._answer(*ANSWERS[bucket])

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any

    def _answer(self, status: int, code: str) -> None:
        self.reply(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>" if self.command != "HEAD" else "")


@pytest.fixture
def server() -> Iterator[Any]:
    """A server that answers as S3 does when something is wrong."""
    with Server(Answering, seen=[], silent_since=None, closing=threading.Event()) as server:
        yield server
        server.closing.set()


@dataclass
class Start:
    """A project whose *feed*, "state" or "item", lies in *bucket*; the other feed is on the disk."""

    folder: Path
    feed: str
    bucket: str
    endpoint: str
    settings: dict[str, Any] = field(default_factory=dict)
    user: str = ""

    def crawl(self) -> Crawl:
        place = f"s3://{self.user}{self.bucket}/"
        states, items = (f"{place}{STATES}", ITEMS) if self.feed == "state" else (STATES, f"{place}{ITEMS}")
        aws = {"AWS_ACCESS_KEY_ID": "the-key", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": SECRET}
        aws |= {"AWS_REGION_NAME": "us-east-1", "AWS_ENDPOINT_URL": self.endpoint}
        feeds = {states: STATE_OPTIONS, items: {"format": "jsonlines"}}
        settings = {**aws, "FEEDS": feeds, "SPIDER_MODULES": ["spider"], "LOG_LEVEL": "INFO", **self.settings}
        return crawl(self.folder, SPIDER, settings=settings, command=CRAWL)

    def refusal(self, code: int = 1) -> str:
        """Crawl; return the one error line, of which the URI is checked. *code*: the exit code."""
        line = refusal(self.crawl(), code)
        place = "state/" if self.feed == "state" else "items/"
        assert line.startswith(f"s3://{self.bucket}/data/numbers/{place}"), line
        return line


def refusal(run: Crawl, code: int = 1) -> str:
    """Return what the one error line of *run* says; check that there is no more, and no crawl."""
    assert run.code == code, run.log
    assert not run.lines("begins at"), run.log
    [line] = run.lines("] ERROR: ")
    assert "Traceback" not in run.log, run.log
    # Scrapy itself logs all settings on level INFO, in one record
    assert SECRET not in re.sub(r"Overridden settings:\n\{.*?\}\n", "", run.log, flags=re.DOTALL), run.log
    _, found, text = line.partition("[scrapy_state.state] ERROR: the crawl does not start: ")
    assert found, line
    return text


# Each crawl takes more than a second, so not all of what the two feeds share is done with both.
@pytest.mark.parametrize(
    ("feed", "bucket"), [*(("state", each) for each in REMEDIES), ("item", "wrong-secret"), ("item", "no-such-bucket")]
)
def test_wrong(tmp_path: Path, server: Any, feed: str, bucket: str) -> None:
    """If the key, secret, bucket or region of either feed is wrong, or its token has expired, the line names the setting."""
    line = Start(tmp_path, feed, bucket, server.url).refusal()
    action = "ListBucket" if feed == "state" else "PutObject"
    assert f": {action}: the store answered {' '.join(map(str, ANSWERS[bucket]))}; {REMEDIES[bucket]}" in line
    assert not list(tmp_path.glob("data/numbers/*/*"))  # the probe comes before the opening checkpoint


def test_redirect_without_a_region(tmp_path: Path, server: Any) -> None:
    """A redirect without a region, which botocore follows until Python's recursion limit, is reported in one line."""
    line = Start(tmp_path, "state", "moved", server.url).refusal()
    assert "ListBucket: the store redirects to another region; check AWS_REGION_NAME" in line


def test_forbidden_items(tmp_path: Path, server: Any) -> None:
    """If item files may not be stored, and the URI has a key, the line says which permission is missing, and that the key is
    there."""
    endpoint = server.url
    line = Start(tmp_path, "item", "forbidden", endpoint, user="me:the-s3cr3t%2F%2B@").refusal()
    assert "check the credentials (the access key and the secret in the URI) and that they may PutObject there" in line
    assert "the-s3cr3t" not in line


@pytest.mark.parametrize(
    ("feed", "at"), [("state", "refused"), ("item", "refused"), ("state", "unknown"), ("item", "secure"), ("state", "no URL")]
)
def test_wrong_endpoint(tmp_path: Path, server: Any, feed: str, at: str) -> None:
    """An endpoint that refuses the connection, is unknown, speaks no TLS, or is not a URL."""
    with Server(Answering) as closed:
        refused = closed.url
    endpoint = {
        "refused": refused,
        "unknown": "http://no-such-host.invalid:9000",
        "secure": f"https://127.0.0.1:{server.server_port}",
        "no URL": "localhost:9000",
    }[at]
    expected = {
        "refused": f"no answer from {endpoint} (EndpointConnectionError); check AWS_ENDPOINT_URL",
        "unknown": f"no answer from {endpoint} (EndpointConnectionError); check AWS_ENDPOINT_URL",
        "secure": f"no secure connection to {endpoint} (SSLError: ",
        "no URL": "'localhost:9000' is not a URL: it needs http:// or https://; check AWS_ENDPOINT_URL",
    }[at]
    line = Start(tmp_path, feed, "bucket", endpoint).refusal(75 if at in ("refused", "unknown") else 1)
    assert expected in line
    assert "AWS_ENDPOINT_URL" in line
    assert len(line) < 300


@pytest.mark.parametrize(("feed", "bucket"), [("state", "unsteady"), ("item", "silent")])
def test_silent(tmp_path: Path, server: Any, feed: str, bucket: str) -> None:
    """If a store accepts the connection and is silent, at once or later, the crawl fails within 15 s."""
    start = Start(tmp_path, feed, bucket, server.url)
    line = start.refusal(75)
    if server.silent_since is None:  # on a machine so busy that the client alone took the time there is for a second try
        assert "503 SlowDown; it may pass, try again later" in line
        return
    took = time.monotonic() - server.silent_since
    assert f"no answer from {start.endpoint} (ReadTimeoutError); check AWS_ENDPOINT_URL" in line
    assert took < START_SECONDS, took


@pytest.mark.parametrize(("feed", "missing"), [("state", "both"), ("item", "secret")])
def test_no_credentials(tmp_path: Path, feed: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are no credentials anywhere, or a key without its secret, the line names the settings."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    settings = {"AWS_SECRET_ACCESS_KEY": None, "AWS_SESSION_TOKEN": None}
    if missing == "both":
        settings["AWS_ACCESS_KEY_ID"] = None
    line = Start(tmp_path, feed, "bucket", "http://127.0.0.1:1", settings).refusal()
    assert line.endswith("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    assert len(line) < 300


def test_disk(tmp_path: Path) -> None:
    """If a local item feed would be below a file, the line names the path, before there is an opening checkpoint."""
    (tmp_path / "file").touch()
    feeds = {f"file/{ITEMS}": {"format": "jsonlines"}, STATES: STATE_OPTIONS}
    line = refusal(crawl(tmp_path, settings={"FEEDS": feeds}))
    assert re.fullmatch(rf"{tmp_path}/file/data/.*: Not a directory; check the path in FEEDS and who may write there", line)
    assert not (tmp_path / "data").exists()


def test_no_checkpoint_far_and_wide(tmp_path: Path) -> None:
    """Among more than a thousand damaged files a run does not start from the beginning by itself; told where, it does."""
    folder = tmp_path / "data/numbers/state"
    folder.mkdir(parents=True)
    for id in range(1, 1_102):
        (folder / f"{id:010d}.json").touch()
    line = refusal(crawl(tmp_path))
    assert re.match(rf"{folder.as_uri()}: 1,000 files were read, .*it is empty; likewise 999 older ones", line)
    told = crawl(tmp_path, SPIDER, "-s", 'STATE={"page": 5}')
    assert told.code == 0, told.log
    [warning] = told.lines("is skipped")
    assert f"{folder.as_uri()}/0000001101.json is skipped: it is empty; likewise 999 older ones" in warning
    assert (folder / "0000001102.json").exists()


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"STATE_INTERVAL": "soon"}, "STATE_INTERVAL is 'soon'; it must be a number of seconds"),
    ({"STATE_ENABLED": "maybe"}, "STATE_ENABLED is 'maybe'; it must be True or False"),
    (
        {"FEEDS": {"items.json": {"format": "json"}, STATES: STATE_OPTIONS}},
        "FEEDS: the item feed 'items.json' has the same URI",
    ),
    (
        {"TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor", "TWISTED_REACTOR_ENABLED": True},
        "TWISTED_REACTOR: the state feed needs asyncio",
    ),
    ({"SPIDER_MIDDLEWARES": {"scrapy_state.barrier.StateMiddleware": 999}}, "SPIDER_MIDDLEWARES: scrapy_state."),
]


@pytest.mark.parametrize(("settings", "expected"), SETTINGS, ids=[text.split(":")[0][:40] for _, text in SETTINGS])
def test_settings(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    """A setting or a feed that can't be used is reported in one line."""
    run = crawl(tmp_path, settings={"FEEDS": FEEDS, "LOG_LEVEL": "INFO", **settings})
    assert refusal(run).startswith(expected)
    assert not (tmp_path / "data").exists()
