package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// KernelRelease reads the release out of a bzImage: the setup header (Linux
// Documentation/arch/x86/boot.rst) has "HdrS" at 0x202 and, at 0x20e, the
// offset less 0x200 of a text that begins with the release. False for another
// kind of file.
func KernelRelease(kernel []byte) (string, bool) {
	if len(kernel) < 0x210 || string(kernel[0x202:0x206]) != "HdrS" {
		return "", false
	}
	at := int(binary.LittleEndian.Uint16(kernel[0x20e:])) + 0x200
	if at == 0x200 || at >= len(kernel) {
		return "", false
	}
	text := kernel[at:min(at+256, len(kernel))]
	if i := bytes.IndexByte(text, 0); i >= 0 {
		text = text[:i]
	}
	release, _, _ := strings.Cut(string(text), " ")
	if release == "" || strings.ContainsFunc(release, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return "", false
	}
	return release, true
}

// readFile reads a regular file of at most max bytes.
func readFile(name string, max int64) ([]byte, error) {
	// Without O_NONBLOCK a FIFO would wait for its writer.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", name)
	}
	if st.Size() > max {
		return nil, fmt.Errorf("%q has %d bytes, more than %d", name, st.Size(), max)
	}
	buf := bytes.NewBuffer(make([]byte, 0, st.Size()+bytes.MinRead))
	if _, err := buf.ReadFrom(io.LimitReader(f, max+1)); err != nil {
		return nil, err
	}
	if int64(buf.Len()) > max {
		return nil, fmt.Errorf("%q is larger than %d bytes", name, max)
	}
	return buf.Bytes(), nil
}
