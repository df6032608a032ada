"""Development on production's state: it writes nothing there, and no item feed writes next to production's items."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crawls import ITEMS, SPIDER, STATE_OPTIONS, STATES, crawl
from faulty import Proxy
from scrapy import Spider
from scrapy.utils.test import get_crawler

from scrapy_state.exceptions import StateSettingsError
from scrapy_state.lineage.resolve import resolve
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.item_file import ItemFile
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.resume.write_guard import check_places, item_places
from scrapy_state.stores import open_reader

pytestmark = pytest.mark.long

READER = "key-that-may-only-read"


@pytest.fixture
def proxy(s3_settings: dict[str, str]) -> Iterator[Proxy]:
    with Proxy(s3_settings["AWS_ENDPOINT_URL"], readers=frozenset([READER])) as proxy:
        yield proxy


def test_requests_of_a_development_run(
    tmp_path: Path, bucket: str, proxy: Proxy, s3_settings: dict[str, str], s3_client: Any
) -> None:
    """A development run, with a key that may only read, continues from production's checkpoint, by STATE_FROM or by
    STATE_READONLY, and sends only GET requests. With production's own item feed, or as a writing run, it does not start."""
    at = f"s3://{bucket}"
    feeds = {f"{at}/{ITEMS}": {"format": "jsonlines"}, f"{at}/{STATES}": STATE_OPTIONS}
    production = {**s3_settings, "AWS_ENDPOINT_URL": proxy.url, "FEEDS": feeds, "LOG_LEVEL": "INFO"}
    first = crawl(tmp_path, settings=production)
    assert first.code == 0, first.log
    stored = s3_client.list_objects_v2(Bucket=bucket)["Contents"]
    assert proxy.seen("^(PUT|POST|DELETE) ")

    local = {"dev.jsonl": {"format": "jsonlines", "overwrite": True}}
    development = {**production, "AWS_ACCESS_KEY_ID": READER}
    ways = [
        {"FEEDS": local, "STATE_FROM": f"{at}/{STATES}"},
        {"FEEDS": {f"{at}/{STATES}": STATE_OPTIONS, **local}, "STATE_READONLY": True},
    ]
    for way in ways:
        proxy.log.clear()
        run = crawl(tmp_path, settings={**development, **way})
        assert run.code == 0, run.log
        assert run.lines("begins at 3 {'page': 3}"), run.log
        assert len((tmp_path / "dev.jsonl").read_text().splitlines()) == 6
        assert proxy.log
        assert {each.request.partition(" ")[0] for each in proxy.log} == {"GET"}

    proxy.log.clear()
    run = crawl(tmp_path, settings={**development, "STATE_READONLY": True})
    [line] = run.lines("ERROR: the crawl does not start: FEEDS: the item feed ")
    assert f"'{at}/{ITEMS}' would write into the folder of items that this run may only read" in line
    assert f"('{at}/data/numbers/items/" in line
    assert {each.request.partition(" ")[0] for each in proxy.log} == {"GET"}
    assert run.code == 1

    run = crawl(tmp_path, settings=development)
    [line] = run.lines("ERROR: the crawl does not start: ")
    assert "PutObject: the store answered 403 AccessDenied; check the credentials" in line
    assert s3_client.list_objects_v2(Bucket=bucket)["Contents"] == stored


def test_items_of_a_development_run(tmp_path: Path, bucket: str, proxy: Proxy, s3_settings: dict[str, str]) -> None:
    """A read-only run that stores its items elsewhere on S3 writes there, and sends only GETs under the state prefix."""
    at = f"s3://{bucket}"
    settings = {**s3_settings, "AWS_ENDPOINT_URL": proxy.url}
    states = {f"{at}/{STATES}": STATE_OPTIONS}
    first = crawl(tmp_path, settings={**settings, "FEEDS": {f"{at}/{ITEMS}": {"format": "jsonlines"}, **states}})
    assert first.code == 0, first.log
    proxy.log.clear()
    feeds = {**states, f"{at}/dev/%(time)s.jsonl": {"format": "jsonlines"}}
    run = crawl(tmp_path, settings={**settings, "FEEDS": feeds, "STATE_READONLY": True})
    assert run.code == 0, run.log
    assert run.lines("begins at 3 {'page': 3}")
    writes = [each.request for each in proxy.seen("^(?!GET )")]
    assert [each.partition("/dev/")[0] for each in writes] == [f"PUT /{bucket}"]


def test_production_needs_no_delete(
    tmp_path: Path, bucket: str, proxy: Proxy, s3_settings: dict[str, str], s3_client: Any
) -> None:
    """A writing run needs only ListBucket, GetObject, PutObject and AbortMultipartUpload; it leaves no upload open."""
    at = f"s3://{bucket}"
    feeds = {f"{at}/{ITEMS}": {"format": "jsonlines"}, f"{at}/{STATES}": STATE_OPTIONS}
    run = crawl(tmp_path, settings={**s3_settings, "AWS_ENDPOINT_URL": proxy.url, "FEEDS": feeds})
    assert run.code == 0, run.log
    assert not proxy.seen("^DELETE (?!.*uploadId=)")
    begun, opened = proxy.seen(r"^POST .*/items/.*\?uploads"), proxy.seen("^PUT .*/state/")
    assert len(begun) == len(proxy.seen("^DELETE .*uploadId=")) == 1
    assert proxy.log.index(begun[0]) < proxy.log.index(opened[0])
    assert not s3_client.list_multipart_uploads(Bucket=bucket).get("Uploads")


class NumbersSpider(Spider):
    name = "numbers"


def check(folder: Path, feeds: dict[str, Any], source: str = STATES) -> None:
    """Check *feeds* against the checkpoints in *folder*, which *source* finds."""
    crawler = get_crawler(NumbersSpider, {"FEEDS": {f"{folder}/{uri}": options for uri, options in feeds.items()}})
    crawler.spider = crawler._create_spider()
    template = KeyTemplate.parse(f"{folder}/{source}", {"name": "numbers"})
    store, prefix = open_reader(template.prefix, {})
    check_places(item_places(crawler), store, resolve(store, template.under(prefix)), crawler.settings)


def store(folder: Path, count: int, *names: str) -> None:
    """Store *count* checkpoints in *folder*; the first one names files."""
    parent: Checkpoint | None = None
    for id in range(1, count + 1):
        files = tuple(ItemFile((folder / name).as_uri(), 1) for name in names) if id == 1 else ()
        made = Checkpoint({"page": id}, id=id, parent=id - 1 or None, files=files)
        made = Checkpoint.from_bytes(made.to_bytes()) if parent is None else made
        path = folder / f"data/numbers/state/{id:010d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.to_bytes())
        parent = made


PLAIN = {"format": "jsonlines"}
SAME = [
    ("data/%(name)s/items/%(run_id)s-%(batch_id)05d.jsonl", "data/numbers/items/20261121T010101-abcdef-00001.jsonl"),
    ("data/numbers/items/dev.jsonl", "data/numbers/items/1.jsonl"),
    ("data/items/%(time)s/%(batch_id)d.jsonl", "data/items/2026-11-20T10-00-00/1.jsonl"),
    ("dev.jsonl", "all.jsonl"),
    ("a b/%(time)s.csv", "a b/1.csv"),
]
OTHER = [
    ("dev/%(run_id)s-%(batch_id)05d.jsonl", "data/numbers/items/1-00001.jsonl"),
    ("data/numbers/items/dev/%(time)s.jsonl", "data/numbers/items/1.jsonl"),
    ("data/numbers/%(time)s.jsonl", "data/numbers/items/1.jsonl"),
    ("dev.jsonl", "data/1.jsonl"),
    ("data/other/items/%(run_id)s-%(batch_id)05d.jsonl", "data/numbers/items/1-00001.jsonl"),
]


@pytest.mark.parametrize(("feed", "named"), SAME)
def test_same_place(tmp_path: Path, feed: str, named: str) -> None:
    """If a feed writes into the folder of a named file, or could use that file's name, an error names both."""
    store(tmp_path, 3, named)
    with pytest.raises(StateSettingsError) as caught:
        check(tmp_path, {feed: PLAIN})
    assert f"'{tmp_path}/{feed}'" in str(caught.value)
    assert f"'{(tmp_path / named).as_uri()}' of checkpoint 1" in str(caught.value)
    assert '"allow_lineage_folder": True' in str(caught.value)
    check(tmp_path, {feed: {**PLAIN, "allow_lineage_folder": True}})


@pytest.mark.parametrize(("feed", "named"), OTHER)
def test_other_place(tmp_path: Path, feed: str, named: str) -> None:
    """A feed that writes elsewhere, even above or below, does not concern the check; nor does standard output."""
    store(tmp_path, 3, named)
    check(tmp_path, {feed: PLAIN})


@pytest.mark.parametrize("source", ["data/numbers/state/", "data/numbers/state/%(batch_id)d.json", STATES])
def test_parents(tmp_path: Path, source: str) -> None:
    """Files that only a parent names are found, even by a bare prefix. The check looks back only so far."""
    feed, named = SAME[0]
    store(tmp_path, 20, named)
    with pytest.raises(StateSettingsError, match="of checkpoint 1"):
        check(tmp_path, {feed: PLAIN}, source)
    store(tmp_path, 21, named)
    check(tmp_path, {feed: PLAIN}, source)


@pytest.mark.parametrize("setting", [{"STATE_READONLY": True}, {"STATE_READONLY": True, "STATE": '{"page": 1}'}])
def test_local(tmp_path: Path, setting: dict[str, Any]) -> None:
    """STATE_READONLY with production's FEEDS unchanged does not start, even with an explicit STATE."""
    first = crawl(tmp_path)
    assert first.code == 0, first.log
    before = sorted(tmp_path.rglob("*.json*"))
    arguments = [each for name, value in setting.items() for each in ("-s", f"{name}={value}")]
    run = crawl(tmp_path, SPIDER, *arguments)
    assert run.code == 1, run.log
    assert len(run.lines("ERROR: the crawl does not start: FEEDS: the item feed ")) == 1
    assert "Traceback" not in run.log
    assert sorted(tmp_path.rglob("*.json*")) == before


def test_refused_run_stores_no_empty_files(tmp_path: Path) -> None:
    """A run that does not start leaves the other feeds as they are, whatever FEED_STORE_EMPTY says."""
    (tmp_path / "file").touch()
    (tmp_path / "all.jsonl").write_text("kept\n")
    beside = {"format": "jsonlines", "checkpoint": False, "overwrite": True}
    run = crawl(tmp_path, settings={"FEEDS": {f"file/{ITEMS}": PLAIN, STATES: STATE_OPTIONS, "all.jsonl": beside}})
    assert run.lines("the crawl does not start: ")
    assert (tmp_path / "all.jsonl").read_text() == "kept\n"
