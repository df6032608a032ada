"""What FEEDS says: which entry is the state feed, and which item feeds the checkpoints name."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlparse

from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.settings import SETTINGS_PRIORITIES, BaseSettings
from scrapy.utils.misc import load_object

from .exceptions import StateSettingsError
from .items import StateItem
from .model.checkpoint import FORMATS
from .model.key_template import VARYING, KeyTemplate, before_varying, placeholders, without_credentials
from .scrapy_internals import typed
from .settings import folder_uri, names_class
from .stores import StoreReader

logger = logging.getLogger("scrapy_state.state")

#: Options without which a feed means something else: misspelt, the state feed is an item feed, and overwrites checkpoints.
_DECISIVE_OPTIONS = ("item_classes", "checkpoint", "batch_file_size", "allow_lineage_folder")
#: The beginning of a URI without its colon, or with one slash: it would be a folder of that name, or no address at all.
_TORN_SCHEME = re.compile(r"(s3|gs|ftp|file)//|(s3|gs|ftp):/(?!/)")


@dataclass(frozen=True)
class StateFeed:
    """The FEEDS entry whose ``item_classes`` is exactly :class:`~scrapy_state.items.StateItem`.

    :param key: its key in FEEDS
    :param uri: that key as text: a URI template
    :param options: its feed options, unchanged
    :param format: "json" or "jsonlines" (or an alias of that)
    """

    key: Any
    uri: str
    options: Mapping[str, Any]
    format: str

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> StateFeed | None:
        """Find it in FEEDS. Return None if FEEDS has no state feed.

        :raises StateSettingsError: if FEEDS has two, the format is neither json nor jsonlines, or an entry is misspelt
        """
        for key, options in settings.getdict("FEEDS").items():
            _check_spelling(str(key), options)
        entries = [(key, options) for key, options in settings.getdict("FEEDS").items() if is_state_feed(options)]
        if not entries:
            return None
        if len(entries) > 1:
            raise StateSettingsError(
                f"FEEDS has {len(entries)} state feeds (whose item_classes is just StateItem): "
                f"{[without_credentials(str(key)) for key, _ in entries]}",
                remedy="keep one",
            )
        key, options = entries[0]
        uri = str(key.absolute()) if isinstance(key, Path) else str(key)
        format = options.get("format") or Path(uri).suffix.removeprefix(".")
        if format not in FORMATS:
            raise StateSettingsError(
                f"FEEDS: the state feed {without_credentials(uri)!r} has the format {format!r}",
                remedy="a checkpoint is 'json' or 'jsonlines'",
            )
        return cls(key, uri, options, format)

    def not_writable(self) -> NoReturn:
        """Raise the error for a URI template that checkpoints can't be written to."""
        folder, _, name = without_credentials(self.uri).rpartition("/")
        better = f"{folder}/%(batch_id)010d{Path(name).suffix or '.json'}"
        raise StateSettingsError(
            f"FEEDS: checkpoints can't be written to the state feed {without_credentials(self.uri)!r}: the only thing "
            "that varies in its URI must be a zero-padded %(batch_id)",
            remedy=f"use {better!r}, for example, or STATE_FROM to resume from these files without writing",
        )


def _check_spelling(uri: str, options: Mapping[str, Any]) -> None:
    if torn := _TORN_SCHEME.match(uri):
        raise StateSettingsError(
            f"FEEDS has an entry that begins with {torn[0]!r}", remedy=f"correct it to '{torn[1] or torn[2]}://…'"
        )
    for option in options:
        for meant in difflib.get_close_matches(str(option), _DECISIVE_OPTIONS, n=1, cutoff=0.85):
            if option != meant:
                raise StateSettingsError(
                    f"FEEDS: {without_credentials(uri)!r} has the option {option!r}", remedy=f"correct it to {meant!r}"
                )


def requests_template(settings: BaseSettings) -> str | None:
    """Return the URI template of the folder with the segments of a crawl's requests; None if there is no state feed.

    :raises StateSettingsError: as :meth:`StateFeed.from_settings`, or if STATE_REQUESTS_URI has the wrong kind
    """
    chosen, feed = folder_uri(settings, "STATE_REQUESTS_URI"), StateFeed.from_settings(settings)
    return f"{before_varying(feed.uri)}requests/" if chosen is None and feed is not None else chosen


def segments_feed(settings: BaseSettings) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the URI template of the segments, as if a feed stored them, and its options: they are nobody's orphans."""
    folder, feed = requests_template(settings), StateFeed.from_settings(settings)
    if folder is not None:
        yield f"{folder}%(segment)s.tsv.gz", {} if feed is None else feed.options


def all_item_feeds(settings: BaseSettings) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the URI template and the options of each feed other than the state feed."""
    for key, options in settings.getdict("FEEDS").items():
        if not is_state_feed(options):
            yield str(key.absolute()) if isinstance(key, Path) else str(key), options


def item_feeds_with_checkpoints(settings: BaseSettings) -> set[str]:
    """Return the URI templates of the item feeds whose files the checkpoints name.

    :raises StateSettingsError: if one of them would overwrite the files of an earlier run, or there are two state feeds
    """
    StateFeed.from_settings(settings)  # It raises if there are two.
    uris = set()
    for uri, options in all_item_feeds(settings):
        if options.get("checkpoint", True) is False:
            continue
        names = placeholders(uri)
        unique = "batch_time" in names or ("batch_id" in names and names & {"run_id", "time"})
        if unique:
            uris.add(uri)
        elif urlparse(uri).scheme == "stdout":
            continue
        elif settings.getpriority("FEEDS") == SETTINGS_PRIORITIES["cmdline"] and typed("FEEDS") is None:
            logger.info("the feed %s takes no part in checkpoints: its URI is the same in every run", without_credentials(uri))
        else:
            suffix = Path(uri).suffix
            batch = "" if "batch_id" in names else "-%(batch_id)05d"
            better = f"{uri.removesuffix(suffix)}-%(run_id)s{batch}{suffix}"
            raise StateSettingsError(
                f"FEEDS: the item feed {without_credentials(uri)!r} has the same URI in every run or batch, so a resumed run "
                "would overwrite the files of an earlier one",
                remedy=f"make the URI unique, {without_credentials(better)!r} for example, or leave the feed out of the "
                'checkpoints with the feed option "checkpoint": False',
            )
    return uris


def item_feeds(settings: BaseSettings) -> Iterator[tuple[str, Any]]:
    """Yield the URI template of each item feed whose files the checkpoints name, and its ``uri_params`` function.

    :raises StateSettingsError: as :func:`item_feeds_with_checkpoints`
    """
    uris = item_feeds_with_checkpoints(settings)
    for uri, options in all_item_feeds(settings):
        if uri in uris:
            yield uri, options.get("uri_params")


def uri_params(spider: Spider, function: Any, *, run_id: str = "0", batch_id: int = 1) -> dict[str, Any]:
    """Return what fills a feed's URI: the spider's attributes, changed by the ``uri_params`` function if there is one.

    It works like FeedExporter._get_uri_params (scrapy/extensions/feedexport.py), but leaves out attributes that raise.

    :param run_id: like *batch_id* and the current time, for the function to read; the URI may be filled in with another
    :raises StateSettingsError: if the function raises
    """
    now = datetime.now(timezone.utc)
    params = _attributes(spider)
    params["time"] = now.replace(microsecond=0).isoformat().replace(":", "-")
    params["batch_time"] = now.isoformat().replace(":", "-")
    params["batch_id"] = batch_id
    params["run_id"] = run_id
    if not function:
        return params
    try:
        changed = load_object(function)(params, spider)
    except Exception as error:  # The function is the project's own. One line reports whatever it raises.
        name = function if isinstance(function, str) else getattr(function, "__qualname__", function)
        raise StateSettingsError(f"FEED_URI_PARAMS: {name} raised {type(error).__name__}: {error}") from error
    return params if changed is None else dict(changed)


def _attributes(spider: Spider) -> dict[str, Any]:
    attributes = {}
    for name in dir(spider):
        # A property may need the engine, which does not exist yet; a URI hardly ever contains such a property.
        with suppress(Exception):
            attributes[name] = getattr(spider, name)
    return attributes


def is_state_feed(options: Mapping[str, Any]) -> bool:
    """Whether a FEEDS entry with these options is the state feed."""
    classes = options.get("item_classes") or ()
    if isinstance(classes, (str, type)):
        return names_class(classes, StateItem)  # Scrapy accepts only a list, which matters in item feeds only.
    try:
        return bool(classes) and all(load_object(cls) is StateItem for cls in classes)
    except (ImportError, NameError, ValueError) as error:  # what load_object() raises for a name that does not exist
        raise StateSettingsError(f"FEEDS: item_classes is {classes!r}: {error}", remedy="correct the name") from error


S = TypeVar("S", bound=StoreReader)


def open_template(
    crawler: Crawler, uri: str, params_function: Any, opener: Callable[..., tuple[S, str]], run_id: str | None = None
) -> tuple[S, KeyTemplate]:
    """Open the store of a feed's URI template. Return that store, and the template of the feed's keys in it.

    :param params_function: the feed's ``uri_params``
    :param opener: :func:`~scrapy_state.stores.open_reader` or :func:`~scrapy_state.stores.open_writer`
    :param run_id: if given, the template matches only this run's keys
    """
    assert crawler.spider is not None
    params = uri_params(crawler.spider, params_function or crawler.settings["FEED_URI_PARAMS"])
    varying = VARYING if run_id is None else VARYING - {"run_id"}
    template = KeyTemplate.parse(uri, {**params, "run_id": run_id}, varying)
    store, prefix = opener(template.prefix, crawler.settings)
    return store, template.under(prefix)
