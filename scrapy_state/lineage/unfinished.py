"""Uploads in parts that a killed run began and nobody will complete. They can't be read, but the store keeps and bills them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ..exceptions import StateError
from ..model.key_template import KeyTemplate
from ..stores import StoreWriter
from ..stores.base import UploadsInParts

logger = logging.getLogger("scrapy_state.state")


def abort_unfinished(feeds: Iterable[tuple[StoreWriter, KeyTemplate]]) -> int:
    """Abort the unfinished uploads of a run that is over, and return how many there were. Blocks.

    That is tidying up: where it fails, the log says so and the run goes on.

    :param feeds: for each item feed its store, and the keys of that run in it
    """
    count = 0
    for store, keys in feeds:
        if not isinstance(store, UploadsInParts):
            continue
        try:
            for key in store.abort_uploads(keys.prefix):
                count += 1
                logger.info("aborted an unfinished upload of the last run: %s", store.uri(key))
        except StateError as error:
            logger.info("unfinished uploads of the last run, if there are any, are left where they are: %s", error)
    return count
