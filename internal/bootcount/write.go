package bootcount

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// makeDir makes the folder and puts its name on the disk.
func makeDir(top int, step func(string)) (int, error) {
	if err := unix.Mkdirat(top, Dir, 0o700); err != nil {
		return -1, fmt.Errorf("making /%s: %w", Dir, err)
	}
	step("folder")
	dir, err := open(top, Dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1, fmt.Errorf("opening /%s: %w", Dir, err)
	}
	if err := unix.Fsync(top); err != nil {
		unix.Close(dir)
		return -1, fmt.Errorf("syncing the volume's root: %w", err)
	}
	step("folder synced")
	return dir, nil
}

// write puts this boot's number into the spare file and then exchanges the two
// names, which a crash leaves undone or done. The file of the boot before last
// is written over: from the second boot on no space is needed, so that a full
// disk boots.
func (b Boot) write(top, dir int, step func(string)) error {
	fd, err := spare(dir, step)
	if err != nil {
		return fmt.Errorf("making /%s/%s: %w", Dir, SpareFile, err)
	}
	defer unix.Close(fd)
	line := Marshal(b.Number)
	// In two halves, for what is between them to be seen in tests.
	for at := 0; at < size; {
		n, err := unix.Pwrite(fd, line[at:min(size, at+size/2+1)], int64(at))
		if err != nil {
			return fmt.Errorf("writing /%s/%s: %w", Dir, SpareFile, err)
		}
		at += n
		step("part")
	}
	if err := unix.Fsync(fd); err != nil {
		return fmt.Errorf("syncing /%s/%s: %w", Dir, SpareFile, err)
	}
	step("synced")
	err = unix.Renameat2(dir, SpareFile, dir, BootFile, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) { // the first boot
		err = unix.Renameat2(dir, SpareFile, dir, BootFile, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return fmt.Errorf("renaming /%s/%s: %w", Dir, SpareFile, err)
	}
	step("renamed")
	if err := unix.Fsync(dir); err != nil {
		return fmt.Errorf("syncing /%s: %w", Dir, err)
	}
	if err := unix.Syncfs(top); err != nil {
		return fmt.Errorf("syncing the volume: %w", err)
	}
	step("done")
	// What the kernel holds now is what it will read after the next start.
	n, err := readCounter(dir)
	if err == nil && n != b.Number {
		err = fmt.Errorf("it reads as %d", n)
	}
	return err
}

// spare opens the file to be written over, or makes it. What a crash or
// somebody else left under its name is no reason not to boot.
func spare(dir int, step func(string)) (int, error) {
	fd, err := open(dir, SpareFile, unix.O_RDWR)
	if err == nil {
		var st unix.Stat_t
		if rootsAlone(fd, unix.S_IFREG) == nil && unix.Fstat(fd, &st) == nil && st.Size == int64(size) {
			return fd, nil
		}
		unix.Close(fd)
	}
	if !errors.Is(err, unix.ENOENT) {
		if err := unix.Unlinkat(dir, SpareFile, 0); err != nil {
			return -1, err
		}
		step("unlinked")
	}
	fd, err = unix.Openat(dir, SpareFile, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err == nil {
		step("made")
	}
	return fd, err
}

// writable runs f while the volume is mounted read-write. Only that one
// property of file system and mount is changed, and then changed back.
func writable(root string, top int, f func() error) (err error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(top, &fs); err != nil {
		return fmt.Errorf("asking how the volume is mounted: %w", err)
	}
	if fs.Flags&unix.ST_RDONLY == 0 {
		return f()
	}
	defer func() {
		if again := remount(root, "ro"); again != nil {
			err = errors.Join(err, fmt.Errorf("making the volume read-only again: %w", again))
		}
	}()
	if err := remount(root, "rw"); err != nil {
		return fmt.Errorf("making the volume writable: %w", err)
	}
	return f()
}

// remount sets the mount and its file system to "ro" or "rw".
func remount(root, to string) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if to == "rw" {
		attr = unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	}
	fs, err := unix.Fspick(unix.AT_FDCWD, root, unix.FSPICK_CLOEXEC|unix.FSPICK_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("fspick: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetFlag(fs, to); err != nil {
		return fmt.Errorf("setting %s: %w", to, err)
	}
	if err := unix.FsconfigReconfigure(fs); err != nil {
		return fmt.Errorf("reconfiguring: %w", err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, root, unix.AT_SYMLINK_NOFOLLOW, &attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}
