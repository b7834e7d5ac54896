#!/usr/bin/env bash
# Building an initramfs for the same kernel with the same list of modules:
# `make bench-build`. attestbox, initramfs-tools, dracut and, where its programs can
# be had, booster; in turn, round by round. Each packs what it boots with: attestbox
# its guest binary, the others cryptsetup, a shell and tools, or booster's init.
#
# The bytes of two more builds of each, a second apart, are compared. It needs root,
# for Debian's tools. Nothing here passes or fails on a time.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"
cd "$root"
rounds=${ROUNDS:-10}
make -s build
CGO_ENABLED=0 go build -o out/interleave ./bench/interleave
peers=$(scripts/peers.sh)
eval "$peers"
out=$root/out/bench-build
rm -rf "$out"
mkdir -p "$out"
modules=(virtio_pci virtio_blk dm-mod dm-crypt xts ecb dm-integrity authenc aesni-intel ext4 virtio_net vsock vmw_vsock_virtio_transport tsm sev-guest)
mounted=()
cleanup() {
  for m in "${mounted[@]}"; do umount "$m" || umount -l "$m" || true; done
  rm -rf "$PEER_INITRAMFS_TOOLS/tmp/bench-build" "$PEER_DRACUT/tmp/bench-build"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
for r in "$PEER_INITRAMFS_TOOLS" "$PEER_DRACUT"; do
  mount -t proc proc "$r/proc"
  mounted+=("$r/proc")
done

list=$(IFS=,; echo "${modules[*]}")
cat >"$out/init.json" <<END
{"mode": "switch-root", "servers": ["tcp://192.0.2.1:8451"], "pins": ["sha256:$(printf '%064d' 1)"],
 "network": {"method": "dhcp"}, "root": {"device": "/dev/vda", "name": "root", "fstype": "ext4"}}
END
ours() { # ours NAME FLAGS: the command that builds into out/NAME
  echo "exec '$root/bin/mkimage' build -kernel '$PEER_KERNEL' -modules-dir '$PEER_MODULES' -module $list -guest '$root/bin/attestbox-guest' -config '$out/init.json' -out '$out/$1' $2 >'$out/$1.log' 2>&1"
}
in_root() { echo "exec chroot '$1' env PATH=/usr/sbin:/usr/bin:/sbin:/bin $2 >'$out/log' 2>&1"; }
r=$PEER_INITRAMFS_TOOLS
rm -rf "$r/tmp/bench-build"
cp -r "$r/etc/initramfs-tools" "$r/tmp/bench-build"
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=zstd/' "$r/tmp/bench-build/initramfs.conf"
printf '%s\n' "${modules[@]}" >"$r/tmp/bench-build/modules"
tools="mkinitramfs -d /tmp/bench-build -o /tmp/bench-build/initrd $PEER_RELEASE"
mkdir -p "$PEER_DRACUT/tmp/bench-build"
dracut="dracut --force --quiet --kver $PEER_RELEASE --no-hostonly --no-early-microcode --zstd --modules 'base fs-lib rootfs-block dm crypt' --drivers '${modules[*]}' /tmp/bench-build/initrd"

names=("dracut, list, zstd" "mkinitramfs, list, zstd")
files=("$PEER_DRACUT/tmp/bench-build/initrd" "$r/tmp/bench-build/initrd")
commands=("$(in_root "$PEER_DRACUT" "$dracut")" "$(in_root "$r" "$tools")")
if [ -n "$PEER_BOOSTER" ]; then
  printf 'network:\n  dhcp: on\nuniversal: false\nmodules: -*,%s\nmodules_force_load: %s\ncompression: zstd\n' "$list" "$list" >"$out/booster.yaml"
  names+=("booster $PEER_BOOSTER_VERSION, list, zstd") files+=("$out/booster")
  commands+=("exec '$PEER_BOOSTER/generator' build --force --config '$out/booster.yaml' --init-binary '$PEER_BOOSTER/init' --kernel-version $PEER_RELEASE --modules-dir '$PEER_MODULES' '$out/booster' >'$out/log' 2>&1")
fi

# The default comes last: times are compared with its own.
names+=("mkimage build -compress xz" "mkimage build -small" "mkimage build")
files+=("$out/xz/initrd" "$out/small/initrd" "$out/default/initrd")
commands+=("$(ours xz "-compress xz")" "$(ours small -small)" "$(ours default "")")

# Twice, to compare the bytes: without SOURCE_DATE_EPOCH, as people call it.
sizes=() same=()
for i in "${!names[@]}"; do
  sum=()
  for _ in 1 2; do
    sh -c "${commands[i]}" || { cat "$out/log" >&2; die "${names[i]}"; }
    sum+=("$(sha256sum <"${files[i]}")")
    sleep 1.1
  done
  sizes+=("$(stat -c %s "${files[i]}")")
  [ "${sum[0]}" = "${sum[1]}" ] && same+=(yes) || same+=(no)
done
args=()
for i in "${!names[@]}"; do args+=("${names[i]}" "${commands[i]}"); done
echo "machine: $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(go env GOVERSION), kernel $PEER_RELEASE, load $(cut -d' ' -f1 /proc/loadavg)"
echo
echo "| builder | wall, median of $rounds | CPU | peak memory | ratio |"
echo "|---|---|---|---|---|"
out/interleave "$rounds" "${args[@]}"
echo
echo "| builder | initramfs, bytes | same bytes twice |"
echo "|---|---|---|"
for i in "${!names[@]}"; do echo "| ${names[i]} | ${sizes[i]} | ${same[i]} |"; done
[ -n "$PEER_BOOSTER" ] || echo "| booster | not to be had: $PEER_BOOSTER_WHY | |"
