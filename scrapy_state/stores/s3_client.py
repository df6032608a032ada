"""The S3 clients: one per endpoint, credentials and purpose (reading or writing); and what their errors mean."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ..exceptions import ContentDamaged, StoreError, StoreReadOnly, StoreRefused, StoreUnreachable
from ..model.key_template import without_credentials

if TYPE_CHECKING:
    import boto3.session
    from botocore.model import OperationModel
    from mypy_boto3_s3 import S3Client

# With retry._RETRY_SECONDS they add up to 15 s, after which a store that accepts a connection and is silent counts as away.
CONNECT_TIMEOUT_SECONDS = 3
READ_TIMEOUT_SECONDS = 10
_READS = ("Get", "List", "Head")
_WRONG_REGION = (
    *("301", "PermanentRedirect", "AuthorizationHeaderMalformed"),
    *("IllegalLocationConstraintException", "InvalidRegion"),
)
#: Codes of answers below 500 that may pass by themselves. The last ones say that what we sent arrived damaged or incomplete.
_MAY_PASS = ("SlowDown", "RequestTimeout", "BadDigest", "XAmzContentChecksumMismatch", "IncompleteBody")


@dataclass(frozen=True)
class S3Options:
    """The endpoint and the credentials of a client. Equal options share a client."""

    endpoint_url: str | None = None
    region_name: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    use_ssl: bool = True
    verify: str | bool | None = None
    #: whether the keys came from the URI, for error messages
    keys_in_uri: bool = field(default=False, compare=False)

    @property
    def at(self) -> str:
        """The endpoint, for error messages."""
        return without_credentials(self.endpoint_url) if self.endpoint_url else "AWS"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], uri: str) -> S3Options:
        """Read Scrapy's AWS_* settings. A key in *uri* (``s3://key:secret@bucket/…``) wins over them, as in Scrapy."""
        parts = urlsplit(uri)
        use_ssl = settings.get("AWS_USE_SSL")
        return cls(
            endpoint_url=settings.get("AWS_ENDPOINT_URL") or None,
            region_name=settings.get("AWS_REGION_NAME") or None,
            access_key=unquote(parts.username or "") or settings.get("AWS_ACCESS_KEY_ID") or None,
            secret_key=unquote(parts.password or "") or settings.get("AWS_SECRET_ACCESS_KEY") or None,
            session_token=settings.get("AWS_SESSION_TOKEN") or None,
            use_ssl=use_ssl is None or str(use_ssl).lower() in ("1", "true"),
            verify=settings.get("AWS_VERIFY"),
            keys_in_uri=bool(parts.username),
        )


_clients: dict[tuple[S3Options, bool], S3Client] = {}
_sessions: dict[S3Options, boto3.session.Session] = {}
_clients_lock = threading.Lock()


def get_client(options: S3Options, *, writes: bool) -> S3Client:
    """Return the process's one client for *options*, made on first use.

    The first one takes about 0.1 s of CPU, so call this in a thread, not in the event loop's.

    :param writes: False: the client that refuses whatever is not a read, with StoreReadOnly, before anything is sent
    """
    # Imported here for the same reason: at the top it would slow down every `scrapy` command.
    import boto3.session
    from botocore.config import Config

    for name in ("boto3", "botocore", "urllib3"):
        # At Scrapy's default level they would log the headers, the signature and the body of every request.
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.INFO)
    with _clients_lock:
        client = _clients.get((options, writes))
        if client is None:
            # The two clients of a session share so much that the second one is cheap.
            session = _sessions.setdefault(options, boto3.session.Session())
            client = session.client(
                "s3",
                use_ssl=options.use_ssl,
                endpoint_url=options.endpoint_url,
                region_name=options.region_name,
                aws_access_key_id=options.access_key,
                aws_secret_access_key=options.secret_key,
                aws_session_token=options.session_token,
                verify=options.verify,
                config=Config(
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                    read_timeout=READ_TIMEOUT_SECONDS,
                    # Callers retry themselves: they choose for how long, and the log says so.
                    retries={"mode": "standard", "total_max_attempts": 1},
                    tcp_keepalive=True,
                ),
            )
            if not writes:
                # The first event of every call, before there is a request (botocore/client.py, _emit_api_params).
                client.meta.events.register_first("provide-client-params.s3", _only_reads)
            _clients[options, writes] = client
        return client


def _only_reads(params: dict[str, Any], model: OperationModel, **_: object) -> Any:
    """Let only reads pass. It is a list of what is allowed, so operations that S3 adds later are refused."""
    if model.name == "CreateSession":  # how botocore signs on to a directory bucket, by itself
        return {**params, "SessionMode": "ReadOnly"}
    if model.name.startswith(_READS):
        return None
    raise StoreReadOnly(
        f"something asked the S3 client of a reader for {model.name}; nothing was sent",
        remedy="this is a bug in scrapy_state or in the code that calls it: please report it",
    )


@contextmanager
def s3_errors(where: str, action: str, options: S3Options) -> Iterator[None]:
    """Turn what botocore raises into the error tree.

    :param where: the URI; *action*: the permission that the request needs
    """
    from botocore import exceptions as boto
    from urllib3.exceptions import HTTPError  # botocore lets it pass if the connection breaks within an error

    wrong = (boto.ParamValidationError, boto.ProfileNotFound, boto.InvalidRegionError, boto.InvalidConfigError)
    try:
        yield
    except StoreError:
        raise
    except boto.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = status_of(error)
        reason = f"{action}: the store answered {status} {code}".rstrip()
        if status in (408, 409, 429) or status >= 500 or code in _MAY_PASS:
            raise StoreUnreachable(reason, uri=where, remedy="it may pass, try again later") from error
        raise StoreRefused(reason, uri=where, remedy=_remedy(status, code, action, options)) from error
    except boto.FlexibleChecksumError as error:
        raise ContentDamaged(
            "it is damaged: its content does not match the checksum that the store keeps with it",
            uri=where,
            remedy="restore it from a copy, or delete it",
        ) from error
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
        raise StoreRefused(str(error), uri=where, remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
    except wrong as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise StoreRefused(reason, uri=where, remedy="check the URI, and AWS_… in settings and environment") from error
    except ValueError as error:
        if not str(error).startswith("Invalid endpoint"):
            raise
        reason = f"{options.at!r} is not a URL: it needs http:// or https://"
        raise StoreRefused(reason, uri=where, remedy="check AWS_ENDPOINT_URL") from error
    except boto.SSLError as error:
        raise StoreRefused(
            f"no secure connection to {options.at} (SSLError: {error.kwargs['error']})",
            uri=where,
            remedy="check AWS_ENDPOINT_URL (https or http?), AWS_CA_BUNDLE, AWS_VERIFY",
        ) from error
    except RecursionError as error:  # botocore asks where the bucket is, and is redirected again
        reason = f"{action}: the store redirects to another region"
        raise StoreRefused(reason, uri=where, remedy="check AWS_REGION_NAME") from error
    except (boto.BotoCoreError, HTTPError, OSError) as error:
        check = "AWS_ENDPOINT_URL" if options.endpoint_url else "the network, AWS_REGION_NAME and AWS_ENDPOINT_URL"
        reason = f"no answer from {options.at} ({type(error).__name__})"
        raise StoreUnreachable(reason, uri=where, remedy=f"check {check}") from error


def status_of(error: Any) -> int:
    """Return the HTTP status in an exception of botocore's; 0 if it has none."""
    answer = getattr(error, "response", None) or {}  # it is None in botocore's connection errors
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _remedy(status: int, code: str, action: str, options: S3Options) -> str:
    keys = "the access key and the secret in the URI" if options.keys_in_uri else "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if code in ("NoSuchBucket", "InvalidBucketName", "404"):
        return "check the bucket's name in the URI, and AWS_ENDPOINT_URL"
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return f"check {keys}"
    if code in ("ExpiredToken", "InvalidToken", "ExpiredTokenException", "TokenRefreshRequired"):
        return f"the credentials have expired: check AWS_SESSION_TOKEN, and {keys}"
    if code in _WRONG_REGION:
        return "check AWS_REGION_NAME"
    if code == "NoSuchUpload":
        return "the upload was aborted, by a later run that took over from this one or by a lifecycle rule of the bucket"
    if status == 411:  # botocore sends trailers over https only, after a body without a Content-Length
        return (
            "the server does not take the checksums that boto3 sends behind the content: "
            "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required in the environment"
        )
    if status == 413 or code in ("QuotaExceeded", "EntityTooLarge"):
        return "a quota of the bucket or the user, or another limit of the server, is reached: make room there, or raise it"
    if status == 405:
        return f"the server there does not support {action}: check AWS_ENDPOINT_URL and its port, and the bucket in the URI"
    if code in ("400", "BadRequest"):
        return "check AWS_ENDPOINT_URL (https or http, the port) and AWS_REGION_NAME"
    if code == "RequestTimeTooSkewed":
        return "check this machine's clock"
    return f"check the credentials ({keys}) and that they may {action} there"
