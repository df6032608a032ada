"""What real S3 servers do in their own way, and what the package makes of it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from botocore.exceptions import ClientError
from crawls import STATE_OPTIONS, crawl, crawl_until
from faulty import Fault, Proxy
from real_server import CHECKSUMS, RealServer
from server_buckets import ENDLESS, MIN_PART_BYTES, SPIDER, Bucket

from scrapy_state.exceptions import KeyTaken, StoreError, StoreRefused, StoreUnreachable
from scrapy_state.stores import s3
from scrapy_state.stores import s3_client as s3client


def test_unknown_certificate(bucket_at: Callable[[str], Bucket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AWS_CA_BUNDLE a server with a self-made certificate is not trusted, and receives nothing."""
    bucket = bucket_at("https")
    monkeypatch.delenv("AWS_CA_BUNDLE")
    monkeypatch.setattr(s3client, "_clients", {})  # a client has read it when it was made
    with pytest.raises(StoreError, match="SSLError"):
        bucket.writer().create("key", io.BytesIO(b"content"))
    assert bucket.etags() == {}


def test_trailers(bucket_at: Callable[[str], Bucket], server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a server refuses the checksums that boto3 sends behind the content, nothing is stored, and the error names the
    environment variable that helps."""
    bucket = bucket_at("https")
    monkeypatch.delenv(CHECKSUMS, raising=False)
    monkeypatch.setattr(s3client, "_clients", {})
    if server.differences.trailers:
        bucket.writer().create("key", io.BytesIO(b"content"))
        assert list(bucket.etags()) == ["key"]
        return
    with pytest.raises(StoreRefused, match=f"answered 411 .* set {CHECKSUMS}=when_required in the environment"):
        bucket.writer().create("key", io.BytesIO(b"content"))
    assert bucket.etags() == {}


def test_conditions(bucket_at: Callable[[str], Bucket], server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the server heeds the condition of a write, the package stores no file over another one."""
    bucket = bucket_at("http")
    names = {"Bucket": bucket.name, "Key": "key"}

    def put() -> None:
        bucket.client.put_object(**names, Body=b"x", IfNoneMatch="*")

    def put_in_parts() -> None:
        upload = {**names, "UploadId": bucket.client.create_multipart_upload(**names)["UploadId"]}
        etag = bucket.client.upload_part(**upload, PartNumber=1, Body=b"x")["ETag"]
        parts = {"Parts": [{"ETag": etag, "PartNumber": 1}]}
        bucket.client.complete_multipart_upload(**upload, MultipartUpload=parts, IfNoneMatch="*")

    writer = bucket.writer()
    writer.create("key", io.BytesIO(b"first"))
    monkeypatch.setattr(s3, "PART_BYTES", MIN_PART_BYTES)
    for size in (1, MIN_PART_BYTES + 1):
        with pytest.raises(KeyTaken):
            writer.create("key", io.BytesIO(b"x" * size))
    assert bucket.client.get_object(**names)["Body"].read() == b"first"
    for write, heeds in ((put, server.differences.create_only), (put_in_parts, server.differences.create_only_parts)):
        with pytest.raises(ClientError, match="PreconditionFailed") if heeds else nullcontext():
            write()


@pytest.mark.campaign
@pytest.mark.parametrize("fault", ["500", "too slow", "time-out"])
def test_no_answer_to_a_completion(bucket_at: Callable[[str], Bucket], monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """If the answer to the completion of an upload in parts is lost, or the server never saw it, the upload is completed again:
    the file is whole, its parts are sent once, and no upload is left."""
    bucket = bucket_at("http")
    monkeypatch.setattr(s3, "PART_BYTES", MIN_PART_BYTES)
    monkeypatch.setattr(s3client, "READ_TIMEOUT_SECONDS", 5)
    content = b"x" * MIN_PART_BYTES + b"the end"
    with Proxy(bucket.endpoint.url, [Fault(fault, "POST .*uploadId=")]) as proxy, io.BytesIO(content) as file:
        options = s3client.S3Options.from_settings({**bucket.settings, "AWS_ENDPOINT_URL": proxy.url}, "")
        writer = s3.S3Writer(bucket.name, options)
        with pytest.raises(StoreUnreachable):
            writer.create("key", file)
        writer.create("key", file)
        assert len(proxy.seen("PUT .*partNumber=")) == 2
    assert bucket.client.get_object(Bucket=bucket.name, Key="key")["Body"].read() == content
    assert not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")


def _documented_policies(bucket: str, user: str) -> list[str]:
    """Return the policies of production and development in docs/setup.md, for a bucket with ``state/`` and ``items/``."""
    found = re.findall(r"```json\n(.*?)```", Path(__file__).parents[2].joinpath("docs/setup.md").read_text(), re.DOTALL)
    policies = [json.loads(each.replace(":::bucket", f":::{bucket}").replace("flights/", "")) for each in found]
    for policy in policies:
        for statement in policy["Statement"]:
            statement["Principal"] = {"AWS": [f"arn:aws:iam:::user/{user}"]}
    return [json.dumps(each) for each in policies]


def test_production_policy(tmp_path: Path, bucket_at: Callable[[str], Bucket], server: RealServer) -> None:
    """With the rights that docs/setup.md lists for production, and no others, crawls store and resume without a warning."""
    bucket = bucket_at("http")
    production, _ = _documented_policies(bucket.name, server.guest)
    if not server.differences.policies:
        with pytest.raises(ClientError, match="NotImplemented"):
            bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=production)
        return
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=production)
    settings = {**bucket.settings, "AWS_ACCESS_KEY_ID": server.guest}
    for end, code in ((Popen.kill, -9), (Popen.terminate, 0)):
        run = crawl_until(
            tmp_path, "checkpoint 3 stored" if code else "INFO: Stored", SPIDER, *ENDLESS, settings=settings, end=end
        )
        assert run.code == code, run.log
        assert not run.lines("] WARNING"), run.log
        assert not run.lines("Multipart"), run.log
    assert run.lines("from checkpoint 3")


@pytest.mark.campaign
def test_development_policy(tmp_path: Path, bucket_at: Callable[[str], Bucket], server: RealServer) -> None:
    """With the rights that docs/setup.md lists for development, and no others, a run starts from production's state; it can
    neither read production's items nor write."""
    if not server.differences.policies:
        pytest.skip("the server has no policies")
    bucket = bucket_at("http")
    _, development = _documented_policies(bucket.name, server.guest)
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=development)
    run = crawl(tmp_path, SPIDER, settings=bucket.settings)
    assert run.code == 0, run.log
    store = _starts_read_only(tmp_path, bucket, server.guest, bucket.settings)
    item_file = next(key for key in bucket.etags() if key.startswith("items/"))
    assert store.read("state/0000000099.json") is None
    with pytest.raises(StoreRefused, match="403"):
        store.read(item_file)


def test_read_only_user(tmp_path: Path, bucket_at: Callable[[str], Bucket], server: RealServer) -> None:
    """A user who may only read, as docs/setup.md creates one for servers with bucket ACLs, starts from production's state."""
    bucket = bucket_at("http")
    grants = {"GrantFullControl": f'id="{bucket.endpoint.access_key}"', "GrantRead": f'id="{server.guest}"'}
    bucket.client.put_bucket_acl(Bucket=bucket.name, **grants)
    settings = {**bucket.settings, "FEED_STORAGE_S3_ACL": "authenticated-read"}
    run = crawl(tmp_path, SPIDER, settings=settings)
    assert run.code == 0, run.log
    _starts_read_only(tmp_path, bucket, server.guest, settings)


def _starts_read_only(folder: Path, bucket: Bucket, user: str, settings: dict[str, Any]) -> s3.S3Writer:
    """Check that *user* can start from production's state, changes nothing, and may not store anything; return a store of
    theirs."""
    before = bucket.etags()
    theirs = {**settings, "AWS_ACCESS_KEY_ID": user}
    states = {uri: options for uri, options in settings["FEEDS"].items() if options is STATE_OPTIONS}
    run = crawl(folder, SPIDER, settings={**theirs, "STATE_READONLY": True, "FEEDS": states})
    assert run.code == 0, run.log
    assert run.lines('STATE {"page": 4} from checkpoint')
    assert bucket.etags() == before
    store = s3.S3Writer(bucket.name, s3client.S3Options.from_settings(theirs, ""))
    with pytest.raises(StoreRefused, match="may PutObject there"):
        store.create("state/0000000099.json", io.BytesIO(b"x"))
    assert bucket.etags() == before
    return store


def test_unfinished_upload(bucket_at: Callable[[str], Bucket]) -> None:
    """An upload that a killed run had begun is aborted, with its parts; another run's upload stays."""
    bucket = bucket_at("http")
    for name in ("run-1", "run-2"):
        upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"items/{name}-1")["UploadId"]
        part = {"Key": f"items/{name}-1", "UploadId": upload, "PartNumber": 1}
        bucket.client.upload_part(Bucket=bucket.name, Body=b"x", **part)
    assert list(bucket.writer().abort_uploads("items/run-1")) == ["items/run-1-1"]
    [left] = bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    assert left["Key"] == "items/run-2-1"
