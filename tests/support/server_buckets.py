"""Buckets on the real S3 servers, and a spider that stores its items and states there."""

from __future__ import annotations

import os
from itertools import count
from typing import Any

from crawls import STATE_OPTIONS
from oracle import Feed, Report, S3Files, check, jsonlines_keys
from real_server import Endpoint

from scrapy_state.stores.s3 import S3Options, S3Writer

MIN_PART_BYTES = 5 * 1024 * 1024

#: Two items and a state item for each page. If the environment has GATE, it waits there until that file exists, and leaves
#: another one beside it. Before page *hold* it waits for the file "go" in its folder.
SPIDER = """
import asyncio, os, time
import scrapy
from scrapy_state import StateItem
from scrapy_state.stores import s3, s3_client as s3client

class TestSpider(scrapy.Spider):
    name = "numbers"
    pages = 3
    pause = 0
    size = 0
    delay = 0
    hold = 0
    s3.PART_BYTES = 5 * 1024 * 1024  # MIN_PART_BYTES

    @classmethod
    def update_settings(cls, settings):
        super().update_settings(settings)
        if gate := os.environ.get("GATE"):
            open(f"{gate}.{os.getpid()}", "w").close()
            while not os.path.exists(gate):
                time.sleep(0.001)

    async def start(self):
        first = self.state.get("page", 1)
        await asyncio.sleep(float(self.delay))
        for page in range(first, first + int(self.pages)):
            while page == int(self.hold) and not os.path.exists("go"):
                await asyncio.sleep(0.05)
            for number in range(2):
                yield {"key": f"{page}-{number}", "filler": "." * int(self.size)}
            yield StateItem({"page": page + 1})
            await asyncio.sleep(float(self.pause))
"""
ENDLESS = ("-a", "pages=1000", "-a", "pause=0.1")


class Bucket:
    """A bucket with nothing in it, at one of a server's endpoints."""

    _numbers = count(1)

    def __init__(self, endpoint: Endpoint, versioned: bool = False) -> None:
        self.endpoint = endpoint
        self.client = endpoint.client()
        self.name = f"bucket-{os.getpid()}-{next(self._numbers)}"
        self.client.create_bucket(Bucket=self.name)
        if versioned:
            self.client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})
        self.files = S3Files(self.client, self.name)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a project whose data are there."""
        items, states = "items/%(run_id)s-%(batch_id)05d.jsonl", "state/%(batch_id)010d.json"
        feeds = {f"s3://{self.name}/{items}": {"format": "jsonlines"}, f"s3://{self.name}/{states}": STATE_OPTIONS}
        return {**self.endpoint.settings, "FEEDS": feeds, "STATE_INTERVAL": 0.2, "LOG_LEVEL": "INFO"}

    def etags(self) -> dict[str, str]:
        """Return which keys there are, and a digest of each content."""
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return {each["Key"]: each["ETag"] for each in found}

    def report(self) -> Report:
        """Check everything that is there: whole files, and one lineage with exactly the items before each state."""
        feeds = {"all": Feed(f"s3://{self.name}/items/", jsonlines_keys)}
        return check(self.files(), f"s3://{self.name}/state/", feeds, self._expected)

    def writer(self) -> S3Writer:
        """Return the package's own writer for it."""
        return S3Writer(self.name, S3Options.from_settings(self.endpoint.settings, ""))

    @staticmethod
    def _expected(state: dict[str, Any]) -> dict[str, list[str]]:
        return {"all": [f"{page}-{number}" for page in range(1, state.get("page", 1)) for number in range(2)]}
