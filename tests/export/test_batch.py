"""A project's own item exporters, and Scrapy's with odd options: the checkpoints name every item once."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crawls import SPIDER, STATE_OPTIONS, STATES, Crawl, checkpoints, crawl
from scrapy import Spider
from scrapy.exporters import CsvItemExporter, JsonLinesItemExporter
from scrapy.extensions.feedexport import FeedSlot, ItemFilter
from scrapy.utils.test import get_crawler

from scrapy_state.export.batch import Batch
from scrapy_state.feedstorages import DurableFeedStorage
from scrapy_state.stores.local import LocalWriter

#: Yields two items after its last state.
SOURCE = (
    SPIDER
    + """        yield {"page": 99, "n": 0}
        yield {"page": 99, "n": 1}

import io, os, shutil, tempfile
from scrapy.exporters import CsvItemExporter, JsonLinesItemExporter

class Blocks(JsonLinesItemExporter):
    def __init__(self, file, **options):
        super().__init__(io.BytesIO(), **options)
        self.target = file

    def export_item(self, item):
        super().export_item(item)
        self.count = getattr(self, "count", 0) + 1
        if self.count % 5 == 0:
            self.write()

    def finish_exporting(self):
        self.write()

    def write(self):
        self.target.write(self.file.getvalue())
        self.file.seek(0)
        self.file.truncate()

class Late(CsvItemExporter):
    def __init__(self, file, **options):
        super().__init__(file, **options)
        self.items = []

    def export_item(self, item):
        self.items.append(item)

    def finish_exporting(self):
        for each in self.items:
            super().export_item(each)
        super().finish_exporting()

class Closing(JsonLinesItemExporter):
    def __init__(self, file, **options):
        super().__init__(io.BufferedWriter(file), **options)

    def finish_exporting(self):
        self.file.close()

class ClosingPlugin:
    def __init__(self, file, options):
        self.file = file

    def write(self, data):
        return self.file.write(data)

    def close(self):
        self.file.close()

class Renaming:
    def __init__(self, uri, *, feed_options=None):
        self.path = uri.partition("://")[2]

    def open(self, spider):
        return tempfile.NamedTemporaryFile(delete=False)

    def store(self, file):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        shutil.move(file.name, self.path)
"""
)
EXPORTERS = {
    "jsonl": "spider.Blocks",
    "late": "spider.Late",
    "closing": "spider.Closing",
    "mine": "scrapy.exporters.JsonLinesItemExporter",
}


def json_lines(path: Path, encoding: str = "utf-8") -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding).splitlines()]


def rows(path: Path, encoding: str = "utf-8", header: bool = True, **options: Any) -> list[Any]:
    with path.open(encoding=encoding, newline="") as file:
        found = list(csv.reader(file, **options))
    if header:
        assert found.pop(0) == ["page", "n"]
    return [{"page": int(page), "n": int(n)} for page, n in found]


Feeds = dict[str, tuple[dict[str, Any], Callable[[Path], list[Any]]]]
#: name of the feed -> its options, and what reads a file of it
OWN: Feeds = {
    "blocks": ({"format": "jsonl"}, json_lines),
    "late": ({"format": "late"}, rows),
    "closing": ({"format": "closing"}, json_lines),
    "renaming": ({"format": "closing"}, json_lines),
    "plugin": ({"format": "jsonlines", "postprocessing": ["spider.ClosingPlugin"]}, json_lines),
}
SCRAPYS: Feeds = {
    "mine": ({"format": "mine"}, json_lines),
    "lines": ({"format": "jsonlines", "encoding": "utf-8", "indent": 4}, json_lines),
    "csv": ({"format": "csv", "fields": {"page": "page", "n": "n"}}, rows),
    "sig": ({"format": "csv", "encoding": "utf-8-sig"}, lambda path: rows(path, "utf-8-sig")),
    "utf16": ({"format": "csv", "encoding": "utf-16"}, lambda path: rows(path, "utf-16")),
    "headless": (
        {"format": "csv", "item_export_kwargs": {"include_headers_line": False}, "fields": ["page", "n"]},
        lambda path: rows(path, header=False),
    ),
    "odd": (
        {"format": "csv", "item_export_kwargs": {"delimiter": ";", "lineterminator": "\r"}},
        lambda path: rows(path, delimiter=";"),
    ),
}


def run_with(folder: Path, feeds: Feeds) -> Crawl:
    own = {"renaming": "mine://"}
    options = {f"{own.get(name, '')}data/{name}/%(run_id)s-%(batch_id)05d": options for name, (options, _) in feeds.items()}
    settings = {
        "FEEDS": {**options, STATES: STATE_OPTIONS},
        "FEED_EXPORTERS": EXPORTERS,
        "FEED_STORAGES": {"mine": "spider.Renaming"},
    }
    return crawl(folder, SOURCE, "-a", "pages=5", settings=settings)


def named(folder: Path, feed: str, read: Callable[[Path], list[Any]]) -> list[Any]:
    """Return the items of *feed* that the checkpoints name; each file must have as many as they say."""
    items = []
    for each in (file for checkpoint in checkpoints(folder) for file in checkpoint["files"] if f"/{feed}/" in file["uri"]):
        found = read(folder / each["uri"].partition("://")[2])
        assert len(found) == each["items"], each
        left_out = {n for begin, end in each.get("skip", ()) for n in range(begin, end)}
        items += [item for n, item in enumerate(found) if n not in left_out]
    return items


PAGES = [{"page": page, "n": n} for page in range(5) for n in range(2)]
LATER = [{"page": 99, "n": 0}, {"page": 99, "n": 1}]


def test_exporters_of_a_projects_own(tmp_path: Path) -> None:
    """Every item is named once with exporters that write in blocks or at the end, and with exporters and plugins that close the
    file. A file that can't be split is stored whole, and its items after the last state are listed."""
    run = run_with(tmp_path, OWN)
    assert run.code == 0, run.log
    for name, (_, read) in OWN.items():
        assert named(tmp_path, name, read) == PAGES, name
        [path] = (tmp_path / "data" / name).iterdir()
        assert read(path) == PAGES + LATER, name


def test_scrapys_exporters_with_odd_options(tmp_path: Path) -> None:
    """With BOMs, without headers, with other separators: each file is split between two items, and can be read by itself."""
    run = run_with(tmp_path, SCRAPYS)
    assert run.code == 0, run.log
    for name, (_, read) in SCRAPYS.items():
        assert named(tmp_path, name, read) == PAGES, name
        found = [read(path) for path in sorted((tmp_path / "data" / name).iterdir())]
        assert found == [PAGES, LATER], name


def batch_of(folder: Path, format: str, number: int) -> Batch:
    crawler = get_crawler(Spider)
    crawler.spider = Spider("numbers")
    crawler.spider._set_crawler(crawler)
    options = {"format": format, "fields": None, "encoding": None, "indent": None, "item_export_kwargs": {}}
    uri = f"{folder}/{number}"
    slot = FeedSlot(
        storage=DurableFeedStorage(LocalWriter(), uri), uri=uri, format=format, store_empty=False, batch_id=number,
        uri_template=uri, filter=ItemFilter({}), feed_options=options, spider=crawler.spider, settings=crawler.settings,
        crawler=crawler, exporters={"csv": CsvItemExporter, "jsonlines": JsonLinesItemExporter},
    )  # fmt: skip
    return Batch(slot, uri, "")


def test_a_file_that_is_not_what_was_seen_is_not_split(tmp_path: Path) -> None:
    """If the header would differ, or the file has bytes that nobody has seen, it stays whole and its skipped items are
    listed."""
    batch = batch_of(tmp_path, "csv", 1)
    first = {"page": 1}
    batch.add(first, False, 1)
    first["n"] = 0  # CsvItemExporter takes the fields from this very dict
    batch.add({"page": 99, "n": 1}, True, 1)
    assert batch.can_split()
    assert not batch.split(batch_of(tmp_path, "csv", 2))
    assert (batch.slot.itemcount, batch.skip(1)) == (2, ((1, 2),))
    batch.discard()

    batch = batch_of(tmp_path, "jsonlines", 3)
    batch.add({"page": 1}, False, 1)
    batch.add({"page": 99}, True, 1)
    batch.slot.file.write(b"more")  # type: ignore[union-attr]
    assert not batch.split(batch_of(tmp_path, "jsonlines", 4))
    assert batch.skip(1) == ((1, 2),)
    batch.discard()
