"""Keeps the item feeds of a read-only run out of the folders of the items that the checkpoints name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from scrapy.crawler import Crawler
from scrapy.settings import BaseSettings

from ..exceptions import CheckpointError, StateSettingsError
from ..feeds import all_item_feeds, uri_params
from ..lineage.chain import ancestors
from ..lineage.resolution import Resolution
from ..model.checkpoint import Checkpoint
from ..model.key_template import VARYING, KeyTemplate, without_credentials
from ..stores import StoreReader, open_reader

#: The feed option that allows a feed to write there
ALLOW = "allow_lineage_folder"
#: At most how many checkpoints are read, and how many that name files are enough
_CHECKPOINTS = 20
_WITH_FILES = 3


class ItemPlace(NamedTuple):
    """Where an item feed writes.

    :param uri: its URI template, as in FEEDS
    :param home: its store
    :param keys: the keys of its files there
    """

    uri: str
    home: str
    keys: KeyTemplate


def item_places(crawler: Crawler) -> list[ItemPlace]:
    """Return where the item feeds write, without the feeds that have the option :data:`ALLOW`. Does no I/O."""
    assert crawler.spider is not None
    places = []
    for uri, options in all_item_feeds(crawler.settings):
        if options.get(ALLOW, False) or uri.startswith("stdout:"):
            continue
        params = uri_params(crawler.spider, options.get("uri_params") or crawler.settings["FEED_URI_PARAMS"])
        not_yet = set(dir(crawler.spider)) - params.keys()  # a property that needs the engine
        keys = KeyTemplate.parse(uri, params, VARYING | not_yet)
        home, prefix = _home(keys.prefix, crawler.settings)
        places.append(ItemPlace(uri, home, keys.under(prefix)))
    return places


def check_places(places: Sequence[ItemPlace], store: StoreReader, resolution: Resolution, settings: BaseSettings) -> None:
    """Raise if a feed writes into a folder with items that the newest checkpoints name. Blocks.

    :param store: the store of the checkpoints
    :param resolution: what was found there
    :raises StateSettingsError: if so; the error names the feed, the item file, and what to do
    :raises StoreError: if the store does not answer or refuses
    """
    for checkpoint in _with_files(store, resolution) if places else ():
        for file in checkpoint.files:
            home, key = _home(file.uri, settings)
            for place in places:
                same_folder = _folder(key) == _folder(place.keys.prefix)
                if home == place.home and (same_folder or (place.keys.rest and place.keys.in_order([key]))):
                    raise StateSettingsError(
                        f"FEEDS: the item feed {without_credentials(place.uri)!r} would write into the folder of items that "
                        f"this run may only read ({without_credentials(file.uri)!r} of checkpoint {checkpoint.id})",
                        remedy="give it another URI for this run, or remove it; to write there all the same, set its feed "
                        f'option "{ALLOW}": True',
                    )


def _with_files(store: StoreReader, resolution: Resolution) -> Iterator[Checkpoint]:
    """Yield the newest checkpoints that name files, up to a parent that can't be read."""
    newest, template = resolution.newest, resolution.template
    if newest is None or template is None:
        return
    count = _CHECKPOINTS if template.writable else 1
    with_files = 0
    with suppress(CheckpointError):
        for checkpoint in islice(ancestors(store, template, newest), count):
            if checkpoint.files:
                yield checkpoint
                with_files += 1
                if with_files == _WITH_FILES:
                    return


def _home(uri: str, settings: BaseSettings) -> tuple[str, str]:
    """Return the store of *uri*, as text, and the key there; for a store that isn't ours, the key is the URI."""
    try:
        store, key = open_reader(uri, settings)
    except (StateSettingsError, ValueError):
        return "", without_credentials(uri)
    return store.uri("/"), key


def _folder(key: str) -> str:
    return key.rpartition("/")[0]
