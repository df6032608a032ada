"""The ways to make a crawl resumable that table.py compares: this package, and what a user would choose instead.

All crawl the same site (servers.py, ``listings``). Where the crawl needs a working folder that a kill leaves behind, the next
run finds it there (*keeps_folder*), as on a server of one's own. Otherwise it begins in an empty one, as in a container.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

INTERVAL_SECONDS = 1
_HEAD = """
import asyncio, json
import scrapy

class BenchSpider(scrapy.Spider):
    name = "bench"
    first = 0

    def parse(self, response):
        yield from response.follow_all(css="a", callback=self.parse_page)

    def parse_page(self, response):
        for item in response.css("li"):
            yield {"key": item.css("b::text").get(), "url": response.url, "text": item.css("i::text").get()}
"""
PLAIN = f"""{_HEAD}
    async def start(self):
        for number in range(int(self.listings)):
            yield scrapy.Request(f"{{self.site}}/list/{{number}}")
"""
UNITS = f"""{_HEAD}
    async def start(self):
        for number in range(self.state.get("listing", 0), int(self.listings)):
            yield scrapy.Request(f"{{self.site}}/list/{{number}}", meta={{"state": {{"listing": number + 1}}}})
"""
#: One listing after the other, so that nothing else is under way when one is done
_IN_TURN = f"""{_HEAD}
    async def start(self):
        if self.first < int(self.listings):
            yield self.listing(self.first)

    def listing(self, number):
        return scrapy.Request(f"{{self.site}}/list/{{number}}", cb_kwargs={{"number": number}})

    async def parse(self, response, number):
        requests = response.follow_all(css="a")
        for page in await asyncio.gather(*map(self.crawler.engine.download_async, requests)):
            for item in self.parse_page(page):
                yield item
        SAVE
        if number + 1 < int(self.listings):
            yield self.listing(number + 1)
"""
IN_TURN = _IN_TURN.replace("        SAVE\n", "")
STATE_ITEMS = _IN_TURN.replace("SAVE", 'yield StateItem({"listing": number + 1})').replace(
    "    first = 0", '    first = property(lambda self: self.state.get("listing", 0))\n'
).replace("import scrapy", "import scrapy\nfrom scrapy_state import StateItem")  # fmt: skip
#: What one writes without this package: a class of items for the state, a feed of them, and a look at the newest file
NAIVE = _IN_TURN.replace("SAVE", 'yield Progress(listing=number + 1)').replace(
    "class BenchSpider", """class Progress(scrapy.Item):
    listing = scrapy.Field()

class BenchSpider""").replace("    first = 0", """
    @property
    def first(self):
        import boto3
        get = self.settings.get
        client = boto3.client("s3", endpoint_url=get("AWS_ENDPOINT_URL"), region_name=get("AWS_REGION_NAME"),
            aws_access_key_id=get("AWS_ACCESS_KEY_ID"), aws_secret_access_key=get("AWS_SECRET_ACCESS_KEY"))
        bucket, _, prefix = self.settings["NAIVE_STATES"].partition("//")[2].partition("/")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        if not keys:
            return 0
        body = client.get_object(Bucket=bucket, Key=max(keys))["Body"].read()
        return json.loads(body.splitlines()[-1])["listing"]
""")  # fmt: skip

_LINES = {"format": "jsonlines"}
_STATE_OPTIONS = {"format": "json", "item_classes": ["scrapy_state.StateItem"]}
_BATCH_ITEMS = 100


@dataclass(frozen=True)
class Way:
    """A way to crawl.

    :param settings: returns its settings for the URI of its place in the bucket
    :param keeps_folder: whether the next run finds the working folder of a killed one
    :param reads: where its user reads the items: "lineage"; "s3", all item files there; or "folder", the same in the folder
    :param packages: what is needed besides Scrapy, in a virtual environment of its own
    :param syncs: whether ``aws s3 sync`` fetches the folder ``kept`` before a run and stores it afterwards
    """

    name: str
    spider: str
    settings: Callable[[str], dict[str, Any]]
    keeps_folder: bool = False
    reads: str = "s3"
    packages: tuple[str, ...] = ()
    syncs: bool = False
    redis: bool = field(default=False)


def _to_s3(place: str) -> dict[str, Any]:
    return {"FEEDS": {f"{place}items/%(batch_time)s.jsonl": _LINES}}


def _checkpoints(place: str) -> dict[str, Any]:
    feeds = {f"{place}items/%(run_id)s-%(batch_id)05d.jsonl": _LINES, f"{place}state/%(batch_id)010d.json": _STATE_OPTIONS}
    return {"ADDONS": {"scrapy_state.Addon": 500}, "FEEDS": feeds, "STATE_INTERVAL": INTERVAL_SECONDS}


def _naive(place: str) -> dict[str, Any]:
    items = {**_LINES, "batch_item_count": _BATCH_ITEMS, "item_classes": ["builtins.dict"]}
    states = {**_LINES, "batch_item_count": 1, "item_classes": ["bench.Progress"]}
    feeds = {f"{place}items/%(batch_time)s-%(batch_id)05d.jsonl": items}
    feeds[f"{place}state/%(batch_time)s-%(batch_id)05d.jsonl"] = states
    return {"FEEDS": feeds, "NAIVE_STATES": f"{place}state/"}


def _jobdir(folder: str, **more: Any) -> Callable[[str], dict[str, Any]]:
    settings = {"FEEDS": {f"{folder}/items.jsonl": _LINES}, "JOBDIR": f"{folder}/job", **more}
    return lambda place: settings


def _deltafetch(place: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"FEEDS": {"kept/items.jsonl": _LINES}, "DELTAFETCH_ENABLED": True, "DELTAFETCH_DIR": "delta"}
    return {**settings, "SPIDER_MIDDLEWARES": {"scrapy_deltafetch.DeltaFetch": 100}}


def _scrapy_redis(place: str) -> dict[str, Any]:
    return {
        "FEEDS": {"kept/items.jsonl": _LINES},
        "SCHEDULER": "scrapy_redis.scheduler.Scheduler",
        "DUPEFILTER_CLASS": "scrapy_redis.dupefilter.RFPDupeFilter",
        "SCHEDULER_PERSIST": True,
    }


_SQLITE = {"SCHEDULER_DISK_QUEUE": "scrapy.squeues.PickleLifoSQLiteQueue"}
ALONE = Way("Scrapy alone", PLAIN, _to_s3)
WAYS = (
    ALONE,
    Way("scrapy_state, any spider (requests)", PLAIN, _checkpoints, reads="lineage"),
    Way("scrapy_state, units", UNITS, _checkpoints, reads="lineage"),
    Way("Scrapy alone, one listing after the other", IN_TURN, _to_s3),
    Way("scrapy_state, state items", STATE_ITEMS, _checkpoints, reads="lineage"),
    Way("two feeds, items and states, by hand", NAIVE, _naive),
    Way("JOBDIR", PLAIN, _jobdir("kept"), keeps_folder=True, reads="folder"),
    Way("JOBDIR, queues in SQLite", PLAIN, _jobdir("kept", **_SQLITE), keeps_folder=True, reads="folder"),
    Way("JOBDIR, aws s3 sync", PLAIN, _jobdir("kept"), reads="folder", syncs=True, packages=("awscli",)),
    Way("scrapy-deltafetch", PLAIN, _deltafetch, keeps_folder=True, reads="folder", packages=("scrapy-deltafetch",)),
    Way("scrapy-redis", PLAIN, _scrapy_redis, keeps_folder=True, reads="folder", packages=("scrapy-redis",), redis=True),
)
