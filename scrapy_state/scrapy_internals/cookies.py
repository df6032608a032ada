"""The cookie jars of CookiesMiddleware (scrapy/downloadermiddlewares/cookies.py), which has no signal for changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from http.cookiejar import Cookie
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from scrapy.core.engine import ExecutionEngine
    from scrapy.http.cookies import CookieJar


def watch_cookies(engine: ExecutionEngine, touched: Callable[[Any], None]) -> dict[Any, CookieJar] | None:
    """Call *touched* from now on with the key of each jar that may have changed.

    :return: the jars of the crawl (CookiesMiddleware.jars), which makes those that are missing; None if the crawl has none
    """
    from scrapy.downloadermiddlewares.cookies import CookiesMiddleware

    manager = getattr(engine.downloader, "middleware", None)
    for middleware in getattr(manager, "middlewares", ()):
        if isinstance(middleware, CookiesMiddleware):
            for name in ("process_request", "process_response"):
                _wrap(manager, getattr(middleware, name), name, touched)
            return middleware.jars
    return None


def _wrap(manager: Any, method: Callable[..., Any], name: str, touched: Callable[[Any], None]) -> None:
    """Let MiddlewareManager.methods (scrapy/middleware.py) have a watched *method*. It has bound methods, not their names."""

    def touch(request: Any) -> None:
        with suppress(TypeError):  # The key can't be hashed: CookiesMiddleware will say so.
            touched(request.meta.get("cookiejar"))

    async def wait(request: Any, result: Awaitable[Any]) -> Any:
        try:
            return await (maybe_deferred_to_future(result) if isinstance(result, Deferred) else result)
        finally:
            touch(request)

    @wraps(method)
    def watched(request: Any, *args: Any, **kwargs: Any) -> Any:
        touch(request)
        result = method(*args, request=request, **kwargs)
        return wait(request, result) if isawaitable(result) else result

    methods = manager.methods[name]
    methods[methods.index(method)] = watched
    if method in manager._mw_methods_requiring_spider:
        manager._mw_methods_requiring_spider.add(watched)


def cookies_in(jar: CookieJar) -> list[Cookie]:
    """Return the cookies of *jar*, which replaces but never alters them. 20,000 take some ms; to iterate, ten times that."""
    return [cookie for paths in jar._cookies.values() for names in paths.values() for cookie in names.values()]


def cookie_fields(cookie: Cookie) -> dict[str, Any]:
    """Return all attributes of *cookie* as the arguments of :class:`http.cookiejar.Cookie`, which keeps one as ``_rest``."""
    return {name.lstrip("_"): value for name, value in vars(cookie).items()}
