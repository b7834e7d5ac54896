package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/ulikunitz/xz"
)

// xzDict is the dictionary of xz, and maxXzDict the largest that is read.
const (
	xzDict    = 8 << 20
	maxXzDict = 64 << 20
)

// Byte layout of an xz file (The .xz File Format, sections 2.1, 3.1 and 4): a
// header of 6 bytes of magic, 2 of flags and a CRC32; blocks; an index of a zero
// byte, the number of blocks and two numbers for each, padding to 4, a CRC32;
// a footer of a CRC32, the index's size, the flags again and "YZ".
const (
	xzMagic  = "\xfd7zXZ\x00"
	xzHeader = 12
	xzFooter = 12
)

// checkXz gives the unpacked size of an xz file of one block. It refuses what
// the kernel's decoder would (a check other than CRC32), a filter before LZMA2,
// a dictionary without bounds, and a file that is cut short: the library takes
// some of these for a short file.
func checkXz(data []byte) (int64, error) {
	if len(data) < xzHeader+8+8+xzFooter {
		return 0, errors.New("xz: cut short")
	}
	flags, block, footer := data[6:8], data[xzHeader:], data[len(data)-xzFooter:]
	switch {
	case flags[0] != 0 || flags[1] != byte(xz.CRC32):
		return 0, fmt.Errorf("xz: check %#x is not CRC32", flags[1])
	case block[1] != 0 || block[2] != 0x21 || block[3] != 1:
		return 0, errors.New("xz: a block that is not plain LZMA2 without sizes")
	case string(footer[10:]) != "YZ" || footer[8] != flags[0] || footer[9] != flags[1] ||
		binary.LittleEndian.Uint32(footer) != crc32.ChecksumIEEE(footer[4:10]):
		return 0, errors.New("xz: no footer: cut short, or something follows")
	}
	// The code of a dictionary of 2 or 3 times a power of two; 40 is the largest.
	if code := uint64(block[4]); code > 40 || (2|code&1)<<(code/2+11) > maxXzDict {
		return 0, fmt.Errorf("xz: dictionary code %d is more than %d bytes", code, maxXzDict)
	}
	size := (int64(binary.LittleEndian.Uint32(footer[4:])) + 1) * 4
	at := int64(len(data)) - xzFooter - size
	if at < xzHeader+8 || size < 8 {
		return 0, errors.New("xz: an index that is larger than the file")
	}
	index := data[at : at+size-4]
	if binary.LittleEndian.Uint32(data[at+size-4:]) != crc32.ChecksumIEEE(index) || index[0] != 0 {
		return 0, errors.New("xz: a damaged index")
	}
	var nums [3]uint64 // blocks, the block's size without padding, unpacked
	rest := index[1:]
	for i := range nums {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			return 0, errors.New("xz: a damaged index")
		}
		nums[i], rest = v, rest[n:]
	}
	if nums[0] != 1 || nums[1] > uint64(len(data)) || int64(nums[1]+3)&^3 != at-xzHeader || nums[2] > MaxInitrd {
		return 0, errors.New("xz: not one block from header to index")
	}
	return int64(nums[2]), nil
}
