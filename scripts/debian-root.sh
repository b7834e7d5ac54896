#!/usr/bin/env bash
# Makes a small Debian root folder of stock packages, for tests:
#   debian-root.sh SUITE initramfs-tools|dracut OUT [SNP-SIM-DEVICE]
# OUT is a fresh copy of a root that is made once and kept in the cache. With
# the last argument, a snp-sim-device binary, the copy's initramfs also starts
# the simulated secure processor before anything else: see testdata/debian/sim.
#
# update-initramfs is off in the copy (a package's installation would run it
# several times): /etc/initramfs-tools/update-initramfs.conf says so.
# It needs root and mmdebstrap; the machine's apt sources are never touched.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ $# = 3 ] || [ $# = 4 ] || die "usage: debian-root.sh SUITE initramfs-tools|dracut OUT [SNP-SIM-DEVICE]"
suite=$1 kind=$2 out=$3 sim=${4:-}
[ ! -e "$out" ] || die "$out exists"
case $suite in
bookworm) kernel=linux-image-cloud-amd64/bookworm-backports ;; # 6.1 has no SNP guest driver
trixie) kernel=linux-image-cloud-amd64 ;;
*) die "suite $suite is not bookworm or trixie" ;;
esac
case $suite-$kind in
*-initramfs-tools) packages=initramfs-tools,cryptsetup-initramfs ;;
bookworm-dracut) packages=dracut,cryptsetup ;;
trixie-dracut) packages=dracut,cryptsetup,systemd-cryptsetup ;;
*) die "initramfs of kind $kind is not initramfs-tools or dracut" ;;
esac
[ "$(id -u)" = 0 ] || die "debian-root.sh needs root"

mirror=$(debian_mirror)
dir=$cache/debian-root/$suite-$kind
mkdir -p "$cache/debian-root"
exec 9>"$dir.lock"
flock 9
if [ ! -e "$dir/etc/attestbox-root-complete" ]; then
  command -v mmdebstrap >/dev/null 2>&1 || die "mmdebstrap is missing: apt-get install --no-install-recommends mmdebstrap"
  say "making a root of Debian $suite with $kind from $mirror"
  rm -rf "$dir"
  sources=("deb $mirror $suite main")
  [ "$suite" != bookworm ] || sources+=("deb $mirror bookworm-backports main")
  mmdebstrap --mode=root --variant=minbase --format=directory --skip=check/qemu \
    --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' --aptopt='APT::Install-Recommends "false"' --aptopt='APT::Sandbox::User "root"' \
    --dpkgopt=force-confold --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools"; echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"' \
    --customize-hook='passwd -R "$1" -d root' \
    --customize-hook='echo attestbox-test >"$1/etc/hostname"; rm -f "$1"/etc/resolv.conf "$1"/boot/initrd.img-*; : >"$1/etc/machine-id"' \
    --include="$kernel,$packages,systemd-sysv,udev,kmod,e2fsprogs,zstd" \
    "$suite" "$dir" "${sources[@]}" >"$dir.log" 2>&1 || die "mmdebstrap failed; see $dir.log"
  touch "$dir/etc/attestbox-root-complete"
fi
cp -a "$dir" "$out"
rm "$out/etc/attestbox-root-complete"
if [ -n "$sim" ]; then
  install -D -m 755 "$sim" "$out/usr/lib/snp-sim/snp-sim-device"
  cp -r --no-preserve=ownership "$root/testdata/debian/sim/$kind/." "$out/"
fi
