"""Whole crawls of a few pages, a fraction of a second each: a process that has imported everything forks one for each crawl.

The pages come from a download handler, so no network is needed. tests/support/system_calls.py can watch a crawl's calls.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests_oracle
import scrapy
from oracle import Feed, Files, jsonlines_keys, local_files
from scrapy.http import TextResponse

from scrapy_state import StateItem

#: A crawl that takes longer hangs.
DEADLINE_SECONDS = 20
_PAGES = 6
_STATES = "data/state/%(batch_id)010d.json"
_STATE_OPTIONS = {"format": "json", "item_classes": ["scrapy_state.StateItem"]}
_ITEMS = "data/items/%(run_id)s-%(batch_id)05d.jsonl"
_GZIP = {"postprocessing": ["scrapy.extensions.postprocessing.GzipPlugin"]}
#: Waits that would make a crawl of six pages a long one, and sizes that it would not reach
_SHORTENED = {
    "scrapy_state.frontier.segments.segment._WAITING_LINES": 2,
    "scrapy_state.frontier.segments.merging.MOST_SEGMENTS": 2,
    "scrapy_state.export.due._FIRST_CUT_SECONDS": 0.005,
    "scrapy_state.export.retry._FIRST_PAUSE_SECONDS": 0.02,
    "scrapy_state.stores.retry._FIRST_PAUSE_SECONDS": 0.02,
    "scrapy_state.stores.retry._RETRY_SECONDS": 1,
    "scrapy_state.scrapy_internals.engine._CHECK_SECONDS": 0.02,
}


class PageHandler:
    """Answers every request after a moment. A download handler."""

    lazy = False

    @classmethod
    def from_crawler(cls, crawler: Any) -> PageHandler:
        return cls()

    async def download_request(self, request: scrapy.Request) -> TextResponse:
        await asyncio.sleep(0.004)
        return TextResponse(request.url, body=b"page", request=request)

    async def close(self) -> None:
        pass


class _Spider(scrapy.Spider):
    name = "numbers"

    def to(self, page: int) -> scrapy.Request:
        return scrapy.Request(f"http://site.example/{page}", dont_filter=page % 2 == 1, cb_kwargs={"number": page})

    def items(self, page: int) -> Iterator[dict[str, str]]:
        for number in range(2):
            yield {"key": f"/{page}#{number}", "text": "some text " * 50}


class StateSpider(_Spider):
    """Follows the pages one by one; each yields a state item."""

    async def start(self):  # type: ignore[no-untyped-def]
        page = self.state.get("page", 0)  # type: ignore[attr-defined]
        if page < _PAGES:
            yield self.to(page)

    def parse(self, response, number):  # type: ignore[no-untyped-def]
        yield from self.items(number)
        yield StateItem({"page": number + 1})
        if number + 1 < _PAGES:
            yield self.to(number + 1)


class PageSpider(_Spider):
    """An ordinary spider: a tree of pages."""

    async def start(self):  # type: ignore[no-untyped-def]
        yield self.to(0)
        yield self.to(1)

    def parse(self, response, number):  # type: ignore[no-untyped-def]
        yield from self.items(number)
        for child in (2 * number + 2, 2 * number + 3):
            if child < _PAGES:
                yield self.to(child)


@dataclass(frozen=True)
class Shape:
    """A spider and its item feeds.

    :param items: the item feeds of FEEDS
    """

    spider: type[scrapy.Spider]
    items: Mapping[str, dict[str, Any]] = field(default_factory=lambda: {_ITEMS: {"format": "jsonlines"}})
    settings: Mapping[str, Any] = field(default_factory=dict)

    def all_settings(self) -> dict[str, Any]:
        return {
            "ADDONS": {"scrapy_state.Addon": 500},
            "FEEDS": {**self.items, _STATES: _STATE_OPTIONS},
            "EXTENSIONS_BASE": {"scrapy.extensions.corestats.CoreStats": 0, "scrapy.extensions.feedexport.FeedExporter": 0},
            "SPIDER_LOADER_CLASS": f"{__name__}.Loader",
            "DOWNLOAD_HANDLERS": {"http": PageHandler, "https": None},
            "TWISTED_REACTOR_ENABLED": False,
            "LOG_LEVEL": "INFO",
            "LOG_VERSIONS": [],
            "STATE_INTERVAL": 0,
            "STATE_RETRY_TIMEOUT": 2,
            "STATE_CLOSE_TIMEOUT": 2,
            **self.settings,
        }


_COMPRESSED = {"data/zipped/%(run_id)s-%(batch_id)05d.jsonl.gz": {"format": "jsonlines", **_GZIP}}
SHAPES = {
    "state items": Shape(StateSpider),
    "requests": Shape(PageSpider),
    "batches": Shape(PageSpider, {_ITEMS: {"format": "jsonlines", "batch_item_count": 2}, **_COMPRESSED}),
    "elsewhere": Shape(PageSpider, settings={"FEED_TEMPDIR": "/dev/shm", "STATE_REQUESTS_ON_DISK": True}),
}
_FEEDS = {
    "items": jsonlines_keys,
    "zipped": lambda content: jsonlines_keys(gzip.decompress(content)),
}


class Loader:
    """Knows one spider. The class that SPIDER_LOADER_CLASS names."""

    def __init__(self, settings: Any) -> None:
        self._spider = settings["SPIDER"]

    from_settings = classmethod(lambda cls, settings: cls(settings))

    def load(self, name: str) -> Any:
        return self._spider

    def list(self) -> list[str]:
        return [self._spider.name]

    def find_by_request(self, request: Any) -> list[str]:
        return self.list()


def wrong(folder: Path, shape: Shape, over: bool, files: Files | None = None) -> list[str]:
    """Return what the oracle says is wrong with what is stored in *folder*, or with *files* instead.

    :param over: whether all items must be there
    """
    feeds = {name: Feed(f"{folder}/data/{name}/", keys) for name, keys in _FEEDS.items()}
    feeds = {name: feed for name, feed in feeds.items() if any(f"data/{name}/" in uri for uri in shape.items)}
    expected = requests_oracle.Expected(
        [f"/{page}#{number}" for page in range(_PAGES) for number in range(2)], lambda request: urlsplit(request["url"]).path
    )
    stored = local_files(folder / "data") if files is None else files
    return requests_oracle.check(stored, f"{folder}/data/state/", feeds, expected, over=over).wrong


def has_ended(folder: Path, files: Files) -> bool:
    """Whether the newest checkpoint among *files*, which are whole, says that the crawl in *folder* is over."""
    checkpoints = [each for each in files if re.fullmatch(rf"{re.escape(str(folder))}/data/state/\d+\.json", each)]
    return bool(checkpoints) and bool(json.loads(files[max(checkpoints)])[0].get("ended"))


@dataclass
class Run:
    """The outcome of a crawl. *code*: its exit code, negative for a signal; None if it was still running at the deadline."""

    code: int | None
    log: str
    seconds: float

    def lines(self, *levels: str) -> list[str]:
        return [line for line in self.log.splitlines() if any(f"] {level}: " in line for level in levels)]


class Crawls:
    """Forks the crawls. Use it as a context manager.

    :param command: what to run the process with that forks them, such as strace
    """

    def __init__(self, *command: str) -> None:
        self._command = command

    def __enter__(self) -> Crawls:
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "", "SCRAPY_SETTINGS_MODULE": "short_crawls"}
        self._process = subprocess.Popen(
            [*self._command, sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        with self._process:  # closes its standard input, and waits for it
            pass

    def kill(self, folder: Path, shape: str, into: Path, planted: str = "") -> None:
        """Crawl in *folder*, which is emptied first, and kill the crawl when about half of it is done.

        :param into: where its calls are recorded
        """
        recording = {"folder": str(folder), "into": str(into)}
        for share in (0, 0.6, 0.5, 0.4, 0.3):  # no two crawls make the same number of calls
            kill_after = int(len(into.read_text().splitlines()) * share) if share else None
            into.unlink(missing_ok=True)
            run = self.run(put(folder, {}), shape, {"recording": {**recording, "kill_after": kill_after}}, planted)
            if run.code == -signal.SIGKILL and not has_ended(folder, local_files(folder / "data")):
                return
            assert run.code in (0, -signal.SIGKILL), run.log
        raise AssertionError(f"the crawl always ended too early: {run.log}")

    def run(self, folder: Path, shape: str, watch: dict[str, Any] | None = None, planted: str = "") -> Run:
        """Crawl in *folder* until the end.

        :param shape: a key of SHAPES
        :param watch: arguments of system_calls.watch()
        :param planted: a mistake to make, a key of planted.PLANTED
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder.mkdir(exist_ok=True)
        log = folder / "log.txt"
        log.unlink(missing_ok=True)
        job = {"folder": str(folder), "shape": shape, "log": str(log), "watch": watch, "planted": planted}
        began = time.monotonic()
        print(json.dumps(job), file=self._process.stdin, flush=True)
        code = json.loads(self._process.stdout.readline())
        return Run(code, log.read_text(), time.monotonic() - began)


def put(folder: Path, files: Files) -> Path:
    """Make *folder* anew, with *files* in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for location, content in files.items():
        Path(location).parent.mkdir(parents=True, exist_ok=True)
        Path(location).write_bytes(content)
    return folder


def _serve() -> None:
    """Fork a crawl for each line of the standard input; write its exit code."""
    folder = tempfile.mkdtemp()
    names = Path(folder, "names")
    _wait(_fork({"folder": folder, "shape": "batches", "log": os.devnull, "watch": None}, names))
    for name in names.read_text().split():  # what a crawl imports is imported only once
        with suppress(ImportError):
            import_module(name)
    shutil.rmtree(folder)
    assert threading.active_count() == 1
    gc.freeze()  # fewer pages of memory to copy
    for path, value in _SHORTENED.items():
        name, _, attribute = path.rpartition(".")
        assert hasattr(import_module(name), attribute), path
        setattr(import_module(name), attribute, value)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(_wait(_fork(job))), flush=True)


def _fork(job: dict[str, Any], names: Path | None = None) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _crawl(job)
    finally:
        if names is not None:
            names.write_text("\n".join(sys.modules))


def _wait(pid: int) -> int | None:
    handle = os.pidfd_open(pid)
    is_over = bool(select.select([handle], [], [], DEADLINE_SECONDS)[0])
    os.close(handle)
    if not is_over:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status) if is_over else None


def _crawl(job: dict[str, Any]) -> NoReturn:
    """Crawl in this process, which then ends."""
    import planted
    import short_crawls
    import system_calls
    from scrapy.cmdline import execute

    os.dup2(os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.chdir(job["folder"])
    shape = short_crawls.SHAPES[job["shape"]]
    vars(short_crawls).update(shape.all_settings(), SPIDER=shape.spider)
    if job["watch"] is not None:
        system_calls.watch(**job["watch"])
    if job.get("planted"):
        planted.PLANTED[job["planted"]]()
    execute(["scrapy", "crawl", "numbers"])
    raise AssertionError("execute() ends the process")


if __name__ == "__main__":
    _serve()
