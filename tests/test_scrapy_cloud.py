"""Scrapy Cloud: settings as its runner makes them, and jobs as it runs them (package scrapinghub-entrypoint-scrapy)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.settings import Settings
from sh_scrapy.settings import populate_settings

from scrapy_state import Addon
from scrapy_state.exceptions import StateSettingsError
from scrapy_state.feedexport import _is_state_feed_lost
from scrapy_state.feeds import StateFeed, item_feeds_with_checkpoints
from scrapy_state.scrapy_internals import typed
from scrapy_state.settings import StateSettings

pytestmark = pytest.mark.long

STATES = "s3://{bucket}/state/%(name)s/%(batch_id)010d.json"
ITEMS = "s3://{bucket}/items/%(run_id)s-%(batch_id)05d.jsonl"
STATE_OPTIONS = {"format": "json", "item_classes": ["scrapy_state.StateItem"]}
LEVELS = ["project_settings", "organization_settings", "spider_settings", "job_settings"]


def cloud_settings(monkeypatch: pytest.MonkeyPatch, custom: dict[str, Any] | None = None, **typed: Any) -> Settings:
    """Return the settings of a job, made by the platform's runner; *custom*: the spider's custom_settings."""
    monkeypatch.setenv("SHUB_SETTINGS", json.dumps(typed))
    settings: Settings = populate_settings(json.loads(json.dumps(typed)), "numbers")
    settings.setdict(custom or {}, priority="spider")
    return settings


class TestExplicit:
    """Which STATE is explicit, though all that was typed as text has the command line's priority."""

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("value", ['{"page": 7}', {"page": 7}], ids=["text", "object"])
    def test_level(self, monkeypatch: pytest.MonkeyPatch, level: str, value: Any) -> None:
        """Typed for the project, the organization or the spider, STATE is where the first run starts; typed for the job it is
        explicit."""
        found = StateSettings.from_settings(cloud_settings(monkeypatch, **{level: {"STATE": value}}))
        assert found.state == {"page": 7}
        assert found.explicit is (level == "job_settings")

    @pytest.mark.parametrize("value", ['{"page": 7}', {"page": 7}], ids=["text", "object"])
    def test_job_before_others(self, monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
        """The job's own STATE beats the project's and that of custom_settings, even if it is an object or the same."""
        for other in ({"page": 1}, value):
            settings = cloud_settings(
                monkeypatch, {"STATE": {"page": 2}}, project_settings={"STATE": other}, job_settings={"STATE": value}
            )
            found = StateSettings.from_settings(settings)
            assert (found.state, found.explicit) == ({"page": 7}, True)

    def test_empty_object(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty object is a state: begin from the beginning."""
        found = StateSettings.from_settings(cloud_settings(monkeypatch, {"STATE": {"page": 2}}, job_settings={"STATE": {}}))
        assert (found.state, found.explicit) == ({}, True)

    @pytest.mark.parametrize("value", ["", None])
    def test_empty(self, monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
        """An empty field for the job is not a STATE, and so not explicit; it hides the project's."""
        settings = cloud_settings(monkeypatch, project_settings={"STATE": '{"page": 1}'}, job_settings={"STATE": value})
        found = StateSettings.from_settings(settings)
        assert (found.state, found.explicit) == ({}, False)

    def test_command_line_in_a_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If a job is a script that starts a crawl with its own STATE on the command line, that is explicit."""
        settings = cloud_settings(monkeypatch, project_settings={"STATE": '{"page": 1}'})
        settings.set("STATE", '{"page": 9}', priority="cmdline")
        found = StateSettings.from_settings(settings)
        assert (found.state, found.explicit) == ({"page": 9}, True)

    def test_settings_in_a_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """SHUB_SETTINGS may name a file with the settings."""
        settings = cloud_settings(monkeypatch, job_settings={"STATE": '{"page": 7}'})
        (tmp_path / "settings.json").write_text(json.dumps({"job_settings": {"STATE": '{"page": 7}'}}))
        monkeypatch.setenv("SHUB_SETTINGS", str(tmp_path / "settings.json"))
        assert StateSettings.from_settings(settings).explicit

    @pytest.mark.parametrize("value", ['{"job_settings": secret', "/nowhere/settings.json"])
    def test_unreadable(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """If the platform's settings can't be read, the error names the variable, and does not show its content."""
        monkeypatch.setenv("SHUB_SETTINGS", value)
        with pytest.raises(StateSettingsError, match="SHUB_SETTINGS can't be read") as caught:
            StateSettings.from_settings(Settings())
        assert "secret" not in str(caught.value)

    def test_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the variable, or without the platform's runner, nothing counts as typed there."""
        monkeypatch.delenv("SHUB_SETTINGS", raising=False)
        assert typed("STATE") is None
        monkeypatch.setenv("SHUB_SETTINGS", '{"job_settings": {"STATE": "{}"}}')
        assert typed("STATE") == "{}"
        monkeypatch.setitem(sys.modules, "sh_scrapy.env", None)
        assert typed("STATE") is None


class TestFeeds:
    """FEEDS typed as text has the priority that -o gives it, but is no -o."""

    @pytest.mark.parametrize("level", LEVELS)
    def test_as_text(self, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
        """FEEDS and ADDONS typed as JSON text work, with classes by their names."""
        feeds = {ITEMS: {"format": "jsonlines"}, STATES: STATE_OPTIONS}
        given = {"FEEDS": json.dumps(feeds), "ADDONS": '{"scrapy_state.Addon": 500}', "STATE_INTERVAL": "0"}
        settings = cloud_settings(monkeypatch, **{level: given})
        assert dict(settings["ADDONS"]) == {"scrapy_state.Addon": 500}
        Addon().update_settings(settings)
        assert item_feeds_with_checkpoints(settings) == {ITEMS}
        found = StateFeed.from_settings(settings)
        assert found is not None
        assert found.uri == STATES

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("as_typed", [json.dumps, dict], ids=["text", "object"])
    def test_not_unique(self, monkeypatch: pytest.MonkeyPatch, level: str, as_typed: Any) -> None:
        """An item feed whose URI is the same in every run is an error, as it is elsewhere; it is not left out like a feed of
        -o."""
        given = {"FEEDS": as_typed({"s3://bucket/items.jsonl": {"format": "jsonlines"}, STATES: STATE_OPTIONS})}
        settings = cloud_settings(monkeypatch, **{level: given})
        with pytest.raises(StateSettingsError, match=r"the item feed 's3://bucket/items.jsonl' has the same URI in every run"):
            item_feeds_with_checkpoints(settings)

    def test_state_feed_is_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """FEEDS typed as text hides the one in custom_settings, with its state feed: there is a warning."""
        custom = {"FEEDS": {STATES: STATE_OPTIONS}}
        given = {"FEEDS": '{"stdout:": {"format": "json"}}'}
        spider = type("NumbersSpider", (Spider,), {"name": "numbers", "custom_settings": custom})
        crawler = Crawler(spider, cloud_settings(monkeypatch, organization_settings=given))
        assert _is_state_feed_lost(crawler)
        crawler = Crawler(spider, cloud_settings(monkeypatch))
        assert not _is_state_feed_lost(crawler)

    def test_extensions_as_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """EXTENSIONS and SPIDER_MIDDLEWARES typed as text stay, and the add-on's entries are added."""
        given = {"EXTENSIONS": '{"scrapy.extensions.logstats.LogStats": 3}', "SPIDER_MIDDLEWARES": "{}"}
        settings = cloud_settings(monkeypatch, project_settings=given)
        Addon().update_settings(settings)
        names = [each if isinstance(each, str) else each.__name__ for each in settings["EXTENSIONS"]]
        assert {"scrapy.extensions.logstats.LogStats", "CheckpointFeedExporter", "StateResolver"} <= set(names)


# Each page is a request that yields two items and a state item. A short pause leaves time to kill the crawl.
SPIDER = """
import asyncio
import scrapy
from scrapy_state import StateItem

class NumbersSpider(scrapy.Spider):
    name = "numbers"
    pages = 6

    async def start(self):
        page = self.state.get("page", 0)
        self.logger.info("begins at %s, STATE %s", page, self.settings["STATE"])
        yield scrapy.Request(f"data:,{page}", self.parse)

    async def parse(self, response):
        page = int(response.text)
        if page == int(self.pages):
            return
        yield {"page": page, "n": 0}
        yield {"page": page, "n": 1}
        yield StateItem({"page": page + 1})
        await asyncio.sleep(0.05)
        yield scrapy.Request(f"data:,{page + 1}", self.parse)
"""


class Job:
    """A job, run as the platform runs it: its runner started with a pipe that takes log, items, requests and outcome."""

    def __init__(self, folder: Path, key: str, settings: dict[str, Any], **levels: Any) -> None:
        fifo = folder / key.replace("/", "-")
        os.mkfifo(fifo)
        job = {"spider": "numbers", "key": key, "auth": "secret", "spider_args": {"pages": levels.pop("pages", 6)}}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
            "PYTHONWARNINGS": "",
            "TMPDIR": str(folder),
            "SHUB_JOB_DATA": json.dumps(job),
            "SHUB_SETTINGS": json.dumps({"project_settings": settings, **levels}),
            "SHUB_FIFO_PATH": str(fifo),
            "SHUB_SPIDER": "numbers",
            "SHUB_JOBKEY": key,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sh_scrapy.crawl"],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.messages: list[tuple[str, Any]] = []
        self.ended = False
        self._new = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(fifo,))
        self._thread.start()

    def _read(self, fifo: Path) -> None:
        with fifo.open("rb") as pipe:
            for line in pipe:
                kind, _, payload = line.decode().partition(" ")
                with suppress(ValueError), self._new:  # a killed job's last line may be torn
                    self.messages.append((kind, json.loads(payload)))
                    self._new.notify_all()
        with self._new:
            self.ended = True
            self._new.notify_all()

    def wait_for(self, text: str) -> None:
        with self._new:
            self._new.wait_for(lambda: text in self.log or self.ended, 60)
        assert text in self.log, self.log

    def end(self, signum: int | None = None) -> int:
        """Send *signum*, wait; return the exit code."""
        try:
            if signum is not None:
                self.process.send_signal(signum)
            _, errors = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
            self._thread.join()
        assert b"Traceback" not in errors, errors.decode()
        return self.process.returncode

    def of(self, kind: str) -> list[Any]:
        return [payload for each, payload in self.messages if each == kind]

    @property
    def log(self) -> str:
        return "\n".join(each["message"] for each in self.of("LOG"))


@pytest.fixture
def everything(tmp_path: Path, bucket: str, s3_settings: dict[str, str]) -> dict[str, Any]:
    """The settings typed for the project, all as text; the project itself has only the spider."""
    (tmp_path / "spiders.py").write_text(SPIDER)
    (tmp_path / "project_settings.py").write_text('SPIDER_MODULES = ["spiders"]\n')
    (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = project_settings\n")
    feeds = {ITEMS.format(bucket=bucket): {"format": "jsonlines"}, STATES.format(bucket=bucket): STATE_OPTIONS}
    return {
        **s3_settings,
        "ADDONS": '{"scrapy_state.Addon": 500}',
        "FEEDS": json.dumps(feeds),
        "STATE": '{"page": 1}',
        "STATE_INTERVAL": "0",
        "STATE_SPOOL_SIZE": "1MiB",
        "TELNETCONSOLE_ENABLED": "0",
    }


def stored(client: Any, bucket: str) -> list[dict[str, Any]]:
    """The checkpoints, oldest first."""
    keys = [each["Key"] for each in client.list_objects_v2(Bucket=bucket, Prefix="state/numbers/").get("Contents", [])]
    return [json.loads(client.get_object(Bucket=bucket, Key=key)["Body"].read())[0] for key in sorted(keys)]


def named_items(client: Any, bucket: str) -> list[tuple[int, int]]:
    """The items that the lineage of the newest checkpoint names."""
    by_id = {each["id"]: each for each in stored(client, bucket)}
    found, id = [], max(by_id)
    while id is not None:
        for file in by_id[id]["files"]:
            body = client.get_object(Bucket=bucket, Key=file["uri"].removeprefix(f"s3://{bucket}/"))["Body"].read()
            found += [(item["page"], item["n"]) for item in map(json.loads, body.splitlines())]
        id = by_id[id]["parent"]
    return sorted(found)


def test_jobs(tmp_path: Path, everything: dict[str, Any], bucket: str, s3_client: Any) -> None:
    """A killed job, a cancelled one, and one that ends: each continues the one before; no item is lost, and none is named
    twice. Then one with a STATE typed for itself starts from that."""
    killed = Job(tmp_path, "1/2/3", everything, pages=1000)
    killed.wait_for("checkpoint 4 stored")
    killed.end(signal.SIGKILL)
    newest = stored(s3_client, bucket)[-1]["state"]["page"]
    assert newest >= 2
    # STATE was typed for the project, as text: where the first job starts, and nothing more.
    assert "begins at 1, STATE {'page': 1}" in killed.log

    cancelled = Job(tmp_path, "1/2/4", everything, pages=1000)
    cancelled.wait_for("begins at ")
    assert f"begins at {newest}, STATE {{'page': {newest}}}" in cancelled.log
    cancelled.wait_for("files: 1")  # in the line of a checkpoint
    assert cancelled.end(signal.SIGTERM) == 0, cancelled.log
    assert cancelled.of("FIN") == [{"outcome": "shutdown"}]

    middle = stored(s3_client, bucket)[-1]["state"]["page"]
    ended = Job(tmp_path, "1/2/5", everything, pages=middle + 2)
    assert ended.end() == 0, ended.log
    assert f"begins at {middle}, " in ended.log
    assert ended.of("FIN") == [{"outcome": "finished"}]
    # The platform stored the items, and no state item.
    assert [each["_type"] for each in ended.of("ITM")] == ["dict"] * 4
    assert "state" not in ended.of("ITM")[0]
    assert named_items(s3_client, bucket) == [(page, n) for page in range(1, middle + 2) for n in range(2)]
    assert list(dict.fromkeys(each["job"] for each in stored(s3_client, bucket))) == ["1/2/3", "1/2/4", "1/2/5"]
    # The runner sets JOBDIR, a new folder for each job: no request was filtered, and there is no warning about one.
    assert "'JOBDIR': " in ended.log
    assert "remembers the requests" not in ended.log
    assert ended.of("STA")[-1]["stats"]["item_scraped_count"] == 4

    explicit = Job(tmp_path, "1/2/6", everything, pages=1, job_settings={"STATE": '{"page": 0}'})
    assert explicit.end() == 0, explicit.log
    assert "begins at 0, STATE {'page': 0}" in explicit.log
    opening = next(each for each in stored(s3_client, bucket) if each["job"] == "1/2/6")
    assert (opening["state"], opening["overlap"]) == ({"page": 0}, True)


def test_refused(tmp_path: Path, everything: dict[str, Any]) -> None:
    """A job that must not start says why in one line of its log, and ends with exit code 1."""
    feeds = {**json.loads(everything["FEEDS"]), "items.jsonl": {"format": "jsonlines"}}
    job = Job(tmp_path, "1/2/3", {**everything, "FEEDS": json.dumps(feeds)})
    assert job.end() == 1
    assert "the item feed 'items.jsonl' has the same URI in every run" in job.log
