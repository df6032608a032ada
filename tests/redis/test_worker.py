"""One worker of a frontier in Redis, without a Redis: what it sends when, and what it tells the engine."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import scrapy
from scrapy import signals
from scrapy.dupefilters import BaseDupeFilter, RFPDupeFilter
from scrapy.exceptions import DontCloseSpider
from scrapy.settings import Settings
from scrapy.utils.request import fingerprint
from scrapy.utils.test import get_crawler
from twisted.python.failure import Failure

from scrapy_state.barrier import BarrierItemProcessor
from scrapy_state.exceptions import StateSettingsError, StoreUnreachable
from scrapy_state.frontier.codec import Codec
from scrapy_state.frontier.dupefilter import local_dupefilter
from scrapy_state.redis.frontier import MOST_BYTES, NewRequest, Reply
from scrapy_state.redis.incoming import Ending, Incoming
from scrapy_state.redis.leases import Acknowledging, Pace
from scrapy_state.redis.scheduler import Scheduler
from scrapy_state.redis.settings import RedisSettings, check_dupefilter
from scrapy_state.redis.worker import MOST_UNSENT, Worker
from scrapy_state.scrapy_internals import PAGE
from scrapy_state.units.tracker import UNIT


class FrontierSpider(scrapy.Spider):
    name = "frontier"


def request(text: str) -> NewRequest:
    return NewRequest(text.encode(), b"", 0, False, "")


class Lagging:
    """A frontier that does not answer for a while, and then takes what it is sent."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.sent: list[tuple[str, list[bytes], list[int]]] = []
        self.arguments: list[dict[str, Any]] = []
        self.lost = False
        self.third = asyncio.Event()

    async def exchange(self, mode: str = "go on", **arguments: Any) -> Reply:
        await asyncio.sleep(0)
        self.sent.append((mode, [each.data for each in arguments["new"]], list(arguments["acknowledged"])))
        self.arguments.append(arguments)
        if len(self.sent) == 3:
            self.third.set()
        if self.failures:
            self.failures -= 1
            raise StoreUnreachable("gone for a while", uri="redis://h")
        return Reply(lost=self.lost, duplicates=[False] * len(arguments["new"]))


class IdleHost:
    wanted, low, starving, hidden, unfinished, capacities = 0, False, False, 0, (), ({}, 99)

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def received(self, reply: Reply, sent: Any) -> None:
        """Nothing."""

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


def worker_of(frontier: Any, host: Any, **settings: Any) -> Worker:
    crawler = get_crawler(FrontierSpider, {"STATE_REDIS_URL": "redis://h", **settings})
    crawler.spider = FrontierSpider()
    return Worker(frontier, RedisSettings.from_crawler(crawler), host)


def test_children_go_before_their_parents_acknowledgement() -> None:
    """However many requests are unsent, none is acknowledged before those that were unsent when it was done."""

    async def main() -> None:
        frontier = Lagging(failures=0)
        worker = worker_of(frontier, IdleHost())
        for number in range(700):
            worker.put(request(str(number)))
        worker.acknowledge([1])
        worker.put(request("later"))
        await worker.close()
        sent: list[bytes] = []
        for _, new, acknowledged in frontier.sent:
            sent += new
            assert not acknowledged or len(sent) >= 700
        assert sum(len(acknowledged) for _, _, acknowledged in frontier.sent) == 1
        assert len(sent) == 701
        assert frontier.sent[-1][0] == "close"

    asyncio.run(main())


def test_what_waits_to_be_sent_is_at_work() -> None:
    """Other workers don't end while one has something to send. Redis hears once of each lease that is done or can't be read."""

    async def main() -> None:
        frontier, host = Lagging(failures=0), IdleHost()
        worker = worker_of(frontier, host)
        for number in range(700):
            worker.put(request(str(number)))
        worker.finish(1)
        worker.finish(2)
        worker.set_aside(3)
        await worker.close()
        assert [each["hidden"] for each in frontier.arguments] == [400, 100, 0, 0]
        assert [each["done"] for each in frontier.arguments] == [[1, 2], [], [], []]
        assert [each["unreadable"] for each in frontier.arguments] == [[3], [], [], []]
        assert worker.done == [1, 2]

    asyncio.run(main())


def test_a_worker_that_was_taken_for_dead_still_acknowledges() -> None:
    """A worker still acknowledges pages whose leases it has lost, and Redis decides whether that counts. Leases that it could
    not read are other workers' now."""

    async def main() -> None:
        frontier, host = Lagging(failures=0), IdleHost()
        worker = worker_of(frontier, host)
        worker.finish(1)
        worker.unreadable.append(2)
        for number in range(301):
            worker.put(request(str(number)))
        worker.acknowledge([3])
        frontier.lost = True
        await worker.close()
        assert (worker.done, worker.unreadable) == ([1], [])
        assert [id for _, _, acknowledged in frontier.sent for id in acknowledged] == [3]
        worker.finish_again(1)
        worker.finish_again(7)
        await worker._exchange()
        assert frontier.arguments[-1]["done"] == [1]

    asyncio.run(main())


def test_fewer_bytes_after_no_reply() -> None:
    """After each exchange without a reply the worker asks for less, and for more once replies come. If only repeated exchanges
    get a reply, which bring no requests, the crawl fails after STATE_RETRY_TIMEOUT."""

    class Slow(Lagging):
        passes = MOST_BYTES // 8

        async def exchange(self, mode: str = "go on", **arguments: Any) -> Reply:
            self.failures = mode == "go on" and arguments["most_bytes"] > self.passes
            return await super().exchange(mode, **arguments)

    async def main() -> None:
        frontier = Slow(failures=0)
        worker = worker_of(frontier, IdleHost(), STATE_RETRY_TIMEOUT=0.5)
        for _ in range(5):
            await worker._exchange()
        asked = [MOST_BYTES // each["most_bytes"] for each in frontier.arguments]
        assert asked == [1, 4, 4, 16, 16, 8, 4, 16]
        assert worker.outages == 2
        frontier.passes = 0

        async def go_on() -> None:
            while True:
                await worker._exchange()

        with pytest.raises(StoreUnreachable):
            await asyncio.wait_for(go_on(), 20)
        assert frontier.arguments[-1]["most_bytes"] < MOST_BYTES // 1000

    asyncio.run(main())


def test_a_failed_cut_acknowledges_nothing() -> None:
    """The worker acknowledges leases only after a cut that went well, and none that was done during the cut."""

    class Cut:
        result = False

        async def make_durable(self, closing: bool = False) -> bool:
            worker.done.append(9)
            return self.result

    async def main() -> None:
        cut = Cut()
        acknowledging = Acknowledging(worker, cut, 60.0)  # type: ignore[arg-type]
        for cut.result, expected in ((False, []), (True, [5])):
            worker.done = []
            acknowledging.done(5)
            await acknowledging._make_durable()
            assert [id for _, id in worker._acknowledged] == expected
        assert worker.done == [9]
        await acknowledging.close()

    worker = worker_of(Lagging(failures=0), IdleHost())
    asyncio.run(main())


def test_an_idle_worker_makes_a_cut_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items become durable soon if a worker is idle, and at STATE_INTERVAL if it is busy."""

    class Cut:
        cuts = 0

        async def make_durable(self, closing: bool = False) -> bool:
            self.cuts += 1
            return True

    async def main() -> None:
        monkeypatch.setattr("scrapy_state.redis.leases._IDLE_SECONDS", 1.5)
        host, cut = IdleHost(), Cut()
        worker = worker_of(Lagging(failures=0), host)
        acknowledging = Acknowledging(worker, cut, 60.0)  # type: ignore[arg-type]
        acknowledging.done(1)
        host.starving, host.unfinished = True, (2,)  # type: ignore[misc]
        await asyncio.sleep(2.2)
        assert cut.cuts == 0
        host.unfinished = ()  # type: ignore[misc]
        for _ in range(50):
            await asyncio.sleep(0.1)
            if cut.cuts:
                break
        assert cut.cuts == 1
        assert [id for _, id in worker._acknowledged] == [1]
        worker._acknowledged.clear()
        acknowledging.done(3)
        acknowledging.hurry()
        for _ in range(50):
            await asyncio.sleep(0.01)
            if worker._acknowledged:
                break
        assert [id for _, id in worker._acknowledged] == [3]
        await acknowledging.close()

    asyncio.run(main())


def test_outage_sends_the_same_again_and_holds_start_back() -> None:
    """While Redis is away, the same exchange is sent again, nothing is left out, and start() and callbacks wait once too much
    is unsent."""

    async def main() -> None:
        frontier, host = Lagging(failures=3), IdleHost()
        worker = worker_of(frontier, host)
        worker.start()
        for number in range(MOST_UNSENT):
            worker.put(request(str(number)))
        waiting = asyncio.ensure_future(worker.wait_for_space(lambda: False))
        await frontier.third.wait()
        assert not waiting.done()
        await asyncio.wait_for(waiting, 10)
        await worker.close()
        first = frontier.sent[0]
        assert [mode for mode, _, _ in frontier.sent[:4]] == ["go on", "again", "again", "again"]
        assert all(new == first[1] for _, new, _ in frontier.sent[:4])
        assert sorted(data for _, new, _ in frontier.sent[3:] for data in new) == sorted(
            str(n).encode() for n in range(MOST_UNSENT)
        )
        assert host.errors == []
        assert worker.outages == 1

    asyncio.run(main())


def test_outage_that_is_too_long_fails_once() -> None:
    """If Redis is away for longer than STATE_RETRY_TIMEOUT, the scheduler learns it once, and nobody waits to send any more."""

    async def main() -> None:
        frontier, host = Lagging(failures=1000), IdleHost()
        worker = worker_of(frontier, host, STATE_RETRY_TIMEOUT=0.3, STATE_CLOSE_TIMEOUT=0.1)
        worker.start()
        for number in range(MOST_UNSENT):
            worker.put(request(str(number)))
        await asyncio.wait_for(worker.wait_for_space(lambda: False), 10)
        assert len(host.errors) == 1
        with pytest.raises(StoreUnreachable):
            await worker.close()

    asyncio.run(main())


# The scheduler


def scheduler_alone(**settings: Any) -> tuple[Scheduler, Any]:
    """Return a scheduler that no engine drives, and its engine."""
    queue = {"SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.ScrapyPriorityQueue"}
    crawler = get_crawler(FrontierSpider, {"STATE_REDIS_URL": "redis://h", **queue, **settings})
    crawler.spider = FrontierSpider.from_crawler(crawler)
    slot = SimpleNamespace(close_if_idle=True, nextcall=SimpleNamespace(schedule=lambda: None))
    scraper = SimpleNamespace(itemproc=BarrierItemProcessor.__new__(BarrierItemProcessor))
    engine: Any = SimpleNamespace(_start=None, _slot=slot, scraper=scraper, spider=None)
    crawler.engine = engine
    scheduler = Scheduler.from_crawler(crawler)
    scheduler.open(crawler.spider)
    scheduler.settings = RedisSettings.from_crawler(crawler)
    scheduler._codec = Codec(crawler.spider)
    scheduler._opening = SimpleNamespace()  # type: ignore[assignment]
    scheduler._pace = Pace(SimpleNamespace(), by_slot=False)  # type: ignore[arg-type]
    hurries: list[int] = []
    engine.hurries = hurries
    scheduler._worker = Worker(Lagging(failures=0), scheduler.settings, scheduler)  # type: ignore[arg-type]
    scheduler._ending = Ending(crawler, scheduler.settings, lambda: hurries.append(1))
    scheduler._incoming = Incoming(
        crawler, scheduler.settings, scheduler._codec, scheduler._units, scheduler._leases, scheduler._worker, scheduler._done
    )
    return scheduler, engine


def reply_of(**fields: Any) -> Reply:
    return Reply(**fields)


def test_the_crawl_ends_when_nothing_is_left_anywhere() -> None:
    """The crawl does not end while a request is pending, running here or elsewhere, or on its way, while start() is read, or if
    it is kept open. Nor while another worker has pages that are not durable; then this one makes its own durable, because the
    other may wait for that."""

    async def main() -> None:
        scheduler, engine = scheduler_alone()
        for there_is in ({"pending": 1}, {"others_busy": 1}, {"leased": [(1, b"https://example.com/")]}):
            scheduler.received(reply_of(**there_is), [])
            assert scheduler.has_pending_requests(), there_is
        leased = scheduler.next_request()
        scheduler.received(reply_of(), [])
        assert scheduler.has_pending_requests()
        assert leased is not None
        assert scheduler._leases.end(leased) == 1
        engine._start = object()
        scheduler.received(reply_of(), [])
        assert scheduler.has_pending_requests()
        assert scheduler.hidden == 1
        engine._start = None
        scheduler._worker.put(request("a"))  # type: ignore[union-attr]
        scheduler.received(reply_of(), [])
        assert scheduler.has_pending_requests()
        scheduler._worker.outbox.clear()  # type: ignore[union-attr]
        assert not engine.hurries
        scheduler.received(reply_of(others=1, others_open=1), [])
        assert scheduler.has_pending_requests()
        assert engine.hurries
        scheduler.received(reply_of(others=1), [])
        assert not scheduler.has_pending_requests()
        for timeout, stays in ((None, True), (60, True), (0, False)):
            kept_open, _ = scheduler_alone(STATE_REDIS_KEEP_OPEN=True, STATE_REDIS_IDLE_TIMEOUT=timeout)
            kept_open.received(reply_of(), [])
            assert not kept_open.has_pending_requests()  # so that Scrapy sends spider_idle
            sent = kept_open.crawler.signals.send_catch_log(signals.spider_idle, dont_log=DontCloseSpider)
            assert [isinstance(result, Failure) for _, result in sent] == [stays]
            assert kept_open.starving  # the worker polls at its own pace: the engine does not hurry it

    asyncio.run(main())


def test_what_can_not_be_read_is_neither_crawled_nor_acknowledged() -> None:
    """The crawl ends only after Redis has set aside what can't be read."""

    async def main() -> None:
        scheduler, _ = scheduler_alone()
        scheduler.received(reply_of(leased=[(7, b'{"url": 5}')]), [])
        assert scheduler.next_request() is None
        worker = scheduler._worker
        assert worker is not None
        assert worker.unreadable == [7]
        assert not worker._acknowledged
        scheduler.received(reply_of(), [])
        assert scheduler.has_pending_requests()
        await worker._exchange()
        assert not scheduler.has_pending_requests()

    asyncio.run(main())


def test_a_download_slot_is_text() -> None:
    """If no queue can hold a request's download slot, that is an error for the code that sends it, as with Scrapy's queue, not
    for the worker."""
    scheduler, engine = asyncio.run(_made())
    engine.downloader = SimpleNamespace(get_slot_key=lambda request: request.meta["download_slot"])
    scheduler._shared_filter = True
    scheduler._pace = Pace(engine.downloader, by_slot=True)
    with pytest.raises(TypeError, match="must be text"):
        scheduler.enqueue_request(scrapy.Request("https://example.com/", meta={"download_slot": 5}))


async def _made() -> tuple[Scheduler, Any]:
    return scheduler_alone()


def test_lost_leases_are_not_crawled_here() -> None:
    """Requests that a worker had leased ahead when it was taken for dead are other workers' now. Running ones keep their
    leases' numbers: they may still count, and are not crawled a second time here."""

    async def main() -> None:
        scheduler, _ = scheduler_alone()
        worker = scheduler._worker
        assert worker is not None
        leased = [(7, b"https://example.com/a"), (8, b"https://example.com/b"), (9, b"https://example.com/c")]
        scheduler.received(reply_of(leased=leased), [])
        done, running = scheduler.next_request(), scheduler.next_request()
        assert done is not None
        assert running is not None
        ids = [scheduler._leases.end(done), scheduler._leases.running[running]]
        worker.finish(ids[0])
        scheduler.received(reply_of(lost=True), [])
        assert scheduler.next_request() is None
        again = [each for each in leased if each[0] in ids]
        scheduler.received(reply_of(leased=again), [])
        assert scheduler.next_request() is None
        assert worker._newly_done == [ids[0], ids[0]]
        assert scheduler._leases.end(running) == ids[1]
        scheduler.received(reply_of(leased=[(7, b"https://example.com/a")]), [])
        assert scheduler.next_request() is not None

    asyncio.run(main())


class Downloads:
    """A downloader with a slow slot, a quick one, and settings for a third."""

    def __init__(self) -> None:
        self.per_slot_settings = {"chosen": {"concurrency": 4, "delay": 2.0}}
        self.ip_concurrency, self.domain_concurrency = 0, 8
        self._delay = 0.0
        self.settings = Settings()
        self.slots = {"slow": SimpleNamespace(concurrency=8, delay=1.0)}

    def get_slot_key(self, request: scrapy.Request) -> str:
        return request.meta["download_slot"]  # type: ignore[no-any-return]


def test_no_more_of_a_slot_than_it_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot with a delay gets what it can send in four seconds. One without gets as much as it has just done, and at least
    twice its concurrency. Requests that are here already count."""
    now = time.monotonic()
    monkeypatch.setattr("scrapy_state.redis.leases.time.monotonic", lambda: now)
    pace = Pace(Downloads(), by_slot=True)  # type: ignore[arg-type]
    assert pace.capacities == ({"chosen": 3}, 16)
    slow, quick = ([scrapy.Request("data:,", meta={"download_slot": slot}) for _ in range(40)] for slot in ("slow", "quick"))
    for request in (*slow[:3], *quick[:16]):
        pace.took(request)
    assert pace.capacities == ({"chosen": 3, "slow": 2, "quick": 0}, 16)
    for request in quick[16:]:
        pace.took(request)
    for request in quick:
        pace.ended(request)
    pace.took(quick[0])
    now += 5
    assert pace.capacities[0] == {"chosen": 3, "slow": 2, "quick": 8 + 40 - 1}
    now += 5
    assert pace.capacities[0]["quick"] == 16 - 1
    pace.keep(slow[:1])
    assert pace.capacities[0] == {"chosen": 3, "slow": 4}
    assert Pace(Downloads(), by_slot=False).capacities[0] == {}  # type: ignore[arg-type]


def test_a_page_is_not_done_before_what_only_memory_has() -> None:
    """A page stays leased until the requests it sent that can't be stored are done, and those that they sent."""

    async def main() -> None:
        scheduler, engine = scheduler_alone()
        engine.downloader = SimpleNamespace(get_slot_key=lambda request: "")
        scheduler._shared_filter = True
        scheduler._acknowledging = Acknowledging(scheduler._worker, None, 60.0)  # type: ignore[arg-type]
        worker = scheduler._worker
        assert worker is not None

        def unstorable(name: str) -> scrapy.Request:
            return scrapy.Request(f"https://example.com/{name}", meta={"x": object()})

        def taken() -> scrapy.Request:
            found = scheduler.next_request()
            assert found is not None
            return found

        scheduler.received(reply_of(leased=[(7, b"https://example.com/a"), (8, b"https://example.com/b")]), [])
        page, other = sorted((taken(), taken()), key=lambda each: each.url)
        PAGE.set(page)
        assert scheduler.enqueue_request(unstorable("c"))
        assert scheduler.enqueue_request(scrapy.Request("https://example.com/d"))
        PAGE.set(other)
        scheduler._done(other)
        scheduler._done(page)
        assert [id for _, id in worker._acknowledged] == [8]
        assert scheduler.unfinished == [7]  # an exchange that is sent again does not give it back
        child = taken()
        assert scheduler.enqueue_request(unstorable("e"))  # PAGE is the one that was taken
        scheduler._done(child)
        assert [id for _, id in worker._acknowledged] == [8]
        scheduler._done(taken())
        assert [id for _, id in worker._acknowledged] == [8, 7]
        assert scheduler.unfinished == []
        PAGE.set(None)
        assert scheduler.enqueue_request(unstorable("f"))  # start() sends it: there is no page
        scheduler._done(taken())
        assert len(worker._acknowledged) == 2

    asyncio.run(main())


class OwnFilter(RFPDupeFilter):
    """One that keeps what it has seen in JOBDIR, as Scrapy's does."""


def test_filters_that_outlive_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Scrapy's own filters cause no warning. Any other does, and gets no JOBDIR. One of a package that is known to keep
    fingerprints, or that has a client of a store, is refused."""
    (tmp_path / "requests.seen").write_bytes(b"")
    settings = {"DUPEFILTER_CLASS": OwnFilter, "JOBDIR": str(tmp_path)}
    made = local_dupefilter(get_crawler(FrontierSpider, settings))
    assert isinstance(made, OwnFilter)
    assert made.file is None
    spider = FrontierSpider()
    for harmless in (BaseDupeFilter(), RFPDupeFilter()):
        check_dupefilter(harmless, spider)
    assert not caplog.text
    check_dupefilter(made, spider)
    assert "OwnFilter': each worker filters by itself" in caplog.text
    theirs = type("RFPDupeFilter", (BaseDupeFilter,), {"__module__": "scrapy_redis.dupefilter"})
    with_client = BaseDupeFilter.__new__(type("Mine", (BaseDupeFilter,), {}))
    with_client.server = redis.Redis()
    for keeping in (theirs(), type("Derived", (theirs,), {})(), with_client):
        with pytest.raises(StateSettingsError, match="remembers what it has seen"):
            check_dupefilter(keeping, spider)


# Units of state


class Units:
    """A tracker of units in one worker; *out*: how many requests of each are out."""

    run = "this run"

    def __init__(self) -> None:
        self.out = Counter({"unit": 1})

    def unit_of(self, request: scrapy.Request) -> str | None:
        mark = request.meta.get(UNIT, (None, None))
        return mark[1] if mark[0] == self.run and self.out[mark[1]] else None

    def dropped(self, unit: str) -> None:
        self.out[unit] -= 1


class Company:
    """An opening that knows whether other workers are alive."""

    def __init__(self, is_alone: bool, sure_at: float = 0.0) -> None:
        self._is_alone = is_alone
        self.sure_at = sure_at

    async def is_alone(self) -> bool:
        return self._is_alone


def scheduler_with_units(opening: Company) -> tuple[Scheduler, Any, Units]:
    scheduler, engine = scheduler_alone()
    engine.downloader = SimpleNamespace(get_slot_key=lambda request: "")
    scheduler._shared_filter = True
    scheduler._units.opened(opening, scheduler.settings)  # type: ignore[arg-type]
    units = Units()
    scheduler._barrier.tracker = scheduler._barrier.tracking = units  # type: ignore[assignment]
    return scheduler, engine, units


def of_unit(run: str, url: str = "https://example.com/") -> scrapy.Request:
    return scrapy.Request(url, meta={UNIT: [run, "unit"]})


def test_requests_of_units_are_filtered_among_this_runs() -> None:
    """Within a run, a request of a unit always has the same fingerprint, and in the next run another. One without a unit always
    has the same."""

    async def main() -> None:
        scheduler, _, _ = scheduler_with_units(Company(True))
        worker = scheduler._worker
        assert worker is not None
        plain = scrapy.Request("https://example.com/")
        for each in (of_unit("this run"), of_unit("this run"), of_unit("another"), plain, plain):
            assert scheduler.enqueue_request(each)
        first, same, other, known, known_again = (new.fingerprint for new in worker.outbox)
        assert first == same
        assert len({first, other, known}) == 3
        assert known == known_again == fingerprint(plain)
        assert {len(new.fingerprint) for new in worker.outbox} == {20}

    asyncio.run(main())


def test_a_duplicate_is_counted_out_of_its_unit_when_it_is_known() -> None:
    """Until the reply says that a request is a duplicate, its unit can't end; then the unit no longer counts it, and can."""

    async def main() -> None:
        scheduler, _, units = scheduler_with_units(Company(True))
        worker = scheduler._worker
        assert worker is not None
        sent = [of_unit("this run"), of_unit("another"), scrapy.Request("https://example.com/")]
        for each in sent:
            scheduler.enqueue_request(each)
        sent[0].meta[UNIT] = ["this run", "another unit"]  # whatever else happens to it meanwhile
        assert scheduler.has_pending_requests()
        assert units.out["unit"] == 1
        new = list(worker.outbox)
        worker.outbox.clear()
        assert scheduler.has_pending_requests()
        scheduler.received(reply_of(duplicates=[True] * 3), new)
        assert units.out == {"unit": 0}
        assert not scheduler.has_pending_requests()

    asyncio.run(main())


@pytest.mark.parametrize("active", [False, True])
def test_what_an_earlier_run_left_of_its_units_is_not_crawled(active: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Requests of another run's units are acknowledged, but neither sent nor counted nor waited for, even before this run has
    begun a unit. Others are crawled."""

    async def main() -> None:
        scheduler, _, units = scheduler_with_units(Company(True))
        if not active:
            scheduler._barrier.tracking = None
        worker = scheduler._worker
        assert worker is not None
        left = [of_unit("another"), scrapy.Request("https://example.com/", meta={UNIT: 5}), of_unit("another")]
        others = (of_unit(units.run), scrapy.Request("https://example.com/b"))
        encoded = [scheduler._codec.encode(each) for each in (*left, *others)]
        encoded.append(b'{"url": "https://example.com/", "callback": "renamed", "meta": {"_state_unit": ["another", "unit"]}}')
        scheduler.received(reply_of(leased=list(enumerate(encoded, 1))), [])
        assert [id for _, id in worker._acknowledged] == [1, 2, 3, 6]
        assert worker.unreadable == []
        assert sorted(scheduler._leases.ids) == [4, 5]
        sent = [scheduler.next_request(), scheduler.next_request()]
        assert scheduler.next_request() is None
        stats = scheduler.crawler.stats
        assert stats is not None
        assert stats.get_value("scheduler/dequeued/redis") == 2
        assert stats.get_value("state/redis/left_over") == 4
        for each in sent:
            assert each is not None
            scheduler._leases.end(each)
        scheduler.received(reply_of(), [])
        assert not scheduler.has_pending_requests()

    asyncio.run(main())
    assert caplog.text.count("requests of an earlier run's units; they are left out") == 1


@pytest.mark.parametrize("what", ["lost", "company", "alone", "no units"])
def test_units_are_one_workers(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """Lost leases, or another live worker, end a crawl with units, with one line. A worker that was killed does not, and
    nothing does without units."""

    async def main() -> None:
        scheduler, engine, units = scheduler_with_units(Company(what == "alone"))
        closed = []

        async def close_spider_async(reason: str) -> None:
            closed.append(reason)

        engine.spider, engine._slot.closing, engine.close_spider_async = object(), None, close_spider_async
        sent = NewRequest(b"", b"", 0, False, "", of_unit("this run"), "unit")
        if what == "no units":
            scheduler._barrier.tracking = None
        for _ in range(3):
            scheduler.received(reply_of(others=1, lost=what in ("lost", "no units"), duplicates=[what == "lost"]), [sent])
            await asyncio.sleep(0.02)
        assert units.out["unit"] == 1
        assert closed == {"lost": ["state_frontier_failed"], "company": ["state_conflict"]}.get(what, [])
        assert scheduler._failed == bool(closed)
        scheduler._units.close()

    asyncio.run(main())
    assert caplog.text.count("the crawl ends: ") == (what in ("lost", "company"))


def test_a_crawl_of_units_does_not_end_while_another_worker_may_be_alive() -> None:
    """A worker that was there at the opening may be alive until it has had time to renew its leases."""

    async def main() -> None:
        for sure_at, others, pending in ((time.monotonic() + 60, 1, True), (time.monotonic() + 60, 0, False), (0.0, 1, False)):
            scheduler, _, _ = scheduler_with_units(Company(True, sure_at))
            scheduler.received(reply_of(others=others), [])
            assert scheduler.has_pending_requests() == pending
            scheduler._units.close()

    asyncio.run(main())
