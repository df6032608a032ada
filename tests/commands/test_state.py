"""The command ``scrapy state`` as a whole: its errors and exit codes, and what it never changes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refused, run
from faulty import Fault, Proxy
from histories import History, state

pytestmark = pytest.mark.long

READING = (
    ("show", "--at", "-1"), ("get",), ("check", "--max-age", "9999d"), ("log",), ("watch", "-n", "1"), ("items", "--cat"),
    ("verify", "--deep"), ("orphans",), ("report", "-o", "-"), ("report", "--json"), ("prune", "--keep", "1", "--dry-run"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        ([], 2, ["<verb>", "scrapy state -h"]),
        (["shout", "x/"], 2, ["shout", "show", "scrapy state -h"]),
        (["show"], 2, ["target", "scrapy state show -h"]),
        (["show", "x/", "--loud"], 2, ["--loud", "scrapy state show -h"]),
        (["show", "flights"], 2, ["'flights'", "scrapy.cfg", "./state/"]),
        (["show", "ftp://host/state/"], 2, ["ftp://host/state/", "s3://"]),
        (["show", "s3://"], 2, ["bucket"]),
        (["show", "nothing/here/"], 1, ["no checkpoint at", "nothing/here"]),
        (["show", "nothing/%(name)s/%(batch_id)010d.json"], 2, ["-a name="]),
        (["show", "nothing/", "--at", "soon"], 2, ["soon", "2026-11-20T10:00"]),
        (["get", "nothing/here/"], 1, ["no checkpoint at"]),
        (["log", "nothing/here/"], 1, ["no checkpoint at"]),
        (["log", "nothing/", "-n", "0"], 2, ["-n", "scrapy state log -h"]),
        (["items", "nothing/here/"], 1, ["no checkpoint at"]),
        (["items", "nothing/", "--cat", "--json"], 2, ["--cat"]),
        (["verify", "nothing/here/"], 1, ["no checkpoint at"]),
        (["verify", "nothing/here/", "-s", "AWS"], 2, ["NAME=VALUE"]),
        (["set", "nothing/here/", "{}"], 2, ["%(batch_id)010d"]),
        (["set", "nothing/%(batch_id)05d.json", "[1]"], 2, ["[1]", "JSON object"]),
        (["set", "nothing/%(batch_id)05d.json", "{'t': 1}"], 2, ["{'t': 1}", "JSON object"]),
        (["set", "nothing/%(batch_id)05d.json", "{}", "--parent", "7"], 2, ["7", "log --checkpoints"]),
        (["copy", "nothing/here/", "there/%(batch_id)05d.json"], 1, ["no checkpoint at"]),
        (["orphans", "nothing/here/"], 1, ["no checkpoint at"]),
        (["check", "nothing/here/"], 2, ["--max-age"]),
        (["check", "nothing/here/", "--max-age", "soon"], 2, ["soon", "12h"]),
        (["report", "nothing/here/", "--json", "-o", "x"], 2, ["--json"]),
        (["prune", "nothing/here/"], 2, ["--keep", "--older-than"]),
        (["prune", "nothing/here/", "--older-than", "soon"], 2, ["soon", "30d"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(tmp_path: Path, arguments: list[str], code: int, texts: list[str]) -> None:
    """If the command can't do something, it prints one line that says what to do, and no trace, and creates nothing."""
    refused(run(tmp_path, *arguments), code, *texts)
    assert list(tmp_path.iterdir()) == []


def test_unreachable_and_forbidden(bucket: str, s3_settings: dict[str, str]) -> None:
    """If a store does not answer or refuses, the exit code is 3: this never counts as "nothing there"."""
    history = History(f"s3://{bucket}/data", s3_settings)
    history.run()
    with Proxy(s3_settings["AWS_ENDPOINT_URL"], [Fault("403", "^GET", count=1000)]) as proxy:
        history.settings["AWS_ENDPOINT_URL"] = proxy.url
        for verb in ("show", "items", "orphans"):
            refused(state(history, verb), 3, "403", "ListBucket")
    history.settings["AWS_ENDPOINT_URL"] = proxy.url  # closed by now
    refused(state(history, "show"), 3, "no answer", "AWS_ENDPOINT_URL")


def test_reading_changes_nothing(bucket: str, s3_settings: dict[str, str]) -> None:
    """The verbs that read send no request that could change anything."""
    history = History(f"s3://{bucket}/data", s3_settings)
    history.run(reason=None)
    history.run()
    with Proxy(s3_settings["AWS_ENDPOINT_URL"]) as proxy:
        history.settings["AWS_ENDPOINT_URL"] = proxy.url
        for verb, *arguments in READING:
            ran = state(history, verb, *arguments)
            assert ran.code == 0, (verb, arguments, ran)
        assert len(proxy.log) > 20
        assert [each.request for each in proxy.log if not each.request.startswith(("GET ", "HEAD "))] == []


def test_outside_a_project(tmp_path: Path) -> None:
    """Scrapy lists the command outside of a project, too."""
    done = subprocess.run([sys.executable, "-m", "scrapy"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.search(r"^  state +Inspect, choose, repair", done.stdout, re.MULTILINE)


def test_light(tmp_path: Path) -> None:
    """Scrapy imports the command whenever one of its own runs, so the command must not import boto3 or rich."""
    code = "import scrapy_state.commands.state, sys; print({'boto3', 'botocore', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
