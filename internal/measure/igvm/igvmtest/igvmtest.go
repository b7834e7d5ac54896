// Package igvmtest writes IGVM files for tests.
package igvmtest

import (
	"encoding/binary"
	"hash/crc32"

	"attestbox/internal/measure/igvm"
)

var le = binary.LittleEndian

// Item is a variable header; Data, where it is not nil, goes into the file, and its
// offset into the content at At.
type Item struct {
	Type    igvm.Type
	Content []byte
	Data    []byte
	At      int
}

// Mask is the bit of SEV-SNP in these files.
const Mask = 1

// Platform is the header of a platform.
func Platform(p igvm.Platform, mask uint32) Item {
	b := make([]byte, 16)
	le.PutUint32(b, mask)
	b[4], b[5], b[6] = 2, byte(p), 1
	return Item{Type: 1, Content: b}
}

// Policy is the guest policy.
func Policy(policy uint64) Item {
	return Item{Type: igvm.TypeGuestPolicy, Content: fields(policy, uint32(Mask), uint32(0))}
}

// Page is page data; nil is zeros.
func Page(gpa uint64, t igvm.PageType, flags uint32, data []byte) Item {
	return Item{igvm.TypePageData, fields(gpa, uint32(Mask), uint32(0), flags, uint16(t), uint16(0)), data, 12}
}

// Area, Parameter and Insert are a parameter area, a place in it and its end.
func Area(index uint32, size uint64) Item {
	return Item{Type: igvm.TypeParameterArea, Content: fields(size, index, uint32(0))}
}
func Parameter(t igvm.Type, index, offset uint32) Item {
	return Item{Type: t, Content: fields(index, offset)}
}
func Insert(index uint32, gpa uint64) Item {
	return Item{Type: igvm.TypeParameterInsert, Content: fields(gpa, uint32(Mask), index)}
}

// VP is a vCPU's context.
func VP(index uint16, gpa uint64, vmsa []byte) Item {
	return Item{igvm.TypeVPContext, fields(gpa, uint32(Mask), uint32(0), index, uint16(0)), vmsa, 12}
}

// Required is required memory, and ErrorRange one for errors.
func Required(gpa uint64, size uint32) Item {
	return Item{Type: igvm.TypeRequiredMemory, Content: fields(gpa, uint32(Mask), size, uint32(0), uint32(0))}
}
func ErrorRange(gpa uint64, size uint32) Item {
	return Item{Type: igvm.TypeErrorRange, Content: fields(gpa, uint32(Mask), size)}
}

// Relocatable is a region that the loader may move.
func Relocatable(gpa, size, step, low, high uint64) Item {
	return Item{Type: igvm.TypeRelocatable, Content: fields(uint32(Mask), uint16(0), uint8(0), uint8(0), step, gpa, size, low, high)}
}

// PageTables is a region of page tables that move with it.
func PageTables(gpa, size, used uint64) Item {
	return Item{Type: igvm.TypePageTables, Content: fields(uint32(Mask), uint16(0), uint8(0), uint8(0), gpa, size, used)}
}

func fields(values ...any) []byte {
	var b []byte
	for _, v := range values {
		b, _ = binary.Append(b, le, v)
	}
	return b
}

// File writes a file of format version 1 or 2.
func File(version uint32, items ...Item) []byte {
	fixed := 0x18
	if version == 2 {
		fixed = 0x20
	}
	at := fixed
	for _, i := range items {
		at += 8 + (len(i.Content)+7)&^7
	}
	headers := make([]byte, 0, at)
	var data []byte
	for _, i := range items {
		content := append([]byte(nil), i.Content...)
		if i.Data != nil {
			le.PutUint32(content[i.At:], uint32(at+len(data)))
			data = append(data, i.Data...)
		}
		headers = append(le.AppendUint32(le.AppendUint32(headers, uint32(i.Type)), uint32(len(content))), content...)
		headers = append(headers, make([]byte, -len(content)&7)...)
	}
	b := make([]byte, fixed)
	copy(b, "IGVM")
	le.PutUint32(b[4:], version)
	le.PutUint32(b[8:], uint32(fixed))
	le.PutUint32(b[12:], uint32(len(headers)))
	le.PutUint32(b[16:], uint32(at+len(data)))
	if version == 2 {
		le.PutUint32(b[28:], igvm.PageSize)
	}
	b = append(append(b, headers...), data...)
	Seal(b)
	return b
}

// Seal writes the checksum of a file whose headers were changed, if they still lie
// in it.
func Seal(b []byte) {
	if len(b) < 0x18 {
		return
	}
	at, n := uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))
	fixed := uint64(0x18)
	if le.Uint32(b[4:]) == 2 {
		fixed = 0x20
	}
	if uint64(len(b)) < fixed || at+n > uint64(len(b)) {
		return
	}
	le.PutUint32(b[20:], 0)
	le.PutUint32(b[20:], crc32.ChecksumIEEE(append(append([]byte(nil), b[:fixed]...), b[at:at+n]...)))
}

// VMSA is a vCPU that KVM would start as it is.
func VMSA() []byte {
	b := make([]byte, igvm.PageSize)
	le.PutUint64(b[0x158:], 0x31)
	le.PutUint64(b[0x3b0:], 1)
	return b
}
