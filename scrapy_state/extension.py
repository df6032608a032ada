"""Where a run starts: the setting STATE and ``spider.state``, from the settings or from the newest checkpoint."""

from __future__ import annotations

import logging
import traceback
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scrapy import Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.settings import SETTINGS_PRIORITIES
from scrapy.utils.job import job_dir
from scrapy.utils.misc import load_object

from .exceptions import StateError, StateSettingsError
from .feeds import StateFeed, open_template
from .lineage.resolve import At, Resolution, resolve
from .model.checkpoint import Checkpoint
from .model.json_values import in_log, json_object, shortened
from .model.key_template import placeholders
from .resume.arguments import warn_of_changes
from .resume.lag import earlier
from .resume.origin import describe, differences, less_lag
from .resume.refusal import get_refusal, refuse
from .resume.sources import find
from .resume.write_guard import check_places, item_places
from .scrapy_internals import is_crawl
from .settings import get_settings, names_close_to_ours, set_state
from .stores import open_reader
from .stores.retry import in_thread

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
logger = logging.getLogger("scrapy_state.state")


class SpiderSettingsState:
    """Takes STATE from the settings to ``spider.state``; its priority in the settings stays what it is.

    Subclass it to change or check the state a run starts from, and put the subclass into EXTENSIONS in its place.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.settings = get_settings(crawler)
        #: the state this run starts from
        self.state: dict[str, Any] = {}
        #: where it came from, as the log says it
        self.origin = ""
        #: the checkpoint it starts from, if it is just where that one is: same state, same units beyond it
        self.start: Checkpoint | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Find the state and put it into the setting STATE and ``spider.state``. Blocks while it is read.

        :raises NotConfigured: if a setting can't be used; where there is no crawl to start (``scrapy shell``, …)
        :raises StateError: if there is no telling where to start, and no BarrierItemProcessor to refuse to
        """
        if not is_crawl(crawler):
            extension = cls(crawler)
            if crawler.spider is not None and not hasattr(crawler.spider, "state"):
                crawler.spider.state = deepcopy(extension.settings.state)  # type: ignore[attr-defined]  # for callbacks that read it
            raise NotConfigured
        assert crawler.spider is not None
        for name, near in names_close_to_ours(crawler.settings):
            logger.warning(
                "there is no setting %s in scrapy_state. If %s is meant, correct the name; if it is your own, all is well",
                name, near, extra={"spider": crawler.spider},
            )  # fmt: skip
        try:
            extension = cls(crawler)
        except StateError as error:
            refuse(crawler, error)
            raise NotConfigured from error
        try:
            extension._seed(crawler.spider)
        except StateError as error:
            refuse(crawler, error)
            return extension
        # Again after the built-in SpiderState (JOBDIR), whose handler was connected before this one.
        crawler.signals.connect(extension._spider_opened, signals.spider_opened)
        return extension

    @property
    def refusal(self) -> StateError | None:
        """Why the crawl must not start: the item processor refuses to, without a trace."""
        return get_refusal(self.crawler)

    def change_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state to start from in the place of *state*. For a subclass; a raise refuses to start."""
        return state

    def validate_state(self, state: dict[str, Any], spider: Spider) -> None:
        """Raise if *spider* must not start from *state*. For a subclass."""

    def find_state(self) -> tuple[dict[str, Any], str]:
        """Return the state to start from, before :meth:`change_state`, and where it came from, for the log."""
        priority = self.settings.state_priority
        return self.settings.state, f"from the settings (priority {get_settings_priority_name(priority or 0)})"

    def _seed(self, spider: Spider) -> None:
        _check_attribute(spider)
        state, self.origin = self.find_state()
        try:
            state = json_object(state, "STATE")
            self.state = json_object(self.change_state(deepcopy(state)), "what change_state() returned")
            self.validate_state(deepcopy(self.state), spider)
        except StateError:
            raise
        except Exception as error:  # whatever the project's hooks raise: they refuse
            raise _refused_by(type(self), state, error) from error
        if self.start is not None and self.start.state != self.state:
            self.start = None
        settings = self.crawler.settings
        set_state(settings, deepcopy(self.state))
        spider.state = deepcopy(self.state)  # type: ignore[attr-defined]
        logger.info("STATE %s %s", in_log(self.state), self.origin, extra={"spider": spider})
        if self.state and (Path(job_dir(settings) or "") / "requests.seen").exists() and job_dir(settings):
            logger.warning(
                "JOBDIR %s remembers the requests of an earlier run: the request that start() yields for the state may be "
                "filtered as seen there. Yield it with dont_filter=True, or use a new JOBDIR",
                job_dir(settings), extra={"spider": spider},
            )  # fmt: skip

    def _spider_opened(self, spider: Spider) -> None:
        spider.state = deepcopy(self.state)  # type: ignore[attr-defined]


class StateResolver(SpiderSettingsState):
    """Takes the state from a checkpoint, the newest unless STATE_AT says another; STATE_LAG takes a bit off it.

    An explicit STATE goes before it, STATE of lower priority after.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self.feed = StateFeed.from_settings(crawler.settings)
        #: what was found under the state feed's own prefix: the exporter numbers on from it
        self.resolution = Resolution()
        #: what was found where this run resumes from: the same, or what is under STATE_FROM
        self.found = self.resolution

    def find_state(self) -> tuple[dict[str, Any], str]:
        """As :class:`SpiderSettingsState`, from the chosen checkpoint first. Blocks while the store is read."""
        settings, feed = self.settings, self.feed
        if not settings.enabled:
            state, origin = super().find_state()
            return state, f"{origin}; STATE_ENABLED is False: no checkpoint is read or stored"
        # A state feed of this run's own (%(run_id)s) has nothing to begin with, and is nobody else's business.
        own = feed is not None and (settings.readonly or "run_id" not in placeholders(feed.uri))
        if own and not (settings.readonly and (settings.explicit or settings.read_from)):
            self.resolution = in_thread(self.resolve_own)
        found = self.resolution
        if isinstance(settings.read_from, dict) and not settings.explicit:
            self._check_item_feeds(found)
            return self._from_source(settings.read_from)
        if isinstance(settings.read_from, str) and not settings.explicit:
            source = settings.read_from
            found = in_thread(lambda: self._resolve(source, None, None, settings.at))
        self.found = found
        for uri, why in found.passed_over:
            logger.warning("%s is skipped: %s", uri, why, extra={"spider": self.crawler.spider})
        self._check_item_feeds(found)
        if settings.explicit or found.checkpoint is None:
            state, origin = super().find_state()
            return state, origin + differences(settings, found)
        self.start = found.checkpoint
        warn_of_changes(self.crawler, found.checkpoint)
        state = earlier(found.checkpoint.state, settings.lag) if found.checkpoint.state else {}
        return state, f"from {describe(found)}{differences(settings, found)}"

    def _from_source(self, spec: dict[str, Any]) -> tuple[dict[str, Any], str]:
        at, lag = self.settings.at, self.settings.lag
        if at not in ("latest", "none"):
            raise StateSettingsError("STATE_AT is for checkpoints, but STATE_FROM names items or a log; leave one of them out")
        opener = partial(open_template, self.crawler, params_function=None, opener=open_reader)
        found = None if at == "none" else in_thread(lambda: find(spec, opener))
        if found is None:
            state, origin = super().find_state()
            return state, f"{origin}; {'STATE_AT is none' if at == 'none' else 'there are no items, or no log, in STATE_FROM'}"
        state = earlier(found.state, lag) if found.state else {}
        return state, f"from {found.kind} ({found.uri})" + (less_lag(self.settings) if state else "")

    def resolve_own(self) -> Resolution:
        """Look for the checkpoint to start from under the state feed's own prefix. Blocks."""
        assert self.feed is not None
        assert self.crawler.spider is not None
        # With a STATE or checkpoints of elsewhere to start from, the newest of its own is still the parent.
        known = self.settings.explicit or bool(self.settings.read_from)
        at = "latest" if known else self.settings.at
        params = self.feed.options.get("uri_params")
        return self._resolve(self.feed.uri, params, self.crawler.spider.name, at, or_none=known)

    def _resolve(self, uri: str, params_function: Any, spider_name: str | None, at: At, *, or_none: bool = False) -> Resolution:
        store, template = open_template(self.crawler, uri, params_function, open_reader)
        return resolve(store, template, spider_name, at, or_none=or_none)

    def _check_item_feeds(self, found: Resolution) -> None:
        """Refuse item feeds that would write where the items of the checkpoints lie, if these are not this run's to go on."""
        settings, feed = self.settings, self.feed
        uri, params_function = settings.read_from, None
        if not isinstance(uri, str):
            uri, params_function = (feed.uri, feed.options.get("uri_params")) if feed is not None else (None, None)
        elsewhere = isinstance(settings.read_from, str) and not settings.explicit and found.newest != self.resolution.newest
        if uri is None or not (settings.readonly or elsewhere):
            return
        store, template = open_template(self.crawler, uri, params_function, open_reader)
        places = item_places(self.crawler)
        if settings.explicit or settings.read_from not in (None, uri):
            # Nothing was looked for there, and need not be unless a feed writes in the same store.
            if not any(each.home == store.uri("/") for each in places):
                return
            found = in_thread(lambda: resolve(store, template))
        in_thread(lambda: check_places(places, store, found, self.crawler.settings))


def _refused_by(resolver: type, state: Any, error: Exception) -> StateSettingsError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    is_ours = Path(__file__).parent in Path(frame.filename).parents
    place = "" if is_ours else f" ({Path(frame.filename).name}, line {frame.lineno})"
    return StateSettingsError(
        f"{resolver.__qualname__} refuses to start from {shortened(repr(state))}: {type(error).__name__}: {error}{place}. "
        "Correct the state (STATE, or STATE_AT for another checkpoint), or the hook"
    )


def _check_attribute(spider: Spider) -> None:
    """See whether the state can be kept in ``spider.state``."""
    try:
        found = getattr(spider, "state", None)
        if isinstance(found, dict) or found is None:
            spider.state = found or {}  # type: ignore[attr-defined]
            return
        problem = f"is {found!r}"
    except Exception as error:  # a property of the project's own
        problem = f"can't be read and set ({type(error).__name__})"
    raise StateSettingsError(
        f"spider.state {problem}; scrapy_state keeps the state there, a dict: "
        "give the spider argument (-a state=…) or attribute another name"
    )


def get_extension(name_or_class: str | type[T], spider_or_crawler: Spider | Crawler) -> T | None:
    """Return the running extension of a class (or of a subclass of it), None if there is none.

    :param name_or_class: the class, or its import path as text
    :raises RuntimeError: while the extensions are being made; call it from ``spider_opened`` on
    """
    crawler = spider_or_crawler.crawler if isinstance(spider_or_crawler, Spider) else spider_or_crawler
    found: T | None = crawler.get_extension(load_object(name_or_class))
    return found


def get_settings_priority_name(priority: int) -> str:
    """Return the name of a settings priority ("cmdline" for 40); for one without a name, the number as text."""
    return next((name for name, value in SETTINGS_PRIORITIES.items() if value == priority), str(priority))
