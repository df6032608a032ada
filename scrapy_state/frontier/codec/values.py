"""The values in a request's ``meta`` and ``cb_kwargs`` as JSON and back. Pure; reading runs no code of the values.

JSON's own types stay as they are. Anything else becomes ``{"__scrapy_state__": kind, "v": …}``.
"""

from __future__ import annotations

import base64
import dataclasses
import inspect
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import lru_cache
from types import MemberDescriptorType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from scrapy import Item
from scrapy.http.headers import Headers

from .classes import Classes

#: Marks an object that represents a type JSON lacks. A dict that has this key itself is marked, too.
_MARK = "__scrapy_state__"
_EXACT = frozenset({str, int, float, bool, type(None)})
_SEQUENCES: tuple[type, ...] = (tuple, set, frozenset)


class Values:
    """Converts values to JSON's types and back."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._readers: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
            "ascii": lambda v, _: v.encode("ascii"),
            "bytes": lambda v, _: base64.b64decode(v),
            "dict": lambda v, _: {self.read(key): self.read(each) for key, each in v},
            "tuple": lambda v, _: tuple(map(self.read, v)),
            "set": lambda v, _: set(map(self.read, v)),
            "frozenset": lambda v, _: frozenset(map(self.read, v)),
            "date": lambda v, _: date.fromisoformat(v),
            "time": lambda v, form: _in_zone(time.fromisoformat(v), form),
            "datetime": lambda v, form: _in_zone(datetime.fromisoformat(v), form),
            "timedelta": lambda v, _: timedelta(*v),
            "decimal": lambda v, _: Decimal(v),
            "uuid": lambda v, _: UUID(v),
            "enum": lambda v, form: self._class_of(form, Enum).__members__[v],
            "flag": lambda v, form: _flag(self._class_of(form, Flag), v),
            "item": lambda v, form: _item(self._class_of(form, Item), self.read(v)),
            "namedtuple": lambda v, form: _named_tuple(self._class_of(form, tuple), list(map(self.read, v))),
            "object": lambda v, form: _object(self._class_of(form, object), self.read(v)),
        }

    def write(self, value: Any) -> Any:
        """Return *value* in a form that JSON preserves.

        Subclasses of str, int, float, bytes, dict, list, tuple, set and of the date and time types come back as those.

        :raises ValueError: if JSON has no form for something in it
        """
        kind = type(value)
        if kind in _EXACT:
            return value
        if kind is dict:
            if all(type(key) is str for key in value) and _MARK not in value:
                return {key: self.write(each) for key, each in value.items()}
            return _form("dict", [[self.write(key), self.write(each)] for key, each in value.items()])
        if kind is list:
            return [self.write(each) for each in value]
        if kind is bytes:
            return _form("ascii", value.decode("ascii")) if value.isascii() else _form("bytes", _base64(value))
        if kind in _SEQUENCES:
            return _form(kind.__name__, [self.write(each) for each in value])
        if kind is Headers:
            return self._write_headers(value)
        return self._write_object(value, kind)

    def read(self, value: Any) -> Any:
        """Return the value that :meth:`write` converted to *value*.

        :raises Exception: of any kind, if :meth:`write` can't have made it
        """
        if isinstance(value, list):
            return [self.read(each) for each in value]
        if not isinstance(value, dict):
            return value
        if _MARK not in value:
            return {key: self.read(each) for key, each in value.items()}
        kind = value[_MARK]
        if not isinstance(kind, str) or kind not in self._readers:
            raise ValueError(f"{kind!r} is not known")
        return self._readers[kind](value["v"], value)

    def _write_headers(self, headers: Headers) -> Any:
        values = {key: list(each) for key, each in headers.items()}
        if all(key.isascii() and all(each.isascii() for each in several) for key, several in values.items()):
            return {key.decode(): [each.decode() for each in several] for key, several in values.items()}
        return self.write(values)

    def _write_object(self, value: Any, kind: type) -> Any:
        # An Enum may be an int, and a named tuple is a tuple: test for the more specific type first.
        if isinstance(value, Enum):
            return self._write_enum(value, kind)
        if _is_named_tuple(kind):
            return self._of_class(kind, "namedtuple", [self.write(each) for each in tuple.__iter__(value)])
        if isinstance(value, Item):
            return self._of_class(kind, "item", self.write(dict(value)))
        if dataclasses.is_dataclass(kind) or _is_attrs(kind):
            _bare(kind)
            state = _state(value)
            _check_fields(kind, state)
            return self._of_class(kind, "object", self.write(state))
        if isinstance(value, (date, time)):
            return _write_time(value)
        if isinstance(value, timedelta):
            return _form("timedelta", [value.days, value.seconds, value.microseconds])
        if isinstance(value, Decimal):
            return _form("decimal", Decimal.__str__(value))
        if isinstance(value, UUID):
            return _form("uuid", value.hex)
        return self._write_base(value, kind)

    def _write_base(self, value: Any, kind: type) -> Any:
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, dict):
            return self.write(dict(value.items()))
        for base in (list, *_SEQUENCES):
            if isinstance(value, base):
                return self.write(base(value))
        if isinstance(value, bytes):
            return self.write(bytes(memoryview(value)))
        raise ValueError(f"JSON has no form for {kind.__module__}.{kind.__qualname__}")

    def _write_enum(self, value: Enum, kind: type[Enum]) -> Any:
        if value._name_ in kind.__members__:
            return self._of_class(kind, "enum", value._name_)
        if isinstance(value, Flag):
            names = [name for name, each in kind.__members__.items() if each in value and each.value]  # type: ignore[operator]
            if _flag(kind, names) == value:
                return self._of_class(kind, "flag", names)
        raise ValueError(f"JSON has no form for {value!r}")

    def _of_class(self, kind: type, name: str, value: Any) -> dict[str, Any]:
        return {_MARK: name, "class": self._classes.path_of(kind), "v": value}

    def _class_of(self, form: dict[str, Any], base: Any) -> Any:
        found = self._classes.find(form.get("class"))
        if base is object:
            is_one, wanted = dataclasses.is_dataclass(found) or _is_attrs(found), "a dataclass or attrs class"
        elif base is tuple:
            is_one, wanted = _is_named_tuple(found), "a named tuple"
        else:
            is_one, wanted = issubclass(found, base), f"an {base.__name__} class"
        if not is_one:
            raise ValueError(f"{form.get('class')!r} is not {wanted}")
        return found


def _form(kind: str, value: Any) -> dict[str, Any]:
    return {_MARK: kind, "v": value}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _write_time(value: date | time) -> dict[str, Any]:
    if not isinstance(value, (datetime, time)):
        return _form("date", date.isoformat(value))
    kind: Any = datetime if isinstance(value, datetime) else time
    zone = value.tzinfo
    if isinstance(zone, ZoneInfo) and zone.key:
        return {**_form(kind.__name__, kind.isoformat(value.replace(tzinfo=None))), "zone": zone.key, "fold": value.fold}
    if zone is not None and value.utcoffset() is None:
        raise ValueError(f"JSON has no form for a {kind.__name__} whose time zone has no offset")
    return {**_form(kind.__name__, kind.isoformat(value)), "fold": value.fold}


def _in_zone(value: Any, form: dict[str, Any]) -> Any:
    zone = ZoneInfo(form["zone"]) if "zone" in form else value.tzinfo
    return value.replace(tzinfo=zone, fold=form.get("fold", 0))


def _flag(cls: Any, names: list[str]) -> Any:
    found = cls(0)
    for name in names:
        found |= cls.__members__[name]
    return found


def _is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple)


def _named_tuple(cls: Any, values: list[Any]) -> Any:
    if len(values) != len(cls._fields):
        raise ValueError(f"{cls.__qualname__} has {len(cls._fields)} fields now, but {len(values)} are stored")
    return tuple.__new__(cls, values)


def _item(cls: type[Item], values: dict[str, Any]) -> Item:
    item = Item.__new__(cls)
    Item.__init__(item, values)
    return item


# Dataclasses and attrs classes are restored without calling __init__, which may do anything.


def _is_attrs(cls: type) -> bool:
    return hasattr(cls, "__attrs_attrs__")


def _bare(cls: type) -> Any:
    try:
        return object.__new__(cls)
    except TypeError as error:  # it derives from a tuple, an exception, …, or is abstract
        raise ValueError(f"an object of {cls.__module__}.{cls.__qualname__} has more than its fields") from error


@lru_cache(maxsize=1000)
def _slots(cls: Any) -> dict[str, MemberDescriptorType]:
    return {
        name: member for base in reversed(cls.__mro__) for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType)
    }  # fmt: skip


def _state(value: Any) -> dict[str, Any]:
    state = dict(getattr(value, "__dict__", {}))
    cls: Any = type(value)
    for name, slot in _slots(cls).items():
        try:
            state[name] = slot.__get__(value, cls)
        except AttributeError:  # it is not set
            continue
    return state


def _check_fields(cls: Any, state: dict[str, Any]) -> None:
    names = [each.name for each in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else cls.__attrs_attrs__)]
    for name in names:
        default = inspect.getattr_static(cls, name, inspect.Parameter.empty)
        if name not in state and (default is inspect.Parameter.empty or isinstance(default, MemberDescriptorType)):
            raise ValueError(f"{cls.__qualname__} has no value for its field {name!r}")


def _object(cls: Any, state: dict[str, Any]) -> Any:
    found = _bare(cls)
    _check_fields(cls, state)
    slots = _slots(cls)
    for name, value in state.items():
        if name in slots:
            slots[name].__set__(found, value)
        else:
            found.__dict__[name] = value
    return found
