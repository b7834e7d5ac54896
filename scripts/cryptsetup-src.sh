#!/usr/bin/env bash
# Fetches the source of Debian's cryptsetup into the cache, for its generators of
# changed LUKS2 headers (tests/generators), and prints a shell assignment:
#   ATTESTBOX_CRYPTSETUP_SRC
# As kernel.sh does, by a package list of its own: the machine's apt sources are
# never touched, and root is not needed. Set the variable to use another tree.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

dir=$cache/cryptsetup-src
src=${ATTESTBOX_CRYPTSETUP_SRC:-}
if [ -z "$src" ] && [ ! -e "$dir/complete" ]; then
  command -v apt-get >/dev/null 2>&1 || die "no apt-get here: set ATTESTBOX_CRYPTSETUP_SRC to an unpacked source of cryptsetup"
  . /etc/os-release
  [ "${ID:-}" = debian ] || die "this is ${PRETTY_NAME:-not Debian}: set ATTESTBOX_CRYPTSETUP_SRC to an unpacked source of cryptsetup"
  say "fetching the source of cryptsetup of Debian ${VERSION_CODENAME:?} from $(debian_mirror)"
  rm -rf "$dir"
  mkdir -p "$dir/download" "$dir/src"
  private_apt "$dir" deb-src "$VERSION_CODENAME"
  # Checked by apt against the signed list; unpacked by tar, so that dpkg-dev is
  # not needed. Debian's own patches do not change the generators.
  (cd "$dir/download" && apt source --download-only cryptsetup)
  tar -xf "$(echo "$dir"/download/cryptsetup_*.orig.tar.*z)" -C "$dir/src" --strip-components=1
  private_apt_end
  rm -rf "$dir/download"
  touch "$dir/complete"
fi
src=${src:-$dir/src}
[ -d "$src/tests/generators" ] || die "$src has no tests/generators"
printf 'ATTESTBOX_CRYPTSETUP_SRC=%q\n' "$src"
