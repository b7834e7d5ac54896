#!/usr/bin/env bash
# The launch digest, against the public tool sev-snp-measure and the SHA-256 of the
# initramfs alone: `make bench-measure REFERENCE=/path/to/sev-snp-measure`. Without
# REFERENCE its row is missing. ROUNDS can be set. Nothing here passes or fails on a
# time.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"
cd "$root"
make -s build
mkdir -p out
for p in interleave measurebench; do CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "out/$p" "./bench/$p"; done
CGO_ENABLED=0 go test -c -o out/measure.test ./internal/measure
rounds=${ROUNDS:-20}
dir=$(mktemp -d /dev/shm/attestbox-bench-XXXXXX)
trap 'rm -rf "$dir"' EXIT
out/measurebench files "$dir"
launch="--mode snp --ovmf $dir/ovmf.fd --kernel $dir/vmlinuz --initrd $dir/initrd.img --append console=ttyS0 --vcpus 4 --vcpu-type EPYC-Milan"
reference=()
if [ -n "${REFERENCE:-}" ]; then
  [ "$("$REFERENCE" $launch)" = "$(bin/mkimage measure $launch)" ] || die "the two digests differ"
  reference=("sev-snp-measure" "exec '$REFERENCE' $launch >/dev/null")
fi
echo "machine: $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(go env GOVERSION), $(openssl version | cut -d' ' -f1,2), load $(cut -d' ' -f1 /proc/loadavg), $(chrt -p $$ | sed -n 's/.*policy: //p')"
echo
echo "| processes, from files in memory | wall, median of $rounds | CPU | peak memory | ratio |"
echo "|---|---|---|---|---|"
out/interleave "$rounds" \
  "mkimage measure" "exec bin/mkimage measure $launch >/dev/null" \
  "mkimage measure -matrix, 100 cells" "exec bin/mkimage measure $launch -matrix vcpus=1-25:types=EPYC-Milan,EPYC-Genoa:features=0x1,0x21 >/dev/null" \
  "${reference[@]}" \
  "openssl dgst -sha256 of the initramfs" "exec openssl dgst -sha256 '$dir/initrd.img' >/dev/null" \
  "floor: SHA-256 of the mapped initramfs" "exec out/measurebench sha256 '$dir/initrd.img' >/dev/null"
echo
echo "== in memory, $rounds interleaved rounds of one call each; medians, ms"
for _ in $(seq "$rounds"); do
  (cd internal/measure && ../../out/measure.test -test.run '^$' -test.bench '^Benchmark(Digest|Floor|FirmwareChain|AppendOnly|Matrix|Against)$' -test.benchtime 50ms)
done | awk '/^Benchmark/ { sub(/-[0-9]+$/, "", $1); print $1, $3 / 1e6 }' | sort -k1,1 -k2,2n |
  awk '{ v[$1, ++n[$1]] = $2 } END { for (b in n) printf "%-24s %10.3f\n", b, v[b, int((n[b] + 1) / 2)] }' | sort
