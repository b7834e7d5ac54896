#!/bin/sh
# as.sh PROGRAM COMMAND...: runs a command of a bank's program, or of the
# analysis, on its own simulated machine: its sealed store, its folder in RAM, its
# platform key.
p=$1; shift
exec "bin/$p" "$@" -policy-cert banks/policy.crt -store "$p.store" -run-dir "$RAM/$p" -floor "$RAM/$p/floor" \
	-platform enclave -enclave-key "$RAM/$p.key"
