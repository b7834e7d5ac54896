package luks

import (
	"encoding/binary"
	"fmt"

	"attestbox/internal/code"
)

// dm-integrity's superblock, at the start of the data segment, integers
// little-endian. No header's digest covers it, and the host can write it; but
// every byte of it follows from the Layout, so it is compared and not used.
//
//	offset  size  field
//	     0     8  magic: "integrt\0"
//	     8     1  version: 4, as it goes with the only flag
//	     9     1  log2 of the sectors of data between tags: 15
//	    10     2  bytes of tag per encryption sector
//	    12     4  sections of the journal
//	    16     8  sectors of data provided
//	    24     4  flags: 8, tags padded to 4096 bytes
//	    28     1  log2 of the sectors per encryption sector: 0 or 3
//	    29     1  log2 of the encryption sectors per bit of a bitmap
//	    30     2  zero
//	    32     8  where a recalculation has got to: 0
//	    40    24  zero, and a salt that only a journal with a MAC has
//	    64  4032  zero
const (
	SuperblockBytes = superblockSectors * dmSector

	sbMagic     = "integrt\x00"
	sbVersion   = 4
	sbFlags     = sbFlagPadding
	sbEnd       = 40
	offSBTag    = 10
	offSBJourn  = 12
	offSBData   = 16
	offSBFlags  = 24
	offSBBlock  = 28
	offSBBitmap = 29
	offSBRecalc = 32
)

// The flags that the kernel knows.
const (
	sbFlagJournalMAC = 1 << iota
	sbFlagRecalculating
	sbFlagDirtyBitmap
	sbFlagPadding
	sbFlagFixedHMAC
)

var sbFlagNames = []string{"journal-mac", "recalculating", "dirty-bitmap", "fix-padding", "fix-hmac"}

// Superblock is the one that the kernel writes for this layout.
func (l *Layout) Superblock() []byte {
	b := make([]byte, SuperblockBytes)
	copy(b, sbMagic)
	b[8], b[9] = sbVersion, log2Interleave
	binary.LittleEndian.PutUint16(b[offSBTag:], uint16(l.Suite.TagBytes))
	binary.LittleEndian.PutUint32(b[offSBJourn:], uint32(l.Sections))
	binary.LittleEndian.PutUint64(b[offSBData:], uint64(l.Provided))
	binary.LittleEndian.PutUint32(b[offSBFlags:], sbFlags)
	b[offSBBlock], b[offSBBitmap] = byte(l.log2Block()), byte(l.bitmapBits)
	return b
}

// CheckSuperblock compares a superblock with the layout, field by field so that
// a refusal says what differs. Codes: luks-superblock, luks-superblock-flags,
// luks-superblock-tag, luks-superblock-size.
func (l *Layout) CheckSuperblock(b []byte) error {
	if len(b) != SuperblockBytes {
		return code.Wrap(code.LUKSTruncated, fmt.Errorf("superblock of dm-integrity is %d bytes, want %d", len(b), SuperblockBytes))
	}
	want := l.Superblock()
	flags := binary.LittleEndian.Uint32(b[offSBFlags:])
	for _, f := range []struct {
		code       code.Code
		name       string
		start, end int
	}{
		{code.LUKSSuperblock, "magic", 0, 8},
		{code.LUKSSuperblockFlags, "flags (" + flagNames(flags) + ")", offSBFlags, offSBBlock},
		{code.LUKSSuperblock, "version", 8, 9},
		{code.LUKSSuperblockTag, "tag size", offSBTag, offSBJourn},
		{code.LUKSSuperblockTag, "sectors per block", offSBBlock, offSBBitmap},
		{code.LUKSSuperblockSize, "interleave", 9, offSBTag},
		{code.LUKSSuperblockSize, "journal sections", offSBJourn, offSBData},
		{code.LUKSSuperblockSize, "provided data sectors", offSBData, offSBFlags},
		{code.LUKSSuperblockSize, "blocks per bitmap bit", offSBBitmap, offSBBitmap + 1},
		{code.LUKSSuperblock, "padding", offSBBitmap + 1, offSBRecalc},
		{code.LUKSSuperblockFlags, "recalculation", offSBRecalc, sbEnd},
		{code.LUKSSuperblock, "reserved bytes", sbEnd, SuperblockBytes},
	} {
		if found, want := b[f.start:f.end], want[f.start:f.end]; string(found) != string(want) {
			if len(found) > 8 {
				return code.Wrap(f.code, fmt.Errorf("superblock of dm-integrity: %s are not zero", f.name))
			}
			return code.Wrap(f.code, fmt.Errorf("superblock of dm-integrity: %s is %d, want %d", f.name, little(found), little(want)))
		}
	}
	return nil
}

func flagNames(flags uint32) string {
	names := ""
	for i, n := range sbFlagNames {
		if flags&(1<<i) != 0 {
			names += " " + n
		}
	}
	if flags>>len(sbFlagNames) != 0 {
		names += " unknown"
	}
	if names == "" {
		return "none"
	}
	return names[1:]
}

func little(b []byte) (n uint64) {
	for i, c := range b {
		n |= uint64(c) << (8 * i)
	}
	return n
}
