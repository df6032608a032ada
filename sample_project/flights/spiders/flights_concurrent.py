from datetime import datetime, timedelta

import scrapy


class FlightsConcurrentSpider(scrapy.Spider):
    """The same flights, many minutes at once: each request names the state once it, and all before it, are done."""

    name = "flights_concurrent"
    until = "2013-02-01T00:00"  # ask for the minutes before this one; `-a until=...` changes it
    custom_settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 16}

    async def start(self):
        t = self.state["t"]
        while t < self.until:
            after = (datetime.fromisoformat(t) + timedelta(minutes=1)).isoformat(timespec="minutes")
            yield scrapy.Request(f"{self.settings['FLIGHTS_API']}/flights?at={t}", meta={"state": {"t": after}})
            t = after

    def parse(self, response):
        yield from response.json()["flights"]
