"""More shapes of spiders (any_spiders.py): what a project adds, and who sends requests."""

from __future__ import annotations

import zlib

from any_shape import PARSE, PLAIN, START, Shape, pages


def _not_dropped(keys: list[str]) -> list[str]:
    return [key for key in keys if zlib.crc32(key.encode()) % 7]


PIPELINES = Shape(
    "pipelines",
    f"""
class Slow:
    async def process_item(self, item):
        await asyncio.sleep(0.01 + zlib.crc32(item["key"].encode()) % 30 / 100)
        return item

class Drops:
    def process_item(self, item):
        if not zlib.crc32(item["key"].encode()) % 7:
            raise DropItem("it is a seventh one")
        return item

class Pipelines(Any):
{START}
{PARSE}
""",
    lambda size: _not_dropped(pages("p", size, 0, 1)),
    settings={"ITEM_PIPELINES": {"spider.Slow": 1, "spider.Drops": 2}},
)

REDIRECTS = Shape(
    "redirects",
    f"""
class Redirects(Any):
    async def start(self):
        for number in range(self.size):
            if number % 3 == 0:
                yield self.to(f"/p/{{number}}")
            yield self.to(f"/redirect/{{number}}/2")
            if number % 3 == 1:
                yield self.to(f"/p/{{number}}")
{PARSE}
""",
    lambda size: pages("p", size, 0, 1),
    size=60,
)

LOGIN = Shape(
    "login",
    f"""
class LogIn(Any):
    async def start(self):
        yield self.to("/login", callback=self.logged_in, dont_filter=True, meta={{"state_every_run": True}})

    def logged_in(self, response):
        for number in range(self.size):
            yield self.to(f"/private/{{number}}")
{PARSE}
""",
    lambda size: pages("private", size, 0, 1),
)

POLLING = Shape(
    "polling",
    """
class Polling(Any):
    is_done = False

    async def start(self):
        while not self.is_done:
            yield self.to("/poll", callback=self.parse_poll, dont_filter=True, meta={"state_every_run": True})
            await asyncio.sleep(0.05)

    def parse_poll(self, response):
        released = int(response.text)
        self.is_done = released == self.size
        for number in range(released):
            yield self.to(f"/p/{number}")
"""
    + PARSE,
    lambda size: pages("p", size, 0, 1),
    tries=lambda path, size: 1000 if path == "/poll" else 1,
)

IDLE = Shape(
    "idle",
    f"""
class Idle(Any):
    number = 0

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.feed, signal=signals.spider_idle)
        return spider

    async def start(self):
        yield self.to("/p/0")

    def feed(self):
        if self.number < self.size:
            for number in range(self.number, min(self.number + 10, self.size)):
                self.crawler.engine.crawl(self.to(f"/p/{{number}}"))
            self.number += 10
            raise DontCloseSpider
{PARSE}
""",
    lambda size: pages("p", size, 0, 1),
)

MIDDLEWARE = Shape(
    "middleware",
    f"""
class Changes:
    async def process_spider_output(self, response, result):
        async for each in result:
            if isinstance(each, Request) and each.url.endswith("/unwanted"):
                continue
            yield each
        path = path_of(response)
        if path.startswith("/p/"):
            yield Request(response.urljoin(path.replace("/p", "/added")))

class Middleware(Any):
{START}

    def parse(self, response):
        yield from items(path_of(response), 0)
        yield response.follow("/p/unwanted")
        yield from items(path_of(response), 1)
""",
    lambda size: pages("p", size, 0, 1) + pages("added", size, 0, 1),
    size=60,
    settings={"SPIDER_MIDDLEWARES": {"spider.Changes": 543}},
)

#: Each page is linked twice, with a session in the address.
FINGERPRINTER = Shape(
    "fingerprinter",
    f"""
class Fingerprinter:
    def fingerprint(self, request):
        return hashlib.sha1(request.url.partition("?")[0].encode()).digest()

class Fingerprints(Any):
    async def start(self):
        for number in range(self.size):
            yield self.to(f"/p/{{number}}?session={{number}}")
            yield self.to(f"/p/{{number // 2}}?session=again-{{number}}")
{PARSE}
""",
    lambda size: pages("p", size, 0, 1),
    settings={"REQUEST_FINGERPRINTER_CLASS": "spider.Fingerprinter"},
)

# A filter other than Scrapy's knows nothing of earlier runs, so each page has one link.
_FILTER = f"""
from scrapy.dupefilters import RFPDupeFilter

class Filter(RFPDupeFilter):
    def request_seen(self, request):
        return "/always/" not in request.url and super().request_seen(request)

class Filtered(Any):
    async def start(self):
        for number in range(5):
            yield self.to(f"/always/{{number}}", callback=self.parse_always)

    def parse_always(self, response):
        number = int(response.url.rpartition("/")[2])
        yield from items(path_of(response), 0)
        for each in range(number, self.size, 5):
            yield self.to(f"/p/{{each}}")
{PARSE}
"""
FILTERS = tuple(
    Shape(
        name,
        _FILTER,
        lambda size: pages("always", 5, 0) + pages("p", size, 0, 1),
        settings={"DUPEFILTER_CLASS": dupefilter},
    )
    for name, dupefilter in (("filter", "spider.Filter"), ("no_filter", "scrapy.dupefilters.BaseDupeFilter"))
)

SEVERAL_FEEDS = Shape("feeds", PLAIN, lambda size: pages("p", size, 0, 1), feeds=("all", "csv", "packed"))

API = Shape(
    "api",
    """
from scrapy_state import StateItem

class Api(Any):
    async def start(self):
        first = self.state.get("page", 0)
        if first < self.size:
            yield self.to(f"/api/{first}")

    def parse(self, response):
        number = int(response.url.rpartition("/")[2]) + 1
        yield from items(path_of(response), 0, 1)
        yield StateItem({"page": number})
        if number < self.size:
            yield self.to(f"/api/{number}")
""",
    lambda size: pages("api", size, 0, 1),
    clean=True,
)

#: It yields each item twice, a pipeline drops the second one, and a database counts. Each run begins on an empty machine.
REMEMBERS = Shape(
    "remembers",
    """
import sqlite3
from itemadapter import ItemAdapter
from scrapy_state import KeptCounter, KeptSet

for name in ("ids.sqlite", "ids.sqlite-wal", "ids.sqlite-shm", "notes.txt"):
    Path(name).unlink(missing_ok=True)

class Duplicates:
    def __init__(self, crawler):
        self.seen = KeptSet(crawler, "seen")
        self.counts = KeptCounter(crawler, "counts")

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    def open_spider(self):
        self.database = sqlite3.connect("ids.sqlite")
        assert self.database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("CREATE TABLE IF NOT EXISTS ids (id)")
        assert self.counts["items"] == len(self.seen)
        stored = self.database.execute("SELECT count(*) FROM ids").fetchone()[0]
        assert stored >= len(self.seen), "the file is not older than the items"

    async def process_item(self, item):
        key = ItemAdapter(item)["key"]
        if key in self.seen:
            raise DropItem("twice")
        self.seen.add(key)
        self.database.execute("INSERT INTO ids VALUES (?)", [key])
        self.database.commit()
        Path("notes.txt").write_text(key)
        await asyncio.sleep(0.001)
        self.counts["items"] += 1
        return item

class Remembers(Any):
    custom_settings = {"ITEM_PIPELINES": {Duplicates: 300}}

    async def start(self):
        for number in range(self.size):
            yield self.to(f"/p/{number}", dont_filter=number % 3 == 0)

    async def parse(self, response):
        for item in items(path_of(response), 0, 1, 0):
            yield item
            await asyncio.sleep(0.001)
        yield self.to(path_of(response).replace("/p/", "/q/"), callback=self.parse_more, dont_filter=len(response.url) % 2 == 0)

    def parse_more(self, response):
        yield from items(path_of(response), 0, 1, 1)
""",
    lambda size: pages("p", size, 0, 1) + pages("q", size, 0, 1),
    settings={"STATE_FILES": ["*.sqlite", "notes.txt"], "STATE_FILES_INTERVAL": 0},
    tries=None,  # files are stored between a cut and its checkpoint, which takes as long as it takes
)

SHAPES = (REMEMBERS, PIPELINES, REDIRECTS, LOGIN, POLLING, IDLE, MIDDLEWARE, FINGERPRINTER, *FILTERS, SEVERAL_FEEDS, API)
