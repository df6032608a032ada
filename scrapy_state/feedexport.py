"""The feed exporter, and the one place that builds the parts which store a crawl."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.extensions.feedexport import BlockingFeedStorage, FeedExporter, FeedSlot, ItemFilter, UriParamsCallableT
from scrapy.settings import SETTINGS_PRIORITIES, BaseSettings
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.misc import build_from_crawler

from .barrier.barrier import get_barrier
from .exceptions import StateError, StateSettingsError
from .export.batch import Batch
from .export.checkpointer import Checkpointer
from .export.commits import Commits
from .export.durable_items import DurableItems, needs_durable_items
from .export.open_batches import ItemFeed
from .extension import StateResolver, get_extension
from .feeds import StateFeed, is_state_feed, item_feeds_with_checkpoints, open_template, segments_feed, uri_params
from .feedstorages import DURABLE, DurableFeedStorage, open_nameless
from .kept.opening import keep
from .lineage.last_run import OrphanFeeds
from .lineage.orphans import files_left_out
from .lineage.writer import CheckpointWriter, new_run_id
from .model.key_template import KeyTemplate, begins_with_run_id, without_credentials
from .monitoring.metrics import MetricsFile
from .monitoring.notify import Notifier
from .resume.arguments import spider_arguments
from .resume.refusal import get_refusal, refuse
from .scrapy_internals import is_crawl, replace_inherited_methods
from .settings import get_settings
from .stores import open_writer
from .units.held_items import HeldItems

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("scrapy_state.state")


class CheckpointFeedExporter(FeedExporter):
    """Scrapy's FeedExporter, with a state feed.

    Item feeds that checkpoints name are exported here. Scrapy's code exports the others: those with ``"checkpoint": False``,
    standard output, ``-o``. Without a state feed it exports all of them, as it does with STATE_READONLY, and under
    ``scrapy parse`` and the like.

    :raises StateSettingsError: if the state feed or an item feed can't be used as it is
    """

    def __init__(self, crawler: Crawler) -> None:
        self.run_id = new_run_id()
        self.state_settings = get_settings(crawler)
        self.state_feed = StateFeed.from_settings(crawler.settings)
        is_enabled = self.state_settings.enabled and is_crawl(crawler)
        checkpoints = is_enabled and self.state_feed is not None and not self.state_settings.readonly
        if is_enabled:
            keep(crawler, writes=checkpoints, run=self.run_id)
        needs_item_feeds = checkpoints or (is_enabled and needs_durable_items(crawler.settings))
        self._item_feeds = item_feeds_with_checkpoints(crawler.settings) if needs_item_feeds else set()
        #: whether this run stores items for checkpoints or for a frontier
        self.writing = checkpoints or bool(self._item_feeds)
        try:
            super().__init__(crawler)
        except NotConfigured as error:
            if not self.writing:
                raise
            raise StateSettingsError("FEEDS: one of the feeds can't be used; the previous log line says which") from error
        if self.state_feed is not None:
            del self.feeds[self.state_feed.uri]
        elif _is_state_feed_lost(crawler):
            logger.warning("FEEDS was given on the command line (-o) or typed on Scrapy Cloud, so the state feed in the "
                           "spider's custom_settings is not there: no state is stored. Put it into the project's settings, "
                           "or where FEEDS was typed")  # fmt: skip
        if not self.writing:
            return
        self._options = {uri: self.feeds.pop(uri) for uri in list(self.feeds) if uri in self._item_feeds}
        self._build(checkpoints)

    def _build(self, checkpoints: bool) -> None:
        """Build the parts that store this crawl's items, and connect them.

        :param checkpoints: whether to store checkpoints; without a state feed a frontier in Redis only needs durable items
        """
        crawler, settings = self.crawler, self.state_settings
        barrier = get_barrier(crawler)
        feeds = [ItemFeed.from_options(uri, options, self.filters[uri]) for uri, options in self._options.items()]
        items = DurableItems(crawler, settings, barrier, feeds, self._new_batch)
        commits = self._commits(items) if checkpoints else None
        checkpointer = Checkpointer(crawler, settings, barrier, items, commits)
        held_items = HeldItems(barrier.tickets, items.batches, items.export)
        barrier.connect(checkpointer, held_items, needs_durable_items(crawler.settings), self.run_id)
        self._barrier, self._tickets = barrier, barrier.tickets
        self._items, self._checkpointer, self._held_items = items, checkpointer, held_items
        if settings.metrics_file is not None:
            self._metrics = MetricsFile(crawler, settings.metrics_file)
        if settings.notify_url is not None:
            self._notifier = Notifier(crawler, settings.notify_url, settings.notify_secret, settings.notify_on == "end")

    def _commits(self, items: DurableItems) -> Commits:
        crawler = self.crawler
        assert self.state_feed is not None
        assert crawler.spider is not None
        if not is_asyncio_available():
            raise StateSettingsError(
                "TWISTED_REACTOR: the state feed needs asyncio", remedy="leave Scrapy's default reactor in place"
            )
        # Each worker of a frontier has a state feed of its own.
        run_id = self.run_id if needs_durable_items(crawler.settings) else None
        params = self.state_feed.options.get("uri_params")
        store, template = open_template(crawler, self.state_feed.uri, params, open_writer, run_id)
        if not template.writable:
            raise self.state_feed.not_writable()
        job = os.environ.get("SHUB_JOBKEY") or os.environ.get("SCRAPY_JOB") or None
        writer = CheckpointWriter(
            store, template, format=self.state_feed.format, spider=crawler.spider.name, run=self.run_id, job=job,
            arguments=spider_arguments(crawler),
        )  # fmt: skip
        delete_orphans = self.state_settings.orphans == "delete"
        return Commits(
            crawler, writer, items.threads, items.retry, self._get_resolver, self._orphan_feeds, delete_orphans
        )  # fmt: skip

    def _get_resolver(self) -> StateResolver:
        resolver = get_extension(StateResolver, self.crawler)
        if resolver is None:
            raise StateSettingsError("EXTENSIONS has no scrapy_state.extension.StateResolver, which the state feed needs")
        return resolver

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make the exporter. If the crawl must not start, BarrierItemProcessor will say so.

        :raises StateSettingsError: if a setting or feed can't be used, and BarrierItemProcessor is not there to say so
        """
        try:
            return super().from_crawler(crawler)
        except StateError as error:
            if not is_crawl(crawler):
                raise
            refuse(crawler, error)
            raise NotConfigured from error

    def _orphan_feeds(self, run_id: str) -> OrphanFeeds:
        crawler = self.crawler
        assert crawler.spider is not None
        feeds = [
            open_template(crawler, uri, options["uri_params"], open_writer, run_id)
            for uri, options in self._options.items()
            if begins_with_run_id(uri) and self._storage_class(uri) is DurableFeedStorage
        ]
        others = [*self.feeds.items(), *segments_feed(crawler.settings)]
        return OrphanFeeds(feeds, files_left_out(others, crawler.spider.name, crawler.settings["FEED_URI_PARAMS"]))

    def item_scraped(self, item: Any, spider: Spider) -> None:
        """Export *item* to the side it was yielded on, and to the feeds that Scrapy's code exports."""
        if self.writing:
            ticket = self._tickets.scraped(item)
            if self._checkpointer.closed:
                self._checkpointer.item_came_too_late(ticket)
            elif ticket.side.is_held and ticket.side.into is None:
                self._held_items.hold(item, ticket)
                ticket.note_key()
                ticket.settle()
            elif self._items.export(item, exported := ticket.to_export):
                exported.note_key()
                ticket.settle()
        if self.slots:
            super().item_scraped(item, spider)

    async def close_spider(self, spider: Spider, reason: str = "finished") -> None:
        """Store the last checkpoint; then let Scrapy close its feeds."""
        if self.writing:
            await self._checkpointer.close(reason)
        if get_refusal(self.crawler) is not None:
            for slot in self.slots:
                slot.store_empty = False  # FEED_STORE_EMPTY would replace existing files with empty ones
        await super().close_spider(spider)
        if self.writing:
            reason = self._barrier.failure.conclude(reason)
            self._barrier.log_progress(f"spider closed ({reason})")

    def _new_batch(self, template: str, number: int) -> Batch:
        spider, options = self.crawler.spider, self._options[template]
        assert spider is not None
        before = SimpleNamespace(batch_id=number - 1)
        params = self._get_uri_params(spider, options["uri_params"], before)  # type: ignore[arg-type]
        uri = KeyTemplate.parse(template, params, varying=frozenset()).prefix
        storage = build_from_crawler(self._storage_class(uri), self.crawler, uri, feed_options=options)
        if isinstance(storage, BlockingFeedStorage):
            replace_inherited_methods(storage, open_nameless, self._items.threads.run)
        slot = FeedSlot(
            storage=storage, uri=uri, format=options["format"], store_empty=False, batch_id=number, uri_template=template,
            filter=self.filters[template], feed_options=options, spider=spider, exporters=self.exporters,
            settings=self.settings, crawler=self.crawler,
        )  # fmt: skip
        kind = self.storages.get(urlparse(uri).scheme, self.storages["file"]).__name__  # the name without scrapy_state
        return Batch(slot, storage.uri if isinstance(storage, DurableFeedStorage) else without_credentials(uri), kind)

    # Methods of Scrapy's exporter that are changed

    def _load_filter(self, feed_options: dict[str, Any]) -> ItemFilter:
        return ItemFilter({}) if is_state_feed(feed_options) else super()._load_filter(feed_options)

    def _storage_supported(self, uri: str, feed_options: dict[str, Any]) -> bool:
        if self.state_feed is not None and uri == self.state_feed.uri:
            return True  # it has no feed storage
        if uri in self._item_feeds and self._storage_class(uri) is DurableFeedStorage:
            return True  # Scrapy would make a storage to find out, and S3FeedStorage would make a client
        return super()._storage_supported(uri, feed_options)

    def _storage_class(self, uri: str) -> type:
        """The storage for *uri* in a feed that checkpoints name."""
        cls = self.storages.get(urlparse(uri).scheme, self.storages["file"])
        return DURABLE.get(cls, cls)

    def _get_uri_params(
        self, spider: Spider, uri_params_function: str | UriParamsCallableT | None, slot: FeedSlot | None = None
    ) -> dict[str, Any]:
        batch_id = slot.batch_id + 1 if slot is not None else 1
        params = uri_params(spider, uri_params_function, run_id=self.run_id, batch_id=batch_id)
        return {"run_id": self.run_id, **params}


def _is_state_feed_lost(crawler: Crawler) -> bool:
    own = (crawler.spidercls.custom_settings or {}).get("FEEDS")
    if not own or crawler.settings.getpriority("FEEDS") != SETTINGS_PRIORITIES["cmdline"]:
        return False
    return StateFeed.from_settings(BaseSettings({"FEEDS": own})) is not None
