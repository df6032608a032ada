"""What ``strace -f -y`` has seen of a crawl's calls that change files, in the words of system_calls.Recording."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

#: The calls that change files, and what Recording calls them; it has none of the others
_NAMES = {
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range"), "write"),
    **dict.fromkeys(("fsync", "fdatasync"), "sync"),
    **dict.fromkeys(("link", "linkat"), "link"),
    **dict.fromkeys(("mkdir", "mkdirat"), "mkdir"),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), "unlink"),
    **dict.fromkeys(("rename", "renameat", "renameat2"), "rename"),
    **dict.fromkeys(("ftruncate", "truncate"), "truncate"),
    **{name: name for name in ("fallocate", "symlink", "symlinkat", "mknod", "mknodat", "sync_file_range", "creat")},
    **dict.fromkeys(("open", "openat"), "create"),
}
_CALL = re.compile(r"(?P<pid>\d+)\s+(?P<call>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\w+)")
_UNFINISHED = re.compile(r"(?P<pid>\d+)\s+(?P<begin>\w+\(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(?P<pid>\d+)\s+<\.\.\. \w+ resumed>(?P<end>.*)$")


def seen_by_strace(log: str, folder: str, log_file: str, temporary: Sequence[str]) -> Counter[tuple[str, str]]:
    """Count the calls that changed *folder*, or files without a name: what was called, and the path.

    Only names have a path, and synced folders.

    :param log_file: the crawl's log, which does not count; the crawl begins when it is opened
    :param temporary: the folders of temporary files
    """
    found: Counter[tuple[str, str]] = Counter()
    for call, arguments in _successful(log.partition(f'"{log_file}", O_WRONLY|O_CREAT')[2]):
        name = _NAMES.get(call)
        paths = re.findall(r'<(/[^>]*)>|"(/[^"]*)"', arguments if name != "write" else arguments.partition(",")[0])
        path = next((each for pair in reversed(paths) for each in pair if each), "")
        is_ours = path == folder or path.startswith((f"{folder}/", *(f"{each}/#" for each in temporary)))
        is_ours = is_ours or (path in temporary and "O_TMPFILE" in arguments)
        if name is None or not is_ours or path == log_file:
            continue
        if name == "create":
            if "O_TMPFILE" not in arguments and "O_CREAT" not in arguments:
                continue
            path = ""
        elif name == "sync" and "/#" not in path and Path(path).is_dir():
            name = "sync folder"
        found[name, path if name in ("link", "mkdir", "unlink", "sync folder") else ""] += 1
    return found


def _successful(log: str) -> list[tuple[str, str]]:
    """Return the calls that succeeded, and their arguments."""
    begun: dict[str, str] = {}
    calls = []
    for line in log.splitlines():
        if unfinished := _UNFINISHED.match(line):
            begun[unfinished["pid"]] = unfinished["begin"]
            continue
        if resumed := _RESUMED.match(line):
            line = f"{resumed['pid']} {begun.pop(resumed['pid'], '')}{resumed['end']}"
        found = _CALL.match(line)
        if found is not None and not found["result"].startswith("-"):
            calls.append((found["call"], found["arguments"]))
    return calls
