"""The cookie jars of Scrapy's CookiesMiddleware as JSON and back."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from http.cookiejar import Cookie
from typing import TYPE_CHECKING, Any

from ..scrapy_internals import cookie_fields, cookies_in, watch_cookies
from .codec.classes import Classes
from .codec.values import Values

if TYPE_CHECKING:
    from scrapy.core.engine import ExecutionEngine

logger = logging.getLogger("scrapy_state.state")

#: The keys of jars, and their cookies
Touched = dict[Any, list[Cookie]]
_TEXT, _FLAG, _MAYBE_TEXT, _MAYBE_NUMBER = (str,), (bool,), (str, type(None)), (int, type(None))
#: The arguments of http.cookiejar.Cookie -> their types
_FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "domain", "path"), _TEXT),
    **dict.fromkeys(("value", "port", "comment", "comment_url"), _MAYBE_TEXT),
    **dict.fromkeys(("version", "expires"), _MAYBE_NUMBER),
    **dict.fromkeys(("port_specified", "domain_specified", "domain_initial_dot", "path_specified"), _FLAG),
    **dict.fromkeys(("secure", "discard", "rfc2109"), _FLAG),
    "rest": (dict,),
}


class CookieJars:
    """The jars of one crawl, each under the ``cookiejar`` of its requests' meta. Without cookies in the crawl, it has none.

    Watches the crawl's CookiesMiddleware from now on.

    :param engine: the crawl's engine; its crawler has the spider
    """

    def __init__(self, engine: ExecutionEngine) -> None:
        assert engine.crawler.spider is not None
        self._spider = engine.crawler.spider
        #: the keys of jars that may have changed, in order
        self._touched: dict[Any, None] = {}
        self._jars = watch_cookies(engine, lambda key: self._touched.setdefault(key))
        self._values = Values(Classes.of(self._spider))
        #: key -> digest of the cookies that were given out last
        self._known: dict[Any, bytes] = {}
        self._warned = False

    def touched(self) -> Touched:
        """Return the jars that may have changed since the last call, as they are now: for :meth:`changed`."""
        keys, self._touched = self._touched, {}
        return {key: self._cookies(key) for key in keys}

    def changed(self, touched: Touched) -> list[dict[str, Any]]:
        """Return those of *touched* that are not as they were at the last call. Each cookie takes 10 µs: call it in a thread.

        A jar that can't be stored is left out, with one warning.

        :return: ``{"jar": key, "cookies": [all attributes of a cookie, …]}``, what JSON can hold, for :meth:`restore`
        """
        found = []
        for key, jar in touched.items():
            cookies = [cookie_fields(cookie) for cookie in jar]
            try:
                digest = _digest(cookies)
                if self._known.get(key, _NO_COOKIES) == digest:
                    continue
                found.append({"jar": self._values.write(key), "cookies": cookies})
            except (TypeError, ValueError, RecursionError):
                self._warn(key)
            else:
                self._known[key] = digest
        return found

    def restore(self, jars: Iterable[dict[str, Any]]) -> None:
        """Fill the crawl's jars. Cookies that have expired are left out; those of a session live as long as the crawl.

        :param jars: what :meth:`changed` has returned; a later one replaces an earlier one of the same key
        :raises ValueError: if it is something else. The message has no name or value of a cookie.
        """
        if self._jars is None:
            return
        for each in jars:
            try:
                key, cookies = self._values.read(each["jar"]), [_cookie(fields) for fields in each["cookies"]]
                jar = self._jars[key]
            except Exception as error:  # Values.read() may raise anything
                raise ValueError(f"a cookie jar can't be read ({type(error).__name__})") from None
            jar.clear()
            for cookie in cookies:
                if not cookie.is_expired():
                    jar.set_cookie(cookie)
            self._known[key] = _digest([cookie_fields(cookie) for cookie in self._cookies(key)])

    def _cookies(self, key: Any) -> list[Cookie]:
        return [] if self._jars is None or key not in self._jars else cookies_in(self._jars[key])

    def _warn(self, key: Any) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "A cookie jar can't be stored: its key (%s) or a cookie in it has no form in JSON. After a kill the crawl will"
                ' continue without it. In meta["cookiejar"], use text or a number.',
                type(key).__name__,
                extra={"spider": self._spider},
            )


def _digest(cookies: list[dict[str, Any]]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for cookie in cookies:  # one json.dumps() of them all would hold the GIL
        digest.update(json.dumps(cookie).encode())
    return digest.digest()


_NO_COOKIES = _digest([])


def _cookie(fields: dict[str, Any]) -> Cookie:
    wrong = fields.keys() ^ _FIELDS.keys()
    if wrong or not all(type(fields[name]) in kinds for name, kinds in _FIELDS.items()):
        raise ValueError("it is not a cookie")
    if not all(type(value) in _MAYBE_TEXT for value in fields["rest"].values()):
        raise ValueError("it is not a cookie")
    return Cookie(**fields)
