#!/usr/bin/env bash
# Checks Go, and installs what `make demo` (or, with "test", `make test`) needs
# from Debian; as a plain user it says which command to run.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
check_go
need qemu-system-x86_64 qemu-system-x86 ipxe-qemu seabios
need mke2fs e2fsprogs
need debugfs e2fsprogs
need xz xz-utils
need dpkg-deb dpkg
need perl perl-base
if [ "${1:-}" = test ]; then
  need cryptsetup cryptsetup-bin
  need gcc gcc libc6-dev # the race detector
  need git git
  need modinfo kmod
  need jq jq   # cryptsetup's generators of headers
  need xxd xxd
  need zstd zstd
  need objcopy binutils
  need python3 python3
  need mmdebstrap mmdebstrap
fi
install_missing
