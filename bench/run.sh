#!/usr/bin/env bash
# Everything in BENCHMARKS.md, from one command: `make bench`. Nothing here
# passes or fails on a time.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"
cd "$root"
make -s build
eval "export $(scripts/kernel.sh)"
rounds=${ROUNDS:-3}
echo "machine: $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(go env GOVERSION)"
echo
echo "== sizes, bytes"
wc -c bin/attestbox-guest bin/attestbox bin/mkimage bin/snp-sim-device | sed '/total/d'

echo
echo "== one core (GOMAXPROCS=1), $rounds interleaved rounds"
for p in server appraise; do CGO_ENABLED=0 go test -c -o "out/$p.test" "./internal/$p"; done
CGO_ENABLED=0 go test -c -o out/bench.test ./bench
for i in $(seq "$rounds"); do
  (cd internal/server && ../../out/server.test -test.run '^$' -test.bench 'Release|Appraise|P384' -test.cpu 1 -test.benchtime 1s)
  (cd internal/appraise && ../../out/appraise.test -test.run '^$' -test.bench . -test.cpu 1 -test.benchtime 1s)
  (cd bench && ../out/bench.test -test.run '^$' -test.bench . -test.cpu 1 -test.benchtime 1s)
done | grep -E '^Benchmark' | sort

echo
echo "== boot under QEMU TCG, seconds from kernel start to switch_root, $rounds boots"
for i in $(seq "$rounds"); do
  ATTESTBOX_DEMO_DIR=$root/out/bench-demo demo/demo.sh >out/bench-demo.log 2>&1
  tr -d '\r' <out/bench-demo/tcp.console | sed -n 's/.*attestbox: \[ *\([0-9.]*\)\] \(modules\|network\|unlock\|outcome\|switch-root\):.*/\2 \1/p' | tr '\n' ' '
  echo
  grep -E '^    (build|kernel|owner|disk|image|boot over|attack)' out/bench-demo.log | sed 's/^    /  /'
done
echo
echo "== image of the demo, bytes"
wc -c out/bench-demo/image/initrd out/bench-demo/image/vmlinuz | sed '/total/d'
