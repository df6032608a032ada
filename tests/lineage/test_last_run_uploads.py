"""Unfinished uploads that a killed run leaves behind: the next run aborts them, and no others."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from crawls import DEADLINE_SECONDS, ITEMS, SPIDER, STATE_OPTIONS, STATES, crawl, run_until, start
from faulty import Fault, Proxy

from scrapy_state.lineage.last_run import abort_unfinished
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.stores import open_writer
from scrapy_state.stores.s3 import S3Writer

LARGE = SPIDER.replace('"n": 1}', '"n": "x" * 6_000_000}') + (
    "\n    from scrapy_state.stores import s3\n    s3.PART_BYTES = 5 * 1024 * 1024\n"
)


def settings_of(bucket: str, aws: dict[str, str]) -> dict[str, Any]:
    at = f"s3://{bucket}"
    feeds = {f"{at}/{ITEMS}": {"format": "jsonlines"}, f"{at}/{STATES}": STATE_OPTIONS}
    return {**aws, "FEEDS": feeds, "LOG_LEVEL": "INFO"}


def uploads(client: Any, bucket: str) -> set[str]:
    """Return the keys of the unfinished uploads."""
    return {each["Key"] for each in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())}


def test_killed_run(tmp_path: Path, bucket: str, s3_client: Any, s3_settings: dict[str, str]) -> None:
    """An upload that a run had begun when it was killed is aborted by the next one; an upload of a run that may be alive is
    left alone."""
    settings = settings_of(bucket, s3_settings)
    with Proxy(s3_settings["AWS_ENDPOINT_URL"], [Fault("time-out", "PUT .*partNumber=2")]) as proxy:
        killed = start(tmp_path, LARGE, "-a", "pages=1", settings={**settings, "AWS_ENDPOINT_URL": proxy.url})
        try:
            run_until(killed, "checkpoint 1 stored")
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not proxy.seen("PUT .*partNumber=2"):
                assert killed.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            killed.kill()
            killed.communicate()
    [left] = uploads(s3_client, bucket)
    folder = left.rpartition("/")[0]
    alive = f"{folder}/20990101T000000-abcdef-00001.jsonl"
    s3_client.create_multipart_upload(Bucket=bucket, Key=alive)
    s3_client.create_multipart_upload(Bucket=bucket, Key="elsewhere")

    run = crawl(tmp_path, LARGE, "-a", "pages=1", settings={**settings, "STATE_READONLY": True})
    assert run.code == 0, run.log
    assert uploads(s3_client, bucket) == {left, alive, "elsewhere"}

    run = crawl(tmp_path, LARGE, "-a", "pages=1", settings=settings)
    assert run.code == 0, run.log
    assert uploads(s3_client, bucket) == {alive, "elsewhere"}
    assert run.lines(f"INFO: aborted an unfinished upload of the last run: s3://{bucket}/{left}")
    assert run.lines("'state/uploads_aborted': 1")
    assert not run.lines("] WARNING")


def test_stored_file(bucket: str, s3_client: Any, s3_settings: dict[str, str]) -> None:
    """An upload under the key of a stored file is left alone: on some servers its parts belong to that file."""
    for name in ("run-1", "run-2"):
        s3_client.create_multipart_upload(Bucket=bucket, Key=f"items/{name}")
    s3_client.put_object(Bucket=bucket, Key="items/run-1", Body=b"")
    store, _ = open_writer(f"s3://{bucket}/", s3_settings)
    assert abort_unfinished([(store, KeyTemplate("items/run-"))]) == 1
    assert uploads(s3_client, bucket) == {"items/run-1"}


def test_not_allowed(
    bucket: str, s3_settings: dict[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the run may not list uploads, a line names the permission, and the run continues; other stores do as well."""
    caplog.set_level(logging.INFO, "scrapy_state.state")
    with Proxy(s3_settings["AWS_ENDPOINT_URL"], [Fault("403", "GET .*uploads")]) as proxy:
        store, _ = open_writer(f"s3://{bucket}/", {**s3_settings, "AWS_ENDPOINT_URL": proxy.url})
        assert abort_unfinished([(store, KeyTemplate("items/run-"))]) == 0
    [record] = caplog.records
    assert record.levelname == "INFO"
    assert "left where they are" in record.getMessage()
    assert "may ListBucketMultipartUploads there" in record.getMessage()
    assert isinstance(store, S3Writer)
    assert abort_unfinished([(open_writer("/tmp/items/", {})[0], KeyTemplate("/tmp/items/run-"))]) == 0
