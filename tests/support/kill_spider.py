"""The spider of the chaos campaign: follows the pages of chaos.Source one by one, from ``self.state`` on."""

import asyncio
from dataclasses import asdict, dataclass

import scrapy
from scrapy.exceptions import DropItem
from scrapy.extensions.feedexport import ItemFilter

from scrapy_state import StateItem


class Thing(scrapy.Item):
    key = scrapy.Field()
    kind = scrapy.Field()
    n = scrapy.Field()
    drop = scrapy.Field()
    delay = scrapy.Field()


@dataclass
class Note:
    key: str
    kind: str
    n: int
    drop: bool
    delay: float


def fields(item):
    return asdict(item) if isinstance(item, Note) else dict(item)


class Odd(ItemFilter):
    def accepts(self, item):
        return fields(item)["n"] % 2 == 1


class Wait:
    """Keeps each item for as long as the source says, so that items leave in another order."""

    async def process_item(self, item):
        await asyncio.sleep(fields(item)["delay"])
        return item


class Drop:
    def process_item(self, item):
        if fields(item)["drop"]:
            raise DropItem("the source says so", log_level="DEBUG")
        return item


class Replace:
    """Returns a new object instead of the item."""

    def process_item(self, item):
        return type(item)(**fields(item))


class KillSpider(scrapy.Spider):
    """*callback* says which callback yields the state item: "same", the one that yields the page's items; "confirm", that of
    a request yielded after them; "early", that of a request yielded before them, which waits until they are yielded."""

    name = "kill"

    async def start(self):
        self.ended = {}
        yield self.page(self.state.get("page", 1))

    def page(self, page):
        return scrapy.Request(f"{self.source}/page/{page}", self.parse, cb_kwargs={"page": page})

    def parse(self, response, page):
        data = response.json()
        if data["end"]:
            return
        confirm = scrapy.Request(f"{self.source}/confirm/{page}", self.confirmed, cb_kwargs={"page": page})
        ended = self.ended[page] = asyncio.Event()
        if self.callback == "early":
            yield confirm
        for each in data["items"]:
            yield Note(**each) if each["kind"] == "note" else Thing(**each)
        ended.set()
        if self.callback == "confirm":
            yield confirm
        elif self.callback == "same":
            yield self.state_item(page + 1)
            yield self.page(page + 1)

    async def confirmed(self, response, page):
        await self.ended.pop(page).wait()
        yield self.state_item(page + 1)
        yield self.page(page + 1)

    def state_item(self, page):
        if page % 2:
            return StateItem({"page": page})
        self.state["page"] = page
        return StateItem()
