"""S3 and what speaks its protocol: create-only writes."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from ..exceptions import KeyTaken, StateSettingsError, StoreRefused
from ..model.key_template import without_credentials
from .s3_client import S3Options, get_client, s3_errors, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

#: A file above this goes in parts, of this size at least (S3 allows 10,000 of them, 5 MiB to 5 GiB each:
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html; OpenStack Swift 1,000)
PART_BYTES = 64 * 1024 * 1024
_PARTS = 1_000
_CONFLICT_ATTEMPTS = 5
logger = logging.getLogger("scrapy_state.state")


def open_reader(uri: str, settings: Mapping[str, Any]) -> tuple[S3Reader, str]:
    """See :class:`~scrapy_state.stores.base.Store`. Scrapy's AWS_* settings are read."""
    bucket, key = split(uri)
    return S3Reader(bucket, S3Options.from_settings(settings, uri)), key


def open_writer(uri: str, settings: Mapping[str, Any]) -> tuple[S3Writer, str]:
    """See :class:`~scrapy_state.stores.base.Store`."""
    bucket, key = split(uri)
    return S3Writer(bucket, S3Options.from_settings(settings, uri), settings.get("FEED_STORAGE_S3_ACL")), key


class S3Reader:
    """The read side of a bucket. Its client refuses whatever is not a read.

    :param bucket: its name
    :param options: where and as whom
    """

    _writes = False

    def __init__(self, bucket: str, options: S3Options) -> None:
        self.bucket = bucket
        self.options = options

    def uri(self, key: str) -> str:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        return f"s3://{self.bucket}/{key}"

    @property
    def ordered(self) -> bool:
        """See :class:`~scrapy_state.stores.base.StoreReader`. Directory buckets list in no order, and know no StartAfter
        (https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html)."""
        return not self.bucket.endswith("--x-s3")

    def keys(self, prefix: str, after: str = "", limit: int | None = None, depth: int | None = None) -> Iterator[str]:
        """See :class:`~scrapy_state.stores.base.StoreReader`. One request for every 1,000 keys."""
        start: Any = {"StartAfter": after} if after and self.ordered else {}
        if depth == 0:  # a whole folder is one entry then
            start["Delimiter"] = "/"
        one_page: Any = {"PaginationConfig": {"PageSize": limit, "MaxItems": limit}} if limit and self.ordered else {}
        with self._errors(prefix, "ListBucket"):
            paginator = self._client.get_paginator("list_objects_v2")
            pages = paginator.paginate(Bucket=self.bucket, Prefix=prefix, **start, **one_page)
            found = (each["Key"] for page in pages for each in page.get("Contents", ()))
            yield from islice((key for key in found if key > after), limit)

    def read(self, key: str) -> bytes | None:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        return self._get(key)

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        from botocore.exceptions import ClientError

        try:
            found = self._get(key, Range=f"bytes={begin}" if begin < 0 else f"bytes={begin}-{begin + size - 1}")
        except StoreRefused as error:
            if isinstance(error.__cause__, ClientError) and status_of(error.__cause__) == 416:  # it is not that long
                return b""
            raise
        return found if found is None else found[:size]

    def _get(self, key: str, **options: Any) -> bytes | None:
        with self._errors(key, "GetObject"):
            client = self._client
            try:
                return client.get_object(Bucket=self.bucket, Key=key, **options)["Body"].read()
            except client.exceptions.NoSuchKey:
                return None

    @property
    def _client(self) -> S3Client:
        return get_client(self.options, writes=self._writes)

    def _errors(self, key: str, action: str) -> AbstractContextManager[None]:
        return s3_errors(self.uri(key), action, self.options)


class S3Writer(S3Reader):
    """The write side of a bucket: ``If-None-Match: *``
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).

    :param acl: a canned ACL, as FEED_STORAGE_S3_ACL; None: the bucket's
    """

    _writes = True

    def __init__(self, bucket: str, options: S3Options, acl: str | None = None) -> None:
        super().__init__(bucket, options)
        self.acl: Any = {} if not acl else {"ACL": acl}
        self._condition: Any = {"IfNoneMatch": "*"}
        #: the key and the upload of a probe under way
        self._probing: tuple[str, str] | None = None

    @property
    def atomic(self) -> bool:
        """AWS promises it; servers that speak the protocol may check first and write then."""
        host = urlsplit(self._client.meta.endpoint_url).hostname or ""
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    def create(self, key: str, file: IO[bytes]) -> None:
        """See :class:`~scrapy_state.stores.base.StoreWriter`."""
        from botocore.exceptions import ClientError

        with self._errors(key, "PutObject"):
            for attempt in range(1, _CONFLICT_ATTEMPTS + 1):
                if not self._condition and self._is_there(key):
                    break
                try:
                    return self._put(key, file)
                except ClientError as error:
                    if status_of(error) == 412:
                        break
                    if status_of(error) == 501 and self._condition:
                        self._condition = {}  # the server can't do it: look first, then write
                    elif status_of(error) != 409 or attempt == _CONFLICT_ATTEMPTS:
                        raise
        with self._errors(key, "GetObject"):
            if not self._has_content(key, file):
                raise KeyTaken(f"{self.uri(key)} is there already, with other content; nothing is overwritten")

    def probe(self, key: str) -> None:
        """See :class:`~scrapy_state.stores.base.StoreWriter`.

        A multipart upload is begun and given up: needs PutObject and AbortMultipartUpload.
        """
        from botocore.exceptions import ClientError

        if self._probing is None:
            with self._errors(key, "PutObject"):
                try:
                    begun = self._client.create_multipart_upload(Bucket=self.bucket, Key=key, **self.acl)
                except ClientError as error:
                    if status_of(error) != 501:
                        raise
                    logger.info("%s: not tried whether it can be written: the server has no multipart uploads", self.uri(key))
                    return
            self._probing = (key, begun["UploadId"])
        # Kept until it is gone: when the answer is lost and this is called again, there must not be two.
        key, upload = self._probing
        with self._errors(key, "AbortMultipartUpload"):
            with suppress(self._client.exceptions.NoSuchUpload):
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
            self._probing = None

    def delete(self, key: str) -> None:
        """See :class:`~scrapy_state.stores.base.StoreWriter`."""
        with self._errors(key, "DeleteObject"):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def _put(self, key: str, file: IO[bytes]) -> None:
        client = self._client
        size = file.seek(0, io.SEEK_END)
        if size <= PART_BYTES:
            file.seek(0)
            client.put_object(Bucket=self.bucket, Key=key, Body=file, **self._condition, **self.acl)
            return
        upload = client.create_multipart_upload(Bucket=self.bucket, Key=key, **self.acl)["UploadId"]
        part_bytes = max(PART_BYTES, size // (_PARTS - 1))
        parts: list[CompletedPartTypeDef] = []
        try:
            for start in range(0, size, part_bytes):
                number, body = len(parts) + 1, cast(IO[bytes], _Part(file, start, min(part_bytes, size - start)))
                done = client.upload_part(Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=number, Body=body)
                parts.append({"ETag": done["ETag"], "PartNumber": number})
            client.complete_multipart_upload(
                Bucket=self.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **self._condition
            )
        except Exception as error:
            # Not after a completion that may have taken: on some servers the abort takes away what it is made of.
            if len(parts) * part_bytes < size or 400 <= status_of(error) < 500:
                with suppress(Exception):  # the error to tell is the first one; a lifecycle rule removes stale parts
                    client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
            raise

    def _is_there(self, key: str) -> bool:
        # Not HeadObject: where ListBucket is not granted, it can't tell "not there" from "forbidden" either.
        found = self._client.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1).get("Contents", ())
        return any(each["Key"] == key for each in found)

    def _has_content(self, key: str, file: IO[bytes]) -> bool:
        client = self._client
        try:
            stored = client.get_object(Bucket=self.bucket, Key=key)["Body"]
        except client.exceptions.NoSuchKey:
            return False
        file.seek(0)
        return all(chunk == file.read(len(chunk)) for chunk in stored.iter_chunks(1 << 20)) and not file.read(1)


class _Part(io.RawIOBase):
    """The *size* bytes of *file* from *start* on, as a file: what botocore reads bit by bit is never in memory as a whole."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        found = self._file.read(min(len(buffer), self._size - self._at))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at


def split(uri: str) -> tuple[str, str]:
    """Return the bucket and the key of an ``s3://`` URI.

    :raises StateSettingsError: if it has no bucket
    """
    # By hand: a key may have "#" and "?", which are nothing special in it; a bucket's name keeps its case.
    place, _, key = uri.partition("://")[2].partition("/")
    bucket = place.rpartition("@")[2]
    if not bucket:
        raise StateSettingsError(f"the URI {without_credentials(uri)!r} has no bucket: s3://bucket/…")
    if ":" in bucket:
        raise StateSettingsError(
            f"the URI of a feed in {without_credentials(uri)!r} can't be read: percent-encode the access key and the secret "
            "in it (a slash is %2F), or use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return bucket, key
