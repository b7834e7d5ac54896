package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrFormat is a file that is no EFI program of the kind that is read here.
var ErrFormat = errors.New("not an EFI program for x86-64")

const (
	coffSize      = 20
	sectionSize   = 40
	optionalFixed = 112 // up to the data directories
	pageSize      = 4096
	maxSections   = 96 // as the Windows loader has it

	securityDir = 4 // index of the directory that holds signatures

	// Contents, readable: IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ.
	sectionFlags = 0x40000040
)

// Section is one section of an EFI program.
type Section struct {
	Name    string
	Address uint32 // in memory
	Data    []byte
}

type header struct {
	pe, optional, table int // offsets
	count               int
	memAlign, fileAlign uint32
	sizeOfHeaders       uint32
	sections            []section
}

type section struct {
	name                             string
	memSize, address, fileSize, file uint32
}

var le = binary.LittleEndian

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// parse reads the headers of an EFI program and checks that every section lies
// in the file, and that none begins before the one before it ends.
func parse(data []byte) (*header, error) {
	if len(data) < 0x40 || string(data[:2]) != "MZ" {
		return nil, bad("no MZ header")
	}
	h := &header{pe: int(le.Uint32(data[0x3c:]))}
	h.optional = h.pe + 4 + coffSize
	if h.pe < 0x40 || h.optional+optionalFixed > len(data) || h.pe > 1<<20 {
		return nil, bad("no PE header")
	}
	if string(data[h.pe:h.pe+4]) != "PE\x00\x00" || le.Uint16(data[h.pe+4:]) != 0x8664 || le.Uint16(data[h.optional:]) != 0x20b {
		return nil, bad("no PE32+ header for this machine")
	}
	h.count = int(le.Uint16(data[h.pe+6:]))
	optionalSize := int(le.Uint16(data[h.pe+20:]))
	directories := le.Uint32(data[h.optional+108:])
	h.table = h.optional + optionalSize
	h.memAlign, h.fileAlign = le.Uint32(data[h.optional+32:]), le.Uint32(data[h.optional+36:])
	h.sizeOfHeaders = le.Uint32(data[h.optional+60:])
	switch {
	case directories > 16 || optionalSize < optionalFixed+int(directories)*8:
		return nil, bad("%d data directories in %d bytes", directories, optionalSize)
	case h.count == 0 || h.count > maxSections || h.table+h.count*sectionSize > int(h.sizeOfHeaders) || int64(h.sizeOfHeaders) > int64(len(data)):
		return nil, bad("%d sections in headers of %d bytes", h.count, h.sizeOfHeaders)
	case !power(h.memAlign) || !power(h.fileAlign) || h.fileAlign < 512 || h.fileAlign > 1<<16 || h.memAlign < h.fileAlign || h.memAlign > 1<<21:
		return nil, bad("alignment %d in memory and %d in the file", h.memAlign, h.fileAlign)
	}
	if directories > securityDir && le.Uint64(data[h.optional+optionalFixed+8*securityDir:]) != 0 {
		return nil, bad("it is signed, and a section more would break the signature")
	}
	return h, h.parseSections(data)
}

func (h *header) parseSections(data []byte) error {
	end, fileEnd := uint64(h.sizeOfHeaders), uint64(h.sizeOfHeaders)
	for i := range h.count {
		raw := data[h.table+i*sectionSize:][:sectionSize]
		name, _, _ := bytes.Cut(raw[:8], []byte{0})
		s := section{string(name), le.Uint32(raw[8:]), le.Uint32(raw[12:]), le.Uint32(raw[16:]), le.Uint32(raw[20:])}
		switch {
		case uint64(s.address) < end:
			return bad("section %q at %#x overlaps what is before it in memory", s.name, s.address)
		case s.fileSize != 0 && uint64(s.file) < fileEnd:
			return bad("section %q at %#x overlaps what is before it in the file", s.name, s.file)
		case uint64(s.file)+uint64(s.fileSize) > uint64(len(data)) && s.fileSize != 0:
			return bad("section %q is cut short", s.name)
		}
		end = uint64(s.address) + uint64(s.memSize)
		if s.fileSize != 0 {
			fileEnd = uint64(s.file) + uint64(s.fileSize)
		}
		if end > 1<<32-1 {
			return bad("section %q ends above 4 GiB", s.name)
		}
		h.sections = append(h.sections, s)
	}
	return nil
}

// contents is a section as it is in memory: the file may hold padding behind it.
func (s section) contents(data []byte) []byte {
	n := min(s.memSize, s.fileSize)
	if n == 0 {
		return []byte{} // wherever in the file it claims to be
	}
	return data[s.file:][:n:n]
}

func power(n uint32) bool { return n != 0 && n&(n-1) == 0 }

func alignUp(n uint64, to uint32) uint64 { return (n + uint64(to) - 1) &^ (uint64(to) - 1) }

// appendSections puts sections behind those of an EFI program, in memory and in
// the file.
func appendSections(stub []byte, add []Section) ([]byte, error) {
	h, err := parse(stub)
	if err != nil {
		return nil, err
	}
	tableEnd := h.table + (h.count+len(add))*sectionSize
	first := uint64(h.sizeOfHeaders)
	for _, s := range h.sections {
		if s.fileSize != 0 {
			first = min(first, uint64(s.file))
		}
	}
	if uint64(tableEnd) > first || h.count+len(add) > maxSections || !zero(stub[h.table+h.count*sectionSize:tableEnd]) {
		return nil, bad("no room for %d more section headers", len(add))
	}
	last := h.sections[h.count-1]
	// A page of its own for each, so that a loader may protect them apart.
	align := max(h.memAlign, pageSize)
	address := alignUp(max(uint64(last.address)+uint64(max(last.memSize, last.fileSize)), 1), align)
	out := bytes.Clone(stub)
	data := uint64(le.Uint32(out[h.optional+8:]))
	for i, s := range add {
		if len(s.Name) == 0 || len(s.Name) > 8 || len(s.Data) == 0 {
			return nil, fmt.Errorf("section %q has no name, a name of more than 8 bytes, or no contents", s.Name)
		}
		out = append(out, make([]byte, alignUp(uint64(len(out)), h.fileAlign)-uint64(len(out)))...)
		at, size := uint64(len(out)), alignUp(uint64(len(s.Data)), h.fileAlign)
		if at+size > 1<<31 || address+size > 1<<31 {
			return nil, fmt.Errorf("section %q would end above 2 GiB", s.Name)
		}
		raw := out[h.table+(h.count+i)*sectionSize:][:sectionSize]
		copy(raw, s.Name)
		le.PutUint32(raw[8:], uint32(len(s.Data)))
		le.PutUint32(raw[12:], uint32(address))
		le.PutUint32(raw[16:], uint32(size))
		le.PutUint32(raw[20:], uint32(at))
		le.PutUint32(raw[36:], sectionFlags)
		out = append(out, s.Data...)
		out = append(out, make([]byte, size-uint64(len(s.Data)))...)
		data += size
		address = alignUp(address+uint64(len(s.Data)), align)
	}
	le.PutUint16(out[h.pe+6:], uint16(h.count+len(add)))
	le.PutUint32(out[h.optional+8:], uint32(data))
	le.PutUint32(out[h.optional+56:], uint32(alignUp(address, h.memAlign)))
	le.PutUint32(out[h.optional+64:], 0) // EFI loads without a checksum
	return out, nil
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
