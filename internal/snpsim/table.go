package snpsim

import (
	"encoding/binary"

	"attestbox/internal/snpsim/link"
)

// GUIDs of the extended guest request's table (56421, "SNP Extended Guest
// Request"), bytes in the order in which they are written.
var (
	guidARK  = [16]byte{0xc0, 0xb4, 0x06, 0xa4, 0xa8, 0x03, 0x49, 0x52, 0x97, 0x43, 0x3f, 0xb6, 0x01, 0x4c, 0xd0, 0xae}
	guidASK  = [16]byte{0x4a, 0xb7, 0xb3, 0x79, 0xbb, 0xac, 0x4f, 0xe4, 0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82}
	guidVCEK = [16]byte{0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd}
)

// CertTable is the table of certificates that the host hands out with an
// extended report: entries of 24 bytes (GUID, offset, length; little-endian),
// an entry of zeros, then ARK, ASK and VCEK as DER. It is not padded.
func (p *PSP) CertTable() []byte {
	entries := []struct {
		guid [16]byte
		der  []byte
	}{{guidARK, p.ARK()}, {guidASK, p.ASK()}, {guidVCEK, p.VCEK()}}
	const entrySize = 24
	head := make([]byte, 0, entrySize*(len(entries)+1))
	var body []byte
	for _, e := range entries {
		head = append(head, e.guid[:]...)
		head = binary.LittleEndian.AppendUint32(head, uint32(cap(head)+len(body)))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(e.der)))
		body = append(body, e.der...)
	}
	return append(append(head, make([]byte, entrySize)...), body...)
}

// paddedTable is CertTable in whole pages.
func (p *PSP) paddedTable() []byte {
	t := p.CertTable()
	if rest := len(t) % link.PageSize; rest != 0 {
		t = append(t, make([]byte, link.PageSize-rest)...)
	}
	return t
}
