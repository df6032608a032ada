"""Keeps the item feeds of a run that only reads checkpoints out of where the items lie that these name."""

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

#: The feed option that allows it
ALLOW = "allow_lineage_folder"
#: How many checkpoints are read to find some that name files, and how many of these are enough.
_CHECKPOINTS = 20
_WITH_FILES = 3


class ItemPlace(NamedTuple):
    """Where an item feed writes.

    :param uri: its template, as it stands in FEEDS
    :param home: its store
    :param keys: its files there
    """

    uri: str
    home: str
    keys: KeyTemplate


def item_places(crawler: Crawler) -> list[ItemPlace]:
    """Return where the item feeds write, less those with the option that allows it. Does no input or output."""
    assert crawler.spider is not None
    found = []
    for uri, options in all_item_feeds(crawler.settings):
        if options.get(ALLOW, False) or uri.startswith("stdout:"):
            continue
        params = uri_params(crawler.spider, options.get("uri_params") or crawler.settings["FEED_URI_PARAMS"])
        not_yet = set(dir(crawler.spider)) - params.keys()  # a property that needs the engine
        keys = KeyTemplate.parse(uri, params, VARYING | not_yet)
        home, prefix = _home(keys.prefix, crawler.settings)
        found.append(ItemPlace(uri, home, keys.under(prefix)))
    return found


def check_places(places: Sequence[ItemPlace], store: StoreReader, found: Resolution, settings: BaseSettings) -> None:
    """Raise if a feed writes into a folder where items lie that the newest checkpoints name. Blocks.

    :param store: where the checkpoints lie that were *found*
    :raises StateSettingsError: naming the feed, the item file, and what to do
    :raises StoreError: if the store does not answer or refuses
    """
    for checkpoint in _with_files(store, found) if places else ():
        for file in checkpoint.files:
            home, key = _home(file.uri, settings)
            for place in places:
                same_folder = _folder(key) == _folder(place.keys.prefix)
                if home == place.home and (same_folder or (place.keys.rest and place.keys.in_order([key]))):
                    raise StateSettingsError(
                        f"FEEDS: the item feed {without_credentials(place.uri)!r} would write where the items lie of the "
                        f"checkpoints that this run only reads ({without_credentials(file.uri)!r} of checkpoint "
                        f"{checkpoint.id}). Give it another URI for this run, or take it out; to write there all the "
                        f'same, set its feed option "{ALLOW}": True'
                    )


def _with_files(store: StoreReader, found: Resolution) -> Iterator[Checkpoint]:
    """Yield the newest checkpoints that name files; a parent that can't be read ends it."""
    if found.newest is None or found.template is None:
        return
    count = _CHECKPOINTS if found.template.writable else 1
    with_files = 0
    with suppress(CheckpointError):
        for checkpoint in islice(ancestors(store, found.template, found.newest), count):
            if checkpoint.files:
                yield checkpoint
                with_files += 1
                if with_files == _WITH_FILES:
                    return


def _home(uri: str, settings: BaseSettings) -> tuple[str, str]:
    """Return the store that *uri* lies in, as text, and its key there; for a store that isn't ours the URI is the key."""
    try:
        store, key = open_reader(uri, settings)
    except (StateSettingsError, ValueError):
        return "", without_credentials(uri)
    return store.uri("/"), key


def _folder(key: str) -> str:
    return key.rpartition("/")[0]
