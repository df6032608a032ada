"""Item feeds on storages that are not scrapy_state's: a checkpoint waits for them as it does for scrapy_state's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crawls import STATE_OPTIONS, STATES, Crawl, crawl
from oracle import Feed, Report, check, jsonlines_keys, local_files

PAGES = 5
SPIDER = """
import asyncio
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        first = self.state.get("page", 0)
        for page in range(first, 5):
            yield {"key": f"{page}"}
            yield StateItem({"page": page + 1})
            while self.crawler.crawling and self.crawler.stats.get_value("state/checkpoints") < page - first + 2:
                await asyncio.sleep(0.01)
"""
# Both fail at files whose names end as the file "down" says.
# What Scrapy's GCSFeedStorage uses of google-cloud-storage, with a folder for the buckets.
GOOGLE = """
import time
from pathlib import Path

class Client:
    def __init__(self, project): pass
    def bucket(self, name): return Bucket(name)
    get_bucket = bucket  # what Scrapy 2.15 calls

class Bucket:
    def __init__(self, name): self.name = name
    def blob(self, name): return Blob(Path("gs", self.name, name))

class Blob:
    def __init__(self, path): self.path = path

    def upload_from_file(self, file, predefined_acl=None):
        time.sleep(0.05)
        down = Path("down")
        if down.exists() and self.path.stem.endswith(down.read_text()):
            raise RuntimeError("503 on purpose")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(file.read())
"""

#: Exit codes. Scrapy's storages for gs:// and ftp:// close the file when they fail since 2.18; before, it is tried again.
GAVE_UP = (1, 75)

FTP = """
from pathlib import Path
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

class Handler(FTPHandler):
    def ftp_STOR(self, file, mode="w"):
        down = Path("down")
        if down.exists() and Path(file).stem.endswith(down.read_text()):
            return self.respond("550 on purpose")
        return super().ftp_STOR(file, mode)

Handler.authorizer = DummyAuthorizer()
Path("ftp").mkdir()
Handler.authorizer.add_user("user", "s3cr3t", "ftp", perm="elradfmw")
server = FTPServer(("127.0.0.1", 0), Handler)
print(server.address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[str]:
    """The address of an FTP server, with user and password; its files are in the folder "ftp"."""
    # In a process of its own: on Python 3.11 the server's modules warn when they are imported.
    command = [sys.executable, "-c", FTP]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"ftp://user:s3cr3t@127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


def run(folder: Path, feed: str, **settings: Any) -> Crawl:
    feeds = {f"{feed}items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"}, STATES: STATE_OPTIONS}
    return crawl(folder, SPIDER, settings={"FEEDS": feeds, "STATE_INTERVAL": 0, **settings})


def report(folder: Path, stored: str, uri: str) -> Report:
    """Check all that is stored; *stored*: the folder that *uri* stands for."""
    files = {path.replace(f"{folder}/{stored}/", uri): each for path, each in local_files(folder).items()}
    files = {path: each for path, each in files.items() if path.startswith((uri, f"{folder}/data"))}

    def expected(state: dict[str, Any]) -> dict[str, list[str]]:
        return {"items": [str(page) for page in range(state.get("page", 0))]}

    feeds = {"items": Feed(f"{uri}items/", jsonlines_keys)}
    found = check(files, f"{folder}/data/numbers/state/", feeds, expected)
    assert found.wrong == []
    return found


def test_ftp(tmp_path: Path, ftp: str) -> None:
    """On a real FTP server every item is stored before its checkpoint. If the server refuses one, the checkpoints stop, and the
    next run continues."""
    uri = ftp.replace("user:s3cr3t@", "")
    (tmp_path / "down").write_text("00003")
    failed = run(tmp_path, ftp, STATE_RETRY_TIMEOUT=1)
    assert failed.code in GAVE_UP, failed.log
    assert failed.lines("'finish_reason': 'state_store_failed'")
    found = report(tmp_path, "ftp", uri)
    assert found.state == {"page": 2}
    assert not any("s3cr3t" in path.read_text() for path in (tmp_path / "data").rglob("*.json"))
    assert not failed.lines("s3cr3t")
    (tmp_path / "down").unlink()
    assert run(tmp_path, ftp).code == 0
    found = report(tmp_path, "ftp", uri)
    assert found.state == {"page": PAGES}
    assert len([each for each in found.checkpoints if each["files"]]) == PAGES


def test_google_cloud_storage(tmp_path: Path) -> None:
    """The same with Scrapy's own storage for gs://, whose client is a fake."""
    package = tmp_path / "google" / "cloud"
    package.mkdir(parents=True)
    (package / "storage.py").write_text(GOOGLE)
    (tmp_path / "down").write_text("00003")
    failed = run(tmp_path, "gs://bucket/", STATE_RETRY_TIMEOUT=1)
    assert failed.code in GAVE_UP, failed.log
    assert failed.lines("503 on purpose")
    assert report(tmp_path, "gs/bucket", "gs://bucket/").state == {"page": 2}
    (tmp_path / "down").unlink()
    assert run(tmp_path, "gs://bucket/").code == 0
    assert report(tmp_path, "gs/bucket", "gs://bucket/").state == {"page": PAGES}


def test_own_storage_is_tried_again(tmp_path: Path) -> None:
    """If a class of the user's fails once and leaves the file open, it is called again, and the crawl ends well."""
    source = (
        SPIDER
        + """
class OwnStorage:
    failed = False

    def __init__(self, uri, *, feed_options=None):
        self.path = uri.partition("://")[2]

    def open(self, spider):
        import tempfile
        return tempfile.TemporaryFile()

    async def store(self, file):
        import os
        await asyncio.sleep(0.05)
        if self.path.endswith("00002.jsonl") and not OwnStorage.failed:
            OwnStorage.failed = True
            raise RuntimeError("on purpose")
        file.seek(0)
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, "wb") as stored:
            stored.write(file.read())
"""
    )
    feeds = {"own://own/items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"}, STATES: STATE_OPTIONS}
    settings = {"FEEDS": feeds, "FEED_STORAGES": {"own": "spider.OwnStorage"}, "STATE_INTERVAL": 0}
    well = crawl(tmp_path, source, settings=settings)
    assert well.code == 0, well.log
    assert len(well.lines("00002.jsonl is not stored yet: ")) == 1
    assert report(tmp_path, "own", "own://own/").state == {"page": PAGES}
