"""A check for stores that don't answer, or refuse."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from ..exceptions import StoreError
from ..stores import StoreWriter


def every_call_raises(writer: StoreWriter, key: str, error: type[StoreError]) -> list[str]:
    """Assert that every call raises *error*. Return the messages.

    A store that does not answer, or refuses, must not return None or an empty listing: then a run would start from the
    beginning, as if nothing had ever been stored.

    :param writer: a writer for a store whose server is down, with wrong credentials, and so on
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
