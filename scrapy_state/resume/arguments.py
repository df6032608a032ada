"""The spider's arguments as checkpoints keep them; a warning if two runs of one crawl have different arguments."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

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
    """An argument that differs between two runs; None: not given."""

    name: str
    before: str | None
    now: str | None


def spider_arguments(crawler: Crawler) -> dict[str, str] | None:
    """Return the arguments of *crawler*'s spider as a checkpoint keeps them; None if they are not known.

    Call this while the crawler creates its components.
    """
    given = arguments_of(crawler)
    return None if given is None else kept(given)


def kept(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return *arguments* as text that anyone may read. Pure.

    A value that looks like a secret is replaced by four hex digits of its digest: enough to notice a change, too few to guess
    the secret. Long values are shortened. Names that begin with an underscore (scrapyd's ``_job``) are left out, and so are
    values that are not JSON.
    """
    readable = {}
    for name, value in arguments.items():
        try:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
        except (TypeError, ValueError):  # an object that a script gave
            continue
        if name.startswith("_"):
            continue
        if _SECRET_NAME.search(name) or _SECRET_IN_TEXT.search(text):
            digest = hashlib.sha256(f"{name}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
            readable[name] = f"*** ({digest[:4]})"
        else:
            shown = _CREDENTIALS.sub("", without_credentials(text)).encode("utf-8", "replace").decode()
            readable[name] = shortened(shown, _LONGEST)
    return readable


def changes(before: Mapping[str, str], now: Mapping[str, str], state: Mapping[str, Any]) -> list[Change]:
    """Return the arguments that differ, sorted by name. Pure.

    An argument that is also in *state*, where the run starts, is left out if it is not given now or has the state's value: such
    an argument only says where to begin.
    """
    differing = []
    for name in sorted(before.keys() | now.keys()):
        change = Change(name, before.get(name), now.get(name))
        restated = name in state and change.now in (None, kept({name: state[name]}).get(name))
        if change.before != change.now and not restated:
            differing.append(change)
    return differing


def warn_of_changes(crawler: Crawler, checkpoint: Checkpoint) -> None:
    """Warn if the run that stored *checkpoint*, from which *crawler* resumes, had other spider arguments."""
    now = spider_arguments(crawler)
    if now is None or checkpoint.arguments is None:
        return
    changed = changes(checkpoint.arguments, now, checkpoint.state)
    if not changed:
        return
    values = ", ".join(f"{change.name} was {_given(change.before)} and is {_given(change.now)}" for change in changed)
    placeholders = " ".join(f"%({change.name})s" for change in changed)
    logger.warning(
        "this run continues from checkpoint %s, whose run had other spider arguments: %s. If they decide what to crawl, this "
        "run starts in the middle of the other crawl: put %s into the URIs in FEEDS, so that each crawl has its own "
        "checkpoints and items. If not, all is well; the next run with these arguments gets no warning",
        checkpoint.id, values, placeholders, extra={"spider": crawler.spider},
    )  # fmt: skip


def _given(text: str | None) -> str:
    return "not given" if text is None else repr(text)
