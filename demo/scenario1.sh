#!/usr/bin/env bash
# Runs the commands of docs/scenario1.md, as they stand there, and checks what
# the page promises. `make scenario1` runs it. Folder: ATTESTBOX_DEMO_DIR, else
# out/scenario1.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"
cd "$root"
page=$root/docs/scenario1.md
out=${ATTESTBOX_DEMO_DIR:-$root/out/scenario1}
began=$(date +%s%N)
elapsed() { awk -v a="$began" -v b="$(date +%s%N)" 'BEGIN { printf "%5.1f", (b - a) / 1e9 }'; }

if [ -e "$out" ] && [ "$out" != "$root/out/scenario1" ] && [ ! -e "$out/.attestbox-demo" ]; then
  die "$out exists and is not from a demo: name a new folder in ATTESTBOX_DEMO_DIR"
fi
eval "$(scripts/kernel.sh)"
KERNEL=$ATTESTBOX_KERNEL MODULES=$ATTESTBOX_MODULES BUSYBOX=$ATTESTBOX_BUSYBOX
rm -rf "$out"
mkdir -p "$out" bin
: >"$out/.attestbox-demo"
secrets=$(mktemp -d "${ATTESTBOX_SHM:-/dev/shm}/attestbox-scenario1.XXXXXX")
cleanup() {
  trap - EXIT
  for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$secrets"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
fail() {
  printf '\nscenario 1: FAILED: %s\n(consoles and logs are in %s)\n' "$*" "$out" >&2
  exit 1
}

# What differs from the page: three free ports, a private folder for secrets, and
# make in the project's folder.
free_port() { # never the same twice
  local p
  while :; do
    p=$((20000 + RANDOM % 12000))
    [ "$p" != "${port:-}" ] && [ "$p" != "${admin:-}" ] && ! (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null && break
  done
  echo "$p"
}
port=$(free_port)
admin=$(free_port)
launch=$(free_port)
put_in() { sed -e "s/8451/$port/g" -e "s/8452/$admin/g" -e "s/8461/$launch/g" -e "s|/dev/shm/attestbox|$secrets|g"; }
make() { command make -s -C "$root" "$@"; }
cd "$out"
ln -s "$root/bin" bin
mkdir -p testdata/scenario1
for f in "$root"/testdata/scenario1/*.*; do
  put_in <"$f" >"testdata/scenario1/${f##*/}"
done
chmod +x testdata/scenario1/*.sh

block() {
  awk -v want="<!-- scenario1: $1 -->" '$0 == want { found = 1; next } found && /^```/ { n++; next } found && n == 1 { print } n == 2 { exit }' "$page"
}
typed=0
run_block() { # every line of a block, in this shell
  local line lines=0
  while IFS= read -r line <&9; do
    lines=$((lines + 1))
    printf '  $ %s\n' "$line"
    line=$(put_in <<<"$line")
    printf '$ %s\n' "$line" >>commands.log
    eval "$line" >>commands.log 2>&1 </dev/null || {
      tail -n 20 commands.log | sed 's/^/    | /'
      fail "a command of \"$1\" failed: $line"
    }
  done 9< <(block "$1")
  [ "$lines" -gt 0 ] || fail "docs/scenario1.md has no commands for \"$1\""
  typed=$((typed + lines)) last=$lines
}
step() { printf '\n[%s s] %s\n' "$(elapsed)" "$1"; }
await() { # await FILE REGEXP: until a line matches; it is shown
  for _ in $(seq 1 450); do
    if line=$(tr -d '\r' <"$1" 2>/dev/null | grep -aE -m 1 "$2"); then
      printf '    | %s: %s\n' "${1%.console}" "$line"
      return
    fi
    sleep 0.2
  done
  fail "$1 does not show: $2"
}
never() { ! tr -d '\r' <"$1" | grep -aqE "$2" || fail "$1 shows: $2"; }
# What Paul's own program makes of a secret that Paul may read.
expected() { # expected NAME
  rm -f "$secrets/check"
  eval "bin/attestbox fetch-secret $PAUL -key-server tcp://127.0.0.1:$port -name $1 -out $secrets/check" || fail "Paul cannot read $1"
  bin/hmac "$1" "$secrets/check"
  od -An -v -tx1 "$secrets/check" | tr -d ' \n' >>"$secrets/seen"
  echo >>"$secrets/seen"
  rm -f "$secrets/check"
}

step "from nothing to two VMs with their secrets"
run_block core
core=$last
[ "$core" -le 12 ] || fail "$core lines, more than 12"
db=$(expected db/password) web=$(expected web/session-key)
await db.console "^$db\$"
await web.console "^$web\$"
await web.console "secret-unknown.*waiting for it"

step "a secret added later"
run_block later
await web.console "^$(expected web/report-key)\$"

step "a rotation reaches the running VM"
run_block rotate
rotated=$(expected web/session-key)
[ "$rotated" != "$web" ] || fail "the rotation changed nothing"
await web.console "^$rotated\$"

step "a third image, admitted by policy alone"
server_before=$SERVER
run_block admit
vault=$(expected vault/master-key)
await vault.console "store created"
await vault.console "volume volume/data was made on /dev/vdb"
await vault.console "^$vault\$"
{ [ "$SERVER" = "$server_before" ] && kill -0 "$SERVER"; } || fail "the server was started again"

step "the VM moves to another chip"
run_block move
await vault-moved.console "store recovered"
await vault-moved.console "^/dev/mapper/data\$"
never vault-moved.console "was made"
await vault-moved.console "^$vault\$"

step "the image is updated"
run_block update
await vault-2.console "store recovered"
await vault-2.console "^/dev/mapper/data\$"
never vault-2.console "was made"
await vault-2.console "^$vault\$"

step "a blank disk in place of the data volume"
run_block blank
await vault-blank.console '\[luks-header-digest\]'
never vault-blank.console "was made|^$vault\$"
cmp -s blank.img <(head -c 32M /dev/zero) || fail "the blank disk was written to"

step "a real system on its own disk"
run_block system
await system.console "scenario1: system: the real system is up"
await system.console "still certified as bank.example"
await system.console "scenario1: system: I am .*(unmeasured|sha256)"
await system.console "scenario1: system: certificates: 2"

step "an old image is revoked"
never web.console 'powering off|Power down'
run_block revoke
await web-revoked.console '\[certify-refused\]'
await web.console '\[certify-refused\]'
await web.console 'Power down'
never web-revoked.console 'scenario1:'

step "backup, disaster, restore"
run_block backup
await db-restored.console "^$db\$"

step "the services in an attested VM"
run_block services
await services.console "listening on vsock://"
await services.console "decision=served .*secret=db/password"
await db-by-vm.console "^$db\$"
step "no secret lies in any file: not in images, disks, state, logs or consoles"
scanned=0
# lies HEX: in which files the secret lies, as it is or in hex. Any byte may be in
# it, a newline too, which rules out grep.
lies() {
  perl -e '
    my $h = <STDIN>; chomp $h; my $raw = pack "H*", $h; local $/;
    for my $f (split /\0/, scalar qx(find . -type f -print0)) {
      open my $in, "<:raw", $f or die "$f: $!"; my $b = <$in> // "";
      print "$f\n" if index($b, $raw) >= 0 || index($b, $h) >= 0;
    }' <<<"$1"
}
hex=$(head -n 1 "$secrets/seen")
printf "before $(sed 's/../\\x&/g' <<<"$hex") after" >canary
[ "$(lies "$hex")" = ./canary ] || fail "the search for secrets finds: $(lies "$hex")"
rm canary
while read -r hex; do
  found=$(lies "$hex" || true)
  [ -z "$found" ] || fail "a secret lies in $found"
  scanned=$((scanned + 1))
done < <(sort -u "$secrets/seen")
[ "$scanned" -ge 5 ] || fail "only $scanned secrets were looked for"

grep -q "the page has $typed lines" "$page" || fail "docs/scenario1.md does not say that it has $typed lines"

printf '\n%d lines to the first secrets, %d in all; %s s\nscenario 1: ok\n' "$core" "$typed" "$(elapsed | tr -d ' ')"
