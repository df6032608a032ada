"""A real S3 server on this machine: Ceph's object gateway (RGW) with one monitor and one OSD, which keeps all in memory.

It needs the programs of the packages ceph-mon, ceph-osd and radosgw; any user may run them.
``python tests/support/rgw_server.py`` starts one until Enter, to try things on by hand.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import struct
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from real_server import (
    RGW,
    SECRET_KEY,
    START_SECONDS,
    Endpoint,
    NotInstalled,
    Processes,
    RealServer,
    free_ports,
    make_certificate,
    run,
    try_by_hand,
)

WRITER, GUEST = "writer", "guest"
_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_AES = 1

# One replica; no manager, which RGW does not need; no waiting for others to vote. A manager or a disk would show nothing
# more of how RGW treats the requests of a client.
_CONF = """
[global]
fsid = {cluster}
mon host = v2:127.0.0.1:{port}
public network = 127.0.0.0/8
public addr = 127.0.0.1
ms bind msgr1 = false
keyring = {folder}/keyring
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
log file = {folder}/$name.log
run dir = {folder}
admin socket =
pid file =
auth allow insecure global id reclaim = false
mon allow pool size one = true
mon max pg per osd = 1000
paxos propose interval = 0.01
paxos min wait = 0.01
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 8589934592
rgw thread pool size = 32
"""
_KEYRING = """
[mon.]
key = {key}
caps mon = "allow *"
[client.admin]
key = {key}
caps mon = "allow *"
caps osd = "allow *"
[osd.0]
key = {key}
caps mon = "allow profile osd"
caps osd = "allow *"
"""


@contextlib.contextmanager
def rgw(folder: Path) -> Iterator[RealServer]:
    """Start RGW, and end it. Takes about 4 s.

    :param folder: an empty one

    :raises CannotStart: if the machine lacks something, or RGW does not answer in time
    """
    if sys.platform != "linux":
        raise NotInstalled("Ceph is not installed: it runs on Linux only")
    if missing := [each for each in _PROGRAMS if not shutil.which(each)]:
        raise NotInstalled(f"Ceph is not installed: no {', '.join(missing)}")
    with Processes(folder) as processes:
        yield _start(folder, processes)


def _start(folder: Path, processes: Processes) -> RealServer:
    deadline = time.monotonic() + START_SECONDS
    monitor_port, http_port, https_port = free_ports(3)
    certificate, key = make_certificate(folder)
    cluster, osd = str(uuid.uuid4()), str(uuid.uuid4())
    (folder / "ceph.conf").write_text(_CONF.format(cluster=cluster, port=monitor_port, folder=folder))
    (folder / "keyring").write_text(_KEYRING.format(key=_make_key()))
    for each in ("mon", "osd", "rgw"):
        (folder / each).mkdir()
    environment = {"CEPH_CONF": str(folder / "ceph.conf")}

    def once(*command: str) -> None:
        run(*command, seconds=max(1, deadline - time.monotonic()), environment=environment)

    monitors = str(folder / "monmap")
    once("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{monitor_port}]", "--fsid", cluster, monitors)
    once("ceph-mon", "-i", "a", "--mkfs", "--monmap", monitors)
    processes.start("mon", "ceph-mon", "-i", "a", "-f", environment=environment)
    once("ceph", "osd", "new", osd)
    once("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    processes.start("osd", "ceph-osd", "-i", "0", "-f", environment=environment)
    frontend = (
        f"beast endpoint=127.0.0.1:{http_port} ssl_endpoint=127.0.0.1:{https_port} "
        f"ssl_certificate={certificate} ssl_private_key={key}"
    )
    processes.start("rgw", "radosgw", "-n", "client.admin", "-f", "--rgw-frontends", frontend, environment=environment)
    for user in (WRITER, GUEST):
        keys = ("--access-key", user, "--secret-key", SECRET_KEY)
        once("radosgw-admin", "user", "create", "--uid", user, "--display-name", user, *keys)
    http = Endpoint(f"http://127.0.0.1:{http_port}", WRITER)
    https = Endpoint(f"https://127.0.0.1:{https_port}", WRITER, str(certificate), RGW.trailers)
    for endpoint in (http, https):
        processes.wait_for(endpoint, deadline)
    return RealServer("Ceph RGW", http, https, GUEST, RGW, folder)


def _make_key() -> str:
    """Return a key in Ceph's format: its kind, when it was made, its length, its bytes."""
    secret = os.urandom(16)
    return base64.b64encode(struct.pack("<HIIH", _AES, int(time.time()), 0, len(secret)) + secret).decode()


if __name__ == "__main__":
    try_by_hand(rgw)
