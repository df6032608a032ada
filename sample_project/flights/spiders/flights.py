from datetime import datetime, timedelta

import scrapy

from scrapy_state import StateItem


class FlightsSpider(scrapy.Spider):
    """The flights that left New York, minute by minute."""

    name = "flights"
    until = "2013-02-01T00:00"  # ask for the minutes before this one; `-a until=...` changes it

    async def start(self):
        if self.state["t"] < self.until:
            yield self.call(self.state["t"])

    def call(self, t):
        # There is no errback: if the site fails for good, Scrapy logs "Gave up retrying ...", no next call follows,
        # and the run ends. The state still names this minute, so the next run starts with this very call.
        return scrapy.Request(f"{self.settings['FLIGHTS_API']}/flights?at={t}", cb_kwargs={"t": t})

    def parse(self, response, t):
        yield from response.json()["flights"]
        t = (datetime.fromisoformat(t) + timedelta(minutes=1)).isoformat(timespec="minutes")
        yield StateItem({"t": t})  # everything before t has been yielded
        if t < self.until:
            yield self.call(t)
