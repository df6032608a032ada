"""The item files that no checkpoint names: the same answer whether all names are in memory or on disk."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from scrapy_state.lineage.history import StateFile
from scrapy_state.lineage.orphans import AllOrphans, unnamed_files
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.item_file import ItemFile
from scrapy_state.model.key_template import KeyTemplate, Placeholder

SEED = 5
REST = (Placeholder("run_id", "s"), "-", Placeholder("any", "s"), ".jsonl")


class Listing:
    """A store that has *names*."""

    ordered = True

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def uri(self, key: str) -> str:
        return f"memory://bucket/{key}"

    def keys(self, prefix: str, after: str = "", limit: int | None = None, depth: int | None = None) -> Iterator[str]:
        return (name for name in self.names if name.startswith(prefix))

    def read(self, key: str) -> bytes | None:
        raise AssertionError("nothing is read")

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        raise AssertionError("nothing is read")


@pytest.mark.parametrize("number", range(300))
def test_on_disk_as_in_memory(number: int) -> None:
    """Files that are named, moved, named by another run or under another spelling, listed twice, or left out are judged as
    :func:`unnamed_files` judges them if it is given every name."""
    chance = random.Random(SEED + number)
    of_run = {run: [f"{run}-{name}.jsonl" for name in ("1", "2", "%32", "3", "other", "4")] for run in ("r1", "r2", "r3")}
    every = [name for names in of_run.values() for name in names]
    here = [f"items/{name}" for name in every if chance.random() < 0.6]
    here += [f"more/{name}" for name in every if chance.random() < 0.2]
    named: dict[str, set[str]] = {}
    how_many = chance.random()
    for run, names in of_run.items():
        folders = chance.choice([["items"], ["items", "more"], ["old"], ["items", "old"]])
        mine = [f"memory://bucket/{chance.choice(folders)}/{name}" for name in names if chance.random() < how_many]
        mine += [f"memory://bucket/items/{name}" for name in every if chance.random() < 0.05]
        named[run] = set(mine)

    def state_files() -> Iterator[StateFile]:
        id = 3 * len(named)
        for run, uris in reversed(named.items()):
            files = tuple(ItemFile(uri, 1, 1) for uri in sorted(uris))
            for reason, its in (("shutdown", ()), (None, files), ("opened", ())):
                yield StateFile(id, "", Checkpoint({}, id=id, parent=id - 1 or None, run=run, reason=reason, files=its))
                id -= 1

    others = [KeyTemplate.of_any_run("memory://bucket/items/%(run_id)s-other.jsonl", None)]
    prefixes = ("items/", "more/", "items/")
    feeds = [(Listing(here), KeyTemplate(prefix, REST)) for prefix in prefixes]
    found = {each.run.last.run: each for each in AllOrphans(state_files(), lambda uri: uri).among(feeds, others)}
    assert set(found) == set(of_run)
    any_run = set().union(*named.values())
    for run, uris in named.items():
        listed = [{f"memory://bucket/{key}": key for key in here if key.startswith(f"{prefix}{run}-")} for prefix in prefixes]
        by_others = {uri for files in listed for uri in files if uri in any_run}
        files, uncertain = unnamed_files(run, uris | by_others, listed, others, sure=not uris)
        assert (sorted(key for _, key in found[run].files), sorted(found[run].uncertain)) == (sorted(files), sorted(uncertain))
