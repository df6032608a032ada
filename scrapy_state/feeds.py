"""What FEEDS says: which entry is the state feed, which item feeds take part in checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlparse

from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.settings import SETTINGS_PRIORITIES, BaseSettings
from scrapy.utils.misc import load_object

from .exceptions import StateSettingsError
from .items import StateItem
from .model.checkpoint import FORMATS
from .model.key_template import VARYING, KeyTemplate, placeholders, without_credentials
from .scrapy_internals import typed
from .settings import names_class
from .stores import StoreReader

if TYPE_CHECKING:
    pass

logger = logging.getLogger("scrapy_state.state")


@dataclass(frozen=True)
class StateFeed:
    """The one FEEDS entry whose ``item_classes`` are just :class:`~scrapy_state.items.StateItem`.

    :param key: as it stands in FEEDS
    :param uri: its URI template as text
    :param options: its feed options as they stand there
    :param format: "json" or "jsonlines" (or another name of that)
    """

    key: Any
    uri: str
    options: Mapping[str, Any]
    format: str

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> StateFeed | None:
        """Find it; None if no feed is one.

        :raises StateSettingsError: if there are two, or its format is not json or jsonlines
        """
        found = [(key, options) for key, options in settings.getdict("FEEDS").items() if is_state_feed(options)]
        if not found:
            return None
        if len(found) > 1:
            raise StateSettingsError(
                f"FEEDS has {len(found)} state feeds (item_classes of just StateItem): "
                f"{[without_credentials(str(key)) for key, _ in found]}; keep one"
            )
        key, options = found[0]
        uri = str(key.absolute()) if isinstance(key, Path) else str(key)
        format = options.get("format") or Path(uri).suffix.removeprefix(".")
        if format not in FORMATS:
            raise StateSettingsError(
                f"FEEDS: the state feed {without_credentials(uri)!r} has the format {format!r}; a checkpoint is "
                "'json' or 'jsonlines'"
            )
        return cls(key, uri, options, format)

    def not_writable(self) -> NoReturn:
        """Raise the error for a URI template that checkpoints can't be written to."""
        folder, _, name = without_credentials(self.uri).rpartition("/")
        better = f"{folder}/%(batch_id)010d{Path(name).suffix or '.json'}"
        raise StateSettingsError(
            f"FEEDS: checkpoints can't be written to the state feed {without_credentials(self.uri)!r}: the only thing "
            f"that varies in it must be a zero-padded %(batch_id), as in {better!r}. To resume from it without writing, "
            "use STATE_FROM"
        )


def all_item_feeds(settings: BaseSettings) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the URI template and the options of each feed that is no state feed."""
    for key, options in settings.getdict("FEEDS").items():
        if not is_state_feed(options):
            yield str(key.absolute()) if isinstance(key, Path) else str(key), options


def item_feeds_with_checkpoints(settings: BaseSettings) -> set[str]:
    """Return the URI templates of the item feeds that take part in checkpoints.

    :raises StateSettingsError: for one that would overwrite what an earlier run stored, and if there are two state feeds
    """
    StateFeed.from_settings(settings)  # two of them are an error
    found = set()
    for uri, options in all_item_feeds(settings):
        if options.get("checkpoint", True) is False:
            continue
        names = placeholders(uri)
        unique = "batch_time" in names or ("batch_id" in names and names & {"run_id", "time"})
        if unique:
            found.add(uri)
        elif urlparse(uri).scheme == "stdout":
            continue
        elif settings.getpriority("FEEDS") == SETTINGS_PRIORITIES["cmdline"] and typed("FEEDS") is None:
            logger.info("the feed %s takes no part in checkpoints: its URI is the same in every run", without_credentials(uri))
        else:
            suffix = Path(uri).suffix
            batch = "" if "batch_id" in names else "-%(batch_id)05d"
            better = f"{uri.removesuffix(suffix)}-%(run_id)s{batch}{suffix}"
            raise StateSettingsError(
                f"FEEDS: the item feed {without_credentials(uri)!r} has the same URI in every run or batch, so that a "
                f"resumed run would overwrite what an earlier one stored. Make it unique, {without_credentials(better)!r} "
                'for example, or leave it out of the checkpoints with the feed option "checkpoint": False'
            )
    return found


def item_feeds(settings: BaseSettings) -> Iterator[tuple[str, Any]]:
    """Yield the URI template of each item feed that takes part in checkpoints, and its ``uri_params`` function.

    :raises StateSettingsError: as :func:`item_feeds_with_checkpoints`
    """
    names = item_feeds_with_checkpoints(settings)
    for uri, options in all_item_feeds(settings):
        if uri in names:
            yield uri, options.get("uri_params")


def uri_params(spider: Spider, function: Any, *, run_id: str = "0", batch_id: int = 1) -> dict[str, Any]:
    """Return what fills a feed's URI: the spider's attributes, through the ``uri_params`` function if there is one.

    As FeedExporter._get_uri_params (scrapy/extensions/feedexport.py), but an attribute that can't be read is left out.

    :param run_id: for the function to read, like *batch_id* and the time now, where the URI is not filled in with it
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
    except Exception as error:  # the project's own code: to be told of in one line
        name = function if isinstance(function, str) else getattr(function, "__qualname__", function)
        raise StateSettingsError(f"FEED_URI_PARAMS: {name} raised {type(error).__name__}: {error}") from error
    return params if changed is None else dict(changed)


def _attributes(spider: Spider) -> dict[str, Any]:
    found = {}
    for name in dir(spider):
        # A property may need the engine, which comes later, and few of them stand in a URI.
        with suppress(Exception):
            found[name] = getattr(spider, name)
    return found


def is_state_feed(options: Mapping[str, Any]) -> bool:
    """Whether a FEEDS entry with these options is a state feed."""
    classes = options.get("item_classes") or ()
    if isinstance(classes, (str, type)):
        return names_class(classes, StateItem)  # Scrapy takes a list only; that is its affair in an item feed
    return bool(classes) and all(load_object(each) is StateItem for each in classes)


S = TypeVar("S", bound=StoreReader)


def open_template(
    crawler: Crawler, uri: str, params_function: Any, opener: Callable[..., tuple[S, str]], run_id: str | None = None
) -> tuple[S, KeyTemplate]:
    """Return the store that a feed's URI template lies in, by *opener*, and the template of its keys there.

    :param run_id: only the keys of that run
    """
    assert crawler.spider is not None
    params = uri_params(crawler.spider, params_function or crawler.settings["FEED_URI_PARAMS"])
    varying = VARYING if run_id is None else VARYING - {"run_id"}
    template = KeyTemplate.parse(uri, {**params, "run_id": run_id}, varying)
    store, prefix = opener(template.prefix, crawler.settings)
    return store, template.under(prefix)
