"""Real crawls that store their data in a bucket behind faulty.Proxy, and what they must have stored.

The spider's module shortens scrapy_state's waits before the crawl begins: see PAGE_SPIDER.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crawls import Crawl, crawl, s3_feeds, start
from faulty import Fault, Proxy
from loopback import Handler
from oracle import Feed, Report, S3Files, check, digest_of, jsonlines_keys

#: STATE_RETRY_TIMEOUT and STATE_CLOSE_TIMEOUT of crawls whose store fails for good
GIVE_UP_SECONDS = 1.5
ITEM_PUT = r"PUT .*/items/[^/]*-{batch}\.jsonl$"
STATE_PUT = r"PUT .*/state/0*{id}\.json$"
GET = r"GET .*/state/0*{id}\.json$"
LIST = r"GET .*list-type=2.*/state/"

#: Follows pages 0, 1, … of PageSite, with three items and a state item for each.
PAGE_SPIDER = """
import scrapy
from scrapy_state import StateItem
from scrapy_state.export import retry as export_retry
from scrapy_state.stores import retry as start_retry, s3_client

waits = [
    (s3_client, "READ_TIMEOUT_SECONDS", read_seconds),
    (start_retry, "_RETRY_SECONDS", start_seconds),
    (export_retry, "_FIRST_PAUSE_SECONDS", 0.1),
]
for module, name, seconds in waits:
    assert hasattr(module, name), name
    setattr(module, name, seconds)

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        self.logger.info("begins at %s", self.state["page"])
        if self.state["page"] < int(self.pages):
            yield self.request(self.state["page"])

    def request(self, page):
        return scrapy.Request(self.site + str(page), cb_kwargs={"page": page})

    def parse(self, response, page):
        for number in range(3):
            yield {"key": f"{page}-{number}"}
        yield StateItem({"page": page + 1})
        if page + 1 < int(self.pages):
            yield self.request(page + 1)
"""


class PageSite(Handler):
    """Every path is a page, which takes *page_seconds*."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        time.sleep(self.server.page_seconds)
        self.reply(200, "page")


def _with_waits(source: str, read_seconds: float, start_seconds: float) -> str:
    return source.replace("read_seconds", str(read_seconds)).replace("start_seconds", str(start_seconds))


def checkpoint_bytes(id: int, page: int = 0, parent: bytes | None = None) -> bytes:
    """Return a whole checkpoint of the state ``{"page": page}``, an opening one without items."""
    parents = {} if parent is None else {"parent": id - 1, "parent_digest": json.loads(parent)[0]["digest"]}
    found = {"version": 1, "id": id, "parent": None, "parent_digest": None, "spider": "numbers", "run": "by-hand", "job": None}
    found |= {"time": "2026-11-20T10:00:00.000Z", "state": {"page": page}, "items": 0, "errors": 0, "files": []}
    found |= {"reason": "opened", "overlap": False, **parents}
    return json.dumps([{**found, "digest": digest_of(found)}]).encode()


@dataclass
class World:
    """A bucket with the opening checkpoint 1 in it, a proxy in front of it that fails on demand, and a site to crawl."""

    folder: Path
    bucket: str
    client: Any
    aws: dict[str, str]
    proxy: Proxy
    site: Any
    pages: int = 12
    settings: dict[str, Any] = field(default_factory=lambda: {"STATE_CLOSE_TIMEOUT": 60})

    def run(self, *faults: Fault, source: str = PAGE_SPIDER, page_seconds: float = 0.05, start_seconds: float = 5) -> Crawl:
        """Crawl while the store has *faults*.

        :param page_seconds: what each page takes
        :param start_seconds: how long a start tries again
        """
        self.proxy.faults[:] = faults
        self.site.page_seconds = page_seconds
        read_seconds = 1 if any(fault.kind == "time-out" for fault in faults) else 12
        source = _with_waits(source, read_seconds, start_seconds)
        return crawl(self.folder, source, *self.arguments(), settings=self.all_settings())

    def start(self, *faults: Fault, page_seconds: float, read_seconds: float = 12) -> subprocess.Popen[str]:
        """Start such a crawl only."""
        self.proxy.faults[:] = faults
        self.site.page_seconds = page_seconds
        source = _with_waits(PAGE_SPIDER, read_seconds, start_seconds=5)
        return start(self.folder, source, *self.arguments(), settings=self.all_settings())

    def arguments(self) -> list[str]:
        return ["-a", f"site={self.site.url}/", "-a", f"pages={self.pages}"]

    def all_settings(self) -> dict[str, Any]:
        endpoint = {"AWS_ENDPOINT_URL": self.proxy.url, "FEEDS": s3_feeds(self.bucket)}
        return {**self.aws, **endpoint, "STATE_INTERVAL": 0, "LOG_LEVEL": "INFO", **self.settings}

    def gives_up_soon(self) -> None:
        self.settings |= {"STATE_RETRY_TIMEOUT": GIVE_UP_SECONDS, "STATE_CLOSE_TIMEOUT": GIVE_UP_SECONDS}

    def report(self, keys_of_page: int = 3) -> Report:
        """Check everything that is stored, as oracle.py does."""
        at = f"s3://{self.bucket}/data/numbers"

        def expected(state: dict[str, Any]) -> dict[str, list[str]]:
            return {"items": [f"{page}-{number}" for page in range(state["page"]) for number in range(keys_of_page)]}

        files = S3Files(self.client, self.bucket)()
        return check(files, f"{at}/state/", {"items": Feed(f"{at}/items/", jsonlines_keys)}, expected)

    def newest(self) -> int:
        """Return the id of the newest stored checkpoint."""
        keys = self.client.list_objects_v2(Bucket=self.bucket, Prefix="data/numbers/state/")["Contents"]
        return max(int(Path(each["Key"]).stem) for each in keys if each["Key"].endswith(".json"))

    def is_right(self, keys_of_page: int = 3) -> None:
        """Check that each checkpoint names just the items before its state, once, and that nothing was overwritten."""
        assert self.report(keys_of_page).wrong == []
        assert self.proxy.overwritten() == []

    def is_complete(self, run: Crawl, keys_of_page: int = 3) -> None:
        """Check that *run* finished, and that the lineage names every item of every page exactly once."""
        assert run.code == 0, run.log
        assert run.lines("'finish_reason': 'finished'")
        assert not run.lines("ERROR"), run.log
        self.is_right(keys_of_page)
        assert self.report().state == {"page": self.pages}
