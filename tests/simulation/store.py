"""A store in the memory of a world, ``sim://…``. Each call takes time there and back, and may fail on either way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any, TypeVar

from scrapy_state.exceptions import KeyTaken, StoreUnreachable

from .world import World

T = TypeVar("T")
SCHEME = "sim://"


class Contents:
    """What is stored in *world*, by key, and the calls that are on their way.

    :param fault: the chance that a call gets no answer: half of those calls have taken effect
    :param mean_seconds: how long a call takes on average
    """

    def __init__(self, world: World, fault: float = 0.0, mean_seconds: float = 0.05) -> None:
        self.files: dict[str, bytes] = {}
        #: whether a request whose sender has died may still arrive, or has, since that was last set to False
        self.arrived_late = False
        self._world = world
        self._fault = fault
        self._mean_seconds = mean_seconds
        #: what would take effect when it arrives
        self._on_its_way: dict[int, Callable[[], object]] = {}
        world.at_death.append(self._dead)
        world.remains = lambda: (set(self.files), set(self._on_its_way), world.changes)  # type: ignore[method-assign]

    def call(self, effect: Callable[[], T], changes: bool = False) -> T:
        """Let *effect* take place in the store, and return its result. *changes*: whether it stores or deletes something."""
        world, me = self._world, id(effect)
        world.crash_point()
        if changes:
            self._on_its_way[me] = effect
        world.sleep(self._seconds())
        self._on_its_way.pop(me, None)
        fails = world.chance.random() < self._fault
        if fails and world.chance.random() < 0.5:
            raise StoreUnreachable(f"{SCHEME}: no answer")
        try:
            result = effect()
        finally:
            world.crash_point()
            world.sleep(self._seconds())
        if fails:
            raise StoreUnreachable(f"{SCHEME}: the reply was lost")
        return result

    def allow(self, key: str, read_only: bool) -> None:
        """Note it if a read-only run would change something that is not its own."""
        if read_only and not key.startswith("mine/"):
            self._world.wrong(f"P5: a read-only run would change {key}")

    def put(self, key: str, content: bytes) -> None:
        if self.files.setdefault(key, content) != content:
            raise KeyTaken(f"{SCHEME}{key} is taken")

    def delete(self, key: str) -> None:
        if key in self.named():
            self._world.wrong(f"P2: {key} is deleted, although a checkpoint names it")
        self.files.pop(key, None)

    def named(self) -> set[str]:
        """Return the keys of the item files that checkpoints name."""
        found = [json.loads(content)[0] for key, content in self.files.items() if key.endswith(".json")]
        return {file["uri"].removeprefix(SCHEME) for checkpoint in found for file in checkpoint.get("files", ())}

    def _seconds(self) -> float:
        slow = 20 if self._world.chance.random() < 0.02 else 1
        return slow * self._world.chance.expovariate(2 / self._mean_seconds)

    def _dead(self) -> None:
        """What was on its way may arrive now, or later, or never."""
        chance = self._world.chance
        self.arrived_late = False
        for effect in self._on_its_way.values():
            when = chance.choice(("now", "soon", "later", "never"))
            if when == "now":
                self._arrive(effect)
            elif when != "never":
                self.arrived_late = True
                after_seconds = chance.expovariate(5 if when == "soon" else 0.5)
                self._world.start_thread(lambda effect=effect: self._arrive(effect), after_seconds)
        self._on_its_way.clear()

    def _arrive(self, effect: Callable[[], object]) -> None:
        with suppress(KeyTaken):
            effect()


class Reader:
    """See ``scrapy_state.stores.base``."""

    ordered = True

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def uri(self, key: str) -> str:
        return SCHEME + key

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        files = self._contents.files
        yield from self._contents.call(lambda: [key for key in sorted(files) if key.startswith(prefix) and key > after][:limit])

    def read(self, key: str) -> bytes | None:
        return self._contents.call(lambda: self._contents.files.get(key))

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        content = self.read(key)
        return None if content is None else content[begin:][:size]


class Writer(Reader):
    atomic = True

    def __init__(self, contents: Contents, read_only: bool) -> None:
        super().__init__(contents)
        self._read_only = read_only

    def create(self, key: str, file: IO[bytes]) -> None:
        self._contents.allow(key, self._read_only)
        file.seek(0)
        content = file.read()
        self._contents.call(lambda: self._contents.put(key, content), changes=True)

    def probe(self, key: str) -> None:
        self._contents.call(lambda: None)

    def delete(self, key: str) -> None:
        self._contents.allow(key, self._read_only)
        self._contents.call(lambda: self._contents.delete(key), changes=True)


class SimStore:
    """What STATE_STORES names. *contents*: the world's; to be set before a crawl."""

    contents: Contents

    @classmethod
    def open_reader(cls, uri: str, settings: Any) -> tuple[Reader, str]:
        return Reader(cls.contents), uri.removeprefix(SCHEME)

    @classmethod
    def open_writer(cls, uri: str, settings: Any) -> tuple[Writer, str]:
        return Writer(cls.contents, bool(settings.get("STATE_READONLY"))), uri.removeprefix(SCHEME)
