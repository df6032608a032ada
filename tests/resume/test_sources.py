"""A state to start from if there are no checkpoints: from the newest items, or from a log."""

import csv
import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from crawls import SPIDER, crawl
from hypothesis import given
from hypothesis import strategies as st
from scrapy.settings import Settings
from scrapy.utils.test import get_crawler

from scrapy_state.exceptions import StateSettingsError, StoreUnreachable
from scrapy_state.extension import StateResolver
from scrapy_state.model.json_values import in_log
from scrapy_state.model.key_template import VARYING, KeyTemplate
from scrapy_state.resume import sources as sources
from scrapy_state.resume.sources import Source, find, last_state
from scrapy_state.settings import StateSettings
from scrapy_state.stores import StoreReader, open_reader
from scrapy_state.testing import Place

STATE = {"t": "time"}
# Before Python 3.11 the csv module can't write NUL.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0" if sys.version_info < (3, 11) else ""), max_size=8)


class Counting:
    """A store that counts the bytes which are read."""

    def __init__(self, store: StoreReader) -> None:
        self.store = store
        self.bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        part = self.store.read_part(key, begin, size)
        self.bytes += len(part or b"")
        return part


class Files:
    """An empty place, and what is found there."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.read_bytes = 0

    def __setitem__(self, name: str, content: str | bytes) -> None:
        self.place.create(name, content.encode() if isinstance(content, str) else content)

    def find(self, **spec: Any) -> Source | None:
        opened = []

        def opener(uri: str) -> tuple[Any, KeyTemplate]:
            template = KeyTemplate.parse(self.place.uri + uri, {}, VARYING)
            store, prefix = open_reader(template.prefix, self.place.settings)
            opened.append(Counting(store))
            return opened[-1], template.under(prefix)

        try:
            return find(spec, opener)
        finally:
            self.read_bytes = opened[0].bytes

    def state(self, uri: str = "items/", fields: Any = STATE) -> Any:
        found = self.find(items=uri, state=fields)
        return None if found is None else found.state

    def log_state(self, uri: str = "crawl.log") -> Any:
        found = self.find(log=uri)
        return None if found is None else found.state


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(Place(f"{tmp_path}/", {}))


@pytest.fixture(params=["local", "s3"])
def stored(request: pytest.FixtureRequest) -> Files:
    if request.param == "local":
        return Files(Place(f"{request.getfixturevalue('tmp_path')}/", {}))
    return Files(Place(f"s3://{request.getfixturevalue('bucket')}/", request.getfixturevalue("s3_settings")))


def jsonlines(items: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def csv_of(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


JSONLINES = jsonlines({"time": number, "n": number} for number in range(1, 4))
CSV = csv_of([["time", "n"], *([number, number] for number in range(1, 4))])
FORMS = {"jsonl": JSONLINES, "csv": CSV, "jsonl.gz": gzip.compress(JSONLINES), "csv.gz": gzip.compress(CSV), "": JSONLINES}


class TestItems:
    @pytest.mark.parametrize("form", FORMS)
    def test_forms(self, stored: Files, form: str) -> None:
        """The state comes from the last item of the newest file, in any format, with the file's URI."""
        stored["items/1"] = jsonlines([{"time": "old"}])
        stored[f"items/2.{form}"] = FORMS[form]
        uri = stored.place.reader.uri(f"{stored.place.key}items/2.{form}")
        expected = "3" if "csv" in form else 3
        found = stored.find(items="items/", state={"t": "time", "n": "n"})
        assert found == ({"t": expected, "n": expected}, "the newest items", uri)

    def test_newest_by_template(self, files: Files) -> None:
        """The newest file is the last in the order of the placeholders' values, not of the names; foreign files are ignored."""
        files["items/9.jl"] = jsonlines([{"time": 9}])
        files["items/10.jl"] = jsonlines([{"time": 10}])
        files["items/x.jl"] = "foreign"
        assert files.state("items/%(batch_id)d.jl") == {"t": 10}

    @pytest.mark.parametrize("form", ["jsonl", "csv", "jsonl.gz", "csv.gz"])
    @pytest.mark.parametrize("torn", range(1, 9))
    def test_torn_line(self, files: Files, form: str, torn: int) -> None:
        """If the last line is torn, the line before it counts."""
        content = FORMS[form.removesuffix(".gz")]
        torn_content = content[:-torn] if "csv" not in form else content[: -min(torn, 4)]
        files[f"items/1.{form}"] = gzip.compress(torn_content) if form.endswith(".gz") else torn_content
        # A JSON object is whole without its line end; of a CSV row nobody knows.
        expected = {"jsonl": 3 if torn == 1 else 2}.get(form.removesuffix(".gz"), "2")
        assert files.state() == {"t": expected}

    def test_torn_within_quotes(self, files: Files) -> None:
        """A row that is torn after a line end in a quoted field is skipped."""
        files["items/1.csv"] = CSV + b'4,"a\r\nb\r\n'
        assert files.state() == {"t": "3"}

    @pytest.mark.parametrize("form", ["jsonl", "csv"])
    def test_torn_gzip(self, files: Files, form: str) -> None:
        """If a compressed file ends early, everything that can be read counts."""
        many = jsonlines({"time": number} for number in range(5000))
        if form == "csv":
            many = csv_of([["time"], *([number] for number in range(5000))])
        files["items/1"] = gzip.compress(many)[:-20]
        state = files.state()
        assert 4000 < int(state["t"]) < 5000

    def test_several_gzip_members(self, files: Files) -> None:
        """A file that was appended to is read to its end."""
        files["items/1.gz"] = gzip.compress(JSONLINES) + gzip.compress(jsonlines([{"time": 4}]))
        assert files.state() == {"t": 4}

    @pytest.mark.parametrize(
        "empty", [b"", b"time,n\r\n", b'{"time"', b"\n\n", gzip.compress(b"", mtime=0), gzip.compress(JSONLINES, mtime=0)[:5]]
    )
    def test_empty_files(self, files: Files, empty: bytes) -> None:
        """A file without a complete item is skipped; if no file has one, there is no state, which is not an error."""
        files["items/2"] = empty
        assert files.state() is None
        files["items/1"] = JSONLINES
        assert files.state() == {"t": 3}

    def test_no_files(self, stored: Files) -> None:
        """Without files there is no state."""
        assert stored.state("no/such/folder/") is None
        assert stored.state("no/%(batch_id)05d.jl") is None

    def test_fields(self, files: Files) -> None:
        """A dot leads into a field; a name that contains a dot wins. Values keep their types."""
        files["items/1.jl"] = jsonlines([{"a": {"b": {"c": [1]}}, "a.b": 5, "n": None, "f": 0.5}])
        fields = {"c": "a.b.c", "ab": "a.b", "n": "n", "f": "f", "o": "a"}
        with pytest.raises(StateSettingsError, match=r"no field 'a\.b\.x'"):
            files.state(fields={"x": "a.b.x"})
        del fields["c"]
        assert files.state(fields=fields) == {"ab": 5, "n": None, "f": 0.5, "o": {"b": {"c": [1]}}}
        files["items/2.jl"] = jsonlines([{"a": {"b": {"c": [1]}}}])
        assert files.state(fields={"c": "a.b.c"}) == {"c": [1]}

    @pytest.mark.parametrize("form", ["jsonl", "csv.gz"])
    @pytest.mark.parametrize("field", ["flight_time", "time.x", "x.time"])
    def test_missing_field(self, files: Files, form: str, field: str) -> None:
        """If the last item lacks a field, the error names the field, the file, and the fields that are there."""
        files["items/1"] = FORMS[form]
        with pytest.raises(StateSettingsError, match=rf"items/1 has no field '{field}' \(it has \['n', 'time'\]\); correct"):
            files.state(fields={"t": field})

    @pytest.mark.parametrize(
        "content",
        [
            b'[\n{"time": 1}\n]',
            b"<items><item/>",
            b"\x80\x03}",
            b"a\n\xff\n",
            b'time\n"a"b\n1\n',
            b'"' + b"x" * 200_000 + b'"\n',
        ],
    )
    def test_other_formats(self, files: Files, content: bytes) -> None:
        """A file that is neither jsonlines nor CSV is an error that names it, not "no items"."""
        files["items/1"] = content
        with pytest.raises(StateSettingsError, match=r"STATE_FROM: .*items/1 (is neither|can't be read).*name other items"):
            files.state()

    def test_no_json_value(self, files: Files) -> None:
        """A value that a state can't have is an error that names the file."""
        files["items/1"] = b'{"time": NaN}\n'
        with pytest.raises(StateSettingsError, match=r"items/1: .*nan"):
            files.state()

    @pytest.mark.parametrize(("line_bytes", "reads"), [(100, 70_000), (70_000, 4_300_000)])
    def test_reads_only_the_end(self, stored: Files, line_bytes: int, reads: int) -> None:
        """Only the end of a large jsonlines file is read, as much as one line needs."""
        lines = [json.dumps({"time": number, "filler": "." * line_bytes}) for number in range(3)]
        stored["items/1"] = '{"x": 1}\n' * 900_000 + "\n".join(lines)
        assert stored.state() == {"t": 2}
        assert stored.read_bytes < reads

    def test_long_line(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line that is longer than the end that is read first is found all the same."""
        monkeypatch.setattr(sources, "_TAILS_BYTES", (100, 1000))
        files["items/1"] = jsonlines([{"time": number, "filler": "." * 5000} for number in range(3)])
        assert files.state() == {"t": 2}

    @pytest.mark.parametrize("form", ["jsonl.gz", "csv.gz", "csv"])
    def test_flat_memory(self, files: Files, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
        """A file that must be read completely is never in memory completely."""
        monkeypatch.setattr(sources, "_CHUNK_BYTES", 100_000)
        content = jsonlines({"time": n, "x": "." * 100} for n in range(25_000))
        if "csv" in form:
            content = csv_of([["time", "x"], *([n, "." * 100] for n in range(25_000))])
        files["items/1"] = gzip.compress(content, 1) if form.endswith("gz") else content
        files.state()
        tracemalloc.start()
        try:
            assert files.state(fields={"t": "time"}) == {"t": "24999" if "csv" in form else 24999}
            assert tracemalloc.get_traced_memory()[1] < 1_500_000 < len(content)
        finally:
            tracemalloc.stop()

    @given(rows=st.lists(st.tuples(TEXT, TEXT), max_size=5))
    def test_any_csv(self, rows: list[tuple[str, str]]) -> None:
        """Whatever text the fields have (quotes, line ends), the last row that csv wrote is found."""
        found = sources._last_row(iter(io.BytesIO(csv_of([["time", "n"], *rows]))))
        assert found == ({"time": rows[-1][0], "n": rows[-1][1]} if rows else None)

    def test_bom(self, files: Files) -> None:
        """A byte order mark, as spreadsheets write it, is not part of the first field's name."""
        files["items/1.csv"] = b"\xef\xbb\xbf" + CSV
        assert files.state() == {"t": "3"}

    def test_unreachable(self, files: Files) -> None:
        """A store that does not answer is an error, never "no items"."""
        settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION_NAME": "us-east-1"}
        settings |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        for spec in ({"items": "items/", "state": STATE}, {"log": "crawl.log"}, {"log": "logs/"}):
            with pytest.raises(StoreUnreachable):
                Files(Place("s3://bucket/", settings)).find(**spec)


STORED = 'checkpoint 7 stored: STATE {"page": 14}, items: 13, files: 1, seconds: 0.030'
START = 'STATE {"page": 10} from checkpoint 5 (file:///a/0000000005.json, run 20261121T020654-74d768, 2 s old)'
CLOSED = 'spider closed (finished): last state yielded {"page": 99}, last stored {"page": 21} (checkpoint 11)'
PREFIXES = (
    *("", "2026-11-21 02:07:01 [scrapy_state.state] INFO: ", "INFO: ", "2013-01-01 10:00:00+0000 [flights] INFO: "),
    *("2026-11-21 02:07:01 INFO [scrapy_state.state] ", "crawler-1  | 2026-11-21 02:07:01 [scrapy_state.state] INFO: ", "> "),
)


class TestLog:
    @pytest.mark.parametrize("prefix", PREFIXES)
    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            (STORED, {"page": 14}),
            (STORED + ", finished", {"page": 14}),
            (START, {"page": 10}),
            ('STATE {"page": 10}', {"page": 10}),
            ('STATE {"page": 7} from the settings (priority cmdline); it goes before checkpoint 5', {"page": 7}),
            (CLOSED, {"page": 21}),
            ('the spider raised ValueError: last state yielded {"page": 3}, last stored {} (checkpoint 1)', {}),
            ('checkpoints stopped at checkpoint 3, STATE {"page": 8}, because: no', {"page": 8}),
            ('STATE {"a": {"b": "STATE {\\"c\\": 1}"}} from the settings (priority spider)', {"a": {"b": 'STATE {"c": 1}'}}),
            ('STATE {"ü": "日本"}', {"ü": "日本"}),
        ],
    )
    def test_lines(self, prefix: str, message: str, expected: Any) -> None:
        """Each line counts that has a stored state, or a state from which a run started, whatever precedes the message."""
        assert last_state([prefix + message + "\n"]) == last_state([(prefix + message).encode()]) == expected
        assert last_state([json.dumps({"level": 20, "message": prefix + message})]) == expected

    @pytest.mark.parametrize(
        "line",
        [
            'DEBUG: state item {"page": 11}',
            'INFO: spider closed (finished): last state yielded {"page": 6}, last stored none in this run',
            'INFO: STATE {"page": 1',
            'INFO: checkpoint 7 stored: STATE {"page": 14}, ite',
            "INFO: STATE [1] from the settings",
            "INFO: STATE none",
            'INFO: STATE {"page": NaN} from the settings',
            """DEBUG: Scraped from <200 http://a/>: {'title': 'STATE {"page": 1}'}""",
            """{'title': 'say: STATE {"page": 1} and go'}""",
            "INFO: Overridden settings: {'STATE': '{\"page\": 1}'}",
            '{"message": "DEBUG: state item {}"}',
            '{"STATE {": 1}',
            "",
        ],
    )
    def test_other_lines(self, line: str) -> None:
        """States that were only yielded, torn lines, and lines of other programs never count."""
        assert last_state([START, line]) == {"page": 10}
        assert last_state([line.encode() + b"\xff\n"]) is None

    def test_shortened(self) -> None:
        """A stored state that the log shortens hides the older ones; the next complete one counts again."""
        long = {"open": [10] * 1000}
        assert in_log({"page": 14}) == '{"page": 14}'
        line = STORED.replace('{"page": 14}', in_log(long))
        assert len(line) < 400
        assert last_state([START, line]) is None
        assert last_state([START, json.dumps({"message": line})]) is None
        assert last_state([START, line, STORED]) == {"page": 14}
        yielded = f"spider closed (finished): last state yielded {in_log(long)}, last stored {{}} (checkpoint 1)"
        assert last_state([START, yielded]) == {}
        assert last_state([START, f"STATE {in_log(long)[:100]}"]) == {"page": 10}  # a torn line

    def test_newest(self) -> None:
        """The last of them counts, even if its run started further back."""
        assert last_state([START, STORED, 'state item {"page": 20}']) == {"page": 14}
        assert last_state([STORED, START]) == {"page": 10}
        assert last_state([]) is None

    @pytest.mark.parametrize("name", ["crawl.log", "crawl.log.gz"])
    @pytest.mark.parametrize("after", [0, 20, 1_000])
    def test_file(self, stored: Files, name: str, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The line is found in a log on any store, compressed or not, however much follows it."""
        monkeypatch.setattr(sources, "_TAILS_BYTES", (1_000, 10_000))
        content = f"{START}\n{STORED}\n{'DEBUG: Crawled (200) <GET http://127.0.0.1/> (referer: None) ....' * 2}\n".encode()
        content += b"DEBUG: Crawled (200) <GET http://127.0.0.1/> (referer: None) [\xff]\n" * after
        stored[f"logs/{name}"] = gzip.compress(content) if name.endswith(".gz") else content
        stored[f"logs/{name}.1"] = "another one's"
        found = stored.find(log=f"logs/{name}")
        assert found == ({"page": 14}, "the log", stored.place.reader.uri(f"{stored.place.key}logs/{name}"))

    def test_end_within_a_line(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the end that is read begins within a line, the rest of that line does not count."""
        rest = 'STATE {"page": 99}\n'
        monkeypatch.setattr(sources, "_TAILS_BYTES", (len(rest), 10_000))
        files["crawl.log"] = f"{START}\nDEBUG: Scraped 'text {rest}"
        assert files.log_state() == {"page": 10}

    def test_newest_log(self, files: Files) -> None:
        """In a folder, or for a template, the newest log that has a state counts; if none has one, that is not an error."""
        files["logs/2026-01.log"] = START
        files["logs/2026-02.log"] = STORED
        files["logs/2026-03.log"] = "nothing"
        assert files.log_state("logs/") == files.log_state("logs/%(time)s.log") == {"page": 14}
        assert files.log_state("other/") is None

    def test_no_log(self, files: Files) -> None:
        """If the log does not exist, or has no such line, an error names it: the run must not start from nothing."""
        with pytest.raises(StateSettingsError, match=r"^STATE_FROM: there is no log file:///.*/crawl\.log; correct the URI"):
            files.log_state()
        files["crawl.log"] = "no state"
        with pytest.raises(StateSettingsError, match=r"^STATE_FROM: the log file:///.*/crawl\.log has no line"):
            files.log_state()


class TestSetting:
    @pytest.mark.parametrize("given", [{"log": "a.log"}, {"log": Path("a.log")}, '{"log": "a.log"}', ' {"log": "a.log"}'])
    def test_forms(self, given: Any) -> None:
        """STATE_FROM is a dict, or JSON text of one; a place may be a Path."""
        assert StateSettings.from_settings(_settings(given)).read_from == {"log": "a.log"}

    @pytest.mark.parametrize("given", ["s3://a/%(name)s/", "%(name)s/{x}", Path("a")])
    def test_text(self, given: Any) -> None:
        """Any other text says where checkpoints are, as before."""
        assert StateSettings.from_settings(_settings(given)).read_from == str(given)

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({}, r"has \[\]"),
            ({"items": "a"}, r"has \['items'\]"),
            ({"item": "a", "state": STATE}, r"has \['item', 'state'\]"),
            ({"log": "a", "items": "b", "state": STATE}, r"has \['items', 'log', 'state'\]"),
            ({"log": "a", "state": STATE}, r"has \['log', 'state'\]"),
            ({5: "a"}, r"has \['5'\]"),
            ({"log": None}, "has no URI as its 'log'"),
            ({"log": ""}, "has no URI as its 'log'"),
            ({"items": ["a"], "state": STATE}, "has no URI as its 'items'"),
            *[
                ({"items": "a", "state": each}, "has .* as its 'state'")
                for each in ({}, "time", ["t"], {"t": 1}, {1: "t"}, None)
            ],
            ('{"log": ', "is not JSON"),
            ("{'log': 's3://me:s3cr3t@a/b'}", "is not JSON"),
        ],
    )
    def test_wrong(self, given: Any, says: str) -> None:
        """Anything else is one error that says what is wrong and what it must be, without the URI's credentials."""
        must_be = 'it must be a URI template.*, or {"log": URI}'
        with pytest.raises(StateSettingsError, match=f"^STATE_FROM {says}.*; {must_be}") as caught:
            StateSettings.from_settings(_settings(given))
        assert "s3cr3t" not in str(caught.value)


def _settings(value: Any) -> Settings:
    return Settings({"STATE_FROM": value})


def found_by(**settings: Any) -> tuple[dict[str, Any], str]:
    """Return what a run of the spider "numbers" starts from, and what its log says about it."""
    crawler = get_crawler(settings_dict={"STATE": {"page": 1}, **settings})
    crawler.spider = crawler._create_spider("numbers")
    return StateResolver(crawler).find_state()


class TestStart:
    def test_from_log_and_items(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a crawl without checkpoints, its items and its log say where to continue; with a log that does not exist, the
        crawl does not start."""
        feeds = {"data/%(name)s-%(batch_id)d.csv": {"format": "csv", "batch_item_count": 2}}
        first = crawl(tmp_path, settings={"FEEDS": feeds, "STATE": {"page": 4}})
        assert first.code == 0
        (tmp_path / "crawl.log.gz").write_bytes(gzip.compress(first.log.encode()))
        monkeypatch.chdir(tmp_path)
        items = {"items": "data/%(name)s-%(batch_id)d.csv", "state": {"page": "page"}}
        newest = (tmp_path / "data/numbers-3.csv").as_uri()
        assert found_by(STATE_FROM=items) == ({"page": "6"}, f"from the newest items ({newest})")
        log = '{"log": "crawl.log.gz"}'
        assert found_by(STATE_FROM=log) == ({"page": 4}, f"from the log ({(tmp_path / 'crawl.log.gz').as_uri()})")
        outcome = crawl(tmp_path, SPIDER, "-s", 'STATE_FROM={"log": "no.log"}', settings={"FEEDS": {}})
        assert outcome.code == 1
        assert outcome.lines("ERROR: the crawl does not start: STATE_FROM: there is no log file:///")
        assert not outcome.lines("begins at")
        assert not outcome.lines("Traceback")

    def test_precedence(self, files: Files) -> None:
        """Items beat a STATE of lower priority, but not an explicit STATE; STATE_LAG is subtracted from their state."""
        source = {"items": f"{files.place.uri}items/", "state": {"page": "n"}}
        assert found_by(STATE_FROM=source)[0] == {"page": 1}
        assert found_by(STATE_FROM=source)[1].endswith("; there are no items, or no log, in STATE_FROM")
        files["items/1"] = JSONLINES
        assert found_by(STATE_FROM=source)[0] == {"page": 3}
        state, origin = found_by(STATE_FROM=source, STATE_LAG={"page": 2})
        assert state == {"page": 1}
        assert origin.endswith('items/1); less STATE_LAG {"page": 2}')
        assert found_by(STATE_FROM=source, STATE_AT="none")[0] == {"page": 1}
        assert found_by(STATE_FROM=source, STATE_ENABLED=False)[0] == {"page": 1}
        with pytest.raises(StateSettingsError, match="STATE_AT is for checkpoints, but STATE_FROM names items or a log"):
            found_by(STATE_FROM=source, STATE_AT=5)

    def test_explicit(self, files: Files) -> None:
        """An explicit STATE beats items, which are not even read."""
        crawler = get_crawler()
        crawler.settings = Settings({"STATE_FROM": {"log": files.place.uri + "no.log"}})
        crawler.settings.set("STATE", '{"page": 7}', priority="cmdline")
        crawler.spider = crawler._create_spider("numbers")
        assert StateResolver(crawler).find_state()[0] == {"page": 7}
