package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"attestbox/initramfs"
	"attestbox/internal/code"
	"attestbox/internal/unlock"
)

// FSType is the file system that volumes have, named to mkfs and to the kernel:
// nothing is guessed from what lies on the disk.
const FSType = "ext4"

// FileSystem is where a volume is mounted, and how its file system is made
// together with the volume.
type FileSystem struct {
	Dir      string    // mount point, made where it is absent
	Mkfs     string    // path of e2fsprogs' mke2fs, for creation alone
	UID, GID uint32    // of the file system's root folder, set at creation alone
	Log      io.Writer // what mkfs says
}

// Use says what UseOn does beyond opening.
type Use struct {
	CreateIfEmpty bool
	FileSystem    *FileSystem // nil: it is mapped and that is all
	Progress      func(step string, done, total int64)
}

// UseOn opens the volume of a tag as OpenOn does and mounts it. With
// CreateIfEmpty it makes the volume first, if the store promises no finished one
// and the device is blank, and says so. On error nothing is mounted and nothing
// mapped.
func UseOn(ctx context.Context, s Store, tag, path, name string, u Use) (res *unlock.Result, made bool, err error) {
	fs := u.FileSystem
	open := func() (err error) {
		res, err = OpenOn(ctx, s, tag, path, name)
		return err
	}
	create := func() (err error) {
		var prepare func(context.Context, string) error
		if fs != nil {
			prepare = fs.make
		}
		made = true
		res, err = CreateOn(ctx, s, tag, path, name, prepare, u.Progress)
		return err
	}
	if !u.CreateIfEmpty {
		create = nil
	}
	if err := createOrOpen(ctx, s, tag, create, open); err != nil {
		return nil, false, err
	}
	if fs != nil {
		if err := fs.mount(res.Node); err != nil {
			return nil, false, errors.Join(err, res.Mapping.Remove())
		}
	}
	return res, made, nil
}

// createOrOpen creates if the store promises no finished volume of the tag, and
// opens in all other cases; a nil create never. What is on the device has no
// part in the choice.
func createOrOpen(ctx context.Context, s Store, tag string, create, open func() error) error {
	if create == nil {
		return open()
	}
	e, key, _, err := load(ctx, s, tag)
	key.Zero()
	switch {
	case errors.Is(err, errUnknown), err == nil && !e.Finished:
		return create()
	case err != nil: // something else under that tag, or no store
		return err
	}
	return open()
}

// make makes the file system in a volume that is not finished, and leaves it
// unmounted and written.
func (f *FileSystem) make(ctx context.Context, node string) error {
	// Nothing is left for later: lazy parts would be written by whoever mounts.
	cmd := exec.CommandContext(ctx, f.Mkfs, "-q", "-F", "-t", FSType, "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", node)
	cmd.Env = []string{"PATH=/sbin:/usr/sbin:/bin:/usr/bin"}
	cmd.Stdout, cmd.Stderr = f.Log, f.Log
	if err := cmd.Run(); err != nil {
		return code.Wrap(code.VolumeMount, fmt.Errorf("making %s with %s: %w", FSType, f.Mkfs, err))
	}
	// Mounted once before it counts: no volume is finished that this kernel
	// cannot mount.
	if err := f.mount(node); err != nil {
		return err
	}
	err := os.Chown(f.Dir, int(f.UID), int(f.GID))
	if err := errors.Join(err, f.unmount()); err != nil {
		return code.Wrap(code.VolumeMount, fmt.Errorf("giving the volume to its owner: %w", err))
	}
	return nil
}

// mount mounts a mapped volume and checks that what lies under Dir then is that
// volume. On error it is not mounted.
func (f *FileSystem) mount(node string) error {
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		return code.Wrap(code.VolumeMount, fmt.Errorf("making the mount point: %w", err))
	}
	if err := unix.Mount(node, f.Dir, FSType, unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return code.Wrap(code.VolumeMount, fmt.Errorf("mounting %s from %s on %s: %w", FSType, node, f.Dir, err))
	}
	if err := initramfs.SameDevice(node, f.Dir); err != nil {
		// Not as boot-mount, which is init's.
		return code.Wrap(code.VolumeMount, errors.Join(errors.New(err.Error()), f.unmount()))
	}
	return nil
}

func (f *FileSystem) unmount() error {
	if err := unix.Unmount(f.Dir, 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", f.Dir, err)
	}
	return nil
}
