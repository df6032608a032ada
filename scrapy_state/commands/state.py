"""``scrapy state``: the command line. The verbs are in the other modules of this folder."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, NoReturn

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError
from scrapy.utils.conf import arglist_to_dict

#: Exit codes. 2 is argparse's own.
OK, NO, USAGE, STORE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141


class Command(ScrapyCommand):
    """Read the command line and call the verb. docs/command.md lists the verbs and the exit codes."""

    requires_project = False
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}

    def syntax(self) -> str:
        """See Scrapy's ScrapyCommand."""
        return "<verb> [options] <target>"

    def short_desc(self) -> str:
        """See Scrapy's ScrapyCommand."""
        return "Inspect, choose, repair and copy the state of a spider"

    def long_desc(self) -> str:
        """See Scrapy's ScrapyCommand."""
        return (
            f"{self.short_desc()}. A target is a spider's name in a project, a spider's file (.py), or the URI of any state "
            "feed: its template as in FEEDS, or the folder of the checkpoints (s3://bucket/state/, ./data/state/). Exit "
            "codes: 0 done; 1 nothing found, or a problem found; 2 the command line or a setting is wrong; 3 a store "
            "does not answer, or refuses."
        )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """See Scrapy's ScrapyCommand: a subparser for each verb, with Scrapy's global options."""
        one_line_errors(parser, "scrapy state")
        parser.add_argument(
            "-s", "--set", dest="set_before", action="append", default=[], metavar="NAME=VALUE", help=argparse.SUPPRESS
        )
        verbs = parser.add_subparsers(title="Verbs", dest="verb", metavar="<verb>", required=True, prog="scrapy state")
        for name, verb in VERBS.items():
            subparser = verbs.add_parser(name, help=verb.help, description=verb.help[0].upper() + verb.help[1:])
            one_line_errors(subparser, f"scrapy state {name}")
            verb.add_arguments(subparser)
            super().add_options(subparser)

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        """See Scrapy's ScrapyCommand."""
        if args:
            raise UsageError(f"{opts.verb}: unknown argument {args[0]!r}; see: scrapy state {opts.verb} -h")
        opts.set = opts.set_before + opts.set
        super().process_options(args, opts)
        assert self.settings is not None
        for name, value in (("STATE_AT", getattr(opts, "at", None)), ("STATE_LAG", getattr(opts, "lag", None))):
            if value is not None:
                self.settings.set(name, value, priority="cmdline")
        try:
            opts.arguments = arglist_to_dict(getattr(opts, "arguments", []))
        except ValueError:
            raise UsageError("Invalid -a value, use -a NAME=VALUE", print_help=False) from None

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Call the verb. Turn an error into one line on stderr and an exit code."""
        from ..exceptions import StateError, StateSettingsError, StoreError
        from .terminal import log_to_stderr, say

        assert self.settings is not None
        module, _, name = VERBS[opts.verb].function.partition(":")
        try:
            log_to_stderr(self.settings)
            verb = getattr(import_module(module, __package__), name)
            self.exitcode = verb(opts, self.settings)
            sys.stdout.flush()
        except StateError as error:
            say("error: " + " ".join(str(error).split()), "red")
            self.exitcode = STORE if isinstance(error, StoreError) else USAGE if isinstance(error, StateSettingsError) else NO
        except KeyboardInterrupt:
            say("stopped, with nothing left half done; run the same command again to continue", "yellow")
            self.exitcode = INTERRUPTED
        except BrokenPipeError:  # | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise closing stdout raises the error again
            self.exitcode = BROKEN_PIPE


class Verb(NamedTuple):
    """What follows ``scrapy state``. *function* is "module:name"; it is imported only when it is called."""

    help: str
    function: str
    add_arguments: Callable[[argparse.ArgumentParser], None]


def one_line_errors(parser: argparse.ArgumentParser, command: str) -> None:
    """Make *parser* report an error of *command* in one line, instead of printing the whole usage."""

    def error(message: str) -> NoReturn:
        message = message.replace("argument <verb>: invalid choice", "no such verb").rstrip(".")
        parser.exit(USAGE, f"error: {message}{'' if '; see: ' in message else f'; see: {command} -h'}\n")

    parser.error = error  # type: ignore[method-assign]


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
    _target(parser)
    parser.add_argument(
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


def _prune(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--keep", type=_count, metavar="N", help="keep the newest N state files")
    which.add_argument("--older-than", type=_length, metavar="TIME", help="prune state files older than this: 30d, 12h")


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


def _delta(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    parser.add_argument("keys", nargs="*", metavar="URL|KEY", help="would this be left out, and since when?")
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--forget", nargs="+", metavar="URL|KEY", help="have these crawled again")
    change.add_argument("--forget-all", action="store_true", help="have everything crawled again; asks first")
    change.add_argument("--import", dest="import_path", metavar="PATH", help="add the database of one spider's DeltaFetch")
    _yes(parser)
    _at(parser)


def _kept_files(parser: argparse.ArgumentParser) -> None:
    _target(parser)
    _at(parser)
    parser.add_argument("--restore", metavar="DIR", help="put the files into this folder")


def _length(text: str) -> float:
    from ..model.times import in_seconds

    try:
        return in_seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time, like 30d or 12h") from None


def _yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
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


VERBS = {
    "show": Verb("show what a run started now would resume from, and why", ".look:show", _show),
    "log": Verb("show the history as a tree of runs", ".look:log", _log),
    "watch": Verb("follow what a crawl stores while it runs", ".watching:watch", _watch),
    "get": Verb("print only the state, as JSON", ".look:get", _get),
    "from-log": Verb("print the last state in logs, for -s STATE=", ".look:from_log", _from_log),
    "set": Verb("store a checkpoint by hand", ".change:set_state", _set),
    "items": Verb("list the item files of the lineage, or print the items in them", ".data:items", _items),
    "verify": Verb("check every checkpoint of the lineage, and every file it names", ".data:verify_lineage", _verify),
    "orphans": Verb("list the item files of killed runs that no checkpoint names", ".orphans:orphans", _orphans),
    "report": Verb("write a page that shows how the crawl is doing, and its history", ".reporting:report", _report),
    "frontier": Verb(
        "show the requests that are pending, seen and failed, in checkpoints or in Redis", ".frontier:frontier", _frontier
    ),
    "delta": Verb("show which pages of earlier crawls are left out (STATE_DELTA)", ".delta:delta", _delta),
    "files": Verb("list the project's files in a checkpoint, or restore them", ".files:files", _kept_files),
    "prune": Verb("pack older state files into archives, so that there are fewer", ".change:prune", _prune),
    "copy": Verb("store the newest state of one target in another", ".change:copy", _copy),
}
