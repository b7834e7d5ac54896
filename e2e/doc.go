// Package e2e boots real kernels: the binaries as they are built for users, a
// simulated secure processor, QEMU, a LUKS2 disk. Its tests mount the attacks
// that only a whole machine can show. They need QEMU, e2fsprogs and a kernel
// (ATTESTBOX_KERNEL, ATTESTBOX_MODULES, ATTESTBOX_BUSYBOX: scripts/kernel.sh).
package e2e
