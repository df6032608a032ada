"""Which item files are orphans: never one that a checkpoint names, even if its folder was moved."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from crawls import STATE_OPTIONS, STATES, STORING_SPIDER, checkpoints, crawl, named_items
from histories import History, state

from scrapy_state.lineage import last_run
from scrapy_state.lineage.history import newest_first, runs
from scrapy_state.lineage.last_run import OrphanFeeds, find_orphans
from scrapy_state.lineage.orphans import AllOrphans, files_left_out
from scrapy_state.lineage.resolve import resolve
from scrapy_state.lineage.writer import CheckpointWriter
from scrapy_state.model.key_template import VARYING, KeyTemplate
from scrapy_state.stores import open_writer

RUN = "20261101T000000-abc123"
TIMED = "%(run_id)s-%(batch_time)s.jsonl"
NUMBERED = "%(run_id)s-%(batch_id)05d.jsonl"


def time(second: int) -> str:
    return f"2026-11-01T00-00-{second:02d}.123456+00-00"


def killed(history: History, *named: Sequence[str], unnamed: Sequence[str] = (), reason: str | None = None) -> None:
    """Store what run RUN leaves behind: for each checkpoint the files it names, in ``items``, and some *unnamed* ones."""
    resolution = resolve(history.store, history.template, "numbers")
    writer = CheckpointWriter(history.store, history.template, format="json", spider="numbers", run=RUN, job=None)
    writer.open({"page": 0}, resolution, lambda: resolution)
    for number, names in enumerate(named, 1):
        files = [history.file(each, b'{"n": 1}\n', 1) for each in names]
        writer.commit(writer.next({"page": number}, files, reason=reason if number == len(named) else None))
    for each in unnamed:
        history.file(each, b'{"n": 1}\n', 1)


def feeds_of(history: History, *templates: str, others: Sequence[str] = ()) -> Callable[[str], OrphanFeeds]:
    """Return what the exporter passes on: the feeds *templates* in the folder ``items``; *others* take no part."""

    def feeds(run: str) -> OrphanFeeds:
        listed = []
        for each in templates:
            template = KeyTemplate.parse(f"{history.where}/items/{each}", {"run_id": run}, VARYING - {"run_id"})
            store, prefix = open_writer(template.prefix, history.settings)
            listed.append((store, template.under(prefix)))
        left_out = [(f"{history.where}/items/{each}", {}) for each in others]
        return OrphanFeeds(listed, files_left_out(left_out, "numbers", None))

    return feeds


def found(history: History, *templates: str, others: Sequence[str] = ()) -> list[str]:
    """Return the names of the orphans that a run started now would find."""
    resolution = resolve(history.store, history.template, "numbers")
    every = find_orphans(history.store, history.template, resolution, feeds_of(history, *templates, others=others))
    return sorted(each.key.removeprefix(history.items_key) for each in every)


def numbers(*numbers: int) -> list[str]:
    return [f"{RUN}-{number:05d}.jsonl" for number in numbers]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


class TestNamed:
    def test_opened_early_and_named_late(self, place: History, caplog: pytest.LogCaptureFixture) -> None:
        """A file that was opened first and named last makes no orphans of those in between, nor does it on S3."""
        killed(place, numbers(3, 4, 5, 6, 7), numbers(8), numbers(1), numbers(2), unnamed=numbers(9))
        assert found(place, NUMBERED) == numbers(9)
        assert warnings(caplog) == []

    def test_clock_that_steps_back(self, history: History) -> None:
        """Files with times in their names are known by their names, not by their order: a clock may be set back."""
        names = [[f"{RUN}-{time(second)}.jsonl"] for second in (50, 51, 52, 46, 47)]
        killed(history, *names, unnamed=[f"{RUN}-{time(45)}.jsonl"])
        assert found(history, TIMED) == [f"{RUN}-{time(45)}.jsonl"]

    def test_more_digits_than_the_template_has(self, history: History) -> None:
        """Numbers that have outgrown their digits count like others."""
        killed(history, numbers(99998, 99999), numbers(100000), unnamed=numbers(100001))
        assert found(history, NUMBERED) == numbers(100001)

    def test_long_run(self, history: History) -> None:
        """All checkpoints of a long run are read, back to its opening one."""
        killed(history, *([each] for each in numbers(*range(1, 61))), unnamed=numbers(61))
        assert found(history, NUMBERED) == numbers(61)

    def test_pruned(self, history: History) -> None:
        """Files that pruned checkpoints name are named."""
        killed(history, *([each] for each in numbers(*range(1, 9))), unnamed=numbers(9))
        assert state(history, "prune", "--keep", "2").code == 0
        assert found(history, NUMBERED) == numbers(9)
        [rollup] = [each for each in history.store.keys(history.template.prefix) if "rollup" in each]
        history.store.delete(rollup)
        assert found(history, NUMBERED) == []


class TestUndetermined:
    """If the orphans can't be determined, nothing counts as one, and one warning says why."""

    def check(self, history: History, caplog: pytest.LogCaptureFixture, *texts: str, templates: Sequence[str] = ()) -> None:
        caplog.clear()
        assert found(history, *(templates or [NUMBERED])) == []
        [warning] = warnings(caplog)
        for text in (f"orphans of run {RUN} can't be determined", *texts):
            assert text in warning

    def test_opening_gone(self, history: History, caplog: pytest.LogCaptureFixture) -> None:
        """If a checkpoint of the run is missing, nobody knows what it named."""
        killed(history, numbers(1), numbers(2), numbers(3), unnamed=numbers(4))
        history.store.delete(history.template.key(2))
        self.check(history, caplog, "its first checkpoint is missing, or more than")

    def test_too_far(self, history: History, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        """The search goes back only so far."""
        killed(history, numbers(1), numbers(2), numbers(3), unnamed=numbers(4))
        monkeypatch.setattr(last_run, "_CHECKPOINTS_BACK", 4)
        assert found(history, NUMBERED) == numbers(4)
        monkeypatch.setattr(last_run, "_CHECKPOINTS_BACK", 3)
        self.check(history, caplog, "its first checkpoint is missing, or more than")

    def test_newer_ones_are_skipped(self, history: History, caplog: pytest.LogCaptureFixture) -> None:
        """Newer state files that can't be used may have named the file."""
        killed(history, numbers(1), unnamed=numbers(2))
        history.put_bytes(3, b"torn")
        self.check(history, caplog, "newer")

    def test_renamed(self, history: History, caplog: pytest.LogCaptureFixture) -> None:
        """If no checkpoint names any of the files there, they may be named files that were renamed."""
        killed(history, [f"{RUN}-1.jsonl"], [f"{RUN}-2.jsonl"])
        for number in (1, 2):
            (Path(history.items_key) / f"{RUN}-{number}.jsonl").rename(Path(history.items_key) / numbers(number)[0])
        self.check(history, caplog, "name none of the files", numbers(1)[0])

    def test_killed_before_it_named_any(self, history: History, caplog: pytest.LogCaptureFixture) -> None:
        """The same is true if no checkpoint of the run names a file at all."""
        killed(history, unnamed=numbers(1))
        self.check(history, caplog, "name none of the files")

    def test_one_warning(self, history: History, caplog: pytest.LogCaptureFixture) -> None:
        """Each of several feeds is checked by itself, but there is only one warning."""
        killed(history, numbers(1), unnamed=[*numbers(2), f"a/{RUN}-1.csv", f"b/{RUN}-1.csv"])
        feeds = (NUMBERED, "a/%(run_id)s-%(batch_id)d.csv", "b/%(run_id)s-%(batch_id)d.csv")
        assert found(history, *feeds) == numbers(2)
        [warning] = warnings(caplog)
        assert "/a/" in warning
        assert "/b/" in warning


class TestMoved:
    def moved(self, history: History) -> History:
        """Move the folder, and reach it by yet another path."""
        new = Path(history.where).with_name("n e%w")
        Path(history.where).rename(new)
        return History(str(new))

    def test_renamed(self, history: History, caplog: pytest.LogCaptureFixture) -> None:
        """In a renamed folder the named files are known by their names within the feed's folder."""
        killed(history, numbers(1), numbers(2), unnamed=numbers(3))
        history = self.moved(history)
        assert found(history, NUMBERED) == numbers(3)
        assert warnings(caplog) == []

    def test_symlink(self, history: History, tmp_path: Path) -> None:
        """The same through a symbolic link."""
        killed(history, numbers(1), numbers(2), unnamed=numbers(3))
        (tmp_path / "link").symlink_to(history.where)
        assert found(History(str(tmp_path / "link")), NUMBERED) == numbers(3)

    def test_names_that_are_percent_encoded(self, history: History) -> None:
        """A percent-encoded name in a URI is the same name."""
        template = "%(run_id)s/ü %%1 %(batch_id)d.jsonl".replace("%%", "%")
        name = RUN + "/ü %1 {}.jsonl"
        killed(history, [name.format(1)], unnamed=[name.format(2)])
        assert found(self.moved(history), template) == [name.format(2)]

    def test_feeds_of_the_same_names(self, history: History) -> None:
        """If two feeds number their files alike in two folders, the folder tells them apart, as long as it is there."""
        a, b = ([f"{folder}/{RUN}-{number}.jsonl" for number in range(1, 6)] for folder in "ab")
        killed(history, [a[0], b[0]], [b[1]], [b[2]], unnamed=[a[1], b[3]])
        feeds = ("a/%(run_id)s-%(batch_id)d.jsonl", "b/%(run_id)s-%(batch_id)d.jsonl")
        assert found(history, *feeds) == [a[1], b[3]]

    def test_folders_swapped(self, history: History) -> None:
        """If the folders of two feeds were swapped, files that are named in either are kept."""
        a, b = ([f"{folder}/{RUN}-{number}.jsonl" for number in range(1, 6)] for folder in "ab")
        killed(history, [a[0], b[0]], [b[1]], [b[2]])
        folder = Path(history.items_key)
        for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
            (folder / old).rename(folder / new)
        assert found(history, "a/%(run_id)s-%(batch_id)d.jsonl", "b/%(run_id)s-%(batch_id)d.jsonl") == []

    def test_folder_that_is_another_feeds(self, history: History) -> None:
        """If a feed's folder is now a link to another one's, the files are the same."""
        a, b = ([f"{folder}/{RUN}-{number}.jsonl" for number in range(1, 6)] for folder in "ab")
        killed(history, [a[0], b[0]], [a[1]], [a[2]])
        folder = Path(history.items_key)
        (folder / "b").rename(folder / "old")
        (folder / "b").symlink_to("a")
        assert found(history, "a/%(run_id)s-%(batch_id)d.jsonl", "b/%(run_id)s-%(batch_id)d.jsonl") == []


class TestOthersFiles:
    def test_times_are_times(self, history: History) -> None:
        """If a template has a time, only names with a time as Scrapy writes it match. Other files are not touched."""
        names = [f"{RUN}-{time(1)}.jsonl"], [f"{RUN}-{time(2)}.jsonl"]
        foreign = [
            f"{RUN}-debug.jsonl",
            f"{RUN}-2026-11-01T00-00-09+00-00.jsonl",
            f"{RUN}-{time(3)}-raw.jsonl",
            f"{RUN}-7.jsonl",
        ]
        killed(history, *names, unnamed=[f"{RUN}-{time(4)}.jsonl", *foreign])
        assert found(history, TIMED) == [f"{RUN}-{time(4)}.jsonl"]

    @pytest.mark.parametrize(
        ("other", "name"),
        [
            ("%(run_id)s-00009.jsonl", "00009"),
            ("%(run_id)s-%(country)s.jsonl", "00009"),  # the argument had another value in that run
            ("%(run_id)s-%(time).5s.jsonl", "00009"),
        ],
    )
    def test_feeds_that_take_no_part(self, history: History, other: str, name: str) -> None:
        """A file that a feed with ``"checkpoint": False`` may have stored is not an orphan."""
        killed(history, numbers(1), unnamed=[f"{RUN}-{name}.jsonl"])
        assert found(history, NUMBERED) == [f"{RUN}-{name}.jsonl"]
        assert found(history, NUMBERED, others=[other]) == []

    def test_feeds_beside(self, history: History) -> None:
        """Feeds whose names can't be mistaken for one another don't protect each other's orphans."""
        killed(history, [f"{RUN}-{time(1)}.jsonl"], unnamed=[f"{RUN}-{time(2)}.jsonl"])
        others = [
            "%(run_id)s-%(time)s.jsonl",
            "%(run_id)s-x-%(batch_time)s.jsonl",
            "%(name)s.jsonl",
            "b/%(run_id)s-%(x)s.jsonl",
        ]
        assert found(history, TIMED, others=others) == [f"{RUN}-{time(2)}.jsonl"]


@pytest.mark.parametrize("reason", ["finished", "shutdown", "state_item_failed", "set"])
def test_run_that_ended(history: History, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """A run that ended has no orphans: what it stored after its last state is the user's."""
    killed(history, numbers(1), numbers(2), unnamed=numbers(3), reason=reason)
    assert found(history, NUMBERED) == []
    assert warnings(caplog) == []


def test_run_that_ended_as_opened(history: History) -> None:
    """A spider may close with the reason "opened": that is not an opening checkpoint, and the run has no orphans either."""
    killed(history, numbers(1), numbers(2), unnamed=numbers(3), reason="opened")
    assert found(history, NUMBERED) == []
    [run] = runs(newest_first(history.store, history.template), None)
    assert run.ended == "opened"
    assert run.is_whole
    for id in (1, 2):
        history.store.delete(history.template.key(id))
    [run] = runs(newest_first(history.store, history.template), None)
    assert not run.is_whole


@contextmanager
def normal_user() -> Iterator[None]:
    """Root gives up its rights until the end."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_folder_that_only_root_may_open() -> None:
    """A ``lost+found`` next to the items has none of them, so it stops neither a start nor the command."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        history = History(folder)
        killed(history, numbers(1), unnamed=numbers(2))
        Path(history.items_key, "lost+found").mkdir(mode=0)
        with normal_user():
            assert found(history, NUMBERED) == numbers(2)
        history.run(0)  # now the killed run is over
        with normal_user():
            every = AllOrphans(newest_first(history.store, history.template), lambda uri: uri)
            keys = [(history.store, KeyTemplate(history.items_key, rest)) for _, rest in every.templates()]
            unnamed = [key for run in every.among(keys, []) for _, key in run.files]
    assert unnamed == [history.items_key + numbers(2)[0]]


@pytest.mark.parametrize("choice", ["keep", "delete"])
def test_of_the_last_run(tmp_path: Path, choice: str) -> None:
    """Item files of a killed run that no checkpoint names are found at the next start: counted, logged, deleted if asked."""
    settings = {"STATE_ORPHANS": choice, "STATE_INTERVAL": 0}
    first = crawl(tmp_path, STORING_SPIDER, "-a", "pages=6", settings=settings)
    last = checkpoints(tmp_path)[-2:]
    orphaned = [Path(file["uri"].removeprefix("file://")) for each in last for file in each["files"]]
    for each in last:  # as if the run had been killed before it could store these
        (tmp_path / f"data/numbers/state/{each['id']:010d}.json").unlink()
    assert orphaned, first.log
    run = crawl(tmp_path, settings=settings)
    assert run.code == 0, run.log
    assert run.lines(f"'state/orphans': {len(orphaned)}")
    assert all(run.lines(f"orphan of the last run: {path.as_uri()}") for path in orphaned)
    assert [path.exists() for path in orphaned] == [choice == "keep"] * len(orphaned)
    pages = len(named_items(tmp_path)) // 2
    assert named_items(tmp_path) == [{"page": page, "n": n} for page in range(pages) for n in range(2)]
    again = crawl(tmp_path, settings=settings)
    assert again.lines("'state/orphans': 0")


def test_project_renamed(tmp_path: Path) -> None:
    """In a renamed project only orphans are deleted: no named file, and no file of another feed there."""
    other = "data/%(name)s/items/%(run_id)s-%(name)s.jsonl"
    settings: dict[str, Any] = {
        "STATE_ORPHANS": "delete",
        "STATE_INTERVAL": 0,
        "FEEDS": {
            "data/%(name)s/items/%(run_id)s-%(batch_time)s.jsonl": {"format": "jsonlines"},
            other: {"format": "jsonlines", "checkpoint": False},
            STATES: STATE_OPTIONS,
        },
    }
    crawl(tmp_path / "old", STORING_SPIDER, "-a", "pages=6", settings=settings)
    last = checkpoints(tmp_path / "old")[-2:]
    orphaned = {unquote(Path(file["uri"]).name) for each in last for file in each["files"]}
    for each in last:  # as if the run had been killed before it could store these
        (tmp_path / f"old/data/numbers/state/{each['id']:010d}.json").unlink()
    before = {path.name for path in (tmp_path / "old/data/numbers/items").iterdir()}
    assert orphaned < before
    (tmp_path / "old").rename(tmp_path / "new")
    run = crawl(tmp_path / "new", settings=settings)
    assert run.code == 0, run.log
    assert before - {path.name for path in (tmp_path / "new/data/numbers/items").iterdir()} == orphaned
    assert len(run.lines("orphan of the last run: ")) == len(orphaned)
