package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Where the kernel looks for processor microcode before it unpacks anything: an
// uncompressed archive in front of the initramfs (Linux
// Documentation/arch/x86/microcode.rst).
const (
	microcodeDir   = "kernel/x86/microcode"
	microcodeAMD   = microcodeDir + "/AuthenticAMD.bin"
	microcodeIntel = microcodeDir + "/GenuineIntel.bin"
	microcodePad   = microcodeDir + "/.align"
)

// microcodeFor says whose microcode a file is: AMD's containers begin with
// "DMA\0", Intel's updates with header version 1 and, at 20, loader revision 1.
func microcodeFor(data []byte) string {
	switch {
	case bytes.HasPrefix(data, []byte("DMA\x00")):
		return microcodeAMD
	case len(data) >= 48 && binary.LittleEndian.Uint32(data) == 1 && binary.LittleEndian.Uint32(data[20:]) == 1:
		return microcodeIntel
	}
	return ""
}

// addMicrocode makes the early archive: the files of one maker one after the
// other, in the order in which they are named.
func (b *builder) addMicrocode() error {
	if len(b.m.Microcode) == 0 {
		return nil
	}
	parts := map[string][]byte{}
	for _, name := range b.m.Microcode {
		data, err := readFile(name, maxFile)
		if err != nil {
			return fmt.Errorf("reading microcode: %w", err)
		}
		to := microcodeFor(data)
		if to == "" {
			return fmt.Errorf("reading microcode: %q is neither AMD's nor Intel's", name)
		}
		b.input("microcode", name, to, data)
		parts[to] = append(parts[to], data...)
	}
	a, err := earlyArchive(b.opt.SourceDateEpoch, parts)
	if err != nil {
		return fmt.Errorf("packing microcode: %w", err)
	}
	list, err := a.Entries()
	if err != nil {
		return err
	}
	b.rec.Microcode = fileRecords(list)
	var out bytes.Buffer
	err = a.Write(&out)
	b.early = out.Bytes()
	return err
}

// earlyArchive puts Intel's updates at a multiple of 16, as the processor wants
// them (Intel SDM 3A, 11.11.6), and the kernel may take them where they lie. A
// small file before them moves them there.
func earlyArchive(mtime uint32, parts map[string][]byte) (*Archive, error) {
	for pad := 0; ; pad += 4 {
		a := &Archive{MTime: mtime}
		if pad > 0 {
			if err := a.AddFile(microcodePad, 0o644, make([]byte, pad)); err != nil {
				return nil, err
			}
		}
		for _, p := range []string{microcodeAMD, microcodeIntel} {
			if parts[p] != nil {
				if err := a.AddFile(p, 0o644, parts[p]); err != nil {
					return nil, err
				}
			}
		}
		var out bytes.Buffer
		if err := a.Write(&out); err != nil {
			return nil, err
		}
		if parts[microcodeIntel] == nil || pad > 16 {
			return a, nil
		}
		// Nothing but the trailer, of 124 bytes, lies behind Intel's.
		at := out.Len() - 124 - (len(parts[microcodeIntel])+3)&^3
		if at%16 == 0 {
			return a, nil
		}
	}
}

// splitEarly takes the archive with microcode off an initramfs that has one.
func splitEarly(initrd []byte) (early *Archive, rest []byte, err error) {
	if !bytes.HasPrefix(initrd, []byte(newcMagic)) {
		return nil, initrd, nil
	}
	a, n, err := readArchive(initrd)
	if err != nil || n == len(initrd) {
		return nil, initrd, nil // one archive, or a bad one: for ReadArchive to say
	}
	for p := range a.entries {
		if p != microcodePad && p != microcodeAMD && p != microcodeIntel && p != microcodeDir && !strings.HasPrefix(microcodeDir, p+"/") {
			return nil, nil, fmt.Errorf("%w: %q in front of the initramfs is no microcode", ErrForeign, "/"+p)
		}
	}
	return a, initrd[n:], nil
}
