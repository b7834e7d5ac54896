#!/usr/bin/env bash
# Builds a copy of the tree in another folder, with another umask and time zone
# and an empty build cache, and compares every binary with the tree's own.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
make -s -C "$root" build
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
tree=$tmp/a/longer/path
mkdir -p "$tree"
(cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 -I{} sh -c 'test ! -e "$1" || cp -P --parents "$1" "$2"' _ {} "$tree")
[ -f "$tree/go.mod" ] || die "copying the tree failed"
modcache=$(go env GOMODCACHE)
(cd "$tree" && umask 077 && TZ=Asia/Tokyo GOMODCACHE=$modcache GOCACHE=$tmp/cache make -s build)
for b in attestbox attestbox-guest snp-sim-device mkimage; do
  cmp "$root/bin/$b" "$tree/bin/$b" || die "two builds of $b differ"
done
