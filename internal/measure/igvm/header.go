package igvm

import (
	"fmt"
	"slices"
)

// Type is the type of a variable header.
type Type uint32

// Optional is the bit of a type that a loader may ignore.
const Optional Type = 1 << 31

// The types that are understood.
const (
	typePlatform        Type = 0x001
	TypeGuestPolicy     Type = 0x101
	TypeRelocatable     Type = 0x102
	TypePageTables      Type = 0x103
	TypeParameterArea   Type = 0x301
	TypePageData        Type = 0x302
	TypeParameterInsert Type = 0x303
	TypeVPContext       Type = 0x304
	TypeRequiredMemory  Type = 0x305
	TypeIDBlock         Type = 0x30b
	TypeErrorRange      Type = 0x30d
	TypeVBSMeasurement  Type = 0x311
)

// parameters are the types that name a place in a parameter area, for the host
// to write to.
var parameters = map[Type]string{
	0x307: "VP count", 0x308: "SRAT", 0x309: "MADT", 0x30a: "MMIO ranges", 0x30c: "memory map",
	0x30e: "command line", 0x30f: "SLIT", 0x310: "PPTT", 0x312: "device tree", 0x313: "environment info",
}

var names = map[Type]string{
	typePlatform: "supported platform", TypeGuestPolicy: "guest policy", TypeRelocatable: "relocatable region",
	TypePageTables: "page table relocation", TypeParameterArea: "parameter area", TypePageData: "page data",
	TypeParameterInsert: "parameter insert", TypeVPContext: "VP context", TypeRequiredMemory: "required memory",
	TypeIDBlock: "SNP ID block", TypeErrorRange: "error range", TypeVBSMeasurement: "VBS measurement",
}

// String is the specification's word, in short.
func (t Type) String() string {
	if n, ok := names[t]; ok {
		return n
	}
	if n, ok := parameters[t]; ok {
		return "parameter " + n
	}
	return fmt.Sprintf("type %#x", uint32(t))
}

// PageType is what a page data header loads.
type PageType uint16

// The page types. The two of CPUID are one to SEV-SNP.
const (
	PageNormal  PageType = 0
	PageSecrets PageType = 1
	PageCPUID   PageType = 2
	PageCPUIDXF PageType = 3
)

// Flags of page data.
const (
	FlagLarge      = 1 << 0 // 2 MiB
	FlagUnmeasured = 1 << 1
	FlagShared     = 1 << 2 // the host's too, and not part of the measurement
)

// Header is an initialization or directive header. Fields that its type does not
// have are zero.
type Header struct {
	Type       Type
	Index      int    // its place among the file's Headers
	Mask       uint32 // platforms; all of them where the type has none
	GPA        uint64
	Size       uint64 // bytes of guest memory
	Flags      uint32
	Page       PageType
	FileOffset uint32 // 0: none
	Area       uint32 // index of a parameter area
	AreaOffset uint32
	VP         uint16
	Policy     uint64
	IDBlock    *IDBlock
	Raw        []byte // the content, as it is in the file

	all bool // the type has no mask
}

// sizes of contents, but for parameters.
var sizes = map[Type]int{
	TypeGuestPolicy: 16, TypeRelocatable: 48, TypePageTables: 32, TypeParameterArea: 16, TypePageData: 24,
	TypeParameterInsert: 16, TypeVPContext: 20, TypeRequiredMemory: 24, TypeIDBlock: idBlockSize, TypeErrorRange: 16,
	TypeVBSMeasurement: 864,
}

// parseHeader reads one header; what it says is judged by checkHeader.
func (f *File) parseHeader(t Type, b []byte) (Header, error) {
	h := Header{Type: t, Raw: b}
	size, known := sizes[t]
	if _, ok := parameters[t]; ok {
		size, known = 8, true
	}
	if !known {
		if t&Optional == 0 {
			return h, bad("it is needed and not known")
		}
		h.all = true
		return h, nil
	}
	if len(b) != size {
		return h, bad("%d bytes, want %d", len(b), size)
	}
	switch t {
	case TypeGuestPolicy:
		h.Policy, h.Mask = le.Uint64(b), le.Uint32(b[8:])
		return h, zero(b[12:])
	case TypeRelocatable:
		h.Mask, h.VP, h.Flags = le.Uint32(b), le.Uint16(b[4:]), uint32(b[7])
		h.GPA, h.Size = le.Uint64(b[16:]), le.Uint64(b[24:])
	case TypePageTables:
		h.Mask, h.VP = le.Uint32(b), le.Uint16(b[4:])
		h.GPA, h.Size = le.Uint64(b[8:]), le.Uint64(b[16:])
		return h, zero(b[7:8])
	case TypeParameterArea:
		h.all = true
		h.Size, h.Area, h.FileOffset = le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])
	case TypePageData:
		h.GPA, h.Mask, h.FileOffset = le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])
		h.Flags, h.Page, h.Size = le.Uint32(b[16:]), PageType(le.Uint16(b[20:])), PageSize
		if h.Flags&FlagLarge != 0 {
			h.Size = LargePage
		}
		return h, zero(b[22:])
	case TypeParameterInsert:
		h.GPA, h.Mask, h.Area = le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])
	case TypeVPContext:
		h.GPA, h.Mask, h.FileOffset, h.VP = le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint16(b[16:])
		return h, zero(b[18:])
	case TypeRequiredMemory:
		h.GPA, h.Mask, h.Size, h.Flags = le.Uint64(b), le.Uint32(b[8:]), uint64(le.Uint32(b[12:])), le.Uint32(b[16:])
		return h, zero(b[20:])
	case TypeErrorRange:
		h.GPA, h.Mask, h.Size = le.Uint64(b), le.Uint32(b[8:]), uint64(le.Uint32(b[12:]))
	case TypeIDBlock:
		h.Mask = le.Uint32(b)
		h.IDBlock = parseIDBlock(b)
		return h, zero(b[5:8])
	case TypeVBSMeasurement:
		h.Mask = le.Uint32(b)
	default:
		h.all = true
		h.Area, h.AreaOffset = le.Uint32(b), le.Uint32(b[4:])
	}
	return h, nil
}

func zero(b []byte) error {
	if slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
		return bad("reserved bytes are not zero")
	}
	return nil
}

// Contents is what a page data header loads; nil is zeros.
func (f *File) Contents(h *Header) []byte {
	if h.FileOffset == 0 || h.Type != TypePageData {
		return nil
	}
	return f.data[h.FileOffset:][:h.Size]
}

// VMSA is the page of an SNP vCPU context.
func (f *File) VMSA(h *Header) *[PageSize]byte { return (*[PageSize]byte)(f.data[h.FileOffset:]) }
