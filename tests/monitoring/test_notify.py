"""STATE_NOTIFY_URL: signed messages about checkpoints, to a real server."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from crawls import STORING_SPIDER, checkpoints, crawl
from loopback import Server
from scrapy.settings import BaseSettings

from scrapy_state.exceptions import StateSettingsError
from scrapy_state.settings import StateSettings

SECRET = "the key"


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it receives, and answers with ``status`` after ``seconds``."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        # by then the checkpoint must be there
        stored = sorted(path.name for path in Path(self.server.folder).glob("data/numbers/state/*.json"))
        self.server.received.append((dict(self.headers), body, stored))
        time.sleep(self.server.seconds)
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.received.append("GET")
        self.send_error(404)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Any]:
    with Server(Receiver, received=[], seconds=0, status=204, folder=str(tmp_path)) as server:
        yield server


def settings(url: str, **more: Any) -> dict[str, Any]:
    return {"STATE_NOTIFY_URL": url, "STATE_NOTIFY_SECRET": SECRET, "STATE_INTERVAL": 0, **more}


def test_messages(tmp_path: Path, receiver: Any) -> None:
    """A message about a checkpoint comes once that can be read, and its signature covers time and body."""
    run = crawl(tmp_path, STORING_SPIDER, settings=settings(f"{receiver.url}/hook"))
    assert run.code == 0, run.log
    stored = {each["id"]: each for each in checkpoints(tmp_path)}
    for headers, body, names in receiver.received:
        signed = headers["X-Scrapy-State-Time"].encode() + b"." + body
        expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert headers["X-Scrapy-State-Signature"] == f"sha256={expected}"
        assert abs(int(headers["X-Scrapy-State-Time"]) - time.time()) < 600
        message = json.loads(body)
        checkpoint = stored[message["checkpoint"]]
        assert f"{message['checkpoint']:010d}.json" in names
        for name in ("spider", "run", "time", "reason", "state", "items", "totals", "crawl"):
            assert message[name] == checkpoint[name]
    assert json.loads(receiver.received[-1][1])["reason"] == "finished"
    assert SECRET not in run.log


def test_only_at_the_end(tmp_path: Path, receiver: Any) -> None:
    """With STATE_NOTIFY_ON = "end" there is one message: about the last checkpoint."""
    crawl(tmp_path, STORING_SPIDER, settings=settings(receiver.url, STATE_NOTIFY_ON="end"))
    assert [json.loads(body)["reason"] for _, body, _ in receiver.received] == ["finished"]


MORE = [pytest.param(each, marks=pytest.mark.long) for each in ("status", "redirect", "silent")]


@pytest.mark.parametrize("trouble", ["refused", *MORE])
def test_never_fails_the_crawl(tmp_path: Path, receiver: Any, trouble: str) -> None:
    """A receiver that is away, refuses, redirects or never answers costs a warning, without the secrets in its URL."""
    receiver.status = {"status": 500, "redirect": 302}.get(trouble, 204)
    receiver.seconds = 30 if trouble == "silent" else 0
    url = "http://127.0.0.1:9" if trouble == "refused" else receiver.url
    began = time.monotonic()
    run = crawl(tmp_path, STORING_SPIDER, settings=settings(f"{url}/token/top-secret"))
    assert run.code == 0, run.log
    assert time.monotonic() - began < 50
    assert len(run.lines("WARNING: the message about checkpoint")) == 1, run.log
    assert "top-secret" not in run.log
    assert run.lines("'state/notifications_failed'")
    assert checkpoints(tmp_path)[-1]["reason"] == "finished"
    assert "GET" not in receiver.received


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"STATE_NOTIFY_URL": "hooks/secret-1"}, "STATE_NOTIFY_URL is not a URL"),
        ({"STATE_NOTIFY_URL": "file:///secret-1", "STATE_NOTIFY_SECRET": "x"}, "STATE_NOTIFY_URL is not a URL"),
        ({"STATE_NOTIFY_URL": "http://x:port/secret-1", "STATE_NOTIFY_SECRET": "x"}, "STATE_NOTIFY_URL is not a URL"),
        ({"STATE_NOTIFY_URL": "https://x/secret-1"}, "STATE_NOTIFY_URL is set, and STATE_NOTIFY_SECRET is not"),
        ({"STATE_NOTIFY_ON": "start"}, "STATE_NOTIFY_ON is 'start'"),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], said: str) -> None:
    """A wrong URL, or one without a key, is an error that does not show the URL."""
    with pytest.raises(StateSettingsError, match=said) as raised:
        StateSettings.from_settings(BaseSettings(wrong))
    assert "secret-1" not in str(raised.value)
