#!/bin/sh
modprobe -a -q fuse cuse virtio_console
/usr/lib/snp-sim/snp-sim-device start
