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
  # The machine's own mirror, one-line or deb822 style; else Debian's.
  mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
    sed -n -E 's/^[[:space:]]*(deb[[:space:]]+(\[[^]]*\][[:space:]]+)?|URIs:[[:space:]]*)((https?|file|mirror\+file):[^[:space:]]*\/debian\/?)([[:space:]].*)?$/\3/p' | sed -n 1p)
  mirror=${mirror:-http://deb.debian.org/debian}
  say "fetching the source of cryptsetup of Debian ${VERSION_CODENAME:?} from $mirror"
  rm -rf "$dir"
  mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/download" "$dir/src"
  key=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -r "$key" ] || die "$key is missing (Debian package debian-archive-keyring)"
  printf 'deb-src [signed-by=%s] %s %s main\n' "$key" "$mirror" "$VERSION_CODENAME" >"$dir/apt/sources.list"
  : >"$dir/apt/status"
  apt() {
    apt-get -q -o Dir::Etc::SourceList="$dir/apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$dir/apt" \
      -o Dir::State::Lists="$dir/apt/lists" -o Dir::State::status="$dir/apt/status" -o Dir::Cache="$dir/apt/cache" \
      -o APT::Sandbox::User= -o Acquire::Languages=none -o APT::Architecture=amd64 -o Acquire::Retries=3 "$@" >>"$dir/apt/log" 2>&1 ||
      die "apt-get $1 failed; see $dir/apt/log"
  }
  apt update
  # Checked by apt against the signed list; unpacked by tar, so that dpkg-dev is
  # not needed. Debian's own patches do not change the generators.
  (cd "$dir/download" && apt source --download-only cryptsetup)
  tar -xf "$(echo "$dir"/download/cryptsetup_*.orig.tar.*z)" -C "$dir/src" --strip-components=1
  rm -rf "$dir/apt/lists" "$dir/apt/cache" "$dir/download"
  touch "$dir/complete"
fi
src=${src:-$dir/src}
[ -d "$src/tests/generators" ] || die "$src has no tests/generators"
printf 'ATTESTBOX_CRYPTSETUP_SRC=%q\n' "$src"
