// Package image packs a kernel, a guest binary, kernel modules and one
// configuration file into a measured boot image: a deterministic newc cpio
// archive (the format of the Linux kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst), compressed with
// fixed settings, and the records that say what went into it.
//
// The same inputs give the same bytes on any machine: entries are sorted, every
// mode is explicit, owner and group are 0, times are SOURCE_DATE_EPOCH or 0,
// inode numbers are positions, and nothing of the builder's umask, folders or
// file order is read. docs/image.md describes the layout and the record.
//
// It refuses what must not be in an image: private keys (an image is public to
// the host), modules that let the host feed the guest, and a command line that
// contradicts the required one. It does not look into compressed inputs for
// keys, it cannot recognise raw random keys, and it does not check the
// signatures of kernel modules.
package image
