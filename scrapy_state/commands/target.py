"""What the command line means by a target: a spider's name, a spider's file, or a URI with checkpoints."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from scrapy import Spider
from scrapy.addons import AddonManager
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.settings import Settings
from scrapy.spiderloader import get_spider_loader
from scrapy.utils.misc import load_object
from scrapy.utils.project import inside_project
from scrapy.utils.spider import iter_spider_classes

from ..exceptions import StateError, StateSettingsError
from ..extension import SpiderSettingsState, StateResolver
from ..feeds import StateFeed, open_template
from ..items import StateItem
from ..lineage.resolve import Resolution, resolve
from ..model.checkpoint import FORMATS
from ..model.key_template import KeyTemplate, placeholders, without_credentials
from ..resume.refusal import get_refusal
from ..settings import get_settings
from ..stores import StoreReader, StoreWriter, open_reader, open_writer
from ..stores.retry import in_thread
from .state import NO
from .terminal import say

#: The settings of the project that also apply to a target given as a URI
_FOR_A_URI = re.compile(r"AWS_\w+|FEED_STORAGE_S3_ACL|STATE_STORES|STATE_AT|STATE_LAG|STATE_REQUESTS(_URI)?")
_REDIS = "scrapy_state.redis"


@dataclass(frozen=True)
class Target:
    """The checkpoints that the command is about, and what is known of the spider that stores them.

    :param crawler: has a spider and the settings it would crawl with; it never runs
    :param uri: the state feed's URI template
    :param params_function: the feed option ``uri_params``, which helps to fill the template
    :param format: of the state files
    :param spider: the spider's name; None if checkpoints of any spider count
    """

    crawler: Crawler
    uri: str
    params_function: Any
    format: str
    spider: str | None
    store: StoreReader
    template: KeyTemplate

    def writer(self) -> StoreWriter:
        """Return the store of the checkpoints, opened for writing.

        :raises StateSettingsError: if checkpoints can't be written there
        """
        if not self.template.writable:
            raise StateSettingsError(
                "checkpoints can't be written there",
                uri=without_credentials(self.uri),
                remedy="name the state feed's URI, with a zero-padded number, such as s3://bucket/state/%(batch_id)010d.json",
            )
        return open_template(self.crawler, self.uri, self.params_function, open_writer)[0]

    def resolution(self) -> Resolution:
        """Find the newest checkpoint, or the one that STATE_AT names if the command line gave that setting. Blocks.

        :raises StateError: as :func:`~scrapy_state.lineage.resolve.resolve`
        """
        settings = get_settings(self.crawler)
        at = settings.at if settings.at_explicit else "latest"
        return in_thread(lambda: resolve(self.store, self.template, self.spider, at))

    def resolver_class(self) -> type[SpiderSettingsState]:
        """Return the extension that finds where a run starts: the project's own subclass if it has one.

        :raises StateSettingsError: if EXTENSIONS has no such extension
        """
        for extension in self.crawler.settings.get_component_priority_dict_with_base("EXTENSIONS"):
            cls = load_object(extension)
            if isinstance(cls, type) and issubclass(cls, SpiderSettingsState):
                return cls
        raise StateSettingsError(
            "EXTENSIONS has no scrapy_state.extension.StateResolver",
            remedy='set ADDONS = {"scrapy_state.Addon": 500}, or name the state feed\'s URI',
        )

    def resolved(self) -> SpiderSettingsState:
        """Return that extension after it has found its ``state`` and ``origin``, as for a run started now. Blocks.

        :raises StateError: if a run would refuse to start
        """
        cls = self.resolver_class()
        try:
            extension = cls.from_crawler(self.crawler)
        except StateError:
            raise
        except NotConfigured as error:
            raise get_refusal(self.crawler) or StateSettingsError(f"{cls.__name__} is not configured: {error}") from error
        except Exception as error:  # the project's own extension may raise anything
            raise StateSettingsError(f"a run would not start: {type(error).__name__}: {error}") from error
        if extension.refusal is not None:
            raise extension.refusal
        return extension


def find_target(name: str, settings: Settings, arguments: dict[str, str]) -> Target:
    """Return what *name* means. Blocks if it is a bare prefix: then the store is asked for the names of the files there.

    :param name: a spider's name, a spider's file (``….py``), a state feed's URI template, or a bare prefix
    :param settings: those of the project and of the command line
    :param arguments: spider arguments; with a URI, the values of its placeholders
    :raises StateSettingsError: if nothing has that name; the message says what to name instead
    """
    if names_spider(name):
        return target_of(find_crawler(name, settings, arguments))
    return _of_uri(name, settings, arguments)


def names_spider(name: str) -> bool:
    """Return whether *name* means a spider; otherwise it is a URI."""
    return _is_spiders_file(name) or not any(sign in name for sign in ("/", os.sep, "%("))


def _is_spiders_file(name: str) -> bool:
    return name.endswith(".py") and Path(name).is_file()


def no_checkpoint(target: Target) -> int:
    """Say that there is no checkpoint, and return the exit code for that."""
    say(f"no checkpoint at {target.store.uri(target.template.prefix)}")
    return NO


def find_crawler(name: str, settings: Settings, arguments: dict[str, str]) -> Crawler:
    """Return a crawler with the spider that *name* means, a spider's name or a spider's file. The crawler never runs.

    :raises StateSettingsError: if no spider has that name
    """
    cls = _spider_in_file(name) if _is_spiders_file(name) else _spider_called(name, settings)
    return _crawler_of(cls, settings, arguments)


def is_in_redis(crawler: Crawler) -> bool:
    """Return whether SCHEDULER is the scheduler in scrapy_state.redis or a subclass. Doesn't need redis-py."""
    scheduler = crawler.settings["SCHEDULER"]
    if isinstance(scheduler, str) and scheduler.startswith(_REDIS):
        return True
    try:
        classes = getattr(load_object(scheduler), "__mro__", ())
    except (ImportError, NameError, TypeError, ValueError):
        return False
    return any(cls.__module__.startswith(_REDIS) for cls in classes)


def _crawler_of(cls: type[Spider], settings: Settings, arguments: dict[str, str]) -> Crawler:
    crawler = Crawler(cls, settings)
    try:
        # The first steps of Crawler.crawl(), without those that need a reactor
        crawler.spider = cls.from_crawler(crawler, **arguments)
        crawler.addons.load_settings(crawler.settings)
    except (ImportError, TypeError, ValueError, NameError, AttributeError, KeyError) as error:
        raise StateSettingsError(
            f"the spider {cls.name} can't be created: {type(error).__name__}: {error}",
            remedy="if it needs arguments, give them as for scrapy crawl: -a NAME=VALUE",
        ) from error
    return crawler


def target_of(crawler: Crawler) -> Target:
    """Return the checkpoints of the spider of *crawler*, which :func:`find_crawler` made.

    :raises StateSettingsError: if the spider has no state feed
    """
    feed, source = StateFeed.from_settings(crawler.settings), get_settings(crawler).read_from
    if feed is not None:
        return _made(crawler, feed.uri, feed.options.get("uri_params"), feed.format, crawler.spidercls.name)
    if isinstance(source, str):
        return _made(crawler, source, None, "json", None)
    raise StateSettingsError(
        f"the spider {crawler.spidercls.name} has no state feed",
        remedy="add a feed to FEEDS whose item_classes is just StateItem, or name a URI",
    )


def _of_uri(uri: str, settings: Settings, arguments: dict[str, str]) -> Target:
    chosen = {name: settings[name] for name in settings if _FOR_A_URI.fullmatch(name)}
    if "name" in placeholders(uri) and "name" not in arguments:
        raise StateSettingsError(
            "the URI has %(name)s", uri=without_credentials(uri), remedy="give the name of the spider: -a name=…"
        )
    format = Path(uri).suffix.removeprefix(".")
    format = format if format in FORMATS else "json"
    chosen["FEEDS"] = {uri: {"format": format, "item_classes": [StateItem]}}
    chosen.update(EXTENSIONS={StateResolver: 10}, EXTENSIONS_BASE={}, SCHEDULER="scrapy_state.frontier.Scheduler")
    own = Settings(chosen)
    for name in set(chosen) & {"STATE_AT", "STATE_LAG"}:
        own.set(name, chosen[name], settings.getpriority(name) or 0)
    crawler = Crawler(Spider, own)
    crawler.spider = Spider.from_crawler(crawler, **{"name": "any", **arguments})
    spider = arguments.get("name")
    crawler.spider.name = spider  # type: ignore[assignment]
    target = _made(crawler, uri, None, format, spider)
    if not target.template.rest:  # a bare prefix: the names of the files there show the template and the format
        resolution = in_thread(lambda: resolve(target.store, target.template, spider))
        template = resolution.template or target.template
        suffix = str(template.rest[-1]).rpartition(".")[2] if template.rest else ""
        target = replace(target, template=template, format=suffix if suffix in FORMATS else format)
    return target


def _made(crawler: Crawler, uri: str, params_function: Any, format: str, spider: str | None) -> Target:
    store, template = open_template(crawler, uri, params_function, open_reader)
    return Target(crawler, uri, params_function, format, spider, store, template)


def _spider_called(name: str, settings: Settings) -> type[Spider]:
    if not inside_project():
        raise StateSettingsError(
            f"{name!r} looks like a spider's name, but there is no Scrapy project in this folder",
            remedy="go to the folder with scrapy.cfg, or name a URI, which has a slash: s3://bucket/state/, ./state/",
        )
    try:
        AddonManager.load_pre_crawler_settings(settings)
        loader = get_spider_loader(settings.frozencopy())
    except Exception as error:  # importing the project's modules may raise anything
        raise StateSettingsError(f"the project's spiders can't be loaded: {type(error).__name__}: {error}") from error
    try:
        return loader.load(name)
    except KeyError:
        names = ", ".join(sorted(loader.list())) or "none"
        raise StateSettingsError(
            f"the project has no spider {name!r} (it has: {names})",
            remedy="correct the name, or name a URI, which has a slash: s3://bucket/state/, ./state/",
        ) from None


def _spider_in_file(path: str) -> type[Spider]:
    file = Path(path).absolute()
    sys.path.insert(0, str(file.parent))  # as scrapy runspider does
    try:
        classes = list(iter_spider_classes(import_module(file.stem)))
    except Exception as error:  # importing the module may raise anything
        raise StateSettingsError(f"{path} can't be loaded: {type(error).__name__}: {error}") from error
    if not classes:
        raise StateSettingsError(f"{path} has no spider", remedy="name a file that has one")
    return classes[-1]
