"""Pages that fail, in real crawls: STATE_ON_PAGE_ERROR, and items that fail in a pipeline."""

from __future__ import annotations

from page_crawls import Place

#: Its page "bad" yields an item and two children, and then raises unless the run is given -a good=yes.
BAD = """
class Bad(Any):
    good = ""
    async def start(self):
        for path in ("bad", "a", "b"):
            yield self.to(path)

    async def parse(self, response):
        yield {"key": key(response)}
        if key(response) == "bad":
            yield self.to("child/1", dont_filter=True)
            yield self.to("child/2")
            yield self.to("child/1", dont_filter=True)
            if not self.good:
                raise ValueError("no")
"""
CHILDREN = {"child/1": 2, "child/2": 1}


def test_skip(pages: Place) -> None:
    """A page that fails keeps what it has yielded, as in Scrapy; the checkpoint counts it, and the crawl is over."""
    run = pages.crawl(BAD)
    assert run.code == 0, run.log
    assert pages.keys == {"bad": 1, "a": 1, "b": 1, **CHILDREN}
    assert pages.newest["ended"]
    assert "'state/pages_failed': 1" in run.log


def test_hold(pages: Place) -> None:
    """None of its items counts; the run ends as state_pages_failed; the next tries just this page, without its children."""
    for _ in range(2):
        run = pages.crawl(BAD, STATE_ON_PAGE_ERROR="hold")
        assert run.code == 1, run.log
        assert run.lines("1 pages failed and are held (STATE_ON_PAGE_ERROR)")
        assert run.lines("spider closed (state_pages_failed)")
        assert pages.keys == {"a": 1, "b": 1, **CHILDREN}
        assert pages.newest["requests"]["pending"] == pages.newest["requests"]["held"] == 1
    assert pages.asked == {"bad": 1}
    run = pages.crawl(BAD, "-a", "good=yes", STATE_ON_PAGE_ERROR="hold")
    assert run.code == 0, run.log
    assert pages.asked == {"bad": 1}
    assert pages.keys == {"bad": 1, "a": 1, "b": 1, **CHILDREN}
    assert pages.newest["ended"]


def test_grandchildren_of_held_pages(pages: Place) -> None:
    """Children that were done before their parent failed are not crawled again, and neither are their own children."""
    source = """
class Bad(Any):
    good = ""
    async def start(self):
        yield self.to("bad")

    async def parse(self, response):
        yield {"key": key(response)}
        if key(response) == "bad":
            yield self.to("child", dont_filter=True)
            if not self.good:
                while self.crawler.stats.get_value("response_received_count") < 3:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.1)
                raise ValueError("no")
        elif key(response) == "child":
            yield self.to("grandchild/1", dont_filter=True)
            yield self.to("slow/grandchild/2", dont_filter=True)
"""
    assert pages.crawl(source, STATE_ON_PAGE_ERROR="hold").code == 1
    run = pages.crawl(source, "-a", "good=yes", STATE_ON_PAGE_ERROR="hold")
    assert run.code == 0, run.log
    assert pages.keys == {"bad": 1, "child": 1, "grandchild/1": 1, "slow/grandchild/2": 1}


def test_stop(pages: Place) -> None:
    """The crawl ends at the first failure, with exit code 1; the page stays pending, and the next run goes on."""
    run = pages.crawl(BAD, STATE_ON_PAGE_ERROR="stop", CONCURRENT_REQUESTS=1)
    assert run.code == 1, run.log
    assert run.lines("spider closed (state_page_failed)")
    assert "bad" not in pages.keys
    run = pages.crawl(BAD, "-a", "good=yes", STATE_ON_PAGE_ERROR="stop")
    assert run.code == 0, run.log
    assert pages.keys == {"bad": 1, "a": 1, "b": 1, **CHILDREN}


ANSWERS = """
class Answers(Any):
    async def start(self):
        yield self.to("a")
        yield self.to("status/500")
        yield self.to("status/404")
        yield self.to("status/403")
        yield self.to("status/500?handled", errback=self.handled)
        yield self.to("status/404?handled", errback=self.handled)
        yield self.to("status/500?raises", errback=self.raises)
        yield self.to("status/404?closes", errback=self.closes)
        yield self.to("status/500?again", errback=self.again)
        yield self.to("status/500?allowed", meta={"handle_httpstatus_list": [500]})
        yield Request("http://127.0.0.1:1/refused")

    def handled(self, failure):
        yield {"key": "handled " + key(failure.value.response)}

    def raises(self, failure):
        raise KeyError("no")

    def closes(self, failure):
        if self.kill:
            raise CloseSpider("enough")

    def again(self, failure):
        failure.raiseException()
"""


def test_answers(pages: Place) -> None:
    """Failures are: a 500 after the retries, a refused connection, an errback that raises. A 404 or 403 that nobody handles
    is none, nor is what an errback or a callback handles. Each failure counts once."""
    run = pages.crawl(ANSWERS, STATE_ON_PAGE_ERROR="hold", DOWNLOAD_DELAY=0)
    assert run.code == 1, run.log
    assert run.lines("4 pages failed and are held"), run.log
    assert pages.keys == {
        "a": 1, "handled status/500?handled": 1, "handled status/404?handled": 1, "status/500?allowed": 1
    }  # fmt: skip
    assert pages.asked["status/500"] == 2
    run = pages.crawl(ANSWERS)
    assert run.code == 0, run.log
    assert pages.checkpoints[-2]["requests"]["failed"] == 4
    assert "'state/pages_failed': 4" in run.log


def test_close_spider_in_an_errback(pages: Place) -> None:
    """It is no failure; the crawl is over."""
    run = pages.crawl(ANSWERS, "-a", "kill=yes", STATE_ON_PAGE_ERROR="hold", CONCURRENT_REQUESTS=1)
    assert run.lines("spider closed (enough)"), run.log
    assert pages.newest["ended"]


def test_expired_session(pages: Place) -> None:
    """A 403 that nobody handles, for a request of an earlier run, is held whatever the setting: the session has expired."""
    source = """
class Private(Any):
    extra = ""
    async def start(self):
        for path in ["a", "status/200?private", *self.extra.split()]:
            yield self.to(path)

    async def parse(self, response):
        if self.kill and key(response) != self.kill:
            await asyncio.sleep(60)
        async for item in super().parse(response):
            yield item
"""
    assert pages.crawl(source, "-a", "kill=a").code == -9
    pages.server.statuses["status/200?private"] = 403
    run = pages.crawl(source, "-a", "extra=status/403")
    assert run.code == 1, run.log
    assert run.lines("1 pages failed and are held"), run.log
    assert pages.keys == {"a": 1}
    pages.server.statuses.clear()
    assert pages.crawl(source).code == 0
    assert pages.keys == {"a": 1, "status/200?private": 1}


PIPELINE = """
class Pipeline:
    def process_item(self, item):
        if item["key"].startswith("bad") and self.crawler.spider.fails:
            raise ValueError("no")
        if item["key"].startswith("drop"):
            raise DropItem("no")
        return item

    @classmethod
    def from_crawler(cls, crawler):
        pipeline = cls()
        pipeline.crawler = crawler
        return pipeline

class Failing(Any):
    fails = "yes"
    custom_settings = {"ITEM_PIPELINES": {Pipeline: 1}}
    async def start(self):
        for path in ("a", "bad", "drop"):
            yield self.to(path)

    def parse(self, response):
        yield {"key": key(response) + "#1"}
        yield {"key": "good"}
        yield {"key": key(response) + "#2"}
"""


def test_items_that_stop_the_crawl(pages: Place) -> None:
    """STATE_ON_ITEM_ERROR = "stop": the page of an item that fails in a pipeline stays pending, and comes again whole."""
    run = pages.crawl(PIPELINE)
    assert run.code == 1, run.log
    assert run.lines("spider closed (state_item_failed)")
    assert not any(key.startswith("bad") for key in pages.keys)
    assert pages.newest["requests"]["pending"] >= 1
    run = pages.crawl(PIPELINE, "-a", "fails=")
    assert run.code == 0, run.log
    assert pages.keys == {"a#1": 1, "a#2": 1, "bad#1": 1, "bad#2": 1, "good": 3}
    assert pages.asked["bad"] == 1


def test_items_that_are_skipped(pages: Place) -> None:
    """STATE_ON_ITEM_ERROR = "skip": only the failed items are missing, and they are counted."""
    run = pages.crawl(PIPELINE, STATE_ON_ITEM_ERROR="skip")
    assert run.code == 0, run.log
    assert pages.keys == {"a#1": 1, "a#2": 1, "good": 3}
    assert pages.newest["errors"] == 2
    assert pages.newest["ended"]
