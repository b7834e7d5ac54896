#!/usr/bin/env bash
# The whole test, in the order in which it fails cheapest. `test.sh long` adds
# hours of fuzzing. Every missing tool is a failure: nothing is skipped.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"
export ATTESTBOX_CI=1
long=${1:-}
fuzztime=${FUZZTIME:-1s} limit=30m
[ "$long" = long ] && fuzztime=${FUZZTIME:-10m} limit=2h && export ATTESTBOX_LONG=1
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0

begin=$SECONDS passed=0
step() { say "== $* ($((SECONDS - begin)) s)"; }
ok() { passed=$((passed + 1)); }

step gofmt
unformatted=$(gofmt -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || die "not gofmt-ed: $unformatted"
ok

step build
make -s build
eval "export $(scripts/kernel.sh)"
eval "export $(scripts/cryptsetup-src.sh)"
ok

for tags in "" guest simdevice; do
  step "go vet, tags '$tags'"
  CGO_ENABLED=0 go vet -tags "$tags" ./...
  ok
done

step staticcheck
GOBIN=$cache/bin go install "$staticcheck"
"$cache/bin/staticcheck" ./...
"$cache/bin/staticcheck" -tags guest .
ok

# go test without -v does not say what it skipped. With ATTESTBOX_CI a missing
# tool fails in testenv.Skip, so that nothing else may skip.
step "no test skips by itself"
# (-short is not given here, so that what it skips runs.)
skips=$(git ls-files --cached --others --exclude-standard '*.go' ':!internal/testenv/testenv.go' | while read -r f; do
  [ ! -e "$f" ] || awk '/(^|[^A-Za-z0-9_])[tbf]\.Skip(f|Now)?\(/ && before !~ /testing\.Short\(\)/ { print FILENAME ":" FNR ":" $0 } { before = $0 }' "$f"
done)
[ -z "$skips" ] || die "use testenv.Skip: $skips"
! git grep -nE --untracked '^(\[[^]]*\] *)*skip\b' -- '*.txtar' || die "a script skips"
ok

step govulncheck
if curl -sfI -m 10 https://vuln.go.dev/index/db.json >/dev/null 2>&1; then
  GOBIN=$cache/bin go install "$govulncheck"
  "$cache/bin/govulncheck" ./...
  ok
else
  say "   its database cannot be reached from here: not run, and not counted"
fi

step "build programs and images twice, with everything else another: the same bytes"
scripts/reproducible.sh
ok

step "go test -race ./..."
mkdir -p out
CGO_ENABLED=1 go test -race -timeout "$limit" ./... 2>&1 | tee out/test.log
ok

step "fuzzing, $fuzztime each; 20s each for what reads a disk of the host's"
# Each line: package, fuzz target. A package is built once for all of its own.
git grep -l --untracked 'func Fuzz' -- '*_test.go' | while read -r f; do
  for fn in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$f"); do echo "./$(dirname "$f") $fn"; done
done | sort -u >out/fuzz.list
[ -s out/fuzz.list ] || die "no fuzz target was found"
rm -rf out/fuzz
mkdir -p out/fuzz
# The end of a fuzz target's own time may be reported as a failure, "context
# deadline exceeded" and no failing input. That, and nothing else, is tried again.
fuzz() {
  local time=$fuzztime bin=$root/out/fuzz/${1//\//_}.test
  case "$1 $long" in "./internal/luks ") time=${FUZZTIME:-20s} ;; esac
  [ -e "$bin" ] || CGO_ENABLED=0 go test -c -fuzz . -o "$bin" "$1" >out/fuzz.log 2>&1 || return 1
  for _ in 1 2 3; do
    ! (cd "$1" && exec "$bin" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$time" -test.fuzzminimizetime 1s \
      -test.fuzzcachedir "$root/out/fuzz/cache/${1#./}") >out/fuzz.log 2>&1 || return 0
    grep -q '^ *context deadline exceeded$' out/fuzz.log && ! grep -qE 'Failing input|panic:' out/fuzz.log || return 1
  done
  return 1
}
while read -r pkg fn; do
  fuzz "$pkg" "$fn" || { cat out/fuzz.log; die "fuzzing $pkg $fn"; }
done <out/fuzz.list
say "   $(wc -l <out/fuzz.list) targets"
ok

if [ "$long" = long ]; then
  step "disks with integrity, and cryptsetup of Debian 12, 13 and sid"
  for d in / $(scripts/cryptsetup.sh trixie sid); do
    ATTESTBOX_CRYPTSETUP=$d CGO_ENABLED=0 go test -count=1 -timeout 20m -run '^TestCryptsetupInGuest$' ./internal/unlock
  done
  ok
fi

step "make demo"
make -s demo
ok

say "== done in $((SECONDS - begin)) s"
echo "$passed passed, 0 failed"
