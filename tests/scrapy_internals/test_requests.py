"""What the downloader returns for a request passes through the watcher."""

from __future__ import annotations

from typing import Any

from scrapy import Request, Spider
from scrapy.http import Response
from scrapy.utils.deprecate import argument_is_required
from twisted.internet.defer import Deferred, succeed

from scrapy_state.scrapy_internals import watch_fetch


class OldDownloader:
    """A project's own downloader, whose fetch() still takes the spider."""

    def fetch(self, request: Request, spider: Spider) -> Deferred[Response | Request]:
        return succeed(Response(request.url))


def test_watch_fetch() -> None:
    """The result of a watched request is replaced; others stay. The engine still sees that fetch() takes a spider."""
    downloader: Any = OldDownloader()
    watched, other = Request("data:,watched"), Request("data:,other")
    replacement = Request("data:,replacement")
    seen: list[Any] = []

    def fetched(result: Response | Request, request: Request) -> Response | Request:
        seen.append((result.url, request))
        return replacement

    watch_fetch(downloader, lambda request: request is watched, fetched)
    results: list[Any] = []
    for request in (watched, other):
        downloader.fetch(request, Spider("any")).addCallback(results.append)
    assert results[0] is replacement
    assert results[1].url == other.url
    assert seen == [(watched.url, watched)]
    assert argument_is_required(downloader.fetch, "spider")
