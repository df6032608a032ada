"""Telling somebody about checkpoints: a signed POST to STATE_NOTIFY_URL."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http.client
import json
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from scrapy import Spider
from scrapy.crawler import Crawler

from ..barrier.log import SpiderLog
from ..model.checkpoint import Checkpoint
from ..signals import checkpoint_stored

#: A platform may kill the process 10 s after SIGTERM, and the last checkpoint may have to wait for the message before it.
_TIMEOUT_SECONDS = 4
TIME_HEADER, SIGNATURE_HEADER = "X-Scrapy-State-Time", "X-Scrapy-State-Signature"


class Notifier:
    """Sends a message about each checkpoint, or only about the last one, once it is stored. Never fails the crawl.

    While a message is under way, only the newest checkpoint waits: a slow receiver misses some, but never the last one.

    :param secret: the key of the signature
    :param only_last: whether only the last checkpoint of the run counts
    """

    def __init__(self, crawler: Crawler, url: str, secret: str, only_last: bool) -> None:
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._url = url
        self._secret = secret.encode()
        self._only_last = only_last
        self._waiting: Checkpoint | None = None
        self._task: asyncio.Task[None] | None = None
        self._has_warned = False
        crawler.signals.connect(self._checkpoint_stored, checkpoint_stored)

    async def _checkpoint_stored(self, checkpoint: Checkpoint, spider: Spider) -> None:
        is_last = checkpoint.reason not in (None, "opened")
        if self._only_last and not is_last:
            return
        self._waiting = checkpoint
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send())
        if is_last:
            await self._task

    async def _send(self) -> None:
        while (checkpoint := self._waiting) is not None:
            self._waiting = None
            body = json.dumps(message_of(checkpoint)).encode()
            try:
                await asyncio.to_thread(post, self._url, body, self._secret)
            except (OSError, ValueError, http.client.HTTPException) as error:
                self._failed(checkpoint, error)
            else:
                self._crawler.stats.inc_value("state/notifications")

    def _failed(self, checkpoint: Checkpoint, error: Exception) -> None:
        self._crawler.stats.inc_value("state/notifications_failed")
        if not self._has_warned:
            self._has_warned = True
            # The rest of the URL may be a secret.
            self._log.warning(
                "the message about checkpoint %s could not be sent to %s (STATE_NOTIFY_URL): %s. The crawl goes on; further "
                "failures are only counted", checkpoint.id, urlsplit(self._url).hostname, error,
            )  # fmt: skip


def message_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a message says about *checkpoint*."""
    requests = checkpoint.requests
    return {
        "spider": checkpoint.spider, "run": checkpoint.run, "job": checkpoint.job, "checkpoint": checkpoint.id,
        "time": checkpoint.time, "reason": checkpoint.reason, "crawl": checkpoint.crawl, "ended": checkpoint.ended,
        "state": checkpoint.state, "items": checkpoint.items, "errors": checkpoint.errors,
        "totals": None if checkpoint.totals is None else checkpoint.totals.to_json(),
        "pending": 0 if requests is None else requests.pending,
        "failed": 0 if requests is None else requests.failed + requests.held,
        "missing_units": checkpoint.missing_units,
    }  # fmt: skip


def signature_of(body: bytes, sent: str, secret: bytes) -> str:
    """Return the signature of *body*, sent at the time *sent*: HMAC-SHA256 of both, with a dot between them."""
    return "sha256=" + hmac.new(secret, sent.encode() + b"." + body, hashlib.sha256).hexdigest()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """A POST would become a GET without its body."""


def post(url: str, body: bytes, secret: bytes) -> None:
    """Send *body* to *url*, signed. Blocks, for 4 s at most while nothing is received.

    :raises OSError: if nobody answers, or the answer is not 2xx
    """
    sent = str(int(time.time()))
    headers = {"Content-Type": "application/json", TIME_HEADER: sent, SIGNATURE_HEADER: signature_of(body, sent, secret)}
    request = urllib.request.Request(url, body, headers, method="POST")
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=_TIMEOUT_SECONDS):
        pass
