"""The code on the pages: it has its imports and names, and does what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crawls
import pytest
from commands import run as state_command
from crawls import FEEDS, crawl, named_items
from doc_pages import Block, block, blocks
from loopback import Handler, Server
from scrapy.settings import Settings

from scrapy_state.settings import StateSettings

PYTHON = blocks(language="python")
#: What a block uses that the page says is elsewhere: in the reader's own project, or in Spark's shell
ELSEWHERE = {
    ("docs/spiders.md", "class QueueSpider"): {"receive", "acknowledge"},
    ("docs/command.md", "spark.read"): {"spark"},
    ("docs/tutorial.md", "STATE_FEED = {"): {"DATA"},
    ("docs/tutorial.md", "# everything before t"): {"datetime", "timedelta", "StateItem"},
    ("docs/tutorial.md", "settings import *"): {"FEEDS"},
}


@pytest.mark.parametrize("page", sorted({each.page for each in PYTHON}))
def test_names(page: str) -> None:
    """Every block compiles, and every name in it is imported or defined in it."""
    for each in blocks(page, "python"):
        known = {name for (where, text), names in ELSEWHERE.items() if where == page and text in each.text for name in names}
        ruff = [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--select",
            "F821,F405,F704",
            "--output-format",
            "json",
            "-",
        ]
        found = json.loads(subprocess.run(ruff, input=each.text, capture_output=True, text=True).stdout)
        names = {re.search(r"`(\w+)`", problem["message"])[1]: problem["message"] for problem in found}  # type: ignore[index]
        assert {name: message for name, message in names.items() if name not in known} == {}, each
        compile(each.text, str(each), "exec")


@pytest.mark.parametrize("each", blocks(language="json"), ids=str)
def test_json(each: Block) -> None:
    """It is JSON (an ellipsis in a text is one of the page's)."""
    json.loads(each.text)


def is_settings(text: str) -> bool:
    lines = [line for line in text.splitlines() if line and not line[0].isspace() and line[0] not in "#})]"]
    return all(re.match(r"[A-Z_]+ = |from \w+\.settings import \*", line) for line in lines)


@pytest.mark.parametrize("each", [each for each in PYTHON if is_settings(each.text) and "{DATA}" not in each.text], ids=str)
def test_settings(each: Block) -> None:
    """scrapy_state accepts each assignment: the kinds of the values are right, and the names are no misspelt ones."""
    for part in re.split(
        r"^(?=[A-Z_]+ = )", re.sub(r"^from .*$", "FEEDS = {}", each.text, flags=re.MULTILINE), flags=re.MULTILINE
    ):
        names: dict[str, Any] = {"FEEDS": {}}
        exec(part, names)
        settings = Settings({name: value for name, value in names.items() if name.isupper()})
        StateSettings.from_settings(settings)
        assert set(settings) - set(Settings()) <= {name for name in settings if name.startswith("STATE")}


class Site(Handler):
    """Answers /hours/…; /api in three pages; /login with a form that the password opens; and anything else."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/api":
            page = int(query.removeprefix("page="))
            self.reply(200, json.dumps({"results": [{"page": page}], "next": page < 3}))
        elif path == "/login":
            self.reply(200, "<form method=post action=/members><input name=user><input name=password></form>")
        else:
            self.reply(200, self.path)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assert body == "user=me&password=secret", body
        self.reply(200, "<nav><a href=/a>a</a><a href=/b>b</a></nav>")


@pytest.fixture(scope="module")
def site() -> Iterator[Any]:
    with Server(Site) as server:
        yield server


def test_spiders(tmp_path: Path, site: Any) -> None:
    """Each whole spider on the pages crawls what its page says, all of them in one process."""
    spiders = [each for each in PYTHON if re.search(r"class (\w+Spider)\(scrapy\.Spider\)|class QueueSpider", each.text)]
    spiders = [each for each in spiders if each.page not in ("docs/tutorial.md", "docs/redis.md")]
    sources = [each.text.replace("https://example.com", site.url).replace("8760", "12") for each in spiders]
    fragments = [
        each.text for each in blocks("docs/state.md") if re.search(r"^def parse\(self, response", each.text, re.MULTILINE)
    ]
    for number, fragment in enumerate(fragments):
        imports, _, method = fragment.partition("\n\n")
        sources.append(
            f"{imports}\nimport scrapy\nclass Fragment{number}(scrapy.Spider):\n    name = 'fragment{number}'\n"
            "    async def start(self):\n"
            f"        yield scrapy.Request('{site.url}/{number}', cb_kwargs={{'page': 4}} if {'page' in method} else None)\n"
            f"{textwrap.indent(method, '    ')}"
        )
    queue = """
class Message:
    id = 7
    url = {url!r}
class OwnQueueSpider(QueueSpider):
    name = "own_queue"
    acknowledged = []
    async def receive(self):
        yield Message
    async def acknowledge(self, message):
        self.logger.info("acknowledged %s", message)
"""
    sources.append(queue.format(url=f"{site.url}/message"))
    announcer = block("docs/state.md", "class Announcer")
    program = "\n".join(
        [
            *sources,
            announcer,
            "import os",
            "from scrapy.crawler import AsyncCrawlerProcess",
            RUN.format(feeds=json.dumps(FEEDS)),
        ]
    )
    (tmp_path / "spiders.py").write_text(program)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "spiders.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "MEMBERS_PASSWORD": "secret"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr
    items = {folder.name: len(named_items(tmp_path, folder.name)) for folder in (tmp_path / "data").iterdir()}
    fragment_items = {f"fragment{number}": int("yield {" in text) for number, text in enumerate(fragments)}
    expected = {"api": 3, "members": 2, "counting": 1, "hours": 12, "own_queue": 1, **fragment_items}
    assert {name: number for name, number in items.items() if name in expected and number} == {
        name: number for name, number in expected.items() if number
    }
    assert "acknowledged 7" in ran.stderr
    assert "12 items up to {'t': 12}" in ran.stderr
    states = {name: state_command(tmp_path, "get", f"data/{name}/state/").out.strip() for name in ("api", "hours", "counting")}
    assert states == {"api": '{"page": 4}', "hours": '{"t": 12}', "counting": '{"pages": 1}'}


RUN = """
from scrapy.crawler import AsyncCrawlerProcess

if __name__ == "__main__":
    settings = {{"ADDONS": {{"scrapy_state.Addon": 500}}, "FEEDS": {feeds}, "STATE_INTERVAL": 0, "LOG_LEVEL": "INFO",
                 "EXTENSIONS": {{"spiders.Announcer": 500}}, "TELNETCONSOLE_ENABLED": False, "DOWNLOAD_DELAY": 0}}
    process = AsyncCrawlerProcess(settings)
    found = [cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, scrapy.Spider)]
    for cls in found:
        if cls is not scrapy.Spider and cls.name != "queue":
            process.crawl(cls)
    process.start()
"""


@pytest.mark.long
def test_hooks(tmp_path: Path) -> None:
    """The hooks of docs/state.md start a page back, and refuse a page beyond the last one."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "state.py").write_text(block("docs/state.md", "class OnePageBack"))
    names: dict[str, Any] = {}
    exec(block("docs/state.md", 'EXTENSIONS = {"project.state'), names)
    assert crawl(tmp_path).code == 0
    again = crawl(tmp_path, settings={"EXTENSIONS": names["EXTENSIONS"]})
    assert again.lines("begins at 2 {'page': 2}"), again.log
    refused = crawl(tmp_path, crawls.SPIDER, "-s", 'STATE={"page": 2000}', settings={"EXTENSIONS": names["EXTENSIONS"]})
    assert refused.code == 1
    assert refused.lines("page 1999 is beyond the last one")


@pytest.mark.long
def test_development(tmp_path: Path) -> None:
    """With settings_dev.py of docs/setup.md, selected as it says, a run starts from production's state, and writes nothing."""
    package = tmp_path / "project"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "spiders.py").write_text(crawls.SPIDER.replace('"numbers"', '"flights"'))
    (package / "settings.py").write_text(block("docs/setup.md", "# settings.py") + 'SPIDER_MODULES = ["project.spiders"]\n')
    (package / "settings_dev.py").write_text(block("docs/setup.md", "# settings_dev.py"))
    (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = project.settings\ndev = project.settings_dev\n")

    def run(command: str) -> str:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONWARNINGS": "",
        }
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=crawls.DEADLINE_SECONDS * 3,
            env=environment,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stderr

    run("scrapy crawl flights")
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    [command] = [line for each in blocks("docs/setup.md") for line in each.commands if "settings_dev" in line]
    assert "begins at 4 {'page': 4}" in run(command)
    assert "begins at 4 {'page': 4}" in run("SCRAPY_PROJECT=dev scrapy crawl flights")
    assert before == {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert len(list((tmp_path / "dev").iterdir())) == 2


def test_named(tmp_path: Path) -> None:
    """``named.py`` of docs/format.md prints the items of the lineage, also after old checkpoints were pruned."""
    crawl(tmp_path, settings={"STATE_INTERVAL": 0})
    crawl(tmp_path, settings={"STATE_INTERVAL": 0})
    (tmp_path / "named.py").write_text(block("docs/format.md", "import hashlib"))

    def named() -> list[str]:
        command = [sys.executable, "named.py", "data/numbers/state"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()

    before = named()
    assert before == [str(item) for item in named_items(tmp_path)]
    assert state_command(tmp_path, "prune", "data/numbers/state/", "--keep", "2").code == 0
    assert state_command(tmp_path, "prune", "data/numbers/state/", "--keep", "1").code == 0
    assert len(list((tmp_path / "data/numbers/state").glob("rollup-*"))) == 2
    assert named() == before


@pytest.mark.long
def test_a_store_of_ones_own(tmp_path: Path) -> None:
    """The store of docs/stores.md passes the contract of stores with the test of the page, and keeps a crawl's checkpoints."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "stores.py").write_text(block("docs/stores.md", "class SQLiteReader"))
    (tmp_path / "test_stores.py").write_text(block("docs/stores.md", "class TestSQLite"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_stores.py"]
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert ran.returncode == 0, ran.stdout
    names: dict[str, Any] = {}
    exec(block("docs/stores.md", "STATE_STORES = {"), names)
    exec(block("docs/stores.md", "FEED_STORAGES = {"), names)
    feeds = {uri.replace("data/", "sqlite://states/"): options for uri, options in FEEDS.items()}
    settings = {
        "STATE_STORES": {"sqlite": names["STATE_STORES"]["sqlite"]}, "FEED_STORAGES": names["FEED_STORAGES"], "FEEDS": feeds,
        "SQLITE_FOLDER": str(tmp_path),
    }  # fmt: skip
    assert crawl(tmp_path, settings=settings).code == 0
    again = crawl(tmp_path, settings=settings)
    assert again.lines("begins at 3 {'page': 3}"), again.log
