import scrapy
from scrapy.linkextractors import LinkExtractor
from scrapy.spiders import CrawlSpider, Rule


class FlightsLinkedSpider(CrawlSpider):
    """The same flights from pages with links. This spider does nothing for the state: its requests are in the checkpoints."""

    name = "flights_linked"
    until = "2013-02-01T00:00"  # ask for the flights before this minute; `-a until=...` changes it
    custom_settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 16}
    rules = (
        Rule(LinkExtractor(restrict_css="a.flight"), callback="parse_flight"),
        Rule(LinkExtractor(restrict_css="a.airport, a.next")),
    )

    async def start(self):
        yield scrapy.Request(f"{self.settings['FLIGHTS_API']}/airports?until={self.until}")

    def parse_flight(self, response):
        yield response.json()
