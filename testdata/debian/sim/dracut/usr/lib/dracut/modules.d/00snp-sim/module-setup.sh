#!/bin/bash
# Tests only: the simulated secure processor, in a stock initramfs. It starts
# in dracut's cmdline hook, before udev and before any unit of the root.
check() { return 0; }
depends() { return 0; }
installkernel() { hostonly='' instmods cuse fuse virtio_console; }
install() {
  inst /usr/lib/snp-sim/snp-sim-device
  inst_hook cmdline 00 "$moddir/snp-sim.sh"
}
