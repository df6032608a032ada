"""The store on S3."""

import io
import re
import socket
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from empty_places import EmptyPlace
from faulty import Fault, Proxy

from scrapy_state.exceptions import ContentDamaged, KeyTaken, StateSettingsError, StoreError, StoreRefused, StoreUnreachable
from scrapy_state.lineage.resolve import Resolution, resolve
from scrapy_state.lineage.writer import CheckpointWriter
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.stores import open_writer, s3
from scrapy_state.stores import s3_client as s3client
from scrapy_state.stores.base import lists_late
from scrapy_state.stores.s3 import S3Writer
from scrapy_state.stores.s3_client import S3Options
from scrapy_state.stores.s3_parts import PartsUpload
from scrapy_state.testing import Place, every_call_raises

SECRET = "s3cr3t"
MIN_PART_BYTES = 5 * 1024 * 1024
DAMAGED = "<damaged>"
EMPTY = "<ListBucketResult></ListBucketResult>"
LISTED = "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>"
BEGUN = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"


def s3_at(endpoint: str) -> S3Writer:
    return S3Writer("bucket", S3Options(endpoint, "us-east-1", "the-access-key", SECRET))


def closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


class TestS3:
    def test_parts(self, s3_place: EmptyPlace, s3_client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file above PART_BYTES is uploaded in parts, complete, create-only, and leaves no open upload behind."""
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

    def test_just_one_part(self, s3_place: EmptyPlace, s3_client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file of PART_BYTES is uploaded in one request."""
        monkeypatch.setattr(s3, "PART_BYTES", 1000)
        s3_place.create("a", b"x" * 1000)
        assert "-" not in s3_client.head_object(Bucket=bucket, Key=f"{s3_place.key}a")["ETag"]

    def test_pages(self, s3_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """A listing of several pages is read to its end."""
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
        for number in range(8):
            s3_place.create(f"{number}", b"x")
        assert s3_place.names() == set("01234567")

    def test_deeper_keys_cost_nothing(self, s3_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keys in folders below are not listed unless the caller asks for them."""
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
        for name in (*(f"items/{number}" for number in range(12)), "1", "2"):
            s3_place.create(name, b"x")
        listed: list[str] = []
        events = s3_place.reader._client.meta.events  # type: ignore[attr-defined]
        events.register("before-call.s3.ListObjectsV2", note := lambda **_: listed.append(""))
        try:
            assert set(s3_place.reader.keys(s3_place.key, depth=0)) == {f"{s3_place.key}1", f"{s3_place.key}2"}
        finally:
            events.unregister("before-call.s3.ListObjectsV2", note)
        assert len(listed) == 1

    def test_unreachable(self) -> None:
        """No answer is StoreUnreachable for every method, with the address and the setting to check; never "nothing there"."""
        store = s3_at(f"http://127.0.0.1:{closed_port()}")
        for message in every_call_raises(store, "a/b", StoreUnreachable):
            assert re.search(r"no answer from http://127\.0\.0\.1:.*check AWS_ENDPOINT_URL", message)

    def test_no_bucket(self, s3_settings: dict[str, str]) -> None:
        """A bucket that does not exist is StoreRefused for every method, with what to check."""
        store, _ = open_writer("s3://no-such-bucket/a/", s3_settings)
        for message in every_call_raises(store, "a/b", StoreRefused):
            assert re.match(r"s3://no-such-bucket/a/b: .* NoSuchBucket; check the bucket's name in the URI", message)

    @pytest.mark.parametrize(
        ("status", "code", "error", "says"),
        [
            (403, "AccessDenied", StoreRefused, r"403 AccessDenied; check the credentials .* may PutObject there"),
            (403, "InvalidAccessKeyId", StoreRefused, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            (403, "SignatureDoesNotMatch", StoreRefused, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            (400, "ExpiredToken", StoreRefused, "check AWS_SESSION_TOKEN"),
            (400, "AuthorizationHeaderMalformed", StoreRefused, "check AWS_REGION_NAME"),
            (401, "", StoreRefused, "401"),
            (
                411,
                "MissingContentLength",
                StoreRefused,
                "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required in",
            ),
            (403, "QuotaExceeded", StoreRefused, "403 QuotaExceeded; a quota .* is reached"),
            (413, "", StoreRefused, "a quota .* is reached"),
            (405, "MethodNotAllowed", StoreRefused, "does not support PutObject: check AWS_ENDPOINT_URL"),
            (405, "", StoreRefused, "does not support PutObject: check AWS_ENDPOINT_URL"),
            (404, "NoSuchUpload", StoreRefused, "was aborted, by a later run"),
            (400, "BadDigest", StoreUnreachable, "BadDigest; it may pass"),
            (500, "InternalError", StoreUnreachable, "500 InternalError; it may pass"),
            (503, "SlowDown", StoreUnreachable, "503 SlowDown; it may pass"),
            (429, "TooManyRequests", StoreUnreachable, "429"),
            (400, "RequestTimeout", StoreUnreachable, "RequestTimeout"),
        ],
    )
    def test_errors(self, answering: Any, status: int, code: str, error: type[StoreError], says: str) -> None:
        """An error that may pass by itself is StoreUnreachable, any other StoreRefused with a remedy; none is "nothing
        there"."""
        answering.answers = [(status, code)]
        store = s3_at(answering.url)
        messages = every_call_raises(store, "a/b", error)
        assert re.search(says, messages[-1])
        assert all(each.startswith("s3://bucket/a/b: ") for each in messages)
        assert SECRET not in "".join(messages)

    def test_only_swift_lists_late(self, answering: Any) -> None:
        """After a listing the store knows whether it may lack what was stored just now: Swift's may. Before, any may."""
        store = s3_at(answering.url)
        assert lists_late(store)
        answering.answers = [(200, LISTED)]
        assert (list(store.keys("")), lists_late(store)) == (["a"], False)
        answering.headers = {"X-Trans-Id": "tx5f"}
        assert (list(store.keys("")), lists_late(store)) == (["a"], True)

    @pytest.mark.parametrize("is_part", [False, True])
    def test_forbidden_or_missing(self, answering: Any, is_part: bool) -> None:
        """A 403 means a missing key only if a listing lacks the key; a key that exists and is forbidden is refused."""
        store = s3_at(answering.url)

        def read() -> bytes | None:
            return store.read_part("a", 0, 10) if is_part else store.read("a")

        forbidden, listed = (403, "AccessDenied"), (200, LISTED)
        answering.answers = [forbidden, (200, EMPTY)]
        assert read() is None
        answering.answers = [forbidden, (200, LISTED.replace(">a<", ">a.bak<"))]
        assert read() is None
        answering.answers = [forbidden, listed, forbidden]
        with pytest.raises(StoreRefused, match=r"a: GetObject: .* 403 .* may GetObject there"):
            read()
        answering.answers = [forbidden, listed, (200, "<x>")]  # it was stored in between
        assert read() == b"<x>"
        answering.answers = [forbidden]
        with pytest.raises(StoreRefused, match=r"403 .* may GetObject and ListBucket there"):
            read()
        answering.answers = [forbidden, (500, "InternalError")]
        with pytest.raises(StoreUnreachable):
            read()

    def test_damaged(self, answering: Any) -> None:
        """Content that does not match its checksum is read once more, then called damaged: neither missing nor unreachable."""
        store = s3_at(answering.url)
        answering.answers = [(200, DAMAGED), (200, "<whole>")]
        assert store.read("a") == b"<whole>"
        answering.answers = [(200, DAMAGED)]
        with pytest.raises(
            ContentDamaged, match=r"^s3://bucket/a: it is damaged: .* checksum .*; restore it from a copy"
        ) as caught:
            store.read("a")
        assert not isinstance(caught.value, StoreUnreachable | StoreRefused)
        answering.answers = [(200, LISTED), (200, DAMAGED), (200, "<whole>")]  # as after a lost reply
        store.create("a", io.BytesIO(b"<whole>"))
        answering.answers = [(200, LISTED), (200, DAMAGED)]
        with pytest.raises(ContentDamaged):
            store.create("a", io.BytesIO(DAMAGED.encode()))

    def test_damaged_checkpoint(self, s3_place: EmptyPlace) -> None:
        """A checkpoint that is damaged in the store is skipped like a torn one, with the reason."""
        template = KeyTemplate.parse(f"{s3_place.key}%(batch_id)010d.json", {})
        writer = CheckpointWriter(s3_place.writer, template, format="json", spider=None, run="one", job=None)
        writer.open({"t": 0}, Resolution(), Resolution)
        writer.commit(writer.next({"t": 1}, ()))
        with Proxy(s3_place.settings["AWS_ENDPOINT_URL"], [Fault("damaged", "GET .*0002.json", count=inf)]) as proxy:
            store = Place(s3_place.uri, {**s3_place.settings, "AWS_ENDPOINT_URL": proxy.url}).reader
            found = resolve(store, template)
        assert found.checkpoint is not None
        assert (found.checkpoint.state, found.newest_id) == ({"t": 0}, 2)
        [(uri, why)] = found.skipped
        assert uri == s3_place.reader.uri(template.key(2))
        assert "is damaged" in why

    @pytest.mark.parametrize("request_", ["GET .*missing", "GET .*list-type=2"])
    def test_cut_off_within_an_answer(self, s3_place: EmptyPlace, request_: str) -> None:
        """If the connection breaks in the middle of an error or of a listing, the store counts as unreachable, as in a file."""
        with Proxy(s3_place.settings["AWS_ENDPOINT_URL"], [Fault("lost reply", request_)]) as proxy:
            place = Place(s3_place.uri, {**s3_place.settings, "AWS_ENDPOINT_URL": proxy.url})
            with pytest.raises(StoreUnreachable, match="no answer from"):
                (place.reader.read(f"{place.key}missing"), list(place.reader.keys(place.key)))
            assert place.reader.read(f"{place.key}missing") is None

    def test_empty_ca_bundle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty AWS_CA_BUNDLE is a mistake that does not pass by itself, and the error names it."""
        monkeypatch.setenv("AWS_CA_BUNDLE", "")
        monkeypatch.setattr(s3client, "_clients", {})
        monkeypatch.setattr(s3client, "_sessions", {})
        for message in every_call_raises(s3_at(f"https://127.0.0.1:{closed_port()}"), "a/b", StoreRefused):
            assert re.search("CA bundle.*AWS_CA_BUNDLE.* empty", message)

    def test_condition_not_heeded(self, answering: Any) -> None:
        """If a server may ignore the condition, it is not even asked to store a file over another one."""
        answering.answers = [(200, LISTED), (200, "<other>")]
        with pytest.raises(KeyTaken):
            s3_at(answering.url).create("a", io.BytesIO(b"x"))
        assert answering.seen == ["GET", "GET"]

    def test_no_abort_of_what_may_be_complete(self) -> None:
        """An upload whose completion got no answer is not aborted, even if the server refuses it the second time."""
        aborted: list[str] = []

        def refusing(*statuses: int) -> PartsUpload:
            left = list(statuses)

            def complete(**_: Any) -> None:
                raise ClientError({"ResponseMetadata": {"HTTPStatusCode": left.pop(0)}}, "CompleteMultipartUpload")

            client: Any = SimpleNamespace(
                create_multipart_upload=lambda **_: {"UploadId": str(statuses)},
                complete_multipart_upload=complete,
                abort_multipart_upload=lambda **names: aborted.append(names["UploadId"]),
            )
            upload = PartsUpload(client, "bucket", "a", io.BytesIO())
            for _ in statuses:
                with pytest.raises(ClientError):
                    upload.complete()
                upload.abort()
            return upload

        assert refusing(500, 412).may_be_complete
        assert aborted == []
        assert not refusing(412).may_be_complete
        assert aborted == ["(412,)"]

    def test_taken_while_sending(self, ceph_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the server completes uploads over existing files, a file that appears while the parts are sent is noticed."""
        monkeypatch.setattr(s3, "PART_BYTES", MIN_PART_BYTES)
        send = PartsUpload.send

        def slowly(*arguments: Any) -> None:
            send(*arguments)
            ceph_place.create("a", b"other")

        monkeypatch.setattr(PartsUpload, "send", slowly)
        with pytest.raises(KeyTaken):
            ceph_place.create("a", b"x" * (MIN_PART_BYTES + 1))
        assert ceph_place.read("a") == b"other"
        assert ceph_place.everything() == ["a"]

    @pytest.mark.parametrize("kind", ["too slow", "time-out", "500"])
    @pytest.mark.parametrize("is_atomic", [True, False])
    def test_completion_without_answer(
        self, s3_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, kind: str, is_atomic: bool
    ) -> None:
        """If the completion of an upload in parts gets no answer, the file is stored, or the completion is repeated: no part is
        sent twice."""
        monkeypatch.setattr(s3, "PART_BYTES", MIN_PART_BYTES)
        monkeypatch.setattr(s3client, "READ_TIMEOUT_SECONDS", 1)
        monkeypatch.setattr(S3Writer, "atomic", is_atomic)
        content = b"x" * MIN_PART_BYTES + b"the end"
        with Proxy(s3_place.settings["AWS_ENDPOINT_URL"], [Fault(kind, "POST .*uploadId=")]) as proxy:
            place = Place(s3_place.uri, {**s3_place.settings, "AWS_ENDPOINT_URL": proxy.url})
            with io.BytesIO(content) as file:
                with pytest.raises(StoreUnreachable):
                    place.writer.create(f"{place.key}a", file)
                place.writer.create(f"{place.key}a", file)
            assert not proxy.seen("DELETE .*uploadId="), "some servers would delete the parts that the file is made of"
            with pytest.raises(KeyTaken):
                place.create("a", content[::-1])
            assert len(proxy.seen("PUT .*partNumber=")) == 2 + (2 if is_atomic else 0)  # the last ones by the other content
        assert s3_place.read("a") == content
        assert s3_place.everything() == ["a"]

    def test_conflict_is_tried_again(self, answering: Any) -> None:
        """409 says that another request is writing the key: the write is retried."""
        conflict = [(200, EMPTY), (409, "ConditionalRequestConflict")]
        answering.answers = [*conflict, *conflict, (200, EMPTY), (200, "")]
        s3_at(answering.url).create("a", io.BytesIO(b"x"))
        assert answering.seen == ["GET", "PUT *"] * 3

    def test_conflict_for_good(self, answering: Any) -> None:
        """409 for ever is not retried for ever: it becomes StoreUnreachable, which the caller may retry for longer."""
        answering.answers = [(200, EMPTY), (409, "ConditionalRequestConflict")] * 9
        with pytest.raises(StoreUnreachable, match=r"PutObject: .* 409"):
            s3_at(answering.url).create("a", io.BytesIO(b"x"))
        assert answering.seen == ["GET", "PUT *"] * s3._CONFLICT_ATTEMPTS

    def test_no_conditional_writes(self, answering: Any) -> None:
        """If a server answers 501 to a conditional write, the store looks first, then writes without the condition."""
        answering.answers = [(200, EMPTY), (501, "NotImplemented"), (200, EMPTY), (200, "")]
        s3_at(answering.url).create("a", io.BytesIO(b"x"))
        assert answering.seen == ["GET", "PUT *", "GET", "PUT"]

    def test_probe_without_multipart(self, answering: Any, caplog: pytest.LogCaptureFixture) -> None:
        """A server without multipart uploads counts as writable; a line says that this was not tried."""
        answering.answers = [(501, "NotImplemented")]
        caplog.set_level("INFO", "scrapy_state.state")
        s3_at(answering.url).probe("a/b")
        assert answering.seen == ["POST"]
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "s3://bucket/a/b: not tried" in caplog.text

    @pytest.mark.parametrize("action", ["PutObject", "AbortMultipartUpload"])
    def test_probe_is_refused(self, answering: Any, action: str) -> None:
        """If a probe is refused, the error names the missing permission."""
        answering.answers = [] if action == "PutObject" else [(200, BEGUN)]
        answering.answers += [(403, "AccessDenied")]
        with pytest.raises(StoreRefused, match=f"a/b: {action}: the store answered 403 .* may {action} there"):
            s3_at(answering.url).probe("a/b")

    def test_probe_again(self, answering: Any) -> None:
        """If a probe's abort failed and it is called again, it aborts the upload that it began, and begins no other."""
        answering.answers = [(200, BEGUN), (500, "InternalError"), (404, "NoSuchUpload")]
        store = s3_at(answering.url)
        with pytest.raises(StoreUnreachable):
            store.probe("a/b")
        store.probe("a/b")
        assert answering.seen == ["POST", "DELETE", "DELETE"]

    def test_credentials_in_uri(self) -> None:
        """Credentials in the URI beat the settings', and are decoded; the store's own URIs are without them."""
        settings = {"AWS_ACCESS_KEY_ID": "from-settings", "AWS_SECRET_ACCESS_KEY": "from-settings"}
        store, key = open_writer(f"s3://me:{SECRET}%2Fx@bucket/a/b", settings)
        assert isinstance(store, S3Writer)
        assert (store.options.access_key, store.options.secret_key) == ("me", f"{SECRET}/x")
        assert (store.bucket, key) == ("bucket", "a/b")
        assert store.uri(key) == "s3://bucket/a/b"

    def test_bucket_keeps_its_case(self) -> None:
        """A bucket's name is used as it is, even with capital letters."""
        assert s3.split("s3://user:pass@My.Bucket_1/K/%20") == ("My.Bucket_1", "K/%20")

    @pytest.mark.parametrize("uri", ["s3:///a", "s3://", f"s3://me:{SECRET}@/a"])
    def test_no_bucket_in_uri(self, uri: str) -> None:
        """A URI without a bucket is an error that shows the right form, and no password."""
        with pytest.raises(StateSettingsError, match="has no bucket; write s3://bucket/…") as caught:
            open_writer(uri, {})
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        "uri", [f"s3://me:{SECRET}@bucket/a", f"s3://me:x/{SECRET}@bucket/a", f"s3://me:{SECRET}/x@bucket/a"]
    )
    def test_no_secrets(self, uri: str) -> None:
        """Credentials are in no repr, text or error, even if a slash in them was not encoded."""
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

    @pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
    def test_atomic_on_aws_only(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Only AWS itself counts as atomic: an address in the environment, under either name, is another server's."""
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        store, _ = open_writer("s3://bucket/a", {})
        assert store.atomic
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        store, _ = open_writer("s3://bucket/a", {"AWS_REGION_NAME": f"region-{len(name)}"})  # otherwise it is the same client
        assert not store.atomic

    def test_acl(self, s3_settings: dict[str, str], s3_client: Any, bucket: str) -> None:
        """FEED_STORAGE_S3_ACL is applied to stored files."""
        store, key = open_writer(f"s3://{bucket}/a", {**s3_settings, "FEED_STORAGE_S3_ACL": "public-read"})
        store.create(key, io.BytesIO(b"x"))
        grants = s3_client.get_object_acl(Bucket=bucket, Key="a")["Grants"]
        assert "READ" in {each["Permission"] for each in grants if each["Grantee"]["Type"] == "Group"}
