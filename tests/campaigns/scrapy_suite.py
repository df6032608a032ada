"""Runs Scrapy's own feed-export tests with `CheckpointFeedExporter` instead of `FeedExporter`: `make scrapy-suite`.

It unpacks the source distribution of the installed Scrapy under `build/`, without its `scrapy/` folder, so that the tests
import the installed Scrapy. What else those tests need is installed there, too, not in this environment. Before any test is
imported, `scrapy.extensions.feedexport.FeedExporter`, the name that the tests and `EXTENSIONS_BASE` use, becomes
`CheckpointFeedExporter`. Arguments go to pytest.
"""

import fnmatch
import functools
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import scrapy
from scrapy.extensions import feedexport

from scrapy_state.feedexport import CheckpointFeedExporter

CACHE = Path(__file__).resolve().parents[2] / "build" / "scrapy-suite"
DEPS = ("pytest-twisted", "pyftpdlib", "google-cloud-storage")
PYTEST_ARGS = ("-ra", "-W", "ignore:You are using a:FutureWarning")  # google-cloud-storage, of old Pythons

# Scrapy's tests that cannot apply here: {fnmatch pattern of the test id: reason}.
INAPPLICABLE: dict[str, str] = {}


class Report:
    """A pytest plugin: deselects tests that cannot apply, and counts the others."""

    def __init__(self) -> None:
        self.exporters = 0
        self.outcomes: Counter[str] = Counter()
        self.inapplicable: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        dropped = []
        for item in items:
            if pattern := next((p for p in INAPPLICABLE if fnmatch.fnmatchcase(item.nodeid, p)), None):
                dropped.append(item)
                self.inapplicable[pattern] += 1
        items[:] = [item for item in items if item not in dropped]
        config.hook.pytest_deselected(items=dropped)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.outcomes[report.outcome] += 1

    def replace_feed_exporter(self) -> None:
        init = CheckpointFeedExporter.__init__

        @functools.wraps(init)
        def counted(*args: object, **kwargs: object) -> None:
            init(*args, **kwargs)
            self.exporters += 1

        CheckpointFeedExporter.__init__ = counted
        feedexport.FeedExporter = CheckpointFeedExporter


def pip(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *args], check=True)


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache, which `make` has filled, now or in an earlier run."""
    if not (path := CACHE / name).is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
            (filling := Path(tmp) / name).mkdir()
            make(filling)
            filling.rename(path)
    return path


def unpack_tests(folder: Path) -> None:
    pip("download", "--no-deps", "--no-binary", "scrapy", "--dest", str(folder), f"scrapy=={scrapy.__version__}")
    (sdist,) = folder.iterdir()
    with tarfile.open(sdist) as tar:
        tar.extractall(folder, [m for m in tar if m.name.split("/")[1:2] != ["scrapy"]], filter="data")
    sdist.unlink()


def install_deps(folder: Path) -> None:
    constraints = folder / "constraints.txt"  # what is installed already, in the version that is installed
    constraints.write_text("\n".join(sorted({f"{d.name}=={d.version}" for d in metadata.distributions()})))
    pip("install", "--target", str(folder), "--constraint", str(constraints), *DEPS)


def main() -> int:
    (source,) = cached(f"scrapy-{scrapy.__version__}", unpack_tests).iterdir()
    deps = str(cached(f"deps-{sys.implementation.cache_tag}", install_deps))
    os.chdir(source)
    sys.path[:] = [*sys.path[1:], deps]  # without this file's folder
    os.environ["PYTHONPATH"] = deps  # for the servers which the tests start

    report = Report()
    report.replace_feed_exporter()
    tests = sorted(str(path) for path in Path("tests").glob("test_feedexport*.py"))
    code = int(pytest.main([*PYTEST_ARGS, *sys.argv[1:], *tests], plugins=[report])) if tests else 1

    for pattern, reason in INAPPLICABLE.items():
        print(f"cannot apply: {pattern} ({report.inapplicable[pattern]} deselected): {reason}")
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes.items()))
    print(f"Scrapy {scrapy.__version__}: {outcomes or 'no tests'}; {report.exporters} CheckpointFeedExporter made")
    return code or int(not (report.exporters and report.outcomes["passed"]))


if __name__ == "__main__":
    sys.exit(main())
