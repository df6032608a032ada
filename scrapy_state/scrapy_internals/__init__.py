"""Everything that depends on Scrapy's private parts, so that whoever updates Scrapy has one place to look.

Scrapy has no setting or signal for what these functions do. Each names the file and the method of Scrapy that it relies on.
An older Scrapy must be able to import them, or the add-on could not say which version it needs: nothing here imports
``scrapy.core`` or ``scrapy.extensions`` before it is called.
"""

from .cloud import typed
from .components import components, extensions, has_async, nearest_spider_middleware
from .cookies import cookie_fields, cookies_in, watch_cookies
from .crawler import arguments_of, fail_when_closed, is_crawl, make_spider
from .engine import (
    closes_when_idle,
    engine_of,
    get_scheduler,
    hold,
    hold_start,
    is_closing,
    is_reading_start,
    mind_closing,
    requests_in_flight,
    requests_waiting,
    until_closed,
    wake_up,
    watch_start,
)
from .feed_files import file_of, replace_inherited_methods, write_csv_header
from .older import close_unstarted, mend_engine
from .pages import PAGE, STAND_IN, hold_output, slot_limits, watch_pages
from .requests import RequestWatcher, is_unset, watch_done, watch_errbacks, watch_failures, watch_fetch, watch_requests

__all__ = [
    "PAGE",
    "STAND_IN",
    "RequestWatcher",
    "arguments_of",
    "close_unstarted",
    "closes_when_idle",
    "components",
    "cookie_fields",
    "cookies_in",
    "engine_of",
    "extensions",
    "fail_when_closed",
    "file_of",
    "get_scheduler",
    "has_async",
    "hold",
    "hold_output",
    "hold_start",
    "is_closing",
    "is_crawl",
    "is_reading_start",
    "is_unset",
    "make_spider",
    "mend_engine",
    "mind_closing",
    "nearest_spider_middleware",
    "replace_inherited_methods",
    "requests_in_flight",
    "requests_waiting",
    "slot_limits",
    "typed",
    "until_closed",
    "wake_up",
    "watch_cookies",
    "watch_done",
    "watch_errbacks",
    "watch_failures",
    "watch_fetch",
    "watch_pages",
    "watch_requests",
    "watch_start",
    "write_csv_header",
]
