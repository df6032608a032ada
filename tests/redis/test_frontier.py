"""The frontier in Redis: what an exchange promises, and what is checked before the first one, against a real redis-server."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import nullcontext
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import scrapy
from redis_server import (
    RedisServer,
    free_port,
    make_certificate,
    proxy,
    redis_cluster,
    redis_sentinel,
    redis_server,
    until,
)
from scrapy.pqueues import ScrapyPriorityQueue
from scrapy.settings import Settings
from scrapy.squeues import FifoMemoryQueue, LifoMemoryQueue
from scrapy.utils.misc import load_object
from scrapy.utils.test import get_crawler

from scrapy_state.exceptions import StateError, StateSettingsError, StoreRefused, StoreUnreachable
from scrapy_state.frontier.codec import Codec
from scrapy_state.redis.clients import drop_connections
from scrapy_state.redis.connection import Connection
from scrapy_state.redis.frontier import FrontierClient, FrontierGone, NewRequest, Reply
from scrapy_state.redis.inspect import SetAside, clear_frontier, put_back, read_frontier, read_set_aside
from scrapy_state.redis.leases import Order
from scrapy_state.redis.opening import _SELFCHECK_PARTS, Clearing, Opening
from scrapy_state.redis.settings import RedisSettings

PREFIX = "scrapy_state:{frontier}:"


# The exchange


def in_frontiers(server: RedisServer, scenario: Callable[[Callable[..., FrontierClient]], Coroutine[Any, Any, None]]) -> None:
    """Run *scenario*, giving it a maker of frontiers by the worker's name."""

    async def main() -> None:
        connection = Connection.acquire(server.url)
        try:
            await scenario(lambda worker, **more: FrontierClient(connection, PREFIX, worker, **{"lease_seconds": 60.0, **more}))
        finally:
            await connection.release()

    asyncio.run(main())


def request(text: str, priority: int = 0, slot: str = "", is_start: bool = False, filtered: bool = True) -> NewRequest:
    return NewRequest(text.encode(), hashlib.sha1(text.encode()).digest() if filtered else b"", priority, is_start, slot)


def set_aside(url: str, which: str) -> list[SetAside]:
    return list(read_set_aside(url, PREFIX, which))


def texts(reply: Reply) -> list[str]:
    return [data.decode() for _, data in reply.leased]


def test_duplicates_are_dropped_in_the_step_that_stores(server: RedisServer) -> None:
    """Of two requests with one fingerprint the first is stored, even within one exchange. Without fingerprints both are."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        reply = await one.exchange(new=[request("a"), request("a"), request("b"), request("c", filtered=False)])
        assert reply.duplicates == [False, True, False, False]
        reply = await one.exchange(new=[request("b"), request("c", filtered=False)], wanted=9)
        assert reply.duplicates == [True, False]
        assert sorted(texts(reply)) == ["a", "b", "c", "c"]
        assert reply.pending == 0

    in_frontiers(server, scenario)


def test_order_is_scrapys(server: RedisServer) -> None:
    """The highest priority comes first, then the newest; start requests come last within a priority, oldest first; or FIFO, if
    chosen."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        new = [request("a"), request("b"), request("high", 10), request("low", -10), request("s", is_start=True)]
        new += [request("s2", is_start=True), request("high2", 10)]
        assert texts(await one.exchange(new=new, wanted=9)) == ["high2", "high", "b", "a", "s", "s2", "low"]
        other = frontier("two", first_out=True, start_first_out=False)
        await other.exchange("open")
        new = [request(each.data.decode() + "!", each.priority, "", each.is_start) for each in new]
        assert texts(await other.exchange(new=new, wanted=9)) == ["high!", "high2!", "a!", "b!", "s2!", "s!", "low!"]

    in_frontiers(server, scenario)


@pytest.mark.parametrize(("queue", "order"), [(LifoMemoryQueue, "cba12"), (FifoMemoryQueue, "abc12")])
def test_order_is_that_of_the_queue_classes(server: RedisServer, queue: type, order: str) -> None:
    """Leased requests leave Scrapy's queues as if they had been there all the time: by default the newest first."""
    if queue is LifoMemoryQueue:
        assert load_object(Settings()["SCHEDULER_MEMORY_QUEUE"]) is queue
        assert load_object(Settings()["SCHEDULER_START_MEMORY_QUEUE"]) is FifoMemoryQueue

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        chosen = Order(queue, FifoMemoryQueue)
        one = frontier("one", first_out=chosen.first_out, start_first_out=chosen.start_first_out)
        await one.exchange("open")
        new = [request(f"https://example.com/{name}", is_start=name in "12") for name in "a1b2c"]
        await one.exchange(new=new)
        left = ""
        for wanted in (2, 1, 2):
            leased = texts(await one.exchange(wanted=wanted))
            queues = ScrapyPriorityQueue(get_crawler(), queue, "", start_queue_cls=FifoMemoryQueue)
            for each in chosen.to_push([scrapy.Request(url, meta={"is_start_request": url[-1] in "12"}) for url in leased]):
                queues.push(each)
            left += "".join(queues.pop().url[-1] for _ in range(wanted))  # type: ignore[union-attr]
        assert left == order

    in_frontiers(server, scenario)


def test_download_slots_take_turns(server: RedisServer) -> None:
    """A lease of several takes from every download slot in turn, however many requests one of them has."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        new = [request(f"big{n}", slot="big") for n in range(50)] + [request(f"{slot}0", slot=slot) for slot in "abc"]
        first = texts(await one.exchange(new=new, wanted=8))
        assert {"a0", "b0", "c0"} <= set(first)
        assert len(first) == 8
        rest = texts(await one.exchange(wanted=100))
        assert len(set(first) | set(rest)) == 53

    in_frontiers(server, scenario)


def test_leases_of_a_dead_worker_come_back(server: RedisServer) -> None:
    """Requests that a worker leased and did not acknowledge are leased again once its heartbeat stops, and not before."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        dead, other = frontier("dead", lease_seconds=0.2), frontier("other")
        await dead.exchange("open")
        await other.exchange("open")
        leased = (await dead.exchange(new=[request("a"), request("b"), request("c")], wanted=3)).leased
        assert (await dead.exchange(acknowledged=[leased[0][0]])).refused == 0
        reply = await other.exchange(wanted=9)
        assert reply.leased == []
        assert reply.others_busy == 2
        await asyncio.sleep(0.25)
        reply = await other.exchange(wanted=9)
        assert (reply.come_back, reply.others, reply.others_busy) == (2, 0, 0)
        assert sorted(texts(reply)) == sorted(data.decode() for _, data in leased[1:])
        await other.exchange(acknowledged=[leased[1][0]])
        late = await dead.exchange(acknowledged=[id for id, _ in leased[1:]])
        assert late.lost
        assert late.refused == 1

    in_frontiers(server, scenario)


def test_what_others_learn_about_a_worker(server: RedisServer) -> None:
    """Other workers learn how many leases a worker has not done, and how many requests Redis does not know of. Pushed URLs are
    pending until they are leased."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = frontier("one"), frontier("two")
        await one.exchange("open")
        await two.exchange("open")
        [(done, _), _] = (await one.exchange(new=[request("a"), request("b"), request("c")], wanted=2)).leased
        await one.exchange(hidden=5, done=[done])
        server.client().rpush(f"{PREFIX}urls", "d")
        reply = await two.exchange()
        assert (reply.others, reply.others_busy, reply.others_open, reply.pending) == (1, 6, 2, 2)
        assert texts(await two.exchange(wanted=9)) == ["a", "+d"]
        assert (await two.exchange()).pending == 0

    in_frontiers(server, scenario)


@pytest.mark.parametrize(
    ("push", "expected"),
    [
        (lambda client, key: client.rpush(key, "a", "b", "c"), ["+a", "+b", "+c"]),
        (lambda client, key: client.sadd(key, "a", "b", "c"), {"+a", "+b", "+c"}),
        (lambda client, key: client.zadd(key, {"a": 1, "b": 3, "c": 2}), ["+b", "+c", "+a"]),
    ],
    ids=["list", "set", "sorted set"],
)
def test_what_others_push(server: RedisServer, push: Callable[..., Any], expected: Any) -> None:
    """Others may push to a list, a set or a sorted set (highest score first), under any key; what is there counts as
    pending."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one", pushed_key="start_urls")
        await one.exchange("open")
        push(server.client(), "start_urls")
        assert (await one.exchange()).pending == 3
        assert await asyncio.to_thread(lambda: read_frontier(server.url, PREFIX, "start_urls").pending) == 3
        reply = await one.exchange(wanted=2)
        assert reply.pending == 1
        found = texts(reply) + texts(await one.exchange(wanted=2))
        assert (set(found) if isinstance(expected, set) else found) == expected
        assert not server.client().exists("start_urls")

    in_frontiers(server, scenario)


@pytest.mark.parametrize(
    ("push", "kind"),
    [
        (lambda client, key: client.set(key, "https://example.com/"), "string"),
        (lambda client, key: client.hset(key, "a", "b"), "hash"),
        (lambda client, key: client.xadd(key, {"a": "b"}), "stream"),
    ],
)
def test_what_can_not_be_pushed(server: RedisServer, push: Callable[..., Any], kind: str) -> None:
    """If the key for pushed URLs has another type, the exchange takes place all the same, and its reply says so."""
    push(server.client(), f"{PREFIX}urls")

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        assert (await one.exchange("open")).pushed_type == kind
        reply = await one.exchange(new=[request("a"), request("b")], wanted=1)
        reply = await one.exchange(wanted=9, acknowledged=[reply.leased[0][0]])
        assert (reply.pushed_type, reply.refused, reply.pending, len(reply.leased)) == (kind, 0, 0, 1)
        server.client().delete(f"{PREFIX}urls")
        assert (await one.exchange()).pushed_type == ""

    in_frontiers(server, scenario)
    assert read_frontier(server.url, PREFIX).pending == 0


def test_what_can_not_be_read_is_set_aside(server: RedisServer) -> None:
    """A lease that can't be read is set aside once, and only while it is this worker's; none is missed if the worker dies then.
    A later run may try it again, and a worker that has done the page all the same may acknowledge it."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = frontier("one"), frontier("two")
        await one.exchange("open")
        await two.exchange("open")
        server.client().rpush(f"{PREFIX}urls", "bad")
        leased = (await one.exchange(new=[request("a", 5, "slot")], wanted=2)).leased
        ids = [id for id, _ in leased]
        await two.exchange(unreadable=ids)
        one.lease_seconds = 0.05
        for _ in range(2):
            await one.exchange(unreadable=ids)
        reply = await two.exchange()
        assert (reply.others_busy, reply.others_open) == (0, 0)
        await asyncio.sleep(0.08)
        reply = await two.exchange()
        assert (reply.others, reply.pending, reply.vanished) == (0, 0, 0)
        found = await asyncio.to_thread(read_frontier, server.url, PREFIX)
        assert (found.unreadable, found.fatal, found.pending) == (2, 0, 0)
        listed = await asyncio.to_thread(set_aside, server.url, "unreadable")
        assert sorted(each.data for each in listed) == [b"+bad", b"a"]
        for _ in range(2):
            await two.connection.put_back(PREFIX)
        assert await asyncio.to_thread(lambda: read_frontier(server.url, PREFIX).pending) == 2
        again = await two.exchange(wanted=2)
        assert sorted(texts(again)) == ["+bad", "a"]
        assert sorted(id for id, _ in again.leased) == ids
        await two.exchange(unreadable=ids)
        assert (await one.exchange(acknowledged=ids[:1])).refused == 0
        assert (await one.exchange(acknowledged=ids[:1])).refused == 1
        assert await asyncio.to_thread(put_back, server.url, PREFIX) == 1
        await two.exchange("close")
        assert (await one.exchange()).pending == 1

    in_frontiers(server, scenario)


@pytest.mark.parametrize("first_out", [True, False])
def test_what_comes_back_is_next(server: RedisServer, first_out: bool) -> None:
    """Requests that a worker gives back are leased before others of their priority."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = (frontier(name, first_out=first_out) for name in ("one", "two"))
        await one.exchange("open")
        leased = texts(await one.exchange(new=[request("a"), request("b"), request("c"), request("d")], wanted=2))
        await one.exchange("close")
        assert sorted(texts(await two.exchange("open", wanted=2))) == sorted(leased)

    in_frontiers(server, scenario)


def test_a_lost_reply_loses_nothing(server: RedisServer) -> None:
    """An exchange whose reply was lost may be sent again: no request is stored twice, leases that nobody knows of go back, and
    the new reply says again which requests were duplicates."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        await one.exchange(new=[request("a")], wanted=1)
        new = [request("a"), request("b", filtered=False), request("c"), request("c")]
        [(first, _)] = (await one.exchange(new=[request("first", 1)], wanted=1)).leased
        arguments: dict[str, Any] = {"new": new, "wanted": 1, "acknowledged": [first]}
        lost = await one.exchange(**arguments)
        assert len(lost.leased) == 1
        for _ in range(2):
            one.number -= 1  # as if the reply had not come
            again = await one.exchange("again", **arguments)
            assert again.duplicates == lost.duplicates == [True, False, False, True]
            assert (again.leased, again.refused) == ([], 0)
        rest = await one.exchange(wanted=9)
        assert sorted(texts(rest)) == ["b", "c"]
        assert len(server.client().hgetall(f"{PREFIX}leases:one")) == 3
        one.attempt += 1
        await one.exchange()
        one.number -= 1
        await one.exchange("again")  # it had leased nothing: what came before stays
        assert len(server.client().hgetall(f"{PREFIX}leases:one")) == 3

    in_frontiers(server, scenario)


@pytest.mark.parametrize("mode", ["go on", "again", "close"])
def test_an_attempt_that_comes_late_does_nothing(server: RedisServer, mode: str) -> None:
    """If an attempt arrives after a newer one has taken place, it changes nothing, and the frontier does not count as gone."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        [(a, _)] = (await one.exchange(new=[request("a"), request("b"), request("c")], wanted=1)).leased
        late = replace(one)  # what it sends arrives later
        one.attempt += 1
        newer: list[tuple[int, bytes]] = []
        for number in range(2):
            if number:
                newer = (await one.exchange(wanted=1)).leased
            else:
                await one.exchange("again")
            before = {key: server.client().dump(key) for key in server.client().scan_iter()}
            with pytest.raises(StoreUnreachable, match="arrived twice"):
                await replace(late).exchange(mode, wanted=9, acknowledged=[a], new=[request("d")])
            assert {key: server.client().dump(key) for key in server.client().scan_iter()} == before
        reply = await one.exchange(acknowledged=[a, newer[0][0]], wanted=9)
        assert (reply.refused, reply.lost, len(reply.leased)) == (0, False, 1)
        await one.exchange("close")
        with pytest.raises(StoreUnreachable, match="arrived twice"):
            await late.exchange(mode, wanted=9)
        assert not server.client().exists(f"{PREFIX}leases:one", f"{PREFIX}workers")

    in_frontiers(server, scenario)


@pytest.mark.parametrize("others", [0, 9])
def test_a_redis_that_has_forgotten_is_noticed(server: RedisServer, others: int) -> None:
    """If Redis comes back older than it was, and other workers have gone on since, nothing is acknowledged. Otherwise a request
    would be acknowledged whose children are forgotten."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = frontier("one"), frontier("two")
        await one.exchange("open")
        await two.exchange("open")
        [(parent, _)] = (await one.exchange(new=[request("parent")], wanted=1)).leased
        parts = {key: server.client().dump(key) for key in server.client().scan_iter()}
        await one.exchange(new=[request("child")])
        server.client().flushall()
        for key, part in parts.items():
            server.client().restore(key, 0, part)
        for _ in range(others):
            await two.exchange()
        with pytest.raises(FrontierGone, match="older than it was"):
            await one.exchange(acknowledged=[parent])
        assert server.client().hlen(f"{PREFIX}leases:one") == 1

    in_frontiers(server, scenario)


@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_worker_taken_for_dead_notices_that_redis_has_forgotten(server: RedisServer, opened: str) -> None:
    """Redis comes back older than it was. Before a worker is back, others take it for dead, and go on until more has happened
    than it had seen. It still gets an error: the requests of its start() would be lost."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = frontier("one", lease_seconds=0.1), frontier("two")
        if opened == "before":
            await one.exchange("open")
        await two.exchange("open")
        parts = {key: server.client().dump(key) for key in server.client().scan_iter()}
        if opened == "after":
            await one.exchange("open")
        await one.exchange(new=[request("start")])
        server.client().flushall()
        for key, part in parts.items():
            server.client().restore(key, 0, part)
        await asyncio.sleep(0.15)
        for _ in range(9):
            reply = await two.exchange()
        assert (reply.others, reply.pending) == (0, 0)
        with pytest.raises(FrontierGone, match="older than it was"):
            await one.exchange()

    in_frontiers(server, scenario)


def test_another_frontier_in_the_same_place_is_noticed(server: RedisServer) -> None:
    """A frontier that others have cleared and begun anew is not taken for the old one, whatever it remembers of a worker."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, same = frontier("one"), frontier("one")
        await one.exchange("open")
        await asyncio.to_thread(clear_frontier, server.url, PREFIX)
        await frontier("two").exchange("open")
        await same.exchange("open")
        with pytest.raises(FrontierGone, match="is gone"):
            await one.exchange()

    in_frontiers(server, scenario)


def test_few_workers_that_have_left_are_remembered(server: RedisServer) -> None:
    """Redis remembers only so many workers that have left. One that it has forgotten finds the frontier gone."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        first = frontier("first", lease_seconds=0.01)
        await first.exchange("open")
        for number in range(1200):
            each = frontier(f"{number}")
            await each.exchange("open")
            await each.exchange("close")
        assert server.client().hlen(f"{PREFIX}exchanges") == server.client().zcard(f"{PREFIX}left") == 1000
        with pytest.raises(FrontierGone):
            await first.exchange()

    in_frontiers(server, scenario)


def test_lost_leases_are_reported_until_a_reply_comes(server: RedisServer) -> None:
    """A worker that was taken for dead learns it once, even if the reply that says so is lost."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = frontier("one", lease_seconds=0.05), frontier("two")
        await one.exchange("open")
        await two.exchange("open")
        await asyncio.sleep(0.1)
        await two.exchange()
        one.lease_seconds = 60
        assert (await one.exchange()).lost
        for _ in range(2):
            one.number -= 1  # as if the reply had not come
            assert (await one.exchange("again")).lost
        assert not (await one.exchange()).lost

    in_frontiers(server, scenario)


# Pages that several workers have had


def leased_by_the_dead(
    server: RedisServer,
    then: Callable[[FrontierClient, FrontierClient, list[int]], Coroutine[Any, Any, None]],
    pages: int = 3,
    **more: Any,
) -> None:
    """Let a worker lease some *pages* and be taken for dead. Then call *then* with it, another worker, and its lease ids."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = frontier("one", lease_seconds=0.05, **more), frontier("two", **more)
        await one.exchange("open")
        await two.exchange("open")
        leased = (await one.exchange(new=[request(f"{number}") for number in range(pages)], wanted=pages)).leased
        one.lease_seconds = 60
        await asyncio.sleep(0.1)
        assert (await two.exchange()).come_back == pages
        await then(one, two, [id for id, _ in leased])

    in_frontiers(server, scenario)


def test_a_late_acknowledgement_counts_while_nobody_has_finished_the_page(server: RedisServer) -> None:
    """If a page waits again, or another worker has not finished it, a late acknowledgement finishes it, and nobody crawls it
    once more. If another worker was faster, the acknowledgement is refused."""

    async def then(one: FrontierClient, two: FrontierClient, ids: list[int]) -> None:
        again = (await two.exchange(wanted=2)).leased
        assert {id for id, _ in again} < set(ids)
        (first, _), (second, _) = again
        [third] = set(ids) - {first, second}
        await two.exchange(acknowledged=[first])
        reply = await one.exchange(acknowledged=ids)
        assert (reply.lost, reply.refused) == (True, 1)  # the first
        assert reply.others_busy == reply.others_open == 0
        reply = await two.exchange(acknowledged=[second], wanted=9)
        assert (reply.refused, reply.leased, reply.pending) == (1, [], 0)
        assert (await two.exchange(acknowledged=[third])).refused == 1
        assert not server.client().exists(f"{PREFIX}late")

    leased_by_the_dead(server, then)


def test_a_late_acknowledgement_of_what_was_leased_again_and_given_back(server: RedisServer) -> None:
    """If the other worker has closed or died in between, the page waits, and the late acknowledgement still counts."""

    async def then(one: FrontierClient, two: FrontierClient, ids: list[int]) -> None:
        await two.exchange(wanted=9)
        await two.exchange("close")
        assert (await one.exchange(acknowledged=ids)).refused == 0
        reply = await one.exchange(wanted=9)
        assert (reply.leased, reply.pending) == ([], 0)
        assert not server.client().exists(f"{PREFIX}late")

    leased_by_the_dead(server, then)


def test_a_page_that_kills_its_workers_is_set_aside(server: RedisServer) -> None:
    """After the third worker that died with it, a page is set aside, and only that page. The pages that were merely there are
    tried alone, and go on."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        opener = frontier("opener")
        await opener.exchange("open")
        await opener.exchange(new=[request(f"{number}") for number in range(20)])
        crawled: list[str] = []
        fatal: list[str] = []
        for number in range(20):
            victim = frontier(f"victim{number}", lease_seconds=0.05)
            reply = await victim.exchange("open", wanted=8)
            fatal += [data.decode() for _, data in reply.fatal]
            while reply.leased and "7" not in texts(reply):
                crawled += texts(reply)
                ids = [id for id, _ in reply.leased]
                reply = await victim.exchange(acknowledged=ids, wanted=8)
            if not reply.leased:
                break
            await asyncio.sleep(0.08)
            reply = await opener.exchange()
            fatal += [data.decode() for _, data in reply.fatal]
        assert fatal == ["7"]
        assert number == 3
        assert sorted(crawled, key=int) == [str(each) for each in range(20) if each != 7]
        reply = await opener.exchange(wanted=9)
        assert (reply.pending, reply.leased, reply.all_fatal, reply.vanished) == (0, [], 1, 0)
        assert await asyncio.to_thread(set_aside, server.url, "fatal") == [SetAside(b"7", 3)]
        assert await asyncio.to_thread(put_back, server.url, PREFIX) == 1
        assert (await opener.exchange()).pending == 1
        assert texts(await opener.exchange(wanted=9)) == ["7"]
        assert not await asyncio.to_thread(set_aside, server.url, "fatal")

    in_frontiers(server, scenario)


def test_a_worker_has_one_suspect_at_a_time(server: RedisServer) -> None:
    """A page before its last delivery is alone in its worker: it waits until all others there are done, and they wait until it
    is done. So only the page that kills is set aside."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        opener = frontier("opener", most_deliveries=2)
        await opener.exchange("open")
        await opener.exchange(new=[request(f"{number}") for number in range(3)])
        victim = frontier("victim", lease_seconds=0.05, most_deliveries=2)
        assert len((await victim.exchange("open", wanted=3)).leased) == 3
        await asyncio.sleep(0.08)
        [(first, _)] = (await opener.exchange(wanted=9)).leased
        assert not (await opener.exchange(wanted=9, new=[request("3")])).leased
        assert len((await frontier("other", most_deliveries=2).exchange("open", wanted=9)).leased) == 1
        [(second, _)] = (await opener.exchange(wanted=9, done=[first])).leased
        assert texts(await opener.exchange(wanted=9, done=[second])) == ["3"]
        assert (await opener.exchange(wanted=9)).vanished == 0
        victim = frontier("next victim", lease_seconds=0.05, most_deliveries=2)
        assert len((await victim.exchange("open", wanted=9, new=[request("4"), request("5")])).leased) == 2
        await asyncio.sleep(0.08)
        assert not (await opener.exchange(wanted=9)).leased  # it still has "3"

    in_frontiers(server, scenario)


def test_what_was_done_is_no_delivery(server: RedisServer) -> None:
    """If pages were done but not durable when their worker died, they may come back any number of times."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        opener = frontier("opener")
        await opener.exchange("open")
        await opener.exchange(new=[request("a"), request("b")])
        for number in range(5):
            victim = frontier(f"victim{number}", lease_seconds=0.05)
            ids = [id for id, _ in (await victim.exchange("open", wanted=2)).leased]
            reply = await victim.exchange(done=ids)
            assert (await opener.exchange()).others_busy == 0
            assert len(ids) == (await opener.exchange()).others_open == 2
            await asyncio.sleep(0.08)
            reply = await opener.exchange()
            assert (reply.come_back, reply.fatal) == (2, [])

    in_frontiers(server, scenario)


def test_many_leases_come_back_step_by_step(server: RedisServer) -> None:
    """The leases of a dead worker are pending at once. The next exchanges move them, so that no exchange takes Redis long."""

    async def then(one: FrontierClient, two: FrontierClient, ids: list[int]) -> None:
        waiting = server.client().llen(f"{PREFIX}queue:0:")
        assert 0 < waiting < 2000
        assert (await one.exchange(acknowledged=ids[:100])).refused == 0
        reply = await two.exchange()
        assert reply.pending >= 4900
        crawled = []
        for _ in range(20):
            reply = await two.exchange(wanted=1000)
            crawled += [id for id, _ in reply.leased]
        assert sorted(crawled) == ids[100:]
        assert reply.pending == 0
        assert not server.client().exists(f"{PREFIX}returning")

    leased_by_the_dead(server, then, pages=5000)


@pytest.mark.parametrize("key", ["queue:0:slot3", "priorities:slot3", "ring", "leases:one"])
def test_keys_that_vanish_are_noticed(server: RedisServer, key: str) -> None:
    """If somebody removes a key of the frontier, or Redis evicts it, a reply says how many requests are gone, and nobody waits
    for them any more."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = frontier("one", lease_seconds=0.3), frontier("two")
        await one.exchange("open")
        await two.exchange("open")
        await one.exchange(new=[request(f"{number}", slot=f"slot{number % 4}") for number in range(20)], wanted=4)
        assert server.client().delete(PREFIX + key)
        vanished, leased = 0, 0
        await asyncio.sleep(0.35)
        for _ in range(10):
            reply = await two.exchange(wanted=9)
            vanished += reply.vanished
            leased += len(reply.leased)
        assert vanished > 0
        assert vanished + leased == 20
        assert reply.pending == 0

    in_frontiers(server, scenario)


@pytest.mark.parametrize("key", ["workers", "busy"])
def test_nobody_waits_for_ever_for_a_worker_that_was_removed(server: RedisServer, key: str) -> None:
    """Even without the list of workers, or of what they work on, the leases of a dead worker come back, and a live one is
    waited for."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = frontier("one", lease_seconds=0.2), frontier("two")
        await one.exchange("open")
        await two.exchange("open")
        await one.exchange(new=[request("a")], wanted=1)
        server.client().delete(PREFIX + key)
        assert (await two.exchange()).others_busy > 0
        await asyncio.sleep(0.25)
        await two.exchange()
        assert texts(await two.exchange(wanted=1)) == ["a"]

    in_frontiers(server, scenario)


def test_a_lease_is_limited_by_bytes(server: RedisServer) -> None:
    """Large requests are leased one by one, small ones together; each is leased, however large."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one", first_out=True)
        await one.exchange("open")
        await one.exchange(new=[request(f"{number}" * (5000 if number < 3 else 5)) for number in range(6)])
        assert [len((await one.exchange(wanted=9, most_bytes=7000)).leased) for _ in range(4)] == [1, 1, 4, 0]

    in_frontiers(server, scenario)


def test_capacity_of_a_download_slot(server: RedisServer) -> None:
    """The capacity of a download slot limits how many of its requests are leased; other slots fill up the rest, each up to its
    own capacity."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = frontier("one"), frontier("two")
        await one.exchange("open")
        await two.exchange("open")
        new = [request(f"slow{n}", slot="slow") for n in range(50)] + [request(f"fast{n}", slot="fast") for n in range(20)]
        first = texts(await one.exchange(new=new, wanted=16, capacities={"slow": 2}, other_capacity=99))
        assert [sum(each.startswith(slot) for each in first) for slot in ("slow", "fast")] == [2, 14]
        assert len(texts(await one.exchange(wanted=16, capacities={"slow": 0}, other_capacity=3))) == 3
        assert len(texts(await one.exchange(wanted=16, capacities={"slow": 0, "fast": 0}))) == 0
        assert len(texts(await two.exchange(wanted=60))) == 51

    in_frontiers(server, scenario)


def test_keys_may_expire(server: RedisServer) -> None:
    """Redis removes the keys of a test request by itself, in case the process is killed before it can."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one", expiring=_SELFCHECK_PARTS)
        await one.exchange("open")
        await one.exchange(new=[request("a", slot="selfcheck")] * 2, wanted=2)
        keys = set(server.client().keys())
        assert {key for key in keys if server.client().ttl(key) < 0} == {f"{PREFIX}leases:one".encode()}

    in_frontiers(server, scenario)


def test_closing_twice_loses_nothing(server: RedisServer) -> None:
    """If the reply to a worker's last exchange is lost, the worker repeats it, and no reply says that leases were lost."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        await one.exchange("close")
        assert not (await one.exchange("close")).lost
        assert not server.client().exists(f"{PREFIX}workers", f"{PREFIX}busy")

    in_frontiers(server, scenario)


def test_a_priority_may_be_any_integer(server: RedisServer) -> None:
    """Whatever isinstance() takes for an integer may be a priority."""

    class Level(int, Enum):
        HIGH = 3

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        new = [request("a", -(10**20)), request("b", True), request("c", Level.HIGH), request("d")]
        assert texts(await one.exchange(new=new, wanted=9)) == ["c", "b", "d", "a"]

    in_frontiers(server, scenario)


def test_the_url_can_not_change_what_replies_are(server: RedisServer) -> None:
    """``decode_responses`` in the URL, perhaps there for other programs, makes no difference."""

    async def main() -> None:
        connection = Connection.acquire(f"{server.url}?decode_responses=True&protocol=3")
        one = FrontierClient(connection, PREFIX, "one", 60.0)
        await one.exchange("open")
        assert texts(await one.exchange(new=[request("a"), request("a")], wanted=9)) == ["a"]
        assert list(await connection.deadlines(PREFIX)) == ["one"]
        await connection.release()

    asyncio.run(main())


def test_closing_gives_leases_back(server: RedisServer) -> None:
    """A worker that closes gives back what it has not acknowledged, and is forgotten."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one, two = frontier("one"), frontier("two")
        await one.exchange("open")
        leased = (await one.exchange(new=[request("a"), request("b")], wanted=2)).leased
        await one.exchange("close", acknowledged=[leased[0][0]])
        reply = await two.exchange("open", wanted=9)
        assert texts(reply) == [leased[1][1].decode()]
        assert reply.others == 0

    in_frontiers(server, scenario)


def test_cleared_frontier_is_seen(server: RedisServer) -> None:
    """A worker whose frontier was cleared, or lost by Redis, gets an error."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        await one.exchange(new=[request("a")])
        assert await asyncio.to_thread(clear_frontier, server.url, PREFIX) > 0
        with pytest.raises(FrontierGone, match="is gone"):
            await one.exchange()

    in_frontiers(server, scenario)
    assert server.client().keys() == []


def test_full_redis_changes_nothing_and_means_later(server: RedisServer) -> None:
    """A full Redis refuses a whole exchange, which means "try again"; one that forbids it means no."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        [(id, _)] = (await one.exchange(new=[request("a")], wanted=1)).leased
        server.client().config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnreachable, match=r"it is full .*; raise its maxmemory"):
                await one.exchange(new=[request("b")], acknowledged=[id])
        finally:
            server.client().config_set("maxmemory", "0")
        again = await one.exchange("again", new=[request("b")], acknowledged=[id])
        assert (again.refused, again.duplicates) == (0, [False])
        assert texts(await one.exchange(wanted=2)) == ["b"]
        server.client().acl_setuser("default", enabled=True, commands=["-evalsha"])
        try:
            with pytest.raises(StoreRefused, match="the user may not"):
                await one.exchange()
        finally:
            server.client().acl_setuser("default", enabled=True, commands=["+evalsha"])

    in_frontiers(server, scenario)


def test_failover_behind_one_address() -> None:
    """If another Redis has taken over behind the same address, the first exchange finds out, and the next one reaches it."""

    async def scenario(url: str, demote: Callable[[], None]) -> None:
        connection = Connection.acquire(url)
        one = FrontierClient(connection, PREFIX, "one", 60.0)
        await one.exchange("open")
        await one.exchange(new=[request("a")])
        await asyncio.to_thread(demote)
        with pytest.raises(StoreUnreachable, match="it is read-only now"):
            await one.exchange(new=[request("b")])
        reply = await one.exchange("again", new=[request("b")])
        assert (reply.pending, reply.duplicates) == (2, [False])
        await connection.release()

    with redis_server() as old, redis_server(replicaof=f"127.0.0.1 {old.port}") as new, proxy(old.port) as address:

        def demote() -> None:
            assert old.client().execute_command("WAIT", 1, 10_000) == 1
            new.client().replicaof("NO", "ONE")
            old.client().replicaof("127.0.0.1", new.port)
            address.target = new.port

        asyncio.run(scenario(address.url, demote))


@pytest.mark.parametrize(
    "says",
    [
        *("LOADING Redis is loading", "MASTERDOWN Link with MASTER is down", "MOVED 3999 127.0.0.1:6381", "READONLY You can't"),
        "ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write against a read only replica.",
    ],
)
def test_a_redis_that_is_not_in_charge_is_asked_on_a_new_connection(says: str) -> None:
    """If Redis says that it is not in charge (any more), that means "later", on a new connection."""
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while data := await reader.read(100_000):
            count = data.count(b"CLIENT") + data.count(b"SELECT") + data.count(b"HELLO")
            writer.write(b"+OK\r\n" * count + (b"-" + says.encode() + b"\r\n" if b"EVALSHA" in data else b""))
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        connection = Connection.acquire(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0?protocol=2")
        for _ in range(2):
            with pytest.raises(StoreUnreachable):
                await FrontierClient(connection, PREFIX, "one", 60.0).exchange("open")
        await connection.release()
        server.close()

    asyncio.run(main())
    assert connections == 2


def test_a_script_that_is_forgotten_at_once_is_sent_again(server: RedisServer) -> None:
    """If Redis forgets a script right after it was loaded (a failover, SCRIPT FLUSH), the script is sent again. If Redis
    forgets it every time, that means "later"."""

    async def main() -> None:
        connection = Connection.acquire(server.url)
        load = connection.client.script_load
        forgetting = 1

        async def load_and_forget(script: Any) -> Any:
            nonlocal forgetting
            sha = await load(script)
            if forgetting:
                forgetting -= 1
                await connection.client.script_flush()
            return sha

        connection.client.script_load = load_and_forget
        one = FrontierClient(connection, PREFIX, "one", 60.0)
        await connection.client.script_flush()
        await one.exchange("open")
        forgetting = 9
        await connection.client.script_flush()
        with pytest.raises(StoreUnreachable):
            await one.exchange()
        forgetting = 0
        assert not (await one.exchange("again")).lost
        await connection.release()

    asyncio.run(main())


def test_connections_are_shared_by_url() -> None:
    """Spiders with the same URL share a connection, others don't; the last one to release it closes it."""

    async def main() -> None:
        one, same, other = (Connection.acquire(f"redis://127.0.0.1:1/{number}") for number in (0, 0, 1))
        assert one is same
        assert one is not other
        await one.release()
        assert Connection.acquire("redis://127.0.0.1:1/0") is one
        for each in (one, one, other):
            await each.release()
        assert Connection.acquire("redis://127.0.0.1:1/0") is not one

    asyncio.run(main())


def test_report(server: RedisServer) -> None:
    """read_frontier() counts what is pending by priority, leased by worker, and seen; pushed URLs are pending too."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        new = [request("a", 5), request("b", 5, "x"), request("c"), request("d", is_start=True)]
        await one.exchange(new=new, wanted=1)

    in_frontiers(server, scenario)
    server.client().rpush(f"{PREFIX}urls", "https://example.com/")
    found = read_frontier(server.url, PREFIX)
    assert (found.pending, found.pending_by_priority, found.leased, found.seen) == (4, {5: 1, 0: 2}, {"one": 1}, 4)
    assert 0 < found.seconds_left["one"] <= 60


def test_report_of_many_slots(server: RedisServer) -> None:
    """read_frontier() needs few round trips, however many download slots there are."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        await one.exchange(new=[request(f"{number}", number % 2, f"slot{number}") for number in range(2000)])

    in_frontiers(server, scenario)
    with proxy(server.port, delay_seconds=0.01) as away:
        began = time.monotonic()
        assert read_frontier(away.url, PREFIX).pending_by_priority == {1: 1000, 0: 1000}
        assert time.monotonic() - began < 3  # 4,000 round trips would take 80 s


@pytest.mark.parametrize("count", [3000, 20000])
def test_memory_of_a_seen_fingerprint(server: RedisServer, count: int) -> None:
    """A seen fingerprint takes at most 70 bytes of Redis's memory, and no other is mistaken for it."""

    async def scenario(frontier: Callable[..., FrontierClient]) -> None:
        one = frontier("one")
        await one.exchange("open")
        before = server.client().info("memory")["used_memory"]
        fingerprints = [hashlib.sha1(str(number).encode()).digest() for number in range(count)]
        for begin in range(0, count, 1000):
            new = [NewRequest(b"", each, 0, False, "") for each in fingerprints[begin : begin + 1000]]
            reply = await one.exchange(new=new)
            assert not any(reply.duplicates)
        assert all((await one.exchange(new=[NewRequest(b"", each, 0, False, "") for each in fingerprints[::97]])).duplicates)
        leased = (await one.exchange(wanted=count)).leased
        await one.exchange(acknowledged=[id for id, _ in leased])
        each = (server.client().info("memory")["used_memory"] - before) / count
        pipeline = server.client().pipeline()
        for key in server.client().keys(f"{PREFIX}seen:*"):
            pipeline.memory_usage(key)
        usage = sum(pipeline.execute()) / count
        print(f"{count} fingerprints: {each:.1f} bytes each by used_memory, {usage:.1f} by MEMORY USAGE")
        assert each <= 70
        assert usage <= 70

    in_frontiers(server, scenario)


# Before the first request


@pytest.mark.parametrize(
    ("options", "url", "says"),
    [
        ({"requirepass": "a"}, "redis://:wrong-secret@127.0.0.1:{port}/0", "wrong user or password"),
        ({"requirepass": "the-secret"}, "redis://127.0.0.1:{port}/0", "wrong user or password"),
        ({}, "redis://user:wrong-secret@127.0.0.1:{port}/0", "wrong user or password"),
        ({}, "redis://127.0.0.1:{port}/999", "the database does not exist"),
        ({"replicaof": "127.0.0.1 1"}, "redis://127.0.0.1:{port}/0", "read-only replica"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "redis://127.0.0.1:{port}/0", "set it to noeviction"),
        (None, "redis://:the-secret@127.0.0.1:{port}/0", "whether Redis runs there, and whether it wants TLS"),
        (None, "redis://127.0.0.1:{port}/zero?socket_timeout=the-secret", "redis-py can't use"),
    ],
)
def test_what_is_wrong_with_a_redis(server: RedisServer, options: dict[str, str] | None, url: str, says: str) -> None:
    """If a Redis can't keep a frontier, the error names the setting and what to do, and shows no password."""

    async def check(port: int) -> None:
        connection = Connection.acquire(url.format(port=port))
        try:
            await connection.check()
        finally:
            await connection.release()

    with redis_server(**options) if options else nullcontext(server) as other, pytest.raises(StateError, match=says) as caught:
        asyncio.run(check(free_port() if options is None else other.port))
    assert "STATE_REDIS_URL" in str(caught.value)
    assert "-secret@" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tls(tmp_path: Path) -> None:
    """rediss:// reaches a Redis that wants TLS, if its certificate is known. Otherwise, and without TLS, the error says why."""
    certificate, key = make_certificate(tmp_path)
    port = free_port()
    options = {"tls-port": str(port), "tls-cert-file": str(certificate), "tls-key-file": str(key), "tls-auth-clients": "no"}

    async def check(url: str) -> None:
        connection = Connection.acquire(url)
        try:
            await connection.check()
            assert not await connection.deadlines(PREFIX)
        finally:
            await connection.release()

    with redis_server(**options, **{"tls-ca-cert-file": str(certificate), "appendonly": "yes"}):
        asyncio.run(check(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}"))
        with pytest.raises(
            StoreUnreachable,
            match=r"rediss://.*: no secure connection \(self.signed certificate.*\?ssl_ca_certs=/path to STATE_REDIS_URL",
        ):
            asyncio.run(check(f"rediss://localhost:{port}/0"))
        with pytest.raises(StoreUnreachable, match=r"whether it wants TLS \(rediss://\) or not"):
            asyncio.run(check(f"redis://localhost:{port}/0"))


def test_a_job_lies_in_one_slot_of_a_cluster() -> None:
    """On a node of a Redis Cluster all keys of a job are in one slot, and the script may use them."""
    with redis_server(**{"cluster-enabled": "yes", "cluster-port": str(free_port())}) as node:
        client = node.client()
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 20
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.05)

        async def scenario(frontier: Callable[..., FrontierClient]) -> None:
            one = frontier("one")
            await one.exchange("open")
            new = [request(f"{number}", number % 3, f"slot{number % 5}") for number in range(200)]
            leased = (await one.exchange(new=new, wanted=50)).leased
            await one.exchange("go on", acknowledged=[id for id, _ in leased[:10]])

        in_frontiers(node, scenario)
        keys = list(client.scan_iter())
        assert len({client.execute_command("CLUSTER", "KEYSLOT", key) for key in keys}) == 1
        assert read_frontier(node.url, PREFIX).pending == 150
        assert clear_frontier(node.url, PREFIX) == len(keys)
        assert not list(client.scan_iter())


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_a_cluster_by_url(name: str, cluster: list[RedisServer]) -> None:
    """redis+cluster:// finds the node that has a job, whichever it is, and all of the job is in one slot. Counting and clearing
    work, too."""
    prefix = f"scrapy_state:{{{name}}}:"
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{cluster[0].port}"

    async def scenario() -> None:
        connection = Connection.acquire(url)
        try:
            await connection.check()
            one = FrontierClient(connection, prefix, "one", 60.0)
            await one.exchange("open")
            reply = await one.exchange(
                new=[request(f"{number}", number % 3, f"slot{number % 5}") for number in range(20)], wanted=5
            )
            await one.exchange(unreadable=[id for id, _ in reply.leased[:2]])
            await connection.put_back(prefix)
            await drop_connections(connection.client)
            await one.exchange(acknowledged=[id for id, _ in reply.leased[2:]])
            assert await connection.claim(prefix, "p") == "p"
            assert await connection.lock(prefix, "one")
            await connection.unlock(prefix, "one")
            [(_, before)] = (await connection.deadlines(prefix)).items()
            await connection.renew(prefix, "one", 120.0)
            await connection.renew(prefix, "nobody", 120.0)
            assert 50_000 < (await connection.deadlines(prefix))["one"] - before < 90_000
            assert connection.in_one_slot(prefix, f"{{{name}}}:start_urls")
            assert not connection.in_one_slot(prefix, "start_urls")
        finally:
            await connection.release()

    asyncio.run(scenario())
    keys = [[key for key in node.client().scan_iter() if key.decode().startswith(prefix)] for node in cluster]
    assert sorted(map(bool, keys)) == [False, True]
    found = read_frontier(url, prefix)
    assert (found.pending, found.leased) == (17, {"one": 0})
    assert 100 < found.seconds_left["one"] <= 120
    assert put_back(url, prefix) == 0
    assert clear_frontier(url, prefix) == len(keys[0] + keys[1])


def test_a_finished_frontier_with_something_set_aside_is_kept(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """STATE_REDIS_CLEAR keeps a frontier with pages that a person has yet to look at, set aside for either reason."""
    crawler = get_crawler(scrapy.Spider, {"STATE_REDIS_URL": server.url})
    crawler.spider = scrapy.Spider(name="frontier")
    settings = RedisSettings.from_crawler(crawler)
    client = server.client()
    client.hset(f"{PREFIX}meta", "pending", 0)

    async def clear() -> None:
        connection = Connection.acquire(server.url)
        try:
            await Clearing(connection, settings, "one").clear_if_finished()
        finally:
            await connection.release()

    for which in ("fatal", "unreadable"):
        client.hset(f"{PREFIX}{which}", "7", "0/7/3 \nx")
        caplog.clear()
        asyncio.run(clear())
        assert client.exists(f"{PREFIX}meta", f"{PREFIX}{which}") == 2
        assert "stays, because 1 requests in it are set aside" in caplog.text
        client.delete(f"{PREFIX}{which}")
    asyncio.run(clear())
    assert not list(client.scan_iter())


def test_a_worker_that_opens_waits_for_one_that_clears(server: RedisServer) -> None:
    """Only one worker at a time may remove a frontier, and none opens it meanwhile."""
    crawler = get_crawler(scrapy.Spider, {"STATE_REDIS_URL": server.url})
    crawler.spider = scrapy.Spider(name="frontier")
    settings = RedisSettings.from_crawler(crawler)
    order = Order(LifoMemoryQueue, FifoMemoryQueue)

    async def main() -> None:
        connection = Connection.acquire(server.url)
        try:
            one, two = (Clearing(connection, settings, name) for name in ("one", "two"))
            opening = Opening(crawler, settings, Codec(crawler.spider), order)  # type: ignore[arg-type]
            opening._connection = connection

            async def lock() -> None:
                async with two.lock():
                    pass

            async with one.lock():
                waiting = [asyncio.ensure_future(lock()), asyncio.ensure_future(opening._join(connection))]
                await asyncio.wait(waiting, timeout=1.5)
                assert not any(each.done() for each in waiting)
                await one.clear()
            await asyncio.wait_for(asyncio.gather(*waiting), 10)
            assert list(await connection.deadlines(PREFIX)) == [opening.worker]
            assert not await connection.lock_holder(PREFIX)
        finally:
            await connection.release()

    asyncio.run(main())


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RedisServer]]:
    with redis_cluster(2) as nodes:
        yield nodes


def test_a_sentinel_by_url() -> None:
    """redis+sentinel:// finds the primary, and the new one after a failover: nothing that was stored is lost."""
    with redis_sentinel("frontier") as (primary, replica, sentinel):
        url = f"redis+sentinel://:the-secret@127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/frontier/3"

        async def scenario() -> None:
            connection = Connection.acquire(url)
            try:
                await connection.check()
                one = FrontierClient(connection, PREFIX, "one", 60.0)
                await one.exchange("open")
                [(first, _)] = (await one.exchange(new=[request("a"), request("b")], wanted=1)).leased
                in_replica = replica.client(password="the-secret", db=3)
                await asyncio.to_thread(until, lambda: in_replica.hget(f"{PREFIX}meta", "pending") == b"1")
                primary.kill()
                with pytest.raises(StoreUnreachable):
                    await one.exchange(new=[request("c")], acknowledged=[first])
                deadline = time.monotonic() + 30
                while True:
                    assert time.monotonic() < deadline
                    try:
                        reply = await one.exchange("again", new=[request("c")], acknowledged=[first])
                        break
                    except StoreUnreachable:
                        await asyncio.sleep(0.1)
                assert (reply.refused, reply.pending) == (0, 2)
                assert sorted(texts(await one.exchange(wanted=9))) == ["a", "c"]
            finally:
                await connection.release()

        asyncio.run(scenario())
        assert read_frontier(url, PREFIX).leased == {"one": 2}
        assert clear_frontier(url, PREFIX)
        wrong = url.replace("/frontier/", "/other/")
        with pytest.raises(StoreUnreachable, match="No master found for 'other'"):
            read_frontier(wrong, PREFIX)


def settings_of(url: str | None) -> RedisSettings:
    crawler = get_crawler(scrapy.Spider, {"STATE_REDIS_URL": url})
    crawler.spider = scrapy.Spider(name="codec")
    return RedisSettings.from_crawler(crawler)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://u:the-secret@host:26379", "does not name the primary; write redis"),
        ("redis+cluster://u:the-secret@host:7000/5", "only database 0"),
        ("redis+cluster://u:the-secret@host:7000,", "redis-py can't use"),
        ("redis+sentinel://host:x/name?sentinel_password=the-secret", "redis-py can't use"),
        ("redis+other://u:the-secret@host", "must be a URL like redis://"),
    ],
)
def test_wrong_urls_of_several_hosts(url: str, says: str) -> None:
    """If a URL of a Sentinel or a cluster can't be used, the error says why, without the password."""

    async def connect() -> None:
        Connection.acquire(settings_of(url).url)

    with pytest.raises(StateSettingsError, match=says) as caught:
        asyncio.run(connect())
    assert "the-secret" not in str(caught.value)


def test_a_redis_that_keeps_nothing_is_a_warning(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that keeps nothing on disk gets a warning; one that keeps a log of all writes gets none."""

    async def check(url: str) -> None:
        connection = Connection.acquire(url)
        await connection.check()
        await connection.release()

    asyncio.run(check(server.url))
    assert "keeps nothing on disk" in caplog.text
    caplog.clear()
    with redis_server(appendonly="yes") as other:
        asyncio.run(check(other.url))
    assert not caplog.text


@pytest.mark.parametrize("url", ["http://user:the-secret@127.0.0.1/", "", None])
def test_wrong_urls(url: str | None) -> None:
    """If STATE_REDIS_URL is wrong or missing, the error has the setting's name and no password."""
    with pytest.raises(StateSettingsError, match=r"STATE_REDIS_URL is .* must be a URL like redis://") as caught:
        settings_of(url)
    assert "the-secret" not in str(caught.value)
