package measure

import (
	"crypto/sha256"
	"encoding/binary"
)

// The table of hashes that QEMU places for the firmware: a header (GUID,
// u16 length) and three entries (GUID, u16 length, SHA-256), padded with zeros
// to a multiple of 16.
const (
	hashHeaderLen = 16 + 2
	hashEntryLen  = 16 + 2 + 32
	hashTableLen  = hashHeaderLen + 3*hashEntryLen // 168
	hashTableSize = (hashTableLen + 15) &^ 15      // 176
)

// HashTableSize is the size of the table of hashes in bytes.
const HashTableSize = hashTableSize

// Hashes are the SHA-256 digests of what QEMU's -kernel, -initrd and -append
// name. An absent initrd is the hash of nothing.
type Hashes struct {
	Kernel, Initrd, Cmdline [32]byte
}

// HashCmdline is the digest of a command line with its trailing NUL, as QEMU
// hashes it.
func HashCmdline(cmdline string) [32]byte {
	return sha256.Sum256(append([]byte(cmdline), 0))
}

// Table is the table of hashes: command line, initrd, kernel.
func (h *Hashes) Table() [HashTableSize]byte {
	var t [hashTableSize]byte
	le := binary.LittleEndian
	copy(t[:], guidHashes[:])
	le.PutUint16(t[16:], hashTableLen)
	for i, e := range []struct {
		guid guid
		hash *[32]byte
	}{{guidHashCmdline, &h.Cmdline}, {guidHashInitrd, &h.Initrd}, {guidHashKernel, &h.Kernel}} {
		off := hashHeaderLen + i*hashEntryLen
		copy(t[off:], e.guid[:])
		le.PutUint16(t[off+16:], hashEntryLen)
		copy(t[off+18:], e.hash[:])
	}
	return t
}

// page is the page that holds the table at the offset that gpa has within it.
func (h *Hashes) page(gpa uint32) *[PageSize]byte {
	var p [PageSize]byte
	t := h.Table()
	copy(p[gpa&(PageSize-1):], t[:])
	return &p
}
