"""The verb orphans: what it lists and deletes, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run
from crawls import FEEDS, STATE_OPTIONS
from histories import History, state

pytestmark = pytest.mark.long


class TestOrphans:
    def test_found_and_deleted(self, place: History) -> None:
        """The command finds and deletes unnamed files of runs that are over, on any branch, and nothing else."""
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
        ran = state(place, "orphans")
        assert (ran.code, ran.out, ran.err.splitlines()[-1]) == (0, "", "no orphans")

    def test_of_a_spider(self, project: Path, environment: dict[str, str]) -> None:
        """For a spider's name, FEEDS says where to look, even if no checkpoint names a file there."""
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
        """If a run ended, what it stored after its last state is the user's: a line names it, and nothing deletes it."""
        ended, killed = history.run(2, reason="shutdown"), history.run(2, reason=None)
        history.run(1)
        kept, orphan = (history.file(f"{run}-00003.jsonl", b"{}\n", 1).uri for run in (ended, killed))
        history.file(f"{killed}-7.jsonl", b"{}\n", 1)  # another kind of name: its number does not have five digits
        ran = state(history, "orphans", "--delete", "--yes")
        assert (ran.code, ran.out) == (0, f"{orphan}\n")
        assert f"{kept} is no orphan: run {ended} ended, and stored it after its last state" in ran.err
        assert len(history.item_keys()) == 7
        ran = state(history, "orphans", "--json")
        assert (ran.code, ran.json) == (0, [])

    def test_moved(self, project: Path) -> None:
        """After a project was renamed, named files and files of a feed that takes no part are no orphans."""
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
    def test_damaged_state_file(self, history: History, harm: Callable[[History], None]) -> None:
        """If a state file is missing or damaged, nobody knows what it named: the files of its run are no orphans."""
        history.run(2)
        history.run(1)
        harm(history)
        ran = state(history, "orphans", "--delete", "--yes")
        assert ran.out == ""
        assert "left out" in ran.err or "nobody knows which files it names" in ran.err
        assert len(history.item_keys()) == 3
