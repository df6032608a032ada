"""The spider's arguments, as checkpoints keep them; a warning where two runs of one crawl have different ones."""

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
