"""The spider's arguments, as checkpoints keep them; a warning where two runs of one crawl have different ones."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from scrapy import Spider
from scrapy.crawler import Crawler

from ..model.checkpoint import Checkpoint
from ..model.json_values import shortened
from ..model.key_template import without_credentials
from ..scrapy_internals import arguments_of

_LONGEST = 200
_SECRET = (
    r"(?<![a-z])pass(?![a-z])|pass(?:wor[dt]|wd|phrase|code)|pwd|secret|token|key(?![a-z])|auth(?!or)|credential|cookie|session"
    r"|signature"
)
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
#: As in ?token=…, or in JSON
_SECRET_IN_TEXT = re.compile(rf"(?:{_SECRET})[a-z]*[\"']?\s*[=:]", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")
logger = logging.getLogger("scrapy_state.state")


class Change(NamedTuple):
    """An argument that two runs do not have in common; None: not given."""

    name: str
    before: str | None
    now: str | None


def spider_arguments(crawler: Crawler) -> dict[str, str] | None:
    """Return the arguments of *crawler*'s spider as a checkpoint keeps them; None if nobody knows them.

    To be called while the crawler makes its components. Left out are those whose name begins with an underscore (scrapyd's
    ``_job``) and values that are no JSON.
    """
    given = arguments_of(crawler)
    return None if given is None else kept(given)


def kept(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return *arguments* as text that anyone may read. Pure.

    What looks like a secret is four hex digits of its digest: enough to see a change, too few to guess the secret from.
    Long ones are shortened.
    """
    found = {}
    for name, value in arguments.items():
        try:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
        except (TypeError, ValueError):  # an object that a script gave
            continue
        if name.startswith("_"):
            continue
        if _SECRET_NAME.search(name) or _SECRET_IN_TEXT.search(text):
            digest = hashlib.sha256(f"{name}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
            found[name] = f"*** ({digest[:4]})"
        else:
            shown = _CREDENTIALS.sub("", without_credentials(text)).encode("utf-8", "replace").decode()
            found[name] = shortened(shown, _LONGEST)
    return found


def changes(before: Mapping[str, str], now: Mapping[str, str], state: Mapping[str, Any]) -> list[Change]:
    """Return the arguments that differ, by name. Pure.

    Left out is one that stands in *state*, where the run starts, and is not given now or says the same: it was, or is, where
    to begin.
    """
    found = []
    for name in sorted(before.keys() | now.keys()):
        change = Change(name, before.get(name), now.get(name))
        restated = name in state and change.now in (None, kept({name: state[name]}).get(name))
        if change.before != change.now and not restated:
            found.append(change)
    return found


def warn_of_changes(crawler: Crawler, checkpoint: Checkpoint) -> None:
    """Warn if the run of *checkpoint*, which *crawler* goes on from, had other spider arguments that the project reads."""
    now, spider = spider_arguments(crawler), crawler.spider
    if now is None or checkpoint.arguments is None or spider is None:
        return
    found = changes(checkpoint.arguments, now, checkpoint.state)
    feeds = str(crawler.settings["FEEDS"])
    read = [each for each in found if _is_read(each.name, spider, feeds)]
    if not read:
        return
    told = ", ".join(f"{each.name} was {_given(each.before)} and is {_given(each.now)}" for each in read)
    names = " ".join(f"%({each.name})s" for each in read)
    logger.warning(
        "this run goes on from checkpoint %s, whose run had other spider arguments: %s. If they say what to crawl, it starts "
        "in the middle of the other crawl: put %s into the URIs in FEEDS, so that each has its own checkpoints and items. If "
        "not, all is well; the next run with these arguments gets no warning",
        checkpoint.id, told, names, extra={"spider": spider},
    )  # fmt: skip


def _given(text: str | None) -> str:
    return "not given" if text is None else repr(text)


def _is_read(name: str, spider: Spider, feeds: str) -> bool:
    """Whether *name* is an attribute of the spider's class, or occurs in FEEDS or in the sources of the spider's project."""
    if name == "start_urls" or hasattr(type(spider), name):
        return True
    word = re.compile(rf"\b{re.escape(name)}\b")
    return any(word.search(text) for text in (feeds, *_sources(spider)))


def _sources(spider: Spider) -> Iterator[str]:
    own = {cls.__module__ for cls in type(spider).__mro__[:-1] if not cls.__module__.startswith("scrapy.")}
    packages = tuple(f"{name.partition('.')[0]}." for name in own)
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and (name in own or name.startswith(packages)):
            try:
                yield inspect.getsource(module)
            except (OSError, TypeError):
                continue  # a folder, or compiled
