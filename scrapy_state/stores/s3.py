"""Stores on S3, and on servers that speak its protocol: create-only writes."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ..exceptions import ContentDamaged, KeyTaken, StateSettingsError, StoreRefused, StoreUnreachable
from ..model.key_template import without_credentials
from .s3_client import S3Options, get_client, s3_errors, status_of
from .s3_parts import PartsUpload

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

#: A larger file is uploaded in parts of at least this size (S3 allows 10,000 parts of 5 MiB to 5 GiB each:
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html; OpenStack Swift 1,000)
PART_BYTES = 64 * 1024 * 1024
_CONFLICT_ATTEMPTS = 5
T = TypeVar("T")
logger = logging.getLogger("scrapy_state.state")


def open_reader(uri: str, settings: Mapping[str, Any]) -> tuple[S3Reader, str]:
    """See :class:`~scrapy_state.stores.base.Store`. Reads Scrapy's AWS_* settings."""
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
    lists_late = True  # until a listing shows that this is not Swift, which has a header of its own in each answer

    def __init__(self, bucket: str, options: S3Options) -> None:
        self.bucket, self.options = bucket, options

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
        if depth == 0:  # then the listing has one entry for a whole folder
            start["Delimiter"] = "/"
        one_page: Any = {"PaginationConfig": {"PageSize": limit, "MaxItems": limit}} if limit and self.ordered else {}
        with self._errors(prefix, "ListBucket"):
            yield from islice((key for key in self._listed(prefix, **start, **one_page) if key > after), limit)

    def read(self, key: str) -> bytes | None:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        return self._get(key)

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        try:
            found = self._get(key, Range=f"bytes={begin}" if begin < 0 else f"bytes={begin}-{begin + size - 1}")
        except StoreRefused as error:
            if status_of(error.__cause__) == 416:  # the file is shorter
                return b""
            raise
        return found if found is None else found[:size]

    def _get(self, key: str, **options: Any) -> bytes | None:
        return self._undamaged(key, lambda: None if (body := self._open(key, **options)) is None else body.read())

    def _undamaged(self, key: str, read: Callable[[], T]) -> T:
        """Call *read*; once more if the content is damaged, since that may have happened in transit."""
        try:
            with self._errors(key, "GetObject"):
                return read()
        except ContentDamaged:
            with self._errors(key, "GetObject"):
                return read()

    def _open(self, key: str, **options: Any) -> StreamingBody | None:
        """Return the answer of GetObject; None if the key does not exist.

        A user who may list only some prefixes of the bucket gets a 403 for a missing key, from AWS and from Ceph. Listing
        that key tells whether it is missing or forbidden.
        """
        from botocore.exceptions import ClientError

        client, is_listed = self._client, False
        while True:
            try:
                return client.get_object(Bucket=self.bucket, Key=key, **options)["Body"]
            except client.exceptions.NoSuchKey:
                return None
            except ClientError as error:
                if status_of(error) != 403 or is_listed:
                    raise
            with self._errors(key, "GetObject and ListBucket"):
                is_listed = key in self._listed(key)
            if not is_listed:
                return None  # otherwise it is forbidden, or was stored just now: the next try decides

    def _listed(self, prefix: str, **options: Any) -> Iterator[str]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, **options):
            self.lists_late = "x-trans-id" in page["ResponseMetadata"]["HTTPHeaders"]
            yield from (each["Key"] for each in page.get("Contents", ()))

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
        #: the key and the upload of the probe under way
        self._probing: tuple[str, str] | None = None
        #: uploads whose parts have been sent, by key, until the server has completed or refused them
        self._sent: dict[str, PartsUpload] = {}

    @property
    def atomic(self) -> bool:
        """AWS promises it. Other servers may check first and write later, or not check at all."""
        host = urlsplit(self._client.meta.endpoint_url).hostname or ""
        return bool(self._condition) and host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    def create(self, key: str, file: IO[bytes]) -> None:
        """See :class:`~scrapy_state.stores.base.StoreWriter`."""
        with self._errors(key, "PutObject"):
            was_free = self._try_to_put(key, file)
        self._sent.pop(key, None)
        if was_free:
            return
        if not self._undamaged(key, lambda: self._has(key, file)):
            raise KeyTaken("the file exists already, with other content; nothing is overwritten", uri=self.uri(key))

    def _has(self, key: str, file: IO[bytes]) -> bool:
        """Return whether the stored file has the content of *file*."""
        stored = self._open(key)
        if stored is None:
            reason = "the store says that the file exists, but does not find it"
            raise StoreUnreachable(reason, uri=self.uri(key), remedy="it may pass, try again later")
        file.seek(0)
        is_same = True
        for chunk in stored.iter_chunks(1 << 20):  # all of them: the checksum is checked at the end
            is_same = is_same and chunk == file.read(len(chunk))
        return is_same and not file.read(1)

    def _try_to_put(self, key: str, file: IO[bytes]) -> bool:
        """Store the file unless the key is taken; return whether it was free."""
        from botocore.exceptions import ClientError

        for attempt in range(1, _CONFLICT_ATTEMPTS + 1):
            try:
                return not self._is_taken(key) and self._put(key, file)
            except ClientError as error:
                if status_of(error) == 412:
                    return False
                if status_of(error) == 501 and self._condition:
                    self._condition = {}  # the server does not support it: all we can do is look first
                elif status_of(error) != 409 or attempt == _CONFLICT_ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

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
        # Kept until it is aborted: if the answer is lost and this is called again, there must not be two.
        key, upload = self._probing
        with self._errors(key, "AbortMultipartUpload"):
            with suppress(self._client.exceptions.NoSuchUpload):
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
            self._probing = None

    def delete(self, key: str) -> None:
        """See :class:`~scrapy_state.stores.base.StoreWriter`."""
        with self._errors(key, "DeleteObject"):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def abort_uploads(self, prefix: str) -> Iterator[str]:
        """See :class:`~scrapy_state.stores.base.UploadsInParts`: needs ListBucketMultipartUploads and AbortMultipartUpload."""
        client = self._client
        with self._errors(prefix, "ListBucketMultipartUploads"):
            pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
            found = [(each["Key"], each["UploadId"]) for page in pages for each in page.get("Uploads", ())]
        for key, upload in found:
            # If a run is killed while Swift completes its upload, both stay; an abort would delete the parts of the file.
            if not key.startswith(prefix) or self.read_part(key, 0, 1) is not None:
                continue
            with self._errors(key, "AbortMultipartUpload"), suppress(client.exceptions.NoSuchUpload):
                client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
                yield key

    def _put(self, key: str, file: IO[bytes]) -> bool:
        """Store the file; return False if the key turns out to be taken."""
        size = file.seek(0, io.SEEK_END)
        if size > PART_BYTES:
            return self._put_in_parts(key, file, size)
        file.seek(0)
        self._client.put_object(Bucket=self.bucket, Key=key, Body=file, **self._condition, **self.acl)
        return True

    def _put_in_parts(self, key: str, file: IO[bytes], size: int) -> bool:
        from botocore.exceptions import ClientError

        upload = self._sent.get(key)
        if upload is None or upload.file is not file:
            upload = PartsUpload(self._client, self.bucket, key, file, **self.acl)
            try:
                upload.send(size, PART_BYTES)
            except Exception:
                upload.abort()
                raise
            self._sent[key] = upload
        if self._is_taken(key):  # once more: sending took some time
            upload.abort()
            return False
        try:
            upload.complete(**self._condition)
        except ClientError as error:
            if status_of(error) >= 500:
                raise
            del self._sent[key]
            upload.abort()
            if status_of(error) != 404 or not upload.may_be_complete:
                raise
            return False  # the upload is gone because the first try completed it
        return True

    def _is_taken(self, key: str) -> bool:
        """Check whether *key* exists, unless the store is proved to do so: Ceph completes uploads in parts over any file."""
        if self.atomic:
            return False
        with self._errors(key, "ListBucket"):
            return key in self._listed(key)


def split(uri: str) -> tuple[str, str]:
    """Return the bucket and the key of an ``s3://`` URI.

    :raises StateSettingsError: if it has no bucket
    """
    # By hand: in a key "#" and "?" have no special meaning, and a bucket's name keeps its case.
    place, _, key = uri.partition("://")[2].partition("/")
    bucket = place.rpartition("@")[2]
    if not bucket:
        raise StateSettingsError(f"the URI {without_credentials(uri)!r} has no bucket", remedy="write s3://bucket/…")
    if ":" in bucket:
        raise StateSettingsError(
            f"the URI of a feed in {without_credentials(uri)!r} can't be read",
            remedy="percent-encode the access key and the secret in it (a slash is %2F), or use AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        )
    return bucket, key
