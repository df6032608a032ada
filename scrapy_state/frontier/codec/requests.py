"""A request as bytes and back: JSON, so that nobody who can write to Redis or to a store can run code here."""

from __future__ import annotations

import inspect
import json
import pickle
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from scrapy import Request, Spider

from ...scrapy_internals import is_unset
from .classes import Classes
from .values import Values

#: The first byte of a request that was pushed from outside
PUSHED = b"+"
#: Shorter text is not worth compressing.
_COMPRESS_BYTES = 400
#: No request is larger; data that unpacks to more is an attack.
_MOST_BYTES = 64 << 20
#: The attributes of a Request that was given only a URL
_USUAL = {name: getattr(Request("data:,"), name) for name in Request.attributes}
#: Methods of Spider itself that may be callbacks
_CALLBACKS = ("parse", "_parse")
# json.dumps() makes an encoder for each call. What Values has written is a tree, so there are no circles to look for.
_UTF8 = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False)
_ASCII = json.JSONEncoder(separators=(",", ":"), check_circular=False)


class Unreadable(ValueError):
    """Bytes that are not a request of this spider. *meta* is the request's, if that could be read."""

    def __init__(self, why: str, meta: Any) -> None:
        super().__init__(why)
        self.meta = meta


class Codec:
    """Turns one spider's requests into bytes and back.

    :param use_pickle: STATE_REDIS_PICKLE: pickle what JSON can't hold; reading such bytes can run code
    """

    def __init__(self, spider: Spider, use_pickle: bool = False) -> None:
        self._spider = spider
        self._use_pickle = use_pickle
        self._names: dict[Any, str] = {}
        self._callbacks: set[str] = set()
        self._classes = Classes.of(spider)
        self._values = Values(self._classes)
        #: the request classes that are known to survive encoding
        self._proved: set[type] = {Request}
        self._used: set[tuple[str, str]] = set()

    def encode(self, request: Request) -> bytes:
        """Return *request* as bytes.

        :raises ValueError: if its callback is not a method of the spider, or it has an object that
            JSON can't hold, or of a class that can't be imported
        """
        values = self._as_dict(request)
        try:
            text = self._text(values, _UTF8)
        except ValueError:
            if not self._use_pickle:
                raise
            return b"p" + _pickled(values)
        self._prove(request, text)
        if len(text) < _COMPRESS_BYTES:
            return text
        packed = b"z" + zlib.compress(text, 1)
        return packed if len(packed) < len(text) else text

    def encode_text(self, request: Request) -> bytes:
        """Return *request* as one JSON object in ASCII, without tabs, line breaks and other control characters.

        Never pickles. :meth:`take_used` will give the names in it.

        :raises ValueError: as :meth:`encode`
        """
        self._classes.used.clear()
        values = self._as_dict(request)
        text = self._text(values, _ASCII)
        self._prove(request, text)
        self._note(values)
        return text

    def take_used(self) -> list[tuple[str, str]]:
        """Return, sorted, what the requests name that :meth:`encode_text` has written since the last call.

        :return: ("callback" or "errback", name of a method) or ("class", import path): what :meth:`check` takes
        """
        used, self._used = self._used, set()
        return sorted(used)

    def check(self, kind: str, name: str) -> None:
        """Make sure that requests with this name can be decoded. May import a module of the project.

        :param kind: "callback", "errback" or "class"
        :raises ValueError: if the spider has no such method, the class can't be found, or *kind* is another word
        """
        if kind == "class":
            self._classes.find(name)
        elif kind in ("callback", "errback"):
            self._method(name)
        else:
            raise ValueError(f"{kind!r} is neither a callback, an errback nor a class")

    def decode(self, data: bytes) -> Request:
        """Return the request in *data*: what :meth:`encode` made, a URL, or a JSON object with a ``url``.

        :raises Unreadable: if it is none of these, or names a method that the spider does not have
        """
        return self._decoded(data, self._stored)

    def decode_pushed(self, data: bytes) -> Request:
        """Return the request that somebody pushed from outside: a URL, or a JSON object with a ``url``. Never pickle.

        :raises Unreadable: as :meth:`decode`
        """
        return _with_slot_checked(self._decoded(data, self._pushed))

    def decode_text(self, data: bytes) -> Request:
        """Return the request in *data*, which :meth:`encode_text` made: nothing but a JSON object with a ``url``.

        :raises Unreadable: as :meth:`decode`, and if it is compressed, pickled, or larger than 64 MiB
        """
        return _with_slot_checked(self._decoded(data, self._fields))

    def decode_any(self, data: bytes) -> Request:
        """Return the request in *data*: what :meth:`encode` made, or PUSHED and what somebody pushed.

        :raises Unreadable: as :meth:`decode`
        """
        return self.decode_pushed(data[1:]) if data[:1] == PUSHED else self.decode(data)

    def _decoded(self, data: bytes, fields: Callable[[bytes], dict[str, Any]]) -> Request:
        meta = None
        try:
            values = fields(data)
            meta = values.get("meta")
            return self._request(values)
        except ValueError as error:
            raise Unreadable(str(error), meta) from error
        except Exception as error:  # anybody may push this data, and a Request class may raise anything
            raise Unreadable(f"{type(error).__name__}: {error}", meta) from error

    def _stored(self, data: bytes) -> dict[str, Any]:
        if data[:1] == b"p":
            if not self._use_pickle:
                raise ValueError("it is pickled, and STATE_REDIS_PICKLE is False")
            unpickled: dict[str, Any] = pickle.loads(data[1:])
            return unpickled
        return self._pushed(unpacked(data))

    def _pushed(self, data: bytes) -> dict[str, Any]:
        text = data.decode("utf-8", "surrogatepass").strip()
        if not text.startswith("{"):
            return {"url": text}
        return self._fields(text)

    def _fields(self, text: str | bytes) -> dict[str, Any]:
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it has {len(text):,} bytes; at most {_MOST_BYTES:,} are allowed")
        values = self._values.read(json.loads(text))
        if not isinstance(values, dict) or not isinstance(values.get("url"), str):
            raise ValueError("it is a JSON object without a url")
        return values

    def _request(self, values: dict[str, Any]) -> Request:
        cls = self._classes.find(values["_class"]) if "_class" in values else Request
        if not issubclass(cls, Request):
            raise ValueError(f"{values['_class']!r} is not a Request class")
        arguments = {name: value for name, value in values.items() if name in cls.attributes}
        for name in ("callback", "errback"):
            if arguments.get(name):
                arguments[name] = self._method(arguments[name])
        return cls(**arguments)

    def _method(self, name: Any) -> Any:
        """Return the spider's method *name*; asks no property, and gives out none that Scrapy itself calls.

        :raises ValueError: if the spider has no such callback
        """
        if not isinstance(name, str) or not (name in self._callbacks or self._is_callable(name)):
            raise ValueError(f"{type(self._spider).__name__} has no callback {name!r}")
        method = getattr(self._spider, name)
        if getattr(method, "__self__", None) is not self._spider:
            raise ValueError(f"{type(self._spider).__name__} has no callback {name!r}")
        self._callbacks.add(name)
        return method

    def _is_callable(self, name: str) -> bool:
        is_scrapys = name.startswith("__") or (hasattr(Spider, name) and name not in _CALLBACKS)
        found = inspect.getattr_static(self._spider, name, None)
        # A partial in a class is no method; Python 3.13 warns when it is looked up, and 3.14 takes it for one.
        return not is_scrapys and callable(found) and not isinstance(found, partial)

    def _text(self, values: dict[str, Any], encoder: json.JSONEncoder) -> bytes:
        try:
            return encoder.encode(self._values.write(values)).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def _prove(self, request: Request, text: bytes) -> None:
        """Raise ValueError if *text* is too large, or does not come back as a request of the same class."""
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it has {len(text):,} bytes; at most {_MOST_BYTES:,} are allowed")
        if type(request) not in self._proved:
            if type(self.decode(text)) is not type(request):
                raise ValueError(f"{type(request)} can't be imported by its name")
            self._proved.add(type(request))

    def _note(self, values: dict[str, Any]) -> None:
        if callback := values.get("callback"):
            self._used.add(("callback", callback))
        if errback := values.get("errback"):
            self._used.add(("errback", errback))
        if "_class" in values:
            self._used.add(("class", values["_class"]))
        if self._classes.used:
            self._used.update(("class", path) for path in self._classes.used)

    def _as_dict(self, request: Request) -> dict[str, Any]:
        if type(request).to_dict is not Request.to_dict:
            return request.to_dict(spider=self._spider)
        # Like Request.to_dict(), which searches the whole spider for each callback; without attributes that have their default.
        values: dict[str, Any] = {"url": request.url}
        whole = type(request) is not Request
        for name in request.attributes:
            if name in ("url", "callback", "errback") or (not whole and is_unset(request, name)):
                continue
            value = getattr(request, name)
            if whole or value != _USUAL.get(name):
                values[name] = value
        for name in ("callback", "errback"):
            function = getattr(request, name)
            if function is not None:
                values[name] = self._method_name(request, name, function) if callable(function) else function
        if whole:
            values["_class"] = f"{type(request).__module__}.{type(request).__name__}"
        return values

    def _method_name(self, request: Request, which: str, function: Any) -> str:
        if getattr(function, "__self__", None) is not self._spider:
            raise ValueError(f"Function {function} is not an instance method in: {self._spider}")
        key = function.__func__
        if key not in self._names:
            name = function.__name__
            if getattr(self._spider, name, None) != function:  # Python mangles the names of private methods
                name = self._static_name(key) or Request.to_dict(request, spider=self._spider)[which]
            self._method(name)
            self._names[key] = name
        return self._names[key]

    def _static_name(self, function: Any) -> str | None:
        """Return the name of *function* in the spider's class. Request.to_dict() would read all properties of the spider."""
        cls = type(self._spider)
        return next((name for name in dir(cls) if inspect.getattr_static(cls, name, None) is function), None)


def _with_slot_checked(request: Request) -> Request:
    slot = request.meta.get("download_slot")
    if not isinstance(slot, (str, type(None))):  # Scrapy's queues would raise
        raise Unreadable(f'meta["download_slot"] is a {type(slot).__name__}; it must be text', request.meta)
    return request


def unpacked(data: bytes) -> bytes:
    """Return the text of a stored request.

    :raises ValueError: if it is cut off, or has more than 64 MiB
    """
    if data[:1] != b"z":
        return data
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data[1:], _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError(f"it is cut off, or unpacks to more than {_MOST_BYTES:,} bytes")
    return text


def _pickled(values: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps(values, protocol=4)
    except Exception as error:  # pickling runs the objects' own code, which may raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from error
