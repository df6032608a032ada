"""Spiders' own settings, names and arguments: several in one process never share a client, a state, or a folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from crawls import STATE_OPTIONS, crawl
from faulty import Proxy
from scrapy.extensions.feedexport import FileFeedStorage

from scrapy_state.stores.local import LocalReader

pytestmark = pytest.mark.long

ITEM_OPTIONS = {"format": "jsonlines"}
SETTINGS = {
    "ADDONS": {"scrapy_state.Addon": 500},
    "STATE_INTERVAL": 0.1,
    "TELNETCONSOLE_ENABLED": False,
    "LOG_LEVEL": "INFO",
}
ODD_NAMES = [
    *("50%", "%(page)s", "100%done", "a/b", "a", "with space", "naïve-日本", ".hidden", "..", "../up"),
    *("a#b", "a?b", "a+b", "a:b", "[a]*", "~a", "/absolute"),
]
#: In a file URI, as in Scrapy, %2F is a slash; elsewhere it stays as it is.
PERCENT_ENCODED = "a%2Fb"


def start(folder: Path, spiders: list[dict[str, Any]], settings: dict[str, Any], **plan: Any) -> subprocess.Popen[str]:
    text = json.dumps({"settings": {**SETTINGS, **settings}, "spiders": spiders, **plan})
    command = [sys.executable, str(Path(__file__).parent / "support" / "many_spiders.py"), text]
    with (folder / "log").open("w") as log:  # not a pipe, which would fill up
        return subprocess.Popen(command, cwd=folder, stderr=log, stdout=subprocess.DEVNULL, text=True)


def run(folder: Path, spiders: list[dict[str, Any]], settings: dict[str, Any], **plan: Any) -> str:
    """Run the spiders to their end; return the log."""
    process = start(folder, spiders, settings, **plan)
    try:
        process.wait(timeout=120)
    finally:
        process.kill()
    log = (folder / "log").read_text()
    assert process.returncode == 0, log
    assert not re.findall("ERROR|CRITICAL|Traceback", log), log
    return log


def kill_when(folder: Path, process: subprocess.Popen[str], done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    try:
        while not done():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


def check_named(checkpoints: list[dict[str, Any]], spider: str, read: Callable[[str], bytes]) -> int:
    """Check that the lineage names every item of *spider* before the newest state once, and no other's; return how many
    pages."""
    assert {each["spider"] for each in checkpoints} == {spider}
    by_id = {each["id"]: each for each in checkpoints}
    found, id = [], max(by_id)
    while id is not None:
        for file in by_id[id]["files"]:
            skipped = {position for begin, end in file.get("skip", ()) for position in range(begin, end)}
            found += [json.loads(line) for n, line in enumerate(read(file["uri"]).splitlines()) if n not in skipped]
        id = by_id[id]["parent"]
    pages = checkpoints[-1]["state"].get("page", 0)
    expected = [{"spider": spider, "page": page, "n": n} for page in range(pages) for n in range(2)]
    assert sorted(found, key=lambda item: (item["page"], item["n"])) == expected
    return int(pages)


def read_local(uri: str) -> bytes:
    return Path(unquote(uri.removeprefix("file://"))).read_bytes()


@pytest.mark.parametrize("scheme", ["path", "file"])
def test_odd_names_on_disk(tmp_path: Path, scheme: str) -> None:
    """Each spider is killed, resumes in its own folder (the same as for Scrapy's own feeds), and loses nothing."""
    base = "data/" if scheme == "path" else f"{(tmp_path / 'data').as_uri()}/"
    state_uri = f"{base}%(name)s/state/%(batch_id)010d.json"
    feeds = {f"{base}%(name)s/items/%(run_id)s-%(batch_id)05d.jsonl": ITEM_OPTIONS, state_uri: STATE_OPTIONS}
    names = (
        [*ODD_NAMES, PERCENT_ENCODED] if scheme == "path" else ["50%", "a/b", "with space", "naïve-日本", "..", "a#b", "a?b"]
    )
    # In a file URI Scrapy takes "#" and "?" for the end of the path; scrapy_state does not: "a#b" would share it with "a?b".
    plain = [each for each in names if scheme == "path" or not re.search("[#?]", each)]
    beside = {**feeds, f"{base}%(name)s/beside.jsonl": {**ITEM_OPTIONS, "checkpoint": False}}

    def folder(name: str) -> Path:
        if name not in plain:
            return tmp_path / "data" / name / "state"
        return (tmp_path / FileFeedStorage(state_uri.replace("%(name)s", name)).path).parent

    def stored(name: str) -> list[dict[str, Any]]:
        return [json.loads(path.read_text())[0] for path in sorted(folder(name).iterdir()) if path.suffix == ".json"]

    spiders = [{"name": name, "custom_settings": {"FEEDS": beside if name in plain else feeds}} for name in names]
    kill_when(
        tmp_path,
        start(tmp_path, spiders, {}),
        lambda: all(folder(name).is_dir() and len(list(folder(name).iterdir())) > 2 for name in names),
    )
    before = {name: stored(name)[-1]["state"]["page"] for name in names}
    run(tmp_path, [{**each, "arguments": {"pages": 2}} for each in spiders], {})
    for name in names:
        assert check_named(stored(name), name, read_local) == before[name] + 2
        if name in plain:
            assert f'"spider": {json.dumps(name)}'.encode() in (folder(name).parent / "beside.jsonl").read_bytes()


def test_odd_names_on_s3(tmp_path: Path, bucket: str, s3_settings: dict[str, str], s3_client: Any) -> None:
    """The same on S3, where a name is part of the key as it is."""
    base = f"s3://{bucket}/data/%(name)s"
    feeds = {f"{base}/items/%(run_id)s-%(batch_id)05d.jsonl": ITEM_OPTIONS, f"{base}/state/%(batch_id)010d.json": STATE_OPTIONS}

    names = ["50%", "%(page)s", "a/b", "a", PERCENT_ENCODED, "with space", "naïve-日本", "..", "a#b", "a?b", "/absolute"]

    def keys() -> list[str]:
        pages = s3_client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(each["Key"] for page in pages for each in page.get("Contents", ()))

    def stored(name: str) -> list[dict[str, Any]]:
        found = [key for key in keys() if key.startswith(f"data/{name}/state/")]
        return [json.loads(s3_client.get_object(Bucket=bucket, Key=key)["Body"].read())[0] for key in found]

    def read(uri: str) -> bytes:
        body: bytes = s3_client.get_object(Bucket=bucket, Key=uri.removeprefix(f"s3://{bucket}/"))["Body"].read()
        return body

    spiders = [{"name": name} for name in names]
    settings = {**s3_settings, "FEEDS": feeds}

    def all_have_some() -> bool:
        found = keys()
        return all(sum(key.startswith(f"data/{name}/state/") for key in found) > 2 for name in names)

    kill_when(tmp_path, start(tmp_path, spiders, settings), all_have_some)
    before = {name: stored(name)[-1]["state"]["page"] for name in names}
    run(tmp_path, [{**each, "arguments": {"pages": 2}} for each in spiders], settings)
    for name in names:
        assert check_named(stored(name), name, read) == before[name] + 2


def test_own_credentials(tmp_path: Path, bucket: str, s3_settings: dict[str, str], s3_client: Any) -> None:
    """Spiders with their own stores, credentials and endpoints, in one process: each uses its own."""
    with Proxy(s3_settings["AWS_ENDPOINT_URL"]) as one, Proxy(s3_settings["AWS_ENDPOINT_URL"]) as other:
        # The same URIs but for the name: only custom_settings tell them apart.
        feeds = {
            f"s3://{bucket}/%(name)s/items/%(run_id)s-%(batch_id)05d.jsonl": ITEM_OPTIONS,
            f"s3://{bucket}/%(name)s/state/%(batch_id)010d.json": STATE_OPTIONS,
        }
        own = {
            "a": {"AWS_ENDPOINT_URL": one.url, "AWS_ACCESS_KEY_ID": "key-a"},
            "b": {"AWS_ENDPOINT_URL": other.url, "AWS_ACCESS_KEY_ID": "key-b"},
            "c": {"AWS_ENDPOINT_URL": one.url, "AWS_ACCESS_KEY_ID": "key-c"},
            "d": {"FEEDS": {uri.removeprefix(f"s3://{bucket}/"): options for uri, options in feeds.items()}},
        }
        spiders = [{"name": name, "custom_settings": each, "arguments": {"pages": 2}} for name, each in own.items()]
        settings = {**s3_settings, "AWS_ENDPOINT_URL": "http://127.0.0.1:9/", "FEEDS": feeds}
        for sequential in (False, True):  # at once, then one after the other
            run(tmp_path, spiders, settings, sequential=sequential)
        for proxy, names in ((one, "ac"), (other, "b")):
            asked = {
                (match[1], each.access_key)
                for each in proxy.log
                if (match := re.search(r"/(\w)/(?:items|state)", each.request))
            }
            assert asked == {(name, f"key-{name}") for name in names}
            assert not [each for each in proxy.log if each.access_key not in {f"key-{name}" for name in names}]
    for name in "abc":
        keys = [each["Key"] for each in s3_client.list_objects_v2(Bucket=bucket, Prefix=f"{name}/state/")["Contents"]]
        stored = [json.loads(s3_client.get_object(Bucket=bucket, Key=key)["Body"].read())[0] for key in sorted(keys)]

        def read(uri: str) -> bytes:
            body: bytes = s3_client.get_object(Bucket=bucket, Key=uri.removeprefix(f"s3://{bucket}/"))["Body"].read()
            return body

        assert check_named(stored, name, read) == 4
    local = [json.loads(path.read_text())[0] for path in sorted((tmp_path / "d/state").iterdir())]
    assert check_named(local, "d", read_local) == 4


SITE_SPIDER = """
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        self.logger.info("begins at %s", self.state)
        yield {"page": 1}
        yield StateItem({"site": self.site})
"""
SITE_FEEDS = {
    "data/%(site)s/%(run_id)s-%(batch_id)05d.jsonl": ITEM_OPTIONS,
    "state/%(site)s/%(batch_id)010d.json": STATE_OPTIONS,
}


def test_spider_argument(tmp_path: Path) -> None:
    """With a spider argument in the URIs, each value has a lineage of its own."""
    for site in ("a.example", "b.example/x"):
        assert crawl(tmp_path, SITE_SPIDER, "-a", f"site={site}", settings={"FEEDS": SITE_FEEDS}).lines("begins at {}")
    again = crawl(tmp_path, SITE_SPIDER, "-a", "site=b.example/x", settings={"FEEDS": SITE_FEEDS})
    assert again.lines("begins at {'site': 'b.example/x'}")
    assert len(list((tmp_path / "data/b.example/x").iterdir())) == 2


@pytest.mark.parametrize("which", ["data/%(site)s/", "state/%(site)s/"])
def test_missing_argument(tmp_path: Path, which: str) -> None:
    """If a spider lacks the argument, an error names it, before any request and any file, whichever feed it is."""
    feeds = {uri if uri.startswith(which) else uri.replace("%(site)s/", ""): options for uri, options in SITE_FEEDS.items()}
    run = crawl(tmp_path, SITE_SPIDER, settings={"FEEDS": feeds})
    assert run.code == 1
    assert run.lines(f"the URI '{which}"), run.log
    assert run.lines(
        "has %(site)s, but the spider has no attribute 'site' that can be read; "
        "give it one (-a site=…) or remove the placeholder"
    )
    assert not run.lines("begins at")
    assert not list(LocalReader().keys(f"{tmp_path}/data")) + list(LocalReader().keys(f"{tmp_path}/state"))
