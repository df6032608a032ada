"""What checkpoints say of pages: few files, each key in one of them, those of the crawl that is under way apart."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from scrapy.utils.test import get_crawler

from scrapy_state.barrier.tickets import Side
from scrapy_state.delta.files import RunFiles
from scrapy_state.delta.memory import DeltaMemory, Remembered, next_crawl
from scrapy_state.export.retry import Retry
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.stores.local import LocalWriter
from scrapy_state.stores.threads import StoreThreads


class Crawls:
    """Stores checkpoints' memories in *folder*, as crawls do, without a crawl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.threads, self.retry = StoreThreads(), Retry(1, 1)
        self.checkpoint = Checkpoint({}, ended=True, crawl=0)
        self.runs = 0

    def files(self) -> RunFiles:
        return RunFiles(LocalWriter(), f"{self.folder}/", f"run{self.runs:03d}")

    @property
    def remembered(self) -> Remembered:
        return Remembered.of(self.checkpoint)

    async def run(self, *sides: dict[int, float], ended: bool) -> None:
        """Make a checkpoint for each side; between two, wait for the merge that is under way."""
        self.runs += 1
        crawl = next_crawl(self.checkpoint)
        stats = get_crawler().stats
        assert stats is not None
        memory = DeltaMemory(self.files(), self.remembered, crawl, stats)
        content = await memory.opening(self.threads, self.retry)
        for keys in sides:
            content = await memory.store(memory.snapshot(Side(keys=keys)), self.threads, self.retry)
            memory.stored(self.threads)
            if memory._merging is not None:
                await memory._merging
        self.checkpoint = Checkpoint({}, crawl=crawl, ended=ended, memories={"delta": content})


def test_short_crawls(tmp_path: Path) -> None:
    """Of many crawls with one checkpoint each, few files remain, and all pages are known."""

    async def main() -> None:
        crawls = Crawls(tmp_path)
        for number in range(40):
            await crawls.run({number: 0}, ended=True)
        assert len(crawls.remembered.old) <= 9
        assert not crawls.remembered.new
        known = crawls.files().known(crawls.remembered.old)
        assert [known.day(number) > 0 for number in range(41)] == [True] * 40 + [False]

    asyncio.run(main())


def test_a_long_crawl(tmp_path: Path) -> None:
    """A crawl with many checkpoints, in two runs, keeps its own files apart until it is over; then its pages are known."""

    async def main() -> None:
        crawls = Crawls(tmp_path)
        await crawls.run({1_000_000: 0}, {1_000_001: 0}, ended=True)
        await crawls.run(*({number: 0} for number in range(50)), ended=False)
        assert 1 <= len(crawls.remembered.new) <= 9
        assert len(crawls.files().known(crawls.remembered.old)) == 2
        await crawls.run(*({number: 0} for number in range(50, 100)), ended=True)
        remembered = crawls.remembered
        assert not remembered.new
        assert len(remembered.old) <= 18
        known = crawls.files().known(remembered.old)
        assert all(known.day(number) for number in (*range(100), 1_000_000, 1_000_001))
        assert len(known) == 102

    asyncio.run(main())


def test_void_keys(tmp_path: Path) -> None:
    """A key that is void is not stored, and a side without other keys stores no file."""

    async def main() -> None:
        crawls = Crawls(tmp_path)
        await crawls.run({1: math.inf}, {2: 5, 3: math.inf}, ended=True)
        [file] = crawls.remembered.old
        assert len(crawls.files().known([file])) == 1

    asyncio.run(main())


@pytest.mark.parametrize("new", [-1, 3, "2", None, 1.5])
def test_a_count_that_makes_no_sense(new: object) -> None:
    """Whatever a checkpoint says, each file that it names is in one of the two parts."""
    files = [{"name": f"{number}.keys", "bytes": 1, "digest": ""} for number in range(2)]
    remembered = Remembered.of(Checkpoint({}, crawl=1, memories={"delta": {"crawl": 1, "new": new, "stored": files}}))
    assert (len(remembered.old), len(remembered.new)) == (2, 0)


def test_another_crawls_files() -> None:
    """Files of a crawl that has ended count as old, also if a run without STATE_DELTA has repeated the memory since."""
    files = [{"name": f"{number}.keys", "bytes": 1, "digest": ""} for number in range(2)]
    memories = {"delta": {"crawl": 1, "new": 1, "stored": files}}
    for checkpoint, new in (
        (Checkpoint({}, crawl=1), 1),
        (Checkpoint({}, crawl=1, ended=True), 0),
        (Checkpoint({}, crawl=2), 0),
    ):
        assert len(Remembered.of(Checkpoint(**{**vars(checkpoint), "memories": memories})).new) == new
