// Package rekey gives a LUKS2 disk another keyslot key in place: with the keys
// and over the channel of the verifier, in the running VM whose disk it is, or
// offline on its owner's machine. What is written, and in which order, is
// luks.Rotation's; this package sees to it that the records of every state are
// registered before the first write, and that a call after a crash goes on.
//
// The volume key stays: whoever kept an old header and learns the old key can
// read the data still. Only a new disk helps there.
package rekey

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/luks"
)

// Disk is a device or image that is written to. Its owner calls Close.
type Disk struct{ *os.File }

var _ luks.Device = (*Disk)(nil)

// Open opens a disk, in use or not: only its header area is touched. Nobody
// else may work on it meanwhile who takes the same lock, as udev does.
func Open(name string) (*Disk, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening disk: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("opening disk %q: somebody else works on it: %w", name, err)
	}
	return &Disk{f}, nil
}

// Sync writes to the medium and forgets what is cached, so that the next read
// asks the medium.
func (d *Disk) Sync() error {
	if err := d.File.Sync(); err != nil {
		return err
	}
	// A file system that keeps its cache all the same has been synced.
	_ = unix.Fadvise(int(d.Fd()), 0, luks.MaxHeaderArea, unix.FADV_DONTNEED)
	return nil
}

// SaveBackup writes a header area to a new file, mode 0600, and has it on the
// medium when it returns. An existing file is never overwritten: os.ErrExist.
func SaveBackup(name string, area []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing the header's backup: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(name)
			err = fmt.Errorf("writing the header's backup %q: %w", name, err)
		}
	}()
	_, err = f.Write(area)
	return errors.Join(err, f.Sync(), f.Close(), syncDir(name))
}

// SameDisk says whether a backup is of the same disk as an area: one that an
// earlier call wrote before it was cut short.
func SameDisk(backup, area []byte) error {
	b, err := luks.KnownRecords(backup)
	if err != nil {
		return fmt.Errorf("it is no backup of a header: %w", err)
	}
	a, err := luks.KnownRecords(area)
	if err != nil {
		return err
	}
	if a[0].Suite() != b[0].Suite() {
		return code.Wrap(code.LUKSUUID, fmt.Errorf("it is of disk %s, not of %s", b[0].UUID, a[0].UUID))
	}
	return nil
}

// syncDir has a new file's name on the medium.
func syncDir(name string) error {
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
