#!/usr/bin/env bash
# Builds the tree twice, in two folders, with different umask, HOME, time zone
# and build cache, and compares every binary.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
modcache=$(go env GOMODCACHE)
for run in a b; do
  mkdir -p "$tmp/$run/a/longer/path"
  [ $run = a ] && tree=$tmp/a || tree=$tmp/b/a/longer/path
  (cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp -P --parents -t "$tree" 2>/dev/null) || true
  [ -f "$tree/go.mod" ] || die "copying the tree failed"
  if [ $run = a ]; then mask=022 zone=UTC; else mask=077 zone=Asia/Tokyo; fi
  (cd "$tree" && umask $mask && TZ=$zone GOMODCACHE=$modcache GOCACHE=$tmp/cache-$run make -s build)
done
for b in attestbox attestbox-guest snp-sim-device mkimage; do
  cmp "$tmp/a/bin/$b" "$tmp/b/a/longer/path/bin/$b" || die "two builds of $b differ"
done
