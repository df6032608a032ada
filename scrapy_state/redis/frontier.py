"""A job's frontier in Redis, as one worker sees it: exchange.lua with names. Knows no Scrapy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..exceptions import StoreError, StoreUnreachable

if TYPE_CHECKING:
    from .connection import Connection

#: How much one exchange may bring or take, so that it takes neither Redis nor the line long. A single request may be larger.
MOST_BYTES = 1 << 18
NO_LIMIT = 1 << 30


class FrontierGone(StoreError):
    """The job's data is not in Redis as it was: it was cleared, or Redis has come back without the newest of what it held."""


@dataclass(frozen=True)
class NewRequest:
    """A request on its way to Redis.

    :param data: it, encoded
    :param fingerprint: b"" if no duplicate check is wanted
    :param slot: its download slot
    :param origin: what it was made of
    :param unit: the unit of state that it counts for, if it does for one
    """

    data: bytes
    fingerprint: bytes
    priority: int
    is_start: bool
    slot: str
    origin: Any = field(default=None, repr=False)
    unit: str | None = None

    @property
    def element(self) -> bytes:
        """As exchange.lua wants it."""
        return f"{int(self.priority)}{'s' if self.is_start else ''} {slot_name(self.slot)}\n".encode() + self.data


@dataclass(frozen=True)
class Reply:
    """What came of an exchange.

    :param lost: whether this worker's leases had been taken from it, because its heartbeat stopped
    :param refused: how many acknowledgements came after somebody else had finished the page
    :param pending: how many requests wait
    :param others: how many other workers there are
    :param others_busy: how many requests they have at work
    :param others_open: how many leases they have that are not acknowledged: at work, or done and not durable
    :param vanished: how many requests are gone because somebody has removed keys
    :param duplicates: for each new request, whether it is one
    :param come_back: how many leases of dead workers came back
    :param pushed_type: what is where others push to, if it is nothing that can be read
    :param all_fatal: how many pages are set aside, because their workers died
    :param fatal: lease ids with requests: which of them were just now
    :param leased: lease ids with requests
    """

    lost: bool = False
    refused: int = 0
    pending: int = 0
    others: int = 0
    others_busy: int = 0
    others_open: int = 0
    vanished: int = 0
    duplicates: list[bool] = field(default_factory=list)
    come_back: int = 0
    pushed_type: str = ""
    all_fatal: int = 0
    fatal: list[tuple[int, bytes]] = field(default_factory=list, repr=False)
    leased: list[tuple[int, bytes]] = field(default_factory=list, repr=False)


@dataclass
class Frontier:
    """One worker's way to the frontier.

    :param prefix: what the job's keys begin with
    :param worker: this worker's name, unique
    :param lease_seconds: after how long without an exchange its leases come back
    :param first_out: whether requests leave first in, first out; *start_first_out*: the same for start requests
    :param most_deliveries: a page whose worker has died that many times before it was done is set aside; 2 or more
    :param pushed_key: where others push what is to be crawled; empty: the prefix and "urls"
    :param expiring: keys (without the prefix) that Redis removes by itself, a minute after an exchange
    :param number: how many exchanges had a reply; *attempt*: how often one was sent
    :param incarnation: what tells this frontier from one that was cleared and made again
    """

    connection: Connection
    prefix: str
    worker: str
    lease_seconds: float
    first_out: bool = False
    start_first_out: bool = True
    most_deliveries: int = 3
    pushed_key: str = ""
    expiring: Sequence[str] = ()
    number: int = 0
    attempt: int = 0
    incarnation: bytes = b""

    async def exchange(
        self,
        mode: str = "go on",
        *,
        new: Sequence[NewRequest] = (),
        acknowledged: Sequence[int] = (),
        done: Sequence[int] = (),
        unreadable: Sequence[int] = (),
        wanted: int = 0,
        most_bytes: int = MOST_BYTES,
        rooms: Mapping[str, int] = MappingProxyType({}),
        other_room: int = NO_LIMIT,
        hidden: int = 0,
    ) -> Reply:
        """Send *new* requests and acknowledgements, get up to *wanted* leases, say that this worker is alive.

        A call that failed must be repeated with the same requests and ids and ``mode="again"``, until it does not.

        :param mode: "open", "go on", "again" or "close"
        :param done: leases whose requests are done since the last exchange; they are acknowledged later
        :param unreadable: leases that are no requests: they are set aside
        :param most_bytes: how much may be leased; a single request may be larger
        :param rooms: how many requests to lease by download slot, *other_room*: of any other slot
        :param hidden: how many requests are at work here that Redis does not know of
        :raises FrontierGone: if the job's data is not there, or older than this worker has seen it
        :raises StoreError: as :meth:`Connection.exchange`
        """
        self.attempt += 1
        arguments: list[Any] = [
            *(self.prefix, self.worker, self.incarnation, self.number + 1, self.attempt, mode),
            *(int(self.lease_seconds * 1000), wanted, most_bytes),
            *("first" if first else "last" for first in (self.first_out, self.start_first_out)),
            *(hidden, self.most_deliveries, other_room, len(acknowledged), len(done), len(unreadable), len(rooms), len(new)),
            *(*acknowledged, *done, *unreadable),
        ]
        for slot, room in rooms.items():
            arguments += (slot_name(slot), room)
        for request in new:
            arguments += (request.fingerprint, request.element)
        raw = await self.connection.exchange(self._keys, arguments)
        self._check(raw[0])
        self.number += 1
        self.incarnation = raw[1]
        return _reply(raw)

    @property
    def _keys(self) -> list[str]:
        return [f"{self.prefix}meta", self.pushed_key or f"{self.prefix}urls", *(self.prefix + part for part in self.expiring)]

    def _check(self, answer: bytes) -> None:
        """Raise the error that *answer*, the first part of exchange.lua's reply, stands for, if it stands for one."""
        if answer == b"gone":
            raise FrontierGone(
                f"STATE_REDIS_URL: the frontier {self.prefix!r} is gone, or older than it was: it was cleared, or Redis was "
                "restarted without the newest of what it held (no appendonly), or another one has taken over. Start the "
                "crawl again: it goes on with what is there"
            )
        if answer == b"late":
            raise StoreUnreachable(f"STATE_REDIS_URL: the exchange {self.number + 1} arrived twice")


def _reply(raw: list[Any]) -> Reply:
    """Return what exchange.lua replied, with names."""
    _, _, lost, *counts, duplicates, come_back, pushed_type, all_fatal, fatal_count = raw[:14]
    refused, pending, others, others_busy, others_open, vanished = counts
    first_leased = 14 + 2 * fatal_count
    return Reply(
        lost=bool(lost),
        refused=refused,
        pending=pending,
        others=others,
        others_busy=others_busy,
        others_open=others_open,
        vanished=vanished,
        duplicates=[flag == ord("1") for flag in duplicates],
        come_back=come_back,
        pushed_type=pushed_type.decode(),
        all_fatal=all_fatal,
        fatal=_requests(raw[14:first_leased]),
        leased=_requests(raw[first_leased:]),
    )


def slot_name(slot: str) -> str:
    """Return *slot* as it stands in elements and keys."""
    return slot.replace("\n", " ")


def _requests(raw: list[Any]) -> list[tuple[int, bytes]]:
    return [(int(id), element.partition(b"\n")[2]) for id, element in zip(raw[::2], raw[1::2], strict=True)]
