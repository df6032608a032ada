"""P7, cheap: few S3 clients, few requests to find where to start, and no item waits for a checkpoint.

One client per endpoint and credentials, and one more that can only read where something is read. Finding the newest of a
million checkpoints takes tens of requests; tests/lineage/test_key_search.py has the million. These tests count: the CPU that
a crawl takes is measured by benchmarks/cpu.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crawls import DEADLINE_SECONDS, ITEMS, SPIDER, STATE_OPTIONS, STATES, Crawl, crawl
from faulty import Fault
from faulty_crawls import ITEM_PUT, STATE_PUT, World, checkpoint_bytes
from moto.s3.models import s3_backends

#: Says in the end how many clients were made for it.
COUNTING_SPIDER = f"""
import botocore.session

made = []
create_client = botocore.session.Session.create_client

def count(self, *arguments, **options):
    made.append(arguments)
    return create_client(self, *arguments, **options)

botocore.session.Session.create_client = count
{SPIDER}
    def closed(self, reason):
        self.logger.info("%s clients were made", len(made))
"""


def test_clients(tmp_path: Path, bucket: str, s3_settings: dict[str, str]) -> None:
    """With a state feed and three item feeds on S3 a crawl makes one client that writes, and one that can only read.

    A feed with other credentials has one client of its own, which writes.
    """

    def clients(third_feed_at: str) -> int:
        at = f"s3://{bucket}"
        options = {"format": "jsonlines", "batch_item_count": 1}
        feeds = {f"{at}/{ITEMS}": options, f"{at}/more/{ITEMS}": options, f"{third_feed_at}/third/{ITEMS}": options}
        settings = {**s3_settings, "FEEDS": {**feeds, f"{at}/{STATES}": STATE_OPTIONS}, "STATE_INTERVAL": 0}
        run = crawl(tmp_path, COUNTING_SPIDER, settings=settings)
        assert run.code == 0, run.log
        [line] = run.lines(" clients were made")
        return int(re.search(r"(\d+) clients were made", line)[1])  # type: ignore[index]

    assert clients(f"s3://{bucket}") == 2
    assert clients(f"s3://another-key:another-secret@{bucket}") == 3


@pytest.mark.parametrize(("count", "most"), [(1_000, 12), pytest.param(20_000, 20, marks=pytest.mark.long)])
def test_requests_of_a_start(world: World, count: int, most: int) -> None:
    """Among very many checkpoints, a crawl needs few requests to find the newest and to store its own first one."""
    store = next(iter(s3_backends.values()))["aws"]  # straight into the server's memory: requests would take a minute
    older = checkpoint_bytes(1)
    for id in range(2, count):
        store.put_object(world.bucket, f"data/numbers/state/{id:010d}.json", older)
    parent = checkpoint_bytes(count - 1)
    for id, content in ((count - 1, parent), (count, checkpoint_bytes(count, page=5, parent=parent))):
        store.put_object(world.bucket, f"data/numbers/state/{id:010d}.json", content)
    run = world.run(page_seconds=0)
    assert run.code == 0, run.log
    assert run.lines("begins at 5")
    requests = [seen.request for seen in world.proxy.log]
    [opening] = [number for number, each in enumerate(requests) if re.search(STATE_PUT.format(id=count + 1), each)]
    start = requests[: opening + 1]
    print(*start, sep="\n")
    assert len(start) <= most


def test_no_item_waits_for_a_checkpoint(world: World) -> None:
    """While the store holds back the PUT of a checkpoint, the crawl asks for its pages, exports their items and stores them."""
    world.pages = 40
    item_options = {"format": "jsonlines", "batch_item_count": 3}
    world.settings["FEEDS"] = {f"s3://{world.bucket}/{ITEMS}": item_options, f"s3://{world.bucket}/{STATES}": STATE_OPTIONS}
    held = Fault("held", STATE_PUT.format(id=3))
    process = world.start(held, page_seconds=0.02, read_seconds=DEADLINE_SECONDS)
    try:
        wait_until(lambda: held.met == 1)
        before = len(world.site.asked)
        wait_until(lambda: len(world.site.asked) == world.pages)
        wait_until(lambda: len(world.proxy.seen(ITEM_PUT.format(batch=r"\d+"))) >= world.pages - 1)
        assert before < world.pages / 2
        assert world.newest() == 2
        held.released.set()
        log = process.communicate(timeout=DEADLINE_SECONDS)[1]
    finally:
        held.released.set()
        process.kill()
        process.wait()
    world.is_complete(Crawl(process.returncode, log, world.folder))


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)
