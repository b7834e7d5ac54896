#!/usr/bin/env bash
# Kernel start to switch_root under QEMU TCG: `make bench-boot`. The same Debian
# kernel, kernel parameters, machine and disk for all: ext4 in LUKS2 (aes-xts,
# pbkdf2 of 1,000 iterations). The real system's init prints CLOCK_BOOTTIME at
# its start and powers off.
#
# Each has the modules of this disk alone, and attestbox those of its network and of
# the report; "default list" is what mkimage packs unasked.
#
# attestbox attests: DHCP or vsock, TLS, a report of the simulated chip, the
# verifier's release, outcome and acknowledgement. The others have the key in
# their initramfs and no network. "kernel alone" is that init as the initramfs:
# nobody can be faster.
#
# It needs root, for Debian's tools. Nothing here passes or fails on a time.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"
cd "$root"
rounds=${ROUNDS:-10}
make -s build
peers=$(scripts/peers.sh)
eval "$peers"
bin=$root/bin out=$root/out/bench-boot
rm -rf "$out"
mkdir -p "$out"/rootfs/{sbin,dev,proc,sys,run,tmp,etc} "$out/alone"
secrets=$(mktemp -d /dev/shm/attestbox-bench-XXXXXX)
verifier=
cleanup() {
  [ -z "$verifier" ] || kill "$verifier" 2>/dev/null || true
  ! mountpoint -q "$PEER_INITRAMFS_TOOLS/proc" || umount "$PEER_INITRAMFS_TOOLS/proc"
  rm -rf "$secrets" "$PEER_INITRAMFS_TOOLS/etc/keys"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

gcc -O2 -static -nostdlib -fno-stack-protector -fno-builtin -o "$out/rootfs/sbin/init" bench/bootinit/init.c
"$bin/mkimage" disk -from "$out/rootfs" -no-integrity -size 64M -out "$out/disk.img" -key-out "$secrets/disk.key" -record "$out/disk.json" >"$out/log" 2>&1

# attestbox: over virtio-net and, in an image of its own, over vsock.
(umask 077 && head -c 32 /dev/urandom >"$secrets/seal.key")
seal=(-state "$out/verifier" -seal-key "$secrets/seal.key")
"$bin/attestbox" snp-sim init -chip "$out/chip" -product Milan >>"$out/log" 2>&1
pin=$("$bin/attestbox" verifier init "${seal[@]}" -root "$out/chip/ark.pem" -product Milan 2>>"$out/log" | tail -n 1)
"$bin/attestbox" verifier serve "${seal[@]}" -listen tcp://127.0.0.1:0 >"$out/verifier.log" 2>&1 &
verifier=$!
address=
for _ in $(seq 300); do
  address=$(sed -n 's/.*listening on tcp:\/\/\(127\.0\.0\.1:[0-9]*\).*/\1/p' "$out/verifier.log" | head -n 1)
  [ -z "$address" ] || break
  sleep 0.1
done
[ -n "$address" ] || die "the verifier did not start; see $out/verifier.log"
cat >"$out/init.json" <<END
{"mode": "switch-root", "servers": ["tcp://10.0.2.2:${address##*:}", "vsock://2:8451"], "pins": ["$pin"],
 "network": {"method": "dhcp"}, "root": {"device": "/dev/vda", "name": "root", "fstype": "ext4"}, "timeout": "3m"}
END
image() { # image NAME PARAMETERS [FLAGS OF MKIMAGE]
  "$bin/mkimage" build -kernel "$PEER_KERNEL" -modules-dir "$PEER_MODULES" -guest "$bin/attestbox-guest" -config "$out/init.json" \
    -sim-device "$bin/snp-sim-device" -product Milan -append "console=ttyS0 loglevel=4 $2" -out "$out/$1" "${@:3}" >>"$out/log" 2>&1
}
image default ""
image net "" -module virtio_blk,dm-crypt,xts,ecb,aesni-intel,ext4,virtio_net,tsm,sev-guest
image vsock attestbox.net=none -module virtio_blk,dm-crypt,xts,ecb,aesni-intel,ext4,vsock,vmw_vsock_virtio_transport,tsm,sev-guest
id=$("$bin/attestbox" verifier add-instance "${seal[@]}" -id new -image "$out/default" -image "$out/net" -image "$out/vsock" \
  -disk-key "$secrets/disk.key" -header "$out/disk.json" 2>>"$out/log" | tail -n 1)
line=$(cat "$out/net/cmdline") # with all parameters that mkimage adds, for the others too

# initramfs-tools: the modules of this disk, and the key.
r=$PEER_INITRAMFS_TOOLS
rm -rf "$r/tmp/bench"
cp -r "$r/etc/initramfs-tools" "$r/tmp/bench"
install -D -m 600 "$secrets/disk.key" "$r/etc/keys/root.key"
echo 'root /dev/vda /etc/keys/root.key luks,initramfs' >"$r/etc/crypttab"
echo '/dev/mapper/root / ext4 defaults 0 0' >"$r/etc/fstab"
echo 'KEYFILE_PATTERN="/etc/keys/*.key"' >"$r/etc/cryptsetup-initramfs/conf-hook"
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=zstd/; $ a UMASK=0077' "$r/tmp/bench/initramfs.conf"
printf '%s\n' virtio_pci virtio_blk dm-crypt xts aesni-intel ext4 >"$r/tmp/bench/modules"
mount -t proc proc "$r/proc"
in_root() { chroot "$r" env PATH=/usr/sbin:/usr/bin:/sbin:/bin SOURCE_DATE_EPOCH=1767225600 "$@"; }
in_root mkinitramfs -d /tmp/bench -o /tmp/bench/initrd "$PEER_RELEASE" >>"$out/log" 2>&1
mv "$r/tmp/bench/initrd" "$out/initramfs-tools"

cp "$out/rootfs/sbin/init" "$r/tmp/bench/init"
in_root sh -c 'cd /tmp/bench && mkdir dev && mknod dev/console c 5 1 && printf "%s\n" dev dev/console init | cpio -o -H newc --quiet' >"$out/alone/initrd"

# boot NAME ARGUMENTS: one boot, as a line "NAME seconds CPU-seconds".
boot() {
  local name=$1 cpu up
  shift
  TIMEFORMAT='%U %S'
  cpu=$({ time "$bin/attestbox" snp-sim run -chip "$out/chip" -host-data "$id" -disk "$out/disk.img" -memory 512M -timeout 5m \
    -console "$out/$name.console" "$@" >"$out/$name.log" 2>&1; } 2>&1) || die "$name did not power off; see $out/$name.console"
  up=$(tr -d '\r' <"$out/$name.console" | sed -n 's/.*bench: up \([0-9.]*\)$/\1/p')
  [ -n "$up" ] || die "$name did not reach the real system; see $out/$name.console"
  echo "$name $up $(echo "$cpu" | awk '{ print $1 + $2 }')" >>"$out/times"
}
peer() { boot "$1" -net user -kernel "$PEER_KERNEL" -initrd "$2" -append "$line root=/dev/mapper/root rootfstype=ext4 rw"; }
for i in $(seq "$rounds"); do
  boot attestbox-net -net user -image "$out/net"
  tr -d '\r' <"$out/attestbox-net.console" | sed -n 's/.*attestbox: \[ *\([0-9.]*\)\] \(modules\|network\|unlock\|outcome\|switch-root\):.*/\2 \1/p' >>"$out/steps"
  boot attestbox-default -net user -image "$out/default"
  boot attestbox-vsock -net none -vsock-forward "8451=$address" -image "$out/vsock"
  peer initramfs-tools "$out/initramfs-tools"
  peer kernel-alone "$out/alone/initrd"
done

# column NAME FIELD FILE: median, least and most.
column() {
  awk -v n="$1" -v f="$2" '$1 == n { print $f }' "$3" | sort -n |
    awk '{ v[NR] = $1 } END { printf "%.2f | %.2f to %.2f", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2, v[1], v[NR] }'
}
echo "machine: $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(qemu-system-x86_64 --version | head -n 1), kernel $PEER_RELEASE, load $(cut -d' ' -f1 /proc/loadavg)"
echo
echo "| kernel start to the real system, median of $rounds | seconds | least and most | CPU seconds of the whole run | initramfs, bytes |"
echo "|---|---|---|---|---|"
row() { echo "| $2 | $(column "$1" 2 "$out/times") | $(column "$1" 3 "$out/times" | cut -d' ' -f1) | $(stat -c %s "$3") |"; }
row attestbox-net "attestbox, attested over virtio-net" "$out/net/initrd"
row attestbox-default "the same, mkimage's default list of modules" "$out/default/initrd"
row attestbox-vsock "attestbox, attested over vsock" "$out/vsock/initrd"
row initramfs-tools "initramfs-tools, key in the initramfs" "$out/initramfs-tools"
echo "| booster $PEER_BOOSTER_VERSION | not compared: ${PEER_BOOSTER_WHY:-its configuration was never tried here} | | | |"
row kernel-alone "kernel alone" "$out/alone/initrd"
echo
echo "| step of attestbox over virtio-net | done at, median | least and most |"
echo "|---|---|---|"
for s in modules network unlock outcome switch-root; do echo "| $s | $(column "$s" 2 "$out/steps") |"; done
