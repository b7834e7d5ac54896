package measure

import (
	"encoding/binary"
	"fmt"
	"io"
)

// maxPESections is the format's own limit.
const maxPESections = 96

// UKI says whether a kernel file is a unified kernel image: a PE file with the
// sections .linux, .initrd and .cmdline, none of them empty and all of them in the
// file (UAPI Group, "Unified Kernel Image"). Started with -kernel, it is measured
// as the kernel, and its initramfs and command line with it.
//
// A file that is no PE, or has no .linux, is none. One with half of it is an
// error that wraps ErrConfig: what it would boot with is not in it.
func UKI(file io.ReaderAt, size int64) (bool, error) {
	sections, ok := peSections(file, size)
	if !ok || sections[".linux"] == 0 {
		return false, nil
	}
	for _, name := range []string{".initrd", ".cmdline"} {
		if sections[name] == 0 {
			return false, fmt.Errorf("%w: the unified kernel image has no %s, or an empty one", ErrConfig, name)
		}
	}
	return true, nil
}

// peSections gives the bytes that the named sections have in the file. The first
// of a name counts, as for systemd's stub.
func peSections(file io.ReaderAt, size int64) (map[string]uint32, bool) {
	le := binary.LittleEndian
	at := func(off int64, n int) []byte {
		b := make([]byte, n)
		if off < 0 || off+int64(n) > size {
			return nil
		}
		if _, err := file.ReadAt(b, off); err != nil && err != io.EOF {
			return nil
		}
		return b
	}
	dos := at(0, 64)
	if dos == nil || string(dos[:2]) != "MZ" {
		return nil, false
	}
	start := int64(le.Uint32(dos[60:]))
	head := at(start, 24)
	if head == nil || string(head[:4]) != "PE\x00\x00" {
		return nil, false
	}
	n, optional := int(le.Uint16(head[6:])), int64(le.Uint16(head[20:]))
	table := at(start+24+optional, 40*n)
	if table == nil || n > maxPESections {
		return nil, false
	}
	sections := make(map[string]uint32, n)
	for ; len(table) > 0; table = table[40:] {
		name := string(table[:8])
		for len(name) > 0 && name[len(name)-1] == 0 {
			name = name[:len(name)-1]
		}
		used := min(le.Uint32(table[8:]), le.Uint32(table[16:])) // in memory, in the file
		if int64(le.Uint32(table[20:]))+int64(used) > size {
			return nil, false
		}
		if _, twice := sections[name]; !twice {
			sections[name] = used
		}
	}
	return sections, true
}
