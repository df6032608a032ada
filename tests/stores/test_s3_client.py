"""The S3 clients: how many there are, what they may do, and how they are configured."""

import io
import threading
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from scrapy_state.exceptions import StoreReadOnly
from scrapy_state.stores import open_reader, open_writer
from scrapy_state.stores.s3 import S3Reader, S3Writer
from scrapy_state.stores.s3_client import S3Options, get_client

SECRET = "s3cr3t"


class TestS3Client:
    def test_reads_only(self, answering: Any) -> None:
        """The read side's client refuses each of S3's operations that is not a GET or HEAD, before anything is sent."""
        answering.answers = [(403, "AccessDenied")]
        options = S3Options(answering.url, "us-east-1", "the-access-key", SECRET)
        client: Any = get_client(options, writes=False)
        operations = client.meta.service_model.operation_names
        refused = set()
        for name in operations:
            with pytest.raises((StoreReadOnly, BotoCoreError, ClientError)) as caught:
                client._make_api_call(name, {})
            if isinstance(caught.value, StoreReadOnly):
                assert name in str(caught.value)
                refused.add(name)
        methods = {name: client.meta.service_model.operation_model(name).http["method"] for name in operations}
        assert {"PutObject", "DeleteObject", "DeleteObjects", "CopyObject", "UploadPart", "CreateMultipartUpload"} < refused
        assert refused >= {name for name, method in methods.items() if method not in ("GET", "HEAD")}
        assert {"GetObject", "HeadObject", "ListObjectsV2", "HeadBucket", "CreateSession"}.isdisjoint(refused)
        assert set(answering.seen) <= {"GET", "HEAD"}
        for call in (
            lambda: client.put_object(Bucket="bucket", Key="a", Body=b"x"),
            lambda: client.upload_fileobj(io.BytesIO(b"x"), "bucket", "a"),
            lambda: client.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "a"}),
        ):
            with pytest.raises(StoreReadOnly, match="this is a bug in scrapy_state"):
                call()
        assert set(answering.seen) <= {"GET", "HEAD"}

    def test_session_of_directory_bucket(self) -> None:
        """If botocore itself signs on to a directory bucket, the read side asks for a session that may only read."""
        options = S3Options("http://127.0.0.1:1", "us-east-1", "a", "b")
        client: Any = get_client(options, writes=False)
        sent: list[Any] = []

        def no_answer(request: Any, **_: Any) -> None:
            sent.append((request.method, dict(request.headers)["x-amz-create-session-mode"]))
            raise EndpointConnectionError(endpoint_url="nowhere")

        client.meta.events.register("before-send.s3.CreateSession", no_answer)
        try:
            with pytest.raises(EndpointConnectionError):
                client.create_session(Bucket="a--use1-az4--x-s3")
        finally:
            client.meta.events.unregister("before-send.s3.CreateSession", no_answer)
        assert sent == [("GET", b"ReadOnly")]

    def test_one_client(self) -> None:
        """There is one client for an endpoint, its credentials and its purpose, whoever asks."""
        settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        settings["AWS_REGION_NAME"] = "us-east-1"
        one, _ = open_writer("s3://bucket-1/a", settings)
        two, _ = open_reader("s3://bucket-2/b", dict(settings))
        assert isinstance(one, S3Writer)
        assert isinstance(two, S3Reader)
        assert get_client(one.options, writes=True) is get_client(two.options, writes=True)
        assert get_client(one.options, writes=True) is not get_client(two.options, writes=False)

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
        """Another endpoint or region, or other credentials, get a client of their own."""
        options = S3Options("http://127.0.0.1:1", "us-east-1", "a", "b")
        assert get_client(options, writes=True) is not get_client(replace(options, **change), writes=True)

    def test_one_client_for_threads(self) -> None:
        """Threads that ask for a client at the same time get the same one."""
        options = S3Options("http://127.0.0.1:3", "us-east-1", "a", "b")
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(get_client(options, writes=True))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len({id(each) for each in found}) == 1

    @pytest.mark.parametrize(
        "setting",
        [
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"},
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL": "", "AWS_REGION_NAME": ""},
        ],
    )
    def test_options(self, setting: dict[str, str]) -> None:
        """Scrapy's AWS_* settings apply; empty text means that a setting was not given."""
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
