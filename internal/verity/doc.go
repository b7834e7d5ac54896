// Package verity makes the hash tree of a read-only image for dm-verity and
// describes it by a record, which lies in the measured image and is all that
// is believed about the device.
//
// It follows the kernel's Documentation/admin-guide/device-mapper/verity.rst
// and cryptsetup's on-disk format: hash type 1, SHA-256, blocks of 4096 bytes
// for data and tree, a salt of 32 bytes before each block. One device holds
// both:
//
//	offset                  bytes
//	0                       data_blocks * 4096      the file system
//	hash_offset             4096                    superblock
//	hash_offset + 4096      n * 4096                the tree, its root block first, the hashes of the data last
//
// A tree block holds 128 digests; the rest of the last one of a level is zero.
// The root hash is SHA-256(salt, root block).
//
// The superblock, integers little-endian:
//
//	offset size
//	     0    8 "verity" 00 00
//	     8    4 1, version
//	    12    4 1, hash type
//	    16   16 UUID
//	    32   32 "sha256", zero-padded
//	    64    4 4096, data block
//	    68    4 4096, hash block
//	    72    8 data blocks
//	    80    2 32, size of the salt
//	    82    6 zero
//	    88  256 salt, zero-padded
//	   344  168 zero
//
// It is written for other tools (veritysetup) and never read: the number of
// blocks decides how many levels the tree has, so that a host which chose it
// could have hash blocks served as data.
//
// The package is pure: no files, no clock. It does not check every block; the
// kernel does, as they are read.
package verity
