"""Checkpoints and item files as crawls leave them, made without crawls, for tests of the code that reads them."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from commands import Ran, run

from scrapy_state.frontier.segments import OpenSegment
from scrapy_state.lineage.resolve import resolve
from scrapy_state.lineage.writer import CheckpointWriter
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.item_file import ItemFile
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.model.stored_file import StoredFile
from scrapy_state.stores import open_writer

_runs = count(1)


class History:
    """A spider's data: ``<where>/state/0000000001.json``, ``<where>/items/<run>-00001.jsonl``.

    :param where: a URI or an absolute path, without a slash at its end
    """

    def __init__(self, where: str, settings: Mapping[str, Any] | None = None) -> None:
        self.where = where
        self.settings = dict(settings or {})
        self.uri = f"{where}/state/%(batch_id)010d.json"
        self.items_uri = f"{where}/items/%(run_id)s-%(batch_id)05d.jsonl"
        template = KeyTemplate.parse(self.uri, {})
        self.store, prefix = open_writer(template.prefix, self.settings)
        self.template = template.under(prefix)
        _, self.items_key = open_writer(f"{where}/items/", self.settings)

    def run(self, commits: int = 2, reason: str | None = "finished", at: Any = "latest", pages: int = 1, run: str = "") -> str:
        """Store what a run leaves: its opening, *commits* checkpoints of *pages* items each, the last one with *reason*."""
        run = run or f"20261101T{next(_runs):06d}-abc{next(_runs):03x}"
        found = resolve(self.store, self.template, "numbers", at)
        state = {"page": 0} if found.checkpoint is None else found.checkpoint.state
        writer = CheckpointWriter(self.store, self.template, format="json", spider="numbers", run=run, job="1/2/3")
        writer.open(state, found, lambda: found)
        for number in range(1, commits + 1):
            page = writer.last.state["page"]  # type: ignore[union-attr]
            lines = [json.dumps({"page": page + each}) + "\n" for each in range(pages)]
            file = self.file(f"{run}-{number:05d}.jsonl", "".join(lines).encode(), pages)
            writer.commit(writer.next({"page": page + pages}, [file], reason=reason if number == commits else None))
        return run

    def file(self, name: str, content: bytes, items: int, skip: Sequence[tuple[int, int]] = ()) -> ItemFile:
        """Store an item file; return it as a checkpoint names it."""
        self.store.create(self.items_key + name, io.BytesIO(content))
        return ItemFile(self.store.uri(self.items_key + name), items, len(content), tuple(skip))

    def named(self, *files: ItemFile) -> None:
        """Store a run with one checkpoint, which names *files*."""
        found = resolve(self.store, self.template)
        writer = CheckpointWriter(self.store, self.template, format="json", spider="numbers", run=f"r{next(_runs)}", job=None)
        writer.open({"page": 0} if found.checkpoint is None else found.checkpoint.state, found, lambda: found)
        writer.commit(writer.next({"page": 99}, files, reason="finished"))

    def put(self, *checkpoints: Checkpoint) -> None:
        """Store *checkpoints* as they are."""
        for each in checkpoints:
            assert each.id is not None
            self.put_bytes(each.id, each.to_bytes())

    def chain(self, *checkpoints: Checkpoint, run: str = "r1") -> list[Checkpoint]:
        """Store *checkpoints*, each as the child of the one before it, the first as the child of the newest; return them."""
        found, stored = resolve(self.store, self.template), []
        parent = found.checkpoint
        for each in checkpoints:
            id = 1 if parent is None else (parent.id or 0) + 1
            parents = {} if parent is None else {"parent": parent.id, "parent_digest": parent.digest}
            items = (parent.items if parent else 0) + sum(file.counted for file in each.files)
            parent = replace(each, id=id, run=each.run or run, spider="numbers", items=items, **parents)
            parent = replace(parent, digest=parent.to_json()["digest"])
            stored.append(parent)
        self.put(*stored)
        return stored

    def segment(self, number: int, segment: OpenSegment, in_flight: Sequence[int] = ()) -> StoredFile:
        """Store *segment* next to the state files; return it as a checkpoint names it."""
        name = f"r1-{number:05d}.tsv.gz"
        file, size, digest = segment.finish(in_flight)
        self.store.create(f"{self.template.prefix}requests/{name}", file)
        return StoredFile(name, size, digest)

    def put_bytes(self, id: int, content: bytes) -> None:
        """Store a state file."""
        self.store.create(self.template.key(id), io.BytesIO(content))

    def replace(self, id: int, content: bytes) -> None:
        """Replace a state file by *content*."""
        self.store.delete(self.template.key(id))
        self.put_bytes(id, content)

    def state_uri(self, id: int) -> str:
        return self.store.uri(self.template.key(id))

    def item_keys(self) -> list[str]:
        return sorted(self.store.keys(self.items_key))

    def state_names(self) -> list[str]:
        return sorted(key.rpartition("/")[2] for key in self.store.keys(self.template.prefix))

    def aged(self, id: int, time: str) -> None:
        """Set the time of checkpoint *id*, which must have no children, to *time*."""
        data = self.store.read(self.template.key(id))
        assert data is not None
        self.replace(id, replace(Checkpoint.from_bytes(data), time=time).to_bytes())


def state(history: History, verb: str, *arguments: str) -> Ran:
    """Run a verb of ``scrapy state`` on the URI of *history*."""
    given = [f"-s{name}={value}" for name, value in history.settings.items()]
    return run(Path("/"), verb, *given, history.uri, *arguments)


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)
