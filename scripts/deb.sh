#!/usr/bin/env bash
# Builds attestbox_VERSION_amd64.deb, the same bytes each time:
#   deb.sh [OUT-FOLDER [BIN-FOLDER]]     default out and bin
# The time of its files is SOURCE_DATE_EPOCH, else the last commit's. Needs
# dpkg-deb, and no root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
out=${1:-$root/out} bin=${2:-$root/bin}
version=${ATTESTBOX_VERSION:-0.1.0}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 1767225600)}
export LC_ALL=C TZ=UTC
src=$root/initramfs/debian
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
umask 022

# The folder below root/ as it is, with modes of its own.
pkg=$tmp/pkg
put() { install -D -m "$1" "$2" "$pkg$3"; }
(cd "$src/root" && find . -type f | sed 's/^\.//' | sort) | while read -r f; do
  mode=644
  case $f in /usr/lib/* | /usr/share/initramfs-tools/* | /etc/kernel/* | /etc/initramfs/*) mode=755 ;; esac
  put "$mode" "$src/root$f" "$f"
done
for f in "$root"/initramfs/dracut/90attestbox/*; do
  mode=644
  case $f in *.sh) mode=755 ;; esac
  put "$mode" "$f" "/usr/lib/dracut/modules.d/90attestbox/${f##*/}"
done
put 644 "$root/initramfs/dracut/50-attestbox.conf" /usr/lib/dracut/dracut.conf.d/50-attestbox.conf
put 755 "$bin/attestbox-guest" /usr/lib/attestbox/attestbox
put 755 "$bin/mkimage" /usr/lib/attestbox/mkimage
mkdir -p "$pkg/usr/sbin" "$pkg/etc/attestbox"
ln -s ../lib/attestbox/attestbox "$pkg/usr/sbin/attestbox"
for page in "$src"/man/*.[1-8]; do
  n=${page##*.}
  mkdir -p "$pkg/usr/share/man/man$n"
  gzip -9n <"$page" >"$pkg/usr/share/man/man$n/${page##*/}.gz"
done
doc=$pkg/usr/share/doc/attestbox
mkdir -p "$doc"
cp "$root/docs/debian.md" "$doc/README.md"
cp "$root/docs/systemd.md" "$doc/systemd.md"
{
  printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n'
  printf 'Upstream-Name: attestbox\n\nFiles: *\nCopyright: the attestbox authors\nLicense: Apache-2.0\n'
  printf ' See /usr/share/common-licenses/Apache-2.0.\n'
} >"$doc/copyright"
gzip -9n <"$root/CHANGELOG.md" >"$doc/changelog.gz"
chmod 644 "$doc"/*

mkdir -p "$pkg/DEBIAN"
install -m 755 "$src"/control/{postinst,postrm,prerm} "$pkg/DEBIAN/"
install -m 644 "$src/control/conffiles" "$pkg/DEBIAN/conffiles"
size=$(find "$pkg" -path "$pkg/DEBIAN" -prune -o -type f -printf '%s\n' | awk '{ n += int(($1 + 1023) / 1024) } END { print n }')
sed -e "s/@VERSION@/$version/" -e "s/@SIZE@/$size/" "$src/control/control" >"$pkg/DEBIAN/control"
(cd "$pkg" && find . -path ./DEBIAN -prune -o -type f -print | sed 's|^\./||' | sort | xargs md5sum) >"$pkg/DEBIAN/md5sums"
find "$pkg" -print0 | xargs -0r touch -h -d "@$SOURCE_DATE_EPOCH"
mkdir -p "$out"
file=$out/attestbox_${version}_amd64.deb
dpkg-deb --root-owner-group -Zxz -b "$pkg" "$tmp/out.deb" >/dev/null
mv "$tmp/out.deb" "$file"
echo "$file"
