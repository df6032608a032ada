"""What STATE_FILES names, and what it must not name."""

import os
from pathlib import Path

import pytest

from scrapy_state.exceptions import StateSettingsError
from scrapy_state.kept.selection import Selection, is_inside

PATHS = ("a.json", "ids.sqlite", "cache/x/1", "cache/x/2.json", "cache/.hidden/3", "cache/empty", "other/a.json")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in PATHS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("" if path.endswith("empty") else path)
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["a.json"], ["a.json"]),
        (["cache", "a.json", "./cache/x"], ["a.json", "cache/.hidden/3", "cache/empty", "cache/x/1", "cache/x/2.json"]),
        (["*.json"], ["a.json"]),
        (["**/*.json"], ["a.json", "cache/x/2.json", "other/a.json"]),
        (["ca*/x/?"], ["cache/x/1"]),
        (["cache/**"], ["cache/.hidden/3", "cache/empty", "cache/x/1", "cache/x/2.json"]),
        (["nothing*", "missing", "a.json/below"], []),
    ],
)
def test_paths_and_globs(root: Path, patterns: list[str], expected: list[str]) -> None:
    """Each file that a path, a folder or a glob names is found once, and has() agrees."""
    selection = Selection(root, patterns, {})
    assert sorted(path for path, _ in selection.files()) == expected
    assert sorted(path for path in PATHS if selection.has(path)) == expected
    assert [path for path, _ in Selection(root, [str(root / "a.json")], {}).files()] == ["a.json"]


@pytest.mark.parametrize("pattern", ["../x", "/etc/passwd", "cache/../../x", ".."])
def test_what_is_outside_is_refused(root: Path, pattern: str) -> None:
    """A path that leads out of the project is an error that names it."""
    with pytest.raises(StateSettingsError, match="outside the project"):
        Selection(root, [pattern], {})


@pytest.mark.parametrize("link", ["link", "cache/link"])
def test_symlinks_are_refused(root: Path, link: str) -> None:
    """A symlink, named or in a named folder, is an error, wherever it leads."""
    (root / link).symlink_to(root / "a.json")
    with pytest.raises(StateSettingsError, match=f"{link}', which is a symlink"):
        list(Selection(root, ["cache", "link"], {}).files())


def test_a_pipe_is_refused(root: Path) -> None:
    """What is neither a file nor a folder is an error: reading it might never end."""
    os.mkfifo(root / "cache/pipe")
    with pytest.raises(StateSettingsError, match="neither a file nor a folder"):
        list(Selection(root, ["cache"], {}).files())


@pytest.mark.parametrize("pattern", ["cache", "cache/x", "cache/x/1", "ca*/x", "**/1"])
def test_refused_folders(root: Path, pattern: str) -> None:
    """A folder that must not be kept is refused, whether it is named, inside what is named, or around it."""
    with pytest.raises(StateSettingsError, match="for a reason"):
        list(Selection(root, [pattern], {root / "cache/x": "for a reason"}).files())
    assert list(Selection(root, ["a.json", "other"], {root / "cache/x": "for a reason", root.parent: "not this"}).files())


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\\b", "a\0b"])
def test_a_path_of_a_checkpoint_must_stay_inside(path: str) -> None:
    """Paths that come from a store never lead out of the project's folder."""
    assert not is_inside(path)
    assert is_inside("a/b.json")
