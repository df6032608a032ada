"""The check of the request queues: what it finds, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crawls import Crawl, crawl
from scrapy import Spider
from scrapy.utils.request import RequestFingerprinter
from scrapy.utils.test import get_crawler

from scrapy_state.exceptions import StateSettingsError
from scrapy_state.selfcheck import SelfCheck

pytestmark = pytest.mark.long

SPIDER = """
import pickle, sqlite3, time
import scrapy
from scrapy.squeues import FifoMemoryQueue, PickleLifoDiskQueue
from scrapy.utils.request import request_from_dict

class QueueSpider(scrapy.Spider):
    name = "queue"

    async def start(self):
        for page in range(int(self.pages)):
            yield scrapy.Request(f"data:,{page}", priority=page)

    def parse(self, response):
        self.logger.info("page %s", response.text)
        if response.text == getattr(self, "last", None):
            raise scrapy.exceptions.CloseSpider("enough")

class SqliteQueue:
    def __init__(self, crawler, path):
        self.crawler, self.db = crawler, sqlite3.connect(path + ".sqlite")
        self.db.execute("create table if not exists queue (id integer primary key, request blob)")

    @classmethod
    def from_crawler(cls, crawler, path):
        return cls(crawler, path)

    def push(self, request):
        self.db.execute("insert into queue (request) values (?)", (pickle.dumps(request.to_dict(spider=self.crawler.spider)),))

    def pop(self):
        row = self.db.execute("select id, request from queue order by id desc limit 1").fetchone()
        if row is not None:
            self.db.execute("delete from queue where id = ?", row[:1])
            return request_from_dict(pickle.loads(row[1]), spider=self.crawler.spider)

    def close(self):
        self.db.commit()
        self.db.close()

    def __len__(self):
        return self.db.execute("select count(*) from queue").fetchone()[0]

class Forgets(FifoMemoryQueue):
    def pop(self):
        super().pop()
        return super().pop()

class NotKept(PickleLifoDiskQueue):
    def close(self):
        while super().pop():
            pass
        super().close()

class Uncommitted(SqliteQueue):
    def close(self):
        self.db.close()

class Raises(FifoMemoryQueue):
    def push(self, request):
        raise RuntimeError("the disk is on fire")
"""
SETTINGS: dict[str, Any] = {"FEEDS": {}, "LOG_LEVEL": "INFO"}


def pages(crawled: Crawl) -> list[int]:
    return sorted(int(line.rpartition(" ")[2]) for line in crawled.lines("INFO: page "))


def test_continued_crawl(tmp_path: Path) -> None:
    """A good queue passes, in a new crawl and in one that continues; the queued requests stay, and nothing is added."""
    queue = "spider.SqliteQueue"
    settings = {
        **SETTINGS,
        **{"JOBDIR": "job", "CONCURRENT_REQUESTS": 1, "SCHEDULER_DISK_QUEUE": queue, "SCHEDULER_START_DISK_QUEUE": queue},
    }
    first = crawl(tmp_path, SPIDER, "-a", "pages=6", "-a", "last=5", settings=settings)
    assert first.code == 0, first.log
    second = crawl(tmp_path, SPIDER, "-a", "pages=0", settings=settings)
    assert second.code == 0, second.log
    assert sorted(pages(first) + pages(second)) == list(range(len(pages(first) + pages(second))))
    assert not list(tmp_path.rglob("*selfcheck*"))


def test_bad_queue_refuses_to_start(tmp_path: Path) -> None:
    """A crawl with a queue that loses requests does not start: one line that names the setting, exit code 1."""
    settings = SETTINGS | {"SCHEDULER_DISK_QUEUE": "spider.NotKept", "JOBDIR": "job"}
    crawled = crawl(tmp_path, SPIDER, "-a", "pages=1", settings=settings)
    assert crawled.code == 1
    [line] = crawled.lines("] ERROR")
    assert "SCHEDULER_DISK_QUEUE is 'spider.NotKept', which would lose requests" in line
    assert not pages(crawled)


@pytest.fixture(scope="module")
def queues() -> dict[str, Any]:
    """The queue classes of the spider's module."""
    found: dict[str, Any] = {"__name__": "spider"}
    exec(SPIDER, found)
    return found


def check(queue: Any, folder: Path | None) -> None:
    crawler = get_crawler(Spider, {"TELNETCONSOLE_ENABLED": False})
    crawler.spider = crawler._create_spider("queue")
    crawler.request_fingerprinter = RequestFingerprinter()
    SelfCheck(crawler)._check("SCHEDULER_SOME_QUEUE", queue, folder)


@pytest.mark.parametrize("name", ["FifoMemoryQueue", "LifoMemoryQueue"])
def test_good_memory_queues(name: str) -> None:
    """Scrapy's own memory queues pass."""
    check(f"scrapy.squeues.{name}", None)


@pytest.mark.parametrize("name", ["PickleFifoDiskQueue", "PickleLifoDiskQueue", "MarshalFifoDiskQueue", "MarshalLifoDiskQueue"])
def test_good_disk_queues(name: str, tmp_path: Path) -> None:
    """Scrapy's own disk queues pass, and the check leaves nothing behind."""
    check(f"scrapy.squeues.{name}", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "on_disk", "says"),
    [
        ("Forgets", False, "gave back"),
        ("Raises", False, "RuntimeError: the disk is on fire"),
        ("NotKept", True, "closed and opened in between"),
        ("Uncommitted", True, "gave back 1, or others"),
    ],
)
def test_bad_queues(queues: dict[str, Any], tmp_path: Path, name: str, on_disk: bool, says: str) -> None:
    """A queue that loses requests, or raises, is an error that names the setting and says what the check found."""
    with pytest.raises(StateSettingsError, match=r"SCHEDULER_SOME_QUEUE is .*, which would lose requests") as caught:
        check(queues[name], tmp_path if on_disk else None)
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


OWN_SCHEDULER = """
class Scheduler:
    def __init__(self):
        self.requests = []

    def enqueue_request(self, request):
        self.requests.append(request)
        return True

    def next_request(self):
        return self.requests.pop() if self.requests else None

    def has_pending_requests(self):
        return bool(self.requests)
"""


def test_a_scheduler_without_queues_is_left_alone(tmp_path: Path) -> None:
    """A scheduler that is not Scrapy's works as before: it need not have queues to check."""
    crawled = crawl(tmp_path, SPIDER + OWN_SCHEDULER, "-a", "pages=3", settings=SETTINGS | {"SCHEDULER": "spider.Scheduler"})
    assert crawled.code == 0, crawled.log
    assert pages(crawled) == [0, 1, 2]


def test_it_can_be_left_out(tmp_path: Path) -> None:
    """STATE_SELFCHECK = False switches it off."""
    settings = SETTINGS | {"SCHEDULER_START_MEMORY_QUEUE": "spider.Forgets", "STATE_SELFCHECK": False}
    assert crawl(tmp_path, SPIDER, "-a", "pages=1", settings=settings).code == 0
