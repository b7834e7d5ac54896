package applet

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/secret"
)

// CheckTmpfs refuses a folder that is not on tmpfs or ramfs.
func CheckTmpfs(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("checking the file system of %q: %w", dir, err)
	}
	if st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
		return WithHint(Refused(code.NotTmpfs, fmt.Errorf("%q is not on tmpfs or ramfs: secrets are not written to persistent storage", dir)),
			"name a file below /run or /dev/shm")
	}
	return nil
}

// CreateSecretFile writes data to path, mode 0600, atomically, and only on
// tmpfs or ramfs. An existing file is replaced. There is no fsync: tmpfs has
// nothing to sync to.
func CreateSecretFile(path string, data *secret.Bytes) (err error) {
	dir := filepath.Dir(path)
	if err := CheckTmpfs(dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".attestbox-*") // mode 0600
	if err != nil {
		return fmt.Errorf("creating secret file: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	// The folder was checked by name; the file itself is what counts.
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || (st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC) {
		f.Close()
		return Refused(code.NotTmpfs, fmt.Errorf("%q is not on tmpfs or ramfs", path))
	}
	if _, err := f.Write(data.Bytes()); err != nil {
		f.Close()
		return fmt.Errorf("writing secret file %q: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing secret file %q: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing secret file: %w", err)
	}
	return nil
}
