// Package uki makes and reads unified kernel images: an EFI program, systemd's
// stub (systemd-stub(7)), with kernel, initramfs and command line as sections
// behind its own (the UAPI group's specification of unified kernel images).
//
// The layout is that of Microsoft's PE Format: at 0x3c the offset of "PE\0\0",
// then the COFF header (20 bytes), the optional header of PE32+, and section
// headers of 40 bytes each, for which SizeOfHeaders leaves room.
//
//	offset of PE   4  "PE\0\0"
//	           +4  2  machine, 0x8664
//	           +6  2  number of sections
//	          +20  2  size of the optional header
//	          +24     optional header: +0 magic 0x20b, +8 initialized data,
//	                  +32 and +36 alignment in memory and in the file, +56 size
//	                  in memory, +60 size of headers, +64 checksum, +108 number
//	                  of data directories, +112 the directories of 8 bytes each
//
// It does not check signatures, and makes none: the launch digest covers the file.
package uki
