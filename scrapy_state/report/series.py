"""How a crawl developed over time. Takes the same memory however many checkpoints there are. Knows no pictures."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from ..lineage.history import StateFile
from ..model.checkpoint import Checkpoint
from ..model.times import moment
from .fields import Field, leaves, number_of, value_of

#: How many points a line and how many bars a plot has at most
_POINTS, _BARS = 600, 120
#: How many fields of a state are followed
_FIELDS = 50
#: Rates cover the newest checkpoints: at most this many seconds and this many checkpoints, as in ``scrapy state watch``
_RECENT_SECONDS, _RECENT_CHECKPOINTS = 600, 200
_INTERVALS, _LONGEST, _LISTED = 1000, 20, 20

Values = dict[str, float]


class Point(NamedTuple):
    """A checkpoint in a plot.

    :param at: its position on the axis
    :param items: how many items its lineage has; *values*: the fields of its state
    :param pending: how many requests are pending, and *seen*: how many have been seen; None if it has no requests
    """

    at: float
    items: int
    values: Values
    pending: int | None = None
    seen: int | None = None


@dataclass
class Bucket:
    """One stretch of time or, if the checkpoints carry no times, of their order.

    :param longest: the longest time between two checkpoints of a run, in seconds
    :param point: the newest checkpoint of the lineage
    :param side: the same for another branch
    """

    items: float = 0
    longest: float = 0
    point: Point | None = None
    side: Point | None = None


class Buckets:
    """Stretches of time that become wider when there are too many of them."""

    def __init__(self) -> None:
        self.width = 1.0
        self.by_index: dict[int, Bucket] = {}

    def at(self, x: float) -> Bucket:
        """Return the bucket at *x*."""
        while len(self.by_index) > _POINTS:
            self._widen()
        return self.by_index.setdefault(math.floor(x / self.width), Bucket())

    def spread(self, start: float, end: float, items: int) -> None:
        """Count *items* that were stored evenly from *start* to *end*."""
        while (end - start) / self.width > _POINTS:
            self._widen()
        at = start
        while at < end:
            edge = min(end, (math.floor(at / self.width) + 1) * self.width)
            self.at(at).items += items * (edge - at) / (end - start)
            at = edge

    def _widen(self) -> None:
        self.width *= 2
        before, self.by_index = self.by_index, {}
        for index in sorted(before, reverse=True):
            old, new = before[index], self.by_index.setdefault(index // 2, Bucket())
            new.items += old.items
            new.longest = max(new.longest, old.longest)
            new.point, new.side = new.point or old.point, new.side or old.side

    def bars(self) -> list[tuple[float, float, Bucket]]:
        """Return the start, the end and the bucket of each bar; empty bars are left out."""
        if not self.by_index:
            return []
        wider = Buckets()
        wider.width, wider.by_index = self.width, dict(self.by_index)
        while max(wider.by_index) - min(wider.by_index) >= _BARS:
            wider._widen()
        return [(index * wider.width, (index + 1) * wider.width, wider.by_index[index]) for index in sorted(wider.by_index)]


class Gap(NamedTuple):
    """A time without a checkpoint.

    :param run: the run it is in; None if it is between two runs
    """

    seconds: float
    start: float
    end: float
    run: str | None


@dataclass
class Series:
    """What is known of all checkpoints. They are noted newest first, as they are read.

    :param newest: the checkpoint whose lineage is the main line; None if there is no checkpoint
    :param oldest: the oldest checkpoint of that lineage, as a point
    :param with_requests: *newest* or, if that has no requests (its crawl is over), its parent, if that has some
    :param start: the position of the first checkpoint on the axis; *end*: of the last
    """

    newest: Checkpoint | None
    checkpoints: int = 0
    without_time: int = 0
    clock_back: int = 0
    buckets: Buckets = field(default_factory=Buckets)
    fields: list[Field] = field(default_factory=list)
    listed: list[Checkpoint] = field(default_factory=list)
    overlaps: list[int | None] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    damaged_count: int = 0
    oldest: Point | None = None
    with_requests: Checkpoint | None = None
    start: float | None = None
    end: float | None = None
    _recent: list[Point] = field(default_factory=list)
    _intervals: list[float] = field(default_factory=list)
    _gaps: dict[bool, list[Gap]] = field(default_factory=lambda: {True: [], False: []})
    _child: Checkpoint | None = None
    _wanted: int | None = None

    def __post_init__(self) -> None:
        #: whether the checkpoints carry times; if not, their order replaces it
        self.has_times = self.newest is not None and moment(self.newest.time) is not None
        if self.newest is not None:
            self._wanted = self.newest.id
            for name, value in leaves(self.newest.state):
                number = number_of(value)
                if number is not None and len(self.fields) < _FIELDS:
                    self.fields.append(Field(name, isinstance(value, str), number))

    def noting(self, state_files: Iterable[StateFile]) -> Iterator[StateFile]:
        """Note each state file and pass it on."""
        for file in state_files:
            if file.checkpoint is not None:
                self._note(file.checkpoint)
            else:
                self.damaged_count += 1
                if len(self.damaged) < _LISTED:
                    self.damaged.append((file.uri, file.why or ""))
            yield file

    def _note(self, checkpoint: Checkpoint) -> None:
        self.checkpoints += 1
        if len(self.listed) < _LISTED:
            self.listed.append(checkpoint)
        if checkpoint.overlap and len(self.overlaps) < _LISTED:
            self.overlaps.append(checkpoint.id)
        x = moment(checkpoint.time)
        self.without_time += x is None
        if not self.has_times:
            x = -float(self.checkpoints)
        in_lineage = checkpoint.id is None or checkpoint.id == self._wanted
        if in_lineage:
            self._wanted = checkpoint.parent
            self._note_requests(checkpoint)
        if x is None:
            return
        point = self._point(checkpoint, x, in_lineage)
        bucket = self.buckets.at(x)
        if in_lineage:
            self.oldest = point
            bucket.point = bucket.point or self.oldest
        else:
            bucket.side = bucket.side or point
        self.start = x if self.start is None else min(x, self.start)
        self.end = x if self.end is None else max(x, self.end)
        if self.has_times:
            self._note_interval(checkpoint, x)
            if in_lineage:
                self._note_recent(checkpoint, point)
            self._child = checkpoint

    def _note_requests(self, checkpoint: Checkpoint) -> None:
        assert self.newest is not None
        is_near = checkpoint.id == self.newest.id or (self.newest.is_over and checkpoint.id == self.newest.parent)
        if is_near and checkpoint.requests is not None:
            self.with_requests = self.with_requests or checkpoint

    def _point(self, checkpoint: Checkpoint, x: float, in_lineage: bool) -> Point:
        point, requests = Point(x, checkpoint.items, self._values(checkpoint, in_lineage)), checkpoint.requests
        return point if requests is None else point._replace(pending=requests.pending, seen=requests.seen)

    def _values(self, checkpoint: Checkpoint, in_lineage: bool) -> Values:
        values = {}
        for state_field in self.fields:
            value = value_of(checkpoint.state, state_field.name)
            number = number_of(value)
            if number is not None and isinstance(value, str) == state_field.is_time:
                values[state_field.name] = number
                if in_lineage:
                    state_field.note(number)
        return values

    def _note_interval(self, checkpoint: Checkpoint, x: float) -> None:
        """Note the time from *checkpoint*, at *x*, to the one noted before it, which is newer."""
        child, at = self._child, moment(self._child.time) if self._child else None
        if child is None or at is None:
            return
        seconds = at - x
        items = sum(file.counted for file in child.files)
        same_run = child.run == checkpoint.run
        if seconds < 0:
            self.clock_back += 1
        elif same_run and len(self._intervals) < _INTERVALS and child.reason is None:
            self._intervals.append(seconds)
        longest = self._gaps[same_run]
        heapq.heappush(longest, Gap(seconds, x, at, child.run if same_run else None))
        if len(longest) > _LONGEST:
            heapq.heappop(longest)
        if same_run:
            bucket = self.buckets.at(at)
            bucket.longest = max(bucket.longest, seconds)
        if items and same_run and seconds > 0:
            self.buckets.spread(x, at, items)
        elif items:
            self.buckets.at(at).items += items

    def _note_recent(self, checkpoint: Checkpoint, point: Point) -> None:
        assert self.newest is not None
        newest = self._recent[0].at if self._recent else point.at
        is_recent = newest - point.at < _RECENT_SECONDS and len(self._recent) < _RECENT_CHECKPOINTS
        if checkpoint.run == self.newest.run and point.at <= newest and (is_recent or len(self._recent) < 2):
            self._recent.append(point)

    @property
    def typical_seconds(self) -> float | None:
        """The median time between two recent checkpoints of a run; None if unknown."""
        return median(self._intervals) if self._intervals else None

    @property
    def gaps(self) -> list[Gap]:
        """The longest times without a checkpoint, newest first.

        Only gaps of a minute or more count; within a run, only those that are more than ten times as long as usual.
        """
        usual = self.typical_seconds or 0
        candidates = [*self._gaps[False], *(gap for gap in self._gaps[True] if gap.seconds > 10 * usual > 0)]
        return sorted((gap for gap in candidates if gap.seconds >= 60), key=lambda gap: -gap.start)

    @property
    def items_per_minute(self) -> float | None:
        """The rate over the last minutes of the newest run; None if unknown."""
        first, last = (self._recent[-1], self._recent[0]) if self._recent else (None, None)
        if first is None or last is None or last.at <= first.at:
            return None
        return (last.items - first.items) / (last.at - first.at) * 60

    def speed(self, name: str) -> float | None:
        """Return by how much a field grew in a second, over the last minutes of the newest run; None if unknown."""
        known = [point for point in self._recent if name in point.values]
        if len(known) < 2 or known[0].at <= known[-1].at:
            return None
        return (known[0].values[name] - known[-1].values[name]) / (known[0].at - known[-1].at)

    def plotted(self, count: int = 3) -> list[Field]:
        """Return the fields that make progress; if none does, one that changes at all."""
        changing = sorted(filter(attrgetter("changes"), self.fields), key=attrgetter("progress"), reverse=True)
        return [state_field for state_field in changing if state_field.progress > 0.5][:count] or changing[:1]
