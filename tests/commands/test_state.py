"""The command ``scrapy state``, from outside: what it prints, its exit codes, what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import DEADLINE_SECONDS, Ran, read_terminal, run, start
from crawls import FEEDS, SPIDER, STATE_OPTIONS, STATES, crawl
from faulty import Fault, Proxy
from histories import History, state, zipped

from scrapy_state.model.checkpoint import Checkpoint

pytestmark = pytest.mark.long

READING = (
    ("show", "--at", "-1"), ("get",), ("log",), ("watch", "-n", "1"), ("items", "--cat"), ("verify", "--deep"), ("orphans",),
    ("report", "-o", "-"),
)  # fmt: skip


def refused(ran: Ran, code: int, *texts: str) -> None:
    """It ended with *code*, and one line that has *texts*."""
    assert ran.code == code, ran
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1, ran.err
    assert "Traceback" not in ran.err
    for text in texts:
        assert text in ran.err


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose spider has stored something."""
    folder = tmp_path_factory.mktemp("project")
    done = crawl(folder, SPIDER, "-a", "pages=2", settings={"SPIDER_MODULES": ["spider"], "STATE_INTERVAL": 0})
    assert done.code == 0, done.log
    return folder


@pytest.fixture
def environment() -> dict[str, str]:
    """The project's settings are those that :func:`crawls.crawl` has written."""
    return {"SCRAPY_SETTINGS_MODULE": "project_settings"}


class TestTargets:
    def test_every_way_to_name_it(self, project: Path, environment: dict[str, str]) -> None:
        """A spider's name, its file, the state feed's URI, a path and a bare prefix mean the same checkpoints."""
        by_name = run(project, "show", "numbers", environment=environment)
        assert by_name.code == 0, by_name.err
        assert by_name.out.startswith('STATE {"page": 2} from checkpoint ')
        folder = project / "data" / "numbers" / "state"
        for target in ("spider.py", f"{folder}/", f"file://{folder}/%(batch_id)010d.json", "data/numbers/state/"):
            found = run(project, "show", target, environment=environment)
            assert _without_age(found.out) == _without_age(by_name.out), target
        assert run(project, "get", "-a", "name=numbers", "data/%(name)s/state/%(batch_id)010d.json").out == '{"page": 2}\n'

    def test_what_a_run_says(self, project: Path, environment: dict[str, str]) -> None:
        """``show`` says what a run then logs, with --at and --lag too: it is the same resolver."""
        older = ["-s", "STATE_AT=-1", "-s", 'STATE_LAG={"page": 1}']
        for arguments, given in (([], []), (["--at", "-1", "--lag", '{"page": 1}'], older)):
            shown = run(project, "show", "numbers", *arguments, environment=environment)
            states = {"FEEDS": {STATES: STATE_OPTIONS}, "STATE_READONLY": True}
            settings = {"SPIDER_MODULES": ["spider"], **states, "STATE_INTERVAL": 0}
            done = crawl(project, SPIDER, *given, settings=settings)
            [line] = done.lines(" INFO: STATE ")
            assert _without_age(line).endswith(_without_age(shown.out.strip())), line

    def test_custom_settings_and_arguments(self, tmp_path: Path) -> None:
        """The spider's custom_settings count, and its arguments fill the URI's placeholders."""
        source = f"{SPIDER}\n    custom_settings = {{'FEEDS': {FEEDS!r}, 'STATE': {{'page': 7}}}}\n"
        source = source.replace("%(name)s/state", "%(region)s/state")
        crawl(tmp_path, source, "-a", "region=CA", settings={"SPIDER_MODULES": ["spider"], "FEEDS": {}})
        environment = {"SCRAPY_SETTINGS_MODULE": "project_settings"}
        assert run(tmp_path, "get", "numbers", "-a", "region=CA", environment=environment).out == '{"page": 10}\n'
        fresh = run(tmp_path, "show", "numbers", "-a", "region=NY", environment=environment)
        assert (fresh.code, fresh.out) == (0, 'STATE {"page": 7} from the settings (priority spider)\n')
        refused(run(tmp_path, "show", "numbers", environment=environment), 2, "%(region)s", "-a region=")

    def test_only_as_deep(self, history: History) -> None:
        """A folder stands for the files right in it: what lies below is not walked through, and is named in one line."""
        history.run()
        folder = Path(history.where)
        refused(run(folder, "get", f"{folder}/"), 2, f"{folder}/", "in folders below it", "items/")
        (folder / "0000000001.json").write_text('[{"state": {"page": 7}}]')
        assert run(folder, "get", f"{folder}/").out == '{"page": 7}\n'

    def test_no_such_spider(self, project: Path, environment: dict[str, str]) -> None:
        """A name that is no spider's: the message has those there are, and what a URI looks like."""
        refused(run(project, "show", "nobody", environment=environment), 2, "'nobody'", "numbers", "s3://")

    def test_broken_project(self, tmp_path: Path) -> None:
        """A spider module that can't be imported is one line."""
        (tmp_path / "spider.py").write_text("import nowhere")
        (tmp_path / "project_settings.py").write_text('SPIDER_MODULES = ["spider"]')
        environment = {"SCRAPY_SETTINGS_MODULE": "project_settings"}
        refused(run(tmp_path, "show", "numbers", environment=environment), 2, "ModuleNotFoundError", "nowhere")
        refused(run(tmp_path, "show", "spider.py"), 2, "spider.py", "nowhere")

    def test_validate_state(self, tmp_path: Path) -> None:
        """The project's own hooks are asked as by a run: validate_state() by ``set``, change_state() by ``show``."""
        source = SPIDER + (
            "\nfrom scrapy_state import StateResolver\n"
            "class Strict(StateResolver):\n"
            "    def validate_state(self, state, spider):\n"
            "        if 'page' not in state: raise ValueError('no page')\n"
            "    def change_state(self, state):\n"
            "        return {'page': 8 // state['page']} if state else {'page': 1}\n"
        )
        crawl(tmp_path, source, settings={"SPIDER_MODULES": ["spider"], "EXTENSIONS": {"spider.Strict": 10}})
        environment = {"SCRAPY_SETTINGS_MODULE": "project_settings"}
        refused(run(tmp_path, "set", "numbers", '{"pag": 3}', environment=environment), 2, "ValueError: no page")
        assert run(tmp_path, "set", "numbers", '{"page": 3}', environment=environment).code == 0
        assert run(tmp_path, "get", "numbers", environment=environment).out == '{"page": 2}\n'
        assert run(tmp_path, "set", "numbers", '{"page": 0}', environment=environment).code == 0
        refused(run(tmp_path, "show", "numbers", environment=environment), 2, "refuses to start from", "ZeroDivisionError")


def _without_age(line: str) -> str:
    return re.sub(r", [^,()]* old\)", ")", line)


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
        (["prune", "nothing/here/"], 2, ["--keep", "--older-than"]),
        (["prune", "nothing/here/", "--older-than", "soon"], 2, ["soon", "30d"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(tmp_path: Path, arguments: list[str], code: int, texts: list[str]) -> None:
    """What can't be done is one line that says what to do, without a trace, and an exit code; nothing is made."""
    refused(run(tmp_path, *arguments), code, *texts)
    assert list(tmp_path.iterdir()) == []


def test_unreachable_and_forbidden(bucket: str, s3_settings: dict[str, str]) -> None:
    """A store that does not answer or refuses is exit code 3, and never "nothing there"."""
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


class TestLog:
    def test_runs(self, place: History) -> None:
        """Each run is a line: ids, run, job, items, how it ended, state; the newest first."""
        killed, finished = place.run(3, reason=None), place.run(2)
        rows = [line.split("\t") for line in state(place, "log").out.splitlines()]
        assert [[row[0], row[1], *row[3:]] for row in rows] == [
            ["*", "5-7", finished, "1/2/3", "5 (+2)", "finished", '{"page": 5}'],
            ["*", "1-4", killed, "1/2/3", "3", "killed", '{"page": 3}'],
        ]

    def test_branches(self, history: History) -> None:
        """A run that began at an older checkpoint is a branch of its own, which the tree shows."""
        first, other, newest = history.run(3), history.run(2), history.run(1, reason=None, at=2)
        found = state(history, "log").out.splitlines()
        assert [line.split("\t")[0] for line in found] == ["*", "| o", "|/", "*"]
        assert [line.split("\t")[1] for line in found] == ["8-9 (after 2)", "5-7", "", "1-4"]
        assert "running or killed" in found[0]
        runs = state(history, "log", "--json").json
        assert [(each["run"], each["parent_id"], each["parent_run"], each["in_lineage"]) for each in runs] == [
            (newest, 2, first, True), (other, 4, first, False), (first, None, None, True),
        ]  # fmt: skip
        assert [each["may_be_alive"] for each in runs] == [True, False, False]

    def test_newest_only(self, history: History) -> None:
        """``-n`` shows only so many; ``--checkpoints`` shows each."""
        for _ in range(3):
            history.run(2)
        assert len(state(history, "log", "-n", "2").out.splitlines()) == 2
        ids = [line.split("\t")[0] for line in state(history, "log", "--checkpoints", "-n", "4").out.splitlines()]
        assert ids == ["9", "8", "7", "6"]
        assert [each["id"] for each in state(history, "log", "--checkpoints", "--json").json] == [*range(9, 0, -1)]

    def test_damaged(self, history: History) -> None:
        """A file that is no checkpoint is named, with why; the rest is shown."""
        history.run(3)
        history.replace(2, b"torn")
        ran = state(history, "log", "--checkpoints")
        assert [line[0] for line in ran.out.splitlines()] == ["4", "3", "1"]
        assert "0000000002.json is skipped: it is not whole JSON" in ran.err


class TestSet:
    def test_set(self, place: History) -> None:
        """A checkpoint by hand is a child of the newest, marked, valid, and what a run then starts from."""
        place.run(2)
        ran = state(place, "set", '{"page": 1}')
        assert ran.code == 0, ran.err
        assert 'checkpoint 4 stored: STATE {"page": 1}' in ran.out
        made = state(place, "log", "--checkpoints", "--json").json[0]
        assert (made["id"], made["parent"], made["reason"], made["overlap"], made["items"]) == (4, 3, "set", True, 2)
        assert state(place, "get").out == '{"page": 1}\n'
        assert state(place, "verify").code == 0

    def test_parent(self, history: History) -> None:
        """``--parent`` says whose child it is."""
        history.run(3)
        assert state(history, "set", '{"page": 1}', "--parent", "2", "--json").json["checkpoint"]["parent"] == 2
        assert len(state(history, "items").out.splitlines()) == 1

    def test_run_that_may_be_alive(self, history: History) -> None:
        """Where a run may be alive, which it would stop, it asks; where nobody answers it does nothing without ``--yes``."""
        history.run(1, reason=None)
        refused(state(history, "set", '{"page": 9}'), 2, "state_conflict", "--yes")
        assert state(history, "get").out == '{"page": 1}\n'
        assert state(history, "set", '{"page": 9}', "--yes").code == 0
        assert state(history, "get").out == '{"page": 9}\n'

    def test_bare_prefix(self, history: History) -> None:
        """By the folder alone it takes the next number there, in the form that the names there have."""
        history.run(1)
        assert run(Path("/"), "set", f"{history.where}/state/", '{"page": 5}').code == 0
        assert history.state_names()[-1] == "0000000003.json"

    def test_first(self, history: History) -> None:
        """Where there is none yet it is the first."""
        assert state(history, "set", '{"page": 5}').code == 0
        assert history.state_names() == ["0000000001.json"]

    def test_copy(self, tmp_path: Path, bucket: str, s3_settings: dict[str, str]) -> None:
        """A checkpoint of one store is copied to another kind of store: its state, and where it is from."""
        source, target = History(f"s3://{bucket}/data", s3_settings), History(str(tmp_path / "dev"), s3_settings)
        source.run(3)
        target.run(1)
        ran = state(source, "copy", target.uri)
        assert ran.code == 0, ran.err
        made = state(target, "log", "--checkpoints", "--json").json[0]
        assert (made["id"], made["parent"], made["state"], made["items"]) == (3, 2, {"page": 3}, 1)
        assert made["copied_from"]["uri"].startswith(f"s3://{bucket}/data/state/")
        assert state(source, "copy", target.uri, "--at", "2").code == 0
        assert state(target, "get").out == '{"page": 1}\n'


class TestItems:
    def test_lineage(self, place: History) -> None:
        """The files of the lineage, oldest first, as they are in the store; the items are those of the lineage, in order."""
        for each in (2, 3):
            place.run(each, pages=2)
        place.run(1, at=3, pages=2)
        uris = state(place, "items").out.split()
        assert [uri.rpartition("-")[2] for uri in uris] == ["00001.jsonl", "00002.jsonl", "00001.jsonl"]
        cat = state(place, "items", "--cat")
        assert [json.loads(line)["page"] for line in cat.out.splitlines()] == [0, 1, 2, 3, 4, 5]
        assert [json.loads(line)["page"] for line in state(place, "items", "--cat", "--at", "7").out.splitlines()] == [
            *range(10)
        ]

    def test_formats(self, history: History) -> None:
        """Skipped items are left out, of compressed files too; a CSV header stands once; lists become lines."""
        lines, rows, listed = (
            b'{"n": 0}\n{"n": 1}\n{"n": 2}\n',
            b'n,t\r\n0,"a\r\n""b"""\r\n1,c\r\n',
            b'[\n{"n": 0},\n{"n": "]}, "}\n]',
        )
        history.named(
            history.file("1.jsonl", lines, 3, [(1, 2)]), history.file("2.jsonl.gz", zipped(lines), 3, [(0, 1), (2, 3)])
        )
        assert state(history, "items", "--cat").out == '{"n": 0}\n{"n": 2}\n{"n": 1}\n'
        history.named(history.file("1.csv", rows, 2, [(0, 1)]), history.file("2.csv.gz", zipped(rows), 2))
        history.named(history.file("1.json", listed, 2), history.file("2.json", listed, 2, [(0, 1)]))
        refused_of_two = state(history, "items", "--cat")
        assert refused_of_two.code == 2
        assert "--only" in refused_of_two.err
        found = state(history, "items", "--cat", "--only", "*.csv*")
        assert found.out.replace("\r\n", "\n") == 'n,t\n1,c\n0,"a\n""b"""\n1,c\n'
        assert state(history, "items", "--cat", "--only", "*.json").out == '{"n": 0}\n{"n": "]}, "}\n{"n": "]}, "}\n'

    def test_flagged(self, history: History) -> None:
        """A file with skipped items is flagged, and the manifest says which."""
        history.named(history.file("1.jsonl", b"{}\n{}\n", 2, [(1, 2)]), history.file("2.jsonl", b"{}\n", 1))
        ran = state(history, "items")
        assert len(ran.out.splitlines()) == 2
        assert "1 of the 2 items in" in ran.err
        assert "1.jsonl" in ran.err
        lines = [json.loads(line) for line in state(history, "items", "--manifest").out.splitlines()]
        assert [(each["items"], each["bytes"], each["skip"]) for each in lines] == [(2, 6, [[1, 2]]), (1, 3, [])]
        assert state(history, "items", "--json").json == lines

    @pytest.mark.parametrize(
        ("name", "content", "text"),
        [
            ("1.jsonl", b"{}\n", "has 1 items, the checkpoint says 2"),
            ("1.jsonl.gz", zipped(b"{}\n{}\n")[:-9], "can't be read"),
            ("1.json", b"[{}, {}", "can't be read"),
            ("1.csv", b'a\r\n"1\r\n2\r\n', "can't be read"),
        ],
    )
    def test_not_what_it_should_be(self, history: History, name: str, content: bytes, text: str) -> None:
        """What is not the exact data set ends with an error that names the file."""
        history.named(history.file(name, content, 2))
        ran = state(history, "items", "--cat")
        assert ran.code == 1
        assert name in ran.err
        assert text in ran.err
        assert "Traceback" not in ran.err

    def test_moved(self, history: History, tmp_path: Path) -> None:
        """``--map`` finds files that were moved; without it the error says so."""
        history.run(2)
        (tmp_path / "data" / "items").rename(tmp_path / "elsewhere")
        ran = state(history, "items", "--cat")
        assert ran.code == 1
        assert "--map" in ran.err
        moved = f"{tmp_path}/data/items/={tmp_path}/elsewhere/"
        assert len(state(history, "items", "--cat", "--map", moved).out.splitlines()) == 2
        assert state(history, "verify").code == 1
        assert state(history, "verify", "--deep", "--map", moved).code == 0

    def test_parent_gone(self, history: History) -> None:
        """Where a parent is not there the list is not whole: exit code 1, and it says which."""
        history.run(3)
        history.store.delete(history.template.key(2))
        ran = state(history, "items")
        assert ran.code == 1
        assert len(ran.out.splitlines()) == 2
        assert "checkpoint 2 is missing" in ran.err

    def test_flat_memory(self, history: History) -> None:
        """``--cat`` of 100 MB takes hardly more memory than of 4 MB."""
        content = (b'{"text": "%s"}\n' % (b"x" * 1000)) * 4000
        file = history.file("1.jsonl", content, 4000)
        history.named(file)
        history.named(*[file] * 25)
        given = [sys.executable, "-c", _PEAK, "scrapy", "state", "items", history.uri, "--cat"]
        done = subprocess.run(given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, text=True)
        few = subprocess.run([*given, "--at", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, text=True)
        assert int(done.stderr) - int(few.stderr) < 16_000, "kB"


#: Runs a command line and says on stderr how much memory it had at most, in kB
_PEAK = """
import atexit, resource, sys
from scrapy.cmdline import execute
atexit.register(lambda: sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)))
execute(sys.argv[1:])
"""


class TestVerify:
    def test_all_right(self, place: History) -> None:
        """A whole lineage is all right, with what was counted."""
        place.run(2, pages=3)
        ran = state(place, "verify", "--deep")
        assert (ran.code, ran.err) == (0, "")
        assert re.fullmatch(r"3 checkpoints, 2 files \(\d+ bytes\), 6 items, counted in 2 files: all right\n", ran.out)
        assert state(place, "verify", "--json").json["items"] == 6

    @pytest.mark.parametrize(
        ("harm", "text", "deep"),
        [
            (lambda history, key: history.store.delete(key), "is not there; checkpoint 3 names it", False),
            (lambda history, key: _change(history, key, b""), "fewer", False),
            (lambda history, key: _change(history, key, b'{"page": 1}\n{"page": 1}\n'), "more", False),
            (lambda history, key: _change(history, key, b'{"page":\n}1\n'), "has 2 items, the checkpoint says 1", True),
        ],
        ids=["gone", "shorter", "longer", "another number of items"],
    )
    def test_files(self, history: History, harm: Callable[[History, str], None], text: str, deep: bool) -> None:
        """A file that is gone, has another size, or (``--deep``) another number of items is named: exit code 1."""
        history.run(3)
        harm(history, history.item_keys()[1])
        ran = state(history, "verify", *(["--deep"] if deep else []))
        assert ran.code == 1, ran
        assert text in ran.out
        assert "-00002.jsonl" in ran.out
        assert "1 wrong" in ran.out
        assert len(state(history, "verify", "--json", *(["--deep"] if deep else [])).json["problems"]) == 1

    def test_checkpoints(self, history: History) -> None:
        """A parent that is gone, damaged, or not the one its child names, and a wrong sum of items, are named."""
        history.run(5)
        history.store.delete(history.template.key(2))
        assert "0000000002.json is missing; it is the parent of checkpoint 3" in state(history, "verify").out
        history.replace(4, Checkpoint({"page": 9}, id=4).to_bytes())
        assert "not the parent that checkpoint 5 names" in state(history, "verify").out
        history.replace(4, b"torn")
        assert "the lineage breaks off" in state(history, "verify").out
        history.put(Checkpoint({}, id=7, parent=1, items=3))
        assert "counts 3 items" in state(history, "verify").out


def _change(history: History, key: str, content: bytes) -> None:
    import io

    history.store.delete(key)
    history.store.create(key, io.BytesIO(content))


class TestOrphans:
    def test_found_and_deleted(self, place: History) -> None:
        """What runs that are over left unnamed, on any branch, is found and deleted; nothing else is."""
        killed = place.run(2, reason=None)
        place.run(2, at=2)
        place.run(1)
        last = place.run(1, reason=None)
        orphan = place.file(f"{killed}-00003.jsonl", b"{}\n", 1).uri
        place.file(f"{last}-00002.jsonl", b"{}\n", 1)  # of a run that may be alive
        place.file("20260101T000000-aaaaaa-00001.jsonl", b"{}\n", 1)  # from before the first checkpoint
        place.file("20261231T000000-bbbbbb-00001.jsonl", b"{}\n", 1)  # of a run that isn't known: another spider's
        place.file(f"{killed}-debug.jsonl", b"{}\n", 1)  # of a feed that takes no part
        before = place.item_keys()
        ran = state(place, "orphans")
        assert (ran.code, ran.out) == (1, f"{orphan}\n"), ran.err
        assert f"run {last} is left out: it may be alive" in ran.err
        refused_without_yes = state(place, "orphans", "--delete")
        assert refused_without_yes.code == 2
        assert "--yes" in refused_without_yes.err
        assert place.item_keys() == before
        assert state(place, "orphans", "--delete", "--yes").code == 0
        assert [place.store.uri(key) for key in before if key not in place.item_keys()] == [orphan]
        assert state(place, "orphans").code == 0

    def test_of_a_spider(self, project: Path, environment: dict[str, str]) -> None:
        """By a spider's name, FEEDS says where to look: also where no file was ever named."""
        feeds = {uri.replace("data/", "other/"): options for uri, options in FEEDS.items()}
        settings = {"ADDONS": {"scrapy_state.Addon": 500}, "SPIDER_MODULES": ["spider"], "FEEDS": feeds}
        (project / "other_settings.py").write_text("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
        history = History(str(project / "other" / "numbers"))
        killed = history.run(0, reason=None)
        history.run(0)
        orphan = history.file(f"{killed}-00001.jsonl", b"{}\n", 1).uri
        assert state(history, "orphans").out == ""
        found = run(project, "orphans", "numbers", environment={"SCRAPY_SETTINGS_MODULE": "other_settings"})
        assert (found.code, found.out) == (1, f"{orphan}\n"), found.err

    def test_after_the_last_state(self, history: History) -> None:
        """What a run that ended stored after its last state is the user's: it is told of, and never deleted."""
        ended, killed = history.run(2, reason="shutdown"), history.run(2, reason=None)
        history.run(1)
        kept, orphan = (history.file(f"{run}-00003.jsonl", b"{}\n", 1).uri for run in (ended, killed))
        history.file(f"{killed}-7.jsonl", b"{}\n", 1)  # made otherwise: its number has not five digits
        ran = state(history, "orphans", "--delete", "--yes")
        assert (ran.code, ran.out) == (0, f"{orphan}\n")
        assert f"{kept} is no orphan: run {ended} ended, and stored it after its last state" in ran.err
        assert len(history.item_keys()) == 7
        ran = state(history, "orphans", "--json")
        assert (ran.code, ran.json) == (0, [])

    def test_moved(self, project: Path) -> None:
        """In a project that was renamed, named files and those of a feed that takes no part are no orphans."""
        place = "{folder}/%(name)s/items/%(run_id)s-"
        feeds: dict[str, Any] = {
            f"{place}%(batch_id)05d.jsonl": {"format": "jsonlines"},
            f"{place}00009.jsonl": {"format": "jsonlines", "checkpoint": False},
            "{folder}/%(name)s/state/%(batch_id)010d.json": STATE_OPTIONS,
        }
        feeds = {uri.replace("{folder}", str(project / "moved")): options for uri, options in feeds.items()}
        settings = {"ADDONS": {"scrapy_state.Addon": 500}, "SPIDER_MODULES": ["spider"], "FEEDS": feeds}
        (project / "moved_settings.py").write_text("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
        history = History(str(project / "before" / "numbers"))
        killed, renamed = history.run(2, reason=None), history.run(2, reason=None)
        history.run(1)
        for name in ("00003", "00009"):
            history.file(f"{killed}-{name}.jsonl", b"{}\n", 1)
        for number in (1, 2):
            path = Path(history.items_key) / f"{renamed}-{number:05d}.jsonl"
            path.rename(path.with_name(f"{renamed}-1{number:05d}.jsonl"))
        (project / "before").rename(project / "moved")
        environment = {"SCRAPY_SETTINGS_MODULE": "moved_settings"}
        before = History(str(project / "moved" / "numbers")).item_keys()
        ran = run(project, "orphans", "numbers", "--delete", "--yes", environment=environment)
        assert ran.code == 0, ran.err
        [orphan] = set(before) - set(History(str(project / "moved" / "numbers")).item_keys())
        assert orphan.endswith(f"{killed}-00003.jsonl")
        assert f"run {renamed} is left out of {Path(orphan).parent.as_uri()}/" in ran.err

    @pytest.mark.parametrize("harm", [lambda history: history.store.delete(history.template.key(2)),
                                      lambda history: history.replace(2, b"torn")], ids=["gone", "damaged"])  # fmt: skip
    def test_no_telling(self, history: History, harm: Callable[[History], None]) -> None:
        """Where a state file is gone or damaged there is no telling what it named: its run's files are no orphans."""
        history.run(2)
        history.run(1)
        harm(history)
        ran = state(history, "orphans", "--delete", "--yes")
        assert ran.out == ""
        assert "left out" in ran.err or "nobody knows which files it names" in ran.err
        assert len(history.item_keys()) == 3


class TestWatch:
    def test_new_checkpoints(self, history: History, tmp_path: Path) -> None:
        """Each new checkpoint is a line as soon as it is there, with the rates."""
        history.run(2)
        process, _ = start(tmp_path, "watch", history.uri, "--every", "0.05", "-n", "3", stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert b"checkpoint 3 (" in process.stdout.readline()
            history.run(1)
            seen = process.stdout.read().decode().splitlines()
            process.stdout.close()
            assert [line.split(" (")[0] for line in seen] == ["checkpoint 4", "checkpoint 5"]
            assert "items/min" in seen[0]
            assert process.wait(DEADLINE_SECONDS) == 0
        finally:
            process.kill()
            process.wait()

    def test_json(self, history: History) -> None:
        """``--json`` is a line of JSON for each."""
        history.run(2)
        found = state(history, "watch", "--json", "-n", "1").json
        assert (found["id"], found["state"]) == (3, {"page": 2})
        assert found["items_per_minute"] >= 0


class TestFromLog:
    LOG = b"""2026-11-20 23:00:00 [scrapy_state.state] INFO: STATE {"page": 1} from the settings (priority default)
2026-11-20 23:01:00 [scrapy_state.state] INFO: checkpoint 2 stored: STATE {"page": 7}, items: 6, files: 1, seconds: 0.003
2026-11-20 23:02:00 [scrapy_state.state] DEBUG: state item {"page": 9}
"""

    def test_last_state(self, tmp_path: Path) -> None:
        """The last state that is safe to go on from, of the last log that has one; compressed ones too."""
        (tmp_path / "1.log").write_bytes(self.LOG)
        (tmp_path / "2.log.gz").write_bytes(zipped(self.LOG.replace(b'"page": 7', b'"page": 8')))
        (tmp_path / "3.log").write_text("nothing here")
        assert run(tmp_path, "from-log", "1.log").out == '{"page": 7}\n'
        assert run(tmp_path, "from-log", "1.log", "2.log.gz", "3.log").out == '{"page": 8}\n'
        refused(run(tmp_path, "from-log", "3.log"), 1, "no state", "3.log")
        refused(run(tmp_path, "from-log", "4.log"), 2, "4.log")

    @pytest.mark.parametrize("content", [LOG, zipped(LOG)], ids=["plain", "gzip"])
    def test_stdin(self, tmp_path: Path, content: bytes) -> None:
        """``-`` is the standard input."""
        process, _ = start(tmp_path, "from-log", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, _ = process.communicate(content, DEADLINE_SECONDS)
        assert (process.returncode, out) == (0, b'{"page": 7}\n')


class TestTerminal:
    def test_table(self, history: History, tmp_path: Path) -> None:
        """On a terminal there is a table with a heading and colour; elsewhere there are none."""
        history.run(2)
        process, terminal = start(tmp_path, "log", history.uri, terminal=True)
        shown = read_terminal(terminal)
        assert process.wait(DEADLINE_SECONDS) == 0
        os.close(terminal)
        assert "\x1b[1m" in shown
        assert "began (UTC)" in shown
        assert "finished" in shown
        assert "\x1b" not in state(history, "log").out

    def test_asks(self, history: History, tmp_path: Path) -> None:
        """On a terminal it asks before it deletes; only "y" is a yes."""
        killed = history.run(2, reason=None)
        history.run(1)
        history.file(f"{killed}-00009.jsonl", b"{}\n", 1)
        for answer, code in ((b"\n", 1), (b"y\n", 0)):
            process, terminal = start(tmp_path, "orphans", "--delete", history.uri, terminal=True)
            assert "Delete 1 file?" in read_terminal(terminal, "[y/N]")
            assert len(history.item_keys()) == 4
            os.write(terminal, answer)
            read_terminal(terminal)
            assert process.wait(DEADLINE_SECONDS) == code
            os.close(terminal)
        assert len(history.item_keys()) == 3

    def test_interrupted(self, history: History, tmp_path: Path) -> None:
        """Ctrl-C ends it with one line and exit code 130, without a trace."""
        history.run(1)
        process, terminal = start(tmp_path, "watch", history.uri, terminal=True)
        assert "a minute" in read_terminal(terminal, "a minute")
        process.send_signal(signal.SIGINT)
        shown = read_terminal(terminal)
        assert process.wait(DEADLINE_SECONDS) == 130
        os.close(terminal)
        assert "stopped" in shown
        assert "Traceback" not in shown

    def test_head(self, history: History, tmp_path: Path) -> None:
        """A reader that has seen enough (``| head``) is no error to tell of."""
        history.named(*[history.file("1.jsonl", b'{"n": 0}\n' * 1000, 1000)] * 200)
        process, _ = start(tmp_path, "items", "--cat", history.uri, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'{"n": 0}\n'
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(DEADLINE_SECONDS) == 141


def test_outside_a_project(tmp_path: Path) -> None:
    """Scrapy lists the command outside of a project, and each of its commands still starts."""
    done = subprocess.run([sys.executable, "-m", "scrapy"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.search(r"^  state +Inspect, choose, repair", done.stdout, re.MULTILINE)


def test_light(tmp_path: Path) -> None:
    """Scrapy imports the command with each of its own, so that it must not import boto3 or rich."""
    code = "import scrapy_state.commands.state, sys; print({'boto3', 'botocore', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
