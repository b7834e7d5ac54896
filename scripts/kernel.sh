#!/usr/bin/env bash
# Fetches Debian's stock cloud kernel, its modules and a static busybox into
# the cache, unpacked and not installed, and prints shell assignments:
#   ATTESTBOX_KERNEL ATTESTBOX_MODULES ATTESTBOX_BUSYBOX
# It uses a package list of its own, made from the machine's mirror; the
# machine's apt sources are never touched, and root is not needed. To use other
# files, set the three variables yourself.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ -n "${ATTESTBOX_KERNEL:-}" ] && [ -n "${ATTESTBOX_MODULES:-}" ] && [ -n "${ATTESTBOX_BUSYBOX:-}" ]; then
  printf 'ATTESTBOX_KERNEL=%q ATTESTBOX_MODULES=%q ATTESTBOX_BUSYBOX=%q\n' "$ATTESTBOX_KERNEL" "$ATTESTBOX_MODULES" "$ATTESTBOX_BUSYBOX"
  exit 0
fi
[ -z "${ATTESTBOX_KERNEL:-}${ATTESTBOX_MODULES:-}${ATTESTBOX_BUSYBOX:-}" ] ||
  die "set ATTESTBOX_KERNEL, ATTESTBOX_MODULES and ATTESTBOX_BUSYBOX, all three or none"

dir=$cache/debian
if [ ! -e "$dir/complete" ]; then
  command -v apt-get >/dev/null 2>&1 ||
    die "no apt-get here: set ATTESTBOX_KERNEL (vmlinuz), ATTESTBOX_MODULES (/lib/modules/RELEASE) and ATTESTBOX_BUSYBOX (a static busybox)"
  . /etc/os-release
  [ "${ID:-}" = debian ] ||
    die "this is ${PRETTY_NAME:-not Debian}: set ATTESTBOX_KERNEL, ATTESTBOX_MODULES and ATTESTBOX_BUSYBOX to a Debian cloud kernel, its modules and a static busybox"
  suite=${VERSION_CODENAME:?}
  say "fetching the cloud kernel of Debian $suite from $(debian_mirror)"
  rm -rf "$dir"
  mkdir -p "$dir/deb"
  private_apt "$dir" deb "$suite"
  image=$(apt_cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | sed -n 1p)
  [ -n "$image" ] || die "Debian $suite names no kernel behind linux-image-cloud-amd64"
  (cd "$dir/deb" && apt download "$image" busybox-static)
  for deb in "$dir"/deb/*.deb; do dpkg-deb -x "$deb" "$dir/root"; done
  private_apt_end
  rm -rf "$dir/deb"
  touch "$dir/complete"
fi
first() {
  for f in "$@"; do [ ! -e "$f" ] || { printf '%s' "$f"; return; }; done
  die "none of $* exists"
}
kernel=$(first "$dir"/root/boot/vmlinuz-*)
release=${kernel##*/vmlinuz-}
modules=$(first "$dir"/root/lib/modules/"$release" "$dir"/root/usr/lib/modules/"$release")
busybox=$(first "$dir"/root/bin/busybox "$dir"/root/usr/bin/busybox)
printf 'ATTESTBOX_KERNEL=%q ATTESTBOX_MODULES=%q ATTESTBOX_BUSYBOX=%q\n' "$kernel" "$modules" "$busybox"
