"""A real S3 server on this machine: OpenStack Swift with its S3 API, over http and over https. Linux only.

``python tests/support/swift_server.py`` starts one until Enter, to try things on by hand.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

REQUIREMENTS = ("swift==2.38.3",)
#: Its own environment, made once: what it needs must not meet what Scrapy needs.
ENVIRONMENT = Path(__file__).parents[2] / ".venv-swift"
INSTALL_SECONDS = 300
START_SECONDS = 20
#: Swift keeps an object's metadata in one.
_ATTRIBUTE_BYTES = 2000
#: The access key of a user who may do nothing but what an ACL grants; the secret key is the other one's.
READER = "tests:reader"
_STORAGE = ("account", "container", "object")
_PIPELINE = "catch_errors listing_formats bulk s3api tempauth slo dlo proxy-server"

#: One hash for all clusters: they are thrown away.
_SWIFT_CONF = "[swift-hash]\nswift_hash_path_suffix = tests\n"

# Time-outs above Swift's: on a busy machine a container update that comes late must not be left to an updater, which
# does not run here, nor a server that is slow once be taken for a broken one.
_DEFAULTS = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
bind_timeout = 2
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
db_preallocation = off
log_level = WARNING
"""
_STORAGE_CONF = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
log_requests = false
container_update_timeout = 30
conn_timeout = 10
node_timeout = 30
"""
_PROXY_CONF = """
{tls}
[pipeline:main]
pipeline = {pipeline}
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 10
node_timeout = 30
error_suppression_limit = 1000000
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:tempauth]
use = egg:swift#tempauth
user_{access_key_} = {secret_key} .admin
user_{reader_} = {secret_key}
[filter:s3api]
use = egg:swift#s3api
s3_acl = true
location = {region}
"""

#: What ``swift-ring-builder`` does nine times over (create, add, rebalance), in one process: one partition, one replica.
_RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *servers = sys.argv[1:]
for server in servers:
    kind, port = server.split("=")
    builder = RingBuilder(0, 1, 0)
    builder.add_dev(dict(region=1, zone=1, ip="127.0.0.1", port=int(port), device="disk", weight=1,
                         replication_ip="127.0.0.1", replication_port=int(port), meta=""))
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{kind}.ring.gz")
"""

#: Runs a server that ends with the process that started it, so that tests which are killed leave none behind.
_SERVER = """
import ctypes, runpy, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class CannotStart(Exception):
    """Swift can't run here; the message says why."""


@dataclass(frozen=True)
class Endpoint:
    """*ca_bundle*: the file that AWS_CA_BUNDLE must name; None over http."""

    url: str
    ca_bundle: str | None = None
    access_key: str = "tests:writer"
    secret_key: str = "the-secret-key"
    region: str = "us-east-1"

    @property
    def settings(self) -> dict[str, str]:
        """Scrapy's settings to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION_NAME": self.region,
        }

    def client(self) -> Any:
        """Return a client for the tests."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=self.ca_bundle,
            config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
        )


@dataclass(frozen=True)
class Swift:
    """One store behind two proxies. *folder* has its configuration, data and logs."""

    http: Endpoint
    https: Endpoint
    folder: Path


@contextlib.contextmanager
def swift(folder: Path) -> Iterator[Swift]:
    """Start Swift, and end it. Takes about 6 s, and 15 s more the first time.

    :param folder: an empty one; used if it can be, see :attr:`Swift.folder`

    :raises CannotStart: if the machine lacks something, or Swift does not answer in time
    """
    bin = install()
    servers: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        if not _has_attributes(folder):  # a tmpfs may not
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ENVIRONMENT)))
            if not _has_attributes(folder):
                raise CannotStart("Swift needs a folder with extended attributes: set TMPDIR")
        stack.callback(_end, servers)
        yield _start(folder, bin, servers)


def _end(servers: list[subprocess.Popen[bytes]]) -> None:
    for each in servers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.pid, signal.SIGKILL)  # each leads its own group
        each.wait()


def install() -> Path:
    """Make Swift's environment unless it exists; return its bin folder."""
    if sys.platform != "linux":
        raise CannotStart("Swift runs on Linux only")
    ENVIRONMENT.mkdir(exist_ok=True)
    stamp = ENVIRONMENT / ".installed"
    lock = os.open(ENVIRONMENT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest-xdist's workers come at the same time
        if not stamp.exists() or stamp.read_text() != " ".join(REQUIREMENTS):
            python = str(ENVIRONMENT / "bin/python")
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
            for command in ([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], [*pip, *REQUIREMENTS]):
                _run(command, INSTALL_SECONDS)
            stamp.write_text(" ".join(REQUIREMENTS))
    finally:
        os.close(lock)
    return ENVIRONMENT / "bin"


def _run(command: list[str], seconds: float) -> None:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotStart(f"{command[0]}: {error}") from error
    if done.returncode:
        raise CannotStart(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-500:].strip()}")


def _has_attributes(folder: Path) -> bool:
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.metadata", b"." * _ATTRIBUTE_BYTES)
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


def _start(folder: Path, bin: Path, servers: list[subprocess.Popen[bytes]]) -> Swift:
    *storage_ports, http_port, https_port = _free_ports(len(_STORAGE) + 2)
    certificate, key = _make_certificate(folder)
    http, https = Endpoint(f"http://127.0.0.1:{http_port}"), Endpoint(f"https://127.0.0.1:{https_port}", str(certificate))
    try:
        common = {"folder": folder, "user": pwd.getpwuid(os.getuid()).pw_name}
    except KeyError as error:
        raise CannotStart("Swift needs to run as a user with a name") from error
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text(_SWIFT_CONF)
    _make_rings(folder, bin, storage_ports)
    processes = {}
    for kind, port in zip(_STORAGE, storage_ports, strict=True):
        processes[kind] = _DEFAULTS.format(port=port, **common) + _STORAGE_CONF.format(kind=kind)
    account, user = http.access_key.split(":")
    proxy = {
        "pipeline": _PIPELINE,
        "access_key_": f"{account}_{user}",
        "reader_": READER.replace(":", "_"),
        "secret_key": http.secret_key,
        "region": http.region,
    }
    for name, port, tls in (
        ("proxy", http_port, ""),
        ("proxy-https", https_port, f"cert_file = {certificate}\nkey_file = {key}"),
    ):
        processes[name] = _DEFAULTS.format(port=port, **common) + _PROXY_CONF.format(tls=tls, **proxy)
    for name, text in processes.items():
        configuration = folder / f"{name}.conf"
        configuration.write_text(text)
        program = bin / f"swift-{name.partition('-')[0]}-server"
        command = [str(bin / "python"), "-c", _SERVER, str(program), str(configuration), "--verbose"]
        with (folder / f"{name}.log").open("wb") as log:
            servers.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
    deadline = time.monotonic() + START_SECONDS
    for endpoint in (http, https):
        _wait_for(endpoint, servers, folder, deadline)
    return Swift(http, https, folder)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _make_rings(folder: Path, bin: Path, ports: Iterable[int]) -> None:
    command = [str(bin / "python"), "-c", _RINGS, str(folder)]
    _run([*command, *(f"{kind}={port}" for kind, port in zip(_STORAGE, ports, strict=True))], START_SECONDS)


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, signed by its own key; return its file, and its key's."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scrapy_state's tests")])
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


def _wait_for(endpoint: Endpoint, servers: list[subprocess.Popen[bytes]], folder: Path, deadline: float) -> None:
    """Wait until it really makes a bucket."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = endpoint.client()
    try:
        while True:
            try:
                client.create_bucket(Bucket=f"starts-{endpoint.url.partition(':')[0]}")
                return
            except (BotoCoreError, ClientError) as error:
                ended = [each.args for each in servers if each.poll() is not None]
                if ended or time.monotonic() > deadline:
                    logs = "".join(f"\n{path.name}: {path.read_text()[-500:]}" for path in sorted(folder.glob("*.log")))
                    why = f"{ended} ended" if ended else f"no bucket after {START_SECONDS} s"
                    raise CannotStart(f"{endpoint.url}: {why} ({error}){logs}") from error
                time.sleep(0.1)
    finally:
        client.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        with swift(Path(folder)) as store:
            print(f"up in {time.monotonic() - began:.1f} s, in {folder}")
            for endpoint in (store.http, store.https):
                print(json.dumps(endpoint.settings), f"AWS_CA_BUNDLE={endpoint.ca_bundle or ''}")
            input("Enter ends it ")


if __name__ == "__main__":
    main()
