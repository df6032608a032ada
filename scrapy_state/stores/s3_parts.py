"""Uploading large files to S3 in parts."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, cast

from .s3_client import status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_PARTS = 1_000


class PartsUpload:
    """The upload of one file in parts. Nobody can read anything under its key before :meth:`complete`. Every method blocks.

    :param file: what it uploads, as *key* in *bucket*
    :param options: for CreateMultipartUpload
    """

    def __init__(self, client: S3Client, bucket: str, key: str, file: IO[bytes], **options: Any) -> None:
        self.file = file
        #: whether we asked the server to complete it, and the answer was lost
        self.may_be_complete = False
        self._client = client
        self._parts: list[CompletedPartTypeDef] = []
        begun = client.create_multipart_upload(Bucket=bucket, Key=key, **options)
        self._names: Any = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"]}

    def send(self, size: int, part_bytes: int) -> None:
        """Send the parts.

        :param size: of the file, in bytes
        :param part_bytes: of a part, at least; more where there would be too many
        """
        part_bytes = max(part_bytes, size // (_PARTS - 1))
        for start in range(0, size, part_bytes):
            number, body = len(self._parts) + 1, cast(IO[bytes], _Part(self.file, start, min(part_bytes, size - start)))
            done = self._client.upload_part(**self._names, PartNumber=number, Body=body)
            self._parts.append({"ETag": done["ETag"], "PartNumber": number})

    def complete(self, **condition: Any) -> None:
        """Make the file from the parts. May be called again if there was no answer."""
        try:
            self._client.complete_multipart_upload(**self._names, MultipartUpload={"Parts": self._parts}, **condition)
        except Exception as error:
            self.may_be_complete = self.may_be_complete or not 400 <= status_of(error) < 500
            raise

    def abort(self) -> None:
        """Abort the upload if possible, but not one that may be complete.

        Some servers would delete the parts that the stored file is made of.
        """
        if not self.may_be_complete:
            with suppress(Exception):  # the first error is the one to report; the next run aborts what is left
                self._client.abort_multipart_upload(**self._names)


class _Part(io.RawIOBase):
    """The *size* bytes of *file* from *start* on, as a file. botocore reads it bit by bit, so it never fills the memory."""

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
