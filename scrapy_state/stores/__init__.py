"""Stores, opened by URI scheme: S3, the local disk, and what STATE_STORES adds."""

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

#: What STATE_STORES is merged over, as Scrapy merges FEED_STORAGES over FEED_STORAGES_BASE
STORES_BASE: Mapping[str, Store] = {"": local, "file": local, "s3": s3}


def open_reader(uri: str, settings: Mapping[str, Any]) -> tuple[StoreReader, str]:
    """Return the read side of the store that *uri* lies in, and the key there. Does no input or output.

    It has no method that writes; the built-in one for S3 has a client that refuses to.

    :param uri: a whole URI or the beginning of one: ``s3://…``, ``file://…``, a path, or of a scheme in STATE_STORES
    :param settings: STATE_STORES is read from it, and by the store what it needs (Scrapy's AWS_* settings)
    :raises StateSettingsError: if there is no store for the scheme, or what STATE_STORES names is none
    """
    return _store(uri, settings).open_reader(uri, settings)


def open_writer(uri: str, settings: Mapping[str, Any]) -> tuple[StoreWriter, str]:
    """As :func:`open_reader`, with the write side."""
    return _store(uri, settings).open_writer(uri, settings)


def _store(uri: str, settings: Mapping[str, Any]) -> Store:
    scheme = urlsplit(uri).scheme
    if len(scheme) == 1:  # a Windows drive
        scheme = ""
    merged = {**STORES_BASE, **stores_by_scheme(settings)}
    found = merged.get(scheme)
    if found is None:
        there = ", ".join(f"{name}://" if name else "a path" for name, store in merged.items() if store is not None)
        raise StateSettingsError(
            f"no store for {without_credentials(uri)!r}: a state feed lies on {there or 'none'}; STATE_STORES can add another"
        )
    store = found
    if isinstance(found, str):
        try:
            store = resolve_name(found)
        except (ImportError, AttributeError, ValueError) as error:
            raise StateSettingsError(
                f"STATE_STORES: {found!r} for {scheme!r} can't be imported ({error}); correct the path"
            ) from error
    if not all(callable(getattr(store, name, None)) for name in ("open_reader", "open_writer")):
        raise StateSettingsError(
            f"STATE_STORES: {found!r} for {scheme!r} is no store: a class or a module with open_reader(uri, settings) and "
            "open_writer(uri, settings) is"
        )
    return cast(Store, store)
