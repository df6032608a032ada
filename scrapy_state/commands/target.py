"""How the command line names a place with checkpoints: a spider's name or file, or a URI."""

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

#: Of the project's settings, those that matter for a URI
_FOR_A_URI = re.compile(r"AWS_\w+|FEED_STORAGE_S3_ACL|STATE_STORES|STATE_AT|STATE_LAG")


@dataclass(frozen=True)
class Target:
    """A place with checkpoints, and what is known of the spider that stores them there.

    :param crawler: with the settings the spider would have, and a spider, which is not run
    :param uri: the state feed's URI template; *params_function*: what fills it in, as the feed option ``uri_params``
    :param format: of the state files
    :param spider: the spider's name; None: checkpoints of any spider count
    """

    crawler: Crawler
    uri: str
    params_function: Any
    format: str
    spider: str | None
    store: StoreReader
    template: KeyTemplate

    def writer(self) -> StoreWriter:
        """Return the write side of its store.

        :raises StateSettingsError: if checkpoints can't be written there
        """
        if not self.template.writable:
            raise StateSettingsError(
                f"checkpoints can't be written to {without_credentials(self.uri)}: name the state feed's URI with a "
                "zero-padded number, s3://bucket/state/%(batch_id)010d.json for example"
            )
        return open_template(self.crawler, self.uri, self.params_function, open_writer)[0]

    def resolution(self) -> Resolution:
        """Return the newest checkpoint there, or the one that STATE_AT names if the command line gave it. Blocks.

        :raises StateError: as :func:`~scrapy_state.resolver.resolve`
        """
        settings = get_settings(self.crawler)
        at = settings.at if settings.at_explicit else "latest"
        return in_thread(lambda: resolve(self.store, self.template, self.spider, at))

    def resolver_class(self) -> type[SpiderSettingsState]:
        """Return the extension by which a run would find where to start, the project's own if it has one.

        :raises StateSettingsError: if the project has none
        """
        for each in self.crawler.settings.get_component_priority_dict_with_base("EXTENSIONS"):
            cls = load_object(each)
            if isinstance(cls, type) and issubclass(cls, SpiderSettingsState):
                return cls
        raise StateSettingsError(
            'EXTENSIONS has no scrapy_state.extension.StateResolver: set ADDONS = {"scrapy_state.Addon": 500}, '
            "or name the state feed's URI"
        )

    def resolved(self) -> SpiderSettingsState:
        """Return that extension as a run started now would have it: its ``state`` and ``origin`` are known. Blocks.

        :raises StateError: if a run would refuse to start
        """
        cls = self.resolver_class()
        try:
            extension = cls.from_crawler(self.crawler)
        except StateError:
            raise
        except NotConfigured as error:
            raise get_refusal(self.crawler) or StateSettingsError(f"{cls.__name__} is not configured: {error}") from error
        except Exception as error:  # whatever the project's change_state() or validate_state() raises
            raise StateSettingsError(f"a run would not start: {type(error).__name__}: {error}") from error
        if extension.refusal is not None:
            raise extension.refusal
        return extension


def find_target(name: str, settings: Settings, arguments: dict[str, str]) -> Target:
    """Return what *name* means. Blocks: where it is a bare prefix, the store is asked what is there.

    :param name: a spider's name, the file of one (``….py``), a state feed's URI template, or a bare prefix
    :param settings: the project's, with what the command line adds
    :param arguments: spider arguments; for a URI, what fills its placeholders
    :raises StateSettingsError: if it means nothing; the message says what to name
    """
    if name.endswith(".py") and Path(name).is_file():
        return _of_spider(_spider_in_file(name), settings, arguments)
    if any(sign in name for sign in ("/", os.sep, "%(")):
        return _of_uri(name, settings, arguments)
    return _of_spider(_spider_called(name, settings), settings, arguments)


def find_crawler(name: str, settings: Settings, arguments: dict[str, str]) -> Crawler:
    """Return a crawler with the spider that *name* means, a spider's name or the file of one; it is not run.

    :raises StateSettingsError: if it means nothing
    """
    in_file = name.endswith(".py") and Path(name).is_file()
    return _crawler_of(_spider_in_file(name) if in_file else _spider_called(name, settings), settings, arguments)


def _crawler_of(cls: type[Spider], settings: Settings, arguments: dict[str, str]) -> Crawler:
    crawler = Crawler(cls, settings)
    try:
        # As Crawler.crawl() begins, without what needs a reactor
        crawler.spider = cls.from_crawler(crawler, **arguments)
        crawler.addons.load_settings(crawler.settings)
    except (ImportError, TypeError, ValueError, NameError, AttributeError, KeyError) as error:
        raise StateSettingsError(
            f"the spider {cls.name} can't be made: {type(error).__name__}: {error}; give its arguments as for "
            "scrapy crawl, -a NAME=VALUE"
        ) from error
    return crawler


def _of_spider(cls: type[Spider], settings: Settings, arguments: dict[str, str]) -> Target:
    crawler = _crawler_of(cls, settings, arguments)
    feed, source = StateFeed.from_settings(crawler.settings), get_settings(crawler).read_from
    if feed is not None:
        return _made(crawler, feed.uri, feed.options.get("uri_params"), feed.format, cls.name)
    if isinstance(source, str):
        return _made(crawler, source, None, "json", None)
    raise StateSettingsError(
        f"the spider {cls.name} has no state feed: add one to FEEDS (item_classes of just StateItem), or name a URI"
    )


def _of_uri(uri: str, settings: Settings, arguments: dict[str, str]) -> Target:
    chosen = {name: settings[name] for name in settings if _FOR_A_URI.fullmatch(name)}
    if "name" in placeholders(uri) and "name" not in arguments:
        raise StateSettingsError(f"{without_credentials(uri)} has %(name)s: say of which spider, -a name=…")
    format = Path(uri).suffix.removeprefix(".")
    format = format if format in FORMATS else "json"
    chosen["FEEDS"] = {uri: {"format": format, "item_classes": [StateItem]}}
    chosen.update(EXTENSIONS={StateResolver: 10}, EXTENSIONS_BASE={})
    own = Settings(chosen)
    for name in set(chosen) & {"STATE_AT", "STATE_LAG"}:
        own.set(name, chosen[name], settings.getpriority(name) or 0)
    crawler = Crawler(Spider, own)
    crawler.spider = Spider.from_crawler(crawler, **{"name": "any", **arguments})
    spider = arguments.get("name")
    crawler.spider.name = spider  # type: ignore[assignment]
    target = _made(crawler, uri, None, format, spider)
    if not target.template.rest:  # a bare prefix: what lies there says more
        found = in_thread(lambda: resolve(target.store, target.template, spider))
        template = found.template or target.template
        suffix = str(template.rest[-1]).rpartition(".")[2] if template.rest else ""
        target = replace(target, template=template, format=suffix if suffix in FORMATS else format)
    return target


def _made(crawler: Crawler, uri: str, params_function: Any, format: str, spider: str | None) -> Target:
    store, template = open_template(crawler, uri, params_function, open_reader)
    return Target(crawler, uri, params_function, format, spider, store, template)


def _spider_called(name: str, settings: Settings) -> type[Spider]:
    if not inside_project():
        raise StateSettingsError(
            f"{name!r} may be a spider's name, but this is no Scrapy project: go to the folder of its scrapy.cfg, or name the "
            "URI of its state feed, with a slash: s3://bucket/state/, ./state/"
        )
    try:
        AddonManager.load_pre_crawler_settings(settings)
        loader = get_spider_loader(settings.frozencopy())
    except Exception as error:  # whatever the project's modules raise as they are imported
        raise StateSettingsError(f"the project's spiders can't be loaded: {type(error).__name__}: {error}") from error
    try:
        return loader.load(name)
    except KeyError:
        names = ", ".join(sorted(loader.list())) or "none"
        raise StateSettingsError(
            f"the project has no spider {name!r} (it has: {names}); a URI has a slash: s3://bucket/state/, ./state/"
        ) from None


def _spider_in_file(path: str) -> type[Spider]:
    file = Path(path).absolute()
    sys.path.insert(0, str(file.parent))  # as scrapy runspider
    try:
        found = list(iter_spider_classes(import_module(file.stem)))
    except Exception as error:  # whatever the module raises as it is imported
        raise StateSettingsError(f"{path} can't be loaded: {type(error).__name__}: {error}") from error
    if not found:
        raise StateSettingsError(f"{path} has no spider: name the file of one")
    return found[-1]
