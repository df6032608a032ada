"""The recipes of docs/operations.md, as far as they can be tried without the platforms."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import crawls
import pytest
import yaml
from crawls import crawl
from doc_pages import block, blocks

PAGE = "docs/operations.md"


def test_the_image() -> None:
    """Each line of the Dockerfile is an instruction, and the command is no shell's, which would keep SIGTERM to itself."""
    lines = block(PAGE, "FROM python").splitlines()
    assert {line.split()[0] for line in lines} <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
    assert [*json.loads(lines[-2].removeprefix("ENTRYPOINT ")), *json.loads(lines[-1].removeprefix("CMD "))][:2] == [
        "scrapy",
        "crawl",
    ]


def test_kubernetes() -> None:
    """The Job starts a new pod after a kill and after 75, not after what someone must look at."""
    spec = yaml.safe_load(block(PAGE, "podFailurePolicy"))["spec"]
    ignore, fail = spec["podFailurePolicy"]["rules"]
    assert ignore["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", [1, 2, 76])
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # otherwise the policy is refused
    [container] = pod["containers"]
    assert container["name"] == fail["onExitCodes"]["containerName"]
    settings = dict(word.split("=") for word in container["args"] if "=" in word)
    assert int(settings["STATE_CLOSE_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_systemd(tmp_path: Path) -> None:
    """systemd accepts the unit, where there is one; it waits longer than the crawl needs for its last checkpoint."""
    text = block(PAGE, "[Service]").replace("/srv/shop/.venv/bin/scrapy", sys.executable)
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    service = unit["Service"]
    assert int(service["ExecStart"].rpartition("=")[2]) < int(service["TimeoutStopSec"])
    assert {"1", "76"} <= set(service["RestartPreventExitStatus"].split())
    if analyze := shutil.which("systemd-analyze"):
        (tmp_path / "books.service").write_text(text)
        ran = subprocess.run([analyze, "verify", tmp_path / "books.service"], capture_output=True, text=True)
        assert "books.service" not in ran.stderr, ran.stderr


def test_lifecycle(s3_client: Any, bucket: str) -> None:
    """S3 accepts the rules, and none of them removes a file that is stored."""
    rules = json.loads(block(PAGE, "AbortIncompleteMultipartUpload"))
    s3_client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
    stored = s3_client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert len(stored) == 2
    assert not any("Expiration" in rule for rule in stored)


@pytest.mark.skipif(not shutil.which("flock"), reason="no flock here")
@pytest.mark.long
def test_cron(tmp_path: Path) -> None:
    """``books.sh new`` begins a crawl; without "new" it goes on with one that is not over, and starts none after it."""
    source = """
import scrapy

class BooksSpider(scrapy.Spider):
    name = "books"

    async def start(self):
        for page in range(3):
            yield scrapy.Request(f"data:,{page}", dont_filter=True)

    def parse(self, response):
        yield {"page": response.text}
"""
    assert crawl(tmp_path, source, settings={"CLOSESPIDER_ITEMCOUNT": 1, "CONCURRENT_REQUESTS": 1}).code == 0
    (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = settings\n")
    (tmp_path / "settings.py").write_text(
        f'SPIDER_MODULES = ["spider"]\nADDONS = {{"scrapy_state.Addon": 500}}\nFEEDS = {crawls.FEEDS!r}\n'
    )
    script = tmp_path / "books.sh"
    script.write_text(block(PAGE, "flock -n").replace("/srv/shop", str(tmp_path)))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": ""}

    def run(*arguments: str) -> str:
        command = ["sh", str(script), *arguments]
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=crawls.DEADLINE_SECONDS * 3, env=environment, check=True
        )
        return ran.stderr

    assert "pending requests" in run()
    assert len(crawls.named_items(tmp_path, "books")) == 3
    assert run() == ""  # it is over
    assert "Spider closed (finished)" in run("new")


def test_crontab() -> None:
    """Each line of the crontab has five fields of time, and a command with an absolute path."""
    [crontab] = [each.text for each in blocks(PAGE) if "books.sh new" in each.text]
    for line in crontab.splitlines()[1:]:
        assert all(set(field) <= set("*/0123456789") for field in line.split()[:5])
        assert line.split()[5].startswith("/")
