"""The key of a request or an item: what a page is remembered by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from scrapy import Request

#: A request's own key (in meta), and an item's (a field or attribute)
KEY = "state_key"
#: False in meta exempts a request
ENABLED = "state_delta"
#: Where a request that takes the place of another one (redirect, retry) has the key of that one, in hex
_FIRST_KEY = "_state_first_key"


def key_of(value: object) -> int:
    """Return the key of *value*: bytes, text, or anything else as ``str()`` shows it. 64 bits."""
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


class RequestKeys:
    """The keys of a crawl's requests.

    :param fingerprint: returns the fingerprint of a request
    """

    def __init__(self, fingerprint: Callable[[Request], bytes]) -> None:
        self._fingerprint = fingerprint

    def of(self, request: Request) -> int:
        """Return the key of *request* as the spider yielded it, whatever has taken its place since."""
        first: str | None = request.meta.get(_FIRST_KEY)
        if first is not None:
            return int(first, 16)
        own = request.meta.get(KEY)
        return key_of(self._fingerprint(request) if own is None or own == "" else own)

    def replaced(self, request: Request, by: Request) -> None:
        """Note that *by* takes the place of *request*: a redirect, or another try."""
        by.meta[_FIRST_KEY] = f"{self.of(request):x}"

    @staticmethod
    def begin(request: Request) -> None:
        """Note that *request* takes no other's place, although its meta may come from a request that did."""
        request.meta.pop(_FIRST_KEY, None)


def is_exempt(request: Request) -> bool:
    """Whether *request* is always sent, and what its page gives does not count."""
    return not request.meta.get(ENABLED, True)


def own_key(item: Any) -> int | None:
    """Return the key that *item* has itself; None if it has none."""
    own = item.get(KEY) if isinstance(item, Mapping) else getattr(item, KEY, None)
    return None if own is None or own == "" else key_of(own)
