// Package ukitest makes a stand-in for systemd's EFI stub, laid out like that of
// systemd 252. It is for tests only and starts nothing.
package ukitest

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
)

// Offsets in Stub.
const (
	PE    = 0x80
	Table = PE + 4 + 20 + 240
)

// Stub is an EFI program with code, and the mark of systemd's stub.
func Stub() []byte {
	var out bytes.Buffer
	mz := make([]byte, PE)
	copy(mz, "MZ")
	binary.LittleEndian.PutUint32(mz[0x3c:], PE)
	out.Write(mz)
	out.WriteString("PE\x00\x00")
	magic := []byte("#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\x00")
	write := func(v any) { binary.Write(&out, binary.LittleEndian, v) }
	write(pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 3, SizeOfOptionalHeader: 240, Characteristics: 0x206})
	write(pe.OptionalHeader64{Magic: 0x20b, SizeOfCode: 0x400, SizeOfInitializedData: 0x400, AddressOfEntryPoint: 0x4000, BaseOfCode: 0x4000,
		SectionAlignment: 0x200, FileAlignment: 0x200, SizeOfImage: 0x19300, SizeOfHeaders: 0x400, CheckSum: 0x1aa6c, Subsystem: 10, NumberOfRvaAndSizes: 16})
	// The last two share a page, and even the alignment, as in the real one.
	for _, s := range []pe.SectionHeader32{
		{Name: name(".text"), VirtualSize: 0x3f0, VirtualAddress: 0x4000, SizeOfRawData: 0x400, PointerToRawData: 0x400, Characteristics: 0x60000020},
		{Name: name(".sbat"), VirtualSize: 0xe2, VirtualAddress: 0x19000, SizeOfRawData: 0x200, PointerToRawData: 0x800, Characteristics: 0x40000040},
		{Name: name(".sdmagic"), VirtualSize: uint32(len(magic)), VirtualAddress: 0x19100, SizeOfRawData: 0x200, PointerToRawData: 0xa00, Characteristics: 0x40000040},
	} {
		write(s)
	}
	b := make([]byte, 0xc00)
	copy(b, out.Bytes())
	copy(b[0xa00:], magic)
	return b
}

func name(s string) (b [8]uint8) {
	copy(b[:], s)
	return b
}
