"""stand-in until the real one is there"""

from __future__ import annotations

import io
import tempfile
from typing import IO, Any

from ..exceptions import CheckpointError
from ..feeds import StateFeed, open_template
from ..model.checkpoint import Segment
from .merging import merge


def open_requests(crawler: Any, opener: Any) -> tuple[Any, str]:
    feed = StateFeed.from_settings(crawler.settings)
    assert feed
    store, template = open_template(crawler, feed.uri, feed.options.get("uri_params"), opener)
    return store, template.prefix + "requests/"


class SegmentFiles:
    def __init__(self, store: Any, folder: str, run: str) -> None:
        self.store, self.folder, self.run = store, folder, run

    def name(self, number: int) -> str:
        return f"{self.run}-{number:05d}.tsv.gz"

    def store_segment(self, name: str, file: IO[bytes], size: int, digest: str) -> Segment:
        file.seek(0)
        self.store.create(self.folder + name, file)
        return Segment(name, size, digest)

    def open(self, segment: Segment) -> IO[bytes]:
        data = self.store.read(self.folder + segment.name)
        if data is None:
            raise CheckpointError("gone")
        return io.BytesIO(data)

    def merge(self, segments: Any, is_oldest: bool, number: int) -> Segment:
        into = tempfile.TemporaryFile()
        size, digest = merge([self.open(each) for each in segments], is_oldest, into)
        return self.store_segment(self.name(number), into, size, digest)
