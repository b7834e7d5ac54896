#!/usr/bin/env bash
# Fetches cryptsetup and its libraries from these Debian suites into the cache,
# unpacked and not installed, and prints one root folder each:
#   cryptsetup.sh trixie sid
# It uses a package list of its own; the machine's apt sources are never touched.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

packages="cryptsetup-bin libcryptsetup12 libdevmapper1.02.1 libc6 libpopt0 libuuid1 libblkid1 libudev1 libselinux1
  libpcre2-8-0 libssl3t64 libjson-c5 zlib1g libzstd1 libcap2"
for suite in "$@"; do
  dir=$cache/cryptsetup/$suite
  if [ ! -e "$dir/complete" ]; then
    say "fetching cryptsetup of Debian $suite from $(debian_mirror)"
    rm -rf "$dir"
    mkdir -p "$dir/deb"
    private_apt "$dir" deb "$suite"
    (cd "$dir/deb" && apt download $packages)
    for deb in "$dir"/deb/*.deb; do dpkg-deb -x "$deb" "$dir/root"; done
    private_apt_end
    rm -rf "$dir/deb"
    touch "$dir/complete"
  fi
  echo "$dir/root"
done
