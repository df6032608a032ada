"""The crawler: whether it crawls, what its spider was given, and how the process exits (scrapy/crawler.py)."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scrapy.commands import ScrapyCommand
    from scrapy.crawler import Crawler

#: The modules of Scrapy's commands that crawl with one spider, and exit with what their ``exitcode`` says
_CRAWLING = ("scrapy.commands.crawl", "scrapy.commands.runspider")


def is_crawl(crawler: Crawler) -> bool:
    """Return whether *crawler* runs its spider. ``scrapy shell``, ``fetch``, ``view``, ``parse`` and ``check`` don't.

    These commands (scrapy/commands/) have no spider yet, or they replace its ``start()``.
    """
    spider = crawler.spider
    return spider is not None and not type(spider).start.__module__.startswith("scrapy.commands.")


def arguments_of(crawler: Crawler) -> dict[str, Any] | None:
    """Return the keyword arguments that *crawler*'s spider was made with; None if the crawl is not just being started.

    A spider need not keep its arguments, and has attributes that were no arguments. Crawler.crawl() and crawl_async() keep
    them nowhere but in their own frame, which is on the stack while they make the components.
    """
    from scrapy.crawler import Crawler

    codes = {inspect.unwrap(method).__code__ for method in (Crawler.crawl, Crawler.crawl_async)}
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code in codes and frame.f_locals.get("self") is crawler:
            return dict(frame.f_locals["kwargs"])
        frame = frame.f_back
    return None


def make_spider(crawler: Crawler, arguments: dict[str, Any]) -> None:
    """Give *crawler* its spider and what the add-ons set, without a reactor.

    Crawler.crawl_async() begins with the same steps.
    """
    crawler.spider = crawler.spidercls.from_crawler(crawler, **arguments)
    crawler.addons.load_settings(crawler.settings)


def fail_when_closed(crawler: Crawler, exit_code: int) -> None:
    """Let the process exit with *exit_code* once the spider is closed, because the crawl failed.

    ``scrapy crawl`` and ``runspider`` exit with 1 if a crawler has no spider in the end (AsyncCrawlerRunner._done() and
    CrawlerRunner._crawl()), and otherwise with the ``exitcode`` of the command, which they leave alone. Whatever else runs
    crawls knows no codes but 0 and 1. A closing engine calls Crawler.stop_async() last, so that method of this one object is
    wrapped.
    """
    stop = crawler.stop_async

    async def stop_async() -> None:
        await stop()
        if crawler.engine.spider is not None:
            return
        command = None if exit_code == 1 else _command_of(crawler)
        if command is None:
            crawler.spider = None
        else:
            command.exitcode = exit_code

    crawler.stop_async = stop_async  # type: ignore[method-assign]


def _command_of(crawler: Crawler) -> ScrapyCommand | None:
    """Return Scrapy's own command that runs *crawler* and nothing else; None if something else does.

    A crawler doesn't know its command. But the reactor runs inside ``Command.run()``, which is on the stack.
    """
    from scrapy.commands import ScrapyCommand

    frame = inspect.currentframe()
    while frame is not None:
        command = frame.f_locals.get("self")
        if isinstance(command, ScrapyCommand) and command.run.__module__ in _CRAWLING and frame.f_code.co_name == "run":
            return command
        frame = frame.f_back
    return None
