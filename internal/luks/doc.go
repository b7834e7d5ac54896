// Package luks opens, checks and writes LUKS2 headers that a hostile host may
// have rewritten. It follows the "LUKS2 On-Disk Format Specification" 1.1.x
// (cryptsetup project), and accepts only the small part of it that cryptsetup
// writes for one passphrase-like key and one data segment.
//
// The header and the keyslot area are read once, into memory. Their SHA-256 is
// compared with the registered one before anything in them is looked at. Then
// every rule is checked, each with an error and a code of its own; docs/luks.md
// lists them. Cipher, sector size, offset and integrity are chosen by the
// registered record and only compared with the header; suite.go has the few
// combinations that are served.
//
// Binary header (4096 bytes, integers big-endian), once at offset 0 and once,
// as secondary header, at offset hdr_size:
//
//	offset  size  field
//	     0     6  magic: "LUKS" 0xba 0xbe, in the secondary header "SKUL" 0xba 0xbe
//	     6     2  version: 2
//	     8     8  hdr_size: binary header and JSON area together; 16 KiB to 4 MiB
//	    16     8  seqid
//	    24    48  label, zero-padded
//	    72    32  checksum algorithm, zero-padded: "sha256"
//	   104    64  salt (makes the two headers differ)
//	   168    40  UUID, zero-padded
//	   208    48  subsystem, zero-padded
//	   256     8  hdr_offset: 0, in the secondary header hdr_size
//	   264   184  zero
//	   448    64  checksum: SHA-256 over hdr_size bytes with this field zero; 32 bytes and zeros
//	   512  3584  zero
//	  4096     -  JSON metadata, zero-padded to hdr_size
//
// After the two headers comes the keyslot area, up to the data segment.
//
// In front of data with integrity stands dm-integrity's superblock, which the
// header does not cover: see superblock.go.
//
// What it does not check: that the data segment is complete or authentic (that
// is the kernel's; bare XTS has no integrity), and that the disk is the newest
// copy of itself.
package luks

const (
	binSize = 4096

	offMagic     = 0
	offVersion   = 6
	offHdrSize   = 8
	offSeqID     = 16
	offLabel     = 24
	offCsumAlg   = 72
	offSalt      = 104
	offUUID      = 168
	offSubsystem = 208
	offHdrOffset = 256
	offPadding   = 264
	offCsum      = 448
	offPadding4K = 512

	lenLabel     = 48
	lenCsumAlg   = 32
	lenSalt      = 64
	lenUUID      = 40
	lenSubsystem = 48
	lenCsum      = 64

	magicPrimary   = "LUKS\xba\xbe"
	magicSecondary = "SKUL\xba\xbe"

	minHdrSize = 16 << 10
	maxHdrSize = 4 << 20

	// MaxHeaderArea bounds what is read and hashed: twice cryptsetup's default.
	MaxHeaderArea = 32 << 20

	// Cipher is every keyslot's cipher, and the data's where its suite says
	// so: AES-256 in XTS mode.
	Cipher = "aes-xts-plain64"
	// slotKeyBytes is the size of the key of a keyslot's area.
	slotKeyBytes = 64

	afStripes = 4000
	areaAlign = 4096

	saltSize   = 32
	digestSize = 32

	minIterations = 1000
	maxIterations = 1_000_000
	maxTime       = 16
	maxLanes      = 4
	maxMemoryKiB  = 1 << 20 // 1 GiB
	// minMemoryKiB is argon2's own minimum for four lanes.
	minMemoryKiB = 8 * maxLanes

	// maxJSON is what the smallest header holds. One keyslot needs a tenth of
	// it; 4 MiB of keyslots would be a gigabyte of Go values.
	maxJSON  = minHdrSize - binSize
	maxKey   = 8 << 20 // what cryptsetup reads of a key file by default
	maxSlots = 32
)
