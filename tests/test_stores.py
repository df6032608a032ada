"""The stores: one contract for all of them, then what is each one's own."""

import errno
import http.server
import io
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from scrapy_state.exceptions import KeyTaken, StateSettingsError, StoreError, StoreRefused, StoreUnreachable
from scrapy_state.stores import StoreReader, StoreWriter, local, open_reader, open_writer, s3, without_credentials
from scrapy_state.stores.s3 import S3Options, S3Reader, S3Writer, get_client

ODD_NAMES = [
    *("a b.json", "100%.json", "%20.json", "%(x)s.json", "a#b.json", "a?b=c&d.json", "a+b.json", "a;b.json", "~a,b!@$.json"),
    *("it's.json", '"quoted".json', "<a>&amp;.json", "a\\b.json", "[a-z]*.json", "grüße.json", "日本/語.json", "é.json", "🐙"),
]
SECRET = "s3cr3t"


@dataclass
class Place:
    """An empty place in a store. *uri* and *key*: of the place, a slash at the end."""

    uri: str
    key: str
    writer: StoreWriter
    reader: StoreReader
    everything: Any

    def create(self, name: str, content: bytes) -> None:
        self.writer.create(self.key + name, io.BytesIO(content))

    def read(self, name: str) -> bytes | None:
        return self.reader.read(self.key + name)

    def names(self, prefix: str = "") -> set[str]:
        """The names that keys() finds; each must be there once."""
        found = list(self.reader.keys(self.key + prefix))
        assert len(found) == len(set(found))
        return {each.removeprefix(self.key) for each in found}


@pytest.fixture
def local_place(tmp_path: Path) -> Place:
    uri = f"{tmp_path}/"
    (writer, key), (reader, _) = open_writer(uri, {}), open_reader(uri, {})

    def everything() -> list[str]:
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir())

    return Place(uri, key, writer, reader, everything)


@pytest.fixture
def s3_place(bucket: str, s3_settings: dict[str, str], s3_client: Any) -> Place:
    uri = f"s3://{bucket}/a/place/"
    (writer, key), (reader, _) = open_writer(uri, s3_settings), open_reader(uri, s3_settings)

    def everything() -> list[str]:
        uploads = s3_client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        objects = s3_client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return sorted([each["Key"].removeprefix(key) for each in objects] + [each["UploadId"] for each in uploads])

    return Place(uri, key, writer, reader, everything)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


class TestEveryStore:
    @pytest.mark.parametrize("content", [b"", b"x", b"two\nlines\r\n", bytes(range(256)), b"z" * 3_000_000])
    def test_create_then_read(self, place: Place, content: bytes) -> None:
        """What was created is read back, byte for byte."""
        place.create("a/b.json", content)
        assert place.read("a/b.json") == content

    def test_missing_key(self, place: Place) -> None:
        """A key that isn't there is None, not an error, in a folder that is there and in one that isn't."""
        place.create("a/b.json", b"x")
        assert place.read("a/c.json") is None
        assert place.read("d/b.json") is None

    @pytest.mark.parametrize("other", [b"ours and more", b"our", b"", b"OURS"])
    def test_create_only(self, place: Place, other: bytes) -> None:
        """A name that is taken by other content is KeyTaken with its URI, and what is stored stays as it is."""
        place.create("a.json", b"ours")
        with pytest.raises(KeyTaken, match=r"a\.json"):
            place.create("a.json", other)
        assert place.read("a.json") == b"ours"
        assert place.everything() == ["a.json"]

    @pytest.mark.parametrize("content", [b"", b"ours", b"z" * 3_000_000])
    def test_same_content_again(self, place: Place, content: bytes) -> None:
        """The same content again is a success, as after a reply that was lost."""
        for _ in range(3):
            place.create("a.json", content)
        assert place.read("a.json") == content
        assert place.everything() == ["a.json"]

    @pytest.mark.parametrize("prefix", ["", "a", "a/", "a/1", "a/10", "ab", "a/b/", "a/b/100", "b", "zz/"])
    def test_keys(self, place: Place, prefix: str) -> None:
        """keys() finds all that begins with the prefix, also one that ends in the middle of a name, and nothing else."""
        names = {"a/1.json", "a/10.json", "a/100.json", "a/b/100.json", "ab/1.json", "abc", "b", "c/d/e/f"}
        for name in names:
            place.create(name, b"x")
        assert place.names(prefix) == {name for name in names if name.startswith(prefix)}

    def test_no_keys(self, place: Place) -> None:
        """Nothing under a prefix, or a folder that isn't there, is no key."""
        assert place.names() == set()
        assert place.names("no/such/folder/00") == set()

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names(self, place: Place, name: str) -> None:
        """A name with odd characters is stored under just that name, found by it and by its beginning."""
        place.create(f"x{name}", b"1")
        assert place.names() == place.names("x") == place.names(f"x{name[:1]}") == {f"x{name}"}
        assert place.read(f"x{name}") == b"1"

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_uri_opens_key(self, place: Place, name: str, s3_settings: dict[str, str]) -> None:
        """The URI that a checkpoint has of a file is absolute and leads to that file."""
        place.create(name, b"content")
        uri = place.writer.uri(place.key + name)
        assert uri.startswith(("file:///", "s3://"))
        store, key = open_reader(uri, s3_settings)
        assert store.read(key) == b"content"

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_uri_with_odd_characters(self, place: Place, name: str, s3_settings: dict[str, str]) -> None:
        """A URI or path as it stands in FEEDS opens the whole key: no character ends it early."""
        _, key = open_reader(place.uri + name, s3_settings)
        assert key == place.key + name

    def test_file_stays_open(self, place: Place, tmp_path: Path) -> None:
        """create() leaves the file open, so that it can be called again, whatever came of it."""
        with (tmp_path / "file").open("w+b") as file:
            file.write(b"content")
            place.writer.create(place.key + "a.json", file)
            place.writer.create(place.key + "a.json", file)
            place.create("b.json", b"other")
            with pytest.raises(KeyTaken):
                place.writer.create(place.key + "b.json", file)
            assert not file.closed
            place.writer.create(place.key + "c.json", file)
        assert place.read("a.json") == place.read("c.json") == b"content"

    @pytest.mark.parametrize("position", [0, 3, 7])
    def test_from_beginning_to_end(self, place: Place, position: int) -> None:
        """The whole file is stored, wherever it was read to."""
        file = io.BytesIO(b"content")
        file.seek(position)
        place.writer.create(place.key + "a.json", file)
        assert place.read("a.json") == b"content"

    def test_stored_content_is_apart(self, place: Place, tmp_path: Path) -> None:
        """What is written to the caller's file afterwards does not change what is stored."""
        path = tmp_path / "file"
        path.write_bytes(b"content")
        with path.open("rb") as file:
            place.writer.create(place.key + "a.json", file)
        path.write_bytes(b"changed")
        assert place.read("a.json") == b"content"

    def test_reader_can_not_write(self, place: Place) -> None:
        """What a read-only run is given has no method but those that read."""
        methods = {name for name in dir(place.reader) if not name.startswith("_") and callable(getattr(place.reader, name))}
        assert methods == {"uri", "keys", "read"}
        assert not isinstance(place.reader, type(place.writer))

    def test_reading_leaves_nothing(self, place: Place) -> None:
        """Reading and listing store nothing, not even a folder."""
        assert place.read("a/b/c.json") is None
        assert place.names("a/b/") == set()
        assert place.everything() == []

    def test_delete(self, place: Place) -> None:
        """What is deleted is gone, and nothing else; what isn't there can be deleted too."""
        place.create("a/1", b"x")
        place.create("a/10", b"x")
        for _ in range(2):
            place.writer.delete(place.key + "a/1")
        place.writer.delete(place.key + "no/such/folder/1")
        assert place.names() == {"a/10"}

    def test_writer_says_atomic(self, place: Place) -> None:
        """A store says whether it was proved that one of two writers is told; a server at an address of one's own is not."""
        assert place.writer.atomic is isinstance(place.writer, local.LocalWriter)


@pytest.mark.parametrize("uri", ["ftp://host/x", "gs://bucket/x", "http://host/x", f"ftp://user:{SECRET}@host/x"])
def test_unknown_scheme(uri: str) -> None:
    """A scheme without a store is an error that has the URI, without its password, and what there is."""
    for opener in (open_reader, open_writer):
        with pytest.raises(StateSettingsError, match="s3://, file:// or a path") as caught:
            opener(uri, {})
        assert without_credentials(uri) in str(caught.value)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/key", "s3://bucket/key"),
        ("s3://user:secret@bucket/key", "s3://bucket/key"),
        ("s3://user@bucket/key", "s3://bucket/key"),
        ("s3://user:se%2Fcret@Bucket/k@y:x", "s3://Bucket/k@y:x"),
        ("s3://user:se@cret@bucket/key", "s3://bucket/key"),
        ("ftp://user:secret@host:21/%(name)s/%(batch_id)d", "ftp://host:21/%(name)s/%(batch_id)d"),
        ("/home/me@here/%(batch_id)d", "/home/me@here/%(batch_id)d"),
        ("s3://user:se/cret@bucket/key", "s3://bucket/key"),  # many AWS secrets have a slash
    ],
)
def test_without_credentials(uri: str, expected: str) -> None:
    """User and password are taken out of a URI, and nothing else."""
    assert without_credentials(uri) == expected


class TestLocal:
    @pytest.mark.parametrize("form", ["{folder}/a b%20/", "file://{folder}/a%20b%2520/"])
    def test_forms(self, tmp_path: Path, form: str) -> None:
        """A path stands for itself; in a file:// URI what is percent-encoded is decoded."""
        assert open_reader(form.format(folder=tmp_path), {})[1] == f"{tmp_path}/a b%20/"

    def test_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative path is below the folder one was in when it was opened."""
        monkeypatch.chdir(tmp_path)
        assert open_reader("state/00", {})[1] == f"{tmp_path}/state/00"
        assert open_reader("./state/", {})[1] == f"{tmp_path}/state/"

    def test_racing_writers(self, local_place: Place) -> None:
        """Of two writers of one key at the same instant exactly one wins, and the other is told."""
        barrier = threading.Barrier(2)
        won: list[tuple[int, bytes]] = []
        taken: list[int] = []

        def write(content: bytes) -> None:
            for turn in range(50):
                barrier.wait(30)
                try:
                    local_place.create(f"{turn}.json", content)
                    won.append((turn, content))
                except KeyTaken:
                    taken.append(turn)

        threads = [threading.Thread(target=write, args=(content,)) for content in (b"one", b"two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == list(range(50))
        assert {turn: local_place.read(f"{turn}.json") for turn in range(50)} == dict(won)
        assert len(local_place.everything()) == 50

    @pytest.mark.parametrize("proc", [True, False])
    @pytest.mark.parametrize("o_tmpfile", [True, False])
    @pytest.mark.parametrize("named", [True, False])
    def test_ways_to_store(
        self, local_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proc: bool, o_tmpfile: bool, named: bool
    ) -> None:
        """Whatever the system can do, a file is stored with the usual permissions, create-only, with nothing left behind."""
        if not proc:
            monkeypatch.setattr(os, "link", refuse_proc(os.link))
        if not o_tmpfile:
            monkeypatch.setattr(os, "O_TMPFILE", 0)
            monkeypatch.setattr(tempfile, "_O_TMPFILE_WORKS", False)
        file = local.nameless_file(tmp_path) if named else io.BytesIO()
        with file:
            file.write(b"content")
            local_place.writer.create(local_place.key + "a/b.json", file)
            local_place.writer.create(local_place.key + "a/b.json", file)
        with pytest.raises(KeyTaken):
            local_place.create("a/b.json", b"other")
        assert local_place.everything() == ["a/b.json"]
        assert local_place.read("a/b.json") == b"content"
        path = tmp_path / "a/b.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~local._UMASK
        assert path.stat().st_nlink == 1

    def test_nothing_left_of_a_failure(self, local_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where no file can be given its name, that is an error, and nothing is left behind."""

        def link(*_: Any, **__: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(StoreUnreachable, match="Input/output error"):
            local_place.create("a.json", b"content")
        assert local_place.everything() == []

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
    def test_no_room(self, local_place: Place, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        """A full or read-only disk is a refusal, with what the system said; nothing is left behind."""

        def copy(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(local, "_copy", copy)
        with pytest.raises(StoreRefused, match=os.strerror(code)):
            local_place.create("a.json", b"content")
        assert local_place.everything() == []

    def test_left_over_is_no_key(self, local_place: Place, tmp_path: Path) -> None:
        """A temporary file that a kill left behind is not taken for a key."""
        (tmp_path / f"{local._TEMPORARY}abc").write_bytes(b"{")
        assert local_place.names() == set()

    @pytest.mark.parametrize("under", ["file/", "file/00", "file/state/00"])
    def test_list_below_a_file(self, local_place: Place, under: str) -> None:
        """A folder that can't be read because it is below a file is a refusal, never "no keys"."""
        local_place.create("file", b"x")
        with pytest.raises(StoreRefused, match="Not a directory"):
            local_place.names(under)

    @pytest.mark.parametrize("name", ["file/a.json", "file/state/a.json"])
    def test_read_and_write_below_a_file(self, local_place: Place, name: str) -> None:
        """A key below a file can't be read nor created: a refusal that says where to look, not to be tried again."""
        local_place.create("file", b"x")
        with pytest.raises(StoreRefused, match="check the path in FEEDS"):
            local_place.read(name)
        with pytest.raises(StoreRefused, match="check the path in FEEDS"):
            local_place.create(name, b"x")

    def test_folder_in_the_way(self, local_place: Place) -> None:
        """A key that is a folder is a refusal, to read and to create."""
        local_place.create("a/b", b"x")
        with pytest.raises(StoreRefused, match="Is a directory"):
            local_place.read("a")
        with pytest.raises(StoreRefused, match="Is a directory"):
            local_place.create("a", b"x")


def refuse_proc(link: Any) -> Any:
    """os.link() of a system where a file without a name can't be given one."""

    def refuse(source: Any, *arguments: Any, **options: Any) -> None:
        if str(source).startswith("/proc/self/fd/"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, *arguments, **options)

    return refuse


@pytest.fixture
def forbidden() -> Iterator[str]:
    """A folder that may be neither read nor written, with a file in it; root gives up its rights until the end."""
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
        """A folder that may not be read is a refusal, never "no keys"; so is what would lie below it."""
        store, key = open_reader(forbidden + prefix, {})
        with pytest.raises(StoreRefused, match="Permission denied"):
            list(store.keys(key))

    @pytest.mark.parametrize("name", ["/1.json", "/2.json", "/below/1.json"])
    def test_read_and_write(self, forbidden: str, name: str) -> None:
        """A file in it can't be read or created: a refusal that names the path."""
        store, key = open_writer(forbidden + name, {})
        with pytest.raises(StoreRefused, match=f"{key}: Permission denied"):
            store.read(key)
        with pytest.raises(StoreRefused, match=f"{key}: Permission denied"):
            store.create(key, io.BytesIO(b"x"))
        with pytest.raises(StoreRefused, match=f"{key}: Permission denied"):
            store.delete(key)

    def test_beside(self, forbidden: str) -> None:
        """A forbidden folder that can't hold any key of the prefix is none of our business."""
        store, key = open_reader(str(Path(forbidden).parent / "state-00"), {})
        assert list(store.keys(key)) == []


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next of the server's *answers*, the last of them again and again."""

    protocol_version = "HTTP/1.1"  # for "Expect: 100-continue", which botocore waits for

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(f"{self.command} {self.headers.get('If-None-Match', '')}".strip())  # type: ignore[attr-defined]
        answers = self.server.answers  # type: ignore[attr-defined]
        status, code = answers.pop(0) if len(answers) > 1 else answers[0]
        body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_PUT

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def answering_server() -> Iterator[Any]:
    """One for all tests: a client for each would take most of their time."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def answering(answering_server: Any) -> Any:
    answering_server.answers, answering_server.seen = [], []
    return answering_server


def s3_at(endpoint: str) -> S3Writer:
    return S3Writer("bucket", S3Options(endpoint, "us-east-1", "the-access-key", SECRET))


def closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def calls(store: StoreWriter) -> list[Any]:
    return [
        lambda: list(store.keys("a/")),
        lambda: store.read("a/b"),
        lambda: store.delete("a/b"),
        lambda: store.create("a/b", io.BytesIO(b"x")),
    ]


class TestS3:
    def test_parts(self, s3_place: Place, s3_client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file above PART_BYTES goes in parts, whole, create-only, and leaves no upload open behind it."""
        monkeypatch.setattr(s3, "PART_BYTES", 5 * 1024 * 1024)
        content = bytes(range(256)) * 40 * 1024 + b"the end"
        s3_place.create("big", content)
        assert s3_client.head_object(Bucket=bucket, Key=f"{s3_place.key}big")["ETag"].endswith('-3"')
        assert s3_place.read("big") == content
        s3_place.create("big", content)
        with pytest.raises(KeyTaken):
            s3_place.create("big", content[:-1] + b"D")
        assert s3_place.read("big") == content
        assert s3_place.everything() == ["big"]

    def test_just_one_part(self, s3_place: Place, s3_client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file of PART_BYTES goes as one."""
        monkeypatch.setattr(s3, "PART_BYTES", 1000)
        s3_place.create("a", b"x" * 1000)
        assert "-" not in s3_client.head_object(Bucket=bucket, Key=f"{s3_place.key}a")["ETag"]

    def test_pages(self, s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """A listing of several pages is read to its end."""
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
        for number in range(8):
            s3_place.create(f"{number}", b"x")
        assert s3_place.names() == set("01234567")

    def test_unreachable(self) -> None:
        """No answer is StoreUnreachable for every method, with the address and where to set it; never "nothing there"."""
        for call in calls(s3_at(f"http://127.0.0.1:{closed_port()}")):
            with pytest.raises(StoreUnreachable, match=r"no answer from http://127\.0\.0\.1:.*check AWS_ENDPOINT_URL"):
                call()

    def test_no_bucket(self, s3_settings: dict[str, str]) -> None:
        """A bucket that isn't there is StoreRefused for every method, with what to check."""
        store, _ = open_writer("s3://no-such-bucket/a/", s3_settings)
        for call in calls(store):
            with pytest.raises(
                StoreRefused, match=r"^s3://no-such-bucket/a/.* NoSuchBucket; check the bucket's name in the URI"
            ):
                call()

    @pytest.mark.parametrize(
        ("status", "code", "error", "says"),
        [
            (403, "AccessDenied", StoreRefused, r"403 AccessDenied; check the credentials .* may PutObject there"),
            (403, "InvalidAccessKeyId", StoreRefused, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            (403, "SignatureDoesNotMatch", StoreRefused, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            (400, "ExpiredToken", StoreRefused, "check AWS_SESSION_TOKEN"),
            (400, "AuthorizationHeaderMalformed", StoreRefused, "check AWS_REGION_NAME"),
            (401, "", StoreRefused, "401"),
            (500, "InternalError", StoreUnreachable, "500 InternalError; it may pass"),
            (503, "SlowDown", StoreUnreachable, "503 SlowDown; it may pass"),
            (429, "TooManyRequests", StoreUnreachable, "429"),
            (400, "RequestTimeout", StoreUnreachable, "RequestTimeout"),
        ],
    )
    def test_errors(self, answering: Any, status: int, code: str, error: type[StoreError], says: str) -> None:
        """What may pass by itself is StoreUnreachable, what doesn't StoreRefused with a remedy, none is "nothing there"."""
        answering.answers = [(status, code)]
        store = s3_at(f"http://127.0.0.1:{answering.server_port}")
        with pytest.raises(error, match=says) as caught:
            store.create("a/b", io.BytesIO(b"x"))
        assert str(caught.value).startswith("s3://bucket/a/b: ")
        assert SECRET not in str(caught.value)
        for call in calls(store)[:3]:
            with pytest.raises(error):
                call()

    def test_conflict_is_tried_again(self, answering: Any) -> None:
        """409 says that another request is at work on the key: the write is tried again."""
        answering.answers = [(409, "ConditionalRequestConflict")] * 2 + [(200, "")]
        s3_at(f"http://127.0.0.1:{answering.server_port}").create("a", io.BytesIO(b"x"))
        assert answering.seen == ["PUT *"] * 3

    def test_conflict_for_good(self, answering: Any) -> None:
        """409 for ever is not tried for ever: StoreUnreachable, for whoever has more time."""
        answering.answers = [(409, "ConditionalRequestConflict")]
        with pytest.raises(StoreUnreachable, match="409"):
            s3_at(f"http://127.0.0.1:{answering.server_port}").create("a", io.BytesIO(b"x"))

    def test_no_conditional_writes(self, answering: Any) -> None:
        """A server that answers 501 to a conditional write is looked at first, then written to without."""
        answering.answers = [(501, "NotImplemented"), (200, "")]
        s3_at(f"http://127.0.0.1:{answering.server_port}").create("a", io.BytesIO(b"x"))
        assert answering.seen == ["PUT *", "GET", "PUT"]

    def test_one_client(self) -> None:
        """There is one client for an endpoint and its credentials, whoever asks."""
        settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        settings["AWS_REGION_NAME"] = "us-east-1"
        one, _ = open_writer("s3://bucket-1/a", settings)
        two, _ = open_reader("s3://bucket-2/b", dict(settings))
        assert isinstance(one, S3Writer)
        assert isinstance(two, S3Reader)
        assert get_client(one.options) is get_client(two.options)

    @pytest.mark.parametrize(
        "change",
        [
            {"endpoint_url": "http://127.0.0.1:2"},
            {"region_name": "eu-central-1"},
            {"access_key": "other"},
            {"secret_key": "other"},
            {"session_token": "other"},
        ],
        ids=str,
    )
    def test_other_clients(self, change: dict[str, str]) -> None:
        """Another endpoint, region or another's credentials have a client of their own."""
        options = S3Options("http://127.0.0.1:1", "us-east-1", "a", "b")
        assert get_client(options) is not get_client(replace(options, **change))

    def test_one_client_for_threads(self) -> None:
        """Threads that ask for a client at the same time are given the same one."""
        options = S3Options("http://127.0.0.1:3", "us-east-1", "a", "b")
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(get_client(options))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len({id(each) for each in found}) == 1

    def test_credentials_in_uri(self) -> None:
        """Credentials in the URI go before the settings', decoded; the store's own URIs are without them."""
        settings = {"AWS_ACCESS_KEY_ID": "from-settings", "AWS_SECRET_ACCESS_KEY": "from-settings"}
        store, key = open_writer(f"s3://me:{SECRET}%2Fx@bucket/a/b", settings)
        assert isinstance(store, S3Writer)
        assert (store.options.access_key, store.options.secret_key) == ("me", f"{SECRET}/x")
        assert (store.bucket, key) == ("bucket", "a/b")
        assert store.uri(key) == "s3://bucket/a/b"

    def test_bucket_keeps_its_case(self) -> None:
        """A bucket's name is taken as it stands, capital letters too."""
        assert s3.split("s3://user:pass@My.Bucket_1/K/%20") == ("My.Bucket_1", "K/%20")

    @pytest.mark.parametrize("uri", ["s3:///a", "s3://", f"s3://me:{SECRET}@/a"])
    def test_no_bucket_in_uri(self, uri: str) -> None:
        """A URI without a bucket is an error that shows the right form, and no password."""
        with pytest.raises(StateSettingsError, match="has no bucket: s3://bucket/…") as caught:
            open_writer(uri, {})
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        "uri", [f"s3://me:{SECRET}@bucket/a", f"s3://me:x/{SECRET}@bucket/a", f"s3://me:{SECRET}/x@bucket/a"]
    )
    def test_no_secrets(self, uri: str) -> None:
        """Credentials are in no repr, text or error, also when a slash in them was not encoded."""
        settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed_port()}", "AWS_SESSION_TOKEN": SECRET}
        texts = []
        try:
            store, key = open_writer(uri, settings)
            assert isinstance(store, S3Writer)
            texts += [repr(store), repr(store.options), str(store.options), store.uri(key)]
            store.read(key)
        except (StoreError, StateSettingsError) as error:
            texts += [str(error), repr(error)]
        assert SECRET not in "".join(texts)

    @pytest.mark.parametrize(
        "setting",
        [
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"},
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL": "", "AWS_REGION_NAME": ""},
        ],
    )
    def test_options(self, setting: dict[str, str]) -> None:
        """Scrapy's AWS_* settings are taken; empty text means that it was not given."""
        options = S3Options.from_settings(setting, "s3://bucket/")
        assert options.access_key == (setting["AWS_ACCESS_KEY_ID"] or None)
        assert options.secret_key == (setting["AWS_SECRET_ACCESS_KEY"] or None)
        assert options.session_token == setting.get("AWS_SESSION_TOKEN")
        assert options.endpoint_url is options.region_name is None

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(None, True), (True, True), ("1", True), ("True", True), (False, False), ("0", False), ("False", False)],
    )
    def test_use_ssl(self, value: Any, expected: bool) -> None:
        """AWS_USE_SSL may be text, as the command line gives it."""
        assert S3Options.from_settings({"AWS_USE_SSL": value}, "s3://bucket/").use_ssl is expected

    @pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
    def test_atomic_on_aws_only(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Only AWS itself is held to be atomic: an address in the environment, of either name, is another server's."""
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        store, _ = open_writer("s3://bucket/a", {})
        assert store.atomic
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        store, _ = open_writer("s3://bucket/a", {"AWS_REGION_NAME": f"region-{len(name)}"})  # else it is the same client
        assert not store.atomic

    def test_acl(self, s3_settings: dict[str, str], s3_client: Any, bucket: str) -> None:
        """FEED_STORAGE_S3_ACL is given to what is stored."""
        store, key = open_writer(f"s3://{bucket}/a", {**s3_settings, "FEED_STORAGE_S3_ACL": "public-read"})
        store.create(key, io.BytesIO(b"x"))
        grants = s3_client.get_object_acl(Bucket=bucket, Key="a")["Grants"]
        assert "READ" in {each["Permission"] for each in grants if each["Grantee"]["Type"] == "Group"}
