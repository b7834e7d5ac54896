package bootcount

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
)

// Names in the root of a volume.
const (
	Dir          = ".attestbox"
	BootFile     = "boot"
	SpareFile    = "boot.new"
	InstanceFile = "instance"
)

// Boot is what the release says.
type Boot struct {
	ID        [32]byte // of this instance, from HOST_DATA
	Number    uint64   // B: of this boot
	Committed uint64   // C: of the last boot that the verifier acknowledged
}

// Advance compares the counter of the volume mounted on root with what the
// release says, and writes this boot's number. It returns the number that was
// found, once the new one is on the disk; the boot may then be reported as
// opened. A volume that is mounted read-only is made writable for as long as
// that takes. The caller has checked that root is the volume.
//
// Errors: boot-rollback for a number that cannot be; boot-instance for the
// volume of another instance; boot-counter for a counter that is malformed, is
// not root's alone, or could not be written; boot-release for a release without
// numbers.
func Advance(root string, b Boot) (uint64, error) {
	return b.advance(root, func(string) {})
}

// advance calls step after everything that changes the disk: tests stop there.
func (b Boot) advance(root string, step func(string)) (found uint64, err error) {
	if b.Number == 0 || b.Number <= b.Committed {
		return 0, code.Wrap(code.BootRelease, fmt.Errorf("the release is for boot %d, after boot %d was acknowledged", b.Number, b.Committed))
	}
	top, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fail("opening %q: %w", root, err)
	}
	defer unix.Close(top)
	dir, err := open(top, Dir, unix.O_RDONLY|unix.O_DIRECTORY)
	switch {
	case errors.Is(err, unix.ENOENT):
		dir = -1
	case err != nil:
		return 0, fail("opening /%s of the volume: %w", Dir, err)
	default:
		defer unix.Close(dir)
		if err := rootsAlone(dir, unix.S_IFDIR); err != nil {
			return 0, fail("/%s of the volume: %w", Dir, err)
		}
		if err := b.checkInstance(dir); err != nil {
			return 0, err
		}
		if found, err = readCounter(dir); err != nil {
			return 0, err
		}
	}
	if err := b.check(found); err != nil {
		return found, err
	}
	err = writable(root, top, func() error {
		if dir < 0 {
			if dir, err = makeDir(top, step); err != nil {
				return err
			}
			defer unix.Close(dir)
		}
		return b.write(top, dir, step)
	})
	if err != nil {
		return found, fail("writing the counter of boot %d: %w", b.Number, err)
	}
	return found, nil
}

func fail(format string, args ...any) error {
	return code.Wrap(code.BootCounter, fmt.Errorf(format, args...))
}

// check compares the number in the volume with the release. One above B cannot
// be: whatever wrote it was told so by a verifier, which had issued it, and a
// verifier never issues a number twice. So either the verifier's state was set
// back, or the volume belongs to another verifier.
func (b Boot) check(found uint64) error {
	switch {
	case found < b.Committed:
		return code.Wrap(code.BootRollback, fmt.Errorf("the volume is as old as boot %d, and boot %d was acknowledged: it is an older copy", found, b.Committed))
	case found > b.Number:
		return code.Wrap(code.BootRollback, fmt.Errorf("the volume is as new as boot %d, and this is boot %d: the verifier's state is an older copy, or not this volume's", found, b.Number))
	}
	return nil
}

func (b Boot) checkInstance(dir int) error {
	raw, err := readFile(dir, InstanceFile, idSize)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fail("reading the volume's instance: %w", err)
	}
	id, err := ParseID(raw)
	if err != nil {
		return fail("reading the volume's instance: %w", err)
	}
	if id != b.ID {
		return code.Wrap(code.BootInstance, fmt.Errorf("the volume belongs to instance %x, this is %x", id, b.ID))
	}
	return nil
}

func readCounter(dir int) (uint64, error) {
	raw, err := readFile(dir, BootFile, size)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fail("reading the boot counter: %w", err)
	}
	n, err := Parse(raw)
	if err != nil {
		return 0, fail("reading the boot counter: %w", err)
	}
	return n, nil
}

// open opens a name in a folder of the volume: no link, no other mount.
func open(dir int, name string, flags uint64) (int, error) {
	return unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// rootsAlone wants what only root could have written: a counter that others
// may write would be theirs.
func rootsAlone(fd int, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return fmt.Errorf("it is of type %#o, want %#o", st.Mode&unix.S_IFMT, kind)
	case int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0:
		return fmt.Errorf("it is user %d's with mode %04o, want one that only root can write", st.Uid, st.Mode&0o7777)
	case kind == unix.S_IFREG && st.Nlink != 1:
		return fmt.Errorf("it has %d names, want one", st.Nlink)
	}
	return nil
}

// readFile reads a file of exactly want bytes.
func readFile(dir int, name string, want int) ([]byte, error) {
	fd, err := open(dir, name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := rootsAlone(fd, unix.S_IFREG); err != nil {
		return nil, err
	}
	b := make([]byte, want+1)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n != want {
		return nil, fmt.Errorf("it is not %d bytes", want)
	}
	return b[:n], nil
}
