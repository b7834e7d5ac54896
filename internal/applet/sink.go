package applet

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/secret"
)

// SecretSink is where one secret goes: a file on tmpfs, stdout, or a
// descriptor that the caller opened.
type SecretSink struct {
	path string
	w    io.Writer
}

// CheckSecretFD refuses descriptors that no secret is written to; -1 is none.
func (fs *FlagSet) CheckSecretFD(fd int, out string) error {
	switch {
	case fd != -1 && (fd < 1 || fd == 2):
		return fs.Usage("-fd %d is no descriptor to write a secret to", fd)
	case fd >= 0 && out != "-":
		return fs.Usage("-fd and -out exclude each other")
	}
	return nil
}

// SecretSink decides where a secret goes before one exists: into the file out,
// to stdout if out is "-", or to the descriptor fd if that is not below 0. A
// regular file must lie on tmpfs or ramfs, a disk is never written to, and a
// terminal is nobody's.
func (e *Env) SecretSink(out string, fd int) (*SecretSink, error) {
	if out != "-" {
		return &SecretSink{path: out}, CheckTmpfs(filepath.Dir(out))
	}
	var w io.Writer = e.Stdout
	if fd >= 0 {
		w = os.NewFile(uintptr(fd), fmt.Sprintf("descriptor %d", fd))
	}
	f, ok := w.(*os.File)
	if !ok {
		return &SecretSink{w: w}, nil
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("descriptor for the secret: %w", err)
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
		return nil, WithHint(Usage("stdout is a terminal: the secret would be on the screen"), "pipe it, or use -out FILE")
	}
	if m := st.Mode(); m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0 {
		return nil, Refused(code.NotTmpfs, errors.New("stdout is a block device"))
	}
	if st.Mode().IsRegular() {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC {
			return nil, Refused(code.NotTmpfs, errors.New("stdout is a file that is not on tmpfs or ramfs"))
		}
	}
	return &SecretSink{w: w}, nil
}

// Put writes the secret, all of it or an error.
func (s *SecretSink) Put(data *secret.Bytes) error {
	if s.path != "" {
		return CreateSecretFile(s.path, data)
	}
	_, err := s.w.Write(data.Bytes())
	return err
}
