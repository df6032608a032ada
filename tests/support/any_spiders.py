"""Spiders of many shapes, from the outside: their sources, and the items that must come of them."""

from __future__ import annotations

import any_spiders_failing
import any_spiders_more
from any_shape import Shape, keys, pages

CRAWL = Shape(
    "crawl",
    """
from scrapy.linkextractors import LinkExtractor
from scrapy.spiders import CrawlSpider, Rule

class Crawls(Any, CrawlSpider):
    rules = [Rule(LinkExtractor(), callback="parse_page", follow=True)]

    @property
    def start_urls(self):
        return [self.site + "/crawl/0"]

    def parse_start_url(self, response):
        return self.parse_page(response)

    def parse_page(self, response):
        return items(path_of(response), 0, 1, 2)
""",
    lambda size: pages("crawl", size, 0, 1, 2),
    size=400,
)

LISTINGS = Shape(
    "listings",
    """
from scrapy_state import StateItem

class Listings(Any):
    async def start(self):
        for number in range(self.state.get("listing", 0), self.size // 20):
            yield self.to(f"/listing/{number}", cb_kwargs={"number": number})

    def parse(self, response, number):
        yield from items(path_of(response), 0)
        for detail in range(20):
            yield self.to(f"/detail/{20 * number + detail}", callback=self.parse_detail)
        yield StateItem({"listing": number + 1})

    def parse_detail(self, response):
        yield from items(path_of(response), 0, 1)
""",
    lambda size: pages("listing", size // 20, 0) + pages("detail", size // 20 * 20, 0, 1),
    size=400,
)

#: Ten chains of requests for one address. A page of each 25 has a lambda for a callback, another one is missing; others take
#: their time after they have sent the next request.
SAME = Shape(
    "same",
    """
class Same(Any):
    async def start(self):
        for number in range(10):
            yield self.next(number)

    def next(self, number):
        page = f"/same/{number}"
        how = {"dont_filter": True, "errback": self.failed}
        if number % 25 == 13:
            return self.to("/missing/same", cb_kwargs={"page": page, "number": number}, **how)
        if number % 25 == 7:
            return self.to("/same", callback=lambda response, number=number: self.parse(response, number=number), **how)
        if number % 5 == 2:
            return self.to("/same", callback=self.parse_slowly, cb_kwargs={"page": page, "number": number}, **how)
        if number % 2:
            return self.to("/same", meta={"page": page, "number": number}, **how)
        return self.to("/same", cb_kwargs={"page": page, "number": number}, **how)

    def parse(self, response, page=None, number=None):
        number = response.meta["number"] if number is None else number
        yield from self.done(number)

    async def parse_slowly(self, response, page, number):
        if number + 10 < self.size:
            yield self.next(number + 10)
        await asyncio.sleep(0.1)
        for item in items(page, 0, 1):
            yield item

    def failed(self, failure):
        yield from self.done(failure.request.cb_kwargs["number"])

    def done(self, number):
        yield from items(f"/same/{number}", 0, 1)
        if number + 10 < self.size:
            yield self.next(number + 10)
""",
    lambda size: pages("same", size, 0, 1),
    size=400,
    tries=lambda path, size: len([n for n in range(size) if (n % 25 == 13) == (path == "/missing/same")]),
)

SLOW_START = Shape(
    "slow_start",
    """
class SlowStart(Any):
    async def start(self):
        for number in range(self.size):
            await asyncio.sleep(0.002)
            yield self.to(f"/p/{number}")

    def parse(self, response):
        yield from items(path_of(response), 0, 1)
""",
    lambda size: pages("p", size, 0, 1),
    size=400,
)

PAGINATION = Shape(
    "pagination",
    """
class Pagination(Any):
    async def start(self):
        yield self.to("/next/0", dont_filter=True)

    def parse(self, response):
        yield from items(path_of(response), 0, 1)
        number = int(response.url.rpartition("/")[2]) + 1
        if number < self.size:
            yield self.to(f"/next/{number}", dont_filter=True)
""",
    lambda size: pages("next", size, 0, 1),
)

#: The key tells whether all parts arrived, as what they were.
ASSEMBLED = Shape(
    "assembled",
    """
class Assembled(Any):
    async def start(self):
        for number in range(self.size):
            yield self.to(f"/part/{number}/1", cb_kwargs={"parts": [], "since": date(2026, 1, 1), "price": Decimal("1.50")})

    def parse(self, response, parts, since, price):
        path, _, part = path_of(response).rpartition("/")
        parts = [*parts, part]
        if part == "3":
            yield {"key": f"{path}/3#{'-'.join(parts)} {since:%Y} {price}"}
        else:
            kept = {"parts": parts, "since": since, "price": price}
            yield self.to(f"{path}/{int(part) + 1}", cb_kwargs=kept, dont_filter=part == "2")
""",
    lambda size: [f"/part/{number}/3#1-2-3 2026 1.50" for number in range(size)],
    size=60,
)

ERRBACKS = Shape(
    "errbacks",
    """
class Errbacks(Any):
    async def start(self):
        for number in range(self.size):
            yield self.to(f"/missing/{number}", errback=self.failed)
            if number % 10 == 0:
                yield Request(f"http://127.0.0.1:1/refused/{number}", errback=self.failed, meta={"dont_retry": True})

    def parse(self, response):
        yield from items(path_of(response), 0, 1)

    def failed(self, failure):
        path = path_of(failure.request)
        yield from items(path, 0)
        if path.startswith("/missing"):
            yield self.to(path.replace("missing", "p"))
""",
    lambda size: (
        pages("missing", size, 0)
        + pages("p", size, 0, 1)
        + [key for number in range(0, size, 10) for key in keys(f"/refused/{number}", 0)]
    ),
    size=60,
)

INLINE = Shape(
    "inline",
    """
class Inline(Any):
    async def start(self):
        for number in range(self.size):
            yield self.to(f"/p/{number}")

    async def parse(self, response):
        page = path_of(response)
        for item in items(page, 0):
            yield item
        found = await self.crawler.engine.download_async(self.to(page.replace("/p", "/inline"), dont_filter=True))
        for item in items(page, 1):
            yield {**item, "found": found.text}
        yield self.to(page.replace("/p", "/child"), callback=self.parse_child)

    async def parse_child(self, response):
        found = await self.crawler.engine.download_async(self.to(path_of(response).replace("/child", "/inline2")))
        return [{**item, "found": found.text} for item in items(path_of(response), 0)]
""",
    lambda size: pages("p", size, 0, 1) + pages("child", size, 0),
    size=60,
)

#: Two classes of requests with bodies, all to one address.
POSTS = Shape(
    "posts",
    """
from scrapy import FormRequest
from scrapy.http import JsonRequest

class Posts(Any):
    async def start(self):
        for number in range(self.size):
            how = {"cb_kwargs": {"page": f"/form/{number}"}, "priority": number % 3, "headers": {"X-Number": str(number)}}
            if number % 2:
                yield JsonRequest(self.site + "/form", data={"number": number}, **how)
            else:
                yield FormRequest(self.site + "/form", formdata={"number": str(number)}, **how)

    def parse(self, response, page):
        assert f"{type(response.request).__name__} {response.request.method}" in ("JsonRequest POST", "FormRequest POST")
        number = page.rpartition("/")[2]
        assert response.request.headers["X-Number"].decode() == number
        assert number in response.request.body.decode()
        yield from items(page, 0, 1)
""",
    lambda size: pages("form", size, 0, 1),
    tries=lambda path, size: size,
)

START_ITEMS = Shape(
    "start_items",
    """
class StartItems(Any):
    async def start(self):
        for item in items("start", *range(self.size)):
            await asyncio.sleep(0.002)
            yield item
            yield self.to(f"/p/{item['key'].rpartition('#')[2]}")

    def parse(self, response):
        yield from items(path_of(response), 0, 1)
""",
    lambda size: keys("start", *range(size)) + pages("p", size, 0, 1),
)

SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        *(CRAWL, LISTINGS, SAME, SLOW_START, PAGINATION, ASSEMBLED, ERRBACKS, INLINE, POSTS, START_ITEMS),
        *any_spiders_failing.SHAPES,
        *any_spiders_more.SHAPES,
    )
}
