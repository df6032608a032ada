"""Every call that can fail, fails once: files, threads, the store.

Each crawl has one failing call. The crawl continues, or ends with one error and exit code 1 (75 if it may help to try again
later); then the next run completes it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracle import Files, local_files
from short_crawls import SHAPES, Crawls, Run, has_ended, put, wrong
from system_calls import ERRORS, KINDS

FILE_CALLS = [kind for kind in KINDS if kind not in ("thread", "store")]
GROUPS = {"files": FILE_CALLS, "threads": ["thread"], "store": ["store"]}
#: An environment variable. If it is set, each call fails with each error, otherwise with one of them.
EVERY_ERROR = "FAULTS_EVERY_ERROR"


@pytest.fixture(scope="module")
def crawls() -> Iterator[Crawls]:
    with Crawls() as found:
        yield found


def killed(crawls: Crawls, folder: Path, shape: str) -> Files:
    """Return what a crawl in *folder* has stored that was killed when about half of it was done."""
    crawls.kill(folder, shape, folder.with_suffix(".calls"))
    return local_files(folder / "data")


class Failures:
    """Crawls whose calls fail, from the same beginning each time.

    :param begun: what is stored at that beginning
    """

    def __init__(self, crawls: Crawls, folder: Path, shape: str, begun: Files) -> None:
        self._crawls, self._folder, self._shape, self._begun = crawls, folder, shape, begun
        self._met = folder.with_suffix(".met")
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []

    def each(self, kinds: list[str], step: int = 1, lasting: bool = False) -> None:
        """Let the first call of *kinds* fail, the next one, and so on until there are not that many."""
        number = 1
        while self._fails(kinds, number, number // step, lasting):
            number += step
        assert number > 1, f"there are no calls of {kinds}"

    def _fails(self, kinds: list[str], number: int, turn: int, lasting: bool) -> bool:
        errors = KINDS[kinds[0]]
        for error in errors if EVERY_ERROR in os.environ else [errors[turn % len(errors)]]:
            self._met.unlink(missing_ok=True)
            failing = {"kinds": kinds, "number": number, "error": error, "met": str(self._met), "lasting": lasting}
            run = self._crawls.run(put(self._folder, self._begun), self._shape, {"failing": failing})
            if not self._met.exists():
                assert run.code == 0, run.log
                return False
            faults = self._faults(run)
            self.outcomes[f"{error}, exit code {run.code}"] += 1
            if faults:
                where, later = self._met.read_text(), " and all later ones" * lasting
                log = "" if self.faults else f"\n{run.log}"  # one is enough
                self.faults.append(f"call {number} ({where}) with {error}{later}: {faults}{log}")
        return True

    def _faults(self, run: Run) -> list[str]:
        if run.code not in (0, 1, 75):
            return [f"the exit code is {run.code} after {run.seconds:.0f} s"]
        shape, errors = SHAPES[self._shape], run.lines("ERROR", "CRITICAL")
        faults = [] if len(errors) == bool(run.code) else [f"exit code {run.code} with the errors {errors}"]
        if "Traceback" in run.log:
            faults.append("a traceback")
        if not self._met.read_text().startswith("unlink"):
            faults += [f"{path} was left behind" for path in self._folder.rglob(".scrapy_state-*")]
        # The last checkpoint may have been stored after all: nobody could tell that its name was durable.
        is_over = run.code == 0 or has_ended(self._folder, local_files(self._folder / "data"))
        faults += wrong(self._folder, shape, over=is_over)
        if not is_over:
            after = self._crawls.run(self._folder, self._shape)
            if after.code or after.lines("ERROR", "CRITICAL"):
                faults.append(f"the next run: {after.log}")
            faults += wrong(self._folder, shape, over=True)
        return faults


@pytest.mark.long
def test_a_call_that_fails_loses_nothing(crawls: Crawls, tmp_path: Path) -> None:
    """Whichever call of a resumed crawl fails, the crawl continues or ends with one error, and the next run completes it."""
    folder = tmp_path / "crawl"
    failures = Failures(crawls, folder, "batches", killed(crawls, folder, "batches"))
    failures.each(FILE_CALLS, step=6)
    failures.each(["thread"])
    failures.each(["store"], step=2)
    print(failures.outcomes)
    assert not failures.faults, "\n\n".join(failures.faults)


@pytest.mark.campaign
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("resumed", [False, True], ids=["new", "resumed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_call(crawls: Crawls, tmp_path: Path, shape: str, resumed: bool, group: str) -> None:
    """The same for every call, in new and in resumed crawls of all shapes."""
    folder = tmp_path / "crawl"
    failures = Failures(crawls, folder, shape, killed(crawls, folder, shape) if resumed else {})
    failures.each(GROUPS[group])
    print(failures.outcomes)
    assert not failures.faults, "\n\n".join(failures.faults)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["open", "write", "fsync", "link", "thread"])
def test_a_call_that_fails_from_then_on(crawls: Crawls, tmp_path: Path, kind: str) -> None:
    """The same if a call and all later ones of its kind fail: the disk stays full, no thread starts any more."""
    folder = tmp_path / "crawl"
    failures = Failures(crawls, folder, "batches", {})
    failures.each([kind], lasting=True)
    print(failures.outcomes)
    assert not failures.faults, "\n\n".join(failures.faults)


def test_errors() -> None:
    """Every kind of call has errors, all of them known."""
    assert {error for errors in KINDS.values() for error in errors} == ERRORS.keys()
