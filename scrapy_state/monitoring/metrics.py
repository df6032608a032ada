"""Numbers for Prometheus: a text file (STATE_METRICS_FILE), replaced at each checkpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.statscollectors import StatsCollector

from ..barrier.log import SpiderLog
from ..model.checkpoint import Checkpoint
from ..model.times import moment
from ..model.totals import NOTHING
from ..signals import checkpoint_stored
from ..stores.replacing import replace_file

#: metric -> its type, and what it says
_METRICS = {
    "checkpoint_timestamp_seconds": ("gauge", "When the newest checkpoint was stored; its age is time() minus this"),
    "checkpoint_id": ("gauge", "Id of the newest checkpoint"),
    "checkpoint_duration_seconds": ("gauge", "Time from the newest cut to its checkpoint"),
    "items": ("counter", "Items along the lineage"),
    "pages": ("counter", "Responses along the lineage"),
    "crawl_seconds": ("counter", "Seconds of crawling along the lineage"),
    "bytes": ("counter", "Bytes of item files along the lineage"),
    "waiting_items": ("gauge", "Items still in the pipelines at the newest cut"),
    "spool_bytes": ("gauge", "Bytes in open batches and in batches that wait for upload"),
    "failed_items": ("counter", "Items that failed and were left out, along the lineage"),
    "failed_pages": ("gauge", "Failed pages in the newest checkpoint"),
    "pending_requests": ("gauge", "Pending requests in the newest checkpoint"),
    "missing_units": ("gauge", "Units before the newest done one that are not done"),
    "ended": ("gauge", "1 once the run has ended"),
}


class MetricsFile:
    """Writes the file at each checkpoint, and at the end of the run. A file that can't be written never fails the crawl."""

    def __init__(self, crawler: Crawler, path: str) -> None:
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._path = Path(path.replace("%(name)s", crawler.spider.name if crawler.spider is not None else ""))
        self._has_warned = False
        crawler.signals.connect(self._checkpoint_stored, checkpoint_stored)

    async def _checkpoint_stored(self, checkpoint: Checkpoint, spider: Spider) -> None:
        text = as_text(values_of(checkpoint, self._crawler.stats), {"spider": spider.name})
        try:
            await asyncio.to_thread(replace_file, self._path, text)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                self._log.warning("STATE_METRICS_FILE %s can't be written: %s. The crawl goes on", self._path, error.strerror)


def values_of(checkpoint: Checkpoint, stats: StatsCollector) -> dict[str, float]:
    """Return what there is to say about *checkpoint* and the run that has stored it, by metric."""
    totals, requests = checkpoint.totals or NOTHING, checkpoint.requests
    return {
        "checkpoint_timestamp_seconds": moment(checkpoint.time) or 0,
        "checkpoint_id": checkpoint.id or 0,
        "checkpoint_duration_seconds": stats.get_value("state/commit_time", 0),
        "items": checkpoint.items,
        "pages": totals.pages,
        "crawl_seconds": totals.seconds,
        "bytes": totals.bytes,
        "waiting_items": stats.get_value("state/items_waiting", 0),
        "spool_bytes": stats.get_value("state/spool_size", 0),
        "failed_items": checkpoint.errors,
        "failed_pages": 0 if requests is None else requests.failed + requests.held,
        "pending_requests": 0 if requests is None else requests.pending,
        "missing_units": checkpoint.missing_units,
        "ended": int(checkpoint.reason not in (None, "opened")),
    }


def as_text(values: dict[str, float], labels: dict[str, Any]) -> str:
    """Return *values* in the text format of Prometheus."""
    shown = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())
    lines = []
    for name, value in values.items():
        kind, help = _METRICS[name]
        full = f"scrapy_state_{name}" + ("_total" if kind == "counter" else "")
        lines += [f"# HELP {full} {help}", f"# TYPE {full} {kind}", f"{full}{{{shown}}} {value!r}"]
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
