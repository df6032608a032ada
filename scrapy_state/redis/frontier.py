"""A job's frontier in Redis, as one worker sees it: exchange.lua with names. Knows no Scrapy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import StoreError
from .connection import Connection


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
        slot = self.slot.replace("\n", " ")
        return f"{int(self.priority)}{'s' if self.is_start else ''} {slot}\n".encode() + self.data


@dataclass(frozen=True)
class Reply:
    """What came of an exchange.

    :param lost: whether this worker's leases had been taken from it, because its heartbeat stopped
    :param refused: how many acknowledgements came too late
    :param pending: how many requests wait
    :param others: how many other workers there are
    :param others_busy: how many requests they have at work
    :param duplicates: for each new request, whether it is one
    :param come_back: how many leases of dead workers came back
    :param leased: lease ids with requests
    :param pushed_type: what is where others push to, if it is nothing that can be read
    """

    lost: bool
    refused: int
    pending: int
    others: int
    others_busy: int
    duplicates: list[bool]
    come_back: int
    leased: list[tuple[int, bytes]] = field(repr=False)
    pushed_type: str = ""


@dataclass
class Frontier:
    """One worker's way to the frontier.

    :param prefix: what the job's keys begin with
    :param worker: this worker's name, unique
    :param lease_seconds: after how long without an exchange its leases come back
    :param pushed_key: where others push what is to be crawled; empty: the prefix and "urls"
    :param first_out: whether requests leave first in, first out; *start_first_out*: the same for start requests
    """

    connection: Connection
    prefix: str
    worker: str
    lease_seconds: float
    first_out: bool = False
    start_first_out: bool = True
    clock: int = 0
    pushed_key: str = ""

    async def exchange(
        self,
        mode: str = "go on",
        *,
        new: Sequence[NewRequest] = (),
        acknowledged: Sequence[int] = (),
        wanted: int = 0,
        hidden: int = 0,
        done: int = 0,
        known: Sequence[int] = (),
    ) -> Reply:
        """Send *new* requests and acknowledgements, get up to *wanted* leases, say that this worker is alive.

        A call that failed must be repeated with the same arguments and ``mode="again"``, until it does not.

        :param mode: "open", "go on", "again" or "close"
        :param hidden: how many requests are at work here that Redis does not know of
        :param done: how many leases are done and not acknowledged
        :param known: with "again": the leases this worker knows of; others, whose reply was lost, go back
        :raises FrontierGone: if the job's data is not there, or older than this worker has seen it
        :raises StoreError: as :meth:`Connection.exchange`
        """
        arguments: list[Any] = [
            *(self.prefix, self.worker, int(self.lease_seconds * 1000), self.clock, wanted),
            *("first" if first else "last" for first in (self.first_out, self.start_first_out)),
            *(hidden, done, mode, len(acknowledged), len(new), len(known)),
            *acknowledged,
        ]
        for each in new:
            arguments += (each.fingerprint, each.element)
        arguments += known
        raw = await self.connection.exchange([f"{self.prefix}meta", self.pushed_key or f"{self.prefix}urls"], arguments)
        if raw[0]:
            raise FrontierGone(
                f"STATE_REDIS_URL: the frontier {self.prefix!r} is gone, or older than it was: it was cleared, or Redis was "
                "restarted without the newest of what it held (no appendonly), or another one has taken over. Start the "
                "crawl again: it goes on with what is there"
            )
        _, self.clock, lost, refused, pending, others, others_busy, duplicates, come_back, pushed_type, *leased = raw
        return Reply(
            lost=bool(lost),
            refused=refused,
            pending=pending,
            others=others,
            others_busy=others_busy,
            duplicates=[each == ord("1") for each in duplicates],
            come_back=come_back,
            leased=[(id, element.partition(b"\n")[2]) for id, element in zip(leased[::2], leased[1::2], strict=True)],
            pushed_type=pushed_type.decode(),
        )

    async def set_aside(self, ids: Sequence[int]) -> None:
        """Move the requests leased as *ids*, which can't be read, to where ``scrapy state frontier --unreadable`` finds them.

        :raises StoreError: as :meth:`Connection.exchange`; may be tried again
        """
        await self.connection.set_aside([f"{self.prefix}leases:{self.worker}", f"{self.prefix}unreadable"], ids)
