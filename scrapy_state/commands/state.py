"""``scrapy state``: the command line. The verbs are in the other modules of this folder."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, NoReturn

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError
from scrapy.utils.conf import arglist_to_dict

from .options import OPTIONS

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
            OPTIONS[name](subparser)
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


def one_line_errors(parser: argparse.ArgumentParser, command: str) -> None:
    """Make *parser* report an error of *command* in one line, instead of printing the whole usage."""

    def error(message: str) -> NoReturn:
        message = message.replace("argument <verb>: invalid choice", "no such verb").rstrip(".")
        parser.exit(USAGE, f"error: {message}{'' if '; see: ' in message else f'; see: {command} -h'}\n")

    parser.error = error  # type: ignore[method-assign]


VERBS = {
    "show": Verb("show what a run started now would resume from, and why", ".look:show"),
    "log": Verb("show the history as a tree of runs", ".look:log"),
    "watch": Verb("follow what a crawl stores while it runs", ".watching:watch"),
    "check": Verb("say in one line, and by the exit code, whether the newest checkpoint is recent", ".watching:check"),
    "get": Verb("print only the state, as JSON", ".look:get"),
    "from-log": Verb("print the last state in logs, for -s STATE=", ".look:from_log"),
    "set": Verb("store a checkpoint by hand", ".change:set_state"),
    "items": Verb("list the item files of the lineage, or print the items in them", ".data:items"),
    "verify": Verb("check every checkpoint of the lineage, and every file it names", ".data:verify_lineage"),
    "orphans": Verb("list the item files of killed runs that no checkpoint names", ".orphans:orphans"),
    "report": Verb("write a page that shows how the crawl is doing, and its history", ".reporting:report"),
    "frontier": Verb(
        "show the requests that are pending, seen and failed, in checkpoints or in Redis", ".contents.frontier:frontier"
    ),
    "delta": Verb("show which pages of earlier crawls are left out (STATE_DELTA)", ".contents.delta:delta"),
    "files": Verb("list the project's files in a checkpoint, or restore them", ".contents.files:files"),
    "prune": Verb("pack older state files into archives, so that there are fewer", ".change:prune"),
    "copy": Verb("store the newest state of one target in another", ".change:copy"),
}
