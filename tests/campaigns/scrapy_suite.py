"""Runs Scrapy's own tests with scrapy_state switched on: `make scrapy-suite`. What passes without it has to pass with it.

It unpacks the source distribution of the installed Scrapy under `build/`, without its `scrapy/` folder, so that the tests
import the installed Scrapy. What else those tests need is installed there, too, not in this environment. The tests run in
several ways, each in a process of its own:

- plain: as they are;
- state: every `Crawler` gets the add-on, and a state feed and an item feed in a folder of its own;
- exporter: only the feed-export tests, with `CheckpointFeedExporter` in the place of `FeedExporter`, without a state feed;
- scheduler: only the scheduler's tests, with our `Scheduler` in the place of Scrapy's, without a state feed.

A test that fails in one of our ways only is tried once more alone, because some measure times. Arguments go to pytest.
"""

import argparse
import contextlib
import fnmatch
import functools
import json
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
from scrapy import signals
from scrapy.core import scheduler
from scrapy.core.engine import ExecutionEngine
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.extensions import feedexport
from scrapy.utils.misc import build_from_crawler

from scrapy_state.extension import StateResolver
from scrapy_state.feedexport import CheckpointFeedExporter
from scrapy_state.frontier import Scheduler
from scrapy_state.selfcheck import SelfCheck

CACHE = Path(__file__).resolve().parents[2] / "build" / "scrapy-suite"
DEPS = ("pytest-twisted", "pyftpdlib", "google-cloud-storage")
PYTEST_ARGS = ("-ra", "-W", "ignore:You are using a:FutureWarning")  # google-cloud-storage, of old Pythons

#: Scrapy's test modules (`tests/test_<name>.py`) that run crawls, or test what we put something else in the place of.
MODULES = (
    *("closespider", "core_scraper", "crawl", "crawler", "crawler_runners", "downloaderslotssettings"),
    *("downloadermiddleware*", "dupefilters", "engine*", "extension_periodic_log", "extension_throttle", "feedexport*"),
    *("logformatter", "middleware", "pipeline_crawl", "pipelines", "request_attribute_binding", "request_cb_kwargs"),
    *("request_left", "scheduler*", "signals", "spider_crawl", "spider_start", "spidermiddleware*", "spiderstate", "stats"),
    "zz_resources",
)
WAYS = {"plain": MODULES, "state": MODULES, "exporter": ("feedexport*",), "scheduler": ("scheduler*",)}

# Scrapy's tests that cannot hold with us: {(way, fnmatch pattern of the test id): reason}.
INAPPLICABLE: dict[tuple[str, str], str] = {
    ("state", "*::TestCrawl::test_start_unsupported_output"): "yields objects that no feed can export, and expects no error",
    ("state", "*::TestBatchDeliveries::test_export_no_items_store_empty"): "we store no empty batches (docs/setup.md)",
    ("state", "*::TestCustomPipelineManager::test_integration_no_async_*"): "asserts what Scrapy warns of if ITEM_PROCESSOR "
    "itself, which is ours, has old methods",
    ("state", "*::test_unserializable_requests"): "counts lines of Scrapy's log about JOBDIR, which we do not use",
    ("state", "*::TestCrawlSpider::test_closed_signal_call"): "sends spider_closed in a way that calls no coroutines, such as "
    "FeedExporter.close_spider(), and fails with any feed",
}


class Plugin:
    """A pytest plugin: runs the tests in one way, and notes how they end."""

    def __init__(self, way: str, folder: Path) -> None:
        self.way = way
        self.folder = folder
        self.outcomes: dict[str, str] = {}
        self.made: Counter[str] = Counter()
        after(CheckpointFeedExporter, lambda *args, **kwargs: self.made.update(["exporters"]))
        after(Scheduler, lambda *args, **kwargs: self.made.update(["schedulers"]))
        if way == "state":
            after(Crawler, self.switch_on)
            before(ExecutionEngine, make_extensions_again)
        elif way == "exporter":
            feedexport.FeedExporter = CheckpointFeedExporter
        elif way == "scheduler":
            scheduler.Scheduler = Scheduler

    def switch_on(self, crawler: Crawler, *args: object, **kwargs: object) -> None:
        """Add to the settings what a project would have; what the test sets wins.

        The feeds of a test have mostly URIs that aren't unique, so they get the priority that those of `-o` have.
        """
        self.made["crawlers"] += 1
        settings, place = crawler.settings, self.folder / str(self.made["crawlers"])
        own = dict(settings["FEEDS"])
        feeds = {f"{place}/state/%(batch_id)010d.json": {"format": "json", "item_classes": ["scrapy_state.StateItem"]}}
        if not own:
            feeds[f"{place}/items/%(run_id)s-%(batch_id)05d.jsonl"] = {"format": "jsonlines"}
        settings.set("FEEDS", {**own, **feeds}, priority="cmdline" if own else "project")
        addons = {**settings["ADDONS"], "scrapy_state.Addon": 500}
        settings.set("ADDONS", addons, priority=max(20, settings.getpriority("ADDONS") or 0))
        settings.set("STATE_INTERVAL", 0.1, priority="project")
        settings.set("STATE_ON_ITEM_ERROR", "skip", priority="project")  # as Scrapy does; "stop" ends the crawl

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        patterns = [pattern for way, pattern in INAPPLICABLE if way == self.way]
        dropped = [item for item in items if any(fnmatch.fnmatchcase(item.nodeid, p) for p in patterns)]
        items[:] = [item for item in items if item not in dropped]
        config.hook.pytest_deselected(items=dropped)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.outcomes[report.nodeid] = report.outcome


def after(cls: type, call: Callable[..., None]) -> None:
    init = cls.__init__

    @functools.wraps(init)
    def wrapped(instance: object, *args: object, **kwargs: object) -> None:
        init(instance, *args, **kwargs)
        call(instance, *args, **kwargs)

    cls.__init__ = wrapped


def before(cls: type, call: Callable[..., None]) -> None:
    init = cls.__init__

    @functools.wraps(init)
    def wrapped(instance: object, *args: object, **kwargs: object) -> None:
        call(*args, **kwargs)
        init(instance, *args, **kwargs)

    cls.__init__ = wrapped


def make_extensions_again(crawler: Crawler, *args: object, **kwargs: object) -> None:
    """Make our extensions, now that there is a spider.

    Scrapy's `get_crawler()` makes the extensions before that, as no real crawl does, so ours think that there is no crawl.
    """
    ours = (CheckpointFeedExporter, StateResolver, SelfCheck)
    manager = crawler.extensions
    if crawler.spider is None or any(isinstance(extension, StateResolver) for extension in manager.middlewares):
        return
    for exporter in [e for e in manager.middlewares if isinstance(e, ours)]:
        crawler.signals.disconnect(exporter.open_spider, signals.spider_opened)
        crawler.signals.disconnect(exporter.close_spider, signals.spider_closed)
        crawler.signals.disconnect(exporter.item_scraped, signals.item_scraped)
    manager.middlewares = [e for e in manager.middlewares if not isinstance(e, ours)]
    crawler.settings.frozen = False
    for cls in ours:
        with contextlib.suppress(NotConfigured):
            manager.middlewares.append(build_from_crawler(cls, crawler))
    crawler.settings.freeze()


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


def run_here(way: str, result: Path, args: list[str]) -> None:
    """Run the tests that pytest finds with `args`, in this process; write their outcomes to `result`."""
    (source,) = cached(f"scrapy-{scrapy.__version__}", unpack_tests).iterdir()
    deps = str(cached(f"deps-{sys.implementation.cache_tag}", install_deps))
    os.chdir(source)
    sys.path[:] = [*sys.path[1:], deps]  # without this file's folder
    os.environ["PYTHONPATH"] = deps  # for the servers which the tests start
    with tempfile.TemporaryDirectory() as folder:
        plugin = Plugin(way, Path(folder))
        modules = [m for m in args if m.startswith("tests/")] or [
            str(path) for name in WAYS[way] for path in sorted(Path("tests").glob(f"test_{name}.py"))
        ]
        options = [arg for arg in args if arg not in modules]
        pytest.main([*PYTEST_ARGS, *options, *modules], plugins=[plugin])
        plugin.made["checkpoints"] = len(list(Path(folder).glob("*/state/*.json")))
        plugin.made["segments"] = len(list(Path(folder).glob("*/state/requests/*")))
        result.write_text(json.dumps({"outcomes": plugin.outcomes, "made": plugin.made}))


def run(way: str, *args: str) -> tuple[dict[str, str], dict[str, int]]:
    """Run the tests in a process of their own; return their outcomes by test id, and how many objects of ours were made."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        subprocess.run([sys.executable, __file__, "--way", way, "--result", result, *args], check=True)
        content = json.loads(result.read_text())
        return content["outcomes"], content["made"]


def passed(outcomes: dict[str, str]) -> set[str]:
    return {test for test, outcome in outcomes.items() if outcome == "passed"}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--result", type=Path)
    options, args = parser.parse_known_args()
    if options.way:
        run_here(options.way, options.result, args)
        return 0

    plain, _ = run("plain", *args)
    findings: list[str] = []
    lines = []
    for way in ("state", "exporter", "scheduler"):
        outcomes, made = run(way, *args)
        failed = (passed(plain) & set(outcomes)) - passed(outcomes)
        if failed:
            again, _ = run(way, *args, *sorted(failed))
            print(*(f"{way}: passes only if tried again: {test}" for test in sorted(failed & passed(again))), sep="\n")
            outcomes |= again
            failed -= passed(again)
        findings += (f"{way}: {test}" for test in sorted(failed))
        numbers = ", ".join(f"{count} {name}" for name, count in sorted(made.items()) if count)
        lines.append(f"{way}: {len(passed(outcomes))} of {len(passed(plain) & set(outcomes))} pass; {numbers}")

    for (way, pattern), reason in INAPPLICABLE.items():
        print(f"cannot hold: {way}: {pattern}: {reason}")
    print(*(f"passes plain, not with us: {finding}" for finding in findings), sep="\n")
    print(f"Scrapy {scrapy.__version__}: plain: {len(passed(plain))} of {len(plain)} pass; {'; '.join(lines)}")
    return int(bool(findings) or not passed(plain))


if __name__ == "__main__":
    sys.exit(main())
