"""The verb files: what a checkpoint has of the project's files."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from scrapy.settings import Settings

from ...kept.files import NAME, REMEDY, files_from_json
from ...kept.restoring import restore
from ...model.words import size
from ...stores.stored_files import StoredFiles
from ..state import NO, OK
from ..target import find_target, no_checkpoint
from ..terminal import out_json, say, table


def files(options: Namespace, settings: Settings) -> int:
    """List the files in a checkpoint, or put them into a folder."""
    target = find_target(options.target, settings, options.arguments)
    checkpoint = target.resolution().checkpoint
    if checkpoint is None:
        return no_checkpoint(target)
    found = files_from_json(checkpoint.memories.get(NAME, {}))
    stored = StoredFiles(target.store, f"{target.template.prefix}{NAME}/", "file", REMEDY)
    if options.restore is not None:
        root = Path(options.restore).resolve()
        restored = restore(root, found, stored)
        replaced, same = restored.replaced, [*restored.same]
        if options.json:
            out_json({"id": checkpoint.id, "restored": replaced, "same": same})
        else:
            say(f"checkpoint {checkpoint.id}: {len(replaced)} files restored in {root}, {len(same)} as they were")
    elif options.json:
        out_json([
            {
                "path": path, "bytes": file.stored.bytes, "mode": f"{file.mode:o}", "digest": file.stored.digest,
                "uri": stored.uri(file.stored),
            }
            for path, file in found.items()
        ])  # fmt: skip
    elif found:
        rows = ((path, size(file.stored.bytes), f"{file.mode:o}", file.stored.name[:12]) for path, file in found.items())
        table(("path", ">size", "mode", "SHA-256"), rows)
    if not found:
        say(f"checkpoint {checkpoint.id} has no files: see the setting STATE_FILES")
    return OK if found else NO
