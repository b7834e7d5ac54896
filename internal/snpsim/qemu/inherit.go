package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// sealed is a memory file with these bytes that nobody, we included, can
// change any more.
func sealed(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making memory file for %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := io.Copy(f, bytes.NewReader(data)); err != nil {
		f.Close()
		return nil, fmt.Errorf("filling memory file for %s: %w", name, err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("sealing memory file for %s: %w", name, err)
	}
	return f, nil
}

// socketPair is a connected stream pair: ours, and the file that QEMU inherits.
func socketPair(name string) (*net.UnixConn, *os.File, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making socket pair for %s: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(p[0]), name), os.NewFile(uintptr(p[1]), name)
	defer ours.Close() // FileConn duplicates it
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making socket pair for %s: %w", name, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		theirs.Close()
		return nil, nil, errors.New("making socket pair: not a Unix socket")
	}
	return u, theirs, nil
}

// inherit collects what QEMU inherits and what we keep; close gives all back.
type inherit struct {
	files []*os.File // QEMU's, from descriptor 3 on
	conns []*net.UnixConn
}

func (in *inherit) memory(name string, data []byte) (int, error) {
	f, err := sealed(name, data)
	if err != nil {
		return 0, err
	}
	in.files = append(in.files, f)
	return 2 + len(in.files), nil
}

func (in *inherit) socket(name string) (*net.UnixConn, int, error) {
	c, f, err := socketPair(name)
	if err != nil {
		return nil, 0, err
	}
	in.files, in.conns = append(in.files, f), append(in.conns, c)
	return c, 2 + len(in.files), nil
}

// closeFiles drops our copies of QEMU's ends, so that its death is seen.
func (in *inherit) closeFiles() {
	for _, f := range in.files {
		f.Close()
	}
	in.files = nil
}

func (in *inherit) close() {
	in.closeFiles()
	for _, c := range in.conns {
		c.Close()
	}
}
