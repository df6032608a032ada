"""A check for a store that does not answer, or refuses."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from ..exceptions import StoreError
from ..stores import StoreWriter


def every_call_raises(writer: StoreWriter, key: str, error: type[StoreError]) -> list[str]:
    """See that every call raises *error*, and return the messages: for a store that does not answer, or refuses.

    An empty listing, or None, would have a run start from the beginning as if nothing had ever been stored.

    :param writer: a store where a server is down, credentials are wrong, and so on
    :param error: StoreUnreachable or StoreRefused
    """
    calls: tuple[Callable[[], object], ...] = (
        lambda: list(writer.keys(key)),
        lambda: writer.read(key),
        lambda: writer.read_part(key, 0, 10),
        lambda: writer.read_part(key, -10, 10),
        lambda: writer.delete(key),
        lambda: writer.create(key, io.BytesIO(b"x")),
        lambda: writer.probe(key),
    )
    messages = []
    for call in calls:
        with pytest.raises(error) as caught:
            call()
        messages.append(str(caught.value))
    return messages
