// Package idblock is the SNP ID block and its authentication information as
// bytes: what a guest's owner signs before a launch and the secure processor
// checks at SNP_LAUNCH_FINISH. It follows "SEV Secure Nested Paging Firmware ABI
// Specification", publication 56860, section 8.17, and its appendix for the
// formats of ECDSA keys and signatures. Integers are little-endian.
//
// ID block, 96 bytes:
//
//	offset size  field
//	0x00     48  LD         launch digest that the guest must have
//	0x30     16  FAMILY_ID  the owner's own
//	0x40     16  IMAGE_ID   the owner's own
//	0x50      4  VERSION    1
//	0x54      4  GUEST_SVN  security version of the image
//	0x58      8  POLICY     guest policy that the launch must have
//
// ID authentication information, 4096 bytes:
//
//	0x000     4  ID_KEY_ALGO      1: ECDSA P-384 with SHA-384
//	0x004     4  AUTHOR_KEY_ALGO  the same
//	0x008    56  reserved
//	0x040   512  ID_BLOCK_SIG     by the ID key, over the 96 bytes of the block
//	0x240  1028  ID_KEY
//	0x644    60  reserved
//	0x680   512  ID_KEY_SIG       by the author key, over the 1028 bytes of ID_KEY
//	0x880  1028  AUTHOR_KEY
//	0xC84   892  reserved
//
// Public key, 1028 (0x404) bytes:
//
//	0x000     4  CURVE  2: P-384
//	0x004    72  QX
//	0x04C    72  QY
//	0x094   880  reserved
//
// Signature, 512 bytes: R and S of 72 bytes each, then zeros.
//
// The digest of a key, as reports show it in ID_KEY_DIGEST and
// AUTHOR_KEY_DIGEST, is SHA-384 over all 1028 bytes.
//
// The author key is optional: without one its key and signature are zeros. That
// it counts is said beside these bytes, by AUTHOR_KEY_EN of the launch command.
//
// Reserved bytes must be zero here, so that Marshal is the exact inverse of
// Parse; AMD's firmware does not look at them. What an ID key's owner vouches
// for by signing, and that the digest covers the whole of what is booted, is
// nothing that these bytes show.
package idblock
