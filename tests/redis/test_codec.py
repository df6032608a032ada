"""Requests as bytes, and the settings of a frontier in Redis."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import zlib
from collections import Counter, OrderedDict, defaultdict, namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attr
import pytest
import scrapy
from hypothesis import given
from hypothesis import strategies as st
from scrapy.http import JsonRequest
from scrapy.utils.test import get_crawler

from scrapy_state.exceptions import StateSettingsError
from scrapy_state.frontier.codec import Codec
from scrapy_state.redis.connection import Connection
from scrapy_state.redis.inspect import read_frontier
from scrapy_state.redis.settings import RedisSettings, key_prefix, redacted

PREFIX = "scrapy_state:{frontier}:"


class Thing(scrapy.Item):
    name = scrapy.Field()
    parts = scrapy.Field()


class Needy(scrapy.Request):
    """A request that can't be made of its attributes alone."""

    def __init__(self, number: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class CodecSpider(scrapy.Spider):
    name = "codec"

    class Inner(scrapy.Request):
        """A class that can't be imported by its name."""

    class InnerThing(scrapy.Item):
        """The same."""

    def parse_other(self, response: Any) -> None:
        """A callback."""

    def __hidden(self, response: Any) -> None:
        """One whose name is another one outside the class."""

    hidden = __hidden


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.just("__scrapy_state__"), inner, max_size=3)
        | st.sets(st.integers() | st.text(), max_size=3)
        | st.builds(lambda value: Thing(name=value, parts=[value]), inner)
    ),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """*value* with the type of each part, as 1, True and 1.0 are equal. Sets have no order."""
    if isinstance(value, (dict, Thing)):
        return type(value), [(typed(key), typed(value[key])) for key in value]
    if isinstance(value, (list, tuple)):
        return type(value), [typed(each) for each in value]
    if isinstance(value, set):
        return set, {typed(each) for each in value}
    return type(value), repr(value)


@given(meta=st.dictionaries(st.text(), PLAIN, max_size=3), body=st.binary(max_size=2000), header=st.binary(max_size=20))
def test_requests_come_back_as_they_were(meta: dict[str, Any], body: bytes, header: bytes) -> None:
    """A request that can be stored comes back equal in all its attributes, and the types in its meta are the same."""
    spider = CodecSpider()
    codec = Codec(spider)
    sent = scrapy.Request(
        "https://example.com/?q=%C3%A4#x", spider.parse_other, "PUT", {"X": [header, b"2"], "Accept-Language": "de"}, body,
        {"session": "1"}, meta, priority=-3, dont_filter=True, errback=spider.parse_other, flags=["f"], cb_kwargs=meta,
    )  # fmt: skip
    back = codec.decode(codec.encode(sent))
    assert back.to_dict(spider=spider) == sent.to_dict(spider=spider)
    assert typed(back.meta) == typed(sent.meta)
    assert b"pickle" not in codec.encode(sent)


class Kind(Enum):
    ODD = "odd"
    MIXED = (1, 2)


class Level(IntEnum):
    HIGH = 3


class Text(str, Enum):
    A = "a"


class Can(Flag):
    READ = 1
    WRITE = 2
    BOTH = 3


class Mode(IntFlag):
    X = 1


class Point(NamedTuple):
    x: int
    y: Any = None


Pair = namedtuple("Pair", "a b")


@dataclasses.dataclass
class Plain:
    name: str
    parts: list[Any] = dataclasses.field(default_factory=list)
    made: int = dataclasses.field(init=False, default=7)

    def __post_init__(self) -> None:
        assert self.name != "read", "nothing of a class's own runs when it is read"


@dataclasses.dataclass(frozen=True)
class Frozen:
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class SlottedData:
    name: Any


@attr.s(auto_attribs=True)
class OldAttrs:
    _private: int
    name: str = "a"


@attr.frozen
class NewAttrs:
    name: Any
    cached: Any = attr.field(factory=dict)


class MoreAttrs(OldAttrs):
    """A subclass that says nothing of attrs itself."""


class MoreData(Plain):
    """The same of a dataclass."""


class OwnText(str):
    """As lxml's and parsel's."""

    __slots__ = ("link",)


class OwnDate(datetime):
    """As pendulum's."""


class OwnInt(int): ...


class OwnFloat(float): ...


class OwnBytes(bytes): ...


class OwnList(list[Any]): ...


class OwnTuple(tuple[Any, ...]):
    __slots__ = ()


BERLIN = ZoneInfo("Europe/Berlin")
AS_THEY_WERE = [
    *(date(2026, 3, 29), time(2, 30, 0, 5), datetime(2026, 3, 29, 2, 30), timedelta(-1, 5, 7)),
    datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    time(1, 2, tzinfo=BERLIN),
    datetime(2026, 1, 1, tzinfo=timezone.utc),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30, seconds=-1))),
    *(Decimal("1.10"), Decimal("-Infinity"), UUID(int=5)),
    *(Kind.ODD, Kind.MIXED, Level.HIGH, Text.A, Can.READ, Can.BOTH, Can(0), Mode.X, Mode(0)),
    *(Point(1, {"a": Point(2)}), Pair((1,), [2])),
    *(
        Plain("a", [date(2026, 1, 1)]),
        Frozen("b"),
        SlottedData({1: b"x"}),
        OldAttrs(5),
        MoreAttrs(5),
        MoreData("b"),
        NewAttrs((1, 2), {"a": None}),
    ),
    *(Thing(name=Plain("c")), {Frozen("key"): 1, date(2026, 1, 1): 2, Level.HIGH: 3}, {Kind.ODD}),
]
AS_THEIR_BASE: list[tuple[Any, Any]] = [
    *((OwnText("ä"), "ä"), (OwnInt(5), 5), (OwnFloat(0.5), 0.5), (OwnBytes(b"\xff"), b"\xff"), (OwnList([OwnInt(1)]), [1])),
    *((OwnTuple((1,)), (1,)), (OrderedDict(b=1, a=2), {"b": 1, "a": 2}), (Counter("aab"), {"a": 2, "b": 1})),
    *((defaultdict(list, {1: [2]}), {1: [2]}), ({OwnText("k"): 1}, {"k": 1}), (OwnDate(2026, 1, 1), datetime(2026, 1, 1))),
]


@pytest.mark.parametrize(("sent", "expected"), [*((each, each) for each in AS_THEY_WERE), *AS_THEIR_BASE])
def test_values_that_spiders_put_into_meta(sent: Any, expected: Any) -> None:
    """Values that JSON has no form for come back equal and of the same type, in meta, in cb_kwargs and inside others; a
    subclass of a built-in type comes back as that type."""
    codec = Codec(CodecSpider())
    meta = {"value": sent, "within": [(sent, {"x": sent})]}
    back = codec.decode(codec.encode(scrapy.Request("https://example.com/", meta=meta, cb_kwargs={"value": sent})))
    for found in (back.meta["value"], back.cb_kwargs["value"], back.meta["within"][0][0]):
        assert found == expected
        assert type(found) is type(expected)
        assert repr(found) == repr(expected)
        assert getattr(found, "fold", 0) == getattr(expected, "fold", 0)


def test_reading_runs_no_code_of_the_values() -> None:
    """Reading a dataclass does not run its __init__. One whose class has another field by now can't be read."""
    codec = Codec(CodecSpider())
    data = codec.encode(scrapy.Request("https://example.com/", meta={"value": Plain("a")}))
    assert codec.decode(data.replace(b'"name":"a"', b'"name":"read"')).meta["value"].name == "read"
    with pytest.raises(ValueError, match="has no value for its field 'parts'"):
        codec.decode(data.replace(b'"parts"', b'"other"'))
    point = codec.encode(scrapy.Request("https://example.com/", meta={"value": Point(1)}))
    with pytest.raises(ValueError, match="has 2 fields now"):
        codec.decode(point.replace(b"[1,null]", b"[1]"))


@dataclasses.dataclass
class Raised(Exception):
    name: str


class Unusual(tuple):
    _fields = ("a",)


UNSET = object.__new__(SlottedData)
HALF = object.__new__(Plain)
UNNAMED = Mode(6)


@pytest.mark.parametrize("value", [UNSET, HALF, UNNAMED, Raised("a"), Path("x"), CodecSpider, lambda: 1])
def test_values_that_have_no_form(value: Any) -> None:
    """A value that would not come back whole is refused: an object without its fields, unnamed bits, or more than the fields
    hold."""
    with pytest.raises(ValueError, match=r"no form|no value|more than its fields"):
        Codec(CodecSpider()).encode(scrapy.Request("https://example.com/", meta={"value": value}))


def test_what_is_pushed_is_never_unpickled() -> None:
    """STATE_REDIS_PICKLE is for what workers store; what somebody pushes is a URL or JSON."""
    codec = Codec(CodecSpider(), use_pickle=True)
    stored = codec.encode(scrapy.Request("https://example.com/", meta={"path": Path("x")}))
    with pytest.raises(ValueError, match=r"."):
        codec.decode_pushed(stored)
    for slot in (b"5", b'{"a": 1}'):
        with pytest.raises(ValueError, match="download_slot"):
            codec.decode_pushed(b'{"url": "https://example.com/", "meta": {"download_slot": %s}}' % slot)
    assert codec.decode_pushed(b" https://example.com/a\n").url == "https://example.com/a"
    pushed = json.dumps({"url": "https://example.com/", "callback": "parse_other", "cb_kwargs": {"n": 1}})
    assert codec.decode_pushed(pushed.encode()).cb_kwargs == {"n": 1}


def test_request_classes_come_back() -> None:
    """A subclass of Request comes back as what it was; text that compresses is compressed."""
    codec = Codec(CodecSpider())
    sent = JsonRequest("https://example.com/", data={"text": "a" * 5000})
    data = codec.encode(sent)
    assert len(data) < 1000
    back = codec.decode(data)
    assert type(back) is JsonRequest
    assert back.to_dict() == sent.to_dict()
    assert codec.decode(b"https://example.com/a").url == "https://example.com/a"
    assert codec.decode(b'{"url": "https://example.com/", "callback": "parse_other"}').callback is not None


ROUND: dict[str, Any] = {}
ROUND["round"] = ROUND
DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "sent",
    [
        scrapy.Request("https://example.com/", meta=ROUND),
        scrapy.Request("https://example.com/", cb_kwargs={"deep": DEEP}),
        CodecSpider.Inner("https://example.com/"),
        Needy(5, "https://example.com/"),
        scrapy.Request("https://example.com/", meta={"thing": CodecSpider.InnerThing()}),
    ],
    ids=["round", "deep", "inner", "needy", "inner item"],
)
def test_what_would_not_come_back_is_refused(sent: scrapy.Request) -> None:
    """A request that could not be read again is not stored: it stays in the worker's memory."""
    codec = Codec(CodecSpider())
    for _ in range(2):
        with pytest.raises(ValueError, match=r"."):
            codec.encode(sent)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"callback": print}, "not an instance method"),
        ({"callback": lambda response: None}, "not an instance method"),
        ({"meta": {"x": object()}}, "JSON has no form for builtins.object"),
    ],
)
def test_what_has_no_form_in_json_is_refused(arguments: dict[str, Any], says: str) -> None:
    """A value that JSON can't hold is refused, never changed silently."""
    with pytest.raises(ValueError, match=says):
        Codec(CodecSpider()).encode(scrapy.Request("https://example.com/", **arguments))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"url": "https://example.com/", "_class": "subprocess.Popen"}', "not a Request class"),
        (b'{"url": "https://example.com/", "_class": "no.such"}', "no class"),
        (b'{"url": "https://example.com/", "callback": "no_such"}', "no_such"),
        (b'{"url": "a", "meta": {"__scrapy_state__": "item", "class": "subprocess.Popen", "v": {}}}', "not an Item class"),
        (b'{"url": 5}', "without a url"),
        (b"pcos\nsystem\n(S'true'\ntR.", "STATE_REDIS_PICKLE is False"),
        (b"z123", "decompressing"),
        (b'{"url": "https://example.com/", "encoding": "no-such"}', "no-such"),
        (b'{"url": "https://example.com/", "meta": {"__scrapy_state__": "ascii", "v": 5}}', "AttributeError"),
        (b'{"url": "https://example.com/", "meta": {"__scrapy_state__": []}}', "not known"),
        (b'{"url": "https://example.com/", "_class": "antigravity.Request"}', "no class 'antigravity.Request' in the project"),
        (b'{"url": "https://example.com/", "callback": "__init__"}', "has no callback '__init__'"),
        (b'{"url": "https://example.com/", "errback": "from_crawler"}', "has no callback 'from_crawler'"),
        (b'{"url": "https://example.com/", "callback": "name"}', "has no callback 'name'"),
        (b'{"url": "https://example.com/", "callback": ["parse"]}', "has no callback"),
        (
            b'{"url": "https://example.com/", "meta": {"__scrapy_state__": "enum", "class": "subprocess.Popen", "v": "A"}}',
            "Enum",
        ),
        (b'{"url": "data:,", "meta": {"__scrapy_state__": "object", "class": "subprocess.Popen", "v": {}}}', "not a dataclass"),
        (b'{"url": "data:,", "meta": {"__scrapy_state__": "namedtuple", "class": "builtins.tuple", "v": []}}', "named tuple"),
        (b'{"url": "data:,", "meta": {"__scrapy_state__": "datetime", "v": "now"}}', "Invalid isoformat"),
        (b'{"url": "data:,", "meta": {"__scrapy_state__": "time", "v": "10:00", "zone": "../../etc/passwd"}}', "etc/passwd"),
        (b"z" + zlib.compress(b'{"url": "data:,' + b" " * (65 << 20) + b'"}', 9), "unpacks to more than"),
        (b"z" + zlib.compress(b'{"url": "data:,"}')[:-3], "cut off"),
        (b'{"url": "https://example.com/", "meta": {"x": {"__scrapy_state__": "set", "v": [[1]]}}}', "unhashable"),
        (b'{"url": "https://example.com/", "meta": ' + b"[" * 100000 + b"]" * 100000 + b"}", "Recursion"),
    ],
)
def test_bytes_from_others_run_nothing(data: bytes, says: str) -> None:
    """Bytes that no worker stored are an error; no class but a Request's or an Item's is called, nothing is unpickled."""
    with pytest.raises(ValueError, match=says):
        Codec(CodecSpider()).decode(data)


def test_pickle_by_setting() -> None:
    """With STATE_REDIS_PICKLE, values that JSON can't hold are pickled."""
    codec = Codec(CodecSpider(), use_pickle=True)
    back = codec.decode(codec.encode(scrapy.Request("https://example.com/", meta={"path": Path("x")})))
    assert back.meta == {"path": Path("x")}


# Settings


def test_passwords_are_not_shown() -> None:
    """No message contains the password of a URL."""
    for url in (
        *("redis://user:se@cret@host:1/0", "rediss://:secret@host", "unix:///x.sock?password=secret&db=1"),
        *("rediss://host/0?ssl_password=secret", "redis://user:secret\n@host", "redis://:se%40cret@host"),
    ):
        assert "secret" not in redacted(url)
        assert "cret" not in redacted(url)
    assert redacted("redis://host:6379/0") == "redis://host:6379/0"


@pytest.mark.parametrize("sign", ["#", "/", "?", "["])
def test_a_password_that_is_not_encoded(sign: str) -> None:
    """If a URL can't be read because of its password, the error says how to write it, and shows no part of it."""
    url = f"redis://user:the{sign}secret@host:6379/0"

    async def connect() -> None:
        Connection.acquire(url)

    for use in (lambda: asyncio.run(connect()), lambda: read_frontier(url, PREFIX)):
        with pytest.raises(StateSettingsError, match="percent-encoded") as caught:
            use()
        assert "'the'" not in str(caught.value)
        assert "secret" not in str(caught.value)
    crawler = get_crawler(CodecSpider, {"STATE_REDIS_URL": url})
    crawler.spider = CodecSpider()
    assert RedisSettings.from_crawler(crawler).url == url


class BusySpider(CodecSpider):
    @property
    def connection(self) -> Any:
        raise RuntimeError("nobody is to ask")


def test_the_spiders_properties_are_left_alone() -> None:
    """Neither the key nor a callback's name makes scrapy_state read a property, which may raise or do something."""
    spider = BusySpider()
    assert key_prefix("%(name)s", spider) == "scrapy_state:{codec}:"
    sent = scrapy.Request("https://example.com/", spider.parse_other)
    assert Codec(spider).decode(Codec(spider).encode(sent)).callback == spider.parse_other
    plain = CodecSpider()
    sent = scrapy.Request("https://example.com/", plain.hidden)
    assert Codec(plain).decode(Codec(plain).encode(sent)).callback == plain.hidden


def test_keys_have_a_hash_tag() -> None:
    """All keys of a job are in one cluster slot; the template may name the spider's attributes."""
    spider = CodecSpider(job="nightly")
    assert key_prefix("%(name)s-%(job)s", spider) == "scrapy_state:{codec-nightly}:"
    for wrong in ("%(nothing)s", "", "a{b}", "%s", "%(name)"):
        with pytest.raises(StateSettingsError, match="STATE_REDIS_KEY"):
            key_prefix(wrong, spider)
