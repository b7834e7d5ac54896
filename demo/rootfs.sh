#!/usr/bin/env bash
# Makes the demo's root file system: a static busybox as a small real system,
# which says that it is up and powers off.
set -euo pipefail
busybox=$1 dir=$2
rm -rf "$dir"
mkdir -p "$dir"/{bin,sbin,dev,proc,sys,run,tmp,etc/init.d,root}
cp "$busybox" "$dir/bin/busybox"
chmod 755 "$dir/bin/busybox"
for a in sh cat echo grep mount sleep sed poweroff ls; do ln -s busybox "$dir/bin/$a"; done
ln -s ../bin/busybox "$dir/sbin/init"
echo attestbox-demo >"$dir/etc/hostname"
cat >"$dir/etc/inittab" <<'EOF'
::sysinit:/etc/init.d/rcS
::ctrlaltdel:/bin/poweroff -f
EOF
cat >"$dir/etc/init.d/rcS" <<'EOF'
#!/bin/sh
echo "attestbox-demo: the real system is up"
echo "attestbox-demo: root is $(grep ' / ' /proc/mounts | grep -v rootfs | sed 's/ .*//')"
[ -e /etc/demo-hold ] && exec sleep 100000
poweroff -f
EOF
chmod 755 "$dir/etc/init.d/rcS"
