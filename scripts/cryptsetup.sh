#!/usr/bin/env bash
# Fetches cryptsetup and its libraries from these Debian suites into the cache,
# unpacked and not installed, and prints one root folder each:
#   cryptsetup.sh trixie sid
# It uses a package list of its own; the machine's apt sources are never touched.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

mirror=${ATTESTBOX_MIRROR:-http://deb.debian.org/debian}
key=/usr/share/keyrings/debian-archive-keyring.gpg
packages="cryptsetup-bin libcryptsetup12 libdevmapper1.02.1 libc6 libpopt0 libuuid1 libblkid1 libudev1 libselinux1
  libpcre2-8-0 libssl3t64 libjson-c5 zlib1g libzstd1 libcap2"
for suite in "$@"; do
  dir=$cache/cryptsetup/$suite
  if [ ! -e "$dir/complete" ]; then
    say "fetching cryptsetup of Debian $suite from $mirror"
    [ -r "$key" ] || die "$key is missing (Debian package debian-archive-keyring)"
    rm -rf "$dir"
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/deb"
    printf 'deb [signed-by=%s] %s %s main\n' "$key" "$mirror" "$suite" >"$dir/apt/sources.list"
    : >"$dir/apt/status"
    apt() {
      apt-get -q -o Dir::Etc::SourceList="$dir/apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$dir/apt" \
        -o Dir::State::Lists="$dir/apt/lists" -o Dir::State::status="$dir/apt/status" -o Dir::Cache="$dir/apt/cache" \
        -o APT::Sandbox::User= -o Acquire::Languages=none -o APT::Architecture=amd64 -o Acquire::Retries=3 "$@" >>"$dir/apt/log" 2>&1 ||
        die "apt-get $1 failed; see $dir/apt/log"
    }
    apt update
    (cd "$dir/deb" && apt download $packages)
    for deb in "$dir"/deb/*.deb; do dpkg-deb -x "$deb" "$dir/root"; done
    rm -rf "$dir/apt/lists" "$dir/apt/cache" "$dir/deb"
    touch "$dir/complete"
  fi
  echo "$dir/root"
done
