#!/usr/bin/env bash
# Builds every binary and an image twice and compares the bytes. The second time
# all that must not matter is another: folder, umask, TMPDIR, time zone, locale,
# order of the files, build cache, module cache, number of processors, and, when
# root, the user. ATTESTBOX_KERNEL and ATTESTBOX_MODULES name the image's kernel
# (scripts/kernel.sh).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"
[ -n "${ATTESTBOX_KERNEL:-}" ] || eval "export $(scripts/kernel.sh)"
make -s build
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
chmod 755 "$tmp"
release=$(basename "$ATTESTBOX_MODULES")
tree=$tmp/a/longer/path inputs=$tmp/in/puts
mkdir -p "$tree" "$inputs/lib/modules/$release" "$tmp/tmp" "$tmp/cache" "$tmp/mod" "$tmp/out"

# The tree, its last file first; the links and modes of one folder changed.
git ls-files -z --cached --others --exclude-standard | sort -rz | xargs -0 -I{} sh -c 'test ! -e "$1" || cp -P --parents "$1" "$2"' _ {} "$tree"
[ -f "$tree/go.mod" ] || die "copying the tree failed"
# The modules that the build needs, out of this machine's cache into another one.
modcache=$(go env GOMODCACHE) proxy=$(go env GOPROXY)
for tags in "" guest simdevice; do
  GOFLAGS=-modcacherw GOMODCACHE=$tmp/mod GOPROXY=file://$modcache/cache/download,$proxy go list -C "$tree" -deps -tags "$tags" . ./mkimage >"$tmp/out/list" 2>&1 || { cat "$tmp/out/list" >&2; die "finding the modules of the build"; }
done

# other COMMAND...: as another user where that is possible, with another of everything.
as=()
if [ "$(id -u)" = 0 ]; then
  as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  chown -R 65534:65534 "$tmp"
fi
goroot=$(go env GOROOT)
other() {
  (umask 077 && cd "$tmp/tmp" && exec "${as[@]}" env -i PATH="$goroot/bin:$PATH" HOME="$tmp/tmp" TMPDIR="$tmp/tmp" TZ=Asia/Tokyo LC_ALL=C.UTF-8 \
    GOCACHE="$tmp/cache" GOMODCACHE="$tmp/mod" GOPROXY=off GOTOOLCHAIN=local "$@")
}
other make -s -C "$tree" build
for b in attestbox attestbox-guest snp-sim-device mkimage; do
  cmp "bin/$b" "$tree/bin/$b" || die "two builds of $b differ"
done

# The image's inputs: as they are, with a hard link and two files that look alike;
# and copied, in another order, with other modes and without the link.
own=$tmp/out/own
mkdir -p "$own/files/sub"
printf 'content\n' >"$own/files/one"
printf 'CONTENT\n' >"$own/files/sub/alike"
ln "$own/files/one" "$own/files/sub/linked"
ln -s one "$own/files/link"
printf '{"mode":"switch-root","servers":["tcp://192.0.2.1:8451"],"pins":["sha256:%064d"],"network":{"method":"dhcp"},"root":{"device":"/dev/vda","name":"root","fstype":"ext4"}}\n' 1 >"$own/init.json"
(cd "$ATTESTBOX_MODULES" && find . -type f | LC_ALL=C sort -r | xargs -I{} cp --parents {} "$inputs/lib/modules/$release")
cp "$ATTESTBOX_KERNEL" "$inputs/vmlinuz-$release"
mkdir -p "$inputs/files/sub"
for f in sub/linked sub/alike one; do cat "$own/files/$f" >"$inputs/files/$f"; done
ln -s one "$inputs/files/link"
cp "$own/init.json" "$inputs"
find "$inputs" -type f -exec chmod 640 {} +
[ ${#as[@]} = 0 ] || chown -R 65534:65534 "$inputs" "$tmp/out"
image() { # image MKIMAGE INPUTS MODULES KERNEL GUEST OUT COMPRESSION
  printf '%s\n' "$1" build -kernel "$4" -modules-dir "$3" -guest "$5" -config "$2/init.json" -file "/opt=$2/files" \
    -append console=ttyS0 -compress "$7" -out "$6/$7"
}
export SOURCE_DATE_EPOCH=1800000000
for compress in zstd gzip none; do
  mapfile -t first < <(image bin/mkimage "$own" "$ATTESTBOX_MODULES" "$ATTESTBOX_KERNEL" bin/attestbox-guest "$tmp/out/first" $compress)
  mapfile -t second < <(image "$tree/bin/mkimage" "$inputs" "$inputs/lib/modules/$release" "$inputs/vmlinuz-$release" "$tree/bin/attestbox-guest" "$tmp/out/second" $compress)
  "${first[@]}" >"$tmp/out/log" 2>&1 || { cat "$tmp/out/log" >&2; die "building the first image"; }
  other GOMAXPROCS=1 SOURCE_DATE_EPOCH=1800000000 "${second[@]}" >"$tmp/out/log2" 2>&1 || { cat "$tmp/out/log2" >&2; die "building the second image"; }
  for f in initrd vmlinuz cmdline image.json; do
    cmp "$tmp/out/first/$compress/$f" "$tmp/out/second/$compress/$f" || die "two builds of an image ($compress) differ in $f"
  done
done
# And the record finds its way back to the inputs, under the other user's names.
mv "$inputs/init.json" "$inputs/settings"
mv "$tree/bin/attestbox-guest" "$tree/bin/a.out"
other "$tree/bin/mkimage" verify -from "$inputs" -from "$tree/bin" "$tmp/out/first/zstd" >"$tmp/out/log2" 2>&1 ||
  { cat "$tmp/out/log2" >&2; die "mkimage verify"; }
