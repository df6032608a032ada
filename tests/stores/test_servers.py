"""Crawls on real S3 servers, OpenStack Swift and Ceph RGW."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos import Scenario, run
from commands import run as run_command
from crawls import crawl, crawl_until
from server_buckets import ENDLESS, MIN_PART_BYTES, SPIDER, Bucket

from scrapy_state.exceptions import KeyTaken
from scrapy_state.stores import s3

schemes = pytest.mark.parametrize("scheme", ["http", "https"])


@schemes
def test_crawl_and_resume(tmp_path: Path, bucket_at: Callable[[str], Bucket], scheme: str) -> None:
    """A run starts where the last one ended; also over https, with AWS_CA_BUNDLE and boto's checksum trailers."""
    bucket = bucket_at(scheme)
    for number in (1, 2):
        outcome = crawl(tmp_path, SPIDER, settings=bucket.settings)
        assert outcome.code == 0, outcome.log
        report = bucket.report()
        assert report.wrong == []
        assert report.state == {"page": 3 * number + 1}
    assert outcome.lines("a second writer there is detected, not prevented")
    assert not [line for line in outcome.lines("] WARNING") if "is not stored yet" not in line]  # a busy server
    assert not outcome.lines("] ERROR")


KILLS = ("kill", "opening", "kill")


@pytest.mark.parametrize(
    ("scheme", "scenario"),
    [
        ("http", Scenario(31, "confirm", "async", True, True, 4, "", s3=True, pages=12, ends=KILLS)),
        ("https", Scenario(32, "early", "sync", True, False, 3, "class", 0.05, s3=True, pages=15, ends=KILLS)),
    ],
    ids=["http", "https"],
)
def test_no_kill_loses_or_doubles_an_item(
    tmp_path: Path, bucket_at: Callable[[str], Bucket], scheme: str, scenario: Scenario
) -> None:
    """However a run ends, every checkpoint names exactly the items before its state, and the last run completes them."""
    bucket = bucket_at(scheme)
    outcome = run(scenario, tmp_path, bucket.name, bucket.client, bucket.endpoint.settings)
    print(f"{scenario}\n{outcome}\nthe logs: {tmp_path}/*.log")
    assert not outcome.wrong
    assert outcome.kills == len(scenario.ends)


@schemes
def test_several_parts(
    tmp_path: Path, bucket_at: Callable[[str], Bucket], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of several parts is stored complete, once, and never over another file; no upload is left open."""
    bucket = bucket_at(scheme)
    settings = {**bucket.settings, "STATE_INTERVAL": 1000}
    outcome = crawl(tmp_path, SPIDER, "-a", f"size={1024 * 1024}", settings=settings)
    assert outcome.code == 0, outcome.log
    report = bucket.report()
    assert report.wrong == []
    assert report.state == {"page": 4}
    [(key, etag)] = [each for each in bucket.etags().items() if each[0].startswith("items/")]
    assert etag.endswith('-2"')

    monkeypatch.setattr(s3, "PART_BYTES", MIN_PART_BYTES)
    stored = bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()
    assert len(stored) > MIN_PART_BYTES
    assert [json.loads(line)["key"] for line in stored.splitlines()] == ["1-0", "1-1", "2-0", "2-1", "3-0", "3-1"]
    writer = bucket.writer()
    writer.create(key, io.BytesIO(stored))  # as after a lost reply
    with pytest.raises(KeyTaken):
        writer.create(key, io.BytesIO(stored[::-1]))
    assert bucket.etags()[key] == etag
    assert not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")


@pytest.mark.campaign
def test_commands(tmp_path: Path, bucket_at: Callable[[str], Bucket]) -> None:
    """``scrapy state`` shows, checks, prunes and copies what is stored there, and deletes a killed run's orphan."""
    bucket = bucket_at("http")
    settings = {**bucket.settings, "SPIDER_MODULES": ["spider"]}
    crawl_until(tmp_path, "checkpoint 4 stored", SPIDER, *ENDLESS, settings=settings)
    killed = bucket.report().checkpoints[-1]["run"]
    orphan = f"items/{killed}-99999.jsonl"
    bucket.client.put_object(Bucket=bucket.name, Key=orphan, Body=b"{}\n")
    second = crawl(tmp_path, SPIDER, settings=settings)
    assert second.lines(f"orphan of the last run: s3://{bucket.name}/{orphan}"), second.log
    shown = json.dumps(bucket.report().state)

    def state(*arguments: str, code: int = 0) -> str:
        ran = run_command(tmp_path, *arguments, environment={"SCRAPY_SETTINGS_MODULE": "project_settings"})
        assert ran.code == code, ran
        return ran.out

    assert orphan in state("orphans", "numbers", code=1)
    state("orphans", "numbers", "--delete", "--yes")
    assert orphan not in bucket.etags()
    state("prune", "numbers", "--keep", "1")
    left = [key for key in bucket.etags() if key.startswith("state/")]
    assert len(left) == 2, left  # the newest, and the archive of the others
    assert "all right" in state("verify", "numbers", "--deep")
    assert killed in state("log", "numbers")
    assert shown in state("show", "numbers")
    other = f"s3://{bucket.name}/other/"
    state("copy", "numbers", f"{other}%(batch_id)010d.json", "--yes")
    assert shown in state("show", other)
