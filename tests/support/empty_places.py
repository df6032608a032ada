"""Empty places on every kind of store, for the tests of the stores."""

from collections.abc import Callable
from typing import Any

from scrapy_state.testing import Place


class EmptyPlace(Place):
    """*everything* lists what is there, also what is no key: temporary files, uploads that are open."""

    everything: Callable[[], list[str]]


def in_bucket(client: Any, bucket: str, prefix: str) -> list[str]:
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    objects = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return sorted([each["Key"].removeprefix(prefix) for each in objects] + [each["UploadId"] for each in uploads])
