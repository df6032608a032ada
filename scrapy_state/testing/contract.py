"""The promises of a store, as tests."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..exceptions import KeyTaken
from ..model.key_template import without_credentials
from ..stores import StoreReader, open_reader, open_writer
from ..stores.base import keys_within, takes_depth
from .place import Place

#: File names with characters that are special in a URI, a template, a shell or a pattern, and some that are not ASCII
ODD_NAMES = (
    *("a b.json", "100%.json", "%20.json", "%(x)s.json", "a#b.json", "a?b=c&d.json", "a+b.json", "a;b.json", "~a,b!@$.json"),
    *("it's.json", '"quoted".json', "<a>&amp;.json", "a\\b.json", "[a-z]*.json", "grüße.json", "日本/語.json", "é.json", "🐙"),
)
_CONTENTS = (b"", b"x", b"two\nlines\r\n", bytes(range(256)), b"z" * 3_000_000)
_ROUNDS = 10
_DEADLINE_SECONDS = 30


class StoreContract:
    """Tests of what :class:`~scrapy_state.stores.StoreReader` and :class:`~scrapy_state.stores.StoreWriter` promise.

    Derive a test class from it, and give that the fixture ``place``.
    """

    #: The size of a file that the store takes in parts (as S3 does). Set it lower if your store takes any file in one piece.
    large_bytes = 65 * 1024 * 1024

    @pytest.fixture
    def place(self) -> Place:
        """Return an empty place, a new one for each test. Override it."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture 'place' that returns a scrapy_state.testing.Place")

    @pytest.mark.parametrize("content", _CONTENTS, ids=lambda content: f"{len(content)} bytes")
    def test_create_then_read(self, place: Place, content: bytes) -> None:
        """Reader and writer return what was created, byte for byte. Creating the same again succeeds, as after a lost reply."""
        for _ in range(2):
            place.create("a/b.json", content)
            assert place.read("a/b.json") == place.writer.read(place.key + "a/b.json") == content
        assert place.names() == {"a/b.json"}

    def test_probe(self, place: Place) -> None:
        """A probe leaves no key behind and changes no content, not even that of the probed key."""
        place.writer.probe(f"{place.key}a/b.json")
        assert place.names() == set()
        place.create("a/b.json", b"x")
        place.writer.probe(f"{place.key}a/b.json")
        assert place.names() == {"a/b.json"}
        assert place.read("a/b.json") == b"x"

    def test_missing_key(self, place: Place) -> None:
        """Reading a missing key returns None and is no error, whether or not similar keys exist."""
        place.create("a/b.json", b"x")
        for name in ("a/c.json", "d/b.json", "a/b.jso", "a/b.json2"):
            assert place.read(name) is None
            assert place.reader.read_part(place.key + name, 0, 10) is None
            assert place.reader.read_part(place.key + name, -10, 10) is None

    def test_create_only(self, place: Place) -> None:
        """If a key has other content, creating it raises KeyTaken with the URI, and the stored content stays."""
        place.create("a.json", b"ours")
        for other in (b"ours and more", b"our", b"", b"OURS"):
            with pytest.raises(KeyTaken) as caught:
                place.create("a.json", other)
            assert place.writer.uri(place.key + "a.json") in str(caught.value)
            assert place.read("a.json") == b"ours"
        assert place.names() == {"a.json"}

    def test_large(self, place: Place) -> None:
        """A large file is stored whole, too, and never overwritten: other content raises KeyTaken."""
        content = (bytes(range(251)) * (self.large_bytes // 251 + 1))[: self.large_bytes]
        for _ in range(2):
            place.create("a/large", content)
        for other in (content[:-1] + b"x", b"x" + content[1:], content[:-1], content + b"x"):
            with pytest.raises(KeyTaken):
                place.create("a/large", other)
        assert place.read("a/large") == content
        assert place.names() == {"a/large"}

    @pytest.mark.parametrize(("size", "parts"), [(0, 2), (10, 4), (100_000, 60_000)])
    def test_read_part(self, place: Place, size: int, parts: int) -> None:
        """``read_part()`` returns what a slice of the whole would be, counted from the beginning, from the end, and past it."""
        content = bytes(number % 251 for number in range(size))
        place.create("a", content)
        for begin in (0, 1, size - 1, size, size + 5, -1, -size, -size - 5):
            expected = content[begin:][:parts]
            assert place.reader.read_part(place.key + "a", begin, parts) == expected, f"read_part(…, {begin}, {parts})"

    def test_keys(self, place: Place) -> None:
        """``keys()`` yields all keys that begin with the prefix, even if it ends in the middle of a name, and no others."""
        names = {"a/1.json", "a/10.json", "a/100.json", "a/b/100.json", "ab/1.json", "abc", "b", "c/d/e/f"}
        for name in names:
            place.create(name, b"x")
        for prefix in ("", "a", "a/", "a/1", "a/10", "ab", "a/b/", "a/b/100", "b", "zz/"):
            assert place.names(prefix) == {name for name in names if name.startswith(prefix)}, f"under {prefix!r}"

    def test_keys_after(self, place: Place) -> None:
        """``keys()`` yields the keys that sort after any given text, up to the limit; in order if ``ordered``."""
        # In order of code points, as in UTF-8. In UTF-16 the last two would change places.
        names = sorted(("1", "10", "100", "2", "a b", "A", "~", "é", "日/本", "\uff5e", "🐙"))
        for name in ("r", *(f"s/{name}" for name in names), "t"):
            place.create(name, b"x")
        prefix = f"{place.key}s/"
        others = (f"{prefix}15", f"{prefix}日", f"{place.key}s0", f"{place.key}t")
        for after in ("", place.key, prefix, *(prefix + name for name in names), *others):
            expected = [prefix + name for name in names if prefix + name > after]
            for limit in (None, 2):
                keys = list(place.reader.keys(prefix, after=after, limit=limit))
                assert len(keys) == len(expected[:limit]), f"after {after!r}, limit {limit}"
                assert set(keys) <= set(expected), f"after {after!r}, limit {limit}"
                assert not place.reader.ordered or keys == expected[:limit], f"after {after!r}, limit {limit}"

    def test_keys_within(self, place: Place) -> None:
        """A store whose ``keys()`` has *depth* may leave out keys below that depth, and no others.

        Keys below it don't count towards the limit: if ``keys()`` yields fewer than the limit, there are no more.
        """
        names = {"a/1", "a/2/1", "a/2/2/1", "a/3/1", "a/4", "a/5/1", "a/6", "ab/1", "b"}
        for name in names:
            place.create(name, b"x")
        for prefix in ("", "a", "a/", "a/2", "a/2/", "b", "zz/"):
            for depth in (0, 1, 2):
                expected = {name for name in names if name.startswith(prefix) and name.count("/", len(prefix)) <= depth}
                keys = list(keys_within(place.reader, place.key + prefix, depth))
                assert sorted(keys) == sorted(place.key + name for name in expected), f"under {prefix!r}, depth {depth}"
        if takes_depth(place.reader):
            expected = {f"{place.key}a/{number}" for number in (1, 4, 6)}
            for limit in (1, 2, 3, 4):
                keys = list(place.reader.keys(f"{place.key}a/", limit=limit, depth=0))
                assert len(keys) <= limit
                assert len(keys) == limit or set(keys) >= expected, f"limit {limit}: some are missing"

    def test_no_keys(self, place: Place) -> None:
        """An empty prefix has no keys, and reading and listing leave nothing behind."""
        for prefix in ("", "no/such/folder/", "no/such/folder/00"):
            assert place.names(prefix) == set()
        assert place.read("no/such/file") is None
        assert place.names() == set()

    def test_odd_names(self, place: Place) -> None:
        """A name with odd characters is stored under exactly that name, and ``keys()`` finds it by its beginning."""
        for name in ODD_NAMES:
            place.create(f"x{name}", name.encode())
        assert place.names() == place.names("x") == {f"x{name}" for name in ODD_NAMES}
        for name in ODD_NAMES:
            assert place.read(f"x{name}") == name.encode(), name
            assert f"x{name}" in place.names(f"x{name[:1]}"), name

    def test_uri(self, place: Place) -> None:
        """The URI of a key is absolute, has no credentials, and opens that key, whatever characters the key has."""
        for name in ("a/b.json", *ODD_NAMES):
            place.create(name, name.encode())
            uri = place.writer.uri(place.key + name)
            assert uri == place.reader.uri(place.key + name) == without_credentials(uri)
            assert "://" in uri
            reader, key = open_reader(uri, place.settings)
            assert key == place.key + name
            assert reader.read(key) == name.encode(), name

    def test_beginning_of_uri(self, place: Place) -> None:
        """The beginning of a URI, as in FEEDS, opens the beginning of a key, the same one for reader and writer.

        So the rest of a template can be appended to it. (What percent signs mean is up to the store: in a file:// URI they
        stand for characters of a path.)
        """
        for name in ("", "a", "a/", "a/state-", "a/00", "日本/語", "a b", "a?b=c&d", "a#b", "a;b", "a+b", "a@b:c"):
            assert open_reader(place.uri + name, place.settings)[1] == place.key + name
            assert open_writer(place.uri + name, place.settings)[1] == place.key + name

    def test_file_stays_open(self, place: Place) -> None:
        """The whole file is stored, wherever its position is. It stays open, so that the caller can store it again."""
        with tempfile.TemporaryFile() as file:
            file.write(b"content")
            file.seek(3)
            for name in ("a", "a", "b"):
                place.writer.create(place.key + name, file)
            place.create("c", b"other")
            with pytest.raises(KeyTaken):
                place.writer.create(place.key + "c", file)
            assert not file.closed
            place.writer.create(place.key + "d", file)
            file.seek(0)
            file.write(b"changed")
            file.flush()
            for name in ("a", "b", "d"):
                assert place.read(name) == b"content", "the stored content must not change with the caller's file"

    def test_read_side(self, place: Place) -> None:
        """A reader has no public methods other than those that read."""
        methods = {name for name in dir(place.reader) if not name.startswith("_") and callable(getattr(place.reader, name))}
        assert methods == {name for name, value in vars(StoreReader).items() if not name.startswith("_") and callable(value)}
        assert not isinstance(place.reader, type(place.writer))

    def test_delete(self, place: Place) -> None:
        """``delete()`` deletes one key and nothing else. Deleting a missing key is no error."""
        place.create("a/1", b"x")
        place.create("a/10", b"x")
        for _ in range(2):
            place.writer.delete(place.key + "a/1")
        place.writer.delete(place.key + "no/such/folder/1")
        assert place.read("a/1") is None
        assert place.names() == {"a/10"}

    def test_opened_twice(self, place: Place) -> None:
        """If the place is opened again, the new writer sees what the first one has stored, and can't overwrite it."""
        place.create("a", b"x")
        other = Place(place.uri, place.settings)
        assert other.names() == {"a"}
        assert other.read("a") == b"x"
        with pytest.raises(KeyTaken):
            other.create("a", b"y")

    def test_threads(self, place: Place) -> None:
        """Several threads may use one store at the same time."""

        def use(number: int) -> None:
            name = f"{number}/file"
            place.create(name, name.encode() * 1000)
            assert place.read(name) == name.encode() * 1000
            assert place.names(f"{number}/") == {name}
            assert place.read(f"{number}/other") is None

        place.names()  # It opens the reader; the threads share it.
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(use, range(10, 26)))
        assert place.names() == {f"{number}/file" for number in range(10, 26)}

    def test_writers_at_once(self, place: Place) -> None:
        """If two writers create one key at the same instant, one of them wins, and its content is stored whole.

        If the store says ``atomic``, the other one gets KeyTaken.
        """
        at_once = threading.Barrier(2)
        opened = [Place(place.uri, place.settings), Place(place.uri, place.settings)]

        def write(writer: int, name: str) -> bool:
            at_once.wait(_DEADLINE_SECONDS)
            try:
                opened[writer].create(name, contents[writer])
            except KeyTaken:
                return False
            return True

        contents = (b"one" * 1000, b"another" * 1000)
        with ThreadPoolExecutor(2) as pool:
            for name in map(str, range(_ROUNDS)):
                won = list(pool.map(write, (0, 1), (name, name)))
                assert any(won)
                stored = place.read(name)
                assert stored in [content for content, win in zip(contents, won, strict=True) if win]
                assert won != [True, True] or not place.writer.atomic, "atomic, but two writers of one key both won"
