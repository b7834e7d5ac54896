package measure

import (
	"encoding/binary"
	"fmt"
)

// syntheticSize is the size of the synthetic firmware in bytes.
const syntheticSize = 64 << 10

// syntheticText fills the code area, so that a dump says what it is.
const syntheticText = "attestbox synthetic firmware: tables for measuring only, no code, does not boot. "

// synthetic has the values of edk2's AmdSev build (edk2-stable202405).
var synthetic = Image{
	HasFooter:   true,
	HasMetadata: true,
	Sections: []Section{
		{0x800000, 0x9000, SectionSECMemory},
		{0x80a000, 0x3000, SectionSECMemory},
		{0x80d000, 0x1000, SectionSecrets},
		{0x80e000, 0x1000, SectionCPUID},
		{0x80f000, 0x1000, SectionSVSMCaa},
		{0x810000, 0x1000, SectionKernelHashes},
		{0x811000, 0xf000, SectionSECMemory},
	},
	HasHashTable: true, HashTableGPA: 0x810c00, HashTableSize: 0x400,
	HasSecretBlock: true, SecretBlockGPA: 0x810000, SecretBlockLen: 0xc00,
	HasResetEIP: true, ResetEIP: 0x80b004,
}

// SyntheticFirmware is a firmware image of 64 KiB without code, the same bytes
// at every call, with the tables of OVMF's AmdSev build: kernel, initramfs and
// command line are covered by the same algorithm as on real hardware. It is for
// the simulator and for images built without a firmware file; nothing can boot
// it, and its digest is no real host's.
func SyntheticFirmware() []byte {
	b := make([]byte, syntheticSize)
	for off := 0; off < syntheticSize-PageSize; {
		off += copy(b[off:syntheticSize-PageSize], syntheticText)
	}
	if err := synthetic.WriteTables(b); err != nil {
		panic("measure: synthetic firmware: " + err.Error()) // constants only; a test runs it
	}
	return b
}

// WriteTables writes what img says to the end of b: the SEV metadata, the
// footer table, and the 32 bytes of the reset vector behind it (left alone).
// ParseImage reads it back to the same Image.
func (img *Image) WriteTables(b []byte) error {
	le := binary.LittleEndian
	var table []byte // from its start on, which is the reverse of the walk
	add := func(has bool, g guid, words ...uint32) {
		if !has {
			return
		}
		for _, w := range words {
			table = le.AppendUint32(table, w)
		}
		table = le.AppendUint16(table, uint16(entryTail+4*len(words)))
		table = append(table, g[:]...)
	}
	metadataSize := metadataHead + sectionSize*len(img.Sections)
	const maxTable = 6*entryTail + 8*4
	room := footerFromEnd + maxTable + metadataSize
	if room > len(b) {
		return fmt.Errorf("tables of up to %d bytes do not fit into %d", room, len(b))
	}
	add(img.HasMetadata, guidSEVMetadata, uint32(room))
	add(img.HasHashTable, guidHashTable, img.HashTableGPA, img.HashTableSize)
	add(img.HasSecretBlock, guidSecretBlock, img.SecretBlockGPA, img.SecretBlockLen)
	add(img.HasLaunchOffset, guidSVSMInfo, img.LaunchOffset)
	add(img.HasResetEIP, guidResetBlock, img.ResetEIP)
	if !img.HasFooter {
		return nil
	}
	table = le.AppendUint16(table, uint16(len(table)+entryTail))
	table = append(table, guidFooter[:]...)
	copy(b[len(b)-footerFromEnd-len(table):], table)
	if !img.HasMetadata {
		return nil
	}
	m := b[len(b)-room:][:0]
	m = append(m, "ASEV"...)
	m = le.AppendUint32(m, uint32(metadataSize))
	m = le.AppendUint32(m, 1)
	m = le.AppendUint32(m, uint32(len(img.Sections)))
	for _, s := range img.Sections {
		m = le.AppendUint32(m, s.GPA)
		m = le.AppendUint32(m, s.Size)
		m = le.AppendUint32(m, uint32(s.Type))
	}
	return nil
}
