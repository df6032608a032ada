"""The commands on the pages: each is one that exists, with options that exist, and those of docs/command.md are run."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import time
from functools import cache
from pathlib import Path

import botocore.session
import commands
import duckdb
import pytest
from crawls import crawl
from doc_pages import Block, block, blocks, state_commands
from scrapy.settings import Settings

from scrapy_state.commands.state import VERBS, Command

CONSOLE = [each for each in blocks() if each.commands]
#: Programs that the pages call, besides our own command. The tests of the tutorial run its commands, others those of theirs.
PROGRAMS = {"scrapy", "python", "pip", "make", "mkdir", "for", "timeout", "grep", "aws", "swift", "cd", "curl"}


@cache
def parser() -> argparse.ArgumentParser:
    command = Command()
    command.settings = Settings()
    found = argparse.ArgumentParser(prog="scrapy state", conflict_handler="resolve")
    command.add_options(found)
    return found


@pytest.mark.parametrize("console", CONSOLE, ids=str)
def test_programs(console: Block) -> None:
    """A command of another program would need a test of its own: see PROGRAMS."""
    for command in console.commands:
        words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=.*", word)]
        assert words[0] in PROGRAMS, command


def test_state_commands() -> None:
    """``scrapy state`` accepts every command line of ours on every page, also within sentences."""
    lines = [line for each in blocks() for line in each.text.splitlines() if re.match(r"(\$ )?scrapy state ", line)]
    found = [words for line in lines for words in state_commands(line)]
    assert len(found) > 30
    for words in found:
        if not words[0].startswith("<"):
            parser().parse_args(words)


def project(folder: Path) -> Path:
    """Make the project of docs/command.md: two runs of the tutorial's ``pages.py``, the first one killed."""
    source = block("docs/tutorial.md", "class PagesSpider").replace(
        '"DOWNLOAD_DELAY": 0.5', '"SPIDER_MODULES": ["spider"], "DOWNLOAD_DELAY": 0.2'
    )
    # At each page a checkpoint, so that those exist which the page names, however fast the machine is
    source = source.replace('"STATE_INTERVAL": 1', '"STATE_INTERVAL": 0')
    killed = "import os, signal\n" + source.replace(
        "        yield {", "        if page == 13:\n            os.kill(os.getpid(), signal.SIGKILL)\n        yield {"
    )
    assert crawl(folder, killed).code != 0
    assert crawl(folder, source).code == 0
    (folder / "scrapy.cfg").write_text("[settings]\ndefault = settings\n")
    (folder / "settings.py").write_text('SPIDER_MODULES = ["spider"]\n')
    (folder / "bucket" / "pages").mkdir(parents=True)
    shutil.copytree(folder / "data" / "state", folder / "bucket" / "pages" / "state")
    (folder / "one.log").write_text('INFO: STATE {"page": 21} from the settings (priority spider)\n')
    return folder


#: The verbs that find nothing, or a problem, in this project, and say so with exit code 1
NOTHING = {"orphans", "frontier", "files", "delta"}


@pytest.mark.long
def test_the_page_of_the_command(tmp_path: Path) -> None:
    """Every ``scrapy state`` command of docs/command.md runs, in the order of the page, on the data that the page is about."""
    folder = project(tmp_path)
    now = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() + 60))
    ran_verbs = set()
    for console in blocks("docs/command.md"):
        for words in (words for command in console.commands for words in state_commands(command)):
            words = [word.replace("s3://bucket/", f"{folder}/bucket/") for word in words]
            words = [now if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]+", word) else word for word in words]
            more = {"watch": ["-n", "1"], "set": ["--yes"], "copy": ["--yes"]}.get(words[0], [])
            ran = commands.run(folder, *words, *more)
            assert ran.code == 0 or (ran.code == 1 and words[0] in NOTHING), f"{console}: {words}\n{ran}"
            assert "Traceback" not in ran.err
            ran_verbs.add(words[0])
    assert ran_verbs == set(VERBS)


@pytest.mark.long
def test_the_manifest_in_duckdb(tmp_path: Path) -> None:
    """The query gets the 20 items of the lineage."""
    folder = project(tmp_path)
    (folder / "manifest.jsonl").write_text(commands.run(folder, "items", "pages", "--manifest").out)
    sql = block("docs/command.md", "SET VARIABLE").replace("'manifest.jsonl'", f"'{folder}/manifest.jsonl'")
    assert duckdb.connect().execute(sql).fetchall() == [(20, 20)]


@pytest.mark.parametrize("console", [each for each in CONSOLE if "aws s3api" in each.text], ids=str)
def test_aws(console: Block) -> None:
    """The operations of S3 on the pages exist, and so do their parameters."""
    model = botocore.session.get_session().get_service_model("s3")
    for command in console.commands:
        _, _, operation, *words = shlex.split(command)
        shape = model.operation_model("".join(word.capitalize() for word in operation.split("-"))).input_shape
        assert shape is not None
        for word in (word for word in words if word.startswith("--")):
            name = "".join(part.capitalize() for part in word.removeprefix("--").split("-"))
            assert name.replace("Acl", "ACL") in shape.members, command
