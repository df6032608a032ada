"""Opening a store by the scheme of a URI: S3, the local disk, and the stores in STATE_STORES."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any, cast
from urllib.parse import urlsplit

from ..exceptions import StateSettingsError
from ..model.key_template import without_credentials
from ..settings import stores_by_scheme
from . import local, s3
from .base import Store, StoreReader, StoreWriter

__all__ = ["STORES_BASE", "Store", "StoreReader", "StoreWriter", "open_reader", "open_writer"]

#: STATE_STORES is merged over these, as Scrapy merges FEED_STORAGES over FEED_STORAGES_BASE
STORES_BASE: Mapping[str, Store] = {"": local, "file": local, "s3": s3}


def open_reader(uri: str, settings: Mapping[str, Any]) -> tuple[StoreReader, str]:
    """Return a reader for the store of *uri*, and the key of *uri* in it. Does no input or output.

    A reader has no method that writes. The client of the built-in reader for S3 refuses to write, too.

    :param uri: a whole URI or the beginning of one: ``s3://…``, ``file://…``, a path, or with a scheme in STATE_STORES
    :param settings: have STATE_STORES, and what the store itself reads (Scrapy's AWS_* settings)
    :raises StateSettingsError: if no store has that scheme, or STATE_STORES names something that is not a store
    """
    return _store(uri, settings).open_reader(uri, settings)


def open_writer(uri: str, settings: Mapping[str, Any]) -> tuple[StoreWriter, str]:
    """As :func:`open_reader`, but return a writer."""
    return _store(uri, settings).open_writer(uri, settings)


def _store(uri: str, settings: Mapping[str, Any]) -> Store:
    scheme = urlsplit(uri).scheme
    if len(scheme) == 1:  # a Windows drive
        scheme = ""
    stores = {**STORES_BASE, **stores_by_scheme(settings)}
    store = stores.get(scheme)
    if store is None:
        possible = ", ".join(f"{name}://" if name else "a path" for name, store in stores.items() if store is not None)
        raise StateSettingsError(
            f"no store for {without_credentials(uri)!r}: a state feed can be on {possible or 'nothing'}",
            remedy="STATE_STORES can add another store",
        )
    named = f"STATE_STORES: {store!r} for {scheme!r}"
    if isinstance(store, str):
        try:
            store = resolve_name(store)
        except (ImportError, AttributeError, ValueError) as error:
            raise StateSettingsError(f"{named} can't be imported ({error})", remedy="correct the path") from error
    if not all(callable(getattr(store, name, None)) for name in ("open_reader", "open_writer")):
        remedy = "name a class or a module with open_reader(uri, settings) and open_writer(uri, settings)"
        raise StateSettingsError(f"{named} is not a store", remedy=remedy)
    return cast(Store, store)
