"""The feed exporter with a state feed: two sides, cut, wait, commit."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Coroutine
from copy import deepcopy
from datetime import datetime, timezone
from functools import partial
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse

from scrapy import Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.extensions.feedexport import BlockingFeedStorage, FeedExporter, FeedSlot, UriParamsCallableT, apply_uri_params
from scrapy.settings import SETTINGS_PRIORITIES, BaseSettings
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.misc import build_from_crawler, load_object

from .batches import Batch
from .checkpoint import ItemFile
from .exceptions import ItemFailed, StateConflict, StateError, StateSettingsError
from .extension import StateResolver, as_text, get_extension, is_crawl, open_template, patiently
from .feeds import StateFeed, item_feeds_with_checkpoints
from .feedstorages import DURABLE, DurableFeedStorage, check_temporary_folder, open_nameless
from .itemfeeds import ItemFeeds
from .keys import begins_with_run_id, without_credentials
from .orphans import Orphan, find_orphans, treat_orphans
from .resolver import Resolution
from .settings import StateSettings
from .signals import checkpoint_stored
from .stores import open_writer
from .tickets import Barrier, Side, Ticket, get_barrier
from .uploads import Retry, Uploads
from .writer import CheckpointWriter

logger = logging.getLogger("scrapy_state.state")
_LONG_WAIT_SECONDS = 60


class CheckpointFeedExporter(FeedExporter):
    """Scrapy's FeedExporter, and the state feed.

    Without a state feed (or STATE_READONLY, or under ``scrapy parse`` and the like) it behaves as Scrapy's. With one,
    the item feeds that take part are exported here; the others (``"checkpoint": False``, standard output, ``-o``) are
    left to Scrapy's code.

    :raises StateSettingsError: if the state feed or an item feed can't be used as it is
    """

    def __init__(self, crawler: Crawler) -> None:
        self.run_id = new_run_id()
        self.state_settings = StateSettings.from_settings(crawler.settings)
        self.state_feed = StateFeed.from_settings(crawler.settings)
        writing = not self.state_settings.readonly and self.state_settings.enabled and is_crawl(crawler)
        self.writing = self.state_feed is not None and writing
        self._item_feeds = item_feeds_with_checkpoints(crawler.settings) if self.writing else set()
        try:
            super().__init__(crawler)
        except NotConfigured as error:
            if not self.writing:
                raise
            raise StateSettingsError("FEEDS: one of the feeds can't be used; the log line before says which") from error
        if self.state_feed is not None:
            del self.feeds[self.state_feed.uri]
        elif _is_state_feed_lost(crawler):
            logger.warning("FEEDS was given on the command line (-o), so the state feed in the spider's custom_settings "
                           "is not there: no state is stored. Put it into the project's settings")  # fmt: skip
        if not self.writing:
            return
        assert self.state_feed is not None
        if not is_asyncio_available():
            raise StateSettingsError("TWISTED_REACTOR: the state feed needs asyncio; leave Scrapy's default reactor in place")
        store, template = open_template(crawler, self.state_feed.uri, self.state_feed.options.get("uri_params"), open_writer)
        if not template.writable:
            raise self.state_feed.not_writable()
        assert crawler.spider is not None
        job = os.environ.get("SHUB_JOBKEY") or os.environ.get("SCRAPY_JOB") or None
        self._writer = CheckpointWriter(
            store, template, format=self.state_feed.format, spider=crawler.spider.name, run=self.run_id, job=job
        )
        self._remembered: dict[str, Any] | None = None
        self._last_cut = time.monotonic()
        self._cut_side: Side | None = None
        self._all_settled = asyncio.Event()
        self._commit_task: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        retry = Retry(self.state_settings.retry_seconds, self.state_settings.close_seconds)
        failed = partial(self._fail, "state_store_failed")
        self._uploads = Uploads(crawler, retry, self.state_settings.spool_bytes, failed)
        self._options = {uri: self.feeds.pop(uri) for uri in self._item_feeds}
        self._items = ItemFeeds(self._options, self._new_batch, self._uploads)
        #: nothing that the spider has yielded since the last checkpoint may be passed by another one
        self._blocked = False
        #: the last cut is made
        self._closed = False
        self._barrier: Barrier = get_barrier(crawler)
        self._barrier.listener = self
        crawler.signals.connect(self._engine_stopped, signals.engine_stopped)

    # The opening

    async def opening(self) -> None:
        """Store the opening checkpoint. Called before the spider's first request.

        :raises StateError: if it can't be stored; the crawl does not begin
        """
        resolver = get_extension(StateResolver, self.crawler)
        if resolver is None:
            raise StateSettingsError("EXTENSIONS has no scrapy_state.extension.StateResolver, which the state feed needs")
        await asyncio.to_thread(check_temporary_folder, self.crawler.settings)
        began = time.monotonic()
        orphans = await asyncio.to_thread(self._find_orphans, resolver.resolution)
        opening = partial(self._writer.open, resolver.state, resolver.resolution, resolver.resolve_own)
        checkpoint = await asyncio.to_thread(patiently, opening)
        if not self._writer.store.atomic:
            logger.info(
                "%s may not write create-only for sure: a second writer there is detected, not prevented",
                self._writer.store.uri(""), extra={"spider": self.crawler.spider},
            )  # fmt: skip
        if checkpoint.overlap:
            logger.warning(
                "this run does not start from the state of checkpoint %s, its parent: along the lineage items stand twice "
                "if it starts earlier (overlap), and are missing if later", checkpoint.parent,
                extra={"spider": self.crawler.spider},
            )  # fmt: skip
        await self._stored(began)
        await asyncio.to_thread(treat_orphans, orphans, self.state_settings.orphans == "delete")
        self.crawler.stats.set_value("state/orphans", len(orphans))
        self._last_cut = time.monotonic()

    def _find_orphans(self, resolution: Resolution) -> list[Orphan]:
        run = resolution.checkpoint.run if resolution.checkpoint is not None else None
        if run is None:
            return []
        feeds = [
            open_template(self.crawler, uri, options["uri_params"], open_writer, run)
            for uri, options in self._options.items()
            if begins_with_run_id(uri) and self._storage_class(uri) is DurableFeedStorage
        ]
        return find_orphans(self._writer.store, self._writer.template, resolution, feeds)

    # Items

    def item_scraped(self, item: Any, spider: Spider) -> None:
        """Export *item* to the side it was yielded on, and to the feeds that are left to Scrapy."""
        if self.writing:
            self._item_scraped(item, spider)
        super().item_scraped(item, spider)

    def _item_scraped(self, item: Any, spider: Spider) -> None:
        ticket = self._barrier.scraped(item)
        if self._closed:
            return
        try:
            is_after = ticket.epoch == self._barrier.epoch
            for template in self._items.templates:
                if self.filters[template].accepts(item):
                    self._items.export(item, template, ticket.side, is_after, self._barrier.epoch)
        except Exception as error:
            # With its trace, which nobody else logs; a pipeline's is in Scrapy's log.
            logger.warning("Error exporting an item", exc_info=True, extra={"spider": spider})
            self._fail("state_store_failed", ItemFailed(f"an item could not be exported ({type(error).__name__})"))
        else:
            self._barrier.settle(ticket)

    def _new_batch(self, template: str, number: int) -> Batch:
        spider, options = self.crawler.spider, self._options[template]
        assert spider is not None
        before = SimpleNamespace(batch_id=number - 1)
        uri = apply_uri_params(template, self._get_uri_params(spider, options["uri_params"], before))  # type: ignore[arg-type]
        storage = build_from_crawler(self._storage_class(uri), self.crawler, uri, feed_options=options)
        if isinstance(storage, BlockingFeedStorage) and type(storage).open is BlockingFeedStorage.open:
            # Its temporary file would have a name, and stay when the process is killed.
            storage.open = open_nameless  # type: ignore[method-assign]
        slot = FeedSlot(
            storage=storage, uri=uri, format=options["format"], store_empty=False, batch_id=number, uri_template=template,
            filter=self.filters[template], feed_options=options, spider=spider, exporters=self.exporters,
            settings=self.settings, crawler=self.crawler,
        )  # fmt: skip
        kind = self.storages.get(urlparse(uri).scheme, self.storages["file"]).__name__  # as without scrapy_state
        return Batch(slot, storage.uri if isinstance(storage, DurableFeedStorage) else without_credentials(uri), kind)

    @property
    def held(self) -> bool:
        """Whether the spool is full and something is being uploaded."""
        return self._uploads.spool.held

    async def room(self) -> None:
        """Wait while the spool is full and something is being uploaded."""
        await self._uploads.spool.room()

    # Barriers

    def state_yielded(self, state: dict[str, Any]) -> None:
        """Cut at this state item if one is due; else remember it."""
        if self._barrier.ended:
            return
        self._barrier.next_epoch()
        self._remembered = state
        stopping = not self.crawler.crawling
        due = stopping or time.monotonic() - self._last_cut >= self.state_settings.interval_seconds
        if due and self._commit_task is None:
            self._commit_task = asyncio.create_task(self._cut())

    def settled(self, side: Side) -> None:
        """See whether the old side is complete."""
        if side is self._cut_side and side.out == 0:
            self._all_settled.set()

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """A pipeline raised: stop, or pass over the item, as STATE_ON_ITEM_ERROR says."""
        if self.state_settings.on_item_error == "skip":
            ticket.side.errors[ticket.epoch] += 1
            self._barrier.settle(ticket)
            return
        # If it follows the newest state item, that one can still be stored: only what comes after can't.
        follows = ticket.epoch == self._barrier.epoch
        if follows:
            self._barrier.settle(ticket)
        failure = ItemFailed(f"an item raised {type(error).__name__} in a pipeline")
        self._fail("state_item_failed", failure, blocks=not follows)

    def _cut(self, reason: str | None = None) -> Coroutine[Any, Any, None]:
        """Begin a new side now; return the coroutine that commits the old one."""
        state, self._remembered = self._remembered, None
        if state is None:
            assert self._writer.last is not None
            state = self._writer.last.state
        side = self._cut_side = self._barrier.cut()
        self._last_cut = time.monotonic()
        return self._commit(side, state, reason)

    async def _commit(self, side: Side, state: dict[str, Any], reason: str | None) -> None:
        began = time.monotonic()
        epoch = self._barrier.epoch
        try:
            await self._wait_until_settled(side)
            if reason is not None:
                self._items.split_side(side, epoch)
            self._items.close_side(side)
            files = []
            for batch in side.batches:
                assert batch.upload is not None
                stored = await batch.upload
                files.append(ItemFile(stored.uri, stored.items, stored.bytes, batch.skip(epoch) if reason is not None else ()))
            errors = sum(count for at, count in side.errors.items() if at < epoch)
            checkpoint = self._writer.next(state, files, errors=errors, reason=reason)
            commit = partial(asyncio.to_thread, self._writer.commit, checkpoint)
            await self._uploads.retry.run(f"checkpoint {checkpoint.id}", commit)
            await self._stored(began)
        except StateConflict as error:
            self._fail("state_conflict", error)
        except StateError as error:
            self._fail("state_store_failed", error)
        except Exception as error:
            logger.warning("Error storing a checkpoint", exc_info=True, extra={"spider": self.crawler.spider})
            self._fail("state_store_failed", StateError(f"{type(error).__name__}: {error}"))
        finally:
            self._commit_task = self._cut_side = None

    async def _wait_until_settled(self, side: Side) -> None:
        self._all_settled.clear()
        self.settled(side)
        settled = asyncio.ensure_future(self._all_settled.wait())
        try:
            done, _ = await asyncio.wait([settled], timeout=_LONG_WAIT_SECONDS)
            if not done:
                logger.warning(
                    "a checkpoint has been waiting for %s s: %s items that came before it are still in the pipelines",
                    _LONG_WAIT_SECONDS, side.out, extra={"spider": self.crawler.spider},
                )  # fmt: skip
            await settled
        finally:
            settled.cancel()

    async def _stored(self, began: float) -> None:
        checkpoint = self._barrier.stored = self._writer.last
        assert checkpoint is not None
        logger.info(
            "checkpoint %s stored: STATE %s, items: %s, files: %s, seconds: %.3f%s",
            checkpoint.id, as_text(checkpoint.state), checkpoint.items, len(checkpoint.files), time.monotonic() - began,
            f", {checkpoint.reason}" if checkpoint.reason else "", extra={"spider": self.crawler.spider},
        )  # fmt: skip
        stats = self.crawler.stats
        stats.inc_value("state/checkpoints")
        stats.max_value("state/commit_time_max", time.monotonic() - began)
        stats.set_value("state/last_id", checkpoint.id)
        stats.set_value("state/items_stored", checkpoint.items)
        shown = deepcopy(checkpoint)  # a handler may change what it gets
        await self.crawler.signals.send_catch_log_async(checkpoint_stored, checkpoint=shown, spider=self.crawler.spider)

    # The end

    def _fail(self, reason: str, failure: StateError, blocks: bool = True) -> None:
        """No checkpoint past here: say so once, and close the spider.

        :param blocks: whether that also holds for the newest state item
        """
        self._blocked = self._blocked or blocks
        if self._failure is not None:
            return
        self._failure = failure
        self._barrier.ended = True
        self._uploads.spool.close()
        logger.warning("the crawl is closed (%s): %s", reason, failure, extra={"spider": self.crawler.spider})
        if self.crawler.engine.spider is not None:
            self._closing = asyncio.create_task(self.crawler.engine.close_spider_async(reason=reason))

    def closing(self) -> None:
        """Hold nothing back any more: what is in flight shall come to its end."""
        self._uploads.spool.close()

    async def close_spider(self, spider: Spider, reason: str = "finished") -> None:
        """Store the last state item's checkpoint; then let Scrapy close the other feeds."""
        if self.writing and self._writer.last is not None:
            try:
                await self._close(reason)
            finally:
                if self._failure is not None:
                    self._log_failure()
        await super().close_spider(spider)
        if self.writing:
            self._barrier.log_progress(f"spider closed ({reason})", spider)

    async def _close(self, reason: str) -> None:
        self._barrier.ended = True  # start() may still be read, and its items come: they are for the next run
        self._uploads.spool.close()
        self._uploads.retry.closing()
        # Every item has been through the pipelines by now. What is not settled was cancelled, or has failed.
        if self._commit_task is not None:
            if self._cut_side is not None and self._cut_side.out:
                self._commit_task.cancel()
                self._unsettled(self._cut_side.out)
            await asyncio.wait([self._commit_task])
        if self._barrier.side.out:
            self._unsettled(self._barrier.side.out)
        self._closed = True
        if not self._blocked:
            await self._cut(reason)
        self._items.discard()
        await self._uploads.wait()

    def _log_failure(self) -> None:
        last = self._writer.last
        assert last is not None
        logger.error(
            "checkpoints stopped at checkpoint %s, STATE %s, because: %s. Put that right and start the crawl again: "
            "it goes on from there", last.id, as_text(last.state), self._failure, extra={"spider": self.crawler.spider},
        )  # fmt: skip

    def _unsettled(self, count: int) -> None:
        failure = ItemFailed(f"{count} items never came out of the pipelines")
        self._fail("state_item_failed", failure)

    def _engine_stopped(self) -> None:
        if self._failure is not None:
            # scrapy crawl and runspider exit with 1 if a crawler has no spider in the end (AsyncCrawlerRunner._done,
            # CrawlerRunner._crawl in scrapy/crawler.py); Scrapy has no other way to say that a crawl failed.
            self.crawler.spider = None

    # What of Scrapy's is changed

    def _storage_supported(self, uri: str, feed_options: dict[str, Any]) -> bool:
        if self.state_feed is not None and uri == self.state_feed.uri:
            return True  # not stored by a feed storage
        if uri in self._item_feeds and self._storage_class(uri) is DurableFeedStorage:
            return True  # Scrapy would make one to see, and S3FeedStorage a client with it
        return super()._storage_supported(uri, feed_options)

    def _storage_class(self, uri: str) -> type:
        """The storage for *uri* in a feed that checkpoints name."""
        cls = self.storages.get(urlparse(uri).scheme, self.storages["file"])
        return DURABLE.get(cls, cls)

    def _get_uri_params(
        self, spider: Spider, uri_params_function: str | UriParamsCallableT | None, slot: FeedSlot | None = None
    ) -> dict[str, Any]:
        def with_run_id(params: dict[str, Any], spider: Spider) -> dict[str, Any]:
            params["run_id"] = self.run_id
            changed = load_object(uri_params_function)(params, spider) if uri_params_function else None
            return params if changed is None else {"run_id": self.run_id, **changed}

        return super()._get_uri_params(spider, with_run_id, slot)


def new_run_id() -> str:
    """Return a short unique id that sorts by time."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def _is_state_feed_lost(crawler: Crawler) -> bool:
    own = (crawler.spidercls.custom_settings or {}).get("FEEDS")
    if not own or crawler.settings.getpriority("FEEDS") != SETTINGS_PRIORITIES["cmdline"]:
        return False
    return StateFeed.from_settings(BaseSettings({"FEEDS": own})) is not None
