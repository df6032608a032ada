"""A real S3 server on this machine: OpenStack Swift with its S3 API, over http and over https. Linux only.

``python tests/support/swift_server.py`` starts one until Enter, to try things on by hand.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from real_server import (
    REGION,
    SECRET_KEY,
    START_SECONDS,
    SWIFT,
    CannotStart,
    Endpoint,
    Processes,
    RealServer,
    free_ports,
    make_certificate,
    run,
    try_by_hand,
)

REQUIREMENTS = ("swift==2.38.3",)
#: Its own environment, made once: what it needs must not meet what Scrapy needs.
ENVIRONMENT = Path(__file__).parents[2] / ".venv-swift"
INSTALL_SECONDS = 300
#: Swift keeps an object's metadata in one.
_ATTRIBUTE_BYTES = 2000
WRITER, GUEST = "tests:writer", "tests:guest"
_STORAGE = ("account", "container", "object")
_PROXY = {
    "pipeline": "catch_errors listing_formats bulk s3api tempauth slo dlo proxy-server",
    "writer": WRITER.replace(":", "_"),
    "guest": GUEST.replace(":", "_"),
    "secret_key": SECRET_KEY,
    "region": REGION,
}

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
user_{writer} = {secret_key} .admin
user_{guest} = {secret_key}
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


@contextlib.contextmanager
def swift(folder: Path) -> Iterator[RealServer]:
    """Start Swift, and end it. Takes about 6 s, and 15 s more the first time.

    :param folder: an empty one; used if it can be, see :attr:`RealServer.folder`

    :raises CannotStart: if the machine lacks something, or Swift does not answer in time
    """
    bin = install()
    with contextlib.ExitStack() as stack:
        if not _has_attributes(folder):  # a tmpfs may not
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ENVIRONMENT)))
            if not _has_attributes(folder):
                raise CannotStart("Swift needs a folder with extended attributes: set TMPDIR")
        yield _start(folder, bin, stack.enter_context(Processes(folder)))


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
                run(*command, seconds=INSTALL_SECONDS)
            stamp.write_text(" ".join(REQUIREMENTS))
    finally:
        os.close(lock)
    return ENVIRONMENT / "bin"


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


def _start(folder: Path, bin: Path, processes: Processes) -> RealServer:
    deadline = time.monotonic() + START_SECONDS
    *storage_ports, http_port, https_port = free_ports(len(_STORAGE) + 2)
    certificate, key = make_certificate(folder)
    try:
        common = {"folder": folder, "user": pwd.getpwuid(os.getuid()).pw_name}
    except KeyError as error:
        raise CannotStart("Swift needs to run as a user with a name") from error
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text(_SWIFT_CONF)
    _make_rings(folder, bin, storage_ports)
    configurations = {}
    for kind, port in zip(_STORAGE, storage_ports, strict=True):
        configurations[kind] = _DEFAULTS.format(port=port, **common) + _STORAGE_CONF.format(kind=kind)
    for name, port, tls in (
        ("proxy", http_port, ""),
        ("proxy-https", https_port, f"cert_file = {certificate}\nkey_file = {key}"),
    ):
        configurations[name] = _DEFAULTS.format(port=port, **common) + _PROXY_CONF.format(tls=tls, **_PROXY)
    for name, text in configurations.items():
        file = folder / f"{name}.conf"
        file.write_text(text)
        processes.start(name, str(bin / f"swift-{name.partition('-')[0]}-server"), str(file), "--verbose")
    http = Endpoint(f"http://127.0.0.1:{http_port}", WRITER)
    https = Endpoint(f"https://127.0.0.1:{https_port}", WRITER, str(certificate), SWIFT.trailers)
    for endpoint in (http, https):
        processes.wait_for(endpoint, deadline)
    return RealServer("Swift", http, https, GUEST, SWIFT, folder)


def _make_rings(folder: Path, bin: Path, ports: Iterable[int]) -> None:
    servers = (f"{kind}={port}" for kind, port in zip(_STORAGE, ports, strict=True))
    run(str(bin / "python"), "-c", _RINGS, str(folder), *servers)


if __name__ == "__main__":
    try_by_hand(swift)
