"""A request as bytes and back: JSON, so that nobody who can write to Redis can run code here. Independent of Redis."""

from __future__ import annotations

import inspect
import json
import pickle
import zlib
from collections.abc import Callable
from typing import Any

from scrapy import Request, Spider

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
        own = {cls.__module__.partition(".")[0] for cls in type(spider).__mro__ if cls is not object}
        self._classes = Classes({"scrapy", *own})
        self._values = Values(self._classes)
        #: the request classes that are known to survive encoding
        self._proved: set[type] = {Request}

    def encode(self, request: Request) -> bytes:
        """Return *request* as bytes.

        :raises ValueError: if its callback is not a method of the spider, or it has an object that
            JSON can't hold, or of a class that can't be imported
        """
        values = self._as_dict(request)
        try:
            written = json.dumps(self._values.write(values), separators=(",", ":"), ensure_ascii=False)
            text = written.encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError) as error:
            if not self._use_pickle:
                raise ValueError(str(error)) from error
            return b"p" + _pickled(values)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it has {len(text):,} bytes; at most {_MOST_BYTES:,} are allowed")
        if type(request) not in self._proved:
            if type(self.decode(text)) is not type(request):
                raise ValueError(f"{type(request)} can't be imported by its name")
            self._proved.add(type(request))
        if len(text) < _COMPRESS_BYTES:
            return text
        packed = b"z" + zlib.compress(text, 1)
        return packed if len(packed) < len(text) else text

    def decode(self, data: bytes) -> Request:
        """Return the request in *data*: what :meth:`encode` made, a URL, or a JSON object with a ``url``.

        :raises Unreadable: if it is none of these, or names a method that the spider does not have
        """
        return self._decoded(data, self._stored)

    def decode_pushed(self, data: bytes) -> Request:
        """Return the request that somebody pushed from outside: a URL, or a JSON object with a ``url``. Never pickle.

        :raises Unreadable: as :meth:`decode`
        """
        request = self._decoded(data, self._pushed)
        slot = request.meta.get("download_slot")
        if not isinstance(slot, (str, type(None))):  # Scrapy's queues would raise
            raise Unreadable(f'meta["download_slot"] is a {type(slot).__name__}; it must be text', request.meta)
        return request

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
        return not is_scrapys and callable(inspect.getattr_static(self._spider, name, None))

    def _as_dict(self, request: Request) -> dict[str, Any]:
        if type(request).to_dict is not Request.to_dict:
            return request.to_dict(spider=self._spider)
        # Like Request.to_dict(), which searches the whole spider for each callback; without attributes that have their default.
        values: dict[str, Any] = {"url": request.url}
        whole = type(request) is not Request
        for name in request.attributes:
            value = getattr(request, name)
            if name not in ("url", "callback", "errback") and (whole or value != _USUAL.get(name)):
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
                name = Request.to_dict(request, spider=self._spider)[which]
            self._method(name)
            self._names[key] = name
        return self._names[key]


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
