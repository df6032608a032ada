"""What a shape of spider is: its source, and what must come of it (any_spiders.py has the shapes)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

#: What every source begins with. The key of an item names its page, which is the path, unless a request says otherwise.
HEAD = """
import asyncio, hashlib, zlib
from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import scrapy
from scrapy import Request, Spider, signals
from scrapy.exceptions import CloseSpider, DontCloseSpider, DropItem

def path_of(response):
    return urlsplit(response.url).path

def items(page, *numbers):
    for number in numbers:
        yield {"key": f"{page}#{number}", "text": "some text " * 5}

class Any(Spider):
    name = "any"

    def to(self, path, **arguments):
        return Request(self.site + path, **arguments)

    @property
    def size(self):
        return int(self.pages)
"""
#: Methods that many spiders have
START = """
    async def start(self):
        for number in range(self.size):
            yield self.to(f"/p/{number}")
"""
PARSE = """
    def parse(self, response):
        yield from items(path_of(response), 0, 1)
"""
PLAIN = f"""
class Plain(Any):
{START}
{PARSE}
"""


def keys(page: str, *numbers: int) -> list[str]:
    """Return the keys of the items *numbers* of *page*."""
    return [f"{page}#{number}" for number in numbers]


def pages(kind: str, count: int, *numbers: int) -> list[str]:
    """Return the keys of the items *numbers* of the pages /kind/0 to /kind/count-1."""
    return [key for page in range(count) for key in keys(f"/{kind}/{page}", *numbers)]


def page_of(request: Mapping[str, Any]) -> str:
    """Return the page whose name the items of a stored request have."""
    for values in (request.get("cb_kwargs"), request.get("meta")):
        if isinstance(values, dict) and "page" in values:
            return str(values["page"])
    return urlsplit(request.get("url", "")).path


@dataclass(frozen=True)
class Shape:
    """A spider that knows nothing about scrapy_state, unless its source says so.

    :param source: without HEAD
    :param keys: returns the keys that its items have at the end, for its number of pages
    :param optional: the keys of items that may be there: those of a page that failed, and may have been tried again
    :param size: how many pages it has by default
    :param arguments: of the spider
    :param settings: of its project
    :param feeds: which item feeds it has, keys of chaos_requests.FEEDS
    :param tries: how often the site is asked for a path in a crawl without kills; None: too often to count
    :param errors: whether its log may have errors
    :param over: the finish reasons after which the crawl is over
    :param failed: the finish reasons with which a run may end by itself although the crawl is not over
    :param clean: whether all its state items are clean, so that no checkpoint needs requests
    """

    name: str
    source: str
    keys: Callable[[int], Iterable[str]]
    optional: Callable[[int], Iterable[str]] = lambda size: ()
    size: int = 100
    arguments: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    feeds: tuple[str, ...] = ("all",)
    tries: Callable[[str, int], int] | None = lambda path, size: 1
    errors: bool = False
    over: tuple[str, ...] = ("finished",)
    failed: tuple[str, ...] = ()
    clean: bool = False
