"""State that follows completed work: real crawls with 16 requests at once, broken and killed; everything stored is checked."""

import random
import signal
from pathlib import Path
from typing import Any

import commands
import pytest
from crawls import FEEDS, Crawl, checkpoints, crawl, named_items
from oracle import local_files
from units_crawls import done, report, run, run_until
from units_site import BREAKS, Site

pytestmark = pytest.mark.long

#: The pages of a unit that a run asks for once, however many links there are
ONCE = ("/pages", "/chain", "/duplicates")


@pytest.mark.parametrize(("seed", "frontier"), [(1, "memory"), (2, "memory"), (3, "redis"), (7, "redis")])
def test_killed_and_resumed(seed: int, frontier: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Redirects, retries, duplicates, robots.txt, drops, inline downloads, broken units; killed and stopped at seeded moments,
    and resumed: every checkpoint has every item of the units that it says are done, once, and no other item."""
    rng = random.Random(seed)
    count = 40
    broken = dict(zip(rng.sample(range(count), len(BREAKS)), BREAKS, strict=True))
    settings: dict[str, Any] = {"STATE_INTERVAL": rng.choice((0, 0.1)), "CONCURRENT_ITEMS": rng.choice((100, 4))}
    if frontier == "redis":
        settings |= {"SCHEDULER": "scrapy_state.redis.Scheduler", "STATE_REDIS_LEASE_TIMEOUT": 1}
        settings["STATE_REDIS_URL"] = request.getfixturevalue("server").url
    left_over = 0
    with Site(seed, count, broken) as site:
        for _ in range(3):
            calls = site.calls.copy()
            ends = rng.choice(((signal.SIGKILL,), (signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM)))
            ended = run_until(tmp_path, site, rng.randint(20, 60), *ends, **settings)
            left_over += len(ended.lines("requests of an earlier run's units; they are left out"))
            found = report(tmp_path, site)
            again = [path for path, number in (site.calls - calls).items() if number > 1 and path.startswith(ONCE)]
            assert again == [], f"asked for a second time, as if an earlier run had left them: {ended.log}"
            print(f"seed {seed}, {settings}, broken {broken}: {ends}, exit code {ended.code}, state {found.state}")
            assert found.wrong == [], ended.log
        calls = site.calls.copy()
        failed = run(tmp_path, site, **settings)
        assert report(tmp_path, site).wrong == []
        assert failed.code == 1
        newest = checkpoints(tmp_path, "units")[-1]
        assert newest["reason"] == "state_units_failed"
        assert {each["state"]["u"] - 1 for each in newest["missing"]} <= set(broken)
        assert len(done(newest, count, set())) == count - len(broken)
        calls = site.calls.copy()
        site.broken = {}
        last = run(tmp_path, site, **settings)
        found = report(tmp_path, site)
    assert found.wrong == []
    assert (last.code, found.state) == (0, {"u": count})
    assert "ahead" not in found.checkpoints[-1]
    asked = {int(path.rpartition("/")[2]) for path in (site.calls - calls) if path != "/robots.txt"}
    assert asked == set(broken), "the last run asks for the broken units alone"
    left_over += len(failed.lines("requests of an earlier run's units; they are left out"))
    assert (left_over > 0) == (frontier == "redis")


def test_failures_are_listed(tmp_path: Path) -> None:
    """A failed unit stops the state, not the crawl. Log, stats and checkpoint list each one with its reason; exit code 1."""
    broken = dict(zip((3, 5, 9, 12, 15), BREAKS, strict=True))
    with Site(4, 20, broken) as site:
        ended = run(tmp_path, site)
        assert report(tmp_path, site).wrong == []
        [line] = ended.lines("units failed; the state stays before them")
        assert line.endswith('5 units failed; the state stays before them, at {"u":3}; the next run does only what is missing:')
        for u, why in {
            3: f"HTTP 500 {site.url}/unit/3",
            5: "HTTP 500",
            9: f"RuntimeError {site.url}/unit/9",
            15: "an item raised ValueError in a pipeline",
        }.items():
            assert ended.lines(f'  {{"u":{u + 1}}}: {why}')
        assert ended.lines("'state/units_failed': 5")
        assert ended.lines("'state/units': 20,")
        newest = checkpoints(tmp_path, "units")[-1]
        assert newest["missing_units"] == 5
        assert newest["missing"][0] == {"state": {"u": 4}, "reason": "HTTP 500"}
        shown = commands.run(tmp_path, "show", "data/units/state/")
        assert 'units: 5 missing, 12 done beyond them: {"u":4} (HTTP 500), {"u":6} (HTTP 500), ' in shown.out
        assert (ended.code, newest["state"]) == (1, {"u": 3})


def test_skip_passes_failed_units(tmp_path: Path) -> None:
    """STATE_ON_UNIT_ERROR = "skip": the state passes failed units, the checkpoints list each once; exit code 0."""
    with Site(5, 20, {3: "status", 4: "item", 19: "child raise"}) as site:
        ended = run(tmp_path, site, STATE_ON_UNIT_ERROR="skip")
        assert report(tmp_path, site).wrong == []
    stored = checkpoints(tmp_path, "units")
    assert (ended.code, stored[-1]["state"], stored[-1]["reason"]) == (0, {"u": 20}, "finished")
    assert [state for each in stored for state in each.get("skipped_units", ())] == [{"u": 4}, {"u": 5}, {"u": 20}]
    assert ended.lines("3 units failed; they are skipped, and the checkpoints list them as skipped_units:")


def test_stop_ends_the_crawl(tmp_path: Path) -> None:
    """STATE_ON_UNIT_ERROR = "stop": the first unit that fails closes the crawl, with a finish reason of its own."""
    with Site(6, 60, {10: "raise"}) as site:
        ended = run(tmp_path, site, STATE_ON_UNIT_ERROR="stop")
        assert report(tmp_path, site).wrong == []
        assert site.calls["/unit/59"] == 0
    assert ended.code == 1
    assert ended.lines("spider closed (state_unit_failed)")
    assert ended.lines('because: unit {"u":11} failed: RuntimeError')


def test_units_that_end_after_the_stop(tmp_path: Path) -> None:
    """STATE_ON_UNIT_ERROR = "stop": no checkpoint has items of a unit that ended while the crawl was being closed."""
    source = """
    async def start(self):
        for u in range(self.state.get("u", 0), 3):
            yield self.unit(u, self.parse_unit)

    async def parse_unit(self, response):
        u = response.url.partition(",")[2]
        yield {"key": u}
        await asyncio.sleep(1 if u == "0" else 0.3)
        if u == "1" and self.breaks:
            raise ValueError
"""
    stopped = local(tmp_path, source, "-a", "breaks=1", STATE_ON_UNIT_ERROR="stop")
    assert (stopped.code, checkpoints(tmp_path, "units")[-1]["reason"]) == (1, "state_unit_failed")
    local(tmp_path, source, "-a", "breaks=")
    assert sorted(keys(tmp_path)) == ["0", "1", "2"]


def test_branch_and_readonly_know_units(tmp_path: Path) -> None:
    """A read-only run and a branch from an older checkpoint skip the units that this checkpoint lists as done, and no others. A
    run that starts a little earlier (STATE_LAG) repeats everything from there."""
    with Site(7, 30, {2: "status"}) as site:
        run(tmp_path, site)
        stored = checkpoints(tmp_path, "units")
        older = next(each for each in stored if len(each.get("ahead", ())) > 5 and each["state"])
        before = local_files(tmp_path / "data" / "units" / "state")
        site.broken = {}
        dev = {uri.replace("data/", "dev/") if "items" in uri else uri: options for uri, options in FEEDS.items()}
        for name, settings, source in (
            ("read-only", {"STATE_READONLY": True, "FEEDS": dev}, stored[-1]),
            ("branch", {"STATE_AT": older["id"]}, older),
            ("lag", {"STATE_AT": older["id"], "STATE_LAG": {"u": 1}}, {"state": {"u": older["state"]["u"] - 1}}),
        ):
            calls = site.calls.copy()
            ended = run(tmp_path, site, **settings)
            assert ended.code == 0
            asked = {int(path.rpartition("/")[2]) for path in (site.calls - calls) if path != "/robots.txt"}
            assert asked == set(range(30)) - set(done(source, 30, set())), name
            if name == "read-only":
                assert local_files(tmp_path / "data" / "units" / "state") == before
            if name == "branch":
                branch = checkpoints(tmp_path, "units")
                opening = branch[len(stored)]
                assert (opening["parent"], opening["overlap"], opening["ahead"]) == (older["id"], False, older["ahead"])
                names = named_items(tmp_path, "units")
                assert sorted(each["key"] for each in names) == sorted(key for u in range(30) for key in site.expected(u))


def test_sigterm_stores_what_is_done(tmp_path: Path) -> None:
    """After SIGTERM the last checkpoint has the units that were finished by then, and lists what is missing before them."""
    with Site(8, 60) as site:
        ended = run_until(tmp_path, site, 60, signal.SIGTERM, STATE_INTERVAL=60)
        assert report(tmp_path, site).wrong == []
    newest = checkpoints(tmp_path, "units")[-1]
    assert (ended.code, newest["reason"]) == (0, "shutdown")
    assert newest["items"] > 0
    assert all(each["reason"] is None for each in newest.get("missing", ()))


LOCAL = """
import asyncio
import scrapy
from scrapy import signals
from scrapy.exceptions import CloseSpider, DontCloseSpider
from scrapy_state import StateItem

class LocalSpider(scrapy.Spider):
    name = "units"

    def unit(self, u, callback=None, state=None, **more):
        meta = {"state": {"u": u + 1} if state is None else state}
        return scrapy.Request(f"data:,{u}", callback or self.parse, meta=meta, dont_filter=True, **more)

    def parse(self, response):
        yield {"key": response.url.partition(",")[2]}
"""


def local(folder: Path, source: str, *arguments: str, **settings: Any) -> Crawl:
    """Run a spider that needs no site; *source* is the rest of LocalSpider."""
    return crawl(folder, LOCAL + source, *arguments, settings={"STATE_INTERVAL": 0, "LOG_LEVEL": "INFO", **settings})


def keys(folder: Path) -> list[str]:
    return [each["key"] for each in named_items(folder, "units")]


def test_same_state_is_one_unit(tmp_path: Path) -> None:
    """Requests that are yielded together with the same state are one unit: all of its items are stored, or none."""
    source = """
    async def start(self):
        for u in range(self.state.get("u", 0), 6):
            for part in range(3):
                await asyncio.sleep(0.05 if u == 2 else 0)
                if u == 4 and part == 1 and self.breaks:
                    raise RuntimeError("in the midst of unit 4")
                request = self.unit(f"{u}.{part}", state={"u": u + 1})
                yield request
"""
    broken = local(tmp_path, source, "-a", "breaks=1")
    assert sorted(keys(tmp_path)) == [f"{u}.{part}" for u in range(4) for part in range(3)]
    assert checkpoints(tmp_path, "units")[-1]["state"] == {"u": 4}
    assert broken.lines("spider closed (start_error)")
    local(tmp_path, source, "-a", "breaks=")
    assert sorted(keys(tmp_path)) == [f"{u}.{part}" for u in range(6) for part in range(3)]


def test_children_of_their_own(tmp_path: Path) -> None:
    """A child with a state begins a unit. Its parent doesn't wait for it, nor does it wait for its parent's other children."""
    source = """
    async def start(self):
        yield self.unit(self.state.get("u", 0), self.parse_unit)

    async def parse_unit(self, response):
        u = int(response.url.partition(",")[2])
        assert "state" not in response.meta
        yield {"key": str(u)}
        yield scrapy.Request(f"data:,{u}.child", self.parse, meta=response.meta, dont_filter=True)
        if u < 8:
            yield self.unit(u + 1, self.parse_unit)
        if u == 5 and self.breaks:
            raise RuntimeError("broken")
"""
    local(tmp_path, source, "-a", "breaks=1")
    newest = checkpoints(tmp_path, "units")[-1]
    assert newest["state"] == {"u": 5}
    assert sorted(keys(tmp_path)) == sorted(f"{u}{more}" for u in (0, 1, 2, 3, 4, 8) for more in ("", ".child"))
    # 5 raised; of 6 it might have yielded more; without 7, which is done, nobody would begin 8
    assert [each["state"]["u"] - 1 for each in newest["missing"]] == [5, 6, 7]
    local(tmp_path, source, "-a", "breaks=")
    assert checkpoints(tmp_path, "units")[-1]["state"] == {"u": 9}
    assert "ahead" not in checkpoints(tmp_path, "units")[-1]
    assert sorted(keys(tmp_path)) == sorted(f"{u}{more}" for u in range(9) for more in ("", ".child"))


OUTCOMES = """
from scrapy.downloadermiddlewares.retry import get_retry_request
from scrapy.exceptions import IgnoreRequest
from scrapy.http import TextResponse

def name(request):
    return request.url.partition(",")[2]

class Odd:
    def __init__(self, crawler):
        self.crawler = crawler
        crawler.signals.connect(self.request_scheduled, signals.request_scheduled)

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    def request_scheduled(self, request):
        if name(request) == "refused":
            raise IgnoreRequest

    async def process_request(self, request):
        what = name(request)
        if what.startswith("fails"):
            raise ConnectionError(what)
        if what == "ignored":
            raise IgnoreRequest
        if what == "instead":
            return scrapy.Request("data:,instead.other", request.callback)
        if what == "elsewhere":
            return await self.crawler.engine.download_async(scrapy.Request("data:,elsewhere.other", request.callback))

    def process_exception(self, request, exception):
        if name(request) == "fails.instead":
            return scrapy.Request("data:,other", request.callback)

class Recover:
    def process_spider_exception(self, response, exception):
        if name(response) == "recovered":
            return [{"key": "recovered"}]

class OutcomesSpider(LocalSpider):
    custom_settings = {
        "DOWNLOADER_MIDDLEWARES": {Odd: 1},
        "SPIDER_MIDDLEWARES": {Recover: 1},
        "DOWNLOADER": "spider.OwnDownloader",
    }

    async def start(self):
        def one(name, callback=None, **more):
            return scrapy.Request(f"data:,{name}", callback or self.parse, meta={"state": {"name": name}}, **more)

        yield one("state", self.text_state)
        yield one("fails.instead")
        yield one("instead")
        yield one("elsewhere")
        yield one("ignored")
        yield one("ignored.errback", errback=self.taken)
        yield one("fails.taken", errback=self.taken)
        yield one("recovered", self.raises)
        yield one("retried", self.retry)
        yield one("listed", self.listed)
        yield one("refuse", self.refuse)
        yield one("engine", self.by_engine)
        yield one("crawl", self.crawl_state)
        yield one("fails.errback", errback=self.errback_raises)
        yield one("fails.returned", errback=lambda failure: failure)
        yield one("fails.without")
        yield one("last")

    def text_state(self, response):
        yield scrapy.Request("data:,child", self.child, meta={"state": "CA"})

    def child(self, response):
        yield {"key": response.meta["state"]}

    def taken(self, failure):
        yield {"key": name(failure.request)}

    def raises(self, response):
        yield {"key": "before"}
        raise ValueError

    def retry(self, response):
        yield get_retry_request(response.request, spider=self, reason="again") or {"key": "given up"}

    def listed(self, response):
        return [{"key": "listed"}]

    def refuse(self, response):
        yield scrapy.Request("data:,refused", self.parse)
        yield {"key": "refuse"}

    async def by_engine(self, response):
        self.crawler.engine.crawl(scrapy.Request("data:,engine.child", self.parse, meta=response.meta))

    async def crawl_state(self, response):
        self.crawler.engine.crawl(scrapy.Request("data:,crawled", self.parse, meta={"state": {"name": "crawled"}}))

    def errback_raises(self, failure):
        raise ValueError

from scrapy.core.downloader import Downloader

class OwnDownloader(Downloader):
    def __init__(self, crawler):
        super().__init__(crawler)
        crawler.stats.set_value("own_downloader", True)
"""


def test_every_outcome(tmp_path: Path) -> None:
    """Whatever happens to a request, and whoever replaces it, its unit ends as it should: done or failed."""
    ended = local(tmp_path, OUTCOMES, RETRY_TIMES=1)
    assert sorted(keys(tmp_path)) == sorted(
        [
            *("CA", "other", "instead.other", "elsewhere.other", "fails.taken", "before", "recovered"),
            *("ignored.errback", "given up", "listed", "refuse", "engine.child", "crawled", "last"),
        ]
    )
    newest = checkpoints(tmp_path, "units")[-1]
    failed = {"fails.errback": "ValueError", "fails.returned": "ConnectionError", "fails.without": "ConnectionError"}
    assert {each["state"]["name"]: each["reason"] for each in newest["missing"]} == failed
    assert newest["state"] == {"name": "crawl"}
    assert ended.lines('meta["state"] of <GET data:,child> is a str, not a dict: it begins no unit')
    assert ended.lines("an item belongs to no unit") == []
    assert ended.lines("'own_downloader': True")


def test_close_spider_in_a_callback(tmp_path: Path) -> None:
    """A callback that raises CloseSpider leaves its unit to the next run, neither done nor failed. State items are ignored;
    items that belong to no unit are stored, with a warning."""
    source = """
    async def start(self):
        yield StateItem({"u": 0, "own": True})
        for u in range(6):
            yield self.unit(u, self.close if u == 2 else None)
            yield StateItem({"u": 100})
            if u < 2:
                yield {"key": "no unit's"}

    async def close(self, response):
        yield {"key": "2"}
        await asyncio.sleep(0.3)
        raise CloseSpider("enough")
"""
    ended = local(tmp_path, source)
    assert sorted(keys(tmp_path)) == ["0", "1", "3", "4", "5", "no unit's", "no unit's"]
    assert len(ended.lines("an item belongs to no unit")) == 1
    newest = checkpoints(tmp_path, "units")[-1]
    assert (ended.code, newest["reason"], newest["state"]) == (0, "enough", {"u": 2})
    assert newest["missing"] == [{"state": {"u": 3}, "reason": None}]
    assert len(ended.lines("state items are left out: this spider gives requests a state")) == 1


LARGE = """
    from scrapy_state.units import held_items as held
    held.MAX_BYTES_IN_MEMORY, held.MIN_BYTES_IN_FILES = 500 * 500, 100 * 500  # an item takes about 500
    custom_settings = {"ITEM_PIPELINES": {"spider.Break": 1}}

    async def start(self):
        for u in range(self.state.get("u", 0), 5):
            yield self.unit(u, self.large)

    async def large(self, response):
        u = int(response.url.partition(",")[2])
        for n in range(400):
            yield {"key": f"{u}.{n}", "text": "x" * 100}
            if n % 100 == 0:
                await asyncio.sleep(0.02)

class Break:
    def process_item(self, item):
        if item["key"] in ("1.250", "3.399"):
            raise ValueError
        return item
"""


@pytest.mark.parametrize("batch", [0, 300])
def test_large_units_go_to_files(batch: int, tmp_path: Path) -> None:
    """When items of units take too much memory, they are exported to files of their own. A checkpoint names these files when
    the unit is done; they disappear if it fails."""
    feeds = {uri: {**options, "batch_item_count": batch} if "items" in uri else options for uri, options in FEEDS.items()}
    local(tmp_path, LARGE, FEEDS=feeds)
    assert sorted(keys(tmp_path)) == sorted(f"{u}.{n}" for u in (0, 2, 4) for n in range(400))
    stored = checkpoints(tmp_path, "units")
    assert (stored[-1]["state"], stored[-1]["items"], stored[-1]["missing_units"]) == ({"u": 1}, 1200, 2)
    files = {path.name for path in (tmp_path / "data" / "units" / "items").iterdir()}
    named = {file["uri"].rpartition("/")[2] for each in stored for file in each["files"]}
    assert len(named) >= 2
    assert named <= files
    if not batch:
        assert files == named, "a failed unit leaves no file behind"


def test_item_errors_that_are_skipped_are_counted(tmp_path: Path) -> None:
    """STATE_ON_ITEM_ERROR = "skip": an item that fails does not fail its unit, and is counted in the checkpoint."""
    local(tmp_path, LARGE, STATE_ON_ITEM_ERROR="skip")
    newest = checkpoints(tmp_path, "units")[-1]
    assert (newest["state"], newest["items"], newest["errors"]) == ({"u": 5}, 1998, 2)


def test_start_waits_for_units_in_flight(tmp_path: Path) -> None:
    """However many requests with a state start() yields, no more units are in flight than the limit (1,000; here 100). So the
    queue and the memory do not grow."""
    source = """
    from scrapy_state.units import progress
    progress.MAX_IN_FLIGHT = 100

    custom_settings = {"DOWNLOADER_MIDDLEWARES": {"spider.Slow": 1}}

    async def start(self):
        self.most = 0
        for u in range(300):
            yield self.unit(u)
            self.most = max(self.most, len(self.crawler.engine._slot.scheduler))

    def closed(self, reason):
        self.logger.info("most requests waiting: %s", self.most)

class Slow:  # until start() is held, so that no more requests come
    def __init__(self, crawler):
        self.crawler = crawler
        self.is_held = False

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    async def process_request(self, request):
        while not self.is_held:
            waiting = len(self.crawler.engine._slot.scheduler)
            await asyncio.sleep(0.5)
            self.is_held = self.is_held or 0 < waiting == len(self.crawler.engine._slot.scheduler)
"""
    ended = local(tmp_path, source, STATE_INTERVAL=60)
    [line] = ended.lines("most requests waiting")
    assert 50 < int(line.rpartition(" ")[2]) <= 100
    assert checkpoints(tmp_path, "units")[-1]["items"] == 300


def test_jobdir(tmp_path: Path) -> None:
    """Units stay with their requests in JOBDIR's disk queue. A run skips the queue of an earlier run. If the duplicates filter
    remembers a unit's request from an earlier run, the unit is not done."""
    source = """
    async def start(self):
        for u in range(self.state.get("u", 0), 12):
            yield self.unit(u, self.parse_unit)
        if self.early:
            await asyncio.sleep(5)

    async def parse_unit(self, response):
        u = response.url.partition(",")[2]
        yield {"key": u}
        yield scrapy.Request(f"data:,{u}.child", self.parse)
        if u == self.early:
            await asyncio.sleep(0.2)
            raise CloseSpider("early")
"""
    settings = {"JOBDIR": str(tmp_path / "job"), "CONCURRENT_REQUESTS": 2, "DOWNLOAD_DELAY": 0.02, "STATE_REQUESTS": False}
    local(tmp_path, source, "-a", "early=5", **settings)
    done_first = {int(key) for key in keys(tmp_path) if key.isdigit()}
    assert sorted(keys(tmp_path)) == sorted(f"{u}{more}" for u in done_first for more in ("", ".child"))
    assert len(done_first) >= 4
    second = local(tmp_path, source, "-a", "early=", **settings)
    done_second = {int(key) for key in keys(tmp_path) if key.isdigit()}
    assert sorted(keys(tmp_path)) == sorted(f"{u}{more}" for u in done_second for more in ("", ".child"))
    assert done_second >= done_first
    assert 5 not in done_second
    assert second.lines("filtered as seen, perhaps by an earlier run with this JOBDIR")
    assert second.code == 1
    local(tmp_path, source, "-a", "early=", **{**settings, "JOBDIR": str(tmp_path / "another")})
    assert sorted(keys(tmp_path)) == sorted(f"{u}{more}" for u in range(12) for more in ("", ".child"))


@pytest.mark.parametrize("on_error", ["hold", "skip"])
def test_callbacks_that_raise_after_beginning_a_unit(on_error: str, tmp_path: Path) -> None:
    """If a callback raises after it has begun a unit, that unit fails too, because the callback might have yielded more of it.
    The unit is no longer in flight, so start() continues however many there are, and with "skip" the state passes it."""
    source = """
    from scrapy_state.units import progress
    progress.MAX_IN_FLIGHT = 20

    async def start(self):
        for u in range(0, 120, 2):
            yield self.unit(u, self.begin_another)

    async def begin_another(self, response):
        u = int(response.url.partition(",")[2])
        yield {"key": str(u)}
        yield self.unit(u + 1)
        if u < 100:
            raise ValueError

    def closed(self, reason):
        from scrapy_state.barrier.barrier import get_barrier
        self.logger.info("state at the end: %s", self.state)
        self.logger.info("units with items in memory: %s", len(get_barrier(self.crawler).unit_items._in_memory))
"""
    ended = local(tmp_path, source, STATE_ON_UNIT_ERROR=on_error)
    assert ended.lines("100 units failed")
    assert ended.lines('{"u":2}: ValueError in the callback that began it data:,0')
    assert ended.lines(f"units with items in memory: {0 if on_error == 'skip' else 10}"), "failed ones' are not kept"
    newest = checkpoints(tmp_path, "units")[-1]
    assert ended.lines(f"state at the end: {newest['state']}"), "spider.state follows"
    assert newest["reason"] == ("finished" if on_error == "skip" else "state_units_failed")
    assert bool(newest["state"]) == (on_error == "skip")
    # With "hold", what has begun others is not stored before the state comes to it.
    assert sorted(keys(tmp_path)) == sorted(str(u) for u in range(100, 120) if on_error == "skip" or u % 2)


def test_start_does_not_wait_for_items_that_nothing_releases(tmp_path: Path) -> None:
    """Items of units that have begun others wait for the state. If it can't reach them, because of a failed unit or because
    start() itself waits, the crawl continues: behind a failed unit items are left to the next run, else start() is read on."""
    source = """
    from scrapy_state.units import held_items as held
    held.MAX_BYTES_IN_MEMORY = 50 * 300  # an item takes about 300
    first = 0

    async def start(self):
        for u in range(int(self.first), 60):
            yield self.unit(10 * u, self.many)
            if self.chain:
                await asyncio.sleep(0.3 if u < 3 else 0)

    async def many(self, response):
        u = int(response.url.partition(",")[2])
        if u == 0:
            raise ValueError
        for n in range(10):
            yield {"key": f"{u}.{n}"}
        if u % 10 < 9:
            yield self.unit(u + 1, self.many if self.chain else None)

    def closed(self, reason):
        from scrapy_state.barrier.barrier import get_barrier
        self.logger.info("items in memory: %s", get_barrier(self.crawler).unit_items._bytes // 300)
"""
    ended = local(tmp_path / "failed", source, "-a", "chain=")
    newest = checkpoints(tmp_path / "failed", "units")[-1]
    assert (ended.code, newest["state"], newest["missing_units"]) == (1, {}, 60)
    assert sorted(keys(tmp_path / "failed")) == sorted(str(10 * u + 1) for u in range(1, 60))
    [line] = ended.lines("items in memory: ")
    assert int(line.rpartition(" ")[2]) < 300, "of 590: 50, and what is in flight"
    chained = local(tmp_path / "chained", source, "-a", "chain=1", "-a", "first=1")
    assert chained.code == 0
    assert sorted(keys(tmp_path / "chained")) == sorted(f"{u}.{n}" for u in range(10, 600) for n in range(10))


def test_odd_ways_of_requests(tmp_path: Path) -> None:
    """Whatever odd things middlewares and callbacks do with requests, each unit keeps its own items, all of them or none."""
    source = """
    custom_settings = {"DOWNLOADER_MIDDLEWARES": {"spider.Odd": 1}, "ITEM_PIPELINES": {"spider.Submit": 1}}

    async def start(self):
        names = ["again", "queue", *["shared"] * 3, "cleared", "cleared.fails", "cleared.instead", "submits", "last"]
        for n, name in enumerate(names):
            callback = getattr(self, name, self.parse)
            yield scrapy.Request(f"data:,{name}", callback, meta={"state": {"n": n + 1}}, dont_filter=True, errback=self.failed)
            await asyncio.sleep(0 if name == "shared" else 0.05)

    async def again(self, response):
        response.request.meta["to"] = "data:,other"
        other = await self.crawler.engine.download_async(response.request)
        yield {"key": "again " + other.text}

    async def queue(self, response):
        self.crawler.engine._slot.scheduler.enqueue_request(scrapy.Request("data:,queued", self.parse, meta=response.meta))
        await asyncio.sleep(0.2)
        yield {"key": "queue"}

    calls = 0

    async def shared(self, response):
        self.calls += 1
        call = self.calls
        await asyncio.sleep(0.3)  # until the others have begun
        yield {"key": f"shared {call}"}
        if call == 2:
            raise ValueError

    def failed(self, failure):
        yield {"key": "failed"}
        raise ValueError

from scrapy.http import TextResponse

class Odd:
    response = TextResponse("data:,shared")  # the same one for all

    def process_request(self, request):
        if request.url.endswith("shared"):
            return self.response
        if "cleared" in request.url:
            request.meta.clear()
        if request.url.endswith("cleared.fails"):
            raise ConnectionError
        if request.url.endswith("cleared.instead"):
            return request.replace(url="data:,instead")
        if "to" in request.meta:
            return request.replace(url=request.meta.pop("to"))

class Submit:
    @classmethod
    def from_crawler(cls, crawler):
        self = cls()
        self.crawler = crawler
        return self

    async def process_item(self, item):
        if item["key"] == "submits":  # and does not wait for it
            submitted = self.crawler.engine.scraper.start_itemproc_async({"key": "submitted"}, response=None)
            self.task = asyncio.create_task(submitted)
            await asyncio.sleep(0.1)
        elif item["key"] == "submitted":
            await asyncio.sleep(1)
        return item
"""
    ended = local(tmp_path, source, RETRY_ENABLED=False)  # meta has no count of the retries any more
    assert sorted(keys(tmp_path)) == sorted(
        ["again other", "queue", "queued", "shared 1", "shared 3", "cleared", "instead", "last"]
    )
    newest = checkpoints(tmp_path, "units")[-1]
    assert (newest["state"], [each["state"]["n"] for each in newest["missing"]]) == ({"n": 3}, [4, 7, 9])
    assert ended.lines('{"n":9}: 1 items never came out of the pipelines')
    assert not ended.lines("an item belongs to no unit")


def test_closing_ends_start(tmp_path: Path) -> None:
    """While a spider is being closed, its start() is not read on, even if it would yield millions of requests."""
    source = """
    custom_settings = {"CLOSESPIDER_ITEMCOUNT": 20, "DOWNLOADER_MIDDLEWARES": {"spider.Slow": 1}}

    async def start(self):
        for self.read in range(10_000_000):
            yield self.unit(self.read)

    def closed(self, reason):
        self.logger.info("requests read: %s", self.read)

class Slow:
    async def process_request(self, request):
        await asyncio.sleep(1 if request.url == "data:,10" else 0)  # under way while the spider is being closed
"""
    ended = local(tmp_path, source)
    [line] = ended.lines("requests read: ")
    assert int(line.rpartition(" ")[2]) < 2000
    assert checkpoints(tmp_path, "units")[-1]["reason"] == "closespider_itemcount"


def test_unit_that_never_ends(tmp_path: Path) -> None:
    """If Scrapy calls the crawl finished although a callback has not ended (the same request object was yielded again), the
    unit fails, and so does the crawl."""
    source = """
    async def start(self):
        yield self.unit(0, self.same)

    async def same(self, response):
        if response.meta.setdefault("times", []):
            return
        response.meta["times"].append(1)
        yield response.request
        await asyncio.sleep(5)
        yield {"key": "0"}
"""
    ended = local(tmp_path, source)
    assert (ended.code, checkpoints(tmp_path, "units")[-1]["reason"]) == (1, "state_units_failed")
    assert ended.lines('{"u":1}: it never ended')
