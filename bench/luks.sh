#!/usr/bin/env bash
# Disks, against cryptsetup and cp: `make bench-luks`; `bench/luks.sh disk` is the
# writing of images alone. All in memory (/dev/shm);
# each line of a table is run in turn with the others of its table. Nothing here
# passes or fails on a time. ROUNDS and SIZE (of the disk image) can be set.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"
cd "$root"
make -s build
mkdir -p out
CGO_ENABLED=0 go build -o out/interleave ./bench/interleave
rounds=${ROUNDS:-10}
size=${SIZE:-512M}
dir=$(mktemp -d /dev/shm/attestbox-bench-XXXXXX)
trap 'rm -rf "$dir"' EXIT
guest=$root/bin/attestbox-guest mkimage=$root/bin/mkimage
head -c 32 /dev/urandom >"$dir/key"
echo "machine: $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(go env GOVERSION), $(cryptsetup --version | cut -d' ' -f1,2), load $(cut -d' ' -f1 /proc/loadavg)"

# table TITLE NAME COMMAND...
table() {
  echo
  echo "| $1 | wall, median of $rounds | CPU | peak memory | ratio |"
  echo "|---|---|---|---|---|"
  out/interleave "$rounds" "${@:2}"
}
# open TITLE IMAGE: our open of the header against cryptsetup's.
open() {
  "$guest" unlock-luks record "$2" >"$2.json"
  table "$1" attestbox "exec '$guest' unlock-luks test -record '$2.json' '$2' <'$dir/key' >/dev/null" \
    cryptsetup "exec cryptsetup open --test-passphrase --key-file '$dir/key' '$2'"
}
format() {
  truncate -s 20M "$dir/$1"
  cryptsetup luksFormat -q --type luks2 --cipher aes-xts-plain64 --key-size 512 --hash sha256 "${@:2}" "$dir/$1" "$dir/key"
}
opens() {
  "$mkimage" disk -empty -no-integrity -size 16M -out "$dir/ours" -key-out "$dir/ours.key" -record "$dir/ours.json" >/dev/null 2>&1
  cp "$dir/ours.key" "$dir/key"
  open "pbkdf2, 1,000 iterations, the 1 MiB header area of \`mkimage disk\`" "$dir/ours"
  format stock --pbkdf pbkdf2 --pbkdf-force-iterations 1000
  open "pbkdf2, 1,000 iterations, cryptsetup's 16 MiB header area" "$dir/stock"
  argon="--pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-parallel 2 --pbkdf-memory"
  format argon64small $argon 65536 --offset 2048 --luks2-keyslots-size 1015808
  open "argon2id, 64 MiB, 4 passes, 2 lanes, 1 MiB header area" "$dir/argon64small"
  format argon64 $argon 65536
  open "argon2id, 64 MiB, 4 passes, 2 lanes, 16 MiB header area" "$dir/argon64"
  format argon1g $argon 1048576
  open "argon2id, 1 GiB, 4 passes, 2 lanes, 16 MiB header area" "$dir/argon1g"
}
[ "${1:-}" = disk ] || opens

"$mkimage" disk -empty -no-integrity -size "$size" -out "$dir/plain" -key-out "$dir/plain.key" -record "$dir/plain.json" >/dev/null 2>&1
disk() { echo "rm -f '$dir/out' '$dir/out.key'; exec '$mkimage' disk -empty $1 -size $size -out '$dir/out' -key-out '$dir/out.key' -record '$dir/out.json' >/dev/null 2>&1"; }
table "disk image of $size" "mkimage disk, hmac-sha256" "$(disk "")" "mkimage disk -no-integrity" "$(disk -no-integrity)" \
  "cp" "rm -f '$dir/out'; exec cp '$dir/plain' '$dir/out'"
