package measuretest

import (
	"encoding/binary"
	"slices"
)

// PE is a PE file of the sections, each with its name as its contents unless it
// is given as empty.
func PE(names []string, empty ...string) []byte {
	le := binary.LittleEndian
	b := make([]byte, 64+24+16)
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00")
	le.PutUint16(b[64+6:], uint16(len(names)))
	le.PutUint16(b[64+20:], 16)
	data := len(b) + 40*len(names)
	var contents []byte
	for _, name := range names {
		var e [40]byte
		copy(e[:8], name)
		if !slices.Contains(empty, name) {
			le.PutUint32(e[8:], uint32(len(name)))
			le.PutUint32(e[16:], 512)
		}
		le.PutUint32(e[20:], uint32(data+len(contents)))
		contents = append(contents, name...)
		b = append(b, e[:]...)
	}
	return append(b, contents...)
}
