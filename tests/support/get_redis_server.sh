#!/bin/sh
# Installs redis-server for the tests, which start their own, where that takes no password. Else their tests are skipped.
command -v redis-server > /dev/null && exit 0
command -v apt-get > /dev/null || exit 0
[ "$(id -u)" = 0 ] && as_root= || as_root="sudo -n"
$as_root true 2> /dev/null || exit 0
# RUNLEVEL=1: without starting it as a service
$as_root apt-get update -qq > /dev/null
$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq redis-server > /dev/null ||
    echo "redis-server can't be installed" >&2
exit 0
