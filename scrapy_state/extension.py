"""Where a run starts: the setting STATE and ``spider.state``, from the settings or from the newest checkpoint."""

from __future__ import annotations

import logging
import traceback
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scrapy import Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.settings import SETTINGS_PRIORITIES
from scrapy.utils.misc import load_object

from .exceptions import StateError, StateSettingsError, as_state_error
from .feeds import StateFeed, open_template
from .lineage.resolution import Resolution
from .lineage.resolve import At, resolve
from .model.checkpoint import Checkpoint
from .model.json_values import in_log, json_object, shortened
from .model.key_template import placeholders
from .model.requests import Requests
from .model.setting_names import doubtful_names
from .resume.arguments import warn_of_changes
from .resume.lag import earlier
from .resume.origin import describe, differences, less_lag
from .resume.refusal import get_refusal, refuse
from .resume.remembering import warn_of_jobdir
from .resume.requests import log_left_behind, why_without_requests
from .resume.sources import find
from .resume.write_guard import check_places, item_places
from .scrapy_internals import is_crawl
from .settings import get_settings, set_state
from .stores import open_reader
from .stores.retry import in_thread

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
logger = logging.getLogger("scrapy_state.state")


class SpiderSettingsState:
    """Copies STATE from the settings to ``spider.state``. The setting keeps its priority.

    To change or check the state that a run starts from, put a subclass into EXTENSIONS instead.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.settings = get_settings(crawler)
        #: the state this run starts from
        self.state: dict[str, Any] = {}
        #: where that state came from, in the words of the log
        self.origin = ""
        #: the checkpoint this run starts from, if it starts exactly there: from the same state, with the same units ahead. It
        #: has requests if the run continues with them
        self.start: Checkpoint | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Find the state, and put it into the setting STATE and into ``spider.state``. Blocks while a store is read.

        :raises NotConfigured: if a setting can't be used, or under a command that runs no crawl (``scrapy shell``, …)
        :raises StateError: if nobody knows where to start, and no BarrierItemProcessor is in place to refuse to
        """
        if not is_crawl(crawler):
            extension = cls(crawler)
            if crawler.spider is not None and not hasattr(crawler.spider, "state"):
                crawler.spider.state = deepcopy(extension.settings.state)  # type: ignore[attr-defined]  # Callbacks may read it.
            raise NotConfigured
        assert crawler.spider is not None
        for name, near in doubtful_names(crawler.settings):
            logger.warning(
                "scrapy_state has no setting %s. If you meant %s, correct the name; if the setting is your own, ignore this",
                name, near, extra={"spider": crawler.spider},
            )  # fmt: skip
        try:
            extension = cls(crawler)
        except StateError as error:
            refuse(crawler, error)
            raise NotConfigured from error
        try:
            extension._seed(crawler.spider)
        except (StateError, OSError, MemoryError) as error:
            refuse(crawler, as_state_error(error))
            return extension
        # The built-in SpiderState (JOBDIR) sets spider.state in its own handler, which runs before this one.
        crawler.signals.connect(extension._spider_opened, signals.spider_opened)
        return extension

    @property
    def refusal(self) -> StateError | None:
        """Why the crawl must not start; None if it may. The item processor reports it in one line, without a trace."""
        return get_refusal(self.crawler)

    def change_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state to start from instead of *state*. For subclasses; if it raises, the crawl does not start."""
        return state

    def validate_state(self, state: dict[str, Any], spider: Spider) -> None:
        """Raise if *spider* must not start from *state*. For subclasses."""

    def find_state(self) -> tuple[dict[str, Any], str]:
        """Return the state to start from, as :meth:`change_state` gets it, and where it came from, for the log."""
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
        except Exception as error:  # Whatever a hook of the project's raises, the crawl does not start.
            raise _refused_by(type(self), state, error) from error
        if self.start is not None and state != self.state:
            self._leave_behind("change_state() has changed the state")
            self.start = None
        settings = self.crawler.settings
        set_state(settings, deepcopy(self.state))
        spider.state = deepcopy(self.state)  # type: ignore[attr-defined]
        logger.info("STATE %s %s", in_log(self.state), self.origin, extra={"spider": spider})
        if self.state:
            warn_of_jobdir(self.crawler)

    @property
    def continued(self) -> Requests | None:
        """The requests of the last run, if this run continues with them."""
        return None if self.start is None else self.start.requests

    @property
    def was_killed(self) -> bool:
        """Whether the last run has stored no last checkpoint, and this run starts from its newest one."""
        is_newest = self.settings.at == "latest"
        return self.start is not None and is_newest and self.start.reason in (None, "opened")

    def _leave_behind(self, why: str) -> None:
        """Warn that this run does not continue with the requests of the last one."""
        if self.start is None or self.start.requests is None:
            return
        log_left_behind(self.start.requests, why, self.settings, self.crawler)
        self.start = replace(self.start, requests=None)

    def _spider_opened(self, spider: Spider) -> None:
        spider.state = deepcopy(self.state)  # type: ignore[attr-defined]


class StateResolver(SpiderSettingsState):
    """Takes the state from a checkpoint: the newest one, or the one that STATE_AT names. Then subtracts STATE_LAG.

    An explicit STATE takes precedence over checkpoints. Any other STATE counts only if there is no checkpoint.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self.feed = StateFeed.from_settings(crawler.settings)
        #: the checkpoints of the state feed's own prefix: the exporter continues their numbers
        self.resolution = Resolution()
        #: the checkpoints that this run resumes from: the same ones, or those in STATE_FROM
        self.found = self.resolution

    def find_state(self) -> tuple[dict[str, Any], str]:
        """See :class:`SpiderSettingsState`. A checkpoint takes precedence over the settings. Blocks while the store is read."""
        settings, feed = self.settings, self.feed
        if not settings.enabled:
            state, origin = super().find_state()
            return state, f"{origin}; STATE_ENABLED is False: no checkpoint is read or stored"
        # With %(run_id)s in its URI, the state feed is this run's alone, and still empty.
        own = feed is not None and (settings.readonly or "run_id" not in placeholders(feed.uri))
        if own and not (settings.readonly and (settings.explicit or settings.read_from)):
            self.resolution = in_thread(self.resolve_own)
        resolution = self.resolution
        if isinstance(settings.read_from, dict) and not settings.explicit:
            self._check_item_feeds(resolution)
            return self._from_source(settings.read_from)
        if isinstance(settings.read_from, str) and not settings.explicit:
            uri = settings.read_from
            resolution = in_thread(lambda: self._resolve(uri, None, None, settings.at))
        self.found = resolution
        for uri, why in resolution.skipped:
            logger.warning("%s is skipped: %s", uri, why, extra={"spider": self.crawler.spider})
        self._check_item_feeds(resolution)
        checkpoint = self.start = resolution.checkpoint
        differs = differences(settings, resolution)
        if settings.explicit or checkpoint is None:
            self._leave_behind("STATE was given for this run")
            self.start = None
            state, origin = super().find_state()
            stores_none = "; FEEDS has no state feed: no checkpoint is stored" if feed is None else ""
            return state, origin + differs + stores_none
        warn_of_changes(self.crawler, checkpoint)
        if why := why_without_requests(settings, self.crawler):
            self._leave_behind(why)
        if self.continued is None:
            state = earlier(checkpoint.state, settings.lag) if checkpoint.state else {}
            if state != checkpoint.state:
                self.start = None
            return state, f"from {describe(resolution)}{differs}"
        begun = self.continued.start_state
        origin = f"from {describe(resolution)}, with {self.continued.pending} pending requests{differs}"
        return checkpoint.state if begun is None else begun, origin

    def _from_source(self, spec: dict[str, Any]) -> tuple[dict[str, Any], str]:
        at, lag = self.settings.at, self.settings.lag
        if at not in ("latest", "none"):
            raise StateSettingsError(
                "STATE_AT is for checkpoints, but STATE_FROM names items or a log", remedy="leave one of them out"
            )
        opener = partial(open_template, self.crawler, params_function=None, opener=open_reader)
        source = None if at == "none" else in_thread(lambda: find(spec, opener))
        if source is None:
            state, origin = super().find_state()
            return state, f"{origin}; {'STATE_AT is none' if at == 'none' else 'there are no items, or no log, in STATE_FROM'}"
        state = earlier(source.state, lag) if source.state else {}
        return state, f"from {source.kind} ({source.uri})" + (less_lag(self.settings) if state else "")

    def resolve_own(self) -> Resolution:
        """Find the checkpoint to start from under the state feed's own prefix. Blocks."""
        assert self.feed is not None
        assert self.crawler.spider is not None
        # If STATE or STATE_FROM says where to start, the parent is still the newest checkpoint here.
        starts_elsewhere = self.settings.explicit or bool(self.settings.read_from)
        at = "latest" if starts_elsewhere else self.settings.at
        params = self.feed.options.get("uri_params")
        return self._resolve(self.feed.uri, params, self.crawler.spider.name, at, or_none=starts_elsewhere)

    def _resolve(self, uri: str, params_function: Any, spider_name: str | None, at: At, *, or_none: bool = False) -> Resolution:
        store, template = open_template(self.crawler, uri, params_function, open_reader)
        return resolve(store, template, spider_name, at, or_none=or_none)

    def _check_item_feeds(self, resolution: Resolution) -> None:
        """Refuse item feeds that would write next to the items of checkpoints that this run reads but does not continue."""
        settings, feed = self.settings, self.feed
        uri, params_function = settings.read_from, None
        if not isinstance(uri, str):
            uri, params_function = (feed.uri, feed.options.get("uri_params")) if feed is not None else (None, None)
        elsewhere = (
            isinstance(settings.read_from, str) and not settings.explicit and resolution.newest != self.resolution.newest
        )
        if uri is None or not (settings.readonly or elsewhere):
            return
        store, template = open_template(self.crawler, uri, params_function, open_reader)
        places = item_places(self.crawler)
        if settings.explicit or settings.read_from not in (None, uri):
            # Nobody has looked for checkpoints there. That is only necessary if a feed writes to the same store.
            if not any(place.home == store.uri("/") for place in places):
                return
            resolution = in_thread(lambda: resolve(store, template))
        in_thread(lambda: check_places(places, store, resolution, self.crawler.settings))


def _refused_by(resolver: type, state: Any, error: Exception) -> StateSettingsError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    is_ours = Path(__file__).parent in Path(frame.filename).parents
    line = "" if is_ours else f" ({Path(frame.filename).name}, line {frame.lineno})"
    return StateSettingsError(
        f"{resolver.__qualname__} refuses to start from {shortened(repr(state))}: {type(error).__name__}: {error}{line}",
        remedy="correct the state (STATE, or STATE_AT for another checkpoint), or the hook",
    )


def _check_attribute(spider: Spider) -> None:
    """Raise if ``spider.state`` can't hold the state."""
    try:
        value = getattr(spider, "state", None)
        if isinstance(value, dict) or value is None:
            spider.state = value or {}  # type: ignore[attr-defined]
            return
        problem = f"is {value!r}"
    except Exception as error:  # It may be a property of the project's.
        problem = f"can't be read and set ({type(error).__name__})"
    raise StateSettingsError(
        f"spider.state {problem}, but scrapy_state keeps the state there, as a dict",
        remedy="give the spider argument (-a state=…) or attribute another name",
    )


def get_extension(name_or_class: str | type[T], spider_or_crawler: Spider | Crawler) -> T | None:
    """Return the running extension that is an instance of a class; None if there is none.

    :param name_or_class: the class, or its import path as text
    :raises RuntimeError: while Scrapy is still making the extensions; from ``spider_opened`` on it works
    """
    crawler = spider_or_crawler.crawler if isinstance(spider_or_crawler, Spider) else spider_or_crawler
    extension: T | None = crawler.get_extension(load_object(name_or_class))
    return extension


def get_settings_priority_name(priority: int) -> str:
    """Return the name of a settings priority, "cmdline" for 40, or the number as text if it has no name."""
    return next((name for name, value in SETTINGS_PRIORITIES.items() if value == priority), str(priority))
