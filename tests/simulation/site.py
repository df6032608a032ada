"""The site of a world: no sockets, the answers of any_answers.py, and as long as chance says until they come."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from any_answers import Answers, Fetch
from scrapy import Request
from scrapy.http import HtmlResponse, Response

from .world import World

URL = "http://site.invalid"


class Site:
    """*pages*: see any_answers.py."""

    def __init__(self, world: World, pages: int, mean_seconds: float = 0.1) -> None:
        #: which run is at work
        self.run = 0
        self.fetched = 0
        self._world = world
        self._mean_seconds = mean_seconds
        self._answers = Answers(pages)

    async def answer(self, request: Request) -> Response:
        fetch = Fetch(self._world.now, self.run, request.method, urlsplit(request.url).path)
        self.fetched += 1
        self._answers.asked[fetch.path] += 1
        await asyncio.sleep(self._world.chance.expovariate(1 / self._mean_seconds))
        if not request.url.startswith(URL):
            raise ConnectionRefusedError(request.url)
        answer = self._answers.answer(fetch, (request.headers.get("Cookie") or b"").decode())
        headers: dict[str, Any] = dict(line.split(": ", 1) for line in answer.headers)
        return HtmlResponse(request.url, status=answer.status, body=answer.body.encode(), headers=headers, encoding="utf-8")


class Handler:
    """What DOWNLOAD_HANDLERS names. *site*: the world's; to be set before a crawl."""

    lazy = True
    site: Site

    async def download_request(self, request: Request) -> Response:
        return await self.site.answer(request)

    async def close(self) -> None:
        pass
