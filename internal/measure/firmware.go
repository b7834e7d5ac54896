package measure

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// Limits of a firmware or SVSM image, in bytes.
const (
	minImage = PageSize
	maxImage = 64 << 20
)

const (
	footerFromEnd = 32 // bytes behind the footer table's last GUID
	entryTail     = 18 // u16 size and GUID, at the end of every entry
	sectionSize   = 12 // gpa, size, type, u32 each
	metadataHead  = 16 // "ASEV", size, version, count
	maxSections   = 256
)

// SectionType is the type of a section of the SEV metadata (edk2,
// OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm).
type SectionType uint32

// Section types.
const (
	SectionSECMemory    SectionType = 1    // memory that the firmware uses first
	SectionSecrets      SectionType = 2    // filled by the secure processor
	SectionCPUID        SectionType = 3    // CPUID table
	SectionSVSMCaa      SectionType = 4    // calling area of an SVSM
	SectionKernelHashes SectionType = 0x10 // page with the table of hashes
)

var sectionNames = map[SectionType]string{
	SectionSECMemory:    "SEC memory",
	SectionSecrets:      "secrets",
	SectionCPUID:        "CPUID",
	SectionSVSMCaa:      "SVSM calling area",
	SectionKernelHashes: "kernel hashes",
}

// String is the section's name in this project's output.
func (t SectionType) String() string {
	if s, ok := sectionNames[t]; ok {
		return s
	}
	return fmt.Sprintf("SectionType(%#x)", uint32(t))
}

// Section is one range that the host must prepare before launch.
type Section struct {
	GPA, Size uint32
	Type      SectionType
}

// Image is what the footer table of a firmware or SVSM image says. A Has field
// is false where the entry is absent.
type Image struct {
	HasFooter bool

	HasMetadata bool
	Sections    []Section // in the file's order, which is the measuring order

	HasHashTable                   bool
	HashTableGPA, HashTableSize    uint32 // GPA 0: the build has no table
	HasResetEIP                    bool
	ResetEIP                       uint32 // where application processors start
	HasLaunchOffset                bool
	LaunchOffset                   uint32 // SVSM only: entry, from the image's start
	HasSecretBlock                 bool
	SecretBlockGPA, SecretBlockLen uint32
}

func badImage(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrFirmware, fmt.Sprintf(format, a...))
}

// ParseImage reads the footer table and the SEV metadata of a firmware image
// (or an SVSM's). An image without a footer table is accepted and says so;
// tables that are there must be well-formed. Errors wrap ErrFirmware.
//
// Checked: sizes, alignment, known section types, one entry per GUID, sections
// that overlap neither each other nor the top of memory. Nothing of the code.
func ParseImage(b []byte) (*Image, error) {
	if len(b) < minImage || len(b) > maxImage || len(b)%PageSize != 0 {
		return nil, badImage("%d bytes; want a multiple of %d, at most %d", len(b), PageSize, maxImage)
	}
	img := &Image{}
	end := len(b) - footerFromEnd
	if !bytes.Equal(b[end-16:end], guidFooter[:]) {
		return img, nil
	}
	img.HasFooter = true
	// The footer's own size counts the whole table, itself included.
	total := int(binary.LittleEndian.Uint16(b[end-entryTail:]))
	if total < entryTail || total > end {
		return nil, badImage("footer table of %d bytes in an image of %d", total, len(b))
	}
	seen := make(map[guid]bool)
	start := end - total
	for pos := end - entryTail; pos > start; {
		if pos-start < entryTail {
			return nil, badImage("%d stray bytes at the start of the footer table", pos-start)
		}
		var g guid
		copy(g[:], b[pos-16:])
		size := int(binary.LittleEndian.Uint16(b[pos-entryTail:]))
		if size < entryTail || size > pos-start {
			return nil, badImage("footer entry %s of %d bytes with %d left", g, size, pos-start)
		}
		if seen[g] || g == guidFooter {
			return nil, badImage("footer entry %s appears twice", g)
		}
		seen[g] = true
		if err := img.entry(g, b[pos-size:pos-entryTail], b); err != nil {
			return nil, err
		}
		pos -= size
	}
	return img, nil
}

// entry takes one footer entry; unknown GUIDs are not ours to judge.
func (img *Image) entry(g guid, data, image []byte) error {
	words := map[guid]int{guidSEVMetadata: 1, guidHashTable: 2, guidResetBlock: 1, guidSVSMInfo: 1, guidSecretBlock: 2}
	n, known := words[g]
	if !known {
		return nil
	}
	if len(data) != 4*n {
		return badImage("footer entry %s holds %d bytes, want %d", g, len(data), 4*n)
	}
	var w [2]uint32
	for i := range n {
		w[i] = binary.LittleEndian.Uint32(data[4*i:])
	}
	switch g {
	case guidSEVMetadata:
		return img.metadata(w[0], image)
	case guidHashTable:
		img.HasHashTable, img.HashTableGPA, img.HashTableSize = true, w[0], w[1]
	case guidResetBlock:
		img.HasResetEIP, img.ResetEIP = true, w[0]
	case guidSVSMInfo:
		if int64(w[0]) >= int64(len(image)) {
			return badImage("SVSM entry at %#x, outside the image of %#x bytes", w[0], len(image))
		}
		img.HasLaunchOffset, img.LaunchOffset = true, w[0]
	case guidSecretBlock:
		img.HasSecretBlock, img.SecretBlockGPA, img.SecretBlockLen = true, w[0], w[1]
	}
	return nil
}

// metadata reads the table that begins fromEnd bytes before the image's end.
func (img *Image) metadata(fromEnd uint32, image []byte) error {
	if int64(fromEnd) > int64(len(image)) || fromEnd < metadataHead {
		return badImage("SEV metadata at %#x from the end of an image of %#x bytes", fromEnd, len(image))
	}
	b := image[len(image)-int(fromEnd):]
	le := binary.LittleEndian
	if string(b[:4]) != "ASEV" {
		return badImage("SEV metadata begins with %q, want \"ASEV\"", b[:4])
	}
	size, version, count := le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	if version != 1 {
		return badImage("SEV metadata of version %d, want 1", version)
	}
	if count == 0 || count > maxSections {
		return badImage("SEV metadata with %d sections, want 1 to %d", count, maxSections)
	}
	if want := metadataHead + sectionSize*count; size < want || int64(size) > int64(len(b)) {
		return badImage("SEV metadata of %d bytes with %d sections, %d bytes left", size, count, len(b))
	}
	for i := range int(count) {
		e := b[metadataHead+sectionSize*i:]
		s := Section{GPA: le.Uint32(e), Size: le.Uint32(e[4:]), Type: SectionType(le.Uint32(e[8:]))}
		if err := s.check(); err != nil {
			return fmt.Errorf("SEV metadata section %d: %w", i, err)
		}
		img.Sections = append(img.Sections, s)
	}
	if err := checkOverlap(img.Sections, uint64(len(image))); err != nil {
		return err
	}
	img.HasMetadata = true
	return nil
}

func (s Section) end() uint64 { return uint64(s.GPA) + uint64(s.Size) }

func (s Section) check() error {
	if _, ok := sectionNames[s.Type]; !ok {
		return badImage("unknown type %#x", uint32(s.Type))
	}
	if s.GPA%PageSize != 0 || s.Size%PageSize != 0 || s.Size == 0 {
		return badImage("%s at %#x, %#x bytes: not whole pages", s.Type, s.GPA, s.Size)
	}
	switch s.Type {
	case SectionSecrets, SectionCPUID, SectionKernelHashes:
		if s.Size != PageSize {
			return badImage("%s of %#x bytes, want one page", s.Type, s.Size)
		}
	}
	return nil
}

// checkOverlap refuses a page that would be measured twice: the hardware
// refuses the second assignment, so no launch has that digest.
func checkOverlap(sections []Section, imageSize uint64) error {
	sorted := slices.Clone(sections)
	slices.SortFunc(sorted, func(a, b Section) int { return cmp.Compare(a.GPA, b.GPA) })
	hashes := 0
	for i, s := range sorted {
		if s.Type == SectionKernelHashes {
			hashes++
		}
		if i > 0 && sorted[i-1].end() > uint64(s.GPA) {
			return badImage("sections at %#x and %#x overlap", sorted[i-1].GPA, s.GPA)
		}
		if s.end() > 1<<32-imageSize {
			return badImage("section at %#x reaches into the firmware", s.GPA)
		}
	}
	if hashes > 1 {
		return badImage("%d kernel-hashes sections, want at most one", hashes)
	}
	return nil
}

// section finds the first section of a type.
func (img *Image) section(t SectionType) (Section, bool) {
	i := slices.IndexFunc(img.Sections, func(s Section) bool { return s.Type == t })
	if i < 0 {
		return Section{}, false
	}
	return img.Sections[i], true
}
