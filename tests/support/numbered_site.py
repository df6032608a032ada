"""A site of numbered pages, and a spider that follows them one by one."""

from __future__ import annotations

from loopback import Handler

#: Asks for page after page at ``-a site=…``, from the state on, and yields an item and a state item for each.
SITE_SPIDER = """
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        for number in self.first():
            yield scrapy.Request(self.site + str(number), errback=getattr(self, "errback", None))

    def first(self):
        return [self.state.get("page", 0)]

    def next(self, page):
        if page < 5:
            yield scrapy.Request(self.site + str(page + 1))

    def parse(self, response):
        page = int(response.url.rpartition("/")[2])
        yield {"page": page}
        yield StateItem({"page": page + 1})
        yield from self.next(page)
"""


class Pages(Handler):
    """Every path is a page, /0, /1, …; below /fail it answers 500. The server's *asked* lists the paths in order."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.reply(500 if self.path.startswith("/fail") else 200, "page")
