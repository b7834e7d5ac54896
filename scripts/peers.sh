#!/usr/bin/env bash
# Fetches what attestbox is compared with in benchmarks, into the cache, nothing
# of it installed, and prints shell assignments:
#   PEER_RELEASE PEER_KERNEL PEER_MODULES  Debian's 6.12 cloud kernel, for all of them
#   PEER_INITRAMFS_TOOLS PEER_DRACUT       roots of Debian 12 to chroot into, kernel included
#   PEER_BOOSTER                           folder with booster's programs generator and init;
#                                          empty where the module cannot be had, PEER_BOOSTER_WHY says why
#   PEER_BOOSTER_VERSION
# A root belongs to who calls: benchmarks write their configuration into it.
# It needs root and mmdebstrap. BOOSTER=DIR takes booster's two programs from DIR.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
check_go

peers=$cache/peers
mkdir -p "$peers"
exec 8>"$peers/lock"
flock 8
for kind in initramfs-tools dracut; do
  [ ! -e "$peers/$kind/complete" ] || continue
  rm -rf "$peers/$kind"
  mkdir "$peers/$kind"
  "$root/scripts/debian-root.sh" bookworm "$kind" "$peers/$kind/root"
  touch "$peers/$kind/complete"
done
kernel=$(echo "$peers"/initramfs-tools/root/boot/vmlinuz-*)
release=${kernel##*/vmlinuz-}
[ -e "$kernel" ] && [ -e "$peers/dracut/root/boot/vmlinuz-$release" ] ||
  die "the two roots hold different kernels: delete $cache/debian-root and $peers"

# booster, by the go command: its tags are not Go's, so the tag stands for a commit,
# which the checksum database knows.
version=0.12 why=
booster=${BOOSTER:-$peers/booster-$version}
if [ ! -x "$booster/generator" ] || [ ! -x "$booster/init" ]; then
  [ -z "${BOOSTER:-}" ] || die "$BOOSTER has no programs generator and init"
  if ! (cd / && GOBIN=$booster CGO_ENABLED=0 GOFLAGS=-trimpath go install "github.com/anatol/booster/generator@$version" "github.com/anatol/booster/init@$version") >"$peers/booster.log" 2>&1; then
    why=$(tail -n 2 "$peers/booster.log" | tr -s '\n\t ' ' ')
    say "booster $version cannot be had: $why"
    rm -rf "$booster"
    booster=
  fi
fi
printf '%s=%q\n' PEER_RELEASE "$release" PEER_KERNEL "$kernel" PEER_MODULES "$peers/initramfs-tools/root/lib/modules/$release" \
  PEER_INITRAMFS_TOOLS "$peers/initramfs-tools/root" PEER_DRACUT "$peers/dracut/root" \
  PEER_BOOSTER "$booster" PEER_BOOSTER_VERSION "$version" PEER_BOOSTER_WHY "$why"
