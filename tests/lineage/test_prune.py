"""``scrapy state prune``: fewer state files, and nothing of the lineage is lost, whenever it is killed."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pytest
from commands import DEADLINE_SECONDS, run
from crawls import SPIDER
from crawls import start as start_crawl
from histories import History, state

from scrapy_state.exceptions import CheckpointError, StoreRefused
from scrapy_state.lineage import prune as prune
from scrapy_state.lineage.archive import Rollups, pack
from scrapy_state.lineage.chain import lineage
from scrapy_state.lineage.history import newest_first
from scrapy_state.lineage.prune import Pruned, leave_signpost, prunable, roll_up
from scrapy_state.lineage.resolve import resolve
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.key_template import KeyTemplate

pytestmark = pytest.mark.long

SEED = 7


TEMPLATE = KeyTemplate.parse("state/%(batch_id)010d.json", {})


class Ordered:
    """A store in memory that lists in order and completely, and counts requests."""

    ordered, atomic, lists_late = True, True, False

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.requests = 0

    def uri(self, key: str) -> str:
        return f"memory://{key}"

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        self.requests += 1
        return islice((key for key in sorted(self.content) if key.startswith(prefix) and key > after), limit)

    def read(self, key: str) -> bytes | None:
        self.requests += 1
        return self.content.get(key)

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        return None if (content := self.read(key)) is None else content[begin:][:size]

    def create(self, key: str, file: IO[bytes]) -> None:
        file.seek(0)
        assert self.content.setdefault(key, content := file.read()) == content

    def delete(self, key: str) -> None:
        self.content.pop(key, None)


def fill(history: History) -> None:
    """Runs that were killed and that finished, a branch, an orphan; 14 checkpoints."""
    killed = history.run(3, reason=None)
    history.run(2, pages=2)
    history.run(2, at=3)
    history.run(2)
    history.file(f"{killed}-00009.jsonl", b"{}\n", 1)


def said_about(history: History) -> dict[tuple[str, ...], tuple[int, str]]:
    """Return what the command says about a history, without how old things are."""
    asked = [("log", "--json"), ("items", "--at", "6"), ("items", "--cat"), ("verify", "--deep"), ("orphans",),
             ("get", "--at", "2"), ("get", "--at", "-3")]  # fmt: skip
    return {each: (found.code, found.out) for each in asked for found in [state(history, *each)]}


def known(history: History) -> tuple[list[Checkpoint], list[Checkpoint | None], int]:
    """Return the lineage, all checkpoints of all branches, and the newest id, as the code sees them."""
    found = resolve(history.store, history.template)
    assert found.checkpoint is not None
    every = [each.checkpoint for each in newest_first(history.store, history.template)]
    return lineage(history.store, history.template, found.checkpoint), every, found.newest_id


def test_dry_run(history: History) -> None:
    """``--dry-run`` says what would be packed and changes nothing; with nothing to prune one line says so."""
    fill(history)
    before = history.state_names()
    ran = state(history, "prune", "--keep", "3", "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"10 state files would be packed and deleted: {history.state_uri(1)} to ")
    assert len(state(history, "prune", "--keep", "3", "--dry-run", "--json").json["would_delete"]) == 10
    assert state(history, "prune", "--keep", "99").out == "nothing to prune: no state file is old enough\n"
    assert history.state_names() == before


def test_nothing_is_lost(place: History) -> None:
    """After several prunes every verb prints what it printed before, few state files are left, and nothing was overwritten."""
    fill(place)
    before = known(place), None if place.settings else said_about(place)
    for keep in ("9", "4", "1"):
        ran = state(place, "prune", "--keep", keep)
        assert (ran.code, ran.err) == (0, ""), ran
    *signposts, newest, first, second, third = place.state_names()
    assert len(signposts) == place.store.ordered
    assert [newest, first, second, third] == [
        "0000000013.json",
        "rollup-0000000001-0000000004.tar.gz",
        "rollup-0000000005-0000000009.tar.gz",
        "rollup-0000000010-0000000012.tar.gz",
    ]
    assert (known(place), None if place.settings else said_about(place)) == before


def test_goes_on(history: History) -> None:
    """A run after a prune continues the numbers and names the right parent; bare prefixes and times still find pruned
    checkpoints."""
    fill(history)
    state(history, "prune", "--keep", "1")
    history.run(1)
    made = state(history, "log", "--checkpoints", "--json").json
    assert [(each["id"], each["parent"]) for each in made[:3]] == [(15, 14), (14, 13), (13, 12)]
    third = next(each for each in made if each["id"] == 3)
    for target, at in ((history.uri, third["time"]), (history.where + "/state/", "3")):
        assert run(Path("/"), "show", target, "--at", at, "--json").json["checkpoint"] == third
    assert state(history, "verify", "--deep").code == 0


def test_older_than(history: History) -> None:
    """``--older-than`` prunes up to the first one that is not older, and never the newest, however old."""
    history.run(3)
    for id in range(1, 5):
        found = history.store.read(history.template.key(id))
        assert found is not None
    assert state(history, "prune", "--older-than", "30d").code == 0
    assert len(history.state_names()) == 4
    time.sleep(0.01)
    assert state(history, "prune", "--older-than", "0s", "--json").json["deleted"] == 3
    assert history.state_names() == ["0000000004.json", "rollup-0000000001-0000000003.tar.gz"]


def test_unpacking_undoes_it(history: History) -> None:
    """A roll-up has the state files byte for byte, under their names."""
    fill(history)
    folder = Path(history.where) / "state"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    state(history, "prune", "--keep", "3")
    for path in folder.glob("rollup-*"):
        with tarfile.open(path) as packed:
            packed.extractall(folder, filter="data")
        path.unlink()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_foreign_files_stay(history: History) -> None:
    """A file that is not a checkpoint is neither packed nor deleted, and is named; files newer than the newest valid one
    stay."""
    history.run(4)
    history.replace(2, b"torn")
    history.store.create(history.template.key(9), _file(b"torn too"))
    ran = state(history, "prune", "--keep", "1")
    assert ran.code == 0
    assert "0000000002.json stays where it is" in ran.err
    assert history.state_names() == [
        "0000000002.json", "0000000005.json", "0000000009.json", "rollup-0000000001-0000000004.tar.gz",
    ]  # fmt: skip


def test_spiders_side_by_side(tmp_path: Path) -> None:
    """Spiders whose keys differ only in the text after the id have roll-ups of their own."""
    histories = []
    for name in ("-flights", "-trains"):
        history = History(str(tmp_path / "data"))
        history.uri = f"{history.where}/state/%(batch_id)010d{name}.json"
        history.template = KeyTemplate(history.template.prefix, (*history.template.rest[:-1], f"{name}.json"))
        history.run(3)
        histories.append((history, known(history)))
    for history, before in histories:
        assert state(history, "prune", "--keep", "1").code == 0
        assert known(history) == before
    names = [name for name in histories[0][0].state_names() if name.startswith("rollup")]
    assert names == [f"rollup-0000000001-0000000003{name}.tar.gz" for name in ("-flights", "-trains")]


def test_damaged_roll_up(history: History) -> None:
    """A damaged roll-up is an error that names it, not the end of the lineage."""
    history.run(4)
    state(history, "prune", "--keep", "1")
    [name] = [name for name in history.state_names() if name.startswith("rollup-")]
    key = history.template.prefix + name
    data = history.store.read(key)
    assert data is not None
    for content in (b"", data[: len(data) // 2], data[:40] + b"\0\0\0" + data[43:]):
        history.store.delete(key)
        history.store.create(key, _file(content))
        newest = resolve(history.store, history.template).checkpoint
        assert newest is not None
        with pytest.raises(CheckpointError, match="the roll-up is damaged"):
            lineage(history.store, history.template, newest)
        assert state(history, "items").code == 1


def test_between_two_in_a_roll_up(history: History) -> None:
    """State files between the ids of a roll-up that are not in it are packed before they are deleted."""
    history.run(4)
    before = known(history)
    whole = history.store.read(history.template.key(2))
    assert whole is not None
    history.replace(2, b"torn")
    assert state(history, "prune", "--keep", "1").code == 0
    history.replace(2, whole)
    assert state(history, "prune", "--keep", "1").code == 0
    assert known(history) == before
    assert "0000000002.json" not in history.state_names()


def test_same_files_same_bytes(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A roll-up of the same files always has the same bytes, so storing it again is no conflict."""
    packed = []
    for now in (1e9, 2e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        file = io.BytesIO()
        pack(history.template, [(history.template.key(1), b"one"), (history.template.key(2), b"two")], file)
        packed.append(file.getvalue())
    assert packed[0] == packed[1]


class Killed(BaseException):
    """The process ends here."""


class Dying:
    """A store whose process is killed at a request that changes something: before it, or after it."""

    def __init__(self, store: Any, at: int, after: bool) -> None:
        self._store, self._left, self._after = store, at, after
        self.uri, self.keys, self.read, self.read_part = store.uri, store.keys, store.read, store.read_part
        self.ordered, self.atomic = store.ordered, store.atomic

    def create(self, key: str, file: IO[bytes]) -> None:
        self._count(lambda: self._store.create(key, file))

    def delete(self, key: str) -> None:
        self._count(lambda: self._store.delete(key))

    def _count(self, act: Callable[[], None]) -> None:
        if self._left < 0:
            raise Killed  # another thread: the process is dead
        self._left -= 1
        if self._left < 0 and not self._after:
            raise Killed
        act()
        if self._left < 0:
            raise Killed


@pytest.mark.parametrize("keep", [1, 5, 1_200])
def test_three_requests_after_it(tmp_path: Path, keep: int) -> None:
    """On a store that lists in order, a start after a prune takes three requests, however many state files were kept. A prune
    leaves one signpost, to the newest checkpoint, and deletes the older ones; so it does if it was killed in between."""
    store, parent = Ordered(), Checkpoint({}, id=0)
    for id in range(1, keep + 20):
        made = Checkpoint({"t": id}, id=id, parent=parent.id or None, parent_digest=parent.digest)
        parent = replace(made, digest=made.to_json()["digest"])
        store.content[TEMPLATE.key(id)] = parent.to_bytes()
        if id in (4, 9, keep + 19):
            roll_up(store, TEMPLATE, prunable(store, TEMPLATE, id, keep=keep), Pruned())
            with suppress(Killed):
                leave_signpost(Dying(store, 1 if id == 9 else 99, False), TEMPLATE, parent)
    assert [key for key in store.content if TEMPLATE.signposted(key)] == [TEMPLATE.signpost(keep + 19, parent.digest or "")]
    store.requests = 0
    assert resolve(store, TEMPLATE).checkpoint == parent
    assert store.requests <= 3
    del store.content[TEMPLATE.key(keep + 19)]
    found = resolve(store, TEMPLATE).checkpoint
    assert found is None if keep == 1 else found is not None and found.id == keep + 18


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_point(tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the command is killed before or after any of its requests, the history stays whole; the next one does the rest."""
    monkeypatch.setattr(prune, "ROLLUP_FILES", 3)
    point = 0
    while True:
        history = History(str(tmp_path / f"data-{point}"))
        for number, (commits, at) in enumerate([(2, "latest"), (2, 3), (2, "latest")]):
            history.run(commits, at=at, run=f"r{number}")
        before = known(history)
        keys = prunable(history.store, history.template, before[2], keep=2)
        assert len(keys) == 7
        try:
            roll_up(Dying(history.store, point, after), history.template, keys, Pruned())
        except Killed:
            pass
        else:
            break
        assert known(history) == before, f"killed at {point}"
        again = prunable(history.store, history.template, before[2], keep=2)
        roll_up(history.store, history.template, again, Pruned())
        assert known(history) == before
        assert len([name for name in history.state_names() if not name.startswith("rollup")]) == 2
        point += 1
    assert point == 7 + 3, "each deletion, each roll-up"


def test_sigkill(tmp_path: Path) -> None:
    """If SIGKILL kills the command at some moment, the history stays whole, and the next one does the rest."""
    history = History(str(tmp_path / "data"))
    history.run(200)
    before = known(history)
    print("seed", SEED)
    random_ = random.Random(SEED)
    for _ in range(2):
        wanted = random_.randrange(20, 180)
        code = _ROLL_UP.format(uri=history.uri, files=30)
        process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
        try:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while len(history.state_names()) > wanted and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        finally:
            process.kill()
            process.wait()
        assert known(history) == before
    assert state(history, "prune", "--keep", "1").code == 0
    assert known(history) == before
    assert len([name for name in history.state_names() if not name.startswith("rollup")]) == 1


_ROLL_UP = """
import sys
from scrapy_state.lineage import prune as prune
prune.ROLLUP_FILES = {files}
from scrapy.cmdline import execute
execute(["scrapy", "state", "prune", "--keep", "1", {uri!r}])
"""


def test_two_at_once(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prunes at once do no harm: files that one has deleted are in its roll-up."""
    fill(history)
    before = known(history)
    keys = prunable(history.store, history.template, before[2], keep=1)
    roll_up(history.store, history.template, prunable(history.store, history.template, before[2], keep=6), Pruned())
    roll_up(history.store, history.template, keys, Pruned())
    assert known(history) == before


def test_delete_refused(history: History) -> None:
    """Without the permission to delete, the state files stay beside the roll-up, and the history is whole."""
    fill(history)
    before = known(history)
    store = Dying(history.store, 10**9, False)

    def refuse(key: str) -> None:
        raise StoreRefused(f"{key}: no")

    store.delete = refuse  # type: ignore[method-assign]
    with pytest.raises(StoreRefused):
        roll_up(store, history.template, prunable(history.store, history.template, before[2], keep=1), Pruned())
    assert known(history) == before


@pytest.fixture
def live(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a crawl that stores checkpoints until it is told to stop."""
    source = SPIDER.replace("for page in", "import asyncio\n        for page in").replace(
        "yield StateItem", "await asyncio.sleep(0.01)\n            yield StateItem"
    )
    process = start_crawl(tmp_path, source, "-a", "pages=100000", settings={"STATE_INTERVAL": 0, "LOG_LEVEL": "ERROR"})
    yield process
    process.kill()
    process.communicate()


def test_live_crawl(tmp_path: Path, live: subprocess.Popen[str]) -> None:
    """Prunes while a crawl stores checkpoints: the crawl continues undisturbed, and its history is whole."""
    history = History(str(tmp_path / "data" / "numbers"))
    prunes = 0
    deadline = time.monotonic() + DEADLINE_SECONDS
    while prunes < 3:
        assert live.poll() is None
        assert time.monotonic() < deadline
        if len([name for name in history.state_names() if not name.startswith("rollup")]) > 10:
            assert state(history, "prune", "--keep", "1").code == 0
            prunes += 1
        time.sleep(0.05)
    live.terminate()
    _, log = live.communicate(timeout=DEADLINE_SECONDS)
    assert (live.returncode, log) == (0, "")
    verified = state(history, "verify", "--deep", "--json").json
    assert verified["problems"] == []
    pages = [line.split('"page": ')[1].split(",")[0] for line in state(history, "items", "--cat").out.splitlines()]
    assert pages == [str(page) for page in range(len(pages) // 2) for _ in range(2)]


def test_flat_listing(place: History) -> None:
    """Roll-ups are found by their names, without listing the state files."""
    fill(place)
    state(place, "prune", "--keep", "4")
    listed: list[str] = []
    store = Dying(place.store, 0, False)
    store.keys = lambda prefix, *_: (listed.append(prefix), place.store.keys(prefix))[1]
    rollups = Rollups(store, place.template)
    assert rollups.read(3) is not None
    assert rollups.read(4) is not None
    assert listed == [place.template.prefix + "rollup-"]


def _file(content: bytes) -> IO[bytes]:
    return io.BytesIO(content)
