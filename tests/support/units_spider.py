"""The spider of the tests of units: every unit is a start page and the pages it links to, on a local site."""

import asyncio

import scrapy
from scrapy.exceptions import DropItem, IgnoreRequest


class Pipeline:
    """Keeps items for as long as they say, so that they leave in another order; drops or fails those that say so."""

    async def process_item(self, item):
        await asyncio.sleep(item["delay"])
        if item.get("drop"):
            raise DropItem("the site says so", log_level="DEBUG")
        if item.get("break"):
            raise ValueError("the site says so")
        return dict(item)


class Ignore:
    """A downloader middleware that leaves responses out."""

    def process_response(self, request, response):
        if "ignored" in response.url:
            raise IgnoreRequest("left out")
        return response


class UnitsSpider(scrapy.Spider):
    name = "units"
    allowed_domains = ("127.0.0.1",)

    async def start(self):
        self.logger.info("begins at %s", self.state)
        for u in range(self.state.get("u", 0), int(self.units)):
            yield scrapy.Request(f"{self.site}/unit/{u}", meta={"state": {"u": u + 1}}, dont_filter=True)

    async def parse(self, response):
        page = response.json()
        for each in page["inline"]:
            extra = await self.crawler.engine.download_async(response.follow(each, meta=dict(response.meta)))
            for item in extra.json()["items"]:
                yield item
        for item in page["items"]:
            yield item
        for n, each in enumerate(page["links"]):
            if "missing" in each:
                yield response.follow(each, self.parse_page, errback=self.failed)
            elif n % 2:
                yield response.follow(each, self.parse_page, meta=response.meta)
            else:
                yield response.follow(each, self.parse_page)
        if page.get("raise"):
            raise RuntimeError("the site says so")

    def parse_page(self, response):
        yield from response.json()["items"]
        if response.json().get("raise"):
            raise RuntimeError("the site says so")
        for each in response.json()["links"]:
            yield response.follow(each, self.parse_page)

    def failed(self, failure):
        u = failure.request.url.rpartition("/")[2]
        yield {"key": f"{u}-errback", "delay": 0}
