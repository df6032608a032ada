#!/bin/sh
# Installs the programs of Ceph that the tests of RGW start themselves, where that takes no password. Else they are skipped,
# and one line says why.
skipped() {
    echo "The tests of Ceph RGW are skipped: $1" >&2
    exit 0
}
command -v radosgw > /dev/null && command -v ceph-mon > /dev/null && command -v ceph-osd > /dev/null && exit 0
command -v apt-get > /dev/null || skipped "Ceph is not installed, and there is no apt-get"
[ "$(id -u)" = 0 ] && as_root= || as_root="sudo -n"
$as_root true 2> /dev/null || skipped "Ceph is not installed, and that needs root (apt-get install ceph-mon ceph-osd radosgw)"
# RUNLEVEL=1: without starting them as services
$as_root apt-get update -qq > /dev/null
$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -y -qq --no-install-recommends ceph-mon ceph-osd radosgw > /dev/null || skipped "apt-get can't install Ceph"
