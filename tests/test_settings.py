"""STATE_* settings, and what FEEDS says about checkpoints."""

import json
import logging
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from crawls import SPIDER, crawl
from scrapy import Spider
from scrapy.settings import BaseSettings, Settings
from scrapy.utils.test import get_crawler

from scrapy_state import StateItem
from scrapy_state.exceptions import StateSettingsError
from scrapy_state.feeds import StateFeed, item_feeds_with_checkpoints, uri_params
from scrapy_state.model.setting_names import KNOWN, doubtful_names, names_close_to_ours
from scrapy_state.settings import StateSettings, get_settings

STATE_URI = "s3://bucket/state/%(name)s/%(batch_id)010d.json"
STATE_FEED: dict[str, Any] = {"format": "json", "item_classes": [StateItem]}
ITEMS_URI = "s3://bucket/items/%(run_id)s-%(batch_id)05d.jsonl"


def read(values: dict[str, Any], priority: str = "project") -> StateSettings:
    settings = Settings()
    for name, value in values.items():
        settings.set(name, value, priority=priority)
    return StateSettings.from_settings(settings)


def with_feeds(feeds: Any, priority: str = "project") -> BaseSettings:
    settings = Settings()
    settings.set("FEEDS", feeds, priority=priority)
    return settings


class TestStateSettings:
    def test_defaults(self) -> None:
        """Without any setting the defaults are those of the design."""
        found = read({})
        assert (found.state, found.state_priority, found.enabled, found.read_from) == ({}, None, True, None)
        assert (found.readonly, found.interval_seconds, found.on_item_error) == (False, 60, "stop")
        assert (found.at, found.lag, found.orphans) == ("latest", {}, "keep")
        assert (found.spool_bytes, found.retry_seconds, found.close_seconds) == (512 * 1024 * 1024, 900, 25)
        assert found.fallback_item_processor is None

    @pytest.mark.parametrize(
        ("name", "value", "attribute", "expected"),
        [
            ("STATE", {"t": 1}, "state", {"t": 1}),
            ("STATE", '{"t": [1, null, "é"]}', "state", {"t": [1, None, "é"]}),
            ("STATE", " {} ", "state", {}),
            ("STATE", {}, "state", {}),
            ("STATE", None, "state", {}),
            *[("STATE_ENABLED", each, "enabled", True) for each in (True, 1, "1", "True", "true")],
            *[("STATE_ENABLED", each, "enabled", False) for each in (False, 0, "0", "False", "false")],
            *[("STATE_READONLY", each, "readonly", True) for each in (True, 1, "1", "True", "true")],
            *[("STATE_READONLY", each, "readonly", False) for each in (False, 0, "0", "False", "false")],
            ("STATE_FROM", STATE_URI, "read_from", STATE_URI),
            ("STATE_FROM", Path("/state/x"), "read_from", "/state/x"),
            ("STATE_FROM", "", "read_from", None),
            ("STATE_FROM", None, "read_from", None),
            *[("STATE_AT", each, "at", "latest") for each in ("latest", " latest ", "", None)],
            ("STATE_AT", "none", "at", "none"),
            *[("STATE_AT", each, "at", 124) for each in (124, "124", "0000000124")],
            *[("STATE_AT", each, "at", -3) for each in (-3, "-3")],
            *[
                ("STATE_AT", each, "at", datetime(2026, 11, 20, 10, tzinfo=timezone.utc))
                for each in ("2026-11-20T10:00", "2026-11-20 10:00:00Z", "2026-11-20T11:00+01:00", datetime(2026, 11, 20, 10))
            ],
            ("STATE_AT", "2026-11-20", "at", datetime(2026, 11, 20, tzinfo=timezone.utc)),
            ("STATE_LAG", {"t": 3600, "a.page": 0.5}, "lag", {"t": 3600, "a.page": 0.5}),
            ("STATE_LAG", '{"t": "1h", "u": "2d"}', "lag", {"t": 3600, "u": 172800}),
            *[("STATE_LAG", each, "lag", {}) for each in ({}, "", None)],
            ("STATE_INTERVAL", 0, "interval_seconds", 0),
            ("STATE_INTERVAL", "0", "interval_seconds", 0),
            ("STATE_INTERVAL", "1.5", "interval_seconds", 1.5),
            ("STATE_RETRY_TIMEOUT", "0", "retry_seconds", 0),
            ("STATE_CLOSE_TIMEOUT", 7, "close_seconds", 7),
            ("STATE_ON_ITEM_ERROR", "skip", "on_item_error", "skip"),
            ("STATE_ON_ITEM_ERROR", "stop", "on_item_error", "stop"),
            ("STATE_ORPHANS", "keep", "orphans", "keep"),
            ("STATE_ORPHANS", "delete", "orphans", "delete"),
            ("STATE_SPOOL_SIZE", 1000, "spool_bytes", 1000),
            ("STATE_SPOOL_SIZE", "64MiB", "spool_bytes", 64 * 1024 * 1024),
        ],
    )
    def test_values(self, name: str, value: Any, attribute: str, expected: Any) -> None:
        """A value may be a Python object, or text as on the command line; 0 and False are values, too."""
        assert getattr(read({name: value}), attribute) == expected

    @pytest.mark.parametrize(
        ("name", "value", "remedy"),
        [
            *[
                ("STATE", each, "a JSON object, as in -s STATE=")
                for each in ([], [1], "[]", "1", 1, 0, False, "null", "{", "t=1", "{'t': 1}")
            ],
            *[
                ("STATE", each, "a JSON object, as in -s STATE=")
                for each in ({"t": math.nan}, '{"t": NaN}', {"t": {1}}, {1: 2})
            ],
            ("STATE", {"t": datetime(2026, 1, 1, tzinfo=timezone.utc)}, "a JSON object, as in -s STATE="),
            *[("STATE_ENABLED", each, "True or False") for each in ("yes", "on", "", [], "2.0")],
            *[("STATE_READONLY", each, "True or False") for each in ("yes", "prod", "", {})],
            *[("STATE_AT", each, '"latest", "none", an id') for each in (0, "-0", "newest", "10:00", 1.5, [], True)],
            *[
                ("STATE_LAG", each, "a JSON object of lengths of time")
                for each in ("1h", 3600, [1], {"t": -1}, {"t": "1w"}, {"t": None}, {1: 2})
            ],
            *[("STATE_FROM", each, "a URI template or prefix") for each in (0, False, 5, [STATE_URI])],
            *[("STATE_INTERVAL", each, "a number of seconds") for each in ("", "1m", [], -1, "-0.1", "nan", "inf", math.nan)],
            *[("STATE_RETRY_TIMEOUT", each, "a number of seconds") for each in ("15 min", -1)],
            *[("STATE_CLOSE_TIMEOUT", each, "a number of seconds") for each in ("x", math.inf)],
            *[("STATE_ON_ITEM_ERROR", each, '"stop" or "skip"') for each in ("", "Stop", "ignore", 0, False, ["stop"])],
            *[("STATE_ORPHANS", each, '"keep" or "delete"') for each in ("", "Delete", True, False, 0)],
            *[
                ("STATE_SPOOL_SIZE", each, "a number of bytes")
                for each in ("", "many", 0, -1, "0MiB", True, "1 PiB", "MiB", "1e9")
            ],
        ],
    )
    def test_wrong_kind(self, name: str, value: Any, remedy: str) -> None:
        """A value of the wrong kind is an error with the setting's name, the value, and what it must be."""
        with pytest.raises(StateSettingsError) as caught:
            read({name: value})
        message = str(caught.value)
        assert message.startswith(f"{name} is ")
        assert str(value) in message
        assert f"; it must be {remedy}" in message

    @pytest.mark.parametrize("name", KNOWN)
    def test_none(self, name: str) -> None:
        """None means that a setting was not given, as everywhere in Scrapy."""
        assert read({name: None}) == read({})

    @pytest.mark.parametrize("value", ["", "  ", "\n", None])
    @pytest.mark.parametrize("priority", ["project", "cmdline"])
    def test_state_not_given(self, value: Any, priority: str) -> None:
        """Empty text means that STATE was not given, so it does not take precedence over checkpoints."""
        found = read({"STATE": value}, priority)
        assert found.state == {}
        assert found.state_priority is None
        assert not found.explicit

    @pytest.mark.parametrize("value", [{"t": 1}, '{"t": 1}', {}, "{}"])
    @pytest.mark.parametrize(
        ("priority", "explicit"),
        [("default", False), ("addon", False), ("project", False), ("spider", False), ("cmdline", True)],
    )
    def test_explicit(self, value: Any, priority: str, explicit: bool) -> None:
        """STATE is explicit only on the command line; there, {} is explicit, too."""
        found = read({"STATE": value}, priority)
        assert found.explicit is explicit
        assert found.state_priority == Settings({"STATE": value}, priority).getpriority("STATE")

    def test_state_within_settings(self) -> None:
        """If Scrapy has turned STATE into a settings object, it is read as a dict."""
        found = read({"STATE": BaseSettings({"t": 1})})
        assert found.state == {"t": 1}
        assert type(found.state) is dict

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("STATE_READ_ONLY", "STATE_READONLY"),
            ("STATE_READONY", "STATE_READONLY"),
            ("STATE_REDAONLY", "STATE_READONLY"),
            ("STATE_INTERVALL", "STATE_INTERVAL"),
            ("STATE_ORPHNAS", "STATE_ORPHANS"),
            ("STATE_ON_ITEMS_ERROR", "STATE_ON_ITEM_ERROR"),
            ("STATE_SPOOLSIZE", "STATE_SPOOL_SIZE"),
        ],
    )
    @pytest.mark.parametrize("value", [True, "0", None])
    def test_misspelt(self, name: str, meant: str, value: Any) -> None:
        """A name that can only be a misspelt name of ours is an error that says which one."""
        with pytest.raises(StateSettingsError, match=f"no setting {name}; correct the name if you meant {meant}, else"):
            read({name: value})
        assert not list(doubtful_names([name]))  # no WARNING besides the ERROR

    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("STATES", "STATE"),
            ("STATE_PATH", "STATE_AT"),
            ("STATE_FORM", "STATE_FROM"),
            ("STATE_LOG", "STATE_LAG"),
            ("STATE_STORE", "STATE_STORES"),
            ("STATE_SCORES", "STATE_STORES"),
            ("STATE_ENABLE", "STATE_ENABLED"),
            ("STATE_INTERVALS", "STATE_INTERVAL"),
            ("STATE_ON_ITEM_ERRORS", "STATE_ON_ITEM_ERROR"),
        ],
    )
    def test_perhaps_misspelt(self, name: str, near: str) -> None:
        """A name that may be the project's own is not an error; a warning names the setting of ours that it looks like."""
        settings = Settings({name: "TX"})
        assert StateSettings.from_settings(settings) == read({})
        assert list(names_close_to_ours(settings)) == list(doubtful_names(settings)) == [(name, near)]

    @pytest.mark.parametrize(
        "name", ["STATEMENT_TIMEOUT", "STATE_OF_THE_ART", "STATE_MACHINE", "STATE_FEED", "MY_STATE", "STATSD"]
    )
    def test_other_names(self, name: str) -> None:
        """A name that does not look like one of ours is ignored."""
        assert read({name: object()}) == read({})
        assert not list(names_close_to_ours(Settings({name: object()})))


COUNTING_SPIDER = (
    SPIDER
    + """
    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        read = StateSettings.from_settings.__func__
        cls.count = 0

        def counted(settings_class, settings):
            cls.count += 1
            return read(settings_class, settings)

        StateSettings.from_settings = classmethod(counted)
        return super().from_crawler(crawler, *args, **kwargs)

    def closed(self, reason):
        self.logger.info("read %s times", self.count)

from scrapy_state.settings import StateSettings
"""
)


class TestGetSettings:
    def test_read_once(self) -> None:
        """The settings of a crawler are read once; those of another crawler are its own."""
        crawler, other = get_crawler(settings_dict={"STATE_INTERVAL": 1}), get_crawler(settings_dict={"STATE_INTERVAL": 2})
        assert get_settings(crawler) is get_settings(crawler)
        assert (get_settings(crawler).interval_seconds, get_settings(other).interval_seconds) == (1, 2)

    def test_error_each_time(self) -> None:
        """Settings that can't be used are an error each time."""
        crawler = get_crawler(settings_dict={"STATE_INTERVAL": "x"})
        for _ in range(2):
            with pytest.raises(StateSettingsError, match="STATE_INTERVAL"):
                get_settings(crawler)

    def test_crawl(self, tmp_path: Path) -> None:
        """A crawl reads them twice: the add-on, before the settings are complete, and then once for all components."""
        crawled = crawl(tmp_path, COUNTING_SPIDER)
        assert crawled.code == 0, crawled.log
        assert crawled.lines("read 2 times"), crawled.log


class TestStateFeed:
    @pytest.mark.parametrize(
        "classes", [[StateItem], (StateItem,), ["scrapy_state.StateItem"], ["scrapy_state.items.StateItem"]]
    )
    @pytest.mark.parametrize("format", ["json", "jsonlines", "jsonl", "jl"])
    def test_found(self, classes: Any, format: str) -> None:
        """The state feed is the one whose item_classes, loaded, are just StateItem, however they are named."""
        options = {"format": format, "item_classes": classes}
        feed = StateFeed.from_settings(with_feeds({ITEMS_URI: {"format": "json"}, STATE_URI: options}))
        assert feed == StateFeed(STATE_URI, STATE_URI, options, format)

    @pytest.mark.parametrize(
        "classes", [None, [], ["scrapy.Item"], [StateItem, "scrapy.Item"], [Spider, StateItem], ["scrapy_state.Checkpoint"]]
    )
    def test_not_one(self, classes: Any) -> None:
        """A feed that has other classes, too, or all classes, is not a state feed."""
        assert StateFeed.from_settings(with_feeds({ITEMS_URI: {"format": "json", "item_classes": classes}})) is None
        assert StateFeed.from_settings(with_feeds({ITEMS_URI: {"format": "json"}})) is None
        assert StateFeed.from_settings(Settings()) is None

    def test_as_text(self) -> None:
        """FEEDS may be JSON text, as the command line gives it."""
        text = json.dumps(
            {STATE_URI: {"format": "json", "item_classes": ["scrapy_state.StateItem"]}, ITEMS_URI: {"format": "csv"}}
        )
        feed = StateFeed.from_settings(with_feeds(text))
        assert feed is not None
        assert (feed.uri, feed.format) == (STATE_URI, "json")

    def test_path(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A path as the key is made absolute, as Scrapy does."""
        monkeypatch.chdir(tmp_path)
        key = Path("state/%(batch_id)010d.jsonl")
        feed = StateFeed.from_settings(with_feeds({key: {"item_classes": [StateItem]}}))
        assert feed is not None
        assert feed.key == key
        assert feed.uri == f"{tmp_path}/state/%(batch_id)010d.jsonl"
        assert feed.format == "jsonl"

    def test_two(self) -> None:
        """Two state feeds are an error that names both."""
        with pytest.raises(StateSettingsError, match=r"2 state feeds.*/a/.*/b/.*keep one"):
            StateFeed.from_settings(with_feeds({"/a/%(batch_id)010d.json": STATE_FEED, "/b/%(batch_id)010d.json": STATE_FEED}))

    @pytest.mark.parametrize("option", ["item_clases", "item_class", "itemclasses", "checkpoints", "batch_filesize"])
    def test_misspelt_option(self, option: str) -> None:
        """An option that decides what a feed is must not be misspelt: the items would overwrite the checkpoints."""
        with pytest.raises(StateSettingsError, match=f"{STATE_URI[:5]}.*has the option '{option}'; correct it to '[a-z_]+'"):
            StateFeed.from_settings(with_feeds({STATE_URI: {"format": "json", option: ["scrapy_state.StateItem"]}}))

    def test_other_options(self) -> None:
        """Scrapy's own options, and a plugin's, are none of our business."""
        names = "encoding fields format indent item_export_kwargs item_filter overwrite postprocessing store_empty uri_params"
        options = dict.fromkeys([*names.split(), "batch_item_count", "gzip_compresslevel", "batch_size", "classes"])
        assert StateFeed.from_settings(with_feeds({ITEMS_URI: options})) is None

    @pytest.mark.parametrize("uri", ["s3//me:s3cr3t@b/state/", "s3:/me:s3cr3t@b/state/", "gs:/b/", "file//b/"])
    def test_torn_scheme(self, uri: str) -> None:
        """A URI without its colon, or with one slash, would be a folder on the disk: it is an error, which has no password."""
        with pytest.raises(StateSettingsError, match=r"correct it to '(s3|gs|file)://…'") as caught:
            StateFeed.from_settings(with_feeds({f"{uri}%(batch_id)010d.json": STATE_FEED}))
        assert "s3cr3t" not in str(caught.value)

    @pytest.mark.parametrize("uri", ["s3://b/", "file:///b/", "file:/b/", "s3/b/", "/s3//b/", "./s3//b/"])
    def test_whole_scheme(self, uri: str) -> None:
        """URIs and paths are none."""
        assert StateFeed.from_settings(with_feeds({f"{uri}%(batch_id)010d.json": STATE_FEED})) is not None

    def test_class_that_does_not_exist(self) -> None:
        """The error names the class."""
        with pytest.raises(StateSettingsError, match=r"item_classes is \['scrapy_state.StateItm'\]: .*; correct the name"):
            StateFeed.from_settings(with_feeds({STATE_URI: {"item_classes": ["scrapy_state.StateItm"]}}))

    @pytest.mark.parametrize("uri", [STATE_URI, "/a/%(batch_id)010d.csv", "/a/%(batch_id)010d"])
    @pytest.mark.parametrize("format", ["csv", "xml", "pickle", "marshal", None])
    def test_wrong_format(self, uri: str, format: str | None) -> None:
        """Another format is an error that names the feed, the format, and the formats to choose from."""
        if uri == STATE_URI and format is None:
            assert StateFeed.from_settings(with_feeds({uri: {**STATE_FEED, "format": None}})) is not None
            return
        with pytest.raises(StateSettingsError, match="a checkpoint is 'json' or 'jsonlines'") as caught:
            StateFeed.from_settings(with_feeds({uri: {**STATE_FEED, "format": format}}))
        assert repr(uri) in str(caught.value)
        assert repr(format or uri.partition("010d")[2].removeprefix(".")) in str(caught.value)

    @pytest.mark.parametrize(
        ("uri", "better"),
        [
            ("s3://bucket/state/%(batch_time)s.json", "s3://bucket/state/%(batch_id)010d.json"),
            ("s3://bucket/%(name)s/%(batch_id)d.jsonl", "s3://bucket/%(name)s/%(batch_id)010d.jsonl"),
            ("/state/%(name)s", "/state/%(batch_id)010d.json"),
            ("s3://me:s3cr3t@bucket/%(time)s.json", "s3://bucket/%(batch_id)010d.json"),
        ],
    )
    def test_not_writable(self, uri: str, better: str) -> None:
        """A template that can't be written to is an error that shows the right one, and the alternative, STATE_FROM."""
        with pytest.raises(StateSettingsError, match="STATE_FROM") as caught:
            StateFeed(uri, uri, {}, "json").not_writable()
        assert repr(better) in str(caught.value)
        assert "s3cr3t" not in str(caught.value)


class TestItemFeeds:
    @pytest.mark.parametrize(
        "uri",
        [
            "s3://b/%(batch_time)s.json",
            "s3://b/%(batch_time)s-%(batch_id)d.json",
            "s3://b/%(run_id)s-%(batch_id)05d.json",
            "s3://b/%(run_id)s/%(name)s/%(batch_id)d.json",
            "s3://b/%(time)s-%(batch_id)d.json",
            "/data/%(time)s/%(batch_id)s.json",
        ],
    )
    @pytest.mark.parametrize("priority", ["project", "spider", "cmdline"])
    def test_unique(self, uri: str, priority: str) -> None:
        """A feed whose URI is different in each run and batch takes part, wherever it was set; the state feed does not count as
        one."""
        feeds = {uri: {"format": "json"}, STATE_URI: STATE_FEED}
        assert item_feeds_with_checkpoints(with_feeds(feeds, priority)) == {uri}

    @pytest.mark.parametrize(
        ("uri", "better"),
        [
            ("items.json", "items-%(run_id)s-%(batch_id)05d.json"),
            ("s3://b/%(name)s.jsonl", "s3://b/%(name)s-%(run_id)s-%(batch_id)05d.jsonl"),
            ("s3://b/%(time)s.json", "s3://b/%(time)s-%(run_id)s-%(batch_id)05d.json"),
            ("s3://b/%(run_id)s.json", "s3://b/%(run_id)s-%(run_id)s-%(batch_id)05d.json"),
            ("s3://b/%(batch_id)05d.json", "s3://b/%(batch_id)05d-%(run_id)s.json"),
            ("/data/items", "/data/items-%(run_id)s-%(batch_id)05d"),
        ],
    )
    @pytest.mark.parametrize("priority", ["project", "spider"])
    def test_not_unique(self, uri: str, better: str, priority: str) -> None:
        """A feed that would overwrite what an earlier run or batch stored is an error that names it and both remedies."""
        with pytest.raises(StateSettingsError, match="overwrite") as caught:
            item_feeds_with_checkpoints(with_feeds({uri: {"format": "json"}, STATE_URI: STATE_FEED}, priority))
        message = str(caught.value)
        assert repr(uri) in message
        assert repr(better) in message
        assert '"checkpoint": False' in message
        assert item_feeds_with_checkpoints(with_feeds({better: {"format": "json"}})) == {better}

    @pytest.mark.parametrize("uri", ["items.json", ITEMS_URI, "s3://b/%(batch_time)s.json"])
    @pytest.mark.parametrize("priority", ["project", "cmdline"])
    def test_left_out_by_option(self, uri: str, priority: str) -> None:
        """The feed option "checkpoint": False leaves a feed out, unique or not."""
        assert item_feeds_with_checkpoints(with_feeds({uri: {"format": "json", "checkpoint": False}}, priority)) == set()
        text = json.dumps({uri: {"format": "json", "checkpoint": False}})
        assert item_feeds_with_checkpoints(with_feeds(text, priority)) == set()

    @pytest.mark.parametrize("priority", ["project", "cmdline"])
    def test_stdout(self, priority: str, caplog: pytest.LogCaptureFixture) -> None:
        """Standard output is left out, without a message."""
        feeds = {"stdout:": {"format": "json"}, ITEMS_URI: {"format": "json"}}
        assert item_feeds_with_checkpoints(with_feeds(feeds, priority)) == {ITEMS_URI}
        assert not caplog.records

    def test_command_line(self, caplog: pytest.LogCaptureFixture) -> None:
        """A feed of the command line (-o) that isn't unique is left out; one INFO line has its URI, without the password."""
        caplog.set_level(logging.DEBUG)
        feeds = {"s3://me:s3cr3t@b/items.json": {"format": "json"}, ITEMS_URI: {"format": "json"}}
        assert item_feeds_with_checkpoints(with_feeds(feeds, "cmdline")) == {ITEMS_URI}
        (record,) = caplog.records
        assert record.levelno == logging.INFO
        assert "s3://b/items.json" in record.getMessage()

    def test_path(self) -> None:
        """A path as the key takes part as an absolute path, as the exporter knows it."""
        key = Path("items/%(run_id)s-%(batch_id)05d.json")
        assert item_feeds_with_checkpoints(with_feeds({key: {"format": "json"}})) == {str(key.absolute())}


@pytest.mark.parametrize(
    "feeds",
    [
        {"s3://me:s3cr3t@b/1/%(batch_id)010d.json": STATE_FEED, "s3://me:s3cr3t@b/2/%(batch_id)010d.json": STATE_FEED},
        {"s3://me:s3cr3t@b/%(batch_id)010d.csv": {**STATE_FEED, "format": "csv"}},
        {"s3://me:s3cr3t@b/items.json": {"format": "json"}},
    ],
    ids=["two state feeds", "wrong format", "not unique"],
)
def test_errors_hide_credentials(feeds: dict[str, Any]) -> None:
    """No error about FEEDS has the password of a URI."""
    with pytest.raises(StateSettingsError) as caught:
        item_feeds_with_checkpoints(with_feeds(feeds))
    assert "s3cr3t" not in str(caught.value)


class TestUriParams:
    def spider(self) -> Spider:
        return Spider(name="flights", shard="7")

    @pytest.mark.parametrize("function", [None, ""])
    def test_attributes(self, function: Any) -> None:
        """The spider's attributes fill the URI, as in Scrapy."""
        params = uri_params(self.spider(), function)
        assert (params["name"], params["shard"]) == ("flights", "7")

    @pytest.mark.parametrize("returns", [True, False])
    def test_function(self, returns: bool) -> None:
        """A uri_params function may change the parameters in place or return others."""

        def function(params: dict[str, Any], spider: Spider) -> dict[str, Any] | None:
            if returns:
                return {**params, "place": spider.name}
            params["place"] = spider.name
            return None

        params = uri_params(self.spider(), function)
        assert (params["place"], params["shard"]) == ("flights", "7")

    def test_function_by_path(self) -> None:
        """It may be named by its path."""
        assert uri_params(self.spider(), f"{__name__}.only_place") == {"place": "here"}


def only_place(params: dict[str, Any], spider: Spider) -> dict[str, Any]:
    return {"place": "here"}
