"""Scrapy's other commands work with the add-on as without it, and neither read nor store a checkpoint."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback import Handler, Server

pytestmark = pytest.mark.long

SPIDER = '''
import scrapy
from scrapy_state import StateItem

class NumbersSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        raise AssertionError("no command but crawl begins here")
        yield

    def parse(self, response):
        """
        @url data:,page
        @returns items 2 2
        @returns requests 1 1
        """
        yield {"page": response.text, "state": self.state}
        yield StateItem({"page": 1})
        yield scrapy.Request("data:,next", self.parse)

class Pipeline:
    def process_item(self, item):
        print("piped", type(item).__name__, flush=True)
        return item
'''
SETTINGS = """
SPIDER_MODULES = ["project"]
NEWSPIDER_MODULE = "made"
TELNETCONSOLE_ENABLED = False
ITEM_PIPELINES = {"project.spiders.Pipeline": 1}
STATE = {"page": 7}
FEED_STORE_EMPTY = False
FEEDS = {
    "data/items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines", "item_classes": [dict]},
    "s3://bucket/state/%(name)s/%(batch_id)010d.json": {"format": "json", "item_classes": ["scrapy_state.StateItem"]},
}
AWS_ACCESS_KEY_ID = "the-access-key"
AWS_SECRET_ACCESS_KEY = "the-secret-key"
"""
# Without the add-on there is no spider.state; the tests compare everything else.
SPIDER_WITHOUT = SPIDER.replace("self.state}", '{"page": 7}}')


class Page(Handler):
    def do_GET(self) -> None:
        self.reply(200, "the page", {"Content-Type": "text/plain"})


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with Server(Page) as server:
        yield f"{server.url}/"


@dataclass
class Project:
    """A project with the add-on, and the same one without it. *store* is the socket of its S3, which never answers."""

    folder: Path
    store: socket.socket

    def make(self) -> None:
        place = f'AWS_ENDPOINT_URL = "http://127.0.0.1:{self.store.getsockname()[1]}"\n'
        for name, addons, spider in (("with", {"scrapy_state.Addon": 500}, SPIDER), ("without", {}, SPIDER_WITHOUT)):
            package = self.folder / name / "project"
            settings = SETTINGS if addons else SETTINGS.replace("run_id", "batch_time")
            package.mkdir(parents=True)
            (package / "__init__.py").touch()
            (package / "spiders.py").write_text(spider)
            (package / "settings.py").write_text(f"{settings}{place}ADDONS = {addons!r}\n")
            (package.parent / "scrapy.cfg").write_text("[settings]\ndefault = project.settings\n")
            (package.parent / "made").mkdir()
            (package.parent / "made" / "__init__.py").touch()

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "BROWSER": "true %s", "PYTHONWARNINGS": "", "SCRAPY_PYTHON_SHELL": "python"}
        command = [sys.executable, "-m", "scrapy", *arguments]
        folder = self.folder / name
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )

    def check(self, arguments: list[str], printed: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the add-on: it works, does not call the store, and writes no feed."""
        run = self.run("with", *arguments)
        assert run.returncode == 0, run.stderr
        assert printed in run.stdout
        assert "ERROR" not in run.stderr.replace("log_count/ERROR", ""), run.stderr
        assert "Traceback" not in run.stderr
        with pytest.raises(BlockingIOError):
            self.store.accept()
        assert not (self.folder / "with" / "data").exists()
        return run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with socket.create_server(("127.0.0.1", 0)) as store:
        store.setblocking(False)
        made = Project(tmp_path_factory.mktemp("commands"), store)
        made.make()
        yield made


def essential(run: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """The exit code and the output, without what differs from run to run, and without state items in pipelines."""
    text = re.sub(r"0x[0-9a-f]{6,}", "0x…", run.stdout)
    return run.returncode, text.replace("piped StateItem\n", "")


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["parse", "--spider=numbers", "--nocolour", "--pipelines", "SITE"], "'state': {'page': 7}"),
        (["check", "-v"], ""),
        (["fetch", "--spider=numbers", "SITE"], "the page"),
    ],
)
def test_as_without(project: Project, site: str, arguments: list[str], printed: str) -> None:
    """A command prints the same with the add-on as without it; ``spider.state`` is what the settings say."""
    arguments = [each.replace("SITE", site) for each in arguments]
    without = project.run("without", *arguments)
    run = project.check(arguments, printed)
    assert essential(run) == essential(without)
    if arguments[0] == "parse":
        assert "piped dict" in run.stdout
        assert "piped StateItem" not in run.stdout
    if arguments[0] == "check":
        assert "Ran 2 contracts" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["shell", "SITE", "--spider=numbers", "-c", "response.text, spider.name"], "('the page', 'numbers')"),
        (["shell", "-c", "settings.getdict('STATE'), crawler.spider"], "({'page': 7}, None)"),
        (["view", "--spider=numbers", "SITE"], ""),
        (["list"], "numbers"),
        (["settings", "--get=STATE"], "{'page': 7}"),
        (["genspider", "other", "example.com"], "Created spider 'other'"),
        (["startproject", "another"], "New Scrapy project 'another'"),
        (["version"], "Scrapy "),
        (["bench", "-s", "CLOSESPIDER_TIMEOUT=0.5"], ""),
    ],
)
def test_works(project: Project, site: str, arguments: list[str], printed: str) -> None:
    """A command works with the add-on even if the S3 of the state feed does not answer."""
    run = project.check([each.replace("SITE", site) for each in arguments], printed)
    if arguments[0] == "bench":
        assert "Closing spider (closespider_timeout)" in run.stderr


def test_wrong_spider(project: Project) -> None:
    """A command that fails without the add-on fails with it, too, for its own reason: here, a spider that does not exist."""
    run = project.run("with", "fetch", "--spider=nobody", "http://127.0.0.1/")
    assert run.returncode == 1
    assert "KeyError: 'Spider not found: nobody'" in run.stderr
