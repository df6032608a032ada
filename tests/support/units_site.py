"""A site of units' pages, made from a seed, and what a crawl of it must store."""

import base64
import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from loopback import Handler, Server

LATENCY_SECONDS = 0.02
#: what there may be about a unit, beside its first page's items
KINDS = (
    "plain",
    "pages",
    "chain",
    "redirect",
    "flaky",
    "duplicates",
    "robots",
    "ignored",
    "offsite",
    "inline",
    "missing",
    "drop",
)
#: what makes it fail, while the site is broken
BREAKS = ("status", "child status", "raise", "child raise", "item")


class Site(Server):
    """Serve units 0 to *count* - 1; *broken*: unit -> one of BREAKS.

    :param served: called after each answer with the count of answers
    """

    def __init__(self, seed: int, count: int, broken: dict[int, str] | None = None) -> None:
        super().__init__(_Handler)
        self.count = count
        self.broken = broken or {}
        self.kinds = {u: random.Random(f"{seed} {u}").sample(KINDS, 3) for u in range(count)}
        self.served: Callable[[int], None] = lambda count: None
        self.calls: Counter[str] = Counter()
        self._failed_once: set[str] = set()
        self._lock = threading.Lock()

    def expected(self, u: int) -> list[str]:
        """Return the keys of a unit's items, if nothing fails."""
        kinds, keys = self.kinds[u], [f"{u}-0-{n}" for n in range(4)]
        if "drop" in kinds:
            keys.remove(f"{u}-0-1")
        for kind, key in (("inline", "inline"), ("missing", "errback")):
            keys += [f"{u}-{key}"] * (kind in kinds)
        for kind, pages in (("pages", 3), ("chain", 3), ("redirect", 1), ("flaky", 1), ("duplicates", 1)):
            keys += [f"{u}-{kind}{page}-{n}" for page in range(pages) for n in range(3)] if kind in kinds else []
        return keys

    def answer(self, path: str) -> tuple[int, dict[str, str], dict[str, Any] | str]:
        """Return status, headers, body."""
        with self._lock:
            self.calls[path] += 1
            first = path not in self._failed_once
            self._failed_once.add(path)
        if path == "/robots.txt":
            return 200, {}, "User-agent: *\nDisallow: /private\n"
        what, u = path.strip("/").split("/")[0], int(path.rpartition("/")[2])
        kinds, breaks = self.kinds[u], self.broken.get(u)
        if breaks == ("status" if what == "unit" else "child status"):
            return 500, {}, {}
        if what == "unit":
            return 200, {}, self._first_page(u, kinds, breaks)
        if what == "redirect":
            return 302, {"Location": f"/redirected/{u}"}, {}
        if what == "flaky0" and first:
            return 503, {}, {}
        if what == "missing":
            return 404, {}, {}
        if what == "inline":
            return 200, {}, {"items": [item(f"{u}-inline")], "links": []}
        name = {"redirected": "redirect0"}.get(what, what)
        links = [f"/chain{int(what[-1]) + 1}/{u}"] if what in ("chain0", "chain1") else []
        items = [] if what in ("ignored", "broken") else [item(f"{u}-{name}-{n}") for n in range(3)]
        return 200, {}, {"items": items, "links": links, "raise": breaks == "child raise"}

    def _first_page(self, u: int, kinds: list[str], breaks: str | None) -> dict[str, Any]:
        links = []
        for kind in kinds:
            links += {
                "pages": [f"/pages{n}/{u}" for n in range(3)],
                "chain": [f"/chain0/{u}"],
                "redirect": [f"/redirect/{u}"],
                "flaky": [f"/flaky0/{u}"],
                "duplicates": [f"/duplicates0/{u}"] * 3,
                "robots": [f"/private/{u}"],
                "ignored": [f"/ignored/{u}"],
                "offsite": [f"http://offsite.invalid/{u}"],
                "missing": [f"/missing/{u}"],
            }.get(kind, [])
        items = [item(f"{u}-0-{n}") for n in range(4)]
        if "drop" in kinds:
            items[1]["drop"] = True
        if breaks == "item":
            items[2]["break"] = True
        if breaks and breaks.startswith("child"):
            links.append(f"/broken/{u}")
        return {
            "items": items,
            "links": links,
            "inline": [f"/inline/{u}"] if "inline" in kinds else [],
            "raise": breaks == "raise",
        }


def item(key: str) -> dict[str, Any]:
    return {"key": key, "delay": random.uniform(0, 0.01)}


def digest(state: dict[str, Any]) -> str:
    """Return the name of the unit with that state in a checkpoint's ``ahead``, see docs/format.md."""
    text = json.dumps(state, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:12]).decode()


class _Handler(Handler):
    def do_GET(self) -> None:
        site: Site = self.server
        time.sleep(random.uniform(0, LATENCY_SECONDS))
        status, headers, content = site.answer(self.path)
        self.reply(status, content if isinstance(content, str) else json.dumps(content), headers)
        site.served(site.calls.total())
