"""A job's frontier in Redis, as one worker uses it: names for the arguments and the reply of exchange.lua. Knows no Scrapy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..exceptions import StoreError, StoreUnreachable

if TYPE_CHECKING:
    from .connection import Connection

#: The limit of data in one exchange, so that it blocks neither Redis nor the line for long. A single request may be larger.
MOST_BYTES = 1 << 18
NO_LIMIT = 1 << 30


class FrontierGone(StoreError):
    """The frontier is gone, or older than this worker has seen it: somebody cleared it, or Redis lost its newest data."""


@dataclass(frozen=True)
class NewRequest:
    """A request on its way to Redis.

    :param data: the encoded request
    :param fingerprint: b"" if no duplicate check is wanted
    :param slot: its download slot
    :param origin: the Scrapy request
    :param unit: the unit of state that it belongs to, if any
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
        """The request in the form that exchange.lua stores."""
        return f"{int(self.priority)}{'s' if self.is_start else ''} {slot_name(self.slot)}\n".encode() + self.data


@dataclass(frozen=True)
class Reply:
    """The reply to an exchange.

    :param lost: whether other workers got this worker's leases, because its heartbeat had stopped
    :param refused: how many acknowledgements came after another worker had finished the page
    :param pending: how many requests wait
    :param others: how many other workers there are
    :param others_busy: how many requests these are working on
    :param others_open: how many leases these have not acknowledged: being worked on, or done and not durable
    :param vanished: how many requests are gone because somebody removed keys
    :param duplicates: for each new request, whether it is one
    :param come_back: how many leases of dead workers this exchange returned to the queue
    :param pushed_type: the type of the key for pushed URLs, if it can't be read
    :param all_fatal: how many pages are set aside, because their workers died
    :param fatal: those set aside just now: lease ids with requests
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
class FrontierClient:
    """One worker's access to the frontier.

    :param prefix: how all keys of the job begin
    :param worker: this worker's name, unique
    :param lease_seconds: after how long without an exchange its leases expire
    :param first_out: whether requests leave first in, first out; *start_first_out*: the same for start requests
    :param most_deliveries: how many workers may die with a page before it is set aside; 2 or more
    :param pushed_key: the key to which others push URLs; empty: the prefix and "urls"
    :param expiring: keys (without the prefix) that Redis removes by itself a minute after an exchange
    :param number: how many exchanges had a reply; *attempt*: how often one was sent
    :param incarnation: distinguishes this frontier from one that was cleared and made again
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
        capacities: Mapping[str, int] = MappingProxyType({}),
        other_capacity: int = NO_LIMIT,
        hidden: int = 0,
    ) -> Reply:
        """Send *new* requests and acknowledgements, get up to *wanted* leases, and renew this worker's leases.

        If a call fails, repeat it with the same requests and ids and ``mode="again"`` until it succeeds.

        :param mode: "open", "go on", "again" or "close"
        :param done: leases whose requests are done since the last exchange; they are acknowledged later
        :param unreadable: leases that can't be read as requests: they are set aside
        :param most_bytes: how much may be leased; a single request may be larger
        :param capacities: how many requests to lease at most, by download slot; *other_capacity*: of any other slot
        :param hidden: how many requests this worker has that Redis does not know of
        :raises FrontierGone: if the frontier is not there, or older than this worker has seen it
        :raises StoreError: as :meth:`Connection.exchange`
        """
        self.attempt += 1
        arguments: list[Any] = [
            *(self.prefix, self.worker, self.incarnation, self.number + 1, self.attempt, mode),
            *(int(self.lease_seconds * 1000), wanted, most_bytes),
            *("first" if first else "last" for first in (self.first_out, self.start_first_out)),
            *(hidden, self.most_deliveries, other_capacity),
            *map(len, (acknowledged, done, unreadable, capacities, new)),
            *(*acknowledged, *done, *unreadable),
        ]
        for slot, capacity in capacities.items():
            arguments += (slot_name(slot), capacity)
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
        """Raise an error if *answer*, the first part of exchange.lua's reply, stands for one."""
        if answer == b"gone":
            raise FrontierGone(
                f"the frontier {self.prefix!r} is gone, or older than it was: somebody cleared it, Redis restarted without its "
                "newest data (no appendonly), or a replica has taken over",
                uri=self.connection.uri,
                remedy="start the crawl again: it continues with what is there",
            )
        if answer == b"late":
            raise StoreUnreachable(f"exchange {self.number + 1} arrived twice", uri=self.connection.uri)


def _reply(raw: list[Any]) -> Reply:
    """Return the reply of exchange.lua with names."""
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
    """Return *slot* as elements and keys have it."""
    return slot.replace("\n", " ")


def _requests(raw: list[Any]) -> list[tuple[int, bytes]]:
    return [(int(id), element.partition(b"\n")[2]) for id, element in zip(raw[::2], raw[1::2], strict=True)]
