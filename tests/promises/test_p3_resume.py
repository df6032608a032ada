"""What a user meets: real crawls, from outside."""

from __future__ import annotations

import hashlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crawls import FEEDS, ITEMS, SPIDER, STATE_OPTIONS, STATES, checkpoints, crawl, named_items, run_until, start
from loopback import Handler, Server

from scrapy_state.resume.sources import last_state

# A site of numbered pages: /0, /1, …; below /fail it answers 500.
SITE_SPIDER = """
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        for number in self.first():
            yield scrapy.Request(self.site + str(number), errback=getattr(self, "errback", None))

    def first(self):
        return [self.state.get("page", 0)]

    def next(self, page):
        if page < 5:
            yield scrapy.Request(self.site + str(page + 1))

    def parse(self, response):
        page = int(response.url.rpartition("/")[2])
        yield {"page": page}
        yield StateItem({"page": page + 1})
        yield from self.next(page)
"""


class Pages(Handler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.reply(500 if self.path.startswith("/fail") else 200, "page")


@pytest.fixture
def server() -> Iterator[Any]:
    with Server(Pages, asked=[]) as server:
        yield server


@pytest.fixture
def site(server: Any) -> str:
    return f"{server.url}/"


def test_resumes(tmp_path: Path) -> None:
    """A second run starts from the first one's state, and the lineage names every item once."""
    first, second = crawl(tmp_path), crawl(tmp_path)
    assert (first.code, second.code) == (0, 0)
    assert first.lines("begins at 0 {}")
    assert second.lines("begins at 3 {'page': 3}")
    assert named_items(tmp_path) == [{"page": page, "n": n} for page in range(6) for n in range(2)]


def test_opening_checkpoint(tmp_path: Path) -> None:
    """Every writing run stores its opening checkpoint, with the state it starts from, and says how it ended."""
    crawl(tmp_path)
    crawl(tmp_path)
    reasons = [(each["reason"], each["state"]) for each in checkpoints(tmp_path) if each["reason"]]
    assert reasons == [("opened", {}), ("finished", {"page": 3}), ("opened", {"page": 3}), ("finished", {"page": 6})]


def test_log_lines(tmp_path: Path) -> None:
    """The log says where the state came from, each checkpoint stored, and the last yielded beside the last stored."""
    first, second = crawl(tmp_path), crawl(tmp_path)
    assert first.lines("[scrapy_state.state] INFO: STATE {} from the settings (priority default)")
    assert first.lines("checkpoint 1 stored: STATE {}, items: 0, files: 0,")
    assert first.lines('[scrapy_state.state] DEBUG: state item {"page": 3}')
    assert first.lines('spider closed (finished): last state yielded {"page": 3}, last stored {"page": 3} (checkpoint')
    newest = checkpoints(tmp_path)[-1]["parent"]
    line = second.lines('INFO: STATE {"page": 3} from checkpoint')[0]
    assert int(line.rpartition(" from checkpoint ")[2].split()[0]) < newest
    assert "/data/numbers/state/" in line
    assert " s old)" in line


def test_long_states_in_the_log(tmp_path: Path) -> None:
    """The log shows the beginning, length and digest of a long state; STATE_FROM never takes an older one from such a log."""
    source = """
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        yield StateItem({"open": "x" * 200_000})
        for number in range(100):
            yield scrapy.Request(f"data:,{number}")

    def parse(self, response):
        raise ValueError("no")
"""
    run = crawl(tmp_path, source, settings={"LOG_LEVEL": "INFO"})
    assert checkpoints(tmp_path)[-1]["state"] == {"open": "x" * 200_000}
    assert len(run.lines("the spider raised ValueError: last state yielded")) == 100
    assert len(run.log) < 1_000_000
    text = json.dumps({"open": "x" * 200_000})
    shown = f"{text[:200]}... (200,012 characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"
    assert run.lines(f"stored: STATE {shown}, items: 0, files: 0,")
    assert last_state(run.log.splitlines()) is None


def test_state_items_stay_inside(tmp_path: Path, site: str) -> None:
    """No pipeline, no item_scraped, no item count and no item feed sees a state item, from wherever it is yielded."""
    source = (
        SITE_SPIDER
        + """
    custom_settings = {"ITEM_PIPELINES": {"spider.Pipeline": 1}, "RETRY_ENABLED": False}

    async def start(self):
        yield StateItem({"page": -1})
        yield {"page": -1}
        yield scrapy.Request(self.site + "fail", errback=self.errback)

    def errback(self, failure):
        yield {"page": -2}
        yield StateItem({"page": 4})
        yield {"page": -3}
        yield scrapy.Request(self.site + "4")

class Pipeline:
    @classmethod
    def from_crawler(cls, crawler):
        crawler.signals.connect(cls.seen, scrapy.signals.item_scraped)
        return cls()

    def process_item(self, item):
        print("piped", type(item).__name__, file=__import__("sys").stderr)
        return item

    @staticmethod
    def seen(item):
        print("scraped", type(item).__name__, file=__import__("sys").stderr)
"""
    )
    for settings in ({}, {"STATE_READONLY": True}, {"STATE_ENABLED": False, "FEEDS": {}}):
        run = crawl(tmp_path / str(len(settings)), source, "-a", f"site={site}", settings=settings)
        assert run.code == 0, run.log
        assert run.lines("piped dict")
        assert not run.lines("StateItem"), settings
        assert run.lines("'item_scraped_count': 5")
    assert len(named_items(tmp_path / "0")) == 5
    assert checkpoints(tmp_path / "0")[-1]["state"] == {"page": 6}


def test_yielding_updates_spider_state(tmp_path: Path) -> None:
    """spider.state is what was yielded last, a copy; StateItem() takes a copy of spider.state."""
    source = (
        SPIDER
        + """
    async def start(self):
        mine = {"page": 1, "list": [1]}
        yield StateItem(mine)
        mine["list"].append(2)
        assert self.state == {"page": 1, "list": [1]}, self.state
        self.state["page"] = 2
        yield StateItem()
        self.state["list"].append(3)
        self.logger.info("as it should be")
"""
    )
    run = crawl(tmp_path, source)
    assert run.lines("as it should be"), run.log
    assert checkpoints(tmp_path)[-1]["state"] == {"page": 2, "list": [1]}


@pytest.mark.long
def test_explicit_state_wins(tmp_path: Path) -> None:
    """STATE on the command line beats the newest checkpoint; going back is marked as an overlap."""
    crawl(tmp_path)
    run = crawl(tmp_path, SPIDER, "-s", 'STATE={"page": 1}')
    assert run.lines("begins at 1 {'page': 1}")
    assert run.lines('STATE {"page": 1} from the settings (priority cmdline)')
    assert run.lines("(overlap)")
    opening = next(each for each in checkpoints(tmp_path) if each["overlap"])
    assert (opening["reason"], opening["state"]) == ("opened", {"page": 1})
    empty = crawl(tmp_path, SPIDER, "-s", "STATE=")
    assert empty.lines("begins at 4 {'page': 4}")


@pytest.mark.long
def test_state_at_branches(tmp_path: Path) -> None:
    """STATE_AT starts from an older checkpoint; the new run's lineage goes back to that one, the other branch stays as it is.
    The line in the log says what was chosen, how old it is, and what was passed over and why."""
    crawl(tmp_path, SPIDER, "-a", "pages=2")
    crawl(tmp_path, SPIDER, "-a", "pages=1")
    before = {each["id"]: each for each in checkpoints(tmp_path)}
    chosen = next(id for id, each in before.items() if each["state"] == {"page": 2} and each["reason"] == "finished")
    run = crawl(tmp_path, SPIDER, "-s", f"STATE_AT={chosen}")
    assert run.lines("begins at 2 {'page': 2}")
    [line] = run.lines('STATE {"page": 2} from checkpoint')
    assert f"from checkpoint {chosen} (file://" in line
    assert f" s old); {max(before) - chosen} newer skipped (STATE_AT is {chosen})" in line
    after = {each["id"]: each for each in checkpoints(tmp_path)}
    assert after.items() >= before.items()
    assert (after[max(before) + 1]["parent"], after[max(before) + 1]["overlap"]) == (chosen, False)
    assert named_items(tmp_path) == [{"page": page, "n": n} for page in range(5) for n in (0, 1)]

    fresh = crawl(tmp_path, SPIDER, "-s", "STATE_AT=none")
    assert fresh.lines("begins at 0 {}")
    assert fresh.lines(f"STATE {{}} from the settings (priority default); {max(after)} newer skipped (STATE_AT is none)")
    assert named_items(tmp_path) == [{"page": page, "n": n} for page in range(3) for n in (0, 1)]

    beyond = crawl(tmp_path, SPIDER, "-s", "STATE_AT=-99")
    assert beyond.code == 1
    assert beyond.lines("ERROR: the crawl does not start: STATE_AT: no checkpoint under file://")


@pytest.mark.long
def test_state_lag(tmp_path: Path) -> None:
    """STATE_LAG starts a bit before the checkpoint, marked as an overlap; without a checkpoint it does nothing."""
    settings = {"STATE_LAG": {"page": 1}}
    first, second = crawl(tmp_path, settings=settings), crawl(tmp_path, settings=settings)
    assert first.lines("begins at 0 {}")
    assert second.lines("begins at 2 {'page': 2}")
    assert second.lines(' s old); less STATE_LAG {"page": 1}')
    assert any(each["overlap"] and each["state"] == {"page": 2} for each in checkpoints(tmp_path))
    wrong = crawl(tmp_path, settings={"STATE_LAG": {"t": 1}})
    assert wrong.code == 1
    assert wrong.lines("ERROR: the crawl does not start: STATE_LAG names 't', but the state has no such field")


def test_state_setting_is_the_first_start(tmp_path: Path) -> None:
    """STATE in the project's settings is where to start for when there is no checkpoint."""
    settings = {"STATE": {"page": 7}}
    first, second = crawl(tmp_path, settings=settings), crawl(tmp_path, settings=settings)
    assert first.lines('STATE {"page": 7} from the settings (priority project)')
    assert second.lines("begins at 10 {'page': 10}")


def test_readonly(tmp_path: Path) -> None:
    """A read-only run resumes from the same checkpoint and writes nothing under the state prefix."""
    crawl(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    feeds = {"dev.jsonl": {"format": "jsonlines", "overwrite": True}, STATES: STATE_OPTIONS}
    run = crawl(tmp_path, settings={"STATE_READONLY": True, "FEEDS": feeds})
    assert run.code == 0
    assert run.lines("begins at 3 {'page': 3}")
    assert run.lines('spider closed (finished): last state yielded {"page": 6}, last stored none in this run')
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before
    assert len((tmp_path / "dev.jsonl").read_text().splitlines()) == 6


def test_readonly_on_s3(tmp_path: Path, bucket: str, s3_settings: dict[str, str], s3_client: Any) -> None:
    """On S3 a read-only run resumes too, and what production stored is what it was."""
    feeds = {f"s3://{bucket}/{ITEMS}": {"format": "jsonlines"}, f"s3://{bucket}/{STATES}": STATE_OPTIONS}
    first = crawl(tmp_path, settings={**s3_settings, "FEEDS": feeds})
    assert first.code == 0, first.log

    def stored() -> list[tuple[str, str]]:
        return [(each["Key"], each["ETag"]) for each in s3_client.list_objects_v2(Bucket=bucket)["Contents"]]

    before = stored()
    assert [key for key, _ in before if "/state/" in key][-1].endswith("/0000000002.json")
    states = {f"s3://{bucket}/{STATES}": STATE_OPTIONS}
    run = crawl(tmp_path, SPIDER, "-O", "dev.jsonl", settings={**s3_settings, "FEEDS": states, "STATE_READONLY": True})
    assert run.code == 0, run.log
    assert run.lines("begins at 3 {'page': 3}")
    assert [pair for pair in stored() if "/state/" in pair[0]] == [pair for pair in before if "/state/" in pair[0]]
    assert (tmp_path / "dev.jsonl").exists()


def test_refuses_to_start_when_unreachable(tmp_path: Path, server: Any, site: str) -> None:
    """A store that does not answer is never "empty": no request is sent, the exit code says so, one error line says why."""
    feeds = {f"s3://bucket/{ITEMS}": {"format": "jsonlines"}, f"s3://bucket/{STATES}": STATE_OPTIONS}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "the-secret", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    run = crawl(tmp_path, SITE_SPIDER, "-a", f"site={site}", settings={**keys, "AWS_REGION_NAME": "us-east-1", "FEEDS": feeds})
    assert run.code == 1
    assert run.lines("check AWS_ENDPOINT_URL")
    # Scrapy itself logs the settings, with this one in clear text
    assert [line for line in run.lines("the-secret") if "'AWS_SECRET_ACCESS_KEY': 'the-secret'" not in line] == []
    assert "Traceback" not in run.log
    assert not server.asked


def test_refuses_to_start_when_forbidden(tmp_path: Path, s3_settings: dict[str, str], server: Any, site: str) -> None:
    """A bucket that is not there (or may not be read) refuses to start, before the first request."""
    feeds = {"s3://no-such-bucket/i/%(batch_time)s.jsonl": {}, f"s3://no-such-bucket/{STATES}": STATE_OPTIONS}
    feeds["s3://no-such-bucket/i/%(batch_time)s.jsonl"] = {"format": "jsonlines"}
    run = crawl(tmp_path, SITE_SPIDER, "-a", f"site={site}", settings={**s3_settings, "FEEDS": feeds})
    assert run.code == 1
    assert run.lines("NoSuchBucket; check the bucket's name in the URI")
    assert not server.asked


def test_refuses_to_start_where_it_cannot_write(tmp_path: Path, server: Any, site: str) -> None:
    """If the opening checkpoint can't be stored there is no first request."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/numbers").write_text("a file where the folder should be")
    run = crawl(tmp_path, SITE_SPIDER, "-a", f"site={site}")
    assert run.code == 1
    assert run.lines("check the path in FEEDS")
    assert not server.asked


def test_torn_and_foreign_files(tmp_path: Path) -> None:
    """Torn, empty and foreign files are passed over with a warning that names each; ids go on after them."""
    crawl(tmp_path)
    folder = tmp_path / "data/numbers/state"
    newest = sorted(folder.glob("*.json"))[-1]
    number = int(newest.stem)
    (folder / f"{number + 1:010d}.json").write_bytes(newest.read_bytes()[:100])
    (folder / f"{number + 2:010d}.json").write_bytes(b"")
    (folder / f"{number + 3:010d}.json").write_text('{"not": "ours"}')
    (folder / "README.txt").write_text("not a checkpoint's name at all")
    run = crawl(tmp_path)
    assert run.code == 0, run.log
    assert run.lines("begins at 3 {'page': 3}")
    assert [bool(run.lines(f"{number + more:010d}.json is skipped")) for more in (1, 2, 3)] == [True] * 3
    assert run.lines(f"checkpoint {number + 4} stored")


def test_credentials_never_appear(tmp_path: Path, bucket: str, s3_settings: dict[str, str]) -> None:
    """Credentials in a feed's URI reach neither the log nor a checkpoint."""
    at = f"s3://access-in-uri:secret-in-uri@{bucket}"
    feeds = {f"{at}/{ITEMS}": {"format": "jsonlines"}, f"{at}/{STATES}": STATE_OPTIONS}
    settings = {name: value for name, value in s3_settings.items() if "KEY" not in name}
    # Scrapy itself logs the overridden settings, not FEEDS: nothing else may say them.
    runs = [crawl(tmp_path, settings={**settings, "FEEDS": feeds}) for _ in range(2)]
    assert [run.code for run in runs] == [0, 0], runs[0].log
    assert runs[1].lines("begins at 3")
    for run in runs:
        lines = [line for line in run.log.splitlines() if "secret-in-uri" in line and "Overridden" not in line]
        assert not [line for line in lines if "scrapy_state" in line]
        assert not lines


def test_item_feed_that_would_overwrite(tmp_path: Path) -> None:
    """An item feed whose URI is the same in every run is an error at start, naming the feed and the fix."""
    run = crawl(tmp_path, settings={"FEEDS": {"items.jsonl": {"format": "jsonlines"}, STATES: STATE_OPTIONS}})
    assert run.code == 1
    assert run.lines("the item feed 'items.jsonl' has the same URI in every run")
    assert run.lines("items-%(run_id)s-%(batch_id)05d.jsonl")
    assert not (tmp_path / "data").exists()


def test_command_line_feed_is_left_out(tmp_path: Path) -> None:
    """A feed that -o added takes no part in checkpoints and says so in one line; the others do."""
    run = crawl(tmp_path, SPIDER, "-o", "out.jsonl")
    assert run.code == 0, run.log
    assert len(run.lines("the feed out.jsonl takes no part in checkpoints")) == 1
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 6
    assert len(named_items(tmp_path)) == 6


@pytest.mark.long
def test_state_feed_template(tmp_path: Path) -> None:
    """A state feed that can't be written to shows the right template."""
    for template in (
        "state/%(time)s.json",
        "state/%(batch_id)d.json",
        "state/%(run_id)s/%(batch_id)05d.json",
        "state/one.json",
    ):
        run = crawl(tmp_path, settings={"FEEDS": {ITEMS: {"format": "jsonlines"}, template: STATE_OPTIONS}})
        assert run.code == 1
        assert run.lines("%(batch_id)010d.json"), run.log


def test_state_items_while_requests_are_out(tmp_path: Path, site: str) -> None:
    """State items that come while other requests are out get a warning, and one with the numbers at the end; else none."""
    request_first = SITE_SPIDER.replace(
        "        yield StateItem({", "        yield from self.next(page)\n        yield StateItem({"
    )
    request_first = request_first.rpartition("        yield from self.next(page)")[0]
    for number, source in enumerate((SITE_SPIDER, request_first)):
        run = crawl(tmp_path / str(number), source, "-a", f"site={site}")
        assert checkpoints(tmp_path / str(number))[-1]["state"] == {"page": 6}, run.log
        assert not run.lines("] WARNING: "), run.log
    concurrent = SITE_SPIDER + "\n    def first(self):\n        return range(5)\n    def next(self, page):\n        return []\n"
    details = SITE_SPIDER.replace(
        "        yield StateItem({",
        """        if page < 5:
            for detail in range(10):
                yield scrapy.Request(f"{self.site}1{page}{detail}", callback=self.parse_detail)
        yield StateItem({""",
    )
    details += """
    def parse_detail(self, response):
        yield {"detail": response.url}
"""
    for name, source, count in (("concurrent", concurrent, 4), ("details", details, 5)):
        run = crawl(tmp_path / name, source, "-a", f"site={site}")
        first, last, *_ = run.lines("] WARNING: ")
        assert "a state item came while requests that were yielded before it are still out (" in first
        assert int(re.search(r"WARNING: (\d+) of \d state items came while requests", last)[1]) >= count, run.log  # type: ignore[index]


def test_no_state_item(tmp_path: Path) -> None:
    """A spider that yields items but no state item is told of while it crawls and when it is closed, with the numbers."""
    source = """
import scrapy

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        for number in range(150):
            yield {"number": number}
"""
    run = crawl(tmp_path, source, settings={"STATE_INTERVAL": 0})
    first, last = run.lines("] WARNING: ")
    assert "100 items in 0 s, and no state item yet: if this run is killed now, the next one begins before them." in first
    assert "the spider yielded 150 items and no state item: no checkpoint names them, and the next run begins" in last
    assert run.lines("spider closed (finished)")
    after = crawl(tmp_path / "after", SPIDER + '        yield {"page": -1}\n').lines("] WARNING: ")
    assert [line.partition("WARNING: ")[2][:56] for line in after] == [
        "the spider yielded 1 items after the last state item: no"
    ]
    for settings in ({"STATE_READONLY": True}, {"FEEDS": {"items.jsonl": {"format": "jsonlines"}}}):
        assert not crawl(tmp_path / "nothing stored", source, settings={"STATE_INTERVAL": 0, **settings}).lines("] WARNING: ")


def test_failures_log_where_it_stands(tmp_path: Path, site: str) -> None:
    """A download that fails for good and a callback that raises log the last state yielded beside the last stored."""
    source = (
        SITE_SPIDER
        + """
    custom_settings = {"RETRY_TIMES": 1}
    def next(self, page):
        if page == 2:
            yield scrapy.Request(self.site + "fail")
            yield scrapy.Request(self.site.replace("127.0.0.1", "127.0.0.1:9#"))
            raise ValueError("no page 3")
        yield from super().next(page) if hasattr(super(), "next") else [scrapy.Request(self.site + str(page + 1))]
"""
    )
    run = crawl(tmp_path, source, "-a", f"site={site}")
    for text in ("/fail> failed (HttpError)", "the spider raised ValueError", "spider closed (finished)"):
        assert run.lines(text + ': last state yielded {"page": 3}, last stored'), run.log


def test_jobdir(tmp_path: Path) -> None:
    """With JOBDIR, whose SpiderState writes spider.state too, the checkpoint's state wins."""
    source = SPIDER.replace(
        'yield StateItem({"page": page + 1})', 'yield StateItem({"page": page + 1})\n        self.state = {"page": 99}'
    )
    runs = [crawl(tmp_path, source, "-s", "JOBDIR=job") for _ in range(2)]
    assert runs[1].lines("begins at 3 {'page': 3}"), runs[1].log
    assert runs[1].lines("remembers the requests of an earlier run")


def test_sigterm(tmp_path: Path, site: str) -> None:
    """SIGTERM ends the crawl in order: its last state item is stored, the reason is "shutdown"."""
    endless = SITE_SPIDER.replace("page < 5", "True")
    process = start(tmp_path, endless, "-a", f"site={site}", settings={"STATE_INTERVAL": 1000})
    run_until(process, 'state item {"page": 20}')
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    last = checkpoints(tmp_path)[-1]
    assert last["reason"] == "shutdown"
    assert named_items(tmp_path) == [{"page": page} for page in range(last["state"]["page"])]


def test_own_item_processor(tmp_path: Path) -> None:
    """A project's own ITEM_PROCESSOR goes on working; so do Crawler.get_item_pipeline and its pipelines."""
    source = (
        SPIDER
        + """
        from spider import Pipeline, Processor
        self.logger.info("pipeline %s", self.crawler.get_item_pipeline(Pipeline))

from scrapy.pipelines import ItemPipelineManager

class Pipeline:
    def process_item(self, item):
        return item

class Processor(ItemPipelineManager):
    async def process_item_async(self, item):
        if item["n"]:
            raise scrapy.exceptions.DropItem("odd")
        return await super().process_item_async({**item, "own": True})
"""
    )
    settings = {"ITEM_PROCESSOR": "spider.Processor", "ITEM_PIPELINES": {"spider.Pipeline": 1}}
    run = crawl(tmp_path, source, settings=settings)
    assert run.code == 0, run.log
    assert run.lines("pipeline <spider.Pipeline")
    assert named_items(tmp_path) == [{"page": page, "n": 0, "own": True} for page in range(3)]


def test_own_feed_exporter(tmp_path: Path) -> None:
    """A project with its own FeedExporter gets an error that says why both can't be; a subclass of ours is fine."""
    source = (
        SPIDER
        + """
from scrapy.extensions.feedexport import FeedExporter
from scrapy_state import CheckpointFeedExporter

class Own(FeedExporter):
    pass

class Derived(CheckpointFeedExporter):
    pass
"""
    )
    off = {"scrapy.extensions.feedexport.FeedExporter": None}
    refused = crawl(tmp_path / "own", source, settings={"EXTENSIONS": {**off, "spider.Own": 0}})
    assert refused.code == 1
    assert refused.lines("EXTENSIONS has spider.Own, a FeedExporter of the project's own")
    derived = crawl(tmp_path / "derived", source, settings={"EXTENSIONS": {**off, "spider.Derived": 0}})
    assert derived.code == 0, derived.log
    assert len(named_items(tmp_path / "derived")) == 6


def test_hooks(tmp_path: Path) -> None:
    """A subclass of StateResolver can change the state to start from, and refuse it."""
    source = (
        SPIDER
        + """
from scrapy_state import StateResolver

class Own(StateResolver):
    def change_state(self, state):
        return {"page": max(0, state.get("page", 0) - 1)}

    def validate_state(self, state, spider):
        if state["page"] > 1:
            raise ValueError("page is too high")
"""
    )
    settings = {"EXTENSIONS": {"spider.Own": 10}}
    first, second, third = [crawl(tmp_path, source, "-a", "pages=2", settings=settings) for _ in range(3)]
    assert first.lines("begins at 0 {'page': 0}")
    assert second.lines("begins at 1 {'page': 1}")
    assert second.lines("(overlap)")
    assert third.code == 1
    assert third.lines("page is too high")


def test_spider_state_of_another_kind(tmp_path: Path) -> None:
    """A spider argument called state, which is no dict, is an error at start that names the remedy."""
    run = crawl(tmp_path, SPIDER, "-a", "state=CA")
    assert run.code == 1
    assert run.lines("spider.state is 'CA'")


def test_disabled(tmp_path: Path) -> None:
    """STATE_ENABLED=False (here per spider): no checkpoint is read, written or overwritten; items are stored as ever."""
    crawl(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "data/numbers/state").iterdir()}
    source = SPIDER + '\n    custom_settings = {"STATE_ENABLED": False}\n'
    run = crawl(tmp_path, source, settings={"STATE": {"page": 7}})
    assert run.code == 0, run.log
    assert run.lines("begins at 7 {'page': 7}")
    assert run.lines("STATE_ENABLED is False")
    assert not run.lines(" stored: STATE")
    assert {path.name: path.read_bytes() for path in (tmp_path / "data/numbers/state").iterdir()} == before
    newest = max((tmp_path / "data/numbers/items").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(newest.read_text().splitlines()) == 6


def test_pipeline_error_stops_checkpoints(tmp_path: Path) -> None:
    """No checkpoint passes an item whose pipeline raised: the crawl stops, the exit code and one error line say so."""
    source = (
        SPIDER
        + """
        for page in range(1000):
            yield {"page": 1000 + page, "n": 0}

class Pipeline:
    def process_item(self, item):
        if item == {"page": 1, "n": 1}:
            raise ValueError("what the item holds: top secret")
        return item
"""
    )
    run = crawl(tmp_path, source, settings={"ITEM_PIPELINES": {"spider.Pipeline": 1}, "STATE_INTERVAL": 0})
    assert run.code == 1
    errors = run.lines("[scrapy_state.state] ERROR")
    assert len(errors) == 1
    last = checkpoints(tmp_path)[-1]
    assert f"checkpoints stopped at checkpoint {last['id']}, STATE {json.dumps(last['state'])}, because" in errors[0]
    assert "an item raised ValueError in a pipeline" in errors[0]
    assert "secret" not in errors[0]
    assert checkpoints(tmp_path)[-1]["state"] in ({}, {"page": 1})
    assert run.lines("'finish_reason': 'state_item_failed'")
    fixed = crawl(tmp_path, SPIDER)
    assert fixed.code == 0
    assert named_items(tmp_path)[:4] == [{"page": page, "n": n} for page in range(2) for n in range(2)]


def test_pipeline_error_skipped(tmp_path: Path) -> None:
    """STATE_ON_ITEM_ERROR="skip" goes on, and the checkpoint counts what failed."""
    source = (
        SPIDER
        + """
class Pipeline:
    def process_item(self, item):
        if item["n"]:
            raise ValueError
        return item
"""
    )
    settings = {"ITEM_PIPELINES": {"spider.Pipeline": 1}, "STATE_ON_ITEM_ERROR": "skip"}
    run = crawl(tmp_path, source, settings=settings)
    assert run.code == 0
    last = checkpoints(tmp_path)[-1]
    assert (last["state"], last["errors"], last["items"]) == ({"page": 3}, 3, 3)


def test_exporter_error_stops_checkpoints(tmp_path: Path) -> None:
    """An item that its feed can't serialize is not lost silently: no checkpoint passes it."""
    source = SPIDER.replace('yield {"page": page, "n": 1}', 'yield {"page": page, "n": 1 if page else object()}')
    run = crawl(tmp_path, source, settings={"STATE_INTERVAL": 0})
    assert run.code == 1
    assert run.lines("an item could not be exported (TypeError)")
    assert checkpoints(tmp_path)[-1]["state"] == {}
    assert run.lines("'finish_reason': 'state_store_failed'")


def test_second_writer(tmp_path: Path, site: str) -> None:
    """A second run on the same prefix: the first one finds it at its next commit and stops; nothing is overwritten."""
    endless = SITE_SPIDER.replace("page < 5", "True")
    settings = {"STATE_INTERVAL": 0.2, "DOWNLOAD_DELAY": 0.05}
    first = start(tmp_path, endless, "-a", f"site={site}", settings=settings)
    log = run_until(first, "checkpoint 3 stored")
    first.send_signal(signal.SIGSTOP)
    second = crawl(tmp_path, SITE_SPIDER, "-a", f"site={site}", settings=settings)
    assert second.code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "data/numbers/state").iterdir()}
    first.send_signal(signal.SIGCONT)
    log += first.communicate(timeout=60)[1]
    assert first.returncode == 1
    assert "'finish_reason': 'state_conflict'" in log
    assert {name: (tmp_path / "data/numbers/state" / name).read_bytes() for name in before} == before


def test_custom_settings_state_feed_and_o(tmp_path: Path) -> None:
    """-o hides a state feed that stands in custom_settings: the run says so."""
    source = SPIDER + f"\n    custom_settings = {{'FEEDS': {json.dumps(FEEDS)}}}\n"
    run = crawl(tmp_path, source, "-o", "out.jsonl", settings={"FEEDS": {}})
    assert run.code == 0, run.log
    assert run.lines("the state feed in the spider's custom_settings is not there")


def test_setup_by_hand(tmp_path: Path) -> None:
    """What docs/setup.md lists for those who do without the add-on does the same."""
    settings = {
        "ADDONS": {},
        "EXTENSIONS": {
            "scrapy.extensions.feedexport.FeedExporter": None,
            "scrapy_state.feedexport.CheckpointFeedExporter": 0,
            "scrapy_state.extension.StateResolver": 10,
        },
        "SPIDER_MIDDLEWARES": {"scrapy_state.barrier.StateMiddleware": -100_000},
        "ITEM_PROCESSOR": "scrapy_state.barrier.BarrierItemProcessor",
    }
    crawl(tmp_path, settings=settings)
    run = crawl(tmp_path, settings=settings)
    assert run.lines("begins at 3 {'page': 3}")
    assert len(named_items(tmp_path)) == 12
