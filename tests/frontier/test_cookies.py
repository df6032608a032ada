"""Cookie jars, filled by Scrapy's own middleware from real headers."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from http.cookiejar import Cookie
from types import SimpleNamespace
from typing import Any, cast

import pytest
import scrapy
from scrapy.core.downloader.middleware import DownloaderMiddlewareManager
from scrapy.core.engine import ExecutionEngine
from scrapy.downloadermiddlewares import cookies as scrapys
from scrapy.downloadermiddlewares.cookies import CookiesMiddleware
from scrapy.http import Response
from scrapy.http.cookies import CookieJar
from scrapy.utils.test import get_crawler
from tldextract import TLDExtract

from scrapy_state.frontier.cookies import CookieJars

SESSION = "session=s3cret; HttpOnly; SameSite=Lax"
LASTING = "lasting=yes; Max-Age=1000; Path=/; Domain=.example.com; Secure; Comment=why; Port"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapys, "_split_domain", TLDExtract(suffix_list_urls=(), include_psl_private_domains=True))


def jars_of(downloader: Any) -> CookieJars:
    crawler = SimpleNamespace(spider=scrapy.Spider(name="cookies"))
    return CookieJars(cast(ExecutionEngine, SimpleNamespace(downloader=downloader, crawler=crawler)))


def changed(jars: CookieJars) -> list[dict[str, Any]]:
    return jars.changed(jars.touched())


class Site:
    """The downloader middlewares of a crawl, in front of a site that answers with the cookies it is asked for."""

    def __init__(self, middleware: type = CookiesMiddleware, **settings: Any) -> None:
        found = {"DOWNLOADER_MIDDLEWARES_BASE": {middleware: 700}, **settings}
        crawler = get_crawler(scrapy.Spider, found)
        crawler.spider = scrapy.Spider(name="cookies")
        self.manager = DownloaderMiddlewareManager.from_crawler(crawler)
        self.jars = jars_of(SimpleNamespace(middleware=self.manager))

    def get(self, *cookies: str, **arguments: Any) -> str:
        """Fetch a page whose answer sets *cookies*; return the Cookie header that was sent."""
        request = scrapy.Request("https://www.example.com/a/b", **arguments)

        async def download(sent: scrapy.Request) -> Response:
            return Response(sent.url, headers={"Set-Cookie": list(cookies)})

        asyncio.run(self.manager.download_async(download, request))
        return (request.headers.get("Cookie") or b"").decode()


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def cookies_of(jar: CookieJar) -> list[dict[str, Any]]:
    return [vars(cookie) for cookie in jar]


@pytest.mark.parametrize("key", [None, "user 1", 5, ("de", 2), ("nested", (None, 1))])
def test_jars_come_back(key: Any) -> None:
    """All attributes of all cookies come back, in the next process's jar of the same key, and are sent to the site."""
    before, after = Site(), Site()
    meta = {} if key is None else {"cookiejar": key}
    before.get(SESSION, LASTING, "empty=", "bare", meta=meta, cookies={"own": "1"})
    after.jars.restore(through_json(changed(before.jars)))
    jars = [site.manager.middlewares[0].jars for site in (before, after)]
    assert list(jars[1]) == [key]
    assert cookies_of(jars[1][key]) == cookies_of(jars[0][key])
    # In any order: jars of Python 3.10 give their cookies sorted by name
    assert sorted(after.get(meta=meta).split("; ")) == sorted(before.get(meta=meta).split("; "))
    for part in ("session=s3cret", "lasting=yes", "own=1", "empty=", "bare"):
        assert part in after.get(meta=meta)


def test_only_what_has_changed() -> None:
    """A jar is given out when its cookies are others than last time: new, altered or gone; not because it was used."""
    site = Site()
    site.get()
    assert changed(site.jars) == []
    site.get("a=1", meta={"cookiejar": "x"})
    site.get("b=1", meta={"cookiejar": "y"})
    assert [each["jar"] for each in changed(site.jars)] == ["x", "y"]
    assert changed(site.jars) == []
    site.get("a=1", meta={"cookiejar": "x"})
    assert changed(site.jars) == []
    site.get("b=2", meta={"cookiejar": "y"})
    [jar] = changed(site.jars)
    assert (jar["jar"], [each["value"] for each in jar["cookies"]]) == ("y", ["2"])
    site.get("b=; Max-Age=0", meta={"cookiejar": "y"})
    assert changed(site.jars) == [{"jar": "y", "cookies": []}]
    site.get(meta={"cookiejar": "x"}, cookies={"own": "1"})
    assert [each["jar"] for each in changed(site.jars)] == ["x"]


def test_what_was_restored_has_not_changed() -> None:
    """After restoring, a jar is given out again only when it changes; a later one replaces an earlier one of its key."""
    before, after = Site(), Site()
    before.get("a=1", "b=1")
    jars = changed(before.jars)
    before.get("a=; Max-Age=0", "b=2")
    jars += changed(before.jars)
    after.jars.restore(through_json(jars))
    assert after.get() == "b=2"
    assert changed(after.jars) == []
    after.get("b=3")
    assert len(changed(after.jars)) == 1


def test_expired_cookies_are_not_restored() -> None:
    """What has expired while no crawl was running is left out; a cookie of the session is kept."""
    before, after = Site(), Site()
    before.get(SESSION, "old=1; Max-Age=1000")
    [jar] = through_json(changed(before.jars))
    for cookie in jar["cookies"]:
        if cookie["expires"]:
            cookie["expires"] = int(time.time()) - 1
    after.jars.restore([jar])
    assert [cookie.name for cookie in after.manager.middlewares[0].jars[None]] == ["session"]
    assert after.get() == "session=s3cret"


class Slow(CookiesMiddleware):
    """A project's own, whose methods are coroutines, and require the spider."""

    def __init__(self, debug: bool = False) -> None:
        super().__init__(debug)
        self.waiting, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def process_response(self, request: Any, response: Any, spider: Any) -> Any:  # type: ignore[override]
        self.waiting.set()
        await self.may_go_on.wait()
        assert spider.name == "cookies"
        return super().process_response(request, response)


@pytest.mark.filterwarnings("ignore:.*requires a spider argument")
def test_a_middleware_that_waits() -> None:
    """A jar that a coroutine changes after changed() was called is given out by the next call."""
    site = Site(Slow)
    middleware = site.manager.middlewares[0]

    async def download(sent: scrapy.Request) -> Response:
        return Response(sent.url, headers={"Set-Cookie": ["a=1"]})

    async def crawl() -> None:
        task = asyncio.ensure_future(site.manager.download_async(download, scrapy.Request("https://www.example.com/")))
        await asyncio.wait_for(middleware.waiting.wait(), 10)
        assert changed(site.jars) == []
        middleware.may_go_on.set()
        await task

    asyncio.run(crawl())
    assert len(changed(site.jars)) == 1


def test_jars_of_the_moment() -> None:
    """changed() tells what touched() has found, whatever the site sets in between; the next call tells that."""
    site = Site()
    site.get("a=1", "b=1")
    touched = site.jars.touched()
    site.get("a=2", "b=; Max-Age=0", "c=3")
    values = [[each["value"] for each in jar["cookies"]] for jar in (*site.jars.changed(touched), *changed(site.jars))]
    assert values == [["1", "1"], ["2", "3"]]


def test_many_cookies_do_not_block() -> None:
    """touched(), which a cut calls in the event loop, takes less than 20 ms for 20,000 cookies of 2,000 domains."""
    site = Site()
    site.get("a=1")
    jar = site.manager.middlewares[0].jars[None]
    for number in range(20_000):
        fields = {**GOOD, "name": f"n{number}", "domain": f"{number % 2000}.example.com"}
        jar.set_cookie(Cookie(**fields))
    began = time.thread_time()
    touched = site.jars.touched()
    assert time.thread_time() - began < 0.02
    [found] = site.jars.changed(touched)
    assert len(found["cookies"]) == 20_001


def test_keys_that_cannot_be_stored(caplog: pytest.LogCaptureFixture) -> None:
    """A jar whose key has no form in JSON is left out with one warning, which has no cookie in it; the others are stored."""
    site = Site()
    for key in (object(), object()):
        site.get(SESSION, meta={"cookiejar": key})
    site.get("a=1")
    with caplog.at_level(logging.DEBUG):
        assert [each["jar"] for each in changed(site.jars)] == [None]
        site.get("a=2", meta={"cookiejar": object()})
        assert changed(site.jars) == []
    [record] = [each for each in caplog.records if each.name.startswith("scrapy_state")]
    assert record.levelno == logging.WARNING
    assert "object" in record.getMessage()
    assert "s3cret" not in caplog.text


def test_a_crawl_without_cookies() -> None:
    """With COOKIES_ENABLED = False, or another downloader, nothing is watched, given out or restored."""
    before, after = Site(), Site(COOKIES_ENABLED=False)
    before.get("a=1")
    after.jars.restore(changed(before.jars))
    assert after.get("a=1") == ""
    assert changed(after.jars) == []
    assert changed(jars_of(object())) == []


GOOD: dict[str, Any] = {
    **{"version": 0, "name": "session", "value": "s3cret", "port": None, "port_specified": False, "domain": "example.com"},
    **{"domain_specified": False, "domain_initial_dot": False, "path": "/", "path_specified": False, "secure": False},
    **{"expires": None, "discard": True, "comment": None, "comment_url": None, "rfc2109": False, "rest": {}},
}


@pytest.mark.parametrize(
    "jar",
    [
        *({}, {"jar": None}, {"cookies": []}, {"jar": [], "cookies": []}, {"jar": None, "cookies": 5}, []),
        {"jar": {"__scrapy_state__": "no such", "v": 1}, "cookies": []},
        *(
            {"jar": None, "cookies": [cookie]}
            for cookie in (
                *(5, {}, {**GOOD, "more": 1}, {**GOOD, "name": None}, {**GOOD, "value": 5}, {**GOOD, "expires": "never"}),
                *({**GOOD, "secure": "no"}, {**GOOD, "rest": []}, {**GOOD, "rest": {"s3cret": 5}}, {**GOOD, "version": True}),
            )
        ),
    ],
)
def test_what_is_not_a_jar_is_refused(jar: Any) -> None:
    """What changed() did not return is a ValueError without names and values, and leaves the jar as it was."""
    site = Site()
    site.jars.restore([{"jar": None, "cookies": [GOOD]}])
    with pytest.raises(ValueError, match="a cookie jar can't be read") as caught:
        site.jars.restore([jar])
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert len(site.manager.middlewares[0].jars[None]) == 1
