"""Sets, dicts, counters and components of the project: what the next run gets is what the stored items say."""

import random
from collections import Counter
from pathlib import Path

import crawls
import pytest
from crawls import crawl, named_items
from page_crawls import Place

#: Twenty pages, each of which yields an item of its own and two that others yield, too; a page takes its time in between.
SPIDER = """
from itemadapter import ItemAdapter
from scrapy_state import KeptCounter, KeptDict, KeptSet

class DuplicatesPipeline:
    def __init__(self, crawler):
        self.crawler = crawler
        self.ids_seen = KeptSet(crawler, "ids_seen")
        self.counts = KeptCounter(crawler, "counts")

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    async def process_item(self, item):
        key = ItemAdapter(item)["key"]
        if key in self.ids_seen:
            raise DropItem(f"twice: {key}")
        self.ids_seen.add(key)
        await asyncio.sleep(0.005)
        self.counts["items"] += 1
        return item

    def close_spider(self):
        self.crawler.spider.logger.info("COUNT %s %s", self.counts["items"], len(self.ids_seen))

class Duplicates(Any):
    custom_settings = {"ITEM_PIPELINES": {DuplicatesPipeline: 300}, "CONCURRENT_REQUESTS": 4, "STATE_INTERVAL": 0.02}
    size = 60
    dies_after = 0
    done = 0

    async def start(self):
        for number in range(int(self.size)):
            yield self.to(f"p/{number}", dont_filter=number % 3 == 0)

    async def parse(self, response):
        number = int(response.url.rpartition("/")[2])
        for other in (number, number // 2, (number * 7) % int(self.size)):
            yield {"key": other}
            await asyncio.sleep(0.004)
        self.done += 1
        if self.done == int(self.dies_after):
            die()
        yield self.to(f"q/{number}", callback=self.parse_more, dont_filter=number % 2 == 0)

    async def parse_more(self, response):
        yield {"key": 1000 + int(response.url.rpartition("/")[2]) // 2}
"""
EXPECTED = Counter([*range(60), *range(1000, 1030)])


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 8))])
def test_a_set_of_ids_matches_the_stored_items(pages: Place, seed: int) -> None:
    """However often the crawl is killed, a pipeline that drops duplicates by a KeptSet neither loses nor doubles an item."""
    rng = random.Random(seed)
    for _ in range(2):
        after = rng.randint(8, 30)
        if pages.crawl(SPIDER, "-a", f"dies_after={after}").code == 0:
            break
    run = pages.crawl(SPIDER)
    assert run.code == 0, run.log
    assert pages.keys == EXPECTED, (seed, [each.code for each in pages.runs])
    assert sum(each.code != 0 for each in pages.runs) == 2, "fewer kills"
    assert run.lines("COUNT 90 90"), "the counter and the set are those of the items"


#: State items only. Each page yields the id of the page before it, too. The pipeline is slow, so a cut finds items in it.
LISTINGS = """
import asyncio, json, os, signal, scrapy
from scrapy.exceptions import DropItem
from scrapy_state import KeptSet, StateItem

class Pipeline:
    def __init__(self, crawler):
        self.crawler = crawler
        self.seen = KeptSet(crawler, "seen", per_crawl=crawler.settings.getbool("PER_CRAWL"))

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    def open_spider(self):
        self.crawler.spider.logger.info("BEGINS WITH %s", sorted(self.seen))

    async def process_item(self, item):
        if item["id"] in self.seen:
            raise DropItem("twice")
        self.seen.add(item["id"])
        await asyncio.sleep(0.01)
        return item

class Token:
    token = 0

    @classmethod
    def from_crawler(cls, crawler):
        found = cls()
        found.spider, found.kind = crawler.spider, crawler.settings["TOKEN"]
        return found

    def state_snapshot(self):
        self.token += 1
        text = json.dumps({"token": self.token})
        return {"bytes": text.encode(), "json": json.loads(text), "large": [self.token, "x" * 20000]}.get(self.kind)

    def state_restore(self, data):
        self.spider.logger.info("TOKEN %s", str(data)[:30])

class Listings(scrapy.Spider):
    name = "numbers"
    custom_settings = {"ITEM_PIPELINES": {Pipeline: 300}, "EXTENSIONS": {Token: 600}, "STATE_REQUESTS": False}
    pages, dies, rest = 10, "", 0

    async def start(self):
        first = self.state.get("page", 0)
        for page in range(first, int(self.pages)):
            yield {"id": page}
            yield {"id": page - 1}
            if str(page) == self.dies:
                await asyncio.sleep(0.05)
                os.kill(os.getpid(), signal.SIGKILL)
            while self.crawler.stats.get_value("state/checkpoints") < page - first + 2 and self.crawler.crawling:
                yield StateItem({"page": page + 1})
                await asyncio.sleep(0.01)
        for number in range(int(self.rest)):
            yield {"id": 100 + number}
"""


def ids(folder: Path) -> Counter[int]:
    return Counter(item["id"] for item in named_items(folder))


def run(folder: Path, *arguments: str, **settings: object) -> crawls.Crawl:
    given = [part for each in arguments for part in ("-a", each)]
    return crawl(folder, LISTINGS, *given, settings={"STATE_INTERVAL": 0, **settings})


def test_with_state_items_a_set_has_the_items_before_the_state(tmp_path: Path) -> None:
    """Items in the pipelines at a cut, and those after the last state item, change the set as they enter the files."""
    assert run(tmp_path, "dies=5").code == -9
    second = run(tmp_path, "pages=8", "rest=3")
    assert second.code == 0
    [line] = second.lines("BEGINS WITH")
    named = sorted(ids(tmp_path))
    assert named == list(range(-1, 8))
    assert line.endswith("[-1, 0, 1, 2, 3, 4]")
    third = run(tmp_path, "pages=8", "rest=3")
    assert third.lines("BEGINS WITH")[0].endswith(str(named)), "the three items at the end are in no checkpoint"


@pytest.mark.long
def test_a_set_may_be_that_of_the_crawl_alone(tmp_path: Path) -> None:
    """With per_crawl a new crawl begins with an empty set, and the runs after a kill in it, too; otherwise nothing is lost."""
    assert run(tmp_path, "pages=3", PER_CRAWL=True).code == 0
    assert run(tmp_path, "dies=5", "pages=9", PER_CRAWL=True).lines("BEGINS WITH []")
    [line] = run(tmp_path, "pages=9", PER_CRAWL=True).lines("BEGINS WITH")
    assert line.endswith("[2, 3, 4]"), "what the new crawl has removed stays away"
    [line] = run(tmp_path, "pages=9").lines("BEGINS WITH")
    assert line.endswith("[2, 3, 4, 5, 6, 7, 8]")


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("json", "{'token': "),
        pytest.param("bytes", 'b\'{"token": ', marks=pytest.mark.long),
        pytest.param("large", "[", marks=pytest.mark.long),
    ],
)
def test_a_component_gets_back_what_it_gave(tmp_path: Path, kind: str, shown: str) -> None:
    """What state_snapshot() returned at the last cut, JSON or bytes, large or small, is what state_restore() gets."""
    first = run(tmp_path, "pages=2", TOKEN=kind)
    assert first.code == 0, first.log
    assert not first.lines("TOKEN")
    cuts = sum(each["reason"] != "opened" for each in crawls.checkpoints(tmp_path))
    [line] = run(tmp_path, "pages=2", TOKEN=kind).lines("TOKEN")
    assert f"TOKEN {shown}{cuts}" in line


@pytest.mark.long
def test_a_component_with_one_method_is_an_error(tmp_path: Path) -> None:
    """Half of the two methods, or two components of one class, keep the crawl from starting, with one line."""
    half = LISTINGS.replace("def state_restore", "def state_resume")
    refused = crawl(tmp_path / "half", half)
    assert refused.code == 1
    assert refused.lines("spider.Token has state_snapshot(), but no state_restore()")
    twins = LISTINGS.replace('"EXTENSIONS": {Token: 600}', '"EXTENSIONS": {Token: 600}, "DOWNLOADER_MIDDLEWARES": {Token: 600}')
    refused = crawl(tmp_path / "twins", twins)
    assert refused.code == 1
    assert refused.lines("two components of this crawl are of the class spider.Token")


def test_a_component_that_raises_stops_the_checkpoints(tmp_path: Path) -> None:
    """If state_snapshot() raises, no checkpoint without it is stored, and the crawl ends with exit code 1."""
    raising = LISTINGS.replace("self.token += 1", "self.token += 1 / (self.token < 2)")
    failed = crawl(tmp_path, raising, settings={"STATE_INTERVAL": 0})
    assert failed.code == 1
    assert failed.lines("spider.Token.state_snapshot(): ZeroDivisionError")
    assert len(crawls.checkpoints(tmp_path)) == 3
