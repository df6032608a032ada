"""What the real S3 servers have in common that the tests run on this machine, and in what they differ. Linux only."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

#: A busy machine needs some of them.
START_SECONDS = 90
SECRET_KEY = "the-secret-key"
REGION = "us-east-1"
#: An environment variable of boto3's.
CHECKSUMS = "AWS_REQUEST_CHECKSUM_CALCULATION"

#: Runs a program that ends with the process that started it, so that tests which are killed leave none behind.
_SERVER = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class CannotStart(Exception):
    """The server can't run here; the message says why."""


class NotInstalled(CannotStart):
    """It is not on this machine, and nobody but root can change that."""


@dataclass(frozen=True)
class Differences:
    """In what servers differ, as far as tests must know.

    :param trailers: whether it takes checksums behind the content, which botocore sends over https
    :param create_only: whether it heeds ``If-None-Match: *`` in PutObject
    :param create_only_parts: whether it heeds it at the end of an upload in parts
    :param policies: whether buckets have policies
    :param versioned: whether the tests make versioned buckets
    """

    trailers: bool
    create_only: bool
    create_only_parts: bool
    policies: bool
    versioned: bool = False


SWIFT = Differences(trailers=True, create_only=True, create_only_parts=True, policies=False)
RGW = Differences(trailers=False, create_only=True, create_only_parts=False, policies=True)
RGW_VERSIONED = replace(RGW, create_only=False, versioned=True)


@dataclass(frozen=True)
class Endpoint:
    """*ca_bundle*: the file that AWS_CA_BUNDLE must name; None over http. *trailers*: as for :class:`Differences`."""

    url: str
    access_key: str
    ca_bundle: str | None = None
    trailers: bool = True

    @property
    def settings(self) -> dict[str, str]:
        """Scrapy's settings to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION_NAME": REGION,
        }

    @property
    def environment(self) -> dict[str, str | None]:
        """The environment variables that boto3 needs to reach it. None: must not be set."""
        trailers = None if self.trailers or not self.ca_bundle else "when_required"
        return {"AWS_CA_BUNDLE": self.ca_bundle, CHECKSUMS: trailers}

    def client(self) -> Any:
        """Return a client for the tests."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=SECRET_KEY,
            verify=self.ca_bundle,
            config=Config(retries={"mode": "standard", "total_max_attempts": 1}, request_checksum_calculation="when_required"),
        )


@dataclass(frozen=True)
class RealServer:
    """One store that is reached over http and over https.

    :param guest: the access key of a user who may do nothing but what is granted; the secret key is the other one's
    :param folder: has its configuration, data and logs
    """

    name: str
    http: Endpoint
    https: Endpoint
    guest: str
    differences: Differences
    folder: Path


class Processes:
    """Processes that end with the context. Their output goes to logs in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)  # each leads its own group
            each.wait()

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> None:
        with (self._folder / f"{name}.out.log").open("wb") as log:
            self._started.append(
                subprocess.Popen(
                    [sys.executable, "-c", _SERVER, *command],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    env={**os.environ, **(environment or {})},
                )
            )  # fmt: skip

    def wait_for(self, endpoint: Endpoint, deadline: float) -> None:
        """Wait until it really makes a bucket.

        :raises CannotStart: with the ends of all logs
        """
        from botocore.exceptions import BotoCoreError, ClientError

        client = endpoint.client()
        try:
            while True:
                try:
                    client.create_bucket(Bucket=f"starts-{endpoint.url.partition(':')[0]}")
                    return
                except (BotoCoreError, ClientError) as error:
                    ended = [each.args for each in self._started if each.poll() is not None]
                    if ended or time.monotonic() > deadline:
                        why = f"{ended} ended" if ended else f"no bucket after {START_SECONDS} s"
                        raise CannotStart(f"{endpoint.url}: {why} ({error}){self._logs()}") from error
                    time.sleep(0.1)
        finally:
            client.close()

    def _logs(self) -> str:
        return "".join(f"\n{path.name}: {path.read_text()[-500:]}" for path in sorted(self._folder.glob("*.log")))


def run(*command: str, seconds: float = START_SECONDS, environment: Mapping[str, str] | None = None) -> None:
    """Run a program to its end.

    :raises CannotStart: if it fails
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
            check=False, env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotStart(f"{command[0]}: {error}") from error
    if done.returncode:
        raise CannotStart(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-500:].strip()}")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, signed by its own key; return its file, and its key's."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "scrapy_state's tests")])
    now = datetime.now(timezone.utc)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
        False,
    )
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    # All that Python 3.13's VERIFY_X509_STRICT asks for.
    for extension, critical in (
        (x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False),
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=False, **usage), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate_file, key_file


def try_by_hand(server: Callable[[Path], AbstractContextManager[RealServer]]) -> None:
    """Start a server until Enter."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        with server(Path(folder)) as store:
            print(f"up in {time.monotonic() - began:.1f} s, in {folder}; a user without rights: {store.guest}")
            for endpoint in (store.http, store.https):
                print(json.dumps(endpoint.settings), {name: value for name, value in endpoint.environment.items() if value})
            input("Enter ends it ")
