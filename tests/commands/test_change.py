"""The verbs that store: set, copy. The tests of prune are in ``tests/lineage/test_prune.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import refused, run
from histories import History, state

pytestmark = pytest.mark.long


class TestSet:
    def test_set(self, place: History) -> None:
        """A checkpoint stored by hand is a valid child of the newest one, has its reason, and is where the next run starts."""
        place.run(2)
        ran = state(place, "set", '{"page": 1}')
        assert ran.code == 0, ran.err
        assert 'checkpoint 4 stored: STATE {"page": 1}' in ran.out
        made = state(place, "log", "--checkpoints", "--json").json[0]
        assert (made["id"], made["parent"], made["reason"], made["overlap"], made["items"]) == (4, 3, "set", True, 2)
        assert state(place, "get").out == '{"page": 1}\n'
        assert state(place, "verify").code == 0

    def test_parent(self, history: History) -> None:
        """``--parent`` names the parent of the new checkpoint."""
        history.run(3)
        assert state(history, "set", '{"page": 1}', "--parent", "2", "--json").json["checkpoint"]["parent"] == 2
        assert len(state(history, "items").out.splitlines()) == 1

    def test_earlier_state(self, history: History) -> None:
        """Going back warns of what will appear twice; with ``--parent`` nothing does. Another state may be either."""
        history.run(3, pages=2)
        ran = state(history, "set", '{"page": 2}')
        assert "this is the state of checkpoint 2." in ran.err
        assert "the 4 items stored since will appear twice; with --parent 2 only the new ones count" in ran.err
        assert state(history, "set", '{"page": 2}', "--parent", "2").err == ""
        assert state(history, "set", '{"page": 77}').err.startswith('warning: checkpoint 6 has another state, {"page": 2}. If ')

    def test_run_that_may_be_alive(self, history: History) -> None:
        """If a run may be alive, the command asks first; without a terminal or ``--yes`` it stores nothing."""
        history.run(1, reason=None)
        refused(state(history, "set", '{"page": 9}'), 2, "state_conflict", "--yes")
        assert state(history, "get").out == '{"page": 1}\n'
        assert state(history, "set", '{"page": 9}', "--yes").code == 0
        assert state(history, "get").out == '{"page": 9}\n'

    def test_bare_prefix(self, history: History) -> None:
        """In a bare folder, the new checkpoint gets the next number, in the form of the names there."""
        history.run(1)
        assert run(Path("/"), "set", f"{history.where}/state/", '{"page": 5}').code == 0
        assert history.state_names()[-1] == "0000000003.json"

    def test_first(self, history: History) -> None:
        """If there is no checkpoint yet, it is the first."""
        assert state(history, "set", '{"page": 5}').code == 0
        assert history.state_names() == ["0000000001.json"]

    def test_copy_onto_itself(self, history: History) -> None:
        """``copy`` from a place to the same place is an error that says what to do instead."""
        history.run(1)
        before = history.state_names()
        refused(run(Path("/"), "copy", f"{history.where}/state/", history.uri), 2, "are the same place", "set … --parent ID")
        assert history.state_names() == before

    def test_copy(self, tmp_path: Path, bucket: str, s3_settings: dict[str, str]) -> None:
        """``copy`` stores the state of one store's checkpoint in another kind of store, and records where it is from."""
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
