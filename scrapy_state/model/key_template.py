"""A feed URI template and the keys it stands for, in their order. Pure: no I/O."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import merge
from typing import Any

from ..exceptions import StateSettingsError

#: As in Scrapy (extensions/feedexport.py, _FEED_URI_PLACEHOLDER_RE): any other percent sign is text.
_PLACEHOLDER = re.compile(r"%\(([^)]+)\)([-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?[diouxXeEfFgGcrsa])")
#: Placeholders whose value differs between runs or batches
VARYING = frozenset({"batch_id", "batch_time", "time", "run_id"})
#: The times that Scrapy fills in (extensions/feedexport.py, _get_uri_params); they are UTC. One batch_time in a million has no
#: microseconds and doesn't match. That is better than to match another feed's file.
_REAL_TIME = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}%s[+]00-00"
_REAL_TIMES = {"time": _REAL_TIME % "", "batch_time": _REAL_TIME % "[.][0-9]{6}"}
#: The name of a roll-up of pruned checkpoints, after the prefix of their keys: the ids of its first and last checkpoint, and
#: the text that distinguishes it from roll-ups of other spiders with the same prefix
ROLLUP_NAME = r"rollup-([0-9]{10,})-([0-9]{10,})([^/]*)\.tar\.gz"
#: The keys of what checkpoints name beside item files, after the prefix of the state files, unless a setting says otherwise:
#: segments (frontier/segments/), runs of keys (delta/), files and objects (kept/)
_STORED_KEY = (
    r"[^/]*(?:requests/[^/]*\.tsv\.gz|delta/[^/]*\.keys|objects/[^/]*\.jsonl\.gz|(?:files|objects)/[0-9a-f]{64}(?:-[^/]*)?)"
)
#: What follows the key of checkpoint 0, which never exists, in the key of a signpost: an id and a digest
_SIGNPOST = r"\.newest-([0-9]{10,})-([0-9a-f]{64})"
#: The largest id that array("Q") can hold
_MOST_ID = 2**64 - 1
#: How many ids are sorted at once: a list of them takes five times the memory of an array
_SLICE = 50_000
_ZERO_PADDED = re.compile(r"0+([1-9][0-9]*)[di]")


def without_credentials(uri: str) -> str:
    """Return *uri* (or a template of one) without user and password."""
    scheme, separator, rest = uri.partition("://")
    if not separator or "@" not in rest:
        return uri
    authority, _, _ = rest.partition("/")
    # If a password has a slash that is not percent-encoded, a part of it takes the place of the port, and is not a number.
    if "@" in authority or not re.fullmatch(r"[^:]*(:[0-9]*)?", authority):
        rest = authority.rpartition("@")[2] + rest[len(authority) :] if "@" in authority else rest.rpartition("@")[2]
    return f"{scheme}://{rest}"


def placeholders(template: str) -> set[str]:
    """Return the names of the placeholders in a feed URI template."""
    return {match[1] for match in _PLACEHOLDER.finditer(template)}


def before_varying(template: str) -> str:
    """Return the part of a feed URI template that is the same in all runs and batches: what precedes what varies."""
    first = next((match for match in _PLACEHOLDER.finditer(template) if match[1] in VARYING), None)
    return template if first is None else template[: first.start()]


def begins_with_run_id(template: str) -> bool:
    """Whether ``%(run_id)s`` is the first varying placeholder in a feed URI template, so that keys show whose files they are.

    A shortened run id (``%(run_id).8s``) doesn't distinguish a run's files from another run's.
    """
    first = next((match.groups() for match in _PLACEHOLDER.finditer(template) if match[1] in VARYING), None)
    return first == ("run_id", "s")


@dataclass(frozen=True)
class Placeholder:
    """A placeholder that varies. *format*: as in ``%(name)010d``, without the percent sign and the name."""

    name: str
    format: str

    @property
    def pattern(self) -> str:
        """A regular expression for its values."""
        if self.name != "batch_id":
            return "[^/]+?"
        padded = _ZERO_PADDED.fullmatch(self.format)
        return f"(?:[0-9]{{{padded[1]}}}|[1-9][0-9]{{{padded[1]},}})" if padded else "[0-9]+"

    @property
    def exact_pattern(self) -> str:
        """As :attr:`pattern`; for a time, it matches only real times."""
        return _REAL_TIMES.get(self.name, self.pattern)


@dataclass(frozen=True)
class KeyTemplate:
    """The keys of a state feed.

    :param prefix: the text with which every key begins
    :param rest: what follows it; empty for a bare prefix, which stands for every key under it
    """

    prefix: str
    rest: tuple[str | Placeholder, ...] = ()

    @classmethod
    def parse(cls, template: str, params: Mapping[str, Any], varying: frozenset[str] = VARYING) -> KeyTemplate:
        """Read a feed URI template. *params* fill all placeholders that are not *varying*.

        :raises StateSettingsError: for a placeholder that neither varies nor is in *params*
        """
        parts: list[str | Placeholder] = [""]
        last = 0
        for match in _PLACEHOLDER.finditer(template):
            name, format = match.groups()
            _add(parts, template[last : match.start()])
            last = match.end()
            if name in varying:
                parts.append(Placeholder(name, format))
            elif name in params:
                try:
                    _add(parts, f"%(value){format}" % {"value": params[name]})
                except (TypeError, ValueError) as error:
                    raise StateSettingsError(
                        f"the URI {without_credentials(template)!r}: %({name}){format} can't be filled in: {error}"
                    ) from error
            else:
                raise StateSettingsError(
                    f"the URI {without_credentials(template)!r} has %({name}){format}, but the spider has no attribute "
                    f"{name!r} that can be read",
                    remedy=f"give it one (-a {name}=…) or remove the placeholder",
                )
        _add(parts, template[last:])
        return cls(str(parts[0]), tuple(parts[1:]))

    @classmethod
    def of_any_run(cls, template: str, spider: str | None) -> KeyTemplate:
        """Return the keys that a feed may have given its files in any run, with any spider arguments.

        :param template: the feed's URI template
        :param spider: the spider's name; None: a ``uri_params`` function may have filled in anything
        """
        known = {} if spider is None else {"name": spider}
        parsed = cls.parse(template, known, frozenset(placeholders(template)) - known.keys())
        return replace(parsed, rest=tuple(_widened(part, spider is None) for part in parsed.rest))

    def under(self, prefix: str) -> KeyTemplate:
        """Return the template with another prefix: a store's key instead of a URI."""
        return replace(self, prefix=prefix)

    @property
    def writable(self) -> bool:
        """Whether its only varying placeholder is one zero-padded ``%(batch_id)``."""
        varying = [part for part in self.rest if isinstance(part, Placeholder)]
        return len(varying) == 1 and varying[0].name == "batch_id" and bool(_ZERO_PADDED.fullmatch(varying[0].format))

    @property
    def width(self) -> int:
        """How many digits an id has at least in the keys. Only for a :attr:`writable` template."""
        [batch_id] = [part for part in self.rest if isinstance(part, Placeholder)]
        return int(batch_id.format.rstrip("di"))

    @property
    def depth(self) -> int:
        """How many slashes the keys have after the prefix; 0 for a bare prefix."""
        return sum(part.count("/") for part in self.rest if isinstance(part, str))

    def key(self, id: int) -> str:
        """Return the key of checkpoint *id* (1 and up). Only for a :attr:`writable` template."""
        filled = (part if isinstance(part, str) else f"%(id){part.format}" % {"id": id} for part in self.rest)
        return self.prefix + "".join(filled)

    def id_of(self, key: str) -> int | None:
        """Return the checkpoint id in *key*; None if it isn't one of these keys, or the template has no ``%(batch_id)``."""
        match = self._pattern.fullmatch(key)
        return int(match["batch_id"]) or None if match and "batch_id" in match.groupdict() else None

    def signpost(self, id: int, digest: str) -> str:
        """Return the key of the signpost to checkpoint *id*, which has this *digest*. It sorts just before all checkpoints.

        Only for a :attr:`writable` template.
        """
        return f"{self.key(0)}.newest-{id:010d}-{digest.removeprefix('sha256:')}"

    def signposted(self, key: str) -> tuple[int, str] | None:
        """Return the id and the digest of the checkpoint to which the signpost *key* points; None if it is no signpost."""
        match = re.fullmatch(re.escape(self.key(0)) + _SIGNPOST, key)
        return (int(match[1]), f"sha256:{match[2]}") if match else None

    def time_in(self, key: str) -> str | None:
        """Return the time in *key* (``%(batch_time)s``, ``%(time)s``) in ISO 8601; None if it has none."""
        match = self._pattern.fullmatch(key)
        values = match.groupdict() if match else {}
        text = values.get("batch_time") or values.get("time")
        return text and text[:10] + text[10:].replace("-", ":")  # Scrapy writes isoformat() with "-" for ":"

    def like(self, key: str, id: int) -> KeyTemplate:
        """Return the template of keys like *key*, in which the last zero-padded number is the checkpoint *id*; else itself."""
        for match in reversed(list(re.finditer("[0-9]+", key))):
            if int(match[0]) == id and match[0].startswith("0"):
                rest = (Placeholder("batch_id", f"0{len(match[0])}d"), key[match.end() :])
                return KeyTemplate(key[: match.start()], rest if rest[1] else rest[:1])
        return self

    def run_of(self, key: str) -> str | None:
        """Return the run id in *key*; None if the key doesn't :meth:`fit <fits>`, or the template has no ``%(run_id)s``."""
        match = self._exact_pattern.fullmatch(key)
        return match.groupdict().get("run_id") if match else None

    def fits(self, key: str) -> bool:
        """Whether *key* is one of these keys, and every time in it is a real time."""
        return bool(self._exact_pattern.fullmatch(key))

    def in_order(self, keys: Iterable[str]) -> Sequence[str]:
        """Return the keys that fit the template, oldest first. Others are left out.

        That takes 8 bytes for each if the template is :attr:`writable`: there may be a million.
        """
        if self.writable:
            ids, huge = array("Q"), []
            for id in filter(None, map(self.id_of, keys)):
                ids.append(id) if id <= _MOST_ID else huge.append(id)
            of_ids = _KeysOfIds(self, _in_order(ids))
            return [*of_ids, *map(self.key, sorted(huge))] if huge else of_ids

        def position(key: str) -> tuple[list[tuple[int, str]], str]:
            match = self._pattern.fullmatch(key)
            groups = match.groupdict() if match else {}
            return [(int(text), "") if name == "batch_id" else (0, text) for name, text in groups.items()], key

        return sorted((key for key in keys if self._pattern.fullmatch(key)), key=position)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return self._compiled(lambda placeholder: placeholder.pattern)

    @cached_property
    def _exact_pattern(self) -> re.Pattern[str]:
        return self._compiled(lambda placeholder: placeholder.exact_pattern)

    def _compiled(self, pattern_of: Callable[[Placeholder], str]) -> re.Pattern[str]:
        seen: set[str] = set()
        parts = [re.escape(self.prefix)]
        # Under a bare prefix there are roll-ups, and the files that checkpoints name, too.
        for part in self.rest or (rf"(?!(?:.*/)?(?:{ROLLUP_NAME}|{_STORED_KEY}|[^/]*{_SIGNPOST})\Z).*",):
            if isinstance(part, str):
                parts.append(re.escape(part) if self.rest else part)
            else:
                pattern = pattern_of(part)
                parts.append(pattern if part.name in seen else f"(?P<{part.name}>{pattern})")
                seen.add(part.name)
        return re.compile("".join(parts), re.DOTALL)


class _KeysOfIds(Sequence[str]):
    """The keys of *ids*, which ascend."""

    def __init__(self, template: KeyTemplate, ids: array[int]) -> None:
        self._template, self._ids = template, ids

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, key: object) -> bool:
        id = self._template.id_of(str(key)) or 0
        at = bisect_left(self._ids, id)
        return at < len(self._ids) and self._ids[at] == id

    def __getitem__(self, at: Any) -> Any:
        return _KeysOfIds(self._template, self._ids[at]) if isinstance(at, slice) else self._template.key(self._ids[at])


def _in_order(ids: array[int]) -> array[int]:
    slices = (sorted(ids[at : at + _SLICE]) for at in range(0, len(ids), _SLICE))
    return array("Q", merge(*(array("Q", each) for each in slices)))


def _widened(part: str | Placeholder, always: bool) -> str | Placeholder:
    if isinstance(part, str):
        return part
    is_shortened_time = part.name in _REAL_TIMES and part.format != "s"
    return Placeholder("any", "s") if always or part.name not in VARYING or is_shortened_time else part


def _add(parts: list[str | Placeholder], text: str) -> None:
    if isinstance(parts[-1], str):
        parts[-1] += text
    elif text:
        parts.append(text)
