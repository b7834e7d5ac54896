#!/usr/bin/env bash
# Attested boot, end to end, on a machine without SNP: builds everything, boots
# a real kernel in QEMU from a measured initramfs, and shows that anything else
# does not start. `make demo` runs it.
#
# What it does is what a user would type; with -v each command is printed.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"
cd "$root"

verbose=
[ "${1:-}" = -v ] && verbose=1
out=${ATTESTBOX_DEMO_DIR:-$root/out/demo}
port=${ATTESTBOX_DEMO_PORT:-0}

began=$(date +%s%N)
elapsed() { awk -v a="$1" -v b="$(date +%s%N)" 'BEGIN { printf "%.1f", (b - a) / 1e9 }'; }
timeline=()
step_name= step_began=
step() { # step NAME TEXT: ends the step before
  end_step
  step_name=$1 step_began=$(date +%s%N)
  printf '\n[%5s s] %s\n' "$(elapsed "$began")" "$2"
}
end_step() {
  [ -z "$step_name" ] || timeline+=("$(printf '%-28s %6s s' "$step_name" "$(elapsed "$step_began")")")
  step_name=
}
run() {
  [ -z "$verbose" ] || printf '  $ %s\n' "$*"
  "$@"
}
show() { sed 's/^/    | /'; }

# Keys live in memory only, and go when the demo ends.
secrets=$(mktemp -d /dev/shm/attestbox-demo.XXXXXX)
verifier_pid=
cleanup() {
  trap - EXIT
  [ -z "$verifier_pid" ] || { kill "$verifier_pid" 2>/dev/null && wait "$verifier_pid" 2>/dev/null; } || true
  rm -rf "$secrets"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
fail() {
  printf '\nattested boot: FAILED: %s\n(console logs and state are in %s)\n' "$*" "$out" >&2
  exit 1
}

step build "building the binaries (static, reproducible)"
run make -s build
ls -l bin/attestbox-guest | awk '{ printf "    guest binary: %.1f MiB\n", $5 / 1048576 }'
step kernel "getting Debian's stock cloud kernel (not installed, apt sources untouched)"
eval "$(scripts/kernel.sh)"
echo "    ${ATTESTBOX_KERNEL##*/}"

# Only what an earlier demo left is deleted.
if [ -e "$out" ] && [ "$out" != "$root/out/demo" ] && [ ! -e "$out/.attestbox-demo" ]; then
  fail "$out exists and is not from a demo: name a new folder in ATTESTBOX_DEMO_DIR"
fi
rm -rf "$out"
mkdir -p "$out"
: >"$out/.attestbox-demo"
bin=$root/bin
seal=(-state "$out/verifier" -seal-key "$secrets/seal.key")
(umask 077 && head -c 32 /dev/urandom >"$secrets/seal.key")

step owner "the owner: a simulated chip, a verifier, an instance ID"
run "$bin/attestbox" snp-sim init -chip "$out/chip" -product Milan >"$out/snp-sim-init.log"
run "$bin/attestbox" verifier init "${seal[@]}" -root "$out/chip/ark.pem" -product Milan >"$out/pin"
pin=$(tail -n 1 "$out/pin")
id=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
echo "    verifier's pin $pin"
echo "    instance ID    $id"
# A free port: the verifier takes one and says which.
# (Not by way of run: the process in the background has to be the verifier itself,
# which ends with the demo, and not a shell around it.)
serve=("$bin/attestbox" verifier serve "${seal[@]}" -listen "tcp://127.0.0.1:$port")
[ -z "$verbose" ] || printf '  $ %s &\n' "${serve[*]}"
"${serve[@]}" >"$out/verifier.log" 2>&1 &
verifier_pid=$!
address=
for _ in $(seq 1 300); do
  address=$(sed -n 's/.*listening on tcp:\/\/\(127\.0\.0\.1:[0-9]*\).*/\1/p' "$out/verifier.log" | head -n 1)
  [ -z "$address" ] || break
  kill -0 "$verifier_pid" 2>/dev/null || { cat "$out/verifier.log"; fail "the verifier did not start"; }
  sleep 0.1
done
[ -n "$address" ] || fail "the verifier is not ready"
echo "    verifier listens on $address"

step disk "the disk: a LUKS2 root file system, written without root or device-mapper"
demo/rootfs.sh "$ATTESTBOX_BUSYBOX" "$out/rootfs"
run "$bin/mkimage" disk -from "$out/rootfs" -size 64M -out "$out/disk.img" -key-out "$secrets/disk.key" -record "$out/disk.json" 2>&1 | show

step image "the image: kernel + initramfs + command line, and its launch digest"
cat >"$out/init.json" <<EOF
{
  "mode": "switch-root",
  "servers": ["tcp://10.0.2.2:${address##*:}", "vsock://2:8451"],
  "pins": ["$pin"],
  "network": {"method": "dhcp"},
  "root": {"device": "/dev/vda", "name": "root", "fstype": "ext4"},
  "timeout": "3m"
}
EOF
echo 'attestbox demo image' >"$out/motd"
build=(-kernel "$ATTESTBOX_KERNEL" -modules-dir "$ATTESTBOX_MODULES" -guest "$bin/attestbox-guest" -config "$out/init.json"
  -sim-device "$bin/snp-sim-device" -file "/etc/motd=$out/motd" -compress none -product Milan)
run "$bin/mkimage" build "${build[@]}" -append "console=ttyS0 loglevel=4" -out "$out/image" 2>&1 | show
# The same image for a VM without any network device: one more measured word.
run "$bin/mkimage" build "${build[@]}" -append "console=ttyS0 loglevel=4 attestbox.net=none" -out "$out/image-vsock" 2>&1 | show >"$out/image-vsock.log"
run "$bin/attestbox" verifier add-instance "${seal[@]}" -id "$id" -image "$out/image" -image "$out/image-vsock" \
  -disk-key "$secrets/disk.key" -header "$out/disk.json" 2>&1 | show

# boot NAME IMAGE [snp-sim flags]: boots until the VM powers itself off.
boot() {
  local name=$1 image=$2
  shift 2
  local code=0
  run "$bin/attestbox" snp-sim run -chip "$out/chip" -kernel "$image/vmlinuz" -initrd "$image/initrd" -append "$(cat "$image/cmdline")" \
    -vcpu-type EPYC-Milan -host-data "$id" -disk "$out/disk.img" -memory 512M -timeout 4m -console "$out/$name.console" "$@" >"$out/$name.log" 2>&1 || code=$?
  grep -E 'measured|HOST_DATA|launch digest' "$out/$name.log" | show || true
  tr -d '\r' <"$out/$name.console" | grep -aE 'attestbox[:-]|attestbox-demo' | show || true
  return $code
}
up() { tr -d '\r' <"$out/$1.console" | grep -aq '^attestbox-demo: the real system is up'; }

step "boot over TCP" "boot 1: over virtio-net"
boot tcp "$out/image" -net user || fail "the VM did not power off by itself"
up tcp || fail "the real system did not come up (see $out/tcp.console)"

step "boot over vsock" "boot 2: over vsock, with no network device at all"
boot vsock "$out/image-vsock" -net none -vsock-forward "8451=$address" || fail "the VM did not power off by itself"
up vsock || fail "the real system did not come up (see $out/vsock.console)"

step attack "the attack: one byte of the initramfs changed"
mkdir "$out/image-attack"
cp "$out/image/vmlinuz" "$out/image/cmdline" "$out/image/initrd" "$out/image-attack/"
at=$(LC_ALL=C grep -abo 'attestbox demo image' "$out/image-attack/initrd" | head -n 1 | cut -d: -f1)
[ -n "$at" ] || fail "the byte to change was not found"
printf 'A' | dd of="$out/image-attack/initrd" bs=1 seek="$at" conv=notrunc status=none
[ "$(cmp -l "$out/image/initrd" "$out/image-attack/initrd" | wc -l)" = 1 ] || fail "not exactly one byte was changed"
before=$(sha256sum <"$out/disk.img")
boot attack "$out/image-attack" -net user || fail "the VM did not power off by itself"
! up attack || fail "a changed image was started"
tr -d '\r' <"$out/attack.console" | grep -aq 'launch-refused' || fail "the changed image was not refused (see $out/attack.console)"
[ "$before" = "$(sha256sum <"$out/disk.img")" ] || fail "the disk was written to"
exchange=$(tr -d '\r' <"$out/attack.console" | sed -n 's/.*exchange \([0-9a-f]\{32\}\).*/\1/p' | tail -n 1)
[ -n "$exchange" ] || fail "the guest printed no exchange ID"
echo "    refused, and the disk stayed shut. Why, says the verifier:"
run "$bin/attestbox" verifier explain "${seal[@]}" "$exchange" 2>&1 | tee "$out/explain.log" | show
grep -qi 'measurement' "$out/explain.log" || fail "the verifier does not name the launch digest as the reason"

step bundle "a signed bundle: the image above, started by a small stage 1 whose launch digest stays"
run "$bin/mkimage" bundle sign -new-key "$secrets/bundle.key" -name demo -version 1 -image "$out/image" -out "$out/demo-1.bundle" 2>"$out/bundle.log" >"$out/bundle.digest"
show <"$out/bundle.log"
owner_key=$(sed -n 's/.*signed by key //p' "$out/bundle.log")
run "$bin/mkimage" bundle verify -key "$owner_key" "$out/demo-1.bundle" >"$out/bundle-verify.log"
cat >"$out/stage1.json" <<EOF
{
  "mode": "bundle",
  "servers": ["tcp://10.0.2.2:${address##*:}"],
  "pins": ["$pin"],
  "network": {"method": "dhcp"},
  "bundle": {"device": "/dev/vdb", "key": "$owner_key", "name": "demo", "min_version": 1},
  "timeout": "3m"
}
EOF
run "$bin/mkimage" build -kernel "$ATTESTBOX_KERNEL" -modules-dir "$ATTESTBOX_MODULES" -guest "$bin/attestbox-guest" -config "$out/stage1.json" \
  -sim-device "$bin/snp-sim-device" -compress none -product Milan -append "console=ttyS0 loglevel=4" -out "$out/stage1" >"$out/stage1.log" 2>&1
run "$bin/attestbox" verifier instance allow "${seal[@]}" -only -image "$out/stage1" "$id" 2>&1 | show
run "$bin/attestbox" verifier instance bundle-floor "${seal[@]}" "$id" 1 2>&1 | show
boot bundle "$out/stage1" -net user -disk "$out/demo-1.bundle" || fail "the VM did not power off by itself"
up bundle || fail "the real system did not come up behind the bundle (see $out/bundle.console)"

step replay "the attack: the floor rises to version 2, and the host goes on with version 1"
run "$bin/attestbox" verifier instance bundle-floor "${seal[@]}" "$id" 2 2>&1 | show
boot replay "$out/stage1" -net user -disk "$out/demo-1.bundle" || fail "the VM did not power off by itself"
! up replay || fail "an old bundle was started"
tr -d '\r' <"$out/replay.console" | grep -aq 'bundle-refused' || fail "the old bundle was not refused (see $out/replay.console)"

step instance "what the verifier knows of the instance"
run "$bin/attestbox" verifier instance show "${seal[@]}" "$id" 2>&1 | show
end_step

printf '\nwall time of each step:\n'
printf '    %s\n' "${timeline[@]}"
printf 'inside the guest (seconds since its kernel started):\n'
tr -d '\r' <"$out/tcp.console" | grep -aE 'attestbox: \[ *[0-9.]+\]' | show || true
printf '\nin all %s s\nattested boot: ok\n' "$(elapsed "$began")"
