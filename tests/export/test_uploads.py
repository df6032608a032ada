"""What an upload reports: its progress, and a disk or a process that can't take more."""

from __future__ import annotations

import asyncio
import errno
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scrapy.extensions.feedexport import BlockingFeedStorage
from scrapy.settings import Settings
from scrapy.utils.test import get_crawler

from scrapy_state.barrier.backpressure import Backpressure
from scrapy_state.exceptions import StoreError
from scrapy_state.export.batch import Batch
from scrapy_state.export.retry import Retry
from scrapy_state.export.spool import Spool
from scrapy_state.export.uploads import Uploads
from scrapy_state.feedstorages import DurableFeedStorage, disk_error
from scrapy_state.model.item_file import ItemFile
from scrapy_state.stores import s3


class OwnStorage(BlockingFeedStorage):
    def _store_in_thread(self, file: Any) -> None:
        raise AssertionError("nothing to store")


def test_disk_is_full_when_a_file_is_finished(tmp_path: Path) -> None:
    """If the disk is full when the last bytes of a file are written, the error is the disk's, not the store's, and is final."""
    settings = Settings({"FEED_TEMPDIR": str(tmp_path)})
    with open("/dev/full", "r+b") as file:
        slot: Any = SimpleNamespace(file=file, storage=OwnStorage(), crawler=SimpleNamespace(settings=settings))
        slot.finish_exporting = lambda: file.write(b"the end")
        expected = f"own://file: the file could not be finished: No space left on device on the disk of {tmp_path}; free space"
        with pytest.raises(StoreError, match=expected) as raised:
            asyncio.run(Batch(slot, "own://file", "OwnStorage").store())
        assert type(raised.value) is StoreError
        file.raw.close()  # type: ignore[attr-defined]  # otherwise it would be written to again


def test_too_many_open_files() -> None:
    """The remedy fits: free space does not help a process that may open no more files."""
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert disk_error(error, SimpleNamespace(storage=OwnStorage(), crawler=SimpleNamespace(settings=Settings()))) == (  # type: ignore[arg-type]
        "Too many open files",
        "allow the process more open files (ulimit -n)",
    )


class S3Client:
    """Reads what it is given bit by bit, as botocore does, and notes where the batch's file is by then."""

    meta = SimpleNamespace(endpoint_url="https://s3.amazonaws.com")

    def __init__(self) -> None:
        self.batch: Any = None
        self.positions: list[int] = []

    def put_object(self, Body: Any, **options: Any) -> dict[str, str]:
        while Body.read(100_000):
            self.positions.append(self.batch.position())
        return {"ETag": "etag"}

    upload_part = put_object

    def create_multipart_upload(self, **options: Any) -> dict[str, str]:
        return {"UploadId": "upload"}

    def complete_multipart_upload(self, **options: Any) -> None:
        pass


@pytest.mark.parametrize("part_bytes", [s3.PART_BYTES, 300_000], ids=["one request", "parts"])
def test_progress_of_an_upload_to_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int) -> None:
    """A batch's position shows how far its upload has got, in one request and in parts."""
    client = S3Client()
    monkeypatch.setattr(s3, "get_client", lambda options, writes: client)
    monkeypatch.setattr(s3, "PART_BYTES", part_bytes)
    settings = Settings({"FEED_TEMPDIR": str(tmp_path)})
    storage = DurableFeedStorage(*s3.open_writer("s3://bucket/key", settings))
    slot: Any = SimpleNamespace(storage=storage, finish_exporting=lambda: None, itemcount=1)
    slot.file = storage.open(SimpleNamespace(crawler=SimpleNamespace(settings=settings)))  # type: ignore[arg-type]
    slot.file.write(b"x" * 1_000_000)
    client.batch = Batch(slot, "s3://bucket/key", "S3FeedStorage")
    assert client.batch.position() is None
    storage.store = partial(asyncio.to_thread, storage._store_in_thread)  # type: ignore
    asyncio.run(client.batch.store())
    assert client.positions == sorted(client.positions)
    assert len(set(client.positions)) >= 10, client.positions
    assert client.batch.position() is None  # closed


class Fates:
    """Notes the failures that it is told, and fails no crawl."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def fail(self, finish_reason: str, error: StoreError) -> None:
        self.errors.append(f"{finish_reason}: {error}")


def test_failed_upload_is_reported_once() -> None:
    """A batch's failure reaches the crawl once and at once; whoever waits for the side learns that no files will come."""

    async def scenario() -> None:
        crawler = get_crawler()
        fates, never = Fates(), asyncio.Event()
        spool = Spool(1, Backpressure(crawler))
        uploads = Uploads(crawler, Retry(0, 0), spool, fates)  # type: ignore[arg-type]

        async def refuse() -> ItemFile:
            raise StoreError("no", uri="own://2")

        async def store() -> ItemFile:
            await never.wait()
            return ItemFile("own://1", 1, 1)

        slot: Any = SimpleNamespace(format="jsonlines", itemcount=1)
        batches = [Batch(slot, f"own://{number}", "OwnStorage", bytes=5) for number in (1, 2)]
        spool.bytes = 10
        for batch, storing in zip(batches, (store, refuse), strict=True):
            batch.store = storing  # type: ignore[method-assign]
            uploads.start(batch)
        assert await asyncio.wait_for(uploads.stored(batches), 5) is None
        assert fates.errors == ["state_store_failed: own://2: no"]
        assert (spool.bytes, spool.waiting) == (5, 1)
        never.set()
        await uploads.wait()
        assert await uploads.stored(batches[:1]) == [ItemFile("own://1", 1, 1)]
        assert (fates.errors, spool.bytes, spool.waiting) == (["state_store_failed: own://2: no"], 0, 0)

    asyncio.run(scenario())
