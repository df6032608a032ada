"""The verb delta: which pages of earlier crawls a run would leave out; forgetting them, and importing others."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from scrapy import Request
from scrapy.settings import Settings
from scrapy.utils.misc import build_from_crawler, load_object

from ...delta.files import NAME, RunFiles, StoredRuns
from ...delta.importing import read_deltafetch
from ...delta.keys import RequestKeys, key_of
from ...delta.known import Known
from ...delta.memory import Remembered, next_crawl
from ...delta.runs import FORGOTTEN
from ...exceptions import StateSettingsError
from ...model.checkpoint import Checkpoint
from ...model.requests import Requests
from ...stores.retry import in_thread
from ..change import store_by_hand
from ..state import NO, OK
from ..target import Target, find_target, no_checkpoint
from ..terminal import confirm, out, out_json, say

_EPOCH = date(1970, 1, 1)


def delta(options: Namespace, settings: Settings) -> int:
    """Print what is remembered, or whether some pages are; or forget some or all; or import a database of DeltaFetch."""
    target = find_target(options.target, settings, options.arguments)
    checkpoint = target.resolution().checkpoint
    if options.forget or options.forget_all or options.import_path:
        if options.at is not None:
            raise StateSettingsError("--at is for looking only", remedy="leave it out")
        return _change(options, target, checkpoint)
    if checkpoint is None:
        return no_checkpoint(target)
    remembered, stored = Remembered.of(checkpoint), StoredRuns(target.store, target.template.prefix)
    earlier = in_thread(lambda: stored.known(remembered.old))
    this = in_thread(lambda: stored.known(remembered.new))
    return _look_up(options, target, earlier, this) if options.keys else _summarize(options, remembered, earlier, this)


def _summarize(options: Namespace, remembered: Remembered, earlier: Known, this: Known) -> int:
    first, last = map(_date, earlier.days)
    if options.json:
        files = len(remembered.old) + len(remembered.new)
        out_json({"known": len(earlier), "from": first, "to": last, "this_crawl": len(this), "files": files})
    elif earlier:
        out(f"{len(earlier):,} pages of earlier crawls are known, from {first} to {last}")
    else:
        out("no pages of earlier crawls are known")
    if this and not options.json:
        out(f"{len(this):,} pages of the crawl that is not over: known from the next crawl on")
    return OK if earlier or this else NO


def _look_up(options: Namespace, target: Target, earlier: Known, this: Known) -> int:
    rows = []
    for text in options.keys:
        days = [max(map(known.day, _keys_of(target, text))) for known in (earlier, this)]
        rows.append({"page": text, "skipped_since": _date(days[0]), "this_crawl": _date(days[1])})
    if options.json:
        out_json(rows)
    for row in () if options.json else rows:
        if row["skipped_since"] is not None:
            out(f"{row['page']} is left out: its page gave items on {row['skipped_since']}")
        elif row["this_crawl"] is not None:
            out(f"{row['page']} gave items on {row['this_crawl']}, in the crawl that is not over: left out from the next on")
        else:
            out(f"{row['page']} is not known, and would be sent")
    return OK if all(row["skipped_since"] is not None for row in rows) else NO


def _change(options: Namespace, target: Target, checkpoint: Checkpoint | None) -> int:
    if checkpoint is None and not options.import_path:
        return no_checkpoint(target)
    remembered = Remembered.of(checkpoint)
    if options.forget_all:
        if not confirm("Forget all pages of earlier crawls? The next crawl sends every request again.", options.yes):
            return NO
        return _store(options, target, checkpoint, "forgotten", {}, Remembered())
    if options.import_path:
        days = read_deltafetch(Path(options.import_path))
        say(f"{len(days):,} keys read from {options.import_path}")
        return _store(options, target, checkpoint, "imported", days, remembered)
    days = {key: FORGOTTEN for text in options.forget for key in _keys_of(target, text)}
    return _store(options, target, checkpoint, "forgotten", days, remembered)


def _store(
    options: Namespace,
    target: Target,
    checkpoint: Checkpoint | None,
    reason: str,
    days: Mapping[int, int],
    remembered: Remembered,
) -> int:
    """Store a checkpoint that differs from *checkpoint* in what is *remembered*, with a further run of keys."""

    def store_files(run: str) -> tuple[Requests | None, Mapping[str, Any]]:
        added = (RunFiles(target.writer(), target.template.prefix, run).store(1, days),) if days else ()
        # What is forgotten is so in this crawl's runs, too, which count once it is over.
        new = remembered.new + added if remembered.new and reason == "forgotten" else remembered.new
        memory = replace(remembered, old=remembered.old + added, new=new).to_json(next_crawl(checkpoint))
        return None if checkpoint is None else checkpoint.requests, {NAME: memory}

    state = {} if checkpoint is None else checkpoint.state
    options.parent = None
    return store_by_hand(target, state, options, reason, start=checkpoint, copy_files=store_files)


def _keys_of(target: Target, text: str) -> list[int]:
    """Return the keys that *text* may mean: a ``state_key``, and that of a plain request if it is a URL."""
    if "://" not in text:
        return [key_of(text)]
    crawler = target.crawler
    fingerprinter = build_from_crawler(load_object(crawler.settings["REQUEST_FINGERPRINTER_CLASS"]), crawler)
    return [RequestKeys(fingerprinter.fingerprint).of(Request(text)), key_of(text)]


def _date(day: int) -> str | None:
    return str(_EPOCH + timedelta(days=day)) if day else None
