"""The options of each verb of ``scrapy state``, and the values they take."""

from __future__ import annotations

import argparse

from ..model.times import in_seconds


def _target(parser: argparse.ArgumentParser, json: bool = True) -> None:
    parser.add_argument("target", help="a spider's name or file, or the URI of its state feed")
    parser.add_argument(
        "-a", dest="arguments", action="append", default=[], metavar="NAME=VALUE", help="spider argument, as in scrapy crawl"
    )
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON")


def _at(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--at",
        metavar="WHICH",
        help="a checkpoint other than the newest: an id, -n for n back, or a time (the setting STATE_AT)",
    )


def _show(parser: argparse.ArgumentParser, json: bool = True) -> None:
    _target(parser, json)
    _at(parser)
    _lag(parser)


def _get(parser: argparse.ArgumentParser) -> None:
    _show(parser, json=False)


def _lag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lag", metavar="JSON", help='start a bit earlier: \'{"t": "1h"}\' (the setting STATE_LAG)')


def _from_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", nargs="+", metavar="log", help="a log, plain or gzipped: a path, a URI, or - for stdin")


def _log(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    parser.add_argument("-n", type=_count, metavar="COUNT", help="show only the newest COUNT")
    parser.add_argument("--checkpoints", action="store_true", help="print a line for each checkpoint instead of each run")


def _watch(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    parser.add_argument("-n", type=_count, metavar="COUNT", help="stop after COUNT checkpoints")
    parser.add_argument("--every", type=_seconds, default=2, metavar="SECONDS", help="how often to look (default: 2)")


def _set(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    parser.add_argument("state", help="the state, a JSON object")
    _storing(parser)


def _copy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="from", help="a spider's name or file, or the URI of its state feed")
    _target(parser)
    _at(parser)
    _storing(parser)


def _items(parser: argparse.ArgumentParser) -> None:
    _target(parser, json=False)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--cat", action="store_true", help="print the items in the files, without those to skip")
    form.add_argument("--manifest", action="store_true", help="print a line of JSON for each file, for DuckDB and Spark")
    form.add_argument("--json", action="store_true", help="print JSON")
    _at(parser)
    parser.add_argument(
        "--crawl", type=_crawl, metavar="last|N|all", help="only the items of the last crawl, or of crawl N (default: all)"
    )
    parser.add_argument("--only", metavar="PATTERN", help="only files whose URI matches: '*/flights/*.jsonl'")
    _files(parser)
    _format(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    _at(parser)
    parser.add_argument("--deep", action="store_true", help="read each file and count its items")
    _files(parser)
    _format(parser)


def _orphans(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    parser.add_argument("--delete", action="store_true", help="delete them")
    _yes(parser)
    _files(parser)


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="item files have moved: replace OLD at the beginning of their URIs by NEW",
    )


def _report(parser: argparse.ArgumentParser) -> None:
    _target(parser, json=False)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print what the page shows as JSON, and write no file")
    form.add_argument(
        "-o", dest="page", default="state.html", metavar="FILE", help="the file to write; - is stdout (default: state.html)"
    )
    parser.add_argument("--no-orphans", dest="orphans", action="store_false", help="do not look for orphans")
    _files(parser)


def _format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", choices=("jsonlines", "csv", "json"), help="the format of the files (default: by their names)"
    )


def _storing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parent", type=_count, metavar="ID", help="the checkpoint to continue from (default: the newest)")
    _yes(parser)


def _check(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    parser.add_argument(
        "--max-age", type=_length, required=True, metavar="TIME", help="how old the newest checkpoint may be: 10m, 26h"
    )
    parser.add_argument(
        "--max-failed", type=_number, metavar="N", help="how many pages, items and units may have failed (default: any number)"
    )


def _prune(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--keep", type=_count, metavar="N", help="keep the newest N state files")
    which.add_argument("--older-than", type=_length, metavar="TIME", help="prune state files older than this: 30d, 12h")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _frontier(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    parser.set_defaults(parent=None)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--clear", action="store_true", help="remove it, or store a checkpoint without requests; asks first")
    which.add_argument("--pending", action="store_true", help="in checkpoints: list the pending requests")
    which.add_argument("--failed", action="store_true", help="in checkpoints: list the pages that failed, with the reasons")
    which.add_argument("--cookies", action="store_true", help="in checkpoints: list the cookies, without their values")
    parser.add_argument("--unreadable", action="store_true", help="in Redis: list the requests that can't be read, and why")
    parser.add_argument("--fatal", action="store_true", help="in Redis: list the pages whose workers died")
    parser.add_argument("--put-back", action="store_true", help="in Redis: have both kinds crawled again")
    _yes(parser)
    _at(parser)


def _yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _length(text: str) -> float:
    try:
        return in_seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time, like 30d or 12h") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _crawl(text: str) -> int | str | None:
    """Return the number of a crawl, "last", or None for all."""
    if text in ("last", "all"):
        return None if text == "all" else text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not last, all, or the number of a crawl")
    return int(text)


def _seconds(text: str) -> float:
    try:
        if 0 < float(text) < 86400:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")


OPTIONS = {
    "show": _show, "log": _log, "watch": _watch, "check": _check, "get": _get, "from-log": _from_log, "set": _set,
    "items": _items, "verify": _verify, "orphans": _orphans, "report": _report, "frontier": _frontier, "prune": _prune,
    "copy": _copy,
}  # fmt: skip
