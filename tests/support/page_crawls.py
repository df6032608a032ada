"""Crawls of spiders that know nothing of scrapy_state, with a site that answers each address with its own path."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import crawls
from crawls import Crawl, checkpoints, named_items
from loopback import Handler, Server

SETTINGS: dict[str, Any] = {"STATE_INTERVAL": 0, "RETRY_TIMES": 1, "STATE_SELFCHECK": False, "LOG_LEVEL": "INFO"}
#: What every source begins with. cut() returns once a checkpoint says all that is known; die() is a SIGKILL.
HEAD = """
import asyncio, os, signal
import scrapy
from scrapy import Request, Spider, signals
from scrapy.exceptions import CloseSpider, DontCloseSpider, DropItem
from scrapy_state import StateItem
from scrapy_state.barrier.barrier import get_barrier

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def key(response):
    return response.url.partition("//")[2].partition("/")[2]

class Any(Spider):
    name = "numbers"
    kill = ""  # the page at which a run dies

    def to(self, path, *arguments, **more):
        return Request(f"{self.site}/{path}", *arguments, **more)

    async def cut(self):
        barrier = get_barrier(self.crawler)
        while barrier.recorder.has_changed or barrier.listener._commit_task is not None:
            await asyncio.sleep(0.02)

    async def die_at(self, response):
        if self.kill and key(response) == self.kill:
            await self.cut()
            die()

    async def parse(self, response):
        await self.die_at(response)
        yield {"key": key(response)}
"""


class Pages(Handler):
    """Answers with the path. /to/X redirects to /X, /status/N has that status, /login sets a cookie, /cookie returns it.

    /slow/… waits 0.5 s. The server's *asked* lists what it was asked for.
    """

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        _, kind, *rest = url.path.split("/")
        with self.server.changed:
            self.server.asked.append(self.path[1:])
            if kind == "slow":
                self.server.changed.wait(0.5)
        if kind == "to":
            self.reply(302, headers={"Location": "/" + "/".join(rest)})
        elif kind == "status":
            self.reply(self.server.statuses.get(self.path[1:], int(rest[0])), self.path)
        elif kind == "login":
            self.reply(200, "in", {"Set-Cookie": f"session={parse_qs(url.query).get('as', ['me'])[0]}; Path=/"})
        elif kind == "cookie":
            self.reply(200, self.headers.get("Cookie", "none"))
        else:
            self.reply(200, self.path)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()


class Place:
    """A folder with a spider's data, and the site that it crawls."""

    def __init__(self, folder: Path, server: Any) -> None:
        self.folder, self.server = folder, server
        self.runs: list[Crawl] = []

    def crawl(self, source: str, *arguments: str, **settings: Any) -> Crawl:
        """Run the spider in *source*, which follows HEAD; the site forgets what it was asked."""
        self.server.asked.clear()
        run = crawls.crawl(
            self.folder, HEAD + source, "-a", f"site={self.server.url}", *arguments, settings={**SETTINGS, **settings}
        )
        self.runs.append(run)
        return run

    @property
    def asked(self) -> Counter[str]:
        """What the last run has asked the site for."""
        return Counter(self.server.asked)

    @property
    def checkpoints(self) -> list[dict[str, Any]]:
        """What is stored, oldest first."""
        return checkpoints(self.folder)

    @property
    def newest(self) -> dict[str, Any]:
        """The newest checkpoint."""
        return self.checkpoints[-1]

    @property
    def keys(self) -> Counter[str]:
        """The keys of the items that the lineage names."""
        return Counter(item["key"] for item in named_items(self.folder))

    def files(self) -> dict[str, bytes]:
        """Every stored file."""
        folder = self.folder / "data"
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    def rewrite(self, **changes: Any) -> None:
        """Change fields of the newest checkpoint, and seal it again."""
        from scrapy_state.model.checkpoint import digest_of

        path = max((self.folder / "data/numbers/state").glob("*.json"))
        [data] = json.loads(path.read_text())
        data.update(changes)
        data["digest"] = digest_of(data)
        path.write_text(json.dumps([data]))


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """Serve the site while the context lasts."""
    import threading

    with Server(Pages, asked=[], statuses={}, changed=threading.Condition()) as server:
        yield Place(folder, server)
