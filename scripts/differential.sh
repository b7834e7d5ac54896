#!/usr/bin/env bash
# mkimage measure against the public tool sev-snp-measure on random launches:
#   scripts/differential.sh REFERENCE [-n 2000] [-seed 1] [-firmware FILE] [-record FILE]
# REFERENCE is that tool's program (pip install sev-snp-measure); it is no part of
# this project and is not fetched. Without it, or on any difference, this fails.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -ge 1 ] || die "usage: scripts/differential.sh REFERENCE [-n 2000] [-seed 1] [-firmware FILE] [-record FILE]"
reference=$1
shift
[ -x "$reference" ] || reference=$(command -v "$reference") || die "the public tool is missing: give the path of sev-snp-measure"
reference=$(realpath "$reference")
cd "$root"
make -s build
mkdir -p out
CGO_ENABLED=0 go build -o out/differential ./bench/differential
exec out/differential "$@" bin/mkimage "$reference"
