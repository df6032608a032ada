"""Requests as the text that segments hold. tests/redis/test_codec.py has what Redis shares with them."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import zlib
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

import pytest
import scrapy
from hypothesis import given
from hypothesis import strategies as st
from scrapy.http import JsonRequest
from scrapy.spiders import CrawlSpider

from scrapy_state.frontier.codec import Codec, Unreadable
from scrapy_state.frontier.codec.classes import Classes
from scrapy_state.scrapy_internals import is_unset


class Thing(scrapy.Item):
    name = scrapy.Field()


class Size(Enum):
    S = 1


@dataclasses.dataclass
class Price:
    cents: int


class Called:
    """An object that can be called, as a class attribute."""

    def __call__(self, response: Any) -> NoReturn:
        raise AssertionError("nobody is to call it")


class Asked:
    """An attribute that runs code when it is read."""

    def __get__(self, instance: Any, owner: Any) -> NoReturn:
        raise AssertionError("nobody is to read it")


class TextSpider(scrapy.Spider):
    name = "text"
    called = Called()
    asked = Asked()
    function = functools.partial(print)

    class Inner(scrapy.Request):
        """A nested class, which can be called, too."""

    def parse_other(self, response: Any) -> None:
        """A callback."""

    def failed(self, failure: Any) -> None:
        """An errback."""

    def __hidden(self, response: Any) -> None:
        """One whose name is another one outside the class."""

    hidden = __hidden

    @property
    def connection(self) -> NoReturn:
        raise AssertionError("nobody is to read it")

    @functools.cached_property
    def cached(self) -> NoReturn:
        raise AssertionError("nobody is to read it")

    @staticmethod
    def static(response: Any) -> None:
        """Not bound to the spider."""

    @classmethod
    def of_class(cls, response: Any) -> None:
        """Bound to the class."""


def request(**arguments: Any) -> scrapy.Request:
    return scrapy.Request("https://example.com/", **arguments)


def text(**fields: Any) -> bytes:
    return json.dumps({"url": "https://example.com/", **fields}).encode()


@given(
    meta=st.dictionaries(st.text(), st.text() | st.binary() | st.tuples(st.text()) | st.floats(allow_nan=False), max_size=4),
    body=st.binary(max_size=900),
    flag=st.text(),
)
def test_text_is_one_field_of_a_line(meta: dict[str, Any], body: bytes, flag: str) -> None:
    """Whatever is in a request, its text is ASCII without control characters, is JSON, and comes back the same."""
    spider = TextSpider()
    codec = Codec(spider)
    sent = request(
        callback=spider.parse_other, errback=spider.failed, meta=meta, body=body, flags=[flag], cookies={"a": flag}, priority=-1
    )
    written = codec.encode_text(sent)
    assert all(32 <= each < 128 for each in written)
    assert isinstance(json.loads(written), dict)
    back = codec.decode_text(written)
    assert {name: getattr(back, name) for name in sent.attributes} == {name: getattr(sent, name) for name in sent.attributes}


def test_surrogates_are_ascii_too() -> None:
    """Half a surrogate pair, which UTF-8 can't hold, comes back as well."""
    codec = Codec(TextSpider())
    written = codec.encode_text(request(meta={"x": "\ud800"}))
    assert written.isascii()
    assert codec.decode_text(written).meta == {"x": "\ud800"}


def test_text_is_never_pickled() -> None:
    """With STATE_REDIS_PICKLE, too, what JSON can't hold is refused."""
    with pytest.raises(ValueError, match="no form"):
        Codec(TextSpider(), use_pickle=True).encode_text(request(meta={"path": Path("x")}))


def test_names_in_use() -> None:
    """take_used() names each callback, errback and class since the last call, once; check() accepts them all."""
    spider = TextSpider()
    codec = Codec(spider)
    for _ in range(2):
        codec.encode_text(request(callback=spider.parse_other, errback=spider.failed, meta={"size": Size.S, "price": Price(1)}))
        codec.encode_text(JsonRequest("https://example.com/", callback=spider.hidden, data={}, meta={"thing": Thing(name="a")}))
        used = codec.take_used()
        assert used == sorted(
            [
                *(("callback", "_TextSpider__hidden"), ("callback", "parse_other"), ("errback", "failed")),
                *(("class", f"{each.__module__}.{each.__qualname__}") for each in (JsonRequest, Price, Size, Thing)),
            ]
        )
        assert codec.take_used() == []
    codec.encode_text(request())
    assert codec.take_used() == []
    for kind, name in used:
        Codec(TextSpider()).check(kind, name)


def test_what_is_refused_names_nothing() -> None:
    """A request that can't be stored leaves no name that a later start would look for."""
    spider = TextSpider()
    codec = Codec(spider)
    with pytest.raises(ValueError, match="no form"):
        codec.encode_text(request(callback=spider.parse_other, meta={"size": Size.S, "path": Path("x")}))
    codec.encode_text(request(errback=spider.failed))
    assert codec.take_used() == [("errback", "failed")]


NO_CALLBACKS = [
    *("connection", "cached", "asked", "static", "of_class", "called", "function", "Inner", "name", "custom_settings", "own"),
    *("__init__", "__class__", "__dict__", "__reduce__", "start", "from_crawler", "update_settings", "close", "logger", "log"),
    *("handles_request", "_set_crawler", "crawler", "no_such", "parse_other.__func__", "", " parse", "parse\n"),
]


@pytest.mark.parametrize("name", NO_CALLBACKS)
def test_only_the_spiders_methods_are_callbacks(name: str) -> None:
    """No property is read, nothing but a method of the spider is given out, and none that Scrapy itself calls; neither
    check() nor decoding lets one pass."""
    spider = TextSpider()
    spider.own = print  # type: ignore[attr-defined]
    codec = Codec(spider)
    for kind in ("callback", "errback"):
        with pytest.raises(ValueError, match="has no callback"):
            codec.check(kind, name)
        if name:
            with pytest.raises(Unreadable, match="has no callback"):
                codec.decode_text(text(**{kind: name}))


@pytest.mark.parametrize("name", [5, 1.5, True, ["parse"], {"a": 1}])
def test_a_callbacks_name_is_text(name: Any) -> None:
    """A name of another type is unreadable, not looked up."""
    with pytest.raises(Unreadable, match="has no callback"):
        Codec(TextSpider()).decode_text(text(callback=name))


def test_callbacks_that_are_allowed() -> None:
    """parse() although Spider defines it, the spider's own methods, also private ones, and those of a CrawlSpider."""
    codec, rules = Codec(TextSpider()), Codec(CrawlSpider(name="rules"))
    for name in ("parse", "_parse", "parse_other", "_TextSpider__hidden"):
        codec.check("callback", name)
    for name in ("parse", "_parse", "_callback", "_errback", "parse_start_url"):
        rules.check("callback", name)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        *(("scrapy.no_such.Thing", "there is no class"), ("scrapy.http.NoSuch", "there is no class")),
        *(("scrapy.utils.misc.load_object", "is not a class"), ("antigravity.Thing", "in the project, in Scrapy")),
        *(("Thing", "there is no class"), ("", "there is no class"), (".", "there is no class"), ("..x", "there is no class")),
        (f"{__name__}.TextSpider.Inner", "there is no class"),
    ],
)
def test_classes_that_are_gone(path: str, says: str) -> None:
    """check() raises ValueError for a class that can't be found, is nested, or must not be imported."""
    with pytest.raises(ValueError, match=says):
        Codec(TextSpider()).check("class", path)
    assert "antigravity" not in sys.modules


def test_a_program_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the project may be imported from, but not its __main__, which would run."""
    package = tmp_path / "some_project_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "things.py").write_text("class Thing: ...\n")
    (package / "__main__.py").write_text("import sys; sys.exit('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    classes = Classes({package.name})
    with pytest.raises(ValueError, match="there is no class"):
        classes.find(f"{package.name}.__main__.Thing")
    assert classes.find(f"{package.name}.things.Thing").__name__ == "Thing"


def test_another_kind_of_name() -> None:
    """A kind that this version does not know is an error: what it means can't be checked."""
    with pytest.raises(ValueError, match="'module' is neither"):
        Codec(TextSpider()).check("module", "scrapy")


DEEP = 100_000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"https://example.com/", "JSONDecodeError|Expecting value"),
        (b"z" + zlib.compress(text()), "."),
        (b"p" + b"cos\nsystem\n(S'true'\ntR.", "."),
        (b'["https://example.com/"]', "without a url"),
        (b"null", "without a url"),
        (b'{"callback": "parse"}', "without a url"),
        (b"", "Expecting value"),
        (text()[:-1], "delimiter"),
        (text() + b"{}", "Extra data"),
        (b'{"url": "https://example.com/\tx"}', "control character"),
        (text(meta={"download_slot": 5}), "download_slot"),
        (text(meta=5), "."),
        (text(priority="5"), "."),
        (text(_class="scrapy.Spider"), "not a Request class"),
        (text(_class=f"{__name__}.TextSpider.Inner"), "no class"),
        (b'{"url": "https://example.com/", "meta": {"x": ' + b"[" * DEEP + b"]" * DEEP + b"}}", "Recursion"),
        (b'{"url": "https://example.com/", "meta": ' + b'{"x":' * DEEP + b"1" + b"}" * DEEP + b"}", "Recursion"),
        (
            b'{"url": "data:,", "meta": ' + b'{"__scrapy_state__":"tuple","v":[' * 600 + b"]}" * 600 + b"}",
            "Recursion|not iterable|dict|sequence",
        ),
        (b'{"url": "data:,", "meta": {"x": ' + b"9" * 5000 + b"}}", "digits"),
        (b'{"url": "data:,", "meta": {"x": "' + b" " * (64 << 20) + b'"}}', "at most"),
    ],
)
def test_unreadable_text(data: bytes, says: str) -> None:
    """What encode_text() did not write is Unreadable, a ValueError, however deep, long or strange."""
    with pytest.raises(Unreadable, match=says):
        Codec(TextSpider()).decode_text(data)


def test_deep_values_are_refused_when_written() -> None:
    """What is nested too deeply to be read again is refused when it is stored."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError, match="recursion"):
        Codec(TextSpider()).encode_text(request(meta={"deep": deep}))


def test_encoding_a_request_makes_it_no_larger() -> None:
    """A million requests wait in memory; reading ``cb_kwargs``, ``flags`` or ``cookies`` would give each an empty one."""
    encoded = scrapy.Request("http://x.invalid/", headers={"A": "b"}, meta={"depth": 1})
    Codec(TextSpider()).encode_text(encoded)
    assert [name for name in ("cb_kwargs", "cookies", "flags") if not is_unset(encoded, name)] == []
