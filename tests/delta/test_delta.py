"""Incremental crawls: which requests of a crawl are left out, because their pages gave items in an earlier one."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from crawls import FEEDS, STATE_OPTIONS, STATES, s3_feeds, untouched
from faulty import Proxy
from page_crawls import Place

from scrapy_state.delta.keys import key_of
from scrapy_state.delta.memory import today

#: The page "list" has links to those that the argument names; a page's items are named after it.
SHOP = """
from urllib.parse import unquote

class Shop(Any):
    pages = ""
    async def start(self):
        yield self.to("list", self.links)

    async def links(self, response):
        for path in self.pages.split():
            yield self.to(path)
"""
ON: dict[str, Any] = {"STATE_DELTA": True}


def stored_keys(folder: Path) -> dict[int, int]:
    """Read what the newest checkpoint remembers, as docs/format.md describes it: key -> day."""
    states = folder / "data/numbers/state"
    [checkpoint] = json.loads(max(states.glob("*.json")).read_bytes())
    found: dict[int, int] = {}
    for file in checkpoint["memories"]["delta"]["stored"]:
        data = (states / "delta" / file["name"]).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == file["digest"]
        begin = data.index(b"\n") + 1
        count = int(data[:begin].split()[-1])
        keys = struct.unpack_from(f"<{count}Q", data, begin)
        assert list(keys) == sorted(set(keys))
        found.update(zip(keys, struct.unpack_from(f"<{count}H", data, begin + 8 * count), strict=True))
    return found


def age(place: Place, days: int) -> None:
    """Make all that is remembered older."""
    memories = place.newest["memories"]
    for file in memories["delta"]["stored"]:
        path = place.folder / "data/numbers/state/delta" / file["name"]
        data = bytearray(path.read_bytes())
        begin = data.index(b"\n") + 1
        count = int(data[:begin].split()[-1])
        at = begin + 8 * count
        struct.pack_into(f"<{count}H", data, at, *(day - days for day in struct.unpack_from(f"<{count}H", data, at)))
        path.write_bytes(data)
        file["digest"] = f"sha256:{hashlib.sha256(data).hexdigest()}"
    place.rewrite(memories=memories)


def test_the_next_crawl_sends_what_is_new(pages: Place) -> None:
    """A crawl leaves out the pages that gave items in an earlier one; it sends those that gave none, and new ones."""
    first = pages.crawl(SHOP, "-a", "pages=a b c", **ON)
    assert first.code == 0, first.log
    assert first.lines("INFO: no pages of earlier crawls are known (STATE_DELTA)")
    assert first.lines("'state/delta_stored': 3")
    assert len(stored_keys(pages.folder)) == 3
    assert set(stored_keys(pages.folder).values()) <= {today(), today() - 1}
    second = pages.crawl(SHOP, "-a", "pages=a b c d", **ON)
    assert second.code == 0, second.log
    assert dict(pages.asked) == {"list": 1, "d": 1}
    assert second.lines("INFO: 3 pages of earlier crawls are known, from 20")
    assert second.lines("'state/delta_skipped': 3")
    assert len(second.lines("is not sent: its page gave items in an earlier crawl")) == 1
    pages.crawl(SHOP, "-a", "pages=a b c d", **ON)
    assert dict(pages.asked) == {"list": 1}
    assert pages.keys == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_a_killed_crawl_continues_elsewhere(pages: Place, tmp_path: Path) -> None:
    """What a killed crawl remembers is just what is durable. It is continued, and crawled again, in other folders with
    nothing but the store: each page is processed once in all."""
    source = SHOP.replace("class Shop(Any):", 'class Shop(Any):\n    custom_settings = {"CONCURRENT_REQUESTS": 2}')
    names = [f"p{number}" for number in range(40)]
    chosen = ("-a", f"pages={' '.join(names)}")
    killed = pages.crawl(source, *chosen, "-a", "kill=p17", **ON)
    assert killed.code == -9
    durable = set(pages.keys)
    assert 0 < len(durable) < 40
    keys = {name: key_of(fingerprint(f"{pages.server.url}/{name}")) for name in names}
    assert set(stored_keys(pages.folder)) == {keys[name] for name in durable}
    second = moved(pages, tmp_path / "second")
    done = second.crawl(source, *chosen, **ON)
    assert done.code == 0, done.log
    assert "state/delta_skipped" not in done.log  # it is the same crawl
    assert not durable & set(second.asked)
    assert set(stored_keys(second.folder)) == set(keys.values())
    third = moved(second, tmp_path / "third")
    assert third.crawl(source, *chosen, **ON).code == 0
    assert dict(third.asked) == {"list": 1}
    assert third.keys == dict.fromkeys(names, 1)


def moved(place: Place, folder: Path) -> Place:
    """Return a place whose folder has nothing but what *place* has stored. Item files keep their URIs."""
    shutil.copytree(place.folder / "data", folder / "data")
    return Place(folder, place.server)


def fingerprint(url: str) -> bytes:
    from scrapy import Request
    from scrapy.utils.request import fingerprint

    return fingerprint(Request(url))


@pytest.mark.long
def test_only_stored_items_count(pages: Place) -> None:
    """A page does not count if all of its items were dropped, or if one has failed, or its callback; nor one without items."""
    source = """
class Pipeline:
    def process_item(self, item):
        if "drop" in item["key"]:
            raise DropItem("not wanted")
        if "fail" in item["key"]:
            raise ValueError
        return item
""" + SHOP.replace(
        "    async def links",
        """
    custom_settings = {"ITEM_PIPELINES": {Pipeline: 1}}
    async def parse(self, response):
        for what in unquote(key(response)).split(","):
            if what == "raise":
                raise ValueError
            if what != "nothing":
                yield {"key": what}

    async def links""",
    )
    chosen = ("-a", "pages=good drop good,drop good,fail fail,good good,raise nothing")
    settings = {**ON, "STATE_ON_ITEM_ERROR": "skip"}
    assert pages.crawl(source, *chosen, **settings).code == 0
    again = pages.crawl(source, *chosen, **settings)
    asked = {path.replace("%2C", ",") for path in pages.asked}
    assert asked == {"list", "drop", "good,fail", "fail,good", "good,raise", "nothing"}, again.log
    assert pages.crawl(source, *chosen, **settings, STATE_DELTA_ITEMS="all").code == 0
    pages.crawl(source, *chosen, **settings, STATE_DELTA_ITEMS="all")
    assert dict(pages.asked) == {"list": 1, "nothing": 1}


@pytest.mark.long
def test_the_key_is_that_of_the_request_as_yielded(pages: Place) -> None:
    """A redirect does not change a page's key, and does not pass it on to what the page sends with its own meta."""
    source = SHOP.replace(
        "            yield self.to(path)",
        """            yield self.to(path)

    async def parse(self, response):
        yield {"key": key(response)}
        if not response.meta.get("child"):
            yield self.to("child-of-" + key(response), meta={**response.meta, "child": True})
""",
    )
    sent = ["to/a", "to/to/b", "child-of-a", "child-of-b"]
    pages.crawl(source, "-a", "pages=to/a to/to/b", **ON)
    assert pages.keys == {"a": 1, "b": 1, "child-of-a": 1, "child-of-b": 1}
    assert set(stored_keys(pages.folder)) == {key_of(fingerprint(f"{pages.server.url}/{path}")) for path in sent}
    pages.crawl(source, "-a", "pages=to/a to/to/b a b", **ON)
    assert dict(pages.asked) == {"list": 1, "a": 1, "b": 1}


@pytest.mark.long
def test_keys_of_ones_own(pages: Place) -> None:
    """meta["state_key"] and an item's state_key replace the fingerprint; meta["state_delta"] = False exempts a request."""
    source = """
class Shop(Any):
    async def start(self):
        yield self.to("list", meta={"state_delta": False})
        yield self.to("shown?" + self.session, meta={"state_key": "shown"})
        yield self.to("detail", meta={"state_key": "sku-1"})
        yield self.to("other", meta={"state_key": 2})

    session = ""
    async def parse(self, response):
        item = {"key": key(response)}
        if item["key"] == "list":
            yield {**item, "state_key": "sku-1"}
        yield item
"""
    pages.crawl(source, "-a", "session=1", **ON)
    assert set(stored_keys(pages.folder)) == {key_of("sku-1"), key_of("shown"), key_of("2")}
    pages.crawl(source, "-a", "session=2", **ON)
    assert dict(pages.asked) == {"list": 1}


@pytest.mark.long
def test_requests_of_start_and_of_errbacks(pages: Place) -> None:
    """Requests of start() count, unless STATE_DELTA_START is off or each run sends them; those of errbacks count, too."""
    source = """
class Shop(Any):
    async def start(self):
        yield self.to("a")
        yield self.to("login", meta={"state_every_run": True})
        yield self.to("status/404", errback=self.failed)

    async def failed(self, failure):
        yield self.to("b")
"""
    pages.crawl(source, **ON)
    assert pages.keys == {"a": 1, "b": 1, "login": 1}
    pages.crawl(source, **ON)
    assert dict(pages.asked) == {"login": 1, "status/404": 1}
    pages.crawl(source, **ON, STATE_DELTA_START=False)
    assert dict(pages.asked) == {"a": 1, "login": 1, "status/404": 1}


@pytest.mark.long
def test_old_pages_are_crawled_again(pages: Place) -> None:
    """With STATE_DELTA_MAX_AGE, pages that gave items longer ago are crawled again, and count from then on."""
    chosen = ("-a", "pages=a b")
    pages.crawl(SHOP, *chosen, **ON)
    age(pages, 30)
    pages.crawl(SHOP, *chosen, **ON, STATE_DELTA_MAX_AGE="32d")
    assert dict(pages.asked) == {"list": 1}
    pages.crawl(SHOP, *chosen, **ON, STATE_DELTA_MAX_AGE="30d")
    assert dict(pages.asked) == {"list": 1, "a": 1, "b": 1}
    pages.crawl(SHOP, *chosen, **ON, STATE_DELTA_MAX_AGE="30d")
    assert dict(pages.asked) == {"list": 1}


@pytest.mark.long
def test_going_back_and_forgetting(pages: Place) -> None:
    """A run from an older checkpoint knows what was known then. STATE_DELTA_RESET forgets the earlier crawls, for good; it is
    refused in the settings."""
    pages.crawl(SHOP, "-a", "pages=a", **ON)
    first = pages.newest["id"]
    pages.crawl(SHOP, "-a", "pages=a b", **ON)
    pages.crawl(SHOP, "-a", "pages=a b", "-s", f"STATE_AT={first}", **ON)
    assert dict(pages.asked) == {"list": 1, "b": 1}
    pages.crawl(SHOP, "-a", "pages=a b", "-s", "STATE_DELTA_RESET=True", **ON)
    assert dict(pages.asked) == {"list": 1, "a": 1, "b": 1}
    pages.crawl(SHOP, "-a", "pages=a b", **ON)
    assert dict(pages.asked) == {"list": 1}
    refused = pages.crawl(SHOP, **ON, STATE_DELTA_RESET=True)
    assert refused.code == 1
    assert refused.lines("STATE_DELTA_RESET is in the settings")


@pytest.mark.long
def test_switched_off_for_a_while(pages: Place) -> None:
    """A run without STATE_DELTA sends everything, and loses nothing of what is remembered."""
    pages.crawl(SHOP, "-a", "pages=a b", **ON)
    pages.crawl(SHOP, "-a", "pages=a b c")
    assert dict(pages.asked) == {"list": 1, "a": 1, "b": 1, "c": 1}
    pages.crawl(SHOP, "-a", "pages=a b c", **ON)
    assert dict(pages.asked) == {"list": 1, "c": 1}


@pytest.mark.parametrize("readonly", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_run_that_only_reads(pages: Place, tmp_path: Path, readonly: bool) -> None:
    """A read-only run on production's store leaves out what production has, and changes nothing there."""
    pages.crawl(SHOP, "-a", "pages=a b", **ON)
    uri = f"{pages.folder}/data/%(name)s/state/%(batch_id)010d.json"
    own: dict[str, Any] = {"dev.jsonl": {"format": "jsonlines"}}
    settings: dict[str, Any] = {**ON, "FEEDS": own, "STATE_FROM": uri}
    if readonly:
        settings = {**ON, "FEEDS": {**own, uri: STATE_OPTIONS}, "STATE_READONLY": True}
    development = Place(tmp_path / "development", pages.server)
    for explicit in ((), ("-s", 'STATE={"n": 1}')):
        with untouched(pages.folder / "data"):
            run = development.crawl(SHOP, "-a", "pages=a b c", *explicit, **settings)
        assert run.code == 0, run.log
        assert dict(development.asked) == {"list": 1, "c": 1}, run.log
        assert not run.lines("ERROR")


@pytest.mark.long
def test_a_run_that_only_reads_s3(pages: Place, tmp_path: Path, bucket: str, s3_settings: dict[str, str]) -> None:
    """On S3 a read-only run leaves out what production has, and sends nothing but GET requests."""
    with Proxy(s3_settings["AWS_ENDPOINT_URL"]) as proxy:
        settings = {**ON, **s3_settings, "AWS_ENDPOINT_URL": proxy.url}
        first = pages.crawl(SHOP, "-a", "pages=a b", **settings, FEEDS=s3_feeds(bucket))
        assert first.code == 0, first.log
        assert proxy.seen("^PUT .*/state/delta/")
        proxy.log.clear()
        feeds = {f"s3://{bucket}/{STATES}": STATE_OPTIONS}
        development = Place(tmp_path / "development", pages.server)
        run = development.crawl(SHOP, "-a", "pages=a b c", "-O", "dev.jsonl", **settings, FEEDS=feeds, STATE_READONLY=True)
    assert run.code == 0, run.log
    assert dict(development.asked) == {"list": 1, "c": 1}
    assert {seen.request.partition(" ")[0] for seen in proxy.log} == {"GET"}


@pytest.mark.long
def test_moving_away(pages: Place, tmp_path: Path) -> None:
    """A run with STATE_FROM and a state feed of its own begins with a copy of what is remembered there."""
    pages.crawl(SHOP, "-a", "pages=a b", **ON)
    uri = f"{pages.folder}/data/%(name)s/state/%(batch_id)010d.json"
    other = Place(tmp_path / "other", pages.server)
    with untouched(pages.folder / "data"):
        run = other.crawl(SHOP, "-a", "pages=a b c", **ON, STATE_FROM=uri)
        assert run.code == 0, run.log
        assert dict(other.asked) == {"list": 1, "c": 1}
    other.crawl(SHOP, "-a", "pages=a b c d", **ON)
    assert dict(other.asked) == {"list": 1, "d": 1}
    assert len(stored_keys(other.folder)) == 4


@pytest.mark.long
def test_state_items(pages: Place) -> None:
    """With state items alone, pages count up to the last state item. The next crawl sends what follows it again."""
    source = """
class Chain(Any):
    last = "3"
    async def start(self):
        yield self.to(f"page{self.state.get('n', 0)}")

    async def parse(self, response):
        n = int(key(response).removeprefix("page"))
        yield {"key": key(response)}
        if n < int(self.last):
            yield StateItem({"n": n + 1})
            yield self.to(f"page{n + 1}")
"""
    settings = {**ON, "STATE_REQUESTS": False}
    assert pages.crawl(source, **settings).code == 0
    assert pages.keys == {"page0": 1, "page1": 1, "page2": 1}
    assert len(stored_keys(pages.folder)) == 3
    pages.crawl(source, "-a", "last=4", **settings)
    assert dict(pages.asked) == {"page3": 1, "page4": 1}
    assert pages.keys == {"page0": 1, "page1": 1, "page2": 1, "page3": 1}


@pytest.mark.long
def test_a_page_in_two_checkpoints(pages: Place) -> None:
    """If a page yields a state item between its items, and the run is killed there, it is fetched again for the rest."""
    source = """
class Straddling(Any):
    async def start(self):
        yield self.to("a")

    async def parse(self, response):
        if self.state.get("n", 0) < 1:
            yield {"key": "a1"}
            yield StateItem({"n": 1})
            while self.kill:
                if self.crawler.stats.get_value("state/checkpoints") > 1:
                    die()
                await asyncio.sleep(0.01)
        yield {"key": "a2"}
        yield StateItem({"n": 2})
"""
    settings = {**ON, "STATE_REQUESTS": False}
    assert pages.crawl(source, "-a", "kill=yes", **settings).code == -9
    assert len(stored_keys(pages.folder)) == 1
    assert pages.crawl(source, **settings).code == 0
    assert dict(pages.asked) == {"a": 1}
    assert pages.keys == {"a1": 1, "a2": 1}
    pages.crawl(source, **settings)
    assert not pages.asked


@pytest.mark.long
def test_pages_that_are_over_before_their_parent(pages: Place) -> None:
    """Pages whose items are kept until the page that has sent them is done count, too; unless their callback raised."""
    source = SHOP.replace(
        "            yield self.to(path)",
        """            yield self.to(path, dont_filter=True)
        while self.crawler.stats.get_value("response_received_count") < 4:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # so that they are over: a test that is too fast still passes

    async def parse(self, response):
        yield {"key": key(response)}
        if key(response) == "bad":
            raise ValueError
""",
    )
    assert pages.crawl(source, "-a", "pages=a bad b", **ON).code == 0
    assert pages.keys == {"a": 1, "b": 1, "bad": 1}
    assert set(stored_keys(pages.folder)) == {key_of(fingerprint(f"{pages.server.url}/{name}")) for name in "ab"}


@pytest.mark.long
def test_units(pages: Place) -> None:
    """With units, the pages of units that are done count, and those of a unit that has failed do not."""
    source = """
class Units(Any):
    async def start(self):
        for n in range(4):
            yield self.to(f"list{n}", self.links, meta={"state": {"n": n + 1}, "state_delta": False}, cb_kwargs={"n": n})

    async def links(self, response, n):
        yield self.to(f"a{n}")
        yield self.to(f"b{n}", self.parse if n != 2 else self.bad)

    async def bad(self, response):
        yield {"key": key(response)}
        raise ValueError
"""
    settings = {**ON, "STATE_ON_UNIT_ERROR": "skip"}
    assert pages.crawl(source, **settings).code == 0
    assert pages.newest["state"] == {"n": 4}
    names = [f"{kind}{n}" for kind in "ab" for n in (0, 1, 3)]
    assert pages.keys == dict.fromkeys(names, 1)
    assert set(stored_keys(pages.folder)) == {key_of(fingerprint(f"{pages.server.url}/{name}")) for name in names}
    pages.crawl(source, "-s", "STATE={}", **settings)
    assert {path for path in pages.asked if not path.startswith("list")} == {"a2", "b2"}


@pytest.mark.long
def test_switched_on_within_a_crawl(pages: Place) -> None:
    """If STATE_DELTA is switched on when a killed crawl continues, nothing is sent twice, and the rest of its pages count."""
    source = SHOP.replace("class Shop(Any):", 'class Shop(Any):\n    custom_settings = {"CONCURRENT_REQUESTS": 1}')
    chosen = ("-a", "pages=a b c to/d")
    assert pages.crawl(source, *chosen, "-a", "kill=b").code == -9
    durable = set(pages.keys)
    done = pages.crawl(source, *chosen, **ON)
    assert done.code == 0, done.log
    assert pages.asked["list"] == 0
    assert pages.keys == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert len(stored_keys(pages.folder)) == 4 - len(durable)
    pages.crawl(source, *chosen, **ON)
    assert set(pages.asked) == {"list", *durable, *(["to/d"] if "d" in durable else [])}


@pytest.mark.long
def test_a_damaged_file(pages: Place) -> None:
    """If what is remembered can't be read, the crawl does not start, and says how to go on without."""
    pages.crawl(SHOP, "-a", "pages=a b", **ON)
    [path] = (pages.folder / "data/numbers/state/delta").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    refused = pages.crawl(SHOP, "-a", "pages=a b", **ON)
    assert refused.code == 1
    [line] = refused.lines("the crawl does not start")
    assert path.as_uri() in line
    assert "-s STATE_DELTA_RESET=True" in line
    assert pages.crawl(SHOP, "-a", "pages=a b", "-s", "STATE_DELTA_RESET=True", **ON).code == 0
    assert pages.asked["a"] == 1


@pytest.mark.long
def test_without_a_state_feed(pages: Place) -> None:
    """Without a state feed a warning says that STATE_DELTA has no effect."""
    feeds = {uri: options for uri, options in FEEDS.items() if options is not STATE_OPTIONS}
    run = pages.crawl(SHOP, "-a", "pages=a", **ON, FEEDS=feeds)
    assert run.code == 0, run.log
    assert len(run.lines("WARNING: STATE_DELTA has no effect")) == 1


@pytest.mark.long
def test_few_files(pages: Place) -> None:
    """However many checkpoints there are, the newest one names few files; those of the crawl that is under way are apart."""
    chosen = ("-a", f"pages={' '.join(f'p{number}' for number in range(60))}")
    for _ in range(2):
        run = pages.crawl(SHOP, *chosen, **ON, CONCURRENT_REQUESTS=1)
        assert run.code == 0, run.log
    assert dict(pages.asked) == {"list": 1}
    assert len(stored_keys(pages.folder)) == 60
    assert len(pages.newest["memories"]["delta"]["stored"]) < 16
