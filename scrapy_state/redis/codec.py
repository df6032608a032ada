"""A request as bytes and back: JSON, so that who can write to Redis can't run code here."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from typing import Any

from scrapy import Item, Request, Spider
from scrapy.http.headers import Headers
from scrapy.utils.misc import load_object
from scrapy.utils.request import request_from_dict

#: Below this compression does not pay.
_COMPRESS_BYTES = 400
#: Marks an object that stands for what JSON has not; a dict that has this key itself is marked too.
_MARK = "__scrapy_state__"
#: What a Request has that was given nothing but its URL
_USUAL = {name: getattr(Request("data:,"), name) for name in Request.attributes}


class Unreadable(ValueError):
    """Bytes that are no request of this spider. *meta*: the request's, as far as that could be read."""

    def __init__(self, why: str, meta: Any) -> None:
        super().__init__(why)
        self.meta = meta


class Codec:
    """Turns one spider's requests into bytes and back.

    :param use_pickle: STATE_REDIS_PICKLE: pickle what JSON can't hold. Such bytes run code when they are read
    """

    def __init__(self, spider: Spider, use_pickle: bool = False) -> None:
        self._spider = spider
        self._use_pickle = use_pickle
        self._names: dict[Any, str] = {}
        #: the classes of requests that come back from bytes
        self._proved: set[type] = {Request}

    def encode(self, request: Request) -> bytes:
        """Return *request* as bytes.

        :raises ValueError: if it can't be: a callback that is no method of the spider, an object JSON has no form for, a class
            that can't be imported
        """
        values = self._as_dict(request)
        try:
            text = json.dumps(_plain(values), separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError) as error:
            if not self._use_pickle:
                raise ValueError(str(error)) from error
            return b"p" + _pickled(values)
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
        meta = None
        try:
            values = self._values(data)
            meta = values.get("meta")
            if "_class" in values and not issubclass(_class(values["_class"]), Request):
                raise ValueError(f"{values['_class']!r} is not a Request class")
            return request_from_dict(values, spider=self._spider)
        except ValueError as error:
            raise Unreadable(str(error), meta) from error
        except Exception as error:  # anybody may push what is read here, and a Request's class may raise what it likes
            raise Unreadable(f"{type(error).__name__}: {error}", meta) from error

    def _values(self, data: bytes) -> dict[str, Any]:
        if data[:1] == b"p":
            if not self._use_pickle:
                raise ValueError("it is pickled, and STATE_REDIS_PICKLE is False")
            unpickled: dict[str, Any] = pickle.loads(data[1:])
            return unpickled
        if data[:1] == b"z":
            data = zlib.decompress(data[1:])
        text = data.decode("utf-8", "surrogatepass").strip()
        if not text.startswith("{"):
            return {"url": text}
        values = _restored(json.loads(text))
        if not isinstance(values, dict) or not isinstance(values.get("url"), str):
            raise ValueError("it is a JSON object without a url")
        return values

    def _as_dict(self, request: Request) -> dict[str, Any]:
        if type(request).to_dict is not Request.to_dict:
            return request.to_dict(spider=self._spider)
        # As Request.to_dict(), which looks through all of the spider for each callback, and without what is as ever.
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
            if getattr(self._spider, name, None) != function:  # a private one's name is another within its class
                name = Request.to_dict(request, spider=self._spider)[which]
            self._names[key] = name
        return self._names[key]


def _pickled(values: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps(values, protocol=4)
    except Exception as error:  # pickling runs the objects' own code, which raises what it likes
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _class(path: Any) -> type:
    try:
        found = load_object(path)
    except Exception as error:
        raise ValueError(f"there is no class {path!r}") from error
    if not isinstance(found, type):
        raise ValueError(f"{path!r} is not a class")
    return found


def _class_path(cls: type) -> str:
    """Return where *cls* can be imported from.

    :raises ValueError: if it can't be: a class within another one, or within a function
    """
    path = f"{cls.__module__}.{cls.__qualname__}"
    if _class(path) is not cls:
        raise ValueError(f"{path} is another class")
    return path


def _plain(value: Any) -> Any:
    """Return *value* with nothing in it but what JSON brings back as it was.

    :raises ValueError: if there is no such form for something in it
    """
    kind = type(value)
    if kind in (str, int, float, bool) or value is None:
        return value
    if kind is dict:
        if all(type(key) is str for key in value) and _MARK not in value:
            return {key: _plain(each) for key, each in value.items()}
        return {_MARK: "dict", "v": [[_plain(key), _plain(each)] for key, each in value.items()]}
    if kind is list:
        return [_plain(each) for each in value]
    if kind is bytes:
        try:
            return {_MARK: "ascii", "v": value.decode("ascii")}
        except UnicodeDecodeError:
            return {_MARK: "bytes", "v": base64.b64encode(value).decode()}
    if kind in (tuple, set, frozenset):
        return {_MARK: kind.__name__, "v": [_plain(each) for each in value]}
    if kind is Headers:
        headers = {key: list(each) for key, each in value.items()}
        if all(key.isascii() and all(each.isascii() for each in values) for key, values in headers.items()):
            return {key.decode(): [each.decode() for each in values] for key, values in headers.items()}
        return _plain(headers)
    if isinstance(value, Item):
        return {_MARK: "item", "class": _class_path(kind), "v": _plain(dict(value))}
    raise ValueError(f"JSON has no form for {kind.__module__}.{kind.__qualname__}")


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_MARK)
    if kind is None:
        return {key: _restored(each) for key, each in value.items()}
    inner = value.get("v")
    if kind == "ascii":
        return inner.encode("ascii")  # type: ignore[union-attr]
    if kind == "bytes":
        return base64.b64decode(inner)  # type: ignore[arg-type]
    inner = _restored(inner)
    if kind == "dict":
        return {key: each for key, each in inner}  # noqa: C416 - lists of two
    if kind == "item":
        cls = _class(value.get("class"))
        if not issubclass(cls, Item):
            raise ValueError(f"{value.get('class')!r} is not an Item class")
        return cls(inner)
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](inner)
    raise ValueError(f"{kind!r} is not known")
