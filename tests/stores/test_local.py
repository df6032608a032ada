"""The store on the local disk."""

import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from crawls import SPIDER, checkpoints, crawl, named_items
from empty_places import EmptyPlace

from scrapy_state.exceptions import KeyTaken, StoreError, StoreRefused, StoreUnreachable
from scrapy_state.lineage.prune import prunable
from scrapy_state.lineage.resolve import Resolution, resolve
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.stores import naming, open_reader, open_writer
from scrapy_state.testing import Place, StoreContract


class TestLocal:
    @pytest.mark.parametrize("form", ["{folder}/a b%20/", "file://{folder}/a%20b%2520/"])
    def test_forms(self, tmp_path: Path, form: str) -> None:
        """A path means itself; in a file:// URI percent-encoding is decoded."""
        assert open_reader(form.format(folder=tmp_path), {})[1] == f"{tmp_path}/a b%20/"

    def test_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative path is below the folder that was current when the store was opened."""
        monkeypatch.chdir(tmp_path)
        assert open_reader("state/00", {})[1] == f"{tmp_path}/state/00"
        assert open_reader("./state/", {})[1] == f"{tmp_path}/state/"

    @pytest.mark.parametrize("proc", [True, False])
    @pytest.mark.parametrize("o_tmpfile", [True, False])
    @pytest.mark.parametrize("named", [True, False])
    def test_ways_to_store(
        self, local_place: EmptyPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proc: bool, o_tmpfile: bool, named: bool
    ) -> None:
        """Whatever the system supports, a file is stored with the usual permissions, create-only, with nothing left behind."""
        if not proc:
            monkeypatch.setattr(os, "link", refuse_proc(os.link))
        if not o_tmpfile:
            monkeypatch.setattr(os, "O_TMPFILE", 0)
            monkeypatch.setattr(tempfile, "_O_TMPFILE_WORKS", False)
        file = naming.nameless_file(tmp_path) if named else io.BytesIO()
        with file:
            file.write(b"content")
            local_place.writer.create(local_place.key + "a/b.json", file)
            local_place.writer.create(local_place.key + "a/b.json", file)
        with pytest.raises(KeyTaken):
            local_place.create("a/b.json", b"other")
        assert local_place.everything() == ["a/b.json"]
        assert local_place.read("a/b.json") == b"content"
        path = tmp_path / "a/b.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
        assert path.stat().st_nlink == 1

    def test_nothing_left_of_a_failure(self, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """If no file can be given its name, that is an error, and nothing is left behind."""

        def link(*_: Any, **__: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(StoreUnreachable, match="Input/output error"):
            local_place.create("a.json", b"content")
        assert local_place.everything() == []

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
    def test_no_room(self, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        """A full or read-only disk is a refusal with the system's message; nothing is left behind."""

        def copy(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(naming, "_copy", copy)
        with pytest.raises(StoreRefused, match=os.strerror(code)):
            local_place.create("a.json", b"content")
        assert local_place.everything() == []

    @pytest.mark.parametrize("named", [False, True])
    def test_failed_sync_is_final(
        self, local_place: EmptyPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
    ) -> None:
        """If a file can't be made durable, that is no error to try again after: what was written may be lost, although the
        next fsync(2) would succeed. Nothing gets the name, not even a copy."""
        if named:
            monkeypatch.setattr(naming, "_linkable_file", lambda folder: None)
        fsync, failing = os.fsync, [OSError(errno.EIO, os.strerror(errno.EIO))]

        def fail_once(handle: int) -> None:
            if failing:
                raise failing.pop()
            fsync(handle)

        monkeypatch.setattr(os, "fsync", fail_once)
        with pytest.raises(StoreRefused, match=r"Input/output error \(fsync\); check the disk"):
            local_place.create("a.json", b"content")
        assert failing == []
        assert local_place.everything() == []

    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "Too many open files; allow the process more open files"),
            (MemoryError(), "not enough memory; give the process more memory"),
        ],
    )
    def test_nothing_to_do_with_the_disk(
        self, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
    ) -> None:
        """Too many open files, or too little memory, may pass by itself, and the error says what helps."""

        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr(naming, "_copy", fail)
        with pytest.raises(StoreUnreachable, match=says):
            local_place.create("a.json", b"content")

    def test_folders_are_durable(self, local_place: EmptyPlace, tmp_path: Path, synced: "Synced") -> None:
        """Once a file is stored, the names of all folders above it are durable, whoever made them; each is synced once."""
        (tmp_path / "items").mkdir()  # by an open batch, or by a failed attempt
        local_place.create("items/run/1.json", b"x")
        assert {str(tmp_path), f"{tmp_path}/items", f"{tmp_path}/items/run"} <= set(synced)
        synced.clear()
        local_place.create("items/run/2.json", b"x")
        assert synced == [f"{tmp_path}/items/run"]
        (tmp_path / "x/y").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "x/y")
        local_place.create("link/1.json", b"x")
        assert f"{tmp_path}/x" in synced, "where the folder really is"

    def test_folders_made_again(self, local_place: EmptyPlace, tmp_path: Path, synced: "Synced") -> None:
        """A folder that was removed and made again is a new one. After a failed sync the next attempt syncs again."""
        local_place.create("a/b/1.json", b"x")
        shutil.rmtree(tmp_path / "a")
        synced.failing = [tmp_path / "a"]
        with pytest.raises(StoreUnreachable, match="Input/output error"):
            local_place.create("a/b/1.json", b"x")
        synced.clear()
        local_place.create("a/b/1.json", b"x")
        assert {str(tmp_path), f"{tmp_path}/a", f"{tmp_path}/a/b"} <= set(synced)

    @pytest.mark.parametrize("code", [errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP])
    def test_folder_without_sync(self, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        """If a network file system can't sync folders, that is no failure: nobody can do anything about it."""
        monkeypatch.setattr(os, "fsync", only_files(os.fsync, code))
        local_place.create("a/b/1.json", b"x")
        assert local_place.read("a/b/1.json") == b"x"

    def test_folder_sync_fails(self, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """If a file system can sync folders, but fails, that is a failure: the stored file may not be durable."""
        monkeypatch.setattr(os, "fsync", only_files(os.fsync, errno.EIO))
        with pytest.raises(StoreUnreachable, match="Input/output error"):
            local_place.create("a.json", b"x")

    def test_left_over_is_no_key(self, local_place: EmptyPlace, tmp_path: Path) -> None:
        """A temporary file that a kill left behind is not a key."""
        (tmp_path / f"{naming.TEMPORARY}abc").write_bytes(b"{")
        assert local_place.names() == set()

    @pytest.mark.parametrize("under", ["file/", "file/00", "file/state/00"])
    def test_list_below_a_file(self, local_place: EmptyPlace, under: str) -> None:
        """A folder that can't be read because it is below a file is a refusal, never "no keys"."""
        local_place.create("file", b"x")
        with pytest.raises(StoreRefused, match="Not a directory"):
            local_place.names(under)

    @pytest.mark.parametrize("name", ["file/a.json", "file/state/a.json"])
    def test_read_and_write_below_a_file(self, local_place: EmptyPlace, name: str) -> None:
        """A key below a file can be neither read nor created: a refusal that says where to look, and is not retried."""
        local_place.create("file", b"x")
        with pytest.raises(StoreRefused, match="check the path in FEEDS"):
            local_place.read(name)
        with pytest.raises(StoreRefused, match="check the path in FEEDS"):
            local_place.create(name, b"x")

    def test_folder_in_the_way(self, local_place: EmptyPlace) -> None:
        """A key that is a folder is a refusal, for reading and for creating."""
        local_place.create("a/b", b"x")
        with pytest.raises(StoreRefused, match="Is a directory"):
            local_place.read("a")
        with pytest.raises(StoreRefused, match="Is a directory"):
            local_place.create("a", b"x")


class Synced(list[str]):
    """The folders that were synced. *failing*: those of which the next sync fails."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: list[Path] = []


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Synced:
    found = Synced()
    fsync = os.fsync

    def note(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            if path in found.failing:
                found.failing.remove(path)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            found.append(str(path))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    return found


def only_files(fsync: Callable[[int], None], code: int) -> Callable[[int], None]:
    """The os.fsync() of a file system where it fails for folders."""

    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    return refuse


@pytest.fixture(params=["renamed", "reserved"])
def linkless_place(request: pytest.FixtureRequest, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> EmptyPlace:
    """A disk without hard links; *reserved*: it can't even rename a file on condition that the name is free."""

    def link(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    if request.param == "reserved":
        monkeypatch.setattr(naming, "_renamed_new", lambda *_: False)
    return local_place


class TestWithoutLinks(StoreContract):
    """exFAT, gcsfuse, s3fs, shared folders of virtual machines."""

    @pytest.fixture
    def place(self, linkless_place: EmptyPlace) -> Place:
        return linkless_place

    def test_leaves_nothing(self, place: EmptyPlace, request: pytest.FixtureRequest) -> None:
        """Nothing but the stored file is left, with the usual permissions; the store says whether it was sure to be the only
        writer."""
        for content in (b"ours", b"ours", b"theirs"):
            with suppress(KeyTaken):
                place.create("a/b.json", content)
        assert place.everything() == ["a/b.json"]
        path = Path(place.key, "a/b.json")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
        assert place.writer.atomic is ("renamed" in request.node.name)

    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
    def test_failure(self, place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        """A failure leaves nothing under the name, so the write can be retried."""

        def fail(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        for name in ("replace", "fsync"):
            with monkeypatch.context() as patched:
                patched.setattr(os, name, fail)
                patched.setattr(naming, "_renamed_new", lambda *_: False)
                with pytest.raises(StoreError, match=os.strerror(code)):
                    place.create("a.json", b"content")
            assert place.everything() == []
        place.create("a.json", b"content")

    @pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EMLINK, errno.EACCES])
    def test_how_systems_say_it(self, place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        """Whatever error the system gives for missing links, the file is stored."""

        def link(*_: Any, **__: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "link", link)
        place.create("a.json", b"content")
        assert place.everything() == ["a.json"]

    def test_whole_or_empty(self, place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """A reader sees nothing, an empty file, or the complete one while it is being stored."""
        seen = []
        fsync, replace = os.fsync, os.replace

        def look(*arguments: Any) -> None:
            seen.append(place.read("a.json"))
            (replace if len(arguments) == 2 else fsync)(*arguments)

        monkeypatch.setattr(os, "fsync", look)
        monkeypatch.setattr(os, "replace", look)
        place.create("a.json", b"content" * 1000)
        assert len(seen) >= 2
        assert set(seen) <= {None, b"", b"content" * 1000}


def test_crawl_without_links(tmp_path: Path) -> None:
    """Without hard links a crawl stores and resumes, and says once that a second writer is not prevented."""
    source = f"""
import errno, os
from scrapy_state.stores import naming

def link(*_, **__):
    raise OSError(errno.EPERM, "Operation not permitted")

os.link, naming._renamed_new = link, lambda *_: False
{SPIDER}"""
    for page in (3, 6):
        outcome = crawl(tmp_path, source)
        assert outcome.code == 0, outcome.log
        assert not outcome.lines("] WARNING")
        [line] = outcome.lines("may not write create-only for sure")
        assert f"{(tmp_path / 'data/numbers/state').as_uri()} may not" in line
        assert checkpoints(tmp_path)[-1]["state"] == {"page": page}
    assert named_items(tmp_path) == [{"page": page, "n": n} for page in range(6) for n in range(2)]


def umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def refuse_proc(link: Any) -> Any:
    """The os.link() of a system where a file without a name can't be given one."""

    def refuse(source: Any, *arguments: Any, **options: Any) -> None:
        if str(source).startswith("/proc/self/fd/"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, *arguments, **options)

    return refuse


@pytest.fixture
def forbidden() -> Iterator[str]:
    """A folder with a file in it that may be neither read nor written; root gives up its rights until the end."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder, "inside")
        inside.mkdir()
        (inside / "1.json").write_bytes(b"x")
        Path(folder).chmod(0o755)
        inside.chmod(0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield str(inside)
        finally:
            if root:
                os.seteuid(0)
            inside.chmod(0o755)


class TestForbiddenFolder:
    @pytest.mark.parametrize("prefix", ["/", "/1", "/below/", "/below/1"])
    def test_list(self, forbidden: str, prefix: str) -> None:
        """A folder that may not be read is a refusal, never "no keys"; so is a prefix below it."""
        store, key = open_reader(forbidden + prefix, {})
        with pytest.raises(StoreRefused, match="Permission denied"):
            list(store.keys(key))

    @pytest.mark.parametrize("name", ["/1.json", "/2.json", "/below/1.json"])
    def test_read_and_write(self, forbidden: str, name: str) -> None:
        """A file in it can be neither read nor created: a refusal that names the path."""
        store, key = open_writer(forbidden + name, {})
        with pytest.raises(StoreRefused, match=f"{key}: Permission denied"):
            store.read(key)
        with pytest.raises(StoreRefused, match=f"{key}: Permission denied"):
            store.create(key, io.BytesIO(b"x"))
        with pytest.raises(StoreRefused, match=f"{key}: Permission denied"):
            store.delete(key)

    def test_beside(self, forbidden: str) -> None:
        """A forbidden folder that can't hold a key of the prefix doesn't matter."""
        store, key = open_reader(str(Path(forbidden).parent / "state-00"), {})
        assert list(store.keys(key)) == []

    @pytest.mark.parametrize("text", ["%(batch_id)010d.json", "%(batch_id)d.json", ""])
    def test_below_the_states(self, forbidden: str, text: str) -> None:
        """One that is deeper than the keys of a template doesn't matter either: ``lost+found`` beside the states."""
        template = KeyTemplate.parse(f"{Path(forbidden).parent}/{text}", {})
        store, _ = open_reader(template.prefix, {})
        assert resolve(store, template) == Resolution()
        assert not prunable(store, template, 1)
